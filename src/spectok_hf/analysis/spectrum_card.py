"""`spectrum_card`: all that a checkpoint makes of one spectrum, on one page."""

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.domain import UNKNOWN, OutOfDomainWarning
from ..data.labels import TARGET_UNITS
from ..data.lines import find_lines, label_number, line_kind, line_redshift
from ..data.spectrum_side import check_tokens
from ..models.patches import find_segments
from ..models.spectrum import Spectrum, check_choice
from ..models.wavelength import LIGHT_SPEED
from .attribution import Attribution, draw_bars, pixels_of_patches
from .plots import (
    FLUX_COLOR,
    MODEL_COLOR,
    SMALL,
    THIN,
    TINY,
    bad_runs,
    flux_limits,
    import_pyplot,
    mark_lines,
    plot_reconstruction,
    set_wavelength_axis,
    shade_bad,
    signal_to_noise,
    true_runs,
    wavelength_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPERS = {"a4": (11.69, 8.27), "letter": (11.0, 8.5)}  # inches, landscape
ZOOMS, MOST_NEIGHBOURS, NEIGHBOUR_TICKS = 3, 4, 4
# Half of a zoom's width: in pixels at least, and in km/s at least.
ZOOM_PIXELS, ZOOM_VELOCITY = 40, {"quasar": 6000.0}
USUAL_ZOOM_VELOCITY = 500.0
ALERT_COLOR = "#D55E00"
WRAP = 42  # characters of a line of facts
ANSWERS = {"classify": "class", "redshift": "redshift", "predict": "parameters"}  # methods of an encoder

Row = dict[str, Any]


class Neighbour(NamedTuple):
    """A spectrum that is like another one.

    Args:
        name: How it is called.
        spectrum: The spectrum.
        score: How like it is, as whoever found it counts.
    """

    name: str
    spectrum: Spectrum
    score: float


def spectrum_card(
    spectrum: Spectrum,
    encoder: Any,
    *,
    attribution: Attribution | None = None,
    neighbours: Sequence[tuple[str, Spectrum, float]] = (),
    redshift: float | None = None,
    paper: str = "a4",
) -> "dict[str, Axes]":
    """One page about one spectrum: reconstruction, residual, zooms, what was read, facts, and what the heads answer.

    Lines are named where the labels of the spectrum say its redshift, or else the redshift head, where it is sure
    (`zwarn` 0). Stellar parameters stand on the card of what is, or was found to be, a star, redshifts on others.

    Args:
        spectrum: The spectrum.
        encoder: A `SpectrumEncoder`; heads that it does not have are left out.
        attribution: What `attribute` made of the spectrum, for a strip of bars; None = no strip.
        neighbours: Name, spectrum and score of the most alike ones, the best first; four are shown.
        redshift: Where to name lines; None = where the labels or the head say.
        paper: Size of the page, landscape: "a4" or "letter".

    Returns:
        Axes by name: "flux", "residual", "quality", "facts", "zoom 1", ..., and where they are given "attribution",
        "neighbour 1", .... The page is their figure.

    Raises:
        ValueError: If the paper is unknown, or the encoder cannot reconstruct, as none of pictures can, or cannot read
            the spectrum.
        ImportError: If matplotlib is not installed.
    """
    check_choice("paper", paper, tuple(PAPERS))
    check_tokens(encoder.processor, encoder.name, "a spectrum's card", "plot_picture shows what this one sees")
    similar = [Neighbour(*neighbour) for neighbour in neighbours][:MOST_NEIGHBOURS]
    answers = _ask(spectrum, encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)  # the card says it
        reconstruction = encoder.reconstruct(spectrum)
    kind = line_kind(spectrum, None if "class" in spectrum.labels else answers.get("classify", {}).get("class"))
    redshift, source = _redshift(spectrum, kind, answers, redshift)
    windows = choose_windows(spectrum, kind, redshift)
    axes = _new_page(PAPERS[paper], attribution is not None, len(windows), len(similar))
    _draw_spectrum(axes, spectrum, reconstruction)
    _draw_quality(axes["quality"], spectrum, encoder.processor)
    if attribution is not None:
        _draw_attribution(axes["attribution"], attribution)
    for number, window in enumerate(windows, 1):
        _draw_zoom(axes[f"zoom {number}"], spectrum, reconstruction, window)
    for number, neighbour in enumerate(similar, 1):
        _draw_neighbour(axes[f"neighbour {number}"], neighbour)
    _write_facts(axes["facts"], list(_facts(spectrum, encoder, answers, source)))
    for name in ("flux", *(name for name in axes if name.startswith("zoom"))):
        mark_lines(axes[name], spectrum=spectrum, redshift=redshift, kind=kind)
    return axes


# What is shown ------------------------------------------------------------------------------------


def _ask(spectrum: Spectrum, encoder: Any) -> dict[str, Row]:
    """The answers of the heads that the encoder has, by method."""
    answers = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)
        for method in ANSWERS:
            try:
                answers[method] = getattr(encoder, method)(spectrum)
            except (ValueError, AttributeError):
                continue  # no such head, or none that reads this spectrum
    return answers


