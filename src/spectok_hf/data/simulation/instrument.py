"""What air, telescope and pipeline make of light: grid, sensitivity, sky, calibration, noise and bad pixels."""

from functools import cache
from typing import NamedTuple

import numpy as np

from ...models.wavelength import air_to_vacuum
from ..surveys import SURVEYS, Arm, Survey
from .profiles import FWHM_PER_SIGMA, LIGHT_SPEED, gaussians
from .recipes import RECIPES, Recipe
from .sky_lines import ABSORPTION_BANDS, OXYGEN_BANDS, OXYGEN_GROUND, SKY_LINES

BRIGHT_SNR = 20.0  # without a sky: the noise per pixel starts to grow with the object's own photons
STARVED_BELOW = 4600.0  # Å; only the blue end of LAMOST runs out of light
EXTREME_SPIKES = 0.01  # share of unflagged spikes whose height has a long tail
TYPICAL_LINE = 12.0  # brightness of a line of the sky over the continuum, where `Recipe.sky_residual` holds
RESAMPLED = 0.6  # pixels, width of the kernel that correlates what is not noise: a typical one
TELLURIC_WIDTH = 0.06  # Å, of an absorption line of the air itself: pressure and Doppler broadening
TELLURIC_FLOOR = 4.0  # greatest optical depth that the pipelines divide out


class Instrument(NamedTuple):
    """What a survey does to light, the same for all its spectra; and the part of the grid that one spectrum has."""

    wavelength: np.ndarray  # (L,), Å, in the survey's medium
    axis: np.ndarray  # (L,), Å, the same pixels in vacuum
    position: np.ndarray  # (L,), -1 to 1 from the first pixel to the last, in log wavelength
    sensitivity: np.ndarray  # (L,), counts per flux, about 1
    sky: np.ndarray  # (L,), brightness over that of the sky's continuum
    sky_rank: np.ndarray  # (L,), share of the pixels in which the sky is brighter
    dry_depth: np.ndarray  # (L,), optical depth of the air but for water, at airmass 1
    wet_depth: np.ndarray  # (L,), optical depth of its water in a typical night
    velocity_sigma: np.ndarray  # (L,), km/s, of the line spread function
    arm: np.ndarray  # (L,), number of the contiguous grid
    rest_frame: bool

    def at(self, pixels: slice | np.ndarray) -> "Instrument":
        """The same instrument with some of its pixels."""
        columns = {name: getattr(self, name)[pixels] for name in self._fields if name != "rest_frame"}
        return self._replace(**columns)


class Visit(NamedTuple):
    """What the observation of one object adds to the instrument."""

    instrument: Instrument
    response: np.ndarray  # (L,), what calibration made of a constant: smooth errors, steps, what the air took
    extra_error: np.ndarray  # (L,), by what the correction for the air enlarged the error
    overstatement: np.ndarray  # (L,), stated over true error


@cache
def make_instrument(survey: str) -> Instrument:
    """The instrument of a survey, on its longest grid.

    Args:
        survey: A key of `RECIPES`.
    """
    facts, recipe = SURVEYS[survey], RECIPES[survey]
    grids = [_arm_wavelength(arm) for arm in _longest_arms(facts, recipe)]
    wavelength = np.concatenate(grids)
    axis = air_to_vacuum(wavelength) if facts.medium == "air" else wavelength
    logarithm = np.log(wavelength)
    velocity_sigma = LIGHT_SPEED / _resolving_power(axis, facts) / FWHM_PER_SIGMA
    sensitivity = _sensitivity(wavelength, recipe)
    in_air = recipe.sky_limited_snr > 0
    sky = 1 + in_air * _lines(axis, velocity_sigma, *SKY_LINES)
    return Instrument(
        wavelength,
        axis,
        position=2 * (logarithm - logarithm[0]) / (logarithm[-1] - logarithm[0]) - 1,
        sensitivity=sensitivity,
        sky=sky,
        sky_rank=np.argsort(np.argsort(-sky)) / len(sky),
        dry_depth=in_air * (_oxygen(axis, velocity_sigma) + _bands(axis, velocity_sigma, water=False)),
        wet_depth=in_air * _bands(axis, velocity_sigma, water=True),
        velocity_sigma=velocity_sigma,
        arm=np.repeat(np.arange(len(grids)), [len(grid) for grid in grids]),
        rest_frame=facts.frame == "rest",
    )


