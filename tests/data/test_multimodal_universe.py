"""The Multimodal Universe: every layout is read back, and known errors are corrected, each by its arithmetic."""

import warnings

import datasets
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spectok_hf import SURVEYS, Spectrum, read_spectra, simulate_survey
from spectok_hf.data.multimodal_universe import (
    GENERATIONS,
    correct_row,
    count_rows,
    find_files,
    read_rows,
    write_universe,
)
from spectok_hf.data.multimodal_universe_facts import UNIVERSE_SURVEYS
from spectok_hf.data.tables import read_table_file

LAYOUTS = [
    (survey, generation)
    for survey in UNIVERSE_SURVEYS
    for generation in GENERATIONS
    if (survey, generation) != ("galah", "hats")
]
TARGET = 39628473198710603  # above 2**53


def simulate_vipers(count):
    """Noise of the right size; VIPERS has no recipe in the simulation."""
    rng = np.random.default_rng(20180109)
    wavelength = 5514.28 + 7.14 * np.arange(557)
    spectra = []
    for number in range(count):
        ivar = rng.uniform(4, 25, 557)
        ivar[[3, 200]] = 0
        columns = {"ivar": ivar, "mask": rng.random(557) < 0.1, "labels": {"redshift": 0.7 + 0.01 * number}}
        spectra.append(Spectrum(rng.normal(1, 0.3, 557), wavelength, survey="vipers", medium="air", **columns))
    return spectra


def simulate(survey, count=5):
    spectra = simulate_vipers(count) if survey == "vipers" else simulate_survey(survey, count, seed=5)
    ids = {"desi": TARGET, "galah": 131116000501001, "vipers": 101121877, "sdss": 461628614023079936}
    for number, spectrum in enumerate(spectra):
        spectrum.object_id = f"2M{number:08}-0101" if survey not in ids else str(ids[survey] + number)
        spectrum.labels |= {"ra": 10.0 + 0.001 * number + 90 * (number == 4), "dec": -20.0, "zwarn": 4 * (number == 1)}
    return spectra


@pytest.fixture(scope="module")
def sources():
    return {survey: simulate(survey) for survey in UNIVERSE_SURVEYS}


@pytest.fixture(scope="module")
def written(sources, tmp_path_factory):
    """Files of every layout, with at most two rows each."""
    files = {}
    for survey, generation in LAYOUTS:
        folder = tmp_path_factory.mktemp(f"{survey}-{generation}")
        files[survey, generation] = write_universe(sources[survey], folder, generation=generation, rows_per_file=2)
    return files


def by_id(spectra):
    return {spectrum.object_id: spectrum for spectrum in spectra}


def assert_same(found, source):
    """All that is good in the source, on its own pixels; what the layout cannot say is bad, and nothing else.

    Flux and ivar are those of the source, to the rounding of float32 where the layout holds a relative error (GALAH)
    or a noise in another unit (VIPERS); wavelengths are the survey's grid exactly, or (GALAH) rounded to float32.
    """
    expected = source.good & (source.flux > 0) if source.survey == "galah" else source.good
    derived = source.survey in ("galah", "vipers")
    assert (found.medium, found.frame) == (SURVEYS[source.survey].medium, SURVEYS[source.survey].frame)
    assert found.flux_unit == SURVEYS[source.survey].flux_unit
    assert len(found) == len(source)
    np.testing.assert_array_equal(found.good, expected)
    np.testing.assert_allclose(
        found.wavelength, source.wavelength, rtol=0 if source.survey == "galah" else 1e-14, atol=2.5e-4 * derived
    )
    np.testing.assert_allclose(found.flux, source.flux, rtol=2e-7 * derived)
    np.testing.assert_allclose(found.ivar[expected], source.ivar[expected], rtol=1e-6 * derived)
    if source.survey != "galah":
        np.testing.assert_array_equal(found.mask, source.mask)


# Round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids="-".join)
def test_every_layout_reads_back_to_its_source(layout, written, sources):
    survey, _ = layout
    files = written[layout]
    found = by_id(spectrum for path in files for spectrum in read_rows(path))
    assert sum(map(count_rows, files)) == len(found) == 5
    for source in sources[survey]:
        spectrum = found[source.object_id]
        # Nothing in a preview says which part of SDSS it is of; folder or column do so elsewhere.
        assert spectrum.survey == ("sdss" if layout == ("boss", "preview") else survey)
        assert_same(spectrum, source)


LABELS = {
    ("sdss", "v1"): {"class", "redshift", "zwarn", "snr", "ra", "dec"},
    ("sdss", "preview"): {"redshift", "zwarn"},
    ("sdss", "hats"): {"redshift", "zwarn", "ra", "dec"},
    ("desi", "v1"): {"class", "redshift", "zwarn", "ra", "dec"},
    ("desi", "preview"): {"redshift", "zwarn"},
    ("desi", "hats"): {"redshift", "zwarn", "ra", "dec"},
    ("galah", "v1"): {"teff", "logg", "feh", "rv", "ra", "dec"},
    ("apogee", "v1"): {"teff", "logg", "feh", "rv", "snr", "ra", "dec"},
    ("apogee", "preview"): {"teff", "logg", "rv"},
    ("vipers", "hats"): {"redshift", "ra", "dec"},
}


@pytest.mark.parametrize("layout", LABELS, ids="-".join)
def test_labels_of_a_layout(layout, written, sources):
    found = by_id(spectrum for path in written[layout] for spectrum in read_rows(path))
    for source in sources[layout[0]]:
        labels = found[source.object_id].labels
        assert set(labels) == LABELS[layout]
        for name in labels.keys() - {"class", "zwarn"}:
            assert labels[name] == pytest.approx(source.labels[name], rel=1e-6), name
        assert labels.get("class", source.labels.get("class")) == source.labels.get("class")
        if "zwarn" in labels:
            stays = source.labels["zwarn"] if layout[1] == "v1" else bool(source.labels["zwarn"])
            assert labels["zwarn"] == stays and not isinstance(labels["zwarn"], bool)


