"""What a checkpoint saw in training, and whether a spectrum lies outside of it: a wrong answer is worse than none.

A model answers whatever it is given. Its config therefore holds, by survey, what its training spectra were like
(`training_domain`), and every answer is compared with that. Inside is not the same as right.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum
from ..models.wavelength import to_medium
from .lines import label_number
from .surveys import SURVEYS

ASPECTS = ("wavelength", "pixel_width", "resolving_power", "snr", "medium", "frame")
UNKNOWN = "unknown"  # the aspect of a checkpoint that says nothing of its training
MOST_BEYOND = 0.02  # share of good pixels that may lie where training had none
OVERLAP = 0.1  # share of good pixels in a survey's range from which on its other properties are compared
TOLERANCE = 1.3  # factor by which pixels may be wider or narrower, and resolving power and S/N higher or lower
JOIN = 100.0  # median pixels: holes of this size, such as a bad column or a strong sky line, are no end of a range


class OutOfDomainWarning(UserWarning):
    """Spectra lie outside what the checkpoint saw in training."""


@dataclass(frozen=True)
class SurveyDomain:
    """What the training spectra of one survey were like.

    Args:
        spectra: Of how many this was found.
        wavelength: Where they have good pixels: pairs of Å in the checkpoint's medium, ascending.
        pixel_width: Least and largest median width of a pixel, in Å.
        resolving_power: Least and largest; None = not known.
        snr: Least and largest median flux over error per pixel.
        media: Their media before conversion.
        frames: Their frames.
    """

    spectra: int
    wavelength: Sequence[Sequence[float]]
    pixel_width: Sequence[float]
    resolving_power: Sequence[float] | None
    snr: Sequence[float]
    media: Sequence[str]
    frames: Sequence[str]

    def covers(self, wavelength: np.ndarray) -> np.ndarray:
        """Which wavelengths lie in its ranges.

        Args:
            wavelength: Å, in the checkpoint's medium.
        """
        inside = np.zeros(len(wavelength), dtype=bool)
        for low, high in self.wavelength:
            inside |= (wavelength >= low) & (wavelength <= high)
        return inside


class TrainingDomain:
    """What all training spectra of a checkpoint were like, survey by survey.

    Args:
        surveys: By name.
        medium: Medium of the wavelengths, the checkpoint's.
    """

    def __init__(self, surveys: Mapping[str, SurveyDomain], medium: str = "vacuum"):
        self.surveys, self.medium = dict(surveys), medium

    @classmethod
    def of(cls, spectra: Iterable[Spectrum], medium: str = "vacuum") -> "TrainingDomain":
        """The domain of training spectra; some hundred of each survey tell it.

        Args:
            spectra: The spectra; those without a good pixel say nothing.
            medium: Medium of the checkpoint.
        """
        found: dict[str, list[dict[str, Any]]] = {}
        for spectrum in spectra:
            if spectrum.good.any():
                found.setdefault(spectrum.survey or "unnamed", []).append(_describe(spectrum, medium))
        return cls({survey: _join(rows) for survey, rows in sorted(found.items())}, medium)

    @classmethod
    def from_config(cls, config: Any, medium: str = "vacuum") -> "TrainingDomain | None":
        """The domain that a config holds; None where it holds none.

        Args:
            config: Config of a model.
            medium: Medium of the checkpoint.
        """
        surveys = getattr(config, "training_domain", None)
        if not surveys:
            return None
        known = {field.name for field in fields(SurveyDomain)}  # a later version may say more
        parts = {name: {key: entry[key] for key in known & entry.keys()} for name, entry in surveys.items()}
        return cls({name: SurveyDomain(**part) for name, part in parts.items()}, medium)

    def as_json(self) -> dict[str, Any]:
        """As `config.training_domain` has it."""
        return {name: asdict(survey) for name, survey in self.surveys.items()}

    def joined(self, other: "TrainingDomain | None") -> "TrainingDomain":
        """What was seen in two trainings, one after the other.

        Args:
            other: Of the one before; None = not known, and so nothing.

        Raises:
            ValueError: If their wavelengths are of different media.
        """
        if other is None:
            return self
        if other.medium != self.medium:
            raise ValueError(f"two domains must have one medium to be joined, found {self.medium} and {other.medium}")
        names = sorted({*self.surveys, *other.surveys})
        parts = {name: [one.surveys[name] for one in (self, other) if name in one.surveys] for name in names}
        return TrainingDomain({name: _unite(surveys) for name, surveys in parts.items()}, self.medium)

    @property
    def wavelength(self) -> list[tuple[float, float]]:
        """Where training spectra had good pixels, in Å, whatever their survey."""
        return merge_ranges([tuple(pair) for survey in self.surveys.values() for pair in survey.wavelength], 0.0)

    def differences(self, spectrum: Spectrum) -> dict[str, str]:
        """In what respects a spectrum differs from all that was seen, and how; empty where it does not.

        Pixel width, resolving power, S/N, medium and frame are compared with the surveys that share a tenth of its
        good pixels, as the same numbers mean another thing elsewhere. A resolving power is compared where the spectrum
        says it (`labels["resolving_power"]`) or its survey is known.

        Args:
            spectrum: The spectrum.
        """
        if not self.surveys:
            return outside(None, spectrum)
        if not spectrum.good.any():
            return {}
        own = _describe(spectrum, self.medium)
        good = to_medium(spectrum.wavelength, spectrum.medium, self.medium)[spectrum.good]
        covered = {name: survey.covers(good) for name, survey in self.surveys.items()}
        beyond = ~np.any(list(covered.values()), axis=0)
        near = [self.surveys[name] for name, inside in covered.items() if inside.mean() >= OVERLAP]
        return dict(_compare_range(good, beyond, self.wavelength)) | dict(_compare(own, near))


def _compare_range(
    good: np.ndarray, beyond: np.ndarray, ranges: Sequence[tuple[float, float]]
) -> Iterator[tuple[str, str]]:
    if beyond.mean() > MOST_BEYOND:
        text = ", ".join(f"{low:.0f}-{high:.0f}" for low, high in ranges)
        # An axis in nm passes for one in Å from 900 nm on.
        tenfold = np.any([(10 * good >= low) & (10 * good <= high) for low, high in ranges], axis=0)
        hint = ' (in nm? then say wavelength_unit="nm")' if tenfold.mean() > 0.5 else ""
        yield (
            "wavelength",
            f"{beyond.mean():.0%} of its good pixels, {good[beyond][0]:.0f} to {good[beyond][-1]:.0f} Å, lie beyond "
            f"{text} Å{hint}",
        )


def _compare(own: Mapping[str, Any], near: Sequence[SurveyDomain]) -> Iterator[tuple[str, str]]:
    if not near:
        return
    for aspect, what, form in (
        ("pixel_width", "pixels of {} Å", "{:.3g}"),
        ("resolving_power", "resolving power {}", "{:.0f}"),
        ("snr", "S/N {}", "{:.2g}"),
    ):
        seen = [pair for survey in near if (pair := getattr(survey, aspect)) is not None]
        if own[aspect] is None or not seen:
            continue
        values = np.atleast_1d(own[aspect])
        # Not in the hull of all: pixels of 5 Å are new to a model of high-resolution spectra and of Gaia's.
        seen = [_widened(*pair) for pair in seen]
        if not any(values.max() >= low and values.min() <= high for low, high in seen):
            yield aspect, f"{what.format(_range(values, form))}, where training had {_ranges_text(near, aspect, form)}"
    for aspect, plural in (("medium", "media"), ("frame", "frames")):
        seen = sorted({name for survey in near for name in getattr(survey, plural)})
        if own[plural][0] not in seen:
            yield aspect, f"{aspect} {own[plural][0]}, where training had {' and '.join(seen)}"


def _widened(low: float, high: float) -> tuple[float, float]:
    return low - abs(low) * (1 - 1 / TOLERANCE), high + abs(high) * (TOLERANCE - 1)


def _ranges_text(near: Sequence[SurveyDomain], aspect: str, form: str) -> str:
    joined: list[tuple[float, float]] = []
    for low, high in sorted(pair for survey in near if (pair := getattr(survey, aspect)) is not None):
        if joined and _widened(low, high)[0] <= _widened(*joined[-1])[1]:  # nothing between them is new
            low, high = joined[-1][0], max(joined.pop()[1], high)
        joined.append((low, high))
    return " or ".join(_range(pair, form) for pair in joined)


def _range(values: Iterable[float], form: str) -> str:
    return " to ".join(dict.fromkeys(form.format(value) for value in values))


def _describe(spectrum: Spectrum, medium: str) -> dict[str, Any]:
    """The properties of one spectrum that has good pixels."""
    good = spectrum.good
    wavelength = to_medium(spectrum.wavelength, spectrum.medium, medium)
    widths = np.diff(spectrum.wavelength)
    return {
        "wavelength": _ranges(wavelength[good], JOIN * float(np.median(widths)) if len(widths) else 0.0),
        "pixel_width": float(np.median(widths)) if len(widths) else None,
        "resolving_power": _resolving_power(spectrum),
        "snr": median_snr(spectrum),
        "media": [spectrum.medium],
        "frames": [spectrum.frame],
    }


def median_snr(spectrum: Spectrum) -> float | None:
    """Median of flux over error over the good pixels; None where there are none.

    Args:
        spectrum: The spectrum.
    """
    good = spectrum.good
    with np.errstate(over="ignore"):
        signal = spectrum.flux[good].astype(np.float64) * np.sqrt(spectrum.ivar[good], dtype=np.float64)
    return float(np.median(signal)) if len(signal) else None


def _resolving_power(spectrum: Spectrum) -> list[float] | None:
    stated = label_number(spectrum, "resolving_power")
    if stated is not None:
        return [stated] * 2
    facts = SURVEYS.get(spectrum.survey or "")
    if facts is None:
        return None
    values = [float(power) for _, power in facts.resolving_curve] or [float(facts.resolving_power)]
    return [min(values), max(values)]


def _ranges(wavelength: np.ndarray, join: float) -> list[tuple[float, float]]:
    """Runs of good pixels, in Å, over holes of so many Å."""
    ends = np.flatnonzero(np.diff(wavelength) > join)
    starts, stops = [0, *(ends + 1)], [*ends, len(wavelength) - 1]
    return [(float(wavelength[first]), float(wavelength[last])) for first, last in zip(starts, stops, strict=True)]


def merge_ranges(pairs: Iterable[tuple[float, ...]], join: float) -> list[tuple[float, float]]:
    """Ranges that touch, or lie no further apart than `join`, as one; ascending.

    Args:
        pairs: First and last of each.
        join: How far apart, in their unit.
    """
    merged: list[list[float]] = []
    for low, high in sorted(pairs):
        if merged and low <= merged[-1][1] + join:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return [(low, high) for low, high in merged]


def _join(rows: Sequence[Mapping[str, Any]]) -> SurveyDomain:
    widths = [row["pixel_width"] for row in rows if row["pixel_width"] is not None] or [0.0]
    powers = [power for row in rows if row["resolving_power"] for power in row["resolving_power"]]
    snr = [row["snr"] for row in rows]
    ranges = merge_ranges([pair for row in rows for pair in row["wavelength"]], JOIN * float(np.median(widths)))
    return SurveyDomain(
        spectra=len(rows),
        wavelength=[[round(low, 1), round(high, 1)] for low, high in ranges],
        pixel_width=[round(min(widths), 4), round(max(widths), 4)],
        resolving_power=[min(powers), max(powers)] if powers else None,
        snr=[round(min(snr), 2), round(max(snr), 2)],
        media=sorted({name for row in rows for name in row["media"]}),
        frames=sorted({name for row in rows for name in row["frames"]}),
    )


def _unite(parts: Sequence[SurveyDomain]) -> SurveyDomain:
    pairs = {
        name: [value for part in parts for value in getattr(part, name) or ()]
        for name in ("pixel_width", "resolving_power", "snr", "media", "frames")
    }
    ends = {name: [min(values), max(values)] if (values := pairs[name]) else None for name in list(pairs)[:3]}
    return SurveyDomain(
        spectra=sum(part.spectra for part in parts),
        wavelength=[
            list(pair) for pair in merge_ranges([tuple(pair) for part in parts for pair in part.wavelength], 0.0)
        ],
        media=sorted(set(pairs["media"])),
        frames=sorted(set(pairs["frames"])),
        **ends,  # type: ignore[arg-type]
    )


# What is said of many -----------------------------------------------------------------------------


def outside(domain: TrainingDomain | None, spectrum: Spectrum) -> dict[str, str]:
    """`TrainingDomain.differences`; of a checkpoint that does not know its domain, that.

    Args:
        domain: Of the checkpoint; None = it says nothing.
        spectrum: The spectrum.
    """
    if domain is None:
        return {UNKNOWN: "the checkpoint does not say what it was trained on"}
    return domain.differences(spectrum)


def flag(differences: Mapping[str, str]) -> str:
    """The flag of a table: the aspects, "wavelength; snr"; empty = inside.

    Args:
        differences: Of one spectrum.
    """
    return "; ".join(differences)


def warn_outside(
    differences: Sequence[Mapping[str, str]], names: Sequence[Any], checkpoint: str, *, stacklevel: int = 4
) -> None:
    """Warn once of all spectra that lie outside; the first is described.

    Args:
        differences: Of each spectrum.
        names: What to call each spectrum by: a text, or itself.
        checkpoint: Name of the checkpoint.
        stacklevel: Whose line is named, counted from here.
    """
    if text := describe_outside(differences, names, checkpoint):
        warnings.warn(text, OutOfDomainWarning, stacklevel=stacklevel)


def describe_outside(differences: Sequence[Mapping[str, str]], names: Sequence[Any], checkpoint: str) -> str:
    """The text of `warn_outside`; empty where all lie inside.

    Args:
        differences: Of each spectrum.
        names: What to call each spectrum by: a text, or itself.
        checkpoint: Name of the checkpoint.
    """
    found = [(entry, name) for entry, name in zip(differences, names, strict=True) if entry]
    if not found:
        return ""
    entry, name = found[0]
    return (
        f"{len(found)} of {len(differences)} spectra lie outside what {checkpoint} saw in training, and its answers "
        f"may be wrong: {name}: {'; '.join(entry.values())}"
    )


__all__ = [
    "ASPECTS",
    "UNKNOWN",
    "OutOfDomainWarning",
    "SurveyDomain",
    "TrainingDomain",
    "describe_outside",
    "flag",
    "median_snr",
    "merge_ranges",
    "outside",
    "warn_outside",
]
