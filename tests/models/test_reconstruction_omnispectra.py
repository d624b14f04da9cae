"""OmniSpectra asked for whole spectra: every patch from others, and any grid from patches that overlap."""

import numpy as np
import pytest
import torch
from test_modeling_omnispectra import all_good, hide, make_model
from test_modeling_spectok import P, make_batch

from spectok_hf import OmniSpectraProcessor, simulate_survey

# Reconstruction: every patch from others


@pytest.mark.parametrize(("length", "chunk"), [(6, 2), (5, 2), (3, 1), (2, 1), (1, 1)])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_every_patch_is_predicted_from_those_of_the_other_chunks(layout, length, chunk):
    model, batch = make_model(), {name: value[:, :length] for name, value in all_good(make_batch()).items()}
    inputs = batch | {"flux": batch["flux"].requires_grad_()}
    if layout == "packed":
        inputs = {name: value.flatten(0, 1) for name, value in inputs.items()} | {"num_patches": [length] * 3}
    predictions = model.reconstruct(**inputs).token_predictions.view(3, length, P + 2)
    place = torch.arange(length) // chunk % 2
    for patch in range(length):
        (gradient,) = torch.autograd.grad(predictions[2, patch].sum(), batch["flux"], retain_graph=True)
        assert not gradient[:2].any()
        assert gradient[2].any(-1).tolist() == (place != place[patch]).tolist()


def test_reconstruct_is_two_passes_with_complementary_chunks_hidden():
    model, batch = make_model(), make_batch()
    found, plain = model.reconstruct(**batch), model(**batch)
    even = torch.tensor([True, True, False, False, True, True]).expand(3, -1)
    first, second = (model(**batch, bool_masked_pos=hidden).token_predictions for hidden in (even, ~even))
    expected = torch.where(even[..., None], first, second)
    for row, length in enumerate((6, 4, 6)):
        torch.testing.assert_close(found.token_predictions[row, :length], expected[row, :length])
    assert torch.equal(found.reconstruction, found.token_predictions[..., 2:]) and found.loss is None
    for name in ("tokens", "pooler_output", "coverage", "token_wavelength", "token_width", "attention_mask"):
        assert torch.equal(found[name], plain[name]), name
    assert not found.token_predictions[0, 3].any() and not found.token_predictions[1, 4:].any()


def test_reconstruct_answers_in_training_too_and_takes_what_forward_takes():
    model, batch = make_model(), make_batch()
    expected = model.reconstruct(**batch)
    assert torch.equal(model.train().reconstruct(**batch).reconstruction, expected.reconstruction) and model.training
    for options in ({"output_hidden_states": True}, {"return_dict": False}, {"scale": torch.ones(3)}):
        assert torch.equal(model.reconstruct(**batch, **options).reconstruction, expected.reconstruction)
    with pytest.raises(ValueError, match="reconstruct hides every patch once, found bool_masked_pos"):
        model.reconstruct(**hide(batch, 2))


def test_reconstruct_says_what_packed_spectra_need():
    packed = {name: value.flatten(0, 1) for name, value in all_good(make_batch()).items()}
    with pytest.raises(ValueError, match="need num_patches, the patches of each spectrum"):
        make_model().reconstruct(**packed)


