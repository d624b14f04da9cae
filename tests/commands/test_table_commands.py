"""The commands that write a row per spectrum."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumEncoder,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.cli import app
from spectok_hf.data.spectrum_files import write_spectra

pq = pytest.importorskip("pyarrow.parquet")

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
NAMES = ["4611686018427387904", "Sirius β", "0266-51602-0107"]
SPECTRA = simulate_survey("sdss", 2, seed=991) + simulate_survey("desi", 1, seed=991)
for SPECTRUM, NAME in zip(SPECTRA, NAMES, strict=True):
    SPECTRUM.object_id = NAME
CPU = ("--device", "cpu", "--quiet")


def run(*arguments, stdin=None):
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})
    return runner.invoke(app, list(map(str, arguments)), input=stdin)


def done(*arguments, **options):
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "spectra.parquet"
    write_spectra(SPECTRA, path)
    return path


@pytest.fixture(scope="module")
def vectors():
    return SpectrumEncoder.from_pretrained("spectok-tiny", device="cpu").encode(SPECTRA)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    SpecTokForPreTraining(SpecTokConfig(**SIZE)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return folder


def read_table(path):
    """Identifiers and embeddings of a table of any format."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        rows = [row | {"embedding": [float(row[f"embedding_{number}"]) for number in range(128)]} for row in rows]
    else:
        rows = pytest.importorskip("astropy.table").Table.read(path)
    return [str(row["object_id"]) for row in rows], np.array([row["embedding"] for row in rows])


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits", "jsonl"])
def test_tables_of_every_format_hold_what_the_encoder_says(ending, source, vectors, tmp_path):
    path = tmp_path / f"table.{ending}"
    result = done("encode", source, "-o", path, *CPU)
    assert result.stdout == "" and f"{path}: 3 rows in " in result.stderr and "spectra/s" in result.stderr
    names, found = read_table(path)
    expected = [name.encode("ascii", "backslashreplace").decode() for name in NAMES] if ending == "fits" else NAMES
    assert names == expected
    np.testing.assert_allclose(found, vectors, atol=1e-5)
    assert min(np.abs(found[one] - found[two]).max() for one, two in ((0, 1), (0, 2), (1, 2))) > 0.1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_without_a_file_rows_are_shown(source):
    result = done("classify", source, *CPU)
    header, *lines = result.stdout.splitlines()
    assert header.split()[:4] == ["source", "survey", "object_id", "class"] and len(lines) == 3
    assert all(line.startswith("spectra.parquet") and name in line for line, name in zip(lines, NAMES, strict=True))
    rows = [json.loads(line) for line in done("redshift", source, "--json", *CPU).stdout.splitlines()]
    expected = SpectrumEncoder.from_pretrained("spectok-tiny", device="cpu").redshift(SPECTRA)
    for row, one in zip(rows, expected, strict=True):
        assert row["object_id"] == one["object_id"] and row["redshift"] == pytest.approx(one["redshift"], rel=1e-5)
        assert row["zwarn"] == one["zwarn"] and row["source"] == str(source)


def test_more_rows_than_a_screen_holds(checkpoint):
    encode = ("encode", "simulate:gaia_xp:130", "-m", checkpoint, *CPU)
    result = done(*encode)
    assert len(result.stdout.splitlines()) == 101 and "and 30 more: write a file (-o FILE)" in result.stderr
    assert "not shown, being arrays: embedding" in result.stderr
    assert [json.loads(line)["row"] for line in done(*encode, "--json").stdout.splitlines()] == list(range(130))


def test_a_summary_for_programs(source, tmp_path):
    path = tmp_path / "table.parquet"
    (line,) = done("encode", source, "-o", path, "--json", *CPU).stdout.splitlines()
    assert json.loads(line) == {
        "output": str(path),
        "rows": 3,
        "skipped": 0,
        "skipped_list": None,
        "outside": {},
    }


