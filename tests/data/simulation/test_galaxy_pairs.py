"""Image and spectrum of one galaxy: one draw, one brightness, and the right light in the right place."""

import dataclasses

import numpy as np
import pytest

from spectok_hf import simulate_survey
from spectok_hf.data.simulation import GalaxyPair, simulate_galaxy_pairs
from spectok_hf.data.simulation.aperture import measured_magnitudes
from spectok_hf.data.simulation.arguments import as_recipe
from spectok_hf.data.simulation.galaxies import AGES, RECENT, draw_galaxy, galaxy_light, light_of_stars
from spectok_hf.data.simulation.galaxy_images import SERSIC, Camera, divide_light, draw_shape, expose, render
from spectok_hf.data.simulation.passbands import (
    AXIS,
    AXIS_RESOLUTION,
    BANDS,
    PASSBANDS,
    distance,
    flux_scale,
    galaxy_flux,
    kiloparsec,
    magnitude,
)
from spectok_hf.models.sky_image import SkyImage

LIGHT_SPEED = 2.99792458e18  # Å/s
WIDE = Camera(("g", "r", "z"), 360, 0.262)


@pytest.fixture(scope="module")
def pairs():
    return simulate_galaxy_pairs(300, 1102, image_size=64)


@pytest.fixture(scope="module")
def labels(pairs):
    names = [name for name in pairs[0].image.labels if name != "class"]
    return {name: np.array([pair.image.labels[name] for pair in pairs]) for name in names}


def galaxies(count, survey="desi"):
    for seed in range(count):
        rng = np.random.default_rng(seed)
        drawn = draw_galaxy(rng, as_recipe(survey, honest=False))
        yield drawn, draw_shape(rng, drawn), rng


def photometry(wavelength, flux, band):
    """Nanomaggies of a flux in 1e-17 erg/s/cm2/Å, as a loop would have it."""
    throughput = np.interp(wavelength, *np.transpose(PASSBANDS[band]), left=0, right=0)
    step = np.gradient(wavelength)
    per_hertz = np.sum(flux * 1e-17 * wavelength * throughput * step) / LIGHT_SPEED
    return per_hertz / np.sum(throughput / wavelength * step) / 3.631e-29


def rank_correlation(first, second):
    return np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(second)))[0, 1]


def test_a_pair_is_one_galaxy(pairs):
    assert all(isinstance(pair, GalaxyPair) for pair in pairs)
    for spectrum, image in pairs[:20]:
        assert spectrum.object_id == image.object_id and spectrum.labels == image.labels
        assert image.shape == (64, 64) and image.bands == ("g", "r", "z") and image.pixel_scale == 0.262
        assert len(spectrum) == 7781 and spectrum.flux_unit == simulate_survey("desi", 1)[0].flux_unit
        assert {"class", "redshift", "log_stellar_mass", "age", "log_ssfr", "metallicity", "snr"} < set(image.labels)
    assert len({pair.image.object_id for pair in pairs}) == len(pairs)
    assert pairs[3].image.object_id == "sim-pair-desi-1102-00003"


def equal(first, second):
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for one, other in zip(first, second, strict=True)
        for name in ("flux", "ivar", "mask")
    )


def test_a_pair_does_not_depend_on_which_are_made(pairs):
    for index in (0, 7):
        alone = simulate_galaxy_pairs(1, 1102, start=index, image_size=64)[0]
        assert equal(alone, pairs[index]) and alone.image.labels == pairs[index].image.labels
    assert not equal(simulate_galaxy_pairs(1, 1103, image_size=64)[0], pairs[0])
    other = simulate_galaxy_pairs(1, 1102, survey="sdss", image_size=64)[0]
    assert other.image.labels["redshift"] != pairs[0].image.labels["redshift"]


def test_the_stream_does_not_depend_on_the_process(pairs):
    # Pinned values: another order of draws would change them.
    assert pairs[2].image.labels["redshift"] == pytest.approx(0.3034868881985976, rel=1e-9)
    assert pairs[2].image.labels["measured_mag_r"] == pytest.approx(19.23356, rel=1e-5)


def test_snr_changes_the_noise_of_the_spectrum_alone(pairs):
    noisy, honest = (
        simulate_galaxy_pairs(5, 1102, image_size=64, **options) for options in ({"snr": 3}, {"honest": True})
    )
    for pair, other, true in zip(pairs, noisy, honest, strict=False):
        np.testing.assert_array_equal(pair.spectrum.truth, other.spectrum.truth)
        np.testing.assert_array_equal(pair.image.flux, other.image.flux)
        np.testing.assert_array_equal(pair.image.flux, true.image.flux)
        good = other.spectrum.good
        ratio = other.spectrum.truth[good] / other.spectrum.error[good]
        assert other.image.labels["snr"] == 3 and np.median(ratio) == pytest.approx(3, rel=0.02)
        residual = (true.spectrum.flux - true.spectrum.truth)[true.spectrum.good]
        assert np.std(residual / true.spectrum.error[true.spectrum.good]) == pytest.approx(1, abs=0.05)


