"""Whether predicted uncertainties are honest, and what to do if they are not.

All functions take residuals (prediction - reference) with the predicted standard deviations of the same shape: (n,)
for one target, or (n, num_targets). NaN residuals are missing labels; every target uses the labels that it has. The
factors are to be found on a calibration set of their own, neither trained nor tested on.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch

GAUSSIAN = NormalDist()
ONE_SIGMA = 2 * GAUSSIAN.cdf(1) - 1  # 0.6827
LEAST_PER_BIN = 5  # expected; with less the chi-square distribution is a poor guide


def uncertainty_scale(residuals: np.ndarray, uncertainties: np.ndarray) -> np.ndarray:
    """Factor on the uncertainties of each target that makes 68.27 % of its residuals lie within one of them.

    It is `conformal_factor` at that level: above 1 if the uncertainties are too small.

    Args:
        residuals: Prediction - reference, shape (n,) or (n, num_targets), NaN = missing; at least 3 per target.
        uncertainties: Predicted standard deviations, same shape, positive wherever there is a residual.

    Returns:
        Factors, shape (num_targets,); (1,) for residuals of shape (n,).

    Raises:
        ValueError: As `conformal_factor`.
    """
    return conformal_factor(residuals, uncertainties, ONE_SIGMA)


def conformal_factor(residuals: np.ndarray, uncertainties: np.ndarray, level: float = 0.9) -> np.ndarray:
    """Half width, in predicted uncertainties, of intervals that hold a share `level` of new objects at least.

    Split conformal prediction (Lei et al. 2018, JASA 113, 1094; Angelopoulos & Bates 2021, arXiv:2107.07511): the
    ceil((n + 1) level)-th smallest |residual| / uncertainty. The share is guaranteed for objects drawn like those of
    the calibration set, whatever their errors look like, on average over objects, and not for each kind of them.

    Args:
        residuals: Prediction - reference on the calibration set, shape (n,) or (n, num_targets), NaN = missing.
        uncertainties: Predicted standard deviations, same shape, positive wherever there is a residual.
        level: Share of objects to hold, between 0 and 1.

    Returns:
        Factors, shape (num_targets,); (1,) for residuals of shape (n,).

    Raises:
        ValueError: If shapes differ, an uncertainty is not positive, level is no share, or a target has fewer labels
            than level / (1 - level), with which no finite interval can be guaranteed.
    """
    _check_levels([level])
    factors = []
    for target, scores in enumerate(_scores(residuals, uncertainties)):
        rank = _ceil((len(scores) + 1) * level)
        if rank > len(scores):
            raise ValueError(
                f"target {target} has {len(scores)} labels, and level {level:g} needs at least "
                f"{_ceil(level / (1 - level))}: take a larger calibration set or a lower level"
            )
        factors.append(np.partition(scores, rank - 1)[rank - 1])
    return np.array(factors)


def coverage_curve(
    residuals: np.ndarray, uncertainties: np.ndarray, levels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Share of objects within the central Gaussian interval of each nominal level, for calibration plots.

    Args:
        residuals: Prediction - reference, shape (n,) or (n, num_targets), NaN = missing.
        uncertainties: Predicted standard deviations, same shape, positive wherever there is a residual.
        levels: Nominal levels, such as 0.6827, each between 0 and 1.

    Returns:
        Observed shares, and the binomial error sqrt(level (1 - level) / n) by which the share of honest Gaussian
        uncertainties would scatter about the level; each of shape (len(levels), num_targets).

    Raises:
        ValueError: If shapes differ, an uncertainty is not positive, a level is no share, or a target has no label.
    """
    _check_levels(levels)
    scores = _scores(residuals, uncertainties)
    if empty := [str(target) for target, values in enumerate(scores) if not len(values)]:
        raise ValueError(f"every target needs a label, found none for target {', '.join(empty)}: leave it out")
    widths = [GAUSSIAN.inv_cdf((1 + level) / 2) for level in levels]
    observed = np.array([[np.mean(values <= width) for values in scores] for width in widths])
    nominal = np.asarray(levels, dtype=np.float64)[:, None]
    return observed, np.sqrt(nominal * (1 - nominal) / [len(values) for values in scores])


