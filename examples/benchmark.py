"""Speed and memory of SpecTok and its loaders, as Markdown tables beside the goals.

    python examples/benchmark.py                                  # all tables that this machine can make
    python examples/benchmark.py --tables step peers --threads 2
    python examples/benchmark.py --output docs/benchmarks.md

On a CPU: ratios only, of things run in turn in one process, the least process CPU time of several rounds, as timings
of shared machines drift. The script starts itself anew with glibc's malloc told to keep its memory: else tensors above
32 MB are mapped anew at each allocation, which flatters small layouts by up to 30 %.

On a GPU: absolute figures, beside the rate of matrix products that this machine reached in the same run.

Tables:
    all-bad    spectra without a good pixel through the GPU's attention: first of all, is everything finite?
    H1         training step and its MFU; the hours of the paper's run (H5)
    H2         packed beside padded
    H3         fed by the loader, beside resident data
    H4         encoding
    H6         peak memory
    H7         gradients and loss curves in half precision
    step       training by layout, mixture and survey (C1, C2); "packed inside" is a padded call as users make it,
               which the model unpads
    encode     the same of the encoder without gradients
    peers      beside BertModel, ModernBERT and Specformer's tokens (C3)
    embedding  share of the wavelength embedding (C6)
    packer     unused share of a token budget (C10)
    loader     from file to packed batch (C7, C8)
    memory     what the backward pass needs kept
    scaling    time and memory by batch, length of a spectrum, and depth
H1 to H7 are made where there is a GPU, or where they are asked for.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import benchmark_gpu as gpu
import benchmark_loader as loader
import benchmark_models as models
import torch
import transformers
from benchmark_runs import Setting, attempt

from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.throughput import matmul_rate

MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_TOP_PAD_": "300000000",
}
GPU_TABLES: dict[str, Callable[[Setting], list[dict]]] = {
    "all-bad": gpu.all_bad_rows,
    "H1": gpu.training_rows,
    "H2": gpu.packed_rows,
    "H4": gpu.encoding_rows,
    "H6": gpu.peak_rows,
    "H3": gpu.loading_rows,
    "H7": gpu.precision_rows,
}
TABLES = GPU_TABLES | {
    "step": models.layout_rows,
    "encode": partial(models.layout_rows, encoder_only=True),
    "peers": models.peer_rows,
    "embedding": models.embedding_rows,
    "packer": loader.packer_rows,
    "loader": loader.loader_rows,
    "memory": models.memory_rows,
    "scaling": models.scaling_rows,
}
ROUNDS = 5


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), help="what to measure; default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on cuda, else float32")
    parser.add_argument("--threads", type=int, help="threads of torch; default: its own choice")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds; the goals are of at least {ROUNDS}")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, one round: does it run?")
    parser.add_argument("--output", type=Path, help="Markdown file to write as well")
    return parser.parse_args(argv)


def make_setting(args: argparse.Namespace) -> Setting:
    """Where and how to measure; asks the machine for its rate of matrix products."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, args.dtype or ("float32" if device == "cpu" else "bfloat16"))
    rate = matmul_rate(device, dtype, size=64 if args.smoke else None)
    return Setting(device, dtype, 1 if args.smoke else args.rounds, args.smoke, rate)


def describe(setting: Setting) -> str:
    """Date, machine and versions, without names of hosts or folders."""
    date = datetime.now(UTC).date().isoformat()
    machine = f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    how = f"Ratios of runs in turn: the least process CPU time in {setting.rounds} round(s)."
    if setting.on_gpu:
        machine = f"{torch.cuda.get_device_name()}; {machine}"
        rate = f"{setting.peak / 1e12:.0f} TFLOP/s"
        how = f"Least time in {setting.rounds} round(s). Matrix products of 8192 x 8192 ran at {rate}."
    elif missing_malloc():
        how += " Without glibc's malloc settings: small layouts are flattered."
    dtype = str(setting.dtype).removeprefix("torch.")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {dtype}"
    lines = [f"{date}; {machine}; {versions}", how]
    if setting.smoke:
        lines.append("Smoke run: tiny shapes, whose figures mean nothing.")
    return "\n\n".join(lines)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def missing_malloc() -> dict[str, str]:
    """Settings of glibc's malloc that this process was started without."""
    return {name: value for name, value in MALLOC.items() if name not in os.environ}


def start_anew() -> None:
    """Run this command again with malloc's settings, which glibc reads at the start of a process only."""
    if sys.platform == "linux" and (missing := missing_malloc()):
        print("starting anew with", *(f"{name}={value}" for name, value in missing.items()), file=sys.stderr)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | missing)


def main(argv: list[str] | None = None) -> dict[str, list[dict]]:
    """Make the tables, print them, and return their rows.

    Args:
        argv: Arguments; None = those of the command line.
    """
    args = parse_arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    setting = make_setting(args)
    wanted = args.tables or [name for name in TABLES if setting.on_gpu or name not in GPU_TABLES]
    parts, results = [describe(setting)], {}
    print(parts[0], flush=True)
    for name in wanted:
        results[name] = attempt(name, partial(TABLES[name], setting))
        parts.append(f"## {name}\n\n{format_table(results[name])}")
        print(f"\n{parts[-1]}", flush=True)
        if args.output:  # after each table, so that a run that is cut short leaves something
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text("\n\n".join(["# Benchmarks", *parts]) + "\n")
    return results


if __name__ == "__main__":
    start_anew()
    tables = main()
    sys.exit(any("error" in row for rows in tables.values() for row in rows))
