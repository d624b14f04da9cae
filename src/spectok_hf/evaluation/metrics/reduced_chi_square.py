"""Reduced chi-square: misfit of reconstructed spectra per pixel."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Mean over the pixels of ivar (reconstruction - flux)^2, of all pixels together and as mean and median over the spectra.
Pixels with ivar 0 or without flux do not count, whatever they hold. No parameters are subtracted from the number of
pixels. About 1 is expected if the errors are right and the noise is not reconstructed; a tokenizer that passes noise
through falls below it, so that a small value alone proves nothing.
"""

_CITATION = """
Andrae, Schulze-Hartung & Melchior 2010, arXiv:1012.3754 (what reduced chi-square can and cannot tell)
"""

_INPUTS = """
Args:
    predictions: reconstructed flux, one list of pixels per spectrum, or one list of pixels in all.
    references: observed flux, of the same shape; NaN = missing.
    ivar: its inverse variance, of the same shape, at least 0; 0 = no information.

Returns:
    reduced_chi_square: over all pixels.
    mean_reduced_chi_square, median_reduced_chi_square: over the spectra with pixels that count.
    spectra: number of those; the others are left out.
    count: number of pixels that count.

Example:
    >>> from spectok_hf.evaluation.metrics import load_metric
    >>> metric = load_metric("reduced_chi_square")
    >>> flux, ivar = [[1.0, 1.0, 0.0], [2.0]], [[4.0, 4.0, 0.0], [1.0]]
    >>> result = metric.compute(predictions=[[1.0, 2.0, 9.9], [0.0]], references=flux, ivar=ivar)
    >>> result["mean_reduced_chi_square"], result["spectra"], result["count"]
    (3.0, 2, 3)
"""


class ReducedChiSquare(evaluate.Metric):
    """Reduced chi-square: misfit of reconstructed spectra per pixel."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features(dict.fromkeys(("predictions", "references", "ivar"), feature))
                for feature in (datasets.List(datasets.Value("float64")), datasets.Value("float64"))
            ],
        )

    def add_batch(self, *, references: Sequence, **others: Sequence) -> None:
        """Add a batch of spectra, or of pixels."""
        if not len(references):
            raise ValueError("references must hold at least one pixel, found an empty list")
        super().add_batch(references=references, **others)

    def _compute(self, predictions: list, references: list, ivar: list) -> dict[str, float | int]:
        if not isinstance(references[0], list):
            predictions, references, ivar = [predictions], [references], [ivar]
        terms = [_chi_square(*spectrum) for spectrum in zip(predictions, references, ivar, strict=True)]
        terms = [values for values in terms if len(values)]
        if not terms:
            raise ValueError(
                f"at least one pixel must have flux and an ivar above 0, found none in {len(references)} spectra"
            )
        means = [values.mean() for values in terms]
        return {
            "reduced_chi_square": float(np.concatenate(terms).mean()),
            "mean_reduced_chi_square": float(np.mean(means)),
            "median_reduced_chi_square": float(np.median(means)),
            "spectra": len(terms),
            "count": sum(map(len, terms)),
        }


def _chi_square(prediction: list[float], flux: list[float], ivar: list[float]) -> np.ndarray:
    """Terms of the pixels that count, shape (pixels,)."""
    if len({len(prediction), len(flux), len(ivar)}) > 1:
        raise ValueError(
            "a spectrum needs one prediction, reference and ivar per pixel, found "
            f"{len(prediction)}, {len(flux)} and {len(ivar)}"
        )
    values = np.array([prediction, flux, ivar], dtype=np.float64)
    if not ((values[2] >= 0) & np.isfinite(values[2])).all():
        raise ValueError("ivar must be finite and at least 0, found other values: 0 stands for no information")
    model, observed, weight = values[:, (values[2] > 0) & ~np.isnan(values[1])]
    if not np.isfinite([model, observed]).all():
        raise ValueError("predictions and references must be finite wherever ivar > 0: give bad pixels ivar 0")
    return weight * (model - observed) ** 2


__all__ = ["ReducedChiSquare"]
