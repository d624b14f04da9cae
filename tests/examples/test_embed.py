"""`examples/embed.py` writes embeddings and reads them."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "embed.py"


def test_smoke(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--smoke", "--tokens", "--output", str(tmp_path / "out")])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    summary, found, nearest = capsys.readouterr().out.splitlines()
    assert summary.startswith(f"{tmp_path / 'out'}: 48 spectra; 48 in ")
    assert found == "48 embeddings of 32 numbers, of apogee, desi, sdss"
    assert nearest.startswith("most like sim-sdss-0-00000: sim-")


def test_sources_are_needed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--model", "spectok-tiny"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "sources are needed, or --smoke" in capsys.readouterr().err
