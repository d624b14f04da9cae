"""Answers about the spectra of any sources as Parquet files: in parts, over processes and devices, resumable.

`spectok embed` keeps the files of the parts; `spectok encode`, `classify`, ... join them to one table (`table_files`).
"""

import ctypes
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.collators import TOKEN_BUDGET, TokenBudgetBatchSampler, collator_for
from ..data.domain import flag, median_snr, outside
from ..data.parts import ON_ERROR, Entry, Part, plain_reason, plan_parts, raise_failure, source_files
from ..data.prepare import part_bar, reason_against, validity_of
from ..data.resumable import (
    WORKER_KILLED,
    Losses,
    Outcome,
    PartFolder,
    make_plan,
    no_spectrum_left,
    sum_records,
    watch_parent,
)
from ..data.shards import SPECTRA_PER_SHARD
from ..data.spectrum_side import as_read, tokens_per_patch
from ..data.whole_files import crc32_of, written_whole
from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum, check_choice
from .answers import Answers, check_device

OUTPUT = re.compile(r"part-\d{6,}\.parquet")
WINDOW = 256  # spectra that are read, sorted by length, encoded, and written as a row group
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class RunOptions:
    """How sources are read, cut into parts and answered about; what is not said here is said by `embed_spectra`.

    Args:
        survey: Survey of rows of tables that do not say theirs.
        generation: Generation of Multimodal Universe Parquet files that do not show theirs.
        spectra_per_part: Most rows, or files, of a part.
        token_budget: Most patches of a batch; a spectrum with more is a batch of its own. A picture of 224 x 224
            pixels counts as 196, the tokens that a vision encoder makes of it.
        num_workers: Processes that read and patch spectra, beside each one that computes; 0 = none.
        device: Where to compute; None = what accelerate chooses.
        on_error: What to do about an entry that cannot be read: "skip" and count it, or "raise".
        skip_missing: Whether a file that is not there is such an entry, too.
        overwrite: Begin anew in a folder of other sources or settings.
        verify: Compare the checksums of the files that are there.
        progress: Whether to show a progress bar, in the main process.
    """

    survey: str | None = None
    generation: str | None = None
    spectra_per_part: int = SPECTRA_PER_SHARD
    token_budget: int = TOKEN_BUDGET
    num_workers: int = 0
    device: str | torch.device | None = None
    on_error: str = "skip"
    skip_missing: bool = False
    overwrite: bool = False
    verify: bool = False
    progress: bool = False

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ON_ERROR)
        if self.token_budget < 1:
            raise ValueError(f"token_budget must be at least 1 patch, found {self.token_budget}")
        check_device(self.device)


