"""How `align_images_and_spectra.py` judges a model, what it reports, and how runs are compared."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from spectok_hf import AstroClipModel, AstroClipProcessor
from spectok_hf.analysis.pair_plots import plot_pooling_attention, plot_retrieved
from spectok_hf.analysis.plots import import_pyplot
from spectok_hf.data.simulation.pairs import GalaxyPair
from spectok_hf.data.whole_files import write_json, written_whole
from spectok_hf.evaluation.cross_modal import (
    DIRECTIONS,
    PairEmbeddings,
    alignment_loss,
    embed_pairs,
    nearest_others,
    observe_again,
    pair_properties,
    property_methods,
    property_tasks,
    retrieval_rows,
)
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.tasks import Split, evaluate_tasks, format_results

NAMES = {"specformer": "Specformer", "spectok": "SpecTok", "omnispectra": "OmniSpectra"}
VALIDATION_SHARE = 0.15  # of the reference, where probes choose their settings
RECALLED = 10  # answers that the right one should be among
SETTINGS = (
    "{held_out:,} held-out pairs (seed {held_out_seed}); {reference:,} reference pairs (seed {reference_seed}), of "
    "which methods are fitted and chosen."
)
SHOWN, FOUND = 4, 6  # queries of a picture, and what is found for each

Row = dict[str, Any]
Stage = Callable[[str], AbstractContextManager[None]]


class Protocol(NamedTuple):
    """How to judge.

    Args:
        batch: Pairs that the loss tells apart.
        neighbours: Nearest neighbours that properties are read from.
        bootstrap: Bootstrap samples of the errors.
        seed: Seed of second observations.
        num_workers: Processes that prepare batches.
        bf16: Whether the model computes in bfloat16 where that is safe.
    """

    batch: int
    neighbours: int
    bootstrap: int
    seed: int
    num_workers: int = 0
    bf16: bool = False


def judge_alignment(
    model: AstroClipModel,
    processor: AstroClipProcessor,
    reference: Sequence[GalaxyPair],
    held_out: Sequence[GalaxyPair],
    protocol: Protocol,
    stage: Stage,
) -> tuple[dict[str, Any], PairEmbeddings]:
    """Figures of a model on held-out pairs, and their embeddings.

    Args:
        model: The model.
        processor: Its processor.
        reference: Pairs whose labels properties are read from, none of them trained on: embeddings of pairs that
            were trained on are unlike those of others.
        held_out: Held-out pairs.
        protocol: How to judge.
        stage: Times what is done in its block.
    """
    with stage("embeddings"):
        pairs = [*reference, *held_out, *observe_again(held_out, protocol.seed)]
        embedded = embed_pairs(model, processor, pairs, num_workers=protocol.num_workers, bf16=protocol.bf16)
    known, first, again = _parts(embedded, len(reference), len(held_out))
    with stage("judging"):
        batch, k = min(protocol.batch, len(held_out)), min(RECALLED, len(held_out) - 1)
        scores = {
            "family": model.config.spectrum_config.model_type,
            "parameters": _sizes(model),
            "loss": alignment_loss(first, float(model.scale()), batch),
            "chance": math.log(batch),
            "batch": batch,
            "retrieval": retrieval_rows(first, pair_properties(held_out), again=again, k=k),
            "properties": judge_properties(known, first, reference, held_out, protocol),
        }
    return scores, first


def _parts(embedded: PairEmbeddings, *sizes: int) -> list[PairEmbeddings]:
    """The embeddings in parts of these sizes, and the rest."""
    columns = [np.split(values, np.cumsum(sizes)) for values in embedded]
    return [PairEmbeddings(*part) for part in zip(*columns, strict=True)]


def _sizes(model: AstroClipModel) -> dict[str, int]:
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    sides = {"spectrum encoder": model.spectrum_model, "image encoder": model.vision_model}
    return {name: side.num_parameters() for name, side in sides.items()} | {"trained": trained}


def judge_properties(
    known: PairEmbeddings,
    first: PairEmbeddings,
    reference: Sequence[GalaxyPair],
    held_out: Sequence[GalaxyPair],
    protocol: Protocol,
) -> list[Row]:
    """Rows of `evaluate_tasks`: properties of held-out galaxies, from the labels of others.

    Args:
        known: Embeddings of the reference galaxies.
        first: Of the held-out ones.
        reference: Reference pairs.
        held_out: Held-out pairs.
        protocol: How to judge.
    """
    pairs, count = [*reference, *held_out], len(reference)
    kept = count - max(int(VALIDATION_SHARE * count), 1)
    split = Split(np.arange(kept), np.arange(kept, count), np.arange(count, len(pairs)))
    embeddings = PairEmbeddings(*(np.concatenate(both) for both in zip(known, first, strict=True)))
    methods = property_methods(embeddings, pairs, neighbours=protocol.neighbours)
    return evaluate_tasks(property_tasks(pairs, split), methods, bootstrap=protocol.bootstrap, progress=False)


def write_report(
    model: AstroClipModel,
    processor: AstroClipProcessor,
    reference: Sequence[GalaxyPair],
    held_out: Sequence[GalaxyPair],
    protocol: Protocol,
    facts: Row,
    stage: Stage,
    folder: Path,
) -> Row:
    """Judge a model, and write pictures, scores.json and report.md.

    Args:
        model: The model.
        processor: Its processor.
        reference: As for `judge_alignment`.
        held_out: Held-out pairs.
        protocol: How to judge.
        facts: What scores.json holds besides.
        stage: Times what is done in its block.
        folder: Where they go.

    Returns:
        What scores.json holds.
    """
    scores, embeddings = judge_alignment(model, processor, reference, held_out, protocol, stage)
    with stage("pictures"):
        save_pictures(model, processor, held_out, embeddings, folder)
    scores |= facts
    write_json(scores, folder / "scores.json")
    text = describe(scores)
    print(f"\n{text}")
    with written_whole(folder / "report.md") as path:  # last: where it is, all is
        path.write_text(text + "\n", encoding="utf-8")
    return scores


def describe(scores: Mapping[str, Any]) -> str:
    """The report, as Markdown.

    Args:
        scores: What scores.json holds.
    """
    sizes = ", ".join(f"{name} {count:,}" for name, count in scores["parameters"].items())
    return "\n\n".join(
        [
            f"# Images and spectra aligned: {NAMES.get(scores['family'], scores['family'])}",
            (f"{scores['pairs']:,} training pairs. " if scores.get("pairs") else "") + f"Parameters: {sizes}.",
            SETTINGS.format(**scores["settings"]),
            f"Loss of held-out pairs in batches of {scores['batch']}: {scores['loss']:.3f}; of chance: "
            f"{scores['chance']:.3f}.",
            "## Retrieval among held-out galaxies",
            format_table(scores["retrieval"]),
            "Within a kind the right answer is a second observation of the galaxy: noise drawn anew, the image "
            "turned, with the same neighbours and bad pixels. `chance` is that of the larger recall.",
            "## Properties of held-out galaxies, from labels of reference galaxies",
            format_results(scores["properties"]),
            "## Seconds",
            format_table([{name: f"{value:.1f}" for name, value in scores["seconds"].items()}]),
        ]
    )


# Pictures -----------------------------------------------------------------------------------------


def save_pictures(
    model: AstroClipModel,
    processor: AstroClipProcessor,
    pairs: Sequence[GalaxyPair],
    embeddings: PairEmbeddings,
    folder: Path,
) -> None:
    """A picture of what was found, for each direction, and one of the pooling query's attention.

    Args:
        model: The model.
        processor: Its processor.
        pairs: Held-out pairs.
        embeddings: Theirs.
        folder: Where they go.
    """
    try:
        plt = import_pyplot()
    except ImportError as error:
        print(error)
        return
    for direction in DIRECTIONS:
        axes = plot_found(pairs, embeddings, *direction, processor)
        axes[0, 0].figure.savefig(folder / f"retrieved-{'-'.join(direction)}.png", dpi=110)
    upper = plot_attention(model, processor, pairs[0])[0]
    upper.figure.savefig(folder / "attention.png", dpi=110)
    plt.close("all")


def plot_found(
    pairs: Sequence[GalaxyPair], embeddings: PairEmbeddings, query: str, kind: str, processor: AstroClipProcessor
) -> np.ndarray:
    """The axes of a picture of some queries and what is nearest to them; across kinds the right answer may be there.

    Args:
        pairs: Pairs.
        embeddings: Theirs.
        query: Kind of the queries.
        kind: Kind of the answers.
        processor: Shows images.
    """
    queries, answers = getattr(embeddings, query), getattr(embeddings, kind)
    count = min(FOUND, len(pairs) - 1)
    chosen = np.linspace(0, len(pairs) - 1, min(SHOWN, len(pairs))).astype(int)
    if query == kind:
        found = nearest_others(queries, answers, count)[chosen]
    else:
        found = np.argsort(-queries[chosen] @ answers.T, axis=-1)[:, :count]
    cosines = np.einsum("qd,qkd->qk", queries[chosen], answers[found])
    return plot_retrieved(
        [getattr(pairs[row], query) for row in chosen],
        [[getattr(pairs[row], kind) for row in rows] for rows in found],
        distances=1 - cosines,
        display=processor.display,
    )


def plot_attention(model: AstroClipModel, processor: AstroClipProcessor, pair: GalaxyPair) -> Any:
    """The axes of a picture of where the pooling query looks in a spectrum.

    Args:
        model: The model.
        processor: Its processor.
        pair: The spectrum, and its image.
    """
    inputs = processor(spectra=[pair.spectrum], return_tensors="pt").to(model.device)
    with torch.inference_mode():
        outputs = model.eval()(**inputs)
    names = ("spectrum_attentions", "token_wavelength", "attention_mask")
    attention, where, valid = (outputs[name][0].float().cpu().numpy() for name in names)
    return plot_pooling_attention(pair.spectrum, attention, where, attention_mask=valid)


# Comparing ----------------------------------------------------------------------------------------


def compare(folders: Sequence[str]) -> dict[str, Row]:
    """Print figures of several runs side by side.

    Args:
        folders: Output folders of finished runs.

    Returns:
        A row for each folder.

    Raises:
        FileNotFoundError: If a folder holds no finished run.
    """
    rows: dict[str, Row] = {}
    for folder in folders:
        path = Path(folder, "scores.json")
        if not path.is_file():
            raise FileNotFoundError(f"--compare takes output folders of finished runs, found no {path}")
        rows[folder] = compared(json.loads(path.read_text()))
    names = dict.fromkeys(name for row in rows.values() for name in row)
    print(format_table([{"": name} | {folder: rows[folder].get(name) for folder in folders} for name in names]))
    return rows


def compared(scores: Mapping[str, Any]) -> Row:
    """The figures of a run that stand beside those of others.

    Args:
        scores: What scores.json holds.
    """
    row: Row = {"spectrum encoder": NAMES.get(scores["family"], scores["family"])}
    row |= {f"parameters, {name}": f"{count:,}" for name, count in scores["parameters"].items()}
    row |= {"training pairs": f"{scores['pairs']:,}"} if scores.get("pairs") else {}
    row |= {name.replace("_", " "): str(value) for name, value in scores.get("settings", {}).items()}
    row |= {"loss": scores["loss"], "loss, chance": scores["chance"]}
    for one in scores["retrieval"]:
        recalls = {name: value for name, value in one.items() if name.startswith("recall@")}
        row |= {f"{one['query']} to {one['answers']}, {name}": value for name, value in recalls.items()}
    row["recall, chance"] = scores["retrieval"][0]["chance"]
    for one in scores["properties"]:
        row[f"R² of {one['task']}, {one['method']}"] = one["r_squared"]
    return row | {f"seconds, {name}": value for name, value in scores["seconds"].items()}
