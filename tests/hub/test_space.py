"""Spaces: what is written, what is refused, and what the page says, without a browser."""

import bz2
import gzip
import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import yaml

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpectrumImageProcessor,
    SpectrumProcessor,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitModel,
    read_spectra,
    simulate_survey,
)
from spectok_hf.data.spectrum_files import write_spectra
from spectok_hf.hub import space, space_app, space_uploads
from spectok_hf.hub.space import Checkpoint, SpaceModels, load_models, task_of, write_space
from spectok_hf.hub.space_app import respond
from spectok_hf.hub.space_uploads import read_upload

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
CLASSES = {0: "GALAXY", 1: "QSO", 2: "STAR"}
MODELS = {
    "autoencoder": (SpecTokForPreTraining, {}),
    "classes": (SpecTokForSpectrumClassification, {"id2label": CLASSES}),
    "stars": (
        SpecTokForStellarRegression,
        {
            "target_names": ["teff", "feh"],
            "target_units": ["K", "dex"],
            "target_mean": [5000.0, -0.5],
            "target_std": [800.0, 0.4],
            "predict_uncertainty": True,
        },
    ),
    "redshift": (SpecTokForRedshift, {"redshift_bins": 32}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of small untrained models by name, with an optimizer state beside the first."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, (model_class, fields) in MODELS.items():
        torch.manual_seed(0)
        model_class(SpecTokConfig(**SIZE, **fields)).save_pretrained(folder / name)
        SpectrumProcessor().save_pretrained(folder / name)
    (folder / "autoencoder" / "optimizer.pt").write_bytes(b"a pickle")
    return {name: folder / name for name in MODELS}


@pytest.fixture(scope="module")
def written(checkpoints, tmp_path_factory):
    """A Space with all heads."""
    heads = [checkpoints[name] for name in ("redshift", "classes", "stars")]
    folder = tmp_path_factory.mktemp("spaces") / "all"
    return write_space(checkpoints["autoencoder"], folder, heads=heads, title="Spectra: a test", surveys=["sdss"])


@pytest.fixture(scope="module")
def models(written):
    return load_models(written)


@pytest.fixture
def upload(tmp_path):
    """Writes a file of an upload and gives the list that gradio would give."""

    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return [str(tmp_path / name)]

    return write


def rows(spectra):
    """A table with a spectrum per row, as bytes of a CSV file."""
    lines = ["object_id,flux,wavelength,ivar"]
    for spectrum in spectra:
        arrays = [f'"{list(map(float, values))}"' for values in (spectrum.flux, spectrum.wavelength, spectrum.ivar)]
        lines.append(",".join([spectrum.object_id, *arrays]))
    return "\n".join(lines).encode()


# What is written ----------------------------------------------------------------------------------


def test_a_space_holds_what_it_needs_and_no_pickle(written):
    assert {path.name for path in written.iterdir()} == space.CONTENTS
    assert not [path for path in written.rglob("*") if path.suffix in (".pt", ".bin", ".pyc", ".pkl")]
    assert (written / "checkpoints/spectrum-redshift/model.safetensors").is_file()
    assert (written / "spectok_hf/hub/templates/space_readme.md").is_file()
    compile((written / "app.py").read_text(), "app.py", "exec")
    assert not list(written.parent.glob(".*")), "nothing of the writing is left beside it"


def test_the_readme_begins_with_what_the_hub_asks_for(written):
    text = (written / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["title"] == "Spectra: a test"
    assert (header["sdk"], header["app_file"], header["license"]) == ("gradio", "app.py", "mit")
    assert re.fullmatch(r"\d+\.\d+\.\d+", header["sdk_version"])
    assert header["python_version"] == "3.11"
    assert len(header["short_description"]) <= 60
    assert "{{" not in text and "| spectrum-redshift | `checkpoints/spectrum-redshift` | copied | sdss |" in text


def test_requirements_are_those_of_the_package_at_its_lowest_versions(written):
    lines = (written / "requirements.txt").read_text().splitlines()
    declared = importlib.metadata.requires("spectok-hf")
    assert {line for line in declared if ";" not in line} <= set(lines)
    assert any(line.startswith("gradio>=") for line in lines)
    assert not any(";" in line or line.startswith(("pytest", "peft")) for line in lines)


def test_examples_are_read_as_they_were_simulated(written):
    for text, (survey, kind, snr) in space.EXAMPLES.items():
        name = json.loads((written / "space.json").read_text())["examples"][text]
        found, made = read_spectra(written / "examples" / name)[0], simulate_survey(survey, 1, kind=kind, snr=snr)[0]
        np.testing.assert_allclose(found.wavelength, made.wavelength, rtol=1e-9)
        np.testing.assert_allclose(found.flux[made.good], made.flux[made.good], rtol=1e-5)
        np.testing.assert_array_equal(found.good, made.good)
        facts = ("survey", "object_id", "medium", "frame", "flux_unit")
        assert [getattr(found, fact) for fact in facts] == [getattr(made, fact) for fact in facts]


def test_a_checkpoint_on_the_hub_is_named_at_its_revision(checkpoints, tmp_path, monkeypatch):
    asked = []

    def read_config(name, revision=None):
        asked.append((str(name), revision))
        config = json.loads(
            (checkpoints["classes" if "org/" in str(name) else "autoencoder"] / "config.json").read_text()
        )
        return config, {}

    monkeypatch.setattr(space.PreTrainedConfig, "get_config_dict", read_config)
    monkeypatch.setattr(space, "cached_file", lambda *_, **__: None)  # no facts: the real Hub is not asked
    folder = write_space(
        checkpoints["autoencoder"], tmp_path / "space", heads=["org/classes@abc123"], models=["org/other"]
    )
    assert ("org/classes", "abc123") in asked
    entry = json.loads((folder / "space.json").read_text())["checkpoints"]["spectrum-classification"]
    assert entry == {"source": "org/classes", "revision": "abc123", "surveys": []}
    assert yaml.safe_load((folder / "README.md").read_text().split("---")[1])["models"] == ["org/classes", "org/other"]


def test_the_task_is_that_of_the_class():
    assert task_of(["OmniSpectraForRedshift"]) == "spectrum-redshift"
    with pytest.raises(ValueError, match=r"found \['SpecTokModel'\]"):
        task_of(["SpecTokModel"])
    with pytest.raises(ValueError, match=r"found \['AstroClipModel'\].*models of spectra and images, have no Space"):
        task_of(["AstroClipModel"])
    with pytest.raises(ValueError, match="found None"):
        task_of(None)


def test_surveys_of_a_simulated_training_set_are_known(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["autoencoder"], tmp_path / "model")
    for data, surveys in (
        ({"simulate": ["desi", "moon"], "data": []}, ["desi"]),
        ({"simulate": ["desi"], "data": ["x"]}, []),
    ):
        (folder / "run.json").write_text(json.dumps({"data": data}))
        written = write_space(folder, tmp_path / "space", overwrite=True)
        entry = json.loads((written / "space.json").read_text())["checkpoints"]["spectrum-reconstruction"]
        assert entry["surveys"] == surveys


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"checkpoint": "classes"}, "must be an autoencoder"),
        ({"heads": ["classes", "classes"]}, "second for spectrum-classification"),
        ({"heads": ["autoencoder"]}, "second for spectrum-reconstruction"),
        ({"surveys": ["moon"]}, "surveys must be among .* found moon"),
        ({"license": "MIT"}, "license must be an identifier of the Hub .* found 'MIT'"),
    ],
)
def test_checkpoints_that_make_no_space(checkpoints, tmp_path, arguments, message):
    chosen = {"checkpoint": "autoencoder"} | arguments
    checkpoint, heads = checkpoints[chosen.pop("checkpoint")], [checkpoints[name] for name in chosen.pop("heads", [])]
    with pytest.raises(ValueError, match=message):
        write_space(checkpoint, tmp_path / "space", heads=heads, **chosen)
    assert not list(tmp_path.iterdir())


