"""The commands on a checkpoint that reads spectra as pictures."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from spectok_hf import (
    SpectrumEncoder,
    SpectrumImageProcessor,
    SpectrumVitConfig,
    SpectrumVitForSpectrumClassification,
    SpectrumVitModel,
    simulate_survey,
)
from spectok_hf.analysis.picture_plots import plot_picture
from spectok_hf.cli import app
from spectok_hf.data.spectrum_files import write_spectra

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {"model_type": "vit", "image_size": 48, "patch_size": 16, "initializer_range": 0.3, **SIZE}
SPECTRA = simulate_survey("desi", 4, seed=1205)
PROCESSOR = SpectrumImageProcessor(image_size=48)


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
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for place, kind in ((folder, SpectrumVitModel), (folder / "classification", SpectrumVitForSpectrumClassification)):
        torch.manual_seed(0)
        kind(SpectrumVitConfig(vision_config=VISION, id2label={0: "GALAXY", 1: "STAR"})).save_pretrained(place)
        PROCESSOR.save_pretrained(place)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("spectra") / "desi.parquet"
    write_spectra(SPECTRA, path)
    return path


# Answers ------------------------------------------------------------------------------------------


def test_tables_have_the_answers_of_the_encoder(model, source, tmp_path):
    encoder = SpectrumEncoder.from_pretrained(model, device="cpu")
    done("encode", source, "-o", tmp_path / "vectors.parquet", "-m", model, "-q", "--device", "cpu")
    table = pq.read_table(tmp_path / "vectors.parquet").to_pydict()
    np.testing.assert_allclose(np.array(table["embedding"]), encoder.encode(SPECTRA), atol=1e-5)
    assert table["num_patches"] == [1] * 4
    rows = done("classify", source, "-m", model, "-q", "--json", "--device", "cpu").stdout.splitlines()
    wanted = encoder.classify(SPECTRA)
    assert [json.loads(row)["class"] for row in rows] == [row["class"] for row in wanted]
    assert json.loads(rows[0])["p_STAR"] == pytest.approx(wanted[0]["p_STAR"], abs=1e-5)


def test_what_a_model_of_pictures_has_not_is_said(model, source, tmp_path):
    picture = "which reads a spectrum as one picture"
    refused(picture, "encode", source, "--tokens", "-o", tmp_path / "t.parquet", "-m", model, "-q")
    refused(
        "no model of pictures has a decoder", "reconstruct", source, "-o", tmp_path / "r.parquet", "-m", model, "-q"
    )
    refused(picture, "outliers", source, "-m", model, "-q")
    refused(picture, "plot", source, "--kind", "card", "-o", tmp_path / "card.png", "-m", model)
    refused(picture, "plot", source, "--kind", "attribution", "-o", tmp_path / "a.png", "-m", model)
    refused(picture, "search", source, source, "--window", 4000, 5000, "-m", model, "-q")
    assert not list(tmp_path.iterdir())


def test_spectra_are_found_and_the_checkpoint_tests_itself(model, source, tmp_path):
    done("index", source, "-o", tmp_path / "index", "-m", model, "-q")
    rows = done("search", source, tmp_path / "index", "--row", 2, "-k", 2, "-m", model, "--json").stdout.splitlines()
    assert json.loads(rows[0])["id"] == SPECTRA[2].object_id
    tests = {
        test["name"]: test["problem"] for test in json.loads(done("doctor", "-m", model, "--json").stdout)["tests"]
    }
    assert tests == dict.fromkeys(("load", "embeddings", "batches", "reconstruction"), "")


def test_shards_take_the_processor_of_a_model_of_pictures_or_of_the_family(model, source, tmp_path):
    for name, options in {"model": ("--model", model), "family": ("--family", "spectrum_vit")}.items():
        done("prepare", source, "-o", tmp_path / name, "-q", "--workers", 1, *options)
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["spectra"] == 4 and "patch_size" not in manifest["validity"]
    refused(
        "pictures, which have none",
        "prepare",
        source,
        "-o",
        tmp_path / "no",
        "--family",
        "spectrum_vit",
        "--patch-size",
        8,
    )


# Looking ------------------------------------------------------------------------------------------


def test_info_and_read_say_what_the_picture_shows(model, source):
    assert 'a picture "map" of 48 x 48 pixels' in done("info", model).stdout
    assert json.loads(done("info", model, "--json").stdout)["image_size"] == 48
    text = done("read", source, "-m", model, "--most", 1).stdout
    assert "256 cells" in text and "31 pixels each" in text and "S/N" in text
    first = json.loads(done("read", source, "-m", model, "--most", 1, "--json").stdout)
    assert (first["valid_patches"], first["patches"]) == (1, 1)


@pytest.mark.parametrize("options", [("--model",), ("--kind", "picture", "--model")])
def test_a_model_of_pictures_shows_what_it_sees(options, model, source, tmp_path):
    done("plot", source, "--row", 1, "-o", tmp_path / "seen.svg", *options, model)
    assert f'{SPECTRA[1].name}, as "map", 48 x 48 pixels' in (tmp_path / "seen.svg").read_text()


@pytest.mark.parametrize("plot_type", ["simple", "overlap", "map"])
def test_pictures_need_no_checkpoint(plot_type, source, tmp_path):
    done("plot", source, "--plot-type", plot_type, "-o", tmp_path / "seen.svg")
    assert f'as "{plot_type}", 224 x 224 pixels' in (tmp_path / "seen.svg").read_text()


def test_a_picture_that_cannot_be_drawn_is_refused(model, source, tmp_path):
    to = ("-o", tmp_path / "seen.png")
    refused("spectok-tiny reads no pictures: pass --model of one that does", "plot", source, "--kind", "picture", *to)
    refused("--plot-type is of pictures", "plot", source, "--kind", "card", "--plot-type", "map", *to)
    refused("plot_type must be", "plot", source, "--plot-type", "pie", *to)
    refused("--redshift names lines", "plot", source, "--redshift", 0.1, "-m", model, *to)
    assert not to[1].exists()


def test_a_plot_holds_the_picture_pixel_by_pixel_and_says_where_it_reaches():
    (spectrum,) = simulate_survey("galah", 1, seed=1205)
    for plot_type in ("simple", "overlap", "map"):
        processor = SpectrumImageProcessor(plot_type, image_size=60, medium="vacuum", map_colors="gray")
        axes = plot_picture(spectrum, processor)
        (image,) = axes.get_images()
        np.testing.assert_array_equal(image.get_array(), processor.draw(spectrum))
        if plot_type == "simple":
            extent = image.get_extent()
            assert extent[0] - spectrum.wavelength[0] == pytest.approx(1.32, abs=0.05)  # from air, in which GALAH is
            assert tuple(extent[2:]) == processor.flux_limits(spectrum)
            assert axes.get_xlabel() == "wavelength [Å, vacuum, " + f"{spectrum.frame} frame]"
        ends = f"{spectrum.wavelength[0] + 1.32:.0f}"
        assert plot_type == "simple" or ends in axes.get_xlabel()
        axes.figure.clear()


def test_a_constant_spectrum_has_axes_and_patches_have_none():
    (spectrum,) = simulate_survey("sdss", 1, seed=1205)
    flat = type(spectrum)(np.full(len(spectrum), 2.0), spectrum.wavelength, spectrum.ivar)
    axes = plot_picture(flat, SpectrumImageProcessor("simple"))
    assert axes.get_images()[0].get_extent()[2:] == [1, 3]
    with pytest.raises(ValueError, match="a picture needs a SpectrumImageProcessor, found SpectrumProcessor"):
        plot_picture(flat, SpectrumEncoder.from_pretrained().processor)
