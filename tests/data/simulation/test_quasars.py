"""Quasars: broad lines, iron, absorption, and the forest's mean transmission."""

import numpy as np
import pytest

from spectok_hf.data.simulation.instrument import make_instrument
from spectok_hf.data.simulation.nebular_lines import (
    LYMAN_ALPHA,
    OPTICAL_IRON,
    QUASAR_LINES,
    ULTRAVIOLET_IRON,
    parse_multiplets,
)
from spectok_hf.data.simulation.quasars import lyman_transmission, quasar
from spectok_hf.data.simulation.recipes import RECIPES

AXIS = np.exp(np.arange(np.log(3600.0), np.log(10_000.0), 2.3e-4))
RESOLUTION = np.full(len(AXIS), 70.0)


def draw(count, survey="boss"):
    instrument, recipe = make_instrument(survey), RECIPES[survey]
    for seed in range(count):
        flux, labels = quasar(np.random.default_rng(seed), instrument, recipe)
        yield instrument.axis / (1 + labels["redshift"]), flux, labels


@pytest.fixture(scope="module")
def composite():
    """Median of quasars between z = 1.6 and 2.4 in the rest frame, 1 at 1700 Å."""
    grid = np.arange(1260.0, 2900.0, 1.0)
    spectra = [(axis, flux) for axis, flux, labels in draw(150) if 1.9 < labels["redshift"] < 2.5]
    rows = [np.interp(grid, axis, flux) / np.interp(1700, axis, flux) for axis, flux in spectra]
    return grid, np.median(rows, axis=0)


def excess(axis, flux, low, high, blue, red):
    """Equivalent width of what stands above a line between two windows."""
    inside = (axis > low) & (axis < high)
    levels = [np.median(flux[(axis > window[0]) & (axis < window[1])]) for window in (blue, red)]
    level = np.interp(axis[inside], [np.mean(blue), np.mean(red)], levels)
    return np.trapezoid(flux[inside] / level - 1, axis[inside])


def transmission(redshift, low=1050.0, high=1170.0, count=60):
    inside = (low * (1 + redshift) < AXIS) & (high * (1 + redshift) > AXIS)
    rows = [lyman_transmission(np.random.default_rng(s), AXIS, RESOLUTION, redshift)[inside] for s in range(count)]
    return AXIS[inside], np.array(rows)


@pytest.mark.parametrize(
    ("low", "high", "blue", "red", "expected"),
    [
        (1350, 1450, (1340, 1352), (1445, 1465), (5, 16)),  # Si IV, O IV]
        (1500, 1600, (1445, 1465), (1690, 1710), (18, 50)),  # C IV
        (1840, 1960, (1780, 1810), (1990, 2010), (15, 35)),  # C III], Al III
        (2740, 2860, (2690, 2715), (2880, 2895), (20, 45)),  # Mg II
    ],
)
def test_broad_lines_are_as_strong_as_in_real_composites(composite, low, high, blue, red, expected):
    assert expected[0] < excess(*composite, low, high, blue, red) < expected[1]


def test_broad_lines_peak_where_they_belong(composite):
    grid, flux = composite
    for rest, blueward, redward in ((1549.1, 10, 3), (1908.7, 12, 4), (2798.8, 5, 5)):
        near = (grid > rest - 40) & (grid < rest + 40)
        assert rest - blueward < grid[near][np.argmax(flux[near])] < rest + redward


def test_the_continuum_is_a_blue_power_law(composite):
    grid, flux = composite
    slope = np.log(np.interp(2200, grid, flux) / np.interp(1455, grid, flux)) / np.log(2200 / 1455)
    assert -1.9 < slope < -1.2  # Vanden Berk et al. 2001: -1.56


def test_iron_is_dozens_of_lines_where_iron_shines():
    ultraviolet, shares = parse_multiplets(ULTRAVIOLET_IRON)
    assert len(ultraviolet) > 60 and shares.sum() == pytest.approx(1)
    assert shares[(ultraviolet > 2200) & (ultraviolet < 3010)].sum() > 0.75
    optical, shares = parse_multiplets(OPTICAL_IRON)
    assert len(optical) > 40 and shares[(optical > 4400) & (optical < 5450)].sum() > 0.7
    gap = (optical > 4740) & (optical < 4920)
    assert not gap.any()  # H beta stands between two bumps


