"""What the instruments of the simulation do to light, beside what was measured on the real spectra of each survey."""

import numpy as np
import pytest

from spectok_hf.data.simulation import simulate_survey
from spectok_hf.data.simulation.instrument import correlated_noise, make_instrument, noise_kernel, observe, visit
from spectok_hf.data.simulation.recipes import RECIPES
from spectok_hf.data.surveys import SURVEYS
from spectok_hf.evaluation.reconstruction import noise_floor

GROUND = tuple(name for name in RECIPES if name != "gaia_xp")


def look(survey, snr=20.0, seed=0, **light):
    """A flat source (or any other) through the instrument: the visit and its columns."""
    rng = np.random.default_rng(seed)
    seen = visit(rng, make_instrument(survey), RECIPES[survey])
    columns = observe(rng, np.ones(len(seen.response)), seen, RECIPES[survey], snr, **light)
    return seen, columns


def sigma(columns):
    """Stated error, NaN where there is none."""
    return np.where(columns["ivar"] > 0, columns["ivar"], np.nan) ** -0.5


def medians(survey, figure, n=40):
    return np.median([figure(*look(survey, RECIPES[survey].snr[0] * 4, seed)) for seed in range(n)])


def test_every_survey_but_vipers_can_be_simulated():
    assert set(RECIPES) == set(SURVEYS) - {"vipers"}  # of which no spectrum was measured


@pytest.mark.parametrize("survey", RECIPES)
def test_curves_are_finite_and_positive(survey):
    instrument = make_instrument(survey)
    assert all(np.isfinite(column).all() for column in instrument[:-1])
    assert (instrument.sensitivity > 0).all() and (instrument.sky >= 1).all()
    assert (instrument.dry_depth >= 0).all() and (instrument.wet_depth >= 0).all()


def test_there_is_no_air_in_space():
    instrument = make_instrument("gaia_xp")
    assert (instrument.sky == 1).all() and not instrument.dry_depth.any() and not instrument.wet_depth.any()


@pytest.mark.parametrize("survey", ["sdss", "boss", "desi", "lamost"])
def test_errors_of_a_faint_object_follow_the_measured_curve(survey):
    """Where the sky has no lines and no more is wrong than its continuum, the curve comes out as it went in."""
    seen, columns = look(survey, snr=0.05)
    instrument = seen.instrument
    plain = (instrument.sky < 1.02) & (instrument.dry_depth + instrument.wet_depth < 0.01) & ~columns["mask"]
    error = sigma(columns)[plain] / seen.overstatement[plain]
    expected = np.interp(instrument.wavelength[plain], *np.transpose(RECIPES[survey].error_curve))
    assert (error / expected).std() / (error / expected).mean() < 0.02 + RECIPES[survey].error_scatter[0]


def test_bright_objects_are_limited_by_their_own_photons():
    for survey in ("boss", "desi"):
        ends = []
        for snr in (0.1, 1000):
            seen, columns = look(survey, snr, seed=1)
            error, wavelength = sigma(columns), seen.instrument.wavelength
            ends.append(
                np.nanmedian(error[wavelength < 3700]) / np.nanmedian(error[(wavelength > 5000) & (wavelength < 5500)])
            )
        assert ends[0] > 1.3 * ends[1]  # the read noise, and the sky, that a faint object sees


@pytest.mark.parametrize(
    ("survey", "centre", "factor"),
    [("desi", 5578.9, 3), ("boss", 8829, 1.8), ("sdss", 6302, 1.3), ("lamost", 5578.9, 1.5)],
)
def test_errors_rise_at_lines_of_the_sky(survey, centre, factor):
    seen, columns = look(survey, 3.0)
    error, offset = sigma(columns), np.abs(seen.instrument.axis - centre)
    assert np.nanmax(error[offset < 2]) > factor * np.nanmedian(error[(offset > 12) & (offset < 40)])


def test_oxygen_absorbs_where_it_does():
    """Heads of the A and B bands at 7596 and 6869 Å, vacuum; hardly anything at the lines' gap between P and R."""
    instrument = make_instrument("galah")
    a_band = instrument.dry_depth[(instrument.axis > 7588) & (instrument.axis < 7720)]
    axis = instrument.axis[(instrument.axis > 7588) & (instrument.axis < 7720)]
    assert 7595 < axis[np.argmax(a_band > 0.5)] < 7598
    assert a_band[np.abs(axis - 7700) < 10].mean() < 0.2 * a_band[np.abs(axis - 7640) < 15].mean()
    lamost = make_instrument("lamost")
    near = np.abs(lamost.axis - 6870) < 60
    assert abs(lamost.axis[near][np.argmax(lamost.dry_depth[near])] - 6870) < 6