@pytest.fixture(scope="module")
def streamed(written, tmp_path_factory):
    """Rows as `load_dataset(..., streaming=True)` gives them."""

    def stream(layout):
        cache = str(tmp_path_factory.mktemp("cache"))
        files = list(map(str, written[layout]))
        return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True, cache_dir=cache)

    return stream


@pytest.mark.parametrize("format", [None, "numpy", "torch"])
@pytest.mark.parametrize("layout", [("desi", "hats"), ("vipers", "preview"), ("galah", "preview")], ids="-".join)
def test_streamed_rows_read_as_those_of_the_file(layout, format, streamed, sources):
    survey, generation = layout
    rows = streamed(layout).with_format(format)
    found = by_id(spectrum for row in rows for spectrum in read_spectra(correct_row(row, survey, generation)))
    for source in sources[survey]:
        assert_same(found[source.object_id], source)
        if survey == "desi":
            assert found[source.object_id].labels["zwarn"] == bool(source.labels["zwarn"])


def test_read_spectra_takes_files_folders_and_patterns(written, sources):
    for layout in (("sdss", "v1"), ("vipers", "hats"), ("desi", "preview")):
        files = written[layout]
        folder = files[0].parents[{"v1": 2, "hats": 4, "preview": 1}[layout[1]]]
        of_folder = read_spectra(folder)
        assert len(of_folder) == 5
        for source, spectrum in zip(sources[layout[0]], sorted(of_folder, key=lambda s: s.object_id), strict=True):
            assert_same(spectrum, source)
        assert len(read_spectra(files[0])) == count_rows(files[0])
        assert len(read_spectra(f"{folder}/**/*{files[0].suffix}")) == 5
    (spectrum, *_) = read_spectra(written["apogee", "v1"][0], mask=None)
    assert not spectrum.mask.any()


def test_flat_names_and_lists_of_pixels(written, sources, tmp_path):
    table = pq.read_table(written["desi", "hats"][0])
    pixels = table.column("spectrum").combine_chunks()
    pixels = {field.name: values for field, values in zip(pixels.type, pixels.flatten(), strict=True)}
    used = ("flux", "ivar", "lambda", "mask")
    others = {name: table.column(name) for name in table.column_names if name != "spectrum"}
    numbers = {name: pixels[name].to_pylist() for name in used}
    lists = [
        [dict(zip(used, pixel, strict=True)) for pixel in zip(*(numbers[name][row] for name in used), strict=True)]
        for row in range(table.num_rows)
    ]
    tables = {
        "dotted": others | {f"spectrum.{name}": pixels[name] for name in used},
        "underscored": others | {f"spectrum_{name}": pixels[name] for name in used},
        "pixels": others | {"spectrum": lists},
    }
    expected = by_id(sources["desi"])
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), path := tmp_path / f"{name}.parquet")
        for spectrum in read_rows(path):
            assert_same(spectrum, expected[spectrum.object_id])
            assert spectrum.labels["zwarn"] == bool(expected[spectrum.object_id].labels["zwarn"])
        row = pq.read_table(path).to_pylist()[0]
        (spectrum,) = read_spectra(correct_row(row, "desi", "hats"))
        assert_same(spectrum, expected[spectrum.object_id])


# Known errors ----------------------------------------------------------------------------------------


def galah_row(**changes):
    """A star as the Multimodal Universe's builder makes it of the files: two arms of 100 pixels."""
    grids = [(4713.4, 0.046), (5648.7, 0.0547)]
    # (arange(n) - -CRPIX1 + 1) * CDELT1 + CRVAL1, with CRPIX1 = 1
    wavelength = np.concatenate([(np.arange(100) - -1 + 1) * step + start for start, step in grids])
    flux, relative = np.full(200, 400.0), np.full(200, 0.05)
    for pixel, (value, error) in changes.items():
        flux[int(pixel[1:])], relative[int(pixel[1:])] = value, error
    with np.errstate(divide="ignore"):
        ivar = 1 / np.power(flux * relative, 2)
    pixels = {"flux": flux, "ivar": ivar, "lambda": np.float32(wavelength)}
    return {"spectrum": pixels, "object_id": "131116000501001", "flux_unit": "erg/cm^2/A/s", "rv_galah": 12.5}


@pytest.mark.parametrize("generation", ["v1", "preview", "hats"])
def test_galah_is_two_pixels_too_red(generation):
    (spectrum,) = read_spectra(correct_row(galah_row(), "galah", generation))
    # CRVAL1 + (i + 1 - CRPIX1) * CDELT1: 2 * 0.046 / 4713.4 of the speed of light are 5.85 km/s
    shift = 2 * (generation == "hats")  # whose builder has the formula right
    right = np.concatenate([4713.4 + 0.046 * (np.arange(100) + shift), 5648.7 + 0.0547 * (np.arange(100) + shift)])
    np.testing.assert_allclose(spectrum.wavelength, right, rtol=0, atol=3e-4)
    assert (spectrum.medium, spectrum.flux_unit, spectrum.labels) == ("air", "counts", {"rv": 12.5})


