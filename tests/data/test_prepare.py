"""`prepare_shards`: what it writes, what it leaves out, and that it goes on where it stopped."""

import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from decimal import Decimal

import numpy as np
import pytest

from spectok_hf import OmniSpectraProcessor, SpecformerProcessor, Spectrum, SpectrumProcessor
from spectok_hf.data.prepare import OUTPUT, prepare_shards
from spectok_hf.data.shards import SpectrumShards, write_shards

SOURCES = ["simulate:sdss:5:3", "simulate:galah:2"]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def make_spectrum(name, good=100, **fields):
    ivar = np.where(np.arange(100) < good, 1.0, 0.0)
    return Spectrum(np.ones(100), 5000 + np.arange(100.0), ivar, object_id=name, survey="made", **fields)


@pytest.fixture
def some(tmp_path):
    """Shards with spectra that are of use, and others."""
    spectra = [make_spectrum("a"), make_spectrum("bad", 0), make_spectrum("few", 10), make_spectrum("b")]
    write_shards(spectra, tmp_path / "some")
    return tmp_path / "some"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "whole"
    prepare_shards(SOURCES, folder, spectra_per_shard=2, num_workers=1)
    return folder


def test_a_patch_of_any_family_may_be_the_valid_one(tmp_path):
    # Pixels 10 to 29: half of the first and of the second patch of 20 side by side, and one that overlaps both.
    ivar = np.where((np.arange(100) >= 10) & (np.arange(100) < 30), 1.0, 0.0)
    spectrum = Spectrum(np.ones(100), 5000 + np.arange(100.0), ivar, object_id="a", survey="made")
    write_shards([spectrum, make_spectrum("b")], tmp_path / "some")
    for processor, kept in ((SpectrumProcessor(patch_size=20), 1), (OmniSpectraProcessor(), 2)):
        for workers in (1, 2):
            out = tmp_path / f"{kept}-{workers}"
            found = prepare_shards(tmp_path / "some", out, processor=processor, num_workers=workers).manifest
            assert found["spectra"] == kept and found["validity"].get("patch_overlap", 0) == processor.patch_overlap


def test_what_a_specformer_does_not_read_is_a_failure_of_its_spectrum(tmp_path):
    on_grid, short = make_spectrum("a"), make_spectrum("bad", 0)
    longer = Spectrum(np.ones(120), 5000 + np.arange(120.0), np.ones(120), object_id="b", survey="made")
    other_unit = make_spectrum("c", flux_unit="mJy")
    write_shards([longer, on_grid, other_unit, short], tmp_path / "some")
    source, grid = str(tmp_path / "some"), {"grid_start": 5000.0, "grid_step": 1.0, "grid_size": 100}
    options = {"processor": SpecformerProcessor(**grid), "num_workers": 1}
    outcome = prepare_shards(source, tmp_path / "out", **options)
    assert [one.object_id for one in SpectrumShards(tmp_path / "out")] == ["a"]
    failures = outcome.manifest["failures"]
    assert failures["count"] == failures["sources"][source]["count"] == 2
    first = "row 0: Specformer reads spectra on one grid, 100 pixels from 5000 to 5099"
    assert failures["sources"][source]["first"].startswith(first)
    assert outcome.manifest["dropped"]["all pixels are bad"]["spectra"] == 1, "a bad spectrum is not one off the grid"
    with pytest.raises(ValueError, match=r"some, row 0: Specformer reads spectra on one grid"):
        prepare_shards(source, tmp_path / "strict", **options, on_error="raise")
    write_shards([longer], tmp_path / "others")
    with pytest.raises(
        ValueError, match=r"no spectrum is left of 1 parts: 1 cannot be read \(.*row 0: Specformer reads"
    ):
        prepare_shards(tmp_path / "others", tmp_path / "none", **options)
    # One that resamples reads it, and is another setting.
    options["processor"] = SpecformerProcessor(**grid, resample=True)
    with pytest.raises(ValueError, match="resample was False, and is True"):
        prepare_shards(source, tmp_path / "out", **options)
    prepare_shards(source, tmp_path / "out", **options, overwrite=True)
    kept = {one.object_id: len(one.flux) for one in SpectrumShards(tmp_path / "out")}
    assert kept == {"a": 100, "b": 120}, "shards hold spectra as they came"