def test_air_that_was_divided_out_enlarges_the_error_and_else_dents_the_flux():
    seen, _ = look("galah")
    a_band = seen.instrument.dry_depth > 1
    assert seen.extra_error[a_band].min() > 1.5 and np.median(seen.extra_error) == 1
    dents = [look("lamost", seed=seed)[0] for seed in range(20)]
    depth = [np.log(s.response[s.instrument.dry_depth > 0.3].mean() / s.response.mean()) for s in dents]
    assert np.mean(depth) < -0.1


def test_grids_are_trimmed_as_in_the_survey():
    """Measured: SDSS 3809-3850 pixels, BOSS 4565-4625, LAMOST 3904-3909, all on the grid of the survey."""
    allowed = {"sdss": (3805, 3852), "boss": (4565, 4630), "lamost": (3904, 3909)}
    for survey, (low, high) in allowed.items():
        facts, sizes = SURVEYS[survey].arms[0], set()
        for seed in range(60):
            wavelength = look(survey, seed=seed)[0].instrument.wavelength
            pixel = (np.log10(wavelength) - facts.start) / facts.step
            np.testing.assert_allclose(pixel, np.rint(pixel), atol=1e-6)
            sizes.add(len(wavelength))
        assert low <= min(sizes) and max(sizes) <= high and len(sizes) > 3


def test_galah_grids_shift_and_arms_go_missing():
    starts, arms = [], []
    for seed in range(200):
        own = visit(np.random.default_rng(seed), make_instrument("galah"), RECIPES["galah"]).instrument
        starts.append(own.wavelength[0] - SURVEYS["galah"].arms[0].start)
        arms.append(len(np.unique(own.arm)))
    near = np.abs(starts)[np.abs(starts) < 100]
    assert 0.5 < near.max() < 0.8  # Å; 4712.6-4714.1 in the real ones
    assert 1 <= arms.count(3) <= 12 and set(arms) == {3, 4}  # 1.8 %: Buder et al. 2021


def test_kernel_conserves_variance():
    rng = np.random.default_rng(0)
    for width in (0.0, 0.5, 1.5):
        noise = correlated_noise(rng, 200_000, width)
        assert noise.std() == pytest.approx(1, abs=0.02)
        kernel = noise_kernel(width)
        expected = np.sum(kernel[1:] * kernel[:-1])
        assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(expected, abs=0.01)


# Median noise floors of the real spectra of each survey (notes of the project, n as in recipes.py).
@pytest.mark.parametrize(
    ("survey", "real"),
    [("sdss", 0.66), ("boss", 0.53), ("desi", 1.24), ("lamost", 0.5), ("galah", 0.15), ("apogee", 0.54)],
)
def test_noise_floor_is_that_of_the_real_spectra(survey, real):
    def floor(seen, columns):
        good = ~columns["mask"]
        return noise_floor(columns["flux"][good], sigma(columns)[good])

    assert medians(survey, floor) == pytest.approx(real, rel=0.2)


# Bad pixels in percent: lowest and highest median that the real spectra allow, and the highest of all.
@pytest.mark.parametrize(
    ("survey", "low", "high", "most"),
    [("sdss", 0.5, 3, 25), ("boss", 3, 7, 20), ("desi", 0, 0.3, 5), ("galah", 0, 0.1, 5), ("apogee", 0.5, 4, 15)],
)
def test_bad_pixels_are_as_many_as_in_the_real_spectra(survey, low, high, most):
    shares = [100 * look(survey, seed=seed)[1]["mask"].mean() for seed in range(60)]
    assert low <= np.median(shares) <= high and max(shares) < most


def test_lamost_loses_its_a_band_and_its_blue_end_and_sometimes_the_join():
    lost, blue, join = [], [], []
    for spectrum in simulate_survey("lamost", 80, kind="STAR"):
        dead, wavelength = spectrum.ivar == 0, spectrum.wavelength
        lost.append(dead.mean())
        blue.append(dead[wavelength < 3950].mean())
        join.append(dead[(wavelength > 5600) & (wavelength < 5880)].all())
        assert dead[(wavelength > 7585) & (wavelength < 7675)].all()
    assert 0.03 < np.median(lost) < 0.12  # 7.6 % in the real ones
    assert 0.15 < np.mean(blue) < 0.7 and 1 <= sum(join) <= 20


def test_bright_sky_is_flagged_and_its_flux_is_none_the_worse():
    seen, columns = look("boss", seed=3)
    flagged = columns["mask"] & (columns["ivar"] > 0)
    assert 0.005 < flagged.mean() < 0.1
    assert seen.instrument.sky[flagged].min() >= np.percentile(seen.instrument.sky, 90)
    pulls = (columns["flux"] - columns["truth"])[flagged] * np.sqrt(columns["ivar"][flagged])
    assert np.abs(pulls).max() < 40


