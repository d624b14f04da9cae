"""Rows of a `SpectrumIndex`: of spectra, of arrays, of the Parquet files that `spectok embed` writes."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from ..data.readers import read_spectra
from ..models.spectrum import MEDIA, Spectrum
from ..models.wavelength import to_medium

EMBEDDED = ".manifest.json"  # of a folder that `spectok embed` wrote
HEAVY = ("embedding", "vector", "tokens", "token_wavelength", "flux", "wavelength")
OWN = ("id", "embedding", "vector")  # columns that are no metadata
FORMAT = "spectok_hf.index/1"
ABOUT, ARRAYS, ROWS = "index.json", "metric.safetensors", "data/train-00000-of-00001.parquet"
BLOCK = 1 << 16  # rows of one matrix product
MOST_PAIRS = 1 << 24  # of queries and rows that are in memory at a time, some 0.5 GB


class TokenRow(NamedTuple):
    """Tokens of a row: shape (valid patches, channels), and their wavelength in Å, shape (valid patches,)."""

    values: np.ndarray
    wavelength: np.ndarray


def as_list(spectra: Any) -> list[Spectrum]:
    """A list of spectra.

    Args:
        spectra: A spectrum, a list of such, or what `read_spectra` takes.
    """
    if isinstance(spectra, Spectrum):
        return [spectra]
    if isinstance(spectra, Sequence) and spectra and all(isinstance(one, Spectrum) for one in spectra):
        return list(spectra)
    return list(read_spectra(spectra, progress=False))


def names_of(spectra: Sequence[Spectrum], ids: Sequence[str] | None) -> list[str]:
    """The ids of spectra.

    Args:
        spectra: The spectra.
        ids: Their ids; None = their object_id.

    Raises:
        ValueError: If ids are too few, repeat, or are missing.
    """
    names = [one.object_id for one in spectra] if ids is None else list(ids)
    if len(names) != len(spectra):
        raise ValueError(f"{len(spectra)} spectra need as many ids, found {len(names)}")
    return check_ids(names)


def check_ids(ids: Sequence[Any]) -> list[str]:
    """Ids as text; says so where one is missing, or occurs twice.

    Args:
        ids: The ids: text, bytes or numbers; None, NaN and what pandas has for them are missing.

    Raises:
        ValueError: If so.
    """
    names = [one.decode() if isinstance(one, bytes) else str(one) for one in ids]
    missing = sum(_is_missing(one) for one in ids)
    if missing:
        raise ValueError(f"each spectrum needs an id, found {missing} of {len(names)} without: pass ids=[...]")
    repeated = [f"{name} ({count} times)" for name, count in Counter(names).most_common(3) if count > 1]
    if repeated:
        raise ValueError(
            f"ids must be unique, found {', '.join(repeated)}: pass ids=[...], such as the object with the night"
        )
    return names


def _is_missing(one: Any) -> bool:
    if one is None or (isinstance(one, float | np.floating) and np.isnan(one)):
        return True
    return type(one).__name__ in ("NAType", "NaTType") or (isinstance(one, str | bytes) and not one)


def facts(spectra: Sequence[Spectrum]) -> dict[str, list[Any]]:
    """What spectra say of themselves: survey, medium and frame, and a column per label that is a number, or text, in
    all that have it.

    Args:
        spectra: The spectra.
    """
    columns: dict[str, list[Any]] = {
        "object_id": [one.object_id for one in spectra],
        "survey": [one.survey for one in spectra],
        "medium": [one.medium for one in spectra],
        "frame": [one.frame for one in spectra],
    }
    names = dict.fromkeys(name for one in spectra for name in one.labels)
    for name in names:
        values = [one.labels.get(name) for one in spectra]
        known = [value for value in values if value is not None]
        if name in columns or name in HEAVY or name == "id" or not known:
            continue
        if all(isinstance(value, int | np.integer) and abs(int(value)) < 2**63 for value in known):
            columns[name] = [
                None if value is None else int(value) for value in values
            ]  # an id, as a float, is another
        elif all(isinstance(value, int | float | np.number) for value in known):
            columns[name] = [None if value is None else float(value) for value in values]
        elif all(isinstance(value, str) for value in known):
            columns[name] = values
    return columns


def drawn(wavelength: Any, flux: Any, medium: str | None, wanted: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Wavelength and flux of a spectrum as pictures of an index have them.

    Args:
        wavelength: Wavelength in Å, shape (L,).
        flux: Shape (L,), NaN = bad.
        medium: Of the wavelengths; None = not known, as in an index that was made before it was kept.
        wanted: That of the picture; None = wavelengths stay as they are.
    """
    axis = np.asarray(wavelength, dtype=np.float64)
    known = medium in MEDIA and wanted is not None
    return to_medium(axis, str(medium), str(wanted)) if known else axis, np.asarray(flux, dtype=np.float64)


