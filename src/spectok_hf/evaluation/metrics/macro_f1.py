"""Macro F1: mean over the classes of the F1 score."""

from collections.abc import Iterable

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Mean over the classes of F1 = 2 TP / (2 TP + FP + FN), by scikit-learn; each class counts alike, however rare. The
classes are those that occur among the references or the predictions, so that one that is only ever predicted has F1 0.
"""

_CITATION = """
Pedregosa et al. 2011, JMLR 12, 2825 (scikit-learn, sklearn.metrics.f1_score)
"""

_INPUTS = """
Args:
    predictions: predicted class of each object, names or whole numbers.
    references: true classes, of the same kind. None, NaN, "" and, of numbers, -100 = no label, left out.

Returns:
    macro_f1: between 0 and 1.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("macro_f1")
    >>> metric.compute(predictions=[0, 0, 1, 1], references=[0, 0, 0, 1])
    {'macro_f1': 0.7333333333333334, 'count': 4}
"""

NO_NAME = ("", "nan")  # NaN among the strings of a NumPy array is "nan"
NO_NUMBER = -100  # what the losses of torch and Transformers ignore


class MacroF1(evaluate.Metric):
    """Macro F1: mean over the classes of the F1 score."""

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

    def _compute(self, predictions: list, references: list) -> dict[str, float | int]:
        try:
            from sklearn.metrics import f1_score
        except ImportError as error:
            raise ImportError('macro_f1 needs scikit-learn: pip install "spectok-hf[train]".') from error
        predicted, true = _known(predictions, references)
        return {"macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0)), "count": len(true)}


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


__all__ = ["MacroF1"]
