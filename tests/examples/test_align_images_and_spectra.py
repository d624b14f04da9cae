"""`examples/align_images_and_spectra.py`: a run with all its stages, how it goes on, and how runs are compared."""

import json
import math

import align_images_and_spectra as script
import judged_pairs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from spectok_hf import AstroClipModel, AstroClipProcessor
from spectok_hf.data.simulation.pairs import simulate_galaxy_pairs
from spectok_hf.evaluation.cross_modal import alignment_loss, embed_pairs

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
TINY = ["--smoke", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A smoke run: its folder, and what it found."""
    output = tmp_path_factory.mktemp("align") / "run"
    return output, script.main([*TINY, "--output_dir", str(output)])


def test_the_saved_model_is_the_one_that_was_judged(finished):
    output, scores = finished
    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    assert type(model) is AstroClipModel and type(processor) is AstroClipProcessor
    assert model.config.spectrum_config.model_type == scores["family"] == "spectok"
    held_out = simulate_galaxy_pairs(12, 2510)
    embedded = embed_pairs(model, processor, held_out)
    assert alignment_loss(embedded, 15.5, 8) == pytest.approx(scores["loss"], rel=1e-4)
    assert scores["chance"] == pytest.approx(math.log(8)) and scores["batch"] == 8


def test_the_spectrum_encoder_is_frozen_and_the_vision_model_is_not(finished):
    output, scores = finished
    aligned = load_file(output / "model.safetensors")
    pretrained = load_file(output / "start" / "spectrum_model" / "model.safetensors")
    encoder = {
        name.removeprefix("spectok."): values for name, values in pretrained.items() if name.startswith("spectok.")
    }
    shared = [name for name in encoder if f"spectrum_model.{name}" in aligned]
    assert len(shared) > 10
    assert all(torch.equal(encoder[name], aligned[f"spectrum_model.{name}"]) for name in shared)
    assert scores["parameters"]["trained"] > scores["parameters"]["image encoder"]


def test_the_report_holds_figures_beside_what_they_should_beat(finished):
    output, scores = finished
    assert scores == json.loads((output / "scores.json").read_text())
    assert [(row["query"], row["answers"]) for row in scores["retrieval"]][:2] == [
        ("spectrum", "image"),
        ("image", "spectrum"),
    ]
    assert all(
        {"recall@1", "recall@10", "chance", "redshift apart / (1 + z)"} <= set(row) for row in scores["retrieval"]
    )
    judged = {(row["task"], row["method"]): row for row in scores["properties"]}
    for method in ("spectrum: 3-NN", "image: MLP", "image, shuffled: 3-NN", "photometry (g, r, z): MLP"):
        assert math.isfinite(judged["redshift", method]["r_squared"])
    assert judged["log_stellar_mass", "constant"]["n_test"] == 12 and judged["redshift", "constant"]["n_train"] == 14
    assert set(scores["seconds"]) == {"simulation", "pretraining", "alignment", "embeddings", "judging", "pictures"}
    report = (output / "report.md").read_text()
    table = [line for line in report.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in table[:6]}) == 1
    pictures = sorted(path.name for path in output.glob("*.png"))
    assert len(pictures) == 5 and "attention.png" in pictures and "retrieved-image-spectrum.png" in pictures


def test_a_model_that_was_trained_before_is_judged_as_it_was_then(finished, tmp_path):
    output, first = finished
    options = [*TINY, "--judge", str(output), "--output_dir", str(tmp_path / "judged")]
    scores = script.main(options)
    assert str(scores["retrieval"]) == str(first["retrieval"]) and scores["loss"] == first["loss"]
    then, now = ([{**row, "seconds": 0} for row in one["properties"]] for one in (first, scores))
    assert str(now) == str(then)
    assert "alignment" not in scores["seconds"] and scores["settings"] == first["settings"]
    assert scores["judged"] == str(output) and (tmp_path / "judged" / "attention.png").is_file()
    with pytest.raises(FileExistsError, match="holds a report"):
        script.main(options)
    with pytest.raises(ValueError, match="takes a folder or Hub id of an AstroCLIP, found spectok"):
        script.main([*TINY, "--judge", str(output / "start" / "spectrum_model"), "--output_dir", str(tmp_path / "b")])
    assert script.parse_arguments(["--judge", "somewhere"])[-1].output_dir == "somewhere/judged"


def test_labels_are_read_from_pairs_that_were_not_trained_on(finished):
    _, scores = finished
    settings = scores["settings"]
    assert (settings["reference"], settings["reference_seed"], settings["held_out_seed"]) == (16, 2511, 2510)
    judged = script.simulate_judged(script.DataArguments(reference=2, num_held_out=1, num_workers=1), 16)
    names = [pair.spectrum.object_id for pairs in judged for pair in pairs]
    assert names == [f"sim-pair-desi-{seed}-{row:05d}" for seed, row in ((2511, 0), (2511, 1), (2510, 0))]


def test_a_finished_run_is_not_overwritten_unasked(finished):
    output, _ = finished
    with pytest.raises(FileExistsError, match="holds a finished run"):
        script.main([*TINY, "--output_dir", str(output)])


def test_a_pretrained_encoder_and_another_vision_model_are_taken_as_they_are(finished, tmp_path, capsys):
    output, first = finished
    options = ["--spectrum_model", str(output / "start" / "spectrum_model"), "--vision_config", json.dumps(RESNET)]
    scores = script.main([*TINY, *options, "--max_steps", "1", "--output_dir", str(tmp_path / "run")])
    assert "pretraining" not in scores["seconds"]
    assert scores["parameters"]["spectrum encoder"] == first["parameters"]["spectrum encoder"]
    model = AutoModel.from_pretrained(tmp_path / "run")
    assert model.config.vision_config.model_type == "resnet" and model.vision_model.num_parameters() < 20_000
    capsys.readouterr()
    rows = script.main(["--compare", str(output), str(tmp_path / "run")])
    table = capsys.readouterr().out
    assert rows[str(output)]["loss"] == first["loss"] and rows[str(tmp_path / "run")]["loss"] == scores["loss"]
    assert "| R² of redshift, spectrum: 3-NN |" in table and "SpecTok | SpecTok" in table
    with pytest.raises(FileNotFoundError, match=r"found no .*scores\.json"):
        script.main(["--compare", str(tmp_path)])


def test_an_interrupted_run_goes_on_with_the_encoder_it_had(tmp_path, monkeypatch):
    options = [*TINY, "--output_dir", str(tmp_path / "run"), "--save_strategy", "steps", "--save_steps", "1"]

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(judged_pairs, "judge_alignment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            script.main(options)
    before = load_file(tmp_path / "run" / "model.safetensors")
    monkeypatch.setattr(script, "pretrain_encoder", interrupted)  # it is there
    scores = script.main(options)
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "pretraining" not in scores["seconds"] and (tmp_path / "run" / "report.md").is_file()


@pytest.mark.parametrize(("augment", "expected"), [("true", 136), ("false", 96)])
def test_training_images_have_room_to_turn_and_judged_ones_have_not(tmp_path, monkeypatch, augment, expected):
    asked = []

    def recorded(survey, count, seed, size, workers):
        asked.append((seed, size))
        return []

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "simulate_pairs", recorded)
    monkeypatch.setattr(script, "pretrain_encoder", stopped)
    with pytest.raises(KeyboardInterrupt):
        script.main([*TINY, "--augment", augment, "--output_dir", str(tmp_path / "run")])
    assert asked == [(1, expected), (2511, 96), (2510, 96)]


def test_an_encoder_that_was_killed_while_it_was_saved_is_made_anew(tmp_path, monkeypatch):
    options = [*TINY, "--output_dir", str(tmp_path / "run"), "--pretrain_steps", "0"]

    def killed(trainer, folder):
        trainer.model.config.save_pretrained(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(script.pretrain.PretrainingTrainer, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            script.main(options)
    assert script.main(options)["loss"] > 0
    assert [path.name for path in (tmp_path / "run" / "start").iterdir()] == ["spectrum_model"]


@pytest.mark.parametrize("workers", [1, 2])
def test_pairs_are_the_same_by_any_number_of_processes(monkeypatch, workers):
    monkeypatch.setattr(script, "PER_TASK", 2)
    script.simulate_pairs.cache_clear()
    pairs = script.simulate_pairs("desi", 5, 3, 16, workers)
    script.simulate_pairs.cache_clear()
    expected = simulate_galaxy_pairs(5, 3, image_size=16)
    assert [pair.spectrum.object_id for pair in pairs] == [pair.spectrum.object_id for pair in expected]
    for one, other in zip(pairs, expected, strict=True):
        assert np.array_equal(one.spectrum.flux, other.spectrum.flux) and np.array_equal(
            one.image.flux, other.image.flux
        )


def test_options_that_would_judge_on_training_pairs_or_do_not_exist_are_refused():
    for option in ("--simulation_seed", "--reference_seed"):
        with pytest.raises(ValueError, match=r"--reference_seed must differ, found .*2510.*2510|found 2510, 2510"):
            script.parse_arguments([option, "2510"])
    with pytest.raises(ValueError, match="--spectrum_family"):
        script.parse_arguments(["--spectrum_family", "none"])


def test_what_was_compared_is_named_by_its_figures():
    retrieval = [{"query": "spectrum", "answers": "image", "recall@1": 0.1, "recall@10": 0.5, "chance": 0.01}]
    scores = {"family": "specformer", "parameters": {"trained": 1234}, "pairs": 10, "loss": 1.0, "chance": 2.0}
    scores["settings"] = {"held_out_seed": 2510}
    properties = [{"task": "redshift", "method": "image: MLP", "r_squared": 0.7}]
    row = judged_pairs.compared(
        scores | {"retrieval": retrieval, "properties": properties, "seconds": {"judging": 3.0}}
    )
    assert row["spectrum encoder"] == "Specformer" and row["parameters, trained"] == "1,234"
    assert row["held out seed"] == "2510"
    assert row["spectrum to image, recall@10"] == 0.5 and row["R² of redshift, image: MLP"] == 0.7


def test_a_frozen_encoder_that_is_remembered_runs_once_for_each_spectrum(finished):
    output, _ = finished
    model, processor = AutoModel.from_pretrained(output).eval(), AutoProcessor.from_pretrained(output)
    pairs = simulate_galaxy_pairs(3, 2510)
    batch = processor([pair.spectrum for pair in pairs], [pair.image for pair in pairs], return_tensors="pt")
    seen = []
    model.spectrum_model.embeddings.register_forward_hook(lambda module, inputs, given: seen.append(len(inputs[0])))
    expected = model(**batch).spectrum_embeds
    ran = len(seen)
    with script.remembered_states(model.spectrum_model):
        for rows in ([0, 1], [2, 1], [1, 0, 2]):
            found = model(**{name: values[rows] for name, values in batch.items()}).spectrum_embeds
            torch.testing.assert_close(found, expected[rows])
        assert len(seen) == 2 * ran + ran  # for the first two spectra, for the third, and not again
    model(**batch)
    assert len(seen) == 4 * ran
