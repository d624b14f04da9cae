"""How a checkpoint holds on spectra of other instruments: lower resolution, shifted or coarser grids, shorter ranges.

    python examples/evaluate_transfer.py outputs/first-training --spectra ../shared/spectra
    python examples/evaluate_transfer.py CHECKPOINT --spectra ../shared/spectra --compare CHECKPOINT_WITHOUT_LAMOST
    python examples/evaluate_transfer.py outputs/demo/model --smoke

Samples: real LAMOST stars (Teff), drawn galaxies, quasars and stars on the BOSS grid (class; simulated ones without
the folder), simulated APOGEE stars (Teff). Each is degraded in the ways of `CHANGES` (`spectok_hf.data.degradations`
says what becomes of errors and truth), and judged by

* reconstruction: chi2 per pixel, against the truth where there is one, over that of a patch PCA of the survey that was
  fitted to the training objects degraded in the same way; and pixels that were hidden, over interpolation. Medians
  over held-out objects.
* a ridge or logistic regression on embeddings (`pooler_output`): fitted to untouched spectra and judged on degraded
  ones (`untouched fit`), and fitted to degraded ones (`own fit`); beside PCA + ridge on the raw flux in the same two
  ways, the first of them where pixels and range are kept. R² or accuracy, with bootstrap errors in the CSV.

`--compare` judges a second checkpoint on the same LAMOST spectra. Writes `<output>.md`, `.csv` and `.png`.
"""

import argparse
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from drawn_spectra import draw_boss
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

from spectok_hf import Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.analysis.plots import import_pyplot
from spectok_hf.data.dataset import object_groups, split_by_object
from spectok_hf.data.degradations import (
    Degradation,
    keep_range,
    keep_share,
    lower_resolution,
    rebin_pixels,
    shift_grid,
)
from spectok_hf.evaluation.adaptation import encode
from spectok_hf.evaluation.probes import linear_probe, pca_ridge
from spectok_hf.evaluation.reconstruction import fit_baselines, format_table, score_spectra, summarize
from spectok_hf.evaluation.tasks import Split, Task, evaluate_tasks, split_objects

DRAWN_SEED, SIMULATED_SEED = 2, 2511  # not what training has
BOOTSTRAP = 200
OWN_PCA = "patch PCA of the survey"

Row = dict[str, Any]


class Change(NamedTuple):
    """One way to degrade spectra.

    Args:
        kind: What changes.
        amount: How much, as text.
        apply: Changes a spectrum.
        keeps_grid: Whether pixels and range stay, so that what was fitted to untouched flux can be used.
    """

    kind: str
    amount: str
    apply: Degradation
    keeps_grid: bool = False


def _smooth(spectrum: Spectrum, factor: float) -> Spectrum:
    """At the errors that it has: the noise that smearing takes from a real spectrum is drawn anew, always the same."""
    return lower_resolution(spectrum, factor, rng=np.random.default_rng(zlib.crc32(str(spectrum.object_id).encode())))


def _coarse(spectrum: Spectrum, factor: int) -> Spectrum:
    return rebin_pixels(_smooth(spectrum, factor), factor)


def _later(spectrum: Spectrum, distance: float) -> Spectrum:
    return keep_range(spectrum, low=spectrum.wavelength[0] + distance)


RESOLUTION, COARSE = "resolving power", "resolving power, pixels rebinned"
BLUE, RED = "range, blue part", "range, red part"
UNTOUCHED = Change("untouched", "", lambda spectrum: spectrum, keeps_grid=True)
SHARES = {"3/4": 0.75, "1/2": 0.5, "1/4": 0.25}
CHANGES = (
    UNTOUCHED,
    *(Change(RESOLUTION, f"R/{n}", partial(_smooth, factor=n), keeps_grid=True) for n in (2, 4, 8)),
    *(Change(COARSE, f"R/{n}", partial(_coarse, factor=n)) for n in (2, 4, 8)),
    *(Change("pixels rebinned", f"{n} to 1", partial(rebin_pixels, count=n)) for n in (2, 4)),
    *(Change("grid shifted", f"{n:g} pixel", partial(shift_grid, pixels=n), keeps_grid=True) for n in (0.25, 0.5)),
    *(Change("window begins later", f"{n} Å", partial(_later, distance=n)) for n in (5, 50, 500)),
    *(Change(BLUE, text, partial(keep_share, share=share, end="blue")) for text, share in SHARES.items()),
    *(Change(RED, text, partial(keep_share, share=share, end="red")) for text, share in SHARES.items()),
)
SMOKE = (UNTOUCHED, CHANGES[1], CHANGES[4], CHANGES[-1])


