"""From spectra to the labels that models take: class numbers, target vectors, and what a model must know of them."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from ..models.heads import NO_CLASS
from ..models.spectrum import Spectrum, check_choice
from .formats.layout import MISSING_NUMBER

FLOAT32_MAX = float(np.finfo(np.float32).max)
_ELEMENTS = [
    "alpha", "al", "ba", "c", "ca", "ce", "co", "cr", "cu", "eu", "k", "la", "li", "mg", "mn", "mo", "n", "na",
    "nd", "ni", "o", "p", "rb", "ru", "s", "sc", "si", "sm", "sr", "ti", "v", "y", "zn", "zr",
]  # fmt: skip

# In astropy's spelling. Ratios of abundances are [X/Fe], relative to the Sun.
TARGET_UNITS: dict[str, str] = {
    "teff": "K",
    "logg": "dex(cm/s2)",
    "feh": "dex",
    "m_h": "dex",
    "alpha_m": "dex",
    "rv": "km/s",
    "redshift": "",
    "log_stellar_mass": "dex(Msun)",
    "age": "Gyr",
    "log_ssfr": "dex(1/yr)",
    "metallicity": "dex",  # log10 over that of the Sun; a mass fraction Z must be converted first
} | {f"{element}_fe": "dex" for element in _ELEMENTS}
BALANCES = {"inverse": 1.0, "inverse-sqrt": 0.5}  # exponent of the number of spectra in the denominator


def class_labels(spectra: Sequence[Spectrum], label2id: Mapping[str, int], *, name: str = "class") -> np.ndarray:
    """The number of each spectrum's class.

    >>> import spectok_hf
    >>> class_labels(spectok_hf.simulate_survey("lamost", 3, kind="QSO"), {"GALAXY": 0, "QSO": 1, "STAR": 2})
    array([1, 1, 1])

    Args:
        spectra: Labelled spectra.
        label2id: Classes to their numbers, as a model's config has them.
        name: The label that holds the class.

    Returns:
        Class numbers, shape (n,), int64. A spectrum without the label (absent, empty, NaN) has -100, which the loss
        ignores; a warning says how many do.

    Raises:
        ValueError: If no spectrum has the label, one is no text, a class is not in `label2id`, or its numbers are not
            those from 0.
    """
    if not label2id or sorted(label2id.values()) != list(range(len(label2id))):
        raise ValueError(
            f"label2id must give each class a number, from 0, found {label2id}: pass what class_fields gives to "
            "from_pretrained, of which id2label alone is not enough"
        )
    classes = _classes(spectra, name)
    counts = Counter(found for found in classes if found is not None)
    if unknown := sorted(set(counts) - set(label2id)):
        raise ValueError(
            f"{name} must be one of {', '.join(label2id)}, found {', '.join(sorted(counts))} "
            f"({sum(counts[other] for other in unknown)} spectra of {', '.join(unknown)}): drop those spectra, or "
            "build label2id from these with class_fields"
        )
    return np.array([NO_CLASS if found is None else label2id[found] for found in classes], dtype=np.int64)


def target_labels(spectra: Sequence[Spectrum], names: Sequence[str]) -> np.ndarray:
    """The targets of each spectrum, in physical units.

    >>> import spectok_hf
    >>> target_labels(spectok_hf.simulate_survey("lamost", 3, kind="STAR"), ["teff", "logg", "feh"]).shape
    (3, 3)

    Args:
        spectra: Labelled spectra.
        names: The labels that are targets, in the order of the columns.

    Returns:
        Targets, shape (n, num_targets), float32; NaN where a spectrum lacks one.

    Raises:
        ValueError: If a target is no number, is infinite or a catalogue's -9999, or is missing in all spectra.
    """
    return _targets(spectra, names).astype(np.float32)


def class_fields(spectra: Sequence[Spectrum], *, name: str = "class", balance: str = "none") -> dict[str, Any]:
    """What a classifier's config must know of its training spectra, for `from_pretrained(..., **class_fields(...))`.

    Args:
        spectra: Labelled training spectra.
        name: The label that holds the class.
        balance: How the loss weights classes: "none"; "inverse", so that all classes count the same; "inverse-sqrt",
            half way between (in the logarithm). The weights are scaled such that their mean over the training spectra
            is 1, which keeps the learning rate meaningful.

    Returns:
        `id2label`, `label2id` (classes in alphabetical order), `class_weights` (one per class, or None) and
        `problem_type`. Spectra without the label do not count; a warning says how many.

    Raises:
        ValueError: If there are less than two classes, a class is no text, or `balance` is unknown.
    """
    check_choice("balance", balance, ("none", *BALANCES))
    counts = Counter(found for found in _classes(spectra, name) if found is not None)
    classes = sorted(counts)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs two classes or more, found only {name}={classes[0]!r} in all spectra")
    return {
        "id2label": dict(enumerate(classes)),
        "label2id": {found: number for number, found in enumerate(classes)},
        "class_weights": class_weights([counts[found] for found in classes], balance),
        "problem_type": "single_label_classification",
    }


def target_fields(
    spectra: Sequence[Spectrum], names: Sequence[str], *, units: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What a regression's config must know of its targets, for `from_pretrained(..., **target_fields(...))`.

    Args:
        spectra: Labelled training spectra.
        names: The labels that are targets, in order.
        units: Units of targets that `TARGET_UNITS` does not know, or that are in other units; "" = none.

    Returns:
        `target_names`, `target_units`, and `target_mean`, `target_std` over the spectra that have the target; no
        `uncertainty_scale`, since that of another training does not hold.

    Raises:
        ValueError: As `target_labels`, or if the unit of a target is unknown, or all its values are the same.
    """
    known = TARGET_UNITS | dict(units or {})
    values = _targets(spectra, names)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"the unit of {', '.join(unknown)} is not known: pass units={{{unknown[0]!r}: ...}}")
    for name, column in zip(names, values.T, strict=True):
        given = column[~np.isnan(column)]
        if given.min() == given.max():
            raise ValueError(
                f"target {name} is {given[0]:g} in all {len(given)} spectra that have it: there is nothing to learn "
                "and no spread to scale by; drop the target, or pass more spectra"
            )
    return {
        "target_names": list(names),
        "target_units": [known[name] for name in names],
        "target_mean": np.nanmean(values, axis=0).tolist(),
        "target_std": np.nanstd(values, axis=0).tolist(),
        "uncertainty_scale": None,
    }


