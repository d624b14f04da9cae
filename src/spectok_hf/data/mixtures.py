"""Mixtures of sources as one endless order of visits: weighted, evenly mixed, the same on any number of processes."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Sampler

LENGTH_BUCKETS = 4  # per source
SMALL = 4096  # spectra
CHUNK = 4096  # indices that are turned into Python numbers at a time
_ORDER, _PASS = range(2)  # what a random stream is for; zeros at the end of a seed do not count


class Visit(NamedTuple):
    """A spectrum's turn in a training. Its number fixes what is drawn for it (hidden pixels, views), so that the draw
    differs from visit to visit, and does not depend on the batch, the process or the worker that it comes to.

    Args:
        what: Index of the spectrum; of what a data set makes of it, the spectrum or its patches.
        number: Position in the training, from 0.
    """

    what: Any
    number: int


def without_visits(items: Sequence[Any]) -> tuple[list[Any], list[int] | None]:
    """What was visited, and the numbers of the visits; None where the items come without.

    Args:
        items: Visits, or anything else.

    Raises:
        ValueError: If only some are visits.
    """
    visits = sum(isinstance(item, Visit) for item in items)
    if not visits:
        return list(items), None
    if visits < len(items):
        raise ValueError(f"all or none of a batch must be visits, found {visits} of {len(items)}: use one sampler")
    return [item.what for item in items], [item.number for item in items]


def blocks(sizes: Sequence[int]) -> list[range]:
    """The indices of sources that lie end to end.

    Args:
        sizes: Number of spectra of each.
    """
    stops = np.cumsum(sizes).tolist()
    return [range(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]


def mixture_shares(
    sizes: Sequence[int], weights: Sequence[float] | None = None, *, temperature: float = 1.0
) -> np.ndarray:
    """Share of each source in a mixture; they add up to 1.

    Args:
        sizes: Number of spectra of each source.
        weights: Shares, relative to each other; None = by size and temperature.
        temperature: Without weights shares go as size^(1/temperature): 1 = as many as there are, higher = small
            sources count more, infinite = all alike (Aharoni et al. 2019, NAACL, section 4).

    Raises:
        ValueError: If weights and sources do not match, a size, weight or the temperature is not positive, or both
            weights and a temperature are given.
    """
    if weights is not None and temperature != 1:
        raise ValueError(f"pass weights or a temperature, found weights and temperature={temperature}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, found {temperature}")
    given = sizes if weights is None else weights
    if len(sizes) != len(given) or not len(sizes) or min([*sizes, *given]) <= 0 or not all(map(math.isfinite, given)):
        raise ValueError(
            f"every source needs spectra and one positive weight, found sizes {list(sizes)}, weights {list(given)}"
        )
    shares = np.asarray(given, dtype=np.float64)
    shares = (shares / shares.max()) ** (1 / temperature)
    return shares / shares.sum()


class MixtureSampler(Sampler[Any]):
    """Order of training: one endless sequence, epoch after epoch, which data-parallel processes cut into batches.

    An epoch has as many visits as the sources have spectra; each source is due its share of them. It goes through its
    spectra pass after pass, each in a new random order: no spectrum comes a second time before all of its source have
    come. In proportion to the sizes (no weights) every epoch holds every spectrum once. The order depends on the seed
    alone, and the i-th global batch holds the same spectra however many processes, workers and accumulation steps
    share it. With weights, epochs end where a source's share is rounded.

    An iteration (what `Trainer` calls an epoch) is an epoch, filled up to a multiple of the global batch from the
    next one, which goes on from there: nothing is dropped, and nothing comes twice, as the last batches of
    accelerate's samplers do.

    Args:
        sources: Indices of the spectra of each source, for instance of each survey; see `blocks`.
        weights: Share of each source, relative to each other; None = by size and temperature.
        temperature: See `mixture_shares`.
        lengths: Patches or pixels of every spectrum, by index. With them, spectra are mixed evenly rather than at
            random: each source is divided into buckets of similar length, and any stretch of the order holds about
            the same number of each, so that batches, and processes, have about the same work.
        multiple_of: Global batch size: spectra per process, times processes, times accumulation steps.
        visits: Whether to give a `Visit` of each index, for collators that draw something, or the index alone.
        seed: Seed of the order.

    Attributes:
        epoch_size: Visits per epoch.
        counts: Visits of each source per epoch.

    Raises:
        ValueError: As `mixture_shares`, or if `multiple_of` is no positive number.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[int] | np.ndarray],
        weights: Sequence[float] | None = None,
        *,
        temperature: float = 1.0,
        lengths: Sequence[int] | np.ndarray | None = None,
        multiple_of: int = 1,
        visits: bool = False,
        seed: int = 0,
    ):
        if multiple_of < 1 or multiple_of != int(multiple_of):
            raise ValueError(
                f"multiple_of must be a whole number from 1 on, found {multiple_of}: pass the global batch size"
            )
        self.sources = [np.asarray(source) for source in sources]
        sizes = [len(source) for source in self.sources]
        shares = mixture_shares(sizes, weights, temperature=temperature)
        self.counts = [max(round(sum(sizes) * share), 1) for share in shares]
        self.epoch_size = sum(self.counts)
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.multiple_of, self.visits, self.seed = multiple_of, visits, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the iteration that the next one is; the Trainer calls this.

        Args:
            epoch: Number of the iteration.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.epoch_size // self.multiple_of) * self.multiple_of

    def __iter__(self) -> Iterator[Any]:
        number = self.epoch * len(self)
        stop = number + len(self)
        while number < stop:
            epoch, first = divmod(number, self.epoch_size)
            order = self._order(epoch)[first : first + stop - number]
            for start in range(0, len(order), CHUNK):
                for index in order[start : start + CHUNK].tolist():
                    yield Visit(index, number) if self.visits else index
                    number += 1

    def _order(self, epoch: int) -> np.ndarray:
        """Indices of an epoch, in order."""
        rng = np.random.default_rng([self.seed, _ORDER, epoch])
        drawn = [self._draw(source, epoch) for source in range(len(self.sources))]
        if self.lengths is None:
            return rng.permutation(np.concatenate(drawn))
        groups = [bucket for indices in drawn for bucket in self._by_length(indices)]
        places = [(np.arange(len(group)) + rng.random(len(group))) / len(group) for group in groups]
        return np.concatenate(groups)[np.argsort(np.concatenate(places), kind="stable")]

    def _draw(self, source: int, epoch: int) -> np.ndarray:
        """What is due of a source in an epoch: the next ones of its passes."""
        indices, count = self.sources[source], self.counts[source]
        together = max(SMALL // len(indices), 1)  # passes drawn at a time: a source of one spectrum may have millions
        size = together * len(indices)
        first, last = epoch * count, (epoch + 1) * count - 1
        numbers = range(first // size, last // size + 1)
        orders = [self._passes(source, number, together) for number in numbers]
        start = first - numbers[0] * size
        return np.concatenate(orders)[start : start + count]

    def _passes(self, source: int, number: int, together: int) -> np.ndarray:
        """So many passes of a source, one after another, each in its own random order."""
        rng = np.random.default_rng([self.seed, _PASS, source, number])
        return rng.permuted(np.tile(self.sources[source], (together, 1)), axis=1).ravel()

    def _by_length(self, indices: np.ndarray) -> list[np.ndarray]:
        """Buckets of similar length, about equally many spectra in each, in the order of the indices."""
        lengths = self.lengths[indices]  # type: ignore[index]  # asked for where there are lengths
        limits = np.quantile(lengths, np.linspace(0, 1, LENGTH_BUCKETS + 1)[1:-1], method="lower")
        bucket = np.searchsorted(np.unique(limits), lengths)
        return [indices[bucket == number] for number in np.unique(bucket)]


__all__ = ["MixtureSampler", "Visit", "blocks", "mixture_shares", "without_visits"]
