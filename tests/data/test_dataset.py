"""Splits that share no object, and mixtures by weight."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectok_hf import Spectrum, SpectrumProcessor
from spectok_hf.data.dataset import SpectrumDataset, by_survey, object_groups, split_by_object
from spectok_hf.data.mixtures import Visit

ARCSEC = 1 / 3600  # degrees
WAVELENGTH = 4000 + 1.5 * np.arange(64)


def make_spectrum(ra=None, dec=None, *, survey="sdss", object_id=None, level=1.0):
    labels = {} if ra is None else {"ra": ra, "dec": dec}
    flux = np.full(64, level)
    return Spectrum(flux, WAVELENGTH, np.ones(64), survey=survey, object_id=object_id, labels=labels)


def moved(ra, dec, distance, angle):
    """A position `distance` arcsec away, in degrees, found by turning unit vectors (no wrap, no poles)."""
    ra, dec, distance = np.radians([ra, dec, distance * ARCSEC])
    here = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    east = np.array([-np.sin(ra), np.cos(ra), 0])
    there = np.cos(distance) * here + np.sin(distance) * (np.sin(angle) * east + np.cos(angle) * np.cross(here, east))
    return np.degrees(np.arctan2(there[1], there[0])) % 360, np.degrees(np.arcsin(there[2]))


positions = st.tuples(
    st.floats(0, 360, exclude_max=True) | st.sampled_from([0.0, 1e-5, 359.99999]),
    st.floats(-90, 90) | st.sampled_from([-89.9999, -1e-5, 0.0, 89.99999]),
)


@given(positions, st.floats(0, 6.3))
def test_repeat_observations_are_one_object_everywhere_on_the_sky(position, angle):
    for distance, objects in ((0.3, 1), (1.9, 1), (2.1, 2)):
        pair = [make_spectrum(*position), make_spectrum(*moved(*position, distance, angle), survey="desi")]
        assert len(set(object_groups(pair))) == objects


@pytest.mark.parametrize("dec", [0.0, -30.0, 80.0, 89.99])
def test_repeat_observations_across_any_cell_border(dec):
    # 0.3 arcsec apart along a strip of 30 arcsec: wherever a border lies, some pair straddles it.
    for start in np.arange(0, 30, 0.3):
        pair = [make_spectrum(210.0, dec + (start + step) * ARCSEC) for step in (0, 0.3)]
        assert len(set(object_groups(pair))) == 1


def test_a_chain_of_observations_is_one_object_in_any_order():
    chain = [make_spectrum(150.0, 2.0 + offset * ARCSEC) for offset in (0, 1.5, 3.0, 4.5)]
    apart = make_spectrum(150.0, 2.0 + 7 * ARCSEC)
    for order in ([0, 1, 2, 3, 4], [0, 2, 4, 1, 3], [4, 3, 2, 1, 0]):
        keys = dict(zip(order, object_groups([[*chain, apart][index] for index in order]), strict=True))
        assert keys[0] == keys[1] == keys[2] == keys[3] != keys[4]


def test_identifiers_count_within_a_survey_where_there_is_no_position():
    spectra = [
        make_spectrum(object_id="7"),
        make_spectrum(object_id="7", level=2.0),
        make_spectrum(object_id="8"),
        make_spectrum(object_id="7", survey="desi"),
        make_spectrum(float("nan"), 10.0, object_id="7"),
    ]
    keys = object_groups(spectra)
    assert keys[0] == keys[1] == keys[4]
    assert len(set(keys)) == 3


def test_a_product_without_a_position_belongs_to_the_one_with():
    star = [make_spectrum(150.0, 2.0, object_id="7"), make_spectrum(object_id="7", level=2.0)]
    other = [make_spectrum(170.0, 2.0, object_id="8"), make_spectrum(object_id="7", survey="desi")]
    for order in ([0, 1, 2, 3], [3, 1, 2, 0]):
        keys = dict(zip(order, object_groups([[*star, *other][index] for index in order]), strict=True))
        assert keys[0] == keys[1] and len(set(keys.values())) == 3


def test_unnamed_spectra_are_objects_of_their_own():
    keys = object_groups([make_spectrum(level=level) for level in (1, 2, 3)])
    assert len(set(keys)) == 3


def sky(rng, objects=40):
    """Objects of three surveys, observed one to three times each within 0.3 arcsec, some in two surveys."""
    spectra, owners = [], []
    for number in range(objects):
        # Around 0 = 360 degrees, at high declination, a minute of arc apart.
        ra, dec = (359.9 + 0.2 * rng.random()) % 360, 85 + number / 60
        for _ in range(rng.integers(1, 4)):
            survey = ("sdss", "desi")[rng.integers(2)] if number < 30 else "lamost"
            place = moved(ra, dec, 0.3 * rng.random(), 6.3 * rng.random())
            spectra.append(make_spectrum(*place, survey=survey, level=1 + rng.random()))
            owners.append(number)
    return spectra, owners


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_no_object_is_on_both_sides(seed, share):
    spectra, owners = sky(np.random.default_rng(seed))
    owner = {id(spectrum): number for spectrum, number in zip(spectra, owners, strict=True)}
    train, evaluation = split_by_object(spectra, share, seed=seed)
    assert len(train) + len(evaluation) == len(spectra)
    assert not {owner[id(s)] for s in train} & {owner[id(s)] for s in evaluation}
    assert {s.survey for s in evaluation} == {s.survey for s in train} == {"sdss", "desi", "lamost"}


def test_the_split_does_not_depend_on_the_order():
    spectra, _ = sky(np.random.default_rng(0))
    spectra += [make_spectrum(object_id=str(number)) for number in range(9)]
    spectra += [make_spectrum(level=10 + number) for number in range(9)]  # unnamed
    expected = {id(spectrum) for spectrum in split_by_object(spectra, 0.3)[1]}
    for seed in range(5):
        shuffled = random.Random(seed).sample(spectra, len(spectra))
        assert {id(spectrum) for spectrum in split_by_object(shuffled, 0.3)[1]} == expected


def test_each_side_keeps_the_order_of_the_input():
    spectra = [make_spectrum(object_id=str(number)) for number in range(50)]
    for side in split_by_object(spectra, 0.4):
        numbers = [int(spectrum.object_id) for spectrum in side]
        assert numbers == sorted(numbers)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.floats(0.01, 0.5), st.integers(0, 3))
def test_every_survey_gives_its_share(sizes, share, seed):
    spectra = [
        make_spectrum(survey=f"survey{number}", object_id=str(index))
        for number, size in enumerate(sizes)
        for index in range(size)
    ]
    evaluation = split_by_object(spectra, share, seed=seed)[1]
    for number, size in enumerate(sizes):
        given_ = sum(spectrum.survey == f"survey{number}" for spectrum in evaluation)
        assert given_ == (max(round(share * size), 1) if size > 1 else 0)


def test_another_seed_is_another_split():
    spectra = [make_spectrum(object_id=str(number)) for number in range(50)]
    splits = [{s.object_id for s in split_by_object(spectra, 0.2, seed=seed)[1]} for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert {len(split) for split in splits} == {10}


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=f"eval_share must lie between 0 and 1, found {share}"):
        split_by_object([make_spectrum()], share)


def test_nothing_to_split():
    assert split_by_object([], 0.2) == ([], [])


def test_a_data_set_holds_what_the_processor_makes():
    processor = SpectrumProcessor()
    spectra = [make_spectrum(level=level) for level in (1, 2)]
    dataset = SpectrumDataset(spectra, processor)
    assert len(dataset) == 2 and dataset.spectra == spectra
    for features, spectrum in zip([dataset[0], dataset[1]], spectra, strict=True):
        for name, value in processor.patch(spectrum).items():
            np.testing.assert_array_equal(features[name], value)


def test_a_data_set_names_the_spectrum_without_a_valid_patch():
    bad = Spectrum(np.ones(64), WAVELENGTH, np.zeros(64), survey="sdss", object_id="13")
    with pytest.raises(
        ValueError,
        match=r"Spectrum\(sdss 13: 64 pixels.*has no patch of which .* are good: drop it",
    ):
        SpectrumDataset([make_spectrum(), bad], SpectrumProcessor())


def test_a_lazy_data_set_leaves_the_patching_to_the_collator():
    processor = SpectrumProcessor()
    spectra = [make_spectrum(level=level) for level in (1, 2)]
    dataset = SpectrumDataset(spectra, processor, lazy=True)
    assert len(dataset) == 2 and dataset[1] is spectra[1]
    np.testing.assert_array_equal(dataset.features[1]["flux"], processor.patch(spectra[1])["flux"])
    bad = SpectrumDataset([Spectrum(np.ones(64), WAVELENGTH, np.zeros(64))], processor, lazy=True)
    with pytest.raises(ValueError, match=r"has no patch of which .* are good: drop it"):
        bad.features[0]


def test_a_visit_says_which_spectrum_and_comes_back_with_it():
    spectra = [make_spectrum(level=level) for level in (1, 2)]
    assert SpectrumDataset(spectra, SpectrumProcessor(), lazy=True)[Visit(1, 17)] == (spectra[1], 17)
    features, number = SpectrumDataset(spectra, SpectrumProcessor())[Visit(0, 5)]
    assert number == 5
    np.testing.assert_array_equal(features["flux"], SpectrumProcessor().patch(spectra[0])["flux"])


def test_simulated_spectra_are_a_group_of_their_own():
    simulated = Spectrum(np.ones(64), WAVELENGTH, np.ones(64), survey="sdss", truth=np.ones(64))
    real = Spectrum(np.ones(64), WAVELENGTH, np.ones(64), survey="sdss")
    assert list(by_survey([simulated, real])) == ["sdss-simulated", "sdss"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [[5000.0, np.nan], [np.inf, 4.4]],
            "must be finite, or NaN where they are missing, found 1 that are infinite",
        ),
        ([[5000.0, 4.5], [-9999.0, 4.4]], "found 1 that are infinite or -9999, which stands for a missing value"),
        ([5000, -9999], "found 1 that are infinite or -9999"),
        ([[np.nan, np.nan], [np.nan, np.nan]], "must not all be missing, found none for 2 spectra"),
        ([-100, -100], "must not all be missing"),
    ],
)
def test_labels_that_would_ruin_a_training_in_silence(labels, message):
    with pytest.raises(ValueError, match=message):
        SpectrumDataset([make_spectrum(), make_spectrum(level=2.0)], SpectrumProcessor(), labels=labels)


def test_missing_labels_and_velocities_of_minus_100_are_kept():
    spectra = [make_spectrum(), make_spectrum(level=2.0)]
    for labels in ([[np.nan, -100.0], [-100.0, np.nan]], [-100, 1]):
        dataset = SpectrumDataset(spectra, SpectrumProcessor(), labels=labels)
        np.testing.assert_array_equal([feature["labels"] for feature in dataset], labels)
