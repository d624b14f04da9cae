"""`examples/benchmark_simulation.py` prints a row for every survey."""

import runpy
import sys
from pathlib import Path

from spectok_hf.data.simulation.recipes import RECIPES

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmark_simulation.py"


def test_every_survey_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--smoke"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == list(RECIPES)
    assert all(float(row.split("|")[4]) > 0 for row in rows)
