"""Labels from a catalogue: its rows joined to spectra by identifier, behind the survey's usual quality cuts."""

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, as_text, check_choice
from .cuts import CUTS, Cut, CutCount, Key, Names, Preset, apply_cuts, check_numbers, describe, first_name
from .formats.files import open_fits
from .formats.layout import MISSING_TEXT
from .labels import TARGET_UNITS
from .rows import ID_NAMES
from .surveys import SURVEYS
from .tables import PARQUET_SUFFIXES, comment_lines, is_ecsv, is_table_file, read_ecsv
from .units import plain_numbers

DUPLICATES = ("raise", "first", "best")
TEXT_LABELS = ("class", "subclass")
NUMBER_LABELS = {*TARGET_UNITS, "ra", "dec", "snr", "zwarn"}
FEW = 3  # examples in a message
_FLOAT_TEXT = re.compile(r"[+-]?\d+(\.\d*)?e[+-]?\d+|[+-]?\d+\.\d*", re.IGNORECASE)


@dataclass(frozen=True)
class JoinReport:
    """What became of the rows of a catalogue and of the spectra; as text it is a table.

    Args:
        key: The columns that were joined on.
        rows: Rows of the catalogue.
        cuts: What each cut removed, in order.
        spectra: Spectra that were given.
        matched: Spectra that got labels.
        absent: Spectra without a row in the catalogue.
        cut: Spectra whose rows were all removed by the cuts.
        duplicates: Rows that were left out for another row of the same object.
        missing: Labels to the number of matched spectra that lack them.
        labels: Labels to the columns that they were read from.
        skipped: Labels that the preset or the survey has, but the catalogue does not.
    """

    key: str
    rows: int
    cuts: tuple[CutCount, ...]
    spectra: int
    matched: int
    absent: int
    cut: int
    duplicates: int = 0
    missing: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        """Rows that passed all cuts."""
        return self.rows - sum(cut.removed for cut in self.cuts)

    def __str__(self) -> str:
        lines = [("rows of the catalogue", self.rows, "")]
        lines += [(f"  - {cut.name}", cut.removed, f"(alone {cut.alone})") for cut in self.cuts]
        lines += [("  left by the cuts", self.kept, ""), ("spectra", self.spectra, "")]
        lines += [(f"  matched by {self.key}", self.matched, ""), ("  not in the catalogue", self.absent, "")]
        lines += [("  removed by the cuts", self.cut, "")]
        lines += [("  other rows of the same objects", self.duplicates, "not used")] if self.duplicates else []
        lines += [(f"missing {name} ({self.labels[name]})", count, "") for name, count in self.missing.items()]
        width = max(len(text) for text, _, _ in lines)
        table = [f"{text:<{width}}  {count:>9}  {note}".rstrip() for text, count, note in lines]
        return "\n".join(table + [f"labels that the catalogue lacks: {', '.join(self.skipped)}"] * bool(self.skipped))


# The join -----------------------------------------------------------------------------------------


