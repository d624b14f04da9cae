"""How odd a spectrum is: statistics that grow with oddness, and how rare each is among spectra like it.

A statistic alone says little: chi² of a good reconstruction grows with the signal-to-noise ratio, and is another one
for quasars than for stars. So each is compared with what references of the same survey, of the same kind and of like
S/N have (`Kinds`, `Calibration`), and comes out as a p-value that is uniform for normal spectra. The maximum of a scan
over all pixels is compared with such maxima: that is the correction for having looked everywhere.
"""

from dataclasses import dataclass

import numpy as np

SCAN_WIDTHS = (1, 2, 4, 8)  # pixels
STEP_WIDTHS = (32, 128)  # pixels on each side of a step
CLIP = 4.0  # standard deviations that a pixel counts for at most in chi²: a line is the scans' business
WIDEST = 8.0  # standardised numbers are clipped to +-: one wild dimension shall not be all
COMPONENTS = 20
PART_COMPONENTS, OTHER_COMPONENTS = 5, 60  # of a part's embedding, and of those of the others
PRIOR = 0.2  # of the regression between parts: how many spectra it is worth, as a share of the references
SHRINKAGE = 0.1  # of a covariance towards the identity
NEIGHBOURS = 10
LIKE = 60  # references of the same kind, nearest in S/N, that a statistic is compared with
KINDS, KIND_COMPONENTS, STARTS, ROUNDS = 4, 5, 5, 30  # k-means of embeddings
OTHER_KIND = 3.0  # in ln S/N: how much worse than a reference of the same kind one of another kind is
TAIL = 0.1  # share of the references whose excess gives the exponential tail
FLOOR_SPECTRA = 300  # that the floor of the error is measured on
SMOOTHING = 5  # pixels over which the floor of the error is averaged


def box_scan(z: np.ndarray, good: np.ndarray, width: int) -> np.ndarray:
    """Significance of the mean residual over a box around each pixel, in standard deviations, shape (L,).

    Args:
        z: Residuals over their errors, shape (L,).
        good: Pixels that count, shape (L,).
        width: Pixels of the box, whatever lies between them; 0 where fewer than half of them count.
    """
    total, count = (_windows(values, width) for values in (np.where(good, z, 0), good))
    enough = 2 * count >= max(width, 2)
    return np.where(enough, total / np.sqrt(np.maximum(count, 1)), 0)


def step_scan(z: np.ndarray, good: np.ndarray, width: int) -> np.ndarray:
    """Significance of the step from the mean residual before each pixel to that from it on, shape (L,).

    Args:
        z: Residuals over their errors, shape (L,).
        good: Pixels that count, shape (L,).
        width: Pixels on each side; 0 where fewer than half of either side count.
    """
    sums, counts = (_cumulated(values) for values in (np.where(good, z, 0), good))
    middle = np.arange(len(z))
    low, high = np.maximum(middle - width, 0), np.minimum(middle + width, len(z))
    before, after = counts[middle] - counts[low], counts[high] - counts[middle]
    enough = 2 * np.minimum(before, after) >= width
    before, after = np.maximum(before, 1), np.maximum(after, 1)
    step = (sums[high] - sums[middle]) / after - (sums[middle] - sums[low]) / before
    return np.where(enough, step / np.sqrt(1 / before + 1 / after), 0)


def clipped_chi2(z: np.ndarray, good: np.ndarray) -> float:
    """Mean squared residual in units of its error, each pixel at most 4 standard deviations; NaN without a pixel.

    Args:
        z: Residuals over their errors, shape (L,).
        good: Pixels that count, shape (L,).
    """
    return float((z[good].clip(-CLIP, CLIP) ** 2).mean()) if good.any() else float("nan")


