"""Model cards: what only their publisher knows, what model, processor and `SURVEYS` tell, and what the Hub asks for.

`model_card` renders `templates/model_card.md`. Each number in a card is computed from the model, the processor or
`SURVEYS`, or stands in `CardFacts`, which a file beside the card holds (`load_facts`, `save_facts`).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..data.domain import merge_ranges
from ..data.rows import pixel_wavelength
from ..data.spectrum_side import reads_pictures, spectrum_part
from ..data.surveys import SURVEYS
from ..evaluation.scores import SCORES
from ..models.checkpoints import SelfContainedModel, check_processor
from ..models.heads import ZWARN_BITS
from ..models.processing_spectok import SpectrumProcessor
from ..models.wavelength import to_medium
from .card_checks import LICENSES, PIPELINE_TAGS, bad_id, check_card
from .card_facts import CardFacts, Result, TrainingSurvey, load_facts, save_facts
from .families import Family, family_of

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
METRIC_NAMES = {name: header for name, (header, _) in SCORES.items()} | {
    "chi2_per_pixel": "χ² per pixel, median",
    "held_out_chi2": "χ² of held-out pixels, median",
    "masked_error": "mean squared error of hidden fluxes",
    "recall_at_10": "share found among the nearest 10",
}


@dataclass(frozen=True)
class TaskCard:
    """What a card says of a kind of model.

    Args:
        title: Names the kind.
        summary: One sentence: what it does.
        loader: The class that loads it where the package is installed.
        remote_loader: The class of Transformers that loads it without the package.
        pipeline: Its pipeline.
        pipeline_tag: The nearest of the Hub's own tasks, for its search.
        outputs: What its output holds, as code.
        answer: What the pipeline answers for a spectrum.
        uses: What it is meant for.
        call: What of the model answers, as code.
        subject: What it is for.
        pairs: Whether it takes images with the spectra.
    """

    title: str
    summary: str
    loader: str
    remote_loader: str
    pipeline: str
    pipeline_tag: str
    outputs: str
    answer: str
    uses: tuple[str, ...]
    call: str = "model"
    subject: str = "astronomical spectra"
    pairs: bool = False


_HEAD_LOADER = "AutoModelForSequenceClassification"
# By the end of the class's name.
TASK_CARDS = {
    "ForPreTraining": TaskCard(
        "spectrum autoencoder",
        "It turns a spectrum into tokens, and tokens back into flux on any wavelength grid.",
        "AutoModelForPreTraining",
        "AutoModelForPreTraining",
        "spectrum-reconstruction",
        "feature-extraction",
        "outputs.reconstruction, outputs.coverage, outputs.tokens",
        "`wavelength`, `flux` and `coverage` (0 = nothing observed) as lists, with their units and medium",
        (
            "Encoding spectra of several surveys for tasks of your own: a head, or a plain method, on the tokens.",
            "Seeing what the tokens keep of a spectrum, by decoding them.",
            "Further training on spectra of your own.",
        ),
    ),
    "ForSpectrumClassification": TaskCard(
        "spectrum classifier",
        "It says which of its classes a spectrum belongs to.",
        "AutoModelForSpectrumClassification",
        _HEAD_LOADER,
        "spectrum-classification",
        "tabular-classification",
        "outputs.logits",
        "each `label` with its `score`, the likeliest first",
        ("Sorting spectra like those it was trained on, where a person looks at the doubtful ones.",),
    ),
    "ForStellarRegression": TaskCard(
        "regression model",
        "It gives a value for each of its targets, in their units.",
        "AutoModelForStellarRegression",
        _HEAD_LOADER,
        "stellar-parameters",
        "tabular-regression",
        "outputs.predictions, outputs.uncertainties",
        "for each target its `value`, `uncertainty` and `unit`",
        ("First estimates for spectra like those it was trained on, checked on objects with known values.",),
    ),
    "ForRedshift": TaskCard(
        "redshift estimator",
        "It gives a redshift with its posterior, and a flag that says when not to trust it.",
        "AutoModelForRedshift",
        _HEAD_LOADER,
        "spectrum-redshift",
        "tabular-regression",
        "outputs.redshift, outputs.uncertainty, outputs.zwarn",
        "`redshift`, `uncertainty`, `confidence`, `zwarn` and what it means (`warnings`)",
        ("First estimates for spectra like those it was trained on; those with `zwarn` 0 are meant to be used.",),
    ),
    "Model": TaskCard(
        "spectrum encoder",
        "It turns a spectrum into tokens that know their wavelength, and into one embedding.",
        "AutoModel",
        "AutoModel",
        "spectrum-embedding",
        "feature-extraction",
        "outputs.tokens, outputs.token_wavelength, outputs.pooler_output",
        "an `embedding`; with `return_tokens=True` also `tokens` and `token_wavelength`",
        (
            "Embeddings and tokens for tasks of your own: a head, a linear probe, nearest neighbours.",
            "The start of a model with a task head.",
        ),
    ),
}
# What differs in the card of a classifier that was trained for another problem than to choose one class.
PROBLEMS: dict[str, dict[str, Any]] = {
    "multi_label_classification": {
        "title": "spectrum classifier of several labels",
        "summary": "It gives a probability for each of its classes, of which any number may apply to a spectrum.",
        "answer": "each `label` with its probability as `score`, the likeliest first",
    },
    "regression": {
        "title": "regression model",
        "summary": "It gives a number for each of its outputs.",
        "pipeline_tag": "tabular-regression",
        "answer": "each output as `label` with its number as `score`, the largest first",
        "uses": TASK_CARDS["ForStellarRegression"].uses,
    },
}
# Papers of the surveys, with their ADS bibcodes.
CITATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "sdss": (("Abazajian et al. 2009, ApJS 182, 543", "2009ApJS..182..543A"),),
    "boss": (("Dawson et al. 2013, AJ 145, 10", "2013AJ....145...10D"),),
    "desi": (("Guy et al. 2023, AJ 165, 144", "2023AJ....165..144G"),),
    "galah": (("Buder et al. 2021 (GALAH DR3), MNRAS 506, 150", "2021MNRAS.506..150B"),),
    "apogee": (
        ("Nidever et al. 2015, AJ 150, 173", "2015AJ....150..173N"),
        ("Holtzman et al. 2015, AJ 150, 148", "2015AJ....150..148H"),
    ),
    "lamost": (("Luo et al. 2015, RAA 15, 1095", "2015RAA....15.1095L"),),
    "lamost_mrs": (("Liu et al. 2020, arXiv:2005.07210", "2020arXiv200507210L"),),
    "vipers": (("Scodeggio et al. 2018, A&A 609, A84", "2018A&A...609A..84S"),),
    "gaia_xp": (("De Angeli et al. 2023, A&A 674, A2", "2023A&A...674A...2D"),),
}


def model_card(
    model: PreTrainedModel,
    processor: Any,
    facts: CardFacts,
    repo_id: str,
    subfolder: str | None = None,
) -> ModelCard:
    """The card of a checkpoint.

    Args:
        model: The model; its weights are not read, so it may be on the meta device.
        processor: Its processor.
        facts: What neither of them knows.
        repo_id: Where the checkpoint is to be found, "organisation/name".
        subfolder: In which folder there, as a head of the checkpoint at the root; None = at the root.

    Returns:
        The card, which `check_card` found nothing wrong with; `save(path)` writes it.

    Raises:
        ValueError: If the model is none of this package or holds adapters of peft, model and processor do not belong
            together, classes have no names, or `check_card` finds fault.
    """
    check_model(model)
    check_processor(model.config, processor)
    task = _task_card(model, family_of(model.config))
    for name, value in (("repo_id", repo_id), ("space", facts.space)):
        if value is not None and (problem := bad_id(value)):
            raise ValueError(f"{name} {problem}")
    environment = _environment()
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    title = "/".join(filter(None, (repo_id.split("/")[-1], subfolder)))
    where = {"repo_id": repo_id, "subfolder": subfolder, "title": title}
    computed = _computed(model, processor, facts, task)
    body = template.render(facts=facts, family=_said(environment, computed), **where, **computed)
    metadata = _metadata(task, facts, title, model.config.model_type)
    card = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}")
    check_card(card)
    return card


def check_model(model: Any) -> None:
    """Refuse what cannot be published as a checkpoint of this package.

    Args:
        model: Should be one of its models, without adapters of peft: a checkpoint holds one set of weights.

    Raises:
        ValueError: If it is not.
    """
    name = type(model).__name__
    modules = model.modules() if isinstance(model, torch.nn.Module) else ()
    if any(type(module).__module__.partition(".")[0] == "peft" for module in modules):
        raise ValueError(
            f"the model must be without adapters of peft, found some in this {name}: merge them into its weights, "
            "model = peft_model.merge_and_unload(), and pass that"
        )
    if not isinstance(model, SelfContainedModel):
        raise ValueError(
            f"the model must be one of spectok_hf, found {type(model).__module__}.{name}: load it with spectok_hf "
            "imported, and pass it without what wraps it"
        )


def _said(environment: jinja2.Environment, computed: Mapping[str, Any]) -> dict[str, Any]:
    """The texts of the model's family; what it leaves empty is said by that of the spectrum encoder within it."""
    said: dict[str, Any] = {"rows": {}}
    for config in (spectrum_part(computed["config"]), computed["config"]):
        family, known = family_of(config), {**computed, "config": config}
        texts = {name: text for name, text in vars(family).items() if text and isinstance(text, str)}
        said |= {name: environment.from_string(text).render(known) for name, text in texts.items()}
        said["rows"] |= {name: environment.from_string(text).render(known) for name, text in family.rows.items()}
    return said


