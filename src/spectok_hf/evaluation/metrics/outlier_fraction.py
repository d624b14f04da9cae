"""Outlier fraction: share of gross errors."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Share of objects whose |prediction - reference| exceeds a threshold. For redshifts the error is divided by 1 + z of the
reference (relative=True), and the threshold is 0.15 unless another one is given. Every other quantity
(relative=False) needs a threshold in its own unit.
"""

_CITATION = """
Ilbert et al. 2006, A&A 457, 841, doi:10.1051/0004-6361:20065138 (share of catastrophic errors, |dz| > 0.15 (1 + z))
"""

_INPUTS = """
Args:
    predictions: predicted values, shape (n,).
    references: their true values, redshifts above -1; NaN or None = no label, left out.
    threshold: above it lies an outlier; in units of 1 + z, or in that of the quantity. Default: 0.15 if relative.
    relative: True (default) for redshifts, False for every other quantity.

Returns:
    outlier_fraction: between 0 and 1.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("outlier_fraction")
    >>> metric.compute(predictions=[0.1, 1.4, 3.4], references=[0.0, 1.0, 3.0])
    {'outlier_fraction': 0.3333333333333333, 'count': 3}
    >>> metric.compute(predictions=[5010.0, 6300.0], references=[5000.0, 6000.0], threshold=200, relative=False)
    {'outlier_fraction': 0.5, 'count': 2}
"""

REDSHIFT_THRESHOLD = 0.15  # of |dz| / (1 + z)
HINT = "pass relative=False and a threshold for other quantities"


class OutlierFraction(evaluate.Metric):
    """Outlier fraction: share of gross errors."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in ("predictions", "references")}),
        )

    def _compute(
        self,
        predictions: list[float],
        references: list[float],
        threshold: float | None = None,
        relative: bool = True,
    ) -> dict[str, float | int]:
        threshold = REDSHIFT_THRESHOLD if threshold is None and relative else threshold
        if threshold is None or not threshold > 0:
            raise ValueError(
                f"threshold must be positive and in the unit of the quantity if relative=False, found {threshold}: "
                "pass for instance threshold=200 for K"
            )
        predicted, true = _labelled(predictions, references)
        error = np.abs(predicted - true) / (_one_plus(true) if relative else 1)
        return {"outlier_fraction": float(np.mean(error > threshold)), "count": len(error)}


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


def _one_plus(redshift: np.ndarray) -> np.ndarray:
    if not (redshift > -1).all():
        raise ValueError(f"references must be redshifts above -1, found {redshift.min():.4g}: {HINT}")
    return 1 + redshift


__all__ = ["OutlierFraction"]