@dataclass
class Sample:
    """Spectra to judge on.

    Args:
        name: Name in tables.
        target: The label that is told from embeddings.
        train: Spectra that patch PCAs are fitted to.
        judged: Those that reconstruction is judged on.
        splits: Number of splits for the probe.
    """

    name: str
    target: str
    train: list[Spectrum]
    judged: list[Spectrum]
    splits: int = 1
    labelled: list[Spectrum] = field(init=False)

    def __post_init__(self):
        self.labelled = [s for s in [*self.train, *self.judged] if s.labels.get(self.target) is not None]

    @property
    def numbers(self) -> bool:
        """Whether the label is a number."""
        return self.target != "class"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "outputs/evaluation/transfer")
    parser.add_argument("--compare", help="a second checkpoint, such as one trained without LAMOST: on LAMOST alone")
    parser.add_argument("--boss", type=int, default=300, help="spectra on the BOSS grid")
    parser.add_argument("--apogee", type=int, default=300, help="simulated APOGEE stars")
    args = parser.parse_args(argv)
    if args.smoke:
        args.boss = args.apogee = 30
    return args


def make_samples(args: argparse.Namespace, changes: Sequence[Change], processor: SpectrumProcessor) -> list[Sample]:
    """The samples, without spectra that a change leaves no valid patch: all are judged on the same objects.

    Args:
        args: Options.
        changes: The changes.
        processor: The processor of the checkpoint.
    """
    boss = "drawn BOSS" if args.spectra is not None and not args.smoke else "simulated BOSS"
    optical = (
        draw_boss(args.spectra, args.boss, seed=DRAWN_SEED) if boss.startswith("drawn") else _simulated_boss(args.boss)
    )
    stars = simulate_survey("apogee", args.apogee, seed=SIMULATED_SEED, kind="STAR")
    samples = [
        _sample(boss, "class", split_by_object(optical, 0.3), 3),
        _sample("simulated APOGEE", "teff", split_by_object(stars, 0.3), 3),
    ]
    if not args.smoke and (args.shards or args.spectra is not None):
        samples.insert(0, real_lamost(load_split(args, processor)))
    for sample in samples:
        keep_usable(sample, changes, processor)
    return samples


def real_lamost(spectra: RealSpectra) -> Sample:
    """The sample of real LAMOST stars.

    Args:
        spectra: Real spectra, split as the training did.
    """
    return _sample("real LAMOST", "teff", [[s for s in part if s.survey == "lamost"] for part in spectra], 5)


def _sample(name: str, target: str, parts: Sequence[list[Spectrum]], splits: int) -> Sample:
    train, judged = parts
    return Sample(name, target, train, judged, splits)


def _simulated_boss(count: int) -> list[Spectrum]:
    """A third of each class; numbers go on, as objects are known by them."""
    each, kinds = count // 3, ("GALAXY", "QSO", "STAR")
    return [
        spectrum
        for place, kind in enumerate(kinds)
        for spectrum in simulate_survey("boss", each, seed=SIMULATED_SEED, start=place * each, kind=kind)
    ]


def keep_usable(sample: Sample, changes: Sequence[Change], processor: SpectrumProcessor) -> None:
    """Drop spectra that a change leaves without a valid patch, and say how many.

    Args:
        sample: The sample, which is changed.
        changes: The changes.
        processor: The processor of the checkpoint.
    """

    def is_usable(spectrum: Spectrum) -> bool:
        return all(processor.patch(change.apply(spectrum))["attention_mask"].any() for change in changes)

    kept = {id(spectrum) for spectrum in [*sample.train, *sample.judged] if is_usable(spectrum)}
    if dropped := len(sample.train) + len(sample.judged) - len(kept):
        print(f"dropped {dropped} spectra of {sample.name}: a change leaves them without a valid patch")
    for name in ("train", "judged", "labelled"):
        setattr(sample, name, [spectrum for spectrum in getattr(sample, name) if id(spectrum) in kept])


def judge(checkpoint: Checkpoint, samples: Sequence[Sample], changes: Sequence[Change] = CHANGES) -> list[Row]:
    """One row per sample and change.

    Args:
        checkpoint: The checkpoint.
        samples: The samples.
        changes: The changes, untouched spectra first.
    """
    rows = []
    for sample in samples:
        untouched = _embed(checkpoint, sample.labelled)
        for change in changes:
            row = {
                "checkpoint": checkpoint.path,
                "sample": sample.name,
                "change": change.kind,
                "amount": change.amount,
            }
            rows.append(
                row | reconstruction(checkpoint, sample, change) | probe(checkpoint, sample, change, untouched)
            )
    return rows


