"""Tables of `benchmark.py` for a GPU, the goals H1-H7: absolute figures in half precision.

Nothing here needs more than torch, numpy and transformers, but for Arrow shards, which need pyarrow. Everything runs
on a CPU too, at a size that shows no more than that it runs.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import torch
from benchmark_runs import (
    PIXELS,
    Batch,
    Setting,
    attempt,
    encode,
    judge,
    layouts,
    make_batch,
    rates,
    saved_bytes,
    time_in_turn,
    train,
    with_lengths_on_device,
)
from torch import nn
from torch.utils.data import DataLoader

from spectok_hf import SpecTokForPreTraining, SpecTokModel, Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.collators import DataCollatorForPackedSpectra
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.evaluation.throughput import TRAINING_FACTOR, synchronize
from spectok_hf.models import packed_attention

GOAL_PEAK = 790e12  # FLOP/s; what an H200 reaches in bf16, which the goals are shares of
PAPER_SPECTRA = 38.4e6  # 600,000 steps of 64 spectra
MODES = {"eager": None, "compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}
ROWS = 1024  # static buffers are a multiple of this
WORKERS = 8


# what is run


class TrainingStep:
    """Forward under autocast, backward, fused AdamW on float32 weights.

    Args:
        setting: Where, and in which precision.
        mode: How to compile, see `compiled`.
    """

    def __init__(self, setting: Setting, mode: str | None = None):
        self.setting, self.mode = setting, mode
        self.model = SpecTokForPreTraining(setting.config()).to(setting.device)
        self.forward = compiled(self.model, mode, setting)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def __call__(self, batch: Batch) -> torch.Tensor:
        begin_step(self.mode, self.setting)
        with self.setting.autocast():
            loss = self.forward(**batch).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


def compiled(model: nn.Module, mode: str | None, setting: Setting) -> Callable:
    """The model as one graph for static shapes; `mode` None = not compiled. On a CPU it is traced, and no more."""
    if mode is None:
        return model
    how = {"mode": mode} if setting.on_gpu else {"backend": "eager"}
    return torch.compile(model, fullgraph=True, dynamic=False, **how)


def begin_step(mode: str | None, setting: Setting) -> None:
    """Tell CUDA graphs that the outputs of the last step are no longer needed."""
    if mode == "reduce-overhead" and setting.on_gpu:
        torch.compiler.cudagraph_mark_step_begin()


def resident_batches(setting: Setting, mode: str | None, count: int = 4) -> list[Batch]:
    """Batches of 64 spectra, a quarter of each survey, whose lengths differ as they do in SDSS.

    Args:
        setting: Where to put them.
        mode: Compiled models want buffers of one size, and lengths on the device; others no padding, and lengths on
            the host.
        count: Number of batches.
    """
    lengths = np.array(setting.lengths(**dict.fromkeys(PIXELS, 1 if setting.smoke else 16)))
    rng = np.random.default_rng(0)
    few = lengths == lengths.min()
    drawn = [np.where(few, lengths * rng.uniform(0.9, 1.1, len(lengths)), lengths).astype(int) for _ in range(count)]
    rows = None
    if mode is not None:
        rows = round_up(max(int(one.sum()) for one in drawn), 64 if setting.smoke else ROWS)
    batches = [make_batch(rng.permutation(one), setting.device, rows=rows, seed=i) for i, one in enumerate(drawn)]
    return batches if mode is None else [with_lengths_on_device(batch) for batch in batches]


def round_up(rows: int, multiple: int) -> int:
    return -(-rows // multiple) * multiple


def time_per_batch(step: Callable[[Batch], object], batches: Sequence[Batch], setting: Setting) -> float:
    """Seconds of one step, averaged over batches of different lengths; a second graph for them is an error."""
    for batch in batches:
        step(batch)
    with torch.compiler.set_stance("fail_on_recompile"):
        took = time_in_turn({"step": lambda: [step(batch) for batch in batches]}, setting)
    return took["step"] / len(batches)


def speed_row(
    name: str, step: Callable, model: SpecTokModel | SpecTokForPreTraining, batches: Sequence[Batch], setting: Setting
) -> dict[str, object]:
    """Speed of a step in useful operations: those of the patches that are no padding."""
    factor = TRAINING_FACTOR if isinstance(model, SpecTokForPreTraining) else 1
    took = time_per_batch(step, batches, setting)
    lengths = [int(length) for batch in batches for length in batch["num_patches"]]
    flops = model.flops(lengths) / len(batches)
    spectra, patches = len(lengths) // len(batches), sum(lengths) // len(batches)
    share = factor * flops / took / GOAL_PEAK
    row = {"run": name, **rates(spectra, patches, flops, took, setting, factor=factor)}
    return row | {"MFU of 790 TF/s": share}


# varlen first of all


def all_bad_rows(setting: Setting) -> list[dict]:
    """Spectra without a good pixel through the fast attention, forward and backward: is everything finite?"""
    cases = {"one spectrum of three": [1], "all three": [0, 1, 2]}
    rows = []
    for (case, bad), (name, mode) in itertools.product(cases.items(), list(MODES.items())[:2]):
        rows += attempt(f"{case}, {name}", partial(all_bad_row, f"{case}, {name}", bad, mode, setting))
    return rows


def all_bad_row(name: str, bad: list[int], mode: str | None, setting: Setting) -> list[dict]:
    """One row: those of three spectra that are numbered in `bad` have no good pixel."""
    lengths = [8, 5, 16]
    batch = make_batch(lengths, setting.device)
    starts = np.cumsum([0, *lengths])
    for spectrum in bad:
        batch["pixel_mask"][starts[spectrum] : starts[spectrum + 1]] = False
    batch = batch if mode is None else with_lengths_on_device(batch)
    shallow = setting.config(num_hidden_layers=1, decoder_num_hidden_layers=1)  # compiles in less time
    model = SpecTokForPreTraining(shallow).to(setting.device)
    with setting.autocast():
        outputs = compiled(model, mode, setting)(**batch)
    outputs.loss.backward()
    found = [outputs.loss, outputs.reconstruction, outputs.tokens, outputs.pooler_output]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    finite = all(bool(values.isfinite().all()) for values in [*found, *gradients])
    empty = not outputs.pooler_output[bad].any()
    return [{"bad everywhere": name, "finite": finite, "embedding is 0": bool(empty)}]


# H1, H5: training


def training_rows(setting: Setting) -> list[dict]:
    """Training steps on resident data, and the hours that the paper's run would take."""
    rows = []
    for name, mode in MODES.items():
        rows += attempt(name, partial(training_row, name, mode, setting))
    fastest = max((row.get("spectra/s", 0.0) for row in rows), default=0.0)
    if fastest:
        hours = PAPER_SPECTRA / fastest / 3600
        rows.append({"run": "38.4 M spectra, by the fastest", "hours": hours} | judge(hours, 2.9, "H5", most=True))
    return rows


