import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForPreTraining

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, SpecTokModel
from spectok_hf.models.modeling_spectok import reconstruction_loss

P = 8  # patch size of the test model


def small_config(**changes):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "decoder_num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "patch_size": P,
        "latent_size": 2,
        "wavelength_dim": 4,
    }
    return SpecTokConfig(**sizes | changes)


def make_model(**changes):
    torch.manual_seed(0)
    return SpecTokForPreTraining(small_config(initializer_range=0.2, **changes)).eval()


def make_batch(batch=3, patches=6, seed=0):
    """A batch with a masked run, a bad patch, and spectra of different length."""
    generator = torch.Generator().manual_seed(seed)
    wavelength = 5000 + 2 * torch.arange(patches * P, dtype=torch.float32).view(1, patches, P).repeat(batch, 1, 1)
    pixel_mask = torch.ones(batch, patches, P, dtype=torch.long)
    pixel_mask[0, 1, 2:4] = 0
    pixel_mask[0, 3, :5] = 0  # more than half: a bad patch
    pixel_mask[1, -2:] = 0
    num_patches = torch.full((batch,), patches)
    num_patches[1] = patches - 2
    return {
        "flux": 1 + 0.3 * torch.randn(batch, patches, P, generator=generator),
        "wavelength": wavelength,
        "error": 0.05 + 0.1 * torch.rand(batch, patches, P, generator=generator),
        "pixel_mask": pixel_mask,
        "num_patches": num_patches,
    }


def spoil(batch, garbage):
    """The batch with `garbage` under every bad pixel; wavelengths too, but in bad patches, whose grid is a request."""
    bad = batch["pixel_mask"] == 0
    padding = torch.arange(bad.shape[1]) >= batch["num_patches"][:, None]
    request = ((2 * bad.sum(-1) >= P) & ~padding)[..., None] & bad
    spoiled = {name: batch[name].masked_fill(bad, garbage) for name in ("flux", "error")}
    return batch | spoiled | {"wavelength": batch["wavelength"].masked_fill(bad & ~request, garbage)}


@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
def test_shapes_are_those_of_the_contract(decoder_type):
    model, batch = make_model(decoder_type=decoder_type), make_batch()
    out = model(**batch)
    assert out.reconstruction.shape == out.coverage.shape == (3, 6, P)
    assert out.tokens.shape == (3, 6, 2) and out.token_wavelength.shape == (3, 6)
    assert out.pooler_output.shape == (3, 32) and out.loss.ndim == 0
    assert out.attention_mask.tolist() == [[1, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0], [1] * 6]
    encoded = model.encode(**batch, output_hidden_states=True)
    assert encoded.last_hidden_state.shape == (3, 6, 32) and len(encoded.hidden_states) == 3


def test_bad_patches_are_zero_and_still_decoded():
    out = make_model()(**make_batch())
    assert not out.tokens[0, 3].any() and not out.coverage[0, 3].any()
    assert out.reconstruction[0, 3].any()
    assert not out.reconstruction[1, 4:].any() and not out.token_wavelength[1, 4:].any()
    assert out.coverage[2].all()


def test_pooler_output_is_the_mean_over_valid_patches():
    encoded = make_model().encode(**make_batch())
    valid = encoded.attention_mask[0].bool()
    torch.testing.assert_close(encoded.pooler_output[0], encoded.last_hidden_state[0][valid].mean(0))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
@pytest.mark.parametrize("garbage", [0.0, float("nan"), 1e30, -1.0])
def test_values_under_bad_pixels_and_in_padding_change_nothing(garbage, decoder_type, attention):
    model = make_model(decoder_type=decoder_type, attn_implementation=attention)
    batch = make_batch()
    reference, spoiled = model(**batch), model(**spoil(batch, garbage))
    for name in ("loss", "tokens", "pooler_output", "token_wavelength", "coverage", "reconstruction"):
        assert torch.equal(reference[name], spoiled[name]), name


