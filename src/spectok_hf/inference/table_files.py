"""One table file from many Parquet parts, row group by row group: Parquet, CSV, FITS or JSON lines, by its name."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.tables import ANSWERS_MARK
from ..data.whole_files import written_whole

REASON = "reason"  # the column that says why a spectrum has no answer
SKIPPED = ("source", "row", "object_id", REASON)
MISSING_INTEGER = -(2**31)
ROWS_AT_ONCE = 512
FITS_BLOCK = 2880


class PartsTable:
    """The rows of Parquet files, some hundred in memory at a time.

    Args:
        files: The files, in order; all have the same columns.
    """

    def __init__(self, files: Sequence[Path]):
        import pyarrow.parquet as pq

        if not files:
            raise ValueError("a table needs at least one part, found none")
        self.files = list(files)
        self.schema = pq.read_schema(files[0])

    @property
    def fields(self) -> list[Any]:
        """The columns of an answer: all but the reason why there is none."""
        return [field for field in self.schema if field.name != REASON]

    def answered(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Tables of the rows that have an answer.

        Args:
            columns: Which; None = all but the reason.
        """
        import pyarrow.compute as pc

        names = [field.name for field in self.fields] if columns is None else list(columns)
        for table in self._tables([*names, REASON]):
            yield table.filter(pc.is_null(table[REASON])).select(names)

    def skipped(self) -> Iterator[dict[str, Any]]:
        """The other rows: where each stands, and why it has no answer."""
        import pyarrow.compute as pc

        for table in self._tables(list(SKIPPED)):
            yield from table.filter(pc.is_valid(table[REASON])).to_pylist()

    def _tables(self, columns: list[str]) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in self.files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                    yield pa.Table.from_batches([batch])


