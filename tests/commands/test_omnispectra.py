"""Every command with a checkpoint of OmniSpectra, whose patches overlap and whose tokens are as wide as its states."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraProcessor,
    SpectrumEncoder,
    simulate_survey,
)
from spectok_hf.cli import app
from spectok_hf.data.spectrum_files import write_spectra

pq = pytest.importorskip("pyarrow.parquet")

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
HEADS = {
    "": (OmniSpectraForPreTraining, {}),
    "classification": (OmniSpectraForSpectrumClassification, {"id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"}}),
    "stellar-parameters": (OmniSpectraForStellarRegression, {"target_names": ["teff"], "target_units": ["K"]}),
    "redshift": (OmniSpectraForRedshift, {"redshift_bins": 32}),
}
SPECTRA = simulate_survey("gaia_xp", 3, seed=1003)


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("omnispectra")
    for place, (model_class, fields) in HEADS.items():
        torch.manual_seed(0)
        model = model_class(OmniSpectraConfig(**SIZE, initializer_range=0.2, **fields))
        model.remember_processor(OmniSpectraProcessor())
        model.save_pretrained(folder / place)
    return folder


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return SpectrumEncoder.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("spectra") / "xp.parquet"
    write_spectra(SPECTRA, path)
    return path


def test_info_and_read_count_the_patches_that_there_are(checkpoint, source):
    facts = json.loads(done("info", checkpoint, "--json").stdout)
    assert (facts["numbers_per_token"], facts["pixels_per_token"], facts["pixels_between_tokens"]) == (16, 20, 10)
    assert facts["heads"] == ["classification", "stellar-parameters", "redshift"]
    text = done("read", source, "-m", checkpoint, "--most", 1).stdout
    count = int(OmniSpectraProcessor()(SPECTRA[0], return_tensors="np")["num_patches"][0])
    assert f"of {count} patches are valid (more than half of 20 pixels good)" in text
    assert "normalised to (flux - " in text


def test_tables_hold_what_the_encoder_says(checkpoint, encoder, source, tmp_path):
    done("encode", source, "-o", tmp_path / "e.parquet", "-m", checkpoint, "--tokens")
    rows = pq.read_table(tmp_path / "e.parquet").to_pylist()
    np.testing.assert_allclose([row["embedding"] for row in rows], encoder.encode(SPECTRA), atol=1e-5)
    for row, tokens in zip(rows, encoder.encode(SPECTRA, output="tokens"), strict=True):
        np.testing.assert_allclose(row["tokens"], tokens.values, atol=1e-5)
        np.testing.assert_allclose(row["token_wavelength"], tokens.wavelength)
    done("reconstruct", source, "-o", tmp_path / "r.parquet", "-m", checkpoint)
    for row, made in zip(pq.read_table(tmp_path / "r.parquet").to_pylist(), encoder.reconstruct(SPECTRA), strict=True):
        np.testing.assert_allclose(row["reconstruction"], made.flux, rtol=1e-4)
    for command, column in (("classify", "class"), ("predict", "teff"), ("redshift", "redshift")):
        done(command, source, "-o", tmp_path / f"{command}.parquet", "-m", checkpoint)
        found = pq.read_table(tmp_path / f"{command}.parquet")[column].to_pylist()
        expected = [row[column] for row in getattr(encoder, command)(SPECTRA)]
        assert found == (expected if column == "class" else pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize(
    "kind", [["reconstruction"], ["card"], ["attribution"], ["attribution", "--answer", "redshift"]]
)
def test_pictures_are_drawn(checkpoint, source, tmp_path, kind):
    pytest.importorskip("matplotlib").use("agg")
    done("plot", source, "-o", tmp_path / "a.png", "-m", checkpoint, "--kind", *kind)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_shards_are_told_by_the_checkpoints_own_patches(checkpoint, source, tmp_path):
    done("prepare", source, "-o", tmp_path / "shards", "--model", checkpoint)
    validity = json.loads((tmp_path / "shards/manifest.json").read_text())["validity"]
    assert (validity["patch_size"], validity["patch_overlap"]) == (20, 10)


def test_an_index_is_searched(checkpoint, source, tmp_path):
    pytest.importorskip("datasets")
    done("index", source, "-o", tmp_path / "index", "-m", checkpoint, "--tokens")
    for window in ([], ["--window", "5000", "8000"]):
        (found, *_) = done("search", source, tmp_path / "index", "-m", checkpoint, *window).stdout.splitlines()[1:]
        assert found.startswith(SPECTRA[0].object_id)  # itself


def test_an_untrained_checkpoint_is_found(checkpoint):
    result = run("doctor", "-m", checkpoint)
    assert result.exit_code == 1 and "reconstruction: chi2 per pixel" in result.stdout
    assert all(f"test of {checkpoint}, {name}: ok" in result.stdout for name in ("load", "embeddings", "batches"))
