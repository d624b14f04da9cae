"""Metrics against values worked out by hand, or by another route; and both ways to load them."""

import ast
import doctest
import inspect
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from spectok_hf.evaluation import metrics
from spectok_hf.evaluation.metrics import METRICS, load_metric

C = 299792.458  # km/s
FOLDER = Path(metrics.__file__).parent
NUMBERS = {"predictions": [1.0, 2.5, 2.0], "references": [1.0, 2.0, 3.0]}
CALLS = {  # inputs that every metric takes
    **{name: NUMBERS for name in ("bias", "nmad", "outlier_fraction", "r_squared", "scaled_mad")},
    **{name: {**NUMBERS, "uncertainties": [1.0, 1.0, 1.0]} for name in ("coverage", "crps")},
    **{name: {"predictions": [0, 1, 1], "references": [0, 1, 0]} for name in ("class_accuracy", "macro_f1")},
    "velocity_success": {**NUMBERS, "classes": ["GALAXY", "QSO", "STAR"]},
    "reduced_chi_square": {**NUMBERS, "ivar": [1.0, 2.0, 0.0]},
}
LOAD_ALL = """
import json, sys, evaluate
calls = json.loads(sys.argv[2])
results = {name: evaluate.load(f"{sys.argv[1]}/{name}.py").compute(**call) for name, call in calls.items()}
results["own package"] = "spectok_hf" in sys.modules
print(json.dumps(results))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is written to the home folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")


def compute(name, predictions, references, **others):
    return load_metric(name).compute(predictions=predictions, references=references, **others)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no metric 'rmse'.*bias.*nmad.*velocity_success"):
        load_metric("rmse")


def test_every_file_is_a_metric_under_its_own_name():
    assert sorted(METRICS) == sorted(path.stem for path in FOLDER.glob("[!_]*.py")) == sorted(CALLS)
    for name in METRICS:
        metric = load_metric(name)
        assert metric.name == name and isinstance(metric, evaluate.Metric)
        assert metric.description.strip() and metric.citation.strip()


@pytest.fixture
def modules_cache(tmp_path, monkeypatch):
    """A fresh folder for the copies that `evaluate.load` makes, and no network."""

    def refuse(*address, **options):
        raise AssertionError(f"the network was asked for {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path / "modules"
    for name in set(sys.modules) - before:
        if name.startswith("evaluate_modules"):
            del sys.modules[name]


@pytest.mark.parametrize("name", METRICS)
def test_scripts_load_without_network(name, modules_cache):
    metric = evaluate.load(str(FOLDER / f"{name}.py"))
    assert [path.name for path in modules_cache.rglob(f"{name}.py")] == [f"{name}.py"]
    assert Path(inspect.getfile(type(metric))).is_relative_to(modules_cache)
    assert metric.compute(**CALLS[name]) == load_metric(name).compute(**CALLS[name])


@pytest.mark.parametrize("name", METRICS)
def test_scripts_import_nothing_of_the_package(name):
    nodes = list(ast.walk(ast.parse((FOLDER / f"{name}.py").read_text())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {"." * node.level + (node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= {"collections.abc", "math", "datasets", "evaluate", "numpy", "sklearn.metrics"}


@pytest.mark.slow  # a new interpreter imports evaluate, and with it most of transformers
def test_scripts_load_in_an_interpreter_of_their_own(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", LOAD_ALL, str(FOLDER), json.dumps(CALLS)]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout.splitlines()[-1])
    assert not results.pop("own package")
    for name, call in CALLS.items():
        assert results[name] == json.loads(json.dumps(load_metric(name).compute(**call)))


@pytest.mark.parametrize("helper", ["_labelled", "_one_plus", "_check_uncertainties", "_is_missing", "_known"])
def test_copies_of_a_helper_are_the_same(helper):
    copies = [getattr(sys.modules[kind.__module__], helper, None) for kind in METRICS.values()]
    sources = [inspect.getsource(copy) for copy in copies if copy]
    assert len(sources) > 1 and len(set(sources)) == 1


@pytest.mark.parametrize("name", METRICS)
def test_the_example_prints_what_it_says(name):
    example = doctest.DocTestParser().get_doctest(load_metric(name).inputs_description, {}, name, None, 0)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_empty_and_unlabelled_inputs_are_refused(name):
    empty = {key: [] for key in CALLS[name]}
    with pytest.raises(ValueError, match=r"at least one (label|value|pixel)"):
        load_metric(name).compute(**empty)
    with pytest.raises(ValueError, match=r"at least one (label|value|pixel)"):
        load_metric(name).compute(**{**CALLS[name], "references": [np.nan] * 3})


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("missing", [np.nan, None])
def test_objects_without_a_reference_are_left_out_and_not_counted(name, missing):
    plain = load_metric(name).compute(**CALLS[name])
    call = {key: [values[0], *values] for key, values in CALLS[name].items()}  # the first of all is the hardest
    assert load_metric(name).compute(**{**call, "references": [missing, *CALLS[name]["references"]]}) == plain
    assert plain["count"] == (2 if name == "reduced_chi_square" else 3)  # one pixel has no ivar


@pytest.mark.parametrize("name", METRICS)
def test_a_missing_prediction_is_an_error(name):
    predictions = [np.nan, *CALLS[name]["predictions"][1:]]
    with pytest.raises(ValueError, match=r"must (be finite|hold a label) wherever"):
        load_metric(name).compute(**{**CALLS[name], "predictions": predictions})


def test_a_metric_works_again_after_an_error_and_in_batches():
    metric = load_metric("bias")
    with pytest.raises(ValueError, match="at least one value"):
        metric.compute(predictions=[1.0], references=[np.nan])
    metric.add_batch(predictions=np.array([2.0], dtype=np.float32), references=torch.tensor([1.0]))
    metric.add_batch(predictions=[4.0, 0.0], references=[1.0, None])
    assert metric.compute() == {"mean_bias": 2.0, "median_bias": 2.0, "count": 2}


def test_bias_mean_feels_what_the_median_does_not():
    result = compute("bias", [1.0, 2.0, 103.0], [0.0, 0.0, 1.0])
    assert result == {"mean_bias": 35.0, "median_bias": 2.0, "count": 3}


def test_scaled_mad_about_zero_and_about_the_median():
    predictions, references = [5.0, 7.0, 8.0, 12.0], [4.0, 4.0, 4.0, 4.0]  # residuals 1, 3, 4, 8
    assert compute("scaled_mad", predictions, references)["scaled_mad"] == pytest.approx(1.4826 * 3.5)
    about_median = compute("scaled_mad", predictions, references, center="median")  # deviations 2.5, 0.5, 0.5, 4.5
    assert about_median["scaled_mad"] == pytest.approx(1.4826 * 1.5)
    with pytest.raises(ValueError, match="center must be one of zero, median, found 'mean'"):
        compute("scaled_mad", predictions, references, center="mean")


def test_scaled_mad_of_gaussian_errors_is_their_standard_deviation():
    errors = np.random.default_rng(0).normal(0, 3, 20000)
    errors[:200] = 1e6
    assert compute("scaled_mad", errors, np.zeros(20000))["scaled_mad"] == pytest.approx(3, rel=0.03)


def test_nmad_by_hand():
    # dz = 0.1, 0.3, 0.2, median 0.2; |dz - 0.2| / (1 + z) = 0.1 / 1, 0.1 / 2, 0 / 4
    result = compute("nmad", [0.1, 1.3, 3.2], [0.0, 1.0, 3.0])
    assert result["nmad"] == pytest.approx(1.4826 * 0.05)
    shifted = compute("nmad", [0.6, 1.8, 3.7], [0.0, 1.0, 3.0])
    assert shifted["nmad"] == pytest.approx(result["nmad"])


@pytest.mark.parametrize("name", ["nmad", "outlier_fraction", "velocity_success"])
def test_what_is_no_redshift_is_refused(name):
    with pytest.raises(ValueError, match="redshifts above -1, found -2"):
        load_metric(name).compute(**{**CALLS[name], "references": [1.0, 2.0, -2.0]})


def test_outlier_fraction_of_redshifts():
    predictions, references = [1.29, 1.31, 0.14, 0.16], [1.0, 1.0, 0.0, 0.0]  # 0.145, 0.155, 0.14, 0.16 of 1 + z
    assert compute("outlier_fraction", predictions, references)["outlier_fraction"] == 0.5
    assert compute("outlier_fraction", predictions, references, threshold=0.15)["outlier_fraction"] == 0.5
    assert compute("outlier_fraction", predictions, references, threshold=0.1)["outlier_fraction"] == 1


def test_outlier_fraction_of_other_quantities_needs_a_threshold_in_their_unit():
    predictions, references = [5100.0, 6300.0], [5000.0, 6000.0]
    result = compute("outlier_fraction", predictions, references, threshold=200, relative=False)
    assert result == {"outlier_fraction": 0.5, "count": 2}
    for options in ({}, {"threshold": -1.0}):
        with pytest.raises(ValueError, match="threshold must be positive and in the unit"):
            compute("outlier_fraction", predictions, references, relative=False, **options)


def test_r_squared_by_its_definition():
    rng = np.random.default_rng(1)
    true = rng.normal(size=50)
    predicted = true + 0.3 * rng.normal(size=50)
    expected = 1 - ((predicted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum()
    assert compute("r_squared", predicted, true)["r_squared"] == pytest.approx(expected)
    with pytest.raises(ValueError, match="must differ from each other, found only the value 2 in 1"):
        compute("r_squared", [1.0], [2.0])


@pytest.mark.parametrize("name", ["r_squared", "macro_f1"])
def test_a_missing_scikit_learn_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"pip install \"spectok-hf\[train\]\""):
        load_metric(name).compute(**CALLS[name])


@pytest.mark.parametrize(("galaxy", "quasar", "star"), [(0.99, 0.99, 0.99), (1.01, 0.99, 0.99), (0.99, 1.01, 1.01)])
def test_velocity_success_has_a_limit_per_class(galaxy, quasar, star):
    redshift = np.array([1.0, 2.0, -0.001])
    offset = np.array([galaxy * 1000, -quasar * 3000, star * 1000]) / C * (1 + redshift)
    good = [galaxy < 1, quasar < 1, star < 1]
    result = compute("velocity_success", redshift + offset, redshift, classes=["GALAXY", "QSO", "STAR"])
    assert result["velocity_success"] == pytest.approx(np.mean(good)) and result["count"] == 3
    assert result["class_success"] == dict(zip(("GALAXY", "QSO", "STAR"), map(float, good), strict=True))


def test_velocity_success_counts_the_classes_that_occur_and_refuses_others():
    classes = ["QSO", "STAR", "QSO", "GALAXY"]
    result = compute("velocity_success", [1.0, 0.0, 1.1, 0.0], [1.0, 0.0, 1.0, None], classes=classes)
    assert result["class_success"] == {"QSO": 0.5, "STAR": 1.0}
    assert result["class_count"] == {"QSO": 2, "STAR": 1} and result["count"] == 3
    with pytest.raises(ValueError, match="classes must be among GALAXY, QSO, STAR, found 'AGN'"):
        compute("velocity_success", [1.0], [1.0], classes=["AGN"])


def crps_by_integration(mean, sigma, true):
    y = np.linspace(mean - 12 * sigma - abs(true), mean + 12 * sigma + abs(true), 400_001)
    cumulative = torch.special.ndtr(torch.from_numpy((y - mean) / sigma)).numpy()
    return np.trapezoid((cumulative - (y >= true)) ** 2, y)


def test_crps_is_the_integral_of_its_definition():
    cases = [(0.0, 1.0, 0.0), (1.0, 0.5, 2.5), (-2.0, 3.0, -8.0), (5.0, 2.0, 4.0)]
    for mean, sigma, true in cases:
        result = compute("crps", [mean], [true], uncertainties=[sigma])
        assert result["crps"] == pytest.approx(crps_by_integration(mean, sigma, true), rel=1e-4)
    mean, sigma, true = np.array(cases).T
    assert compute("crps", mean, true, uncertainties=sigma)["crps"] == pytest.approx(
        np.mean([crps_by_integration(*case) for case in cases]), rel=1e-4
    )


def test_crps_tends_to_the_absolute_error():
    assert compute("crps", [3.0], [5.0], uncertainties=[1e-9])["crps"] == pytest.approx(2.0)


def test_crps_is_least_for_honest_uncertainties():
    true = np.random.default_rng(2).normal(0, 2, 4000)
    scores = [compute("crps", 0 * true, true, uncertainties=np.full(4000, s))["crps"] for s in (1.0, 2.0, 4.0)]
    assert scores[1] < scores[0] and scores[1] < scores[2]


@pytest.mark.parametrize("name", ["crps", "coverage"])
def test_uncertainties_must_be_positive(name):
    with pytest.raises(ValueError, match="uncertainties must be positive standard deviations, found -1"):
        compute(name, [1.0], [1.0], uncertainties=[-1.0])


def test_coverage_beside_what_a_gaussian_has():
    result = compute("coverage", [0.9, -1.1, 3.9, 4.1], np.zeros(4), uncertainties=[1.0, 1.0, 2.0, 2.0])
    assert (result["coverage_1_sigma"], result["coverage_2_sigma"], result["count"]) == (0.25, 0.75, 4)
    assert result["expected_1_sigma"] == pytest.approx(0.6827, abs=5e-5)
    assert result["expected_2_sigma"] == pytest.approx(0.9545, abs=5e-5)


@pytest.mark.parametrize("labels", [("GALAXY", "QSO", "STAR"), (0, 1, 7)])
def test_class_accuracy_of_names_and_of_numbers(labels):
    a, b, c = labels
    result = compute("class_accuracy", [a, a, b, a, c], [a, a, a, b, c])
    assert result["accuracy"] == 0.6 and result["count"] == 5
    assert result["class_accuracy"] == {a: pytest.approx(2 / 3), b: 0.0, c: 1.0}
    assert result["class_count"] == {a: 3, b: 1, c: 1}


@pytest.mark.parametrize("name", ["class_accuracy", "macro_f1"])
@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        (["a", "b", "a"], [None, "b", "b"]),
        (["a", "b", "a"], [np.nan, "b", "b"]),
        (["a", "b", "a"], np.array(["", "b", "b"])),
        (["a", "b", "a"], np.array([np.nan, "b", "b"])),  # "nan"
        ([0, 1, 0], [-100, 1, 1]),
        (torch.tensor([0, 1, 0]), torch.tensor([torch.nan, 1, 1])),
    ],
)
def test_missing_labels_of_all_kinds(name, predictions, references):
    result = compute(name, predictions, references)
    expected = compute(name, predictions[1:], references[1:])
    assert result == expected and result["count"] == 2


@pytest.mark.parametrize("name", ["class_accuracy", "macro_f1"])
def test_scores_and_mixed_labels_are_refused(name):
    with pytest.raises(ValueError, match="names or whole numbers, found fractions"):
        compute(name, [0.9, 0.2], [1, 0])
    for references in ([0, 1], [np.nan, 1]):
        with pytest.raises(ValueError, match="all names or all numbers, found both"):
            compute(name, ["GALAXY", "QSO"], references)
    with pytest.raises(ValueError, match="predictions must hold a label wherever there is a reference, found 1"):
        compute(name, ["a", None], ["a", "b"])


def test_macro_f1_counts_classes_alike():
    # a: TP 3, FP 1, FN 0; b: TP 0, FP 0, FN 1
    result = compute("macro_f1", ["a"] * 4, ["a", "a", "a", "b"])
    assert result == {"macro_f1": pytest.approx((6 / 7 + 0) / 2), "count": 4}


def test_reduced_chi_square_counts_pixels_with_information():
    flux = [np.array([1.0, np.nan, 3.0]), np.array([5.0, 5.0])]
    ivar = [np.array([4.0, 0.0, 1.0]), np.array([0.25, 0.0])]
    model = [np.array([2.0, np.inf, 3.0]), np.array([1.0, 77.0])]  # terms 4, -, 0 and 4, -
    result = compute("reduced_chi_square", model, flux, ivar=ivar)
    assert result["reduced_chi_square"] == pytest.approx(8 / 3)
    assert result["mean_reduced_chi_square"] == result["median_reduced_chi_square"] == pytest.approx(3.0)
    assert (result["spectra"], result["count"]) == (2, 3)
    flat = compute("reduced_chi_square", *map(np.concatenate, (model, flux)), ivar=np.concatenate(ivar))
    assert flat["reduced_chi_square"] == result["reduced_chi_square"] and flat["spectra"] == 1


def test_reduced_chi_square_leaves_out_spectra_without_information():
    result = compute("reduced_chi_square", [[1.0], [2.0]], [[0.0], [0.0]], ivar=[[1.0], [0.0]])
    assert result["reduced_chi_square"] == 1 and (result["spectra"], result["count"]) == (1, 1)
    with pytest.raises(ValueError, match="at least one pixel must have flux and an ivar above 0, found none in 2"):
        compute("reduced_chi_square", [[1.0], [2.0]], [[0.0], [0.0]], ivar=[[0.0], [0.0]])


def test_reduced_chi_square_of_pure_noise_is_one():
    rng = np.random.default_rng(3)
    ivar = rng.uniform(0.1, 10, (20, 500))
    result = compute("reduced_chi_square", np.zeros((20, 500)), rng.normal(size=(20, 500)) / np.sqrt(ivar), ivar=ivar)
    assert result["reduced_chi_square"] == pytest.approx(1, abs=5 * np.sqrt(2 / 10_000))


@pytest.mark.parametrize(
    ("ivar", "model", "message"),
    [
        ([-1.0, 1.0], [0.0, 0.0], "ivar must be finite and at least 0"),
        ([np.nan, 1.0], [0.0, 0.0], "ivar must be finite and at least 0"),
        ([1.0, 1.0], [np.nan, 0.0], "must be finite wherever ivar > 0"),
        ([1.0, 1.0], [0.0], "one prediction, reference and ivar per pixel, found 1, 2 and 2"),
    ],
)
def test_reduced_chi_square_refuses_what_makes_no_sense(ivar, model, message):
    with pytest.raises(ValueError, match=message):
        compute("reduced_chi_square", [model], [[0.0, 0.0]], ivar=[ivar])
