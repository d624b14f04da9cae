"""`simulate_survey`: the grids, the physics that a reader can check by eye, and honest noise."""

import zlib
from functools import partial

import numpy as np
import pytest

from spectok_hf.data.simulation import simulate_galaxy_pairs, simulate_survey
from spectok_hf.data.simulation.instrument import make_instrument, noise_kernel, visit
from spectok_hf.data.simulation.profiles import LIGHT_SPEED
from spectok_hf.data.simulation.recipes import RECIPES
from spectok_hf.data.surveys import SURVEYS

NAMES = tuple(RECIPES)
H_ALPHA_AIR = 6562.79  # Å, NIST


def of_class(survey, name, n=60, **kwargs):
    return [spectrum for spectrum in simulate_survey(survey, n, **kwargs) if spectrum.labels["class"] == name]


def centroid(spectrum, centre, half_width):
    """Centre of an absorption line in the noise-free flux: the depth below a straight continuum, as weights."""
    near = np.abs(spectrum.wavelength - centre) < half_width
    wavelength, flux = spectrum.wavelength[near], spectrum.truth[near].astype(np.float64)
    depth = np.interp(wavelength, wavelength[[0, -1]], flux[[0, -1]]) - flux
    return np.sum(depth * wavelength) / depth.sum()


def peak(spectrum, centre, half_width):
    near = np.abs(spectrum.wavelength - centre) < half_width
    return spectrum.wavelength[near][np.argmax(spectrum.truth[near])]


@pytest.mark.parametrize("survey", NAMES)
def test_grid_and_conventions_are_the_survey_s(survey):
    facts = SURVEYS[survey]
    grids = [arm.start + arm.step * np.arange(arm.pixels) for arm in facts.arms]
    expected = np.concatenate([10**grid if facts.arms[0].log else grid for grid in grids])
    spectrum = simulate_survey(survey, 1)[0]
    assert spectrum.wavelength[0] == pytest.approx(expected[0], rel=0.02)
    assert spectrum.wavelength[-1] == pytest.approx(expected[-1], rel=0.02)
    if not any(RECIPES[survey].trim) and not RECIPES[survey].shift:  # tests/data/simulation has the others
        np.testing.assert_allclose(spectrum.wavelength, expected, rtol=1e-12)
    assert (spectrum.medium, spectrum.frame, spectrum.flux_unit) == (facts.medium, facts.frame, facts.flux_unit)
    assert (spectrum.survey, spectrum.object_id) == (survey, f"sim-{survey}-0-00000")


def test_pixel_counts_and_gaps():
    sizes = {survey: len(simulate_survey(survey, 1)[0]) for survey in ("desi", "galah", "apogee")}
    assert sizes == {"desi": 7781, "galah": 4 * 4096, "apogee": 7514}
    step = np.diff(simulate_survey("galah", 1)[0].wavelength)
    assert (step > 100).sum() == 3


@pytest.mark.parametrize("survey", NAMES)
def test_a_short_list_is_the_beginning_of_a_long_one(survey):
    for short, long in zip(simulate_survey(survey, 3, 7), simulate_survey(survey, 6, 7), strict=False):
        assert short.object_id == long.object_id and short.labels == long.labels
        for name in ("flux", "ivar", "mask", "truth"):
            np.testing.assert_array_equal(getattr(short, name), getattr(long, name))


def test_the_stream_does_not_depend_on_the_process():
    # A pinned value: Python's hash() of the survey's name, or another order of draws, would change it.
    spectrum = simulate_survey("sdss", 4, 11)[3]
    assert (spectrum.labels["class"], len(spectrum)) == ("GALAXY", 3825)
    assert spectrum.labels["snr"] == pytest.approx(15.41468048140208, rel=1e-9)


def test_a_part_of_a_list_is_made_alone():
    whole = simulate_survey("apogee", 4, seed=5)
    for spectrum, other in zip(simulate_survey("apogee", 2, seed=5, start=2), whole[2:], strict=True):
        np.testing.assert_array_equal(spectrum.flux, other.flux)
        assert spectrum.object_id == other.object_id
    with pytest.raises(ValueError, match="start must be a non-negative integer, found -1"):
        simulate_survey("apogee", 1, start=-1)


