import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig, BertConfig, CLIPConfig, Dinov2Config, ResNetConfig, ViTConfig

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    OmniSpectraConfig,
    SpecformerConfig,
    SpecformerModel,
    SpecTokConfig,
)
from spectok_hf.models.spectrum import CGS_UNIT


def count_parameters(config, model_class=AstroClipModel):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(config).parameters())


def test_the_defaults_are_those_of_the_public_code():
    config = AstroClipConfig()
    assert type(config.spectrum_config) is SpecformerConfig and type(config.vision_config) is Dinov2Config
    vision = config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (1024, 24, 16)
    assert (vision.image_size, vision.patch_size, vision.num_channels) == (144, 12, 3)
    assert (config.projection_dim, config.pooling_num_attention_heads, config.pooling_dropout) == (1024, 4, 0.1)
    assert config.logit_scale_init_value == 15.5 and not config.learn_logit_scale
    assert config.freeze_spectrum_model and config.freeze_vision_model and config.image_pooling == "attention"
    assert config.hidden_size == 1024 and config.patch_size == 20 and config.num_channels == 3


def test_at_the_public_codes_sizes_the_model_has_its_parameters():
    """About 370 M: Specformer, a head of 13 M over it, DINOv2's ViT-L of 302 M, and a head over that."""
    size, states = 1024, 768

    def head(channels):
        attention = size + 2 * (size * size + size) + 2 * (channels * size + size)
        return attention + 2 * size + (size * 4 * size + 4 * size) + (4 * size * size + size)

    config = AstroClipConfig()
    spectrum = count_parameters(config.spectrum_config, SpecformerModel)
    assert spectrum == 43_177_750 - (768 * 22 + 22)
    block = (
        4 * (size * size + size) + (size * 4 * size + 4 * size) + (4 * size * size + size) + 2 * 2 * size + 2 * size
    )
    ends = (
        (3 * 12 * 12 * size + size) + (144 + 1) * size + size + size + 2 * size
    )  # patches, positions, two tokens, norm
    assert count_parameters(config) == spectrum + head(states) + (24 * block + ends) + head(size)
    assert count_parameters(config) == pytest.approx(370e6, rel=0.02)


@pytest.mark.parametrize(("preset", "low", "high"), [("tiny", 1.5e6, 3e6), ("small", 10e6, 16e6)])
def test_presets_have_the_size_they_promise(preset, low, high):
    config = AstroClipConfig.from_preset(preset)
    assert low <= count_parameters(config) <= high
    assert config.spectrum_config.to_dict() == SpecformerConfig.from_preset(preset).to_dict()
    assert config.image_size == 96 and config.projection_dim == config.spectrum_config.hidden_size
    other = AstroClipConfig.from_preset(preset, spectrum_config=SpecTokConfig.from_preset("tiny"), projection_dim=64)
    assert type(other.spectrum_config) is SpecTokConfig and other.projection_dim == 64
    assert type(AstroClipConfig.from_preset(preset).spectrum_config) is SpecformerConfig  # and the preset is as it was


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of tiny, small, base, found 'huge'"):
        AstroClipConfig.from_preset("huge")


SPECTRUM = {
    "specformer": SpecformerConfig.from_preset("tiny", patch_size=16, patch_overlap=6),
    "spectok": SpecTokConfig.from_preset("tiny", latent_size=5),
    "omnispectra": OmniSpectraConfig.from_preset("tiny", local_position=False),
}
VISION = {
    "vit": ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=60, patch_size=12),
    "dinov2": Dinov2Config(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=60, patch_size=12),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 40], depths=[1, 1], num_channels=4),
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("family", SPECTRUM)
@pytest.mark.parametrize("given_as", ["config", "dict"])
def test_a_saved_config_comes_back_equal_and_without_a_warning(given_as, family, vision, tmp_path):
    given = SPECTRUM[family], VISION[vision]
    given = given if given_as == "config" else [each.to_dict() for each in given]
    config = AstroClipConfig(spectrum_config=given[0], vision_config=given[1], projection_dim=32, image_residual=False)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is AstroClipConfig and loaded.model_type == "astroclip"
    assert type(loaded.spectrum_config) is type(SPECTRUM[family]) and type(loaded.vision_config) is type(
        VISION[vision]
    )
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert loaded.patch_size == SPECTRUM[family].patch_size and loaded.latent_size == SPECTRUM[family].latent_size
    assert loaded.vision_hidden_size == (40 if vision == "resnet" else 48)
    assert loaded.num_channels == (4 if vision == "resnet" else 3)
    assert loaded.image_size == (None if vision == "resnet" else 60)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["spectrum_config"]["model_type"] == family and saved["vision_config"]["model_type"] == vision
    assert not {"hidden_size", "latent_size", "patch_size", "num_channels", "image_size"} & set(saved)


