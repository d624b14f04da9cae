"""`read_spectra` on small files and arrays made here: each layout, each rule for bad pixels, each error."""

import gzip
import subprocess
import sys

import numpy as np
import pytest

from spectok_hf.data.formats.desi import DesiArm, merge_desi_arms
from spectok_hf.data.readers import read_spectra
from spectok_hf.models.spectrum import Spectrum

fits = pytest.importorskip("astropy.io.fits")

BRIGHTSKY = 1 << 23
TARGETID = 2**53 + 1  # the first integer that a float64 cannot hold
DESI_ARMS = {"B": (3600.0, 2751), "R": (5760.0, 2326), "Z": (7520.0, 2881)}


@pytest.fixture
def rng():
    return np.random.default_rng(20251017)


def write_sdss(path, rng, *, case=str.lower, pixels=300, and_mask=0, start=3.58, catalogue=None, header=None):
    loglam = (start + 1e-4 * np.arange(pixels)).astype(">f4")
    columns = {"flux": rng.normal(10, 1, pixels), "loglam": loglam, "ivar": np.full(pixels, 4.0)}
    columns = [fits.Column(case(name), "E", array=values) for name, values in columns.items()]
    bits = np.broadcast_to(and_mask, pixels)
    columns.append(fits.Column(case("and_mask"), "J", array=bits))
    row = {"PLATE": 266, "MJD": 51602, "FIBERID": 107, "CLASS": "GALAXY", "SUBCLASS": "", "Z": 0.1, "ZWARNING": 4}
    row |= {"PLUG_RA": 146.5, "PLUG_DEC": -0.5, "SN_MEDIAN_ALL": 19.2, "RUN2D": "26"} | (catalogue or {})
    formats = {int: "J", float: "E", str: "8A"}
    table = [fits.Column(name, formats[type(value)], array=[value]) for name, value in row.items()]
    primary = fits.PrimaryHDU()
    primary.header.update({"COEFF0": 3.5785, "COEFF1": 1e-4} | (header or {}))  # COEFF0 of the plate: a trap
    hdus = [primary, fits.BinTableHDU.from_columns(columns), fits.BinTableHDU.from_columns(table)]
    fits.HDUList(hdus).writeto(path)
    return 10.0 ** (start + 1e-4 * np.arange(pixels))


def write_desi(path, *, flux=2.0, ivar=1.0, targets=(TARGETID,), fibermap=True, mask=True, edit=None):
    """Constant arms; `edit` may change the arrays of an arm before they are written."""
    hdus = [fits.PrimaryHDU()]
    if fibermap:
        ids = np.array(targets, dtype=np.int64)
        positions = np.arange(len(ids), dtype=float)
        names = {"TARGETID": ("K", ids), "TARGET_RA": ("D", 10 + positions), "TARGET_DEC": ("D", -positions)}
        columns = [fits.Column(name, kind, array=values) for name, (kind, values) in names.items()]
        hdus.append(fits.BinTableHDU.from_columns(columns, name="FIBERMAP"))
    for band, (start, pixels) in DESI_ARMS.items():
        shape = (len(targets), pixels)
        arm = {"WAVELENGTH": start + 0.8 * np.arange(pixels), "FLUX": np.full(shape, flux, np.float32)}
        arm |= {"IVAR": np.full(shape, ivar, np.float32), "MASK": np.zeros(shape, np.uint32)}
        if edit:
            edit(band, arm)
        if not mask:
            del arm["MASK"]
        hdus += [fits.ImageHDU(values, name=f"{band}_{kind}") for kind, values in arm.items()]
    fits.HDUList(hdus).writeto(path)


LAMOST_CARDS = {"TELESCOP": "LAMOST", "COEFF0": 3.5682, "COEFF1": 1e-4, "VACUUM": True, "HELIO_RV": -26.5}
LAMOST_CARDS |= {"LMJD": 55862, "PLANID": "B6212", "SPID": 6, "FIBERID": 5, "RA": 99.5, "DEC": 27.2, "SN_G": 8.8}
LAMOST_CARDS |= {"CLASS": "STAR", "SUBCLASS": "F5", "Z": 1e-4, "SN_R": 24.0}


