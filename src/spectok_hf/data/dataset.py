"""Spectra as a training set, split by object."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..models.heads import NO_CLASS
from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum
from .formats.layout import MISSING_NUMBER
from .mixtures import Visit

MATCH_RADIUS = np.radians(2.0 / 3600)  # repeat observations agree far better, neighbours are further apart


class SpectrumDataset(Dataset):
    """Spectra as model inputs, for a map-style loader; `spectra` holds the originals, `features` what they became.

    Args:
        spectra: The spectra, in memory or `SpectrumShards`.
        processor: The processor of the model.
        lazy: Whether the collator patches the spectra of each batch, in the loader's workers, instead of all of them
            being patched here and once: for what does not fit into memory. One without a valid patch is then left to
            the processor's `on_invalid`, and `dataset[i]` is a `Spectrum`.
        labels: What a task head learns, one entry per spectrum: what `spectok_hf.data.labels` makes, or redshifts.
            NaN, and of class numbers -100, stand for missing ones.

    Raises:
        ValueError: If a spectrum has no valid patch, labels are not one per spectrum or no numbers, come with `lazy`,
            are all missing, infinite, or a catalogue's -9999.
    """

    def __init__(
        self,
        spectra: Sequence[Spectrum],
        processor: SpectrumProcessor,
        *,
        lazy: bool = False,
        labels: Sequence[Any] | np.ndarray | None = None,
    ):
        self.spectra = spectra if lazy else list(spectra)
        patched = _PatchedSpectra(self.spectra, processor)
        self.features: Sequence[dict[str, np.ndarray]] = patched if lazy else list(patched)
        if labels is not None:
            values = _check_labels(labels, len(self.spectra), lazy)
            self.features = [feature | {"labels": label} for feature, label in zip(self.features, values, strict=True)]
        self._items: Sequence[Any] = self.spectra if lazy else self.features

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int | Visit) -> Any:
        if isinstance(index, Visit):
            return Visit(self._items[index.what], index.number)
        return self._items[index]


def _check_labels(labels: Any, count: int, lazy: bool) -> np.ndarray:
    values = np.asarray(labels)
    if lazy:
        raise ValueError("labels need features in memory, found lazy=True: pass lazy=False")
    if values.shape[:1] != (count,) or values.dtype.kind not in "iuf":
        raise ValueError(
            f"labels must be numbers, one entry for each of {count} spectra, found {values.dtype} of shape "
            f"{values.shape}: make them with spectok_hf.data.labels.class_labels or target_labels"
        )
    values = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
    known = values[~np.isnan(values) if values.dtype.kind == "f" else values != NO_CLASS]
    # The Trainer would log a loss of 0 in either case, and go on with weights that are NaN, or stay as they were.
    if not len(known):
        raise ValueError(f"labels must not all be missing, found none for {count} spectra: there is nothing to learn")
    if wrong := int((~np.isfinite(known) | (known == MISSING_NUMBER)).sum()):
        raise ValueError(
            f"labels must be finite, or NaN where they are missing, found {wrong} that are infinite or "
            f"{MISSING_NUMBER:g}, which stands for a missing value in catalogues: put NaN there"
        )
    return values


class _PatchedSpectra(Sequence):
    def __init__(self, spectra: Sequence[Spectrum], processor: SpectrumProcessor):
        self.spectra, self.processor = spectra, processor

    def __len__(self) -> int:
        return len(self.spectra)

    def __getitem__(self, index: Any) -> Any:
        spectrum = self.spectra[index]
        features = self.processor.patch(spectrum)
        if not features["attention_mask"].any():
            raise ValueError(f"{spectrum!r} has {self.processor.nothing}: drop it before training")
        return features


def object_groups(spectra: Sequence[Spectrum]) -> list[str]:
    """One key per spectrum; spectra of one object share it. Keys do not depend on the order of the input.

    Objects are matched by survey-independent position (labels `ra`, `dec`, in degrees, within 2 arcsec of any other
    observation of the object); one without a position by `object_id`, to those of its survey with and without a
    position; a spectrum with neither is an object of its own, together with its exact copies.

    Args:
        spectra: The spectra.
    """
    keys = [_own_key(spectrum) for spectrum in spectra]
    positions = {index: position for index, spectrum in enumerate(spectra) if (position := _position(spectrum))}
    groups = defaultdict(list)
    for index, group in zip(positions, _friends(list(positions.values())), strict=True):
        groups[group].append(index)
    named: dict[str, str] = {}
    for members in groups.values():
        key = min(keys[index] for index in members)
        for index in members:
            keys[index] = key
            name = _name_key(spectra[index])
            named[name] = min(named.get(name, key), key)
    return [key if index in positions else named.get(key, key) for index, key in enumerate(keys)]


def survey_name(spectrum: Spectrum) -> str:
    """The survey of a spectrum, "unnamed" where it is not known; a simulated one (it has a truth) says so.

    Args:
        spectrum: The spectrum.
    """
    return group_name(spectrum.survey, spectrum.truth is not None)


def group_name(survey: str | None, simulated: bool) -> str:
    """As `survey_name`, where only a survey and whether there is a truth are known.

    Args:
        survey: The survey, None where it is not known.
        simulated: Whether the spectra are simulated.
    """
    return (survey or "unnamed") + ("-simulated" if simulated else "")


def by_survey(spectra: Sequence[Spectrum]) -> dict[str, list[Spectrum]]:
    """Spectra by the name of their survey, in the order in which surveys first occur.

    Args:
        spectra: The spectra.
    """
    groups: dict[str, list[Spectrum]] = {}
    for spectrum in spectra:
        groups.setdefault(survey_name(spectrum), []).append(spectrum)
    return groups


def split_by_object(
    spectra: Sequence[Spectrum], eval_share: float, *, seed: int = 0
) -> tuple[list[Spectrum], list[Spectrum]]:
    """Training and evaluation spectra that share no object.

    Args:
        spectra: The spectra.
        eval_share: Share of the objects to evaluate on, between 0 and 1.
        seed: Another seed gives another split.

    Returns:
        Training spectra and evaluation spectra: those that `held_out` chooses.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """
    chosen = held_out(spectra, eval_share, seed=seed)
    train = [spectrum for spectrum, out in zip(spectra, chosen, strict=True) if not out]
    return train, [spectrum for spectrum, out in zip(spectra, chosen, strict=True) if out]


def held_out(spectra: Sequence[Any], eval_share: float, *, seed: int = 0) -> np.ndarray:
    """Which spectra to evaluate on, shape (number of spectra,), so that no object is on both sides.

    Each survey gives `eval_share` of its objects, at least one where it has two or more; an object of several surveys
    counts in each. Which ones depends on their keys and the seed, not on the order of the input.

    Args:
        spectra: The spectra, or what else has their survey, object_id, labels (ra, dec) and, where there is no
            object_id, flux.
        eval_share: Share of the objects to evaluate on, between 0 and 1.
        seed: Another seed gives another split.

    Raises:
        ValueError: If the share is not between 0 and 1.
    """
    if not 0 < eval_share < 1:
        raise ValueError(f"eval_share must lie between 0 and 1, found {eval_share}")
    keys = object_groups(spectra)
    surveys = defaultdict(set)
    for spectrum, key in zip(spectra, keys, strict=True):
        surveys[spectrum.survey].add(key)
    chosen: set[str] = set()
    for objects in surveys.values():
        if len(objects) > 1:
            drawn = sorted(objects, key=lambda key: key_digest(key, seed))
            chosen.update(drawn[: max(round(eval_share * len(objects)), 1)])
    return np.array([key in chosen for key in keys], dtype=bool)


def key_digest(key: str, seed: int) -> str:
    """Text by which objects are put into an order that nothing but the seed decides.

    Args:
        key: Key of an object.
        seed: Another seed gives another order.
    """
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def _own_key(spectrum: Spectrum) -> str:
    if position := _position(spectrum):
        return "position {:.6f} {:.6f}".format(*position)
    return _name_key(spectrum)


def _name_key(spectrum: Spectrum) -> str:
    name = spectrum.object_id or f"unnamed {hashlib.sha256(spectrum.flux.tobytes()).hexdigest()}"
    return f"id {spectrum.survey} {name}"


def _position(spectrum: Spectrum) -> tuple[float, float] | None:
    ra, dec = spectrum.labels.get("ra"), spectrum.labels.get("dec")
    return None if ra is None or dec is None or not np.isfinite([ra, dec]).all() else (ra % 360, dec)


def _friends(positions: list[tuple[float, float]]) -> list[int]:
    """Friends of friends: one label per position; a chain of positions within the match radius shares it."""
    ra, dec = np.radians(np.asarray(positions, dtype=np.float64).reshape(-1, 2)).T
    # On the unit sphere neither 0 = 360 degrees nor the poles are special.
    points = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    order = np.argsort(points[:, 2])
    pairs = [np.empty((2, 0), dtype=int)]
    for shift in range(1, len(order)):
        first, second = order[:-shift], order[shift:]
        difference = points[second] - points[first]
        if (difference[:, 2] > MATCH_RADIUS).all():
            break
        close = np.linalg.norm(difference, axis=-1) < MATCH_RADIUS
        pairs.append(np.stack([first[close], second[close]]))
    return _smallest_connected(len(order), np.concatenate(pairs, axis=-1))


def _smallest_connected(count: int, pairs: np.ndarray) -> list[int]:
    """For each of `count` nodes the smallest one that `pairs`, shape (2, n), connect it to."""
    labels = np.arange(count)
    while True:
        smallest = labels.copy()
        np.minimum.at(smallest, pairs, labels[pairs[::-1]])
        if (smallest == labels).all():
            return labels.tolist()
        labels = smallest


__all__ = [
    "SpectrumDataset",
    "by_survey",
    "group_name",
    "held_out",
    "key_digest",
    "object_groups",
    "split_by_object",
    "survey_name",
]
