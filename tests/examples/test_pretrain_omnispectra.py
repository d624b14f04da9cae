"""`examples/pretrain.py --family omnispectra`: what it hides, how its learning rate restarts, how it is judged."""

import json
import math
from pathlib import Path

import numpy as np
import pretrain
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, AutoProcessor

from spectok_hf import SpectrumProcessor
from spectok_hf.data.collators import DataCollatorForPackedSpectra
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.models.configuration_omnispectra import OmniSpectraConfig
from spectok_hf.models.modeling_omnispectra import OmniSpectraForPreTraining
from spectok_hf.models.processing_omnispectra import OmniSpectraProcessor

CONFIGS = Path(pretrain.__file__).parent / "configs"
MODEL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY = [
    *("--family", "omnispectra", "--config_overrides", json.dumps(MODEL)),
    *("--simulate", "sdss", "--num_simulated", "11", "--max_steps", "6", "--per_device_train_batch_size", "2"),
    *("--learning_rate", "1e-3", "--logging_steps", "1", "--save_strategy", "no", "--disable_tqdm", "true"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on two surveys with two evaluations: its folder, its trainer and the held-out spectra."""
    output = tmp_path_factory.mktemp("run") / "model"
    options = ["--simulate", "sdss", "apogee", "--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2"]
    return output, *pretrain.main([*TINY, *options, "--output_dir", str(output)])


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_family_of_a_new_model_is_that_of_the_option(finished):
    output, trainer, held_out = finished
    model, processor = AutoModelForPreTraining.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert type(model) is OmniSpectraForPreTraining and type(processor) is OmniSpectraProcessor
    assert (processor.patch_size, processor.patch_overlap) == (model.config.patch_size, model.config.patch_overlap)
    assert set(model.config.training_domain) == {"sdss", "apogee"}
    inputs = processor(held_out[0], return_tensors="pt")
    with torch.no_grad():
        expected = trainer.model.eval().reconstruct(**inputs).reconstruction
        assert torch.equal(model.eval().reconstruct(**inputs).reconstruction, expected)


def test_its_processor_cuts_as_the_config_says():
    sizes = json.dumps(MODEL | {"patch_size": 16, "patch_overlap": 4})
    args = pretrain.parse_arguments(["--family", "omnispectra", "--config_overrides", sizes])[0]
    model, processor = pretrain.make_model(args)
    assert (processor.patch_size, processor.patch_overlap) == (16, 4)
    assert model.config.hidden_size == 32


def test_chunks_are_hidden_as_the_config_says(finished):
    _, trainer, _ = finished
    collator = trainer.data_collator
    assert isinstance(collator, DataCollatorForPackedSpectra)
    assert (collator.hide, collator.hide_ratio, collator.chunk_length) == ("chunks", 0.75, 50)
    batch = collator([trainer.train_dataset[row] for row in range(2)])
    first = batch["bool_masked_pos"][: batch["num_patches"][0]].numpy()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], first.astype(int), [0]]))).reshape(-1, 2)
    assert len(edges) and all(stop - start == 50 for start, stop in edges)


def test_the_share_of_hidden_chunks_may_be_another(tmp_path):
    options = [*TINY, "--hide_ratio", "0.4", "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
    trainer, _ = pretrain.main(options)
    assert (trainer.data_collator.hide, trainer.data_collator.hide_ratio) == ("chunks", 0.4)


def test_what_is_spectoks_does_not_touch_it(finished, tmp_path):
    _, trainer, _ = finished
    groups = trainer.optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {1e-3}  # no slow maps, as there is no start from a PCA
    with pytest.raises(ValueError, match="--muon_learning_rate is for SpecTok, found omnispectra: leave it out"):
        pretrain.main([*TINY, "--muon_learning_rate", "1e-3", "--output_dir", str(tmp_path / "run")])


def test_an_unknown_family_is_named():
    with pytest.raises(ValueError, match="--family must be one of spectok, omnispectra, specformer, found 'spender'"):
        pretrain.parse_arguments(["--family", "spender"])


def test_a_checkpoint_knows_its_family(finished, tmp_path):
    output, trainer, _ = finished
    options = [*TINY[4:], "--max_steps", "1", "--learning_rate", "0", "--model_name_or_path", str(output)]
    other, _ = pretrain.main([*options, "--output_dir", str(tmp_path / "run")])
    assert type(other.model) is OmniSpectraForPreTraining and other.data_collator.hide == "chunks"
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


def test_evaluation_tells_the_masked_error_of_every_survey(finished):
    output, trainer, held_out = finished
    for survey in ("sdss-simulated", "apogee-simulated"):
        names = [
            f"masked_{kind}_{guess}" for kind in ("flux", "token") for guess in ("model", "interpolation", "mean")
        ]
        for name in ("loss", *names):
            found = [entry for entry in trainer.state.log_history if f"eval_{survey}_{name}" in entry]
            assert [entry["step"] for entry in found] == [2, 4]
            assert np.isfinite([entry[f"eval_{survey}_{name}"] for entry in found]).all()
        # Nothing is drawn anew: guesses that need no model are the same at each evaluation.
        same = {entry[f"eval_{survey}_masked_flux_interpolation"] for entry in found}
        assert len(same) == 1
    report = (output / "report.md").read_text()
    assert f"| sdss-simulated | {sum(s.survey == 'sdss' for s in held_out)} |" in report
    assert f"| all | {len(held_out)} |" in report and "flux, interpolation" in report
    plots = sorted(str(path.relative_to(output)) for path in output.glob("plots/*/*.png"))
    assert plots == [
        f"plots/step-{step:07d}/{survey}-simulated.png" for step in (2, 4) for survey in ("apogee", "sdss")
    ]


def test_it_learns(tmp_path):
    options = [*TINY, "--max_steps", "50", "--num_simulated", "40", "--per_device_train_batch_size", "8"]
    trainer, held_out = pretrain.main([*options, "--learning_rate", "1e-2", "--output_dir", str(tmp_path / "run")])
    figures = trainer.judge.figures(trainer.model, held_out)
    assert figures["masked_flux_model"] < 0.8 * figures["masked_flux_mean"]
    assert figures["masked_token_model"] < 0.8 * figures["masked_token_mean"]


def test_a_resumed_run_equals_the_uninterrupted_one_and_another_family_is_refused(tmp_path, monkeypatch):
    options = [*TINY, "--save_strategy", "steps", "--save_steps", "3"]
    options += ["--restart_every", "4", "--min_learning_rate", "1e-5"]
    whole, _ = pretrain.main([*options, "--output_dir", str(tmp_path / "whole")])
    options += ["--output_dir", str(tmp_path / "parts")]
    training_step = pretrain.PretrainingTrainer.training_step

    def fail_at_fifth_step(trainer, *args, **kwargs):
        if trainer.state.global_step == 4:
            raise KeyboardInterrupt
        return training_step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain.PretrainingTrainer, "training_step", fail_at_fifth_step)
        pretrain.main(options)
    with pytest.raises(FileExistsError, match=r"holds a run with other settings .see run.json: model."):
        pretrain.main(["--family", "spectok", *options[2:]])
    parts, _ = pretrain.main(options)
    assert parts.state.global_step == 6 and losses(parts) == losses(whole)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_shards_are_trained_on_if_they_suit_its_patches(tmp_path):
    for size in (20, 32):
        prepare_shards("simulate:sdss:12", tmp_path / f"shards{size}", processor=SpectrumProcessor(patch_size=size))
    options = [*TINY[:4], *TINY[8:], "--max_steps", "2", "--output_dir", str(tmp_path / "run")]
    trainer, held_out = pretrain.main([*options, "--shards", str(tmp_path / "shards20")])
    assert len(losses(trainer)) == 2 and len(held_out) == 2
    with pytest.raises(ValueError, match=r"has another patch_size.*\(spectok prepare --patch-size 20\)"):
        pretrain.main([*options, "--shards", str(tmp_path / "shards32"), "--overwrite_output"])


def test_the_learning_rate_restarts_along_the_formula(tmp_path, monkeypatch):
    """SGDR (arXiv 1608.03983), equation 5, with all runs of one length: the rate of each step."""
    rates = []
    training_step = pretrain.PretrainingTrainer.training_step

    def write_down(trainer, *args, **kwargs):
        rates.append([group["lr"] for group in trainer.optimizer.param_groups])
        return training_step(trainer, *args, **kwargs)

    monkeypatch.setattr(pretrain.PretrainingTrainer, "training_step", write_down)
    options = [*TINY, "--max_steps", "11", "--restart_every", "4", "--min_learning_rate", "1e-5"]
    pretrain.main([*options, "--output_dir", str(tmp_path / "run")])
    expected = [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (step % 4) / 4)) / 2 for step in range(11)]
    assert len(rates) == 11
    for group in zip(*rates, strict=True):
        np.testing.assert_allclose(group, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min_learning_rate", "1e-6"], "--min_learning_rate=1e-06 does nothing without --restart_every"),
        (["--restart_every", "0"], "--restart_every must be at least 1 step"),
        (["--restart_every", "9", "--min_learning_rate", "1"], "--min_learning_rate between 0 and --learning_rate="),
        (["--restart_every", "9", "--warmup_steps", "5"], "leave out --lr_scheduler_type and --warmup_steps, found"),
        (["--restart_every", "9", "--lr_scheduler_type", "cosine"], "is a schedule of its own, without warm-up"),
    ],
)
def test_learning_rates_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pretrain.parse_arguments(options)


def test_the_papers_run_is_that_of_the_paper():
    """arXiv 2601.15351: 2M steps of 128, AdamW 1e-4 (0.9, 0.95), decay 0.01, clipping at 1, restarts every 200k."""
    path = str(CONFIGS / "omnispectra-paper.yaml")
    model, data, training = pretrain.parse_arguments([path, "--shards", "somewhere", "--use_cpu", "true"])
    assert training.per_device_train_batch_size * 4 * training.gradient_accumulation_steps == 128
    assert (training.max_steps, training.learning_rate, training.weight_decay) == (2_000_000, 1e-4, 0.01)
    assert (training.adam_beta1, training.adam_beta2, training.max_grad_norm) == (0.9, 0.95, 1.0)
    assert (model.restart_every, model.min_learning_rate) == (200_000, 1e-6)
    assert training.optim.startswith("adamw") and data.hide_ratio is None
    config = OmniSpectraConfig.from_preset(model.preset, **json.loads(model.config_overrides))
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 6, 6)
    assert (config.patch_size, config.patch_overlap, config.mask_ratio, config.chunk_factor) == (20, 10, 0.75, 2.5)
