"""specutils: its objects keep their numbers and units, and its loaders read what no layout of ours does."""

import subprocess
import sys

import numpy as np
import pytest

from spectok_hf.data.readers import read_spectra

specutils = pytest.importorskip("specutils")
fits = pytest.importorskip("astropy.io.fits")
units = pytest.importorskip("astropy.units")
nddata = pytest.importorskip("astropy.nddata")
InverseVariance, StdDevUncertainty = nddata.InverseVariance, nddata.StdDevUncertainty
UnknownUncertainty, VarianceUncertainty = nddata.UnknownUncertainty, nddata.VarianceUncertainty

AXIS = np.linspace(4000.0, 4100.0, 11)
JANSKY = units.mJy


@pytest.fixture
def rng():
    return np.random.default_rng(20251017)


def make(flux, axis=AXIS * units.AA, error=0.5, **options):
    return specutils.Spectrum(
        flux=flux * JANSKY,
        spectral_axis=axis,
        uncertainty=StdDevUncertainty(np.full(np.shape(flux), error)),
        **options,
    )


def test_one_spectrum(rng):
    flux = rng.normal(5, 1, 11)
    (spectrum,) = read_spectra(make(flux, meta={"object_id": 2**53 + 1, "Z": 0.5, "note": "x"}), medium="air")
    assert spectrum.flux == pytest.approx(flux, rel=1e-6) and spectrum.wavelength.tolist() == AXIS.tolist()
    assert (spectrum.medium, spectrum.flux_unit, spectrum.survey) == ("air", "mJy", None)
    assert spectrum.error == pytest.approx(np.full(11, 0.5))
    assert (spectrum.object_id, spectrum.labels) == (str(2**53 + 1), {"redshift": 0.5})
    assert read_spectra(make(flux))[0].medium == "vacuum"  # as for arrays


def test_labels_from_a_header():
    header = fits.Header({"OBJECT": "HD 1", "RA": 10.0, "DEC": -5.0, "Z": 60.0, "AIRMASS": 1.2})
    (spectrum,) = read_spectra(make(np.ones(11), meta={"header": header}))
    assert (spectrum.object_id, spectrum.labels) == ("HD 1", {"ra": 10.0, "dec": -5.0})  # Z may be the zenith distance


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_many_dimensions_give_one_spectrum_per_row(rng, shape):
    flux = rng.normal(5, 1, (*shape, 11))
    mask = np.zeros(flux.shape, bool)
    mask[..., 4] = True
    spectra = read_spectra(make(flux, mask=mask))
    rows = flux.reshape(-1, 11)
    assert len(spectra) == len(rows)
    for spectrum, row in zip(spectra, rows, strict=True):
        assert spectrum.flux == pytest.approx(row, rel=1e-6)
        assert np.flatnonzero(spectrum.mask).tolist() == [4]
        assert "1 pixels: marked in the mask" in spectrum.report()


def test_the_spectral_axis_may_come_first(rng):
    flux = rng.normal(5, 1, (11, 3))
    spectra = read_spectra(make(flux, spectral_axis_index=0))
    assert [spectrum.flux[2] for spectrum in spectra] == pytest.approx(flux[2], rel=1e-6)


def test_lists_and_collections(rng):
    first, second = make(rng.normal(5, 1, 11)), make(rng.normal(5, 1, (2, 11)))
    assert len(read_spectra(specutils.SpectrumList([first, second]))) == 3
    assert len(read_spectra([first, {"flux": AXIS, "wavelength": AXIS, "error": 1.0}])) == 2
    axes = np.stack([AXIS, AXIS + 50]) * units.AA
    flux = rng.normal(5, 1, (2, 11))
    collection = specutils.SpectrumCollection(
        flux=flux * JANSKY, spectral_axis=axes, uncertainty=StdDevUncertainty(np.full((2, 11), 0.5))
    )
    spectra = read_spectra(collection)
    assert [spectrum.wavelength[0] for spectrum in spectra] == [4000, 4050]
    assert spectra[1].flux == pytest.approx(flux[1], rel=1e-6)


