"""What the formats share: the record of a layout, and how HDUs, tables and labels are looked up."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS

MISSING_TEXT = ("", "UNKNOWN", "NULL")  # a label with such a value is left out
MISSING_NUMBER = -9999.0


@dataclass(frozen=True)
class ReadOptions:
    """How a file shall be read.

    Args:
        path: The file.
        merge_arms: Whether the arms of a spectrum become one `Spectrum`.
        keep_gaps: Whether APOGEE spectra keep the pixels between and beside the chips.
    """

    path: Path
    merge_arms: bool = True
    keep_gaps: bool = False


@dataclass(frozen=True)
class Layout:
    """One FITS layout.

    Args:
        description: What such a file holds, for messages.
        fits: Whether a file has the HDUs, columns and cards that reading it needs.
        read: From the open file and the options to spectra.
        identified: Whether a file that fits is also known to come from the survey; asked unless `format` is given.
        companions: The files that are read together with this one, itself among them.
    """

    description: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, ReadOptions], list[Spectrum]]
    identified: Callable[[Any], bool] = lambda hdus: True
    companions: Callable[[Path], list[Path]] = lambda path: [path]


def find_table(hdus: Any, *columns: str) -> Any | None:
    """The first table that has these columns, in whatever case; the per-exposure tables of SDSS come later."""
    for hdu in hdus:
        if set(columns) <= column_names(hdu):
            return hdu
    return None


def column_names(hdu: Any) -> set[str]:
    """Column names in lower case, from the header cards: `hdu.columns` takes 25 ms for the 180 of SPALL."""
    return {str(hdu.header[f"TTYPE{number + 1}"]).lower() for number in range(hdu.header.get("TFIELDS", 0))}


def find_labels(values: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The labels that are there, as plain values.

    Args:
        values: Column names or header cards to values.
        names: Labels to the columns or cards that may hold them (`Survey.label_columns`).
    """
    found = {
        label: plain_label(next((values[name] for name in candidates if name in values), None))
        for label, candidates in names.items()
    }
    return {label: value for label, value in found.items() if value is not None}


def plain_label(value: Any) -> Any:
    """A label as a plain Python value; None where it is missing (empty, unknown, NaN, -9999, masked).

    Args:
        value: Number, text or bytes, also as a numpy scalar.
    """
    if value is np.ma.masked:  # whose item() is 0.0
        return None
    value = value.item() if hasattr(value, "item") else value
    value = value.decode() if isinstance(value, bytes) else value
    if isinstance(value, str):
        value = value.strip()
        return None if value.upper() in MISSING_TEXT else value
    return None if value is None or value != value or value == MISSING_NUMBER else value


def survey_facts(survey: str) -> dict[str, Any]:
    """What `SURVEYS` knows of every spectrum of a survey, as arguments of `Spectrum`.

    Args:
        survey: Name of the survey.
    """
    facts = SURVEYS[survey]
    return {"survey": survey, "medium": facts.medium, "frame": facts.frame, "flux_unit": facts.flux_unit}


def log_grid(loglam: np.ndarray) -> np.ndarray:
    """Wavelengths in Å, float64, of an axis in log10 Å.

    loglam is float32 on disk, up to 2.4e-7 dex (0.17 km/s, 0.2 % of a pixel) from the grid of 1e-4 dex that it is
    meant to be; rounding to that grid gives it back exactly (all 71 real SDSS files: 3809-4625 pixels). An axis on
    another grid is left as it is. The header's COEFF0 is not used: in SDSS-I/II spec files it is the whole plate's,
    while the spectrum was trimmed, so that it would be wrong by up to 33 pixels (2300 km/s).
    """
    loglam = np.asarray(loglam, dtype=np.float64)
    grid = np.round(loglam, 4)
    return 10.0 ** (grid if np.allclose(grid, loglam, rtol=0, atol=5e-7) else loglam)


__all__ = [
    "Layout",
    "ReadOptions",
    "column_names",
    "find_labels",
    "find_table",
    "log_grid",
    "plain_label",
    "survey_facts",
]
