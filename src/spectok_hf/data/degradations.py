"""What another spectrograph would have seen: lower resolution, a shifted grid, coarser pixels, a part of the range.

Unlike the random views of `views` these are exact changes for judging, and they keep the noise-free flux. The rules:

* A bad pixel tells nothing, whatever it holds, and nothing crosses a detector gap.
* Where pixels are averaged (`rebin_pixels`), errors are those of a mean of independent pixels: the noise stays white.
* Where light is smeared or moved over kept pixels (`lower_resolution`, `shift_grid`), a spectrum with `truth` has its
  truth changed, while its noise and `ivar` stay as they are: another instrument at the same signal-to-noise ratio, and
  the noise stays white. Without a truth the noise is changed with the light: `ivar` is propagated as that of
  independent pixels, so that errors shrink and each is right for its pixel, but neighbours are correlated from then
  on, which is not stated anywhere. Smeared widely, such a spectrum has few numbers per patch that are not given by
  the others, and any linear map holds it exactly. `lower_resolution` can add the noise that makes up for what was
  smeared out: errors are then as they were, and most of the noise is white.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..models.patches import GAP_FACTOR, find_segments
from ..models.spectrum import Spectrum
from .surveys import SURVEYS

FWHM_PER_SIGMA = 2.3548200450309493
KERNEL_REACH = 4.0  # standard deviations


def lower_resolution(
    spectrum: Spectrum,
    factor: float,
    *,
    resolving_power: float | None = None,
    rng: np.random.Generator | None = None,
    gap_factor: float | None = GAP_FACTOR,
) -> Spectrum:
    """A spectrum at its resolving power over `factor`, on its own pixels.

    It is convolved with the Gaussian that, in quadrature with the instrument's, gives the lower resolution; its median
    resolving power becomes the label `resolving_power`.

    Args:
        spectrum: The spectrum.
        factor: At least 1, which changes nothing.
        resolving_power: Lambda / delta lambda (FWHM) that the spectrum has; None = as `SURVEYS` has it for its survey.
        rng: Where the noise is drawn from that a spectrum without a truth gets, so that no error shrinks; None = it
            gets none, and its errors shrink. Of no effect where there is a truth.
        gap_factor: See `find_segments`.

    Raises:
        ValueError: If the factor is below 1, or the resolving power is impossible or not known.
    """
    if not 1 <= factor < np.inf:
        raise ValueError(f"factor must be 1 or more, found {factor}: resolution can be lost, not gained")
    if resolving_power is not None and not 0 < resolving_power < np.inf:
        raise ValueError(
            f"resolving_power must be positive, found {resolving_power}: it is lambda / delta lambda (FWHM)"
        )
    if factor == 1:
        return spectrum
    instrument = _line_widths(spectrum, resolving_power)
    widths = np.sqrt(factor**2 - 1) * instrument  # (L,), Å
    columns = _columns(spectrum)
    for segment in find_segments(spectrum.wavelength, gap_factor):
        pixels = np.gradient(spectrum.wavelength[segment]) if segment.stop - segment.start > 1 else np.ones(1)
        _smear(spectrum, segment, widths[segment] / pixels, columns)
    if rng is not None and spectrum.truth is None:
        _add_lost_noise(spectrum, columns, rng)
    power = float(np.median(spectrum.wavelength / instrument)) / FWHM_PER_SIGMA / factor
    return _changed(spectrum, labels=spectrum.labels | {"resolving_power": power}, **columns)


def shift_grid(spectrum: Spectrum, pixels: float, *, gap_factor: float | None = GAP_FACTOR) -> Spectrum:
    """A spectrum on pixels that lie a part of a pixel further to the red: linear between two neighbours.

    The last pixel of each segment is lost. Without a truth, a pixel between a good and a bad one is bad.

    Args:
        spectrum: The spectrum.
        pixels: From 0, which changes nothing, to below 1.
        gap_factor: See `find_segments`.

    Raises:
        ValueError: If `pixels` is out of range, or no segment has two pixels.
    """
    if not 0 <= pixels < 1:
        raise ValueError(
            f"pixels must be at least 0 and below 1, found {pixels}: whole pixels are cut with keep_range"
        )
    if not pixels:
        return spectrum
    segments = find_segments(spectrum.wavelength, gap_factor)
    left = np.concatenate([np.arange(segment.start, segment.stop - 1) for segment in segments])
    if not len(left):
        raise ValueError(f"a shift needs two neighbouring pixels, found none in {spectrum!r}")

    def between(values: np.ndarray) -> np.ndarray:
        return (1 - pixels) * values[left] + pixels * values[left + 1]

    axis = {"wavelength": between(spectrum.wavelength)}
    if spectrum.truth is not None:
        truth = between(spectrum.truth.astype(np.float64))
        columns = {name: getattr(spectrum, name)[left] for name in ("flux", "ivar", "mask")}
        columns["flux"] = columns["flux"] + truth - spectrum.truth[left]
        return _changed(spectrum, **axis, **columns, truth=truth)
    good = spectrum.good[left] & spectrum.good[left + 1]
    flux = np.where(spectrum.good, spectrum.flux, 0).astype(np.float64)
    error = np.where(spectrum.good, spectrum.error, 0)
    variance = (1 - pixels) ** 2 * error[left] ** 2 + pixels**2 * error[left + 1] ** 2
    return _changed(spectrum, **axis, flux=between(flux), ivar=_inverse(variance, good), mask=~good)


def rebin_pixels(spectrum: Spectrum, count: int, *, gap_factor: float | None = GAP_FACTOR) -> Spectrum:
    """A spectrum on pixels that are `count` times as wide: means of the good pixels in each.

    A wide pixel is good where at least half of its pixels are. What remains at the end of a segment is lost.

    Args:
        spectrum: The spectrum.
        count: Pixels per wide pixel; 1 changes nothing.
        gap_factor: See `find_segments`.

    Raises:
        ValueError: If `count` is not a positive integer, or no segment has as many pixels.
    """
    if not (isinstance(count, (int, np.integer)) and count >= 1):
        raise ValueError(f"count must be a positive integer, found {count!r}")
    if count == 1:
        return spectrum
    starts = [
        np.arange(segment.start, segment.stop - count + 1, count)
        for segment in find_segments(spectrum.wavelength, gap_factor)
    ]
    index = np.concatenate(starts)[:, None] + np.arange(count)  # (wide pixels, count)
    if not len(index):
        raise ValueError(f"count must leave a pixel, found {count} for {spectrum!r}")
    known = spectrum.good[index]
    members = known.sum(1)
    good = 2 * members >= count
    variance = np.where(known, spectrum.error[index], 0) ** 2
    columns = {
        "wavelength": spectrum.wavelength[index].mean(1),
        "flux": _mean(np.where(known, spectrum.flux[index], 0), known),
        "ivar": _inverse(variance.sum(1) / np.maximum(members, 1) ** 2, good),
        "mask": ~good,
    }
    if spectrum.truth is not None:  # of the same pixels; of all, where none is good
        columns["truth"] = _mean(spectrum.truth[index], known | ~known.any(1, keepdims=True))
    return _changed(spectrum, **columns)


def keep_range(spectrum: Spectrum, low: float = -np.inf, high: float = np.inf) -> Spectrum:
    """The pixels of a spectrum between two wavelengths, which belong to the range.

    Args:
        spectrum: The spectrum.
        low: Å.
        high: Å.

    Raises:
        ValueError: If there is no pixel in the range.
    """
    first, stop = np.searchsorted(spectrum.wavelength, low), np.searchsorted(spectrum.wavelength, high, side="right")
    if first >= stop:
        raise ValueError(f"no pixel lies between {low:g} and {high:g} Å in {spectrum!r}")
    return _sliced(spectrum, slice(int(first), int(stop)))


def keep_share(spectrum: Spectrum, share: float, *, end: str = "blue") -> Spectrum:
    """The blue or the red part of a spectrum's range.

    Args:
        spectrum: The spectrum.
        share: Share of the range in Å that is kept, above 0; 1 changes nothing.
        end: "blue" or "red".

    Raises:
        ValueError: If the share or the end makes no sense, or there is no pixel in the range.
    """
    if not 0 < share <= 1 or end not in ("blue", "red"):
        raise ValueError(f'share must be above 0 and at most 1, and end "blue" or "red", found {share}, {end!r}')
    low, high = spectrum.wavelength[[0, -1]]
    width = share * (high - low)
    return keep_range(spectrum, high=low + width) if end == "blue" else keep_range(spectrum, low=high - width)


def _line_widths(spectrum: Spectrum, resolving_power: float | None) -> np.ndarray:
    """Standard deviation of the instrument's line spread function, shape (L,), Å."""
    power: Any = resolving_power
    if power is None:
        if spectrum.survey not in SURVEYS:
            raise ValueError(f"the resolving power of survey {spectrum.survey!r} is not known: pass resolving_power=")
        facts = SURVEYS[spectrum.survey]
        curve = facts.resolving_curve or ((0.0, facts.resolving_power),)
        power = np.interp(spectrum.wavelength, *np.transpose(curve))
    return spectrum.wavelength / power / FWHM_PER_SIGMA


