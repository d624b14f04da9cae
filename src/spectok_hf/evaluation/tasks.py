"""Tasks, and any method beside any other on them: the same split by object, the same scores, with errors.

A method is fitted on the training part of a split, may choose its settings on the validation part, and predicts the
test part. No object is in two parts. Plain methods to stand beside every model are in `probes`.
"""

import hashlib
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np

from ..data.dataset import object_groups
from ..data.formats.layout import MISSING_NUMBER
from ..models.spectrum import Spectrum, check_choice
from .classification import CLASSES
from .score_tables import format_overview, format_results, write_table
from .scores import (
    OUTLIER_WIDTHS,
    Scorer,
    bias,
    class_scores,
    crps,
    nmad,
    outlier_fraction,
    r_squared,
    scaled_mad,
    scores_with_errors,
    share_within,
    velocity_limits,
)

KINDS = ("classification", "regression", "redshift")
NO_NAME = ("", "None", "nan")


class NotApplicable(ValueError):
    """Raised by a method that cannot do a task, with the reason; it becomes a row without scores."""


@dataclass(eq=False)
class Split:
    """Which spectra of a task a method is fitted on, chosen by and judged on.

    Args:
        train: Indices of the training spectra, shape (n_train,).
        validation: Those that settings may be chosen on.
        test: Those that the scores are of.

    Raises:
        ValueError: If a part is empty, or a spectrum is in two parts or twice in one.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __post_init__(self):
        self.train, self.validation, self.test = map(np.asarray, (self.train, self.validation, self.test))
        for name, part in vars(self).items():
            if part.ndim != 1 or not len(part) or part.dtype.kind not in "iu":
                raise ValueError(f"{name} must be a vector of indices, at least one, found {part.dtype} {part.shape}")
        indices, times = np.unique(np.concatenate([self.train, self.validation, self.test]), return_counts=True)
        if (times > 1).any():
            raise ValueError(f"each spectrum must be in one part, once, found {_some(indices[times > 1])} more often")


@dataclass(eq=False, kw_only=True)
class Task:
    """Spectra, what is to be told from them, and the splits to judge it on.

    Args:
        name: Name of the task in tables.
        kind: "classification", "regression" or "redshift".
        spectra: The spectra.
        labels: Class names, shape (n,); or numbers, shape (n, num_targets), NaN = missing; or redshifts, shape (n,).
        target_names: Names of the numbers. A redshift needs none.
        target_units: Their units, "" = none.
        classes: Names of the classes; empty = those among the labels, sorted.
        splits: One split or more. The scores of several are averaged.
        object_classes: GALAXY, QSO or STAR, shape (n,): what velocity a redshift may be wrong by. None = as for
            galaxies and stars.
        groups: Key of the object of each spectrum; None = `object_groups` of the spectra.

    Raises:
        ValueError: If shapes, names or kinds disagree, a label is none that the kind allows, an object is in two
            parts of a split, or a part has nothing to learn from or to judge.
    """

    name: str
    kind: str
    spectra: Sequence[Spectrum]
    labels: np.ndarray
    target_names: Sequence[str] = ()
    target_units: Sequence[str] = ()
    classes: Sequence[str] = ()
    splits: list[Split]
    object_classes: np.ndarray | None = None
    groups: Sequence[str] | None = None

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        self.labels = _class_names(self) if self.kind == "classification" else np.asarray(self.labels, np.float64)
        _CHECKS[self.kind](self)
        if self.object_classes is not None:
            self.object_classes = np.asarray(self.object_classes, dtype=str)
        self.groups = object_groups(self.spectra) if self.groups is None else list(self.groups)
        for name in ("labels", "object_classes", "groups"):
            found = getattr(self, name)
            if found is not None and len(found) != len(self.spectra):
                raise ValueError(
                    f"task {self.name}: {len(self.spectra)} spectra need as many {name}, found {len(found)}"
                )
        if self.object_classes is not None and (unknown := sorted(set(self.object_classes) - set(CLASSES))):
            raise ValueError(f"object_classes must be among {', '.join(CLASSES)}, found {', '.join(unknown)}")
        _check_splits(self)


@dataclass(eq=False)
class Prediction:
    """What a method says of the test spectra of a split, in their order.

    Args:
        values: Class names, shape (n_test,); or numbers, shape (n_test, num_targets); or redshifts, shape (n_test,).
        uncertainty: Standard deviations, the shape of `values`, if the method states any; of numbers alone.
    """

    values: np.ndarray
    uncertainty: np.ndarray | None = None


Method = Callable[[Task, Split, int], Prediction]  # the number is a seed
# Takes a task, the name of a method, and what that said of the test part of each split.
RecordPredictions = Callable[[Task, str, Sequence[Prediction]], object]


def split_objects(
    spectra: Sequence[Spectrum],
    *,
    seed: int,
    validation_share: float = 0.15,
    test_share: float = 0.2,
    groups: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Split:
    """One split that draws whole objects; which ones depends on their keys and the seed, not on the order of input.

    With `classes` it draws from each class apart: one of three objects or more gives at least one to each part, one
    of two gives one to test, a lone object is for training. An object has the class of most of its spectra.

    Args:
        spectra: The spectra.
        seed: Another seed gives another split.
        validation_share: Share of the objects to choose settings on.
        test_share: Share of the objects to judge on.
        groups: Key of the object of each spectrum; None = `object_groups` of the spectra.
        classes: Class of each spectrum; None = do not look at classes.

    Returns:
        Indices of the spectra of each part, ascending.

    Raises:
        ValueError: If shares make no sense, lengths disagree, or there are too few objects for three parts.
    """
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise ValueError(
            f"validation_share and test_share must be positive and leave some, found {validation_share}, {test_share}"
        )
    keys = object_groups(spectra) if groups is None else [str(key) for key in groups]
    labels = [""] * len(keys) if classes is None else [str(label) for label in classes]
    if not len(keys) == len(labels) == len(spectra):
        raise ValueError(f"{len(spectra)} spectra need as many groups and classes, found {len(keys)}, {len(labels)}")
    part_of: dict[str, str] = {}
    for objects in _strata(keys, labels).values():
        part_of |= _draw(sorted(objects, key=lambda key: _digest(key, seed)), validation_share, test_share)
    parts = {name: np.flatnonzero([part_of[key] == name for key in keys]) for name in ("train", "validation", "test")}
    if not all(map(len, parts.values())):
        raise ValueError(f"a split needs 3 objects at least (of one class), found {len(part_of)}: pass more spectra")
    return Split(**parts)


def evaluate_tasks(
    tasks: Sequence[Task],
    methods: Mapping[str, Method],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    progress: bool = True,
    record: RecordPredictions | None = None,
) -> list[dict[str, object]]:
    """Scores of each method on each task, with errors.

    A score of several splits is the mean of those of their test parts. Its error (`<score>_error`) is the standard
    deviation over bootstrap samples of the test objects, the same samples for all methods: each draws, with
    replacement, from the objects that are tested in any split, with all spectra of an object and in all splits alike,
    so that an object that several splits test does not count as several. The error tells how much other test objects
    would change the score. It does not tell what another training set would: `<score>_spread`, the standard deviation
    over the splits, holds something of both. Samples in which a score is not defined (a class is missing) are left
    out of its error.

    Args:
        tasks: The tasks; their names must differ.
        methods: Methods by their name in the tables. An exception of one passes through; only `NotApplicable` becomes
            a row of its own, with its reason.
        bootstrap: Number of bootstrap samples.
        seed: Seed of the bootstrap, and of the methods: the first split is fitted with it, the next with the next.
        progress: Whether to show a progress bar.
        record: Called with each task, the name of each method that could do it, and its predictions, one per split:
            for what rows do not hold, such as `snr_bins.scores_by_snr`, without fitting anything again.

    Returns:
        One row per task, target and method: task, kind, target, unit, method, n_train and n_test (spectra with a
        known label, mean over the splits), test_objects (of all splits together), splits, seconds (of one fit and
        prediction, mean over the splits), reason ("" or why there are no scores), and the scores of the kind:

        * classification: `accuracy`, `macro_f1` and `accuracy of <class>`, its recall, of each class;
        * regression: `r_squared`, `scaled_mad`, `crps`, `bias` and `own_outliers`;
        * redshift: `nmad`, `outlier_fraction`, `velocity_success`, `crps`, `bias` and `r_squared`;
        * of numbers with an uncertainty: `pull`, the scaled MAD of residual over uncertainty, 1 if that is honest.

    Raises:
        ValueError: If there is no task or method, names repeat, bootstrap is below 2, or a prediction has the wrong
            shape, an unknown class or a number that is not finite.
    """
    names = [task.name for task in tasks]
    if not names or not methods or len(set(names)) < len(names):
        raise ValueError(f"evaluate_tasks needs methods, and tasks of different names, found {list(methods)}, {names}")
    _check_bootstrap(bootstrap)
    runs = [(task, name) for task in tasks for name in methods]
    rows: list[dict[str, object]] = []
    for task, name in _with_progress(runs, progress):
        rows += _evaluate(task, name, methods[name], bootstrap, seed, record)
    return rows


def score_predictions(
    task: Task,
    name: str,
    predictions: Sequence[Prediction],
    *,
    chosen: np.ndarray | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[dict[str, object]]:
    """The rows of `evaluate_tasks` of one method on one task, from what it has said.

    Args:
        task: The task.
        name: Name of the method.
        predictions: What it says of the test part of each split of the task; none = there are no scores.
        chosen: True where a spectrum of the task counts, if it is tested, shape (n,); None = all count. A split that
            tests none of these does not count.
        bootstrap: As for `evaluate_tasks`.
        seed: Seed of the bootstrap.

    Returns:
        One row per target, with `seconds` NaN and `reason` empty. Without a tested spectrum there are no scores.

    Raises:
        ValueError: If there is not one prediction per split, or `bootstrap` is below 2.
    """
    _check_bootstrap(bootstrap)
    if predictions and len(predictions) != len(task.splits):
        raise ValueError(f"task {task.name} has {len(task.splits)} splits, found {len(predictions)} predictions")
    targets = [("class", "")]
    if task.kind != "classification":
        targets = list(zip(task.target_names, task.target_units, strict=True))
    counted = np.ones(len(task.spectra), dtype=bool) if chosen is None else np.asarray(chosen, dtype=bool)
    rows = []
    for number, (target, unit) in enumerate(targets):
        known = _known(task, number)
        row: dict[str, object] = {"task": task.name, "kind": task.kind, "target": target, "unit": unit, "method": name}
        row |= _counts(task, known, counted) | {"seconds": float("nan"), "reason": ""}
        if predictions and row["test_objects"]:
            row |= _scores(task, number, known & counted, predictions, bootstrap, seed)
        rows.append(row)
    return rows


def _number_scores(truth: np.ndarray, predicted: np.ndarray, *uncertainty: np.ndarray) -> dict[str, float]:
    width = scaled_mad(truth, predicted)
    scores = {
        "r_squared": r_squared(truth, predicted),
        "scaled_mad": width,
        "crps": crps(truth, predicted, *uncertainty),
        "bias": bias(truth, predicted),
        "own_outliers": float(np.mean(np.abs(predicted - truth) > OUTLIER_WIDTHS * width)),
    }
    return scores | _pull(truth, predicted, *uncertainty)


def _redshift_scores(
    truth: np.ndarray, predicted: np.ndarray, limits: np.ndarray, *uncertainty: np.ndarray
) -> dict[str, float]:
    scores = {
        "nmad": nmad(truth, predicted),
        "outlier_fraction": outlier_fraction(truth, predicted),
        "velocity_success": share_within(truth, predicted, limits),
        "crps": crps(truth, predicted, *uncertainty),
        "bias": bias(truth, predicted),
        "r_squared": r_squared(truth, predicted),
    }
    return scores | _pull(truth, predicted, *uncertainty)


def _pull(truth: np.ndarray, predicted: np.ndarray, *uncertainty: np.ndarray) -> dict[str, float]:
    """The score of an uncertainty, where there is one."""
    return {"pull": scaled_mad(truth / uncertainty[0], predicted / uncertainty[0])} if uncertainty else {}


def _class_names(task: Task) -> np.ndarray:
    values = np.asarray(task.labels, dtype=object)
    # As text, which an array may have made of them already, None and NaN would be classes of their own.
    if missing := sum(str(value) in NO_NAME for value in values.flat):
        raise ValueError(
            f"task {task.name}: each spectrum needs the name of its class, found {missing} of {values.size} without: "
            "drop the spectra without one"
        )
    return values.astype(str)


def _check_classes(task: Task) -> None:
    if task.labels.ndim != 1:
        raise ValueError(f"task {task.name}: labels must be class names, shape (n,), found shape {task.labels.shape}")
    task.classes = tuple(task.classes) or tuple(sorted(set(task.labels.tolist())))
    if unknown := sorted(set(task.labels.tolist()) - set(task.classes)):
        raise ValueError(f"task {task.name}: labels must be among {', '.join(task.classes)}, found {_some(unknown)}")


def _check_numbers(task: Task) -> None:
    count = len(task.target_names)
    if task.labels.ndim != 2 or not task.labels.shape[1] == count == len(task.target_units):
        raise ValueError(
            f"task {task.name}: labels must have shape (n, targets) with a name and a unit for each, found shape "
            f"{task.labels.shape}, {count} target_names, {len(task.target_units)} target_units"
        )
    if (np.isinf(task.labels) | (task.labels == MISSING_NUMBER)).any():
        raise ValueError(
            f"task {task.name}: labels must be finite, or NaN where missing, found infinite ones or {MISSING_NUMBER:g}"
        )


def _check_redshifts(task: Task) -> None:
    if task.labels.ndim != 1 or not (np.isfinite(task.labels) & (task.labels > -1)).all():
        raise ValueError(
            f"task {task.name}: labels must be finite and above -1, shape (n,), found shape {task.labels.shape}: "
            "drop the spectra without one"
        )
    task.target_names, task.target_units = tuple(task.target_names) or ("redshift",), tuple(task.target_units) or ("",)


_CHECKS = {"classification": _check_classes, "regression": _check_numbers, "redshift": _check_redshifts}


def _check_splits(task: Task) -> None:
    if not task.splits:
        raise ValueError(f"task {task.name} needs a split at least: use split_objects(spectra, seed=...)")
    keys = np.asarray(task.groups)
    for number, split in enumerate(task.splits):
        parts = vars(split)
        ends = [(int(part.min()), int(part.max())) for part in parts.values()]
        if min(ends)[0] < 0 or max(last for _, last in ends) >= len(keys):
            raise ValueError(f"task {task.name}: indices of split {number} must be below {len(keys)}, found {ends}")
        times = Counter(key for part in parts.values() for key in set(keys[part].tolist()))
        if shared := [key for key, count in times.items() if count > 1]:
            raise ValueError(
                f"task {task.name}: no object may be in two parts of split {number}, found {_some(shared)}: "
                "use split_objects"
            )
        for name, part in parts.items():
            _check_part(task, f"the {name} part of split {number}", task.labels[part], 2 if name == "train" else 1)


def _check_part(task: Task, where: str, labels: np.ndarray, least: int) -> None:
    if task.kind == "classification":
        if len(set(labels.tolist())) < least:
            raise ValueError(f"task {task.name}: {where} needs {least} classes, found {labels[0]} alone")
        return
    known = np.isfinite(labels.reshape(len(labels), -1)).sum(0)
    for name, count in zip(task.target_names, known, strict=True):
        if count < least:
            raise ValueError(
                f"task {task.name}: {where} needs {least} known {name}, found {count}: draw another split"
            )


def _some(values: Iterable[object], count: int = 3) -> str:
    texts = [str(value) for value in values]
    return ", ".join(texts[:count]) + (f" and {len(texts) - count} more" if len(texts) > count else "")


def _strata(keys: Sequence[str], labels: Sequence[str]) -> dict[str, list[str]]:
    """Objects of each class; one with spectra of several has that of most, and among equals the first by name."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for key, label in zip(keys, labels, strict=True):
        votes[key][label] += 1
    strata: dict[str, list[str]] = defaultdict(list)
    for key, counts in votes.items():
        strata[min(counts, key=lambda label: (-counts[label], label))].append(key)
    return strata


