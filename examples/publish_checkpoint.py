"""Write the folder of a shipped checkpoint: weights, heads, code, and cards that say what it was trained on.

    python examples/publish_checkpoint.py outputs/checkpoints/spectok-tiny model_cards/spectok-tiny

The source is what `make_checkpoint.py` left: `pretraining`, and a folder for each head. The model of the pretraining
becomes the root; its heads, each with an encoder of its own, become sub-folders. Weights are stored in bfloat16
(`round_weights.py`), and load in float32. The figures of these very folders follow: `card_figures.py`.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from round_weights import round_ends
from transformers import AutoModelForPreTraining, AutoModelForSequenceClassification, AutoProcessor

from spectok_hf import Spectrum
from spectok_hf.data.shards import SpectrumShards
from spectok_hf.data.whole_files import write_json
from spectok_hf.hub import CardFacts, TrainingSurvey, export

CALIBRATION = 24  # spectra of each survey, real and simulated
HEADS = ("classification", "stellar-parameters", "redshift")
PARTS = {"apogee-normalised": "aspcapStar", "apogee-visit": "apVisit", "apogee-giants": "100-pixel giants"}
NOTICE = "This checkpoint is not published. It comes with the package spectok-hf, and `org` stands for nobody."


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with `pretraining` and heads")
    parser.add_argument("folder", type=Path, help="folder to write; its name is that of the checkpoint")
    parser.add_argument("--hardware", default="one core of a CPU, in bfloat16", help="what it was trained on")
    return parser.parse_args(argv)


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


def card_facts(source: Path, hardware: str, run: Path, **facts: Any) -> CardFacts:
    """The facts of a card, without figures.

    Args:
        source: Folder of the checkpoint's trainings.
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
        results=[],
        notice=NOTICE,
        **facts,
    )


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


def publish_root(args: argparse.Namespace, spectra: list[Spectrum]) -> None:
    """Write the autoencoder with its card.

    Args:
        args: Options.
        spectra: What `calibration` gave.
    """
    run = args.source / "pretraining"
    facts = card_facts(
        args.source,
        args.hardware,
        run,
        training_notes="A quarter of the real objects of each survey was held out, and nothing drawn from them. The "
        f"matrices of the blocks were trained by Muon, the rest by AdamW. {mixture(run)} `make_checkpoint.py` is the "
        "recipe, and `model_cards/EXPERIMENTS.md` says what was tried: choices were made on the same held-out objects "
        "that figures are given of.",
    )
    model, processor = AutoModelForPreTraining.from_pretrained(run), AutoProcessor.from_pretrained(run)
    round_ends(model, processor, spectra)
    export(model, processor, args.folder, f"org/{args.folder.name}", card=facts, weights_dtype=torch.bfloat16)


def publish_head(args: argparse.Namespace, head: str, spectra: list[Spectrum]) -> None:
    """Write a head with its encoder and its card.

    Args:
        args: Options.
        head: Its folder.
        spectra: What `calibration` gave.
    """
    run = args.source / head
    own = (run / "report.md").read_text(encoding="utf-8").strip()
    facts = card_facts(
        args.source,
        args.hardware,
        run,
        base_model=f"org/{args.folder.name}",
        training_notes="Counts are those of the pretraining; the head was trained on those of them that have its "
        "labels, real and drawn, and on newly simulated ones.",
        results_notes="On objects held out from the training of the head, real, drawn and simulated (the encoder "
        f"under it had seen their spectra in its pretraining):\n\n{own}",
    )
    model, processor = AutoModelForSequenceClassification.from_pretrained(run), AutoProcessor.from_pretrained(run)
    round_ends(model, processor, spectra)
    repository = f"org/{args.folder.name}"
    options = {"card": facts, "subfolder": head, "weights_dtype": torch.bfloat16}
    export(model, processor, args.folder / head, repository, **options)


def run(args: argparse.Namespace) -> None:
    """Write the root and its heads.

    Args:
        args: Options.
    """
    spectra = calibration(args.source)
    publish_root(args, spectra)
    for head in HEADS:
        publish_head(args, head, spectra)
    write_json({"folder": str(args.folder)}, args.source / "weights.json")
    size = sum(path.stat().st_size for path in args.folder.rglob("*") if path.is_file())
    print(f"wrote {args.folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(parse_arguments())
