"""Stars: each line where and as strong as an astronomer expects, and finite over the whole range."""

import itertools

import numpy as np
import pytest

from spectok_hf.data.simulation.atmosphere import interpolate_star
from spectok_hf.data.simulation.haze import GROUPS
from spectok_hf.data.simulation.populations import draw_star
from spectok_hf.data.simulation.profiles import LIGHT_SPEED
from spectok_hf.data.simulation.stars import growth, haze_strengths, hydrogen_lines, metal_lines, starlight

AXIS = 10 ** np.arange(3.56, 3.97, 1e-4)  # R = 2000
WIDTH = LIGHT_SPEED / 2000 / 2.3548


def line(centre, teff, logg=4.4, feh=0.0):
    """Equivalent width in Å of the metal line nearest to a wavelength."""
    lines = metal_lines(interpolate_star(teff, logg, feh), teff, logg)
    return lines.widths[np.argmin(np.abs(lines.centres - centre))]


def balmer(teff, logg=4.2):
    lines = hydrogen_lines(interpolate_star(teff, logg, 0.0), teff, logg)
    return lines.widths[np.abs(lines.centres - 4862.7) < 1].sum()  # wide and narrow part


def depth(flux, low, high, blue, red):
    """How much darker a window is than the mean of two beside it."""
    inside, *beside = (flux[(a < AXIS) & (b > AXIS)].mean() for a, b in ((low, high), blue, red))
    return 1 - inside / np.mean(beside)


def test_the_sun_has_its_own_widths():
    for centre, width in ((5185.04, 1.6), (6679.83, 0.13), (4555.31, 0.16), (4234.36, 0.13)):
        assert line(centre, 5772, 4.44) == pytest.approx(width, rel=0.02)


def test_calcium_changes_from_neutral_to_ionised():
    neutral = [line(4227.92, teff) for teff in (4000, 4800, 5600, 6500, 8000, 10_000)]
    assert (np.diff(neutral) < 0).all() and neutral[0] > 5 * neutral[3]
    ionised = {teff: line(3934.77, teff) for teff in (3400, 4800, 5600, 7000, 8500, 11_000)}
    assert 4000 < max(ionised, key=ionised.get) < 6000
    assert ionised[8500] < 0.4 * ionised[5600]


def test_balmer_lines_are_strongest_in_a0_stars():
    grid = np.arange(6000, 20_000, 250)
    assert 8750 <= grid[np.argmax([balmer(teff) for teff in grid])] <= 10_250
    assert 12 < balmer(9500, 4.0) < 18  # Å, Vega
    assert 2 < balmer(5772) < 5 and balmer(20_000) < 0.5 * balmer(9500)


def test_balmer_lines_tell_supergiants_among_hot_stars_only():
    assert balmer(9500, 1.5) < 0.6 * balmer(9500, 4.0)
    assert balmer(6000, 2.5) == pytest.approx(balmer(6000, 4.2), rel=0.2)


def test_ions_gain_over_atoms_in_giants():
    ratio = [line(5019.84, 4800, logg) / line(5445.4 + 1.5, 4800, logg) for logg in (4.5, 3.0, 1.5)]
    assert ratio[2] > 1.1 * ratio[1] > 1.2 * ratio[0]


def test_wings_of_strong_lines_tell_dwarfs():
    assert line(5185.04, 5000, 4.6) > 1.1 * line(5185.04, 5000, 2.5)  # Mg b
    assert line(5891.58, 3800, 4.7) > 1.5 * line(5891.58, 3800, 1.0)  # Na D


def test_widths_saturate_and_then_grow_by_their_wings():
    strength = np.geomspace(1e-3, 1e7, 200)
    width = np.hypot(*growth(strength, 0.03))
    slope = np.gradient(np.log(width), np.log(strength))
    assert slope[0] == pytest.approx(1, abs=0.02) and slope[-1] == pytest.approx(0.5, abs=0.05)
    assert slope.min() < 0.35 and (slope > 0).all()


def test_strong_lines_follow_the_metals_slowly():
    def change(centre):
        return np.log10(line(centre, 5772, 4.44, 0.0) / line(centre, 5772, 4.44, -1.0))

    assert 0.2 < change(3934.77) < 0.7
    assert change(6571.02) > 1.2 * change(5434.52 + 1.5)  # weak against saturated, Fe I


def test_helium_is_of_b_stars():
    assert line(4472.7, 20_000, 4.0) > 1 and line(4472.7, 12_000, 4.0) < 0.5 and line(4472.7, 8000) < 0.01


