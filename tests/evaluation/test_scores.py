"""Plain scores against values worked out by hand, against scikit-learn, and against the modules of `evaluate`."""

import evaluate
import numpy as np
import pytest

from spectok_hf.evaluation.calibration import coverage_curve
from spectok_hf.evaluation.metrics import METRICS, load_metric
from spectok_hf.evaluation.scores import (
    bias,
    class_scores,
    confusion_counts,
    crps,
    nmad,
    outlier_fraction,
    r_squared,
    scaled_mad,
    scores_with_errors,
    share_within,
    velocity_limits,
    velocity_success,
)

CLASSES = ("GALAXY", "QSO", "STAR")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is written to the home folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")


def test_scores_of_numbers_by_hand():
    truth, predicted = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.5, 2.0, 2.0, 8.0])
    assert scaled_mad(truth, predicted) == pytest.approx(1.4826 * 0.75)
    assert bias(truth, predicted) == pytest.approx(1.5 / 4)
    assert r_squared(truth, predicted) == pytest.approx(1 - 5.25 / 14)
    assert scaled_mad(0.0, predicted - truth) == scaled_mad(truth, predicted)
    for equal in (1.0, 0.1):  # the mean of three times 0.1 is not 0.1
        assert np.isnan(r_squared(np.full(3, equal), np.zeros(3)))


def test_crps_without_an_uncertainty_takes_the_scatter_of_the_residuals():
    rng = np.random.default_rng(1)
    truth = rng.normal(5000, 300, 500)
    predicted = truth + rng.normal(40, 100, 500)
    scatter = np.full(500, np.std(predicted - truth))
    assert crps(truth, predicted) == pytest.approx(crps(truth, predicted, scatter), rel=1e-12)
    # Of unbiased Gaussian errors with the right width it is the width over the square root of pi.
    centred = predicted - np.mean(predicted - truth)
    assert crps(truth, centred) == pytest.approx(scatter[0] / np.sqrt(np.pi), rel=0.03)
    assert crps(truth, predicted) > crps(truth, centred)  # a bias costs


def test_crps_without_scatter_is_the_absolute_error():
    truth = np.arange(4.0)
    assert crps(truth, truth) == 0 and crps(truth, truth + 2) == pytest.approx(2)
    assert crps(truth, truth + np.array([0, 3, 0, 1]), np.full(4, 1e-12)) == pytest.approx(1)


def test_scores_of_redshifts_by_hand():
    truth = np.array([0.0, 1.0, 1.0, 3.0, 1.0])
    predicted = truth + np.array([0.0, 0.01, 0.012, 0.02, 0.5])
    # median dz 0.012: |0.012|/1, |0.002|/2, 0, 0.008/4, 0.488/2
    assert nmad(truth, predicted) == pytest.approx(1.4826 * 0.002)
    assert outlier_fraction(truth, predicted) == pytest.approx(0.2)
    # c dz / (1 + z): 0, 1499, 1799, 1499, 74948 km/s
    assert velocity_success(truth, predicted) == pytest.approx(0.2)
    assert velocity_success(truth, predicted, np.array(["QSO", "QSO", "STAR", "QSO", "QSO"])) == pytest.approx(0.6)


def test_scores_of_classes_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 3, 50), rng.integers(0, 4, 50)
    scores = class_scores(truth, predicted, ["a", "b", "c", "d"])
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro", zero_division=0))
    recalls = metrics.recall_score(truth, predicted, average=None, labels=[0, 1, 2])
    assert [scores[f"accuracy of {name}"] for name in "abc"] == pytest.approx(list(recalls))
    assert np.isnan(scores["accuracy of d"])


def test_confusion_counts_have_the_truth_by_row():
    truth, predicted = np.array([0, 0, 2, 1, 0]), np.array([0, 2, 2, 0, 2])
    assert confusion_counts(truth, predicted, 4).tolist() == [[1, 0, 2, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0] * 4]


def test_velocity_limits_of_classes():
    assert velocity_limits(3, np.array(CLASSES)).tolist() == [1000.0, 3000.0, 1000.0]
    assert velocity_limits(2).tolist() == [1000.0, 1000.0]
    offset = np.array([0.99, 1.01]) * 500 / 299_792.458 * 3
    assert share_within(np.full(2, 2.0), 2 + offset, np.full(2, 500.0)) == 0.5


