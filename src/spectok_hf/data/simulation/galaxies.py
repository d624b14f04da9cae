"""Galaxies: old and young stars, gas and dust."""

import numpy as np

from .instrument import Instrument
from .profiles import LIGHT_SPEED, gaussians
from .recipes import Recipe
from .stars import starlight


def galaxy(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> tuple[np.ndarray, dict[str, float]]:
    """A galaxy: its flux on the vacuum axis of the instrument, shape (L,), in any unit, and its labels."""
    redshift = rng.uniform(*recipe.galaxy_redshift)
    passive = redshift < 1 and rng.random() < 0.4
    young = rng.uniform(0, 0.03) if passive else rng.uniform(0.2, 0.9)
    feh = rng.uniform(-0.2, 0.3) if passive else rng.uniform(-0.8, 0.2)
    axis = instrument.axis / (1 + redshift)
    width = np.hypot(instrument.velocity_sigma, rng.uniform(120, 300) if passive else rng.uniform(60, 180))
    flux = (1 - young) * starlight(axis, rng.uniform(4500, 4900), 3.0, feh, width)
    flux += young * starlight(axis, rng.uniform(8500, 15000), 4.0, feh, width)
    centres, areas = _nebular_lines(rng, passive, young)
    resolution = np.interp(centres, axis, instrument.velocity_sigma)
    sigmas = centres * np.hypot(resolution, rng.uniform(40, 150)) / LIGHT_SPEED
    flux += gaussians(axis, centres, areas, sigmas)
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


__all__ = ["galaxy"]
