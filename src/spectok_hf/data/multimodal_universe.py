"""The Multimodal Universe (MMU): its files as `Spectrum` objects, and of which survey and generation each file is.

docs/multimodal_universe.md describes the layouts; `multimodal_universe_corrections` has what is wrong with their rows,
`multimodal_universe_writer` writes small copies of them.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, as_text, check_choice
from .multimodal_universe_corrections import PREFIX, QUALITY, correct_row, flat_columns, pixel_name
from .multimodal_universe_facts import GENERATIONS, HDF5_SUFFIXES, UNIVERSE_SURVEYS, arm_slices
from .multimodal_universe_writer import write_universe
from .rows import check_keywords, column_kind, read_mapping
from .surveys import SURVEYS
from .tables import PARQUET_SUFFIXES, TableRows, as_table, open_parquet

SLAB = 64  # rows that are read at a time: 6 MB of DESI

# Pixel columns that only the Multimodal Universe has under these names: all of one of these sets.
LAYOUTS = ({"spectrum_flux", "spectrum_lambda"}, {"spectrum_flux", "spectrum_noise", "spectrum_wave"})
# A file in this layout is of the survey of which it has all columns of one of these sets (lower case, "spectrum.x" as
# "spectrum_x"). None of them by itself says enough, but for a ZWARN of a type that nobody else gives it.
SIGNS: dict[str, tuple[set[str], ...]] = {
    "galah": (
        {"spectrum_norm_lambda", "spectrum_norm_flux"},
        {"spectrum_norm_lambda", "filter_indices"},
        {"spectrum_norm_lambda", "spectrum_b_ind_start"},
    ),
    "apogee": (
        {"spectrum_pseudo_continuum_flux", "spectrum_pseudo_continuum_ivar"},
        {"pseudo_continuum_spectrum_flux", "alpha_m"},
        {"alpha_m", "m_h", "radial_velocity"},
    ),
    "vipers": ({"spectrum_noise", "spectrum_wave"}, {"redflag", "exptime"}),
    "desi": ({"zwarn", "zerr"}, {"boolean zwarn"}),
    "sdss": ({"zwarning", "z_err"},),
}
HATS_SIGNS = {"_healpix_29", "_hipscat_index"}
FOREIGN = "of another survey"  # by what the column `survey` says
# What the v1 loader of DESI gives. It has no position, and the HATS catalogue has one: no column less will do, since
# a cut-down HATS catalogue would then pass for it, and ZWARN means the contrary there.
PREVIEW_DESI = {"z", "zerr", "boolean zwarn", "ebv", "object_id"}
PREVIEW_DESI |= {f"{flux}_{band}" for flux in ("flux", "flux_ivar", "fiberflux", "fibertotflux") for band in "grz"}
POSITION = {"ra", "dec", "healpix"}
_HATS_PATH = re.compile(r"N(order|pix)=\d+")
_MARGIN_PATH = re.compile(r"(_margin|_\d+arcs(ec)?)$")
_UNIVERSE_FOLDER = re.compile(r"(?:mmu_|datasets--multimodaluniverse--)(.+)")
_LEEWAY, _WIDTH_LEEWAY = 3.0, 0.01  # Å, of the ends of a survey's arm; share of its pixel width


def count_rows(path: str | Path) -> int:
    """Number of rows of a Multimodal Universe file, or of a Parquet file; no pixel is read.

    Args:
        path: HDF5 or Parquet file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or HDF5 without spectra.
    """
    return _describe(Path(path)).count


def find_files(folder: str | Path) -> list[Path]:
    """The data files in and below a folder, sorted, each row in one of them.

    Left out are what a HATS catalogue holds a second time (margins, data_thumbnail.parquet), its indices, and files
    whose names begin with "_" or ".". Links to folders are followed, and each folder is looked into once.

    Args:
        folder: A folder of HDF5 or Parquet files, or of HATS catalogues.

    Raises:
        FileNotFoundError: If there is no such folder, or no data file in it.
    """
    folder = Path(folder).expanduser()
    suffixes = HDF5_SUFFIXES + PARQUET_SUFFIXES
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder} (from {Path.cwd()}): check the path")
    files = [path for path in files_below(folder) if _is_data_file(path) and not path.name.startswith(("_", "."))]
    found = without_repetitions(files)
    if not found:
        raise FileNotFoundError(
            f"no data file of the Multimodal Universe in or below {folder}: expected names that end in "
            f"{', '.join(suffixes)}, besides margins and thumbnails of HATS catalogues"
        )
    return found


def files_below(folder: Path) -> list[Path]:
    """All files in and below a folder, sorted; links to folders are followed, and each folder is looked into once.

    Args:
        folder: The folder.
    """
    seen: set[str] = set()
    found: list[Path] = []
    starts = [folder]  # and the links, which are followed when all else was seen
    for start in starts:
        for root, folders, names in os.walk(start):
            if (place := os.path.realpath(root)) in seen:
                folders.clear()
                continue
            seen.add(place)
            starts += sorted(path for name in folders if (path := Path(root, name)).is_symlink())
            found += [path for name in names if (path := Path(root, name)).is_file()]
    return sorted(found)


def without_repetitions(paths: Iterable[Path]) -> list[Path]:
    """The paths without what a HATS catalogue holds beside its rows: rows once more, indices and descriptions.

    Args:
        paths: Files, also such that lie in no catalogue.
    """
    kinds: dict[Path, str] = {}
    return [path for path in paths if not _is_repetition(path, kinds)]


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

    Only files with pixel columns as the Multimodal Universe calls them (`spectrum_lambda`, or `lambda` below
    `spectrum`) are taken for its, and any file with `generation=`; all others are read as they are.
    HDF5 files are "v1". Parquet files are "hats" where they have the column `_healpix_29` or a path with `Norder=`,
    "preview" where they lie in the Hub's cache of `MultimodalUniverse`, or have all columns of the v1 loader and no
    position.
    The survey is told from columns that only it has, else from a folder named `mmu_SURVEY...`, or directly below one
    named `MultimodalUniverse`; SDSS rows with SURVEY = boss or eboss are "boss". A column `survey` with the name of
    another one counts more. Where the generation is not known and makes no difference it is not asked for.

    Args:
        path: HDF5 or Parquet file.
        start: First row.
        stop: Row after the last one; beyond the end, or absent = to the end.
        survey: Key of `SURVEYS`, or any other name for spectra without known errors; absent = recognised.
        generation: "v1", "preview" or "hats", whose known errors are then corrected; absent = recognised.
        on_error: Takes the number of a row that cannot be read, and why; reading goes on. Absent = it is raised.
        **fields: Further columns or fields of `Spectrum` for all rows, which count instead of the file's; `mask=None`
            goes by ivar alone.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If a keyword is unknown.
        ValueError: If it is damaged, has no spectra, or survey or generation cannot be told and matter. While
            iterating: if a row is impossible.
    """
    check_keywords("read_rows", fields)
    source = _resolve(_describe(Path(path)), survey, generation)
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"rows are those from start up to stop, 0 <= start <= stop, found {start} and {stop}")
    stop = source.count if stop is None else min(stop, source.count)
    return _read(source, start, stop, on_error, fields)


