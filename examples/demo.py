"""The whole way in a few minutes: simulate surveys, train spectok-tiny on, reconstruct, fit heads, write model cards.

    make demo                     # four simulated surveys
    make demo DATA=my_spectra     # FITS files of SDSS, BOSS, DESI or LAMOST below a folder

It starts from the checkpoint that comes with the package, and adapts it to the spectra for a hundred steps. Prints
the tables of `examples/pretrain.py`, saves the model to `<output_dir>/model`, loads it as a user of the Hub would, and
plots one held-out spectrum per survey. On simulated surveys it then fits heads to the frozen tokens, for
classes and for the temperatures of stars, beside the linear model of the raw flux, and saves them to
`<output_dir>/heads`. Model and heads get a model card; `make space` shows them in a browser.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evaluate_checkpoint import class_task, labelled, regression_task
from judges import save_plot
from pretrain import main
from transformers import AutoModelForPreTraining, AutoProcessor

from spectok_hf import Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.dataset import by_survey
from spectok_hf.evaluation.adaptation import Backbone, FitOptions, frozen_head
from spectok_hf.evaluation.probes import constant, pca_ridge
from spectok_hf.evaluation.tasks import Task, evaluate_tasks, format_results
from spectok_hf.hub import CardFacts, Result, export, task_results, training_surveys, truth_results
from spectok_hf.models.spectrum_models import SpectrumModelForTask

CONFIG = Path(__file__).parent / "configs" / "demo.yaml"
SEED = 2512  # of the simulation: spectok-tiny has seen others, see checkpoint_data.py
SIMULATED = ["sdss", "desi", "galah", "apogee"]
REPO = "ORG/{}"  # the name in a card's examples, to be replaced by that of who publishes
NOTICE = "A minute of training on a laptop, to show the way: not for science."
START = "It started from spectok-tiny, which comes with spectok-hf, and whose card says what that has seen."
HEAD, PLAIN = "frozen head, tokens", "PCA + ridge, raw flux"
SPLIT = "by object: 65 % training, 15 % validation, 20 % test"


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folder of FITS files; default: simulated spectra")
    parser.add_argument("--output_dir", default="outputs/demo", type=Path, help="where plots and model go")
    parser.add_argument("--max_steps", type=int, help="training steps; default: those of configs/demo.yaml")
    parser.add_argument("--labelled", type=int, default=300, help="simulated spectra that the heads learn from")
    return parser.parse_args(argv)


def training_options(args: argparse.Namespace) -> list[str]:
    """Options for `examples/pretrain.py`.

    Args:
        args: Options of this script.
    """
    options = [str(CONFIG), "--output_dir", str(args.output_dir / "model"), "--overwrite_output"]
    options += ["--data", args.data] if args.data else ["--simulate", *SIMULATED]
    if args.max_steps:
        options += ["--max_steps", str(args.max_steps)]
    return options


def typical(spectra: list[Spectrum]) -> Spectrum:
    """The spectrum of median signal-to-noise ratio.

    Args:
        spectra: At least one spectrum.
    """
    snr = [np.median(spectrum.flux[spectrum.good] / spectrum.error[spectrum.good]) for spectrum in spectra]
    return spectra[int(np.argsort(snr)[len(snr) // 2])]


def run(args: argparse.Namespace) -> None:
    """Train, load, score, plot.

    Args:
        args: Options of the command line.
    """
    for stale in args.output_dir.glob("reconstruction_*.png"):
        stale.unlink()
    trainer, held_out = main(training_options(args))
    checkpoint = Path(trainer.args.output_dir)
    model, processor = AutoModelForPreTraining.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    for survey, spectra in by_survey(held_out).items():
        path = args.output_dir / f"reconstruction_{survey}.png"
        save_plot(model, processor, typical(spectra), path)
        print(f"wrote {path}")
    steps, batch_size = trainer.args.max_steps, trainer.args.per_device_train_batch_size
    facts = card_facts(trainer.train_dataset.spectra, steps, batch_size, truth_results(trainer.judge.truth_rows))
    export(model, processor, checkpoint, REPO.format("spectok-demo"), card=facts)
    if not args.data:
        print(f"\nHeads on frozen tokens:\n\n{fit_heads(args.output_dir, args.labelled)}\n")
    print(f"model, processor and model card are in {checkpoint}: AutoModel.from_pretrained takes that folder")


def card_facts(
    spectra: Sequence[Spectrum], steps: int, batch_size: int, results: list[Result], **facts: Any
) -> CardFacts:
    """What the card of a model of this script says.

    Args:
        spectra: What it was trained on.
        steps: Training steps.
        batch_size: Spectra per step.
        results: The figures.
        **facts: Further ones.
    """
    return CardFacts(
        license="mit",
        training=training_surveys(spectra),
        steps=steps,
        batch_size=batch_size,
        hardware=torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores",
        results=results,
        notice=NOTICE,
        training_notes=START,
        **facts,
    )


def fit_heads(output: Path, count: int) -> str:
    """Fit heads for two tasks on spectra that the model has not seen, save them, and give the table.

    Args:
        output: Folder of the demo; the model lies in `model`, the heads go to `heads`.
        count: Spectra per task.
    """
    backbone, options = Backbone(str(output / "model")), FitOptions(epochs=40)
    stars = labelled(simulate_survey("apogee", count, seed=SEED, kind="STAR"), ["teff"])
    tasks = {
        "classification": class_task("classes, SDSS", simulate_survey("sdss", count, seed=SEED), 1),
        "stellar-parameters": regression_task("stars, APOGEE", stars, ["teff"], 1),
    }
    fitted = {}
    head = frozen_head(backbone, options, record=lambda task, split, model, outputs: fitted.update({task.name: model}))
    methods = {HEAD: head, PLAIN: pca_ridge(), "constant": constant()}
    rows = evaluate_tasks(list(tasks.values()), methods, progress=False)
    for name, task in tasks.items():
        save_head(fitted[task.name], backbone.processor, output / "heads" / name, task, rows, options)
    return format_results(rows)


def save_head(
    model: SpectrumModelForTask,
    processor: SpectrumProcessor,
    folder: Path,
    task: Task,
    rows: list[dict],
    options: FitOptions,
) -> None:
    """Save a head with its card, in place of that of an earlier run.

    Args:
        model: The model with the head.
        processor: Its processor.
        folder: Where to.
        task: What it was fitted to.
        rows: What `evaluate_tasks` returned.
        options: How it was fitted.
    """
    training = [task.spectra[row] for row in task.splits[0].train]
    results = task_results(
        [row for row in rows if row["task"] == task.name],
        method=HEAD,
        baseline=PLAIN,
        dataset=f"simulated {training[0].survey} spectra",
        split=SPLIT,
    )
    steps = options.steps(len(training))
    facts = card_facts(training, steps, options.batch_size, results, base_model=REPO.format("spectok-demo"))
    model.freeze_backbone()  # as it was; the card says so
    shutil.rmtree(folder, ignore_errors=True)
    export(model, processor, folder, REPO.format(f"spectok-demo-{folder.name}"), card=facts)


if __name__ == "__main__":
    run(parse_arguments())
