"""The Gradio app of a Space: a spectrum in, and what the models of the Space make of it.

All but `build_app` works without gradio. Nothing is kept between two requests: each of them reads its own files.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch
from transformers import pipeline

from ..analysis.plots import plot_reconstruction, signal_to_noise
from ..data.rows import pixel_wavelength
from ..data.spectrum_side import as_read
from ..data.surveys import SURVEYS
from ..models.spectrum import Spectrum
from .families import family_of
from .space import Checkpoint, SpaceModels, load_models
from .space_uploads import MAX_MEGABYTES, MAX_PIXELS, MAX_SPECTRA, read_upload

if TYPE_CHECKING:
    import gradio
    from matplotlib.figure import Figure

HEADINGS = {
    "spectrum-classification": "Class",
    "stellar-parameters": "Stellar parameters",
    "spectrum-redshift": "Redshift",
}
TARGET_TEXTS = {"teff": "Teff", "logg": "log g", "feh": "\\[Fe/H\\]"}
SCRIPTS = {
    "spectrum-classification": "finetune_classification.py",
    "stellar-parameters": "finetune_stellar_parameters.py",
    "spectrum-redshift": "finetune_redshift.py",
}

FILE_TYPES = [".fits", ".fit", ".gz", ".bz2", ".csv", ".ecsv", ".parquet"]

FAR = 3.0  # standard deviations of a target from the mean of its training set
LEAST_COVERED = 0.8  # share of the good pixels within the training surveys' wavelengths
WELCOME = (
    "Upload a spectrum, or pick an example: FITS files of SDSS, BOSS, DESI, APOGEE, GALAH (a star's four "
    "files together), LAMOST or Gaia XP, or a table (CSV, ECSV, Parquet, FITS) with the columns flux, wavelength (Å) "
    f"and ivar or error. At most {MAX_MEGABYTES} MB, {MAX_PIXELS} pixels a spectrum and {MAX_SPECTRA} spectra."
)
NEIGHBOURS = (
    "**Not in this Space yet.** This tab will list the spectra of a reference catalogue that lie nearest to yours. It "
    "needs an index: the embedding of every spectrum of the catalogue (`pooler_output` of this model, at the same "
    "revision), with its survey, identifier, class and redshift. Embeddings of another model or revision cannot be "
    "compared with these."
)


@dataclass(frozen=True)
class Analysis:
    """What is shown of a spectrum.

    Args:
        summary: What was read and what was dropped, in Markdown.
        reconstruction: The spectrum, its reconstruction and the residual.
        tokens: The tokens on the wavelength axis.
        answers: Of each head by its task: probabilities by class, else Markdown; None = it sees nothing.
        notes: Why an answer may mean little, in Markdown.
    """

    summary: str
    reconstruction: "Figure"
    tokens: "Figure"
    answers: Mapping[str, dict[str, float] | str | None]
    notes: str


# Choosing a spectrum -------------------------------------------------------------------------------


def choose(models: SpaceModels, spectra: Sequence[Spectrum]) -> int:
    """The first spectrum with a valid patch; the first of all, where there is none.

    Args:
        models: Of the Space.
        spectra: At least one.
    """
    patches = models.autoencoder.processor.patch
    return next((i for i, spectrum in enumerate(spectra) if patches(spectrum)["attention_mask"].any()), 0)


def choices(spectra: Sequence[Spectrum]) -> list[tuple[str, int]]:
    """A text for each spectrum of an upload, and its place.

    Args:
        spectra: The spectra.
    """
    return [
        (f"{place + 1}: {spectrum.name}, S/N {signal_to_noise(spectrum):.1f}", place)
        for place, spectrum in enumerate(spectra)
    ]


# Analysis -----------------------------------------------------------------------------------------


@torch.inference_mode()
def analyse(models: SpaceModels, spectrum: Spectrum) -> Analysis:
    """All that the models of a Space say of a spectrum.

    Args:
        models: Of the Space.
        spectrum: The spectrum.

    Raises:
        ValueError: If it has no valid patch.
        ImportError: If matplotlib is not installed.
    """
    processor = models.autoencoder.processor
    spectrum = as_read(processor, spectrum)
    batch = processor(spectrum, on_invalid="raise", return_tensors="pt")
    outputs = models.autoencoder.model.reconstruct(**batch)
    reconstruction = processor.post_process_reconstruction(outputs, spectrum)[0]
    answers = {task: _answer(task, head, spectrum) for task, head in models.heads.items()}
    return Analysis(
        summarise(models, spectrum),
        _reconstruction_figure(spectrum, reconstruction),
        _token_figure(spectrum, batch, outputs, processor.medium),
        {task: answer for task, (answer, _) in answers.items()},
        _bullets([*_doubts(models, spectrum, answers), *(note for _, notes in answers.values() for note in notes)]),
    )


def summarise(models: SpaceModels, spectrum: Spectrum) -> str:
    """What was read, what the file says of it, and what was dropped, in Markdown.

    Args:
        models: Of the Space.
        spectrum: The spectrum.
    """
    processor, config = models.autoencoder.processor, models.autoencoder.model.config
    patches = processor.count_patches(spectrum.wavelength, medium=spectrum.medium)
    facts = [
        f"**{_plain(spectrum.name)}**",
        f"{len(spectrum)} pixels",
        f"{spectrum.wavelength[0]:.1f} to {spectrum.wavelength[-1]:.1f} Å in {spectrum.medium}, "
        f"{spectrum.frame} frame",
        f"{spectrum.good.mean():.1%} of the pixels good",
        f"median S/N {signal_to_noise(spectrum):.1f} per pixel",
        f"{patches} tokens of {config.latent_size} numbers",
    ]
    known = ", ".join(f"{name} {_number(value)}" for name, value in spectrum.labels.items())
    report = [line.strip() for line in processor.report(spectrum).splitlines()[1:]]
    kept = _bullets([_plain(line) for line in report if not line.startswith("0 pixels")])
    said = f"The file itself says: {_plain(known)}\n\n" if known else ""
    return f"{' · '.join(facts)}\n\n{said}What was kept and left out:\n\n{kept}"


def _answer(task: str, head: Checkpoint, spectrum: Spectrum) -> tuple[dict[str, float] | str | None, list[str]]:
    """What a head says, None where it sees nothing of the spectrum, and what is to be said of that."""
    if not head.processor.patch(spectrum)["attention_mask"].any():
        return None, [f"{HEADINGS[task]}: its model sees nothing of this spectrum, and has no answer"]
    answer = pipeline(task, model=head.model, feature_extractor=head.processor)(spectrum)
    shown, notes = _READ[task](head.model.config, answer)
    return shown, [f"{HEADINGS[task]}: {note}" for note in notes]


def _read_classes(config: Any, answer: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], list[str]]:
    return {one["label"]: one["score"] for one in answer}, []


def _read_parameters(config: Any, answer: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    rows = [
        (TARGET_TEXTS.get(name, name), *_with_spread(one["value"], one["uncertainty"]), one["unit"] or "")
        for name, one in answer.items()
    ]
    means, stds = config.target_mean or [0.0] * len(answer), config.target_std or [np.inf] * len(answer)
    far = [
        name
        for (name, one), mean, std in zip(answer.items(), means, stds, strict=True)
        if abs(one["value"] - mean) > FAR * std
    ]
    notes = [f"{', '.join(far)} beyond {FAR:g} standard deviations of the training set"] if far else []
    return _table(("quantity", "value", "± 1σ", "unit"), rows), notes


def _read_redshift(config: Any, answer: Mapping[str, Any]) -> tuple[str, list[str]]:
    reasons = f": {', '.join(answer['warnings'])}" if answer["warnings"] else ""
    rows = [
        ("redshift", " ± ".join(_with_spread(answer["redshift"], answer["uncertainty"]))),
        ("confidence", f"{answer['confidence']:.1%}"),
        ("zwarn (0 = good)", f"{answer['zwarn']}{reasons}"),
    ]
    low, high = config.redshift_range
    window = f"± {config.redshift_velocity:g} km/s"
    meaning = f"Confidence: probability of {window} around it. Looked for between z = {low:g} and {high:g}."
    return f"{_table(('quantity', 'value'), rows)}\n\n{meaning}", []


_READ: dict[str, Callable] = {
    "spectrum-classification": _read_classes,
    "stellar-parameters": _read_parameters,
    "spectrum-redshift": _read_redshift,
}


# Doubts -------------------------------------------------------------------------------------------


def _doubts(models: SpaceModels, spectrum: Spectrum, answers: Mapping[str, tuple]) -> list[str]:
    """Where the models meet what they were not made for."""
    uncovered: dict[str, list[str]] = {}
    checkpoints = {"Reconstruction": models.autoencoder} | {
        HEADINGS[task]: head for task, head in models.heads.items()
    }
    for name, checkpoint in checkpoints.items():
        for note in _uncovered(checkpoint, spectrum):
            uncovered.setdefault(note, []).append(name)
    doubts = [f"{', '.join(names)}: {note}" for note, names in uncovered.items()]
    kind, source = _kind(spectrum, answers)
    if kind in ("GALAXY", "QSO") and "stellar-parameters" in answers:
        doubts.append(f"Stellar parameters: {source} a {kind}, and they mean something for stars only")
    if spectrum.frame == "rest" and "spectrum-redshift" in answers:
        doubts.append("Redshift: the spectrum has been shifted to the rest frame, and shows none")
    elif kind == "STAR" and "spectrum-redshift" in answers:
        doubts.append(f"Redshift: {source} a STAR, whose redshift is that of its velocity, below 0.002")
    return doubts


def _kind(spectrum: Spectrum, answers: Mapping[str, tuple]) -> tuple[str | None, str]:
    """The class of a spectrum and who says so: the file or, where that says nothing, the classification head."""
    if isinstance(spectrum.labels.get("class"), str):
        return spectrum.labels["class"].upper(), "the file says that this is"
    shares = answers.get("spectrum-classification", (None,))[0]
    if shares is not None:
        best = max(shares, key=shares.get)
        return best.upper(), f"the classification head sees ({shares[best]:.0%})"
    return None, ""


def _uncovered(checkpoint: Checkpoint, spectrum: Spectrum) -> list[str]:
    """A note where a model was trained on other wavelengths, as far as is known."""
    if not checkpoint.surveys:
        return []
    good = spectrum.wavelength[spectrum.good]
    covered = np.zeros(len(good), dtype=bool)
    for low, high in map(_extent, checkpoint.surveys):
        covered |= (good >= low) & (good <= high)
    if not len(good) or covered.mean() >= LEAST_COVERED:
        return []
    return [
        f"{1 - covered.mean():.0%} of the good pixels lie at wavelengths that the model never saw (it was trained on "
        f"{', '.join(checkpoint.surveys)})"
    ]


def _extent(survey: str) -> tuple[float, float]:
    """First and last wavelength of a survey's grid in Å, with some pixels to spare: it differs between spectra."""
    ends = [pixel_wavelength(arm, np.array([0, arm.pixels - 1])) for arm in SURVEYS[survey].arms]
    return float(np.min(ends)) * 0.99, float(np.max(ends)) * 1.01