def _computed(model: PreTrainedModel, processor: Any, facts: CardFacts, task: TaskCard) -> dict[str, Any]:
    """What the template is filled with beside the facts."""
    config: Any = model.config
    images, processor = processor, spectrum_part(processor)
    towers = {name: getattr(model, f"{name}_model", None) for name in ("spectrum", "vision")}
    return {
        "task": task,
        "config": config,
        "processor": processor,
        "images": images,
        "towers": {name: tower.num_parameters() for name, tower in towers.items() if tower is not None},
        "class_name": type(model).__name__,
        "parameters": model.num_parameters(),
        "encoder_parameters": model.base_model.num_parameters(),
        "classes": _class_names(config) if task.pipeline == "spectrum-classification" else [],
        "zwarn_bits": ZWARN_BITS,
        "pictures": reads_pictures(processor),
        "surveys": [
            _picture_row(name, survey.window, processor)
            if reads_pictures(processor)
            else survey_row(name, survey.window, processor, spectrum_part(config).latent_size)
            for name, survey in facts.training.items()
        ],
        "coverage": _coverage(facts.training, processor.medium),
        "example": _example(facts.training),
        "citations": {name: _citations(name) for name in facts.training},
        **_compared(facts.results),
    }


def _task_card(model: PreTrainedModel, family: Family) -> TaskCard:
    name = type(model).__name__
    for ending, task in TASK_CARDS.items():
        if name.endswith(ending):
            task = replace(task, **family.tasks.get(ending, {}))
            of_problem = PROBLEMS.get(model.config.problem_type, {}) if ending == "ForSpectrumClassification" else {}
            return replace(task, **of_problem)
    raise ValueError(f"the name of a model's class must end with one of {', '.join(TASK_CARDS)}, found {name}")


