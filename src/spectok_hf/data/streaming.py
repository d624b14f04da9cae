"""Spectra streamed from Hugging Face datasets: mixed by weight, shuffled, split between loader workers."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..models.spectrum import Spectrum
from .rows import read_mapping
from .tables import as_table

# Rows per Arrow batch. A row that waits in the buffer keeps its batch in memory; and a batch that spans two row groups
# (of 100 or 1000 rows, as datasets writes them) is copied.
ROWS = 20
Row = tuple[int, Mapping[str, Any]]  # its number in the stream of its worker, and its columns


class SpectrumStream(IterableDataset):
    """Spectra of streamed datasets, one dataset per survey, for a collator that takes `Spectrum` objects.

    Rows are taken as Arrow batches and stay views of them until their turn comes; surveys are mixed here rather than
    by `interleave_datasets`, which, like `shuffle`, turns every pixel into a Python number. Without weights every
    spectrum comes once; with weights the mixture has no end (give the training a number of steps).

    Shards (the files) are shuffled every epoch and dealt out to the loader's workers; a source with fewer shards than
    there are workers is read by all of them, each taking every n-th row.

    Args:
        sources: Streaming datasets (`load_dataset(..., streaming=True)`) with rows that `read_spectra` takes: a list,
            or by the survey that their rows are of.
        weights: Share of each source, relative to each other; a source that ends begins anew. None = every source
            is as likely as the others while it lasts.
        buffer_size: Rows that wait to be drawn from, over all sources, in each worker.
        seed: Seed of the order; with the epoch, and the number of workers, it fixes it.

    Raises:
        ValueError: If there is no source, one is no streaming dataset, or was cut by `take` or `skip` (which datasets
            applies to each shard anew), or weights do not match the sources. While
            iterating: if a row holds no spectrum.
    """

    def __init__(
        self,
        sources: Mapping[str, Any] | Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        buffer_size: int = 512,
        seed: int = 0,
    ):
        self.surveys: list[str | None] = [*sources] if isinstance(sources, Mapping) else [None] * len(sources)
        self.sources = list(sources.values()) if isinstance(sources, Mapping) else list(sources)
        _check_sources(self.sources, weights)
        if buffer_size < 1:
            raise ValueError(f"buffer_size must be at least 1, found {buffer_size}")
        self.weights = None if weights is None else np.array(weights, dtype=np.float64) / sum(weights)
        self.buffer_size, self.seed = buffer_size, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws; the Trainer calls this.

        Args:
            epoch: Number of the epoch.
        """
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Spectrum]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        epoch = int(self._epoch)
        rng = np.random.default_rng([self.seed, epoch, worker])
        size = max(self.buffer_size // len(self.sources), 1)
        streams: dict[int, Iterator[Row]] = {
            source: _shuffled(self._rows(source, epoch, worker, workers), size, rng)
            for source in range(len(self.sources))
        }
        while streams:
            alive = list(streams)
            source = alive[rng.integers(len(alive))] if self.weights is None else rng.choice(alive, p=self.weights)
            row = next(streams[source], None)
            if row is None:
                del streams[source]
            else:
                yield self._read(source, row)

    def _rows(self, source: int, epoch: int, worker: int, workers: int) -> Iterator[Row]:
        """A worker's rows of a source: one pass, or, with weights, one after another."""
        for number in itertools.count():
            rows = enumerate(self._pass(source, [self.seed, epoch, source, number], worker, workers))
            first = next(rows, None)
            if first is None and self.weights is not None:
                raise ValueError(f"{self._name(source)} must have rows for each of {workers} workers, found none")
            yield from itertools.chain(() if first is None else (first,), rows)
            if self.weights is None:
                return

    def _pass(self, source: int, seed: list[int], worker: int, workers: int) -> Iterator[Mapping[str, Any]]:
        dataset = self.sources[source]
        count = dataset.num_shards
        shards = np.random.default_rng(seed).permutation(count)  # the same for all workers
        own = shards[worker::workers] if count >= workers else shards
        # `shard` copies the dataset, which takes as long as reading many a row: not where there is but one.
        parts = (dataset if count == 1 else dataset.shard(count, int(shard)) for shard in own)
        rows = (row for part in parts for row in _read_shard(part))
        return rows if count >= workers else itertools.islice(rows, worker, None, workers)

    def _read(self, source: int, row: Row) -> Spectrum:
        number, columns = row
        fields = {} if self.surveys[source] is None else {"survey": self.surveys[source]}
        try:
            (spectrum,) = read_mapping(columns, fields)
        except ValueError as error:
            raise ValueError(f"{self._name(source)}, row {number} of its worker's stream: {error}") from error
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
