"""What only the publisher of a checkpoint knows, for its model card: in dataclasses, and in a YAML file beside it."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from huggingface_hub.dataclasses import type_validator

from ..data.surveys import SURVEYS

FACTS_FILE = "facts.yaml"  # its name beside a checkpoint


@dataclass(frozen=True)
class TrainingSurvey:
    """How much of one survey a model was trained on.

    Args:
        spectra: Number of spectra, simulated ones included.
        simulated: How many of them are simulated.
        window: First and last wavelength in Å, in the survey's medium, where they are only a part of its spectra.
        note: What a reader must know of them besides.

    Raises:
        ValueError: If a field is of the wrong type, or the numbers do not fit each other.
    """

    spectra: int
    simulated: int
    window: list[float | int] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        if not 0 <= self.simulated <= self.spectra or self.spectra < 1:
            raise ValueError(
                f"simulated must lie between 0 and spectra, a positive number, found "
                f"{self.simulated} of {self.spectra}"
            )
        if self.window is not None and (len(self.window) != 2 or not self.window[0] < self.window[1]):
            raise ValueError(f"window must be two wavelengths in Å, the shorter first, found {self.window}")


@dataclass(frozen=True)
class Result:
    """One figure, beside that of a plain method on the same test objects.

    Args:
        task: What was asked ("stellar parameters").
        target: Of what ("teff"), "class", "redshift" or "flux".
        metric: Name of the metric, such as those of `spectok_hf.evaluation.scores.SCORES`.
        value: The figure.
        better_is: Whether a "higher" or a "lower" figure is the better one.
        dataset: Names the test spectra; a Hub id where they are on the Hub.
        split: How training and test objects were kept apart.
        test_objects: Number of test objects.
        unit: Unit of the figure.
        error: Its standard error.
        method: How the model was used, where the card alone does not say it ("frozen head").
        baseline: The plain method.
        baseline_value: Its figure.
        baseline_error: Standard error of that.

    Raises:
        ValueError: If a field is of the wrong type or no number, the data set has no name, or a baseline no figure.
    """

    task: str
    target: str
    metric: str
    value: float | int
    better_is: Literal["higher", "lower"]
    dataset: str
    split: str
    test_objects: int
    unit: str = ""
    error: float | int | None = None
    method: str = ""
    baseline: str = ""
    baseline_value: float | int | None = None
    baseline_error: float | int | None = None

    def __post_init__(self) -> None:
        _check_types(self)
        place = f"result {self.metric} of {self.target} ({self.dataset})"
        numbers = [self.value, self.error or 0, self.baseline_value or 0, self.baseline_error or 0]
        if not all(math.isfinite(number) for number in numbers) or min(numbers[1], numbers[3]) < 0:
            raise ValueError(f"{place}: figures must be finite and errors not negative, found {numbers}")
        if not re.search(r"[^\W_]", self.dataset):
            raise ValueError(f"{place}: dataset must have a letter or a digit: name the test spectra")
        if self.test_objects < 1:
            raise ValueError(f"{place}: test_objects must be at least 1, found {self.test_objects}")
        if bool(self.baseline) != (self.baseline_value is not None):
            raise ValueError(
                f"{place}: baseline and baseline_value belong together, found {self.baseline!r} and "
                f"{self.baseline_value}"
            )

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells it from the other figures of a card."""
        return self.task, self.target, self.metric, self.dataset, self.method

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "equal" than the baseline; "within" the errors of both; "none" without a baseline."""
        if self.baseline_value is None:
            return "none"
        gain = (self.value - self.baseline_value) * (1 if self.better_is == "higher" else -1)
        error = math.hypot(self.error or 0, self.baseline_error or 0)
        if abs(gain) <= error:
            return "within" if error else "equal"
        return "better" if gain > 0 else "worse"


@dataclass(frozen=True)
class CardFacts:
    """What a card says that neither model, nor processor, nor `SURVEYS` know.

    What is optional and not given leaves its sentence out.

    Args:
        license: Of the weights, as the Hub spells it: one of `LICENSES`.
        training: What the model was trained on, by names of `SURVEYS`.
        steps: Training steps.
        batch_size: Spectra per step.
        hardware: What it was trained on.
        results: What was measured; an empty list is said to be one.
        summary: What is special about this model, in a sentence or two.
        notice: Stands first, for what a reader must know before all else.
        training_time: How long the training took.
        training_notes: Further sentences about the training.
        results_notes: Further sentences about the figures.
        calibration: Sentences about how far its uncertainties hold what they promise.
        limits: Further sentences of "What it does not do".
        base_model: Hub id of the model that it was fine-tuned from.
        datasets: Hub ids of the training sets.
        tags: Further tags.
        license_name: Name of a license that the Hub does not know, with `license` "other".
        license_link: Its address, or the name of a file in the repository.
        space: Hub id of a Space that shows the model.
        repository: Address of the code, https://...
        authors: Who made the weights.
        contact: Where to ask.

    Raises:
        ValueError: If a required field is empty, a field is of the wrong type, a number is not positive, a survey is
            not in `SURVEYS`, a figure is given twice, or an address is none.
    """

    license: str
    training: dict[str, TrainingSurvey]
    steps: int
    batch_size: int
    hardware: str
    results: list[Result]
    summary: str = ""
    notice: str = ""
    training_time: str = ""
    training_notes: str = ""
    results_notes: str = ""
    calibration: str = ""
    limits: list[str] = field(default_factory=list)
    base_model: str | None = None
    datasets: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    license_name: str | None = None
    license_link: str | None = None
    space: str | None = None
    repository: str = ""
    authors: list[str] = field(default_factory=list)
    contact: str = ""

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.training or not set(self.training) <= set(SURVEYS):
            raise ValueError(
                f"training must name surveys of SURVEYS ({', '.join(SURVEYS)}), at least one, found "
                f"{', '.join(self.training) or 'none'}: enter a survey of your own into spectok_hf.SURVEYS first"
            )
        if min(self.steps, self.batch_size) < 1:
            raise ValueError(f"steps and batch_size must be positive, found {self.steps} and {self.batch_size}")
        if self.repository and not re.fullmatch(r"https?://[^\s<>|]+", self.repository):
            raise ValueError(f"repository must be an address, https://..., found {self.repository!r}")
        _check_once(self.results)


def _check_once(results: list[Result]) -> None:
    counts = Counter(result.identity for result in results)
    if twice := [", ".join(filter(None, identity)) for identity, count in counts.items() if count > 1]:
        raise ValueError(
            "results must differ in task, target, metric, dataset or method, found more than one of "
            f"{'; '.join(twice)}: keep one, beside its best baseline, or say with method= how they differ"
        )


def _check_types(record: Any) -> None:
    required = {item.name for item in fields(record) if item.default is item.default_factory is MISSING}
    for name, hint in get_type_hints(type(record)).items():
        value = _plain(getattr(record, name))
        object.__setattr__(record, name, value)  # the records are frozen
        try:
            type_validator(name, value, hint)
        except TypeError as error:
            raise ValueError(f"{type(record).__name__}.{name}: {error}") from None
        if isinstance(value, bool) or (name in required and isinstance(value, str) and not value.strip()):
            raise ValueError(f"{type(record).__name__}.{name} must say something, found {value!r}")


def _plain(value: Any) -> Any:
    """Numbers and texts of NumPy as those of Python: YAML would write them in a way that nothing reads."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(name): _plain(item) for name, item in value.items()}
    kinds: dict[type, Callable] = {bool: bool, str: str, Integral: int, Real: float}
    return next((plain(value) for kind, plain in kinds.items() if isinstance(value, kind)), value)


