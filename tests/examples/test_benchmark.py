"""`examples/benchmark.py`: every table runs at a tiny size, and its layouts do the same work. No time is judged."""

import math
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from spectok_hf import SpecTokForPreTraining
from spectok_hf.models import packed_attention

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CPU_TABLES = ["step", "encode", "peers", "embedding", "packer", "memory", "scaling"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import benchmark

    yield benchmark
    for name in [name for name in sys.modules if name.startswith("benchmark")]:
        del sys.modules[name]


@pytest.fixture
def runs(benchmark):
    return sys.modules["benchmark_runs"]


@pytest.fixture
def setting(runs):
    return runs.Setting(smoke=True, rounds=1, peak=1e9)


@pytest.fixture
def not_compiled(benchmark, monkeypatch):
    """Tracing takes seconds; one test does it."""
    monkeypatch.setattr(benchmark.gpu, "compiled", lambda model, mode, setting: model)


def numbers(rows, *columns):
    return [row[column] for row in rows for column in columns if column in row]


def assert_positive(values):
    assert values and all(math.isfinite(value) and value > 0 for value in values)


def test_tables_of_a_cpu(benchmark, tmp_path, capsys):
    output = tmp_path / "docs" / "benchmarks.md"
    results = benchmark.main(["--device", "cpu", "--smoke", "--tables", *CPU_TABLES, "--output", str(output)])
    assert list(results) == CPU_TABLES
    for rows in results.values():
        assert rows and not any("error" in row for row in rows)
        assert_positive([value for row in rows for value in row.values() if isinstance(value, (int, float))])
    printed = capsys.readouterr().out
    assert output.read_text() == f"# Benchmarks\n\n{printed}"
    assert "Smoke run" in printed and "| C1 >= " in printed
    goals = {row["goal"].split()[0] for rows in results.values() for row in rows if "goal" in row}
    assert goals == {"C1", "C2", "C3", "C6", "C10"}
    assert [row["batch"] for row in results["step"]] == list(benchmark.models.MIXES)


def test_tables_of_a_gpu_run_on_a_cpu(benchmark, not_compiled):
    names = list(benchmark.GPU_TABLES)
    results = benchmark.main(["--device", "cpu", "--dtype", "bfloat16", "--smoke", "--tables", *names])
    for rows in results.values():
        assert rows and not any("error" in row for row in rows)
    assert all(row["finite"] and row["embedding is 0"] for row in results["all-bad"])
    for name, columns in {"H1": ["ms", "hours"], "H2": ["speed-up"], "H3": ["ratio"], "H4": ["spectra/s"]}.items():
        assert_positive(numbers(results[name], *columns))
    assert_positive(numbers(results["H6"], "peak [GB]"))
    assert all(row["difference"] < 0.1 for row in results["H7"])


def test_compiled_training_is_one_graph_for_all_batches(benchmark, setting):
    (row,) = benchmark.gpu.training_row("compiled", "default", setting)  # a second graph is an error
    assert row["ms"] > 0


def test_loader_table(benchmark, setting, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    rows = benchmark.loader.loader_rows(setting)
    cores = [row for row in rows if "goal" not in row]
    assert [row["loader"] for row in cores] == ["local", "streaming"] and all(row["value"] > 0 for row in cores)
    assert [(row["loader"], row["goal"].split()[0]) for row in rows if "goal" in row] == [
        ("local", "C7"),
        ("local", "C8"),
        ("streaming", "C7"),
        ("streaming", "C8"),
    ]
    assert_positive(numbers(rows, "value"))


def test_loader_table_says_what_is_absent(benchmark, setting, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (row,) = benchmark.loader.loader_rows(setting)
    assert row["loader"] == "skipped" and "datasets" in row["reason"]


def test_what_a_gpu_needs_does_not_import_datasets():
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import benchmark; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"datasets", "evaluate", "astropy", "pyarrow"} & set(loaded)


def test_a_failing_table_leaves_the_others(benchmark, monkeypatch, capsys):
    def fail(setting):
        raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setitem(benchmark.TABLES, "step", fail)
    results = benchmark.main(["--device", "cpu", "--smoke", "--tables", "step", "packer"])
    assert results["step"] == [{"run": "step", "error": "RuntimeError: no kernel"}]
    assert results["packer"] and "RuntimeError" in capsys.readouterr().err


def test_starts_anew_only_without_malloc_settings(benchmark, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in benchmark.MALLOC:
        monkeypatch.delenv(name, raising=False)
    benchmark.start_anew()
    assert benchmark.MALLOC.items() <= calls[0][2].items()
    for name, value in benchmark.MALLOC.items():
        monkeypatch.setenv(name, value)
    benchmark.start_anew()
    assert len(calls) == 1


def test_mixes_have_the_flop_ratios_that_the_goals_are_for(benchmark, runs):
    model = SpecTokForPreTraining(runs.Setting().config(full=False))
    ratios = {}
    for mix in ("uniform", "DESI-heavy"):
        lengths = runs.Setting().lengths(**benchmark.models.MIXES[mix])
        ratios[mix] = model.flops([512] * 16) / model.flops(lengths)
    assert ratios == pytest.approx({"uniform": 1.963, "DESI-heavy": 2.328}, abs=1e-3)


def count_flops(action) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def test_flop_ratio_is_that_of_the_layouts(benchmark, runs, setting):
    lengths = setting.lengths(sdss=2, desi=1, galah=1)
    # Attention in plain operations: torch does not count the operations of its kernel for CPUs.
    model = SpecTokForPreTraining(setting.config()).eval()
    model.set_attn_implementation("eager")
    batch = runs.make_batch(lengths)
    batch["pixel_mask"] = torch.ones_like(batch["pixel_mask"])
    padded = runs.pad(batch)
    packed_flops = count_flops(lambda: model(**batch))
    with runs.padded_layout():
        padded_flops = count_flops(lambda: model(**padded))
    row = benchmark.models.layout_row(model, "uniform", lengths, setting, encoder_only=False)
    assert row["FLOP ratio"] == pytest.approx(padded_flops / packed_flops, rel=1e-12)


def gradient(runs, model, batches, setting) -> torch.Tensor:
    model.zero_grad()
    runs.train(model, batches, setting, parameters=[])
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def test_layouts_do_the_same_work(runs, setting):
    batch = runs.make_batch(setting.lengths(sdss=2, desi=2, galah=1))
    padded = runs.pad(batch)
    groups = runs.group(padded)
    assert sorted(len(part["flux"]) for part in groups) == [1, 2, 2]
    model = SpecTokForPreTraining(setting.config())
    packed = gradient(runs, model, [batch], setting)
    torch.testing.assert_close(gradient(runs, model, [padded], setting), packed, rtol=1e-4, atol=1e-4)
    with runs.padded_layout():
        torch.testing.assert_close(gradient(runs, model, [padded], setting), packed, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradient(runs, model, groups, setting), packed, rtol=1e-4, atol=1e-4)


def test_padded_layout_pads_inside(runs, setting):
    """Else the padded side of every ratio would be the packed one."""
    padded = runs.pad(runs.make_batch(setting.lengths(sdss=1, galah=1)))
    model = SpecTokForPreTraining(setting.config())
    shapes = []
    model.decoder.head.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].ndim))
    for action in runs.layouts(model, runs.make_batch([4, 2]), setting).values():
        action()
    with runs.padded_layout():
        model(**padded)
    assert shapes == [3, 3, 3, 2, 2, 3]