def test_another_visit_changes_the_noise_of_both_and_the_galaxy_of_neither(pairs):
    for pair, other in zip(pairs, simulate_galaxy_pairs(4, 1102, image_size=64, visit=1), strict=False):
        for one, again in zip(pair, other, strict=True):
            np.testing.assert_array_equal(one.truth, again.truth)
            good = one.good & again.good
            noise = [((x.flux - x.truth) * np.sqrt(x.ivar))[good].clip(-5, 5) for x in (one, again)]
            assert abs(np.corrcoef(noise)[0, 1]) < 0.1 and one.object_id == again.object_id
        first, second = pair.image.labels, other.image.labels
        assert first["mag_r"] == second["mag_r"] and first["measured_mag_r"] != second["measured_mag_r"]


def test_bands_and_pixels_are_what_was_asked_for():
    first = simulate_galaxy_pairs(1, 4)[0]
    others = simulate_galaxy_pairs(1, 4, image_size=63, bands=("i", "r"), pixel_scale=0.4)[0]
    assert others.image.flux.shape == (2, 63, 63) and others.image.bands == ("i", "r")
    assert others.image.labels["mag_r"] == first.image.labels["mag_r"]
    assert others.image.labels["measured_mag_r"] == pytest.approx(first.image.labels["measured_mag_r"], abs=0.1)
    ratio = np.median(others.spectrum.truth / first.spectrum.truth)
    assert ratio == pytest.approx(1, abs=0.05)  # the fibre sees it through other pixels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": -1}, "n must be a non-negative integer, found -1"),
        ({"n": 1, "seed": 0.5}, "seed must be a non-negative integer"),
        ({"n": 1, "start": -2}, "start must be a non-negative integer"),
        ({"n": 1, "survey": "galah"}, "survey must be one of desi, sdss, boss|survey.*'galah'"),
        ({"n": 1, "bands": ("g", "z")}, "bands must be of g, r, i, z, and r one of them, found g, z"),
        ({"n": 1, "bands": ("u", "r")}, "bands must be of g, r, i, z"),
        ({"n": 1, "image_size": 8}, "image_size must be at least 16 pixels, found 8"),
        ({"n": 1, "pixel_scale": 20}, "pixel_scale must be 0.05 to 2 arcsec"),
        ({"n": 1, "snr": 0}, "snr must be a positive number"),
    ],
)
def test_what_cannot_be_made_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_galaxy_pairs(**options)


def test_distances_are_those_of_a_flat_universe():
    # Planck 2018, as astropy has it: 433 Mpc to z = 0.1 and 1948 Mpc to z = 0.5, comoving; 6.3 kpc/arcsec there.
    assert distance(0.1) == pytest.approx(433, rel=3e-3)
    assert distance(0.5) == pytest.approx(1948, rel=3e-3)
    assert 1 / kiloparsec(0.5) == pytest.approx(6.30, rel=5e-3)


def test_magnitudes_are_those_of_the_spectrum_through_the_bands():
    flat = 3.631e-20 * LIGHT_SPEED / AXIS**2 * 1e17 * 10 ** (-0.4 * 20)  # 20 mag in each band
    for band in BANDS:
        assert magnitude(photometry(AXIS, flat, band)) == pytest.approx(20, abs=0.003)
    for drawn, _, _ in galaxies(5):
        axis = np.arange(3880.0, 10_170.0, 1.0)
        light = flux_scale(drawn) * galaxy_light(drawn, axis, np.full(len(axis), 150.0))
        expected = [photometry(axis, light, band) for band in BANDS]
        np.testing.assert_allclose(galaxy_flux(drawn), expected, rtol=0.02)


