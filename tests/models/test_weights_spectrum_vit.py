"""Weights of vision encoders on pictures of spectra: new, taken from others, trained, frozen, saved and loaded."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from test_modeling_spectrum_vit import (
    ANSWERS,
    LABELS,
    TASKS,
    VISION,
    every_task,
    every_vision,
    labelled,
    make_config,
    make_model,
    make_pictures,
    make_task_model,
    unseen,
)
from test_packing import loss_and_gradients
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoProcessor,
    BertConfig,
    BertModel,
    Trainer,
    TrainingArguments,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from spectok_hf import (
    AutoModelForRedshift,
    AutoModelForSpectrumClassification,
    AutoModelForStellarRegression,
    SpectrumImageProcessor,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
)

# Alone: Transformers' classifiers are over both encoders of CLIP and SigLIP; AIMv2 and DINOv3 have none.
WITHOUT_CLASSIFIER = {"clip", "siglip", "aimv2", "dinov3"}
AUTO = dict(
    zip(
        TASKS,
        (AutoModelForSpectrumClassification, AutoModelForStellarRegression, AutoModelForRedshift),
        strict=True,
    )
)


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name


# New weights


def test_a_new_head_is_as_large_as_the_config_says():
    torch.manual_seed(0)
    model = SpectrumVitForRedshift(make_config(redshift_bins=512, initializer_range=0.05))
    assert model.head.redshift_logits.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert not model.head.redshift_logits.bias.any() and (model.head.adapter.norm.weight == 1).all()
    linear = next(module for module in model.spectrum_vit.modules() if isinstance(module, torch.nn.Linear))
    assert linear.weight.std().item() == pytest.approx(0.2, rel=0.15)  # as the encoder's own config says


# From vision models


@every_vision
def test_a_classifier_gives_its_encoder_bit_for_bit(vision):
    torch.manual_seed(1)
    auto = AutoModel if vision in WITHOUT_CLASSIFIER else AutoModelForImageClassification
    config = VISION[vision]()
    config.architectures = []  # by which DeiT's are told apart
    classifier = auto.from_config(config).eval()
    model = SpectrumVitModel.from_vision_model(classifier).eval()
    pictures, encoder = make_pictures(), classifier if auto is AutoModel else classifier.base_model
    expected = encoder(pictures)
    found = model(pictures)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    for name, weight in encoder.state_dict().items():
        if not name.startswith(model.unread):
            assert torch.equal(model.vision_model.state_dict()[name], weight), name
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    assert_same_weights(encoder.state_dict(), before)


@every_task
def test_a_head_may_stand_over_a_vision_model_at_once(task):
    torch.manual_seed(1)
    vision, fields = ViTModel(VISION["vit"]()), make_task_model(task).config.to_diff_dict()
    fields = {name: fields[name] for name in ("id2label", "class_weights", *(f for f in fields if "target_" in f))}
    model = TASKS[task].from_vision_model(vision, **fields).eval()
    assert type(model) is TASKS[task] and model.config.num_labels == 3
    weights = vision.state_dict()
    found = model.spectrum_vit.vision_model.state_dict()
    assert_same_weights(found, {name: weight for name, weight in weights.items() if not name.startswith("pooler.")})
    assert model(make_pictures(), labels=LABELS[task]).loss.isfinite()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ViTModel(VISION["vit"]()),  # with a pooler
        lambda: ViTModel(VISION["vit"](), add_pooling_layer=False, use_mask_token=True),
        lambda: ViTForMaskedImageModeling(VISION["vit"]()),
    ],
)
def test_what_is_not_read_is_left_behind(make):
    vision = make().eval()
    model, pictures = SpectrumVitModel.from_vision_model(vision).eval(), make_pictures()
    assert torch.equal(model(pictures).last_hidden_state, vision.base_model(pictures).last_hidden_state)
    assert not any("pooler" in name or "mask_token" in name for name in model.state_dict())


def test_an_encoder_in_half_precision_becomes_a_model_in_full():
    vision = ViTModel(VISION["vit"]()).bfloat16()
    vision.config.dtype = torch.bfloat16  # as from_pretrained leaves it
    model = SpectrumVitForRedshift.from_vision_model(vision)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    weight = model.spectrum_vit.vision_model.layernorm.weight
    assert torch.equal(weight, vision.layernorm.weight.float())


def test_the_processor_is_saved_along(tmp_path):
    vision = ViTModel(VISION["vit"]())
    processor = SpectrumImageProcessor("simple", image_size=24, line_width=1.5)
    model = SpectrumVitModel.from_vision_model(vision, processor, attn_implementation="eager")
    model.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.plot_type, loaded.image_size, loaded.line_width) == ("simple", 24, 1.5)
    assert AutoModel.from_pretrained(tmp_path).own_processor().to_dict() == loaded.to_dict()
    with pytest.raises(ValueError, match="image_size=24, found image_size=224"):
        SpectrumVitModel.from_vision_model(vision, SpectrumImageProcessor())
    assert SpectrumVitModel(make_config()).own_processor().image_size == 24  # of a new one, and warned about


def test_what_is_no_vision_model_is_refused():
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9))
    with pytest.raises(ValueError, match=r"of an encoder of images.*found BertConfig"):
        SpectrumVitModel.from_vision_model(bert)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    with pytest.raises(ValueError, match="must see whole pictures"):
        SpectrumVitModel.from_vision_model(ViTMAEModel(ViTMAEConfig(**sizes)))


def test_an_encoder_that_lacks_what_is_read_is_refused():
    vision = ViTModel(VISION["vit"]())
    del vision.layernorm
    with pytest.raises(ValueError, match=r"must have all weights that are read, found that layernorm\.\w+, layern"):
        SpectrumVitModel.from_vision_model(vision)


# Frozen, and trained


@every_vision
@every_task
def test_every_parameter_that_is_trained_has_a_gradient(task, vision, tmp_path):
    """Else DistributedDataParallel would wait for it."""
    make_task_model(task, vision).save_pretrained(tmp_path)
    for model in (make_task_model(task, vision), TASKS[task].from_pretrained(tmp_path)):
        model.train()
        _, gradients = loss_and_gradients(model, labelled(task, unseen(make_pictures(), 1)))
        still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
        assert gradients.keys() == {name for name, _ in model.named_parameters()} - still
        unread = {"mask_token"} if vision in ("dinov2", "registers", "dinov3", "beit") else set()
        unread |= {"weight", "bias"} if vision == "clip" else set()  # of the norm behind its class token
        assert {name.rpartition(".")[2] for name in still} == unread
        assert all(".embeddings.mask_token" in name or ".post_layernorm." in name for name in still)
        assert all(
            gradient.any() for name, gradient in gradients.items() if not name.endswith(("k_proj.bias", "key.bias"))
        )


@every_task
def test_a_frozen_encoder_has_no_gradient_and_no_dropout(task):
    model = make_task_model(task, freeze_backbone=True, head_dropout=0.5).train()
    model.base_model.vision_model.config.hidden_dropout_prob = 0.5
    pictures = make_pictures()
    assert not model.base_model.vision_model.training and model.head.training
    answers = [model(pictures)[ANSWERS[task][0]] for _ in range(2)]
    assert not torch.equal(*answers)  # the head's dropout
    _, gradients = loss_and_gradients(model, labelled(task, pictures))
    assert gradients.keys() == {name for name, _ in model.named_parameters() if name.startswith("head.")}
    model.freeze_backbone(False)
    assert all(weight.requires_grad for weight in model.parameters()) and model.base_model.vision_model.training


def test_freezing_can_be_undone_but_for_what_is_not_read(tmp_path):
    model = make_task_model("redshift", "dinov2").train()
    before = {name for name, weight in model.named_parameters() if weight.requires_grad}
    model.freeze_backbone()
    model.save_pretrained(tmp_path)
    loaded = SpectrumVitForRedshift.from_pretrained(tmp_path)
    for one in (model, loaded):
        assert all(weight.requires_grad == name.startswith("head.") for name, weight in one.named_parameters())
        one.freeze_backbone(False)
        assert {name for name, weight in one.named_parameters() if weight.requires_grad} == before


def test_batch_statistics_of_a_frozen_encoder_stay():
    for frozen in (True, False):
        model = make_task_model("redshift", "resnet", freeze_backbone=frozen).train()
        before = {name: value.clone() for name, value in model.named_buffers()}
        model(make_pictures())
        assert before and frozen == all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_training_finds_what_pictures_show():
    """Pictures that differ in their brightness, which is the target."""
    fields = {"target_names": ["teff"], "target_mean": [0.5], "target_std": [0.3], "predict_uncertainty": False}
    torch.manual_seed(0)
    model = SpectrumVitForStellarRegression(make_config(**fields)).train()
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=2e-3), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(80):
        level = torch.rand(16, generator=generator)
        pictures = 2 * level[:, None, None, None] - 1 + 0.3 * torch.randn(16, 3, 24, 24, generator=generator)
        loss = model(pictures, labels=level).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.2  # in variances of the target


# Saved and loaded


@every_vision
def test_saved_and_loaded_it_is_the_same(vision, tmp_path):
    model, pictures = make_model(vision), make_pictures()
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is SpectrumVitConfig and type(config.vision_config) is type(model.config.vision_config)
    expected = model(pictures)
    for auto in (AutoModel, SpectrumVitModel):
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is SpectrumVitModel and not loaded.training
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same_weights(loaded.state_dict(), model.state_dict())
        torch.testing.assert_close(loaded(pictures).pooler_output, expected.pooler_output, atol=1e-6, rtol=1e-6)
    loaded.save_pretrained(tmp_path / "again")
    AutoModel.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "third")
    for name in ("model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    for path in (tmp_path / "again").iterdir():  # loading tells the config of the encoder its dtype, once
        assert path.read_bytes() == (tmp_path / "third" / path.name).read_bytes(), path.name


@every_task
@pytest.mark.parametrize("vision", ["vit", "dinov2", "resnet"])
def test_heads_are_saved_and_loaded_under_every_name(vision, task, tmp_path):
    model, pictures = make_task_model(task, vision), make_pictures()
    model.save_pretrained(tmp_path)
    for auto in (AUTO[task], AutoModelForSequenceClassification, TASKS[task]):
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is TASKS[task]
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_same_weights(loaded.state_dict(), model.state_dict())
        for name in ANSWERS[task]:
            torch.testing.assert_close(loaded(pictures)[name], model(pictures)[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vision", ["vit", "dinov2", "swin", "resnet"])
def test_an_encoder_goes_under_a_head_and_comes_out_again(vision, tmp_path):
    encoder = make_model(vision)
    encoder.save_pretrained(tmp_path / "encoder")
    head, info = SpectrumVitForRedshift.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert info["missing_keys"] and all(name.startswith("head.") for name in info["missing_keys"])
    assert not info["unexpected_keys"]
    assert_same_weights(head.spectrum_vit.state_dict(), encoder.state_dict())
    head.save_pretrained(tmp_path / "head")
    loaded, info = SpectrumVitModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same_weights(loaded.state_dict(), encoder.state_dict())


def test_another_head_starts_over_the_same_encoder(tmp_path):
    first = make_task_model("classification")
    first.save_pretrained(tmp_path)
    names = {"target_names": ["teff"], "target_mean": [5000.0], "target_std": [800.0], "target_units": ["K"]}
    second = SpectrumVitForStellarRegression.from_pretrained(tmp_path, **names)
    assert_same_weights(second.spectrum_vit.state_dict(), first.spectrum_vit.state_dict())
    assert second.head.regressor.weight.shape == (2, 24)
    with pytest.raises(ValueError, match="a regression head needs target_names"):
        SpectrumVitForStellarRegression.from_pretrained(tmp_path, target_names=None, target_mean=None, target_std=None)


def test_a_saved_folder_does_not_say_where_its_encoder_lay(tmp_path):
    ViTModel(VISION["vit"]()).save_pretrained(tmp_path / "secret-place")
    vision = AutoModel.from_pretrained(tmp_path / "secret-place")
    SpectrumVitModel.from_vision_model(vision).save_pretrained(tmp_path / "model")
    assert "secret-place" not in (tmp_path / "model" / "config.json").read_text()


def test_its_code_runs_without_this_package(tmp_path):
    pictures = unseen(make_pictures(), 1)
    for task, vision in zip(TASKS, ("vit", "beit", "resnet"), strict=True):
        make_task_model(task, vision).save_pretrained(tmp_path / task)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / task)
        expected = {name: value.detach() for name, value in model(pictures).items()}
        torch.save((pictures, expected, model.base_model(pictures).pooler_output.detach()), tmp_path / f"{task}.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['spectok_hf'] = None\n"  # as if it were not installed
        "from transformers import (AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification,\n"
        "                          AutoProcessor)\n"
        "for task in sys.argv[1:]:\n"
        "    pictures, expected, embeddings = torch.load(f'{task}.pt')\n"
        "    for folder in (task, f'{task}-again'):\n"
        "        model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)\n"
        "        found = model(pictures)\n"
        "        assert found.keys() == expected.keys(), found.keys()\n"
        "        for name, value in expected.items():\n"
        "            assert torch.equal(found[name].nan_to_num(-1), value.nan_to_num(-1)), (task, name)\n"
        "        encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "        assert torch.equal(encoder(pictures).pooler_output, embeddings), task\n"
        "        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)\n"
        "        assert config.model_type == 'spectrum_vit', config.model_type\n"
        "        for auto in (AutoProcessor, AutoFeatureExtractor):\n"
        "            processor = auto.from_pretrained(folder, trust_remote_code=True)\n"
        "            assert type(processor).__name__ == 'SpectrumImageProcessor'\n"
        "        spectrum = {'flux': [1.0, 3.0] * 8, 'wavelength': list(range(4000, 4016)), 'error': 1.0}\n"
        "        size = config.image_size or 224\n"
        "        assert processor(spectrum, return_tensors='pt')['pixel_values'].shape == (1, 3, size, size)\n"
        "        if folder == task:\n"
        "            model.save_pretrained(f'{task}-again')\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *TASKS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


# Weights under the names by which they are saved


@pytest.mark.parametrize("vision", ["vit", "deit", "beit", "dinov2", "swin", "resnet"])
def test_weights_are_loaded_under_the_names_by_which_they_are_saved(vision, tmp_path):
    trained = make_task_model("redshift", vision)
    trained.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    if vision in ("vit", "deit") and hasattr(trained.base_model.vision_model, "layers"):  # not yet in 5.6
        assert saved.keys() != trained.state_dict().keys()  # else this tests nothing
    torch.manual_seed(1)
    model = SpectrumVitForRedshift(trained.config)
    found = model.load_state_dict(saved, strict=True)
    assert not found.missing_keys and not found.unexpected_keys
    assert_same_weights(model.state_dict(), trained.state_dict())
    assert all(weight.requires_grad for name, weight in model.named_parameters() if "mask_token" not in name)


def test_what_is_missing_or_unknown_is_said_as_torch_says_it(tmp_path):
    trained = make_task_model("redshift")
    trained.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    lost, here = "spectrum_vit.vision_model.encoder.layer.1.output.dense.bias", "layers.1.mlp.fc2.bias"
    if not hasattr(trained.base_model.vision_model, "layers"):  # in 5.6 they have the names by which they are saved
        here = "encoder.layer.1.output.dense.bias"
    partial = {name: weight for name, weight in saved.items() if name != lost} | {"head.more": torch.ones(2)}
    torch.manual_seed(1)
    model = SpectrumVitForRedshift(trained.config)
    bias = model.spectrum_vit.vision_model.get_parameter(here)
    bias.data.fill_(0.5)
    found = model.load_state_dict(partial, strict=False)
    assert found.missing_keys == [f"spectrum_vit.vision_model.{here}"]
    assert found.unexpected_keys == ["head.more"]
    assert (bias == 0.5).all()
    assert torch.equal(model.head.redshift_logits.weight, trained.head.redshift_logits.weight)
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*bias.*Unexpected key.*head\.more|Unexpected.*head"):
        model.load_state_dict(partial)


def test_weights_stay_as_precise_as_the_model_is(tmp_path):
    """Also where the config says that they were once loaded in half precision."""
    trained = make_task_model("redshift")
    trained.save_pretrained(tmp_path)
    model = SpectrumVitForRedshift.from_pretrained(tmp_path, dtype=torch.bfloat16).float()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_same_weights(model.state_dict(), trained.state_dict())


class Pictures(torch.utils.data.Dataset):
    """Pictures whose redshift is their brightness."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return {"pixel_values": make_pictures(1, seed=index)[0] + index / 8, "labels": torch.tensor(index / 4)}


