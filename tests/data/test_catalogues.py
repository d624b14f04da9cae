"""Catalogues joined to spectra: formats, identifiers, labels, duplicates and the report."""

import math

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spectok_hf import Spectrum
from spectok_hf.data.catalogues import join_labels
from spectok_hf.data.cuts import CUTS, Key, above, equal

astropy_table = pytest.importorskip("astropy.table")
fits = pytest.importorskip("astropy.io.fits")

BIG = 2**53 + 1  # the first integer that a float64 cannot hold


def named(*ids, survey="apogee", **labels):
    return [
        Spectrum(np.ones(3), [15200.0, 15201, 15202], np.ones(3), survey=survey, object_id=one, labels=labels)
        for one in ids
    ]


def teffs(spectra):
    return {spectrum.object_id: spectrum.labels["teff"] for spectrum in spectra}


def same(found, expected):
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(list(found.values()), [expected[name] for name in found])


# Formats


COLUMNS = {"TARGETID": [BIG + 1, BIG, BIG - 1], "TEFF": [4000.5, None, 6000.0], "FLAG": [0, 1, None],
           "KIND": ["STAR", None, "QSO"]}  # fmt: skip


def to_astropy(columns):
    masked = {
        name: np.ma.MaskedArray([0 if v is None else v for v in values] if name != "KIND" else
                                [v or "" for v in values], mask=[v is None for v in values])
        for name, values in columns.items()
    }  # fmt: skip
    return astropy_table.Table(masked)


def to_fits(columns, folder):
    table = to_astropy(columns)
    table["FLAG"].fill_value = -1
    table.write(folder / "catalogue.fits")
    return folder / "catalogue.fits"


def to_ecsv(columns, folder):
    to_astropy(columns).write(folder / "catalogue.ecsv")
    return folder / "catalogue.ecsv"


def to_csv(columns, folder):
    path = folder / "catalogue.csv"
    pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}).to_csv(path, index=False)
    path.write_text("# a comment\n" + path.read_text())
    return path


def to_parquet(columns, folder):
    pq.write_table(pa.table(columns), folder / "catalogue.parquet")
    return folder / "catalogue.parquet"