def test_pixels_of_galah_that_are_hidden_shift_no_others():
    row = galah_row()
    expected = correct_row(row, "galah", "v1")["wavelength"]
    hidden = np.zeros(200, bool)
    hidden[[7, 150, 151]] = True
    for name in ("lambda", "flux", "ivar"):
        masked = np.ma.MaskedArray(row["spectrum"][name], hidden)
        (spectrum,) = read_spectra(correct_row(row | {"spectrum": row["spectrum"] | {name: masked}}, "galah", "v1"))
        kept = ~hidden if name == "lambda" else np.ones(200, bool)
        np.testing.assert_allclose(spectrum.wavelength, expected[kept], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(spectrum.good, ~hidden[kept])
    masks = {"spectrum": row["spectrum"] | {"mask": np.ma.MaskedArray(np.zeros(200, bool), hidden)}}
    (spectrum,) = read_spectra(correct_row(masks, "desi", "hats"))
    np.testing.assert_array_equal(spectrum.mask, hidden)


def test_the_ivar_of_galah_is_also_called_flux_ivar():
    """Below `spectrum` or with its prefix; beside it is the photometry of a catalogue."""
    pixels = galah_row()["spectrum"]
    row = {f"spectrum_{name}": values for name, values in pixels.items() if name != "ivar"}
    corrected = correct_row(row | {"spectrum_flux_ivar": pixels["ivar"], "flux_ivar": 3.0}, "galah", "v1")
    np.testing.assert_array_equal(corrected["ivar"], pixels["ivar"])
    nested = {name: values for name, values in pixels.items() if name != "ivar"} | {"flux_ivar": pixels["ivar"]}
    np.testing.assert_array_equal(correct_row({"spectrum": nested}, "galah", "v1")["ivar"], pixels["ivar"])


def test_an_outlier_of_galah_is_told_from_its_neighbours_that_have_an_ivar():
    """(400 * 0.05)^-2 = 0.0025 is typical; an error 7.7 times too small is believed, one 12 times too small is not."""
    row = galah_row(p10=(400.0, 0.05 / 7.7), p20=(400.0, 0.05 / 12), p198=(400.0, 0.05), p199=(400.0, 0.05 / 12))
    for pixel in range(64, 110):
        row["spectrum"]["ivar"][pixel] = 0  # more than half of a block
    row["spectrum"]["ivar"][120] = 0.0025 * 150
    (spectrum,) = read_spectra(correct_row(row, "galah", "v1"))
    assert np.flatnonzero(~spectrum.good).tolist() == [20, *range(64, 110), 120, 199]


def test_what_spectrum_drops_itself_is_left_to_its_report():
    pixels = {"flux": [1.0, 2.0, 3.0], "ivar": [1.0, np.inf, np.nan], "lambda": [4000.0, 4001.0, 4002.0]}
    (spectrum,) = read_spectra(correct_row({"spectrum": pixels}, "desi", "hats"))
    assert spectrum.good.tolist() == [True, False, False] and spectrum.dropped == {"ivar is not finite": 2}


def test_galah_ivar_that_squared_a_sign_away_is_not_believed():
    row = galah_row(
        p10=(0.0, 0.05),  # 1 / 0: infinite
        p20=(-30.0, 0.05),  # flux below 0: a relative error says nothing, (-30 * 0.05)^-2 = 0.44 is believed by nobody
        p30=(400.0, -0.002),  # (400 * 0.002)^-2 = 1.56, where those beside it have (400 * 0.05)^-2 = 0.0025
        p40=(400.0, -0.04),  # as credible as those beside it: not to be detected
        p50=(400.0, 0.0),  # no error at all: infinite
    )
    assert not np.isfinite(row["spectrum"]["ivar"][[10, 50]]).any()
    (spectrum,) = read_spectra(correct_row(row, "galah", "v1"))
    assert np.flatnonzero(~spectrum.good).tolist() == [10, 20, 30, 50]
    assert spectrum.ivar[0] == pytest.approx(1 / 20**2) and spectrum.ivar[40] == pytest.approx(1 / 16**2)


def test_real_stars_of_galah_come_out_as_their_files_say(spectra_dir):
    """Two stars of DR3 by the builder's arithmetic; 7 negative errors of a credible size are not to be told."""
    fits = pytest.importorskip("astropy.io.fits")
    lost = 0
    for name in ("131123003001096", "140312004501116"):
        (path, *_) = sorted((spectra_dir / "galah").rglob(f"{name}1.fits"))
        pixels = {"flux": [], "ivar": [], "lambda": []}
        for ccd in range(1, 5):
            with fits.open(path.with_name(f"{name}{ccd}.fits")) as hdus, np.errstate(divide="ignore"):
                header, flux, relative = hdus[0].header, hdus[0].data, hdus[1].data
                shifted = (np.arange(len(flux)) - -header["CRPIX1"] + 1) * header["CDELT1"] + header["CRVAL1"]
                pixels["flux"].append(np.float32(flux))
                pixels["ivar"].append(np.float32(1 / np.power(flux * relative, 2)))
                pixels["lambda"].append(np.float32(shifted))
        row = {"spectrum": {column: np.concatenate(parts) for column, parts in pixels.items()}}
        (found,) = read_spectra(correct_row(row | {"object_id": int(name)}, "galah", "v1"))
        (expected,) = read_spectra(path)
        assert found.object_id == expected.object_id and found.good[expected.good].all()
        np.testing.assert_allclose(found.wavelength, expected.wavelength, rtol=0, atol=2.5e-4)
        np.testing.assert_allclose(found.ivar[expected.good], expected.ivar[expected.good], rtol=1e-6)
        lost += np.count_nonzero(found.good & ~expected.good)
    assert lost == 7


def test_vipers_ivar_was_not_squared():
    """Noise of 2e-18 erg/s/cm2/Å is 0.2 in units of 1e-17, an ivar of 25 = (1 / (2e-18 * 1e34))^2 * 1e34."""
    noise = np.full(557, 2e-18)
    noise[7] = -2e-18  # there are such; squared, the sign would be lost
    wave = 5514.28 + 7.14 * np.arange(557)
    codes = np.zeros(557, np.float32)
    codes[[1, 2, 3, 4]] = 1, 2, 3, np.nan
    raw = {
        "spectrum_flux": np.full(557, 3e-17),
        "spectrum_noise": noise,
        "spectrum_wave": wave,
        "spectrum_mask": codes,
    }
    loaded = {"flux": raw["spectrum_flux"] * 1e17, "ivar": 1 / (noise * 1e34), "lambda": wave, "mask": codes}
    assert loaded["ivar"][0] == pytest.approx(5e-17)
    rows = {"v1": raw, "preview": {"spectrum": loaded}, "hats": {"spectrum": loaded}}
    for generation, row in rows.items():
        corrected = correct_row(row | {"object_id": "116024139.0"}, "vipers", generation)
        (spectrum,) = read_spectra(corrected)
        assert np.flatnonzero(~spectrum.good).tolist() == [1, 2, 3, 4, 7]
        np.testing.assert_allclose(spectrum.ivar[spectrum.good], 25, rtol=1e-6)
        np.testing.assert_allclose(spectrum.flux, 3, rtol=1e-6)
        assert (spectrum.object_id, spectrum.survey, spectrum.medium) == ("116024139", "vipers", "air")
        np.testing.assert_allclose(spectrum.wavelength, wave, rtol=1e-14)


def test_vipers_is_not_repaired_twice():
    row = {"spectrum": {"flux": [1.0, 2.0], "ivar": [25.0, 16.0], "lambda": [5514.28, 5521.42]}}
    with pytest.raises(ValueError, match=r"about 1e-17 .* found 20: it was repaired already"):
        correct_row(row, "vipers", "hats")
    with pytest.raises(ValueError, match="rows of generation 'v1' must have noise, found flux, ivar"):
        correct_row(row, "vipers", "v1")


def test_format_table_reads_rows_as_they_are(written, tmp_path):
    table = pq.read_table(written["vipers", "hats"][0])
    (spectrum, *_) = read_spectra(written["vipers", "hats"][0], format="table", survey="vipers")
    assert np.median(spectrum.ivar[spectrum.good]) < 1e-15
    rows = table.to_pylist()
    for row in rows:  # as others publish it
        row["spectrum"]["ivar"] = (np.array(row["spectrum"]["ivar"]) ** 2 * 1e34).tolist()
    pq.write_table(pa.Table.from_pylist(rows), path := tmp_path / "repaired.parquet")
    with pytest.raises(ValueError, match=r"repaired.parquet, row 0: ivar of VIPERS .*already"):
        list(read_rows(path))
    (repaired, *_) = read_spectra(path, format="table", survey="vipers")
    (expected, *_) = read_rows(written["vipers", "hats"][0])
    np.testing.assert_allclose(repaired.ivar[expected.good], expected.ivar[expected.good], rtol=1e-6)


@pytest.mark.parametrize(
    ("survey", "generation", "value", "zwarn"),
    [
        ("desi", "preview", True, 0),  # not bool(flag): True is good
        ("desi", "preview", False, 1),
        ("desi", "hats", True, 1),  # bool(flag): True is a warning
        ("desi", "hats", np.bool_(False), 0),
        ("desi", "v1", np.int64(4), 4),  # the bits themselves
        ("sdss", "preview", True, 1),
        ("sdss", "hats", False, 0),
        ("sdss", "v1", 0, 0),
        ("sdss", "preview", None, None),
    ],
)
def test_zwarn_is_0_where_the_redshift_is_good(survey, generation, value, zwarn):
    pixels = {"flux": [1.0, 2.0], "ivar": [1.0, 1.0], "lambda": [4000.0, 4001.0], "mask": [False, None]}
    name = {"desi": "ZWARN", "sdss": "ZWARNING"}[survey]
    (spectrum,) = read_spectra(correct_row({"spectrum": pixels, name: value, "Z": 0.5}, survey, generation))
    assert spectrum.labels.get("zwarn") == zwarn
    assert not isinstance(spectrum.labels.get("zwarn"), bool)
    assert spectrum.good.tolist() == [True, False]  # a mask that is missing is bad


@pytest.mark.parametrize("value", [1, np.int8(0), 1.0])
def test_a_number_of_desi_is_from_no_preview(value):
    with pytest.raises(ValueError, match=r"ZWARN of DESI must be a boolean in a preview, where True is good, found"):
        correct_row({"ZWARN": value}, "desi", "preview")
    assert np.isnan(correct_row({"ZWARN": np.nan}, "desi", "preview")["ZWARN"])  # as pandas writes what is missing
    assert correct_row({"ZWARN": value}, "desi", "hats")["ZWARN"] == value


def test_a_boolean_of_desi_is_from_no_v1_file():
    with pytest.raises(ValueError, match=r'must be an integer in v1 files, found a boolean: .* generation="preview"'):
        correct_row({"ZWARN": True}, "desi", "v1")


def test_identifiers_are_plain_text(written):
    layouts = (("sdss", "hats"), ("apogee", "preview"), ("desi", "hats"), ("vipers", "preview"))
    stored = {layout: pq.read_table(written[layout][0], columns=["object_id"])[0][0].as_py() for layout in layouts}
    assert stored["sdss", "hats"] == "b'    461628614023079936'"
    assert stored["apogee", "preview"] == "b'2M00000000-0101'"
    assert stored["desi", "hats"] == str(TARGET)
    assert stored["vipers", "preview"] == "101121877.0"
    pixels = {"flux": [1.0], "ivar": [1.0], "lambda": [15200.0]}
    for survey, value, text in (
        ("apogee", stored["apogee", "preview"], "2M00000000-0101"),
        ("sdss", b"   461628614023079936", "461628614023079936"),
        ("desi", np.int64(TARGET), str(TARGET)),
        ("vipers", 101121877.0, "101121877"),
        ("apogee", str("café d'été".encode()), "café d'été"),
    ):
        row = {"spectrum": pixels} if survey != "vipers" else {}
        assert correct_row(row | {"object_id": value}, survey, "hats")["object_id"] == text


def test_padding_is_cut_off(written, sources):
    """SDSS rows are as long as the longest of their file: -1 in the wavelength, the last flux once more."""
    path = written["sdss", "v1"][0]
    with h5py.File(path) as file:
        wavelength, flux = file["spectrum_lambda"][:], file["spectrum_flux"][:]
    lengths = [len(spectrum) for spectrum in read_rows(path)]
    assert lengths == (wavelength > 0).sum(axis=1).tolist() and len(set(lengths)) > 1
    short = int(np.argmin(lengths))
    assert (wavelength[short, lengths[short] :] == -1).all()
    assert (flux[short, lengths[short] :] == flux[short, lengths[short] - 1]).all()


def test_apogee_wavelengths_of_float32_logarithms_come_back_exactly(written, sources):
    with h5py.File(written["apogee", "v1"][0]) as file:
        stored = file["spectrum_lambda"][0].astype(np.float64)
    exact = sources["apogee"][0].wavelength
    assert 5e-3 < np.abs(stored - exact).max() < 1.1e-2  # Å, of a pixel of 0.22 Å
    (spectrum, *_) = read_rows(written["apogee", "v1"][0])
    np.testing.assert_allclose(spectrum.wavelength, exact, rtol=1e-14)


def test_old_apogee_bits_are_decoded():
    bits = np.zeros(100, np.int64)
    bits[3], bits[5] = 1 << 0, 1 << 9  # bad, and persistence: a warning
    pixels = {"flux": np.ones(100), "ivar": np.ones(100), "lambda": 15200 + 0.21 * np.arange(100), "pix_bitmask": bits}
    (spectrum,) = read_spectra(correct_row({"spectrum": pixels, "restframe": None}, "apogee", "preview"))
    assert np.flatnonzero(~spectrum.good).tolist() == [3] and spectrum.frame == "rest"


def test_a_greedy_mask_of_apogee_is_obeyed_with_a_warning():
    pixels = {"flux": np.ones(100), "ivar": np.ones(100), "lambda": 15200 + 0.21 * np.arange(100)}
    row = {"spectrum": pixels | {"mask": np.arange(100) < 60}, "survey": b"apogee2"}
    with pytest.warns(UserWarning, match="mask of apogee spectra drops more than half"):
        read_spectra(correct_row(row, "apogee", "preview"))
    assert read_spectra(correct_row(row, "apogee", "preview"), mask=None)[0].good.all()


# Rows in memory --------------------------------------------------------------------------------------


def test_rows_in_memory_that_nobody_corrected_give_a_warning(written, streamed):
    table = pq.read_table(written["galah", "preview"][0])
    row = table.to_pylist()[0]
    flat = {f"spectrum_{name}": [values] for name, values in row["spectrum"].items()}
    sources = (
        row,
        table,
        table.drop_columns("filter_indices"),
        datasets.Dataset.from_list([row]),
        pa.table(flat),
        {"flux": [1.0], "ivar": [1.0], "lambda": [4714.0], "filter_indices": {"B_start": 0}},
    )
    for source in sources:
        with pytest.warns(UserWarning, match=r'GALAH .*too red.*correct_row\(row, "galah", generation\)'):
            read_spectra(source, survey="galah")
    for layout in (("vipers", "preview"), ("vipers", "hats")):
        with pytest.warns(UserWarning, match=r'VIPERS .*ivar about 1e-17.*correct_row\(row, "vipers"'):
            read_spectra(pq.read_table(written[layout][0]), survey="vipers")


def test_rows_that_are_right_give_no_warning(written, sources):
    row = next(iter(pq.read_table(written["galah", "preview"][0]).to_pylist()))
    assert read_spectra(correct_row(row, "galah", "preview"))
    assert read_spectra(row, survey="mine", medium="air")
    assert read_spectra(written["galah", "preview"][0], format="table", survey="galah")
    vipers = sources["vipers"][0]
    columns = {"flux": vipers.flux, "ivar": vipers.ivar, "wavelength": vipers.wavelength}
    assert read_spectra(columns, survey="vipers") and read_spectra(columns | {"ivar": 1e-17 * vipers.ivar})


# Recognising files -----------------------------------------------------------------------------------


PIXELS = {"flux": [1.0, 2.0, 3.0], "ivar": [1.0, 1.0, 0.0]}
AXIS = [5000.0, 5001.0, 5002.0]


@pytest.mark.parametrize("axis", ["wavelength", "lambda"])
@pytest.mark.parametrize(
    ("columns", "survey"),
    [
        ({"zwarn": 4}, "weave"),
        ({"zwarn": 4, "zerr": 0.1}, "weave"),
        ({"zwarn": True, "zerr": 0.1}, "weave"),
        ({"zwarning": 0, "z_err": 0.1}, "lamost"),
        ({"m_h": 0.1, "alpha_m": 0.1}, "synthetic"),
        ({"m_h": 0.1, "alpha_m": 0.1, "radial_velocity": 12.0}, "synthetic"),
        ({"zwarn": 4}, None),
        ({"m_h": 0.1, "alpha_m": 0.1}, None),
        ({"filter_indices": 1}, "desi"),
    ],
)
def test_files_of_others_keep_what_they_say(axis, columns, survey, tmp_path):
    own = {"survey": survey} if survey else {}
    row = {"spectrum": PIXELS | {axis: AXIS}, "medium": "air", "flux_unit": "counts"} | columns | own
    pq.write_table(pa.Table.from_pylist([row, row]), path := tmp_path / "own.parquet")
    for spectra in (list(read_rows(path)), read_spectra(path)):
        assert len(spectra) == 2
        assert (spectra[0].survey, spectra[0].medium, spectra[0].flux_unit) == (survey, "air", "counts")
        assert spectra[0].labels.get("zwarn") == {4: 4}.get(columns.get("zwarn"), columns.get("zwarning"))


@pytest.mark.parametrize("columns", [{"zwarn": True, "zerr": 0.1}, {"zwarning": 0, "z_err": 0.1}, {"REDFLAG": 1.0}])
def test_files_without_the_pixel_names_are_nobodys(columns, tmp_path):
    row = {"spectrum": PIXELS | {"wavelength": AXIS}, "flux_unit": "counts", "EXPTIME": 1.0} | columns
    (folder := tmp_path / "mmu_desi_own").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), path := folder / "own.parquet")
    (spectrum,) = read_rows(path)
    assert (spectrum.survey, spectrum.flux_unit) == (None, "counts")


