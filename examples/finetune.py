"""What `finetune_classification.py`, `finetune_stellar_parameters.py` and `finetune_redshift.py` share.

Each reads labelled spectra (simulated ones, files, a catalogue joined by id), splits them by object, trains a head on
a pretrained model with the `Trainer`, calibrates what it says of its own errors on the validation spectra, and judges
it on test spectra beside plain baselines that learned from the same training spectra. `output_dir` then holds the
model and its processor, report.md and scores.csv, the same by signal-to-noise ratio (scores_by_snr.csv),
predictions.csv and plots.

With --image_model or --image_config in place of --model_name_or_path spectra are drawn as pictures (--plot_type,
--image_options), and the model is a vision model of Transformers; with --freeze_backbone false and a learning rate of
1e-5 that is the way of arXiv 2506.00294. What training begins with then lies in `start`, and all else goes on alike.
"""

import csv
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture_start import make_start
from resumable_trainer import ResumableTrainer
from run_settings import (
    check_fields,
    describe_optimizer,
    drop_invalid,
    parse_options,
    prepared_output,
    read_fields,
)
from transformers import AutoConfig, AutoProcessor, TrainingArguments, set_seed

from spectok_hf import Spectrum, SpectrumProcessor, read_spectra, simulate_survey
from spectok_hf.analysis.plots import signal_to_noise
from spectok_hf.data.catalogues import join_labels
from spectok_hf.data.collators import collator_for
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.domain import TrainingDomain
from spectok_hf.data.mixtures import MixtureSampler, blocks
from spectok_hf.evaluation.adaptation import calibrate, uncalibrate
from spectok_hf.evaluation.probes import constant, flux_mlp, pca_ridge
from spectok_hf.evaluation.snr_bins import scores_by_snr
from spectok_hf.evaluation.tasks import (
    Prediction,
    Split,
    Task,
    evaluate_tasks,
    format_results,
    split_objects,
    write_table,
)
from spectok_hf.models.spectrum import check_choice
from spectok_hf.shipped import find_shipped

# The probe of OmniSpectra's paper (arXiv 2601.15351): a layer norm of the mean of the frozen tokens, and a linear map.
PROBE = {"head_type": "linear", "freeze_backbone": True, "lora_rank": 0}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "zero-shot": {**PROBE, "max_steps": 100, "num_train_epochs": None},
    "few-shot": {**PROBE, "max_steps": 500, "num_train_epochs": None},
    "supervised": {**PROBE, "num_train_epochs": 10, "max_steps": -1},
}
# How classes are balanced: weights in the loss, and whether all come equally often.
BALANCES = {
    "none": ("none", False),
    "inverse": ("inverse", False),
    "inverse-sqrt": ("inverse-sqrt", False),
    "sampling": ("none", True),
    "inverse-sqrt+sampling": ("inverse-sqrt", True),
}
DEMO_MODEL = "outputs/demo/model"
SNR_EDGES = (5.0, 10.0, 20.0)
MATPLOTLIB_MISSING = 'no plots: pip install "spectok-hf[plot]" for them'


