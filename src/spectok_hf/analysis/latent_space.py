"""A latent space: how well neighbours in it share a label, and its map on paper."""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation.scores import r_squared
from ..models.spectrum import check_choice
from .plots import import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEIGHBOURS = 10
COMPONENTS = 20
MOST_WIDTHS = 10.0  # standardised numbers are clipped to +-: one odd spectrum shall not be the whole map
MISSING_COLOR, COLORS = "0.85", "viridis"
COLOR_PERCENTILES = (2, 98)
# Okabe & Ito without black and yellow, then matplotlib's for more.
CLASS_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "C7", "C5", "C8", "C3")
CLASS_MARKERS = "os^Dvp*"  # for grey print


def standardise(vectors: ArrayLike) -> np.ndarray:
    """Vectors less their mean over their standard deviation, dimension by dimension, clipped to +-10.

    Args:
        vectors: Shape (n, d); a dimension without spread becomes 0.

    Raises:
        ValueError: If the shape is another, or a number is not finite.
    """
    values = np.asarray(vectors, dtype=np.float64)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"vectors must have shape (n, d) and be finite, found shape {values.shape}")
    centred, width = values - values.mean(0), values.std(0)
    scaled = np.divide(centred, width, out=np.zeros_like(values), where=width > 1e-9 * np.abs(values).max(0))
    return scaled.clip(-MOST_WIDTHS, MOST_WIDTHS)


def directions(vectors: ArrayLike) -> np.ndarray:
    """Standardised vectors at unit length: distance is the angle between them, as in `evaluation.probes.knn`.

    Args:
        vectors: Shape (n, d).

    Raises:
        ValueError: As for `standardise`.
    """
    scaled = standardise(vectors)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / np.where(length > 0, length, 1)


def principal_components(vectors: ArrayLike, count: int = COMPONENTS) -> np.ndarray:
    """The first principal components of standardised vectors, shape (n, count) or fewer, not whitened.

    Args:
        vectors: Such as `evaluation.probes.raw_flux`, shape (n, d).
        count: Number of components.

    Raises:
        ValueError: As for `standardise`.
    """
    left, widths, _ = np.linalg.svd(standardise(vectors), full_matrices=False)
    return (left * widths)[:, :count]


