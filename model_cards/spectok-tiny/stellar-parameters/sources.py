"""What a pipeline may be given, as `Spectrum` objects: everything where the package is installed, and without it
arrays, mappings and plain dataset rows.
"""

import functools
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from .spectrum import Spectrum

# Other names of the pixel columns, in lower case. "lambda" is the Multimodal Universe's, "loglam" is SDSS's.
WAVELENGTH_NAMES = {"lambda", "lam", "wave", "loglam", "spectral_axis"}
ERROR_NAMES = {"flux_error", "flux_err", "err"}
BITMASK_NAMES = {"pix_bitmask", "bitmask", "and_mask", "andmask", "pixel_flags"}
ALIASES = dict.fromkeys(WAVELENGTH_NAMES, "wavelength") | dict.fromkeys(ERROR_NAMES, "error")
ALIASES |= dict.fromkeys(BITMASK_NAMES, "bitmask")
PREFIXES = ("spectrum_", "spectrum.")  # the Multimodal Universe's HDF5 files, and structs that pandas flattened
# What the caller may give beside a flux, and what a mapping may hold to be one of arrays and not a dataset row.
ARRAY_FIELDS = (
    *("wavelength", "ivar", "error", "mask", "wavelength_unit", "medium", "frame", "flux_unit", "survey", "object_id"),
)
MAPPING_KEYS = {"flux", "truth", "labels", *ARRAY_FIELDS}
LIKENESS = 0.85  # of two names; "masks" and "mask" have 0.89, a catalogue's "flux_g" and "flux" 0.8
PIXEL_COLUMNS = ("flux", "wavelength", "ivar", "error", "mask", "bitmask", "truth")


def read_source(source: Any, fields: Mapping[str, Any]) -> list[Spectrum]:
    """The spectra of a source.

    Args:
        source: A `Spectrum`; a mapping of arrays; flux, shape (L,) or (n, L), with the rest in `fields`; a dataset row
            with pixel columns, also below the key `spectrum`; or, where the package is installed, all that its
            `read_spectra` takes, the bytes of a FITS file included. For arrays of several spectra, texts and labels
            are one for all or a list with one for each.
        fields: What is given beside the flux: wavelength, ivar or error, mask, wavelength_unit, medium, .... It counts
            instead of what a mapping holds.

    Raises:
        ImportError: If the source needs the installed package.
        ValueError: If it holds no spectrum, or is not what it should be.
    """
    if is_spectrum(source):
        _check_no_fields(source, fields)
        return [source]
    if not (isinstance(source, Mapping) or is_flux(source)):
        return _read_installed(source, fields, shown(source))
    row = source if isinstance(source, Mapping) else {"flux": source}
    given = {name: value for name, value in row.items() if value is not None} | dict(fields)
    if not given.keys() <= MAPPING_KEYS:
        _check_spelling(given)
        return _read_row(row, fields)
    if not_plain := _what_is_not_plain(given):
        return _read_installed(row, fields, not_plain)
    return _from_arrays(_replace(row, fields))


def is_spectrum(source: Any) -> bool:
    """Whether a source is a `Spectrum`, by its attributes: one that came with a checkpoint is of another class.

    Args:
        source: Anything.
    """
    return all(hasattr(source, name) for name in ("flux", "wavelength", "ivar", "good"))


def plain_name(column: str) -> str:
    """The name of a pixel column as `Spectrum` has it; other names in lower case.

    Args:
        column: Name of the column.
    """
    plain = column.lower()
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    return ALIASES.get(plain, plain)


def nested_columns(spectrum: Any) -> Mapping[str, Any]:
    """The pixel columns below the key `spectrum` of a dataset row: columns by name, or a list of pixels.

    Args:
        spectrum: What stands there; anything else has none.
    """
    if isinstance(spectrum, (list, tuple)) and spectrum and isinstance(spectrum[0], Mapping):
        return {name: [pixel[name] for pixel in spectrum] for name in spectrum[0]}
    return spectrum if isinstance(spectrum, Mapping) else {}


