"""The script that judges the search."""

import csv

import evaluate_search
import numpy as np
import pytest

from spectok_hf import simulate_survey


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")
def test_a_smoke_run_writes_what_it_returns(tmp_path, monkeypatch):
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)
    monkeypatch.setattr(evaluate_search, "SAMPLES", evaluate_search.SAMPLES[:2])
    monkeypatch.setattr("spectok_hf.analysis.search_metric.ENOUGH_COPIES", 60)
    arguments = evaluate_search.parse_arguments(["spectok-tiny", "--smoke", "--output", str(tmp_path / "search")])
    rows = evaluate_search.run(arguments)
    with (tmp_path / "search.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    whole = {row["sample"]: row for row in rows if row["part"] == "all"}
    assert whole["optical"]["queries"] == 12 and set(whole) == {"optical", "apogee"}
    assert whole["optical"]["noise metric"] > whole["optical"]["cosine of embeddings"]
    assert "| optical | S/N 5-10 |" in (tmp_path / "search.md").read_text()


def test_two_observations_share_the_truth_and_nothing_else():
    first, second = evaluate_search.observe_twice("boss", 3, 1, honest=True)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.wavelength, two.wavelength)
        both = one.good & two.good
        pulls = [(seen.flux - one.truth)[both] / seen.error[both] for seen in (one, two)]
        assert [float(pull.std()) for pull in pulls] == pytest.approx([1, 1], abs=0.06)
        assert abs(np.corrcoef(*pulls)[0, 1]) < 0.1
        assert not np.array_equal(one.mask, two.mask)


def test_copies_count_once():
    spectra = simulate_survey("sdss", 2, seed=1)
    again = simulate_survey("sdss", 1, seed=1, snr=10)
    assert evaluate_search.without_copies([*spectra, spectra[0], *again]) == [*spectra, *again]
