"""`spectok doctor`: what works here, and what does not."""

import json

import pytest
import torch
from typer.testing import CliRunner

import spectok_hf
from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AstroClipProcessor,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerModel,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpectrumProcessor,
)
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


SPECFORMER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = SPECFORMER | {"model_type": "vit", "image_size": 24, "patch_size": 8}


@pytest.mark.parametrize(
    "grid", [{}, {"grid_start": 4000.0, "grid_step": 2.0, "grid_size": 1200}], ids=["of DESI", "of its own"]
)
def test_a_specformer_is_tried_on_its_grid(grid, tmp_path):
    torch.manual_seed(0)
    model = SpecformerModel(SpecformerConfig(**SPECFORMER, **grid, initializer_range=0.2))
    model.remember_processor(SpecformerProcessor(**grid))
    model.save_pretrained(tmp_path)
    result = run("doctor", "-m", tmp_path)
    assert result.exit_code == 0, result.output
    assert all(f"test of {tmp_path}, {name}: ok" in result.stdout for name in ("load", "embeddings", "batches"))


def test_an_untrained_specformer_is_found(tmp_path):
    torch.manual_seed(0)
    model = SpecformerForPreTraining(SpecformerConfig(**SPECFORMER, initializer_range=0.2))
    model.remember_processor(SpecformerProcessor())
    model.save_pretrained(tmp_path)
    result = run("doctor", "-m", tmp_path)
    assert result.exit_code == 1 and "found a problem with: reconstruction" in result.stderr


@pytest.mark.parametrize("family", ["specformer", "spectok"])
def test_an_astroclip_is_tried_on_what_its_spectrum_encoder_reads(family, tmp_path):
    torch.manual_seed(0)
    sizes = SPECFORMER | {"initializer_range": 0.2}
    spectra = SpecformerConfig(**sizes) if family == "specformer" else SpecTokConfig(**sizes)
    processor = SpecformerProcessor() if family == "specformer" else SpectrumProcessor()
    model = AstroClipModel(AstroClipConfig(spectrum_config=spectra, vision_config=VISION, projection_dim=16))
    model.remember_processor(AstroClipProcessor(processor, image_size=24))
    model.save_pretrained(tmp_path)
    result = run("doctor", "-m", tmp_path)
    assert result.exit_code == 0, result.output
