"""Patches: cutting a spectrum into them, joining them again, and what stands in for bad pixels.

The first half (numpy) is the processor's, the second half (torch) the models'.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)

GAP_FACTOR = 5.0  # a wavelength step this many times its neighbours' is a detector gap
PLAUSIBLE_LIMIT = 9e4  # Å; padding may hold 0, -1, 99999, NaN or garbage


def find_segments(wavelength: np.ndarray, gap_factor: float | None = GAP_FACTOR) -> list[slice]:
    """Runs of pixels without a detector gap.

    Args:
        wavelength: Wavelength in Å, shape (L,), strictly increasing.
        gap_factor: A step this many times the median of its neighbourhood is a gap; None = there are no gaps.
    """
    length = len(wavelength)
    if gap_factor is None or length < 3:
        return [slice(0, length)]
    edges = [0, *_gaps(wavelength[1:] - wavelength[:-1], gap_factor), length]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def count_patches(segments: list[slice], patch_size: int, overlap: int = 0) -> int:
    """How many patches segments are cut into; each begins with a new one.

    Args:
        segments: What `find_segments` found.
        patch_size: Pixels per patch.
        overlap: Pixels that a patch shares with the next one of its segment, at most half of a patch.
    """
    return sum(_count(segment.stop - segment.start, patch_size, overlap) for segment in segments)


def _count(length: int, patch_size: int, overlap: int) -> int:
    """Patches of a run of pixels, the last of which may be partly filled, but holds more than the overlap."""
    own = length - overlap if length > overlap else min(length, 1)
    return -(-own // (patch_size - overlap))


def cut_patches(values: np.ndarray, segments: list[slice], patches: np.ndarray, overlap: int = 0) -> np.ndarray:
    """Pixels as patches, with 0 in the padding at the end of each segment.

    Args:
        values: Shape (L,).
        segments: What `find_segments` found.
        patches: Where to write, shape (num_patches, patch_size), contiguous.
        overlap: As for `count_patches`.
    """
    for segment, flat, filled in _by_segment(segments, patches, overlap):
        flat[:filled] = values[segment]  # a slice per segment: an index per pixel costs ten times as much
        flat[filled:] = 0
    return patches


def cut_wavelength(wavelength: np.ndarray, segments: list[slice], patches: np.ndarray, overlap: int = 0) -> np.ndarray:
    """Wavelengths as patches, continued into the padding by the last step of their segment: finite, sorted everywhere.

    Args:
        wavelength: Shape (L,), Å, float64.
        segments: What `find_segments` found.
        patches: Where to write, shape (num_patches, patch_size), contiguous.
        overlap: As for `count_patches`.
    """
    for segment, flat, filled in _by_segment(segments, patches, overlap):
        flat[:filled] = wavelength[segment]
        if missing := len(flat) - filled:
            last = patches.shape[1] - missing  # pixels of the last patch
            flat[filled:] = _continuation(wavelength[segment.stop - last : segment.stop], missing)
    return patches


def _by_segment(segments: list[slice], patches: np.ndarray, overlap: int) -> Iterator[tuple[slice, np.ndarray, int]]:
    """Each segment, the pixels of its patches to be written, and how many of those it fills."""
    pixels, size, first = patches.reshape(-1), patches.shape[1], 0
    stride = size - overlap
    for segment in segments:
        filled = segment.stop - segment.start
        stop = first + _count(filled, size, overlap) * size
        if not overlap:
            yield segment, pixels[first:stop], filled
        else:  # each pixel is written once, and copied to the patches that it lies in
            flat = np.empty((stop - first) // size * stride + overlap, dtype=patches.dtype)
            yield segment, flat, filled
            windows = np.lib.stride_tricks.sliding_window_view(flat, size)[::stride]
            pixels[first:stop].reshape(-1, size)[:] = windows
        first = stop


def patch_index(segments: list[slice], patch_size: int, overlap: int = 0) -> np.ndarray:
    """Which pixel stands where: shape (num_patches, patch_size), -1 = padding at the end of a segment.

    Args:
        segments: What `find_segments` found.
        patch_size: Pixels per patch.
        overlap: As for `count_patches`.
    """
    index = np.empty((count_patches(segments, patch_size, overlap), patch_size), dtype=np.int64)
    return cut_patches(np.arange(1, segments[-1].stop + 1), segments, index, overlap) - 1


def patchify(values: np.ndarray, index: np.ndarray, fill: float | bool) -> np.ndarray:
    """Pixels as patches, shape (num_patches, patch_size), with `fill` in the padding."""
    return np.where(index >= 0, values[index], fill)


def unpatchify(
    patches: np.ndarray, index: np.ndarray, counted: np.ndarray | None = None, *, length: int | None = None
) -> np.ndarray:
    """Patches as pixels, shape (L,): the inverse of `patchify`.

    Where patches overlap, a number is the mean of what they hold, and a boolean is True where any of theirs is. Pixels
    behind the last patch are 0 or False.

    Args:
        patches: Shape (at least num_patches, patch_size).
        index: What `patch_index` gave, shape (num_patches, patch_size).
        counted: What goes into a mean, the shape of `patches`, bool; None = all, as where nothing of a pixel does.
        length: Pixels of the spectrum; None = up to the end of the last patch.
    """
    real = index >= 0
    pixels, found = index[real], patches[: len(index)][real]
    covered = int(pixels.max()) + 1
    if len(pixels) > covered:
        values = _mean_by_pixel(pixels, found, None if counted is None else counted[: len(index)][real])
    else:
        values = np.empty(covered, dtype=patches.dtype)
        values[pixels] = found
    return values if length is None else np.pad(values, (0, length - covered))


def _mean_by_pixel(pixels: np.ndarray, found: np.ndarray, counted: np.ndarray | None) -> np.ndarray:
    if counted is not None:
        counted = counted | ~(np.bincount(pixels, counted) > 0)[pixels]
        pixels, found = pixels[counted], found[counted]
    mean = np.bincount(pixels, found) / np.bincount(pixels)
    return mean.astype(bool if found.dtype == bool else np.result_type(found, np.float32))


def _continuation(pixels: np.ndarray, count: int) -> np.ndarray:
    """`count` wavelengths beyond those of a patch, by their last step; a lone pixel has none, and goes on by 1 Å."""
    step = pixels[-1] - pixels[-2] if len(pixels) > 1 else 1.0
    return pixels[-1] + step * np.arange(1, count + 1)


def patch_pca(patches: np.ndarray, count: int, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of patches: the best linear map to `count` numbers and back.

    Args:
        patches: Shape (n, patch_size).
        count: Number of components.
        weights: Weight of each patch, shape (n,); None = all alike.

    Returns:
        Mean, shape (patch_size,), and orthonormal components, shape (count, patch_size), the strongest first.
    """
    mean = np.average(patches.astype(np.float64), 0, weights)
    centred = patches - mean
    weighted = centred if weights is None else centred * weights[:, None]
    vectors = np.linalg.eigh(weighted.T @ centred)[1]  # ascending eigenvalues
    return mean, vectors.T[::-1][:count].copy()


