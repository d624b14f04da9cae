"""Scaled MAD: robust scatter of prediction - reference."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
1.4826 median(|r - c|) of the residuals r = prediction - reference: the standard deviation if they are Gaussian,
whatever a few gross errors may be. By default it is taken about zero (c = 0), so that a bias counts as scatter does;
about the median residual (c = median(r)) it is the scatter alone.
"""

_CITATION = """
Beers, Flynn & Gebhardt 1990, AJ 100, 32, doi:10.1086/115487 (the MAD as a scale; 1.4826 = 1 / 0.6745)
"""

_INPUTS = """
Args:
    predictions: predicted values, shape (n,).
    references: their true values; NaN or None = no label, left out.
    center: "zero" (default) or "median", about which the deviations are taken.

Returns:
    scaled_mad: in the unit of the quantity.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("scaled_mad")
    >>> metric.compute(predictions=[1.0, 2.0, 4.0], references=[0.0, 0.0, 0.0])
    {'scaled_mad': 2.9652, 'count': 3}
    >>> metric.compute(predictions=[1.0, 2.0, 4.0], references=[0.0, 0.0, 0.0], center="median")
    {'scaled_mad': 1.4826, 'count': 3}
"""

GAUSSIAN = 1.4826  # standard deviation over median absolute deviation
CENTERS = ("zero", "median")


class ScaledMad(evaluate.Metric):
    """Scaled MAD: robust scatter of prediction - reference."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in ("predictions", "references")}),
        )

    def _compute(
        self, predictions: list[float], references: list[float], center: str = "zero"
    ) -> dict[str, float | int]:
        if center not in CENTERS:
            raise ValueError(f"center must be one of {', '.join(CENTERS)}, found {center!r}")
        predicted, true = _labelled(predictions, references)
        residual = predicted - true
        deviation = np.abs(residual - (np.median(residual) if center == "median" else 0.0))
        return {"scaled_mad": float(GAUSSIAN * np.median(deviation)), "count": len(residual)}


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


__all__ = ["ScaledMad"]
