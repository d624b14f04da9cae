"""The command line: `spectok ...`. What a command needs beside the package is imported inside it."""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from . import __version__
from .commands import doctor, looking, making, neighbours, tables

app = typer.Typer(
    name="spectok",
    help="Spectra as tokens: checkpoints, and what is made of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command of its name, whose errors are one line and exit code 1 (Ctrl-C: 130).

    Args:
        function: Raises `ValueError`, `OSError` or `ImportError` where its user has to do something else.
    """

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> None:
        try:
            with _quiet_libraries():
                function(*args, **kwargs)
        except KeyboardInterrupt as error:
            _say("interrupted: run the same command again to go on", [])
            raise typer.Exit(130) from error
        except BrokenPipeError as error:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
            raise typer.Exit(141) from error
        except (ValueError, OSError, ImportError) as error:
            _say(str(error), getattr(error, "__notes__", []))
            raise typer.Exit(1) from error

    return app.command()(run)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Leave the screen to the command: what libraries say of loading is no news, and warnings are one line each."""
    from transformers.utils import logging

    def show(message: Warning | str, *args: object, **kwargs: object) -> None:
        typer.echo(f"warning: {' '.join(str(message).split())}", err=True)

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _say(error: str, notes: list[str]) -> None:
    """One line, which of the processes of torchrun only the first says; but what has notes is of one alone."""
    if notes or os.environ.get("RANK", "0") == "0":
        text = " ".join([*error.split(), *(f"({note})" for note in notes)])
        typer.echo(f"spectok: {text}", err=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spectok-hf {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Spectra as tokens: checkpoints, and what is made of them."""


for function in (
    looking.info,
    looking.read,
    looking.plot,
    tables.encode,
    tables.reconstruct,
    tables.classify,
    tables.predict,
    tables.redshift,
    neighbours.outliers,
    neighbours.index,
    neighbours.search,
    making.simulate,
    making.prepare,
    making.embed,
    making.space,
    making.card,
    making.convert,
    doctor.doctor,
):
    command(function)


if __name__ == "__main__":
    app()

__all__ = ["app"]