def test_two_configs_share_nothing():
    first, second = AstroClipConfig(), AstroClipConfig()
    first.vision_config.hidden_size = first.spectrum_config.hidden_size = 12
    assert second.vision_config.hidden_size == 1024 and second.spectrum_config.hidden_size == 768
    assert AstroClipConfig().vision_config.hidden_size == 1024


@pytest.mark.parametrize("family", SPECTRUM)
@pytest.mark.parametrize("read_level", [True, False])
def test_where_brightness_is_read_spectra_must_be_in_its_unit(read_level, family, tmp_path):
    config = AstroClipConfig(
        spectrum_config=SPECTRUM[family], vision_config=VISION["vit"], projection_dim=32, read_level=read_level
    )
    assert config.adds_level == (read_level and family != "specformer")
    assert config.knows_level == (read_level or family == "specformer")
    assert config.spectra.get("flux_unit") == (CGS_UNIT if config.knows_level else None)
    processor = config.new_processor()
    wanted = CGS_UNIT if read_level or family == "specformer" else None  # Specformer reads it whatever is said
    assert processor.spectrum_processor.flux_unit == wanted
    settings = json.loads(processor.to_json_string())
    found = config.processor_values(settings)
    assert found == {name: getattr(config, name) for name in config.processor_fields}
    del settings["spectrum_processor"]["flux_unit"]  # of a file from before there was one
    assert (config.processor_values(settings) == found) == (not config.knows_level)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["read_level"] is read_level
    assert AutoConfig.from_pretrained(tmp_path).adds_level == config.adds_level


@pytest.mark.parametrize("family", SPECTRUM)
def test_a_new_processor_keeps_what_that_of_the_spectra_says(family):
    config = AstroClipConfig(spectrum_config=SPECTRUM[family], vision_config=VISION["vit"], projection_dim=32)
    given = config.spectrum_config.new_processor()
    given.medium, given.max_normalized_flux = "air", 77.0
    before = given.to_dict()
    found = config.new_processor(given)
    assert found.spectrum_processor.to_dict() == before | {"flux_unit": CGS_UNIT}
    assert given.to_dict() == before  # and is a copy, where the unit is new


@pytest.mark.parametrize("name", ["projection_dims", "vision_clas_token", "num_labels_"])
def test_unknown_keywords_are_warned_about(name):
    with pytest.warns(UserWarning, match=f"AstroClipConfig does not know {name}"):
        AstroClipConfig(**{name: 3})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projection_dim": 30}, "multiple of pooling_num_attention_heads, found 30 and 4"),
        ({"pooling_num_attention_heads": 0}, "multiple of pooling_num_attention_heads"),
        ({"pooling_dropout": 1.0}, "pooling_dropout"),
        ({"logit_scale_init_value": 0.0}, "logit_scale_init_value"),
        ({"vision_config": ViTConfig(), "vision_class_token": False}, "needs DINOv2"),
        ({"vision_class_token": False, "image_pooling": "linear"}, "needs DINOv2"),
        ({"spectrum_config": ViTConfig()}, "must be of specformer, spectok, omnispectra, found 'vit'"),
        ({"spectrum_config": {"hidden_size": 3}}, "must be of specformer, spectok, omnispectra, found None"),
        ({"vision_config": {"hidden_size": 3}}, "must name its model_type"),
        (
            {"vision_config": {"model_type": "no such"}},
            "must name its model_type, one of Transformers, found 'no such'",
        ),
        ({"vision_config": BertConfig()}, "an encoder of images"),
        ({"vision_config": CLIPConfig()}, "pass its vision_config"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        AstroClipConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"image_pooling": "mean"}, {"learn_logit_scale": "yes"}, {"projection_dim": 2.5}, {"read_level": "yes"}]
)
def test_a_choice_that_does_not_exist_is_refused(fields):
    with pytest.raises(StrictDataclassFieldValidationError):
        AstroClipConfig(**fields)


def test_the_new_processor_is_the_one_of_both_encoders():
    for family, config in SPECTRUM.items():
        processor = AstroClipConfig(
            spectrum_config=config, vision_config=VISION["vit"], projection_dim=32
        ).new_processor()
        assert processor.spectrum_processor.patch_size == config.patch_size, family
        assert type(processor.spectrum_processor) is type(config.new_processor())
        assert processor.image_size == 60 and len(processor.bands) == 3
    with pytest.raises(ValueError, match="num_channels"):
        AstroClipConfig(vision_config=VISION["resnet"], projection_dim=32).new_processor()  # which bands, nobody said
