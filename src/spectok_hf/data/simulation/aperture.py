"""Magnitudes that are measured on an image, as a pipeline would: nothing is known but its pixels."""

from functools import cache

import numpy as np

from ...models.sky_image import SkyImage
from .passbands import magnitude

PETROSIAN = 0.2  # surface brightness at the Petrosian radius, over the mean within: Blanton et al. 2001, AJ 121, 2358
APERTURE = 2.0  # Petrosian radii
NEIGHBOUR = 4.0  # errors by which a pixel must exceed twice what is opposite to it, to belong to something else
OWN = 3.0  # arcsec around the centre, where all light is the galaxy's


def measured_magnitudes(image: SkyImage, band: str = "r") -> tuple[np.ndarray, np.ndarray]:
    """Petrosian magnitudes of what is in the middle of an image, AB, and their errors, each of shape (bands,).

    All bands have the aperture of one. Bad pixels, and those of neighbours, are replaced by what is opposite to them.

    Args:
        image: The image; it must have `ivar`.
        band: The band that sets the aperture.

    Raises:
        ValueError: If the image has no `ivar`.
    """
    if image.ivar is None:
        raise ValueError(f"magnitudes need errors, found no ivar in {image!r}: pass SkyImage(..., ivar=)")
    flux, error = _without_neighbours(image, image.ivar)
    rings = _rings(*image.shape)
    radius = APERTURE * _petrosian_radius(flux[image.bands.index(band)], rings)
    inside = rings < max(round(radius), 2)
    total = flux[:, inside].sum(axis=1, dtype=np.float64)
    uncertainty = np.sqrt((error[:, inside].astype(np.float64) ** 2).sum(axis=1))
    return magnitude(total), np.where(total > 0, 2.5 / np.log(10) * uncertainty / np.abs(total), np.nan)


def _without_neighbours(image: SkyImage, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flux and its error, shape (bands, H, W), of what is symmetric about the centre; 0 where both pixels are bad."""
    good = image.good
    error = np.where(good, 1 / np.sqrt(np.where(good, ivar, 1.0)), 0.0)
    flux = np.where(good, image.flux, 0.0)
    opposite, opposite_error = flux[:, ::-1, ::-1], error[:, ::-1, ::-1]
    excess = flux - 2 * np.maximum(opposite, 0) > NEIGHBOUR * np.hypot(error, opposite_error)
    outside = _rings(*image.shape) * image.pixel_scale > OWN
    foreign = ~good | (excess & outside & good[:, ::-1, ::-1])
    return np.where(foreign, opposite, flux), np.where(foreign, opposite_error, error)


def _petrosian_radius(flux: np.ndarray, rings: np.ndarray) -> float:
    """In pixels, at most as wide as fits into the image; flux is (H, W)."""
    pixels = np.bincount(rings.ravel())
    light = np.bincount(rings.ravel(), flux.ravel())
    pixels, light = pixels[: min(flux.shape) // 2], light[: min(flux.shape) // 2]
    faint = light / pixels < PETROSIAN * np.cumsum(light) / np.cumsum(pixels)
    beyond = np.flatnonzero(faint[2:])
    return float(min(beyond[0] + 2.5, len(pixels) / APERTURE) if len(beyond) else len(pixels) / APERTURE)


@cache
def _rings(height: int, width: int) -> np.ndarray:
    """Distance of each pixel from the middle, in whole pixels, shape (H, W)."""
    up, right = np.ogrid[:height, :width]
    return np.hypot(up - (height - 1) / 2, right - (width - 1) / 2).astype(int)


__all__ = ["measured_magnitudes"]
