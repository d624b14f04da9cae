"""`plot_reconstruction`: what is drawn, and where."""

import sys

import numpy as np
import pytest

from spectok_hf import Spectrum, plot_reconstruction
from spectok_hf.analysis.plots import BAD_COLOR

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

BAD = [0, 1, 2, 10, 30, 31]  # runs: at the start, one pixel, and one that ends at the gap
GAP = 32  # first pixel behind the gap


def make_spectrum(bad=BAD, **fields):
    """Two arms of 1 Å pixels, 200 Å apart."""
    wavelength = np.concatenate([5000.0 + np.arange(GAP), 5231.0 + np.arange(40)])
    flux = 10 + np.sin(np.arange(72) / 5)
    return Spectrum(flux, wavelength, np.full(72, 4.0), mask=np.isin(np.arange(72), bad), **fields)


def make_reconstruction(spectrum, offset=1.0, mask=None):
    return Spectrum(spectrum.flux - offset, spectrum.wavelength, np.zeros(len(spectrum)), mask=mask)


@pytest.fixture
def axes():
    figure, axes = plt.subplots(2, 1)
    yield axes[0], axes[1]
    plt.close(figure)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def data_lines(axis):
    """What was drawn along the wavelength axis: not the entries of the legend, nor the line at 0."""
    return [line for line in axis.get_lines() if len(line.get_xdata()) > 2]


def shaded(axis):
    return [patch.get_bbox().intervalx for patch in axis.patches]


def test_it_draws_on_the_axes_given_and_returns_them(axes):
    spectrum = make_spectrum()
    count = len(plt.get_fignums())
    returned = plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    assert returned[0] is axes[0] and returned[1] is axes[1]
    assert len(plt.get_fignums()) == count


def test_it_makes_a_figure_of_its_own():
    spectrum = make_spectrum()
    flux_axis, residual_axis = plot_reconstruction(spectrum, make_reconstruction(spectrum))
    assert flux_axis.figure is residual_axis.figure
    flux_axis.set_xlim(5000, 5010)
    assert residual_axis.get_xlim() == (5000, 5010)
    flux_axis.figure.canvas.draw()


def test_no_line_crosses_a_gap(axes):
    spectrum = make_spectrum()
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    for axis, count in zip(axes, (4, 2), strict=True):  # flux and reconstruction; residual
        lines = data_lines(axis)
        assert len(lines) == count
        assert {(line.get_xdata()[0], line.get_xdata()[-1]) for line in lines} == {(5000, 5031), (5231, 5270)}
        assert all(np.diff(line.get_xdata()).max() < 2 for line in lines)


def test_bad_pixels_are_not_drawn_but_shaded(axes):
    spectrum = make_spectrum()
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    observed, reconstruction = data_lines(axes[0])[:2]
    np.testing.assert_array_equal(np.isnan(observed.get_ydata()), ~spectrum.good[:GAP])
    assert np.isfinite(reconstruction.get_ydata()).all()
    for axis in axes:
        assert {matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axis.patches} == {
            matplotlib.colors.to_hex(BAD_COLOR)
        }
        # Half a pixel beyond the run, also where it ends at a gap.
        np.testing.assert_allclose(shaded(axis), [(4999.5, 5002.5), (5009.5, 5010.5), (5029.5, 5031.5)])


def test_a_bad_pixel_beside_a_gap_shades_no_good_pixel(axes):
    spectrum = make_spectrum([GAP - 1])
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    (left, right) = shaded(axes[0])[0]
    inside = (spectrum.wavelength > left) & (spectrum.wavelength < right)
    np.testing.assert_array_equal(inside, ~spectrum.good)


def test_residuals_are_in_sigma(axes):
    spectrum = make_spectrum()
    plot_reconstruction(spectrum, make_reconstruction(spectrum, offset=1.0), axes=axes)
    residual = np.concatenate([line.get_ydata() for line in data_lines(axes[1])])
    np.testing.assert_allclose(residual[spectrum.good], 2.0, rtol=1e-5)  # 1 / 0.5
    assert np.isnan(residual[~spectrum.good]).all()
    assert "= 4.00" in axes[0].get_title(loc="left")  # chi2 per pixel


def test_what_was_not_observed_is_not_reconstructed(axes):
    spectrum = make_spectrum()
    uncovered = np.arange(72) >= 60
    plot_reconstruction(spectrum, make_reconstruction(spectrum, mask=uncovered), axes=axes)
    reconstruction = np.concatenate([line.get_ydata() for line in data_lines(axes[0])[1::2]])
    np.testing.assert_array_equal(np.isnan(reconstruction), uncovered)


def test_labels_say_what_it_is(axes):
    spectrum = make_spectrum(survey="desi", object_id="42", flux_unit="nJy", medium="air", frame="rest")
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    assert axes[0].get_title(loc="left").startswith("desi 42")
    assert axes[0].get_ylabel() == "flux [nJy]"
    assert axes[1].get_xlabel() == "wavelength [Å, air, rest frame]"
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert texts == [r"observed $\pm 1\sigma$", "reconstruction", "bad pixels"]