def test_the_sun_s_mass_gives_the_sun_s_light():
    # Stars of a galaxy without dust: light over mass, at 5500 Å, against the Sun's 4.81 AB mag in V (Willmer 2018).
    drawn = next(galaxies(1))[0]._replace(redshift=0.01, mass=10.0, reddening=0.0, gas=[])
    masses = np.where(AGES == 10.0, 1.0, 0.0)
    drawn = drawn._replace(history=drawn.history._replace(masses=masses))
    light = flux_scale(drawn) * light_of_stars(drawn, AXIS, AXIS_RESOLUTION)
    near = np.abs(AXIS - 5555) < 100
    fnu = light[near].mean() * 1e-17 * 5555**2 / LIGHT_SPEED
    absolute = -2.5 * np.log10(fnu) - 48.6 - 5 * np.log10(distance(0.01) * 1.01 * 1e5)
    # The light is that of the continuum, of which lines of old stars take a seventh.
    assert absolute == pytest.approx(4.81 - 2.5 * np.log10(0.22 * 1e10 / 0.6) + 0.15, abs=0.05)


def test_the_parts_of_a_galaxy_add_up_and_the_bulge_is_the_oldest():
    redder = []
    for drawn, shape, _ in galaxies(30):
        parts = divide_light(drawn, shape)
        np.testing.assert_allclose(parts.total, galaxy_flux(drawn), rtol=1e-6)
        assert min(part.min() for part in parts) >= 0
        bulge, disc = magnitude(parts.bulge), magnitude(parts.disc)  # without the youngest stars
        redder.append((bulge[0] - bulge[3]) - (disc[0] - disc[3]))
    assert np.nanmin(redder) > -0.02 and np.nanmedian(redder) > 0.05
    assert drawn.history.masses[RECENT].sum() > 0  # no galaxy is without young stars


def test_all_the_light_is_in_the_image():
    shares = []
    for drawn, shape, rng in galaxies(25):
        if shape.half_light_radius < 4:
            parts = divide_light(drawn, shape)
            light = render(rng, shape, parts, WIDE).galaxy.sum(axis=(1, 2))
            shares.append(light / parts.total[WIDE.rows])
    assert len(shares) > 10
    np.testing.assert_allclose(np.array(shares), 1, atol=0.07)  # wings of a de Vaucouleurs profile reach far
    assert np.median(shares) == pytest.approx(1, abs=0.01)


def test_half_of_the_light_is_within_the_half_light_radius():
    for drawn, shape, rng in galaxies(12):
        # Round and without arms, far larger than the seeing.
        round_one = shape._replace(
            axis_ratios=(1.0, 1.0), contrast=0.0, half_light_radius=8.0, clumps=np.zeros((0, 3))
        )
        parts = divide_light(drawn, round_one)
        scene = render(rng, round_one, parts, WIDE)
        right, up = (np.arange(360) - 179.5 - offset for offset in scene.centre)
        inside = np.hypot(right, up[:, None]) * 0.262 < 8.0
        total = parts.total[BANDS.index("r")]
        assert scene.galaxy[1][inside].sum() / total == pytest.approx(0.5, abs=0.03)


def test_points_are_as_wide_as_the_seeing():
    drawn, shape, rng = next(galaxies(1))
    point = render(rng, shape, divide_light(drawn, shape), WIDE).point_sources
    np.testing.assert_allclose(point.sum(axis=(1, 2)), 1)
    half = [np.interp(0.5, (plane[0, :12] / plane[0, 0])[::-1], np.arange(12.0)[::-1]) for plane in point]
    widths = 2 * 0.262 * np.array(half)
    np.testing.assert_allclose(widths / widths[1], np.array([1.29, 1.18, 1.11]) / 1.18, rtol=0.03)
    assert 0.9 < widths[1] < 1.5


def test_the_truth_of_an_image_is_what_it_was_before_the_noise(pairs):
    for _, image in pairs:
        noise = ((image.flux - image.truth) * np.sqrt(image.ivar))[image.good]
        assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
        assert np.isfinite(image.truth[image.bad]).all()


def test_noise_is_as_deep_as_stated_and_errors_are_true(pairs):
    residuals, empty = [], []
    for seed, (drawn, shape, rng) in enumerate(galaxies(12)):
        camera = Camera(("g", "r", "z"), 64, 0.262)
        scene = render(rng, shape, divide_light(drawn, shape), camera)
        seen = expose(np.random.default_rng(seed), scene, camera)
        good = ~seen["mask"]
        residuals.append(((seen["flux"] - scene.flux) * np.sqrt(seen["ivar"]))[good])
        neff = 1 / (scene.point_sources[1] ** 2).sum()
        empty.append(22.5 - 2.5 * np.log10(5 * np.sqrt(neff / seen["ivar"][1].max())))
    assert np.std(np.concatenate(residuals)) == pytest.approx(1, abs=0.01)
    assert np.mean(empty) == pytest.approx(23.4, abs=0.15)  # 5 sigma of a point source in r
    bad = np.array([image.bad.mean() for _, image in pairs])
    assert 0 < bad.mean() < 0.01 and all((image.ivar[image.mask] == 0).all() for _, image in pairs)


