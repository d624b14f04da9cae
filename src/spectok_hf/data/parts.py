"""Sources of any kind cut into parts: units of work that give the same spectra whoever reads them, and when."""

import functools
import glob
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from .formats import has_layout
from .formats.galah import FILE_NAME as GALAH_NAME
from .formats.galah import LAYOUTS as GALAH
from .formats.layout import plain_label
from .multimodal_universe import (
    LAYOUTS,
    count_rows,
    files_below,
    is_hdf5,
    read_rows,
    universe_table,
    without_repetitions,
)
from .multimodal_universe_facts import HDF5_SUFFIXES
from .readers import FITS_SUFFIXES, read_new
from .rows import read_mapping
from .shards import FORMAT, MANIFEST, REPAIR, SPECTRA_PER_SHARD, SpectrumShards, examine_shards
from .simulation import RECIPES, simulate_survey
from .tables import (
    PARQUET_SUFFIXES,
    TableRows,
    find_fits_table,
    holds_answers,
    is_table_file,
    open_parquet,
    read_table_file,
)
from .whole_files import PLAN

ROW_SUFFIXES = HDF5_SUFFIXES + PARQUET_SUFFIXES  # files whose rows can be read from any place
# Most of a part of files, whatever the number of cores. A file may hold thousands of spectra: how many is not known
# before it is read.
PART_FILES, PART_BYTES = 256, 64 << 20
ON_ERROR = ("skip", "raise")
SIMULATED = re.compile(r"simulate:(?P<survey>\w+):(?P<count>\d+)(:(?P<seed>\d+))?")
UNREADABLE = (ImportError, MemoryError)  # the machine's fault, not the file's
EMPTY = "holds no spectrum: its table has no rows"
LONGEST_REASON = 300  # characters: millions of rows may have one
READ_OPTIONS = {"format": None, "merge_arms": True, "keep_gaps": False}
SOURCES = "a file, folder or glob pattern, a folder of shards, or simulate:SURVEY:COUNT[:SEED]"


@dataclass(frozen=True)
class Entry:
    """One spectrum of a source, or the reason why there is none.

    Args:
        source: The file, folder of shards or simulation.
        row: Its number in the source.
        spectrum: The spectrum.
        reason: Why it cannot be read; empty where it can.
    """

    source: str
    row: int
    spectrum: Spectrum | None = None
    reason: str = ""


@dataclass(frozen=True)
class Part:
    """A unit of work: some files, or a run of rows. What it gives depends on nothing but its fields and the sources.

    Args:
        kind: "files" (FITS, CSV, ...), "rows" (of an HDF5 or Parquet file), "shards" or "simulated"; "failed" is what
            was found to be damaged when the parts were planned.
        sources: Paths of the files; or the one source whose rows `start` to `stop` it takes.
        start: First row.
        stop: Behind the last row.
        survey: Survey of rows that do not say theirs.
        generation: Generation of the Multimodal Universe, of a Parquet file that does not show it.
        reason: What is the matter with a failed one.
    """

    kind: str
    sources: tuple[str, ...]
    start: int = 0
    stop: int = 0
    survey: str | None = None
    generation: str | None = None
    reason: str = ""

    @property
    def size(self) -> int:
        """Number of its spectra; for files that of the files, each of which may hold several."""
        return len(self.sources) if self.kind == "files" else self.stop - self.start

    def entries(self) -> Iterator[Entry]:
        """What the part holds, in order; one file, or a few rows, are in memory at a time."""
        return READERS[self.kind](self)

    def spectra(self, on_error: Callable[[Entry], None] | None = None) -> Iterator[Spectrum]:
        """The spectra of the part, in order.

        Args:
            on_error: Told of what cannot be read; None = stop there.

        Raises:
            ValueError: If something cannot be read, and nobody is told.
        """
        for entry in self.entries():
            if entry.spectrum is not None:
                yield entry.spectrum
            elif on_error is not None:
                on_error(entry)
            else:
                raise_failure(entry)


