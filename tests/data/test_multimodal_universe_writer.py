"""Writing copies of the Multimodal Universe: where files stand, what is in them, and that nothing is lost."""

import doctest
import re
from pathlib import Path

import datasets
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.data.multimodal_universe import count_rows, read_rows, write_universe
from spectok_hf.data.multimodal_universe_facts import nested_pixel


@pytest.fixture(scope="module")
def spectra():
    """Five stars, four of them in one pixel of the sky."""
    spectra = simulate_survey("desi", 5)
    for number, spectrum in enumerate(spectra):
        spectrum.labels |= {"ra": 36.11 + 0.001 * number, "dec": -5.501} if number < 4 else {"ra": 180.0, "dec": 89.0}
    return spectra


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (
            "v1",
            {
                "dr1_main/healpix=1105/001-of-002.hdf5": 3,
                "dr1_main/healpix=1105/002-of-002.hdf5": 1,
                "dr1_main/healpix=767/001-of-001.hdf5": 1,
            },
        ),
        ("preview", {"data/train-00000-of-00002.parquet": 3, "data/train-00001-of-00002.parquet": 2}),
    ],
)
def test_files_stand_where_the_real_ones_do(generation, expected, spectra, tmp_path):
    files = write_universe(spectra, tmp_path, generation=generation, rows_per_file=3)
    assert {path.relative_to(tmp_path).as_posix(): count_rows(path) for path in files} == expected
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_hats_partitions_are_as_coarse_as_their_rows_allow(spectra, tmp_path):
    files = write_universe(spectra, tmp_path, generation="hats", rows_per_file=3)
    catalogue = tmp_path / "mmu_desi_dr1_main"
    table = [line.split(",") for line in (catalogue / "partition_info.csv").read_text().splitlines()]
    assert table[0] == ["Norder", "Npix", "num_rows"] and sum(int(line[2]) for line in table[1:]) == 5
    assert ["4", "767", "1"] in table
    orders = set()
    for path in files:
        order, place, pixel = path.relative_to(catalogue / "dataset").parts
        order, pixel = int(order.removeprefix("Norder=")), int(pixel.removeprefix("Npix=").removesuffix(".parquet"))
        assert place == f"Dir={pixel // 10_000 * 10_000}" and count_rows(path) <= 3
        fine = pq.read_table(path, columns=["_healpix_29"])[0].to_numpy()
        assert (fine >> 2 * (29 - order) == pixel).all()
        orders.add(order)
    assert min(orders) == 4 < max(orders)
    properties = (catalogue / "hats.properties").read_text().splitlines()
    assert {"dataproduct_type=object", "hats_nrows=5", f"hats_order={max(orders)}"} <= set(properties)


@pytest.mark.parametrize(
    ("ra", "dec", "pixel"),
    [(36.11, -5.501, 1105), (0.5, 0.5, 1216), (180, 89, 767), (266.4, -29, 1801), (10, -75, 2080), (350, 45, 860)],
)
def test_healpix_pixels_are_those_of_astropy_healpix(ra, dec, pixel):
    assert nested_pixel(ra, dec, 4).tolist() == [pixel]
    assert (nested_pixel(ra, dec, 29) >> 50).tolist() == [pixel]


def test_healpix_pixels_have_equal_areas():
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(0, 360, 100_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 100_000)))
    counts = np.bincount(nested_pixel(ra, dec, 1), minlength=48)
    assert len(counts) == 48 and counts.min() > 1900 and counts.max() < 2270
    assert nested_pixel([np.nan, 1, 0, 0], [1, np.nan, 90, -90], 4).tolist()[:2] == [-1, -1]


def test_the_finest_pixel_is_that_of_a_real_row():
    """A row on the card of the HATS catalogue of VIPERS, whose position is given to four digits."""
    assert nested_pixel(36.11, -5.501, 29)[0] >> 36 == 1244368854977221770 >> 36


def test_v1_columns_are_as_in_the_real_files(tmp_path):
    target = 39628473198710603  # above 2**53
    (desi,), (sdss,) = simulate_survey("desi", 1), simulate_survey("sdss", 1)
    desi.object_id, sdss.object_id = str(target), "461628614023079936"
    (path,) = write_universe([desi], tmp_path, generation="v1")
    with h5py.File(path) as file:
        assert file["object_id"].dtype == ">i8" and file["object_id"][0] == target
        assert file["ZWARN"].dtype == ">i8" and file["Z"].dtype == ">f8"
        assert file["spectrum_flux"].dtype == "<f4" and file["spectrum_flux"].shape == (1, 7781)
    (path,) = write_universe([sdss], tmp_path, generation="v1")
    with h5py.File(path) as file:
        assert file["object_id"].dtype == "S22" and file["object_id"][0] == b"    461628614023079936"
        assert file["CLASS"].dtype == "S6" and file["SURVEY"][0] == b"sdss  " and file["Z"].dtype == ">f4"


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_galah_detectors_are_told_apart(missing, tmp_path):
    (star,) = simulate_survey("galah", 1)
    keep = np.arange(len(star)) // 4096 != missing
    star = Spectrum(star.flux[keep], star.wavelength[keep], star.ivar[keep], survey="galah", medium="air")
    (path,) = write_universe([star], tmp_path, generation="v1")
    with h5py.File(path) as file:
        ends = [(file[f"spectrum_{band}_ind_start"][0], file[f"spectrum_{band}_ind_end"][0]) for band in "BGRI"]
    lengths = [end - start + 1 for start, end in ends]  # ends are inclusive
    assert lengths == [0 if number == missing else 4096 for number in range(4)]
    (found,) = read_rows(path)
    np.testing.assert_allclose(found.wavelength, star.wavelength, rtol=0, atol=2.5e-4)


