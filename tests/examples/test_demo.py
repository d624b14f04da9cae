"""`examples/demo.py`: both ways of calling it, for a few steps."""

import sys
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from transformers import pipeline

from spectok_hf import simulate_survey
from spectok_hf.hub import check_card

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import demo

    yield demo
    for name in ("demo", "pretrain"):
        del sys.modules[name]


def test_files_of_ones_own(demo, tmp_path, write_sdss_file, capsys):
    folder = tmp_path / "spectra"
    folder.mkdir()
    for spectrum in simulate_survey("sdss", 8):
        write_sdss_file(spectrum, folder)
    output = tmp_path / "demo"
    demo.run(demo.parse_arguments(["--data", str(folder), "--output_dir", str(output), "--max_steps", "2"]))
    printed = capsys.readouterr().out
    assert (output / "reconstruction_sdss.png").is_file() and (output / "model" / "model.safetensors").is_file()
    assert "| sdss | 2 |" in printed and "held out interpolation" in printed
    assert "noise-free truth" not in printed and "Heads on frozen tokens" not in printed


def test_simulated_surveys(demo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SIMULATED", ["sdss", "apogee"])
    monkeypatch.setattr(
        sys.modules["training_data"], "simulate_survey", lambda name, *_, **__: simulate_survey(name, 6)
    )
    judges = sys.modules["judges"]
    monkeypatch.setattr(judges, "judge_by_truth", partial(judges.judge_by_truth, spectra=2))
    demo.run(demo.parse_arguments(["--output_dir", str(tmp_path), "--max_steps", "2", "--labelled", "20"]))
    printed = capsys.readouterr().out
    assert "| survey | spectra | pixels | tokens | compression |" in printed
    assert "| survey | spectra | S/N 10, model | S/N 10, patch PCA |" in printed.split("noise-free truth")[1]
    for task in ("classes, SDSS | class |", "stars, APOGEE | teff (K) |"):
        assert f"| {task} frozen head, tokens |" in printed and f"| {task} PCA + ridge, raw flux |" in printed
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "reconstruction_apogee-simulated.png",
        "reconstruction_sdss-simulated.png",
    ]
    for folder, repo in (
        ("model", "ORG/spectok-demo"),
        ("heads/classification", "ORG/spectok-demo-classification"),
        ("heads/stellar-parameters", "ORG/spectok-demo-stellar-parameters"),
    ):
        card = ModelCard.load(tmp_path / folder / "README.md")
        check_card(card)
        assert repo in card.text and "PCA" in card.text
    answer = pipeline("stellar-parameters", model=str(tmp_path / "heads/stellar-parameters"))(
        simulate_survey("apogee", 1, kind="STAR")[0]
    )
    assert answer["teff"]["unit"] == "K" and 1000 < answer["teff"]["value"] < 20000
    (best, *_) = pipeline("spectrum-classification", model=str(tmp_path / "heads/classification"))(
        simulate_survey("sdss", 1)[0]
    )
    assert best["label"] in ("GALAXY", "QSO", "STAR")
