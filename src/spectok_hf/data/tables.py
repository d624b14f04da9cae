"""Tables as rows: pandas, astropy, pyarrow and datasets tables, Parquet, CSV, ECSV and FITS tables."""

import gzip
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.sources import PIXEL_COLUMNS
from .formats.files import open_fits
from .formats.layout import column_names
from .multimodal_universe_corrections import GALAH_COLUMNS, own_name
from .rows import ID_NAMES, column_kind, stated_medium
from .units import plain_numbers

PARQUET_SUFFIXES = (".parquet", ".pq")
ANSWERS_MARK = {b"spectok_hf": b"answers"}  # of the schema of a table about spectra
TEXT_SUFFIXES = (".csv", ".csv.gz", ".ecsv", ".ecsv.gz")
TABLE_SUFFIXES = PARQUET_SUFFIXES + TEXT_SUFFIXES
BATCH = 1000  # rows that are converted at a time
ROWS_READ, READ_BYTES = 64, 1 << 20  # of a Parquet file at a time; bytes per column
_ARRAY_TEXT = re.compile(r"^\s*(array)?\s*[\[(]")


@dataclass(frozen=True)
class TableRows:
    """The rows of a table, each a mapping; they are made as they are asked for.

    Args:
        count: Number of rows.
        make: Gives a fresh iterator over them.
    """

    count: int
    make: Callable[[], Iterator[Mapping[str, Any]]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return self.make()


def is_table_file(path: Path) -> bool:
    """Whether the name of a file is that of a table: Parquet, CSV, ECSV.

    Args:
        path: The file.
    """
    return path.name.lower().endswith(TABLE_SUFFIXES)


def holds_answers(path: Path) -> bool:
    """Whether a file is a Parquet table of answers about spectra, which has none itself.

    Args:
        path: The file.
    """
    if not path.name.lower().endswith(PARQUET_SUFFIXES):
        return False
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, ValueError):  # damaged, which is said where it is read
        return False
    return ANSWERS_MARK.items() <= (schema.metadata or {}).items() and "flux" not in schema.names


def read_table_file(path: Path) -> TableRows | Mapping[str, Any]:
    """The rows of a table file, or, where a row is a pixel, its columns.

    Args:
        path: A file for which `is_table_file`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or not what its name says.
        ImportError: If an ECSV file is to be read without astropy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path} (looked in {path.absolute().parent}): check the path")
    try:
        if path.name.lower().endswith(PARQUET_SUFFIXES):
            return _read_parquet(path)
        return _from_astropy(read_ecsv(path)) if is_ecsv(path) else _from_pandas(_read_csv(path))
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from error


def as_table(source: Any) -> TableRows | Mapping[str, Any] | None:
    """The rows of a table in memory, or its columns where a row is a pixel; a row as a mapping; None for all else.

    Libraries are told by name, so that none is imported.

    Args:
        source: Anything.
    """
    for kind in type(source).__mro__:
        name = f"{kind.__module__.split('.')[0]}.{kind.__name__}"
        if name in _CONVERTERS:
            return _CONVERTERS[name](source)
    return None


def find_fits_table(path: Path) -> TableRows | Mapping[str, Any] | None:
    """The rows of the only table of a FITS file that holds flux, wavelength and errors; None without one.

    Args:
        path: The file, which is known to be sound.
    """
    with open_fits(path) as hdus:
        found = [hdu for hdu in hdus if _holds_spectra({column_kind(name) for name in column_names(hdu)})]
        if len(found) != 1:
            return None
        from astropy.table import Table

        table = Table.read(found[0])
        if medium := stated_medium(hdus[0].header):
            table.meta.setdefault("AIRORVAC", medium)
        return _from_astropy(table)


def _holds_spectra(kinds: set[str | None]) -> bool:
    return {"flux", "wavelength"} <= kinds and bool({"ivar", "error"} & kinds)


# Arrow --------------------------------------------------------------------------------------------


@contextmanager
def open_parquet(path: Path) -> Iterator[Any]:
    """A Parquet file, of which little more than the rows that are asked for is in memory, whatever its row groups.

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BYTES) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}): download it again") from error


