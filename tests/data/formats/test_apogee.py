"""APOGEE and SDSS-V files: layouts made here, and the real ones."""

import csv
import gzip

import numpy as np
import pytest
import torch

from spectok_hf import SpecTokConfig, SpecTokModel, SpectrumProcessor
from spectok_hf.data.readers import read_spectra

fits = pytest.importorskip("astropy.io.fits")

C_KM_S = 299_792.458
GRID = 10 ** (4.179 + 6e-6 * np.arange(8575))
CHIPS = np.r_[246:3274, 3585:6080, 6344:8335]
GAPS = np.setdiff1d(np.arange(8575), CHIPS)
BADVAL = 16639  # the pipeline's
WARNINGS = 0b11111100000000  # bits 8-13: ghosts, persistence, sky and telluric lines
STAR = "2M00452143+1634446"
GRID_CARDS = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1}
STAR_CARDS = {"OBJID": STAR, "RA": 11.3, "DEC": 16.6, "VHELIO": 6.7, "SNR": 79.0, "TELESCOP": "apo25m"}
STAR_CARDS |= {"RVTEFF": 2700.0, "RVLOGG": 4.0, "RVFEH": -9999.0}
VISIT_CARDS = STAR_CARDS | {"PLATE": "6561    ", "MJD5": 56587, "FIBERID": 131}
VISIT_CHIPS = {"red": (16954.6, 16472.6), "green": (16435.2, 15857.0), "blue": (15810.0, 15142.3)}  # as in the file


@pytest.fixture
def rng():
    return np.random.default_rng(20251017)


def write_images(path, images, cards, image_cards=None, table=None):
    primary = fits.PrimaryHDU()
    primary.header.update(cards)
    hdus = [fits.ImageHDU(image) for image in images]
    for hdu in hdus:
        hdu.header.update(image_cards or {})
    fits.HDUList([primary, *hdus, *([] if table is None else [table])]).writeto(path, overwrite=True)


def star_images(rng, rows=None):
    """Flux, error and mask as the pipeline writes them: flux 0 and error 1e10 in the gaps."""
    shape = (8575,) if rows is None else (rows, 8575)
    flux, error = rng.normal(300, 3, shape).astype(">f4"), np.full(shape, 3.0, ">f4")
    flux[..., GAPS], error[..., GAPS] = 0, 1e10
    return flux, error, np.zeros(shape, ">i2")


def write_apstar(path, images, cards=None, grid=None):
    write_images(path, images, STAR_CARDS | (cards or {}), GRID_CARDS | (grid or {}))


def write_aspcapstar(path, flux, error, param=None):
    table = None
    if param is not None:
        table = fits.BinTableHDU.from_columns([fits.Column("PARAM", "9E", array=[[*param, *[0.0] * 5]])])
    images = [np.asarray(image, ">f4") for image in (flux, error, np.ones(len(flux)))]
    write_images(path, images, {"OBJ": STAR, "VHELIO": 6.7, "SNR": 79.0}, GRID_CARDS, table)


def visit_images(pixels=64):
    wavelength = np.array([np.linspace(*ends, pixels) for ends in VISIT_CHIPS.values()])
    return [
        np.asarray(wavelength / 100, ">f4"),
        np.full((3, pixels), 2.0, ">f4"),
        np.zeros((3, pixels), ">i2"),
        wavelength,
    ]


def write_apvisit(path, images, cards=None, unit="Wavelength (Ang)"):
    write_images(path, images, VISIT_CARDS | (cards or {}))
    fits.setval(path, "BUNIT", value=unit, ext=4)


# apStar ---------------------------------------------------------------------------------------------


