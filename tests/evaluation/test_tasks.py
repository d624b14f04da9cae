"""Splits by object, methods side by side, and their tables."""

import csv

import numpy as np
import pytest

from spectok_hf import Spectrum
from spectok_hf.evaluation.tasks import (
    NotApplicable,
    Prediction,
    Split,
    Task,
    evaluate_tasks,
    format_overview,
    format_results,
    score_predictions,
    split_objects,
    write_table,
)

WAVELENGTH = np.linspace(5000.0, 5100.0, 8)


def make_spectra(names):
    return [Spectrum(np.ones(8), WAVELENGTH, np.ones(8), survey="sdss", object_id=str(name)) for name in names]


def objects_of(spectra, part):
    return {spectra[index].object_id for index in part}


def make_task(kind="regression", n=60, splits=None, **fields):
    rng = np.random.default_rng(1)
    labels = {
        "regression": rng.normal(5000, 500, (n, 1)),
        "classification": np.array(["GALAXY", "STAR", "STAR"] * (n // 3)),
        "redshift": rng.uniform(0, 2, n),
    }[kind]
    if kind == "regression":
        fields = {"target_names": ["teff"], "target_units": ["K"]} | fields
    spectra = make_spectra(range(n))
    fields = {"name": "task", "labels": labels} | fields
    return Task(kind=kind, spectra=spectra, splits=splits or [split_objects(spectra, seed=0)], **fields)


def shifted(shift):
    return lambda task, split, seed: Prediction(task.labels[split.test] + shift)


def test_no_object_is_in_two_parts_and_all_spectra_are_in_one():
    spectra = make_spectra(np.random.default_rng(0).permutation(200) % 40)
    split = split_objects(spectra, seed=3)
    parts = [objects_of(spectra, part) for part in (split.train, split.validation, split.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(200))
    assert [len(part) for part in parts] == [26, 6, 8]  # of 40 objects


def test_keys_not_order_decide_and_the_seed_does():
    spectra = make_spectra(range(50))
    tested = objects_of(spectra, split_objects(spectra, seed=1).test)
    assert objects_of(spectra[::-1], split_objects(spectra[::-1], seed=1).test) == tested
    assert objects_of(spectra, split_objects(spectra, seed=2).test) != tested


def test_given_groups_are_the_objects():
    spectra = make_spectra(range(30))
    groups = [index // 3 for index in range(30)]
    split = split_objects(spectra, seed=0, groups=groups)
    assert len({index // 3 for index in split.test}) * 3 == len(split.test)


def test_rare_classes_are_in_each_part():
    classes = ["a"] * 60 + ["b"] * 3 + ["c"] * 2 + ["d"]
    split = split_objects(make_spectra(range(66)), seed=0, classes=classes)
    found = {name: sorted({classes[index] for index in part}) for name, part in vars(split).items()}
    assert found == {"train": ["a", "b", "c", "d"], "validation": ["a", "b"], "test": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (2, {}, "3 objects at least"),
        (9, {"test_share": 0.9}, "positive and leave some"),
        (9, {"validation_share": 0.0}, "positive and leave some"),
        (9, {"groups": ["a"]}, "as many groups"),
    ],
)
def test_impossible_splits_are_refused(count, options, message):
    with pytest.raises(ValueError, match=message):
        split_objects(make_spectra(range(count)), seed=0, **options)


def test_a_split_holds_each_spectrum_once():
    with pytest.raises(ValueError, match="found 3 more often"):
        Split([1, 2, 3], [4], [3])
    with pytest.raises(ValueError, match="test must be a vector of indices, at least one"):
        Split([1], [2], [])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ranking"}, "kind must be one of"),
        ({"target_names": ["teff", "logg"]}, "a name and a unit for each"),
        ({"labels": np.full((60, 1), np.inf)}, "found infinite ones"),
        ({"labels": np.where(np.arange(60) == 7, -9999, 5e3)[:, None]}, "found infinite ones or -9999"),
        ({"labels": np.full((60, 1), np.nan)}, "needs 2 known teff, found 0"),
        ({"labels": np.ones((50, 1))}, "60 spectra need as many labels, found 50"),
        ({"groups": ["same"] * 60}, "no object may be in two parts of split 0, found same: use split_objects"),
        ({"splits": [Split([0, 1], [2], [60])]}, "must be below 60"),
        ({"kind": "redshift", "labels": np.full(60, np.nan)}, "finite and above -1"),
        ({"kind": "redshift", "object_classes": ["DWARF"] * 60}, "found DWARF"),
        ({"kind": "classification", "classes": ["STAR"]}, "among STAR, found GALAXY"),
        ({"kind": "classification", "labels": ["STAR", "QSO"] * 29 + [None, np.nan]}, "found 2 of 60 without: drop"),
        ({"kind": "classification", "labels": np.array(["A", "B"] * 29 + ["nan", ""])}, "found 2 of 60 without: drop"),
        ({"kind": "classification", "splits": [Split([1, 2], [3], [4])]}, "needs 2 classes, found STAR alone"),
    ],
)
def test_tasks_are_checked_where_they_are_made(fields, message):
    kind = fields.pop("kind", "regression")
    if kind == "ranking":
        fields = {"labels": np.ones(3)}
        with pytest.raises(ValueError, match=message):
            Task(name="task", kind=kind, spectra=make_spectra("abc"), splits=[], **fields)
        return
    with pytest.raises(ValueError, match=message):
        make_task(kind, **fields)


def test_errors_are_those_of_the_bootstrap_of_a_mean():
    task = make_task("classification", n=600, splits=[Split(range(100), range(100, 200), range(200, 600))])
    (row,) = evaluate_tasks([task], {"star": star}, progress=False)
    share = row["accuracy"]
    assert share == pytest.approx(2 / 3, abs=0.01) and row["accuracy of STAR"] == 1 and row["accuracy of GALAXY"] == 0
    assert row["accuracy_error"] == pytest.approx(np.sqrt(share * (1 - share) / 400), rel=0.1)
    assert row["accuracy of STAR_error"] == 0 and (row["n_train"], row["n_test"]) == (100, 400)


def star(task, split, seed):
    return Prediction(np.full(len(split.test), "STAR"))


def test_repeat_spectra_and_repeat_splits_do_not_make_errors_smaller():
    spectra = make_spectra(np.repeat(np.arange(50), 4))
    classes = np.repeat(np.where(np.arange(50) % 2 == 0, "STAR", "GALAXY"), 4)
    split = Split(range(40), range(40, 80), range(80, 200))
    fields = {"kind": "classification", "spectra": spectra, "labels": classes}
    tasks = [Task(name=f"{n} splits", splits=[split] * n, **fields) for n in (1, 4)]
    one, four = evaluate_tasks(tasks, {"star": star}, progress=False)
    for row in (one, four):
        assert row["test_objects"] == 30 and row["n_test"] == 120
        assert row["accuracy_error"] == pytest.approx(np.sqrt(0.25 / 30), rel=0.1)
    assert four["accuracy_spread"] == 0 and "accuracy_spread" not in one


def test_the_score_of_several_splits_is_their_mean():
    spectra = make_spectra(range(60))
    splits = [split_objects(spectra, seed=seed) for seed in (0, 1)]
    seeds = []

    def by_seed(task, split, seed):
        seeds.append(seed)
        return shifted(10.0 * seed)(task, split, seed)

    (row,) = evaluate_tasks([make_task(splits=splits)], {"shifted": by_seed}, seed=4, bootstrap=50, progress=False)
    assert seeds == [4, 5] and row["bias"] == pytest.approx(45.0)
    assert row["scaled_mad_spread"] == pytest.approx(1.4826 * np.std([40, 50], ddof=1))


def test_missing_targets_are_left_out_and_counted():
    task = make_task(
        labels=np.stack([np.arange(60.0), np.where(np.arange(60) % 3 == 0, np.nan, 1e3 + np.arange(60))], -1),
        target_names=["teff", "age"],
        target_units=["K", "Gyr"],
    )

    def exact(task, split, seed):
        return Prediction(np.nan_to_num(task.labels[split.test], nan=-99.0), np.full((len(split.test), 2), 3.0))

    rows = evaluate_tasks([task], {"exact": exact}, bootstrap=20, progress=False)
    assert [row["r_squared"] for row in rows] == [1.0, 1.0] and [row["pull"] for row in rows] == [0.0, 0.0]
    assert rows[1]["n_test"] == np.isfinite(task.labels[task.splits[0].test, 1]).sum() < rows[0]["n_test"] == 12


def test_pull_compares_residual_and_uncertainty():
    task = make_task("redshift", object_classes=["QSO"] * 60)

    def method(task, split, seed):
        return Prediction(task.labels[split.test] + 0.002, np.full(len(split.test), 0.001))

    (row,) = evaluate_tasks([task], {"z": method}, bootstrap=10, progress=False)
    assert row["pull"] == pytest.approx(2 * 1.4826) and row["velocity_success"] == 1 and row["target"] == "redshift"


@pytest.mark.parametrize("kind", ["regression", "redshift"])
def test_crps_is_by_the_uncertainty_of_a_method_or_its_scatter(kind):
    task = make_task(kind)
    truth = task.labels[task.splits[0].test]
    error = np.random.default_rng(2).normal(0.1, 0.2, truth.shape)
    widths = {"silent": None, "honest": np.full(truth.shape, error.std()), "vain": np.full(truth.shape, 1e-9)}
    methods = {name: lambda *_, width=width: Prediction(truth + error, width) for name, width in widths.items()}
    rows = {row["method"]: row for row in evaluate_tasks([task], methods, bootstrap=20, progress=False)}
    assert rows["silent"]["crps"] == pytest.approx(rows["honest"]["crps"])
    assert rows["vain"]["crps"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert rows["silent"]["crps"] < rows["vain"]["crps"] and rows["vain"]["crps_error"] > 0
    assert "| CRPS |" in format_results(list(rows.values()))
    assert "flatters" in format_results(list(rows.values())) and "flatters" not in format_results([rows["honest"]])


def test_predictions_are_recorded_once_per_method_and_score_the_same_again():
    splits = [split_objects(make_spectra(range(60)), seed=seed) for seed in (0, 1)]
    task, recorded, fits = make_task(splits=splits), {}, []

    def near(task, split, seed):
        fits.append(seed)
        return NEAR(task, split)

    def cannot(task, split, seed):
        raise NotApplicable("it reads no SDSS")

    def record(task, name, predictions):
        recorded[task.name, name] = predictions

    (row, _) = evaluate_tasks([task], {"near": near, "cannot": cannot}, bootstrap=20, progress=False, record=record)
    assert list(recorded) == [("task", "near")] and len(fits) == len(recorded["task", "near"]) == 2
    (again,) = score_predictions(task, "near", recorded["task", "near"], bootstrap=20)
    assert {**again, "seconds": 0} == {**row, "seconds": 0} and len(fits) == 2
    with pytest.raises(ValueError, match="task task has 2 splits, found 1 predictions"):
        score_predictions(task, "near", recorded["task", "near"][:1])


def test_what_is_not_applicable_is_listed_and_what_fails_is_not_hidden():
    def cannot(task, split, seed):
        raise NotApplicable("it reads no SDSS")

    def fails(task, split, seed):
        raise KeyError("weights")

    rows = evaluate_tasks([make_task()], {"a": shifted(1.0), "b": cannot}, bootstrap=10, progress=False)
    assert "r_squared" not in rows[1] and rows[1]["reason"] == "it reads no SDSS"
    text = format_results(rows)
    assert (
        "| task | teff (K) | b | - | - | - | - | - | 39 / 12 | - |" in text and "* b on task: it reads no SDSS" in text
    )
    with pytest.raises(KeyError, match="weights"):
        evaluate_tasks([make_task()], {"fails": fails}, progress=False)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("regression", np.zeros(12), r"of bad for task must have shape \(12, 1\), found \(12,\)"),
        ("regression", np.full((12, 1), np.nan), "must be finite, found 12"),
        ("classification", np.full(12, "QUASAR"), "among GALAXY, STAR, found QUASAR"),
    ],
)
def test_impossible_predictions_are_refused(kind, values, message):
    with pytest.raises(ValueError, match=message):
        evaluate_tasks([make_task(kind)], {"bad": lambda *_: Prediction(values)}, progress=False)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="different names"):
        evaluate_tasks([make_task(), make_task()], {"star": star}, progress=False)
    with pytest.raises(ValueError, match="bootstrap must be at least 2"):
        evaluate_tasks([make_task()], {"star": star}, bootstrap=1, progress=False)
    with pytest.raises(ValueError, match="needs rows"):
        format_results([])
    with pytest.raises(ValueError, match="needs rows"):
        format_overview([])


def test_the_best_and_all_within_its_error_are_bold():
    base = {
        "task": "t",
        "kind": "redshift",
        "target": "redshift",
        "unit": "",
        "n_train": 9,
        "n_test": 5,
        "seconds": 1.0,
    }
    rows = [
        base | {"method": name, "reason": "", "nmad": value, "nmad_error": 0.01, "r_squared": value, "bias": 0.0}
        for name, value in (("first", 0.1), ("second", 0.105), ("third", 0.2))
    ]
    lines = format_results(rows).splitlines()[4:7]
    assert [line.split(" | ")[3] for line in lines] == ["0.1", "0.105", "**0.2**"]  # R²: no error, the highest
    assert [line.split(" | ")[4] for line in lines] == ["**0.100 ± 0.010**", "**0.105 ± 0.010**", "0.200 ± 0.010"]
    assert "**0 " not in "".join(lines)  # bias has no best


def test_an_overview_has_a_line_for_each_target_and_a_column_for_each_method():
    def cannot(task, split, seed):
        raise NotApplicable("it reads no SDSS")

    numbers = evaluate_tasks([make_task()], {"near": shifted(1.0), "cannot": cannot}, bootstrap=20, progress=False)
    classes = evaluate_tasks([make_task("classification", name="class")], {"star": star}, bootstrap=20, progress=False)
    table, errors = format_overview([*numbers, *classes]).split("\n\n")
    titles, _, teff, kind = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    assert titles == ["task", "target", "score", "near", "cannot", "star"]
    assert teff[:3] == ["task", "teff (K)", "R²"] and teff[4:] == ["-", "-"]
    assert kind[:3] == ["class", "class", "accuracy"] and kind[3:5] == ["-", "-"]
    assert teff[3] in format_results(numbers) and kind[5] in format_results(classes)
    assert teff[3].startswith("**") and kind[5].startswith("**")
    assert "bootstrap" in errors


def test_tables_are_written_at_full_precision(tmp_path):
    tasks = [make_task(), make_task("classification", name="class")]
    methods = {
        "near": lambda task, split, seed: star(task, split, seed) if task.kind != "regression" else NEAR(task, split)
    }
    rows = evaluate_tasks(tasks, methods, bootstrap=20, progress=False)
    write_table(rows, tmp_path / "new" / "results.v1")
    assert (tmp_path / "new" / "results.v1.md").read_text(encoding="utf-8") == format_results(rows) + "\n"
    with (tmp_path / "new" / "results.v1.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert float(found[0]["scaled_mad_error"]) == rows[0]["scaled_mad_error"] and found[1]["scaled_mad_error"] == ""
    assert float(found[1]["macro_f1"]) == rows[1]["macro_f1"]
    assert "| recall by class |" in format_results(rows) and "GALAXY 0.00, STAR 1.00" in format_results(rows)


def NEAR(task, split):
    return Prediction(task.labels[split.test] + np.arange(len(split.test))[:, None])
