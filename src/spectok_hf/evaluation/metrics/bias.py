"""Bias: mean and median of prediction - reference."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Mean and median of prediction - reference, in the unit of the quantity. The median does not feel a few gross errors.
"""

_CITATION = """
Standard; of redshifts for instance in Ilbert et al. 2006, A&A 457, 841, doi:10.1051/0004-6361:20065138
"""

_INPUTS = """
Args:
    predictions: predicted values, shape (n,).
    references: their true values; NaN or None = no label, left out.

Returns:
    mean_bias, median_bias: in the unit of the quantity.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("bias")
    >>> metric.compute(predictions=[5010.0, 6000.0, 4100.0], references=[5000.0, 6000.0, None])
    {'mean_bias': 5.0, 'median_bias': 5.0, 'count': 2}
"""


class Bias(evaluate.Metric):
    """Bias: mean and median of prediction - reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float | int]:
        predicted, true = _labelled(predictions, references)
        residual = predicted - true
        return {
            "mean_bias": float(residual.mean()),
            "median_bias": float(np.median(residual)),
            "count": len(residual),
        }


def _labelled(*columns: list[float]) -> np.ndarray:
    """Columns as rows of an array, without the objects whose reference, the second column, is missing."""
    # The same in every file, as evaluate.load copies a metric's file alone.
    values = np.array(columns, dtype=np.float64)
    values = values[:, ~np.isnan(values[1])]
    if not values.size:
        raise ValueError(
            f"references must hold at least one value that is not NaN, found none among {len(columns[1])}: "
            "leave a target without labels out"
        )
    if bad := int((~np.isfinite(values)).any(0).sum()):
        raise ValueError(
            f"inputs must be finite wherever there is a reference, found {bad} objects of {values.shape[1]} that "
            "are not: leave them out, and say how many"
        )
    return values


__all__ = ["Bias"]
