"""GALAH: the CCDs of a star are found and joined, relative errors stay honest, and lines fall where physics says."""

import csv
import gzip
import shutil
from functools import partial

import numpy as np
import pytest

from spectok_hf.data.formats import read_fits
from spectok_hf.data.readers import read_spectra
from spectok_hf.data.surveys import SURVEYS

fits = pytest.importorskip("astropy.io.fits")

C_KM_S = 299_792.458
STAR = "140312004501116"
PIXELS = 4096


def write_ccd(path, ccd, *, layout="dr3", flux=100.0, relative_error=0.1, velocity=0.0, cards=None, pixels=PIXELS):
    """One CCD in the layout of DR3 ("dr3"), of DR3 without names ("unnamed"), or of dr6.0."""
    arm = SURVEYS["galah"].arms[ccd - 1]
    counts, errors = (np.broadcast_to(values, pixels).astype(np.float64) for values in (flux, relative_error))
    primary = fits.PrimaryHDU(counts)
    header = {"CRVAL1": arm.start, "CDELT1": arm.step, "CRPIX1": 1.0, "INSTRUME": "HERMES-2dF", "OBJECT": STAR}
    primary.header.update(header | (cards or {}))
    other = np.full(pixels, 7e5)  # a trap: nothing of it may be read
    if layout == "dr6":
        names = ("normalized", "relative_error", "sky", "teluric", "scattered", "cross_talk", "resolution_profile")
    else:
        names = ("input_sigma", "no_sky_subspectrum", "no_sky_sigma", "normalised spectra")
    extensions = []
    for name in names:
        content = errors if name in ("relative_error", "input_sigma") else other
        extensions.append(fits.ImageHDU(content, name=None if layout == "unnamed" else name))
    if layout != "dr6":
        shift = 1 + velocity / C_KM_S
        extensions[-1].header.update({"CRVAL1": arm.start / shift, "CDELT1": arm.step / shift, "CRPIX1": 1.0})
    fits.HDUList([primary, *extensions]).writeto(path)


def write_star(folder, star=STAR, ccds=(1, 2, 3, 4), **options):
    for ccd in ccds:
        write_ccd(folder / f"{star}{ccd}.fits", ccd, flux=100.0 * ccd, **options)
    return [folder / f"{star}{ccd}.fits" for ccd in ccds]


