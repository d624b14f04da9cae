"""Spectra as what Specformer reads: DESI's grid, whole overlapping patches, and the statistics of each spectrum."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, AutoProcessor

from spectok_hf import SpecformerConfig, SpecformerProcessor, Spectrum, simulate_survey
from spectok_hf.models.wavelength import air_to_vacuum, vacuum_to_air

PROCESSOR = SpecformerProcessor()
DESI = 3600 + 0.8 * np.arange(7781)
# A grid of 200 pixels, for what needs no long spectrum.
START, STEP, LENGTH = 4000.0, 1.5, 203
GRID = START + STEP * np.arange(LENGTH)
SETTINGS = {"grid_start": START, "grid_step": STEP, "grid_size": LENGTH}
SMALL = SpecformerProcessor(**SETTINGS)
DESI_UNIT = "1e-17 erg/s/cm2/A"
PER_PIXEL = ("flux", "wavelength", "error", "pixel_mask")


def make_spectrum(level=5.0, error=0.5, seed=0, wavelength=GRID, **fields):
    rng = np.random.default_rng(seed)
    length = len(wavelength)
    flux = level * (1 + 0.2 * np.sin(np.arange(length) / 20)) + error * rng.normal(size=length)
    return Spectrum.from_arrays(flux, wavelength, error=np.full(length, error), **fields)


def slow_patches(spectrum, patch_size=20, overlap=10):
    """What `patch` must return for a spectrum on the grid, by the plainest means."""
    good = ~spectrum.mask & (spectrum.ivar > 0)
    flux = np.where(good, spectrum.flux, 0).astype(np.float64)
    error = np.array([1 / math.sqrt(ivar) if ivar > 0 else 0 for ivar in spectrum.ivar.astype(np.float64)])
    if good.any():
        good &= np.abs(flux) <= 1000 * max(np.median(flux[good]), np.median(error[good]))
    loc = sum(flux[good]) / max(good.sum(), 1)
    variance = ((flux[good] - loc) ** 2).sum() / max(good.sum() - 1, 1)
    scale = max(math.sqrt(variance), 0.2)
    columns = {
        "flux": np.where(good, (flux - loc) / scale, 0),
        "error": np.where(good, error / scale, 0),
        "wavelength": spectrum.wavelength,
        "pixel_mask": good,
    }
    starts = range(0, len(flux) - patch_size + 1, patch_size - overlap)
    patches = {name: np.array([values[s : s + patch_size] for s in starts]) for name, values in columns.items()}
    valid = patches["pixel_mask"].sum(1) > patch_size / 2
    return patches | {"attention_mask": valid, "num_patches": len(valid), "scale": scale, "loc": loc}


def spike(value):
    spectrum = make_spectrum()
    spectrum.flux[100] = value
    return spectrum


def half_bad(garbage=-1e6):
    spectrum = make_spectrum(error=1.0)
    spectrum.mask[np.random.default_rng(1).permutation(LENGTH)[: LENGTH // 2]] = True
    spectrum.flux[spectrum.mask] = garbage
    return spectrum


def flat(level):
    return Spectrum(np.full(LENGTH, level), GRID, np.full(LENGTH, 4.0))


HARD_CASES = {
    "plain": make_spectrum(),
    "constant": flat(5.0),
    "constant 0": flat(0.0),
    "faint: deviation below 0.2": make_spectrum(level=0.1, error=0.05),
    "a spike of 1e8": spike(1e8),
    "a spike within the limit": spike(4e3),
    "half bad": half_bad(),
    "one good pixel": Spectrum(np.arange(LENGTH), GRID, np.ones(LENGTH), mask=np.arange(LENGTH) != 7),
    "bad everywhere": Spectrum(np.arange(LENGTH), GRID, np.zeros(LENGTH)),
    "negative": make_spectrum(level=-3.0),
    "all beyond the limit": Spectrum(np.full(LENGTH, -1e4), GRID, np.full(LENGTH, 4.0)),
    "bright": make_spectrum(level=4e4),
}


@pytest.mark.parametrize(("patch_size", "overlap"), [(20, 10), (20, 0), (15, 4)])
@pytest.mark.parametrize("name", [*HARD_CASES, "desi"])
def test_patches_are_those_of_the_plain_way(name, patch_size, overlap):
    spectrum = simulate_survey("desi", 1, seed=1101)[0] if name == "desi" else HARD_CASES[name]
    processor = SpecformerProcessor(patch_size, overlap, **({} if name == "desi" else SETTINGS))
    expected, patches = slow_patches(spectrum, patch_size, overlap), processor.patch(spectrum)
    assert set(patches) == set(expected) == set(SpecformerProcessor.model_input_names)
    if not expected["pixel_mask"].any():  # there is nothing that a scale could be of
        assert patches["scale"] > 0
        expected["scale"] = patches["scale"]
    for column, values in expected.items():
        assert patches[column].shape == np.shape(values), column
        np.testing.assert_allclose(patches[column], values, rtol=1e-5, atol=2e-6 * (column == "flux"), err_msg=column)
        assert np.isfinite(patches[column]).all()
    assert processor.count_patches(spectrum.wavelength) == expected["num_patches"]
    cut = processor.patch_pixels(spectrum, processor.normalize(spectrum, spectrum.flux))
    np.testing.assert_allclose(np.where(patches["pixel_mask"], cut, 0), patches["flux"], rtol=1e-5, atol=1e-5)


def test_of_7781_pixels_there_are_777_whole_patches():
    batch = PROCESSOR([make_spectrum(wavelength=DESI), make_spectrum(wavelength=DESI, seed=1)], return_tensors="pt")
    assert batch["num_patches"].tolist() == [777, 777]
    assert batch["flux"].shape == batch["pixel_mask"].shape == (2, 777, 20) and batch["flux"].dtype == torch.float32
    assert batch["scale"].shape == batch["loc"].shape == (2,) and batch["loc"].dtype == torch.float32
    np.testing.assert_allclose(batch["wavelength"][0, -1], DESI[7760:7780], rtol=1e-7)  # the last pixel is left out
    assert list(SpecformerProcessor.model_input_names)[-1] == "loc"


def test_good_pixels_are_a_z_score_with_the_sample_deviation():
    spectrum = make_spectrum(wavelength=START + STEP * np.arange(200))
    processor = SpecformerProcessor(patch_overlap=0, **SETTINGS | {"grid_size": 200})
    patches = processor.patch(spectrum)
    values = patches["flux"].astype(np.float64).ravel()
    assert values.mean() == pytest.approx(0, abs=1e-6) and values.std(ddof=1) == pytest.approx(1, abs=1e-6)
    of_torch = torch.tensor(spectrum.flux)
    assert patches["scale"] == pytest.approx(of_torch.std().item(), rel=1e-6)
    assert patches["loc"] == pytest.approx(of_torch.mean().item(), rel=1e-6)


def test_a_deviation_below_a_fifth_counts_as_a_fifth():
    patches = SMALL.patch(HARD_CASES["faint: deviation below 0.2"])
    assert patches["scale"] == pytest.approx(0.2) and 0 < patches["flux"].std() < 0.5
    constant = SMALL.patch(flat(5.0))
    assert constant["scale"] == pytest.approx(0.2) and constant["loc"] == 5 and not constant["flux"].any()


def test_what_varies_little_is_not_lost_beside_the_mean():
    flux = (1e4 + np.random.default_rng(0).normal(size=LENGTH)).astype(np.float32)
    spectrum, exact = Spectrum(flux, GRID, np.ones(LENGTH)), flux.astype(np.float64)
    exact = (exact - exact.mean()) / exact.std(ddof=1)
    np.testing.assert_allclose(SMALL.patch(spectrum)["flux"][0], exact[:20], atol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, -7.0])
def test_what_lies_under_bad_pixels_does_not_matter(garbage):
    batch = SMALL([half_bad(), half_bad(garbage)], return_tensors="np")
    for name, values in batch.items():
        np.testing.assert_array_equal(values[0], values[1], err_msg=name)


def test_distinct_spectra_give_distinct_inputs():
    """Also those that differ in level or in contrast alone: the z-score takes both away, loc and scale keep them."""
    base = make_spectrum()
    changed = (Spectrum(base.flux * factor + constant, GRID, base.ivar) for factor, constant in ((3, 0), (1, 9)))
    spectra = [make_spectrum(seed=1), base, *changed]
    batch = SMALL(spectra, return_tensors="np")
    np.testing.assert_allclose(batch["flux"][2], batch["flux"][1], atol=1e-5)
    np.testing.assert_allclose(batch["flux"][3], batch["flux"][1], atol=1e-5)
    whole = np.concatenate([batch["flux"].reshape(4, -1), batch["loc"][:, None], batch["scale"][:, None]], 1)
    distance = np.abs(whole[:, None] - whole[None]).max(-1) + 1e9 * np.eye(4)
    assert distance.min() > 0.1


@given(st.floats(-50, 50), st.integers(0, 10))
@settings(deadline=None)
def test_a_constant_that_is_added_changes_loc_alone(constant, seed):
    spectrum = make_spectrum(seed=seed)
    moved = Spectrum(spectrum.flux + np.float32(constant), GRID, spectrum.ivar)
    before, after = SMALL.patch(spectrum), SMALL.patch(moved)
    assert after["loc"] == pytest.approx(before["loc"] + constant, abs=1e-4)
    assert after["scale"] == pytest.approx(before["scale"], rel=1e-4)
    np.testing.assert_allclose(after["flux"], before["flux"], atol=1e-4)


@pytest.mark.parametrize("name", ["bad everywhere", "all beyond the limit", "one good pixel"])
def test_a_spectrum_without_a_valid_patch_raises_is_skipped_or_is_kept(name):
    spectra = [make_spectrum(), HARD_CASES[name], make_spectrum(seed=2)]
    with pytest.raises(ValueError, match=r"of spectrum 1"):
        SMALL(spectra)
    with pytest.warns(UserWarning, match="skipped: "):
        assert len(SMALL(spectra, on_invalid="skip")["flux"]) == 2
    kept = SMALL(spectra, on_invalid="mask", return_tensors="np")
    assert not kept["attention_mask"][1].any() and all(np.isfinite(values).all() for values in kept.values())


def test_packed_batches_hold_the_patches_and_the_statistics_of_each_spectrum():
    spectra = [make_spectrum(), make_spectrum(level=50, seed=1), half_bad()]
    packed = SMALL.pack(spectra, pad_to=70)
    assert packed["num_patches"].tolist() == [19] * 3
    for row, spectrum in enumerate(spectra):
        patches = SMALL.patch(spectrum)
        assert packed["scale"][row] == patches["scale"] and packed["loc"][row] == patches["loc"]
        for name in (*PER_PIXEL, "attention_mask"):
            np.testing.assert_array_equal(packed[name][19 * row : 19 * row + 19], patches[name])
            assert len(packed[name]) == 70 and not packed[name][57:].any()


def test_a_skipped_spectrum_takes_its_statistics_along():
    spectra = [make_spectrum(), HARD_CASES["bad everywhere"], make_spectrum(level=50)]
    for prepare in (SMALL, SMALL.pack):
        with pytest.warns(UserWarning, match="skipped: "):
            batch = prepare(spectra, on_invalid="skip")
        expected = [SMALL.patch(spectra[row]) for row in (0, 2)]
        for name in ("scale", "loc"):
            np.testing.assert_array_equal(np.asarray(batch[name]), [each[name] for each in expected])


# Grids


OTHER_GRIDS = {
    "shifted by half a pixel": GRID + STEP / 2,
    "another step": START + 1.4 * np.arange(LENGTH),
    "one pixel less": GRID[:-1],
    "one pixel more": START + STEP * np.arange(LENGTH + 1),
    "begins later": GRID[3:],
    "logarithmic": np.geomspace(START, GRID[-1], LENGTH),
    "a pixel is missing": np.delete(GRID, 50),
}


@pytest.mark.parametrize("name", OTHER_GRIDS)
def test_a_spectrum_on_another_grid_is_refused(name):
    wavelength = OTHER_GRIDS[name]
    spectrum = make_spectrum(wavelength=wavelength, object_id="39627")
    for prepare in (SMALL, SMALL.pack, SMALL.patch):
        with pytest.raises(ValueError, match=r"203 pixels from 4000 to 4303 .*found.*resample=True"):
            prepare(spectrum)
    inputs = SpecformerProcessor(**SETTINGS, resample=True)(spectrum, return_tensors="np")
    assert inputs["flux"].shape == (1, 19, 20)


def test_rounding_is_no_other_grid():
    for wavelength in (GRID.astype(np.float32), GRID + 1e-5, np.round(GRID, 3)):
        assert SMALL.patch(make_spectrum(wavelength=wavelength))["num_patches"] == 19


def test_desi_is_on_the_grid_and_other_surveys_are_not():
    assert PROCESSOR.patch(simulate_survey("desi", 1, seed=1102)[0])["num_patches"] == 777
    for survey in ("sdss", "boss", "galah", "apogee"):
        with pytest.raises(ValueError, match=r"7781 pixels from 3600 to 9824 .*resample=True"):
            PROCESSOR.patch(simulate_survey(survey, 1, seed=1102)[0])


def slow_resample(spectrum, grid):
    """Linear interpolation pixel by pixel; bad outside, and where one of the two pixels beside is bad."""
    flux, bad = np.zeros(len(grid)), np.ones(len(grid), dtype=bool)
    good = ~spectrum.mask & (spectrum.ivar > 0)
    for place, wanted in enumerate(grid):
        if not spectrum.wavelength[0] - 1e-6 <= wanted <= spectrum.wavelength[-1] + 1e-6:
            continue
        right = min(max(int(np.searchsorted(spectrum.wavelength, wanted)), 1), len(good) - 1)
        low, high = spectrum.wavelength[right - 1 : right + 1]
        weight = (wanted - low) / (high - low)
        flux[place] = (1 - weight) * spectrum.flux[right - 1] + weight * spectrum.flux[right]
        needed = [right - 1] * int(weight < 1 - 1e-6) + [right] * int(weight > 1e-6)
        bad[place] = not good[needed].all()
    return flux, bad


@pytest.mark.parametrize("step", [0.37, 1.1, 1.5, 4.0])
def test_resampling_is_linear_interpolation_between_good_pixels(step):
    wavelength = np.arange(4010.3, 4280, step)
    spectrum = make_spectrum(wavelength=wavelength, survey="sdss", object_id="7", labels={"redshift": 0.1})
    spectrum.mask[[5, 6, 40]] = True
    spectrum.flux[[5, 6, 40]] = np.nan
    found = SMALL.to_grid(spectrum)
    flux, bad = slow_resample(spectrum, GRID)
    np.testing.assert_allclose(found.wavelength, GRID)
    np.testing.assert_array_equal(~found.good, bad)
    np.testing.assert_allclose(found.flux[~bad], flux[~bad], rtol=1e-5, atol=1e-5)
    assert bad[GRID < 4010].all() and bad[GRID > 4281].all() and 0 < bad.sum() < LENGTH
    assert (found.survey, found.object_id, found.labels) == ("sdss", "7", {"redshift": 0.1})
    assert np.isfinite(found.ivar).all() and (found.ivar[~bad] > 0).all()


@pytest.mark.parametrize("width", [1.0, 2.0, 8.0, 40.0])
def test_a_gap_between_arms_is_not_filled(width):
    """A line from one arm to the next is no observation, however narrow the gap."""
    arms = np.arange(3990, 4100, 0.25), np.arange(4100 - 0.25 + width, 4310, 0.25)
    found = SMALL.to_grid(make_spectrum(wavelength=np.concatenate(arms)))
    inside = (arms[0][-1] + 1e-6 < GRID) & (arms[1][0] - 1e-6 > GRID)
    is_gap = width > 5 * 0.25  # as for patches, which begin anew behind it
    assert found.good[~inside].all() and (found.good[inside] == (not is_gap)).all()


def test_resampling_takes_nothing_from_under_bad_pixels():
    wavelength = np.arange(3990.0, 4310, 0.9)
    processor = SpecformerProcessor(**SETTINGS, resample=True)
    patches = []
    for garbage in (0.0, 1e30, np.nan):
        spectrum = make_spectrum(wavelength=wavelength)
        spectrum.mask[100:130] = True
        spectrum.flux[100:130] = garbage
        patches.append(processor.patch(spectrum))
    for other in patches[1:]:
        for name, values in patches[0].items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)


def test_resampling_onto_the_grid_it_has_changes_nothing():
    spectrum = half_bad()
    resampling = SpecformerProcessor(**SETTINGS, resample=True)
    for name, values in SMALL.patch(spectrum).items():
        np.testing.assert_allclose(resampling.patch(spectrum)[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def test_air_wavelengths_are_converted_before_the_grid_is_asked():
    spectrum = make_spectrum(wavelength=vacuum_to_air(GRID), medium="air")
    expected = SMALL.patch(make_spectrum())
    found = SMALL.patch(spectrum)
    np.testing.assert_allclose(found["flux"], expected["flux"], atol=1e-6)
    np.testing.assert_allclose(found["wavelength"], expected["wavelength"], rtol=1e-6)
    with pytest.raises(ValueError, match="resample=True"):
        SMALL.patch(make_spectrum(medium="air"))
    resampled = SMALL.to_grid(make_spectrum(medium="air"))
    assert resampled.medium == "vacuum"
    expected, _ = slow_resample(make_spectrum(wavelength=air_to_vacuum(GRID)), GRID)
    np.testing.assert_allclose(resampled.flux[resampled.good], expected[resampled.good], rtol=1e-5)


@pytest.mark.parametrize("unit", [None, DESI_UNIT, "1E-17 erg/cm^2/s/Ang", "1e-17 erg s-1 cm-2 Angstrom-1"])
def test_flux_in_desis_unit_or_in_none_that_is_said_is_taken(unit):
    assert SMALL.patch(make_spectrum(flux_unit=unit))["num_patches"] == 19


def test_the_unit_of_our_desi_spectra_is_taken():
    spectrum = simulate_survey("desi", 1, seed=1101)[0]
    assert PROCESSOR.patch(spectrum)["num_patches"] == 777


@pytest.mark.parametrize("unit", ["erg/s/cm2/A", "counts"])
def test_flux_in_another_unit_is_refused(unit):
    """The level is an input: the same spectrum in another unit would be another one."""
    with pytest.raises(ValueError, match=rf"1e-17.*found.*{unit}"):
        SMALL(make_spectrum(flux_unit=unit))


# Back to spectra


def test_a_perfect_reconstruction_is_the_input_but_for_pixels_in_no_patch():
    spectra = [HARD_CASES[name] for name in ("plain", "constant", "negative", "faint: deviation below 0.2")]
    batch = SMALL(spectra, return_tensors="pt")
    back = SMALL.post_process_reconstruction(
        {"reconstruction": batch["flux"], "coverage": batch["pixel_mask"]}, spectra
    )
    for before, after in zip(spectra, back, strict=True):
        np.testing.assert_allclose(after.flux[:200], before.flux[:200], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(after.wavelength, before.wavelength)
        assert after.mask.tolist() == [False] * 200 + [True] * 3  # 19 patches end with pixel 200


def test_a_truth_is_normalised_as_the_flux_is():
    spectrum = simulate_survey("desi", 1, seed=1101, snr=10)[0]
    truth = PROCESSOR.patch_pixels(spectrum, PROCESSOR.normalize(spectrum, spectrum.truth))
    inputs = PROCESSOR.patch(spectrum)
    good = inputs["pixel_mask"] > 0
    noise = PROCESSOR.patch_pixels(spectrum, (spectrum.flux - spectrum.truth) / spectrum.error)
    expected = (noise * inputs["error"])[good]
    np.testing.assert_allclose((inputs["flux"] - truth)[good], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1


# Settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_overlap": 11}, "at most half of patch_size=20, found 11"),
        ({"patch_size": 8}, "at most half of patch_size=8, found 10"),
        ({"medium": "water"}, "medium"),
        ({"grid_step": 0.0}, "grid_step"),
        ({"grid_step": -0.8}, "grid_step"),
        ({"grid_size": 19}, "grid_size"),
        ({"grid_start": 0.0}, "grid_start"),
    ],
)
def test_settings_that_do_not_exist_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpecformerProcessor(**arguments)


def test_misspelt_settings_are_warned_about():
    with pytest.warns(UserWarning, match="SpecformerProcessor does not know resampel"):
        SpecformerProcessor(resampel=True)


def test_saved_settings_come_back(tmp_path):
    processor = SpecformerProcessor(16, 6, medium="air", **SETTINGS, resample=True, on_invalid="mask")
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "processing_specformer.py").exists()
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["feature_extractor_type"] == "SpecformerProcessor"
    assert saved["auto_map"]["AutoProcessor"] == "processing_specformer.SpecformerProcessor"
    assert [saved[name] for name in SETTINGS] == list(SETTINGS.values()) and saved["resample"] is True
    assert "gap_factor" not in saved or saved["gap_factor"] is None
    SpecformerConfig(patch_size=16, patch_overlap=6).save_pretrained(tmp_path)
    for auto in (AutoProcessor, AutoFeatureExtractor, SpecformerProcessor):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is SpecformerProcessor and loaded.to_dict() == processor.to_dict()
    np.testing.assert_array_equal(loaded.patch(make_spectrum())["flux"], processor.patch(make_spectrum())["flux"])


def test_real_desi_spectra_are_on_the_grid(spectra_dir):
    pytest.importorskip("astropy")
    from spectok_hf import read_spectra

    paths = sorted(spectra_dir.rglob("*coadd*.fits*"))
    if not paths:
        pytest.skip("no coadded DESI file among the real spectra")
    spectra = [spectrum for spectrum in read_spectra(paths[0])[:20] if spectrum.good.any()]
    batch = PROCESSOR(spectra, on_invalid="mask", return_tensors="np")
    assert batch["flux"].shape[1:] == (777, 20) and np.isfinite(batch["flux"]).all()
    seen = batch["attention_mask"].sum(1) > 700
    assert seen.any() and (np.abs(batch["flux"][seen].mean((1, 2))) < 0.2).all()
