"""kill -9 at random moments: after a restart the folder is that of a run that was left alone."""

import contextlib
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pandas
import pytest
import torch

from spectok_hf import SpecTokConfig, SpecTokModel, Spectrum, SpectrumProcessor
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.data.shards import SpectrumShards, write_shards
from spectok_hf.embedding import embed_spectra

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

KILLS = 10
SPECTRA = 4000
PIXELS = 2000
FILES = 300
SIMULATED = 250  # before and behind the others: those take longer
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def prepare(source, folder):
    sources = [f"simulate:sdss:{SIMULATED}", source, f"simulate:sdss:{SIMULATED}:1"]
    prepare_shards(sources, folder, spectra_per_shard=25, num_workers=2)


def embed(source, folder, num_workers=0):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SpecTokModel(SpecTokConfig(**SIZE))
    options = {"tokens": True, "spectra_per_part": 200, "device": "cpu", "num_workers": num_workers}
    embed_spectra(source, (model, SpectrumProcessor()), folder, **options)


def embed_with_a_reader(source, folder):
    embed(source, folder, num_workers=1)


def make_spectra():
    rng = np.random.default_rng(0)
    wavelength = 4000 * 10 ** (1e-4 * np.arange(PIXELS))
    for number in range(SPECTRA):
        ivar = np.full(PIXELS, 0.0 if number % 500 == 7 else 1.0)
        yield Spectrum(5 + rng.normal(size=PIXELS), wavelength, ivar, survey="noise", object_id=f"noise-{number}")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_shards(make_spectra(), folder / "shards")
    return folder / "shards"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """CSV and Parquet files, with what cannot be read among them."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    wavelength = (4000.0 + np.arange(500)).tolist()
    for number in range(FILES):
        flux, names = rng.normal(5, 1, (4, 500)).round(3).tolist(), [f"file-{number}-{row}" for row in range(4)]
        columns = {"flux": flux, "wavelength": [wavelength] * 4, "ivar": [[1.0] * 500] * 4, "object_id": names}
        frame = pandas.DataFrame(columns)
        if number % 2:
            frame.to_parquet(folder / f"{number:04d}.parquet")
        else:
            frame.to_csv(folder / f"{number:04d}.csv", index=False)
    (folder / "broken.csv").write_text("")
    (folder / "broken.parquet").write_text("junk")
    return folder / "*"


def prepare_files(source, folder):
    prepare_shards(source, folder, spectra_per_shard=5, num_workers=2)


def in_a_group(job, source, folder):
    os.setsid()
    job(source, folder)


def start(job, source, folder):
    """A run in a process group of its own; by fork, so that nothing is imported again."""
    process = multiprocessing.get_context("fork").Process(target=in_a_group, args=(job, source, folder))
    process.start()
    return process


def finish(process):
    process.join(120)
    assert process.exitcode == 0


def kill(process, delay, whole_group):
    """Kill a run after `delay` seconds, with its workers or alone; whether it was still running."""
    process.join(delay)
    running = process.is_alive()
    if running:
        os.kill(process.pid, signal.SIGKILL)
        if whole_group:
            with contextlib.suppress(ProcessLookupError):  # it had not come to make a group
                os.killpg(process.pid, signal.SIGKILL)
    process.join()
    return running


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def time_alone(job, source, folder):
    began = time.monotonic()
    finish(start(job, source, folder))
    return time.monotonic() - began


def drill(job, source, folder, kills, lone_kills=False):
    """Kill runs of a job twice each, until `kills` have hit; their folders must end as that of a run left alone."""
    duration = min(time_alone(job, source, folder / name) for name in ("alone", "warm"))
    expected = contents(folder / "alone")
    assert contents(folder / "warm") == expected
    rng = np.random.default_rng(0)
    done = []  # parts that were finished at each hit
    for trial in range(kills):
        again = folder / f"killed-{trial}"
        first = duration * rng.random()
        for delay in (first, rng.random() * (duration - first)):
            if kill(start(job, source, again), delay, whole_group=not lone_kills):
                done.append(len(list(again.glob(".records/part-*.json"))))
        finish(start(job, source, again))
        found = contents(again)
        assert found.keys() == expected.keys()
        assert [name for name in expected if found[name] != expected[name]] == []
        if len(done) >= kills:
            break
    parts = len([name for name in expected if name.startswith(".records/")])
    print(f"{job.__name__}: {len(done)} kills hit, with {done} of {parts} parts finished; {duration:.1f} s alone")
    assert len(done) >= kills


@pytest.mark.parametrize("lone_kills", [False, True], ids=["with workers", "without workers"])
def test_prepare(lone_kills, source, tmp_path):
    drill(prepare, source, tmp_path, KILLS, lone_kills)
    names = [f"noise-{number}" for number in range(SPECTRA) if number % 500 != 7]
    before, behind = ([f"sim-sdss-{seed}-{number:05d}" for number in range(SIMULATED)] for seed in (0, 1))
    assert SpectrumShards(tmp_path / "killed-0", verify=True).column("object_id").tolist() == before + names + behind


def test_prepare_from_files(files, tmp_path):
    drill(prepare_files, files, tmp_path, KILLS)
    shards = SpectrumShards(tmp_path / "killed-0", verify=True)
    names = [f"file-{number}-{row}" for number in range(FILES) for row in range(4)]
    assert shards.column("object_id").tolist() == names
    manifest = json.loads((tmp_path / "killed-0" / "manifest.json").read_text())
    assert manifest["failures"]["count"] == 2


def test_embed(source, tmp_path):
    import pyarrow.parquet as pq

    drill(embed, source, tmp_path, KILLS)
    parts = sorted((tmp_path / "killed-0").glob("*.parquet"))
    found = [name for part in parts for name in pq.read_table(part)["object_id"].to_pylist()]
    assert found == [f"noise-{number}" for number in range(SPECTRA)]


def test_embed_whose_reader_outlives_it(source, tmp_path):
    drill(embed_with_a_reader, source, tmp_path, 2, lone_kills=True)