def card(count: int, checkpoint: str | None, metric: str) -> str:
    """The README of an index.

    Args:
        count: How many spectra it holds.
        checkpoint: Of its encoder.
        metric: The name of its metric.
    """
    return (
        "---\ntags:\n- astronomy\n- spectroscopy\n---\n\n"
        f"# Index of {count:,} spectra\n\n"
        f"Made by {checkpoint}, metric `{metric}`. Load it with\n"
        "`spectok_hf.analysis.search.SpectrumIndex.load(...)`; the rows are a Parquet file of their own.\n"
    )


def finite(embeddings: Any) -> np.ndarray:
    """Embeddings as an array, float32, shape (n, d).

    Args:
        embeddings: Shape (n, d).

    Raises:
        ValueError: If the shape is another, or a number is not finite.
    """
    values = np.asarray(embeddings, dtype=np.float32)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"embeddings must be of shape (n, d), found shape {values.shape}: pass what encode returned")
    wrong = np.flatnonzero(~np.isfinite(values).all(1))
    if len(wrong):
        raise ValueError(
            f"embeddings must be finite numbers, found others in {len(wrong)} of {len(values)} rows, first in row "
            f"{wrong[0]}: leave out spectra without one"
        )
    return values


def read_embedded(source: Path) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Columns of the rows with an embedding, and which encoder made them.

    Args:
        source: A file, or a folder of files, of `spectok embed`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it holds no embeddings.
    """
    files = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        raise FileNotFoundError(f"no Parquet file at {source}: write them with `spectok embed`")
    rows = read_parquet(files)
    if "embedding" not in rows.column_names:
        raise ValueError(f"{source} has no column embedding, found {', '.join(rows.column_names)}")
    kept = [place for place, one in enumerate(rows["embedding"]) if one is not None]
    if not kept:
        raise ValueError(f"{source} has no row with an embedding")
    rows = rows.select(kept).with_format("numpy")
    names = [name for name in rows.column_names if name not in ("reason", "num_patches", "valid_patches")]
    columns = {name: list(rows[name]) for name in names}
    columns["embedding"] = list(finite(columns["embedding"]))
    manifest = (source if source.is_dir() else source.parent) / EMBEDDED
    said = json.loads(manifest.read_text()).get("options", {}) if manifest.is_file() else {}
    return columns, {"checkpoint": said.get("model"), "fingerprint": said.get("weights_sha256")}


def read_parquet(files: Sequence[Path]) -> Dataset:
    """The rows of Parquet files.

    Args:
        files: The files.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    return Dataset(pa.concat_tables([pq.read_table(file) for file in files]))


def check_place(folder: Path, *, overwrite: bool) -> None:
    """Say so where an index cannot be written.

    Args:
        folder: Where it shall be.
        overwrite: Whether to replace an index that is there.

    Raises:
        ValueError: If something else is there, or an index and not `overwrite`.
    """
    if folder.exists() and not (overwrite and (folder / ABOUT).is_file()):
        raise ValueError(f"{folder} is there already: pass another folder, or overwrite=True where it is an index")


