"""LAMOST: low-resolution spectra (LRS), in the image of the early and the table of the newer data releases, and the
coadded medium-resolution ones (MRS)."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS
from .layout import Layout, ReadOptions, column_names, find_labels, log_grid, survey_facts

MRS_ARMS = {"COADD_B": "b", "COADD_R": "r"}  # in order of wavelength
MRS_EXPOSURE = re.compile(r"[BR]-\d+")  # a single exposure, by its minute: B-84420148


def _fits_lamost(hdus: Any) -> bool:
    return _lamost_table(hdus) is not None or _has_lamost_image(hdus[0])


def _has_lamost_image(hdu: Any) -> bool:
    return len(hdu.shape) == 2 and hdu.shape[0] == 5 and {"COEFF0", "COEFF1"} <= set(hdu.header)


def _is_lamost(hdus: Any) -> bool:
    """Tells LAMOST's image from the spSpec files of SDSS-I, which look alike but hold the error in another row."""
    header = hdus[0].header
    makers = " ".join(str(header.get(card, "")) for card in ("TELESCOP", "ORIGIN", "AUTHOR"))
    return _lamost_table(hdus) is not None or "LAMOST" in makers.upper()


def _lamost_table(hdus: Any) -> Any | None:
    """The table of the newer layout, where it is one: none of those of the medium-resolution survey."""
    tables = [hdu for hdu in hdus if _has_lamost_columns(hdu)]
    return tables[0] if len(tables) == 1 and not _fits_mrs(hdus) else None


def _has_lamost_columns(hdu: Any) -> bool:
    names = column_names(hdu)
    return {"flux", "ivar", "andmask"} <= names and bool({"wavelength", "loglam"} & names)