def test_garbage_wavelengths_in_a_bad_patch_change_nothing_elsewhere():
    model, batch = make_model(), make_batch()
    wavelength = batch["wavelength"].clone()
    wavelength[0, 3] = torch.nan
    reference, spoiled = model(**batch), model(**batch | {"wavelength": wavelength})
    elsewhere = torch.arange(6) != 3
    assert torch.equal(reference.reconstruction[0, elsewhere], spoiled.reconstruction[0, elsewhere])
    assert torch.equal(reference.tokens, spoiled.tokens)


@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
def test_a_spectrum_alone_equals_itself_in_a_padded_batch(decoder_type):
    model, batch = make_model(decoder_type=decoder_type), make_batch()
    together = model(**batch)
    alone = model(**{name: value[1:2] if value.ndim == 1 else value[1:2, :4] for name, value in batch.items()})
    for name in ("tokens", "reconstruction", "pooler_output"):
        shape = alone[name].shape[1:]
        torch.testing.assert_close(together[name][1][tuple(map(slice, shape))], alone[name][0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_spectra_of_a_batch_never_see_each_other(attention):
    model, batch = make_model(attn_implementation=attention), make_batch()
    changed = batch["flux"].clone()
    changed[0] += 5
    reference, other = model(**batch), model(**batch | {"flux": changed})
    assert torch.equal(reference.tokens[1:], other.tokens[1:])
    assert (reference.tokens[0] != other.tokens[0]).any()


@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
def test_eager_equals_sdpa(decoder_type):
    batch = make_batch()
    eager, sdpa = (
        make_model(decoder_type=decoder_type, attn_implementation=name)(**batch) for name in ("eager", "sdpa")
    )
    torch.testing.assert_close(eager.reconstruction, sdpa.reconstruction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(eager.tokens, sdpa.tokens, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 5), st.integers(0, P - 1), st.floats(0.2, 3.0))
def test_every_good_pixel_reaches_tokens_and_embedding(patch, pixel, change):
    model, batch = make_model(), make_batch()
    flux = batch["flux"].clone()
    flux[2, patch, pixel] += change
    with torch.no_grad():
        reference, other = model(**batch), model(**batch | {"flux": flux})
    assert (reference.tokens[2, patch] - other.tokens[2, patch]).abs().max() > 1e-4
    assert (reference.pooler_output[2] - other.pooler_output[2]).abs().max() > 1e-5


@pytest.mark.parametrize("name, change", [("error", 2.0), ("wavelength", 7.0)])
def test_error_and_wavelength_reach_the_embedding(name, change):
    model, batch = make_model(), make_batch()
    other = model(**batch | {name: batch[name] + change})
    assert ((model(**batch).pooler_output - other.pooler_output).abs().amax(-1) > 1e-3).all()


def test_an_all_bad_spectrum_is_finite_forward_and_backward():
    model, batch = make_model().train(), make_batch()
    batch["pixel_mask"][0] = 0
    out = model(**batch)
    out.loss.backward()
    assert not out.tokens[0].any() and not out.pooler_output[0].any()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    assert torch.isfinite(out.reconstruction).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"flux": torch.ones(1, 1, P), "wavelength": 5000 + torch.arange(P * 1.0).view(1, 1, P)},  # one patch
        {"flux": torch.zeros(2, 3, P), "wavelength": 5000 + torch.arange(48.0).view(2, 3, P)},  # constant
    ],
)
def test_edge_cases_are_finite(changes):
    out = make_model()(**changes)
    assert torch.isfinite(out.reconstruction).all() and torch.isfinite(out.pooler_output).all()


def test_absent_masks_mean_all_good_and_absent_error_no_information():
    model, batch = make_model(), make_batch()
    plain = {"flux": batch["flux"], "wavelength": batch["wavelength"]}
    full = plain | {
        "error": torch.full_like(batch["flux"], 10.0),
        "pixel_mask": torch.ones(3, 6, P).long(),
        "attention_mask": torch.ones(3, 6).long(),
        "num_patches": torch.full((3,), 6),
    }
    torch.testing.assert_close(model(**plain).tokens, model(**full).tokens)


