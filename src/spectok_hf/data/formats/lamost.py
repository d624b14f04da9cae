"""LAMOST: low-resolution spectra, in the image of the early and the table of the newer data releases."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS
from .layout import Layout, ReadOptions, column_names, find_labels, log_grid, survey_facts


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
    """The table of the newer layout; the medium-resolution survey has several (COADD_B, COADD_R), and is not read."""
    columns = {"flux", "ivar", "andmask"}
    tables = [hdu for hdu in hdus if columns <= column_names(hdu) and {"wavelength", "loglam"} & column_names(hdu)]
    return tables[0] if len(tables) == 1 else None


def _read_lamost(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    header = hdus[0].header
    table = _lamost_table(hdus)
    flux, ivar, wavelength, bits = _lamost_image(hdus[0]) if table is None else _lamost_columns(table)
    object_id, labels = _lamost_object_id(header), find_labels(header, SURVEYS["lamost"].label_columns)
    spectrum = Spectrum(flux, wavelength, ivar, object_id=object_id, labels=labels, **survey_facts("lamost"))
    # The and-mask holds what was wrong in every exposure, so each of its bits is obeyed. In the 125 real DR1 files
    # only bit 0 occurs, on 0.24 % of the pixels, and all of those have ivar = 0 anyway (as 7.6 % of a typical
    # spectrum have). The or-mask (wrong in one exposure at least) is not obeyed.
    spectrum.flag(np.asarray(bits, dtype=np.int64) != 0, "LAMOST and-mask")
    return [spectrum]


def _lamost_image(hdu: Any) -> tuple[np.ndarray, ...]:
    """Flux, inverse variance, wavelength and and-mask, shape (L,) each, of the layout up to about DR7.

    Row 2 is skipped: it is the continuum-subtracted spectrum, in later releases the wavelength. COEFF0 and COEFF1
    hold for files of 3904, 3908 and 3909 pixels alike: the calcium triplet falls at the catalogue velocity.
    """
    flux, ivar, _, bits, _ = hdu.data
    loglam = hdu.header["COEFF0"] + hdu.header["COEFF1"] * np.arange(hdu.shape[1])
    return flux, ivar, log_grid(loglam), bits


def _lamost_columns(hdu: Any) -> tuple[np.ndarray, ...]:
    """Flux, inverse variance, wavelength and and-mask, shape (L,) each, of the newer layout: one row of vectors."""
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


LAYOUTS = {
    "lamost": Layout(
        "LRS, a primary image of 5 rows with COEFF0 and COEFF1, or a table of FLUX, IVAR, WAVELENGTH, ANDMASK",
        _fits_lamost,
        _read_lamost,
        _is_lamost,
    ),
}

__all__ = ["LAYOUTS"]
