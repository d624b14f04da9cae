"""`embed_spectra`: millions of spectra as Parquet files of embeddings, over processes and devices."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .data.collators import TOKEN_BUDGET, DataCollatorForPackedSpectra, TokenBudgetBatchSampler
from .data.parts import ON_ERROR, Entry, Part, plan_parts, raise_failure
from .data.prepare import VALIDITY, part_bar, reason_against
from .data.resumable import (
    WORKER_KILLED,
    Losses,
    Outcome,
    PartFolder,
    make_plan,
    no_spectrum_left,
    sum_records,
    watch_parent,
)
from .data.shards import SPECTRA_PER_SHARD
from .data.whole_files import crc32_of, written_whole
from .models.processing_spectok import SpectrumProcessor
from .models.spectrum import Spectrum, check_choice

FORMAT = "spectok_hf.embeddings/1"
MANIFEST = ".manifest.json"  # hidden, as what reads the folder would take it for data
OUTPUT = re.compile(r"part-\d{6,}\.parquet")
WINDOW = 256  # spectra that are read, sorted by length, encoded, and written as a row group
PATIENCE = timedelta(days=30)
# Of a configuration, what says how a model was saved or is run, and not what it computes.
NOISE = {"transformers_version", "auto_map", "architectures", "dtype", "torch_dtype"}
NOISE |= {"training_domain", "return_dict", "output_attentions", "output_hidden_states"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def embed_spectra(
    sources: Iterable[str | Path] | str | Path,
    checkpoint: str | Path | tuple[Any, SpectrumProcessor],
    folder: str | Path,
    *,
    tokens: bool = False,
    survey: str | None = None,
    generation: str | None = None,
    spectra_per_part: int = SPECTRA_PER_SHARD,
    token_budget: int = TOKEN_BUDGET,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    on_error: str = "skip",
    overwrite: bool = False,
    verify: bool = False,
    progress: bool = False,
) -> Outcome:
    """Write one embedding per spectrum of any sources as Parquet files, in the order of the sources.

    Sources are cut into parts, which are dealt to the processes of `accelerate launch` or `torchrun`; each part
    becomes a file, which appears whole. The same call goes on where a killed one stopped, and the folder ends byte for
    byte as it would have without the kill (on the same kind of device: batches depend on the part alone). A few
    hundred spectra are in memory at a time.

    | column | what |
    |---|---|
    | source, row | where the spectrum stands; rows of the files are in the order of the sources |
    | survey, object_id | what the spectrum says, null where it says nothing |
    | embedding | `pooler_output`, hidden_size numbers, float32; null where there is none |
    | tokens, token_wavelength | with `tokens`: of the valid patches, latent_size numbers each, float32; Å |
    | num_patches, valid_patches, good_share | patches, valid ones, share of good pixels |
    | snr | median of flux / error over good pixels |
    | scale | what the flux was divided by |
    | wavelength_min, wavelength_max | first and last pixel, Å, as the spectrum has them |
    | reason | why there is no embedding; else null |

    Args:
        sources: What `plan_parts` takes: files, folders, patterns, folders of shards, simulations.
        checkpoint: A folder, ORG/NAME or ORG/NAME@REVISION on the Hub, the name of one that comes with the package
            ("spectok-tiny"); or a model and its processor. Heads are not used. A model is moved to the device, and
            made float32.
        folder: Where to write; made where it is absent.
        tokens: Whether to write tokens too.
        survey: Survey of rows of tables that do not say theirs.
        generation: Generation of Multimodal Universe Parquet files that do not show theirs, "preview" or "hats".
        spectra_per_part: Most rows, or files, of a part; files are 256, or 64 MiB, at most.
        token_budget: Most patches of a batch; a spectrum with more is a batch of its own.
        num_workers: Processes that read and patch spectra, beside each one that encodes; 0 = none.
        device: Where to encode; None = what accelerate chooses.
        dtype: "float32", or "bfloat16" or "float16" to compute in mixed precision; embeddings are float32.
        on_error: What to do about an entry that cannot be read, or a damaged file or shard: "skip", which gives it a
            row with a reason and counts it, or "raise".
        overwrite: Begin anew in a folder that was made from other sources, or with another model or settings.
        verify: Compare the checksums of the files that are there, and write damaged ones anew; else their sizes are.
        progress: Whether to show a progress bar, in the main process.

    Returns:
        The manifest (model, settings, counts, what has no embedding and why, files with checksums), and what this
        run did, all processes together.

    Raises:
        FileNotFoundError: If a source is missing.
        ValueError: If the folder was begun with other sources, settings or weights, or holds a source, another run
            writes into it, no spectrum has an embedding, the device cannot be used, or, with "raise", an entry cannot
            be read.
    """
    check_choice("on_error", on_error, ON_ERROR)
    check_choice("dtype", dtype, tuple(DTYPES))
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1 patch, found {token_budget}")
    _check_device(device)
    started = time.monotonic()
    state = _start_processes(device)
    reading: dict[str, Any] = {"survey": survey, "generation": generation}
    cut: dict[str, Any] = {"spectra_per_part": spectra_per_part, "on_error": on_error, "leave_out": folder}
    parts = _from_main(state, lambda: plan_parts(sources, **cut, **reading))
    model, processor, name = _load(checkpoint)
    validity = {setting: getattr(processor, setting) for setting in VALIDITY}
    options = {"weights_sha256": _digest(model), "config_sha256": _digest_config(model.config), "tokens": tokens}
    options |= validity | reading
    options |= {"spectra_per_part": spectra_per_part, "token_budget": token_budget, "dtype": dtype}
    output = PartFolder(folder, OUTPUT, "spectok embed", manifest=MANIFEST)
    with ExitStack() as stack:

        def begin() -> set[int]:
            stack.enter_context(output.locked())
            return output.begin(make_plan(FORMAT, options, parts), overwrite=overwrite, verify=verify)

        done = _from_main(state, begin)
        encoder = _Encoder(model, torch.device(device or state.device), DTYPES[dtype], tokens)
        mine = {number: parts[number] for number in range(state.process_index, len(parts), state.num_processes)}
        todo = [(number, part) for number, part in mine.items() if number not in done]
        windows = _Windows(todo, processor, token_budget)
        what = "embedding" if state.num_processes == 1 else f"embedding (process 1 of {state.num_processes})"
        order = {number: position for position, number in enumerate(mine)}
        shown = progress and state.is_main_process
        with part_bar(list(mine.values()), [order[number] for number in mine if number in done], what, shown) as bar:
            try:
                count = _embed(windows, num_workers, encoder, output, bar, strict=on_error == "raise")
            except (ValueError, OSError) as error:
                if state.num_processes > 1:  # what goes before is the same in all, and this is not
                    error.add_note(f"in process {state.process_index + 1} of {state.num_processes}")
                raise
        count = sum(gather_object([count]))  # waits for all
        # The name is not compared: a folder has many.
        said = {"model": name} | options
        manifest = _from_main(state, lambda: output.finish(_manifest(output.records(len(parts)), said, len(parts))))
    return Outcome(manifest, count, time.monotonic() - started)


def _check_device(device: str | torch.device | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch has both for what is not there
        text = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"device must be one of this machine, found {device!r} ({text}): leave it out") from error


def _start_processes(device: str | torch.device | None) -> PartialState:
    on_cpu = not torch.accelerator.is_available() if device is None else torch.device(device).type == "cpu"
    # Processes wait for the slowest at the end, far longer than between the steps of a training.
    return PartialState(cpu=on_cpu, timeout=PATIENCE)


def _from_main(state: PartialState, work: Any) -> Any:
    """What `work` gives in the main process, in all of them; its errors too, as the others would wait for ever."""
    results: list[Any] = [None, None]
    if state.is_main_process:
        try:
            results[0] = work()
        except (ValueError, OSError, ImportError) as error:
            results[1] = error
    if state.num_processes > 1:
        broadcast_object_list(results)
    if results[1] is not None:
        raise results[1]
    return results[0]


# The model ----------------------------------------------------------------------------------------


def _load(checkpoint: str | Path | tuple[Any, SpectrumProcessor]) -> tuple[Any, SpectrumProcessor, str]:
    if isinstance(checkpoint, tuple):
        return (*checkpoint, type(checkpoint[0]).__name__)
    from transformers import AutoModel, AutoProcessor

    source, revision = str(checkpoint), None
    if (folder := Path(source).expanduser()).is_dir():
        source = str(folder)
    else:
        source, _, revision = source.partition("@")
    options = {"revision": revision} if revision else {}
    model = AutoModel.from_pretrained(source, **options)
    return model, AutoProcessor.from_pretrained(source, **options), str(checkpoint)


def _digest(model: Any) -> str:
    """SHA-256 of the weights: the name of a folder or branch says nothing of what is in it."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_config(config: Any) -> str:
    """SHA-256 of the configuration: the same weights give other embeddings with other settings."""
    settings = {name: value for name, value in config.to_dict().items() if name not in NOISE and name[0] != "_"}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