@dataclass
class ModelArguments:
    """What to adapt, and how."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"Pretrained model: a folder, Hub id, or spectok-tiny. None = {DEMO_MODEL}, that of make demo, "
            "unless there is an image model."
        },
    )
    image_model: str | None = field(
        default=None,
        metadata={
            "help": "In its place a vision model of Transformers, for pictures of spectra: a folder or Hub id, such "
            "as facebook/dino-vitb16. It stays as it is unless --freeze_backbone false."
        },
    )
    image_config: str | None = field(
        default=None,
        metadata={
            "help": "In its place new weights of a vision model: its config as JSON (or YAML) with a model_type, or a "
            "preset of SpectrumVitConfig (tiny, small, base)."
        },
    )
    plot_type: str = field(default="map", metadata={"help": "How a picture is drawn: simple, overlap or map."})
    image_options: str = field(
        default="{}", metadata={"help": "Further arguments of SpectrumImageProcessor, as JSON (or YAML)."}
    )
    head_input: str = field(default="tokens", metadata={"help": "What the head reads: tokens or last_hidden_state."})
    head_type: str | None = field(
        default=None,
        metadata={
            "help": "attention, or linear: a probe of the mean token. None = the checkpoint's own: SpecTok's is "
            "attention, OmniSpectra's linear."
        },
    )
    protocol: str | None = field(
        default=None,
        metadata={
            "help": "Train as OmniSpectra's paper does, a linear probe of the frozen encoder: zero-shot (100 steps), "
            "few-shot (500 steps) or supervised (10 epochs). The words are the paper's: its zero-shot is no model "
            "without labels, but a probe that learns from them for 100 steps. None = the defaults here."
        },
    )
    freeze_backbone: bool = field(default=True, metadata={"help": "Train the head only."})
    lora_rank: int = field(
        default=0, metadata={"help": "Train low-rank changes of the attention maps beside the head; 0 = none (peft)."}
    )
    config_overrides: str = field(default="{}", metadata={"help": "Further fields of the config, as JSON (or YAML)."})


@dataclass
class DataArguments:
    """What to learn from."""

    simulate: list[str] = field(default_factory=list, metadata={"help": "Surveys to simulate."})
    num_simulated: int = field(default=500, metadata={"help": "Simulated spectra per survey."})
    data: list[str] = field(default_factory=list, metadata={"help": "Files, folders or globs of spectra to read."})
    catalogue: str | None = field(default=None, metadata={"help": "Table of labels, joined to --data by id."})
    cuts: str | None = field(
        default=None, metadata={"help": "Preset of quality cuts of the catalogue, see spectok_hf.data.cuts.CUTS."}
    )
    on: str | None = field(default=None, metadata={"help": "Column of the catalogue that holds the id."})
    label_columns: str = field(
        default="{}", metadata={"help": "Columns of the catalogue by label, as JSON (or YAML), such as {teff: TEFF}."}
    )
    duplicates: str = field(
        default="raise", metadata={"help": "Of an id that the catalogue has twice: raise, or take the first or best."}
    )
    targets: list[str] = field(
        default_factory=lambda: ["teff", "logg", "feh"], metadata={"help": "Labels to predict (stellar parameters)."}
    )
    balance: str = field(
        default="inverse-sqrt",
        metadata={
            "help": "Of classes: none, weights in the loss (inverse, inverse-sqrt), sampling (all classes come "
            "equally often), or inverse-sqrt+sampling (both, as OmniSpectra's paper has it)."
        },
    )
    validation_share: float = field(default=0.15, metadata={"help": "Share of the objects to calibrate on."})
    test_share: float = field(default=0.2, metadata={"help": "Share of the objects to judge on."})
    overwrite_output: bool = field(default=False, metadata={"help": "Delete output_dir and start anew."})
    smoke: bool = field(default=False, metadata={"help": "A run of seconds that touches everything."})


DRAWN_BY_DEFAULT = {option.name: option.default for option in fields_of(ModelArguments)}


@dataclass(frozen=True)
class Script:
    """What is a task's own.

    Args:
        name: Names the run.
        kind: Of `spectok_hf.evaluation.tasks.Task`.
        auto_class: Loads the model.
        labelled: Whether a spectrum has the labels.
        fields: What the config must know, from the training spectra.
        labels: Labels of spectra, given the model's config.
        task: Further arguments of `Task`, from all spectra.
        outputs: Names of what `Trainer.predict` returns.
        metrics: `compute_metrics` of the trainer.
        plot: Draws the plots: (folder, spectra, truth, outputs, model).
        smoke: Options of a run with --smoke.
    """

    name: str
    kind: str
    auto_class: Any
    labelled: Callable[[Spectrum, DataArguments], bool]
    fields: Callable[[list[Spectrum], DataArguments], dict[str, Any]]
    labels: Callable[[list[Spectrum], Any], np.ndarray]
    task: Callable[[list[Spectrum], Any], dict[str, Any]]
    outputs: Sequence[str]
    metrics: Callable[[Any], dict[str, float]]
    plot: Callable[[Path, list[Spectrum], Mapping[str, np.ndarray], Any], None]
    smoke: Mapping[str, Any]


def run(script: Script, argv: list[str] | None, description: str | None) -> list[dict[str, object]]:
    """Train, calibrate, judge, save.

    Args:
        script: The task.
        argv: Arguments; None = those of the command line.
        description: For --help.

    Returns:
        The rows of the report.
    """
    model_args, data, args = parse_options(
        sys.argv[1:] if argv is None else argv,
        (ModelArguments, DataArguments, TrainingArguments),
        defaults=DEFAULTS | {"output_dir": f"outputs/{script.name}"},
        smoke={"smoke": True, "num_simulated": 40, "max_steps": 4, "output_dir": f"outputs/{script.name}-smoke"}
        | dict(script.smoke),
        lists=("simulate", "data", "targets"),
        modes={"protocol": PROTOCOLS},
        description=description,
    )
    check_choice("--balance", data.balance, tuple(BALANCES))
    check_start(model_args, args.output_dir)
    settings = {
        "model": asdict(model_args),
        "data": asdict(data) | {"overwrite_output": False},
        "seed": args.seed,
        "optimizer": describe_optimizer(args),
    }
    with prepared_output(args, settings, overwrite=data.overwrite_output) as checkpoint:
        return train_head(script, model_args, data, args, checkpoint)


def check_start(model_args: ModelArguments, output_dir: str) -> None:
    """Refuse what no training can begin with, and set the model of make demo where none is named.

    Args:
        model_args: What to adapt, and how; changed in place.
        output_dir: Where the output goes.

    Raises:
        ValueError: If several models are named, or none and that of make demo is not there, a new one is to stay as it
            is, or the output would overwrite it.
    """
    names = ("model_name_or_path", "image_model", "image_config")
    named = [f"--{name}" for name in names if getattr(model_args, name)]
    if len(named) > 1:
        raise ValueError(
            f"a model starts from one of {', '.join(names)}, found {' and '.join(named)}: leave one out, or empty what"
            f' stands in the YAML file ({named[-1]} "")'
        )
    if model_args.image_config and model_args.freeze_backbone:
        raise ValueError("new weights of --image_config must be trained: pass --freeze_backbone false")
    drawing = [name for name in ("plot_type", "image_options") if getattr(model_args, name) != DRAWN_BY_DEFAULT[name]]
    if drawing and not (model_args.image_model or model_args.image_config):
        raise ValueError(
            "--plot_type and --image_options say how spectra are drawn for --image_model or --image_config, found "
            f"{' and '.join(f'--{name}' for name in drawing)} alone: leave them out, a model keeps its own processor"
        )
    if not named:
        if not Path(DEMO_MODEL, "config.json").is_file():
            raise ValueError(
                f"no model is named, and {DEMO_MODEL}, that of make demo, is not there (from {Path.cwd()}): run make "
                "demo, or pass --model_name_or_path spectok-tiny"
            )
        model_args.model_name_or_path = DEMO_MODEL
    path = Path(model_args.model_name_or_path or model_args.image_model or "").resolve()
    if not model_args.image_config and Path(output_dir).resolve() in (path, *path.parents):
        raise ValueError(f"output_dir={output_dir} holds the model to start from: pass another --output_dir")


def train_head(
    script: Script, model_args: ModelArguments, data: DataArguments, args: TrainingArguments, checkpoint: str | None
) -> list[dict[str, object]]:
    """What `run` does, in a folder that is ready for it.

    Args:
        script: The task.
        model_args: What to adapt, and how.
        data: On what.
        args: Of the Trainer.
        checkpoint: The checkpoint to resume from, if any.

    Returns:
        The rows of the report.
    """
    set_seed(args.seed)
    if model_args.model_name_or_path is None:
        model_args = replace(model_args, model_name_or_path=make_start(model_args, args))
        set_seed(args.seed)  # a head shall not depend on how many weights were made before it
    processor = AutoProcessor.from_pretrained(model_args.model_name_or_path)
    spectra = load_labelled(script, data, processor, args.seed)
    classes = [str(s.labels["class"]) for s in spectra] if script.kind == "classification" else None
    split = split_objects(
        spectra, seed=args.seed, validation_share=data.validation_share, test_share=data.test_share, classes=classes
    )
    trainer = make_trainer(script, model_args, data, args, processor, spectra, split)
    config = trainer.model.config
    # It checks that every part has labels, before anything is trained.
    task = Task(name=script.name, kind=script.kind, spectra=spectra, splits=[split], **script.task(spectra, config))
    trainer.train(resume_from_checkpoint=checkpoint)
    return finish(script, trainer, task, split)


def load_labelled(script: Script, data: DataArguments, processor: SpectrumProcessor, seed: int) -> list[Spectrum]:
    """Spectra with the labels of the task; how many were left out is said.

    Args:
        script: The task.
        data: Where they come from.
        processor: The processor of the model; spectra it finds no valid patch in are dropped.
        seed: Seed of the simulation.

    Raises:
        ValueError: If there is no source, or no labelled spectrum.
    """
    if not data.simulate and not data.data:
        raise ValueError("nothing to learn from: pass --simulate sdss ..., --data FILE ..., or both")
    spectra = [s for path in data.data for s in read_spectra(path, on_error="warn")]
    if data.catalogue:
        columns = read_fields("label_columns", data.label_columns) or None
        spectra, report = join_labels(
            spectra, data.catalogue, cuts=data.cuts, on=data.on, labels=columns, duplicates=data.duplicates
        )
        print(report)
    spectra += [s for survey in data.simulate for s in simulate_survey(survey, data.num_simulated, seed=seed)]
    kept = [spectrum for spectrum in spectra if script.labelled(spectrum, data)]
    if len(kept) < len(spectra):
        print(f"left out {len(spectra) - len(kept)} of {len(spectra)} spectra: they have no label of this task")
    if not kept:
        raise ValueError("no spectrum has a label of this task: join a catalogue that has it (--catalogue)")
    return drop_invalid(kept, processor)


def make_trainer(
    script: Script,
    model_args: ModelArguments,
    data: DataArguments,
    args: TrainingArguments,
    processor: SpectrumProcessor,
    spectra: list[Spectrum],
    split: Split,
) -> ResumableTrainer:
    """The trainer of a new head.

    Args:
        script: The task.
        model_args: What to adapt, and how.
        data: Says how classes are balanced.
        args: Of the Trainer.
        processor: The processor of the model.
        spectra: All spectra.
        split: Which of them train, and which the trainer evaluates on.
    """
    train = [spectra[row] for row in split.train]
    # The encoder under a new head, not the trained head that comes with a checkpoint of the package.
    start = find_shipped(model_args.model_name_or_path) or model_args.model_name_or_path
    overrides = read_fields("config_overrides", model_args.config_overrides)
    check_fields("config_overrides", overrides, type(AutoConfig.from_pretrained(start)))
    fields = script.fields(train, data) | overrides
    domain = TrainingDomain.of(train, processor.medium).as_json()
    model = script.auto_class.from_pretrained(
        start,
        head_input=model_args.head_input,
        **({"head_type": model_args.head_type} if model_args.head_type else {}),
        freeze_backbone=model_args.freeze_backbone and not model_args.lora_rank,
        **({"training_domain": domain} | fields),
    )
    uncalibrate(model)  # of another training
    sampler = None
    if script.kind == "classification" and BALANCES[data.balance][1]:
        train, sizes = by_class(train)
        sampler = MixtureSampler(blocks(sizes), [1.0] * len(sizes), seed=args.seed)
    validation = [spectra[row] for row in split.validation]
    return ResumableTrainer(
        model=with_lora(model, model_args.lora_rank),
        args=args,
        processing_class=processor,
        data_collator=collator_for(processor),
        train_dataset=SpectrumDataset(train, processor, labels=script.labels(train, model.config)),
        eval_dataset=SpectrumDataset(validation, processor, labels=script.labels(validation, model.config)),
        compute_metrics=script.metrics,
        sampler=sampler,
    )


def by_class(spectra: list[Spectrum]) -> tuple[list[Spectrum], list[int]]:
    """Spectra in the order of their classes, and the number of each.

    Args:
        spectra: The spectra.
    """
    ordered = sorted(spectra, key=lambda spectrum: str(spectrum.labels["class"]))
    names = [str(spectrum.labels["class"]) for spectrum in ordered]
    return ordered, [names.count(name) for name in dict.fromkeys(names)]


def with_lora(model: Any, rank: int) -> Any:
    """The model with low-rank changes of its attention maps to train, and its head.

    Args:
        model: The model.
        rank: Their rank; 0 = the model as it is.

    Raises:
        ImportError: If peft is not installed.
    """
    if not rank:
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError('--lora_rank needs peft: pip install "spectok-hf[train]"') from error
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], modules_to_save=["head"])
    return get_peft_model(model, lora)


def finish(script: Script, trainer: ResumableTrainer, task: Task, split: Split) -> list[dict[str, object]]:
    """Calibrate on the validation spectra, judge on the test spectra, save and report.

    Args:
        script: The task.
        trainer: The trainer.
        task: The task as methods are judged on it.
        split: Which of its spectra to calibrate on and to judge on.
    """
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()  # a plain model again
    model, folder, spectra = trainer.model, Path(trainer.args.output_dir), list(task.spectra)
    trainer.save_model()  # whatever becomes of the rest
    outputs = predict(script, trainer, spectra, split.validation)
    labels = torch.as_tensor(script.labels([spectra[row] for row in split.validation], model.config))
    calibrate(model, {name: torch.as_tensor(values) for name, values in outputs.items()}, labels)
    outputs = predict(script, trainer, spectra, split.test)
    trainer.save_model()
    methods = {
        "this model": lambda task, split, seed: as_prediction(script.kind, outputs, model),
        "PCA + ridge, raw flux": pca_ridge(),
        "MLP, raw flux": flux_mlp(),
        "constant": constant(),
    }
    by_snr: list[dict[str, object]] = []
    rows = evaluate_tasks(
        [task], methods, progress=False, record=lambda *said: by_snr.extend(scores_by_snr(*said, edges=SNR_EDGES))
    )
    if trainer.is_world_process_zero():
        test = [spectra[row] for row in split.test]
        write_predictions(folder / "predictions.csv", test, task.labels[split.test], outputs, task.target_names)
        save_plots(script, folder / "plots", test, outputs | {"truth": task.labels[split.test]}, model)
        print(f"\n{format_results(rows)}\n\nmodel, predictions and plots are in {folder}")
        write_report(folder, rows, by_snr)
    return rows


def write_report(folder: Path, rows: Sequence[Mapping[str, object]], by_snr: Sequence[Mapping[str, object]]) -> None:
    """Both tables as scores.csv and scores_by_snr.csv, and one text, report.md, which comes last.

    Args:
        folder: Where they go.
        rows: Scores of all test spectra.
        by_snr: Scores by signal-to-noise ratio.
    """
    texts = []
    for name, table in (("scores", rows), ("scores_by_snr", by_snr)):
        write_table(table, folder / name)
        texts.append((folder / f"{name}.md").read_text(encoding="utf-8"))
        (folder / f"{name}.md").unlink()
    report = f"{texts[0]}\n## By signal-to-noise ratio per pixel\n\n{texts[1]}"
    (folder / "report.md").write_text(report, encoding="utf-8")


def predict(
    script: Script, trainer: ResumableTrainer, spectra: list[Spectrum], rows: np.ndarray
) -> dict[str, np.ndarray]:
    """What the model says of some of the spectra.

    Args:
        script: The task.
        trainer: The trainer.
        spectra: All spectra.
        rows: Which of them.
    """
    chosen = [spectra[row] for row in rows]
    found = trainer.predict(SpectrumDataset(chosen, trainer.processing_class)).predictions
    found = found if isinstance(found, tuple) else (found,)
    return dict(zip(script.outputs, found, strict=False))


def as_prediction(kind: str, outputs: Mapping[str, np.ndarray], model: Any) -> Prediction:
    """Outputs in the form that methods answer in.

    Args:
        kind: Of the task.
        outputs: What `predict` gave.
        model: The model, whose config names the classes.
    """
    if kind == "classification":
        names = model.config.id2label
        return Prediction(np.array([names[number] for number in outputs["logits"].argmax(-1)]))
    if kind == "redshift":
        return Prediction(outputs["redshift"].astype(np.float64), outputs["uncertainty"].astype(np.float64))
    uncertainties = outputs.get("uncertainties")
    return Prediction(
        outputs["predictions"].astype(np.float64), None if uncertainties is None else uncertainties.astype(np.float64)
    )


def write_predictions(
    path: Path,
    spectra: list[Spectrum],
    truth: np.ndarray,
    outputs: Mapping[str, np.ndarray],
    names: Sequence[str],
) -> None:
    """One row per test spectrum; what has many numbers per spectrum, such as a posterior, is left to the model.

    Args:
        path: CSV file to write.
        spectra: The test spectra.
        truth: Their labels.
        outputs: What the model says of them.
        names: Names of the targets, if there are several.
    """
    columns: dict[str, Any] = {
        "object_id": [s.object_id for s in spectra],
        "survey": [s.survey for s in spectra],
        "snr": [signal_to_noise(s) for s in spectra],
    }
    for name, values in {"truth": truth, **outputs}.items():
        if values.ndim == 1:
            columns[name] = values
        elif name != "posterior":
            of = names or range(values.shape[1])
            columns |= {f"{name}_{target}": values[:, column] for column, target in enumerate(of)}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def save_plots(
    script: Script, folder: Path, spectra: list[Spectrum], outputs: Mapping[str, np.ndarray], model: Any
) -> None:
    """The plots of the task, where matplotlib is installed.

    Args:
        script: The task.
        folder: Where they go.
        spectra: The test spectra.
        outputs: What the model says of them, and the truth.
        model: The model.
    """
    try:
        import matplotlib
    except ImportError:
        warnings.warn(MATPLOTLIB_MISSING, stacklevel=2)
        return
    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    script.plot(folder, spectra, outputs, model)


def save(axes: Any, path: Path) -> None:
    """Write the figure of some axes, and close it.

    Args:
        axes: Axes, or several of one figure.
        path: PNG file to write.
    """
    from matplotlib import pyplot

    figure = (axes[0] if isinstance(axes, (tuple, list, np.ndarray)) else axes).figure
    figure.savefig(path, dpi=100, bbox_inches="tight")
    pyplot.close(figure)


# A frozen head learns in minutes; a whole model wants a tenth of this learning rate.
DEFAULTS = {
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # of all steps
    "weight_decay": 0.05,
    "num_train_epochs": 30,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "logging_steps": 50,
    "seed": 0,
}
