"""The scripts that judge a pretrained checkpoint: reconstruction, latent space, transfer."""

import csv
import shutil
from types import SimpleNamespace

import evaluate_reconstruction
import evaluate_transfer
import judged_checkpoint
import latent_space
import numpy as np
import pytest
import torch

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, SpectrumProcessor, simulate_survey
from spectok_hf.data.dataset import held_out
from spectok_hf.data.shards import write_shards
from spectok_hf.evaluation.reconstruction import SpectrumScore
from spectok_hf.hub import truth_results

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pytest.importorskip("sklearn")
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    SpecTokForPreTraining(SpecTokConfig(**TINY)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def no_real_spectra(monkeypatch):
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)


def written(stem):
    with stem.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


# Reconstruction


def test_reconstruction_is_judged_beside_baselines_and_targets(checkpoint, tmp_path):
    stem = tmp_path / "reconstruction"
    arguments = evaluate_reconstruction.parse_arguments([checkpoint, "--smoke", "--output", str(stem)])
    rows = evaluate_reconstruction.run(arguments)
    text = stem.with_suffix(".md").read_text()
    assert len(written(stem)) == len(rows) and stem.with_suffix(".png").stat().st_size > 1000
    judges = {row["judge"] for row in rows}
    assert judges == {evaluate_reconstruction.REAL, evaluate_reconstruction.HIDDEN, evaluate_reconstruction.SIMULATED}
    for row in rows:
        figure = row.get("ratio", row["model"])
        assert row["reached"] == ("yes" if figure <= row["target"] else "no")
        assert f"| {row['survey']} |" in text
    observed = next(row for row in rows if row["judge"] == evaluate_reconstruction.REAL)
    assert observed["ratio"] == pytest.approx(observed["model"] / observed["patch PCA of the survey"])
    assert observed["compression"] == pytest.approx(4, abs=0.2)
    results = evaluate_reconstruction.card_results(rows)
    assert [(result.value, result.test_objects) for result in results] == [
        (float(f"{row['model']:.3g}"), 1) for row in rows if row["judge"] != evaluate_reconstruction.SIMULATED
    ]


def test_rows_of_the_truth_serve_a_card_too(checkpoint):
    arguments = evaluate_reconstruction.parse_arguments([checkpoint, "--smoke"])
    wide = evaluate_reconstruction.judge_simulated(judged_checkpoint.load_checkpoint(checkpoint), arguments)
    tidy = evaluate_reconstruction.truth_by_condition(wide, evaluate_reconstruction.TARGETS["small"])
    results = truth_results(wide)
    assert [float(f"{row['model']:.3g}") for row in tidy] == [result.value for result in results]
    assert {(row["condition"], row["target"]) for row in tidy} == {
        ("S/N 10", 0.22),
        ("S/N 30", 0.35),
        ("S/N 100", 1.0),
    }


def test_spectra_are_binned_by_their_own_noise():
    scores = [
        SpectrumScore("boss-simulated", snr, 100, 3, {"model": 1.0}, truth={"model": chi2})
        for snr, chi2 in ((5, 0.2), (9.9, 0.4), (10, 0.5), (150, 9.0))
    ]
    rows = evaluate_reconstruction.truth_by_snr(scores, evaluate_reconstruction.TARGETS["tiny"])
    assert [(row["condition"], row["spectra"], row["reached"]) for row in rows] == [
        ("S/N 0-10", 2, "no"),
        ("S/N 10-30", 1, "no"),
        ("S/N > 100", 1, None),
    ]
    assert rows[0]["model"] == pytest.approx(0.3) and rows[0]["survey"] == "boss"


@pytest.mark.parametrize(("width", "size"), [(32, "tiny"), (256, "small")])
def test_targets_follow_the_size(width, size):
    model = SpecTokForPreTraining(SpecTokConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=2))
    checkpoint = judged_checkpoint.Checkpoint("here", model, SpectrumProcessor())
    assert evaluate_reconstruction.target_size(checkpoint) == size


# What the judges share


def test_the_objects_that_training_held_out_are_those_of_its_shards(tmp_path):
    pytest.importorskip("pyarrow")
    spectra = simulate_survey("sdss", 40, seed=3)
    for spectrum in spectra[:30]:
        spectrum.truth = None  # as if it were real
    write_shards(spectra, tmp_path)
    arguments = SimpleNamespace(shards=[str(tmp_path)], eval_share=0.25, seed=0, spectra=None)
    split = judged_checkpoint.load_split(arguments, SpectrumProcessor())
    chosen = held_out(spectra, 0.25, seed=0)[:30]  # with the simulated ones in mind
    names = [spectrum.object_id for spectrum in spectra[:30]]
    assert {s.object_id for s in split.held_out} == set(np.array(names)[chosen])
    assert {s.object_id for s in split.train} == set(np.array(names)[~chosen])


def test_without_spectra_it_says_what_to_do(checkpoint):
    arguments = evaluate_reconstruction.parse_arguments([checkpoint])
    with pytest.raises(ValueError, match="no real spectra: pass --spectra FOLDER or --shards, set SPECTOK_SPECTRA"):
        evaluate_reconstruction.run(arguments)


