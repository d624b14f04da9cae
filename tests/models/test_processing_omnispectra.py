"""Spectra as the overlapping patches of OmniSpectra, and back."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, AutoProcessor

from spectok_hf import OmniSpectraConfig, OmniSpectraProcessor, Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.simulation.recipes import RECIPES
from spectok_hf.models.wavelength import air_to_vacuum

PROCESSOR = OmniSpectraProcessor()
PER_PIXEL = ("flux", "wavelength", "error", "pixel_mask")


def make_spectrum(length=400, level=5.0, error=0.5, seed=0, **fields):
    rng = np.random.default_rng(seed)
    flux = level * (1 + 0.2 * np.sin(np.arange(length) / 20)) + error * rng.normal(size=length)
    return Spectrum.from_arrays(flux, 4000 + 1.5 * np.arange(length), error=np.full(length, error), **fields)


def flat(length=400, level=5.0, **fields):
    return Spectrum(np.full(length, level), 4000 + 1.5 * np.arange(length), np.full(length, 4.0), **fields)


def slow_patches(spectrum, patch_size=20, overlap=10):
    """What `patch` must return, by the plainest means."""
    good = ~spectrum.mask & (spectrum.ivar > 0)
    flux = np.where(good, spectrum.flux, 0).astype(np.float64)
    error = np.array([1 / np.sqrt(float(ivar)) if ivar > 0 else 0 for ivar in spectrum.ivar])
    loc, scale = 0.0, 1.0
    if good.any():
        scale = max(np.median(flux[good]), np.median(error[good]))
        good &= np.abs(flux) <= 1000 * scale
    if good.any():
        loc, scale = flux[good].mean(), flux[good].std()
        scale = scale if scale > 0 else np.median(error[good])
    columns = {"flux": np.where(good, (flux - loc) / scale, 0), "error": np.where(good, error / scale, 0)}
    wavelength = air_to_vacuum(spectrum.wavelength) if spectrum.medium == "air" else spectrum.wavelength
    columns |= {"wavelength": wavelength, "pixel_mask": good}
    patches = {name: [] for name in columns}
    for pixels in slow_pixels(wavelength, patch_size, overlap):
        missing = np.arange(1, patch_size - len(pixels) + 1)
        for name, values in columns.items():
            row = values[pixels]
            step = (row[-1] - row[-2] if len(row) > 1 else 1) if name == "wavelength" else 0
            patches[name].append([*row, *((row[-1] if name == "wavelength" else 0) + step * missing)])
    patches = {name: np.array(rows) for name, rows in patches.items()}
    return patches | {"attention_mask": patches["pixel_mask"].sum(1) > patch_size / 2, "scale": scale}


def slow_pixels(wavelength, patch_size, overlap):
    """The pixels of each patch; where a step is five times the median of all, a new one begins."""
    step = np.diff(wavelength)
    edges = [0, *(np.flatnonzero(step > 5 * np.median(step)) + 1 if len(step) > 1 else []), len(wavelength)]
    for first, stop in pairwise(edges):
        while True:
            yield np.arange(first, min(first + patch_size, stop))
            if first + patch_size >= stop:
                break
            first += patch_size - overlap


def spike(value):
    spectrum = make_spectrum()
    spectrum.flux[100] = value
    return spectrum


def half_bad():
    spectrum = make_spectrum(error=1.0)
    spectrum.mask[np.random.default_rng(1).permutation(400)[:200]] = True
    spectrum.flux[spectrum.mask] = -1e6
    return spectrum


def hard_cases():
    arms = np.concatenate([np.arange(4713, 4760, 0.046), np.arange(5648, 5700, 0.055)])
    rng = np.random.default_rng(2)
    yield "plain", make_spectrum()
    yield "constant", flat()
    yield "constant 0", flat(level=0.0)
    yield "a spike of 1e8", spike(1e8)
    yield "a spike within the limit", spike(4e3)
    yield "half bad", half_bad()
    yield "arms, air", Spectrum(rng.normal(5, 1, arms.size), arms, rng.uniform(0.5, 2, arms.size), medium="air")
    yield "one patch", make_spectrum(20)
    yield "less than a patch", make_spectrum(13)
    yield "one pixel more than a patch", make_spectrum(21)
    yield "one pixel", Spectrum([3.0], [5000.0], [1.0])
    yield "one good pixel", Spectrum(np.arange(40.0), 5000 + np.arange(40.0), np.ones(40), mask=np.arange(40) != 7)
    yield "bad everywhere", Spectrum(np.arange(40.0), 5000 + np.arange(40.0), np.zeros(40))
    yield "negative", make_spectrum(level=-3.0)
    yield "all beyond the limit", flat(level=-1e4)
    yield "tiny", Spectrum(make_spectrum().flux * 1e-17, make_spectrum().wavelength, make_spectrum().ivar * 1e34)


HARD_CASES = dict(hard_cases())


@pytest.mark.parametrize(("patch_size", "overlap"), [(20, 10), (20, 0), (15, 4)])
@pytest.mark.parametrize("name", [*HARD_CASES, *RECIPES])
def test_patches_are_those_of_the_plain_way(name, patch_size, overlap):
    spectrum = HARD_CASES[name] if name in HARD_CASES else simulate_survey(name, 1, seed=1001)[0]
    processor = OmniSpectraProcessor(patch_size, overlap)
    expected, patches = slow_patches(spectrum, patch_size, overlap), processor.patch(spectrum)
    assert set(patches) == {*expected, "num_patches"} == set(OmniSpectraProcessor.model_input_names)
    for column, values in expected.items():
        assert patches[column].shape == np.shape(values), column
        np.testing.assert_allclose(patches[column], values, rtol=1e-5, atol=1e-6 * (column == "flux"), err_msg=column)
        assert np.isfinite(patches[column]).all()
    assert patches["num_patches"] == len(expected["flux"])
    assert processor.count_patches(spectrum.wavelength, medium=spectrum.medium) == len(expected["flux"])
    cut = processor.patch_pixels(spectrum, processor.normalize(spectrum, spectrum.flux))
    np.testing.assert_allclose(np.where(patches["pixel_mask"], cut, 0), patches["flux"], rtol=1e-5, atol=1e-6)


def test_tokens_of_the_surveys_are_as_many_as_in_the_paper():
    """7781 pixels of DESI: 1 + ceil((7781 - 20) / 10)."""
    spectrum = make_spectrum(7781)
    batch = PROCESSOR([spectrum, make_spectrum(100)], return_tensors="pt")
    assert batch["num_patches"].tolist() == [778, 9]
    assert batch["flux"].shape == batch["pixel_mask"].shape == (2, 778, 20)
    assert batch["flux"].dtype == torch.float32 and batch["attention_mask"].sum(1).tolist() == [778, 9]


@pytest.mark.parametrize("name", ["plain", "half bad", "a spike of 1e8", "arms, air", "tiny", "negative"])
def test_good_pixels_have_mean_0_and_deviation_1(name):
    spectrum = HARD_CASES[name]
    processor = OmniSpectraProcessor(patch_overlap=0)  # so that each pixel counts once
    patches = processor.patch(spectrum)
    good = patches["flux"][patches["pixel_mask"] > 0]
    assert good.mean() == pytest.approx(0, abs=1e-4) and good.std() == pytest.approx(1, abs=1e-4)
    error = 1 / np.sqrt(spectrum.ivar[0])
    assert patches["error"][patches["pixel_mask"] > 0][0] == pytest.approx(error / patches["scale"], rel=1e-5)


def test_a_spike_is_bad_reported_and_without_a_say():
    clean, patches = PROCESSOR.patch(make_spectrum()), PROCESSOR.patch(spike(1e8))
    assert clean["scale"] == pytest.approx(patches["scale"], rel=0.01)
    assert clean["pixel_mask"].sum() - patches["pixel_mask"].sum() == 2  # it lies in two patches
    report = PROCESSOR.report(spike(1e8))
    assert "     1 pixels: |flux| > 1000 x scale (scale 5" in report  # one pixel, and the scale that the limit is of
    assert "39 of 39 patches are valid (more than half of 20 pixels good)" in report
    assert "normalised to (flux - 5.0" in report and f"/ {patches['scale']:.4g}" in report


def test_a_constant_spectrum_is_0_and_its_scale_is_its_error():
    spectrum = flat(level=1 / 3)
    patches = PROCESSOR.patch(spectrum)
    assert not patches["flux"].any() and patches["scale"] == 0.5 and (patches["error"][0] == 1).all()
    assert PROCESSOR.normalize(spectrum, spectrum.flux[:2] + np.array([0, 0.5])) == pytest.approx([0, 1])


def test_what_varies_little_is_not_lost_beside_the_mean():
    rng = np.random.default_rng(0)
    flux = (1e4 + rng.normal(size=400) / 10).astype(np.float32)
    spectrum = Spectrum(flux, 4000 + np.arange(400.0), np.ones(400))
    exact = (flux.astype(np.float64) - flux.astype(np.float64).mean()) / flux.astype(np.float64).std()
    np.testing.assert_allclose(PROCESSOR.patch(spectrum)["flux"][0], exact[:20], atol=1e-6)


@given(st.integers(-30, 30), st.sampled_from([3.0, -1.0]))
@settings(deadline=None)
def test_scaling_the_flux_changes_only_the_scale(power, level):
    factor = 2.0**power
    spectrum = make_spectrum(level=level)
    scaled = Spectrum(spectrum.flux * np.float32(factor), spectrum.wavelength, spectrum.ivar / factor**2)
    before, after = PROCESSOR.patch(spectrum), PROCESSOR.patch(scaled)
    assert after["scale"] == pytest.approx(before["scale"] * factor, rel=1e-6)
    for name in set(before) - {"scale"}:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_lies_under_bad_pixels_does_not_matter():
    spectra = [half_bad(), half_bad()]
    spectra[1].flux[spectra[1].mask] = 1e30
    batch = PROCESSOR(spectra, return_tensors="np")
    for name, values in batch.items():
        np.testing.assert_array_equal(values[0], values[1], err_msg=name)


def test_distinct_spectra_give_distinct_inputs():
    spectra = [*simulate_survey("desi", 6, seed=1001, snr=20), make_spectrum(), half_bad(), spike(4e3)]
    flux = PROCESSOR(spectra, return_tensors="np")["flux"].reshape(9, -1)
    distance = np.abs(flux[:, None] - flux[None]).max(-1) + 1e9 * np.eye(9)
    assert distance.min() > 0.1


@pytest.mark.parametrize("name", ["bad everywhere", "all beyond the limit", "one pixel", "one good pixel"])
def test_a_spectrum_without_a_valid_patch_raises_is_skipped_or_is_kept(name):
    spectra = [make_spectrum(), HARD_CASES[name], make_spectrum(seed=2)]
    whole = name in ("bad everywhere", "all beyond the limit")
    count = len(spectra[1].flux)
    message = f"all {count} pixels of spectrum 1" if whole else "no patch of spectrum 1 .* more than 10 .* most 1:"
    with pytest.raises(ValueError, match=message):
        PROCESSOR(spectra)
    with pytest.warns(UserWarning, match="skipped: " + message):
        assert len(PROCESSOR(spectra, on_invalid="skip")["flux"]) == 2
    kept = PROCESSOR(spectra, on_invalid="mask", return_tensors="np")
    assert not kept["attention_mask"][1].any() and np.isfinite(kept["flux"]).all()


def test_packed_batches_hold_the_patches_of_each_spectrum():
    spectra = [make_spectrum(400), make_spectrum(13, seed=1), HARD_CASES["arms, air"]]
    packed = PROCESSOR.pack(spectra, pad_to=300)
    stops = np.cumsum(packed["num_patches"])
    for spectrum, scale, start, stop in zip(spectra, packed["scale"], [0, *stops], stops, strict=False):
        patches = PROCESSOR.patch(spectrum)
        assert scale == patches["scale"]
        for name in (*PER_PIXEL, "attention_mask"):
            np.testing.assert_array_equal(packed[name][start:stop], patches[name])
            assert len(packed[name]) == 300 and not packed[name][stops[-1] :].any()


# back to spectra


def echo(batch):
    """What a perfect model returns."""
    return {"reconstruction": batch["flux"], "coverage": batch["pixel_mask"]}


@pytest.mark.parametrize("overlap", [0, 4, 10])
def test_a_perfect_reconstruction_is_the_input_in_its_unit_and_on_its_grid(overlap):
    spectra = [HARD_CASES[name] for name in ("plain", "constant", "arms, air", "one patch", "one pixel", "negative")]
    processor = OmniSpectraProcessor(patch_overlap=overlap, on_invalid="mask")
    back = processor.post_process_reconstruction(echo(processor(spectra, return_tensors="pt")), spectra)
    for before, after in zip(spectra, back, strict=True):
        np.testing.assert_allclose(after.flux, before.flux, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(after.wavelength, before.wavelength)
        assert after.medium == before.medium and not after.mask.any() and not after.ivar.any()


def test_overlapping_patches_are_averaged_where_they_are_covered():
    spectrum = make_spectrum(40)
    batch = PROCESSOR(spectrum, return_tensors="np")
    reconstruction = np.stack([np.full(20, value) for value in (1.0, 2.0, 4.0)])[None]

    def means(*covered):
        coverage = np.repeat(covered, 20).reshape(1, 3, 20)
        after = PROCESSOR.post_process_reconstruction(
            {"reconstruction": reconstruction, "coverage": coverage}, spectrum
        )[0]
        normalised = PROCESSOR.normalize(spectrum, after.flux)
        assert np.ptp(normalised.reshape(4, 10), axis=1) == pytest.approx(0, abs=1e-5)
        return normalised[::10].round(4).tolist(), after.mask[::10].tolist()

    assert batch["num_patches"][0] == 3
    assert means(1, 1, 1) == ([1, 1.5, 3, 4], [False] * 4)
    assert means(1, 0, 0) == ([1, 1, 3, 4], [False, False, True, True])  # the second one's answer counts for nothing
    assert means(0, 1, 0) == ([1, 2, 2, 4], [True, False, False, True])


def test_a_grid_of_ones_own_is_cut_in_the_same_way():
    spectrum, grid = make_spectrum(), np.concatenate([np.arange(4100.0, 4130, 0.7), np.arange(4300.0, 4340, 0.7)])
    patches = PROCESSOR.patch_wavelength(grid, medium="air", return_tensors="np")["wavelength"]
    expected = [air_to_vacuum(grid)[pixels] for pixels in slow_pixels(grid, 20, 10)]
    assert patches.shape == (1, len(expected), 20)
    for row, pixels in zip(patches[0], expected, strict=True):
        np.testing.assert_allclose(row[: len(pixels)], pixels, rtol=1e-7)
        assert (np.diff(row) > 0).all()
    decoded = {"reconstruction": np.zeros(patches.shape), "coverage": np.ones(patches.shape)}
    after = PROCESSOR.post_process_reconstruction(decoded, spectrum, wavelength=grid, medium="air")[0]
    np.testing.assert_array_equal(after.wavelength, grid)
    np.testing.assert_allclose(after.flux, spectrum.flux.mean(), rtol=1e-5)


def test_a_truth_is_normalised_as_the_flux_is():
    spectrum = simulate_survey("sdss", 1, seed=1001, snr=10)[0]
    truth = PROCESSOR.patch_pixels(spectrum, PROCESSOR.normalize(spectrum, spectrum.truth))
    inputs = PROCESSOR.patch(spectrum)
    good = inputs["pixel_mask"] > 0
    noise = PROCESSOR.patch_pixels(spectrum, (spectrum.flux - spectrum.truth) / spectrum.error)
    expected = (noise * inputs["error"])[good]
    np.testing.assert_allclose((inputs["flux"] - truth)[good], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1


# settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_overlap": 11}, "at most half of patch_size=20, found 11"),
        ({"patch_overlap": -1}, "at least 0 .* found -1"),
        ({"patch_size": 8}, "at most half of patch_size=8, found 10: pass both"),
        ({"medium": "water"}, "medium"),
        ({"patch_size": 0}, "patch_size"),
    ],
)
def test_settings_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OmniSpectraProcessor(**arguments)


def test_misspelt_settings_are_warned_about():
    with pytest.warns(UserWarning, match="OmniSpectraProcessor does not know patch_overlaps"):
        OmniSpectraProcessor(patch_overlaps=3)


def test_settings_are_written_with_the_overlap():
    processor = OmniSpectraProcessor(16, 6, medium="air")
    settings = json.loads(processor.to_json_string())
    assert settings["feature_extractor_type"] == "OmniSpectraProcessor"
    assert (settings["patch_size"], settings["patch_overlap"], settings["medium"]) == (16, 6, "air")
    assert OmniSpectraProcessor.from_dict(settings).to_dict() == processor.to_dict()
    assert "patch_overlap" not in SpectrumProcessor().to_dict()


def test_saved_settings_come_back(tmp_path):
    processor = OmniSpectraProcessor(patch_size=16, patch_overlap=6, medium="air", gap_factor=None, on_invalid="mask")
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "processing_omnispectra.py").exists()
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["feature_extractor_type"] == "OmniSpectraProcessor"
    assert saved["auto_map"]["AutoProcessor"] == "processing_omnispectra.OmniSpectraProcessor"
    OmniSpectraConfig(patch_size=16, patch_overlap=6).save_pretrained(tmp_path)
    for auto in (AutoProcessor, AutoFeatureExtractor, OmniSpectraProcessor):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is OmniSpectraProcessor
        assert loaded.to_dict() == processor.to_dict()
    np.testing.assert_array_equal(loaded.patch(make_spectrum())["flux"], processor.patch(make_spectrum())["flux"])
