"""Plots of pairs: what retrieval found for spectra and images, and where in a spectrum the pooling query looks."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data.lines import label_number
from ..models.patches import find_segments
from ..models.processing_astroclip import AstroClipProcessor
from ..models.sky_image import SkyImage
from ..models.spectrum import Spectrum
from .plots import (
    SMALL,
    TINY,
    flux_limits,
    import_pyplot,
    mark_lines,
    set_wavelength_axis,
    shade_bad,
    unit_text,
    wavelength_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


QUERY_COLOR, RIGHT_COLOR = "#0072B2", "#009E73"  # of frames; the right answer's is dashed besides
MEAN_COLOR = "#D55E00"
HEAD_COLORS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # again from the first, where heads are more
LEAST_WEIGHT = 0.03  # that is drawn, in units of an equal one
SMOOTH_PIXELS = 9  # of a spectrum in a small picture, where single pixels are but noise

Display = Callable[[SkyImage], np.ndarray]


def plot_retrieved(
    queries: Sequence[Spectrum | SkyImage],
    found: Sequence[Sequence[Spectrum | SkyImage]],
    *,
    distances: Sequence[Sequence[float]] | None = None,
    display: Display | None = None,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Queries, left, and what was found for each, in its order; each a spectrum or an image, with its redshift.

    A dashed green frame is around what is of the query's own object: the right answer. Spectra are smoothed.

    Args:
        queries: Spectra or images, at least one.
        found: For each of them spectra or images, as many for each.
        distances: How far each is from its query, written as d; None = not written.
        display: Makes red, green and blue of an image, shape (height, width, 3), from 0 to 1; None = as
            `AstroClipProcessor.display` does.
        axes: Where to draw, shape (queries, 1 + number found); None makes a new figure.

    Returns:
        The axes, shape (queries, 1 + number found).

    Raises:
        ValueError: If there is no query, lengths differ, or there are too few axes.
        ImportError: If matplotlib is not installed.
    """
    width = len(found[0]) if len(found) else 0
    far: Sequence[Sequence[float]] = [[np.nan] * width] * len(found) if distances is None else distances
    lengths = [len(row) for rows in (found, far) for row in rows]
    if not len(queries) == len(found) == len(far) or not width or set(lengths) != {width}:
        raise ValueError(
            "each query needs as many spectra or images found for it, at least one, and distances if any, found "
            f"{len(queries)} queries, {[len(row) for row in found]} found and {[len(row) for row in far]} distances"
        )
    if axes is None:
        axes = _new_grid(len(queries), 1 + width)
    elif np.shape(axes) != (len(queries), 1 + width):
        raise ValueError(f"axes must have the shape ({len(queries)}, {1 + width}), found {np.shape(axes)}")
    display = AstroClipProcessor().display if display is None else display
    for row, query, answers, apart in zip(axes, queries, found, far, strict=True):
        _draw_one(row[0], query, display)
        _frame(row[0], QUERY_COLOR, "-")
        for ax, answer, distance in zip(row[1:], answers, apart, strict=True):
            _draw_one(ax, answer, display, distance)
            if answer.object_id is not None and answer.object_id == query.object_id:
                _frame(ax, RIGHT_COLOR, "--")
    axes[0, 0].text(0, 1.22, "query", transform=axes[0, 0].transAxes, color=QUERY_COLOR, fontsize=SMALL)
    axes[0, 1].text(0, 1.22, "nearest first", transform=axes[0, 1].transAxes, fontsize=SMALL)
    return axes


def plot_pooling_attention(
    spectrum: Spectrum,
    attention: np.ndarray,
    token_wavelength: np.ndarray,
    *,
    attention_mask: np.ndarray | None = None,
    axes: "tuple[Axes, Axes] | None" = None,
) -> "tuple[Axes, Axes]":
    """A spectrum with the names of its lines, and below how much the pooling query looks at each patch, by head.

    Weights are in units of what they would be if all patches had the same one, on a logarithmic axis. The title says
    what share goes to no patch: to what the spectrum was normalised by, a Specformer's token of mean and standard
    deviation, or the level that stands beside the patches of another family. Names of lines are where they are
    observed.

    Args:
        spectrum: The spectrum; its labels say where its lines are.
        attention: Weights of the heads, `spectrum_attentions` of `AstroClipOutput`, shape (heads, num_patches).
        token_wavelength: Wavelength of each patch in Å, shape (num_patches,).
        attention_mask: Patches that count, 1 = valid, the same shape; None = those of a positive wavelength.
        axes: Where to draw flux and weights; None makes a new figure.

    Returns:
        The two axes.

    Raises:
        ValueError: If shapes disagree, no patch is valid, or weights are none.
        ImportError: If matplotlib is not installed.
    """
    weights, wavelength = np.asarray(attention, dtype=np.float64), np.asarray(token_wavelength, dtype=np.float64)
    valid = wavelength > 0 if attention_mask is None else np.asarray(attention_mask) > 0
    _check_weights(weights, wavelength, valid)
    upper, lower = _new_pair() if axes is None else axes
    _draw_flux(upper, spectrum)
    relative = weights * valid.sum()
    segments = _runs(valid, wavelength)
    for head, row in enumerate(relative):
        color = HEAD_COLORS[head % len(HEAD_COLORS)]
        for number, part in enumerate(segments):
            label = f"head {head + 1}" if number == 0 else None
            lower.plot(wavelength[part], row[part], color=color, lw=0.6, alpha=0.8, label=label)
    for number, part in enumerate(segments):
        mean = relative.mean(0)[part]
        lower.plot(wavelength[part], mean, color=MEAN_COLOR, lw=1.6, label="mean" if number == 0 else None)
    lower.axhline(1, color="k", lw=0.6, ls=":")
    lower.set_yscale("log")
    lower.set_ylim(LEAST_WEIGHT, 2 * max(relative.max(), 1.0))
    lower.set_ylabel("weight / equal weight", fontsize=SMALL)
    lower.set_xlabel(wavelength_text(spectrum), fontsize=SMALL)
    lower.legend(fontsize=TINY, ncols=min(len(weights) + 1, 6), loc="upper right", frameon=False)
    for ax in (upper, lower):
        set_wavelength_axis(ax, spectrum)
        ax.tick_params(labelsize=SMALL)
    beside = 1 - weights[:, valid].sum(-1).mean()
    title = f"{_title(spectrum)}; {max(beside, 0):.0%} of the weight is on no patch"
    upper.set_title(title, loc="left", fontsize="medium")
    mark_lines(upper, spectrum=spectrum)
    return upper, lower


