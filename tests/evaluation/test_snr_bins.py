"""Scores in bins of S/N: the same figures as of those spectra alone, and nothing left out unsaid."""

import numpy as np
import pytest

from spectok_hf import Spectrum
from spectok_hf.evaluation.snr_bins import scores_by_snr
from spectok_hf.evaluation.tasks import Prediction, Split, Task, evaluate_tasks, format_results, write_table

N, TEST = 200, np.arange(80, 200)
WAVELENGTH = np.linspace(5000.0, 5100.0, 9)
SNR = np.random.default_rng(0).uniform(1, 40, N)
SPLIT = Split(range(60), range(60, 80), TEST)
RNG = np.random.default_rng(1)
VALUES, NOISE = RNG.normal(5000, 500, N), RNG.normal(0, 1, N) * 1000 / SNR


def make_task(kind="regression", snr=SNR, splits=(SPLIT,), **fields):
    """Spectra of flux 1 at a S/N, all pixels alike."""
    spectra = [
        Spectrum(np.ones(9), WAVELENGTH, np.full(9, ratio**2), survey="sdss", object_id=str(number))
        for number, ratio in enumerate(snr)
    ]
    labels = {
        "regression": VALUES[:, None],
        "classification": np.where(np.arange(N) % 3 == 0, "QSO", "STAR"),
        "redshift": VALUES / 1e4,
    }[kind]
    names = {"target_names": ["teff"], "target_units": ["K"]} if kind == "regression" else {}
    fields = {"labels": labels} | names | fields
    return Task(name="task", kind=kind, spectra=spectra, splits=list(splits), **fields)


def noisy(task, split, seed):
    """Errors that fall with S/N."""
    if task.kind == "classification":
        return Prediction(np.where(SNR[split.test] < 5, "QSO", task.labels[split.test]))
    return Prediction(task.labels[split.test] + NOISE[split.test].reshape(task.labels[split.test].shape))


def in_bins(task, method=noisy, **options):
    found = []
    options = {"bootstrap": 20} | options
    evaluate_tasks(
        [task],
        {"noisy": method},
        bootstrap=2,
        progress=False,
        record=lambda *said: found.extend(scores_by_snr(*said, **options)),
    )
    return found


def test_a_bin_scores_as_its_spectra_alone():
    rows = in_bins(make_task())
    assert [row["snr"] for row in rows] == ["< 5", "5-10", "10-20", ">= 20"]
    ends = [0, 5, 10, 20, np.inf]
    for row, low, high in zip(rows, ends[:-1], ends[1:], strict=True):
        chosen = TEST[(SNR[TEST] >= low) & (SNR[TEST] < high)]
        alone = make_task(splits=[Split(SPLIT.train, SPLIT.validation, chosen)])
        (expected,) = evaluate_tasks([alone], {"noisy": noisy}, bootstrap=20, progress=False)
        assert {**row, "seconds": 0} == {**expected, "seconds": 0, "snr": row["snr"]}
        assert row["n_train"] == 60
    widths = [row["scaled_mad"] for row in rows]
    assert widths == sorted(widths, reverse=True)
    assert sum(row["n_test"] for row in rows) == len(TEST)


def test_an_edge_belongs_to_the_bin_above_it():
    snr = np.where(np.arange(N) % 2 == 0, 10.0, np.nextafter(10.0, 0))
    rows = in_bins(make_task(), edges=(10.0,), snr=snr)
    assert [(row["snr"], row["n_test"]) for row in rows] == [("< 10", 60), (">= 10", 60)]


@pytest.mark.parametrize("kind", ["classification", "redshift"])
def test_all_kinds_of_tasks(kind):
    rows = in_bins(make_task(kind), edges=(5, 20))
    score = "accuracy" if kind == "classification" else "nmad"
    values = [row[score] for row in rows]
    assert len(set(values)) > 1 and sorted(values, reverse=kind != "classification") == values
    if kind == "classification":
        assert rows[0]["accuracy of STAR"] == 0 and rows[1]["accuracy of STAR"] == 1


