"""Coverage: shares within one and two predicted standard deviations."""

import math

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Shares of objects whose |prediction - reference| is at most one and two predicted standard deviations, beside the
0.6827 and 0.9545 that are expected of Gaussian errors. Smaller shares mean uncertainties that are too small.
"""

_CITATION = """
Gneiting, Balabdaoui & Raftery 2007, J. R. Stat. Soc. B 69, 243, doi:10.1111/j.1467-9868.2007.00587.x
(calibration of central prediction intervals)
"""

_INPUTS = """
Args:
    predictions: means of the predictions, shape (n,).
    references: their true values; NaN or None = no label, left out.
    uncertainties: their standard deviations, positive.

Returns:
    coverage_1_sigma, coverage_2_sigma: shares found.
    expected_1_sigma, expected_2_sigma: those of a Gaussian.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("coverage")
    >>> result = metric.compute(predictions=[0.5, 1.5, 2.5, 0.0], references=[0.0] * 4, uncertainties=[1.0] * 4)
    >>> result["coverage_1_sigma"], result["coverage_2_sigma"], result["count"]
    (0.5, 0.75, 4)
"""

SIGMAS = (1, 2)


class Coverage(evaluate.Metric):
    """Coverage: shares within one and two predicted standard deviations."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {name: datasets.Value("float64") for name in ("predictions", "references", "uncertainties")}
            ),
        )

    def _compute(
        self, predictions: list[float], references: list[float], uncertainties: list[float]
    ) -> dict[str, float | int]:
        predicted, true, sigma = _labelled(predictions, references, uncertainties)
        _check_uncertainties(sigma)
        error = np.abs(predicted - true) / sigma
        shares = {f"coverage_{k}_sigma": float(np.mean(error <= k)) for k in SIGMAS}
        return {**shares, **{f"expected_{k}_sigma": math.erf(k / math.sqrt(2)) for k in SIGMAS}, "count": len(error)}


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


def _check_uncertainties(uncertainties: np.ndarray) -> None:
    if not (uncertainties > 0).all():
        raise ValueError(
            f"uncertainties must be positive standard deviations, found {uncertainties.min():.4g}: if the model "
            "predicts variances or their logarithms, convert them"
        )


__all__ = ["Coverage"]