def check_format(path: Path, columns: Mapping[str, Any] | None = None) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Args:
        path: The file to write.
        columns: What it will hold, names and Arrow types, where that is known.

    Raises:
        ValueError: If its ending is none of `WRITERS`, it is a folder, or the format cannot hold a column.
        ImportError: If it is FITS, and astropy is not installed.
    """
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"{path} must end in {', '.join(WRITERS)}, found {path.suffix or 'no ending'}: name it so")
    if path.is_dir():
        raise ValueError(f"{path} must be the name of a file, found a folder: pass another name")
    if path.suffix.lower() == ".fits":
        _import_fits()
    if path.suffix.lower() == ".csv":
        _check_flat(columns or {})


def _check_flat(columns: Mapping[str, Any]) -> None:
    import pyarrow.types as types

    for name, kind in columns.items():
        if types.is_list(kind):
            raise ValueError(
                f"a CSV file cannot hold {name}, whose length changes from row to row: write .parquet, .fits or .jsonl"
            )


def _import_fits() -> Any:
    try:
        from astropy.io import fits
    except ImportError as error:
        raise ImportError('FITS tables need astropy: pip install "spectok-hf[astro]"') from error
    return fits


def write_table(parts: PartsTable, path: Path) -> int:
    """Write the answered rows as one file, whole or not at all; returns their number.

    Vectors of one length become columns `name_0`, `name_1`, ... in CSV, and one column elsewhere. Columns of other
    lengths, such as flux, are padded with NaN in FITS, and are refused in CSV.

    Args:
        parts: The rows.
        path: The file; its ending says the format.

    Raises:
        ValueError: If the format cannot hold a column.
        ImportError: If it is FITS, and astropy is not installed.
    """
    check_format(path, {field.name: field.type for field in parts.fields})
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        return WRITERS[path.suffix.lower()](parts, temporary)


def write_skipped(parts: PartsTable, path: Path) -> list[dict[str, Any]]:
    """Write the rows without an answer as CSV, if there are any; returns the first hundred of them.

    Args:
        parts: The rows.
        path: The file; one of an earlier run is removed where there are none.
    """
    rows = parts.skipped()
    first = next(rows, None)
    if first is None:
        path.unlink(missing_ok=True)
        return []
    kept = [first]
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SKIPPED)
        writer.writeheader()
        writer.writerow(first)
        for row in rows:
            writer.writerow(row)
            if len(kept) < 100:
                kept.append(row)
    return kept


# Formats ------------------------------------------------------------------------------------------


def _write_parquet(parts: PartsTable, path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    schema = pa.schema(parts.fields, metadata=ANSWERS_MARK)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in parts.answered():
            if len(table):
                writer.write_table(table.cast(schema))
            count += len(table)
    return count


def _write_csv(parts: PartsTable, path: Path) -> int:
    import pyarrow.types as types

    header: list[str] = []
    for field in parts.fields:
        if types.is_fixed_size_list(field.type):
            header += [f"{field.name}_{number}" for number in range(field.type.list_size)]
        else:
            header.append(field.name)
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for table in parts.answered():
            for row in table.to_pylist():
                writer.writerow([number for value in row.values() for number in _cells(value)])
            count += len(table)
    return count


def _cells(value: Any) -> list[Any]:
    return value if isinstance(value, list) else ["" if value is None else value]


def _write_json(parts: PartsTable, path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for table in parts.answered():
            for row in table.to_pylist():
                file.write(json_line(row) + "\n")
            count += len(table)
    return count


def json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON, which has no NaN: null stands for it, and text for what JSON does not know.

    Args:
        row: The row.
    """
    return json.dumps(_plain(row), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write_fits(parts: PartsTable, path: Path) -> int:
    """A binary table behind an empty image, its rows written as they come: astropy would hold all of them."""
    fits = _import_fits()
    shapes, count = _measure(parts)
    columns = [_fits_column(fits, field, shapes.get(field.name, (0,))) for field in parts.fields]
    header = fits.BinTableHDU.from_columns(columns, nrows=0, name="SPECTRA").header
    dtype = fits.ColDefs(columns).dtype.newbyteorder(">")
    header["NAXIS2"] = count
    with path.open("wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode("ascii"))
        file.write(header.tostring().encode("ascii"))
        for table in parts.answered():
            file.write(_records(table, dtype).tobytes())
        file.write(b"\0" * (-count * dtype.itemsize % FITS_BLOCK))
    return count


def _measure(parts: PartsTable) -> tuple[dict[str, tuple[int, ...]], int]:
    """The longest of each column of texts or lists, and the number of rows."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    longest: dict[str, int] = {}
    count = 0
    for table in parts.answered():
        count += len(table)
        for field in table.schema:
            column = table[field.name]
            if types.is_string(field.type):
                length = max(map(len, map(_ascii, column.unique().to_pylist())), default=0)
            elif types.is_list(field.type):
                length = pc.max(pc.list_value_length(column)).as_py()
            else:
                continue
            longest[field.name] = max(longest.get(field.name, 1), length or 0)
    return {name: (length,) for name, length in longest.items()}, count


def _ascii(text: str | None) -> bytes:
    """A text as FITS has it, which has no other letters than those of ASCII."""
    return (text or "").encode("ascii", "backslashreplace")


def _fits_column(fits: Any, field: Any, longest: tuple[int, ...]) -> Any:
    import pyarrow.types as types

    kind, shape = field.type, list[int]()
    if types.is_string(kind):
        format = f"{longest[0]}A"
    else:
        while types.is_list(kind) or types.is_fixed_size_list(kind):
            shape.append(kind.list_size if types.is_fixed_size_list(kind) else longest[0])
            kind = kind.value_type
        format = f"{int(np.prod(shape, dtype=int)) if shape else ''}{FITS_CODES[str(kind)]}"
    more: dict[str, Any] = {"dim": f"({','.join(map(str, reversed(shape)))})"} if len(shape) > 1 else {}
    more |= {"null": MISSING_INTEGER} if types.is_integer(kind) else {}
    unit = (field.metadata or {}).get(b"unit", b"").decode()
    unit = "" if unit.startswith(NOT_IN_FITS) else unit
    return fits.Column(name=field.name, format=format, unit=unit or None, **more)


def _records(table: Any, dtype: np.dtype) -> np.ndarray:
    """The rows of an Arrow table as FITS has them."""
    import pyarrow.types as types

    records = np.zeros(len(table), dtype=dtype)
    for field in table.schema:
        column, target = table[field.name].combine_chunks(), records[field.name]
        if types.is_string(field.type):
            target[:] = [_ascii(value) for value in column.to_pylist()]
        elif types.is_list(field.type) or types.is_fixed_size_list(field.type):
            _fill_lists(target, column.to_pylist())
        elif types.is_integer(field.type):
            target[:] = column.fill_null(MISSING_INTEGER).to_numpy(zero_copy_only=False)
        elif types.is_boolean(field.type):
            target[:] = np.where(column.fill_null(False).to_numpy(zero_copy_only=False), ord("T"), ord("F"))
        else:
            target[:] = column.to_numpy(zero_copy_only=False)
    return records


def _fill_lists(target: np.ndarray, rows: Sequence[Any]) -> None:
    logical = target.dtype.kind == "i" and target.dtype.itemsize == 1
    target[:] = ord("F") if logical else np.nan
    for place, values in zip(target, rows, strict=True):
        if values:
            array = np.asarray(values)
            place[: len(array)] = np.where(array, ord("T"), ord("F")) if logical else array


FITS_CODES = {"float": "E", "double": "D", "int32": "J", "int64": "K", "bool": "L"}
NOT_IN_FITS = ("dex",)  # units that the standard does not know

Writer = Callable[[PartsTable, Path], int]
WRITERS: dict[str, Writer] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".fits": _write_fits,
    ".jsonl": _write_json,
}

__all__ = ["PartsTable", "check_format", "json_line", "write_skipped", "write_table"]
