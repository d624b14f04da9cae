"""Plots: functions that take and return matplotlib axes.

Colours are those of Okabe & Ito, and what colours tell is told by width, height or dashes besides, for grey print.
"""

from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..data.domain import SurveyDomain, TrainingDomain, median_snr
from ..data.lines import Line, find_lines, line_kind, line_redshift
from ..data.surveys import SURVEYS, Arm, Survey
from ..models.patches import find_segments
from ..models.spectrum import CGS_UNIT, Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation, Text

FLUX_COLOR, MODEL_COLOR, BAD_COLOR, LINE_COLOR = "0.5", "#0072B2", "#E69F00", "0.3"
THIN = 0.3  # pt: the edge of a single pixel, which would else be narrower than what can be drawn
SMALL, TINY = 8.0, 7.0  # pt: of labels, of what stands beside them
LINE_SPACING, LEADER = 1.35, 8.0  # between names of lines, in font sizes; pt from the axes to a name
DESPIKED = (5, 3)  # pixels of running medians: features that outlast the wider one set the scale, and
MOST_GROWTH = 2.5  # so many times its height is left to the cores of lines, which outlast the narrower one only
WILD_ERROR = 5.0  # times the median error: noisier pixels do not set the scale either, unless
LEAST_RUN, SIGNIFICANT = 10, 5.0  # so many side by side are each that many times their error: Lyα, no line of the sky
HEADROOM, MARGIN = 0.22, 0.06  # of the flux axis, above for the legend, and below
EDGE = 0.006  # of the span, left free beside the first and the last pixel
MOST_EMPTY, GAP_SHARE = 0.25, 0.02  # of an axis: more gaps than that are compressed, to this width each
LEAST_REACH, MOST_REACH = 5.0, 20.0  # sigma, of the residual axis
REACHED = 99.5  # percentile of the residuals that it holds

POWERS = (30.0, 40_000.0)  # resolving powers between which colours run

UNIT_TEXTS = {CGS_UNIT: r"$10^{-17}$ erg/s/cm$^2$/Angstrom"}  # others stand as they are


def plot_reconstruction(
    spectrum: Spectrum, reconstruction: Spectrum, *, axes: "tuple[Axes, Axes] | None" = None
) -> "tuple[Axes, Axes]":
    """A spectrum with its reconstruction: flux with ±1 sigma, bad pixels shaded, and the residual in sigma below.

    Limits follow features of at least three pixels: a spike does not set them, an emission line does. Residuals beyond
    their axis have an arrow at its edge. `mark_lines` adds the names of lines.

    Args:
        spectrum: The observed spectrum.
        reconstruction: Its reconstruction on the same grid, from `SpectrumProcessor.post_process_reconstruction`.
        axes: Where to draw flux and residual; None makes a new figure.

    Returns:
        The two axes.

    Raises:
        ValueError: If the two do not share a wavelength grid.
        ImportError: If matplotlib is not installed.
    """
    if len(spectrum) != len(reconstruction) or np.abs(spectrum.wavelength - reconstruction.wavelength).max() > 1e-3:
        raise ValueError(
            f"spectrum and reconstruction must share a wavelength grid, found {spectrum!r} and {reconstruction!r}"
        )
    flux_axis, residual_axis = axes or _new_axes()
    good = spectrum.good
    flux = np.where(good, spectrum.flux, np.nan)
    error = np.where(good, spectrum.error, np.nan)
    model = np.where(reconstruction.mask, np.nan, reconstruction.flux)
    residual = (flux - model) / error
    for segment in find_segments(spectrum.wavelength):
        wavelength = spectrum.wavelength[segment]
        low, high = flux[segment] - error[segment], flux[segment] + error[segment]
        flux_axis.fill_between(wavelength, low, high, color=FLUX_COLOR, alpha=0.3, lw=0)
        flux_axis.plot(wavelength, flux[segment], color=FLUX_COLOR, lw=0.5)
        flux_axis.plot(wavelength, model[segment], color=MODEL_COLOR, lw=1.0)
        residual_axis.plot(wavelength, residual[segment], color=FLUX_COLOR, lw=0.4)
    shade_bad(spectrum, (flux_axis, residual_axis))
    for axis in (flux_axis, residual_axis):
        set_wavelength_axis(axis, spectrum)
    _decorate_flux(flux_axis, spectrum, model, residual)
    _decorate_residual(residual_axis, spectrum, residual)
    return flux_axis, residual_axis


