"""`write_spectra`: spectra as a Parquet file that `read_spectra` and every command take."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..models.spectrum import Spectrum
from .whole_files import written_whole

ROWS_AT_ONCE = 256


def write_spectra(spectra: Iterable[Spectrum], path: str | Path, *, labels: Collection[str] | None = None) -> int:
    """Write spectra as the rows of a Parquet file, whole or not at all; some hundred are in memory.

    Columns: object_id, survey, medium, frame, flux_unit, flux, wavelength (Å), ivar, mask, labels, and truth, the
    noise-free flux, where the first spectrum has one.

    Args:
        spectra: The spectra; those with a truth and those without go into different files.
        path: The file; one that is there is replaced.
        labels: The labels to keep; None = those that the first few hundred spectra have.

    Returns:
        How many were written.

    Raises:
        ValueError: If there are none, some have a truth and others have not, or the file has another ending.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, rest = check_ending(path), iter(spectra)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = list(islice(rest, ROWS_AT_ONCE))
    if not first:
        raise ValueError(f"there must be at least one spectrum to write to {path}, found none")
    kept = {name for one in first for name in one.labels} if labels is None else set(labels)
    with_truth = first[0].truth is not None
    schema = _schema([_row(one, kept, with_truth) for one in first])
    count = 0
    with written_whole(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        spectra = chain(first, rest)
        while rows := [_row(one, kept, with_truth) for one in islice(spectra, ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def check_ending(path: str | Path) -> Path:
    """The path of a file to write; under another ending nothing would read it again.

    Args:
        path: The file.

    Raises:
        ValueError: If it does not end in .parquet.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".parquet":
        raise ValueError(f"{path} must end in .parquet, found {path.suffix or 'no ending'}: name it so")
    return path


def _schema(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The columns, of which those of the labels are as the first rows have them; there may be no label."""
    import pyarrow as pa

    types = dict.fromkeys(("object_id", "survey", "medium", "frame", "flux_unit"), pa.string())
    types |= {"flux": pa.list_(pa.float32()), "wavelength": pa.list_(pa.float64()), "ivar": pa.list_(pa.float32())}
    types |= {"mask": pa.list_(pa.bool_()), "truth": pa.list_(pa.float32())}
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row["labels"].items():
            values.setdefault(name, []).append(value)
    labels = {name: pa.array(found).type for name, found in values.items()}
    if labels := {name: kind for name, kind in labels.items() if not pa.types.is_null(kind)}:
        types["labels"] = pa.struct(list(labels.items()))
    return pa.schema([(name, types[name]) for name in rows[0] if name in types])


def _row(spectrum: Spectrum, labels: Collection[str], with_truth: bool) -> dict[str, Any]:
    if (spectrum.truth is not None) != with_truth:
        raise ValueError(
            f"all spectra of a file must have a truth, or none, found {spectrum!r} "
            f"{'without' if with_truth else 'with'} one: write them to two files"
        )
    row: dict[str, Any] = {
        "object_id": spectrum.object_id,
        "survey": spectrum.survey,
        "medium": spectrum.medium,
        "frame": spectrum.frame,
        "flux_unit": spectrum.flux_unit,
        "flux": spectrum.flux,
        "wavelength": spectrum.wavelength,
        "ivar": spectrum.ivar,
        "mask": spectrum.mask,
        "labels": {name: value for name, value in spectrum.labels.items() if name in labels},
    }
    return row | ({"truth": spectrum.truth} if with_truth else {})


__all__ = ["check_ending", "write_spectra"]
