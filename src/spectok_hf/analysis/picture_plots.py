"""What a model of pictures sees: the picture of a spectrum, with axes that say what is where in it, or many of them
beside each other.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.lines import label_number
from ..data.spectrum_side import reads_pictures
from ..models.spectrum import Spectrum
from ..models.wavelength import to_medium
from .plots import SMALL, TINY, import_pyplot, unit_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("red", "green", "blue")  # of the ranges of an overlap, from the bluest on
FRAME, SHEET_DPI = "0.6", 100


def plot_picture(spectrum: Spectrum, processor: Any, *, ax: "Axes | None" = None) -> "Axes":
    """The picture that a processor draws of a spectrum, pixel by pixel; `processor.draw` gives the bare one.

    Of lines the axes are wavelength and flux, as far as they reach. A map reads like a text, and its axes are not
    labelled: below it stands where it begins and ends.

    Args:
        spectrum: The spectrum.
        processor: A `SpectrumImageProcessor`.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the processor draws no pictures, or refuses the spectrum.
        ImportError: If matplotlib is not installed.
    """
    _check_draws(processor)
    picture = processor.draw(spectrum)
    ax = import_pyplot().subplots(figsize=(5, 5.3), layout="constrained")[1] if ax is None else ax
    ends = _drawn_range(spectrum, processor)
    medium = f"Å, {processor.medium}, {spectrum.frame} frame"
    if processor.plot_type == "map":
        ax.imshow(picture, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel(_map_text(processor, ends, medium), fontsize=SMALL)
    else:
        across = ends if processor.plot_type == "simple" else (0.0, 1.0)
        ax.imshow(
            picture, interpolation="nearest", aspect="auto", extent=(*_apart(across), *_limits(spectrum, processor))
        )
        ax.set_box_aspect(1)
        _label_lines(ax, processor.plot_type, ends, medium)
        ax.set_ylabel(f"flux{unit_text(spectrum.flux_unit)}", fontsize=SMALL)
    ax.tick_params(labelsize=TINY)
    size = processor.image_size
    ax.set_title(f'{spectrum.name}, as "{processor.plot_type}", {size} x {size} pixels', loc="left", fontsize=SMALL)
    return ax


def plot_picture_sheet(spectra: Sequence[Spectrum], processors: Mapping[str, Any]) -> np.ndarray:
    """A new figure of bare pictures: a row for each way of drawing, a column for each spectrum.

    Saved at the figure's own resolution, a pixel of a picture is one of the figure.

    Args:
        spectra: The spectra, at least one.
        processors: `SpectrumImageProcessor`s by the name of the row, at least one, of pictures of one size.

    Returns:
        The axes, shape (processors, spectra).

    Raises:
        ValueError: If either is missing, sizes differ, or a processor draws no pictures or refuses a spectrum.
        ImportError: If matplotlib is not installed.
    """
    for processor in processors.values():
        _check_draws(processor)
    sizes = {processor.image_size for processor in processors.values()}
    if not len(spectra) or len(sizes) != 1:
        raise ValueError(
            f"a sheet needs spectra, and processors of pictures of one size, found {len(spectra)} spectra and "
            f"pictures of {', '.join(map(str, sorted(sizes))) or 'none'}"
        )
    axes = _new_sheet((len(processors), len(spectra)), sizes.pop())
    for row, (name, processor) in zip(axes, processors.items(), strict=True):
        row[0].set_ylabel(name, fontsize=SMALL)
        for ax, spectrum in zip(row, spectra, strict=True):
            ax.imshow(processor.draw(spectrum), interpolation="nearest", aspect="auto")
    for ax, spectrum in zip(axes[0], spectra, strict=True):
        ax.set_title(f"{spectrum.name}\n{_class_text(spectrum)}", loc="left", fontsize=TINY)
    return axes


def _new_sheet(shape: tuple[int, int], size: int) -> np.ndarray:
    """Axes without ticks, each of `size` pixels of a new figure, with room for names above and to the left."""
    margin, above, between = 24, 40, 6  # pixels
    rows, columns = shape
    step = size + between
    width, height = margin + columns * step, above + rows * step
    plt = import_pyplot()
    figure = plt.figure(figsize=(width / SHEET_DPI, height / SHEET_DPI), dpi=SHEET_DPI)
    axes = np.empty(shape, dtype=object)
    for row, column in np.ndindex(shape):
        left, bottom = margin + column * step, height - above - row * step - size
        ax = figure.add_axes((left / width, bottom / height, size / width, size / height))
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():  # beside the picture, not over its edge
            spine.set(position=("outward", 72 / SHEET_DPI), color=FRAME, linewidth=72 / SHEET_DPI)
        axes[row, column] = ax
    return axes


def _class_text(spectrum: Spectrum) -> str:
    """Class and pixels of a spectrum, and the label that says most of how it looks."""
    kind = str(spectrum.labels.get("class") or "").lower()
    label, pixels = label_number(spectrum, "teff"), f"{len(spectrum):,} pixels"
    if kind in ("galaxy", "qso") and (redshift := label_number(spectrum, "redshift")) is not None:
        return f"{kind}, z {redshift:.2f}, {pixels}"
    return ", ".join(filter(None, (kind, "" if label is None else f"{label:.0f} K", pixels)))


def _check_draws(processor: Any) -> None:
    if not reads_pictures(processor):
        raise ValueError(
            f"a picture needs a SpectrumImageProcessor, found {type(processor).__name__}, which cuts spectra into "
            "patches: pass that of a model of pictures, or a new one"
        )


def _drawn_range(spectrum: Spectrum, processor: Any) -> tuple[float, float]:
    """First and last wavelength of a picture, in Å of the processor's medium."""
    if processor.wavelength_range is not None:
        low, high = processor.wavelength_range
        return float(low), float(high)
    low, high = to_medium(spectrum.wavelength[[0, -1]], spectrum.medium, processor.medium)
    return float(low), float(high)


def _limits(spectrum: Spectrum, processor: Any) -> tuple[float, float]:
    return _apart(processor.flux_limits(spectrum))


def _apart(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis, which must differ; those of a constant spectrum do not, and it is drawn half way up."""
    low, high = limits
    margin = 0.0 if high > low else max(abs(low), 1.0) / 2
    return low - margin, high + margin


def _map_text(processor: Any, ends: tuple[float, float], medium: str) -> str:
    side = processor.image_size // processor.block_size
    order = "each from the left" if processor.map_order == "row" else "from the left and the right by turns"
    return (
        f"{side} rows of {side} cells, from the top, {order};\n"
        f"wavelength from {ends[0]:.0f} to {ends[1]:.0f} {medium}; colours: {processor.map_colors}"
    )


def _label_lines(ax: "Axes", plot_type: str, ends: tuple[float, float], medium: str) -> None:
    if plot_type == "simple":
        ax.set_xlabel(f"wavelength [{medium}]", fontsize=SMALL)
        return
    ax.set_xticks([])
    borders = np.linspace(*ends, len(COLOURS) + 1)
    parts = zip(COLOURS, borders[:-1], borders[1:], strict=True)
    ranges = ", ".join(f"{colour} {low:.0f}-{high:.0f}" for colour, low, high in parts)
    ax.set_xlabel(f"wavelength [{medium}], ranges over each other:\n{ranges}", fontsize=SMALL)


__all__ = ["plot_picture", "plot_picture_sheet"]