def test_save_and_load_are_bit_identical(tmp_path):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path)
    loaded, base = AutoModelForPreTraining.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).reconstruction, model(**batch).reconstruction)
    assert isinstance(base, SpecTokModel)
    assert torch.equal(base(**batch).tokens, model(**batch).tokens)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_wavelengths_that_cannot_hold_the_value_raise(dtype):
    batch = make_batch()
    with pytest.raises(ValueError, match="wavelength must be float32 or float64, found torch"):
        make_model()(**batch | {"wavelength": batch["wavelength"].to(dtype)})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("flux", torch.ones(3, 6, P + 1), f"in patches of {P} pixels.* patches of {P + 1}: take the processor"),
        ("flux", torch.ones(P), r"flux must have shape \(batch, num_patches"),
        ("wavelength", 5000 + torch.ones(3, 5, P), "wavelength must have the shape of flux"),
        ("error", torch.ones(3, 6), "error must have the shape of flux"),
        ("attention_mask", torch.ones(3, 5), "one value per patch"),
        ("bool_masked_pos", torch.ones(3, 5), "bool_masked_pos must have shape"),
    ],
)
def test_wrong_shapes_raise(name, value, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**make_batch() | {name: value})


def test_inputs_that_are_no_tensors_raise():
    with pytest.raises(ValueError, match=r'inputs must be tensors, found ndarray: processor\(.*return_tensors="pt"'):
        make_model()(**{name: value.numpy() for name, value in make_batch().items()})


def test_a_spectrum_without_its_batch_raises():
    batch = {name: value[0] for name, value in make_batch().items()} | {"num_patches": torch.tensor(6)}
    with pytest.raises(
        ValueError, match=r"num_patches must have shape \(batch,\).*found \(\): pass a single spectrum"
    ):
        make_model()(**batch)


def test_misspelt_inputs_raise():
    model, batch = make_model(), make_batch()
    for forward in (model, model.spectok):
        with pytest.raises(TypeError, match="forward got unknown inputs: errors, pixelmask"):
            forward(batch["flux"], batch["wavelength"], errors=batch["error"], pixelmask=batch["pixel_mask"])


def test_a_bfloat16_model_runs_and_keeps_to_its_dtype():
    model, batch = make_model().to(torch.bfloat16), make_batch()
    out = model(**batch)
    assert out.tokens.dtype == torch.bfloat16
    reference = make_model()(**batch)
    torch.testing.assert_close(out.tokens.float(), reference.tokens, atol=0.1, rtol=0.1)


# decoding


def decode(model, out, wavelength, **changes):
    inputs = {"token_wavelength": out.token_wavelength, "attention_mask": out.attention_mask}
    return model.decode(out.tokens, wavelength, **inputs | changes)


@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
@pytest.mark.parametrize("width", ["given", "estimated"])
def test_decoding_onto_the_input_grid_is_the_forward_pass(decoder_type, width):
    model, batch = make_model(decoder_type=decoder_type), make_batch()
    out = model(**batch)
    padding = torch.arange(6) >= batch["num_patches"][:, None]
    request = batch["wavelength"].masked_fill(padding[..., None], 0)
    decoded = decode(model, out, request, token_width=out.token_width if width == "given" else None)
    torch.testing.assert_close(decoded.reconstruction, out.reconstruction, atol=1e-3, rtol=1e-3)
    assert torch.equal(decoded.coverage, out.coverage)