def error_floor(residuals: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """What a model is wrong by at each pixel beyond the noise, as a standard deviation, shape (L,).

    The robust scatter of the residuals of the better half of the spectra (by their errors) less the noise.

    Args:
        residuals: Shape (n, L).
        errors: The same shape, infinite at bad pixels.
    """
    level = np.median(np.where(np.isfinite(errors), errors, np.nanmax(errors[np.isfinite(errors)])), 1)
    better = level <= np.median(level)
    known = np.isfinite(errors[better])
    scatter, noise = (_known_median(values[better] ** 2, known) for values in (residuals, errors))
    variance = np.maximum(scatter / 0.455 - noise, 0)  # 0.455: median of chi² of one degree of freedom
    kernel = np.ones(SMOOTHING) / SMOOTHING
    return np.sqrt(np.convolve(np.pad(variance, SMOOTHING // 2, mode="edge"), kernel, mode="valid"))


@dataclass(frozen=True)
class Components:
    """The principal components of reconstructions on one grid, and what a spectrum has beyond them.

    Args:
        mean: Shape (L,).
        axes: Shape (components, L).
        floor: See `error_floor`, shape (L,).
    """

    mean: np.ndarray
    axes: np.ndarray
    floor: np.ndarray

    @classmethod
    def fit(cls, flux: np.ndarray, errors: np.ndarray, count: int) -> "Components":
        """The components of spectra.

        Args:
            flux: Normalised flux, shape (n, L).
            errors: The same shape, infinite at bad pixels.
            count: How many components.
        """
        known = np.isfinite(errors)
        mean = np.where(known, flux, 0).sum(0) / np.maximum(known.sum(0), 1)
        noise = np.sqrt(_known_median(errors**2, known))
        noise = np.where(noise > 0, noise, noise[noise > 0].min(initial=np.inf))
        centred = (np.where(known, flux - mean, 0) / noise).clip(-200, 200)
        axes = _principal_axes(centred, count) * noise
        start = cls(mean, axes, np.zeros(len(mean)))
        some = np.linspace(0, len(flux) - 1, min(len(flux), FLOOR_SPECTRA)).astype(int)
        residuals = np.stack([start.residual(flux[row], errors[row]) for row in some])
        return cls(mean, axes, error_floor(residuals, errors[some]))

    def residual(self, flux: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Flux less its best fit by the components, weighted by the errors, shape (L,).

        Args:
            flux: Shape (L,).
            error: Shape (L,), infinite at bad pixels.
        """
        weights = 1 / (error**2 + (0.02**2 if not self.floor.any() else self.floor**2))
        weighted = self.axes * weights
        normal = weighted @ self.axes.T
        normal[np.diag_indices_from(normal)] *= 1 + 1e-6
        normal[np.diag_indices_from(normal)] += 1e-12
        found = np.linalg.solve(normal, weighted @ (flux - self.mean))
        return np.where(np.isfinite(error), flux - self.mean - found @ self.axes, 0)


@dataclass(frozen=True)
class Parts:
    """How the embedding of each part of a spectrum follows from those of the other parts: ridge regressions.

    Args:
        mean: Of each part's embedding, shape (parts, d).
        width: Its standard deviation, shape (parts, d).
        own: Principal axes of each part, shape (parts, r, d).
        others: Principal axes of all other parts together, shape (parts, q, (parts - 1) d).
        weights: Regression from the others' components, 1 and ln S/N, shape (parts, q + 2, r).
        precision: Inverse covariance of what it leaves, shape (parts, r, r).
    """

    mean: np.ndarray
    width: np.ndarray
    own: np.ndarray
    others: np.ndarray
    weights: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, snr: np.ndarray) -> "Parts":
        """The regressions of references.

        Args:
            vectors: Embeddings of parts, shape (n, parts, d), NaN where a spectrum lacks one.
            snr: Signal-to-noise ratios, shape (n,).
        """
        known = np.isfinite(vectors)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, vectors, 0).sum(0) / count
        width = np.sqrt((np.where(known, vectors - mean, 0) ** 2).sum(0) / count) + 1e-6
        scaled = _scaled(vectors, mean, width)
        fits = [_fit_part(scaled, snr, part) for part in range(vectors.shape[1])]
        own, others, weights, precision = (np.stack(arrays) for arrays in zip(*fits, strict=True))
        return cls(mean, width, own, others, weights, precision)

    def distances(self, vectors: np.ndarray, snr: np.ndarray) -> np.ndarray:
        """Mahalanobis distance squared, per component, of each part to what follows from the others, shape (n, parts).

        Args:
            vectors: As for `fit`.
            snr: As for `fit`.
        """
        scaled = _scaled(vectors, self.mean, self.width)
        found = np.empty(vectors.shape[:2])
        for part in range(vectors.shape[1]):
            regressors = _regressors(scaled, snr, part, self.others[part])
            rest = scaled[:, part] @ self.own[part].T - regressors @ self.weights[part]
            found[:, part] = np.einsum("ni,ij,nj->n", rest, self.precision[part], rest) / rest.shape[1]
        found[~np.isfinite(vectors).all(-1)] = np.nan
        return found


@dataclass(frozen=True)
class Neighbourhood:
    """Where the references lie in the space of embeddings.

    Args:
        mean: Shape (d,).
        width: Standard deviations, shape (d,).
        vectors: Standardised references, shape (n, d).
        precision: Inverse of their covariance, shrunk towards the identity, shape (d, d).
    """

    mean: np.ndarray
    width: np.ndarray
    vectors: np.ndarray
    precision: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray) -> "Neighbourhood":
        """The neighbourhood of references.

        Args:
            vectors: Embeddings, shape (n, d).
        """
        mean, width = vectors.mean(0), vectors.std(0) + 1e-6
        scaled = ((vectors - mean) / width).clip(-WIDEST, WIDEST)
        covariance = (1 - SHRINKAGE) * scaled.T @ scaled / len(scaled) + SHRINKAGE * np.eye(len(mean))
        return cls(mean, width, scaled, np.linalg.inv(covariance))

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Mean distance to the 10 nearest references, and Mahalanobis distance from their mean, shape (n, 2).

        Args:
            vectors: Embeddings, shape (n, d).
        """
        scaled = ((vectors - self.mean) / self.width).clip(-WIDEST, WIDEST)
        squares = (scaled**2).sum(1)[:, None] + (self.vectors**2).sum(1) - 2 * scaled @ self.vectors.T
        count = min(NEIGHBOURS, len(self.vectors))
        nearest = np.sqrt(np.partition(np.maximum(squares, 0), count - 1, axis=1)[:, :count]).mean(1)
        mahalanobis = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", scaled, self.precision, scaled), 0))
        return np.stack([nearest, mahalanobis], 1)


@dataclass(frozen=True)
class Kinds:
    """Kinds of spectra: clusters of embeddings from which the signal-to-noise ratio is taken out.

    Args:
        trend: Regression of the embedding on 1, ln S/N and its square, shape (3, d).
        axes: From what is left to principal components, shape (components, d).
        centers: Shape (kinds, components).
    """

    trend: np.ndarray
    axes: np.ndarray
    centers: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, snr: np.ndarray) -> "Kinds":
        """The kinds of references, by k-means.

        Args:
            vectors: Embeddings, shape (n, d).
            snr: Signal-to-noise ratios, shape (n,).
        """
        trend = np.linalg.lstsq(_powers(snr), vectors, rcond=None)[0]
        rest = vectors - _powers(snr) @ trend
        width = rest.std(0) + 1e-6
        axes = _principal_axes((rest / width).clip(-WIDEST, WIDEST), KIND_COMPONENTS) / width
        # Half whitened: the first component is not all, the last ones, which are noise, do not count as much.
        axes = axes / np.sqrt((rest @ axes.T).std(0) + 1e-12)[:, None]
        places, rng = rest @ axes.T, np.random.default_rng(0)
        count = max(min(KINDS, len(vectors) // LIKE), 1)
        runs = [_k_means(places, rng.choice(places, count, replace=False)) for _ in range(STARTS)]
        return cls(trend, axes, min(runs, key=lambda centers: _squares(places, centers).min(1).sum()))

    def of(self, vectors: np.ndarray, snr: np.ndarray) -> np.ndarray:
        """Number of the kind of each spectrum, shape (n,).

        Args:
            vectors: As for `fit`.
            snr: As for `fit`.
        """
        return _squares((vectors - _powers(snr) @ self.trend) @ self.axes.T, self.centers).argmin(1)


@dataclass(frozen=True)
class Calibration:
    """Statistics of references, each scored by a model that was fitted without it, against which others are held.

    Args:
        statistics: Shape (n, m), positive; NaN where a reference does not have one.
        snr: Signal-to-noise ratios, shape (n,).
        kinds: Numbers of their kinds, shape (n,).
    """

    statistics: np.ndarray
    snr: np.ndarray
    kinds: np.ndarray

    def standardise(
        self, statistics: np.ndarray, snr: np.ndarray, kinds: np.ndarray, *, own: bool = False
    ) -> np.ndarray:
        """ln of statistics less the median of like references, over their robust scatter, shape (q, m).

        Args:
            statistics: Shape (q, m).
            snr: Shape (q,).
            kinds: Shape (q,).
            own: Whether these are the references themselves, each of which is then left out.
        """
        known, asked = (_logarithm(values) for values in (self.statistics, statistics))
        count = min(LIKE, len(self.snr) - 1)
        found = np.empty_like(asked)
        for row, (own_snr, kind) in enumerate(zip(snr, kinds, strict=True)):
            distance = np.abs(np.log(self.snr) - np.log(own_snr)) + OTHER_KIND * (self.kinds != kind)
            if own:
                distance[row] = np.inf
            like = known[np.argpartition(distance, count - 1)[:count]]
            middle = _column_median(like)
            found[row] = (asked[row] - middle) / (1.4826 * _column_median(np.abs(like - middle)) + 1e-3)
        return found


def conformal_p(values: np.ndarray, references: np.ndarray, *, own: bool = False) -> np.ndarray:
    """Share of references that are at least as odd, the spectrum itself counted in: never below 1 / (n + 1).

    Args:
        values: Shape (q,); NaN gives NaN.
        references: Shape (n,); NaN does not count.
        own: Whether the values are those of the references themselves.
    """
    ordered = np.sort(references[np.isfinite(references)])
    odder = len(ordered) - np.searchsorted(ordered, values, side="left")
    p = (odder + (0 if own else 1)) / (len(ordered) + (0 if own else 1))
    return np.where(np.isfinite(values), p, np.nan)


def smooth_p(values: np.ndarray, references: np.ndarray) -> np.ndarray:
    """As `conformal_p`, with an exponential tail beyond the 90th percentile, so that odd and odder are told apart.

    Args:
        values: Shape (q,); NaN gives NaN.
        references: Shape (n,); NaN does not count.
    """
    ordered = np.sort(references[np.isfinite(references)])
    limit = np.quantile(ordered, 1 - TAIL)
    # By the median, which one spectrum that is odder than all others does not move.
    excess = float(np.median(ordered[ordered > limit] - limit)) / np.log(2) if (ordered > limit).any() else 1.0
    ranks = 1 - np.interp(values, ordered, (np.arange(len(ordered)) + 0.5) / len(ordered))
    beyond = TAIL * np.exp(-np.maximum(values - limit, 0) / excess)
    return np.where(values > limit, beyond, np.maximum(ranks, TAIL / 2)).clip(1e-300, 1)


def _powers(snr: np.ndarray) -> np.ndarray:
    level = np.log(snr)
    return np.stack([np.ones_like(level), level, level**2], 1)


def _squares(places: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return ((places[:, None] - centers) ** 2).sum(-1)


def _k_means(places: np.ndarray, centers: np.ndarray) -> np.ndarray:
    for _ in range(ROUNDS):
        nearest = _squares(places, centers).argmin(1)
        centers = np.stack(
            [places[nearest == kind].mean(0) if (nearest == kind).any() else old for kind, old in enumerate(centers)]
        )
    return centers


def _windows(values: np.ndarray, width: int) -> np.ndarray:
    sums = _cumulated(values)
    first = np.arange(len(values)) - width // 2
    return sums[np.clip(first + width, 0, len(values))] - sums[np.clip(first, 0, len(values))]


def _cumulated(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values, dtype=np.float64)])


def _known_median(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Median over the known values of each column, 0 where there is none."""
    ordered = np.sort(np.where(known, values, np.inf), axis=0)
    middle = np.maximum(known.sum(0) - 1, 0) // 2
    found = np.take_along_axis(ordered, middle[None], 0)[0]
    return np.where(known.any(0), found, 0)


def _column_median(values: np.ndarray) -> np.ndarray:
    """Median of each column over its finite values; NaN where there is none."""
    known = np.isfinite(values)
    return np.where(known.any(0), _known_median(values, known), np.nan)


def _principal_axes(centred: np.ndarray, count: int) -> np.ndarray:
    """The first principal axes, shape (count, d), through the smaller of the two Gram matrices."""
    if centred.shape[0] >= centred.shape[1]:
        return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count].T
    left = np.linalg.eigh(centred @ centred.T)[1][:, ::-1][:, :count]
    axes = left.T @ centred
    return axes / np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-12)


def _scaled(vectors: np.ndarray, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Standardised; what is missing is as in the mean spectrum."""
    return np.nan_to_num((vectors - mean) / width).clip(-WIDEST, WIDEST)


def _regressors(scaled: np.ndarray, snr: np.ndarray, part: int, axes: np.ndarray) -> np.ndarray:
    others = np.delete(scaled, part, axis=1).reshape(len(scaled), -1)
    return np.column_stack([others @ axes.T, np.ones(len(scaled)), np.log(snr)])


def _fit_part(scaled: np.ndarray, snr: np.ndarray, part: int) -> tuple[np.ndarray, ...]:
    own_count, other_count = (max(min(most, len(scaled) // 10), 2) for most in (PART_COMPONENTS, OTHER_COMPONENTS))
    own = _principal_axes(scaled[:, part], own_count)
    others = _principal_axes(np.delete(scaled, part, axis=1).reshape(len(scaled), -1), other_count)
    regressors, targets = _regressors(scaled, snr, part, others), scaled[:, part] @ own.T
    rest = np.empty_like(targets)
    for fold in range(2):  # covariance of what is left of spectra that the regression has not seen
        seen = np.arange(len(scaled)) % 2 != fold
        rest[~seen] = targets[~seen] - regressors[~seen] @ _ridge(regressors[seen], targets[seen])
    covariance = rest.T @ rest / len(rest)
    covariance += 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return own, others, _ridge(regressors, targets), np.linalg.inv(covariance)


def _ridge(regressors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    prior = PRIOR * len(regressors) * np.eye(regressors.shape[1])
    return np.linalg.solve(regressors.T @ regressors + prior, regressors.T @ targets)


def _logarithm(statistics: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(statistics, 1e-6))


__all__ = [
    "SCAN_WIDTHS",
    "STEP_WIDTHS",
    "Calibration",
    "Components",
    "Kinds",
    "Neighbourhood",
    "Parts",
    "box_scan",
    "clipped_chi2",
    "conformal_p",
    "error_floor",
    "smooth_p",
    "step_scan",
]
