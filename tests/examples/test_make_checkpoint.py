"""The recipe of the shipped checkpoints: data, training, ablations, publication."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ablations
import card_figures
import checkpoint_data
import evaluate_checkpoint
import evaluate_reconstruction
import evaluate_transfer
import finetune_classification
import finetune_redshift
import finetune_stellar_parameters
import latent_space
import make_checkpoint
import numpy as np
import pretrain
import publish_checkpoint
import pytest
import round_weights
import torch
import yaml
from safetensors.torch import load_file

from spectok_hf import (
    DataCollatorForPackedSpectra,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.dataset import object_groups
from spectok_hf.data.shards import SpectrumShards, write_shards
from spectok_hf.evaluation.reconstruction import clean_patches
from spectok_hf.hub.card_facts import load_facts

EXAMPLES = Path(make_checkpoint.__file__).parent
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
FINETUNING = {
    "classification": finetune_classification,
    "stellar-parameters": finetune_stellar_parameters,
    "redshift": finetune_redshift,
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shards"
    write_shards([s for survey in ("sdss", "apogee") for s in simulate_survey(survey, 8, seed=3)], folder)
    return folder


@pytest.fixture(scope="module")
def made(shards, tmp_path_factory):
    """What the steps before the last leave, in seconds: trainings of few steps, and tables of few spectra."""
    folder = tmp_path_factory.mktemp("made") / "spectok-tiny"
    quiet = ["--disable_tqdm", "true"]
    start = str(folder / "pretraining")
    options = ["--shards", str(shards), "--max_steps", "2", "--per_device_train_batch_size", "2", *quiet]
    pretrain.main([*options, "--config_overrides", json.dumps(TINY), "--output_dir", start])
    for head, script in FINETUNING.items():
        script.main(["--smoke", "--model_name_or_path", start, "--output_dir", str(folder / head), *quiet])
    tables = folder / "tables"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_space, "umap_map", lambda features, **options: np.asarray(features)[:, :2])
        patch.delenv("SPECTOK_SPECTRA", raising=False)
        for script, name in ((evaluate_reconstruction, "reconstruction"), (evaluate_transfer, "transfer")):
            script.run(script.parse_arguments([start, "--smoke", "--output", str(tables / name)]))
        arguments = [start, "--smoke", "--output", str(tables / "latent_space")]
        latent_space.run(latent_space.parse_arguments(arguments))
        for name, method in (("tasks", card_figures.FROZEN), ("heads", card_figures.SHIPPED)):
            arguments = [start, "--smoke", "--output", str(tables / name), "--heads", str(folder)]
            arguments += ["--methods", method, card_figures.PLAIN]
            evaluate_checkpoint.run(evaluate_checkpoint.parse_arguments(arguments))
    return folder


def test_the_steps_follow_each_other_and_what_is_done_is_left(tmp_path, capsys):
    options = ["spectok-tiny", "--spectra", "somewhere", "--output", str(tmp_path), "--dry_run"]
    make_checkpoint.run(make_checkpoint.parse_arguments(options))
    lines = capsys.readouterr().out.splitlines()
    steps = [line.partition(":")[0] for line in lines]
    assert steps == ["data", "pretraining", *["heads"] * 3, *["lamost"] * 2, "weights", *["tables"] * 6, "card"]
    assert all(Path(word).exists() for line in lines for word in line.split() if word.endswith((".py", ".yaml")))
    marks = [tmp_path / "spectok-tiny" / name for name in ("shards/manifest.json", "pretraining/report.md")]
    for mark in marks:
        mark.parent.mkdir(parents=True)
        mark.touch()
    options += ["--steps", "data", "pretraining"]
    make_checkpoint.run(make_checkpoint.parse_arguments(options))
    assert capsys.readouterr().out == f"data: {marks[0]} is there\npretraining: {marks[1]} is there\n"
    os.utime(marks[1], (0, 0))  # of an earlier training, on other shards
    make_checkpoint.run(make_checkpoint.parse_arguments(options))
    assert "pretrain.py" in capsys.readouterr().out


def test_shards_of_ones_own_and_a_launcher(capsys, monkeypatch):
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)
    options = ["spectok-base", "--shards", "a", "b", "--launch", "torchrun --nproc_per_node 4", "--dry_run"]
    options += ["--options", "--max_steps 7"]
    make_checkpoint.run(make_checkpoint.parse_arguments([*options, "--steps", "data", "pretraining"]))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"pretraining: torchrun --nproc_per_node 4 {EXAMPLES / 'pretrain.py'}")
    assert line.endswith("--shards a b --max_steps 7")
    with pytest.raises(ValueError, match="heads need labelled spectra"):
        make_checkpoint.run(make_checkpoint.parse_arguments([*options, "--steps", "heads"]))
    with pytest.raises(ValueError, match="the real spectra are needed: pass --spectra FOLDER"):
        make_checkpoint.run(make_checkpoint.parse_arguments(["spectok-tiny", "--dry_run"]))


def test_pretraining_on_shards_needs_neither_datasets_nor_evaluate_nor_astropy(shards, tmp_path):
    start = "import sys, runpy; sys.modules.update(dict.fromkeys(['datasets', 'evaluate', 'astropy', 'specutils']));"
    start += "script = sys.argv[1]; sys.argv = sys.argv[1:]; runpy.run_path(script, run_name='__main__')"
    options = [
        "--shards",
        str(shards),
        "--max_steps",
        "1",
        "--config_overrides",
        json.dumps(TINY),
        "--use_cpu",
        "true",
    ]
    command = [sys.executable, "-c", start, str(EXAMPLES / "pretrain.py"), *options, "--output_dir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.md").exists()


def test_the_folder_is_complete_and_its_cards_hold_what_the_tables_hold(made, tmp_path):
    folder = tmp_path / "spectok-tiny"
    publish_checkpoint.run(publish_checkpoint.parse_arguments([str(made), str(folder)]))
    assert "Nothing has been measured with this checkpoint." in (folder / "README.md").read_text()
    card_figures.run(card_figures.parse_arguments([str(made / "tables"), str(folder)]))
    names = {path.name for path in folder.iterdir()}
    assert {
        "README.md",
        "facts.yaml",
        "config.json",
        "model.safetensors",
        "figures",
        *publish_checkpoint.HEADS,
    } <= names
    assert {path.name for path in (folder / "figures").iterdir()} >= {"reconstruction.png", "galaxies.png"}
    facts = load_facts(folder / "facts.yaml")
    rows = card_figures.read_rows(made / "tables/reconstruction.csv")
    values = {float(f"{row['model']:.3g}") for row in rows}
    assert values <= {result.value for result in facts.results}
    assert (facts.steps, facts.batch_size) == (2, 2)
    assert {name: (survey.spectra, survey.simulated) for name, survey in facts.training.items()} == {
        "apogee": (8, 8),
        "sdss": (8, 8),
    }
    card = (folder / "README.md").read_text()
    assert "![" in card and "### Transfer" in card and "Of the aims that the project set" in card
    for head in publish_checkpoint.HEADS:
        weights = load_file(folder / head / "model.safetensors")
        assert not [name for name in weights if name.startswith("decoder")], head
        results = load_facts(folder / head / "facts.yaml").results
        assert results and {result.method for result in results} == {"shipped head"}
    model = SpecTokForPreTraining.from_pretrained(folder)
    exact = load_file(made / "pretraining/model.safetensors")
    for name, value in model.state_dict().items():
        assert value.dtype == exact[name].dtype and (value - exact[name]).abs().max() <= 0.02 * exact[name].abs().max()


def test_rounding_the_ends_keeps_what_they_give():
    spectra, processor = simulate_survey("lamost", 12, seed=3), SpectrumProcessor()
    torch.manual_seed(0)
    model = SpecTokForPreTraining(SpecTokConfig(**TINY)).eval()
    patches = [processor.patch(spectrum) for spectrum in spectra]
    model.initialize_from_patch_pca(*map(torch.from_numpy, clean_patches(patches)))
    inputs = DataCollatorForPackedSpectra(processor)(spectra[8:])

    def reconstruct(changed):
        with torch.no_grad():
            return changed(**inputs, return_loss=False).reconstruction

    exact, plain = reconstruct(model), copy.deepcopy(model)
    plain.load_state_dict({name: value.bfloat16().float() for name, value in plain.state_dict().items()})
    round_weights.round_ends(model, processor, spectra[:8])
    for linear in (model.spectok.embeddings.projection, model.decoder.head):
        for weight in (linear.weight, linear.bias):
            assert torch.equal(weight, weight.bfloat16().float())
    wrong = [(reconstruct(changed) - exact).abs().median().item() for changed in (model, plain)]
    assert wrong[0] < 0.5 * wrong[1]


def test_real_objects_that_are_held_out_are_nowhere_in_the_shards(spectra_dir, tmp_path):
    options = [str(spectra_dir), str(tmp_path / "shards"), "--smoke"]
    checkpoint_data.run(checkpoint_data.parse_arguments(options))
    opened = SpectrumShards(tmp_path / "shards")
    spectra = [opened[index] for index in range(len(opened))]
    real = [spectrum for spectrum in spectra if spectrum.truth is None]
    train, held = checkpoint_data.split_real(spectra_dir)
    keys = object_groups([*real, *held])
    assert not set(keys[: len(real)]) & set(keys[len(real) :])
    assert len(train) - 4 <= len(real) <= len(train)  # without those that have no valid patch
    parents = {str(spectrum.labels.get("parent")) for spectrum in spectra}
    assert parents - {"None"} and not parents & {str(spectrum.object_id) for spectrum in held}


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_variants_are_valid_settings(name, tmp_path):
    recipe = yaml.safe_load((EXAMPLES / "configs/spectok-tiny.yaml").read_text())
    settings = ablations.run_settings(recipe, ablations.VARIANTS[name], max_steps=3, output_dir=str(tmp_path))
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    model_args, _, training = pretrain.parse_arguments([str(path)])
    config = pretrain.make_model(model_args)[0].config
    assert training.max_steps == 3 and config.spectrum_loss == ("mean" if name == "loss_mean" else "log")
    changed = {key for key in settings if settings[key] != recipe.get(key)} - {"max_steps", "output_dir"}
    changed |= {key for key in recipe if key not in settings}
    assert changed == set(ablations.VARIANTS[name])


def test_the_table_has_the_scatter_over_seeds(tmp_path):
    for seed, value in ((0, 1.0), (1, 1.2)):
        folder = tmp_path / f"recipe-{seed}"
        folder.mkdir()
        (folder / "figures.json").write_text(json.dumps({"truth 10": value}))
    shutil.copytree(tmp_path / "recipe-0", tmp_path / "adamw-0")
    rows = ablations.table(ablations.read_results(tmp_path))
    assert rows == [
        {"variant": "recipe", "seeds": 2, "truth 10": "1.100 ± 0.14"},
        {"variant": "adamw", "seeds": 1, "truth 10": "1.000"},
    ]
