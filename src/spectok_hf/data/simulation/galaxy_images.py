"""Images of simulated galaxies: bulge, disc and young stars, as a camera on the ground sees them.

The light is that of the galaxy's own populations: the oldest stars make the bulge, the others a disc, and the
youngest, with the gas that they light up, its arms and clumps. What comes from the sky and the camera (seeing, depth)
is after the DESI Legacy Imaging Surveys: Dey et al. 2019, AJ 157, 168; neighbours and bad pixels are by eye.
"""

from dataclasses import dataclass
from math import factorial
from typing import Any, NamedTuple

import numpy as np

from ...models.sky_image import NANOMAGGIES
from .galaxies import RECENT, Galaxy
from .passbands import BANDS, galaxy_flux, kiloparsec, stars_flux

SEEING = {"g": 1.29, "r": 1.18, "i": 1.15, "z": 1.11}  # arcsec, median FWHM of a point source
DEPTH = {"g": 24.0, "r": 23.4, "i": 23.2, "z": 22.5}  # AB magnitude of a point source at 5 sigma
SKY = {"g": 22.1, "r": 21.1, "i": 20.2, "z": 18.9}  # AB magnitude per square arcsec, in dark time; by eye
MOFFAT = 3.0  # exponent of the wings of a point source
CENTRING = 0.1  # arcsec, scatter of the galaxy's place around the middle of the image
MARGIN = 16  # pixels around the image, from which light is scattered into it
CORE, OVERSAMPLED = 5, 8  # within so many pixels of the centre profiles are averaged over 8 x 8 points per pixel
# b(n), by which half of the light is within the half-light radius: Ciotti & Bertin 1999, A&A 352, 447.
SERSIC = {1: 1.6783, 4: 7.6693}

# Half-light radii along the major axis of galaxies of 5e10 solar masses at redshift 0 in kpc, exponents of 1 + z and
# of mass, and scatter in dex: van der Wel et al. 2014, ApJ 788, 28, the first radius a sixth smaller, as nearby (Lange
# et al. 2015, MNRAS 447, 2603). Small passive galaxies shrink no further: Shen et al. 2003, MNRAS 343, 978.
STAR_FORMING_SIZE = (7.5, -0.75, 0.22, 0.16)
PASSIVE_SIZE = (5.6, -1.48, 0.75, 0.10)
SMALLEST_PASSIVE = 1.5  # kpc

# Galaxies and stars that happen to be near, for 25 x 25 arcsec: mean number and range of r magnitude; redness over it.
NEIGHBOURS = {"galaxies": (1.5, (19.5, 23.5), (0.8, 0.35)), "stars": (0.2, (17.0, 22.5), (0.9, 0.45))}
COLOURS = {"g": 1.0, "r": 0.0, "i": -0.40, "z": -0.65}  # magnitude over that in r of something of redness 1
KEPT_CLEAR = 4.5  # arcsec around the centre without neighbours


class Shape(NamedTuple):
    """How the light of a galaxy is spread, but for which light it is."""

    bulge_mass: float  # share of the bulge in the mass
    half_light_radius: float  # arcsec, of all of the light, along the major axis
    concentration: float  # half-light radius of the bulge over that of the disc
    axis_ratios: tuple[float, float]  # of bulge and disc
    angle: float  # of the major axis, radian
    arms: int
    winding: float  # radian of an arm per factor e in radius
    phase: float
    contrast: float  # of the arms, 0 to 1
    clumps: np.ndarray  # (n, 3): radius over the disc's half-light radius, angle in radian, share of the young light