def test_galaxies_are_those_of_the_survey(labels):
    assert labels["mag_r"].max() < 19.5 and 18.0 < np.median(labels["mag_r"]) < 19.2
    assert 0.1 < np.median(labels["redshift"]) < 0.3
    sdss = simulate_galaxy_pairs(20, 1102, survey="sdss", image_size=16)
    assert max(pair.image.labels["mag_r"] for pair in sdss) < 17.77 and len(sdss[0].spectrum) < 4000
    boss = simulate_galaxy_pairs(20, 1102, survey="boss", image_size=16, bands=("r", "i"))
    assert max(pair.image.labels["mag_i"] for pair in boss) < 19.9
    assert np.median([pair.image.labels["redshift"] for pair in boss]) > np.median(labels["redshift"])


def test_colours_sizes_and_bulges_follow_the_stars(labels):
    nearby = (labels["redshift"] > 0.05) & (labels["redshift"] < 0.2)
    passive = labels["log_ssfr"] < -11.3
    colour = labels["mag_g"] - labels["mag_r"]
    assert 0.8 < np.median(colour[nearby & passive]) < 1.4  # Blanton & Moustakas 2009, ARA&A 47, 159: red and blue
    assert 0.3 < np.median(colour[nearby & ~passive]) < 0.8
    assert rank_correlation(colour[passive], labels["redshift"][passive]) > 0.7
    share = labels["bulge_share"]
    assert np.median(share[passive]) > 0.5 > 0.25 > np.median(share[~passive])
    radius = labels["half_light_radius"] / np.array([kiloparsec(z) for z in labels["redshift"]])
    massive = np.abs(labels["log_stellar_mass"] - 10.6) < 0.3
    assert np.median(radius[massive & ~passive]) > 1.3 * np.median(radius[massive & passive])
    assert rank_correlation(radius[~passive], labels["log_stellar_mass"][~passive]) > 0.3


def test_the_spectrum_has_the_level_of_the_image(pairs, labels):
    centre, level = [], []
    for spectrum, image in pairs:
        distances = np.hypot(*(np.indices((64, 64)) - 31.5))
        flux = np.where(image.good[1], image.flux[1], 0.0)[distances * 0.262 < 0.75].sum()
        level.append(photometry(spectrum.wavelength, spectrum.truth, "r"))
        centre.append(flux)
    centre, level = np.array(centre), np.array(level)
    ratio = np.log10(level / centre)  # what the fibre loses of a point, and errors of calibration
    assert np.std(ratio) < 0.06 and 0.15 < np.median(ratio) < 0.55
    total = 10 ** (0.4 * (22.5 - labels["mag_r"]))
    assert (level < 1.1 * total).all()
    assert rank_correlation(level, labels["snr"]) > 0.8


def test_magnitudes_are_measured_as_a_pipeline_would(labels):
    for band in ("g", "r", "z"):
        off = labels[f"measured_mag_{band}"] - labels[f"mag_{band}"]
        assert -0.05 < np.median(off) < 0.15 and np.percentile(np.abs(off), 80) < 0.25
        assert (labels[f"measured_mag_error_{band}"] > 0).all() and not np.array_equal(off, np.zeros(len(off)))
    assert np.median(labels["measured_mag_error_g"][labels["mag_g"] > 20.5]) > 0.02


def test_neighbours_and_bad_pixels_are_not_measured():
    up, right = np.indices((80, 80)) - 39.5
    light = 50 * np.exp(-SERSIC[1] * np.hypot(right, up) / 6) / (2 * np.pi * (6 / SERSIC[1]) ** 2)
    clean = SkyImage(light[None], "r", 0.262, ivar=np.full((1, 80, 80), 1e4))
    expected, error = measured_magnitudes(clean)
    assert expected[0] == pytest.approx(22.5 - 2.5 * np.log10(50), abs=0.05) and error[0] > 0
    flux, mask = light[None].copy(), np.zeros((1, 80, 80), dtype=bool)
    flux[:, 50:53, 55:58] += 3.0
    flux[:, 38, 40:45], mask[:, 38, 40:45] = 1e3, True
    blended = SkyImage(flux, "r", 0.262, mask=mask, ivar=np.where(mask, 0, 1e4))
    assert measured_magnitudes(blended)[0][0] == pytest.approx(expected[0], abs=0.01)
    with pytest.raises(ValueError, match="found no ivar"):
        measured_magnitudes(dataclasses.replace(clean, ivar=None))
