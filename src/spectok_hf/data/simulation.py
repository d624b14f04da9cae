"""`simulate_survey`: labelled synthetic spectra on the real grids of the surveys, with their noise-free truth.

Plain but right in kind: lines are where they belong, grow and fade as they should, and are as wide as the instrument
makes them; strengths are rules of thumb, not radiative transfer. All physics happens on the vacuum axis; an axis in
air is converted once, and its pixels stay what they are.
"""

import operator
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from ..models.wavelength import air_to_vacuum
from .line_lists import (
    HYDROGEN_LINES,
    IRON_BUMPS,
    LYMAN_ALPHA,
    LYMAN_LIMIT,
    METALS,
    QUASAR_LINES,
    SKY_LINES,
    SKY_LINES_POWER,
)
from .surveys import SURVEYS, Arm, Survey

LIGHT_SPEED = 299_792.458  # km/s
SOLAR_TEFF, SOLAR_LOGG = 5772.0, 4.44  # K, dex: IAU 2015 resolution B3
FWHM_PER_SIGMA = 2.3548
SKY_LIMITED_SNR = 10.0  # fainter than this, the sky is brighter than the object: a rule of thumb for fibres
BRIGHT_SNR = 20.0  # the noise per pixel starts to grow with the object's own photons


@dataclass(frozen=True)
class _Recipe:
    """What a survey observes.

    Args:
        mix: Share of each class.
        snr: Lowest and highest signal-to-noise ratio per pixel, drawn uniformly in its logarithm.
        noise: Standard deviation of the flux of a faint object, in the survey's unit.
        edge: Throughput at the ends of an arm, relative to its middle.
        giants: Share of giants among the stars.
        galaxy_redshift: Lowest and highest redshift of galaxies.
        quasar_redshift: Lowest and highest redshift of quasars.
        tilt: Size of the smooth calibration error of an object, in natural logarithms of flux.
        calibrated: Whether the throughput was divided out of the flux (it is left in counts).
    """

    mix: dict[str, float]
    snr: tuple[float, float]
    noise: float
    edge: float
    giants: float = 0.3
    galaxy_redshift: tuple[float, float] = (0.01, 0.5)
    quasar_redshift: tuple[float, float] = (0.1, 4.0)
    tilt: float = 0.05
    calibrated: bool = True


# S/N and noise as met in real spectra of each survey: S/N 5-40 in SDSS, 1-14 in BOSS, 1-16 in DESI, 6-150 in GALAH.
_RECIPES = {
    "sdss": _Recipe({"GALAXY": 0.5, "QSO": 0.2, "STAR": 0.3}, (3, 60), noise=1.0, edge=0.4),
    "boss": _Recipe({"GALAXY": 0.5, "QSO": 0.3, "STAR": 0.2}, (1, 40), noise=0.35, edge=0.15,
        galaxy_redshift=(0.15, 0.8), quasar_redshift=(0.5, 3.8)),
    "desi": _Recipe({"GALAXY": 0.55, "QSO": 0.2, "STAR": 0.25}, (0.5, 60), noise=0.2, edge=0.15,
        galaxy_redshift=(0.02, 1.5), quasar_redshift=(0.3, 3.6)),
    "galah": _Recipe({"STAR": 1.0}, (8, 150), noise=20.0, edge=0.5, giants=0.4, tilt=0.15, calibrated=False),
    "apogee": _Recipe({"STAR": 1.0}, (20, 300), noise=1.0, edge=0.5, giants=0.8),
    "lamost": _Recipe({"GALAXY": 0.06, "QSO": 0.04, "STAR": 0.9}, (5, 120), noise=10.0, edge=0.15, tilt=0.2,
        galaxy_redshift=(0.01, 0.25), quasar_redshift=(0.1, 3.0)),
}  # fmt: skip


