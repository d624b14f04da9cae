"""A plain classifier to measure others against: what binned, continuum-normalised flux alone tells of the class.

Nothing of the instrument shall help it. There are no colours (the continuum is divided out), no units and no errors
among its features; it sees only wavelengths that all surveys concerned observe; and bins without data hold the
continuum, so that a survey's gaps look like nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.spectrum import Spectrum
from ..models.wavelength import to_medium

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesClassifier

OPTICAL_WINDOW = (3900.0, 9000.0)  # Å, vacuum: what SDSS, BOSS, DESI and LAMOST have in common
CLASSES = ("GALAXY", "QSO", "STAR")
LEAST_BINS = 10
LEAST_COVERAGE = 0.3  # share of the bins with data: with less there is no continuum to speak of
RANGE = (-1.0, 6.0)  # of normalised flux: what is left of cosmic rays and of noise lies beyond


def binned_flux(
    spectra: Sequence[Spectrum],
    *,
    bins: int = 600,
    window: tuple[float, float] = OPTICAL_WINDOW,
    continuum_width: float = 0.15,
    fill: float = 1.0,
) -> np.ndarray:
    """Flux over continuum in bins of equal logarithmic width on one vacuum axis.

    A bin holds the mean of its good pixels weighted by their inverse variance. The continuum is a running median of
    the bins; where it is lost in the noise, the noise takes its place.

    Args:
        spectra: Spectra of any surveys, at least one.
        bins: Number of bins.
        window: First and last wavelength in Å, vacuum.
        continuum_width: Width of the running median in ln(wavelength): far wider than a line of a quasar.
        fill: What bins without good pixels hold. The default is the continuum, so that gaps tell nothing of the
            instrument; NaN shows where they are.

    Returns:
        Normalised flux, shape (n, bins), float32, between -1 and 6.

    Raises:
        ValueError: If there are no spectra, an argument makes no sense, or a spectrum has good pixels in less than
            30 % of the bins.
    """
    _check_arguments(spectra, bins, window, continuum_width)
    edges = np.geomspace(*window, bins + 1)
    half = max(1, round(continuum_width / np.log(window[1] / window[0]) * bins / 2))
    return np.stack([_normalised(spectrum, edges, half, fill) for spectrum in spectra])


def _check_arguments(spectra: Sequence[Spectrum], bins: int, window: tuple[float, float], width: float) -> None:
    if isinstance(spectra, Spectrum) or not len(spectra) or not all(isinstance(s, Spectrum) for s in spectra):
        raise ValueError(f"spectra must be a list of Spectrum, at least one, found {_kinds(spectra)}")
    if bins < LEAST_BINS:
        raise ValueError(f"bins must be at least {LEAST_BINS}, found {bins}")
    if not 0 < window[0] < window[1]:
        raise ValueError(f"window must be two wavelengths in Å in ascending order, found {window}")
    if not width > 0:
        raise ValueError(f"continuum_width must be positive, found {width}")


def _kinds(spectra: Any) -> str:
    if isinstance(spectra, Spectrum):
        return "a single Spectrum: put it into a list"
    return ", ".join(dict.fromkeys(type(spectrum).__name__ for spectrum in spectra)) or "none"


def _normalised(spectrum: Spectrum, edges: np.ndarray, half: int, fill: float) -> np.ndarray:
    flux, error = _bin(spectrum, edges)
    known = np.isfinite(flux)
    if known.mean() < LEAST_COVERAGE:
        raise ValueError(
            f"{spectrum.name} has good pixels in {known.sum()} of {len(known)} bins from {edges[0]:.0f} to "
            f"{edges[-1]:.0f} Å, and needs {LEAST_COVERAGE:.0%}: drop it, or pass another window="
        )
    continuum = _continuum(flux, half)
    # A continuum within the noise divides noise by noise: it is kept at half the typical error or above.
    floor = 0.5 * np.nanmedian(error) + 1e-3 * np.nanmedian(np.abs(flux)) + np.finfo(np.float64).tiny
    normalised = 1 + (flux - continuum) / np.maximum(continuum, floor)
    return np.where(known, normalised.clip(*RANGE), fill).astype(np.float32)


def _bin(spectrum: Spectrum, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean flux of each bin and its error, NaN without a good pixel; each (bins,)."""
    wavelength = to_medium(spectrum.wavelength, spectrum.medium, "vacuum")
    inside = spectrum.good & (wavelength >= edges[0]) & (wavelength < edges[-1])
    place = np.searchsorted(edges, wavelength[inside], side="right") - 1
    weight = spectrum.ivar[inside].astype(np.float64)
    total = np.bincount(place, weight, len(edges) - 1).astype(np.float64)  # without a pixel it counts in integers
    light = np.bincount(place, weight * spectrum.flux[inside], len(edges) - 1)
    total[total == 0] = np.nan
    return light / total, 1 / np.sqrt(total)