def write_lamost_image(path, rows, cards=None):
    hdu = fits.PrimaryHDU(np.asarray(rows, dtype=">f4"))
    hdu.header.update(LAMOST_CARDS | (cards or {}))
    hdu.writeto(path)


def write_lamost_table(path, axis, pixels=50, names=("COADD",)):
    loglam = 3.5682 + 1e-4 * np.arange(pixels)
    values = {"FLUX": np.full(pixels, 5.0), "IVAR": np.ones(pixels), "ANDMASK": np.zeros(pixels)}
    values |= {"ORMASK": np.ones(pixels), axis: loglam if axis == "LOGLAM" else 10**loglam}
    values["ANDMASK"][3] = 1
    tables = []
    for name in names:
        columns = [fits.Column(key, f"{pixels}E", array=array[None]) for key, array in values.items()]
        tables.append(fits.BinTableHDU.from_columns(columns, name=name))
    primary = fits.PrimaryHDU()
    primary.header.update(LAMOST_CARDS | {"OBSID": 101005, "RV": 30.5})
    fits.HDUList([primary, *tables]).writeto(path)
    return 10**loglam


# SDSS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_sdss_is_read_in_both_column_cases(tmp_path, rng, case):
    expected = write_sdss(tmp_path / "any.fits", rng, case=case)
    (spectrum,) = read_spectra(tmp_path / "any.fits")
    assert spectrum.wavelength == pytest.approx(expected, rel=1e-12)  # the exact grid, not that of float32
    assert (spectrum.survey, spectrum.object_id) == ("sdss", "0266-51602-0107")
    assert (spectrum.medium, spectrum.frame) == ("vacuum", "observed")
    assert spectrum.flux_unit == "1e-17 erg/s/cm2/Angstrom"
    assert spectrum.labels["class"] == "GALAXY" and "subclass" not in spectrum.labels
    assert spectrum.labels["redshift"] == pytest.approx(0.1) and spectrum.labels["zwarn"] == 4
    assert (spectrum.labels["ra"], spectrum.labels["dec"]) == (146.5, -0.5)
    assert type(spectrum.labels["zwarn"]) is int
    assert spectrum.flux.dtype.isnative and spectrum.flux.flags.writeable  # FITS is big-endian


def test_sdss_without_pixels_is_refused(tmp_path, rng):
    write_sdss(tmp_path / "a.fits", rng, pixels=0)
    with pytest.raises(ValueError, match=r"a\.fits: the file holds no spectrum: its table has no rows"):
        read_spectra(tmp_path / "a.fits")


def test_sdss_axis_on_another_grid_is_left_alone(tmp_path, rng):
    write_sdss(tmp_path / "a.fits", rng, start=3.580037)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert np.log10(spectrum.wavelength[0]) == pytest.approx(3.580037, abs=3e-7)


def test_sdss_bits_of_the_fibre_are_not_obeyed_but_bright_sky_is(tmp_path, rng):
    and_mask = np.full(300, 1 << 8 | 1 << 4)
    and_mask[10:20] |= BRIGHTSKY
    write_sdss(tmp_path / "a.fits", rng, and_mask=and_mask)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert np.flatnonzero(spectrum.mask).tolist() == list(range(10, 20))
    assert spectrum.dropped == {"BRIGHTSKY": 10}


@pytest.mark.parametrize(
    ("catalogue", "start", "survey"),
    [
        ({"RUN2D": "v5_13_0"}, 3.58, "boss"),
        ({"RUN2D": "103"}, 3.97, "sdss"),
        ({"RUN2D": ""}, 3.58, "sdss"),
        ({"RUN2D": ""}, 3.97, "boss"),  # to 10000 Å
        ({"RUN2D": "v5_13_0", "INSTRUMENT": "SDSS"}, 3.58, "sdss"),
    ],
)
def test_sdss_or_boss_is_told_by_content(tmp_path, rng, catalogue, start, survey):
    write_sdss(tmp_path / "a.fits", rng, catalogue=catalogue, start=start)
    assert read_spectra(tmp_path / "a.fits")[0].survey == survey


