"""Write the folder of a shipped checkpoint: weights, heads, code, and cards with every figure that was measured.

    python examples/publish_checkpoint.py outputs/checkpoints/spectok-tiny model_cards/spectok-tiny

The source is what `make_checkpoint.py` left: `pretraining`, a folder for each head, and `tables`. The model of the
pretraining becomes the root; its heads, each with an encoder of its own, become sub-folders. Weights are stored in
bfloat16, and load in float32. Figures come from the tables, pictures go to `figures`; nothing is typed by hand.
"""

import argparse
import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import evaluate_reconstruction
import latent_space
import torch
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification, AutoProcessor

from spectok_hf.data.shards import SpectrumShards
from spectok_hf.hub import CardFacts, Result, TrainingSurvey, export, task_results

HEADS = {"classification": "classification", "stellar-parameters": "regression", "redshift": "redshift"}
FROZEN, SHIPPED, PLAIN = "frozen head, tokens", "shipped head", "PCA + ridge, raw flux"
SPLIT = "by object: 65 % training, 15 % validation, 20 % test; mean over the splits of evaluate_checkpoint.py"
DRAWN = "drawn with a seed of their own from models fitted to real spectra; test part of the split, by object"
PARTS = {"apogee-normalised": "aspcapStar", "apogee-visit": "apVisit", "apogee-giants": "100-pixel giants"}
NOTICE = "This checkpoint is not published: it comes with the package spectok-hf, and `org` stands for nobody."
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


def training_surveys(shards: Sequence[str]) -> dict[str, TrainingSurvey]:
    """What a training saw of each survey; products of APOGEE count as APOGEE.

    Args:
        shards: Folders of shards.
    """
    opened = SpectrumShards(shards)
    counts: Counter[tuple[str, bool]] = Counter()
    parts: Counter[str] = Counter()
    for survey, simulated in zip(opened.column("survey"), opened.column("simulated"), strict=True):
        counts[survey.partition("-")[0], bool(simulated)] += 1
        parts[PARTS.get(survey, "")] += not simulated
    note = "real ones besides apStar: " + ", ".join(f"{parts[name]} {name}" for name in PARTS.values() if parts[name])
    return {
        survey: TrainingSurvey(
            counts[survey, False] + counts[survey, True],
            counts[survey, True],
            note=note if survey == "apogee" and any(map(parts.get, PARTS.values())) else "",
        )
        for survey in sorted({survey for survey, _ in counts})
    }


def truth_results(rows: Sequence[dict[str, Any]]) -> list[Result]:
    """How close reconstructions of simulated and drawn spectra come to the noise-free truth.

    Args:
        rows: What `evaluate_reconstruction.py` wrote.
    """
    kinds = {evaluate_reconstruction.SIMULATED: "simulated", evaluate_reconstruction.DRAWN: "drawn"}
    plain = evaluate_reconstruction.OWN_PCA
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
            baseline=f"{plain}, as many numbers, fitted to spectra of the same kind",
            baseline_value=float(f"{row[plain]:.3g}"),
        )
        for row in rows
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
    target.mkdir(parents=True, exist_ok=True)
    shown = []
    for name, caption in PICTURES.items():
        if (tables / name).is_file():
            shutil.copyfile(tables / name, target / Path(name).name)
            shown.append(f"### {caption}\n\n![{caption}](figures/{Path(name).name})")
    return "\n\n".join(shown)


def notes(tables: Path, folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """What stands below the table of figures: aims, latent space, transfer.

    Args:
        tables: What the judges wrote.
        folder: The checkpoint's folder.
        rows: Rows of the reconstruction.
    """
    neighbours = (tables / "latent_space/neighbours.md").read_text(encoding="utf-8").strip()
    transfer = (tables / "transfer.md").read_text(encoding="utf-8").strip()
    return "\n\n".join(
        [
            reached(rows),
            pictures(tables, folder),
            f"### Neighbours in the latent space\n\n{neighbours}",
            f"### Transfer\n\n{transfer}",
        ]
    )


def card_facts(source: Path, results: list[Result], hardware: str, run: Path, **facts: Any) -> CardFacts:
    """The facts of a card.

    Args:
        source: Folder of the checkpoint's trainings.
        results: The figures.
        hardware: What it was trained on.
        run: Folder of the training that the card is about.
        **facts: Further facts.
    """
    args = torch.load(run / "training_args.bin", weights_only=False)
    shards = json.loads((source / "pretraining/run.json").read_text())["data"]["shards"]
    return CardFacts(
        license="mit",
        training=training_surveys(shards),
        steps=args.max_steps,
        batch_size=args.train_batch_size * args.gradient_accumulation_steps,
        hardware=hardware,
        results=results,
        notice=NOTICE,
        **facts,
    )


def publish_root(args: argparse.Namespace) -> None:
    """Write the autoencoder with its card.

    Args:
        args: Options.
    """
    run, tables = args.source / "pretraining", args.source / "tables"
    rows, tasks = read_rows(tables / "reconstruction.csv"), read_rows(tables / "tasks.csv")
    results = evaluate_reconstruction.card_results(rows) + truth_results(rows)
    results += results_of_tasks(tasks, FROZEN)
    results += latent_space.card_results(read_rows(tables / "latent_space/neighbours.csv"))
    facts = card_facts(
        args.source,
        results,
        args.hardware,
        run,
        training_notes="A quarter of the real objects of each survey was held out, and nothing drawn from them. Real "
        "spectra were 55 % of what it saw. `examples/make_checkpoint.py` is the recipe; `model_cards/EXPERIMENTS.md` "
        "says what was tried.",
        results_notes=notes(tables, args.folder, rows),
    )
    model, processor = AutoModelForPreTraining.from_pretrained(run), AutoProcessor.from_pretrained(run)
    export(model, processor, args.folder, f"org/{args.folder.name}", card=facts, weights_dtype=torch.bfloat16)


def publish_head(args: argparse.Namespace, head: str) -> None:
    """Write a head with its encoder and its card.

    Args:
        args: Options.
        head: Its folder.
    """
    run = args.source / head
    results = results_of_tasks(read_rows(args.source / "tables/heads.csv"), SHIPPED, HEADS[head])
    own = (run / "report.md").read_text(encoding="utf-8").strip()
    facts = card_facts(
        args.source,
        results,
        args.hardware,
        run,
        base_model=f"org/{args.folder.name}",
        training_notes="Counts are those of the pretraining; the head was trained on those of them that have its "
        "labels, real and drawn, and on newly simulated ones.",
        results_notes=f"On a fifth of its own objects, real, drawn and simulated, held out by object:\n\n{own}",
    )
    model, processor = AutoModelForSequenceClassification.from_pretrained(run), AutoProcessor.from_pretrained(run)
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
    size = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"wrote {args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(parse_arguments())
