"""What processors of all families do with spectra before they cut or draw them: whatever holds one, checks, medium,
good pixels and their scale.
"""

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .patches import find_segments
from .sources import is_spectrum
from .spectrum import CGS_UNIT, MEDIA, Spectrum, check_choice, is_cgs_unit, is_per_frequency
from .wavelength import to_medium

ON_INVALID = ("raise", "skip", "mask")
ADVICE = 'drop it or pass on_invalid="skip"'
_FLOAT32_MAX = float(np.finfo(np.float32).max)


class SpectrumInputs:
    """Mixin of processors: which of a spectrum's pixels count, on which axis, and what becomes of a spectrum of none.

    `scale` is max(median flux, median error) over good pixels. The second term answers for faint spectra, whose median
    flux is near zero or negative after sky subtraction: their scale is the noise.
    """

    nothing = "no good pixel"  # of a spectrum that is not observed
    medium: str
    gap_factor: float | None
    max_normalized_flux: float
    on_invalid: str
    flux_unit: str | None

    def _read_as(
        self,
        *,
        medium: str,
        gap_factor: float | None,
        max_normalized_flux: float,
        on_invalid: str,
        flux_unit: str | None,
    ) -> None:
        """Set the fields; see `SpectrumProcessor` for what they mean."""
        check_choice("medium", medium, MEDIA)
        check_choice("on_invalid", on_invalid, ON_INVALID)
        self.medium = medium
        self.gap_factor = gap_factor
        self.max_normalized_flux = max_normalized_flux
        self.on_invalid = on_invalid
        self.flux_unit = CGS_UNIT if flux_unit and is_cgs_unit(flux_unit) else flux_unit

    def patch(self, spectrum: Spectrum) -> dict[str, np.ndarray]:
        """The model inputs of one spectrum, `attention_mask` among them, which says whether it holds anything.

        Args:
            spectrum: The spectrum; it may be bad everywhere.
        """
        raise NotImplementedError

    def good_pixels(self, spectrum: Spectrum) -> np.ndarray:
        """The pixels that a model reads, shape (L,), True = good: `Spectrum.good` without outliers.

        Args:
            spectrum: The spectrum.
        """
        return self._normalisation(spectrum)[0]

    def _normalisation(self, spectrum: Spectrum) -> tuple[np.ndarray, float, float]:
        """Good pixels, shape (L,), and what makes (flux - loc) / scale of the flux."""
        self._check_unit(spectrum)
        good = spectrum.good
        scale = _scale(spectrum, good)
        good &= self._within_range(spectrum.flux, scale)
        return good, 0.0, scale

    def _check_unit(self, spectrum: Spectrum) -> None:
        unit, wanted = spectrum.flux_unit, self.flux_unit
        if unit in (None, wanted):
            return
        # The two differ by wavelength²: the shape of the spectrum is another one.
        if is_per_frequency(str(unit)) and not is_per_frequency(str(wanted)):
            raise ValueError(
                f"flux must be per wavelength, found {unit}, per frequency (object_id={spectrum.object_id}): convert "
                'it, flux.to("1e-17 erg/(s cm2 Angstrom)", equivalencies=astropy.units.spectral_density(wavelength)), '
                "and its error likewise"
            )
        if wanted is None or (wanted == CGS_UNIT and is_cgs_unit(str(unit))):
            return
        raise ValueError(
            f"the model reads how bright a spectrum is, in {wanted}, found a flux in {unit} "
            f"(object_id={spectrum.object_id}): convert it, or take a model that reads any unit, such as spectok-tiny"
        )

    def _within_range(self, flux: np.ndarray, scale: float) -> np.ndarray:
        limit = self.max_normalized_flux * scale
        rounded = flux.dtype.type(min(limit, float(np.finfo(flux.dtype).max)))
        # Comparing in float64 would take twice as long; the largest float32 within the limit parts the same pixels.
        return np.abs(flux) <= (np.nextafter(rounded, flux.dtype.type(0)) if rounded > limit else rounded)

    def _cut_axis(self, wavelength: np.ndarray, medium: str) -> tuple[np.ndarray, list[slice]]:
        """Wavelength in the checkpoint's medium, shape (L,), and its runs without a gap."""
        return _convert_axis(_AxisKey(wavelength), medium, self.medium, self.gap_factor)

    def observed(self, inputs: Mapping[str, Any]) -> Any:
        """Which spectra of a batch hold anything, shape (batch,), bool.

        Args:
            inputs: What `__call__` gave.
        """
        raise NotImplementedError

    def report(self, spectrum: Spectrum) -> str:
        """What `Spectrum.report` says, and the outliers beyond it.

        Args:
            spectrum: The spectrum.
        """
        observed = spectrum.good
        outliers = int(observed.sum() - self.good_pixels(spectrum).sum())
        scale = _scale(spectrum, observed)
        return (
            f"{spectrum.report()}\n"
            f"  {outliers:6d} pixels: |flux| > {self.max_normalized_flux:g} x scale (scale {scale:.4g})"
        )

    def _features(self, spectra: Any, on_invalid: str | None) -> list[dict[str, np.ndarray]]:
        """The model inputs of those spectra that stay in the batch.

        Raises:
            ValueError: If none does, or one holds nothing and `on_invalid` is "raise".
        """
        on_invalid = on_invalid or self.on_invalid
        check_choice("on_invalid", on_invalid, ON_INVALID)
        features = []
        for position, spectrum in enumerate(self._as_spectra(spectra)):
            patches = self.patch(spectrum)
            if self._is_kept(spectrum, position, patches, on_invalid):
                features.append(patches)
        check_any(features)
        return features

    def _is_kept(self, spectrum: Spectrum, position: int, patches: dict[str, np.ndarray], on_invalid: str) -> bool:
        """Whether a spectrum stays in the batch: one without a valid patch as `on_invalid` says."""
        if patches["attention_mask"].any() or on_invalid == "mask":
            return True
        message = self._invalid_message(spectrum, position, patches)
        if on_invalid == "raise":
            raise ValueError(message)
        warnings.warn(f"skipped: {message}", stacklevel=4)
        return False

    def _invalid_message(self, spectrum: Spectrum, position: int, patches: dict[str, np.ndarray]) -> str:
        name = f"spectrum {position} (object_id={spectrum.object_id})"
        return f"all {len(spectrum.flux)} pixels of {name} are bad: {ADVICE}"

    def _as_spectra(self, spectra: Any) -> list[Spectrum]:
        items = spectra if isinstance(spectra, (list, tuple)) else [spectra]
        return [spectrum for item in items for spectrum in _as_spectrum_list(item)]


