"""How Sphinx builds these pages: `make docs`. Nothing is fetched, and a warning is an error."""

import re
from pathlib import Path

import spectok_hf

project = "spectok-hf"
author = "The spectok-hf developers"
copyright = author
version = release = spectok_hf.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"spectok-hf {version}"
html_show_sourcelink = False
html_copy_source = False

# The notebook is executed by the tests (tests/test_docs.py), and shown as it is stored.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
trim_doctest_flags = True

# Docstrings are Google's style; types stand in signatures only, and `this` is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what Transformers says of its own methods is not ours to print
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False

ROOT = Path(__file__).parents[1]
# [text](../examples/demo.py): what lies outside of docs/ is no part of the built pages.
PLACES = "examples|model_cards|src|tests|README|CHANGELOG|CONTRIBUTING"
OUTSIDE = re.compile(rf"\[([^\]]*)\]\((?:\.\./)+((?:{PLACES})[^)]*)\)")

SPECIAL = re.compile(r"(?P<code>`[^`]+`)(?P<joined>(?=\w))?|\||(?<!^)(?<!^ )\*(?!\*? )|(?<=\w)_(?!\w)")


def name_files_of_the_repository(app, docname, source):
    """Name files outside of docs/ by their path in the repository; on GitHub they are links."""

    def named(link):
        path = link[2]
        if not (ROOT / path.split("#")[0]).exists():
            raise ValueError(f"{docname} links to {path}, which is not there")
        return f"`{path}`" if link[1].strip("`") in (path, Path(path).name) else f"{link[1]} (`{path}`)"

    source[0] = OUTSIDE.sub(named, source[0])


def read_as_markdown(app, what, name, obj, options, lines):
    """Turn what is Markdown in docstrings, and means something else in reStructuredText, into the latter."""
    found, table = [], []
    for line in [*lines, ""]:
        if line.lstrip().startswith("|"):
            table.append(line)
            continue
        found += list_table(table)
        table = []
        found.append(SPECIAL.sub(escaped, line))
    lines[:] = found[:-1]


def escaped(part):
    """Code as it is, apart from a letter that follows; |x|, *x and x_ with a backslash."""
    if part["code"]:
        return f"{part['code']}\\ " if part["joined"] is not None else part["code"]
    return part[0].replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def list_table(rows):
    """The lines of a Markdown table as those of a list-table."""
    if not rows:
        return []
    indent = " " * (len(rows[0]) - len(rows[0].lstrip()))
    cells = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [cells[0], *cells[2:]]:
        lines += [f"   {'* -' if place == 0 else '  -'} {cell}" for place, cell in enumerate(row)]
    return [indent + line for line in ["", *lines, ""]]


def setup(app):
    app.connect("source-read", name_files_of_the_repository)
    app.connect("autodoc-process-docstring", read_as_markdown, priority=400)  # before napoleon, at 500