def _draw(objects: list[str], validation_share: float, test_share: float) -> dict[str, str]:
    """The part of each object: first test, then validation, and training is never without."""
    count = len(objects)
    test = min(max(round(test_share * count), 1), max(count - 2, 1)) if count > 1 else 0
    validation = min(max(round(validation_share * count), 1), count - test - 1) if count > 2 else 0
    parts = ["test"] * test + ["validation"] * validation + ["train"] * (count - test - validation)
    return dict(zip(objects, parts, strict=True))


def _digest(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()


def _with_progress(runs: list, progress: bool) -> Iterable:
    from tqdm.auto import tqdm

    return tqdm(runs, desc="evaluating", unit="fit", disable=not progress)


def _evaluate(
    task: Task, name: str, method: Method, bootstrap: int, seed: int, record: RecordPredictions | None
) -> list[dict[str, object]]:
    """The rows of one method on one task, one per target."""
    start, predictions, reason = perf_counter(), [], ""
    try:
        for number, split in enumerate(task.splits):
            predictions.append(_checked(task, split, name, method(task, split, seed + number)))
    except NotApplicable as error:
        predictions, reason = [], str(error)
    seconds = (perf_counter() - start) / len(task.splits) if predictions else float("nan")
    if predictions and record is not None:
        record(task, name, predictions)
    rows = score_predictions(task, name, predictions, bootstrap=bootstrap, seed=seed)
    return [row | {"seconds": seconds, "reason": reason} for row in rows]


def _check_bootstrap(count: int) -> None:
    if count < 2:
        raise ValueError(f"bootstrap must be at least 2, found {count}")


def _checked(task: Task, split: Split, name: str, prediction: Prediction) -> Prediction:
    values = np.asarray(prediction.values)
    where = f"the prediction of {name} for {task.name}"
    expected = task.labels[split.test].shape
    if values.shape != expected:
        raise ValueError(f"{where} must have shape {expected}, found {values.shape}")
    if task.kind == "classification":
        if unknown := sorted(set(values.tolist()) - set(task.classes)):
            raise ValueError(f"{where} must be among {', '.join(task.classes)}, found {_some(unknown)}")
        return Prediction(values)
    if not np.isfinite(values).all():
        raise ValueError(f"{where} must be finite, found {int((~np.isfinite(values)).sum())} numbers that are not")
    if prediction.uncertainty is None:
        return Prediction(values)
    uncertainty = np.asarray(prediction.uncertainty)
    if uncertainty.shape != expected or not (np.isfinite(uncertainty) & (uncertainty > 0)).all():
        raise ValueError(f"the uncertainty of {where} must be finite, positive, and of shape {expected}")
    return Prediction(values, uncertainty)


def _counts(task: Task, known: np.ndarray, counted: np.ndarray) -> dict[str, object]:
    kept = {"train": known, "test": known & counted}
    parts = {name: [part[kept[name][part]] for part in _parts(task, name)] for name in kept}
    counts: dict[str, object] = {f"n_{name}": round(np.mean([len(p) for p in part])) for name, part in parts.items()}
    tested = np.unique(np.concatenate(parts["test"]))
    return counts | {"test_objects": len(set(np.asarray(task.groups)[tested].tolist())), "splits": len(task.splits)}


def _parts(task: Task, name: str) -> list[np.ndarray]:
    return [getattr(split, name) for split in task.splits]


def _known(task: Task, target: int) -> np.ndarray:
    """Spectra whose label of a target is known, shape (n,)."""
    if task.kind == "classification":
        return np.ones(len(task.labels), dtype=bool)
    return np.isfinite(task.labels.reshape(len(task.labels), -1)[:, target])


def _scores(
    task: Task, target: int, counted: np.ndarray, predictions: Sequence[Prediction], bootstrap: int, seed: int
) -> dict[str, float]:
    """Scores of the tested spectra that count, (n,), with their errors."""
    scorer = _SCORERS[task.kind]
    if task.kind == "classification":
        scorer = partial(scorer, classes=task.classes)
    objects = np.unique(np.asarray(task.groups), return_inverse=True)[1]
    samples = []
    for split, prediction in zip(task.splits, predictions, strict=True):
        kept = counted[split.test]
        columns = [column[kept] for column in _columns(task, target, split, prediction)]
        if kept.any():
            samples.append((objects[split.test][kept], *columns))
    # The name alone seeds it: all methods get the same samples.
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode())])
    return scores_with_errors(samples, scorer, bootstrap, rng)


_SCORERS: dict[str, Scorer] = {
    "classification": class_scores,
    "regression": _number_scores,
    "redshift": _redshift_scores,
}


def _columns(task: Task, target: int, split: Split, prediction: Prediction) -> list[np.ndarray]:
    """What the scorer of the kind takes, each (n_test,)."""
    truth, values, count = task.labels[split.test], np.asarray(prediction.values), len(split.test)
    if task.kind == "classification":
        code = {name: number for number, name in enumerate(task.classes)}
        return [np.array([code[name] for name in names.tolist()]) for names in (truth, values)]
    columns = [array.reshape(count, -1)[:, target].astype(np.float64) for array in (truth, values)]
    if task.kind == "redshift":
        classes = None if task.object_classes is None else task.object_classes[split.test]
        columns.append(velocity_limits(count, classes))
    if prediction.uncertainty is not None:
        columns.append(prediction.uncertainty.reshape(count, -1)[:, target].astype(np.float64))
    return columns


__all__ = [
    "Method",
    "NotApplicable",
    "Prediction",
    "RecordPredictions",
    "Split",
    "Task",
    "evaluate_tasks",
    "format_overview",
    "format_results",
    "score_predictions",
    "split_objects",
    "write_table",
]
