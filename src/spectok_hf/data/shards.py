"""Arrow shards: spectra on disk that training reads through a memory map, at the cost of a slice."""

import bisect
import functools
import itertools
import json
import math
import mmap
import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum, check_choice
from .whole_files import crc32_of, write_json, written_whole

FORMAT = "spectok_hf.shards/2"
MANIFEST = "manifest.json"
SPECTRA_PER_SHARD = 4096
BATCH = 64  # spectra per record batch, part of the format: spectrum i of a file is in its batch i // 64
# Opened at a time, in each process: a file counts against the limit of open ones, a batch takes some memory.
OPEN_SHARDS = 128
OPEN_BATCHES = 32
# Wavelengths are float64: as float32 they would be off by up to 1e-3 Å, and the shards no longer lossless.
PIXELS = {"flux": np.float32, "ivar": np.float32, "wavelength": np.float64, "mask": np.uint8, "truth": np.float32}
TEXTS = ("survey", "object_id", "medium", "frame", "flux_unit", "labels", "dropped")
JSON_TEXTS = ("labels", "dropped")
NUMBERS = (int, float, np.number, Decimal)
POSITION = ("ra", "dec")  # of the labels, as columns of numbers, so that millions of objects can be told apart
COLUMNS = ("survey", "object_id", *POSITION, "simulated")
ON_DAMAGE = ("raise", "skip")
ENTRY = {"name", "spectra", "pixels", "surveys", "bytes", "crc32"}  # what the manifest says of a file
REPAIR = (
    "delete the folder and write it again with write_shards (what spectok prepare wrote: run it again with --verify), "
    'or read the other shards with on_damage="skip"'
)


def write_shards(
    spectra: Iterable[Spectrum], folder: str | Path, *, spectra_per_shard: int = SPECTRA_PER_SHARD
) -> dict[str, Any]:
    """Write spectra as Arrow files (IPC, uncompressed) for `SpectrumShards`.

    A file takes its name, and the manifest is written, only when it is complete: what was interrupted is never read.
    `prepare_shards` does the same from files, in parallel, and goes on where it was interrupted.

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
    while file := write_shard(itertools.islice(spectra, spectra_per_shard), folder / f"shard-{len(files):05d}.arrow"):
        files.append(file)
    if not files:
        raise ValueError(f"write_shards needs at least one spectrum for {folder}, found none")
    manifest = {"format": FORMAT, **sum_files(files), "files": files}
    write_json(manifest, folder / MANIFEST)
    return manifest


def sum_files(files: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Spectra, pixels, and spectra per survey, of shards together.

    Args:
        files: What `write_shard` returned for each.
    """
    sums: dict[str, Any] = {"spectra": 0, "pixels": 0, "surveys": {}}
    for file in files:
        sums["spectra"] += file["spectra"]
        sums["pixels"] += file["pixels"]
        for name, count in file["surveys"].items():
            sums["surveys"][name] = sums["surveys"].get(name, 0) + count
    return sums


