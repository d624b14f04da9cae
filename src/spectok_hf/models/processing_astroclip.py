"""`AstroClipProcessor`: from spectra and images of galaxies to what AstroCLIP reads."""

import math
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import PaddingStrategy, TensorType

from .checkpoints import SelfContainedProcessor
from .processing_omnispectra import OmniSpectraProcessor
from .processing_specformer import SpecformerProcessor
from .processing_spectok import SpectrumProcessor
from .sky_image import BANDS, SkyImage, check_bands, read_images
from .spectrum import CGS_UNIT, Spectrum, check_choice, is_cgs_unit
from .spectrum_inputs import ON_INVALID

STRETCHES = ("arcsinh", "none")
RIM = 8  # pixels beside those that are needed, which antialiasing reaches
PIXEL_SCALE_TOLERANCE = 0.01  # of a pixel's size, which changes that of a galaxy less than the seeing does
# What the spectrum side may be, by the names in saved settings.
SPECTRUM_PROCESSORS: dict[str, type[SpectrumProcessor]] = {
    kind.__name__: kind for kind in (SpecformerProcessor, SpectrumProcessor, OmniSpectraProcessor)
}
_KNOWN_KEYWORDS = {"auto_map", "feature_extractor_type", "name_or_path", "processor_class"}  # of saved files
_NOT_NESTED = {"auto_map", "name_or_path", "processor_class"}