FORMATS = {
    "astropy": lambda columns, folder: to_astropy(columns),
    "pandas": lambda columns, folder: pd.DataFrame(columns | {"FLAG": pd.array(columns["FLAG"], dtype="Int64")}),
    "pandas, objects": lambda columns, folder: pd.DataFrame(columns, dtype=object),
    "pandas, indexed": lambda columns, folder: pd.DataFrame(columns).set_index("TARGETID"),
    "pandas, categories": lambda columns, folder: pd.DataFrame(columns).astype({"KIND": "category"}),
    "arrow": lambda columns, folder: pa.table(columns),
    "datasets": lambda columns, folder: datasets.Dataset.from_dict(columns),
    "FITS": to_fits,
    "ECSV": to_ecsv,
    "CSV": to_csv,
    "Parquet": to_parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_labels(name, tmp_path):
    catalogue = FORMATS[name](COLUMNS, tmp_path)
    spectra = named(str(BIG), str(BIG - 1), str(BIG + 1))
    labelled, report = join_labels(
        spectra, catalogue, on="TARGETID", labels={"teff": "TEFF", "flag": "FLAG", "class": "KIND"}
    )
    same(teffs(labelled), {str(BIG): math.nan, str(BIG - 1): 6000.0, str(BIG + 1): 4000.5})
    np.testing.assert_array_equal([spectrum.labels["flag"] for spectrum in labelled], [1, math.nan, 0])
    assert [spectrum.labels.get("class") for spectrum in labelled] == [None, "QSO", "STAR"]
    assert report.rows == report.matched == 3 and report.missing == {"teff": 1, "flag": 1, "class": 1}


def test_only_integers_that_are_the_same_match():
    catalogue = pa.table({"TARGETID": [BIG, 7], "TEFF": [1.0, 2.0]})
    with pytest.warns(UserWarning, match="3 of 4 spectra are left out: 3 are not in the catalogue"):
        labelled, report = join_labels(named(str(BIG - 1), str(BIG), "007", "x"), catalogue, labels={"teff": "TEFF"})
    assert teffs(labelled) == {str(BIG): 1.0} and (report.absent, report.cut) == (3, 0)


@pytest.mark.parametrize("ids", [[" 12 ", "3 "], [b"12  ", b"3"], ["b'  12'", "b'3'"]])
def test_spaces_and_bytes_around_identifiers(ids):
    for catalogue in (pa.table({"object_id": ids, "TEFF": [1.0, 2.0]}),
                      astropy_table.Table({"object_id": np.array(ids), "TEFF": [1.0, 2.0]})):  # fmt: skip
        labelled, _ = join_labels(named("3", "12"), catalogue, labels={"teff": "TEFF"})
        assert teffs(labelled) == {"3": 2.0, "12": 1.0}


@pytest.mark.parametrize("ids", [[3.0, 12.0], ["3.0", "12.0"], ["3.9627835576e+16", "12.5"]])
def test_identifiers_that_were_floats(ids):
    with pytest.raises(ValueError, match=r"must be integers or text, found floats in TARGETID.*rounded.*dtype="):
        join_labels(named("3", "12"), pa.table({"TARGETID": ids, "TEFF": [1.0, 2.0]}), labels={"teff": "TEFF"})


def test_a_float_column_does_not_matter_where_another_matches():
    catalogue = pa.table({"SOURCE_ID": [1.0, None], "targetid": [3, 12], "TEFF": [1.0, 2.0]})
    _, report = join_labels(named("3", "12"), catalogue, labels={"teff": "TEFF"})
    assert report.key == "targetid"


def test_identifiers_of_several_columns():
    catalogue = pa.table({"PLATE": [266, 10000], "MJD": [51602, 57346], "FIBERID": [7, 1000], "T": [1.0, 2.0]})
    key = Key(("plate", "mjd", "fiberid"), "{:04d}-{:05d}-{:04d}")
    labelled, report = join_labels(
        named("10000-57346-1000", "0266-51602-0007"), catalogue, on=key, labels={"teff": "T"}
    )
    assert teffs(labelled) == {"10000-57346-1000": 2.0, "0266-51602-0007": 1.0}
    assert report.key == "PLATE, MJD, FIBERID"


# Spectra and labels


def test_inputs_stay_as_they_are_and_pixels_are_shared():
    (spectrum,) = named("1", teff=1.0, note="mine", **{"class": "STAR"})
    spectrum.flag([True, False, False], "cosmic")
    (labelled,), _ = join_labels(
        [spectrum],
        pa.table({"object_id": ["1"], "T": [5.0], "C": pa.array([None], pa.string())}),
        labels={"teff": "T", "class": "C"},
    )
    assert spectrum.labels == {"teff": 1.0, "note": "mine", "class": "STAR"}
    assert labelled.labels == {"teff": 5.0, "note": "mine"}  # the catalogue does not know the class
    assert labelled.flux is spectrum.flux and labelled.report() == spectrum.report()
    labelled.flag([False, True, False], "sky")
    assert "sky" not in spectrum.dropped and spectrum.mask.sum() == 1


def test_two_spectra_of_one_object_get_the_same_labels():
    labelled, report = join_labels(named("1", "1"), pa.table({"object_id": ["1"], "T": [5]}), labels={"teff": "T"})
    assert [spectrum.labels["teff"] for spectrum in labelled] == [5, 5] and report.matched == 2


def test_labels_of_the_survey_where_none_are_given():
    spectra = named("a", "b", survey="lamost")
    catalogue = pa.table({"object_id": [spectrum.object_id for spectrum in spectra], "z": [0.1, -9999.0],
                          "CLASS": ["GALAXY ", "Unknown"]})  # fmt: skip
    labelled, report = join_labels(spectra, catalogue)
    assert labelled[0].labels["redshift"] == 0.1 and labelled[0].labels["class"] == "GALAXY"
    assert math.isnan(labelled[1].labels["redshift"]) and "class" not in labelled[1].labels
    assert report.skipped == ("subclass", "rv", "ra", "dec", "snr_g", "snr_r")
    assert "labels that the catalogue lacks: subclass, rv" in str(report)
    with pytest.raises(ValueError, match=r"must be of one survey .* found survey apogee, lamost"):
        join_labels(spectra + named("1"), catalogue)


def test_columns_that_are_called_as_labels_are_need_no_mapping(tmp_path):
    """The table that an astronomer has beside some LAMOST spectra: identifiers and Teff."""
    (tmp_path / "labels.csv").write_text("obsid,teff,Z,redshift,note\n12,5000.5,0.1,7,x\n3,,0.2,7,y\n")
    labelled, report = join_labels(named("3", "12", survey="lamost"), tmp_path / "labels.csv", on="obsid")
    same(teffs(labelled), {"3": math.nan, "12": 5000.5})
    assert report.labels == {"teff": "teff", "redshift": "Z"}  # the survey's own name goes first
    # A preset says which labels are meant: others need cuts of their own.
    row = {"sobject_id": [1], "flag_sp": [0], "snr_px_ccd3": [50.0], "teff": [5000.0], "mg_fe": [0.1]}
    (star,), _ = join_labels(named("1", survey="galah"), pa.table(row), cuts="galah-dr4")
    assert star.labels["teff"] == 5000.0 and "mg_fe" not in star.labels


def test_a_text_label_that_no_row_has(tmp_path):
    """An empty column of a CSV file is one of floats, and of FITS and Parquet may be one of integers."""
    (tmp_path / "labels.csv").write_text("TARGETID,SPECTYPE,SUBTYPE\n1,GALAXY,\n2,QSO,\n")
    columns = {"class": "SPECTYPE", "subclass": "SUBTYPE"}
    labelled, report = join_labels(named("1", "2", survey="desi"), tmp_path / "labels.csv", labels=columns)
    assert [one.labels for one in labelled] == [{"class": "GALAXY"}, {"class": "QSO"}]
    assert report.missing == {"class": 0, "subclass": 2}


def test_sentinels_are_missing_as_told():
    catalogue = pa.table({"object_id": ["1", "2"], "T": [-9999.0, -1.0]})
    labelled, _ = join_labels(named("1", "2"), catalogue, labels={"teff": "T"})
    same(teffs(labelled), {"1": math.nan, "2": -1.0})
    labelled, _ = join_labels(named("1", "2"), catalogue, labels={"teff": "T"}, missing=[-1])
    same(teffs(labelled), {"1": -9999.0, "2": math.nan})


@pytest.mark.parametrize(
    ("label", "values", "message"),
    [
        ("teff", ["4000 K", "x"], "teff must be a number, found text such as 4000 K in column C"),
        ("zwarn", [True, False], "zwarn must be a number, found booleans in column C"),
        ("class", [1, 2], "class must be text, found integers such as 1 in column C"),
        ("teff", [[1.0, 2.0], [3.0, 4.0]], "C must hold one value per row, found shape"),
    ],
)
def test_labels_of_the_wrong_kind(label, values, message):
    catalogue = astropy_table.Table({"object_id": ["1", "2"], "C": values})
    with pytest.raises(ValueError, match=message):
        join_labels(named("1", "2"), catalogue, labels={label: "C"})


def test_columns_that_are_not_there_or_are_ambiguous():
    catalogue = pa.table({"object_id": ["1"], "z": [0.1], "Z": [17.0]})
    with pytest.raises(ValueError, match="no column TEFF, found object_id, z, Z: pass other labels="):
        join_labels(named("1"), catalogue, labels={"teff": "TEFF"})
    with pytest.raises(ValueError, match="identifiers TARGETID, found object_id, z, Z: pass on="):
        join_labels(named("1"), catalogue, on="TARGETID", labels={"redshift": "z"})
    with pytest.raises(ValueError, match=r"no column SNR, .* pass another best="):
        join_labels(named("1"), catalogue, labels={"redshift": "z"}, duplicates="best", best="SNR")
    (labelled,), _ = join_labels(named("1"), catalogue, labels={"redshift": "Z"})
    assert labelled.labels["redshift"] == 17.0
    twice = pa.table({"object_id": ["1"], "Teff": [1.0], "TEFF": [2.0]})
    with pytest.raises(ValueError, match="column teff may be any of Teff, TEFF"):
        join_labels(named("1"), twice, labels={"teff": "teff"})


def test_no_match_at_all_shows_both_sides():
    with pytest.raises(ValueError, match=r"object_id is '2M1', and the catalogue has '42' \(TARGETID\)"):
        join_labels(named("2M1", "2M2"), pa.table({"TARGETID": [42], "T": [1.0]}), labels={"teff": "T"})
    with pytest.raises(ValueError, match="must have an object_id, found none in 1"):
        join_labels(named(None), pa.table({"TARGETID": [42], "T": [1.0]}), labels={"teff": "T"})


def test_what_is_no_catalogue(tmp_path):
    for source, message in (
        (5, "found int"),
        (tmp_path / "a.h5", "by its name"),
        (tmp_path / "a.csv", "no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            join_labels(named("1"), source, labels={"teff": "T"})
    fits.PrimaryHDU(np.ones((2, 2))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="holds no table"):
        join_labels(named("1"), tmp_path / "image.fits", labels={"teff": "T"})


# Duplicates


REPEATED = {"object_id": ["a", "b", "a", "b", "c", "c"], "T": [1.0, 2, 3, 4, 5, 6],
            "SNR": [10.0, 50.0, 30.0, None, None, 1.0]}  # fmt: skip


def test_duplicates_are_an_error_unless_told_what_to_do():
    with pytest.raises(ValueError, match=r"found 2 of 2 objects with several: a \(2 rows\), b \(2 rows\)"):
        join_labels(named("a", "b"), pa.table(REPEATED), labels={"teff": "T"})
    first, report = join_labels(named("a", "b"), pa.table(REPEATED), labels={"teff": "T"}, duplicates="first")
    assert teffs(first) == {"a": 1.0, "b": 2.0} and report.duplicates == 2
    best, _ = join_labels(
        named("a", "b", "c"), pa.table(REPEATED), labels={"teff": "T"}, duplicates="best", best="snr"
    )
    assert teffs(best) == {"a": 3.0, "b": 2.0, "c": 6.0}
    with pytest.raises(ValueError, match='duplicates="best" needs the column'):
        join_labels(named("a"), pa.table(REPEATED), labels={"teff": "T"}, duplicates="best")


def test_duplicates_of_other_objects_and_those_that_cuts_remove_do_not_matter():
    catalogue = pa.table(REPEATED)
    labelled, _ = join_labels(named("a"), catalogue, cuts=[above("SNR", 20)], labels={"teff": "T"})
    assert teffs(labelled) == {"a": 3.0}


# Cuts


def test_cuts_count_in_order_and_alone():
    rows = {"object_id": list("abcdef"), "A": [1, 1, 0, 0, 1, None], "SNR": [5.0, 50, 5, 50, math.nan, 50]}
    with pytest.warns(UserWarning, match="5 of 6 spectra are left out: 0 are not .* of 5 the cuts removed the row"):
        labelled, report = join_labels(
            named(*"abcdef"), pa.table(rows), cuts=[equal("A", 1), above("SNR", 20, "faint")], labels={"snr": "SNR"}
        )
    assert [spectrum.object_id for spectrum in labelled] == ["b"]
    # c, d and the missing f fail the first; a, c and the missing e the second, of which c is gone already.
    assert [(cut.name, cut.removed, cut.alone) for cut in report.cuts] == [("A == 1", 3, 3), ("SNR > 20", 2, 3)]
    assert (report.rows, report.kept, report.matched, report.cut, report.absent) == (6, 1, 1, 5, 0)
    lines = [line.split() for line in str(report).splitlines()]
    assert lines[0][-1] == "6" and lines[1:4] == [
        ["-", "A", "==", "1", "3", "(alone", "3)"],
        ["-", "SNR", ">", "20", "2", "(alone", "3)"],
        ["left", "by", "the", "cuts", "1"],
    ]
    assert ["matched", "by", "object_id", "1"] in lines and ["removed", "by", "the", "cuts", "5"] in lines
    with pytest.raises(ValueError, match=r"removed the rows of all 1 spectra(.|\n)*A == 1"):
        join_labels(named("c"), pa.table(rows), cuts=[equal("A", 1)], labels={"snr": "SNR"})


def test_a_missing_column_names_the_cut_and_a_way_on():
    catalogue = pa.table({"sobject_id": [140303000402001], "flag_sp": [0], "flag_fe_h": [0], "teff": [5000.0]})
    spectra = named("140303000402001", survey="galah")
    with pytest.raises(
        ValueError, match=r"cut 'snr_c3_iraf > 30' needs column snr_c3_iraf.*without\('snr_c3_iraf > 30'"
    ):
        join_labels(spectra, catalogue, cuts="galah-dr3")
    labelled, report = join_labels(spectra, catalogue, cuts=CUTS["galah-dr3"].without("snr_c3_iraf > 30"))
    assert labelled[0].labels["teff"] == 5000.0 and len(report.cuts) == 2
    with pytest.raises(ValueError, match=r"cuts must be among .*, found SNR"):
        CUTS["galah-dr3"].without("SNR")
    with pytest.raises(ValueError, match="cuts must be one of sdss-dr17"):
        join_labels(spectra, catalogue, cuts="galah")
    with pytest.raises(ValueError, match="a Preset or a list of Cut"):
        join_labels(spectra, catalogue, cuts=["flag_sp == 0"])
