"""Cuts on catalogues, and the presets: which rows stay."""

import math

import numpy as np
import pyarrow as pa
import pytest

from spectok_hf import Spectrum
from spectok_hf.data.catalogues import join_labels
from spectok_hf.data.cuts import (
    APOGEE_ASPCAPFLAG,
    APOGEE_EXTRATARG,
    CUTS,
    Cut,
    above,
    apply_cuts,
    between,
    bits_clear,
    equal,
)


def named(*ids):
    wavelength = [15200.0, 15201, 15202]
    return [Spectrum(np.ones(3), wavelength, np.ones(3), survey="apogee", object_id=one) for one in ids]


def passing(cut, **columns):
    """Of rows a, b, c, ... those that pass."""
    ids = [chr(97 + row) for row in range(len(next(iter(columns.values()))))]
    table = pa.table({"object_id": ids, "T": [1.0] * len(ids), **columns})
    found, _ = join_labels(named(*ids), table, cuts=[cut], labels={"teff": "T"})
    return "".join(spectrum.object_id for spectrum in found)


@pytest.mark.filterwarnings("ignore:.* spectra are left out")
@pytest.mark.parametrize(
    ("cut", "values", "expected"),
    [
        (between("C", 4000, 5500), [3999.9, 4000, 5500, 5501, math.nan], "bc"),
        (above("C", 0), [-1, 0, 1, 2], "cd"),
        (equal("C", True), [True, False, None, True], "ad"),
        (equal("C", True), [1, 0, 0, 1], "ad"),
        (equal("C", "TGT"), ["TGT ", "SKY", None, "TGT"], "ad"),
        (equal(("missing", "C"), 0), [0, 4, 0, -9999], "ac"),
        (bits_clear("C", {"BAD": 16, "NONE": 31}), [0, 1 << 16, -(2**31), 1, 1 << 17, None], "ade"),
        (bits_clear("C", {"BAD": 16}), [0.0, 65536.0, 1.0, None], "ac"),
        (Cut("even", ("C",), lambda values: values % 2 == 0), [1, 2, 3, 4], "bd"),
    ],
)
def test_cuts_keep_the_rows_they_should(cut, values, expected):
    assert passing(cut, C=values) == expected


@pytest.mark.filterwarnings("ignore:.* spectra are left out")
def test_a_cut_of_two_columns():
    cut = Cut("colour", ("g", "r"), lambda g, r: g - r > 0.5)
    assert passing(cut, g=[18.0, 18.0, None], r=[17.0, 18.0, 15.0]) == "a"


@pytest.mark.parametrize(
    ("cut", "values", "message"),
    [
        (equal("C", 0), [True, False], "C must hold numbers, found booleans"),  # a boolean ZWARN has two meanings
        (above("C", 0), ["1", "2"], "C must hold numbers, found text such as 1"),
        (equal("C", "good"), [1, 2], "C must hold text, found integers such as 1"),
        (equal("C", True), [0, 2], "C must be true or false, found integers"),
        (bits_clear("C", {"BAD": 1}), [0.5, 2.0], "C must be an integer bit mask, found floats such as 0.5"),
        (Cut("odd", ("C",), lambda values: values), [1, 2], "must give one bool per row, found int64"),
    ],
)
def test_cuts_on_the_wrong_kind_of_column(cut, values, message):
    with pytest.raises(ValueError, match=message):
        passing(cut, C=values)


def test_apply_cuts_counts_a_missing_value_as_not_met():
    snr = np.ma.MaskedArray([5.0, 50, 50, 50], mask=[0, 0, 0, 1])
    kind = np.ma.MaskedArray([b"STAR ", b"STAR", b"SKY", b"STAR"], mask=False)
    passed, counts = apply_cuts([above("SNR", 20, "faint"), equal("KIND", "STAR")], [[snr], [kind]], 4)
    assert passed.tolist() == [False, True, False, False]
    # Rows 0 and 3 fail the first, row 2 the second.
    assert [(cut.name, cut.removed, cut.alone, cut.reason) for cut in counts] == [
        ("SNR > 20", 2, 2, "faint"),
        ("KIND == STAR", 1, 1, ""),
    ]
    passed, counts = apply_cuts([], [], 4)
    assert passed.all() and counts == ()


def test_a_preset_without_a_cut_keeps_the_others_in_order():
    preset = CUTS["galah-dr3"].without("flag_fe_h == 0")
    assert [cut.name for cut in preset.cuts] == ["flag_sp == 0", "snr_c3_iraf > 30"]
    assert (preset.keys, preset.labels) == (CUTS["galah-dr3"].keys, CUTS["galah-dr3"].labels)
    assert len(CUTS["galah-dr3"].cuts) == 3


# Presets: a row that passes everything, then for each cut a row that fails it alone.