def _read_parquet(path: Path) -> TableRows | Mapping[str, Any]:
    with open_parquet(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
        if not _is_nested(schema):
            return _arrow_columns(file.read(_known(schema.names)))

    def batches() -> Iterator[Any]:
        with open_parquet(path) as file:
            yield from file.iter_batches(ROWS_READ, columns=_known(schema.names))

    return TableRows(count, lambda: _arrow_rows(batches()))


def _from_arrow(table: Any) -> TableRows | Mapping[str, Any]:
    table = table.select(_known(table.schema.names))
    if not _is_nested(table.schema):
        return _arrow_columns(table)
    batches = [table] if not hasattr(table, "to_batches") else table.to_batches(BATCH)
    return TableRows(table.num_rows, lambda: _arrow_rows(batches))


def _from_dataset(dataset: Any) -> TableRows | Mapping[str, Any]:
    known = dataset.select_columns(_known(dataset.column_names)).with_format("arrow")
    if not _is_nested(known.features.arrow_schema):
        return _arrow_columns(known[:])
    return TableRows(len(known), lambda: _arrow_rows(known.iter(BATCH)))


def _known(names: list[str]) -> list[str]:
    """The columns that are of use; all of them where there is no flux, for the message to name.

    Those of GALAH in the Multimodal Universe are of use to warn of.
    """
    known = [name for name in names if column_kind(name) or own_name(name) in GALAH_COLUMNS]
    return known if {"flux", "spectrum"} & {column_kind(name) for name in known} else names


def _is_nested(schema: Any) -> bool:
    """Whether the flux of a row is a list: a spectrum rather than a pixel per row."""
    import pyarrow.types as types

    for name in schema.names:
        kind = schema.field(name).type
        if column_kind(name) == "spectrum" or (column_kind(name) == "flux" and not types.is_floating(kind)):
            return not types.is_integer(kind)
    return not any(column_kind(name) == "flux" for name in schema.names)


def _arrow_columns(table: Any) -> dict[str, Any]:
    columns = {name: table.column(name) for name in table.schema.names}
    return _one_spectrum(
        {
            name: _arrow_flat(values) if column_kind(name) in PIXEL_COLUMNS else values.to_pylist()
            for name, values in columns.items()
        }
    )


def _arrow_rows(batches: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for batch in batches:
        columns = {name: _arrow_values(batch.column(name)) for name in batch.schema.names}
        for index in range(batch.num_rows):
            yield {name: values[index] for name, values in columns.items()}


def _arrow_values(column: Any) -> list[Any]:
    """One entry per row: numbers as Python numbers (integers stay exact), lists as arrays, structs as dicts."""
    import pyarrow.types as types

    if hasattr(column, "chunks"):
        return [value for chunk in column.chunks for value in _arrow_values(chunk)]
    kind = column.type
    if getattr(column, "storage", None) is not None:  # an extension type
        return _arrow_values(column.storage)
    if types.is_struct(kind):
        fields = {field.name: _arrow_values(part) for field, part in zip(kind, column.flatten(), strict=True)}
        return [{name: values[index] for name, values in fields.items()} for index in range(len(column))]
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _arrow_lists(column)
    values: list[Any] = column.to_pylist()
    return values


def _arrow_lists(column: Any) -> list[Any]:
    """Slices of the flat values, without a Python number per pixel."""
    import pyarrow.compute as pc
    import pyarrow.types as types

    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    stops = np.cumsum(lengths)
    starts = (stops - lengths).tolist()
    flat = column.flatten()
    if types.is_struct(flat.type):  # a list of pixels
        parts = {field.name: _arrow_flat(part) for field, part in zip(flat.type, flat.flatten(), strict=True)}
    elif types.is_nested(flat.type):
        nested: list[Any] = column.to_pylist()
        return nested
    else:
        parts = {"": _arrow_flat(flat)}
    absent = column.is_null().to_pylist()
    spans = [
        None if null else slice(start, stop) for null, start, stop in zip(absent, starts, stops.tolist(), strict=True)
    ]
    if "" in parts:
        return [None if span is None else parts[""][span] for span in spans]
    return [None if span is None else {name: part[span] for name, part in parts.items()} for span in spans]


def _arrow_flat(values: Any) -> np.ndarray:
    import pyarrow.types as types

    if values.null_count and types.is_boolean(values.type):
        values = values.fill_null(True)  # the only such columns are masks: an unknown pixel is bad
    if types.is_boolean(values.type) and hasattr(values, "buffers"):  # no chunked column
        return _unpack_bits(values)
    return np.asarray(values)


def _unpack_bits(values: Any) -> np.ndarray:
    """A boolean array without nulls; Arrow's own conversion takes ten times as long."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    first, offset = divmod(values.offset, 8)
    stored = np.frombuffer(values.buffers()[1], np.uint8)[first:]
    return np.unpackbits(stored, count=offset + len(values), bitorder="little")[offset:].view(bool)


# numpy, pandas and text ---------------------------------------------------------------------------


def _from_records(records: Any) -> TableRows | Mapping[str, Any] | None:
    """A structured array as a table; None for any other array."""
    if not records.dtype.names or records.ndim != 1:
        return None
    columns = {name: records[name] for name in _known(list(records.dtype.names))}
    columns = {name: values.tolist() if values.ndim == 1 else values for name, values in columns.items()}
    return _from_columns(columns, len(records))


def _from_pandas(frame: Any) -> TableRows | Mapping[str, Any]:
    if any(frame.index.names):
        frame = frame.reset_index()  # a named index is often the identifier
    frame = frame.rename(columns=str)
    columns = {name: _pandas_values(frame[name]) for name in _known(list(frame.columns))}
    return _from_columns(columns, len(frame))


def _from_series(series: Any) -> Mapping[str, Any]:
    """A row, whose index are the names of columns; or else a column, of flux."""
    return series.to_dict() if all(isinstance(name, str) for name in series.index) else {"flux": series.to_numpy()}


def _pandas_values(series: Any) -> list[Any]:
    missing = series.isna().to_numpy()
    return [None if absent else value for value, absent in zip(series.tolist(), missing, strict=True)]


def _from_columns(columns: dict[str, Any], count: int) -> TableRows | Mapping[str, Any]:
    """Rows of columns in memory; text of arrays becomes arrays."""
    columns = {name: _parse_arrays(name, values) for name, values in columns.items()}
    flux = next((values for name, values in columns.items() if column_kind(name) == "flux"), None)
    if flux is not None and count and all(np.ndim(value) == 0 for value in flux):  # a missing one may be a spectrum
        return _one_spectrum(columns)
    return TableRows(count, lambda: _rows_of_columns(columns, count))


def _rows_of_columns(columns: Mapping[str, Any], count: int) -> Iterator[Mapping[str, Any]]:
    for index in range(count):
        yield {name: values[index] for name, values in columns.items()}


def _one_spectrum(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns with a row per pixel as one spectrum: of those that are not per pixel the one value that they hold."""
    row: dict[str, Any] = {}
    for name, values in columns.items():
        kind = column_kind(name)
        if kind in PIXEL_COLUMNS:
            row[name] = _pixels(values)
        elif kind not in (None, "label", "labels", "spectrum"):
            found = list(dict.fromkeys(value for value in values if value is not None and value == value))
            if len(found) > 1:
                raise ValueError(
                    f"a table with a row per pixel must hold one spectrum, found {len(found)} values of {name}: "
                    "pass the rows of each spectrum by themselves"
                )
            if found:
                row[name] = found[0]
    return row


def _pixels(values: Any) -> Any:
    return np.array([np.nan if value is None else value for value in values]) if isinstance(values, list) else values


def _parse_arrays(name: str, values: Any) -> Any:
    """Columns of arrays that were written as text, "[1.0, 2.0]", "(1.0, 2.0)" or "[1. 2.]", as arrays."""
    first = next((value for value in values if value is not None), None)
    if not isinstance(first, str) or not _ARRAY_TEXT.match(first) or column_kind(name) not in PIXEL_COLUMNS:
        return values
    return [None if value is None else _parse_array(name, value) for value in values]


def _parse_array(name: str, text: str) -> np.ndarray:
    words = re.sub(r"dtype=\w+|array|[\[\](),]", " ", text).replace("null", "nan").replace("None", "nan").split()
    try:
        if words and words[0] in ("True", "False", "true", "false"):
            return np.array([{"true": True, "false": False}[word.lower()] for word in words])
        if column_kind(name) in ("mask", "bitmask"):
            return np.array([int(word) for word in words])
        return np.array(words, dtype=np.float64)
    except (ValueError, KeyError) as error:
        cut = (
            ": the text was cut short when it was written (numpy prints long arrays with ...)" if "..." in text else ""
        )
        raise ValueError(f"{name} must hold arrays such as [1.0, 2.0], found {text[:60]!r}{cut}") from error


def _read_csv(path: Path) -> Any:
    import pandas as pd

    comments = comment_lines(path)
    names = list(pd.read_csv(path, nrows=0, skiprows=comments).columns)
    # As text: a missing identifier turns the whole column into float64, which rounds those of DESI and Gaia.
    texts = {name: str for name in names if column_kind(name) == "object_id" or name.lower() in ID_NAMES}
    return pd.read_csv(path, skiprows=comments, dtype=texts, usecols=_known(names))


def comment_lines(path: Path) -> int:
    """Number of the lines above the table of a CSV file that begin with #.

    pandas is told to skip them, since its own `comment=` also cuts lines at a # in the name of an object.

    Args:
        path: The file, possibly gzipped.
    """
    with _open(path) as file:
        return sum(1 for _ in itertools.takewhile(lambda line: line.startswith(b"#"), file))


def is_ecsv(path: Path) -> bool:
    """Whether a file is ECSV, by its content: the Gaia archive names its ECSV files .csv.gz.

    Args:
        path: The file, possibly gzipped.
    """
    with _open(path) as file:
        return bool(file.read(20).startswith(b"# %ECSV"))


def _open(path: Path) -> Any:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def read_ecsv(path: Path) -> Any:
    """The astropy table of an ECSV file.

    Args:
        path: The file, possibly gzipped.

    Raises:
        ImportError: If astropy is absent.
    """
    try:
        from astropy.table import Table
    except ImportError as error:
        raise ImportError('read_spectra needs astropy for ECSV files: pip install "spectok-hf[astro]".') from error
    return Table.read(path, format="ascii.ecsv")


# astropy ------------------------------------------------------------------------------------------


def _from_astropy(table: Any) -> TableRows | Mapping[str, Any]:
    columns = {name: _astropy_values(name, table[name]) for name in _known(table.colnames)}
    if medium := stated_medium(table.meta):
        columns.setdefault("medium", [medium] * len(table))
    return _from_columns(columns, len(table))


def _from_fits_table(hdu: Any) -> TableRows | Mapping[str, Any]:
    from astropy.table import Table

    return _from_astropy(Table.read(hdu))


def _from_fits_records(records: Any) -> TableRows | Mapping[str, Any]:
    """The data of a FITS table by way of the table, as they alone are without units."""
    from astropy.io import fits

    return _from_fits_table(fits.BinTableHDU(records))


def _from_astropy_row(row: Any) -> Mapping[str, Any]:
    """By way of its table, as a row knows nothing of the units of its columns."""
    rows = _from_astropy(row.table[[row.index]])
    return rows if isinstance(rows, Mapping) else next(iter(rows))


def _astropy_values(name: str, column: Any) -> Any:
    """Scalars as Python values, None where masked; arrays with their unit and mask, for `strip_units`."""
    values = plain_numbers(column)
    unit = getattr(column, "unit", None) if column_kind(name) in PIXEL_COLUMNS else None
    if values.ndim > 1 or values.dtype.kind == "O":
        return values if unit is None else [_with_unit(value, unit) for value in values]
    return values.tolist() if unit is None else _with_unit(values, unit)


def _with_unit(values: Any, unit: Any) -> Any:
    from astropy.table import Column, MaskedColumn

    if unit is None or values is None or isinstance(values, str):
        return values
    return (MaskedColumn if isinstance(values, np.ma.MaskedArray) else Column)(values, unit=unit)


_CONVERTERS: dict[str, Callable[[Any], TableRows | Mapping[str, Any] | None]] = {
    "pandas.DataFrame": _from_pandas,
    "pandas.Series": _from_series,
    "astropy.Table": _from_astropy,
    "astropy.Row": _from_astropy_row,
    "astropy.BinTableHDU": _from_fits_table,
    "astropy.FITS_rec": _from_fits_records,
    "numpy.ndarray": _from_records,
    "pyarrow.Table": _from_arrow,
    "pyarrow.RecordBatch": _from_arrow,
    "datasets.Dataset": _from_dataset,
}

__all__ = [
    "ANSWERS_MARK",
    "PARQUET_SUFFIXES",
    "TABLE_SUFFIXES",
    "TableRows",
    "as_table",
    "comment_lines",
    "find_fits_table",
    "holds_answers",
    "is_ecsv",
    "is_table_file",
    "open_parquet",
    "read_ecsv",
    "read_table_file",
]