def test_apstar_of_one_visit(tmp_path, rng):
    images = star_images(rng)
    write_apstar(tmp_path / "any.fits", images)
    (spectrum,) = read_spectra(tmp_path / "any.fits")
    assert spectrum.wavelength == pytest.approx(GRID[CHIPS], rel=1e-12)
    assert (spectrum.flux == images[0][CHIPS]).all() and spectrum.ivar == pytest.approx(np.full(7514, 1 / 9))
    assert spectrum.good.all() and spectrum.dropped == {}
    assert (spectrum.survey, spectrum.medium, spectrum.frame) == ("apogee", "vacuum", "rest")
    assert (spectrum.object_id, spectrum.flux_unit) == (STAR, "1e-17 erg/s/cm2/Angstrom")
    expected = {"ra": 11.3, "dec": 16.6, "rv": 6.7, "snr": 79.0, "telescope": "apo25m"}
    assert spectrum.labels == expected | {"rv_teff": 2700.0, "rv_logg": 4.0}
    assert spectrum.flux.dtype.isnative


def test_apstar_of_several_visits_gives_its_combined_row(tmp_path, rng):
    images = star_images(rng, rows=5)
    images[1][1:] = 7.0
    images[2][1:] = 1
    write_apstar(tmp_path / "a.fits", images)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert (spectrum.flux == images[0][0, CHIPS]).all() and spectrum.good.all()
    assert spectrum.ivar == pytest.approx(np.full(7514, 1 / 9))


def test_apstar_keeps_its_gaps_if_asked(tmp_path, rng):
    write_apstar(tmp_path / "a.fits", star_images(rng))
    (spectrum,) = read_spectra(tmp_path / "a.fits", keep_gaps=True)
    assert spectrum.wavelength == pytest.approx(GRID, rel=1e-12)
    assert (np.flatnonzero(~spectrum.good) == GAPS).all()
    assert spectrum.dropped == {"ivar = 0 (no information)": len(GAPS)}


def test_apstar_obeys_the_bad_bits_and_no_other(tmp_path, rng):
    images = star_images(rng)
    images[2][:] = WARNINGS
    images[2][246 + 10] |= 1 << 0
    images[2][246 + 11] |= 1 << 14
    images[2][246 + 12] |= 1 << 1 | 1 << 7
    write_apstar(tmp_path / "a.fits", images)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert np.flatnonzero(spectrum.mask).tolist() == [10, 11, 12]
    assert spectrum.dropped == {"BADPIX": 1, "NOT_ENOUGH_PSF": 1, "CRPIX": 1}
    assert "1 pixels: NOT_ENOUGH_PSF" in spectrum.report()


@pytest.mark.parametrize("bit", range(15))
def test_apstar_bits_are_the_pipelines(tmp_path, rng, bit):
    images = star_images(rng)
    images[2][300] = 1 << bit
    write_apstar(tmp_path / "a.fits", images)
    assert read_spectra(tmp_path / "a.fits")[0].mask.sum() == (BADVAL >> bit & 1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (0.0, "ivar = 0"),
        (-3.0, "ivar = 0"),
        (np.nan, "ivar = 0"),
        (np.inf, "ivar = 0"),
        (1e10, "ivar = 0"),
        (3.1e3, "error > 1000 x median"),
    ],
)
def test_apstar_errors_that_say_nothing(tmp_path, rng, error, reason):
    images = star_images(rng)
    images[1][300] = error
    write_apstar(tmp_path / "a.fits", images)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert np.flatnonzero(spectrum.ivar == 0).tolist() == [300 - 246]
    (found,) = spectrum.dropped
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("card", "label"), [({"VHBARY": 12.5}, 12.5), ({"VHELIO": 999999.0}, None), ({"VHELIO": -9999.0}, None)]
)
def test_apstar_velocity_is_a_label_only(tmp_path, rng, card, label):
    write_apstar(tmp_path / "a.fits", star_images(rng), card)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.labels.get("rv") == label
    assert spectrum.wavelength[0] == pytest.approx(GRID[246], rel=1e-12)


def test_cards_that_are_not_fits_count_as_missing(tmp_path, rng):
    write_apstar(tmp_path / "a.fits", star_images(rng))
    content = (tmp_path / "a.fits").read_bytes()
    start = content.index(b"VHELIO  =")
    (tmp_path / "a.fits").write_bytes(content[:start] + b"VHELIO  =                 -NAN" + content[start + 30 :])
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert "rv" not in spectrum.labels and spectrum.labels["snr"] == 79.0


