"""The facts of a card: what is required, what fits, and the file they live in."""

import numpy as np
import pytest
import yaml

from spectok_hf.hub.card_facts import CardFacts, Result, TrainingSurvey, load_facts, save_facts

RESULT = {
    "task": "stellar parameters",
    "target": "teff",
    "metric": "r_squared",
    "value": 0.7,
    "better_is": "higher",
    "dataset": "APOGEE giants",
    "split": "by object",
    "test_objects": 93,
}
FACTS = {
    "license": "mit",
    "training": {"apogee": TrainingSurvey(300, 100)},
    "steps": 10,
    "batch_size": 8,
    "hardware": "two CPU cores",
    "results": [],
}
FILE = """
license: mit
training: {sdss: {spectra: 20, simulated: 5, note: faint ones}}
steps: 10
batch_size: 8
hardware: two CPU cores
results:
- {task: classes, target: class, metric: accuracy, value: 0.9, better_is: higher, dataset: SDSS, split: by object,
   test_objects: 14, baseline: ridge, baseline_value: 1}
limits: [It is small.]
"""


def result(**changes) -> Result:
    return Result(**RESULT | changes)


@pytest.mark.parametrize(
    ("value", "error", "better_is", "theirs", "their_error", "verdict"),
    [
        (0.9, 0.03, "higher", 0.8, 0.04, "better"),
        (0.9, 0.03, "lower", 0.8, 0.04, "worse"),
        (0.84, 0.03, "higher", 0.8, 0.04, "within"),  # 0.04 apart, 0.05 in quadrature
        (0.8, None, "lower", 0.9, None, "better"),
        (0.8, None, "higher", 0.8, None, "equal"),
        (0.8, 0.1, "higher", None, None, "none"),
    ],
)
def test_a_figure_wins_or_loses_beyond_the_errors(value, error, better_is, theirs, their_error, verdict):
    baseline = {"baseline": "ridge", "baseline_value": theirs, "baseline_error": their_error} if theirs else {}
    assert result(value=value, error=error, better_is=better_is, **baseline).verdict == verdict


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("nan")}, "r_squared of teff .* must be finite"),
        ({"value": True}, r"Result\.value"),
        ({"value": "0.7"}, "Result.value"),
        ({"error": -0.1}, "errors not negative"),
        ({"test_objects": 0}, "test_objects must be at least 1, found 0"),
        ({"better_is": "larger"}, "better_is"),
        ({"baseline": "ridge"}, "baseline and baseline_value belong together, found 'ridge' and None"),
        ({"baseline_value": 0.5}, "belong together, found '' and 0.5"),
        ({"split": " "}, "Result.split must say something"),
        ({"value": np.float64("nan")}, "must be finite"),
        ({"test_objects": 93.0}, "Result.test_objects"),
        ({"dataset": "***"}, r"\(\*\*\*\): dataset must have a letter or a digit"),
    ],
)
def test_a_figure_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        result(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {}}, "at least one, found none"),
        ({"training": {"sloan": TrainingSurvey(1, 0)}}, r"training must name surveys of SURVEYS .* found sloan"),
        ({"steps": 0}, "steps and batch_size must be positive, found 0 and 8"),
        ({"steps": "many"}, "CardFacts.steps"),
        ({"license": ""}, "CardFacts.license must say something"),
        ({"limits": "one text"}, "CardFacts.limits"),
        ({"repository": "github.com/org/code"}, "repository must be an address, https://..., found 'github.com"),
        ({"repository": "https://x.org/a\nb"}, "repository must be an address"),
        ({"repository": "https://x.org/a|b"}, "repository must be an address"),
        (
            {"results": [result(), result(value=0.6, split="another", baseline="ridge", baseline_value=0.5)]},
            "found more than one of stellar parameters, teff, r_squared, APOGEE giants: keep one",
        ),
        ({"results": [result(method="k-NN")] * 3 + [result()]}, "r_squared, APOGEE giants, k-NN: keep one"),
    ],
)
def test_facts_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CardFacts(**FACTS | changes)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((5, 6), "found 6 of 5"),
        ((0, 0), "a positive number, found 0 of 0"),
        ((5, 0, [5000.0]), "window must be two wavelengths"),
        ((5, 0, [5000.0, 4000.0]), "the shorter first"),
    ],
)
def test_counts_and_windows_must_fit(numbers, message):
    with pytest.raises(ValueError, match=message):
        TrainingSurvey(*numbers)