def simulate_survey(
    survey: str, n: int, seed: int = 0, *, snr: float | tuple[float, float] | None = None
) -> list[Spectrum]:
    """Labelled synthetic spectra on the real grid of a survey.

    Spectrum number i depends on the survey, the seed and i alone, so that a shorter list is the beginning of a longer
    one. Flux and error are as honest as they can be: the error is the true standard deviation of Gaussian,
    uncorrelated noise. Bad pixels (cosmic rays and bad columns with `ivar` 0, flagged pixels whose `ivar` is finite)
    hold garbage. Labels are `class`, `redshift` and `snr`, and for stars `teff` (K), `logg`, `feh` (dex), `rv`
    (km/s); `rv` is the velocity that the spectrum shows, 0 in a survey that ships rest-frame spectra.

    Args:
        survey: "sdss", "boss", "desi", "galah", "apogee" or "lamost".
        n: Number of spectra.
        seed: Non-negative integer.
        snr: Median signal-to-noise ratio per good pixel, or its lowest and highest value, drawn uniformly in the
            logarithm. It changes the noise and leaves the truth as it is.

    Returns:
        The spectra, each with its noise-free flux in `truth`.

    Raises:
        ValueError: If the survey is unknown, `n` or `seed` is not a non-negative integer, or `snr` is not positive.
    """
    check_choice("survey", survey, tuple(_RECIPES))
    n, seed = _as_count("n", n), _as_count("seed", seed)
    snr_range = None if snr is None else _as_snr_range(snr)
    return [_simulate(survey, seed, index, snr_range) for index in range(n)]


def _as_count(name: str, value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"{name} must be a non-negative integer, found {value!r}")
    return count


def _as_snr_range(snr: Any) -> tuple[float, float]:
    bounds = np.atleast_1d(np.asarray(snr, dtype=np.float64))
    if bounds.shape not in ((1,), (2,)) or not np.isfinite(bounds).all() or not 0 < bounds[0] <= bounds[-1]:
        raise ValueError(f"snr must be a positive number, or two in ascending order, found {snr!r}")
    return float(bounds[0]), float(bounds[-1])


def _simulate(survey: str, seed: int, index: int, snr_range: tuple[float, float] | None) -> Spectrum:
    instrument, recipe, facts = _instrument(survey), _RECIPES[survey], SURVEYS[survey]
    sequence = np.random.SeedSequence([zlib.crc32(survey.encode()), seed], spawn_key=(index,))
    source, noise = (np.random.default_rng(child) for child in sequence.spawn(2))
    kind = str(source.choice(list(recipe.mix), p=list(recipe.mix.values())))
    light, labels = _SOURCES[kind](source, instrument, recipe)
    light = light * _tilt(source, instrument, recipe)
    own_snr = _log_uniform(source, *recipe.snr)
    light *= _typical_flux(source, recipe, own_snr) / np.median(light)
    snr = own_snr if snr_range is None else _log_uniform(noise, *snr_range)
    return Spectrum(
        **_observe(noise, light, instrument, recipe, snr),
        wavelength=instrument.wavelength,
        survey=survey,
        object_id=f"sim-{survey}-{seed}-{index:05d}",
        medium=facts.medium,
        frame=facts.frame,
        flux_unit=facts.flux_unit,
        labels={"class": kind} | {name: float(value) for name, value in labels.items()} | {"snr": snr},
    )


# The instrument


class _Instrument(NamedTuple):
    wavelength: np.ndarray  # (L,), Å, in the survey's medium
    axis: np.ndarray  # (L,), Å, the same pixels in vacuum
    position: np.ndarray  # (L,), -1 to 1 from the first pixel to the last, in log wavelength
    throughput: np.ndarray  # (L,), 1 in the middle of an arm
    sky: np.ndarray  # (L,), brightness over that of the sky's continuum
    velocity_sigma: float  # km/s, of the line spread function, the same everywhere
    rest_frame: bool


@cache
def _instrument(survey: str) -> _Instrument:
    facts, edge = SURVEYS[survey], _RECIPES[survey].edge
    wavelength = np.concatenate([_arm_wavelength(arm) for arm in facts.arms])
    axis = air_to_vacuum(wavelength) if facts.medium == "air" else wavelength
    logarithm = np.log(wavelength)
    velocity_sigma = LIGHT_SPEED / facts.resolving_power / FWHM_PER_SIGMA
    centres, peaks = SKY_LINES.T
    peaks = peaks * facts.resolving_power / SKY_LINES_POWER
    sigmas = centres * velocity_sigma / LIGHT_SPEED
    return _Instrument(
        wavelength,
        axis,
        position=2 * (logarithm - logarithm[0]) / (logarithm[-1] - logarithm[0]) - 1,
        throughput=_throughput(wavelength, facts, edge),
        sky=1 + _gaussians(axis, centres, peaks * np.sqrt(2 * np.pi) * sigmas, sigmas),
        velocity_sigma=velocity_sigma,
        rest_frame=facts.frame == "rest",
    )


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


