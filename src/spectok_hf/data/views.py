"""Pairs for the contrastive objective: two observations of an object where there are two, else two views of one.

A view is what another exposure, or another spectrograph, might have seen of the same light: at lower resolution, over
a part of the range, with more noise, with other pixels lost.
"""

import hashlib
import warnings
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from ..models.patches import GAP_FACTOR, find_segments
from ..models.processing_spectok import SpectrumProcessor
from ..models.sources import is_spectrum
from ..models.spectrum import Spectrum
from .collators import DataCollatorForPackedSpectra, hidden_runs
from .dataset import object_groups
from .mixtures import Visit, without_visits


class Observations(NamedTuple):
    """One or two spectra of an object, as `ObservationPairs` gives them.

    Args:
        spectra: The spectra.
        code: What `object_code` makes of the object's key.
    """

    spectra: tuple[Spectrum, ...]
    code: int


def object_code(key: str) -> int:
    """A number of 63 bits, the same in every process and run, that stands for an object.

    Args:
        key: Key of the object, see `object_groups`.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


class ObservationPairs(Dataset):
    """Spectra, each with another observation of its object where there is one: repeats, and other surveys' own.

    Item i is spectrum i, first, and one of its partners. For a `Visit` the partner is drawn anew, from its number;
    for a plain index it is always the same.

    Args:
        spectra: The spectra, in memory, `SpectrumShards` or a lazy `SpectrumDataset`.
        keys: Key of each spectrum's object; None = `object_groups`, which reads all spectra once.
        seed: Seed of the draw.

    Attributes:
        codes: `object_code` of each spectrum's key.

    Raises:
        ValueError: If there is not one key per spectrum.
    """

    def __init__(self, spectra: Sequence[Spectrum], keys: Sequence[str] | None = None, *, seed: int = 0):
        keys = object_groups(spectra) if keys is None else keys
        if len(keys) != len(spectra):
            raise ValueError(f"keys must be one per spectrum, found {len(keys)} for {len(spectra)} spectra")
        self.spectra, self.seed = spectra, seed
        self.codes = [object_code(key) for key in keys]
        members = defaultdict(list)
        for index, code in enumerate(self.codes):
            members[code].append(index)
        self._repeated = {code: indices for code, indices in members.items() if len(indices) > 1}

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int | Visit) -> Observations | Visit:
        if isinstance(index, Visit):
            return Visit(self._observe(index.what, index.number), index.number)
        return self._observe(index, 0)

    @property
    def num_pairs(self) -> int:
        """How many of the spectra have a partner."""
        return sum(map(len, self._repeated.values()))

    def _observe(self, index: int, number: int) -> Observations:
        index = range(len(self))[index]
        code = self.codes[index]
        others = [other for other in self._repeated.get(code, []) if other != index]
        if not others:
            return Observations((self.spectra[index],), code)
        drawn = np.random.default_rng([self.seed, number, 1]).integers(len(others))  # not what views are drawn from
        return Observations((self.spectra[index], self.spectra[others[drawn]]), code)


class DataCollatorForContrastiveSpectra:
    """Packed batches of pairs: rows 2i and 2i + 1 are two views of item i.

    An item that has two observations of an object gives one view of each, any other item two of its one spectrum. Each
    of the four changes is made to a view with `probability`, at a strength drawn evenly between 0 and what is given
    here; 0 turns it off. They follow each other in the order of the arguments. A view that would be left without a
    valid patch is the spectrum as it came.

    What is drawn is a function of the seed and, for each `Visit`, of its number, so that it does not depend on the
    process that the spectrum came to; else of the batch's content.

    Args:
        processor: The processor of the model.
        broadening: Widest Gaussian, its standard deviation in pixels, see `broaden`.
        crop: Largest share of the pixels that are cut away.
        noise: Most noise that is added, in units of each pixel's own error.
        hide_ratio: Largest share of the good pixels that is masked, in runs.
        run_length: Good pixels per run.
        probability: Of each change.
        seed: Seed of the draw.
        pad_to: As for `DataCollatorForPackedSpectra`.

    Raises:
        ValueError: If a strength, the probability or the length of runs is out of range.
    """

    def __init__(
        self,
        processor: SpectrumProcessor,
        *,
        broadening: float = 2.0,
        crop: float = 0.5,
        noise: float = 1.0,
        hide_ratio: float = 0.2,
        run_length: int = 16,
        probability: float = 0.8,
        seed: int = 0,
        pad_to: int | None = None,
    ):
        if not (0 <= broadening < np.inf and 0 <= noise < np.inf and 0 <= crop < 1 and 0 <= hide_ratio < 1):
            raise ValueError(
                "broadening and noise must be 0 or more, crop and hide_ratio at least 0 and below 1, found "
                f"broadening={broadening}, noise={noise}, crop={crop}, hide_ratio={hide_ratio}"
            )
        if not 0 <= probability <= 1 or run_length < 1:
            raise ValueError(
                "probability must lie between 0 and 1, and run_length be at least 1, found "
                f"probability={probability}, run_length={run_length}"
            )
        self.processor = processor
        self.broadening, self.crop, self.noise, self.hide_ratio = broadening, crop, noise, hide_ratio
        self.run_length, self.probability, self.seed = run_length, probability, seed
        self._pack = DataCollatorForPackedSpectra(processor, pad_to=pad_to)

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        """A packed batch of twice as many spectra as items.

        Args:
            items: Spectra; pairs of spectra of one object, as tuples or lists; what `ObservationPairs` gives; or the
                visits of any of these.

        Returns:
            What `DataCollatorForPackedSpectra` gives, and object_codes, (batch,), int64: equal for spectra of one
            object, by the key of `ObservationPairs`, else by position, name or content of an item's own spectra.

        Raises:
            ValueError: If items are no spectra, or one has no valid patch and the processor's `on_invalid` is "raise".
        """
        items, numbers = without_visits(items)
        observed = [_observations(item) for item in items]
        features = []
        for observations, rng in zip(observed, self._random_streams(observed, numbers), strict=True):
            pair = [self._patch_view(spectrum, rng) for spectrum in _both(observations.spectra)]
            if self._is_kept(observations, pair):
                features += [patches | {"object_codes": np.int64(observations.code)} for patches in pair]
        if not features:
            raise ValueError("no pair left to process: pass at least one spectrum with a valid patch")
        return self._pack(features)

    def view(self, spectrum: Spectrum, rng: np.random.Generator) -> Spectrum:
        """One view of a spectrum.

        Args:
            spectrum: The spectrum, which stays as it is.
            rng: Source of randomness.
        """
        spectrum = broaden(spectrum, self._draw(self.broadening, rng), gap_factor=self.processor.gap_factor)
        spectrum = crop_range(spectrum, self._draw(self.crop, rng), rng)
        spectrum = add_noise(spectrum, self._draw(self.noise, rng), rng)
        return mask_runs(spectrum, self._draw(self.hide_ratio, rng), rng, run_length=self.run_length)

    def _draw(self, most: float, rng: np.random.Generator) -> float:
        chance, share = rng.random(2)
        return most * share if chance < self.probability else 0.0

    def _patch_view(self, spectrum: Spectrum, rng: np.random.Generator) -> dict[str, np.ndarray]:
        patches = self.processor.patch(self.view(spectrum, rng))
        return patches if patches["attention_mask"].any() else self.processor.patch(spectrum)

    def _is_kept(self, observations: Observations, pair: Sequence[Mapping[str, np.ndarray]]) -> bool:
        if self.processor.on_invalid == "mask" or all(patches["attention_mask"].any() for patches in pair):
            return True
        names = ", ".join(str(spectrum.object_id) for spectrum in observations.spectra)
        message = f'a spectrum of object_id={names} has no valid patch: drop it, or load with on_invalid="skip"'
        if self.processor.on_invalid == "raise":
            raise ValueError(message)
        warnings.warn(f"skipped: {message}", stacklevel=3)
        return False

    def _random_streams(
        self, observed: Sequence[Observations], numbers: Sequence[int] | None
    ) -> list[np.random.Generator]:
        if numbers is not None:
            return [np.random.default_rng([self.seed, number]) for number in numbers]
        content = 0
        for spectrum in (spectrum for observations in observed for spectrum in observations.spectra):
            content = zlib.crc32(np.ascontiguousarray(spectrum.flux).data, content)
        return [np.random.default_rng([self.seed, content])] * len(observed)


def _observations(item: Any) -> Observations:
    if isinstance(item, Observations):
        return item
    spectra = (item,) if is_spectrum(item) else item
    if isinstance(spectra, (tuple, list)) and len(spectra) in (1, 2) and all(map(is_spectrum, spectra)):
        # The least of the keys: (a, b) and (b, a) are one object, also where a and b do not know it.
        return Observations(tuple(spectra), object_code(min(object_groups(spectra))))
    found = f"a mapping of {', '.join(item)}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
    raise ValueError(
        f"views are made of Spectrum objects, or pairs of them, found {found}: pass a lazy dataset, "
        "SpectrumDataset(spectra, processor, lazy=True), or ObservationPairs(spectra)"
    )


def _both(spectra: tuple[Spectrum, ...]) -> tuple[Spectrum, Spectrum]:
    return spectra[0], spectra[-1]


# Changes; none of them touches the spectrum that it is given, and a bad pixel stays as it was --------


def broaden(spectrum: Spectrum, width: float, *, gap_factor: float | None = GAP_FACTOR) -> Spectrum:
    """A spectrum at lower resolution: convolved with a Gaussian, pixel by pixel of its own grid.

    Its width adds in quadrature to the line spread function. Every good pixel becomes the weighted mean of the good
    ones around it, without those behind a detector gap. Errors are propagated as those of independent pixels, so that
    they shrink, and each is right for its pixel; that neighbours are correlated from then on is not stated anywhere,
    as in most spectra that a survey has resampled.

    Args:
        spectrum: The spectrum.
        width: Standard deviation in pixels; 0 changes nothing.
        gap_factor: See `find_segments`.
    """
    if not width:
        return spectrum
    reach = int(np.ceil(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    good = spectrum.good
    columns = np.stack([good, np.where(good, spectrum.flux, 0), np.where(good, spectrum.error, 0) ** 2])
    flux, ivar = spectrum.flux.copy(), spectrum.ivar.copy()
    for segment in find_segments(spectrum.wavelength, gap_factor):
        weight, total, variance = (
            np.convolve(values[segment], weights)[reach : reach + segment.stop - segment.start]
            for values, weights in zip(columns, (kernel, kernel, kernel**2), strict=True)
        )
        kept = good[segment]
        flux[segment][kept] = total[kept] / weight[kept]
        ivar[segment][kept] = weight[kept] ** 2 / variance[kept]
    return _change(spectrum, flux=flux, ivar=ivar)


def crop_range(spectrum: Spectrum, share: float, rng: np.random.Generator) -> Spectrum:
    """A contiguous part of a spectrum, at a random place.

    Args:
        spectrum: The spectrum.
        share: Share of the pixels that are cut away; 0 changes nothing.
        rng: Source of randomness.
    """
    if not share:
        return spectrum
    kept = max(round((1 - share) * len(spectrum)), 1)
    start = int(rng.integers(len(spectrum) - kept + 1))
    columns = {name: getattr(spectrum, name)[start : start + kept] for name in ("flux", "wavelength", "ivar", "mask")}
    return _change(spectrum, **columns)


def add_noise(spectrum: Spectrum, amount: float, rng: np.random.Generator) -> Spectrum:
    """A spectrum with more noise, as of a shorter exposure: Gaussian, independent, and known to `ivar`.

    Args:
        spectrum: The spectrum.
        amount: Standard deviation of what is added, in units of each pixel's error; 0 changes nothing.
        rng: Source of randomness.
    """
    if not amount:
        return spectrum
    good = spectrum.good
    noise = rng.normal(0, amount, size=len(spectrum)) * np.where(good, spectrum.error, 0)
    flux = np.where(good, spectrum.flux + noise, spectrum.flux).astype(np.float32)
    return _change(spectrum, flux=flux, ivar=spectrum.ivar / np.float32(1 + amount**2))


def mask_runs(spectrum: Spectrum, ratio: float, rng: np.random.Generator, *, run_length: int = 16) -> Spectrum:
    """A spectrum of which runs of good pixels are masked, see `hidden_runs`.

    Args:
        spectrum: The spectrum.
        ratio: Share of the good pixels; 0 changes nothing.
        rng: Source of randomness.
        run_length: Good pixels per run.
    """
    if not ratio:
        return spectrum
    return _change(spectrum, mask=spectrum.mask | hidden_runs(spectrum.good, ratio, rng, run_length=run_length))


def _change(spectrum: Spectrum, **columns: np.ndarray) -> Spectrum:
    """The spectrum with other columns; its truth, and what was counted of its pixels, no longer fit."""
    return Spectrum.unchecked(**vars(spectrum) | {"truth": None, "dropped": {}} | columns)


__all__ = [
    "DataCollatorForContrastiveSpectra",
    "ObservationPairs",
    "Observations",
    "add_noise",
    "broaden",
    "crop_range",
    "mask_runs",
    "object_code",
]
