"""What a checkpoint saw, and whether a spectrum is unlike all of it."""

import json
import warnings

import numpy as np
import pytest

from spectok_hf import SpecTokConfig, Spectrum, simulate_survey
from spectok_hf.data.domain import (
    ASPECTS,
    UNKNOWN,
    OutOfDomainWarning,
    TrainingDomain,
    describe_outside,
    flag,
    median_snr,
    outside,
    warn_outside,
)
from spectok_hf.inference.answers import place_of
from spectok_hf.models.wavelength import vacuum_to_air

SURVEYS = ("sdss", "boss", "desi", "galah", "apogee", "lamost", "lamost_mrs", "gaia_xp")


@pytest.fixture(scope="module")
def shipped():
    config = SpecTokConfig.from_pretrained(place_of("spectok-tiny")[0])
    return TrainingDomain.from_config(config)


@pytest.fixture(scope="module")
def domain():
    """Of SDSS, and of APOGEE, in vacuum."""
    return TrainingDomain.of(one for survey in ("sdss", "apogee") for one in simulate_survey(survey, 20, seed=971))


def like(spectrum, **changes):
    """A spectrum with some of its properties changed."""
    names = ("flux", "wavelength", "ivar", "mask", "survey", "object_id", "medium", "frame")
    fields = {name: getattr(spectrum, name) for name in names} | changes
    labels = fields.pop("labels", {})
    return Spectrum(fields.pop("flux"), fields.pop("wavelength"), fields.pop("ivar"), labels=labels, **fields)


@pytest.fixture(scope="module")
def sdss():
    return simulate_survey("sdss", 1, seed=972, snr=(20, 20))[0]


@pytest.fixture(scope="module")
def apogee():
    return simulate_survey("apogee", 1, seed=972, snr=(50, 60))[0]


@pytest.mark.parametrize("missing", [None, float("nan"), "high"])
def test_a_resolving_power_that_is_no_number_is_not_compared(missing, domain, sdss):
    assert outside(domain, like(sdss, survey=None, labels={"resolving_power": missing})) == {}
    assert "resolving_power" in outside(domain, like(sdss, survey=None, labels={"resolving_power": 100}))


def test_a_domain_of_nothing_is_not_known(sdss):
    assert list(TrainingDomain.of([]).differences(sdss)) == [UNKNOWN]


# Inside -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("survey", SURVEYS)
def test_spectra_of_the_training_surveys_lie_inside(survey, shipped):
    for spectrum in simulate_survey(survey, 12, seed=2512):
        assert outside(shipped, spectrum) == {}


def test_real_spectra_of_the_training_surveys_lie_inside(shipped, spectra_dir):
    pytest.importorskip("astropy")
    from real_spectra import load_real_spectra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of readers, about single files
        spectra = load_real_spectra(spectra_dir)
    flags = [flag(outside(shipped, spectrum)) for spectrum in spectra]
    lost = [(one.survey, one.object_id, found) for one, found in zip(spectra, flags, strict=True) if found]
    print(f"{len(lost)} of {len(spectra)} real spectra are flagged: {lost[:5]}")
    assert len(spectra) > 500 and len(lost) < 0.01 * len(spectra)


# Outside, by aspect -------------------------------------------------------------------------------


def test_a_spectrum_like_the_training_differs_in_nothing(domain, sdss, apogee):
    assert domain.differences(sdss) == domain.differences(apogee) == {}


@pytest.mark.parametrize("shift", [1.1, 0.9, 2.5])
def test_wavelengths_beyond_the_training(shift, domain, sdss):
    found = domain.differences(like(sdss, wavelength=sdss.wavelength * shift, survey=None))
    assert "wavelength" in found and "of its good pixels" in found["wavelength"]


