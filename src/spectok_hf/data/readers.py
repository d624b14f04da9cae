"""`read_spectra`: spectra from FITS files, folders, arrays, mappings and dataset rows, as `Spectrum` objects."""

import glob
import warnings
from collections.abc import Iterable, Mapping, Sized
from dataclasses import fields as dataclass_fields
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from .formats import LAYOUTS, read_fits
from .formats.layout import plain_label
from .surveys import SURVEYS

FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.bz2")
FEW_SOURCES = 8  # up to this many are read without a progress bar

# Other names of the pixel columns, in lower case. "lambda" is the Multimodal Universe's, "loglam" is SDSS's.
WAVELENGTH_NAMES = {"lambda", "lam", "wave", "loglam"}
PIXEL_COLUMNS = ("flux", "wavelength", "ivar", "error", "mask", "truth")
SPECTRUM_FIELDS = {field.name for field in dataclass_fields(Spectrum)} - {"dropped"} | {"error", "wavelength_unit"}

# Scalar columns of dataset rows that are labels, in lower case. Neither ZWARN nor ZWARNING as a boolean: True means
# "good" in one generation of the Multimodal Universe's DESI and "warning" in the other.
LABEL_COLUMNS = {
    "class": "class",
    "spectype": "class",
    "subclass": "subclass",
    "redshift": "redshift",
    "z": "redshift",
    "zwarn": "zwarn",
    "zwarning": "zwarn",
    "teff": "teff",
    "logg": "logg",
    "feh": "feh",
    "fe_h": "feh",
    "rv": "rv",
    "radial_velocity": "rv",
    "ra": "ra",
    "dec": "dec",
    "snr": "snr",
    "age": "age",
    "log_stellar_mass": "log_stellar_mass",
    "log_ssfr": "log_ssfr",
    "metallicity": "metallicity",
}


def read_spectra(
    source: Any,
    *,
    format: str | None = None,
    merge_arms: bool = True,
    keep_gaps: bool = False,
    on_error: str = "raise",
    progress: bool | None = None,
    **fields: Any,
) -> list[Spectrum]:
    """Spectra from whatever holds them.

    | source | what is read |
    |---|---|
    | path of a FITS file | SDSS, BOSS and eBOSS spec files, DESI coadd and spectra files, LAMOST LRS files |
    | folder, glob pattern | all FITS files in and below the folder, or that match, in order of their names |
    | flux, shape (L,) or (n, L) | with `wavelength=` and `ivar=` or `error=`, shape (L,) or (n, L) each |
    | mapping | the same by key, and other fields of `Spectrum`; `lambda`, `wave`, `loglam` name the wavelength too |
    | dataset row | a mapping with the key `spectrum` (Multimodal Universe); known columns such as `Z` become labels |
    | `Spectrum` | itself |
    | list or other iterable | all its sources, in order |

    Bad pixels follow the rule of each survey (`SURVEYS`), not every bit of its mask; `Spectrum.report` says what was
    dropped. SDSS object ids are plate-mjd-fibre with zeros ("0266-51602-0107"), DESI's the TARGETID as text (the row
    number in files without a FIBERMAP), LAMOST's the OBSID, or "55862-B6212_sp06-005" where a file has none.
    All DESI rows are returned, also those that are bad everywhere. Flux is never converted, nor are air wavelengths.

    Args:
        source: What to read, see the table.
        format: "sdss", "desi" or "lamost" to force a FITS layout; absent = recognised from the content.
        merge_arms: Whether DESI's three arms become one spectrum of 7781 pixels, averaged with inverse-variance
            weights where they overlap. Otherwise each arm is a spectrum, named in `labels["arm"]`.
        keep_gaps: Whether APOGEE spectra keep the pixels between and beside the three chips, which hold nothing.
        on_error: "raise", or "warn" to skip what cannot be read of a folder, pattern or list, with a warning each.
        progress: Whether to show a progress bar; absent = for more than a few sources.
        **fields: For arrays, mappings and rows: further columns or fields of `Spectrum`, for all of them or (a list)
            one per spectrum. `survey=` sets medium and frame to the survey's where they are not given.

    Raises:
        FileNotFoundError: If a file is missing, a folder holds no FITS file, or a pattern matches nothing.
        ValueError: If a file is empty, truncated, not FITS or of an unknown layout, or a spectrum is impossible.
        ImportError: If a FITS file is to be read without astropy.
    """
    _check_options(format, on_error, fields)
    options: dict[str, Any] = {"format": format, "merge_arms": merge_arms, "keep_gaps": keep_gaps}
    if isinstance(source, Spectrum):
        _check_no_fields(fields, repr(source))
        return [source]
    if isinstance(source, Mapping):
        return _read_mapping({**source, **fields})
    if _is_flux(source):
        return _read_mapping({"flux": source, **fields})
    if isinstance(source, (str, Path)):
        _check_no_fields(fields, source)
        path = Path(source).expanduser()
        if _is_many(path):
            return _read_all(_expand(path), on_error, progress, options, {})
        return read_fits(path, **options)[0]
    if isinstance(source, Iterable):
        return _read_all(source, on_error, progress, options, fields)
    raise ValueError(
        "read_spectra takes a path, folder, glob pattern, array, mapping, Spectrum, or an iterable of these, "
        f"found {type(source).__name__}: pass its arrays, read_spectra(flux, wavelength=..., ivar=...)"
    )


