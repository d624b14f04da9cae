"""`embed_spectra`: a row per spectrum, in order, that says what the model says."""

import json
import os
import shutil
import signal
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraModel,
    OmniSpectraProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokModel,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.data.shards import write_shards
from spectok_hf.embedding import embed_spectra
from spectok_hf.inference.part_runs import OUTPUT

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SURVEYS = {"sdss": 7, "galah": 2, "desi": 3}
SOURCES = [f"simulate:{survey}:{count}" for survey, count in SURVEYS.items()]
SPECTRA = [spectrum for survey, count in SURVEYS.items() for spectrum in simulate_survey(survey, count)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpecTokModel(SpecTokConfig(**SIZE)).eval()


@pytest.fixture(scope="module")
def embedded(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded") / "whole"
    embed(model, folder, tokens=True)
    return folder


def embed(model, folder, sources=SOURCES, **options):
    options = {"spectra_per_part": 3, "device": "cpu", "token_budget": 300} | options
    return embed_spectra(sources, (model, SpectrumProcessor()), folder, **options)


def rows_of(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bad_spectrum(name="bad"):
    return Spectrum(np.ones(100), 5000 + np.arange(100.0), np.zeros(100), survey="made", object_id=name)


def test_rows_are_what_the_model_says_of_each_spectrum_alone(model, embedded):
    processor = SpectrumProcessor()
    rows = rows_of(embedded)
    assert [row["object_id"] for row in rows] == [spectrum.object_id for spectrum in SPECTRA]
    assert [(row["source"], row["row"]) for row in rows][6:8] == [("simulate:sdss:7", 6), ("simulate:galah:2", 0)]
    for row, spectrum in zip(rows, SPECTRA, strict=True):
        with torch.no_grad():
            outputs = model(**processor(spectrum, return_tensors="pt"))
        valid = processor.patch(spectrum)["attention_mask"].astype(bool)
        np.testing.assert_allclose(row["embedding"], outputs.pooler_output[0], atol=1e-5)
        np.testing.assert_allclose(row["tokens"], outputs.tokens[0][valid], atol=1e-5)
        np.testing.assert_allclose(row["token_wavelength"], outputs.token_wavelength[0][valid], rtol=1e-6)


def test_rows_say_how_good_a_spectrum_is(embedded):
    processor = SpectrumProcessor()
    for row, spectrum in zip(rows_of(embedded), SPECTRA, strict=True):
        patches = processor.patch(spectrum)
        good = spectrum.good
        assert row["survey"] == spectrum.survey and row["reason"] is None
        assert (row["num_patches"], row["valid_patches"]) == (len(patches["flux"]), patches["attention_mask"].sum())
        assert row["good_share"] == pytest.approx(patches["pixel_mask"].sum() / len(spectrum))
        assert row["snr"] == pytest.approx(np.median(spectrum.flux[good] / spectrum.error[good]), rel=1e-5)
        assert row["scale"] == pytest.approx(float(patches["scale"]))
        assert [row["wavelength_min"], row["wavelength_max"]] == spectrum.wavelength[[0, -1]].tolist()


def test_different_spectra_have_different_embeddings(embedded):
    embeddings = np.array([row["embedding"] for row in rows_of(embedded)])
    distances = np.linalg.norm(embeddings[:, None] - embeddings, axis=-1)
    assert distances[~np.eye(len(embeddings), dtype=bool)].min() > 1e-3


def test_the_manifest_says_which_weights_and_settings(model, embedded):
    manifest = json.loads((embedded / ".manifest.json").read_text())
    assert (manifest["parts"], manifest["rows"], manifest["spectra"]) == (5, 12, 12)
    assert manifest["options"]["model"] == "SpecTokModel" and manifest["options"]["patch_size"] == 32
    assert len(manifest["options"]["weights_sha256"]) == 64
    assert [file["rows"] for file in manifest["files"]] == [3, 3, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_readers_changes_nothing(workers, model, embedded, tmp_path):
    embed(model, tmp_path, tokens=True, num_workers=workers)
    assert contents(tmp_path) == contents(embedded)


def test_it_goes_on_where_it_stopped(model, embedded, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(embedded, folder)
    (folder / ".manifest.json").unlink()
    (folder / ".records/part-000001.json").unlink()
    (folder / ".part-000001.parquet.4242.tmp").write_text("half")
    assert embed(model, folder, tokens=True).spectra == 3
    assert contents(folder) == contents(embedded)
    assert embed(model, folder, tokens=True).spectra == 0


def test_other_weights_are_refused(embedded):
    torch.manual_seed(1)
    other = SpecTokModel(SpecTokConfig(**SIZE))
    with pytest.raises(ValueError, match="was begun with other settings or sources, weights_sha256 was"):
        embed(other, embedded, tokens=True)


def test_another_configuration_of_the_same_weights_is_refused(model, embedded):
    other = SpecTokModel(SpecTokConfig(**SIZE, wavelength_max_period=5000.0))
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="was begun with other settings or sources, config_sha256 was"):
        embed(other, embedded, tokens=True)
    same = deepcopy(model)
    same.config._name_or_path, same.config.architectures, same.config.transformers_version = "x", ["SpecTok"], "5.0"
    same.config.auto_map = {"AutoModel": "modeling.Model"}
    assert embed(same, embedded, tokens=True).spectra == 0


def test_a_folder_of_shards_is_no_folder_of_embeddings(model, tmp_path):
    prepare_shards("simulate:sdss:1", tmp_path / "shards", num_workers=1)
    embed(model, tmp_path / "rows", ["simulate:sdss:1"])
    for overwrite in (False, True):
        before = contents(tmp_path)
        with pytest.raises(ValueError, match=r"must be that of spectok embed, found .* \(spectok_hf.shards/2\)"):
            embed(model, tmp_path / "shards", ["simulate:sdss:1"], overwrite=overwrite)
        with pytest.raises(ValueError, match=r"must be that of spectok prepare, found .* \(spectok_hf.embeddings/2\)"):
            prepare_shards("simulate:sdss:1", tmp_path / "rows", num_workers=1, overwrite=overwrite)
        assert contents(tmp_path) == before


def test_sources_are_never_taken_for_output(model, embedded, tmp_path):
    shutil.copytree(embedded, tmp_path / "out")
    before = contents(tmp_path / "out")
    source = tmp_path / "out" / "part-000000.parquet"
    with pytest.raises(ValueError, match=r"holds the source \S*part-000000.parquet: pass another folder"):
        embed(model, tmp_path / "out", source, overwrite=True, on_error="skip")
    assert contents(tmp_path / "out") == before


def test_the_folder_is_read_by_its_name(embedded, tmp_path):
    import datasets
    import pandas
    import pyarrow.dataset

    rows = datasets.load_dataset(str(embedded), split="train", cache_dir=str(tmp_path))
    assert rows["object_id"][:] == [spectrum.object_id for spectrum in SPECTRA]
    assert len(pandas.read_parquet(embedded)) == pyarrow.dataset.dataset(embedded).count_rows() == len(SPECTRA)
    assert len(datasets.load_dataset("parquet", data_dir=str(embedded), cache_dir=str(tmp_path))["train"]) == 12


def test_a_model_may_be_spelled_otherwise_the_next_time(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "ck")
    SpectrumProcessor().save_pretrained(tmp_path / "ck")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = []
    for name in ("ck", "./ck", tmp_path / "ck", "~/ck"):
        done.append(embed_spectra("simulate:sdss:2", name, "~/out", device="cpu"))
    assert [outcome.spectra for outcome in done] == [2, 0, 0, 0]
    assert done[0].manifest["options"]["model"] == "ck" and (tmp_path / "out").is_dir()


def test_no_embedding_at_all_is_refused(model, tmp_path):
    write_shards([bad_spectrum()], tmp_path / "bad")
    with pytest.raises(ValueError, match=r"no spectrum is left of 1 parts: 1 all pixels are bad \(.*bad, row 0"):
        embed(model, tmp_path / "out", tmp_path / "bad")
    assert not (tmp_path / "out" / ".manifest.json").exists()
    with pytest.raises(ValueError, match=r"no spectrum is left of 0 parts: they held none"):
        embed(model, tmp_path / "none", "simulate:sdss:0")


def test_the_name_of_a_file_may_be_no_text(model, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.csv")
    try:
        with open(name, "w") as file:
            file.write('flux,wavelength,error\n"[1.0, 2.0, 3.0]","[5000.0, 4000.0, 5002.0]","[1.0, 1.0, 1.0]"\n')
    except OSError:
        pytest.skip("the file system has names in UTF-8 only")
    embed(model, tmp_path / "out", ["simulate:sdss:1", os.fsdecode(name)])
    assert rows_of(tmp_path / "out")[1]["source"] == f"{tmp_path}/caf\\udce9.csv"


def test_float32_is_float32_also_of_a_checkpoint_in_half_precision(model, tmp_path):
    half = deepcopy(model).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    SpectrumProcessor().save_pretrained(tmp_path / "half")
    sources = ["simulate:sdss:3"]
    embed_spectra(sources, tmp_path / "half", tmp_path / "out", device="cpu")
    embed(half.to(torch.float32), tmp_path / "expected", sources)
    found, expected = (np.array([row["embedding"] for row in rows_of(tmp_path / one)]) for one in ("out", "expected"))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_failure_in_a_reader_is_one_line(model, tmp_path):
    (tmp_path / "table.csv").write_text("")
    with pytest.raises(ValueError) as caught:
        embed(model, tmp_path / "out", tmp_path / "table.csv", num_workers=1, on_error="raise")
    assert str(tmp_path / "table.csv") in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_killed_reader_is_said_as_in_prepare(model, tmp_path, monkeypatch):
    main = os.getpid()

    def patch(*arguments):
        assert os.getpid() != main
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(SpectrumProcessor, "patch", patch)
    with pytest.raises(
        ValueError, match="a worker was killed, perhaps for want of memory: run the same command again"
    ):
        embed(model, tmp_path, num_workers=1)


def test_names_may_have_more_digits():
    assert OUTPUT.fullmatch("part-1000000.parquet") and not OUTPUT.fullmatch("part-1.parquet")


def test_what_has_no_embedding_has_a_row_with_a_reason(model, tmp_path):
    write_shards([SPECTRA[0], bad_spectrum(), SPECTRA[1]], tmp_path / "some")
    table = tmp_path / "table.csv"
    table.write_text('flux,wavelength,error\n"[1.0, 2.0, 3.0]","[5000.0, 4000.0, 5002.0]","[1.0, 1.0, 1.0]"\n')
    sources = [tmp_path / "some", table]
    outcome = embed(model, tmp_path / "out", sources, tokens=True)
    rows = rows_of(tmp_path / "out")
    assert [row["embedding"] is None for row in rows] == [False, True, False, True]
    assert [row["tokens"] is None for row in rows] == [False, True, False, True]
    assert rows[1]["reason"] == "all pixels are bad" and rows[1]["object_id"] == "bad" and rows[1]["snr"] is None
    assert rows[3]["reason"].startswith("wavelength must be strictly increasing") and rows[3]["source"] == str(table)
    manifest = outcome.manifest
    assert (manifest["rows"], manifest["spectra"], manifest["failures"]["count"]) == (4, 2, 1)
    assert manifest["dropped"]["all pixels are bad"]["spectra"] == 1
    with pytest.raises(ValueError, match=r"table.csv, row 0: wavelength must be strictly increasing"):
        embed(model, tmp_path / "strict", sources, on_error="raise")
    assert not (tmp_path / "strict/.manifest.json").exists() and not list(tmp_path.glob("strict/.part*"))


def test_windows_and_budgets_do_not_show(model, embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("spectok_hf.inference.part_runs.WINDOW", 2)
    embed(model, tmp_path, tokens=True, token_budget=1)
    assert [pq.ParquetFile(path).num_row_groups for path in sorted(tmp_path.glob("*.parquet"))] == [2, 2, 1, 1, 2]
    for row, expected in zip(rows_of(tmp_path), rows_of(embedded), strict=True):
        np.testing.assert_allclose(row.pop("embedding"), expected.pop("embedding"), atol=1e-5)
        np.testing.assert_allclose(row.pop("tokens"), expected.pop("tokens"), atol=1e-5)
        assert row == expected


def test_a_checkpoint_is_read_from_its_folder(tmp_path, capfd):
    torch.manual_seed(2)
    whole = SpecTokForPreTraining(SpecTokConfig(**SIZE))
    whole.save_pretrained(tmp_path / "model")
    SpectrumProcessor().save_pretrained(tmp_path / "model")
    options = {"device": "cpu", "spectra_per_part": 3}
    embed_spectra("simulate:sdss:2", tmp_path / "model", tmp_path / "first", **options)
    embed_spectra("simulate:sdss:2", (whole, SpectrumProcessor()), tmp_path / "second", **options)
    first, second = ([row["embedding"] for row in rows_of(tmp_path / name)] for name in ("first", "second"))
    assert first == second, "of a model with a decoder or head the encoder is taken"


def test_half_precision_comes_close(model, embedded, tmp_path):
    embed(model, tmp_path, dtype="bfloat16")
    found, expected = (np.array([row["embedding"] for row in rows_of(one)]) for one in (tmp_path, embedded))
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert (found != expected).any(axis=1).all(), "and not from computing in float32"
    assert "tokens" not in rows_of(tmp_path)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"on_error": "ignore"}, "on_error must be one of"),
        ({"token_budget": 0}, "token_budget must be at least 1 patch, found 0"),
        ({"device": "cuda:99"}, r"device must be one of this machine, found 'cuda:99' \(.*\): leave it out"),
        ({"device": "abacus"}, r"device must be one of this machine, found 'abacus'"),
    ],
)
def test_wrong_options_are_refused(options, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        embed(model, tmp_path, **options)


@pytest.mark.slow
def test_two_processes_share_the_parts(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    SpectrumProcessor().save_pretrained(tmp_path / "model")
    command = ["-m", "spectok_hf.cli", "embed", *SOURCES, "--model", "model", "--device", "cpu", "--quiet"]
    command += ["--spectra-per-part", "3", "--tokens", "-o"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command, "one"], cwd=tmp_path, env=environment, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    shared = subprocess.run(
        [*launch, *command, "two"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert shared.stdout.count("12 spectra; 12 in ") == 1, "the main process alone says what all have done"
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_say_an_error_once(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    SpectrumProcessor().save_pretrained(tmp_path / "model")
    (tmp_path / "broken.csv").write_text("")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["-m", "spectok_hf.cli", "embed", "--model", "model", "--device", "cpu", "--quiet", "-o", "out"]

    def run(*arguments):
        options = {"cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
        result = subprocess.run([*launch, *arguments], **options)
        assert result.returncode
        return [line for line in result.stderr.splitlines() if line.startswith("spectok: ")]

    (line,) = run("absent.fits")
    assert line.startswith("spectok: no such file or folder: absent.fits")
    (line,) = run("simulate:sdss:1", "broken.csv", "--strict")
    assert "broken.csv" in line and line.endswith("(in process 2 of 2)"), "of the process alone that read it"


def test_the_other_family_writes_tokens_as_wide_as_its_states(tmp_path):
    torch.manual_seed(0)
    size = {name: value for name, value in SIZE.items() if name != "decoder_num_hidden_layers"}
    model, processor = OmniSpectraModel(OmniSpectraConfig(**size)).eval(), OmniSpectraProcessor()
    embed_spectra("simulate:gaia_xp:2:1005", (model, processor), tmp_path, tokens=True, device="cpu")
    for row, spectrum in zip(rows_of(tmp_path), simulate_survey("gaia_xp", 2, seed=1005), strict=True):
        inputs = processor(spectrum, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        valid = outputs.attention_mask[0] > 0
        np.testing.assert_allclose(row["embedding"], outputs.pooler_output[0], atol=1e-5)
        np.testing.assert_allclose(row["tokens"], outputs.tokens[0][valid], atol=1e-5)
        assert (row["num_patches"], row["valid_patches"]) == (len(valid), int(valid.sum()))
        assert row["scale"] == pytest.approx(spectrum.flux[spectrum.good].std(), rel=1e-4)
        assert row["good_share"] == pytest.approx(spectrum.good.mean()), "a pixel of two patches counts once"