def answer_sources(
    sources: Iterable[str | Path] | str | Path,
    load: Any,
    folder: PartFolder,
    *,
    format: str,
    said: Mapping[str, Any],
    what: str,
    options: RunOptions,
    never_read: Path | None = None,
) -> Outcome:
    """Write what a model says of each spectrum of any sources to the part files of a folder.

    Args:
        sources: What `plan_parts` takes.
        load: Gives the `Answers`, for a device; called when the sources are known to be there.
        folder: Where to write.
        format: Of the folder; another one is not gone on with.
        said: What the manifest says of the run, beside the settings.
        what: What is done, for the progress bar.
        options: How.
        never_read: The file that is made of the parts; it must not be one of the sources.

    Returns:
        The manifest, and what this run did, all processes together.

    Raises:
        FileNotFoundError: If a source is missing.
        ValueError: As `embed_spectra`.
    """
    started = time.monotonic()
    state = _start_processes(options.device)
    reading: dict[str, Any] = {"survey": options.survey, "generation": options.generation}
    names = ("spectra_per_part", "on_error", "skip_missing")
    cut: dict[str, Any] = {name: getattr(options, name) for name in names}
    parts = _from_main(state, lambda: plan_parts(sources, **cut, leave_out=folder.folder, **reading))
    _check_not_read(parts, never_read)
    answers: Answers = load(torch.device(options.device or state.device))
    settings = answers.settings() | validity_of(answers.processor) | reading
    settings |= {"spectra_per_part": options.spectra_per_part, "token_budget": options.token_budget}
    with ExitStack() as stack:

        def begin() -> set[int]:
            stack.enter_context(folder.locked())
            plan = make_plan(format, settings, parts)
            return folder.begin(plan, overwrite=options.overwrite, verify=options.verify)

        done = _from_main(state, begin)
        mine = {number: parts[number] for number in range(state.process_index, len(parts), state.num_processes)}
        todo = [(number, part) for number, part in mine.items() if number not in done]
        windows = _Windows(todo, answers, options.token_budget)
        what += "" if state.num_processes == 1 else f" (process 1 of {state.num_processes})"
        order = {number: position for position, number in enumerate(mine)}
        shown = options.progress and state.is_main_process
        with part_bar(list(mine.values()), [order[number] for number in mine if number in done], what, shown) as bar:
            try:
                count = _run(windows, options.num_workers, answers, folder, bar, strict=options.on_error == "raise")
            except (ValueError, OSError) as error:
                if state.num_processes > 1:  # what goes before is the same in all, and this is not
                    error.add_note(f"in process {state.process_index + 1} of {state.num_processes}")
                raise
        count = sum(gather_object([count]))  # waits for all

        def finish() -> dict[str, Any]:
            return folder.finish(_manifest(format, folder.records(len(parts)), dict(said) | settings, len(parts)))

        manifest = _from_main(state, finish)
    return Outcome(manifest, count, time.monotonic() - started)


def _check_not_read(parts: Sequence[Part], output: Path | None) -> None:
    if output is not None and output.exists() and output.resolve() in {path.resolve() for path in source_files(parts)}:
        raise ValueError(f"{output} is one of the sources, and would be replaced: write elsewhere")


def _start_processes(device: str | torch.device | None) -> PartialState:
    on_cpu = not torch.accelerator.is_available() if device is None else torch.device(device).type == "cpu"
    # Processes wait for the slowest at the end, far longer than between the steps of a training.
    return PartialState(cpu=on_cpu, timeout=PATIENCE)


def _from_main(state: PartialState, work: Any) -> Any:
    """What `work` gives in the main process, in all of them; its errors too, as the others would wait for ever."""
    results: list[Any] = [None, None]
    if state.is_main_process:
        try:
            results[0] = work()
        except (ValueError, OSError, ImportError) as error:
            results[1] = error
    if state.num_processes > 1:
        broadcast_object_list(results)
    if results[1] is not None:
        raise results[1]
    return results[0]


# Reading ------------------------------------------------------------------------------------------


@dataclass
class _Window:
    """Consecutive entries of a part.

    Args:
        part: Number of the part.
        rows: What is said of each entry.
        batches: Batches of those with a valid patch, and which rows they are.
        spectra: Those spectra, where the answers need them.
        last: Whether the part ends here.
    """

    part: int
    rows: list[dict[str, Any]]
    batches: list[tuple[list[int], dict[str, Any]]]
    spectra: dict[int, Spectrum]
    last: bool


