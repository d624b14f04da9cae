"""Label arrays and the fields of a config, against values worked out by hand."""

import numpy as np
import pytest

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.labels import TARGET_UNITS, class_fields, class_labels, target_fields, target_labels

LABEL2ID = {"GALAXY": 0, "QSO": 1, "STAR": 2}


def labelled(*labels):
    return [
        Spectrum(np.ones(3), [4000.0, 4001, 4002], np.ones(3), object_id=str(number), labels=own)
        for number, own in enumerate(labels)
    ]


def classes(*names):
    return labelled(*({} if name is None else {"class": name} for name in names))


# Classes


def test_class_numbers_of_simulated_spectra():
    spectra = simulate_survey("lamost", 5)
    numbers = class_labels(spectra, LABEL2ID)
    assert numbers.dtype == np.int64
    assert [list(LABEL2ID)[number] for number in numbers] == [spectrum.labels["class"] for spectrum in spectra]


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_a_missing_class_is_ignored_and_told(missing):
    spectra = [*classes("STAR"), *labelled({"class": missing}, {})]
    with pytest.warns(UserWarning, match="2 of 3 spectra have no label 'class'"):
        assert class_labels(spectra, LABEL2ID).tolist() == [2, -100, -100]


def test_unknown_class_lists_both_sides():
    with pytest.raises(ValueError, match=r"one of GALAXY, QSO, found STAR, WD \(3 spectra of STAR, WD\)"):
        class_labels(classes("WD", "WD", "STAR"), {"GALAXY": 0, "QSO": 1})


def test_a_class_must_be_text_and_must_exist():
    with pytest.raises(ValueError, match="class of 0 must be text, found 3"):
        class_labels(classes(3), LABEL2ID)
    with pytest.raises(ValueError, match="no spectrum has the label 'kind', found the labels class"):
        class_labels(classes("STAR"), LABEL2ID, name="kind")
    with pytest.raises(ValueError, match="list of Spectrum, at least one, found a single Spectrum"):
        class_labels(classes("STAR")[0], LABEL2ID)
    with pytest.raises(ValueError, match="at least one, found 0 of list"):
        class_labels([], LABEL2ID)


def test_class_fields_are_sorted_and_fit_class_labels():
    spectra = classes("STAR", "QSO", "STAR", "GALAXY")
    fields = class_fields(spectra)
    assert fields == {
        "id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"},
        "label2id": LABEL2ID,
        "class_weights": None,
        "problem_type": "single_label_classification",
    }
    assert class_labels(spectra, fields["label2id"]).tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(("balance", "ratio"), [("inverse", 4.0), ("inverse-sqrt", 2.0)])
def test_class_weights_have_mean_one_over_the_spectra(balance, ratio):
    fields = class_fields(classes(*["QSO"] * 2, *["STAR"] * 8), balance=balance)
    rare, common = fields["class_weights"]
    assert rare / common == pytest.approx(ratio)  # 8 / 2, or its square root
    assert (2 * rare + 8 * common) / 10 == pytest.approx(1)
    assert type(rare) is float


def test_unlabelled_spectra_do_not_count_in_the_weights():
    spectra = classes("QSO", "STAR", "STAR", "STAR", None)
    with pytest.warns(UserWarning, match="1 of 5"):
        assert class_fields(spectra, balance="inverse")["class_weights"] == pytest.approx([2, 2 / 3])


def test_class_fields_refuse_what_is_no_classification():
    with pytest.raises(ValueError, match="two classes or more, found only class='STAR'"):
        class_fields(classes("STAR", "STAR"))
    with pytest.raises(ValueError, match="balance must be one of none, inverse, inverse-sqrt, found 'equal'"):
        class_fields(classes("STAR", "QSO"), balance="equal")


# Targets


def test_targets_of_simulated_stars():
    spectra = simulate_survey("lamost", 5, kind="STAR")
    values = target_labels(spectra, ["logg", "teff"])
    assert values.dtype == np.float32 and values.shape == (5, 2)
    np.testing.assert_array_equal(values[:, 1], np.float32([spectrum.labels["teff"] for spectrum in spectra]))
    np.testing.assert_array_equal(values[:, 0], np.float32([spectrum.labels["logg"] for spectrum in spectra]))