class SpectrumShards(Sequence):
    """The spectra of folders of shards, as a sequence: `shards[i]` is a `Spectrum`.

    Arrays are read-only slices of the memory map: copy one before changing it. Nothing is held per spectrum, so that
    millions of them cost no memory; files are opened when they are needed, anew in each process.

    Args:
        folder: A folder that `write_shards` or `prepare_shards` made, or several, one after another.
        verify: Read all files once and compare their checksums with the manifest's; else only their sizes are.
        on_damage: What to do about a damaged shard: "raise", or "skip" to leave it out with a warning that names it.

    Attributes:
        folders: The folders.
        manifest: What the manifests say together of the shards that are read: spectra, pixels, surveys, files.

    Raises:
        ValueError: If a folder has no manifest, or a file is absent, cut short or not one of its shards, or, with
            `verify`, damaged; with "skip" if no shard is left.
    """

    def __init__(
        self,
        folder: str | Path | Sequence[str | Path],
        *,
        verify: bool = False,
        on_damage: str = "raise",
    ):
        check_choice("on_damage", on_damage, ON_DAMAGE)
        self.folders = [Path(one) for one in ([folder] if isinstance(folder, (str, Path)) else folder)]
        if not self.folders:
            raise ValueError("SpectrumShards needs at least one folder, found none")
        files = [
            file | {"folder": number}
            for number, one in enumerate(self.folders)
            for file in _sound_files(one, verify, on_damage)
        ]
        if not files:
            raise ValueError(f"no shard of {', '.join(map(str, self.folders))} can be read: {REPAIR}")
        self.manifest: dict[str, Any] = {"format": FORMAT, **sum_files(files), "files": files}
        self._open()

    @classmethod
    def unchecked(cls, folder: str | Path) -> "SpectrumShards":
        """The shards of a folder without a look at any of them, for whoever has seen what `examine_shards` says.

        Args:
            folder: The folder.

        Raises:
            ValueError: If it has no manifest.
        """
        shards = cls.__new__(cls)
        manifest = _read_manifest(Path(folder))
        files = [file | {"folder": 0} for file in manifest["files"]]
        shards.__setstate__({"folders": [Path(folder)], "manifest": manifest | {"files": files}})
        return shards

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        index = operator.index(index)
        position = index + (len(self) if index < 0 else 0)
        if not 0 <= position < len(self):
            raise IndexError(f"spectrum {index} of {len(self)} in {self._name}")
        file = bisect.bisect_right(self._starts, position) - 1
        number, row = divmod(position - self._starts[file], BATCH)
        return self._batch(self._paths[file], number).spectrum(row)

    def __getstate__(self) -> dict[str, Any]:
        return {"folders": self.folders, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.manifest["surveys"].items())
        return f"SpectrumShards({self._name!r}: {len(self)} spectra, {counts})"

    @property
    def num_pixels(self) -> np.ndarray:
        """Pixels of each spectrum, shape (number of spectra,), int64; read from the files anew each time."""
        return self._gather(lambda batch: np.diff(_offsets(batch.column("flux"))), np.int64)

    @property
    def surveys(self) -> list[str | None]:
        """Survey of each spectrum, None where it has none."""
        codes, names = self.survey_codes
        return [names[code] for code in codes.tolist()]

    @property
    def survey_codes(self) -> tuple[np.ndarray, list[str | None]]:
        """Survey of each spectrum as a number, shape (number of spectra,), int32, and the names in order of number."""
        numbers: dict[str | None, int] = {}

        def encode(batch: Any) -> np.ndarray:
            encoded = batch.column("survey").dictionary_encode(null_encoding="encode")
            own = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
            return np.array(own, dtype=np.int32)[encoded.indices.to_numpy()]

        return self._gather(encode, np.int32), list(numbers)

    def column(self, name: str) -> np.ndarray:
        """One value per spectrum, shape (number of spectra,), without a look at the pixels.

        Args:
            name: "survey" or "object_id" (text, None where absent); "ra" or "dec" (degrees, float64, NaN where
                absent); "simulated" (bool: there is a truth).

        Raises:
            ValueError: If there is no such column.
        """
        check_choice("name", name, COLUMNS)
        if name == "survey":
            codes, names = self.survey_codes
            return np.array(names, dtype=object)[codes]
        dtype = {"object_id": object, "simulated": np.bool_}.get(name, np.float64)
        return self._gather(lambda batch: batch.column(name).to_numpy(zero_copy_only=False), dtype)

    def num_patches(self, processor: SpectrumProcessor) -> np.ndarray:
        """Patches of each spectrum, shape (number of spectra,): the lengths for `TokenBudgetBatchSampler`.

        Reads all wavelengths once (they say where the detectors have gaps), about 50 µs per spectrum.

        Args:
            processor: The processor of the model.
        """

        def count(batch: Any) -> list[int]:
            return [processor.count_patches(wavelength, medium=medium) for wavelength, medium in _axes(batch)]

        return self._gather(count, np.int64)

    @property
    def _name(self) -> str:
        return ", ".join(map(str, self.folders))

    def _open(self) -> None:
        self._paths = [self.folders[file["folder"]] / file["name"] for file in self.manifest["files"]]
        self._starts = np.cumsum([0, *(file["spectra"] for file in self.manifest["files"])]).tolist()
        self._reader = functools.lru_cache(OPEN_SHARDS)(_open_reader)
        self._batch = functools.lru_cache(OPEN_BATCHES)(functools.partial(_open_batch, self._reader))

    def _gather(self, values_of: Any, dtype: Any) -> np.ndarray:
        """What `values_of` says of each record batch, laid end to end; no batch stays open."""
        values = np.empty(len(self), dtype=dtype)
        for path, start, stop in zip(self._paths, self._starts, self._starts[1:], strict=False):
            reader = self._reader(path)
            for number, first in enumerate(range(start, stop, BATCH)):
                values[first : min(first + BATCH, stop)] = values_of(reader.get_batch(number))
        return values


