"""The haze of weak lines and bands that no table lists: pseudo-random templates, smoothed once for all resolutions.

Its lines are made up: a fixed seed places them, with the density that real spectra have, so that spectra of cool
stars are as rough as real ones and the same lines are in all stars. Bands begin where real ones do; CO is computed.
"""

from functools import cache
from itertools import pairwise

import numpy as np

from .profiles import LIGHT_SPEED
from .stellar_lines import BANDS, CARBON_MONOXIDE, HAZE

SHORTEST = 1500.0  # Å
SIZE = 2**18  # pixels of the finest template: up to 20,700 Å
STEP, FINEST = 3.0, 4.0  # km/s, a pixel of the finest template, and the standard deviation of its lines
EVEN = 600.0  # km/s: over so much, weak atomic lines take the same share of the light everywhere
LEVELS = 8  # each template is twice as smooth as the one before: up to 512 km/s
# Share of the weak lines at 4000 Å and at 6000 Å: of neutral atoms from low and from high levels, and of ions.
ATOMS = {"low": (0.6, 0.2), "high": (0.15, 0.7), "ion": (0.25, 0.1)}
BLENDED = {"H2O": 0.75, "FeH": 0.5}  # share of a band's depth that is of lines too crowded to be told apart
GROUPS = (*ATOMS, *BANDS, "CO")


@cache
def _templates() -> list[np.ndarray]:
    """Optical depth of each group, smoothed ever more: arrays (pixels, groups), evenly spaced in log wavelength."""
    wavelength = SHORTEST * np.exp(np.arange(SIZE) * STEP / LIGHT_SPEED)
    rng = np.random.default_rng(61)
    depths = [_atoms(rng, wavelength, blue, red) for blue, red in ATOMS.values()]
    depths += [_band(rng, wavelength, text, BLENDED.get(name, 0.0)) for name, text in BANDS.items()]
    depths.append(_carbon_monoxide(wavelength))
    spectra = [np.fft.rfft(np.exp(-_smooth(depth))) for depth in depths]
    return [np.stack([_level(spectrum, level) for spectrum in spectra], axis=1) for level in range(LEVELS)]


def _level(spectrum: np.ndarray, level: int) -> np.ndarray:
    """Optical depth of one group at one level; a Fourier transform cut short is one with fewer pixels."""
    size = SIZE >> level
    values = np.fft.irfft((spectrum * _kernel(FINEST * np.sqrt(4.0**level - 1)))[: size // 2 + 1], n=size)
    return -np.log(np.clip(values / 2**level, 1e-3, 1.0)).astype(np.float32)


def _kernel(sigma: float) -> np.ndarray:
    return np.exp(-0.5 * (2 * np.pi * sigma / STEP * np.fft.rfftfreq(SIZE)) ** 2)


def _smooth(values: np.ndarray, sigma: float = FINEST) -> np.ndarray:
    return np.maximum(np.fft.irfft(np.fft.rfft(values) * _kernel(sigma), n=SIZE), 0.0)


def _scatter(rng: np.random.Generator, mean: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Optical depth per pixel, as few lines: each pixel holds one with a chance of one in `spacing` pixels."""
    has_line = rng.random(len(mean)) * spacing < 1
    strength = rng.exponential(size=len(mean)) ** 1.3 / 1.167  # 1.33 = mean of the power of an exponential variable
    return np.where(has_line, mean * spacing * strength, 0.0)


def _atoms(rng: np.random.Generator, wavelength: np.ndarray, blue: float, red: float) -> np.ndarray:
    share = np.interp(wavelength, [4000, 6000], [blue, red])
    blocked = np.interp(wavelength, *HAZE.T)
    spacing = 14 / (1 + 10 * blocked)  # pixels of 3 km/s: lines crowd together to the blue
    mean = 1.7 * share * -np.log1p(-blocked)
    depth = _scatter(rng, mean, spacing)
    return depth * mean / np.maximum(_smooth(depth, EVEN), 0.2 * mean)  # no clump of chance looks like a strong line


def _band(rng: np.random.Generator, wavelength: np.ndarray, text: str, blended: float) -> np.ndarray:
    mean = np.zeros(len(wavelength))
    for band in text.split(","):
        head, direction, length, strength = map(float, band.split())
        distance = (wavelength - head) * direction
        inside = (distance > 0) & (distance < 12 * length)
        mean[inside] += strength * np.exp(-distance[inside] / length)
    return blended * mean + _scatter(rng, (1 - blended) * mean, np.full(len(mean), 5 - 4 * blended))


def _carbon_monoxide(wavelength: np.ndarray) -> np.ndarray:
    """The second overtone of CO, line by line: vibration changes by three, rotation by one."""
    vibration, square_term, cubic_term, rotation, coupling, stretching, temperature = CARBON_MONOXIDE
    lower = np.arange(9)[:, None]
    branch = np.concatenate([np.arange(100), np.arange(1, 100)])  # quantum number of the lower level: R, then P
    after = branch + np.repeat([1, -1], [100, 99])
    energies = []
    for level, spin in ((lower, branch), (lower + 3, after)):
        v, square = level + 0.5, spin * (spin + 1)
        vibrating = vibration * v - square_term * v**2 + cubic_term * v**3
        energies.append(vibrating + (rotation - coupling * v) * square - stretching * square**2)
    centres = 1e8 / (energies[1] - energies[0]) - 0.12  # Å: rounded constants, met in a network fitted to APOGEE
    weight = (lower + 1) * (lower + 2) * (lower + 3) / 6 * np.maximum(branch, after)
    depth = weight * np.exp(-1.438777 * (energies[0] - energies[0][0, 0]) / temperature)
    edges = np.searchsorted(wavelength * (1 + 0.5 * STEP / LIGHT_SPEED), centres.ravel())  # the nearest pixel
    return 60 * np.bincount(edges, depth.ravel() / depth.max(), minlength=len(wavelength) + 1)[:-1]


def haze(axis: np.ndarray, strengths: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Optical depth of the haze, shape (L,).

    Args:
        axis: Wavelength in Å, shape (L,), ascending.
        strengths: Factor on the optical depth of each of `GROUPS`.
        width: Standard deviation in km/s of what smooths the lines, a number or shape (L,).
    """
    finer = np.clip(np.asarray(width) / FINEST, 1.0, 2.0 ** (LEVELS - 1.001))
    low, high = (int(np.log2(value)) for value in (np.min(finer), np.max(finer)))
    velocity = np.log(axis / SHORTEST) * LIGHT_SPEED
    depths = [_read(level, velocity, strengths) for level in range(low, high + 2)]
    total = depths[0]
    for level, (sharp, smooth) in enumerate(pairwise(depths), start=low):
        total = total + np.clip((finer**2 / 4.0**level - 1) / 3, 0.0, 1.0) * (smooth - sharp)
    return total


def _read(level: int, velocity: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    template = _templates()[level]
    place = np.clip(velocity / (STEP * 2**level), 0, len(template) - 1.001)
    first, last = int(place[0]), int(place[-1]) + 2
    used = np.flatnonzero(strengths > 1e-4)
    depth = template[first:last, used] @ strengths[used].astype(np.float32)
    index = (place - first).astype(int)
    return depth[index] + (place - first - index) * (depth[index + 1] - depth[index])
