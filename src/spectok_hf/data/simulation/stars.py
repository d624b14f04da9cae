"""Stars: their light, from one layer of gas: continuum, lines by curve of growth, haze and bands."""

from functools import cache
from typing import NamedTuple

import numpy as np

from .atmosphere import (
    CONTINUUM_DEPTH,
    ELEMENTS,
    LINE_DEPTH,
    MOLECULES,
    NODES,
    SECOND_RADIATION,
    SOLAR_LOGG,
    SOLAR_TEFF,
    THETA,
    Star,
    interpolate_star,
)
from .haze import GROUPS, haze
from .instrument import Instrument
from .populations import draw_star
from .profiles import FWHM_PER_SIGMA, LIGHT_SPEED, gaussians, near_pixels
from .recipes import Recipe
from .stellar_lines import ANCHORS, HYDROGEN_SERIES, INFRARED_LINES, METAL_LINES, RYDBERG

# Lines of the gas between the stars: vacuum wavelength in Å, and equivalent width over that of Na D2.
INTERSTELLAR = np.array([[3934.77, 3969.59, 5891.58, 5897.55], [0.5, 0.3, 1.0, 0.75]])
VEGA = (9500.0, 4.0, 0.0)  # K, dex, dex: the star whose hydrogen lines `HYDROGEN_SERIES` has
CORE, NARROW_CORE = 0.88, 0.5  # deepest point of a strong line; of the narrow part of one of hydrogen
WINGS = (2.5, 4.0, 6.0)  # Å, least half width of the wide part of Balmer, Paschen and Brackett lines
BRACKETT_CORE = 0.1  # depth of the narrow part of Brackett lines over that of others
LINE_TEMPERATURE, CONTINUUM_TEMPERATURE = ((0.75 * (d + 2 / 3)) ** 0.25 for d in (LINE_DEPTH, CONTINUUM_DEPTH))
STRENGTHS = np.geomspace(1e-6, 1e12, 400)  # of lines, where the curve of growth is tabulated to be inverted
DAMPING = 0.03  # of lines in the Sun, over their Doppler width
INFRARED_DAMPING = 80.0  # by what factor collisions widen lines beyond 1 µm more: met in a network fitted to APOGEE
CHROMOSPHERE = 0.5  # log10 of the least strength of hydrogen lines: its atoms in high levels, in cool stars
FAINT = 3e-4  # wings shallower than this are cut


class Lines(NamedTuple):
    """Lines to be drawn: all in Å, shape (n,)."""

    centres: np.ndarray
    widths: np.ndarray  # equivalent
    doppler: np.ndarray  # standard deviation of the core
    wings: np.ndarray  # half width at half maximum of what is left of the line beyond the core
    exponents: np.ndarray  # of the offset in the wings: -2 pressure, -2.5 Stark


class Table(NamedTuple):
    """The metal lines, each with its place in `Star.species` and `Star.molecules`; shape (n,)."""

    centres: np.ndarray
    widths: np.ndarray
    energies: np.ndarray
    species: np.ndarray