def test_a_column_survey_of_the_universe_itself_is_no_obstacle(written, tmp_path):
    (path := tmp_path / "001-of-001.hdf5").write_bytes(written["apogee", "v1"][0].read_bytes())
    count = count_rows(path)
    with h5py.File(path, "r+") as file:
        file["survey"] = np.array([b"manga-apogee2", b"apogee"] * count)[:count]
    assert {spectrum.survey for spectrum in read_rows(path)} == {"apogee"}
    table = pq.read_table(written["desi", "hats"][0])
    pq.write_table(table.append_column("SURVEY", [["main"] * len(table)]), path := tmp_path / "desi.parquet")
    assert {spectrum.survey for spectrum in read_rows(path)} == {"desi"}
    pq.write_table(table.append_column("survey", [["weave"] * len(table)]), path)
    assert {spectrum.survey for spectrum in read_rows(path)} == {"weave"}
    assert {spectrum.survey for spectrum in read_rows(path, survey="DESI")} == {"desi"}


def write_own(path, columns=(), axis=None):
    axis = 4713.4 + 0.046 * np.arange(100) if axis is None else axis
    with h5py.File(path, "w") as file:
        file["flux"], file["ivar"] = np.full((3, len(axis)), 400.0), np.full((3, len(axis)), 0.01)
        file["wavelength"] = np.tile(axis, (3, 1))
        for name, values in dict(columns).items():
            file[name] = values
    return path


