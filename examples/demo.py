"""The whole way in a few minutes: simulate four surveys, pretrain a tiny model, reconstruct what it never saw.

    make demo                     # four simulated surveys
    make demo DATA=my_spectra     # FITS files of SDSS, BOSS, DESI or LAMOST below a folder

Prints the tables of `examples/pretrain.py`, saves the model to `<output_dir>/model`, loads it as a user of the Hub
would, and plots one held-out spectrum per survey.
"""

import argparse
from pathlib import Path

import numpy as np
from pretrain import main, save_plot
from transformers import AutoModelForPreTraining, AutoProcessor

from spectok_hf import Spectrum
from spectok_hf.data.dataset import by_survey

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
    print(f"model and processor are in {trainer.args.output_dir}: AutoModel.from_pretrained takes that folder")


if __name__ == "__main__":
    run(parse_arguments())
