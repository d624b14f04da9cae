"""`answer_table`: what a checkpoint says of any sources as one file, which nothing kills, loses or overwrites."""

import contextlib
import csv
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumEncoder,
    SpectrumProcessor,
    read_spectra,
    simulate_survey,
)
from spectok_hf.data.spectrum_files import write_spectra
from spectok_hf.embedding import embed_spectra
from spectok_hf.inference.answer_tables import answer_table
from spectok_hf.inference.part_runs import RunOptions

pq = pytest.importorskip("pyarrow.parquet")

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SPECTRA = [one for survey, count in (("sdss", 3), ("desi", 2)) for one in simulate_survey(survey, count, seed=961)]
SOURCES = ["simulate:sdss:3:961", "simulate:desi:2:961"]
CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def encoder():
    return SpectrumEncoder.from_pretrained("spectok-tiny", device="cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    SpecTokForPreTraining(SpecTokConfig(**SIZE)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return folder


def ask(sources, path, task="encode", checkpoint="spectok-tiny", **options):
    own = {name: options.pop(name) for name in ("tokens", "dtype", "resume") if name in options}
    return answer_table(sources, task, path, checkpoint, options=RunOptions(**CPU, **options), **own)


def rows_of(path):
    return pq.read_table(path).to_pylist()


def invalid(name="bad"):
    wavelength = 5000 + np.arange(100.0)
    return Spectrum(np.ones(100), wavelength, np.zeros(100), survey="sdss", object_id=name, truth=np.ones(100))


# What it says -------------------------------------------------------------------------------------


def test_embeddings_and_tokens_are_those_of_the_encoder(encoder, tmp_path):
    outcome = ask(SOURCES, tmp_path / "table.parquet", tokens=True, token_budget=300)
    assert (outcome.rows, outcome.skipped, outcome.outside, outcome.handled) == (5, 0, {}, 5)
    rows = rows_of(outcome.path)
    assert [row["object_id"] for row in rows] == [one.object_id for one in SPECTRA]
    assert [(row["source"], row["row"]) for row in rows][2:4] == [(SOURCES[0], 2), (SOURCES[1], 0)]
    found = np.array([row["embedding"] for row in rows])
    np.testing.assert_allclose(found, encoder.encode(SPECTRA), atol=1e-5)
    assert np.linalg.norm(found[:, None] - found, axis=-1)[~np.eye(5, dtype=bool)].min() > 0.1
    for row, tokens in zip(rows, encoder.encode(SPECTRA, output="tokens"), strict=True):
        np.testing.assert_allclose(row["tokens"], tokens.values, atol=1e-5)
        np.testing.assert_allclose(row["token_wavelength"], tokens.wavelength, rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.parquet"]


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")
@pytest.mark.parametrize("task", ["classify", "predict", "redshift"])
def test_rows_are_those_of_the_encoder(task, encoder, tmp_path):
    rows = rows_of(ask(SOURCES, tmp_path / "table.parquet", task).path)
    for row, expected in zip(rows, getattr(encoder, task)(SPECTRA), strict=True):
        for name, value in expected.items():
            assert row[name] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name


def test_reconstructions_are_spectra_that_can_be_read(encoder, tmp_path):
    for name in ("made.parquet", "made.fits"):
        if name.endswith("fits"):
            pytest.importorskip("astropy")
        ask(SOURCES, tmp_path / name, "reconstruct")
        again = read_spectra(tmp_path / name, progress=False)
        for one, spectrum in zip(again, SPECTRA, strict=True):
            assert one.object_id == spectrum.object_id and one.medium == spectrum.medium
            np.testing.assert_allclose(one.wavelength, spectrum.wavelength, rtol=1e-12)
            np.testing.assert_array_equal(one.good, spectrum.good)
            np.testing.assert_array_equal(one.flux[one.good], spectrum.flux[spectrum.good])
    for row, made, spectrum in zip(
        rows_of(tmp_path / "made.parquet"), encoder.reconstruct(SPECTRA), SPECTRA, strict=True
    ):
        np.testing.assert_allclose(row["reconstruction"], made.flux, rtol=1e-4, atol=1e-4)
        assert (~np.array(row["covered"]) == made.mask).all()
        good = spectrum.good & ~made.mask
        chi2 = np.mean((spectrum.flux[good] - made.flux[good]) ** 2 * spectrum.ivar[good])
        assert row["chi2"] == pytest.approx(chi2, rel=1e-3)


def test_what_lies_outside_is_counted(tmp_path):
    wavelength, ones = 20_000 + np.arange(200.0), np.ones(200)
    far = [Spectrum(ones, wavelength, ones, object_id=str(number), truth=ones) for number in range(2)]
    write_spectra([*far, *SPECTRA[:1]], tmp_path / "spectra.parquet")
    outcome = ask(tmp_path / "spectra.parquet", tmp_path / "table.parquet")
    assert outcome.outside == {"wavelength": 2}
    assert [row["outside"] for row in rows_of(outcome.path)] == ["wavelength", "wavelength", ""]


def test_it_can_be_called_again_and_beside_embed_spectra(checkpoint, tmp_path):
    first = rows_of(ask(SOURCES, tmp_path / "first.parquet", checkpoint=checkpoint).path)
    embed_spectra(SOURCES, checkpoint, tmp_path / "rows", device="cpu")
    parts = sorted((tmp_path / "rows").glob("*.parquet"))
    again = rows_of(ask(SOURCES, tmp_path / "again.parquet", checkpoint=checkpoint).path)
    embedded = [
        {name: value for name, value in row.items() if name != "reason"} for part in parts for row in rows_of(part)
    ]
    assert first == again == embedded


def test_ids_are_what_they_were(checkpoint, tmp_path):
    names = ["4611686018427387904", "007", "Sirius β 🌟", "x" * 500, None]
    spectra = simulate_survey("gaia_xp", len(names), seed=962)
    for spectrum, name in zip(spectra, names, strict=True):
        spectrum.object_id = name
    write_spectra(spectra, tmp_path / "spectra.parquet")
    for ending in ("parquet", "csv", "jsonl"):
        ask(tmp_path / "spectra.parquet", tmp_path / f"table.{ending}", checkpoint=checkpoint)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        assert [row["object_id"] for row in csv.DictReader(file)] == [name or "" for name in names]
    assert [row["object_id"] for row in rows_of(tmp_path / "table.parquet")] == names
    lines = (tmp_path / "table.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["object_id"] for line in lines] == names


# What cannot be read ------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    """Good files, and every kind of bad one."""
    folder = tmp_path / "spectra"
    folder.mkdir()
    write_spectra([SPECTRA[0], invalid(), SPECTRA[1]], folder / "a.parquet")
    (folder / "b.parquet").write_bytes(b"junk")
    (folder / "c.fits").write_bytes(b"SIMPLE  =                    T")
    (folder / "d.fits").write_bytes(b"")
    write_spectra(SPECTRA[3:], folder / "e.parquet")
    return folder


def test_bad_files_are_listed_and_stop_nothing(mixed, checkpoint, tmp_path):
    outcome = ask([mixed, tmp_path / "none.fits"], tmp_path / "t.csv", checkpoint=checkpoint, skip_missing=True)
    assert (outcome.rows, outcome.skipped, len(outcome.reasons)) == (4, 5, 5)
    with outcome.skipped_path.open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert [Path(row["source"]).name for row in listed] == ["a.parquet", "b.parquet", "c.fits", "d.fits", "none.fits"]
    assert listed[0]["object_id"] == "bad" and listed[0]["row"] == "1" and all(row["reason"] for row in listed)
    with outcome.path.open(newline="") as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["0", "2", "0", "1"]
    again = ask([mixed / "e.parquet"], tmp_path / "t.csv", checkpoint=checkpoint, overwrite=True)
    assert again.skipped_path is None and not outcome.skipped_path.exists()  # which was of another run


def test_they_stop_a_strict_run(mixed, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"b\.parquet"):
        ask(mixed, tmp_path / "table.parquet", checkpoint=checkpoint, on_error="raise")
    with pytest.raises(FileNotFoundError, match="none"):
        ask([mixed, tmp_path / "none"], tmp_path / "table.parquet", checkpoint=checkpoint)
    assert not (tmp_path / "table.parquet").exists()


def test_where_nothing_has_an_answer_nothing_is_left_behind(checkpoint, tmp_path):
    write_spectra([invalid()], tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="no spectrum is left of 1 parts: 1 all pixels are bad"):
        ask(tmp_path / "bad.parquet", tmp_path / "table.parquet", checkpoint=checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.parquet"]


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("table.txt", {}, r"must end in \.parquet, \.csv"),
        ("table.csv", {"tokens": True}, "a CSV file cannot hold tokens"),
        ("table.csv", {"task": "reconstruct"}, "a CSV file cannot hold wavelength"),
        ("table.parquet", {"task": "redshift"}, "has no head for redshift"),
        ("table.parquet", {"task": "plot"}, "task must be one of encode"),
        ("table.parquet", {"dtype": "int8"}, "dtype must be one of float32"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_computed(name, options, text, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=text):
        ask(SOURCES, tmp_path / name, checkpoint=checkpoint, **options)
    assert list(tmp_path.iterdir()) == []


# What is there already ----------------------------------------------------------------------------


def stopped(sources, path, checkpoint, monkeypatch, after=1):
    """A run that is interrupted when so many parts are finished."""
    from spectok_hf.inference import part_runs

    finish = part_runs._PartFile.finish
    left = [after]

    def finish_or_stop(self):
        finish(self)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(part_runs._PartFile, "finish", finish_or_stop)
        with pytest.raises(KeyboardInterrupt):
            ask(sources, path, checkpoint=checkpoint)


def test_a_stopped_run_goes_on_where_it_stopped(checkpoint, tmp_path, monkeypatch):
    ask(SOURCES, tmp_path / "whole.parquet", checkpoint=checkpoint)
    path = tmp_path / "table.parquet"
    stopped(SOURCES, path, checkpoint, monkeypatch)
    assert not path.exists() and (tmp_path / "table.parquet.parts").is_dir()
    with pytest.raises(ValueError, match=r"table\.parquet\.parts holds what a run .*--resume"):
        ask(SOURCES, path, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="was begun with other settings or sources"):
        ask(SOURCES[:1], path, checkpoint=checkpoint, resume=True)
    with pytest.raises(ValueError, match=r"weights_sha256 was|config_sha256 was"):
        ask(SOURCES, path, resume=True)
    outcome = ask(SOURCES, path, checkpoint=checkpoint, resume=True)
    assert (outcome.rows, outcome.handled) == (5, 2)
    assert path.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["table.parquet", "whole.parquet"]


def test_a_stopped_run_can_be_begun_anew(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    stopped(SOURCES, path, checkpoint, monkeypatch)
    outcome = ask(SOURCES[:1], path, checkpoint=checkpoint, overwrite=True)
    assert (outcome.rows, outcome.handled) == (3, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.parquet"]


def test_to_resume_what_never_began_is_to_begin(checkpoint, tmp_path):
    assert ask(SOURCES, tmp_path / "table.parquet", checkpoint=checkpoint, resume=True).rows == 5


@pytest.mark.parametrize("killed", ["before", "behind"])
def test_a_run_killed_while_it_writes_the_table_goes_on(killed, checkpoint, tmp_path, monkeypatch):
    from spectok_hf.inference import answer_tables

    path = tmp_path / "table.parquet"
    place = "write_table" if killed == "before" else "_remove"

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(answer_tables, place, stop)
        with pytest.raises(KeyboardInterrupt):
            ask(SOURCES, path, checkpoint=checkpoint)
    (tmp_path / ".table.parquet.99999999.tmp").write_text("half a table")
    assert path.exists() == (killed == "behind")
    outcome = ask(SOURCES, path, checkpoint=checkpoint, resume=True)
    assert (outcome.rows, outcome.handled) == (5, 0) and len(rows_of(path)) == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.parquet"]


def test_a_table_is_not_overwritten(checkpoint, tmp_path):
    path = tmp_path / "table.parquet"
    ask(SOURCES[:1], path, checkpoint=checkpoint)
    before = path.read_bytes()
    for resume in (False, True):
        with pytest.raises(ValueError, match="is there already: pass --overwrite"):
            ask(SOURCES, path, checkpoint=checkpoint, resume=resume)
    assert path.read_bytes() == before
    assert ask(SOURCES, path, checkpoint=checkpoint, overwrite=True).rows == 5


def test_a_source_is_not_overwritten(checkpoint, tmp_path):
    path = tmp_path / "spectra.parquet"
    write_spectra(SPECTRA, path)
    before = path.read_bytes()
    for sources in (path, tmp_path, tmp_path / "*.parquet"):
        with pytest.raises(ValueError, match="is one of the sources, and would be replaced"):
            ask(sources, path, checkpoint=checkpoint, overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_files_of_others_are_not_removed(options, checkpoint, tmp_path):
    mine = tmp_path / "table.parquet.parts" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("years of work")
    with pytest.raises(ValueError, match=r"move it away|holds what a run"):
        ask(SOURCES, tmp_path / "table.parquet", checkpoint=checkpoint, **options)
    assert mine.read_text() == "years of work"


def test_nor_are_they_where_they_came_later(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "table.parquet"
    stopped(SOURCES, path, checkpoint, monkeypatch)
    mine = tmp_path / "table.parquet.parts" / "notes.txt"
    mine.write_text("years of work")
    assert ask(SOURCES, path, checkpoint=checkpoint, resume=True).rows == 5
    assert [entry.name for entry in mine.parent.iterdir()] == ["notes.txt"]


# Killed -------------------------------------------------------------------------------------------

KILLS = 6


def answer_many(path, checkpoint):
    os.setsid()
    torch.set_num_threads(1)
    sources = [f"simulate:gaia_xp:150:{seed}" for seed in range(8)]
    answer_table(sources, "encode", path, checkpoint, resume=True, options=RunOptions(**CPU, spectra_per_part=50))


def start(*arguments):
    process = multiprocessing.get_context("fork").Process(target=answer_many, args=arguments)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_at_random_moments_loses_and_repeats_nothing(checkpoint, tmp_path):
    expected, path = tmp_path / "whole.parquet", tmp_path / "table.parquet"
    parts = tmp_path / "table.parquet.parts"
    durations = []
    for _ in range(2):
        began = time.monotonic()
        expected.unlink(missing_ok=True)
        process = start(expected, checkpoint)
        process.join()
        assert process.exitcode == 0
        durations.append(time.monotonic() - began)
    rng = np.random.default_rng(0)
    hits, finished = 0, 0
    for _ in range(100):
        process = start(path, checkpoint)
        process.join(rng.uniform(0.2, 1.0) * min(durations))
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            hits += 1
        process.join()
        if path.exists():
            finished += 1
            assert path.read_bytes() == expected.read_bytes()
            shutil.rmtree(parts, ignore_errors=True)
            path.unlink()
        if hits >= KILLS and finished:
            break
    print(f"{hits} kills, {finished} tables finished; {min(durations):.1f} s alone")
    assert hits >= KILLS and finished


@pytest.mark.slow
def test_memory_does_not_grow_with_the_spectra(checkpoint, tmp_path):
    """The peak of a second run of six times the spectra is that of the first."""
    resource = pytest.importorskip("resource")

    def peak(count):
        ask([f"simulate:gaia_xp:{count}"], tmp_path / f"{count}.parquet", checkpoint=checkpoint, token_budget=256)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    peak(300)
    first, second = peak(400), peak(2400)
    assert second - first < 40  # MiB; the embeddings of 2,000 more with their spectra would be 60


def test_a_table_beside_the_spectra_is_no_source_the_next_time(tmp_path):
    write_spectra(simulate_survey("sdss", 2, seed=2512), tmp_path / "spectra.parquet")
    first = answer_table(tmp_path, "encode", tmp_path / "embeddings.parquet")
    second = answer_table(tmp_path, "classify", tmp_path / "classes.parquet")
    assert (first.rows, second.rows, second.skipped) == (2, 2, 0)
    answer_table(tmp_path, "encode", tmp_path / "embeddings.parquet", options=RunOptions(overwrite=True))
    with pytest.raises(ValueError, match="flux"):  # by its own name it is one, and none of spectra
        answer_table(tmp_path / "classes.parquet", "encode", tmp_path / "again.parquet")