def join_labels(
    spectra: Sequence[Spectrum],
    catalogue: Any,
    *,
    cuts: str | Preset | Sequence[Cut] | None = None,
    on: str | Key | None = None,
    labels: Mapping[str, Names] | None = None,
    duplicates: str = "raise",
    best: Names | None = None,
    missing: Sequence[float] | None = None,
) -> tuple[list[Spectrum], JoinReport]:
    """Spectra with the labels that a catalogue has for them.

    Identifiers are compared as text, exactly: spaces around them, bytes, and the text of bytes ("b'  123'") do not
    matter; integers never pass through floats. Rows count after the cuts. A label of the catalogue replaces the
    spectrum's own, also where it is missing: numbers become NaN, a missing `class` or `subclass` is taken away.

    >>> labelled, report = join_labels(spectra, "allStar-dr17-synspec_rev1.fits", cuts="apogee-dr17")  # doctest: +SKIP
    >>> print(report)  # doctest: +SKIP

    Args:
        spectra: Spectra with an `object_id`; they are left as they are, and share their pixels with the results.
        catalogue: FITS (its first table), CSV, ECSV or Parquet file, or a table of astropy, pandas, pyarrow or
            datasets.
        cuts: A key of `CUTS`, such a preset (`CUTS["sdss-dr17"].without("PLATEQUALITY == good")`), or own cuts; a
            preset also says the key, the labels and the rest, where they are not given.
        on: The column of identifiers, or how they are made of several. Absent without a preset: `object_id`,
            `targetid` or another that is usual.
        labels: Labels to columns, where a tuple is alternatives. Absent without a preset: the `label_columns` of the
            spectra's survey, and columns that are called as labels are, such as `teff`.
        duplicates: What to do with several rows of one spectrum's object: "raise"; "first" takes the first, "best"
            the one with the highest value of `best`.
        best: That column, such as "SNR".
        missing: Numbers that stand for missing values in labels and cuts. Absent without a preset: -9999.

    Returns:
        Copies of the spectra that have a row, in order, and a report that counts everything else. Spectra without a
        row that passed the cuts are left out, with a warning that says how many.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If a FITS or ECSV file is to be read without astropy.
        ValueError: If a column is absent or holds something else than it should, identifiers are floats, an object has
            several rows (`duplicates`), or no spectrum has a row.
    """
    check_choice("duplicates", duplicates, DUPLICATES)
    _check_spectra(spectra)
    preset = _resolve_preset(cuts, on, labels, best, missing, spectra)
    if duplicates == "best" and preset.best is None:
        raise ValueError('duplicates="best" needs the column by which rows are compared: pass best="SNR" or another')
    with _open_catalogue(catalogue) as source:
        if labels is None and not isinstance(cuts, (str, Preset)):
            preset = _with_own_names(preset, source)
        table = _read(source, preset, strict=labels is not None, best=duplicates == "best")
    asked = [[table.columns[name] for name in names] for names in table.cuts]
    passed, counts = apply_cuts(preset.cuts, asked, table.count)
    key, rows_of = _match(table, {spectrum.object_id for spectrum in spectra if spectrum.object_id})
    kept = {name: rows[passed[rows]] for name, rows in rows_of.items()}
    chosen = {name: _choose(rows, table, duplicates) for name, rows in kept.items() if len(rows)}
    if duplicates == "raise":
        _check_unique(kept, key)
    matched = [spectrum for spectrum in spectra if spectrum.object_id in chosen]
    values = _label_values(table, np.array([chosen[str(one.object_id)] for one in matched], dtype=np.int64))
    absent = sum(spectrum.object_id not in rows_of for spectrum in spectra)
    report = JoinReport(
        key=key,
        rows=table.count,
        cuts=counts,
        spectra=len(spectra),
        matched=len(matched),
        absent=absent,
        cut=len(spectra) - len(matched) - absent,
        duplicates=sum(max(len(rows) - 1, 0) for rows in kept.values()),
        missing={name: sum(value is None or value != value for value in column) for name, column in values.items()},
        labels=table.labels,
        skipped=tuple(name for name in preset.labels if name not in table.labels),
    )
    _tell_unmatched(spectra, table, report)
    return [_labelled(one, values, row) for row, one in enumerate(matched)], report


def _check_spectra(spectra: Any) -> None:
    if isinstance(spectra, Spectrum) or not len(spectra) or not all(isinstance(one, Spectrum) for one in spectra):
        raise ValueError(f"spectra must be a list of Spectrum, at least one, found {type(spectra).__name__}")
    if not any(spectrum.object_id for spectrum in spectra):
        raise ValueError(
            f"spectra must have an object_id, found none in {len(spectra)}: set it, or pass object_id= when reading"
        )


def _resolve_preset(
    cuts: Any,
    on: str | Key | None,
    labels: Mapping[str, Names] | None,
    best: Names | None,
    missing: Sequence[float] | None,
    spectra: Sequence[Spectrum],
) -> Preset:
    """The preset that all arguments together amount to."""
    if isinstance(cuts, str):
        check_choice("cuts", cuts, tuple(CUTS))
        cuts = CUTS[cuts]
    if not isinstance(cuts, Preset):
        usual = tuple(Key((name,)) for name in ("object_id", *sorted(ID_NAMES)))
        cuts = Preset(tuple(cuts or ()), usual, _survey_labels(spectra) if labels is None else {})
    if not all(isinstance(cut, Cut) for cut in cuts.cuts):
        raise ValueError(f"cuts must be one of {', '.join(CUTS)}, a Preset or a list of Cut, found {cuts.cuts!r}")
    given: dict[str, Any] = {"labels": labels, "best": best, "missing": None if missing is None else tuple(missing)}
    given["keys"] = None if on is None else (on if isinstance(on, Key) else Key((on,)),)
    return replace(cuts, **{name: value for name, value in given.items() if value is not None})


