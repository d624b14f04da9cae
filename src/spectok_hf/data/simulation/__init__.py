"""`simulate_survey`: labelled synthetic spectra on the real grids of the surveys, with their noise-free truth.

`simulate_galaxy_pairs` adds the image of a galaxy to its spectrum.

Plain but right in kind: lines are where they belong, grow and fade as they should, and are as wide as the instrument
makes them; strengths are rules of thumb, not radiative transfer. All physics happens on the vacuum axis; an axis in
air is converted once, and its pixels stay what they are.
"""

import zlib

import numpy as np

from ...models.spectrum import Spectrum, check_choice
from ..surveys import SURVEYS
from .arguments import as_count, as_recipe, as_snr_range, stream_of_visit
from .galaxies import galaxy
from .instrument import make_instrument, observe, typical_flux, visit
from .pairs import GalaxyPair, simulate_galaxy_pairs
from .profiles import log_uniform
from .quasars import quasar
from .recipes import RECIPES, Recipe
from .stars import star

SOURCES = {"STAR": star, "GALAXY": galaxy, "QSO": quasar}


def simulate_survey(
    survey: str,
    n: int,
    seed: int = 0,
    *,
    start: int = 0,
    snr: float | tuple[float, float] | None = None,
    kind: str | None = None,
    honest: bool = False,
    visit: int = 0,
) -> list[Spectrum]:
    """Labelled synthetic spectra on the real grid of a survey.

    Spectrum number i depends on the survey, the seed and i alone, so that a shorter list is a part of a longer one.
    Labels are `class`, `redshift` and `snr`, and for stars `teff` (K), `logg`, `feh` (dex), `rv` (km/s); `rv` is
    the velocity that the spectrum shows, 0 in a survey that ships rest-frame spectra.

    Spectra have the faults of the survey's own. `truth` is the object as the calibration shows it, noise-free: with
    its tilt, waves and steps, and with what the air took and nobody put back. The flux adds to that Gaussian noise;
    what sky subtraction left, at the sky's lines and as a pedestal; and a few spikes that nobody flagged. The noise is
    correlated between neighbouring pixels as resampling leaves it, and its standard deviation is the stated error over
    a factor of the object, `RECIPES[survey].overstatement`, and of the wavelength, `noise_curve`. Stated errors
    scatter from pixel to pixel, in part with the noise itself (`error_scatter`). Bad pixels (`ivar` 0, or masked with
    a finite `ivar`) hold garbage, but for those masked for a bright sky. Grids differ as in the survey: trimmed ends,
    a barycentric shift, a missing arm.

    Args:
        survey: A key of `RECIPES`: all of `SURVEYS` but VIPERS, of which no spectrum was measured.
        n: Number of spectra.
        seed: Non-negative integer.
        start: Number of the first spectrum: those of one seed are the same whichever of them are made.
        snr: Signal-to-noise ratio as the survey would state it: the median over good pixels of the truth over the
            stated error; or its lowest and highest value, drawn uniformly in the logarithm. It leaves the truth
            as it is, and the same noise is larger or smaller: what shall have noise of its own is another `visit`.
        kind: "STAR", "GALAXY" or "QSO" for spectra of that class alone, also where the survey has none.
        honest: Whether errors are true: Gaussian, uncorrelated noise of the stated standard deviation, and no more
            in a good pixel. It leaves the truth as it is, and is what a reconstruction is judged on.
        visit: Number of the observation, from 0: another one shows the same truth, on the same grid and through the
            same calibration, with noise, bad pixels and, where `snr` is a range, a signal-to-noise ratio of its own.

    Returns:
        The spectra, each with its noise-free flux in `truth`.

    Raises:
        ValueError: If the survey or the kind is unknown, `n`, `seed`, `start` or `visit` is not a non-negative
            integer, or `snr` is not positive.
    """
    check_choice("survey", survey, tuple(RECIPES))
    n, seed, start = as_count("n", n), as_count("seed", seed), as_count("start", start)
    number = as_count("visit", visit)
    snr_range = None if snr is None else as_snr_range(snr)
    if kind is not None:
        check_choice("kind", kind, tuple(SOURCES))
    recipe = as_recipe(survey, honest)
    return [_simulate(survey, recipe, seed, index, snr_range, kind, number) for index in range(start, start + n)]


def _simulate(
    survey: str,
    recipe: Recipe,
    seed: int,
    index: int,
    snr_range: tuple[float, float] | None,
    forced: str | None,
    number: int,
) -> Spectrum:
    facts = SURVEYS[survey]
    sequence = np.random.SeedSequence([zlib.crc32(survey.encode()), seed], spawn_key=(index,))
    of_source, of_noise, of_night = sequence.spawn(3)
    source, night = np.random.default_rng(of_source), np.random.default_rng(of_night)
    noise = stream_of_visit(of_noise, number)
    seen = visit(night, make_instrument(survey), recipe)
    drawn = str(source.choice(list(recipe.mix), p=list(recipe.mix.values())))
    kind = forced or drawn
    light, labels = SOURCES[kind](source, seen.instrument, recipe)
    light = light * seen.response
    own_snr = _draw_snr(night, recipe)
    light *= typical_flux(night, recipe, own_snr) / np.median(light)
    snr = own_snr if snr_range is None else log_uniform(noise, *snr_range)
    return Spectrum(
        **observe(noise, light, seen, recipe, snr),
        wavelength=seen.instrument.wavelength,
        survey=survey,
        object_id=f"sim-{survey}-{seed}-{index:05d}",
        medium=facts.medium,
        frame=facts.frame,
        flux_unit=facts.flux_unit,
        labels={"class": kind} | {name: float(value) for name, value in labels.items()} | {"snr": snr},
    )


def _draw_snr(rng: np.random.Generator, recipe: Recipe) -> float:
    """Log-normal between the percentiles of the recipe, cut at the 1st and 99th."""
    low, high = np.log(recipe.snr)
    deviate = np.clip(rng.normal(), -2.326, 2.326)
    return float(np.exp((low + high) / 2 + deviate * (high - low) / (2 * 1.645)))


__all__ = ["GalaxyPair", "simulate_galaxy_pairs", "simulate_survey"]
