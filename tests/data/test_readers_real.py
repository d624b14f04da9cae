"""`read_spectra` on real survey files: every file reads, and lines fall where physics puts them."""

import csv

import numpy as np
import pytest

from spectok_hf.data.readers import read_spectra

pytest.importorskip("astropy")

C_KM_S = 299_792.458
HALPHA, OIII = 6564.614, 5008.240  # Å, vacuum
CALCIUM = (8544.44, 8664.52)  # Å, vacuum: the two stronger lines of the infrared triplet


@pytest.fixture(scope="module")
def manifest(spectra_dir):
    with (spectra_dir / "MANIFEST.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def sdss(spectra_dir):
    return {path.name: read_spectra(path)[0] for path in sorted((spectra_dir / "sdss").rglob("*.fits"))}


@pytest.fixture(scope="module")
def lamost(spectra_dir):
    return {path.name: read_spectra(path)[0] for path in sorted((spectra_dir / "lamost" / "dr1").glob("*.fits"))}


def rows_below(manifest, folder):
    rows = [row for row in manifest if row["path"].startswith(folder) and row["path"].endswith(".fits")]
    assert rows
    return rows


def velocity(spectrum, line, half_width, sign):
    """Centroid of a line in km/s from its rest wavelength; sign +1 for emission, -1 for absorption."""
    offset = (spectrum.wavelength / line - 1) * C_KM_S
    inside = (np.abs(offset) < half_width) & spectrum.good
    beside = (np.abs(offset) > half_width) & (np.abs(offset) < 3 * half_width) & spectrum.good
    assert inside.sum() > 5 and beside.sum() > 8
    height = np.clip(sign * (spectrum.flux[inside] - np.median(spectrum.flux[beside])), 0, None)
    return float((height * offset[inside]).sum() / height.sum())


@pytest.mark.parametrize("survey", ["sdss", "lamost"])
def test_every_file_matches_the_manifest(survey, manifest, request):
    spectra = request.getfixturevalue(survey)
    rows = rows_below(manifest, f"{survey}/")
    assert len(spectra) >= len(rows)
    for row in rows:
        spectrum = spectra[row["path"].split("/")[-1]]
        assert len(spectrum) == int(row["npix"])
        assert spectrum.wavelength[[0, -1]] == pytest.approx([float(row["wmin"]), float(row["wmax"])], abs=0.051)
        assert spectrum.labels["class"] == row["cls"]
        assert spectrum.labels["redshift"] == pytest.approx(float(row["z"]), abs=1e-5)


def test_sdss_and_boss_are_told_apart(sdss):
    counts = {name: sum(spectrum.survey == name for spectrum in sdss.values()) for name in ("sdss", "boss")}
    assert counts == {"sdss": 14, "boss": 57}
    assert all((spectrum.wavelength[-1] > 10_000) == (spectrum.survey == "boss") for spectrum in sdss.values())
    assert all(f"spec-{spectrum.object_id}.fits" == name for name, spectrum in sdss.items())


def test_sdss_pixels_are_on_the_survey_grid(sdss):
    for spectrum in sdss.values():
        pixel = np.log10(spectrum.wavelength) * 1e4
        assert np.abs(pixel - np.round(pixel)).max() < 1e-6


# Tolerances: redshifts of narrow-line galaxies are good to 10 km/s, and their lines' centroids to a tenth of a pixel
# (69 km/s). Narrow [O III] of quasars is blueshifted against the other lines by some tens of km/s. Air instead of
# vacuum wavelengths would move the lines by 82 km/s, the header's COEFF0 instead of loglam by 69-2300 km/s.
@pytest.mark.parametrize(
    ("object_id", "lines", "tolerance"),
    [
        ("0395-51783-0525", (HALPHA, OIII), 20),
        ("2880-54509-0230", (HALPHA, OIII), 20),
        ("1045-52725-0628", (HALPHA, OIII), 20),
        ("3655-55240-0780", (OIII,), 60),
        ("3655-55240-0630", (OIII,), 60),
        ("7338-57166-0233", (OIII,), 60),
    ],
)
def test_emission_lines_fall_at_the_catalogue_redshift(sdss, object_id, lines, tolerance):
    spectrum = sdss[f"spec-{object_id}.fits"]
    for line in lines:
        offset = velocity(spectrum, line * (1 + spectrum.labels["redshift"]), 400, sign=1)
        assert abs(offset) < tolerance


def test_sdss_keeps_what_any_bit_would_throw_away(sdss, spectra_dir):
    from astropy.io import fits

    shares = [spectrum.good.mean() for spectrum in sdss.values()]
    assert min(shares) > 0.85
    assert np.median(shares) > 0.94
    name = "spec-3655-55240-0258.fits"  # a fibre-level bit on 99.7 % of its pixels
    bits = fits.getdata(spectra_dir / "sdss" / "boss_qso" / name, 1)["and_mask"]
    assert (bits != 0).mean() > 0.99
    assert sdss[name].good.mean() > 0.98


def test_desi_rows_match_the_manifest(spectra_dir, manifest):
    for row in rows_below(manifest, "desi/"):
        spectra = read_spectra(spectra_dir / row["path"])
        spectrum = spectra[int(row["row"])]
        assert len(spectrum) == 7781
        assert spectrum.wavelength[[0, -1]] == pytest.approx([3600, 9824], abs=1e-6)
        assert np.diff(spectrum.wavelength) == pytest.approx(np.full(7780, 0.8), abs=1e-6)
        if "#" not in row["object_id"]:
            assert spectrum.object_id == row["object_id"]
        arms = read_spectra(spectra_dir / row["path"], merge_arms=False)[3 * int(row["row"]) :][:3]
        assert sum(map(len, arms)) == int(row["npix"])
        assert [arm.labels["arm"] for arm in arms] == ["b", "r", "z"]


def test_desi_overlap_is_between_its_arms_and_more_certain(spectra_dir):
    path = spectra_dir / "desi" / "picca_tile80693" / "coadd-1-80693-thru20210204.fits"
    merged, (blue, red, _) = read_spectra(path)[1], read_spectra(path, merge_arms=False)[3:6]
    overlap = (merged.wavelength > 5759.9) & (merged.wavelength < 5800.1)
    assert overlap.sum() == 51
    pair = np.stack([blue.flux[-51:], red.flux[:51]])
    assert (merged.flux[overlap] >= pair.min(0) - 1e-5).all() and (merged.flux[overlap] <= pair.max(0) + 1e-5).all()
    assert merged.ivar[overlap] == pytest.approx(blue.ivar[-51:] + red.ivar[:51], rel=1e-5)


def test_desi_quasar_lines(spectra_dir):
    """Ly alpha of a quasar rises at its redshift; a shift by the width of an arm would not pass."""
    path = spectra_dir / "desi" / "picca_tile80693" / "coadd-1-80693-thru20210204.fits"
    spectrum, redshift = read_spectra(path)[1], 2.225017  # S/N 14, catalogue redshift
    rest = spectrum.wavelength / (1 + redshift)
    line, beside = (
        np.median(spectrum.flux[(rest > low) & (rest < high)]) for low, high in ((1212, 1222), (1270, 1300))
    )
    assert line > 1.5 * beside


def test_desi_rows_bad_everywhere_are_returned(spectra_dir):
    spectra = read_spectra(spectra_dir / "desi" / "specutils_edr" / "coadd-sv3-dark-26065.fits")
    assert [bool(spectrum.good.any()) for spectrum in spectra] == [False, False, True, False, True]
    plain = read_spectra(spectra_dir / "desi" / "quasarnp_tile80605" / "test_coadd.fits")
    assert [spectrum.object_id for spectrum in plain] == [str(row) for row in range(25)]
    assert sum(not spectrum.good.any() for spectrum in plain) == 1


def test_lamost_wavelength_is_the_headers(lamost, spectra_dir):
    from astropy.io import fits

    for name, spectrum in lamost.items():
        with fits.open(spectra_dir / "lamost" / "dr1" / name) as hdus:
            header, row = hdus[0].header, np.array(hdus[0].data[2])
        expected = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(header["NAXIS1"]))
        assert spectrum.wavelength == pytest.approx(expected, rel=1e-9)
        assert np.median(row) < 100  # the trap: the third row holds no wavelengths


