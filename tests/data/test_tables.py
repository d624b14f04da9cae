"""Tables with a spectrum per row, in memory and in files; bit masks; the survey's exact grid."""

import gzip
import time
import warnings

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spectok_hf import SURVEYS
from spectok_hf.data.readers import read_spectra

astropy_table = pytest.importorskip("astropy.table")
fits = pytest.importorskip("astropy.io.fits")
units = pytest.importorskip("astropy.units")

BIG = 2**53 + 1  # the first integer that a float64 cannot hold
AXIS = 4000 + 2.0 * np.arange(6)


@pytest.fixture
def rng():
    return np.random.default_rng(20251017)


@pytest.fixture
def columns(rng):
    """Three spectra, the pixels of each as a vector."""
    flux = rng.normal(5, 1, (3, 6)).astype(np.float32)
    mask = np.zeros((3, 6), bool)
    mask[1, 2] = True
    ivar = np.full((3, 6), 4.0, np.float32)
    ivar[2, 5] = 0
    return {"object_id": [BIG, BIG + 2, -1], "Z": [0.1, None, 0.3], "flux": flux, "ivar": ivar, "mask": mask,
            "lambda": np.stack([AXIS, AXIS + 1, AXIS + 2])}  # fmt: skip


def rows(columns):
    return {name: list(values) for name, values in columns.items()}


def arrow(columns):
    return pa.table(
        {name: [getattr(v, "tolist", lambda v=v: v)() for v in values] for name, values in columns.items()}
    )


def nested_arrow(columns):
    """As the Multimodal Universe: the pixels in a struct, the identifier as the text of bytes."""
    pixels = ("flux", "ivar", "mask", "lambda")
    spectrum = [{name: columns[name][row].tolist() for name in pixels} for row in range(3)]
    ids = [f"b'  {identifier}'" for identifier in columns["object_id"]]
    return pa.table({"object_id": ids, "Z": columns["Z"], "spectrum": spectrum, "FLUX_G": [1.0, 2.0, 3.0]})


def list_of_pixels(columns):
    pixels = ("flux", "ivar", "mask", "lambda")
    spectrum = [[dict(zip(pixels, pixel, strict=True)) for pixel in
                 zip(*(columns[name][row].tolist() for name in pixels), strict=True)] for row in range(3)]  # fmt: skip
    return pa.table({"object_id": columns["object_id"], "Z": columns["Z"], "spectrum": spectrum})


def astropy_of(columns):
    return astropy_table.Table({**columns, "Z": np.ma.masked_invalid(np.array(columns["Z"], float))})


TABLES = {
    "pandas": lambda columns: pd.DataFrame(rows(columns)),
    "pandas, indexed": lambda columns: pd.DataFrame(rows(columns)).set_index("object_id"),
    "pandas, nested": lambda columns: nested_arrow(columns).to_pandas(),
    "pandas, backed by Arrow": lambda columns: arrow(columns).to_pandas(types_mapper=pd.ArrowDtype),
    "arrow": arrow,
    "arrow, nested": nested_arrow,
    "arrow, list of pixels": list_of_pixels,
    "arrow, sliced": lambda columns: pa.concat_tables([arrow(columns)] * 2).slice(3),
    "record batch": lambda columns: nested_arrow(columns).to_batches()[0],
    "dataset": lambda columns: datasets.Dataset(nested_arrow(columns)),
    "dataset, reordered": lambda columns: datasets.Dataset(arrow(columns)).select([2, 1, 0]).select([2, 1, 0]),
    "dataset, formatted": lambda columns: datasets.Dataset(nested_arrow(columns)).with_format("numpy"),
    "dataset, streamed": lambda columns: datasets.Dataset(nested_arrow(columns)).to_iterable_dataset(),
    "astropy": astropy_of,
    "structured array": lambda columns: astropy_of(columns).filled(np.nan).as_array(),
    "list of rows": lambda columns: nested_arrow(columns).to_pylist(),
    "list of rows, lists of pixels": lambda columns: list_of_pixels(columns).to_pylist(),
}