@pytest.mark.parametrize("grid", [{"CRVAL1": 4.18}, {"CDELT1": 7e-6}, {"CRPIX1": 2}])
def test_apstar_on_another_grid_is_refused(tmp_path, rng, grid):
    write_apstar(tmp_path / "a.fits", star_images(rng), grid=grid)
    with pytest.raises(
        ValueError, match=r"a\.fits: .*must have 8575 pixels from 4\.179 by 6e-06.*found 8575 from 4\.1"
    ):
        read_spectra(tmp_path / "a.fits")


def test_apstar_of_other_length_is_refused(tmp_path, rng):
    write_apstar(tmp_path / "a.fits", [image[:8000] for image in star_images(rng)])
    with pytest.raises(ValueError, match=r"found 8000 from 4\.179"):
        read_spectra(tmp_path / "a.fits")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_apstar_cut_short_is_refused(tmp_path, rng, pack, share):
    write_apstar(tmp_path / "a.fits", star_images(rng))
    content = pack((tmp_path / "a.fits").read_bytes())
    (tmp_path / "cut.fits").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.fits is truncated or damaged"):
        read_spectra(tmp_path / "cut.fits")


def test_images_of_different_shape_are_no_apstar(tmp_path, rng):
    flux, error, bits = star_images(rng)
    write_apstar(tmp_path / "a.fits", [flux, error[:-1], bits])
    with pytest.raises(ValueError, match=r"unknown layout: found .*8574"):
        read_spectra(tmp_path / "a.fits")
    with pytest.raises(ValueError, match="format='apstar' needs apStar or asStar, images of flux, error, mask"):
        read_spectra(tmp_path / "a.fits", format="apstar")


# aspcapStar -----------------------------------------------------------------------------------------


def test_aspcapstar(tmp_path):
    flux, error = np.ones(8575), np.full(8575, 0.02)
    flux[GAPS], error[GAPS] = 0, 0
    flux[300], error[300] = 0, 10  # nothing there
    error[301] = 1.2  # not used by ASPCAP
    error[302] = 0.4  # poor, but information
    write_aspcapstar(tmp_path / "a.fits", flux, error, param=(4750.0, 2.5, 0.3, -0.25))
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.wavelength == pytest.approx(GRID[CHIPS], rel=1e-12)
    assert (spectrum.flux_unit, spectrum.frame, spectrum.object_id) == ("normalised", "rest", STAR)
    assert np.flatnonzero(~spectrum.good).tolist() == [54, 55]
    assert spectrum.dropped == {"error > continuum (not used by ASPCAP)": 2}
    expected = {"teff": 4750.0, "logg": 2.5, "m_h": -0.25, "rv": 6.7, "snr": 79.0}
    assert spectrum.labels == pytest.approx(expected)


@pytest.mark.parametrize("param", [None, (-9999.0, -9999.0, 0.2, -9999.0)])
def test_aspcapstar_without_calibrated_parameters_has_no_such_labels(tmp_path, param):
    write_aspcapstar(tmp_path / "a.fits", np.ones(8575), np.full(8575, 0.01), param)
    assert set(read_spectra(tmp_path / "a.fits")[0].labels) == {"rv", "snr"}


# apVisit --------------------------------------------------------------------------------------------


def test_apvisit_is_one_ascending_spectrum(tmp_path):
    images = visit_images()
    images[1][1, 5] = 2e7  # bad pixel of the green chip, sixth from its red end
    images[2][0, 0] = 1 << 12 | 1 << 4  # the reddest pixel
    write_apvisit(tmp_path / "a.fits", images)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert (spectrum.wavelength == np.sort(images[3].ravel())).all()
    assert spectrum.flux == pytest.approx(spectrum.wavelength / 100)  # still with its wavelength
    assert np.flatnonzero(~spectrum.good).tolist() == [2 * 64 - 6, 3 * 64 - 1]
    assert spectrum.dropped == {"error > 1000 x median (no information)": 1, "BADDARK": 1}
    assert (spectrum.frame, spectrum.medium, spectrum.survey) == ("observed", "vacuum", "apogee")
    assert spectrum.object_id == f"{STAR}-6561-56587-131"
    assert "rv" not in spectrum.labels and spectrum.labels["snr"] == 79.0