def test_facts_come_back_from_their_file(tmp_path):
    (tmp_path / "facts.yaml").write_text(FILE)
    facts = load_facts(tmp_path / "facts.yaml")
    assert facts.training == {"sdss": TrainingSurvey(20, 5, note="faint ones")}
    assert facts.results[0].verdict == "worse"
    assert facts.limits == ["It is small."]
    save_facts(facts, tmp_path / "again.yaml")
    assert load_facts(tmp_path / "again.yaml") == facts
    assert "contact" not in (tmp_path / "again.yaml").read_text()  # at its default


def test_figures_that_differ_in_anything_are_kept():
    kept = [{}, {"task": "a"}, {"target": "logg"}, {"metric": "nmad"}, {"dataset": "DESI"}, {"method": "k-NN"}]
    assert len(CardFacts(**FACTS | {"results": [result(**changes) for changes in kept]}).results) == 6


def test_numbers_and_texts_of_numpy_become_plain(tmp_path):
    figure = result(
        value=np.float64(0.3), error=np.float32(0.25), test_objects=np.int64(93), dataset=np.str_("SDSS"),
        baseline="ridge", baseline_value=np.int32(1), baseline_error=np.float64(0.1),
    )  # fmt: skip
    survey = TrainingSurvey(np.int64(5), np.int32(2), window=[np.float64(15168.5), np.int64(15189)])
    facts = CardFacts(
        **FACTS
        | {"training": {np.str_("sdss"): survey}, "steps": np.int64(10), "tags": [np.str_("x")], "results": [figure]}
    )
    save_facts(facts, tmp_path / "facts.yaml")
    found = yaml.safe_load((tmp_path / "facts.yaml").read_text())
    assert found["training"] == {"sdss": {"spectra": 5, "simulated": 2, "window": [15168.5, 15189]}}
    assert {"value": 0.3, "error": 0.25, "test_objects": 93, "baseline_value": 1}.items() <= found["results"][
        0
    ].items()
    assert (found["steps"], found["tags"]) == (10, ["x"])
    assert load_facts(tmp_path / "facts.yaml") == facts
    for values in (vars(figure).values(), vars(survey).values(), survey.window, facts.training, [facts.steps]):
        assert {type(value) for value in values} <= {int, float, str, list, type(None)}


def test_an_empty_list_of_results_is_kept(tmp_path):
    save_facts(CardFacts(**FACTS), tmp_path / "facts.yaml")
    assert load_facts(tmp_path / "facts.yaml").results == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps: 10\n", "", "the file lacks steps: see"),
        ("steps: 10\n", "step: 10\n", "the file does not know step and lacks steps"),
        ("value: 0.9, ", "", "results, number 1 lacks value"),
        ("metric:", "metrics:", "results, number 1 does not know metrics and lacks metric"),
        ("simulated: 5, ", "", "training.sdss lacks simulated"),
        ("{spectra: 20, simulated: 5, note: faint ones}", "20", "training.sdss must be a mapping"),
        ("license: mit", "license: no", "CardFacts.license"),  # YAML's no is False
        ("license: mit", "license: [", "facts.yaml: while parsing"),
        ("- {task", "  a: {task", "results must be a list"),
        (
            "training: {sdss: {spectra: 20, simulated: 5, note: faint ones}}",
            "training: 20",
            "training must be a mapping",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, old, new, message):
    assert old in FILE
    (tmp_path / "facts.yaml").write_text(FILE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_facts(tmp_path / "facts.yaml")