def test_seeds_surveys_and_objects_differ():
    truths = [s.truth for seed in (0, 1) for s in simulate_survey("sdss", 20, seed)]
    assert len({truth.tobytes() for truth in truths}) == 40
    shapes = np.array([truth[:3800] / np.median(truth) for truth in truths])
    correlation = np.corrcoef(shapes)[np.triu_indices(40, 1)]
    assert correlation.max() < 0.9999
    assert simulate_survey("sdss", 1)[0].labels["snr"] != simulate_survey("boss", 1)[0].labels["snr"]


def pulls(survey, seed):
    """Noise of a bright spectrum in units of its own standard deviation, runs of good pixels far from sky lines."""
    spectra = simulate_survey(survey, 12, seed, snr=100)
    for index, spectrum in enumerate(spectra):
        seen = visit(_night(survey, seed, index), make_instrument(survey), RECIPES[survey])
        quiet = spectrum.good & (seen.instrument.sky < 1.05)
        pull = (spectrum.flux - spectrum.truth.astype(np.float64)) * np.sqrt(spectrum.ivar) * seen.overstatement
        yield np.where(quiet, pull, np.nan)


def _night(survey, seed, index):
    """The stream of the visit: the third child of a spectrum's seed."""
    sequence = np.random.SeedSequence([zlib.crc32(survey.encode()), seed], spawn_key=(index,))
    return np.random.default_rng(sequence.spawn(3)[2])


@pytest.mark.parametrize("survey", NAMES)
def test_noise_is_gaussian_with_the_stated_error_over_its_overstatement(survey):
    kernel = noise_kernel(RECIPES[survey].correlation)
    rows = list(pulls(survey, 3))
    values = np.concatenate([row[np.isfinite(row)] for row in rows])
    values = values[np.abs(values) < 6]  # unflagged spikes begin at 10
    count = len(values) / np.sum(kernel) ** 2  # as many are independent
    assert abs(values.mean()) < 4 / np.sqrt(count) + 0.1  # and the pedestal
    assert abs(values.std() - 1) < 0.01 + 4 / np.sqrt(2 * count)
    assert abs((np.abs(values) > 3).mean() - 0.0027) < 0.0005 + 6 * np.sqrt(0.0027 / count)
    both = np.concatenate([np.stack([row[1:], row[:-1]]) for row in rows], axis=1)
    both = both[:, (np.abs(both) < 6).all(axis=0)]
    assert np.corrcoef(both)[0, 1] == pytest.approx(np.sum(kernel[1:] * kernel[:-1]), abs=0.02 + 4 / np.sqrt(count))


def test_noise_rises_where_the_sky_is_bright_and_arms_end():
    spectrum = simulate_survey("desi", 1, snr=2)[0]
    error = np.where(spectrum.good, spectrum.error, np.nan)

    def typical(low, high):
        return np.nanmedian(error[(spectrum.wavelength > low) & (spectrum.wavelength < high)])

    assert typical(5577, 5581) > 2 * typical(5540, 5560)  # [OI] 5578.9
    assert typical(3600, 3620) > 1.5 * typical(4500, 4900)


@pytest.mark.parametrize("survey", NAMES)
@pytest.mark.parametrize("snr", [3, 150])
def test_signal_to_noise_requested_is_delivered(survey, snr):
    for spectrum in simulate_survey(survey, 4, snr=snr):
        delivered = np.median((spectrum.truth / spectrum.error)[spectrum.good])
        assert spectrum.labels["snr"] == snr
        assert delivered == pytest.approx(snr, rel=1e-3)


