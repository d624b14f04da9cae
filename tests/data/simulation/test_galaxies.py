"""Galaxies: ratios of lines, the break at 4000 Å, dust, and labels that the spectrum knows of."""

import numpy as np
import pytest

from spectok_hf.data.simulation.galaxies import (
    GRID,
    POPULATIONS,
    calzetti,
    cosmic_age,
    draw_history,
    galaxy,
    nebular_emission,
    star_forming_ratios,
    stellar_light,
)
from spectok_hf.data.simulation.instrument import make_instrument
from spectok_hf.data.simulation.nebular_lines import BALMER_LINES, NEBULAR_LINES
from spectok_hf.data.simulation.recipes import RECIPES

AXIS = np.arange(3000.0, 9000.0, 0.5)
WIDTH = np.full(len(AXIS), 100.0)


def draw(survey, count):
    instrument, recipe = make_instrument(survey), RECIPES[survey]
    for seed in range(count):
        flux, labels = galaxy(np.random.default_rng(seed), instrument, recipe)
        yield instrument.axis / (1 + labels["redshift"]), flux, labels


def mean(axis, flux, low, high):
    return flux[(axis > low) & (axis < high)].mean()


def break_at_4000(axis, flux):
    """The narrow break of Balogh et al. 1999, ApJ 527, 54, in the flux per unit of frequency."""
    flux = flux * axis**2
    return mean(axis, flux, 4000, 4100) / mean(axis, flux, 3850, 3950)


def area(axis, flux, low, high):
    near = (axis > low) & (axis < high)
    return np.trapezoid(flux[near], axis[near])


def population(age, metallicity, axis=AXIS, width=WIDTH):
    shares = np.zeros(len(POPULATIONS))
    shares[np.argmin(np.abs(np.log(POPULATIONS[:, 0] / age)))] = 1
    return stellar_light(axis, shares, metallicity, width)


def emission(reddening=0.0, redshift=0.0, mass=10.0, seed=0):
    ratios = star_forming_ratios(np.random.default_rng(seed), redshift, mass)
    return nebular_emission(AXIS, WIDTH, ratios, 1.0, reddening), ratios


def rank_correlation(first, second):
    return np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(second)))[0, 1]


def test_lines_have_the_ratios_of_atomic_physics():
    flux, ratios = emission()
    h_beta = area(AXIS, flux, 4855, 4870)
    assert h_beta == pytest.approx(1, rel=1e-3)
    assert area(AXIS, flux, 4334, 4348) / h_beta == pytest.approx(0.468, rel=1e-2)
    assert area(AXIS, flux, 4093, 4113) / h_beta == pytest.approx(0.259, rel=1e-2)
    assert area(AXIS, flux, 5000, 5016) / area(AXIS, flux, 4952, 4968) == pytest.approx(2.98, rel=1e-2)
    nitrogen, alpha = 10 ** ratios["[NII]"], 2.86
    assert area(AXIS, flux, 6535, 6600) == pytest.approx(alpha + nitrogen * (1 + 1 / 3.05), rel=1e-2)


@pytest.mark.parametrize("centre", [3729.88, 4862.68, 5008.24, 5877.25, 6564.61, 6718.29])  # NIST, vacuum
def test_lines_peak_where_they_belong(centre):
    flux, _ = emission()
    near = np.abs(AXIS - centre) < 3
    assert abs(AXIS[near][np.argmax(flux[near])] - centre) < 0.6


def test_the_tables_hold_vacuum_wavelengths_and_no_line_twice():
    centres = np.sort([*BALMER_LINES[:, 0], *(line[0] for lines in NEBULAR_LINES.values() for line in lines)])
    assert (np.diff(centres) > 0.3).all()
    air = {3726.03, 3728.82, 4861.33, 4958.91, 5006.84, 6562.82, 6583.46, 6716.44, 6730.82}
    assert min(np.abs(centres - line).min() for line in air) > 0.5


def test_star_forming_galaxies_follow_the_sequence_of_nitrogen_and_oxygen():
    points = []
    for mass in (8.8, 9.6, 10.4, 11.2):
        ratios = [star_forming_ratios(np.random.default_rng(seed), 0.1, mass) for seed in range(60)]
        points.append((np.mean([r["[NII]"] for r in ratios]) - np.log10(2.86), np.mean([r["[OIII]"] for r in ratios])))
    nitrogen, oxygen = np.transpose(points)
    assert (np.diff(nitrogen) > 0).all() and (np.diff(oxygen) < 0).all()
    demarcation = 0.61 / (nitrogen - 0.05) + 1.3  # Kauffmann et al. 2003, MNRAS 346, 1055
    assert (oxygen < demarcation).all() and oxygen[0] > 0.3


def test_dust_reddens_the_decrement_and_the_stars():
    plain, dusty = emission()[0], emission(reddening=0.5)[0]
    decrement = [area(AXIS, flux, 6560, 6569) / area(AXIS, flux, 4855, 4870) for flux in (plain, dusty)]
    assert decrement[1] / decrement[0] == pytest.approx(10 ** (0.4 * 0.5 * 1.13), rel=0.05)  # Cardelli et al. 1989
    assert calzetti(np.array([5500.0]))[0] == pytest.approx(4.05, abs=0.05)
    assert (np.diff(calzetti(np.arange(1000.0, 20_000.0, 10))) <= 2e-3).all()