def check(spectra, columns, labels=True):
    assert len(spectra) == 3
    for row, spectrum in enumerate(spectra):
        assert spectrum.object_id == str(columns["object_id"][row])
        assert spectrum.flux == pytest.approx(columns["flux"][row], rel=1e-6)
        assert spectrum.wavelength == pytest.approx(columns["lambda"][row], rel=1e-12)
        assert np.flatnonzero(~spectrum.good).tolist() == [[], [2], [5]][row]
        if labels:
            assert spectrum.labels == [{"redshift": 0.1}, {}, {"redshift": 0.3}][row]


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table(columns, kind):
    check(read_spectra(TABLES[kind](columns)), columns)


def test_rows_of_different_lengths(columns):
    table = rows(columns)
    for name in ("flux", "ivar", "mask", "lambda"):
        table[name][1] = table[name][1][:4]
    for source in (pd.DataFrame(table), arrow(table), datasets.Dataset(arrow(table))):
        assert [len(spectrum) for spectrum in read_spectra(source)] == [6, 4, 6]


def test_one_row(columns):
    for source in (pd.DataFrame(rows(columns)).iloc[1], astropy_of(columns)[1]):
        (spectrum,) = read_spectra(source)
        assert spectrum.object_id == str(BIG + 2) and spectrum.flux == pytest.approx(columns["flux"][1])


@pytest.mark.parametrize("make", [arrow, nested_arrow])
def test_parquet(tmp_path, columns, make):
    pq.write_table(make(columns), tmp_path / "a.parquet", row_group_size=2)
    check(read_spectra(tmp_path / "a.parquet"), columns)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    assert len(read_spectra(str(tmp_path / "*.parquet"), medium="air")) == 6
    assert {one.medium for one in read_spectra([tmp_path / "a.parquet"], medium="air")} == {"air"}


def test_csv_keeps_large_identifiers_beside_missing_ones(tmp_path, columns):
    table = rows(columns)
    table["object_id"][2] = None
    for name in ("flux", "ivar", "mask", "lambda"):
        table[name] = [str(values.tolist()) for values in table[name]]
    pd.DataFrame(table, dtype=object).to_csv(tmp_path / "a.csv", index=False)
    spectra = read_spectra(tmp_path / "a.csv")
    assert [spectrum.object_id for spectrum in spectra] == [str(BIG), str(BIG + 2), None]
    columns["object_id"][2] = None
    spectra[2].object_id = "None"
    check(spectra, columns)


def test_csv_with_comments_above(tmp_path):
    lines = ["# made by hand", "# twice", "object_id,flux,wavelength,error"]
    lines += [f'star #{star},"[1, 2]","[4000, 4001]","[1, 1]"' for star in (1, 2)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    for name in ("a.csv", "b.csv.gz"):
        assert [spectrum.object_id for spectrum in read_spectra(tmp_path / name)] == ["star #1", "star #2"]


def test_csv_of_numpys_own_text(tmp_path, columns):
    frame = pd.DataFrame(rows(columns))
    frame.to_csv(tmp_path / "a.csv", index=False)  # "[4.1 5.2 ...]", without commas
    for spectrum, wavelength in zip(read_spectra(tmp_path / "a.csv"), columns["lambda"], strict=True):
        assert spectrum.wavelength == pytest.approx(wavelength)
    frame["flux"] = [str(np.ones(2000))] * 3  # numpy has cut it short
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"a\.csv.*flux must hold arrays.*cut short"):
        read_spectra(tmp_path / "a.csv")


def test_ecsv_with_units(tmp_path, columns):
    table = astropy_of(columns)
    table["lambda"] = columns["lambda"] / 10 * units.nm
    table["flux"].unit, table["ivar"].unit = "mJy", "1 / uJy2"
    table["ivar"] = table["ivar"] / 1e6
    table.write(tmp_path / "a.ecsv")
    spectra = read_spectra(tmp_path / "a.ecsv")
    check(spectra, columns)
    assert spectra[0].flux_unit == "mJy" and spectra[0].ivar[0] == pytest.approx(4)


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.parquet", "a.fits"])
def test_a_pixel_per_row_is_one_spectrum(tmp_path, name):
    table = astropy_table.Table({"wavelength": AXIS, "flux": np.arange(6.0), "error": np.full(6, 0.5)})
    if name.endswith("parquet"):
        table.to_pandas().to_parquet(tmp_path / name)
    else:
        table.write(tmp_path / name)
    (spectrum,) = read_spectra(tmp_path / name)
    assert spectrum.flux.tolist() == list(range(6)) and spectrum.ivar[0] == 4
    (spectrum,) = read_spectra(table)
    assert spectrum.wavelength.tolist() == AXIS.tolist()


