"""Work in parts whose output folder is the same in the end, however often it was killed on the way."""

import json
import multiprocessing
import os
import re
import signal
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from .parts import Part, identify, source_files
from .shards import MANIFEST
from .whole_files import PLAN, crc32_of, locked, write_json

# Hidden, as PLAN is: pandas, pyarrow and datasets read a folder of embeddings by its name, and JSON as data too.
RECORDS = ".records"
WATCH = 0.5  # s
WORKER_KILLED = (
    "a worker was killed, perhaps for want of memory: run the same command again to go on, with fewer workers"
)
MOST_NAMED = 100  # of what was dropped for a reason, and of what cannot be read
_RECORD_NAME = re.compile(r"part-\d{6,}\.json")
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Args:
        manifest: The manifest of the folder.
        spectra: Spectra that this run handled, without those of the runs before it.
        seconds: How long it took.
    """

    manifest: dict[str, Any]
    spectra: int
    seconds: float

    def __str__(self) -> str:
        text = f"{self.manifest['spectra']:,} spectra"
        reasons = {reason: entry["spectra"] for reason, entry in self.manifest["dropped"].items()}
        reasons["cannot be read"] = self.manifest["failures"]["count"]
        text += "".join(f"; {count:,} not: {reason}" for reason, count in reasons.items() if count)
        if not self.spectra:
            return f"{text}; finished before, nothing was left to do"
        return f"{text}; {self.spectra:,} in {self.seconds:.1f} s, {self.spectra / self.seconds:,.0f} spectra/s"


class PartFolder:
    """The output folder of work in parts.

    It holds `.plan.json` (what is to be done), the output files, a record per part in `.records` (written after the
    part's files, which name it finished), and at the end a manifest. All files appear whole. Files that are not of
    these names are never touched.

    Args:
        folder: The folder; made where it is absent.
        output: The names of the output files.
        command: The command, for messages.
        manifest: Name of the manifest.
    """

    def __init__(self, folder: str | Path, output: re.Pattern[str], command: str, *, manifest: str = MANIFEST):
        self.folder, self.output, self.command, self.manifest = Path(folder).expanduser(), output, command, manifest

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out; the lock goes with the process, however it ends.

        Raises:
            ValueError: If another run holds it.
        """
        with locked(self.folder, f"another run of {self.command}"):
            yield

    def begin(self, plan: Mapping[str, Any], *, overwrite: bool = False, verify: bool = False) -> set[int]:
        """Make the folder ready for a plan, and tell what of it is done; what a killed run left half is removed.

        Args:
            plan: What is to be done, of `make_plan`.
            overwrite: Remove what a run with another plan, or this one, has written.
            verify: Compare files with their checksums; else their sizes are.

        Returns:
            Numbers of the parts that are finished and sound.

        Raises:
            ValueError: If the folder holds a source, another plan's output, or files of the same names that no run of
                this command has written.
        """
        plan = json.loads(json.dumps(plan))
        self._check_apart(plan)
        before = self._read_plan(plan["format"])
        self._remove_temporary()
        if before is None:
            self._check_free()
        elif overwrite:
            self._clear()
        elif difference := _difference(before, plan):
            raise ValueError(
                f"{self.folder} was begun with other settings or sources, {difference}: pass the same ones to go on, "
                "--overwrite (overwrite=True) to begin anew, or another folder"
            )
        if before != plan:
            write_json(plan, self.folder / PLAN)
        (self.folder / RECORDS).mkdir(exist_ok=True)
        return self._keep_sound(verify, len(plan["parts"]))

    def record(self, part: int, record: Mapping[str, Any]) -> None:
        """Note that a part is finished, after its files are.

        Args:
            part: Its number.
            record: What the manifest needs to know; its `files` have a name, bytes and crc32 each.
        """
        write_json({**record, "checksum": _checksum(record)}, self._record_path(part))

    def records(self, count: int) -> Iterator[dict[str, Any]]:
        """The records of all parts, in order.

        Args:
            count: Number of parts.
        """
        for part in range(count):
            record = _read_record(self._record_path(part))
            if record is None:
                raise ValueError(
                    f"{self._record_path(part)} was removed or changed while {self.command} ran: run it again"
                )
            yield record

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest, which says that the folder is complete.

        Args:
            manifest: The manifest.
        """
        path = self.folder / self.manifest
        manifest = json.loads(json.dumps(manifest))
        if not path.is_file() or json.loads(path.read_text()) != manifest:
            write_json(manifest, path)
        return manifest

    def _record_path(self, part: int) -> Path:
        return self.folder / RECORDS / f"part-{part:06d}.json"

    def _check_apart(self, plan: Mapping[str, Any]) -> None:
        """Refuse to write where a source is: it would be taken for output, and removed."""
        own = self.folder.resolve()
        for name, *_ in plan["sources"]:
            if os.path.isabs(name) and own in (Path(name), Path(name).parent):
                raise ValueError(f"{self.folder} holds the source {name}: pass another folder for the output")

    def _read_plan(self, format: str) -> dict[str, Any] | None:
        """The plan that is there, if it is one of this command, in whatever version of its format."""
        try:
            plan = json.loads((self.folder / PLAN).read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            plan = None
        found = plan.get("format") if isinstance(plan, dict) else None
        if not isinstance(plan, dict) or str(found).partition("/")[0] != format.partition("/")[0]:
            raise ValueError(
                f"{self.folder / PLAN} must be that of {self.command}, found something else"
                f"{f' ({found})' if found else ''}: pass another folder"
            )
        return plan

    def _own(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if self.output.fullmatch(path.name)]

    def _check_free(self) -> None:
        taken = [
            *self._own(),
            *(self.folder / name for name in (self.manifest, RECORDS) if (self.folder / name).exists()),
        ]
        if taken:
            raise ValueError(
                f"{self.folder} holds {min(taken).name}, and no {PLAN} that says how it was made: pass another folder"
            )

    def _clear(self) -> None:
        """Remove the output; the plan stays to the end, by which a killed removal is known as ours."""
        (self.folder / self.manifest).unlink(missing_ok=True)
        for path in [*self._records(), *self._own()]:
            path.unlink()

    def _records(self) -> list[Path]:
        folder = self.folder / RECORDS
        return [path for path in folder.glob("*.json") if _RECORD_NAME.fullmatch(path.name)]

    def _remove_temporary(self) -> None:
        for path in [*self.folder.glob(".*.tmp"), *self.folder.glob(f"{RECORDS}/.*.tmp")]:
            name = _TEMPORARY.fullmatch(path.name)
            known = (PLAN, self.manifest)
            if name and (name["name"] in known or self.output.fullmatch(name["name"]) or path.parent.name == RECORDS):
                path.unlink(missing_ok=True)

    def _keep_sound(self, verify: bool, parts: int) -> set[int]:
        """The parts whose files are as recorded; what remains of the others is removed, and the manifest with it."""
        sound: set[int] = set()
        named: set[str] = set()
        damaged = False
        for path in self._records():
            part, record = int(path.stem.removeprefix("part-")), _read_record(path)
            files = [] if record is None else record["files"]
            whole = record is not None and part < parts
            if whole and all(_is_sound(self.folder / file["name"], file, verify) for file in files):
                sound.add(part)
                named.update(file["name"] for file in files)
            else:
                damaged = True
                path.unlink()
        if damaged:
            (self.folder / self.manifest).unlink(missing_ok=True)
        for path in self._own():
            if path.name not in named:
                path.unlink()
        return sound


def make_plan(format: str, options: Mapping[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """What is to be done, as JSON holds it; sources by their absolute paths, however they are spelled.

    Args:
        format: Of the output; what is before its "/" says which command it is of.
        options: What the output depends on beside the sources.
        parts: The parts.
    """
    plain = [replace(part, sources=tuple(map(identify, part.sources)), reason="") for part in parts]
    return {
        "format": format,
        "options": dict(options),
        "sources": describe_sources(parts),
        "parts": [asdict(part) for part in plain],
    }


def describe_sources(parts: Iterable[Part]) -> list[list[Any]]:
    """Absolute path, bytes and time of the last change (ns) of every file that parts read, to notice a change.

    Of what is not there, and of simulations, both numbers are 0.

    Args:
        parts: The parts.
    """
    parts = list(parts)
    simulated = dict.fromkeys(identify(name) for part in parts if part.kind == "simulated" for name in part.sources)
    return [[name, 0, 0] for name in simulated] + [_describe_file(path) for path in source_files(parts)]


def _describe_file(path: Path) -> list[Any]:
    try:
        status = path.stat()
    except OSError:  # a link to nothing, which is one of the failures
        return [os.path.realpath(path), 0, 0]
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns]


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(json.loads(json.dumps(record)), sort_keys=True).encode())


def _read_record(path: Path) -> dict[str, Any] | None:
    """A record as it was written; None where it is anything else."""
    try:
        record = json.loads(path.read_text())
        checksum = record.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if checksum == _checksum(record) else None


def _is_sound(path: Path, file: Mapping[str, Any], verify: bool) -> bool:
    if not path.is_file() or path.stat().st_size != file["bytes"]:
        return False
    return not verify or crc32_of(path) == file["crc32"]


def _difference(before: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """What differs between two plans, in words; empty where nothing does."""
    options = before.get("options", {}), plan.get("options", {})
    for name in sorted(set(options[0]) | set(options[1])):
        was, now = (one.get(name) for one in options)
        if was != now:
            return f"{name} was {was!r}, and is {now!r}"
    was, now = ({source[0]: source for source in one.get("sources", [])} for one in (before, plan))
    changes = {
        "are new": [name for name in now if name not in was],
        "are gone": [name for name in was if name not in now],
        "have changed": [name for name in now if name in was and was[name] != now[name]],
    }
    texts = [f"{len(names)} sources {what} ({names[0]})" for what, names in changes.items() if names]
    if texts:
        return ", ".join(texts)
    if before == plan:
        return ""
    return "the order of sources, what of them can be read, or the version of the format"


# What was dropped ---------------------------------------------------------------------------------


class Losses:
    """What gave no output: counts by reason, and the first names of each.

    Attributes:
        dropped: By reason: how many spectra, and the names of the first.
        failures: How many entries cannot be read, and the first of them by source.
    """

    def __init__(self) -> None:
        self.dropped: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, Any] = {"count": 0, "sources": {}}

    def drop(self, reason: str, name: str) -> None:
        """Count a spectrum.

        Args:
            reason: Why it is of no use.
            name: Which one it is.
        """
        self._add_drop(reason, 1, [name])

    def fail(self, source: str, row: int, reason: str) -> None:
        """Count an entry that cannot be read.

        Args:
            source: Where it is.
            row: Its number there.
            reason: Why.
        """
        self._add_failure(1, {source: {"count": 1, "first": f"row {row}: {reason}"}})

    def add(self, record: Mapping[str, Any]) -> None:
        """Add those of a record.

        Args:
            record: With `dropped` and `failures`.
        """
        for reason, entry in record["dropped"].items():
            self._add_drop(reason, entry["spectra"], entry["first"])
        self._add_failure(record["failures"]["count"], record["failures"]["sources"])

    def as_json(self) -> dict[str, Any]:
        """Both, for a record or manifest."""
        return {"dropped": self.dropped, "failures": self.failures}

    def _add_drop(self, reason: str, count: int, names: list[str]) -> None:
        entry = self.dropped.setdefault(reason, {"spectra": 0, "first": []})
        entry["spectra"] += count
        entry["first"] = [*entry["first"], *names][:MOST_NAMED]

    def _add_failure(self, count: int, sources: Mapping[str, Mapping[str, Any]]) -> None:
        self.failures["count"] += count
        for source, entry in sources.items():
            known = self.failures["sources"]
            if source in known:
                known[source]["count"] += entry["count"]
            elif len(known) < MOST_NAMED:
                known[source] = dict(entry)


def sum_records(records: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Losses]:
    """The files of all records, and their losses together.

    Args:
        records: The records.
    """
    files: list[dict[str, Any]] = []
    losses = Losses()
    for record in records:
        files += record["files"]
        losses.add(record)
    return files, losses


def no_spectrum_left(parts: int, losses: Losses) -> str:
    """The message where there is no output.

    Args:
        parts: Number of the parts.
        losses: What became of their spectra.
    """
    dropped = [f"{entry['spectra']} {reason} ({entry['first'][0]})" for reason, entry in losses.dropped.items()]
    failed = [f"{source}: {entry['first']}" for source, entry in losses.failures["sources"].items()]
    text = "; ".join([*dropped, *(f"{losses.failures['count']} cannot be read ({first})" for first in failed[:1])])
    return f"no spectrum is left of {parts} parts: {text or 'they held none'}"


# Processes ----------------------------------------------------------------------------------------


def run_parallel(
    work: Callable[[Task], Result], tasks: Sequence[Task], num_workers: int, start_method: str | None = None
) -> Generator[Result, None, None]:
    """Results of tasks as they come, from a pool of processes, or from this one where one is enough.

    Args:
        work: A function of a module, with arguments and results that can be pickled.
        tasks: The tasks.
        num_workers: Number of processes.
        start_method: Of `multiprocessing`; None = its default.

    Raises:
        ValueError: If a worker was killed; and whatever `work` raises.
    """
    if num_workers <= 1 or len(tasks) <= 1:
        yield from map(work, tasks)
        return
    context = multiprocessing.get_context(start_method)
    stop = context.RawValue("b", 0)  # no lock, which a killed worker might take with it
    waiting: set[Future[Result]] = set()
    pending = iter(tasks)
    with ProcessPoolExecutor(min(num_workers, len(tasks)), context, _start_worker, (os.getpid(), stop)) as pool:
        try:
            while True:
                # Few at a time: a task may hold thousands of names, and a result waits here until it is asked for.
                while len(waiting) < 2 * num_workers and (task := next(pending, None)) is not None:
                    waiting.add(pool.submit(work, task))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise ValueError(WORKER_KILLED) from error
        except BaseException:  # also Ctrl-C: a part may take minutes, and is done again
            stop.value = 1
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(parent: int, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which stops its workers
    watch_parent(parent, stop)


def watch_parent(parent: int, stop: Any = None) -> None:
    """End this worker soon after the process that started it, which a killed one cannot ask for.

    Args:
        parent: Process id of the parent.
        stop: A shared value, which is true where the worker shall end at once.
    """

    above = os.getppid()  # the parent, or a fork server

    def watch() -> None:
        while os.getppid() == above and _is_alive(parent) and not (stop is not None and stop.value):
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def usable_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = [
    "Losses",
    "Outcome",
    "PartFolder",
    "describe_sources",
    "make_plan",
    "no_spectrum_left",
    "run_parallel",
    "sum_records",
    "usable_cores",
    "watch_parent",
]