def _survey_labels(spectra: Sequence[Spectrum]) -> Mapping[str, Names]:
    surveys = {str(spectrum.survey) for spectrum in spectra}
    columns: Mapping[str, Names] = SURVEYS[min(surveys)].label_columns if surveys <= set(SURVEYS) else {}
    if len(surveys) > 1 or not columns:
        raise ValueError(
            f"without labels= the spectra must be of one survey whose catalogue columns are known, found survey "
            f'{", ".join(sorted(surveys))}: pass labels={{"teff": "TEFF", ...}} or cuts= ({", ".join(CUTS)})'
        )
    return columns


# Columns ------------------------------------------------------------------------------------------


def _with_own_names(preset: Preset, source: "_Source") -> Preset:
    """With the labels that the catalogue has under our names alone: a table of Teff is none that the survey made."""
    have = {name.lower() for name in source.names}
    own = {name: name for name in sorted({*NUMBER_LABELS, *TEXT_LABELS} & have)}
    surveys = {name: column for name, column in preset.labels.items() if name not in own or _find(source, column)}
    return replace(preset, labels=own | surveys)


@dataclass(frozen=True)
class _Source:
    """A table before it is read: its columns, and how to read some of them; the second argument is read as text."""

    names: Sequence[str]
    read: Callable[[Sequence[str], Collection[str]], Mapping[str, Any]]


@dataclass(frozen=True)
class _Table:
    """The columns that matter, each a masked array (n,), under the names of the catalogue."""

    columns: Mapping[str, np.ma.MaskedArray]
    keys: tuple[tuple[tuple[str, ...], str], ...]  # of each the columns and the format
    cuts: tuple[tuple[str, ...], ...]  # the columns of each
    labels: Mapping[str, str]
    best: str | None
    count: int

    def known(self, name: str) -> np.ndarray:
        """Rows that have a value, bool (n,)."""
        return ~np.ma.getmaskarray(self.columns[name])


def _read(source: _Source, preset: Preset, strict: bool, best: bool) -> _Table:
    """The columns that the preset needs; labels that the catalogue lacks are left out unless `strict`."""
    keys = [(tuple(_find(source, name) for name in key.columns), key.text) for key in preset.keys]
    known = tuple((tuple(map(str, names)), text) for names, text in keys if None not in names)
    if not known:
        usual = " or ".join(", ".join(map(first_name, key.columns)) for key in preset.keys)
        raise ValueError(f"the catalogue must have the identifiers {usual}, {_listed(source)}: pass on=")
    cuts = tuple(_cut_columns(source, cut) for cut in preset.cuts)
    labels = {name: found for name, column in preset.labels.items() if (found := _find(source, column))}
    lacking = [first_name(column) for name, column in preset.labels.items() if name not in labels]
    if lacking and (strict or not labels):
        raise ValueError(f"the catalogue has no column {', '.join(lacking)}, {_listed(source)}: pass other labels=")
    ranked = _find(source, preset.best) if best and preset.best else None
    if best and ranked is None:
        raise ValueError(f"the catalogue has no column {preset.best}, {_listed(source)}: pass another best=")
    ids = {name for names, _ in known for name in names}
    others = [*(name for columns in cuts for name in columns), *labels.values(), *([ranked] if ranked else [])]
    read = source.read(list(dict.fromkeys([*sorted(ids), *others])), ids)
    table = {name: _mask_missing(name, values, () if name in ids else preset.missing) for name, values in read.items()}
    return _Table(table, known, cuts, labels, ranked, len(table[known[0][0][0]]))


def _find(source: _Source, column: Names) -> str | None:
    """The catalogue's own spelling of the first alternative that it has."""
    for name in (column,) if isinstance(column, str) else column:
        same = [found for found in source.names if found.lower() == name.lower()]
        if name in same or len(same) == 1:
            return name if name in same else same[0]
        if same:
            raise ValueError(f"column {name} may be any of {', '.join(same)}: spell it as the catalogue does")
    return None