def _tilt(rng: np.random.Generator, instrument: _Instrument, recipe: _Recipe) -> np.ndarray:
    """Smooth calibration error of one object, shape (L,), near 1."""
    coefficients = rng.normal(size=4) * recipe.tilt / np.array([np.inf, 1, 2, 3])
    return np.exp(np.polynomial.chebyshev.chebval(instrument.position, coefficients))


def _typical_flux(rng: np.random.Generator, recipe: _Recipe, snr: float) -> float:
    return recipe.noise * snr * np.sqrt(1 + snr / BRIGHT_SNR) * 10 ** rng.normal(0, 0.15)


def _observe(
    rng: np.random.Generator, light: np.ndarray, instrument: _Instrument, recipe: _Recipe, snr: float
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


# Light: each function draws an object and returns its flux on the instrument's vacuum axis, with its labels


def _star(rng: np.random.Generator, instrument: _Instrument, recipe: _Recipe) -> tuple[np.ndarray, dict[str, float]]:
    halo = rng.random() < 0.12
    feh = np.clip(rng.normal(-1.5, 0.5) if halo else rng.normal(-0.2, 0.25), -2.5, 0.5)
    teff, logg, rotation = _draw_giant(rng) if rng.random() < recipe.giants else _draw_dwarf(rng)
    rv = 0.0 if instrument.rest_frame else rng.normal(0, 150 if halo else 40)
    width = np.hypot(instrument.velocity_sigma, rotation)
    flux = _starlight(instrument.axis / (1 + rv / LIGHT_SPEED), teff, logg, feh, width)
    return flux, {"teff": teff, "logg": logg, "feh": feh, "rv": rv, "redshift": rv / LIGHT_SPEED}


def _draw_giant(rng: np.random.Generator) -> tuple[float, float, float]:
    teff = rng.uniform(4000, 5300)
    return teff, 0.6 + 2.8 * (teff - 4000) / 1300 + np.clip(rng.normal(0, 0.2), -0.6, 0.6), rng.uniform(3, 6)


def _draw_dwarf(rng: np.random.Generator) -> tuple[float, float, float]:
    """Temperature (K), log g and the velocity that broadens lines (km/s); stars hotter than the Kraft break spin."""
    teff = 4000 + 7000 * rng.beta(1.2, 2.6)
    logg = 4.65 - 1.2e-4 * (teff - 4000) + np.clip(rng.normal(0, 0.1), -0.3, 0.3)
    return teff, logg, rng.uniform(5, 80) if teff > 6500 else rng.uniform(2, 5)


def _galaxy(rng: np.random.Generator, instrument: _Instrument, recipe: _Recipe) -> tuple[np.ndarray, dict[str, float]]:
    redshift = rng.uniform(*recipe.galaxy_redshift)
    passive = redshift < 1 and rng.random() < 0.4
    young = rng.uniform(0, 0.03) if passive else rng.uniform(0.2, 0.9)
    feh = rng.uniform(-0.2, 0.3) if passive else rng.uniform(-0.8, 0.2)
    axis = instrument.axis / (1 + redshift)
    width = np.hypot(instrument.velocity_sigma, rng.uniform(120, 300) if passive else rng.uniform(60, 180))
    flux = (1 - young) * _starlight(axis, rng.uniform(4500, 4900), 3.0, feh, width)
    flux += young * _starlight(axis, rng.uniform(8500, 15000), 4.0, feh, width)
    centres, areas = _nebular_lines(rng, passive, young)
    sigmas = centres * np.hypot(instrument.velocity_sigma, rng.uniform(40, 150)) / LIGHT_SPEED
    flux += _gaussians(axis, centres, areas, sigmas)
    extinction = rng.uniform(0, 0.2 if passive else 0.8)  # magnitudes at 5500 Å
    flux *= 10 ** (-0.4 * extinction * (axis / 5500) ** -0.7)  # Charlot & Fall 2000, ApJ 539, 718
    return flux, {"redshift": redshift}


def _nebular_lines(rng: np.random.Generator, passive: bool, young: float) -> tuple[np.ndarray, np.ndarray]:
    """Emission lines: vacuum wavelengths in Å (NIST ASD), and fluxes in units of the continuum at 5500 Å times Å.

    Balmer decrement: case B at 10^4 K (Osterbrock & Ferland 2006, table 4.4). [OIII]/H beta follows [NII]/H alpha
    along the star-forming sequence (Kewley et al. 2013, ApJ 774, L10); passive galaxies have LINER ratios.
    """
    log_nitrogen = rng.normal(0, 0.1) if passive else rng.uniform(-1.6, -0.4)
    log_oxygen = 0.3 if passive else 0.61 / (log_nitrogen + 0.08) + 1.1
    h_alpha = 10 ** (rng.normal(-0.3, 0.4) if passive else rng.normal(0.7 + 1.1 * young, 0.25))
    nitrogen, oxygen = h_alpha * 10**log_nitrogen, h_alpha / 2.86 * 10 ** (log_oxygen + rng.normal(0, 0.1))
    oxygen_2, sulphur = h_alpha * 10 ** rng.normal(0.0, 0.15), h_alpha * 10 ** rng.normal(-0.5, 0.1)
    lines = [
        (6564.61, h_alpha), (4862.68, h_alpha / 2.86), (4341.68, h_alpha / 6.09), (4102.89, h_alpha / 11.0),
        (6549.86, nitrogen / 3), (6585.27, nitrogen), (4960.30, oxygen / 3), (5008.24, oxygen),
        (3727.09, oxygen_2 * 0.43), (3729.88, oxygen_2 * 0.57), (6718.29, sulphur * 0.57), (6732.67, sulphur * 0.43),
        (3869.86, oxygen * 0.1), (6302.05, sulphur * 0.12),
    ]  # fmt: skip
    centres, areas = np.array(lines).T
    return centres, areas


def _quasar(rng: np.random.Generator, instrument: _Instrument, recipe: _Recipe) -> tuple[np.ndarray, dict[str, float]]:
    redshift = rng.uniform(*recipe.quasar_redshift)
    axis = instrument.axis / (1 + redshift)
    slope = rng.normal(-1.5, 0.3)  # Vanden Berk et al. 2001: -1.56
    centres, widths, broad = QUASAR_LINES.T
    velocity = np.where(broad > 0, rng.uniform(2000, 7000), rng.uniform(350, 700)) / FWHM_PER_SIGMA
    sigmas = centres * np.hypot(instrument.velocity_sigma, velocity) / LIGHT_SPEED
    strengths = 10 ** rng.normal(0, 0.15, size=len(centres))
    flux = (axis / 3000) ** slope
    flux += _gaussians(axis, centres, widths * strengths * (centres / 3000) ** slope, sigmas)
    bumps, bump_widths, bump_sigmas = IRON_BUMPS.T
    flux += rng.uniform(0.3, 1.5) * _gaussians(axis, bumps, bump_widths * (bumps / 3000) ** slope, bump_sigmas)
    return flux * _forest(rng, axis, redshift, instrument.velocity_sigma), {"redshift": redshift}


def _forest(rng: np.random.Generator, axis: np.ndarray, redshift: float, velocity_sigma: float) -> np.ndarray:
    """Share of light that the Lyman-alpha forest lets through, shape (L,).

    A lognormal optical depth, independent per resolution element, with the mean of Faucher-Giguere et al. 2008, ApJ
    681, 831: 0.0018 (1 + z)^3.92; and a wall at the Lyman limit. Crude: no metals, no damped systems.
    """
    transmission = np.ones(len(axis))
    blue = int(np.searchsorted(axis, LYMAN_ALPHA))
    step = FWHM_PER_SIGMA * velocity_sigma / LIGHT_SPEED
    offset = np.log(axis[:blue] / axis[0]) / step
    field = rng.normal(size=int(offset[-1]) + 2 if blue else 0)
    if blue:
        mean = 0.0018 * (axis[:blue] * (1 + redshift) / LYMAN_ALPHA) ** 3.92
        depth = mean * np.exp(1.2 * np.interp(offset, np.arange(len(field)), field) - 0.72)  # 0.72 = 1.2² / 2
        transmission[:blue] = np.exp(-depth) * np.where(axis[:blue] < LYMAN_LIMIT, 0.1, 1.0)
    return transmission


_SOURCES = {"STAR": _star, "GALAXY": _galaxy, "QSO": _quasar}


# Starlight


def _starlight(axis: np.ndarray, teff: float, logg: float, feh: float, width: float) -> np.ndarray:
    """Flux of a star, shape (L,), its continuum 1 at 5500 Å.

    Args:
        axis: Vacuum wavelength in the star's frame in Å, shape (L,), ascending.
        teff: Effective temperature in K.
        logg: Surface gravity, log10 of cm/s².
        feh: Metallicity in dex.
        width: Standard deviation of what broadens the lines, instrument and motion, in km/s.
    """
    depth = _metal_depth(axis, teff, logg, feh, width) + _hydrogen_depth(axis, teff, logg, width)
    return _planck(axis, teff) * np.exp(-depth - _continuum_depth(axis, teff, feh))


def _planck(axis: np.ndarray, teff: float) -> np.ndarray:
    exponent = 1.438777e8 / teff  # Å: h c / (k Teff), CODATA 2018
    return (5500 / axis) ** 5 * np.expm1(exponent / 5500) / np.expm1(exponent / axis)


def _continuum_depth(axis: np.ndarray, teff: float, feh: float) -> np.ndarray:
    """Crowded metal lines blueward of 4000 Å in cool stars, and the Balmer jump in hot ones; optical depth."""
    metals = 0.45 * 10 ** (0.25 * feh) * np.clip((6800 - teff) / 2000, 0, 1.3)
    crowding = metals * (1 + np.maximum(4000 - axis, 0) / 800)
    return crowding * _below(axis, 4000, 50) + _balmer_strength(teff) * _below(axis, 3690, 25)


def _below(axis: np.ndarray, edge: float, softness: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip((axis - edge) / softness, -50, 50)))


