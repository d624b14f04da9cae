"""`spectok index`, `search` and `outliers`: through the command line, on the shipped checkpoint."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from spectok_hf import read_spectra, simulate_survey
from spectok_hf.cli import app
from spectok_hf.data.spectrum_files import write_spectra

SOURCE = "simulate:sdss:12:2512"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neighbours") / "index"
    result = run("index", SOURCE, "-o", folder, "--tokens", "-q")
    assert result.exit_code == 0, result.output
    return folder


def test_a_spectrum_of_the_index_is_its_own_nearest(index, tmp_path):
    spectra = simulate_survey("sdss", 12, seed=2512)
    for spectrum in spectra[:3]:
        write_spectra([spectrum], tmp_path / "one.parquet")
        found = rows(run("search", tmp_path / "one.parquet", index, "-k", 3, "--json", "-q"))
        assert found[0]["id"] == spectrum.object_id
        assert found[0]["distance"] < 1e-3 < found[1]["distance"] <= found[2]["distance"]


def test_an_id_does_not_find_itself(index):
    found = rows(run("search", "sim-sdss-2512-00003", index, "--id", "-k", 4, "--json"))
    assert len(found) == 4 and "sim-sdss-2512-00003" not in {row["id"] for row in found}


def test_sources_are_indexed_on_the_spot_and_give_what_the_index_gives(index):
    query = ["search", "simulate:sdss:20:2512", "--row", 15, "-k", 2, "--json", "-q"]
    there, now = rows(run(*query, index)), rows(run(*query, SOURCE))
    assert [row["id"] for row in there] == [row["id"] for row in now]


def test_a_window_compares_tokens(index):
    whole, part = (
        rows(run("search", "sim-sdss-2512-00003", index, "--id", "-k", 11, "--json", *more))
        for more in ((), ("--window", 6500, 7000))
    )
    assert {row["id"] for row in whole} == {row["id"] for row in part}
    assert [row["id"] for row in whole] != [row["id"] for row in part]


def test_a_picture_and_a_table_for_people(index, tmp_path):
    result = run("search", "sim-sdss-2512-00003", index, "--id", "-k", 2, "--plot", tmp_path / "near.png")
    assert result.exit_code == 0 and (tmp_path / "near.png").stat().st_size > 10_000
    assert result.stdout.splitlines()[0].split()[:2] == ["id", "distance"] and "nan" not in result.stdout
    again = run("search", "sim-sdss-2512-00003", index, "--id", "--plot", tmp_path / "near.png")
    assert again.exit_code == 1 and "near.png is there already: pass --overwrite" in " ".join(again.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--id"), "the index has no id 'nobody'"),
        (("simulate:sdss:2", "--row", 5), "simulate:sdss:2 has no row 5"),
        (("simulate:sdss:1", "--window", 20000, 21000), "20000"),
    ],
)
def test_what_cannot_be_asked(index, arguments, said):
    result = run("search", arguments[0], index, *arguments[1:])
    assert result.exit_code == 1 and said in " ".join(result.output.split())


def test_an_index_as_the_query_is_refused(index):
    result = run("search", index, SOURCE)
    assert result.exit_code == 1 and "is an index, and the query comes first" in " ".join(result.output.split())


def test_one_object_twice_has_two_ids(tmp_path):
    spectra = simulate_survey("sdss", 4, seed=2512)
    spectra[1].object_id = spectra[0].object_id
    write_spectra(spectra, tmp_path / "twice.parquet")
    found = rows(run("search", spectra[0].object_id, tmp_path / "twice.parquet", "--id", "-k", 3, "--json", "-q"))
    assert f"{spectra[0].object_id}#2" in {row["id"] for row in found}


def test_an_index_is_not_replaced_unasked(index):
    before = (index / "index.json").read_bytes()
    result = run("index", "simulate:sdss:4", "-o", index, "-q")
    assert result.exit_code == 1 and "is there already" in result.output
    assert (index / "index.json").read_bytes() == before


@pytest.mark.filterwarnings("ignore:.*mask:UserWarning")
def test_what_is_left_out_of_an_index_is_named(tmp_path):
    spectra = simulate_survey("sdss", 4, seed=2512)
    spectra[1].mask[:] = True
    write_spectra(spectra, tmp_path / "some.parquet")
    result = run("index", tmp_path / "some.parquet", "-o", tmp_path / "index", "-q")
    assert result.exit_code == 0 and f"left out 1 without a valid patch: {spectra[1].object_id}" in result.output


def test_a_folder_that_is_no_index_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("spectok_hf.commands.neighbours.load_encoder", lambda *_: pytest.fail("worked"))
    result = run("index", SOURCE, "-o", tmp_path, "--overwrite", "-q")
    assert result.exit_code == 1 and "where it is an index" in " ".join(result.output.split())


def test_an_index_of_one_has_no_neighbour(tmp_path):
    assert run("index", "simulate:sdss:1:2512", "-o", tmp_path / "one", "-q").exit_code == 0
    result = run("search", "sim-sdss-2512-00000", tmp_path / "one", "--id")
    assert result.exit_code == 0 and "nothing else in the index" in result.output


# Outliers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_a_spike(tmp_path_factory):
    """Ordinary spectra, and one with cosmic rays that nobody has masked."""
    spectra = simulate_survey("sdss", 3, seed=905)
    good = np.flatnonzero(spectra[1].good)[500::700]
    spectra[1].flux[good] += 80 / np.sqrt(spectra[1].ivar[good])
    path = tmp_path_factory.mktemp("outliers") / "spectra.parquet"
    write_spectra(spectra, path)
    return path


def test_the_odd_one_comes_first_and_the_table_says_why(with_a_spike, tmp_path):
    table = tmp_path / "ranked.csv"
    result = run("outliers", with_a_spike, "--reference", "simulate:sdss:70:906", "-o", table, "-q")
    assert result.exit_code == 0, result.output
    ranked = pd.read_csv(table)
    assert len(ranked) == 3 and ranked["row"].iloc[0] == 1
    assert ranked["p"].iloc[0] < 0.05 and (np.diff(ranked["score"]) <= 0).all()
    assert "sigma" in ranked["why"].iloc[0] and set(ranked["source"]) == {str(with_a_spike)}


def test_many_spectra_are_ranked_in_windows_as_all_at_once(with_a_spike, monkeypatch):
    arguments = ("outliers", with_a_spike, "--reference", "simulate:sdss:60:906", "--json", "-q")
    whole = rows(run(*arguments))
    monkeypatch.setattr("spectok_hf.commands.neighbours.HELD", 4)  # a window of one spectrum
    parts = rows(run(*arguments))
    assert [row["object_id"] for row in whole] == [row["object_id"] for row in parts]
    np.testing.assert_allclose([row["score"] for row in whole], [row["score"] for row in parts], rtol=1e-3)


def test_too_few_references_say_how_many_are_needed(with_a_spike):
    result = run("outliers", with_a_spike, "-q")
    assert result.exit_code == 1 and "60" in result.output and "3 of sdss" in result.output


def test_unreadable_files_are_named_and_the_others_ranked(with_a_spike, tmp_path):
    (tmp_path / "broken.fits").write_bytes(b"")
    arguments = ("outliers", with_a_spike, tmp_path / "broken.fits", "--reference", "simulate:sdss:60:906", "-q")
    result = run(*arguments)
    assert result.exit_code == 0 and "skipped 1:" in result.output and "broken.fits is empty" in result.output
    assert run(*arguments, "--strict").exit_code == 1


def test_references_that_cannot_be_read_are_named(with_a_spike, tmp_path):
    (tmp_path / "broken.fits").write_bytes(b"")
    references = ("--reference", "simulate:sdss:60:906", "--reference", tmp_path / "broken.fits")
    result = run("outliers", with_a_spike, *references, "-q")
    assert result.exit_code == 0 and "skipped 1:" in result.output and "broken.fits is empty" in result.output


def test_many_spectra_rank_those_of_few_last_as_few_spectra_do(monkeypatch):
    monkeypatch.setattr("spectok_hf.commands.neighbours.HELD", 40)
    ranked = rows(run("outliers", "simulate:sdss:60:906", "simulate:boss:2:906", "--json", "-q"))
    assert len(ranked) == 62 and [row["survey"] for row in ranked[-2:]] == ["boss", "boss"]
    assert all("too few references" in row["reason"] for row in ranked[-2:])


def test_ranked_spectra_are_those_of_the_file(with_a_spike):
    ranked = rows(run("outliers", with_a_spike, "--reference", "simulate:sdss:60:906", "--json", "-q"))
    names = [spectrum.object_id for spectrum in read_spectra(str(with_a_spike))]
    assert {row["object_id"]: row["row"] for row in ranked} == {name: row for row, name in enumerate(names)}