def _cut_columns(source: _Source, cut: Cut) -> tuple[str, ...]:
    found = [_find(source, column) for column in cut.columns]
    if None in found:
        lacking = ", ".join(
            first_name(column) for column, name in zip(cut.columns, found, strict=True) if name is None
        )
        raise ValueError(
            f"cut {cut.name!r} needs column {lacking}, {_listed(source)}: go on without it by "
            f'cuts=CUTS["..."].without({cut.name!r}), or pass your own list of cuts'
        )
    return tuple(map(str, found))


def _listed(source: _Source) -> str:
    more = f" and {len(source.names) - 20} more" if len(source.names) > 20 else ""
    return f"found {', '.join(source.names[:20])}{more}"


def _mask_missing(name: str, values: Any, sentinels: Sequence[float]) -> np.ma.MaskedArray:
    """A vector whose missing values (masked, NaN, one of `sentinels`) are masked."""
    column = np.ma.MaskedArray(values)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise ValueError(f"column {name} must hold one value per row, found shape {column.shape}: split it first")
    mask = np.ma.getmaskarray(column).copy()
    if column.dtype.kind == "f":
        mask |= np.isnan(column.data)
    if column.dtype.kind in "iuf" and sentinels:
        mask |= np.isin(column.data, sentinels)
    return np.ma.MaskedArray(column.data, mask=mask)


# Files and tables ---------------------------------------------------------------------------------


@contextmanager
def _open_catalogue(catalogue: Any) -> Iterator[_Source]:
    if not isinstance(catalogue, (str, Path)):
        yield _table_source(catalogue)
        return
    path = Path(catalogue)
    if is_table_file(path):
        yield _file_source(path)
    elif ".fit" in path.name.lower():
        with open_fits(path) as hdus:
            yield _fits_source(hdus, path)
    else:
        raise ValueError(f"{path} must be FITS, CSV, ECSV or Parquet by its name: read it yourself and pass the table")


def _fits_source(hdus: Any, path: Path) -> _Source:
    hdu = next((hdu for hdu in hdus if hdu.header.get("TFIELDS")), None)
    if hdu is None:
        raise ValueError(f"{path} holds no table: pass the catalogue, not the spectra")

    def read(wanted: Sequence[str], ids: Collection[str]) -> dict[str, Any]:
        nulls = {name: hdu.columns[name].null for name in wanted}
        # Of a file on disk only these are read; text as bytes, since astropy takes 2 s to decode a million rows.
        raw = hdu.data.view(np.ndarray)
        values = {name: raw[name] if raw.dtype[name].kind == "S" else np.asarray(hdu.data[name]) for name in wanted}
        return {
            name: np.ma.MaskedArray(column, mask=False if nulls[name] in (None, "") else column == nulls[name])
            for name, column in values.items()
        }

    return _Source(hdu.columns.names, read)


def _file_source(path: Path) -> _Source:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path} (looked in {path.absolute().parent}): check the path")
    if path.name.lower().endswith(PARQUET_SUFFIXES):
        import pyarrow.parquet as pq

        names = pq.read_schema(path).names
        return _Source(names, lambda wanted, ids: _arrow_columns(pq.read_table(path, columns=list(wanted))))
    return _table_source(read_ecsv(path)) if is_ecsv(path) else _csv_source(path)


def _csv_source(path: Path) -> _Source:
    import pandas as pd

    comments = comment_lines(path)

    def read(wanted: Sequence[str], ids: Collection[str]) -> dict[str, Any]:
        # Identifiers as text, and integers as such also where some are missing: as floats they would be rounded.
        frame = pd.read_csv(path, skiprows=comments, usecols=list(wanted), dtype=dict.fromkeys(ids, str),
                            dtype_backend="numpy_nullable")  # fmt: skip
        return _pandas_columns(frame)

    return _Source([str(name) for name in pd.read_csv(path, skiprows=comments, nrows=0).columns], read)


def _table_source(table: Any) -> _Source:
    """Libraries are told by name, so that none is imported."""
    kinds = [f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(table).__mro__]
    if "astropy.Table" in kinds:
        return _Source(table.colnames, lambda wanted, ids: {name: plain_numbers(table[name]) for name in wanted})
    if "pandas.DataFrame" in kinds:
        frame = (table.reset_index() if any(table.index.names) else table).rename(columns=str)
        return _Source(list(frame.columns), lambda wanted, ids: _pandas_columns(frame[list(wanted)]))
    if "pyarrow.Table" in kinds:
        return _Source(table.column_names, lambda wanted, ids: _arrow_columns(table.select(list(wanted))))
    if "datasets.Dataset" in kinds:
        return _Source(
            table.column_names,
            lambda wanted, ids: _arrow_columns(table.select_columns(list(wanted)).with_format("arrow")[:]),
        )
    raise ValueError(
        f"catalogue must be a file or a table of astropy, pandas, pyarrow or datasets, found {type(table).__name__}"
    )