def reconstruction(checkpoint: Checkpoint, sample: Sample, change: Change) -> Row:
    """Figures of reconstructed degraded spectra.

    Args:
        checkpoint: The checkpoint.
        sample: The sample.
        change: What is done to its spectra.
    """
    train, judged = ([change.apply(spectrum) for spectrum in part] for part in (sample.train, sample.judged))
    size = checkpoint.model.config.latent_size
    baselines = fit_baselines(train, checkpoint.processor, size)
    row = summarize(score_spectra(checkpoint.model, checkpoint.processor, judged, baselines), size)[0]
    against = "truth" if "truth model" in row else "chi2"
    return {
        "judged": len(judged),
        "against": "truth" if against == "truth" else "observed flux",
        "chi2": row[f"{against} model"],
        "chi2 / patch PCA": row[f"{against} model"] / row[f"{against} {OWN_PCA}"],
        "held out / interpolation": row["held out model"] / row["held out interpolation"],
    }


def probe(checkpoint: Checkpoint, sample: Sample, change: Change, untouched: np.ndarray) -> Row:
    """What a linear map of embeddings tells of degraded spectra, and one of the raw flux.

    Args:
        checkpoint: The checkpoint.
        sample: The sample.
        change: What is done to its spectra.
        untouched: Embeddings of its labelled spectra as they came, shape (n, d).
    """
    degraded = [change.apply(spectrum) for spectrum in sample.labelled]
    vectors = np.concatenate([untouched, _embed(checkpoint, degraded)])
    both = [*sample.labelled, *degraded]
    splits = [split_objects(sample.labelled, seed=seed, **_classes(sample)) for seed in range(sample.splits)]
    count = len(sample.labelled)
    crossed = [Split(split.train, split.validation, split.test + count) for split in splits]
    own = [Split(split.train + count, split.validation + count, split.test + count) for split in splits]
    ridge = linear_probe({"untouched fit": vectors, "own fit": vectors})
    tasks = {
        "untouched fit": _task(sample, "untouched fit", both, crossed),
        "own fit": _task(sample, "own fit", both, own),
    }
    figures: Row = {}
    for name, task in tasks.items():
        figures |= _scored(task, ridge, f"embedding, {name}")
    # On spectra of several grids raw flux would be resampled to what they have in common: those of one grid alone.
    figures |= _scored(_task(sample, "own fit", degraded, splits), pca_ridge(), "raw flux, own fit")
    if change.keeps_grid:
        figures |= _scored(tasks["untouched fit"], pca_ridge(), "raw flux, untouched fit")
    return {"labelled": count, "score": "R²" if sample.numbers else "accuracy"} | figures


def _embed(checkpoint: Checkpoint, spectra: Sequence[Spectrum]) -> np.ndarray:
    encoded = encode(checkpoint.model.base_model, checkpoint.processor, spectra)
    return np.stack([one.last_hidden_state.mean(0).numpy() for one in encoded])


def _classes(sample: Sample) -> dict[str, list[str]]:
    return {} if sample.numbers else {"classes": [str(s.labels["class"]) for s in sample.labelled]}


def _task(sample: Sample, name: str, spectra: list[Spectrum], splits: list[Split]) -> Task:
    labels = [s.labels[sample.target] for s in spectra]
    fields: dict[str, Any] = {"kind": "classification", "labels": np.array(labels)}
    if sample.numbers:
        numbers = np.array(labels, dtype=float)[:, None]
        fields = {"kind": "regression", "labels": numbers, "target_names": [sample.target], "target_units": [""]}
    return Task(name=name, spectra=spectra, splits=splits, groups=object_groups(spectra), **fields)


def _scored(task: Task, method: Callable, title: str) -> Row:
    row = evaluate_tasks([task], {title: method}, bootstrap=BOOTSTRAP, progress=False)[0]
    name = "accuracy" if task.kind == "classification" else "r_squared"
    figures = {title: row[name], f"{title}, error": row[f"{name}_error"]}
    # One star in twenty may make any R² negative; half of them say how well the others are known.
    return figures | ({f"{title}, scaled MAD": row["scaled_mad"]} if task.kind == "regression" else {})


