"""The config of vision encoders on pictures of spectra: the paper's, other encoders, and what is refused."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
    ViTMAEConfig,
)

from spectok_hf import SpectrumImageProcessor, SpectrumProcessor, SpectrumVitConfig, SpectrumVitModel
from spectok_hf.models.checkpoints import check_processor


def count_parameters(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in SpectrumVitModel(config).parameters())


def test_the_default_is_the_encoder_of_the_paper():
    """ViT-B/16 without a pooler, whose 85.8 M parameters are those of the DINO checkpoint."""
    config = SpectrumVitConfig()
    vision = config.vision_config
    assert type(vision) is ViTConfig
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (768, 12, 12)
    assert (vision.image_size, vision.patch_size, vision.intermediate_size) == (224, 16, 3072)
    assert (config.hidden_size, config.latent_size, config.head_input_size) == (768, 768, 768)
    assert (config.image_size, config.num_channels, config.head_type) == (224, 3, "linear")
    block = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    ends = 3 * 16 * 16 * 768 + 768 + (14 * 14 + 1) * 768 + 768 + 2 * 768
    assert count_parameters(config) == 12 * block + ends == 85_798_656


@pytest.mark.parametrize(("preset", "width", "depth", "most"), [("tiny", 128, 6, 1.5e6), ("small", 256, 8, 7e6)])
def test_presets_have_the_size_they_promise(preset, width, depth, most):
    config = SpectrumVitConfig.from_preset(preset, num_labels=5)
    assert (config.hidden_size, config.vision_config.num_hidden_layers, config.num_labels) == (width, depth, 5)
    assert config.image_size == 224 and 0.5 * most < count_parameters(config) < most
    assert SpectrumVitConfig.from_preset("base").to_dict() == SpectrumVitConfig().to_dict()


@pytest.mark.parametrize(
    ("vision", "width", "size"),
    [
        (SwinConfig(embed_dim=12, depths=[1, 1], num_heads=[2, 2]), 24, 224),
        (ResNetConfig(hidden_sizes=[12, 20], depths=[1, 1]), 20, None),
        (ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=64), 16, 64),
        (CLIPVisionConfig(hidden_size=24), 24, 224),
        (ViTConfig(hidden_size=24, image_size=[32, 32]), 24, 32),
    ],
)
def test_sizes_are_those_of_the_encoder(vision, width, size):
    config = SpectrumVitConfig(vision_config=vision)
    assert (config.hidden_size, config.image_size) == (width, size)
    assert config.processor_fields == (("image_size",) if size else ())
    assert config.new_processor().image_size == (size or 224)


def test_an_encoder_may_be_named_by_a_dict_and_what_it_says_of_its_classes_is_dropped():
    vision = ViTConfig(hidden_size=24, num_attention_heads=4, id2label={0: "cat", 1: "dog", 2: "car"})
    config = SpectrumVitConfig(vision_config=vision.to_dict() | {"architectures": ["ViTForImageClassification"]})
    assert type(config.vision_config) is ViTConfig and config.hidden_size == 24
    assert "cat" not in json.dumps(config.to_dict()) and config.num_labels == 2
    assert config.vision_config.architectures is None


def test_a_config_that_is_given_stays_as_it_was():
    vision = ViTConfig(hidden_size=24, num_attention_heads=4, name_or_path="somewhere")
    before = vision.to_dict()
    config = SpectrumVitConfig(vision_config=vision, attn_implementation="eager")
    config.vision_config.hidden_size = 12
    assert vision.to_dict() == before and vision._attn_implementation is None
    assert config.hidden_size == 12 and config.vision_config.name_or_path == ""


def test_saved_and_loaded_it_is_the_same(tmp_path):
    config = SpectrumVitConfig.from_preset(
        "tiny", num_labels=3, target_names=["teff"], target_mean=[5000.0], target_std=[800.0]
    )
    config.save_pretrained(tmp_path)
    loaded = SpectrumVitConfig.from_pretrained(tmp_path)
    assert loaded.vision_config.to_dict() == config.vision_config.to_dict()
    assert (loaded.hidden_size, loaded.num_labels, loaded.target_names) == (128, 3, ["teff"])
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == SpectrumVitConfig.auto_classes
    assert saved["vision_config"]["model_type"] == "vit"


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"hidden_size": 24}, "must name its model_type, one of Transformers, found None"),
        ({"model_type": "vitt"}, "must name its model_type, one of Transformers, found 'vitt'"),
        (BertConfig(), "of an encoder of images, with num_channels and hidden_size.*found BertConfig"),
        (CLIPConfig(), "found CLIPConfig: pass its vision_config"),
    ],
)
def test_what_is_no_vision_encoder_is_refused(vision, message):
    with pytest.raises(ValueError, match=message):
        SpectrumVitConfig(vision_config=vision)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        (ViTConfig(num_channels=1), "must have num_channels=3, as pictures have, found 1 of 'vit'"),
        (ViTMAEConfig(), "must see whole pictures, found mask_ratio=0.75 of 'vit_mae'"),
    ],
)
def test_an_encoder_that_cannot_see_a_picture_is_refused(vision, message):
    with pytest.raises(match=message):
        SpectrumVitConfig(vision_config=vision)


def test_a_model_of_ours_is_no_vision_encoder():
    with pytest.raises(match="of Transformers, found 'spectrum_vit'"):
        SpectrumVitConfig(vision_config=SpectrumVitConfig.from_preset("tiny"))


def test_there_is_nothing_to_attend_to():
    with pytest.raises(StrictDataclassFieldValidationError, match="head_type"):
        SpectrumVitConfig(head_type="attention")


def test_a_field_that_nobody_reads_is_warned_about():
    with pytest.warns(UserWarning, match="SpectrumVitConfig does not know patch_size"):
        SpectrumVitConfig(patch_size=16)


def test_config_and_processor_must_agree_in_the_size_of_a_picture():
    config = SpectrumVitConfig.from_preset("tiny")
    for processor in (SpectrumImageProcessor(), SpectrumImageProcessor(plot_type="simple", medium="air")):
        check_processor(config, processor)
    with pytest.raises(ValueError, match=r"image_size=224, found image_size=64 in SpectrumImageProcessor"):
        check_processor(config, SpectrumImageProcessor(image_size=64))
    with pytest.raises(ValueError, match="SpectrumVitConfig needs the processor SpectrumImageProcessor, found Spectr"):
        check_processor(config, SpectrumProcessor())
    any_size = SpectrumVitConfig(vision_config=ResNetConfig(hidden_sizes=[12, 20], depths=[1, 1]))
    check_processor(any_size, SpectrumImageProcessor(image_size=64))
