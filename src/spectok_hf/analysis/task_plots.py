"""Plots of how a task head did: classes, values, their uncertainties, and the redshift flag.

A label may be missing (NaN). Such an object is left out, and every plot says how many were.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..evaluation.calibration import coverage_curve, pit_histogram
from ..evaluation.scores import bias, class_scores, confusion_counts, r_squared, scaled_mad
from .plots import import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Okabe & Ito: told apart with every common kind of colour vision.
POINT_COLOR, RUNNING_COLOR, CLAIM_COLOR = "0.35", "#D55E00", "#0072B2"
DATA_COLOR, BAND_COLOR = "#0072B2", "0.55"
CURVE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
CLASS_COLORS, DENSITY_COLORS = "Blues", "Greys"
DENSE = 2000  # points; with more of them their density is drawn
PER_BIN = 30  # objects, for a 16-84 % range that is worth a look; few objects are cut into FEWEST_BINS all the same
FEWEST_BINS, MOST_BINS = 5, 20
CONFIDENCE_BINS = 10
MOST_BOXES = 8  # where no edges are given
WHISKER = 1.5  # quartile distances, Tukey's
BOX_STYLE: dict[str, Any] = {
    **{part: {"color": DATA_COLOR} for part in ("boxprops", "whiskerprops", "capprops")},
    "medianprops": {"color": RUNNING_COLOR, "lw": 1.8},
    "flierprops": {"marker": ".", "ms": 5, "markerfacecolor": POINT_COLOR, "mew": 0, "alpha": 0.6},
}
LEVELS = np.linspace(0.01, 0.99, 99)  # nominal central probabilities of the calibration curve


def plot_confusion(
    truth: ArrayLike, predicted: ArrayLike, classes: Sequence[str], *, ax: "Axes | None" = None
) -> "Axes":
    """Confusion matrix: counts, and their share of the true class; accuracy and macro F1 above.

    Macro F1 is the mean of F1 over the classes that occur among the true or the predicted ones, as in scikit-learn.

    Args:
        truth: True class of each object, shape (n,), by its name or by its place in `classes`; NaN or None = missing.
        predicted: Predicted class of each, likewise; none may be missing where the true one is known.
        classes: All classes, in the order of rows and columns.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the two differ in shape, no true class is known, a prediction is missing, or a class is none
            of `classes`.
        ImportError: If matplotlib is not installed.
    """
    if not len(classes) or len(set(classes)) < len(classes):
        raise ValueError(f"classes must be at least one and all different, found {list(classes)}")
    places = {name: _places(name, labels, classes) for name, labels in (("truth", truth), ("predicted", predicted))}
    (true, found), missing = _labelled(**places)
    pair = true.astype(int), found.astype(int)
    counts, scores = confusion_counts(*pair, len(classes)), class_scores(*pair, classes)
    side = 2.2 + 0.8 * len(classes)
    ax = _new_axes((side, side - 0.6)) if ax is None else ax
    _draw_matrix(ax, counts)
    ax.set_xticks(range(len(classes)), list(classes))
    rows = [f"{name}\n({count:,})" for name, count in zip(classes, counts.sum(1), strict=True)]
    ax.set_yticks(range(len(classes)), rows)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class (objects)")
    shares = f"accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}"
    title = f"{shares}\n{_count_text(len(true), missing)}"
    ax.set_title(title, loc="left", fontsize="medium")
    return ax


def _places(name: str, labels: ArrayLike, classes: Sequence[str]) -> np.ndarray:
    """Place of each label in `classes`, NaN where it is missing."""
    table = {place: place for place in range(len(classes))} | {label: place for place, label in enumerate(classes)}
    values = np.asarray(labels, dtype=object)  # of any other type, NaN among names would become the name "nan"
    known = [value for value in values.flat if value is not None and value == value]
    if unknown := sorted({repr(value) for value in known if value not in table}):
        raise ValueError(
            f"{name} must hold {', '.join(classes)}, or their places 0 to {len(classes) - 1} (NaN or None = missing), "
            f"found {', '.join(unknown[:5])}"
        )
    return np.array([table.get(value, np.nan) for value in values.flat]).reshape(values.shape)


def _draw_matrix(ax: "Axes", counts: np.ndarray) -> None:
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(share, cmap=CLASS_COLORS, vmin=0, vmax=100)
    for (row, column), count in np.ndenumerate(counts):
        percent = f"\n{share[row, column]:.1f} %" if count else ""
        color = "w" if share[row, column] > 60 else "k"
        ax.text(column, row, f"{count:,}{percent}", ha="center", va="center", color=color)


def plot_predicted_true(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    name: str,
    unit: str = "",
    uncertainty: ArrayLike | None = None,
    axes: "tuple[Axes, Axes] | None" = None,
) -> "tuple[Axes, Axes]":
    """Predicted against true values with the 1:1 line, and the residuals below with their running median.

    Many points are drawn as their density. The scaled MAD is 1.4826 times the median of |predicted - true|, and the
    bias is the mean of predicted - true. What lies beyond the axes counts in all figures, and is counted in the panel.

    Args:
        truth: True values, shape (n,); NaN = missing.
        predicted: Predicted values, shape (n,), in the same unit.
        name: What the values are, for the labels of the axes.
        unit: Their unit; empty = none.
        uncertainty: Claimed standard deviations, shape (n,): their running median is drawn on either side of the
            running median of the residuals, to be compared with the 16-84 % band.
        axes: Where to draw values and residuals; None makes a new figure.

    Returns:
        The two axes.

    Raises:
        ValueError: If the shapes differ, no true value is known, or a prediction or an uncertainty makes no sense.
        ImportError: If matplotlib is not installed.
    """
    given = {} if uncertainty is None else {"uncertainty": uncertainty}
    (true, found, *sigma), missing = _labelled(truth=truth, predicted=predicted, **given)
    _require(all((column > 0).all() for column in sigma), "uncertainty must be positive", *sigma)
    residual = found - true
    running = _running(true, residual)
    claimed = [np.array([np.median(column[part]) for part in _equal_counts(true)]) for column in sigma]
    limits, reach = _limits(true, found), _reach(residual, [*running[1:], *claimed])
    panel, lower = _new_pair() if axes is None else axes
    _draw_points(panel, true, found, (*limits, *limits), cells=(70, 40))
    _draw_points(lower, true, residual, (*limits, -reach, reach), cells=(70, 20))
    panel.plot(limits, limits, color="k", lw=1, ls="--", label="1:1")
    lower.axhline(0, color="k", lw=1, ls="--")
    _draw_running(lower, running, claimed)
    beyond = int(np.sum((found < limits[0]) | (found > limits[1]) | (np.abs(residual) > reach)))
    _write_figures(panel, true, found, unit, missing, beyond)
    _label_pair(panel, lower, name, unit)
    return panel, lower


def _limits(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """All true values and nearly all predicted ones: a few wild predictions do not set the scale."""
    low, high = np.percentile(predicted, [0.5, 99.5])
    low, high = min(low, truth.min()), max(high, truth.max())
    margin = 0.04 * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _reach(residual: np.ndarray, lines: list[np.ndarray]) -> float:
    """Half the height of the residual panel: four times the typical scatter, and all that is drawn as a line."""
    least = 1.2 * max(np.abs(line).max() for line in lines)
    return float(max(4 * scaled_mad(0.0, residual), least) or np.abs(residual).max() or 1.0)


def _draw_points(
    ax: "Axes", x: np.ndarray, y: np.ndarray, extent: tuple[float, float, float, float], cells: tuple[int, int]
) -> None:
    ax.set(xlim=extent[:2], ylim=extent[2:])
    if len(x) <= DENSE:
        ax.plot(x, y, ".", color=POINT_COLOR, ms=6, mew=0, alpha=0.7 if len(x) < DENSE // 4 else 0.4)
        return
    image = ax.hexbin(x, y, extent=extent, gridsize=cells, bins="log", mincnt=1, cmap=DENSITY_COLORS, linewidths=0.1)
    # Light to middle grey: a single object is not white, and coloured lines stand out of the densest part.
    image.set_clim(0.2, np.asarray(image.get_array()).max() ** 1.7 + 1)


def _equal_counts(x: np.ndarray) -> list[np.ndarray]:
    """Places of the values in bins of equal counts, in ascending order of x."""
    fewest = int(np.clip(len(x) // FEWEST_BINS, 1, FEWEST_BINS))
    bins = int(np.clip(len(x) // PER_BIN, fewest, MOST_BINS))
    return np.array_split(np.argsort(x, kind="stable"), bins)


def _running(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Median of x, and the 16th, 50th and 84th percentile of y in bins of equal counts of x; shape (4, bins)."""
    rows = [[np.median(x[part]), *np.percentile(y[part], [16, 50, 84])] for part in _equal_counts(x)]
    return np.array(rows).T