def raise_failure(entry: Entry) -> None:
    """Stop at an entry that cannot be read.

    Args:
        entry: The entry.

    Raises:
        ValueError: What was the matter, and where.
    """
    named = entry.reason.startswith(entry.source)
    raise ValueError(entry.reason if named else f"{entry.source}, row {entry.row}: {entry.reason}")


def plan_parts(
    sources: Iterable[str | Path] | str | Path,
    *,
    spectra_per_part: int = SPECTRA_PER_SHARD,
    survey: str | None = None,
    generation: str | None = None,
    on_error: str = "raise",
    leave_out: str | Path | None = None,
    skip_missing: bool = False,
) -> list[Part]:
    """Parts that together give every spectrum of the sources once, in their order.

    A source is a file of spectra (whatever `read_spectra` takes, HDF5 and Parquet files of the Multimodal Universe), a
    folder or glob pattern (all FITS, HDF5 and Parquet files in and below the folder, or whatever matches, in order of
    their names), a folder of shards, or "simulate:SURVEY:COUNT" or "simulate:SURVEY:COUNT:SEED", the spectra of
    `simulate_survey`. A source that occurs twice, by whatever path, counts once. The files of a GALAH star come
    together, where the first of them stands. Hidden files, and what spectok prepare and spectok embed wrote, are left
    out of folders and patterns; Parquet tables of answers, of spectok encode and the like, of folders. All shards are
    read once, and their checksums compared.

    Args:
        sources: The sources.
        spectra_per_part: Most rows, or files, of a part; files are 256, or 64 MiB, at most.
        survey: Survey of rows of tables that do not say theirs; FITS files of surveys and shards know their own.
        generation: Generation of the Multimodal Universe ("preview" or "hats", see `read_rows`) of Parquet files that
            do not show theirs.
        on_error: What to do about an HDF5 or Parquet file, or a shard, that is damaged: "skip", which makes it a part
            of failures, or "raise". Other files are opened when they are read.
        leave_out: A folder, in which nothing is a source: where the output goes.
        skip_missing: Whether a file that is not there counts as one that cannot be read.

    Raises:
        FileNotFoundError: If a file is missing, or a folder or pattern gives none.
        ValueError: If a simulation is not spelled as above, it cannot be told how a file is to be read, or, with
            "raise", a file or shard is damaged.
    """
    check_choice("on_error", on_error, ON_ERROR)
    if spectra_per_part < 1:
        raise ValueError(f"spectra_per_part must be at least 1, found {spectra_per_part}")
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not given:
        raise ValueError(f"at least one source is needed, found none: pass {SOURCES}")
    is_output = _output_test(leave_out)
    units: dict[str, str] = {}
    for source in given:
        missing = skip_missing and not _is_there(str(source))
        for unit in [str(source)] if missing else _expand(str(source), is_output):
            units.setdefault(identify(unit), unit)
    parts: list[Part] = []
    files: list[list[str]] = []
    for group in _gather_stars(units):
        kind = _kind(group[0])
        if kind == "files":
            files.append(group)
            continue
        parts += _file_parts(files, spectra_per_part, survey)
        files = []
        for part in _row_parts(kind, group[0], survey, generation, on_error):
            parts += _cut(part, spectra_per_part)
    return parts + _file_parts(files, spectra_per_part, survey)


def identify(unit: str) -> str:
    """What a source is, however it is spelled.

    Args:
        unit: A file, folder of shards or simulation.
    """
    if match := SIMULATED.fullmatch(unit):
        seed = int(match["seed"] or 0)
        return f"simulate:{match['survey']}:{int(match['count'])}" + (f":{seed}" if seed else "")
    return os.path.realpath(unit)


