"""What the telescope makes of light: grid, resolution, throughput, sky, noise and bad pixels."""

from functools import cache
from typing import NamedTuple

import numpy as np

from ...models.wavelength import air_to_vacuum
from ..surveys import SURVEYS, Arm, Survey
from .line_lists import SKY_LINES, SKY_LINES_POWER
from .profiles import FWHM_PER_SIGMA, LIGHT_SPEED, gaussians
from .recipes import RECIPES, Recipe

SKY_LIMITED_SNR = 10.0  # fainter than this, the sky is brighter than the object: a rule of thumb for fibres
BRIGHT_SNR = 20.0  # the noise per pixel starts to grow with the object's own photons


class Instrument(NamedTuple):
    """What a survey does to light, the same for all its spectra."""

    wavelength: np.ndarray  # (L,), Å, in the survey's medium
    axis: np.ndarray  # (L,), Å, the same pixels in vacuum
    position: np.ndarray  # (L,), -1 to 1 from the first pixel to the last, in log wavelength
    throughput: np.ndarray  # (L,), 1 in the middle of an arm
    sky: np.ndarray  # (L,), brightness over that of the sky's continuum
    velocity_sigma: np.ndarray  # (L,), km/s, of the line spread function
    rest_frame: bool


@cache
def make_instrument(survey: str) -> Instrument:
    """The instrument of a survey.

    Args:
        survey: A key of `RECIPES`.
    """
    facts, edge = SURVEYS[survey], RECIPES[survey].edge
    wavelength = np.concatenate([_arm_wavelength(arm) for arm in facts.arms])
    axis = air_to_vacuum(wavelength) if facts.medium == "air" else wavelength
    logarithm = np.log(wavelength)
    velocity_sigma = LIGHT_SPEED / _resolving_power(axis, facts) / FWHM_PER_SIGMA
    centres, peaks = SKY_LINES.T
    peaks = peaks * facts.resolving_power / SKY_LINES_POWER
    sigmas = centres * np.interp(centres, axis, velocity_sigma) / LIGHT_SPEED
    return Instrument(
        wavelength,
        axis,
        position=2 * (logarithm - logarithm[0]) / (logarithm[-1] - logarithm[0]) - 1,
        throughput=_throughput(wavelength, facts, edge),
        sky=1 + gaussians(axis, centres, peaks * np.sqrt(2 * np.pi) * sigmas, sigmas),
        velocity_sigma=velocity_sigma,
        rest_frame=facts.frame == "rest",
    )


def _resolving_power(axis: np.ndarray, facts: Survey) -> np.ndarray:
    wavelengths, powers = np.transpose(facts.resolving_curve or ((0.0, facts.resolving_power),))
    return np.interp(axis, wavelengths, powers)


def _arm_wavelength(arm: Arm) -> np.ndarray:
    grid = arm.start + arm.step * np.arange(arm.pixels)
    return 10.0**grid if arm.log else grid


def _throughput(wavelength: np.ndarray, facts: Survey, edge: float) -> np.ndarray:
    """Efficiency, shape (L,): flat-topped in each arm, the sum of both where two arms overlap."""
    total = np.zeros(len(wavelength))
    for arm in facts.native_arms or facts.arms:
        low, high = _arm_wavelength(arm)[[0, -1]]
        offset = (2 * wavelength - low - high) / (high - low)
        total += np.where(np.abs(offset) <= 1 + 1e-9, edge + (1 - edge) * (1 - offset**4), 0.0)
    return total


def calibration_error(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> np.ndarray:
    """Smooth calibration error of one object, shape (L,), near 1."""
    coefficients = rng.normal(size=4) * recipe.tilt / np.array([np.inf, 1, 2, 3])
    return np.exp(np.polynomial.chebyshev.chebval(instrument.position, coefficients))


def typical_flux(rng: np.random.Generator, recipe: Recipe, snr: float) -> float:
    """Median flux of an object that the survey observes with a signal-to-noise ratio, in its unit."""
    return recipe.noise * snr * np.sqrt(1 + snr / BRIGHT_SNR) * 10 ** rng.normal(0, 0.15)


def observe(
    rng: np.random.Generator, light: np.ndarray, instrument: Instrument, recipe: Recipe, snr: float
) -> dict[str, np.ndarray]:
    """What the telescope makes of the light: the columns of a `Spectrum`, with noise and bad pixels."""
    size = len(light)
    dead = _runs(rng, size, count=2 + rng.poisson(3), longest=4) | _runs(rng, size, 1 + rng.poisson(0.5), longest=16)
    flagged = _runs(rng, size, count=1 + rng.poisson(1), longest=5) & ~dead
    sky = instrument.sky * np.median(light) * SKY_LIMITED_SNR / snr
    sigma = np.sqrt((light + sky) / instrument.throughput)
    sigma *= np.median((light / sigma)[~dead & ~flagged]) / snr
    response = 1.0 if recipe.calibrated else instrument.throughput
    truth, sigma = light * response, sigma * response
    flux = truth + sigma * rng.normal(size=size)
    flux[flagged] += 20 * sigma[flagged] * rng.normal(size=flagged.sum())
    flux[dead] = np.median(truth) * rng.normal(size=dead.sum()) * 10 ** rng.uniform(0, 3, size=dead.sum())
    return {"flux": flux, "ivar": np.where(dead, 0.0, sigma**-2), "mask": dead | flagged, "truth": truth}


def _runs(rng: np.random.Generator, size: int, count: int, longest: int) -> np.ndarray:
    """Pixels of `count` runs at random places, shape (size,), True = inside one."""
    inside = np.zeros(size, dtype=bool)
    for start, length in zip(rng.integers(size, size=count), rng.integers(1, longest + 1, size=count), strict=True):
        inside[start : start + length] = True
    return inside


__all__ = ["Instrument", "calibration_error", "make_instrument", "observe", "typical_flux"]
