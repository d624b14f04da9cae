"""Auto classes: which head a checkpoint becomes, what is loaded, and what is said of the rest."""

import logging

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

import spectok_hf
from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AutoModelForRedshift,
    AutoModelForSpectrumClassification,
    AutoModelForStellarRegression,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecformerModel,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
)

P = 8
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "patch_size": P,
    "wavelength_dim": 4,
    "initializer_range": 0.2,
    "head_type": "attention",
}
OF_FAMILY = {
    SpecTokConfig: {"decoder_num_hidden_layers": 1, "latent_size": 4},
    OmniSpectraConfig: {"patch_overlap": 3},
    SpecformerConfig: {"patch_overlap": 3},
}
# Of each family: the encoder, what is pretrained, the heads.
FAMILIES = {
    SpecTokConfig: (
        SpecTokModel,
        SpecTokForPreTraining,
        (SpecTokForSpectrumClassification, SpecTokForStellarRegression, SpecTokForRedshift),
    ),
    OmniSpectraConfig: (
        OmniSpectraModel,
        OmniSpectraForPreTraining,
        (OmniSpectraForSpectrumClassification, OmniSpectraForStellarRegression, OmniSpectraForRedshift),
    ),
    SpecformerConfig: (
        SpecformerModel,
        SpecformerForPreTraining,
        (SpecformerForSpectrumClassification, SpecformerForStellarRegression, SpecformerForRedshift),
    ),
}
HEADS = {
    "classification": (AutoModelForSpectrumClassification, "head.classifier"),
    "regression": (AutoModelForStellarRegression, "head.regressor"),
    "redshift": (AutoModelForRedshift, "head.redshift_logits"),
}
FIELDS = {
    "classification": {"id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"}, "label2id": {"GALAXY": 0, "QSO": 1, "STAR": 2}},
    "regression": {"target_names": ["teff", "logg"], "target_mean": [5000.0, 4.0], "target_std": [800.0, 0.5]},
    "redshift": {"redshift_bins": 16, "redshift_range": (0.0, 1.5)},
}
every_task = pytest.mark.parametrize("task", HEADS)
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)


def own_class(family, task):
    """The family's head for a task."""
    return FAMILIES[family][2][list(HEADS).index(task)]


def make_config(family, **fields):
    return family(**SIZES | OF_FAMILY[family] | fields)


def make_inputs(family):
    generator = torch.Generator().manual_seed(0)
    wavelength = 5000 + 2 * torch.arange(5.0 * P).view(1, 5, P).repeat(2, 1, 1)
    statistics = {"scale": torch.tensor([1.0, 2.0]), "loc": torch.tensor([0.5, 3.0])}
    inputs = {"flux": 1 + 0.3 * torch.randn(2, 5, P, generator=generator), "wavelength": wavelength}
    return inputs | (statistics if family is SpecformerConfig else {})


def make_head(family, task, **fields):
    torch.manual_seed(1)
    return own_class(family, task)(make_config(family, **FIELDS[task] | fields)).eval()