def _pandas_columns(frame: Any) -> dict[str, np.ma.MaskedArray]:
    import pyarrow as pa

    return {name: _arrow_values(pa.chunked_array([pa.array(frame[name], from_pandas=True)])) for name in frame.columns}


def _arrow_columns(table: Any) -> dict[str, np.ma.MaskedArray]:
    return {name: _arrow_values(table.column(name)) for name in table.column_names}


def _arrow_values(column: Any) -> np.ma.MaskedArray:
    """Integers stay integers where some are missing; text and bytes become objects."""
    import pyarrow.types as types

    column = column.combine_chunks()
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    mask = column.is_null().to_numpy(zero_copy_only=False)
    if types.is_boolean(column.type) or types.is_integer(column.type):
        values = column.fill_null(0 if types.is_integer(column.type) else False).to_numpy(zero_copy_only=False)
    elif types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
    else:
        values = np.empty(len(column), dtype=object)
        values[:] = ["" if value is None else value for value in column.to_pylist()]
    return np.ma.MaskedArray(values, mask=mask)


# Rows ---------------------------------------------------------------------------------------------


def _match(table: _Table, wanted: set[str]) -> tuple[str, dict[str, np.ndarray]]:
    """The name of the key that finds a spectrum, and the rows of each identifier that it finds, in order."""
    inexact = {", ".join(names): problem for names, _ in table.keys if (problem := _inexact(table, names))}
    for names, text in table.keys:
        if ", ".join(names) in inexact:
            continue
        rows, found = _find_rows([table.columns[name] for name in names], text, wanted)
        if len(rows):
            groups: dict[str, list[int]] = {}
            for row, identifier in zip(rows, found, strict=True):
                groups.setdefault(identifier, []).append(row)
            return ", ".join(names), {name: np.array(group) for name, group in groups.items()}
    if inexact:
        raise ValueError(next(iter(inexact.values())))
    first = {", ".join(names): _example(table, names, text) for names, text in table.keys}
    theirs = " or ".join(f"{example!r} ({name})" for name, example in first.items())
    raise ValueError(
        f"no spectrum has a row in the catalogue: object_id is {min(wanted)!r}, and the catalogue has {theirs}: "
        "pass the column that holds the same identifiers as on="
    )


def _find_rows(columns: Sequence[np.ma.MaskedArray], text: str, wanted: set[str]) -> tuple[list[int], list[str]]:
    """The rows whose identifier is wanted, in order, and that identifier."""
    known = ~np.logical_or.reduce([np.ma.getmaskarray(column) for column in columns])
    if len(columns) == 1 and columns[0].dtype.kind in "iu":  # without a text for each of millions of rows
        limits = np.iinfo(columns[0].dtype)
        numbers = [int(one) for one in wanted if one.lstrip("-").isdecimal() and str(int(one)) == one]
        numbers = [number for number in numbers if limits.min <= number <= limits.max]
        rows = np.flatnonzero(known & np.isin(columns[0].data, np.array(numbers, dtype=columns[0].dtype)))
        return rows.tolist(), [str(number) for number in columns[0].data[rows].tolist()]
    rows = np.flatnonzero(known)
    found = _identifiers([column.data[rows] for column in columns], text)
    pairs = [(row, one) for row, one in zip(rows.tolist(), found, strict=True) if one in wanted]
    return [row for row, _ in pairs], [one for _, one in pairs]


def _identifiers(columns: Sequence[np.ndarray], text: str) -> list[str]:
    if len(columns) == 1:
        return [as_text(value) for value in columns[0].tolist()]
    parts = [[int(value) for value in column.tolist()] for column in columns]
    return [text.format(*values) for values in zip(*parts, strict=True)]