def _class_names(config: Any) -> list[str]:
    names = [str(config.id2label[number]) for number in sorted(config.id2label)]
    if any(re.fullmatch(r"LABEL_\d+", name) for name in names):
        raise ValueError(f"the classes must have names, found {', '.join(names)}: set id2label in the config")
    return names


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"count": "{:,}".format, "number": "{:g}".format}
    environment.filters |= {"line": _line, "cell": _cell, "name": _name, "quote": _quote}
    return environment


def _line(text: str) -> str:
    """Markdown that stays within its sentence, or its item of a list."""
    return " ".join(text.split())


def _cell(text: str) -> str:
    """Markdown that stays within one cell of a table."""
    return _line(text).replace("|", "\\|")


def _name(text: Any) -> str:
    """A name that is shown as it is spelled, in a table as well."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", _line(str(text)))


def _quote(text: str) -> str:
    """Markdown that stays within a quotation."""
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())


def _metadata(task: TaskCard, facts: CardFacts, name: str, model_type: str) -> ModelCardData:
    results = [_eval_result(result, task.pipeline_tag) for result in facts.results]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        base_model=facts.base_model,
        datasets=facts.datasets or None,
        tags=["astronomy", "spectroscopy", "spectra", model_type, "custom_code", task.pipeline, *facts.tags],
        model_name=name if results else None,
        eval_results=results or None,
        inference=False,  # no widget: it would not run the code of a repository
    )


def _eval_result(result: Result, pipeline_tag: str) -> EvalResult:
    """A result as the Hub shows it: it joins those of one `dataset_type`, so names must not differ within one."""
    subject = ", ".join(filter(None, (result.task, result.target, result.method)))
    name = f"{subject}: {METRIC_NAMES.get(result.metric, result.metric)}"
    return EvalResult(
        task_type=pipeline_tag,
        dataset_type=result.dataset
        if not bad_id(result.dataset)
        else re.sub(r"[^\w.-]+", "-", result.dataset).strip("-"),
        dataset_name=result.dataset,
        dataset_split="test",
        metric_type=result.metric,
        metric_value=result.value,
        metric_name=f"{name} ({result.unit})" if result.unit else name,
    )


def _grids(name: str, window: Sequence[float] | None) -> list[np.ndarray]:
    """The arms of a typical spectrum of a survey, in Å, as far as they lie in the window."""
    start, stop = window or (0.0, math.inf)
    grids = [pixel_wavelength(arm, np.arange(arm.pixels)) for arm in SURVEYS[name].arms]
    inside = [grid[(grid >= start) & (grid <= stop)] for grid in grids]
    if not any(map(len, inside)):
        raise ValueError(f"the window of {name} must hold some of its pixels, found {start:g}-{stop:g} Å")
    return [grid for grid in inside if len(grid)]


def survey_row(name: str, window: Sequence[float] | None, processor: SpectrumProcessor, latent: int) -> dict[str, Any]:
    """How the processor cuts a typical spectrum of a survey: pixels, tokens, patch width and range in Å.

    Args:
        name: Of the survey.
        window: The part of its range that counts, in Å; None = all.
        processor: Of the checkpoint.
        latent: Numbers per token.
    """
    grids = _grids(name, window)
    wavelength, size = np.concatenate(grids), processor.patch_size
    # From each pixel to the one a patch further; a patch is as wide as its pixels, not as its centres are apart.
    widths = np.concatenate([grid[size:] - grid[:-size] for grid in grids])
    tokens = processor.count_patches(wavelength, medium=SURVEYS[name].medium)
    return {
        "name": name,
        "facts": SURVEYS[name],
        "pixels": len(wavelength),
        "tokens": tokens,
        "compression": len(wavelength) / (tokens * latent),
        "width": _interval(widths, "{:.3g}") if len(widths) else "-",
        "range": ", ".join(_interval(grid, "{:.0f}") for grid in grids),
    }


def _picture_row(name: str, window: Sequence[float] | None, processor: Any) -> dict[str, Any]:
    """How much of a typical spectrum of a survey each cell, or column, of a picture shows: pixels, and range in Å."""
    grids = _grids(name, window)
    wavelength = np.concatenate(grids)
    low, high = processor.wavelength_range or (0.0, math.inf)
    axis = to_medium(wavelength, SURVEYS[name].medium, processor.medium)
    drawn = int(((axis >= low) & (axis <= high)).sum())
    of_lines = drawn / processor.image_size / (3 if processor.plot_type == "overlap" else 1)
    return {
        "name": name,
        "facts": SURVEYS[name],
        "pixels": len(wavelength),
        "drawn": drawn,
        "share": math.ceil(drawn / processor.num_cells) if processor.plot_type == "map" else of_lines,
        "range": ", ".join(_interval(grid, "{:.0f}") for grid in grids),
    }


def _interval(values: np.ndarray, form: str) -> str:
    ends = [form.format(end) for end in (values.min(), values.max())]
    return "–".join(dict.fromkeys(ends))


def _coverage(training: Mapping[str, TrainingSurvey], medium: str) -> list[str]:
    """What the surveys cover together, as intervals in Å in the checkpoint's medium."""
    intervals = []
    for name, survey in training.items():
        for grid in _grids(name, survey.window):
            intervals.append(to_medium(grid[[0, -1]], SURVEYS[name].medium, medium))
    return [f"{start:.0f}–{stop:.0f}" for start, stop in merge_ranges(map(tuple, intervals), 0.0)]


