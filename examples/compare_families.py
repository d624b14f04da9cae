"""SpecTok and OmniSpectra side by side: two models of equal size, trained with equal steps on the same spectra.

    python examples/compare_families.py --spectra ../shared/spectra
    python examples/compare_families.py --smoke

Both are trained by `pretrain.py`, each with the recipe of its family (`examples/configs/compare-*.yaml`), on the same
simulated spectra. Then heads of two kinds are fitted on the frozen tokens of each, and probes to their embeddings,
beside plain methods on raw flux: on labelled real spectra, where a catalogue folder is given, and on simulated ones.
Beside the table stand parameters, tokens per spectrum, and how much faster one is than the other, in training and in
encoding, both taken in turn in one process. <output>/comparison.md holds it all.

Specformer takes no part: it reads spectra on DESI's grid alone, and none of these tasks is on it. What it gives beside
a SpecTok on that grid is the table of `align_images_and_spectra.py`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from ablations import train
from benchmark_runs import Setting, time_in_turn
from evaluate_checkpoint import real_tasks, simulated_tasks
from real_spectra import add_spectra_option
from transformers import AutoModelForPreTraining, AutoProcessor
from transformers.utils import logging

from spectok_hf import DataCollatorForPackedSpectra, SpectrumProcessor, simulate_survey
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.evaluation.adaptation import Backbone, FitOptions, frozen_head
from spectok_hf.evaluation.masked import chunk_options
from spectok_hf.evaluation.probes import constant, flux_mlp, knn, linear_probe, mlp_probe, pca_ridge
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.tasks import Method, Task, evaluate_tasks, format_results, write_table

RECIPES = {
    family: Path(__file__).with_name("configs") / f"compare-{family}.yaml" for family in ("spectok", "omnispectra")
}
NAMES = {"spectok": "SpecTok", "omnispectra": "OmniSpectra"}
# In which recipes agree, or the comparison would not be one.
EQUAL = ("max_steps", "per_device_train_batch_size", "temperature", "eval_share", "max_eval", "seed")
TRAINING_SEED = 1003  # of the simulation
HEADS = ("attention", "linear")
# What heads read: a SpecTok has tokens of few numbers and the states under them, an OmniSpectra only the latter.
INPUTS = {"spectok": {"tokens": ", tokens", "last_hidden_state": ", states"}, "omnispectra": {"tokens": ""}}
# On embeddings, pooled from hidden states; the MLPs are those of OmniSpectra's paper, for galaxies and for redshifts.
PROBES: list[tuple[str, Callable[..., Method], str]] = [
    ("linear probe", linear_probe, "mean_std"),
    ("k-NN", knn, "mean"),
    ("MLP of 32", partial(mlp_probe, hidden=(32,)), "mean"),
    ("MLP of 64, 64", partial(mlp_probe, hidden=(64, 64), dropout=0.1), "mean"),
]
TIMED = 4  # spectra of each survey in a batch that is timed


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/compare-families"), help="folder of everything")
    parser.add_argument("--surveys", nargs="+", default=["sdss", "desi", "apogee"], help="surveys to simulate")
    parser.add_argument("--trained", type=int, default=1200, help="spectra of each to train on")
    parser.add_argument("--simulated", type=int, default=600, help="simulated spectra of each task")
    parser.add_argument("--max_steps", type=int, help="steps of each training; default: those of the recipes")
    parser.add_argument("--head_steps", type=int, default=1000, help="most steps of each head")
    parser.add_argument("--bootstrap", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--smoke", action="store_true", help="few spectra and steps, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.trained, args.simulated, args.max_steps, args.head_steps, args.bootstrap = 8, 40, 2, 4, 5
    return args


def read_recipes() -> dict[str, dict[str, Any]]:
    """Options of `pretrain.py` for each family.

    Raises:
        ValueError: If they do not agree in steps, batches and spectra.
    """
    recipes = {family: yaml.safe_load(path.read_text()) for family, path in RECIPES.items()}
    for name in EQUAL:
        found = {family: recipe.get(name) for family, recipe in recipes.items()}
        if len(set(found.values())) > 1:
            raise ValueError(f"{name} must be the same in all of examples/configs/compare-*.yaml, found {found}")
    return recipes


def train_family(family: str, recipe: Mapping[str, Any], args: argparse.Namespace) -> Path:
    """The folder of a family's model, trained unless it is there.

    Args:
        family: The family.
        recipe: Its options of `pretrain.py`, and the `patch_size` of its shards.
        args: Options.
    """
    shards = args.output / f"shards-{family}"
    sources = [f"simulate:{survey}:{args.trained}:{TRAINING_SEED}" for survey in args.surveys]
    prepare_shards(sources, shards, processor=SpectrumProcessor(patch_size=recipe["patch_size"]), num_workers=1)
    fixed = {"shards": [str(shards)], "max_steps": args.max_steps or recipe["max_steps"]}
    options = {name: value for name, value in recipe.items() if name != "patch_size"}
    train(args.output / family, options | fixed, [])
    return args.output / family / "model"


def make_methods(folders: Mapping[str, Path], tasks: Sequence[Task], args: argparse.Namespace) -> dict[str, Method]:
    """Methods by their names in the table: those of each family, then plain ones.

    Args:
        folders: The trained model of each family.
        tasks: The tasks, whose spectra are encoded here.
        args: Options.
    """
    methods: dict[str, Method] = {}
    for family, folder in folders.items():
        backbone, options = Backbone(str(folder)), FitOptions(most_steps=args.head_steps)
        for kind, (states, said) in product(HEADS, INPUTS[family].items()):
            methods[f"{NAMES[family]}, {kind} head{said}"] = frozen_head(
                backbone, options, head_type=kind, head_input=states
            )
        for name, probe, how in PROBES:
            methods[f"{NAMES[family]}, {name}"] = probe(backbone.embeddings(tasks, how))
    return methods | {"PCA + ridge, raw flux": pca_ridge(), "MLP, raw flux": flux_mlp(), "constant": constant()}


def facts(folders: Mapping[str, Path], args: argparse.Namespace) -> list[dict[str, object]]:
    """What each model is like: a row per family, with how its speed compares to the first one's.

    Args:
        folders: The trained model of each family.
        args: Options.
    """
    spectra = [s for survey in args.surveys for s in simulate_survey(survey, TIMED, seed=1005)]
    rows: dict[str, dict[str, object]] = {}
    actions: dict[str, Any] = {}
    for family, folder in folders.items():
        model, processor = AutoModelForPreTraining.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        hide = chunk_options(model.config) if family == "omnispectra" else {"hide": "runs"}
        batch = DataCollatorForPackedSpectra(processor, **hide)(spectra)
        counts = batch["num_patches"].reshape(-1, TIMED).mean(1)
        rows[family] = {
            "model": NAMES[family],
            "parameters": model.num_parameters(),
            "of the encoder": model.base_model.num_parameters(),
            **{f"tokens, {survey}": float(count) for survey, count in zip(args.surveys, counts, strict=True)},
            "numbers per token": model.config.latent_size,
            "GFLOP per spectrum": model.base_model.flops(batch["num_patches"]) / len(spectra) / 1e9,
        }
        actions[f"training {family}"] = partial(_train_step, model.train(), batch)
        plain = DataCollatorForPackedSpectra(processor)(spectra)
        actions[f"encoding {family}"] = partial(_encode, AutoModelForPreTraining.from_pretrained(folder).eval(), plain)
    times = time_in_turn(actions, Setting(rounds=1 if args.smoke else 7))
    first = next(iter(folders))
    for family, row in rows.items():
        for what in ("training", "encoding"):
            row[f"{what}, spectra/s of {NAMES[first]}'s"] = times[f"{what} {first}"] / times[f"{what} {family}"]
    return list(rows.values())


def _train_step(model: Any, batch: Mapping[str, Any]) -> None:
    model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)


def _encode(model: Any, batch: Mapping[str, Any]) -> None:
    with torch.inference_mode():
        model.base_model(**batch)


def run(args: argparse.Namespace) -> str:
    """Train, compare, write.

    Args:
        args: Options.

    Returns:
        The tables.
    """
    torch.set_num_threads(1)
    logging.set_verbosity_error()  # that each new head is new is known here
    logging.disable_progress_bar()
    folders = {family: train_family(family, recipe, args) for family, recipe in read_recipes().items()}
    about = format_table(facts(folders, args))
    print(about, flush=True)
    tasks = simulated_tasks(args.simulated)
    if args.spectra is not None and not args.smoke:
        tasks = [*real_tasks(Path(args.spectra)), *tasks]
    rows = evaluate_tasks(tasks, make_methods(folders, tasks, args), bootstrap=args.bootstrap)
    write_table(rows, args.output / "scores")
    text = f"{about}\n\n{format_results(rows)}"
    args.output.joinpath("comparison.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return text


if __name__ == "__main__":
    run(parse_arguments())