def test_an_incomplete_checkpoint_and_no_checkpoint(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["autoencoder"], tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"found no preprocessor_config\.json or processor_config\.json: save both"):
        write_space(folder, tmp_path / "space")
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    with pytest.raises(ValueError, match=r"found no model\.safetensors or model\.safetensors\.index\.json: save both"):
        write_space(folder, tmp_path / "space")
    with pytest.raises(ValueError, match="must be a folder, or the id of a model"):
        write_space("outputs/no/such", tmp_path / "space")


def test_a_folder_is_overwritten_if_asked_and_if_nothing_else_is_in_it(checkpoints, tmp_path):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")  # a fresh clone counts as empty
    write_space(checkpoints["autoencoder"], folder)
    with pytest.raises(FileExistsError, match="holds a Space already"):
        write_space(checkpoints["autoencoder"], folder)
    (folder / "examples" / "stale.csv").write_text("")
    write_space(checkpoints["autoencoder"], folder, title="Second", overwrite=True)
    assert not (folder / "examples" / "stale.csv").exists()
    assert (folder / ".git" / "HEAD").read_text() == "ref"
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"nothing else, found thesis\.tex"):
        write_space(checkpoints["autoencoder"], folder, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="must be empty or a Space"):
        write_space(checkpoints["autoencoder"], other, overwrite=True)


