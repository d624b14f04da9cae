"""The commands that make what others use; of prepare the families, its rest, embed and space are in test_cli.py."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spectok_hf import (
    OmniSpectraProcessor,
    SpecformerProcessor,
    SpectrumProcessor,
    read_spectra,
    simulate_survey,
)
from spectok_hf.cli import app
from spectok_hf.data.prepare import validity_of

pytest.importorskip("pyarrow")


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("visit", [0, 1])
def test_simulated_spectra_are_those_of_python(visit, tmp_path):
    path = tmp_path / "below" / "stars.parquet"
    options = ["--seed", 5, "--kind", "STAR", "--snr", 10, 20, "--visit", visit, "-q"]
    result = run("simulate", "sdss", 3, "-o", path, *options)
    assert result.exit_code == 0 and result.stdout == "", result.output
    assert result.stderr == f"{path}: 3 simulated spectra of sdss, seed 5\n"
    expected = simulate_survey("sdss", 3, seed=5, kind="STAR", snr=(10, 20), visit=visit)
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
    assert "write at least license, training, steps, batch_size, hardware and results" in result.output


def test_a_card_names_no_repository_of_others():
    result = run("card", "spectok-tiny")
    assert result.exit_code == 1 and result.output.endswith("found no name for that: pass --repo ORG/NAME\n")


@pytest.mark.parametrize(
    ("argument", "writes"),
    [
        ("spectok-tiny", False),
        ("spectok-tiny/redshift", False),
        ("me/mine", False),
        ("me/mine@abc", False),
        ("my space", True),
        ("there/mine", True),
        ("./me/mine", True),
        ("a/b/c", True),
    ],
)
def test_one_argument_of_space_is_a_folder(argument, writes, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("spectok_hf.hub.space.write_space", lambda *given, **options: asked.append(given) or given[1])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    result = run("space", argument)
    assert result.exit_code == (not writes)
    if writes:
        assert asked == [("spectok-tiny", Path(argument))]
        assert shlex.split(result.stdout.splitlines()[-1])[-3] == str(Path(argument))
    else:
        assert asked == [] and f"found the checkpoint {argument} alone: pass FOLDER as well" in result.output


@pytest.mark.parametrize(
    ("options", "processor"),
    [
        ([], SpectrumProcessor()),
        (["--family", "spectok", "--patch-size", 20], SpectrumProcessor(patch_size=20)),
        (["--family", "omnispectra"], OmniSpectraProcessor()),
        (["--family", "specformer"], SpecformerProcessor()),
        (["--family", "specformer", "--patch-size", 40], SpecformerProcessor(patch_size=40)),
    ],
)
def test_shards_are_made_for_a_new_model_of_a_family(options, processor, tmp_path):
    result = run("prepare", "simulate:desi:1", "-o", tmp_path, *options, "--workers", 1, "-q")
    assert result.exit_code == 0 and f"{tmp_path}: 1 spectra; " in result.output, result.output
    assert json.loads((tmp_path / "manifest.json").read_text())["validity"] == validity_of(processor)


def test_shards_for_a_specformer_leave_out_what_is_off_its_grid(tmp_path):
    sources = ["simulate:sdss:2", "simulate:desi:3"]
    result = run("prepare", *sources, "-o", tmp_path / "out", "--family", "specformer", "--workers", 1, "-q")
    assert result.exit_code == 0, result.output
    assert ": 3 spectra; 2 not: cannot be read; 5 in " in result.output
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["surveys"] == {"desi": 3}
    (failures,) = manifest["failures"]["sources"].values()
    assert failures["count"] == 2 and "Specformer reads spectra on one grid, 7781 pixels" in failures["first"]
    options = ["--family", "specformer", "--workers", 1, "-q", "--strict"]
    result = run("prepare", *sources, "-o", tmp_path / "strict", *options)
    assert result.exit_code == 1 and "row 0: Specformer reads spectra on one grid" in result.output
    assert not (tmp_path / "strict/manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--family", "omnispectra"], "found --family omnispectra beside it: pass either"),
        (["--patch-size", 20], "found --patch-size 20 beside it"),
        (["--family", "spectok", "--patch-size", 32], "found --family spectok and --patch-size 32 beside it"),
    ],
)
def test_a_checkpoint_says_its_family_and_patches_itself(options, said, tmp_path):
    result = run("prepare", "simulate:desi:1", "-o", tmp_path / "out", "--model", "spectok-tiny", *options)
    assert result.exit_code == 1 and "--model spectok-tiny has a processor, " + said in result.output
    assert not (tmp_path / "out").exists()


def test_families_that_read_no_spectra_alone_are_none_of_shards(tmp_path):
    result = run("prepare", "simulate:desi:1", "-o", tmp_path / "out", "--family", "astroclip")
    assert result.exit_code == 2 and "'spectok', 'omnispectra', 'specformer'" in result.output
    result = run("prepare", "simulate:desi:1", "-o", tmp_path / "out", "--family", "specformer", "--patch-size", 16)
    assert result.exit_code == 1 and "patch_overlap must be at least 0 and at most half of" in result.output
    assert "Specformer reads DESI's grid alone" in " ".join(run("prepare", "--help").output.split())
