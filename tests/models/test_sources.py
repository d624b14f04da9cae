"""What a pipeline may be given, with the package and, as beside a checkpoint alone, without it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from spectok_hf import Spectrum, read_spectra, simulate_survey
from spectok_hf.models.sources import read_source

PIXELS = 50
AXIS = 4000.0 + 2.0 * np.arange(PIXELS)
PACKAGE = 'needs the installed package: pip install "spectok-hf\\[astro\\]"'


@pytest.fixture
def without_package(monkeypatch):
    """As where only a checkpoint's own files are: the package's readers cannot be imported."""
    monkeypatch.setitem(sys.modules, "spectok_hf.data.readers", None)


@pytest.fixture
def columns():
    rng = np.random.default_rng(7)
    mask = np.zeros(PIXELS, dtype=bool)
    mask[[3, 20]] = True
    ivar = rng.uniform(1, 4, PIXELS).astype(np.float32)
    ivar[10] = 0
    return {"flux": rng.normal(5, 1, PIXELS).astype(np.float32), "wavelength": AXIS, "ivar": ivar, "mask": mask}


def stack(columns, count=3):
    """As many spectra on one axis, each twice as bright as the one before."""
    stacked = {name: np.stack([values] * count) for name, values in columns.items()}
    return stacked | {"flux": stacked["flux"] * 2.0 ** np.arange(count)[:, None], "wavelength": columns["wavelength"]}


def check_same(found, expected):
    """Pixel for pixel, and in what is said about the pixels."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("flux", "wavelength", "ivar", "mask"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        for name in ("medium", "frame", "object_id", "flux_unit", "dropped"):
            assert getattr(one, name) == getattr(other, name), name


def renamed(columns, **names):
    return {names.get(name, name): values for name, values in columns.items()}


def as_lists(columns):
    return {name: values.tolist() for name, values in columns.items()}


# Rows of which every column is known by its name alone; expected: what `Spectrum.from_arrays` makes of them.
PLAIN_ROWS = {
    "mapping": lambda c: c,
    "lists": as_lists,
    "tensors": lambda c: {name: torch.tensor(values) for name, values in c.items()},
    "Multimodal Universe": lambda c: {"spectrum": renamed(c, wavelength="lambda"), "Z": 0.1, "FLUX_G": 3.0},
    "Multimodal Universe, lists": lambda c: {"spectrum": as_lists(renamed(c, wavelength="lambda")), "ZWARN": False},
    "Multimodal Universe, pixels": lambda c: {
        "spectrum": [
            dict(zip(("flux", "lambda", "ivar", "mask"), pixel, strict=True))
            for pixel in zip(*(c[name].tolist() for name in ("flux", "wavelength", "ivar", "mask")), strict=True)
        ]
    },
    "Multimodal Universe, HDF5": lambda c: {f"spectrum_{name}": values for name, values in c.items()} | {"Z": 0.1},
    "struct that pandas flattened": lambda c: {
        f"spectrum.{name}": values for name, values in renamed(c, wavelength="lambda").items()
    },
    "tensors below spectrum": lambda c: {"spectrum": {name: torch.tensor(values) for name, values in c.items()}},
    "upper case": lambda c: {name.upper(): values for name, values in renamed(c, wavelength="wave").items()},
    "a column of nothing": lambda c: {"spectrum": c | {"error": None}, "survey": None},
    "other columns of the survey's": lambda c: {"spectrum": c, "SURVEY": "sv3", "MEDIUM": "coffee"},
    "a survey beside its medium": lambda c: {"spectrum": c | {"survey": "sdss"}, "medium": "vacuum"},
    "mask of 0 and 1": lambda c: {"spectrum": c | {"mask": c["mask"].astype(np.uint8)}},
}


@pytest.mark.parametrize("kind", PLAIN_ROWS)
def test_plain_rows_are_the_same_with_the_package_and_without(kind, columns, request):
    expected = [Spectrum.from_arrays(**columns)]
    source = PLAIN_ROWS[kind](columns)
    check_same(read_source(source, {}), expected)
    check_same(read_spectra(source), expected)
    request.getfixturevalue("without_package")
    check_same(read_source(source, {}), expected)