def test_quasars_differ_in_width_and_lines_share_it():
    widths = []
    for axis, flux, labels in draw(80):
        if 0.5 < labels["redshift"] < 2.2:
            near = np.abs(axis - 2798.8) < 60
            above = flux[near] - np.interp(axis[near], axis[near][[0, -1]], flux[near][[0, -1]])
            half = axis[near][above > above.max() / 2]
            widths.append(np.ptp(half) / 2798.8 * 299_792)
    assert np.percentile(widths, 5) > 1000 and np.percentile(widths, 95) < 9000
    assert np.percentile(widths, 84) > 1.3 * np.percentile(widths, 16)


@pytest.mark.parametrize("redshift", [2.2, 2.7, 3.3, 3.9])
def test_the_forest_lets_through_what_was_measured(redshift):
    axis, rows = transmission(redshift)
    expected = np.exp(-0.0018 * (axis / LYMAN_ALPHA) ** 3.92).mean()  # Faucher-Giguere et al. 2008, ApJ 681, 831
    assert np.median(rows.mean(axis=1)) == pytest.approx(expected, abs=0.025)
    assert 0.10 < rows.std() / rows.mean() < 0.65


def test_the_forest_thickens_with_redshift_and_varies_between_lines_of_sight():
    means = [transmission(redshift)[1].mean() for redshift in (2.2, 2.8, 3.4, 4.0)]
    assert (np.diff(means) < -0.04).all()
    rows = transmission(3.0)[1]
    assert np.corrcoef(rows[0], rows[1])[0, 1] < 0.3


def test_lyman_beta_and_the_limit_take_their_share():
    beta = transmission(3.5, 980, 1020)[1].mean()
    same_gas = np.exp(-0.0018 * (1000 / LYMAN_ALPHA * 4.5) ** 3.92)  # Lyman alpha alone
    assert 0.6 * same_gas < beta < 0.97 * same_gas
    beyond = transmission(3.9, 800, 850)[1].mean()
    assert beyond < 0.6 * transmission(3.9, 920, 945)[1].mean()


def test_nothing_is_absorbed_redward_of_lyman_alpha():
    for seed in range(20):
        through = lyman_transmission(np.random.default_rng(seed), AXIS, RESOLUTION, 3.0)
        assert through.min() >= 0 and through.max() <= 1
        assert through[AXIS > 1.03 * LYMAN_ALPHA * 4.0].min() > 0.9  # damping wings apart
    np.testing.assert_array_equal(lyman_transmission(np.random.default_rng(0), AXIS, RESOLUTION, 1.5), 1.0)


def test_some_quasars_have_troughs_and_doublets():
    troughs = doublets = seen = 0
    for axis, flux, labels in draw(200):
        if 1.7 < labels["redshift"] < 3.5:
            seen += 1
            near = (axis > 1420) & (axis < 1530)
            troughs += flux[near].min() < 0.6 * np.median(flux[near])
            beyond = (axis > 1700) & (axis < 2700)
            doublets += (flux[beyond][2:-2] < 0.9 * np.minimum(flux[beyond][:-4], flux[beyond][4:])).any()
    assert 0.04 < troughs / seen < 0.35 and 0.05 < doublets / seen < 0.7


@pytest.mark.parametrize("survey", ["sdss", "boss", "desi", "lamost"])
def test_every_quasar_is_finite_and_its_redshift_in_range(survey):
    low, high = RECIPES[survey].quasar_redshift
    for axis, flux, labels in draw(60, survey):
        assert flux.shape == axis.shape and np.isfinite(flux).all() and flux.min() >= 0
        assert list(labels) == ["redshift"] and low <= labels["redshift"] <= high


def test_the_same_seed_gives_the_same_quasar():
    (_, first, _), (_, second, _) = next(draw(1)), next(draw(1))
    np.testing.assert_array_equal(first, second)


def test_no_broad_line_is_listed_with_a_wavelength_in_air():
    assert {round(line) for line in QUASAR_LINES[:, 0]} >= {1216, 1549, 1909, 2799, 4863, 6565}
