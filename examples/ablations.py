"""Which choices matter: short trainings that differ from a recipe in one thing each, with several seeds.

    python examples/ablations.py examples/configs/spectok-tiny.yaml --spectra ../shared/spectra
    python examples/ablations.py examples/configs/spectok-tiny.yaml --only latent_16 patch_64 --seeds 0 1 2

Each variant is a run of `pretrain.py` with the same number of spectra. Reconstruction and probes stand side by side: a
token that only copies its patch is no success. Figures are geometric means over surveys of medians over held-out
spectra (χ² over that of a patch PCA of the survey with as many numbers; hidden pixels over interpolation; χ²
against the noise-free truth of simulated spectra), and R² of ridge regressions on frozen embeddings. Their error is
the standard deviation over seeds. Runs that are done are not done again; <output>/table.md holds those there are.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from checkpoint_data import split_real
from drawn_spectra import draw_boss
from evaluate_checkpoint import class_task, labelled, regression_task
from real_spectra import add_spectra_option
from transformers import AutoModelForPreTraining, AutoProcessor

from spectok_hf import Spectrum, SpectrumProcessor
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.data.whole_files import write_json
from spectok_hf.evaluation.adaptation import Backbone
from spectok_hf.evaluation.probes import linear_probe
from spectok_hf.evaluation.reconstruction import (
    TRUTH_SNR,
    fit_baselines,
    format_table,
    judge_by_truth,
    score_spectra,
    summarize,
)
from spectok_hf.evaluation.tasks import Task, evaluate_tasks

SIMULATED = ("sdss", "boss", "desi", "galah", "apogee", "lamost")
LEAST_HELD_OUT = 3  # spectra of a survey, to count
STELLAR = ["teff"]

# Options of pretrain.py that differ from the recipe; `config_overrides` are added to its own.
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "pooling_mean": {"config_overrides": {"wavelength_pooling": "mean"}},
    "pooling_center": {"config_overrides": {"wavelength_pooling": "center"}},
    "periods_0.1_1e6": {"config_overrides": {"wavelength_min_period": 0.1, "wavelength_max_period": 1e6}},
    "periods_10_4e4": {"config_overrides": {"wavelength_min_period": 10.0}},
    "latent_4": {"config_overrides": {"latent_size": 4}},
    "latent_16": {"config_overrides": {"latent_size": 16}},
    "patch_16_latent_4": {"config_overrides": {"patch_size": 16, "latent_size": 4}},
    "patch_64_latent_16": {"config_overrides": {"patch_size": 64, "latent_size": 16}},
    "masked": {"config_overrides": {"objective": "masked"}, "hide_ratio": 0.5},
    "hide_5": {"hide_ratio": 0.05},
    "hide_25": {"hide_ratio": 0.25},
    "error_raw": {"config_overrides": {"error_encoding": "raw"}},
    "error_inverse": {"config_overrides": {"error_encoding": "inverse"}},
    "gaussian": {"config_overrides": {"huber_delta": None}},
    "loss_mean": {"config_overrides": {"spectrum_loss": "mean"}},
    "weights_by_size": {"survey_weights": {}},
    "weights_equal": {"survey_weights": {}, "temperature": float("inf")},
    "adamw": {"muon_learning_rate": None},
    "heads_4": {"config_overrides": {"num_attention_heads": 4}},
    "cold_pre_norm": {"patch_pca_start": False, "linear_lr_factor": 1.0},
    "cold_post_norm": {
        "patch_pca_start": False,
        "linear_lr_factor": 1.0,
        "config_overrides": {"norm_placement": "post"},
    },
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file of `pretrain.py` that the variants differ from")
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/ablations"), help="folder of runs and tables")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds of the trainings")
    parser.add_argument("--max_steps", type=int, default=300, help="steps of each training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one thread each")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="further options of pretrain.py")
    return parser.parse_args(argv)


def run_settings(recipe: Mapping[str, Any], variant: Mapping[str, Any], **fixed: Any) -> dict[str, Any]:
    """Settings of a run: the recipe with what a variant changes.

    Args:
        recipe: Settings of `pretrain.py`.
        variant: One of VARIANTS.
        **fixed: Settings that go before both.
    """
    overrides = dict(recipe.get("config_overrides", {})) | variant.get("config_overrides", {})
    settings = {**recipe, **variant, "config_overrides": overrides, **fixed}
    return {name: value for name, value in settings.items() if value not in (None, {})}


def fitting_shards(settings: Mapping[str, Any], output: Path) -> list[str]:
    """Shards whose spectra have a valid patch of the size that a run has; those of the recipe where it is theirs.

    Args:
        settings: Settings of a run.
        output: Where others are written.
    """
    shards = np.atleast_1d(settings["shards"]).tolist()
    size = settings["config_overrides"].get("patch_size")
    if size is None:
        return shards
    folder = output / f"shards-of-{size}"
    prepare_shards(shards, folder, processor=SpectrumProcessor(patch_size=size), num_workers=1)
    return [str(folder)]


def train(folder: Path, settings: Mapping[str, Any], options: Sequence[str], *, threads: int | None = None) -> None:
    """A run of `pretrain.py`, unless it is done; what it prints goes to `<folder>/log.txt`.

    Args:
        folder: Where everything of the run goes.
        settings: What `run_settings` returned.
        options: Further options.
        threads: Of the process; None = as many as there are cores. More than cores, over all runs, stall each other.

    Raises:
        ValueError: If the folder holds a training with other settings.
        RuntimeError: If it fails.
    """
    model, path = folder / "model", folder / "settings.yaml"
    text = yaml.safe_dump(dict(settings) | {"output_dir": str(model)})
    if path.exists() and path.read_text() != text:
        raise ValueError(
            f"{folder} must hold a training of these settings, found others in {path}: pass another --output"
        )
    if (model / "report.md").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    command = [sys.executable, str(Path(__file__).with_name("pretrain.py")), str(path), *options]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with (folder / "log.txt").open("a") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode:
            raise RuntimeError(f"the training of {folder.name} failed: see {folder / 'log.txt'}")


class Judge:
    """Judges every run on the same spectra.

    Args:
        folder: Catalogue folder of real spectra.
    """

    def __init__(self, folder: Path):
        self.train, held = split_real(folder)
        counts = {survey: sum(s.survey == survey for s in held) for survey in {s.survey for s in held}}
        self.held = [spectrum for spectrum in held if counts[spectrum.survey] >= LEAST_HELD_OUT]
        self.tasks = list(probe_tasks(self.train + held, folder))

    def figures(self, path: Path) -> dict[str, float]:
        """Figures of a trained model, by name.

        Args:
            path: Its folder.
        """
        model, processor = AutoModelForPreTraining.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)
        baselines = fit_baselines(self.train, processor, model.config.latent_size, max_patches=50_000)
        rows = summarize(score_spectra(model, processor, self.held, baselines), model.config.latent_size)
        truths = judge_by_truth(model, processor, SIMULATED, {}, spectra=12)
        return {
            "χ² / PCA": _geometric_mean([row["chi2 model"] / row["chi2 patch PCA of the survey"] for row in rows]),
            "hidden / interpolation": _geometric_mean(
                [row["held out model"] / row["held out interpolation"] for row in rows]
            ),
            **{f"truth {snr}": _geometric_mean([row[f"S/N {snr}, model"] for row in truths]) for snr in TRUTH_SNR},
            **self.probes(path),
        }

    def probes(self, path: Path) -> dict[str, float]:
        """Scores of linear probes of mean and standard deviation of the hidden states, by name of the task.

        Args:
            path: Folder of the model.
        """
        probe = linear_probe(Backbone(str(path)).embeddings(self.tasks, "mean_std"))
        rows = evaluate_tasks(self.tasks, {"probe": probe}, bootstrap=2, progress=False)
        return {row["task"]: float(row.get("r_squared", row.get("accuracy", np.nan))) for row in rows}


def probe_tasks(real: Sequence[Spectrum], folder: Path) -> Iterator[Task]:
    """Temperatures of real LAMOST stars and giants, and classes of drawn BOSS spectra.

    Args:
        real: The real spectra.
        folder: Catalogue folder, with `sim`.
    """
    for name, survey in (("Teff, LAMOST", "lamost"), ("Teff, giants", "apogee-giants")):
        yield regression_task(name, labelled([s for s in real if s.survey == survey], STELLAR), STELLAR, 3)
    yield class_task("class, drawn", draw_boss(folder, 450, seed=2), 2)


def _geometric_mean(values: Sequence[Any]) -> float:
    return float(np.exp(np.mean(np.log(np.asarray(values, dtype=np.float64)))))


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> list[dict[str, object]]:
    """A row per variant: means over seeds, with their scatter.

    Args:
        results: Figures of each seed's run, by variant.
    """
    rows = []
    for name, runs in results.items():
        row: dict[str, object] = {"variant": name, "seeds": len(runs)}
        for figure in runs[0]:
            values = [run[figure] for run in runs]
            spread = f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else ""
            row[figure] = f"{np.mean(values):.3f}{spread}"
        rows.append(row)
    return rows


def run(args: argparse.Namespace) -> list[dict[str, object]]:
    """Train what is not there, judge it, write the table after each run.

    Args:
        args: Options.

    Raises:
        ValueError: If there are no real spectra.
    """
    if args.spectra is None:
        raise ValueError("ablations are judged on real spectra: pass --spectra, or set SPECTOK_SPECTRA")
    torch.set_num_threads(1)
    recipe, judge = yaml.safe_load(args.recipe.read_text()), Judge(Path(args.spectra))
    names = args.only or list(VARIANTS)
    runs = [(name, seed) for seed in args.seeds for name in names]

    def prepare(run: tuple[str, int]) -> Path:
        folder = args.output / f"{run[0]}-{run[1]}"
        fixed = {"max_steps": args.max_steps, "seed": run[1], "max_eval": 1, "save_strategy": "no"}
        settings = run_settings(recipe, VARIANTS[run[0]], **fixed)
        train(folder, settings | {"shards": fitting_shards(settings, args.output)}, args.options, threads=1)
        return folder

    with ThreadPoolExecutor(args.jobs) as pool:
        for folder in pool.map(prepare, runs):
            path = folder / "figures.json"
            if not path.exists():
                write_json(judge.figures(folder / "model"), path)
            rows = table(read_results(args.output))
            args.output.joinpath("table.md").write_text(format_table(rows) + "\n", encoding="utf-8")
            print(f"{folder.name}: {path.read_text().strip()}", flush=True)
    print(format_table(rows))
    return rows


def read_results(output: Path) -> dict[str, list[dict[str, float]]]:
    """Figures of all runs that are done, by variant, in the order of VARIANTS.

    Args:
        output: Folder of the runs.
    """
    found = {name: sorted(output.glob(f"{name}-[0-9]*/figures.json")) for name in VARIANTS}
    return {name: [json.loads(path.read_text()) for path in paths] for name, paths in found.items() if paths}


if __name__ == "__main__":
    run(parse_arguments())
