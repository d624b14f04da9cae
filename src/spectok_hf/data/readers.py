"""`read_spectra`: spectra from files, tables, arrays, rows and specutils objects, as `Spectrum` objects."""

import glob
import io
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sized
from pathlib import Path
from typing import Any

from ..models.sources import is_flux, is_per_spectrum
from ..models.spectrum import Spectrum, check_choice
from .formats import LAYOUTS, UnknownLayoutError, has_layout, read_fits
from .formats.files import COMPRESSIONS
from .multimodal_universe import files_below, find_files, is_hdf5, universe_table, without_repetitions
from .multimodal_universe_corrections import warn_of_known_errors
from .rows import check_keywords, read_mapping
from .specutils_objects import FORMAT as SPECUTILS
from .specutils_objects import as_mapping, is_specutils_object, load
from .tables import PARQUET_SUFFIXES, TableRows, as_table, find_fits_table, is_table_file, read_table_file

FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.bz2")
READ_IT_YOURSELF = "Read it yourself and pass arrays: read_spectra(flux, wavelength=..., ivar=...)"
FEW_SOURCES = 8  # up to this many are read without a progress bar
Correction = Callable[[Mapping[str, Any]], Mapping[str, Any]]


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
    | FITS file of a survey | SDSS, BOSS, eBOSS spec; DESI coadd, spectra; LAMOST LRS, MRS; GALAH; Gaia XP sampled |
    | | APOGEE apStar, aspcapStar, apVisit, mwmStar |
    | other FITS file | its only table with flux, wavelength and errors, else what a loader of specutils makes of it |
    | Parquet, CSV, ECSV file | a spectrum per row, arrays also as text "[1.0, 2.0]"; or one, with a pixel per row |
    | HDF5 file | Multimodal Universe: SDSS, DESI, GALAH, APOGEE, VIPERS; its Parquet files as well, see `read_rows`; |
    | | or columns flux, wavelength, ivar with a row per spectrum |
    | bytes | the content of a FITS file, possibly compressed |
    | folder, glob pattern | all FITS files in and below the folder (if there are none, those of the Multimodal |
    | | Universe), or all files that match, in order of their names, but what repeats rows of a HATS catalogue |
    | flux, shape (L,) or (n, L) | with `wavelength=` and `ivar=` or `error=`, shape (L,) or (n, L) each |
    | mapping | the same by key, and other fields of `Spectrum`; see below for the names of columns |
    | dataset row | a mapping with the key `spectrum`; known columns such as `Z` become labels. Rows of the |
    | | Multimodal Universe are read as they are, errors included: `correct_row` corrects them |
    | table in memory | pandas, astropy, pyarrow, `datasets.Dataset`, a FITS table, a structured array: a spectrum |
    | | per row, or a pixel per row |
    | specutils object | `Spectrum` (n-D: one per row), `SpectrumCollection`, `SpectrumList` |
    | `Spectrum` | itself |
    | list or other iterable | all its sources, in order |

    Columns, in any case: flux; wavelength, lambda, lam, wave, spectral_axis (Å, or `wavelength_unit=`), loglam; ivar,
    or error, flux_error, flux_err, err; mask (True = bad); object_id, targetid, source_id, .... Units of astropy
    columns and Quantities are obeyed: the wavelength may be in any unit of length, frequency or energy. Integer bit
    masks (pix_bitmask, bitmask, and_mask, pixel_flags, or a `mask` with values above 1) need `survey=`, whose
    `bad_bits` are obeyed; `mask=None` goes by ivar alone. With `survey=`, wavelengths within 0.2 km/s (the
    rounding of float32) of the survey's grid are put on it exactly. A keyword counts instead of the column.

    Bad pixels follow the rule of each survey (`SURVEYS`), not every bit of its mask; `Spectrum.report` says what was
    dropped. SDSS object ids are plate-mjd-fibre with zeros ("0266-51602-0107"), DESI's the TARGETID as text (the row
    number in files without a FIBERMAP), LAMOST's the OBSID, or "55862-B6212_sp06-005" where a file has none.
    All DESI rows are returned, also those that are bad everywhere. Flux is never converted, nor are air wavelengths;
    only Gaia XP, given in W m-2 nm-1, becomes 1e-17 erg/s/cm2/Angstrom, as its ivar would leave float32. Its errors
    are strongly correlated between samples. specutils says neither air nor vacuum, and few headers do (AIRORVAC, a
    CTYPE1 of AWAV): pass `medium=`, which counts before them.

    Args:
        source: What to read, see the table.
        format: A key of `LAYOUTS` ("sdss", "desi", "lamost", ...) to force a FITS layout, "table" for a FITS table,
            "specutils" for any file that specutils knows, or with one of its loaders, "specutils:DESI coadd"; absent =
            recognised from the content. What was read by specutils says so in `labels["format"]`.
        merge_arms: Whether DESI's three arms become one spectrum of 7781 pixels, averaged with inverse-variance
            weights where they overlap. Otherwise each arm is a spectrum, named in `labels["arm"]`.
        keep_gaps: Whether APOGEE spectra keep the pixels between and beside the three chips, which hold nothing.
        on_error: "raise", or "warn" to skip what cannot be read of a folder, pattern, list or table, with a warning
            each.
        progress: Whether to show a progress bar; absent = for more than a few sources.
        **fields: For all but FITS layouts and `Spectrum`: further columns or fields of `Spectrum`, for all spectra or
            (a list) one for each. `survey=` sets medium and frame to the survey's where they are not given.

    Raises:
        FileNotFoundError: If a file is missing, a folder holds no FITS file, or a pattern matches nothing.
        ValueError: If a file is empty, truncated, of an unknown layout, a bit mask has no names for its bits, or a
            spectrum is impossible.
        ImportError: If a FITS or ECSV file is to be read without astropy.
    """
    _check_options(format, on_error, fields)
    options: dict[str, Any] = {"format": format, "merge_arms": merge_arms, "keep_gaps": keep_gaps}
    if isinstance(source, Spectrum):
        _check_no_fields(fields, repr(source))
        return [source]
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if _is_many(path):
            files = _expand(path)
            if format is None and not all(is_table_file(file) or is_hdf5(file) for file in files):
                _check_no_fields(fields, path)
            return _read_all(files, on_error, progress, options, fields)
        return _read_file(path, on_error, progress, options, fields)[0]
    if isinstance(source, (bytes, bytearray)):
        return _read_bytes(bytes(source), on_error, progress, options, fields)
    _check_not_open(source)
    source = _unpack(source)
    if isinstance(source, Mapping):
        spectra = read_mapping(source, fields)
        if format != "table":  # which is asked for to have rows as they are
            warn_of_known_errors(source, spectra)
        return spectra
    if is_flux(source):
        return read_mapping({"flux": source}, fields)
    if isinstance(source, Iterable):
        return _read_all(source, on_error, progress, options, fields)
    raise ValueError(
        "read_spectra takes a path, folder, glob pattern, bytes of a FITS file, array, mapping, table, specutils "
        f"object, Spectrum, or an iterable of these, found {type(source).__name__}: "
        "pass its arrays, read_spectra(flux, wavelength=..., ivar=...)"
    )


def _unpack(source: Any) -> Any:
    """A table as its rows; a row of one, or a specutils object, as a mapping; anything else as it is."""
    if is_specutils_object(source):
        return as_mapping(source)
    table = as_table(source)
    return source if table is None else table


# One file -----------------------------------------------------------------------------------------


def _read_file(
    path: Path, on_error: str, progress: bool | None, options: dict[str, Any], fields: dict[str, Any]
) -> tuple[list[Spectrum], list[Path]]:
    """The spectra of one file, and the files that they were read from."""
    format = options["format"] or ("table" if is_table_file(path) else "")
    if not options["format"] and (universe := _universe_rows(path, fields)) is not None:
        rows, correct = universe
        return _read_columns(path, rows, on_error, progress, options, fields, correct), [path]
    if format == "table":
        table = read_table_file(path) if is_table_file(path) else find_fits_table(path)
        return _read_columns(path, table, on_error, progress, options, fields), [path]
    if format.startswith(SPECUTILS):
        return _read_by_specutils(path, format, "", fields), [path]
    if fields and (format or has_layout(path)):
        _check_no_fields(fields, path)
    try:
        return read_fits(path, **options)
    except UnknownLayoutError as error:
        unknown = error
    except ValueError as error:
        if format or not _is_text(path):
            raise
        unknown = UnknownLayoutError(str(error))
    if format:
        raise ValueError(f"{unknown}. {READ_IT_YOURSELF}") from unknown
    if not _is_text(path) and (table := find_fits_table(path)) is not None:
        return _read_columns(path, table, on_error, progress, options, fields), [path]
    return _read_by_specutils(path, SPECUTILS, f"{unknown}; ", fields), [path]


def _universe_rows(path: Path, fields: dict[str, Any]) -> tuple[TableRows, Correction] | None:
    """The rows of a file of the Multimodal Universe, and what corrects each; None of any other one but HDF5."""
    if not (is_hdf5(path) or path.name.lower().endswith(PARQUET_SUFFIXES)):
        return None
    survey = fields.get("survey")
    return universe_table(path, survey if isinstance(survey, str) else None)


def _read_bytes(
    content: bytes, on_error: str, progress: bool | None, options: dict[str, Any], fields: dict[str, Any]
) -> list[Spectrum]:
    """The spectra of a file that is in memory; only FITS and its compressions are told apart by their content."""
    if not content.startswith((b"SIMPLE", *COMPRESSIONS)):
        raise ValueError(
            f"bytes must be the content of a FITS file, which starts with SIMPLE, found {content[:16]!r}: read other "
            "files from their path"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spectrum.fits"
        path.write_bytes(content)
        try:
            return _read_file(path, on_error, progress, options, fields)[0]
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), f"the FITS file of {len(content)} bytes")) from error


def _read_columns(
    path: Path,
    table: Any,
    on_error: str,
    progress: bool | None,
    options: dict[str, Any],
    fields: dict[str, Any],
    correct: Correction | None = None,
) -> list[Spectrum]:
    if table is None:
        raise ValueError(
            f"{path} must hold one table with flux, wavelength, and ivar or error: found none, or several"
        )
    try:
        if isinstance(table, Mapping):
            return read_mapping(table, fields)
        return _read_all(table, on_error, progress, options, fields, correct)
    except ValueError as error:
        named = str(error).startswith(str(path))  # a file that is damaged further down
        raise error if named else ValueError(f"{path}: {error}") from error


def _read_by_specutils(path: Path, format: str, unknown: str, fields: dict[str, Any]) -> list[Spectrum]:
    """What specutils makes of a file; `unknown` says why our own layouts do not read it."""
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path} (looked in {path.absolute().parent}): check the path")
    try:
        objects, provenance = load(path, format.partition(":")[2] or None)
    except ValueError as error:
        raise ValueError(f"{unknown or f'{path}: '}{error}. {READ_IT_YOURSELF}") from error
    try:
        spectra = [spectrum for one in objects for spectrum in read_mapping(as_mapping(one), fields)]
    except ValueError as error:
        raise ValueError(f"{path}, read by specutils (format={provenance!r}): {error}") from error
    for spectrum in spectra:
        spectrum.labels.setdefault("format", provenance)
    return spectra


def _is_text(path: Path) -> bool:
    """Whether a file is neither FITS, by its name or content, nor compressed, nor a web page."""
    if path.name.lower().endswith(FITS_SUFFIXES):
        return False
    with path.open("rb") as file:
        head = file.read(80).strip()
    return bool(head) and not head.startswith((b"SIMPLE", b"<", *COMPRESSIONS))


# Many sources -------------------------------------------------------------------------------------


def _read_all(
    sources: Iterable,
    on_error: str,
    progress: bool | None,
    options: dict[str, Any],
    fields: dict[str, Any],
    correct: Correction | None = None,
) -> list[Spectrum]:
    if listed := [name for name, value in fields.items() if is_per_spectrum(name, value)]:
        raise ValueError(f"{', '.join(listed)} as a list goes with one array or mapping: put it into each source")
    what = "row" if isinstance(sources, TableRows) else "source"
    spectra: list[Spectrum] = []
    files: set[Path] = set()  # a star's four GALAH files are one source, whichever of them comes first
    count = skipped = 0
    for count, source in enumerate(_with_progress(sources, progress), start=1):
        try:
            spectra += read_new(source if correct is None else correct(source), files, on_error, options, fields)
        except (ValueError, OSError) as error:
            named = isinstance(source, (str, Path))  # their errors name the file
            if on_error == "raise":
                raise error if named else ValueError(f"{what} {count - 1}: {error}") from error
            warnings.warn(f"skipped {'' if named else f'{what} {count - 1}: '}{error}", stacklevel=3)
            skipped += 1
    if skipped:
        warnings.warn(f"read {count - skipped} of {count} {what}s, skipped {skipped}", stacklevel=3)
    return spectra


def read_new(
    source: Any, files: set[Path], on_error: str, options: dict[str, Any], fields: dict[str, Any]
) -> list[Spectrum]:
    """The spectra of a source, but none of a file that was read together with an earlier one.

    Args:
        source: As for `read_spectra`.
        files: The files that were read together with others so far; it grows.
        on_error: As for `read_spectra`.
        options: Further options of `read_spectra`.
        fields: Its fields.
    """
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is None or _is_many(path):
        return read_spectra(source, on_error=on_error, progress=False, **options, **fields)
    if path.resolve() in files:
        return []
    spectra, companions = _read_file(path, on_error, False, options, fields)
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
    """The FITS files in and below a folder, without any those of the Multimodal Universe; or what fits a pattern."""
    if pattern.is_dir():
        files = [path for path in files_below(pattern) if path.name.lower().endswith(FITS_SUFFIXES)]
        try:
            return files or find_files(pattern)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"no FITS file in or below the folder {pattern}: expected names that end in "
                f"{', '.join(FITS_SUFFIXES)}; and {error}"
            ) from error
    found = sorted(Path(name) for name in glob.glob(str(pattern), recursive=True) if Path(name).is_file())
    files = without_repetitions(found)
    if not files:
        what = f", but {found[0].name}, whose rows stand in other files or which has none" if found else ""
        raise FileNotFoundError(f"no file matches {pattern} (from {Path.cwd()}){what}: check the pattern")
    return files


# The door -----------------------------------------------------------------------------------------


def _check_options(format: str | None, on_error: str, fields: dict[str, Any]) -> None:
    check_choice("on_error", on_error, ("raise", "warn"))
    if format is not None and not format.startswith(f"{SPECUTILS}:"):
        check_choice("format", format, (*LAYOUTS, "table", SPECUTILS))
    check_keywords("read_spectra", fields)


def _check_not_open(source: Any) -> None:
    """Refuse open files, of which Python would iterate the lines or HDUs."""
    name = type(source).__name__
    if isinstance(source, io.IOBase) or name == "HDUList":
        table = ", or one of its tables, hdus[1]" if name == "HDUList" else ""
        raise ValueError(f"read_spectra opens files itself, found an open one ({name}): pass the file's name{table}")


def _check_no_fields(fields: dict[str, Any], source: str | Path) -> None:
    if fields:
        raise ValueError(
            f"keywords {', '.join(fields)} go with arrays, mappings and rows, found {source}: change the spectra that "
            'read_spectra returns instead, or pass format="table" or "specutils" if the file is read as such'
        )


__all__ = ["read_new", "read_spectra"]
