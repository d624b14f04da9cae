"""What visitors of a Space upload: held to limits before it is read, as files may be made to become anything."""

import logging
import re
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from ..data.formats.files import compression_of
from ..data.readers import READ_IT_YOURSELF, read_spectra
from ..data.tables import PARQUET_SUFFIXES, is_table_file, open_parquet
from ..models.handler import check_claims
from ..models.spectrum import Spectrum

logger = logging.getLogger(__name__)

MAX_MEGABYTES = 64  # of all files of an upload, decompressed: a DESI coadd of 500 targets has about 50
MAX_PIXELS = 50_000  # of a spectrum; attention costs the square of it
MAX_SPECTRA = 500  # of an upload
TABLE_ADVICE = "A CSV file with the columns wavelength (Å), flux and ivar or error, a pixel per row, is always read."


def read_upload(paths: Sequence[str | Path]) -> tuple[list[Spectrum], list[str]]:
    """The spectra of an upload, and what there is to say of them.

    Args:
        paths: Files; those of a star of GALAH belong together.

    Returns:
        The spectra, at most `MAX_SPECTRA` and none of more than `MAX_PIXELS` pixels; warnings, and what was left out.

    Raises:
        ValueError: If a file cannot be read or is too large; the message tells nothing of the server's folders.
    """
    names = [Path(path).name for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"the files of an upload must have different names, found {', '.join(names)}")
    _check_size(paths)
    # Side by side, as a reader looks for the other files of a star next to the first.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        copies = [shutil.copy(path, Path(folder) / name) for path, name in zip(paths, names, strict=True)]
        spectra = _read(copies, names)
    notes = [_without_folders(str(warning.message)) for warning in caught]
    return _limit(spectra, list(dict.fromkeys(notes)))


def _read(copies: Sequence[str | Path], names: Sequence[str]) -> list[Spectrum]:
    try:
        for path in map(Path, copies):
            _check_headers(path)
        return read_spectra(copies, progress=False)
    except (ValueError, OSError, ImportError) as error:
        message = _without_folders(str(error)).replace(READ_IT_YOURSELF, "").rstrip(". ;:")
        raise ValueError(f"{message}. {TABLE_ADVICE}") from error
    except Exception as error:  # a file may break a reader of astropy or specutils in ways of its own
        logger.exception("reading an upload failed")
        raise ValueError(
            f"{', '.join(names)} must be a spectrum, found what made the reader fail with {type(error).__name__}: "
            f"{_without_folders(str(error))}. {TABLE_ADVICE}"
        ) from error


def _check_headers(path: Path) -> None:
    """astropy may not return from a FITS file whose headers were made for that."""
    if is_table_file(path):
        return
    with compression_of(path).open(path, "rb") as file:
        content = file.read()
    if not content.startswith(b"SIMPLE"):
        raise ValueError(
            f"{path.name} is not a FITS file: expected it to start with SIMPLE, unpacked where it is compressed, "
            f"found {content[:16]!r}"
        )
    try:
        check_claims(content)
    except ValueError as error:
        raise ValueError(f"{path.name} is not what its headers claim, or damaged: {error}") from error


def _check_size(paths: Sequence[str | Path]) -> None:
    limit = MAX_MEGABYTES * 1_000_000
    total = 0
    for path in map(Path, paths):
        total += max(_decompressed_size(path, limit), _table_size(path, limit))
        if total > limit:
            raise ValueError(
                f"the files of an upload must have at most {MAX_MEGABYTES} MB, decompressed, found more at "
                f"{path.name}: pass fewer spectra, or read them on your own computer"
            )


def _decompressed_size(path: Path, limit: int) -> int:
    """Bytes of a file, decompressed; counted to just beyond the limit and no further."""
    size = 0
    try:
        with compression_of(path).open(path, "rb") as file:
            while size <= limit and (chunk := file.read(1 << 20)):
                size += len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} cannot be decompressed ({error}): upload it again") from error
    return size


def _table_size(path: Path, limit: int) -> int:
    """Bytes that a Parquet file becomes, 0 of others: a hundred million equal values take a few kilobytes of it."""
    if not path.name.lower().endswith(PARQUET_SUFFIXES):
        return 0
    try:
        with open_parquet(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            widths = [max(column.length or 0, 8) for column in map(file.schema.column, range(len(file.schema)))]
            chunks = [(width, group.column(place)) for group in groups for place, width in enumerate(widths)]
            size = sum(max(width * chunk.num_values, chunk.total_uncompressed_size) for width, chunk in chunks)
            texts = {chunk.path_in_schema for _, chunk in chunks if chunk.physical_type == "BYTE_ARRAY"}
    except (ValueError, OSError, ImportError):  # which is said where it is read
        return 0
    return size + sum(_text_size(path, name) for name in texts if size <= limit)


def _text_size(path: Path, name: str) -> int:
    """As much as the texts of a column may become, which repeats the longest one; they are read once each."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total = 0
    try:
        for part in pq.ParquetFile(path, read_dictionary=[name]).read([name]).column(0).chunks:
            while not pa.types.is_dictionary(part.type):  # one within lists or fields
                part = part.field(0) if pa.types.is_struct(part.type) else part.flatten()
            total += len(part) * (pc.max(pc.binary_length(part.dictionary)).as_py() or 0)
    except (AttributeError, pa.ArrowException) as error:
        raise ValueError(f"the texts {name} of {path.name} cannot be read: leave that column out") from error
    return total


def _limit(spectra: list[Spectrum], notes: list[str]) -> tuple[list[Spectrum], list[str]]:
    if not spectra:
        said = "".join(f" ({note})" for note in notes)
        raise ValueError(f"an upload must hold a spectrum, found none{said}. {TABLE_ADVICE}")
    kept = [spectrum for spectrum in spectra if len(spectrum) <= MAX_PIXELS]
    if not kept:
        raise ValueError(
            f"an upload must hold a spectrum of at most {MAX_PIXELS} pixels, found {len(spectra)} spectra, the "
            f"longest of {max(map(len, spectra))} pixels: cut it, or bin it with its errors"
        )
    if len(kept) < len(spectra):
        notes = [*notes, f"{len(spectra) - len(kept)} spectra of more than {MAX_PIXELS} pixels were left out"]
    if len(kept) > MAX_SPECTRA:
        notes = [*notes, f"the first {MAX_SPECTRA} of {len(kept)} spectra can be chosen"]
    return kept[:MAX_SPECTRA], notes


def _without_folders(text: str) -> str:
    """A message with files by their names alone; units such as erg/s/cm2 stay."""
    text = re.sub(r" \(looked in [^)]*\)", "", text)
    return re.sub(r"(?<![\w./])/(?:[^/\s'\"]+/)+", "", text)


__all__ = ["MAX_MEGABYTES", "MAX_PIXELS", "MAX_SPECTRA", "read_upload"]
