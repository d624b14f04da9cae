"""Specformer: its equations against plain references, what must not change an answer, and what must."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_modeling_spectok import P
from test_modeling_spectok import make_batch as make_patches
from torch._dynamo.testing import CompileCounter
from transformers import AutoModel, AutoModelForPreTraining

from spectok_hf import (
    DataCollatorForPackedSpectra,
    DataCollatorForSpectra,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerModel,
    SpecformerProcessor,
    Spectrum,
    simulate_survey,
)

ANSWERS = ("tokens", "pooler_output", "token_predictions", "reconstruction", "coverage", "attention_mask")


def small_config(**changes):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": P,
        "patch_overlap": 4,
        "max_position_embeddings": 64,
        "num_chunks": 2,
        "chunk_length": 2,
    }
    return SpecformerConfig(**sizes | changes)


def make_model(**changes):
    torch.manual_seed(0)
    return SpecformerForPreTraining(small_config(**changes)).eval()


def make_batch(batch=3, patches=6, seed=0):
    """The patches of the other families' tests, with a mean and a standard deviation for each spectrum."""
    return described(make_patches(batch, patches, seed), seed)


def described(batch, seed=0):
    """A padded batch of any family with the mean and the standard deviation of each spectrum."""
    generator, count = torch.Generator().manual_seed(100 + seed), len(batch["flux"])
    scale, loc = 0.2 + 4 * torch.rand(count, generator=generator), 3 * torch.randn(count, generator=generator)
    return batch | {"scale": scale.to(batch["flux"].dtype), "loc": loc.to(batch["flux"].dtype)}


def hide(batch, *patches):
    """The batch with these patches of each spectrum hidden."""
    hidden = torch.zeros(batch["flux"].shape[:2], dtype=torch.bool)
    hidden[:, list(patches)] = True
    return batch | {"bool_masked_pos": hidden}


def all_good(batch):
    return {name: batch[name] for name in ("flux", "wavelength", "scale", "loc")}


def spoil(batch, garbage):
    """The batch with `garbage` under every bad pixel, wavelengths too."""
    bad = batch["pixel_mask"] == 0
    return batch | {name: batch[name].masked_fill(bad, garbage) for name in ("flux", "error", "wavelength")}


def pack(batch):
    """The packed form of a padded batch, all of whose padding stands behind."""
    real = torch.arange(batch["flux"].shape[1]) < batch["num_patches"][:, None]
    rows = {name: value[real] if value.ndim > 1 else value for name, value in batch.items()}
    return rows | {"num_patches": batch["num_patches"].numpy()}


def recorded(module, forward):
    """What went into a module and came out of it during a call."""
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    forward()
    handle.remove()
    return seen[0]


# The plain reference: one spectrum after the other, in double precision, from the equations of the paper and its code


def plain_norm(states, weights, name, eps):
    mean = states.mean(-1, keepdims=True)
    variance = ((states - mean) ** 2).mean(-1, keepdims=True)
    return (states - mean) / np.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def plain_linear(states, weights, name):
    return states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_attention(states, weights, name, heads):
    query, key, value = (plain_linear(states, weights, f"{name}.{which}_proj") for which in "qkv")
    size = states.shape[-1] // heads
    answers = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = np.exp(query[:, own] @ key[:, own].T / math.sqrt(size))
        answers.append(scores / scores.sum(-1, keepdims=True) @ value[:, own])
    return plain_linear(np.concatenate(answers, -1), weights, f"{name}.o_proj")


def plain_gelu(states):
    return states * 0.5 * (1 + np.vectorize(math.erf)(states / math.sqrt(2)))


def plain_features(flux, good, loc, scale, hidden):
    """The statistics token and the slices of a spectrum, each patch_size + 2 numbers long."""
    rows = [[(loc - 2) / 2, (scale - 2) / 8] + [0.0] * flux.shape[-1]]
    for pixels, kept, is_hidden in zip(flux, good, hidden, strict=True):
        if is_hidden or not kept.any():
            rows.append([0.0] * (2 + len(pixels)))
        else:
            rows.append([0.0, 0.0, *np.interp(np.arange(len(pixels)), np.flatnonzero(kept), pixels[kept])])
    return np.array(rows)