def test_spikes_that_no_one_flagged_are_as_many_and_as_high_as_in_real_spectra():
    """GALAH, real: 2.9 a star beyond ten errors, of which 0.7 beyond twenty; 11 at most. BOSS: one in ten spectra."""

    def heights(survey):
        for seed in range(60):
            seen, columns = look(survey, 40.0, seed)
            pulls = np.abs(columns["flux"] - columns["truth"]) * np.sqrt(columns["ivar"])
            yield pulls[~columns["mask"] & (seen.instrument.sky < 1.05)]

    galah = list(heights("galah"))
    assert 0 < np.median([(pulls > 10).sum() for pulls in galah]) < 4 and max((p > 10).sum() for p in galah) < 40
    assert 0.1 < np.mean([(pulls > 20).sum() for pulls in galah]) < 1.5
    assert np.mean([(pulls > 10).any() for pulls in heights("boss")]) < 0.15


def test_sky_lines_are_left_in_the_flux_beyond_the_error():
    def excess(survey, snr):
        scatter = []
        for seed in range(15):
            seen, columns = look(survey, snr, seed)
            pulls = (columns["flux"] - columns["truth"]) * np.sqrt(columns["ivar"]) * seen.overstatement
            good, lines = columns["ivar"] > 0, seen.instrument.sky > 10
            scatter.append(np.median(np.abs(pulls[lines & good])) / np.median(np.abs(pulls[~lines & good])))
        return np.median(scatter)

    assert 1.15 < excess("desi", 2.0) < 2.5  # 1.4 in the real ones
    assert 1.2 < excess("lamost", 25.0) < 2.5  # 1.6 in the brightest twentieth of the real ones


def test_some_faint_spectra_of_desi_are_negative():
    negative = [np.median(s.flux[s.good]) <= 0 for s in simulate_survey("desi", 250, seed=2)]
    assert 0.005 < np.mean(negative) < 0.12
    assert not any(np.median(s.flux[s.good]) <= 0 for s in simulate_survey("desi", 40, snr=10))


def test_halves_of_lamost_do_not_meet_exactly():
    steps = []
    for seed in range(40):
        seen, _ = look("lamost", seed=seed)
        left, right = (np.abs(seen.instrument.wavelength - at) < 3 for at in (5765, 5835))
        steps.append(np.log(seen.response[right].mean() / seen.response[left].mean()))
    assert 0.01 < np.std(steps) < 0.15


@pytest.mark.parametrize("survey", GROUND)
def test_truth_is_the_light_that_came(survey):
    rng = np.random.default_rng(5)
    seen = visit(rng, make_instrument(survey), RECIPES[survey])
    light = 1 + 0.5 * np.sin(np.arange(len(seen.response)) / 50)
    truth = observe(rng, light, seen, RECIPES[survey], 10.0)["truth"]
    expected = light if RECIPES[survey].calibrated else light * seen.instrument.sensitivity
    np.testing.assert_array_equal(truth, expected)


# Real spectra: scatter of second differences of the log of the error over sqrt(6), rank correlation with the noise.
@pytest.mark.parametrize(
    ("survey", "rough", "shared"),
    [("sdss", 0.011, 0.71), ("boss", 0.025, 0.48), ("desi", 0.013, 0.0), ("lamost", 0.024, 0.14)],
)
def test_errors_scatter_from_pixel_to_pixel_and_follow_the_noise(survey, rough, shared):
    scatters, correlations = [], []
    for seed in range(15):
        seen, columns = look(survey, 25.0 if survey in ("sdss", "lamost") else 5.0, seed)
        dark = (seen.instrument.sky < 1.5) & ~columns["mask"]
        pulls = (columns["flux"] - columns["truth"]) * np.sqrt(columns["ivar"])
        pairs = np.where(dark, np.stack([np.log(sigma(columns)), pulls]), np.nan)
        pairs = np.diff(pairs, n=2)
        pairs = pairs[:, np.isfinite(pairs).all(0)]
        scatters.append(1.4826 * np.median(np.abs(pairs[0])) / np.sqrt(6))
        correlations.append(np.corrcoef(pairs.argsort(1).argsort(1))[0, 1])
    assert np.median(scatters) == pytest.approx(rough, rel=0.35)
    assert np.median(correlations) == pytest.approx(shared, abs=0.15)


def test_noise_over_the_stated_error_follows_its_curve():
    near, far = [], []
    for seed in range(15):
        seen, columns = look("boss", 5.0, seed)
        pulls = (columns["flux"] - columns["truth"]) * np.sqrt(columns["ivar"])
        wavelength, good = seen.instrument.wavelength, ~columns["mask"]
        near.append(np.median(np.abs(pulls[good & (wavelength < 3800)])))
        far.append(np.median(np.abs(pulls[good & (wavelength > 8500) & (wavelength < 9500)])))
    assert 1.1 < np.median(near) / np.median(far) < 1.35  # 1.14 over 0.92 in the real ones
