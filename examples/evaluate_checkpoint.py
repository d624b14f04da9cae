"""The table of all tasks: a checkpoint's heads, frozen and fine-tuned, beside probes and raw-flux baselines.

    python examples/evaluate_checkpoint.py outputs/first-training --spectra ../shared/spectra
    python examples/evaluate_checkpoint.py outputs/demo/model --smoke

Real tasks (labelled spectra of the catalogue folder, split by object, five seeds): LAMOST Teff, parameters of APOGEE
giants, redshifts of quasars, galaxy/quasar within SDSS and BOSS. Drawn tasks (one recipe, `drawn_spectra.py`, seed
0): classes and redshifts on the BOSS grid, stellar parameters on that of APOGEE. Without the folder, simulated spectra
take their place. Writes `<output>.md` and `<output>.csv`, and beside the table how far uncertainties can be trusted:
coverage, and the probability integral transform of redshift posteriors. Every method is fitted to the same training
spectra and judged on the same test spectra.
"""

import argparse
import multiprocessing
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from drawn_spectra import draw_apogee, draw_boss
from real_spectra import add_spectra_option, load_real_spectra
from transformers.utils import logging

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.labels import TARGET_UNITS
from spectok_hf.evaluation.adaptation import Backbone, FitOptions, finetuned, frozen_head, redshift_pit, trained_head
from spectok_hf.evaluation.calibration import uniformity
from spectok_hf.evaluation.metrics import load_metric
from spectok_hf.evaluation.probes import constant, flux_mlp, knn, linear_probe, pca_ridge
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.tasks import Method, Split, Task, evaluate_tasks, format_results, split_objects, write_table