def test_one_wild_pixel_does_not_set_the_scale(axes):
    wavelength = 5000.0 + np.arange(2000)
    flux = np.where(np.arange(2000) == 700, 1e6, 10.0)
    spectrum = Spectrum(flux, wavelength, np.ones(2000))
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    low, high = axes[0].get_ylim()
    assert 5 < low < 9 and 10 < high < 15


@pytest.mark.parametrize("length", [1, 2, 72])
def test_all_bad_and_short_spectra_can_be_drawn(length):
    spectrum = Spectrum(np.ones(length), 5000.0 + np.arange(length), np.zeros(length))
    axes = plot_reconstruction(spectrum, make_reconstruction(spectrum))
    axes[0].figure.canvas.draw()
    assert len(axes[0].patches) == 1
    assert "chi" not in axes[0].get_title(loc="left")


def test_another_grid_is_refused(axes):
    spectrum = make_spectrum()
    shorter = Spectrum(np.ones(70), spectrum.wavelength[:70], np.zeros(70))
    shifted = Spectrum(np.ones(72), spectrum.wavelength + 1, np.zeros(72))
    for other in (shorter, shifted):
        with pytest.raises(ValueError, match=r"must share a wavelength grid, found Spectrum\(.*and Spectrum\("):
            plot_reconstruction(spectrum, other, axes=axes)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    spectrum = make_spectrum()
    with pytest.raises(ImportError, match=r'pip install "spectok-hf\[plot\]"'):
        plot_reconstruction(spectrum, make_reconstruction(spectrum))


def test_a_narrow_emission_line_is_not_cut_off_where_a_spike_is(axes):
    wavelength = 5000.0 + np.arange(2000)
    line = 90 * np.exp(-0.5 * ((np.arange(2000) - 1200) / 1.3) ** 2)  # 3 pixels wide
    spike = np.where(np.arange(2000) == 700, 1e4, 0.0)
    spectrum = Spectrum(10 + line + spike, wavelength, np.ones(2000))
    clean = Spectrum(10 + line, wavelength, np.zeros(2000))
    plot_reconstruction(spectrum, clean, axes=axes)
    assert 60 < axes[0].get_ylim()[1] < 150


def test_pixels_of_wild_errors_do_not_set_the_scale(axes):
    wild = np.arange(2000) < 60
    flux = np.where(wild, 1e3 * np.sin(np.arange(2000)), 10.0)
    spectrum = Spectrum(flux, 5000.0 + np.arange(2000), np.where(wild, 1e-4, 1.0))
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    assert axes[0].get_ylim()[1] < 20


def test_a_line_of_many_pixels_that_stands_out_of_wild_errors_is_not_cut_off(axes):
    blue = np.arange(2000) < 100  # Lyα at a redshift of 2, where a spectrograph sees little
    line = 90 * np.exp(-0.5 * ((np.arange(2000) - 50) / 15) ** 2)
    sky = np.isin(np.arange(2000), range(1500, 1505))
    ivar = np.where(blue | sky, 1 / 36, 1.0)  # 6 times the error of the rest
    spectrum = Spectrum(10 + line + 500.0 * sky, 5000.0 + np.arange(2000), ivar)
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    assert 100 < axes[0].get_ylim()[1] < 150


def test_residuals_have_guides_and_those_beyond_an_arrow(axes):
    wavelength = 5000.0 + np.arange(2000)
    flux = 10 + np.where(np.arange(2000) == 700, 50.0, 0.0)
    spectrum = Spectrum(flux, wavelength, np.ones(2000))
    plot_reconstruction(spectrum, Spectrum(np.full(2000, 10.0), wavelength, np.zeros(2000)), axes=axes)
    guides = {line.get_ydata()[0] for line in axes[1].get_lines() if len(line.get_xdata()) == 2}
    assert guides == {-3, -1, 0, 1, 3}
    assert axes[1].get_ylim() == (-5, 5)
    below, above = axes[1].collections
    assert len(below.get_offsets()) == 0
    np.testing.assert_allclose(above.get_offsets()[:, 0], [5700.0])


def test_wide_gaps_are_compressed_and_pixels_stay_where_they_are(axes):
    spectrum = make_spectrum([])  # 72 pixels and a gap of 200 Å
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    for axis in axes:
        places = axis.transData.transform(np.stack([spectrum.wavelength, np.zeros(72)], -1))[:, 0]
        steps = np.diff(places)
        assert (steps > 0).all() and steps[GAP - 1] < 5 * np.median(steps)
        np.testing.assert_allclose(np.delete(steps, GAP - 1), np.median(steps), rtol=1e-3)
        ticks = axis.get_xticks()
        assert len(ticks) >= 3 and not ((ticks > 5031) & (ticks < 5231)).any()
    whole = Spectrum(np.ones(500), 5000.0 + np.arange(500), np.ones(500))
    assert plot_reconstruction(whole, make_reconstruction(whole))[0].get_xscale() == "linear"


def test_the_unit_of_the_surveys_is_written_out(axes):
    spectrum = make_spectrum(flux_unit="1e-17 erg/s/cm2/Angstrom")
    plot_reconstruction(spectrum, make_reconstruction(spectrum), axes=axes)
    assert axes[0].get_ylabel() == r"flux [$10^{-17}$ erg/s/cm$^2$/Angstrom]"
