"""GALAH: one file per star and CCD, read together; the layout of DR3 and that of the later reductions (dr6.0)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ...models.wavelength import LIGHT_SPEED
from ..surveys import SURVEYS
from .files import open_fits
from .layout import Layout, ReadOptions, find_labels, survey_facts

FILE_NAME = re.compile(r"(?P<star>\d{15})(?P<ccd>[1-4])(?P<suffix>\.fits?(\.gz|\.bz2)?)", re.IGNORECASE)
SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.bz2")
ERROR_NAMES = ("input_sigma", "relative_error")  # of DR3, and of dr6.0
SAME_STAR_CARDS = ("OBJECT", "OBJ_NAME", "GALAH_ID", "GAIA_ID")  # equal in all the files of a star


@dataclass
class Ccd:
    """What one file holds.

    Args:
        path: The file.
        header: Its primary header.
        wavelength: Å in air, shape (L,).
        flux: Counts, shape (L,).
        relative_error: Error of the flux over the flux, shape (L,).
        labels: What the header knows of the star.
        arm: "ccd1" to "ccd4", by the wavelengths.
    """

    path: Path
    header: Mapping[str, Any]
    wavelength: np.ndarray
    flux: np.ndarray
    relative_error: np.ndarray
    labels: dict[str, Any]
    arm: str = field(init=False)

    def __post_init__(self) -> None:
        self.arm = _find_arm(self.wavelength)


def _fits_galah(hdus: Any) -> bool:
    first = hdus[0]
    return len(first.shape) == 1 and {"CRVAL1", "CDELT1"} <= set(first.header) and _error_hdu(hdus) is not None


def _is_galah(hdus: Any) -> bool:
    header = hdus[0].header
    return "HERMES" in str(header.get("INSTRUME", "")) or "GALAH" in str(header.get("ORIGIN", ""))


def _error_hdu(hdus: Any) -> Any:
    """The relative error: by its name, or in files without names the second of DR3's four or five HDUs; else None."""
    for hdu in hdus:
        if hdu.name.lower() in ERROR_NAMES:
            return hdu
    unnamed = not any(hdu.name for hdu in hdus[1:])
    return hdus[1] if unnamed and len(hdus) in (4, 5) else None