class Parts(NamedTuple):
    """Flux of the parts of a galaxy in nanomaggies, each of shape (4,), by band of BANDS."""

    bulge: np.ndarray
    disc: np.ndarray
    young: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Flux of the galaxy, shape (4,)."""
        return self.bulge + self.disc + self.young


class Neighbour(NamedTuple):
    """Something else in the image."""

    place: tuple[float, float]  # arcsec from the centre, to the right and upwards
    magnitude: float  # AB, in r
    redness: float
    radius: float  # half-light radius in arcsec, 0 for a star
    axis_ratio: float
    angle: float


@dataclass(frozen=True)
class Camera:
    """What an image is made with.

    Args:
        bands: Letters of BANDS.
        image_size: Height and width in pixels.
        pixel_scale: Size of a pixel in arcsec.
    """

    bands: tuple[str, ...]
    image_size: int
    pixel_scale: float

    @property
    def rows(self) -> list[int]:
        """The place of each band in BANDS."""
        return [BANDS.index(band) for band in self.bands]


class Scene(NamedTuple):
    """A noise-free image, and by what it was blurred."""

    galaxy: np.ndarray  # (bands, H, W), nanomaggies, without its neighbours
    flux: np.ndarray  # (bands, H, W), nanomaggies
    centre: tuple[float, float]  # of the galaxy, pixels from the middle of the image, to the right and upwards
    point_sources: np.ndarray  # (bands, H + 2 MARGIN, W + 2 MARGIN), sum 1, around the first pixel


# What the galaxy looks like ------------------------------------------------------------------------------------------


def draw_shape(rng: np.random.Generator, drawn: Galaxy) -> Shape:
    """The shape of a galaxy, from its mass and star formation.

    Args:
        rng: Source of randomness.
        drawn: The galaxy.
    """
    mass, log_ssfr = drawn.mass, float(np.clip(drawn.history.log_ssfr, -12.5, -9))
    # Bulges grow with mass, and more so where stars no longer form: Bluck et al. 2014, MNRAS 441, 599; by eye.
    bulge = 1 / (1 + np.exp(-(1.2 * (mass - 10.7) - 0.9 * (log_ssfr + 10.8) + rng.normal(0, 0.6))))
    inclination = rng.random()  # its cosine
    bulge_thickness, disc_thickness = rng.uniform(0.55, 0.95), rng.uniform(0.15, 0.3)
    forming = 0.0 if drawn.passive else float(np.clip(log_ssfr + 11.3, 0, 1))
    return Shape(
        bulge_mass=float(bulge),
        half_light_radius=_draw_size(rng, drawn) * kiloparsec(drawn.redshift),
        concentration=float(np.clip(10 ** (-0.55 + 0.45 * bulge + rng.normal(0, 0.1)), 0.1, 1.0)),
        axis_ratios=(_projected(bulge_thickness, inclination), _projected(disc_thickness, inclination)),
        angle=rng.uniform(0, np.pi),
        arms=int(rng.choice((2, 3, 4), p=(0.65, 0.2, 0.15))),
        winding=float(rng.choice((-1, 1)) / np.tan(np.deg2rad(rng.uniform(10, 28)))),
        phase=rng.uniform(0, 2 * np.pi),
        contrast=forming * float(np.clip(mass - 9.2, 0, 1)) * rng.uniform(0.5, 1.0),
        clumps=_draw_clumps(rng, forming, mass),
    )


def _draw_size(rng: np.random.Generator, drawn: Galaxy) -> float:
    """Half-light radius in kpc."""
    radius, evolution, exponent, scatter = PASSIVE_SIZE if drawn.passive else STAR_FORMING_SIZE
    size = radius * (1 + drawn.redshift) ** evolution * 10 ** (exponent * (drawn.mass - np.log10(5e10)))
    return float(max(size, SMALLEST_PASSIVE if drawn.passive else 0.0) * 10 ** rng.normal(0, scatter))


def _projected(thickness: float, inclination: float) -> float:
    """Axis ratio of an oblate spheroid, of its thickness and the cosine of its inclination."""
    return float(np.sqrt(thickness**2 + (1 - thickness**2) * inclination**2))


def _draw_clumps(rng: np.random.Generator, forming: float, mass: float) -> np.ndarray:
    """Places where stars form; in small galaxies they hold most of the young light."""
    count = rng.poisson(9)
    radius = rng.gamma(2.0, 1 / SERSIC[1], size=count)  # of an exponential disc
    share = rng.gamma(2.0, 0.5, size=count) * forming * np.clip(0.25 - 0.15 * (mass - 10), 0.06, 0.45)
    return np.stack([radius, rng.uniform(0, 2 * np.pi, count), share / max(count, 1)], axis=1)


def divide_light(drawn: Galaxy, shape: Shape) -> Parts:
    """Flux of bulge, disc and young stars, which add up to that of the galaxy.

    Args:
        drawn: The galaxy.
        shape: Its shape.
    """
    settled = drawn.history.masses * ~RECENT
    younger = np.cumsum(settled) - settled  # bins are in order of age, and the oldest stars are the bulge's
    in_bulge = np.clip(younger + settled - (settled.sum() - shape.bulge_mass), 0, settled)
    bulge, disc = stars_flux(drawn, in_bulge), stars_flux(drawn, settled - in_bulge)
    return Parts(bulge, disc, np.maximum(galaxy_flux(drawn) - bulge - disc, 0))


def disc_radius(shape: Shape, bulge_share: float) -> float:
    """Half-light radius of the disc in arcsec, by which that of the whole is what it shall be.

    Args:
        shape: The shape of the galaxy.
        bulge_share: Share of the bulge in the light.
    """
    radii = np.geomspace(0.05, 20, 300)  # over that of the disc
    within = bulge_share * _within(4, radii / shape.concentration) + (1 - bulge_share) * _within(1, radii)
    return float(shape.half_light_radius / np.interp(0.5, within, radii))


def _within(index: int, radii: np.ndarray) -> np.ndarray:
    """Share of the light of a Sersic profile within a radius over its half-light radius."""
    argument = SERSIC[index] * radii ** (1 / index)
    return 1 - np.exp(-argument) * sum(argument**k / factorial(k) for k in range(2 * index))


# Onto the pixels -----------------------------------------------------------------------------------------------------


def render(rng: np.random.Generator, shape: Shape, parts: Parts, camera: Camera) -> Scene:
    """The galaxy and its neighbours, through the air, without noise.

    Args:
        rng: Source of randomness.
        shape: The shape of the galaxy.
        parts: Its light.
        camera: What the image is made with.
    """
    x, y = rng.normal(0, CENTRING, size=2) / camera.pixel_scale
    seeing = 10 ** rng.normal(0, 0.04)
    points = np.stack([_point_source(camera, SEEING[band] * seeing) for band in camera.bands])
    galaxy = _paint_galaxy(shape, parts, camera, (x, y))
    others = _paint_neighbours(rng, camera)
    blur = np.fft.rfft2(points)
    inner = slice(MARGIN, MARGIN + camera.image_size)
    galaxy, others = (
        np.fft.irfft2(np.fft.rfft2(light) * blur, light.shape[1:])[:, inner, inner] for light in (galaxy, others)
    )
    return Scene(galaxy, galaxy + others, (x, y), points)


def _point_source(camera: Camera, width: float) -> np.ndarray:
    """Image of a point of width (FWHM, arcsec) around the first pixel of a periodic plane, shape (H, W)."""
    size = camera.image_size + 2 * MARGIN
    along = np.minimum(np.arange(size), size - np.arange(size)) * camera.pixel_scale
    core = width / 2 / np.sqrt(2 ** (1 / MOFFAT) - 1)
    light = (1 + (along**2 + along[:, None] ** 2) / core**2) ** -MOFFAT
    return light / light.sum()


def _paint_galaxy(shape: Shape, parts: Parts, camera: Camera, centre: tuple[float, float]) -> np.ndarray:
    """The galaxy above the air, shape (bands, H, W) with the margin."""
    red = BANDS.index("r")
    radius = disc_radius(shape, parts.bulge[red] / parts.total[red]) / camera.pixel_scale
    size = camera.image_size + 2 * MARGIN
    planes = np.zeros((3, size, size))
    right, up = np.arange(size) - (size - 1) / 2 - centre[0], np.arange(size)[:, None] - (size - 1) / 2 - centre[1]
    planes[:] = _profiles(shape, radius, right, up)
    core = slice(size // 2 - CORE, size // 2 + CORE + size % 2)
    finer = (np.arange(OVERSAMPLED) - (OVERSAMPLED - 1) / 2) / OVERSAMPLED
    right, up = (np.add.outer(axis.ravel()[core], finer).ravel() for axis in (right, up))
    fine = np.array(_profiles(shape, radius, right, up[:, None]))
    count = len(right) // OVERSAMPLED
    planes[:, core, core] = fine.reshape(3, count, OVERSAMPLED, count, OVERSAMPLED).mean(axis=(2, 4))
    _add_clumps(planes[2], shape, radius, centre)
    return np.tensordot(np.array(parts)[:, camera.rows].T, planes, 1)


def _profiles(
    shape: Shape, radius: float, right: np.ndarray, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Light of bulge, disc and young stars per pixel, of total 1, at places in pixels from the centre; each (H, W)."""
    along = right * np.cos(shape.angle) + up * np.sin(shape.angle)
    across = up * np.cos(shape.angle) - right * np.sin(shape.angle)
    ratio = shape.axis_ratios[0]
    bulge = _sersic(4, np.hypot(along, across / ratio), radius * shape.concentration, ratio)
    across /= shape.axis_ratios[1]
    distance = np.hypot(along, across) / radius
    disc = _sersic(1, distance * radius, radius, shape.axis_ratios[1])
    if not shape.contrast:
        return bulge, disc, disc
    turned = np.arctan2(across, along) - shape.winding * np.log(distance + 0.2)
    depth = shape.contrast * distance**2 / (distance**2 + 0.15)  # no arms in the middle
    wave = depth * np.cos(shape.arms * turned + shape.phase)
    young = disc * (1 + wave) ** 4 / (1 + 3 * depth**2 + 0.375 * depth**4)  # the mean around the galaxy
    return bulge, disc * (1 + 0.45 * wave), young