def test_sdss_without_a_catalogue_row_takes_the_header(tmp_path, rng):
    write_sdss(tmp_path / "a.fits", rng, header={"PLATEID": 3655, "MJD": 55240, "FIBERID": 2, "RUN2D": "v5_13_0"})
    with fits.open(tmp_path / "a.fits") as hdus:
        fits.HDUList(hdus[:2]).writeto(tmp_path / "b.fits")
    (spectrum,) = read_spectra(tmp_path / "b.fits")
    assert (spectrum.object_id, spectrum.survey, spectrum.labels) == ("3655-55240-0002", "boss", {})


# DESI -----------------------------------------------------------------------------------------------


def test_desi_arms_are_merged_to_the_survey_grid(tmp_path):
    write_desi(tmp_path / "coadd.fits", targets=(TARGETID, -5))
    first, second = read_spectra(tmp_path / "coadd.fits")
    assert len(first) == 7781
    assert first.wavelength == pytest.approx(3600 + 0.8 * np.arange(7781), abs=1e-6)
    assert first.flux == pytest.approx(np.full(7781, 2.0))  # a constant stays constant
    overlap = (first.ivar == 2).sum()
    assert overlap == 51 + 126 and (first.ivar == 1).sum() == 7781 - overlap
    assert (first.object_id, second.object_id) == (str(TARGETID), "-5")
    assert (second.labels, second.survey) == ({"ra": 11.0, "dec": -1.0}, "desi")


def test_desi_overlaps_are_weighted_by_ivar(tmp_path):
    def edit(band, arm):
        arm["FLUX"][:] = {"B": 1.0, "R": 4.0, "Z": 7.0}[band]
        arm["IVAR"][:] = {"B": 1.0, "R": 2.0, "Z": 0.5}[band]

    write_desi(tmp_path / "coadd.fits", edit=edit)
    (spectrum,) = read_spectra(tmp_path / "coadd.fits")
    pixel = np.searchsorted(spectrum.wavelength, 5780.0 - 0.1)
    assert spectrum.flux[pixel] == pytest.approx((1 * 1 + 2 * 4) / 3)
    assert spectrum.ivar[pixel] == pytest.approx(3.0)
    pixel = np.searchsorted(spectrum.wavelength, 7600.0 - 0.1)
    assert spectrum.flux[pixel] == pytest.approx((2 * 4 + 0.5 * 7) / 2.5)
    assert spectrum.flux[[0, 4000, -1]].tolist() == [1, 4, 7]


def test_desi_bad_pixel_of_one_arm_takes_the_other_arm(tmp_path):
    def edit(band, arm):
        if band == "B":
            arm["FLUX"][:, -51:] = np.nan  # all of the overlap with R
            arm["MASK"][:, 100] = 1
            arm["IVAR"][:, 200] = 0

    write_desi(tmp_path / "coadd.fits", edit=edit)
    (spectrum,) = read_spectra(tmp_path / "coadd.fits")
    assert np.flatnonzero(~spectrum.good).tolist() == [100, 200]
    assert spectrum.flux == pytest.approx(np.full(7781, 2.0))


def test_desi_arms_can_stay_apart(tmp_path):
    def edit(band, arm):
        arm["MASK"][:, 7] = 4

    write_desi(tmp_path / "coadd.fits", targets=(1, 2), edit=edit)
    spectra = read_spectra(tmp_path / "coadd.fits", merge_arms=False)
    assert [len(spectrum) for spectrum in spectra] == [2751, 2326, 2881] * 2
    assert [spectrum.object_id for spectrum in spectra] == ["1"] * 3 + ["2"] * 3
    assert [spectrum.labels["arm"] for spectrum in spectra] == ["b", "r", "z"] * 2
    assert all(np.flatnonzero(spectrum.mask).tolist() == [7] for spectrum in spectra)


def test_desi_spectra_files_keep_repeated_targets(tmp_path):
    write_desi(tmp_path / "spectra.fits", targets=(TARGETID, TARGETID))
    assert [spectrum.object_id for spectrum in read_spectra(tmp_path / "spectra.fits")] == [str(TARGETID)] * 2


def test_desi_without_fibermap_and_mask(tmp_path):
    write_desi(tmp_path / "coadd.fits", targets=(7, 8), fibermap=False, mask=False, ivar=0.0)
    spectra = read_spectra(tmp_path / "coadd.fits")
    assert [spectrum.object_id for spectrum in spectra] == ["0", "1"]
    assert not any(spectrum.good.any() for spectrum in spectra)  # returned all the same


