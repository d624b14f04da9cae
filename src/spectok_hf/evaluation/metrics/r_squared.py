"""R²: share of the variance that is explained."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Coefficient of determination, 1 - sum((prediction - reference)^2) / sum((reference - mean)^2), by scikit-learn. 1 is
perfect, 0 is as good as the mean of the references, and there is no lower bound.
"""

_CITATION = """
Pedregosa et al. 2011, JMLR 12, 2825 (scikit-learn, sklearn.metrics.r2_score)
"""

_INPUTS = """
Args:
    predictions: predicted values, shape (n,).
    references: their true values, two different ones at least; NaN or None = no label, left out.

Returns:
    r_squared: at most 1.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("r_squared")
    >>> metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])
    {'r_squared': 0.5, 'count': 3}
"""


class RSquared(evaluate.Metric):
    """R²: share of the variance that is explained."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float | int]:
        try:
            from sklearn.metrics import r2_score
        except ImportError as error:
            raise ImportError('r_squared needs scikit-learn: pip install "spectok-hf[train]".') from error
        predicted, true = _labelled(predictions, references)
        if np.ptp(true) == 0:
            raise ValueError(
                f"references must differ from each other, found only the value {true[0]:g} in {len(true)} of them: "
                "there is no variance to explain"
            )
        return {"r_squared": float(r2_score(true, predicted)), "count": len(true)}


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


__all__ = ["RSquared"]