def signal_to_noise(spectrum: Spectrum) -> float:
    """Median of flux over error of the good pixels; 0 where there are none.

    Args:
        spectrum: The spectrum.
    """
    return median_snr(spectrum) or 0.0


def flux_limits(spectrum: Spectrum, *others: np.ndarray) -> tuple[float, float] | None:
    """The range of a spectrum that is worth showing: without spikes, and without pixels of wild errors, unless many of
    them together are significant.

    Args:
        spectrum: The spectrum.
        *others: What else is drawn over it, shape (L,) each, NaN = nothing.

    Returns:
        Lowest and highest flux; None where nothing is to be shown.
    """
    shown = _is_calm(spectrum)
    return feature_limits(*(values[shown] for values in (spectrum.flux, *others)))


def _is_calm(spectrum: Spectrum) -> np.ndarray:
    """Good pixels, less those of wild errors, unless each of many side by side stands out of its error."""
    good = spectrum.good
    if not good.any():
        return good
    error = np.where(good, spectrum.error, np.inf)
    calm: np.ndarray = error <= WILD_ERROR * np.median(error[good])
    for first, stop in true_runs(~calm & (np.where(good, spectrum.flux, 0) > SIGNIFICANT * error)):
        calm[first:stop] = stop - first >= LEAST_RUN
    return calm


def feature_limits(*fluxes: np.ndarray) -> tuple[float, float] | None:
    """The range of fluxes, without spikes of one or two pixels.

    Args:
        *fluxes: Fluxes that share an axis, shape (n,) each, NaN = nothing.

    Returns:
        Lowest and highest flux; None where there is none.
    """
    wide, narrow = (np.concatenate([_despiked(values, width) for values in fluxes]) for width in DESPIKED)
    if not len(wide):
        return None
    low, high = wide.min(), wide.max()
    growth = (MOST_GROWTH - 1) * (high - low)
    return float(max(narrow.min(), low - growth)), float(min(narrow.max(), high + growth))