def test_weights_are_copied_as_they_are_loaded(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["autoencoder"], tmp_path / "model")
    model = SpecTokForPreTraining.from_pretrained(folder)
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    model.save_pretrained(folder, max_shard_size="20KB")
    pieces = {path.name for path in folder.glob("model-*-of-*.safetensors")}
    assert len(pieces) > 1
    written = write_space(folder, tmp_path / "space")
    names = {path.name for path in (written / "checkpoints/spectrum-reconstruction").iterdir() if "safe" in path.name}
    assert names == {"model.safetensors.index.json", *pieces}
    loaded = load_models(written).autoencoder.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_a_folder_is_written_where_it_is(checkpoints, tmp_path, monkeypatch):
    for start in ("here", "real"):
        (tmp_path / start / ".git").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "here")
    for title in ("First", "Second"):
        for folder, real in ((".", tmp_path / "here"), (tmp_path / "link", tmp_path / "real")):
            inode = real.stat().st_ino
            assert write_space(checkpoints["autoencoder"], folder, title=title, overwrite=True) == Path(folder)
            assert real.stat().st_ino == inode, "the folder itself is not replaced"
            assert {path.name for path in real.iterdir()} == space.CONTENTS | {".git"}
            assert json.loads((real / "space.json").read_text())["title"] == title
    assert Path.cwd() == tmp_path / "here" and (tmp_path / "link").readlink() == Path("real")
    assert {path.name for path in tmp_path.iterdir()} == {"here", "real", "link"}