def pack(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


# The files of a star ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["dr3", "unnamed", "dr6"])
@pytest.mark.parametrize("given", range(4))
def test_any_of_the_four_files_gives_the_whole_star(tmp_path, layout, given):
    files = write_star(tmp_path, layout=layout)
    (spectrum,) = read_spectra(files[given])
    assert len(spectrum) == 4 * PIXELS and spectrum.good.all()
    arms = SURVEYS["galah"].arms
    expected = np.concatenate([arm.start + arm.step * np.arange(PIXELS) for arm in arms])
    assert spectrum.wavelength == pytest.approx(expected, abs=1e-9)
    assert spectrum.flux[::PIXELS].tolist() == [100, 200, 300, 400]  # the counts, not the normalised spectrum
    assert spectrum.error[::PIXELS] == pytest.approx([10, 20, 30, 40], rel=1e-6)
    assert (spectrum.survey, spectrum.object_id, spectrum.medium) == ("galah", STAR, "air")
    assert (spectrum.frame, spectrum.flux_unit) == ("observed", "counts")
    assert "missing_arms" not in spectrum.labels and "arm" not in spectrum.labels


def test_arms_can_stay_apart(tmp_path):
    files = write_star(tmp_path)
    spectra = read_spectra(files[2], merge_arms=False)
    assert [spectrum.labels["arm"] for spectrum in spectra] == ["ccd1", "ccd2", "ccd3", "ccd4"]
    assert [float(spectrum.flux[0]) for spectrum in spectra] == [100, 200, 300, 400]
    assert {spectrum.object_id for spectrum in spectra} == {STAR}


def test_a_folder_a_pattern_and_a_list_give_each_star_once(tmp_path):
    write_star(tmp_path)
    other = "131123003001096"
    write_star(tmp_path, other, ccds=(1, 3), cards={"OBJECT": other})
    everything = sorted(tmp_path.glob("*.fits"))
    for source in (tmp_path, tmp_path / "*.fits", everything, [str(path) for path in everything[::-1]]):
        spectra = read_spectra(source)
        assert sorted(spectrum.object_id for spectrum in spectra) == [other, STAR]
    assert [len(spectrum) for spectrum in read_spectra(tmp_path)] == [2 * PIXELS, 4 * PIXELS]
    assert len(read_spectra(tmp_path, merge_arms=False)) == 6


def test_missing_ccds_are_named(tmp_path):
    write_star(tmp_path, ccds=(1, 3))
    (spectrum,) = read_spectra(tmp_path / f"{STAR}3.fits")
    assert len(spectrum) == 2 * PIXELS
    assert spectrum.labels["missing_arms"] == "ccd2 ccd4"


def test_packed_files_count_as_the_files_that_they_are(tmp_path):
    files = write_star(tmp_path)
    packed = [pack(path) for path in files]
    assert len(read_spectra(tmp_path)) == 1  # each file twice, packed and not
    for path in (files[0], files[1], packed[2]):
        path.unlink()  # left: 1 and 2 packed, 3 as it was, 4 twice
    (spectrum,) = read_spectra(tmp_path)
    assert len(spectrum) == 4 * PIXELS
    for path in (packed[0], files[2], files[3], packed[3]):
        (spectrum,) = read_spectra(path)
        assert spectrum.flux[::PIXELS].tolist() == [100, 200, 300, 400]


def test_a_copy_that_was_left_packed_is_not_the_star_once_more(tmp_path):
    """The file that is given is read, not its copy."""
    files = write_star(tmp_path, ccds=(1,))
    packed = pack(files[0])
    files[0].unlink()
    write_ccd(files[0], 1, flux=5.0)
    assert [read_spectra(path)[0].flux[0] for path in (files[0], packed)] == [5, 100]
    assert len(read_spectra([packed, files[0]])) == 1


def test_a_file_of_another_name_stands_alone(tmp_path):
    files = write_star(tmp_path)
    lone = tmp_path / "my star.fits"
    shutil.copy(files[1], lone)
    (spectrum,) = read_spectra(lone)
    assert len(spectrum) == PIXELS and spectrum.object_id == STAR
    assert spectrum.labels["missing_arms"] == "ccd1 ccd3 ccd4"
    assert len(read_spectra(tmp_path)) == 2  # the star, and the file of another name


def test_object_id_is_the_files_where_the_header_has_the_field(tmp_path):
    files = write_star(tmp_path, ccds=(1,), layout="dr6", cards={"OBJECT": "galahfco_3.txt,9091"})
    assert read_spectra(files[0])[0].object_id == STAR
    shutil.copy(files[0], tmp_path / "a.fits")
    assert read_spectra(tmp_path / "a.fits")[0].object_id is None


# Files that do not belong together --------------------------------------------------------------------


def test_files_of_different_stars_under_one_name_are_refused(tmp_path):
    write_star(tmp_path, ccds=(1, 2))
    write_ccd(tmp_path / f"{STAR}3.fits", 3, cards={"OBJECT": "131123003001096"})
    message = rf"must hold one star, found OBJECT = '{STAR}' in {STAR}1.fits and '131123003001096' in {STAR}3.fits"
    for path in sorted(tmp_path.glob("*.fits")):
        with pytest.raises(ValueError, match=message):
            read_spectra(path)


def test_one_ccd_twice_is_refused(tmp_path):
    write_star(tmp_path, ccds=(1, 2))
    write_ccd(tmp_path / f"{STAR}3.fits", 2)
    with pytest.raises(
        ValueError, match=rf"{STAR}2.fits and {STAR}3.fits must hold different CCDs, found ccd2 in both"
    ):
        read_spectra(tmp_path / f"{STAR}1.fits")


def test_a_sibling_that_is_no_galah_file_is_refused(tmp_path):
    files = write_star(tmp_path, ccds=(1,))
    fits.PrimaryHDU(np.ones(9)).writeto(tmp_path / f"{STAR}2.fits")
    with pytest.raises(
        ValueError, match=rf"{STAR}2.fits has the name of a CCD of the same star, and is no GALAH file"
    ):
        read_spectra(files[0])


def test_a_truncated_sibling_is_named(tmp_path):
    files = write_star(tmp_path, ccds=(1, 2))
    files[1].write_bytes(files[1].read_bytes()[:-30_000])
    with pytest.raises(ValueError, match=rf"{STAR}2.fits is truncated or damaged"):
        read_spectra(files[0])


def test_images_of_other_instruments_are_not_taken_for_galah(tmp_path):
    write_ccd(tmp_path / "a.fits", 1, layout="unnamed", cards={"INSTRUME": "UCLES"})
    with pytest.raises(ValueError, match="unknown layout"):
        read_fits(tmp_path / "a.fits")
    assert len(read_spectra(tmp_path / "a.fits", format="galah")[0]) == PIXELS


def test_wavelengths_of_no_ccd_are_refused(tmp_path):
    write_ccd(tmp_path / "a.fits", 1, cards={"CRVAL1": 4000.0})
    with pytest.raises(ValueError, match="4000-4188 Å is none of GALAH's CCDs"):
        read_spectra(tmp_path / "a.fits")


# Errors and axis -------------------------------------------------------------------------------------


def test_no_confident_pixel_from_a_relative_error_that_is_none(tmp_path):
    flux, relative_error = np.full(PIXELS, 100.0), np.full(PIXELS, 0.1)
    relative_error[:5] = [0, -0.001, -50, np.nan, np.inf]
    flux[5:8] = [0, -100, np.nan]
    flux[8], relative_error[8] = -100, -0.1  # the product is positive, and says nothing
    relative_error[9] = 1e5
    relative_error[10] = 20  # poor, and an honest statement
    write_ccd(tmp_path / "a.fits", 1, flux=flux, relative_error=relative_error)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert np.flatnonzero(~spectrum.good).tolist() == list(range(10))
    assert not spectrum.ivar[:10].any()
    assert spectrum.error[10:12] == pytest.approx([2000, 10], rel=1e-5)
    assert spectrum.dropped == {
        "flux is not finite": 1,
        "error > 1000 x median (no information)": 1,
        "relative error is not finite": 2,
        "relative error <= 0": 4,
        "flux <= 0 (a relative error says nothing)": 2,
    }


def test_a_ccd_without_any_error_is_bad_everywhere(tmp_path):
    write_ccd(tmp_path / "a.fits", 1, relative_error=-1.0)
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert not spectrum.good.any() and not spectrum.ivar.any()
    assert spectrum.dropped == {"relative error <= 0": PIXELS}


@pytest.mark.parametrize(("reference", "shift"), [(1.0, 0), (0.0, 0), (None, 0), (11.0, -10)])
def test_first_pixel_is_at_crval(tmp_path, reference, shift):
    """CRPIX1 = 0 means 1, as in GALAH's own tutorials."""
    write_ccd(tmp_path / "a.fits", 3, cards={"CRPIX1": reference})
    arm = SURVEYS["galah"].arms[2]
    (spectrum,) = read_spectra(tmp_path / "a.fits")
    assert spectrum.wavelength[[0, -1]] == pytest.approx(arm.start + arm.step * np.array([shift, 4095 + shift]))


def test_pixel_numbers_may_differ_between_ccds_but_not_within(tmp_path):
    write_ccd(tmp_path / f"{STAR}1.fits", 1, pixels=4097)
    write_ccd(tmp_path / f"{STAR}2.fits", 2, pixels=4111)
    assert len(read_spectra(tmp_path)[0]) == 8208
    with fits.open(tmp_path / f"{STAR}1.fits") as hdus:
        hdus[1].data = hdus[1].data[:-1]
        hdus.writeto(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"one error per pixel, found shapes \(4097,\) and \(4096,\)"):
        read_spectra(tmp_path / "a.fits")


# Labels ----------------------------------------------------------------------------------------------

DR6_CARDS = {"RV": 28.7, "RVCOM": 23.3, "RVCOM_OK": 1, "TEFF_R": 6591.5, "LOGG_R": 3.93, "FE_H_R": -0.82, "PAR_OK": 1}
DR6_CARDS |= {"RA_ICRS": 87.0, "DEC_ICRS": 8.1, "BARYEFF": -13.7}
DR6_LABELS = {"rv": 23.3, "teff": 6591.5, "logg": 3.93, "feh": -0.82, "ra": 87.0, "dec": 8.1}


@pytest.mark.parametrize(
    ("cards", "changes"),
    [
        ({}, {}),
        ({"RVCOM_OK": 0}, {"rv": None}),
        ({"PAR_OK": 0}, {"teff": None, "logg": None, "feh": None}),
        ({"TEFF_R": "None", "LOGG_R": "None", "FE_H_R": "None"}, {"teff": None, "logg": None, "feh": None}),
        ({"RA_ICRS": 0.0, "DEC_ICRS": 0.0}, {"ra": None, "dec": None}),
        ({"RA_ICRS": 0.0}, {"ra": 0.0}),
        ({"BARYEFF": "None"}, {"barycentric": False}),
    ],
)
def test_labels_of_the_later_reductions(tmp_path, cards, changes):
    write_ccd(tmp_path / "a.fits", 1, layout="dr6", cards=DR6_CARDS | cards)
    expected = {name: value for name, value in (DR6_LABELS | changes).items() if value is not None}
    assert read_spectra(tmp_path / "a.fits", merge_arms=False)[0].labels == expected | {"arm": "ccd1"}


def test_velocity_of_dr3_is_that_of_its_normalised_grid(tmp_path):
    write_ccd(tmp_path / "a.fits", 1, velocity=-32.9)
    assert read_spectra(tmp_path / "a.fits")[0].labels["rv"] == pytest.approx(-32.9, abs=1e-6)
    with fits.open(tmp_path / "a.fits") as hdus:
        hdus[4].header["CDELT1"] *= 1.01  # another grid altogether
        hdus.writeto(tmp_path / "b.fits")
        fits.HDUList(hdus[:4]).writeto(tmp_path / "c.fits")
    assert all("rv" not in read_spectra(tmp_path / name)[0].labels for name in ("b.fits", "c.fits"))


# Real files ------------------------------------------------------------------------------------------

# Å in air. H alpha is the centroid of its fine structure (6564.614 Å in vacuum, as for SDSS); the 6562.79 of NIST is
# 0.5 km/s to the blue. The others are unblended lines of metals, three below and seven above H alpha.
HALPHA = 6562.801
METALS = (6494.980, 6499.650, 6546.239, 6569.216, 6572.779, 6574.228, 6575.016, 6592.913, 6593.870, 6609.110)
NIGHT_SKY = (7750.640, 7794.112, 7808.467, 7821.503, 7841.266)  # OH, Osterbrock et al. 1996


def velocity_of(wavelength, flux, line, *, reach, half_width, sign=-1, smooth=1):
    """Centre of a line's core in km/s from its rest wavelength: a parabola around the extreme within `reach`."""
    velocity = (wavelength / line - 1) * C_KM_S
    inside = np.flatnonzero(np.abs(velocity) < reach)
    smoothed = np.convolve(flux, np.ones(smooth) / smooth, "same")
    centre = velocity[inside[np.argmax(sign * smoothed[inside])]]
    for _ in range(8):
        core = np.abs(velocity - centre) < half_width
        curvature, slope, _ = np.polyfit(velocity[core] - centre, flux[core], 2)
        centre -= slope / (2 * curvature)
    return centre


@pytest.fixture(scope="module")
def real_files(spectra_dir):
    files = sorted((spectra_dir / "galah").rglob("*.fits"))
    assert len(files) == 20
    return files


@pytest.fixture(scope="module")
def best_ten(spectra_dir, tmp_path_factory):
    """The ten DR3 stars of highest signal-to-noise ratio around H alpha among those that GALAH's own classification
    (t-SNE) calls neither binary, hot, fast rotating, with emission, molecular bands nor metal-poor.

    Only two stars are here as native files, so the files are rebuilt from the compact copy, in the layout of DR3.
    """
    stars = np.load(spectra_dir / "galah" / "galah_dr3_compact.npz")
    noise = np.where(stars["rel_err"][:, 2] > 0, stars["rel_err"][:, 2], np.nan)
    quality = np.where(stars["tsne_class"] == "", 1 / np.nanmedian(noise, axis=1), 0)
    folder = tmp_path_factory.mktemp("galah")
    for star in np.argsort(-quality)[:10]:
        for ccd in range(4):
            write_compact(stars, star, ccd, folder)
    return read_spectra(folder, progress=False)


def write_compact(stars, star, ccd, folder):
    pixels, name = stars["n_pix"][star, ccd], str(stars["sobject_id"][star])
    hdus = [fits.PrimaryHDU(stars["flux"][star, ccd, :pixels]), fits.ImageHDU(stars["rel_err"][star, ccd, :pixels])]
    hdus += [fits.ImageHDU(np.zeros(pixels)), fits.ImageHDU(np.zeros(pixels))]
    hdus.append(fits.ImageHDU(stars["norm"][star, ccd, :pixels].astype(np.float64)))
    for hdu, grid in ((hdus[0], "wave_crval_cdelt"), (hdus[4], "norm_wave_crval_cdelt")):
        start, step = stars[grid][star, ccd]
        hdu.header.update({"CRPIX1": 1.0, "CRVAL1": start, "CDELT1": step})
    hdus[0].header.update({"OBJECT": name, "ORIGIN": "GALAH DR3"})
    fits.HDUList(hdus).writeto(folder / f"{name}{ccd + 1}.fits")


def test_every_real_file_gives_its_star(real_files):
    for path in real_files:
        (spectrum,) = read_spectra(path)
        assert spectrum.object_id == path.name[:15]
        assert len(spectrum) == 4 * PIXELS and spectrum.good.mean() > 0.99
        assert spectrum.wavelength[[0, -1]] == pytest.approx([4713.5, 7886.5], abs=1.5)
        assert "rv" in spectrum.labels and "missing_arms" not in spectrum.labels


def test_real_folder_and_list_give_each_star_once(spectra_dir, real_files):
    with (spectra_dir / "MANIFEST.csv").open() as file:
        rows = {row["object_id"]: row for row in csv.DictReader(file) if row["path"].startswith("galah/")}
    names = sorted({path.name[:15] for path in real_files})
    for source in (spectra_dir / "galah", real_files, real_files[::-1]):
        spectra = read_spectra(source, progress=False)
        assert sorted(spectrum.object_id for spectrum in spectra) == names
    for spectrum in spectra:
        row = rows[spectrum.object_id]
        assert spectrum.labels["rv"] == pytest.approx(float(row["rv_kms"]), abs=0.006)
        if row["teff"]:
            assert spectrum.labels["teff"] == pytest.approx(float(row["teff"]), abs=0.06)


def test_negative_relative_errors_of_real_files_are_bad(spectra_dir):
    (spectrum,) = read_spectra(spectra_dir / "galah" / "workshop_iraf6" / "2101150001010034.fits")
    assert spectrum.dropped == {"relative error <= 0": 35}
    assert np.isfinite(spectrum.error[spectrum.good]).all() and (spectrum.flux[spectrum.good] > 0).all()


def test_night_sky_lines_fall_at_the_barycentric_correction(spectra_dir, real_files):
    """They are at rest on the ground: a pixel is 2.9 km/s, vacuum instead of air would be 82 km/s."""
    offsets = []
    for path in (path for path in real_files if path.name[15] == "4"):
        with fits.open(path) as hdus:
            sky = hdus["sky"].data if "sky" in hdus else hdus[2].data.astype(np.float64) - hdus[0].data
            motion = hdus[0].header["BARYEFF"]
        arm = read_spectra(path, merge_arms=False)[3]
        assert arm.labels.get("barycentric", True) == (motion != "None")
        find = partial(velocity_of, arm.wavelength, sky, reach=45, half_width=9, sign=1)
        offsets.append(np.median([find(line) for line in NIGHT_SKY]) - (0 if motion == "None" else motion))
    assert len(offsets) == 5
    assert np.abs(offsets).max() < 1


def test_halpha_of_ten_stars_is_at_the_velocity_of_the_header(best_ten):
    """The stars' cores of H alpha are 1-2 km/s to the red of their metal lines, whatever way they are measured.

    Centroids, bisectors and mirrored profiles agree on that. Eight of the ten are within 2 km/s.
    """
    offsets = [
        velocity_of(star.wavelength, star.flux, HALPHA, reach=600, half_width=25, smooth=7) - star.labels["rv"]
        for star in best_ten
    ]
    assert len(offsets) == 10
    assert abs(np.median(offsets)) < 2
    assert np.abs(offsets).max() < 2.5
    assert (np.abs(offsets) < 2).sum() >= 8


def test_metal_lines_are_at_the_velocity_of_the_header(best_ten):
    """Closer than half a pixel (1.4 km/s), so that no pixel is lost or gained.

    Stars whose ten lines scatter by more than that are left out: theirs are too broad or too weak (two of the ten).
    """
    offsets = []
    for star in best_ten:
        rest = star.wavelength / (1 + star.labels["rv"] / C_KM_S)
        found = [velocity_of(rest, star.flux, line, reach=20, half_width=8) for line in METALS]
        if np.median(np.abs(found - np.median(found))) < 1.4:
            offsets.append(np.median(found))
    assert len(offsets) >= 8
    assert abs(np.median(offsets)) < 0.5
    assert np.abs(offsets).max() < 1.4