def test_apvisit_chips_can_stay_apart(tmp_path):
    images = visit_images()
    images[2][0, 0] = 1
    write_apvisit(tmp_path / "a.fits", images)
    spectra = read_spectra(tmp_path / "a.fits", merge_arms=False)
    assert [spectrum.labels["arm"] for spectrum in spectra] == ["blue", "green", "red"]
    for spectrum, row in zip(spectra, (2, 1, 0), strict=True):
        assert (spectrum.wavelength == images[3][row][::-1]).all()
        assert spectrum.object_id == f"{STAR}-6561-56587-131"
    assert [spectrum.mask.sum() for spectrum in spectra] == [0, 0, 1] and spectra[2].mask[-1]


def test_apvisit_chips_that_overlap_share_the_overlap(tmp_path):
    images = visit_images()
    images[3][1] = np.linspace(16500.0, 15857.0, 64)  # beyond 16472.6, where the red chip begins
    images[0][1] = 7.0
    write_apvisit(tmp_path / "a.fits", images)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    green = np.flatnonzero(spectrum.flux == 7)
    assert (np.diff(spectrum.wavelength) > 0).all() and (np.diff(green) == 1).all()
    edge = (16500.0 + 16472.6) / 2
    assert spectrum.wavelength[green[-1]] < edge <= spectrum.wavelength[green[-1] + 1]
    assert len(spectrum) == (images[3][0] >= edge).sum() + (images[3][1] < edge).sum() + 64


def test_apvisit_pixels_without_wavelength_are_left_out(tmp_path):
    images = visit_images()
    images[3][2, :3] = 0
    images[3][0, 7] = np.nan
    write_apvisit(tmp_path / "a.fits", images)
    assert len(read_spectra(tmp_path / "a.fits")[0]) == 3 * 64 - 4
    images[3][1] = 0
    write_apvisit(tmp_path / "a.fits", images)
    with pytest.raises(ValueError, match=r"a\.fits: the blue chip must have wavelengths above 0, found none"):
        read_spectra(tmp_path / "a.fits")


def test_apvisit_is_recognised_by_the_unit_of_its_wavelengths(tmp_path):
    write_apvisit(tmp_path / "a.fits", visit_images(), unit="Sky")
    with pytest.raises(ValueError, match="unknown layout"):
        read_spectra(tmp_path / "a.fits")
    assert len(read_spectra(tmp_path / "a.fits", format="apvisit")[0]) == 192
    write_apvisit(tmp_path / "a.fits", [np.asarray(image[:2]) for image in visit_images()])
    with pytest.raises(ValueError, match="unknown layout"):
        read_spectra(tmp_path / "a.fits")


# SDSS-V ---------------------------------------------------------------------------------------------

MWM_GRIDS = {"BOSS": (3.5523, 1e-4, 4648), "APOGEE": (4.179, 6e-6, 8575)}


def mwm_table(instrument, observatory, rows=0, columns=None, cards=True, wavelength=False, case=str.lower):
    """A table of astra's products: every instrument and observatory has one, most often without rows."""
    start, step, pixels = MWM_GRIDS[instrument]
    pixels = pixels if rows else 0  # as astra writes them
    shape = (rows, pixels)
    values = {
        "sdss_id": np.full(rows, 2**53 + 1),
        "flux": np.full(shape, 5.0),
        "ivar": np.ones(shape),
        "pixel_flags": np.zeros(shape),
    }
    if wavelength:
        values["wavelength"] = np.tile(10 ** (start + step * np.arange(pixels)), (rows, 1))
    values |= columns or {}
    formats = {1: {"i": "K", "f": "E", "U": "20A"}, 2: {"f": f"{pixels}E"}}
    made = [(name, np.asarray(value)) for name, value in values.items()]
    made = [fits.Column(case(name), formats[v.ndim][v.dtype.kind], array=v) for name, v in made]
    hdu = fits.BinTableHDU.from_columns(made, name=f"{instrument}/{observatory}")
    hdu.header.update({"INSTRMNT": instrument, "OBSRVTRY": observatory, "V_ASTRA": "0.6.0"})
    if cards:
        hdu.header.update({"CRVAL": start, "CDELT": step, "CTYPE": "LOG-LINEAR", "CRPIX": 1, "NPIXELS": 8575})
        hdu.header["NPIXELS"] = MWM_GRIDS[instrument][2]
    return hdu


