"""Attribution: what matters is found, what was not read has no value, and the picture says so."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoProcessor
from transformers.utils import ModelOutput

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraProcessor,
    SpecTokConfig,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.analysis.attribution import METHODS, attribute, plot_attribution
from spectok_hf.data.lines import find_lines

PROCESSOR = SpectrumProcessor()
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FIELDS = {
    SpecTokForSpectrumClassification: {"num_labels": 3},
    SpecTokForStellarRegression: {"target_names": ["teff", "logg"], "target_units": ["K", "dex"]},
    SpecTokForRedshift: {},
}


def make_model(head, **fields):
    torch.manual_seed(0)
    config = SpecTokConfig(**SIZE | {"initializer_range": 0.2} | FIELDS.get(head, {}) | fields)
    return head(config).eval()


class BumpDetector(nn.Module):
    """Says "bump" as loudly as the highest pixel between 5900 and 6000 Å, in patches that it may read."""

    class Config:
        id2label = {0: "flat", 1: "bump"}

    config, device = Config(), torch.device("cpu")

    def forward(self, flux, wavelength, attention_mask, pixel_mask, **inputs):
        seen = (wavelength > 5900) & (wavelength < 6000) & (attention_mask[..., None] > 0) & (pixel_mask > 0)
        height = torch.where(seen, flux, 1.0).flatten(1).amax(-1)
        return ModelOutput(logits=torch.stack([torch.ones_like(height), height], -1))


def bumpy(centre=5950.0, bad=()):
    wavelength = 5000.0 + np.arange(1600)
    flux = 1 + 8 * np.exp(-0.5 * ((wavelength - centre) / 2) ** 2)
    return Spectrum(flux, wavelength, np.full(1600, 100.0), mask=np.isin(np.arange(1600) // 32, bad))


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_the_patch_that_matters_is_found(method):
    found = attribute(BumpDetector(), PROCESSOR, bumpy(), method=method)
    (place,) = found.strongest(1)
    assert abs(place - 5950) <= 16
    rest = np.delete(found.values, np.nanargmax(found.values))
    np.testing.assert_allclose(rest, 0, atol=1e-6)
    assert np.nanmax(found.values) == pytest.approx(8 if method == "occlusion" else 9, rel=0.02)
    assert found.answer == "log-odds of bump"


def test_what_speaks_against_an_answer_is_negative():
    found = attribute(BumpDetector(), PROCESSOR, bumpy(), target="flat")
    assert np.nanmin(found.values) == pytest.approx(-8, rel=0.02) and np.nanmax(found.values) <= 0


def test_occlusion_is_the_change_of_the_answer():
    model, spectrum = make_model(SpecTokForStellarRegression), simulate_survey("gaia_xp", 1, seed=913)[0]
    found = attribute(model, PROCESSOR, spectrum, target="logg", batch_size=3)
    inputs = PROCESSOR(spectrum, return_tensors="pt")
    with torch.no_grad():
        full = model(**inputs).predictions[0, 1]
        for patch in (0, 4):
            inputs["attention_mask"][:] = 1
            inputs["attention_mask"][0, patch] = 0
            assert found.values[patch] == pytest.approx(float(full - model(**inputs).predictions[0, 1]), abs=1e-5)
    assert found.answer == "logg [dex]"


@pytest.mark.parametrize("head", FIELDS)
@pytest.mark.parametrize("method", METHODS)
def test_bad_patches_have_no_value_and_what_stands_there_does_not_matter(head, method):
    model = make_model(head)
    spectrum, other = bumpy(bad=(3, 7)), bumpy(bad=(3, 7))
    other.flux[other.mask] = 1e3 * np.arange(other.mask.sum())
    one, two = attribute(model, PROCESSOR, [spectrum, other], method=method)
    assert one.values.shape == (50,) and np.flatnonzero(np.isnan(one.values)).tolist() == [3, 7]
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)
    np.testing.assert_array_equal(one.edges[3], [5096, 5127])


@pytest.mark.parametrize("method", METHODS)
def test_distinct_spectra_have_distinct_attributions(method):
    model = make_model(SpecTokForSpectrumClassification)
    one, two = attribute(model, PROCESSOR, [bumpy(5300), bumpy(6200)], method=method)
    assert np.abs(one.values - two.values).max() > 1e-4 * np.abs(one.values).max()


@pytest.mark.parametrize("method", ["attention", "rollout"])
def test_shares_are_of_an_even_share(method):
    found = attribute(make_model(SpecTokForRedshift), PROCESSOR, bumpy(bad=(3,)), method=method)
    assert np.nanmean(found.values) == pytest.approx(1, abs=1e-5) and np.nanmin(found.values) >= 0


def test_an_encoder_is_asked_for_its_embedding():
    model, spectrum = make_model(SpecTokModel), bumpy()
    found = attribute(model, PROCESSOR, spectrum)
    inputs = PROCESSOR(spectrum, return_tensors="pt")
    with torch.no_grad():
        whole = model(**inputs).pooler_output
        inputs["attention_mask"][0, 5] = 0
        moved = (model(**inputs).pooler_output - whole).norm() / whole.norm()
    assert found.values[5] == pytest.approx(float(moved), rel=1e-4)
    with pytest.raises(ValueError, match='method="gradient" needs a task head'):
        attribute(model, PROCESSOR, spectrum, method="gradient")
    with pytest.raises(ValueError, match='method="attention" needs a task head of'):
        attribute(model, PROCESSOR, spectrum, method="attention")


def test_a_linear_head_has_no_attention_of_its_own():
    model = make_model(SpecTokForSpectrumClassification, head_type="linear")
    with pytest.raises(ValueError, match='head_type="attention"'):
        attribute(model, PROCESSOR, bumpy(), method="attention")
    assert np.isfinite(attribute(model, PROCESSOR, bumpy()).values).all()


def test_the_model_is_left_as_it_was():
    model = make_model(SpecTokForSpectrumClassification).train()
    usual = model.spectok.config._attn_implementation
    for method in METHODS:
        attribute(model, PROCESSOR, bumpy(), method=method)
    assert model.training and model.spectok.config._attn_implementation == usual
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.head.adapter.pooling._forward_pre_hooks


def test_wrong_requests_are_refused():
    model = make_model(SpecTokForStellarRegression)
    with pytest.raises(ValueError, match="target must be one of teff, logg, found 'feh'"):
        attribute(model, PROCESSOR, bumpy(), target="feh")
    with pytest.raises(ValueError, match="method must be one of occlusion, gradient, attention, rollout"):
        attribute(model, PROCESSOR, bumpy(), method="saliency")
    with pytest.raises(ValueError, match="are bad"):
        attribute(model, PROCESSOR, bumpy(bad=range(50)))
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        attribute(model, PROCESSOR, bumpy(), batch_size=0)
    with pytest.raises(ValueError, match="must be Spectrum objects, found 's'"):
        attribute(model, PROCESSOR, "spectrum.fits")
    with pytest.raises(ValueError, match="target must be None for SpecTokModel"):
        attribute(model.base_model, PROCESSOR, bumpy(), target="teff")


def test_edges_are_in_the_medium_of_the_spectrum_and_within_its_arms():
    spectrum = simulate_survey("galah", 1, seed=914)[0]
    model = make_model(SpecTokForSpectrumClassification)
    found = attribute(model, PROCESSOR, spectrum, method="attention")
    assert set(found.edges.ravel()) <= set(spectrum.wavelength)
    assert np.diff(found.edges).max() < 32 * 0.08  # none reaches across a gap


def test_the_shipped_redshift_head_reads_emission_lines():
    model = AutoModelForSequenceClassification.from_pretrained("spectok-tiny/redshift")
    processor = AutoProcessor.from_pretrained("spectok-tiny/redshift")
    quasars = simulate_survey("boss", 40, seed=915, kind="QSO", snr=20)
    quasar = next(one for one in quasars if 2.1 < one.labels["redshift"] < 2.6)
    found = attribute(model, processor, quasar)
    ends = quasar.wavelength[[0, -1]]
    lines = [line.wavelength for line in find_lines("quasar", tuple(ends), redshift=quasar.labels["redshift"])][:4]
    (best,) = found.strongest(1)
    assert min(abs(np.log(best / line)) for line in lines) < 0.03  # 9000 km/s


# Patches that overlap

OVERLAPPING = OmniSpectraProcessor()


def overlapping(head):
    torch.manual_seed(0)
    return head(OmniSpectraConfig(**SIZE, initializer_range=0.2)).eval()


def test_a_patch_is_taken_away_with_those_that_share_its_pixels():
    spectrum = bumpy(5955.0)
    found = attribute(BumpDetector(), OVERLAPPING, spectrum)
    height = (spectrum.flux.max() - spectrum.flux.mean()) / spectrum.flux.std()
    # Alone, each of the two patches that hold the bump would be worth nothing: the other one goes on showing it.
    assert np.nanmax(found.values) == pytest.approx(height - 1, rel=0.02)
    assert found.wavelength[found.values > 0.9 * np.nanmax(found.values)].tolist() == [5949.5, 5959.5]


def test_edges_and_values_of_patches_that_overlap():
    spectrum = bumpy(bad=(3,))
    found = attribute(overlapping(OmniSpectraForRedshift), OVERLAPPING, spectrum)
    inputs = OVERLAPPING(spectrum, return_tensors="pt")
    assert len(found.values) == int(inputs["num_patches"][0])
    np.testing.assert_array_equal(found.edges[:3], [[5000, 5019], [5010, 5029], [5020, 5039]])
    np.testing.assert_array_equal(np.isnan(found.values), inputs["attention_mask"][0].numpy() == 0)
    rolled = attribute(overlapping(OmniSpectraForRedshift), OVERLAPPING, spectrum, method="rollout")
    assert np.nanmean(rolled.values) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match='head_type="attention"'):
        attribute(overlapping(OmniSpectraForRedshift), OVERLAPPING, spectrum, method="attention")


def test_a_masked_model_is_asked_for_the_embedding_of_its_encoder():
    model, spectrum = overlapping(OmniSpectraForPreTraining), bumpy()
    found = attribute(model, OVERLAPPING, spectrum)
    np.testing.assert_array_equal(found.values, attribute(model.base_model, OVERLAPPING, spectrum).values)
    assert found.answer == "embedding"


# The picture


@pytest.fixture
def plt():
    pytest.importorskip("matplotlib").use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def bars(axis):
    return [patch for patch in axis.patches if patch.get_gid() == "attribution"]


def test_bars_stand_at_their_patches_and_grow_with_their_value(plt):
    spectrum = bumpy(bad=(3,))
    found = attribute(make_model(SpecTokForRedshift), PROCESSOR, spectrum)
    axis = plt.subplots()[1]
    assert plot_attribution(spectrum, found, ax=axis) is axis
    axis.figure.canvas.draw()
    drawn = {bar.get_x(): bar.get_height() for bar in bars(axis)}
    known = np.isfinite(found.values) & (found.values != 0)
    assert sorted(drawn) == found.edges[known, 0].tolist()
    heights = np.array([drawn[first] for first in found.edges[known, 0]])
    np.testing.assert_array_equal(np.argsort(heights, kind="stable"), np.argsort(found.values[known], kind="stable"))
    assert axis.get_title(loc="left") == f"unnamed: occlusion, {found.answer}"


def test_bars_of_patches_that_overlap_do_not_cover_each_other(plt):
    spectrum = bumpy()
    found = attribute(overlapping(OmniSpectraForRedshift), OVERLAPPING, spectrum)
    axis = plot_attribution(spectrum, found, ax=plt.subplots()[1])
    drawn = sorted((bar.get_x(), bar.get_width()) for bar in bars(axis))
    ends = np.array([first + width for first, width in drawn])
    np.testing.assert_allclose(ends[:-1], [first for first, _ in drawn[1:]])
    assert drawn[0] == (5000, 14.5) and drawn[1] == (5014.5, 10)


def test_the_spectrum_stands_above_the_bars(plt):
    spectrum = bumpy()
    axis = plot_attribution(spectrum, attribute(BumpDetector(), PROCESSOR, spectrum))
    axis.figure.canvas.draw()
    frame = axis.get_window_extent()
    lowest = axis.transData.transform((0, spectrum.flux.min()))[1]
    top = max(bar.get_window_extent().y1 for bar in bars(axis))
    assert frame.y0 < top < lowest


def test_an_attribution_of_another_spectrum_is_refused(plt):
    found = attribute(BumpDetector(), PROCESSOR, bumpy())
    with pytest.raises(ValueError, match="must be of the spectrum's own grid, found 5000"):
        plot_attribution(simulate_survey("sdss", 1, seed=916)[0], found)


def test_all_zero_can_be_drawn(plt):
    spectrum = bumpy(5300.0)  # nothing where the detector looks
    plot_attribution(spectrum, attribute(BumpDetector(), PROCESSOR, spectrum)).figure.canvas.draw()