def test_too_few_objects_have_no_scores_and_say_so():
    snr = np.where(np.arange(N) < 83, 1.0, 30.0)  # three tested ones
    rows = in_bins(make_task(), snr=snr)
    assert [row["n_test"] for row in rows] == [3, 0, 0, 117]
    assert "scaled_mad" not in rows[0] and rows[0]["reason"] == "3 tested objects, fewer than 10"
    assert "scaled_mad" in rows[3] and rows[3]["reason"] == ""
    text = format_results(rows)
    assert "| task | teff (K) | < 5 | noisy | - |" in text
    assert "* teff at S/N < 5 on task: 3 tested objects, fewer than 10" in text
    assert "scaled_mad" in in_bins(make_task(), snr=snr, least=3)[0]


def test_spectra_without_a_ratio_have_a_bin_of_their_own():
    snr = np.where(np.arange(N) % 4 == 0, np.nan, 30.0)
    rows = in_bins(make_task(), edges=(10,), snr=snr)
    assert [(row["snr"], row["n_test"]) for row in rows] == [("< 10", 0), (">= 10", 90), ("unknown", 30)]
    assert "scaled_mad" in rows[2]


def test_missing_labels_do_not_count_towards_a_bin():
    labels = np.stack([VALUES, np.where(np.arange(N) % 10 == 0, VALUES, np.nan)], -1)
    task = make_task(labels=labels, target_names=["teff", "age"], target_units=["K", "Gyr"])
    rows = in_bins(task, lambda task, split, seed: Prediction(np.stack([VALUES[split.test]] * 2, -1)), edges=(20,))
    assert [row["target"] for row in rows] == ["teff", "teff", "age", "age"]
    assert [row["n_test"] < 10 for row in rows] == [bool(row["reason"]) for row in rows] == [False, False, True, True]
    assert rows[2]["n_test"] + rows[3]["n_test"] == 12


def test_a_split_without_a_spectrum_of_a_bin_does_not_count():
    halves = [Split(SPLIT.train, SPLIT.validation, part) for part in (TEST[:60], TEST[60:])]
    snr = np.where(np.arange(N) < TEST[60], 1.0, 30.0)
    low, high = in_bins(make_task(splits=halves), edges=(10,), snr=snr)
    for row, split in ((low, halves[0]), (high, halves[1])):
        (alone,) = evaluate_tasks([make_task(splits=[split])], {"noisy": noisy}, bootstrap=2, progress=False)
        assert row["scaled_mad"] == alone["scaled_mad"] and row["test_objects"] == 60


def test_methods_beside_each_other_in_one_table(tmp_path):
    task, rows = make_task(), []
    methods = {"noisy": noisy, "exact": lambda task, split, seed: Prediction(task.labels[split.test])}
    evaluate_tasks(
        [task],
        methods,
        bootstrap=2,
        progress=False,
        record=lambda *said: rows.extend(scores_by_snr(*said, bootstrap=5)),
    )
    write_table(rows, tmp_path / "by_snr")
    lines = (tmp_path / "by_snr.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip(" |") for cell in line.split(" | ")] for line in lines[4:12]]
    assert [cell[2:4] for cell in cells] == [
        [name, method] for name in ("< 5", "5-10", "10-20", ">= 20") for method in ("noisy", "exact")
    ]
    assert all("**" in cell[4] for cell in cells[1::2])  # in each bin the best
    assert not any("**" in cell[5] for cell in cells[::2])
    assert "snr" in (tmp_path / "by_snr.csv").read_text(encoding="utf-8").splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": (10, 5)}, r"edges must be finite and ascend, at least one, found \[10, 5\]"),
        ({"edges": ()}, "edges must be finite and ascend"),
        ({"edges": (5, np.inf)}, "edges must be finite and ascend"),
        ({"snr": [1.0, 2.0]}, r"200 spectra need as many snr, found shape \(2,\)"),
        ({"bootstrap": 1}, "bootstrap must be at least 2, found 1"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        in_bins(make_task(), **options)
