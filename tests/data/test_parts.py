"""Parts of sources: together every spectrum once and in order, each part the same whoever reads it."""

import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest

from spectok_hf import read_spectra, simulate_survey
from spectok_hf.data.multimodal_universe import write_universe
from spectok_hf.data.parts import Part, plan_parts
from spectok_hf.data.shards import write_shards

SIMULATED = simulate_survey("sdss", 5, seed=3)


def read(parts, on_error=None):
    return [spectrum for part in parts for spectrum in part.spectra(on_error)]


def identifiers(parts):
    return [spectrum.object_id for spectrum in read(parts)]


def write_csv(path, rows):
    lines = ["flux,wavelength,error,object_id"]
    lines += [f'"{list(flux)}","{list(wavelength)}","{[1.0] * len(flux)}",{name}' for flux, wavelength, name in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


ROWS = [([1.0, 2.0, 3.0], [5000.0, 5001.0, 5002.0], f"row-{number}") for number in range(3)]
BROKEN = ([1.0, 2.0, 3.0], [5000.0, 4000.0, 5002.0], "broken")


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_simulation_is_that_of_simulate_survey_however_it_is_cut(size):
    parts = plan_parts("simulate:sdss:5:3", spectra_per_part=size)
    assert [part.size for part in parts[:-1]] == [size] * (len(parts) - 1) and sum(part.size for part in parts) == 5
    for spectrum, expected in zip(read(parts), SIMULATED, strict=True):
        assert spectrum.object_id == expected.object_id
        np.testing.assert_array_equal(spectrum.flux, expected.flux)
    assert identifiers(plan_parts("simulate:sdss:2")) == ["sim-sdss-0-00000", "sim-sdss-0-00001"]


def test_a_part_travels_as_json_and_between_processes():
    part = plan_parts("simulate:sdss:5:3", spectra_per_part=2)[1]
    fields = json.loads(json.dumps(asdict(part)))
    assert Part(**fields | {"sources": tuple(fields["sources"])}) == part == pickle.loads(pickle.dumps(part))
    assert identifiers([part]) == ["sim-sdss-3-00002", "sim-sdss-3-00003"]


def test_a_mixture_of_sources_keeps_their_order(tmp_path):
    write_shards(SIMULATED, tmp_path / "shards", spectra_per_shard=2)
    table = write_csv(tmp_path / "table.csv", ROWS)
    sources = [tmp_path / "shards", "simulate:desi:1", table, tmp_path / "shards"]
    parts = plan_parts(sources, spectra_per_part=3)
    assert [part.kind for part in parts] == ["shards", "shards", "simulated", "files"]
    expected = [*(spectrum.object_id for spectrum in SIMULATED), "sim-desi-0-00000", "row-0", "row-1", "row-2"]
    assert identifiers(parts) == expected, "a source that is given twice counts once"


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path):
    table = write_csv(tmp_path / "a.csv", [ROWS[0], BROKEN, ROWS[1]])
    (tmp_path / "b.csv").write_text("")
    other = write_csv(tmp_path / "c.csv", [ROWS[2]])
    parts = plan_parts(str(tmp_path / "*.csv"))
    failures = []
    assert [spectrum.object_id for spectrum in read(parts, failures.append)] == ["row-0", "row-1", "row-2"]
    assert [(failure.source, failure.row) for failure in failures] == [(str(table), 1), (str(tmp_path / "b.csv"), 0)]
    assert "strictly increasing" in failures[0].reason and "cannot be read" in failures[1].reason
    with pytest.raises(ValueError, match=r"a.csv, row 1: wavelength must be strictly increasing"):
        read(parts)
    assert identifiers(plan_parts(other)) == ["row-2"]


def test_fits_files_are_read_once_and_damage_is_told(tmp_path, write_sdss_file):
    spectra = simulate_survey("sdss", 3, seed=1)
    for number, spectrum in enumerate(spectra):
        spectrum.object_id = f"0266-51602-{number + 1:04d}"
        write_sdss_file(spectrum, tmp_path)
    damaged = tmp_path / "0266-51602-0002.fits"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    (tmp_path / "catalogue.csv").write_text("a table that is no spectrum lies beside the files of many a survey")
    parts = plan_parts([tmp_path, tmp_path / "0266-51602-0003.fits"], spectra_per_part=2)
    assert [part.size for part in parts] == [2, 1]
    failures = []
    found = [spectrum.object_id for spectrum in read(parts, failures.append)]
    assert found == ["0266-51602-0001", "0266-51602-0003"]
    assert [failure.source for failure in failures] == [str(damaged)]
    with pytest.raises(ValueError, match=r"^\S*0002.fits is truncated or damaged"):
        read(parts)