def is_stack(values: Any) -> bool:
    """Whether a column holds one vector per spectrum rather than one number per pixel.

    Args:
        values: The column.
    """
    if hasattr(values, "ndim"):
        return values.ndim > 1
    return isinstance(values, (list, tuple)) and bool(values) and hasattr(values[0], "__len__")


def is_per_spectrum(name: str, value: Any) -> bool:
    """Whether a column or keyword holds one entry per spectrum, and is not for all of them.

    Args:
        name: Name of the column.
        value: What it holds.
    """
    return is_stack(value) if plain_name(name) in PIXEL_COLUMNS else np.ndim(value) > 0


def entry(name: str, value: Any, index: int, count: int) -> Any:
    """The part of a column that belongs to one of several spectra; what is not per spectrum is for all of them.

    Args:
        name: Name of the column.
        value: What it holds.
        index: Which spectrum.
        count: Number of spectra.

    Raises:
        ValueError: If there are not as many entries as spectra.
    """
    if isinstance(value, Mapping):
        return {label: entry(label, values, index, count) for label, values in value.items()}
    if not is_per_spectrum(name, value):
        return value
    if len(value) != count:
        raise ValueError(f"{name} must have one entry per spectrum, found {len(value)} for {count} spectra")
    return None if value[index] is np.ma.masked else value[index]


def _check_spelling(row: Mapping[str, Any]) -> None:
    """Columns that nobody knows are left out of a dataset row; what is nearly a field of ours was meant as that."""
    if "flux" not in row:
        return
    for name in row.keys() - MAPPING_KEYS - {"SURVEY"}:  # which in DESI's catalogue is another thing
        plain = plain_name(str(name))
        if plain in (*PIXEL_COLUMNS, "object_id"):
            continue
        if meant := _meant(plain):
            raise ValueError(f"a spectrum has no {name!r}, found beside flux: spell it {meant!r} or leave it out")


@functools.lru_cache(maxsize=4096)
def _meant(name: str) -> str:
    """The field that a name is nearly that of; the rows of a catalogue all have the same names."""
    return next(iter(get_close_matches(name, sorted(MAPPING_KEYS | WAVELENGTH_NAMES), 1, LIKENESS)), "")


# Arrays --------------------------------------------------------------------------------------------------------------


def _what_is_not_plain(row: Mapping[str, Any]) -> str:
    """What of a row only the package can read, in words; "" = nothing."""
    if row.get("survey") and row.get("medium") is None:
        return f"a spectrum with survey={row['survey']!r} and no medium"
    if row.get("bitmask") is not None or _holds_bits(row.get("mask")):
        return "a bit mask"
    united = [name for name, value in row.items() if getattr(value, "unit", None) is not None]
    return f"{united[0]} with a unit" if united else ""


def _holds_bits(mask: Any) -> bool:
    """Whether a mask has integers beyond 0 and 1: then not every bit of it need mean a bad pixel."""
    if mask is None or getattr(mask, "dtype", None) == np.bool_:
        return False
    if isinstance(mask, (list, tuple)) and is_stack(mask):  # whose rows may be of different lengths
        return any(map(_holds_bits, mask))
    values = np.ma.getdata(mask.detach().cpu() if hasattr(mask, "detach") else mask)
    return values.dtype.kind in "iu" and bool(((values != 0) & (values != 1)).any())


