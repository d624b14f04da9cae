"""Tables of spectra in, the same tables with embeddings out: every row keeps its place, its ids and its labels."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..data.multimodal_universe import universe_table
from ..data.parts import UNREADABLE, plain_reason
from ..data.readers import read_spectra
from ..data.rows import check_keywords, read_mapping
from ..data.tables import TableRows, as_table
from ..models.sources import PIXEL_COLUMNS, plain_name
from ..models.spectrum import Spectrum

ADDED = ("embedding", "outside", "reason")
WINDOW = 256  # rows that are read before they are encoded


@dataclass(frozen=True)
class RowAnswers:
    """What was found for the rows of a table, in their order.

    Args:
        embedding: Shape (n, d), float32; NaN where there is none.
        outside: In what respects each spectrum lies outside what the checkpoint saw; "" = in none.
        reason: Why there is no embedding; "" where there is one.
    """

    embedding: np.ndarray
    outside: list[str]
    reason: list[str]


def read_table(source: Any) -> Any:
    """A table in memory: that which was given, or of a Parquet file a pandas table.

    Args:
        source: A pandas, astropy or Arrow table, a `datasets.Dataset`, or the path of a Parquet file.

    Raises:
        ValueError: If it is none of them.
    """
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.suffix.lower() != ".parquet":
            raise ValueError(f"the path of a table must end in .parquet, found {path}: read it yourself and pass it")
        if universe_table(path) is not None:
            raise ValueError(
                f"{path} is of the Multimodal Universe, whose known errors are corrected where files are read, not "
                "in tables: pass it to encode, or to spectok encode"
            )
        import pandas

        return pandas.read_parquet(path)
    if _kind(source) is None:
        raise ValueError(
            "encode_table takes a pandas, astropy or Arrow table, a datasets.Dataset or the path of a Parquet file, "
            f"found {type(source).__name__}"
        )
    return source


def spectra_of(table: Any, path_column: str | None, fields: Mapping[str, Any]) -> Iterator[Spectrum | str]:
    """The spectrum of each row, or the reason why there is none.

    Args:
        table: The table.
        path_column: The column with the name of a file per row; None = the row has the pixels.
        fields: What is to be said of all rows, see `read_spectra`.

    Raises:
        ValueError: If there is no such column, or two have one name, or the rows have no pixels.
        TypeError: If a field is unknown.
    """
    check_keywords("encode_table", fields)
    names = _names(table)
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise ValueError(f"columns must have different names, found {twice[0]!r} {names.count(twice[0])} times")
    if path_column is not None:
        if path_column not in names:
            raise ValueError(f"path_column must be one of {', '.join(map(str, names))}, found {path_column!r}")
        for path in _column(table, path_column):
            if not isinstance(path, (str, Path)) or not str(path):
                yield "no file is named"
                continue
            yield _read_one(partial(read_spectra, str(path), progress=False, **fields))
        return
    if "flux" not in {plain_name(str(name)) for name in names} and "spectrum" not in names:
        raise ValueError(
            f"a table must have a column flux, or path_column= with names of files, found {', '.join(map(str, names))}"
        )
    rows = as_table(table)
    if not isinstance(rows, TableRows):
        raise ValueError("the rows of the table are the pixels of one spectrum: pass it to encode instead")
    for row in rows:
        yield _read_one(partial(read_mapping, row, fields))


def _read_one(read: Callable[[], list[Spectrum]]) -> Spectrum | str:
    try:
        spectra = read()
    except UNREADABLE:
        raise
    except Exception as error:  # libraries have errors of every kind for what is damaged: one row must not end all
        return plain_reason(error)
    return spectra[0] if len(spectra) == 1 else f"a row must hold one spectrum, found {len(spectra)}"


def check_free(table: Any) -> None:
    """Refuse a table that has columns of the names that are added.

    Args:
        table: The table.

    Raises:
        ValueError: If it has.
    """
    if taken := [name for name in ADDED if name in _names(table)]:
        raise ValueError(f"the table has a column {taken[0]} already: rename it first")


def warn_unanswered(reasons: Sequence[str]) -> None:
    """Warn once of all rows without an embedding; the first is described.

    Args:
        reasons: Of each row; "" = it has one.
    """
    lost = [row for row, reason in enumerate(reasons) if reason]
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(reasons)} rows have no embedding, but a reason: row {lost[0]}: {reasons[lost[0]]}",
            stacklevel=3,
        )


def with_answers(table: Any, answers: RowAnswers) -> Any:
    """A copy of a table, without its pixels, with what was found.

    Args:
        table: The table.
        answers: What was found.
    """
    kept = [name for name in _names(table) if plain_name(str(name)) not in PIXEL_COLUMNS and name != "spectrum"]
    found = {"embedding": answers.embedding, "outside": answers.outside, "reason": answers.reason}
    return _KINDS[_kind(table) or ""](table, kept, found)


# Kinds of tables ----------------------------------------------------------------------------------


def _to_pandas(table: Any, kept: Sequence[str], found: Mapping[str, Any]) -> Any:
    return table[list(kept)].assign(**{**found, "embedding": list(found["embedding"])})


def _to_astropy(table: Any, kept: Sequence[str], found: Mapping[str, Any]) -> Any:
    copy = table[list(kept)].copy() if kept else type(table)()
    for name, values in found.items():
        copy[name] = np.asarray(values)
    return copy


def _to_arrow(table: Any, kept: Sequence[str], found: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    copy = table.select(list(kept))
    for name, values in found.items():
        copy = copy.append_column(name, pa.array(list(values)))
    return copy


def _to_dataset(table: Any, kept: Sequence[str], found: Mapping[str, Any]) -> Any:
    from datasets import Dataset, Features, List, Value, concatenate_datasets

    vector = List(Value("float32"), length=found["embedding"].shape[1])
    features = Features({"embedding": vector, "outside": Value("string"), "reason": Value("string")})
    added = Dataset.from_dict({name: list(values) for name, values in found.items()}, features=features)
    return concatenate_datasets([table.select_columns(list(kept)), added], axis=1)


_KINDS: dict[str, Callable[[Any, Sequence[str], Mapping[str, Any]], Any]] = {
    "pandas.DataFrame": _to_pandas,
    "astropy.Table": _to_astropy,
    "pyarrow.Table": _to_arrow,
    "datasets.Dataset": _to_dataset,
}


def _kind(table: Any) -> str | None:
    """Of which library a table is, by name, so that none is imported."""
    names = [f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(table).__mro__]
    return next((name for name in names if name in _KINDS), None)


def _names(table: Any) -> list[Any]:
    """Names of the columns, which pandas lets be anything."""
    for attribute in ("column_names", "colnames", "columns"):
        if hasattr(table, attribute):
            return list(getattr(table, attribute))
    return []


def _column(table: Any, name: str) -> list[Any]:
    values = table[name]
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method):
            return list(getattr(values, method)())
    return list(values)


__all__ = ["RowAnswers", "check_free", "read_table", "spectra_of", "warn_unanswered", "with_answers"]
