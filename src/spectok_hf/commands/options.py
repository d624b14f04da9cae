"""Arguments and options that commands share, and how they say things."""

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import shipped

MOST_NAMED = 20  # of the files that could not be read, on the screen

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCES...",
        help="Files (FITS, HDF5, Parquet, CSV, ...), folders, quoted glob patterns, folders of shards, or "
        "simulate:SURVEY:COUNT[:SEED]; - reads names from stdin, one per line. Each is read once, in this order.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="CHECKPOINT",
        help="A folder, ORG/NAME or ORG/NAME@REVISION on the Hub, or the name of one that comes with the package.",
    ),
]


def _known_survey(name: str | None) -> str | None:
    """A survey as `SURVEYS` spells it: misspelled, it would have no bits, and GALAH's wavelengths be vacuum ones."""
    if name is None:
        return None
    from ..data.surveys import SURVEYS

    if name.lower() not in SURVEYS:
        near = difflib.get_close_matches(name.lower(), SURVEYS, n=2)
        meant = f": did you mean {' or '.join(near)}?" if near else ""
        raise typer.BadParameter(f"must be one of {', '.join(SURVEYS)}, found {name!r}{meant}")
    return name.lower()


Survey = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=_known_survey,
        help="Survey of rows of tables that do not say theirs (medium, bits).",
    ),
]
Generation = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Generation of Multimodal Universe Parquet files that do not show it: preview, hats."
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read, beside each that computes; 0 = none.")]
Budget = Annotated[int, typer.Option(min=1, help="Most patches of a batch.")]
Device = Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda, ....", show_default="the fastest")]
Dtype = Annotated[str, typer.Option(help="float32, or bfloat16 or float16 for mixed precision.")]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at what cannot be read, instead of counting it.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Check finished files by checksum, and write damaged ones anew.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, a line each, for programs.")]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


def given_sources(sources: Sequence[str]) -> list[str]:
    """The sources, with what stdin names in the place of "-".

    Args:
        sources: As given.

    Raises:
        ValueError: If stdin names nothing.
    """
    found: list[str] = []
    for source in sources:
        if source != "-":
            found.append(source)
            continue
        lines = [line.rstrip("\r\n") for line in sys.stdin]
        named = [line for line in lines if line.strip()]
        if not named:
            raise ValueError("- reads names of files from stdin, one per line, found none")
        found += named
    return found


def read_entries(
    sources: Sequence[str], survey: str | None, *, strict: bool = False, what: str = "reading", quiet: bool = True
) -> Iterator[Any]:
    """The spectra of sources one by one, or why there is none, as `data.parts.Entry`.

    Args:
        sources: Files, folders, patterns, simulations.
        survey: Survey of tables that do not say theirs.
        strict: Whether to stop at what cannot be read; a missing file among several counts as such.
        what: What is done, for the progress bar.
        quiet: No progress bar.

    Raises:
        ValueError: If one cannot be read, and `strict`.
    """
    from ..data.parts import plan_parts, raise_failure
    from ..data.prepare import part_bar

    parts = plan_parts(sources, survey=survey, on_error="skip", skip_missing=not strict and len(sources) > 1)
    with part_bar(parts, [], what, not quiet) as bar:
        for part in parts:
            for entry in part.entries():
                if strict and entry.spectrum is None:
                    raise_failure(entry)
                yield entry
            bar.update(part.size)


def check_free(output: Path, overwrite: bool) -> None:
    """Refuse to replace a file unasked.

    Args:
        output: The file.
        overwrite: Whether it may be there.

    Raises:
        ValueError: If it is.
    """
    if output.exists() and not overwrite:
        raise ValueError(f"{output} is there already: pass --overwrite to replace it, or another name")


def checkpoint(name: str) -> str:
    """The path of a folder that begins with "~", which the shell leaves alone in --model=~/...; else the name.

    Args:
        name: As given.
    """
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def load_encoder(model: str, device: str | None = None) -> Any:
    """The `SpectrumEncoder` of a command.

    Args:
        model: Its checkpoint.
        device: Where it runs.
    """
    from ..encoder import SpectrumEncoder

    return SpectrumEncoder.from_pretrained(checkpoint(model), device=device)


def say(text: str) -> None:
    """A line for people, on stderr: stdout is for results.

    Args:
        text: The line.
    """
    typer.echo(text, err=True)


def say_skipped(reasons: Sequence[Mapping[str, Any]], count: int, listed: Path | None) -> None:
    """Name what has no answer, the first of many.

    Args:
        reasons: Source, row and reason of each.
        count: How many there are.
        listed: Where all are listed.
    """
    if not count:
        return
    say(f"skipped {count:,}:")
    for entry in reasons[:MOST_NAMED]:
        named = str(entry["reason"]).startswith(str(entry["source"]))
        say(f"  {entry['reason']}" if named else f"  {entry['source']}, row {entry['row']}: {entry['reason']}")
    if count > MOST_NAMED:
        say(f"  and {count - MOST_NAMED:,} more")
    if listed is not None:
        say(f"  all are listed in {listed}")


def show_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows as a table for people, or as JSON lines.

    Args:
        rows: The rows, with the same keys each.
        as_json: Which.
    """
    from ..inference.table_files import json_line

    if as_json:
        for row in rows:
            typer.echo(json_line(row))
        return
    names = list(rows[0]) if rows else []
    cells = [[_shown(row[name]) for name in names] for row in rows]
    widths = [max([len(name), *(len(line[place]) for line in cells)]) for place, name in enumerate(names)]
    for line in [names, *cells]:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _shown(value: Any) -> str:
    if value is None or value == "" or value != value:  # NaN is not itself
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object.

    Args:
        content: What it holds.
    """
    from ..inference.table_files import json_line

    typer.echo(json_line(content))


DEFAULT = shipped.DEFAULT

__all__ = [
    "check_free",
    "checkpoint",
    "given_sources",
    "load_encoder",
    "read_entries",
    "say",
    "say_skipped",
    "show_json",
    "show_rows",
]