# Many sources -------------------------------------------------------------------------------------


def _read_all(
    sources: Iterable, on_error: str, progress: bool | None, options: dict[str, Any], fields: dict[str, Any]
) -> list[Spectrum]:
    if listed := [name for name, value in fields.items() if isinstance(value, (list, tuple))]:
        raise ValueError(f"{', '.join(listed)} as a list goes with one array or mapping: put it into each source")
    spectra: list[Spectrum] = []
    files: set[Path] = set()  # a star's four GALAH files are one source, whichever of them comes first
    count = skipped = 0
    for count, source in enumerate(_with_progress(sources, progress), start=1):
        try:
            spectra += _read_new(source, files, on_error, options, fields)
        except (ValueError, OSError) as error:
            named = isinstance(source, (str, Path))  # their errors name the file
            if on_error == "raise":
                raise error if named else ValueError(f"source {count - 1}: {error}") from error
            warnings.warn(f"skipped {'' if named else f'source {count - 1}: '}{error}", stacklevel=3)
            skipped += 1
    if skipped:
        warnings.warn(f"read {count - skipped} of {count} sources, skipped {skipped}", stacklevel=3)
    return spectra


def _read_new(
    source: Any, files: set[Path], on_error: str, options: dict[str, Any], fields: dict[str, Any]
) -> list[Spectrum]:
    """The spectra of a source, but none of a file that was read together with an earlier one (`files` grows)."""
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is None or _is_many(path):
        return read_spectra(source, on_error=on_error, progress=False, **options, **fields)
    _check_no_fields(fields, path)
    if path.resolve() in files:
        return []
    spectra, companions = read_fits(path, **options)
    files.update(other.resolve() for other in companions if other != path)
    return spectra


def _with_progress(sources: Iterable, progress: bool | None) -> Iterable:
    if progress is None:
        progress = isinstance(sources, Sized) and len(sources) > FEW_SOURCES
    if not progress:
        return sources
    from tqdm.auto import tqdm

    return tqdm(sources, desc="reading spectra", unit="source")


def _is_many(path: Path) -> bool:
    return path.is_dir() or (glob.has_magic(str(path)) and not path.is_file())


def _expand(pattern: Path) -> list[Path]:
    """The FITS files in and below a folder, or the files that match a pattern, in order of their names."""
    if pattern.is_dir():
        files = sorted(path for path in pattern.rglob("*") if path.name.lower().endswith(FITS_SUFFIXES))
        if not files:
            raise FileNotFoundError(
                f"no FITS file in or below the folder {pattern}: expected names that end in {', '.join(FITS_SUFFIXES)}"
            )
        return files
    files = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True) if Path(name).is_file())
    if not files:
        raise FileNotFoundError(f"no file matches {pattern} (from {Path.cwd()}): check the pattern")
    return files


# Arrays, mappings, rows ---------------------------------------------------------------------------


def _is_flux(source: Any) -> bool:
    """Whether a source is flux: an array, a list of numbers, or a list of such."""
    if isinstance(source, (list, tuple)) and source:
        first = source[0]
        return isinstance(first, Number) or (not isinstance(first, Spectrum) and _is_flux(first))
    return hasattr(source, "__array__")