def _redshift(
    spectrum: Spectrum, kind: str | None, answers: dict[str, Row], given: float | None
) -> tuple[float | None, str]:
    """Where lines are, and who says so."""
    known, found = line_redshift(spectrum), answers.get("redshift", {})
    if kind is None:
        return None, "none: nobody knows its class"
    if given is not None:
        return given, f"at z = {given:.4f}, as asked for"
    if spectrum.frame == "rest":
        return 0.0, "in its rest frame"
    if kind in ("star", "apogee"):
        said = "redshift" if label_number(spectrum, "rv") is None else "velocity"
        return known or 0.0, f"at the {said} of its labels" if known else "at velocity 0"
    if known is not None:
        return known, f"at z = {known:.4f}, of its labels"
    if found.get("zwarn") == 0:
        return float(found["redshift"]), f"at z = {found['redshift']:.4f}, of the redshift head"
    return None, "none: its redshift is not known"


def choose_windows(
    spectrum: Spectrum, kind: str | None, redshift: float | None, count: int = ZOOMS
) -> list[tuple[float, float]]:
    """Parts of a spectrum worth a closer look, in Å, ascending: around the most telling lines.

    Without lines, they are spread evenly.

    Args:
        spectrum: The spectrum.
        kind: A key of `spectok_hf.data.lines.LINES`; None = not known.
        redshift: Where its lines are; None = not known.
        count: How many at most.
    """
    good = spectrum.wavelength[spectrum.good]
    if len(good) < 2:
        return []
    ends = (float(good[0]), float(good[-1]))
    known = kind is not None and redshift is not None
    lines = find_lines(str(kind), ends, redshift=redshift or 0.0, medium=spectrum.medium) if known else []
    centres = [line.wavelength for line in lines] + np.quantile(good, [0.25, 0.5, 0.75], method="nearest").tolist()
    windows: list[tuple[float, float]] = []
    for centre in centres:
        half = _half_width(spectrum, centre, kind)
        window = (max(centre - half, ends[0]), min(centre + half, ends[1]))
        inside = (good >= window[0]) & (good <= window[1])
        free = all(window[1] < low or window[0] > high for low, high in windows)
        if free and inside.sum() >= ZOOM_PIXELS and len(windows) < count:
            windows.append(window)
    return sorted(windows)


def _half_width(spectrum: Spectrum, centre: float, kind: str | None) -> float:
    near = np.searchsorted(spectrum.wavelength, centre)
    pixels = np.diff(spectrum.wavelength[max(near - 10, 0) : near + 10])
    velocity = ZOOM_VELOCITY.get(str(kind), USUAL_ZOOM_VELOCITY)
    return float(max(ZOOM_PIXELS * np.median(pixels), velocity / LIGHT_SPEED * centre))