def _despiked(values: np.ndarray, width: int) -> np.ndarray:
    """Running median of the finite values."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if len(finite) < 4 * width:
        return finite
    return np.median(np.lib.stride_tricks.sliding_window_view(finite, width), axis=-1)


def set_wavelength_axis(ax: "Axes", spectrum: Spectrum, *, ticks: int = 9) -> None:
    """Limits at the ends of a spectrum; where its gaps would take much of the axis, they are compressed.

    Args:
        ax: Axes whose x axis is wavelength in Å.
        spectrum: The spectrum.
        ticks: How many there are on an axis with compressed gaps, about.
    """
    wavelength = spectrum.wavelength
    segments = [(wavelength[part][0], wavelength[part][-1]) for part in find_segments(wavelength)]
    span = wavelength[-1] - wavelength[0] or 1.0
    filled = sum(high - low for low, high in segments)
    if len(segments) > 1 and 1 - filled / span > MOST_EMPTY:
        span = _compress_gaps(ax, segments, ticks)
    ax.set_xlim(wavelength[0] - EDGE * span, wavelength[-1] + EDGE * span)


def _compress_gaps(ax: "Axes", segments: list[tuple[float, float]], count: int) -> float:
    """A scale on which gaps are narrow, ticks within segments, and a sign at each gap; the length of the axis in Å."""
    from matplotlib.ticker import FixedLocator, ScalarFormatter

    filled = sum(high - low for low, high in segments)
    gap = GAP_SHARE * filled
    edges = np.array(segments).ravel()
    widths = np.diff(edges)
    widths[1::2] = gap
    beyond = 1e6  # on both sides the scale goes on as it is
    edges = np.concatenate([[edges[0] - beyond], edges, [edges[-1] + beyond]])
    places = np.concatenate([[0.0], np.cumsum([beyond, *widths, beyond])])
    ax.set_xscale("function", functions=(lambda x: np.interp(x, edges, places), lambda x: np.interp(x, places, edges)))
    ticks = [
        tick for low, high in segments for tick in _ticks(low, high, max(round(count * (high - low) / filled), 1))
    ]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    for (_, low), (high, _) in pairwise(segments):
        place = ((low + high) / 2, 1e-3)  # within the axes, and gone when a zoom leaves it outside
        ax.annotate(
            "//",
            place,
            xycoords=ax.get_xaxis_transform(),
            annotation_clip=True,
            ha="center",
            va="center",
            fontsize=SMALL,
        ).set_in_layout(False)
    return filled + gap * (len(segments) - 1)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round wavelengths between two others, about as many as asked for."""
    from matplotlib.ticker import MaxNLocator

    values = MaxNLocator(most + 1, steps=[1, 2, 5, 10]).tick_values(low, high)
    inside = [float(value) for value in values if low <= value <= high]
    step = 1 if len(inside) <= most + (most > 1) else -(-len(inside) // most)
    return inside[(len(inside) - 1) % step // 2 :: step]


def unit_text(unit: str | None) -> str:
    """The unit of a flux as it stands beside an axis, in brackets; empty where there is none.

    Args:
        unit: As `Spectrum.flux_unit`.
    """
    return f" [{UNIT_TEXTS.get(unit, unit)}]" if unit else ""


def wavelength_text(spectrum: Spectrum) -> str:
    """The label of a spectrum's wavelength axis.

    Args:
        spectrum: The spectrum.
    """
    return f"wavelength [Å, {spectrum.medium}, {spectrum.frame} frame]"


def import_pyplot() -> ModuleType:
    """matplotlib.pyplot, imported where it is needed.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "spectok-hf[plot]".') from error
    return plt


def _new_axes() -> "tuple[Axes, Axes]":
    _, axes = import_pyplot().subplots(
        2, 1, sharex=True, figsize=(10, 5), height_ratios=(3, 1), gridspec_kw={"hspace": 0.05}, layout="constrained"
    )
    return axes[0], axes[1]


def shade_bad(spectrum: Spectrum, axes: "Sequence[Axes]") -> None:
    """Shade the bad pixels of a spectrum.

    Args:
        spectrum: The spectrum.
        axes: Where; their x axes are wavelength in Å.
    """
    for first, last in bad_runs(spectrum):
        for axis in axes:
            axis.axvspan(first, last, color=BAD_COLOR, alpha=0.25, lw=THIN)


def true_runs(chosen: np.ndarray) -> np.ndarray:
    """Runs of True: the first of each, and the one behind its last, shape (runs, 2).

    Args:
        chosen: Shape (n,), bool.
    """
    return np.flatnonzero(np.diff(np.concatenate([[0], chosen, [0]]))).reshape(-1, 2)


def bad_runs(spectrum: Spectrum) -> list[tuple[float, float]]:
    """From where to where runs of bad pixels reach, in Å, half a pixel beyond the first and last one.

    Args:
        spectrum: The spectrum.
    """
    first, stop = true_runs(~spectrum.good).T
    step = np.pad(np.diff(spectrum.wavelength), 1, constant_values=np.inf)
    half = np.minimum(step[:-1], step[1:]) / 2  # the smaller side: a detector gap is not the width of a pixel
    half = np.where(np.isfinite(half), half, 1.0)
    last = stop - 1
    low, high = spectrum.wavelength[first] - half[first], spectrum.wavelength[last] + half[last]
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _decorate_flux(axis: "Axes", spectrum: Spectrum, model: np.ndarray, residual: np.ndarray) -> None:
    limits = flux_limits(spectrum, model)
    if limits:
        height = limits[1] - limits[0] or abs(limits[0]) or 1.0
        axis.set_ylim(limits[0] - MARGIN * height, limits[1] + HEADROOM * height)
    scatter = residual[np.isfinite(residual)]
    chi2 = f", $\\chi^2$/pixel = {np.mean(scatter**2):.2f}" if len(scatter) else ""
    axis.set_title(f"{spectrum.name}{chi2}", loc="left", fontsize="medium")
    axis.set_ylabel(f"flux{unit_text(spectrum.flux_unit)}", fontsize=SMALL)
    for color, width, label in ((FLUX_COLOR, 0.7, r"observed $\pm 1\sigma$"), (MODEL_COLOR, 1.5, "reconstruction")):
        axis.plot([], [], color=color, lw=width, label=label)
    axis.fill_between([], [], color=BAD_COLOR, alpha=0.35, label="bad pixels")
    axis.legend(
        loc="upper right",
        fontsize=SMALL,
        ncols=3,
        framealpha=0.8,
        edgecolor="none",
        borderaxespad=0.2,
        columnspacing=1.2,
    )
    axis.tick_params(labelsize=SMALL)


def _decorate_residual(axis: "Axes", spectrum: Spectrum, residual: np.ndarray) -> None:
    known = np.isfinite(residual)
    reach = LEAST_REACH
    if known.any():
        reach = float(np.clip(np.percentile(np.abs(residual[known]), REACHED), LEAST_REACH, MOST_REACH))
    axis.axhline(0, color="k", lw=0.6)
    for level, dashes in ((1, (0, (5, 2))), (3, (0, (1, 2)))):
        for sign in (-1, 1):
            axis.axhline(sign * level, color="k", lw=0.6, ls=dashes, alpha=0.7)
    for sign, marker in ((-1, "v"), (1, "^")):
        beyond = known & (sign * np.where(known, residual, 0) > reach)
        place = np.full(int(beyond.sum()), 0.93 * sign * reach)
        axis.scatter(spectrum.wavelength[beyond], place, s=8, marker=marker, color=MODEL_COLOR, lw=0)
    axis.set_ylim(-reach, reach)
    axis.set_yticks([-3, 0, 3] if reach < 8 else [-10, -3, 3, 10])
    axis.set_ylabel(r"residual [$\sigma$]", fontsize=SMALL)
    axis.set_xlabel(wavelength_text(spectrum), fontsize=SMALL)
    axis.tick_params(labelsize=SMALL)


# Names of lines


def mark_lines(
    ax: "Axes",
    *,
    spectrum: Spectrum | None = None,
    redshift: float | None = None,
    kind: str | None = None,
    medium: str = "vacuum",
    fontsize: float = TINY,
) -> "Axes":
    """Names of spectral lines above the axes, each tied to its line; none lies upon another.

    Labels that would overlap move aside; where there is no room for all of them, the less telling ones are left out.
    Lines of one name that are too close to part share a label. Titles move up. Limits must be set before.

    Args:
        ax: Axes whose x axis is wavelength in Å.
        spectrum: What is drawn there. It says its medium, where it has no pixels no line is named, and its labels
            stand in for `redshift` and `kind`. Without a redshift, or without a kind, nothing is marked.
        redshift: Of the object, 0 for an axis in its rest frame; None = what the labels of the spectrum say, else 0.
        kind: "galaxy", "quasar", "star", or "apogee" for stars in the H band: a key of `spectok_hf.data.lines.LINES`;
            None = what the labels of the spectrum say, else "galaxy".
        medium: That of the axis, "vacuum" or "air", where there is no spectrum.
        fontsize: Of the labels, in points.

    Returns:
        The axes.

    Raises:
        ValueError: If the kind is unknown.
    """
    if spectrum is None:
        redshift, kind = redshift or 0.0, kind or "galaxy"
    else:
        medium = spectrum.medium
        kind = kind or line_kind(spectrum)
        redshift = line_redshift(spectrum) if redshift is None else redshift
    if kind is None or redshift is None:
        return ax
    low, high = sorted(ax.get_xlim())
    found = find_lines(kind, (low, high), redshift=redshift, medium=medium)
    if spectrum is not None:
        found = [line for line in found if _is_observed(spectrum, line.wavelength)]
    _settle_layout(ax)
    figure_dpi, width = ax.get_figure(root=True).dpi, ax.get_window_extent().width  # type: ignore[union-attr]
    apart = LINE_SPACING * fontsize * figure_dpi / 72 / width  # the text stands upright; as a share of the axes
    shares = ax.transAxes.inverted().transform(
        ax.transData.transform([(line.wavelength, 0) for line in found] or [(0, 0)])
    )
    groups = _group_lines(found, shares[:, 0], apart)[: max(int(1 / apart) - 1, 0)]
    groups.sort(key=lambda group: group.share)
    places = _spread(np.array([group.share for group in groups]), apart)
    labels = [_draw_label(ax, *pair, fontsize) for pair in zip(groups, places.tolist(), strict=True)]
    if labels:
        _lift_titles(ax, labels)
    return ax


class _Group(NamedTuple):
    """Lines that share a label: where they are, in Å and as shares of the axes."""

    label: str
    wavelengths: list[float]
    shares: list[float]

    @property
    def share(self) -> float:
        return float(np.mean(self.shares))


def _is_observed(spectrum: Spectrum, wavelength: float) -> bool:
    """Whether a spectrum has a pixel within 3 of its own pixels' width."""
    axis = spectrum.wavelength
    right = int(np.clip(np.searchsorted(axis, wavelength), 1, max(len(axis) - 1, 1)))
    near = axis[max(right - 3, 0) : right + 3]
    width = float(np.median(np.diff(near))) if len(near) > 1 else 1.0
    return float(np.abs(near - wavelength).min()) < 3 * width


def _settle_layout(ax: "Axes") -> None:
    """Have a layout engine place the axes: before, they are not as wide as they will be."""
    figure = ax.get_figure(root=True)
    if figure is not None and figure.get_layout_engine() is not None:
        figure.draw_without_rendering()


def _group_lines(lines: Sequence[Line], shares: np.ndarray, apart: float) -> list[_Group]:
    """Labels with their lines, in the order of importance."""
    groups: list[_Group] = []
    for line, share in zip(lines, shares.tolist(), strict=False):
        near = [group for group in groups if group.label == line.label and abs(group.shares[0] - share) < apart]
        group = near[0] if near else _Group(line.label, [], [])
        group.wavelengths.append(line.wavelength)
        group.shares.append(share)
        groups += [] if near else [group]
    return groups


def _spread(places: np.ndarray, apart: float) -> np.ndarray:
    """Places from 0 to 1, ascending, moved as little as they must be (least squares) to be `apart` from each other."""
    # With the spacing taken off, places must not descend: a regression by pooling neighbours that do.
    offset = apart * np.arange(len(places))
    blocks: list[list[float]] = []  # sum, count
    for value in (places - offset).tolist():
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    moved = np.array([total / count for total, count in blocks for _ in range(int(count))])
    return moved.clip(apart / 2, 1 - apart * (len(places) - 0.5)) + offset


def _draw_label(ax: "Axes", group: _Group, place: float, fontsize: float) -> "Annotation":
    """A label above the axes, with a bent line to each of its spectral lines."""
    for wavelength, share in zip(group.wavelengths, group.shares, strict=True):
        ax.axvline(wavelength, color=LINE_COLOR, lw=0.5, ls=(0, (1, 3)), zorder=0.5)
        ax.add_artist(_leader(ax, share, place))
    return ax.annotate(
        group.label,
        (place, 1),
        (0, LEADER + 1),
        xycoords="axes fraction",
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=fontsize,
        color=LINE_COLOR,
        annotation_clip=False,
        gid="line",
    )


def _leader(ax: "Axes", share: float, place: float) -> "Line2D":
    """A line from the upper edge of the axes to `LEADER` points above it."""
    from matplotlib.lines import Line2D

    figure = ax.get_figure(root=True)
    assert figure is not None
    height = ax.get_window_extent().height * 72 / figure.dpi
    return Line2D(
        [share, place], [1, 1 + LEADER / height], transform=ax.transAxes, color=LINE_COLOR, lw=0.5, clip_on=False
    )


def _lift_titles(ax: "Axes", labels: "Sequence[Annotation]") -> None:
    top = max(label.get_window_extent().y1 for label in labels)
    figure = ax.get_figure(root=True)
    pad = (top - ax.get_window_extent().y1) * 72 / figure.dpi + 4 if figure is not None else 0.0
    for loc in ("left", "center", "right"):
        text = ax.get_title(loc=loc)
        if text:
            ax.set_title(text, loc=loc, pad=pad, fontsize=_title(ax, text).get_fontsize())


def _title(ax: "Axes", text: str) -> "Text":
    from matplotlib.text import Text

    return next(child for child in ax.get_children() if isinstance(child, Text) and child.get_text() == text)


# What surveys cover


def plot_coverage_chart(
    surveys: Sequence[str] | None = None, *, domain: TrainingDomain | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Bars of the wavelengths that surveys cover, arm by arm, darker for a low resolving power, which stands beside.

    Args:
        surveys: Keys of `SURVEYS`; None = all.
        domain: What a checkpoint saw in training, such as `SpectrumEncoder.domain`: black lines below the bars. None =
            no checkpoint.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If a survey is unknown, or there is none.
        ImportError: If matplotlib is not installed.
    """
    names = list(SURVEYS if surveys is None else surveys)
    if unknown := [name for name in names if name not in SURVEYS]:
        raise ValueError(f"surveys must be among {', '.join(SURVEYS)}, found {', '.join(map(repr, unknown))}")
    if not names:
        raise ValueError("surveys must name at least one survey, found none")
    names.sort(key=lambda name: -SURVEYS[name].resolving_power)
    ax = import_pyplot().subplots(figsize=(7, 0.9 + 0.34 * len(names)), layout="constrained")[1] if ax is None else ax
    for row, name in enumerate(names):
        _draw_survey(ax, row, SURVEYS[name])
        if domain is not None:
            _draw_domain(ax, row, domain.surveys.get(name))
    _decorate_chart(ax, names)
    if domain is not None:
        ax.set_title("black lines: what the checkpoint was trained on", loc="left", fontsize=SMALL)
    return ax


def _draw_survey(ax: "Axes", row: int, survey: Survey) -> None:
    from matplotlib import colormaps

    low, high = np.log10(POWERS)
    shade = (np.log10(survey.resolving_power) - low) / (high - low)
    ends = [_ends(arm) for arm in survey.native_arms or survey.arms]
    for first, last in ends:
        color = colormaps["cividis"](float(np.clip(shade, 0, 1)))
        ax.barh(row, last - first, left=first, height=0.5, color=color, edgecolor="k", lw=0.6, alpha=0.75)
    end = max(last for _, last in ends)
    ax.text(end * 1.02, row, f"R {_resolving_text(survey)}", va="center", fontsize=TINY)


def _draw_domain(ax: "Axes", row: int, seen: SurveyDomain | None) -> None:
    if seen is None:
        return
    for low, high in seen.wavelength:
        ax.plot([low, high], [row - 0.36] * 2, color="k", lw=2.2, solid_capstyle="butt")


def _ends(arm: Arm) -> tuple[float, float]:
    """First and last wavelength of an arm in Å."""
    first, last = arm.start, arm.start + arm.step * (arm.pixels - 1)
    return (10**first, 10**last) if arm.log else (first, last)


def _resolving_text(survey: Survey) -> str:
    powers = [power for _, power in survey.resolving_curve] or [survey.resolving_power]
    low, high = min(powers), max(powers)
    return f"{low:,.0f}" if low == high else f"{low:,.0f}-{high:,.0f}"


def _decorate_chart(ax: "Axes", names: list[str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    ax.set_xscale("log")
    ax.set_xlim(2500, 22_000)
    ax.xaxis.set_major_locator(FixedLocator([3000, 4000, 5000, 7000, 10_000, 15_000, 20_000]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_yticks(range(len(names)), names, fontsize=SMALL)
    ax.set_ylim(-0.65, len(names) - 0.35)
    ax.grid(axis="x", color="0.9", lw=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel("wavelength [Å]; R = resolving power", fontsize=SMALL)


__all__ = [
    "bad_runs",
    "feature_limits",
    "flux_limits",
    "import_pyplot",
    "mark_lines",
    "plot_coverage_chart",
    "plot_reconstruction",
    "set_wavelength_axis",
    "shade_bad",
    "signal_to_noise",
    "true_runs",
    "unit_text",
    "wavelength_text",
]