def _gaps(step: np.ndarray, gap_factor: float, width: int = 64) -> list[int]:
    """Pixels behind a step of `gap_factor` times the median of its block of `width` steps.

    Blocks follow log grids and arms of different dispersion. Only a step that is `gap_factor` times the shortest one
    of all can be a gap, and only its block needs a median: on real grids no more than a few.
    """
    size, longer = divmod(len(step), max(len(step) // width, 1))
    gaps: list[int] = []
    stop = 0
    for candidate in np.flatnonzero(step > gap_factor * step.min()).tolist():
        if candidate < stop:
            continue
        start, stop = _block(candidate, size, longer)
        block = step[start:stop]
        gaps += (np.flatnonzero(block > gap_factor * _median(block)) + start + 1).tolist()
    return gaps


def _block(index: int, size: int, longer: int) -> tuple[int, int]:
    """Where the block of an index starts and stops, if the first `longer` blocks have one entry more than `size`."""
    border = longer * (size + 1)
    if index < border:
        start = index // (size + 1) * (size + 1)
        return start, start + size + 1
    start = border + (index - border) // size * size
    return start, start + size


def _median(values: np.ndarray) -> float:
    """As np.median, whose own work on a few values takes ten times as long as the sorting."""
    ordered, half = np.sort(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def valid_patches(pixel_mask: Array) -> Array:
    """Patches with data enough: more than half of the pixels are good (arXiv 2510.17959).

    Args:
        pixel_mask: Shape (..., num_patches, patch_size), True = good; an array or a tensor.

    Returns:
        Shape (..., num_patches), True = valid.
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


def known_wavelength(
    wavelength: torch.Tensor, pixel_mask: torch.Tensor | None, num_patches: torch.Tensor | None
) -> torch.Tensor:
    """Pixels whose wavelength counts, the shape of `wavelength`, bool; see `fill_wavelength`."""
    known = (wavelength > 0) & (wavelength < PLAUSIBLE_LIMIT)
    if num_patches is not None:
        row = torch.arange(wavelength.shape[1], device=wavelength.device)
        known = known & (row < num_patches[:, None])[..., None]
    if pixel_mask is not None:
        known = known & (pixel_mask | ~valid_patches(pixel_mask)[..., None])
    return known


def real_patches(
    wavelength: torch.Tensor, pixel_mask: torch.Tensor | None, num_patches: torch.Tensor | None
) -> torch.Tensor:
    """Patches that are not padding, shape (batch, num_patches), bool: those with a known wavelength."""
    return known_wavelength(wavelength, pixel_mask, num_patches).any(-1)


def fill_wavelength(
    wavelength: torch.Tensor, pixel_mask: torch.Tensor | None, num_patches: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Wavelengths that are finite everywhere, and which of them count.

    Within a valid patch only good pixels count, so that nothing under a bad pixel matters; within a bad patch any
    plausible wavelength does, because the decoder is asked for it.

    Args:
        wavelength: Shape (batch, num_patches, patch_size), Å; without `num_patches`, (..., patch_size).
        pixel_mask: The same shape, True = good; None = all good.
        num_patches: Real patches of each spectrum, shape (batch,); None = not known.

    Returns:
        Wavelengths and the pixels that they were taken from, both of the same shape.
    """
    known = known_wavelength(wavelength, pixel_mask, num_patches)
    return fill_gaps(wavelength, known, extrapolate=True), known


def patch_geometry(wavelength: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre and width of each patch in Å, both (batch, num_patches), float32; 0 where no wavelength is known.

    All pixels count, also bad ones, whose wavelengths are continued: a patch does not move when a pixel goes bad.

    Args:
        wavelength: What `fill_wavelength` made of it, shape (batch, num_patches, patch_size), Å.
        known: The pixels that it was made from.
    """
    wavelength, size = wavelength.double(), wavelength.shape[-1]
    width = (wavelength[..., -1] - wavelength[..., 0]) * size / max(size - 1, 1)
    real = known.any(-1)
    return torch.where(real, wavelength.mean(-1), 0).float(), torch.where(real, width, 0).float()


def estimate_width(token_wavelength: torch.Tensor) -> torch.Tensor:
    """Width of each patch in Å from the distance to its nearer neighbour, shape (batch, num_patches).

    Args:
        token_wavelength: Centre of each patch in Å, shape (batch, num_patches), 0 at padding.

    Raises:
        ValueError: If a spectrum has a single patch, which has no neighbour.
    """
    real = token_wavelength > 0
    if (real.sum(-1) == 1).any():
        raise ValueError("the width of a lone token cannot be told from its wavelength: pass token_width=")
    centre = torch.where(real, token_wavelength.double(), torch.nan)
    ordered, order = centre.sort(-1)
    spacing = torch.nn.functional.pad(ordered.diff(dim=-1).nan_to_num(torch.inf), (1, 1), value=torch.inf)
    left, right = spacing[:, :-1], spacing[:, 1:]
    smaller = torch.minimum(left, right)
    width = torch.where(torch.maximum(left, right) < 1.2 * smaller, (left + right) / 2, smaller)  # else a gap
    return torch.zeros_like(width).scatter(-1, order, width).masked_fill(~real, 0).float()


def patch_grid(token_wavelength: torch.Tensor, token_width: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Wavelengths of the pixels of each patch in Å, shape (batch, num_patches, patch_size), float64."""
    offset = (torch.arange(patch_size, device=token_wavelength.device) + 0.5) / patch_size - 0.5
    return token_wavelength.double()[..., None] + token_width.double()[..., None] * offset


def expand_hidden(bool_masked_pos: torch.Tensor | None, good: torch.Tensor) -> torch.Tensor:
    """Hidden pixels, the shape of `good`, (..., patch_size), bool."""
    if bool_masked_pos is None:
        return torch.zeros_like(good)
    if bool_masked_pos.shape not in (good.shape, good.shape[:-1]):
        raise ValueError(
            f"bool_masked_pos must have shape {tuple(good.shape[:-1])} (patches) or {tuple(good.shape)} (pixels), "
            f"found {tuple(bool_masked_pos.shape)}"
        )
    hidden = bool_masked_pos > 0
    return hidden if hidden.ndim == good.ndim else hidden[..., None].expand_as(good)


def interpolate(wavelength: torch.Tensor, grid: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values at requested wavelengths, linear between the pixels of a grid, held beyond its ends.

    Args:
        wavelength: Requested wavelengths in Å, shape (batch, n).
        grid: Wavelengths of the pixels in Å, shape (batch, m), in any order; infinite = no pixel.
        values: Values of the pixels, shape (batch, m).
    """
    grid, order = grid.sort(-1)
    values = values.gather(-1, order)
    last = (grid.isfinite().sum(-1, keepdim=True) - 1).clamp(min=0)
    right = torch.searchsorted(grid, wavelength.to(grid.dtype).contiguous())
    right = torch.minimum(right, last)
    left = (right - 1).clamp(min=0)
    low, high = grid.gather(-1, left), grid.gather(-1, right)
    weight = ((wavelength - low) / (high - low)).nan_to_num(0, 0, 0).clamp(0, 1).to(values.dtype)
    return torch.lerp(values.gather(-1, left), values.gather(-1, right), weight)


def patch_means(
    wavelength: torch.Tensor,
    values: torch.Tensor,
    token_wavelength: torch.Tensor,
    token_width: torch.Tensor,
    token_mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values at requested wavelengths, interpolated within patches: the mean of those, one or two, that cover it.

    Beyond all patches, and in the gaps between them, the outermost pixels of those beside are held.

    Args:
        wavelength: Requested wavelengths in Å, shape (batch, n).
        values: Values of the pixels of patches, shape (batch, num_patches, patch_size).
        token_wavelength: Centre of each patch in Å, shape (batch, num_patches).
        token_width: Its width in Å, the same shape.
        token_mask: Patches whose values count, the same shape, 1 = valid.

    Returns:
        Values, and whether they are covered, both (batch, n).
    """
    size, token_mask = values.shape[-1], token_mask > 0
    centre, order = torch.where(token_mask, token_wavelength.double(), torch.inf).sort(-1)
    width = token_width.double().gather(-1, order)
    values = values.gather(1, order[..., None].expand_as(values))
    last = (token_mask.sum(-1, keepdim=True) - 1).clamp(min=0)
    right = torch.minimum(torch.searchsorted(centre, wavelength.double().contiguous()), last)
    sums, weights = torch.zeros_like(wavelength, dtype=values.dtype), torch.zeros_like(wavelength, dtype=values.dtype)
    covered = torch.zeros_like(wavelength, dtype=torch.bool)
    for row in (right, (right - 1).clamp(min=0)):
        place = ((wavelength - centre.gather(-1, row)) / width.gather(-1, row)).nan_to_num(0) + 0.5  # 0 to 1 inside
        pixel = (place * size - 0.5).clamp(0, size - 1)
        low = pixel.long().clamp(max=size - 2)
        start, stop = (values.flatten(1).gather(-1, row * size + low + step) for step in (0, 1))
        value = torch.lerp(start, stop, (pixel - low).to(values.dtype))
        # float32 centres and widths: neighbouring patches meet to a part in 1e7 of the wavelength
        slack = 1e-6 * wavelength / width.gather(-1, row)
        inside = (place >= -slack) & (place <= 1 + slack)
        # In its outermost half pixels a patch has nothing to interpolate: there the other one counts, if there is one.
        # Pixels of log grids stand up to a hundredth of their width from where an even grid has them.
        between = (place >= 0.45 / size) & (place <= 1 - 0.45 / size)
        weight = torch.where(between, 1.0, torch.where(inside, 1e-3, 1e-6)).to(values.dtype)
        sums, weights, covered = sums + weight * value, weights + weight, covered | inside
    return sums / weights, covered & token_mask.any(-1, keepdim=True)


def token_coverage(
    wavelength: torch.Tensor, token_wavelength: torch.Tensor, token_width: torch.Tensor, token_mask: torch.Tensor
) -> torch.Tensor:
    """Wavelengths inside the patch of a valid token, shape of `wavelength`, bool.

    A last patch that is only partly filled counts as a whole one: up to half a patch beyond the end of an arm.

    Args:
        wavelength: Requested wavelengths in Å, shape (batch, patches, patch_size).
        token_wavelength: Centre of each patch in Å, shape (batch, num_patches).
        token_width: Its width in Å, the same shape.
        token_mask: Valid tokens, the same shape, bool.
    """
    pixels = wavelength.flatten(1).double()
    centre, order = torch.where(token_mask, token_wavelength.double(), torch.inf).sort(-1)
    width = token_width.double().gather(-1, order)
    right = torch.searchsorted(centre, pixels.contiguous()).clamp(max=centre.shape[1] - 1)
    covered = torch.zeros_like(pixels, dtype=torch.bool)
    for neighbour in (right, (right - 1).clamp(min=0)):
        distance = (pixels - centre.gather(-1, neighbour)).abs()
        # float32 centres and widths: neighbouring patches meet to a part in 1e7 of the wavelength
        covered |= distance <= width.gather(-1, neighbour) / 2 + 1e-6 * pixels.abs()
    return covered.view_as(wavelength)


__all__ = [
    "count_patches",
    "cut_patches",
    "cut_wavelength",
    "estimate_width",
    "expand_hidden",
    "fill_gaps",
    "fill_wavelength",
    "find_segments",
    "interpolate",
    "known_wavelength",
    "patch_geometry",
    "patch_grid",
    "patch_index",
    "patch_means",
    "patch_pca",
    "patchify",
    "real_patches",
    "token_coverage",
    "unpatchify",
    "valid_patches",
]
# From spectok-hf; save_pretrained writes this file.
