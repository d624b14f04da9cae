"""Spectra streamed from Hugging Face datasets: mixed by weight, shuffled, shared by processes and loader workers."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..models.spectrum import Spectrum, as_text, check_choice
from .dataset import key_digest
from .mixtures import Visit
from .multimodal_universe import correct_row
from .multimodal_universe_corrections import warn_of_known_errors
from .multimodal_universe_facts import UNIVERSE_SURVEYS
from .rows import column_kind, read_mapping
from .tables import as_table

# Rows per Arrow batch. A row that waits in the buffer keeps its batch in memory; and a batch that spans two row groups
# (of 100 or 1000 rows, as datasets writes them) is copied.
ROWS = 20
PARTS = ("train", "held out")
STREAMED = ("preview", "hats")  # generations of the Multimodal Universe: v1 are HDF5 files
HELD_OUT_SEED = 0  # not the stream's: what is held out stays so in every order
MOST_LANES = 32  # unless told otherwise: each has files open
Row = tuple[int, Mapping[str, Any]]  # its number in its lane's pass over the source, and its columns


class SpectrumStream(IterableDataset):
    """Spectra of streamed datasets, one dataset per survey, for a collator that takes `Spectrum` objects.

    Rows are taken as Arrow batches and stay views of them until their turn comes; surveys are mixed here rather than
    by `interleave_datasets`, which, like `shuffle`, turns every pixel into a Python number. Without weights every
    spectrum comes once; with weights the mixture has no end (give the training a number of steps).

    The order is that of `lanes` streams, which give `turn` spectra each in turn; it depends on nothing else but the
    seed and the epoch. Shards (the files) are shuffled and dealt out to the lanes; of a source with fewer shards than
    lanes, every lane reads all and takes every n-th row. Processes and loader workers share the order out among
    themselves in batches, see `distribute`. Who needs a lane in part reads it whole: with at least as many lanes as
    processes times workers, and batches of `turn` spectra, nobody reads what is not its own.

    Args:
        sources: Streaming datasets (`load_dataset(..., streaming=True)`) with rows that `read_spectra` takes: a list,
            or by the survey that their rows are of.
        weights: Share of each source, relative to each other; a source that ends begins anew. None = every source
            is as likely as the others while it lasts.
        generation: "preview" or "hats", the generation of the Multimodal Universe that the rows are of, whose known
            errors are then corrected (see `spectok_hf.data.multimodal_universe`); needs sources by survey, all of them
            surveys of it. None = rows are read as they are.
        held_out: Share of the objects that training leaves out, told by their identifiers; rows need them then.
        part: "train": all others; "held out": only those.
        lanes: Number of streams that the order is made of; a multiple of processes x workers is best. None = as many
            as the source with the fewest shards has, up to 32: then a single process reads every file once.
        turn: Spectra that a lane gives at a time; the batch size per process, or a divisor of it, is best.
        buffer_size: Rows that wait to be drawn from, over all sources and lanes.
        seed: Seed of the order.

    Raises:
        ValueError: If there is no source, one is no streaming dataset, or was cut by `take` or `skip` (which datasets
            applies to each shard anew), weights do not match the sources, or a number is not positive. While
            iterating: if a row holds no spectrum, has no identifier where objects are held out, or a lane of an
            endless stream has no rows.
    """

    def __init__(
        self,
        sources: Mapping[str, Any] | Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        generation: str | None = None,
        held_out: float = 0.0,
        part: str = "train",
        lanes: int | None = None,
        turn: int = 8,
        buffer_size: int = 512,
        seed: int = 0,
    ):
        self.surveys: list[str | None] = [*sources] if isinstance(sources, Mapping) else [None] * len(sources)
        self.sources = list(sources.values()) if isinstance(sources, Mapping) else list(sources)
        _check_sources(self.sources, weights)
        if lanes is None:
            lanes = min(*(source.num_shards for source in self.sources), MOST_LANES)
        for name, value in {"lanes": lanes, "turn": turn, "buffer_size": buffer_size}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out must be a share, at least 0 and below 1, found {held_out}")
        check_choice("part", part, PARTS)
        if part == "held out" and not held_out:
            raise ValueError('part="held out" needs a share, found held_out=0: pass that of the training')
        self.held_out, self.part = held_out, part
        if generation is not None:
            _check_generation(generation, self.surveys)
        self.weights = None if weights is None else np.array(weights, dtype=np.float64) / sum(weights)
        self.generation, self.lanes, self.turn = generation, lanes, turn
        self.buffer_size, self.seed = buffer_size, seed
        self._share: tuple[int, int, int] | None = None
        # Epoch, and batches to leave out: shared, so that persistent workers see them change.
        self._state = torch.zeros(2, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; the Trainer calls this.

        Args:
            epoch: Number of the epoch.
        """
        self._state[0] = epoch

    def distribute(self, process_index: int, num_processes: int, batch_size: int) -> None:
        """Take one process's share of a training: batch after batch in turn, without an end, as `Visit`s.

        The i-th batches of all processes together are the i-th `num_processes * batch_size` spectra of the order, so
        that a training sees the same whatever the number of processes and workers. Sources without weights begin anew
        when all of a lane have ended.

        Args:
            process_index: Number of this process.
            num_processes: How many there are.
            batch_size: Spectra per batch of a process, as the loader is told.
        """
        self._share = (process_index, num_processes, batch_size)

    def skip_batches(self, count: int) -> None:
        """Begin the next iteration behind so many batches of this process: to resume a training.

        Args:
            count: Number of batches that were taken.
        """
        self._state[1] = count

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        process, processes, size = self._share or (0, 1, self.turn)
        epoch, skipped = self._state.tolist()
        rows: dict[int, Iterator[Any]] = {}
        taken = dict.fromkeys(range(self.lanes), 0)
        fruitless, cycle = 0, self.turn * self.lanes  # at most so many batches until the lanes repeat
        for batch in itertools.count(skipped + worker, workers):
            first = (batch * processes + process) * size
            found = 0
            for number in range(first, first + size):
                lane, place = self._place(number)
                if lane not in rows:
                    rows[lane] = self._lane(lane, epoch)
                row = next(itertools.islice(rows[lane], place - taken[lane], None), None)
                taken[lane] = place + 1
                if row is not None:
                    found += 1
                    yield self._read(*row) if self._share is None else Visit(self._read(*row), number)
            fruitless = 0 if found else fruitless + 1
            if fruitless >= cycle:
                return

    def _place(self, number: int) -> tuple[int, int]:
        """Lane of a spectrum of the order, and its place there."""
        turn, within = divmod(number, self.turn)
        return turn % self.lanes, turn // self.lanes * self.turn + within

    def _lane(self, lane: int, epoch: int) -> Iterator[tuple[int, Row]]:
        """Sources and rows of a lane, in order."""
        endless = self._share is not None and self.weights is None
        for number in itertools.count() if endless else (0,):
            rows = self._mixed(lane, epoch, number)
            first = next(rows, None)
            if first is None and endless:
                raise ValueError(f"lane {lane} of {self.lanes} has no rows: pass fewer lanes, or more data")
            yield from itertools.chain(() if first is None else (first,), rows)

    def _mixed(self, lane: int, epoch: int, number: int) -> Iterator[tuple[int, Row]]:
        """A lane's rows of all sources, mixed; its pass `number`, where there are several."""
        rng = np.random.default_rng([self.seed, epoch, lane, number])
        size = max(self.buffer_size // (len(self.sources) * self.lanes), 1)
        streams: dict[int, Iterator[Row]] = {
            source: _shuffled(self._rows(source, [epoch, number], lane), size, rng)
            for source in range(len(self.sources))
        }
        while streams:
            alive = list(streams)
            source = alive[rng.integers(len(alive))] if self.weights is None else rng.choice(alive, p=self.weights)
            row = next(streams[source], None)
            if row is None:
                del streams[source]
            else:
                yield source, row

    def _rows(self, source: int, seed: list[int], lane: int) -> Iterator[Row]:
        """A lane's rows of a source: one pass, or, with weights, one after another."""
        for number in itertools.count():
            rows = enumerate(self._pass(source, [self.seed, *seed, source, number], lane))
            first = next(rows, None)
            if first is None and self.weights is not None:
                raise ValueError(f"{self._name(source)} must have rows for each of {self.lanes} lanes, found none")
            yield from itertools.chain(() if first is None else (first,), rows)
            if self.weights is None:
                return

    def _pass(self, source: int, seed: list[int], lane: int) -> Iterator[Mapping[str, Any]]:
        dataset = self.sources[source]
        count = dataset.num_shards
        shards = np.random.default_rng(seed).permutation(count)  # the same for all lanes
        own = shards[lane :: self.lanes] if count >= self.lanes else shards
        # `shard` copies the dataset, which takes as long as reading many a row: not where there is but one.
        parts = (dataset if count == 1 else dataset.shard(count, int(shard)) for shard in own)
        rows = (row for part in parts for row in _read_shard(part))
        if self.held_out:
            rows = (row for row in rows if self._is_held_out(source, row) == (self.part == "held out"))
        return rows if count >= self.lanes else itertools.islice(rows, lane, None, self.lanes)

    def _is_held_out(self, source: int, columns: Mapping[str, Any]) -> bool:
        name = next((name for name in columns if column_kind(name) == "object_id"), None)
        if name is None or columns[name] is None:
            raise ValueError(f"{self._name(source)} must have an object_id in every row to hold objects out by: none")
        key = key_digest(f"{self._name(source)} {as_text(columns[name])}", HELD_OUT_SEED)
        return int(key[:12], 16) < self.held_out * 16**12

    def _read(self, source: int, row: Row) -> Spectrum:
        number, columns = row
        survey = self.surveys[source]
        try:
            if self.generation is not None:
                columns = correct_row(columns, str(survey), self.generation)
            (spectrum,) = read_mapping(columns, {} if survey is None else {"survey": survey})
            warn_of_known_errors(columns, [spectrum])
        except ValueError as error:
            raise ValueError(f"{self._name(source)}, row {number} of its lane's pass: {error}") from error
        return spectrum

    def _name(self, source: int) -> str:
        return f"source {source}" if self.surveys[source] is None else f"source {self.surveys[source]!r}"


def _check_sources(sources: list[Any], weights: Sequence[float] | None) -> None:
    if not sources:
        raise ValueError("SpectrumStream needs at least one streaming dataset, found none")
    for source in sources:
        if not hasattr(source, "num_shards") or not hasattr(source, "iter") or hasattr(source, "__len__"):
            raise ValueError(
                f"SpectrumStream takes streaming datasets, found {type(source).__name__}: use "
                "load_dataset(..., streaming=True) or dataset.to_iterable_dataset()"
            )
        if cut := _cuts(source):
            raise ValueError(
                f"SpectrumStream reads shard by shard, and {cut} of a dataset takes other rows of each shard than of "
                "the whole: split by files, or with filter"
            )
    if weights is not None and (len(weights) != len(sources) or not all(0 < weight < math.inf for weight in weights)):
        raise ValueError(f"every source needs one positive weight, found {list(weights)} for {len(sources)} sources")


def _check_generation(generation: str, surveys: list[str | None]) -> None:
    check_choice("generation", generation, STREAMED)
    if others := [survey for survey in surveys if survey not in UNIVERSE_SURVEYS]:
        found = "sources without names" if None in others else ", ".join(map(str, others))
        raise ValueError(
            f"generation= needs to know the surveys, of {', '.join(UNIVERSE_SURVEYS)}, found {found}: pass sources as "
            "{survey: dataset}, and of other surveys in a stream of their own"
        )


def _cuts(dataset: Any) -> str | None:
    """ "take" or "skip", where a dataset of several shards is the result of one."""
    step = getattr(dataset, "_ex_iterable", None)
    while step is not None and dataset.num_shards > 1:
        for name in ("take", "skip"):
            if type(step).__name__.lower().startswith(name):
                return name
        step = getattr(step, "ex_iterable", None)
    return None


def _read_shard(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of a shard as views of its Arrow batches."""
    for table in dataset.with_format("arrow").iter(ROWS):
        rows = as_table(table)
        if rows is None or isinstance(rows, Mapping):
            raise ValueError(f"a row must hold a spectrum, found columns {', '.join(table.column_names)} of numbers")
        yield from rows


def _shuffled(rows: Iterator[Row], size: int, rng: np.random.Generator) -> Iterator[Row]:
    """Rows drawn at random from a buffer of `size` that the next ones refill."""
    buffer = list(itertools.islice(rows, size))
    for row in rows:
        drawn = int(rng.integers(len(buffer)))
        yield buffer[drawn]
        buffer[drawn] = row
    for drawn in rng.permutation(len(buffer)):
        yield buffer[drawn]


__all__ = ["SpectrumStream"]
