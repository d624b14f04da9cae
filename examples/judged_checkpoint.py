"""What judges of a checkpoint share: the checkpoint, the spectra it was not trained on, how results are written.

The shipped checkpoints were trained on shards that lack a quarter of the real objects (`checkpoint_data.py`), and are
judged on those. Any other training holds a share of the objects of its own shards out. Which ones depends on all
spectra of a survey that are there, also on simulated ones, which count as the survey's: what it held out is found in
its shards alone (`--shards`).
"""

import argparse
import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from checkpoint_data import split_real
from real_spectra import add_spectra_option
from run_settings import drop_invalid
from training_data import DataArguments, load_data
from transformers import AutoModelForPreTraining, AutoProcessor, TrainingArguments
from transformers.utils import logging

from spectok_hf import SpecTokForPreTraining, Spectrum, SpectrumProcessor

EVERY = 10**9  # held-out spectra of a survey: no limit
PALETTE = 128  # colours of a picture


class Checkpoint(NamedTuple):
    """A pretrained model and its processor."""

    path: str
    model: SpecTokForPreTraining
    processor: SpectrumProcessor


class RealSpectra(NamedTuple):
    """Real spectra of objects that a training has seen, and of those it has not."""

    train: list[Spectrum]
    held_out: list[Spectrum]


def add_options(parser: argparse.ArgumentParser, output: str) -> None:
    """The options of all judges.

    Args:
        parser: The parser of the script.
        output: Where results go by default.
    """
    parser.add_argument("checkpoint", help="folder or Hub id of a pretrained model")
    add_spectra_option(parser)
    parser.add_argument(
        "--shards",
        nargs="+",
        default=[],
        help="judge on the real spectra that a training on these shards held out; default: on the objects of "
        "--spectra that checkpoint_data.py leaves out",
    )
    parser.add_argument("--eval_share", type=float, default=0.25, help="share of the objects of --shards held out")
    parser.add_argument("--seed", type=int, default=0, help="seed of that training")
    parser.add_argument("--output", type=Path, default=Path(output), help="stem of the files, or folder")
    parser.add_argument("--smoke", action="store_true", help="few simulated spectra, to see that it runs")


def load_checkpoint(path: str) -> Checkpoint:
    """A model in evaluation mode, and its processor.

    Args:
        path: Folder or Hub id.
    """
    logging.disable_progress_bar()
    model = AutoModelForPreTraining.from_pretrained(path).eval()
    return Checkpoint(str(path), model, AutoProcessor.from_pretrained(path))


def load_split(args: argparse.Namespace, processor: SpectrumProcessor) -> RealSpectra:
    """The real spectra with a valid patch, split by object as the training did.

    Args:
        args: Options.
        processor: The processor of the checkpoint.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If neither a folder of spectra nor shards are named.
    """
    if args.shards:
        return _split_of_shards(args, processor)
    if args.spectra is None:
        raise ValueError("no real spectra: pass --spectra FOLDER or --shards, set SPECTOK_SPECTRA, or try --smoke")
    return RealSpectra(*(drop_invalid(part, processor) for part in split_real(args.spectra)))


def _split_of_shards(args: argparse.Namespace, processor: SpectrumProcessor) -> RealSpectra:
    data = DataArguments(shards=args.shards, eval_share=args.eval_share, max_eval=EVERY)
    with tempfile.TemporaryDirectory() as folder:  # nothing is written
        loaded = load_data(data, processor, TrainingArguments(folder, seed=args.seed, use_cpu=True))
    return RealSpectra(*([s for s in part if s.truth is None] for part in (loaded.sample, loaded.held_out)))


def write_report(stem: Path, text: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows to `<stem>.csv` at full precision, and then `<stem>.md`: where it is, all is.

    Args:
        stem: Path without ending; its folder is made where there is none.
        text: Markdown.
        rows: Dictionaries of column name to text or number.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    Path(f"{stem}.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\nwrote {stem}.md and {stem}.csv")


def save_picture(figure: Any, path: Path, *, dpi: int = 100) -> None:
    """Write a figure of matplotlib as a PNG of few colours, a third of the size, and close it.

    Args:
        figure: The figure.
        path: File to write.
        dpi: Resolution.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(buffer) as image:
        image.convert("RGB").quantize(PALETTE).save(path, optimize=True)
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


def drop_missing(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of rows, for a table.

    Args:
        rows: The rows.
        names: The columns, in order; those that no row has are left out.
    """
    shown = [name for name in names if any(row.get(name) is not None for row in rows)]
    return [{name: row.get(name) for name in shown} for row in rows]