def test_spectra_without_a_position_stand_in_pixel_minus_one(tmp_path):
    spectra = simulate_survey("desi", 2)
    for generation, name in (("v1", "healpix=-1"), ("hats", "Npix=-1.parquet")):
        (path,) = write_universe(spectra, tmp_path / generation, generation=generation)
        assert name in str(path)
        found = {spectrum.object_id: spectrum for spectrum in read_rows(path)}
        for source in spectra:
            np.testing.assert_array_equal(found[source.object_id].flux, source.flux)
            assert not {"ra", "dec", "zwarn"} & set(found[source.object_id].labels)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    spectra = simulate_survey("galah", 2)
    (path,) = write_universe(spectra, tmp_path, generation="preview")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"train-00000-of-00001.parquet is there already, and is not overwritten"):
        write_universe(spectra, tmp_path, generation="preview")
    assert path.read_bytes() == before

    def fail(table, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_universe(spectra, tmp_path / "full", generation="preview")
    assert not [found for found in (tmp_path / "full").rglob("*") if found.is_file()]


@pytest.mark.parametrize(
    ("spectra", "options", "message"),
    [
        ([], {"generation": "v1"}, "at least one spectrum, found none"),
        (["desi", "sdss"], {"generation": "v1"}, "of one survey, found desi, sdss"),
        (["lamost"], {"generation": "v1"}, "survey must be one of sdss.*found 'lamost'"),
        (["galah"], {"generation": "hats"}, "never published"),
        (["desi"], {"generation": "v2"}, "generation must be one of"),
        (["desi"], {"generation": "v1", "rows_per_file": 0}, "rows_per_file must be at least 1"),
    ],
)
def test_what_cannot_be_written_is_refused(spectra, options, message, tmp_path):
    spectra = [simulate_survey(survey, 1)[0] for survey in spectra]
    with pytest.raises(ValueError, match=message):
        write_universe(spectra, tmp_path, **options)


@pytest.mark.parametrize(
    ("survey", "name", "value"),
    [
        ("galah", "medium", "vacuum"),
        ("desi", "frame", "rest"),
        ("desi", "flux_unit", "counts"),
        ("desi", "survey", "vipers"),
        ("apogee", "frame", "observed"),
    ],
)
def test_what_would_read_back_as_another_thing_is_refused(survey, name, value, tmp_path):
    spectra = simulate_survey(survey, 2)
    setattr(spectra[1], name, value)
    with pytest.raises(ValueError, match=rf"{name} of {survey} must be '.*', found '{value}' in spectrum 1 .*lost"):
        write_universe(spectra, tmp_path, generation="v1", survey=survey)
    assert not [*tmp_path.iterdir()]
    setattr(spectra[1], name, getattr(spectra[0], name))
    spectra[0].survey = spectra[0].flux_unit = None  # which say nothing
    assert write_universe(spectra, tmp_path, generation="v1", survey=survey)


def test_labels_that_are_nan_are_unknown(tmp_path):
    (spectrum,) = simulate_survey("desi", 1)
    spectrum.labels["zwarn"] = np.nan
    for generation, unknown in (("v1", -9999), ("hats", None)):
        (path,) = write_universe([spectrum], tmp_path / generation, generation=generation)
        if generation == "v1":
            with h5py.File(path) as file:
                assert file["ZWARN"][0] == unknown
        else:
            assert pq.read_table(path).column("ZWARN").to_pylist() == [unknown]


@pytest.mark.parametrize("generation", ["v1", "preview", "hats"])
def test_identifiers_of_any_alphabet_come_back(generation, tmp_path):
    (spectrum,) = simulate_survey("apogee", 1)
    spectrum.object_id = "étoile 'β'"
    (path,) = write_universe([spectrum], tmp_path, generation=generation)
    assert next(read_rows(path)).object_id == "étoile 'β'"


def test_the_page_about_it_does_what_it_says(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "multimodal_universe.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(), re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, page.name, str(page), 0)
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.attempted > 5 and result.failed == 0, "".join(report)
