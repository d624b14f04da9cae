"""Galaxies in the sky's own units: distance, flux and magnitudes through the g, r, i and z bands of DECam."""

from functools import cache

import numpy as np

from ...models.sky_image import NANOMAGGIES
from .galaxies import (
    HUBBLE_TIME,
    LIGHT_PER_MASS,
    MATTER,
    SOLAR_CONTINUUM,
    SURVIVING,
    Galaxy,
    galaxy_light,
    light_of_stars,
)

# Total throughput over its maximum, air and detector included: pairs of wavelength in Å and throughput, linear
# between. Rounded after Flaugher et al. 2015, AJ 150, 150, figure 6.
PASSBANDS = {
    "g": ((3900, 0.0), (4000, 0.25), (4200, 0.75), (4600, 0.93), (5000, 1.0), (5420, 0.98), (5530, 0.0)),
    "r": ((5610, 0.0), (5690, 0.85), (6000, 0.97), (6400, 1.0), (7050, 0.98), (7200, 0.0)),
    "i": ((7000, 0.0), (7090, 0.90), (7500, 1.0), (8000, 0.98), (8480, 0.93), (8600, 0.0)),
    "z": ((8420, 0.0), (8530, 0.95), (8900, 1.0), (9400, 0.75), (9700, 0.72), (9950, 0.50), (10_150, 0.0)),
}
BANDS = tuple(PASSBANDS)
AXIS = np.arange(3890.0, 10_170.0, 10.0)  # Å, as observed: enough for bands
AXIS_RESOLUTION = np.full(len(AXIS), 800.0)  # km/s, so that lines are sampled

ZERO_FLUX = 3.631e-20  # erg/s/cm2/Hz, of AB magnitude 0
FLUX_UNIT = 1e-17  # erg/s/cm2/Å
MEGAPARSEC = 3.0857e24  # cm
MEGAPARSECS = 306.60  # that light goes in 1 Gyr
ARCSEC = np.pi / 180 / 3600
NODES, WEIGHTS = np.polynomial.legendre.leggauss(12)


def distance(redshift: float) -> float:
    """Distance to a galaxy as it is today, in Mpc, in a flat universe.

    Args:
        redshift: Redshift, below 5.
    """
    places = redshift * (NODES + 1) / 2
    expansion = np.sqrt(MATTER * (1 + places) ** 3 + 1 - MATTER)
    return float(HUBBLE_TIME * MEGAPARSECS * redshift / 2 * np.sum(WEIGHTS / expansion))


def kiloparsec(redshift: float) -> float:
    """Angle under which 1 kpc is seen, in arcsec.

    Args:
        redshift: Redshift, greater than 0.
    """
    return (1 + redshift) / (1e3 * distance(redshift) * ARCSEC)


def flux_scale(drawn: Galaxy) -> float:
    """What the unit of `galaxy_light` is in 1e-17 erg/s/cm2/Å.

    Args:
        drawn: The galaxy.
    """
    formed = 10**drawn.mass / SURVIVING
    luminosity = SOLAR_CONTINUUM * formed * (LIGHT_PER_MASS * drawn.history.masses).sum()
    sphere = 4 * np.pi * (distance(drawn.redshift) * (1 + drawn.redshift) * MEGAPARSEC) ** 2
    return float(luminosity / sphere / (1 + drawn.redshift) / FLUX_UNIT)


def galaxy_flux(drawn: Galaxy) -> np.ndarray:
    """Flux of a galaxy in nanomaggies, shape (4,), by band of BANDS.

    Args:
        drawn: The galaxy.
    """
    return flux_scale(drawn) * (_weights() @ galaxy_light(drawn, AXIS, AXIS_RESOLUTION))


def stars_flux(drawn: Galaxy, masses: np.ndarray) -> np.ndarray:
    """Flux of a part of the stars of a galaxy in nanomaggies, shape (4,), by band of BANDS.

    Args:
        drawn: The galaxy.
        masses: Mass of that part by bin of AGE_EDGES, over all mass formed, shape (10,).
    """
    return flux_scale(drawn) * (_weights() @ light_of_stars(drawn, AXIS, AXIS_RESOLUTION, masses))


@cache
def _weights() -> np.ndarray:
    """By what each pixel of AXIS adds to the nanomaggies of each band, per 1e-17 erg/s/cm2/Å, shape (4, L)."""
    light_speed = 2.99792458e18  # Å/s
    throughput = np.array([np.interp(AXIS, *np.transpose(nodes)) for nodes in PASSBANDS.values()])
    photons = throughput * AXIS / light_speed  # per erg
    return photons / (throughput / AXIS).sum(axis=1, keepdims=True) * FLUX_UNIT / ZERO_FLUX * 1e9


def magnitude(flux: np.ndarray) -> np.ndarray:
    """AB magnitude; not a number where there is no positive flux.

    Args:
        flux: Flux in nanomaggies, of any shape.
    """
    return NANOMAGGIES - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))


__all__ = ["BANDS", "PASSBANDS", "distance", "flux_scale", "galaxy_flux", "kiloparsec", "magnitude", "stars_flux"]