def test_an_axis_in_nm_that_passes_for_angstrom_is_asked_about(domain, apogee, sdss):
    found = domain.differences(like(apogee, wavelength=apogee.wavelength / 10, survey=None))
    assert "1515 to 1694 Å" in found["wavelength"] and 'in nm? then say wavelength_unit="nm"' in found["wavelength"]
    for shift in (0.3, 2.5):
        assert "nm" not in domain.differences(like(sdss, wavelength=sdss.wavelength * shift))["wavelength"]


def test_a_few_pixels_beyond_are_no_matter(domain, sdss):
    step = sdss.wavelength[-1] - sdss.wavelength[-2]
    more = sdss.wavelength[-1] + step * np.arange(1, 40)
    wavelength, ones = np.concatenate([sdss.wavelength, more]), np.ones(39)
    flux, ivar = np.concatenate([sdss.flux, ones]), np.concatenate([sdss.ivar, ones])
    assert domain.differences(like(sdss, flux=flux, wavelength=wavelength, ivar=ivar, mask=None)) == {}
    bad = np.arange(len(flux)) >= len(sdss)
    far = np.where(bad, wavelength + 5000, wavelength)
    assert (
        domain.differences(like(sdss, flux=flux, wavelength=far, ivar=ivar, mask=bad)) == {}
    )  # bad pixels say nothing


def rebinned(spectrum, factor):
    count = len(spectrum) // factor * factor
    cut = {name: getattr(spectrum, name)[:count:factor] for name in ("flux", "wavelength", "ivar", "mask")}
    return like(spectrum, survey=None, **cut)


def test_pixels_of_another_width(domain, sdss):
    assert domain.differences(rebinned(sdss, 1)) == {}
    found = domain.differences(rebinned(sdss, 4))
    assert list(found) == ["pixel_width"] and found["pixel_width"].startswith("pixels of 5.4")


def test_pixels_between_those_of_two_surveys_are_new(shipped, sdss):
    """Gaia has pixels of 20 Å there and GALAH of 0.06: 5 Å lie between them, and no training had them."""
    found = shipped.differences(rebinned(sdss, 4))
    assert list(found) == ["pixel_width"] and "or 20" in found["pixel_width"]


@pytest.mark.parametrize(("power", "expected"), [(1900, False), (1500, False), (300, True), (9000, True)])
def test_another_resolving_power(power, expected, domain, sdss):
    found = domain.differences(like(sdss, survey=None, labels={"resolving_power": power}))
    assert list(found) == (["resolving_power"] if expected else [])
    if expected:
        assert found["resolving_power"] == f"resolving power {power}, where training had 1850 to 2200"


def test_a_survey_that_is_known_says_its_resolving_power(domain, sdss):
    assert list(domain.differences(like(sdss, survey="gaia_xp"))) == ["resolving_power"]
    assert domain.differences(like(sdss, survey="a new one")) == {}


@pytest.mark.parametrize(("factor", "expected"), [(1, False), (1e3, True), (1e-3, True), (-1, True)])
def test_another_signal_to_noise(factor, expected, domain, sdss):
    spectrum = like(sdss, flux=sdss.flux * np.sign(factor), ivar=sdss.ivar * factor**2)
    assert list(domain.differences(spectrum)) == (["snr"] if expected else [])


def test_another_medium_and_frame(domain, apogee):
    assert list(domain.differences(like(apogee, medium="air", wavelength=vacuum_to_air(apogee.wavelength)))) == [
        "medium"
    ]
    other = "observed" if apogee.frame == "rest" else "rest"
    found = domain.differences(like(apogee, frame=other))
    assert found == {"frame": f"frame {other}, where training had {apogee.frame}"}


def test_air_wavelengths_are_compared_in_the_medium_of_the_checkpoint():
    galah = simulate_survey("galah", 6, seed=973)
    domain = TrainingDomain.of(galah, "vacuum")
    assert domain.medium == "vacuum" and domain.surveys["galah"].media == ["air"]
    assert domain.wavelength[0][0] > galah[0].wavelength[galah[0].good][0] + 1
    assert all(domain.differences(one) == {} for one in galah)


