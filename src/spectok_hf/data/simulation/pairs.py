"""`simulate_galaxy_pairs`: image and spectrum of the same simulated galaxy."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...models.sky_image import SkyImage, check_bands
from ...models.spectrum import Spectrum, check_choice
from ..surveys import SURVEYS
from .aperture import measured_magnitudes
from .arguments import as_count, as_recipe, as_snr_range, stream_of_visit
from .galaxies import Galaxy, draw_galaxy, galaxy_labels, galaxy_light
from .galaxy_images import Camera, Parts, Scene, Shape, divide_light, draw_shape, expose, render, share_in_fibre
from .instrument import make_instrument, observe, visit
from .passbands import BANDS, flux_scale, galaxy_flux, magnitude
from .profiles import log_uniform
from .recipes import Recipe


class Selection(NamedTuple):
    """Which galaxies a survey observes, and through what."""

    band: str
    faintest: float  # AB magnitude
    fibre: float  # arcsec, diameter


# SDSS: Strauss et al. 2002, AJ 124, 1810; BOSS: Dawson et al. 2013, AJ 145, 10, and Smee et al. 2013, AJ 146, 32;
# DESI, its bright galaxies: Hahn et al. 2023, AJ 165, 253, and DESI Collaboration 2022, AJ 164, 207.
SELECTIONS = {
    "desi": Selection("r", 19.5, fibre=1.5),
    "sdss": Selection("r", 17.77, fibre=3.0),
    "boss": Selection("i", 19.9, fibre=2.0),
}
COUNTS = 0.25  # dex per magnitude, by which bright galaxies are thinned: there are few of them
BRIGHTEST = 13.0  # AB magnitude in r; brighter ones fill the image
SMALLEST_IMAGE = 16  # pixels


class GalaxyPair(NamedTuple):
    """One galaxy, twice."""

    spectrum: Spectrum
    image: SkyImage


def simulate_galaxy_pairs(
    n: int,
    seed: int = 0,
    *,
    start: int = 0,
    survey: str = "desi",
    bands: Sequence[str] = ("g", "r", "z"),
    image_size: int = 96,
    pixel_scale: float = 0.262,
    snr: float | tuple[float, float] | None = None,
    honest: bool = False,
    visit: int = 0,
) -> list[GalaxyPair]:
    """Images and spectra of simulated galaxies, one of each per galaxy.

    A galaxy is drawn once: its redshift, mass, history of star formation, metals and dust give the spectrum, as in
    `simulate_survey`, its magnitudes, and the colours of bulge, disc and young stars; its mass and star formation give
    size, bulge and arms. The spectrum has the level of what the survey's fibre takes of the image in r, and the noise
    that the survey would have at that level. It shows the light of the whole galaxy, as if it were the same
    everywhere. Galaxies are those of the survey that are brighter than its limit: r < 19.5 for DESI (its bright
    galaxies), r < 17.77 for SDSS, i < 19.9 for BOSS.

    Images are in nanomaggies, of the seeing and depth of the DESI Legacy Imaging Surveys, with neighbours; their
    errors are true, a few bad pixels (masked, `ivar` 0) hold garbage, and `truth` is what they were before the noise.

    Pair number i depends on the survey, the seed and i alone, so that a shorter list is a part of a longer one. Image
    and spectrum have the same `object_id` and labels: those that `simulate_survey` gives a galaxy; `mag_g`, ..., the
    AB magnitude of all its light in each band, noise-free; `measured_mag_g`, ..., what a Petrosian aperture measures
    on the noisy image, and `measured_mag_error_g`, ..., its error; `half_light_radius` in arcsec, along the major
    axis; `bulge_share`, that of the bulge in the light in r.

    Args:
        n: Number of pairs.
        seed: Non-negative integer.
        start: Number of the first pair.
        survey: "desi", "sdss" or "boss", whose grid, noise and galaxies the spectra have.
        bands: Bands of the images, of "g", "r", "i", "z"; "r" must be one of them.
        image_size: Height and width of the images in pixels.
        pixel_scale: Size of a pixel in arcsec.
        snr: Signal-to-noise ratio of the spectra in place of what follows from their brightness, as in
            `simulate_survey`. It leaves truth and images as they are, and makes the same noise larger or smaller.
        honest: Whether errors of the spectra are true, as in `simulate_survey`.
        visit: Number of the observation, from 0: another one shows the same truth in spectrum and image, with noise
            and bad pixels, and so measured magnitudes, of its own.

    Returns:
        The pairs, each a named tuple of `spectrum` and `image`.

    Raises:
        ValueError: If `n`, `seed`, `start` or `visit` is not a non-negative integer, the survey has no such galaxies,
            a band is unknown or r is not among them, the image is smaller than 16 pixels, or `snr` is not positive.
    """
    n, seed, start = as_count("n", n), as_count("seed", seed), as_count("start", start)
    number = as_count("visit", visit)
    check_choice("survey", survey, tuple(SELECTIONS))
    camera = _as_camera(bands, image_size, pixel_scale)
    snr_range = None if snr is None else as_snr_range(snr)
    recipe = as_recipe(survey, honest)
    return [_simulate(survey, recipe, camera, seed, index, snr_range, number) for index in range(start, start + n)]


def _as_camera(bands: Sequence[str], image_size: Any, pixel_scale: float) -> Camera:
    letters = check_bands(bands)
    if "r" not in letters or not set(letters) <= set(BANDS):
        raise ValueError(f"bands must be of {', '.join(BANDS)}, and r one of them, found {', '.join(letters)}")
    size = as_count("image_size", image_size)
    if size < SMALLEST_IMAGE:
        raise ValueError(f"image_size must be at least {SMALLEST_IMAGE} pixels, found {size}")
    if not 0.05 <= pixel_scale <= 2:
        raise ValueError(f"pixel_scale must be 0.05 to 2 arcsec, found {pixel_scale!r}: the seeing is 1.2")
    return Camera(letters, size, float(pixel_scale))


def _simulate(
    survey: str,
    recipe: Recipe,
    camera: Camera,
    seed: int,
    index: int,
    snr_range: tuple[float, float] | None,
    number: int,
) -> GalaxyPair:
    sequence = np.random.SeedSequence([zlib.crc32(b"pairs"), zlib.crc32(survey.encode()), seed], spawn_key=(index,))
    of_night, of_noise, of_sky, of_exposure = sequence.spawn(4)
    night, sky = np.random.default_rng(of_night), np.random.default_rng(of_sky)
    noise, exposure = stream_of_visit(of_noise, number), stream_of_visit(of_exposure, number)
    drawn, source = _draw_target(sequence, recipe, SELECTIONS[survey])
    shape = draw_shape(source, drawn)
    parts = divide_light(drawn, shape)
    scene = render(sky, shape, parts, camera)
    image = SkyImage(**expose(exposure, scene, camera), bands=camera.bands, pixel_scale=camera.pixel_scale)
    columns, snr = _observe(night, noise, drawn, survey, recipe, _level(scene, parts, camera, survey), snr_range)
    labels = {"class": "GALAXY"} | galaxy_labels(drawn) | {"snr": snr} | _labels(image, shape, parts, camera)
    facts, name = SURVEYS[survey], f"sim-pair-{survey}-{seed}-{index:05d}"
    spectrum = Spectrum(
        **columns,
        survey=survey,
        object_id=name,
        medium=facts.medium,
        frame=facts.frame,
        flux_unit=facts.flux_unit,
        labels=labels,
    )
    return GalaxyPair(spectrum, replace(image, object_id=name, labels=labels))


def _draw_target(
    sequence: np.random.SeedSequence, recipe: Recipe, selection: Selection
) -> tuple[Galaxy, np.random.Generator]:
    """The first galaxy that the survey observes, each from a stream of its own, and the rest of that stream."""
    while True:
        source = np.random.default_rng(sequence.spawn(1)[0])
        drawn = draw_galaxy(source, recipe)
        brightness = dict(zip(BANDS, magnitude(galaxy_flux(drawn)), strict=True))
        thinned = 10 ** (COUNTS * (brightness[selection.band] - selection.faintest))
        if brightness["r"] > BRIGHTEST and source.random() < thinned <= 1:
            return drawn, source


def _level(scene: Scene, parts: Parts, camera: Camera, survey: str) -> float:
    """Share of the galaxy's light that its spectrum shows."""
    return share_in_fibre(scene, camera, SELECTIONS[survey].fibre, parts.total[BANDS.index("r")])


