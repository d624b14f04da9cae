"""What is wrong with rows of the Multimodal Universe, and the arithmetic that puts it right."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..models.sources import nested_columns
from ..models.spectrum import as_text, check_choice
from .multimodal_universe_facts import GALAH_SHIFT, GENERATIONS, UNIVERSE_SURVEYS, VIPERS_UNIT, shift_arms
from .surveys import SURVEYS

PREFIX = "spectrum_"
# Names of pixel columns after "spectrum_" or below `spectrum`; `flux_ivar` stands in some GALAH files.
PIXELS = {"flux": "flux", "ivar": "ivar", "flux_ivar": "ivar", "noise": "noise", "mask": "mask"}
PIXELS |= dict.fromkeys(("lambda", "wave", "wavelength"), "wavelength")
BITS = ("bitmask", "pix_bitmask")  # in old APOGEE rows; `read_mapping` decodes them
QUALITY = ("zwarn", "zwarning")
UNREPAIRED_IVAR = 1e-9  # of VIPERS: as shipped it is about 1e-17, 1e-14 at most, and in truth about 1
GALAH_BLOCK, GALAH_OUTLIER = 64, 100.0  # pixels; ivar over the median of its block


def correct_row(row: Mapping[str, Any], survey: str, generation: str) -> dict[str, Any]:
    """A row of the Multimodal Universe with its known errors corrected, for `read_spectra`.

    Pixel columns are arrays under their plain names (flux, ivar, wavelength, mask), without those of no use (norm_*,
    lsf_*); ZWARN and ZWARNING are numbers with 0 = good, the identifier is plain text, and survey and flux_unit are
    set. A row must be corrected once.

    Args:
        row: Columns by name, pixels below `spectrum` (columns or a list of pixels), or named `spectrum.flux` or
            `spectrum_flux`, as `load_dataset(..., streaming=True)` gives them in any format.
        survey: "sdss", "boss", "desi", "galah", "apogee" or "vipers".
        generation: "v1" for rows of HDF5 files; "preview" for those of `MultimodalUniverse/...` on the Hub, and of the
            v1 loading scripts; "hats" for those of HATS catalogues.

    Raises:
        ValueError: If survey or generation is unknown, or the row is not one of theirs.
    """
    check_choice("survey", survey, UNIVERSE_SURVEYS)
    check_choice("generation", generation, GENERATIONS)
    corrected = flat_columns(row)
    for name in [name for name in corrected if name.lower() in QUALITY]:
        corrected[name] = _as_warning(name, corrected[name], survey, generation)
    if survey in _CORRECTIONS:
        _CORRECTIONS[survey](corrected, generation)
    if (ivar := corrected.get("ivar")) is not None and not np.isfinite(ivar).all():
        corrected["ivar"] = np.where(np.isfinite(ivar), ivar, 0)
    if corrected.get("object_id") is not None:
        corrected["object_id"] = as_text(corrected["object_id"]) or None
    # Some rows have such columns with other contents: GALAH's unit is wrong, APOGEE's survey a part of it.
    return corrected | {"survey": survey, "flux_unit": SURVEYS[survey].flux_unit}


def flat_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """Pixel columns as arrays by their plain names, and the columns beside the spectrum, as they are.

    Args:
        row: Columns by name, as `correct_row` takes them.

    Raises:
        ValueError: If two columns hold the same.
    """
    nested = {f"{PREFIX}{name}": values for name, values in nested_columns(row.get("spectrum")).items()}
    flat: dict[str, Any] = {}
    for name, values in (nested | {name: value for name, value in row.items() if name != "spectrum"}).items():
        plain = pixel_name(name)
        if values is None or plain == "":
            continue
        if plain in flat:
            raise ValueError(f"{name!r} gives {plain} a second time: keep one of them")
        flat[name if plain is None else plain] = values if plain is None else _as_pixels(plain, values)
    return flat


@functools.lru_cache(maxsize=4096)
def pixel_name(column: str) -> str | None:
    """What a column is called in a row of ours; "" = a pixel column of no use, None = no pixel column.

    Args:
        column: Name of the column.
    """
    lower = column.lower().replace("spectrum.", PREFIX)
    own = lower.removeprefix(PREFIX)
    if own in BITS:
        return "bitmask"
    if own in ("noise", "flux_ivar") and own == lower:  # of a catalogue
        return None
    return PIXELS.get(own, "" if own != lower else None)


def _as_pixels(name: str, values: Any) -> np.ndarray:
    """A native array; of a list with gaps the missing pixels are bad."""
    pixels = np.asarray(values)
    if pixels.dtype.kind == "O":
        missing = True if name == "mask" else np.nan
        pixels = np.array([missing if value is None else value for value in values])
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _as_warning(name: str, value: Any, survey: str, generation: str) -> Any:
    """The flag of the redshift as a number, 0 = good; the bits of v1 stay as they are."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        return value
    if survey == "desi" and generation == "v1":
        raise ValueError(
            f"{name} of DESI must be an integer in v1 files, found a boolean: rows of the v1 loading script, which "
            'turns it round, are generation="preview"'
        )
    inverted = survey == "desi" and generation == "preview"
    return int(value != inverted)


