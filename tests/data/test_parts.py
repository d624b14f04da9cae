"""Parts of sources: together every spectrum once and in order, each part the same whoever reads it."""

import json
import os
import pickle
from dataclasses import asdict

import numpy as np
import pytest

from spectok_hf import read_spectra, simulate_survey
from spectok_hf.data.multimodal_universe import write_universe
from spectok_hf.data.parts import Part, plan_parts
from spectok_hf.data.shards import SpectrumShards, write_shards
from spectok_hf.data.surveys import SURVEYS

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


def write_star(folder, star="140312004501116"):
    """The four files of a GALAH star, in the layout of DR3."""
    fits = pytest.importorskip("astropy.io.fits")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, arm in enumerate(SURVEYS["galah"].arms, start=1):
        primary = fits.PrimaryHDU(np.full(100, 100.0))
        primary.header.update({"CRVAL1": arm.start, "CDELT1": 40 * arm.step, "INSTRUME": "HERMES", "OBJECT": star})
        files.append(folder / f"{star}{number}.fits")
        fits.HDUList([primary, fits.ImageHDU(np.full(100, 0.1), name="input_sigma")]).writeto(files[-1])
    return files


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_source_counts_once_however_it_is_spelled(tmp_path, monkeypatch):
    (tmp_path / "lk").mkdir()
    table = write_csv(tmp_path / "lk" / "x.csv", ROWS[:1])
    (tmp_path / "link.csv").symlink_to(table)
    monkeypatch.chdir(tmp_path)
    spellings = ["lk/../lk/x.csv", "lk/x.csv", table, "link.csv", "simulate:sdss:1", "simulate:sdss:01:0"]
    parts = plan_parts(spellings)
    assert [part.sources for part in parts] == [("lk/../lk/x.csv",), ("simulate:sdss:1",)]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_galah_star_is_one_spectrum_wherever_its_files_stand(size, tmp_path):
    files = write_star(tmp_path / "stars")
    table = write_csv(tmp_path / "table.csv", ROWS[:1])
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / files[0].name).symlink_to(files[0])
    (tmp_path / "links" / "other.fits").symlink_to(files[1])
    mixtures = (
        [files[0], "simulate:sdss:1:3", files[1], table, *files[2:]],
        [tmp_path / "links", "simulate:sdss:1:3", tmp_path / "stars", table],
    )
    for sources in mixtures:
        spectra = read(plan_parts(sources, spectra_per_part=size))
        assert sorted(map(len, spectra)) == [3, 400, len(SIMULATED[0])]


def test_a_galah_star_with_a_damaged_camera_fails_once(tmp_path):
    files = write_star(tmp_path)
    files[2].write_bytes(files[2].read_bytes()[:3000])
    failures = []
    assert read(plan_parts(tmp_path), failures.append) == []
    assert [failure.source for failure in failures] == [str(files[0])] and files[2].name in failures[0].reason


def test_damaged_shards_are_failures_of_their_spectra(tmp_path):
    write_shards(SIMULATED, tmp_path, spectra_per_shard=2)
    damage(tmp_path / "shard-00001.arrow")
    with pytest.raises(ValueError, match=r"shard-00001.arrow must have the checksum of its manifest"):
        plan_parts(tmp_path)
    (tmp_path / "shard-00002.arrow").unlink()
    failures = []
    found = read(plan_parts(tmp_path, on_error="skip"), failures.append)
    assert [spectrum.object_id for spectrum in found] == [spectrum.object_id for spectrum in SIMULATED[:2]]
    assert [(failure.source, failure.row) for failure in failures] == [(str(tmp_path), row) for row in (2, 3, 4)]
    assert "checksum" in failures[0].reason and "delete the folder" not in failures[0].reason
    assert "is not there" in failures[2].reason


