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
    _, _, *rows = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["prepare", "embed"])
def test_memory_is_flat(job, monkeypatch, capsys):
    *curve, (name, verdict, _) = run(monkeypatch, capsys, "--jobs", job, "--spectra", "10000")
    assert name == job and verdict.endswith(", flat"), verdict
    assert int(curve[-1][1]) == 10_000
