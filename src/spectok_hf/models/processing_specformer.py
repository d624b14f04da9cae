"""`SpecformerProcessor`: from spectra on the grid of DESI to the overlapping patches of Specformer, and back."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from .patches import find_segments
from .processing_spectok import SpectrumProcessor
from .spectrum import CGS_UNIT, Spectrum

LEAST_SCALE = 0.2  # of the public code, in 1e-17 erg/s/cm²/Å
TOLERANCE = 0.1  # of a pixel, by which a grid may be off: float32 wavelengths, and rounded ones, are


class SpecformerProcessor(SpectrumProcessor):
    r"""
    Prepares spectra for Specformer (arXiv 2310.03024) as `SpectrumProcessor` does for SpecTok, with three differences.

    All spectra are on one grid, that of DESI's coadds by default, since the model takes the number of a patch for its
    wavelength: another grid is an error, or with `resample` brought to that one by linear interpolation. A pixel is
    bad then where one of the two that it comes from is, in a detector gap, and where nothing was observed.

    A spectrum is normalised by its own statistics: the mean of its good pixels is subtracted, and the rest divided by
    their standard deviation, but at least by 0.2. The model is told both (`loc`, `scale`), and so the flux must be in
    DESI's unit, 1e-17 erg/s/cm²/Å; where a spectrum names no unit, it is taken to be.

    Patches overlap, and only whole ones are cut: 777 of the 7,781 pixels of DESI, without the last pixel. That is what
    the public code makes of them.

    Args:
        patch_size: Pixels per patch.
        patch_overlap: Pixels that a patch shares with the next one, at most half of a patch.
        medium: Medium of the grid, "vacuum" or "air"; spectra in the other one are converted.
        grid_start: First wavelength of the grid in Å.
        grid_step: Å per pixel.
        grid_size: Pixels.
        resample: Whether spectra on other grids are interpolated; else they are an error.
        max_normalized_flux: Pixels beyond this many times max(median flux, median error) are bad.
        on_invalid: As for `SpectrumProcessor`.
        padding_value: As for `SpectrumProcessor`.
        flux_unit: Unit that fluxes must be in; one that names none is taken to be.

    Raises:
        ValueError: If an argument is not one of its choices, more than half of a patch overlaps, or the grid has no
            whole patch.
    """

    model_input_names = [*SpectrumProcessor.model_input_names, "loc"]
    statistics = ("scale", "loc")

    def __init__(
        self,
        patch_size: int = 20,
        patch_overlap: int = 10,
        medium: str = "vacuum",
        grid_start: float = 3600.0,
        grid_step: float = 0.8,
        grid_size: int = 7781,
        resample: bool = False,
        max_normalized_flux: float = 1e3,
        on_invalid: str = "raise",
        padding_value: float = 0.0,
        flux_unit: str | None = CGS_UNIT,
        **kwargs: Any,
    ):
        gap_factor = kwargs.pop("gap_factor", None)  # which saved files hold
        own = (patch_size, medium, gap_factor, max_normalized_flux, on_invalid, padding_value, flux_unit)
        super().__init__(*own, **kwargs)
        if gap_factor is not None:
            raise ValueError(f"SpecformerProcessor knows no gaps, found gap_factor={gap_factor}: mask their pixels")
        if not 0 <= patch_overlap <= patch_size // 2:
            raise ValueError(
                f"patch_overlap must be at least 0 and at most half of patch_size={patch_size}, found "
                f"{patch_overlap}: pass both"
            )
        if not (grid_start > 0 and grid_step > 0) or grid_size < patch_size:
            raise ValueError(
                f"a grid must have a positive grid_start and grid_step, and a whole patch of {patch_size} pixels, "
                f"found {grid_start}, {grid_step} and grid_size={grid_size}"
            )
        self.patch_overlap = patch_overlap
        self.grid_start, self.grid_step, self.grid_size = grid_start, grid_step, grid_size
        self.resample = resample

    @property
    def grid(self) -> np.ndarray:
        """Wavelengths of the grid in Å, shape (grid_size,)."""
        return self.grid_start + self.grid_step * np.arange(self.grid_size)

    def to_grid(self, spectrum: Spectrum) -> Spectrum:
        """A spectrum on the grid of the processor, interpolated linearly where it is on another one.

        So is the variance, as if pixels were not averaged. Of a finer grid single pixels are taken.

        Args:
            spectrum: The spectrum.

        Raises:
            ValueError: If it has no pixel on the grid.
        """
        wavelength = self._cut_axis(spectrum.wavelength, spectrum.medium)[0]
        if self._is_grid(wavelength):
            return spectrum
        grid, good = self.grid, spectrum.good
        if wavelength[-1] < grid[0] or wavelength[0] > grid[-1]:
            raise ValueError(
                f"{spectrum!r} has nothing on the grid of Specformer, {grid[0]:g} to {grid[-1]:g} Å, found "
                f"{wavelength[0]:g} to {wavelength[-1]:g} Å: use SpecTok or OmniSpectra, which read any grid"
            )
        from_good = np.interp(grid, wavelength, good, left=0, right=0) > 1 - 1e-9  # but for rounding
        for before, after in pairwise(find_segments(wavelength)):
            from_good &= (grid <= wavelength[before.stop - 1]) | (grid >= wavelength[after.start])
        flux, variance = (
            np.interp(grid, wavelength, np.where(good, values, 0))
            for values in (spectrum.flux, 1 / np.where(good, spectrum.ivar, 1))
        )
        ivar = np.where(from_good, 1 / np.where(from_good, variance, 1), 0)
        changed = {"flux": flux, "wavelength": grid, "ivar": ivar, "mask": ~from_good, "truth": None}
        return replace(spectrum, **changed, medium=self.medium)

    def patch(self, spectrum: Spectrum) -> dict[str, np.ndarray]:
        """As `SpectrumProcessor.patch`, with `loc`.

        Args:
            spectrum: The spectrum.

        Raises:
            ValueError: If it is on another grid, or in another unit.
        """
        return super().patch(self._on_grid(spectrum))

    def count_patches(self, wavelength: np.ndarray, *, medium: str = "vacuum") -> int:
        """As `SpectrumProcessor.count_patches`; with `resample` it is the same for every grid."""
        wavelength, medium = (self.grid, self.medium) if self.resample else (wavelength, medium)
        return super().count_patches(wavelength, medium=medium)

    def report(self, spectrum: Spectrum) -> str:
        """What `SpectrumProcessor.report` says, and how the flux is normalised."""
        spectrum = self._on_grid(spectrum)
        _, loc, scale = self._normalisation(spectrum)
        return f"{super().report(spectrum)}\n  normalised to (flux - {loc:.4g}) / {scale:.4g}"

    def _normalisation(self, spectrum: Spectrum) -> tuple[np.ndarray, float, float]:
        self._segments(spectrum.wavelength, spectrum.medium)
        good, _, scale = super()._normalisation(spectrum)
        if not good.any():
            return good, 0.0, scale
        flux = spectrum.flux[good].astype(np.float64)
        spread = float(flux.std(ddof=1)) if len(flux) > 1 else 0.0
        return good, float(flux.mean()), max(spread, LEAST_SCALE)

    def _segments(self, wavelength: np.ndarray, medium: str) -> tuple[np.ndarray, list[slice]]:
        """Wavelength in the checkpoint's medium, shape (L,), and the pixels in whole patches."""
        converted, _ = self._cut_axis(wavelength, medium)
        if not self._is_grid(converted):
            last = self.grid_start + self.grid_step * (self.grid_size - 1)
            raise ValueError(
                f"Specformer reads spectra on one grid, {self.grid_size} pixels from {self.grid_start:g} to {last:g} "
                f"Å ({self.medium}), found {len(wavelength)} pixels from {wavelength[0]:g} to {wavelength[-1]:g} Å "
                f"({medium}): pass processor.to_grid(spectrum), or resample=True to the processor; SpecTok and "
                "OmniSpectra read any grid"
            )
        stride = self.patch_size - self.patch_overlap
        whole = (self.grid_size - self.patch_overlap) // stride * stride + self.patch_overlap
        return converted, [slice(0, whole)]

    def _is_grid(self, wavelength: np.ndarray) -> bool:
        if len(wavelength) != self.grid_size:
            return False
        return bool(np.abs(wavelength - self.grid).max() <= TOLERANCE * self.grid_step)

    def _on_grid(self, spectrum: Spectrum) -> Spectrum:
        return self.to_grid(spectrum) if self.resample else spectrum

    def _as_spectra(self, spectra: Any) -> list[Spectrum]:
        return [self._on_grid(spectrum) for spectrum in super()._as_spectra(spectra)]


__all__ = ["SpecformerProcessor"]