def test_actions_leave_no_gradients(runs, setting):
    model = SpecTokForPreTraining(setting.config())
    for action in runs.layouts(model, runs.make_batch([4, 2]), setting).values():
        action()
        assert all(weight.grad is None for weight in model.parameters())


def test_static_buffers_keep_their_size(benchmark, setting):
    batches = benchmark.gpu.resident_batches(setting, "default")
    assert len({batch["flux"].shape for batch in batches}) == 1
    assert len({int(batch["num_patches"].sum()) for batch in batches}) > 1
    assert len({batch["max_num_patches"] for batch in batches}) == 1


@pytest.mark.skipif(packed_attention.varlen_attn is None, reason="torch < 2.10 has no varlen attention")
def test_static_batches_fit_varlen(benchmark, setting):
    """Shapes of the GPU's path, forward and backward, on tensors without values."""
    model = SpecTokForPreTraining(setting.config()).to("meta", torch.bfloat16)
    batch = benchmark.gpu.resident_batches(setting, "default", 1)[0]
    batch = {name: value.to("meta") if torch.is_tensor(value) else value for name, value in batch.items()}
    with mock.patch.object(packed_attention, "varlen_attn", wraps=packed_attention.varlen_attn) as varlen:
        model(**batch).loss.backward()
    assert varlen.call_count == 2
    assert all(weight.grad.shape == weight.shape for weight in model.parameters())


def test_reference_gradients_take_the_other_attention(benchmark, setting):
    segments = mock.patch.object(packed_attention, "_attend_by_segment", wraps=packed_attention._attend_by_segment)
    with segments as attend:
        benchmark.gpu.gradient_rows(setting)
    assert attend.call_count == 2  # blocks; those of one of three gradients


def test_saved_bytes_grow_with_the_batch_and_leave_weights_out(runs, setting):
    model = torch.nn.Linear(64, 64, bias=False)

    def saved(rows):
        values = torch.ones(rows, 64)
        return runs.saved_bytes(lambda: model(values).sum(), model)

    assert (saved(8), saved(16)) == (8 * 64 * 4, 16 * 64 * 4)


def test_goals_are_judged(runs):
    assert runs.judge(2.0, 1.6, "C3") == {"goal": "C3 >= 1.6", "met": "yes"}
    assert runs.judge(0.02, 0.01, "C6", most=True) == {"goal": "C6 <= 0.01", "met": "NO"}