def test_hdf5_files_of_others_are_read_as_they_are(tmp_path):
    path = write_own(tmp_path / "own.h5", {"survey": [b"hermes"] * 3, "medium": [b"air"] * 3, "zwarn": [0, 0, 4]})
    for spectra, survey in ((list(read_rows(path)), "hermes"), (read_spectra(path, survey="galah"), "galah")):
        assert [spectrum.survey for spectrum in spectra] == [survey] * 3
        assert spectra[0].wavelength[0] == 4713.4 and spectra[0].medium == "air"
        assert [spectrum.labels["zwarn"] for spectrum in spectra] == [0, 0, 4]
    assert next(read_rows(path, survey="galah", generation="v1")).wavelength[0] == pytest.approx(4713.4 - 0.092)


@pytest.mark.parametrize("name", ["mask", "object_id", "zwarn"])
def test_columns_of_another_length_are_named(name, tmp_path):
    values = np.zeros((2, 100), bool) if name == "mask" else [1, 2]
    path = write_own(tmp_path / "own.h5", {name: values})
    for read in (count_rows, read_rows, read_spectra):
        with pytest.raises(
            ValueError, match=rf"own.h5 must have as many rows .* as in flux, 3, found {name} of shape"
        ):
            read(path)


def test_pixels_that_need_a_correction_are_told_from_any_row_and_arm(written, tmp_path):
    """A cut-down file, whose first star lacks the pixels of the first detector, or all of them."""
    for survey, hidden in (("galah", slice(0, 4096)), ("galah", slice(0, 2 * 4096 + 100)), ("vipers", slice(None))):
        rows = pq.read_table(written[survey, "preview"][0], columns=["spectrum", "object_id"]).to_pylist()
        names = ("flux", "ivar", "lambda")
        first = rows[0]["spectrum"]
        pixels = {name: np.delete(first[name], np.r_[hidden] if hidden.stop else np.arange(557)) for name in names}
        cut = [None if survey == "vipers" else {name: values.tolist() for name, values in pixels.items()}]
        cut += [{name: rows[1]["spectrum"][name] for name in names}]
        pq.write_table(pa.table({"spectrum": cut, "object_id": ["1", "2"]}), path := tmp_path / f"{survey}.parquet")
        for read in (read_rows, read_spectra):
            with pytest.raises(ValueError, match=rf'has the wavelengths of {survey}.*survey="{survey}".*corrects'):
                read(path)