def class_weights(counts: Sequence[int], balance: str) -> list[float] | None:
    """Weight of each class in the loss, of mean 1 over the spectra; None without a balance.

    Args:
        counts: Training spectra of each class, 1 or more.
        balance: See `class_fields`.
    """
    if balance not in BALANCES:
        return None
    weights = np.array(counts, dtype=np.float64) ** -BALANCES[balance]
    return (weights * sum(counts) / np.dot(weights, counts)).tolist()


def _classes(spectra: Sequence[Spectrum], name: str) -> list[str | None]:
    """The class of each spectrum, None where it is missing; those are warned about."""
    _check_spectra(spectra)
    classes = [_class_of(spectrum, name) for spectrum in spectra]
    missing = classes.count(None)
    if missing == len(classes):
        raise ValueError(f"no spectrum has the label {name!r}, found {_label_names(spectra)}: pass name=")
    if missing:
        warnings.warn(
            f"{missing} of {len(classes)} spectra have no label {name!r}: the loss ignores them", stacklevel=3
        )
    return classes


def _class_of(spectrum: Spectrum, name: str) -> str | None:
    value = spectrum.labels.get(name)
    if value is None or value == "" or value != value:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} of {spectrum.name} must be text, found {value!r}: give classes names")
    return str(value)  # numpy's text, too


def _targets(spectra: Sequence[Spectrum], names: Sequence[str]) -> np.ndarray:
    """As `target_labels`, float64: means and spreads of float32 would be rounded."""
    _check_spectra(spectra)
    if isinstance(names, str) or not names or len(set(names)) < len(names):
        raise ValueError(f'names must be a list of different labels, such as ["teff", "logg"], found {names!r}')
    values = np.array([[_number(spectrum, name) for name in names] for spectrum in spectra], dtype=np.float64)
    if empty := [name for name, column in zip(names, values.T, strict=True) if np.isnan(column).all()]:
        raise ValueError(
            f"target {', '.join(empty)} is missing in all {len(spectra)} spectra, which have {_label_names(spectra)}: "
            "drop it, or join a catalogue that has it (join_labels)"
        )
    return values


def _number(spectrum: Spectrum, name: str) -> float:
    value = spectrum.labels.get(name)
    if value is None:
        return np.nan
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise ValueError(f"{name} of {spectrum.name} must be a number, found {value!r}: convert it, or pick another")
    number = float(value)
    if abs(number) > FLOAT32_MAX or number == MISSING_NUMBER:
        raise ValueError(f"{name} of {spectrum.name} must be finite, found {value}: NaN stands for a missing value")
    return number


def _label_names(spectra: Sequence[Spectrum]) -> str:
    """The labels that at least one spectrum has, for messages."""
    have = {name for spectrum in spectra for name, value in spectrum.labels.items() if value == value}
    return f"the labels {', '.join(sorted(have))}" if have else "no labels at all"


def _check_spectra(spectra: Any) -> None:
    if isinstance(spectra, Spectrum) or not len(spectra) or not all(isinstance(one, Spectrum) for one in spectra):
        what = "a single Spectrum" if isinstance(spectra, Spectrum) else f"{len(spectra)} of {type(spectra).__name__}"
        raise ValueError(f"spectra must be a list of Spectrum, at least one, found {what}")


__all__ = ["TARGET_UNITS", "class_fields", "class_labels", "class_weights", "target_fields", "target_labels"]