def source_files(parts: Iterable[Part]) -> list[Path]:
    """The files that say whether sources are what they were: all of them, and of shards the manifests.

    Args:
        parts: What `plan_parts` made of the sources.
    """
    found = {name: part.kind for part in parts for name in part.sources if part.kind != "simulated"}
    folders = {name for name, kind in found.items() if kind in ("shards", "failed") and os.path.isdir(name)}
    return [Path(name) / MANIFEST if name in folders else Path(name) for name in found]


# Planning -----------------------------------------------------------------------------------------


def _expand(source: str, is_output: Callable[[Path], bool]) -> list[str]:
    """A source as files, folders of shards and simulations."""
    if source.startswith("simulate:"):
        return [_check_simulation(source)]
    path = Path(source).expanduser()
    if path.exists():
        if units := _units_of(path, is_output):
            return units
        raise FileNotFoundError(
            f"no FITS, HDF5 or Parquet file in or below the folder {path}, and no finished shards (hidden files, the "
            "output folder, and what spectok wrote do not count): check the path"
        )
    if not glob.has_magic(source):
        raise FileNotFoundError(f"no such file or folder: {path} (from {Path.cwd()}): pass {SOURCES}")
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    matches = without_repetitions(one for one in found if not is_output(one if one.is_dir() else one.parent))
    units = [unit for match in matches for unit in _units_of(match, is_output) or _named_as_data([match])]
    if not units:
        raise FileNotFoundError(
            f"no file matches {path} (from {Path.cwd()}), but for what spectok wrote: check the pattern"
            if found
            else f"no file matches {path} (from {Path.cwd()}): check the pattern"
        )
    return units


def _is_there(source: str) -> bool:
    """Whether a source is more than the name of a file that is not there."""
    return source.startswith("simulate:") or glob.has_magic(source) or Path(source).expanduser().exists()


def _units_of(path: Path, is_output: Callable[[Path], bool]) -> list[str]:
    if not path.is_dir() or _holds_shards(path):
        return [str(path)]
    below = files_below(path)
    files = without_repetitions(file for file in below if _is_data(file) and not holds_answers(file))
    return sorted(str(file) for file in [*files, *_not_files(path, set(below))] if not is_output(file.parent))


def _is_data(path: Path) -> bool:
    name = path.name.lower()
    hidden = name.startswith("." if name.endswith(FITS_SUFFIXES) else (".", "_"))
    return name.endswith(FITS_SUFFIXES + ROW_SUFFIXES) and not hidden


def _named_as_data(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths if _is_data(path)]


def _not_files(folder: Path, files: set[Path]) -> list[Path]:
    """What has the name of a file of data and is none: links to nothing, and folders without any."""
    named = [path for path in folder.rglob("*") if _is_data(path) and path not in files and not path.is_file()]
    return [path for path in named if not path.is_dir() or not _named_as_data(files_below(path))]


def _output_test(leave_out: str | Path | None) -> Callable[[Path], bool]:
    """Whether files of a folder are output: of the run that asks, or of one before."""
    own = None if leave_out is None else Path(leave_out).expanduser().resolve()

    @functools.cache
    def is_output(folder: Path) -> bool:
        return folder.resolve() == own or (folder / PLAN).is_file()

    return is_output


def _check_simulation(source: str) -> str:
    match = SIMULATED.fullmatch(source)
    if not match or match["survey"] not in RECIPES:
        raise ValueError(
            f"a simulation must be spelled simulate:SURVEY:COUNT or simulate:SURVEY:COUNT:SEED with a survey of "
            f"{', '.join(RECIPES)}, found {source!r}"
        )
    return source