# Figures: without pyplot, whose state all requests would share -------------------------------------


def _new_figure(height_ratios: tuple[float, float]) -> "tuple[Figure, Any]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the Space needs matplotlib: pip install "spectok-hf[space]".') from error
    figure = Figure(figsize=(10, 3.9), dpi=120, layout="constrained")
    return figure, figure.subplots(2, 1, sharex=True, height_ratios=height_ratios)


def _reconstruction_figure(spectrum: Spectrum, reconstruction: Spectrum) -> "Figure":
    figure, axes = _new_figure((3, 1))
    plot_reconstruction(_without_math(spectrum), reconstruction, axes=tuple(axes))
    return figure


def _token_figure(spectrum: Spectrum, batch: Any, outputs: Any, medium: str) -> "Figure":
    """The tokens below the flux that they stand for, each as wide as its patch, where patches do not overlap."""
    figure, (flux_axis, token_axis) = _new_figure((1, 2))
    good = batch["pixel_mask"][0].bool() & batch["attention_mask"][0].bool()[:, None]
    flux = torch.where(good, batch["flux"][0], torch.nan)
    for wavelength, values in zip(batch["wavelength"][0], flux, strict=True):
        flux_axis.plot(wavelength.numpy(), values.numpy(), color="0.35", lw=0.5)
    limits = np.nanpercentile(flux, [0.3, 99.7])
    flux_axis.set_ylim(*(limits + np.array([-0.08, 0.08]) * max(np.ptp(limits), 1e-3)))
    flux_axis.set_ylabel("normalised flux")
    flux_axis.set_title(f"{_without_math(spectrum).name}: what the encoder read", loc="left", fontsize="medium")
    edges, values = _token_image(outputs)
    channels = np.arange(len(values) + 1) + 0.5
    image = token_axis.pcolormesh(edges, channels, values, cmap="RdBu_r", vmin=-3, vmax=3)
    token_axis.set_facecolor("0.85")
    token_axis.set_ylabel("token channel")
    token_axis.set_xlabel(f"wavelength [Å, {medium}, {spectrum.frame} frame]; grey: no token")
    figure.colorbar(image, ax=token_axis, label="standardised value", extend="both", pad=0.01)
    return figure