@pytest.mark.parametrize("unit", [units.nm, units.um, units.m, units.Hz, units.THz, units.eV, 1 / units.cm])
def test_any_unit_of_the_axis(rng, unit):
    flux = rng.normal(5, 1, 11)
    (spectrum,) = read_spectra(make(flux, axis=(AXIS * units.AA).to(unit, equivalencies=units.spectral())))
    assert spectrum.wavelength == pytest.approx(AXIS, rel=1e-12)  # ascending, also from a frequency
    assert spectrum.flux == pytest.approx(flux, rel=1e-6)


def test_a_velocity_axis_is_refused():
    with pytest.raises(ValueError, match="wavelength has the unit km / s: expected one of length, frequency"):
        read_spectra(make(np.ones(11), axis=np.linspace(-500, 500, 11) * units.km / units.s))


@pytest.mark.parametrize(
    ("uncertainty", "error"),
    [
        (StdDevUncertainty(np.full(11, 2.0)), 2.0),
        (StdDevUncertainty(np.full(11, 2.0), unit=units.uJy), 2e-3),
        (VarianceUncertainty(np.full(11, 4.0)), 2.0),
        (VarianceUncertainty(np.full(11, 4.0), unit=units.uJy**2), 2e-3),
        (InverseVariance(np.full(11, 4.0)), 0.5),
        (InverseVariance(np.full(11, 4.0), unit=1 / units.uJy**2), 0.5e-3),
    ],
)
def test_each_uncertainty_in_its_unit(uncertainty, error):
    source = specutils.Spectrum(flux=np.ones(11) * JANSKY, spectral_axis=AXIS * units.AA, uncertainty=uncertainty)
    assert read_spectra(source)[0].error == pytest.approx(np.full(11, error))


@pytest.mark.parametrize(
    ("kind", "useless"),
    [(StdDevUncertainty, (0, np.inf, np.nan, 1e10)), (VarianceUncertainty, (0, np.inf, np.nan, 1e20)),
     (InverseVariance, (0, -1, np.nan, 1e-20))],
)  # fmt: skip
def test_pixels_without_information_are_bad(kind, useless):
    flux, values = np.ones(11), np.ones(11)
    flux[0], values[1:5] = np.nan, useless
    source = specutils.Spectrum(flux=flux * JANSKY, spectral_axis=AXIS * units.AA, uncertainty=kind(values))
    (spectrum,) = read_spectra(source)
    assert np.flatnonzero(~spectrum.good).tolist() == [0, 1, 2, 3, 4]


def test_absent_or_unknown_uncertainty():
    options = {"flux": np.arange(11.0) * JANSKY, "spectral_axis": AXIS * units.AA}
    with pytest.raises(ValueError, match=r'exactly one of ivar= and error=, found neither; error="estimate"'):
        read_spectra(specutils.Spectrum(**options))
    assert read_spectra(specutils.Spectrum(**options), error=0.5)[0].ivar[0] == 4
    with pytest.raises(ValueError, match="uncertainty must be one of std, var, ivar, found 'unknown'"):
        read_spectra(specutils.Spectrum(**options, uncertainty=UnknownUncertainty(np.ones(11))))
    with pytest.raises(ValueError, match="uncertainty has the unit K, which does not go with the flux in mJy"):
        read_spectra(Dummy(uncertainty=Dummy(uncertainty_type="std", array=np.ones(11), unit=units.K)))


class Dummy:
    """Anything with the attributes of a specutils spectrum."""

    def __init__(self, **attributes):
        self.__dict__ |= {"flux": np.ones(11) * JANSKY, "spectral_axis": AXIS * units.AA, "mask": None} | attributes


def test_any_object_with_the_attributes_will_do():
    source = Dummy(uncertainty=Dummy(uncertainty_type="std", array=np.full(11, 0.5), unit=None))
    assert read_spectra(source)[0].ivar[0] == 4


# Files ----------------------------------------------------------------------------------------------


@pytest.fixture
def unknown_file(tmp_path):
    """A layout that specutils knows (wcs1d-fits with uncertainty) and we do not."""
    path = tmp_path / "a.wcs1d.fits"
    cards = {"CTYPE1": "WAVE", "CRVAL1": 4000.0, "CRPIX1": 1.0, "CDELT1": 10.0, "CUNIT1": "Angstrom", "BUNIT": "mJy"}
    flux = fits.PrimaryHDU(np.arange(1.0, 12.0))
    flux.header.update(cards)
    error = fits.ImageHDU(np.full(11, 0.5), name="STD")
    error.header["BUNIT"] = "mJy"
    fits.HDUList([flux, error]).writeto(path)
    return path