def _holds_shards(folder: Path) -> bool:
    try:
        return json.loads((folder / MANIFEST).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def _kind(unit: str) -> str:
    if unit.startswith("simulate:"):
        return "simulated"
    if Path(unit).is_dir():
        return "shards" if _holds_shards(Path(unit)) else "files"
    return "rows" if unit.lower().endswith(ROW_SUFFIXES) else "files"


def _row_parts(kind: str, unit: str, survey: str | None, generation: str | None, on_error: str) -> list[Part]:
    """All rows of a source that has rows, as few parts as can be."""
    if match := SIMULATED.fullmatch(unit):
        return [Part(kind, (unit,), stop=int(match["count"]))]
    if kind == "shards":
        return _shard_runs(unit, on_error)
    generation = None if is_hdf5(Path(unit)) else generation
    counted = False
    try:
        count = count_rows(unit)
        counted = True
        # What cannot be told of a file is said now, and not for every row.
        read_rows(unit, 0, 0, survey=survey, generation=generation)
    except Exception as error:
        # Damage is what a library found, the cause of the error; a file whose rows might be read wrongly has none.
        if counted and isinstance(error, ValueError) and error.__cause__ is None:
            raise
        return [_failed(unit, error, on_error)]
    if not count:
        return [Part("failed", (unit,), stop=1, reason=f"{unit} {EMPTY}")]
    return [Part(kind, (unit,), 0, count, survey, generation)]


def _shard_runs(folder: str, on_error: str) -> list[Part]:
    """The sound shards of a folder, those side by side together, and the damaged ones, whose spectra are lost."""
    runs: list[Part] = []
    start = 0
    try:
        for file, damage in examine_shards(Path(folder), verify=True):
            stop = start + file["spectra"]
            if damage is not None:
                runs.append(_failed(folder, damage, on_error, start, stop))
            elif runs and runs[-1].kind == "shards":
                runs[-1] = replace(runs[-1], stop=stop)
            else:
                runs.append(Part("shards", (folder,), start, stop))
            start = stop
    except ValueError as error:  # the manifest
        return [_failed(folder, error, on_error)]
    return runs


def _failed(unit: str, error: Exception, on_error: str, start: int = 0, stop: int = 1) -> Part:
    """What is damaged as a part of failures, if that is asked for."""
    if isinstance(error, UNREADABLE):
        raise error
    reason = plain_reason(error)
    if on_error == "raise":
        raise ValueError(reason if str(unit) in reason else f"{unit}: {reason}") from error
    return Part("failed", (unit,), start, stop, reason=reason)


def _gather_stars(units: Mapping[str, str]) -> list[list[str]]:
    """The units by themselves, but the files of a GALAH star together, where the first of them stands."""
    groups: dict[str, list[str]] = {}
    for identity, unit in units.items():
        groups.setdefault(_star(unit) or _star(identity) or identity, []).append(unit)
    return [_whole_first(group) if len(group) > 1 else group for group in groups.values()]


def _star(name: str) -> str:
    star = GALAH_NAME.fullmatch(os.path.basename(name))
    return star["star"] if star else ""


def _whole_first(files: list[str]) -> list[str]:
    """Files of a star, first those that have the others beside them: read with them, the links elsewhere are not."""
    if len({os.path.dirname(name) for name in files}) == 1 and all(map(_star, files)):
        return files
    return sorted(files, key=lambda name: -len(GALAH["galah"].companions(Path(name))))


def _cut(part: Part, most: int) -> list[Part]:
    return [
        replace(part, start=start, stop=min(start + most, part.stop)) for start in range(part.start, part.stop, most)
    ]


def _file_parts(groups: list[list[str]], most: int, survey: str | None) -> list[Part]:
    """Files in parts, by their number and size; those that belong together stay so."""
    parts: list[list[str]] = []
    room = 0
    for members in groups:
        size = sum(os.path.getsize(name) for name in members if os.path.isfile(name))
        if not parts or len(parts[-1]) >= min(most, PART_FILES) or size > room:
            parts.append([])
            room = PART_BYTES
        parts[-1] += members
        room -= size
    return [Part("files", tuple(files), survey=survey) for files in parts]


# Reading ------------------------------------------------------------------------------------------


def _read_failed(part: Part) -> Iterator[Entry]:
    for row in range(part.start, part.stop):
        yield Entry(part.sources[0], row, reason=part.reason)


def _read_shards(part: Part) -> Iterator[Entry]:
    source = part.sources[0]
    for row in range(part.start, part.stop):
        yield from _until_damage(_read_shard_row(source, row), source, row)


def _read_shard_row(source: str, row: int) -> Iterator[Entry]:
    yield Entry(source, row, _open_shards(source, _version(os.path.join(source, MANIFEST)))[row])


def _version(path: str) -> tuple[int, int]:
    """By which a file that is remembered is told from one that was written later; (0, 0) where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4)
def _open_shards(folder: str, version: tuple[int, int]) -> SpectrumShards:
    """The shards of a folder, which were looked at when the parts were planned."""
    return SpectrumShards.unchecked(folder)


def _read_simulated(part: Part) -> Iterator[Entry]:
    match = SIMULATED.fullmatch(part.sources[0])
    assert match is not None  # plan_parts has looked
    survey, seed = match["survey"], int(match["seed"] or 0)
    for row in range(part.start, part.stop):
        (spectrum,) = simulate_survey(survey, 1, seed=seed, start=row)
        yield Entry(part.sources[0], row, spectrum)


def _read_rows(part: Part) -> Iterator[Entry]:
    for start, stop, survey in _runs_by_survey(part):
        yield from _read_run(replace(part, start=start, stop=stop, survey=survey))


def _runs_by_survey(part: Part) -> Iterator[tuple[int, int, str | None]]:
    """Runs of rows that all name their survey, or all do not, with what is to be said of their survey."""
    named = _named_rows(part.sources[0], _version(part.sources[0])) if part.survey and not part.generation else None
    if named is None:
        yield part.start, part.stop, part.survey
        return
    changes = np.flatnonzero(np.diff(named[part.start : part.stop])) + 1 + part.start
    for start, stop in pairwise([part.start, *changes.tolist(), part.stop]):
        yield start, stop, None if named[start] else part.survey


@functools.lru_cache(maxsize=4)
def _named_rows(source: str, version: tuple[int, int]) -> np.ndarray | None:
    """Which rows name their survey, shape (rows,); None where none does, and in files of the Multimodal Universe.

    Of those a name that is passed says whether, and as what, they are corrected.
    """
    path = Path(source)
    try:
        values = _hdf5_surveys(path) if is_hdf5(path) else _parquet_surveys(path)
    except UNREADABLE:
        raise
    except Exception:  # which is said where the rows are read
        return None
    named = np.array([plain_label(value) is not None for value in values], dtype=bool)
    return named if named.any() else None


def _hdf5_surveys(path: Path) -> list[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        names = {name.lower() for name in file}
        of_universe = any(layout <= names for layout in LAYOUTS)
        return file["survey"][:].tolist() if "survey" in file and not of_universe else []


def _parquet_surveys(path: Path) -> list[Any]:
    if universe_table(path) is not None:
        return []
    with open_parquet(path) as file:
        return file.read(["survey"]).column(0).to_pylist() if "survey" in file.schema_arrow.names else []


def _read_run(part: Part) -> Iterator[Entry]:
    (source,) = part.sources
    failed: dict[int, str] = {}  # also of rows ahead, should they be read in blocks

    def note(row: int, error: ValueError) -> None:
        failed[row] = plain_reason(error)

    row = part.start
    try:
        options: dict[str, Any] = {"survey": part.survey, "generation": part.generation, "on_error": note}
        for spectrum in read_rows(source, part.start, part.stop, **options):
            while row in failed:
                yield Entry(source, row, reason=failed.pop(row))
                row += 1
            yield Entry(source, row, spectrum)
            row += 1
    except UNREADABLE:
        raise
    except Exception as error:  # the file is damaged here: what is behind is lost, and counted
        failed = dict.fromkeys(range(row, part.stop), plain_reason(error)) | failed
    for row in sorted(failed):
        yield Entry(source, row, reason=failed[row])


def _read_files(part: Part) -> Iterator[Entry]:
    read: set[Path] = set()  # a star's four GALAH files are one source, whichever of them comes first
    for name in part.sources:
        yield from _until_damage(_read_file(name, part.survey, read), name)


def _until_damage(entries: Iterator[Entry], source: str, row: int = 0) -> Iterator[Entry]:
    """Entries, and the reason where they end before their time.

    The libraries that read files have errors of every kind for what is damaged: one file of many must not end a run.
    """
    try:
        for entry in entries:
            yield entry
            row = entry.row + 1
    except UNREADABLE:
        raise
    except Exception as error:
        yield Entry(source, row, reason=plain_reason(error))


def _read_file(name: str, survey: str | None, read: set[Path]) -> Iterator[Entry]:
    path = Path(name)
    if path.resolve() in read:
        return
    fields = _fields(path, survey)
    try:
        table = read_table_file(path) if is_table_file(path) else _find_table(path) if fields else None
        if isinstance(table, TableRows):
            yield from _read_table(name, table, fields)
            return
        if table is None:
            spectra = read_new(name, read, "raise", READ_OPTIONS, fields)
        else:
            spectra = read_mapping(table, _for_row(table, fields))
    except UNREADABLE:
        raise
    except Exception:
        rows = _find_table(path)
        if not isinstance(rows, TableRows) or not len(rows):
            read.update(other.resolve() for other in GALAH["galah"].companions(path))  # which fail with it
            raise
        yield from _read_table(name, rows, fields)
        return
    if not spectra:
        raise ValueError(f"{name} {EMPTY}")
    for row, spectrum in enumerate(spectra):
        yield Entry(name, row, spectrum)


def _fields(path: Path, survey: str | None) -> dict[str, Any]:
    """What is to be said of the rows of a file: nothing where its layout says the survey."""
    return {} if survey is None or (not is_table_file(path) and has_layout(path)) else {"survey": survey}


def _find_table(path: Path) -> TableRows | Mapping[str, Any] | None:
    """The table of a FITS file; of its rows some can perhaps be read where others cannot."""
    try:
        return None if is_table_file(path) else find_fits_table(path)
    except Exception:  # as damaged as it was
        return None


def _read_table(source: str, rows: TableRows, fields: dict[str, Any]) -> Iterator[Entry]:
    if not len(rows):
        raise ValueError(f"{source} {EMPTY}")
    for row, columns in enumerate(rows):
        yield from _until_damage(_read_table_row(source, row, columns, fields), source, row)


def _read_table_row(source: str, row: int, columns: Mapping[str, Any], fields: dict[str, Any]) -> Iterator[Entry]:
    for spectrum in read_mapping(columns, _for_row(columns, fields)):
        yield Entry(source, row, spectrum)


def _for_row(columns: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """What is to be said of a row: nothing where it names its survey."""
    return fields if plain_label(columns.get("survey")) is None else {}


def plain_reason(error: Exception) -> str:
    """What an error says, in one line, and of which kind it is where it is none of ours.

    Args:
        error: The error.
    """
    text = str(error).removesuffix(f": {REPAIR}")
    if not isinstance(error, (ValueError, OSError)):
        text = f"{type(error).__name__}: {text}"
    return textwrap.shorten(text, LONGEST_REASON, placeholder=" ...")


READERS: dict[str, Callable[[Part], Iterator[Entry]]] = {
    "failed": _read_failed,
    "files": _read_files,
    "rows": _read_rows,
    "shards": _read_shards,
    "simulated": _read_simulated,
}

__all__ = ["ON_ERROR", "Entry", "Part", "identify", "plain_reason", "plan_parts", "raise_failure", "source_files"]
