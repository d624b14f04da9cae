"""Quasars: an accretion disc, broad and narrow lines, iron, a host galaxy, and gas on the way to us."""

from functools import cache
from typing import NamedTuple

import numpy as np

from .galaxies import GRID, POPULATIONS, TEMPLATE_SIGMA, broadened, stellar_light
from .instrument import Instrument
from .nebular_lines import (
    ABSORBER_LINES,
    BROAD_ABSORPTION_LINES,
    LYMAN_ALPHA,
    LYMAN_LIMIT,
    LYMAN_SERIES,
    OPTICAL_IRON,
    QUASAR_LINES,
    QUASAR_NARROW_LINES,
    ULTRAVIOLET_IRON,
    parse_multiplets,
)
from .profiles import FWHM_PER_SIGMA, LIGHT_SPEED, gaussians
from .recipes import Recipe

PIVOT = 3000.0  # Å, where the disc's continuum is 1
BREAKS = (920.0, 4800.0)  # Å: Telfer et al. 2002, ApJ 565, 773; Vanden Berk et al. 2001, AJ 122, 549
NEAR_SHARE = 0.2  # of quasars that are drawn below redshift 0.9, beside those that are there anyway
FARTHEST_HOST = 1.2  # redshift beyond which the host's light is lost in the quasar's
# Greatest share of the host in the light at 5500 Å, by redshift: Vanden Berk et al. 2006, AJ 131, 84, and by eye after
# real quasars with red continua.
HOST_SHARE = ((0.0, 0.5, 1.0, 1.2), (0.85, 0.7, 0.3, 0.1))
IRON_WIDTHS = (85.0, 105.0)  # Å, equivalent width at PIVOT of the ultraviolet iron, at 4800 Å of the optical one

# Gas between the quasar and us, by column density N of neutral hydrogen: log10 of its lowest and highest value, the
# exponent of its distribution, systems per unit of redshift at z = 3, and the exponent of (1 + z) that they
# grow with. The forest has no rate of its own: it is as dense as its mean transmission says.
# Prochaska et al. 2010, ApJ 718, 392; Noterdaeme et al. 2012, A&A 547, L1; the forest's exponent: Kim et al. 2013, A&A
# 552, A77.
FOREST = (12.6, 17.2, 1.62)
DENSE_SYSTEMS = ((17.2, 20.3, 1.3, 1.3, 2.0), (20.3, 21.6, 2.0, 0.22, 1.3))
# Effective optical depth, and the exponent of (1 + z) with which it grows: Faucher-Giguere et al. 2008, ApJ 681, 831.
MEAN_DEPTH = (0.0018, 3.92)
FOREST_STEP = 5e-5  # in ln of the wavelength: 15 km/s, less than a line's width
PROXIMITY = 1500.0  # km/s, where the quasar ionises as much as all others together
DAMPING = 6.27e8  # per second: the decay rate of Lyman alpha


class Nature(NamedTuple):
    """What sets a quasar apart."""

    width: float  # km/s, FWHM of H beta
    blueshift: float  # km/s, of C IV
    luminosity: float  # dex, over that of the quasars of Vanden Berk et al. 2001
    iron: float  # strength over the typical one
    narrow: float  # strength of the narrow lines over the typical one


def quasar(rng: np.random.Generator, instrument: Instrument, recipe: Recipe) -> tuple[np.ndarray, dict[str, float]]:
    """A quasar: its flux on the vacuum axis of the instrument, shape (L,), in any unit, and its labels."""
    redshift = _draw_redshift(rng, *recipe.quasar_redshift)
    nature = _draw_nature(rng, redshift)
    axis, resolution = instrument.axis / (1 + redshift), instrument.velocity_sigma
    continuum = _disc(rng, axis)
    flux = continuum * (1 + _broad_lines(rng, axis, nature)) + _iron(rng, axis, nature)
    flux += _balmer_continuum(rng, axis)
    dust = _reddening(rng, axis, redshift)
    flux *= _broad_absorption(rng, axis) * dust
    flux += continuum * _narrow_lines(rng, axis, resolution, nature)
    if redshift < FARTHEST_HOST:
        flux += np.interp(5500, axis, continuum * dust) * _host(rng, axis, resolution, redshift)
    flux *= _absorbers(rng, axis, resolution, redshift)
    return flux * lyman_transmission(rng, instrument.axis, resolution, redshift), {"redshift": redshift}


