"""`plot_contact_sheet`: real beside simulated."""

import numpy as np
import pytest

from spectok_hf import Spectrum
from spectok_hf.analysis.contact_sheet import SMOOTH_COLOR, plot_contact_sheet
from spectok_hf.analysis.plots import signal_to_noise

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def make_spectrum(scale=1.0, snr=30.0, bad=(), **fields):
    wavelength = 5000.0 + np.arange(200)
    flux = scale * (2 + np.sin(np.arange(200) / 9))
    error = np.median(flux) / snr
    return Spectrum(flux, wavelength, np.full(200, error**-2.0), mask=np.isin(np.arange(200), bad), **fields)


def test_pairs_share_their_axes_whatever_their_units():
    real, simulated = make_spectrum(50.0), make_spectrum(0.2)
    axes = plot_contact_sheet([real, real], [simulated, simulated])
    assert axes.shape == (2, 2)
    for left, right in axes:
        assert left.get_xlim() == right.get_xlim() and left.get_ylim() == right.get_ylim()
        np.testing.assert_allclose(left.get_lines()[0].get_ydata(), right.get_lines()[0].get_ydata(), rtol=1e-4)
    axes[0, 0].figure.canvas.draw()


def test_bad_pixels_are_left_out_and_only_noisy_spectra_smoothed():
    clean, noisy = make_spectrum(bad=(3, 4)), make_spectrum(snr=3.0, bad=(3, 4))
    left, right = plot_contact_sheet([clean], [noisy])[0]
    assert [len(axis.get_lines()) for axis in (left, right)] == [1, 2]
    for axis in (left, right):
        for line in axis.get_lines():
            np.testing.assert_array_equal(np.flatnonzero(np.isnan(line.get_ydata())), [3, 4])
    raw, smooth = right.get_lines()
    assert smooth.get_color() == SMOOTH_COLOR
    scale = np.nanmedian(noisy.flux[noisy.good])
    assert smooth.get_ydata()[50] == pytest.approx(noisy.flux[45:56].mean() / scale, rel=1e-4)
    assert raw.get_ydata()[50] == pytest.approx(noisy.flux[50] / scale, rel=1e-4)


def test_a_wild_bad_pixel_does_not_leak_into_the_smoothed_copy():
    noisy = make_spectrum(snr=3.0, bad=(60,))
    noisy.flux[60] = 1e8
    low, high = plot_contact_sheet([noisy], [noisy])[0, 1].get_ylim()
    assert -2 < low < high < 4


def test_titles_and_axes_say_what_it_is():
    labels = {"class": "STAR", "teff": 5777.0, "logg": 4.44, "feh": -0.5, "redshift": 0.0}
    real = make_spectrum(survey="galah", object_id="7", labels=labels, medium="air", flux_unit="counts")
    simulated = make_spectrum(survey="galah", labels={"class": "QSO", "redshift": 2.0}, medium="air")
    left, right = plot_contact_sheet([real], [simulated], window=(5050.0, 5100.0))[0]
    shown = np.median(real.flux[50:101])
    title = f"real: galah 7 STAR, 5777 K, log g 4.4, [Fe/H] -0.5, S/N 30, median {shown:.3g} counts"
    assert left.get_title(loc="left") == title
    assert right.get_title(loc="left") == "simulated: galah QSO, z 2.000, S/N 30"
    assert left.get_xlabel() == "wavelength [Å, air, observed frame]"
    assert left.figure.get_supylabel() == "flux / median"
    assert left.get_xlim() == (5050, 5100)


def test_labels_that_are_missing_are_left_out():
    labels = {"class": None, "teff": None, "logg": float("nan"), "feh": "-0.3", "redshift": None}
    axes = plot_contact_sheet([make_spectrum(labels=labels)], [make_spectrum()])
    assert axes[0, 0].get_title(loc="left") == "real: unnamed, [Fe/H] -0.3, S/N 30"


def test_given_axes_are_used():
    figure, given = plt.subplots(1, 2, squeeze=False)
    assert plot_contact_sheet([make_spectrum()], [make_spectrum()], axes=given) is given
    assert plt.get_fignums() == [figure.number]


def test_an_all_bad_spectrum_can_be_drawn():
    bad = make_spectrum(bad=range(200))
    assert signal_to_noise(bad) == 0
    plot_contact_sheet([bad], [make_spectrum()])[0, 0].figure.canvas.draw()


def test_unpaired_spectra_and_wrong_axes_are_refused():
    with pytest.raises(ValueError, match="found 0 real and 0 simulated"):
        plot_contact_sheet([], [])
    with pytest.raises(ValueError, match="found 1 real and 2 simulated"):
        plot_contact_sheet([make_spectrum()], [make_spectrum()] * 2)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), found \(2, 2\)"):
        plot_contact_sheet([make_spectrum()], [make_spectrum()], axes=plt.subplots(2, 2)[1])
