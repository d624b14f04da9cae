"""`examples/pretrain.py`: its options, and runs of a few steps from beginning to end."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from resumable_trainer import whole_checkpoints
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, AutoProcessor, Trainer, TrainingArguments

from spectok_hf import (
    DataCollatorForSpectra,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.dataset import SpectrumDataset, object_groups
from spectok_hf.data.shards import write_shards
from spectok_hf.data.simulation.recipes import RECIPES

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "pretrain.py"
PROCESSOR = SpectrumProcessor()
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
TINY = [
    *("--config_overrides", json.dumps(MODEL), "--simulate", "sdss", "--num_simulated", "11"),
    *("--max_steps", "6", "--per_device_train_batch_size", "2", "--learning_rate", "1e-3"),
    *("--logging_steps", "1", "--save_strategy", "no", "--disable_tqdm", "true"),
]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pretrain_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where HfArgumentParser looks for the types of the fields
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def finished(script, tmp_path_factory):
    """A run on two surveys with two evaluations: its folder, its trainer and the held-out spectra."""
    output = tmp_path_factory.mktemp("run") / "model"
    options = ["--simulate", "sdss", "apogee", "--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2"]
    return output, *script.main([*TINY, *options, "--output_dir", str(output)])


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def write_yaml(folder, **options):
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(options))
    return str(path)


def test_the_command_line_goes_before_the_file_and_the_file_before_defaults(script, tmp_path):
    path = write_yaml(tmp_path, simulate=["galah", "desi"], learning_rate=3e-4, seed=5, max_steps=7, eval_share=0.3)
    model, data, training = script.parse_arguments([path, "--seed", "6", "--simulate", "boss", "--preset", "small"])
    assert (training.seed, data.simulate, model.preset) == (6, ["boss"], "small")
    assert (training.learning_rate, training.max_steps, data.eval_share) == (3e-4, 7, 0.3)
    assert (training.output_dir, data.num_simulated) == ("outputs/pretrain", 500)


def test_smoke_goes_before_the_file_but_not_before_the_command_line(script, tmp_path):
    path = write_yaml(tmp_path, max_steps=1000, simulate=["galah"], output_dir="valuable", learning_rate=3e-4)
    _, data, training = script.parse_arguments([path, "--smoke", "--num_simulated", "5"])
    assert (training.max_steps, training.output_dir) == (4, "outputs/pretrain-smoke")
    assert (data.simulate, data.num_simulated, training.learning_rate) == (["sdss", "apogee"], 5, 3e-4)


def test_an_unknown_option_of_the_file_is_named(script, tmp_path):
    path = write_yaml(tmp_path, simulate=["sdss"], learning_rat=1e-3, epochs=3)
    with pytest.raises(ValueError, match="the configuration sets unknown options: epochs, learning_rat; --help"):
        script.parse_arguments([path])


AT_SCALE = ("h200.yaml", "paper.yaml")  # with the user's shards
SHIPPED = ("spectok-tiny.yaml", "spectok-small.yaml", "spectok-base.yaml")
PAPERS = ("omnispectra-paper.yaml", "specformer-paper.yaml")  # of the other families
FROM_SHARDS = (*AT_SCALE, *SHIPPED, *PAPERS, "omnispectra-ablation.yaml", "demo.yaml")
OTHERS = ("finetune", "compare", "align", "spectrum-vit")  # of other scripts
SIMULATED = {
    **{name: [] for name in FROM_SHARDS},
    "first_training.yaml": list(RECIPES),
    "specformer-tiny.yaml": ["desi"],
}
PRESETS = {**dict.fromkeys((*AT_SCALE, *PAPERS, "spectok-base.yaml"), "base"), "spectok-small.yaml": "small"}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted((SCRIPT.parent / "configs").glob("*.yaml")) if not path.name.startswith(OTHERS)],
    ids=lambda path: path.name,
)
def test_the_configurations_beside_it_are_valid(script, path):
    model, data, training = script.parse_arguments([str(path), "--use_cpu", "true"])  # bf16 asks for a GPU else
    assert data.simulate == SIMULATED.get(path.name, ["sdss", "desi", "galah", "apogee"])
    assert not data.weights or len(data.weights) == len(data.simulate) + len(data.data)
    assert model.preset == PRESETS.get(path.name, "tiny")
    assert model.family == next((name for name in ("omnispectra", "specformer") if name in path.name), "spectok")
    assert isinstance(training.learning_rate, float) and training.max_steps > 0


@pytest.mark.parametrize("name", AT_SCALE)
def test_the_papers_run_is_that_of_the_paper(script, name):
    """arXiv 2510.17959, section 4: 600k steps of 64 spectra, AdamW at a constant 1e-4, weight decay 0.01."""
    path = str(SCRIPT.parent / "configs" / name)
    model, data, training = script.parse_arguments([path, "--shards", "somewhere", "--use_cpu", "true"])
    processes = {"paper.yaml": 4, "h200.yaml": 1}[name]
    assert training.per_device_train_batch_size * processes * training.gradient_accumulation_steps == 64
    assert (training.max_steps, training.learning_rate, training.weight_decay) == (600_000, 1e-4, 0.01)
    assert training.lr_scheduler_type == "constant" and training.optim.startswith("adamw")
    assert not model.patch_pca_start and data.temperature == float("inf")
    config = script.make_model(model)[0].config
    assert (config.hidden_size, config.num_hidden_layers, config.decoder_num_hidden_layers) == (512, 6, 6)


def test_settings_of_a_file_may_be_short(script, tmp_path):
    path = write_yaml(tmp_path, simulate="sdss", smoke=True, config_overrides={"patch_size": 16})
    model, data, _ = script.parse_arguments([path, "--simulate", "sdss"])
    assert data.simulate == ["sdss"] and data.smoke and data.overwrite_output
    _, processor = script.make_model(model)
    assert processor.patch_size == 16
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert script.parse_arguments([str(tmp_path / "empty.yaml")])[0].preset == "tiny"


def test_one_object_cannot_be_split(script, tmp_path):
    with pytest.raises(ValueError, match="found 1 spectra, and no survey with two objects"):
        script.main([*TINY, "--num_simulated", "1", "--output_dir", str(tmp_path / "run")])


def test_only_a_new_model_that_starts_from_a_pca_slows_its_linear_maps(script, finished, tmp_path):
    def rates(trainer):
        return sorted(
            {round(group["initial_lr"] / trainer.args.learning_rate, 6) for group in trainer.optimizer.param_groups}
        )

    output, trainer, _ = finished
    assert rates(trainer) == [0.05, 1.0]
    options = [*TINY, "--max_steps", "1", "--model_name_or_path", str(output), "--output_dir", str(tmp_path / "run")]
    assert rates(script.main(options)[0]) == [1.0]


def test_nothing_to_train_on_is_said(script, tmp_path):
    with pytest.raises(ValueError, match="nothing to train on: pass --simulate"):
        script.main(["--output_dir", str(tmp_path / "run")])


def test_a_folder_with_something_else_is_refused_and_kept(script, tmp_path):
    precious = tmp_path / "thesis.tex"
    precious.write_text("42")
    for options in ([], ["--overwrite_output"], ["--smoke"]):
        with pytest.raises(FileExistsError, match="not empty and holds no checkpoint to resume from: pass another"):
            script.main([*TINY, "--output_dir", str(tmp_path), *options])
    assert precious.read_text() == "42"


def test_a_finished_run_and_one_with_other_settings_are_kept(script, finished, tmp_path):
    output, _, _ = finished
    report = (output / "report.md").read_text()
    with pytest.raises(FileExistsError, match="holds a finished run: pass another --output_dir or --overwrite_output"):
        script.main([*TINY, "--output_dir", str(output)])
    assert (output / "report.md").read_text() == report

    options = [*TINY, "--save_strategy", "steps", "--save_steps", "1", "--max_steps", "1"]
    options += ["--output_dir", str(tmp_path / "run")]
    script.main(options)
    (tmp_path / "run" / "report.md").unlink()
    with pytest.raises(FileExistsError, match=r"holds a run with other settings .see run.json: seed: 42 -> 7."):
        script.main([*options, "--seed", "7"])


def test_checkpoints_of_a_run_that_did_not_mark_them_are_kept(script, tmp_path):
    """As another Trainer writes them: without the mark, nobody can tell whether they are whole."""
    run = tmp_path / "run"
    (run / "checkpoint-3").mkdir(parents=True)
    (run / "checkpoint-3/trainer_state.json").write_text("42")
    (run / "report.md").write_text("valuable")
    before = sorted(run.rglob("*"))
    for text in (None, "{}"):
        if text:
            (run / "run.json").write_text(text)
        for options in ([], ["--overwrite_output"]):
            with pytest.raises(
                FileExistsError, match="not empty and holds no checkpoint to resume from: pass another"
            ):
                script.main([*TINY, "--output_dir", str(run), *options])
    assert [path for path in sorted(run.rglob("*")) if path.name != "run.json"] == before


def test_a_checkpoint_that_is_named_is_kept_and_must_be_whole(script, finished, tmp_path):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(tmp_path / "run")]
    script.main(options)
    (tmp_path / "run/checkpoint-4/complete.json").unlink()
    with pytest.raises(ValueError, match="checkpoint-4 was interrupted while it was written"):
        script.main([*options, "--resume_from_checkpoint", str(tmp_path / "run/checkpoint-4")])
    with pytest.raises(ValueError, match="must be a checkpoint of a Trainer, found none at"):
        script.main([*options, "--resume_from_checkpoint", str(tmp_path / "run/checkpoint-5")])
    # From an earlier one: those after it are of another past, and no longer the last.
    trainer, _ = script.main([*options, "--resume_from_checkpoint", str(tmp_path / "run/checkpoint-2")])
    assert trainer.state.global_step == 6
    assert steps_of_checkpoints(tmp_path / "run") == [2, 4, 6]


def steps_of_checkpoints(folder):
    return [int(path.name.split("-")[1]) for path in whole_checkpoints(folder)]


def test_a_checkpoint_that_is_written_again_does_not_count_meanwhile(script, tmp_path, monkeypatch):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(tmp_path / "run")]
    script.main(options)

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script.PretrainingTrainer, "_save_optimizer_and_scheduler", fail)
        script.main([*options, "--resume_from_checkpoint", str(tmp_path / "run/checkpoint-2")])
    assert steps_of_checkpoints(tmp_path / "run") == [2, 6]


@pytest.mark.parametrize("length", [["--max_steps", "6"], ["--max_steps", "-1", "--num_train_epochs", "1"]])
def test_a_run_that_was_killed_behind_its_last_step_is_not_trained_further(script, tmp_path, length):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "2", *length, "--output_dir", str(tmp_path / "run")]
    whole, _ = script.main(options)
    weights = load_file(tmp_path / "run/model.safetensors")
    for name in ("report.md", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    trainer, _ = script.main(options)
    assert trainer.state.global_step == whole.state.global_step and losses(trainer) == losses(whole)
    again = load_file(tmp_path / "run/model.safetensors")
    assert all(torch.equal(again[name], values) for name, values in weights.items())
    assert (tmp_path / "run/report.md").exists()


def test_a_checkpoint_without_its_optimizer_is_refused(script, tmp_path):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(tmp_path / "run")]
    script.main(options)
    (tmp_path / "run/report.md").unlink()
    shutil.rmtree(tmp_path / "run/checkpoint-6")
    (tmp_path / "run/checkpoint-4/optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"must hold optimizer.pt, the optimizer of a model that is not sharded"):
        script.main(options)


def test_two_runs_do_not_write_into_one_folder(script, tmp_path, monkeypatch):
    from spectok_hf.data import whole_files

    monkeypatch.setattr(whole_files, "LOCK_PATIENCE", 0.1)
    with whole_files.locked(tmp_path / "run", "a test"), pytest.raises(ValueError, match="another run writes into"):
        script.main([*TINY, "--output_dir", str(tmp_path / "run")])


def test_the_best_checkpoint_is_kept_however_the_folder_is_spelled(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        *TINY,
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--save_total_limit",
        "1",
        "--learning_rate",
        "0",
    ]
    options += ["--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "true"]
    options += ["--metric_for_best_model", "eval_sdss-simulated_loss", "--output_dir", "./run"]
    trainer, _ = script.main(options)
    assert trainer.state.best_global_step == 2  # none is better than the first
    assert (tmp_path / "run/checkpoint-2/model.safetensors").exists()


def test_old_checkpoints_go_when_the_new_one_is_whole(script, tmp_path):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "2"]
    script.main([*options, "--output_dir", str(tmp_path / "run")])
    found = sorted(path.parent.name for path in (tmp_path / "run").glob("checkpoint-*/complete.json"))
    assert found == ["checkpoint-5", "checkpoint-6"]
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 2


def test_overwriting_starts_anew_and_keeps_what_no_run_has_written(script, tmp_path):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "2", "--output_dir", str(tmp_path / "run")]
    script.main(options)
    (tmp_path / "run" / "thesis.tex").write_text("42")
    with pytest.raises(FileExistsError, match=r"holds thesis.tex beside a run, which no run writes: move it"):
        script.main([*options, "--overwrite_output"])
    assert (tmp_path / "run/report.md").exists() and (tmp_path / "run/checkpoint-2").exists()
    (tmp_path / "run" / "thesis.tex").unlink()
    trainer, _ = script.main([*options, "--overwrite_output", "--max_steps", "1"])
    assert trainer.state.global_step == 1 and not (tmp_path / "run/checkpoint-2").exists()


def test_evaluation_reports_every_survey(finished):
    _, trainer, _ = finished
    for survey in ("sdss-simulated", "apogee-simulated"):
        for name in (
            "loss",
            "chi2_model",
            "chi2_patch_PCA",
            "held_out_model",
            "held_out_interpolation",
            "truth_model",
        ):
            found = [entry for entry in trainer.state.log_history if f"eval_{survey}_{name}" in entry]
            assert [entry["step"] for entry in found] == [2, 4]
            assert np.isfinite([entry[f"eval_{survey}_{name}"] for entry in found]).all()


def test_plots_and_tables_are_written(finished):
    output, _, held_out = finished
    plots = sorted(str(path.relative_to(output)) for path in output.glob("plots/*/*.png"))
    assert plots == [
        f"plots/step-{step:07d}/{survey}-simulated.png" for step in (2, 4) for survey in ("apogee", "sdss")
    ]
    report = (output / "report.md").read_text()
    assert f"| sdss-simulated | {sum(s.survey == 'sdss' for s in held_out)} |" in report
    assert "| survey | spectra | S/N 10, model | S/N 10, patch PCA |" in report


def test_training_and_held_out_objects_are_disjoint(finished):
    _, trainer, held_out = finished
    train = trainer.train_dataset.spectra
    assert not {s.object_id for s in train} & {s.object_id for s in held_out}
    assert len(train) + len(held_out) == 22
    evaluated = [s for dataset in trainer.eval_dataset.values() for s in dataset.spectra]
    assert {s.object_id for s in evaluated} == {s.object_id for s in held_out}
    assert {s.survey for s in train} == {s.survey for s in held_out} == {"sdss", "apogee"}


def test_evaluation_can_be_capped(script, tmp_path):
    options = [*TINY, "--simulate", "sdss", "apogee", "--eval_share", "0.5", "--max_eval", "2", "--max_steps", "1"]
    trainer, held_out = script.main([*options, "--output_dir", str(tmp_path / "run")])
    assert [len(dataset) for dataset in trainer.eval_dataset.values()] == [2, 2] and len(held_out) == 4
    assert len(trainer.train_dataset) == 10  # what is held out beyond the cap is not trained on


def test_an_object_of_two_sources_is_on_one_side(script, tmp_path, monkeypatch):
    def simulate(survey, *_, **__):
        """Objects that two surveys observed, 0.3 arcsec apart; the second has fewer, and would draw other ones."""
        spectra = simulate_survey(survey, {"sdss": 20, "boss": 14}[survey])
        for number, spectrum in enumerate(spectra):
            spectrum.labels |= {"ra": 10.0 + number, "dec": 20 + 0.3 * (survey == "boss") / 3600}
        return spectra

    monkeypatch.setattr(sys.modules["training_data"], "simulate_survey", simulate)
    options = [*TINY, "--simulate", "sdss", "boss", "--max_steps", "1"]
    trainer, held_out = script.main([*options, "--output_dir", str(tmp_path / "run")])
    train = trainer.train_dataset.spectra
    keys = object_groups([*train, *held_out])
    assert not set(keys[: len(train)]) & set(keys[len(train) :])


def test_the_saved_folder_loads_by_the_auto_classes(finished):
    output, trainer, held_out = finished
    model, processor = AutoModelForPreTraining.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert isinstance(model, SpecTokForPreTraining) and isinstance(processor, SpectrumProcessor)
    inputs = processor(held_out[0], return_tensors="pt")
    with torch.no_grad():
        expected = trainer.model.eval()(**inputs).reconstruction
        assert torch.equal(model.eval()(**inputs).reconstruction, expected)


def test_training_starts_at_the_patch_pca_and_goes_below_it(script, tmp_path):
    options = [*TINY, "--max_steps", "25", "--num_simulated", "20"]
    starts = {}
    for pca in ("true", "false"):
        trainer, _ = script.main([*options, "--patch_pca_start", pca, "--output_dir", str(tmp_path / pca)])
        starts[pca] = losses(trainer)
    assert starts["true"][0] < 0.2 * starts["false"][0]
    assert np.mean(starts["false"][-5:]) < 0.8 * np.mean(starts["false"][:5])


@pytest.mark.parametrize(
    ("objective", "options", "expected"),
    [
        ("reconstruction", [], ("runs", 0.1)),
        ("reconstruction", ["--hide_ratio", "0.2"], ("runs", 0.2)),
        ("masked", [], ("patches", 0.4)),
    ],
)
def test_what_is_hidden_follows_the_objective(script, tmp_path, objective, options, expected):
    overrides = json.dumps(MODEL | {"objective": objective, "mask_ratio": 0.4})
    options = [*TINY, "--config_overrides", overrides, "--max_steps", "1", *options]
    trainer, _ = script.main([*options, "--output_dir", str(tmp_path / "run")])
    assert (trainer.data_collator.hide, trainer.data_collator.hide_ratio) == expected
    assert np.isfinite(losses(trainer)).all()


def test_weights_set_the_mixture(script, tmp_path):
    options = [*TINY, "--simulate", "sdss", "apogee", "--weights", "1", "3", "--max_steps", "1"]
    trainer, _ = script.main([*options, "--output_dir", str(tmp_path / "run")])
    surveys = [trainer.train_dataset.spectra[visit.what].survey for visit in trainer.sampler]
    # 18 spectra; the last batch of two is filled up from the next epoch, and 3/4 of 18 is rounded.
    assert trainer.sampler.epoch_size == 18 and len(surveys) == 18 and surveys.count("apogee") == round(18 * 3 / 4)


def test_training_goes_on_from_a_saved_model(script, finished, tmp_path):
    output, trainer, _ = finished
    options = [*TINY, "--max_steps", "1", "--learning_rate", "0"]
    other, _ = script.main([*options, "--model_name_or_path", str(output), "--output_dir", str(tmp_path / "run")])
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
    options += [
        "--config_overrides",
        json.dumps(MODEL | {"hidden_dropout_prob": 0.25}),
        "--model_name_or_path",
        str(output),
    ]
    with pytest.raises(
        ValueError, match=r"must be what .* was made with, found that it has hidden_dropout_prob=0.0: leave"
    ):
        script.main([*options, "--output_dir", str(tmp_path / "other")])


HAS_MUON = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="Muon came with torch 2.9")


COSINE = ["--lr_scheduler_type", "cosine"]


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(COSINE, id="adamw"),
        pytest.param([*COSINE, "--muon_learning_rate", "1e-3"], id="muon", marks=HAS_MUON),
        # A restart before the interruption and one after it.
        pytest.param(["--restart_every", "2", "--min_learning_rate", "1e-5"], id="restarts"),
    ],
)
def test_a_resumed_run_equals_the_uninterrupted_one(script, tmp_path, monkeypatch, optimizer):
    # Nine training spectra: step 3 of 6 lies within the first epoch, whose last batch is smaller.
    options = [*TINY, *optimizer, "--save_strategy", "steps", "--save_steps", "3"]
    whole, _ = script.main([*options, "--output_dir", str(tmp_path / "whole")])
    assert whole.data_collator.hide == "runs" and len(whole.train_dataset) == 9

    options += ["--output_dir", str(tmp_path / "parts")]
    training_step = script.PretrainingTrainer.training_step

    def fail_at_fifth_step(trainer, *args, **kwargs):
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        return training_step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script.PretrainingTrainer, "training_step", fail_at_fifth_step)
        script.main(options)
    assert not (tmp_path / "parts" / "model.safetensors").exists()

    parts, _ = script.main(options)
    assert parts.state.global_step == 6
    assert losses(parts) == losses(whole) and len(losses(whole)) == 6
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_shards_are_trained_on(script, tmp_path):
    write_shards(simulate_survey("sdss", 12), tmp_path / "shards", spectra_per_shard=5)
    options = [*TINY[:2], *TINY[6:], "--shards", str(tmp_path / "shards"), "--dataloader_num_workers", "2"]
    trainer, held_out = script.main([*options, "--output_dir", str(tmp_path / "run")])
    assert trainer.train_dataset.spectra.folders == [tmp_path / "shards"] and len(held_out) == 2
    alone, _ = script.main([*options[:-2], "--output_dir", str(tmp_path / "alone")])
    assert losses(trainer) == losses(alone) and len(losses(alone)) == 6  # whatever the workers
    with pytest.raises(FileExistsError, match="holds a finished run"):
        script.main([*options, "--output_dir", str(tmp_path / "run")])


def test_a_contrastive_batch_needs_two_objects(script, tmp_path):
    overrides = json.dumps(MODEL | {"objective": "contrastive"})
    options = [*TINY, "--config_overrides", overrides, "--per_device_train_batch_size", "1"]
    with pytest.raises(ValueError, match="needs two objects to compare, found one per step"):
        script.main([*options, "--gradient_accumulation_steps", "4", "--output_dir", str(tmp_path / "run")])


def test_shapes_of_compiled_models_suit_evaluation(script, tmp_path):
    for objective in ("reconstruction", "contrastive"):
        options = [*TINY, "--config_overrides", json.dumps(MODEL | {"objective": objective}), "--pad_to", "520"]
        options += ["--eval_strategy", "steps", "--eval_steps", "1", "--max_steps", "1", "--eval_share", "0.5"]
        trainer, _ = script.main([*options, "--output_dir", str(tmp_path / objective)])
        assert trainer.args.per_device_eval_batch_size == 2


def test_what_a_stream_has_of_no_use_counts_as_nothing(script, tmp_path):
    import datasets

    rows = []
    for number, spectrum in enumerate(simulate_survey("sdss", 20)):
        ivar = spectrum.ivar * (number % 5 > 0)
        pixels = {"flux": spectrum.flux, "ivar": ivar, "lambda": spectrum.wavelength, "mask": spectrum.mask}
        rows.append({"spectrum": pixels, "object_id": str(number)})
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "all.parquet"))
    options = [*TINY[:2], *TINY[6:], "--stream", json.dumps({"sdss": str(tmp_path / "all.parquet")})]
    trainer, held_out = script.main([*options, "--max_steps", "12", "--output_dir", str(tmp_path / "run")])
    assert np.isfinite(losses(trainer)).all() and all(spectrum.ivar.any() for spectrum in held_out)


def test_a_contrastive_model_is_trained_and_judged_by_retrieval(script, tmp_path):
    overrides = json.dumps(MODEL | {"objective": "contrastive", "projection_dim": 16})
    options = [*TINY, "--config_overrides", overrides, "--simulate", "sdss", "apogee", "--num_simulated", "20"]
    options += ["--max_steps", "30", "--eval_strategy", "steps", "--eval_steps", "15", "--learning_rate", "3e-3"]
    options += ["--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "run")]
    trainer, held_out = script.main(options)
    assert np.mean(losses(trainer)[-5:]) < np.mean(losses(trainer)[:5])
    found = [
        entry["eval_sdss-simulated_retrieval_accuracy"]
        for entry in trainer.state.log_history
        if "eval_sdss-simulated_retrieval_accuracy" in entry
    ]
    assert len(found) == 2 and all(0 <= share <= 1 for share in found)
    report = (tmp_path / "run/report.md").read_text()
    assert f"| all | {len(held_out)} |" in report and "retrieval accuracy" in report.replace("_", " ")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "run")
    assert model.config.objective == "contrastive"


def test_activations_may_be_computed_again_instead_of_kept(script, tmp_path):
    newest = any(field.name == "activation_checkpointing" for field in fields(TrainingArguments))
    option = "--activation_checkpointing" if newest else "--gradient_checkpointing"
    whole, _ = script.main([*TINY, "--output_dir", str(tmp_path / "whole")])
    trainer, _ = script.main([*TINY, option, "true", "--output_dir", str(tmp_path / "other")])
    assert losses(trainer) == pytest.approx(losses(whole), rel=1e-6)


def test_half_precision_trains_to_its_own_precision(script, tmp_path):
    options = [*TINY, "--learning_rate", "1e-4", "--use_cpu", "true"]
    whole, _ = script.main([*options, "--output_dir", str(tmp_path / "whole")])
    trainer, _ = script.main([*options, "--bf16", "true", "--output_dir", str(tmp_path / "other")])
    assert losses(trainer) == pytest.approx(losses(whole), rel=0.1) and losses(trainer) != losses(whole)


@HAS_MUON
def test_muon_trains_the_matrices_of_the_blocks_and_adamw_the_rest(script, tmp_path):
    rates = ["--learning_rate", "1e-3", "--muon_learning_rate", "0.01", "--linear_lr_factor", "0.5"]
    trainer, _ = script.main([*TINY, *rates, "--lr_scheduler_type", "cosine", "--output_dir", str(tmp_path)])
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    groups = trainer.optimizer.param_groups
    trained = [name for group in groups for name in (names[id(weight)] for weight in group["params"])]
    assert sorted(trained) == sorted(names.values())
    by_muon = {names[id(weight)] for weight in groups[-1]["params"]}
    assert by_muon == {name for name in trained if ".layers." in name and ".norm" not in name and "weight" in name}
    assert {group["initial_lr"] for group in groups} == {0.01, 1e-3, 5e-4}
    assert max(group["lr"] for group in groups) < 1e-3  # the schedule reaches them all
    start, _ = script.main([*TINY, "--learning_rate", "0", "--output_dir", str(tmp_path / "start")])
    before = dict(start.model.named_parameters())
    still = [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])]
    assert not [name for name in still if "k_proj.bias" not in name]  # softmax ignores the keys' bias
    with pytest.raises(ValueError, match="--muon_learning_rate needs whole matrices"):
        script.main([*TINY, *rates, "--fsdp_size", "1", "--output_dir", str(tmp_path / "sharded")])


def test_speed_and_figures_are_drawn_by_tensorboard(script, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    options = [*TINY, "--report_to", "tensorboard", "--eval_strategy", "steps", "--eval_steps", "3"]
    script.main([*options, "--output_dir", str(tmp_path / "run")])
    (events,) = (tmp_path / "run/runs").glob("*/events*")
    reader = event_accumulator.EventAccumulator(str(events))
    reader.Reload()
    drawn = set(reader.Tags()["scalars"])
    for name in ("loss", "spectra_per_second", "tokens_per_second", "padding_share", "mfu"):
        assert f"train/{name}" in drawn
    assert {"eval/sdss-simulated_chi2_model", "eval/sdss-simulated_held_out_model"} <= drawn


class LabelledCollator(DataCollatorForSpectra):
    """Batches with labels, as a head's: Trainer leaves the division by the accumulation steps to a model with
    `accepts_loss_kwargs` only where there are some to count."""

    def __call__(self, features):
        return {**super().__call__(features), "labels": torch.zeros(len(features), 2)}


def ragged_spectrum(seed):
    rng = np.random.default_rng(seed)
    length = 150 + 64 * (seed % 5)
    flux = 5 + np.sin(np.arange(length) / 9) + 0.3 * rng.normal(size=length)
    return Spectrum(flux, 4000 + 1.5 * np.arange(length), np.full(length, 11.0), mask=rng.random(length) < 0.05)


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, LabelledCollator])
def test_gradient_accumulation_changes_nothing(collator, tmp_path):
    trainers = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        trainer = Trainer(
            model=SpecTokForPreTraining(SpecTokConfig(**MODEL)),
            args=TrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=accumulation,
                max_steps=5,
                learning_rate=1e-3,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            # Runs and patches are drawn from the batch as a whole.
            data_collator=collator(PROCESSOR, hide="nothing"),
            train_dataset=SpectrumDataset([ragged_spectrum(seed) for seed in range(16)], PROCESSOR),
        )
        trainer.train()
        trainers.append(trainer)
    assert len(losses(trainers[0])) == 5
    assert losses(trainers[1]) == pytest.approx(losses(trainers[0]), rel=1e-4)
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "grad_norm" in entry] for t in trainers]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_smoke_from_the_command_line(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), "--smoke"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Held-out spectra, medians of chi2 per pixel" in done.stdout
    assert "Warning" not in done.stderr
    output = tmp_path / "outputs" / "pretrain-smoke"
    for name in ("model.safetensors", "config.json", "preprocessor_config.json", "report.md"):
        assert (output / name).is_file(), name
    assert len(list(output.glob("plots/*/*.png"))) == 4
    assert (output / "report.md").read_text().strip() in done.stdout
    model, processor = AutoModelForPreTraining.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert model.num_parameters() > 5e5
    settings = processor.to_dict()
    assert settings.pop("auto_map") and settings == SpectrumProcessor().to_dict()


LAUNCHERS = {
    "accelerate": "accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no",
    "two processes": "torch.distributed.run --standalone --nproc_per_node 2",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers(launcher, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    options = [*TINY, "--simulate", "sdss", "apogee", "--eval_strategy", "steps", "--eval_steps", "3"]
    options += ["--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    options += ["--ddp_backend", "gloo"] if launcher == "two processes" else []
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), str(SCRIPT), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Held-out spectra, medians") == 1
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "run")
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