def _draw_redshift(rng: np.random.Generator, low: float, high: float) -> float:
    """Redshift; every fifth quasar is a near one, where a spectrum shows the host."""
    near = rng.random() < NEAR_SHARE
    if near:
        return float(low + (max(low, min(high, 0.9)) - low) * rng.beta(1.2, 1.2))
    return float(low + (high - low) * rng.beta(1.7, 1.9))


def _draw_nature(rng: np.random.Generator, redshift: float) -> Nature:
    """Eigenvector 1 ties iron to faint [OIII] (Boroson & Green 1992); faint C IV is shifted (Richards et al. 2011)."""
    luminosity = rng.normal(-0.7 + 0.35 * (min(redshift, 3.5) - 2), 0.35)
    eigenvector = rng.normal()
    width = float(np.clip(4200 * 10 ** (rng.normal(0, 0.14) + 0.06 * luminosity), 1700, 9500))
    blueshift = float(np.clip(rng.normal(950 + 350 * luminosity + 250 * eigenvector, 350), -200, 3000))
    iron = 10 ** (0.15 * eigenvector + rng.normal(0, 0.12))
    return Nature(width, blueshift, luminosity, iron, 10 ** (0.12 - 0.22 * eigenvector + rng.normal(0, 0.25)))


def _disc(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """Power laws that bend into each other, 1 at PIVOT: slopes of Telfer et al. 2002 and Vanden Berk et al. 2001."""
    middle = rng.normal(-1.62, 0.3)
    bends = ((BREAKS[0], min(middle + 1.0, 0.0) - middle, -10.0), (BREAKS[1], 0.9, 8.0))
    place = np.log(axis / PIVOT)
    log_flux = middle * place
    for wavelength, change, sharpness in bends:
        pivot = sharpness * np.log(PIVOT / wavelength)
        log_flux += change / sharpness * (np.log1p(np.exp(sharpness * place + pivot)) - np.log1p(np.exp(pivot)))
    return np.exp(log_flux)


def _broad_lines(rng: np.random.Generator, axis: np.ndarray, nature: Nature) -> np.ndarray:
    """Broad lines over the continuum, shape (L,): of each a narrow core and a broad base that is shifted further."""
    centres, areas, widths, shifts = QUASAR_LINES.T
    centres = centres * (1 - (shifts * nature.blueshift + rng.normal(0, 80, len(centres))) / LIGHT_SPEED)
    excited = np.clip(shifts, 0, 1)  # lines of high ionisation are shifted, and follow the luminosity
    baldwin = -(0.08 + 0.12 * excited) * nature.luminosity  # Dietrich et al. 2002, ApJ 581, 912, rounded
    baldwin -= 1.2e-4 * excited * (nature.blueshift - 700)
    areas = areas * 10 ** (baldwin + rng.normal(0, 0.12) + rng.normal(0, 0.09, len(areas)))
    sigmas = centres * nature.width * widths * 10 ** rng.normal(0, 0.04, len(areas)) / (LIGHT_SPEED * FWHM_PER_SIGMA)
    core = rng.uniform(0.35, 0.6)
    base = centres * (1 - 300 * shifts / LIGHT_SPEED)
    lines = ([centres, base], [core * areas, (1 - core) * areas], [0.8 * sigmas, 1.9 * sigmas])
    return gaussians(axis, *(np.concatenate(columns) for columns in lines))


def _narrow_lines(rng: np.random.Generator, axis: np.ndarray, resolution: np.ndarray, nature: Nature) -> np.ndarray:
    """Narrow lines over the continuum, shape (L,), with a shifted wing; weaker in luminous quasars."""
    centres, areas = QUASAR_NARROW_LINES.T
    areas = areas * nature.narrow * 10 ** (-0.2 * nature.luminosity + rng.normal(0, 0.1, len(areas)))
    wing, shift = rng.uniform(0.1, 0.5), rng.uniform(50, 500)
    lines = []
    for share, width, offset in ((1 - wing, rng.uniform(120, 260), 0.0), (wing, rng.uniform(350, 700), shift)):
        sigmas = centres * np.hypot(np.interp(centres, axis, resolution), width) / LIGHT_SPEED
        lines.append((centres * (1 - offset / LIGHT_SPEED), share * areas, sigmas))
    return gaussians(axis, *(np.concatenate(columns) for columns in zip(*lines, strict=True)))


@cache
def _iron_templates() -> np.ndarray:
    """Ultraviolet and optical iron on GRID, shape (2, len(GRID)), of area 1 Å; lines as narrow as the grid allows."""
    templates = []
    for multiplets in (ULTRAVIOLET_IRON, OPTICAL_IRON):
        centres, areas = parse_multiplets(multiplets)
        templates.append(gaussians(GRID, centres, areas, centres * TEMPLATE_SIGMA / LIGHT_SPEED))
    return np.array(templates).astype(np.float32)


def _iron(rng: np.random.Generator, axis: np.ndarray, nature: Nature) -> np.ndarray:
    level = np.array([1.0, (4800 / PIVOT) ** -1.56])
    strengths = nature.iron * level * IRON_WIDTHS * 10 ** rng.normal(0, 0.06, 2)
    width = np.full(len(axis), 0.85 * nature.width / FWHM_PER_SIGMA)
    return broadened(axis, strengths.astype(np.float32), _iron_templates(), width)


def _balmer_continuum(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """Hydrogen that recombines to its second level: Grandi 1982, ApJ 255, 25; 15000 K, optical depth 1 at the edge.

    Lines that merge carry it on beyond the edge, to 4000 Å (Wills, Netzer & Wills 1985, ApJ 288, 94).
    """
    edge, exponent = 3646.0, 1.438777e8 / 15_000
    planck = (edge / axis) ** 5 * np.expm1(exponent / edge) / np.expm1(exponent / axis)
    depth = -np.expm1(-((axis / edge) ** 3)) / -np.expm1(-1.0)
    fade = 1 / (1 + np.exp(np.clip((axis - edge - 60) / 55, -50, 50)))
    return rng.uniform(0.04, 0.14) * planck * depth * fade


def _host(rng: np.random.Generator, axis: np.ndarray, resolution: np.ndarray, redshift: float) -> np.ndarray:
    """The host galaxy over the quasar's continuum at 5500 Å, shape (L,): a mixture of old and younger stars."""
    shares = np.zeros(len(POPULATIONS))
    shares[[9, 8, 6, 4]] = rng.dirichlet([3, 2, 1, 0.6])
    share = np.interp(redshift, *HOST_SHARE) * rng.beta(1.3, 1.3)
    light = stellar_light(axis, shares, rng.uniform(-0.2, 0.3), np.hypot(resolution, rng.uniform(120, 260)))
    return share / (1 - share) * light


def _reddening(rng: np.random.Generator, axis: np.ndarray, redshift: float) -> np.ndarray:
    """Dust like that of the Small Magellanic Cloud, in some more: Hopkins et al. 2004, AJ 128, 1112.

    Near quasars are chosen less for a blue colour.
    """
    dusty, typical, most = (0.4, 0.2, 0.7) if redshift < 1 else (0.1, 0.1, 0.3)
    selective = rng.exponential(typical) if rng.random() < dusty else rng.exponential(0.012)
    extinction = 1.39 * min(selective, most) * ((axis / 1e4) ** -1.2 - (PIVOT / 1e4) ** -1.2)
    return 10 ** (-0.4 * extinction)


def _broad_absorption(rng: np.random.Generator, axis: np.ndarray) -> np.ndarray:
    """Share of light that an outflow lets through, shape (L,); one quasar in ten has one."""
    if rng.random() > 0.1:
        return np.ones(len(axis))
    centres, depths, low = BROAD_ABSORPTION_LINES.T
    depths = depths * np.where(low > 0, float(rng.random() < 0.15), 1.0)
    count = int(rng.integers(2, 6))
    speeds = rng.uniform(2500, 7000) + np.cumsum(rng.uniform(400, 3500, count))
    widths, strengths = rng.uniform(300, 1600, count), rng.uniform(0.3, 2.0, count)
    places = np.multiply.outer(centres, 1 - speeds / LIGHT_SPEED).ravel()
    sigmas = np.multiply.outer(centres, widths / LIGHT_SPEED).ravel()
    areas = np.multiply.outer(depths, strengths).ravel() * sigmas * np.sqrt(2 * np.pi)
    return np.exp(-gaussians(axis, places, areas, sigmas))


def _absorbers(rng: np.random.Generator, axis: np.ndarray, resolution: np.ndarray, redshift: float) -> np.ndarray:
    """Share of light that metals in galaxies on the way, or near the quasar, let through, shape (L,)."""
    centres, ratios, kinds = ABSORBER_LINES.T
    depth = np.zeros(len(axis))
    for kind, rate in ((0, 0.35), (1, 0.6)):
        for _ in range(rng.poisson(rate)):
            own = kinds == kind
            near = rng.random() < 0.3
            shift = (
                1 - abs(rng.normal(0, 1500)) / LIGHT_SPEED
                if near
                else (1 + redshift * rng.uniform(0.3, 1)) / (1 + redshift)
            )
            places, strength = centres[own] * shift, rng.exponential(0.7) + 0.1
            sigmas = places * np.hypot(np.interp(places, axis, resolution), rng.uniform(30, 110)) / LIGHT_SPEED
            depth += gaussians(axis, places, strength * ratios[own] * shift, sigmas)
    return np.exp(-depth)


def lyman_transmission(
    rng: np.random.Generator, observed: np.ndarray, resolution: np.ndarray, redshift: float
) -> np.ndarray:
    """Share of light that hydrogen between a quasar and us lets through, shape (L,).

    Lines one by one, at random places, as many as the mean transmission of Faucher-Giguere et al. 2008 asks for: for
    lines without correlation the mean is exp(-lines per wavelength * equivalent width), exactly. Each line has its
    Lyman series and its Lyman continuum.

    Args:
        rng: Source of randomness.
        observed: Wavelength as observed in Å, shape (L,), ascending.
        resolution: Standard deviation of the line spread function in km/s, shape (L,).
        redshift: Redshift of the quasar.
    """
    end = LYMAN_ALPHA * (1 + redshift)
    if observed[0] >= end:
        return np.ones(len(observed))
    first = np.log(observed[0]) - 0.005
    grid = first + FOREST_STEP * np.arange(int((np.log(end) + 0.02 - first) / FOREST_STEP))
    systems = _draw_systems(rng, np.exp(first) / LYMAN_ALPHA - 1, redshift)
    depth = _series(grid, _alpha_depth(grid, *systems), redshift) + _limit_depth(grid, *systems[:2])
    light = _smoothed(np.exp(-depth), float(np.interp(end, observed, resolution)))
    return np.interp(np.log(observed), grid, light, right=1.0)


def _draw_systems(rng: np.random.Generator, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Absorbers: redshift, column density per cm², standard deviation in ln of the wavelength, shape (n,) each."""
    depth, growth = MEAN_DEPTH
    populations = [(*FOREST, depth / _mean_width(), growth)]
    for lowest, highest, slope, rate, evolution in DENSE_SYSTEMS:
        populations.append((lowest, highest, slope, rate / 4**evolution, evolution + 1))
    drawn = []
    for lowest, highest, slope, rate, power in populations:
        start, end = (1 + low) ** power, (1 + high) ** power
        count = rng.poisson(rate * (end - start) / power)
        redshifts = rng.uniform(start, end, count) ** (1 / power) - 1
        bottom, top = 10 ** (highest * (1 - slope)), 10 ** (lowest * (1 - slope))
        drawn.append((redshifts, rng.uniform(bottom, top, count) ** (1 / (1 - slope))))
    redshift, column = np.hstack(drawn)
    distance = LIGHT_SPEED * np.log((1 + high) / (1 + redshift))  # km/s
    column /= 1 + PROXIMITY / np.maximum(distance, 1.0)
    return redshift, column, _doppler_sigma(28 * np.exp(rng.normal(-0.03, 0.25, len(column))))


def _doppler_sigma(parameter: float | np.ndarray) -> np.ndarray:
    return np.asarray(parameter) / (np.sqrt(2) * LIGHT_SPEED)


def _alpha_area(column: np.ndarray) -> np.ndarray:
    """Integral of the optical depth of Lyman alpha over ln of the wavelength, from the column per cm²."""
    return 8.853e-13 * LYMAN_SERIES[0, 1] * LYMAN_ALPHA * 1e-8 * column  # pi e² / (m c²) f lambda, in cm


@cache
def _mean_width() -> float:
    """Mean equivalent width of a line of the forest over its wavelength."""
    lowest, highest, slope = FOREST
    column = 10 ** np.linspace(lowest, highest, 200)
    weight = column ** (1 - slope)  # per ln of the column
    sigma = float(_doppler_sigma(28.0))
    offset = np.linspace(-6, 6, 241)
    peak = _alpha_area(column) / (np.sqrt(2 * np.pi) * sigma)
    widths = sigma * np.trapezoid(-np.expm1(-peak[:, None] * np.exp(-0.5 * offset**2)), offset)
    return float(widths @ weight / weight.sum())


def _alpha_depth(grid: np.ndarray, redshift: np.ndarray, column: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Optical depth of Lyman alpha on a grid of ln of the wavelength, with the damping wings of dense systems."""
    centres = np.log(LYMAN_ALPHA * (1 + redshift))
    depth = gaussians(grid, centres, _alpha_area(column), sigma)
    frequency = LIGHT_SPEED * 1e13 / LYMAN_ALPHA  # Hz
    for system in np.flatnonzero(column > 10 ** FOREST[1]):
        wing = _alpha_area(column[system]) * DAMPING / (4 * np.pi**2 * frequency)
        depth += wing / ((grid - centres[system]) ** 2 + sigma[system] ** 2)
    return depth


def _series(grid: np.ndarray, alpha: np.ndarray, redshift: float) -> np.ndarray:
    """Optical depth of the whole series from that of Lyman alpha: the same lines, shifted and weaker."""
    depth = alpha.copy()
    for wavelength, strength in LYMAN_SERIES[1:]:
        shift = round(np.log(LYMAN_ALPHA / wavelength) / FOREST_STEP)
        if shift < len(alpha):
            depth[:-shift] += alpha[shift:] * strength * wavelength / (LYMAN_SERIES[0, 1] * LYMAN_ALPHA)
    return depth


def _limit_depth(grid: np.ndarray, redshift: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Optical depth of ionising hydrogen: 6.3e-18 cm² at the edge, falling with the cube of the frequency."""
    order = np.argsort(redshift)
    edges = np.log(LYMAN_LIMIT * (1 + redshift[order]))
    depths = 6.3e-18 * column[order] * np.exp(3 * (grid[0] - edges))
    beyond = np.append(np.cumsum(depths[::-1])[::-1], 0.0)  # of all systems from this one on
    return beyond[np.searchsorted(edges, grid)] * np.exp(3 * (grid - grid[0]))


def _smoothed(light: np.ndarray, velocity_sigma: float) -> np.ndarray:
    frequency = np.fft.rfftfreq(len(light))
    kernel = np.exp(-2 * (np.pi * frequency * velocity_sigma / (LIGHT_SPEED * FOREST_STEP)) ** 2)
    return np.clip(np.fft.irfft(np.fft.rfft(light) * kernel, len(light)), 0.0, 1.0)


__all__ = ["Nature", "lyman_transmission", "quasar"]
