"""The commands that make what others use; spectok prepare, embed and space are tested in test_cli.py."""

import numpy as np
import pytest
from typer.testing import CliRunner

from spectok_hf import read_spectra, simulate_survey
from spectok_hf.cli import app

pytest.importorskip("pyarrow")


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


def test_simulated_spectra_are_those_of_python(tmp_path):
    path = tmp_path / "below" / "stars.parquet"
    options = ["--seed", 5, "--kind", "STAR", "--snr", 10, 20, "-q"]
    result = run("simulate", "sdss", 3, "-o", path, *options)
    assert result.exit_code == 0 and result.stdout == "", result.output
    assert result.stderr == f"{path}: 3 simulated spectra of sdss, seed 5\n"
    expected = simulate_survey("sdss", 3, seed=5, kind="STAR", snr=(10, 20))
    for one, spectrum in zip(read_spectra(path, progress=False), expected, strict=True):
        assert (one.object_id, one.labels) == (spectrum.object_id, spectrum.labels)
        np.testing.assert_array_equal(one.flux, spectrum.flux)
        np.testing.assert_array_equal(one.truth, spectrum.truth)


def test_simulated_spectra_replace_nothing(tmp_path):
    path = tmp_path / "stars.parquet"
    path.write_text("mine")
    result = run("simulate", "gaia_xp", 1, "-o", path)
    assert result.exit_code == 1 and "is there already: pass --overwrite" in result.output
    assert path.read_text() == "mine"
    assert run("simulate", "gaia_xp", 1, "-o", path, "--overwrite").exit_code == 0
    assert len(read_spectra(path)) == 1
    result = run("simulate", "euclid", 1, "-o", tmp_path / "other.parquet")
    assert result.exit_code == 1 and "survey must be one of sdss" in result.output
    result = run("simulate", "gaia_xp", 1, "-o", tmp_path / "spectra.fits")
    assert result.exit_code == 1 and "must end in .parquet, found .fits: name it so" in result.output
    assert list(tmp_path.iterdir()) == [path]


def test_a_card_is_written_from_the_facts_of_a_checkpoint(tmp_path):
    result = run("card", "spectok-tiny", "--repo", "me/mine", "-o", tmp_path / "README.md")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\n") and "me/mine" in text
    assert run("card", "spectok-tiny", "--repo", "me/mine").stdout.strip() == text.strip()
    result = run("card", "-o", tmp_path / "README.md")
    assert result.exit_code == 1 and "pass --overwrite" in result.output
    assert (tmp_path / "README.md").read_text() == text


def test_a_card_needs_facts(tmp_path):
    result = run("card", tmp_path)
    assert result.exit_code == 1 and "found no" in result.output and "facts.yaml" in result.output