def test_the_manifest_says_what_is_there_and_what_is_not(some, tmp_path):
    outcome = prepare_shards(some, tmp_path / "out", num_workers=1)
    manifest = outcome.manifest
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["spectra"], manifest["pixels"], manifest["surveys"]) == (2, 200, {"made": 2})
    assert manifest["wavelength"] == {"made": [5000.0, 5099.0]}
    assert manifest["dropped"] == {
        "all pixels are bad": {"spectra": 1, "first": [f"{some}, row 1: made bad"]},
        "no patch has enough good pixels": {"spectra": 1, "first": [f"{some}, row 2: made few"]},
    }
    assert manifest["validity"] == {
        "patch_size": 32,
        "medium": "vacuum",
        "gap_factor": 5.0,
        "max_normalized_flux": 1000.0,
    }
    assert [spectrum.object_id for spectrum in SpectrumShards(tmp_path / "out", verify=True)] == ["a", "b"]
    summary = "2 spectra; 1 not: all pixels are bad; 1 not: no patch has enough good pixels; 4 in "
    assert str(outcome).startswith(summary) and str(outcome).endswith(" spectra/s")


def test_validity_is_told_by_the_processor(some, tmp_path):
    outcome = prepare_shards(some, tmp_path / "out", processor=SpectrumProcessor(patch_size=8), num_workers=1)
    assert outcome.manifest["spectra"] == 3 and list(outcome.manifest["dropped"]) == ["all pixels are bad"]


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_nothing(start_method, prepared, tmp_path):
    outcome = prepare_shards(SOURCES, tmp_path / "out", spectra_per_shard=2, num_workers=2, start_method=start_method)
    assert contents(tmp_path / "out") == contents(prepared)
    assert outcome.spectra == 7
    names = [*(f"sim-sdss-3-0000{number}" for number in range(5)), "sim-galah-0-00000", "sim-galah-0-00001"]
    assert SpectrumShards(tmp_path / "out").column("object_id").tolist() == names


def test_a_finished_folder_is_left_alone(prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.name != ".lock"}
    outcome = prepare_shards(SOURCES, prepared, spectra_per_shard=2, num_workers=1)
    assert str(outcome) == "7 spectra; finished before, nothing was left to do"
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.name != ".lock"} == before


def interrupt(folder, how):
    if how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "no record":
        (folder / "manifest.json").unlink()
        (folder / ".records/part-000001.json").unlink()
    elif how == "half a file":
        (folder / "manifest.json").unlink()
        (folder / ".records/part-000002.json").unlink()
        (folder / "shard-000002-000.arrow").unlink()
        (folder / ".shard-000002-000.arrow.4242.tmp").write_text("half")
        (folder / ".records/.part-000002.json.4242.tmp").write_text("{")
    elif how == "absent shard":
        (folder / "shard-000000-000.arrow").unlink()
    elif how == "damaged record":
        (folder / ".records/part-000001.json").write_text("{")
    elif how == "stray shard":
        (folder / "shard-000009-000.arrow").write_text("of a part that is none")
    elif how == "no plan yet":
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "..plan.json.4242.tmp").write_text("{")