def _token_image(outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Edges in Å, shape (2 n,), and values, shape (channels, 2 n - 1): tokens and what is between them, as NaN.

    Channels differ in size by more than ten: each is shown about its mean, in its own standard deviations. Where
    patches overlap, they meet in the middle.
    """
    centre, width = (outputs[name][0].double().numpy() for name in ("token_wavelength", "token_width"))
    valid = outputs.attention_mask[0].numpy() > 0
    real = centre > 0
    tokens = np.where(valid[:, None], outputs.tokens[0].float().numpy(), np.nan)[real]
    tokens = (tokens - np.nanmean(tokens, 0)) / np.maximum(np.nanstd(tokens, 0), 1e-6)
    edges = np.stack([centre - width / 2, centre + width / 2], -1)[real]
    middle = edges.ravel()[1:-1].reshape(-1, 2).mean(-1)
    shared = edges[:-1, 1] > edges[1:, 0]
    edges[:-1, 1], edges[1:, 0] = (np.where(shared, middle, ends) for ends in (edges[:-1, 1], edges[1:, 0]))
    edges = edges.ravel()
    values = np.full((tokens.shape[1], len(edges) - 1), np.nan)
    values[:, ::2] = tokens.T
    return np.maximum.accumulate(edges), values


def _without_math(spectrum: Spectrum) -> Spectrum:
    """The same spectrum under names in which matplotlib sees no formula: a wrong one would fail."""
    plain = copy.copy(spectrum)
    for name in ("survey", "object_id", "flux_unit"):
        setattr(plain, name, (getattr(spectrum, name) or "").replace("$", r"\$") or None)
    return plain


# Text ---------------------------------------------------------------------------------------------


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"* {line}" for line in dict.fromkeys(lines))


def _plain(text: str) -> str:
    """Text of a file, as text of Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~$!])", r"\\\1", text)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _with_spread(value: float, spread: float | None) -> tuple[str, str]:
    """A value and its uncertainty, both to two digits of the latter."""
    if spread is None or not (np.isfinite(spread) and spread > 0):
        return f"{value:.5g}", "not given"
    digits = max(0, 1 - int(np.floor(np.log10(spread))))
    return f"{value:.{digits}f}", f"{spread:.{digits}f}"


