"""From what training and evaluation leave behind to the facts of a model card."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..evaluation.scores import SCORES
from ..models.spectrum import Spectrum
from .card_facts import Result, TrainingSurvey

# The scores of a kind of task that a card shows.
SHOWN = {
    "classification": ("accuracy", "macro_f1"),
    "regression": ("r_squared", "scaled_mad"),
    "redshift": ("nmad", "outlier_fraction", "velocity_success"),
}
IN_UNITS = ("scaled_mad",)  # the other scores are bare numbers
CHI2 = "chi2 per pixel against the noise-free truth, median"


def training_surveys(spectra: Iterable[Spectrum]) -> dict[str, TrainingSurvey]:
    """How many spectra of each survey a training set holds, and how many of them are simulated.

    Args:
        spectra: The training spectra; those that know their noise-free flux are simulated.

    Raises:
        ValueError: If a spectrum names no survey.
    """
    counts: Counter[str] = Counter()
    simulated: Counter[str] = Counter()
    for spectrum in spectra:
        if not spectrum.survey:
            raise ValueError(f"a card counts spectra by survey, found none named by {spectrum!r}: set its survey")
        survey = str(spectrum.survey)  # a column of NumPy has texts of its own
        counts[survey] += 1
        simulated[survey] += spectrum.truth is not None
    return {survey: TrainingSurvey(counts[survey], simulated[survey]) for survey in sorted(counts)}


def task_results(
    rows: Sequence[Mapping[str, object]], *, method: str, baseline: str, dataset: str, split: str
) -> list[Result]:
    """The figures of one method beside those of a plain one.

    Args:
        rows: What `evaluate_tasks` returned, of the tasks that the card is about.
        method: Name of the method that the model was used by.
        baseline: Name of the plain method.
        dataset: Names the test spectra.
        split: How training and test objects were kept apart.

    Raises:
        ValueError: If there are no rows of one of the two methods.
    """
    found = {name: [row for row in rows if row["method"] == name and not row["reason"]] for name in (method, baseline)}
    if not all(found.values()):
        known = ", ".join(sorted({str(row["method"]) for row in rows}))
        raise ValueError(f"a card needs rows of {method!r} and {baseline!r}, found those of {known or 'none'}")
    plain = {(row["task"], row["target"]): row for row in found[baseline]}
    return [
        _result(row, plain[row["task"], row["target"]], score, dataset, split)
        for row in found[method]
        for score in SHOWN[str(row["kind"])]
    ]


def _result(row: Mapping[str, object], plain: Mapping[str, object], score: str, dataset: str, split: str) -> Result:
    return Result(
        task=str(row["kind"]),
        target=str(row["target"]),
        metric=score,
        value=_number(row[score]),
        error=_number(row[f"{score}_error"]),
        better_is="lower" if SCORES[score][1] is np.nanmin else "higher",
        dataset=dataset,
        split=split,
        test_objects=int(str(row["test_objects"])),
        unit=str(row["unit"]) if score in IN_UNITS else "",
        method=str(row["method"]),
        baseline=str(plain["method"]),
        baseline_value=_number(plain[score]),
        baseline_error=_number(plain[f"{score}_error"]),
    )


def truth_results(rows: Sequence[Mapping[str, object]], *, baseline: str = "patch PCA") -> list[Result]:
    """How close reconstructions of simulated spectra come to the noise-free truth.

    Args:
        rows: What `judge_by_truth` returned.
        baseline: The linear map beside it, by its name in the rows.
    """
    ratios = [name.removesuffix(", model") for row in rows[:1] for name in row if name.endswith(", model")]
    return [
        Result(
            task="reconstruction",
            target="flux",
            metric=CHI2,
            value=_number(row[f"{ratio}, model"]),
            better_is="lower",
            dataset=f"simulated {row['survey']} spectra, {ratio}",
            split="simulated with a seed of their own",
            test_objects=int(str(row["spectra"])),
            baseline=f"{baseline} of as many numbers, fitted to the same training spectra",
            baseline_value=_number(row[f"{ratio}, {baseline}"]),
        )
        for row in rows
        for ratio in ratios
    ]


def _number(value: object) -> float:
    """To three digits: a card is read."""
    return float(f"{float(str(value)):.3g}")


__all__ = ["task_results", "training_surveys", "truth_results"]
