"""`SpectrumProcessor`: from spectra in their survey's units to the patches a model reads, and back."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .patches import (
    GAP_FACTOR,
    extend_wavelength,
    find_segments,
    patch_index,
    patchify,
    unpatchify,
    valid_patches,
)
from .spectrum import MEDIA, Spectrum, check_choice
from .wavelength import air_to_vacuum, vacuum_to_air

ON_INVALID = ("raise", "skip", "mask")
# What the base class takes, and what saved files hold beside the arguments.
_KNOWN_KEYWORDS = {
    *("auto_map", "feature_extractor_type", "padding_side", "processor_class", "return_attention_mask"),
    "name_or_path",
}


class SpectrumProcessor(SequenceFeatureExtractor):
    r"""
    Prepares spectra for a model: medium, normalisation, patches and their validity. It is the only place that knows
    units and media; all that a checkpoint depends on is stored in `preprocessor_config.json`.

    A spectrum is divided by its scale, max(median flux, median error) over good pixels. The second term answers for
    faint spectra, whose median flux is near zero or negative after sky subtraction (12-42 % of the DESI arms of one
    real file): their scale is the noise.

    Args:
        patch_size: Pixels per patch.
        medium: Medium of the wavelengths the model was trained on, "vacuum" or "air"; spectra in the other one are
            converted.
        gap_factor: A wavelength step this many times its neighbours is a detector gap, and a new patch begins behind
            it; None lets patches straddle gaps.
        max_normalized_flux: Pixels beyond this many times the scale are bad (GALAH has spikes of 8e7).
        on_invalid: What to do with a spectrum that has no valid patch: "raise", "skip" (with a warning that names
            it), or "mask" (keep it; its tokens and embedding are 0).
        padding_value: What fills flux, error and wavelength where a batch is ragged.

    Raises:
        ValueError: If an argument is not one of its choices.
    """

    model_input_names = ["flux", "wavelength", "error", "pixel_mask", "attention_mask", "num_patches", "scale"]

    def __init__(
        self,
        patch_size: int = 32,
        medium: str = "vacuum",
        gap_factor: float | None = GAP_FACTOR,
        max_normalized_flux: float = 1e3,
        on_invalid: str = "raise",
        padding_value: float = 0.0,
        **kwargs: Any,
    ):
        # What the base class asks for, and writes into every saved file.
        sampling_rate = kwargs.pop("sampling_rate", 1)
        kwargs.pop("feature_size", None)
        if kwargs.get("padding_side", "right") != "right":
            raise ValueError(f'padding_side must be "right", found {kwargs["padding_side"]!r}')
        if unknown := sorted(set(kwargs) - _KNOWN_KEYWORDS):
            warnings.warn(f"SpectrumProcessor does not know {', '.join(unknown)}: check the spelling", stacklevel=2)
        super().__init__(
            feature_size=patch_size, sampling_rate=sampling_rate, padding_value=float(padding_value), **kwargs
        )
        check_choice("medium", medium, MEDIA)
        check_choice("on_invalid", on_invalid, ON_INVALID)
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, found {patch_size}")
        self.patch_size = patch_size
        self.medium = medium
        self.gap_factor = gap_factor
        self.max_normalized_flux = max_normalized_flux
        self.on_invalid = on_invalid

    def __call__(
        self,
        spectra: Any,
        *,
        on_invalid: str | None = None,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        """A batch of spectra as model inputs.

        Args:
            spectra: A `Spectrum`, a mapping with the keys flux, wavelength, ivar or error, and optionally mask,
                medium, wavelength_unit (see `Spectrum.from_arrays`), the path of a FITS file (needs the installed
                package), or a list of these.
            on_invalid: Overrides the processor's own.
            padding: As in Transformers; lengths are patches.
            max_length: Largest number of patches, for `padding="max_length"` and `truncation`.
            truncation: Cut what is longer than `max_length`.
            return_tensors: "pt" or "np".

        Returns:
            flux, error (of the normalised flux), wavelength (Å, float32) and pixel_mask (1 = good), each (batch,
            num_patches, patch_size); attention_mask (1 = valid patch), (batch, num_patches); num_patches and scale,
            (batch,).

        Raises:
            ValueError: If an input is no spectrum, or has no valid patch and `on_invalid` is "raise".
        """
        on_invalid = on_invalid or self.on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        features = []
        for position, spectrum in enumerate(self._as_spectra(spectra)):
            patches = self.patch(spectrum)
            if patches["attention_mask"].any() or on_invalid == "mask":
                features.append(patches)
                continue
            message = self._invalid_message(spectrum, position, patches)
            if on_invalid == "raise":
                raise ValueError(message)
            warnings.warn(f"skipped: {message}", stacklevel=2)
        if not features:
            raise ValueError("no spectrum left to process: pass at least one spectrum with a valid patch")
        return self.pad(
            features,
            padding=padding,
            max_length=max_length,
            truncation=truncation,
            return_tensors=return_tensors,
        )

    def patch(self, spectrum: Spectrum) -> dict[str, np.ndarray]:
        """The model inputs of one spectrum, without a batch dimension and without padding patches.

        Args:
            spectrum: The spectrum; it may be bad everywhere.

        Returns:
            The arrays that `__call__` returns, for one spectrum.
        """
        scale = self._scale(spectrum)
        wavelength, index = self._grid(spectrum.wavelength, spectrum.medium)
        good = self._usable(spectrum, scale)
        pixel_mask = patchify(good, index, False)
        return {
            "flux": patchify(np.where(good, spectrum.flux / scale, 0), index, 0).astype(np.float32),
            "wavelength": extend_wavelength(patchify(wavelength, index, 0), index).astype(np.float32),
            "error": patchify(np.where(good, spectrum.error / scale, 0), index, 0).astype(np.float32),
            "pixel_mask": pixel_mask.astype(np.int64),
            "attention_mask": valid_patches(pixel_mask).astype(np.int64),
            "num_patches": np.array(len(index)),
            "scale": np.array(scale, dtype=np.float32),
        }

    def patch_pixels(self, spectrum: Spectrum, values: Any) -> np.ndarray:
        """Any quantity of a spectrum's pixels, cut as its flux is: shape (num_patches, patch_size), 0 in the padding.

        Args:
            spectrum: The spectrum that the pixels belong to.
            values: Shape (L,).
        """
        return patchify(np.asarray(values), self._grid(spectrum.wavelength, spectrum.medium)[1], 0)

    def report(self, spectrum: Spectrum) -> str:
        """What `Spectrum.report` says, and what the processor drops beyond it."""
        patches = self.patch(spectrum)
        outliers = int(spectrum.good.sum() - patches["pixel_mask"].sum())
        valid, total = int(patches["attention_mask"].sum()), int(patches["num_patches"])
        return (
            f"{spectrum.report()}\n"
            f"  {outliers:6d} pixels: |flux| > {self.max_normalized_flux:g} x scale (scale {patches['scale']:.4g})\n"
            f"  {valid} of {total} patches are valid (more than half of {self.patch_size} pixels good)"
        )

    def patch_wavelength(self, wavelength: Any, *, medium: str = "vacuum", return_tensors: str = "pt") -> BatchFeature:
        """A wavelength grid as patches, to be decoded onto.

        Args:
            wavelength: Wavelength in Å, shape (L,), strictly increasing.
            medium: Its medium; converted to the checkpoint's.
            return_tensors: "pt" or "np".

        Returns:
            wavelength, shape (1, num_patches, patch_size), float32, Å.

        Raises:
            ValueError: If the axis is not one a `Spectrum` may have.
        """
        grid = Spectrum(np.zeros(len(wavelength)), wavelength, np.ones(len(wavelength)), medium=medium)
        converted, index = self._grid(grid.wavelength, medium)
        patches = extend_wavelength(patchify(converted, index, 0), index).astype(np.float32)
        return BatchFeature({"wavelength": patches[None]}, tensor_type=return_tensors)

    def post_process_reconstruction(
        self, outputs: Any, spectra: Any, *, wavelength: Any = None, medium: str = "vacuum"
    ) -> list[Spectrum]:
        """Reconstructions as spectra in the unit, and on the grid, of the input.

        Args:
            outputs: What the model returned: anything with `reconstruction` and `coverage`.
            spectra: The spectra that were passed to `__call__`, in the same order, without skipped ones.
            wavelength: The grid given to `patch_wavelength`, shape (L,), Å, where `outputs` comes from `decode`; None
                = each spectrum's own.
            medium: Medium of `wavelength`.

        Returns:
            One `Spectrum` per input. `mask` is True where nothing was observed (coverage 0). A reconstruction has no
            error of its own: `ivar` is 0.

        Raises:
            ValueError: If the number of spectra or of their patches does not match.
        """
        reconstruction, coverage = (_as_array(outputs[name]) for name in ("reconstruction", "coverage"))
        spectra = self._as_spectra(spectra)
        if len(spectra) != len(reconstruction):
            raise ValueError(
                f"outputs and spectra must match one to one, found {len(reconstruction)} and {len(spectra)}: "
                "pass the spectra of this batch, without those that were skipped"
            )
        grids = [(s.wavelength, s.medium) if wavelength is None else (wavelength, medium) for s in spectra]
        indices = [self._grid(np.asarray(grid, dtype=np.float64), grid_medium)[1] for grid, grid_medium in grids]
        _check_patches(reconstruction, indices, spectra)
        return [
            Spectrum(
                unpatchify(flux.astype(np.float64), index) * self._scale(spectrum),
                grid,
                np.zeros(len(grid)),
                mask=unpatchify(covered, index) == 0,
                survey=spectrum.survey,
                object_id=spectrum.object_id,
                medium=grid_medium,
                frame=spectrum.frame,
                flux_unit=spectrum.flux_unit,
            )
            for flux, covered, spectrum, (grid, grid_medium), index in zip(
                reconstruction, coverage, spectra, grids, indices, strict=True
            )
        ]

    def _scale(self, spectrum: Spectrum) -> float:
        good = spectrum.good
        if not good.any():
            return 1.0
        return float(max(np.median(spectrum.flux[good].astype(np.float64)), np.median(spectrum.error[good])))

    def _usable(self, spectrum: Spectrum, scale: float) -> np.ndarray:
        flux = np.where(spectrum.good, spectrum.flux, 0).astype(np.float64)
        return spectrum.good & (np.abs(flux) <= self.max_normalized_flux * scale)

    def _grid(self, wavelength: np.ndarray, medium: str) -> tuple[np.ndarray, np.ndarray]:
        """Wavelength in the checkpoint's medium, shape (L,), and its pixels by patch."""
        if medium != self.medium:
            wavelength = air_to_vacuum(wavelength) if medium == "air" else vacuum_to_air(wavelength)
        return wavelength, patch_index(find_segments(wavelength, self.gap_factor), self.patch_size)

    def _invalid_message(self, spectrum: Spectrum, position: int, patches: dict[str, np.ndarray]) -> str:
        name = f"spectrum {position} (object_id={spectrum.object_id})"
        advice = 'drop it or pass on_invalid="skip"'
        if not patches["pixel_mask"].any():
            return f"all {len(spectrum.flux)} pixels of {name} are bad: {advice}"
        most = int(patches["pixel_mask"].sum(-1).max())
        return (
            f"no patch of {name} has more than {self.patch_size // 2} good pixels of {self.patch_size}, found at "
            f"most {most}: {advice}"
        )

    def _as_spectra(self, spectra: Any) -> list[Spectrum]:
        items = spectra if isinstance(spectra, (list, tuple)) else [spectra]
        return [spectrum for item in items for spectrum in _as_spectrum_list(item)]

    def _truncate(self, processed_features, max_length=None, pad_to_multiple_of=None, truncation=None):
        if not truncation:
            return processed_features
        if max_length is None:
            raise ValueError("truncation needs max_length, a number of patches")
        if pad_to_multiple_of is not None:
            max_length = -(-max_length // pad_to_multiple_of) * pad_to_multiple_of
        cut = {name: value[:max_length] if value.ndim else value for name, value in processed_features.items()}
        if "num_patches" in cut:
            cut["num_patches"] = np.minimum(cut["num_patches"], max_length)
        return cut

    def _pad(
        self,
        processed_features,
        max_length=None,
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        pad_to_multiple_of=None,
        return_attention_mask=None,
    ):
        features = dict(processed_features)
        length = len(features[self.model_input_names[0]])
        if return_attention_mask and "attention_mask" not in features:
            features["attention_mask"] = np.ones(length, dtype=np.int64)
        if padding_strategy == PaddingStrategy.DO_NOT_PAD:
            max_length = length
        if pad_to_multiple_of is not None:
            max_length = -(-max_length // pad_to_multiple_of) * pad_to_multiple_of
        missing = max(max_length - length, 0)
        return {name: self._pad_array(value, missing) for name, value in features.items()}

    def _pad_array(self, value: np.ndarray, missing: int) -> np.ndarray:
        if not value.ndim:
            return value[()]  # BatchFeature asks arrays, but not numpy's scalars, for their length
        if not missing:
            return value
        fill = self.padding_value if np.issubdtype(value.dtype, np.floating) else 0
        return np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1), constant_values=fill)


