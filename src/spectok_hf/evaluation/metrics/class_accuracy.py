"""Class accuracy: share of right labels, overall and of each class."""

from collections.abc import Iterable

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Share of objects with the right class, overall and of each true class apart (its recall, or completeness). The overall
one is that of the sample's mix of classes: with 90 % galaxies, saying GALAXY every time gives 0.9.
"""

_CITATION = """
Pedregosa et al. 2011, JMLR 12, 2825 (scikit-learn: accuracy_score, and recall_score of each class)
"""

_INPUTS = """
Args:
    predictions: predicted class of each object, names or whole numbers.
    references: true classes, of the same kind. None, NaN, "" and, of numbers, -100 = no label, left out.

Returns:
    accuracy: share of all objects.
    class_accuracy: share of each class among the references, by its label.
    class_count: number of objects of each.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("class_accuracy")
    >>> result = metric.compute(predictions=["STAR", "QSO", "STAR"], references=["STAR", "STAR", "QSO"])
    >>> result["class_accuracy"], result["class_count"]
    ({'QSO': 0.0, 'STAR': 0.5}, {'QSO': 1, 'STAR': 2})
"""

NO_NAME = ("", "nan")  # NaN among the strings of a NumPy array is "nan"
NO_NUMBER = -100  # what the losses of torch and Transformers ignore


class ClassAccuracy(evaluate.Metric):
    """Class accuracy: share of right labels, overall and of each class."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({name: datasets.Value(kind) for name in ("predictions", "references")})
                for kind in ("string", "float64")  # floats, as integers would cut fractions off in silence
            ],
        )

    def add_batch(self, *, predictions: Iterable, references: Iterable, **others: object) -> None:
        """Add a batch of labels."""
        predictions, references = list(predictions), list(references)
        if not references:
            raise ValueError("references must hold at least one label, found an empty list")
        kinds = {isinstance(label, str) for label in predictions + references if not _is_missing(label)}
        if len(kinds) > 1:
            raise ValueError(
                "predictions and references must be all names or all numbers, found both: map one of them"
            )
        # evaluate tells the type by the first label, and None has none.
        filler = "" if True in kinds else np.nan
        filled = (
            [filler if _is_missing(label) else label for label in labels] for labels in (predictions, references)
        )
        super().add_batch(predictions=next(filled), references=next(filled), **others)

    def _compute(self, predictions: list, references: list) -> dict[str, float | int | dict]:
        predicted, true = _known(predictions, references)
        right = predicted == true
        mine = {label: right[true == label] for label in np.unique(true).tolist()}
        return {
            "accuracy": float(right.mean()),
            "class_accuracy": {label: float(values.mean()) for label, values in mine.items()},
            "class_count": {label: len(values) for label, values in mine.items()},
            "count": len(true),
        }


def _is_missing(label: object) -> bool:
    return label is None or bool(label != label)  # NaN differs from itself


def _known(predictions: list, references: list) -> np.ndarray:
    """Pairs of labels, shape (2, n), without those whose reference is missing; numbers are integers."""
    # The same in every file, as evaluate.load copies a metric's file alone.
    named = isinstance(references[0], str)
    labels = np.array([predictions, references], dtype=str if named else np.float64)
    missing = np.isin(labels, NO_NAME) if named else np.isnan(labels) | (labels == NO_NUMBER)
    if missing[1].all():
        raise ValueError(f"references must hold at least one label, found {len(references)} missing ones")
    labels, missing = labels[:, ~missing[1]], missing[:, ~missing[1]]
    if missing.any():
        raise ValueError(
            f"predictions must hold a label wherever there is a reference, found {int(missing.sum())} missing ones of "
            f"{labels.shape[1]}: a model that may say nothing needs a label for that"
        )
    if named:
        return labels
    if (labels % 1).any():
        raise ValueError("labels must be names or whole numbers, found fractions: pass the argmax of scores")
    return labels.astype(np.int64)


__all__ = ["ClassAccuracy"]
