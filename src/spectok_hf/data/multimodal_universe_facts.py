"""The Multimodal Universe (MMU): what its reader and its writer both know of its layouts; facts and arithmetic only.

Three generations of it are held by users. "v1": HDF5 files of the Flatiron server, `healpix=N/001-of-001.hdf5`.
"preview": flat Parquet on the Hub, made with `push_to_hub` from the v1 loaders. "hats": Parquet by place on the sky.
"""

from itertools import pairwise
from typing import Any

import numpy as np

GENERATIONS = ("v1", "preview", "hats")
UNIVERSE_SURVEYS = ("sdss", "boss", "desi", "galah", "apogee", "vipers")  # whose rows have known errors

HDF5_SUFFIXES = (".hdf5", ".h5")
HEALPIX_ORDER = 4  # nside 16, of the folders of v1 and the coarsest partitions of HATS
FINE_ORDER = 29  # of the column `_healpix_29` of HATS

GALAH_SHIFT = 2  # pixels by which v1 and preview wavelengths are too red: (i + CRPIX1 + 1) for (i + 1 - CRPIX1)
VIPERS_UNIT = 1e17  # the flux is in erg/s/cm2/Angstrom in v1, in 1e-17 of it elsewhere
GAP = 5.0  # times the pixel width: more lies between two detectors


def arm_slices(wavelength: np.ndarray) -> list[slice]:
    """The contiguous pieces of an axis.

    Args:
        wavelength: Å, shape (L,), ascending, without padding.
    """
    step = np.diff(wavelength)
    gaps = np.flatnonzero(step > GAP * np.median(step)) + 1 if len(step) else np.zeros(0, int)
    stops = [0, *gaps.tolist(), len(wavelength)]
    return [slice(start, stop) for start, stop in pairwise(stops) if stop > start]


def shift_arms(wavelength: np.ndarray, pixels: int) -> np.ndarray:
    """A copy of an axis of one or more arms, each moved by a number of its own pixels.

    Args:
        wavelength: Å, shape (L,), ascending within what is above 0; the rest is padding and stays.
        pixels: By how many, positive = to the red.
    """
    shifted = np.array(wavelength, dtype=np.float64)
    real = np.flatnonzero(shifted > 0)
    for arm in arm_slices(shifted[real]):
        own = real[arm]
        if len(own) > 1:
            shifted[own] += pixels * (shifted[own[-1]] - shifted[own[0]]) / (own[-1] - own[0])
    return shifted


def nested_pixel(ra: Any, dec: Any, order: int) -> np.ndarray:
    """HEALPix index in the NESTED scheme (Gorski et al. 2005, ApJ 622, 759); -1 where a coordinate is not finite.

    Args:
        ra: Degrees, shape (n,).
        dec: Degrees, shape (n,).
        order: Depth of the pixels, nside = 2**order.
    """
    ra, dec = np.broadcast_arrays(np.atleast_1d(np.float64(ra)), np.atleast_1d(np.float64(dec)))
    known = np.isfinite(ra) & np.isfinite(dec)
    quarter = np.where(known, ra, 0.0) % 360.0 / 90.0
    face, x, y = _face_and_place(quarter, np.where(known, dec, 0.0), 1 << order)
    index = (face << 2 * order) + _spread(x) + 2 * _spread(y)
    return np.where(known, index, -1)


def _face_and_place(quarter: np.ndarray, dec: np.ndarray, nside: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of the 12 faces, and the place on it, counted to the north-east and to the north-west."""
    sine = np.sin(np.radians(dec))
    # Between the caps: lines of equal index run diagonally, ascending and descending.
    rising = np.floor(nside * (0.5 + quarter - 0.75 * sine)).astype(np.int64)
    falling = np.floor(nside * (0.5 + quarter + 0.75 * sine)).astype(np.int64)
    up, down = rising // nside, falling // nside
    face = np.where(up == down, up % 4 + 4, np.where(up < down, up % 4, down % 4 + 8))
    x, y = falling % nside, nside - 1 - rising % nside
    # In the caps: the distance from the pole, split by the way to the next quarter.
    own = np.minimum(quarter.astype(np.int64), 3)
    distance = nside * np.sqrt(6.0) * np.sin(np.radians(90.0 - np.abs(dec)) / 2)
    east = np.minimum((distance * (quarter - own)).astype(np.int64), nside - 1)
    west = np.minimum((distance * (1 - quarter + own)).astype(np.int64), nside - 1)
    cap, north = np.abs(sine) > 2 / 3, sine > 0
    face = np.where(cap, np.where(north, own, own + 8), face)
    x = np.where(cap, np.where(north, nside - 1 - west, east), x)
    y = np.where(cap, np.where(north, nside - 1 - east, west), y)
    return face, x, y


def _spread(number: np.ndarray) -> np.ndarray:
    """The bits of a number, each moved to twice its place."""
    spread = np.zeros_like(number)
    for bit in range(FINE_ORDER):
        spread |= (number >> bit & 1) << 2 * bit
    return spread


__all__ = [
    "FINE_ORDER",
    "GALAH_SHIFT",
    "GENERATIONS",
    "HDF5_SUFFIXES",
    "HEALPIX_ORDER",
    "UNIVERSE_SURVEYS",
    "VIPERS_UNIT",
    "arm_slices",
    "nested_pixel",
    "shift_arms",
]
