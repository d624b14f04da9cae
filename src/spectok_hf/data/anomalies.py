"""`inject_anomaly`: what goes wrong with spectra, put into a good one at a known strength, to judge who finds it.

Five kinds, each as a pipeline or a catalogue makes it: two objects joined to one spectrum, cosmic rays that nobody
flagged, lines where there are none, a part whose flux calibration is off, and an arm with the flux of another one.
Nothing in `ivar` or `mask` gives them away: an error is scaled only where its flux is.
"""

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from .degradations import FWHM_PER_SIGMA
from .surveys import SURVEYS

COSMIC_RAYS, LINES = 3, 2  # per spectrum
LINE_WIDTHS = (1.0, 3.0)  # narrowest and broadest line, in units of the instrument's
MIDDLE = (0.25, 0.75)  # share of the good pixels between which a boundary is drawn where there are no arms
LEVEL_PIXELS = 50  # good pixels on each side over which two parts are brought to one level
LEAST_PIXELS = 100  # good pixels that an anomaly needs: with fewer there is no spectrum to spoil
COLUMNS = ("flux", "ivar", "mask", "truth")

Columns = dict[str, np.ndarray]
# Changes the columns of a spectrum in place and says at which wavelengths, Å.
Injection = Callable[[Spectrum, Columns, float, np.random.Generator], list[float]]


def inject_anomaly(
    spectrum: Spectrum, kind: str, *, strength: float | None = None, seed: int = 0, partner: Spectrum | None = None
) -> Spectrum:
    """A spectrum with an anomaly; the one that is given stays as it is.

    The noise-free flux of a simulated spectrum changes with its flux. The labels of the result say what was done:
    `anomaly`, `anomaly_strength`, and `anomaly_wavelength`, the list of places in Å.

    Args:
        spectrum: A spectrum with at least 100 good pixels.
        kind: A key of `ANOMALIES`:
            "stitched": the red part is that of another object of the same class at another redshift, brought to the
            same level at the joint; strength = share of the good pixels that are the other's.
            "cosmic_rays": three positive spikes, one to three pixels wide; strength = height in standard deviations.
            "fake_lines": two Gaussian lines, up or down, one to three times as wide as the instrument makes them;
            strength = signal-to-noise ratio of each line.
            "flux_step": all on one side of a boundary between arms (drawn in the middle half, where the survey has
            one arm) is multiplied by 1 + or 1 - the strength.
            "swapped_arms": a stretch of an arm has the flux of another arm (of the other half, where the survey has
            one arm), at its own level; strength = share of the arm.
        strength: How strong, see `kind`; None = as in `ANOMALIES`.
        seed: Decides all that is drawn, together with the identifier of the spectrum.
        partner: The other object of "stitched"; no other kind has one.

    Raises:
        ValueError: If the kind is unknown, the strength out of range, there are too few good pixels, or only bad ones
            where the anomaly falls, or a partner is missing, not wanted, or does not fit.
    """
    check_choice("kind", kind, tuple(ANOMALIES))
    strength = ANOMALIES[kind] if strength is None else float(strength)
    _check(spectrum, kind, strength, partner)
    rng = np.random.default_rng([seed, zlib.crc32(f"{kind} {spectrum.object_id}".encode())])
    columns = {name: getattr(spectrum, name).copy() for name in COLUMNS if getattr(spectrum, name) is not None}
    if partner is not None:
        places = _stitch(spectrum, columns, strength, partner)
    else:
        places = _INJECTIONS[kind](spectrum, columns, strength, rng)
    seen = spectrum.good & ~columns["mask"] & (columns["ivar"] > 0)
    if not (seen & (columns["flux"] != spectrum.flux)).any():
        raise ValueError(f"{kind!r} fell on bad pixels alone in {spectrum!r}, and would not show: pass another seed")
    labels = {"anomaly": kind, "anomaly_strength": strength, "anomaly_wavelength": places}
    return Spectrum.unchecked(**vars(spectrum) | columns | {"labels": spectrum.labels | labels, "dropped": {}})


def _check(spectrum: Spectrum, kind: str, strength: float, partner: Spectrum | None) -> None:
    most = 1.0 if kind in _SHARES else np.inf
    if not 0 < strength <= most or not np.isfinite(strength):
        limit = " and at most 1" if kind in _SHARES else ""
        raise ValueError(f"the strength of {kind!r} must be positive{limit}, found {strength:g}")
    if (good := int(spectrum.good.sum())) < LEAST_PIXELS:
        raise ValueError(f"an anomaly needs {LEAST_PIXELS} good pixels, found {good} in {spectrum!r}")
    if (partner is not None) != (kind == "stitched"):
        found = "none" if partner is None else repr(partner)
        raise ValueError(f'"stitched" needs partner=, and no other kind takes one, found {kind!r} with {found}')
    if partner is not None:
        _check_partner(spectrum, partner)


