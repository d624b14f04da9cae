import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from spectok_hf import SpecTokConfig, SpecTokForPreTraining


def test_the_defaults_are_the_papers():
    config = SpecTokConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.decoder_num_hidden_layers) == (512, 6, 6)
    assert (config.num_attention_heads, config.patch_size) == (8, 32)
    assert config.patch_size / config.latent_size == 4


@pytest.mark.parametrize("preset, low, high", [("tiny", 0.9e6, 1.5e6), ("small", 5e6, 7e6), ("base", 36e6, 40e6)])
def test_presets_have_the_size_they_promise(preset, low, high):
    model = SpecTokForPreTraining(SpecTokConfig.from_preset(preset))
    assert low <= model.num_parameters() <= high


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of tiny, small, base, found 'huge'"):
        SpecTokConfig.from_preset("huge")


def test_unknown_keywords_are_warned_about():
    with pytest.warns(UserWarning, match="does not know hiden_size"):
        SpecTokConfig(hiden_size=3)


def test_a_saved_config_comes_back_equal_and_without_a_warning(tmp_path):
    config = SpecTokConfig.from_preset("tiny", decoder_type="query", huber_delta=None, architectures=["X"])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}
    assert loaded.huber_delta is None and loaded.decoder_type == "query"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "multiple of num_attention_heads"),
        ({"wavelength_dim": 5}, "wavelength_dim must be even"),
        ({"wavelength_min_period": 5e4}, "wavelength periods"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"latent_size": 0}, "latent_size must lie between 1 and patch_size"),
        ({"latent_size": 64}, "tokens compress"),
        ({"huber_delta": 0.0}, "huber_delta"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        SpecTokConfig(**fields)


def test_a_choice_that_does_not_exist_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError):
        SpecTokConfig(decoder_type="other")