class _AxisKey:
    """A wavelength axis as the key of a cache: equal to another one where all their pixels are."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels

    def __hash__(self) -> int:
        return hash((len(self.pixels), self.pixels[:1].tobytes(), self.pixels[-1:].tobytes()))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _AxisKey)
            and self.pixels.dtype == other.pixels.dtype
            and np.array_equal(self.pixels, other.pixels)
        )


@functools.lru_cache(maxsize=16)
def _convert_axis(
    axis: _AxisKey, medium: str, wanted: str, gap_factor: float | None
) -> tuple[np.ndarray, list[slice]]:
    """An axis in the medium that is wanted, and its runs without a gap; all spectra of DESI have the same one."""
    axis.pixels = axis.pixels.copy()  # the key stays, and whoever the axis belongs to may change it
    wavelength = to_medium(axis.pixels, medium, wanted)
    return wavelength, find_segments(wavelength, gap_factor)


def check_same_entries(features: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a batch of which some spectra carry what others do not.

    Args:
        features: What each spectrum carries, by name.

    Raises:
        ValueError: If it is so.
    """
    names = set(features[0])
    if differing := [names ^ set(feature) for feature in features if set(feature) != names]:
        raise ValueError(
            "all spectra of a batch must carry the same entries, found "
            f"{', '.join(sorted(differing[0]))} in some: give every spectrum its labels (NaN = missing), or none"
        )


def check_any(spectra: Sequence[Any]) -> None:
    """Refuse a batch that nothing is left of.

    Args:
        spectra: What is left.

    Raises:
        ValueError: If it is nothing.
    """
    if not spectra:
        raise ValueError("no spectrum left to process: pass at least one spectrum with a valid patch")


def _scale(spectrum: Spectrum, good: np.ndarray) -> float:
    """max(median flux, median error) over good pixels; 1 where there is none."""
    flux = spectrum.flux[good]
    if not len(flux):
        return 1.0
    level = sum(_middle(flux)) / 2
    # The error's median can only be larger where half of the errors are: they are counted first, which is cheaper.
    # An error above the level is an ivar below this limit; a part in 1e6 is left to rounding.
    limit = min(1.000001 / level**2, _FLOAT32_MAX) if level > 0 else np.inf
    if 2 * np.count_nonzero((spectrum.ivar <= limit) & good) < len(flux):
        return level
    return max(level, sum(1 / math.sqrt(value) for value in _middle(spectrum.ivar[good])) / 2)


def _middle(values: np.ndarray) -> tuple[float, float]:
    """The two values in the middle (twice the same, of an odd number), whose mean is the median; sorts in place."""
    half = len(values) // 2
    values.partition(half)
    upper = float(values[half])
    return (upper if len(values) % 2 else float(values[:half].max())), upper


def _as_spectrum_list(item: Any) -> list[Spectrum]:
    if isinstance(item, (str, Path)):
        return _read_file(item)
    if isinstance(item, Mapping):
        return [_from_mapping(item)]
    if is_spectrum(item):
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


__all__ = ["ADVICE", "ON_INVALID", "SpectrumInputs", "check_any", "check_same_entries"]
# From spectok-hf; save_pretrained writes this file.
