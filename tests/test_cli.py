"""The command line."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import spectok_hf
from spectok_hf import OmniSpectraProcessor, SpecTokConfig, SpecTokForPreTraining, SpectrumProcessor, cli
from spectok_hf.cli import app

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def run(*arguments):
    # Wide, so that a help text is not broken in the middle of what is looked for.
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    SpecTokForPreTraining(SpecTokConfig(**SIZE)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return folder


def test_the_version_is_that_of_the_package():
    result = run("--version")
    assert (result.exit_code, result.output) == (0, f"spectok-hf {spectok_hf.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--help"], ["--version", "space", "Write a Hugging Face Space", "prepare", "embed"]),
        (["prepare", "--help"], ["SOURCES", "--output", "-o", "--workers", "--patch-size", "--strict", "--overwrite"]),
        (["embed", "--help"], ["SOURCES", "--model", "--tokens", "--dtype", "ORG/NAME@REVISION", "torchrun"]),
        (["space", "--help"], ["CHECKPOINT", "FOLDER", "--head", "--title", "--overwrite", "ORG/NAME@REVISION"]),
    ],
)
def test_help_names_what_there_is(arguments, texts):
    result = run(*arguments)
    output = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    assert result.exit_code == 0
    for text in texts:
        assert text in output


def test_without_arguments_there_is_help():
    assert "Usage" in run().output


def test_space_writes_a_space_and_says_how_to_go_on(checkpoint, tmp_path):
    result = run("space", checkpoint, tmp_path / "space", "--title", "Mine", "--survey", "sdss", "--survey", "desi")
    assert result.exit_code == 0, result.output
    contents = json.loads((tmp_path / "space" / "space.json").read_text())
    assert contents["title"] == "Mine"
    assert contents["checkpoints"]["spectrum-reconstruction"]["surveys"] == ["sdss", "desi"]
    assert f"hf upload ORG/NAME {tmp_path / 'space'} --repo-type space" in result.output
    again = run("space", checkpoint, tmp_path / "space")
    assert again.exit_code == 1 and "--overwrite" in again.output
    assert run("space", checkpoint, tmp_path / "space", "--overwrite").exit_code == 0


def test_prepare_and_embed_say_what_they_did_and_go_on(checkpoint, tmp_path):
    shards, rows = tmp_path / "shards", tmp_path / "rows"
    prepare = ["prepare", "simulate:sdss:3", "simulate:desi:1", "-o", shards, "--workers", 1, "--quiet"]
    result = run(*prepare)
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{shards}: 4 spectra; 4 in ") and result.output.count("\n") == 1
    assert run(*prepare).output == f"{shards}: 4 spectra; finished before, nothing was left to do\n"
    embed = ["embed", shards, "--model", checkpoint, "-o", rows, "--device", "cpu", "--quiet"]
    result = run(*embed)
    assert result.exit_code == 0, result.output
    assert f"{rows}: 4 spectra; 4 in " in result.output
    result = run(*embed, "--tokens")
    assert result.exit_code == 1 and "tokens was False, and is True: pass the same ones" in result.output
    assert run(*embed, "--tokens", "--overwrite").exit_code == 0
    assert [path.name for path in rows.glob("*.parquet")] == ["part-000000.parquet"]


def test_prepare_tells_valid_patches_by_a_checkpoint(tmp_path, monkeypatch):
    SpectrumProcessor(patch_size=16).save_pretrained(tmp_path / "model")
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in (tmp_path / "model", "~/model"):
        result = run("prepare", "simulate:sdss:1", "-o", "~/out", "--model", model, "--workers", 1, "--quiet")
        assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["validity"]["patch_size"] == 16
    OmniSpectraProcessor().save_pretrained(tmp_path / "other")
    result = run("prepare", "simulate:sdss:1", "-o", "~/others", "--model", "~/other", "--workers", 1, "--quiet")
    assert result.exit_code == 0, result.output
    validity = json.loads((tmp_path / "others" / "manifest.json").read_text())["validity"]
    assert (validity["patch_size"], validity["patch_overlap"]) == (20, 10)


def test_defaults_are_those_of_the_functions():
    from spectok_hf.commands import making
    from spectok_hf.data.prepare import prepare_shards
    from spectok_hf.embedding import embed_spectra

    pairs = ((making.prepare, prepare_shards), (making.embed, embed_spectra))
    for command, function in pairs:
        own, others = (inspect.signature(one).parameters for one in (command, function))
        shared = own.keys() & others.keys() & {"spectra_per_shard", "spectra_per_part", "token_budget", "dtype"}
        assert shared and all(own[name].default == others[name].default for name in shared)


@pytest.mark.parametrize(("rank", "note", "said"), [("0", "", 1), ("1", "", 0), ("1", "in process 2 of 2", 1)])
def test_of_several_processes_one_says_what_all_would(rank, note, said, checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        error = ValueError("wrong")
        if note:
            error.add_note(note)
        raise error

    monkeypatch.setattr("spectok_hf.hub.space.write_space", fail)
    monkeypatch.setenv("RANK", rank)
    result = run("space", checkpoint, tmp_path / "space")
    assert result.exit_code == 1
    assert result.output == f"spectok: wrong{f' ({note})' if note else ''}\n" * said


def test_ctrl_c_is_one_line(checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("spectok_hf.hub.space.write_space", fail)
    result = run("space", checkpoint, tmp_path / "space")
    assert result.exit_code == 130 and result.output == "spectok: interrupted: run the same command again to go on\n"


@pytest.mark.parametrize("command", [["prepare"], ["embed", "--model", "none"]])
def test_sources_that_are_not_there_are_one_line(command, tmp_path):
    name, *options = command
    result = run(name, tmp_path / "spectra", *options, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "spectok: " in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "spectok_hf.cli", "--version"], capture_output=True, text=True)
    assert result.stdout == f"spectok-hf {spectok_hf.__version__}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "spectok: /no/such/model must be a folder, or the id of a model on the Hub, found neither\n"),
        (["--survey", "moon"], "spectok: surveys must be among "),
    ],
)
def test_an_error_is_one_line_without_a_traceback(tmp_path, options, message):
    result = run("space", "/no/such/model", tmp_path / "space", *options)
    assert result.exit_code == 1
    assert result.output.startswith(message) and result.output.count("\n") == 1
    assert not (tmp_path / "space").exists()


def test_errors_of_many_lines_become_one(checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("first line\n  second line")

    monkeypatch.setattr("spectok_hf.hub.space.write_space", fail)
    assert run("space", checkpoint, tmp_path / "space").output == "spectok: first line second line\n"


def test_a_programming_error_is_not_hidden(checkpoint, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("bug")

    monkeypatch.setattr("spectok_hf.hub.space.write_space", fail)
    assert isinstance(run("space", checkpoint, tmp_path / "space").exception, KeyError)


def test_help_imports_nothing_that_only_a_command_needs():
    light = {"typer", "commands", "options", *sys.stdlib_module_names, "collections.abc", "importlib.metadata", None}
    for path in [Path(cli.__file__), *Path(cli.__file__).with_name("commands").glob("*.py")]:
        body = ast.parse(path.read_text()).body
        modules = {node.module for node in body if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        assert modules <= light, "None is `from . import`"


def test_what_reads_the_output_may_stop():
    """Lines enough to fill a pipe: 64 KiB."""
    read = f"{sys.executable} -m spectok_hf.cli read simulate:gaia_xp:400 --most 400"
    code = f"{read} | head -1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    first, status = result.stdout.splitlines()
    assert first == "simulate:gaia_xp:400, row 0" and status == "141" and result.stderr == ""