def plain_forward(model, flux, good, loc, scale, hidden):
    """States of the statistics token and of each patch of one spectrum; of a bad patch 0."""
    weights = {name: value.double().numpy() for name, value in model.specformer.state_dict().items()}
    config = model.config
    kept = np.concatenate([[True], 2 * good.sum(-1) > good.shape[-1]])
    features = plain_features(flux, good, loc, scale, hidden)[kept]
    states = plain_linear(features, weights, "embeddings.projection")
    states = states + weights["embeddings.position_embedding.weight"][: len(kept)][kept]
    for layer in range(config.num_hidden_layers):
        name = f"layers.{layer}"
        seen = plain_norm(states, weights, f"{name}.norm_before", 1e-5)
        states = states + plain_attention(seen, weights, f"{name}.attention", config.num_attention_heads)
        seen = plain_norm(states, weights, f"{name}.norm_after", 1e-5)
        between = plain_gelu(plain_linear(seen, weights, f"{name}.mlp.fc1"))
        states = states + plain_linear(between, weights, f"{name}.mlp.fc2")
    found = np.zeros((len(kept), states.shape[-1]))
    found[kept] = plain_norm(states, weights, "norm", 1e-5)
    return found


def plain_states(model, batch):
    """`plain_forward` of each spectrum, 0 in the padding: shape (batch, 1 + num_patches, hidden_size)."""
    found = np.zeros((len(batch["flux"]), 1 + batch["flux"].shape[1], model.config.hidden_size))
    hidden = batch.get("bool_masked_pos", torch.zeros(batch["flux"].shape[:2], dtype=torch.bool))
    lengths = batch.get("num_patches", torch.full((len(found),), batch["flux"].shape[1]))
    good = batch.get("pixel_mask", torch.ones_like(batch["flux"])) > 0
    for row, length in enumerate(lengths.tolist()):
        of_row = (values[row, :length].numpy() for values in (batch["flux"].double(), good))
        numbers = (batch[name][row].item() for name in ("loc", "scale"))
        found[row, : 1 + length] = plain_forward(model, *of_row, *numbers, hidden[row, :length].numpy())
    return found


