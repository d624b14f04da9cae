"""Facts of a card from what training and evaluation leave behind."""

import numpy as np
import pytest

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.evaluation.probes import constant, pca_ridge
from spectok_hf.evaluation.tasks import Prediction, Task, evaluate_tasks, split_objects
from spectok_hf.hub import TrainingSurvey, task_results, training_surveys, truth_results


def test_spectra_are_counted_by_survey_and_simulation():
    simulated = simulate_survey("sdss", 3) + simulate_survey("galah", 1)
    real = Spectrum(np.ones(10), np.arange(10) + 5000.0, np.ones(10), survey=np.array(["sdss"])[0])
    found = training_surveys([real, *simulated])
    assert found == {"galah": TrainingSurvey(1, 1), "sdss": TrainingSurvey(4, 3)}
    assert {type(name) for name in found} == {str}
    assert {type(number) for of in found.values() for number in (of.spectra, of.simulated)} == {int}
    with pytest.raises(ValueError, match=r"counts spectra by survey, found none named by Spectrum\(.*10 pixels"):
        training_surveys([Spectrum(np.ones(10), np.arange(10) + 5000.0, np.ones(10))])


@pytest.fixture(scope="module")
def rows():
    spectra = simulate_survey("lamost", 40, seed=3, kind="STAR")
    task = Task(
        name="stars",
        kind="regression",
        spectra=spectra,
        labels=np.array([[s.labels["teff"]] for s in spectra], dtype=float),
        target_names=["teff"],
        target_units=["K"],
        splits=[split_objects(spectra, seed=0)],
    )
    methods = {
        "truth": lambda task, split, seed: Prediction(task.labels[split.test] + 1e-3),
        "ridge": pca_ridge(),
        "constant": constant(),
    }
    return evaluate_tasks([task], methods, bootstrap=20, progress=False)


def test_a_method_stands_beside_the_plain_one(rows):
    squared, width = task_results(
        rows, method="truth", baseline="constant", dataset="simulated stars", split="by object"
    )
    of = {row["method"]: row for row in rows}
    assert (squared.metric, squared.better_is, squared.unit) == ("r_squared", "higher", "")
    assert (width.metric, width.better_is, width.unit) == ("scaled_mad", "lower", "K")
    assert squared.value == pytest.approx(1, abs=1e-3) and width.verdict == "better"
    assert width.baseline_value == pytest.approx(of["constant"]["scaled_mad"], rel=5e-3)
    assert width.baseline_error == pytest.approx(of["constant"]["scaled_mad_error"], rel=5e-3)
    assert (width.test_objects, width.target, width.baseline) == (of["truth"]["test_objects"], "teff", "constant")
    with pytest.raises(ValueError, match="needs rows of 'truth' and 'MLP', found those of constant, ridge, truth"):
        task_results(rows, method="truth", baseline="MLP", dataset="", split="")


def test_reconstructions_stand_beside_patch_pca():
    row = {"survey": "sdss", "spectra": 20}
    row |= {"S/N 10, model": 0.2468, "S/N 10, patch PCA": 0.333, "S/N 10, patch PCA of the survey": 0.3}
    row |= {"S/N 100, model": 7.0, "S/N 100, patch PCA": 6.0, "S/N 100, patch PCA of the survey": 5.0}
    first, second = truth_results([row])
    assert (first.value, first.baseline_value, first.verdict) == (0.247, 0.333, "better")
    assert (second.value, second.baseline_value, second.verdict) == (7.0, 6.0, "worse")
    assert "S/N 100" in second.dataset and second.test_objects == 20
    assert truth_results([]) == []
