"""Commands that write a row per spectrum: encode, reconstruct, classify, predict, redshift."""

import functools
import inspect
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    DEFAULT,
    Budget,
    Device,
    Dtype,
    Generation,
    Json,
    Model,
    Quiet,
    Replace,
    Sources,
    Strict,
    Survey,
    Workers,
    checkpoint,
    given_sources,
    say,
    say_skipped,
    show_json,
    show_rows,
)

# What a table on the screen leaves out: a file has it all.
HIDDEN = {"row", "num_patches", "valid_patches", "good_share", "scale", "wavelength_min", "wavelength_max"}
SCREEN = 100  # rows
TOKEN_BUDGET = 16_384  # that of data.collators, which would import torch

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="The table: .parquet, .csv, .fits or .jsonl. Left out: the screen."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run that was stopped has left FILE.parts.")]


def make_command(task: str, text: str, *, leave_out: Sequence[str] = ("tokens",)) -> Callable[..., None]:
    """The command of a task; all of them take the same options, but for those left out.

    Args:
        task: A key of `answers.TASKS`; the command has its name.
        text: Its help.
        leave_out: Options that it does not take.
    """

    def run(
        sources: Sources,
        output: Output = None,
        model: Model = DEFAULT,
        tokens: Annotated[bool, typer.Option("--tokens", help="Write the tokens of valid patches too.")] = False,
        resume: Resume = False,
        overwrite: Replace = False,
        survey: Survey = None,
        generation: Generation = None,
        workers: Workers = 0,
        token_budget: Budget = TOKEN_BUDGET,
        device: Device = None,
        dtype: Dtype = "float32",
        strict: Strict = False,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        given = given_sources(sources)
        settings: dict[str, Any] = {"tokens": tokens, "dtype": dtype, "resume": resume}
        options: dict[str, Any] = {
            "survey": survey,
            "generation": generation,
            "token_budget": token_budget,
            "num_workers": workers,
            "device": device,
            "on_error": "raise" if strict else "skip",
            "skip_missing": not strict and len(given) > 1,
            "overwrite": overwrite,
            "progress": not quiet,
        }
        _answer(task, given, output, model, settings, options, as_json=as_json)

    signature = inspect.signature(run)
    kept = [parameter for name, parameter in signature.parameters.items() if name not in leave_out]
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = task, text
    return run


encode = make_command(
    "encode",
    "Write one embedding per spectrum, in one table. Across devices, and as a folder of files: embed.",
    leave_out=(),
)
reconstruct = make_command(
    "reconstruct",
    "Write spectra beside the model's reconstructions, on their own grids, with the χ² per pixel.",
)
classify = make_command("classify", "Say what each spectrum is, GALAXY, QSO or STAR, with probabilities.")
predict = make_command("predict", "Say the parameters of stars with their uncertainties: Teff in K, log g, [Fe/H].")
redshift = make_command("redshift", "Say redshifts with their uncertainties, and a flag zwarn (0 = good).")


def _answer(
    task: str,
    sources: list[str],
    output: Path | None,
    model: str,
    settings: dict[str, Any],
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from accelerate import PartialState

    from ..inference.answer_tables import answer_table
    from ..inference.part_runs import RunOptions

    if output is None and (settings["resume"] or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        raise ValueError("--resume, and several processes, need a file to write: pass --output FILE")
    run = functools.partial(answer_table, sources, task, checkpoint=checkpoint(model), **settings)
    if output is not None:
        try:
            outcome = run(path=output, options=RunOptions(**options))
        except KeyboardInterrupt:
            say(f"what is finished lies in {output}.parts: --resume goes on with it")
            raise
        state = PartialState()
        if state.is_main_process:
            _report(outcome, task, model, as_json=as_json)
        state.destroy_process_group()
        return
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(path=Path(folder, "answers.parquet"), options=RunOptions(**options))
        _show(outcome.path, as_json=as_json)
        say_skipped(outcome.reasons, outcome.skipped, None)
        _warn_outside(outcome, task, model)


def _report(outcome: Any, task: str, model: str, *, as_json: bool) -> None:
    say_skipped(outcome.reasons, outcome.skipped, outcome.skipped_path)
    _warn_outside(outcome, task, model)
    if as_json:
        content = {"output": outcome.path, "rows": outcome.rows, "skipped": outcome.skipped}
        show_json(content | {"skipped_list": outcome.skipped_path, "outside": outcome.outside})
        return
    rate = f", {outcome.handled / outcome.seconds:,.0f} spectra/s" if outcome.handled else ""
    before = outcome.rows + outcome.skipped - outcome.handled
    done = f" ({before:,} were finished before)" if before > 0 else ""
    say(f"{outcome.path}: {outcome.rows:,} rows{done} in {outcome.seconds:.1f} s{rate}")


def _warn_outside(outcome: Any, task: str, model: str) -> None:
    from ..data.domain import UNKNOWN
    from ..inference.answers import TASKS

    head = TASKS[task]  # which may have seen less than the encoder under it
    seer = f"{model}/{head}" if head and not model.rstrip("/").endswith(f"/{head}") else model
    if UNKNOWN in outcome.outside:
        say(f"warning: {seer} does not say what it was trained on, and so not where its answers may be wrong")
    elif outcome.outside:
        aspects = ", ".join(f"{aspect} {count:,}" for aspect, count in outcome.outside.items())
        say(
            f"warning: spectra lie outside what {seer} saw in training, and its answers may be wrong ({aspects}): see "
            f"the column outside, and spectok read -m {seer}"
        )


def _show(path: Path, *, as_json: bool) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        count = file.metadata.num_rows
        if as_json:
            for batch in file.iter_batches(SCREEN):
                show_rows(batch.to_pylist(), as_json=True)
            return
        rows = next(file.iter_batches(SCREEN)).to_pylist()
    vectors = {name for row in rows for name, value in row.items() if isinstance(value, list)}
    shown = [{name: value for name, value in row.items() if name not in HIDDEN | vectors} for row in rows]
    show_rows([row | {"source": Path(row["source"]).name} for row in shown], as_json=False)
    if count > SCREEN:
        say(f"... and {count - SCREEN:,} more: write a file (-o FILE), or pass --json")
    if vectors:
        say(f"not shown, being arrays: {', '.join(sorted(vectors))}; write a file (-o FILE), or pass --json")


__all__ = ["classify", "encode", "predict", "reconstruct", "redshift"]