def _balmer_strength(teff: float) -> float:
    """1 at its maximum near 9000 K (A0), .32 in the Sun, a trace in K stars."""
    return float(np.exp(-0.5 * (np.log10(teff / 9000) / 0.12) ** 2)) + 0.04


def _metal_depth(axis: np.ndarray, teff: float, logg: float, feh: float, width: float) -> np.ndarray:
    table = METALS[:, (METALS[0] > axis[0] - 50) & (METALS[0] < axis[-1] + 50)]
    centres, solar, temperature, gravity, metals = table
    coolness = 5040 / teff - 5040 / SOLAR_TEFF
    exponent = temperature * coolness * (0.35 if coolness > 0 else 1.0) + gravity * (logg - SOLAR_LOGG) + metals * feh
    areas = solar * 10**exponent
    # A third of its equivalent width is added to a line's sigma: what saturates grows wings and not depth.
    return _gaussians(axis, centres, areas, np.hypot(centres * width / LIGHT_SPEED, areas / 3))


def _hydrogen_depth(axis: np.ndarray, teff: float, logg: float, width: float) -> np.ndarray:
    """Optical depth of hydrogen lines: the Stark wings, (wavelength offset)^-5/2, rounded off in the core."""
    strength = _balmer_strength(teff)
    depth = np.zeros(len(axis))
    for centre, weight in HYDROGEN_LINES:
        own = (0.3 + 6.4 * strength**1.5 * 10 ** (0.15 * (logg - 4))) * centre / 4500
        sigma = np.hypot(own, 1.2 * centre * width / LIGHT_SPEED)
        low, high = np.searchsorted(axis, [centre - 40 * sigma, centre + 40 * sigma])
        if high > low:
            profile = (1 + ((axis[low:high] - centre) / sigma) ** 2) ** -1.25
            depth[low:high] += 18 * strength**1.4 * weight / (2.4 * sigma) * profile  # 2.4 = area of the profile
    return depth


def _gaussians(axis: np.ndarray, centres: np.ndarray, areas: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Sum of Gaussian lines, shape (L,), each evaluated within 5 sigma only: that is what keeps a spectrum cheap.

    Args:
        axis: Wavelength in Å, shape (L,), ascending; gaps are allowed.
        centres: Wavelength of each line in Å, shape (n,).
        areas: Integral of each line over wavelength, shape (n,).
        sigmas: Standard deviation of each line in Å, shape (n,).
    """
    total = np.zeros(len(axis))
    bounds = np.searchsorted(axis, [centres - 5 * sigmas, centres + 5 * sigmas]).T
    peaks = areas / (np.sqrt(2 * np.pi) * sigmas)
    for (low, high), centre, peak, sigma in zip(bounds, centres, peaks, sigmas, strict=True):
        if high > low:
            total[low:high] += peak * np.exp(-0.5 * ((axis[low:high] - centre) / sigma) ** 2)
    return total


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


__all__ = ["simulate_survey"]
