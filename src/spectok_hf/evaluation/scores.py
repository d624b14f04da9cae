"""Scores of predictions as plain functions of arrays, which need a label for every object; and their errors.

The modules of Hugging Face `evaluate` in `metrics` give the same figures; each of these is a file that stands alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..models.redshift_posterior import LIGHT_SPEED

# As arXiv:2506.00294 reports redshifts.
VELOCITY_LIMITS = {"QSO": 3000.0}  # km/s: lines of quasars are broad and shifted against each other
VELOCITY_LIMIT = 1000.0  # km/s, of all other classes
CATASTROPHIC = 0.15  # |dz| / (1 + z)
OUTLIER_WIDTHS = 5.0  # scaled MADs from 0
GAUSSIAN_MAD = 1.4826  # standard deviation over median absolute deviation of a Gaussian
OF_CLASS = "accuracy of "  # begins the name of the score of one class

# From truth, prediction and what else it needs, of the same spectra, to scores by name.
Scorer = Callable[..., dict[str, float]]

# Of each score in tables the header, and what is best. Bias and pull have no best: the plain mean has no bias either;
# nor have outliers in units of a method's own scatter.
SCORES: dict[str, tuple[str, Callable[[np.ndarray], float] | None]] = {
    "accuracy": ("accuracy", np.nanmax),
    "macro_f1": ("macro F1", np.nanmax),
    "r_squared": ("R²", np.nanmax),
    "nmad": ("NMAD", np.nanmin),
    "outlier_fraction": ("outliers", np.nanmin),
    "velocity_success": ("velocity success", np.nanmax),
    "scaled_mad": ("scaled MAD", np.nanmin),
    "crps": ("CRPS", np.nanmin),
    "bias": ("bias", None),
    "own_outliers": (f"outliers > {OUTLIER_WIDTHS:.0f} MAD", None),
    "pull": ("pull", None),
}


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, size: int) -> np.ndarray:
    """Objects of each true class, by row, that are predicted to be of each class, by column.

    Args:
        truth: True classes as numbers from 0, shape (n,).
        predicted: Predicted classes, the same.
        size: Number of classes.

    Returns:
        Counts, shape (size, size).
    """
    return np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)


def class_scores(truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy, macro F1 and the accuracy of each class (its recall), NaN where it does not occur.

    Macro F1 is the plain mean over the classes that occur among truth or predictions, as in scikit-learn.

    Args:
        truth: True classes as numbers of `classes`, shape (n,).
        predicted: Predicted classes, the same.
        classes: Names of the classes.
    """
    size = len(classes)
    counts = confusion_counts(truth, predicted, size)
    right, of_truth, of_predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    occurring = of_truth + of_predicted > 0
    f1 = 2 * right[occurring] / (of_truth + of_predicted)[occurring]
    shares = np.divide(right, of_truth, out=np.full(size, np.nan), where=of_truth > 0)
    scores = {"accuracy": float(right.sum() / counts.sum()), "macro_f1": float(f1.mean())}
    return scores | {OF_CLASS + name: float(share) for name, share in zip(classes, shares, strict=True)}


def scaled_mad(truth: np.ndarray | float, predicted: np.ndarray) -> float:
    """1.4826 median |predicted - truth|, about 0: a method's bias counts. In the unit of the target.

    Args:
        truth: True values, shape (n,); 0 where errors are passed as `predicted`.
        predicted: Predicted values, shape (n,).
    """
    return float(GAUSSIAN_MAD * np.median(np.abs(predicted - truth)))


def crps(truth: np.ndarray, predicted: np.ndarray, uncertainty: np.ndarray | None = None) -> float:
    """Mean continuous ranked probability score of Gaussians about the predictions, in the unit of the target.

    In closed form (Gneiting et al. 2005, doi:10.1175/MWR2904.1), as arXiv:2506.00294 reports it. It rewards sharp and
    honest uncertainties alike, and is the absolute error where there is none.

    Args:
        truth: True values, shape (n,).
        predicted: Predicted values, shape (n,).
        uncertainty: Standard deviations, shape (n,). None = the method states none, and all have one: the scatter of
            its residuals about their mean. That is taken from these same objects, in-sample, and no method knows it
            beforehand: it flatters, the more the fewer the objects.
    """
    residual = np.asarray(truth - predicted, dtype=np.float64)
    sigma = np.full(residual.shape, residual.std()) if uncertainty is None else np.asarray(uncertainty, np.float64)
    u = np.divide(residual, sigma, out=np.zeros_like(residual), where=sigma > 0)
    central = torch.erf(torch.from_numpy(u) / np.sqrt(2)).numpy()  # of the unit Gaussian, between -u and u
    density = np.exp(-0.5 * u**2) / np.sqrt(2 * np.pi)
    score = sigma * (u * central + 2 * density - 1 / np.sqrt(np.pi))
    return float(np.where(sigma > 0, score, np.abs(residual)).mean())


