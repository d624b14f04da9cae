"""Velocity success: share of redshifts that are right."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Share of redshifts with c |prediction - reference| / (1 + z) below a limit, where z is the reference: 3000 km/s for
quasars, whose lines are broad and shifted, and 1000 km/s for galaxies and stars. Overall, and per class.
"""

_CITATION = """
Limits as in arXiv:2506.00294 (vision transformers on plots of spectra), which reports redshifts within them
"""

_INPUTS = """
Args:
    predictions: predicted redshifts, shape (n,).
    references: true redshifts, above -1; NaN or None = no label, left out.
    classes: true class of each object, GALAXY, QSO or STAR.

Returns:
    velocity_success: share of all objects.
    class_success: share of each class that occurs, by its name.
    class_count: number of objects of each.
    count: number of objects with a reference.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("velocity_success")
    >>> classes = ["GALAXY", "QSO", "STAR"]
    >>> result = metric.compute(predictions=[0.1, 2.02, 0.01], references=[0.1, 2.0, 0.0], classes=classes)
    >>> result["class_success"]
    {'GALAXY': 1.0, 'QSO': 1.0, 'STAR': 0.0}
"""

SPEED_OF_LIGHT = 299792.458  # km/s
LIMITS = {"GALAXY": 1000.0, "QSO": 3000.0, "STAR": 1000.0}  # km/s
HINT = "leave out what is no redshift"


class VelocitySuccess(evaluate.Metric):
    """Velocity success: share of redshifts that are right."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                    "classes": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: list[float], references: list[float], classes: list[str]
    ) -> dict[str, float | int | dict[str, float] | dict[str, int]]:
        if unknown := sorted({str(name) for name in classes} - set(LIMITS)):
            raise ValueError(f"classes must be among {', '.join(LIMITS)}, found {', '.join(map(repr, unknown))}")
        names = list(LIMITS)
        predicted, redshift, code = _labelled(predictions, references, [names.index(name) for name in classes])
        velocity = SPEED_OF_LIGHT * np.abs(predicted - redshift) / _one_plus(redshift)
        good = velocity < np.array(list(LIMITS.values()))[code.astype(int)]
        mine = {name: good[code == index] for index, name in enumerate(names) if (code == index).any()}
        return {
            "velocity_success": float(good.mean()),
            "class_success": {name: float(values.mean()) for name, values in mine.items()},
            "class_count": {name: len(values) for name, values in mine.items()},
            "count": len(good),
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


def _one_plus(redshift: np.ndarray) -> np.ndarray:
    if not (redshift > -1).all():
        raise ValueError(f"references must be redshifts above -1, found {redshift.min():.4g}: {HINT}")
    return 1 + redshift


__all__ = ["VelocitySuccess"]