def test_a_link_to_nothing_is_refused(checkpoints, tmp_path):
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(FileExistsError, match="must be a folder, found a link to gone, where nothing is"):
        write_space(checkpoints["autoencoder"], tmp_path / "link", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


@pytest.mark.parametrize("last", ["app.py", "README.md"])
def test_a_failure_among_the_last_steps_is_undone(checkpoints, tmp_path, monkeypatch, last):
    folder = write_space(checkpoints["autoencoder"], tmp_path / "space", title="First")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rename = Path.rename

    def fail(path, target):
        if path.name == last and path.parent.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        write_space(checkpoints["autoencoder"], folder, title="Second", overwrite=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_failure_leaves_what_was_there(checkpoints, tmp_path, monkeypatch):
    folder = write_space(checkpoints["autoencoder"], tmp_path / "space", title="First")
    monkeypatch.setattr(space, "_copy_package", lambda target: (_ for _ in ()).throw(OSError("disk full")))
    for target, overwrite in ((folder, True), (tmp_path / "new", False)):
        with pytest.raises(OSError, match="disk full"):
            write_space(checkpoints["autoencoder"], target, title="Second", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["space"]
    assert {path.name for path in folder.iterdir()} == space.CONTENTS
    assert json.loads((folder / "space.json").read_text())["title"] == "First"


def test_a_folder_that_is_no_space(tmp_path):
    with pytest.raises(ValueError, match=r"must hold space\.json, found none"):
        load_models(tmp_path)


# Uploads ------------------------------------------------------------------------------------------


def test_an_unreadable_upload_tells_what_to_do_and_nothing_of_the_server(models, upload, tmp_path):
    files = upload("thesis.fits", b"years of work")
    with pytest.raises(ValueError, match=r"^thesis\.fits is not a FITS file") as caught:
        read_upload(files)
    assert "CSV file with the columns wavelength" in str(caught.value)
    shown = respond(models, files, None)
    assert shown["message"].startswith("### This upload cannot be analysed") and "years of work" in shown["message"]
    assert shown["reconstruction"] is None and shown["spectrum-classification"] is None
    for text in (str(caught.value), shown["message"]):
        assert "/" not in text.replace("read_spectra", ""), text
        assert "Traceback" not in text


def test_a_file_that_claims_what_it_does_not_hold_is_refused_before_it_is_opened(upload, tmp_path, write_sdss_file):
    spectrum = simulate_survey("sdss", 1)[0]
    content = Path(write_sdss_file(spectrum, tmp_path)).read_bytes()
    claims = re.sub(rb"NAXIS2  = .{20}", b"NAXIS2  = " + b"%20d" % 10**12, content, count=1)
    assert claims != content
    with pytest.raises(ValueError, match=r"^claims\.fits is not what its headers claim, or damaged: it is truncated"):
        read_upload(upload("claims.fits", claims))
    assert len(read_upload(upload("sound.fits", content))[0][0]) == len(spectrum)


def test_messages_keep_units_and_lose_folders():
    text = "/tmp/a b/../x/spec.fits: flux in erg/s/cm2/Angstrom (looked in /home/user)"
    assert (
        space_uploads._without_folders("/tmp/gradio/0a/spec.fits: erg/s/cm2/Angstrom")
        == "spec.fits: erg/s/cm2/Angstrom"
    )
    assert "home" not in space_uploads._without_folders(text)


def test_a_reader_that_breaks_is_a_message_and_not_a_traceback(models, upload, monkeypatch):
    def break_down(sources, **options):
        raise KeyError(f"{sources[0]}")

    monkeypatch.setattr(space_uploads, "read_spectra", break_down)
    shown = respond(models, upload("a.csv", b""), None)
    assert "KeyError" in shown["message"] and "/" not in shown["message"]


def test_a_name_hides_no_compression(upload, tmp_path, write_sdss_file):
    content = Path(write_sdss_file(simulate_survey("sdss", 1)[0], tmp_path)).read_bytes()
    claims = re.sub(rb"NAXIS   = .{20}", b"NAXIS   = " + b"%20d" % 10**9, content, count=1)
    for module in (gzip, bz2):
        with pytest.raises(
            ValueError, match=r"^claims\.fits is not what its headers claim, or damaged: NAXIS must be"
        ):
            read_upload(upload("claims.fits", module.compress(claims)))
        for name in ("twice.fits", "twice.gz"):
            with pytest.raises(
                ValueError, match=rf"^{name} is not a FITS file: .*unpacked where it is compressed, found"
            ):
                read_upload(upload(name, module.compress(gzip.compress(content))))
        assert len(read_upload(upload("sound.fits", module.compress(content)))[0]) == 1
    with pytest.raises(ValueError, match=r"^page\.gz is not a FITS file"):  # nor left to readers that guess
        read_upload(upload("page.gz", b"PK\x03\x04"))


@pytest.mark.parametrize("name", ["large.csv", "large.csv.gz", "large.fits"])
def test_files_are_limited_as_they_are_decompressed(upload, monkeypatch, name):
    content = b"0" * 3_000_000
    files = upload(name, content if name.endswith("csv") else gzip.compress(content))
    monkeypatch.setattr(space_uploads, "MAX_MEGABYTES", 2)
    with pytest.raises(ValueError, match=f"at most 2 MB, decompressed, found more at {name}"):
        read_upload(files)


def test_a_table_of_equal_numbers_is_as_large_as_it_is_read(upload, tmp_path, monkeypatch):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {name: np.ones(1_000_000) for name in ("flux", "ivar", "wavelength")}
    parquet.write_table(pa.table(columns), tmp_path / "flat.parquet")
    monkeypatch.setattr(space_uploads, "MAX_MEGABYTES", 20)
    assert (tmp_path / "flat.parquet").stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"at most 20 MB, decompressed, found more at flat\.parquet"):
        read_upload([tmp_path / "flat.parquet"])
    columns = {name: np.arange(4000.0, 4100.0) for name in columns}
    for repeated, kind in (
        ("x" * 10**6, pa.string()),
        (b"x" * 10**6, pa.binary(10**6)),
        (["x" * 10**6], pa.list_(pa.string())),
    ):
        columns["object_id"] = pa.array([repeated] * 100, kind)
        parquet.write_table(pa.table(columns), tmp_path / "text.parquet")
        with pytest.raises(ValueError, match=r"at most 20 MB, decompressed, found more at text\.parquet"):
            read_upload([tmp_path / "text.parquet"])
    columns["object_id"] = pa.array(["x" * 1000] * 100)
    parquet.write_table(pa.table(columns), tmp_path / "text.parquet")
    assert len(read_upload([tmp_path / "text.parquet"])[0]) == 1
    with pytest.raises(ValueError, match=r"^no\.parquet cannot be read as a table"):
        read_upload(upload("no.parquet", b"years of work"))


def test_what_only_looks_compressed(upload):
    with pytest.raises(ValueError, match=r"a\.fits\.gz cannot be decompressed"):
        read_upload(upload("a.fits.gz", b"\x1f\x8b123456789"))


def test_pixels_and_spectra_are_limited_and_that_is_said(upload, monkeypatch):
    files = upload("three.csv", rows(simulate_survey("gaia_xp", 3)))
    monkeypatch.setattr(space_uploads, "MAX_SPECTRA", 2)
    spectra, notes = read_upload(files)
    assert len(spectra) == 2 and notes == ["the first 2 of 3 spectra can be chosen"]
    monkeypatch.setattr(space_uploads, "MAX_PIXELS", 300)
    with pytest.raises(ValueError, match="found 3 spectra, the longest of 343 pixels"):
        read_upload(files)


@pytest.mark.parametrize("content", [b"years of work\n", b"flux,wavelength,ivar\n"])
def test_a_table_without_a_spectrum_says_so(upload, content):
    with pytest.raises(
        ValueError, match=r"^an upload must hold a spectrum, found none.*\. A CSV file with the columns"
    ):
        read_upload(upload("junk.csv", content))


@pytest.mark.parametrize("place", [3, -1, "two", 1.5, True])
def test_a_place_that_is_none_is_a_message(models, upload, place):
    shown = respond(models, upload("three.csv", rows(simulate_survey("gaia_xp", 3))), place)
    assert "must lie between 0 and 2 in this upload of 3, found" in shown["message"]
    assert len(shown["choices"]) == 3 and shown["place"] is None and shown["reconstruction"] is None


def test_files_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="different names"):
        read_upload([tmp_path / "a" / "x.csv", tmp_path / "b" / "x.csv"])


def test_the_first_good_spectrum_is_shown_until_another_is_chosen(models, upload):
    spectra = simulate_survey("gaia_xp", 3)
    spectra[0].ivar[:] = 0
    files = upload("three.csv", rows(spectra))
    shown = respond(models, files, None)
    assert shown["place"] == 1 and len(shown["choices"]) == 3
    assert "sim-gaia\\_xp-0-00001" in shown["summary"]
    assert "sim-gaia\\_xp-0-00002" in respond(models, files, 2)["summary"]
    bad = respond(models, files, 0)
    assert "all 343 pixels" in bad["message"] and bad["choices"] == shown["choices"]


# Answers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(models):
    pytest.importorskip("matplotlib")
    return respond(models, [models.examples["SDSS galaxy"]], None)


def test_answers_are_those_of_the_models(models, shown):
    spectrum = read_spectra(models.examples["SDSS galaxy"])[0]
    batch = SpectrumProcessor()(spectrum, return_tensors="pt")
    with torch.no_grad():
        shares = models.heads["spectrum-classification"].model(**batch).logits[0].softmax(-1)
        stars = models.heads["stellar-parameters"].model(**batch)
        redshift = models.heads["spectrum-redshift"].model(**batch)
    assert shown["spectrum-classification"] == pytest.approx(dict(zip(CLASSES.values(), shares.tolist(), strict=True)))
    cells = re.findall(r"\| Teff \| (\S+) \| (\S+) \| K \|", shown["stellar-parameters"])[0]
    assert float(cells[0]) == pytest.approx(float(stars.predictions[0, 0]), abs=1)
    assert float(cells[1]) == pytest.approx(float(stars.uncertainties[0, 0]), rel=0.05)
    value, spread = re.findall(r"redshift \| (\S+) ± (\S+) \|", shown["spectrum-redshift"])[0]
    assert float(value) == pytest.approx(float(redshift.redshift[0]), abs=float(spread) / 10)
    assert "zwarn (0 = good) | 1: low confidence" in shown["spectrum-redshift"]


def test_the_summary_says_what_was_read_and_dropped(shown):
    assert re.search(r"\d+ pixels · \d+\.\d to \d+\.\d Å in vacuum, observed frame · 9\d\.\d% ", shown["summary"])
    assert "marked in the mask that came with the spectrum" in shown["summary"]
    assert "* 0 pixels" not in shown["summary"]


def test_figures_have_labels_units_and_the_tokens_where_they_belong(models, shown):
    flux, residual = shown["reconstruction"].axes
    assert "Angstrom" in flux.get_ylabel() and "Å, vacuum" in residual.get_xlabel()
    tokens = next(axis for axis in shown["tokens"].axes if "channel" in axis.get_ylabel())
    spectrum = read_spectra(models.examples["SDSS galaxy"])[0]
    mesh = tokens.collections[0].get_coordinates()[..., 0]
    assert mesh.min() == pytest.approx(spectrum.wavelength[0], abs=3)
    assert 0 <= mesh.max() - spectrum.wavelength[-1] < 70, "the last patch is not full"


def test_a_space_of_the_other_family_says_what_it_is_and_predicts_each_patch_from_others(tmp_path):
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    size = {name: value for name, value in SIZE.items() if name != "decoder_num_hidden_layers"}
    model = OmniSpectraForPreTraining(OmniSpectraConfig(**size))
    model.remember_processor(OmniSpectraProcessor())
    model.save_pretrained(tmp_path / "masked")
    folder = write_space(tmp_path / "masked", tmp_path / "space", surveys=["sdss"])
    models = load_models(folder)
    assert models.title == "OmniSpectra: spectra as tokens"
    assert "- omnispectra" in (folder / "README.md").read_text()
    assert "one begins every 10 pixels. The reconstruction predicts each" in space_app._describe(models.autoencoder)
    spectrum = read_spectra(models.examples["SDSS galaxy"])[0]
    shown = respond(models, [models.examples["SDSS galaxy"]], None)
    tokens = models.autoencoder.processor.count_patches(spectrum.wavelength)
    assert f"{tokens} tokens of 16 numbers" in shown["summary"]
    batch = models.autoencoder.processor(spectrum, return_tensors="pt")
    with torch.no_grad():
        outputs = models.autoencoder.model.reconstruct(**batch)
    (expected,) = models.autoencoder.processor.post_process_reconstruction(outputs, spectrum)
    good = spectrum.good & ~expected.mask
    chi2 = np.mean((spectrum.flux - expected.flux)[good] ** 2 * spectrum.ivar[good])
    assert f"{chi2:.2f}" in shown["reconstruction"].axes[0].get_title(loc="left")
    mesh = next(axis for axis in shown["tokens"].axes if "channel" in axis.get_ylabel()).collections[0]
    edges = mesh.get_coordinates()[0, :, 0]
    assert len(edges) == 2 * tokens and (np.diff(edges) >= 0).all()


@pytest.mark.parametrize("resample", [False, True])
def test_a_space_of_a_model_of_one_grid_shows_its_spectra_and_says_what_it_cannot_read(tmp_path, resample):
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    size = {name: value for name, value in SIZE.items() if name != "decoder_num_hidden_layers"}
    model = SpecformerForPreTraining(SpecformerConfig(**size))
    model.remember_processor(SpecformerProcessor(resample=resample))
    model.save_pretrained(tmp_path / "model")
    folder = write_space(tmp_path / "model", tmp_path / "space")
    models = load_models(folder)
    assert list(models.examples) == ["DESI quasar"] and models.title == "Specformer: spectra as tokens"
    readme = (folder / "README.md").read_text()
    assert (
        "simulated by the package and not observed. Its model takes spectra on the wavelength grid of desi" in readme
    )
    assert "It reads spectra on DESI's wavelength grid alone." in space_app._describe(models.autoencoder)
    shown = respond(models, [models.examples["DESI quasar"]], None)
    assert "777 tokens of 16 numbers" in shown["summary"] and shown["message"] == ""
    write_spectra(simulate_survey("sdss", 1, seed=1), tmp_path / "other.parquet")
    shown = respond(models, [str(tmp_path / "other.parquet")], None)
    if resample:
        assert "777 tokens" in shown["summary"]
    else:
        assert "Specformer reads spectra on one grid" in shown["message"] and shown["reconstruction"] is None


def save_pictures(kind, folder, **changes):
    size = {name: value for name, value in SIZE.items() if name != "decoder_num_hidden_layers"}
    torch.manual_seed(0)
    vision = {"model_type": "vit", "image_size": 48, "patch_size": 16, **size}
    model = kind(SpectrumVitConfig(vision_config=vision, id2label=CLASSES, redshift_bins=32))
    model.remember_processor(SpectrumImageProcessor(image_size=48, **changes))
    model.save_pretrained(folder)
    return folder


def test_heads_of_pictures_answer_beside_an_autoencoder(checkpoints, tmp_path):
    pytest.importorskip("matplotlib")
    seeing = save_pictures(SpectrumVitForSpectrumClassification, tmp_path / "classes")
    blind = save_pictures(SpectrumVitForRedshift, tmp_path / "redshift", wavelength_range=(15_000, 17_000))
    models = load_models(write_space(checkpoints["autoencoder"], tmp_path / "space", heads=[seeing, blind]))
    shown = respond(models, [models.examples["SDSS galaxy"]], None)
    head = models.heads["spectrum-classification"]
    batch = head.processor(read_spectra(models.examples["SDSS galaxy"]), return_tensors="pt")
    with torch.no_grad():
        shares = head.model(**batch).logits[0].softmax(-1).tolist()
    assert shown["spectrum-classification"] == pytest.approx(dict(zip(CLASSES.values(), shares, strict=True)))
    assert shown["spectrum-redshift"] is None
    assert "Redshift: its model sees nothing of this spectrum, and has no answer" in shown["notes"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [(SpectrumVitModel, "encoders alone.* have no Space"), (SpectrumVitForRedshift, "an autoencoder .*as a head")],
)
def test_pictures_alone_make_no_space(kind, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_space(save_pictures(kind, tmp_path / "model"), tmp_path / "space")
    assert not (tmp_path / "space").exists()


def test_tokens_that_overlap_meet_in_the_middle():
    class Outputs(dict):
        __getattr__ = dict.get

    outputs = Outputs(
        tokens=torch.tensor([[[1.0], [3.0], [9.0]]]),
        token_wavelength=torch.tensor([[10.0, 20.0, 60.0]]),
        token_width=torch.tensor([[20.0, 20.0, 20.0]]),
        attention_mask=torch.tensor([[1, 1, 1]]),
    )
    edges, values = space_app._token_image(outputs)
    np.testing.assert_allclose(edges, [0, 15, 15, 30, 50, 70])
    assert np.isfinite(values[0, ::2]).all() and np.isnan(values[0, 1::2]).all()


def test_channels_are_standardised_and_gaps_are_empty():
    class Outputs(dict):
        __getattr__ = dict.get

    tokens = torch.tensor([[[1.0, 10.0], [3.0, 50.0], [9.0, 9.0], [0.0, 0.0]]])
    outputs = Outputs(
        tokens=tokens,
        token_wavelength=torch.tensor([[10.0, 20.0, 50.0, 0.0]]),
        token_width=torch.tensor([[10.0, 10.0, 10.0, 0.0]]),
        attention_mask=torch.tensor([[1, 1, 0, 0]]),
    )
    edges, values = space_app._token_image(outputs)
    np.testing.assert_allclose(edges, [5, 15, 15, 25, 45, 55])
    np.testing.assert_allclose(values, [[-1, np.nan, 1, np.nan, np.nan]] * 2)


def test_a_name_that_is_no_formula_is_drawn(models, upload):
    pytest.importorskip("matplotlib")
    spectrum = simulate_survey("gaia_xp", 1)[0]
    spectrum.object_id = r"<b>$\nonsense{$"
    shown = respond(models, upload("one.csv", rows([spectrum])), None)
    assert r"\<b\>\$\\nonsense\{\$" in shown["summary"]
    for name in ("reconstruction", "tokens"):
        shown[name].canvas.draw()


@pytest.mark.parametrize(
    ("example", "expected", "absent"),
    [
        ("APOGEE star", "100% of the good pixels lie at wavelengths that the model never saw", "mean something"),
        ("APOGEE star", "shifted to the rest frame", "whose redshift is that"),
        (
            "DESI quasar",
            "the classification head sees (100%) a QSO, and they mean something for stars only",
            "never saw",
        ),
    ],
)
def test_what_the_heads_were_not_made_for_is_said(models, example, expected, absent):
    pytest.importorskip("matplotlib")
    notes = respond(sure(models, "QSO" if "quasar" in example else "STAR"), [models.examples[example]], None)["notes"]
    assert expected in notes and absent not in notes


def sure(models, name):
    """The same models, but for a classification head that sees nothing but one class."""
    head = models.heads["spectrum-classification"]
    model = SpecTokForSpectrumClassification(head.model.config).eval()
    number = next(number for number, label in CLASSES.items() if label == name)
    torch.nn.init.constant_(model.head.classifier.bias[number : number + 1], 100.0)
    heads = {**models.heads, "spectrum-classification": Checkpoint(model, head.processor)}
    return SpaceModels(models.autoencoder, heads)


def test_values_far_from_the_training_set_are_pointed_at(models):
    pytest.importorskip("matplotlib")
    head = models.heads["stellar-parameters"]
    model = SpecTokForStellarRegression(head.model.config).eval()
    torch.nn.init.constant_(model.head.regressor.bias[:1], 5.0)
    far = SpaceModels(models.autoencoder, {"stellar-parameters": Checkpoint(model, head.processor)})
    notes = respond(far, [models.examples["GALAH star"]], None)["notes"]
    assert "Stellar parameters: teff beyond 3 standard deviations" in notes


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [(4812.34, 95.2, ("4812", "95")), (0.123456, 0.0123, ("0.123", "0.012")), (4.5, None, ("4.5", "not given"))],
)
def test_values_have_as_many_digits_as_they_are_worth(value, spread, text):
    assert space_app._with_spread(value, spread) == text


# The page -----------------------------------------------------------------------------------------


@pytest.fixture
def layout(monkeypatch):
    """Builds a page of a stand-in for gradio and gives the calls that made its components."""

    def build(models):
        gradio = MagicMock()
        monkeypatch.setattr(space_app, "import_gradio", lambda: gradio)
        space_app.build_app(models)
        return gradio.mock_calls

    return build


def test_the_page_has_a_part_for_everything(models, layout):
    identifiers = {call.kwargs.get("elem_id") for call in layout(models)}
    assert {"upload", "chooser", "reconstruction", "tokens", "neighbours", *space_app.HEADINGS} <= identifiers


def test_a_missing_head_says_how_to_add_it(models, layout):
    texts = [call.args[0] for call in layout(SpaceModels(models.autoencoder)) if call.args]
    for task in space_app.HEADINGS:
        assert space_app.missing_head(task) in texts
    assert "finetune_redshift.py" in space_app.missing_head("spectrum-redshift")


def test_uploads_are_limited_and_fonts_are_the_visitor_s_own(monkeypatch):
    gradio = MagicMock()
    monkeypatch.setattr(space_app, "import_gradio", lambda: gradio)
    assert space_app.launch_options()["max_file_size"] == 64_000_000
    fonts = gradio.themes.Default.call_args.kwargs
    assert all(isinstance(font, str) for font in fonts["font"] + fonts["font_mono"]), "text names no web font"


def test_without_gradio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r'pip install "spectok-hf\[space\]"'):
        space_app.build_app(SpaceModels(None))
