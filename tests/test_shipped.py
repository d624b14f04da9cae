"""Checkpoints that come with the package: their names load without network, and are the default everywhere."""

import json
import os
import re
import socket
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from loopback_hub import CLIENT_WARNINGS
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    pipeline,
)
from transformers.utils import hub
from typer.testing import CliRunner

import spectok_hf
from spectok_hf import (
    AutoModelForRedshift,
    AutoModelForSpectrumClassification,
    AutoModelForStellarRegression,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    SpectrumProcessor,
    shipped,
    simulate_survey,
)
from spectok_hf.auto import PIPELINES
from spectok_hf.cli import app
from spectok_hf.evaluation.adaptation import Backbone
from spectok_hf.hub.space import load_models
from spectok_hf.models.checkpoints import write_code

pytestmark = CLIENT_WARNINGS
ROOT = Path(__file__).parents[1]
NAME = "spectok-tiny"
SHIPPED_TASKS = [task for task in PIPELINES if task != "spectrum-image-similarity"]  # of which a model comes along
FIELDS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
    "id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"},
    "target_names": ["teff", "logg"],
    "redshift_bins": 16,
}
HEADS = {
    "classification": SpecTokForSpectrumClassification,
    "stellar-parameters": SpecTokForStellarRegression,
    "redshift": SpecTokForRedshift,
}
# What each class that loads by name makes of the root's.
ROOT_CLASSES = {
    AutoConfig: SpecTokConfig,
    AutoModel: SpecTokModel,
    AutoModelForPreTraining: SpecTokForPreTraining,
    AutoModelForSequenceClassification: SpecTokForSpectrumClassification,
    AutoModelForSpectrumClassification: SpecTokForSpectrumClassification,
    AutoModelForStellarRegression: SpecTokForStellarRegression,
    AutoModelForRedshift: SpecTokForRedshift,
    AutoProcessor: SpectrumProcessor,
    AutoFeatureExtractor: SpectrumProcessor,
    SpecTokConfig: SpecTokConfig,
    SpecTokModel: SpecTokModel,
    SpecTokForPreTraining: SpecTokForPreTraining,
    SpecTokForRedshift: SpecTokForRedshift,
    SpectrumProcessor: SpectrumProcessor,
}
HEAD_CLASSES = (AutoModelForSequenceClassification, AutoModelForRedshift, SpecTokForRedshift)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one small checkpoint and its heads, whose weights are random."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    for name, kind in ({"": SpecTokForPreTraining} | HEADS).items():
        model = kind(SpecTokConfig(**FIELDS))
        model.remember_processor(SpectrumProcessor(medium="air"))
        model.save_pretrained(folder / NAME / name)
    return folder


@pytest.fixture
def small(place, monkeypatch, tmp_path):
    """The small checkpoint is shipped, and the working directory is empty."""
    monkeypatch.setattr(shipped, "PLACES", (place,))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return place / NAME


@pytest.fixture(params=["online", "offline"])
def no_network(request, monkeypatch):
    """Every attempt to reach another machine fails, and is listed."""
    tried: list[object] = []

    def refuse(*arguments, **options):
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param == "offline")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the attempts of huggingface_hub
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield tried, request.param
    monkeypatch.undo()


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


def same_weights(found, expected):
    expected = dict(expected.named_parameters())
    return all(torch.equal(value, expected[name]) for name, value in found.named_parameters())


# Names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"trust_remote_code": True}], ids=["", "trusted"])
def test_a_name_loads_with_every_class_and_no_network(small, no_network, options):
    for auto_class, expected in ROOT_CLASSES.items():
        if not options or auto_class.__name__.startswith("Auto"):
            assert type(auto_class.from_pretrained(NAME, **options)) is expected
    for head_class in HEAD_CLASSES:
        trust = {} if head_class is SpecTokForRedshift else options
        for name, place in ((f"{NAME}/redshift", {}), (NAME, {"subfolder": "redshift"})):
            assert type(head_class.from_pretrained(name, **place, **trust)) is SpecTokForRedshift
    assert not no_network[0]


def test_other_names_are_looked_for_as_before(small, no_network):
    tried, mode = no_network
    with pytest.raises(OSError, match=r"couldn't connect|offline|not a local folder"):
        AutoConfig.from_pretrained("org/another")
    assert bool(tried) == (mode == "online")


def test_a_head_is_the_trained_one(small, caplog):
    for auto_class, head in (
        (AutoModelForSequenceClassification, "classification"),
        (AutoModelForStellarRegression, "stellar-parameters"),
        (SpecTokForRedshift, "redshift"),
    ):
        expected = HEADS[head].from_pretrained(small / head)
        assert same_weights(auto_class.from_pretrained(NAME), expected)
        assert same_weights(auto_class.from_pretrained(f"{NAME}/{head}"), expected)
        assert same_weights(auto_class.from_pretrained(NAME, subfolder=head), expected)
    assert AutoProcessor.from_pretrained(f"{NAME}/redshift").medium == "air"
    assert AutoModelForRedshift.from_pretrained(NAME).own_processor().medium == "air"


