"""Arrow shards: spectra on disk that training reads through a memory map, at the cost of a slice."""

import bisect
import itertools
import json
import operator
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum

FORMAT = "spectok_hf.shards/1"
MANIFEST = "manifest.json"
SPECTRA_PER_SHARD = 4096
BATCH = 64  # spectra per record batch: what the writer holds in memory, and what a reader opens at a time
# Wavelengths are float64: as float32 they would be off by up to 1e-3 Å, and the shards no longer lossless.
PIXELS = {"flux": np.float32, "ivar": np.float32, "wavelength": np.float64, "mask": np.uint8, "truth": np.float32}
TEXTS = ("survey", "object_id", "medium", "frame", "flux_unit", "labels", "dropped")
JSON_TEXTS = ("labels", "dropped")
REPAIR = "delete the folder and write it again with write_shards"


def write_shards(
    spectra: Iterable[Spectrum], folder: str | Path, *, spectra_per_shard: int = SPECTRA_PER_SHARD
) -> dict[str, Any]:
    """Write spectra as Arrow files (IPC, uncompressed) for `SpectrumShards`.

    A file takes its name, and the manifest is written, only when it is complete: what was interrupted is never read.

    Args:
        spectra: The spectra, in the order in which they are stored; they are taken one after another.
        folder: Where to write; made where it is absent.
        spectra_per_shard: Spectra per file.

    Returns:
        The manifest: format, files with their spectra and pixels, sums of both, and spectra per survey.

    Raises:
        ValueError: If the folder holds shards already, there is no spectrum, or a label cannot be written as JSON.
    """
    folder = Path(folder)
    if spectra_per_shard < 1:
        raise ValueError(f"spectra_per_shard must be at least 1, found {spectra_per_shard}")
    if found := sorted([*folder.glob("*.arrow"), *folder.glob(MANIFEST)]):
        raise ValueError(f"{folder} must hold no shards yet, found {found[0].name}: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    spectra = iter(spectra)
    files: list[dict[str, Any]] = []
    surveys: dict[str, int] = {}
    while first := list(itertools.islice(spectra, 1)):
        shard = itertools.chain(first, itertools.islice(spectra, spectra_per_shard - 1))
        files.append(_write_shard(shard, folder / f"shard-{len(files):05d}.arrow", surveys))
    if not files:
        raise ValueError(f"write_shards needs at least one spectrum for {folder}, found none")
    manifest = {
        "format": FORMAT,
        "spectra": sum(file["spectra"] for file in files),
        "pixels": sum(file["pixels"] for file in files),
        "surveys": surveys,
        "files": files,
    }
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1))
    temporary.replace(folder / MANIFEST)
    return manifest