@pytest.mark.parametrize("package", [True, False])
def test_logarithmic_axes_and_errors_by_other_names(columns, package, request):
    if not package:
        request.getfixturevalue("without_package")
    row = {"spectrum": {"flux": columns["flux"], "loglam": np.log10(AXIS), "flux_err": np.full(PIXELS, 0.5)}}
    (spectrum,) = read_source(row | {"object_id": "a", "medium": "air"}, {})
    assert spectrum.wavelength == pytest.approx(AXIS) and spectrum.ivar == pytest.approx(np.full(PIXELS, 4.0))
    assert (spectrum.object_id, spectrum.medium) == ("a", "air")


@pytest.mark.parametrize("package", [True, False])
def test_what_the_caller_gives_counts_instead_of_the_rows_own(columns, package, request):
    if not package:
        request.getfixturevalue("without_package")
    shifted = {"wavelength": AXIS + 1}
    for source in (
        columns | {"wavelength": AXIS / 10, "wavelength_unit": "nm"},  # a unit goes with its axis
        {"spectrum": renamed(columns, wavelength="lambda")},
    ):
        (spectrum,) = read_source(source, shifted)
        np.testing.assert_array_equal(spectrum.wavelength, AXIS + 1)


@pytest.mark.usefixtures("without_package")
def test_arrays_need_no_package(columns):
    flux, fields = columns["flux"], {"wavelength": AXIS, "error": 0.5}
    expected = [Spectrum.from_arrays(flux, AXIS, error=0.5)]
    for source in (flux, flux.tolist(), tuple(flux.tolist()), torch.tensor(flux), flux.astype(">f4")):
        check_same(read_source(source, fields), expected)
    hidden = np.ma.masked_less(flux, 4)
    assert read_source(hidden, fields)[0].mask.sum() == (flux < 4).sum() > 0
    (spectrum,) = read_source(flux, {"wavelength": AXIS / 10, "wavelength_unit": "nm", "error": "estimate"})
    assert spectrum.wavelength == pytest.approx(AXIS) and spectrum.ivar.min() > 0


@pytest.mark.usefixtures("without_package")
def test_a_spectrum_is_taken_as_it_is_whatever_module_its_class_is_of(columns):
    own = Spectrum.from_arrays(**columns)
    remote = SimpleNamespace(flux=own.flux, wavelength=own.wavelength, ivar=own.ivar, good=own.good)
    for spectrum in (own, remote):
        assert read_source(spectrum, {})[0] is spectrum
        with pytest.raises(ValueError, match=r"(?s)error belong to arrays, found .* which has its own"):
            read_source(spectrum, {"error": 0.1})


# Several spectra ----------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [True, False])
@pytest.mark.parametrize("form", ["arrays", "lists", "ragged", "row", "row of rows"])
def test_stacks_give_one_spectrum_each(columns, form, package, request):
    if not package:
        request.getfixturevalue("without_package")
    stacked = stack(columns)
    expected = [Spectrum.from_arrays(**columns | {"flux": stacked["flux"][i]}) for i in range(3)]
    if form == "ragged":
        lengths = (50, 40, 30)
        keep = ("flux", "ivar", "mask")
        source = {name: [row[:n] for row, n in zip(stacked[name], lengths, strict=True)] for name in keep}
        source["wavelength"] = [AXIS[:n] for n in lengths]
        found = read_source(source, {})
        assert [len(spectrum) for spectrum in found] == [50, 40, 30]
        expected = [
            Spectrum.from_arrays(**{name: source[name][i] for name in (*keep, "wavelength")}) for i in range(3)
        ]
    elif form == "arrays":
        found = read_source(stacked["flux"], {name: stacked[name] for name in ("wavelength", "ivar", "mask")})
    else:
        rows = [{name: stacked[name][i] for name in ("flux", "ivar", "mask")} | {"lambda": AXIS} for i in range(3)]
        sources = {"lists": as_lists(stacked), "row": {"spectrum": stacked}, "row of rows": {"spectrum": rows}}
        found = read_source(sources[form], {})
    check_same(found, expected)