def _check_partner(spectrum: Spectrum, partner: Spectrum) -> None:
    kinds = [one.labels.get("class") for one in (spectrum, partner)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"partner must be of the same class, found {kinds[0]} and {kinds[1]}")
    redshifts = [one.labels.get("redshift") for one in (spectrum, partner)]
    if any(one is None or not np.isfinite(one) for one in redshifts) or redshifts[0] == redshifts[1]:
        raise ValueError(f"partner must have another known redshift, found {redshifts[0]} and {redshifts[1]}")
    if (spectrum.medium, spectrum.frame) != (partner.medium, partner.frame):
        raise ValueError(f"partner must have the same medium and frame, found {spectrum!r} and {partner!r}")


def _stitch(spectrum: Spectrum, columns: Columns, strength: float, partner: Spectrum) -> list[float]:
    """With noise-free fluxes of both the noise stays the spectrum's own, else it comes with the flux."""
    pixels = np.flatnonzero(spectrum.good)
    joint = int(pixels[min(round((1 - strength) * len(pixels)), len(pixels) - 1)])
    red = np.arange(len(spectrum)) >= joint
    known = partner.good
    if known.sum() < LEAST_PIXELS:
        raise ValueError(f"partner needs {LEAST_PIXELS} good pixels, found {known.sum()} in {partner!r}")
    low, high = partner.wavelength[known][[0, -1]]
    outside = red & ((spectrum.wavelength < low) | (spectrum.wavelength > high))
    if outside[red].mean() > 0.5:
        raise ValueError(f"partner must cover the red part from {spectrum.wavelength[joint]:.0f} Å, found {partner!r}")
    if spectrum.truth is not None and partner.truth is not None:
        other = np.interp(spectrum.wavelength, partner.wavelength, partner.truth)
        light = spectrum.truth.astype(np.float64)
        joined = other * _level(light, other, joint, spectrum.good)
        columns["flux"][red] += (joined - light)[red].astype(np.float32)
        columns["truth"][red] = joined[red]
    else:
        columns.pop("truth", None)
        other = np.interp(spectrum.wavelength, partner.wavelength[known], partner.flux[known])
        factor = _level(spectrum.flux, other, joint, spectrum.good)
        nearest = np.clip(np.searchsorted(partner.wavelength, spectrum.wavelength), 0, len(partner) - 1)
        columns["flux"][red] = (other * factor)[red]
        columns["ivar"][red] = np.where(known, partner.ivar, 0)[nearest][red] / factor**2
    columns["mask"][outside] = True
    return [float(spectrum.wavelength[joint])]


def _level(flux: np.ndarray, other: np.ndarray, joint: int, good: np.ndarray) -> float:
    """Factor that brings another flux to the level of this one around a joint."""
    near = np.flatnonzero(good)
    middle = int(np.searchsorted(near, joint))
    near = near[max(middle - LEVEL_PIXELS, 0) : middle + LEVEL_PIXELS]
    own, others = float(np.median(flux[near])), float(np.median(other[near]))
    if not (own > 0 and others > 0):
        raise ValueError(f"both objects must have a positive flux at the joint, found medians {own:g} and {others:g}")
    return own / others


def _add_cosmic_rays(spectrum: Spectrum, columns: Columns, strength: float, rng: np.random.Generator) -> list[float]:
    pixels = np.flatnonzero(spectrum.good)
    hit = rng.choice(pixels[1:-1], COSMIC_RAYS, replace=False)
    for pixel in hit:
        left, right = rng.choice([0.0, 0.4], 2)
        for place, share in ((pixel - 1, left), (pixel, 1.0), (pixel + 1, right)):
            if spectrum.good[place]:
                _add(columns, np.array([place]), share * strength * spectrum.error[place])
    return [float(spectrum.wavelength[pixel]) for pixel in hit]


def _add_lines(spectrum: Spectrum, columns: Columns, strength: float, rng: np.random.Generator) -> list[float]:
    pixels = np.flatnonzero(spectrum.good)
    margin = len(pixels) // 50
    centers = spectrum.wavelength[rng.choice(pixels[margin : len(pixels) - margin], LINES, replace=False)]
    error = np.where(spectrum.good, spectrum.error, np.inf)
    for center in centers:
        sigma = _lsf_sigma(spectrum, float(center)) * rng.uniform(*LINE_WIDTHS)
        profile = np.exp(-0.5 * ((spectrum.wavelength - center) / sigma) ** 2)
        height = strength / np.sqrt(((profile / error) ** 2).sum())
        _add(columns, spectrum.good & (profile > 1e-6), rng.choice([-1.0, 1.0]) * height * profile)
    return centers.tolist()


