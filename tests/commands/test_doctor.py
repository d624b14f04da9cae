"""`spectok doctor`: what works here, and what does not."""

import json

import pytest
import torch
from typer.testing import CliRunner

import spectok_hf
from spectok_hf import SpecTokConfig, SpecTokForPreTraining, SpectrumProcessor
from spectok_hf.cli import app
from spectok_hf.inference.answers import load_checkpoint, place_of


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


def test_a_sound_machine():
    result = run("doctor")
    assert result.exit_code == 0, result.output
    for part in (f"spectok-hf {spectok_hf.__version__}", "torch 2", "devices: cpu", "extra astro: ", "spectok-tiny"):
        assert part in result.stdout
    for name in ("load", "embeddings", "batches", "reconstruction"):
        assert f"test of spectok-tiny, {name}: ok" in result.stdout


def test_json_for_programs():
    found = json.loads(run("doctor", "--json").stdout)
    assert found["packages"]["torch"] == str(torch.__version__).partition("+")[0] or found["packages"]["torch"]
    assert [test["problem"] for test in found["tests"]] == [""] * 4
    assert found["checkpoints"][0] == "spectok-tiny" and set(found["extras"]) == {
        "astro",
        "plot",
        "search",
        "train",
        "space",
    }


def test_a_head_has_nothing_to_reconstruct():
    assert run("doctor", "-m", "spectok-tiny/redshift").exit_code == 0


@pytest.fixture
def broken(tmp_path):
    """The shipped checkpoint with all weights so, and its processor."""

    def make(value):
        model, processor = load_checkpoint(*place_of("spectok-tiny"))
        with torch.no_grad():
            for values in model.parameters():
                values.fill_(value)
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize(("value", "text"), [(0.0, "equal embeddings"), (torch.nan, "must be finite, found 3 of 3")])
def test_a_broken_checkpoint_is_found(value, text, broken):
    folder = broken(value)
    result = run("doctor", "-m", folder)
    assert result.exit_code == 1 and text in result.stdout
    assert f"the self-test of {folder} found a problem with: embeddings" in result.stderr
    found = json.loads(run("doctor", "-m", folder, "--json").stdout)
    assert next(test for test in found["tests"] if test["name"] == "embeddings")["problem"]


def test_an_untrained_checkpoint_reconstructs_badly(tmp_path):
    torch.manual_seed(0)
    SpecTokForPreTraining(SpecTokConfig.from_preset("tiny")).save_pretrained(tmp_path)
    SpectrumProcessor().save_pretrained(tmp_path)
    result = run("doctor", "-m", tmp_path)
    assert result.exit_code == 1 and "reconstruction: chi2 per pixel" in result.stdout


def test_a_checkpoint_that_cannot_be_loaded_is_one_problem(tmp_path):
    result = run("doctor", "-m", tmp_path)
    assert result.exit_code == 1 and "load: FileNotFoundError" in result.stdout and "KeyError" not in result.stdout
    assert "found a problem with: load" in result.stderr and "embeddings:" not in result.stdout
