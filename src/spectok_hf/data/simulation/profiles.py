"""Line profiles on an irregular wavelength axis, and what else the sources share."""

import numpy as np

from ...models.wavelength import LIGHT_SPEED

FWHM_PER_SIGMA = 2.3548
REACH = 5.0  # sigma; beyond it a Gaussian is nothing


def gaussians(axis: np.ndarray, centres: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Sum of Gaussian lines, shape (L,), each evaluated within 5 sigma only: that is what keeps a spectrum cheap.

    Args:
        axis: Wavelength in Å, shape (L,), ascending; gaps are allowed.
        centres: Wavelength of each line in Å, shape (n,).
        areas: Integral of each line over wavelength, shape (n,).
        sigmas: Standard deviation of each line in Å, shape (n,).
    """
    line, pixel = near_pixels(axis, centres, REACH * sigmas)
    offset = (axis[pixel] - centres[line]) / sigmas[line]
    peaks = areas / (np.sqrt(2 * np.pi) * sigmas)
    return np.bincount(pixel, peaks[line] * np.exp(-0.5 * offset**2), minlength=len(axis))


def near_pixels(axis: np.ndarray, centres: np.ndarray, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a line and a pixel within its reach, as two index arrays of one shape.

    Args:
        axis: Wavelength in Å, shape (L,), ascending.
        centres: Wavelength of each line in Å, shape (n,).
        reach: Greatest distance in Å, shape (n,).
    """
    low, high = np.searchsorted(axis, [centres - reach, centres + reach])
    counts = high - low
    line = np.repeat(np.arange(len(centres)), counts)
    pixel = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + low[line]
    return line, pixel


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two, uniform in its logarithm.

    Args:
        rng: Source of randomness.
        low: Lowest value.
        high: Highest value.
    """
    return float(low * (high / low) ** rng.random())


__all__ = ["FWHM_PER_SIGMA", "LIGHT_SPEED", "gaussians", "log_uniform", "near_pixels"]