def test_units_of_quantities(rng):
    flux = rng.normal(5, 1, 6) * units.mJy
    (spectrum,) = read_spectra(flux, wavelength=AXIS / 1e4 * units.um, error=500 * np.ones(6) * units.uJy)
    assert spectrum.wavelength == pytest.approx(AXIS) and spectrum.flux_unit == "mJy"
    assert spectrum.error == pytest.approx(np.full(6, 0.5))
    with pytest.raises(ValueError, match="error has the unit K, which does not go with the flux in mJy"):
        read_spectra(flux, wavelength=AXIS, error=np.ones(6) * units.K)
    with pytest.raises(ValueError, match="error has the unit mJy and flux has none"):
        read_spectra(flux.value, wavelength=AXIS, error=np.ones(6) * units.mJy)


def test_astropy_tables_with_masks_and_units(columns):
    table = astropy_table.QTable(masked=True)
    flux = astropy_table.MaskedColumn(columns["flux"], mask=columns["mask"], unit="Jy")
    table["flux"], table["error"] = flux, columns["flux"] * 0 + 0.5
    table["wavelength"] = (columns["lambda"] * units.AA).to(units.um)
    table["TARGETID"] = np.ma.MaskedArray(columns["object_id"], mask=[False, True, False])
    spectra = read_spectra(table)
    assert [spectrum.object_id for spectrum in spectra] == [str(BIG), None, "-1"]
    assert [np.flatnonzero(~spectrum.good).tolist() for spectrum in spectra] == [[], [2], []]
    assert spectra[0].flux_unit == "Jy" and spectra[1].wavelength == pytest.approx(AXIS + 1)


def write_fits(path, columns, kind="6E"):
    formats = {"object_id": "K", "Z": "E", "mask": "6L", "lambda": "6D"}
    values = {**columns, "Z": [0.1, np.nan, 0.3]}
    table = [fits.Column(name.upper(), formats.get(name, kind), array=values[name]) for name in values]
    fits.BinTableHDU.from_columns(table, name="SPECTRA").writeto(path)


@pytest.mark.parametrize("kind", ["6E", "PE(6)"])
def test_fits_table_with_a_spectrum_per_row(tmp_path, columns, kind):
    write_fits(tmp_path / "a.fits", columns, kind)
    spectra = read_spectra(tmp_path / "a.fits")
    check(spectra, columns, labels=False)
    assert spectra[0].labels["redshift"] == pytest.approx(0.1)
    for options in ({}, {"format": "table"}):
        assert read_spectra(tmp_path / "a.fits", survey="galah", **options)[0].medium == "air"
    with pytest.raises(ValueError, match="must hold one table with flux, wavelength, and ivar or error"):
        fits.PrimaryHDU(np.ones(3)).writeto(tmp_path / "b.fits")
        read_spectra(tmp_path / "b.fits", format="table")


@pytest.mark.parametrize("hdu", [0, 1])
@pytest.mark.parametrize("pixels_per_row", [False, True])
def test_the_header_of_a_fits_table_may_say_the_medium(tmp_path, columns, hdu, pixels_per_row):
    path = tmp_path / "a.fits"
    if pixels_per_row:
        astropy_table.Table({"wavelength": AXIS, "flux": np.ones(6), "ivar": np.ones(6)}).write(path)
    else:
        write_fits(path, columns)
    assert {spectrum.medium for spectrum in read_spectra(path)} == {"vacuum"}
    fits.setval(path, "AIRORVAC", value="air", ext=hdu)
    assert {spectrum.medium for spectrum in read_spectra(path)} == {"air"}
    assert {spectrum.medium for spectrum in read_spectra(path, medium="vacuum")} == {"vacuum"}