def randomised(model, seed=3):
    """The model with biases, norms and all else away from where they start: nothing of it is a trivial factor."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa", "spectok_packed"])
@pytest.mark.parametrize("hidden", [(), (0, 4)])
def test_the_whole_encoder_is_that_of_a_plain_reference(hidden, attention):
    model = randomised(make_model(attn_implementation=attention)).double()
    batch = hide(make_batch(), *hidden)
    expected, out = plain_states(model, batch), model.specformer(**batch)
    np.testing.assert_allclose(out.last_hidden_state.detach().numpy(), expected[:, 1:], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out.statistics_token.detach().numpy(), expected[:, 0], rtol=1e-6, atol=1e-6)
    valid = np.abs(expected[:, 1:]).sum(-1) > 0
    means = [states[kept].mean(0) for states, kept in zip(expected[:, 1:], valid, strict=True)]
    np.testing.assert_allclose(out.pooler_output.detach().numpy(), means, rtol=1e-6, atol=1e-6)
    head = {name: value.double().numpy() for name, value in model.decoder.state_dict().items()}
    predicted = np.where(valid[..., None], expected[:, 1:] @ head["weight"].T + head["bias"], 0)
    np.testing.assert_allclose(model(**batch).token_predictions.detach().numpy(), predicted, rtol=1e-6, atol=1e-6)


def plain_sequence(flux):
    """What Specformer reads of a spectrum without bad pixels, 22 numbers per token, by the plainest means.

    The last slice, whole or not, is always dropped by the public code; of 7,781 pixels it holds 11.
    """
    flux = np.asarray(flux, dtype=np.float64)
    mean = sum(flux) / len(flux)
    std = max(math.sqrt(((flux - mean) ** 2).sum() / (len(flux) - 1)), 0.2)
    first = [(mean - 2) / 2, (std - 2) / 8, *[0.0] * 20]
    slices = [(flux[start : start + 20] - mean) / std for start in range(0, len(flux) - 10, 10)]
    return np.array([first, *([0.0, 0.0, *values] for values in slices if len(values) == 20)])


def desi_spectrum(seed=0, level=3.0, noise=1.0, **fields):
    rng = np.random.default_rng(seed)
    wavelength = 3600 + 0.8 * np.arange(7781)
    flux = level * (1 + 0.4 * np.sin(wavelength / 300)) + noise * rng.normal(size=7781)
    return Spectrum(flux, wavelength, np.full(7781, noise**-2), **fields)


def test_a_desi_spectrum_is_a_sequence_of_778_tokens_of_22_numbers():
    spectra = [desi_spectrum(seed, level) for seed, level in enumerate((3.0, -0.5, 800.0))]
    model = make_model(patch_size=20, patch_overlap=10, max_position_embeddings=800, num_hidden_layers=1).double()
    inputs = SpecformerProcessor()(spectra, return_tensors="pt")
    assert inputs["num_patches"].tolist() == [777] * 3
    values, _ = recorded(model.specformer.embeddings.projection, lambda: model(**inputs))
    expected = np.stack([plain_sequence(spectrum.flux) for spectrum in spectra])
    assert expected.shape == (3, 778, 22)
    np.testing.assert_allclose(np.sort(values.reshape(-1, 22), 0), np.sort(expected.reshape(-1, 22), 0), atol=2e-5)
    out = model(**inputs, output_hidden_states=True, output_attentions=True)
    assert out.hidden_states[0].shape == (3, 778, 32) and out.tokens.shape == (3, 777, 32)
    weights, bias = (getattr(model.specformer.embeddings.projection, name) for name in ("weight", "bias"))
    place = model.specformer.embeddings.position_embedding.weight[:778]
    embedded = torch.tensor(expected) @ weights.T + bias + place
    torch.testing.assert_close(out.hidden_states[0], embedded, atol=2e-5, rtol=1e-5)


def test_the_numbers_of_the_first_token_are_the_spectrums_mean_and_deviation():
    model, batch = make_model(), all_good(make_batch())
    values, _ = recorded(model.specformer.embeddings.projection, lambda: model(**batch, output_hidden_states=True))
    assert values.shape == (3, 7, P + 2)
    first = torch.stack([(batch["loc"] - 2) / 2, (batch["scale"] - 2) / 8], -1)
    torch.testing.assert_close(values[:, 0, :2], first)
    assert not values[:, 0, 2:].any() and not values[:, 1:, :2].any()
    assert torch.equal(values[:, 1:, 2:], batch["flux"])


# What is hidden


def test_of_a_hidden_patch_only_its_place_is_known():
    model, batch = randomised(make_model()), hide(make_batch(), 2, 4)
    hidden = batch["bool_masked_pos"]
    states = model(**all_good(batch), bool_masked_pos=hidden, output_hidden_states=True).hidden_states[0]
    embeddings = model.specformer.embeddings
    expected = embeddings.projection.bias + embeddings.position_embedding.weight[[3, 5]]
    torch.testing.assert_close(states[:, [3, 5]], expected.expand(3, -1, -1))
    flux = batch["flux"].clone()
    flux[hidden] = torch.randn(flux[hidden].shape) * 50
    reference, other = model(**batch), model(**batch | {"flux": flux})
    assert all(torch.equal(reference[name], other[name]) for name in ANSWERS) and reference.loss != other.loss


def test_what_is_shown_and_the_statistics_reach_what_is_predicted():
    model, batch = make_model(), hide(make_batch(), 2)
    reference, flux = model(**batch).token_predictions, batch["flux"].clone()
    flux[:, 0] += 1
    for changes in ({"flux": flux}, {"loc": batch["loc"] + 2}, {"scale": batch["scale"] + 4}):
        change = reference - model(**batch | changes).token_predictions
        assert (change[:, 2].abs().amax(-1) > 1e-3).all(), list(changes)


def plain_loss(predicted, flux, good, hidden, valid):
    """Patch by patch, pixel by pixel."""
    of_spectra = []
    for b in range(len(flux)):
        squares = []
        for n in range(flux.shape[1]):
            for p in range(flux.shape[2]):
                if hidden[b, n] and valid[b, n] and good[b, n, p]:
                    squares.append((predicted[b, n, 2 + p] - flux[b, n, p]) ** 2)
        of_spectra.append(sum(squares) / len(squares) if squares else 0.0)
    return sum(of_spectra) / len(of_spectra)


@pytest.mark.parametrize("hidden", [(1, 2), (3,), (0, 1, 2, 3, 4, 5), (5,)])
def test_the_loss_is_the_mean_over_spectra_of_the_mean_over_their_hidden_pixels(hidden):
    model, batch = make_model(), hide(make_batch(), *hidden)
    out = model(**spoil(batch, torch.nan))
    arrays = (out.token_predictions.detach(), batch["flux"], batch["pixel_mask"] > 0, batch["bool_masked_pos"])
    expected = plain_loss(
        *(a.double().numpy() if a.dtype.is_floating_point else a.numpy() for a in arrays), out.attention_mask.numpy()
    )
    assert out.loss.item() == pytest.approx(expected, rel=1e-5) and out.loss > 0


def test_the_first_two_predictions_of_a_patch_are_never_asked_for():
    model, batch = make_model().train(), hide(make_batch(), 1, 2)
    model(**batch).loss.backward()
    assert not model.decoder.weight.grad[:2].any() and not model.decoder.bias.grad[:2].any()
    assert model.decoder.weight.grad[2:].any(-1).all() and model.decoder.bias.grad[2:].all()


def test_training_asks_what_is_hidden_and_without_it_there_is_no_loss():
    model, batch = make_model(), make_batch()
    assert model(**batch).loss is None and model(**hide(batch, 2), return_loss=False).loss is None
    with pytest.raises(ValueError, match=r'needs bool_masked_pos: use DataCollatorForSpectra\(hide="chunks"'):
        model.train()(**batch)
    out = model(**hide(batch))  # such as spectra of one patch
    out.loss.backward()
    assert out.loss == 0 and not any(parameter.grad.any() for parameter in model.parameters())


def test_patches_that_are_not_valid_carry_no_loss():
    model, batch = make_model(), hide(make_batch(), 3)
    flux = batch["flux"].clone()
    flux[0, 3] += 100  # three good pixels in a bad patch
    assert torch.equal(model(**batch).loss, model(**batch | {"flux": flux}).loss)


@pytest.mark.parametrize("shape", [(3, 5), (3, 6, P), (18,), (3, 7)])
def test_what_is_hidden_has_one_value_per_patch(shape):
    for forward in (make_model(), make_model().specformer):
        with pytest.raises(ValueError, match=r"bool_masked_pos must have shape \(3, 6\), one value per patch, found"):
            forward(**make_batch(), bool_masked_pos=torch.ones(shape))


# The mean and the standard deviation


@pytest.mark.parametrize("name", ["scale", "loc"])
def test_scale_and_loc_are_required(name):
    batch = make_batch()
    del batch[name]
    for forward in (make_model(), make_model().specformer, SpecformerForRedshift(small_config())):
        for inputs in (batch, pack(batch)):
            with pytest.raises(ValueError, match=rf"{name}.*SpecformerProcessor"):
                forward(**inputs)


@pytest.mark.parametrize("name", ["scale", "loc"])
@pytest.mark.parametrize("shape", [(2,), (4,), (3, 6), ()])
def test_scale_and_loc_have_one_number_per_spectrum(name, shape):
    for inputs in (make_batch(), pack(make_batch())):
        for forward in (make_model(), make_model().specformer):
            with pytest.raises(
                ValueError, match=rf"one number per spectrum.* found {name} \(|one value per spectrum, found"
            ):
                forward(**inputs | {name: torch.ones(shape)})


@pytest.mark.parametrize("name", ["scale", "loc"])
def test_each_spectrum_reads_its_own_statistics(name):
    model, batch = make_model(), make_batch()
    for form in (dict, pack):
        reference = model.specformer(**form(batch))
        for row in range(3):
            changed = batch[name].clone()
            changed[row] += 1.5
            other = model.specformer(**form(batch | {name: changed}))
            for output in ("statistics_token", "pooler_output"):
                moved = (reference[output] - other[output]).abs().amax(-1)
                assert moved[row] > 1e-3 and not moved[torch.arange(3) != row].any()


def test_more_patches_than_positions_are_refused():
    model = make_model(max_position_embeddings=7)
    assert model(**make_batch()).tokens.shape == (3, 6, 32)
    for inputs in (make_batch(patches=7), pack(make_batch(patches=7))):
        with pytest.raises(ValueError, match=r"at most 6 patches, one less than max_position_embeddings"):
            model(**inputs)


def test_padding_beyond_the_positions_is_no_patch():
    """A batch may be padded to any length."""
    model, batch = make_model(max_position_embeddings=7), make_batch()
    wide = {name: torch.nn.functional.pad(v, (0, 0, 0, 3)) for name, v in batch.items() if v.ndim == 3}
    wide |= {name: batch[name] for name in ("num_patches", "scale", "loc")}
    torch.testing.assert_close(model(**wide).tokens[:, :6], model(**batch).tokens)


# Shapes, and what must not change an answer


def test_shapes_are_those_of_the_contract():
    model, batch = make_model(), make_batch()
    out = model(**batch)
    assert out.reconstruction.shape == out.coverage.shape == (3, 6, P)
    assert out.token_predictions.shape == (3, 6, P + 2) and out.tokens.shape == (3, 6, 32)
    assert torch.equal(out.reconstruction, out.token_predictions[..., 2:])
    assert out.token_wavelength.shape == out.token_width.shape == (3, 6) and out.pooler_output.shape == (3, 32)
    assert out.attention_mask.tolist() == [[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1] * 6]
    assert torch.equal(out.coverage, out.attention_mask[..., None].expand(-1, -1, P))
    for name in ("tokens", "token_predictions", "reconstruction"):
        assert not out[name][out.attention_mask == 0].any() and out[name][out.attention_mask > 0].any(-1).all()
    encoded = model.encode(**batch, output_hidden_states=True, output_attentions=True)
    assert encoded.last_hidden_state.shape == (3, 6, 32) and encoded.statistics_token.shape == (3, 32)
    assert torch.equal(encoded.last_hidden_state, encoded.tokens)
    assert [states.shape for states in encoded.hidden_states] == [(3, 7, 32)] * 3
    packed = model.encode(**pack(batch))
    assert packed.tokens.shape == (16, 32) and packed.statistics_token.shape == packed.pooler_output.shape == (3, 32)


def test_the_wavelength_says_where_patches_lie_and_is_not_read_otherwise():
    model, batch = make_model(), hide(make_batch(), 2)
    reference = model(**batch)
    real = torch.arange(6) < batch["num_patches"][:, None]
    centre, step = batch["wavelength"].double().mean(-1).float(), 2.0
    torch.testing.assert_close(reference.token_wavelength, torch.where(real, centre, 0))
    torch.testing.assert_close(reference.token_width, torch.where(real, step * P, 0.0))
    shifted = model(**batch | {"wavelength": batch["wavelength"] * 1.1 + 7})
    for name in ("tokens", "token_predictions", "pooler_output", "loss"):
        assert torch.equal(shifted[name], reference[name])
    assert (shifted.token_wavelength != reference.token_wavelength)[real].all()
    other = model(**batch | {"error": batch["error"] * 9})
    assert torch.equal(other.tokens, reference.tokens)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "spectok_packed"])
@pytest.mark.parametrize("garbage", [0.0, float("nan"), 1e30, -1.0, 5.0])
def test_values_under_bad_pixels_and_in_padding_change_nothing(garbage, attention):
    model, batch = make_model(attn_implementation=attention), hide(make_batch(), 1, 3)
    spoiled = spoil(batch, garbage)
    for forward in (model, model.reconstruct):
        inputs = [
            b if forward is model else {k: v for k, v in b.items() if k != "bool_masked_pos"} for b in (batch, spoiled)
        ]
        reference, other = (forward(**one) for one in inputs)
        assert all(torch.equal(reference[name], other[name]) for name in ANSWERS)
        valid = reference.attention_mask.bool()
        assert torch.equal(reference.token_wavelength[valid], other.token_wavelength[valid])
        assert forward is not model or torch.equal(reference.loss, other.loss)
    first, second = (model.encode(**{k: v for k, v in b.items() if k != "bool_masked_pos"}) for b in (batch, spoiled))
    assert torch.equal(first.statistics_token, second.statistics_token)


def test_a_patch_keeps_its_position_when_another_one_goes_bad():
    """Positions are counted over all patches: what is valid does not move what stands behind it."""
    model, batch = make_model(num_hidden_layers=1), make_batch()
    bad = batch | {"pixel_mask": batch["pixel_mask"].clone()}
    bad["pixel_mask"][2, 1] = 0
    first, second = (
        model(**{k: v[2:] for k, v in b.items()}, output_hidden_states=True).hidden_states[0] for b in (batch, bad)
    )
    torch.testing.assert_close(first[:, [0, 1, 3, 4, 5, 6]], second[:, [0, 1, 3, 4, 5, 6]])
    order = [3, 0, 5, 1, 4, 2]
    turned = all_good(batch) | {name: batch[name][:, order] for name in ("flux", "wavelength")}
    difference = model(**all_good(batch)).tokens[:, order] - model(**turned).tokens
    assert (difference.abs().amax((1, 2)) > 0.01).all()  # the order of patches counts


def test_packed_padded_and_alone_are_one():
    model = make_model().double()
    batch = {k: v.double() if v.is_floating_point() else v for k, v in hide(make_batch(), 1).items()}
    together, packed = model(**batch), model(**pack(batch))
    real = torch.arange(6) < batch["num_patches"][:, None]
    alone = [model(**{name: values[row : row + 1] for name, values in batch.items()}) for row in range(3)]
    torch.testing.assert_close(packed.loss, together.loss, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(torch.stack([one.loss for one in alone]).mean(), together.loss, atol=1e-12, rtol=1e-12)
    for name in ("tokens", "token_predictions", "token_wavelength", "attention_mask"):
        torch.testing.assert_close(packed[name], together[name][real], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), together[name], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(packed.pooler_output, together.pooler_output, atol=1e-12, rtol=1e-12)
    states = [model.encode(**form(batch)).statistics_token for form in (dict, pack)]
    torch.testing.assert_close(*states, atol=1e-12, rtol=1e-12)


def test_no_gradient_flows_from_one_spectrum_to_another():
    model, batch = make_model(), make_batch()
    leaves = [batch[name].requires_grad_() for name in ("flux", "scale", "loc")]
    for form in (dict, pack):
        out = model.specformer(**form(batch))
        for row in range(3):
            for values in (out.statistics_token[row], out.pooler_output[row]):
                gradients = torch.autograd.grad(values.pow(2).sum(), leaves, retain_graph=True)
                for gradient in gradients:
                    assert [bool(one.any()) for one in gradient] == [other == row for other in range(3)]
                assert not gradients[0][batch["pixel_mask"] == 0].any()


@pytest.mark.parametrize("patch", [0, 2, 5])
def test_every_good_pixel_reaches_tokens_and_embedding(patch):
    model, batch = make_model(), make_batch()
    reference = model(**batch)
    for pixel in range(P):
        flux = batch["flux"].clone()
        flux[2, patch, pixel] += 0.3
        other = model(**batch | {"flux": flux})
        assert (reference.tokens[2, patch] - other.tokens[2, patch]).abs().max() > 1e-3
        assert (reference.pooler_output[2] - other.pooler_output[2]).abs().max() > 1e-4


def test_different_spectra_have_different_embeddings_on_every_path():
    processor = SpecformerProcessor()
    spectra = simulate_survey("desi", 5, seed=1101)
    twin = spectra[0]  # the same in all but its level: only the statistics tell them apart
    spectra.append(Spectrum(twin.flux * 5, twin.wavelength, twin.ivar / 25, twin.mask, survey="desi", object_id="x"))
    model = make_model(patch_size=20, patch_overlap=10, max_position_embeddings=800)
    packed, padded = (
        collate(processor)(spectra) for collate in (DataCollatorForPackedSpectra, DataCollatorForSpectra)
    )
    with torch.no_grad():
        alone = torch.cat([model(**processor(s, return_tensors="pt")).pooler_output for s in spectra])
        together = [model(**inputs) for inputs in (processor(spectra, return_tensors="pt"), padded, packed)]
    for out in together:
        torch.testing.assert_close(out.pooler_output, alone, atol=1e-4, rtol=1e-4)
    distance = torch.cdist(alone, alone) / alone.norm(dim=-1).mean()
    assert distance[~torch.eye(6, dtype=torch.bool)].min() > 1e-4
    tokens = together[-1].tokens[together[-1].attention_mask > 0]
    assert len(tokens) > 3000 and len(tokens.unique(dim=0)) == len(tokens)


def test_eager_equals_sdpa_and_recorded_states_change_nothing():
    batch = hide(make_batch(), 2)
    plain = make_model()(**batch)
    for inputs in (batch, pack(batch)):
        eager = make_model(attn_implementation="eager")(**inputs, output_attentions=True, output_hidden_states=True)
        for name in ("tokens", "token_predictions", "pooler_output", "loss"):
            torch.testing.assert_close(plain[name], eager[name], atol=1e-5, rtol=1e-5)
        assert [weights.shape for weights in eager.attentions] == [(3, 4, 7, 7)] * 2
        assert not eager.attentions[0][0, :, :, 4].any()  # nobody asks a bad patch
        assert eager.attentions[0][0, :, :, 0].all()  # and everybody the statistics
        assert [states.shape for states in eager.hidden_states] == [(3, 7, 32)] * 3


def test_an_all_bad_spectrum_is_finite_forward_and_backward():
    for form in (dict, pack):
        model, batch = make_model().train(), hide(make_batch(), 2)
        batch["pixel_mask"][0] = 0
        out = model(**form(batch))
        out.loss.backward()
        assert not out.pooler_output[0].any()
        rows = out.tokens[0] if out.tokens.ndim == 3 else out.tokens[:6]
        assert not rows.any()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    spectrum = simulate_survey("desi", 1, seed=1102)[0]
    bad = Spectrum(spectrum.flux, spectrum.wavelength, spectrum.ivar, mask=np.ones(len(spectrum), dtype=bool))
    inputs = SpecformerProcessor(on_invalid="mask")([bad, spectrum], return_tensors="pt")
    found = make_model(patch_size=20, patch_overlap=10, max_position_embeddings=800).reconstruct(**inputs)
    assert not found.pooler_output[0].any() and not found.reconstruction[0].any() and found.coverage[1].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"flux": torch.ones(1, 1, P), "wavelength": 5000 + torch.arange(P * 1.0).view(1, 1, P)},  # one patch
        {"flux": torch.zeros(2, 3, P), "wavelength": 5000 + torch.arange(48.0).view(2, 3, P)},  # constant
        {"flux": torch.zeros(2, 3, P), "wavelength": torch.zeros(2, 3, P)},  # nothing
        {"flux": torch.zeros(0, 3, P), "wavelength": torch.zeros(0, 3, P)},
    ],
)
def test_edge_cases_are_finite_forward_and_backward(changes):
    model, count = make_model().train(), len(changes["flux"])
    changes = changes | {"scale": torch.ones(count), "loc": torch.zeros(count)}
    out = model(**changes, bool_masked_pos=torch.arange(changes["flux"].shape[1]).expand(count, -1) > 1)
    (out.token_predictions.sum() + (0 if count == 0 else out.loss)).backward()
    assert torch.isfinite(out.pooler_output).all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert torch.isfinite(model.eval().reconstruct(**changes).reconstruction).all()


def test_absent_masks_mean_all_good():
    model, plain = make_model(), all_good(make_batch())
    full = plain | {"pixel_mask": torch.ones(3, 6, P).long(), "attention_mask": torch.ones(3, 6).long()}
    torch.testing.assert_close(model(**plain).tokens, model(**full | {"num_patches": [6] * 3}).tokens)


def test_save_and_load_are_bit_identical(tmp_path):
    model, batch = randomised(make_model()), make_batch()
    model.save_pretrained(tmp_path)
    loaded, base = AutoModelForPreTraining.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is SpecformerForPreTraining and type(base) is SpecformerModel
    assert torch.equal(loaded(**batch).token_predictions, model(**batch).token_predictions)
    assert torch.equal(base(**batch).statistics_token, model.encode(**batch).statistics_token)
    assert {"specformer.embeddings.position_embedding.weight", "specformer.layers.1.attention.o_proj.bias"} <= set(
        load_file(tmp_path / "model.safetensors")
    )


# Types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_wavelengths_that_cannot_hold_the_value_raise(dtype):
    batch = make_batch()
    with pytest.raises(ValueError, match="wavelength must be float32 or float64, found torch"):
        make_model()(**batch | {"wavelength": batch["wavelength"].to(dtype)})


def test_misspelt_inputs_raise():
    batch = make_batch()
    for forward in (make_model(), make_model().specformer):
        with pytest.raises(TypeError, match="forward got unknown inputs: pixelmask"):
            forward(batch["flux"], batch["wavelength"], scale=batch["scale"], loc=batch["loc"], pixelmask=None)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.1), (torch.float64, 1e-5)])
def test_models_of_other_precision_keep_to_their_type(dtype, limit):
    batch = hide(make_batch(), 2)
    for form in (dict, pack):
        out, reference = make_model().to(dtype)(**form(batch)), make_model()(**form(batch))
        assert out.tokens.dtype == out.pooler_output.dtype == out.token_predictions.dtype == dtype
        torch.testing.assert_close(out.tokens.float(), reference.tokens, atol=limit, rtol=limit)
        assert out.loss.dtype == torch.promote_types(dtype, torch.float32)
        assert out.loss.item() == pytest.approx(reference.loss.item(), rel=limit)


@pytest.mark.parametrize("form", [dict, pack])
def test_flux_passes_the_ends_of_the_model_in_full_precision_under_autocast(form):
    model, batch = make_model().train(), form(hide(make_batch(), 2))
    (exact, _), expected = (recorded(model.specformer.embeddings.projection, lambda: model(**batch))), model(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        values, projected = recorded(model.specformer.embeddings.projection, lambda: model(**batch))
        out = model(**batch)
    assert torch.equal(values, exact) and projected.dtype == out.token_predictions.dtype == torch.float32
    torch.testing.assert_close(out.tokens.float(), expected.tokens, atol=0.1, rtol=0.1)
    out.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Training


def test_every_parameter_learns():
    model = make_model(max_position_embeddings=7).train()
    model(**hide(make_batch(), 2)).loss.backward()
    still = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert not {name for name in still if "k_proj.bias" not in name}  # softmax ignores the keys' bias
    assert model.specformer.embeddings.position_embedding.weight.grad.any(-1).all()


def test_gradient_checkpointing_changes_nothing():
    batch, gradients = hide(make_batch(), 2), []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            # renamed in Transformers 5.23
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model(**batch).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_one_compiled_graph_takes_every_padded_batch():
    model, counter = make_model().train(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for seed, (size, patches) in enumerate(((3, 6), (2, 9), (5, 7))):
        batch = hide(make_batch(batch=size, patches=patches, seed=seed), 1, 3)
        expected, found = model(**batch), compiled(**batch)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1


def test_what_is_hidden_is_learnt_from_what_is_shown():
    """Spectra that are one wave each: what a chunk holds follows from the rest."""
    rng, pixels = np.random.default_rng(0), np.arange(24 * 4 + 4)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, P)[::4]
    model = make_model(num_chunks=2, chunk_length=2).train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(150):
        wave = np.sin(pixels / 12 + rng.uniform(0, 2 * np.pi, (16, 1)))
        flux, hidden = torch.tensor(wave[:, windows], dtype=torch.float32), torch.zeros(16, 24, dtype=torch.bool)
        hidden[:, [first + int(rng.integers(9)) + step for first in (0, 12) for step in (0, 1)]] = True
        inputs = {"flux": flux, "wavelength": 5000 + torch.tensor(windows).float().expand_as(flux)}
        loss = model(**inputs, scale=torch.ones(16), loc=torch.zeros(16), bool_masked_pos=hidden).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.25 < 0.4 < np.mean(losses[:5])  # 0.5 is the variance of a wave
