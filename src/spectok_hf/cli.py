"""The command line: `spectok ...`. What a command needs is imported inside it, so that the others start without."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from . import __version__

app = typer.Typer(
    name="spectok",
    help="Spectra as tokens: checkpoints, and what is made of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command of its name, whose errors are one line and exit code 1.

    Args:
        function: Raises `ValueError`, `OSError` or `ImportError` where its user has to do something else.
    """

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            typer.echo(f"spectok: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error

    return app.command()(run)


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


@command
def space(
    checkpoint: Annotated[
        str,
        typer.Argument(metavar="CHECKPOINT", help="The autoencoder: a folder, or ORG/NAME or ORG/NAME@REVISION."),
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the Space.")],
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECKPOINT", help="A task head, alike; repeat it for class, stellar parameters and redshift."
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "SpecTok: spectra as tokens",
    license: Annotated[str, typer.Option(help="Licence of the Space, as the Hub spells it.")] = "mit",
    survey: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A survey that the checkpoints were trained on; may be repeated."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a Space written before.")] = False,
) -> None:
    """Write a Hugging Face Space: a page where visitors upload a spectrum and see what the models make of it.

    Folders of checkpoints are copied into it, those on the Hub are named. The folder is ready to push.
    """
    from .hub.space import write_space

    written = write_space(
        checkpoint, folder, heads=head or (), title=title, license=license, surveys=survey or (), overwrite=overwrite
    )
    typer.echo(f"wrote {written}")
    typer.echo(f"try it:  python {written / 'app.py'}")
    typer.echo(f"push it: hf upload ORG/NAME {written} --repo-type space")


__all__ = ["app"]