def test_a_row_that_cannot_be_corrected_is_skipped_and_named(tmp_path):
    (path,) = write_universe(simulate_vipers(3), tmp_path, generation="hats")
    rows = pq.read_table(path).to_pylist()
    rows[1]["spectrum"]["ivar"] = (np.array(rows[1]["spectrum"]["ivar"]) ** 2 * 1e34).tolist()
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.warns(UserWarning) as caught:
        assert len(read_spectra(path, on_error="warn")) == 2
    assert "skipped row 1: ivar of VIPERS must be about 1e-17" in str(caught[0].message)
    with pytest.raises(ValueError, match=rf"{path.name}: row 1: ivar of VIPERS"):
        read_spectra(path)


def test_keywords_that_are_none_are_refused(written):
    for keyword in ("generaton", "survy"):
        with pytest.raises(TypeError, match=rf"read_rows got unknown keywords \['{keyword}'\]; known: .*survey"):
            read_rows(written["desi", "hats"][0], **{keyword: "hats"})


def test_rows_of_one_row_group_are_not_all_in_memory(tmp_path):
    count, length = 4000, 1000
    values = np.random.default_rng(0).normal(5, 1, count * length).astype(np.float32)
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
    axis = np.tile(np.float32(4000 + np.arange(length)), count)
    columns = {"flux": values, "ivar": values**2, "wavelength": axis}
    lists = {name: pa.ListArray.from_arrays(offsets, pa.array(pixels)) for name, pixels in columns.items()}
    pq.write_table(pa.table(lists), path := tmp_path / "large.parquet", row_group_size=count)
    for rows in (read_rows(path), read_table_file(path)):
        before, most = pa.total_allocated_bytes(), 0
        for number, _ in enumerate(rows):
            if number % 20 == 0:
                most = max(most, pa.total_allocated_bytes() - before)
        assert number == count - 1 and most < path.stat().st_size / 3


@pytest.mark.parametrize(
    ("folder", "survey"),
    [
        ("mmu_sdss_boss", "boss"),
        ("mmu_sdss_eboss", "boss"),
        ("mmu_sdss_sdss", "sdss"),
        ("MultimodalUniverse/boss/data", "boss"),
        ("datasets--MultimodalUniverse--boss/snapshots/1", "boss"),
        ("mmu-boss-preview", "sdss"),
        ("mmu_boss/sdss_preview", "sdss"),
        ("mmu_sdss_not_boss", "sdss"),
        ("mmu_my_boss", "sdss"),
        ("MultimodalUniverse/mine/boss", "sdss"),
        ("elsewhere/boss", "sdss"),
    ],
)
def test_folders_name_a_survey_in_the_way_of_the_universe_only(folder, survey, written, tmp_path):
    (place := tmp_path / folder).mkdir(parents=True)
    (path := place / "train.parquet").write_bytes(written["sdss", "preview"][0].read_bytes())
    assert {spectrum.survey for spectrum in read_rows(path)} == {survey}


@pytest.mark.parametrize(
    ("folder", "inverted"),
    [("datasets--MultimodalUniverse--desi/snapshots/1", True), ("mmu_desi_edr_sv3/dataset/Norder=4/Dir=0", False)],
)
def test_folders_say_the_generation(folder, inverted, written, tmp_path):
    (place := tmp_path / folder).mkdir(parents=True)
    path = rewrite(written["desi", "hats"][0], place / "part.parquet", ["spectrum", "ZWARN", "ZERR"])
    expected = [bool(flag) != inverted for flag in pq.read_table(path).column("ZWARN").to_pylist()]
    assert [spectrum.labels["zwarn"] for spectrum in read_rows(path)] == expected