def read_index(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], Dataset]:
    """What the folder of an index holds: what `index.json` says, the arrays of the metric, and the rows.

    Args:
        folder: The folder.

    Raises:
        ValueError: If it has another format, or is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / ABOUT} is damaged ({error}): copy the index again") from error
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / ABOUT} is none of an index that this version reads ({FORMAT})")
    try:
        arrays, rows = load_file(folder / ARRAYS), read_parquet([folder / ROWS])
    except (OSError, ValueError, SafetensorError) as error:  # those of Arrow are of the first two
        raise ValueError(f"the index {folder} is damaged ({error}): copy it again") from error
    lost = [name for name in ("metric", "backend", "rows") if name not in about]
    lost += [name for name in ("mean", "width", "projection") if name not in arrays]
    lost += [name for name in OWN if name not in rows.column_names]
    if lost:
        raise ValueError(f"the index {folder} is damaged, and lacks {', '.join(lost)}: copy it again")
    return about, arrays, rows


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Without the progress bars of datasets."""
    from datasets import disable_progress_bars, enable_progress_bars
    from datasets.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def token_rows(columns: Mapping[str, Sequence[Any]]) -> list[TokenRow]:
    """The tokens of each row.

    Args:
        columns: `tokens` and `token_wavelength`.
    """
    return [
        TokenRow(np.stack(list(values)), np.asarray(wavelength))
        for values, wavelength in zip(columns["tokens"], columns["token_wavelength"], strict=True)
    ]


def matrix(rows: Dataset, column: str) -> np.ndarray:
    """A column of vectors as an array, float32, shape (n, d).

    Args:
        rows: The rows.
        column: Its name.
    """
    return np.asarray(rows.select_columns([column]).with_format("numpy")[:][column], dtype=np.float32)


def exact_nearest(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of each query, nearest first, by matrix products of blocks of rows.

    Args:
        vectors: Shape (n, d).
        queries: Shape (q, d).
        k: How many; n where there are no more.

    Returns:
        Rows and Euclidean distances, shape (q, k).
    """
    k = min(k, len(vectors))
    share = max(MOST_PAIRS // (min(BLOCK, len(vectors)) + 4 * k), 1)
    parts = [
        _exact_nearest(vectors, queries[first : first + share], k) for first in range(0, max(len(queries), 1), share)
    ]
    found, distances = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return found, distances


def _exact_nearest(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    best = np.empty((len(queries), 0), dtype=np.int64)
    close = np.empty((len(queries), 0), dtype=np.float32)
    asked = np.asarray(queries, dtype=np.float32)
    for first in range(0, len(vectors), BLOCK):
        block = np.asarray(vectors[first : first + BLOCK], dtype=np.float32)
        squares = (block**2).sum(1) - 2 * asked @ block.T  # less the query's own, the same for all rows
        near = np.argpartition(squares, min(4 * k, len(block)) - 1, axis=1)[:, : 4 * k]  # those near a tie too
        close = np.concatenate([close, np.take_along_axis(squares, near, 1)], 1)
        best = np.concatenate([best, near + first], 1)
        kept = np.argpartition(close, min(4 * k, close.shape[1]) - 1, axis=1)[:, : 4 * k]
        close, best = np.take_along_axis(close, kept, 1), np.take_along_axis(best, kept, 1)
    found, distances = measured(vectors, queries, best)
    return found[:, :k], distances[:, :k]


def measured(vectors: np.ndarray, queries: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Found rows with their exact distances, nearest first, of equals the first row.

    Args:
        vectors: Shape (n, d).
        queries: Shape (q, d).
        found: Rows, shape (q, k).
    """
    found = np.sort(found, axis=1)
    difference = np.asarray(vectors[found], dtype=np.float64) - np.asarray(queries, dtype=np.float64)[:, None]
    distances = np.linalg.norm(difference, axis=2)
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)


def without(rows: np.ndarray, distances: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that were found for one of them, less itself.

    Args:
        rows: The rows that were found.
        distances: Of each.
        place: The row itself.
    """
    others = rows != place
    if others.all():  # copies of it stood before it
        others[-1] = False
    return rows[others], distances[others]


__all__ = [
    "ABOUT",
    "ARRAYS",
    "FORMAT",
    "HEAVY",
    "OWN",
    "ROWS",
    "TokenRow",
    "as_list",
    "card",
    "check_ids",
    "check_place",
    "drawn",
    "exact_nearest",
    "facts",
    "finite",
    "matrix",
    "measured",
    "names_of",
    "no_progress_bars",
    "read_embedded",
    "read_index",
    "read_parquet",
    "token_rows",
    "without",
]