def _example(training: Mapping[str, TrainingSurvey]) -> dict[str, Any]:
    """A survey to show the use with, the one with most spectra, and a grid within its first arm."""
    name = max(training, key=lambda survey: training[survey].spectra)
    grid = _grids(name, training[name].window)[0]
    return {"survey": name, "start": math.ceil(grid[0]), "stop": math.floor(grid[-1]), "pixels": len(grid)}


def _citations(name: str) -> list[str]:
    if name not in CITATIONS:  # a survey that the user entered
        return [SURVEYS[name].reference]
    address = "https://ui.adsabs.harvard.edu/abs/"
    return [f"{text} ([{code}]({address}{code.replace('&', '%26')}))" for text, code in CITATIONS[name]]


def _compared(results: Sequence[Result]) -> dict[str, Any]:
    """The rows of the results table, the test spectra of each split, and what was won and lost against which baseline.

    The last maps a verdict to baselines, these to figures, and these to the test spectra concerned.
    """
    splits: dict[str, list[str]] = {}
    outcomes: dict[str, dict[str, dict[str, list[str]]]] = {}
    for result in results:
        of_split = splits.setdefault(result.split, [])
        if result.dataset not in of_split:
            of_split.append(result.dataset)
        figure = f"{_target(result)}: {METRIC_NAMES.get(result.metric, result.metric)}"
        of_baseline = outcomes.setdefault(result.verdict, {}).setdefault(result.baseline, {})
        of_baseline.setdefault(figure, []).append(result.dataset)
    return {"rows": [_result_row(result) for result in results], "splits": splits, "outcomes": outcomes}


