"""Patches: cutting a spectrum into them, joining them again, and what stands in for bad pixels.

The first half (numpy) is the processor's, the second half (torch) the models'.
"""

from itertools import pairwise

import numpy as np
import torch


def find_segments(wavelength: np.ndarray, gap_factor: float | None) -> list[slice]:
    """Runs of pixels without a detector gap.

    Args:
        wavelength: Wavelength in Å, shape (L,), strictly increasing.
        gap_factor: A step this many times the median of its neighbourhood is a gap; None = there are no gaps.
    """
    length = len(wavelength)
    if gap_factor is None or length < 3:
        return [slice(0, length)]
    step = np.diff(wavelength)
    gaps = np.flatnonzero(step > gap_factor * _running_median(step)) + 1
    edges = [0, *gaps.tolist(), length]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def patch_index(segments: list[slice], patch_size: int) -> np.ndarray:
    """Which pixel stands where: shape (num_patches, patch_size), -1 = padding at the end of a segment."""
    rows = []
    for segment in segments:
        pixels = np.arange(segment.start, segment.stop)
        padding = -len(pixels) % patch_size
        rows.append(np.pad(pixels, (0, padding), constant_values=-1).reshape(-1, patch_size))
    return np.concatenate(rows)


def patchify(values: np.ndarray, index: np.ndarray, fill: float | bool) -> np.ndarray:
    """Pixels as patches, shape (num_patches, patch_size), with `fill` in the padding."""
    return np.where(index >= 0, values[index], fill)


def unpatchify(patches: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Patches as pixels, shape (L,): the inverse of `patchify`."""
    real = index >= 0
    values = np.empty(int(real.sum()), dtype=patches.dtype)
    values[index[real]] = patches[: len(index)][real]
    return values


def extend_wavelength(patches: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Wavelengths continued into the padding by the last step of their segment: finite and sorted everywhere."""
    real = index >= 0
    last = real.sum(-1) - 1
    row = np.arange(len(index))
    step = np.where(last > 0, patches[row, last] - patches[row, np.maximum(last - 1, 0)], 1.0)
    beyond = np.arange(index.shape[1]) - last[:, None]
    return np.where(real, patches, patches[row, last][:, None] + step[:, None] * beyond)


def _running_median(step: np.ndarray, width: int = 64) -> np.ndarray:
    """Median of blocks of `width` steps: follows log grids and arms of different dispersion at no cost."""
    blocks = np.array_split(step, max(len(step) // width, 1))
    return np.concatenate([np.full(len(block), np.median(block)) for block in blocks])


def valid_patches(pixel_mask: torch.Tensor) -> torch.Tensor:
    """Patches with data enough: more than half of the pixels are good (arXiv 2510.17959).

    Args:
        pixel_mask: Shape (batch, num_patches, patch_size), True = good.

    Returns:
        Shape (batch, num_patches), True = valid.
    """
    return 2 * pixel_mask.sum(-1) > pixel_mask.shape[-1]


def fill_gaps(values: torch.Tensor, known: torch.Tensor, *, extrapolate: bool = False) -> torch.Tensor:
    """Values at unknown pixels, interpolated linearly between the known ones of the patch.

    Zero filling moves embeddings by orders of magnitude more than noise does, so that a hole in the data would
    look like a line. Patches without a known pixel become 0; what stood at an unknown pixel never matters.

    Args:
        values: Shape (batch, num_patches, patch_size).
        known: The same shape, True = known.
        extrapolate: Continue beyond the first and last known pixel by the mean slope; else hold the nearest value.
    """
    values = values.masked_fill(~known, 0)
    pixel = torch.arange(values.shape[-1], device=values.device).expand_as(values)
    left = torch.where(known, pixel, -1).cummax(-1).values
    right = torch.where(known, pixel, values.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    first, last = right[..., :1], left[..., -1:]
    if extrapolate:  # on the line through the outermost pair of known pixels
        outside = (pixel < first) | (pixel > last)
        left, right = torch.where(outside, first, left), torch.where(outside, last, right)
    left, right = _clamp_pair(left, right, values.shape[-1])
    low, high = values.gather(-1, left), values.gather(-1, right)
    weight = (pixel - left).to(values.dtype) / (right - left).clamp(min=1).to(values.dtype)
    filled = torch.where(right > left, low + weight * (high - low), low)
    return torch.where(known, values, filled)


def _clamp_pair(left: torch.Tensor, right: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where one side has no known pixel, the other side's stands for both; where neither has, pixel 0 does."""
    none_left, none_right = left < 0, right >= size
    left, right = torch.where(none_left, right, left), torch.where(none_right, left, right)
    return left.clamp(0, size - 1), right.clamp(0, size - 1)


__all__ = [
    "extend_wavelength",
    "fill_gaps",
    "find_segments",
    "patch_index",
    "patchify",
    "unpatchify",
    "valid_patches",
]
