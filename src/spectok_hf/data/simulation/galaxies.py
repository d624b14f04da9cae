"""Galaxies: stars of all ages, gas and dust.

The light of a galaxy is the sum of stellar populations, each a handful of stars, weighted by a history of star
formation; the same history sets its age, its specific rate of star formation and the strength of its emission lines.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from .instrument import Instrument
from .nebular_lines import BALMER_LINES, INTERSTELLAR_LINES, NEBULAR_LINES
from .profiles import LIGHT_SPEED, gaussians, log_uniform
from .recipes import Recipe
from .stars import starlight


class Target(NamedTuple):
    """What a survey aims at."""

    redshift: tuple[float, float]
    weight: float  # share of the galaxies of a survey that covers the whole range
    passive: float  # share of galaxies that no longer form stars, at 10^10.6 solar masses where it grows with mass
    mass: float  # typical log10 of the stellar mass, at redshift 0.1 where it grows
    scatter: float
    limited: bool = False  # by brightness: mass grows with redshift, and the passive share with mass


# After Strauss et al. 2002, AJ 124, 1810; Dawson et al. 2013, AJ 145, 10; Hahn et al. 2023, AJ 165, 253; Zhou et al.
# 2023, AJ 165, 58; Raichoor et al. 2023, AJ 165, 126; shares by eye.
TARGETS = (
    Target((0.01, 0.40), weight=1.0, passive=0.35, mass=10.4, scatter=0.40, limited=True),
    Target((0.15, 1.05), weight=0.7, passive=0.92, mass=11.3, scatter=0.20),  # luminous red galaxies
    Target((0.60, 1.65), weight=0.9, passive=0.02, mass=10.1, scatter=0.35),  # emission-line galaxies
)

# The stars that make up populations: Teff in K, log g. Dwarfs and turn-off stars, then giants, each from cool to hot.
DWARFS = np.array(
    [[4800, 4.6], [5400, 4.5], [6000, 4.2], [6800, 4.2], [7700, 4.1], [9000, 4.0], [11_000, 3.9], [14_500, 3.9],
     [20_000, 3.9], [30_000, 4.0]]
)  # fmt: skip
GIANTS = np.array([[3400, 0.4], [3700, 0.7], [4100, 1.2], [4600, 2.2], [5100, 2.8]])
METALLICITIES = np.array([-1.2, -0.4, 0.3])  # dex; between them populations are interpolated

# Stellar populations, one per row: age in Gyr; temperature in K of the stars at the turn-off and their share of the
# light at 5500 Å; the same of dwarfs below it, and of giants; light at 5500 Å over mass formed, Sun = 1. Rounded after
# the isochrones of Bressan et al. 2012, MNRAS 427, 127, and the models of Bruzual & Charlot 2003, MNRAS 344, 1000.
POPULATIONS = np.array(
    [
        [0.003, 30_000, 0.80, 20_000, 0.18, 4600, 0.02, 45.0],
        [0.010, 25_000, 0.65, 15_000, 0.20, 4000, 0.15, 35.0],
        [0.030, 18_500, 0.60, 11_500, 0.25, 4100, 0.15, 18.0],
        [0.075, 14_500, 0.60, 9800, 0.27, 4400, 0.13, 9.5],
        [0.18, 11_800, 0.56, 8500, 0.29, 4800, 0.15, 5.5],
        [0.45, 9300, 0.53, 7400, 0.28, 5000, 0.19, 3.0],
        [1.0, 7800, 0.46, 6500, 0.24, 4850, 0.30, 1.5],
        [2.2, 6600, 0.38, 5700, 0.20, 4600, 0.42, 0.75],
        [4.7, 5800, 0.30, 5000, 0.20, 4350, 0.50, 0.40],
        [10.0, 5500, 0.24, 4700, 0.22, 4250, 0.54, 0.22],
    ]
)
AGES, LIGHT_PER_MASS = POPULATIONS[:, 0], POPULATIONS[:, -1]
AGE_EDGES = np.array([0.0, 0.006, 0.018, 0.05, 0.1, 0.3, 0.7, 1.5, 3.2, 7.0, 14.0])  # Gyr
RECENT = AGES < 0.1  # the populations that count as star formation going on
IONISING = AGES < 0.02  # those with stars hot enough to ionise gas
HOT_OLD_SHARE = 0.0015  # of light at 5500 Å: horizontal-branch and post-AGB stars (O'Connell 1999, ARA&A 37, 603)
COOLEST_GIANTS_SHARES = (0.03, 0.06)  # of light at 5500 Å in populations older than 1 Gyr: the tip of the giant branch
# Depth by which the light of old stars, as they are simulated, is too bright, in the blue above all, or too faint (in
# Mg b): Å and optical depth, after four real elliptical galaxies of SDSS; it grows with age and metals.
OLD_BLANKETING = np.array(
    [
        [3300, 0.30], [3700, 0.28], [3960, 0.26], [4010, 0.16], [4078, 0.15], [4090, 0.23], [4115, 0.23],
        [4128, 0.14], [4200, 0.14], [4450, 0.06], [5000, 0.0], [5155, 0.0], [5170, -0.02], [5185, -0.02], [5200, 0.0],
    ]
).T  # fmt: skip
OLD_SODIUM = 0.5  # strength of Na D in old galaxies over star-forming ones, for gas and sodium-rich stars; by eye
SURVIVING = 0.6  # share of the mass formed that old stars still hold: Bruzual & Charlot 2003, Chabrier's IMF

SOLAR_CONTINUUM = 5.2e29  # erg/s/Å, luminosity of the Sun at 5500 Å: Willmer 2018, ApJS 236, 47
H_ALPHA_PER_RATE = 10**41.27  # erg/s per solar mass a year: Kennicutt & Evans 2012, ARA&A 50, 531
HUBBLE_TIME, MATTER = 14.45, 0.311  # Gyr, and share of the critical density: Planck Collaboration 2020, A&A 641, A6
STARS_OVER_GAS = 0.44  # E(B - V) of the stars over that of the gas: Calzetti et al. 2000, ApJ 533, 682

# The rest-frame grid of the templates is uniform in velocity, so that one convolution broadens all of it.
LOG_STEP = 1e-4  # in ln of the wavelength: 30 km/s
GRID = np.exp(np.arange(np.log(1150.0), np.log(13_000.0), LOG_STEP))
TEMPLATE_SIGMA = 35.0  # km/s, of the templates

# Extinction of the gas over that at 5500 Å: Cardelli, Clayton & Mathis 1989, ApJ 345, 245, R(V) = 3.1.
GAS_EXTINCTION = np.array(
    [
        [1200, 3.34], [1500, 2.66], [1800, 2.52], [2175, 3.06], [2500, 2.30], [3000, 1.84], [3650, 1.58],
        [4400, 1.33], [5500, 1.0], [7000, 0.75], [9000, 0.49], [12_500, 0.28],
    ]
).T  # fmt: skip
TOTAL_TO_SELECTIVE = 3.1  # R(V)
BALMER_EDGE = 3646.0  # Å

# Ratios of active nuclei, log10, to H beta: Kewley et al. 2006, MNRAS 372, 961; He II and [NeV]: Richardson et al.
# 2014, MNRAS 437, 2376.
SEYFERT = {
    "[OIII]": 0.85, "[NII]": 0.46, "[OII]": 0.45, "[SII]": 0.25, "[OI]": -0.4, "[SIII]": 0.0, "HeI": -0.9,
    "HeII": -0.65, "[ArIII]": -0.9, "[NeV]": -0.4, "CIII]": 0.0,
}  # fmt: skip
LINER = {
    "[OIII]": 0.25, "[NII]": 0.55, "[OII]": 0.70, "[SII]": 0.45, "[OI]": -0.1, "[SIII]": -0.3, "HeI": -1.0,
    "HeII": -1.5, "[ArIII]": -1.5, "[NeV]": -2.0, "CIII]": -0.5,
}  # fmt: skip


class History(NamedTuple):
    """How a galaxy came to be."""

    masses: np.ndarray  # (10,), share of the mass that formed in each bin of AGE_EDGES
    age: float  # Gyr, mean over the mass
    log_ssfr: float  # log10 of the star formation of the last 100 Myr, per year and mass of surviving stars


class Galaxy(NamedTuple):
    """One galaxy, drawn: what its light is made of, on any axis."""

    redshift: float
    mass: float  # log10 of the stellar mass in solar masses
    passive: bool  # whether stars no longer form
    history: History
    metallicity: float  # of the stars, log10 over that of the Sun
    reddening: float  # E(B - V) of the gas
    dispersion: float  # km/s, of the stars
    outflow: float  # km/s, of the gas between the stars
    absorption: float  # strength of that gas's lines, before the galaxy's sort is counted in
    gas: list[tuple[dict[str, float], float, float]]  # as of `_draw_gas`


def galaxy(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> tuple[np.ndarray, dict[str, float]]:
    """A galaxy: its flux on the vacuum axis of the instrument, shape (L,), in any unit, and its labels.

    Labels are `redshift`; `log_stellar_mass` in solar masses; `age` in Gyr, the mean over the mass; `log_ssfr`, log10
    of the star formation rate per year and stellar mass; `metallicity` of the stars, log10 over that of the Sun.
    """
    drawn = draw_galaxy(rng, recipe)
    return galaxy_light(drawn, instrument.axis, instrument.velocity_sigma), galaxy_labels(drawn)


def draw_galaxy(rng: np.random.Generator, recipe: Recipe) -> Galaxy:
    """A galaxy that a survey would observe.

    Args:
        rng: Source of randomness.
        recipe: The survey's recipe.
    """
    redshift, mass, passive = _draw_target(rng, recipe)
    history = draw_history(rng, redshift, passive, mass=mass)
    metallicity = _draw_metallicity(rng, mass)
    reddening = _draw_reddening(rng, mass, history.log_ssfr)
    dispersion = max(40.0, 10 ** (2.27 + 0.27 * (mass - 11) + rng.normal(0, 0.06)))  # Bernardi et al. 2010
    outflow, absorption = rng.uniform(0, 250), 10 ** rng.normal(0, 0.15)
    rate = history.masses[IONISING].sum() / (1e9 * AGE_EDGES[1:][IONISING].max())  # per year
    light = SOLAR_CONTINUUM * (LIGHT_PER_MASS * history.masses).sum()
    h_alpha = H_ALPHA_PER_RATE * rate / light * 10 ** rng.normal(0, 0.12)
    # Where stars form fast, fresh gas dilutes the metals: Mannucci et al. 2010, MNRAS 408, 2115.
    diluted = mass - 1.2 * np.clip(history.log_ssfr + 9.3, 0, 1.2)
    gas = _draw_gas(rng, redshift, diluted, passive, h_alpha / 2.86)
    return Galaxy(redshift, mass, passive, history, metallicity, reddening, dispersion, outflow, absorption, gas)


def galaxy_labels(drawn: Galaxy) -> dict[str, float]:
    """Labels of a galaxy, as of `galaxy`."""
    history = drawn.history
    labels = {"redshift": drawn.redshift, "log_stellar_mass": drawn.mass, "age": history.age}
    return labels | {"log_ssfr": history.log_ssfr, "metallicity": drawn.metallicity}


def galaxy_light(drawn: Galaxy, axis: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """Flux of a galaxy, shape (L,); 1 is what its stars would give at 5500 Å in its frame, were there no dust.

    Args:
        drawn: The galaxy.
        axis: Vacuum wavelength as observed, in Å, shape (L,), ascending.
        resolution: Standard deviation of the line spread function in km/s, shape (L,).
    """
    flux = light_of_stars(drawn, axis, resolution)
    axis = axis / (1 + drawn.redshift)
    for ratios, strength, width in drawn.gas:
        flux += nebular_emission(axis, np.hypot(resolution, width), ratios, strength, drawn.reddening)
    return flux


def light_of_stars(
    drawn: Galaxy, axis: np.ndarray, resolution: np.ndarray, masses: np.ndarray | None = None
) -> np.ndarray:
    """Flux of the stars behind dust and gas, shape (L,), in the unit of `galaxy_light`.

    Args:
        drawn: The galaxy.
        axis: Vacuum wavelength as observed, in Å, shape (L,), ascending.
        resolution: Standard deviation of the line spread function in km/s, shape (L,).
        masses: Mass of the stars of a part of the galaxy, by bin of AGE_EDGES, over all mass formed, shape (10,);
            None = all of them. The light of the parts adds up to that of the galaxy.
    """
    axis, history = axis / (1 + drawn.redshift), drawn.history
    light = LIGHT_PER_MASS * (history.masses if masses is None else masses)
    shares = light / (LIGHT_PER_MASS * history.masses).sum()
    flux = stellar_light(axis, shares, drawn.metallicity, np.hypot(resolution, drawn.dispersion))
    flux *= 10 ** (-0.4 * STARS_OVER_GAS * drawn.reddening * calzetti(axis))
    flux *= _interstellar_transmission(drawn, axis, resolution)
    return flux


def _draw_target(rng: np.random.Generator, recipe: Recipe) -> tuple[float, float, bool]:
    """Redshift, log10 of the stellar mass, and whether stars no longer form."""
    ranges = [np.clip(target.redshift, *recipe.galaxy_redshift) for target in TARGETS]
    covered = [np.ptp(own) / np.ptp(target.redshift) for own, target in zip(ranges, TARGETS, strict=True)]
    weights = np.array(covered) * [target.weight for target in TARGETS]
    chosen = rng.choice(len(TARGETS), p=weights / weights.sum())
    target, (low, high) = TARGETS[chosen], ranges[chosen]
    redshift = low + (high - low) * rng.beta(*(1.3, 3.0) if target.limited else (1.6, 2.2))
    mass, passive = rng.normal(target.mass, target.scatter), target.passive
    if target.limited:
        mass += np.log10(redshift / 0.1)
        passive += 0.4 * (mass - 10.6)  # Kauffmann et al. 2003, MNRAS 341, 54
    return float(redshift), float(np.clip(mass, 8.0, 11.9)), bool(rng.random() < passive)


def draw_history(rng: np.random.Generator, redshift: float, passive: bool, *, mass: float = 10.5) -> History:
    """A history of star formation: t exp(-t / tau) since the galaxy formed, and in some a burst.

    Args:
        rng: Source of randomness.
        redshift: Redshift at which the galaxy is seen.
        passive: Whether it no longer forms stars: an old galaxy, or one soon after its last burst.
        mass: log10 of the stellar mass; small galaxies burst more often.
    """
    since = cosmic_age(redshift) * (1 - (rng.uniform(0.03, 0.2) if passive else rng.uniform(0.05, 0.5)))
    tau = since * (rng.uniform(0.04, 0.12) if passive else log_uniform(rng, 0.15, 1.0))
    masses = _formed_in_bins(since, tau) + _burst(rng, passive, mass)
    young = np.diff(AGE_EDGES) * RECENT
    masses += 10 ** rng.uniform(-5.8, -3.6) * young / young.sum()  # no galaxy is quite dead
    masses /= masses.sum()
    log_ssfr = np.log10(masses[RECENT].sum() / (1e8 * SURVIVING))
    return History(masses, float(masses @ np.minimum(AGES, since)), float(log_ssfr))


def _burst(rng: np.random.Generator, passive: bool, mass: float) -> np.ndarray:
    """Mass formed in a burst over that of all other stars, by bin of AGE_EDGES: of a few hundred Myr ago, or now."""
    strong = 0.03 * 10 ** (0.5 * np.clip(10.5 - mass, -1, 1))  # share of starbursts among galaxies that form stars
    kind = rng.random()
    if passive and kind < 0.04:
        share, start, end = log_uniform(rng, 0.01, 0.15), 0.2, 0.9
    elif not passive and kind < strong:
        share, start, end = log_uniform(rng, 0.01, 0.5), 0.0, log_uniform(rng, 0.01, 0.05)
    elif not passive and kind < strong + 0.1:
        share, start, end = 0.004 * rng.uniform(1, 8), 0.0, 0.05
    else:
        return np.zeros(len(AGES))
    return share * np.diff(np.clip((AGE_EDGES - start) / (end * rng.uniform(0.7, 1.3) - start), 0, 1))


def cosmic_age(redshift: float) -> float:
    """Age of a flat universe in Gyr.

    Args:
        redshift: Redshift, not negative.
    """
    ratio = np.sqrt((1 - MATTER) / MATTER) * (1 + redshift) ** -1.5
    return float(HUBBLE_TIME * 2 / (3 * np.sqrt(1 - MATTER)) * np.arcsinh(ratio))


def _formed_in_bins(since: float, tau: float) -> np.ndarray:
    elapsed = np.clip(since - AGE_EDGES, 0, None) / tau
    formed = 1 - (1 + elapsed) * np.exp(-elapsed)
    return np.clip(-np.diff(formed), 0, None) / formed[0]


def _draw_metallicity(rng: np.random.Generator, mass: float) -> float:
    """Metallicity of the stars, dex, from their mass: Gallazzi et al. 2005, MNRAS 362, 41, table 2, rounded."""
    typical = np.interp(mass, [8.5, 9.5, 10.0, 10.5, 11.0, 11.5], [-0.9, -0.6, -0.35, -0.05, 0.1, 0.17])
    return float(np.clip(typical + rng.normal(0, 0.14), -1.2, 0.35))


def _draw_reddening(rng: np.random.Generator, mass: float, log_ssfr: float) -> float:
    """E(B - V) of the gas; extinction of H alpha from the mass, in mag: Garn & Best 2010, MNRAS 409, 421."""
    if log_ssfr < -11.3:
        return float(rng.exponential(0.06))
    extinction = np.clip(0.91 + 0.77 * (mass - 10), 0.1, 1.9)
    return float(np.clip(extinction / 2.53 * 10 ** rng.normal(0, 0.18), 0, 1.2))


def stellar_light(axis: np.ndarray, shares: np.ndarray, metallicity: float, width: np.ndarray) -> np.ndarray:
    """Flux of a mixture of stellar populations, shape (L,), near 1 at 5500 Å.

    Args:
        axis: Vacuum wavelength in the stars' frame in Å, shape (L,), ascending.
        shares: Share of each of POPULATIONS in the light at 5500 Å, shape (10,).
        metallicity: log10 over that of the Sun.
        width: Standard deviation of what broadens the lines, instrument and motion, in km/s, shape (L,).
    """
    weights = np.multiply.outer(_neighbours(METALLICITIES, np.array(metallicity)), shares).ravel()
    return broadened(axis, weights.astype(np.float32), _templates(), width)


def broadened(axis: np.ndarray, weights: np.ndarray, templates: np.ndarray, width: np.ndarray) -> np.ndarray:
    """A sum of templates on GRID, broadened by a Gaussian and brought to an axis, shape (L,).

    Where the width changes along the axis, the templates broadened by its extremes are mixed so that the variance is
    right everywhere.

    Args:
        axis: Vacuum wavelength in the source's frame in Å, shape (L,), ascending.
        weights: Weight of each template, shape (n,).
        templates: Templates on GRID, shape (n, len(GRID)); TEMPLATE_SIGMA wide.
        width: Standard deviation of the lines in km/s, shape (L,).
    """
    variance = np.maximum(width**2 - TEMPLATE_SIGMA**2, 1.0) / (LIGHT_SPEED * LOG_STEP) ** 2
    extremes = np.array([variance.min(), variance.max()])
    margin = int(6 * np.sqrt(extremes[1])) + 8
    low = max(int(np.searchsorted(GRID, axis[0])) - margin, 0)
    high = low + -(-(int(np.searchsorted(GRID, axis[-1])) + margin - low) // 512) * 512  # a size that the FFT likes
    light = weights @ templates[:, low:high]
    frequency = np.fft.rfftfreq(len(light))
    kernels = np.exp(-2 * (np.pi * frequency) ** 2 * extremes[:, None])
    sharp, smooth = np.fft.irfft(np.fft.rfft(light) * kernels, len(light))
    mix = (variance - extremes[0]) / max(np.ptp(extremes), 1e-9)
    grid = GRID[low:high]
    return np.interp(axis, grid, sharp) * (1 - mix) + np.interp(axis, grid, smooth) * mix


@cache
def _templates() -> np.ndarray:
    """Light of each population at each metallicity on GRID, shape (30, len(GRID)): metallicity changes slowest."""
    stars = np.vstack([DWARFS, GIANTS])
    templates = []
    for metallicity in METALLICITIES:
        light = [starlight(GRID, teff, logg, metallicity, TEMPLATE_SIGMA) for teff, logg in stars]
        templates.append(_mixtures(float(metallicity)) @ np.array(light) * _old_blanketing(float(metallicity)))
    return np.concatenate(templates).astype(np.float32)


def _old_blanketing(metallicity: float) -> np.ndarray:
    """Share of light that is left of each population on GRID, shape (10, len(GRID))."""
    strength = np.clip(np.log10(AGES / 0.7), 0, 1) * 10 ** (0.3 * metallicity)
    return np.exp(-np.multiply.outer(strength, np.interp(GRID, *OLD_BLANKETING)))


def _mixtures(metallicity: float) -> np.ndarray:
    """Share of each star in the light of each population at 5500 Å, shape (10, number of stars)."""
    age, turn_off, turn_off_share, dwarf, dwarf_share, giant, giant_share, _ = POPULATIONS.T
    cooler = 10 ** (-0.03 * metallicity)  # metals cool giants and old stars: Bressan et al. 2012
    dwarfs = turn_off_share[:, None] * _neighbours(np.log(DWARFS[:, 0]), np.log(turn_off * cooler))
    dwarfs += dwarf_share[:, None] * _neighbours(np.log(DWARFS[:, 0]), np.log(dwarf * cooler))
    dwarfs[age > 2, -2] += HOT_OLD_SHARE
    giants = giant_share[:, None] * _neighbours(np.log(GIANTS[:, 0]), np.log(giant * cooler))
    giants[age > 1, :2] += COOLEST_GIANTS_SHARES
    return np.hstack([dwarfs, giants])


def _neighbours(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weights that interpolate linearly between ascending nodes, shape (..., number of nodes)."""
    place = np.interp(values, nodes, np.arange(len(nodes)))
    return np.clip(1 - np.abs(place[..., None] - np.arange(len(nodes))), 0, None)


