"""Gather the labelled real spectra of a catalogue folder into Parquet files that `--data` and `read_spectra` take.

    python examples/real_spectra.py ../shared/spectra outputs/real_spectra
    python examples/pretrain.py examples/configs/first_training.yaml

The folder holds MANIFEST.csv (a row per spectrum: path, row, object_id, cls, z, teff, logg, feh, rv_kms, ...), survey
files, and a few NumPy archives. Labels of the manifest go before those of the files. One file is written per survey.
APOGEE's products are surveys of their own here ("apogee-normalised", "apogee-visit", "apogee-giants"): a baseline per
survey would otherwise mix fluxes of different kinds. Nothing of it is part of this project.
"""

import argparse
import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spectok_hf import SURVEYS, Spectrum, read_spectra
from spectok_hf.data.dataset import by_survey
from spectok_hf.data.spectrum_files import write_spectra

MANIFEST_LABELS = {"cls": "class", "z": "redshift", "teff": "teff", "logg": "logg", "feh": "feh", "rv_kms": "rv"}
KEPT_LABELS = {*MANIFEST_LABELS.values(), "subclass", "ra", "dec"}
# Hours, minutes, hundredths of seconds; sign, degrees, minutes, tenths of seconds.
TMASS_NAME = re.compile(r"2?M(\d{2})(\d{2})(\d{4})([+-])(\d{2})(\d{2})(\d{3})")


def load_real_spectra(folder: Path) -> list[Spectrum]:
    """The spectra of a catalogue folder, with the labels of its manifest.

    Args:
        folder: Holds MANIFEST.csv.

    Raises:
        FileNotFoundError: If it does not.
    """
    with (folder / "MANIFEST.csv").open() as file:
        rows = list(csv.DictReader(file))
    paths = defaultdict(list)
    for row in rows:
        paths[row["path"]].append(row)
    spectra = []
    for path, members in paths.items():
        if "CONTINUOUS" in path or path.endswith(".csv"):
            continue  # coefficients are no spectra; the table is also there as FITS
        spectra += _read(folder, path, members)
    for spectrum in spectra:
        _set_position(spectrum)
    return spectra


def _read(folder: Path, path: str, rows: list[dict[str, str]]) -> list[Spectrum]:
    name = Path(path).name
    if name in ARCHIVES:
        with np.load(folder / path) as archive:
            spectra = ARCHIVES[name](archive)
        for row in rows:
            _set_labels(spectra[int(row["row"])], row)
        return spectra
    spectra = read_spectra(str(folder / path), progress=False)
    labelled = {row["object_id"]: row for row in rows}
    for spectrum in spectra:
        row = rows[0] if len(spectra) == 1 else labelled.get(str(spectrum.object_id))
        if row is not None:
            _set_labels(spectrum, row)
        if spectrum.survey == "apogee" and name.startswith(("aspcapStar", "apVisit")):
            spectrum.survey = "apogee-normalised" if name.startswith("aspcap") else "apogee-visit"
    return spectra


def _set_labels(spectrum: Spectrum, row: dict[str, str]) -> None:
    for column, label in MANIFEST_LABELS.items():
        if row[column]:
            spectrum.labels[label] = row[column] if column == "cls" else float(row[column])


def _set_position(spectrum: Spectrum) -> None:
    """An APOGEE name is a position: with it, a star's products share an object whatever file they come from."""
    if found := TMASS_NAME.match(str(spectrum.object_id)):
        hours, minutes, seconds, sign, degrees, arcmin, arcsec = found.groups()
        spectrum.labels["ra"] = 15 * (int(hours) + int(minutes) / 60 + int(seconds) / 360_000)
        declination = int(degrees) + int(arcmin) / 60 + int(arcsec) / 36_000
        spectrum.labels["dec"] = -declination if sign == "-" else declination


# The archives: how their arrays become spectra


def _galah(archive: dict[str, np.ndarray]) -> list[Spectrum]:
    return [_galah_star(archive, index) for index in range(len(archive["sobject_id"]))]


