"""OmniSpectra: its equations against plain references, what must not change an answer, and what must."""

import math

import numpy as np
import pytest
import torch
from test_modeling_spectok import P, make_batch
from torch._dynamo.testing import CompileCounter
from transformers import AutoModel, AutoModelForPreTraining

from spectok_hf import (
    DataCollatorForPackedSpectra,
    DataCollatorForSpectra,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraModel,
    OmniSpectraProcessor,
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
        "chunk_factor": 0.25,  # two patches
    }
    return OmniSpectraConfig(**sizes | changes)


def make_model(**changes):
    torch.manual_seed(0)
    return OmniSpectraForPreTraining(small_config(**{"initializer_range": 0.2} | changes)).eval()


def hide(batch, *patches):
    """The batch with these patches of each spectrum hidden."""
    hidden = torch.zeros(batch["flux"].shape[:2], dtype=torch.bool)
    hidden[:, list(patches)] = True
    return batch | {"bool_masked_pos": hidden}


def all_good(batch):
    return {name: batch[name] for name in ("flux", "wavelength")}


def spoil(batch, garbage):
    """The batch with `garbage` under every bad pixel, wavelengths too: unlike SpecTok's, no grid is a request."""
    bad = batch["pixel_mask"] == 0
    return batch | {name: batch[name].masked_fill(bad, garbage) for name in ("flux", "error", "wavelength")}


def recorded(module, forward):
    """What went into a module and came out of it during a call."""
    seen = []
    handle = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone())))
    forward()
    handle.remove()
    return seen[0]


# Equations against plain references


def test_a_token_is_mean_standard_deviation_and_flux_of_the_good_pixels():
    model, batch = make_model(), make_batch()
    values, _ = recorded(model.omnispectra.embeddings.projection, lambda: model(**spoil(batch, torch.nan)))
    real = torch.arange(6) < batch["num_patches"][:, None]
    flux, good = (batch[name][real].double().numpy() for name in ("flux", "pixel_mask"))
    assert values.shape == (16, P + 2)
    for found, pixels, kept in zip(values.numpy(), flux, good > 0, strict=True):
        of_good = pixels[kept]
        assert found[0] == pytest.approx(of_good.sum() / len(of_good), rel=1e-5)
        assert found[1] == pytest.approx(math.sqrt(((of_good - of_good.mean()) ** 2).sum() / len(of_good)), rel=1e-5)
        filled = np.interp(np.arange(P), np.flatnonzero(kept), of_good)
        np.testing.assert_allclose(found[2:], filled, rtol=1e-5, atol=1e-6)


def test_the_encoding_is_that_of_the_first_transformer_in_double_precision():
    model = make_model(hidden_size=64)
    wavelength = (16_900.3 + 13.7 * torch.arange(12.0 * P, dtype=torch.float64)).view(1, 12, P)
    embeddings = model.omnispectra.embeddings
    _, projected = recorded(embeddings.projection, lambda: model(torch.zeros(1, 12, P), wavelength))
    _, embedded = recorded(embeddings, lambda: model(torch.zeros(1, 12, P), wavelength))
    found = (embedded - projected).view(12, 64).double().detach().numpy()
    exact, in_float32 = np.empty((12, 64)), np.empty((12, 64))
    for row, centre in enumerate(wavelength[0].mean(-1).tolist()):
        for i in range(32):
            phase = centre / 10_000 ** (2 * i / 64)
            rounded = np.float32(centre) / np.float32(10_000) ** np.float32(2 * i / 64)
            exact[row, 2 * i : 2 * i + 2] = math.sin(phase), math.cos(phase)
            in_float32[row, 2 * i : 2 * i + 2] = np.sin(rounded), np.cos(rounded)
    np.testing.assert_allclose(found, exact, atol=1e-6)
    assert abs(in_float32 - exact).max() > 3e-4  # what phases in float32 would be wrong by


