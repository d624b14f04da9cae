"""The commands that look at one thing."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.cli import app
from spectok_hf.data.lines import LINES
from spectok_hf.data.spectrum_files import write_spectra

pytest.importorskip("pyarrow")

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


def done(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(text, *arguments):
    result = run(*arguments)
    assert result.exit_code == 1 and text in result.output, result.output
    assert result.output.startswith("spectok: ") and result.output.count("\n") == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    SpecTokForPreTraining(SpecTokConfig(**SIZE)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return folder


# info ---------------------------------------------------------------------------------------------


def test_info_says_what_a_checkpoint_is(checkpoint):
    text = done("info").stdout
    for part in ("spectok-tiny", "1.3 M parameters", "heads: classification", "apogee", "comes with the package"):
        assert part in text
    facts = json.loads(done("info", "spectok-tiny", "--json").stdout)
    assert (facts["embedding"], facts["numbers_per_token"], facts["surveys"]["sdss"]["tokens"]) == (128, 8, 120)
    assert "trained on: not said" in done("info", checkpoint).stdout
    refused("no checkpoint nobody/nothing", "info", "nobody/nothing")


# read ---------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    spectra = simulate_survey("sdss", 2, seed=911)
    far = Spectrum(np.ones(200), 20_000 + np.arange(200.0), np.ones(200), object_id="far", truth=np.ones(200))
    bad = Spectrum(np.ones(200), 5000 + np.arange(200.0), np.zeros(200), object_id="bad", truth=np.ones(200))
    write_spectra([*spectra, far, bad], tmp_path / "spectra.parquet")
    (tmp_path / "junk.fits").write_bytes(b"SIMPLE")
    return tmp_path


def test_read_says_what_is_in_files_and_what_is_the_matter(mixed):
    result = done("read", mixed / "spectra.parquet", mixed / "junk.fits", mixed / "none.fits")
    first, _, far, bad = result.stdout.split(f"{mixed / 'spectra.parquet'}, row ")[1:]
    assert "Spectrum(sdss sim-sdss-911-00000" in first and "patches are valid" in first and "class " in first
    assert "S/N " in first and "outside of the training" not in first
    assert "outside of the training: 100% of its good pixels, 20000 to 20199 Å" in far
    assert "0 of 7 patches are valid" in bad and "S/N - per pixel" in bad and "outside" not in bad
    assert f"{mixed / 'junk.fits'}, row 0:" in result.stderr and "none.fits" in result.stderr


def test_read_gives_json(mixed):
    rows = [json.loads(line) for line in done("read", mixed / "spectra.parquet", "--json").stdout.splitlines()]
    (expected, *_) = simulate_survey("sdss", 1, seed=911)
    first = rows[0]
    assert (first["object_id"], first["row"], first["pixels"]) == (expected.object_id, 0, len(expected))
    assert first["good_pixels"] == int(expected.good.sum()) and first["labels"] == expected.labels
    assert first["wavelength"] == pytest.approx(expected.wavelength[[0, -1]].tolist())
    assert [list(row["outside"]) for row in rows] == [[], [], ["wavelength"], []]
    assert rows[3]["snr"] is None and rows[3]["valid_patches"] == 0


def test_read_shows_the_first_of_many():
    result = done("read", "simulate:gaia_xp:30", "--most", 2)
    assert result.stdout.count("Spectrum(") == 2 and "the first 2 are shown: --most N shows more" in result.stderr
    assert "--most" not in done("read", "simulate:gaia_xp:2", "--most", 2).stderr


def test_where_nothing_can_be_read_the_exit_code_says_so(mixed):
    result = run("read", mixed / "junk.fits")
    assert result.exit_code == 1 and "none of the sources can be read (1 failed)" in result.output
    refused("no such file", "read", mixed / "none.fits")


@pytest.mark.parametrize("name", ["galha", "moon"])
def test_a_survey_that_there_is_not_is_refused(mixed, name):
    result = run("read", mixed / "spectra.parquet", "--survey", name)
    assert result.exit_code == 2 and f"found '{name}'" in result.output
    assert ("did you mean galah?" in result.output) == (name == "galha")
    done("read", mixed / "spectra.parquet", "--survey", "GALAH")


def test_read_names_the_first_of_many_that_cannot_be_read(tmp_path):
    (tmp_path / "catalogue.csv").write_text("object_id,redshift\n" + "1,0.5\n" * 30)
    result = run("read", tmp_path / "catalogue.csv")
    assert result.exit_code == 1 and result.output.count("a spectrum needs flux") == 20
    assert "and 10 more that cannot be read" in result.output and "(30 failed)" in result.output


# plot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("a.png", ["--redshift", 0.1]),
        ("below/b.pdf", []),
        ("c.png", ["--kind", "card"]),
        ("d.svg", ["--kind", "attribution"]),
    ],
)
def test_plot_draws(name, more, checkpoint, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    result = done("plot", "simulate:sdss:2:911", "--row", 1, "-o", tmp_path / name, "-m", checkpoint, *more)
    assert f"wrote {tmp_path / name}: Spectrum(sdss sim-sdss-911-00001" in result.stderr
    content = (tmp_path / name).read_bytes()
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert content.startswith(starts[name.rpartition(".")[2]]) and len(content) > 5000
    assert pyplot.get_fignums() == []


def test_plot_says_what_it_cannot_draw(checkpoint, tmp_path):
    pytest.importorskip("matplotlib")
    plot = ["plot", "simulate:gaia_xp:1", "-m", checkpoint, "-o"]
    refused("must end in .png", *plot, tmp_path / "a.txt")
    refused("--kind must be one of", *plot, tmp_path / "a.png", "--kind", "cake")
    refused("--answer must be one of", *plot, tmp_path / "a.png", "--answer", "cake")
    refused("has no row 5", *plot, tmp_path / "a.png", "--row", 5)
    attribution = ["--kind", "attribution", "--answer", "redshift"]
    refused("has no head for redshift", *plot, tmp_path / "a.png", *attribution)
    refused("--redshift must be above -1", *plot, tmp_path / "a.png", "--redshift", "nan")
    refused("device must be one of this machine", *plot, tmp_path / "a.png", "--device", "nowhere")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.png").write_text("mine")
    refused("pass --overwrite", *plot, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"
    (tmp_path / "junk.fits").write_bytes(b"SIMPLE")
    refused("junk.fits, row 0:", "plot", tmp_path / "junk.fits", "-o", tmp_path / "b.png")


def test_lines_are_named_at_the_redshift_that_is_asked_for_and_labels_stay(tmp_path, checkpoint, monkeypatch):
    pytest.importorskip("matplotlib")
    from spectok_hf.analysis import plots, spectrum_card

    drawn = []
    monkeypatch.setattr(plots, "mark_lines", lambda axis, **given: drawn.append(given) or axis)
    monkeypatch.setattr(spectrum_card, "_write_facts", lambda axis, facts: drawn.append([fact.text for fact in facts]))
    write_spectra([Spectrum(np.ones(64), 5000.0 + np.arange(64), np.ones(64))], tmp_path / "nameless.parquet")
    plot = ["plot", tmp_path / "nameless.parquet", "--redshift", 0.1, "-o"]
    assert "no lines are named" in done(*plot, tmp_path / "a.png", "-m", checkpoint).stderr
    assert "no lines are named" not in done(*plot, tmp_path / "b.png").stderr
    assert [given["kind"] in LINES for given in drawn] == [False, True]
    done("plot", "simulate:sdss:1:2512", "--kind", "card", "--redshift", 0.1, "-o", tmp_path / "c.png")
    assert "redshift: 0.1796" in drawn[-1] and "at z = 0.1000, as asked for" in drawn[-1]
