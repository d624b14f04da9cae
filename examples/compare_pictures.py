"""Spectra as pictures beside spectra as sequences: vision transformers, a 1-D transformer, SpecTok and plain methods.

    python examples/compare_pictures.py --spectra ../shared/spectra --gflop 3000
    python examples/compare_pictures.py --smoke

The tasks are those of `evaluate_checkpoint.py`. Every network that is trained end to end (a vision transformer on each
kind of picture, the 1-D transformer of arXiv 2506.00294, SpecTok fine-tuned) has about a million parameters, and its
training on each split costs the same floating-point operations, --gflop: the steps follow from what one pass costs.
What chooses the best weights (up to 200 validation spectra, five times; for the 1-D transformer all of them) is not
counted. Nor is the pretraining that SpecTok brings, which saw objects of the real tasks without their labels; its head
is fitted on frozen tokens first, and what making these costs is taken from its budget. The learning rate of each
network is chosen for each kind of task, on the one with most validation spectra: of --rates, and beyond them while the
best is at an end, judged on half of the validation part with a share of the budget; the other half chooses the
weights. Of the vision transformer it is chosen on maps, for all pictures. The cells of a map are as large as the
longest spectrum of the task allows. The frozen head and the methods on binned flux cost what they cost.

<output>/results.jsonl keeps what is done, so that a run that was killed goes on, and runs with other --tasks or
--methods add to it, also at the same time. <output>/comparison.md is made from all of it: an overview, all scores, and
what each method costs. by_snr.md has the scores by signal-to-noise ratio.
"""

import argparse
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from evaluate_checkpoint import make_tasks
from real_spectra import add_spectra_option
from transformers.utils import logging

from spectok_hf import SpectrumImageProcessor, SpectrumVitConfig
from spectok_hf.evaluation.adaptation import Backbone, FitOptions, fitted_head, from_config, frozen_head, trained
from spectok_hf.evaluation.probes import constant, flux_mlp, pca_ridge, random_forest, support_vectors
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.snr_bins import scores_by_snr
from spectok_hf.evaluation.tasks import (
    Method,
    Prediction,
    Split,
    Task,
    evaluate_tasks,
    format_overview,
    format_results,
    write_table,
)
from spectok_hf.evaluation.training import TRAINING_FLOP, TrainOptions, forward_flop, steps_within
from spectok_hf.evaluation.transformer_1d import transformer_1d