@pytest.mark.parametrize("size", [768, 256])
def test_the_projection_starts_from_a_truncated_normal(size, tmp_path):
    fields = {"hidden_size": size, "num_hidden_layers": 1, "initializer_range": 0.02, "patch_size": 20}
    model = make_model(**fields, patch_overlap=10)
    weight = model.omnispectra.embeddings.projection.weight.detach()
    limit = 3 * size**-0.5
    assert weight.abs().max() <= limit and weight.abs().max() > 0.85 * limit
    # the three sigma that are cut off take 2.7 % of the variance
    assert size * weight.var().item() == pytest.approx(0.973, rel=0.05)
    assert abs(weight.mean().item()) < 4 / size**0.5 / weight.numel() ** 0.5
    assert model.decoder.weight.std().item() == pytest.approx(0.02, rel=0.05)
    with torch.no_grad():
        model.omnispectra.embeddings.projection.weight.fill_(0.125)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)  # is loaded, and not drawn anew
    assert (loaded.embeddings.projection.weight == 0.125).all()


def plain_loss(predicted, flux, good, hidden, valid):
    """Patch by patch, pixel by pixel."""
    of_spectra = []
    for b in range(len(flux)):
        squares = []
        for n in range(flux.shape[1]):
            if hidden[b, n] and valid[b, n]:
                of_good = flux[b, n][good[b, n]]
                target = [of_good.mean(), of_good.std(), *of_good]
                guess = [*predicted[b, n, :2], *predicted[b, n, 2:][good[b, n]]]
                squares += [(y - g) ** 2 for y, g in zip(target, guess, strict=True)]
        of_spectra.append(sum(squares) / len(squares) if squares else 0.0)
    return sum(of_spectra) / len(of_spectra)


@pytest.mark.parametrize("hidden", [(1, 2), (3,), (0, 1, 2, 3, 4, 5), (5,)])
def test_the_loss_is_the_mean_over_spectra_of_the_mean_over_their_hidden_tokens(hidden):
    model, batch = make_model(), hide(make_batch(), *hidden)
    out = model(**spoil(batch, torch.nan))
    arrays = (out.token_predictions.detach(), batch["flux"], batch["pixel_mask"] > 0, batch["bool_masked_pos"])
    expected = plain_loss(
        *(a.double().numpy() if a.dtype.is_floating_point else a.numpy() for a in arrays), out.attention_mask.numpy()
    )
    assert out.loss.item() == pytest.approx(expected, rel=1e-5) and out.loss > 0