def write_mwm(path, *tables):
    primary = fits.PrimaryHDU()
    primary.header.update({"V_ASTRA": "0.6.0", "SDSS_ID": 2**53 + 1, "RA": 11.3, "DEC": 16.6, "V_RAD": -99.0})
    given = {hdu.name: hdu for hdu in tables}
    names = [(instrument, observatory) for instrument in MWM_GRIDS for observatory in ("APO", "LCO")]
    hdus = [given.get("/".join(name)) or mwm_table(*name) for name in names]
    fits.HDUList([primary, *hdus]).writeto(path)


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_mwmstar(tmp_path, case):
    star = {"obj": [STAR], "snr": [80.0], "v_rad": [6.5], "telescope": ["apo25m"], "doppler_teff": [np.nan]}
    flags = np.zeros((1, 8575))
    flags[0, 300], flags[0, 301] = 1 << 14, 1 << 13
    apogee = mwm_table("APOGEE", "APO", 1, star | {"pixel_flags": flags}, case=case)
    sky = np.zeros((1, 4648))
    sky[0, 9], sky[0, 10] = 1 << 23, 1 << 8
    boss = mwm_table("BOSS", "LCO", 1, {"snr": [20.0], "xcsao_teff": [5000.0], "pixel_flags": sky}, case=case)
    write_mwm(tmp_path / "a.fits", apogee, boss)
    first, second = read_spectra(tmp_path / "a.fits")
    assert (first.survey, second.survey) == ("boss", "apogee")
    assert (first.frame, second.frame) == ("rest", "rest") and first.medium == second.medium == "vacuum"
    assert first.wavelength == pytest.approx(10 ** (3.5523 + 1e-4 * np.arange(4648)), rel=1e-12)
    assert second.wavelength == pytest.approx(GRID[CHIPS], rel=1e-12)
    assert first.dropped == {"BRIGHTSKY": 1} and second.dropped == {"NOT_ENOUGH_PSF": 1}
    assert first.mask[9] and second.mask[54]
    assert (first.object_id, second.object_id) == (STAR, STAR)
    assert first.labels == {"ra": 11.3, "dec": 16.6, "snr": 20.0, "rv_teff": 5000.0}  # the header's V_RAD is Gaia's
    assert second.labels == {"ra": 11.3, "dec": 16.6, "snr": 80.0, "rv": 6.5, "telescope": "apo25m"}


def test_mwmstar_without_apogee_is_named_by_its_sdss_id(tmp_path):
    write_mwm(tmp_path / "a.fits", mwm_table("BOSS", "APO", 1))
    assert read_spectra(tmp_path / "a.fits")[0].object_id == str(2**53 + 1)


def test_mwmvisit_gives_each_row_with_a_name_of_its_own(tmp_path):
    visits = {"obj": [STAR, STAR], "plate": ["6561", "6561"], "mjd": [56587, 56607], "fiber": [131, 125]}
    boss = {"fieldid": [101], "mjd": [59000], "catalogid": [2**60 + 1], "xcsao_v_rad": [7.5]}
    flux = np.full((2, 8575), 5.0)
    flux[1] = 6.0
    write_mwm(
        tmp_path / "a.fits", mwm_table("APOGEE", "APO", 2, visits | {"flux": flux}), mwm_table("BOSS", "APO", 1, boss)
    )
    spectra = read_spectra(tmp_path / "a.fits", keep_gaps=True)
    expected = [f"101-59000-{2**60 + 1}", "6561-56587-131", "6561-56607-125"]
    assert [spectrum.object_id for spectrum in spectra] == [f"{STAR}-{visit}" for visit in expected]
    assert [len(spectrum) for spectrum in spectra] == [4648, 8575, 8575]
    assert [float(spectrum.flux[0]) for spectrum in spectra] == [5, 5, 6]
    assert spectra[0].labels["rv"] == 7.5