def test_the_break_grows_with_age_and_metallicity():
    breaks = [break_at_4000(AXIS, population(age, 0.0)) for age in (0.01, 0.18, 1.0, 4.7, 10.0)]
    assert (np.diff(breaks) > 0).all()
    assert breaks[1] < 1.3 and 1.55 < breaks[-1] < 2.2
    assert break_at_4000(AXIS, population(10.0, 0.3)) > break_at_4000(AXIS, population(10.0, -0.8)) + 0.2


def test_balmer_absorption_is_strongest_in_a_population_of_a_type_stars():
    def depth(age):
        flux = population(age, 0.0)
        beside = (mean(AXIS, flux, 4030, 4070) + mean(AXIS, flux, 4135, 4165)) / 2
        return 1 - mean(AXIS, flux, 4090, 4116) / beside

    assert depth(0.45) > max(depth(0.01), depth(10.0)) + 0.05


def test_the_far_ultraviolet_neither_explodes_nor_vanishes():
    width = np.full(len(GRID), 100.0)
    for age, low, high in ((0.003, 8, 150), (0.075, 2, 40), (10.0, 0.005, 0.3)):
        flux = population(age, 0.0, GRID, width)
        assert low < mean(GRID, flux, 1450, 1600) / mean(GRID, flux, 5400, 5600) < high
        assert flux.min() > 0


def test_motion_broadens_lines_and_keeps_the_light():
    narrow, broad = (population(4.7, 0.0, width=np.full(len(AXIS), width)) for width in (60.0, 300.0))
    assert np.abs(np.diff(narrow)).sum() > 1.5 * np.abs(np.diff(broad)).sum()
    assert mean(AXIS, narrow, 4500, 7000) == pytest.approx(mean(AXIS, broad, 4500, 7000), rel=2e-3)


def test_a_width_that_changes_along_the_axis_is_right_at_both_ends():
    changing = np.linspace(60, 300, len(AXIS))
    flux = population(4.7, 0.0, width=changing)
    for end, width in ((slice(0, 200), 60.0), (slice(-200, None), 300.0)):
        np.testing.assert_allclose(flux[end], population(4.7, 0.0, width=np.full(len(AXIS), width))[end], rtol=0.01)


def test_the_universe_is_as_old_as_it_is():
    assert cosmic_age(0) == pytest.approx(13.79, abs=0.05) and cosmic_age(1) == pytest.approx(5.86, abs=0.1)


def test_histories_tie_age_and_star_formation():
    rng = np.random.default_rng(0)
    passive, active = ([draw_history(rng, 0.1, kind) for _ in range(200)] for kind in (True, False))
    for history in passive + active:
        assert history.masses.sum() == pytest.approx(1) and history.masses.min() >= 0
        assert 0 < history.age < cosmic_age(0.1)
    assert np.percentile([h.log_ssfr for h in passive], 90) < -11 < np.percentile([h.log_ssfr for h in active], 25)
    assert np.median([h.age for h in passive]) > np.median([h.age for h in active]) + 2


def test_labels_are_tied_to_the_spectrum():
    spectra = [s for s in draw("sdss", 150) if s[0][0] < 3800]
    breaks = [break_at_4000(axis, flux) for axis, flux, _ in spectra]
    label = {name: [labels[name] for *_, labels in spectra] for name in spectra[0][2]}
    assert rank_correlation(breaks, label["age"]) > 0.6
    assert rank_correlation(breaks, label["log_ssfr"]) < -0.75
    assert rank_correlation(label["log_stellar_mass"], label["metallicity"]) > 0.6
    alpha = [mean(a, f, 6555, 6575) / mean(a, f, 6610, 6650) if a[-1] > 6700 else np.nan for a, f, _ in spectra]
    seen = np.isfinite(alpha)
    assert seen.sum() > 80
    assert rank_correlation(np.array(alpha)[seen], np.array(label["log_ssfr"])[seen]) > 0.75


@pytest.mark.parametrize("survey", ["sdss", "boss", "desi", "lamost"])
def test_every_galaxy_is_finite_and_positive_with_labels_in_range(survey):
    for axis, flux, labels in draw(survey, 60):
        assert flux.shape == axis.shape and np.isfinite(flux).all() and flux.min() > 0
        assert list(labels) == ["redshift", "log_stellar_mass", "age", "log_ssfr", "metallicity"]
        low, high = RECIPES[survey].galaxy_redshift
        assert low <= labels["redshift"] <= high and 8 <= labels["log_stellar_mass"] <= 11.9
        assert 0 < labels["age"] < cosmic_age(labels["redshift"])
        assert -14 < labels["log_ssfr"] < -7.5 and -1.2 <= labels["metallicity"] <= 0.35


def test_the_same_seed_gives_the_same_galaxy():
    (_, first, _), (_, second, _) = next(draw("desi", 1)), next(draw("desi", 1))
    np.testing.assert_array_equal(first, second)
