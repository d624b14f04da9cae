import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectok_hf import SpecTokConfig, SpecTokModel
from spectok_hf.models.modeling_spectok import make_wavelength_embedding
from spectok_hf.models.wavelength import WavelengthEmbedding, air_to_vacuum, sinusoids, vacuum_to_air

# The most demanding case of the package: the red end of APOGEE, the shortest period.
RED = torch.linspace(16_990.0, 17_000.0, 321, dtype=torch.float32)


def phases(embedding):
    sine, cosine = embedding.double().chunk(2, dim=-1)
    return torch.atan2(sine, cosine)


def phase_error(embedding, wavelength, config):
    """Largest difference in rad to the phase 2 pi wavelength / period in float64."""
    count = config.wavelength_dim // 2
    periods = np.geomspace(config.wavelength_max_period, config.wavelength_min_period, count)
    expected = 2 * np.pi * wavelength.double()[..., None] / torch.from_numpy(periods)
    difference = phases(embedding) - expected
    return (difference - 2 * np.pi * (difference / (2 * np.pi)).round()).abs().max().item()


def test_air_and_vacuum_agree_with_specutils():
    wcs_utils = pytest.importorskip("specutils.utils.wcs_utils")
    from astropy import units

    vacuum = np.linspace(3000, 17_000, 500)
    expected = wcs_utils.vac_to_air(vacuum * units.AA, method="Morton2000").value
    np.testing.assert_allclose(vacuum_to_air(vacuum), expected, atol=2e-5)


def test_known_air_wavelengths():
    # H beta and H alpha: 4862.683 and 6564.614 Å in vacuum, 4861.325 and 6562.801 Å in air (SDSS line list)
    np.testing.assert_allclose(air_to_vacuum([4861.325, 6562.801]), [4862.683, 6564.614], atol=2e-3)


@given(st.floats(2001, 25_000))
def test_air_and_vacuum_are_inverse_to_each_other(wavelength):
    assert air_to_vacuum(vacuum_to_air(wavelength)) == pytest.approx(wavelength, abs=1e-8)


def test_below_2000_angstrom_nothing_is_converted():
    assert air_to_vacuum(1500.0) == vacuum_to_air(1500.0) == 1500.0


def test_phases_match_float64_before_the_cast():
    config = SpecTokConfig()
    embedding = sinusoids(RED, config.wavelength_dim, config.wavelength_min_period, config.wavelength_max_period)
    assert phase_error(embedding, RED, config) < 1e-6


def test_float32_phases_would_not_pass():
    config = SpecTokConfig()
    period = torch.tensor(config.wavelength_min_period, dtype=torch.float32)
    naive = 2 * torch.pi * RED / period
    expected = 2 * torch.pi * RED.double() / config.wavelength_min_period
    assert (naive.double() - expected).abs().max() > 1e-3


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 3e-3)])
def test_phases_inside_a_model_of_any_dtype(dtype, tolerance):
    config = SpecTokConfig()
    embedding = make_wavelength_embedding(config).to(dtype)
    wavelength = RED[:320].view(1, 10, 32)
    flat = embedding(wavelength, dtype).unflatten(-1, (32, config.wavelength_dim))
    assert flat.dtype == dtype
    assert phase_error(flat, wavelength, config) < tolerance


@pytest.mark.parametrize("route", ["to", "from_pretrained", "autocast"])
def test_no_way_of_lowering_precision_reaches_the_phases(route, tmp_path):
    config = SpecTokConfig.from_preset("tiny", num_hidden_layers=1, wavelength_dim=4)
    model = SpecTokModel(config)
    seen = []
    if route == "to":
        model = model.to(torch.bfloat16)
    if route == "from_pretrained":
        model.save_pretrained(tmp_path)
        model = SpecTokModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    model.embeddings.wavelength_embedding.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    wavelength = RED[:320].view(1, 10, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=route == "autocast"):
        model(torch.ones(1, 10, 32), wavelength)
    assert phase_error(seen[0].unflatten(-1, (32, 4)), wavelength, config) < 3e-3


@pytest.mark.parametrize("pooling", ["flatten", "mean", "center"])
def test_every_pooling_tells_wavelengths_apart(pooling):
    torch.manual_seed(0)
    embedding = WavelengthEmbedding(
        24, patch_size=8, wavelength_dim=6, pooling=pooling, min_period=1.0, max_period=4e4
    )
    wavelength = torch.arange(5000.0, 5064.0).view(1, 8, 8)
    out = embedding(wavelength, torch.float32)
    assert out.shape == (1, 8, 24)
    assert torch.cdist(out, out)[0].fill_diagonal_(1).min() > 1e-3


def test_a_fitting_size_is_added_without_a_projection():
    embedding = make_wavelength_embedding(SpecTokConfig())
    assert not list(embedding.parameters())