def test_the_files_of_a_galah_star_are_one_spectrum(spectra_dir):
    pytest.importorskip("astropy")
    files = sorted(path for path in (spectra_dir / "galah").rglob("*.fits"))
    expected = [spectrum.object_id for spectrum in read_spectra(spectra_dir / "galah", on_error="warn")]
    for size in (1, 3, 100):
        parts = plan_parts(files, spectra_per_part=size)
        assert [spectrum.object_id for spectrum in read(parts, print)] == expected


def test_rows_of_parquet_files_are_cut_and_failures_keep_their_rows(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [ROWS[0], BROKEN, ROWS[1], BROKEN, BROKEN, ROWS[2], BROKEN]
    table = {"flux": [row[0] for row in rows], "wavelength": [row[1] for row in rows]}
    table |= {"error": [[1.0, 1.0, 1.0]] * len(rows), "object_id": [row[2] for row in rows]}
    parquet.write_table(pa.table(table), tmp_path / "rows.parquet", row_group_size=2)
    for size in (1, 2, 3, 100):
        parts = plan_parts(tmp_path, spectra_per_part=size)
        assert sum(part.size for part in parts) == len(rows)
        entries = [entry for part in parts for entry in part.entries()]
        assert [entry.row for entry in entries] == list(range(len(rows)))
        assert [entry.spectrum.object_id for entry in entries if entry.spectrum] == ["row-0", "row-1", "row-2"]
        assert [entry.row for entry in entries if entry.reason] == [1, 3, 4, 6]


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        ([], ValueError, "at least one source is needed, found none: pass a file, folder"),
        ("simulate:moon:3", ValueError, "spelled simulate:SURVEY:COUNT .* found 'simulate:moon:3'"),
        ("simulate:sdss:-3", ValueError, "spelled simulate:SURVEY:COUNT"),
        ("no-such-file.fits", FileNotFoundError, "no such file or folder: no-such-file.fits"),
        ("no-such-*.fits", FileNotFoundError, "no file matches no-such-"),
    ],
)
def test_sources_that_are_none_are_refused(sources, error, message):
    with pytest.raises(error, match=message):
        plan_parts(sources)


def test_an_empty_folder_and_empty_parts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no FITS, HDF5 or Parquet file in or below the folder"):
        plan_parts(tmp_path)
    with pytest.raises(ValueError, match="spectra_per_part must be at least 1, found 0"):
        plan_parts("simulate:sdss:1", spectra_per_part=0)


@pytest.mark.parametrize("generation", ["v1", "preview"])
def test_files_of_the_multimodal_universe_are_cut_into_runs_of_rows(generation, tmp_path):
    spectra = simulate_survey("desi", 5, seed=2)
    write_universe(spectra, tmp_path / "MultimodalUniverse", generation=generation)
    parts = plan_parts(tmp_path, spectra_per_part=2)
    assert {part.kind for part in parts} == {"rows"} and [part.size for part in parts].count(1) >= 1
    found = sorted(read(parts), key=lambda spectrum: spectrum.object_id)
    for spectrum, expected in zip(found, spectra, strict=True):
        assert (spectrum.survey, spectrum.object_id) == ("desi", expected.object_id)
        np.testing.assert_array_equal(spectrum.flux[spectrum.good], expected.flux[spectrum.good])


def test_of_a_file_that_is_damaged_further_on_every_row_is_told(tmp_path, monkeypatch):
    (file,) = write_universe(simulate_survey("desi", 5, seed=2), tmp_path, generation="v1")
    (part,) = plan_parts(file)
    whole = read([part])

    def break_off(*arguments, **options):
        yield from whole[:2]
        raise ValueError("cannot be read as HDF5")

    monkeypatch.setattr("spectok_hf.data.parts.read_rows", break_off)
    entries = list(part.entries())
    assert [entry.row for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.reason for entry in entries] == ["", "", *["cannot be read as HDF5"] * 3]


def test_a_file_whose_correction_cannot_be_told_is_refused_at_once(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"spectrum_flux": [[1.0, 2.0]], "spectrum_lambda": [[5000.0, 5001.0]], "spectrum_ivar": [[1.0, 1.0]]}
    parquet.write_table(pa.table(columns | {"ZWARN": [True]}), tmp_path / "desi.parquet")
    with pytest.raises(ValueError, match=r"desi.parquet does not say of which generation it is"):
        plan_parts(tmp_path)
    for generation, zwarn in (("preview", 0), ("hats", 1)):
        (spectrum,) = read(plan_parts(tmp_path, generation=generation))
        assert spectrum.labels["zwarn"] == zwarn