def test_missing_targets_are_nan():
    values = target_labels(labelled({"teff": 5000, "feh": np.float32(-1)}, {"teff": np.nan}, {"teff": None}), ["teff"])
    np.testing.assert_array_equal(values, [[5000], [np.nan], [np.nan]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5000", "teff of 1 must be a number, found '5000'"),
        (True, "teff of 1 must be a number, found True"),
        (np.True_, "teff of 1 must be a number, found np.True_"),
        (float("inf"), "teff of 1 must be finite, found inf"),
        (1e39, r"teff of 1 must be finite, found 1e\+39"),  # infinite as float32
    ],
)
def test_what_is_no_number_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        target_labels(labelled({"teff": 4000.0}, {"teff": value}), ["teff"])


def test_a_target_that_is_missing_everywhere():
    spectra = labelled({"teff": 1.0, "logg": np.nan}, {"teff": 2.0})
    with pytest.raises(ValueError, match="target logg is missing in all 2 spectra, which have the labels teff"):
        target_labels(spectra, ["teff", "logg"])


@pytest.mark.parametrize("names", ["teff", [], ["teff", "teff"]])
def test_names_are_a_list_of_different_labels(names):
    with pytest.raises(ValueError, match="names must be a list of different labels"):
        target_labels(labelled({"teff": 1.0}), names)


def test_target_fields_are_moments_without_the_missing():
    spectra = labelled({"teff": 4000, "redshift": 0.5}, {"teff": 6000, "redshift": 0.1}, {"redshift": 0.3})
    fields = target_fields(spectra, ["teff", "redshift"])
    assert fields["target_names"] == ["teff", "redshift"] and fields["target_units"] == ["K", ""]
    assert fields["target_mean"] == pytest.approx([5000, 0.3])
    assert fields["target_std"] == pytest.approx([1000, (0.08 / 3) ** 0.5])
    assert {type(value) for value in fields["target_mean"] + fields["target_std"]} == {float}


def test_moments_are_not_rounded_to_float32():
    fields = target_fields(labelled({"age": 1e7 + 0.25}, {"age": 1e7 + 0.75}), ["age"])
    assert fields["target_mean"] == [1e7 + 0.5] and fields["target_std"] == [0.25]


def test_units_of_own_targets_must_be_given():
    spectra = labelled({"vsini": 1.0, "teff": 1.0}, {"vsini": 3.0, "teff": 2.0})
    with pytest.raises(ValueError, match="the unit of vsini is not known: pass units="):
        target_fields(spectra, ["teff", "vsini"])
    fields = target_fields(spectra, ["teff", "vsini"], units={"vsini": "km/s", "teff": "kK"})
    assert fields["target_units"] == ["kK", "km/s"]


def test_a_target_without_spread():
    with pytest.raises(ValueError, match="target teff is 4000 in all 2 spectra that have it"):
        target_fields(labelled({"teff": 4000}, {"teff": 4000}, {}), ["teff"])


def test_units_are_physical_ones():
    units = pytest.importorskip("astropy.units")
    physical = {name: units.Unit(unit) for name, unit in TARGET_UNITS.items()}
    assert physical["logg"].physical_unit == units.cm / units.s**2
    assert physical["log_stellar_mass"].physical_unit == units.Msun
    assert physical["rv"].is_equivalent(units.m / units.s) and physical["mg_fe"] == units.dex


@pytest.mark.parametrize("label2id", [None, {}, {"QSO": 1, "STAR": 2}, {"QSO": 0, "STAR": 0}])
def test_class_numbers_must_be_those_of_the_logits(label2id):
    """A config that was given id2label alone has no label2id after reloading."""
    with pytest.raises(ValueError, match=r"label2id must give each class a number, from 0, found .*class_fields"):
        class_labels(classes("STAR", "QSO"), label2id)


def test_the_code_of_a_missing_value_is_no_target():
    for function in (target_labels, target_fields):
        with pytest.raises(ValueError, match=r"teff of 1 must be finite, found -9999: NaN stands for a missing value"):
            function(labelled({"teff": 5000.0}, {"teff": -9999}, {"teff": 6000.0}), ["teff"])