def neighbour_score(
    vectors: ArrayLike, labels: ArrayLike, groups: Sequence[str], *, neighbours: int = NEIGHBOURS
) -> float:
    """How well the nearest spectra of other objects tell a label: R² of numbers, accuracy of names.

    Each spectrum gets the mean label, or the most frequent, of its nearest neighbours (Euclidean) among the spectra of
    all other objects: cross-validation that leaves one object out at a time.

    Args:
        vectors: One per spectrum, shape (n, d).
        labels: Numbers, or names of classes, shape (n,), none missing.
        groups: Key of the object of each spectrum, see `object_groups`.
        neighbours: How many neighbours.

    Raises:
        ValueError: If shapes disagree, a vector is not finite, a label is missing, or another object is not there in
            sufficient number.
    """
    values, known = np.asarray(vectors, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or not len(values) == len(known) == len(groups):
        raise ValueError(
            f"each vector needs a label and a group, found shape {values.shape}, {len(known)} and {len(groups)}"
        )
    if not np.isfinite(values).all():
        raise ValueError("vectors must be finite: leave out spectra without an embedding")
    numbers = known.dtype.kind in "iuf"
    if numbers and not np.isfinite(known).all():
        raise ValueError("labels must be finite: leave out spectra without one")
    nearest = known[_nearest(values, np.unique(np.asarray(groups), return_inverse=True)[1], neighbours)]
    if numbers:
        return r_squared(known.astype(np.float64), nearest.mean(1, dtype=np.float64))
    return float(np.mean([_most_frequent(row) == label for row, label in zip(nearest, known, strict=True)]))


def _nearest(values: np.ndarray, objects: np.ndarray, count: int) -> np.ndarray:
    """Places of the nearest spectra of other objects, nearest first, shape (n, count)."""
    squares = (values**2).sum(1)
    found = np.empty((len(values), count), dtype=int)
    for row, value in enumerate(values):  # a row at a time: n² distances need not be in memory
        others = np.flatnonzero(objects != objects[row])
        if len(others) < count:
            raise ValueError(f"{count} neighbours need as many spectra of other objects, found {len(others)}")
        distances = squares[others] - 2 * values[others] @ value
        found[row] = others[np.argsort(distances, kind="stable")[:count]]
    return found


def _most_frequent(names: np.ndarray) -> Any:
    """Of equals, the one that comes first: the nearest."""
    unique, first, counts = np.unique(names, return_index=True, return_counts=True)
    return unique[np.lexsort((first, -counts))[0]]


def umap_map(vectors: ArrayLike, *, neighbours: int = 15, min_distance: float = 0.1, seed: int = 0) -> np.ndarray:
    """A map of vectors, shape (n, 2), by UMAP (McInnes, Healy, Melville 2018, arXiv 1802.03426).

    Distances between clusters, and their sizes, mean little. The same vectors and seed give the same map.

    Args:
        vectors: Such as standardised embeddings, shape (n, d), n >= 3.
        neighbours: How local the map is; at most n - 1 count.
        min_distance: How closely points may lie together.
        seed: Seed of the optimisation.

    Raises:
        ValueError: If there are fewer than 3 vectors.
        ImportError: If umap-learn is not installed.
    """
    values = _as_map_input(vectors, np.float32)
    options = {"n_neighbors": min(neighbours, len(values) - 1), "min_dist": min_distance}
    # A seed makes UMAP use one thread, and says so unless that is asked for.
    reducer = _import_umap().UMAP(**options, init=_start(values, seed), random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(values), dtype=np.float64)


class LatentMap(NamedTuple):
    """A map of vectors.

    Args:
        places: Where each lies, shape (n, 2).
        method: "umap" or "pca".
        shares: Of the variance, that each axis holds; None = the axes have none.
    """

    places: np.ndarray
    method: str
    shares: tuple[float, float] | None = None

    def axis_names(self) -> tuple[str, str]:
        """What stands beside the axes: a map that is not a UMAP says so."""
        if self.shares is None:
            return "UMAP 1", "UMAP 2"
        one, two = (f"principal component {number} ({share:.0%})" for number, share in enumerate(self.shares, 1))
        return one, two


def make_map(vectors: ArrayLike, *, method: str | None = None, seed: int = 0, **options: Any) -> LatentMap:
    """A map of vectors: a UMAP where umap-learn is installed, else the first two principal components.

    Args:
        vectors: Such as standardised embeddings, shape (n, d), n >= 3.
        method: "umap", "pca", or None = whichever there is.
        seed: Seed of UMAP's optimisation.
        **options: Of `umap_map`; principal components have none.

    Raises:
        ValueError: If the method is unknown, or there are fewer than 3 vectors.
        ImportError: If UMAP is asked for, and umap-learn is not installed.
    """
    if method is None:
        method = "umap" if importlib.util.find_spec("umap") else "pca"
    check_choice("method", method, ("umap", "pca"))
    if method == "umap":
        return LatentMap(umap_map(vectors, seed=seed, **options), method)
    values = _as_map_input(vectors, np.float64)
    everything = principal_components(values, max(values.shape[1], 2))
    places = np.pad(everything, ((0, 0), (0, max(2 - everything.shape[1], 0))))[:, :2]
    shares = (places**2).sum(0) / ((everything**2).sum() or 1.0)
    return LatentMap(places, method, (float(shares[0]), float(shares[1])))


def _as_map_input(vectors: ArrayLike, dtype: type) -> np.ndarray:
    values: np.ndarray = np.asarray(vectors, dtype=dtype)
    if values.ndim != 2 or len(values) < 3:
        raise ValueError(f"a map needs vectors of shape (n, d) with n of at least 3, found {values.shape}")
    return values


def _start(values: np.ndarray, seed: int) -> np.ndarray:
    """The first two principal components, and a little noise where vectors are equal, shape (n, 2)."""
    start = principal_components(values, 2)
    start = np.pad(start, ((0, 0), (0, 2 - start.shape[1])))
    start *= 10 / (np.abs(start).max() or 1)
    return (start + np.random.default_rng(seed).normal(0, 1e-3, start.shape)).astype(np.float32)


def _import_umap() -> Any:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what it could do with TensorFlow
            import umap
    except ImportError as error:
        raise ImportError(
            'the map needs umap-learn: pip install "spectok-hf[plot]", or make_map(..., method="pca").'
        ) from error
    return umap


def plot_map(
    places: ArrayLike | LatentMap,
    labels: ArrayLike,
    *,
    name: str = "",
    unit: str = "",
    title: str = "",
    ax: "Axes | None" = None,
) -> "Axes":
    """A map with a colour for each label: a colour bar of numbers, a legend of classes; grey where a label is missing.

    Args:
        places: What `make_map` made; or where each spectrum lies on a UMAP, shape (n, 2).
        labels: Numbers, NaN = missing; or names, "", None or NaN = missing; shape (n,).
        name: Name of the label.
        unit: Its unit; empty = none.
        title: Set above, before the number of spectra.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If shapes disagree, or all labels are missing.
        ImportError: If matplotlib is not installed.
    """
    drawn = places if isinstance(places, LatentMap) else LatentMap(np.asarray(places), "umap")
    points, values = np.asarray(drawn.places, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or len(values) != len(points):
        raise ValueError(f"places must have shape (n, 2) with a label each, found {points.shape} and {len(values)}")
    numbers = values.dtype.kind in "iuf"
    # NaN, of which pandas makes missing names, is not itself.
    known = np.isfinite(values) if numbers else np.array([bool(one) and one == one for one in values.tolist()], bool)
    if not known.any():
        raise ValueError(f"nothing to plot: all {len(values)} labels {name!r} are missing")
    ax = import_pyplot().subplots(figsize=(5, 4.2), layout="constrained")[1] if ax is None else ax
    size = float(np.clip(6000 / len(points), 3, 20))
    ax.scatter(points[~known, 0], points[~known, 1], s=size, color=MISSING_COLOR, lw=0, rasterized=True)
    draw = _draw_numbers if numbers else _draw_classes
    draw(ax, points[known], values[known], size, f"{name} [{unit}]" if unit else name)
    across, up = drawn.axis_names()
    ax.set(xticks=[], yticks=[], xlabel=across, ylabel=up)
    count = f"{known.sum():,}" + (f" of {len(known):,}" if not known.all() else "")
    ax.set_title(f"{title} ({count})".strip(), loc="left", fontsize="medium")
    return ax


def _draw_numbers(ax: "Axes", points: np.ndarray, values: np.ndarray, size: float, label: str) -> None:
    low, high = np.percentile(values, COLOR_PERCENTILES)
    order = np.random.default_rng(0).permutation(len(points))  # none is always on top
    x, y = points[order].T
    drawn = ax.scatter(x, y, c=values[order], s=size, cmap=COLORS, vmin=low, vmax=high, lw=0)
    ax.figure.colorbar(drawn, ax=ax, label=label, extend="both", pad=0.01)


def _draw_classes(ax: "Axes", points: np.ndarray, values: np.ndarray, size: float, label: str) -> None:
    for number, name in enumerate(sorted(set(values.tolist()))):
        x, y = points[values == name].T
        color = CLASS_COLORS[number % len(CLASS_COLORS)]
        marker = CLASS_MARKERS[number % len(CLASS_MARKERS)]
        ax.scatter(x, y, s=size, color=color, marker=marker, lw=0, label=f"{name} ({len(x):,})")
    ax.legend(title=label or None, fontsize="x-small", title_fontsize="small", markerscale=(25 / size) ** 0.5)


__all__ = [
    "LatentMap",
    "directions",
    "make_map",
    "neighbour_score",
    "plot_map",
    "principal_components",
    "standardise",
    "umap_map",
]