# The page -----------------------------------------------------------------------------------------


def _new_page(size: tuple[float, float], with_strip: bool, zooms: int, neighbours: int) -> "dict[str, Axes]":
    figure = import_pyplot().figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, hspace=0.02, wspace=0.02)
    heights = {"flux": 3.0, "residual": 1.0} | ({"attribution": 0.8} if with_strip else {}) | {"quality": 0.28}
    left, right = figure.add_gridspec(1, 2, width_ratios=(3.6, 1))
    rows = (sum(heights.values()), *([2.0] if zooms else []), *([1.5] if neighbours else []))
    parts = left.subgridspec(len(rows), 1, height_ratios=rows)
    stack = parts[0].subgridspec(len(heights), 1, height_ratios=list(heights.values()))
    axes: dict[str, Axes] = {}
    for place, name in zip(stack, heights, strict=True):
        axes[name] = figure.add_subplot(place, sharex=axes.get("flux"))
    for name, count, row in (("zoom", zooms, 1), ("neighbour", neighbours, len(rows) - 1)):
        if count:
            for number, place in enumerate(parts[row].subgridspec(1, count), 1):
                axes[f"{name} {number}"] = figure.add_subplot(place)
    axes["facts"] = figure.add_subplot(right)
    axes["facts"].set_axis_off()
    for name in list(heights)[:-1]:
        axes[name].tick_params(labelbottom=False)
    return axes


def _draw_spectrum(axes: "dict[str, Axes]", spectrum: Spectrum, reconstruction: Spectrum) -> None:
    flux, residual = plot_reconstruction(spectrum, reconstruction, axes=(axes["flux"], axes["residual"]))
    flux.set_title(flux.get_title(loc="left").removeprefix(f"{spectrum.name}, "), loc="left", fontsize=SMALL)
    residual.set_xlabel("")


def _draw_quality(ax: "Axes", spectrum: Spectrum, processor: Any) -> None:
    """Bad pixels, filled, and those of which no patch was read, hatched."""
    for low, high in bad_runs(spectrum):
        ax.axvspan(low, high, color="k", lw=THIN)
    index = pixels_of_patches(spectrum, processor)
    read = np.zeros(len(spectrum), dtype=bool)
    chosen = index[processor.patch(spectrum)["attention_mask"] > 0]
    read[chosen[chosen >= 0]] = True
    for segment in find_segments(spectrum.wavelength):
        wavelength = spectrum.wavelength[segment]
        for first, stop in true_runs(~read[segment]):
            low, high = wavelength[[first, stop - 1]]
            ax.axvspan(low, high, facecolor="none", edgecolor=ALERT_COLOR, hatch="/////", lw=0)
    ax.set_yticks([])
    ax.set_ylabel("bad", fontsize=SMALL, rotation=0, ha="right", va="center")
    ax.tick_params(labelsize=SMALL)
    ax.set_xlabel(f"{wavelength_text(spectrum)}; black: bad pixels, hatched: patches not read", fontsize=SMALL)


def _draw_attribution(ax: "Axes", attribution: Attribution) -> None:
    draw_bars(ax, attribution)
    ax.set_yticks([])
    ax.set_ylim(0, 1)
    label = textwrap.fill(f"{attribution.method}, {attribution.answer}", 16)
    ax.set_ylabel(label, fontsize=TINY, rotation=0, ha="right", va="center")


