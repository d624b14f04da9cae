"""`examples/benchmark_pictures.py`: a row for every picture, and all show the same spectrum. No time is judged."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from spectok_hf import simulate_survey

pytest.importorskip("matplotlib")
SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmark_pictures.py"


def test_every_picture_has_a_row(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--smoke"])
    names = list(runpy.run_path(str(SCRIPT), run_name="__main__")["PICTURES"])
    lines = capsys.readouterr().out.splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in rows] == names and names[:2] == ["simple", "overlap"]
    assert header[1:4] == ["ms", "new figure [ms]", "reused figure [ms]"] and header[-2:] == ["goal", "met"]
    for row in rows:
        own, new, reused, faster, than_reused = map(float, row[1:6])
        assert min(own, new, reused) > 0
        assert faster == pytest.approx(new / own, rel=0.02) and than_reused == pytest.approx(reused / own, rel=0.02)
        assert row[6] == f"new / own >= {5 if row[0].startswith('map') else 2}"


def test_all_ways_draw_the_same_spectrum():
    script = runpy.run_path(str(SCRIPT))
    spectra = simulate_survey("desi", 2, seed=1206)
    pictures = {name: action() for name, action in script["actions_for"](spectra).items()}
    assert {(picture.shape, picture.dtype) for picture in pictures.values()} == {((224, 224, 3), np.dtype(np.uint8))}
    for kind in ("simple", "overlap", "map"):
        new, reused = (pictures[f"{way} {kind}"].astype(float) for way in ("new", "reused"))
        assert np.abs(new - reused).mean() < 2 and len(np.unique(new)) > 10
    middles = (np.arange(74) + 0.5) / 74
    own, drawn = (
        pictures[name][np.ix_(*[(size * middles).astype(int)] * 2)]
        for name, size in (("map, viridis", 222), ("new map", 224))
    )
    assert np.corrcoef(own.ravel(), drawn.ravel())[0, 1] > 0.9