def universe_table(
    path: Path, survey: str | None = None
) -> tuple[TableRows, Callable[[Mapping[str, Any]], Mapping[str, Any]]] | None:
    """The rows of a file, and what corrects each of them; None where it is a Parquet file without known errors.

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
    return TableRows(source.count, lambda: source.rows(0, source.count)), source.correct


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
        booleans: Which of ZWARN and ZWARNING are booleans, in lower case.
        survey: Name of the survey, None = not known.
        generation: None = rows are not corrected.
        mixed: Whether the rows say which part of SDSS they are of.
        whole: Whether `spectrum` is a list of pixels, which cannot be read in part.
    """

    path: Path
    count: int
    names: tuple[str, ...]
    booleans: tuple[str, ...] = ()
    survey: str | None = None
    generation: str | None = None
    mixed: bool = False
    whole: bool = False

    @property
    def flat(self) -> set[str]:
        """Columns in lower case, "spectrum_flux" also for "spectrum.flux"; and "boolean zwarn" where it is one."""
        flat = {name.lower().replace("spectrum.", PREFIX) for name in self.names}
        return flat | {f"boolean {name}" for name in self.booleans}

    @property
    def used(self) -> list[str]:
        """Columns that are read. Of the many in v1 files, a name such as `survey` may mean another thing than ours."""
        own = self.generation is None or not is_hdf5(self.path)
        return [name for name in self.names if _is_used(name) or (own and column_kind(name))]

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
    if generation is None and not any(layout <= source.flat for layout in LAYOUTS):
        return replace(source, survey=survey)
    known = _find_survey(source) if survey is None else survey
    if known is not None and known.lower() not in UNIVERSE_SURVEYS:
        return replace(source, survey=survey)
    if known is None:
        if generation or is_hdf5(source.path):
            raise ValueError(
                f"{source.path} does not say of which survey it is, by columns {', '.join(source.names[:12])}: pass "
                f"survey={', '.join(UNIVERSE_SURVEYS)}, whose known errors are then corrected, or a name of your own "
                "for spectra without them"
            )
        _check_first_axis(source)
        return source
    known = known.lower()
    found = generation or _find_generation(source, known)
    if found is None:
        raise ValueError(
            f"{source.path} does not say of which generation it is, and {known} differs between them (docs/"
            'multimodal_universe.md): pass read_rows(path, generation="preview") for a file of MultimodalUniverse on '
            'the Hub, or "hats" for one of a HATS catalogue, whose known errors are then corrected; or, for spectra '
            "that are right, another survey= or read_spectra(..., format='table')"
        )
    return replace(source, survey=known, generation=found, mixed=survey is None and known == "sdss")


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
    """The survey by columns or folders; `FOREIGN` where a column says that it is another one."""
    of_folders = _survey_of_folders(source.path)
    of_columns = [name for name, signs in SIGNS.items() if any(sign <= source.flat for sign in signs)]
    found = of_columns[0] if of_columns else of_folders
    if (found, of_folders) == ("sdss", "boss"):
        found = "boss"
    named = _named_surveys(source)
    # Of the Multimodal Universe only APOGEE has such a column, with the parts of it.
    ours = any("apogee" in name for name in named) if found == "apogee" else named <= {*UNIVERSE_SURVEYS}
    return found if ours or not named else FOREIGN


