"""CRPS: continuous ranked probability score of Gaussian predictions."""

import math

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Mean continuous ranked probability score of Gaussian predictions, the integral over y of (F(y) - H(y - reference))^2,
where F is the predicted cumulative distribution and H the step function. In closed form, with
u = (reference - mean) / sigma: sigma (u (2 Phi(u) - 1) + 2 phi(u) - 1 / sqrt(pi)). It rewards sharp and honest
uncertainties alike, and tends to the absolute error as sigma tends to 0. Smaller is better.
"""

_CITATION = """
Gneiting & Raftery 2007, JASA 102, 359, doi:10.1198/016214506000001437
Gneiting et al. 2005, Mon. Wea. Rev. 133, 1098, doi:10.1175/MWR2904.1 (closed form)
"""

_INPUTS = """
Args:
    predictions: means of the predicted Gaussians, shape (n,).
    references: their true values; NaN or None = no label, left out.
    uncertainties: their standard deviations, positive.

Returns:
    crps: in the unit of the quantity.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("crps")
    >>> result = metric.compute(predictions=[0.0, 0.0], references=[0.0, None], uncertainties=[1.0, 1.0])
    >>> round(result["crps"], 6), result["count"]
    (0.233695, 1)
"""


class Crps(evaluate.Metric):
    """CRPS: continuous ranked probability score of Gaussian predictions."""

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
        u = (true - predicted) / sigma
        central = np.array([math.erf(value / math.sqrt(2)) for value in u])  # 2 Phi(u) - 1
        density = np.exp(-0.5 * u**2) / math.sqrt(2 * math.pi)
        score = sigma * (u * central + 2 * density - 1 / math.sqrt(math.pi))
        return {"crps": float(score.mean()), "count": len(score)}


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


__all__ = ["Crps"]
