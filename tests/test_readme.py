"""The README's examples run as printed, and print what it says."""

import doctest
import re
from pathlib import Path

import pytest

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, SpectrumProcessor

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def demo_model(tmp_path, monkeypatch):
    """What `make demo` leaves behind, untrained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    SpecTokForPreTraining(SpecTokConfig.from_preset("tiny")).save_pretrained("outputs/demo/model")
    SpectrumProcessor().save_pretrained("outputs/demo/model")


def test_every_block_prints_what_it_says(demo_model):
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", README.read_text(), re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, "README.md", str(README), 0)
    assert len(test.examples) > 20
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.failed == 0, "".join(report)


def test_the_first_screen_names_the_two_commands():
    first_screen = README.read_text()[:1500]
    assert "make demo" in first_screen and "make test" in first_screen
    assert "| survey | spectra |" in README.read_text() and " passed in " in README.read_text()  # their real output
    assert "failed" not in README.read_text()
