"""Anonymous memory of jobs over millions of spectra, as a Markdown table: it must not grow with their number.

    python examples/benchmark_memory.py                        # 20,000 spectra of 500 pixels, about two minutes
    python examples/benchmark_memory.py --jobs embed --spectra 100000

A job runs in a process of its own. What is measured is `RssAnon` of that process and its children, from
/proc/PID/status (Linux): memory that no file stands behind, so that the memory maps of shards do not count.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from spectok_hf import Spectrum
from spectok_hf.data.shards import write_shards
from spectok_hf.evaluation.reconstruction import format_table

FIRST = 0.1  # of the spectra: by then everything is imported and every buffer has its size
POINTS = 10  # of the curve
LIMIT = 1.05  # of the memory at FIRST
PIXELS = 500
PER_PART = 500
BATCH = 10
MODEL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def prepare_job(source: str, folder: str) -> None:
    from spectok_hf.data.prepare import prepare_shards

    prepare_shards(source, folder, spectra_per_shard=PER_PART, num_workers=1)


def embed_job(source: str, folder: str) -> None:
    import torch

    from spectok_hf import SpecTokConfig, SpecTokModel, SpectrumProcessor
    from spectok_hf.embedding import embed_spectra

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SpecTokModel(SpecTokConfig(**MODEL))
    embed_spectra(source, (model, SpectrumProcessor()), folder, tokens=True, spectra_per_part=PER_PART, device="cpu")


def train_job(source: str, folder: str) -> None:
    import json

    import torch
    from pretrain import PretrainingTrainer, main

    torch.set_num_threads(1)
    taken = PretrainingTrainer.training_step
    steps_per_part = PER_PART // BATCH

    def count(trainer, *args, **kwargs):
        loss = taken(trainer, *args, **kwargs)
        part, rest = divmod(trainer.state.global_step + 1, steps_per_part)
        if not rest:
            Path(folder, ".records").mkdir(parents=True, exist_ok=True)
            Path(folder, ".records", f"part-{part - 1:06d}.json").touch()
        return loss

    PretrainingTrainer.training_step = count  # type: ignore[method-assign]
    options = ["--shards", source, "--eval_share", "0.001", "--max_eval", "8", "--config_overrides", json.dumps(MODEL)]
    options += ["--num_train_epochs", "1", "--per_device_train_batch_size", str(BATCH), "--save_strategy", "no"]
    options += ["--eval_strategy", "no", "--use_cpu", "true", "--disable_tqdm", "true", "--logging_steps", "100"]
    main([*options, "--output_dir", str(Path(folder, "run"))])


# A job reads the shards `source` and fills `folder`; how far it is, is told by the records that it writes there.
JOBS: dict[str, Callable[[str, str], None]] = {"prepare": prepare_job, "train": train_job, "embed": embed_job}


def make_spectra(count: int) -> Iterator[Spectrum]:
    """Noise on one grid, one after another."""
    rng = np.random.default_rng(0)
    wavelength = 4000 * 10 ** (1e-4 * np.arange(PIXELS))
    for number in range(count):
        flux = 5 + rng.normal(size=PIXELS)
        yield Spectrum(flux, wavelength, np.ones(PIXELS), survey="noise", object_id=str(number))


def anonymous_memory(process: int) -> float:
    """`RssAnon` of a process and its descendants in MiB; 0 when it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return 0.0
    own = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own / 1024 + sum(anonymous_memory(int(child)) for child in children)


def measure(job: str, source: Path, folder: Path) -> list[tuple[int, float]]:
    """Spectra done, and the most memory in MiB since the point before, until the job ends.

    Raises:
        RuntimeError: If the job fails.
    """
    process = multiprocessing.get_context("spawn").Process(target=JOBS[job], args=(str(source), str(folder)))
    process.start()
    curve: list[tuple[int, float]] = []
    highest = 0.0
    while process.is_alive():
        assert process.pid is not None
        highest = max(highest, anonymous_memory(process.pid))
        done = PER_PART * len(list(folder.glob(".records/part-*.json")))
        if done > (curve[-1][0] if curve else 0):
            curve.append((done, highest))
            highest = 0.0
        time.sleep(0.01)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the job {job} ended with exit code {process.exitcode}")
    return curve


def growth(curve: list[tuple[int, float]], spectra: int) -> float:
    """The most memory after the first tenth of the spectra, over what was needed by then."""
    start = max(memory for done, memory in curve if done <= max(FIRST * spectra, curve[0][0]))
    return max(memory for _, memory in curve) / start


def job_rows(job: str, spectra: int) -> list[dict[str, object]]:
    """The curve of a job as rows of a table."""
    with TemporaryDirectory() as folder:
        write_shards(make_spectra(spectra), Path(folder) / "source")
        curve = measure(job, Path(folder) / "source", Path(folder) / "output")
    step = max(len(curve) // POINTS, 1)
    shown = curve[step - 1 :: step]
    rows: list[dict[str, object]] = [{"job": job, "spectra": done, "RssAnon [MiB]": memory} for done, memory in shown]
    ratio = growth(curve, spectra)
    verdict = f"highest / by {FIRST:.0%}: {ratio:.3f}, {'flat' if ratio <= LIMIT else 'NOT flat'}"
    return [*rows, {"job": job, "spectra": verdict, "RssAnon [MiB]": max(memory for _, memory in curve)}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="which jobs")
    parser.add_argument("--spectra", type=int, default=20_000, help="number of spectra")
    parser.add_argument("--smoke", action="store_true", help="few spectra, to see that it runs")
    args = parser.parse_args()
    rows = [row for job in args.jobs for row in job_rows(job, 2 * PER_PART if args.smoke else args.spectra)]
    print(format_table(rows))


if __name__ == "__main__":
    main()