def _correct_galah(row: dict[str, Any], generation: str) -> None:
    """Wavelengths two pixels to the blue, and no trust in an inverse variance that squared a sign away."""
    if generation != "hats" and "wavelength" in row:
        row["wavelength"] = shift_arms(row["wavelength"], -GALAH_SHIFT)
    if {"flux", "ivar"} <= row.keys():
        known = (row["flux"] > 0) & np.isfinite(row["ivar"])
        ivar = np.where(known, row["ivar"], 0)
        row["ivar"] = np.where(_stands_out(ivar), 0, ivar)


def _stands_out(ivar: np.ndarray) -> np.ndarray:
    """Pixels whose error is less than a tenth of what it is around them, which no light explains, shape (L,)."""
    blocks = np.pad(ivar, (0, -len(ivar) % GALAH_BLOCK), mode="edge").reshape(-1, GALAH_BLOCK)
    typical = np.median(blocks, axis=1, keepdims=True)
    return ((blocks > GALAH_OUTLIER * typical) & (typical > 0)).reshape(-1)[: len(ivar)]


def _correct_vipers(row: dict[str, Any], generation: str) -> None:
    """Inverse variances of the stated noise, a mask of the codes, and identifiers that were no whole numbers."""
    needed = "noise" if generation == "v1" else "ivar"
    if "flux" in row and needed not in row:
        raise ValueError(f"VIPERS rows of generation {generation!r} must have {needed}, found {', '.join(row)}")
    if generation == "v1" and "noise" in row:
        noise = np.float64(row.pop("noise")) * VIPERS_UNIT
        row["flux"] = np.float64(row["flux"]) * VIPERS_UNIT
        row["ivar"] = np.where(noise > 0, noise, np.inf) ** -2.0
    elif "ivar" in row:
        row["ivar"] = _repair_vipers(np.asarray(row["ivar"], dtype=np.float64))
    if "mask" in row:
        row["mask"] = row["mask"] != 0
    if re.fullmatch(r"\d+\.0", str(row.get("object_id"))):
        row["object_id"] = str(row["object_id"])[:-2]


def _repair_vipers(ivar: np.ndarray) -> np.ndarray:
    """1 / (noise * 1e17)^2 from what was stored, 1 / (noise * 1e34); a negative noise would lose its sign."""
    known = (ivar > 0) & np.isfinite(ivar)
    if known.any() and (found := float(np.median(ivar[known]))) > UNREPAIRED_IVAR:
        raise ValueError(
            f"ivar of VIPERS must be about 1e-17 as the Multimodal Universe ships it, found {found:.2g}: it was "
            "repaired already, read the row without correct_row, or the file with read_spectra(..., format='table')"
        )
    return np.where(known, ivar, 0) ** 2 * VIPERS_UNIT**2


_CORRECTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {"galah": _correct_galah, "vipers": _correct_vipers}


__all__ = ["PREFIX", "QUALITY", "correct_row", "flat_columns", "pixel_name"]