def test_reconstructions_are_written(source, tmp_path):
    done("reconstruct", source, "-o", tmp_path / "made.parquet", *CPU)
    for row, spectrum in zip(pq.read_table(tmp_path / "made.parquet").to_pylist(), SPECTRA, strict=True):
        assert len(row["reconstruction"]) == len(row["flux"]) == len(spectrum) and 0.3 < row["chi2"] < 5
    result = run("reconstruct", source, "-o", tmp_path / "made.csv", *CPU)
    assert result.exit_code == 1 and "a CSV file cannot hold wavelength" in result.output
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.parquet"]


def test_folders_patterns_and_names_from_stdin(source, vectors, tmp_path):
    for number, spectrum in enumerate(SPECTRA):
        write_spectra([spectrum], tmp_path / "in" / f"{number} β.parquet")
    files = [tmp_path / "in" / f"{number} β.parquet" for number in range(3)]
    stdin = "".join(f"{path}\n" for path in reversed(files))
    for name, sources, given, order in (
        ("folder", [tmp_path / "in"], None, [0, 1, 2]),
        ("pattern", [tmp_path / "in" / "[12]*.parquet", files[0]], None, [1, 2, 0]),
        ("stdin", ["-"], stdin, [2, 1, 0]),
        ("both", [files[1], "-"], stdin, [1, 2, 0]),
    ):
        path = tmp_path / f"{name}.parquet"
        done("encode", *sources, "-o", path, *CPU, stdin=given)
        names, found = read_table(path)
        assert names == [NAMES[number] for number in order], name
        np.testing.assert_allclose(found, vectors[order], atol=1e-5)
    result = run("encode", "-", "-o", tmp_path / "none.parquet", *CPU, stdin="\n\n")
    assert result.exit_code == 1 and "reads names of files from stdin, one per line, found none" in result.output


