"""Quasars: power law, broad and narrow lines, iron, the Lyman-alpha forest."""

import numpy as np

from .instrument import Instrument
from .line_lists import IRON_BUMPS, LYMAN_ALPHA, LYMAN_LIMIT, QUASAR_LINES
from .profiles import FWHM_PER_SIGMA, LIGHT_SPEED, gaussians
from .recipes import Recipe


def quasar(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> tuple[np.ndarray, dict[str, float]]:
    """A quasar: its flux on the vacuum axis of the instrument, shape (L,), in any unit, and its labels."""
    redshift = rng.uniform(*recipe.quasar_redshift)
    axis = instrument.axis / (1 + redshift)
    slope = rng.normal(-1.5, 0.3)  # Vanden Berk et al. 2001: -1.56
    centres, widths, broad = QUASAR_LINES.T
    velocity = np.where(broad > 0, rng.uniform(2000, 7000), rng.uniform(350, 700)) / FWHM_PER_SIGMA
    sigmas = centres * np.hypot(np.interp(centres, axis, instrument.velocity_sigma), velocity) / LIGHT_SPEED
    strengths = 10 ** rng.normal(0, 0.15, size=len(centres))
    flux = (axis / 3000) ** slope
    flux += gaussians(axis, centres, widths * strengths * (centres / 3000) ** slope, sigmas)
    bumps, bump_widths, bump_sigmas = IRON_BUMPS.T
    flux += rng.uniform(0.3, 1.5) * gaussians(axis, bumps, bump_widths * (bumps / 3000) ** slope, bump_sigmas)
    return flux * _forest(rng, axis, redshift, float(np.median(instrument.velocity_sigma))), {"redshift": redshift}


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


__all__ = ["quasar"]
