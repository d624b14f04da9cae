"""`SpectrumImageProcessor`: from spectra to the pictures that vision models read."""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from .checkpoints import SelfContainedProcessor
from .drawing import (
    BLANK,
    ORDERS,
    as_levels,
    between,
    block_average,
    colour_table,
    draw_line,
    fenced_limits,
    lay_out,
    read_cells,
    read_levels,
    thirds,
)
from .patches import GAP_FACTOR
from .spectrum import CGS_UNIT, Spectrum, check_choice
from .spectrum_inputs import ADVICE, SpectrumInputs, check_same_entries

CHOICES = {
    "plot_type": ("simple", "overlap", "map"),
    "map_order": ORDERS,
    "map_colors": tuple(BLANK),
    "on_long": ("average", "raise"),
}
OWN = ("attention_mask", "num_patches", "scale")  # what `patch` says beside the picture, and no model reads
_KNOWN_KEYWORDS = {"auto_map", "feature_extractor_type", "name_or_path", "processor_class"}  # of saved files


class SpectrumImageProcessor(SpectrumInputs, SelfContainedProcessor, FeatureExtractionMixin):
    r"""
    Draws spectra as pictures for vision models, as arXiv 2506.00294 has it: `pixel_values` for any image classifier of
    Transformers.

    * "simple": flux against wavelength as one black line, without axes.
    * "overlap": three equal ranges of wavelength over each other on black, the bluest as a red line, then a green and
      a blue one, each in its own channel. (The public code cuts into equal numbers of pixels, and mixes the colours on
      white.)
    * "map": every flux a square cell, in rows from the top; its colour from a table of 256, or in the three channels
      the flux and its first and second differences.

    Where nothing good was observed there is no line, and a cell is blank: white, with "gray" red, with "derivatives"
    black. Flux is scaled between its least and largest good value, but not beyond the quartiles by more than
    `outlier_factor` times their distance, unless they are one: what lies beyond is drawn at the edge, and `report`
    counts it. A constant spectrum is drawn half way up. Nothing is said of errors, nor, without a `wavelength_range`,
    of wavelengths, nor, without `vmin` and `vmax`, of how bright a spectrum is.

    Args:
        plot_type: "simple", "overlap" or "map".
        image_size: Height and width of a picture in pixels.
        line_width: Width of a line in pixels (0.7 is the 0.5 points at 100 dots per inch of the public code).
        wavelength_range: First and last wavelength of every picture in Å, in `medium`; pixels outside are left out,
            and `report` counts them. None = those of the spectrum's own grid.
        block_size: Pixels of a side of a cell of a map: 3 makes 74 x 74 cells of 224 x 224 pixels.
        map_order: "row": all rows from the left; "boustrophedon": every second one from the right.
        map_colors: "viridis", "gray" or "derivatives".
        on_long: What to do with a spectrum of more pixels than a map has cells: "average" as many neighbours as it
            takes, for all cells alike; or "raise". (The public code loses the rest: the red end of DESI.)
        vmin: Flux of the lowest level, in `flux_unit`; None = each spectrum's own.
        vmax: Flux of the highest level, alike.
        outlier_factor: How far limits may lie from the quartiles, in distances between these (ours, 3; Tukey's fences,
            by which the public code looks for outliers of its catalogue, are at 1.5). None = anywhere.
        image_mean: Subtracted from pixels between 0 and 1; one number for all channels.
        image_std: What they are divided by then, alike.
        medium: Medium of `wavelength_range`, "vacuum" or "air"; spectra in the other one are converted.
        gap_factor: A wavelength step this many times its neighbours is a detector gap, over which no line is drawn.
        max_normalized_flux: As for `SpectrumProcessor`.
        on_invalid: What to do with a spectrum without a good pixel: "raise", "skip" (with a warning that names it), or
            "mask" (keep it; its picture is NaN, of which our models say nothing).
        flux_unit: Unit that fluxes must be in where `vmin` and `vmax` are given; one that names none is taken to be.

    Raises:
        ValueError: If an argument is not one of its choices, or does not fit another one.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        plot_type: str = "map",
        image_size: int = 224,
        line_width: float = 0.7,
        wavelength_range: Sequence[float] | None = None,
        block_size: int = 3,
        map_order: str = "row",
        map_colors: str = "viridis",
        on_long: str = "average",
        vmin: float | None = None,
        vmax: float | None = None,
        outlier_factor: float | None = 3.0,
        image_mean: float = 0.5,
        image_std: float = 0.5,
        medium: str = "vacuum",
        gap_factor: float | None = GAP_FACTOR,
        max_normalized_flux: float = 1e3,
        on_invalid: str = "raise",
        flux_unit: str | None = None,
        **kwargs: Any,
    ):
        if unknown := sorted(set(kwargs) - _KNOWN_KEYWORDS):
            warnings.warn(
                f"SpectrumImageProcessor does not know {', '.join(unknown)}: check the spelling", stacklevel=2
            )
        super().__init__(**kwargs)
        self._read_as(
            medium=medium,
            gap_factor=gap_factor,
            max_normalized_flux=max_normalized_flux,
            on_invalid=on_invalid,
            flux_unit=flux_unit,
        )
        self.plot_type = plot_type
        self.image_size, self.line_width = image_size, line_width
        self.wavelength_range = None if wavelength_range is None else tuple(map(float, wavelength_range))
        self.block_size, self.map_order, self.map_colors, self.on_long = block_size, map_order, map_colors, on_long
        self.vmin, self.vmax, self.outlier_factor = vmin, vmax, outlier_factor
        self.image_mean, self.image_std = image_mean, image_std
        self._check_settings()

    @property
    def num_cells(self) -> int:
        """Cells of a map."""
        return (self.image_size // self.block_size) ** 2

    def __call__(
        self, spectra: Any, *, on_invalid: str | None = None, return_tensors: str | TensorType | None = None
    ) -> BatchFeature:
        """A batch of spectra as pictures.

        Args:
            spectra: As for `SpectrumProcessor`.
            on_invalid: Overrides the processor's own.
            return_tensors: "pt" or "np".

        Returns:
            pixel_values, (batch, 3, image_size, image_size), float32, and nothing else.

        Raises:
            ValueError: If an input is no spectrum, has no good pixel and `on_invalid` is "raise", or more of them than
                a map has cells and `on_long` is "raise".
        """
        return self.pad(self._features(spectra, on_invalid), return_tensors=return_tensors)

    def draw(self, spectrum: Spectrum) -> np.ndarray:
        """The picture of a spectrum, shape (image_size, image_size, 3), uint8, the top row first.

        Args:
            spectrum: The spectrum; of one without a good pixel the picture is blank.

        Raises:
            ValueError: As `__call__`.
        """
        return self._picture(spectrum, self._drawn_pixels(spectrum, self.good_pixels(spectrum)))

    def patch(self, spectrum: Spectrum) -> dict[str, np.ndarray]:
        """The picture of a spectrum and what is said of it, without a batch dimension: it counts as one patch.

        Args:
            spectrum: The spectrum; it may be bad everywhere.

        Returns:
            pixel_values, (3, image_size, image_size), still uint8: a quarter of the memory; attention_mask, (1,), 1 =
            something was drawn; num_patches, 1; scale, max(median flux, median error), by which pictures are not
            divided.

        Raises:
            ValueError: As `__call__`.
        """
        good, _, scale = self._normalisation(spectrum)
        drawn = self._drawn_pixels(spectrum, good)
        return {
            "pixel_values": np.ascontiguousarray(np.moveaxis(self._picture(spectrum, drawn), -1, 0)),
            "attention_mask": np.array([drawn.any()], dtype=np.int64),
            "num_patches": np.array(1),
            "scale": np.array(scale, dtype=np.float32),
        }

    def pad(
        self, features: Sequence[Mapping[str, Any]], *, return_tensors: str | TensorType | None = None
    ) -> BatchFeature:
        """A batch of what `patch` gave, and of whatever else was put beside it (labels).

        Args:
            features: One mapping per spectrum. Without an `attention_mask`, which `Trainer` takes away by default, all
                pictures show something.
            return_tensors: "pt" or "np".

        Raises:
            ValueError: If they hold no pictures as `patch` gives them, or not all of them carry the same entries.
        """
        if getattr(features[0].get("pixel_values"), "dtype", None) != np.uint8:
            raise ValueError(
                "expected Spectrum objects or what SpectrumImageProcessor.patch returns, found no pixel_values of "
                f"uint8 in {', '.join(map(str, features[0]))}: use SpectrumDataset(spectra, processor)"
            )
        check_same_entries(features)
        values = np.stack([feature["pixel_values"] for feature in features]) * np.float32(1 / 255)
        values -= np.float32(self.image_mean)
        values /= np.float32(self.image_std)
        values[["attention_mask" in feature and not feature["attention_mask"].any() for feature in features]] = np.nan
        beside = [name for name in features[0] if name not in ("pixel_values", *OWN)]
        columns = {name: np.stack([np.asarray(feature[name]) for feature in features]) for name in beside}
        columns |= {name: column.astype(np.float32) for name, column in columns.items() if column.dtype == np.float64}
        return BatchFeature({"pixel_values": values} | columns, tensor_type=return_tensors)

    def observed(self, inputs: Mapping[str, Any]) -> Any:
        """Which pictures of a batch show anything, shape (batch,), bool.

        Args:
            inputs: What `__call__` or `pad` gave.
        """
        corner = inputs["pixel_values"][:, 0, 0, 0]
        return corner == corner  # NaN is not

    def count_patches(self, wavelength: np.ndarray, *, medium: str = "vacuum") -> int:
        """1: a picture is one patch, whatever the grid.

        Args:
            wavelength: Wavelength in Å, shape (L,).
            medium: Its medium.
        """
        return 1

    def flux_limits(self, spectrum: Spectrum) -> tuple[float, float]:
        """Flux of the bottom and the top of a spectrum's picture, or of its lowest and highest level; in its unit.

        Args:
            spectrum: The spectrum.
        """
        values, good, _ = self._values(spectrum, self._drawn_pixels(spectrum, self.good_pixels(spectrum)))
        return self._limits(values[good])

    def read_map(self, picture: np.ndarray, limits: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
        """The flux of every cell of a map, in order, NaN where it is blank; shape (num_cells,).

        To within a level or two of 256 it is what was drawn; flux beyond the limits is lost, and so are single pixels
        where several were averaged.

        Args:
            picture: What `draw` made.
            limits: What `flux_limits` says of the spectrum; else flux is between 0 and 1.

        Raises:
            ValueError: If the processor draws no maps.
        """
        if self.plot_type != "map":
            raise ValueError(f'read_map inverts a map, found plot_type="{self.plot_type}": a line cannot be read back')
        colours = read_cells(picture, block=self.block_size, order=self.map_order)
        if self.map_colors == "derivatives":
            levels = np.where((colours == BLANK["derivatives"]).all(-1), np.nan, colours[:, 0] / 255)
        else:
            levels = read_levels(colours, self.map_colors)
        return limits[0] + levels * (limits[1] - limits[0])

    def report(self, spectrum: Spectrum) -> str:
        """What `Spectrum.report` says, and what the picture leaves out, averages, or draws at its edge.

        Args:
            spectrum: The spectrum.
        """
        good = self.good_pixels(spectrum)
        drawn = self._drawn_pixels(spectrum, good)
        lines = [super().report(spectrum)]
        if self.wavelength_range is not None:
            low, high = self.wavelength_range
            lines.append(f"  {good.sum() - drawn.sum():6d} pixels: outside of {low:g}-{high:g} Å")
        try:
            values, kept, factor = self._values(spectrum, drawn)
        except ValueError as error:
            return "\n".join([*lines, f"  no picture: {error}"])
        low, high = self._limits(values[kept])
        beyond = int(((values[kept] < low) | (values[kept] > high)).sum())
        if self.plot_type == "map":
            each = "one pixel" if factor == 1 else f"the mean of {factor} pixels"
            lines.append(f"  a map of {self.num_cells} cells: {kept.sum()} show {each} each, the rest is blank")
        return "\n".join(
            [*lines, f"  flux from {low:.6g} to {high:.6g}; {beyond} values beyond are drawn at the edge"]
        )

    # What is drawn --------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        """Choices, sizes and limits must make sense, alone and together; limits of flux are in some unit."""
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        _check_numbers(self)
        if self.vmin is not None or self.vmax is not None:
            self.flux_unit = self.flux_unit or CGS_UNIT

    def _check_unit(self, spectrum: Spectrum) -> None:
        self._check_settings()  # somebody may have set one since
        super()._check_unit(spectrum)

    def _drawn_pixels(self, spectrum: Spectrum, good: np.ndarray) -> np.ndarray:
        """Which of the good pixels are drawn, shape (L,), bool."""
        inside = self._inside(spectrum)
        drawn = np.zeros_like(good)
        drawn[inside] = good[inside]
        return drawn

    def _inside(self, spectrum: Spectrum) -> slice:
        """The pixels within `wavelength_range`."""
        if self.wavelength_range is None:
            return slice(0, len(spectrum))
        wavelength = self._cut_axis(spectrum.wavelength, spectrum.medium)[0]
        first, last = self.wavelength_range
        return slice(*np.searchsorted(wavelength, (first, np.nextafter(last, np.inf))))

    def _values(self, spectrum: Spectrum, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """What stands in the picture, which of it is good, and how many pixels are one value.

        Raises:
            ValueError: If a map has too few cells, and `on_long` is "raise".
        """
        inside = self._inside(spectrum)
        values, good = spectrum.flux[inside], drawn[inside]
        factor = max(math.ceil(len(values) / self.num_cells), 1) if self.plot_type == "map" else 1
        if factor > 1 and self.on_long == "raise":
            raise ValueError(
                f"a map of {self.num_cells} cells must have one for each pixel, found {len(values)} pixels in "
                f'{spectrum!r}: pass on_long="average", a smaller block_size or a larger image_size'
            )
        return *block_average(values, good, factor), factor

    def _limits(self, flux: np.ndarray) -> tuple[float, float]:
        low, high = fenced_limits(flux, self.outlier_factor)
        if self.vmin is not None:
            low, high = float(self.vmin), max(high, float(self.vmin))
        if self.vmax is not None:
            low, high = min(low, float(self.vmax)), float(self.vmax)
        return low, high

    def _picture(self, spectrum: Spectrum, drawn: np.ndarray) -> np.ndarray:
        values, good, _ = self._values(spectrum, drawn)
        levels = between(values, *self._limits(values[good]))
        if self.plot_type == "map":
            return self._draw_map(values, levels, good)
        return self._draw_lines(spectrum, levels, good)

    def _draw_lines(self, spectrum: Spectrum, up: np.ndarray, good: np.ndarray) -> np.ndarray:
        """Lines through good pixels at heights `up`, both of those inside of the range of wavelength."""
        wavelength, segments = self._cut_axis(spectrum.wavelength, spectrum.medium)
        inside = self._inside(spectrum)
        lifted = np.zeros(len(wavelength), dtype=bool)  # before a pixel
        lifted[[segment.start for segment in segments]] = True
        kept = np.flatnonzero(good)
        joined = (np.diff(kept) == 1) & ~lifted[inside][kept[1:]]
        low, high = self.wavelength_range or (wavelength[0], wavelength[-1])
        across = between(wavelength[inside][kept], low, high)
        line, draw = (across, up[kept], joined), partial(draw_line, size=self.image_size, width=self.line_width)
        if self.plot_type == "simple":
            return as_levels(1 - draw(*line))[..., None].repeat(3, -1)
        return as_levels(np.stack([draw(*part) for part in thirds(*line)], -1))

    def _draw_map(self, values: np.ndarray, levels: np.ndarray, good: np.ndarray) -> np.ndarray:
        if self.map_colors == "derivatives":
            colours = as_levels(np.stack([levels, *self._differences(values, good)], -1))
            colours[~colours.any(-1), 0] = 1  # black is blank
        else:
            colours = colour_table(self.map_colors)[as_levels(levels)]
        blank = BLANK[self.map_colors]
        colours[~good] = blank
        return lay_out(colours, blank, size=self.image_size, block=self.block_size, order=self.map_order)

    def _differences(self, values: np.ndarray, good: np.ndarray) -> list[np.ndarray]:
        """First and second difference from cell to cell, each between limits of its own, drawn to 0-1."""
        known = np.flatnonzero(good)
        if len(values) < 2 or not len(known):
            return [np.full(len(values), 0.5)] * 2
        first = np.gradient(np.interp(np.arange(len(values)), known, values[known]))
        return [between(one, *fenced_limits(one[good], self.outlier_factor)) for one in (first, np.gradient(first))]

    def _invalid_message(self, spectrum: Spectrum, position: int, patches: dict[str, np.ndarray]) -> str:
        if self.wavelength_range is None or not self.good_pixels(spectrum).any():
            return super()._invalid_message(spectrum, position, patches)
        low, high = self.wavelength_range
        name = f"spectrum {position} (object_id={spectrum.object_id})"
        return f"{name} has no good pixel from {low:g} to {high:g} Å: {ADVICE}"


def _check_numbers(processor: SpectrumImageProcessor) -> None:
    """Sizes and limits must make sense, alone and together."""
    for name in ("line_width", "vmin", "vmax", "outlier_factor", "image_mean", "image_std"):
        if not isinstance(getattr(processor, name), (Real, type(None))):
            raise ValueError(f"{name} must be one number, found {getattr(processor, name)!r}")
    extent = processor.wavelength_range
    if extent is not None and not (len(extent) == 2 and 0 < extent[0] < extent[1] < math.inf):
        raise ValueError(f"wavelength_range must be two wavelengths in Å, the first below the second, found {extent}")
    size, block, width = processor.image_size, processor.block_size, processor.line_width
    whole = isinstance(size, int) and isinstance(block, int)
    if not (whole and 1 <= block <= size and 0 < width < size):
        raise ValueError(
            f"image_size must be a whole number of pixels, block_size one of at most as many, and line_width below "
            f"image_size, found {size!r}, {block!r} and {width!r}"
        )
    factor, low, high = processor.outlier_factor, processor.vmin, processor.vmax
    if factor is not None and not 0 <= factor < math.inf:
        raise ValueError(f"outlier_factor must be 0 or more, or None for no limit, found {factor}")
    known = [limit for limit in (low, high) if limit is not None]
    if not all(map(math.isfinite, known)) or (len(known) == 2 and not known[0] < known[1]):
        raise ValueError(f"vmin must be below vmax, and both be finite, found {low} and {high}")
    if not (0 < processor.image_std < math.inf and math.isfinite(processor.image_mean)):
        raise ValueError(
            f"image_std must be positive, and image_mean a number, found {processor.image_std} and "
            f"{processor.image_mean}"
        )


__all__ = ["SpectrumImageProcessor"]
