"""The command line: `spectok ...`. What a command needs is imported inside it, so that the others start without."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from . import __version__, shipped

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
            function(*args, **kwargs)
        except KeyboardInterrupt as error:
            _say("interrupted: run the same command again to go on", [])
            raise typer.Exit(130) from error
        except (ValueError, OSError, ImportError) as error:
            _say(str(error), getattr(error, "__notes__", []))
            raise typer.Exit(1) from error

    return app.command()(run)


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


@command
def space(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="[CHECKPOINT]",
            help="The autoencoder: a folder, ORG/NAME or ORG/NAME@REVISION; or the name of one that comes with the "
            f"package, with its heads. Left out: {shipped.DEFAULT}.",
        ),
    ],
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Where to write the Space.")] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="A task head, alike, or ORG/NAME/redshift; repeat it for class, stellar parameters and redshift.",
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

    if folder is None:  # the shell has one argument to give, and click would give it to the first
        checkpoint, folder = shipped.DEFAULT, Path(checkpoint)
    written = write_space(
        checkpoint, folder, heads=head or None, title=title, license=license, surveys=survey or (), overwrite=overwrite
    )
    typer.echo(f"wrote {written}")
    typer.echo(f"try it:  python {written / 'app.py'}")
    typer.echo(f"push it: hf upload ORG/NAME {written} --repo-type space")


Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCES...",
        help="Files (FITS, HDF5, Parquet, CSV, ...), folders, quoted glob patterns, folders of shards, or "
        "simulate:SURVEY:COUNT[:SEED]. Each is read once, in this order.",
    ),
]
Survey = Annotated[
    str | None, typer.Option(metavar="NAME", help="Survey of rows of tables that do not say theirs (medium, bits).")
]
Generation = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Generation of Multimodal Universe Parquet files that do not show it: preview, hats."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at what cannot be read, instead of counting it.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew in a folder made from other sources or with other settings.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Check finished files by checksum, and write damaged ones anew.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


@command
def prepare(
    sources: Sources,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the shards.")],
    survey: Survey = None,
    generation: Generation = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    spectra_per_shard: Annotated[int, typer.Option(min=1, help="Most spectra of a shard.")] = 4096,
    patch_size: Annotated[
        int, typer.Option(min=1, help="Pixels of the patch that must have more than half of them good.")
    ] = 32,
    model: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Tell valid patches by the processor of this checkpoint instead."),
    ] = None,
    strict: Strict = False,
    overwrite: Overwrite = False,
    verify: Verify = False,
    quiet: Quiet = False,
) -> None:
    """Write spectra of any sources as Arrow shards, which training reads at the cost of a slice.

    The same command goes on where a killed run stopped. Spectra without a valid patch are left out; manifest.json
    counts them, and what could not be read.
    """
    from .data.prepare import prepare_shards
    from .models.processing_spectok import SpectrumProcessor

    outcome = prepare_shards(
        sources,
        output,
        processor=SpectrumProcessor.from_pretrained(_without_tilde(model))
        if model
        else SpectrumProcessor(patch_size=patch_size),
        survey=survey,
        generation=generation,
        spectra_per_shard=spectra_per_shard,
        num_workers=workers,
        on_error="raise" if strict else "skip",
        overwrite=overwrite,
        verify=verify,
        progress=not quiet,
    )
    typer.echo(f"{output}: {outcome}")


def _without_tilde(checkpoint: str) -> str:
    """The path of a folder that begins with "~", which the shell leaves alone in --model=~/...; else the name."""
    folder = Path(checkpoint).expanduser()
    return str(folder) if folder.is_dir() else checkpoint


@command
def embed(
    sources: Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the Parquet files.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="CHECKPOINT",
            help="A folder, ORG/NAME or ORG/NAME@REVISION on the Hub, or the name of one that comes with the package.",
        ),
    ] = shipped.DEFAULT,
    tokens: Annotated[bool, typer.Option("--tokens", help="Write the tokens of valid patches too.")] = False,
    survey: Survey = None,
    generation: Generation = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read, beside each that encodes; 0 = none.")] = 0,
    spectra_per_part: Annotated[int, typer.Option(min=1, help="Most spectra of a file.")] = 4096,
    token_budget: Annotated[int, typer.Option(min=1, help="Most patches of a batch.")] = 16_384,
    device: Annotated[
        str | None, typer.Option(help="Where to encode: cpu, cuda, ....", show_default="the fastest")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 or float16 for mixed precision.")] = "float32",
    strict: Strict = False,
    overwrite: Overwrite = False,
    verify: Verify = False,
    quiet: Quiet = False,
) -> None:
    """Write one embedding per spectrum of any sources as Parquet files, in the order of the sources.

    The same command goes on where a killed run stopped. For several devices: torchrun --nproc-per-node N -m
    spectok_hf.cli embed ..., or accelerate launch -m spectok_hf.cli embed ....
    """
    from accelerate import PartialState

    from .embedding import embed_spectra

    outcome = embed_spectra(
        sources,
        model,
        output,
        tokens=tokens,
        survey=survey,
        generation=generation,
        spectra_per_part=spectra_per_part,
        token_budget=token_budget,
        num_workers=workers,
        device=device,
        dtype=dtype,
        on_error="raise" if strict else "skip",
        overwrite=overwrite,
        verify=verify,
        progress=not quiet,
    )
    state = PartialState()
    if state.is_main_process:
        typer.echo(f"{output}: {outcome}")
    state.destroy_process_group()


if __name__ == "__main__":
    app()

__all__ = ["app"]