def rewrite(path, target, keep=None, drop=()):
    table = pq.read_table(path)
    names = [name for name in (keep or table.column_names) if name not in drop]
    pq.write_table(table.select(names), target)
    return target


def test_the_polarity_of_zwarn_is_never_guessed(written, tmp_path):
    hats = written["desi", "hats"][0]
    for number, drop in enumerate(({"_healpix_29"}, {"_healpix_29", "ra", "dec", "healpix", "EBV"})):
        path = rewrite(hats, tmp_path / f"cut{number}.parquet", drop=drop)
        for read in (lambda path=path: read_rows(path), lambda path=path: read_spectra(path)):
            with pytest.raises(ValueError, match=r'cut\d.parquet does not say .*generation="preview".* or "hats"'):
                read()
        expected = [spectrum.labels["zwarn"] for spectrum in read_rows(hats)]
        found = [[s.labels["zwarn"] for s in read_rows(path, generation=name)] for name in ("hats", "preview")]
        assert found == [expected, [1 - zwarn for zwarn in expected]]
    assert next(read_rows(rewrite(hats, tmp_path / "none.parquet", ["spectrum"]), survey="desi")).survey == "desi"


def test_the_survey_is_told_from_columns_or_the_catalogue(written, tmp_path):
    only = ["spectrum", "object_id"]
    folder = tmp_path / "mmu_vipers_w1" / "dataset" / "Norder=4"
    folder.mkdir(parents=True)
    path = rewrite(written["vipers", "hats"][0], folder / "Npix=1.parquet", only)
    assert {spectrum.survey for spectrum in read_rows(path)} == {"vipers"}
    for survey in ("vipers", "galah"):  # whose pixels would be wrong
        path = rewrite(written[survey, "preview"][0], tmp_path / f"{survey}.parquet", only)
        if survey == "vipers":
            with pytest.raises(ValueError, match=r'has the wavelengths of vipers.*pass read_rows.*survey="vipers"'):
                read_rows(path)
            assert next(read_rows(path, survey=survey)).survey == survey
        else:
            with pytest.raises(ValueError, match="does not say of which generation"):
                read_rows(path)
            assert next(read_rows(path, generation="preview")).survey == survey


def test_other_parquet_files_are_read_as_they_are(tmp_path):
    rows = [{"flux": [1.0, 2.0, 3.0], "ivar": [1.0, 1.0, 0.0], "wavelength": [5000.0, 5001.0, 5002.0],
             "object_id": f"{number}", "redshift": 0.1, "zwarn": 4} for number in range(130)]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path := tmp_path / "plain.parquet", row_group_size=50)
    assert count_rows(path) == 130
    assert [spectrum.object_id for spectrum in read_rows(path, 45, 119)] == [str(number) for number in range(45, 119)]
    assert [spectrum.object_id for spectrum in read_rows(path, 128, 500)] == ["128", "129"]
    assert list(read_rows(path, 130)) == list(read_rows(path, 7, 7)) == []
    (spectrum,) = read_rows(path, 0, 1)
    assert (spectrum.survey, spectrum.labels) == (None, {"redshift": 0.1, "zwarn": 4})
    assert next(read_rows(path, survey="galah")).medium == "air"
    assert next(read_rows(path, survey="mine")).survey == "mine"
    pq.write_table(
        pa.table({"flux": [1.0], "wavelength": [5000.0], "ivar": [1.0]}), path := tmp_path / "pixels.parquet"
    )
    with pytest.raises(ValueError, match="must have a spectrum per row, found a pixel"):
        list(read_rows(path))


def test_a_preview_of_desi_with_numbers_for_booleans_is_not_guessed(written, tmp_path):
    """As pandas writes it: an object that has a missing value becomes a float."""
    table = pq.read_table(written["desi", "preview"][0])
    flags = pa.array([float(flag) for flag in table.column("ZWARN").to_pylist()])
    place = table.column_names.index("ZWARN")
    pq.write_table(table.set_column(place, "ZWARN", flags), path := tmp_path / "desi.parquet")
    with pytest.raises(
        ValueError, match=r"desi.parquet does not say of which generation .*known errors are then corr"
    ):
        read_rows(path)
    with pytest.raises(ValueError, match=r"row 0: ZWARN of DESI must be a boolean in a preview"):
        list(read_rows(path, generation="preview"))


@pytest.mark.parametrize("suffix", ["hdf5", "parquet"])
def test_rows_are_those_from_start_to_stop(suffix, tmp_path):
    spectra = simulate_vipers(150)
    for number, spectrum in enumerate(spectra):
        spectrum.object_id = str(1000 + number)
    (path,) = write_universe(spectra, tmp_path, generation="v1" if suffix == "hdf5" else "preview")
    for start, stop in ((0, None), (0, 64), (63, 65), (64, 129), (149, 150), (150, None), (10, 10)):
        found = [spectrum.object_id for spectrum in read_rows(path, start, stop)]
        assert found == [spectrum.object_id for spectrum in spectra[start:stop]]
    with pytest.raises(ValueError, match="0 <= start <= stop, found 5 and 3"):
        read_rows(path, 5, 3)
    with pytest.raises(ValueError, match="found -1 and None"):
        read_rows(path, -1)