PER_SPECTRUM = {
    "list of texts": ["a", "b", "c"],
    "array of texts": np.array(["a", "b", "c"]),
    "list of numbers": [1, 2, 3],
    "array of numbers": np.array([1, 2, 3]),
    "one for all": "a",
    "list of bytes": [b"a", b"b", b"c"],
}


@pytest.mark.parametrize("identifiers", PER_SPECTRUM.values(), ids=PER_SPECTRUM)
def test_identifiers_of_stacks_are_split_as_read_spectra_does(columns, identifiers):
    stacked = stack(columns)
    fields = {"wavelength": AXIS, "error": 0.5, "object_id": identifiers}
    found = read_source(stacked["flux"], fields)
    assert [spectrum.object_id for spectrum in found] == {
        "a": ["a", "b", "c"] if np.ndim(identifiers) else ["a"] * 3,
        "1": ["1", "2", "3"],
    }[found[0].object_id]
    check_same(found, read_spectra(stacked["flux"], **fields))
    assert all(spectrum.ivar == pytest.approx(np.full(PIXELS, 4.0)) for spectrum in found)


def test_other_texts_and_labels_of_stacks_are_split(columns):
    source = stack(columns) | {
        "medium": ["air", "vacuum", "air"],
        "labels": {"teff": [1.0, 2.0, 3.0], "class": "STAR"},
    }
    found = read_source(source, {})
    assert [spectrum.medium for spectrum in found] == ["air", "vacuum", "air"]
    assert [spectrum.labels for spectrum in found] == [{"teff": teff, "class": "STAR"} for teff in (1.0, 2.0, 3.0)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"object_id": ["a", "b"]}, "object_id must have one entry per spectrum, found 2 for 3 spectra"),
        ({"ivar": np.ones((2, PIXELS))}, "ivar must have one entry per spectrum, found 2 for 3 spectra"),
        ({"wavelength": AXIS[:-1]}, "spectrum 0: .*must have the same length, found 50 and 49"),
        ({"flux": np.ones((3, 2, PIXELS))}, "spectrum 0: flux must have one dimension"),
    ],
)
def test_stacks_that_do_not_fit(columns, change, words):
    with pytest.raises(ValueError, match=words):
        read_source(stack(columns) | change, {})


# What the package alone reads ---------------------------------------------------------------------


@pytest.fixture
def fits_file(write_sdss_file, tmp_path):
    spectrum = simulate_survey("sdss", 1, seed=0)[0]
    return write_sdss_file(spectrum, tmp_path)


def test_files_by_path_and_content(fits_file, monkeypatch):
    expected = read_spectra(fits_file)
    content = Path(fits_file).read_bytes()
    for source in (fits_file, content, bytearray(content)):
        check_same(read_source(source, {}), expected)
    monkeypatch.setitem(sys.modules, "spectok_hf.data.readers", None)
    for source, what in ((fits_file, "'.*fits'"), (content, "a bytes")):
        with pytest.raises(ImportError, match=f"{what} {PACKAGE}"):
            read_source(source, {})