@pytest.mark.parametrize("error", [KeyError, AttributeError, IndexError, TypeError, UnboundLocalError])
def test_whatever_a_library_raises_is_a_failure_of_its_file(error, tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.fits").write_text(name)

    def read_new(source, *rest):
        if source.endswith("a.fits"):
            raise error("TFIELDS")
        return SIMULATED[:1]

    monkeypatch.setattr("spectok_hf.data.parts.read_new", read_new)
    monkeypatch.setattr("spectok_hf.data.parts.find_fits_table", lambda path: {}["TFIELDS"])
    failures = []
    (spectrum,) = read(parts := plan_parts(tmp_path), failures.append)
    assert spectrum is SIMULATED[0]
    (failure,) = failures
    assert failure.source == str(tmp_path / "a.fits") and failure.reason.startswith(f"{error.__name__}: ")
    with pytest.raises(ValueError, match=rf"a.fits, row 0: {error.__name__}: "):
        read(parts)


def test_a_damaged_header_is_a_failure_of_its_file(tmp_path, write_sdss_file):
    for number, spectrum in enumerate(simulate_survey("sdss", 2, seed=1)):
        spectrum.object_id = f"0266-51602-{number + 1:04d}"
        write_sdss_file(spectrum, tmp_path)
    path = tmp_path / "0266-51602-0001.fits"
    content = path.read_bytes()
    assert content.count(b"TFIELDS =                    4") == 1
    path.write_bytes(content.replace(b"TFIELDS =                    4", b"TFIELDS =                 ab'd"))
    failures = []
    assert [one.object_id for one in read(plan_parts(tmp_path), failures.append)] == ["0266-51602-0002"]
    assert [failure.source for failure in failures] == [str(path)]


def test_a_missing_library_is_no_damage(tmp_path, monkeypatch):
    def read_new(*arguments):
        raise ImportError('read_spectra needs astropy for FITS files: pip install "spectok-hf[astro]".')

    (tmp_path / "a.fits").write_text("a")
    monkeypatch.setattr("spectok_hf.data.parts.read_new", read_new)
    with pytest.raises(ImportError, match="needs astropy"):
        read(plan_parts(tmp_path), print)


def test_junk_in_a_folder_is_counted_or_named(tmp_path, write_sdss_file):
    (spectrum,) = simulate_survey("sdss", 1)
    spectrum.object_id = "0266-51602-0001"
    write_sdss_file(spectrum, tmp_path)
    junk = ["broken.hdf5", "broken.parquet", "empty.hdf5", "empty.parquet", "folder.fits", "link.fits"]
    for name in junk[:4]:
        (tmp_path / name).write_text("junk" if name.startswith("broken") else "")
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "link.fits").symlink_to(tmp_path / "nowhere.fits")
    (tmp_path / "._hidden.fits").write_text("of another file system")
    for source in (tmp_path, tmp_path / "*"):
        failures = []
        assert [one.object_id for one in read(plan_parts(source, on_error="skip"), failures.append)] == [
            spectrum.object_id
        ]
        assert sorted(os.path.basename(failure.source) for failure in failures) == junk
    with pytest.raises(ValueError, match=r"broken.hdf5 cannot be read as HDF5"):
        plan_parts(tmp_path)
    for name in junk[4:]:
        with pytest.raises(ValueError, match=name):
            read(plan_parts(f"{tmp_path}/{name[:4]}*.fits"))


def test_a_folder_with_the_name_of_a_file_is_looked_into(tmp_path):
    write_universe(simulate_survey("desi", 2, seed=2), tmp_path / "MultimodalUniverse" / "x.fits", generation="v1")
    assert {part.kind for part in plan_parts(tmp_path)} == {"rows"}