@pytest.mark.parametrize("take", [lambda hdu: hdu, lambda hdu: hdu.data], ids=["table", "records"])
def test_fits_tables_in_memory_keep_units(tmp_path, take):
    nanometres = np.linspace(1514, 1516, 6)  # in Å no less plausible
    table = astropy_table.Table({"wavelength": nanometres * units.nm, "flux": np.ones(6), "ivar": np.ones(6)})
    table.write(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits") as hdus:
        (spectrum,) = read_spectra(take(hdus[1]))
    assert spectrum.wavelength == pytest.approx(10 * nanometres)


def test_a_keyword_counts_instead_of_the_column(columns):
    frame = pd.DataFrame(rows(columns))
    (spectrum, *_) = read_spectra(frame, wavelength=AXIS + 7, mask=None, ivar=None, error=2.0)
    assert spectrum.wavelength[0] == 4007 and spectrum.ivar[0] == 0.25
    assert read_spectra(frame, mask=None)[1].good.all()
    assert read_spectra(frame, wavelength=(AXIS + 7).tolist())[2].wavelength[0] == 4007
    with pytest.raises(ValueError, match="object_id as a list goes with one array or mapping"):
        read_spectra(frame, object_id=["a", "b", "c"])


def test_errors_name_the_row_and_the_file(tmp_path, columns):
    frame = pd.DataFrame(rows(columns))
    frame.at[1, "flux"] = np.ones(4, np.float32)
    frame.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: row 1: flux and wavelength must have the same length"):
        read_spectra(tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="skipped row 1|read 2 of 3 rows, skipped 1") as caught:
        assert len(read_spectra(tmp_path / "a.parquet", on_error="warn")) == 2
    assert len(caught) == 2
    with pytest.raises(ValueError, match="row 0: a spectrum needs flux, found only 'x'"):
        read_spectra(pd.DataFrame({"x": [1, 2]}))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"b\.parquet cannot be read as a table"):
        read_spectra(tmp_path / "b.parquet")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*c\.csv"):
        read_spectra(tmp_path / "c.csv")


def test_a_progress_bar_for_many_rows(columns, capsys):
    read_spectra(arrow(columns))
    assert capsys.readouterr().err == ""
    read_spectra(pa.concat_tables([arrow(columns)] * 3))
    assert "9/9" in capsys.readouterr().err


