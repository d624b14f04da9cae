"""The README's first screen and its tree; its blocks run with those of the documentation (test_docs.py)."""

from pathlib import Path

from printed_blocks import blocks

README = Path(__file__).parents[1] / "README.md"


def test_the_first_screen_shows_a_figure_three_lines_and_the_two_commands():
    first_screen = README.read_text()[:1700]
    assert "](docs/figures/" in first_screen[:200]
    assert "make demo" in first_screen and "make test" in first_screen
    first = blocks(README)[0]
    assert first.kind == "pycon" and first.text in first_screen and first.text.count(">>> ") == 3


def test_it_shows_what_the_two_commands_printed():
    text = README.read_text()
    assert "| survey | spectra |" in text and " passed in " in text
    assert "failed" not in text


def test_the_tree_names_every_module():
    tree = README.read_text().partition("## The tree")[2]
    package = Path(__file__).parents[1] / "src" / "spectok_hf"
    files = {path.name for folder in ("analysis", "commands", "inference") for path in (package / folder).glob("*.py")}
    files |= {path.name for path in package.glob("*.py")}
    assert sorted(file for file in files - {"__init__.py"} if file not in tree) == []
