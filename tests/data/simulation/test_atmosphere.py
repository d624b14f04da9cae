"""Ionisation, pressure and opacity against textbooks, and finite over the whole range of stars."""

import numpy as np
import pytest

from spectok_hf.data.simulation import atmosphere
from spectok_hf.data.simulation.atmosphere import (
    MOLECULES,
    NODES,
    SOLAR_LOGG,
    SOLAR_TEFF,
    interpolate_star,
    molecule_shares,
    opacity,
    solve_layer,
    solve_star,
    stage_fractions,
)


def layer(teff, logg=SOLAR_LOGG, feh=0.0, depth=2 / 3):
    return solve_layer(*(np.array([value], dtype=float) for value in (teff, logg, feh)), depth)


@pytest.mark.parametrize(
    ("element", "expected"),
    [("H", 7.7e-5), ("Ca", 918.0), ("Fe", 15.0), ("Na", 3200.0)],  # the first two: Carroll & Ostlie 2007, 8.1
)
def test_ionisation_in_the_sun_is_the_textbook_s(element, expected):
    neutral, single, double = stage_fractions(element, np.array(5777.0), np.array(15.0))
    assert expected / 2 < single / neutral < expected * 2
    assert neutral + single + double == pytest.approx(1)


def test_ionisation_grows_with_temperature_and_falls_with_pressure():
    cool, hot = (stage_fractions("Fe", np.array(value), np.array(15.0))[0] for value in (4500.0, 6500.0))
    dense = stage_fractions("Fe", np.array(6500.0), np.array(150.0))[0]
    assert cool > 5 * hot and dense > 3 * hot


def test_the_sun_has_the_pressures_of_a_textbook():
    sun = layer(SOLAR_TEFF)
    assert 10 < sun.electron_pressure[0] < 60  # Gray 2005, table 9.2
    assert 4e4 < sun.gas_pressure[0] < 3e5
    giant = layer(4500, 1.5)
    assert sun.electron_pressure[0] > 10 * giant.electron_pressure[0] > 0
    assert layer(4500, 4.5, -2.0).electron_pressure < 0.5 * layer(4500, 4.5, 0.0).electron_pressure  # metals give them


def test_the_fixed_point_is_reached():
    hydrogen = np.array([[4000.0, 5772.0, 9500.0, 20_000.0]]).T
    layers = solve_layer(hydrogen, np.array([1.0, 4.4]), np.zeros((4, 2)), 0.2)
    electrons = atmosphere.electrons_per_hydrogen(layers.temperature, layers.electron_pressure, np.zeros((4, 2)))
    absorbed = opacity(5500.0, layers.temperature, layers.electron_pressure, electrons)
    weight = 10 ** np.array([1.0, 4.4]) * 0.2 * 1.4 * atmosphere.HYDROGEN_MASS
    np.testing.assert_allclose(layers.gas_pressure * absorbed, np.broadcast_to(weight, (4, 2)), rtol=1e-3)
    np.testing.assert_allclose(layers.electron_pressure, layers.hydrogen_pressure * electrons, rtol=1e-3)


def test_negative_hydrogen_rules_the_opacity_of_the_sun():
    wavelength, hot = np.array([4000.0, 8500.0, 16_000.0]), np.array(9500.0)
    blue, peak, dip = opacity(wavelength, np.array(6000.0), np.array(20.0), np.array(1e-4))
    assert peak > blue > 0 and dip < 0.6 * peak  # largest at 8500 Å, smallest at 1.6 µm: Gray 2005, figure 8.3
    below, above = opacity(np.array([3640.0, 3800.0]), hot, np.array(200.0), np.array(0.1))
    assert below > 5 * above  # the Balmer jump


def test_molecules_form_in_cool_stars_and_share_their_atoms():
    shares = {teff: molecule_shares(layer(teff, 4.6, depth=0.2), np.zeros(1)) for teff in (3300, 4000, 5772)}
    assert shares[3300]["TiO"] > 10 * shares[4000]["TiO"] > 100 * shares[5772]["TiO"]
    assert shares[3300]["CO"] == pytest.approx(10 ** (8.43 - 12), rel=0.1)  # all carbon: it is rarer than oxygen
    assert 2 * shares[3300]["H2"] < 1 and shares[5772]["H2"] < 0.01


def test_everything_is_finite_everywhere():
    mesh = np.meshgrid([3000.0, 4000, 8000, 12_000, 30_000], [0.0, 2.5, 5.0], [-3.0, -1, 0.5], indexing="ij")
    assert all(np.isfinite(part).all() for part in solve_star(*mesh))


def test_interpolation_meets_the_exact_star():
    exact = solve_star(np.array(5650.0), np.array(4.3), np.array(-0.2))
    near = interpolate_star(5650.0, 4.3, -0.2)
    np.testing.assert_allclose(near.pressures, exact.pressures, atol=0.03)
    seen = NODES > 3000
    np.testing.assert_allclose(near.continuum[seen], exact.continuum[seen], atol=0.03)
    assert near.molecules.shape == (len(MOLECULES),)