def _galah_star(archive: dict[str, np.ndarray], index: int) -> Spectrum:
    facts = SURVEYS["galah"]
    parts = []
    for ccd, (start, step) in enumerate(archive["wave_crval_cdelt"][index]):
        count = archive["n_pix"][index, ccd]
        flux, relative = (archive[name][index, ccd, :count].astype(np.float64) for name in ("flux", "rel_err"))
        with np.errstate(divide="ignore", invalid="ignore"):
            ivar = np.where((relative > 0) & (flux > 0), (flux * relative) ** -2.0, 0.0)  # as our reader does
        parts.append((start + step * np.arange(count), flux, np.nan_to_num(ivar, posinf=0.0)))
    wavelength, flux, ivar = map(np.concatenate, zip(*parts, strict=True))
    return Spectrum(
        flux.astype(np.float32),
        wavelength,
        ivar.astype(np.float32),
        survey="galah",
        object_id=str(archive["sobject_id"][index]),
        medium=facts.medium,
        frame=facts.frame,
        flux_unit=facts.flux_unit,
    )


def _giants(archive: dict[str, np.ndarray]) -> list[Spectrum]:
    spectra = []
    for index, (flux, error) in enumerate(zip(archive["norm_flux"], archive["norm_err"], strict=True)):
        spectrum = Spectrum.from_arrays(
            flux,
            archive["wave_approx"],
            error=error,
            survey="apogee-giants",
            object_id=f"giant-{index:03d}",
            frame="rest",
            flux_unit="normalised",
        )
        spectrum.flag(error > 0.5, "error > 0.5")
        spectra.append(spectrum)
    return spectra


def _apogee(archive: dict[str, np.ndarray]) -> list[Spectrum]:
    facts = SURVEYS["apogee"]
    pixels = np.round((np.log10(archive["wave"]) - 4.179) / 6e-6).astype(int)
    chips = np.zeros(len(pixels), dtype=bool)
    for arm in facts.arms:
        first = round((arm.start - 4.179) / 6e-6)
        chips |= (pixels >= first) & (pixels < first + arm.pixels)
    bad_value = sum(1 << bit for bit in facts.bad_bits.values())
    spectra = []
    for name, flux, error, bits in zip(
        archive["apogee_id"], archive["flux"], archive["err"], archive["mask"], strict=True
    ):
        spectrum = Spectrum.from_arrays(
            flux[chips],
            10 ** (4.179 + 6e-6 * pixels[chips]),
            error=np.where(error[chips] < 1e9, error[chips], np.inf),
            survey="apogee",
            object_id="2" + str(name) if str(name).startswith("M") else str(name),
            medium=facts.medium,
            frame=facts.frame,
            flux_unit=facts.flux_unit,
        )
        spectrum.flag(bits[chips] & bad_value > 0, "bad bits")
        spectra.append(spectrum)
    return spectra


ARCHIVES: dict[str, Callable[[dict[str, np.ndarray]], list[Spectrum]]] = {
    "galah_dr3_compact.npz": _galah,
    "annieslasso_671giants_100px.npz": _giants,
    "apStar_24_combined.npz": _apogee,
}


def add_spectra_option(parser: argparse.ArgumentParser) -> None:
    """The option of scripts that show real spectra beside others, and can do without.

    Args:
        parser: The parser of the script.
    """
    parser.add_argument(
        "--spectra",
        type=Path,
        default=os.environ.get("SPECTOK_SPECTRA"),
        help="folder of real spectra with MANIFEST.csv; default: $SPECTOK_SPECTRA",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the catalogue folder, with MANIFEST.csv")
    parser.add_argument("output", type=Path, help="folder to write, one Parquet file per survey")
    args = parser.parse_args()
    for survey, spectra in by_survey(load_real_spectra(args.folder)).items():
        path = args.output / f"{survey}.parquet"
        write_spectra(spectra, path, labels=KEPT_LABELS)
        print(f"wrote {len(spectra)} spectra to {path}")


if __name__ == "__main__":
    main()