@pytest.mark.parametrize(
    "how",
    ["no manifest", "no record", "half a file", "absent shard", "damaged record", "stray shard", "no plan yet"],
)
def test_it_goes_on_where_it_stopped(how, prepared, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(prepared, folder)
    interrupt(folder, how)
    (folder / "notes.txt").write_text("not of ours")
    (folder / ".notes.1.tmp").write_text("nor is this")
    prepare_shards(SOURCES, folder, spectra_per_shard=2, num_workers=1)
    found = contents(folder)
    assert (found.pop("notes.txt"), found.pop(".notes.1.tmp")) == (b"not of ours", b"nor is this")
    assert found == contents(prepared)


def test_damage_within_a_shard_is_found_and_mended(prepared, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(prepared, folder)
    path = folder / "shard-000001-000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-000001-000.arrow must have the checksum .* again with --verify"):
        SpectrumShards(folder, verify=True)
    assert prepare_shards(SOURCES, folder, spectra_per_shard=2, num_workers=1).spectra == 0
    assert prepare_shards(SOURCES, folder, spectra_per_shard=2, num_workers=1, verify=True).spectra == 2
    assert contents(folder) == contents(prepared)


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (SOURCES, {"spectra_per_shard": 3}, "spectra_per_shard was 2, and is 3"),
        (SOURCES, {"survey": "desi"}, "survey was None, and is 'desi'"),
        (SOURCES, {"processor": SpectrumProcessor(patch_size=16)}, "patch_size was 32, and is 16"),
        (["simulate:sdss:5:3"], {}, r"1 sources are gone \(simulate:galah:2\)"),
        ([*SOURCES, "simulate:desi:1"], {}, r"1 sources are new \(simulate:desi:1\)"),
        (SOURCES[::-1], {}, "the order of sources"),
    ],
)
def test_another_plan_is_refused_and_what_differs_is_said(sources, options, message, prepared):
    before = contents(prepared)
    with pytest.raises(ValueError, match=f"was begun with other settings or sources, {message}.*--overwrite"):
        prepare_shards(sources, prepared, **{"spectra_per_shard": 2, "num_workers": 1} | options)
    assert contents(prepared) == before


