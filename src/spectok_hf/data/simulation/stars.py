"""Stars: who they are, and their light."""

import numpy as np

from .instrument import Instrument
from .line_lists import HYDROGEN_LINES, METALS
from .profiles import LIGHT_SPEED, gaussians
from .recipes import Recipe

SOLAR_TEFF, SOLAR_LOGG = 5772.0, 4.44  # K, dex: IAU 2015 resolution B3


def star(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> tuple[np.ndarray, dict[str, float]]:
    """A star: its flux on the vacuum axis of the instrument, shape (L,), in any unit, and its labels."""
    halo = rng.random() < 0.12
    feh = np.clip(rng.normal(-1.5, 0.5) if halo else rng.normal(-0.2, 0.25), -2.5, 0.5)
    teff, logg, rotation = _draw_giant(rng) if rng.random() < recipe.giants else _draw_dwarf(rng)
    rv = 0.0 if instrument.rest_frame else rng.normal(0, 150 if halo else 40)
    width = np.hypot(instrument.velocity_sigma, rotation)
    flux = starlight(instrument.axis / (1 + rv / LIGHT_SPEED), teff, logg, feh, width)
    return flux, {"teff": teff, "logg": logg, "feh": feh, "rv": rv, "redshift": rv / LIGHT_SPEED}


def _draw_giant(rng: np.random.Generator) -> tuple[float, float, float]:
    teff = rng.uniform(4000, 5300)
    return teff, 0.6 + 2.8 * (teff - 4000) / 1300 + np.clip(rng.normal(0, 0.2), -0.6, 0.6), rng.uniform(3, 6)


def _draw_dwarf(rng: np.random.Generator) -> tuple[float, float, float]:
    """Temperature (K), log g and the velocity that broadens lines (km/s); stars hotter than the Kraft break spin."""
    teff = 4000 + 7000 * rng.beta(1.2, 2.6)
    logg = 4.65 - 1.2e-4 * (teff - 4000) + np.clip(rng.normal(0, 0.1), -0.3, 0.3)
    return teff, logg, rng.uniform(5, 80) if teff > 6500 else rng.uniform(2, 5)


def starlight(axis: np.ndarray, teff: float, logg: float, feh: float, width: float | np.ndarray) -> np.ndarray:
    """Flux of a star, shape (L,), its continuum 1 at 5500 Å.

    Args:
        axis: Vacuum wavelength in the star's frame in Å, shape (L,), ascending.
        teff: Effective temperature in K.
        logg: Surface gravity, log10 of cm/s².
        feh: Metallicity in dex.
        width: Standard deviation of what broadens the lines, instrument and motion, in km/s; a number,
            or shape (L,) where it changes along the axis.
    """
    depth = _metal_depth(axis, teff, logg, feh, width) + _hydrogen_depth(axis, teff, logg, width)
    return _planck(axis, teff) * np.exp(-depth - _continuum_depth(axis, teff, feh))


def _at(axis: np.ndarray, width: float | np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.interp(centres, axis, np.broadcast_to(width, axis.shape))


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


def _metal_depth(axis: np.ndarray, teff: float, logg: float, feh: float, width: float | np.ndarray) -> np.ndarray:
    table = METALS[:, (METALS[0] > axis[0] - 50) & (METALS[0] < axis[-1] + 50)]
    centres, solar, temperature, gravity, metals = table
    coolness = 5040 / teff - 5040 / SOLAR_TEFF
    exponent = temperature * coolness * (0.35 if coolness > 0 else 1.0) + gravity * (logg - SOLAR_LOGG) + metals * feh
    areas = solar * 10**exponent
    # A third of its equivalent width is added to a line's sigma: what saturates grows wings and not depth.
    return gaussians(axis, centres, areas, np.hypot(centres * _at(axis, width, centres) / LIGHT_SPEED, areas / 3))


def _hydrogen_depth(axis: np.ndarray, teff: float, logg: float, width: float | np.ndarray) -> np.ndarray:
    """Optical depth of hydrogen lines: the Stark wings, (wavelength offset)^-5/2, rounded off in the core."""
    strength = _balmer_strength(teff)
    depth = np.zeros(len(axis))
    for centre, weight in HYDROGEN_LINES:
        own = (0.3 + 6.4 * strength**1.5 * 10 ** (0.15 * (logg - 4))) * centre / 4500
        sigma = np.hypot(own, 1.2 * centre * _at(axis, width, centre) / LIGHT_SPEED)
        low, high = np.searchsorted(axis, [centre - 40 * sigma, centre + 40 * sigma])
        if high > low:
            profile = (1 + ((axis[low:high] - centre) / sigma) ** 2) ** -1.25
            depth[low:high] += 18 * strength**1.4 * weight / (2.4 * sigma) * profile  # 2.4 = area of the profile
    return depth


__all__ = ["star", "starlight"]
