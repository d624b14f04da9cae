"""`SpectrumProcessor`: from spectra in their survey's units to the patches a model reads, and back."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import PaddingStrategy, TensorType

from .checkpoints import SelfContainedProcessor
from .patches import (
    GAP_FACTOR,
    count_patches,
    cut_patches,
    cut_wavelength,
    patch_index,
    patchify,
    unpatchify,
    valid_patches,
)
from .spectrum import Spectrum, check_choice
from .spectrum_inputs import ADVICE, ON_INVALID, SpectrumInputs, check_any

# What has a row per patch and is padded or packed; all else that a batch carries (labels) has an entry per spectrum.
PER_PATCH = ("flux", "wavelength", "error", "pixel_mask", "attention_mask", "bool_masked_pos")
# What the base class takes, and what saved files hold beside the arguments.
_KNOWN_KEYWORDS = {
    *("auto_map", "feature_extractor_type", "padding_side", "processor_class", "return_attention_mask"),
    "name_or_path",
}


class SpectrumProcessor(SpectrumInputs, SelfContainedProcessor, SequenceFeatureExtractor):
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
        flux_unit: Unit that fluxes must be in, for models that read how bright a spectrum is; one that names none is
            taken to be. None = any that is per wavelength: all that counts is the shape.

    Raises:
        ValueError: If an argument is not one of its choices.
    """

    model_input_names = ["flux", "wavelength", "error", "pixel_mask", "attention_mask", "num_patches", "scale"]
    nothing = "no patch of which more than half of the pixels are good"
    patch_overlap = 0  # pixels that a patch shares with the next one; a family may cut otherwise
    statistics: tuple[str, ...] = (
        "scale",
    )  # of what a flux is normalised by, "scale" and "loc", what models are told

    def __init__(
        self,
        patch_size: int = 32,
        medium: str = "vacuum",
        gap_factor: float | None = GAP_FACTOR,
        max_normalized_flux: float = 1e3,
        on_invalid: str = "raise",
        padding_value: float = 0.0,
        flux_unit: str | None = None,
        **kwargs: Any,
    ):
        # What the base class asks for, and writes into every saved file.
        sampling_rate = kwargs.pop("sampling_rate", 1)
        kwargs.pop("feature_size", None)
        if kwargs.get("padding_side", "right") != "right":
            raise ValueError(f'padding_side must be "right", found {kwargs["padding_side"]!r}')
        if unknown := sorted(set(kwargs) - _KNOWN_KEYWORDS):
            name = type(self).__name__
            warnings.warn(f"{name} does not know {', '.join(unknown)}: check the spelling", stacklevel=2)
        super().__init__(
            feature_size=patch_size, sampling_rate=sampling_rate, padding_value=float(padding_value), **kwargs
        )
        self._read_as(
            medium=medium,
            gap_factor=gap_factor,
            max_normalized_flux=max_normalized_flux,
            on_invalid=on_invalid,
            flux_unit=flux_unit,
        )
        if patch_size < 1:
            raise ValueError(f"patch_size must be at least 1, found {patch_size}")
        self.patch_size = patch_size

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
        return self.pad(
            self._features(spectra, on_invalid),
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
        wavelength, segments = self._segments(spectrum.wavelength, spectrum.medium)
        rows = self._allocate(count_patches(segments, self.patch_size, self.patch_overlap), np.int64)
        statistics = self._fill(rows, spectrum, wavelength, segments)
        told = {name: np.array(statistics[name], dtype=np.float32) for name in self.statistics}
        return rows | {"num_patches": np.array(len(rows["flux"])), **told}

    def pack(self, spectra: Any, *, on_invalid: str | None = None, pad_to: int | None = None) -> dict[str, np.ndarray]:
        """A batch of spectra whose patches lie end to end, without padding between them.

        Args:
            spectra: As for `__call__`.
            on_invalid: Overrides the processor's own.
            pad_to: Number of patches T of the result, those beyond the spectra's being 0; None = as many as there are.

        Returns:
            flux, wavelength, error, (T, patch_size), float32; pixel_mask of that shape and attention_mask, (T,), bool;
            num_patches and scale, (batch,).

        Raises:
            ValueError: As `__call__`, or if the spectra have more than `pad_to` patches.
        """
        on_invalid = on_invalid or self.on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        spectra = self._as_spectra(spectra)
        grids = [self._segments(spectrum.wavelength, spectrum.medium) for spectrum in spectra]
        lengths = [count_patches(segments, self.patch_size, self.patch_overlap) for _, segments in grids]
        packed = self._allocate(packed_length(lengths, pad_to), np.bool_)
        kept: list[tuple[int, dict[str, float]]] = []
        first = 0
        for position, (spectrum, grid, length) in enumerate(zip(spectra, grids, lengths, strict=True)):
            rows = {name: values[first : first + length] for name, values in packed.items()}
            statistics = self._fill(rows, spectrum, *grid)
            if self._is_kept(spectrum, position, rows, on_invalid):
                kept.append((length, statistics))
                first += length
        check_any(kept)
        counts, statistics_of = zip(*kept, strict=True)
        told = {name: np.array([one[name] for one in statistics_of], dtype=np.float32) for name in self.statistics}
        for values in packed.values():
            values[first:] = 0
        packed = packed if pad_to else {name: values[:first] for name, values in packed.items()}
        return packed | {"num_patches": np.array(counts), **told}

    def _allocate(self, length: int, mask_type: Any) -> dict[str, np.ndarray]:
        shape = (length, self.patch_size)
        rows = {name: np.empty(shape, dtype=np.float32) for name in ("flux", "wavelength", "error")}
        return rows | {"pixel_mask": np.empty(shape, mask_type), "attention_mask": np.empty(length, mask_type)}

    def _fill(
        self, rows: dict[str, np.ndarray], spectrum: Spectrum, wavelength: np.ndarray, segments: list[slice]
    ) -> dict[str, float]:
        """Write the patches of a spectrum into `rows`, arrays of as many rows; gives what it was normalised by."""
        good, loc, scale = self._normalisation(spectrum)
        # Float64 where something is subtracted: a mean may be large beside what varies about it.
        flux = (spectrum.flux - np.float64(loc) if loc else spectrum.flux) / scale
        error = spectrum.error
        error /= scale
        bad = np.flatnonzero(~good)  # few: an index is cheaper than a mask
        flux[bad] = error[bad] = 0
        for name, values in (("flux", flux), ("error", error), ("pixel_mask", good)):
            cut_patches(values, segments, rows[name], self.patch_overlap)
        cut_wavelength(wavelength, segments, rows["wavelength"], self.patch_overlap)
        rows["attention_mask"][:] = valid_patches(rows["pixel_mask"])
        return {"scale": scale, "loc": loc}

    def count_patches(self, wavelength: np.ndarray, *, medium: str = "vacuum") -> int:
        """How many patches a grid is cut into.

        Args:
            wavelength: Wavelength in Å, shape (L,), strictly increasing.
            medium: Its medium.
        """
        return count_patches(self._segments(wavelength, medium)[1], self.patch_size, self.patch_overlap)

    def observed(self, inputs: Mapping[str, Any]) -> Any:
        """Which spectra of a batch have a valid patch, shape (batch,), bool.

        Args:
            inputs: What `__call__` or `pad` gave.
        """
        return (inputs["attention_mask"] > 0).any(-1)

    def patch_pixels(self, spectrum: Spectrum, values: Any) -> np.ndarray:
        """Any quantity of a spectrum's pixels, cut as its flux is: shape (num_patches, patch_size), 0 in the padding.

        Args:
            spectrum: The spectrum that the pixels belong to.
            values: Shape (L,).
        """
        segments = self._segments(spectrum.wavelength, spectrum.medium)[1]
        return patchify(np.asarray(values), self._index(segments), 0)

    def normalize(self, spectrum: Spectrum, values: Any) -> np.ndarray:
        """Fluxes in the model's unit, normalised as the spectrum's own flux is: shape (L,).

        Args:
            spectrum: The spectrum that says how.
            values: In the unit of its flux, shape (L,), such as its `truth`.
        """
        _, loc, scale = self._normalisation(spectrum)
        return (np.asarray(values, dtype=np.float64) - loc) / scale

    def report(self, spectrum: Spectrum) -> str:
        """What `Spectrum.report` says, and what the processor drops beyond it.

        Args:
            spectrum: The spectrum.
        """
        patches = self.patch(spectrum)
        valid, total = int(patches["attention_mask"].sum()), int(patches["num_patches"])
        return (
            f"{super().report(spectrum)}\n"
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
        converted, segments = self._cut_axis(grid.wavelength, medium)
        count = count_patches(segments, self.patch_size, self.patch_overlap)
        patches = np.empty((count, self.patch_size), dtype=np.float32)
        cut_wavelength(converted, segments, patches, self.patch_overlap)
        return BatchFeature({"wavelength": patches[None]}, tensor_type=return_tensors)

    def post_process_reconstruction(
        self, outputs: Any, spectra: Any, *, wavelength: Any = None, medium: str = "vacuum"
    ) -> list[Spectrum]:
        """Reconstructions as spectra in the unit, and on the grid, of the input.

        Where patches overlap, a pixel gets the mean of those that cover it.

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
            ValueError: If the number of spectra, or of the patches of one of them, does not match.
        """
        reconstruction, coverage = (_as_array(outputs[name]) for name in ("reconstruction", "coverage"))
        spectra = self._as_spectra(spectra)
        if len(spectra) != len(reconstruction):
            raise ValueError(
                f"outputs and spectra must match one to one, found {len(reconstruction)} and {len(spectra)}: "
                "pass the spectra of this batch, without those that were skipped"
            )
        grids = [(s.wavelength, s.medium) if wavelength is None else (wavelength, medium) for s in spectra]
        cut = self._segments if wavelength is None else self._cut_axis
        indices = [self._index(cut(np.asarray(grid, dtype=np.float64), grid_medium)[1]) for grid, grid_medium in grids]
        _check_patches(reconstruction, indices, spectra)
        return [
            Spectrum(
                self._denormalize(spectrum, unpatchify(flux.astype(np.float64), index, covered, length=len(grid))),
                grid,
                np.zeros(len(grid)),
                mask=~unpatchify(covered, index, length=len(grid)),
                survey=spectrum.survey,
                object_id=spectrum.object_id,
                medium=grid_medium,
                frame=spectrum.frame,
                flux_unit=spectrum.flux_unit,
            )
            for flux, covered, spectrum, (grid, grid_medium), index in zip(
                reconstruction, coverage != 0, spectra, grids, indices, strict=True
            )
        ]

    def _denormalize(self, spectrum: Spectrum, values: np.ndarray) -> np.ndarray:
        """The inverse of `normalize`, on any grid."""
        _, loc, scale = self._normalisation(spectrum)
        return values * scale + loc

    def _index(self, segments: list[slice]) -> np.ndarray:
        """Which pixel stands where, shape (num_patches, patch_size)."""
        return patch_index(segments, self.patch_size, self.patch_overlap)

    def _segments(self, wavelength: np.ndarray, medium: str) -> tuple[np.ndarray, list[slice]]:
        """Wavelength of a spectrum in the checkpoint's medium, shape (L,), and its runs without a gap."""
        return self._cut_axis(wavelength, medium)

    def _invalid_message(self, spectrum: Spectrum, position: int, patches: dict[str, np.ndarray]) -> str:
        if not patches["pixel_mask"].any():
            return super()._invalid_message(spectrum, position, patches)
        most = int(patches["pixel_mask"].sum(-1).max())
        return (
            f"no patch of spectrum {position} (object_id={spectrum.object_id}) has more than {self.patch_size // 2} "
            f"good pixels of {self.patch_size}, found at most {most}: {ADVICE}"
        )

    def _truncate(self, processed_features, max_length=None, pad_to_multiple_of=None, truncation=None):
        if not truncation:
            return processed_features
        if max_length is None:
            raise ValueError("truncation needs max_length, a number of patches")
        if pad_to_multiple_of is not None:
            max_length = -(-max_length // pad_to_multiple_of) * pad_to_multiple_of
        cut = {name: value[:max_length] if name in PER_PATCH else value for name, value in processed_features.items()}
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
        return {name: self._pad_array(value, missing if name in PER_PATCH else 0) for name, value in features.items()}

    def _pad_array(self, value: np.ndarray, missing: int) -> np.ndarray:
        if not value.ndim:
            return value[()]  # BatchFeature asks arrays, but not numpy's scalars, for their length
        if not missing:
            return value
        fill = self.padding_value if np.issubdtype(value.dtype, np.floating) else 0
        return np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1), constant_values=fill)


def packed_length(lengths: Any, pad_to: int | None) -> int:
    """Patches of a packed batch.

    Args:
        lengths: Patches of each spectrum.
        pad_to: Patches that are asked for; None = as many as the spectra have.

    Raises:
        ValueError: If the spectra have more.
    """
    found = int(sum(lengths))
    if pad_to is not None and found > pad_to:
        raise ValueError(
            f"a batch must have at most pad_to={pad_to} patches, found {found} in {len(lengths)} spectra: "
            f"batch by TokenBudgetBatchSampler(lengths, {pad_to}), or raise pad_to"
        )
    return found if pad_to is None else pad_to


def _check_patches(reconstruction: np.ndarray, indices: list[np.ndarray], spectra: list[Spectrum]) -> None:
    """Every grid fits into its row of the batch, and fills it: what lies behind is padding, and 0."""
    for row, index, spectrum in zip(reconstruction, indices, spectra, strict=True):
        if len(index) > len(row) or row[len(index) :].any():
            found = len(row) if len(index) > len(row) else "more"
            raise ValueError(
                f"the grid of {spectrum!r} has {len(index)} patches, found {found} in its row of the reconstruction: "
                "pass the spectra in the order of the batch, and the grid that was decoded onto as wavelength="
            )


def _as_array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


__all__ = ["PER_PATCH", "SpectrumProcessor", "packed_length"]