def calzetti(axis: np.ndarray) -> np.ndarray:
    """Extinction of starlight per E(B - V), in mag: Calzetti et al. 2000, ApJ 533, 682, equation 4.

    Args:
        axis: Wavelength in Å, shape (L,); beyond 1200 and 22000 Å the curve stays as it is there.
    """
    inverse = 1e4 / np.clip(axis, 1200, 22_000)
    blue = -2.156 + inverse * (1.509 + inverse * (-0.198 + 0.011 * inverse))
    # The published halves meet at 6300 Å with a step of 0.02; they cross near 7200 Å.
    return 2.659 * np.where(inverse > 1e4 / 7200, blue, -1.857 + 1.040 * inverse) + 4.05


def _interstellar_transmission(drawn: Galaxy, axis: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """Share of starlight that the gas of a star-forming galaxy lets through, shape (L,); the gas flows out."""
    strength = drawn.absorption * np.clip((drawn.history.log_ssfr + 11.5) / 1.5, 0, 1)
    centres, areas = INTERSTELLAR_LINES.T
    centres = centres * (1 - drawn.outflow / LIGHT_SPEED)
    sigmas = centres * np.hypot(np.interp(centres, axis, resolution), 180) / LIGHT_SPEED
    strengths = np.where(np.abs(centres - 5892) < 20, np.maximum(strength, OLD_SODIUM), strength)
    return np.exp(-gaussians(axis, centres, strengths * areas, sigmas))


def _draw_gas(
    rng: np.random.Generator, redshift: float, mass: float, passive: bool, h_beta: float
) -> list[tuple[dict[str, float], float, float]]:
    """What shines in a galaxy: log10 ratios to H beta, equivalent width of H beta in Å, and width in km/s, of each."""
    rotation = 10 ** (1.95 + 0.2 * (mass - 10.5) + rng.normal(0, 0.1))
    gas = [(star_forming_ratios(rng, redshift, mass), h_beta, rotation)]
    kind, share = (LINER, 0.6) if passive else (SEYFERT, 0.03 + 0.12 * np.clip(mass - 10.2, 0, 1))
    if rng.random() < share:
        scattered = {name: ratio + rng.normal(0, 0.1) for name, ratio in kind.items()}
        strength = 10 ** (rng.normal(-0.6, 0.3) if passive else rng.normal(0.2, 0.4))
        gas.append((scattered, strength, rng.uniform(100, 260)))
    return gas


def star_forming_ratios(rng: np.random.Generator, redshift: float, mass: float) -> dict[str, float]:
    """Log10 ratios of lines to H beta in gas that hot stars ionise.

    From mass to oxygen: Kewley & Ellison 2008, ApJ 681, 1183, table 2, for the scale of Pettini & Pagel 2004, MNRAS
    348, L59, which leads to [NII]/H alpha; oxygen grows with time as in Zahid et al. 2014, ApJ 791, 130, roughly;
    [OIII]/H beta: the sequence of Kewley et al. 2013, ApJ 774, L10; the others by eye after Kewley et al. 2006 and
    Moustakas & Kennicutt 2006, ApJS 164, 81.

    Args:
        rng: Source of randomness.
        redshift: Redshift.
        mass: log10 of the stellar mass.
    """
    mean = np.polyval([-0.0235065, 0.645142, -5.62784, 23.9049], np.clip(mass, 8.0, 11))
    oxygen = mean - 0.15 * redshift + rng.normal(0, 0.08)
    nitrogen = float(np.clip((oxygen - 8.9) / 0.57, -1.9, -0.33))  # over H alpha
    poor = np.clip(-0.5 - nitrogen, 0, 1)  # 0 in metal-rich gas
    ratios = {
        "[OIII]": 0.61 / (nitrogen + 0.08) + 1.1, "[NII]": nitrogen + np.log10(2.86),
        "[OII]": 0.2 + 0.35 * min(poor, 0.8), "[SII]": -0.05 - 0.1 * poor,
        "[OI]": -1.05 - 0.1 * poor, "[SIII]": -0.45 + 0.2 * poor, "HeI": -0.92,
        "HeII": -2.3 + 0.4 * poor, "[ArIII]": -1.2, "[NeV]": -4.0, "CIII]": -1.2 + 1.0 * poor,
    }  # fmt: skip
    return {name: ratio + rng.normal(0, 0.02 if name == "HeI" else 0.08) for name, ratio in ratios.items()}


def nebular_emission(
    axis: np.ndarray, width: np.ndarray, ratios: dict[str, float], h_beta: float, reddening: float
) -> np.ndarray:
    """Flux of ionised gas, shape (L,): its lines and its continuum below the Balmer edge.

    Args:
        axis: Vacuum wavelength in the gas's frame in Å, shape (L,), ascending.
        width: Standard deviation of the lines in km/s, shape (L,).
        ratios: log10 of the flux of each driver of NEBULAR_LINES over H beta, before extinction.
        h_beta: Flux of H beta before extinction.
        reddening: E(B - V).
    """
    metals = [(centre, share * 10 ** ratios[name]) for name, lines in NEBULAR_LINES.items() for centre, share in lines]
    centres, areas = np.vstack([BALMER_LINES, metals]).T
    extinction = TOTAL_TO_SELECTIVE * reddening * np.interp(centres, *GAS_EXTINCTION)
    sigmas = centres * np.interp(centres, axis, width) / LIGHT_SPEED
    flux = gaussians(axis, centres, h_beta * areas * 10 ** (-0.4 * extinction), sigmas)
    dust = 10 ** (-0.4 * TOTAL_TO_SELECTIVE * reddening * np.interp(BALMER_EDGE, *GAS_EXTINCTION))
    return flux + h_beta * dust * _balmer_continuum(axis)


def _balmer_continuum(axis: np.ndarray) -> np.ndarray:
    """Hydrogen that recombines to its second level, per Å over H beta, at 10^4 K: Liu et al. 2001, MNRAS 327, 141."""
    excess = np.clip(1.438777e8 / 1e4 * (1 / axis - 1 / BALMER_EDGE), 0, 50)  # photon energy over k T
    merging = 1 / (1 + np.exp(np.clip((axis - BALMER_EDGE - 30) / 12, -50, 50)))  # the lines of high levels
    return 0.0044 * (BALMER_EDGE / axis) ** 2 * np.exp(-excess) * merging


__all__ = [
    "Galaxy", "History", "broadened", "calzetti", "cosmic_age", "draw_galaxy", "draw_history", "galaxy",
    "galaxy_labels", "galaxy_light", "light_of_stars", "nebular_emission", "star_forming_ratios", "stellar_light",
]  # fmt: skip