def _replace(row: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What there is, with what the caller gives in place of it: a wavelength with its own unit, ivar or error."""
    replaced = {*fields, *(("wavelength_unit",) if "wavelength" in fields else ())}
    replaced |= {"ivar", "error"} if replaced & {"ivar", "error"} else set()
    merged = {name: value for name, value in row.items() if name not in replaced} | dict(fields)
    return {name: value for name, value in merged.items() if value is not None}


def _from_arrays(row: Mapping[str, Any]) -> list[Spectrum]:
    for name in ("flux", "wavelength"):
        if name not in row:
            found = f"only {', '.join(row)}" if row else "none of them"
            raise ValueError(f"a spectrum needs flux, wavelength and ivar or error, found {found}: pass {name}=...")
    if not is_stack(row["flux"]):
        _check_one(row)
        return [Spectrum.from_arrays(**row)]
    count = len(row["flux"])
    return [_build_numbered(row, index, count) for index in range(count)]


def _build_numbered(row: Mapping[str, Any], index: int, count: int) -> Spectrum:
    one = {name: entry(name, value, index, count) for name, value in row.items()}
    try:
        return Spectrum.from_arrays(**one)
    except ValueError as error:
        raise ValueError(f"spectrum {index}: {error}") from error


def _check_one(row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        if name not in PIXEL_COLUMNS and is_per_spectrum(name, value):
            raise ValueError(
                f"{name} must be one value for one spectrum, found {len(value)}: pass flux of shape (n, L)"
            )


# Dataset rows, and what only the package reads -----------------------------------------------------------------------


def _read_row(row: Mapping[str, Any], fields: Mapping[str, Any]) -> list[Spectrum]:
    """A dataset row, by the package where it is there: it knows the surveys' grids and the bits of their masks."""
    try:
        from spectok_hf.data.readers import read_spectra
    except ImportError:
        return _read_plain_row(row, fields)
    return read_spectra(row, **fields)


def _read_plain_row(row: Mapping[str, Any], fields: Mapping[str, Any]) -> list[Spectrum]:
    plain = _replace(_rename({**nested_columns(row.get("spectrum")), **row}), _rename(fields))
    if not_plain := _what_is_not_plain(plain):
        raise ImportError(_needs_package(not_plain))
    return _from_arrays(plain)


def _rename(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that are of use, by their names in `Spectrum`; labels are not."""
    found: dict[str, Any] = {}
    for column, value in columns.items():
        plain = plain_name(column)
        name = plain if plain in (*PIXEL_COLUMNS, "object_id") else column
        if value is None or name not in MAPPING_KEYS | {"bitmask"} or name == "labels":
            continue
        if name in found:
            raise ValueError(f"{column!r} gives {name} a second time: keep one of them, or pass {name}=")
        found[name] = value
    if any(column.lower().endswith("loglam") for column in columns):
        found.setdefault("wavelength_unit", "log10_angstrom")
    return found


def _read_installed(source: Any, fields: Mapping[str, Any], what: str) -> list[Spectrum]:
    try:
        from spectok_hf.data.readers import read_spectra
    except ImportError as error:
        raise ImportError(_needs_package(what)) from error
    spectra: list[Spectrum] = read_spectra(source, **fields)
    if not spectra:
        raise ValueError(f"{what} must hold a spectrum, found none: check it")
    return spectra


def _needs_package(what: str) -> str:
    return (
        f'{what} needs the installed package: pip install "spectok-hf[astro]", then import spectok_hf. Without it '
        "pass a Spectrum, plain arrays, a mapping or row of such, and a mask with True = bad"
    )


# What it is ----------------------------------------------------------------------------------------------------------


def is_flux(source: Any) -> bool:
    """Whether a source is flux: an array, a tensor, a list of numbers, or a list of such; tables are not.

    Args:
        source: What was given.
    """
    if isinstance(source, (list, tuple)):
        return bool(source) and (isinstance(source[0], Number) or is_flux(source[0]))
    # astropy, pyarrow, pandas, specutils
    table = any(hasattr(source, name) for name in ("colnames", "column_names", "iloc", "spectral_axis"))
    return hasattr(source, "__array__") and not table and not isinstance(source, np.ma.core.MaskedConstant)


def shown(source: Any) -> str:
    """A source in few words, for messages.

    Args:
        source: What was given.
    """
    return repr(str(source)) if isinstance(source, (str, Path)) else f"a {type(source).__name__}"


def _check_no_fields(source: Any, fields: Mapping[str, Any]) -> None:
    if fields:
        raise ValueError(
            f"{', '.join(fields)} belong to arrays, found {source!r}, which has its own: pass either of them"
        )


__all__ = [
    "ARRAY_FIELDS",
    "BITMASK_NAMES",
    "LIKENESS",
    "PIXEL_COLUMNS",
    "WAVELENGTH_NAMES",
    "entry",
    "is_flux",
    "is_per_spectrum",
    "is_spectrum",
    "is_stack",
    "nested_columns",
    "plain_name",
    "read_source",
    "shown",
]
# From spectok-hf; save_pretrained writes this file.