def missing_head(task: str) -> str:
    """How to add a head that a Space does not have, in Markdown.

    Args:
        task: A key of `HEADINGS`.
    """
    return (
        f"This Space has no head for this. To add one, train it (`examples/{SCRIPTS[task]}`) and write the Space "
        "again: `spectok space CHECKPOINT FOLDER --overwrite --head HEAD`"
    )


# The page -----------------------------------------------------------------------------------------


def respond(models: SpaceModels, paths: Sequence[str] | None, place: int | None) -> dict[str, Any]:
    """What each part of the page shows, by its name; nothing, where there is nothing to show.

    Args:
        models: Of the Space.
        paths: The files of the upload.
        place: Which spectrum of theirs; None = the first good one.
    """
    views = dict.fromkeys(("choices", "place", "summary", "reconstruction", "tokens", *models.heads))
    if not paths:
        return views | {"message": WELCOME, "notes": ""}
    try:
        spectra, notes = read_upload(paths)
        views |= {"choices": choices(spectra)}
        place = choose(models, spectra) if place is None else _checked_place(place, len(spectra))
        views |= {"place": place}
        analysis = analyse(models, spectra[place])
    except ValueError as error:
        return views | {"message": f"### This upload cannot be analysed\n\n{_plain(str(error))}", "notes": ""}
    said = _bullets([_plain(note) for note in notes])
    parts = {"reconstruction": analysis.reconstruction, "tokens": analysis.tokens, "summary": analysis.summary}
    notes_text = "\n".join(part for part in (analysis.notes, said) if part)
    return (
        views
        | parts
        | dict(analysis.answers)
        | {"message": "", "notes": notes_text and f"**Please note**\n\n{notes_text}"}
    )


def _checked_place(place: Any, count: int) -> int:
    if isinstance(place, bool) or place not in range(count):
        raise ValueError(
            f"the place of a spectrum must lie between 0 and {count - 1} in this upload of {count}, found {place!r}: "
            "choose one from the list"
        )
    return int(place)