def _sersic(index: int, distance: np.ndarray, radius: float, ratio: float) -> np.ndarray:
    """A Sersic profile of total 1, at elliptical radii in pixels: Graham & Driver 2005, PASA 22, 118."""
    steepness = SERSIC[index]
    total = 2 * np.pi * index * radius**2 * ratio * steepness ** (-2 * index) * factorial(2 * index - 1)
    return np.exp(-steepness * (distance / radius) ** (1 / index)) / total


def _add_clumps(young: np.ndarray, shape: Shape, radius: float, centre: tuple[float, float]) -> None:
    """Moves light of the young stars into clumps, in place."""
    distances, angles, shares = shape.clumps.T
    along, across = distances * np.cos(angles), distances * np.sin(angles) * shape.axis_ratios[1]
    right = along * np.cos(shape.angle) - across * np.sin(shape.angle)
    up = along * np.sin(shape.angle) + across * np.cos(shape.angle)
    young *= 1 - shares.sum()
    for x, y, share in zip(right * radius + centre[0], up * radius + centre[1], shares, strict=True):
        _add_point(young, (x, y), share)


def _add_point(plane: np.ndarray, place: tuple[float, float], flux: np.ndarray | float) -> None:
    """Adds a point to planes, shape (..., H, W), in place; its place is in pixels from the middle."""
    size = plane.shape[-1]
    x, y = (offset + (size - 1) / 2 for offset in place)
    column, row = int(np.floor(x)), int(np.floor(y))
    if 0 <= column < size - 1 and 0 <= row < size - 1:
        shares = np.outer([row + 1 - y, y - row], [column + 1 - x, x - column])
        plane[..., row : row + 2, column : column + 2] += np.multiply.outer(flux, shares)