def test_a_source_that_changed_is_refused_and_overwrite_begins_anew(some, tmp_path):
    prepare_shards(some, tmp_path / "out", num_workers=1)
    (tmp_path / "out" / "notes.txt").write_text("not of ours")
    shutil.rmtree(some)
    write_shards([make_spectrum("c")], some)
    with pytest.raises(ValueError, match=r"1 sources have changed \(.*manifest.json\)"):
        prepare_shards(some, tmp_path / "out", num_workers=1)
    outcome = prepare_shards(some, tmp_path / "out", num_workers=1, overwrite=True)
    assert outcome.manifest["spectra"] == 1 and (tmp_path / "out" / "notes.txt").exists()
    assert [spectrum.object_id for spectrum in SpectrumShards(tmp_path / "out")] == ["c"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_others_is_refused(overwrite, some):
    before = contents(some)
    with pytest.raises(ValueError, match=r"holds manifest.json, and no .plan.json that says how it was made"):
        prepare_shards("simulate:sdss:1", some, num_workers=1, overwrite=overwrite)
    assert contents(some).keys() - {".lock"} == before.keys()


def test_what_cannot_be_read_is_counted_or_stops(tmp_path):
    table = tmp_path / "table.csv"
    rows = [f'"[1.0, 2.0, 3.0]","[5000.0, {second}, 5002.0]","[1.0, 1.0, 1.0]"' for second in (5001.0, 4000.0)]
    table.write_text("\n".join(["flux,wavelength,error", *rows]) + "\n")
    processor = SpectrumProcessor(patch_size=2)
    manifest = prepare_shards(table, tmp_path / "out", processor=processor, num_workers=1).manifest
    assert manifest["spectra"] == 1 and manifest["failures"]["count"] == 1
    entry = manifest["failures"]["sources"][str(table)]
    assert entry["count"] == 1 and entry["first"].startswith("row 1: wavelength must be strictly increasing")
    with pytest.raises(ValueError, match=r"table.csv, row 1: wavelength must be strictly increasing"):
        prepare_shards(table, tmp_path / "strict", processor=processor, num_workers=1, on_error="raise")
    assert not list((tmp_path / "strict").glob("*.arrow")) and not (tmp_path / "strict/manifest.json").exists()


def test_no_spectrum_at_all_is_refused(tmp_path):
    write_shards([make_spectrum("bad", 0)], tmp_path / "bad")
    with pytest.raises(ValueError, match=r"no spectrum is left of 1 parts: .*all pixels are bad"):
        prepare_shards(tmp_path / "bad", tmp_path / "out", num_workers=1)


def test_files_with_many_spectra_become_several_shards(tmp_path):
    table = tmp_path / "table.csv"
    row = '"[1.0, 2.0]","[5000.0, 5001.0]","[1.0, 1.0]"'
    table.write_text("\n".join(["flux,wavelength,error", *[row] * 5]) + "\n")
    prepare_shards(table, tmp_path / "out", processor=SpectrumProcessor(2), spectra_per_shard=2, num_workers=1)
    assert [path.name for path in sorted(tmp_path.glob("out/*.arrow"))] == [
        f"shard-000000-00{number}.arrow" for number in range(3)
    ]
    assert len(SpectrumShards(tmp_path / "out")) == 5


def hold_lock(folder, held, release):
    import fcntl

    with open(os.path.join(folder, ".lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        held.set()
        release.wait(60)


def test_two_runs_do_not_write_into_one_folder(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr("spectok_hf.data.whole_files.LOCK_PATIENCE", 0.2)
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path, held, release))
    other.start()
    assert held.wait(60)
    with pytest.raises(ValueError, match="another run of spectok prepare writes into"):
        prepare_shards("simulate:sdss:1", tmp_path, num_workers=1)
    other.kill()
    other.join()
    assert prepare_shards("simulate:sdss:1", tmp_path, num_workers=1).spectra == 1, "a lock goes with its process"


def write_rows(path, names, **columns):
    import pyarrow as pa
    from pyarrow import parquet

    pixels = {"flux": [1.0] * 100, "wavelength": list(5000 + np.arange(100.0)), "ivar": [1.0] * 100}
    table = {name: [values] * len(names) for name, values in pixels.items()} | {"object_id": names} | columns
    parquet.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("as_a_link", [False, True])
def test_sources_are_never_taken_for_output(overwrite, as_a_link, tmp_path):
    shards = tmp_path / "shards"
    prepare_shards("simulate:sdss:2", shards, num_workers=1)
    if as_a_link:
        (tmp_path / "link").symlink_to(shards)
    output = tmp_path / "link" if as_a_link else shards
    before = contents(shards)
    with pytest.raises(ValueError, match=r"holds the source \S*manifest.json: pass another folder for the output"):
        prepare_shards([shards, "simulate:desi:1"], output, num_workers=1, overwrite=overwrite)
    assert contents(shards) == before
    rows = write_rows(shards / "rows.parquet", ["a"])
    with pytest.raises(ValueError, match=r"holds the source \S*rows.parquet"):
        prepare_shards(rows, output, num_workers=1, overwrite=overwrite)
    assert contents(shards).keys() == {*before, "rows.parquet"}


def test_the_output_may_lie_in_the_folder_of_the_sources(tmp_path):
    write_rows(tmp_path / "rows.parquet", ["a", "b"])
    for spectra in (2, 0):
        outcome = prepare_shards([tmp_path, tmp_path / "*"], tmp_path / "shards", num_workers=1)
        assert (outcome.spectra, outcome.manifest["spectra"]) == (spectra, 2)


def test_sources_may_be_spelled_otherwise_the_next_time(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.parquet", ["a", "b"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert prepare_shards("rows.parquet", "out", num_workers=1).spectra == 2
    assert prepare_shards(tmp_path / "." / "rows.parquet", "~/out", num_workers=1).spectra == 0
    assert not (tmp_path / "~").exists()


def test_damage_in_shards_is_not_copied(tmp_path):
    write_shards([make_spectrum(name) for name in "abcd"], tmp_path / "some", spectra_per_shard=2)
    path = tmp_path / "some" / "shard-00001.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    outcome = prepare_shards(tmp_path / "some", tmp_path / "out", num_workers=1)
    assert [spectrum.object_id for spectrum in SpectrumShards(tmp_path / "out")] == ["a", "b"]
    assert outcome.manifest["failures"]["count"] == 2 and "; 2 not: cannot be read; 4 in " in str(outcome)
    assert "checksum" in outcome.manifest["failures"]["sources"][str(tmp_path / "some")]["first"]
    with pytest.raises(ValueError, match=r"shard-00001.arrow must have the checksum of its manifest"):
        prepare_shards(tmp_path / "some", tmp_path / "strict", num_workers=1, on_error="raise")


def test_a_label_that_cannot_be_written_is_a_failure_of_its_spectrum(tmp_path):
    import datetime

    write_rows(tmp_path / "numbers.parquet", ["a"], z=[Decimal("0.5")], ra=[Decimal("10.25")])
    write_rows(tmp_path / "dates.parquet", ["b"], rv=[datetime.date(2026, 1, 1)])
    outcome = prepare_shards(
        [tmp_path / "numbers.parquet", tmp_path / "dates.parquet"], tmp_path / "out", num_workers=1
    )
    shards = SpectrumShards(tmp_path / "out")
    assert [(one.object_id, one.labels["redshift"]) for one in shards] == [("a", 0.5)]
    assert shards.column("ra").tolist() == [10.25]
    (failure,) = outcome.manifest["failures"]["sources"].values()
    assert failure["first"].startswith("row 0: labels of ") and "must be plain numbers and text" in failure["first"]
    with pytest.raises(ValueError, match=r"dates.parquet, row 0: labels of .* must be plain numbers and text"):
        prepare_shards(tmp_path / "dates.parquet", tmp_path / "strict", num_workers=1, on_error="raise")


@pytest.mark.parametrize("plan", ["[]", "{", '{"options": {}}', '{"format": "spectok_hf.embeddings/1"}'])
@pytest.mark.parametrize("overwrite", [False, True])
def test_the_plan_of_another_command_is_not_believed(plan, overwrite, tmp_path):
    (tmp_path / ".plan.json").write_text(plan)
    (tmp_path / "shard-000000-000.arrow").write_text("not of ours")
    with pytest.raises(ValueError, match=r".plan.json must be that of spectok prepare, found something else"):
        prepare_shards("simulate:sdss:1", tmp_path, num_workers=1, overwrite=overwrite)
    assert (tmp_path / "shard-000000-000.arrow").read_text() == "not of ours"


@pytest.mark.parametrize("change", [{"files": []}, {"wavelength": None}, {"dropped": 3}, {"failures": {"count": 7}}])
def test_a_record_that_was_changed_is_not_believed(change, prepared, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(prepared, folder)
    path = folder / ".records/part-000001.json"
    record = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not None}))
    shutil.copy(folder / ".records/part-000000.json", folder / ".records/part-000099.json")
    assert prepare_shards(SOURCES, folder, spectra_per_shard=2, num_workers=1).spectra == 2
    assert contents(folder) == contents(prepared)


def test_names_may_have_more_digits():
    assert OUTPUT.fullmatch("shard-1000000-1000.arrow") and OUTPUT.fullmatch("shard-000000-000.arrow")
    assert not OUTPUT.fullmatch("shard-00000.arrow"), "one of write_shards"


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "spectok_hf.cli", "prepare", "simulate:sdss:100000", "-o", "out", "--quiet"]
    command += ["--workers", "2", "--spectra-per-shard", "2000"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    # A shell starts what runs in its background with Ctrl-C ignored, and that is inherited.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=heeds, **options)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("out/.shard-*.tmp"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)  # before they would have finished a shard
    assert (process.returncode, output) == (130, "")
    assert errors == "spectok: interrupted: run the same command again to go on\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