def _draw_running(ax: "Axes", running: np.ndarray, claimed: list[np.ndarray]) -> None:
    middle, low, median, high = running
    ax.plot(middle, median, color=RUNNING_COLOR, lw=1.5, marker=".", label="running median of residuals")
    ax.fill_between(middle, low, high, facecolor=(RUNNING_COLOR, 0.25), edgecolor=RUNNING_COLOR, label="their 16-84 %")
    for sigma in claimed:
        for sign, label in ((-1, "median claimed ±σ"), (1, None)):
            ax.plot(middle, median + sign * sigma, color=CLAIM_COLOR, lw=1.8, ls=":", label=label)


def _label_pair(panel: "Axes", lower: "Axes", name: str, unit: str) -> None:
    panel.set_ylabel(f"predicted {_quantity(name, unit)}")
    lower.set_ylabel(_quantity("predicted - true", unit))
    lower.set_xlabel(f"true {_quantity(name, unit)}")
    handles = panel.get_legend_handles_labels()[0] + lower.get_legend_handles_labels()[0]
    panel.legend(handles=handles, loc="lower right", frameon=False, fontsize="small")  # the lower panel has no room


def _write_figures(ax: "Axes", truth: np.ndarray, predicted: np.ndarray, unit: str, missing: int, beyond: int) -> None:
    explained = r_squared(truth, predicted)
    lines = [
        _count_text(len(truth), missing),
        "no $R^2$: all true values are equal" if np.isnan(explained) else f"$R^2$ = {explained:.3f}",
        f"scaled MAD = {scaled_mad(truth, predicted):.3g} {unit}".rstrip(),
        f"bias = {bias(truth, predicted):+.3g} {unit}".rstrip(),
    ]
    lines += [f"{beyond:,} beyond the axes"] if beyond else []
    box = {"facecolor": "w", "alpha": 0.8, "edgecolor": "none", "pad": 2}
    ax.text(0.02, 0.97, "\n".join(lines), transform=ax.transAxes, va="top", fontsize="small", bbox=box)