@pytest.mark.parametrize(("instrument", "expected"), [("APOGEE", GRID[CHIPS]), ("BOSS", None)])
def test_mwmstar_wavelengths_may_be_a_column(tmp_path, instrument, expected):
    write_mwm(tmp_path / "a.fits", mwm_table(instrument, "APO", 1, cards=False, wavelength=True))
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    expected = 10 ** (3.5523 + 1e-4 * np.arange(4648)) if expected is None else expected
    assert spectrum.wavelength == pytest.approx(expected, rel=1e-12)  # although the column is float32


def test_mwm_gaps_and_padding_carry_nothing(tmp_path):
    flux, ivar = np.full((1, 8575), 5.0), np.ones((1, 8575))
    flux[0, GAPS], ivar[0, GAPS] = np.nan, 0
    flags = np.zeros((1, 8575))
    flags[0, GAPS] = np.nan
    columns = {"flux": flux, "ivar": ivar, "pixel_flags": flags}
    write_mwm(tmp_path / "a.fits", mwm_table("APOGEE", "LCO", 1, columns))
    (spectrum,) = read_spectra(tmp_path / "a.fits", keep_gaps=True)
    assert (np.flatnonzero(~spectrum.good) == GAPS).all()
    assert read_spectra(tmp_path / "a.fits")[0].good.all()


def test_mwm_files_that_cannot_be_read(tmp_path):
    write_mwm(tmp_path / "empty.fits")
    with pytest.raises(
        ValueError, match=r"empty\.fits: expected a spectrum in at least one of the tables, found none"
    ):
        read_spectra(tmp_path / "empty.fits")
    write_mwm(tmp_path / "axis.fits", mwm_table("BOSS", "APO", 1, cards=False))
    with pytest.raises(ValueError, match="BOSS/APO needs CRVAL, CDELT and NPIXELS, or a column wavelength"):
        read_spectra(tmp_path / "axis.fits")
    model = {"model_flux": np.ones((1, 8575))}
    write_mwm(tmp_path / "astraStar.fits", mwm_table("APOGEE", "APO", 1, model))
    with pytest.raises(ValueError, match="unknown layout"):
        read_spectra(tmp_path / "astraStar.fits")


# File and row ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpecTokModel(SpecTokConfig.from_preset("tiny", initializer_range=0.1)).eval()


def tokens(model, spectrum):
    with torch.no_grad():
        return model(**SpectrumProcessor()(spectrum, return_tensors="pt")).tokens


def star_with_flaws(tmp_path, rng):
    """A star's spectrum through apStar, and the images it came from: with lines, bad bits, warnings, bad errors."""
    flux, error, bits = star_images(rng)
    flux[CHIPS] *= 1 - 0.4 * (rng.random(len(CHIPS)) < 0.1)
    bits[rng.random(8575) < 0.5] = 1 << 9
    bits[rng.random(8575) < 0.05] |= 1 << 0
    error[300:305] = 1e10
    write_apstar(tmp_path / "a.fits", (flux, error, bits))
    return read_spectra(tmp_path / "a.fits")[0], flux[CHIPS], error[CHIPS], bits[CHIPS]


def universe_row(flux, error, wavelength, **columns):
    """A row as the Multimodal Universe builds it: 7514 pixels, float32, `b'...'` around the identifier."""
    columns = {"flux": flux, "ivar": 1 / error.astype(np.float64) ** 2, "lambda": wavelength} | columns
    pixels = {
        name: values.astype(np.float32) if values.dtype.kind == "f" else values for name, values in columns.items()
    }
    return {"spectrum": pixels, "object_id": f"b'{STAR}'", "radial_velocity": 6.7}