def _columns(spectrum: Spectrum) -> dict[str, np.ndarray]:
    """Copies of what `_smear` changes."""
    names = ("flux", "ivar") if spectrum.truth is None else ("flux", "truth")
    return {name: getattr(spectrum, name).astype(np.float64) for name in names}


def _smear(spectrum: Spectrum, segment: slice, widths: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Convolves a segment; widths are in pixels, and the columns change in place."""
    good, flux = spectrum.good[segment], spectrum.flux[segment]
    if spectrum.truth is not None:
        known = np.ones(len(widths), dtype=bool)
        truth = spectrum.truth[segment].astype(np.float64)
        columns["truth"][segment] = _smeared(truth, widths) / _smeared(known, widths)
        columns["flux"][segment][good] = (flux + columns["truth"][segment] - truth)[good]
        return
    weight = _smeared(good, widths)
    variance = _smeared(np.where(good, spectrum.error[segment], 0) ** 2, widths, power=2)
    columns["flux"][segment][good] = _smeared(np.where(good, flux, 0), widths)[good] / weight[good]
    columns["ivar"][segment][good] = weight[good] ** 2 / variance[good]


def _add_lost_noise(spectrum: Spectrum, columns: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Noise by which no good pixel has a smaller error than it had; the columns change in place."""
    good = spectrum.good
    before, after = (
        np.divide(1, ivar, out=np.zeros(len(ivar)), where=good) for ivar in (spectrum.ivar, columns["ivar"])
    )
    columns["flux"] += rng.normal(size=len(good)) * np.sqrt(np.maximum(before - after, 0))
    columns["ivar"][good] = 1 / np.maximum(before, after)[good]


def _smeared(values: np.ndarray, widths: np.ndarray, *, power: int = 1) -> np.ndarray:
    """Sum of the values around each pixel, weighted by a Gaussian of its own width to a power, shape (n,)."""
    count = len(values)
    reach = min(int(np.ceil(KERNEL_REACH * widths.max())), count - 1)
    total = np.zeros(count)
    for offset in range(-reach, reach + 1):
        own = slice(max(0, -offset), min(count, count - offset))
        kernel = np.exp(-0.5 * power * (offset / widths[own]) ** 2)
        total[own] += kernel * values[own.start + offset : own.stop + offset]
    return total


def _mean(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean of the known values of each row, 0 where there is none."""
    return np.where(known, values, 0).sum(1, dtype=np.float64) / np.maximum(known.sum(1), 1)


def _inverse(variance: np.ndarray, good: np.ndarray) -> np.ndarray:
    return np.divide(1, variance, out=np.zeros(len(variance)), where=good & (variance > 0))


def _sliced(spectrum: Spectrum, part: slice) -> Spectrum:
    names = ["flux", "wavelength", "ivar", "mask"] + (["truth"] if spectrum.truth is not None else [])
    return _changed(spectrum, **{name: getattr(spectrum, name)[part] for name in names})


def _changed(spectrum: Spectrum, **columns: Any) -> Spectrum:
    """The spectrum with other columns, in its own types; what was counted of its pixels no longer fits."""
    typed = {
        name: column.astype(np.float32) if name in ("flux", "ivar", "truth") else column
        for name, column in columns.items()
    }
    return Spectrum.unchecked(**vars(spectrum) | {"dropped": {}} | typed)


Degradation = Callable[[Spectrum], Spectrum]

__all__ = ["Degradation", "keep_range", "keep_share", "lower_resolution", "rebin_pixels", "shift_grid"]
