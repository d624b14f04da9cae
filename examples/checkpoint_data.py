"""The spectra that the shipped checkpoints were trained on, as Arrow shards.

    python examples/checkpoint_data.py ../shared/spectra outputs/checkpoints/spectok-tiny/shards
    python examples/pretrain.py examples/configs/spectok-tiny.yaml

Three sources: the real spectra of a catalogue folder but for a quarter of the objects (`split_real`), on which the
checkpoints are judged; spectra drawn from models fitted to real ones, where none of those objects takes part
(`drawn_spectra.py`, with another seed than the tables of `evaluate_checkpoint.py`); and the package's simulation of
eight surveys, as they observe, and a third as many at high signal-to-noise ratio. Steps that are done are not done
again, so that a killed run goes on with the same command. The shards are all that training needs: neither astropy nor
the catalogue folder.
"""

import argparse
import math
from pathlib import Path

from drawn_spectra import WRITTEN_LABELS, draw_apogee, draw_boss
from real_spectra import KEPT_LABELS, load_real_spectra

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.dataset import split_by_object
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.data.spectrum_files import write_spectra

HELD_OUT_SHARE = 0.25
SPLIT_SEED = 0
# Seeds that a training must not share with what it is judged on, or shown by.
# drawn: 0 task tables, 1 training, 2 reconstruction and transfer tables
# simulated: 1 and 2 training, 3 training of the heads, 901 to 906 search and outliers, 2510 `judge_by_truth`, 2511
# latent space and transfer, 2512 `make demo`, README, documentation, cards, and the task table without real spectra
DRAWN_SEED = 1
SIMULATED_SEED = 1
DEEP_SEED, DEEP_SNR = 2, (20.0, 200.0)  # few surveys go so deep, and a tokenizer must not lose what they see
SURVEYS = ("sdss", "boss", "desi", "galah", "apogee", "lamost", "lamost_mrs", "gaia_xp")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the catalogue folder, with MANIFEST.csv and `sim`")
    parser.add_argument("output", type=Path, help="folder of shards to write; the sources lie beside it")
    parser.add_argument("--simulated", type=int, default=3000, help="simulated spectra of each survey")
    parser.add_argument("--drawn", type=int, default=6000, help="drawn spectra on each of two grids, BOSS and APOGEE")
    parser.add_argument("--smoke", action="store_true", help="few spectra, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.simulated, args.drawn = 4, 6
    return args


def split_real(folder: Path) -> tuple[list[Spectrum], list[Spectrum]]:
    """The real spectra that checkpoints are trained on, and those of the objects that they are judged on.

    Args:
        folder: Catalogue folder with MANIFEST.csv.
    """
    spectra = [spectrum for spectrum in load_real_spectra(folder) if spectrum.good.any()]
    return split_by_object(spectra, HELD_OUT_SHARE, seed=SPLIT_SEED)


def write_sources(folder: Path, sources: Path, drawn: int) -> list[str]:
    """Write the real and the drawn spectra as Parquet files, those that are not there yet; returns their paths.

    Args:
        folder: Catalogue folder.
        sources: Folder to write to.
        drawn: Drawn spectra on each grid.
    """
    real, boss, apogee = (sources / f"{name}.parquet" for name in ("real", f"boss-{drawn}", f"apogee-{drawn}"))
    train, held = split_real(folder)
    if not real.exists():
        write_spectra(train, real, labels=KEPT_LABELS)
    if not boss.exists():
        out = frozenset(str(spectrum.object_id) for spectrum in held)
        write_spectra(draw_boss(folder, drawn, seed=DRAWN_SEED, without=out), boss, labels=WRITTEN_LABELS)
    if not apogee.exists():
        write_spectra(draw_apogee(folder, drawn, seed=DRAWN_SEED), apogee, labels=WRITTEN_LABELS)
    return [str(real), str(boss), str(apogee)]


def write_deep(sources: Path, survey: str, count: int) -> str:
    """Write simulated spectra of high signal-to-noise ratio, unless they are there; returns the path.

    Args:
        sources: Folder to write to.
        survey: The survey.
        count: Number of spectra.
    """
    path = sources / f"{survey}-deep-{count}.parquet"
    if not path.exists():
        write_spectra(simulate_survey(survey, count, DEEP_SEED, snr=DEEP_SNR, honest=True), path, labels=KEPT_LABELS)
    return str(path)


def run(args: argparse.Namespace) -> None:
    """Write the sources and then the shards.

    Args:
        args: Options.
    """
    beside = args.output.with_name(f"{args.output.name}-sources")
    sources = write_sources(args.folder, beside, args.drawn)
    sources += [write_deep(beside, survey, math.ceil(args.simulated / 3)) for survey in SURVEYS]
    sources += [f"simulate:{survey}:{args.simulated}:{SIMULATED_SEED}" for survey in SURVEYS]
    print(prepare_shards(sources, args.output, on_error="raise", progress=True).manifest["surveys"])


__all__ = ["HELD_OUT_SHARE", "SPLIT_SEED", "parse_arguments", "run", "split_real"]

if __name__ == "__main__":
    run(parse_arguments())