def _observe(
    night: np.random.Generator,
    noise: np.random.Generator,
    drawn: Galaxy,
    survey: str,
    recipe: Recipe,
    level: float,
    snr_range: tuple[float, float] | None,
) -> tuple[dict[str, np.ndarray], float]:
    """The columns of the spectrum, and its signal-to-noise ratio."""
    seen = visit(night, make_instrument(survey), recipe)
    light = galaxy_light(drawn, seen.instrument.axis, seen.instrument.velocity_sigma) * seen.response
    light *= level * flux_scale(drawn)
    own_snr = _reached_snr(night, recipe, float(np.median(light)))
    snr = own_snr if snr_range is None else log_uniform(noise, *snr_range)
    return observe(noise, light, seen, recipe, snr) | {"wavelength": seen.instrument.wavelength}, snr


def _reached_snr(rng: np.random.Generator, recipe: Recipe, flux: float) -> float:
    """Signal-to-noise ratio that the survey reaches at a median flux: the inverse of `typical_flux`."""
    ratio = flux / (recipe.noise * 10 ** rng.normal(0, recipe.noise_scatter))
    roots = np.roots([1 / recipe.sky_limited_snr, 1.0, 0.0, -(ratio**2)])  # one is positive, the others are not
    return float(roots.real.max())


def _labels(image: SkyImage, shape: Shape, parts: Parts, camera: Camera) -> dict[str, float]:
    total, red = parts.total, BANDS.index("r")
    measured, errors = measured_magnitudes(image)
    labels = {"half_light_radius": shape.half_light_radius, "bulge_share": float(parts.bulge[red] / total[red])}
    columns = {"mag": magnitude(total)[camera.rows], "measured_mag": measured, "measured_mag_error": errors}
    for name, values in columns.items():
        labels |= {f"{name}_{band}": float(value) for band, value in zip(camera.bands, values, strict=True)}
    return labels


__all__ = ["GalaxyPair", "simulate_galaxy_pairs"]