def _read_mapping(mapping: Mapping[str, Any]) -> list[Spectrum]:
    row = _flatten(mapping)
    for name, example in (("flux", "flux=..."), ("wavelength", "wavelength=...")):
        if row.get(name) is None:
            raise ValueError(f"a spectrum needs {name}, found only {', '.join(map(repr, mapping))}: pass {example}")
    if not _is_stack(row["flux"]):
        return [_build(row)]
    return [_build_numbered(one, index) for index, one in enumerate(_split(row))]


def _flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Pixel columns, fields of `Spectrum` and labels of a mapping; other columns of a dataset row are left out."""
    nested = mapping.get("spectrum")
    columns = {**(nested if isinstance(nested, Mapping) else {}), **mapping}
    row: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    for key, value in columns.items():
        name = "wavelength" if key.lower() in WAVELENGTH_NAMES else key.lower()
        if value is None:
            continue
        if name in row:
            raise ValueError(f"{key!r} gives {name} a second time: keep one of them")
        if name in PIXEL_COLUMNS or key in SPECTRUM_FIELDS:  # DESI's catalogue has a column SURVEY with other values
            row[name] = value
        elif name in LABEL_COLUMNS:
            labels[LABEL_COLUMNS[name]] = value
    if any(key.lower() == "loglam" for key in columns):
        row.setdefault("wavelength_unit", "log10_angstrom")
    given = row.get("labels", {})
    return row | {"labels": {**labels, **given} if isinstance(given, Mapping) else given}


def _is_stack(values: Any) -> bool:
    """Whether a column holds one vector per spectrum rather than one number per pixel."""
    if hasattr(values, "ndim"):
        return values.ndim > 1
    return isinstance(values, (list, tuple)) and bool(values) and hasattr(values[0], "__len__")


def _split(row: dict[str, Any]) -> list[dict[str, Any]]:
    count = len(row["flux"])
    return [{name: _entry(name, value, index, count) for name, value in row.items()} for index in range(count)]


def _entry(name: str, value: Any, index: int, count: int) -> Any:
    """The part of a column that belongs to one of several spectra; what is not per spectrum is for all."""
    if isinstance(value, Mapping):
        return {label: _entry(label, values, index, count) for label, values in value.items()}
    shared = not _is_stack(value) if name in PIXEL_COLUMNS else isinstance(value, (str, bytes)) or np.ndim(value) == 0
    if shared:
        return value
    if len(value) != count:
        raise ValueError(f"{name} must have one entry per spectrum, found {len(value)} for {count} spectra")
    return value[index]


def _build_numbered(row: dict[str, Any], index: int) -> Spectrum:
    try:
        return _build(row)
    except ValueError as error:
        raise ValueError(f"spectrum {index}: {error}") from error


def _build(row: dict[str, Any]) -> Spectrum:
    if not isinstance(row["labels"], Mapping):
        raise ValueError(f"labels must map names to values, found {type(row['labels']).__name__}: pass a dict")
    labels = {label: plain_label(value) for label, value in row["labels"].items() if np.ndim(value) == 0}
    if isinstance(labels.get("zwarn"), bool):
        del labels["zwarn"]
    row = row | {"labels": {label: value for label, value in labels.items() if value is not None}}
    facts = SURVEYS.get(str(row.get("survey")))
    return Spectrum.from_arrays(**({"medium": facts.medium, "frame": facts.frame} if facts else {}) | row)


# The door -----------------------------------------------------------------------------------------


def _check_options(format: str | None, on_error: str, fields: dict[str, Any]) -> None:
    check_choice("on_error", on_error, ("raise", "warn"))
    if format is not None:
        check_choice("format", format, tuple(LAYOUTS))
    known = SPECTRUM_FIELDS | WAVELENGTH_NAMES | set(LABEL_COLUMNS)
    unknown = [name for name in fields if name.lower() not in known]
    if unknown:
        raise TypeError(f"read_spectra got unknown keywords {unknown}; known: {', '.join(sorted(known))}")


def _check_no_fields(fields: dict[str, Any], source: str | Path) -> None:
    if fields:
        raise ValueError(
            f"keywords {', '.join(fields)} go with arrays, mappings and rows, found {source}: "
            "change the spectra that read_spectra returns instead"
        )


__all__ = ["read_spectra"]