def build_app(space: SpaceModels | str | Path | None = None) -> "gradio.Blocks":
    """The page.

    Args:
        space: The models, or the folder of a Space; None = those that come with the package.

    Raises:
        ValueError: If the folder is no Space.
        ImportError: If gradio is not installed.
    """
    gr = import_gradio()
    models = space if isinstance(space, SpaceModels) else load_models(space)
    with gr.Blocks(title=models.title, analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True) as app:
        gr.Markdown(f"## {_plain(models.title)}\n{_describe(models.autoencoder)}")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                files = gr.File(
                    label="Spectrum (FITS, CSV)",
                    file_count="multiple",
                    file_types=FILE_TYPES,
                    height=165,
                    elem_id="upload",
                )
                if models.examples:
                    gr.Examples(
                        [[[path]] for path in models.examples.values()],
                        [files],
                        example_labels=list(models.examples),
                        label="Examples (simulated)",
                    )
                chooser = gr.Dropdown(label="Spectrum of the file", visible=False, elem_id="chooser")
                views = {
                    "message": gr.Markdown(WELCOME, elem_id="message"),
                    "notes": gr.Markdown(elem_id="notes"),
                    "summary": gr.Markdown(elem_id="summary"),
                }
            with gr.Column(scale=3, min_width=600):
                views |= _results(gr, models)
        _connect(gr, models, files, chooser, views)
    return app


def _describe(autoencoder: Checkpoint) -> str:
    config, size = autoencoder.model.config, sum(weight.numel() for weight in autoencoder.model.parameters())
    told = jinja2.Template(family_of(config).page).render(config=config)
    return f"{told} ({size / 1e6:.1f} M parameters). Uploads are deleted after an hour or two."


def _results(gr: Any, models: SpaceModels) -> dict[str, Any]:
    """The components of the results, by the names that `respond` gives."""
    views = {}
    with gr.Tab("Spectrum and reconstruction"):
        views["reconstruction"] = gr.Plot(show_label=False, format="png", elem_id="reconstruction")
    with gr.Tab("Tokens"):
        views["tokens"] = gr.Plot(show_label=False, format="png", elem_id="tokens")
    with gr.Tab("Nearest neighbours"):
        gr.Markdown(NEIGHBOURS, elem_id="neighbours")
    with gr.Row():
        for task, heading in HEADINGS.items():
            with gr.Column(min_width=180):
                gr.Markdown(f"#### {heading}")
                if task not in models.heads:
                    gr.Markdown(missing_head(task), elem_id=task)
                elif task == "spectrum-classification":
                    views[task] = gr.Label(show_label=False, show_heading=False, elem_id=task)
                else:
                    views[task] = gr.Markdown(elem_id=task)
    return views


def _connect(gr: Any, models: SpaceModels, files: Any, chooser: Any, views: dict[str, Any]) -> None:
    """Run the models where a file comes or another of its spectra is chosen; one request at a time."""
    limits = {"concurrency_limit": 1, "concurrency_id": "models"}

    def show(paths: list[str] | None, place: int | None = None) -> list[Any]:
        answer = respond(models, paths, place)
        many = len(answer["choices"] or []) > 1
        update = gr.Dropdown(choices=answer["choices"] or [], value=answer["place"], visible=many)
        return [update, *(answer[name] for name in views)]

    files.change(show, files, [chooser, *views.values()], api_name="analyse", **limits)
    chooser.input(show, [files, chooser], [chooser, *views.values()], api_name="choose", **limits)


def launch_options() -> dict[str, Any]:
    """How a Space starts its page: fonts of the visitor's computer, no requests elsewhere, uploads of limited size.

    Raises:
        ImportError: If gradio is not installed.
    """
    css = "#upload { min-height: 165px } .prose table :is(td, th) { padding: 2px 8px !important }"
    theme = import_gradio().themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": css, "max_file_size": MAX_MEGABYTES * 1_000_000, "footer_links": ["gradio"]}


def import_gradio() -> Any:
    """gradio, imported where it is needed.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the Space needs gradio: pip install "spectok-hf[space]".') from error
    return gradio


__all__ = [
    "Analysis",
    "analyse",
    "build_app",
    "choices",
    "choose",
    "launch_options",
    "missing_head",
    "respond",
    "summarise",
]
