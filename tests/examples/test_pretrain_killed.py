"""examples/pretrain.py, killed at random moments: what comes in the end is what comes without."""

import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pretrain
import pytest
import torch
from loopback_srun import kill_tree
from safetensors.torch import load_file
from test_pretrain_distributed import MODEL, make_spectrum

from spectok_hf.data.shards import write_shards

pytestmark = pytest.mark.slow

KILLS = 10
OPTIONS = [
    *("--config_overrides", json.dumps(MODEL), "--learning_rate", "1e-3", "--logging_steps", "1", "--use_cpu", "true"),
    *("--report_to", "none", "--eval_strategy", "steps", "--eval_steps", "25", "--disable_tqdm", "true"),
    *("--max_steps", "100", "--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "1"),
    *("--per_device_train_batch_size", "8"),
]


def start(shards: Path, output: Path):
    """A training in a process of its own, forked, so that nothing has to be imported again."""

    def run():
        os.dup2(os.open(output.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        torch.set_num_threads(1)
        pretrain.main([*OPTIONS, "--shards", str(shards), "--output_dir", str(output)])

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def history(output: Path):
    """Losses by step, and what was evaluated, without the times."""
    entries = json.loads((output / "checkpoint-100/trainer_state.json").read_text())["log_history"]
    return [
        {name: value for name, value in entry.items() if "per_second" not in name and not name.endswith("runtime")}
        | {"mfu": None}
        for entry in entries
    ]


def assert_same(output: Path, whole: Path):
    assert history(output) == history(whole)
    weights, expected = load_file(output / "model.safetensors"), load_file(whole / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], values) for name, values in expected.items())
    assert (output / "report.md").read_text() == (whole / "report.md").read_text()


def test_a_training_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path, capsys):
    shards = tmp_path / "shards"
    write_shards([make_spectrum(number) for number in range(90)], shards)
    whole = tmp_path / "whole/run"
    whole.parent.mkdir()
    began = time.monotonic()
    process = start(shards, whole)
    process.join()
    duration = time.monotonic() - began
    assert process.exitcode == 0

    draw, moments, steps = random.Random(0), [], []
    number = 0
    output = tmp_path / "0/run"
    output.parent.mkdir()
    while len(moments) < KILLS:
        process = start(shards, output)
        delay = draw.uniform(0.05, 0.6) * duration
        process.join(delay)
        if process.exitcode is None:
            kill_tree(process.pid)
            process.join()
            moments.append(delay)
            steps.append([path.name for path in output.glob("checkpoint-*")])
        else:  # it came to its end before
            assert process.exitcode == 0, (output.parent / "log").read_text()
            assert_same(output, whole)
            number += 1
            output = tmp_path / f"{number}/run"
            output.parent.mkdir()
    process = start(shards, output)
    process.join()
    assert process.exitcode == 0, (output.parent / "log").read_text()
    assert_same(output, whole)
    with capsys.disabled():
        print(f"\nkilled {KILLS} of {KILLS} times while it ran ({duration:.1f} s without), at {steps}")
