"""Tables of scores: rows of `tasks.evaluate_tasks`, or of `snr_bins.scores_by_snr`, as Markdown and CSV."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from .reconstruction import format_table
from .scores import OF_CLASS, SCORES

ERRORS = "± is the bootstrap standard error over test objects; bold: the best within its error."
FLATTERED = (
    " CRPS of a method without pull, which states no uncertainty: by the scatter of its residuals on the same test "
    "objects, which flatters it."
)
OVERVIEW = {"classification": "accuracy", "regression": "r_squared", "redshift": "nmad"}  # a score for a kind of task


def format_results(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of `evaluate_tasks` as Markdown, one table per kind of task.

    Bold are the best of each task, target and S/N, and all within the best one's error of it.

    Args:
        rows: The rows, or those of `scores_by_snr`.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("a table needs rows, found none")
    kinds = dict.fromkeys(str(row["kind"]) for row in rows)
    parts = [_format_kind(kind, [row for row in rows if row["kind"] == kind]) for kind in kinds]
    flattered = any("crps" in row and "pull" not in row for row in rows)
    return "\n\n".join([*parts, ERRORS + (FLATTERED if flattered else "")])


def format_overview(rows: Sequence[Mapping[str, object]]) -> str:
    """One score of each task and target as Markdown, a column per method: accuracy, R², or the NMAD of redshifts.

    Bold as in `format_results`; "-" is what a method has no score of, or did not do.

    Args:
        rows: As for `format_results`.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError("a table needs rows, found none")
    methods, lines = dict.fromkeys(str(row["method"]) for row in rows), []
    for place in dict.fromkeys(map(_place, rows)):
        own = [row for row in rows if _place(row) == place]
        name = OVERVIEW[str(own[0]["kind"])]
        bold = _best_rows(own, name)
        cells = {row["method"]: _score_cell(row, name, index in bold) for index, row in enumerate(own)}
        leading = {title: cell for title, cell in _leading_cells(own[0]).items() if title != "method"}
        lines.append(leading | {"score": SCORES[name][0]} | {method: cells.get(method, "-") for method in methods})
    return f"{format_table(lines)}\n\n{ERRORS}"


def write_table(rows: Sequence[Mapping[str, object]], stem: Path) -> None:
    """Write `<stem>.md`, the Markdown of `format_results`, and `<stem>.csv`, everything at full precision.

    Args:
        rows: As for `format_results`.
        stem: Path without ending; its folder is made where there is none.

    Raises:
        ValueError: If there are no rows.
    """
    text = format_results(rows)
    stem.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    Path(f"{stem}.md").write_text(text + "\n", encoding="utf-8")  # last: where it is, all is


def _format_kind(kind: str, rows: list[Mapping[str, object]]) -> str:
    places = list(dict.fromkeys(map(_place, rows)))
    rows = sorted(rows, key=lambda row: places.index(_place(row)))
    names = [name for name in SCORES if any(name in row for row in rows)]
    bold = {name: _best_rows(rows, name) for name in names}
    lines = [
        _leading_cells(row)
        | {SCORES[name][0]: _score_cell(row, name, index in bold[name]) for name in names}
        | (_class_cells(row) if kind == "classification" else {})
        | {"train / test": f"{row['n_train']} / {row['n_test']}", "seconds": row["seconds"]}
        for index, row in enumerate(rows)
    ]
    reasons = dict.fromkeys(_reason(row) for row in rows if row["reason"])
    parts = [
        f"### {kind.capitalize()}",
        format_table(lines),
        *(["\n".join(f"* {r}" for r in reasons)] if reasons else []),
    ]
    return "\n\n".join(parts)


def _leading_cells(row: Mapping[str, object]) -> dict[str, object]:
    target = f"{row['target']} ({row['unit']})" if row["unit"] else row["target"]
    bin_ = {"S/N": row["snr"]} if "snr" in row else {}
    return {"task": row["task"], "target": target, **bin_, "method": row["method"]}


def _place(row: Mapping[str, object]) -> tuple[object, ...]:
    """What only the methods of a block of rows differ in."""
    return row["task"], row["target"], row.get("snr")


def _reason(row: Mapping[str, object]) -> str:
    """Why there are no scores: too few spectra of a S/N are that for all methods."""
    if "snr" in row:
        return f"{row['target']} at S/N {row['snr']} on {row['task']}: {row['reason']}"
    return f"{row['method']} on {row['task']}: {row['reason']}"


def _class_cells(row: Mapping[str, object]) -> dict[str, object]:
    ends = ("_error", "_spread")
    names = [name for name in row if name.startswith(OF_CLASS) and not name.endswith(ends)]
    cells = [f"{name.removeprefix(OF_CLASS)} {_number(row, name):.2f}" for name in names]
    return {"recall by class": ", ".join(cells) or "-"}


def _score_cell(row: Mapping[str, object], name: str, bold: bool) -> str:
    value, error = _number(row, name), _number(row, f"{name}_error")
    if not np.isfinite(value):
        return "-"
    text = _with_error(value, error)
    return f"**{text}**" if bold else text


def _with_error(value: float, error: float) -> str:
    """Two digits of the error, and the value to the same place."""
    if not error > 0:
        return f"{value:.3g}"
    digits = max(1 - int(np.floor(np.log10(error))), 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _best_rows(rows: Sequence[Mapping[str, object]], name: str) -> set[int]:
    """Which rows are the best of their task and target, or within the best one's error of it."""
    best = SCORES[name][1]
    blocks: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if np.isfinite(_number(row, name)):
            blocks[_place(row)].append(index)
    chosen: set[int] = set()
    for indices in blocks.values() if best else ():
        values = np.array([_number(rows[index], name) for index in indices])
        winner = int(np.argmax(values == best(values))) if best else 0
        margin = np.nan_to_num(_number(rows[indices[winner]], f"{name}_error"))
        chosen |= {
            index for index, value in zip(indices, values, strict=True) if abs(value - values[winner]) <= margin
        }
    return chosen


def _number(row: Mapping[str, object], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else float("nan")


__all__ = ["format_overview", "format_results", "write_table"]