def _named_surveys(source: _Source) -> set[str]:
    """What the column `survey` says, in lower case; DESI's and SDSS's SURVEY is another one."""
    if "survey" not in source.names:
        return set()
    if is_hdf5(source.path):
        with _open_hdf5(source.path) as file:
            values = {*file["survey"][:].tolist()}
    else:
        with open_parquet(source.path) as file:
            batches = file.iter_batches(columns=["survey"])
            values = {value for batch in batches for value in batch.column(0).unique().to_pylist()}
    return {as_text(value).lower() for value in values - {None}} - {""}


def _survey_of_folders(path: Path) -> str | None:
    """The survey after which a folder of the Multimodal Universe is named, unless one below it names another."""
    parts = [part.lower() for part in path.absolute().parts[:-1]]
    others: set[str] = set()
    for part, above in zip(reversed(parts), reversed(["", *parts[:-1]]), strict=True):
        ours = re.match(_UNIVERSE_FOLDER, part)
        name = ours[1] if ours else part
        if ours or above == "multimodaluniverse":
            found = [*takewhile(_is_survey, name.split("_"))]
            survey = _as_survey(found[-1]) if found else None  # mmu_sdss_eboss
            return survey if others <= {survey} else None
        others |= {_as_survey(word) for word in re.split(r"[^a-z0-9]+", part) if _is_survey(word)}
    return None


def _is_survey(word: str) -> bool:
    return word in (*UNIVERSE_SURVEYS, "eboss")


def _as_survey(word: str) -> str:
    return "boss" if word == "eboss" else word


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
        return "preview" if whole or "zwarn" not in source.flat else None
    if survey == "galah":
        return "preview" if "filter_indices" in source.flat else None
    return "preview"  # what is wrong with SDSS, APOGEE and VIPERS is the same in "hats"


def _check_first_axis(source: _Source) -> None:
    """Refuse pixels that need a correction in a file that does not say so; by the first row that has pixels."""
    for row in source.rows(0, source.count):
        axis = np.asarray(flat_columns(row).get("wavelength", ()), dtype=np.float64)
        axis = axis[axis > 0]
        if axis.ndim == 1 and len(axis) > 1:
            break
    else:
        return
    for survey in ("galah", "vipers"):
        if any(_is_of_an_arm(axis[piece], survey) for piece in arm_slices(axis)):
            raise ValueError(
                f"{source.path} has the wavelengths of {survey}, whose rows need a correction, and no column that "
                f'says so: pass read_rows(path, survey="{survey}", generation=...), which corrects the known errors '
                "of the Multimodal Universe, or, for spectra that are right, another survey= or read_spectra(..., "
                "format='table')"
            )


