"""`binned_flux`, the plain classifier and its tables."""

import sys

import numpy as np
import pytest

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.evaluation.classification import (
    CLASSES,
    RANGE,
    binned_flux,
    confusion_rows,
    plain_classifier,
    running_median,
)
from spectok_hf.models.wavelength import vacuum_to_air

WAVELENGTH = np.geomspace(3850.0, 9050.0, 4000)
LINE = 1 + 2 * np.exp(-0.5 * ((WAVELENGTH - 6000) / 30) ** 2)


def make_spectrum(flux=LINE, wavelength=WAVELENGTH, bad=None, **fields):
    ivar = fields.pop("ivar", np.full(len(flux), 400.0))
    return Spectrum(flux, wavelength, ivar, mask=bad, object_id="a", **fields)


def test_shape_and_the_line_over_the_continuum():
    features = binned_flux([make_spectrum(), make_spectrum(np.ones(4000))], bins=300)
    assert features.shape == (2, 300) and features.dtype == np.float32
    peak = np.geomspace(3900, 9000, 301)[features[0].argmax()]
    assert abs(peak - 6000) < 30 and features[0].max() == pytest.approx(3.0, abs=0.05)
    np.testing.assert_allclose(features[1], 1.0, atol=1e-6)


def test_scale_and_slope_of_the_flux_tell_nothing():
    slope = (WAVELENGTH / 6000) ** -1.5
    plain, other = make_spectrum(), make_spectrum(1e4 * slope * LINE, ivar=400.0 / (1e4 * slope) ** 2)
    features = binned_flux([plain, other])
    np.testing.assert_allclose(features[0], features[1], atol=0.1)


def test_bad_pixels_may_hold_anything():
    bad = np.arange(4000) % 7 == 0
    features = [binned_flux([make_spectrum(np.where(bad, garbage, LINE), bad=bad)]) for garbage in (0.0, np.nan, 1e6)]
    np.testing.assert_array_equal(features[0], features[1])
    np.testing.assert_array_equal(features[0], features[2])


def test_a_gap_looks_like_the_continuum_and_can_be_shown():
    bad = (WAVELENGTH > 7000) & (WAVELENGTH < 7500)
    spectrum = make_spectrum(bad=bad)
    centres = np.geomspace(3900, 9000, 601)[:-1]
    gap = (centres > 7020) & (centres < 7460)
    assert (binned_flux([spectrum])[0, gap] == 1).all()
    shown = binned_flux([spectrum], fill=np.nan)[0]
    assert np.isnan(shown[gap]).all() and np.isfinite(shown[centres < 6900]).all()


def test_pixels_count_by_their_inverse_variance():
    noisy = np.arange(4000) % 2 == 0
    flux = np.where(noisy, 3 * LINE, LINE)
    features = binned_flux([make_spectrum(), make_spectrum(flux, ivar=np.where(noisy, 1e-3, 400.0))])
    np.testing.assert_allclose(
        features[0], features[1], atol=0.05
    )  # not 1: the noisy pixels are at three times the flux


def test_air_is_converted():
    air = make_spectrum(wavelength=vacuum_to_air(WAVELENGTH), medium="air")
    np.testing.assert_allclose(*binned_flux([make_spectrum(), air]), atol=1e-6)


def test_noise_stays_finite_and_in_range():
    noise = np.random.default_rng(0).normal(size=4000)
    features = binned_flux([make_spectrum(noise, ivar=np.ones(4000))])
    assert np.isfinite(features).all()
    assert RANGE[0] <= features.min() and features.max() <= RANGE[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spectra": []}, "at least one, found none"),
        ({"spectra": make_spectrum()}, "found a single Spectrum: put it into a list"),
        ({"spectra": [np.ones(3)]}, "found ndarray"),
        ({"bins": 1}, "bins must be at least 10, found 1"),
        ({"window": (9000, 3900)}, "in ascending order"),
        ({"continuum_width": 0.0}, "must be positive"),
        ({"spectra": [make_spectrum(bad=WAVELENGTH > 4500)]}, r"^a has good pixels in 103 of 600 bins from 3900"),
        ({"window": (15_000, 17_000)}, "good pixels in 0 of 600 bins"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    arguments = {"spectra": [make_spectrum()]} | arguments
    with pytest.raises(ValueError, match=message):
        binned_flux(**arguments)


def test_running_median_skips_what_is_missing():
    values = np.array([1.0, np.nan, 3.0, 100.0, 5.0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(running_median(values, 1), [1.0, 2.0, 51.5, 5.0, 52.5, 5.0, 4.0, 4.0])


def test_it_separates_simulated_classes():
    pytest.importorskip("sklearn")
    spectra = [s for kind in CLASSES for s in simulate_survey("sdss", 40, snr=(15, 60), kind=kind)]
    labels = np.array([spectrum.labels["class"] for spectrum in spectra])
    features, held_out = binned_flux(spectra, bins=200), np.arange(len(spectra)) % 3 == 0
    classifier = plain_classifier(trees=60).fit(features[~held_out], labels[~held_out])
    assert list(classifier.classes_) == list(CLASSES)
    assert (classifier.predict(features[held_out]) == labels[held_out]).mean() > 0.8


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ImportError, match=r'pip install "spectok-hf\[train\]"'):
        plain_classifier()


def test_confusion_rows_count_by_group():
    truth, predicted = ["STAR", "STAR", "QSO", "STAR"], ["STAR", "QSO", "QSO", "GALAXY"]
    rows = confusion_rows(truth, predicted, ["a", "a", "a", "b"])
    assert [(row["group"], row["class"], row["spectra"]) for row in rows] == [
        ("a", "QSO", 1), ("a", "STAR", 2), ("a", "all", 3), ("b", "STAR", 1), ("b", "all", 1)
    ]  # fmt: skip
    assert (rows[1]["as QSO"], rows[1]["as STAR"], rows[1]["right"]) == (1, 1, 0.5)
    assert rows[2]["right"] == rows[2]["majority class"] == pytest.approx(2 / 3)
    assert (rows[4]["right"], rows[4]["majority class"]) == (0, 1)


def test_confusion_rows_refuse_unequal_lengths_and_unknown_classes():
    with pytest.raises(ValueError, match="found 1, 2, 1"):
        confusion_rows(["STAR"], ["STAR", "QSO"], ["a"])
    with pytest.raises(ValueError, match="found PLANET"):
        confusion_rows(["STAR"], ["PLANET"], ["a"])