@pytest.mark.parametrize("survey", ["sdss", "desi", "galah", "apogee", "lamost", "gaia_xp"])
def test_honest_errors_are_the_noise_and_leave_the_truth_alone(survey):
    spectra = simulate_survey(survey, 10, 3, snr=20, honest=True)
    for honest, usual in zip(spectra, simulate_survey(survey, 10, 3, snr=20), strict=True):
        np.testing.assert_array_equal(honest.truth, usual.truth)
        assert honest.labels == usual.labels
    pulls = np.concatenate([((s.flux - s.truth.astype(np.float64)) / s.error)[s.good] for s in spectra])
    count = len(pulls)
    assert abs(pulls.std() - 1) < 4 / np.sqrt(2 * count)
    assert abs(np.corrcoef(pulls[1:], pulls[:-1])[0, 1]) < 4 / np.sqrt(count)


def test_signal_to_noise_range_and_its_default():
    values = [s.labels["snr"] for s in simulate_survey("sdss", 60, snr=(5, 20))]
    assert min(values) >= 5 and max(values) <= 20 and np.ptp(np.log(values)) > 1
    values = [s.labels["snr"] for survey in ("sdss", "desi", "galah", "apogee") for s in simulate_survey(survey, 40)]
    assert (np.histogram(values, [0, 10, 30, 100, 1000])[0] >= 10).all()


def test_signal_to_noise_leaves_the_truth_alone():
    for faint, bright in zip(simulate_survey("boss", 5, snr=2), simulate_survey("boss", 5, snr=80), strict=True):
        np.testing.assert_array_equal(faint.truth, bright.truth)


@pytest.mark.parametrize("survey", ["sdss", "boss", "apogee"])
def test_another_visit_has_noise_and_bad_pixels_of_its_own(survey):
    first = simulate_survey(survey, 4, seed=1303, snr=(5, 40))
    faint, again = (simulate_survey(survey, 4, seed=1303, snr=6, visit=visit) for visit in (0, 1))

    def shared(others):
        kept = [one.good & other.good for one, other in zip(first, others, strict=True)]
        pulls = [
            np.concatenate(
                [((x.flux - x.truth) / x.error)[good].clip(-5, 5) for x, good in zip(some, kept, strict=True)]
            )
            for some in (first, others)
        ]
        return np.corrcoef(pulls)[0, 1]

    assert shared(faint) > 0.9 > 0.1 > abs(shared(again))  # S/N alone leaves the noise as it falls
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.truth, other.truth)
        np.testing.assert_array_equal(one.wavelength, other.wavelength)
        assert one.object_id == other.object_id and not np.array_equal(one.good, other.good)
    ranged = simulate_survey(survey, 2, seed=1303, start=1, snr=(5, 40), visit=2)
    assert ranged[0].labels["snr"] != first[1].labels["snr"]
    assert ranged[1].flux.tobytes() == simulate_survey(survey, 3, seed=1303, snr=(5, 40), visit=2)[2].flux.tobytes()


@pytest.mark.parametrize("survey", ["sdss", "boss", "desi", "apogee", "lamost"])
def test_bad_pixels_exist_and_say_nothing(survey):
    spectra = simulate_survey(survey, 25, snr=50)
    outliers, flagged = [], 0
    for spectrum in spectra:
        dead = spectrum.ivar == 0
        flagged += (spectrum.mask & ~dead).sum()
        assert spectrum.mask[dead].all() and spectrum.good.mean() > 0.5
        outliers.append(np.abs(spectrum.flux - spectrum.truth)[dead] > 0.25 * np.median(spectrum.truth))
    outliers = np.concatenate(outliers)
    assert len(outliers) >= 10 and outliers.mean() > 0.7
    assert (flagged > 0) == (survey in ("sdss", "boss", "apogee"))


@pytest.mark.parametrize("kind", ["STAR", "GALAXY", "QSO"])
def test_a_class_can_be_asked_for(kind):
    assert {s.labels["class"] for s in simulate_survey("galah", 3, kind=kind)} == {kind}
    usual = [s for s in simulate_survey("sdss", 20) if s.labels["class"] == kind]
    forced = {s.object_id: s for s in simulate_survey("sdss", 20, kind=kind)}
    for spectrum in usual:
        np.testing.assert_array_equal(spectrum.flux, forced[spectrum.object_id].flux)
    with pytest.raises(ValueError, match="kind must be one of STAR, GALAXY, QSO, found 'star'"):
        simulate_survey("sdss", 1, kind="star")