# Latent space


@pytest.fixture
def without_umap(monkeypatch):
    """Its compilation takes 20 seconds; the map itself is tested in tests/analysis."""
    monkeypatch.setattr(latent_space, "umap_map", lambda vectors: vectors[:, :2])


def test_maps_and_neighbours_of_simulated_galaxies(checkpoint, tmp_path, without_umap):
    arguments = latent_space.parse_arguments([checkpoint, "--smoke", "--output", str(tmp_path)])
    rows = latent_space.run(arguments)
    assert [row["label"] for row in rows] == ["log stellar mass", "redshift", "age", "log sSFR"]
    assert {path.name for path in tmp_path.iterdir()} == {"galaxies.png", "neighbours.md", "neighbours.csv"}
    assert (tmp_path / "galaxies.png").stat().st_size < 150_000
    for row, result in zip(rows, latent_space.card_results(rows), strict=True):
        assert all(np.isfinite(row[space]) for space in ("embedding", "UMAP", "mean token", "PCA of flux"))
        assert (result.value, result.test_objects) == (float(f"{row['embedding']:.3g}"), 16)


def test_real_spectra_are_scored_within_their_survey(checkpoint, without_umap):
    spectra = [
        *simulate_survey("lamost", 36, seed=3, kind="STAR"),
        *simulate_survey("boss", 16, seed=3, kind="GALAXY"),
        *simulate_survey("boss", 16, seed=3, start=16, kind="QSO"),
    ]
    for spectrum in spectra:
        spectrum.truth = None  # as if it were real
    spectra[0].labels["teff"] = np.nan
    known = sum(np.isfinite(s.labels.get("teff", np.nan)) for s in spectra[:36])
    embedded = latent_space.embed(judged_checkpoint.load_checkpoint(checkpoint), spectra)
    rows = {(row["sample"], row["label"]): row for row in latent_space.judge_real(embedded)}
    assert rows["lamost", "Teff"]["spectra"] == known < 36
    assert ("lamost", "class") not in rows and ("lamost", "redshift") not in rows  # one class; stars
    assert rows["boss", "class"]["most frequent"] == 0.5 and rows["boss", "redshift"]["score"] == "R²"
    assert rows[latent_space.TOGETHER, "survey"]["embedding"] > 0.9  # which is why they are judged apart


# Transfer


def test_transfer_of_one_checkpoint_beside_another(checkpoint, tmp_path):
    stem, other = tmp_path / "transfer", str(tmp_path / "other")
    shutil.copytree(checkpoint, other)
    arguments = [checkpoint, "--smoke", "--output", str(stem), "--compare", other]
    rows = evaluate_transfer.run(evaluate_transfer.parse_arguments(arguments))
    text = stem.with_suffix(".md").read_text()
    assert len(written(stem)) == len(rows) == 2 * len(evaluate_transfer.SMOKE)
    assert stem.with_suffix(".png").stat().st_size > 1000
    assert "chi2 / patch PCA (other)" in text
    of = {(row["checkpoint"], row["sample"], row["change"]): row["chi2"] for row in rows}
    assert of[other, "simulated BOSS", "untouched"] == of[checkpoint, "simulated BOSS", "untouched"]
    for row in rows:
        assert np.isfinite(row["chi2 / patch PCA"]) and np.isfinite(row["embedding, own fit"])
        assert ("raw flux, untouched fit" in row) == (row["change"] in ("untouched", "resolving power"))
        if row["change"] == "untouched":
            assert row["embedding, own fit"] == pytest.approx(row["embedding, untouched fit"])


@pytest.mark.parametrize("survey", ["lamost", "boss", "apogee"])
def test_every_change_leaves_something_to_see(survey):
    spectrum = simulate_survey(survey, 1, seed=3)[0]
    lengths = {}
    for change in evaluate_transfer.CHANGES:
        changed = change.apply(spectrum)
        lengths[change.kind, change.amount] = len(changed)
        assert SpectrumProcessor().patch(changed)["attention_mask"].any()
        assert change.keeps_grid <= (len(spectrum) - len(changed) <= 3)
    assert lengths["pixels rebinned", "4 to 1"] == pytest.approx(len(spectrum) / 4, abs=3)
    assert len({change[:2] for change in evaluate_transfer.CHANGES}) == len(evaluate_transfer.CHANGES)


def test_spectra_that_a_change_leaves_empty_are_dropped(capsys):
    stars = simulate_survey("lamost", 4, seed=3, kind="STAR")
    stars[0].mask[: len(stars[0]) // 2] = True
    sample = evaluate_transfer.Sample("stars", "teff", stars[:3], stars[3:])
    change = evaluate_transfer.CHANGES[-4]  # the blue quarter
    evaluate_transfer.keep_usable(sample, [change], SpectrumProcessor())
    assert change[:2] == (evaluate_transfer.BLUE, "1/4")
    assert (len(sample.train), len(sample.judged), len(sample.labelled)) == (2, 1, 3)
    assert "dropped 1 spectra of stars" in capsys.readouterr().out
