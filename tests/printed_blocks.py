"""The fenced blocks of a Markdown page, run in the order of the page, beside what they say they print.

`pycon` blocks are doctests of one session. Lines of `console` blocks that begin with "$ " are commands: those of
`spectok` run in this process, as the start of another takes seconds; all others in a shell. A page has a folder, which
its blocks share. "..." stands for anything, runs of spaces are one, and progress bars are not printed.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from typer.testing import CliRunner

from spectok_hf.cli import app

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^(?P<fence>```+|~~~+)(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=fence)[ ]*$", re.M | re.S)
PROGRESS = re.compile(r"\r?[\w ]+: +\d+%\|[^\]\r\n]*\]\n?|\r")


class Block(NamedTuple):
    """A fenced block: what stands behind its fence, its text, and the line of the page where the text begins."""

    kind: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["kind"].strip(), found["text"], text.count("\n", 0, found.start("text")))
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, and what each prints."""
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        command = re.match(r"(?:[^\n]*\\\n)*[^\n]*\n", part)[0]
        yield command.strip(), part[len(command) :]


def differences(page: Path) -> str:
    """What the blocks of a page print in the working directory, where that is not what the page says."""
    report: list[str] = []
    session: dict[str, object] = {}
    for block in blocks(page):
        if block.kind == "pycon":
            test = doctest.DocTestParser().get_doctest(block.text, session, page.name, str(page), block.line)
            doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
            session = test.globs
        elif block.kind == "console":
            for command, expected in commands(block):
                printed = PROGRESS.sub("", output_of(command))
                if not doctest.OutputChecker().check_output(expected.strip(), printed.strip(), FLAGS):
                    place = f"{page.name}, line {block.line}: $ {command}"
                    report.append(f"{place}\nExpected:\n{expected}Got:\n{printed}\n")
    return "".join(report)


def output_of(command: str) -> str:
    """What a command prints, on both streams."""
    words = shlex.split(command)
    if words[0] == "spectok" and not re.search(r"[|<>;&$]", command):
        environment = {"COLUMNS": "120", "NO_COLOR": "1"}
        return CliRunner(env=environment).invoke(app, words[1:]).output
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = subprocess.run(
        command,
        shell=True,
        executable="/bin/bash",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PATH": path},
        timeout=300,
    )
    return found.stdout