class _Encoder:
    """A model on its device, as a function from packed batches to arrays."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype, tokens: bool):
        self.model = model.base_model.to(device, torch.float32).eval()
        self.device, self.dtype, self.tokens = device, dtype, tokens
        self.sizes = {"embedding": model.config.hidden_size} | ({"tokens": model.config.latent_size} if tokens else {})

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, Any]) -> list[dict[str, np.ndarray]]:
        """Per spectrum the embedding, and tokens and token_wavelength of its valid patches."""
        lengths = batch["num_patches"]
        inputs = {
            name: torch.from_numpy(values).to(self.device) if name != "num_patches" and np.ndim(values) else values
            for name, values in batch.items()
        }
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if mixed else nullcontext():
            outputs = self.model(**inputs)
        rows = [{"embedding": values} for values in outputs.pooler_output.float().cpu().numpy()]
        if self.tokens:
            stops = np.cumsum(lengths)[:-1]
            valid = np.split(batch["attention_mask"], stops)
            for name in ("tokens", "token_wavelength"):
                parts = np.split(getattr(outputs, name).float().cpu().numpy(), stops)
                for row, values, chosen in zip(rows, parts, valid, strict=True):
                    row[name] = values[chosen]
        return rows


# Reading ------------------------------------------------------------------------------------------


@dataclass
class _Window:
    """Consecutive entries of a part.

    Args:
        part: Number of the part.
        rows: What is said of each entry.
        batches: Packed batches of those with a valid patch, and which rows they are.
        last: Whether the part ends here.
    """

    part: int
    rows: list[dict[str, Any]]
    batches: list[tuple[list[int], dict[str, Any]]]
    last: bool


class _Windows(IterableDataset):
    """The windows of parts; a loader's worker takes every n-th part, so that no batch depends on their number."""

    def __init__(self, parts: Sequence[tuple[int, Part]], processor: SpectrumProcessor, budget: int):
        self.parts, self.processor, self.budget = parts, processor, budget
        self.collate = DataCollatorForPackedSpectra(processor)

    def __iter__(self) -> Iterator[_Window]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for number, part in self.parts[first::step]:
            entries = part.entries()
            ahead = list(islice(entries, 1))
            while True:
                taken = ahead + list(islice(entries, WINDOW - 1))
                ahead = list(islice(entries, 1))
                window = self._window(number, taken, last=not ahead)
                del taken  # while this window is encoded, and the next one read, it would cost as much again
                yield window
                del window
                if not ahead:
                    break

    def _window(self, number: int, entries: list[Entry], *, last: bool) -> _Window:
        rows: list[dict[str, Any]] = []
        patched: dict[int, dict[str, np.ndarray]] = {}
        for position, entry in enumerate(entries):
            row: dict[str, Any] = {"source": entry.source, "row": entry.row}
            if entry.spectrum is None:
                rows.append(row | {"reason": entry.reason, "unread": True})
                continue
            features = self.processor.patch(entry.spectrum)
            rows.append(row | _describe(entry.spectrum, features))
            if not rows[-1]["reason"]:
                patched[position] = features
        return _Window(number, rows, list(self._batches(patched)), last)

    def _batches(self, patched: dict[int, dict[str, np.ndarray]]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        if not patched:
            return
        positions = list(patched)
        lengths = [len(features["flux"]) for features in patched.values()]
        for chosen in TokenBudgetBatchSampler(lengths, max(self.budget, *lengths)):
            members = [positions[index] for index in chosen]
            batch = self.collate([patched[member] for member in members])
            # Arrays: a loader would pass each tensor through a file descriptor of its own.
            yield (
                members,
                {name: values.numpy() if torch.is_tensor(values) else values for name, values in batch.items()},
            )


def _describe(spectrum: Spectrum, features: Mapping[str, Any]) -> dict[str, Any]:
    good = spectrum.good
    with np.errstate(over="ignore"):
        signal = spectrum.flux[good].astype(np.float64) * np.sqrt(spectrum.ivar[good], dtype=np.float64)
    return {
        "survey": spectrum.survey,
        "object_id": spectrum.object_id,
        "num_patches": int(features["num_patches"]),
        "valid_patches": int(features["attention_mask"].sum()),
        "good_share": float(features["pixel_mask"].sum() / len(spectrum)),
        "snr": float(np.median(signal)) if len(signal) else None,
        "scale": float(features["scale"]),
        "wavelength_min": float(spectrum.wavelength[0]),
        "wavelength_max": float(spectrum.wavelength[-1]),
        "reason": reason_against(features) or None,
    }


# Writing ------------------------------------------------------------------------------------------


def _embed(
    windows: _Windows, num_workers: int, encoder: _Encoder, output: PartFolder, bar: Any, *, strict: bool
) -> int:
    """Encode windows and write them to the files of their parts; gives the number of entries."""
    # Without the watch a reader waits for ever to hand its window to a killed process, and the lock with it.
    watch = partial(_watch_parent, os.getpid())
    loader = DataLoader(windows, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is, worker_init_fn=watch)
    files: dict[int, _PartFile] = {}
    count = 0
    try:
        for window in loader:
            if strict:
                _check_read(window)
            if window.part not in files:
                files[window.part] = _PartFile(output, window.part, encoder)
            for members, batch in window.batches:
                for member, result in zip(members, encoder(batch), strict=True):
                    window.rows[member] |= result
            files[window.part].write(window.rows)
            count += len(window.rows)
            bar.update(len(window.rows))
            if window.last:
                files.pop(window.part).finish()
            del window
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ValueError(WORKER_KILLED) from error
    finally:
        for file in files.values():
            file.abandon()
    return count


def _check_read(window: _Window) -> None:
    """Stop at an entry that cannot be read; here, as a loader adds its traceback to what its workers raise."""
    for row in window.rows:
        if row.get("unread"):
            raise_failure(Entry(row["source"], row["row"], reason=row["reason"]))


def _watch_parent(parent: int, worker: int) -> None:
    watch_parent(parent)


def _as_it_is(window: Any) -> Any:
    return window


class _PartFile:
    """The Parquet file of a part, which takes its name when it is complete."""

    def __init__(self, output: PartFolder, part: int, encoder: _Encoder):
        import pyarrow.parquet as pq

        self.output, self.part = output, part
        self.path = output.folder / f"part-{part:06d}.parquet"
        self.schema = _schema(encoder)
        self.rows = self.embedded = 0
        self.losses = Losses()
        self.stack = ExitStack()
        self.temporary = self.stack.enter_context(written_whole(self.path))
        # Numbers of embeddings do not repeat, and a dictionary of them only takes time.
        self.writer = pq.ParquetWriter(
            self.temporary, self.schema, compression="zstd", use_dictionary=["source", "survey", "reason"]
        )

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append a row group."""
        for row in rows:
            if row.pop("unread", False):
                self.losses.fail(row["source"], row["row"], row["reason"])
            elif row["reason"]:
                self.losses.drop(row["reason"], f"{row['source']}, row {row['row']}")
        self.rows += len(rows)
        self.embedded += sum(row["reason"] is None for row in rows)
        if rows:
            self.writer.write_table(_table(rows, self.schema))

    def finish(self) -> None:
        """Give the file its name, and write the record that says so."""
        self.writer.close()
        self.stack.close()
        file = {"name": self.path.name, "rows": self.rows, "bytes": self.path.stat().st_size}
        file["crc32"] = crc32_of(self.path)
        record = {"files": [file], "spectra": self.embedded, **self.losses.as_json()}
        self.output.record(self.part, record)

    def abandon(self) -> None:
        """Leave no file."""
        self.writer.close()
        self.temporary.unlink(missing_ok=True)


def _schema(encoder: _Encoder) -> Any:
    import pyarrow as pa

    number, vector = pa.float32(), {name: pa.list_(pa.float32(), size) for name, size in encoder.sizes.items()}
    columns: dict[str, Any] = {"source": pa.string(), "row": pa.int64(), "survey": pa.string()}
    columns |= {"object_id": pa.string(), "embedding": vector["embedding"]}
    if encoder.tokens:
        columns |= {"tokens": pa.list_(vector["tokens"]), "token_wavelength": pa.list_(number)}
    columns |= {"num_patches": pa.int32(), "valid_patches": pa.int32(), "good_share": number, "snr": number}
    columns |= {"scale": number, "wavelength_min": pa.float64(), "wavelength_max": pa.float64(), "reason": pa.string()}
    return pa.schema(list(columns.items()))


def _table(rows: list[dict[str, Any]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.table([_column([row.get(field.name) for row in rows], field.type) for field in schema], schema=schema)


def _column(values: list[Any], kind: Any) -> Any:
    """Values as an Arrow array; arrays are laid end to end, without a Python number for each of theirs."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_string(kind):  # the name of a file may be none in UTF-8
        values = [None if value is None else value.encode(errors="backslashreplace").decode() for value in values]
    if not types.is_list(kind) and not types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    present = [value for value in values if value is not None]
    absent = pa.array([value is None for value in values], pa.bool_())
    if types.is_fixed_size_list(kind):
        size = kind.list_size
        rows = np.zeros((len(values), size), dtype=np.float32)
        rows[[value is not None for value in values]] = np.stack(present) if present else 0
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=kind, mask=absent)
    flat = np.concatenate(present) if present else np.zeros((0, 1), dtype=np.float32)
    offsets = np.cumsum([0, *(0 if value is None else len(value) for value in values)]).astype(np.int32)
    inner = kind.value_type
    items = pa.array(flat.reshape(-1)[: flat.size if present else 0])
    if types.is_fixed_size_list(inner):
        items = pa.FixedSizeListArray.from_arrays(items, type=inner)
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=kind, mask=absent)


def _manifest(records: Iterable[Mapping[str, Any]], options: Mapping[str, Any], parts: int) -> dict[str, Any]:
    records = list(records)
    files, losses = sum_records(records)
    spectra = sum(record["spectra"] for record in records)
    if not spectra:
        raise ValueError(no_spectrum_left(parts, losses))
    counts = {"parts": parts, "rows": sum(file["rows"] for file in files), "spectra": spectra}
    return {"format": FORMAT, **counts, "options": dict(options), **losses.as_json(), "files": files}


__all__ = ["embed_spectra"]