COLUMNS = ("change", "amount", "chi2", "chi2 / patch PCA", "held out / interpolation", "embedding, untouched fit")
COLUMNS += ("embedding, own fit", "raw flux, untouched fit", "raw flux, own fit")
PANELS = {"resolving power / that of the survey": (RESOLUTION, COARSE), "share of the range": (BLUE, RED)}
LEAST_SHOWN = -0.2  # of R²
DRAWN = {
    "chi2 / patch PCA": r"$\chi^2$ / patch PCA of the survey",
    "embedding, own fit": f"R² or accuracy of the probe, own fit (from {LEAST_SHOWN})",
}
COMPARED = ("chi2 / patch PCA", "held out / interpolation", "embedding, untouched fit", "embedding, own fit")


def format_rows(rows: Sequence[Row]) -> str:
    """Markdown, one table per sample; what a second checkpoint has of it stands in further columns.

    Args:
        rows: What `judge` returned, of one checkpoint or two.
    """
    first, *others = dict.fromkeys(row["checkpoint"] for row in rows)
    parts = []
    for name in dict.fromkeys(row["sample"] for row in rows):
        of_sample = [row for row in rows if row["sample"] == name]
        group, columns = [row for row in of_sample if row["checkpoint"] == first], list(COLUMNS)
        for other in others:
            titles = {column: f"{column} ({Path(other).name})" for column in COMPARED}
            beside = [row for row in of_sample if row["checkpoint"] == other]  # in the same order, or none
            second = [{title: row[column] for column, title in titles.items()} for row in beside]
            group = [row | more for row, more in zip(group, second or [{}] * len(group), strict=True)]
            columns += titles.values()
        about = f"{name}: reconstruction of {group[0]['judged']} spectra (chi2 against the {group[0]['against']}), "
        about += f"{group[0]['score']} of probes on {group[0]['labelled']}"
        parts.append(f"{about}\n\n{format_table(drop_missing(group, columns))}")
    return "\n\n".join(parts)


def draw(rows: Sequence[Row]) -> Any:
    """A figure of reconstruction and probe against resolving power, left, and range, right.

    Args:
        rows: What `judge` returned; of two checkpoints, the first is drawn.
    """
    figure, axes = import_pyplot().subplots(2, 2, figsize=(10, 7), sharex="col", sharey="row", layout="constrained")
    for line, (column, text) in zip(axes, DRAWN.items(), strict=True):
        line[0].set_ylabel(text)
        for ax, kinds in zip(line, PANELS.values(), strict=True):
            _draw_panel(ax, [row for row in rows if row["checkpoint"] == rows[0]["checkpoint"]], kinds, column)
    axes[0, 0].set_yscale("log")
    axes[1, 0].set_ylim(LEAST_SHOWN, 1.02)
    for top, bottom, title in zip(*axes, PANELS, strict=True):
        top.set_xscale("log", base=2)  # of both panels in a column
        top.xaxis.set_major_formatter("{x:g}")
        top.invert_xaxis()
        top.legend(fontsize="x-small", frameon=False, handlelength=3)
        bottom.set_xlabel(title)
    return figure


def _draw_panel(ax: Any, rows: Sequence[Row], kinds: Sequence[str], column: str) -> None:
    """A colour for each sample, a line style for each kind of change; what has no row is left out."""
    for number, sample in enumerate(dict.fromkeys(row["sample"] for row in rows)):
        for kind, style in zip(kinds, ("-", "--"), strict=True):
            group = [row for row in rows if row["sample"] == sample and row["change"] in (UNTOUCHED.kind, kind)]
            points = sorted((_amount(row["amount"]), row[column]) for row in group)
            ax.plot(
                *zip(*points, strict=True), color=f"C{number}", ls=style, marker="o", ms=3, label=f"{sample}: {kind}"
            )
    ax.grid(alpha=0.3)


def _amount(text: str) -> float:
    """What R/4 and 3/4 are of the whole, and nothing is the whole."""
    if not text:
        return 1.0
    number, parts = text.split("/")
    return (1.0 if number == "R" else float(number)) / float(parts)


def run(args: argparse.Namespace) -> list[Row]:
    """Judge, and write tables and picture.

    Args:
        args: Options.

    Returns:
        Rows of the tables, of all checkpoints.
    """
    checkpoint = load_checkpoint(args.checkpoint)
    changes = SMOKE if args.smoke else CHANGES
    samples = make_samples(args, changes, checkpoint.processor)
    if args.compare:
        samples = [sample for sample in samples if sample.name == "real LAMOST"] or samples[:1]
    rows = judge(checkpoint, samples, changes)
    if args.compare:
        rows += judge(load_checkpoint(args.compare), samples, changes)
    save_picture(draw(rows), Path(f"{args.output}.png"))
    write_report(args.output, format_rows(rows), rows)
    return rows


if __name__ == "__main__":
    run(parse_arguments())
