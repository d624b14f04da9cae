"""Sources of any kind cut into parts: units of work that give the same spectra whoever reads them, and when."""

import contextlib
import functools
import glob
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..models.spectrum import Spectrum
from .formats.galah import FILE_NAME as GALAH_NAME
from .multimodal_universe import count_rows, find_files, is_hdf5, read_rows
from .multimodal_universe_facts import HDF5_SUFFIXES
from .readers import FITS_SUFFIXES, read_new
from .rows import read_mapping
from .shards import FORMAT, MANIFEST, SPECTRA_PER_SHARD, SpectrumShards
from .simulation import RECIPES, simulate_survey
from .tables import PARQUET_SUFFIXES, TableRows, find_fits_table, is_table_file, read_table_file

ROW_SUFFIXES = HDF5_SUFFIXES + PARQUET_SUFFIXES  # files whose rows can be read from any place
PART_BYTES = 1 << 30  # a file may hold thousands of spectra: how many is not known before it is read
SIMULATED = re.compile(r"simulate:(?P<survey>\w+):(?P<count>\d+)(:(?P<seed>\d+))?")
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
        kind: "files" (FITS, CSV, ...), "rows" (of an HDF5 or Parquet file), "shards" or "simulated".
        sources: Paths of the files; or the one source whose rows `start` to `stop` it takes.
        start: First row.
        stop: Behind the last row.
        survey: Survey of rows that do not say theirs.
        generation: Generation of the Multimodal Universe, of a Parquet file that does not show it.
    """

    kind: str
    sources: tuple[str, ...]
    start: int = 0
    stop: int = 0
    survey: str | None = None
    generation: str | None = None

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
) -> list[Part]:
    """Parts that together give every spectrum of the sources once, in their order.

    A source is a file of spectra (whatever `read_spectra` takes, HDF5 and Parquet files of the Multimodal Universe), a
    folder or glob pattern (all FITS, HDF5 and Parquet files in and below the folder, or whatever matches, in order of
    their names), a folder of shards, or "simulate:SURVEY:COUNT" or "simulate:SURVEY:COUNT:SEED", the spectra of
    `simulate_survey`. A source that occurs twice counts once; the files of a GALAH star stay together.

    Args:
        sources: The sources.
        spectra_per_part: Most rows, or files, of a part.
        survey: Survey of rows of tables that do not say theirs; FITS files and shards know their own.
        generation: Generation of the Multimodal Universe ("preview" or "hats", see `read_rows`) of Parquet files that
            do not show theirs.

    Raises:
        FileNotFoundError: If a file is missing, or a folder or pattern gives none.
        ValueError: If a simulation is not spelled as above, or a file or folder of shards is damaged.
    """
    if spectra_per_part < 1:
        raise ValueError(f"spectra_per_part must be at least 1, found {spectra_per_part}")
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not given:
        raise ValueError(f"at least one source is needed, found none: pass {SOURCES}")
    units = dict.fromkeys(unit for source in given for unit in _expand(str(source)))
    parts: list[Part] = []
    files: list[str] = []
    for unit in units:
        kind = _kind(unit)
        if kind == "files":
            files.append(unit)
            continue
        parts += _file_parts(files, spectra_per_part, survey)
        files = []
        parts += _cut(_row_part(kind, unit, survey, generation), spectra_per_part)
    return parts + _file_parts(files, spectra_per_part, survey)


def source_files(parts: Iterable[Part]) -> list[Path]:
    """The files that say whether sources are what they were: all of them, and of shards the manifests.

    Args:
        parts: What `plan_parts` made of the sources.
    """
    found = {name: part.kind for part in parts for name in part.sources if part.kind != "simulated"}
    return [Path(name) / MANIFEST if kind == "shards" else Path(name) for name, kind in found.items()]


# Planning -----------------------------------------------------------------------------------------


def _expand(source: str) -> list[str]:
    """A source as files, folders of shards and simulations."""
    if source.startswith("simulate:"):
        return [_check_simulation(source)]
    path = Path(source).expanduser()
    if path.exists():
        return _units_of(path)
    if not glob.has_magic(source):
        raise FileNotFoundError(f"no such file or folder: {path} (from {Path.cwd()}): pass {SOURCES}")
    found = sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise FileNotFoundError(f"no file matches {path} (from {Path.cwd()}): check the pattern")
    return [unit for match in found for unit in _units_of(Path(match))]


def _units_of(path: Path) -> list[str]:
    if path.is_file() or _holds_shards(path):
        return [str(path)]
    files = {file for file in path.rglob("*") if file.name.lower().endswith(FITS_SUFFIXES)}
    with contextlib.suppress(FileNotFoundError):  # a folder of FITS files alone
        files.update(find_files(path))
    if not files:
        raise FileNotFoundError(
            f"no FITS, HDF5 or Parquet file in or below the folder {path}, and no finished shards: check the path"
        )
    return [str(file) for file in sorted(files)]


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
    if unit.lower().endswith(ROW_SUFFIXES):
        return "rows"
    return "shards" if Path(unit).is_dir() else "files"


def _row_part(kind: str, unit: str, survey: str | None, generation: str | None) -> Part:
    """All rows of a source that has rows."""
    if kind == "shards":
        return Part(kind, (unit,), stop=len(_open_shards(unit)))
    if match := SIMULATED.fullmatch(unit):
        return Part(kind, (unit,), stop=int(match["count"]))
    generation = None if is_hdf5(Path(unit)) else generation
    # What cannot be told of a file is said now, and not for every row.
    read_rows(unit, 0, 0, survey=survey, generation=generation)
    return Part(kind, (unit,), 0, count_rows(unit), survey, generation)


def _cut(part: Part, most: int) -> list[Part]:
    return [
        replace(part, start=start, stop=min(start + most, part.stop)) for start in range(part.start, part.stop, most)
    ]


def _file_parts(files: list[str], most: int, survey: str | None) -> list[Part]:
    """Files in groups, by their number and size; a GALAH star's four are not parted, as they are one spectrum."""
    stars: dict[str, list[str]] = {}
    for name in files:
        star = GALAH_NAME.fullmatch(Path(name).name)
        stars.setdefault(str(Path(name).with_name(star["star"])) if star else name, []).append(name)
    groups: list[list[str]] = []
    room = 0
    for members in stars.values():
        size = sum(Path(name).stat().st_size for name in members)
        if not groups or len(groups[-1]) >= most or size > room:
            groups.append([])
            room = PART_BYTES
        groups[-1] += members
        room -= size
    return [Part("files", tuple(group), survey=survey) for group in groups]