@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
def test_decoding_onto_another_grid_is_the_same_spectrum(decoder_type):
    model, batch = make_model(decoder_type=decoder_type), make_batch()
    out = model(**batch)
    request = torch.linspace(4900, 5200, 5 * P).view(1, 5, P).repeat(3, 1, 1)
    decoded = decode(model, out, request)
    # 48 pixels of 2 Å from 5000: observed from 4999 to 5095
    expected = (request[2] > 4999) & (request[2] < 5095)
    assert torch.equal(decoded.coverage[2].bool(), expected)
    native = out.reconstruction[2].detach().flatten(), batch["wavelength"][2].flatten()
    inside = (request[2] >= 5000) & (request[2] <= 5094)
    reference = np.interp(request[2][inside], native[1], native[0])
    np.testing.assert_allclose(decoded.reconstruction[2][inside].detach(), reference, atol=1e-3)


def test_a_part_of_a_spectrum_is_decoded_like_the_whole():
    model, batch = make_model(), make_batch()
    out = model(**batch)
    whole, part = decode(model, out, batch["wavelength"]), decode(model, out, batch["wavelength"][:, 2:3])
    torch.testing.assert_close(part.reconstruction, whole.reconstruction[:, 2:3])


@pytest.mark.parametrize("garbage", [0.0, 5.0, float("nan"), 8e4])
def test_wavelengths_of_bad_patches_do_not_reach_what_is_decoded(garbage):
    model, batch = make_model(), make_batch()
    wavelength = batch["wavelength"].clone()
    wavelength[0, 3] = garbage
    good = torch.arange(6) != 3
    request = batch["wavelength"][:, good]
    reference, spoiled = (model(**batch | {"wavelength": w}) for w in (batch["wavelength"], wavelength))
    expected = decode(model, reference, request, token_width=reference.token_width)
    found = decode(model, spoiled, request, token_width=spoiled.token_width)
    torch.testing.assert_close(found.reconstruction, expected.reconstruction)
    assert torch.equal(found.coverage, expected.coverage)


def test_what_is_no_wavelength_requests_nothing():
    model, batch = make_model(), make_batch()
    out = model(**batch)
    request = batch["wavelength"].clone()
    request[:, -1] = torch.nan
    decoded = decode(model, out, request)
    assert not decoded.reconstruction[:, -1].any() and not decoded.coverage[:, -1].any()


def test_requests_of_a_wrong_shape_raise():
    model, out = make_model(), make_model()(**make_batch())
    with pytest.raises(ValueError, match="patch_wavelength"):
        decode(model, out, torch.linspace(5000, 6000, 40)[None])
    with pytest.raises(ValueError, match="must agree in batch"):
        model.decode(
            out.tokens[:1],
            make_batch()["wavelength"],
            token_wavelength=out.token_wavelength,
            attention_mask=out.attention_mask,
        )


# the loss


def reference_loss(config, reconstruction, flux, error, counted):
    """Pixel by pixel, in plain Python."""
    total = 0.0
    for b in range(len(flux)):
        terms = []
        for y, guess, sigma, use in zip(
            flux[b].ravel(), reconstruction[b].ravel(), error[b].ravel(), counted[b].ravel(), strict=True
        ):
            if use:
                r = abs(y - guess) / np.hypot(sigma, config.relative_error_floor * y)
                delta = config.huber_delta or np.inf
                terms.append(r**2 if r <= delta else 2 * delta * r - delta**2)
        mean = np.mean(terms) if terms else 0.0
        total += np.log1p(mean) if config.spectrum_loss == "log" else mean
    return total / len(flux)


@pytest.mark.parametrize(
    "changes", [{}, {"spectrum_loss": "log"}, {"huber_delta": None}, {"huber_delta": 0.5, "relative_error_floor": 0.1}]
)
def test_the_loss_is_the_mean_over_spectra_of_the_mean_over_their_pixels(changes):
    config, batch = small_config(**changes), make_batch()
    rng = np.random.default_rng(0)
    reconstruction, counted = rng.normal(size=(3, 6, P)), batch["pixel_mask"].bool().numpy()
    counted[1] = False
    arrays = (reconstruction, batch["flux"].double().numpy(), batch["error"].double().numpy(), counted)
    loss = reconstruction_loss(config, *map(torch.from_numpy, arrays))
    assert loss.item() == pytest.approx(reference_loss(config, *arrays), rel=1e-5)