def test_the_mix_of_classes():
    assert {s.labels["class"] for name in ("galah", "apogee") for s in simulate_survey(name, 30)} == {"STAR"}
    for name in ("sdss", "boss", "desi"):
        classes = [s.labels["class"] for s in simulate_survey(name, 60)]
        assert min(classes.count(kind) for kind in ("GALAXY", "QSO", "STAR")) >= 6
    assert np.mean([s.labels["class"] == "STAR" for s in simulate_survey("lamost", 60)]) > 0.7


@pytest.mark.parametrize("survey", NAMES)
def test_labels_are_present_and_in_range(survey):
    for spectrum in simulate_survey(survey, 40):
        labels = spectrum.labels
        expected = {"class", "redshift", "snr"}
        if labels["class"] != "STAR":
            physics = {"log_stellar_mass", "age", "log_ssfr", "metallicity"} if labels["class"] == "GALAXY" else set()
            assert set(labels) == expected | physics and 0 < labels["redshift"] < 4.1
            continue
        assert set(labels) == expected | {"teff", "logg", "feh", "rv"}
        assert 3200 <= labels["teff"] <= 11_000 and 0 <= labels["logg"] <= 5 and -2.5 <= labels["feh"] <= 0.5
        assert labels["redshift"] == pytest.approx(labels["rv"] / LIGHT_SPEED)
        assert (labels["rv"] == 0) == (survey == "apogee")


@pytest.mark.parametrize("survey", ["sdss", "boss", "desi"])
def test_galaxy_lines_fall_at_rest_times_one_plus_z(survey):
    checked = 0
    for spectrum in of_class(survey, "GALAXY", n=80):
        stretch = 1 + spectrum.labels["redshift"]
        for rest in (5008.24, 6564.61):
            centre = rest * stretch
            near = np.abs(spectrum.wavelength - centre) < 8 * stretch
            emission = near.sum() > 5 and spectrum.truth[near].max() > 1.5 * np.median(spectrum.truth[near])
            if centre < spectrum.wavelength[-1] - 50 and emission:
                assert abs(peak(spectrum, centre, 8 * stretch) - centre) < 1.0 * np.diff(spectrum.wavelength).max()
                checked += 1
    assert checked >= 10


def test_galaxies_break_at_4000_angstrom():
    ratios = []
    for spectrum in of_class("sdss", "GALAXY", n=120):
        rest = spectrum.wavelength / (1 + spectrum.labels["redshift"])
        if rest[0] < 3850:
            windows = ((rest > 4000) & (rest < 4100), (rest > 3850) & (rest < 3950))
            ratios.append(np.divide(*[spectrum.truth[window].mean() for window in windows]))
    assert 1.0 < np.percentile(ratios, 10) < 1.4  # Balogh et al. 1999, ApJ 527, 54: 1.0-1.3 young, 1.6-2.2 old
    assert 1.5 < np.percentile(ratios, 90) < 3.0


def test_quasars_have_broad_lines_and_a_forest():
    far = [s for s in of_class("sdss", "QSO", n=150) if 2.5 < s.labels["redshift"] < 3.3]
    assert len(far) >= 4
    for spectrum in far:
        rest = spectrum.wavelength / (1 + spectrum.labels["redshift"])
        level = {
            name: np.median(spectrum.truth[(rest > low) & (rest < high)])
            for name, low, high in (("forest", 1080, 1170), ("line", 1544, 1556), ("beside", 1470, 1490))
        }
        assert level["line"] > 1.15 * level["beside"]
        red, blue = ((rest > 1300) & (rest < 1350)), ((rest > 1080) & (rest < 1170))
        assert np.abs(np.diff(spectrum.truth[blue])).mean() > 5 * np.abs(np.diff(spectrum.truth[red])).mean()