class _Windows(IterableDataset):
    """The windows of parts; a loader's worker takes every n-th part, so that no batch depends on their number."""

    def __init__(self, parts: Sequence[tuple[int, Part]], answers: Answers, budget: int):
        # Not the answers themselves: workers need no model.
        self.parts, self.budget = parts, budget
        self.processor: SpectrumProcessor = answers.processor
        self.domain, self.keep = answers.domain, answers.needs_spectra
        self.collate, self.cost = collator_for(answers.processor), tokens_per_patch(answers.processor)

    def __iter__(self) -> Iterator[_Window]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for number, part in self.parts[first::step]:
            entries = part.entries()
            ahead = list(islice(entries, 1))
            while True:
                taken = ahead + list(islice(entries, WINDOW - 1))
                ahead = list(islice(entries, 1))
                window = self._window(number, taken, last=not ahead)
                del taken  # while this window is encoded, and the next one read, it would cost as much again
                yield window
                del window
                if not ahead:
                    break

    def _window(self, number: int, entries: list[Entry], *, last: bool) -> _Window:
        rows: list[dict[str, Any]] = []
        patched: dict[int, dict[str, np.ndarray]] = {}
        kept: dict[int, Spectrum] = {}
        for position, entry in enumerate(entries):
            row: dict[str, Any] = {"source": entry.source, "row": entry.row}
            if entry.spectrum is None:
                rows.append(row | {"reason": entry.reason, "unread": True})
                continue
            try:
                features = self.processor.patch(entry.spectrum)
            except ValueError as error:  # a grid or unit that the model does not know
                rows.append(row | {"reason": plain_reason(error), "unread": True})
                continue
            rows.append(row | self._describe(entry.spectrum, features))
            if not rows[-1]["reason"]:
                patched[position] = features
                kept |= {position: entry.spectrum} if self.keep else {}
        return _Window(number, rows, list(self._batches(patched)), kept, last)

    def _batches(self, patched: dict[int, dict[str, np.ndarray]]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        if not patched:
            return
        positions = list(patched)
        lengths = [self.cost * int(features["num_patches"]) for features in patched.values()]
        for chosen in TokenBudgetBatchSampler(lengths, max(self.budget, *lengths)):
            members = [positions[index] for index in chosen]
            batch = self.collate([patched[member] for member in members])
            # Arrays: a loader would pass each tensor through a file descriptor of its own.
            yield (
                members,
                {name: values.numpy() if torch.is_tensor(values) else values for name, values in batch.items()},
            )

    def _describe(self, spectrum: Spectrum, features: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "survey": spectrum.survey,
            "object_id": spectrum.object_id,
            "num_patches": int(features["num_patches"]),
            "valid_patches": int(features["attention_mask"].sum()),
            "good_share": float(self.processor.good_pixels(as_read(self.processor, spectrum)).mean()),
            "snr": median_snr(spectrum),
            "scale": float(features["scale"]),
            "wavelength_min": float(spectrum.wavelength[0]),
            "wavelength_max": float(spectrum.wavelength[-1]),
            "outside": flag(outside(self.domain, spectrum)),
            "reason": reason_against(features) or None,
        }


# Writing ------------------------------------------------------------------------------------------


def _run(windows: _Windows, num_workers: int, answers: Answers, output: PartFolder, bar: Any, *, strict: bool) -> int:
    """Ask about windows and write the answers to the files of their parts; gives the number of entries."""
    # Without the watch a reader waits for ever to hand its window to a killed process, and the lock with it.
    watch = partial(_watch_parent, os.getpid())
    loader = DataLoader(windows, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, worker_init_fn=watch)
    files: dict[int, _PartFile] = {}
    count = 0
    try:
        for window in loader:
            if strict:
                _check_read(window)
            if window.part not in files:
                files[window.part] = _PartFile(output, window.part, answers)
            for members, batch in window.batches:
                spectra = [window.spectra[member] for member in members if member in window.spectra]
                for member, result in zip(members, answers(batch, spectra), strict=True):
                    window.rows[member] |= result
            files[window.part].write(window.rows)
            count += len(window.rows)
            bar.update(len(window.rows))
            if window.last:
                files.pop(window.part).finish()
            del window
            _return_memory()
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ValueError(WORKER_KILLED) from error
    finally:
        for file in files.values():
            file.abandon()
    return count


def _return_memory() -> None:
    """Give freed memory back to the system.

    glibc keeps the pieces that batches of changing size leave, and a run of days would grow by some MiB a minute.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


def _check_read(window: _Window) -> None:
    """Stop at an entry that cannot be read; here, as a loader adds its traceback to what its workers raise."""
    for row in window.rows:
        if row.get("unread"):
            raise_failure(Entry(row["source"], row["row"], reason=row["reason"]))


def _watch_parent(parent: int, worker: int) -> None:
    watch_parent(parent)


def _as_it_is(window: Any) -> Any:
    return window


class _PartFile:
    """The Parquet file of a part, which takes its name when it is complete."""

    def __init__(self, output: PartFolder, part: int, answers: Answers):
        import pyarrow.parquet as pq

        self.output, self.part = output, part
        self.path = output.folder / f"part-{part:06d}.parquet"
        self.schema = _schema(answers)
        self.rows = self.embedded = 0
        self.losses = Losses()
        self.stack = ExitStack()
        self.temporary = self.stack.enter_context(written_whole(self.path))
        # Numbers of embeddings do not repeat, and a dictionary of them only takes time.
        self.writer = pq.ParquetWriter(
            self.temporary, self.schema, compression="zstd", use_dictionary=["source", "survey", "reason"]
        )

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append a row group."""
        for row in rows:
            if row.pop("unread", False):
                self.losses.fail(row["source"], row["row"], row["reason"])
            elif row["reason"]:
                self.losses.drop(row["reason"], f"{row['source']}, row {row['row']}")
        self.rows += len(rows)
        self.embedded += sum(row["reason"] is None for row in rows)
        if rows:
            self.writer.write_table(_table(rows, self.schema))

    def finish(self) -> None:
        """Give the file its name, and write the record that says so."""
        self.writer.close()
        self.stack.close()
        file = {"name": self.path.name, "rows": self.rows, "bytes": self.path.stat().st_size}
        file["crc32"] = crc32_of(self.path)
        record = {"files": [file], "spectra": self.embedded, **self.losses.as_json()}
        self.output.record(self.part, record)

    def abandon(self) -> None:
        """Leave no file."""
        self.writer.close()
        self.temporary.unlink(missing_ok=True)


def _schema(answers: Answers) -> Any:
    import pyarrow as pa

    number = pa.float32()
    columns: dict[str, Any] = {"source": pa.string(), "row": pa.int64(), "survey": pa.string()}
    columns |= {"object_id": pa.string(), **answers.columns()}
    columns |= {"num_patches": pa.int32(), "valid_patches": pa.int32(), "good_share": number, "snr": number}
    columns |= {"scale": number, "wavelength_min": pa.float64(), "wavelength_max": pa.float64()}
    columns |= {"outside": pa.string(), "reason": pa.string()}
    units = {"wavelength_min": "Angstrom", "wavelength_max": "Angstrom", **answers.units}
    return pa.schema(
        pa.field(name, kind, metadata={"unit": units[name]} if units.get(name) else None)
        for name, kind in columns.items()
    )


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.table([_column([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)


def _column(values: list[Any], kind: Any) -> Any:
    """Values as an Arrow array; arrays are laid end to end, without a Python number for each of theirs."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_string(kind):  # the name of a file may be none in UTF-8
        values = [None if value is None else value.encode(errors="backslashreplace").decode() for value in values]
    if not types.is_list(kind) and not types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    present = [value for value in values if value is not None]
    absent = pa.array([value is None for value in values], pa.bool_())
    if types.is_fixed_size_list(kind):
        size = kind.list_size
        rows = np.zeros((len(values), size), dtype=np.float32)
        rows[[value is not None for value in values]] = np.stack(present) if present else 0
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind, mask=absent)
    flat = np.concatenate(present) if present else np.zeros((0, 1), dtype=np.float32)
    offsets = np.cumsum([0, *(0 if value is None else len(value) for value in values)]).astype(np.int32)
    inner = kind.value_type
    number = inner.value_type if types.is_fixed_size_list(inner) else inner
    items = pa.array(flat.reshape(-1)[: flat.size if present else 0], number)
    if types.is_fixed_size_list(inner):
        items = pa.FixedSizeListArray.from_arrays(items, type=inner)
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=kind, mask=absent)


def _manifest(
    format: str, records: Iterable[Mapping[str, Any]], options: Mapping[str, Any], parts: int
) -> dict[str, Any]:
    records = list(records)
    files, losses = sum_records(records)
    spectra = sum(record["spectra"] for record in records)
    if not spectra:
        raise ValueError(no_spectrum_left(parts, losses))
    counts = {"parts": parts, "rows": sum(file["rows"] for file in files), "spectra": spectra}
    return {"format": format, **counts, "options": dict(options), **losses.as_json(), "files": files}


__all__ = ["OUTPUT", "RunOptions", "answer_sources"]
