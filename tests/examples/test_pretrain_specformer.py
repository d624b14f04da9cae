"""`examples/pretrain.py --family specformer`: what it hides, whose spectra it takes, how it is judged."""

import json
from pathlib import Path

import numpy as np
import pretrain
import pytest
import torch
from transformers import AutoModelForPreTraining, AutoProcessor, set_seed

from spectok_hf import SpecformerConfig, SpecformerForPreTraining, SpecformerProcessor, SpectrumProcessor
from spectok_hf.data.prepare import prepare_shards

CONFIGS = Path(pretrain.__file__).parent / "configs"
MODEL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TINY = [
    *("--family", "specformer", "--config_overrides", json.dumps(MODEL)),
    *("--simulate", "desi", "--num_simulated", "10", "--max_steps", "2", "--per_device_train_batch_size", "2"),
    *("--learning_rate", "1e-3", "--logging_steps", "1", "--save_strategy", "no", "--disable_tqdm", "true"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with an evaluation: its folder, its trainer and the held-out spectra."""
    output = tmp_path_factory.mktemp("run") / "model"
    options = ["--eval_strategy", "steps", "--eval_steps", "2", "--output_dir", str(output)]
    return output, *pretrain.main([*TINY, *options])


def test_model_and_processor_are_those_of_the_family(finished):
    output, trainer, held_out = finished
    model, processor = AutoModelForPreTraining.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert type(model) is SpecformerForPreTraining and type(processor) is SpecformerProcessor
    assert set(model.config.training_domain) == {"desi"}
    inputs = processor(held_out[0], return_tensors="pt")
    with torch.no_grad():
        expected = trainer.model.eval().reconstruct(**inputs).reconstruction
        assert torch.equal(model.eval().reconstruct(**inputs).reconstruction, expected)


def test_one_chunk_is_hidden_in_each_sixth_and_mean_and_deviation_travel_along(finished):
    _, trainer, _ = finished
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(2)])
    lengths = batch["num_patches"].tolist()
    assert lengths == [777, 777]
    assert batch["loc"].shape == batch["scale"].shape == (2,)
    for hidden in batch["bool_masked_pos"].split(lengths):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.numpy().astype(int), [0]]))).reshape(-1, 2)
        assert [stop - start for start, stop in edges] == [30] * 6
        assert [start // 129.5 for start, _ in edges] == list(range(6))


def test_a_share_of_hidden_chunks_is_refused_before_anything_is_simulated(tmp_path, monkeypatch):
    monkeypatch.setattr("training_data.simulate_survey", lambda *args, **kwargs: pytest.fail("too late"))
    with pytest.raises(ValueError, match=r"num_chunks is how many chunks .* in place of a hide_ratio, found 6"):
        pretrain.main([*TINY, "--hide_ratio", "0.4", "--output_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("source", ["--simulate", "--shards"])
def test_spectra_of_another_grid_are_refused_before_the_training_begins(source, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain.PretrainingTrainer, "train", lambda *args, **kwargs: pytest.fail("too late"))
    options = ["--family", "specformer", "--config_overrides", json.dumps(MODEL), "--disable_tqdm", "true"]
    if source == "--shards":
        # A processor that takes them all, of the same settings otherwise.
        lenient = SpecformerProcessor(resample=True)
        prepare_shards("simulate:sdss:12", tmp_path / "shards", processor=lenient, num_workers=1)
        options += [source, str(tmp_path / "shards")]
    else:
        options += [source, "sdss", "--num_simulated", "5"]
    with pytest.raises(ValueError, match=r"reads spectra on one grid, 7781 pixels from 3600 to 9824 Å .*found 38\d\d"):
        pretrain.main([*options, "--max_steps", "1", "--output_dir", str(tmp_path / "run")])


def test_shards_must_have_been_made_for_its_processor(tmp_path):
    for name, processor in (("own", SpecformerProcessor()), ("other", SpectrumProcessor(patch_size=20))):
        prepare_shards("simulate:desi:12", tmp_path / name, processor=processor, num_workers=1)
    options = [*TINY[:4], *TINY[8:], "--output_dir", str(tmp_path / "run"), "--shards"]
    trainer, held_out = pretrain.main([*options, str(tmp_path / "own")])
    assert trainer.state.global_step == 2 and len(held_out) == 2
    with pytest.raises(ValueError, match=r"has another gap_factor.*\(spectok prepare --family FAMILY"):
        pretrain.main([*options, str(tmp_path / "other"), "--overwrite_output"])


def test_evaluation_tells_errors_of_fluxes_alone(finished):
    output, trainer, held_out = finished
    (entry,) = [row for row in trainer.state.log_history if "eval_desi-simulated_loss" in row]
    names = [f"eval_desi-simulated_masked_flux_{name}" for name in ("model", "interpolation", "mean", "noise")]
    assert np.isfinite([entry[name] for name in names]).all()
    assert not any("token" in name for name in entry)
    report = (output / "report.md").read_text()
    assert f"| desi-simulated | {len(held_out)} | {180 * len(held_out)} |" in report and "token," not in report
    assert (output / "plots/step-0000002/desi-simulated.png").stat().st_size > 10_000


def test_it_learns(tmp_path):
    options = [*TINY, "--max_steps", "30", "--learning_rate", "3e-3", "--output_dir", str(tmp_path / "run")]
    trainer, held_out = pretrain.main(options)
    set_seed(trainer.args.seed)
    untrained = pretrain.make_model(pretrain.parse_arguments(options)[0])[0]
    before, after = (trainer.judge.figures(model, held_out) for model in (untrained, trainer.model))
    assert after["masked_flux_model"] < 0.8 * before["masked_flux_model"]
    assert after["masked_flux_mean"] == before["masked_flux_mean"]


def test_the_papers_run_is_that_of_the_paper():
    """arXiv 2310.03024 and its code: AdamW 1e-4 (0.9, 0.95), decay 0.1, warm-up of 2,000 steps, batches of 64."""
    path = str(CONFIGS / "specformer-paper.yaml")
    model, data, training = pretrain.parse_arguments([path, "--shards", "somewhere", "--use_cpu", "true"])
    assert training.per_device_train_batch_size * 4 * training.gradient_accumulation_steps == 64
    assert (training.max_steps, training.learning_rate, training.weight_decay) == (500_000, 1e-4, 0.1)
    assert (training.adam_beta1, training.adam_beta2) == (0.9, 0.95)
    assert (training.lr_scheduler_type, training.warmup_steps) == ("cosine", 2000)
    assert training.optim.startswith("adamw") and data.hide_ratio is None
    config = SpecformerConfig.from_preset(model.preset, **json.loads(model.config_overrides))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 6, 6)
    assert (config.patch_size, config.patch_overlap, config.num_chunks, config.chunk_length) == (20, 10, 6, 30)
