"""Batches of spectra, padded and packed, and what pretraining hides in them."""

import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from ..models.processing_spectok import PER_PATCH, SpectrumProcessor, packed_length
from ..models.processing_spectrum_vit import SpectrumImageProcessor
from ..models.spectrum import Spectrum, check_choice
from ..models.spectrum_inputs import check_same_entries
from .mixtures import Visit, without_visits
from .spectrum_side import reads_pictures

HIDE = ("nothing", "runs", "patches", "chunks")
HIDE_RATIOS = {"chunks": 0.75}  # where none is given: the paper's of OmniSpectra,
HIDE_RATIO = 0.1  # and of all else
MOST_RUNS = 0.25  # one run of 8 in every 32 pixels
TOKEN_BUDGET = 16_384  # patches: about 64 spectra of the paper's surveys
WINDOW = 4096  # spectra that are sorted into batches at a time
OPEN_BATCHES = 16  # batches that wait for the next window to fill them

TYPES = {
    **dict.fromkeys(("flux", "wavelength", "error"), np.float32),
    **dict.fromkeys(("pixel_mask", "attention_mask"), np.bool_),
}
DRAWN_FROM = ("flux", "pixel_mask", "attention_mask")

Features = Sequence[Mapping[str, Any]]
Numbers = Sequence[int] | None  # of the visits of a batch


