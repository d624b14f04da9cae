"""Rows of a `SpectrumIndex`: of spectra, of arrays, of the Parquet files that `spectok embed` writes."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset

from ..data.readers import read_spectra
from ..models.spectrum import Spectrum

EMBEDDED = ".manifest.json"  # of a folder that `spectok embed` wrote
HEAVY = ("embedding", "vector", "tokens", "token_wavelength", "flux", "wavelength")


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
    check_ids(names)
    return [str(name) for name in names]


def check_ids(ids: Sequence[Any]) -> None:
    """Say so where an id is missing, or occurs twice.

    Args:
        ids: The ids.

    Raises:
        ValueError: If so.
    """
    missing = sum(one is None or str(one) == "" for one in ids)
    if missing:
        raise ValueError(f"each spectrum needs an id, found {missing} of {len(ids)} without: pass ids=[...]")
    repeated = [f"{name} ({count} times)" for name, count in Counter(map(str, ids)).most_common(3) if count > 1]
    if repeated:
        raise ValueError(
            f"ids must be unique, found {', '.join(repeated)}: pass ids=[...], such as the object with the night"
        )


def facts(spectra: Sequence[Spectrum]) -> dict[str, list[Any]]:
    """What spectra say of themselves: a column per label that is a number, or text, in all that have it.

    Args:
        spectra: The spectra.
    """
    columns: dict[str, list[Any]] = {
        "object_id": [one.object_id for one in spectra],
        "survey": [one.survey for one in spectra],
    }
    names = dict.fromkeys(name for one in spectra for name in one.labels)
    for name in names:
        values = [one.labels.get(name) for one in spectra]
        known = [value for value in values if value is not None]
        if name in columns or name in HEAVY or name == "id" or not known:
            continue
        if all(isinstance(value, int | float | np.number) for value in known):
            columns[name] = [None if value is None else float(value) for value in values]
        elif all(isinstance(value, str) for value in known):
            columns[name] = values
    return columns


def finite(embeddings: Any) -> np.ndarray:
    """Embeddings as an array, float32, shape (n, d).

    Args:
        embeddings: Shape (n, d).

    Raises:
        ValueError: If the shape is another, or a number is not finite.
    """
    values = np.asarray(embeddings, dtype=np.float32)
    if values.ndim != 2 or not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"embeddings must be finite numbers of shape (n, d), found shape {values.shape}: leave out spectra "
            "without one"
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


__all__ = [
    "HEAVY",
    "TokenRow",
    "as_list",
    "check_ids",
    "facts",
    "finite",
    "matrix",
    "names_of",
    "read_embedded",
    "read_parquet",
    "token_rows",
]