GIGA = 1e9
# About 0.8 million parameters in the blocks, as many as SpecTok's tiny encoder has in its own.
SIZES = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
PICTURES: dict[str, dict[str, Any]] = {
    "ViT, simple": {"plot_type": "simple"},
    "ViT, overlap": {"plot_type": "overlap"},
    "ViT, map": {"plot_type": "map"},
    "ViT, map with derivatives": {"plot_type": "map", "map_colors": "derivatives"},
}
# Which networks are trained with which learning rate: the pictures differ, the network on them does not.
TUNED = {name: "ViT, map" for name in PICTURES} | {name: name for name in ("1-D transformer", "SpecTok, fine-tuned")}
# The figure that a learning rate is chosen by; the sign makes more better.
CHOSEN_BY = {"classification": ("macro_f1", 1), "regression": ("r_squared", 1), "redshift": ("nmad", -1)}
SEED = 1  # of training; the second split has 2, the third 3
LEAST_SHARE = 0.1  # of a budget that is left for training when something before it has spent more
SNR_EDGES = (5.0, 10.0, 20.0)
LEAST_BLOCK = 3  # pixels of a side of a cell of a map, as in the paper
MOST_RATES = 5  # learning rates that are tried
FIRST_STEPS = 500  # of the head on frozen tokens that a fine-tuning begins with


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/compare-pictures"), help="folder of everything")
    parser.add_argument("--checkpoint", default="spectok-tiny", help="SpecTok to put beside: name, folder or Hub id")
    parser.add_argument("--tasks", nargs="+", help="names of tasks to do, as they stand in the table; default: all")
    parser.add_argument("--methods", nargs="+", help="names of methods to do; default: all")
    parser.add_argument("--gflop", type=float, default=3000.0, help="of each training end to end, in 1e9 operations")
    parser.add_argument("--batch_size", type=int, default=16, help="spectra per step")
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3], help="learning rates to try")
    parser.add_argument("--tuning_share", type=float, default=0.5, help="share of the budget that a try has")
    parser.add_argument("--vit_patch_size", type=int, default=16, help="pixels of a side of a patch of the ViT")
    parser.add_argument("--splits", type=int, default=2, help="most splits of each task")
    parser.add_argument("--boss", type=int, default=3000, help="drawn spectra on the BOSS grid")
    parser.add_argument("--apogee", type=int, default=2000, help="drawn spectra on the APOGEE grid")
    parser.add_argument("--drawn_seeds", type=int, default=1, help="splits of the drawn spectra")
    parser.add_argument("--bootstrap", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--smoke", action="store_true", help="few simulated spectra and steps, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.gflop, args.rates, args.splits, args.bootstrap = min(args.gflop, 20.0), args.rates[:1], 1, 20
    return args


# What a training costs ----------------------------------------------------------------------------


class Costs:
    """Takes down what the networks of one method cost, a row per split."""

    def __init__(self):
        self.rows: list[dict[str, float]] = []

    def steps(self, flop: float, count: Callable[[Any], int] = len, spent: float = 0.0) -> Callable[..., int]:
        """Steps whose passes cost so much, of which some may be spent before; the costs are taken down.

        Args:
            flop: Floating-point operations of everything.
            count: Spectra of a batch.
            spent: Those that something before the training had.
        """

        def steps(model: torch.nn.Module, batch: Any) -> int:
            number = steps_within(max(flop - spent, LEAST_SHARE * flop))(model, batch)
            forward = forward_flop(model, batch)
            self.add(model, forward / count(batch), spent + TRAINING_FLOP * forward * number, number)
            return number

        return steps

    def add(self, model: torch.nn.Module, forward: float, training: float, steps: int) -> None:
        """Take down a row.

        Args:
            model: The network.
            forward: Operations of one pass of one spectrum.
            training: Those of the whole training.
            steps: Its steps.
        """
        self.rows.append(
            {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "GFLOP per spectrum": forward / GIGA,
                "steps": steps,
                "GFLOP of training": training / GIGA,
            }
        )

    def mean(self) -> dict[str, float]:
        """The mean over the splits of what was taken down; empty where nothing was."""
        return {name: float(np.mean([row[name] for row in self.rows])) for name in (self.rows or [{}])[0]}


def count_labels(batch: Mapping[str, torch.Tensor]) -> int:
    """Spectra of a batch.

    Args:
        batch: Arguments of a model with a task head.
    """
    return len(batch["labels"])


def encoding_flop(backbone: Backbone, task: Task, split: Split) -> tuple[float, float]:
    """Operations by which a frozen encoder makes the tokens of one spectrum, and of all that a head is fitted to.

    Args:
        backbone: The checkpoint.
        task: The task.
        split: The split.
    """
    rows = np.concatenate([split.train, split.validation])
    spectra = [task.spectra[row] for row in rows]
    lengths = [backbone.processor.count_patches(one.wavelength, medium=one.medium) for one in spectra]
    total = backbone.encoder.flops(lengths)
    return total / len(rows), float(total)


# Methods ------------------------------------------------------------------------------------------


def block_size(task: Task) -> int:
    """Pixels of a side of a cell, so that a map has room for the longest spectrum of a task, and little more.

    In cells of the paper's size, 100 pixels of APOGEE would leave 98 % of a map blank, and all maps nearly alike.

    Args:
        task: The task.
    """
    rows = math.ceil(math.sqrt(max(map(len, task.spectra))))
    return max(SpectrumImageProcessor().image_size // rows, LEAST_BLOCK)


def vision_transformer(options: Mapping[str, Any], args: argparse.Namespace, training: TrainOptions) -> Method:
    """A vision transformer with new weights on one kind of picture.

    Args:
        options: Of the processor.
        args: Options.
        training: How it is trained.
    """
    vision = {"model_type": "vit", **SIZES, "intermediate_size": 4 * SIZES["hidden_size"], "image_size": 224}
    config = SpectrumVitConfig(vision_config=vision | {"patch_size": args.vit_patch_size})

    def method(task: Task, split: Split, seed: int) -> Prediction:
        processor = SpectrumImageProcessor(block_size=block_size(task), **options)
        return trained(from_config(config, processor), training)(task, split, seed)

    return method


def frozen(backbone: Backbone, options: FitOptions, costs: Costs) -> Method:
    """A head on frozen tokens, which says what they cost.

    Args:
        backbone: The checkpoint.
        options: How the head is fitted.
        costs: Takes it down.
    """

    def record(task: Task, split: Split, model: Any, outputs: Any) -> None:
        costs.add(model, *encoding_flop(backbone, task, split), options.steps(len(split.train)))

    return frozen_head(backbone, options, record=record)


def fine_tuned(backbone: Backbone, options: FitOptions, training: TrainOptions, costs: Costs, flop: float) -> Method:
    """The whole checkpoint, from a head that was fitted on frozen tokens; making these counts.

    Args:
        backbone: The checkpoint.
        options: How the head is fitted.
        training: How everything is trained.
        costs: Takes down what it costs.
        flop: Operations of everything.
    """

    def start(task: Task, split: Split, seed: int) -> tuple[Any, Any]:
        return fitted_head(backbone, task, split, seed, options), backbone.processor

    def method(task: Task, split: Split, seed: int) -> Prediction:
        steps = costs.steps(flop, count_labels, encoding_flop(backbone, task, split)[1])
        return trained(start, replace(training, steps=steps))(task, split, seed)

    return method


def make_method(
    name: str, args: argparse.Namespace, backbone: Backbone, costs: Costs, rate: float, gflop: float
) -> Method:
    """A method by its name in the table.

    Args:
        name: One of `method_names`.
        args: Options.
        backbone: SpecTok.
        costs: Takes down what a network costs.
        rate: Learning rate of a network that is trained end to end.
        gflop: Budget of its training.
    """
    flop, head = gflop * GIGA, FitOptions(epochs=3, most_steps=10) if args.smoke else FitOptions()
    first = replace(head, most_steps=min(head.most_steps, FIRST_STEPS))
    training = TrainOptions(
        steps=costs.steps(flop, count_labels), batch_size=args.batch_size, learning_rate=rate, checks=5
    )
    if name in PICTURES:
        return vision_transformer(PICTURES[name], args, training)
    makers: dict[str, Callable[[], Method]] = {
        "1-D transformer": lambda: transformer_1d(
            steps=costs.steps(flop), batch_size=args.batch_size, learning_rate=rate, patch_size=32, checks=5, **SIZES
        ),
        "SpecTok, fine-tuned": lambda: fine_tuned(backbone, first, training, costs, flop),
        "SpecTok, frozen head": lambda: frozen(backbone, head, costs),
        "support vectors, raw flux": support_vectors,
        "random forest, raw flux": lambda: random_forest(trees=100),
        "PCA + ridge, raw flux": pca_ridge,
        "MLP, raw flux": lambda: flux_mlp(epochs=5 if args.smoke else 200),
        "constant": constant,
    }
    return makers[name]()


METHODS = (
    *PICTURES,
    "1-D transformer",
    "SpecTok, fine-tuned",
    "SpecTok, frozen head",
    *("support vectors, raw flux", "random forest, raw flux", "PCA + ridge, raw flux", "MLP, raw flux", "constant"),
)


# What is done -------------------------------------------------------------------------------------


class Results:
    """Lines of JSON of what was done with the same settings; what another run appends counts as well.

    Args:
        path: The file.
        settings: By which a line is known to be of the same comparison.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """What is done, by its key."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        found = [entry for line in lines if (entry := _parsed(line)) and entry["settings"] == self.settings]
        return {tuple(entry["key"]): entry for entry in found}

    def add(self, key: Sequence[str], **entry: Any) -> None:
        """Append a line, at once: several runs may write.

        Args:
            key: What it is of.
            **entry: What it holds.
        """
        line = json.dumps({"key": list(key), "settings": self.settings, **entry}) + "\n"
        with self.path.open("ab") as file:
            # A line that a killed run left half would swallow this one.
            file.write((b"\n" if _ends_open(self.path) else b"") + line.encode())
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # half a line of a run that was killed
        return None


def _ends_open(path: Path) -> bool:
    data = path.read_bytes()
    return bool(data) and not data.endswith(b"\n")


def tuning_task(task: Task) -> Task:
    """A task to choose a learning rate on: half of the validation part of its first split is judged, test is not seen.

    Args:
        task: The task.
    """
    split = task.splits[0]
    keys = np.asarray(task.groups)[split.validation]
    names, objects = np.unique(keys, return_inverse=True)
    judged = np.random.default_rng(SEED).permutation(len(names))[objects] < max(len(names) // 2, 1)
    halves = Split(split.train, split.validation[~judged], split.validation[judged])
    return replace(task, name=f"{task.name}, tuning", splits=[halves])


def choose_rate(
    name: str, kind: str, tasks: Sequence[Task], args: argparse.Namespace, backbone: Backbone, results: Results
) -> float:
    """The learning rate with which a network does best on a kind of task.

    Args:
        name: Name of the method.
        kind: Of the task.
        tasks: All tasks; of those of the kind the one with most validation spectra is tuned on.
        args: Options.
        backbone: SpecTok.
        results: Holds what was tried before.
    """
    if len(args.rates) == 1:
        return args.rates[0]
    of_kind = [task for task in tasks if task.kind == kind]
    task = tuning_task(max(of_kind, key=lambda task: len(task.splits[0].validation)))
    sign = CHOSEN_BY[kind][1]
    scores = {rate: try_rate(name, task, rate, args, backbone, results) for rate in sorted(args.rates)}
    while True:
        rates, best = sorted(scores), max(scores, key=lambda rate: sign * scores[rate])
        beyond = {rates[0]: rates[0] / 3, rates[-1]: rates[-1] * 3}.get(best)
        if beyond is None or len(rates) >= MOST_RATES:
            return best
        scores[beyond] = try_rate(name, task, beyond, args, backbone, results)


def try_rate(
    name: str, task: Task, rate: float, args: argparse.Namespace, backbone: Backbone, results: Results
) -> float:
    """How well a network does with a learning rate on a task to tune on; it is kept.

    Args:
        name: Name of the method.
        task: What `tuning_task` made.
        rate: The learning rate.
        args: Options.
        backbone: SpecTok.
        results: Holds what was tried before.
    """
    key, figure = ("tuning", TUNED[name], task.name, f"{rate:.6g}"), CHOSEN_BY[task.kind][0]
    if key not in results.read():
        method = make_method(TUNED[name], args, backbone, Costs(), rate, args.gflop * args.tuning_share)
        rows = evaluate_tasks([task], {name: method}, bootstrap=2, seed=SEED, progress=False)
        results.add(key, score=float(np.mean([row[figure] for row in rows])), figure=figure)
        score = results.read()[key]["score"]
        print(f"{TUNED[name]}, learning rate {rate:.6g}: {figure} {score:.4f} on {task.name}", flush=True)
    return results.read()[key]["score"]


def do(name: str, task: Task, rate: float, args: argparse.Namespace, backbone: Backbone, results: Results) -> None:
    """Fit and judge one method on one task, and keep what comes out.

    Args:
        name: The method.
        task: The task.
        rate: Its learning rate, if it has one.
        args: Options.
        backbone: SpecTok.
        results: Where it is kept.
    """
    costs, by_snr, start = Costs(), [], perf_counter()
    method = make_method(name, args, backbone, costs, rate, args.gflop)
    rows = evaluate_tasks(
        [task],
        {name: method},
        bootstrap=args.bootstrap,
        seed=SEED,
        progress=False,
        record=lambda *said: by_snr.extend(scores_by_snr(*said, edges=SNR_EDGES, bootstrap=args.bootstrap, seed=SEED)),
    )
    cost = costs.mean() | ({"learning rate": rate} if name in TUNED else {})
    results.add((task.name, name), rows=rows, by_snr=by_snr, cost=cost)
    print(f"{task.name}: {name}, {perf_counter() - start:.0f} s, {cost}", flush=True)


# The table ----------------------------------------------------------------------------------------


def cost_rows(done: Mapping[tuple[str, ...], Mapping[str, Any]]) -> list[dict[str, object]]:
    """What each method costs on each task, for a table.

    Args:
        done: What `Results.read` gives, without what was tried.
    """
    titles = ("parameters", "GFLOP per spectrum", "steps", "GFLOP of training", "learning rate")
    return [
        {"task": task, "method": name}
        | {title: entry["cost"].get(title, float("nan")) for title in titles}
        | {"seconds": entry["rows"][0]["seconds"]}
        for (task, name), entry in done.items()
    ]


def report(results: Results, args: argparse.Namespace, order: Sequence[str]) -> str:
    """All that is done with these settings, as comparison.md, and both tables of scores as .md and .csv.

    Args:
        results: What is done.
        args: Options.
        order: Names of all tasks; methods have an order of their own.
    """
    done = {key: entry for key, entry in results.read().items() if key[0] != "tuning"}
    places = {name: number for number, name in enumerate([*order, *METHODS])}
    done = dict(sorted(done.items(), key=lambda item: [places.get(part, len(places)) for part in item[0]]))
    rows, by_snr = ([row for entry in done.values() for row in entry[name]] for name in ("rows", "by_snr"))
    write_table(rows, args.output / "scores")
    write_table(by_snr, args.output / "by_snr")
    costs = (
        f"Seconds are those of one fit and its predictions; every network that is trained end to end had "
        f"{args.gflop:g} GFLOP for one training. Of the frozen head they are those that its tokens cost. SpecTok's "
        "pretraining is not counted; it saw objects of the real tasks, test objects among them, without labels.\n\n"
        f"{format_table(cost_rows(done))}"
    )
    text = f"### Overview\n\n{format_overview(rows)}\n\n{format_results(rows)}\n\n### Costs\n\n{costs}"
    (args.output / "comparison.md").write_text(text + "\n", encoding="utf-8")
    return text


def run(args: argparse.Namespace) -> str:
    """Fit and judge what is not done yet, and write the table of all that is.

    Args:
        args: Options.

    Returns:
        The table.

    Raises:
        ValueError: If a name is none of a task or method.
    """
    logging.set_verbosity_error()  # that each new head is new is known here
    logging.disable_progress_bar()
    names = args.methods or METHODS
    if unknown := sorted(set(names) - set(METHODS)):
        raise ValueError(f"there is no method {', '.join(unknown)}: {', '.join(METHODS)}")
    chosen, args.tasks = args.tasks, None
    tasks = make_tasks(args)
    order = [task.name for task in tasks]
    if unknown := sorted(set(chosen or []) - set(order)):
        raise ValueError(f"there is no task {', '.join(unknown)}: {', '.join(order)}")
    for task in tasks:
        task.splits = task.splits[: args.splits]
    backbone, results = Backbone(args.checkpoint), Results(args.output / "results.jsonl", settings(args))
    for task in tasks if chosen is None else [task for task in tasks if task.name in chosen]:
        for name in names:
            if (task.name, name) in results.read():
                continue
            rate = choose_rate(name, task.kind, tasks, args, backbone, results) if name in TUNED else float("nan")
            do(name, task, rate, args, backbone, results)
    text = report(results, args, order)
    print(text)
    return text


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on, whichever tasks and methods are asked for.

    Args:
        args: Options.
    """
    names = (
        *("checkpoint", "gflop", "batch_size", "rates", "tuning_share", "vit_patch_size", "splits"),
        *("boss", "apogee", "drawn_seeds", "bootstrap", "smoke"),
    )
    return {name: getattr(args, name) for name in names} | {"real": args.spectra is not None}


if __name__ == "__main__":
    run(parse_arguments())