class AstroClipProcessor(SelfContainedProcessor, FeatureExtractionMixin):
    r"""
    Prepares spectra and images for AstroCLIP (arXiv 2310.03024): spectra as the processor of the spectrum encoder
    does, images cut to their middle and stretched.

    The stretch "arcsinh" is that of the viewer of the Legacy Surveys (Lupton et al. 2004, PASP 116, 133) as the public
    code of AstroCLIP has it. With x = flux times its band's scale, plus the offset m; I the mean over the bands of
    max(x, 0), and Q the softening, a band becomes x arcsinh(Q I) / (sqrt(Q) I), between 0 and 1. "none" leaves
    nanomaggies.

    A bad pixel is filled with the mean of the good ones in the smallest square around it that has any, of 3, 5, 9, ...
    pixels: what is stored under the mask changes nothing.

    Args:
        spectrum_processor: Processor of the spectrum encoder, or its saved settings; None = `SpecformerProcessor()`.
            What it says of invalid spectra does not count here.
        bands: Bands that the model sees; further ones of an image are left out. Its channels go from the reddest to
            the bluest, whatever the order here.
        image_size: Height and width of what is cut out, in pixels.
        pixel_scale: Size of a pixel in arcsec. An image on others, by more than 1 %, is an error.
        stretch: "arcsinh" or "none".
        band_scales: Factor of each of `bands`, of the stretch.
        stretch_offset: Offset m of the stretch.
        stretch_softening: Softening Q of the stretch.
        on_invalid: What to do with a spectrum without a valid patch, or an image of which a band has no good pixel
            where it is cut: "raise", "skip" (with its partner, and a warning that names it), or "mask" (keep it; such
            a band is filled from around the cut, or 0).
        resample_images: Whether images with pixels of another size are resampled, instead of being an error:
            bilinearly, with antialiasing where they become coarser, the flux per pixel growing with its area.
        flux_unit: Unit that spectra must be in, since the model reads how bright they are; their own processor may ask
            for no other. None = what that one says: any unit, for a model of `read_level=False`.

    Raises:
        ValueError: If an argument is not one of its choices, or does not fit another one.
    """

    def __init__(
        self,
        spectrum_processor: SpectrumProcessor | Mapping[str, Any] | None = None,
        bands: Sequence[str] = ("g", "r", "z"),
        image_size: int = 96,
        pixel_scale: float = 0.262,
        stretch: str = "arcsinh",
        band_scales: Sequence[float] = (6.0, 3.4, 2.2),
        stretch_offset: float = 0.03,
        stretch_softening: float = 20.0,
        on_invalid: str = "raise",
        resample_images: bool = False,
        flux_unit: str | None = CGS_UNIT,
        **kwargs: Any,
    ):
        if unknown := sorted(set(kwargs) - _KNOWN_KEYWORDS):
            warnings.warn(f"AstroClipProcessor does not know {', '.join(unknown)}: check the spelling", stacklevel=2)
        super().__init__(**kwargs)
        check_choice("stretch", stretch, STRETCHES)
        check_choice("on_invalid", on_invalid, ON_INVALID)
        self.flux_unit = CGS_UNIT if flux_unit and is_cgs_unit(flux_unit) else flux_unit
        self.spectrum_processor = _in_unit(_spectrum_processor(spectrum_processor), self.flux_unit)
        self.bands = check_bands(bands)
        self.band_scales = tuple(map(float, band_scales))
        self.image_size, self.pixel_scale = image_size, pixel_scale
        self.stretch, self.stretch_offset, self.stretch_softening = stretch, stretch_offset, stretch_softening
        self.on_invalid = on_invalid
        self.resample_images = resample_images
        _check_images(self)

    def __call__(
        self,
        spectra: Any = None,
        images: Any = None,
        *,
        on_invalid: str | None = None,
        padding: bool | str | PaddingStrategy = True,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """A batch of spectra, of images, or of both, which must match one to one, as model inputs.

        Args:
            spectra: As for `SpectrumProcessor`.
            images: A `SkyImage`, whatever else `read_image` takes, or a list of these.
            on_invalid: Overrides the processor's own.
            padding: Of the spectra, as in Transformers; lengths are patches.
            return_tensors: "pt" or "np".

        Returns:
            What the spectrum processor returns, and pixel_values, (batch, bands, image_size, image_size), float32.

        Raises:
            ValueError: If there is neither, not one image per spectrum, or one is invalid and `on_invalid` is "raise".
        """
        on_invalid = on_invalid or self.on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        pairs = enumerate(self._as_pairs(spectra, images))
        prepared = (self.prepare(*pair, position=position, on_invalid=on_invalid) for position, pair in pairs)
        rows = [row for row in prepared if row is not None]
        if not rows:
            raise ValueError("nothing left to process: pass at least one spectrum or image that is valid")
        return self.pad(rows, padding=padding, return_tensors=return_tensors)

    def prepare(
        self,
        spectrum: Spectrum | None,
        image: SkyImage | None,
        *,
        position: int = 0,
        on_invalid: str | None = None,
        size: int | None = None,
    ) -> dict[str, np.ndarray] | None:
        """The model inputs of one spectrum, one image, or a pair, without a batch dimension; None where it is skipped.

        Args:
            spectrum: The spectrum.
            image: The image.
            position: Its number, for messages.
            on_invalid: Overrides the processor's own.
            size: As for `prepare_image`.

        Raises:
            ValueError: As `__call__`.
        """
        on_invalid = on_invalid or self.on_invalid
        row: dict[str, np.ndarray] = {}
        if spectrum is not None:
            row = self.spectrum_processor.patch(spectrum)
            if not self.spectrum_processor._is_kept(spectrum, position, row, on_invalid):
                return None
        if image is None:
            return row
        kept = self._is_kept(image, position, on_invalid)
        return row | {"pixel_values": self.prepare_image(image, size=size)} if kept else None

    @property
    def nothing(self) -> str:
        """What a spectrum has that is not observed."""
        return self.spectrum_processor.nothing

    def observed(self, inputs: Mapping[str, Any]) -> Any:
        """Which spectra of a batch have a valid patch, shape (batch,), bool.

        Args:
            inputs: What `__call__` gave.
        """
        return self.spectrum_processor.observed(inputs)

    def prepare_image(self, image: SkyImage, *, size: int | None = None) -> np.ndarray:
        """The middle of an image as the model reads it, shape (bands, size, size), float32.

        Args:
            image: The image.
            size: Pixels of a side; None = `image_size`. With sqrt(2) times that, an image may be turned by any angle.

        Raises:
            ValueError: If it lacks a band, is smaller, or its pixels are of another size than the processor's.
        """
        flux, scales = self._cut(image, size or self.image_size)
        if self.stretch == "arcsinh":
            flux = arcsinh_stretch(flux, scales, self.stretch_offset, self.stretch_softening)
        return flux.astype(np.float32)

    def display(self, image: SkyImage) -> np.ndarray:
        """The middle of an image as a picture, shape (image_size, image_size, 3), between 0 and 1, by "arcsinh".

        Red, green and blue are the reddest, the middle and the bluest of the bands.

        Args:
            image: The image.

        Raises:
            ValueError: As `prepare_image`.
        """
        flux, scales = self._cut(image, self.image_size)
        picture = arcsinh_stretch(flux, scales, self.stretch_offset, self.stretch_softening)
        return np.moveaxis(picture[[0, len(picture) // 2, -1]], 0, -1)

    def blind_bands(self, image: SkyImage) -> list[str]:
        """The bands of an image without a good pixel in its middle.

        Args:
            image: The image.

        Raises:
            ValueError: If it lacks a band.
        """
        good = middle(image.good[self._channels(image)], self._pixels(image, self.image_size))
        return [band for band, pixels in zip(self._ordered_bands(), good, strict=True) if not pixels.any()]

    def has_room(self, image: SkyImage, size: int) -> bool:
        """Whether an image, once it is on the processor's pixels, has as many of them.

        Args:
            image: The image.
            size: Pixels of a side.
        """
        return min(image.shape) >= self._pixels(image, size)

    def pad(
        self,
        rows: Sequence[Mapping[str, Any]],
        *,
        padding: bool | str | PaddingStrategy = True,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """A batch of what `SpectrumProcessor.patch` and `prepare_image` made, and further entries of their owners.

        Args:
            rows: One mapping for each, all with the same keys.
            padding: As for `__call__`.
            return_tensors: As for `__call__`.
        """
        if "flux" in rows[0]:
            return self.spectrum_processor.pad(list(rows), padding=padding, return_tensors=return_tensors)
        stacked = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
        return BatchFeature(stacked, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """All settings, with those of the spectrum processor below `spectrum_processor`."""
        nested = self.spectrum_processor.to_dict()
        return super().to_dict() | {
            "spectrum_processor": {name: nested[name] for name in nested if name not in _NOT_NESTED}
        }

    @property
    def model_input_names(self) -> list[str]:
        """What a batch of pairs holds."""
        return [*self.spectrum_processor.model_input_names, "pixel_values"]

    @property
    def medium(self) -> str:
        """Medium of the wavelengths, "vacuum" or "air"."""
        return self.spectrum_processor.medium

    @property
    def patch_size(self) -> int:
        """Pixels per patch of a spectrum."""
        return self.spectrum_processor.patch_size

    def _as_pairs(self, spectra: Any, images: Any) -> list[tuple[Spectrum | None, SkyImage | None]]:
        if spectra is None and images is None:
            raise ValueError("pass spectra, images, or both, found neither")
        found = None if spectra is None else self.spectrum_processor._as_spectra(spectra)
        seen = None if images is None else read_images(images)
        if found is not None and seen is not None and len(found) != len(seen):
            raise ValueError(
                f"spectra and images must match one to one, found {len(found)} and {len(seen)}: pass one image for "
                "each spectrum, or call the processor for each side"
            )
        count = len(found or seen or [])
        absent = [None] * count
        return list(zip(found or absent, seen or absent, strict=True))

    def _is_kept(self, image: SkyImage, position: int, on_invalid: str) -> bool:
        """Whether an image stays in the batch: one that lacks a band's pixels as `on_invalid` says."""
        if on_invalid == "mask":
            return True
        if not (blind := self.blind_bands(image)):
            return True
        message = (
            f"all pixels of {', '.join(blind)} in the middle of image {position} (object_id={image.object_id}) are "
            'bad: drop it or pass on_invalid="skip"'
        )
        if on_invalid == "raise":
            raise ValueError(message)
        warnings.warn(f"skipped: {message}", stacklevel=3)
        return False

    def _cut(self, image: SkyImage, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux of the middle of an image, its bad pixels filled, (bands, size, size), float64; scales of its bands."""
        channels = self._channels(image)
        self._check_pixels(image, size)
        flux = fill_bad(image.flux[channels].astype(np.float64), image.good[channels])
        if self._resamples(image):
            reached = self._pixels(image, size) + RIM
            reached += (min(image.shape) - reached) % 2  # so that its middle is that of the image
            flux = _resample(middle(flux, reached), image.pixel_scale / self.pixel_scale)
        scales = [self.band_scales[self.bands.index(band)] for band in self._ordered_bands()]
        return middle(flux, size), np.array(scales)

    def _ordered_bands(self) -> list[str]:
        """The bands from the reddest to the bluest."""
        return sorted(self.bands, key=BANDS.index, reverse=True)

    def _channels(self, image: SkyImage) -> list[int]:
        if missing := [band for band in self.bands if band not in image.bands]:
            raise ValueError(
                f"an image must have the bands {', '.join(self.bands)}, found no {', '.join(missing)} in {image!r}: "
                "pass one that has, or a processor of its bands"
            )
        return [image.bands.index(band) for band in self._ordered_bands()]

    def _resamples(self, image: SkyImage) -> bool:
        return abs(image.pixel_scale / self.pixel_scale - 1) > PIXEL_SCALE_TOLERANCE

    def _pixels(self, image: SkyImage, size: int) -> int:
        """How many of its own pixels an image needs for so many of the processor's."""
        return math.ceil(size * self.pixel_scale / image.pixel_scale - 1e-6) if self._resamples(image) else size

    def _check_pixels(self, image: SkyImage, size: int) -> None:
        if self._resamples(image) and not self.resample_images:
            raise ValueError(
                f"pixels must be {self.pixel_scale:g} arcsec wide, found {image.pixel_scale:g} in {image!r}: pass "
                "resample_images=True to the processor, or resample the image"
            )
        if not self.has_room(image, size):
            needed = self._pixels(image, size)
            raise ValueError(
                f"an image must have {needed} x {needed} pixels or more, found {image!r}: cut it out larger, or pass "
                "a smaller image_size to the processor of a new model"
            )


def arcsinh_stretch(flux: np.ndarray, scales: np.ndarray, offset: float, softening: float) -> np.ndarray:
    """What `AstroClipProcessor` describes, shape of `flux`, between 0 and 1.

    Args:
        flux: Flux in nanomaggies, shape (bands, height, width).
        scales: Factor of each band, shape (bands,).
        offset: Offset m.
        softening: Softening Q.
    """
    scaled = flux * scales[:, None, None] + offset
    intensity = np.maximum(scaled, 0).mean(0)
    compressed = np.arcsinh(softening * intensity) / np.sqrt(softening)
    return np.clip(scaled * (compressed / np.where(intensity == 0, 1e-6, intensity)), 0, 1)


def fill_bad(flux: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Flux with bad pixels filled as `AstroClipProcessor` describes; 0 in a band without a good one.

    Args:
        flux: Flux, shape (bands, height, width).
        good: Good pixels, of that shape, True = good.
    """
    filled = np.where(good, flux, 0)
    for band, known, missing in zip(filled, good, ~good, strict=True):
        if not missing.any() or not known.any():
            continue
        seen = band.copy()
        radius = 1
        while missing.any():
            count = _box_sums(known.astype(np.float64), radius)
            found = missing & (count > 0.5)
            band[found] = (_box_sums(seen, radius)[found]) / count[found]
            missing = missing & ~found
            radius *= 2
    return filled


def _box_sums(values: np.ndarray, radius: int) -> np.ndarray:
    """Sums over the square of 2 radius + 1 pixels around each, as far as it lies inside; shape of `values`."""
    for axis in (0, 1):
        length = values.shape[axis]
        sums = np.insert(np.cumsum(values, axis), 0, 0, axis)
        first, last = np.arange(length) - radius, np.arange(length) + radius + 1
        values = sums.take(last.clip(0, length), axis) - sums.take(first.clip(0, length), axis)
    return values


def middle(values: Any, size: int) -> Any:
    """The middle of images, an array or a tensor, shape (..., size, size); less where they are smaller.

    Args:
        values: Shape (..., height, width).
        size: Pixels of a side.
    """
    top, left = (max((length - size) // 2, 0) for length in values.shape[-2:])
    return values[..., top : top + size, left : left + size]


def _resample(flux: np.ndarray, factor: float) -> np.ndarray:
    """An image with `factor` times as many pixels on a side, whose sum is the same."""
    found = functional.interpolate(
        torch.from_numpy(flux)[None], scale_factor=factor, mode="bilinear", align_corners=False, antialias=True
    )
    return found[0].numpy() / factor**2


def _in_unit(processor: SpectrumProcessor, unit: str | None) -> SpectrumProcessor:
    """The processor, or a copy that asks for a unit."""
    if unit is None or processor.flux_unit == unit:
        return processor
    if processor.flux_unit is not None:
        raise ValueError(
            f"flux_unit must be that of the spectrum_processor, {processor.flux_unit}, or None, found {unit}"
        )
    processor = copy(processor)
    processor.flux_unit = unit
    return processor


def _spectrum_processor(given: Any) -> SpectrumProcessor:
    if given is None:
        return SpecformerProcessor()
    if hasattr(given, "patch"):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"spectrum_processor must be one of {', '.join(SPECTRUM_PROCESSORS)}, or settings of one, found "
            f"{type(given).__name__}: pass the one that the spectrum encoder was trained with"
        )
    settings = dict(given)
    name = settings.pop("feature_extractor_type", SpecformerProcessor.__name__)
    if name not in SPECTRUM_PROCESSORS:
        raise ValueError(
            f"spectrum_processor must be one of {', '.join(SPECTRUM_PROCESSORS)}, found settings of {name}: pass "
            "those of the one that the spectrum encoder was trained with"
        )
    return SPECTRUM_PROCESSORS[name](**settings)


def _check_images(processor: AstroClipProcessor) -> None:
    if len(processor.band_scales) != len(processor.bands):
        raise ValueError(
            f"band_scales must be one for each of bands, found {len(processor.band_scales)} for "
            f"{', '.join(processor.bands)}: pass both"
        )
    if processor.image_size < 1 or not processor.pixel_scale > 0 or not processor.stretch_softening > 0:
        raise ValueError(
            "image_size, pixel_scale and stretch_softening must be positive, found "
            f"{processor.image_size}, {processor.pixel_scale} and {processor.stretch_softening}"
        )


__all__ = ["SPECTRUM_PROCESSORS", "AstroClipProcessor", "arcsinh_stretch", "fill_bad", "middle"]
