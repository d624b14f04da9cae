"""Gaia XP: the sampled spectra of each container agree, and coefficients are refused by name."""

import numpy as np
import pytest

from spectok_hf import SURVEYS
from spectok_hf.data.readers import read_spectra

fits = pytest.importorskip("astropy.io.fits")
Table = pytest.importorskip("astropy.table").Table
units = pytest.importorskip("astropy.units")

SOURCE = 5853498713190525696  # beyond 2**53
FLUX = np.linspace(1e-16, 3e-15, 343)  # W m-2 nm-1


@pytest.fixture
def columns():
    return {
        "source_id": [SOURCE, SOURCE + 1],
        "flux": np.stack([FLUX, 2 * FLUX]),
        "flux_error": np.stack([FLUX / 50] * 2),
    }


def check(spectra):
    first, second = spectra
    assert (first.object_id, second.object_id) == (str(SOURCE), str(SOURCE + 1))
    assert (first.survey, first.medium, first.frame) == ("gaia_xp", "vacuum", "observed")
    assert first.flux_unit == SURVEYS["gaia_xp"].flux_unit == "1e-17 erg/s/cm2/Angstrom"
    assert first.wavelength.tolist() == [3360.0 + 20 * pixel for pixel in range(343)]
    assert first.flux == pytest.approx(FLUX * 1e19, rel=1e-6)
    assert second.error == pytest.approx(FLUX / 50 * 1e19, rel=1e-6)
    assert first.good.all() and np.isfinite(first.ivar).all()


def test_the_factor_is_that_of_the_units():
    native = units.W / units.m**2 / units.nm
    assert native.to(1e-17 * units.erg / units.s / units.cm**2 / units.AA) == pytest.approx(1e19)


@pytest.mark.parametrize("kind", ["E", "PE(343)"])
def test_fits(tmp_path, columns, kind):
    formats = {
        "source_id": "K",
        "flux": "343E" if kind == "E" else kind,
        "flux_error": "343E" if kind == "E" else kind,
    }
    table = [fits.Column(name, formats[name], array=np.array(values)) for name, values in columns.items()]
    fits.BinTableHDU.from_columns(table).writeto(tmp_path / "xp.fits")
    check(read_spectra(tmp_path / "xp.fits"))
    check(read_spectra(tmp_path / "xp.fits", format="gaia_xp"))


@pytest.mark.parametrize("brackets", ["()", "[]"])
def test_csv_with_arrays_as_text(tmp_path, columns, brackets):
    lines = ["source_id,solution_id,flux,flux_error"]
    for source, flux, error in zip(*columns.values(), strict=True):
        texts = [f'"{brackets[0]}{", ".join(map(repr, values.tolist()))}{brackets[1]}"' for values in (flux, error)]
        lines.append(f"{source},4545469030156206080,{','.join(texts)}")
    (tmp_path / "xp.csv").write_text("\n".join(lines))
    check(read_spectra(tmp_path / "xp.csv"))


@pytest.mark.parametrize("name", ["xp.ecsv", "xp.csv"])  # the archive's files of the second kind are ECSV as well
def test_ecsv_with_units(tmp_path, columns, name):
    table = Table(columns)
    for column in ("flux", "flux_error"):
        table[column].unit = "W m-2 nm-1"
    table.write(tmp_path / name, format="ascii.ecsv")
    check(read_spectra(tmp_path / name))


def test_a_row_that_is_converted_already_stays(columns):
    (spectrum,) = read_spectra(
        {"flux": np.ones(343), "error": 0.1, "survey": "gaia_xp", "flux_unit": "1e-17 erg/s/cm2/Angstrom"}
    )
    assert spectrum.flux[0] == 1 and spectrum.wavelength[-1] == 10200
    check(read_spectra(Table(columns)))


def test_the_inverse_variance_is_converted_with_the_flux():
    (spectrum,) = read_spectra(FLUX, ivar=(FLUX / 50) ** -2, survey="gaia_xp")
    assert spectrum.flux / spectrum.error == pytest.approx(np.full(343, 50.0), rel=1e-5)
    assert spectrum.flux == pytest.approx(FLUX * 1e19, rel=1e-6)


def test_a_spectrum_with_another_number_of_samples_is_refused(tmp_path, columns):
    columns = {name: values if name == "source_id" else values[:, :300] for name, values in columns.items()}
    with pytest.raises(ValueError, match="row 0: a spectrum needs wavelength"):
        read_spectra(Table(columns))
    Table(columns).write(tmp_path / "xp.fits")
    with pytest.raises(ValueError, match="XP_SAMPLED must have 343 samples, found 300"):
        read_spectra(tmp_path / "xp.fits")


@pytest.mark.parametrize("form", ["dict", "fits", "csv"])
def test_coefficients_are_no_spectra(tmp_path, form):
    row = {"source_id": [SOURCE], "bp_coefficients": np.ones((1, 55)), "rp_coefficients": np.ones((1, 55))}
    source = row
    if form != "dict":
        source = tmp_path / f"xp.{form}"
        Table(row).write(source, format="fits" if form == "fits" else "ascii.ecsv")
    with pytest.raises(ValueError, match=r"XP_CONTINUOUS coefficients.*expected XP_SAMPLED.*GaiaXPy"):
        read_spectra(source)


def test_real_files(spectra_dir):
    folder = spectra_dir / "gaia_xp"
    native = fits.getdata(folder / "XP_SAMPLED_RAW_dr3int6.fits")
    by_fits = read_spectra(folder / "XP_SAMPLED_RAW_dr3int6.fits")
    by_text = read_spectra(folder / "XP_SAMPLED_RAW_dr3int6.csv")
    assert len(by_fits) == len(by_text) == 2
    for first, second, row in zip(by_fits, by_text, native, strict=True):
        assert first.object_id == second.object_id == str(row["source_id"])
        assert first.flux == pytest.approx(row["flux"].astype(float) * 1e19, rel=1e-6)
        assert first.good.all() and first.labels == pytest.approx(second.labels)
        np.testing.assert_allclose(first.flux, second.flux, rtol=1e-6)
        np.testing.assert_allclose(first.ivar, second.ivar, rtol=1e-6)
        assert 0.1 < np.median(first.flux / first.error) < 1000


@pytest.mark.parametrize("suffix", ["fits", "csv", "ecsv"])
def test_real_coefficients(spectra_dir, suffix):
    with pytest.raises(ValueError, match=r"XP_CONTINUOUS_RAW.*XP_CONTINUOUS coefficients"):
        read_spectra(spectra_dir / "gaia_xp" / f"XP_CONTINUOUS_RAW.{suffix}")