def _check_weights(weights: np.ndarray, wavelength: np.ndarray, valid: np.ndarray) -> None:
    if weights.ndim != 2 or not len(weights) or not weights.shape[1:] == wavelength.shape == valid.shape:
        raise ValueError(
            "attention must have shape (heads, num_patches), token_wavelength and attention_mask (num_patches,), "
            f"found {weights.shape}, {wavelength.shape} and {valid.shape}: pass one spectrum of a batch"
        )
    if not valid.any() or not np.isfinite(weights).all() or weights.min() < 0 or weights.sum(-1).max() > 1.01:
        raise ValueError(
            "attention must be weights of valid patches, none negative, each head's at most 1 in sum, found "
            f"{valid.sum()} valid patches and weights from {weights.min():.3g}, with sums up to "
            f"{weights.sum(-1).max():.3g}"
        )


def _runs(valid: np.ndarray, wavelength: np.ndarray) -> list[np.ndarray]:
    """Indices of valid patches, apart where patches between them are not valid, or their wavelengths leap."""
    chosen = np.flatnonzero(valid)
    steps = np.diff(wavelength[chosen])
    leaps = steps > 3 * np.median(steps) if len(steps) else steps > 0
    return np.split(chosen, np.flatnonzero((np.diff(chosen) > 1) | leaps) + 1)


def _draw_flux(ax: "Axes", spectrum: Spectrum) -> None:
    flux = np.where(spectrum.good, spectrum.flux, np.nan)
    for segment in find_segments(spectrum.wavelength):
        ax.plot(spectrum.wavelength[segment], flux[segment], color="k", lw=0.5)
    shade_bad(spectrum, (ax,))
    low, high = flux_limits(spectrum) or (0.0, 1.0)
    margin = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    ax.set_ylabel(f"flux{unit_text(spectrum.flux_unit)}", fontsize=SMALL)


def _draw_one(ax: "Axes", shown: Spectrum | SkyImage, display: Display, distance: float = np.nan) -> None:
    ax.set(xticks=[], yticks=[])
    if isinstance(shown, SkyImage):
        ax.imshow(display(shown), origin="lower", interpolation="nearest")
    else:
        _draw_small(ax, shown)
    text = _title(shown, named=False) + (f", d {distance:.3f}" if np.isfinite(distance) else "")
    ax.set_title(text, loc="left", fontsize=TINY, pad=2)


def _draw_small(ax: "Axes", spectrum: Spectrum) -> None:
    weight = np.where(spectrum.good, spectrum.ivar, 0.0).astype(np.float64)
    light = weight * np.where(spectrum.good, spectrum.flux, 0.0)
    sums, total = (np.convolve(values, np.ones(SMOOTH_PIXELS), mode="same") for values in (light, weight))
    smooth = np.divide(sums, total, out=np.full(len(weight), np.nan), where=total > 0)
    for segment in find_segments(spectrum.wavelength):
        ax.plot(spectrum.wavelength[segment], smooth[segment], color="k", lw=0.4)
    known = smooth[np.isfinite(smooth)]
    low, high = np.percentile(known, [0.5, 99.5]) if len(known) else (0.0, 1.0)
    margin = 0.1 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(spectrum.wavelength[0], spectrum.wavelength[-1])
    ax.set_box_aspect(1)


def _title(shown: Spectrum | SkyImage, *, named: bool = True) -> str:
    texts = [str(shown.object_id or "unnamed")] if named else []
    redshift = label_number(shown, "redshift")  # type: ignore[arg-type]  # it reads the labels alone
    texts += [] if redshift is None else [f"z {redshift:.3f}"]
    return ", ".join(texts) or str(shown.object_id or "unnamed")


def _frame(ax: "Axes", color: str, style: str) -> None:
    for spine in ax.spines.values():
        spine.set(color=color, linestyle=style, linewidth=2)


def _new_grid(rows: int, columns: int) -> np.ndarray:
    axes: np.ndarray = import_pyplot().subplots(
        rows, columns, squeeze=False, figsize=(1.45 * columns, 0.4 + 1.6 * rows), layout="constrained"
    )[1]
    return axes


def _new_pair() -> "tuple[Axes, Axes]":
    _, axes = import_pyplot().subplots(
        2, 1, sharex=True, figsize=(10, 5), height_ratios=(3, 2), gridspec_kw={"hspace": 0.05}, layout="constrained"
    )
    return axes[0], axes[1]


__all__ = ["plot_pooling_attention", "plot_retrieved"]
