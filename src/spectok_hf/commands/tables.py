"""Commands that write a row per spectrum: encode, reconstruct, classify, predict, redshift."""

import functools
import inspect
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
    "Write spectra beside what the model makes of their tokens, on their own grids, with the χ² per pixel.",
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
    from ..inference.answer_tables import answer_table
    from ..inference.part_runs import RunOptions

    if settings["resume"] and output is None:
        raise ValueError("--resume goes on with a file: pass the same --output")
    run = functools.partial(answer_table, sources, task, checkpoint=checkpoint(model), **settings)
    if output is not None:
        _report(run(path=output, options=RunOptions(**options)), model, as_json=as_json)
        return
    with tempfile.TemporaryDirectory() as folder:
        outcome = run(path=Path(folder, "answers.parquet"), options=RunOptions(**options))
        _show(outcome.path, as_json=as_json)
        say_skipped(outcome.reasons, outcome.skipped, None)
        _warn_outside(outcome, model)


def _report(outcome: Any, model: str, *, as_json: bool) -> None:
    say_skipped(outcome.reasons, outcome.skipped, outcome.skipped_path)
    _warn_outside(outcome, model)
    if as_json:
        content = {"output": outcome.path, "rows": outcome.rows, "skipped": outcome.skipped}
        show_json(content | {"skipped_list": outcome.skipped_path, "outside": outcome.outside})
        return
    rate = f", {outcome.handled / outcome.seconds:,.0f} spectra/s" if outcome.handled else ""
    before = outcome.rows + outcome.skipped - outcome.handled
    done = f" ({before:,} were finished before)" if before > 0 else ""
    say(f"{outcome.path}: {outcome.rows:,} rows{done} in {outcome.seconds:.1f} s{rate}")


def _warn_outside(outcome: Any, model: str) -> None:
    if outcome.outside:
        aspects = ", ".join(f"{aspect} {count:,}" for aspect, count in outcome.outside.items())
        say(
            f"warning: spectra lie outside what {model} saw in training, and its answers may be wrong ({aspects}): "
            "see the column outside, and spectok read"
        )


def _show(path: Path, *, as_json: bool) -> None:
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    if as_json:
        show_rows(rows, as_json=True)
        return
    vectors = {name for row in rows for name, value in row.items() if isinstance(value, list)}
    shown = [{name: value for name, value in row.items() if name not in HIDDEN | vectors} for row in rows[:SCREEN]]
    show_rows([row | {"source": Path(row["source"]).name} for row in shown], as_json=False)
    if len(rows) > SCREEN:
        say(f"... and {len(rows) - SCREEN:,} more: write a file (-o FILE), or pass --json")
    if vectors:
        say(f"not shown, being arrays: {', '.join(sorted(vectors))}; write a file (-o FILE), or pass --json")


__all__ = ["classify", "encode", "predict", "reconstruct", "redshift"]