def bias(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of predicted - truth, in the unit of the target.

    Args:
        truth: True values, shape (n,).
        predicted: Predicted values, shape (n,).
    """
    return float(np.mean(predicted - truth))


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """1 - (sum of squared residuals) / (sum of squares of the truth about its mean); NaN if all truths are equal.

    Args:
        truth: True values, shape (n,).
        predicted: Predicted values, shape (n,).
    """
    total = float(np.sum((truth - truth.mean()) ** 2))
    # The mean of equal values is not exactly their value: the sum alone may be 1e-34 instead of 0.
    return 1 - float(np.sum((predicted - truth) ** 2)) / total if np.ptp(truth) > 0 and total > 0 else float("nan")


def nmad(truth: np.ndarray, predicted: np.ndarray) -> float:
    """1.4826 median(|dz - median dz| / (1 + z)) of redshifts.

    Args:
        truth: True redshifts, shape (n,).
        predicted: Predicted redshifts, shape (n,).
    """
    difference = predicted - truth
    return float(GAUSSIAN_MAD * np.median(np.abs(difference - np.median(difference)) / (1 + truth)))


def outlier_fraction(truth: np.ndarray, predicted: np.ndarray, threshold: float = CATASTROPHIC) -> float:
    """Share of redshifts with |dz| / (1 + z) above the threshold.

    Args:
        truth: True redshifts, shape (n,).
        predicted: Predicted redshifts, shape (n,).
        threshold: The threshold.
    """
    return float(np.mean(np.abs(predicted - truth) / (1 + truth) > threshold))


def velocity_success(truth: np.ndarray, predicted: np.ndarray, classes: np.ndarray | None = None) -> float:
    """Share of redshifts with c |dz| / (1 + z) below 3000 km/s for quasars and 1000 km/s for all others.

    Args:
        truth: True redshifts, shape (n,).
        predicted: Predicted redshifts, shape (n,).
        classes: GALAXY, QSO or STAR, shape (n,); None = no quasars.
    """
    return share_within(truth, predicted, velocity_limits(len(truth), classes))


def velocity_limits(count: int, classes: np.ndarray | None = None) -> np.ndarray:
    """The velocity in km/s by which the redshift of each object may be wrong, shape (count,).

    Args:
        count: Number of objects.
        classes: GALAXY, QSO or STAR, shape (count,); None = no quasars.
    """
    if classes is None:
        return np.full(count, VELOCITY_LIMIT)
    return np.array([VELOCITY_LIMITS.get(name, VELOCITY_LIMIT) for name in classes])


def share_within(truth: np.ndarray, predicted: np.ndarray, limits: np.ndarray) -> float:
    """Share of redshifts with c |dz| / (1 + z) below a limit.

    Args:
        truth: True redshifts, shape (n,).
        predicted: Predicted redshifts, shape (n,).
        limits: The limits in km/s, shape (n,), such as those of `velocity_limits`.
    """
    return float(np.mean(np.abs(predicted - truth) / (1 + truth) * LIGHT_SPEED < limits))


def scores_with_errors(
    samples: Sequence[tuple[np.ndarray, ...]], scorer: Scorer, count: int, rng: np.random.Generator
) -> dict[str, float]:
    """Mean scores of several splits of the same objects, with bootstrap errors.

    Each bootstrap sample draws objects, with replacement, with all their spectra and in all splits alike.

    Args:
        samples: For each split the objects of its test spectra as numbers, and the arguments of the scorer, each (n,).
        scorer: Gives the scores of one split by name. NaN is a score that is not defined, and does not count.
        count: Number of bootstrap samples.
        rng: Where they are drawn from.

    Returns:
        Each score's mean over the splits; under `<score>_error` the standard deviation of that mean over the bootstrap
        samples; and of several splits under `<score>_spread` that over the splits.
    """
    per_split = [scorer(*columns) for _, *columns in samples]
    draws = _bootstrap(samples, scorer, count, rng)
    results: dict[str, float] = {}
    for name in per_split[0]:
        values = np.array([scores[name] for scores in per_split])
        results[name], results[f"{name}_error"] = _mean(values), _deviation(draws[name])
        if len(samples) > 1:
            results[f"{name}_spread"] = _deviation(values)
    return results


def _bootstrap(
    samples: Sequence[tuple[np.ndarray, ...]], scorer: Scorer, count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Of each score the means over the splits of `count` samples of their objects."""
    objects = np.unique(np.concatenate([sample[0] for sample in samples]))
    places = [np.searchsorted(objects, sample[0]) for sample in samples]
    draws = []
    for _ in range(count):
        times = np.bincount(rng.integers(len(objects), size=len(objects)), minlength=len(objects))
        drawn = [np.repeat(np.arange(len(place)), times[place]) for place in places]
        pairs = zip(samples, drawn, strict=True)
        scores = [scorer(*(column[rows] for column in columns)) for (_, *columns), rows in pairs if len(rows)]
        draws.append({name: _mean(np.array([score[name] for score in scores])) for name in scores[0]})
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _deviation(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")


__all__ = [
    "SCORES",
    "Scorer",
    "bias",
    "class_scores",
    "confusion_counts",
    "crps",
    "nmad",
    "outlier_fraction",
    "r_squared",
    "scaled_mad",
    "scores_with_errors",
    "share_within",
    "velocity_limits",
    "velocity_success",
]