class _Batch:
    """A record batch as numpy views; texts are decoded row by row, as shuffled training rarely asks for a second."""

    def __init__(self, batch: Any):
        self.offsets, self.truth_offsets = (_offsets(batch.column(name)).tolist() for name in ("flux", "truth"))
        self.pixels = {name: np.asarray(batch.column(name).values) for name in PIXELS}
        self.pixels["mask"] = self.pixels["mask"].view(bool)
        self.values = {name: batch.column(name) for name in (*TEXTS, "simulated")}

    def spectrum(self, row: int) -> Spectrum:
        pixels = slice(self.offsets[row], self.offsets[row + 1])
        fields: dict[str, Any] = {name: self.pixels[name][pixels] for name in ("flux", "wavelength", "ivar", "mask")}
        fields |= {name: values[row].as_py() for name, values in self.values.items()}
        fields |= {name: json.loads(fields[name]) for name in JSON_TEXTS}
        start, stop = self.truth_offsets[row : row + 2]
        truth = self.pixels["truth"][start:stop] if fields.pop("simulated") else None
        return Spectrum.unchecked(**fields, truth=truth)


# Reading ------------------------------------------------------------------------------------------


def examine_shards(folder: Path, *, verify: bool) -> Iterator[tuple[dict[str, Any], ValueError | None]]:
    """The files of a folder, as the manifest lists them, each with what is wrong with it; None = nothing.

    Args:
        folder: The folder.
        verify: Whether to compare checksums; else sizes are.

    Raises:
        ValueError: If the folder has no manifest.
    """
    for file in _read_manifest(folder)["files"]:
        try:
            _check_shard(folder / file["name"], file, verify)
        except ValueError as error:
            yield file, error
        else:
            yield file, None


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{folder} must be a folder of finished shards, found no {MANIFEST} in it: check the path, or, where "
            f"writing was interrupted, run spectok prepare again, or {REPAIR}"
        )
    try:
        manifest = json.loads(path.read_text())
        found = manifest["format"]
        if found == FORMAT and not all(file.keys() >= ENTRY for file in manifest["files"]):
            raise ValueError(f"every file must have {', '.join(sorted(ENTRY))}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} must be the manifest of write_shards, found something else: {REPAIR}") from error
    if found != FORMAT:
        raise ValueError(f"{path} must have the format {FORMAT}, found {found}: {REPAIR}")
    return manifest


def _sound_files(folder: Path, verify: bool, on_damage: str) -> list[dict[str, Any]]:
    """The files of a manifest that are as it says; of the others a warning, or an error."""
    sound: list[dict[str, Any]] = []
    damage: list[str] = []
    lost = 0
    for file, error in examine_shards(folder, verify=verify):
        if error is None:
            sound.append(file)
        elif on_damage == "raise":
            raise error
        else:
            damage.append(str(error).removesuffix(f": {REPAIR}"))
            lost += file["spectra"]
    if damage:
        kept = sum(file["spectra"] for file in sound)
        warnings.warn(
            f"{folder}: left out {len(damage)} of {len(damage) + len(sound)} shards, {lost} of {kept + lost} spectra: "
            f"{'; '.join(damage)}",
            stacklevel=4,
        )
    return sound


def _check_shard(path: Path, file: dict[str, Any], verify: bool) -> None:
    if not path.is_file():
        raise ValueError(f"{path.with_name(MANIFEST)} lists {path.name}, which is not there: {REPAIR}")
    reader = _open_reader(path)
    if reader.schema != _schema():
        raise ValueError(f"{path} must have the columns {', '.join(_schema().names)} of write_shards: {REPAIR}")
    count = reader.num_record_batches
    try:
        found = (count - 1) * BATCH + reader.get_batch(count - 1).num_rows if count else 0
    except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
        raise ValueError(f"{path} must be a complete Arrow file, found: {error}. It is damaged: {REPAIR}") from error
    if found != file["spectra"] or count != math.ceil(found / BATCH):
        raise ValueError(f"{path} must hold {file['spectra']} spectra (by its manifest), found {found}: {REPAIR}")
    if (size := path.stat().st_size) != file["bytes"]:
        raise ValueError(f"{path} must have {file['bytes']} bytes, found {size}. It is damaged: {REPAIR}")
    if verify and crc32_of(path) != file["crc32"]:
        raise ValueError(f"{path} must have the checksum of its manifest, and has not. It is damaged: {REPAIR}")


