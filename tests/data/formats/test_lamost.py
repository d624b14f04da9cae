"""LAMOST MRS: the coadded arms are read in both layouts, and neither survey takes the files of the other.

There is no real MRS file here: the layouts are those that public readers of DR7 and of DR8-DR11 files expect.
"""

import numpy as np
import pytest

from spectok_hf.data.readers import read_spectra

fits = pytest.importorskip("astropy.io.fits")

BLUE, RED = (3.6946 + 1e-5 * np.arange(3376), 3.7994 + 1e-5 * np.arange(3316))
ARMS = {"COADD_B": BLUE, "COADD_R": RED}
CARDS = {"OBSID": 677109113, "RA": 290.1, "DEC": 41.2, "TELESCOP": "LAMOST", "VACUUM": True}


def spectrum_table(name, loglam, *, rows=True, axis="LOGLAM", mask="ANDMASK", flux=5.0, order=1):
    """Scalar columns with a row per pixel (DR7), or one row of vectors (from DR8)."""
    values = {"FLUX": np.full(len(loglam), flux), "IVAR": np.full(len(loglam), 4.0)}
    values[axis] = loglam if axis == "LOGLAM" else 10**loglam
    values |= {mask: np.zeros(len(loglam)), "ORMASK": np.ones(len(loglam))}
    values["FLUX"][7], values[mask][3], values["IVAR"][5] = 6.0, 2, 0
    columns = []
    for key, array in values.items():
        array = array[::order]
        kind = "D" if key == axis else "E"
        columns.append(
            fits.Column(key, kind if rows else f"{len(loglam)}{kind}", array=array if rows else array[None])
        )
    table = fits.BinTableHDU.from_columns(columns, name=name)
    table.header["SNR"] = {"COADD_B": 21.0, "COADD_R": 43.0}.get(name, 9.0)
    return table


def write_mrs(path, *, arms=tuple(ARMS), exposures=("B-84420148", "R-84420148"), **options):
    primary = fits.PrimaryHDU()
    primary.header.update(CARDS)
    tables = [spectrum_table(name, ARMS[name], **options) for name in arms]
    for name in exposures:
        loglam = ARMS[f"COADD_{name[0]}"] + 2e-6
        tables.append(spectrum_table(name, loglam, **options | {"mask": "PIXMASK", "flux": 900.0}))
    fits.HDUList([primary, *tables]).writeto(path)


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("axis", ["LOGLAM", "WAVELENGTH"])
def test_coadded_arms_become_one_spectrum(tmp_path, rows, axis):
    write_mrs(tmp_path / "a.fits", rows=rows, axis=axis)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.wavelength == pytest.approx(10 ** np.concatenate([BLUE, RED]), rel=1e-12)
    assert spectrum.flux.max() == 6  # nothing of the single exposures
    assert np.flatnonzero(spectrum.flux == 6).tolist() == [7, 3376 + 7]
    assert np.flatnonzero(~spectrum.good).tolist() == [3, 5, 3379, 3381]
    assert spectrum.dropped == {"ivar = 0 (no information)": 2, "LAMOST and-mask": 2}
    assert (spectrum.survey, spectrum.object_id) == ("lamost_mrs", "677109113")
    assert (spectrum.medium, spectrum.frame, spectrum.flux_unit) == ("vacuum", "observed", "relative")
    assert spectrum.labels == {"ra": 290.1, "dec": 41.2, "snr_b": 21.0, "snr_r": 43.0}


def test_rows_in_any_order_are_sorted(tmp_path):
    write_mrs(tmp_path / "a.fits", order=-1)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.wavelength[0] == pytest.approx(10**3.6946)
    assert np.flatnonzero(spectrum.flux == 6).tolist() == [7, 3376 + 7]
    assert np.flatnonzero(spectrum.mask).tolist() == [3, 3379]


def test_arms_can_stay_apart_and_come_in_order_of_wavelength(tmp_path):
    write_mrs(tmp_path / "a.fits", arms=("COADD_R", "COADD_B"))
    spectra = read_spectra(tmp_path / "a.fits", merge_arms=False)
    assert [(spectrum.labels["arm"], len(spectrum)) for spectrum in spectra] == [("b", 3376), ("r", 3316)]
    assert len(read_spectra(tmp_path / "a.fits")[0]) == 3376 + 3316


@pytest.mark.parametrize("exposures", [(), ("B-84420148", "R-84420148")])
@pytest.mark.parametrize(("arm", "missing"), [("COADD_B", "r"), ("COADD_R", "b")])
def test_one_arm_alone_is_still_medium_resolution(tmp_path, arm, missing, exposures):
    write_mrs(tmp_path / "a.fits", arms=(arm,), exposures=exposures, rows=False, axis="WAVELENGTH")
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.survey == "lamost_mrs" and len(spectrum) == len(ARMS[arm])
    assert spectrum.labels["missing_arms"] == missing


def test_a_table_without_rows_is_a_missing_arm(tmp_path):
    write_mrs(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits") as hdus:
        hdus["COADD_R"].data = hdus["COADD_R"].data[:0]
        hdus.writeto(tmp_path / "b.fits")
    assert read_spectra(tmp_path / "b.fits")[0].labels["missing_arms"] == "r"


def test_single_exposures_alone_are_refused(tmp_path):
    write_mrs(tmp_path / "a.fits", arms=())
    message = r"COADD_B or COADD_R must hold a spectrum, found only B-84420148, R-84420148: .*pass arrays"
    with pytest.raises(ValueError, match=message):
        read_spectra(tmp_path / "a.fits")


def test_arms_on_the_same_wavelengths_are_refused(tmp_path):
    tables = [spectrum_table(name, BLUE) for name in ARMS]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"COADD_B must end before COADD_R begins, .*pass merge_arms=False"):
        read_spectra(tmp_path / "a.fits")
    assert len(read_spectra(tmp_path / "a.fits", merge_arms=False)) == 2


def test_neither_survey_takes_the_files_of_the_other(tmp_path):
    write_mrs(tmp_path / "mrs.fits", arms=("COADD_B",), exposures=())
    low = spectrum_table("COADD", 3.5682 + 1e-4 * np.arange(3909), rows=False, axis="WAVELENGTH")
    fits.HDUList([fits.PrimaryHDU(), low]).writeto(tmp_path / "lrs.fits")
    assert read_spectra(tmp_path / "lrs.fits")[0].survey == "lamost"
    for name, format in (("mrs.fits", "lamost"), ("lrs.fits", "lamost_mrs")):
        with pytest.raises(ValueError, match=rf"format='{format}' needs"):
            read_spectra(tmp_path / name, format=format)