class SpectrumShards(Sequence):
    """The spectra of a folder that `write_shards` made, as a sequence: `shards[i]` is a `Spectrum`.

    Arrays are read-only slices of the memory map: copy one before changing it. Loader workers open the files anew.

    Args:
        folder: The folder.
        verify: Read all files once and compare their checksums with the manifest's; else only their sizes are.

    Attributes:
        num_pixels: Pixels of each spectrum, shape (number of spectra,).
        surveys: Survey of each spectrum, None where it has none.

    Raises:
        ValueError: If the folder has no manifest, or a file is absent, cut short or not one of its shards, or, with
            `verify`, damaged.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False):
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        self._open(verify)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        index = operator.index(index)
        position = index + (len(self) if index < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(f"spectrum {index} of {len(self)} in {self.folder}")
        batch = bisect.bisect_right(self._starts, position) - 1
        return self._batches[batch].spectrum(position - self._starts[batch])

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.manifest["surveys"].items())
        return f"SpectrumShards({str(self.folder)!r}: {len(self)} spectra, {counts})"

    @property
    def num_pixels(self) -> np.ndarray:
        """Pixels of each spectrum, shape (number of spectra,)."""
        return np.concatenate([np.diff(batch.offsets) for batch in self._batches])

    @property
    def surveys(self) -> list[str | None]:
        """Survey of each spectrum, None where it has none."""
        return [survey for batch in self._batches for survey in batch.column("survey").to_pylist()]

    def num_patches(self, processor: SpectrumProcessor) -> np.ndarray:
        """Patches of each spectrum, shape (number of spectra,): the lengths for `TokenBudgetBatchSampler`.

        Reads all wavelengths once (they say where the detectors have gaps), about 50 µs per spectrum.

        Args:
            processor: The processor of the model.
        """
        return np.array(
            [
                processor.count_patches(wavelength, medium=medium)
                for batch in self._batches
                for wavelength, medium in batch.axes()
            ]
        )

    def _open(self, verify: bool = False) -> None:
        self._batches = [batch for file in self.manifest["files"] for batch in _open_shard(self.folder, file, verify)]
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)]).tolist()


class _Batch:
    """A record batch as numpy views, made when they are first asked for."""

    def __init__(self, batch: Any, path: Path):
        self.batch, self.path = batch, path
        self.offsets = _offsets(batch.column("flux"))
        self._views: dict[str, Any] | None = None

    def __len__(self) -> int:
        return self.batch.num_rows

    def column(self, name: str) -> Any:
        return self.batch.column(name)

    def axes(self) -> Iterator[tuple[np.ndarray, str]]:
        """Wavelength and medium of each spectrum."""
        views = self._open()
        for row, medium in enumerate(views["medium"]):
            yield views["wavelength"][self.offsets[row] : self.offsets[row + 1]], medium

    def spectrum(self, row: int) -> Spectrum:
        views = self._open()
        pixels = slice(self.offsets[row], self.offsets[row + 1])
        fields = {name: views[name][pixels] for name in ("flux", "wavelength", "ivar", "mask")}
        fields |= {name: views[name][row] for name in TEXTS}
        fields |= {name: json.loads(fields[name]) for name in JSON_TEXTS}
        start, stop = views["truth_offsets"][row : row + 2]
        return Spectrum.unchecked(**fields, truth=views["truth"][start:stop] if views["has_truth"][row] else None)

    def _open(self) -> dict[str, Any]:
        if self._views is None:
            self._views = {name: np.asarray(self.column(name).values) for name in PIXELS}
            self._views["mask"] = self._views["mask"].view(bool)
            self._views |= {name: self.column(name).to_pylist() for name in TEXTS}
            self._views["truth_offsets"] = _offsets(self.column("truth"))
            self._views["has_truth"] = self.column("truth").is_valid().to_pylist()
        return self._views


def _offsets(column: Any) -> list[int]:
    return column.offsets.to_pylist()


# Reading ------------------------------------------------------------------------------------------


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} must be a folder of finished shards, found no {MANIFEST} in it: check the path, or, where "
            f"writing was interrupted, {REPAIR}"
        )
    try:
        manifest = json.loads(path.read_text())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be the manifest of write_shards, found something else: {REPAIR}") from error
    if found != FORMAT:
        raise ValueError(f"{path} must have the format {FORMAT}, found {found}: {REPAIR}")
    return manifest


def _open_shard(folder: Path, file: dict[str, Any], verify: bool) -> list[_Batch]:
    import pyarrow as pa

    path = folder / file["name"]
    if not path.is_file():
        raise ValueError(f"{folder / MANIFEST} lists {path.name}, which is not there: {REPAIR}")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} must be a complete Arrow file, found: {error}. It is damaged: {REPAIR}") from error
    if reader.schema != _schema():
        raise ValueError(f"{path} must have the columns {', '.join(_schema().names)} of write_shards: {REPAIR}")
    found = sum(batch.num_rows for batch in batches)
    if found != file["spectra"]:
        raise ValueError(f"{path} must hold {file['spectra']} spectra (by its manifest), found {found}: {REPAIR}")
    if (size := path.stat().st_size) != file["bytes"]:
        raise ValueError(f"{path} must have {file['bytes']} bytes, found {size}. It is damaged: {REPAIR}")
    if verify and _crc32(path) != file["crc32"]:
        raise ValueError(f"{path} must have the checksum of its manifest, and has not. It is damaged: {REPAIR}")
    return [_Batch(batch, path) for batch in batches]


# Writing ------------------------------------------------------------------------------------------


def _schema() -> Any:
    import pyarrow as pa

    fields = [pa.field(name, pa.list_(pa.from_numpy_dtype(dtype))) for name, dtype in PIXELS.items()]
    return pa.schema([*fields, *(pa.field(name, pa.string()) for name in TEXTS)])


def _write_shard(spectra: Iterator[Spectrum], path: Path, surveys: dict[str, int]) -> dict[str, Any]:
    import pyarrow as pa

    count = pixels = 0
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, _schema()) as writer:
            while batch := list(itertools.islice(spectra, BATCH)):
                writer.write_batch(_record_batch(batch))
                count, pixels = count + len(batch), pixels + sum(map(len, batch))
                for spectrum in batch:
                    name = spectrum.survey or "unnamed"
                    surveys[name] = surveys.get(name, 0) + 1
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return {"name": path.name, "spectra": count, "pixels": pixels, "bytes": path.stat().st_size, "crc32": _crc32(path)}


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _record_batch(spectra: list[Spectrum]) -> Any:
    import pyarrow as pa

    for spectrum in spectra:
        _check_columns(spectrum)
    columns = [_pixel_column([getattr(s, name) for s in spectra], dtype) for name, dtype in PIXELS.items()]
    columns += [pa.array([_text(s, name) for s in spectra], pa.string()) for name in TEXTS]
    return pa.record_batch(columns, schema=_schema())


def _check_columns(spectrum: Spectrum) -> None:
    """Refuse arrays that were changed after the spectrum was made, and no longer fit each other."""
    lengths = {name: len(values) for name in PIXELS if (values := getattr(spectrum, name)) is not None}
    if len(set(lengths.values())) > 1 or spectrum.mask.dtype != bool:
        raise ValueError(
            f"the arrays of spectrum {spectrum.object_id} must have one length, and mask be bool, found {lengths} and "
            f"mask of {spectrum.mask.dtype}: make a new Spectrum instead of changing its arrays"
        )


def _pixel_column(rows: list[np.ndarray | None], dtype: Any) -> Any:
    import pyarrow as pa

    lengths = [0 if row is None else len(row) for row in rows]
    values = np.concatenate([np.asarray(row, dtype=dtype) for row in rows if row is not None] or [np.empty(0, dtype)])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    absent = pa.array([row is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=absent)


def _text(spectrum: Spectrum, name: str) -> str | None:
    value = getattr(spectrum, name)
    if name not in JSON_TEXTS:
        return value
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} of {spectrum!r} must be plain numbers and text, found {value}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


__all__ = ["SpectrumShards", "write_shards"]