def _open_reader(path: Path) -> Any:
    import pyarrow as pa

    try:
        with path.open("rb") as file:
            # Not pa.memory_map: it asks the kernel for a whole batch, 20 MB, each time one spectrum of it is read,
            # which takes 40 times as long as opening the batch does.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(content)))
    except (OSError, ValueError) as error:  # pyarrow's own are ValueErrors
        raise ValueError(f"{path} must be a complete Arrow file, found: {error}. It is damaged: {REPAIR}") from error


def _open_batch(reader: Any, path: Path, number: int) -> _Batch:
    return _Batch(reader(path).get_batch(number))


def _axes(batch: Any) -> Iterator[tuple[np.ndarray, str]]:
    """Wavelength and medium of each spectrum."""
    column = batch.column("wavelength")
    offsets, values = _offsets(column).tolist(), np.asarray(column.values)
    for row, medium in enumerate(batch.column("medium").to_pylist()):
        yield values[offsets[row] : offsets[row + 1]], medium


def _offsets(column: Any) -> np.ndarray:
    return np.asarray(column.offsets)


# Writing ------------------------------------------------------------------------------------------


@functools.cache
def _schema() -> Any:
    import pyarrow as pa

    fields = [pa.field(name, pa.list_(pa.from_numpy_dtype(dtype))) for name, dtype in PIXELS.items()]
    fields += [pa.field(name, pa.string()) for name in TEXTS]
    fields += [pa.field(name, pa.float64()) for name in POSITION]
    return pa.schema([*fields, pa.field("simulated", pa.bool_())])


def write_shard(spectra: Iterator[Spectrum], path: Path) -> dict[str, Any] | None:
    """Write one shard, which takes its name when it is complete; a batch of spectra at a time is in memory.

    Args:
        spectra: Its spectra.
        path: The file.

    Returns:
        The entry of the manifest: name, spectra, pixels, surveys, bytes, crc32. None where there was no spectrum: then
        no file is written.
    """
    import pyarrow as pa

    batch = list(itertools.islice(spectra, BATCH))
    if not batch:
        return None
    count = pixels = 0
    surveys: Counter[str] = Counter()
    with written_whole(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, _schema()) as writer:
            while batch:
                writer.write_batch(_record_batch(batch))
                count, pixels = count + len(batch), pixels + sum(map(len, batch))
                surveys.update(spectrum.survey or "unnamed" for spectrum in batch)
                batch = list(itertools.islice(spectra, BATCH))
        size, checksum = temporary.stat().st_size, crc32_of(temporary)
    counts = {"spectra": count, "pixels": pixels, "surveys": dict(surveys)}
    return {"name": path.name, **counts, "bytes": size, "crc32": checksum}


def check_writable(spectrum: Spectrum) -> None:
    """Refuse a spectrum that a shard cannot hold.

    Args:
        spectrum: The spectrum.

    Raises:
        ValueError: If a label is neither number nor text, or its arrays no longer fit each other.
    """
    _check_columns(spectrum)
    for name in TEXTS:
        (_text(spectrum, name) or "").encode()  # not every text: the name of a file may be none in UTF-8


def _record_batch(spectra: list[Spectrum]) -> Any:
    import pyarrow as pa

    for spectrum in spectra:
        _check_columns(spectrum)
    columns = [_pixel_column([getattr(s, name) for s in spectra], dtype) for name, dtype in PIXELS.items()]
    columns += [pa.array([_text(s, name) for s in spectra], pa.string()) for name in TEXTS]
    columns += [pa.array([_degrees(s, name) for s in spectra], pa.float64()) for name in POSITION]
    columns += [pa.array([s.truth is not None for s in spectra], pa.bool_())]
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


def _degrees(spectrum: Spectrum, name: str) -> float:
    value = spectrum.labels.get(name)
    try:
        return float(value) if isinstance(value, NUMBERS) and math.isfinite(value) else math.nan
    except (OverflowError, ValueError):  # 10**400; a signalling NaN
        return math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


__all__ = [
    "MANIFEST",
    "SpectrumShards",
    "check_writable",
    "examine_shards",
    "sum_files",
    "write_shard",
    "write_shards",
]