@pytest.fixture
def said():
    """What Transformers reports while a model loads."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.WARNING)  # a script that ran before may have silenced it
    yield messages
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def pretrained(tmp_path, family):
    torch.manual_seed(0)
    model = FAMILIES[family][1](make_config(family)).eval()
    model.save_pretrained(tmp_path / "pretrained")
    return model, tmp_path / "pretrained"


def reported(said, status):
    """The weights that the load reports list under a status."""
    rows = [line.split("|") for message in said for line in message.splitlines() if f"| {status}" in line]
    return {row[0].strip() for row in rows}


def assert_same_encoder(found, expected):
    expected = dict(expected.named_parameters())
    assert {name for name, _ in found.named_parameters()} == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.named_parameters())


@every_family
@every_task
def test_a_head_starts_from_a_pretrained_encoder_and_is_said_to_be_new(task, family, pretrained, said):
    model, folder = pretrained
    found = HEADS[task][0].from_pretrained(folder, **FIELDS[task])
    assert type(found) is own_class(family, task) and not found.training
    assert_same_encoder(found.base_model, model.base_model)
    assert len(said) == 1 and "newly initialized" in said[0]
    assert reported(said, "MISSING") == {name for name in found.state_dict() if name.startswith("head.")}
    assert "UNEXPECTED" not in said[0]  # the decoder is no news
    assert torch.equal(found.base_model(**make_inputs(family)).tokens, model(**make_inputs(family)).tokens)


@every_family
def test_queries_of_a_new_head_are_drawn_and_not_left_as_they_were(pretrained):
    torch.manual_seed(0)
    head = AutoModelForRedshift.from_pretrained(pretrained[1], head_num_queries=64).head
    assert head.adapter.pooling.queries.std().item() == pytest.approx(SIZES["initializer_range"], rel=0.1)
    assert head.adapter.fc1.weight.std().item() == pytest.approx(SIZES["initializer_range"], rel=0.1)


@every_family
@every_task
def test_a_head_loads_from_its_own_checkpoint_bit_for_bit_and_in_silence(task, family, tmp_path, said):
    model, inputs = make_head(family, task), make_inputs(family)
    model.save_pretrained(tmp_path)
    for auto_class in (HEADS[task][0], AutoModelForSequenceClassification):
        found = auto_class.from_pretrained(tmp_path)
        assert type(found) is type(model)
        expected, outputs = model(**inputs), found(**inputs)
        assert outputs.keys() == expected.keys() and all(
            torch.equal(outputs[name], expected[name]) for name in outputs
        )
    assert not said
    assert AutoConfig.from_pretrained(tmp_path).architectures == [type(model).__name__]


@every_family
@every_task
def test_the_encoder_of_a_head_loads_in_silence(task, family, tmp_path, said):
    model = make_head(family, task)
    model.save_pretrained(tmp_path)
    found = AutoModel.from_pretrained(tmp_path)
    assert type(found) is FAMILIES[family][0] and not said
    assert_same_encoder(found, model.base_model)
    assert torch.equal(found(**make_inputs(family)).tokens, model.base_model(**make_inputs(family)).tokens)


@every_family
@pytest.mark.parametrize(("saved", "wanted"), [(a, b) for a in HEADS for b in HEADS if a != b])
def test_a_head_of_another_task_is_not_taken_over_in_silence(saved, wanted, family, tmp_path, said):
    make_head(family, saved, **FIELDS[wanted]).save_pretrained(tmp_path)
    found = HEADS[wanted][0].from_pretrained(tmp_path)
    assert type(found) is own_class(family, wanted)
    assert reported(said, "MISSING") == {f"{HEADS[wanted][1]}.{name}" for name in ("weight", "bias")}


@every_family
def test_a_head_of_other_classes_is_refused_unless_asked_for(family, tmp_path, said):
    make_head(family, "classification").save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForSpectrumClassification.from_pretrained(tmp_path, num_labels=5)
    found = AutoModelForSpectrumClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert found(**make_inputs(family)).logits.shape == (2, 5)
    assert reported(said, "MISMATCH") == {"head.classifier.weight", "head.classifier.bias"}


@every_family
def test_a_regression_head_without_names_is_refused(pretrained):
    with pytest.raises(ValueError, match="a regression head needs target_names, found none"):
        AutoModelForStellarRegression.from_pretrained(pretrained[1])


@every_family
def test_a_pretraining_checkpoint_becomes_a_classifier_where_any_head_may_stand(family, pretrained):
    found = AutoModelForSequenceClassification.from_pretrained(pretrained[1], num_labels=3)
    assert type(found) is own_class(family, "classification")
    assert type(AutoModelForPreTraining.from_pretrained(pretrained[1])) is FAMILIES[family][1]


@every_family
@every_task
def test_a_config_becomes_a_model(task, family):
    config = make_config(family, **FIELDS[task])
    assert type(HEADS[task][0].from_config(config)) is own_class(family, task)


@every_family
def test_registering_twice_changes_nothing(family):
    spectok_hf.register()
    assert type(AutoModel.from_config(make_config(family))) is FAMILIES[family][0]


def test_the_registered_families_are_those_that_are_tested_here():
    assert set(spectok_hf.auto.FAMILIES) == {*FAMILIES, AstroClipConfig, SpectrumVitConfig}


def test_a_family_without_heads_is_an_encoder_alone():
    config = AstroClipConfig.from_preset("tiny")
    assert type(AutoModel.from_config(config)) is AstroClipModel
    for auto_class in (
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        *(head[0] for head in HEADS.values()),
    ):
        with pytest.raises(ValueError, match="AstroClipConfig"):
            auto_class.from_config(config)


PICTURE_HEADS = (SpectrumVitForSpectrumClassification, SpectrumVitForStellarRegression, SpectrumVitForRedshift)
VISION = {"model_type": "vit", "image_size": 32, "patch_size": 16, "num_hidden_layers": 1}


@pytest.mark.parametrize(("task", "head_class"), list(zip(HEADS, PICTURE_HEADS, strict=True)))
def test_a_head_on_pictures_is_what_its_checkpoint_was_saved_as(task, head_class, tmp_path):
    vision = VISION | {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    config = SpectrumVitConfig(vision_config=vision, **FIELDS[task])
    head = HEADS[task][0].from_config(config)
    assert type(head) is head_class
    head.save_pretrained(tmp_path)
    found, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(found) is head_class and not report["missing_keys"]
    encoder, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(encoder) is SpectrumVitModel and not report["missing_keys"]
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(encoder.eval()(pictures).pooler_output, head.base_model.eval()(pictures).pooler_output)
        first, second = (model.eval()(pictures).to_tuple()[0] for model in (head, found))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="SpectrumVitConfig"):
        AutoModelForPreTraining.from_config(config)
