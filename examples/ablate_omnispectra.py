"""What each part of OmniSpectra is worth: the ablations of its paper (arXiv 2601.15351, Table 7), at small size.

    python examples/ablate_omnispectra.py --jobs 2
    python examples/ablate_omnispectra.py --smoke

The full model, and three that lack one part each, are trained by `pretrain.py` with equal steps on the same simulated
spectra, with several seeds, and judged on others by the error of what is hidden from them (`evaluation/masked.py`), in
batches that mix surveys as those of training do. Trainings that are done are not done again; <output>/table.md holds
the table.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import yaml
from ablations import run_settings, train
from transformers import AutoModelForPreTraining, AutoProcessor

from spectok_hf import OmniSpectraProcessor, Spectrum, simulate_survey
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.evaluation.masked import MaskedScore, masked_error
from spectok_hf.evaluation.reconstruction import format_table

CONFIG = Path(__file__).with_name("configs") / "omnispectra-ablation.yaml"
TRAINING_SEED, JUDGING_SEED = 1003, 1004  # of simulations
MASK_SEEDS = (0, 1)
FULL = "full model"
# Fields of the config, and the figure of the paper for each: mean squared error on its own data.
VARIANTS = {FULL: {}, "no local position": {"local_position": False}}
VARIANTS |= {"no validity mask": {"validity_mask": False}, "no wavelength encoding": {"wavelength_encoding": False}}
PAPER = {FULL: 0.505, "no validity mask": 0.525, "no local position": 0.531, "no wavelength encoding": 0.903}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=CONFIG, help="YAML file of `pretrain.py` for all")
    parser.add_argument("--output", type=Path, default=Path("outputs/ablate-omnispectra"), help="folder of trainings")
    parser.add_argument("--surveys", nargs="+", default=["sdss", "desi", "apogee"], help="surveys to simulate")
    parser.add_argument("--spectra", type=int, default=1200, help="spectra of each to train on")
    parser.add_argument("--judged", type=int, default=64, help="spectra of each to judge on")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--max_steps", type=int, help="steps of each training; default: those of the recipe")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--smoke", action="store_true", help="few spectra and steps, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.spectra, args.judged, args.seeds, args.max_steps = 8, 2, [0], 2
    return args


def judged_spectra(surveys: Sequence[str], count: int) -> list[Spectrum]:
    """New spectra of all surveys in turn.

    Args:
        surveys: The surveys.
        count: Spectra of each.
    """
    return list(chain(*zip(*(simulate_survey(survey, count, seed=JUDGING_SEED) for survey in surveys), strict=True)))


def judge(folder: Path, spectra: Sequence[Spectrum]) -> list[MaskedScore]:
    """Scores of a trained model.

    Args:
        folder: Where it is.
        spectra: The spectra, in the order in which batches take them.
    """
    model, processor = AutoModelForPreTraining.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    return [
        score for seed in MASK_SEEDS for score in masked_error(model, processor, spectra, seed=seed, by_length=False)
    ]


def figures(scores: Sequence[MaskedScore], guess: str = "model") -> dict[str, float]:
    """Mean squared error of hidden tokens by survey, and over all spectra.

    Args:
        scores: Scores of spectra of several surveys.
        guess: Whose: "model", or one of the guesses that need none.
    """
    surveys = dict.fromkeys(score.survey for score in scores)
    groups = {"all": scores} | {survey: [score for score in scores if score.survey == survey] for survey in surveys}
    return {name: float(np.nanmean([score.token[guess] for score in group])) for name, group in groups.items()}


def table(results: Mapping[str, Sequence[Mapping[str, float]]], guesses: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: means over seeds with their standard deviation, and how much worse than the full model each is.

    Args:
        results: Figures of the training with each seed, by variant.
        guesses: Figures of what needs no model.
    """
    rows: list[dict[str, object]] = []
    for name, runs in results.items():
        row: dict[str, object] = {"model": name, "seeds": len(runs)}
        row |= {group: _with_spread([run[group] for run in runs]) for group in runs[0]}
        pairs = list(zip(runs, results[FULL], strict=False))
        if name != FULL and pairs:
            row["worse than full, all"] = _with_spread([run["all"] - full["all"] for run, full in pairs])
        rows.append(row | {"paper": PAPER[name]})
    return format_table(rows + [{"model": f"({name})", **found} for name, found in guesses.items()])


def _with_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def run(args: argparse.Namespace) -> str:
    """Train what is not there, judge it, and write the table after each training.

    Args:
        args: Options.

    Returns:
        The table.
    """
    torch.set_num_threads(1)
    recipe = yaml.safe_load(args.recipe.read_text())
    sources = [f"simulate:{survey}:{args.spectra}:{TRAINING_SEED}" for survey in args.surveys]
    prepare_shards(sources, args.output / "shards", processor=OmniSpectraProcessor(), num_workers=1)
    spectra = judged_spectra(args.surveys, args.judged)
    runs = [(name, seed) for seed in args.seeds for name in VARIANTS]

    def prepare(run: tuple[str, int]) -> Path:
        name, seed = run
        folder = args.output / f"{name.replace(' ', '-')}-{seed}"
        fixed = {"seed": seed, "max_steps": args.max_steps or recipe["max_steps"], "save_strategy": "no"}
        shards = {"shards": [str(args.output / "shards")]}
        train(folder, run_settings(recipe, {"config_overrides": VARIANTS[name]}, **fixed, **shards), [], threads=1)
        return folder / "model"

    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    guesses: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        for (name, _), folder in zip(runs, pool.map(prepare, runs), strict=True):
            scores = judge(folder, spectra)
            results[name].append(figures(scores))
            guesses = {guess: figures(scores, guess) for guess in ("interpolation", "mean")}
            text = table({name: found for name, found in results.items() if found}, guesses)
            args.output.joinpath("table.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return text


if __name__ == "__main__":
    run(parse_arguments())