def training_row(name: str, mode: str | None, setting: Setting) -> list[dict]:
    step = TrainingStep(setting, mode)
    row = speed_row(name, step, step.model, resident_batches(setting, mode), setting)
    return [row | judge(row["MFU of 790 TF/s"], 0.35, "H1")]


# H2: packed and padded


def packed_rows(setting: Setting) -> list[dict]:
    """Forward and backward of one batch, packed and padded, in turn."""
    rows = []
    for name, mode in list(MODES.items())[:2]:
        rows += attempt(name, partial(packed_row, name, mode, setting))
    return rows


def packed_row(name: str, mode: str | None, setting: Setting) -> list[dict]:
    lengths = setting.lengths(**dict.fromkeys(PIXELS, 1 if setting.smoke else 16))
    model = SpecTokForPreTraining(setting.config()).to(setting.device)
    forward, batch = compiled(model, mode, setting), make_batch(lengths, setting.device)
    packed = batch if mode is None else with_lengths_on_device(batch)
    actions = {
        "padded": layouts(forward, batch, setting)["padded"],
        "packed": partial(train, forward, [packed], setting, list(model.parameters())),
    }
    took = time_in_turn(actions, setting)
    flop_ratio = model.flops([max(lengths)] * len(lengths)) / model.flops(lengths)
    speed_up = took["padded"] / took["packed"]
    row = {"run": name, "FLOP ratio": flop_ratio, "padded [ms]": 1e3 * took["padded"]}
    return [row | {"packed [ms]": 1e3 * took["packed"], "speed-up": speed_up} | judge(speed_up, 2.0, "H2")]


# H4: encoding


def encoding_rows(setting: Setting) -> list[dict]:
    """The encoder alone, in half-precision weights, on resident data."""
    rows = []
    for name, mode in MODES.items():
        rows += attempt(name, partial(encoding_row, name, mode, setting))
    return rows


def encoding_row(name: str, mode: str | None, setting: Setting) -> list[dict]:
    model, step = encoding_step(setting, mode)
    row = speed_row(name, step, model, resident_batches(setting, mode), setting)
    return [row | judge(row["MFU of 790 TF/s"], 0.35, "H4")]


