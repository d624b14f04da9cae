"""`prepare_shards`: any mixture of sources as Arrow shards, in parallel, to go on with wherever it was killed."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum, check_choice
from .parts import ON_ERROR, Entry, Part, plain_reason, plan_parts, raise_failure
from .resumable import (
    Losses,
    Outcome,
    PartFolder,
    make_plan,
    no_spectrum_left,
    run_parallel,
    sum_records,
    usable_cores,
)
from .shards import FORMAT, SPECTRA_PER_SHARD, check_writable, sum_files, write_shard

OUTPUT = re.compile(r"shard-\d{6,}-\d{3,}\.arrow")
# By which a processor tells whether a spectrum has a valid patch, or anything to draw.
VALIDITY = ("patch_size", "medium", "gap_factor", "max_normalized_flux", "wavelength_range")
# By which one of Specformer tells whether it reads a spectrum at all.
GRID = ("grid_start", "grid_step", "grid_size", "resample")
ALL_BAD = "all pixels are bad"
NO_PATCH = "no patch has enough good pixels"
NOTHING_DRAWN = "no good pixel can be drawn"


def prepare_shards(
    sources: Iterable[str | Path] | str | Path,
    folder: str | Path,
    *,
    processor: SpectrumProcessor | None = None,
    survey: str | None = None,
    generation: str | None = None,
    spectra_per_shard: int = SPECTRA_PER_SHARD,
    num_workers: int | None = None,
    start_method: str | None = None,
    on_error: str = "skip",
    overwrite: bool = False,
    verify: bool = False,
    progress: bool = False,
) -> Outcome:
    """Write the spectra of any sources as Arrow shards for `SpectrumShards`, once and for all trainings.

    Sources are cut into parts, which are dealt to processes; each part becomes a shard (several, where its files hold
    more spectra than a shard takes). Shards and their records appear whole. The same call goes on where a killed one
    stopped, and the folder ends byte for byte as it would have without the kill, and with any number of workers. A
    spectrum without a valid patch, which training could not use, is left out and counted; so is one that the model
    does not read, such as a Specformer those off its grid.

    Args:
        sources: What `plan_parts` takes: files, folders, patterns, folders of shards, simulations.
        folder: Where to write; made where it is absent.
        processor: The processor whose settings tell a valid patch; None = the default ones.
        survey: Survey of rows of tables that do not say theirs.
        generation: Generation of Multimodal Universe Parquet files that do not show theirs, "preview" or "hats".
        spectra_per_shard: Most spectra of a shard, and rows or files of a part (of files 256, or 64 MiB, at most).
        num_workers: Processes that read and write; None = one per core.
        start_method: How they start, of `multiprocessing`; None = its default.
        on_error: What to do about an entry that cannot be read, by us or by the model, a damaged file or shard, or
            labels that cannot be written: "skip" and count it, or "raise".
        overwrite: Begin anew in a folder that was prepared from other sources, or with other settings.
        verify: Compare the checksums of the shards that are there, and write damaged ones anew; else their sizes are.
        progress: Whether to show a progress bar.

    Returns:
        The manifest (counts, wavelength ranges in Å, what was dropped and why, files with checksums, the settings by
        which validity was told), and what this run did.

    Raises:
        FileNotFoundError: If a source is missing.
        ValueError: If the folder was begun with other sources or settings, or holds a source, another run writes into
            it, no spectrum is left, or, with "raise", an entry cannot be read.
    """
    check_choice("on_error", on_error, ON_ERROR)
    started = time.monotonic()
    reading: dict[str, Any] = {"survey": survey, "generation": generation}
    parts = plan_parts(sources, spectra_per_part=spectra_per_shard, on_error=on_error, leave_out=folder, **reading)
    processor = processor or SpectrumProcessor()
    validity = validity_of(processor)
    output = PartFolder(folder, OUTPUT, "spectok prepare")
    grid = {name: getattr(processor, name) for name in GRID if hasattr(processor, name)}
    plan = make_plan(FORMAT, validity | grid | {"spectra_per_shard": spectra_per_shard} | reading, parts)
    with output.locked():
        done = output.begin(plan, overwrite=overwrite, verify=verify)
        tasks = [
            _Task(number, part, str(output.folder), processor, spectra_per_shard, on_error == "raise")
            for number, part in enumerate(parts)
            if number not in done
        ]
        spectra = 0
        workers = usable_cores() if num_workers is None else num_workers
        results = run_parallel(_prepare_part, tasks, workers, start_method)
        with part_bar(parts, done, "preparing", progress) as bar, closing(results):
            for number, handled in results:
                spectra += handled
                bar.update(parts[number].size)
        manifest = output.finish(_manifest(output.records(len(parts)), len(parts), validity))
    return Outcome(manifest, spectra, time.monotonic() - started)


def part_bar(parts: list[Part], done: Iterable[int], what: str, shown: bool) -> Any:
    """A progress bar over the spectra of parts, with rate and remaining time.

    A file counts as one spectrum until it is read.

    Args:
        parts: All parts.
        done: Numbers of those that are finished.
        what: What is done to them.
        shown: Whether to show it.
    """
    from tqdm.auto import tqdm

    initial = sum(parts[number].size for number in done)
    total = sum(part.size for part in parts)
    return tqdm(desc=what, total=total, initial=initial, unit="spectrum", unit_scale=True, disable=not shown)


@dataclass(frozen=True)
class _Task:
    number: int
    part: Part
    folder: str
    processor: SpectrumProcessor
    spectra_per_shard: int
    strict: bool


def _prepare_part(task: _Task) -> tuple[int, int]:
    """Write the shards of a part and its record; gives its number, and how many spectra were looked at."""
    sifted = _Sieve(task)
    spectra = iter(sifted)
    output = PartFolder(task.folder, OUTPUT, "spectok prepare")
    files: list[dict[str, Any]] = []
    for number in count():
        path = output.folder / f"shard-{task.number:06d}-{number:03d}.arrow"
        file = write_shard(islice(spectra, task.spectra_per_shard), path)
        if file is None:
            break
        files.append(file)
    output.record(task.number, {"files": files, "wavelength": sifted.ranges, **sifted.losses.as_json()})
    return task.number, sifted.count


class _Sieve:
    """The spectra of a part that training can use, and what became of the others."""

    def __init__(self, task: _Task):
        self.task = task
        self.processor = task.processor
        self.losses = Losses()
        self.ranges: dict[str, list[float]] = {}  # Å, by survey
        self.count = 0

    def __iter__(self) -> Iterator[Spectrum]:
        for entry in self.task.part.entries():
            self.count += 1
            entry, patches = self._patched(entry)
            if entry.spectrum is None:
                self._fail(entry)
            elif reason := reason_against(patches):
                self.losses.drop(reason, f"{entry.source}, row {entry.row}: {entry.spectrum.name}")
            elif reason := _reason_against_writing(entry.spectrum):
                self._fail(replace(entry, reason=reason))
            else:
                first, last = float(entry.spectrum.wavelength[0]), float(entry.spectrum.wavelength[-1])
                _widen(self.ranges, entry.spectrum.survey or "unnamed", first, last)
                yield entry.spectrum

    def _patched(self, entry: Entry) -> tuple[Entry, Mapping[str, Any]]:
        """An entry with its patches; where the model does not read its spectrum, without it, and the reason."""
        if entry.spectrum is None:
            return entry, {}
        try:
            return entry, self.processor.patch(entry.spectrum)
        except ValueError as error:
            return replace(entry, spectrum=None, reason=plain_reason(error)), {}

    def _fail(self, entry: Entry) -> None:
        if self.task.strict:
            raise_failure(entry)
        self.losses.fail(entry.source, entry.row, entry.reason)


def validity_of(processor: SpectrumProcessor) -> dict[str, Any]:
    """The settings by which a processor tells whether a spectrum has a valid patch.

    Args:
        processor: The processor.
    """
    overlap = getattr(processor, "patch_overlap", 0)
    own = {name: getattr(processor, name) for name in VALIDITY if hasattr(processor, name)}
    return own | ({"patch_overlap": overlap} if overlap else {})


def reason_against(patches: Mapping[str, Any]) -> str:
    """Why a spectrum is of no use to a model; empty where it is.

    Args:
        patches: What `patch` of the processor made of it.
    """
    if patches["attention_mask"].any():
        return ""
    if "pixel_mask" not in patches:  # a picture, which may show but a part of the wavelengths
        return NOTHING_DRAWN
    return NO_PATCH if patches["pixel_mask"].any() else ALL_BAD


def _reason_against_writing(spectrum: Spectrum) -> str:
    try:
        check_writable(spectrum)
    except ValueError as error:
        return plain_reason(error)
    return ""


def _widen(ranges: dict[str, list[float]], survey: str, first: float, last: float) -> None:
    known = ranges.setdefault(survey, [first, last])
    known[:] = min(known[0], first), max(known[1], last)


def _manifest(records: Iterable[Mapping[str, Any]], parts: int, validity: Mapping[str, Any]) -> dict[str, Any]:
    records = list(records)
    files, losses = sum_records(records)
    ranges: dict[str, list[float]] = {}
    for record in records:
        for survey, (first, last) in record["wavelength"].items():
            _widen(ranges, survey, first, last)
    if not files:
        raise ValueError(no_spectrum_left(parts, losses))
    counts = {"parts": parts, **sum_files(files), "wavelength": ranges}
    return {"format": FORMAT, **counts, "validity": dict(validity), **losses.as_json(), "files": files}


__all__ = ["NOTHING_DRAWN", "NO_PATCH", "part_bar", "prepare_shards", "reason_against", "validity_of"]