def test_a_spectrum_without_a_good_pixel_differs_in_nothing(domain, sdss):
    assert domain.differences(like(sdss, ivar=np.zeros(len(sdss)))) == {}
    assert domain.differences(Spectrum([1.0], [5000.0], [1.0])).keys() <= set(ASPECTS)


# Domains ------------------------------------------------------------------------------------------


def test_a_domain_goes_through_a_config_and_back(domain, tmp_path):
    SpecTokConfig(training_domain=domain.as_json()).save_pretrained(tmp_path)
    again = TrainingDomain.from_config(SpecTokConfig.from_pretrained(tmp_path))
    assert again.as_json() == domain.as_json() == json.loads(json.dumps(domain.as_json()))
    assert again.wavelength == domain.wavelength
    assert TrainingDomain.from_config(SpecTokConfig()) is None
    later = {name: entry | {"colours": 7} for name, entry in domain.as_json().items()}
    assert TrainingDomain.from_config(SpecTokConfig(training_domain=later)).as_json() == domain.as_json()


def test_a_domain_says_what_its_spectra_were_like(domain):
    assert list(domain.surveys) == ["apogee", "sdss"]
    sdss = domain.surveys["sdss"]
    spectra = simulate_survey("sdss", 20, seed=971)
    assert sdss.spectra == 20 and sdss.media == ["vacuum"] and sdss.frames == ["observed"]
    assert sdss.snr == [round(func(map(median_snr, spectra)), 2) for func in (min, max)]
    assert sdss.wavelength[0][0] == pytest.approx(min(one.wavelength[one.good][0] for one in spectra), abs=0.06)
    assert sdss.wavelength[-1][-1] == pytest.approx(max(one.wavelength[one.good][-1] for one in spectra), abs=0.06)
    assert len(domain.surveys["apogee"].wavelength) == 3  # chips


def test_joined_domains_hold_both(domain):
    others = simulate_survey("sdss", 5, seed=974, snr=(300, 400)) + simulate_survey("boss", 5, seed=974)
    joined = TrainingDomain.of(others).joined(domain)
    assert set(joined.surveys) == {"apogee", "boss", "sdss"} and joined.surveys["sdss"].spectra == 25
    assert joined.surveys["sdss"].snr[0] == domain.surveys["sdss"].snr[0] and joined.surveys["sdss"].snr[1] > 290
    assert all(joined.differences(one) == {} for one in others)
    assert domain.joined(None).as_json() == domain.as_json() == domain.joined(domain).as_json() | domain.as_json()
    with pytest.raises(ValueError, match="one medium to be joined, found vacuum and air"):
        domain.joined(TrainingDomain({}, "air"))


def test_spectra_of_no_survey_and_without_good_pixels():
    wavelength = 5000 + np.arange(100.0)
    spectra = [Spectrum(np.ones(100), wavelength, np.full(100, ivar)) for ivar in (4.0, 0.0)]
    (name, seen), *rest = TrainingDomain.of(spectra).surveys.items()
    assert (name, rest, seen.spectra, seen.resolving_power, seen.snr) == ("unnamed", [], 1, None, [2, 2])


# What is said -------------------------------------------------------------------------------------


def test_who_does_not_know_says_so(sdss):
    assert flag(outside(None, sdss)) == UNKNOWN == "unknown"


def test_one_warning_for_all(domain, sdss):
    differences = [{}, {"snr": "S/N 1", "frame": "frame rest"}, {"snr": "S/N 2"}]
    assert [flag(entry) for entry in differences] == ["", "snr; frame", "snr"]
    with pytest.warns(OutOfDomainWarning) as caught:
        warn_outside(differences, ["a", "b", "c"], "spectok-tiny")
    assert len(caught) == 1
    assert str(caught[0].message) == (
        "2 of 3 spectra lie outside what spectok-tiny saw in training, and its answers may be wrong: b: S/N 1; frame "
        "rest"
    )
    assert describe_outside([{}], [sdss], "spectok-tiny") == ""