def float32_grid():
    """The wavelengths of the Multimodal Universe: of a float32 logarithm, up to 0.01 Å (4 % of a pixel) off."""
    wavelength = 10 ** (4.179 + 6e-6 * np.arange(8575)).astype(np.float32)
    assert 0.005 < np.abs(wavelength - GRID).max() < 0.012
    return wavelength[CHIPS]


@pytest.mark.parametrize("wavelength", [GRID[CHIPS].astype(np.float32), float32_grid()], ids=["float32", "jitter"])
def test_file_and_row_of_a_star_give_equal_tokens(tmp_path, rng, model, wavelength):
    from_file, flux, error, bits = star_with_flaws(tmp_path, rng)
    row = universe_row(flux, error, wavelength, mask=bits & BADVAL != 0)
    (from_row,) = read_spectra(row, survey="apogee")
    assert len(from_row) == 7514 and (from_row.good == from_file.good).all()
    assert (from_row.object_id, from_row.frame) == (from_file.object_id, from_file.frame)
    assert (from_row.wavelength == from_file.wavelength).all()
    assert torch.equal(tokens(model, from_row), tokens(model, from_file))
    shifted = universe_row(flux, error, wavelength * 1.0001, mask=bits & BADVAL != 0)
    assert not torch.equal(tokens(model, read_spectra(shifted, survey="apogee")), tokens(model, from_file))


@pytest.mark.parametrize("name", ["pix_bitmask", "mask"])
def test_bits_in_a_row_mean_what_they_mean_in_the_file(tmp_path, rng, model, name):
    from_file, flux, error, bits = star_with_flaws(tmp_path, rng)
    (from_row,) = read_spectra(
        universe_row(flux, error, float32_grid(), **{name: bits.astype(np.int64)}), survey="apogee"
    )
    assert (from_row.mask == from_file.mask).all() and (from_row.good == from_file.good).all()
    assert from_row.dropped["BADPIX"] == from_file.dropped["BADPIX"] > 200
    assert torch.equal(tokens(model, from_row), tokens(model, from_file))


# Real files -----------------------------------------------------------------------------------------

APSTAR_RV = (13.6288, 22.4579, 26.0499)  # km/s, topocentric: VRAD1-3 of the star's apStar header
ALUMINIUM = 16723.524  # Å, vacuum


