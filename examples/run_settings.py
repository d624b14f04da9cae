"""What the training scripts share: options from YAML and command line, output folders that are never overwritten."""

import json
import shutil
from argparse import SUPPRESS
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import yaml
from resumable_trainer import COMPLETE, check_readable, whole_checkpoints
from transformers import HfArgumentParser, TrainingArguments

from spectok_hf import Spectrum, SpectrumProcessor
from spectok_hf.data.whole_files import LOCK, locked, write_json
from spectok_hf.models.spectrum import check_choice

DESCRIPTION = "run.json"  # by which an output folder is known as ours
OPTIMIZER = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay")
MARK = {"whole_checkpoints_hold": COMPLETE}
# What a run has before its first checkpoint, and makes again.
EARLY = (DESCRIPTION, LOCK, "start", "plots", "runs", ".*.tmp")
# All that the scripts write into their output folder.
OUTPUT = (
    *(*EARLY, "report.md", "checkpoint-*", "*.safetensors", "*.safetensors.index.json", "adapter_*", "config.json"),
    *("preprocessor_config.json", "training_args.bin", "requirements.txt", "*.py", "*.md", "facts.yaml", "LICENSE"),
    *("scores.*", "predictions.csv", "*.png", "__pycache__"),
)


def parse_options(
    argv: list[str],
    groups: Sequence[type],
    *,
    defaults: dict[str, Any],
    smoke: dict[str, Any],
    lists: Sequence[str] = (),
    modes: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """Options from a YAML file, if the first argument is one, and from the command line, which goes before it.

    Args:
        argv: Arguments without the program's name.
        groups: Dataclasses of options; one has `smoke` and `overwrite_output`, the last is `TrainingArguments`.
        defaults: Options that differ from the defaults of the dataclasses.
        smoke: Options of a run with --smoke.
        lists: Options that hold lists; one entry may stand without brackets.
        modes: Options each of whose values sets others; where it has None for one, that one must not be set.
        description: For --help.

    Returns:
        One object per group.

    Raises:
        ValueError: If the file is no mapping of options, sets one that does not exist, or one is set that a mode sets
            otherwise.
    """
    parser = HfArgumentParser(groups, description=description)
    settings = {"dataloader_pin_memory": torch.cuda.is_available(), **defaults}
    given: dict[str, Any] = {}
    if argv and argv[0].endswith((".yaml", ".yml")):
        given = _from_file(Path(argv[0]))
        argv = argv[1:]
    if modes:
        settings |= _set_by_modes(modes, given | _on_command_line(argv, groups))
    settings |= given
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


def _from_file(path: Path) -> dict[str, Any]:
    """The options that a YAML file sets; one that holds nothing sets none."""
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML, and is not: {error}") from error
    if not isinstance(found or {}, dict):
        raise ValueError(
            f"{path} must hold options and their values, as `seed: 1`, found a {type(found).__name__}: {found!r:.80}"
        )
    return found or {}


def _on_command_line(argv: list[str], groups: Sequence[type]) -> dict[str, Any]:
    """The options that the command line sets itself, by name."""
    parser = HfArgumentParser(groups, add_help=False)
    for action in parser._actions:
        action.default = SUPPRESS
    return vars(parser.parse_known_args(argv)[0])


def _set_by_modes(modes: Mapping[str, Mapping[str, Mapping[str, Any]]], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the modes among the given options set."""
    found: dict[str, Any] = {}
    for name, values in modes.items():
        if (mode := given.get(name)) is None:
            continue
        check_choice(f"--{name}", mode, tuple(values))
        for option, value in values[mode].items():
            if option in given and given[option] != value:
                asked = "" if value is None else f" sets --{option} {value}"
                raise ValueError(
                    f"--{name} {mode}{asked or f' has no --{option}'}, found {given[option]}: leave one of them out"
                )
        found |= {option: value for option, value in values[mode].items() if value is not None}
    return found


@contextmanager
def prepared_output(training: TrainingArguments, settings: dict[str, Any], *, overwrite: bool) -> Iterator[str | None]:
    """The checkpoint to resume from, if any, in a block in which no other run writes into the output folder.

    Nothing is overwritten unasked, and nothing that is no run of ours. A checkpoint that was interrupted while it was
    written is deleted: the one before it counts.

    Args:
        training: Where the output goes.
        settings: What the run is about: a run with other settings is not resumed.
        overwrite: Start anew.

    Raises:
        FileExistsError: If the folder holds something else, a finished run, or one with other settings.
        ValueError: If a checkpoint was named that is not there, or not whole, a file of the checkpoint is damaged, or
            another run writes into the folder.
    """
    output = Path(training.output_dir)
    settings = json.loads(json.dumps(settings | MARK))
    with ExitStack() as stack:
        with training.main_process_first(local=False, desc="output folder"):
            if training.process_index == 0:
                check_output(output, settings, training.resume_from_checkpoint, overwrite)
                stack.enter_context(locked(output, "another run"))
                check_output(output, settings, training.resume_from_checkpoint, overwrite)  # it may have ended by now
                _make_room(output, overwrite)
                write_json(settings, output / DESCRIPTION)
            whole = whole_checkpoints(output)
        checkpoint = training.resume_from_checkpoint or (str(whole[-1]) if whole else None)
        if checkpoint is not None:
            check_readable(Path(checkpoint))
        yield checkpoint


def check_output(output: Path, settings: dict[str, Any], checkpoint: str | None, overwrite: bool) -> None:
    """Refuse a folder that a run with these settings cannot begin or go on in.

    Args:
        output: The folder.
        settings: What the run is about.
        checkpoint: The checkpoint to resume from, where one was named.
        overwrite: Start anew.

    Raises:
        FileExistsError: If so.
        ValueError: If the checkpoint is not there, or not whole.
    """
    described = _described(output)
    advice = "pass another --output_dir" + (" or --overwrite_output" if described else "")
    names = [path.name for path in output.iterdir()] if output.is_dir() else []
    if checkpoint:
        return _check_named(Path(checkpoint))
    if described and overwrite:
        if strange := sorted(name for name in names if not _is_one_of(name, OUTPUT)):
            raise FileExistsError(
                f"{output} holds {strange[0]} beside a run, which no run writes: move it elsewhere, or pass another "
                "--output_dir"
            )
        return
    if described and "report.md" in names:
        raise FileExistsError(f"{output} holds a finished run: {advice}")
    if described and any(name.startswith("checkpoint-") for name in names):
        if differing := list(_differences(described, settings)):
            raise FileExistsError(
                f"{output} holds a run with other settings (see run.json: {'; '.join(differing)}): {advice}"
            )
    elif any(not _is_one_of(name, EARLY) for name in names):
        raise FileExistsError(f"{output} is not empty and holds no checkpoint to resume from: {advice}")


def _described(output: Path) -> dict[str, Any]:
    """What the run in a folder is about; empty where there is none of ours."""
    try:
        found = json.loads((output / DESCRIPTION).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and MARK.items() <= found.items() else {}


def _differences(described: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    """What differs, as `data.max_eval: None -> 3`."""
    for name in sorted(settings):
        old, new = described.get(name, settings[name]), settings[name]  # a run of before may not say all of it
        if isinstance(old, dict) and isinstance(new, dict):
            values = [(f"{name}.{field}", old.get(field), new.get(field)) for field in sorted(old | new)]
        else:
            values = [(name, old, new)]
        yield from (f"{field}: {before!r} -> {now!r}" for field, before, now in values if before != now)


def _make_room(output: Path, overwrite: bool) -> None:
    """Delete what a run of ours has left half, or all of it."""
    if not _described(output):
        return
    old = output.iterdir() if overwrite else set(output.glob("checkpoint-*")) - set(whole_checkpoints(output))
    for path in list(old):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (LOCK, DESCRIPTION):  # which say whose it is to the end
            path.unlink()


def _check_named(checkpoint: Path) -> None:
    if not (checkpoint / "trainer_state.json").is_file():
        raise ValueError(f"--resume_from_checkpoint must be a checkpoint of a Trainer, found none at {checkpoint}")
    if _described(checkpoint.parent) and not (checkpoint / COMPLETE).is_file():
        raise ValueError(f"{checkpoint} was interrupted while it was written: name another, or none for the last one")


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def describe_optimizer(args: TrainingArguments) -> dict[str, Any]:
    """What a checkpoint's optimizer and scheduler bring along, whatever the command says: to be gone on with as it is.

    Args:
        args: Of the Trainer.
    """
    return {name: getattr(args, name) for name in OPTIMIZER}


def read_fields(option: str, value: str | dict[str, Any]) -> dict[str, Any]:
    """Fields given as JSON or YAML on the command line, or as a mapping in a YAML file.

    Args:
        option: Name of the option.
        value: What it was given.

    Raises:
        ValueError: If it is neither.
    """
    found: Any = value
    if isinstance(value, str):
        try:
            found = json.loads(value)  # first: to YAML 1e-6 is a text
        except ValueError:
            with suppress(yaml.YAMLError):
                found = yaml.safe_load(value)
    if not isinstance(found, dict):
        raise ValueError(
            f"--{option} must be fields and their values as JSON or YAML, as '{{name: value}}', found {value!r}"
        )
    return found


def check_fields(option: str, given: Mapping[str, Any], config: type) -> None:
    """Refuse fields that a config does not have, of which Transformers would keep each as it is, unread.

    Args:
        option: Name of the option that gave them.
        given: The fields.
        config: Class of the config.

    Raises:
        ValueError: If there is one.
    """
    known = {field.name for field in fields(config)} | {"attn_implementation"}
    if unknown := sorted(given.keys() - known):
        near = [f"{name} ({match[0]}?)" if (match := get_close_matches(name, known, 1)) else name for name in unknown]
        raise ValueError(f"--{option} must hold fields of {config.__name__}, found {', '.join(near)}: correct it")


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
