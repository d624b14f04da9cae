"""`OmniSpectraProcessor`: from spectra in their survey's units to the overlapping patches of OmniSpectra, and back."""

from typing import Any

import numpy as np

from .patches import GAP_FACTOR
from .processing_spectok import SpectrumProcessor
from .spectrum import Spectrum


class OmniSpectraProcessor(SpectrumProcessor):
    r"""
    Prepares spectra for OmniSpectra (arXiv 2601.15351) as `SpectrumProcessor` does for SpecTok, with two differences.

    A spectrum is normalised by its own statistics: the mean of its good pixels is subtracted, and the rest divided by
    their standard deviation; by their median error, where that is 0. Pixels beyond `max_normalized_flux` times the
    scale of `SpectrumProcessor` are bad and count in neither, or a single spike would say what both are.

    Patches overlap: one starts every `patch_size - patch_overlap` pixels, so that most pixels lie in two.

    Args:
        patch_size: Pixels per patch.
        patch_overlap: Pixels that a patch shares with the next one, at most half of a patch.
        medium: As for `SpectrumProcessor`.
        gap_factor: As for `SpectrumProcessor`.
        max_normalized_flux: Pixels beyond this many times max(median flux, median error) are bad.
        on_invalid: As for `SpectrumProcessor`.
        padding_value: As for `SpectrumProcessor`.
        flux_unit: As for `SpectrumProcessor`.

    Raises:
        ValueError: If an argument is not one of its choices, or more than half of a patch overlaps.
    """

    def __init__(
        self,
        patch_size: int = 20,
        patch_overlap: int = 10,
        medium: str = "vacuum",
        gap_factor: float | None = GAP_FACTOR,
        max_normalized_flux: float = 1e3,
        on_invalid: str = "raise",
        padding_value: float = 0.0,
        flux_unit: str | None = None,
        **kwargs: Any,
    ):
        own = (patch_size, medium, gap_factor, max_normalized_flux, on_invalid, padding_value, flux_unit)
        super().__init__(*own, **kwargs)
        if not 0 <= patch_overlap <= patch_size // 2:
            raise ValueError(
                f"patch_overlap must be at least 0 and at most half of patch_size={patch_size}, found "
                f"{patch_overlap}: pass both"
            )
        self.patch_overlap = patch_overlap

    def report(self, spectrum: Spectrum) -> str:
        """What `SpectrumProcessor.report` says, and how the flux is normalised."""
        _, loc, scale = self._normalisation(spectrum)
        return f"{super().report(spectrum)}\n  normalised to (flux - {loc:.4g}) / {scale:.4g}"

    def _normalisation(self, spectrum: Spectrum) -> tuple[np.ndarray, float, float]:
        good, _, scale = super()._normalisation(spectrum)
        if not good.any():
            return good, 0.0, scale
        flux = spectrum.flux[good].astype(np.float64)
        return good, float(flux.mean()), float(flux.std()) or float(np.median(spectrum.error[good]))


__all__ = ["OmniSpectraProcessor"]
