"""Scores in bins of signal-to-noise ratio: where a method fails first, and what noise alone explains."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..data.domain import median_snr
from .tasks import Prediction, Task, score_predictions

UNKNOWN = "unknown"  # bin of spectra without a good pixel, or whose S/N is given as NaN


def scores_by_snr(
    task: Task,
    name: str,
    predictions: Sequence[Prediction],
    *,
    edges: Sequence[float] = (5.0, 10.0, 20.0),
    snr: Sequence[float] | np.ndarray | None = None,
    least: int = 10,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[dict[str, object]]:
    """The rows of `evaluate_tasks` of one method on one task, in bins of the S/N of the tested spectra.

    Every tested spectrum is in one bin: the first is below the first edge, the last from the last one on, and those
    without a S/N are in one of their own, "unknown". The method has learned from spectra of any S/N. What
    `evaluate_tasks` calls `record` with are the first three arguments, so that nothing is fitted again.

    Args:
        task: The task.
        name: Name of the method.
        predictions: What it says of the test part of each split.
        edges: Between which bins lie, ascending, at least one.
        snr: S/N of each spectrum of the task, shape (n,), NaN = unknown. None = the median of flux over error of its
            good pixels.
        least: Tested objects with a known label that a bin must have; one with fewer has no scores, and says so.
        bootstrap: As for `evaluate_tasks`.
        seed: Seed of the bootstrap.

    Returns:
        One row per target and bin with `snr`, such as "5-10", beside what the rows of `evaluate_tasks` have.
        `score_tables.format_results` and `write_table` take them, of several methods and tasks together.

    Raises:
        ValueError: If edges do not ascend, lengths disagree, or `bootstrap` is below 2.
    """
    bin_of = _bins(_snr(task, snr), edges)
    names = [*_bin_names(edges), *([UNKNOWN] if (bin_of == len(edges) + 1).any() else [])]
    per_bin = []
    for number, bin_name in enumerate(names):
        chosen = bin_of == number
        scored = score_predictions(task, name, predictions, chosen=chosen, bootstrap=bootstrap, seed=seed)
        counted = score_predictions(task, name, (), chosen=chosen)
        pairs = zip(scored, counted, strict=True)
        per_bin.append([{"snr": bin_name} | _enough(*pair, least) for pair in pairs])
    return [row for of_target in zip(*per_bin, strict=True) for row in of_target]


def _snr(task: Task, given: Sequence[float] | np.ndarray | None) -> np.ndarray:
    """S/N of each spectrum, NaN where unknown, shape (n,)."""
    if given is None:
        found = [median_snr(spectrum) for spectrum in task.spectra]
        given = [np.nan if value is None else value for value in found]
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (len(task.spectra),):
        raise ValueError(f"task {task.name}: {len(task.spectra)} spectra need as many snr, found shape {values.shape}")
    return values


def _bins(snr: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Number of the bin of each spectrum; one beyond the last bin where the S/N is unknown."""
    if not len(edges) or not np.all(np.diff(edges) > 0) or not np.isfinite(edges).all():
        raise ValueError(f"edges must be finite and ascend, at least one, found {list(edges)}")
    return np.where(np.isnan(snr), len(edges) + 1, np.searchsorted(edges, snr, side="right"))


def _bin_names(edges: Sequence[float]) -> list[str]:
    inner = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
    return [f"< {edges[0]:g}", *inner, f">= {edges[-1]:g}"]


def _enough(scored: dict[str, object], counted: dict[str, object], least: int) -> dict[str, object]:
    """The scored row; where it has too few objects that of the counts alone, with the reason."""
    found = counted["test_objects"]
    if isinstance(found, int) and found < least:
        return counted | {"reason": f"{found} tested objects, fewer than {least}"}
    return scored


__all__ = ["scores_by_snr"]