def test_predictions_are_a_linear_map_of_tokens():
    model, batch = make_model(), make_batch()
    out = model(**batch)
    valid = out.attention_mask.bool()
    expected = out.tokens[valid] @ model.decoder.weight.T + model.decoder.bias
    torch.testing.assert_close(out.token_predictions[valid], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(out.reconstruction, out.token_predictions[..., 2:])
    assert torch.equal(out.tokens, model.omnispectra(**batch).last_hidden_state)


# What is hidden


def test_of_a_hidden_patch_only_its_place_is_known():
    model, batch = make_model(), hide(make_batch(), 2, 4)
    hidden = batch["bool_masked_pos"]
    _, embedded = recorded(model.omnispectra.embeddings, lambda: model(**all_good(batch), bool_masked_pos=hidden))
    embedded, centre = embedded.view(3, 6, 32), batch["wavelength"].double().mean(-1)[hidden]
    phase = centre[:, None] / 10_000 ** (torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    encoding = torch.stack([phase.sin(), phase.cos()], -1).flatten(1).float()
    expected = model.omnispectra.embeddings.projection.bias + encoding
    torch.testing.assert_close(embedded[hidden], expected, atol=1e-5, rtol=1e-5)
    flux, wavelength = batch["flux"].clone(), batch["wavelength"].clone()
    flux[hidden] = torch.randn(flux[hidden].shape) * 50
    reference, other = model(**batch), model(**batch | {"flux": flux})
    assert all(torch.equal(reference[name], other[name]) for name in ANSWERS) and reference.loss != other.loss
    wavelength[:, 2] += 3
    moved = model(**batch | {"wavelength": wavelength})
    assert ((reference.token_predictions - moved.token_predictions)[:, 2].abs().amax(-1) > 1e-3).all()


def test_what_is_shown_reaches_what_is_predicted():
    model, batch = make_model(), hide(make_batch(), 2)
    flux = batch["flux"].clone()
    flux[:, 0] += 1
    change = model(**batch).token_predictions - model(**batch | {"flux": flux}).token_predictions
    assert (change[:, 2].abs().amax(-1) > 1e-3).all()


def test_training_asks_what_is_hidden_and_without_it_there_is_no_loss():
    model, batch = make_model(), make_batch()
    assert model(**batch).loss is None and model(**hide(batch, 2), return_loss=False).loss is None
    with pytest.raises(ValueError, match=r'needs bool_masked_pos: use DataCollatorForSpectra\(hide="chunks"'):
        model.train()(**batch)
    out = model(**hide(batch))  # such as spectra of one patch
    out.loss.backward()
    assert out.loss == 0 and not any(parameter.grad.any() for parameter in model.parameters())
    assert torch.equal(out.tokens, model.eval()(**batch).tokens)


def test_patches_that_are_not_valid_carry_no_loss():
    model, batch = make_model(), hide(make_batch(), 3)
    flux = batch["flux"].clone()
    flux[0, 3] += 100  # three good pixels in a bad patch
    assert torch.equal(model(**batch).loss, model(**batch | {"flux": flux}).loss)


@pytest.mark.parametrize("shape", [(3, 5), (3, 6, P), (18,)])
def test_what_is_hidden_has_one_value_per_patch(shape):
    for forward in (make_model(), make_model().omnispectra):
        with pytest.raises(ValueError, match=r"bool_masked_pos must have shape \(3, 6\), one value per patch, found"):
            forward(**make_batch(), bool_masked_pos=torch.ones(shape))


# Shapes, and what must not change an answer


def test_shapes_are_those_of_the_contract():
    model, batch = make_model(), make_batch()
    out = model(**batch)
    assert out.reconstruction.shape == out.coverage.shape == (3, 6, P)
    assert out.token_predictions.shape == (3, 6, P + 2) and out.tokens.shape == (3, 6, 32)
    assert out.token_wavelength.shape == out.token_width.shape == (3, 6) and out.pooler_output.shape == (3, 32)
    assert out.attention_mask.tolist() == [[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1] * 6]
    encoded = model.encode(**batch, output_hidden_states=True)
    assert torch.equal(encoded.tokens, encoded.last_hidden_state) and len(encoded.hidden_states) == 3
    torch.testing.assert_close(out.token_wavelength[2], batch["wavelength"][2].mean(-1))
    torch.testing.assert_close(out.token_width[2], torch.full((6,), 2.0 * P))


def test_bad_patches_and_padding_are_zero():
    out = make_model()(**make_batch())
    bad = out.attention_mask == 0
    assert bad[0, 3] and bad[1, 4:].all()
    for name in ("tokens", "token_predictions", "reconstruction", "coverage"):
        assert not out[name][bad].any() and out[name][~bad].any(-1).all(), name
    assert not out.token_wavelength[1, 4:].any() and out.token_wavelength[0, 3] > 5000


def test_pooler_output_is_the_mean_over_valid_patches():
    encoded = make_model().encode(**make_batch())
    for states, valid, pooled in zip(encoded.tokens, encoded.attention_mask, encoded.pooler_output, strict=True):
        torch.testing.assert_close(pooled, states[valid.bool()].mean(0))


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


def test_a_spectrum_alone_equals_itself_in_a_padded_batch():
    model, batch = make_model(), hide(make_batch(), 1)
    together = model(**batch)
    alone = model(**{name: value[1:2] if value.ndim == 1 else value[1:2, :4] for name, value in batch.items()})
    for name in ("tokens", "token_predictions", "pooler_output"):
        part = together[name][1][tuple(map(slice, alone[name].shape[1:]))]
        torch.testing.assert_close(part, alone[name][0], atol=1e-5, rtol=1e-5)


def test_no_gradient_flows_from_one_spectrum_to_another():
    model, batch = make_model(), make_batch()
    flux = batch["flux"].requires_grad_()
    out = model(**batch | {"flux": flux})
    for row in range(3):
        for values in (out.tokens[row], out.pooler_output[row]):
            (gradient,) = torch.autograd.grad(values.pow(2).sum(), flux, retain_graph=True)
            assert [bool(one.any()) for one in gradient] == [other == row for other in range(3)]
    assert not gradient[batch["pixel_mask"] == 0].any()


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


def test_wavelengths_count_and_errors_and_scale_do_not():
    model, batch = make_model(), make_batch()
    reference = model(**batch)
    shifted = model(**batch | {"wavelength": batch["wavelength"] + 7.0})
    assert ((reference.pooler_output - shifted.pooler_output).abs().amax(-1) > 1e-3).all()
    other = model(**batch | {"error": batch["error"] * 9, "scale": torch.ones(3)})
    assert torch.equal(other.tokens, reference.tokens)


def test_different_spectra_have_different_embeddings_on_every_path():
    processor = OmniSpectraProcessor()
    spectra = [s for survey in ("sdss", "galah", "apogee") for s in simulate_survey(survey, 2, seed=1001)]
    model = make_model(patch_size=20, patch_overlap=10)
    packed, padded = (
        collate(processor)(spectra) for collate in (DataCollatorForPackedSpectra, DataCollatorForSpectra)
    )
    with torch.no_grad():
        alone = torch.cat([model(**processor(s, return_tensors="pt")).pooler_output for s in spectra])
        together = [model(**inputs) for inputs in (processor(spectra, return_tensors="pt"), padded, packed)]
    for out in together:
        torch.testing.assert_close(out.pooler_output, alone, atol=1e-4, rtol=1e-4)
    distance = torch.cdist(alone, alone) / alone.norm(dim=-1).mean()
    assert distance[~torch.eye(6, dtype=torch.bool)].min() > 1e-3
    tokens = together[-1].tokens[together[-1].attention_mask > 0]
    assert len(tokens) > 3000 and len(tokens.unique(dim=0)) == len(tokens)


def test_eager_equals_sdpa_and_recorded_states_change_nothing():
    batch = hide(make_batch(), 2)
    plain = make_model()(**batch)
    eager = make_model(attn_implementation="eager")(**batch, output_attentions=True, output_hidden_states=True)
    for name in ("tokens", "token_predictions", "pooler_output", "loss"):
        torch.testing.assert_close(plain[name], eager[name], atol=1e-5, rtol=1e-5)
    assert [weights.shape for weights in eager.attentions] == [(3, 4, 6, 6)] * 2
    assert not eager.attentions[0][0, :, :, 3].any()  # nobody asks a bad patch
    assert [states.shape for states in eager.hidden_states] == [(3, 6, 32)] * 3


def test_an_all_bad_spectrum_is_finite_forward_and_backward():
    model, batch = make_model().train(), hide(make_batch(), 2)
    batch["pixel_mask"][0] = 0
    out = model(**batch)
    out.loss.backward()
    assert not out.tokens[0].any() and not out.pooler_output[0].any() and not out.coverage[0].any()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    spectrum = simulate_survey("sdss", 1, seed=1002)[0]
    bad = Spectrum(spectrum.flux, spectrum.wavelength, spectrum.ivar, mask=np.ones(len(spectrum), dtype=bool))
    inputs = OmniSpectraProcessor(on_invalid="mask")([bad, spectrum], return_tensors="pt")
    found = make_model(patch_size=20, patch_overlap=10).reconstruct(**inputs)
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
    model = make_model().train()
    out = model(
        **changes, bool_masked_pos=torch.arange(changes["flux"].shape[1]).expand(changes["flux"].shape[:2]) > 1
    )
    (out.token_predictions.sum() + (0 if len(changes["flux"]) == 0 else out.loss)).backward()
    assert torch.isfinite(out.pooler_output).all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())
    assert torch.isfinite(model.eval().reconstruct(**changes).reconstruction).all()


def test_absent_masks_mean_all_good():
    model, plain = make_model(), all_good(make_batch())
    full = plain | {"pixel_mask": torch.ones(3, 6, P).long(), "attention_mask": torch.ones(3, 6).long()}
    torch.testing.assert_close(model(**plain).tokens, model(**full | {"num_patches": [6] * 3}).tokens)


def test_save_and_load_are_bit_identical(tmp_path):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path)
    loaded, base = AutoModelForPreTraining.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is OmniSpectraForPreTraining and type(base) is OmniSpectraModel
    assert torch.equal(loaded(**batch).token_predictions, model(**batch).token_predictions)
    assert torch.equal(base(**batch).tokens, model(**batch).tokens)


