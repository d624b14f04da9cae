"""Pictures beside sequences: what is done is kept, and every network has the same compute."""

import json
from types import SimpleNamespace

import compare_pictures
import numpy as np
import pytest
import torch
from evaluate_checkpoint import class_task

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, SpectrumProcessor, simulate_survey

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FAST = ["ViT, map", "1-D transformer", "SpecTok, fine-tuned", "SpecTok, frozen head", "constant"]


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)
    monkeypatch.setattr(compare_pictures, "SIZES", SMALL)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pretrained")
    SpecTokForPreTraining(SpecTokConfig(**SMALL, intermediate_size=64, decoder_num_hidden_layers=1)).save_pretrained(
        folder
    )
    SpectrumProcessor().save_pretrained(folder)
    return str(folder)


def run(checkpoint, output, *more):
    arguments = ["--smoke", "--checkpoint", checkpoint, "--output", str(output), "--vit_patch_size", "32", *more]
    return compare_pictures.run(compare_pictures.parse_arguments(arguments))


def lines(output):
    return [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]


def test_networks_have_equal_compute_and_what_is_done_is_not_done_again(checkpoint, tmp_path, monkeypatch):
    text = run(checkpoint, tmp_path, "--tasks", "simulated classes", "--gflop", "3", "--methods", *FAST)
    assert (tmp_path / "comparison.md").read_text() == text + "\n"
    assert all(f"| simulated classes | {name} |" in text for name in FAST)
    found = {entry["key"][1]: entry for entry in lines(tmp_path)}
    for name in FAST[:3]:
        cost = found[name]["cost"]
        assert cost["GFLOP of training"] == pytest.approx(3, abs=1.5 * cost["GFLOP per spectrum"] * 16 + 0.01)
        assert cost["steps"] > 1 and cost["learning rate"] == 1e-4
    assert 0 < found["SpecTok, frozen head"]["cost"]["GFLOP of training"] < 3
    assert found["constant"]["cost"] == {}
    assert {row["snr"] for row in found["constant"]["by_snr"]} >= {"< 5"}

    done = []
    monkeypatch.setattr(compare_pictures, "do", lambda name, task, *rest: done.append((name, task.name)))
    again = ["--gflop", "3", "--tasks", "simulated classes", "simulated redshifts", "--methods", "constant"]
    assert run(checkpoint, tmp_path, *again) == text
    assert done == [("constant", "simulated redshifts")]


def test_another_budget_is_another_comparison(checkpoint, tmp_path):
    plain = ["--tasks", "simulated APOGEE", "--methods", "constant"]
    run(checkpoint, tmp_path, *plain, "--gflop", "1")
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"key": ["simulated APOGEE", "co')  # a run that was killed
    run(checkpoint, tmp_path, *plain, "--gflop", "2")
    text = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(text) == 3
    assert [json.loads(text[row])["settings"]["gflop"] for row in (0, 2)] == [1, 2]
    assert run(checkpoint, tmp_path, *plain, "--gflop", "2").count("| simulated APOGEE | teff (K) | constant |") == 1


def test_learning_rates_are_chosen_without_the_test_part():
    task = class_task("classes", simulate_survey("sdss", 60, seed=4), 1)
    tuning = compare_pictures.tuning_task(task)
    split, parts = task.splits[0], tuning.splits[0]
    assert np.array_equal(parts.train, split.train)
    assert not set(split.test) & {*parts.train, *parts.validation, *parts.test}
    assert sorted([*parts.validation, *parts.test]) == sorted(split.validation)
    assert abs(len(parts.validation) - len(parts.test)) <= 2


@pytest.mark.parametrize(
    ("score", "best", "tries"),
    [
        (lambda rate: -abs(rate - 3e-4), 3e-4, [1e-4, 3e-4, 1e-3]),
        (lambda rate: rate, 9e-3, [1e-4, 3e-4, 1e-3, 3e-3, 9e-3]),  # up to five, while the best is at an end
        (lambda rate: -abs(rate - 3e-5), 1e-4 / 3, [1e-4, 3e-4, 1e-3, 1e-4 / 3, 1e-4 / 9]),
    ],
)
def test_the_best_rate_is_taken_and_tried_once_for_all_pictures(score, best, tries, tmp_path, monkeypatch):
    task = class_task("classes", simulate_survey("sdss", 60, seed=4), 1)
    monkeypatch.setattr(compare_pictures, "CHOSEN_BY", {"classification": ("score", 1)})
    tried = []

    def method_of(name, args, backbone, costs, rate, gflop):
        tried.append((name, rate, gflop))
        return score(rate)

    monkeypatch.setattr(compare_pictures, "make_method", method_of)
    monkeypatch.setattr(
        compare_pictures, "evaluate_tasks", lambda tasks, methods, **given: [{"score": next(iter(methods.values()))}]
    )
    args = compare_pictures.parse_arguments(
        ["--gflop", "8", "--tuning_share", "0.25", "--rates", "1e-4", "3e-4", "1e-3"]
    )
    results = compare_pictures.Results(tmp_path / "results.jsonl", {})
    for name in ("ViT, simple", "ViT, map", "ViT, overlap"):
        assert compare_pictures.choose_rate(name, task.kind, [task], args, None, results) == pytest.approx(best)
    assert tried == [("ViT, map", pytest.approx(rate), 2) for rate in tries]


def test_cells_are_as_large_as_the_longest_spectrum_allows():
    def side(pixels):
        return compare_pictures.block_size(SimpleNamespace(spectra=[range(9), range(pixels)]))

    assert [side(pixels) for pixels in (100, 343, 3850, 5476, 7781)] == [22, 11, 3, 3, 3]


@pytest.mark.parametrize("what", ["task", "method"])
def test_an_unknown_name_is_said(what, checkpoint, tmp_path):
    with pytest.raises(ValueError, match=f"there is no {what} weather: "):
        run(checkpoint, tmp_path, f"--{what}s", "weather")


@pytest.mark.slow
def test_everything_is_compared(tmp_path):
    text = run("spectok-tiny", tmp_path)
    assert all(name in text for name in compare_pictures.METHODS)