def test_a_thousand_rows_take_seconds(tmp_path, rng):
    flux = rng.normal(1, 0.1, (1000, 4000)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(flux.ravel(), 4000).cast(pa.list_(pa.float32()))
    axis = np.tile(4000 + np.arange(4000.0), 1000)
    wavelength = pa.ListArray.from_arrays(np.arange(0, 4_000_001, 4000, dtype=np.int32), axis)
    table = pa.table({"flux": vectors, "error": vectors, "wavelength": wavelength})
    pq.write_table(table, tmp_path / "a.parquet")
    start = time.perf_counter()
    spectra = read_spectra(tmp_path / "a.parquet", progress=False)
    assert time.perf_counter() - start < 30  # 2 s on one free core; a list of Python numbers per row takes minutes
    np.testing.assert_array_equal(spectra[-1].flux, flux[-1])


def pixels_per_row(**columns):
    return pd.DataFrame({"wavelength": AXIS, "flux": np.arange(6.0), "error": np.full(6, 0.5)} | columns)


@pytest.mark.parametrize(
    "convert", [lambda frame: frame, pa.Table.from_pandas, pa.RecordBatch.from_pandas, astropy_table.Table.from_pandas]
)
def test_a_pixel_per_row_has_one_identifier_and_survey(convert):
    (spectrum,) = read_spectra(convert(pixels_per_row(source_id=BIG, survey="galah")))
    assert (spectrum.object_id, spectrum.survey, spectrum.medium) == (str(BIG), "galah", "air")
    with pytest.raises(ValueError, match="row per pixel must hold one spectrum, found 2 values of source_id"):
        read_spectra(convert(pixels_per_row(source_id=[1, 1, 1, 2, 2, 2])))


def test_a_pandas_column_is_flux():
    frame = pixels_per_row()
    (spectrum,) = read_spectra(frame["flux"], wavelength=frame["wavelength"], error=frame["error"])
    assert spectrum.flux.tolist() == list(range(6)) and spectrum.wavelength.tolist() == AXIS.tolist()
    with pytest.raises(ValueError, match="a spectrum needs flux, found only '0', '1'"):
        read_spectra(pd.DataFrame(np.ones((2, 2))))


def test_identifiers_in_brackets_stay_text(columns):
    frame = pd.DataFrame(rows(columns)).assign(object_id=["[12]", "(433) Eros", "[BH94] 5"])
    assert [spectrum.object_id for spectrum in read_spectra(frame)] == ["[12]", "(433) Eros", "[BH94] 5"]


def test_the_first_spectrum_may_be_missing(columns):
    frame = pd.DataFrame(rows(columns))
    frame.at[0, "flux"] = None
    with pytest.warns(UserWarning, match="skipped row 0: a spectrum needs flux|read 2 of 3 rows"):
        spectra = read_spectra(frame, on_error="warn")
    assert [spectrum.object_id for spectrum in spectra] == [str(BIG + 2), "-1"]


def test_astropy_rows_keep_units_and_what_is_missing(columns):
    table = astropy_of(columns)
    table["object_id"] = np.ma.MaskedArray(columns["object_id"], mask=[False, True, False])
    table["flux"].unit, table["ivar"].unit = "mJy", "1 / uJy2"
    for source in (table[1], [table[1]], list(table)[1:2]):
        (spectrum,) = read_spectra(source)
        assert (spectrum.object_id, spectrum.labels, spectrum.flux_unit) == (None, {}, "mJy")
        assert spectrum.ivar[0] == pytest.approx(4e6)
    assert len(read_spectra([pd.DataFrame(rows(columns)), table])) == 6


def test_masked_scalars_are_missing(columns):
    ids, redshifts = (np.ma.MaskedArray([1, 2, 3], mask=[True, False, False]) for _ in range(2))
    stack = {"flux": columns["flux"], "ivar": columns["ivar"], "wavelength": AXIS, "object_id": ids, "z": redshifts}
    spectra = read_spectra(stack)
    assert [spectrum.object_id for spectrum in spectra] == [None, "2", "3"]
    assert [spectrum.labels for spectrum in spectra] == [{}, {"redshift": 2}, {"redshift": 3}]
    (spectrum,) = read_spectra(
        stack | {"flux": columns["flux"][0], "ivar": 1 / AXIS, "object_id": ids[0], "z": ids[0]}
    )
    assert (spectrum.object_id, spectrum.labels) == (None, {})


@pytest.mark.parametrize("unit", [None, "nm"])
def test_masked_wavelengths_and_masks(columns, unit):
    columns = {name: columns[name] for name in ("flux", "ivar")}
    axis = np.tile(AXIS / 10 if unit else AXIS, (3, 1))
    table = astropy_table.Table(columns)
    table["wavelength"] = astropy_table.MaskedColumn(axis, mask=np.arange(18).reshape(3, 6) == 2, unit=unit)
    table["mask"] = astropy_table.MaskedColumn(np.zeros((3, 6), bool), mask=np.arange(18).reshape(3, 6) == 4)
    first, second, _ = read_spectra(table)
    assert first.wavelength == pytest.approx(np.delete(AXIS, 2)) and np.flatnonzero(first.mask).tolist() == [3]
    assert second.wavelength == pytest.approx(AXIS) and second.good.all()


def test_the_label_of_its_own_name_counts_first():
    row = {"flux": AXIS, "ivar": AXIS, "wavelength": AXIS, "redshift": 0.3}
    for source in (row | {"z": 17.2}, {"z": 17.2} | row, row | {"fe_h": None, "FEH": np.nan}):
        assert read_spectra(source)[0].labels == {"redshift": 0.3}
    assert read_spectra(row | {"redshift": np.nan, "Z": 0.5})[0].labels == {"redshift": 0.5}
    assert read_spectra(row | {"redshift": 0.5, "Redshift": np.nan})[0].labels == {"redshift": 0.5}


# Surveys --------------------------------------------------------------------------------------------


def survey_grid(name):
    axes = [arm.start + arm.step * np.arange(arm.pixels) for arm in SURVEYS[name].arms]
    return np.concatenate([10**axis if arm.log else axis for arm, axis in zip(SURVEYS[name].arms, axes, strict=True)])


def survey_row(name, wavelength=None, **columns):
    wavelength = survey_grid(name) if wavelength is None else wavelength
    pixels = np.ones(len(wavelength))
    return {"flux": pixels, "ivar": pixels, "lambda": wavelength, "survey": name} | columns


@pytest.mark.parametrize("name", ["sdss", "boss", "desi", "apogee", "lamost"])
def test_float32_wavelengths_come_back_to_the_grid(name):
    grid = survey_grid(name)
    logarithm = np.log10(grid).astype(np.float32)  # the Multimodal Universe's APOGEE: off by up to 0.01 Å
    noisy = (10**logarithm).astype(np.float32) if name == "apogee" else grid.astype(np.float32)
    assert np.abs(noisy - grid).max() > 1e-5
    (spectrum,) = read_spectra(survey_row(name, noisy))
    np.testing.assert_allclose(spectrum.wavelength, grid, rtol=1e-13)
    (unknown,) = read_spectra(survey_row(name, noisy) | {"survey": None})
    np.testing.assert_array_equal(unknown.wavelength, noisy.astype(np.float64))


def test_only_what_is_meant_to_lie_on_the_grid_is_put_there():
    grid = survey_grid("desi")[:100]
    shifted = grid.copy()
    shifted[50] += 0.1 * 0.8
    assert read_spectra(survey_row("desi", shifted))[0].wavelength.tolist() == shifted.tolist()
    beyond = 10 ** (3.58 + 1e-4 * np.arange(-30, 3900))  # SDSS trims every spectrum differently
    (spectrum,) = read_spectra(survey_row("sdss", beyond.astype(np.float32)))
    np.testing.assert_allclose(spectrum.wavelength, beyond, rtol=1e-13)


@pytest.mark.parametrize("name", ["sdss", "desi", "lamost"])
def test_a_shift_of_the_spectrum_is_kept(name):
    shifted = survey_grid(name) * (1 + 1 / 299_792.458)  # 1 km/s, 1 to 2 % of a pixel
    (spectrum,) = read_spectra(survey_row(name, shifted))
    assert spectrum.wavelength.tolist() == shifted.tolist()


@pytest.mark.parametrize("name", ["GALAH", "Galah", b"galah"])
def test_surveys_are_known_in_any_case(name):
    (spectrum,) = read_spectra(survey_row("galah") | {"survey": name})
    assert (spectrum.survey, spectrum.medium) == ("galah", "air")
    assert read_spectra(survey_row("galah") | {"survey": "MyOwn"})[0].survey == "MyOwn"


@pytest.mark.parametrize(("name", "meant"), [("galahh", "galah"), ("GALA", "galah"), ("galah_dr3", "galah")])
def test_a_misspelt_survey_does_not_make_vacuum_of_air(name, meant):
    row = survey_row("galah") | {"survey": name}
    with pytest.raises(ValueError, match=f"one of sdss, .*found '{name}': pass survey='{meant}', or medium="):
        read_spectra(row)
    assert read_spectra(row, medium="air")[0].medium == read_spectra(row, survey=meant)[0].medium == "air"


def test_row_and_file_of_one_spectrum_agree(spectra_dir):
    for path in ("sdss/stars/spec-0266-51602-0031.fits", "desi/picca_tile80693"):
        path = spectra_dir / path
        path = sorted(path.glob("coadd*.fits"))[0] if path.is_dir() else path
        ours = read_spectra(path)[0]
        row = {"flux": ours.flux, "ivar": ours.ivar, "lambda": ours.wavelength.astype(np.float32), "mask": ours.mask}
        (spectrum,) = read_spectra(row, survey=ours.survey)
        np.testing.assert_array_equal(spectrum.good, ours.good)
        np.testing.assert_allclose(spectrum.wavelength, ours.wavelength, rtol=1e-13)


def test_padding_is_cut_off(columns):
    pad = np.full(4, -1.0)
    row = survey_row("sdss", np.concatenate([survey_grid("sdss"), pad]))
    row["ivar"][-4:] = 0
    (spectrum,) = read_spectra(row | {"pix_bitmask": np.zeros(len(row["flux"]), int)})
    assert len(spectrum) == 3840 and spectrum.good.all()


@pytest.mark.parametrize("column", ["pix_bitmask", "bitmask", "and_mask", "pixel_flags", "mask"])
@pytest.mark.parametrize("order", [1, -1])
def test_bit_masks_are_decoded_by_name(column, order):
    bits = np.zeros(7514 + 3, np.int32)  # and three pixels of padding
    bits[:5000] = 1 << 9 | 1 << 12  # persistence and a sky line: warnings, not obeyed
    bits[10], bits[11], bits[12] = 1 << 0, 1 << 12 | 1 << 14, 1 << 1 | 1 << 0
    bits[13] = 1 << 1
    wavelength = np.concatenate([survey_grid("apogee"), [-1.0] * 3])
    (spectrum,) = read_spectra(survey_row("apogee", wavelength[::order], **{column: bits[::order]}))
    assert np.flatnonzero(~spectrum.good).tolist() == [10, 11, 12, 13]
    dropped = {name: count for name, count in spectrum.dropped.items() if "padding" not in name}
    assert dropped == {"BADPIX": 2, "CRPIX": 1, "NOT_ENOUGH_PSF": 1}
    assert "2 pixels: BADPIX" in spectrum.report()


@pytest.mark.parametrize("pixels", [3, 7515, (2, 7514)])
def test_a_bit_mask_of_another_length_is_refused(pixels):
    with pytest.raises(ValueError, match=r"the bit mask and flux must have the same length, found shapes .*7514"):
        read_spectra(survey_row("apogee", pix_bitmask=np.zeros(pixels, int)))


@pytest.mark.parametrize("column", ["pix_bitmask", "mask"])
def test_missing_bits_are_bad(column):
    bits = np.zeros(7514, int)
    bits[3], bits[5] = 1 << 1, 1 << 9
    hidden = np.arange(7514) == 7
    sources = [np.ma.MaskedArray(bits, mask=hidden)]
    sources += [np.where(hidden, np.nan, bits)] if column == "pix_bitmask" else []
    for source in sources:
        (spectrum,) = read_spectra(survey_row("apogee", **{column: source}))
        assert np.flatnonzero(~spectrum.good).tolist() == [3, 7]


def test_bit_masks_of_lamost_and_of_nobody():
    bits = np.zeros(3909, np.int64)
    (spectrum,) = read_spectra(survey_row("apogee", pix_bitmask=np.zeros(7514, int)) | {"survey": None})
    assert spectrum.good.all()  # no bit, no question
    bits[7] = 2
    assert np.flatnonzero(~read_spectra(survey_row("lamost", and_mask=bits))[0].good).tolist() == [7]
    for survey in (None, "galah"):
        row = survey_row("lamost", and_mask=bits) | {"survey": survey}
        with pytest.raises(
            ValueError, match=r"values up to 2, and survey=.* does not say which .*pass survey= \(sdss.*or mask="
        ):
            read_spectra(row)
        assert read_spectra(row, mask=None)[0].good.all()
        assert np.flatnonzero(~read_spectra(row, mask=bits > 0)[0].good).tolist() == [7]


def test_a_mask_of_every_bit_is_obeyed_with_a_warning():
    greedy = np.arange(7514) < 4000
    row = survey_row("apogee", mask=greedy)
    with pytest.warns(UserWarning, match=r"mask of apogee spectra drops more than half .*pass mask=None"):
        (spectrum,) = read_spectra(row)
    assert spectrum.good.sum() == 3514
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_spectra(row, mask=None)[0].good.all()
        assert read_spectra(row, mask=greedy)[0].good.sum() == 3514  # by hand: meant
        assert read_spectra(row | {"mask": np.arange(7514) < 3700})[0].good.sum() == 3814  # less than half
        row["ivar"] = np.where(greedy, 0.0, 1.0)
        assert read_spectra(row)[0].good.sum() == 3514  # the inverse variance agrees
    with pytest.warns(UserWarning) as caught:
        warnings.simplefilter("default")
        read_spectra([survey_row("apogee", mask=greedy)] * 5)
    assert len(caught) == 1  # once for all rows of a dataset


def test_masks_are_unpacked_from_any_bit_on():
    mask = np.random.default_rng(0).random((5, 101)) < 0.3  # 101 pixels: every row begins in the middle of a byte
    pixels = {"flux": np.ones(101), "wavelength": 4000.0 + np.arange(101), "ivar": np.ones(101)}
    table = pa.Table.from_pylist([pixels | {"mask": row} for row in mask])
    for start in range(5):
        np.testing.assert_array_equal([s.mask for s in read_spectra(table.slice(start))], mask[start:])