def test_pixels_of_bad_patches_carry_no_loss():
    model, batch = make_model(), make_batch()
    flux = batch["flux"].clone()
    flux[0, 3] += 100  # three good pixels in a bad patch
    assert torch.equal(model(**batch).loss, model(**batch | {"flux": flux}).loss)


def test_hidden_pixels_are_not_seen_but_counted():
    model, batch = make_model(), make_batch()
    hidden = torch.zeros(3, 6, P, dtype=torch.bool)
    hidden[2, 4, 1:4] = True
    flux = batch["flux"].clone()
    flux[2, 4, 1:4] += 3
    reference = model(**batch, bool_masked_pos=hidden)
    other = model(**batch | {"flux": flux}, bool_masked_pos=hidden)
    assert torch.equal(reference.tokens, other.tokens) and reference.loss != other.loss
    assert torch.equal(reference.reconstruction, other.reconstruction)


def test_the_masked_objective_counts_hidden_patches_only():
    model, batch = make_model(objective="masked"), make_batch()
    with pytest.raises(ValueError, match="needs bool_masked_pos"):
        model.train()(**batch)
    assert model.eval()(**batch).loss is None
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[:, 2] = True
    shown, unseen = batch["flux"].clone(), batch["flux"].clone()
    shown[:, 0] += 1
    unseen[:, 2] += 1
    reference = model(**batch, bool_masked_pos=hidden)
    assert not reference.tokens[:, 2].any()
    other = model(**batch | {"flux": unseen}, bool_masked_pos=hidden)
    assert torch.equal(other.reconstruction, reference.reconstruction) and other.loss != reference.loss
    assert not torch.equal(model(**batch | {"flux": shown}, bool_masked_pos=hidden).tokens, reference.tokens)


def test_every_parameter_learns():
    for objective, decoder_type in (("reconstruction", "mirror"), ("masked", "query")):
        model, batch = make_model(objective=objective, decoder_type=decoder_type).train(), make_batch()
        hidden = torch.zeros(3, 6, dtype=torch.bool)
        hidden[:, 2] = True
        model(**batch, bool_masked_pos=hidden).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_gradient_checkpointing_changes_nothing():
    batch = make_batch()
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            # renamed in Transformers 5.23
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model(**batch).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


# the patch-PCA start


def test_the_patch_pca_start_is_the_linear_optimum():
    torch.manual_seed(1)
    model = make_model()
    patches = torch.randn(500, 2) @ torch.randn(2, P) + 0.1 * torch.randn(500, P) + 1
    model.initialize_from_patch_pca(patches)
    mean = patches.mean(0)
    basis = torch.linalg.svd(patches - mean, full_matrices=False).Vh[:2]
    held_out = torch.randn(3 * 6, 2) @ torch.randn(2, P) + 1
    expected = (held_out - mean) @ basis.T @ basis + mean
    batch = make_batch() | {"flux": held_out.view(3, 6, P)}
    del batch["pixel_mask"], batch["num_patches"]
    torch.testing.assert_close(model(**batch).reconstruction, expected.view(3, 6, P), atol=1e-4, rtol=1e-4)


def test_the_patch_pca_start_shows_weak_components_to_the_layers():
    torch.manual_seed(1)
    model = make_model()
    patches = torch.randn(500, 2) @ torch.randn(2, P) + 0.1 * torch.randn(500, P) + 1
    mean, weakest = patches.mean(0), torch.linalg.svd(patches - patches.mean(0), full_matrices=False).Vh[5]
    flux = torch.stack([mean, mean + 0.1 * weakest]).expand(1, 2, P)  # a typical excursion: 0.1 of the noise
    wavelength = torch.linspace(4000, 4010, P).expand(1, 2, P)

    def seen_difference():
        first, second = model.spectok.embeddings(flux, None, wavelength, torch.ones(1, 2, P, dtype=torch.bool))[0]
        return (first - second).norm().item()

    before = seen_difference()
    model.initialize_from_patch_pca(patches)
    assert before < 0.1 < 0.5 < seen_difference() < 2


