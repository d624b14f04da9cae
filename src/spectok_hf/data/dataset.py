"""Spectra in memory as a training set: split by object, mixed by weight."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum

MATCH_RADIUS = 2.0 / 3600  # degrees; positions of repeat observations agree far better, neighbours are further apart


class SpectrumDataset(Dataset):
    """Spectra, patched once, for a map-style loader; `spectra` holds the originals.

    Args:
        spectra: The spectra; those without a valid patch are refused.
        processor: The processor of the model.

    Raises:
        ValueError: If a spectrum has no valid patch.
    """

    def __init__(self, spectra: Sequence[Spectrum], processor: SpectrumProcessor):
        self.spectra = list(spectra)
        self.features = [processor.patch(spectrum) for spectrum in self.spectra]
        for spectrum, features in zip(self.spectra, self.features, strict=True):
            if not features["attention_mask"].any():
                raise ValueError(f"{spectrum!r} has no valid patch: drop it before training")

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.features[index]


def object_groups(spectra: Sequence[Spectrum]) -> list[str]:
    """One key per spectrum; spectra of one object share it.

    Objects are matched by survey-independent position (labels `ra`, `dec`, within 2 arcsec), else by `object_id`; a
    spectrum with neither is an object of its own.

    Args:
        spectra: The spectra.
    """
    cells: dict[tuple[int, int], list[tuple[float, float, str]]] = defaultdict(list)
    return [_object_key(spectrum, position, cells) for position, spectrum in enumerate(spectra)]


def split_by_object(
    spectra: Sequence[Spectrum], eval_share: float, *, seed: int = 0
) -> tuple[list[Spectrum], list[Spectrum]]:
    """Training and evaluation spectra that share no object.

    Each survey gives `eval_share` of its objects, at least one where it has two or more. Which ones depends on their
    keys and the seed, not on the order of the input.

    Args:
        spectra: The spectra.
        eval_share: Share of the objects to evaluate on, between 0 and 1.
        seed: Another seed gives another split.

    Returns:
        Training spectra and evaluation spectra.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """
    if not 0 < eval_share < 1:
        raise ValueError(f"eval_share must lie between 0 and 1, found {eval_share}")
    keys = object_groups(spectra)
    surveys = dict(zip(keys, (spectrum.survey for spectrum in spectra), strict=True))  # an object counts once
    held_out: set[str] = set()
    for survey in set(surveys.values()):
        objects = sorted((key for key in surveys if surveys[key] == survey), key=lambda key: _digest(key, seed))
        if len(objects) > 1:
            held_out.update(objects[: max(round(eval_share * len(objects)), 1)])
    train = [spectrum for spectrum, key in zip(spectra, keys, strict=True) if key not in held_out]
    evaluation = [spectrum for spectrum, key in zip(spectra, keys, strict=True) if key in held_out]
    return train, evaluation


def mix(sizes: Sequence[int], weights: Sequence[float], *, seed: int = 0) -> list[int]:
    """One epoch of a weighted mixture of sources, as long as the sources together.

    A source that is due more than it has is repeated, one that is due less is sampled.

    Args:
        sizes: Number of spectra of each source.
        weights: Share of each source in the epoch, relative to each other.
        seed: Seed of the sampling.

    Returns:
        Indices into the sources laid end to end.

    Raises:
        ValueError: If weights and sources do not match, or a size or weight is not positive.
    """
    if len(sizes) != len(weights) or min([*sizes, *weights], default=0) <= 0:
        raise ValueError(
            f"every source needs spectra and one positive weight, found sizes {list(sizes)}, weights {list(weights)}"
        )
    rng = np.random.default_rng(seed)
    indices: list[int] = []
    for first, size, weight in zip(np.cumsum([0, *sizes[:-1]]), sizes, weights, strict=True):
        count = round(sum(sizes) * weight / sum(weights))
        rounds = [rng.permutation(size) for _ in range(-(-count // size))]
        indices += (first + np.concatenate([*rounds, np.array([], dtype=int)])[:count]).tolist()
    return indices


def _object_key(spectrum: Spectrum, position: int, cells: dict) -> str:
    ra, dec = spectrum.labels.get("ra"), spectrum.labels.get("dec")
    if ra is None or dec is None or not np.isfinite([ra, dec]).all():
        return f"id {spectrum.survey} {spectrum.object_id or f'unnamed {position}'}"
    stretch = max(np.cos(np.radians(dec)), 1e-3)
    column, row = int(ra * stretch / MATCH_RADIUS), int(dec / MATCH_RADIUS)
    for neighbour in ((column + i, row + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
        for other_ra, other_dec, key in cells.get(neighbour, ()):
            if np.hypot((ra - other_ra) * stretch, dec - other_dec) < MATCH_RADIUS:
                return key
    key = f"position {ra:.4f} {dec:.4f}"
    cells[column, row].append((ra, dec, key))
    return key


def _digest(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


__all__ = ["SpectrumDataset", "mix", "object_groups", "split_by_object"]