def test_galah_h_alpha_is_at_the_air_wavelength_shifted_by_rv():
    stars = [s for s in simulate_survey("galah", 25) if s.labels["teff"] < 6500]
    assert len(stars) >= 8 and max(abs(s.labels["rv"]) for s in stars) > 40
    for spectrum in stars:
        expected = H_ALPHA_AIR * (1 + spectrum.labels["rv"] / LIGHT_SPEED)
        measured = centroid(spectrum, expected, 1.5)
        assert abs(measured / expected - 1) * LIGHT_SPEED < 2.0  # km/s; vacuum instead of air would be off by 83


def test_apogee_lines_are_at_rest_in_vacuum():
    # In M dwarfs molecules hide the line.
    stars = [s for s in simulate_survey("apogee", 20) if 4000 < s.labels["teff"] < 5200 and s.labels["feh"] > -1]
    assert len(stars) >= 6
    for spectrum in stars:
        measured = centroid(spectrum, 15770.15, 1.3)  # Mg I, vacuum
        assert abs(measured / 15770.15 - 1) * LIGHT_SPEED < 2.0


def test_a_star_in_the_observed_frame_moves():
    stars = [s for s in of_class("desi", "STAR", n=120) if 4200 < s.labels["teff"] < 5500 and s.labels["feh"] > -1]
    for spectrum in stars:
        expected = 8544.44 * (1 + spectrum.labels["rv"] / LIGHT_SPEED)  # Ca II, vacuum
        assert abs(centroid(spectrum, expected, 12) / expected - 1) * LIGHT_SPEED < 6.0
    assert len(stars) >= 5


def equivalent_width(spectrum, centre, half_width):
    near = np.abs(spectrum.wavelength - centre) < half_width
    wavelength, flux = spectrum.wavelength[near], spectrum.truth[near].astype(np.float64)
    return np.trapezoid(1 - flux / np.interp(wavelength, wavelength[[0, -1]], flux[[0, -1]]), wavelength)


def rank_correlation(first, second):
    return np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(second)))[0, 1]


def test_lines_follow_temperature_and_metallicity():
    stars = of_class("lamost", "STAR", n=150)
    dwarfs = [s for s in stars if s.labels["logg"] > 3.8]
    balmer = [equivalent_width(s, 4862.68, 20) for s in dwarfs if s.labels["teff"] < 8500]
    teff = [s.labels["teff"] for s in dwarfs if s.labels["teff"] < 8500]
    assert rank_correlation(balmer, teff) > 0.8
    alike = [s for s in stars if 4200 < s.labels["teff"] < 5400]
    design = np.array([[s.labels["feh"], s.labels["teff"] / 1000, s.labels["logg"], 1] for s in alike])
    magnesium = np.log10([equivalent_width(s, 5178, 16) for s in alike])
    metals, temperature, gravity, _ = np.linalg.lstsq(design, magnesium)[0]
    assert 0.2 < metals < 0.7 and temperature < 0 and gravity > 0  # all monotone, the metals in dex per dex


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("vipers", 1),
            "survey must be one of sdss, boss, desi, galah, apogee, lamost, lamost_mrs, gaia_xp, found 'vipers'",
        ),
        (("sdss", -1), "n must be a non-negative integer, found -1"),
        (("sdss", 1.5), "n must be a non-negative integer, found 1.5"),
        (("sdss", 1, 0.5), "seed must be a non-negative integer, found 0.5"),
        (("sdss", 1, -3), "seed must be a non-negative integer, found -3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_survey(*arguments)


@pytest.mark.parametrize("simulate", [partial(simulate_survey, "sdss"), simulate_galaxy_pairs])
def test_a_visit_has_a_number(simulate):
    with pytest.raises(ValueError, match="visit must be a non-negative integer, found -1"):
        simulate(1, visit=-1)


@pytest.mark.parametrize("snr", [0, -1, np.nan, (20, 5), (1, 2, 3), ()])
def test_bad_signal_to_noise_is_refused(snr):
    with pytest.raises(ValueError, match="snr must be"):
        simulate_survey("sdss", 1, snr=snr)


def test_no_spectra():
    assert simulate_survey("desi", 0) == []
