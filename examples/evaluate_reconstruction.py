"""How a checkpoint reconstructs spectra of objects it never saw, beside linear maps, with the targets of its size.

    python examples/evaluate_reconstruction.py outputs/first-training --spectra ../shared/spectra
    python examples/evaluate_reconstruction.py CHECKPOINT --spectra ../shared/spectra --shards TRAINING_SHARDS
    python examples/evaluate_reconstruction.py outputs/demo/model --smoke

Four tables, medians over spectra of chi2 per pixel (design, section 4):

* real spectra against what was observed, as a ratio to a PCA of single patches with as many numbers per patch, fitted
  to the training objects (`patch PCA`: of all surveys together; `patch PCA of the survey`), with the noise floor;
* pixels of them that the model was not shown, beside interpolation across the hole;
* new simulated spectra with honest errors against their noise-free truth, at S/N 10, 30 and 100;
* new drawn spectra (`drawn_spectra.py`) against their truth, by their own S/N. Baselines are fitted to others of the
  same recipe, which on the BOSS grid have nothing of held-out objects.

Writes `<output>.md`, all rows to `<output>.csv`, and to `<output>.png` one held-out spectrum of each real survey.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint_data import DRAWN_SEED
from drawn_spectra import draw_apogee, draw_boss
from judged_checkpoint import (
    Checkpoint,
    RealSpectra,
    add_options,
    drop_missing,
    load_checkpoint,
    load_split,
    save_picture,
    write_report,
)
from run_settings import drop_invalid

from spectok_hf import Spectrum, plot_reconstruction, simulate_survey
from spectok_hf.analysis.plots import import_pyplot, signal_to_noise
from spectok_hf.data.dataset import by_survey, object_groups, split_by_object
from spectok_hf.data.simulation.recipes import RECIPES
from spectok_hf.evaluation.reconstruction import (
    SpectrumScore,
    fit_baselines,
    format_table,
    judge_by_truth,
    score_spectra,
    summarize,
)
from spectok_hf.hub import Result

JUDGING_SEED = 2  # of drawn spectra; DRAWN_SEED is the training's, 0 that of the task table
TINY = 3_000_000  # parameters: beyond, a model has the targets of small
SNR_BINS = ((0.0, 10.0), (10.0, 30.0), (30.0, 100.0), (100.0, np.inf))


@dataclass(frozen=True)
class Targets:
    """What a model of a size shall reach, medians.

    Args:
        ratio: Chi2 over that of the better patch PCA, of the survey or of all (few spectra fit none), on real spectra.
        held_out: Chi2 of held-out pixels over that of interpolation.
        truth: Chi2 against the truth by S/N per pixel. A bin of S/N has the target of its upper end.
    """

    ratio: float
    held_out: float
    truth: dict[float, float]


TARGETS = {
    "tiny": Targets(ratio=1.05, held_out=1.0, truth={10: 0.26, 30: 0.40, 100: 1.5}),
    "small": Targets(ratio=1.0, held_out=0.9, truth={10: 0.22, 30: 0.35, 100: 1.0}),
}
REAL, HIDDEN = "real spectra", "held-out pixels"
SIMULATED, DRAWN = "simulated, against the truth", "drawn, against the truth"
PCA, OWN_PCA = "patch PCA", "patch PCA of the survey"
COLUMNS = ("survey", "condition", "spectra", "model", PCA, OWN_PCA, "interpolation", "ratio", "target", "reached")
COLUMNS += ("model (mean)", "noise floor", "compression")

Row = dict[str, Any]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "outputs/evaluation/reconstruction")
    parser.add_argument("--size", choices=TARGETS, help="whose targets; default: by the number of parameters")
    parser.add_argument("--simulated", type=int, default=20, help="simulated spectra of each survey and S/N to judge")
    parser.add_argument("--drawn", type=int, default=300, help="drawn spectra of each grid to judge")
    parser.add_argument("--fitted", type=int, default=250, help="simulated spectra of each survey that baselines see")
    args = parser.parse_args(argv)
    if args.smoke:
        args.simulated, args.fitted = 2, 4
    return args


def judge_real(checkpoint: Checkpoint, spectra: RealSpectra, targets: Targets) -> list[Row]:
    """Rows of the first two tables, of each survey.

    Args:
        checkpoint: The checkpoint.
        spectra: The baselines are fitted to those for training, and the others are judged.
        targets: What shall be reached.
    """
    size = checkpoint.model.config.latent_size
    baselines = fit_baselines(spectra.train, checkpoint.processor, size)
    scores = score_spectra(checkpoint.model, checkpoint.processor, spectra.held_out, baselines)
    counts = {survey: len(set(object_groups(group))) for survey, group in by_survey(spectra.held_out).items()}
    rows = [row | {"objects": counts[str(row["survey"])]} for row in summarize(scores, size)]
    return [_observed_row(row, targets.ratio) for row in rows] + [_hidden_row(row, targets.held_out) for row in rows]


def judge_simulated(checkpoint: Checkpoint, args: argparse.Namespace) -> list[Row]:
    """What `judge_by_truth` says of all surveys that are simulated; `truth_results` takes it into a card.

    Args:
        checkpoint: The checkpoint.
        args: Numbers of spectra.
    """
    surveys = ["sdss", "apogee"] if args.smoke else list(RECIPES)
    fitted = [s for survey in surveys for s in simulate_survey(survey, args.fitted, seed=args.seed)]
    fitted = drop_invalid(fitted, checkpoint.processor)
    baselines = fit_baselines(fitted, checkpoint.processor, checkpoint.model.config.latent_size)
    return judge_by_truth(checkpoint.model, checkpoint.processor, surveys, baselines, spectra=args.simulated)


def judge_drawn(
    checkpoint: Checkpoint, folder: Path, count: int, targets: Targets, held_out: Sequence[Spectrum] = ()
) -> list[Row]:
    """Rows of the last table: each grid, by S/N.

    Args:
        checkpoint: The checkpoint.
        folder: Catalogue folder, with `sim`.
        count: Spectra of each grid to judge, and as many for the baselines.
        targets: What shall be reached.
        held_out: Real spectra whose objects take part in what is judged alone, as in the training.
    """
    rows = []
    out = frozenset(str(spectrum.object_id) for spectrum in held_out)
    draws: dict[Callable[..., list[Spectrum]], dict[str, Any]] = {draw_boss: {"without": out}, draw_apogee: {}}
    for draw, options in draws.items():
        fitted, judged = draw(folder, count, seed=DRAWN_SEED, **options), draw(folder, count, seed=JUDGING_SEED)
        baselines = fit_baselines(fitted, checkpoint.processor, checkpoint.model.config.latent_size)
        rows += truth_by_snr(score_spectra(checkpoint.model, checkpoint.processor, judged, baselines), targets)
    return rows


def truth_by_snr(scores: Sequence[SpectrumScore], targets: Targets) -> list[Row]:
    """Rows of chi2 against the truth in bins of S/N per pixel; bins without a spectrum are left out.

    Args:
        scores: Scores of spectra of one survey that know their truth.
        targets: What shall be reached.
    """
    rows = []
    survey = scores[0].survey.removesuffix("-simulated")  # as all that know their truth are called
    for low, high in SNR_BINS:
        group = [score.truth for score in scores if low <= score.snr < high]
        if group:
            medians = {name: float(np.median([truth[name] for truth in group])) for name in group[0]}
            condition = f"S/N > {low:g}" if high == np.inf else f"S/N {low:g}-{high:g}"
            row = {"judge": DRAWN, "survey": survey, "condition": condition, "spectra": len(group)}
            rows.append(_judged(row | medians, medians["model"], targets.truth.get(high)))
    return rows


def truth_by_condition(rows: Sequence[Row], targets: Targets) -> list[Row]:
    """What `judge_by_truth` returned, with a row for each S/N.

    Args:
        rows: A row per survey.
        targets: What shall be reached.
    """
    found = []
    for row in rows:
        for snr, target in targets.truth.items():
            start = f"S/N {snr}, "
            figures = {name.removeprefix(start): row[name] for name in row if name.startswith(start)}
            own = {"judge": SIMULATED, "survey": row["survey"], "condition": f"S/N {snr}", "spectra": row["spectra"]}
            found.append(_judged(own | figures, figures["model"], target))
    return found


def _observed_row(row: Row, target: float) -> Row:
    figures = {"model": row["chi2 model"], PCA: row.get(f"chi2 {PCA}"), OWN_PCA: row.get(f"chi2 {OWN_PCA}")}
    plain = [figure for figure in (figures[PCA], figures[OWN_PCA]) if figure and np.isfinite(figure)]
    ratio = figures["model"] / min(plain) if plain else float("nan")
    figures |= {"ratio": ratio, "model (mean)": row["chi2 model (mean)"]}
    figures |= {name: row[name] for name in ("noise floor", "compression")}
    own = {"judge": REAL} | {name: row[name] for name in ("survey", "spectra", "objects")}
    return _judged(own | figures, ratio, target)


def _hidden_row(row: Row, target: float) -> Row:
    figures = {"model": row["held out model"], "interpolation": row["held out interpolation"]}
    figures["ratio"] = figures["model"] / figures["interpolation"]
    own = {"judge": HIDDEN} | {name: row[name] for name in ("survey", "spectra", "objects")}
    return _judged(own | figures, figures["ratio"], target)


def _judged(row: Row, figure: float, target: float | None) -> Row:
    if target is None or np.isnan(figure):
        return row | {"target": target, "reached": None}
    return row | {"target": target, "reached": "yes" if figure <= target else "no"}


TITLES = {
    REAL: "Real spectra of held-out objects: chi2 per pixel against the observed flux. Judged is `ratio`, the model "
    "over the better of the two patch PCAs",
    HIDDEN: "Pixels of them that were hidden, runs of 8, a tenth of each spectrum. Judged is `ratio`, the model over "
    "interpolation",
    SIMULATED: "New simulated spectra with honest errors, against their noise-free truth. Judged is the model",
    DRAWN: "New drawn spectra, against their noise-free truth, by their own S/N. Judged is the model, by the target "
    "of the upper end",
}


def format_rows(rows: Sequence[Row], size: str) -> str:
    """Markdown of all tables.

    Args:
        rows: What `judge` returned.
        size: Whose targets they were.
    """
    parts = []
    for name, title in TITLES.items():
        group = [row for row in rows if row["judge"] == name]
        if group:
            met = [row["reached"] == "yes" for row in group if row["reached"]]
            text = f"{title} (target for {size}: {sum(met)} of {len(met)} reached)."
            parts.append(f"{text}\n\n{format_table(drop_missing(group, COLUMNS))}")
    return "\n\n".join([*parts, "All figures are medians over spectra, but for the column that says so."])


def card_results(rows: Sequence[Row]) -> list[Result]:
    """The figures of real spectra as a model card has them; those of simulated ones come from `truth_results`.

    Args:
        rows: What `judge` returned.
    """
    metrics = {
        REAL: ("chi2 per pixel, median", (PCA, OWN_PCA), "{}, as many numbers, fitted to the training objects"),
        HIDDEN: ("chi2 per hidden pixel, median", ("interpolation",), "{} across the hole"),
    }
    results = []
    for row in rows:
        if row["judge"] in metrics:
            metric, columns, baseline = metrics[row["judge"]]
            column = best_column(row, columns)
            results.append(
                Result(
                    task="reconstruction",
                    target="flux",
                    metric=metric,
                    value=float(f"{row['model']:.3g}"),
                    better_is="lower",
                    dataset=f"real {row['survey']} spectra",
                    split="by object, the one of the pretraining",
                    test_objects=row["objects"],
                    baseline=baseline.format(column) if column else "",
                    baseline_value=float(f"{row[column]:.3g}") if column else None,
                )
            )
    return results


def best_column(row: Row, columns: Sequence[str]) -> str:
    """The column of the smallest figure, "" where there is none.

    Args:
        row: A row.
        columns: Names of columns.
    """
    found = [name for name in columns if row.get(name) is not None and np.isfinite(row[name])]
    return min(found, key=lambda name: row[name], default="")


def draw_reconstructions(checkpoint: Checkpoint, spectra: Sequence[Spectrum]) -> Any:
    """A figure with one spectrum of each survey, that of median S/N, and its reconstruction.

    Args:
        checkpoint: The checkpoint.
        spectra: Held-out spectra.
    """
    chosen = [sorted(group, key=signal_to_noise)[len(group) // 2] for group in by_survey(spectra).values()]
    rows = -(-len(chosen) // 2)
    figure = import_pyplot().figure(figsize=(15, 3.4 * rows), layout="constrained")
    for part, spectrum in zip(figure.subfigures(rows, 2, squeeze=False).flat, chosen, strict=False):
        axes = part.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        inputs = checkpoint.processor(spectrum, return_tensors="pt")
        with torch.inference_mode():
            outputs = checkpoint.model(**inputs, return_loss=False)
        reconstruction = checkpoint.processor.post_process_reconstruction(outputs, spectrum)[0]
        plot_reconstruction(spectrum, reconstruction, axes=(axes[0], axes[1]))
    return figure


def target_size(checkpoint: Checkpoint) -> str:
    """Whose targets a model shall reach, by its number of parameters.

    Args:
        checkpoint: The checkpoint.
    """
    return "tiny" if checkpoint.model.num_parameters() < TINY else "small"


def judge(
    checkpoint: Checkpoint, args: argparse.Namespace, spectra: RealSpectra | None, truth: Sequence[Row] | None = None
) -> list[Row]:
    """Rows of all tables; the column `judge` says which table one belongs to.

    Args:
        checkpoint: The checkpoint.
        args: Options.
        spectra: Real spectra, split as the training did; None = there are none.
        truth: What `judge_simulated` returned; None = it is called here.
    """
    targets = TARGETS[args.size or target_size(checkpoint)]
    rows = judge_real(checkpoint, spectra, targets) if spectra else []
    rows += truth_by_condition(judge_simulated(checkpoint, args) if truth is None else truth, targets)
    if args.spectra is not None and not args.smoke:
        rows += judge_drawn(checkpoint, args.spectra, args.drawn, targets, spectra.held_out if spectra else ())
    return rows


def run(args: argparse.Namespace) -> list[Row]:
    """Judge, and write tables and picture.

    Args:
        args: Options.

    Returns:
        What `judge` returned.
    """
    checkpoint = load_checkpoint(args.checkpoint)
    if args.smoke:  # simulated spectra in the place of real ones
        few = [s for survey in ("sdss", "apogee") for s in simulate_survey(survey, 4, seed=3)]
        spectra = RealSpectra(*split_by_object(few, args.eval_share, seed=args.seed))
    else:
        spectra = load_split(args, checkpoint.processor)
    rows = judge(checkpoint, args, spectra)
    save_picture(draw_reconstructions(checkpoint, spectra.held_out), Path(f"{args.output}.png"))
    write_report(args.output, format_rows(rows, args.size or target_size(checkpoint)), rows)
    return rows


if __name__ == "__main__":
    run(parse_arguments())