def plot_error_by_snr(
    error: ArrayLike, snr: ArrayLike, *, name: str, unit: str = "", ax: "Axes | None" = None
) -> "Axes":
    """How the error of a head falls with the signal-to-noise ratio, in bins of equal counts.

    Args:
        error: Predicted minus true value, shape (n,); NaN = missing label.
        snr: Signal-to-noise ratio of each spectrum, shape (n,). What is not above 0 has no place on a log axis:
            it is left out and counted in the title.
        name: What the values are, for the label of the axis.
        unit: Their unit; empty = none.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the shapes differ, or there is no error with a positive signal-to-noise ratio.
        ImportError: If matplotlib is not installed.
    """
    (known, ratio), missing = _labelled(error=error, snr=snr)
    positive = ratio > 0
    _require(positive.any(), "nothing to plot: snr must be positive somewhere", ratio)
    known, ratio = known[positive], ratio[positive]
    ax = _new_axes((6.4, 4.2)) if ax is None else ax
    parts = _equal_counts(ratio)
    middle, low, _, high = _running(ratio, known)
    ax.axhline(0, color="k", lw=1, ls="--")
    ax.fill_between(middle, low, high, color=BAND_COLOR, alpha=0.3, lw=0, label="16-84 % of the errors")
    scatter = [scaled_mad(0.0, known[part]) for part in parts]
    text = f"scaled MAD (all: {scaled_mad(0.0, known):.3g}{' ' * bool(unit)}{unit})"
    ax.plot(middle, scatter, color=DATA_COLOR, marker="o", ms=4, label=text)
    _set_log_axis(ax)
    ax.set_xlabel("signal-to-noise ratio")
    ax.set_ylabel(f"error of {_quantity(name, unit)}")
    left_out = {"S/N not above 0": int(np.sum(~positive))}
    title = f"{_count_text(len(known), missing, left_out)}, about {len(known) / len(parts):,.0f} per bin"
    ax.set_title(title, loc="left", fontsize="medium")
    ax.legend(frameon=False)
    return ax