def _draw_zoom(ax: "Axes", spectrum: Spectrum, reconstruction: Spectrum, window: tuple[float, float]) -> None:
    inside = (spectrum.wavelength >= window[0]) & (spectrum.wavelength <= window[1])
    flux = np.where(spectrum.good, spectrum.flux, np.nan)
    model = np.where(reconstruction.mask, np.nan, reconstruction.flux)
    error = np.where(spectrum.good, spectrum.error, np.nan)
    for segment in find_segments(spectrum.wavelength):
        shown = np.arange(segment.start, segment.stop)[inside[segment]]
        axis = spectrum.wavelength[shown]
        band = flux[shown] - error[shown], flux[shown] + error[shown]
        ax.fill_between(axis, *band, step="mid", color=FLUX_COLOR, alpha=0.3, lw=0)
        ax.plot(axis, flux[shown], color=FLUX_COLOR, lw=0.7, drawstyle="steps-mid")
        ax.plot(axis, model[shown], color=MODEL_COLOR, lw=1.2)
    part = Spectrum(spectrum.flux[inside], spectrum.wavelength[inside], spectrum.ivar[inside], spectrum.mask[inside])
    shade_bad(part, (ax,))
    ax.set_xlim(*window)
    low, high = flux_limits(part, model[inside]) or (0.0, 1.0)
    drawn = model[inside & spectrum.good]
    low, high = float(np.nanmin([low, *drawn])), float(np.nanmax([high, *drawn]))  # cores of narrow lines too
    margin = 0.1 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    ax.tick_params(labelsize=TINY)
    ax.locator_params(axis="x", nbins=5)
    ax.locator_params(axis="y", nbins=5)


def _draw_neighbour(ax: "Axes", neighbour: Neighbour) -> None:
    spectrum = neighbour.spectrum
    flux = np.where(spectrum.good, spectrum.flux, np.nan)
    for segment in find_segments(spectrum.wavelength):
        ax.plot(spectrum.wavelength[segment], flux[segment], color="k", lw=0.4)
    low, high = flux_limits(spectrum) or (0.0, 1.0)
    margin = 0.08 * (high - low) or 1.0
    ax.set_ylim(low - margin, high + margin)
    ax.set_yticks([])
    ax.set_title(f"{textwrap.shorten(neighbour.name, 30)}, {neighbour.score:.3g}", loc="left", fontsize=TINY)
    ax.tick_params(labelsize=TINY)
    set_wavelength_axis(ax, spectrum, ticks=NEIGHBOUR_TICKS)
    if ax.get_xscale() == "linear":
        ax.locator_params(axis="x", nbins=NEIGHBOUR_TICKS)


# Text ---------------------------------------------------------------------------------------------


class _Fact(NamedTuple):
    """A line of text and how it is set: "head", "plain" or "alert"."""

    text: str
    style: str = "plain"


def _facts(spectrum: Spectrum, encoder: Any, answers: dict[str, Row], source: str) -> Iterator[_Fact]:
    yield _Fact(spectrum.survey or "unknown survey", "title")
    yield _Fact(spectrum.object_id or "unnamed", "head")
    good, wavelength = int(spectrum.good.sum()), spectrum.wavelength
    yield _Fact(f"{wavelength[0]:,.0f}-{wavelength[-1]:,.0f} Å, {spectrum.medium}, {spectrum.frame} frame")
    yield _Fact(f"{len(spectrum):,} pixels, {good:,} good")
    yield _Fact(f"S/N {signal_to_noise(spectrum):.1f} per pixel")
    yield _Fact("Dropped", "head")
    for line in spectrum.report().splitlines()[1:]:
        yield _Fact(" ".join(line.split()))
    yield _Fact("Tokens", "head")
    patches = encoder.processor.patch(spectrum)
    read, size = int(patches["attention_mask"].sum()), encoder.model.config.latent_size
    yield _Fact(f"{read} of {len(patches['attention_mask'])} patches read")
    yield _Fact(f"{read * size:,} numbers for {len(spectrum):,} pixels")
    unit = spectrum.flux_unit or ""
    yield _Fact(f"scale {float(patches['scale']):,.4g} {'x ' * unit[:1].isdigit()}{unit}".strip())
    if labels := list(_label_texts(spectrum.labels)):
        yield _Fact("Labels it came with", "head")
        yield from map(_Fact, labels)
    yield _Fact("Names of lines", "head")
    yield _Fact(source)
    yield from _answer_facts(spectrum, encoder, answers)


