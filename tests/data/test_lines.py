"""Spectral lines that pictures name: where they are, and which ones suit a spectrum."""

import numpy as np
import pytest

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.lines import LINES, find_lines, line_kind, line_redshift

# NIST, in vacuum, Å; C IV is the mean of its doublet.
KNOWN = {
    "galaxy": {"Hα": 6564.6, "Hβ": 4862.7, "[O III]": 5008.2, "Ca K": 3934.8},
    "quasar": {"Lyα": 1215.7, "C IV": 1549.1, "Mg II": 2798.8},
    "star": {"Na D": 5891.6, "K I": 7701.1},
    "apogee": {"Br 11": 16811.1, "K I": 15172.5},
}


def star(wavelength=None, **fields):
    wavelength = 5000.0 + np.arange(50) if wavelength is None else wavelength
    return Spectrum(np.ones(len(wavelength)), wavelength, np.ones(len(wavelength)), **fields)


@pytest.mark.parametrize("kind", KNOWN)
def test_lines_lie_where_atoms_have_them(kind):
    first = {}
    for line in LINES[kind]:
        first.setdefault(line.label, line.wavelength)
    for label, wavelength in KNOWN[kind].items():
        assert first[label] == pytest.approx(wavelength, abs=0.5)


def test_they_move_with_redshift_and_medium():
    (line,) = [line for line in find_lines("galaxy", (6500, 6580)) if line.label == "Hα"]
    (moved,) = [line for line in find_lines("galaxy", (7200, 7240), redshift=0.1) if line.label == "Hα"]
    assert moved.wavelength == pytest.approx(1.1 * line.wavelength)
    (in_air,) = [line for line in find_lines("galaxy", (6500, 6580), medium="air") if line.label == "Hα"]
    assert line.wavelength - in_air.wavelength == pytest.approx(1.81, abs=0.01)
    assert find_lines("galaxy", (7000, 7001)) == []


def test_the_most_telling_ones_come_first():
    labels = [line.label for line in find_lines("galaxy", (4700, 7000))]
    assert labels[:3] == ["Hα", "[O III]", "Hβ"]


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of galaxy, quasar, star, apogee, found 'planet'"):
        find_lines("planet", (4000, 9000))


@pytest.mark.parametrize("redshift", [-1.0, float("nan"), float("inf")])
def test_an_impossible_redshift_is_refused(redshift):
    with pytest.raises(ValueError, match="redshift must be above -1 and finite"):
        find_lines("star", (5000, 6000), redshift=redshift)
    with pytest.raises(ValueError, match="medium must be one of vacuum, air"):
        find_lines("star", (5000, 6000), medium="water")


@pytest.mark.parametrize("missing", [None, float("nan"), "unknown"])
def test_missing_labels_are_none(missing):
    assert line_redshift(star(labels={"class": "STAR", "rv": missing})) == 0
    assert line_redshift(star(labels={"class": "GALAXY", "redshift": missing})) is None


def test_simulated_lines_are_where_they_are_said_to_be():
    spectrum = simulate_survey("desi", 1, seed=911, kind="QSO", snr=50, honest=True)[0]
    ends = (spectrum.wavelength[0], spectrum.wavelength[-1])
    lines = find_lines(line_kind(spectrum), ends, redshift=line_redshift(spectrum))
    strong = next(line for line in lines if line.label in ("Lyα", "C IV", "C III]", "Mg II", "Hβ", "Hα"))
    near = np.abs(spectrum.wavelength / strong.wavelength - 1) < 0.02
    around = np.abs(spectrum.wavelength / strong.wavelength - 1) < 0.08
    assert np.median(spectrum.truth[near]) > 1.02 * np.median(spectrum.truth[around])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"labels": {"class": "GALAXY"}}, "galaxy"),
        ({"labels": {"class": "QSO"}}, "quasar"),
        ({"labels": {"class": "STAR"}}, "star"),
        ({"survey": "galah"}, "star"),
        ({"survey": "apogee-visit", "wavelength": 15_200.0 + np.arange(50)}, "apogee"),
        ({"survey": "desi"}, None),
    ],
)
def test_the_kind_of_a_spectrum(fields, expected):
    assert line_kind(star(**fields)) == expected


def test_a_class_found_otherwise_goes_before_the_label():
    assert line_kind(star(labels={"class": "STAR"}), "QSO") == "quasar"


def test_where_the_lines_of_a_spectrum_are():
    assert line_redshift(star(labels={"class": "GALAXY", "redshift": 0.3})) == 0.3
    assert line_redshift(star(labels={"class": "GALAXY", "redshift": np.nan})) is None
    assert line_redshift(star(labels={"class": "GALAXY"})) is None
    assert line_redshift(star(frame="rest", labels={"class": "QSO", "redshift": 2.0})) == 0
    assert line_redshift(star(labels={"class": "STAR", "rv": 30.0})) == pytest.approx(1e-4, rel=1e-3)
    assert line_redshift(star(labels={"class": "STAR"})) == 0


def test_a_star_moves_with_its_redshift_where_that_is_one_of_a_star():
    moving = {"class": "STAR", "redshift": -5e-4}
    assert line_redshift(star(labels=moving)) == line_redshift(star(labels=moving | {"zwarn": 0})) == -5e-4
    assert line_redshift(star(labels=moving | {"rv": 30.0})) == pytest.approx(1e-4, rel=1e-3)
    assert line_redshift(star(labels=moving | {"rv": 0.0})) == 0
    assert line_redshift(star(labels=moving | {"zwarn": 4})) == 0
    assert line_redshift(star(labels=moving | {"redshift": 0.4})) == 0
    assert line_redshift(star(labels=moving, frame="rest")) == 0


def test_both_lines_of_the_doublet_of_galaxies_are_known():
    found = [line.wavelength for line in find_lines("galaxy", (3700, 3750)) if line.label == "[O II]"]
    assert found == pytest.approx([3727.09, 3729.88])  # NIST, in vacuum
