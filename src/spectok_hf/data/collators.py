"""Batches of spectra, and what pretraining hides in them."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum, check_choice

HIDE = ("nothing", "runs", "patches")
MOST_RUNS = 0.25  # one run of 8 in every 32 pixels


class DataCollatorForSpectra:
    """Pads spectra to a batch and draws what the model must not see (`bool_masked_pos`).

    What is hidden is a function of the seed and of the batch's content alone: no state has to be saved, a resumed run
    hides what the uninterrupted one would have, and every evaluation hides the same.

    Args:
        processor: The processor of the model.
        hide: "nothing"; "runs" of good pixels, for `objective="reconstruction"` (a model that never saw a hole
            copies what it is shown); or whole "patches", for `objective="masked"`.
        hide_ratio: Share of the good pixels, or of the valid patches, to hide.
        run_length: Good pixels per run.
        seed: Seed of the draw.

    Raises:
        ValueError: If `hide` is not one of its choices, the ratio is not between 0 and 1, or runs have no pixel.
    """

    def __init__(
        self,
        processor: SpectrumProcessor,
        *,
        hide: str = "nothing",
        hide_ratio: float = 0.1,
        run_length: int = 8,
        seed: int = 0,
    ):
        check_choice("hide", hide, HIDE)
        if not 0 < hide_ratio < 1:
            raise ValueError(f"hide_ratio must lie between 0 and 1, found {hide_ratio}")
        if hide == "runs" and hide_ratio > MOST_RUNS:
            raise ValueError(
                f'hide_ratio of hide="runs" must be at most {MOST_RUNS}, found {hide_ratio}: more would turn whole '
                'patches bad; hide="patches" hides those'
            )
        if run_length < 1:
            raise ValueError(f"run_length must be at least 1, found {run_length}")
        self.processor = processor
        self.hide = hide
        self.hide_ratio = hide_ratio
        self.run_length = run_length
        self.seed = seed

    def __call__(self, features: list[Spectrum] | list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A padded batch of tensors.

        Args:
            features: Spectra, or what `SpectrumProcessor.patch` made of them.

        Raises:
            ValueError: If features are other mappings: `Trainer` takes the keys away that no model knows, `mask` and
                `medium` among them, before they get here.
        """
        if not isinstance(features[0], Mapping):
            batch = self.processor(features, return_tensors="pt")
        elif "pixel_mask" in features[0]:
            batch = self.processor.pad(features, return_tensors="pt")
        else:
            raise ValueError(
                f"expected Spectrum objects or what SpectrumProcessor.patch returns, found a mapping of "
                f"{', '.join(features[0])}: use SpectrumDataset(read_spectra(rows), processor)"
            )
        if self.hide == "nothing":
            return dict(batch)
        return {**batch, "bool_masked_pos": self._draw(batch)}

    def _draw(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        rng = np.random.default_rng([self.seed, zlib.crc32(batch["flux"].numpy().tobytes())])
        valid = batch["attention_mask"].numpy() > 0
        if self.hide == "patches":
            return torch.from_numpy(np.stack([hidden_patches(row, self.hide_ratio, rng) for row in valid]))
        good = (batch["pixel_mask"].numpy() > 0) & valid[..., None]
        return torch.from_numpy(
            np.stack([hidden_runs(row, self.hide_ratio, rng, run_length=self.run_length) for row in good])
        )


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


__all__ = ["DataCollatorForSpectra", "hidden_patches", "hidden_runs"]
