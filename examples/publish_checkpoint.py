"""Write the folder of a shipped checkpoint: weights, heads, code, and cards with every figure that was measured.

    python examples/publish_checkpoint.py outputs/checkpoints/spectok-tiny model_cards/spectok-tiny

The source is what `make_checkpoint.py` left: `pretraining`, a folder for each head, and `tables`. The model of the
pretraining becomes the root; its heads, each with an encoder of its own, become sub-folders. Weights are stored in
bfloat16 (`round_weights.py`), and load in float32. Figures come from the tables, pictures go to `figures`. The tables
are of these very folders, rounded weights and all: with `--unmeasured` the cards say that nothing was measured yet.
"""

import argparse
import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate_reconstruction
import latent_space
import numpy as np
import torch
from round_weights import round_ends
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification, AutoProcessor

from spectok_hf import Spectrum
from spectok_hf.data.shards import SpectrumShards
from spectok_hf.data.whole_files import write_json
from spectok_hf.hub import CardFacts, Result, TrainingSurvey, export, task_results

CALIBRATION = 24  # spectra of each survey, real and simulated
HEADS = {"classification": "classification", "stellar-parameters": "regression", "redshift": "redshift"}
FROZEN, SHIPPED, PLAIN = "frozen head, tokens", "shipped head", "PCA + ridge, raw flux"
PARENTS = "The pretraining has seen other draws from the same objects (all stars, four in five galaxies and quasars)"
SPLIT = (
    "by object: 65 % training, 15 % validation, 20 % test; mean over the splits of evaluate_checkpoint.py. The labels "
    "of the test objects are new to the head, three quarters of their real spectra are not to the encoder. Drawn "
    f"spectra have a seed of their own. {PARENTS}"
)
DRAWN = f"drawn with a seed of their own; test part of the split. {PARENTS}, and so has the head"
LAMOST = (
    "Two trainings of 1000 steps, alike but that one has LAMOST and the other (in the columns at the end) has not:"
)
PARTS = {"apogee-normalised": "aspcapStar", "apogee-visit": "apVisit", "apogee-giants": "100-pixel giants"}
NOTICE = "This checkpoint is not published. It comes with the package spectok-hf, and `org` stands for nobody."
PICTURES = {
    "reconstruction.png": "Held-out real spectra, one per survey, and their reconstructions",
    "latent_space/optical.png": "UMAP of mean-pooled embeddings of real optical spectra",
    "latent_space/real.png": "The same with all surveys: the instruments stand apart",
    "latent_space/galaxies.png": "UMAP of mean-pooled embeddings of simulated galaxies",
    "transfer.png": "How reconstruction and probes fall with resolving power and wavelength range",
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with `pretraining`, heads and `tables`")
    parser.add_argument("folder", type=Path, help="folder to write; its name is that of the checkpoint")
    parser.add_argument("--unmeasured", action="store_true", help="leave out the figures, which are to be measured")
    parser.add_argument("--hardware", default="two CPU cores, bfloat16", help="what it was trained on")
    return parser.parse_args(argv)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table that a judge wrote; numbers are numbers again.

    Args:
        path: CSV file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _value(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text or None
    return int(number) if number.is_integer() and "." not in text else number


def training_surveys(shards: Sequence[str], without: Sequence[str]) -> dict[str, TrainingSurvey]:
    """What a training saw of each survey; products of APOGEE count as APOGEE, drawn spectra as simulated.

    Args:
        shards: Folders of shards.
        without: Surveys that it left out.
    """
    opened = SpectrumShards(shards)
    columns = zip(*map(opened.column, ("survey", "simulated", "object_id")), strict=True)
    found = [row for row in columns if row[0] not in without]
    counts = Counter((survey.partition("-")[0], bool(simulated)) for survey, simulated, _ in found)
    drawn = Counter(survey.partition("-")[0] for survey, _, name in found if str(name).startswith("drawn-"))
    parts = Counter(PARTS.get(survey, "") for survey, simulated, _ in found if not simulated)
    notes = {
        survey: [f"{count} of the simulated are drawn from models of real spectra"] for survey, count in drawn.items()
    }
    products = [f"{parts[name]} {name}" for name in PARTS.values() if parts[name]]
    notes.setdefault("apogee", []).extend([f"real ones besides apStar: {', '.join(products)}"] if products else [])
    return {
        survey: TrainingSurvey(
            counts[survey, False] + counts[survey, True],
            counts[survey, True],
            note="; ".join(notes.get(survey, [])),
        )
        for survey in sorted({survey for survey, _ in counts})
    }


def truth_results(rows: Sequence[dict[str, Any]]) -> list[Result]:
    """How close reconstructions of simulated and drawn spectra come to the noise-free truth.

    Args:
        rows: What `evaluate_reconstruction.py` wrote.
    """
    kinds = {evaluate_reconstruction.SIMULATED: "simulated", evaluate_reconstruction.DRAWN: "drawn"}
    columns = (evaluate_reconstruction.PCA, evaluate_reconstruction.OWN_PCA)
    best = [evaluate_reconstruction.best_column(row, columns) for row in rows]
    return [
        Result(
            task="reconstruction",
            target="flux",
            metric="chi2 per pixel against the noise-free truth, median",
            value=float(f"{row['model']:.3g}"),
            better_is="lower",
            dataset=f"{kinds[row['judge']]} {row['survey']} spectra, {row['condition']}",
            split="made with a seed of their own",
            test_objects=int(row["spectra"]),
            baseline=f"{plain}, as many numbers, fitted to spectra of the same kind" if plain else "",
            baseline_value=float(f"{row[plain]:.3g}") if plain else None,
        )
        for row, plain in zip(rows, best, strict=True)
        if row["judge"] in kinds
    ]


def results_of_tasks(rows: Sequence[dict[str, Any]], method: str, kind: str | None = None) -> list[Result]:
    """Scores of one method of the task table beside the linear model of the raw flux.

    Args:
        rows: What `evaluate_checkpoint.py` wrote.
        method: The method.
        kind: Kind of the tasks; None = all.
    """
    results = []
    for task in dict.fromkeys(row["task"] for row in rows if kind in (None, row["kind"])):
        group = [{**row, "reason": row["reason"] or ""} for row in rows if row["task"] == task]
        if any(row["method"] == method and not row["reason"] for row in group):
            split = DRAWN if method == SHIPPED else SPLIT
            results += task_results(group, method=method, baseline=PLAIN, dataset=f"{task}", split=split)
    return results


def reached(rows: Sequence[dict[str, Any]]) -> str:
    """Which aims of the design the reconstruction reaches, in a sentence.

    Args:
        rows: What `evaluate_reconstruction.py` wrote.
    """
    counts = []
    for judge in dict.fromkeys(row["judge"] for row in rows):
        judged = [row["reached"] for row in rows if row["judge"] == judge and row["reached"]]
        counts.append(f"{judged.count('yes')} of {len(judged)} ({judge})")
    return f"Of the aims that the project set for a model of this size, it reaches {'; '.join(counts)}."


def pictures(tables: Path, folder: Path) -> str:
    """Copy the pictures, and give the Markdown that shows them.

    Args:
        tables: Where they are.
        folder: The checkpoint's folder.
    """
    target = folder / "figures"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shown = []
    for name, caption in PICTURES.items():
        if (tables / name).is_file():
            shutil.copyfile(tables / name, target / Path(name).name)
            shown.append(f"### {caption}\n\n![{caption}](figures/{Path(name).name})")
    return "\n\n".join(shown)


def notes(tables: Path, folder: Path) -> str:
    """What stands below the table of figures: aims, latent space, transfer.

    Args:
        tables: What the judges wrote.
        folder: The checkpoint's folder.
    """
    rows = read_rows(tables / "reconstruction.csv")
    neighbours = (tables / "latent_space/neighbours.md").read_text(encoding="utf-8").strip()
    transfer = (tables / "transfer.md").read_text(encoding="utf-8").strip()
    beside = tables / "lamost.md"
    lamost = beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""
    return "\n\n".join(
        [
            reached(rows),
            pictures(tables, folder),
            f"### Neighbours in the latent space\n\n{neighbours}",
            f"### Transfer\n\n{transfer}",
            f"### LAMOST without LAMOST\n\n{LAMOST}\n\n{lamost}" if lamost else "",
        ]
    )


def mixture(run: Path) -> str:
    """How often real spectra came, in a sentence; "" where nothing was weighted.

    Args:
        run: Folder of the pretraining.
    """
    weights = json.loads((run / "run.json").read_text())["data"]["survey_weights"]
    if not isinstance(weights, dict) or not weights:
        return ""
    real = sum(weight for name, weight in weights.items() if not name.endswith("-simulated"))
    return f"Real spectra were {100 * real / sum(weights.values()):.0f} % of what it saw."


def card_facts(source: Path, results: list[Result], hardware: str, run: Path, **facts: Any) -> CardFacts:
    """The facts of a card.

    Args:
        source: Folder of the checkpoint's trainings.
        results: The figures.
        hardware: What it was trained on.
        run: Folder of the training that the card is about.
        **facts: Further facts.
    """
    args = torch.load(run / "training_args.bin", weights_only=False)  # our own file, of a training of ours
    described = json.loads((source / "pretraining/run.json").read_text())
    own = json.loads((run / "run.json").read_text())
    return CardFacts(
        license="mit",
        training=training_surveys(described["data"]["shards"], described["data"].get("without", [])),
        steps=args.max_steps,
        batch_size=own.get("global_batch", args.train_batch_size * args.gradient_accumulation_steps),
        hardware=hardware,
        results=results,
        notice=NOTICE,
        **facts,
    )


def root_results(tables: Path) -> list[Result]:
    """The figures of the autoencoder.

    Args:
        tables: What the judges wrote.
    """
    rows = read_rows(tables / "reconstruction.csv")
    results = evaluate_reconstruction.card_results(rows) + truth_results(rows)
    results += results_of_tasks(read_rows(tables / "tasks.csv"), FROZEN)
    return results + latent_space.card_results(read_rows(tables / "latent_space/neighbours.csv"))


def calibration(source: Path) -> list[Spectrum]:
    """Training spectra of every survey, simulated and real, that rounded weights shall be true for.

    Args:
        source: Folder of the checkpoint's trainings.
    """
    shards = SpectrumShards(json.loads((source / "pretraining/run.json").read_text())["data"]["shards"])
    groups: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for index, group in enumerate(zip(shards.column("survey"), shards.column("simulated"), strict=True)):
        groups[group].append(index)
    rng = np.random.default_rng(0)
    chosen = [rng.choice(group, min(CALIBRATION, len(group)), replace=False) for group in groups.values()]
    return [shards[int(index)] for index in np.concatenate(chosen)]


def publish_root(args: argparse.Namespace) -> None:
    """Write the autoencoder with its card.

    Args:
        args: Options.
    """
    run, tables = args.source / "pretraining", args.source / "tables"
    measured = not args.unmeasured
    results = root_results(tables) if measured else []
    facts = card_facts(
        args.source,
        results,
        args.hardware,
        run,
        training_notes="A quarter of the real objects of each survey was held out, and nothing drawn from them. The "
        f"matrices of the blocks were trained by Muon, the rest by AdamW. {mixture(run)} `make_checkpoint.py` is the "
        "recipe, and `model_cards/EXPERIMENTS.md` says what was tried: choices were made on the same held-out objects "
        "that figures are given of.",
        results_notes=notes(tables, args.folder) if measured else "",
    )
    model, processor = AutoModelForPreTraining.from_pretrained(run), AutoProcessor.from_pretrained(run)
    round_ends(model, processor, calibration(args.source))
    export(model, processor, args.folder, f"org/{args.folder.name}", card=facts, weights_dtype=torch.bfloat16)


def publish_head(args: argparse.Namespace, head: str) -> None:
    """Write a head with its encoder and its card.

    Args:
        args: Options.
        head: Its folder.
    """
    run, table = args.source / head, args.source / "tables/heads.csv"
    results = results_of_tasks(read_rows(table), SHIPPED, HEADS[head]) if not args.unmeasured else []
    own = (run / "report.md").read_text(encoding="utf-8").strip()
    facts = card_facts(
        args.source,
        results,
        args.hardware,
        run,
        base_model=f"org/{args.folder.name}",
        training_notes="Counts are those of the pretraining; the head was trained on those of them that have its "
        "labels, real and drawn, and on newly simulated ones.",
        results_notes="On a fifth of the objects that it was trained with, real, drawn and simulated, held out from "
        f"the training of the head (the encoder under it had seen their spectra in its pretraining):\n\n{own}",
    )
    model, processor = AutoModelForSequenceClassification.from_pretrained(run), AutoProcessor.from_pretrained(run)
    round_ends(model, processor, calibration(args.source))
    repository = f"org/{args.folder.name}"
    options = {"card": facts, "subfolder": head, "weights_dtype": torch.bfloat16}
    export(model, processor, args.folder / head, repository, **options)


def run(args: argparse.Namespace) -> None:
    """Write the root and its heads.

    Args:
        args: Options.
    """
    publish_root(args)
    for head in HEADS:
        publish_head(args, head)
    if args.unmeasured:
        write_json({"folder": str(args.folder)}, args.source / "weights.json")
    size = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"wrote {args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(parse_arguments())
