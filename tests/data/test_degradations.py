"""Degraded spectra: light, truth and errors change as another instrument's would."""

import pickle

import numpy as np
import pytest

from spectok_hf import Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.degradations import keep_range, keep_share, lower_resolution, rebin_pixels, shift_grid

CHANGES = {
    "resolution": lambda spectrum: lower_resolution(spectrum, 3.0, resolving_power=1000),
    "shift": lambda spectrum: shift_grid(spectrum, 0.5),
    "rebin": lambda spectrum: rebin_pixels(spectrum, 4),
    "range": lambda spectrum: keep_range(spectrum, 5100, 5300),
    "share": lambda spectrum: keep_share(spectrum, 0.5, end="red"),
}


def make_spectrum(flux=None, *, length=400, bad=(), truth=False, seed=0, **fields):
    """Pixels of 1 Å from 5000 Å with white noise of 0.1, and 200 Å without any in the middle."""
    wavelength = 5000.0 + np.arange(length) + np.where(np.arange(length) >= length // 2, 200.0, 0.0)
    clean = 5 + np.sin(np.arange(length) / 7) if flux is None else np.asarray(flux, dtype=float)
    noisy = clean + 0.1 * np.random.default_rng(seed).normal(size=length)
    mask = np.isin(np.arange(length), bad)
    return Spectrum(noisy, wavelength, np.full(length, 100.0), mask=mask, truth=clean if truth else None, **fields)


@pytest.mark.parametrize("power", [0, -2000.0, float("nan")])
def test_an_impossible_resolving_power_is_refused(power):
    with pytest.raises(ValueError, match="resolving_power must be positive"):
        lower_resolution(make_spectrum(), 2, resolving_power=power)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("truth", [False, True])
def test_the_result_is_a_spectrum_and_the_given_one_stays(name, truth):
    spectrum = make_spectrum(truth=truth, bad=(3, 250), survey="sdss", object_id="1", labels={"teff": 5000.0})
    before = pickle.dumps(spectrum)
    changed = CHANGES[name](spectrum)
    assert pickle.dumps(spectrum) == before
    again = Spectrum(**{key: value for key, value in vars(changed).items() if key != "dropped"})  # it is checked there
    assert (
        len(again) == len(changed)
        and (again.good == changed.good).all()
        and not again.dropped.keys() - {"ivar = 0 (no information)"}
    )
    assert (changed.truth is not None) == truth
    assert {changed.flux.dtype, changed.ivar.dtype} == {np.dtype(np.float32)}
    assert (changed.survey, changed.object_id, changed.labels["teff"]) == ("sdss", "1", 5000.0)
    assert changed.labels.keys() - {"teff"} == ({"resolving_power"} if "resolution" in name else set())


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("garbage", [1e30, np.nan, np.inf])
@pytest.mark.parametrize("truth", [False, True])
def test_nothing_leaks_from_a_bad_pixel(name, garbage, truth):
    spectrum = make_spectrum(bad=[*range(120, 130), *range(300, 310)], truth=truth)
    spoiled = pickle.loads(pickle.dumps(spectrum))
    spoiled.flux[spoiled.mask] = garbage
    expected, found = CHANGES[name](spectrum), CHANGES[name](spoiled)
    good = expected.good
    assert np.array_equal(good, found.good) and good.any() and not good.all()
    for column in ("flux", "ivar"):
        np.testing.assert_array_equal(getattr(expected, column)[good], getattr(found, column)[good])


@pytest.mark.parametrize("name", CHANGES)
def test_errors_are_honest_with_and_without_a_truth(name):
    for truth in (False, True):
        spectra = [CHANGES[name](make_spectrum(truth=truth, seed=seed)) for seed in range(300)]
        flux = np.stack([spectrum.flux for spectrum in spectra])
        scatter = flux.std(0) if not truth else (flux - spectra[0].truth).std(0)
        assert np.mean(scatter / spectra[0].error) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", CHANGES)
def test_truth_changes_as_the_light_does(name):
    mean = np.mean([CHANGES[name](make_spectrum(seed=seed)).flux for seed in range(300)], axis=0)
    np.testing.assert_allclose(CHANGES[name](make_spectrum(truth=True)).truth, mean, atol=0.03)


@pytest.mark.parametrize("name", ["resolution", "shift", "rebin"])
def test_noise_about_a_truth_stays_white(name):
    spectrum = CHANGES[name](make_spectrum(length=15_000, truth=True, flux=np.full(15_000, 5.0)))
    pull = (spectrum.flux - spectrum.truth) / spectrum.error
    assert pull.std() == pytest.approx(1, abs=0.04) and abs(np.mean(pull[1:] * pull[:-1])) < 0.04


@pytest.mark.parametrize("truth", [False, True])
def test_a_line_gets_as_wide_as_the_lower_resolution_says(truth):
    pixels = np.arange(400)
    sigma = 5100 / 2000 / 2.3548  # Å, of a line that R = 2000 leaves
    flux = 1 + np.exp(-0.5 * ((pixels - 100) / sigma) ** 2)
    spectrum = make_spectrum(flux, truth=True)
    if not truth:
        spectrum.flux, spectrum.truth = spectrum.truth, None
    wide = lower_resolution(spectrum, 4.0, resolving_power=2000)
    excess = (wide.truth if truth else wide.flux)[:200].astype(float) - 1
    width = np.sqrt(np.sum(excess * (pixels[:200] - 100) ** 2) / excess.sum())
    assert width == pytest.approx(4 * sigma, rel=0.02)
    assert excess.sum() == pytest.approx(flux[:200].sum() - 200, rel=0.01)


def test_noise_can_make_up_for_what_was_smeared_out():
    spectra = [make_spectrum(seed=seed, bad=(5,)) for seed in range(300)]
    rngs = [np.random.default_rng([7, seed]) for seed in range(300)]
    found = [lower_resolution(s, 3.0, resolving_power=1000, rng=rng) for s, rng in zip(spectra, rngs, strict=True)]
    good = spectra[0].good
    np.testing.assert_allclose(found[0].error[good], 0.1, rtol=1e-5)
    noise = np.stack([s.flux for s in found])[:, good]
    assert np.mean(noise.std(0)) == pytest.approx(0.1, rel=0.02)
    residual = noise - noise.mean(0)
    assert np.mean(residual[:, 1:] * residual[:, :-1]) / 0.01 < 0.15  # 0.95 without
    assert found[0].flux[5] == spectra[0].flux[5]
    with_truth = make_spectrum(truth=True)
    same = [lower_resolution(with_truth, 3.0, resolving_power=1000, rng=rng).flux for rng in (None, rngs[0])]
    np.testing.assert_array_equal(*same)


def test_the_resolving_power_is_the_survey_s():
    spectrum = simulate_survey("lamost", 1)[0]
    known, given = lower_resolution(spectrum, 2.0), lower_resolution(spectrum, 2.0, resolving_power=1800)
    np.testing.assert_array_equal(known.flux, given.flux)
    with pytest.raises(ValueError, match="of survey 'mine' is not known: pass resolving_power="):
        lower_resolution(make_spectrum(survey="mine"), 2.0)


def test_nothing_crosses_a_gap():
    flux = np.where(np.arange(400) < 200, 1.0, 9.0)
    for name in ("resolution", "shift"):
        spectrum = CHANGES[name](make_spectrum(flux, truth=True))
        assert set(np.round(spectrum.truth, 5)) == {1.0, 9.0}
    coarse = rebin_pixels(make_spectrum(flux, truth=True), 3)  # 200 = 3 x 66 + 2: the remainder is lost
    assert set(coarse.truth) == {1.0, 9.0} and len(coarse) == 132


def test_wide_pixels_are_means_of_good_ones():
    spectrum = make_spectrum(bad=(0, 4, 5, 6), truth=True)
    coarse = rebin_pixels(spectrum, 4)
    assert coarse.flux[0] == pytest.approx(spectrum.flux[1:4].mean(), rel=1e-6)
    assert coarse.truth[0] == pytest.approx(spectrum.truth[1:4].mean(), rel=1e-6)
    assert coarse.error[0] == pytest.approx(0.1 / np.sqrt(3), rel=1e-6)
    assert coarse.error[2] == pytest.approx(0.05, rel=1e-6)
    assert coarse.good.tolist()[:3] == [True, False, True]
    assert coarse.wavelength[1] == 5005.5


def test_a_shifted_grid_lies_between_the_pixels():
    straight = np.arange(400.0)
    spectrum = make_spectrum(straight, truth=True)
    moved = shift_grid(spectrum, 0.25)
    np.testing.assert_allclose(moved.wavelength[:199], spectrum.wavelength[:199] + 0.25)
    np.testing.assert_allclose(moved.truth[:199], straight[:199] + 0.25, rtol=1e-6)
    assert len(moved) == 398
    bad = shift_grid(make_spectrum(bad=(7,)), 0.25)
    assert np.flatnonzero(~bad.good).tolist() == [6, 7]


def test_ranges_are_cut_at_wavelengths():
    spectrum = make_spectrum()
    assert keep_range(spectrum, 5010, 5020).wavelength.tolist() == list(range(5010, 5021))
    blue, red = (keep_share(spectrum, 0.25, end=end).wavelength for end in ("blue", "red"))
    assert blue[0] == 5000 and blue[-1] <= 5000 + 599 / 4 < blue[-1] + 1
    assert red[-1] == 5599 and red[0] >= 5599 - 599 / 4 > red[0] - 1
    assert len(keep_share(spectrum, 1.0)) == 400


def test_nothing_to_change_gives_the_spectrum_itself():
    spectrum = make_spectrum()
    for same in (lower_resolution(spectrum, 1), shift_grid(spectrum, 0), rebin_pixels(spectrum, 1)):
        assert same is spectrum


def test_the_model_s_processor_takes_them():
    spectrum = simulate_survey("apogee", 1)[0]
    for change in (lambda s: lower_resolution(s, 8), lambda s: rebin_pixels(s, 4), lambda s: keep_share(s, 0.25)):
        assert SpectrumProcessor().patch(change(spectrum))["attention_mask"].any()


def test_what_makes_no_sense_is_refused():
    spectrum = make_spectrum()
    with pytest.raises(ValueError, match=r"factor must be 1 or more, found 0.5"):
        lower_resolution(spectrum, 0.5)
    with pytest.raises(ValueError, match=r"pixels must be at least 0 and below 1, found 1.5"):
        shift_grid(spectrum, 1.5)
    with pytest.raises(ValueError, match=r"count must be a positive integer, found 2.5"):
        rebin_pixels(spectrum, 2.5)
    with pytest.raises(ValueError, match="count must leave a pixel, found 1000"):
        rebin_pixels(spectrum, 1000)
    with pytest.raises(ValueError, match="no pixel lies between 6000 and 7000 Å"):
        keep_range(spectrum, 6000, 7000)
    with pytest.raises(ValueError, match="share must be above 0"):
        keep_share(spectrum, 0.0)
    with pytest.raises(ValueError, match="a shift needs two neighbouring pixels"):
        shift_grid(keep_range(spectrum, 5000, 5000), 0.5)