def test_desi_arms_off_the_grid_are_refused(tmp_path):
    def edit(band, arm):
        if band == "R":
            arm["WAVELENGTH"] += 0.3

    write_desi(tmp_path / "coadd.fits", edit=edit)
    with pytest.raises(ValueError, match=r"coadd\.fits: arm r cannot be merged.*merge_arms=False"):
        read_spectra(tmp_path / "coadd.fits")
    assert len(read_spectra(tmp_path / "coadd.fits", merge_arms=False)) == 3


def test_desi_incomplete_arm_is_refused(tmp_path):
    write_desi(tmp_path / "coadd.fits")
    with fits.open(tmp_path / "coadd.fits") as hdus:
        del hdus["Z_IVAR"]
        hdus.writeto(tmp_path / "cut.fits")
    with pytest.raises(ValueError, match="Z_FLUX needs Z_IVAR, found no such HDU"):
        read_spectra(tmp_path / "cut.fits")


def test_merge_recovers_the_weighted_mean_of_noisy_arms(rng):
    ivar = rng.uniform(0.5, 2, (2, 3, 10))
    flux = rng.normal(5, 1, (2, 3, 10))
    wavelengths = [3600 + 0.8 * np.arange(10), 3604 + 0.8 * np.arange(10)]  # 5 pixels overlap
    good = np.zeros((3, 10), bool)
    merged = merge_desi_arms([DesiArm(*arm, good) for arm in zip("br", wavelengths, flux, ivar, strict=True)])
    assert merged.flux.shape == (3, 15) and merged.name == "br"
    left, right = (slice(5, 10), slice(0, 5))
    expected = (ivar[0, :, left] * flux[0, :, left] + ivar[1, :, right] * flux[1, :, right]) / merged.ivar[:, 5:10]
    assert merged.flux[:, 5:10] == pytest.approx(expected)
    assert merged.flux[:, :5] == pytest.approx(flux[0, :, :5])


# LAMOST ---------------------------------------------------------------------------------------------


def test_lamost_image_takes_wavelengths_from_its_header(tmp_path):
    pixels = 60
    rows = np.ones((5, pixels))
    rows[2] = np.linspace(5000, 6000, pixels)  # looks like wavelengths, and is not
    rows[3:] = 0
    rows[3, 10] = 1  # and-mask
    rows[4, 20] = 1  # or-mask
    rows[1, 30] = 0  # inverse variance
    write_lamost_image(tmp_path / "a.fits", rows)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.wavelength == pytest.approx(10 ** (3.5682 + 1e-4 * np.arange(pixels)), rel=1e-12)
    assert np.flatnonzero(~spectrum.good).tolist() == [10, 30]
    assert (spectrum.object_id, spectrum.flux_unit) == ("55862-B6212_sp06-005", "relative")
    expected = {"class": "STAR", "subclass": "F5", "redshift": 1e-4, "ra": 99.5, "dec": 27.2}
    assert spectrum.labels == expected | {"snr_g": 8.8, "snr_r": 24.0}


@pytest.mark.parametrize("axis", ["WAVELENGTH", "LOGLAM"])
def test_lamost_table(tmp_path, axis):
    expected = write_lamost_table(tmp_path / "a.fits", axis)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.wavelength == pytest.approx(expected, rel=1e-12)
    assert np.flatnonzero(~spectrum.good).tolist() == [3]
    assert spectrum.object_id == "101005" and spectrum.labels["rv"] == 30.5


def test_lamost_medium_resolution_is_not_read_as_one_arm(tmp_path):
    write_lamost_table(tmp_path / "a.fits", "LOGLAM", names=("COADD_B", "COADD_R"))
    with pytest.raises(ValueError, match="COADD_B must end before COADD_R begins"):
        read_spectra(tmp_path / "a.fits")


def test_lamost_sentinels_are_no_labels(tmp_path):
    write_lamost_image(tmp_path / "a.fits", np.ones((5, 9)), {"CLASS": "Unknown", "Z": -9999.0, "SUBCLASS": ""})
    assert set(read_spectra(tmp_path / "a.fits")[0].labels) == {"ra", "dec", "snr_g", "snr_r"}


