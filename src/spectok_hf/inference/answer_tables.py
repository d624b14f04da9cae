"""`answer_table`: what a checkpoint says of the spectra of any sources, as one table file."""

import glob
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ..data.resumable import RECORDS, Outcome, PartFolder
from ..data.shards import MANIFEST
from ..data.whole_files import LOCK, PLAN
from ..models.spectrum import check_choice
from ..shipped import DEFAULT
from .answers import DTYPES, TASKS, Answers, load_answers
from .part_runs import OUTPUT, RunOptions, answer_sources
from .table_files import PartsTable, check_format, write_skipped, write_table

FORMAT = "spectok_hf.answers/1"


@dataclass(frozen=True)
class TableOutcome:
    """What a run wrote.

    Args:
        path: The table.
        rows: Spectra in it.
        skipped: Spectra and files without an answer: how many.
        reasons: The first hundred of these: source, row, object_id, reason.
        skipped_path: Where all of them are listed; None = there are none.
        outside: How many spectra lie outside what the checkpoint saw in training, by aspect.
        seconds: How long it took.
        handled: Spectra that this run handled, without those of a run before it.
    """

    path: Path
    rows: int
    skipped: int = 0
    reasons: list[dict[str, Any]] = field(default_factory=list)
    skipped_path: Path | None = None
    outside: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    handled: int = 0


def answer_table(
    sources: Iterable[str | Path] | str | Path,
    task: str,
    path: str | Path,
    checkpoint: str | Path = DEFAULT,
    *,
    tokens: bool = False,
    dtype: str = "float32",
    resume: bool = False,
    options: RunOptions | None = None,
) -> TableOutcome:
    """Write what a checkpoint says of each spectrum of any sources as one table, in the order of the sources.

    Beside the answers, which `Answers` names, a row has `source`, `row`, `survey`, `object_id`, what `embed_spectra`
    says of a spectrum, and `outside`. A spectrum that cannot be read, or has no valid patch, is listed with its reason
    in PATH.skipped.csv instead. While it runs, finished parts lie in PATH.parts; some hundred spectra are in memory.

    Args:
        sources: What `plan_parts` takes.
        task: A key of `TASKS`.
        path: The file to write: .parquet, .csv, .fits or .jsonl.
        checkpoint: A folder, ORG/NAME on the Hub, or the name of one that comes with the package.
        tokens: Whether to write the tokens of valid patches too, of "encode".
        dtype: "float32", or "bfloat16" or "float16" for mixed precision.
        resume: Whether to go on where a killed run stopped.
        options: How to run.

    Raises:
        FileNotFoundError: If a source is missing.
        ValueError: If the file is there already, a killed run is and `resume` is not asked for, or the run before had
            other sources, settings or weights.
    """
    check_choice("task", task, tuple(TASKS))
    check_choice("dtype", dtype, tuple(DTYPES))
    path, options = Path(path).expanduser(), options or RunOptions()
    check_format(path)
    parts = path.with_name(f"{path.name}.parts")
    _check_free(path, parts, resume, options.overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)

    def load(device: torch.device) -> Answers:
        sequences = ("tokens",) if tokens else ()
        answers = load_answers(task, checkpoint, device=device, dtype=dtype, sequences=sequences)
        check_format(path, answers.columns())
        return answers

    folder = PartFolder(parts, OUTPUT, f"spectok {task}")
    run: dict[str, Any] = {"format": FORMAT, "said": {"model": str(checkpoint)}, "what": task, "never_read": path}
    run["options"] = replace(options, overwrite=options.overwrite and not resume)
    try:
        outcome = answer_sources(sources, load, folder, **run)
    except ValueError:
        if PartialState().is_main_process and _is_in_vain(folder):
            _remove(folder)  # there is nothing to go on with
        raise
    if not PartialState().is_main_process:
        return TableOutcome(path, outcome.manifest["spectra"])
    return _join(folder, path, outcome)


def _check_free(path: Path, parts: Path, resume: bool, overwrite: bool) -> None:
    # A manifest says that all parts are there: the run was killed while it wrote the table, or just behind that.
    joining = resume and (parts / MANIFEST).exists()
    if path.exists() and not (overwrite or joining):
        raise ValueError(f"{path} is there already: pass --overwrite (overwrite=True) to replace it, or another name")
    if parts.is_dir() and not (parts / PLAN).exists() and any(entry.name != LOCK for entry in parts.iterdir()):
        raise ValueError(f"{parts} must be a folder that spectok wrote, found other files in it: move it away")
    if parts.exists() and not (resume or overwrite):
        raise ValueError(
            f"{parts} holds what a run that was stopped has done: pass --resume (resume=True) to go on, or "
            "--overwrite (overwrite=True) to begin anew"
        )


def _is_in_vain(folder: PartFolder) -> bool:
    """Whether all parts are finished, and none has an answer."""
    try:
        plan = json.loads((folder.folder / PLAN).read_text())
        return not any(record["spectra"] for record in folder.records(len(plan["parts"])))
    except (OSError, ValueError):
        return False


def _remove(folder: PartFolder) -> None:
    """Remove what the run wrote, and its folder if that leaves it empty."""
    # The manifest and the plan last: a removal that is killed is known for what it is.
    for path in sorted(folder.folder.iterdir(), key=lambda path: (path.name == PLAN, path.name == folder.manifest)):
        if path.name == RECORDS:
            shutil.rmtree(path)
        elif path.name in (PLAN, LOCK, folder.manifest) or folder.output.fullmatch(path.name):
            path.unlink()
    with suppress(OSError):
        folder.folder.rmdir()


def _join(folder: PartFolder, path: Path, outcome: Outcome) -> TableOutcome:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a run that was killed here
        left.unlink(missing_ok=True)
    table = PartsTable([folder.folder / file["name"] for file in outcome.manifest["files"]])
    listed = path.with_name(f"{path.name}.skipped.csv")
    outside, reasons = _count_outside(table), write_skipped(table, listed)
    rows = write_table(table, path)
    total = outcome.manifest["rows"]
    found = TableOutcome(
        path=path,
        rows=rows,
        skipped=total - rows,
        reasons=reasons,
        skipped_path=listed if reasons else None,
        outside=outside,
        seconds=outcome.seconds,
        handled=outcome.spectra,
    )
    _remove(folder)
    return found


def _count_outside(table: PartsTable) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in table.answered(["outside"]):
        for flags in part["outside"].to_pylist():
            counts.update(filter(None, (flags or "").split("; ")))
    return dict(counts.most_common())


__all__ = ["TableOutcome", "answer_table"]