SHOWN_LABELS = ("class", "subclass", "redshift", "teff", "logg", "feh", "rv", "log_stellar_mass")


def _label_texts(labels: dict[str, Any]) -> Iterator[str]:
    for name in SHOWN_LABELS:
        value = labels.get(name)
        if isinstance(value, str) or (value is not None and np.isfinite(value)):
            yield f"{name}: {value}" if isinstance(value, str) else _number_text(name, float(value))


def _number_text(name: str, value: float, error: float | None = None) -> str:
    unit = TARGET_UNITS.get(name, "km/s" if name == "rv" else "")
    digits = {"teff": 0, "redshift": 4, "rv": 1}.get(name, 2)
    known = error is not None and np.isfinite(error)
    spread = f" ± {error:.{digits}f}" if known else ""
    return f"{name}: {value:.{digits}f}{spread} {unit}".strip()


def _answer_facts(spectrum: Spectrum, encoder: Any, answers: dict[str, Row]) -> Iterator[_Fact]:
    name = textwrap.shorten(str(getattr(encoder, "name", "the checkpoint")), WRAP - 8, placeholder="...")
    yield _Fact(f"{name} says", "head")
    if not answers:
        yield _Fact("nothing: it has no heads")
        return
    found = answers.get("classify", {}).get("class")
    if found is not None:
        yield _Fact(f"class: {found}, probability {answers['classify']['confidence']:.3f}")
    star = str(spectrum.labels.get("class", found)) == "STAR"
    unknown = found is None and "class" not in spectrum.labels
    shown = [name for name, wanted in (("redshift", not star), ("predict", star)) if wanted or unknown]
    for method in shown:
        yield from _row_facts(answers.get(method, {}))
    outside = {aspect for method in ("classify", *shown) for aspect in _aspects(answers.get(method, {}))}
    if UNKNOWN in outside:
        yield _Fact("what it was trained on is not known")
    elif outside:
        yield _Fact(f"! outside its training: {', '.join(sorted(outside))}", "alert")
    else:
        yield _Fact("inside what it was trained on")


def _aspects(row: Row) -> list[str]:
    return [aspect for aspect in str(row.get("outside") or "").split("; ") if aspect]


def _row_facts(row: Row) -> Iterator[_Fact]:
    for name, value in row.items():
        if f"{name}_error" in row and value is not None:
            yield _Fact(_number_text(name, value, row[f"{name}_error"]))
    if row.get("zwarn"):
        yield _Fact(f"! zwarn {row['zwarn']}: do not trust this redshift", "alert")
    elif row.get("zwarn") == 0:
        yield _Fact(f"zwarn 0, confidence {row['confidence']:.2f}")


def _write_facts(ax: "Axes", facts: Sequence[_Fact]) -> None:
    styles: dict[str, dict[str, Any]] = {
        "title": {"fontsize": 13, "fontweight": "bold"},
        "head": {"fontsize": SMALL + 0.5, "fontweight": "bold"},
        "plain": {"fontsize": SMALL},
        "alert": {"fontsize": SMALL, "fontweight": "bold", "color": ALERT_COLOR},
    }
    height = ax.get_window_extent().height * 72 / ax.figure.dpi  # points
    place = height
    for fact in facts:
        style = styles[fact.style]
        place -= 0.7 * SMALL if fact.style == "head" else 0
        for number, text in enumerate(textwrap.wrap(fact.text, WRAP) or [""]):
            indent = 0.03 if number else 0.0
            plain = text.replace("$", r"\$")
            ax.text(indent, place / height, plain, transform=ax.transAxes, va="top", **style)
            place -= 1.32 * style["fontsize"]


__all__ = ["Neighbour", "choose_windows", "spectrum_card"]