class _Collator:
    """What both layouts of a batch share: the arguments, the features, and what is hidden in them."""

    def __init__(
        self,
        processor: SpectrumProcessor,
        *,
        hide: str = "nothing",
        hide_ratio: float | None = None,
        run_length: int = 8,
        chunk_length: int = 50,
        num_chunks: int | None = None,
        seed: int = 0,
    ):
        if reads_pictures(processor):
            raise ValueError(
                f"{type(self).__name__} makes batches of patches, found {type(processor).__name__}, which draws "
                "pictures: use collator_for(processor), which gives DataCollatorForSpectrumImages"
            )
        check_choice("hide", hide, HIDE)
        if num_chunks is not None and (hide != "chunks" or hide_ratio is not None or num_chunks < 1):
            raise ValueError(
                f'num_chunks is how many chunks hide="chunks" hides of every spectrum, at least 1, in place of a '
                f"hide_ratio, found {num_chunks} beside hide={hide!r} and hide_ratio={hide_ratio}"
            )
        hide_ratio = HIDE_RATIOS.get(hide, HIDE_RATIO) if hide_ratio is None else hide_ratio
        if not 0 < hide_ratio < 1:
            raise ValueError(f"hide_ratio must lie between 0 and 1, found {hide_ratio}")
        if hide == "runs" and hide_ratio > MOST_RUNS:
            raise ValueError(
                f'hide_ratio of hide="runs" must be at most {MOST_RUNS}, found {hide_ratio}: more would turn whole '
                'patches bad; hide="patches" hides those'
            )
        if run_length < 1:
            raise ValueError(f"run_length must be at least 1, found {run_length}")
        if chunk_length < 1:
            raise ValueError(f"chunk_length must be at least 1, found {chunk_length}")
        self.processor = processor
        self.hide = hide
        self.hide_ratio = hide_ratio
        self.run_length = run_length
        self.chunk_length = chunk_length
        self.num_chunks = num_chunks
        self.seed = seed

    def _take(self, features: Sequence[Any]) -> tuple[list[Any], Numbers]:
        """What was visited, and the numbers; without what the processor would skip, whose number must go as well."""
        items, numbers = without_visits(features)
        if numbers is None or self.processor.on_invalid != "skip" or _are_patched(items):
            return items, numbers
        kept = [row for row, item in enumerate(items) if self.processor.patch(item)["attention_mask"].any()]
        if len(kept) < len(items):
            warnings.warn(f"skipped {len(items) - len(kept)} spectra of a batch: no valid patch", stacklevel=3)
        return [items[row] for row in kept], [numbers[row] for row in kept]

    def _draw(self, spectra: Sequence[Sequence[np.ndarray]], numbers: Numbers) -> list[np.ndarray]:
        """What is hidden in each spectrum, (num_patches, patch_size) or (num_patches,).

        From the real patches alone, flux, pixel_mask and attention_mask of each spectrum, so that both layouts hide
        the same.
        """
        rngs = self._random_streams(spectra, numbers)
        return [self._draw_one(good, valid, rng) for (_, good, valid), rng in zip(spectra, rngs, strict=True)]

    def _draw_one(self, good: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.hide == "chunks":
            return draw_chunks(
                len(valid), rng, chunk_length=self.chunk_length, hide_ratio=self.hide_ratio, num_chunks=self.num_chunks
            )
        if self.hide == "patches":
            return hidden_patches(valid > 0, self.hide_ratio, rng)
        return hidden_runs((good > 0) & (valid > 0)[:, None], self.hide_ratio, rng, run_length=self.run_length)

    def _random_streams(self, spectra: Sequence[Sequence[np.ndarray]], numbers: Numbers) -> list[np.random.Generator]:
        if numbers is not None:
            return [np.random.default_rng([self.seed, number]) for number in numbers]
        content = 0
        for flux, _, _ in spectra:
            content = zlib.crc32(np.ascontiguousarray(flux).data, content)
        return [np.random.default_rng([self.seed, content])] * len(spectra)


class DataCollatorForSpectra(_Collator):
    """Pads spectra to a batch and draws what the model must not see (`bool_masked_pos`).

    What is hidden is a function of the seed and, for each `Visit`, of its number, so that it does not depend on the
    process that the spectrum came to; else of the batch's content. No state has to be saved, a resumed run hides what
    the uninterrupted one would have, every evaluation hides the same, and so does `DataCollatorForPackedSpectra`.

    Args:
        processor: The processor of the model.
        hide: "nothing"; "runs" of good pixels, for `objective="reconstruction"` (a model that never saw a hole
            copies what it is shown); whole "patches", for `objective="masked"`; or "chunks" of neighbouring patches,
            for OmniSpectra and Specformer.
        hide_ratio: Share of the good pixels, or of the valid patches, to hide; of chunks, share of the intervals that
            get one (see `hidden_chunks`). None = 0.1, or the 0.75 of OmniSpectra's paper.
        run_length: Good pixels per run.
        chunk_length: Patches per chunk.
        num_chunks: Equal parts of a spectrum that get one chunk each, as Specformer's paper has it (see
            `one_chunk_each`), in place of a `hide_ratio`.
        seed: Seed of the draw.

    Raises:
        ValueError: If `hide` is not one of its choices, the ratio is not between 0 and 1, runs have no pixel or chunks
            no patch, or both a ratio and a number of chunks are given.
    """

    def __call__(self, features: Sequence[Spectrum | Visit] | Features) -> dict[str, torch.Tensor]:
        """A padded batch of tensors.

        Args:
            features: Spectra, or what `SpectrumProcessor.patch` made of them, also with further entries per spectrum
                (labels); or the visits of either.

        Raises:
            ValueError: If features are other mappings: `Trainer` takes the keys away that no model knows, `mask` and
                `medium` among them, before they get here.
        """
        items, numbers = self._take(features)
        if _are_patched(items):
            batch = dict(self.processor.pad(items, return_tensors="pt"))
        else:
            batch = dict(self.processor(items, return_tensors="pt"))
        if self.hide == "nothing":
            return batch
        lengths = batch["num_patches"].tolist()
        arrays = [batch[name].numpy() for name in DRAWN_FROM]
        spectra = [[row[:length] for row in rows] for *rows, length in zip(*arrays, lengths, strict=True)]
        draws = self._draw(spectra, numbers)
        hidden = torch.zeros(batch["flux"].shape[: 1 + draws[0].ndim], dtype=torch.bool)
        for row, draw in zip(hidden, draws, strict=True):
            row[: len(draw)] = torch.from_numpy(draw)
        return {**batch, "bool_masked_pos": hidden}


class DataCollatorForPackedSpectra(_Collator):
    """Lays the patches of spectra end to end, without padding, and draws what the model must not see.

    What is hidden is what `DataCollatorForSpectra` hides in the same spectra.

    Args:
        processor: The processor of the model.
        hide: As for `DataCollatorForSpectra`.
        hide_ratio: As for `DataCollatorForSpectra`.
        run_length: Good pixels per run.
        chunk_length: Patches per chunk.
        num_chunks: As for `DataCollatorForSpectra`.
        seed: Seed of the draw.
        pad_to: Patches of every batch, for compiled models, which want one shape; the rest is 0. None = as many as
            the spectra have.

    Raises:
        ValueError: As `DataCollatorForSpectra`, or if `pad_to` is no positive number.
    """

    def __init__(self, processor: SpectrumProcessor, *, pad_to: int | None = None, **options: Any):
        super().__init__(processor, **options)
        if pad_to is not None and pad_to < 1:
            raise ValueError(f"pad_to must be at least 1 patch, found {pad_to}: pass None for no padding")
        self.pad_to = pad_to

    def __call__(self, features: Sequence[Spectrum | Visit] | Features) -> dict[str, Any]:
        """A packed batch.

        Args:
            features: As for `DataCollatorForSpectra`.

        Returns:
            scale, (batch,): first, since `Trainer` takes the size of a batch from its first tensor. flux, wavelength
            (Å), error, (T, patch_size), float32, with the patches of the first spectrum, then those of the second,
            ...; pixel_mask of that shape and attention_mask, (T,), bool. num_patches, (batch,), a numpy array on
            purpose: `Trainer` and accelerate move tensors to the device and leave it on the host, where lengths are
            needed, and torch.compile takes it as a tensor, where it would compile anew for every other Python number.
            max_num_patches, a number: the longest length, rounded up to a power of two, so that it rarely changes.
            bool_masked_pos where something is hidden, (T, patch_size) for runs, (T,) for patches and chunks. Then
            what else the features hold, stacked.

        Raises:
            ValueError: As `DataCollatorForSpectra`, or if the batch has more than `pad_to` patches.
        """
        items, numbers = self._take(features)
        packed = self._pack(items) if _are_patched(items) else self.processor.pack(items, pad_to=self.pad_to)
        drawn = {} if self.hide == "nothing" else {"bool_masked_pos": torch.from_numpy(self._hide(packed, numbers))}
        lengths = packed.pop("num_patches")
        batch: dict[str, Any] = {name: torch.from_numpy(packed.pop(name)) for name in ("scale", *TYPES)}
        batch |= {"num_patches": lengths, "max_num_patches": 1 << int(lengths.max() - 1).bit_length()}
        return batch | {name: torch.from_numpy(values) for name, values in packed.items()} | drawn

    def _hide(self, packed: dict[str, np.ndarray], numbers: Numbers) -> np.ndarray:
        stops = np.cumsum(packed["num_patches"])
        parts = [np.split(packed[name][: stops[-1]], stops[:-1]) for name in DRAWN_FROM]
        draws = self._draw(list(zip(*parts, strict=True)), numbers)
        return _concatenate(draws, len(packed["flux"]), np.bool_)

    def _pack(self, features: Sequence[Any]) -> dict[str, np.ndarray]:
        """Patched spectra laid end to end, each value written once, and what else they carry, stacked."""
        lengths = np.array([int(feature.get("num_patches", len(feature["flux"]))) for feature in features])
        total = packed_length(lengths, self.pad_to)
        packed = {"num_patches": lengths}
        for name in [name for name in features[0] if name not in packed]:
            values = [feature[name] for feature in features]
            if name in PER_PATCH:  # rows of a padded batch end in padding
                values = [value[:length] for value, length in zip(values, lengths, strict=True)]
            packed[name] = _concatenate(values, total, TYPES.get(name)) if name in PER_PATCH else _stack(values)
        return packed


class DataCollatorForSpectrumImages:
    """Draws spectra, and lays their pictures together.

    Args:
        processor: A `SpectrumImageProcessor`.
    """

    def __init__(self, processor: SpectrumImageProcessor):
        self.processor = processor

    def __call__(self, features: Sequence[Spectrum | Visit] | Features) -> dict[str, torch.Tensor]:
        """A batch of tensors.

        Args:
            features: Spectra, or what `SpectrumImageProcessor.patch` made of them, also with further entries per
                spectrum (labels); or the visits of either.

        Returns:
            pixel_values, (batch, 3, image_size, image_size), float32, and what else the features hold, stacked.

        Raises:
            ValueError: If features are other mappings.
        """
        items, _ = without_visits(features)
        if not isinstance(items[0], Mapping):
            return dict(self.processor(items, return_tensors="pt"))
        return dict(self.processor.pad(items, return_tensors="pt"))


def collator_for(processor: Any, **options: Any) -> Any:
    """What makes batches for the model of a processor: packed ones of patches, or pictures.

    Args:
        processor: The processor.
        **options: Of `DataCollatorForPackedSpectra`.

    Raises:
        TypeError: If there are options, and the processor draws pictures.
    """
    kind = DataCollatorForSpectrumImages if reads_pictures(processor) else DataCollatorForPackedSpectra
    return kind(processor, **options)


def _are_patched(features: Sequence[Any]) -> bool:
    if not isinstance(features[0], Mapping):
        return False
    if "pixel_mask" in features[0]:
        check_same_entries(features)
        return True
    raise ValueError(
        f"expected Spectrum objects or what SpectrumProcessor.patch returns, found a mapping of "
        f"{', '.join(features[0])}: use SpectrumDataset(read_spectra(rows), processor)"
    )


def _concatenate(rows: Sequence[Any], total: int, dtype: Any) -> np.ndarray:
    """Patches of all spectra; the rest up to `total` is 0."""
    first = np.asarray(rows[0])
    packed = np.empty((total, *first.shape[1:]), dtype=dtype or first.dtype)
    count = sum(map(len, rows))
    np.concatenate(rows, out=packed[:count], casting="unsafe")
    packed[count:] = 0
    return packed


def _stack(values: Sequence[Any]) -> np.ndarray:
    """One entry per spectrum, in the types that `SpectrumProcessor.pad` gives."""
    stacked = np.stack([np.asarray(value) for value in values])
    return stacked.astype(np.float32) if stacked.dtype == np.float64 else stacked


class TokenBudgetBatchSampler(Sampler[list[int]]):
    """Batches of spectra that share a budget of patches, each spectrum once: for packed encoding and benchmarks.

    Batches are filled by first-fit decreasing (the longest spectrum that is left goes into the first batch with room)
    within windows of the data; those still open at the end of a window wait for the next one. They hold spectra of
    similar length, and so often of one survey: train on batches of a fixed number of spectra instead.

    Args:
        lengths: Patches of each spectrum.
        token_budget: Most patches per batch.
        max_spectra: Most spectra per batch; None = as many as fit.
        shuffle: Whether every epoch makes other batches, in random order.
        seed: Seed of the order.

    Attributes:
        waste: Share of the budget that the batches of this epoch leave unused.

    Raises:
        ValueError: If a spectrum is longer than the budget.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        token_budget: int = TOKEN_BUDGET,
        *,
        max_spectra: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ):
        self.lengths = np.asarray(lengths)
        if self.lengths.size and (self.lengths.dtype.kind not in "iu" or (self.lengths < 0).any()):
            raise ValueError(
                f"lengths must be whole numbers of patches, found {self.lengths.dtype} from "
                f"{self.lengths.min(initial=0)}: pass num_patches of each spectrum"
            )
        self.lengths = self.lengths.astype(np.int64)
        if (self.lengths > token_budget).any():
            index = int(np.argmax(self.lengths > token_budget))
            raise ValueError(
                f"every spectrum must fit into token_budget={token_budget}, found {self.lengths[index]} patches at "
                f"index {index}: raise the budget, or drop the spectrum"
            )
        if max_spectra is not None and max_spectra < 1:
            raise ValueError(f"max_spectra must be at least 1, found {max_spectra}: pass None for no limit")
        self.token_budget, self.max_spectra = token_budget, max_spectra
        self.shuffle, self.seed = shuffle, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch
        self._batches: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self._fill())

    def __iter__(self) -> Iterator[list[int]]:
        yield from (list(batch) for batch in self._fill())

    @property
    def waste(self) -> float:
        """Share of the budget that the batches of this epoch leave unused."""
        return 1 - int(self.lengths.sum()) / max(len(self) * self.token_budget, 1)

    def _fill(self) -> list[list[int]]:
        if self._batches is None:
            rng = np.random.default_rng([self.seed, self.epoch])
            count = len(self.lengths)
            order = rng.permutation(count) if self.shuffle else np.arange(count)
            batches = self._first_fit(order)
            self._batches = [batches[row] for row in rng.permutation(len(batches))] if self.shuffle else batches
        return self._batches

    def _first_fit(self, order: np.ndarray) -> list[list[int]]:
        done: list[list[int]] = []
        opened: list[list[int]] = []
        room = np.empty(0, dtype=np.int64)
        for first in range(0, len(order), WINDOW):
            window = order[first : first + WINDOW]
            window = window[np.argsort(-self.lengths[window], kind="stable")]
            room = np.concatenate([room, np.full(len(window), self.token_budget)])  # at most a new batch for each
            self._fit(window, opened, room)
            fullest = np.argsort(room[: len(opened)], kind="stable")
            done += [opened[row] for row in fullest[:-OPEN_BATCHES]]
            waiting = fullest[-OPEN_BATCHES:]
            opened, room = [opened[row] for row in waiting], room[waiting]
        return done + opened

    def _fit(self, window: np.ndarray, opened: list[list[int]], room: np.ndarray) -> None:
        """Put each spectrum into the first batch with room for it; `opened` and `room` change in place."""
        for index, length in zip(window.tolist(), self.lengths[window].tolist(), strict=True):
            row = int(np.argmax(room[: len(opened) + 1] >= length))
            if row == len(opened):
                opened.append([])
            opened[row].append(index)
            room[row] = -1 if len(opened[row]) == self.max_spectra else room[row] - length


def hidden_runs(good: np.ndarray, ratio: float, rng: np.random.Generator, *, run_length: int = 8) -> np.ndarray:
    """Random runs of good pixels, shape of `good`, True = hidden.

    Runs keep as far apart as the ratio allows, up to three times their length: two beside each other would be another,
    harder task, and would turn whole patches bad.

    Args:
        good: Good pixels in the order of wavelength, any shape, True = good.
        ratio: Share of the good pixels to hide.
        rng: Source of randomness.
        run_length: Good pixels per run; bad pixels in between do not count.
    """
    period = run_length * min(max(int(1 / ratio), 1), 4)
    pixels = np.flatnonzero(good)[rng.integers(period) :]  # so that runs do not keep to one raster
    starts = rng.permutation(np.arange(0, len(pixels) - run_length + 1, period))
    chosen = starts[: round(ratio * good.sum() / run_length)]
    hidden = np.zeros(good.size, dtype=bool)
    hidden[pixels[chosen[:, None] + np.arange(run_length)]] = True
    return hidden.reshape(good.shape)


def hidden_patches(valid: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Random valid patches, shape (num_patches,), True = hidden; at least one of them is hidden and one is not.

    Args:
        valid: Valid patches, shape (num_patches,), True = valid.
        ratio: Share of the valid patches to hide.
        rng: Source of randomness.
    """
    patches = np.flatnonzero(valid)
    count = min(max(round(ratio * len(patches)), 1), max(len(patches) - 1, 0))
    hidden = np.zeros(len(valid), dtype=bool)
    hidden[rng.permutation(patches)[:count]] = True
    return hidden


def draw_chunks(
    count: int, rng: np.random.Generator, *, chunk_length: int, hide_ratio: float = 0.0, num_chunks: int | None = None
) -> np.ndarray:
    """What `hide="chunks"` hides of a spectrum, shape (count,), True = hidden.

    Args:
        count: Tokens of the spectrum, valid or not.
        rng: Source of randomness.
        chunk_length: Tokens per chunk.
        hide_ratio: As for `hidden_chunks`, where there is no `num_chunks`.
        num_chunks: Parts for `one_chunk_each`; None = `hidden_chunks` draws them.
    """
    if num_chunks is not None:
        return one_chunk_each(count, chunk_length, num_chunks, rng)
    return hidden_chunks(count, chunk_length, hide_ratio, rng)


def hidden_chunks(count: int, width: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """Random chunks of neighbouring tokens that never touch, shape (count,), True = hidden (arXiv 2601.15351).

    Intervals of at least two widths part the tokens, and a share of them get one chunk each, which leaves the last
    token of its interval visible. Fewer tokens than that are one interval with a chunk of half of them: the paper does
    not say what it does with them. A lone token is never hidden.

    Args:
        count: Tokens of a spectrum, valid or not.
        width: Tokens per chunk.
        ratio: Share of the intervals that get a chunk; at least one does.
        rng: Source of randomness.
    """
    hidden = np.zeros(count, dtype=bool)
    width = min(width, count // 2)
    if width:
        intervals = count // (2 * width)
        edges = np.arange(intervals + 1) * count // intervals
        chosen = rng.permutation(intervals)[: max(int(ratio * intervals + 0.5), 1)]
        starts = rng.integers(edges[chosen], edges[chosen + 1] - width)
        hidden[starts[:, None] + np.arange(width)] = True
    return hidden


def one_chunk_each(count: int, width: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """A random chunk of neighbouring tokens in each of equal parts, shape (count,), True = hidden (arXiv 2310.03024).

    The first part begins with the first token, and a chunk leaves the last token of its part visible. Parts shorter
    than twice the width get a chunk of half of them, and where there are not two tokens for each, there are fewer
    parts (ours: the public code refuses spectra of fewer than 2 `parts` - 1 widths).

    Args:
        count: Tokens of a spectrum, valid or not.
        width: Tokens per chunk.
        parts: Parts of the spectrum.
        rng: Source of randomness.
    """
    hidden = np.zeros(count, dtype=bool)
    parts = min(parts, count // 2)
    if parts:
        length = count // parts
        width = min(width, length // 2)
        starts = np.arange(parts) * count // parts + rng.integers(0, length - width, parts)
        hidden[starts[:, None] + np.arange(width)] = True
    return hidden


__all__ = [
    "DataCollatorForPackedSpectra",
    "DataCollatorForSpectra",
    "DataCollatorForSpectrumImages",
    "TokenBudgetBatchSampler",
    "collator_for",
    "draw_chunks",
    "hidden_chunks",
    "hidden_patches",
    "hidden_runs",
    "one_chunk_each",
]
