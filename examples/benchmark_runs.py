"""What `benchmark.py` measures and how: the batches, the layouts, the clock. No script of its own."""

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest import mock

import numpy as np
import torch

from spectok_hf import SpecTokConfig
from spectok_hf.evaluation.throughput import TRAINING_FACTOR, synchronize
from spectok_hf.models import packing

PATCH_SIZE = 32
PIXELS = {"sdss": 4300, "desi": 7781, "galah": 16384, "apogee": 7514}  # of a typical spectrum
SMOKE_SHRINKAGE = 16  # in a smoke run spectra are so many times shorter
SMOKE_CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}

Batch = dict[str, object]
Action = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """Where and how to measure.

    Args:
        device: "cpu" or "cuda".
        dtype: What autocast computes in; float32 = no autocast.
        rounds: Each action takes its turn in each round, and the best time counts.
        smoke: Tiny shapes: does it run at all?
        peak: Rate of the machine's own matrix products, FLOP/s.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    rounds: int = 5
    smoke: bool = False
    peak: float = math.nan

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)

    def config(self, *, full: bool = True, **overrides: int) -> SpecTokConfig:
        """The size of the model: the paper's or, if not `full` and on a CPU, d=256 with 2 + 2 blocks."""
        if self.smoke:
            return SpecTokConfig(**SMOKE_CONFIG | overrides)
        if full or self.on_gpu:
            return SpecTokConfig(**overrides)
        small = {"num_hidden_layers": 2, "decoder_num_hidden_layers": 2}
        return SpecTokConfig.from_preset("small", **small | overrides)

    def lengths(self, **spectra: int) -> list[int]:
        """Patches of so many spectra of each survey, in an order that is random, and always the same."""
        shrinkage = SMOKE_SHRINKAGE if self.smoke else 1
        lengths = [
            -(-PIXELS[survey] // (PATCH_SIZE * shrinkage)) for survey, count in spectra.items() for _ in range(count)
        ]
        return np.random.default_rng(0).permutation(lengths).tolist()


# batches


def make_batch(lengths: Sequence[int], device: str = "cpu", *, rows: int | None = None, seed: int = 0) -> Batch:
    """A packed batch of noise around 1; one patch of every spectrum is bad, so that attention needs a key mask.

    Args:
        lengths: Patches of each spectrum.
        device: Where to put it; lengths stay on the host.
        rows: Rows of the batch, for static shapes; None = as many as there are patches.
        seed: Seed of the noise.
    """
    lengths = np.asarray(lengths)
    total, shape = int(lengths.sum()), (int(lengths.sum()), PATCH_SIZE)
    flux = 1 + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    wavelength = torch.cat([torch.linspace(3600, 9800, n * PATCH_SIZE).view(n, PATCH_SIZE) for n in lengths])
    good = torch.ones(shape, dtype=torch.bool)
    good[torch.from_numpy(lengths.cumsum() - 1 - lengths // 2)] = False
    batch = {"flux": flux, "wavelength": wavelength, "error": torch.full(shape, 0.1), "pixel_mask": good}
    padding = (0, 0, 0, (rows or total) - total)
    batch = {name: torch.nn.functional.pad(values, padding).to(device) for name, values in batch.items()}
    return batch | {"num_patches": lengths, "max_num_patches": int(lengths.max())}


def with_lengths_on_device(batch: Batch) -> Batch:
    """The batch as a compiled model wants it: lengths are an input of the graph, on the device."""
    return batch | {"num_patches": torch.as_tensor(batch["num_patches"], device=batch["flux"].device)}


def pad(batch: Batch) -> Batch:
    """The padded form of a packed batch without padding."""
    lengths = torch.as_tensor(batch["num_patches"], device=batch["flux"].device)
    padding = packing.padding_of(lengths.tolist(), lengths.device)
    per_patch = {name: values for name, values in batch.items() if name not in ("num_patches", "max_num_patches")}
    return {name: padding.restore(values) for name, values in per_patch.items()} | {"num_patches": lengths}


def group(padded: Batch) -> list[Batch]:
    """One padded batch without padding for each length."""
    lengths = padded["num_patches"]
    groups = []
    for length in lengths.unique().tolist():
        rows = lengths == length
        part = {name: values[rows] for name, values in padded.items()}
        groups.append({name: values[:, :length] if values.ndim > 1 else values for name, values in part.items()})
    return groups


@contextmanager
def padded_layout() -> Iterator[None]:
    """Within, padded inputs run through padded blocks, as they do in a traced graph: not unpadded by the model."""
    with mock.patch.object(packing, "keeps_padding", new=lambda flux: True):
        yield


# what is timed


def train(forward: Callable, batches: Sequence[Batch], setting: Setting, parameters: Sequence[torch.Tensor]) -> None:
    """Forward and backward through batches that are parts of one; gradients are dropped."""
    spectra = sum(len(batch["num_patches"]) for batch in batches)
    for batch in batches:
        with setting.autocast():
            loss = forward(**batch).loss
        (loss * (len(batch["num_patches"]) / spectra)).backward()
    for parameter in parameters:
        parameter.grad = None


def encode(forward: Callable, batches: Sequence[Batch], setting: Setting, parameters: Sequence[torch.Tensor]) -> None:
    """Forward through batches, without a graph for gradients."""
    with torch.no_grad(), setting.autocast():
        for batch in batches:
            forward(**batch)


def layouts(model: torch.nn.Module, batch: Batch, setting: Setting, run: Callable = train) -> dict[str, Action]:
    """The same work in each layout.

    Args:
        model: The model.
        batch: A packed batch.
        setting: Says in which precision.
        run: `train` or `encode`.
    """
    padded = pad(batch)
    work = partial(run, model, setting=setting, parameters=list(model.parameters()))

    def in_padded_layout(batches: Sequence[Batch]) -> None:
        with padded_layout():
            work(batches)

    return {
        "padded": partial(in_padded_layout, [padded]),
        "grouped": partial(in_padded_layout, group(padded)),
        "packed": partial(work, [batch]),
        "packed inside": partial(work, [padded]),
    }


def time_in_turn(actions: dict[str, Action], setting: Setting) -> dict[str, float]:
    """Seconds that each action takes: the least over the rounds, in which all take their turn.

    Process CPU time on a CPU, wall clock between waits on a GPU. A first round does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(setting.rounds + 1):
        for name, action in actions.items():
            times[name].append(seconds(action, setting))
    return {name: min(values[1:]) for name, values in times.items()}


def seconds(action: Action, setting: Setting) -> float:
    """Seconds of one call, see `time_in_turn`."""
    if not setting.on_gpu:
        start = time.process_time()
        action()
        return time.process_time() - start
    repeats = 1 if setting.smoke else 5  # so that the pipeline is full
    synchronize(setting.device)
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    synchronize(setting.device)
    return (time.perf_counter() - start) / repeats


def saved_bytes(action: Callable[[], torch.Tensor], model: torch.nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass, each storage once, without the weights.

    Args:
        action: Returns the loss.
        model: The model whose weights do not count.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()  # kept alive by the graph: no two have one address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = action()
    assert loss.requires_grad
    return sum(size for pointer, size in kept.items() if pointer not in weights)


def attempt(name: str, action: Callable[[], list[dict]]) -> list[dict]:
    """The rows of an action or, where it fails, one with the error, so that what comes after it still runs."""
    try:
        return action()
    except Exception as error:
        traceback.print_exc()
        return [{"run": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}]
    finally:
        gc.collect()
        torch.compiler.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


# what is printed


def judge(value: float, goal: float, name: str, *, most: bool = False) -> dict[str, object]:
    """The goal of a row, and whether it is met."""
    met = value <= goal if most else value >= goal
    return {"goal": f"{name} {'<=' if most else '>='} {goal:.3g}", "met": "yes" if met else "NO"}


def rates(
    spectra: int, patches: int, flops: float, took: float, setting: Setting, *, factor: int = TRAINING_FACTOR
) -> dict[str, object]:
    """Absolute figures; to be printed of a GPU only, as those of a shared CPU say nothing.

    Args:
        spectra: Spectra of the batch.
        patches: Their patches, without padding.
        flops: `model.flops` of them: of the forward pass.
        took: Seconds.
        setting: Knows the machine's own rate.
        factor: Operations of the whole pass, in forward passes.
    """
    return {
        "ms": 1e3 * took,
        "spectra/s": spectra / took,
        "patches/s": patches / took,
        "MFU of own rate": factor * flops / took / setting.peak,
    }