def encoding_step(setting: Setting, mode: str | None) -> tuple[SpecTokModel, Callable[[Batch], object]]:
    """The encoder, and a call that encodes a batch."""
    model = SpecTokModel(setting.config()).to(setting.device, setting.dtype).eval()
    forward, plain = compiled(model, mode, setting), replace(setting, dtype=torch.float32)

    def step(batch: Batch) -> None:
        begin_step(mode, setting)
        encode(forward, [batch], plain, [])

    return model, step


# H3: with the loader


def loading_rows(setting: Setting) -> list[dict]:
    """Training and encoding fed by a `DataLoader`, beside the same steps on resident data."""
    steps = {"training": TrainingStep(setting, "default"), "encoding": encoding_step(setting, "default")[1]}
    with tempfile.TemporaryDirectory() as folder:
        spectra, source = store(simulate(2 if setting.smoke else 128), folder)
        loader = make_loader(spectra, setting, batches=2 if setting.smoke else 120)
        rows = []
        for name, step in steps.items():
            rows += attempt(name, partial(loading_row, name, step, loader, source, setting))
    return rows


def loading_row(name: str, step: Callable, loader: DataLoader, source: str, setting: Setting) -> list[dict]:
    resident = list(moved(itertools.islice(loader, 4), setting))
    for batch in resident:
        step(batch)
    count, first = len(loader), len(loader) // 4  # workers fill their queues during the first quarter
    passes = range(min(setting.rounds, 3))
    alone = min(time_of(itertools.islice(itertools.cycle(resident), count), step, first, setting) for _ in passes)
    fed = min(time_of(moved(iter(loader), setting), step, first, setting) for _ in passes)
    spectra = len(resident[0]["num_patches"])
    row = {"run": name, "spectra from": source, "resident [ms]": 1e3 * alone, "loader [ms]": 1e3 * fed}
    row |= {"ratio": fed / alone, "spectra/s": spectra / fed}
    goal = (row["ratio"], 1.05, "H3") if name == "training" else (row["spectra/s"], 15_000, "H4")
    return [row | judge(*goal, most=name == "training")]


def time_of(batches: Iterator[Batch], step: Callable, first: int, setting: Setting) -> float:
    """Seconds per step, from number `first` on, wall clock, the wait for the loader included."""
    for batch in itertools.islice(batches, first):
        step(batch)
    synchronize(setting.device)
    start, count = time.perf_counter(), 0
    for count, batch in enumerate(batches, 1):  # noqa: B007
        step(batch)
    synchronize(setting.device)
    return (time.perf_counter() - start) / count