def test_an_image_like_lamosts_needs_the_survey_or_the_format(tmp_path):
    """spSpec files of SDSS-I look alike, with the error where LAMOST has something else."""
    write_lamost_image(tmp_path / "a.fits", np.ones((5, 60)), {"TELESCOP": "SDSS 2.5-M"})
    with pytest.raises(ValueError, match="unknown layout"):
        read_spectra(tmp_path / "a.fits")
    assert len(read_spectra(tmp_path / "a.fits", format="lamost")[0]) == 60


# Bad files ------------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*spec\.fits .*check the path"):
        read_spectra(tmp_path / "spec.fits")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<html>404</html>", "not a FITS file but a web page.*DOCTYPE"),
        (b"\x89PNG and more", "not a FITS file but something else"),
        (b"SIMPLE  =                    T", "truncated or damaged"),
        (b"\x1f\x8b and no gzip", "truncated or damaged"),
    ],
)
def test_file_that_is_no_fits(tmp_path, content, message):
    (tmp_path / "spec.fits").write_bytes(content)
    with pytest.raises(ValueError, match=rf"spec\.fits.*{message}"):
        read_spectra(tmp_path / "spec.fits")


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_truncated_file(tmp_path, rng, share, pack):
    write_sdss(tmp_path / "whole.fits", rng, pixels=2000)
    content = pack((tmp_path / "whole.fits").read_bytes())
    (tmp_path / "cut.fits").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.fits is truncated or damaged"):
        read_spectra(tmp_path / "cut.fits")
    (tmp_path / "packed.fits").write_bytes(content)
    assert len(read_spectra(tmp_path / "packed.fits")[0]) == 2000


def test_unknown_layout_names_what_is_there_and_what_is_known(tmp_path):
    table = fits.BinTableHDU.from_columns([fits.Column("lambda", "E", array=[1.0])], name="SPECTRUM")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits has an unknown layout.*SPECTRUM \(table of LAMBDA\).*desi: coadd"):
        read_spectra(tmp_path / "a.fits")


def test_forced_format_that_does_not_fit(tmp_path, rng):
    write_sdss(tmp_path / "a.fits", rng)
    assert read_spectra(tmp_path / "a.fits", format="sdss")[0].survey == "sdss"
    with pytest.raises(ValueError, match="format='desi' needs coadd and spectra, images B_FLUX"):
        read_spectra(tmp_path / "a.fits", format="desi")
    with pytest.raises(ValueError, match=r"format must be one of sdss, desi, .*table, specutils, found 'SDSS'"):
        read_spectra(tmp_path / "a.fits", format="SDSS")


def test_impossible_spectrum_names_its_file(tmp_path, rng):
    write_sdss(tmp_path / "a.fits", rng, start=5.0)
    with pytest.raises(ValueError, match=r"a\.fits: wavelength spans"):
        read_spectra(tmp_path / "a.fits")


def test_absent_astropy_names_the_extra(tmp_path, rng, monkeypatch):
    write_sdss(tmp_path / "a.fits", rng)
    monkeypatch.setitem(sys.modules, "astropy.io", None)
    with pytest.raises(
        ImportError, match=r'read_spectra needs astropy for FITS files: pip install "spectok-hf\[astro\]"'
    ):
        read_spectra(tmp_path / "a.fits")


def test_import_does_not_take_astropy():
    code = f"import sys; sys.path[:0] = {sys.path}; import spectok_hf.data.readers; print('astropy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "False\n"


# Many sources ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, rng):
    (tmp_path / "below").mkdir()
    write_sdss(tmp_path / "b.fits", rng, pixels=20)
    write_sdss(tmp_path / "below" / "a.FITS", rng, pixels=30)
    (tmp_path / "notes.txt").write_text("not a spectrum")
    return tmp_path


def test_folder_is_read_with_what_is_below_it(folder):
    assert [len(spectrum) for spectrum in read_spectra(folder)] == [20, 30]
    assert [len(spectrum) for spectrum in read_spectra(str(folder))] == [20, 30]


