"""Anomalies: each is what it says, at the strength that is asked for, and nothing else changes."""

import numpy as np
import pytest

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.anomalies import ANOMALIES, inject_anomaly

ALONE = [kind for kind in ANOMALIES if kind != "stitched"]


@pytest.fixture(scope="module")
def galaxies():
    return simulate_survey("desi", 2, seed=2512, kind="GALAXY", snr=20, honest=True)


def inject(galaxies, kind, **options):
    partner = galaxies[1] if kind == "stitched" else None
    return inject_anomaly(galaxies[0], kind, partner=partner, **options)


@pytest.mark.parametrize("kind", ANOMALIES)
def test_an_anomaly_is_said_in_the_labels_and_leaves_the_given_spectrum_as_it_is(galaxies, kind):
    before = galaxies[0].flux.copy()
    odd = inject(galaxies, kind, seed=7)
    assert odd.labels["anomaly"] == kind and odd.labels["anomaly_strength"] == ANOMALIES[kind]
    places = np.array(odd.labels["anomaly_wavelength"])
    assert len(places) and (places >= odd.wavelength[0]).all() and (places <= odd.wavelength[-1]).all()
    assert "anomaly" not in galaxies[0].labels and (galaxies[0].flux == before).all()
    assert (odd.flux != before).any() and np.isfinite(odd.flux).all()