def moved(batches: Iterator[Batch], setting: Setting) -> Iterator[Batch]:
    """Batches of the collator on the device, lengths among them."""
    for batch in batches:
        batch = batch | {"num_patches": torch.as_tensor(batch["num_patches"])}
        yield {
            name: value.to(setting.device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in batch.items()
        }


def simulate(count: int) -> list[Spectrum]:
    """So many simulated spectra of each survey, one survey after the other."""
    return [spectrum for survey in PIXELS for spectrum in simulate_survey(survey, count)]


def store(spectra: list[Spectrum], folder: str) -> tuple[Sequence[Spectrum], str]:
    """The spectra as Arrow shards in a folder, or as they are where pyarrow is absent; and where they are."""
    from spectok_hf.data.shards import SpectrumShards, write_shards

    try:
        write_shards(spectra, folder)
        return SpectrumShards(folder), "Arrow shards"
    except ImportError as error:
        return spectra, f"memory ({error})"


def make_loader(spectra: Sequence[Spectrum], setting: Setting, *, batches: int) -> DataLoader:
    """Batches of 64 spectra, a quarter of each survey, prepared by workers, all in buffers of one size."""
    processor, rng = SpectrumProcessor(), np.random.default_rng(0)
    quarter = len(spectra) // len(PIXELS)
    drawn = [rng.integers(quarter, size=(len(PIXELS), 1 if setting.smoke else 16)) for _ in range(batches)]
    indices = [(one + quarter * np.arange(len(PIXELS))[:, None]).flatten().tolist() for one in drawn]
    lengths = np.array([processor.count_patches(s.wavelength, medium=s.medium) for s in spectra])
    rows = round_up(max(int(lengths[one].sum()) for one in indices), 64 if setting.smoke else ROWS)
    workers = WORKERS if setting.on_gpu else 0
    return DataLoader(
        SpectrumDataset(spectra, processor, lazy=True),
        batch_sampler=indices,
        collate_fn=DataCollatorForPackedSpectra(processor, pad_to=rows),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        pin_memory=setting.on_gpu,
    )


# H6: memory


def peak_rows(setting: Setting) -> list[dict]:
    """Peak memory of a training step, weights and optimizer included, against 1 GB + 230 KB per patch."""
    rows = []
    for name, mode in list(MODES.items())[:2]:
        rows += attempt(name, partial(peak_row, name, mode, setting))
    return rows


def peak_row(name: str, mode: str | None, setting: Setting) -> list[dict]:
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    batch = resident_batches(setting, mode, 1)[0]
    step = TrainingStep(setting, mode)
    if setting.on_gpu:
        for _ in range(3):
            step(batch)
        peak = torch.cuda.max_memory_allocated() - before
    else:
        peak = saved_bytes(lambda: step.forward(**batch).loss, step.model)
    patches = int(sum(batch["num_patches"]))
    row = {"run": name, "patches": patches, "peak [GB]": peak / 1e9}
    return [row | judge(peak / 1e9, 1 + 230e3 * patches / 1e9, "H6", most=True)]


# H7: precision


def precision_rows(setting: Setting) -> list[dict]:
    """Gradients of varlen beside those of SDPA, and the training loss in half precision beside float32's."""
    parts = {"gradients": gradient_rows, "loss curves": loss_rows}
    return [row for name, part in parts.items() for row in attempt(name, partial(part, setting))]


def gradient_rows(setting: Setting) -> list[dict]:
    """Relative difference of all gradients together: fast attention, SDPA per spectrum, and float32."""
    lengths = setting.lengths(**dict.fromkeys(PIXELS, 1 if setting.smoke else 4))
    model, batch = SpecTokForPreTraining(setting.config()).to(setting.device), make_batch(lengths, setting.device)
    exact = gradient(model, batch, replace(setting, dtype=torch.float32))
    fast = gradient(model, batch, setting)
    with mock.patch.object(packed_attention, "FAST", ()):  # as an implementation that we do not know: call by call
        by_spectrum = gradient(model, batch, setting)
    row = {"gradients of": "fast attention", "beside": "SDPA per spectrum", "difference": distance(fast, by_spectrum)}
    rows = [row | judge(row["difference"], 1e-2, "H7", most=True)]
    for name, own in (("fast attention", fast), ("SDPA per spectrum", by_spectrum)):
        rows.append({"gradients of": name, "beside": "float32", "difference": distance(own, exact)})
    return rows


def gradient(model: SpecTokForPreTraining, batch: Batch, setting: Setting) -> torch.Tensor:
    """All gradients of the loss of a batch, shape (parameters,)."""
    with setting.autocast():
        loss = model(**batch).loss
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([values.flatten() for values in found])


def distance(values: torch.Tensor, reference: torch.Tensor) -> float:
    return float((values - reference).norm() / reference.norm())


def loss_rows(setting: Setting) -> list[dict]:
    """Difference of two loss curves, rms over windows of a tenth of the steps: by precision, and by other weights."""
    batches = simulated_batches(setting)
    single = replace(setting, dtype=torch.float32)
    reference = loss_curve(single, batches, seed=0)
    noise = rms_difference(loss_curve(single, batches, seed=1), reference)
    half = loss_curve(setting, batches, seed=0)
    difference = rms_difference(half, reference)
    row = {"loss curve of": "half precision", "beside": "float32", "difference": difference}
    other = {"loss curve of": "float32, other first weights", "beside": "float32", "difference": noise}
    last = len(half) // 10
    row |= {"last loss": float(half[-last:].mean()), "its": float(reference[-last:].mean())}
    return [row | judge(difference, noise, "H7", most=True), other]


def simulated_batches(setting: Setting) -> list[Batch]:
    """Packed batches of 16 simulated spectra on the device, lengths on the host."""
    processor, spectra = SpectrumProcessor(), simulate(1 if setting.smoke else 64)
    collator = DataCollatorForPackedSpectra(processor)
    order = np.random.default_rng(0).permutation(len(spectra)).reshape(-1, 4 if setting.smoke else 16)
    batches = [collator([spectra[index] for index in indices]) for indices in order]
    return [
        {name: v.to(setting.device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
        for batch in batches
    ]


def loss_curve(setting: Setting, batches: Sequence[Batch], *, seed: int) -> np.ndarray:
    """Training loss of each step."""
    torch.manual_seed(seed)
    step = TrainingStep(setting)
    steps = 10 if setting.smoke else 500
    losses = [step(batch) for batch in itertools.islice(itertools.cycle(batches), steps)]
    return torch.stack(losses).cpu().numpy()


def rms_difference(losses: np.ndarray, reference: np.ndarray) -> float:
    """Relative difference of mean losses over tenths of a run, rms."""
    means, expected = losses.reshape(10, -1).mean(1), reference.reshape(10, -1).mean(1)
    return float(np.sqrt(np.mean((means / expected - 1) ** 2)))