def _is_of_an_arm(axis: np.ndarray, survey: str) -> bool:
    """Whether contiguous wavelengths are pixels of a survey's arm, or of a part of it."""
    if len(axis) < 2:
        return False
    width = (axis[-1] - axis[0]) / (len(axis) - 1)
    return any(
        axis[0] > arm.start - _LEEWAY
        and axis[-1] < arm.start + arm.step * arm.pixels + _LEEWAY
        and abs(width / arm.step - 1) < _WIDTH_LEEWAY
        for arm in SURVEYS[survey].arms
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
        for name in names:
            if (_is_used(name) or column_kind(name)) and file[name].shape[:1] != flux.shape[:1]:
                raise ValueError(
                    f"{path} must have as many rows in every column as in flux, {len(flux)}, found {name} of shape "
                    f"{file[name].shape}: download it again, or write it with one row per spectrum"
                )
        return _Source(path, len(flux), names)


def _hdf5_rows(source: _Source, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
    with _open_hdf5(source.path) as file:
        for first in range(start, stop, SLAB):
            last = min(first + SLAB, stop)
            slab = {name: _native(file[name][first:last]) for name in source.used}
            for index in range(last - first):
                yield {name: values[index] for name, values in slab.items()}


def _native(values: np.ndarray) -> np.ndarray:
    """Numbers in the order of this machine, text as text."""
    if values.dtype.kind in "SO":
        return np.char.strip(np.char.decode(values.astype("S"), errors="replace"))
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _is_used(name: str) -> bool:
    return bool(pixel_name(name)) or name == "SURVEY" or column_kind(name) in ("label", "object_id")


# Parquet ---------------------------------------------------------------------------------------------


def _describe_parquet(path: Path) -> _Source:
    import pyarrow.types as types

    with open_parquet(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
    names: list[str] = []
    for field in schema:
        names += [f"{field.name}.{part}" for part in _parts(field)] or [field.name]
    booleans = [name for field in schema if types.is_boolean(field.type) and (name := field.name.lower()) in QUALITY]
    whole = any(field.name == "spectrum" and not types.is_struct(field.type) for field in schema)
    return _Source(path, count, tuple(names), tuple(booleans), whole=whole)


def _parts(field: Any) -> list[str]:
    """Names of the columns below `spectrum`: a struct of lists, or a list of structs."""
    kind: Any = field.type if field.name == "spectrum" else None
    kind = getattr(kind, "value_type", kind)
    return [kind.field(index).name for index in range(getattr(kind, "num_fields", 0))]


def _parquet_rows(source: _Source, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
    columns = source.used or list(source.names)
    if source.whole:
        columns = [*dict.fromkeys("spectrum" if name.startswith("spectrum.") else name for name in columns)]
    with open_parquet(source.path) as file:
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


def _is_data_file(path: Path) -> bool:
    return path.name.lower().endswith(HDF5_SUFFIXES + PARQUET_SUFFIXES)


def _is_repetition(path: Path, kinds: dict[Path, str]) -> bool:
    """Whether a file of a HATS catalogue holds no rows, or such as stand in another one too; `kinds` grows."""
    if path.name == "data_thumbnail.parquet":
        return True
    folder = path.parent.resolve()
    if kind := _catalogue_kind(folder, kinds):
        return kind != "object" or not _is_data_file(path) or path.name.startswith("_")
    in_hats = any(map(_HATS_PATH.match, folder.parts))
    return in_hats and any(map(_MARGIN_PATH.search, folder.parts))


def _catalogue_kind(folder: Path, kinds: dict[Path, str]) -> str:
    """What a HATS catalogue is, in or below which a folder lies: "object", "margin", "index", ...; "" = in none."""
    if folder not in kinds:
        own = "".join(map(_stated_kind, (folder / "hats.properties", folder / "properties")))
        kinds[folder] = own or ("" if folder.parent == folder else _catalogue_kind(folder.parent, kinds))
    return kinds[folder]


def _stated_kind(properties: Path) -> str:
    if not properties.is_file():
        return ""
    text = properties.read_text(errors="replace")
    found = re.search(r"^(?:dataproduct|catalog)_type\s*=\s*(\w+)", text, re.MULTILINE)
    return found[1].lower() if found else ""


__all__ = [
    "GENERATIONS",
    "correct_row",
    "count_rows",
    "files_below",
    "find_files",
    "is_hdf5",
    "read_rows",
    "universe_table",
    "without_repetitions",
    "write_universe",
]
