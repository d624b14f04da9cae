"""The README's examples run as printed, and print what it says."""

import doctest
import re
from pathlib import Path

import pytest
from bare_environment import BareEnvironment
from loopback_hub import CLIENT_WARNINGS, LoopbackHub

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.attach(monkeypatch, tmp_path / "home")
        yield hub


@CLIENT_WARNINGS
def test_every_block_does_what_it_says(empty_folder, hub, tmp_path):
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", README.read_text(), re.S))
    test = doctest.DocTestParser().get_doctest(blocks, {}, "README.md", str(README), 0)
    assert len(test.examples) > 20
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append)
    assert result.failed == 0, "".join(report)
    # What was published above is loaded by the other blocks, where the package is not installed.
    (script,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    refused = "try:\n    import spectok_hf\n    raise SystemExit('it is installed')\nexcept ImportError:\n    pass\n"
    environment = BareEnvironment(tmp_path / "bare")
    printed = environment.run(refused + script, environment=hub.environment(tmp_path / "elsewhere"))
    expected = re.findall(r"print\(.*\)  # (.*)", script)
    assert expected and printed.splitlines()[: len(expected)] == expected
    assert re.fullmatch(r"\{'teff': \{'value': .*, 'unit': 'K'\}, 'logg': .*\}", printed.splitlines()[-1])


def test_the_first_screen_names_the_two_commands():
    first_screen = README.read_text()[:1500]
    assert "make demo" in first_screen and "make test" in first_screen
    assert "| survey | spectra |" in README.read_text() and " passed in " in README.read_text()  # their real output
    assert "failed" not in README.read_text()
