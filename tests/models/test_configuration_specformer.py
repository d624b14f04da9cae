import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from spectok_hf import SpecformerConfig, SpecformerForPreTraining, SpecformerModel, SpecTokConfig


def count_parameters(config, model_class=SpecformerForPreTraining):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in model_class(config).parameters())


def test_the_defaults_are_the_papers():
    config = SpecformerConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 6, 6)
    assert (config.patch_size, config.patch_overlap, config.max_position_embeddings) == (20, 10, 800)
    assert (config.num_chunks, config.chunk_length, config.layer_norm_eps) == (6, 30, 1e-5)
    assert config.hidden_act == "gelu" and config.intermediate_size == 4 * 768
    assert config.latent_size == config.head_input_size == 768
    assert config.masking == {"num_chunks": 6, "chunk_length": 30}


def test_at_the_papers_sizes_the_model_has_the_papers_parameters():
    """43.2 million, as a sum of what the paper's code is made of."""
    width, between, layers = 768, 3072, 6
    attention = 3 * width * width + 3 * width + width * width + width
    mlp = width * between + between + between * width + width
    block = attention + mlp + 2 * 2 * width
    ends = (22 * width + width) + 800 * width + 2 * width + (width * 22 + 22)
    assert layers * block + ends == 43_177_750
    assert count_parameters(SpecformerConfig()) == 43_177_750
    assert count_parameters(SpecformerConfig(), SpecformerModel) == 43_177_750 - (width * 22 + 22)


def test_a_checkpoint_has_the_tensors_of_the_papers():
    with torch.device("meta"):
        names = set(SpecformerForPreTraining(SpecformerConfig()).state_dict())
    # q, k and v, which are one tensor there, are three here: 4 more than its 79 - for each of 6 blocks
    assert len(names) == 79 + 6 * 4
    for name in ("projection.weight", "projection.bias", "position_embedding.weight"):
        assert f"specformer.embeddings.{name}" in names


@pytest.mark.parametrize("preset, low, high", [("tiny", 0.9e6, 1.5e6), ("small", 5e6, 7.5e6), ("base", 43e6, 44e6)])
def test_presets_have_the_size_they_promise(preset, low, high):
    config = SpecformerConfig.from_preset(preset)
    assert low <= count_parameters(config) <= high
    assert (config.patch_size, config.patch_overlap, config.max_position_embeddings) == (20, 10, 800)


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_small_presets_are_of_the_size_of_spectoks(preset):
    from spectok_hf import SpecTokForPreTraining

    ours = count_parameters(SpecformerConfig.from_preset(preset))
    assert ours == pytest.approx(count_parameters(SpecTokConfig.from_preset(preset), SpecTokForPreTraining), rel=0.25)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="preset must be one of tiny, small, base, found 'huge'"):
        SpecformerConfig.from_preset("huge")


@pytest.mark.parametrize("name", ["hiden_size", "mask_ratio", "max_position_embedding"])
def test_unknown_keywords_are_warned_about(name):
    with pytest.warns(UserWarning, match=f"SpecformerConfig does not know {name}"):
        SpecformerConfig(**{name: 3})


def test_a_saved_config_comes_back_equal_and_without_a_warning(tmp_path):
    config = SpecformerConfig.from_preset("tiny", patch_overlap=5, num_chunks=3, chunk_length=11)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SpecformerConfig and loaded.to_diff_dict()["model_type"] == "specformer"
    assert loaded.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {"_name_or_path": ""}
    assert loaded.masking == config.masking and loaded.masking["num_chunks"] == 3
    assert not {"latent_size", "masking"} & set(loaded.to_dict())  # nothing to set: they follow from the rest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 8}, "multiple of num_attention_heads, found 100 and 8"),
        ({"patch_size": 1, "patch_overlap": 0}, "patch_size must be at least 2"),
        ({"patch_overlap": 11}, "patch_overlap between 0 and half of it, found 20 and 11"),
        ({"patch_overlap": -1}, "patch_overlap between 0 and half"),
        ({"max_position_embeddings": 1}, "max_position_embeddings"),
        ({"num_chunks": 0}, "num_chunks"),
        ({"chunk_length": 0}, "chunk_length"),
        ({"wavelength_dim": 5}, "wavelength_dim must be even"),
        ({"head_num_attention_heads": 5}, "multiple of head_num_attention_heads"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=message):
        SpecformerConfig(**fields)


@pytest.mark.parametrize("fields", [{"head_type": "other"}, {"num_chunks": "six"}, {"patch_overlap": 2.5}])
def test_a_choice_that_does_not_exist_is_refused(fields):
    with pytest.raises(StrictDataclassFieldValidationError):
        SpecformerConfig(**fields)