def test_lamost_calcium_lines_fall_at_the_stars_velocity(lamost):
    """In air the lines would be off by -82 km/s; single stars scatter by the error of redshift and centroid."""
    stars = [star for star in lamost.values() if star.labels["snr_r"] > 50 and star.labels["subclass"][0] in "AFG"]
    offsets = [
        velocity(star, line * (1 + star.labels["redshift"]), 250, sign=-1) for star in stars for line in CALCIUM
    ]
    assert len(stars) > 20
    assert abs(np.median(offsets)) < 10
    assert np.quantile(np.abs(offsets), 0.9) < 30


def test_lamost_labels_and_identity(lamost):
    spectrum = lamost["spec-55862-B6212_sp06-005.fits"]
    assert spectrum.object_id == "55862-B6212_sp06-005"
    assert "rv" not in spectrum.labels  # HELIO_RV is the Earth's
    assert spectrum.flux_unit == "relative" and spectrum.medium == "vacuum"
    assert np.median([star.good.mean() for star in lamost.values()]) > 0.9


def test_a_folder_with_other_files_warns_and_goes_on(spectra_dir):
    with pytest.warns(UserWarning) as caught:
        spectra = read_spectra(spectra_dir / "desi", on_error="warn", progress=False)
    assert len(spectra) == 5 + 5 + 1 + 25
    messages = [str(warning.message) for warning in caught]
    assert "redrock-4-80613" in messages[1] and "REDSHIFTS" in messages[1]
    assert messages[-1] == "read 4 of 6 sources, skipped 2"