def test_titanium_oxide_is_of_m_stars():
    windows = (7060, 7080), (7025, 7050)
    band = {
        (teff, logg): depth(starlight(AXIS, teff, logg, 0.0, WIDTH), *windows[0], windows[1], windows[1])
        for teff, logg in itertools.product((3300, 3600, 3900, 4500, 5800), (1.0, 4.7))
    }
    for logg in (1.0, 4.7):
        assert band[3300, logg] > band[3600, logg] > band[3900, logg] > band[4500, logg] - 0.01
        assert band[3300, logg] > 0.4 and abs(band[4500, logg]) < 0.06 and abs(band[5800, logg]) < 0.03


def test_bands_that_tell_dwarfs_from_giants():
    dwarf, giant = (
        dict(zip(GROUPS, haze_strengths(interpolate_star(teff, logg, 0.0), teff, logg), strict=True))
        for teff, logg in ((4000.0, 4.7), (4000.0, 1.0))
    )
    assert dwarf["MgH"] > 2 * giant["MgH"] and dwarf["CaH"] > 2 * giant["CaH"]
    assert giant["CO"] > 2 * dwarf["CO"] and giant["CN"] > 2 * dwarf["CN"]


def test_jumps_of_the_continuum():
    blue, red = (AXIS < 3665) & (AXIS > 3640), (AXIS < 4020) & (AXIS > 4000)
    jump = {
        teff: np.median((f := starlight(AXIS, teff, 4.0, -1.0, WIDTH))[red]) / np.median(f[blue])
        for teff in (9500, 30_000)
    }
    assert jump[9500] > 1.5 * jump[30_000]


def test_continuum_is_1_at_5500():
    for teff in (4500, 6000, 9500, 25_000):
        near = (AXIS > 5450) & (AXIS < 5550)
        assert np.percentile(starlight(AXIS, teff, 4.0, -2.5, WIDTH)[near], 90) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("axis", [AXIS, np.linspace(1500, 9000, 500), np.linspace(15_100, 17_000, 4000)])
def test_every_star_is_finite_and_positive(axis):
    for star in itertools.product((3000, 3900, 6000, 9500, 15_000, 30_000), (0.0, 2.5, 5.0), (-3.0, 0.5)):
        flux = starlight(axis, *star, 70.0)
        assert flux.shape == axis.shape and np.isfinite(flux).all() and (flux > 0).all()


def test_light_is_the_same_each_time_and_takes_a_width_per_pixel():
    flux = starlight(AXIS, 4700, 2.4, -0.3, WIDTH)
    np.testing.assert_array_equal(flux, starlight(AXIS, 4700, 2.4, -0.3, WIDTH))
    np.testing.assert_allclose(flux, starlight(AXIS, 4700, 2.4, -0.3, np.full(len(AXIS), WIDTH)))
    broad = starlight(AXIS, 4700, 2.4, -0.3, np.linspace(WIDTH, 4 * WIDTH, len(AXIS)))
    assert np.abs(np.diff(broad))[-800:].mean() < 0.7 * np.abs(np.diff(flux))[-800:].mean()


def test_rotation_widens_lines_and_keeps_their_area():
    axis = np.arange(6480.0, 6740.0, 0.063)
    slow, fast = (starlight(axis, 7000.0, 4.2, 0.0, 4.5, rotation=v) for v in (0.0, 90.0))
    near = (axis > 6676) & (axis < 6684)
    assert (1 - fast / np.max(fast))[near].sum() == pytest.approx((1 - slow / np.max(slow))[near].sum(), rel=0.15)
    assert fast[near].min() > slow[near].min() + 0.05


def test_stars_that_are_drawn():
    rng = np.random.default_rng(1)
    dwarfs, giants = ([draw_star(rng, share) for _ in range(1500)] for share in (0.0, 1.0))
    for people in (dwarfs, giants):
        teff, logg, feh = np.array([person[:3] for person in people]).T
        assert 3200 <= teff.min() < 3600 and logg.min() >= 0 and logg.max() <= 5
        assert -2.5 <= feh.min() < -1.5 and feh.max() <= 0.5
    assert max(p.logg for p in giants) < 3.6 and min(p.logg for p in dwarfs) > 3.1
    assert max(p.teff for p in giants) < 5700 and max(p.teff for p in dwarfs) > 9000
    clump = [p for p in giants if 2.25 < p.logg < 2.6]
    assert len(clump) > 0.25 * len(giants)
    hot_giants = np.corrcoef([p.feh for p in clump], [p.teff for p in clump])[0, 1]
    assert hot_giants < -0.6  # metal-poor giants are hotter