def _lsf_sigma(spectrum: Spectrum, wavelength: float) -> float:
    """Width of the instrument's lines in Å: two pixels, where the survey is not known."""
    facts = SURVEYS.get(spectrum.survey or "")
    if facts is None:
        return 2.0 * float(np.interp(wavelength, spectrum.wavelength, np.gradient(spectrum.wavelength)))
    curve = facts.resolving_curve or ((0.0, facts.resolving_power),)
    return wavelength / float(np.interp(wavelength, *np.transpose(curve))) / FWHM_PER_SIGMA


def _multiply_part(spectrum: Spectrum, columns: Columns, strength: float, rng: np.random.Generator) -> list[float]:
    boundaries = _boundaries(spectrum)
    if not boundaries:
        pixels = np.flatnonzero(spectrum.good)
        boundaries = [float(spectrum.wavelength[pixels[int(rng.uniform(*MIDDLE) * len(pixels))]])]
    boundary = float(rng.choice(boundaries))
    part = (spectrum.wavelength < boundary) == bool(rng.integers(2))
    factor = 1 + rng.choice([-1.0, 1.0]) * strength
    if factor <= 0:
        factor = 1 + strength
    for name, power in (("flux", 1), ("truth", 1), ("ivar", -2)):
        if name in columns:
            columns[name][part] *= np.float32(factor**power)
    return [boundary]


def _swap_arms(spectrum: Spectrum, columns: Columns, strength: float, rng: np.random.Generator) -> list[float]:
    edges = [-np.inf, *(_boundaries(spectrum) or [float(np.median(spectrum.wavelength))]), np.inf]
    arms = [
        np.flatnonzero((spectrum.wavelength >= low) & (spectrum.wavelength < high))
        for low, high in itertools.pairwise(edges)
    ]
    arms = [arm for arm in arms if spectrum.good[arm].sum() > LEAST_PIXELS // 4]
    if len(arms) < 2:
        raise ValueError(f"swapped arms need good pixels in two arms, found {len(arms)} of them in {spectrum!r}")
    target, source = (arms[number] for number in rng.permutation(len(arms))[:2])
    count = max(int(min(strength * len(target), len(source))), 1)
    target, source = (_stretch(arm, count, rng) for arm in (target, source))
    levels = [
        float(np.median(spectrum.flux[part][spectrum.good[part]], axis=0)) if spectrum.good[part].any() else 0.0
        for part in (target, source)
    ]
    factor = levels[0] / levels[1] if min(levels) > 0 else 1.0
    for name, power in (("flux", 1), ("truth", 1), ("ivar", -2), ("mask", 0)):
        if name in columns:
            own = getattr(spectrum, name)
            columns[name][target] = own[source] if not power else own[source] * np.float32(factor**power)
    return [float(spectrum.wavelength[target[0]]), float(spectrum.wavelength[target[-1]])]


def _stretch(arm: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    first = int(rng.integers(len(arm) - count + 1))
    return arm[first : first + count]


def _boundaries(spectrum: Spectrum) -> list[float]:
    """Wavelengths between the arms of the survey's instrument, as far as they lie among good pixels."""
    facts = SURVEYS.get(spectrum.survey or "")
    spans = [_span(arm) for arm in (facts.native_arms or facts.arms)] if facts else []
    low, high = spectrum.wavelength[spectrum.good][[0, -1]]
    between = [(left[1] + right[0]) / 2 for left, right in itertools.pairwise(spans)]
    return [boundary for boundary in between if low < boundary < high]


def _span(arm: Any) -> tuple[float, float]:
    last = arm.start + arm.step * (arm.pixels - 1)
    return (10**arm.start, 10**last) if arm.log else (arm.start, last)


def _add(columns: Columns, pixels: np.ndarray, light: Any) -> None:
    light = light if np.ndim(light) == 0 else light[pixels]
    for name in ("flux", "truth"):
        if name in columns:
            columns[name][pixels] += np.asarray(light, dtype=np.float32)


# Kinds, with the strength that one has where none is given.
ANOMALIES: dict[str, float] = {
    "stitched": 0.4,
    "cosmic_rays": 8.0,
    "fake_lines": 8.0,
    "flux_step": 0.15,
    "swapped_arms": 0.2,
}
_SHARES = ("stitched", "swapped_arms")
_INJECTIONS: dict[str, Injection] = {
    "cosmic_rays": _add_cosmic_rays,
    "fake_lines": _add_lines,
    "flux_step": _multiply_part,
    "swapped_arms": _swap_arms,
}

__all__ = ["ANOMALIES", "inject_anomaly"]