def _paint_neighbours(rng: np.random.Generator, camera: Camera) -> np.ndarray:
    """What is near, above the air, shape (bands, H, W) with the margin."""
    size = camera.image_size + 2 * MARGIN
    planes = np.zeros((len(camera.bands), size, size))
    for other in _draw_neighbours(rng, size * camera.pixel_scale):
        colours = np.array([COLOURS[band] for band in camera.bands]) * other.redness
        flux = 10 ** (0.4 * (NANOMAGGIES - other.magnitude - colours))
        place = (other.place[0] / camera.pixel_scale, other.place[1] / camera.pixel_scale)
        if other.radius:
            _add_disc(planes, other, place, flux, camera.pixel_scale)
        else:
            _add_point(planes, place, flux)
    return planes


def _draw_neighbours(rng: np.random.Generator, width: float) -> list[Neighbour]:
    """What is near in a square of a width in arcsec; counts grow by 0.35 dex per magnitude, roughly as in the sky."""
    found = []
    for kind, (mean, (bright, faint), (redness, scatter)) in NEIGHBOURS.items():
        for _ in range(rng.poisson(mean * (width / 25) ** 2)):
            place = rng.uniform(-width / 2, width / 2, size=2)
            brightness = np.log10(rng.uniform(10 ** (0.35 * bright), 10 ** (0.35 * faint))) / 0.35
            radius = 0.0 if kind == "stars" else 0.75 * 10 ** (-0.12 * (brightness - 21.5) + rng.normal(0, 0.15))
            looks = (rng.normal(redness, scatter), radius, rng.uniform(0.3, 1), rng.uniform(0, np.pi))
            if np.hypot(*place) > KEPT_CLEAR:
                found.append(Neighbour((float(place[0]), float(place[1])), float(brightness), *looks))
    return found