def star(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> tuple[np.ndarray, dict[str, float]]:
    """A star: its flux on the vacuum axis of the instrument, shape (L,), in any unit, and its labels."""
    who = draw_star(rng, recipe.giants)
    rv = 0.0 if instrument.rest_frame else rng.normal(0, who.dispersion)
    width = np.hypot(instrument.velocity_sigma, who.macroturbulence)
    axis = instrument.axis / (1 + rv / LIGHT_SPEED)
    flux = starlight(axis, who.teff, who.logg, who.feh, width, rotation=who.rotation)
    flux = flux * _interstellar(rng, instrument, who.dispersion if instrument.rest_frame else 0.0)
    labels = {"teff": who.teff, "logg": who.logg, "feh": who.feh, "rv": rv, "redshift": rv / LIGHT_SPEED}
    return flux, labels


def _interstellar(rng: np.random.Generator, instrument: Instrument, dispersion: float) -> np.ndarray:
    """Share of the light that the gas on the way lets pass in Na D and Ca II H and K, shape (L,).

    Args:
        rng: Source of randomness.
        instrument: The instrument.
        dispersion: Scatter in km/s of the gas's velocity: the star's own, where spectra are moved to its rest frame.
    """
    strength = min(float(rng.lognormal(np.log(0.3), 0.9)), 1.5)  # Å, the equivalent width of Na D2
    centres = INTERSTELLAR[0] * (1 + rng.normal(0, np.hypot(10.0, dispersion)) / LIGHT_SPEED)
    sigma = np.interp(centres, instrument.axis, instrument.velocity_sigma)
    depth = gaussians(
        instrument.axis,
        centres,
        INTERSTELLAR[1] * strength,
        np.hypot(sigma, 10 + 20 * strength) * centres / LIGHT_SPEED,
    )
    return 1 - np.minimum(depth, 0.95)


def starlight(
    axis: np.ndarray, teff: float, logg: float, feh: float, width: float | np.ndarray, *, rotation: float = 0.0
) -> np.ndarray:
    """Flux of a star, shape (L,), its continuum 1 at 5500 Å.

    Args:
        axis: Vacuum wavelength in the star's frame in Å, shape (L,), ascending.
        teff: Effective temperature in K, 3000 to 30,000.
        logg: Surface gravity, log10 of cm/s², 0 to 5.
        feh: Metallicity in dex, -3 to 0.5.
        width: Standard deviation of what broadens the lines, instrument and motion, in km/s; a number,
            or shape (L,) where it changes along the axis.
        rotation: Projected velocity of the equator in km/s. Where it exceeds the instrument's, the lines get the
            profile of a limb-darkened disc, else a Gaussian of its variance.
    """
    gas = interpolate_star(teff, logg, feh)
    resolved = rotation > 1.2 * float(np.min(width))
    if rotation and not resolved:
        width = np.hypot(width, ROTATION_SIGMA * rotation)
    width = np.broadcast_to(width, axis.shape)
    depth = haze(axis, haze_strengths(gas, teff, logg), np.hypot(width, microturbulence(logg)))
    for lines in (metal_lines(gas, teff, logg), hydrogen_lines(gas, teff, logg)):
        depth = depth + _draw(axis, lines, width)
    transmission = np.exp(-depth)
    if resolved:
        transmission = _rotate(axis, transmission, rotation)
    place, reference = np.log(axis), np.interp(np.log(5500), np.log(NODES), gas.continuum)
    return np.exp(np.interp(place, np.log(NODES), gas.continuum) - reference) * transmission


ROTATION_SIGMA = 0.47  # standard deviation of the profile of a disc that darkens by 0.6 to the limb, over its v sin i


def _rotate(axis: np.ndarray, flux: np.ndarray, rotation: float) -> np.ndarray:
    """Each stretch of the axis without a gap, smoothed by the profile of a rotating disc: Gray 2005, 18.14."""
    velocity = np.log(axis) * LIGHT_SPEED
    steps = np.diff(velocity)
    cuts = np.flatnonzero(steps > 4 * np.median(steps)) + 1
    return np.concatenate(
        [
            _smear(part, rotation / np.mean(step[:-1]) if len(part) > 2 else 0.0)
            for part, step in zip(np.split(flux, cuts), np.split(np.append(steps, 0.0), cuts), strict=True)
        ]
    )


def _smear(flux: np.ndarray, reach: float) -> np.ndarray:
    half = int(np.ceil(reach))
    if half < 1 or len(flux) <= half:
        return flux
    inside = np.maximum(1 - (np.arange(-half, half + 1) / reach) ** 2, 0.0)
    kernel = 2 * 0.4 * np.sqrt(inside) + 0.5 * np.pi * 0.6 * inside  # limb darkening 0.6
    return np.convolve(np.pad(flux, half, mode="edge"), kernel / kernel.sum(), mode="valid")


def microturbulence(logg: float) -> float:
    """In km/s: 1 in dwarfs, 2 in giants (Gray 2005, table B and chapter 17)."""
    return float(np.clip(1 + 0.3 * (4.4 - logg), 0.8, 2.4))


# ---- metal lines


@cache
def _table() -> Table:
    rows = []
    for name, groups in (*METAL_LINES.items(), *INFRARED_LINES.items()):
        place = _place(name)
        for energy, text in groups.items():
            rows += [(*map(float, line.split()), energy, place) for line in text.split(",")]
    centres, widths, energies, species = np.array(sorted(rows)).T
    return Table(centres, widths, energies, species.astype(int))


def _place(name: str) -> int:
    """Where a species of the table, an ion or a molecule, is in `Star.species` followed by `Star.molecules`."""
    if name in MOLECULES:
        return 3 * len(ELEMENTS) + list(MOLECULES).index(name)
    element, stage = name.split()
    return 3 * list(ELEMENTS).index(element) + ("I", "II", "III").index(stage)


def _populations(gas: Star, teff: float, veil: float = 0.0) -> np.ndarray:
    """log10 of absorbers over continuous opacity of the lines of the table, to a constant each."""
    table = _table()
    theta = THETA / (LINE_TEMPERATURE * teff)
    opacity = np.interp(np.log(table.centres), np.log(NODES), gas.line_opacity)
    opacity = opacity + np.where(table.centres > 10_000, np.log10(1 + veil), 0.0)
    absorbers = np.concatenate([gas.species, gas.molecules])
    return absorbers[table.species] - theta * table.energies - opacity


def _doppler(teff: float, logg: float) -> float:
    """Doppler width of metal lines in km/s: thermal motion of iron, and microturbulence."""
    return float(np.hypot(1.3 * np.sqrt(teff / SOLAR_TEFF), 1.2 * microturbulence(logg)))


def _damping(gas: Star) -> np.ndarray:
    """Damping over Doppler width of each line of the table: by radiation, and by collisions.

    Radiation counts for more in ions, whose strong lines are of resonance. Collisions follow the gas pressure, to a
    power below 1: where the gas is opaque, the wings come from higher up. In the infrared they count for more: the
    Doppler width is a smaller frequency, and the levels are high, so the atoms large.
    """
    infrared = _table().centres > 10_000
    pressure = np.clip(gas.pressures[0] - _sun().pressures[0], -3, 1)
    radiation = np.where(_table().species % 3 > 0, 0.4, 0.04)
    collisions = np.where(infrared, INFRARED_DAMPING * 10 ** np.minimum(pressure, 0.2), 10 ** (0.5 * pressure))
    return DAMPING * (radiation + (1 - radiation) * collisions)


@cache
def _sun() -> Star:
    return interpolate_star(SOLAR_TEFF, SOLAR_LOGG, 0.0)


def growth(strength: np.ndarray, damping: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Curve of growth: equivalent width of core and of damped wings, in Doppler widths.

    The core grows linearly, then with the square root of the logarithm of the strength; the wings of a damped
    line with its square root: Gray 2005, figure 13.12.

    Args:
        strength: Equivalent width of the line, did it not saturate, in Doppler widths.
        damping: Damping constant over Doppler width.
    """
    core = 2 * CORE * np.sqrt(np.log1p((strength / (2 * CORE)) ** 2))
    return core, CORE * np.sqrt(np.pi * damping * strength) * (strength / (strength + 10))


@cache
def _anchored() -> tuple[np.ndarray, np.ndarray]:
    """log10 of the strength of each line in its anchor star, and of its absorbers there."""
    table = _table()
    anchors = {name: (SOLAR_TEFF, SOLAR_LOGG) for name in METAL_LINES} | ANCHORS
    strengths, populations = np.empty((2, len(table.centres)))
    for name, (teff, logg) in anchors.items():
        gas = interpolate_star(teff, logg, 0.0)
        own = table.species == _place(name)
        populations[own] = _populations(gas, teff)[own]
        relative = table.widths / table.centres * LIGHT_SPEED / _doppler(teff, logg)
        damping = _damping(gas)
        for value in np.unique(damping[own]):
            alike = own & (damping == value)
            curve = np.hypot(*growth(STRENGTHS, value))
            strengths[alike] = np.interp(np.log10(relative[alike]), np.log10(curve), np.log10(STRENGTHS))
    return strengths, populations


def metal_lines(gas: Star, teff: float, logg: float) -> Lines:
    """The lines of the table as they are in a star.

    Args:
        gas: The star's layers.
        teff: Effective temperature in K.
        logg: Surface gravity, log10 of cm/s².
    """
    table, (strengths, anchors) = _table(), _anchored()
    veil = VEIL * _band_strength(gas, "FeH", logg)
    change = np.clip(strengths + _populations(gas, teff, veil) - anchors, -12, 12)
    core, wings = growth(10.0**change, _damping(gas))
    doppler = table.centres * _doppler(teff, logg) / LIGHT_SPEED
    widths = doppler * np.hypot(core, wings)
    return Lines(
        table.centres,
        widths,
        doppler * np.maximum(core / (np.sqrt(2 * np.pi) * CORE), np.sqrt(0.5)),
        doppler * wings / (np.pi * CORE),
        np.full(len(widths), 2.0),
    )


# ---- hydrogen


@cache
def _hydrogen_table() -> np.ndarray:
    """Wavelength in Å, lower level, width in Vega in Å; shape (3, n)."""
    rows = [
        (1e8 / (RYDBERG[lower] * (lower**-2 - (first + step) ** -2.0)), lower, width)
        for lower, (first, widths) in HYDROGEN_SERIES.items()
        for step, width in enumerate(widths)
    ]
    return np.array(rows).T


def _hydrogen_populations(gas: Star, teff: float) -> np.ndarray:
    """log10 of the atoms in the lower level of each hydrogen line, over continuous opacity at its wavelength."""
    centres, lower, _ = _hydrogen_table()
    theta = THETA / (CONTINUUM_TEMPERATURE * teff)
    opacity = np.interp(np.log(centres), np.log(NODES), gas.opacity)
    return gas.species[0] + 2 * np.log10(lower) - theta * 13.598 * (1 - lower**-2.0) - opacity


@cache
def _vega() -> np.ndarray:
    teff, logg, feh = VEGA
    gas = interpolate_star(teff, logg, feh)
    return _hydrogen_populations(gas, teff) + gas.pressures[3]


def hydrogen_lines(gas: Star, teff: float, logg: float) -> Lines:
    """Balmer, Paschen and Brackett lines.

    The wings of the linear Stark effect fall with the offset to the power -5/2 and grow with the density of
    electrons, so that the width of a line goes with the 2/5th power of absorbers times electrons over opacity.

    Args:
        gas: The star's layers.
        teff: Effective temperature in K.
        logg: Surface gravity, log10 of cm/s².
    """
    centres, lower, vega = _hydrogen_table()
    populations = _hydrogen_populations(gas, teff)
    cores, contrast = _contrast(centres, teff), _contrast(centres, teff) / _contrast(centres, VEGA[0])
    stark = populations + gas.pressures[3] - np.log10(teff / VEGA[0]) - _vega()
    stark = vega * 10 ** (0.4 * stark) * contrast**1.7
    doppler = centres * 10 * np.sqrt(teff / SOLAR_TEFF) / LIGHT_SPEED
    floor = np.where(lower == 2, CHROMOSPHERE, -12.0)
    strength = 10 ** np.clip(populations - 6 - 3.5 * lower, floor, 12)  # the higher the series, the weaker its lines
    shape = 2 * np.pi / 2.5 / np.sin(np.pi / 2.5)  # integral of 1 / (1 + x^2.5)
    wings = np.hypot(stark / (shape * cores), np.select([lower == 2, lower == 3], WINGS[:2], WINGS[2]))
    shallow = stark / (shape * wings)
    depths = 1 - (1 - np.minimum(0.85 * cores, NARROW_CORE)) * (1 - cores) / (1 - shallow)
    depths *= np.where(lower == 4, BRACKETT_CORE, 1.0)
    core = doppler * 2 * depths * np.sqrt(np.log1p(strength**2))
    narrow = np.maximum(core / (np.sqrt(2 * np.pi) * depths), doppler * np.sqrt(0.5))
    return Lines(
        np.tile(centres, 2),
        np.concatenate([stark, core]),
        np.concatenate([doppler * np.sqrt(0.5), narrow]),
        np.concatenate([wings, np.zeros(len(core))]),
        np.full(2 * len(centres), 2.5),
    )


def _contrast(wavelength: np.ndarray, teff: float) -> np.ndarray:
    """Depth of the wide part of a strong hydrogen line: how much fainter the top of a grey atmosphere is than all."""
    exponent = SECOND_RADIATION / (wavelength * teff)
    return np.minimum(-np.expm1(-0.235 * exponent), 0.6)  # 0.235 = 1 / 0.81 - 1


# ---- haze and bands


def haze_strengths(gas: Star, teff: float, logg: float) -> np.ndarray:
    """Factors on the optical depth of the groups of the haze, relative to the Sun for those of atoms."""
    sun = _sun()
    iron = 3 * list(ELEMENTS).index("Fe")
    factors = []
    for stage, energy, node in ((0, 1.0, 4500), (0, 4.0, 6000), (1, 2.5, 4500)):
        place = np.argmin(np.abs(NODES - node))
        change = gas.species[iron + stage] - sun.species[iron + stage] - gas.line_opacity[place]
        change += sun.line_opacity[place] - energy * THETA / LINE_TEMPERATURE * (1 / teff - 1 / SOLAR_TEFF)
        pair = 3.0 * 10 ** np.clip(np.array([change, 0.0]), -6, 6)
        core, wings = growth(pair, DAMPING)
        factors.append(
            float(np.divide(*np.hypot(core, wings))) * _doppler(teff, logg) / _doppler(SOLAR_TEFF, SOLAR_LOGG)
        )
    return np.array(factors + [_band_strength(gas, name, logg) for name in GROUPS[3:]])


# Optical depth of a molecule's strongest band: 10^(share of molecules over opacity + first) to the second power given,
# saturating at the third; the fourth is taken per dex of log g, the tops of giants are cooler than one layer says.
# Met in LAMOST and SDSS stars, and in a network fitted to APOGEE spectra.
BAND_LAWS = {
    "TiO": (10.8, 0.6, 8.0, 0.25),
    "VO": (10.6, 0.6, 5.0, 0.25),
    "CaH": (10.2, 1.0, 3.0, 0.0),
    "MgH": (9.7, 1.0, 2.0, 0.0),
    "CH": (9.4, 1.0, 0.95, 0.0),
    "CN": (8.9, 1.0, 3.0, 0.0),
    "FeH": (10.2, 1.0, 3.0, 0.0),
    "H2O": (10.2, 1.0, 3.0, 0.0),
    "CO": (2.1, 1.0, 2.0, 0.0),
}
PROXIES = {"FeH": "CaH", "H2O": "CaH"}  # the molecule whose share one without constants follows: both are of M dwarfs
VEIL = 6.0  # opacity by water and hydrides among the lines beyond 1 µm, over the continuous, per strength of FeH


def _band_strength(gas: Star, name: str, logg: float) -> float:
    first, power, limit, gravity = BAND_LAWS[name]
    place = np.argmin(np.abs(NODES - 6500))
    share = (
        gas.molecules[list(MOLECULES).index(PROXIES.get(name, name))]
        - gas.line_opacity[place]
        - 26
        + first
        - gravity * logg
    )
    strength = float(10 ** np.clip(power * share, -8, 4))
    return strength / (1 + strength / limit)


# ---- drawing


def _draw(axis: np.ndarray, lines: Lines, width: np.ndarray) -> np.ndarray:
    """Optical depth of lines after the instrument, shape (L,): each a sum of a Gaussian and of a core with wings.

    The weights are those of the pseudo-Voigt profile: Thompson, Cox & Hastings 1987, J. Appl. Cryst. 20, 79.
    """
    near = (lines.centres > axis[0] - 300) & (lines.centres < axis[-1] + 300) & (lines.widths > 1e-4)
    centres, widths, doppler, wings, exponents = (part[near] for part in lines)
    sigma = np.hypot(doppler, centres * np.interp(centres, axis, width) / LIGHT_SPEED)
    gauss, lorentz = FWHM_PER_SIGMA * sigma, 2 * wings
    fwhm = _voigt_width(gauss, lorentz)
    ratio = lorentz / fwhm
    share = ratio * (1.36603 + ratio * (-0.47719 + 0.11116 * ratio))
    norm = 2 * np.pi / exponents / np.sin(np.pi / exponents)
    tall_gauss = widths * (1 - share) * FWHM_PER_SIGMA / (np.sqrt(2 * np.pi) * fwhm)
    tall_wings = widths * share * 2 / (norm * fwhm)
    reach = np.maximum(2.1 * fwhm, 0.5 * fwhm * (tall_wings / FAINT) ** (1 / exponents))
    line, pixel = near_pixels(axis, centres, reach)
    offset = np.abs(axis[pixel] - centres[line]) * (2 / fwhm)[line]
    depth = tall_gauss[line] * np.exp(-np.log(2) * offset**2)
    depth += tall_wings[line] / (1 + offset ** exponents[line])
    return np.bincount(pixel, -np.log1p(-np.minimum(depth, 0.95)), minlength=len(axis))


def _voigt_width(gauss: np.ndarray, lorentz: np.ndarray) -> np.ndarray:
    """Full width at half maximum of the convolution of a Gaussian and a Lorentzian."""
    powers = (1, 2.69269, 2.42843, 4.47163, 0.07842, 1)
    total = sum(factor * gauss ** (5 - power) * lorentz**power for power, factor in enumerate(powers))
    return np.asarray(total) ** 0.2


__all__ = ["star", "starlight"]