def _continuum(flux: np.ndarray, half: int) -> np.ndarray:
    """Running median about a straight line: else the slope of the flux shows at the ends. Shape (bins,)."""
    place = np.arange(len(flux), dtype=np.float64)
    known = np.flatnonzero(np.isfinite(flux))
    (x0, x1), (y0, y1) = ([np.median(values[part]) for part in np.array_split(known, 2)] for values in (place, flux))
    line = y0 + (y1 - y0) / (x1 - x0) * (place - x0)
    return line + running_median(flux - line, half)


def running_median(values: np.ndarray, half: int) -> np.ndarray:
    """Median of the finite values within `half` places of each, shape (n,); all beyond the ends count as missing.

    Args:
        values: Values, shape (n,), at least one of them finite. Where none is within reach, the median of all stands.
        half: Reach to either side.
    """
    padded = np.pad(values, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    empty = ~np.isfinite(windows).any(1)
    medians = np.full(len(values), np.nanmedian(values))
    medians[~empty] = np.nanmedian(windows[~empty], axis=1)
    return medians


def plain_classifier(*, trees: int = 300, seed: int = 0) -> "ExtraTreesClassifier":
    """Randomised trees, for `fit(binned_flux(spectra), classes)` and `predict_proba`.

    Args:
        trees: Number of trees.
        seed: Seed of their randomness.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import ExtraTreesClassifier
    except ImportError as error:
        raise ImportError('the plain classifier needs scikit-learn: pip install "spectok-hf[train]".') from error
    return ExtraTreesClassifier(trees, min_samples_leaf=2, random_state=seed)


def confusion_rows(
    truth: Sequence[str], predicted: Sequence[str], groups: Sequence[str], *, classes: Sequence[str] = CLASSES
) -> list[dict[str, object]]:
    """One row per group and true class: how many got which label, the share of right ones, and a plain baseline.

    Args:
        truth: True class of each spectrum.
        predicted: Its predicted class.
        groups: The group of each, such as its survey.
        classes: All classes, in the order of the columns.

    Returns:
        Rows for `spectok_hf.evaluation.reconstruction.format_table`; after the classes of a group a row "all", whose
        baseline is to say the group's own most frequent class every time.

    Raises:
        ValueError: If the three differ in length, or a class is none of `classes`.
    """
    table = np.array([groups, truth, predicted]) if len({len(groups), len(truth), len(predicted)}) == 1 else None
    if table is None:
        raise ValueError(
            f"one truth, prediction and group per spectrum, found {len(truth)}, {len(predicted)}, {len(groups)}"
        )
    if unknown := sorted({*truth, *predicted} - set(classes)):
        raise ValueError(f"classes must be among {', '.join(classes)}, found {', '.join(unknown)}")
    rows: list[dict[str, object]] = []
    for group in dict.fromkeys(groups):
        mine = table[1:, table[0] == group]
        found = [name for name in classes if (mine[0] == name).any()]
        rows += [_confusion_row(group, name, mine[:, mine[0] == name], classes) for name in found]
        majority = max(float(np.mean(mine[0] == name)) for name in found)
        rows.append(_confusion_row(group, "all", mine, classes) | {"majority class": majority})
    return rows


def _confusion_row(group: str, name: str, pairs: np.ndarray, classes: Sequence[str]) -> dict[str, object]:
    """Figures of pairs of true and predicted class, shape (2, n)."""
    counts = {f"as {label}": int((pairs[1] == label).sum()) for label in classes}
    right = float(np.mean(pairs[0] == pairs[1]))
    return {"group": group, "class": name, "spectra": pairs.shape[1], **counts, "right": right}


__all__ = ["CLASSES", "binned_flux", "confusion_rows", "plain_classifier", "running_median"]
