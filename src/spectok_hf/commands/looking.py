"""Commands that look at one thing: a checkpoint (info), what is in a file (read), a picture of a spectrum (plot)."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import shipped
from .options import (
    DEFAULT,
    MOST_NAMED,
    Device,
    Json,
    Model,
    Replace,
    Sources,
    Survey,
    check_free,
    checkpoint,
    given_sources,
    load_encoder,
    read_entries,
    say,
    show_json,
)

MOST_READ = 20
KINDS = ("reconstruction", "card", "attribution", "picture")
ANSWERS = ("classification", "stellar-parameters", "redshift", "embedding")
ENDINGS = (".png", ".pdf", ".svg", ".jpg")


def info(
    model: Annotated[
        str, typer.Argument(metavar="[CHECKPOINT]", help="A folder, ORG/NAME on the Hub, or a shipped name.")
    ] = DEFAULT,
    as_json: Json = False,
) -> None:
    """Say what a checkpoint is: size, dimensions, tokens and patch width by survey, what it was trained on, heads."""
    encoder = load_encoder(model)
    if as_json:
        show_json(encoder.facts())
        return
    typer.echo(repr(encoder))
    typer.echo(f"comes with the package: {', '.join(shipped.shipped_checkpoints()) or 'none'}")


def read(
    sources: Sources,
    model: Model = DEFAULT,
    survey: Survey = None,
    most: Annotated[int, typer.Option(min=1, help="Most spectra to show of all sources.")] = MOST_READ,
    as_json: Json = False,
) -> None:
    """Say what is in files: grid, medium, labels, S/N, which pixels were dropped and why, valid patches, and whether
    the checkpoint saw anything like it."""
    from ..data.domain import TrainingDomain, outside
    from ..inference.answers import load_encoder as load_parts

    encoder, processor = load_parts(model)
    domain = TrainingDomain.from_config(encoder.config, processor.medium)
    shown = lost = 0
    for entry in read_entries(given_sources(sources), survey):
        if entry.spectrum is None:
            lost += 1
            if lost <= MOST_NAMED:
                say(f"{entry.source}, row {entry.row}: {entry.reason}")
        elif shown < most:
            _describe(entry, processor, outside(domain, entry.spectrum), as_json=as_json)
            shown += 1
        else:
            say(f"the first {most} are shown: --most N shows more")
            break
    if lost > MOST_NAMED:
        say(f"and {lost - MOST_NAMED:,} more that cannot be read")
    if lost and not shown:
        raise ValueError(f"none of the sources can be read ({lost} failed)")


def _describe(entry: Any, processor: Any, differences: dict[str, str], *, as_json: bool) -> None:
    from ..data.domain import median_snr

    spectrum = entry.spectrum
    patches = processor.patch(spectrum)
    valid, total = int(patches["attention_mask"].sum()), int(patches["num_patches"])
    snr = median_snr(spectrum)
    if as_json:
        own = {name: getattr(spectrum, name) for name in ("survey", "object_id", "medium", "frame", "flux_unit")}
        content = {"source": entry.source, "row": entry.row, **own, "pixels": len(spectrum), "snr": snr}
        ends = [float(spectrum.wavelength[0]), float(spectrum.wavelength[-1])]
        content |= {"wavelength": ends, "good_pixels": int(spectrum.good.sum()), "dropped": spectrum.dropped}
        show_json(
            content | {"valid_patches": valid, "patches": total, "labels": spectrum.labels, "outside": differences}
        )
        return
    typer.echo(f"{entry.source}, row {entry.row}")
    typer.echo(processor.report(spectrum))
    typer.echo(f"  S/N {'-' if snr is None else f'{snr:.1f}'} per pixel (median); flux in {spectrum.flux_unit or '?'}")
    if spectrum.labels:
        typer.echo("  labels: " + ", ".join(f"{name} {_short(value)}" for name, value in spectrum.labels.items()))
    for text in differences.values():
        typer.echo(f"  outside of the training: {text}")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plot(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A file, or simulate:SURVEY:COUNT[:SEED].")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help=f"The picture: {', '.join(ENDINGS)}.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            help="reconstruction: with residuals; card: all about it on one page; attribution: which wavelengths the "
            "answer rests on; picture: what a model of pictures sees.",
            show_default="reconstruction; picture of such a model",
        ),
    ] = None,
    plot_type: Annotated[
        str | None,
        typer.Option(
            help="A picture of this kind, simple, overlap or map, without a checkpoint.",
            show_default="the checkpoint's",
        ),
    ] = None,
    answer: Annotated[
        str, typer.Option(help="Whose attribution: classification, stellar-parameters, redshift, embedding.")
    ] = "embedding",
    row: Annotated[int, typer.Option(min=0, help="Which spectrum of the file.")] = 0,
    redshift: Annotated[
        float | None, typer.Option(help="Name spectral lines at this redshift.", show_default="the label")
    ] = None,
    model: Model = DEFAULT,
    survey: Survey = None,
    device: Device = None,
    overwrite: Replace = False,
) -> None:
    """Draw a spectrum: its reconstruction with residuals, a one-page card, what an answer rests on, or the picture
    that a model sees.
    """
    from ..analysis.plots import import_pyplot
    from ..models.spectrum import check_choice

    if plot_type is not None and kind not in (None, "picture"):
        raise ValueError(f"--plot-type is of pictures, found --kind {kind}: leave either out")
    check_picture(output, overwrite)
    kind = kind or _usual_kind(model, plot_type)
    check_choice("--kind", kind, KINDS)
    check_choice("--answer", answer, ANSWERS)
    if redshift is not None and not -1 < redshift < float("inf"):
        raise ValueError(f"--redshift must be above -1 and finite, found {redshift}")
    if redshift is not None and kind == "picture":
        raise ValueError("--redshift names lines, and a picture is drawn as a model sees it: leave it out")
    spectrum = read_one(source, row, survey)
    pyplot = import_pyplot()
    if kind == "picture":
        figure = _draw_picture(spectrum, model, plot_type)
    else:
        figure = _draw(kind, spectrum, load_encoder(model, device), answer, redshift)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    pyplot.close(figure)
    say(f"wrote {output}: {spectrum!r}")


def _usual_kind(model: str, plot_type: str | None) -> str:
    from ..data.spectrum_side import reads_pictures
    from ..inference.answers import load_processor

    return "picture" if plot_type or reads_pictures(load_processor(checkpoint(model))) else "reconstruction"


def _draw_picture(spectrum: Any, model: str, plot_type: str | None) -> Any:
    """The figure of what a processor draws of a spectrum: that of a checkpoint, or a new one."""
    from ..analysis.picture_plots import plot_picture
    from ..data.spectrum_side import reads_pictures
    from ..inference.answers import load_processor
    from ..models.processing_spectrum_vit import SpectrumImageProcessor

    processor: Any = SpectrumImageProcessor(plot_type) if plot_type else load_processor(checkpoint(model))
    if not reads_pictures(processor):
        raise ValueError(f"{model} reads no pictures: pass --model of one that does, or --plot-type map")
    return plot_picture(spectrum, processor).figure


def _draw(kind: str, spectrum: Any, encoder: Any, answer: str, redshift: float | None) -> Any:
    """The figure of a spectrum."""
    from ..analysis.attribution import attribute, plot_attribution
    from ..analysis.plots import mark_lines, plot_reconstruction
    from ..analysis.spectrum_card import spectrum_card

    if kind == "card":
        return next(iter(spectrum_card(spectrum, encoder, redshift=redshift).values())).figure
    lines = None if redshift is None else _line_kind(spectrum, encoder)
    if kind == "attribution":
        model = encoder.model if answer == "embedding" else encoder.head(answer).model
        found = attribute(model, encoder.processor, spectrum)
        return plot_attribution(spectrum, found, redshift=redshift, kind=lines).figure
    axis, _ = plot_reconstruction(spectrum, encoder.reconstruct(spectrum))
    if redshift is not None:
        mark_lines(axis, spectrum=spectrum, redshift=redshift, kind=lines)
    return axis.figure


def _line_kind(spectrum: Any, encoder: Any) -> str | None:
    """Which lines to name: those of the class that the labels say, else the head; where nobody does, that is said."""
    from ..data.lines import line_kind

    if (kind := line_kind(spectrum)) is None and "classification" in encoder.heads:
        kind = line_kind(spectrum, encoder.classify(spectrum)["class"])
    if kind is None:
        say("no lines are named: neither the labels nor a head say the class")
    return kind


def check_picture(output: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be, or should not be, drawn.

    Args:
        output: The file.
        overwrite: Whether it may be there.

    Raises:
        ValueError: If it has no ending of a picture, or is there.
    """
    if output.suffix.lower() not in ENDINGS:
        raise ValueError(f"{output} must end in {', '.join(ENDINGS)}: name it so")
    check_free(output, overwrite)


def read_one(source: str, row: int, survey: str | None) -> Any:
    """One spectrum of a source.

    Args:
        source: A file, or simulated spectra.
        row: Its number there.
        survey: Survey of tables that do not say theirs.

    Raises:
        ValueError: If there is none.
    """
    entries = read_entries([source], survey)
    entry = next((entry for number, entry in enumerate(entries) if number == row), None)
    if entry is None:
        raise ValueError(f"{source} has no row {row}: spectok read shows what it has")
    if entry.spectrum is None:
        raise ValueError(f"{source}, row {row}: {entry.reason}")
    return entry.spectrum


__all__ = ["check_picture", "info", "plot", "read", "read_one"]