def test_bad_files_are_counted_and_change_no_exit_code(source, checkpoint, tmp_path):
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"SIMPLE  =")
    path = tmp_path / "table.csv"
    encode = ["encode", bad, source, tmp_path / "missing.fits", "-m", checkpoint, "-o", path, *CPU]
    result = done(*encode)
    assert "skipped 2:" in result.stderr and f"all are listed in {path}.skipped.csv" in result.stderr
    assert str(bad) in result.stderr and "missing.fits" in result.stderr and "3 rows" in result.stderr
    with Path(f"{path}.skipped.csv").open(newline="") as file:
        assert [Path(row["source"]).name for row in csv.DictReader(file)] == ["bad.fits", "missing.fits"]
    result = run(*encode, "--overwrite", "--strict")
    assert result.exit_code == 1 and result.output.startswith("spectok: ") and "missing.fits" in result.output
    result = run(*[part for part in encode if "missing" not in str(part)], "--overwrite", "--strict")
    assert result.exit_code == 1 and "bad.fits" in result.output
    result = run("encode", tmp_path / "missing.fits", "-o", tmp_path / "other.csv", *CPU)
    assert result.exit_code == 1 and "no such file" in result.output
    with path.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3  # the table of before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-o", "table.txt"], "must end in .parquet, .csv, .fits, .jsonl"),
        (["--resume"], "--resume, and several processes, need a file to write: pass --output FILE"),
        (["-o", "table.csv", "--tokens"], "a CSV file cannot hold tokens"),
        (["-m", "nobody/nothing"], "no checkpoint nobody/nothing can be loaded: pass a folder"),
        (["-m", "spectok-tiny/none"], "no checkpoint spectok-tiny/none can be loaded"),
        (["-m", "spectok-base"], "spectok-base does not come with this package"),
        (["--device", "cuda:99"], "device must be one of this machine"),
        (["--dtype", "float8"], "dtype must be one of float32"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(arguments, text, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("encode", source, "--quiet", *arguments)
    assert result.exit_code == 1
    assert text in result.output and result.output.startswith("spectok: ") and result.output.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_the_head_says_what_to_do(source, checkpoint, tmp_path):
    for task, head in (("classify", "classification"), ("predict", "stellar-parameters"), ("redshift", "redshift")):
        result = run(task, source, "-m", checkpoint, "-o", tmp_path / "t.csv", *CPU)
        assert result.exit_code == 1 and f"has no head for {head} in its folder" in result.output
        assert "fit_head(X, y)" in result.output
    assert done("redshift", source, "-m", "spectok-tiny/redshift", *CPU).stdout.count("\n") == 4


def test_nothing_is_overwritten(source, checkpoint, tmp_path):
    path = tmp_path / "table.parquet"
    encode = ("encode", "-m", checkpoint, *CPU)
    done(*encode, source, "-o", path)
    before = path.read_bytes()
    result = run(*encode, source, "-o", path)
    assert result.exit_code == 1 and "is there already: pass --overwrite" in result.output
    result = run(*encode, path, "-o", path, "--overwrite")
    assert result.exit_code == 1 and "is one of the sources, and would be replaced" in result.output
    assert path.read_bytes() == before
    assert f"{path}: 2 rows" in done(*encode, "simulate:gaia_xp:2", "-o", path, "--overwrite").stderr


def test_what_lies_outside_is_warned_of(checkpoint, tmp_path):
    far = Spectrum(np.ones(200), 20_000 + np.arange(200.0), np.ones(200), object_id="far")
    write_spectra([far], tmp_path / "far.parquet")
    result = done("encode", tmp_path / "far.parquet", *CPU)
    assert "warning: spectra lie outside what spectok-tiny saw in training" in result.stderr
    assert "(wavelength 1)" in result.stderr and "wavelength" in result.stdout
    said = done("redshift", tmp_path / "far.parquet", *CPU).stderr
    assert "what spectok-tiny/redshift saw" in said and said.endswith("and spectok read -m spectok-tiny/redshift\n")
    result = done("encode", tmp_path / "far.parquet", "-m", checkpoint, *CPU)
    assert f"warning: {checkpoint} does not say what it was trained on" in result.stderr
    assert "lie outside" not in result.stderr


def test_a_progress_bar_is_shown_unless_quiet(checkpoint, tmp_path):
    encode = ("encode", "simulate:gaia_xp:3", "-m", checkpoint, "--device", "cpu")
    assert "encode: 100%" in done(*encode, "-o", tmp_path / "one.csv").stderr
    assert "100%" not in done(*encode, "-o", tmp_path / "two.csv", "--quiet").stderr


def test_help_names_the_same_options_for_all():
    for task in ("encode", "reconstruct", "classify", "predict", "redshift"):
        text = done(task, "--help").output
        assert all(option in text for option in ("--output", "--resume", "--strict", "--json", "--overwrite", "stdin"))
        assert ("--tokens" in text) == (task == "encode")


# Several processes --------------------------------------------------------------------------------


@pytest.mark.slow
def test_several_processes_write_one_table(checkpoint, tmp_path):
    sources = ["simulate:gaia_xp:20", "simulate:gaia_xp:20:1", "simulate:gaia_xp:20:2"]
    encode = list(map(str, ["encode", *sources, "-m", checkpoint, *CPU, "-o"]))
    done(*encode, tmp_path / "alone.parquet")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "spectok_hf.cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [*launch, *encode, str(tmp_path / "both.parquet")], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("both.parquet: 60 rows") == 1
    assert (tmp_path / "both.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


# Stopped ------------------------------------------------------------------------------------------


def begin(checkpoint, path, *more):
    sources = [f"simulate:sdss:60:{seed}" for seed in range(20)]
    command = [sys.executable, "-m", "spectok_hf.cli", "encode", *sources, "-m", checkpoint, "-o", path, *CPU, *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_parts(process, path, count):
    while len(list(path.with_name(f"{path.name}.parts").glob("part-*.parquet"))) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_goes_on(how, checkpoint, tmp_path):
    path = tmp_path / "table.csv"
    process = begin(checkpoint, path)
    wait_for_parts(process, path, 3)
    process.send_signal(how)
    said = process.communicate()[1]
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in said and not path.exists()
    assert (f"{path}.parts: --resume goes on with it" in said) == (how == signal.SIGINT)
    with begin(checkpoint, path, "--resume") as process:
        said = process.communicate()[1]
    assert process.returncode == 0 and "were finished before) in" in said
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], int(row["row"])) for row in rows] == [
        (f"simulate:sdss:60:{seed}", number) for seed in range(20) for number in range(60)
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