def _read_lamost(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    header = hdus[0].header
    table = _lamost_table(hdus)
    flux, ivar, wavelength, bits = _lamost_image(hdus[0]) if table is None else _lamost_columns(table)
    object_id, labels = _lamost_object_id(header), find_labels(header, SURVEYS["lamost"].label_columns)
    spectrum = Spectrum(flux, wavelength, ivar, object_id=object_id, labels=labels, **survey_facts("lamost"))
    _flag_bits(spectrum, bits)
    return [spectrum]


def _flag_bits(spectrum: Spectrum, bits: np.ndarray) -> None:
    """Obey each bit of the and-mask, which holds what was wrong in every exposure.

    In the 125 real DR1 files only bit 0 occurs, on 0.24 % of the pixels, and all of those have ivar = 0 anyway (as
    7.6 % of a typical spectrum have). The or-mask (wrong in one exposure at least) is not obeyed.
    """
    spectrum.flag(np.asarray(bits, dtype=np.int64) != 0, "LAMOST and-mask")


def _lamost_image(hdu: Any) -> tuple[np.ndarray, ...]:
    """Flux, inverse variance, wavelength and and-mask, shape (L,) each, of the layout up to about DR7.

    Row 2 is skipped: it is the continuum-subtracted spectrum, in later releases the wavelength. COEFF0 and COEFF1
    hold for files of 3904, 3908 and 3909 pixels alike: the calcium triplet falls at the catalogue velocity.
    """
    flux, ivar, _, bits, _ = hdu.data
    loglam = hdu.header["COEFF0"] + hdu.header["COEFF1"] * np.arange(hdu.shape[1])
    return flux, ivar, log_grid(loglam), bits


def _lamost_columns(hdu: Any) -> tuple[np.ndarray, ...]:
    """Flux, inverse variance, wavelength and and-mask, shape (L,) each: one row of vectors, or one row per pixel."""
    columns = {name: np.ravel(hdu.data[name]) for name in ("flux", "ivar", "andmask")}
    if "loglam" in column_names(hdu):
        wavelength = log_grid(np.ravel(hdu.data["loglam"]))
    else:  # float32: 4e-4 Å from the logarithmic grid it is meant to be
        wavelength = log_grid(np.log10(np.ravel(hdu.data["wavelength"]).astype(np.float64)))
    return columns["flux"], columns["ivar"], wavelength, columns["andmask"]


def _lamost_object_id(header: Mapping[str, Any]) -> str | None:
    """OBSID; before it existed, the day, plan, spectrograph and fibre: 55862-B6212_sp06-005."""
    if header.get("OBSID") not in (None, ""):
        return str(header["OBSID"])
    cards = ("LMJD", "PLANID", "SPID", "FIBERID")
    if any(header.get(card) is None for card in cards):
        return None
    day, plan, spectrograph, fibre = (header[card] for card in cards)
    return f"{day}-{str(plan).strip()}_sp{int(spectrograph):02d}-{int(fibre):03d}"


# Medium resolution ------------------------------------------------------------------------------------


def _fits_mrs(hdus: Any) -> bool:
    return any(hdu.name in MRS_ARMS or MRS_EXPOSURE.fullmatch(hdu.name) for hdu in hdus)


def _read_mrs(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    arms = {arm: hdus[name] for name, arm in MRS_ARMS.items() if name in hdus and _has_spectrum(hdus[name])}
    if not arms:
        raise ValueError(
            f"COADD_B or COADD_R must hold a spectrum, found only {', '.join(hdu.name for hdu in hdus[1:])}: this "
            "file has no coadded spectrum; read its exposures yourself and pass arrays"
        )
    labels = find_labels(hdus[0].header, SURVEYS["lamost_mrs"].label_columns)
    labels |= {f"snr_{arm}": hdu.header["SNR"] for arm, hdu in arms.items() if "SNR" in hdu.header}
    object_id = _lamost_object_id(hdus[0].header)
    columns = {arm: _sorted_columns(hdu) for arm, hdu in arms.items()}
    if not options.merge_arms:
        return [_mrs_spectrum(columns[arm], object_id, labels | {"arm": arm}) for arm in arms]
    missing = " ".join(arm for arm in MRS_ARMS.values() if arm not in arms)
    _check_apart(columns)
    merged = tuple(map(np.concatenate, zip(*columns.values(), strict=True)))
    return [_mrs_spectrum(merged, object_id, labels | ({"missing_arms": missing} if missing else {}))]


def _has_spectrum(hdu: Any) -> bool:
    """An arm that could not be calibrated is absent, or a table without rows."""
    return _has_lamost_columns(hdu) and hdu.data is not None and len(hdu.data) > 0


def _sorted_columns(hdu: Any) -> tuple[np.ndarray, ...]:
    """As `_lamost_columns`; the rows of DR7 are one per pixel, and nothing says that they are in order."""
    columns = _lamost_columns(hdu)
    order = np.argsort(columns[2], kind="stable")
    return tuple(column[order] for column in columns)


def _check_apart(columns: Mapping[str, tuple[np.ndarray, ...]]) -> None:
    if len(columns) > 1 and columns["b"][2][-1] >= columns["r"][2][0]:
        raise ValueError(
            f"COADD_B must end before COADD_R begins, found {columns['b'][2][-1]:.1f} and {columns['r'][2][0]:.1f} Å: "
            "pass merge_arms=False"
        )


def _mrs_spectrum(columns: tuple[np.ndarray, ...], object_id: str | None, labels: dict[str, Any]) -> Spectrum:
    flux, ivar, wavelength, bits = columns
    spectrum = Spectrum(flux, wavelength, ivar, object_id=object_id, labels=labels, **survey_facts("lamost_mrs"))
    _flag_bits(spectrum, bits)
    return spectrum


LAYOUTS = {
    "lamost": Layout(
        "LRS, a primary image of 5 rows with COEFF0 and COEFF1, or a table of FLUX, IVAR, WAVELENGTH, ANDMASK",
        _fits_lamost,
        _read_lamost,
        _is_lamost,
    ),
    "lamost_mrs": Layout(
        "MRS, tables COADD_B and COADD_R of FLUX, IVAR, LOGLAM or WAVELENGTH, ANDMASK",
        _fits_mrs,
        _read_mrs,
    ),
}

__all__ = ["LAYOUTS"]