def test_chunks_of_the_papers_width_alternate():
    model = make_model(patch_size=20, patch_overlap=10, chunk_factor=2.5)
    wavelength = 4000 + torch.arange(230 * 10.0)
    flux = torch.randn(1, 230, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = model.reconstruct(flux, wavelength.view(1, 230, 10).repeat_interleave(2, -1))
    for patch, chunk in ((0, 0), (49, 0), (50, 1), (120, 2), (229, 4)):
        (gradient,) = torch.autograd.grad(found.reconstruction[0, patch].sum(), flux, retain_graph=True)
        assert gradient[0].any(-1).tolist() == [(n // 50) % 2 != chunk % 2 for n in range(230)]


# Any requested grid


STARTS = np.array([5000, 5008, 5016, 5024, 5032, 5040, 6000, 6008], dtype=np.float64)


def pixels_of_overlapping_patches(reverse=False):
    """What `regrid` reads, where the flux of each pixel is its wavelength: two arms of 2 Å pixels, a bad patch."""
    wavelength = torch.tensor(STARTS[:, None] + 2.0 * np.arange(P))
    valid = torch.tensor([1, 1, 0, 0, 1, 1, 1, 1])
    order = torch.arange(8).flip(0) if reverse else torch.arange(8)
    described = {
        "reconstruction": torch.where(valid[:, None] > 0, wavelength, 0).float(),
        "token_wavelength": wavelength.mean(-1).float(),
        "token_width": torch.full((8,), 2.0 * P),
        "attention_mask": valid,
    }
    return {name: value[order][None] for name, value in described.items()}


def is_covered(wavelength):
    spans = ((4999, 5023), (5031, 5055), (5999, 6023))
    return np.any([(wavelength > low) & (wavelength < high) for low, high in spans], axis=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("step", [0.37, 2.0, 5.3, 60.1])
def test_flux_is_interpolated_wherever_it_was_observed(step, reverse):
    grid = np.arange(4900.11, 6100, step)
    grid = grid[: len(grid) // P * P].reshape(1, -1, P)
    for order in (slice(None), slice(None, None, -1)):  # patches may be asked for in any order
        request = torch.tensor(grid[:, order].copy())
        found = make_model().regrid(pixels_of_overlapping_patches(reverse), request)
        covered = found.coverage.bool()
        assert found.reconstruction.shape == request.shape
        np.testing.assert_array_equal(covered.numpy(), is_covered(request.numpy()))
        half_a_pixel = 1.01  # beyond the centre of the outermost pixel its value is held
        assert (found.reconstruction - request)[covered].abs().max() <= half_a_pixel
        edges = np.array([5000, 5022, 5032, 5054, 6000, 6022])  # outermost pixels: those inside lie in two patches
        inner = covered & torch.tensor(np.abs(request.numpy()[..., None] - edges).min(-1) > 1)
        assert not inner.any() or (found.reconstruction - request)[inner].abs().max() < 0.06  # a fortieth of a pixel


def test_the_mean_of_two_patches_is_taken_and_one_alone_counts_whole():
    outputs = pixels_of_overlapping_patches()
    outputs["reconstruction"] = torch.arange(1.0, 9)[None, :, None].expand(1, 8, P)
    request = torch.tensor([[[5001, 5009, 5017, 5033, 5041, 5049, 6001, 6017]]], dtype=torch.float64)
    found = make_model().regrid(outputs, request)
    assert found.reconstruction.flatten().tolist() == pytest.approx([1, 1.5, 2, 5, 5.5, 6, 7, 8], abs=0.01)
    far = make_model().regrid(outputs, torch.full((1, 2, P), 9000.0))
    assert not far.coverage.any() and far.reconstruction.isfinite().all()


def test_what_is_no_wavelength_requests_nothing():
    request = torch.full((1, 2, P), 5010.0)
    request[0, 1] = torch.tensor([0, torch.nan, -1, 99999] * 2)
    found = make_model().regrid(pixels_of_overlapping_patches(), request)
    assert found.coverage[0, 0].all() and not found.coverage[0, 1].any() and not found.reconstruction[0, 1].any()
    none_valid = pixels_of_overlapping_patches() | {"attention_mask": torch.zeros(1, 8)}
    found = make_model().regrid(none_valid, request)
    assert not found.coverage.any() and found.reconstruction.isfinite().all()


@pytest.mark.parametrize("survey", ["sdss", "galah", "apogee"])
def test_on_its_own_grid_a_reconstruction_is_what_it_was(survey):
    spectrum = simulate_survey(survey, 1, seed=1003)[0]
    processor, model = OmniSpectraProcessor(), make_model(patch_size=20, patch_overlap=10, chunk_factor=2.5)
    with torch.no_grad():
        outputs = model.reconstruct(**processor(spectrum, return_tensors="pt"))
        request = processor.patch_wavelength(spectrum.wavelength, medium=spectrum.medium)["wavelength"]
        regridded = model.regrid(outputs, request)
    expected = processor.post_process_reconstruction(outputs, spectrum)[0]
    found = processor.post_process_reconstruction(regridded, spectrum)[0]
    np.testing.assert_array_equal(found.mask, expected.mask)
    step = np.abs(np.diff(expected.flux)).max()  # of noise: the model is not trained
    assert np.abs(found.flux - expected.flux)[~expected.mask].max() < 0.03 * step


def test_requests_of_a_wrong_shape_raise():
    model, outputs = make_model(), pixels_of_overlapping_patches()
    for request in (torch.linspace(5000, 6000, 40)[None], torch.full((2, 2, P), 5e3), torch.full((1, 2, P + 1), 5e3)):
        with pytest.raises(ValueError, match=r"wavelength must have shape \(batch, patches, 8\).*patch_wavelength"):
            model.regrid(outputs, request)
    with pytest.raises(ValueError, match="must be padded"):
        model.regrid({name: value[0] for name, value in outputs.items()}, torch.full((1, 2, P), 5e3))
    with pytest.raises(ValueError, match="wavelength must be float32 or float64"):
        model.regrid(outputs, torch.full((1, 2, P), 5e3).half())
