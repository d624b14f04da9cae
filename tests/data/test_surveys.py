"""The survey table: grids that are what the data models say, and words the rest of the package knows."""

import numpy as np
import pytest

from spectok_hf.data.surveys import SURVEYS
from spectok_hf.models.spectrum import FRAMES, MEDIA, Spectrum


def grid(arm):
    axis = arm.start + arm.step * np.arange(arm.pixels)
    return 10.0**axis if arm.log else axis


@pytest.mark.parametrize("name", SURVEYS)
def test_grid_makes_a_valid_spectrum(name):
    facts = SURVEYS[name]
    wavelength = np.concatenate([grid(arm) for arm in facts.arms])
    flux = np.ones(len(wavelength))
    spectrum = Spectrum(flux, wavelength, flux, medium=facts.medium, frame=facts.frame, survey=name)
    assert len(spectrum) == sum(arm.pixels for arm in facts.arms)
    assert facts.medium in MEDIA and facts.frame in FRAMES
    assert facts.reference and facts.resolving_power > {"gaia_xp": 20, "vipers": 200}.get(name, 1000)


@pytest.mark.parametrize(
    ("name", "pixels", "first", "last"),
    [
        ("sdss", [3840], 3800, 9205),
        ("boss", [4620], 3560, 10320),
        ("desi", [7781], 3600, 9824),
        ("galah", [4096] * 4, 4713, 7887),
        ("apogee", [3028, 2495, 1991], 15152.2, 16943.5),
        ("lamost", [3909], 3700, 9100),
        ("gaia_xp", [343], 3360, 10200),
        ("lamost_mrs", [3376, 3316], 4950, 6800),
        ("vipers", [557], 5514.28, 9484.12),
    ],
)
def test_pixels_and_range(name, pixels, first, last):
    arms = SURVEYS[name].arms
    assert [arm.pixels for arm in arms] == pixels
    assert grid(arms[0])[0] == pytest.approx(first, abs=3 if name not in ("desi", "apogee") else 0.1)
    assert grid(arms[-1])[-1] == pytest.approx(last, abs=3 if name not in ("desi", "apogee") else 0.1)


def test_desi_native_arms_make_the_merged_grid():
    facts = SURVEYS["desi"]
    pixels = {round(float(wavelength), 3) for arm in facts.native_arms for wavelength in grid(arm)}
    assert sorted(pixels) == [round(float(wavelength), 3) for wavelength in grid(facts.arms[0])]


def test_apogee_bits_are_the_pipelines_bad_value():
    assert sum(1 << bit for bit in SURVEYS["apogee"].bad_bits.values()) == 16639


def test_rows_are_frozen():
    with pytest.raises(AttributeError):
        SURVEYS["sdss"].medium = "air"
