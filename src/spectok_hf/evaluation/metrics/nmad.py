"""NMAD: robust scatter of redshifts."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Normalised median absolute deviation of redshifts: 1.4826 median(|dz - median(dz)| / (1 + z)), where
dz = prediction - reference and z is the reference. A common bias does not count; see the metric bias.
"""

_CITATION = """
Brammer, van Dokkum & Coppi 2008, ApJ 686, 1503 (EAZY), doi:10.1086/591786
Ilbert et al. 2006, A&A 457, 841, doi:10.1051/0004-6361:20065138 (without the median of dz)
"""

_INPUTS = """
Args:
    predictions: predicted redshifts, shape (n,).
    references: true redshifts, above -1; NaN or None = no label, left out.

Returns:
    nmad: in units of 1 + z.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("nmad")
    >>> result = metric.compute(predictions=[0.1, 1.2, 3.4], references=[0.0, 1.0, 3.0])
    >>> round(result["nmad"], 5), result["count"]
    (0.07413, 3)
"""

GAUSSIAN = 1.4826  # standard deviation over median absolute deviation
HINT = "take scaled_mad for other quantities"


class Nmad(evaluate.Metric):
    """NMAD: robust scatter of redshifts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({name: datasets.Value("float64") for name in ("predictions", "references")}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float | int]:
        predicted, redshift = _labelled(predictions, references)
        residual = predicted - redshift
        deviation = np.abs(residual - np.median(residual)) / _one_plus(redshift)
        return {"nmad": float(GAUSSIAN * np.median(deviation)), "count": len(residual)}


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


__all__ = ["Nmad"]
