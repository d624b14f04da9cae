"""`examples/benchmark_memory.py`: the memory of jobs does not grow with the number of spectra."""

import os
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmark_memory.py"
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="RssAnon is Linux's")


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["prepare", "train", "embed"])
def test_memory_is_flat(job, monkeypatch, capsys):
    rows = run(monkeypatch, capsys, "--jobs", job, "--spectra", "10000")
    *curve, (_, verdict, _) = [row for row in rows if row[0] == job]
    assert verdict.endswith(", flat"), verdict
    assert int(curve[-1][1]) >= 9_500  # ten are held out of the training