def test_glob_and_list(folder):
    assert [len(spectrum) for spectrum in read_spectra(str(folder / "*.fits"))] == [20]
    assert len(read_spectra(str(folder / "**" / "*.[fF]*"))) == 2
    row = {"flux": np.ones(5), "wavelength": 4000 + np.arange(5.0), "error": 1.0}
    assert [len(spectrum) for spectrum in read_spectra([folder / "b.fits", row, folder])] == [20, 5, 20, 30]


def test_nothing_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no FITS file in or below the folder"):
        read_spectra(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.fits"):
        read_spectra(str(tmp_path / "*.fits"))


def test_on_error(folder):
    (folder / "page.fits").write_text("<html>no</html>")
    with pytest.raises(ValueError, match=r"page\.fits is not a FITS file"):
        read_spectra(folder)
    with pytest.warns(UserWarning) as caught:
        spectra = read_spectra([folder, folder / "none.fits", {"flux": [1.0]}], on_error="warn")
    messages = [str(warning.message) for warning in caught]
    assert len(spectra) == 2
    assert "page.fits is not a FITS file" in messages[0] and messages[1] == "read 2 of 3 sources, skipped 1"
    assert "none.fits" in messages[2] and messages[3].startswith("skipped source 2: a spectrum needs wavelength")
    assert messages[4] == "read 1 of 3 sources, skipped 2"
    with pytest.raises(ValueError, match="on_error must be one of raise, warn, found 'ignore'"):
        read_spectra(folder, on_error="ignore")


def test_progress_bar(folder, capsys):
    read_spectra(folder)
    assert capsys.readouterr().err == ""
    read_spectra(folder, progress=True)
    assert "reading spectra" in capsys.readouterr().err
    read_spectra([folder / "b.fits"] * 9)
    assert "9/9" in capsys.readouterr().err
    read_spectra([folder / "b.fits"] * 9, progress=False)
    assert capsys.readouterr().err == ""


# Arrays, mappings, rows -----------------------------------------------------------------------------

AXIS = 4000 + np.arange(6.0)


def test_spectrum_is_returned_as_it_is():
    spectrum = Spectrum(np.ones(6), AXIS, np.ones(6))
    assert read_spectra(spectrum)[0] is spectrum
    assert read_spectra([spectrum, spectrum])[1] is spectrum


def test_one_array(rng):
    flux = rng.normal(1, 0.1, 6).astype(">f4")
    (spectrum,) = read_spectra(flux, wavelength=AXIS, error=0.5, object_id=TARGETID, redshift=0.3)
    assert spectrum.flux == pytest.approx(flux) and spectrum.ivar == pytest.approx(np.full(6, 4.0))
    assert (spectrum.object_id, spectrum.labels) == (str(TARGETID), {"redshift": 0.3})
    assert read_spectra(flux.tolist(), wavelength=AXIS / 10, ivar=np.ones(6), wavelength_unit="nm")[
        0
    ].wavelength == pytest.approx(AXIS)


def test_stack_of_arrays(rng):
    flux, ivar = rng.normal(1, 0.1, (3, 6)), np.arange(1.0, 4.0)[:, None] * np.ones(6)
    options = {"wavelength": AXIS, "object_id": ["a", "b", "c"], "labels": {"redshift": [0.1, 0.2, 0.3]}}
    spectra = read_spectra(flux, ivar=ivar, survey="galah", **options)
    assert [spectrum.object_id for spectrum in spectra] == ["a", "b", "c"]
    assert [spectrum.labels["redshift"] for spectrum in spectra] == [0.1, 0.2, 0.3]
    assert [spectrum.ivar[0] for spectrum in spectra] == [1, 2, 3]
    assert spectra[2].flux == pytest.approx(flux[2], rel=1e-6)
    assert {spectrum.medium for spectrum in spectra} == {"air"}  # the survey's, as it is not given
    lists = read_spectra(list(flux), ivar=list(ivar), wavelength=[AXIS, AXIS + 1, AXIS + 2], error=None)
    assert [spectrum.wavelength[0] for spectrum in lists] == [4000, 4001, 4002]


def test_stack_with_columns_of_another_length():
    with pytest.raises(ValueError, match="object_id must have one entry per spectrum, found 2 for 3 spectra"):
        read_spectra(np.ones((3, 6)), wavelength=AXIS, error=1.0, object_id=["a", "b"])
    with pytest.raises(ValueError, match="spectrum 0: flux and wavelength must have the same length"):
        read_spectra(np.ones((3, 5)), wavelength=AXIS, error=1.0)


@pytest.mark.parametrize("name", ["wavelength", "lambda", "wave", "lam", "loglam"])
def test_mapping_under_each_name_of_the_axis(name):
    axis = np.log10(AXIS) if name == "loglam" else AXIS
    (spectrum,) = read_spectra({"flux": np.ones(6), name: axis, "error": np.ones(6), "medium": "air"})
    assert spectrum.wavelength == pytest.approx(AXIS) and spectrum.medium == "air"


def row_of_the_multimodal_universe():
    spectrum = {"flux": [1.0, 2.0, 3.0, 0.0], "ivar": [1.0, 1.0, 1.0, 0.0], "lambda": [4000.0, 4001.0, 4002.0, -1.0]}
    spectrum |= {"mask": [False, True, False, True], "lsf_sigma": [1.0] * 4}
    columns = {
        "Z": np.float32(0.5),
        "ZERR": 0.1,
        "ZWARN": True,
        "SPECTYPE": b"GALAXY",
        "SURVEY": "sv3",
        "teff": np.nan,
    }
    return {"spectrum": spectrum, "object_id": f"b'  {TARGETID}'", "ra": 10.0, "FLUX_G": 3.0} | columns


def test_row_of_the_multimodal_universe():
    (spectrum,) = read_spectra(row_of_the_multimodal_universe(), survey="desi")
    assert len(spectrum) == 3  # the padding is gone
    assert spectrum.mask.tolist() == [False, True, False]
    assert (spectrum.object_id, spectrum.survey) == (str(TARGETID), "desi")
    assert spectrum.labels == {"redshift": 0.5, "class": "GALAXY", "ra": 10.0}  # a boolean ZWARN has two meanings


def test_rows_from_any_iterable():
    rows = [row_of_the_multimodal_universe() for _ in range(3)]
    assert len(read_spectra(rows, survey="desi")) == len(read_spectra(iter(rows))) == 3
    rows[1]["spectrum"]["flux"] = [1.0]
    with pytest.raises(ValueError, match="source 1: flux and wavelength must have the same length, found 1 and 4"):
        read_spectra(rows)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"wavelength": AXIS}, "needs flux, found only 'wavelength'"),
        ({"flux": AXIS, "error": 1.0}, "needs wavelength, found only 'flux', 'error'"),
        ({"flux": AXIS, "wavelength": AXIS}, "exactly one of ivar= and error=, found neither"),
        ({"flux": AXIS, "wavelength": AXIS, "lambda": AXIS}, "'lambda' gives wavelength a second time"),
        ({"flux": AXIS, "wavelength": AXIS, "labels": ["QSO"]}, "labels must map names to values, found list"),
    ],
)
def test_mapping_that_lacks_something(mapping, message):
    with pytest.raises(ValueError, match=message):
        read_spectra(mapping)