def test_what_spectok_wrote_is_no_source_but_by_its_name(tmp_path, write_sdss_file):
    (spectrum,) = simulate_survey("sdss", 1)
    spectrum.object_id = "0266-51602-0001"
    write_sdss_file(spectrum, tmp_path)
    for name, plan in (("embeddings", ".plan.json"), ("own", "notes.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / plan).write_text("{}")
        (tmp_path / name / "part-000000.parquet").write_text("")
    files = [tmp_path / "0266-51602-0001.fits", tmp_path / "own" / "part-000000.parquet"]
    for source in (tmp_path, tmp_path / "**/*.[fp]*"):
        parts = plan_parts(source, on_error="skip")
        assert [name for part in parts for name in part.sources] == list(map(str, files))
        parts = plan_parts(source, leave_out=tmp_path / "own")
        assert [name for part in parts for name in part.sources] == [str(files[0])]
    with pytest.raises(FileNotFoundError, match=r"what spectok wrote do not count"):
        plan_parts(tmp_path / "embeddings")
    write_shards(SIMULATED, tmp_path / "shards")
    (tmp_path / "shards" / ".plan.json").write_text("{}")
    assert len(read(plan_parts(tmp_path / "shards"))) == len(SIMULATED)


def test_parts_of_files_are_small_whatever_is_asked_for(tmp_path, monkeypatch):
    for number in range(600):
        (tmp_path / f"{number:03d}.fits").write_text("12345")
    assert [part.size for part in plan_parts(tmp_path)] == [256, 256, 88]
    monkeypatch.setattr("spectok_hf.data.parts.PART_BYTES", 1000)
    assert [part.size for part in plan_parts(tmp_path)] == [200, 200, 200]


@pytest.mark.parametrize("kind", ["parquet", "hdf5", "csv", "fits"])
def test_a_survey_is_said_of_rows_that_do_not_say_theirs(kind, tmp_path):
    count = 6
    columns = {"flux": [[1.0, 2.0]] * count, "wavelength": [[5000.0, 5001.0]] * count, "ivar": [[1.0, 1.0]] * count}
    columns["survey"] = ["lamost", "", "", "desi", "", "galah"]
    path = tmp_path / f"rows.{kind}"
    if kind == "hdf5":
        import h5py

        with h5py.File(path, "w") as file:
            for name, values in columns.items():
                file[name] = np.array(values, dtype="S6" if name == "survey" else None)
    elif kind == "fits":
        pytest.importorskip("astropy.table").Table(columns).write(path)
    else:
        import pandas

        frame = pandas.DataFrame(columns)
        frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    for size in (1, 4, 100):
        spectra = read(plan_parts(path, survey="sdss", spectra_per_part=size))
        assert [one.survey for one in spectra] == ["lamost", "sdss", "sdss", "desi", "sdss", "galah"]
        assert [one.medium for one in spectra] == [SURVEYS[one.survey].medium for one in spectra]


def test_a_survey_gives_the_bits_of_a_fits_table_but_not_of_its_own_files(tmp_path, write_sdss_file):
    columns = {"flux": np.ones(4), "wavelength": 5000 + np.arange(4.0), "ivar": np.ones(4), "mask": [0, 1 << 23, 4, 0]}
    pytest.importorskip("astropy.table").Table(columns).write(tmp_path / "table.fits")
    (spectrum,) = simulate_survey("sdss", 1)
    spectrum.object_id = "0266-51602-0001"
    own = write_sdss_file(spectrum, tmp_path)
    table, known = read(plan_parts([tmp_path / "table.fits", own], survey="boss"))
    assert table.survey == "boss" and table.good.tolist() == [True, False, True, True]
    assert (known.survey, known.object_id) == ("sdss", spectrum.object_id)
    with pytest.raises(ValueError, match=r"table.fits.*survey=None does not say which bits"):
        read(plan_parts(tmp_path / "table.fits"))


@pytest.mark.parametrize("name", ["a.fits", "a.csv", "a.parquet", "a.hdf5", "spec.fits"])
@pytest.mark.parametrize("survey", [None, "galah"])
def test_a_file_without_rows_is_told(name, survey, tmp_path):
    columns = {name: np.zeros(0) for name in ("flux", "wavelength", "ivar")}
    path = tmp_path / name
    if name == "spec.fits":
        columns = {"flux": np.zeros(0), "loglam": np.zeros(0), "ivar": np.zeros(0), "and_mask": np.zeros(0, int)}
    if name.endswith(".fits"):
        pytest.importorskip("astropy.table").Table(columns).write(path)
    elif name == "a.hdf5":
        import h5py

        with h5py.File(path, "w") as file:
            file.update({key: np.zeros((0, 5)) for key in columns})
    else:
        import pandas

        frame = pandas.DataFrame(columns)
        frame.to_csv(path, index=False) if name == "a.csv" else frame.to_parquet(path)
    parts = plan_parts([path, "simulate:sdss:1"], survey=survey)
    failures = []
    assert len(read(parts, failures.append)) == 1
    (failure,) = failures
    assert failure.source == str(path) and "holds no spectrum: its table has no rows" in failure.reason
    with pytest.raises(ValueError, match=f"{name}.* holds no spectrum"):
        read(parts)


def test_a_survey_is_obeyed_in_files_of_the_multimodal_universe(tmp_path):
    (file,) = write_universe(simulate_survey("desi", 1, seed=2), tmp_path, generation="v1")
    assert [one.survey for one in read(plan_parts(file, survey="mine"))] == ["mine"]


def test_shards_are_read_without_a_second_look(tmp_path):
    write_shards(SIMULATED, tmp_path, spectra_per_shard=2)
    (part,) = plan_parts(tmp_path)
    (tmp_path / "shard-00001.arrow").write_bytes(b"")
    failures = []
    assert len(list(part.spectra(failures.append))) == 3
    assert [failure.row for failure in failures] == [2, 3]
    assert len(SpectrumShards.unchecked(tmp_path)) == 5
