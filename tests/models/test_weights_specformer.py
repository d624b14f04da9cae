"""Specformer's weights, as they start and as they travel, and the whole spectra that it reconstructs."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_modeling_specformer import (
    all_good,
    make_batch,
    make_model,
    randomised,
)

from spectok_hf import (
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerProcessor,
    simulate_survey,
)

# Weights


def deviation_of(name, shape, config):
    """Standard deviation of the normal that new weights of a name are drawn from."""
    if "projection" in name or "position_embedding" in name:
        return config.hidden_size**-0.5
    if name.startswith("decoder"):
        return shape[-1] ** -0.5
    return (2 * shape[-1] * config.num_hidden_layers) ** -0.5


def assert_new(name, weight, config):
    """A weight from a normal that is cut at three standard deviations, as far as chance lets it be told."""
    if "norm" in name:
        assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight")))), name
    elif name.endswith("bias"):
        assert not weight.any(), name
    else:
        std, count = deviation_of(name, weight.shape, config), weight.numel()
        assert weight.std().item() == pytest.approx(0.98658 * std, rel=5 / math.sqrt(2 * count)), name  # what is left
        assert abs(weight.mean().item()) < 5 * std / math.sqrt(count), name
        assert 2.7 * std < weight.abs().max() <= 3 * std * (1 + 1e-6), name  # so many whole normals go beyond


SIZES = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "patch_size": 20, "patch_overlap": 10}


@pytest.mark.parametrize("fields", [{}, {"initializer_range": 0.5}])
def test_new_weights_are_those_of_the_public_code(fields):
    model = make_model(**SIZES, **fields)
    for name, weight in model.named_parameters():
        assert_new(name.removeprefix("specformer."), weight.detach(), model.config)


def test_what_a_checkpoint_lacks_is_made_as_new_and_what_it_has_is_not(tmp_path):
    model = randomised(make_model(**SIZES))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    lost = {
        "specformer.embeddings.projection.weight",
        "specformer.embeddings.position_embedding.weight",
        "specformer.layers.1.mlp.fc2.weight",
        "specformer.layers.2.attention.k_proj.weight",
        "specformer.layers.0.norm_after.weight",
        "decoder.weight",
        "decoder.bias",
    }
    assert lost <= saved.keys()
    kept = {name: value for name, value in saved.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(1)
    loaded, info = SpecformerForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == lost
    for name, weight in loaded.state_dict().items():
        if name in lost:
            assert_new(name.removeprefix("specformer."), weight, model.config)
        else:
            assert torch.equal(weight, saved[name]), name


def test_an_encoder_alone_gives_a_pretraining_model_a_new_decoder_and_a_head_model_a_new_head(tmp_path):
    encoder = randomised(make_model(**SIZES)).specformer
    encoder.save_pretrained(tmp_path)
    torch.manual_seed(1)
    for model_class, new in ((SpecformerForPreTraining, "decoder."), (SpecformerForRedshift, "head.")):
        model, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert all(name.startswith(new) for name in info["missing_keys"]) and not info["unexpected_keys"]
        loaded = model.specformer.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in encoder.state_dict().items())
        assert all(parameter.isfinite().all() for parameter in model.parameters())
        if new == "decoder.":
            assert_new("decoder.weight", model.decoder.weight.detach(), model.config)


# Reconstruction: every patch from others


def test_every_patch_is_predicted_from_the_other_chunks_and_the_statistics():
    model, batch = make_model(), all_good(make_batch())
    leaves = [batch[name].requires_grad_() for name in ("flux", "scale", "loc")]
    predictions = model.reconstruct(**batch).token_predictions
    place = torch.arange(6) // 2 % 2
    for patch in range(6):
        flux, *of_whole = torch.autograd.grad(predictions[2, patch, 2:].sum(), leaves, retain_graph=True)
        assert not flux[:2].any()
        assert flux[2].any(-1).tolist() == (place != place[patch]).tolist()
        assert all(gradient.bool().tolist() == [False, False, True] for gradient in of_whole)


def test_on_its_own_grid_a_reconstruction_is_what_it_was():
    spectrum = simulate_survey("desi", 1, seed=1103)[0]
    processor = SpecformerProcessor()
    model = make_model(patch_size=20, patch_overlap=10, max_position_embeddings=800, num_chunks=6, chunk_length=30)
    with torch.no_grad():
        outputs = model.reconstruct(**processor(spectrum, return_tensors="pt"))
        request = processor.patch_wavelength(spectrum.wavelength, medium=spectrum.medium)["wavelength"]
        regridded = model.regrid(outputs, request)
    expected = processor.post_process_reconstruction(outputs, spectrum)[0]
    asked = {"wavelength": spectrum.wavelength, "medium": spectrum.medium}
    found = processor.post_process_reconstruction(regridded, spectrum, **asked)[0]
    np.testing.assert_array_equal(found.mask, expected.mask)
    np.testing.assert_array_equal(found.wavelength, spectrum.wavelength)
    step = np.abs(np.diff(expected.flux)).max()  # of noise: the model is not trained
    assert np.abs(found.flux - expected.flux)[~expected.mask].max() < 0.03 * step
