"""Who the stars are: temperature, gravity, metallicity and motion, from simple populations of the Milky Way."""

from typing import NamedTuple

import numpy as np

# Share, mean and scatter of [Fe/H], scatter of the radial velocity in km/s, hottest turn-off in K: thin disc, thick
# disc, halo; Bland-Hawthorn & Gerhard 2016, ARA&A 54, 529, rounded.
POPULATIONS = (
    (0.70, -0.05, 0.20, 35.0, 11_000.0),
    (0.20, -0.50, 0.25, 60.0, 6100.0),
    (0.10, -1.50, 0.45, 140.0, 6400.0),
)

# Main sequence: Teff in K and log g; Pecaut & Mamajek 2013, ApJS 208, 9, table 5 and its on-line version.
MAIN_SEQUENCE = np.array(
    [[3100, 5.0], [3500, 4.85], [3900, 4.70], [4500, 4.62], [5300, 4.54], [5800, 4.42], [6300, 4.28], [7000, 4.25],
     [8200, 4.20], [9700, 4.15], [12_000, 4.10], [15_000, 4.05]]
)  # fmt: skip

# Red giant branch of [Fe/H] 0: log g, Teff in K; PARSEC isochrones (Bressan et al. 2012, MNRAS 427, 127), rounded.
GIANT_BRANCH = np.array(
    [[0.2, 3350], [0.7, 3700], [1.0, 3900], [1.5, 4200], [2.0, 4450], [2.5, 4680], [3.0, 4850], [3.5, 5000]]
)


class Person(NamedTuple):
    """One star: K, dex, dex; km/s for its motions."""

    teff: float
    logg: float
    feh: float
    macroturbulence: float
    rotation: float
    dispersion: float  # of the radial velocities of its population


def draw_star(rng: np.random.Generator, giants: float) -> Person:
    """A star.

    Args:
        rng: Source of randomness.
        giants: Share of giants.
    """
    kind = rng.choice(len(POPULATIONS), p=[row[0] for row in POPULATIONS])
    _, mean, scatter, dispersion, hottest = POPULATIONS[kind]
    feh = float(np.clip(rng.normal(mean, scatter), -2.5, 0.5))
    giant = rng.random() < giants
    teff, logg = _giant(rng, feh) if giant else _dwarf(rng, feh, hottest)
    return Person(teff, logg, feh, *_motion(rng, teff, giant), dispersion)


def _giant(rng: np.random.Generator, feh: float) -> tuple[float, float]:
    """On the red giant branch, or in the red clump; metal-poor giants are hotter by 250 K per dex."""
    if rng.random() < 0.3:
        return float(rng.normal(4780, 70) - 200 * feh), float(np.clip(rng.normal(2.42, 0.08), 2.1, 2.8))
    logg = 3.5 - 3.2 * rng.random() ** 1.6  # stars climb ever faster
    teff = np.interp(logg, *GIANT_BRANCH.T) - 250 * max(feh, -1.8) + np.clip(rng.normal(0, 60), -150, 150)
    return float(np.clip(teff, 3250, 5600)), float(logg)


def _dwarf(rng: np.random.Generator, feh: float, hottest: float) -> tuple[float, float]:
    """On the main sequence, or a subgiant; what is hotter than the turn-off of its population has left."""
    young = hottest > 7000
    teff = 3200 + (hottest - 3200) * (rng.beta(1.5, 3.0) if young else rng.beta(2.0, 1.3))
    logg = np.interp(teff, *MAIN_SEQUENCE.T) + np.clip(rng.normal(0, 0.06), -0.15, 0.15)
    if teff > 4900 and rng.random() < 0.25:
        logg -= rng.uniform(0.1, 0.8)
    return float(teff), float(np.clip(logg, 3.2, 5.0))


def _motion(rng: np.random.Generator, teff: float, giant: bool) -> tuple[float, float]:
    """Macroturbulence and v sin i in km/s; stars hotter than the Kraft break spin (Gray 2005, chapter 18)."""
    if giant:
        return float(rng.uniform(3, 5)), float(rng.uniform(0, 4))
    if teff < 6200:
        return float(rng.uniform(1, 3)), float(rng.uniform(0, 6))
    fastest = np.interp(teff, [6200, 7000, 8000], [12, 80, 250])
    return 4.0, float(fastest * np.sqrt(rng.random()) * rng.uniform(0.2, 1))