def train(folder, *, resume=None, model=None, **options):
    torch.manual_seed(0)
    model = SpectrumVitForRedshift(make_config(redshift_bins=16)) if model is None else model
    settings = {
        **{"output_dir": str(folder), "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-3},
        **{"logging_steps": 1, "report_to": "none", "disable_tqdm": True, "seed": 1, "use_cpu": True},
        **{"dataloader_pin_memory": False, "save_strategy": "steps", "save_steps": 3},
    }
    args = TrainingArguments(**settings | options)
    trainer = Trainer(model, args, train_dataset=Pictures(), eval_dataset=Pictures())
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_run_that_was_cut_short_goes_on_as_if_it_had_not_been(tmp_path):
    whole = train(tmp_path / "whole")
    (tmp_path / "cut").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "cut" / "checkpoint-3")
    resumed = train(tmp_path / "cut", resume=str(tmp_path / "cut" / "checkpoint-3"))
    assert_same_weights(resumed.model.state_dict(), whole.model.state_dict())


def test_the_best_checkpoint_is_taken_at_the_end(tmp_path):
    best = train(
        tmp_path,
        **{"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "learning_rate": 0.3},
        metric_for_best_model="loss",
    )
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    folder = state["best_model_checkpoint"]
    assert_same_weights(best.model.state_dict(), SpectrumVitForRedshift.from_pretrained(folder).state_dict())


def test_a_frozen_encoder_does_not_move_in_training(tmp_path):
    model = make_task_model("redshift", freeze_backbone=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    moved = train(tmp_path, model=model, max_steps=2).model.state_dict()
    changed = {name for name, value in moved.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("head.") for name in changed)


def test_answers_are_predicted_by_the_trainer(tmp_path):
    """What has states of the encoder's own shape is left out."""
    trainer = train(tmp_path, max_steps=1)
    predicted = trainer.predict(Pictures())
    answers = trainer.model.eval()(torch.stack([Pictures()[row]["pixel_values"] for row in range(16)]))
    redshift = predicted.predictions[0]
    torch.testing.assert_close(torch.tensor(redshift), answers.redshift.detach(), atol=1e-4, rtol=1e-4)
