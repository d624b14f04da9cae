"""Put the figures that were measured of a shipped checkpoint into its cards, and the pictures beside them.

    python examples/card_figures.py outputs/checkpoints/spectok-tiny/tables model_cards/spectok-tiny

The tables are those that `make_checkpoint.py --steps tables` measures, of the folder as it is shipped. All else in the
cards stays as `publish_checkpoint.py` wrote it; weights are neither needed nor touched.
"""

import argparse
import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluate_reconstruction
import latent_space
import torch
from transformers import AutoConfig, AutoProcessor

import spectok_hf
from spectok_hf.hub import Result, task_results
from spectok_hf.hub.card_facts import FACTS_FILE, load_facts, save_facts
from spectok_hf.hub.cards import model_card

# The kind of task of each head.
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
    parser.add_argument("tables", type=Path, help="folder of tables")
    parser.add_argument("folder", type=Path, help="folder of the checkpoint; its name is that of the checkpoint")
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


def root_results(tables: Path) -> list[Result]:
    """The figures of the autoencoder.

    Args:
        tables: What the judges wrote.
    """
    rows = read_rows(tables / "reconstruction.csv")
    results = evaluate_reconstruction.card_results(rows) + truth_results(rows)
    results += results_of_tasks(read_rows(tables / "tasks.csv"), FROZEN)
    return results + latent_space.card_results(read_rows(tables / "latent_space/neighbours.csv"))


def write_card(folder: Path, name: str, head: str | None, **changes: Any) -> None:
    """Write the card of a folder, and its facts, with some of these changed.

    Args:
        folder: The folder.
        name: Name of the checkpoint.
        head: Which of its heads it is, if any.
        **changes: Facts that are new.
    """
    facts = replace(load_facts(folder / FACTS_FILE), **changes)
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):  # no weights are made
        model = getattr(spectok_hf, config.architectures[0])(config)
    model_card(model, AutoProcessor.from_pretrained(folder), facts, f"org/{name}", head).save(folder / "README.md")
    save_facts(facts, folder / FACTS_FILE)


def run(args: argparse.Namespace) -> None:
    """Write the cards of the root and of its heads.

    Args:
        args: Options.
    """
    results, text = root_results(args.tables), notes(args.tables, args.folder)
    write_card(args.folder, args.folder.name, None, results=results, results_notes=text)
    rows = read_rows(args.tables / "heads.csv")
    for head, kind in HEADS.items():
        write_card(args.folder / head, args.folder.name, head, results=results_of_tasks(rows, SHIPPED, kind))
    print(f"wrote the cards of {args.folder}: {reached(read_rows(args.tables / 'reconstruction.csv'))}")


if __name__ == "__main__":
    run(parse_arguments())