def pit_histogram(pit: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Histogram of probability integral transforms, and how far it is from flat.

    The transform of an object is the predicted cumulative distribution at its true value; of a Gaussian,
    Phi((reference - prediction) / uncertainty).

    Args:
        pit: Transforms, shape (n,) or (n, num_targets), between 0 and 1, NaN = missing; at least 1 per target.
        bins: Number of equal bins, at least 2.

    Returns:
        Counts, shape (bins, num_targets); the binomial error of each count if the transforms are flat, about their
        mean n / bins, shape (num_targets,); and Pearson's chi-square of flat ones, with bins - 1 degrees of freedom,
        shape (num_targets,).

    Raises:
        ValueError: If a transform is outside 0 to 1, a target has none, or there are fewer than 2 bins.
    """
    columns = _columns(pit, "pit")
    if ((columns < 0) | (columns > 1)).any():
        raise ValueError(
            f"pit must be between 0 and 1, found {np.nanmin(columns):.4g} to {np.nanmax(columns):.4g}: pass the "
            "cumulative distribution at the true value"
        )
    totals = np.isfinite(columns).sum(0)
    if bins < 2 or not totals.all():
        raise ValueError(
            f"bins must be at least 2, found {bins} bins for {totals.min()} values: every target needs a value"
        )
    counts = np.stack([np.histogram(column[np.isfinite(column)], bins, (0, 1))[0] for column in columns.T], axis=1)
    expected = totals / bins
    return counts, np.sqrt(expected * (1 - 1 / bins)), ((counts - expected) ** 2 / expected).sum(0)


def uniformity(pit: np.ndarray, bins: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether probability integral transforms are flat, as they are if predicted distributions are honest.

    A hump in the middle means uncertainties that are too large, a hollow ones that are too small, a slope a bias.

    Args:
        pit: Transforms as for `pit_histogram`, shape (n,) or (n, num_targets), NaN = missing.
        bins: Number of equal bins, at least 2 and at most a fifth of the transforms of each target.

    Returns:
        Counts, shape (bins, num_targets), and the error of each count, shape (num_targets,), of `pit_histogram`; and
        the chance that flat transforms deviate as much or more, by Pearson's chi-square, shape (num_targets,).

    Raises:
        ValueError: If a transform is outside 0 to 1, or there are too few transforms for the bins.
    """
    counts, error, chi_square = pit_histogram(pit, bins)
    fewest = int(counts.sum(0).min())
    if fewest < LEAST_PER_BIN * bins:
        raise ValueError(
            f"each bin needs {LEAST_PER_BIN} values or more on average, found {bins} bins for {fewest} values: take "
            "fewer bins"
        )
    statistic = torch.from_numpy(chi_square)
    tail = torch.special.gammaincc(torch.full_like(statistic, (bins - 1) / 2), statistic / 2)
    return counts, error, tail.numpy()


def _scores(residuals: np.ndarray, uncertainties: np.ndarray) -> list[np.ndarray]:
    """|residual| / uncertainty of each target's labels."""
    values, sigma = _columns_of_both(residuals, uncertainties)
    known = ~np.isnan(values)
    ratio = np.divide(np.abs(values), sigma, out=np.full_like(values, np.nan), where=known)
    return [column[mine] for column, mine in zip(ratio.T, known.T, strict=True)]


def _columns_of_both(residuals: np.ndarray, uncertainties: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(residuals) != np.shape(uncertainties):
        raise ValueError(
            f"residuals and uncertainties must have the same shape, found {np.shape(residuals)} and "
            f"{np.shape(uncertainties)}"
        )
    columns = _columns(residuals, "residuals")
    sigma = np.asarray(uncertainties, dtype=np.float64).reshape(columns.shape)
    bad = ~np.isnan(columns) & ~((sigma > 0) & np.isfinite(sigma))
    if bad.any():
        raise ValueError(
            "uncertainties must be positive and finite wherever residuals are not NaN, found "
            f"{int(bad.sum())} that are not, such as {sigma[bad][0]:.4g}"
        )
    return columns, sigma


def _columns(values: np.ndarray, name: str) -> np.ndarray:
    columns = np.asarray(values, dtype=np.float64)
    if columns.ndim not in (1, 2) or np.isinf(columns).any():
        raise ValueError(
            f"{name} must have shape (n,) or (n, num_targets) and no infinite values, found shape {columns.shape} and "
            f"{int(np.isinf(columns).sum())} infinite values"
        )
    return columns[:, None] if columns.ndim == 1 else columns


def _check_levels(levels: Sequence[float]) -> None:
    if not len(levels):
        raise ValueError("levels must hold at least one level, found none")
    if wrong := [level for level in levels if not 0 < level < 1]:
        raise ValueError(f"a level must be a share between 0 and 1, found {wrong[0]:g}: 0.9 stands for 90 %")


def _ceil(value: float) -> int:
    """Whole number above, 1 at least, but for rounding: 0.9 / (1 - 0.9) is 9.000000000000002 in floating point."""
    return max(1, math.ceil(round(value, 9)))


__all__ = [
    "conformal_factor",
    "coverage_curve",
    "pit_histogram",
    "uncertainty_scale",
    "uniformity",
]