def _add_disc(
    planes: np.ndarray, other: Neighbour, place: tuple[float, float], flux: np.ndarray, pixel_scale: float
) -> None:
    """Adds an exponential disc to planes, shape (bands, H, W), in place."""
    size, radius = planes.shape[-1], other.radius / pixel_scale
    reach = int(4 * radius) + 2
    column, row = (round(offset + (size - 1) / 2) for offset in place)
    rows, columns = slice(max(row - reach, 0), row + reach + 1), slice(max(column - reach, 0), column + reach + 1)
    right = np.arange(size)[columns] - (size - 1) / 2 - place[0]
    up = np.arange(size)[rows, None] - (size - 1) / 2 - place[1]
    along = right * np.cos(other.angle) + up * np.sin(other.angle)
    across = (up * np.cos(other.angle) - right * np.sin(other.angle)) / other.axis_ratio
    light = _sersic(1, np.sqrt(along**2 + across**2 + 0.1), radius, other.axis_ratio)  # softened: pixels are wide
    planes[:, rows, columns] += np.multiply.outer(flux, light)


def share_in_fibre(scene: Scene, camera: Camera, diameter: float, total: float) -> float:
    """Share of the galaxy's light in r that its spectrum shows, over what the fibre takes of a point.

    Spectra are calibrated on stars, of which the fibre loses light as well: Guy et al. 2023, AJ 165, 144.

    Args:
        scene: The image.
        camera: What it was made with.
        diameter: Diameter of the fibre in arcsec.
        total: All of the galaxy's light in r in nanomaggies.
    """
    red, radius = camera.bands.index("r"), diameter / 2 / camera.pixel_scale
    size = camera.image_size
    right, up = (np.arange(size) - (size - 1) / 2 - offset for offset in scene.centre)
    taken = np.sum(_disc_weights(right, up, radius) * scene.galaxy[red])
    size += 2 * MARGIN
    around = (np.arange(size) + size // 2) % size - size // 2
    of_point = np.sum(_disc_weights(around, around, radius) * scene.point_sources[red])
    return float(taken / of_point / total)


def _disc_weights(right: np.ndarray, up: np.ndarray, radius: float) -> np.ndarray:
    """Share of each pixel within a circle, roughly, shape (H, W)."""
    return np.clip(radius - np.hypot(right, up[:, None]) + 0.5, 0, 1)


# What the camera makes of it -----------------------------------------------------------------------------------------


def expose(rng: np.random.Generator, scene: Scene, camera: Camera) -> dict[str, Any]:
    """The image with noise and bad pixels, and without: columns of a `SkyImage`, flux and ivar in nanomaggies.

    Args:
        rng: Source of randomness.
        scene: The noise-free image.
        camera: What it is made with.
    """
    depth = np.array([DEPTH[band] for band in camera.bands]) + rng.normal(0, 0.12, size=len(camera.bands))
    point = 10 ** (0.4 * (NANOMAGGIES - depth)) / 5  # error of the flux of a point source
    noise = point * np.sqrt((scene.point_sources**2).sum(axis=(1, 2)))
    sky = 10 ** (0.4 * (NANOMAGGIES - np.array([SKY[band] for band in camera.bands]))) * camera.pixel_scale**2
    error = noise[:, None, None] * np.sqrt(1 + np.maximum(scene.flux, 0) / sky[:, None, None])
    flux = scene.flux + error * rng.normal(size=error.shape)
    mask = np.zeros(flux.shape, dtype=bool)
    for plane, bad, typical in zip(flux, mask, noise, strict=True):
        _hit(rng, plane, bad, typical)
    return {"flux": flux, "ivar": np.where(mask, 0.0, error**-2), "mask": mask, "truth": scene.flux}


def _hit(rng: np.random.Generator, plane: np.ndarray, bad: np.ndarray, noise: float) -> None:
    """Tracks of cosmic rays, and now and then a dead column, in place; both are flagged."""
    size = len(plane)
    for _ in range(rng.poisson(0.7)):
        (row, column), length = rng.integers(size, size=2), rng.integers(2, 8)
        slope, steps = rng.uniform(-1, 1), np.arange(length)
        rows, columns = np.clip([row + steps, column + np.round(slope * steps).astype(int)], 0, size - 1)
        plane[rows, columns] += noise * 10 ** rng.uniform(1, 2.5, size=length)
        bad[rows, columns] = True
    if rng.random() < 0.03:
        column = rng.integers(size)
        plane[:, column], bad[:, column] = 0.0, True


__all__ = [
    "Camera", "Parts", "Scene", "Shape", "disc_radius", "divide_light", "draw_shape", "expose", "render",
    "share_in_fibre",
]  # fmt: skip