def test_rows_are_read_in_slabs_and_only_as_they_are_asked_for(tmp_path, monkeypatch):
    (path,) = write_universe(simulate_vipers(150), tmp_path, generation="v1")
    read, rows = h5py.Dataset.__getitem__, []

    def recorded(dataset, selection, **options):
        rows.append((selection.start, selection.stop))
        return read(dataset, selection, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", recorded)
    spectra = read_rows(path, 10, 145)
    assert not rows
    next(spectra)
    assert set(rows) == {(10, 74)}
    assert len(list(spectra)) == 134 and set(rows) == {(10, 74), (74, 138), (138, 145)}
    assert count_rows(path) == 150 and len(set(rows)) == 3


@pytest.mark.parametrize("generation", ["v1", "hats"])
def test_a_bad_row_is_named_or_reported(generation, tmp_path):
    spectra = simulate("desi", 3)
    for spectrum in spectra:
        spectrum.labels["ra"] = 10.0
    (path,) = write_universe(spectra, tmp_path, generation=generation)
    if generation == "v1":
        with h5py.File(path, "r+") as file:
            file["spectrum_lambda"][1] = -1
    else:
        rows = pq.read_table(path).to_pylist()
        rows[1]["spectrum"]["lambda"] = [-1.0] * 7781
        pq.write_table(pa.Table.from_pylist(rows), path)
    reports = []
    found = list(read_rows(path, on_error=lambda row, error: reports.append((row, str(error)))))
    assert [s.object_id for s in found] == [spectra[0].object_id, spectra[2].object_id]
    assert len(reports) == 1 and reports[0][0] == 1 and "at least one pixel" in reports[0][1]
    with pytest.raises(ValueError, match=rf"{path.name}, row 1: a spectrum needs at least one pixel"):
        list(read_rows(path))
    with pytest.warns(UserWarning) as caught:
        assert len(read_spectra(path, on_error="warn")) == 2
    assert "skipped row 1" in str(caught[0].message)


def test_files_that_are_none_are_named(tmp_path, written):
    missing = tmp_path / "missing.hdf5"
    for read in (count_rows, read_rows, read_spectra):
        with pytest.raises(FileNotFoundError, match=r"no such file: .*missing.hdf5"):
            read(missing)
    for name in ("broken.hdf5", "broken.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 nothing of the kind")
        with pytest.raises(ValueError, match=rf"{name} cannot be read as (HDF5|a table) .*download it again"):
            count_rows(tmp_path / name)
    (tmp_path / "cut.hdf5").write_bytes(written["desi", "v1"][0].read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut.hdf5 cannot be read as HDF5"):
        list(read_rows(tmp_path / "cut.hdf5"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"other.h5 must hold spectrum_flux .*found images: .*pass arrays"):
        count_rows(tmp_path / "other.h5")
    with pytest.raises(ValueError, match="must be HDF5 or Parquet"):
        count_rows(__file__)


def test_an_hdf5_file_of_another_survey_needs_its_name(tmp_path):
    with h5py.File(path := tmp_path / "mine.hdf5", "w") as file:
        file["spectrum_flux"], file["spectrum_ivar"] = np.ones((2, 5)), np.ones((2, 5))
        file["spectrum_lambda"] = np.tile(5000 + np.arange(5.0), (2, 1))
        file["teff"] = np.array([5000.0, 6000.0], dtype=">f4")
    with pytest.raises(ValueError, match=r"mine.hdf5 does not say of which survey .*pass survey=sdss, .*own"):
        read_rows(path)
    assert [spectrum.labels for spectrum in read_rows(path, survey="mine")] == [{"teff": 5000.0}, {"teff": 6000.0}]
    assert [spectrum.survey for spectrum in read_spectra(path, survey="mine")] == ["mine"] * 2


def test_generations_go_with_their_files(written):
    for layout, generation in ((("sdss", "v1"), "hats"), (("sdss", "hats"), "v1")):
        with pytest.raises(ValueError, match='must be HDF5 for generation="v1" and Parquet for the others'):
            read_rows(written[layout][0], generation=generation)
    with pytest.raises(ValueError, match="generation must be one of v1, preview, hats, found 'v3'"):
        correct_row({}, "sdss", "v3")
    with pytest.raises(ValueError, match=r"survey must be one of sdss, boss, .*vipers, found 'gaia'"):
        correct_row({}, "gaia", "v1")


def test_no_row_of_a_catalogue_is_found_twice(written, tmp_path):
    files = written["vipers", "hats"]
    root = files[0].parents[4]
    catalogue = tmp_path / "collection" / "mmu_vipers_w1"
    for path in root.rglob("*"):
        if path.is_file():
            target = catalogue.parent / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    whole = files[0].read_bytes()
    margins = {
        "mmu_vipers_w1_10arcs": "",
        "neighbours": "dataproduct_type=margin\n",
        "by_id": "dataproduct_type = index\n",
    }
    for name, properties in margins.items():
        folder = catalogue.parent / name / "dataset" / "Norder=4" / "Dir=0"
        folder.mkdir(parents=True)
        (folder / "Npix=1.parquet").write_bytes(whole)
        if properties:
            (catalogue.parent / name / "hats.properties").write_text(f"obs_collection={name}\n{properties}")
    for name in ("data_thumbnail.parquet", "_metadata", "_common_metadata", "_metadata.parquet", ".part.parquet"):
        (catalogue / "dataset" / name).write_bytes(whole)
    assert len(read_spectra(f"{catalogue}/**/*")) == len(read_spectra(f"{catalogue.parent}/**/*.parquet")) == 5
    with pytest.raises(FileNotFoundError, match=r"no file matches .*but \w+.parquet, whose rows stand in"):
        read_spectra(f"{catalogue}/dataset/*.parquet")
    found = find_files(catalogue.parent)
    assert [path.relative_to(catalogue.parent) for path in found] == [path.relative_to(root) for path in files]
    assert sum(map(count_rows, found)) == 5
    with pytest.raises(FileNotFoundError, match=r"no data file of the Multimodal Universe in or below .*by_id"):
        find_files(catalogue.parent / "by_id")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_files(tmp_path / "nowhere")


def test_only_catalogues_have_margins(written, tmp_path):
    for name in ("seeing_2arcsec", "wide_margin"):
        (folder := tmp_path / name).mkdir()
        (folder / "part.parquet").write_bytes(written["vipers", "preview"][0].read_bytes())
    assert [path.parent.name for path in find_files(tmp_path)] == ["seeing_2arcsec", "wide_margin"]


def test_links_to_folders_are_followed_once(written, tmp_path):
    data = written["vipers", "hats"][0].parents[4]
    (folder := tmp_path / "mine").mkdir()
    (folder / "catalogue").symlink_to(data)
    (folder / "again").symlink_to(folder)
    (folder / "twice").symlink_to(data)
    assert len(find_files(folder)) == len(written["vipers", "hats"])
    assert len(read_spectra(folder)) == 5


def test_reading_gives_no_warning(written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for files in written.values():
            for path in files:
                assert list(read_rows(path))
