"""`examples/classify_simulated.py`: its tables."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)
    import classify_simulated

    yield classify_simulated
    for name in ("classify_simulated", "real_spectra"):
        sys.modules.pop(name, None)


def test_smoke_without_real_spectra(script, capsys):
    script.run(script.parse_arguments(["--smoke"]))
    printed = capsys.readouterr().out
    assert all(f"| {survey} | all |" in printed for survey in script.SURVEYS)
    assert "no real spectra" in printed


def test_classes_are_equally_frequent_within_each_survey(script):
    spectra = script.simulate(4, 0)
    counts = [
        sum(s.survey == survey and s.labels["class"] == kind for s in spectra)
        for survey in script.SURVEYS
        for kind in script.CLASSES
    ]
    assert max(counts) == 4 and min(counts) >= 3
    assert len({spectrum.object_id + spectrum.labels["class"] for spectrum in spectra}) == len(spectra)


def test_real_spectra_are_labelled_and_failures_listed(script, spectra_dir, monkeypatch, capsys):
    pytest.importorskip("astropy")
    monkeypatch.setattr(script, "load_real_spectra", _a_few)
    script.run(script.parse_arguments(["--smoke", "--spectra", str(spectra_dir)]))
    printed = capsys.readouterr().out
    assert "| sdss | all | 3 |" in printed and "Wrong:" in printed


def _a_few(folder):
    """A part of the folder: all of it takes long to read."""
    from spectok_hf import read_spectra

    paths = sorted((folder / "sdss" / "firefly").glob("spec-0266*.fits*"))[:3]
    return [spectrum for path in paths for spectrum in read_spectra(str(path), progress=False)]


def test_every_failure_is_listed_with_its_probabilities(script, capsys):
    spectra = script.simulate(1, 0)[:2]
    spectra[0].labels["class"], spectra[1].labels["class"] = "GALAXY", "QSO"
    script.print_failures(spectra, np.array(["STAR", "QSO"]), np.array([[0.25, 0.1, 0.65], [0.0, 1.0, 0.0]]))
    printed = capsys.readouterr().out
    assert spectra[0].object_id in printed and "0.65" in printed
    assert spectra[1].object_id not in printed