# Types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_wavelengths_that_cannot_hold_the_value_raise(dtype):
    batch = make_batch()
    with pytest.raises(ValueError, match="wavelength must be float32 or float64, found torch"):
        make_model()(**batch | {"wavelength": batch["wavelength"].to(dtype)})


def test_misspelt_inputs_raise():
    batch = make_batch()
    for forward in (make_model(), make_model().omnispectra):
        with pytest.raises(TypeError, match="forward got unknown inputs: pixelmask"):
            forward(batch["flux"], batch["wavelength"], pixelmask=batch["pixel_mask"])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.1), (torch.float64, 1e-5)])
def test_models_of_other_precision_keep_to_their_type(dtype, limit):
    batch = hide(make_batch(), 2)
    out, reference = make_model().to(dtype)(**batch), make_model()(**batch)
    assert out.tokens.dtype == out.pooler_output.dtype == out.token_predictions.dtype == dtype
    torch.testing.assert_close(out.tokens.float(), reference.tokens, atol=limit, rtol=limit)
    assert out.loss.dtype == torch.promote_types(dtype, torch.float32)
    assert out.loss.item() == pytest.approx(reference.loss.item(), rel=limit)


def test_flux_passes_the_ends_of_the_model_in_full_precision_under_autocast():
    model, batch = make_model().train(), hide(make_batch(), 2)
    (exact, _), expected = (recorded(model.omnispectra.embeddings.projection, lambda: model(**batch))), model(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        values, projected = recorded(model.omnispectra.embeddings.projection, lambda: model(**batch))
        out = model(**batch)
    assert torch.equal(values, exact) and projected.dtype == out.token_predictions.dtype == torch.float32
    torch.testing.assert_close(out.tokens.float(), expected.tokens, atol=0.1, rtol=0.1)
    out.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Training


def test_every_parameter_learns():
    model = make_model().train()
    model(**hide(make_batch(), 2)).loss.backward()
    still = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert not {name for name in still if "k_proj.bias" not in name}  # softmax ignores the keys' bias


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


@pytest.mark.parametrize("fields", [{}, {"validity_mask": False}])
def test_one_compiled_graph_takes_every_padded_batch(fields):
    model, counter = make_model(**fields).train(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for seed, (size, patches) in enumerate(((3, 6), (2, 9), (5, 7))):
        batch = hide(make_batch(batch=size, patches=patches, seed=seed), 1, 3)
        expected, found = model(**batch), compiled(**batch)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.tokens, expected.tokens, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1


# The switches of the ablations


def permuted(batch, order):
    return {name: value[:, order] if value.ndim > 1 else value for name, value in batch.items()}


def test_without_the_encoding_wavelengths_say_nothing():
    batch = hide(make_batch(), 2)
    shifted = batch | {"wavelength": batch["wavelength"] * 1.3 + 900}
    for wavelength_encoding in (False, True):
        model = make_model(wavelength_encoding=wavelength_encoding)
        reference, other = model(**batch), model(**shifted)
        assert torch.equal(reference.token_predictions, other.token_predictions) != wavelength_encoding
        assert not torch.equal(reference.token_wavelength, other.token_wavelength)


def test_without_local_position_the_order_of_patches_says_nothing():
    batch, order = all_good(make_batch()), [3, 0, 5, 1, 4, 2]
    for local_position in (False, True):
        model = make_model(local_position=local_position)
        assert any("local_position" in name for name, _ in model.named_parameters()) == local_position
        reference, other = model(**batch), model(**permuted(batch, order))
        difference = (reference.tokens[:, order] - other.tokens).abs().max()
        assert difference > 0.01 if local_position else difference < 1e-5


def test_without_the_validity_mask_padding_and_bad_patches_are_read():
    batch = make_batch()
    alone = {name: value[1:2] if value.ndim == 1 else value[1:2, :4] for name, value in batch.items()}
    more_bad = batch | {"pixel_mask": batch["pixel_mask"].clone()}
    more_bad["pixel_mask"][0, 3] = 0  # of which three pixels were good
    for validity_mask in (True, False):
        model = make_model(validity_mask=validity_mask)
        out, of_alone = model(**batch), model(**alone)
        difference = (out.tokens[1, :4] - of_alone.tokens[0]).abs().max()
        assert difference < 1e-5 if validity_mask else difference > 0.01
        assert not out.tokens[0, 3].any() and not out.tokens[1, 4:].any()
        changed = (out.tokens - model(**more_bad).tokens)[0].abs().max()
        assert changed == 0 if validity_mask else changed > 1e-3
        garbage = model(**batch | {"flux": batch["flux"].masked_fill(batch["pixel_mask"] == 0, 1e30)})
        assert torch.equal(garbage.tokens, out.tokens)
