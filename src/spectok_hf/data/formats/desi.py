"""DESI: coadd and spectra files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS
from .layout import Layout, ReadOptions, find_labels, survey_facts


@dataclass
class DesiArm:
    """One arm of all the spectra of a DESI file.

    Args:
        name: "b", "r" or "z"; of merged arms the names together.
        wavelength: Å, shape (L,).
        flux: Flux density, shape (n, L), float64.
        ivar: Inverse variance, shape (n, L), float64.
        mask: Bad pixels, shape (n, L), True = bad.
    """

    name: str
    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray


GRID_TOLERANCE = 1e-4  # Å; arms are on one grid within it (as in desispec), and in the real files within 1e-9


def _fits_desi(hdus: Any) -> bool:
    names = {hdu.name for hdu in hdus}
    return any({f"{band}_FLUX", f"{band}_IVAR", f"{band}_WAVELENGTH"} <= names for band in _desi_bands(hdus))


def _desi_bands(hdus: Any) -> list[str]:
    return list(dict.fromkeys(hdu.name.removesuffix("_FLUX") for hdu in hdus if hdu.name.endswith("_FLUX")))


def _read_desi(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    arms = sorted((_desi_arm(hdus, band) for band in _desi_bands(hdus)), key=lambda arm: arm.wavelength[0])
    rows = _desi_rows(hdus, len(arms[0].flux))
    if options.merge_arms:
        merged = merge_desi_arms(arms)
        return [_desi_spectrum(merged, index, row) for index, row in enumerate(rows)]
    return [_desi_spectrum(arm, index, row, arm.name) for index, row in enumerate(rows) for arm in arms]


def _desi_arm(hdus: Any, band: str) -> DesiArm:
    names = {hdu.name for hdu in hdus}
    missing = [f"{band}_{kind}" for kind in ("WAVELENGTH", "IVAR") if f"{band}_{kind}" not in names]
    if missing:
        raise ValueError(f"{band}_FLUX needs {' and '.join(missing)}, found no such HDU: the file is incomplete")
    flux, ivar = (np.atleast_2d(hdus[f"{band}_{kind}"].data).astype(np.float64) for kind in ("FLUX", "IVAR"))
    mask = np.atleast_2d(hdus[f"{band}_MASK"].data) != 0 if f"{band}_MASK" in names else np.zeros(flux.shape, bool)
    wavelength = np.array(hdus[f"{band}_WAVELENGTH"].data, dtype=np.float64)
    if not flux.shape == ivar.shape == mask.shape == (len(flux), len(wavelength)):
        raise ValueError(
            f"flux, ivar and mask of arm {band} must have one row per spectrum and {len(wavelength)} pixels, "
            f"found shapes {flux.shape}, {ivar.shape}, {mask.shape}: the file is damaged"
        )
    return DesiArm(band.lower(), wavelength, flux, ivar, mask)


def _desi_rows(hdus: Any, count: int) -> list[dict[str, Any]]:
    """Identifier and position of each row; without a FIBERMAP the identifier is the row's number."""
    names = {hdu.name for hdu in hdus}
    rows: list[dict[str, Any]] = [{"TARGETID": index} for index in range(count)]
    if "FIBERMAP" not in names:
        return rows
    table = hdus["FIBERMAP"]
    if len(table.data) != count:
        raise ValueError(f"FIBERMAP must have one row per spectrum, found {len(table.data)} rows and {count} spectra")
    for name in ("TARGETID", "TARGET_RA", "TARGET_DEC"):
        if name in table.columns.names:
            for row, value in zip(rows, table.data[name].tolist(), strict=True):  # int64 to int: exact above 2**53
                row[name] = value
    return rows


def _desi_spectrum(arm: DesiArm, index: int, row: Mapping[str, Any], name: str | None = None) -> Spectrum:
    labels = find_labels(row, SURVEYS["desi"].label_columns) | ({"arm": name} if name else {})
    object_id = str(row["TARGETID"])
    spectrum = Spectrum(
        arm.flux[index], arm.wavelength, arm.ivar[index], object_id=object_id, labels=labels, **survey_facts("desi")
    )
    spectrum.flag(arm.mask[index], "DESI mask")
    return spectrum


def merge_desi_arms(arms: list[DesiArm]) -> DesiArm:
    """One arm on the union of the grids: the mean in the overlaps, weighted by the inverse variance.

    As `coadd_cameras` of desispec: a pixel that is bad in one arm takes the other's value, and a merged pixel is bad
    only where all are (its flux is then the last arm's, its inverse variance 0).

    Args:
        arms: Arms of the same spectra, in order of wavelength.

    Raises:
        ValueError: If the arms hold different numbers of spectra, or are not on one grid where they overlap.
    """
    wavelength = arms[0].wavelength
    for arm in arms[1:]:
        wavelength = np.append(wavelength, arm.wavelength[arm.wavelength > wavelength[-1] + GRID_TOLERANCE])
    flux, weighted, ivar = np.zeros((3, len(arms[0].flux), len(wavelength)))
    for arm in arms:
        pixels = _pixels_of(arm, wavelength, count=len(flux))
        good = ~arm.mask & np.isfinite(arm.flux) & np.isfinite(arm.ivar) & (arm.ivar > 0)
        flux[:, pixels] = arm.flux
        ivar[:, pixels] += np.where(good, arm.ivar, 0)
        weighted[:, pixels] += np.where(good, arm.ivar * np.where(good, arm.flux, 0), 0)
    np.divide(weighted, ivar, out=flux, where=ivar > 0)
    return DesiArm("".join(arm.name for arm in arms), wavelength, flux, ivar, np.zeros(ivar.shape, bool))


def _pixels_of(arm: DesiArm, wavelength: np.ndarray, count: int) -> slice:
    """Where an arm lies on the merged grid."""
    start = int(np.argmin(np.abs(wavelength - arm.wavelength[0])))
    pixels = slice(start, start + len(arm.wavelength))
    grid = wavelength[pixels]
    if len(arm.flux) != count or len(grid) != len(arm.wavelength):
        aligned = False
    else:
        aligned = bool((np.abs(grid - arm.wavelength) <= GRID_TOLERANCE).all())
    if not aligned:
        raise ValueError(
            f"arm {arm.name} cannot be merged: its {len(arm.flux)} spectra of {arm.wavelength[0]:.2f}-"
            f"{arm.wavelength[-1]:.2f} Å do not lie on the grid of the {count} of the arms before it: "
            "pass merge_arms=False"
        )
    return pixels


LAYOUTS = {
    "desi": Layout("coadd and spectra, images B_FLUX, B_IVAR, B_WAVELENGTH, R_FLUX, ...", _fits_desi, _read_desi),
}

__all__ = ["LAYOUTS", "DesiArm", "merge_desi_arms"]