def test_every_parameter_still_learns_after_the_patch_pca_start():
    model, batch = make_model(), make_batch()
    model.initialize_from_patch_pca(torch.randn(100, P))
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[:, 2] = True  # else nothing asks for the mask token
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for _ in range(3):  # the first step moves the zeroed branches, the next ones what lies before them
        optimizer.zero_grad()
        model.train()(**batch, bool_masked_pos=hidden).loss.backward()
        optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not [name for name in still if "k_proj.bias" not in name]  # softmax ignores the keys' bias


@pytest.mark.parametrize("patches", [torch.ones(100, P + 1), torch.ones(2, P), torch.full((100, P), torch.nan)])
def test_patches_that_do_not_fit_are_refused(patches):
    with pytest.raises(ValueError, match="patches must be finite, shape"):
        make_model().initialize_from_patch_pca(patches)


def test_the_query_decoder_has_no_linear_path():
    with pytest.raises(ValueError, match='needs decoder_type="mirror"'):
        make_model(decoder_type="query").initialize_from_patch_pca(torch.randn(100, P))


def test_post_norm_blocks_end_in_a_norm_and_have_no_linear_path():
    model, batch = make_model(norm_placement="post"), make_batch()
    valid = model.spectok(**batch).attention_mask > 0
    states = model.spectok(**batch).last_hidden_state[valid]
    torch.testing.assert_close(states.mean(-1), torch.zeros(len(states)), atol=1e-5, rtol=0)
    torch.testing.assert_close(states.std(-1, unbiased=False), torch.ones(len(states)), atol=1e-3, rtol=0)
    model(**batch).loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "mask_token" not in name)
    with pytest.raises(ValueError, match='needs norm_placement="pre"'):
        model.initialize_from_patch_pca(torch.randn(100, P))


def test_flux_passes_the_ends_of_the_model_in_full_precision_under_autocast():
    """Of the linear start nothing is left but the ends: bfloat16 would be wrong there by a part in 250."""
    torch.manual_seed(1)
    model, batch = make_model(), make_batch()
    model.initialize_from_patch_pca(torch.randn(500, P))
    exact = model(**batch).reconstruction
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(**batch).reconstruction
        tokens = model.encode(**batch).tokens
    assert rounded.dtype == tokens.dtype == torch.float32
    # What is left is the embedding of the wavelength, which is rounded alike in encoder and decoder.
    torch.testing.assert_close(rounded, exact, rtol=0, atol=1e-4 * exact.abs().max().item())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
def test_the_model_compiles_to_one_graph(decoder_type):
    model, batch = make_model(decoder_type=decoder_type), make_batch()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(**batch).loss, model(**batch).loss, atol=1e-4, rtol=1e-4)
    longer = make_batch(batch=2, patches=9)
    torch.testing.assert_close(compiled(**longer).loss, model(**longer).loss, atol=1e-4, rtol=1e-4)


def test_reconstruct_and_regrid_are_forward_and_decode():
    model, batch = make_model(), make_batch()
    found, expected = model.reconstruct(**batch), model(**batch)
    assert found.loss is None and torch.equal(found.reconstruction, expected.reconstruction)
    wavelength = (4000 + 3.7 * torch.arange(2.0 * P)).view(1, 2, P).expand(len(batch["flux"]), -1, -1)
    described = {name: expected[name] for name in ("token_wavelength", "token_width", "attention_mask")}
    decoded, regridded = model.decode(expected.tokens, wavelength, **described), model.regrid(found, wavelength)
    assert torch.equal(regridded.reconstruction, decoded.reconstruction) and decoded.reconstruction.any()
    assert torch.equal(regridded.coverage, decoded.coverage)
    with pytest.raises(ValueError, match="has no decoder"):
        make_model(objective="contrastive").reconstruct(**batch)