def _as_spectrum_list(item: Any) -> list[Spectrum]:
    if isinstance(item, (str, Path)):
        return _read_file(item)
    if isinstance(item, Mapping):
        return [_from_mapping(item)]
    # By its attributes: the class that came with a checkpoint is not the one of the installed package.
    if all(hasattr(item, name) for name in ("flux", "wavelength", "ivar", "good")):
        return [item]
    raise ValueError(
        f"expected a Spectrum, a mapping with flux, wavelength and ivar or error, or a FITS path, found "
        f"{type(item).__name__}: use read_spectra for other sources"
    )


def _from_mapping(item: Mapping) -> Spectrum:
    missing = [name for name in ("flux", "wavelength") if name not in item]
    if missing:
        raise ValueError(
            f"a spectrum needs the keys flux, wavelength and ivar or error, found {', '.join(map(str, item))}: "
            "use read_spectra for rows of a dataset"
        )
    if "survey" in item and "medium" not in item:
        raise ValueError(
            f'a mapping with survey={item["survey"]!r} must say medium="vacuum" or "air", found none: '
            "read_spectra knows the surveys' own"
        )
    try:
        return Spectrum.from_arrays(**item)
    except TypeError as error:
        raise ValueError(f"a spectrum was given a key that it does not know: {error}") from error


def _read_file(path: str | Path) -> list[Spectrum]:
    try:
        from spectok_hf.data.readers import read_spectra
    except ImportError as error:
        raise ImportError('reading a file needs the installed package: pip install "spectok-hf[astro]".') from error
    return read_spectra(path)


def _check_patches(reconstruction: np.ndarray, indices: list[np.ndarray], spectra: list[Spectrum]) -> None:
    """Every grid fits into the batch, and the longest one fills it: what is beyond it is padding, and 0."""
    for index, spectrum in zip(indices, spectra, strict=True):
        if len(index) > reconstruction.shape[1]:
            raise ValueError(
                f"the grid of {spectrum!r} has {len(index)} patches, found {reconstruction.shape[1]} in the "
                "reconstruction: pass the spectra in the order of the batch, and the grid that was decoded onto"
            )
    longest = max(map(len, indices))
    if reconstruction[:, longest:].any():
        raise ValueError(
            f"the longest of these spectra has {longest} patches, found {reconstruction.shape[1]} in the "
            "reconstruction: pass the grid that was decoded onto as wavelength="
        )


def _as_array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


__all__ = ["SpectrumProcessor"]
