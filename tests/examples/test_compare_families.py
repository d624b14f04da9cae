"""The two scripts that compare: SpecTok and OmniSpectra, and OmniSpectra with and without its parts."""

import math

import ablate_omnispectra
import ablations
import compare_families
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForPreTraining

import spectok_hf
from spectok_hf.evaluation.masked import MaskedScore
from spectok_hf.evaluation.reconstruction import format_table

SHARED = ("max_steps", "per_device_train_batch_size", "temperature", "eval_share", "weight_decay", "seed")


@pytest.fixture(autouse=True)
def no_real_spectra(monkeypatch):
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)


def make_model(recipe):
    family = recipe.get("family", "spectok")
    config = type(AutoConfig.for_model(family)).from_preset(recipe["preset"], **recipe["config_overrides"])
    with torch.device("meta"):  # no weights are made
        return AutoModelForPreTraining.from_config(config)


def test_the_recipes_differ_in_nothing_that_would_make_the_comparison_unfair():
    recipes = {family: yaml.safe_load(path.read_text()) for family, path in compare_families.RECIPES.items()}
    assert [len({str(recipe[name]) for recipe in recipes.values()}) for name in SHARED] == [1] * len(SHARED)
    models = {family: make_model(recipe) for family, recipe in recipes.items()}
    sizes = [model.num_parameters() for model in models.values()]
    assert max(sizes) / min(sizes) < 1.01
    for family, model in models.items():
        assert model.config.model_type == family
        assert model.config.patch_size == recipes[family]["patch_size"]  # the shards are prepared for it


def test_the_models_that_lack_a_part_lack_one_each():
    recipe = yaml.safe_load(ablate_omnispectra.CONFIG.read_text())
    full = make_model(recipe).config
    for name, fields in ablate_omnispectra.VARIANTS.items():
        overrides = recipe["config_overrides"] | fields
        config = make_model(recipe | {"config_overrides": overrides}).config
        differing = {key for key, value in config.to_dict().items() if value != full.to_dict()[key]}
        assert differing == set(fields) and len(fields) == (name != ablate_omnispectra.FULL)


def test_judged_spectra_come_from_all_surveys_in_turn():
    spectra = ablate_omnispectra.judged_spectra(["sdss", "apogee"], 3)
    assert [spectrum.survey for spectrum in spectra] == ["sdss", "apogee"] * 3
    assert len({spectrum.object_id for spectrum in spectra}) == 6


def score(survey, model, interpolation):
    errors = {"model": model, "interpolation": interpolation, "mean": 1.0}
    return MaskedScore(survey=survey, tokens=50, pixels=1000, flux=errors, token=errors)


def test_figures_are_means_over_spectra_and_surveys_stand_apart():
    scores = [score("sdss", 0.2, 0.4), score("sdss", 0.4, 0.6), score("desi", 0.9, 1.2)]
    found = ablate_omnispectra.figures(scores)
    assert found == pytest.approx({"all": 0.5, "sdss": 0.3, "desi": 0.9})
    assert ablate_omnispectra.figures(scores, "interpolation")["sdss"] == pytest.approx(0.5)
    unhidden = score("desi", math.nan, math.nan)
    assert ablate_omnispectra.figures([*scores, unhidden]) == pytest.approx(found)


def test_the_table_compares_trainings_of_the_same_seed():
    results = {"full model": [{"all": 0.5}, {"all": 0.6}], "no local position": [{"all": 0.51}, {"all": 0.63}]}
    lines = ablate_omnispectra.table(results, {"mean": {"all": 1.0}}).splitlines()
    assert len(lines) == 5 and "worse than full, all" in lines[0]
    assert "0.5500 ± 0.071" in lines[2] and "0.0200 ± 0.014" in lines[3]
    assert "0.505" in lines[2] and "0.531" in lines[3]  # the paper's
    assert lines[4].startswith("| (mean) |")


def test_facts_of_two_models_stand_side_by_side(tmp_path):
    args = compare_families.parse_arguments(["--smoke", "--surveys", "sdss"])
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    folders = {}
    for family, config in (
        ("spectok", spectok_hf.SpecTokConfig(**small, decoder_num_hidden_layers=1)),
        ("omnispectra", spectok_hf.OmniSpectraConfig(**small)),
    ):
        folders[family] = tmp_path / family
        AutoModelForPreTraining.from_config(config).save_pretrained(folders[family])
    first, second = compare_families.facts(folders, args)
    pixels = [len(s) for s in spectok_hf.simulate_survey("sdss", compare_families.TIMED, seed=1005)]
    mean = sum(math.ceil(count / 32) for count in pixels) / len(pixels)
    assert first["tokens, sdss"] == pytest.approx(mean)
    assert second["tokens, sdss"] == pytest.approx(sum(math.ceil((n - 10) / 10) for n in pixels) / len(pixels))
    assert (first["numbers per token"], second["numbers per token"]) == (8, 32)
    for what in ("training", "encoding"):
        column = f"{what}, spectra/s of SpecTok's"
        assert first[column] == 1 and second[column] > 0
    assert "OmniSpectra" in format_table([first, second])


def test_a_training_with_other_settings_is_not_taken_for_this_one(tmp_path):
    (tmp_path / "settings.yaml").write_text("max_steps: 1000\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/report.md").touch()
    with pytest.raises(ValueError, match=r"must hold a training of these settings, found others in .*settings.yaml"):
        ablations.train(tmp_path, {"max_steps": 500}, [])


@pytest.mark.slow
def test_everything_is_trained_once_and_compared(tmp_path):
    arguments = compare_families.parse_arguments(["--smoke", "--output", str(tmp_path)])
    text = compare_families.run(arguments)
    written = (tmp_path / "comparison.md").read_text()
    assert text + "\n" == written
    for name in (
        "SpecTok, attention head, tokens",
        "SpecTok, linear head, states",
        "OmniSpectra, linear head",
        "PCA + ridge, raw flux",
        "constant",
    ):
        assert name in written
    for family in ("spectok", "omnispectra"):
        assert AutoConfig.from_pretrained(tmp_path / family / "model").model_type == family


@pytest.mark.slow
def test_parts_are_taken_away_one_by_one(tmp_path):
    arguments = [str(ablate_omnispectra.CONFIG), "--smoke", "--surveys", "sdss", "--output", str(tmp_path)]
    text = ablate_omnispectra.run(ablate_omnispectra.parse_arguments(arguments))
    assert all(name in text for name in ablate_omnispectra.VARIANTS)
    assert (tmp_path / "table.md").read_text() == text + "\n"
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/model/model.safetensors")}
    assert len(trained) == 4
    assert ablate_omnispectra.run(ablate_omnispectra.parse_arguments(arguments)) == text
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