def plot_residual_boxes(
    error: ArrayLike,
    against: ArrayLike,
    *,
    name: str,
    against_name: str,
    unit: str = "",
    against_unit: str = "",
    edges: Sequence[float] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Box plots of the errors of a head in bins of the true value, of S/N, or of anything else.

    A box reaches from the first to the third quartile, with the median in it; its whiskers to the farthest error
    within 1.5 times their distance from the box, and what lies beyond is a point. At the foot of each stands how many
    objects it holds. Points beyond the axes are counted in the title.

    Args:
        error: Predicted minus true value, shape (n,); NaN = missing label.
        against: What the bins are of, shape (n,), such as the true value or the S/N of each spectrum.
        name: What the errors are of, for the label of the axis.
        against_name: What the bins are of, likewise.
        unit: Unit of the errors; empty = none.
        against_unit: Unit of the bins; empty = none.
        edges: Edges of the bins, ascending, at least two; a value on an inner edge is in the bin above it. What lies
            beyond them is left out and counted in the title. None = bins of equal counts, at most 8.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the shapes differ, edges do not ascend, or no error is known within them.
        ImportError: If matplotlib is not installed.
    """
    (known, place), missing = _labelled(error=error, against=against)
    parts, texts = _boxes(place, edges)
    shown = sum(map(len, parts))
    _require(shown > 0, f"nothing to plot: edges {edges} must hold some of the values", place)
    ax = _new_axes((1.6 + 0.9 * max(len(parts), 4), 4.2)) if ax is None else ax
    ax.axhline(0, color="k", lw=1, ls="--")
    boxes = ax.boxplot(
        [known[part] for part in parts],
        tick_labels=texts,
        whis=WHISKER,
        widths=0.6,
        **BOX_STYLE,
    )
    low, high = _box_limits(boxes["whiskers"], known)
    ax.set_ylim(low, high)
    for number, part in enumerate(parts, 1):
        ax.text(number, 0.02, f"{len(part):,}", transform=ax.get_xaxis_transform(), ha="center", fontsize="x-small")
    ax.set_xlabel(_quantity(against_name, against_unit))
    ax.set_ylabel(f"error of {_quantity(name, unit)}")
    drawn = known[np.concatenate(parts)]
    beyond = int(np.sum((drawn < low) | (drawn > high)))
    title = _count_text(shown, missing, {"beyond the bins": len(known) - shown})
    ax.set_title(title + (f", {beyond:,} beyond the axes" if beyond else ""), loc="left", fontsize="medium")
    return ax


def _boxes(place: np.ndarray, edges: Sequence[float] | None) -> tuple[list[np.ndarray], list[str]]:
    """Indices of the objects of each box, and what to write below it."""
    if edges is None:
        boxes = int(np.clip(len(place) // PER_BIN, 1, MOST_BOXES))
        parts = np.array_split(np.argsort(place, kind="stable"), boxes)
        return parts, [f"{place[part[0]]:.4g}\nto {place[part[-1]]:.4g}" for part in parts]
    bounds = np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not np.all(np.diff(bounds) > 0):
        raise ValueError(f"edges must be two numbers or more, ascending, found {edges}")
    bin_of = np.searchsorted(bounds, place, side="right") - 1
    bin_of[place == bounds[-1]] = len(bounds) - 2
    parts = [np.flatnonzero(bin_of == number) for number in range(len(bounds) - 1)]
    return parts, [f"{low:g}\nto {high:g}" for low, high in pairwise(bounds)]


def _box_limits(whiskers: Sequence["Line2D"], values: np.ndarray) -> tuple[float, float]:
    """Limits that hold all whiskers and some room below and above: a few wild errors do not set the scale."""
    ends = np.concatenate([[0.0], *(np.asarray(line.get_ydata(), dtype=np.float64) for line in whiskers)])
    low, high = np.nanmin(ends), np.nanmax(ends)  # an empty box has NaN
    room = 0.2 * (high - low) or np.abs(values).max() or 1.0
    return float(low - room), float(high + room)


def _set_log_axis(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def plot_coverage(
    residual: ArrayLike, uncertainty: ArrayLike, *, ax: "Axes | None" = None, label: str | None = None
) -> "Axes":
    """Calibration curve: the share of residuals within the central Gaussian interval of each nominal probability.

    A curve below the diagonal claims too small uncertainties, one above it too large ones. The bands around the
    diagonal are the binomial errors, 1 and 2 sigma, of as many objects; neighbouring points of a curve are not
    independent. Draw several heads into the same axes to compare them.

    Args:
        residual: Predicted minus true values, shape (n,); NaN = missing label.
        uncertainty: Claimed standard deviations, shape (n,), in the same unit.
        ax: Where to draw; None makes a new figure.
        label: Name of the curve; None = "observed".

    Returns:
        The axes.

    Raises:
        ValueError: If the shapes differ, no residual is known, or an uncertainty is not positive.
        ImportError: If matplotlib is not installed.
    """
    (known, sigma), missing = _labelled(residual=residual, uncertainty=uncertainty)
    _require((sigma > 0).all(), "uncertainty must be positive", sigma)
    pull = np.abs(known / sigma)
    observed, error = (curve[:, 0] for curve in coverage_curve(known, sigma, LEVELS.tolist()))
    ax = _new_axes((5.4, 5.2)) if ax is None else ax
    curves = sum(line.get_gid() == "coverage" for line in ax.get_lines())
    color = CURVE_COLORS[curves % len(CURVE_COLORS)]
    if not curves:
        ax.plot([0, 1], [0, 1], color="k", lw=1, ls="--", label="calibrated, ±1 and ±2 binomial σ")
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for width in (1, 2):
        ax.fill_between(LEVELS, LEVELS - width * error, LEVELS + width * error, color=color, alpha=0.15, lw=0)
    within = " and ".join(f"{100 * np.mean(pull <= width):.1f} % in {width}σ" for width in (1, 2))
    text = f"{label or 'observed'}: {within},\n{_count_text(len(pull), missing)}"
    ax.plot(LEVELS, observed, color=color, lw=1.5, label=text, gid="coverage")
    ax.set_xlabel("nominal central probability (Gaussian: 68.3 % in 1σ, 95.4 % in 2σ)", fontsize="small")
    ax.set_ylabel("observed share")
    ax.legend(loc="best", frameon=False, fontsize="small")
    return ax


def plot_pit(pit: ArrayLike, *, bins: int = 10, ax: "Axes | None" = None) -> "Axes":
    """Histogram of probability integral transforms, flat if the predicted distributions are right.

    A hump says that the predicted distributions are too wide, a trough that they are too narrow, a slope that they are
    biased. The bands are the binomial errors, 1 and 2 sigma, of one bin.

    Args:
        pit: Predicted cumulative probability at the true value, shape (n,), from 0 to 1; NaN = missing label.
        bins: Number of bins.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If there are fewer than 2 bins, no value is known, or one lies outside of 0 to 1.
        ImportError: If matplotlib is not installed.
    """
    (known,), missing = _labelled(pit=pit)
    histogram, (sigma,), (chi2,) = pit_histogram(known, bins)
    counts, edges, expected = histogram[:, 0], np.linspace(0, 1, bins + 1), len(known) / bins
    ax = _new_axes((6.4, 4.2)) if ax is None else ax
    ax.stairs(counts, edges, fill=True, color=DATA_COLOR, alpha=0.15)
    ax.stairs(counts, edges, color=DATA_COLOR, lw=2)
    for width, alpha in ((1, 0.35), (2, 0.25)):
        text = f"expected ±{width}σ (binomial)"
        ax.axhspan(expected - width * sigma, expected + width * sigma, color=BAND_COLOR, alpha=alpha, lw=0, label=text)
    ax.axhline(expected, color="k", lw=1, ls="--")
    ax.set(xlim=(0, 1), ylim=(0, 1.3 * max(counts.max(), expected + 2 * sigma)))
    ax.set_xlabel("probability integral transform")
    ax.set_ylabel("objects per bin")
    title = f"{_count_text(len(known), missing)}, $\\chi^2$ = {chi2:.1f} of {bins - 1} degrees of freedom"
    ax.set_title(title, loc="left", fontsize="medium")
    ax.legend(loc="upper right", ncols=2, frameon=False, fontsize="small")
    return ax


def plot_flag_reliability(
    correct: ArrayLike, confidence: ArrayLike, zwarn: ArrayLike, *, ax: "Axes | None" = None
) -> "Axes":
    """How far the claimed confidence and the flag of a redshift can be trusted.

    Share of right redshifts in ten bins of the confidence with its 1 sigma binomial (Wilson) interval, the number of
    objects at the foot of each bin. The legend gives, for zwarn == 0 and zwarn != 0, how many there are, how many of
    them are right (success), and how many of all right redshifts they hold (completeness).

    Args:
        correct: Whether each redshift is right, shape (n,), as truth values or 0 and 1; NaN = missing label.
        confidence: Claimed probability that it is right, shape (n,), from 0 to 1.
        zwarn: Quality flag, shape (n,), 0 = good.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the shapes differ, no redshift has a label, a value is outside of its range, or zwarn holds
            truth values, which do not say what is good.
        ImportError: If matplotlib is not installed.
    """
    if np.asarray(zwarn).dtype == bool:
        raise ValueError("zwarn must hold numbers with 0 = good, found truth values: pass np.where(good, 0, 1)")
    (right, claimed, flag), missing = _labelled(correct=correct, confidence=confidence, zwarn=zwarn)
    _require(np.isin(right, (0, 1)).all(), "correct must hold 0 and 1", right)
    _require(((claimed >= 0) & (claimed <= 1)).all(), "confidence must lie from 0 to 1", claimed)
    ax = _new_axes((6.4, 4.8)) if ax is None else ax
    ax.plot([0, 1], [0, 1], color="k", lw=1, ls="--", label="confidence as claimed")
    _draw_reliability(ax, right, claimed)
    for text, chosen, color in (("== 0", flag == 0, CURVE_COLORS[2]), ("!= 0", flag != 0, CURVE_COLORS[1])):
        if chosen.any():
            ax.axhline(right[chosen].mean(), color=color, lw=1.5, ls="-.", label=_flag_text(text, right, chosen))
    ax.set(xlim=(0, 1), ylim=(-0.08, 1.5), yticks=np.arange(0, 1.1, 0.2))
    ax.set_xlabel("claimed confidence")
    ax.set_ylabel("share of right redshifts")
    ax.set_title(
        f"{100 * right.mean():.1f} % right, {_count_text(len(right), missing)}", loc="left", fontsize="medium"
    )
    ax.legend(loc="upper left", frameon=False, fontsize="small")
    return ax


def _draw_reliability(ax: "Axes", right: np.ndarray, claimed: np.ndarray) -> None:
    place = np.minimum((claimed * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    counts = np.bincount(place, minlength=CONFIDENCE_BINS)
    used = counts > 0
    hits = np.bincount(place, right, CONFIDENCE_BINS)[used]
    middle = np.bincount(place, claimed, CONFIDENCE_BINS)[used] / counts[used]
    share = hits / counts[used]
    bounds = np.abs(_wilson(hits, counts[used]) - share)
    ax.errorbar(
        middle, share, bounds, fmt="o-", color=DATA_COLOR, ms=5, lw=1.2, capsize=2, label="share of right ones"
    )
    for bin_, count in enumerate(counts):
        ax.text((bin_ + 0.5) / CONFIDENCE_BINS, -0.04, f"{count:,}", ha="center", va="center", fontsize="x-small")


def _wilson(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Wilson interval of 1 sigma, shape (2, bins): unlike sqrt(p (1 - p) / n), not 0 at shares 0 and 1."""
    half = np.sqrt(hits * (counts - hits) / counts + 0.25)
    return np.stack([hits + 0.5 - half, hits + 0.5 + half]) / (counts + 1)


def _flag_text(text: str, right: np.ndarray, chosen: np.ndarray) -> str:
    held = f", {100 * right[chosen].sum() / right.sum():.1f} % of all right ones" if right.any() else ""
    return f"zwarn {text}: {chosen.sum():,} objects, {100 * right[chosen].mean():.1f} % right{held}"


def _labelled(**columns: ArrayLike) -> tuple[list[np.ndarray], int]:
    """The columns, each (n,), where the first of them is known, and the number of objects where it is not."""
    values = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    shapes = [value.shape for value in values.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(f"{', '.join(values)} must be vectors of one length, found the shapes {_join(shapes)}")
    label, first = next(iter(values.items()))
    known = ~np.isnan(first)
    if not known.any():
        raise ValueError(f"nothing to plot: {label} holds {len(first)} values, and all are missing (NaN)")
    for name, value in values.items():
        if wrong := int(np.sum(~np.isfinite(value[known]))):
            raise ValueError(
                f"{name} must be finite where {label} is known, found {wrong} of {known.sum()} that are not: mend "
                f"them, or leave these objects out with NaN in {label}"
            )
    return [value[known] for value in values.values()], int(np.sum(~known))


def _join(items: Sequence[object]) -> str:
    return ", ".join(map(str, items))


def _require(condition: bool | np.bool_, text: str, *values: np.ndarray) -> None:
    if not condition:
        found = " and ".join(f"values from {value.min():.6g} to {value.max():.6g}" for value in values)
        raise ValueError(f"{text}, found {found}")


def _count_text(count: int, missing: int, left_out: dict[str, int] | None = None) -> str:
    """The number of objects shown, and of those that are not, by reason."""
    reasons = {"without label": missing} | (left_out or {})
    texts = [f"{number:,} {reason}" for reason, number in reasons.items() if number]
    return f"n = {count:,}" + (f" (left out: {', '.join(texts)})" if texts else "")


def _quantity(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def _new_axes(size: tuple[float, float]) -> "Axes":
    axes: Axes = import_pyplot().subplots(figsize=size, layout="constrained")[1]
    return axes


def _new_pair() -> "tuple[Axes, Axes]":
    _, axes = import_pyplot().subplots(2, 1, sharex=True, figsize=(6.4, 7), height_ratios=(2, 1), layout="constrained")
    return axes[0], axes[1]


__all__ = [
    "plot_confusion",
    "plot_coverage",
    "plot_error_by_snr",
    "plot_flag_reliability",
    "plot_pit",
    "plot_predicted_true",
    "plot_residual_boxes",
]
