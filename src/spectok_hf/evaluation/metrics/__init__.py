"""Figures of merit as modules of Hugging Face `evaluate`, one per file.

    load_metric("nmad").compute(predictions=redshifts, references=true_redshifts)

Each file also stands alone: `evaluate.load("<this folder>/nmad.py")` copies it elsewhere, so that none of them may
import another file of the package. Nothing here needs the network.
"""

from typing import Any

import evaluate

from .bias import Bias
from .class_accuracy import ClassAccuracy
from .coverage import Coverage
from .crps import Crps
from .macro_f1 import MacroF1
from .nmad import Nmad
from .outlier_fraction import OutlierFraction
from .r_squared import RSquared
from .reduced_chi_square import ReducedChiSquare
from .scaled_mad import ScaledMad
from .velocity_success import VelocitySuccess

METRICS: dict[str, type[evaluate.Metric]] = {
    "bias": Bias,
    "class_accuracy": ClassAccuracy,
    "coverage": Coverage,
    "crps": Crps,
    "macro_f1": MacroF1,
    "nmad": Nmad,
    "outlier_fraction": OutlierFraction,
    "r_squared": RSquared,
    "reduced_chi_square": ReducedChiSquare,
    "scaled_mad": ScaledMad,
    "velocity_success": VelocitySuccess,
}


def load_metric(name: str, **options: Any) -> evaluate.Metric:
    """A metric of this package, ready for `compute(predictions=..., references=...)`.

    What it computes, and from what, is in its `description`, `inputs_description` and `citation`.

    Args:
        name: Name of the metric, a key of `METRICS`.
        **options: Options of `evaluate.Metric`, such as `num_process` and `process_id`. In a single process, the
            inputs are kept in memory unless `keep_in_memory=False`.

    Returns:
        A new metric.

    Raises:
        ValueError: If there is no metric of that name.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r}: the names are {', '.join(METRICS)}")
    return METRICS[name](**{"keep_in_memory": options.get("num_process", 1) == 1, **options})


__all__ = ["METRICS", "load_metric"]