def load_facts(path: str | Path) -> CardFacts:
    """The facts of a card from a YAML file.

    Args:
        path: The file: a mapping with the fields of `CardFacts`.

    Returns:
        The facts.

    Raises:
        ValueError: If it is no YAML, a key is unknown or missing, or a value is not what `CardFacts` asks for.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return _facts(values)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def save_facts(facts: CardFacts, path: str | Path) -> None:
    """Write the facts of a card as YAML; what is left at its default is left out.

    Args:
        facts: The facts.
        path: The file to write.
    """
    values = _without_defaults(facts) | {
        "training": {name: _without_defaults(survey) for name, survey in facts.training.items()},
        "results": [_without_defaults(result) for result in facts.results],
    }
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=119)
    Path(path).write_text(text, encoding="utf-8")


def _facts(values: Any) -> CardFacts:
    """Facts from what a YAML file holds."""
    known = _fields(CardFacts, values, "the file")
    for name, kind in (("training", dict), ("results", list)):
        if not isinstance(known[name], kind):
            raise ValueError(f"{name} must be a {'mapping' if kind is dict else 'list'}, found {known[name]!r}")
    training = {
        name: TrainingSurvey(**_fields(TrainingSurvey, survey, f"training.{name}"))
        for name, survey in known["training"].items()
    }
    results = [
        Result(**_fields(Result, result, f"results, number {number}"))
        for number, result in enumerate(known["results"], 1)
    ]
    return CardFacts(**known | {"training": training, "results": results})


def _fields(cls: type, values: Any, place: str) -> dict[str, Any]:
    """A mapping that has the fields of a dataclass, all that are required and no others."""
    names = {item.name: item.default is item.default_factory is MISSING for item in fields(cls)}
    if not isinstance(values, Mapping):
        raise ValueError(f"{place} must be a mapping of {', '.join(names)}, found {values!r}")
    unknown = sorted(str(name) for name in values if name not in names)
    missing = sorted(name for name, required in names.items() if required and name not in values)
    if unknown or missing:
        complaints = {"does not know": unknown, "lacks": missing}
        text = " and ".join(f"{verb} {', '.join(found)}" for verb, found in complaints.items() if found)
        raise ValueError(f"{place} {text}: see spectok_hf.hub.cards.{cls.__name__}")
    return dict(values)


def _without_defaults(record: Any) -> dict[str, Any]:
    values = asdict(record)
    return {name: value for name, value in values.items() if name == "results" or value not in ("", None, [])}


__all__ = ["FACTS_FILE", "CardFacts", "Result", "TrainingSurvey", "load_facts", "save_facts"]
