"""Specformer's reconstructions on grids of the user's own: what is read is on one grid, what is asked for on any."""

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectok_hf import SpecformerConfig, SpecformerForPreTraining, SpecformerProcessor, simulate_survey

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}
GRID = np.linspace(5000.0, 5600.0, 333)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = SpecformerForPreTraining(SpecformerConfig(**SIZES)).eval()
    model.remember_processor(SpecformerProcessor())
    return model


@pytest.fixture(scope="module")
def spectrum():
    return simulate_survey("desi", 1, seed=2510)[0]


def test_a_pipeline_answers_on_a_requested_grid(model, spectrum):
    answer = pipeline("spectrum-reconstruction", model=model)(spectrum, grid=GRID)
    np.testing.assert_allclose(answer["wavelength"], GRID)
    own = pipeline("spectrum-reconstruction", model=model)(spectrum)
    inside = np.interp(GRID, own["wavelength"], own["flux"])
    # Means of the patches' fluxes in between, which overlap: not the pixels, but near to them.
    assert all(answer["coverage"]) and np.corrcoef(answer["flux"], inside)[0, 1] > 0.9


def test_a_requested_grid_may_reach_beyond_what_was_observed(model, spectrum):
    grid = np.linspace(9700.0, 9900.0, 200)
    answer = pipeline("spectrum-reconstruction", model=model)(spectrum, grid=grid)
    covered = np.array(answer["coverage"], dtype=bool)
    assert covered[grid < 9800].all() and not covered[grid > 9850].any()


def test_what_was_observed_must_still_be_on_the_grid(model, spectrum):
    processor = model.own_processor()
    half = type(spectrum)(spectrum.flux[::2], spectrum.wavelength[::2], spectrum.ivar[::2])
    outputs = model.reconstruct(**processor(spectrum, return_tensors="pt"))
    with pytest.raises(ValueError, match="Specformer reads spectra on one grid"):
        processor.post_process_reconstruction(outputs, half)
