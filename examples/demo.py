"""The whole way in a few minutes: simulate surveys, pretrain a tiny model, reconstruct what it never saw, fit heads.

    make demo                     # four simulated surveys
    make demo DATA=my_spectra     # FITS files of SDSS, BOSS, DESI or LAMOST below a folder

Prints the tables of `examples/pretrain.py`, saves the model to `<output_dir>/model`, loads it as a user of the Hub
would, and plots one held-out spectrum per survey. On simulated surveys it then fits heads to the frozen tokens, for
classes and for the temperatures of stars, beside the linear model of the raw flux.
"""

import argparse
from pathlib import Path

import numpy as np
from evaluate_checkpoint import class_task, labelled, regression_task
from pretrain import main, save_plot
from transformers import AutoModelForPreTraining, AutoProcessor

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.dataset import by_survey
from spectok_hf.evaluation.adaptation import Backbone, FitOptions, frozen_head
from spectok_hf.evaluation.probes import constant, pca_ridge
from spectok_hf.evaluation.tasks import evaluate_tasks, format_results

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
SIMULATED = ["sdss", "desi", "galah", "apogee"]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder of FITS files; default: simulated spectra")
    parser.add_argument("--output_dir", default="outputs/demo", type=Path, help="where plots and model go")
    parser.add_argument("--max_steps", type=int, help="training steps; default: those of configs/demo.yaml")
    parser.add_argument("--labelled", type=int, default=300, help="simulated spectra that the heads learn from")
    return parser.parse_args(argv)


def training_options(args: argparse.Namespace) -> list[str]:
    """Options for `examples/pretrain.py`.

    Args:
        args: Options of this script.
    """
    options = [str(CONFIG), "--output_dir", str(args.output_dir / "model"), "--overwrite_output"]
    options += ["--data", args.data] if args.data else ["--simulate", *SIMULATED]
    if args.max_steps:
        options += ["--max_steps", str(args.max_steps)]
    return options


def typical(spectra: list[Spectrum]) -> Spectrum:
    """The spectrum of median signal-to-noise ratio.

    Args:
        spectra: At least one spectrum.
    """
    snr = [np.median(spectrum.flux[spectrum.good] / spectrum.error[spectrum.good]) for spectrum in spectra]
    return spectra[int(np.argsort(snr)[len(snr) // 2])]


def run(args: argparse.Namespace) -> None:
    """Train, load, score, plot.

    Args:
        args: Options of the command line.
    """
    for stale in args.output_dir.glob("reconstruction_*.png"):
        stale.unlink()
    trainer, held_out = main(training_options(args))
    model = AutoModelForPreTraining.from_pretrained(trainer.args.output_dir)
    processor = AutoProcessor.from_pretrained(trainer.args.output_dir)
    for survey, spectra in by_survey(held_out).items():
        path = args.output_dir / f"reconstruction_{survey}.png"
        save_plot(model, processor, typical(spectra), path)
        print(f"wrote {path}")
    if not args.data:
        print(f"\nHeads on frozen tokens:\n\n{fit_heads(trainer.args.output_dir, args.labelled)}\n")
    print(f"model and processor are in {trainer.args.output_dir}: AutoModel.from_pretrained takes that folder")


def fit_heads(checkpoint: str, count: int) -> str:
    """The table of two tasks on spectra that the model has not seen.

    Args:
        checkpoint: Folder of the model.
        count: Spectra per task.
    """
    stars = labelled(simulate_survey("apogee", count, seed=1, kind="STAR"), ["teff"])
    tasks = [
        class_task("classes, SDSS", simulate_survey("sdss", count, seed=1), 1),
        regression_task("stars, APOGEE", stars, ["teff"], 1),
    ]
    methods = {
        "frozen head, tokens": frozen_head(Backbone(checkpoint), FitOptions(epochs=40)),
        "PCA + ridge, raw flux": pca_ridge(),
        "constant": constant(),
    }
    return format_results(evaluate_tasks(tasks, methods, progress=False))


if __name__ == "__main__":
    run(parse_arguments())
