"""Tables of `benchmark.py` about data: how full batches of a token budget are, and what a spectrum costs to load."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmark_runs import PATCH_SIZE, PIXELS, Setting, judge, time_in_turn
from torch.utils.data import DataLoader

from spectok_hf import DataCollatorForSpectra, Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.collators import DataCollatorForPackedSpectra, TokenBudgetBatchSampler
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.shards import SpectrumShards, write_shards
from spectok_hf.data.streaming import SpectrumStream

TOKEN_BUDGET = 16_384
MIXES = {
    "uniform": dict.fromkeys(PIXELS, 1.0),
    "Multimodal Universe": {"sdss": 4.0, "desi": 20.0, "galah": 0.325, "apogee": 0.716},  # millions of spectra
}
SDSS_PIXELS = (3900, 4700)
BATCH_SIZE = 64
FED = 5400  # spectra/s, at 50 % MFU of the base model on one H200 (four surveys in equal parts)
GOALS = {"local": (3.5, 10), "streaming": (9, 5)}  # at most this many np.medians, at least so much faster than naive


# C10: the packer


def packer_rows(setting: Setting) -> list[dict]:
    """Share of the token budget that batches leave unused."""
    rows = []
    for mix, weights in MIXES.items():
        lengths = draw_lengths(weights, 2_000 if setting.smoke else 80_000)
        batches = list(TokenBudgetBatchSampler(lengths, TOKEN_BUDGET))
        waste = 1 - lengths.sum() / (len(batches) * TOKEN_BUDGET)
        row = {"mix": mix, "batches": len(batches), "spectra per batch": len(lengths) / len(batches)}
        rows.append(row | {"waste": float(waste)} | judge(float(waste), 0.02, "C10", most=True))
    return rows


def draw_lengths(weights: dict[str, float], count: int) -> np.ndarray:
    """Patches of spectra of a mix, shape (count,); those of SDSS differ in length."""
    rng = np.random.default_rng(0)
    shares = np.array(list(weights.values())) / sum(weights.values())
    surveys = rng.choice(list(weights), size=count, p=shares)
    pixels = np.array([PIXELS[survey] for survey in surveys])
    pixels = np.where(surveys == "sdss", rng.integers(*SDSS_PIXELS, size=count), pixels)
    return -(-pixels // PATCH_SIZE)


# C7, C8: loading


def loader_rows(setting: Setting) -> list[dict]:
    """Time per spectrum from a file to a packed batch, beside one median of its good pixels, and a naive loader."""
    try:
        import datasets
        import pyarrow.parquet
    except ImportError as error:
        return [{"loader": "skipped", "reason": str(error)}]
    del datasets, pyarrow
    with TemporaryDirectory() as folder:
        took = loading_times(Path(folder), replace(setting, device="cpu"))
    rows = []
    for name, (medians, speed_up) in GOALS.items():
        row = {"loader": name, "figure": "time / np.median of the good pixels", "value": took[name] / took["median"]}
        rows.append(row | judge(row["value"], medians, "C7", most=True))
        row = {"loader": name, "figure": "naive time / time", "value": took["naive"] / took[name]}
        rows.append(row | judge(row["value"], speed_up, "C8"))
        cores = took[name] / spectra_of(setting) * FED
        rows.append({"loader": name, "figure": f"cores of this machine that feed {FED} spectra/s", "value": cores})
    return rows


def spectra_of(setting: Setting) -> int:
    """Spectra of one pass."""
    return len(PIXELS) * (4 if setting.smoke else 256)


def loading_times(folder: Path, setting: Setting) -> dict[str, float]:
    """CPU seconds of one pass over the same spectra by each loader; their files are in the page cache."""
    spectra = [one for survey in PIXELS for one in simulate_survey(survey, spectra_of(setting) // len(PIXELS))]
    files = write_parquet(spectra, folder)
    write_shards(spectra, folder / "shards")
    processor = SpectrumProcessor()
    local = SpectrumDataset(SpectrumShards(folder / "shards"), processor, lazy=True)
    sources = {survey: stream_of(path) for survey, path in files.items()}
    collator = DataCollatorForPackedSpectra(processor)
    good = [spectrum.flux[spectrum.good] for spectrum in spectra]
    passes: dict[str, Any] = {
        "local": DataLoader(local, BATCH_SIZE, shuffle=True, collate_fn=collator),
        "streaming": DataLoader(SpectrumStream(sources, buffer_size=256), BATCH_SIZE, collate_fn=collator),
        "naive": naive_loader(list(sources.values()), processor),
    }
    actions = {name: partial(exhaust, loader, len(spectra)) for name, loader in passes.items()}
    return time_in_turn({"median": lambda: [np.median(flux) for flux in good], **actions}, setting)


def exhaust(batches: DataLoader, expected: int) -> None:
    """Take all batches of a loader.

    Raises:
        ValueError: If they do not hold all spectra.
    """
    found = sum(len(batch["num_patches"]) for batch in batches)
    if found != expected:
        raise ValueError(f"a loader must give each of {expected} spectra once, found {found}")


def write_parquet(spectra: Sequence[Spectrum], folder: Path) -> dict[str, Path]:
    """One Parquet file per survey, with the columns of the Multimodal Universe, and its path."""
    import pyarrow as pa
    from pyarrow import parquet

    files = {}
    for survey in PIXELS:
        rows = [as_row(spectrum) for spectrum in spectra if spectrum.survey == survey]
        files[survey] = folder / f"{survey}.parquet"
        parquet.write_table(pa.Table.from_pylist(rows), files[survey], row_group_size=100)
    return files


def as_row(spectrum: Spectrum) -> dict[str, Any]:
    """A row as the Multimodal Universe has it, with the survey's name beside it."""
    pixels = {"flux": spectrum.flux, "ivar": spectrum.ivar, "lambda": spectrum.wavelength}
    pixels = {name: np.asarray(values, dtype=np.float32) for name, values in pixels.items()}
    row = {"spectrum": pixels | {"mask": spectrum.mask}, "object_id": spectrum.object_id}
    return row | {"survey": spectrum.survey, "medium": spectrum.medium}


def stream_of(path: Path) -> Any:
    """A Parquet file as a streaming dataset."""
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(path), split="train", streaming=True)


def naive_loader(sources: Sequence[Any], processor: SpectrumProcessor) -> DataLoader:
    """What the manuals of datasets show: interleave, shuffle, map over Python rows, pad."""
    from datasets import interleave_datasets

    def prepare(row: dict[str, Any]) -> dict[str, np.ndarray]:
        pixels = row["spectrum"]
        spectrum = Spectrum.from_arrays(
            pixels["flux"], pixels["lambda"], ivar=pixels["ivar"], mask=pixels["mask"], medium=row["medium"]
        )
        return processor.patch(spectrum)

    mixed = interleave_datasets(list(sources), stopping_strategy="all_exhausted_without_replacement")
    mapped = mixed.shuffle(seed=0, buffer_size=256).map(
        prepare, remove_columns=["spectrum", "object_id", "survey", "medium"]
    )
    return DataLoader(mapped, BATCH_SIZE, collate_fn=DataCollatorForSpectra(processor))
