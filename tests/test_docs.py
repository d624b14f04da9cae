"""README and documentation: every block runs as printed, the pages build without a warning, the notebook gives what it
shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bare_environment import BareEnvironment
from loopback_hub import CLIENT_WARNINGS, LoopbackHub
from printed_blocks import blocks, differences

from spectok_hf import simulate_survey

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
EXECUTED = {"pycon", "console"}
# What is not run: pip, launchers of several processes, the Hub (sh); files and output (text, yaml, json); the API
# reference and the contents, which the build runs.
SHOWN = {"sh", "text", "yaml", "json", "{eval-rst}", "{toctree}"}
# Its python block runs where the package is not installed, in a test of its own.
PUBLISHING = DOCS / "how-to" / "without_the_package.md"
NOTEBOOK = DOCS / "notebooks" / "first_five_minutes.ipynb"
NOT_INSTALLED = "import importlib.util; assert importlib.util.find_spec('spectok_hf') is None"


def name(page):
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def folder(tmp_path, monkeypatch, write_sdss_file):
    """An empty folder; with a file of SDSS's layout, where a page reads one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")

    def prepare(page):
        if "spec-0266-51602-0107.fits" in page.read_text():
            spectrum = simulate_survey("sdss", 1, seed=2512)[0]
            spectrum.object_id = "0107"
            os.rename(write_sdss_file(spectrum, tmp_path), "spec-0266-51602-0107.fits")

    return prepare


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_of_a_kind_that_cannot_be(page):
    kinds = {block.kind for block in blocks(page)} - ({"python"} if page == PUBLISHING else set())
    assert kinds <= EXECUTED | SHOWN, f"{sorted(kinds - EXECUTED - SHOWN)}: make it pycon or console, which are run"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != PUBLISHING and EXECUTED & {block.kind for block in blocks(page)}],
    ids=name,
)
def test_the_blocks_of_a_page_print_what_it_says(page, folder):
    folder(page)
    if found := differences(page):
        pytest.fail(found, pytrace=False)


@CLIENT_WARNINGS
def test_what_is_published_loads_without_the_package(folder, monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.attach(monkeypatch, tmp_path / "home")
        assert differences(PUBLISHING) == ""
        (script,) = [block.text for block in blocks(PUBLISHING) if block.kind == "python"]
        bare, environment = BareEnvironment(tmp_path / "bare"), hub.environment(tmp_path / "elsewhere")
        printed = bare.run(f"{NOT_INSTALLED}\n{script}", environment=environment)
    expected = re.findall(r"print\(.*\)  # (.*)", script)
    assert len(expected) == 2 and printed.splitlines() == expected


def test_a_block_that_prints_something_else_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "```pycon\n>>> x = 1 + 1\n>>> x\n2\n```\n\n```console\n$ echo a && \\\n    echo b\na\nb\n"
        "$ spectok --version\nspectok-hf ...\n```\n"
    )
    assert [block.kind for block in blocks(page)] == ["pycon", "console"] and differences(page) == ""
    page.write_text(page.read_text().replace("2\n", "3\n").replace("b\n$", "c\n$").replace("-hf", "-pt"))
    found = differences(page)
    assert "Expected:\n    3" in found and "$ echo a" in found and "$ spectok --version" in found


def test_links_lead_to_files_and_headings_that_are_there():
    lost = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path = page.parent / target.split("#")[0]
            if not re.match(r"\w+:|#", target) and not path.exists():
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert lost == []


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "api" / "encoder.html").read_text()
    assert "SpectrumEncoder" in page and "normalize_embeddings" in page


def test_the_notebook_gives_what_it_shows(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # that of notebooks keeps pictures
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stored = [outputs(cell) for cell in cells]
    assert "a picture" in [output for cell in stored for output in cell]
    client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [outputs(cell) for cell in cells] == stored


def outputs(cell):
    """What a cell printed and returned as text, and that there was a picture; not what went to stderr."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found += [output.text] if output.name == "stdout" else []
        else:
            found.append("a picture" if "image/png" in output.data else output.data["text/plain"])
    return found