REAL_SEEDS = 5
POOLINGS = {"mean": "mean", "mean + std": "mean_std", "segments": "segments"}
STELLAR = ["teff", "logg", "feh"]
HEAD_FOLDERS = {"classification": "classification", "regression": "stellar-parameters", "redshift": "redshift"}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder or Hub id of a pretrained model")
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/evaluation/table"), help="stem of the files")
    parser.add_argument("--tasks", nargs="+", help="names of tasks to do, as they stand in the table; default: all")
    parser.add_argument("--methods", nargs="+", help="names of methods to compare; default: all")
    parser.add_argument(
        "--heads",
        type=Path,
        help=f"folder of trained heads to judge on the drawn tasks, in {', '.join(HEAD_FOLDERS.values())}",
    )
    parser.add_argument("--boss", type=int, default=3000, help="drawn spectra on the BOSS grid")
    parser.add_argument("--apogee", type=int, default=2000, help="drawn spectra on the APOGEE grid")
    parser.add_argument("--drawn_seeds", type=int, default=1, help="splits of the drawn spectra")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with some of the tasks")
    parser.add_argument("--bootstrap", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--smoke", action="store_true", help="few simulated spectra and steps, to see that it runs")
    return parser.parse_args(argv)


def labelled(spectra: Sequence[Spectrum], names: Sequence[str]) -> list[Spectrum]:
    """Spectra that have all the labels.

    Args:
        spectra: The spectra.
        names: The labels.
    """
    return [s for s in spectra if all(np.isfinite(float(s.labels.get(name, np.nan))) for name in names)]


def regression_task(name: str, spectra: list[Spectrum], targets: list[str], seeds: int) -> Task:
    """Named quantities of stars.

    Args:
        name: Name of the task.
        spectra: Spectra that have them.
        targets: Their labels.
        seeds: Number of splits.
    """
    return Task(
        name=name,
        kind="regression",
        spectra=spectra,
        labels=np.array([[float(s.labels[target]) for target in targets] for s in spectra]),
        target_names=targets,
        target_units=[TARGET_UNITS[target] for target in targets],
        splits=[split_objects(spectra, seed=seed) for seed in range(seeds)],
    )


def redshift_task(name: str, spectra: list[Spectrum], seeds: int) -> Task:
    """Redshifts.

    Args:
        name: Name of the task.
        spectra: Spectra that have one.
        seeds: Number of splits.
    """
    classes = np.array([str(s.labels["class"]) for s in spectra])
    return Task(
        name=name,
        kind="redshift",
        spectra=spectra,
        labels=np.array([float(s.labels["redshift"]) for s in spectra]),
        object_classes=classes,
        splits=[split_objects(spectra, seed=seed, classes=list(classes)) for seed in range(seeds)],
    )


def class_task(name: str, spectra: list[Spectrum], seeds: int, groups: list[str] | None = None) -> Task:
    """Galaxy, quasar, star.

    Args:
        name: Name of the task.
        spectra: Spectra that have a class.
        seeds: Number of splits.
        groups: What must not be in two parts; None = objects.
    """
    classes = [str(s.labels["class"]) for s in spectra]
    return Task(
        name=name,
        kind="classification",
        spectra=spectra,
        labels=np.array(classes),
        groups=groups,
        splits=[split_objects(spectra, seed=seed, classes=classes, groups=groups) for seed in range(seeds)],
    )


def real_tasks(folder: Path) -> list[Task]:
    """Tasks on the labelled real spectra of a catalogue folder.

    Args:
        folder: Holds MANIFEST.csv.
    """
    spectra = [s for s in load_real_spectra(folder) if s.good.any()]
    of = {survey: [s for s in spectra if s.survey == survey] for survey in {s.survey for s in spectra}}
    sdss = [s for s in [*of["sdss"], *of["boss"]] if s.labels.get("class") in ("GALAXY", "QSO")]
    quasars = [s for s in [*of["boss"], *of["desi"]] if s.labels.get("class") == "QSO"]
    return [
        regression_task("LAMOST Teff", labelled(of["lamost"], ["teff"]), ["teff"], REAL_SEEDS),
        regression_task("APOGEE giants", labelled(of["apogee-giants"], STELLAR), STELLAR, REAL_SEEDS),
        redshift_task("quasars BOSS, DESI", labelled(quasars, ["redshift"]), REAL_SEEDS),
        class_task("SDSS, BOSS", sdss, REAL_SEEDS),
    ]


def drawn_tasks(folder: Path, boss: int, apogee: int, seeds: int) -> list[Task]:
    """Tasks on spectra drawn from models that were fitted to real spectra.

    Args:
        folder: Holds them, in `sim`.
        boss: Spectra on the BOSS grid.
        apogee: Spectra on the APOGEE grid.
        seeds: Number of splits.
    """
    optical = draw_boss(folder, boss)
    galactic = [s for s in optical if s.labels["class"] != "STAR"]
    infrared = draw_apogee(folder, apogee)
    parents = [str(s.labels["parent"]) for s in optical]
    return [
        class_task("drawn classes", optical, seeds),
        class_task("drawn classes, unseen parents", optical, seeds, parents),
        redshift_task("drawn redshifts", galactic, seeds),
        redshift_task("drawn redshifts, S/N > 5", [s for s in galactic if s.labels["snr"] > 5], seeds),
        regression_task("drawn APOGEE", infrared, [*STELLAR, "alpha_fe"], seeds),
    ]


def simulated_tasks(count: int) -> list[Task]:
    """Tasks on the package's own simulation, for those who have no other spectra.

    Args:
        count: Spectra per task.
    """
    seed = 2512  # no training has it, see checkpoint_data.py
    boss, stars = simulate_survey("boss", count, seed=seed), simulate_survey("apogee", count, seed=seed, kind="STAR")
    return [
        class_task("simulated classes", boss, 1),
        redshift_task("simulated redshifts", [s for s in boss if s.labels["class"] != "STAR"], 1),
        regression_task("simulated APOGEE", labelled(stars, STELLAR), STELLAR, 1),
    ]


def make_methods(
    backbone: Backbone,
    tasks: list[Task],
    trust: "Trust",
    smoke: bool,
    heads: Path | None = None,
    wanted: Sequence[str] | None = None,
) -> dict[str, Method]:
    """Methods by their names in the table.

    Args:
        backbone: The checkpoint.
        tasks: The tasks, whose spectra are encoded here where a method asks for it.
        trust: Takes down what the heads say of their own errors.
        smoke: Few steps.
        heads: Folder of trained heads to judge, too.
        wanted: Names of those to make; None = all.
    """
    options = FitOptions(epochs=3, most_steps=10) if smoke else FitOptions()
    fine_tuning = {"most_steps": 4} if smoke else {}
    methods: dict[str, Callable[[], Method]] = {
        "frozen head, tokens": lambda: frozen_head(backbone, options, record=trust.of("tokens"), head_input="tokens"),
        "frozen head, hidden states": lambda: frozen_head(
            backbone, options, record=trust.of("hidden states"), head_input="last_hidden_state"
        ),
        "fine-tuned, tokens": lambda: finetuned(
            backbone, options=options, record=trust.of("fine-tuned"), **fine_tuning
        ),
    }
    for name, how in POOLINGS.items():
        methods[f"k-NN, {name}"] = lambda how=how: knn(backbone.embeddings(tasks, how))
        methods[f"linear probe, {name}"] = lambda how=how: linear_probe(backbone.embeddings(tasks, how))
    if heads is not None:
        folders = {kind: str(heads / name) for kind, name in HEAD_FOLDERS.items() if (heads / name).is_dir()}
        methods["shipped head"] = lambda: trained_head(folders)
    methods |= {
        "PCA + ridge, raw flux": pca_ridge,
        "MLP, raw flux": lambda: flux_mlp(epochs=5 if smoke else 200),
        "constant": constant,
    }
    return {name: make() for name, make in methods.items() if not wanted or name in wanted}


class Trust:
    """Takes down how true the uncertainties of heads are, for a table of its own."""

    def __init__(self):
        self.rows: list[dict[str, object]] = []

    def of(self, name: str):
        """What a method calls with each model and its outputs.

        Args:
            name: Name of the method in the table.
        """

        def record(task: Task, split: Split, model, outputs) -> None:
            if task.kind == "regression":
                self._count_targets(name, task, split, outputs)
            elif task.kind == "redshift":
                self._count_redshifts(name, task, split, model, outputs)

        return record

    def _count_targets(self, name: str, task: Task, split: Split, outputs) -> None:
        for column, target in enumerate(task.target_names):
            figures = load_metric("coverage").compute(
                predictions=outputs["predictions"][:, column].double().numpy(),
                uncertainties=outputs["uncertainties"][:, column].double().numpy(),
                references=task.labels[split.test][:, column],
            )
            self.rows.append(self._row(name, task, target, figures, len(split.test)))

    def _count_redshifts(self, name: str, task: Task, split: Split, model, outputs) -> None:
        truth = task.labels[split.test]
        figures = load_metric("coverage").compute(
            predictions=outputs["redshift"].double().numpy(),
            uncertainties=outputs["uncertainty"].double().numpy(),
            references=truth,
        )
        row = self._row(name, task, "redshift", figures, len(truth))
        pit = redshift_pit(model, outputs["posterior"], torch.from_numpy(truth))
        if len(pit) >= 50:
            counts, error, chance = uniformity(pit)
            deviation = np.abs(counts[:, 0] - len(pit) / len(counts)).max() / error[0]
            row |= {"PIT: largest deviation, binomial σ": float(deviation), "PIT: p-value": float(chance[0])}
        good = outputs["zwarn"].numpy() == 0
        row["zwarn = 0"] = float(good.mean())
        success = load_metric("velocity_success")
        for title, chosen in (("success, zwarn = 0", good), ("success, all", np.ones_like(good))):
            if chosen.any():
                row[title] = success.compute(
                    predictions=outputs["redshift"].double().numpy()[chosen],
                    references=truth[chosen],
                    classes=task.object_classes[split.test][chosen].tolist(),
                )["velocity_success"]
        self.rows.append(row)

    def _row(self, name: str, task: Task, target: str, figures: dict, count: int) -> dict[str, object]:
        return {
            "task": task.name,
            "target": target,
            "head": name,
            "n": count,
            "within 1 σ": figures["coverage_1_sigma"],
            "within 2 σ": figures["coverage_2_sigma"],
        }


def format_trust(rows: Sequence[dict]) -> str:
    """Markdown of what `Trust` took down; several splits of a task stand as their mean.

    Args:
        rows: Its rows.
    """
    merged: dict[tuple, list[dict]] = {}
    for row in rows:
        merged.setdefault((row["task"], row["target"], row["head"]), []).append(row)
    titles = list(dict.fromkeys(title for row in rows for title in row))
    means = []
    for group in merged.values():
        figures = {title: np.mean([row[title] for row in group if title in row] or [np.nan]) for title in titles[3:]}
        means.append(
            {title: group[0][title] for title in titles[:3]} | {name: float(value) for name, value in figures.items()}
        )
    return format_table(means)


def run(args: argparse.Namespace) -> None:
    """Make the tasks, fit and judge everything, write the tables.

    Args:
        args: Options.
    """
    names = [task.name for task in make_tasks(args)]
    if args.jobs > 1:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with ProcessPoolExecutor(min(args.jobs, len(names)), mp_context=context) as pool:
            parts = list(pool.map(judge, [args] * len(names), [[name] for name in names]))
    else:
        parts = [judge(args, names)]
    rows, trust = ([row for part in parts for row in part[number]] for number in (0, 1))
    write_table(rows, args.output)
    text = format_results(rows)
    if trust:
        text += f"\n\nHow far the heads' own errors can be trusted, on test spectra:\n\n{format_trust(trust)}"
        Path(f"{args.output}.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nwrote {args.output}.md and {args.output}.csv")


def judge(args: argparse.Namespace, names: Sequence[str]) -> tuple[list[dict], list[dict]]:
    """Rows of the table of scores, and of the table of trust.

    Args:
        args: Options.
        names: Tasks to do.
    """
    logging.set_verbosity_error()  # that each new head is new is known here
    logging.disable_progress_bar()
    if args.jobs > 1:
        torch.set_num_threads(max(torch.get_num_threads() // args.jobs, 1))
    tasks = [task for task in make_tasks(args) if task.name in names]
    trust = Trust()
    methods = make_methods(Backbone(args.checkpoint), tasks, trust, args.smoke, args.heads, args.methods)
    return evaluate_tasks(tasks, methods, bootstrap=20 if args.smoke else args.bootstrap), trust.rows


def make_tasks(args: argparse.Namespace) -> list[Task]:
    """The tasks that are asked for.

    Args:
        args: Options.

    Raises:
        ValueError: If a name is none of a task.
    """
    if args.smoke or args.spectra is None:
        if not args.smoke:
            warnings.warn("no real spectra (--spectra, SPECTOK_SPECTRA): simulated ones instead", stacklevel=2)
        tasks = simulated_tasks(40 if args.smoke else 1000)
    else:
        tasks = [*real_tasks(args.spectra), *drawn_tasks(args.spectra, args.boss, args.apogee, args.drawn_seeds)]
    if unknown := sorted(set(args.tasks or []) - {task.name for task in tasks}):
        raise ValueError(f"there is no task {', '.join(unknown)}: {', '.join(task.name for task in tasks)}")
    return [task for task in tasks if not args.tasks or task.name in args.tasks]


if __name__ == "__main__":
    run(parse_arguments())