@pytest.mark.parametrize("kind", ALONE)
def test_the_seed_decides_and_nothing_else(galaxies, kind):
    one, same, other = (inject(galaxies, kind, seed=seed).flux for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


@pytest.mark.parametrize("kind", ["stitched", "cosmic_rays", "fake_lines", "flux_step"])
def test_the_noise_stays_that_of_the_stated_error(galaxies, kind):
    odd = inject(galaxies, kind)
    pulls = ((odd.flux - odd.truth) / odd.error)[odd.good]
    assert np.std(pulls) == pytest.approx(1, abs=0.05)


def test_a_stitched_spectrum_is_one_object_in_the_blue_and_another_in_the_red_without_a_jump(galaxies):
    odd = inject(galaxies, "stitched", strength=0.3)
    joint = odd.labels["anomaly_wavelength"][0]
    red = odd.wavelength >= joint
    assert red.mean() == pytest.approx(0.3, abs=0.05)
    assert (odd.flux[~red] == galaxies[0].flux[~red]).all()
    ratio = odd.truth[red] / galaxies[1].truth[red]
    assert ratio.std() < 1e-4 * ratio.mean()  # the other's light, times one number
    pixel = int(red.argmax())
    before, after = odd.truth[pixel - 50 : pixel], odd.truth[pixel : pixel + 50]
    assert np.median(after) == pytest.approx(np.median(before), rel=0.1)


def test_without_noise_free_fluxes_the_other_spectrum_brings_its_own_noise(galaxies):
    real = [Spectrum.unchecked(**vars(one) | {"truth": None}) for one in galaxies]
    odd = inject(real, "stitched")
    red = (odd.wavelength >= odd.labels["anomaly_wavelength"][0]) & galaxies[1].good
    signal = [(one.flux / one.error)[red] for one in (odd, galaxies[1])]
    assert np.median(np.abs(signal[0] - signal[1])) < 1e-3
    assert odd.truth is None


def test_cosmic_rays_are_positive_spikes_of_the_strength_that_is_asked_for(galaxies):
    odd = inject(galaxies, "cosmic_rays", strength=9)
    added = ((odd.flux - galaxies[0].flux) / galaxies[0].error)[odd.good]
    assert added.min() > -1e-3 and added.max() == pytest.approx(9, rel=0.01)
    assert 3 <= (added > 0.1).sum() <= 9
    assert (odd.ivar == galaxies[0].ivar).all() and (odd.mask == galaxies[0].mask).all()


def test_fake_lines_have_the_signal_to_noise_ratio_that_is_asked_for(galaxies):
    odd = inject(galaxies, "fake_lines", strength=12)
    added = (odd.truth.astype(float) - galaxies[0].truth) * np.sqrt(odd.ivar)
    assert np.sqrt((added[odd.good] ** 2).sum()) == pytest.approx(12 * 2**0.5, rel=0.05)


def test_a_step_multiplies_one_side_of_an_arms_boundary(galaxies):
    odd = inject(galaxies, "flux_step", strength=0.2)
    (boundary,) = odd.labels["anomaly_wavelength"]
    assert 5760 < boundary < 5802 or 7520 < boundary < 7622  # where DESI's arms overlap
    factor = odd.flux / galaxies[0].flux
    sides = [np.median(factor[part & odd.good]) for part in (odd.wavelength < boundary, odd.wavelength > boundary)]
    assert sorted(np.round(np.abs(np.array(sides) - 1), 3)) == [0, 0.2]
    assert np.allclose((odd.flux / odd.error)[odd.good], (galaxies[0].flux / galaxies[0].error)[odd.good], rtol=1e-3)


def test_swapped_arms_have_the_flux_of_another_arm_at_their_own_level(galaxies):
    odd = inject(galaxies, "swapped_arms", strength=0.4, seed=3)
    low, high = odd.labels["anomaly_wavelength"]
    stretch = (odd.wavelength >= low) & (odd.wavelength <= high)
    changed = odd.flux != galaxies[0].flux
    assert not changed[~stretch].any() and changed[stretch].mean() > 0.9
    assert np.median(odd.flux[stretch]) == pytest.approx(np.median(galaxies[0].flux[stretch]), rel=0.05)
    windows = np.lib.stride_tricks.sliding_window_view(galaxies[0].truth, int(stretch.sum()))
    ratios = windows / odd.truth[stretch]
    assert (ratios.std(1) / np.abs(ratios.mean(1))).min() < 1e-4  # a stretch of the same spectrum, times one number


def test_what_makes_no_sense_is_said(galaxies):
    with pytest.raises(ValueError, match="kind must be one of stitched, cosmic_rays"):
        inject_anomaly(galaxies[0], "ghost")
    with pytest.raises(ValueError, match=r"must be positive and at most 1, found 1\.5"):
        inject(galaxies, "swapped_arms", strength=1.5)
    with pytest.raises(ValueError, match="must be positive, found 0"):
        inject(galaxies, "cosmic_rays", strength=0)
    with pytest.raises(ValueError, match="needs partner="):
        inject_anomaly(galaxies[0], "stitched")
    with pytest.raises(ValueError, match="no other kind takes one"):
        inject_anomaly(galaxies[0], "flux_step", partner=galaxies[1])
    with pytest.raises(ValueError, match="another known redshift"):
        inject_anomaly(galaxies[0], "stitched", partner=galaxies[0])
    (quasar,) = simulate_survey("desi", 1, seed=2512, kind="QSO")
    with pytest.raises(ValueError, match="of the same class, found GALAXY and QSO"):
        inject_anomaly(galaxies[0], "stitched", partner=quasar)
    bad = Spectrum(np.ones(200), np.linspace(4000, 5000, 200), np.zeros(200))
    with pytest.raises(ValueError, match="needs 100 good pixels, found 0"):
        inject_anomaly(bad, "cosmic_rays")


def test_an_anomaly_that_nobody_could_see_is_refused(galaxies):
    hidden = galaxies[0].mask | (galaxies[0].wavelength > np.median(galaxies[0].wavelength))
    half = Spectrum.unchecked(**vars(galaxies[0]) | {"mask": hidden})
    refused = 0
    for seed in range(12):
        try:
            odd = inject_anomaly(half, "swapped_arms", seed=seed)
        except ValueError as error:
            assert "fell on bad pixels alone" in str(error)
            refused += 1
        else:
            assert (odd.good & (odd.flux != half.flux)).any()
    assert 0 < refused < 12


def test_a_partner_of_unknown_redshift_is_refused(galaxies):
    unknown = Spectrum.unchecked(**vars(galaxies[1]) | {"labels": galaxies[1].labels | {"redshift": float("nan")}})
    with pytest.raises(ValueError, match="another known redshift"):
        inject_anomaly(galaxies[0], "stitched", partner=unknown)