def test_specutils_objects_and_tables(columns, monkeypatch):
    specutils, table = pytest.importorskip("specutils"), pytest.importorskip("astropy.table")
    units, nddata = pytest.importorskip("astropy.units"), pytest.importorskip("astropy.nddata")
    single = specutils.Spectrum(
        flux=columns["flux"] * units.mJy,
        spectral_axis=AXIS * units.AA,
        uncertainty=nddata.InverseVariance(columns["ivar"]),
        mask=columns["mask"],
    )
    rows = {name: [values] for name, values in columns.items()}
    sources = {
        "a Spectrum": single,
        "a SpectrumList": specutils.SpectrumList([single]),
        "a DataFrame": pd.DataFrame(rows),
        "a Table": table.Table(rows),
        "a Row": table.Table(rows)[0],
        "flux with a unit": columns | {"flux": columns["flux"] * units.mJy},
        "a list": [columns],
    }
    for source in sources.values():
        (spectrum,) = read_source(source, {})
        np.testing.assert_array_equal(spectrum.flux, columns["flux"])
        np.testing.assert_array_equal(spectrum.good, Spectrum.from_arrays(**columns).good)
    monkeypatch.setitem(sys.modules, "spectok_hf.data.readers", None)
    for what, source in sources.items():
        with pytest.raises(ImportError, match=f"{what} {PACKAGE}"):
            read_source(source, {})


def test_surveys_and_bits_of_masks_are_the_packages(columns, monkeypatch):
    bits = np.zeros(PIXELS, dtype=np.int32)
    bits[5], bits[6] = 1 << 23, 1 << 4  # SDSS: bright sky, which is bad, and a bit of the fibre, which is not
    sources = {
        "a spectrum with survey='galah' and no medium": columns | {"survey": "galah"},
        "a bit mask": columns | {"mask": bits, "survey": "sdss", "medium": "vacuum"},
        "a spectrum with survey='sdss' and no medium": {"spectrum": columns, "survey": "sdss"},
    }
    assert read_source(sources["a spectrum with survey='galah' and no medium"], {})[0].medium == "air"
    assert np.flatnonzero(read_source(sources["a bit mask"], {})[0].mask).tolist() == [5]
    with pytest.raises(ValueError, match="bit mask holds values up to 8388608, and survey=None does not say"):
        read_source(columns | {"mask": bits}, {})
    monkeypatch.setitem(sys.modules, "spectok_hf.data.readers", None)
    of_bits = [{"mask": bits}, {"pix_bitmask": bits}]
    more = [("a bit mask", source) for bits in of_bits for source in (columns | bits, {"spectrum": columns | bits})]
    for what, source in [*sources.items(), *more]:
        with pytest.raises(ImportError, match=f"{what} {PACKAGE}"):
            read_source(source, {})


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "fields", "words"),
    [
        ({"flux": [1.0], "ivar": [1.0]}, {}, "a spectrum needs .* found only flux, ivar: .*wavelength="),
        ({"wavelength": AXIS}, {}, "found only wavelength: pass flux="),
        ({}, {}, "found none of them: pass flux="),
        ({"flux": None}, {}, "found none of them: pass flux="),
        (np.ones(PIXELS), {}, "found only flux: pass wavelength="),
        (np.ones(PIXELS), {"wavelength": AXIS}, "exactly one of ivar= and error=, found neither"),
        (np.ones(PIXELS), {"wavelength": AXIS, "error": 1, "ivar": np.ones(PIXELS)}, "ivar= and error=, found both"),
        (np.float64(1), {"wavelength": AXIS, "error": 1}, "flux must have one dimension"),
        (np.ones(PIXELS), {"wavelength": AXIS, "error": 1, "object_id": ["a"]}, "object_id must be one value"),
        (np.ones(PIXELS), {"wavelength": AXIS, "error": 1, "mask": np.ones(3, int)}, "mask and .* found 3 and 50"),
        ({"spectrum": {"ivar": [1.0]}, "Z": 0.1}, {}, "a spectrum needs flux"),
        ({"spectrum": {"flux": [1.0], "FLUX": [1.0]}}, {}, "'FLUX' gives flux a second time"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("package", [True, False])
def test_errors_name_what_is_missing(source, fields, words, package, request):
    if not package:
        request.getfixturevalue("without_package")
    with pytest.raises(ValueError, match=words):
        read_source(source, fields)


def test_a_table_without_a_row_holds_no_spectrum():
    with pytest.raises(ValueError, match="a DataFrame must hold a spectrum, found none"):
        read_source(pd.DataFrame({"flux": [], "wavelength": [], "ivar": []}), {})