def test_the_door(tmp_path, rng):
    write_sdss(tmp_path / "a.fits", rng)
    with pytest.raises(TypeError, match=r"unknown keywords \['errr'\]"):
        read_spectra(np.ones(6), wavelength=AXIS, errr=1.0)
    with pytest.raises(ValueError, match=r"keywords survey go with arrays, mappings and rows, found .*a\.fits"):
        read_spectra(tmp_path / "a.fits", survey="desi")
    with (tmp_path / "a.fits").open("rb") as file, fits.open(file) as hdus:
        for source in (file, hdus):
            with pytest.raises(ValueError, match=r"read_spectra opens files itself, .*: pass the file's name"):
                read_spectra(source)
    with pytest.raises(ValueError, match=r"read_spectra takes a path, .* found int"):
        read_spectra(3)


def test_keywords_are_never_dropped_in_silence():
    row = {"flux": np.ones(8), "wavelength": 5000 + np.arange(8.0), "error": 1.0}
    with pytest.raises(ValueError, match="object_id as a list goes with one array or mapping"):
        read_spectra([row, row], object_id=["a", "b"])
    with pytest.raises(ValueError, match=r"keywords medium go with arrays, mappings and rows, found Spectrum"):
        read_spectra(read_spectra(row)[0], medium="air")
