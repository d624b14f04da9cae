"""Gaia XP: sampled mean spectra as FITS files, and as rows of any table; coefficients are refused by name.

An XP spectrum has 110 degrees of freedom at most (55 coefficients per photometer), sampled at 343 wavelengths: the
errors of neighbouring samples are strongly correlated, and chi-square per pixel means little.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS
from .layout import Layout, ReadOptions, column_names, find_labels, find_table, survey_facts

SURVEY = "gaia_xp"
# 1 W m-2 nm-1 is 100 erg s-1 cm-2 Angstrom-1. In its own unit the inverse variance, 1e36 to 1e40, leaves float32.
FLUX_FACTOR = 1e19
NATIVE_UNIT = "wm-2nm-1"  # as `_unit_key` writes it
COEFFICIENTS = {"bp_coefficients", "rp_coefficients", "spectral_coefficients", "coeff"}
PLEA = (
    "holds XP_CONTINUOUS coefficients (bp_coefficients, rp_coefficients), no spectra: expected XP_SAMPLED with flux "
    "and flux_error at 343 wavelengths; sample the coefficients with GaiaXPy (pip install gaiaxpy, gaiaxpy.calibrate)"
)


def sampled_wavelengths() -> np.ndarray:
    """The wavelengths of XP_SAMPLED in Å, shape (343,): 336 to 1020 nm."""
    (arm,) = SURVEYS[SURVEY].arms
    return arm.start + arm.step * np.arange(arm.pixels)


def check_no_coefficients(names: Any) -> None:
    """Raise where a table or row without a flux has the columns of XP_CONTINUOUS.

    Args:
        names: Names of the columns.

    Raises:
        ValueError: If it has.
    """
    if COEFFICIENTS & {str(name).lower() for name in names}:
        raise ValueError(f"this table {PLEA}")


def complete_sampled_row(row: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """A row of XP_SAMPLED with wavelengths and in a unit that float32 holds; any other row as it is.

    Args:
        row: What is known of the spectrum, as arguments of `Spectrum.from_arrays`.
        columns: The columns that the row came from, by name.
    """
    pixels = SURVEYS[SURVEY].arms[0].pixels
    named = {str(name).lower() for name in columns}
    told = row.get("survey") == SURVEY or {"source_id", "flux_error"} <= named
    if not told or "flux" not in row or "wavelength" in row or np.shape(row["flux"])[-1:] != (pixels,):
        return row
    row = {"survey": SURVEY, "wavelength": sampled_wavelengths()} | row
    if _unit_key(row.get("flux_unit") or NATIVE_UNIT) == NATIVE_UNIT:
        powers = {"flux": 1, "truth": 1, "error": 1, "ivar": -2}
        row |= {name: np.multiply(row[name], FLUX_FACTOR**power) for name, power in powers.items() if name in row}
        row["flux_unit"] = SURVEYS[SURVEY].flux_unit
    return row


def _unit_key(unit: Any) -> str:
    """A unit without what its spellings differ in: "W.m**-2.nm**-1", "W m-2 nm-1", "W / (m2 nm)"."""
    text = str(unit).lower().replace("**", "").replace("^", "")
    for sign in " .*()":
        text = text.replace(sign, "")
    return NATIVE_UNIT if text in ("w/m2nm", "w/m2/nm", "wnm-1m-2", "w/nmm2", "w/nm/m2") else text


def _fits_gaia(hdus: Any) -> bool:
    return _sampled(hdus) is not None or _continuous(hdus) is not None


def _sampled(hdus: Any) -> Any:
    table = find_table(hdus, "source_id", "flux", "flux_error")
    return None if table is None or {"wavelength", "lambda"} & column_names(table) else table


def _continuous(hdus: Any) -> Any:
    return find_table(hdus, "source_id", "bp_coefficients", "rp_coefficients")


def _read_gaia(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    if _sampled(hdus) is None:
        raise ValueError(f"the file {PLEA}")
    table = _sampled(hdus).data
    names = [name for name in ("source_id", "ra", "dec") if name in column_names(_sampled(hdus))]
    rows = zip(*(table[name].tolist() for name in names), strict=True)  # int64 to int: exact above 2**53
    return [
        _sampled_spectrum(flux, error, dict(zip(names, row, strict=True)))
        for flux, error, row in zip(table["flux"], table["flux_error"], rows, strict=True)
    ]


def _sampled_spectrum(flux: np.ndarray, error: np.ndarray, row: Mapping[str, Any]) -> Spectrum:
    wavelength = sampled_wavelengths()
    if len(flux) != len(wavelength):
        raise ValueError(f"XP_SAMPLED must have {len(wavelength)} samples, found {len(flux)} (source_id {row})")
    return Spectrum.from_arrays(
        np.multiply(flux, FLUX_FACTOR, dtype=np.float64),
        wavelength,
        error=np.multiply(error, FLUX_FACTOR, dtype=np.float64),
        object_id=row["source_id"],
        labels=find_labels(row, {"ra": ("ra",), "dec": ("dec",)}),
        **survey_facts(SURVEY),
    )


LAYOUTS = {
    "gaia_xp": Layout("XP_SAMPLED, a table of source_id, flux, flux_error", _fits_gaia, _read_gaia),
}

__all__ = ["LAYOUTS", "check_no_coefficients", "complete_sampled_row", "sampled_wavelengths"]
