"""The fine-tuning scripts and the table of all tasks: runs of a few steps from beginning to end."""

import csv
import json
import shutil
from pathlib import Path

import evaluate_checkpoint
import finetune
import finetune_classification
import finetune_redshift
import finetune_stellar_parameters
import numpy as np
import pytest
import torch
import yaml
from transformers import (
    AutoModelForSequenceClassification,
    AutoProcessor,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    SpectrumProcessor,
    SpectrumVitConfig,
    SpectrumVitForSpectrumClassification,
    simulate_survey,
)
from spectok_hf.models.configuration_omnispectra import OmniSpectraConfig
from spectok_hf.models.modeling_omnispectra import OmniSpectraForPreTraining
from spectok_hf.models.processing_omnispectra import OmniSpectraProcessor

CONFIGS = Path(evaluate_checkpoint.__file__).parent / "configs"
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
SCRIPTS = {
    "classification": finetune_classification,
    "stellar": finetune_stellar_parameters,
    "redshift": finetune_redshift,
}
PLOTS = {
    "classification": {"confusion.png"},
    "stellar": {
        f"{name}{kind}.png"
        for name in ("teff", "logg", "feh")
        for kind in ("", "_by_snr", "_residuals", "_calibration")
    },
    "redshift": {"redshift.png", "redshift_by_snr.png", "redshift_residuals.png", "pit.png", "flag.png"},
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 48,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    SpecTokForPreTraining(SpecTokConfig(**TINY)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def omnispectra(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("omnispectra")
    sizes = {name: value for name, value in TINY.items() if not name.startswith("decoder")}
    OmniSpectraForPreTraining(OmniSpectraConfig(**sizes)).save_pretrained(folder)
    OmniSpectraProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory):
    """A classifier of photographs."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vision")
    ViTForImageClassification(ViTConfig(**VISION, num_labels=5)).save_pretrained(folder)
    return str(folder)


def options(start, output):
    """Of a short run; a start that is a config is that of a new image model."""
    model = ["--image_config", start, "--freeze_backbone", "false"] if start.startswith("{") else None
    return [
        *("--smoke", "--output_dir", str(output), "--disable_tqdm", "true"),
        *(model or ["--model_name_or_path", start]),
    ]


@pytest.fixture(scope="module")
def pictures():
    return json.dumps({"model_type": "vit", **VISION})


@pytest.mark.parametrize("family", ["checkpoint", "omnispectra", "pictures"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_run_leaves_a_model_that_repeats_its_predictions(name, family, request, tmp_path):
    output = tmp_path / "run"
    rows = SCRIPTS[name].main(options(request.getfixturevalue(family), output))
    assert {row["method"] for row in rows} == {"this model", "PCA + ridge, raw flux", "MLP, raw flux", "constant"}
    assert {path.name for path in (output / "plots").iterdir()} == PLOTS[name]
    report = (output / "report.md").read_text()
    assert "PCA + ridge" in report and "## By signal-to-noise ratio" in report and "| < 5 |" in report
    assert (output / "scores_by_snr.csv").is_file()
    model = AutoModelForSequenceClassification.from_pretrained(output).eval()
    names = {"checkpoint": "SpecTok", "omnispectra": "OmniSpectra", "pictures": "SpectrumVit"}
    assert type(model).__name__.startswith(names[family])
    assert model.config.head_type == ("attention" if family == "checkpoint" else "linear")
    processor = AutoProcessor.from_pretrained(output)
    with (output / "predictions.csv").open() as file:
        predicted = list(csv.DictReader(file))
    survey = {"classification": "sdss", "stellar": "apogee", "redshift": "boss"}[name]
    spectra = {s.object_id: s for s in simulate_survey(survey, 40, seed=0)}
    chosen = [spectra[row["object_id"]] for row in predicted]
    with torch.no_grad():
        outputs = model(**processor(chosen, return_tensors="pt"))
    column, values = {
        "classification": ("logits_0", lambda: outputs.logits[:, 0]),
        "stellar": ("predictions_teff", lambda: outputs.predictions[:, 0]),
        "redshift": ("redshift", lambda: outputs.redshift),
    }[name]
    np.testing.assert_allclose([float(row[column]) for row in predicted], values().numpy(), rtol=1e-4, atol=1e-5)


def picture_options(vision_model, output, *more):
    given = ["--smoke", "--image_model", vision_model, "--output_dir", str(output), "--disable_tqdm", "true"]
    return [*given, "--freeze_backbone", "false", *more]


def test_any_vision_model_learns_from_pictures_as_they_are_asked_for(vision_model, tmp_path):
    output = tmp_path / "run"
    drawn = ["--plot_type", "simple", "--image_options", '{"line_width": 1.5, "outlier_factor": null}']
    finetune_classification.main(picture_options(vision_model, output, *drawn, "--learning_rate", "1e-3"))
    processor = AutoProcessor.from_pretrained(output)
    assert (processor.plot_type, processor.image_size, processor.line_width) == ("simple", 48, 1.5)
    start = AutoModelForSequenceClassification.from_pretrained(output / "start").spectrum_vit.vision_model
    theirs = ViTForImageClassification.from_pretrained(vision_model).vit.state_dict()
    model = SpectrumVitForSpectrumClassification.from_pretrained(output)
    assert all(torch.equal(value, theirs[name]) for name, value in start.state_dict().items())
    moved = [not torch.equal(v, theirs[name]) for name, v in model.spectrum_vit.vision_model.state_dict().items()]
    assert sum(moved) > 0.9 * len(moved)
    assert model.config.training_domain is not None
    spectrum = simulate_survey("sdss", 1, seed=9)[0]
    answer = pipeline("spectrum-classification", model=str(output))(spectrum)
    assert {row["label"] for row in answer} == {"GALAXY", "QSO", "STAR"}


def test_a_frozen_vision_model_is_probed(vision_model, tmp_path):
    output = tmp_path / "run"
    arguments = picture_options(vision_model, output, "--freeze_backbone", "true", "--learning_rate", "1e-2")
    finetune_stellar_parameters.main(arguments)
    theirs = ViTForImageClassification.from_pretrained(vision_model).vit.state_dict()
    model = AutoModelForSequenceClassification.from_pretrained(output)
    states = model.spectrum_vit.vision_model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in states.items())


def test_a_run_on_pictures_that_was_killed_goes_on_as_if_it_had_not_been(vision_model, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    saved = ["--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "3", "--eval_strategy", "no"]
    saved += ["--learning_rate", "1e-2"]  # so that a start from other weights would show
    finetune_redshift.main(picture_options(vision_model, whole, *saved))
    shutil.copytree(whole, killed)
    shutil.rmtree(killed / "checkpoint-4")
    for name in ("report.md", "predictions.csv", "model.safetensors"):
        (killed / name).unlink()
    kept = (killed / "checkpoint-2" / "model.safetensors").stat().st_mtime_ns
    finetune_redshift.main(picture_options(vision_model, killed, *saved))
    assert (killed / "checkpoint-2" / "model.safetensors").stat().st_mtime_ns == kept
    assert (killed / "predictions.csv").read_text() == (whole / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model_name_or_path", "m"], "a model starts from one of .*, found --model_name_or_path and --image_model"),
        (
            ["--image_model", "", "--image_config", "tiny", "--freeze_backbone", "true"],
            "new weights .* must be trained",
        ),
        (["--image_options", '{"plot_type": "pie"}'], "plot_type must be one of simple, overlap, map, found 'pie'"),
        (
            ["--image_options", '{"map_colours": "gray"}'],
            "must be arguments of SpectrumImageProcessor, found map_colours",
        ),
        (["--image_model", "", "--plot_type", "simple"], "say how spectra are drawn for .*, found --.*alone"),
    ],
)
def test_what_no_training_on_pictures_can_begin_with_is_refused(more, message, vision_model, tmp_path):
    with pytest.raises(ValueError, match=message):
        finetune_classification.main(picture_options(vision_model, tmp_path / "run", *more))


def test_an_encoder_of_spectra_is_no_image_model(vision_model, tmp_path):
    finetune_classification.main(picture_options(vision_model, tmp_path / "first"))
    with pytest.raises(ValueError, match="is an encoder of spectra already: pass it as --model_name_or_path"):
        finetune_classification.main(picture_options(str(tmp_path / "first" / "start"), tmp_path / "second"))
    rows = finetune_classification.main(options(str(tmp_path / "first" / "start"), tmp_path / "third"))
    assert rows[0]["method"] == "this model"


def test_the_configurations_of_pictures_name_known_options(vision_model, tmp_path):
    few = ["--num_simulated", "40", "--max_steps", "1", "--bf16", "false", "--report_to", "none"]
    few += ["--dataloader_num_workers", "0", "--disable_tqdm", "true", "--simulate", "sdss"]
    for name in ("tiny", "paper"):
        path = CONFIGS / f"spectrum-vit-{name}.yaml"
        output = ["--output_dir", str(tmp_path / name)]
        more = ["--image_config", "", "--image_model", vision_model] if name == "paper" else []
        finetune_classification.main([str(path), *few, *output, *more])
    config = SpectrumVitConfig(vision_config=yaml.safe_load(path.read_text())["image_config"])
    assert config.vision_config.to_dict() == SpectrumVitConfig.from_preset("base").vision_config.to_dict()


def test_a_finished_run_is_not_overwritten_unasked(checkpoint, tmp_path):
    arguments = [*options(checkpoint, tmp_path / "run"), "--max_steps", "1"]
    finetune_classification.main(arguments)
    with pytest.raises(FileExistsError, match="finished run: pass another --output_dir or --overwrite_output"):
        finetune_classification.main(arguments)


def test_lora_leaves_a_plain_model_with_changed_attention(checkpoint, tmp_path):
    output = tmp_path / "lora"
    finetune_classification.main([*options(checkpoint, output), "--lora_rank", "2", "--learning_rate", "1e-2"])
    before = SpecTokForPreTraining.from_pretrained(checkpoint).spectok.state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(output).spectok.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"layers.0.attention.q_proj.weight", "layers.0.attention.v_proj.weight"}


def test_a_model_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run make demo, or pass --model_name_or_path spectok-tiny"):
        finetune_classification.main(["--simulate", "sdss", "--output_dir", "run"])
    assert not (tmp_path / "run").exists()


def test_a_field_that_no_config_has_is_refused(checkpoint, tmp_path):
    arguments = [*options(checkpoint, tmp_path), "--config_overrides", "{head_dropuot: 0.1}"]
    message = r"--config_overrides must hold fields of SpecTokConfig, found head_dropuot \(head_dropout\?\)"
    with pytest.raises(ValueError, match=message):
        finetune_classification.main(arguments)


def test_balanced_sampling_and_a_joined_catalogue(checkpoint, tmp_path, capsys):
    from spectok_hf.data.spectrum_files import write_spectra

    spectra = simulate_survey("sdss", 30, seed=2)
    rows = [f"{s.object_id},{s.labels['class']}" for s in spectra[:25]]
    for spectrum in spectra:
        spectrum.labels = {"subclass": "unknown"}
    write_spectra(spectra, tmp_path / "spectra.parquet")
    (tmp_path / "labels.csv").write_text("\n".join(["object_id,KIND", *rows]) + "\n")
    labels = ["--label_columns", "{class: KIND}"]
    data = ["--data", str(tmp_path / "spectra.parquet"), "--catalogue", str(tmp_path / "labels.csv")]
    arguments = [*options(checkpoint, tmp_path / "run"), *data, "--simulate", "sdss", "--num_simulated", "3"]
    with pytest.warns(UserWarning, match="5 of 30 spectra"):
        finetune_classification.main([*arguments, "--on", "object_id", *labels, "--balance", "sampling"])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["class_weights"] is None
    assert "25" in capsys.readouterr().out


def test_weights_and_sampling_go_together(checkpoint, tmp_path, monkeypatch):
    orders = []
    trainer = finetune.ResumableTrainer

    def write_down(**given):
        orders.append([given["train_dataset"][row]["labels"] for row in given["sampler"]])
        return trainer(**given)

    monkeypatch.setattr(finetune, "ResumableTrainer", write_down)
    arguments = [*options(checkpoint, tmp_path / "run"), "--num_simulated", "60", "--max_steps", "1"]
    finetune_classification.main([*arguments, "--balance", "inverse-sqrt+sampling"])
    _, counts = np.unique(orders[0], return_counts=True)
    assert len(counts) == 3 and counts.max() - counts.min() <= 1
    weights = json.loads((tmp_path / "run" / "config.json").read_text())["class_weights"]
    assert len(set(weights)) > 1  # those of the training spectra as they are
    with pytest.raises(ValueError, match=r"--balance must be one of none, .*inverse-sqrt\+sampling, found 'equal'"):
        finetune_classification.main([*arguments, "--balance", "equal"])


PROBE = {"head_type": "linear", "freeze_backbone": True, "lora_rank": 0}


def parse(*arguments):
    groups = (finetune.ModelArguments, finetune.DataArguments, TrainingArguments)
    settings = {"defaults": finetune.DEFAULTS, "smoke": {"max_steps": 4, "output_dir": "smoke"}}
    model, _, training = finetune.parse_options(
        list(arguments), groups, modes={"protocol": finetune.PROTOCOLS}, **settings
    )
    return {name: getattr(model, name) for name in PROBE}, (training.max_steps, training.num_train_epochs)


def test_protocols_are_those_of_the_paper():
    assert parse("--protocol", "zero-shot") == (PROBE, (100, 30))
    assert parse("--protocol", "few-shot") == (PROBE, (500, 30))
    assert parse("--protocol", "supervised") == (PROBE, (-1, 10))
    assert parse() == (PROBE | {"head_type": None}, (-1, 30))
    assert parse("--protocol", "few-shot", "--smoke")[1] == (4, 30)


def test_a_protocol_may_stand_in_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("protocol: few-shot\nhead_type: linear\n")
    assert parse(str(path)) == (PROBE, (500, 30))
    assert parse(str(path), "--protocol", "zero-shot")[1] == (100, 30)
    path.write_text("protocol: few-shot\nhead_type: attention\n")
    with pytest.raises(ValueError, match="--protocol few-shot sets --head_type linear, found attention: leave one"):
        parse(str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["zero-shot", "--max_steps", "7"], "--protocol zero-shot sets --max_steps 100, found 7: leave one of them"),
        (["few-shot", "--num_train_epochs", "3"], "--protocol few-shot has no --num_train_epochs, found 3"),
        (["supervised", "--max_steps", "7"], "--protocol supervised sets --max_steps -1, found 7"),
        (["supervised", "--head_type", "attention"], "sets --head_type linear, found attention"),
        (["supervised", "--freeze_backbone", "false"], "sets --freeze_backbone True, found False"),
        (["supervised", "--lora_rank", "8"], "sets --lora_rank 0, found 8"),
        (["one-shot"], "--protocol must be one of zero-shot, few-shot, supervised, found 'one-shot'"),
    ],
)
def test_what_contradicts_a_protocol_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse("--protocol", *arguments)
    assert parse("--protocol", "supervised", "--head_type", "linear", "--num_train_epochs", "10")[1] == (-1, 10)


def test_a_protocol_trains_a_linear_head_on_the_frozen_encoder(omnispectra, tmp_path, capsys):
    output = tmp_path / "run"
    arguments = ["--model_name_or_path", omnispectra, "--output_dir", str(output), "--disable_tqdm", "true"]
    arguments += ["--simulate", "sdss", "--num_simulated", "30", "--protocol", "zero-shot", "--eval_strategy", "no"]
    arguments += ["--save_strategy", "steps", "--save_steps", "50"]
    finetune_classification.main(arguments)
    steps = json.loads(max(output.glob("checkpoint-*/trainer_state.json")).read_text())["global_step"]
    assert steps == 100
    before = OmniSpectraForPreTraining.from_pretrained(omnispectra).omnispectra.state_dict()
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert all(torch.equal(value, before[name]) for name, value in model.omnispectra.state_dict().items())
    # A layer norm and a linear map to the classes, and nothing else.
    assert sum(weight.numel() for weight in model.head.parameters()) == 2 * 32 + (32 + 1) * model.config.num_labels


def test_without_labels_or_sources_it_says_what_to_do(checkpoint, tmp_path):
    arguments = ["--model_name_or_path", checkpoint, "--output_dir", str(tmp_path / "none")]
    with pytest.raises(ValueError, match="nothing to learn from: pass --simulate"):
        finetune_redshift.main(arguments)
    with pytest.raises(ValueError, match="no spectrum has a label of this task: join a catalogue"):
        finetune_stellar_parameters.main(
            [*arguments, "--simulate", "sdss", "--num_simulated", "3", "--targets", "mg_fe"]
        )


def test_the_table_of_all_tasks(checkpoint, tmp_path):
    methods = ["frozen head, tokens", "k-NN, mean", "PCA + ridge, raw flux", "constant"]
    stem = tmp_path / "table"
    evaluate_checkpoint.run(
        evaluate_checkpoint.parse_arguments([checkpoint, "--smoke", "--output", str(stem), "--methods", *methods])
    )
    text = stem.with_suffix(".md").read_text()
    with stem.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["task"] for row in rows} == {"simulated classes", "simulated redshifts", "simulated APOGEE"}
    assert {row["method"] for row in rows} == set(methods)
    for row in rows:
        assert f"| {row['task']} |" in text
        assert not row["reason"]
    assert "| task | target | head | n | within 1 σ | within 2 σ |" in text


def test_an_unknown_task_is_named(checkpoint, tmp_path):
    arguments = evaluate_checkpoint.parse_arguments([checkpoint, "--smoke", "--tasks", "weather"])
    with pytest.raises(ValueError, match="there is no task weather: simulated classes"):
        evaluate_checkpoint.run(arguments)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_configurations_name_known_options(name, checkpoint, tmp_path):
    script = SCRIPTS[name]
    path = CONFIGS / f"{script.__name__}.yaml"
    few = [
        "--num_simulated",
        "40",
        "--max_steps",
        "1",
        "--output_dir",
        str(tmp_path / "run"),
        "--disable_tqdm",
        "true",
    ]
    rows = script.main([str(path), "--model_name_or_path", checkpoint, *few])
    assert rows[0]["method"] == "this model"


@pytest.mark.slow
def test_several_processes_make_the_same_table(checkpoint, tmp_path):
    texts = []
    for jobs in ("1", "2"):
        stem = tmp_path / f"table{jobs}"
        arguments = [checkpoint, "--smoke", "--output", str(stem), "--jobs", jobs, "--methods", "frozen head, tokens"]
        evaluate_checkpoint.run(evaluate_checkpoint.parse_arguments(arguments))
        with Path(f"{stem}.csv").open() as file:
            texts.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert texts[0] == texts[1]


def test_a_model_inside_the_output_folder_is_not_deleted(checkpoint, tmp_path):
    arguments = ["--model_name_or_path", checkpoint, "--output_dir", checkpoint, "--overwrite_output"]
    with pytest.raises(ValueError, match="holds the model to start from: pass another --output_dir"):
        finetune_classification.main([*arguments, "--simulate", "sdss"])
    assert (Path(checkpoint) / "model.safetensors").is_file()
