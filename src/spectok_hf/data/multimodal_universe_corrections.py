"""What is wrong with rows of the Multimodal Universe, and the arithmetic that puts it right."""

import ast
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..models.sources import PREFIXES, nested_columns, plain_name
from ..models.spectrum import Spectrum, as_text, check_choice
from .multimodal_universe_facts import GALAH_SHIFT, GENERATIONS, UNIVERSE_SURVEYS, VIPERS_UNIT, shift_arms
from .surveys import SURVEYS

PREFIX = PREFIXES[0]
PIXELS = ("flux", "ivar", "wavelength", "mask", "bitmask")
ONLY_BELOW = {"noise": "noise", "flux_ivar": "ivar"}  # below `spectrum`; elsewhere they are columns of a catalogue
GALAH_COLUMNS = {"norm_lambda", "filter_indices"}  # which `correct_row` takes away
QUALITY = ("zwarn", "zwarning")
UNREPAIRED_IVAR = 1e-9  # of VIPERS: as shipped it is about 1e-17, 1e-14 at most, and in truth about 1
GALAH_BLOCK, GALAH_OUTLIER = 64, 100.0  # pixels; ivar over the median of its block
UNCORRECTED = (
    "rows of {} as the Multimodal Universe ships them ({}) are read as they are: pass each through correct_row(row, "
    '"{}", generation) of spectok_hf.data.multimodal_universe, or generation= to SpectrumStream'
)


def correct_row(row: Mapping[str, Any], survey: str, generation: str) -> dict[str, Any]:
    """A row of the Multimodal Universe with its known errors corrected, for `read_spectra`.

    Pixel columns are arrays under their plain names (flux, ivar, wavelength, mask), without those of no use (norm_*,
    lsf_*); ZWARN and ZWARNING are numbers with 0 = good, the identifier is plain text, and survey and flux_unit are
    set. A row must be corrected once.

    Args:
        row: Columns by name, pixels below `spectrum` (columns or a list of pixels), or named `spectrum.flux` or
            `spectrum_flux`, as `load_dataset(..., streaming=True)` gives them, also with the format numpy or torch.
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
    if corrected.get("object_id") is not None:
        corrected["object_id"] = _as_identifier(corrected["object_id"])
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
        if values is None or plain == "" or name.lower() in GALAH_COLUMNS:
            continue
        if plain in flat:
            raise ValueError(f"{name!r} gives {plain} a second time: keep one of them")
        flat[name if plain is None else plain] = values if plain is None else _as_pixels(plain, values)
    return flat


def warn_of_known_errors(row: Mapping[str, Any], spectra: Iterable[Spectrum]) -> None:
    """Warn of a row of the Multimodal Universe that was read without `correct_row`, where it can be told.

    Args:
        row: Columns by name, as they were read.
        spectra: What they became.
    """
    names = {own_name(name) for name in (*row, *nested_columns(row.get("spectrum")))}
    for spectrum in spectra:
        if spectrum.survey in (None, "galah") and names & GALAH_COLUMNS:
            warnings.warn(UNCORRECTED.format("GALAH", "wavelengths 5.8 km/s too red", "galah"), stacklevel=3)
        elif spectrum.survey == "vipers" and _is_unrepaired(spectrum.ivar):
            warnings.warn(UNCORRECTED.format("VIPERS", "ivar about 1e-17", "vipers"), stacklevel=3)


@functools.lru_cache(maxsize=4096)
def pixel_name(column: str) -> str | None:
    """What a column is called in a row of ours; "" = a pixel column of no use, None = no pixel column.

    Args:
        column: Name of the column.
    """
    below = column.lower().startswith(PREFIXES)
    plain = plain_name(column)
    if below and plain in ONLY_BELOW:
        return ONLY_BELOW[plain]
    if plain in PIXELS and own_name(column) != "loglam":  # whose unit `read_mapping` takes from the name
        return plain
    return "" if below else None


@functools.lru_cache(maxsize=4096)
def own_name(column: str) -> str:
    """The name of a column in lower case, without the prefix of a pixel column.

    Args:
        column: Name of the column.
    """
    lower = column.lower()
    return next((lower.removeprefix(prefix) for prefix in PREFIXES if lower.startswith(prefix)), lower)


def _as_pixels(name: str, values: Any) -> np.ndarray:
    """A native array; what a list lacks, or numpy.ma hides, is a bad pixel."""
    missing = True if name == "mask" else np.nan
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        values = np.ma.filled(values if name == "mask" else values.astype(np.float64), missing)
    pixels = np.asarray(values)
    if pixels.dtype.kind == "O":
        pixels = np.array([missing if value is None else value for value in values])
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _as_identifier(value: Any) -> str | None:
    """Plain text; of the text of bytes, "b'caf\\xc3\\xa9'", what the bytes say."""
    if isinstance(value, str) and re.fullmatch(r"b'.*'|b\".*\"", value.strip()):
        value = ast.literal_eval(value.strip())
    return as_text(value) or None


def _as_warning(name: str, value: Any, survey: str, generation: str) -> Any:
    """The flag of the redshift as a number, 0 = good; the bits of v1 stay as they are."""
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, bool):
        if survey == "desi" and generation == "preview" and value == value:
            raise ValueError(
                f"{name} of DESI must be a boolean in a preview, where True is good, found {value!r}: if it is a "
                'number whose 0 is good, read the row without correct_row, or as generation="hats"'
            )
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
        trusted = (row["flux"] > 0) & np.isfinite(row["ivar"])
        doubtful = (row["flux"] <= 0) | _stands_out(np.where(trusted, row["ivar"], 0))
        row["ivar"] = np.where(doubtful, 0, row["ivar"])


def _stands_out(ivar: np.ndarray) -> np.ndarray:
    """Pixels whose error is less than a tenth of what it is around them, which no light explains, shape (L,)."""
    blocks = np.pad(ivar, (0, -len(ivar) % GALAH_BLOCK)).reshape(-1, GALAH_BLOCK)
    # The median of those above 0, which stand last: the lower of two. Without any of them it is 0.
    known = np.count_nonzero(blocks > 0, axis=1, keepdims=True)
    typical = np.take_along_axis(np.sort(blocks, axis=1), GALAH_BLOCK - known + (known - 1) // 2, axis=1)
    return (blocks > GALAH_OUTLIER * typical).reshape(-1)[: len(ivar)]


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
    known = ivar[(ivar > 0) & np.isfinite(ivar)]
    if len(known) and not _is_unrepaired(known):
        raise ValueError(
            "ivar of VIPERS must be about 1e-17 as the Multimodal Universe ships it, found "
            f"{float(np.median(known)):.2g}: it was repaired already, read the row without correct_row, or the "
            "Parquet file with read_spectra(..., format='table')"
        )
    return np.where(ivar > 0, ivar, 0) ** 2 * VIPERS_UNIT**2


def _is_unrepaired(ivar: np.ndarray) -> bool:
    known = ivar[(ivar > 0) & np.isfinite(ivar)]
    return len(known) > 0 and float(np.median(known)) <= UNREPAIRED_IVAR


_CORRECTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {"galah": _correct_galah, "vipers": _correct_vipers}


__all__ = [
    "GALAH_COLUMNS",
    "PREFIX",
    "QUALITY",
    "correct_row",
    "flat_columns",
    "own_name",
    "pixel_name",
    "warn_of_known_errors",
]