GOOD = {
    "sdss-dr17": {"SPECPRIMARY": 1, "TARGETTYPE": "SCIENCE ", "PLATEQUALITY": "good    ", "ZWARNING": 0, "Z_ERR": 1e-4,
                  "SN_MEDIAN_ALL": 9.0, "Z": 0.1, "CLASS": "GALAXY"},
    "apogee-dr17": {"TELESCOPE": "lco25m", "EXTRATARG": 0b1, "ASPCAPFLAG": 0b111, "SNR": 31.0, "TEFF": 7000.0},
    "apogee-leung-bovy-2018": {"SNR": 201.0, "STARFLAG": 0, "ASPCAPFLAG": 0, "VSCATTER": 0.5, "TEFF": 5500.0,
                               "FE_H": -2.9, "LOGG": 2.0},
    "galah-dr3": {"flag_sp": 0, "flag_fe_h": 0, "snr_c3_iraf": 31.0, "teff": 5000.0},
    "galah-dr4": {"flag_sp": 0, "snr_px_ccd3": 31.0, "teff": 5000.0},
    "desi-dr1": {"ZCAT_PRIMARY": True, "OBJTYPE": "TGT", "COADD_FIBERSTATUS": 0, "ZWARN": 0, "Z": 1.0},
    "provabgs": {"PROVABGS_LOGMSTAR_BF": 10.0, "MAG_G": 19.0, "MAG_R": 18.0, "MAG_Z": 17.0, "Z_HP": 0.1},
    "vipers": {"zflg": 3.5, "zspec": 0.7},
}  # fmt: skip
BAD = {
    "sdss-dr17": {"SPECPRIMARY": 0, "TARGETTYPE": "SKY", "PLATEQUALITY": "bad", "ZWARNING": 4, "Z_ERR": -1.0,
                  "SN_MEDIAN_ALL": 2.0},
    "apogee-dr17": {"TELESCOPE": "apo1m", "EXTRATARG": 0b10000, "ASPCAPFLAG": 1 << 19, "SNR": 30.0},
    "apogee-leung-bovy-2018": {"SNR": 200.0, "STARFLAG": 4, "ASPCAPFLAG": 1, "VSCATTER": 1.0, "TEFF": 5501.0,
                               "FE_H": -3.0, "LOGG": -9999.0},
    "galah-dr3": {"flag_sp": 1, "flag_fe_h": 1, "snr_c3_iraf": 30.0},
    "galah-dr4": {"flag_sp": 1, "snr_px_ccd3": 30.0},
    "desi-dr1": {"ZCAT_PRIMARY": False, "OBJTYPE": "SKY", "COADD_FIBERSTATUS": 8, "ZWARN": 4},
    "provabgs": {"PROVABGS_LOGMSTAR_BF": -1.0, "MAG_G": 0.0, "MAG_R": 0.0, "MAG_Z": 0.0},
    "vipers": {"zflg": 11.5},
}  # fmt: skip


@pytest.mark.parametrize("name", CUTS)
def test_each_cut_of_a_preset_removes_the_row_that_fails_it(name):
    rows = [GOOD[name]] + [GOOD[name] | {column: value} for column, value in BAD[name].items()]
    columns = {column: [row[column] for row in rows] for column in GOOD[name]}
    ids = [str(number) for number in range(len(rows))]
    catalogue = pa.table({CUTS[name].keys[-1].columns[0]: ids, **columns})
    with pytest.warns(UserWarning, match=f"{len(rows) - 1} of {len(rows)} spectra are left out"):
        labelled, report = join_labels(named(*ids), catalogue, cuts=name)
    assert [spectrum.object_id for spectrum in labelled] == ["0"]
    assert [(cut.removed, cut.alone) for cut in report.cuts] == [(1, 1)] * len(BAD[name]) and len(rows) > 1
    assert all(cut.reason for cut in report.cuts)
    assert report.labels  # some label of the preset was found


def test_sdss_presets_find_plates_and_specobjids():
    rows = [GOOD["sdss-dr17"] | {"PLATE": 266, "MJD": 51602, "FIBERID": 7, "SPECOBJID": " 299489676975171584"}]
    catalogue = pa.table({column: [row[column] for row in rows] for column in rows[0]})
    for one, key in (("0266-51602-0007", "PLATE, MJD, FIBERID"), ("299489676975171584", "SPECOBJID")):
        labelled, report = join_labels(named(one), catalogue, cuts="sdss-dr17")
        assert report.key == key and labelled[0].labels["class"] == "GALAXY"


def test_vipers_flags():
    flags = {"1.5": "", "2.1": "a", "9.5": "a", "12.4": "a", "11.0": "", "21": "", "-10": ""}
    (cut,) = CUTS["vipers"].cuts
    kept = cut.keep(np.array([float(flag) for flag in flags]))
    assert kept.tolist() == [bool(expected) for expected in flags.values()]


def test_bits_of_apogee():
    """As the pipeline's bitmask tables, by value."""
    assert (
        1 << APOGEE_ASPCAPFLAG["STAR_BAD"] == 0x00800000 and 1 << APOGEE_ASPCAPFLAG["NO_ASPCAP_RESULT"] == 0x80000000
    )
    assert 1 << APOGEE_EXTRATARG["DUPLICATE"] == 0x10
    assert CUTS["apogee-dr17"].cuts[2].name.startswith("ASPCAPFLAG without TEFF_BAD, LOGG_BAD")