def _target(result: Result) -> str:
    return f"{result.target}, {result.method}" if result.method else result.target


def _result_row(result: Result) -> list[str]:
    ours, theirs = _figure(result.value, result.error), _figure(result.baseline_value, result.baseline_error)
    verdict = {"within": "within the errors", "none": "-"}.get(result.verdict, result.verdict)
    arrow = {"higher": "↑", "lower": "↓"}[result.better_is]
    metric = METRIC_NAMES.get(result.metric, result.metric)
    return [
        result.dataset,
        result.task,
        _target(result),
        f"{metric} ({result.unit}) {arrow}" if result.unit else f"{metric} {arrow}",
        f"**{ours}**" if result.verdict == "better" else ours,
        f"**{theirs}**" if result.verdict == "worse" else theirs,
        result.baseline or "-",
        verdict,
        f"{result.test_objects:,}",
    ]


def _figure(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if error is None else f"{value:g} ± {error:g}"


__all__ = [
    "CITATIONS",
    "LICENSES",
    "PIPELINE_TAGS",
    "TASK_CARDS",
    "CardFacts",
    "Result",
    "TaskCard",
    "TrainingSurvey",
    "check_card",
    "check_model",
    "load_facts",
    "model_card",
    "save_facts",
    "survey_row",
]
