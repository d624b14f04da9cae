"""`simulate_survey`: labelled synthetic spectra on the real grids of the surveys, with their noise-free truth.

Plain but right in kind: lines are where they belong, grow and fade as they should, and are as wide as the instrument
makes them; strengths are rules of thumb, not radiative transfer. All physics happens on the vacuum axis; an axis in
air is converted once, and its pixels stay what they are.
"""

import operator
import zlib
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum, check_choice
from ..surveys import SURVEYS
from .galaxies import galaxy
from .instrument import calibration_error, make_instrument, observe, typical_flux
from .profiles import log_uniform
from .quasars import quasar
from .recipes import RECIPES
from .stars import star

SOURCES = {"STAR": star, "GALAXY": galaxy, "QSO": quasar}


def simulate_survey(
    survey: str, n: int, seed: int = 0, *, snr: float | tuple[float, float] | None = None
) -> list[Spectrum]:
    """Labelled synthetic spectra on the real grid of a survey.

    Spectrum number i depends on the survey, the seed and i alone, so that a shorter list is the beginning of a longer
    one. Flux and error are as honest as they can be: the error is the true standard deviation of Gaussian,
    uncorrelated noise. Bad pixels (cosmic rays and bad columns with `ivar` 0, flagged pixels whose `ivar` is finite)
    hold garbage. Labels are `class`, `redshift` and `snr`, and for stars `teff` (K), `logg`, `feh` (dex), `rv`
    (km/s); `rv` is the velocity that the spectrum shows, 0 in a survey that ships rest-frame spectra.

    Args:
        survey: "sdss", "boss", "desi", "galah", "apogee" or "lamost".
        n: Number of spectra.
        seed: Non-negative integer.
        snr: Median signal-to-noise ratio per good pixel, or its lowest and highest value, drawn uniformly in the
            logarithm. It changes the noise and leaves the truth as it is.

    Returns:
        The spectra, each with its noise-free flux in `truth`.

    Raises:
        ValueError: If the survey is unknown, `n` or `seed` is not a non-negative integer, or `snr` is not positive.
    """
    check_choice("survey", survey, tuple(RECIPES))
    n, seed = _as_count("n", n), _as_count("seed", seed)
    snr_range = None if snr is None else _as_snr_range(snr)
    return [_simulate(survey, seed, index, snr_range) for index in range(n)]


def _as_count(name: str, value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"{name} must be a non-negative integer, found {value!r}")
    return count


def _as_snr_range(snr: Any) -> tuple[float, float]:
    bounds = np.atleast_1d(np.asarray(snr, dtype=np.float64))
    if bounds.shape not in ((1,), (2,)) or not np.isfinite(bounds).all() or not 0 < bounds[0] <= bounds[-1]:
        raise ValueError(f"snr must be a positive number, or two in ascending order, found {snr!r}")
    return float(bounds[0]), float(bounds[-1])


def _simulate(survey: str, seed: int, index: int, snr_range: tuple[float, float] | None) -> Spectrum:
    instrument, recipe, facts = make_instrument(survey), RECIPES[survey], SURVEYS[survey]
    sequence = np.random.SeedSequence([zlib.crc32(survey.encode()), seed], spawn_key=(index,))
    source, noise = (np.random.default_rng(child) for child in sequence.spawn(2))
    kind = str(source.choice(list(recipe.mix), p=list(recipe.mix.values())))
    light, labels = SOURCES[kind](source, instrument, recipe)
    light = light * calibration_error(source, instrument, recipe)
    own_snr = log_uniform(source, *recipe.snr)
    light *= typical_flux(source, recipe, own_snr) / np.median(light)
    snr = own_snr if snr_range is None else log_uniform(noise, *snr_range)
    return Spectrum(
        **observe(noise, light, instrument, recipe, snr),
        wavelength=instrument.wavelength,
        survey=survey,
        object_id=f"sim-{survey}-{seed}-{index:05d}",
        medium=facts.medium,
        frame=facts.frame,
        flux_unit=facts.flux_unit,
        labels={"class": kind} | {name: float(value) for name, value in labels.items()} | {"snr": snr},
    )


__all__ = ["simulate_survey"]