def test_a_file_that_only_specutils_knows(unknown_file):
    for options in ({}, {"format": "specutils"}, {"format": "specutils:wcs1d-fits"}):
        (spectrum,) = read_spectra(unknown_file, **options)
        assert spectrum.flux.tolist() == list(range(1, 12)) and spectrum.flux_unit == "mJy"
        assert spectrum.wavelength == pytest.approx(AXIS)
        assert (spectrum.survey, spectrum.labels["format"]) == (None, "specutils:wcs1d-fits")
    for options in ({}, {"format": "specutils"}):
        assert read_spectra(unknown_file, medium="air", **options)[0].medium == "air"


@pytest.mark.parametrize(
    ("card", "medium"),
    [
        (("CTYPE1", "AWAV"), "air"),
        (("CTYPE1", "WAVE"), "vacuum"),
        (("AIRORVAC", "Air"), "air"),
        (("AIRORVAC", "vac"), "vacuum"),
    ],
)
def test_a_header_may_say_the_medium(unknown_file, card, medium):
    fits.setval(unknown_file, card[0], value=card[1])
    assert read_spectra(unknown_file)[0].medium == medium
    assert read_spectra(unknown_file, medium="vacuum")[0].medium == "vacuum"


def test_a_truncated_file_is_not_handed_on(unknown_file):
    unknown_file.write_bytes(unknown_file.read_bytes()[:-2880])
    with pytest.raises(ValueError, match=r"a\.wcs1d\.fits is truncated or damaged"):
        read_spectra(unknown_file)


def test_text_goes_to_specutils(tmp_path):
    lines = ["wave flux err", *(f"{wave} {wave / 1000} 0.5" for wave in AXIS)]
    (tmp_path / "a.dat").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"a\.dat is not a FITS file.*specutils"):
        read_spectra(tmp_path / "a.dat")
    (tmp_path / "page.html").write_text("<html>no</html>")
    with pytest.raises(ValueError, match=r"page\.html is not a FITS file but a web page"):
        read_spectra(tmp_path / "page.html")


def test_a_file_that_nobody_knows(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 3)), name="PICTURE")]).writeto(tmp_path / "a.fits")
    with pytest.raises(
        ValueError, match=r"unknown layout: found .*PICTURE.*known layouts: sdss.*specutils.*pass arrays"
    ):
        read_spectra(tmp_path / "a.fits")
    with pytest.raises(ValueError, match=r"a\.fits: the loader 'DESI coadd' of specutils finds no spectrum in it"):
        read_spectra(tmp_path / "a.fits", format="specutils:DESI coadd")


def test_without_specutils_the_message_says_how_to_install_it(unknown_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "specutils", None)
    with pytest.raises(
        ValueError, match=r'unknown layout.*specutils.*not installed: pip install "spectok-hf\[astro\]"'
    ):
        read_spectra(unknown_file)


@pytest.mark.parametrize("folder", ["galah/dr3_native", "apogee/apStar"])
def test_loaders_that_are_wrong_are_not_used(spectra_dir, folder):
    path = sorted((spectra_dir / folder).glob("*.fits"))[0]
    with pytest.raises(ValueError, match="of specutils is not used: it"):
        read_spectra(path, format="specutils")


def test_desi_through_specutils_agrees_with_our_own_reader(spectra_dir):
    path = next((spectra_dir / "desi" / "picca_tile80693").glob("coadd*.fits"))
    ours = read_spectra(path, merge_arms=False)
    theirs = read_spectra(path, format="specutils:DESI coadd")
    assert len(ours) == len(theirs) > 3
    for index, spectrum in enumerate(theirs):  # theirs: all rows of b, then r, then z
        rows = len(ours) // 3
        own = ours[3 * (index % rows) + index // rows]
        np.testing.assert_array_equal(own.flux, spectrum.flux)
        np.testing.assert_array_equal(own.good, spectrum.good)
        np.testing.assert_allclose(own.wavelength, spectrum.wavelength)


def test_import_takes_no_optional_library():
    code = "import sys, spectok_hf; print({'astropy', 'specutils', 'pandas', 'pyarrow'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "set()\n"