def test_a_config_or_a_path_says_that_a_new_head_is_wanted(small):
    root = SpecTokForPreTraining.from_pretrained(NAME)
    fields = {"id2label": dict(enumerate("abcde"))}
    found = AutoModelForSpectrumClassification.from_pretrained(shipped.checkpoint_path(NAME), **fields)
    assert found.config.num_labels == 5 and same_weights(found.spectok, root.spectok)
    config = AutoConfig.from_pretrained(NAME, **fields)
    found = AutoModelForSpectrumClassification.from_pretrained(NAME, config=config)
    assert found.config.num_labels == 5 and same_weights(found.spectok, root.spectok)
    assert Backbone(NAME).path == str(small)


def test_a_local_folder_goes_before_the_name(small):
    folder = Path(NAME)
    torch.manual_seed(1)
    SpecTokForPreTraining(SpecTokConfig(**FIELDS | {"hidden_size": 16})).save_pretrained(folder)
    assert AutoModel.from_pretrained(NAME).config.hidden_size == 16
    assert shipped.find_shipped(NAME) is None and shipped.find_shipped(f"{NAME}/redshift") is None
    assert shipped.checkpoint_path(NAME) == small


@pytest.mark.parametrize("name", ["spectok-base", "spectok-small/redshift"])
def test_what_is_known_but_not_shipped_is_said_at_once(small, no_network, name):
    for load in (AutoModel.from_pretrained, AutoProcessor.from_pretrained, shipped.checkpoint_path):
        with pytest.raises(OSError, match=rf"{name} does not come with this package, which has {NAME}, {NAME}/cl.*: "):
            load(name)
    assert not no_network[0]


def test_what_is_shipped_is_listed(small):
    assert shipped.shipped_checkpoints() == [NAME, *(f"{NAME}/{head}" for head in HEADS)]
    assert [shipped.checkpoint_path(name).name for name in shipped.shipped_checkpoints()] == [NAME, *HEADS]
    for name in ("spectok", f"{NAME}/..", f"{NAME}/redshift/x", None, 3, "org/spectok-tiny"):
        assert shipped.find_shipped(name) is None


def test_registering_again_wraps_nothing_twice():
    before = hub.cached_files, AutoModelForRedshift.from_pretrained, AutoModelForSequenceClassification.from_pretrained
    spectok_hf.register()
    after = hub.cached_files, AutoModelForRedshift.from_pretrained, AutoModelForSequenceClassification.from_pretrained
    assert before == after
    assert not hasattr(hub.cached_files.__wrapped__, "__wrapped__")
    assert "pretrained" in AutoModelForSequenceClassification.from_pretrained.__doc__


# Defaults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", SHIPPED_TASKS)
def test_every_pipeline_has_a_default_and_takes_the_name(small, no_network, task):
    spectrum = simulate_survey("sdss", 1, seed=1)[0]
    answers = [
        pipeline(task, **options)(spectrum)
        for options in ({}, {"model": NAME}, {"model": NAME, "trust_remote_code": True})
    ]
    assert answers[0] == answers[1] == answers[2]
    assert not no_network[0]


def test_a_pipeline_of_which_no_model_comes_along_says_so(small):
    with pytest.raises(
        ValueError, match=r"AstroClipModel, found SpecTokModel: none comes with the package; pass model="
    ):
        pipeline("spectrum-image-similarity")


def test_embed_takes_the_name_and_needs_none(small, no_network, tmp_path):
    embed = ["embed", "simulate:sdss:2", "--device", "cpu", "--quiet", "-o"]
    for options in ([tmp_path / "default"], [tmp_path / "named", "--model", NAME]):
        assert "2 spectra; 2 in " in run(*embed, *options)
    manifests = [json.loads((tmp_path / name / ".manifest.json").read_text()) for name in ("default", "named")]
    assert manifests[0]["options"]["model"] == manifests[1]["options"]["model"] == NAME
    assert not no_network[0]


def test_a_space_needs_no_checkpoint(small, no_network, tmp_path):
    run("space", tmp_path / "default")
    run("space", NAME, tmp_path / "one", "--head", f"{NAME}/redshift")
    entries = json.loads((tmp_path / "default" / "space.json").read_text())["checkpoints"]
    heads = {"spectrum-classification", "stellar-parameters", "spectrum-redshift"}
    assert entries.keys() == {"spectrum-reconstruction", *heads}
    assert all((tmp_path / "default" / entry["source"] / "model.safetensors").is_file() for entry in entries.values())
    assert load_models(tmp_path / "one").heads.keys() == {"spectrum-redshift"}
    models = load_models()
    assert models.heads.keys() == heads and models.autoencoder.processor.medium == "air"
    assert not no_network[0]