def test_errors_of_a_mean_over_splits():
    """Two splits of the same 200 objects: their average has the error of the average value of an object."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 200))
    samples = [(np.arange(200), row) for row in values]
    found = scores_with_errors(samples, lambda row: {"mean": float(row.mean()), "never": float("nan")}, 2000, rng)
    assert found["mean"] == pytest.approx(values.mean())
    assert found["mean_error"] == pytest.approx(values.mean(0).std() / np.sqrt(200), rel=0.1)
    assert found["mean_spread"] == pytest.approx(values.mean(1).std(ddof=1))
    assert np.isnan([found["never"], found["never_error"], found["never_spread"]]).all()


# The metrics, each a file that may import none of this: the same figures, on random data.


def random_numbers(rng):
    truth = rng.uniform(0, 3, 201)
    return truth, truth + rng.normal(0.02, 0.1, 201) * rng.choice([0.05, 1, 5], 201)


def of_numbers(score, key, **options):
    def both(rng):
        truth, predicted = random_numbers(rng)
        return {key: score(truth, predicted)}, {"predictions": predicted, "references": truth, **options}

    return both


def of_classes(*keys):
    def both(rng):
        truth, predicted = rng.integers(0, 3, 201), rng.choice([0, 1, 1], 201)
        scores = class_scores(truth, predicted, CLASSES)
        shares = {name: scores[f"accuracy of {name}"] for name in CLASSES}
        plain = {"accuracy": scores["accuracy"], "macro_f1": scores["macro_f1"], "class_accuracy": shares}
        labels = [[CLASSES[code] for code in codes] for codes in (predicted, truth)]
        return {key: plain[key] for key in keys}, dict(zip(("predictions", "references"), labels, strict=True))

    return both


def of_velocities(rng):
    truth, classes = random_numbers(rng)[0], rng.choice(CLASSES, 201)
    predicted = truth + (1 + truth) * rng.normal(0, 0.007, 201)  # 2100 km/s
    shares = {name: velocity_success(*(a[classes == name] for a in (truth, predicted, classes))) for name in CLASSES}
    plain = {"velocity_success": velocity_success(truth, predicted, classes), "class_success": shares}
    return plain, {"predictions": predicted, "references": truth, "classes": classes.tolist()}


def of_coverage(rng):
    truth, predicted = random_numbers(rng)
    sigma = rng.uniform(0.05, 0.2, 201)
    levels = [0.6826894921370859, 0.9544997361036416]
    observed, _ = coverage_curve(predicted - truth, sigma, levels)
    plain = {f"{kind}_{k}_sigma": share for kind, shares in (("coverage", observed[:, 0]), ("expected", levels))
             for k, share in enumerate(shares, 1)}  # fmt: skip
    return plain, {"predictions": predicted, "references": truth, "uncertainties": sigma}


def of_crps(rng):
    truth, predicted = random_numbers(rng)
    sigma = rng.uniform(0.05, 0.2, 201)
    inputs = {"predictions": predicted, "references": truth, "uncertainties": sigma}
    return {"crps": crps(truth, predicted, sigma)}, inputs


SAME = {
    "bias": of_numbers(bias, "mean_bias"),
    "class_accuracy": of_classes("accuracy", "class_accuracy"),
    "coverage": of_coverage,
    "crps": of_crps,
    "macro_f1": of_classes("macro_f1"),
    "nmad": of_numbers(nmad, "nmad"),
    "outlier_fraction": of_numbers(outlier_fraction, "outlier_fraction"),
    "r_squared": of_numbers(r_squared, "r_squared"),
    "scaled_mad": of_numbers(scaled_mad, "scaled_mad"),
    "velocity_success": of_velocities,
}


def test_every_metric_with_a_plain_function_is_compared():
    assert set(METRICS) - set(SAME) == {"reduced_chi_square"}  # which tasks do not score


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_metric_is_its_plain_function(name, seed):
    if name in ("macro_f1", "r_squared"):
        pytest.importorskip("sklearn.metrics")
    plain, inputs = SAME[name](np.random.default_rng(seed))
    found = load_metric(name).compute(**inputs)
    for key, expected in plain.items():
        assert found[key] == pytest.approx(expected, rel=1e-12), key
        for share in expected.values() if isinstance(expected, dict) else [expected]:
            assert 0 < abs(share) < 1 or name == "class_accuracy"  # a share of 0 or 1 would compare nothing