def _read_galah(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    ccds = [_read_ccd(hdus, options.path)]
    ccds += [_open_ccd(path) for path in _star_files(options.path).values() if path != options.path]
    ccds.sort(key=lambda ccd: ccd.arm)
    _check_one_star(ccds)
    if options.merge_arms:
        read = {ccd.arm for ccd in ccds}
        missing = " ".join(arm for arm in _arm_names() if arm not in read)
        return [_spectrum(ccds, {"missing_arms": missing} if missing else {})]
    return [_spectrum([ccd], {"arm": ccd.arm}) for ccd in ccds]


# The files of a star ---------------------------------------------------------------------------------


def _star_files(path: Path) -> dict[int, Path]:
    """The files of the star beside this one, itself among them, by the CCD in their names.

    A CCD that is there twice, packed and unpacked, is taken as this file is. CCDs are often missing (12,181 stars).
    """
    name = FILE_NAME.fullmatch(path.name)
    if not name:
        return {0: path}
    suffixes = (name["suffix"], *SUFFIXES)
    files = {}
    for ccd in range(1, 5):
        there = (path.with_name(f"{name['star']}{ccd}{suffix}") for suffix in suffixes)
        if file := next((file for file in there if file.is_file()), None):
            files[ccd] = file
    return files | {int(name["ccd"]): path}


def _companions(path: Path) -> list[Path]:
    """The files of the star, with the packed copies of unpacked ones: they are the star once more."""
    files = set(_star_files(path).values())
    for file in list(files):
        if name := FILE_NAME.fullmatch(file.name):
            copies = (file.with_name(f"{name['star']}{name['ccd']}{suffix}") for suffix in SUFFIXES)
            files.update(copy for copy in copies if copy.is_file())
    return sorted(files)


def _open_ccd(path: Path) -> Ccd:
    with open_fits(path) as hdus:
        if not (_fits_galah(hdus) and _is_galah(hdus)):
            raise ValueError(f"{path} has the name of a CCD of the same star, and is no GALAH file: move it away")
        return _read_ccd(hdus, path)


def _check_one_star(ccds: list[Ccd]) -> None:
    first = ccds[0]
    for before, ccd in pairwise(ccds):
        if before.arm == ccd.arm:
            raise ValueError(
                f"{before.path.name} and {ccd.path.name} must hold different CCDs, found {ccd.arm} in both: "
                "download them again"
            )
        for card in SAME_STAR_CARDS:
            if first.header.get(card) != ccd.header.get(card):
                raise ValueError(
                    f"the files of one name must hold one star, found {card} = {first.header.get(card)!r} in "
                    f"{first.path.name} and {ccd.header.get(card)!r} in {ccd.path.name}: move the wrong one away"
                )


# One file --------------------------------------------------------------------------------------------


def _read_ccd(hdus: Any, path: Path) -> Ccd:
    """The counts and their relative error; never the normalised spectrum, whose grid is shifted to the rest frame."""
    header = hdus[0].header
    flux = np.array(hdus[0].data, dtype=np.float64)
    relative_error = np.array(_error_hdu(hdus).data, dtype=np.float64)
    if flux.shape != relative_error.shape:
        raise ValueError(
            f"{path.name} must have one error per pixel, found shapes {flux.shape} and {relative_error.shape}: "
            "download it again"
        )
    return Ccd(path, header.copy(), _wavelength(header, len(flux)), flux, relative_error, _labels(hdus))


def _wavelength(header: Mapping[str, Any], pixels: int) -> np.ndarray:
    """CRVAL1 is the first pixel's: CRPIX1 is 1, and where it is 0, 1 is meant (GALAH's own tutorials).

    Not `(i + CRPIX1 + 1) * CDELT1` of those tutorials and the Multimodal Universe, which is 5.8 km/s too red.
    """
    reference = header.get("CRPIX1", 1) or 1
    return header["CRVAL1"] + (np.arange(pixels) + 1 - reference) * header["CDELT1"]


def _arm_names() -> list[str]:
    return [f"ccd{number + 1}" for number in range(len(SURVEYS["galah"].arms))]


def _find_arm(wavelength: np.ndarray) -> str:
    middle = (wavelength[0] + wavelength[-1]) / 2
    for name, arm in zip(_arm_names(), SURVEYS["galah"].arms, strict=True):
        if arm.start < middle < arm.start + arm.step * arm.pixels:
            return name
    raise ValueError(
        f"{wavelength[0]:.0f}-{wavelength[-1]:.0f} Å is none of GALAH's CCDs (4713-4902, 5649-5873, 6478-6737, "
        "7585-7887 Å): read the file yourself and pass arrays"
    )


def _labels(hdus: Any) -> dict[str, Any]:
    """What the pipeline found, without what it marks as failed; cards that are not known hold the text "None"."""
    header = hdus[0].header
    labels = find_labels(header, SURVEYS["galah"].label_columns)
    labels = {name: value for name, value in labels.items() if not isinstance(value, str)}
    failed = {"rv"} if header.get("RVCOM_OK") == 0 else set()
    failed |= {"teff", "logg", "feh"} if header.get("PAR_OK") == 0 else set()
    failed |= {"ra", "dec"} if labels.get("ra") == labels.get("dec") == 0 else set()  # solar system, unknown
    labels = {name: value for name, value in labels.items() if name not in failed}
    if len(hdus) == 5 and "RVCOM" not in header:
        labels |= _dr3_velocity(header, hdus[4].header)
    if header.get("BARYEFF") == "None":
        labels["barycentric"] = False  # the correction was not applied, as it is everywhere else
    return labels


def _dr3_velocity(header: Mapping[str, Any], normalised: Mapping[str, Any]) -> dict[str, float]:
    """The pipeline's radial velocity: DR3 has no card for it, but the normalised grid is shifted by it."""
    if not all("CRVAL1" in cards and "CDELT1" in cards for cards in (header, normalised)):
        return {}
    shift, step = (header[card] / normalised[card] - 1 for card in ("CRVAL1", "CDELT1"))
    return {"rv": shift * LIGHT_SPEED} if abs(shift - step) < 1e-7 else {}


def _object_id(ccd: Ccd) -> str | None:
    """The sobject_id of 15 digits: OBJECT in DR3; later OBJECT is the field, and only the file's name has it."""
    header = str(ccd.header.get("OBJECT", "")).strip()
    if re.fullmatch(r"\d{15}", header):
        return header
    name = FILE_NAME.fullmatch(ccd.path.name)
    return name["star"] if name else None


# The spectrum ----------------------------------------------------------------------------------------


def _spectrum(ccds: list[Ccd], labels: dict[str, Any]) -> Spectrum:
    flux, relative_error, wavelength = (
        np.concatenate([getattr(ccd, name) for ccd in ccds]) for name in ("flux", "relative_error", "wavelength")
    )
    bad = _bad_pixels(flux, relative_error)
    known = ~np.logical_or.reduce(list(bad.values())) & np.isfinite(flux)
    ivar = np.ones(len(flux))
    ivar[known] = (flux[known] * relative_error[known]) ** -2.0
    ivar[~known] = np.median(ivar[known]) if known.any() else 1.0  # until they are flagged, each with its reason
    known_labels = {name: value for ccd in reversed(ccds) for name, value in ccd.labels.items()}
    spectrum = Spectrum(
        flux, wavelength, ivar, object_id=_object_id(ccds[0]), labels=known_labels | labels, **survey_facts("galah")
    )
    for reason, pixels in bad.items():
        spectrum.flag(pixels, reason)
    spectrum.ivar[~known] = 0
    return spectrum


def _bad_pixels(flux: np.ndarray, relative_error: np.ndarray) -> dict[str, np.ndarray]:
    """Pixels whose relative error gives no error, by the reason.

    Most are in the telluric bands of CCD 4. Where flux or relative error is negative (1067 of 589,000 pixels of 36 DR3
    stars), their signs disagree in 80 %: the error was divided by another flux than the one that was written, and
    |flux| times |relative error| is anything from 0.001 to 1000 times the error of the pixels beside it.
    """
    return {
        "relative error is not finite": ~np.isfinite(relative_error),
        "relative error <= 0": relative_error <= 0,
        "flux <= 0 (a relative error says nothing)": flux <= 0,
    }


LAYOUTS = {
    "galah": Layout(
        "the file of one CCD, an image of counts and one of their relative error (DR3, or dr6.0 with relative_error); "
        "those of the star's other CCDs beside it are read with it",
        _fits_galah,
        _read_galah,
        _is_galah,
        _companions,
    ),
}

__all__ = ["LAYOUTS"]
