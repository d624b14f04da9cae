"""The Multimodal Universe (MMU): its files as `Spectrum` objects, and of which survey and generation each file is.

docs/multimodal_universe.md describes the layouts; `multimodal_universe_corrections` has what is wrong with their rows,
`multimodal_universe_writer` writes small copies of them.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, as_text, check_choice
from .multimodal_universe_corrections import PREFIX, QUALITY, correct_row, flat_columns, pixel_name
from .multimodal_universe_facts import GENERATIONS, HDF5_SUFFIXES, UNIVERSE_SURVEYS
from .multimodal_universe_writer import write_universe
from .rows import column_kind, read_mapping
from .tables import PARQUET_SUFFIXES, TableRows, as_table

SLAB = 64  # rows that are read at a time: 6 MB of DESI

# A file is of the survey of which it has all columns of one of these sets (lower case, "spectrum.x" as "spectrum_x").
SIGNS: dict[str, tuple[set[str], ...]] = {
    "galah": ({"spectrum_norm_lambda"}, {"filter_indices"}, {"spectrum_b_ind_start"}),
    "apogee": ({"spectrum_pseudo_continuum_flux"}, {"pseudo_continuum_spectrum_flux"}, {"alpha_m", "m_h"}),
    "vipers": ({"spectrum_noise", "spectrum_wave"}, {"redflag", "exptime"}),
    "desi": ({"zwarn"},),
    "sdss": ({"zwarning"},),
}
HATS_SIGNS = {"_healpix_29", "_hipscat_index"}
# What the v1 loader of DESI gives. It has no position, and the HATS catalogue has one: no column less will do, since
# a cut-down HATS catalogue would then pass for it, and ZWARN means the contrary there.
PREVIEW_DESI = {"z", "zerr", "zwarn", "ebv", "object_id"}
PREVIEW_DESI |= {f"{flux}_{band}" for flux in ("flux", "flux_ivar", "fiberflux", "fibertotflux") for band in "grz"}
POSITION = {"ra", "dec", "healpix"}
_HATS_PATH = re.compile(r"N(order|pix)=\d+")
_MARGIN_PATH = re.compile(r"(_margin|_\d+arcs(ec)?)$")
# First wavelength and pixel width, in Å, of the surveys whose pixels are corrected: lowest and highest.
_TELLTALE = {"galah": ((4711.0, 4716.0), (0.0455, 0.0465)), "vipers": ((5514.2, 5514.4), (7.13, 7.15))}


def count_rows(path: str | Path) -> int:
    """Number of rows of a Multimodal Universe file, or of a Parquet file; no pixel is read.

    Args:
        path: HDF5 or Parquet file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or has no spectra.
    """
    return _describe(Path(path)).count


def find_files(folder: str | Path) -> list[Path]:
    """The data files in and below a folder, sorted, each row in one of them.

    Left out are what a HATS catalogue holds a second time (margins, data_thumbnail.parquet), its indices, and files
    whose names begin with "_" or ".".

    Args:
        folder: A folder of HDF5 or Parquet files, or of HATS catalogues.

    Raises:
        FileNotFoundError: If there is no such folder, or no data file in it.
    """
    folder = Path(folder).expanduser()
    suffixes = HDF5_SUFFIXES + PARQUET_SUFFIXES
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder} (from {Path.cwd()}): check the path")
    every = [path for path in folder.rglob("*") if path.is_file()]
    kinds = {path.parent: kind for path in every if (kind := _catalogue_kind(path))}
    files = [path for path in every if path.name.lower().endswith(suffixes)]
    found = sorted(path for path in files if not _is_repetition(path, folder, kinds))
    if not found:
        raise FileNotFoundError(
            f"no data file of the Multimodal Universe in or below {folder}: expected names that end in "
            f"{', '.join(suffixes)}, besides margins and thumbnails of HATS catalogues"
        )
    return found


def read_rows(
    path: str | Path,
    start: int = 0,
    stop: int | None = None,
    *,
    survey: str | None = None,
    generation: str | None = None,
    on_error: Callable[[int, ValueError], None] | None = None,
    **fields: Any,
) -> Iterator[Spectrum]:
    """The spectra of a file, one after another, with the known errors of its generation corrected.

    HDF5 files are "v1". Parquet files are "hats" where they have the column `_healpix_29` or a path with `Norder=`,
    "preview" where they lie in the Hub's cache of `MultimodalUniverse`, or have all columns of the v1 loader and no
    position.
    The survey is told from columns that only it has, else from a folder named `mmu_SURVEY...`, or below one named
    `MultimodalUniverse`; SDSS rows with SURVEY = boss or eboss are "boss". Where the generation is not known and
    makes no difference it is not asked for. Other Parquet files with a spectrum per row are read as they are.

    Args:
        path: HDF5 or Parquet file.
        start: First row.
        stop: Row after the last one; beyond the end, or absent = to the end.
        survey: Key of `SURVEYS`, or any other name for spectra without known errors; absent = recognised.
        generation: "v1", "preview" or "hats"; absent = recognised.
        on_error: Takes the number of a row that cannot be read, and why; reading goes on. Absent = it is raised.
        **fields: Further columns or fields of `Spectrum` for all rows, which count instead of the file's; `mask=None`
            goes by ivar alone.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, has no spectra, or survey or generation cannot be told and matter. While
            iterating: if a row is impossible.
    """
    source = _resolve(_describe(Path(path)), survey, generation)
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"rows are those from start up to stop, 0 <= start <= stop, found {start} and {stop}")
    stop = source.count if stop is None else min(stop, source.count)
    return _read(source, start, stop, on_error, fields)


def universe_table(path: Path, survey: str | None = None) -> TableRows | None:
    """The rows of a file, corrected, for `read_spectra`; None where it is a Parquet file without known errors.

    Args:
        path: HDF5 or Parquet file.
        survey: Name of the survey; absent = recognised.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As `read_rows`.
    """
    source = _resolve(_describe(path), survey, None)
    if source.generation is None and not is_hdf5(path):
        return None
    return TableRows(source.count, lambda: map(source.correct, source.rows(0, source.count)))


def is_hdf5(path: Path) -> bool:
    """Whether the name of a file is that of an HDF5 file.

    Args:
        path: The file.
    """
    return path.name.lower().endswith(HDF5_SUFFIXES)


# Files -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """A file, and as what its rows are read.

    Args:
        path: The file.
        count: Number of rows.
        names: Its columns, those below `spectrum` as "spectrum.flux".
        quality: Whether it has a ZWARN or ZWARNING that is a boolean.
        survey: Name of the survey, None = not known.
        generation: None = rows are not corrected.
        mixed: Whether the rows say which part of SDSS they are of.
        whole: Whether `spectrum` is a list of pixels, which cannot be read in part.
    """

    path: Path
    count: int
    names: tuple[str, ...]
    quality: bool
    survey: str | None = None
    generation: str | None = None
    mixed: bool = False
    whole: bool = False

    @property
    def flat(self) -> set[str]:
        """Columns in lower case, "spectrum_flux" also for "spectrum.flux"."""
        return {name.lower().replace("spectrum.", PREFIX) for name in self.names}

    def rows(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        return (_hdf5_rows if is_hdf5(self.path) else _parquet_rows)(self, start, stop)

    def correct(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.generation is None or self.survey is None:
            return row if self.survey is None else {**row, "survey": self.survey}
        part = as_text(row.get("SURVEY", b"")) if self.mixed else ""
        return correct_row(row, "boss" if part in ("boss", "eboss") else self.survey, self.generation)


def _describe(path: Path) -> _Source:
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path} (looked in {path.absolute().parent}): check the path")
    if is_hdf5(path):
        return _describe_hdf5(path)
    if path.name.lower().endswith(PARQUET_SUFFIXES):
        return _describe_parquet(path)
    raise ValueError(f"{path} must be HDF5 or Parquet ({', '.join(HDF5_SUFFIXES + PARQUET_SUFFIXES)}), by its name")


def _resolve(source: _Source, survey: str | None, generation: str | None) -> _Source:
    """The file with survey and generation, as they are given, or else recognised."""
    _check_generation(source, generation)
    known = survey or _find_survey(source)
    in_universe = is_hdf5(source.path) or f"{PREFIX}flux" in source.flat or generation is not None
    if in_universe and known is None and (generation or is_hdf5(source.path)):
        raise ValueError(
            f"{source.path} does not say of which survey it is, by columns {', '.join(source.names[:12])}: pass "
            f"survey={', '.join(UNIVERSE_SURVEYS)}, or a name of your own for spectra without known errors"
        )
    if not in_universe or known not in UNIVERSE_SURVEYS:
        if survey is None and in_universe:
            _check_first_axis(source)
        return _replace(source, survey=survey)
    found = generation or _find_generation(source, known)
    if found is None:
        raise ValueError(
            f"{source.path} does not say of which generation it is, and {known} differs between them (docs/"
            'multimodal_universe.md): pass read_rows(path, generation="preview") for a file of MultimodalUniverse on '
            'the Hub, or "hats" for one of a HATS catalogue'
        )
    return _replace(source, survey=known, generation=found, mixed=survey is None and known == "sdss")


def _replace(source: _Source, **changes: Any) -> _Source:
    return _Source(**{**source.__dict__, **changes})


def _check_generation(source: _Source, generation: str | None) -> None:
    if generation is None:
        return
    check_choice("generation", generation, GENERATIONS)
    if (generation == "v1") != is_hdf5(source.path):
        raise ValueError(
            f'{source.path} must be HDF5 for generation="v1" and Parquet for the others, found {generation!r}: '
            "leave generation out for HDF5 files"
        )


def _find_survey(source: _Source) -> str | None:
    if f"{PREFIX}flux" not in source.flat:
        return None
    of_folders = _survey_of_folders(source.path)
    for survey, signs in SIGNS.items():
        if any(sign <= source.flat for sign in signs):
            return "boss" if (survey, of_folders) == ("sdss", "boss") else survey
    return of_folders


def _survey_of_folders(path: Path) -> str | None:
    parts = [part.lower() for part in path.absolute().parts[:-1]]
    for part, above in zip(reversed(parts), reversed(["", *parts[:-1]]), strict=True):
        words = re.split(r"[^a-z0-9]+", part)
        ours = words[0] == "mmu" or _is_cached(part) or above == "multimodaluniverse"
        if ours and (found := [word for word in words if word in (*UNIVERSE_SURVEYS, "eboss")]):
            return "boss" if found[-1] == "eboss" else found[-1]  # mmu_sdss_eboss
    return None


def _is_cached(folder: str) -> bool:
    """Whether a folder is that of a preview in the cache of huggingface_hub."""
    return folder.lower().startswith("datasets--multimodaluniverse--")


def _find_generation(source: _Source, survey: str) -> str | None:
    path = source.path.absolute()
    if is_hdf5(source.path):
        return "v1"
    if HATS_SIGNS & source.flat or any(_HATS_PATH.match(part) for part in path.parts):
        return "hats"
    if any(map(_is_cached, path.parts)):
        return "preview"
    if survey == "desi":
        whole = source.flat >= PREVIEW_DESI and not POSITION & source.flat
        return "preview" if whole or not source.quality else None
    if survey == "galah":
        return "preview" if "filter_indices" in source.flat else None
    return "preview"  # what is wrong with SDSS, APOGEE and VIPERS is the same in "hats"


def _check_first_axis(source: _Source) -> None:
    """Refuse pixels that need a correction in a file that does not say so."""
    row = next(iter(source.rows(0, min(source.count, 1))), {})
    axis = np.asarray(flat_columns(row).get("wavelength", ()), dtype=np.float64)
    if axis.ndim != 1 or len(axis) < 2:
        return
    for survey, ((low, high), (narrow, wide)) in _TELLTALE.items():
        if low <= axis[0] <= high and narrow <= axis[1] - axis[0] <= wide:
            raise ValueError(
                f"{source.path} has the wavelengths of {survey}, whose rows need a correction, and no column that "
                f'says so: pass read_rows(path, survey="{survey}", generation=...), or, for spectra that are right, '
                "another survey= or read_spectra(..., format='table')"
            )


def _read(
    source: _Source,
    start: int,
    stop: int,
    on_error: Callable[[int, ValueError], None] | None,
    fields: Mapping[str, Any],
) -> Iterator[Spectrum]:
    for number, row in enumerate(source.rows(start, stop), start):
        try:
            (spectrum,) = read_mapping(source.correct(row), fields)
        except ValueError as error:
            if on_error is None:
                raise ValueError(f"{source.path}, row {number}: {error}") from error
            on_error(number, error)
            continue
        yield spectrum


# HDF5 ------------------------------------------------------------------------------------------------


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:  # h5py raises both where data are cut short
        raise ValueError(f"{path} cannot be read as HDF5 ({error}): download it again") from error


def _describe_hdf5(path: Path) -> _Source:
    import h5py

    with _open_hdf5(path) as file:
        names = tuple(name for name in file if isinstance(file[name], h5py.Dataset))
        flux = next((file[name] for name in names if pixel_name(name) == "flux"), None)
        if flux is None or flux.ndim != 2:
            found = f"{', '.join(list(file)[:12]) or 'nothing'}"
            raise ValueError(
                f"{path} must hold spectrum_flux of shape (rows, pixels) and its other columns as datasets, found "
                f"{found}: it is no file of the Multimodal Universe; read it with h5py and pass arrays"
            )
        return _Source(path, len(flux), names, quality=False)


def _hdf5_rows(source: _Source, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
    with _open_hdf5(source.path) as file:
        names = [name for name in source.names if _is_used(name) and file[name].shape[:1] == (source.count,)]
        for first in range(start, stop, SLAB):
            last = min(first + SLAB, stop)
            slab = {name: _native(file[name][first:last]) for name in names}
            for index in range(last - first):
                yield {name: values[index] for name, values in slab.items()}


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_used(name: str) -> bool:
    return bool(pixel_name(name)) or name == "SURVEY" or column_kind(name) in ("label", "object_id")


# Parquet ---------------------------------------------------------------------------------------------


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}): download it again") from error


def _describe_parquet(path: Path) -> _Source:
    import pyarrow.types as types

    with _open_parquet(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    names: list[str] = []
    for field in schema:
        names += [f"{field.name}.{part}" for part in _parts(field)] or [field.name]
    quality = any(field.name.lower() in QUALITY and types.is_boolean(field.type) for field in schema)
    whole = any(field.name == "spectrum" and not types.is_struct(field.type) for field in schema)
    return _Source(path, count, tuple(names), quality, whole=whole)


def _parts(field: Any) -> list[str]:
    """Names of the columns below `spectrum`: a struct of lists, or a list of structs."""
    kind: Any = field.type if field.name == "spectrum" else None
    kind = getattr(kind, "value_type", kind)
    return [kind.field(index).name for index in range(getattr(kind, "num_fields", 0))]


def _parquet_rows(source: _Source, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
    columns = [name for name in source.names if _is_used(name) or column_kind(name)] or list(source.names)
    if source.whole:
        columns = [*dict.fromkeys("spectrum" if name.startswith("spectrum.") else name for name in columns)]
    with _open_parquet(source.path) as file:
        first, groups = 0, []
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if first < stop and last > start:
                groups.append((group, first))
            first = last
        skip = start - groups[0][1] if groups else 0
        remaining = stop - start
        for batch in file.iter_batches(SLAB, row_groups=[group for group, _ in groups], columns=columns):
            own = batch.slice(skip, max(remaining, 0))
            skip, remaining = max(skip - batch.num_rows, 0), remaining - own.num_rows
            rows = as_table(own)
            if not isinstance(rows, TableRows):
                raise ValueError(f"{source.path} must have a spectrum per row, found a pixel: use read_spectra")
            yield from rows
            if remaining <= 0:
                return


# HATS ------------------------------------------------------------------------------------------------


def _is_repetition(path: Path, folder: Path, kinds: Mapping[Path, str]) -> bool:
    """Whether the rows of a file stand in another one, or are none; `kinds` are the catalogues, by their folders."""
    if path.name.startswith(("_", ".")) or path.name == "data_thumbnail.parquet":
        return True
    within = [above for above in path.parents if above == folder or folder in above.parents]
    kind = next((kinds[above] for above in within if above in kinds), None)
    return kind != "object" if kind else any(_MARGIN_PATH.search(above.name) for above in within)


def _catalogue_kind(path: Path) -> str:
    """What the properties of a HATS catalogue say that it is: "object", "margin", "index", ...; "" = another file."""
    if path.name not in ("hats.properties", "properties"):
        return ""
    found = re.search(r"^(?:dataproduct|catalog)_type\s*=\s*(\w+)", path.read_text(errors="replace"), re.MULTILINE)
    return found[1].lower() if found else ""


__all__ = [
    "GENERATIONS",
    "correct_row",
    "count_rows",
    "find_files",
    "is_hdf5",
    "read_rows",
    "universe_table",
    "write_universe",
]
