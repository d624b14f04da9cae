import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from spectok_hf import OmniSpectraConfig, OmniSpectraForPreTraining, OmniSpectraModel, SpecTokConfig


def count_parameters(config, model_class=OmniSpectraForPreTraining):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(config).parameters())


def test_the_defaults_are_the_papers():
    config = OmniSpectraConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 6, 6)
    assert (config.patch_size, config.patch_overlap, config.mask_ratio, config.chunk_length) == (20, 10, 0.75, 50)
    assert config.wavelength_encoding and config.local_position and config.validity_mask
    assert config.head_type == "linear" and config.latent_size == config.head_input_size == 768


def test_at_the_papers_sizes_the_model_has_the_papers_parameters():
    found = count_parameters(OmniSpectraConfig())
    width, between = 768, 3072
    attention = 4 * (width**2 + width) + 4 * width  # and the kernels of 3 with their bias
    mlp = 2 * width * between + between + width
    block = attention + mlp + 2 * 2 * width
    assert found == 6 * block + (22 * width + width) + 2 * width + (width * 22 + 22)
    assert found == pytest.approx(42.5e6, rel=0.01)


@pytest.mark.parametrize("switch", ["wavelength_encoding", "validity_mask", "local_position"])
def test_of_the_ablations_only_local_position_has_parameters(switch):
    whole, without = (count_parameters(OmniSpectraConfig(**{switch: on})) for on in (True, False))
    assert whole - without == (6 * 4 * 768 if switch == "local_position" else 0)


@pytest.mark.parametrize("preset, low, high", [("tiny", 0.9e6, 1.5e6), ("small", 5e6, 7.5e6), ("base", 42e6, 43e6)])
def test_presets_have_the_size_they_promise(preset, low, high):
    config = OmniSpectraConfig.from_preset(preset)
    assert low <= count_parameters(config) <= high
    assert count_parameters(config, OmniSpectraModel) < count_parameters(config)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_small_presets_are_of_the_size_of_spectoks(preset):
    from spectok_hf import SpecTokForPreTraining

    ours = count_parameters(OmniSpectraConfig.from_preset(preset))
    assert ours == pytest.approx(count_parameters(SpecTokConfig.from_preset(preset), SpecTokForPreTraining), rel=0.2)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of tiny, small, base, found 'huge'"):
        OmniSpectraConfig.from_preset("huge")


@pytest.mark.parametrize("name", ["hiden_size", "decoder_type", "patch_overlaps"])
def test_unknown_keywords_are_warned_about(name):
    with pytest.warns(UserWarning, match=f"OmniSpectraConfig does not know {name}"):
        OmniSpectraConfig(**{name: 3})


def test_a_saved_config_comes_back_equal_and_without_a_warning(tmp_path):
    config = OmniSpectraConfig.from_preset("tiny", local_position=False, chunk_factor=1, patch_overlap=5)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is OmniSpectraConfig and loaded.to_diff_dict()["model_type"] == "omnispectra"
    assert loaded.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}
    assert not loaded.local_position and loaded.chunk_length == 20 and loaded.patch_overlap == 5
    assert "latent_size" not in loaded.to_dict()  # nothing to set: it is hidden_size


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "multiple of num_attention_heads, found 100 and 8"),
        ({"hidden_size": 33, "num_attention_heads": 3}, r"must be even \(sines and cosines\)"),
        ({"patch_size": 1, "patch_overlap": 0}, "patch_size must be at least 2"),
        ({"patch_overlap": 11}, "patch_overlap between 0 and half of it, found 20 and 11"),
        ({"patch_overlap": -1}, "patch_overlap between 0 and half"),
        ({"patch_size": 8}, "found 8 and 10"),
        ({"mask_ratio": 0.0}, "mask_ratio must lie between 0 and 1"),
        ({"mask_ratio": 1.5}, "mask_ratio must lie between 0 and 1"),
        ({"chunk_factor": 0.04}, "chunk_factor x patch_size be at least 1"),
        ({"wavelength_dim": 5}, "wavelength_dim must be even"),
        ({"head_num_attention_heads": 5}, "multiple of head_num_attention_heads"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        OmniSpectraConfig(**fields)


@pytest.mark.parametrize("fields", [{"head_type": "other"}, {"local_position": "no"}, {"patch_overlap": 2.5}])
def test_a_choice_that_does_not_exist_is_refused(fields):
    with pytest.raises(StrictDataclassFieldValidationError):
        OmniSpectraConfig(**fields)