# What is really shipped ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spectra():
    return [spectrum for survey in ("sdss", "desi", "galah", "apogee") for spectrum in simulate_survey(survey, 2)]


def test_the_default_is_there_with_its_heads():
    assert {NAME, *(f"{NAME}/{head}" for head in shipped.HEADS)} <= set(shipped.shipped_checkpoints())


@pytest.mark.parametrize("task", SHIPPED_TASKS)
def test_default_pipelines_answer_differently_for_different_spectra(task, spectra):
    answers = pipeline(task)(spectra)
    assert len({json.dumps(answer) for answer in answers}) == len(spectra)
    assert all(None not in answer.values() for answer in answers if isinstance(answer, dict))


def test_different_spectra_have_different_embeddings(spectra):
    model, processor = AutoModel.from_pretrained(NAME), AutoProcessor.from_pretrained(NAME)
    with torch.no_grad():
        found = model(**processor(spectra, return_tensors="pt")).pooler_output.double().numpy()
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1) / np.linalg.norm(found, axis=-1).mean()
    assert distances[~np.eye(len(spectra), dtype=bool)].min() > 0.01


@pytest.mark.parametrize("name", shipped.shipped_checkpoints())
def test_weights_are_stored_in_half_the_size_and_load_in_float32(name):
    folder = shipped.checkpoint_path(name)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    kind = getattr(spectok_hf, AutoConfig.from_pretrained(name).architectures[0])
    model = kind.from_pretrained(name)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert (folder / "model.safetensors").stat().st_size < 2.2 * model.num_parameters() + 40_000
    assert {"README.md", "facts.yaml", "preprocessor_config.json", "modeling_spectok.py"} <= set(os.listdir(folder))


@pytest.mark.parametrize("name", shipped.shipped_checkpoints())
def test_the_code_beside_the_weights_is_that_of_the_package(name, tmp_path):
    write_code(tmp_path, "spectok")
    folder = shipped.checkpoint_path(name)
    stale = [path.name for path in tmp_path.iterdir() if path.read_text() != (folder / path.name).read_text()]
    assert not stale, "run the block of model_cards/README.md"
    assert {path.name for path in folder.glob("*.py")} <= {path.name for path in tmp_path.iterdir()} | {"handler.py"}


def test_heads_have_an_encoder_and_no_decoder():
    for head in shipped.shipped_heads(NAME):
        names = load_file(shipped.checkpoint_path(head) / "model.safetensors").keys()
        assert {name.split(".")[0] for name in names} == {"spectok", "head"}


def test_what_is_shipped_stays_small():
    sizes = [path.stat().st_size for path in (ROOT / "model_cards").rglob("*") if path.is_file()]
    assert max(sizes) < 16e6 and sum(sizes) < 60e6


# In a wheel ---------------------------------------------------------------------------------------

# The first block of the README, whose last line is an expression, and what it says that this gives.
FIRST_BLOCK = re.search(r"```pycon\n(.*?)\n\n```", (ROOT / "README.md").read_text(), re.S)[1].splitlines()
THREE_LINES = [line.removeprefix(">>> ") for line in FIRST_BLOCK if line.startswith(">>> ")]
SHIPPED = "spectok_hf/checkpoints/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the sdist, as `python -m build` makes them."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "-n", "-o", folder, ROOT], check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_a_wheel_has_the_checkpoints_whole(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in shipped.shipped_checkpoints():
        folder = shipped.checkpoint_path(name)
        files = {f"{SHIPPED}{name}/{path.name}" for path in folder.iterdir() if path.is_file()}
        assert files <= names, files - names
    there = {name.removeprefix(SHIPPED).partition("/")[0] for name in names if name.startswith(SHIPPED)}
    assert there == {name.partition("/")[0] for name in shipped.shipped_checkpoints()}
    assert not [name for name in names if "/figures/" in name or name.startswith("model_cards")]


@pytest.mark.slow
def test_three_lines_in_an_empty_environment_and_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, f"torch=={torch.__version__.partition('+')[0]}"], check=True)
    subprocess.run([*pip, wheel], check=True)
    (tmp_path / "empty").mkdir()
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path / "empty", "env": environment, "capture_output": True, "text": True}
    script = "\n".join([*THREE_LINES[:-1], f"print({THREE_LINES[-1]})"])
    done = subprocess.run([python, "-c", script], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == FIRST_BLOCK[-1] and len(THREE_LINES) == 3
    where = subprocess.run(
        [python, "-c", "import spectok_hf.shipped as s; print(s.checkpoint_path(s.DEFAULT))"], **options
    )
    assert Path(where.stdout.strip()).is_relative_to(tmp_path / "venv")