@pytest.fixture(scope="module")
def real(spectra_dir):
    """Path to spectrum of every FITS file of APOGEE in the manifest."""
    with (spectra_dir / "MANIFEST.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["path"].startswith("apogee/")]
    rows = [row for row in rows if row["path"].endswith(".fits")]
    assert len(rows) == 3 + 18 + 4
    return {row["path"].split("/", 1)[1]: (row, *read_spectra(spectra_dir / row["path"])) for row in rows}


def of_kind(real, kind):
    return {path.split("/")[1]: entry for path, entry in real.items() if path.startswith(f"{kind}/")}


def line_velocity(spectrum, line, half_width=45.0):
    """Centroid of an absorption line, km/s from its rest wavelength."""
    offset = (spectrum.wavelength / line - 1) * C_KM_S
    inside = (np.abs(offset) < half_width) & spectrum.good
    beside = (np.abs(offset) > half_width) & (np.abs(offset) < 3 * half_width) & spectrum.good
    assert inside.sum() > 15 and beside.sum() > 20
    depth = np.clip(np.quantile(spectrum.flux[beside], 0.75) - spectrum.flux[inside], 0, None)
    return float((depth * offset[inside]).sum() / depth.sum())


def test_real_stars_match_the_manifest(real):
    for path, (row, spectrum) in real.items():
        visit = path.startswith("apVisit")
        assert len(spectrum) == (12288 if visit else 7514)
        assert spectrum.object_id.startswith(row["object_id"]) and (spectrum.object_id != row["object_id"]) == visit
        assert spectrum.frame == ("observed" if visit else "rest")
        assert not row["snr"] or spectrum.labels["snr"] == pytest.approx(float(row["snr"]), abs=0.06)
        assert not row["rv_kms"] or spectrum.labels["rv"] == pytest.approx(float(row["rv_kms"]), abs=0.006)
    assert len({entry[1].object_id for entry in of_kind(real, "apVisit").values()}) == 4


def test_real_apstar_keeps_what_any_bit_would_throw_away(real, spectra_dir):
    for name, (_, spectrum) in of_kind(real, "apStar").items():
        bits = np.atleast_2d(fits.getdata(spectra_dir / "apogee" / "apStar" / name, 3))[0, CHIPS]
        assert spectrum.good.mean() > 0.97
        assert (bits == 0).mean() < 0.74
        assert not spectrum.good[bits & BADVAL != 0].any()


def test_real_aspcapstar_drops_what_it_did_not_fit(real):
    shares = [spectrum.good.mean() for _, spectrum in of_kind(real, "aspcapStar").values()]
    assert min(shares) > 0.6 and np.median(shares) > 0.85
    for name, (_, spectrum) in of_kind(real, "aspcapStar").items():
        assert spectrum.flux_unit == "normalised"
        assert 0.8 < np.median(spectrum.flux[spectrum.good]) < 1.05
        assert (spectrum.flux[spectrum.good] > 0).all()  # flux 0 = nothing there
        star = real.get(f"apStar/{name.replace('aspcapStar-r6-l30e.2', 'apStar-r6')}")
        assert star is None or not spectrum.good[star[1].mask].any()


def test_real_apvisit_keeps_its_pixels(real):
    for _, spectrum in of_kind(real, "apVisit").values():
        assert spectrum.good.mean() > 0.97
        assert (spectrum.wavelength[0] < 15145) and (spectrum.wavelength[-1] > 16950)


# Al I is strong in these M dwarfs. With its wavelength in air the offsets would be +82 km/s.
def test_real_stars_are_at_rest(real):
    offsets = [line_velocity(spectrum, ALUMINIUM) for _, spectrum in of_kind(real, "apStar").values()]
    assert offsets == pytest.approx([0, 0, 0], abs=5)


@pytest.mark.parametrize("line", [15753.291, 15770.150, 16755.140])  # Mg I and Al I, vacuum
def test_real_giant_is_at_rest(real, line):
    (_, spectrum) = of_kind(real, "aspcapStar")["aspcapStar-r6-l30e.2-2M17334253-1654573.fits"]
    assert abs(line_velocity(spectrum, line)) < 3


@pytest.mark.parametrize("visit", range(3))
def test_real_visits_move_at_the_velocity_that_apstar_gives_for_them(real, spectra_dir, visit):
    """Topocentric and in vacuum: the barycentric correction, 6-20 km/s, is not applied."""
    blue = read_spectra(spectra_dir / "apogee" / "apVisit" / f"apVisit-{STAR}-{visit}.fits", merge_arms=False)[0]
    (_, star) = of_kind(real, "aspcapStar")[f"aspcapStar-r6-l30e.2-{STAR}.fits"]  # good = neither bad nor a sky line
    rest, template = star.wavelength[: 3028 - 100], lines(star)[: 3028 - 100]
    used = star.good[: 3028 - 100] & (rest > blue.wavelength[0] + 10)
    visit_lines = lines(blue)
    trials = np.arange(-60, 60, 0.5)
    moved = [np.interp(rest * (1 + trial / C_KM_S), blue.wavelength, visit_lines) for trial in trials]
    found = trials[np.argmax([np.corrcoef(flux[used], template[used])[0, 1] for flux in moved])]
    assert found == pytest.approx(APSTAR_RV[visit], abs=1.0)


def lines(spectrum, window=151):
    """A spectrum over its running median, without spikes; bad pixels are interpolated."""
    good = spectrum.good
    flux = np.interp(spectrum.wavelength, spectrum.wavelength[good], spectrum.flux[good])
    padded = np.pad(flux, window // 2, mode="edge")
    continuum = np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1)
    return np.clip(flux / continuum - 1, -0.3, 0.3)
