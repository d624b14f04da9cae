"""examples/pretrain.py on several processes and nodes: the same training, whoever shares it, and whoever is killed."""

import inspect
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import loopback_srun
import numpy as np
import pytest
import transformers
from loopback_srun import kill_tree
from packaging.version import Version
from safetensors.torch import load_file
from transformers import Trainer

from spectok_hf import Spectrum
from spectok_hf.data.shards import write_shards

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("pretrain_worker.py")
ROOT = Path(__file__).parents[2]
MODEL = {
    **{"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    **{"num_hidden_layers": 2, "decoder_num_hidden_layers": 2, "wavelength_dim": 4},
}
OPTIONS = [
    *("--config_overrides", json.dumps(MODEL), "--learning_rate", "1e-3", "--logging_steps", "1", "--use_cpu", "true"),
    *("--report_to", "none", "--eval_strategy", "no", "--save_strategy", "steps", "--disable_tqdm", "true"),
]
STEPS = [
    "--max_steps",
    "20",
    "--save_steps",
    "5",
]  # 72 training spectra: two epochs of nine batches, and two steps more
OBJECTS, HELD_OUT, BATCH = 90, 18, 8
# Accelerate starts several processes of one machine by the launcher that it calls multi_gpu, without GPUs, too.
ACCELERATE = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
LAUNCH = {
    "one": [],
    "accelerate": ["-m", *ACCELERATE.split(), "--dynamo_backend", "no"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}
needs_fsdp = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.16"),
    reason="FSDP2 by distributed_config came with Transformers 5.16",
)


def make_spectrum(number):
    rng = np.random.default_rng(number)
    length = 150 + 64 * (number % 5)
    flux = 5 + np.sin(np.arange(length) / (5 + number % 7)) + 0.3 * rng.normal(size=length)
    mask = rng.random(length) < 0.05
    survey = ("sdss", "desi")[number % 2]
    wavelength = 4000 + 1.5 * np.arange(length)
    return Spectrum(flux, wavelength, np.full(length, 11.0), mask=mask, survey=survey, object_id=f"{survey}-{number}")


def write_parquet(spectra, folder):
    """Four files per survey, with rows as the Multimodal Universe's."""
    import datasets

    for survey in ("sdss", "desi"):
        rows = [
            {
                "spectrum": {"flux": s.flux, "ivar": s.ivar, "lambda": s.wavelength, "mask": s.mask},
                "object_id": s.object_id,
            }
            for s in spectra
            if s.survey == survey
        ]
        whole = datasets.Dataset.from_list(rows)
        for number in range(4):
            (folder / survey).mkdir(parents=True, exist_ok=True)
            whole.shard(4, number).to_parquet(str(folder / survey / f"{number}.parquet"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Options for the same spectra as shards and as a stream."""
    folder = tmp_path_factory.mktemp("data")
    spectra = [make_spectrum(number) for number in range(OBJECTS)]
    write_shards(spectra, folder / "shards", spectra_per_shard=40)
    write_parquet(spectra, folder / "parquet")
    streams = {survey: str(folder / "parquet" / survey) for survey in ("sdss", "desi")}
    return {
        "shards": ["--shards", str(folder / "shards")],
        "stream": ["--stream", json.dumps(streams), "--turn", "4"],
    }


def environment(folder):
    (folder / "seen").mkdir(parents=True, exist_ok=True)
    return os.environ | {
        **{"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo", "SEEN": str(folder / "seen")},
        **{"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"},
    }


def train(folder, launcher, options, batch):
    options = [*OPTIONS, *options, "--per_device_train_batch_size", str(batch), "--output_dir", str(folder / "run")]
    options += ["--ddp_backend", "gloo"] if launcher != "one" else []
    command = [sys.executable, *LAUNCH[launcher], str(WORKER), *options]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Held-out spectra, medians") == 1
    return done


def losses(folder):
    checkpoint = max((folder / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def assert_same_training(folder, other):
    """But for the biases of keys, which have no effect, whose gradient is rounding, and of which Adam makes steps."""
    np.testing.assert_allclose(losses(folder), losses(other), rtol=2e-6)
    weights, others = load_file(folder / "run/model.safetensors"), load_file(other / "run/model.safetensors")
    for name, values in weights.items():
        if not name.endswith("k_proj.bias"):
            scale = others[name].abs().max()
            assert (values - others[name]).abs().max() <= 1e-4 * scale, name


def seen(folder):
    """Numbers of visits and identifiers, of all processes."""
    lines = [line for path in (folder / "seen").iterdir() for line in path.read_text().splitlines()]
    return sorted(map(tuple, map(json.loads, lines)))


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """The training of one process, by kind of data."""
    folders = {}
    for kind, options in data.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        train(folders[kind], "one", [*options, *STEPS], BATCH)
    return folders


@pytest.fixture(scope="module")
def together(data, tmp_path_factory):
    """The training of two processes, by kind of data."""
    folders = {}
    for kind, launcher in (("shards", "accelerate"), ("stream", "torchrun")):
        folders[kind] = tmp_path_factory.mktemp(f"{kind}-two")
        train(folders[kind], launcher, [*data[kind], *STEPS], BATCH // 2)
    return folders


@pytest.mark.parametrize("kind", ["shards", "stream"])
def test_two_processes_train_as_one_does(kind, alone, together):
    assert len(losses(alone[kind])) == 20
    assert_same_training(together[kind], alone[kind])


@pytest.mark.parametrize("kind", ["shards", "stream"])
def test_every_spectrum_of_an_epoch_is_seen_once(kind, alone, together):
    for folder in (alone[kind], together[kind]):
        visits = dict(seen(folder))
        assert len(visits) == len(seen(folder))  # no number twice
        names = [visits[number] for number in range(20 * BATCH)]
        count = OBJECTS - HELD_OUT if kind == "shards" else len(set(names))
        first, second = names[:count], names[count : 2 * count]
        assert len(set(first)) == count and set(first) == set(second)
    assert 60 < count < 80 and len(list((together[kind] / "seen").iterdir())) == 2
    assert dict(seen(together[kind])) == dict(seen(alone[kind])) or kind == "stream"  # which reads a batch ahead
    assert [dict(seen(together[kind]))[number] for number in range(20 * BATCH)] == names[: 20 * BATCH]


def cut_off(folder, copy, step):
    """What is left of a run that was cut off behind a checkpoint."""
    shutil.copytree(folder, copy)
    (copy / "run/report.md").unlink()
    for path in (copy / "run").glob("checkpoint-*"):
        if int(path.name.split("-")[1]) > step:
            shutil.rmtree(path)


@pytest.mark.parametrize("kind", ["shards", "stream"])
def test_a_run_goes_on_with_another_number_of_processes(kind, data, alone, together, tmp_path):
    cut_off(together[kind], tmp_path / "copy", 10)
    train(tmp_path / "copy", "one", [*data[kind], *STEPS, "--gradient_accumulation_steps", "2"], BATCH // 2)
    assert_same_training(tmp_path / "copy", alone[kind])


def test_a_run_with_another_global_batch_is_another_run(data, together, tmp_path):
    cut_off(together["shards"], tmp_path / "copy", 10)
    with pytest.raises(AssertionError, match=r"holds a run with other settings .see run.json: global_batch: "):
        train(tmp_path / "copy", "one", [*data["shards"], *STEPS], BATCH // 2)


@needs_fsdp
def test_a_sharded_model_trains_as_a_whole_one_and_goes_on(data, alone, tmp_path):
    options = [*data["shards"], *STEPS, "--fsdp_size", "2"]
    done = train(tmp_path / "whole", "torchrun", options, BATCH // 2)
    assert "is not ours" not in done.stderr
    assert_same_training(tmp_path / "whole", alone["shards"])
    assert dict(seen(tmp_path / "whole")) == dict(seen(alone["shards"]))
    cut_off(tmp_path / "whole", tmp_path / "copy", 10)
    train(tmp_path / "copy", "torchrun", options, BATCH // 2)
    assert_same_training(tmp_path / "copy", alone["shards"])


# Two nodes ----------------------------------------------------------------------------------------

LONG = ["--max_steps", "120", "--save_steps", "20"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def submit(folder, options):
    """examples/slurm/pretrain.sbatch on two nodes of one process each, which meet on the loopback interface."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "nodes").mkdir(exist_ok=True)
    srun = folder / "bin/srun"
    srun.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(loopback_srun.__file__)}" "$@"\n')
    srun.chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "localhost"}
    own = {"HEAD": "localhost", "PORT": str(free_port()), "PROCESSES": "1", "PYTHON": sys.executable}
    path = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "NODES": str(folder / "nodes")}
    options = [*OPTIONS, *options, "--per_device_train_batch_size", str(BATCH // 2), "--ddp_backend", "gloo"]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            ["bash", str(ROOT / "examples/slurm/pretrain.sbatch"), *options, "--output_dir", str(folder / "run")],
            cwd=ROOT,
            env=environment(folder) | slurm | own | path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition, seconds=120):
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(
    'device.type != "cpu"' not in inspect.getsource(Trainer._load_optimizer_and_scheduler),
    reason="this Transformers loads no optimizer into several processes without GPUs (cpu:0)",
)
def test_a_node_is_killed_and_the_job_goes_on_to_the_same_loss(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [*data["shards"], *LONG]
    assert submit(whole, options).wait(300) == 0, (whole / "log").read_text()[-3000:]

    job = submit(killed, options)
    wait_for(lambda: (killed / "run/checkpoint-40/complete.json").exists() or job.poll() is not None)
    kill_tree(int((killed / "nodes/1").read_text()))
    assert job.wait(120) != 0, "the other node must not go on alone"
    reached = sorted(
        int(path.parent.name.split("-")[1]) for path in (killed / "run").glob("checkpoint-*/complete.json")
    )
    assert 40 <= reached[-1] < 120 and not (killed / "run/report.md").exists()

    assert submit(killed, options).wait(300) == 0, (killed / "log").read_text()[-3000:]
    assert losses(killed) == losses(whole) and len(losses(whole)) == 120
    weights, expected = load_file(killed / "run/model.safetensors"), load_file(whole / "run/model.safetensors")
    assert all((weights[name] == values).all() for name, values in expected.items())