def _inexact(table: _Table, names: Sequence[str]) -> str | None:
    """What is wrong where identifiers are, or were, floats; None where they are not."""
    for name in names:
        column = table.columns[name]
        first = next(iter(column.compressed()[:1].tolist()), None)
        text = isinstance(first, (str, bytes)) and _FLOAT_TEXT.fullmatch(as_text(first))
        if column.dtype.kind == "f" or isinstance(first, float) or text:
            return (
                f"identifiers must be integers or text, found floats in {name}, such as {first!r}: above 2**53 they "
                "are rounded, and may name other objects. Read the column as int64 or text from the original file "
                f'(pandas makes floats of integers where one is missing: dtype={{"{name}": str}})'
            )
    return None


def _example(table: _Table, names: Sequence[str], text: str) -> str | None:
    known = np.flatnonzero(np.logical_and.reduce([table.known(name) for name in names]))[:1]
    return next(iter(_identifiers([table.columns[name].data[known] for name in names], text)), None)


def _check_unique(kept: Mapping[str, np.ndarray], key: str) -> None:
    if several := {name: len(rows) for name, rows in kept.items() if len(rows) > 1}:
        few = ", ".join(f"{name} ({count} rows)" for name, count in list(several.items())[:FEW])
        raise ValueError(
            f"{key} must name one row of the catalogue, found {len(several)} of {len(kept)} objects with "
            f"several: {few}: "
            'add a cut that leaves one, or pass duplicates="best" with best= ("SNR", ...), or duplicates="first"'
        )


def _choose(rows: np.ndarray, table: _Table, duplicates: str) -> int:
    """The row of an object; of the best ones the first, and one without a value only where there is no other."""
    if duplicates != "best" or table.best is None:
        return int(rows[0])
    values = check_numbers(table.columns[table.best].data, table.best)[rows].astype(np.float64)
    return int(rows[np.argmax(np.where(table.known(table.best)[rows], values, -np.inf))])


# Labels -------------------------------------------------------------------------------------------


def _label_values(table: _Table, rows: np.ndarray) -> dict[str, list[Any]]:
    """Of each label the values in some rows; where missing, NaN for numbers and None for text."""
    return {label: _plain_values(label, name, table.columns[name], rows) for label, name in table.labels.items()}


def _plain_values(label: str, name: str, column: np.ma.MaskedArray, rows: np.ndarray) -> list[Any]:
    known = column.compressed()
    is_text = column.dtype.kind in "USO"
    if is_text and (label in NUMBER_LABELS) and len(known):
        raise ValueError(f"label {label} must be a number, found {describe(known)} in column {name}: convert it first")
    if not is_text and label in TEXT_LABELS and len(known):
        raise ValueError(f"label {label} must be text, found {describe(known)} in column {name}: name the classes")
    if column.dtype.kind == "b" and label in NUMBER_LABELS:
        raise ValueError(f"label {label} must be a number, found booleans in column {name}, which have two meanings")
    pairs = zip(column.data[rows].tolist(), np.ma.getmaskarray(column)[rows].tolist(), strict=True)
    if label not in TEXT_LABELS and (not is_text or label in NUMBER_LABELS):
        return [np.nan if absent else value for value, absent in pairs]
    texts = [None if absent else as_text(value) for value, absent in pairs]
    return [None if text is None or text.upper() in MISSING_TEXT else text for text in texts]


def _labelled(spectrum: Spectrum, values: Mapping[str, Sequence[Any]], row: int) -> Spectrum:
    """A copy with new labels; the checks of the constructor have been passed, and nothing is dropped again."""
    own = {name: value for name, value in spectrum.labels.items() if name not in values}
    labels = own | {name: column[row] for name, column in values.items() if column[row] is not None}
    return Spectrum.unchecked(**vars(spectrum) | {"labels": labels, "dropped": dict(spectrum.dropped)})


def _tell_unmatched(spectra: Sequence[Spectrum], table: _Table, report: JoinReport) -> None:
    if not report.matched:
        raise ValueError(f"the cuts removed the rows of all {report.cut} spectra that are in the catalogue:\n{report}")
    if report.absent or report.cut:
        warnings.warn(
            f"{report.absent + report.cut} of {report.spectra} spectra are left out: {report.absent} are not in the "
            f"catalogue, of {report.cut} the cuts removed the row (the report says which cuts)",
            stacklevel=3,
        )


__all__ = ["JoinReport", "join_labels"]
