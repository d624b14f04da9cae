"""Commands that make what others use: shards, embeddings, simulated spectra, Spaces, cards, converted checkpoints."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import shipped
from .options import (
    DEFAULT,
    Budget,
    Device,
    Dtype,
    Generation,
    Model,
    Quiet,
    Replace,
    Sources,
    Strict,
    Survey,
    Verify,
    Workers,
    check_free,
    checkpoint,
    given_sources,
    say,
)

Anew = Annotated[
    bool, typer.Option("--overwrite", help="Begin anew in a folder made from other sources or with other settings.")
]


def simulate(
    survey: Annotated[str, typer.Argument(help="Whose spectra: sdss, boss, desi, galah, apogee, lamost, ....")],
    count: Annotated[int, typer.Argument(min=1, help="How many.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The Parquet file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same spectra.")] = 0,
    kind: Annotated[
        str | None, typer.Option(help="GALAXY, QSO or STAR.", show_default="as the survey observes")
    ] = None,
    snr: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest S/N per pixel.", show_default="the survey's own"),
    ] = None,
    visit: Annotated[
        int, typer.Option(min=0, help="Another one observes the same objects with noise of its own.")
    ] = 0,
    overwrite: Replace = False,
    quiet: Quiet = False,
) -> None:
    """Write simulated spectra with labels and their noise-free truth; every other command reads the file."""
    from tqdm.auto import tqdm

    from ..data.simulation import simulate_survey
    from ..data.spectrum_files import check_ending, write_spectra

    check_ending(output)
    check_free(output, overwrite)
    options: dict[str, Any] = {"kind": kind, "snr": snr, "visit": visit}
    numbers = tqdm(range(count), desc="simulating", unit="spectrum", disable=quiet)
    spectra = (simulate_survey(survey, 1, seed, start=number, **options)[0] for number in numbers)
    write_spectra(spectra, output)
    say(f"{output}: {count:,} simulated spectra of {survey}, seed {seed}")


def card(
    checkpoint_folder: Annotated[
        str, typer.Argument(metavar="[CHECKPOINT]", help="Folder with a model, its processor and facts.yaml.")
    ] = DEFAULT,
    facts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What only you know.", show_default="facts.yaml of the checkpoint"),
    ] = None,
    repo: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Where the checkpoint will be found; must be given.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The card, such as README.md.")
    ] = None,
    overwrite: Replace = False,
) -> None:
    """Write the model card of a checkpoint: what it is, what it saw, its figures beside a baseline, how to use it."""
    from ..hub.card_facts import FACTS_FILE, load_facts
    from ..hub.cards import model_card
    from ..inference.answers import load_checkpoint, place_of

    source, options = place_of(checkpoint(checkpoint_folder))
    path = facts or Path(source, FACTS_FILE)
    if not path.is_file():
        raise ValueError(
            f"a card needs the facts that only you know, found no {path}: write at least license, training, steps, "
            "batch_size, hardware and results (docs/publishing.md shows them), or pass --facts FILE"
        )
    if output is not None:
        check_free(output, overwrite)
    if repo is None:
        raise ValueError("a card shows how to load the checkpoint, found no name for that: pass --repo ORG/NAME")
    text = str(model_card(*load_checkpoint(source, options), load_facts(path), repo))
    if output is None:
        typer.echo(text)
        return
    output.write_text(text, encoding="utf-8")
    say(f"wrote {output}")


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
    title: Annotated[
        str | None, typer.Option(help="Title of the page.", show_default="the model family: spectra as tokens")
    ] = None,
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
    from ..hub.space import write_space

    if folder is None:  # the shell has one argument to give, and click would give it to the first
        _check_folder(checkpoint)
        checkpoint, folder = shipped.DEFAULT, Path(checkpoint)
    written = write_space(
        checkpoint, folder, heads=head or None, title=title, license=license, surveys=survey or (), overwrite=overwrite
    )
    typer.echo(f"wrote {written}")
    typer.echo(f"try it:  python {shlex.quote(str(written / 'app.py'))}")
    typer.echo(f"push it: hf upload ORG/NAME {shlex.quote(str(written))} --repo-type space")


def _check_folder(name: str) -> None:
    """Refuse the name of a checkpoint as that of the folder: the Space would be of another model."""
    path = Path(name)
    on_hub = "@" in name or (re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not path.parent.is_dir())
    if not path.is_dir() and (on_hub or shipped.is_ours(name)):
        raise ValueError(
            f"FOLDER must say where to write the Space, found the checkpoint {name} alone: pass FOLDER as well (or "
            f"./{name}, if that is the folder)"
        )


def convert(
    kind: Annotated[
        Literal["astroclip"], typer.Argument(metavar="astroclip", help="Whose code saved it; AstroCLIP or Specformer.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The Lightning checkpoint (.ckpt).")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write; absent or empty.")],
    image_residual: Annotated[
        bool, typer.Option("--image-residual", help="Its image MLP has a residual, as before the last public code.")
    ] = False,
) -> None:
    """Turn a public checkpoint of AstroCLIP or its Specformer into a folder that Transformers loads.

    Only numbers are read from it. A file with other keys or shapes than the models have is refused.
    """
    from ..hub.convert_astroclip import convert_astroclip

    model = convert_astroclip(file.expanduser(), folder.expanduser(), image_residual=image_residual)
    name = type(model).__name__
    typer.echo(f"wrote {folder}: {name}, {model.num_parameters() / 1e6:.1f} M parameters")
    typer.echo(f'load it: {name}.from_pretrained("{folder}")')


def prepare(
    sources: Sources,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the shards.")],
    survey: Survey = None,
    generation: Generation = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    spectra_per_shard: Annotated[int, typer.Option(min=1, help="Most spectra of a shard.")] = 4096,
    family: Annotated[
        Literal["spectok", "omnispectra", "specformer", "spectrum_vit"] | None,
        typer.Option(
            help="Tell valid patches as a new model of this family does. Specformer reads DESI's grid alone: spectra "
            "on another one are left out, as what cannot be read. Of pictures one good pixel is enough.",
            show_default="spectok",
        ),
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels of the patch that must have more than half of them good.",
            show_default="the family's: 32, 20, 20",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Tell valid patches by the processor of this checkpoint instead."),
    ] = None,
    strict: Strict = False,
    overwrite: Anew = False,
    verify: Verify = False,
    quiet: Quiet = False,
) -> None:
    """Write spectra of any sources as Arrow shards, which training reads at the cost of a slice.

    The same command goes on where a killed run stopped. Spectra without a valid patch are left out; manifest.json
    counts them, and what could not be read.
    """
    from ..data.prepare import prepare_shards

    outcome = prepare_shards(
        given_sources(sources),
        output,
        processor=_processor(model, family, patch_size),
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


def _processor(model: str | None, family: str | None, patch_size: int | None) -> Any:
    """The processor of a checkpoint, or that of a new model."""
    from ..inference.answers import load_processor
    from ..models.processing_omnispectra import OmniSpectraProcessor
    from ..models.processing_specformer import SpecformerProcessor
    from ..models.processing_spectok import SpectrumProcessor
    from ..models.processing_spectrum_vit import SpectrumImageProcessor

    given = {"--family": family, "--patch-size": patch_size}
    if model is None:
        kinds: dict[str, Any] = {"omnispectra": OmniSpectraProcessor, "specformer": SpecformerProcessor}
        kinds["spectrum_vit"] = SpectrumImageProcessor
        kind = kinds.get(family or "", SpectrumProcessor)
        if patch_size is not None and family == "spectrum_vit":
            raise ValueError(
                f"--patch-size is of patches, found {patch_size} for pictures, which have none: leave it out"
            )
        return kind() if patch_size is None else kind(patch_size=patch_size)
    if others := [f"{name} {value}" for name, value in given.items() if value is not None]:
        raise ValueError(f"--model {model} has a processor, found {' and '.join(others)} beside it: pass either")
    return load_processor(checkpoint(model))


def embed(
    sources: Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write the Parquet files.")
    ],
    model: Model = DEFAULT,
    tokens: Annotated[bool, typer.Option("--tokens", help="Write the tokens of valid patches too.")] = False,
    survey: Survey = None,
    generation: Generation = None,
    workers: Workers = 0,
    spectra_per_part: Annotated[int, typer.Option(min=1, help="Most spectra of a file.")] = 4096,
    token_budget: Budget = 16_384,
    device: Device = None,
    dtype: Dtype = "float32",
    strict: Strict = False,
    overwrite: Anew = False,
    verify: Verify = False,
    quiet: Quiet = False,
) -> None:
    """Write one embedding per spectrum of any sources as Parquet files, in the order of the sources.

    The same command goes on where a killed run stopped. For several devices: torchrun --nproc-per-node N -m
    spectok_hf.cli embed ..., or accelerate launch -m spectok_hf.cli embed ....
    """
    from accelerate import PartialState

    from ..embedding import embed_spectra

    outcome = embed_spectra(
        given_sources(sources),
        checkpoint(model),
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


__all__ = ["card", "convert", "embed", "prepare", "simulate", "space"]
