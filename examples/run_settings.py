"""What the training scripts share: options from YAML and command line, output folders that are never overwritten."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml
from resumable_trainer import COMPLETE, whole_checkpoints
from transformers import HfArgumentParser, TrainingArguments

from spectok_hf import Spectrum, SpectrumProcessor
from spectok_hf.data.whole_files import write_json

# What a run has before its first checkpoint, and makes again.
EARLY_FILES = {"run.json", "start", "plots", "runs"}
RUN_FILES = ("checkpoint-*", "run.json", "report.md")  # by which an output folder is known as ours


def parse_options(
    argv: list[str],
    groups: Sequence[type],
    *,
    defaults: dict[str, Any],
    smoke: dict[str, Any],
    lists: Sequence[str] = (),
    description: str | None = None,
) -> tuple[Any, ...]:
    """Options from a YAML file, if the first argument is one, and from the command line, which goes before it.

    Args:
        argv: Arguments without the program's name.
        groups: Dataclasses of options; one has `smoke` and `overwrite_output`, the last is `TrainingArguments`.
        defaults: Options that differ from the defaults of the dataclasses.
        smoke: Options of a run with --smoke.
        lists: Options that hold lists; one entry may stand without brackets.
        description: For --help.

    Returns:
        One object per group.

    Raises:
        ValueError: If the file sets an option that does not exist.
    """
    parser = HfArgumentParser(groups, description=description)
    settings = {"dataloader_pin_memory": torch.cuda.is_available(), **defaults}
    if argv and argv[0].endswith((".yaml", ".yml")):
        settings |= yaml.safe_load(Path(argv[0]).read_text()) or {}
        argv = argv[1:]
    if "--smoke" in argv or settings.get("smoke"):
        settings |= smoke
    known = {option.name for group in groups for option in fields(group)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(f"the configuration sets unknown options: {', '.join(unknown)}; --help lists them all")
    for name in lists:
        if not isinstance(settings.get(name, []), list):
            settings[name] = [settings[name]]
    parser.set_defaults(**settings)
    parsed = parser.parse_args_into_dataclasses(argv)
    for group in parsed:
        if hasattr(group, "overwrite_output"):
            group.overwrite_output |= group.smoke and parsed[-1].output_dir == smoke["output_dir"]
    return parsed


def prepare_output(training: TrainingArguments, settings: dict[str, Any], *, overwrite: bool) -> str | None:
    """The checkpoint to resume from, if any; nothing is overwritten unasked, and nothing that is no run of ours.

    A checkpoint that was interrupted while it was written is deleted: the one before it counts.

    Args:
        training: Where the output goes.
        settings: What the run is about: a run with other settings is not resumed.
        overwrite: Start anew.

    Raises:
        FileExistsError: If the folder holds something else, a finished run, or one with other settings.
    """
    output = Path(training.output_dir)
    settings = settings | {"whole_checkpoints_hold": COMPLETE}  # those of a run that says otherwise are left alone
    with training.main_process_first(local=False, desc="output folder"):
        if training.process_index == 0:
            ours = any(any(output.glob(pattern)) for pattern in RUN_FILES)
            if ours and overwrite:
                shutil.rmtree(output)
                ours = False
            check_output(output, training.resume_from_checkpoint, settings, ours)
            for part in set(output.glob("checkpoint-*")) - set(whole_checkpoints(output)):
                shutil.rmtree(part)
            output.mkdir(parents=True, exist_ok=True)
            write_json(settings, output / "run.json")
        whole = whole_checkpoints(output)
    return training.resume_from_checkpoint or (str(whole[-1]) if whole else None)


def check_output(output: Path, checkpoint: str | None, settings: dict[str, Any], ours: bool) -> None:
    """Refuse a folder that a run with these settings cannot go on in.

    Args:
        output: The folder.
        checkpoint: The checkpoint that is to be resumed, where one was named.
        settings: What the run is about.
        ours: Whether the folder holds a run of a training script.

    Raises:
        FileExistsError: If so.
    """
    advice = "pass another --output_dir" + (" or --overwrite_output" if ours else "")
    if ours and (output / "report.md").exists():
        raise FileExistsError(f"{output} holds a finished run: {advice}")
    names = {path.name for path in output.iterdir() if path.suffix != ".tmp"} if output.is_dir() else set()
    checkpoints = {name for name in names if name.startswith("checkpoint-")}
    described = output / "run.json"
    if not (checkpoint or (checkpoints and described.exists())) and names - EARLY_FILES:
        raise FileExistsError(f"{output} is not empty and holds no checkpoint to resume from: {advice}")
    if checkpoints and described.exists() and json.loads(described.read_text()) != settings:
        raise FileExistsError(f"{output} holds a run with other data, model or seed (see run.json): {advice}")


def read_json(text: str | dict[str, Any]) -> dict[str, Any]:
    """Fields given as JSON on the command line, or as a mapping in a YAML file.

    Args:
        text: Either.
    """
    return json.loads(text) if isinstance(text, str) else text


def drop_invalid(spectra: list[Spectrum], processor: SpectrumProcessor) -> list[Spectrum]:
    """Spectra with at least one valid patch; how many were dropped is said.

    Args:
        spectra: The spectra.
        processor: The processor that decides.
    """
    kept = [spectrum for spectrum in spectra if processor.patch(spectrum)["attention_mask"].any()]
    if len(kept) < len(spectra):
        print(f"dropped {len(spectra) - len(kept)} of {len(spectra)} spectra: no patch with enough good pixels")
    return kept