def _longest_arms(facts: Survey, recipe: Recipe) -> tuple[Arm, ...]:
    before, _, _, after = recipe.trim
    first, *rest = facts.arms
    if not (before or after):
        return facts.arms
    return (Arm(first.start - before * first.step, first.step, first.pixels + before + after, first.log), *rest)


def _resolving_power(axis: np.ndarray, facts: Survey) -> np.ndarray:
    wavelengths, powers = np.transpose(facts.resolving_curve or ((0.0, facts.resolving_power),))
    return np.interp(axis, wavelengths, powers)


def _arm_wavelength(arm: Arm) -> np.ndarray:
    grid = arm.start + arm.step * np.arange(arm.pixels)
    return 10.0**grid if arm.log else grid


def _sensitivity(wavelength: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Counts per flux, shape (L,), for which sky and read noise give the error curve: it² = 1 / s + read / s²."""
    error = np.interp(wavelength, *np.transpose(recipe.error_curve))
    return (1 + np.sqrt(1 + 4 * recipe.read_noise * error**2)) / (2 * error**2)


def _lines(axis: np.ndarray, velocity_sigma: np.ndarray, centres: np.ndarray, areas: np.ndarray) -> np.ndarray:
    sigmas = np.hypot(centres * np.interp(centres, axis, velocity_sigma) / LIGHT_SPEED, TELLURIC_WIDTH)
    return gaussians(axis, centres, areas, sigmas)


def _oxygen(axis: np.ndarray, velocity_sigma: np.ndarray) -> np.ndarray:
    """Optical depth of the b-X bands of O2, shape (L,): P and R branches of close pairs, at 270 K."""
    level = np.arange(1, 32, 2)
    population = level * np.exp(-1.4388 * OXYGEN_GROUND * level * (level + 1) / 270)
    depth = np.zeros(len(axis))
    for origin, upper, width in OXYGEN_BANDS:
        curvature = (upper - OXYGEN_GROUND) * level**2
        p_branch = origin - (upper + OXYGEN_GROUND) * level + curvature
        r_branch = origin + 2 * upper + (3 * upper - OXYGEN_GROUND) * level + curvature
        wavenumbers = np.concatenate([branch + split for branch in (p_branch, r_branch) for split in (-1, 1)])
        widths = width * np.sqrt(population / population.max())  # the lines are saturated
        depth += _lines(axis, velocity_sigma, 1e8 / wavenumbers, np.tile(widths, 4))
    return depth


def _bands(axis: np.ndarray, velocity_sigma: np.ndarray, *, water: bool) -> np.ndarray:
    """Optical depth of the other bands, shape (L,): lines at places of the golden section, strong in the middle."""
    depth = np.zeros(len(axis))
    for low, high, count, total, is_water in ABSORPTION_BANDS:
        if is_water == water:
            place = np.arange(1, count + 1) * 0.618034 % 1
            strength = place * (1 - place) * (0.1 + np.arange(count) * 0.414214 % 1) ** 2
            depth += _lines(axis, velocity_sigma, low + (high - low) * place, total * strength / strength.sum())
    return depth


def visit(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> Visit:
    """The instrument as one object meets it: its grid, the night's air, the errors of its calibration.

    Args:
        rng: Source of randomness.
        instrument: What `make_instrument` returned.
        recipe: The survey's recipe.
    """
    own = _own_grid(rng, instrument, recipe)
    dry, wet = np.exp(rng.normal(0, (0.25, 0.45)))
    depth = np.minimum(dry * own.dry_depth + wet * own.wet_depth, TELLURIC_FLOOR)
    left, scatter = recipe.telluric
    response = calibration_error(rng, own, recipe) * np.exp(-depth * rng.normal(left, scatter))
    overstatement = recipe.overstatement[0] * 10 ** rng.normal(0, recipe.overstatement[1])
    # Dividing by what the air lets through enlarges all noise; that the object gives fewer photons is neglected.
    return Visit(own, response, np.exp((1 - left) * depth), overstatement * _inflation(rng, own, recipe))


def _own_grid(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> Instrument:
    own = instrument.at(_own_pixels(rng, instrument, recipe))
    if recipe.shift:
        stretch = 1 + rng.uniform(-recipe.shift, recipe.shift)
        own = own._replace(wavelength=own.wavelength * stretch, axis=own.axis * stretch)
    return _at_rest(rng, own) if own.rest_frame else own


def _own_pixels(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> slice | np.ndarray:
    if any(recipe.trim):
        before, after, missing, added = recipe.trim
        shift = rng.random()  # both ends move together, by the place of the fibre on the detector
        start = round((before + after) * shift**2)
        end = round((missing + added) * (0.85 * shift**2 + 0.15 * rng.random()))
        return slice(start, len(instrument.wavelength) - missing - added + end)
    if rng.random() < recipe.missing_arm:
        return instrument.arm != rng.integers(instrument.arm[-1] + 1)
    return slice(None)


def _at_rest(rng: np.random.Generator, instrument: Instrument) -> Instrument:
    """In the frame of the star, sky and air move: by the star's velocity and that of the Earth."""
    there = instrument.axis * (1 + rng.normal(0, 45) / LIGHT_SPEED)
    moved = {
        name: np.interp(there, instrument.axis, getattr(instrument, name))
        for name in ("sky", "dry_depth", "wet_depth")
    }
    return instrument._replace(**moved)


def calibration_error(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> np.ndarray:
    """Error of one object's flux calibration, shape (L,), near 1: tilt, waves, and a step where arms meet."""
    coefficients = rng.normal(size=4) * recipe.tilt / np.array([np.inf, 1, 2, 3])
    error = np.polynomial.chebyshev.chebval(instrument.position, coefficients)
    error += (
        recipe.ripple * rng.normal() * np.sin(rng.uniform(5, 25) * np.pi * instrument.position + rng.uniform(0, 6))
    )
    for join in recipe.joins:
        step = recipe.join_offset * rng.normal() * np.exp(rng.normal(0, 0.5))
        error += step * np.clip((instrument.wavelength - join) / 60, -0.5, 0.5)
    return np.exp(error)


def _inflation(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> np.ndarray:
    """By what errors are overstated in single places, shape (L,): windows around lines, persistence."""
    inflation = np.ones(len(instrument.wavelength))
    if rng.random() < recipe.inflated_share:
        for low, high, factor in recipe.inflated:
            inflation[slice(*np.searchsorted(instrument.wavelength, (low, high)))] *= factor
    probability, longest, factor = recipe.persistence
    if rng.random() < probability:
        inflation[_runs(rng, len(inflation), 1 + rng.poisson(0.7), longest)] *= factor
    return inflation


def typical_flux(rng: np.random.Generator, recipe: Recipe, snr: float) -> float:
    """Median flux of an object that the survey observes with a signal-to-noise ratio, in its unit."""
    brightness = snr / (recipe.sky_limited_snr or BRIGHT_SNR)
    return recipe.noise * snr * np.sqrt(1 + brightness) * 10 ** rng.normal(0, recipe.noise_scatter)


def observe(
    rng: np.random.Generator, light: np.ndarray, seen: Visit, recipe: Recipe, snr: float
) -> dict[str, np.ndarray]:
    """What the telescope makes of the light: the columns of a `Spectrum`, with noise and bad pixels.

    Args:
        rng: Source of randomness.
        light: Light of the object as calibrated, noise-free, shape (L,).
        seen: The visit that saw it.
        recipe: The survey's recipe.
        snr: Median over good pixels of the truth over the stated error.
    """
    instrument, level = seen.instrument, np.median(light)
    sky = instrument.sky * (recipe.sky_limited_snr / snr)
    error = _error_shape(light / level, sky, seen, recipe)
    ratio = light / error
    dead, broken, bright = _bad_pixels(rng, instrument, recipe, ratio, snr)
    bad = dead | broken | bright
    noise = correlated_noise(rng, len(light), recipe.correlation)
    misjudged = _error_of_error(rng, noise, recipe, snr)
    stated = ratio / misjudged
    error *= np.median(stated[~bad] if not bad.all() else stated) / snr
    response = 1.0 if recipe.calibrated else instrument.sensitivity
    truth, error = light * response, error * response
    # The share of the sky's lines in the counts, 0 in its continuum: there it is not subtracted cleanly.
    in_lines = (sky - sky / instrument.sky) / (light / level + sky)
    in_lines *= np.clip(instrument.sky / TYPICAL_LINE, 0.5, 12) ** 0.45  # what is left grows faster than photon noise
    flux = truth + error * (_true_over_stated(noise, seen, recipe) + _sky_residual(rng, in_lines, recipe))
    flux += _pedestal(rng, instrument, recipe, snr) * level / snr
    _add_spikes(rng, flux, error, recipe)
    flux[broken] += 20 * error[broken] * rng.normal(size=broken.sum())
    flux[dead] = level * rng.normal(size=dead.sum()) * 10 ** rng.uniform(0, 3, size=dead.sum())
    return {"flux": flux, "ivar": np.where(dead, 0.0, (error * misjudged) ** -2), "mask": bad, "truth": truth}


def _error_shape(light: np.ndarray, sky: np.ndarray, seen: Visit, recipe: Recipe) -> np.ndarray:
    """Stated error, shape (L,), in any unit: photons of object and sky, and the detector, over the sensitivity."""
    sensitivity, faintness = seen.instrument.sensitivity, sky.min()
    variance = (np.maximum(light, 0) + sky) / sensitivity + faintness * recipe.read_noise / sensitivity**2
    return np.sqrt(variance) * seen.extra_error * seen.overstatement


def _true_over_stated(noise: np.ndarray, seen: Visit, recipe: Recipe) -> np.ndarray:
    """Noise of unit variance, as it is in units of the stated error; each (L,)."""
    scaled = noise / seen.overstatement
    if recipe.noise_curve:
        scaled *= np.interp(seen.instrument.wavelength, *np.transpose(recipe.noise_curve))
    return scaled


def _sky_residual(rng: np.random.Generator, in_lines: np.ndarray, recipe: Recipe) -> np.ndarray | float:
    """What is left of the sky's lines, shape (L,), in units of the stated error."""
    if not recipe.sky_residual:
        return 0.0
    amplitude = recipe.sky_residual * np.exp(rng.normal(0, 0.5))
    return amplitude * in_lines * correlated_noise(rng, len(in_lines), RESAMPLED)


def _error_of_error(rng: np.random.Generator, noise: np.ndarray, recipe: Recipe, snr: float) -> np.ndarray | float:
    """By what the stated error of a pixel is off, shape (L,): pipelines know it from the photons that they counted."""
    scatter, share = recipe.error_scatter
    if not scatter:
        return 1.0
    scatter /= np.sqrt(1 + snr / (recipe.sky_limited_snr or BRIGHT_SNR))  # of more photons
    other = correlated_noise(rng, len(noise), RESAMPLED)
    return np.exp(scatter * (share * noise + np.sqrt(1 - share**2) * other))


def noise_kernel(width: float) -> np.ndarray:
    """Weights by which neighbouring pixels share white noise; their squares sum to 1, which conserves its variance.

    Args:
        width: Standard deviation in pixels, 0 = none shared.
    """
    reach = int(np.ceil(3 * width))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (width or 1.0)) ** 2)
    return weights / np.sqrt(np.sum(weights**2))


def correlated_noise(rng: np.random.Generator, size: int, width: float) -> np.ndarray:
    """Gaussian noise of unit variance, shape (size,), as resampling correlates it.

    Args:
        rng: Source of randomness.
        size: Number of pixels.
        width: Standard deviation of the kernel in pixels.
    """
    kernel = noise_kernel(width)
    return np.convolve(rng.normal(size=size + len(kernel) - 1), kernel, mode="valid")


def _pedestal(rng: np.random.Generator, instrument: Instrument, recipe: Recipe, snr: float) -> np.ndarray:
    """Too much or too little of the sky's continuum, shape (L,), in units of a typical error."""
    share = recipe.sky_limited_snr / (recipe.sky_limited_snr + snr)  # of the sky in the counts
    coefficients = recipe.pedestal * share * rng.normal(size=3) * (1, 0.5, 0.3)
    return np.polynomial.chebyshev.chebval(instrument.position, coefficients)


def _bad_pixels(
    rng: np.random.Generator, instrument: Instrument, recipe: Recipe, ratio: np.ndarray, snr: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels without data, flagged pixels that hold garbage, and pixels flagged for the bright sky; each (L,)."""
    size = len(ratio)
    dead = _runs(rng, size, _count(rng, recipe.dead[0]), recipe.dead[1])
    if rng.random() < recipe.dead_block[0]:
        dead |= _runs(rng, size, 1, recipe.dead_block[1])
    for low, high, probability in recipe.lost:
        if rng.random() < probability:
            dead[slice(*np.searchsorted(instrument.wavelength, (low, high)))] = True
    if recipe.starved:
        blue = slice(np.searchsorted(instrument.wavelength, STARVED_BELOW))
        limit = rng.logistic(recipe.starved, 0.3, size=blue.stop) / snr * np.median(ratio)
        dead[blue] |= ratio[blue] < limit
    broken = _runs(rng, size, _count(rng, recipe.flagged[0]), recipe.flagged[1]) & ~dead
    share = min(rng.gamma(3, recipe.bright_sky[0] / 3), recipe.bright_sky[1])
    return dead, broken, (instrument.sky_rank < share) & ~dead & ~broken


def _count(rng: np.random.Generator, mean: float) -> int:
    """A number that scatters more than a Poisson number: some exposures are bad."""
    return int(rng.poisson(mean * rng.gamma(2, 0.5)))


def _add_spikes(rng: np.random.Generator, flux: np.ndarray, error: np.ndarray, recipe: Recipe) -> None:
    """Cosmic rays that no one flagged, in place: from ten errors up, half of them beyond 14, few far beyond."""
    probability, mean = recipe.spikes
    if rng.random() < probability:
        pixels = rng.integers(len(flux) - 1, size=1 + _count(rng, mean))
        spread = np.where(rng.random(len(pixels)) < EXTREME_SPIKES, 0.8, 0.2)  # dex
        heights = error[pixels] * 10 ** (1 + rng.exponential(spread)) * rng.choice((1, 1, 1, -1), len(pixels))
        flux[pixels] += heights
        flux[pixels + 1] += heights * rng.uniform(0, 0.6, len(pixels))


def _runs(rng: np.random.Generator, size: int, count: int, longest: int) -> np.ndarray:
    """Pixels of `count` runs at random places, shape (size,), True = inside one."""
    inside = np.zeros(size, dtype=bool)
    for start, length in zip(rng.integers(size, size=count), rng.integers(1, longest + 1, size=count), strict=True):
        inside[start : start + length] = True
    return inside


__all__ = [
    "Instrument",
    "Visit",
    "calibration_error",
    "correlated_noise",
    "make_instrument",
    "noise_kernel",
    "observe",
    "typical_flux",
    "visit",
]