# Reading ------------------------------------------------------------------------------------------


def _open_shards(folder: str) -> SpectrumShards:
    """The shards of a folder, which are opened once for all its parts: that looks at every shard."""
    status = (Path(folder) / MANIFEST).stat()
    return _open_unchanged(folder, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4)
def _open_unchanged(folder: str, *version: int) -> SpectrumShards:
    return SpectrumShards(folder)


def _read_shards(part: Part) -> Iterator[Entry]:
    shards = _open_shards(part.sources[0])
    for row in range(part.start, part.stop):
        yield Entry(part.sources[0], row, shards[row])


def _read_simulated(part: Part) -> Iterator[Entry]:
    match = SIMULATED.fullmatch(part.sources[0])
    assert match is not None  # plan_parts has looked
    survey, seed = match["survey"], int(match["seed"] or 0)
    for row in range(part.start, part.stop):
        (spectrum,) = simulate_survey(survey, 1, seed=seed, start=row)
        yield Entry(part.sources[0], row, spectrum)


def _read_rows(part: Part) -> Iterator[Entry]:
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
    except (ValueError, OSError) as error:  # the file is damaged here: what is behind is lost, and counted
        failed = dict.fromkeys(range(row, part.stop), plain_reason(error)) | failed
    for row in sorted(failed):
        yield Entry(source, row, reason=failed[row])


def _read_files(part: Part) -> Iterator[Entry]:
    read: set[Path] = set()  # a star's four GALAH files are one source, whichever of them comes first
    for name in part.sources:
        yield from _read_file(name, part.survey, read)


def _read_file(name: str, survey: str | None, read: set[Path]) -> Iterator[Entry]:
    path = Path(name)
    fields = {} if survey is None else {"survey": survey}
    try:
        if not is_table_file(path):
            spectra = read_new(name, read, "raise", READ_OPTIONS, {})
        elif isinstance(table := read_table_file(path), TableRows):
            yield from _read_table(name, table, fields)
            return
        else:
            spectra = read_mapping(table, fields)
    except (ValueError, OSError) as error:
        rows = _find_rows(path)
        if rows is None:
            yield Entry(name, 0, reason=plain_reason(error))
        else:
            yield from _read_table(name, rows, {})
        return
    for row, spectrum in enumerate(spectra):
        yield Entry(name, row, spectrum)


def _find_rows(path: Path) -> TableRows | None:
    """The rows of a FITS file's table, where one of them cannot be read and the others perhaps can."""
    if not path.name.lower().endswith(FITS_SUFFIXES):
        return None
    try:
        table = find_fits_table(path)
    except (ValueError, OSError):
        return None
    return table if isinstance(table, TableRows) else None


def _read_table(source: str, rows: TableRows, fields: dict[str, Any]) -> Iterator[Entry]:
    for row, columns in enumerate(rows):
        try:
            spectra = read_mapping(columns, fields)
        except ValueError as error:
            yield Entry(source, row, reason=plain_reason(error))
        else:
            for spectrum in spectra:
                yield Entry(source, row, spectrum)


def plain_reason(error: Exception) -> str:
    """What an error says, in one line; the beginning of what would fill a page.

    Args:
        error: The error.
    """
    return textwrap.shorten(str(error), LONGEST_REASON, placeholder=" ...")


READERS: dict[str, Callable[[Part], Iterator[Entry]]] = {
    "files": _read_files,
    "rows": _read_rows,
    "shards": _read_shards,
    "simulated": _read_simulated,
}

__all__ = ["Entry", "Part", "plan_parts", "raise_failure", "source_files"]
