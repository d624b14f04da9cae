"""What `pretrain.py` trains on: spectra in memory, Arrow shards, or streams, split by object and mixed by weight."""

import glob
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from run_settings import drop_invalid, read_fields
from torch.utils.data import Dataset
from transformers import TrainingArguments

from spectok_hf import Spectrum, SpectrumProcessor, read_spectra, simulate_survey
from spectok_hf.data.dataset import (
    SpectrumDataset,
    by_survey,
    group_name,
    held_out,
    object_groups,
    split_by_object,
)
from spectok_hf.data.mixtures import MixtureSampler, blocks
from spectok_hf.data.shards import MANIFEST, SpectrumShards
from spectok_hf.data.streaming import SpectrumStream
from spectok_hf.data.views import ObservationPairs
from spectok_hf.data.whole_files import crc32_of

SAMPLE = 512  # spectra of each survey of shards or streams, for baselines and the patch-PCA start
MAX_EVAL = 64  # of each survey of shards or streams, unless told otherwise
PARQUET = "*.parquet"


@dataclass
class DataArguments:
    """What to train on: --simulate and --data, or --shards, or --stream."""

    simulate: list[str] = field(default_factory=list, metadata={"help": "Surveys to simulate."})
    num_simulated: int = field(default=500, metadata={"help": "Simulated spectra per survey."})
    data: list[str] = field(default_factory=list, metadata={"help": "FITS files, folders or globs to read."})
    shards: list[str] = field(
        default_factory=list, metadata={"help": "Folders of `spectok prepare`: for what does not fit into memory."}
    )
    on_damage: str = field(
        default="raise", metadata={"help": "What to do about a damaged shard: raise, or skip it with a warning."}
    )
    verify_shards: bool = field(
        default=True,
        metadata={"help": "Read all of the shards once before training, to compare them with their checksums."},
    )
    stream: str = field(
        default="{}",
        metadata={
            "help": "Streamed datasets by survey, as JSON (or YAML): a folder or glob of Parquet files, or a name on "
            'the Hub: {"desi": "UniverseTBD/mmu_desi_edr_sv3"}. Needs --max_steps. A spectrum without a valid patch '
            "counts as one of loss 0."
        },
    )
    generation: str | None = field(
        default=None, metadata={"help": "Generation of the Multimodal Universe of --stream: preview or hats."}
    )
    lanes: int = field(
        default=1,
        metadata={
            "help": "Lanes of the stream (see SpectrumStream). With one, every spectrum comes once per epoch, and all "
            "processes read all files; with as many as processes and workers together each reads its own, and goes "
            "through them at its own pace."
        },
    )
    turn: int = field(default=8, metadata={"help": "Spectra that a lane of the stream gives at a time."})
    weights: list[float] = field(
        default_factory=list, metadata={"help": "Weights of the sources: each of --simulate, then each of --data."}
    )
    survey_weights: str = field(
        default="{}", metadata={"help": "Weights of the surveys of --shards and --stream, as JSON (or YAML)."}
    )
    without: list[str] = field(
        default_factory=list,
        metadata={"help": "Surveys of --shards to leave out, with their simulated spectra and their weights."},
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "Without weights sources count as size^(1/temperature): 1 by size, inf all alike."},
    )
    mix_evenly: bool = field(
        default=True, metadata={"help": "Give every batch the same mix of sources and lengths, not a random one."}
    )
    eval_share: float = field(default=0.2, metadata={"help": "Share of the objects held out for evaluation."})
    max_eval: int | None = field(
        default=None,
        metadata={
            "help": "Evaluate on at most so many of the held-out spectra of each survey; of shards and streams 64 by "
            "default."
        },
    )
    hide_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Share hidden in training: of pixels (0.1), of patches, or of the intervals that get a chunk "
            "(config.mask_ratio)."
        },
    )
    pad_to: int | None = field(
        default=None,
        metadata={"help": "Patches per batch, filled up with padding: for --torch_compile, one shape."},
    )
    overwrite_output: bool = field(default=False, metadata={"help": "Delete output_dir and start anew."})
    smoke: bool = field(default=False, metadata={"help": "A run of seconds that touches everything."})


# Options that are for some kinds of sources only.
OPTIONS_OF = {
    "num_simulated": ("data",),
    "weights": ("data",),
    "survey_weights": ("shards", "stream"),
    "on_damage": ("shards",),
    "verify_shards": ("shards",),
    "without": ("shards",),
    "temperature": ("data", "shards"),
    "mix_evenly": ("data", "shards"),
    "generation": ("stream",),
    "lanes": ("stream",),
    "turn": ("stream",),
}
DEFAULTS = vars(DataArguments())


@dataclass
class TrainingData:
    """A training set, its order, and what is held out.

    Args:
        train: What the trainer trains on.
        sampler: Its order; a stream has its own.
        sample: Training spectra for baselines and the patch-PCA start.
        held_out: Spectra of objects that training never sees.
    """

    train: Dataset
    sampler: MixtureSampler | None
    sample: Sequence[Spectrum]
    held_out: list[Spectrum]


def load_data(
    data: DataArguments, processor: SpectrumProcessor, args: TrainingArguments, *, pairs: bool = False
) -> TrainingData:
    """The spectra to train on, and those held out; no object is in both (of a stream: of one survey, by identifier).

    Args:
        data: Where they come from.
        processor: The processor of the model.
        args: Seed and global batch.
        pairs: Whether each spectrum comes with another observation of its object, where there is one, for the
            contrastive objective. (Streams do not know them.)

    Raises:
        ValueError: If there is no source, sources do not go together, or nothing can be held out.
    """
    named = bool(_by_survey("stream", data.stream))
    kinds = {"data": bool(data.simulate or data.data), "shards": bool(data.shards), "stream": named}
    chosen = [kind for kind, given in kinds.items() if given]
    if len(chosen) > 1:
        raise ValueError(
            "pass --simulate and --data, or --shards, or --stream, found several: spectok prepare puts any mixture "
            "of sources into shards"
        )
    if not chosen:
        raise ValueError("nothing to train on: pass --simulate sdss desi ..., --data FOLDER ..., --shards or --stream")
    _check_options(data, chosen[0])
    load = {"data": _in_memory, "shards": _from_shards, "stream": _from_streams}[chosen[0]]
    loaded = load(data, processor, args, pairs)
    if not loaded.held_out:
        raise ValueError(
            f"found {len(loaded.sample)} spectra, and no survey with two objects: pass more, to hold some out"
        )
    return loaded


def _in_memory(
    data: DataArguments, processor: SpectrumProcessor, args: TrainingArguments, pairs: bool
) -> TrainingData:
    """All spectra at once; those without a valid patch are dropped, and counted."""
    sources = [simulate_survey(survey, data.num_simulated, seed=args.seed) for survey in data.simulate]
    sources += [read_spectra(path, on_error="warn") for path in data.data]
    sources = [drop_invalid(source, processor) for source in sources]
    train, evaluation = split_by_object([s for source in sources for s in source], data.eval_share, seed=args.seed)
    kept = set(map(id, train))
    sizes = [sum(id(spectrum) in kept for spectrum in source) for source in sources]
    if data.weights and len(data.weights) != len(sizes):
        raise ValueError(f"--weights must be one for each of {len(sizes)} sources, found {len(data.weights)}")
    weights = [weight for weight, size in zip(data.weights, sizes, strict=True) if size] if data.weights else None
    dataset = SpectrumDataset(train, processor)
    lengths = [int(feature["num_patches"]) for feature in dataset.features]
    items = ObservationPairs(train, seed=args.seed) if pairs else dataset
    # A source of which all is held out, or nothing valid, gives no part of the mixture.
    sampler = _sampler(blocks([size for size in sizes if size]), lengths, weights, data, args) if evaluation else None
    held = [spectrum for group in by_survey(evaluation).values() for spectrum in group[: data.max_eval]]
    return TrainingData(items, sampler, train, held)


def _from_shards(
    data: DataArguments, processor: SpectrumProcessor, args: TrainingArguments, pairs: bool
) -> TrainingData:
    """Spectra read through the memory map, when a batch needs them."""
    # One process per node reads them for the checksums, or all, where they have to leave out the same ones.
    verify = data.verify_shards and (data.on_damage == "skip" or args.local_process_index == 0)
    with _advice_of_options():
        shards = SpectrumShards(data.shards, verify=verify, on_damage=data.on_damage)
    _check_prepared(shards, processor)
    identities = _Identities(shards)
    out = held_out(identities, data.eval_share, seed=args.seed)
    surveys = _surveys(shards, data.without)
    most = MAX_EVAL if data.max_eval is None else data.max_eval
    training = {name: indices[~out[indices]] for name, indices in surveys.items()}
    training = {name: indices for name, indices in training.items() if len(indices)}
    held = [shards[index] for indices in surveys.values() for index in _spread(indices[out[indices]], most)]
    sample = [shards[index] for indices in training.values() for index in _spread(indices, SAMPLE)]
    weights = _survey_weights(data, list(training))
    sampler = _sampler(list(training.values()), shards.num_pixels, weights, data, args) if held else None
    items = (
        ObservationPairs(shards, object_groups(identities), seed=args.seed)
        if pairs
        else SpectrumDataset(shards, processor, lazy=True)
    )
    return TrainingData(items, sampler, sample, held)


def _from_streams(
    data: DataArguments, processor: SpectrumProcessor, args: TrainingArguments, pairs: bool
) -> TrainingData:
    """Spectra in the order in which they are streamed."""
    if args.max_steps <= 0:
        raise ValueError(f"a stream has no end: pass --max_steps, found {args.max_steps}")
    sources = {survey: _stream(source) for survey, source in _by_survey("stream", data.stream).items()}
    options: dict[str, Any] = {"generation": data.generation, "held_out": data.eval_share, "seed": args.seed}
    weights = _survey_weights(data, list(sources))
    train = SpectrumStream(sources, weights, turn=data.turn, lanes=data.lanes, **options)
    most = MAX_EVAL if data.max_eval is None else data.max_eval
    held: list[Spectrum] = []
    sample: list[Spectrum] = []
    for survey, source in sources.items():
        held += _first_valid(SpectrumStream({survey: source}, part="held out", **options), most, processor)
        sample += _first_valid(SpectrumStream({survey: source}, **options), SAMPLE, processor)
    return TrainingData(train, None, sample, held)


def _check_options(data: DataArguments, kind: str) -> None:
    """Refuse options that would do nothing."""
    for name, kinds in OPTIONS_OF.items():
        if kind not in kinds and getattr(data, name) != DEFAULTS[name]:
            raise ValueError(f"--{name} does nothing here: it is for --{' and --'.join(kinds)}, found with --{kind}")
    if data.max_eval is not None and data.max_eval < 1:
        raise ValueError(f"--max_eval must be at least 1, found {data.max_eval}")


def _by_survey(name: str, text: Any) -> Mapping[str, Any]:
    try:
        found = read_fields(name, text)
    except ValueError:
        found = text
    if not isinstance(found, Mapping):
        raise ValueError(f'--{name} must be given by survey, as {{"desi": ...}}, found {found!r}')
    return found


# Mixtures -----------------------------------------------------------------------------------------


def _sampler(
    sources: Sequence[Any], lengths: Any, weights: list[float] | None, data: DataArguments, args: TrainingArguments
) -> MixtureSampler:
    return MixtureSampler(
        sources,
        weights,
        temperature=data.temperature,
        lengths=lengths if data.mix_evenly else None,
        multiple_of=global_batch(args),
        visits=True,
        seed=args.seed,
    )


def describe_shards(data: DataArguments) -> list[list[int]]:
    """What tells the shards of a run from others: spectra and checksum of each folder's manifest.

    Args:
        data: Says which.

    Raises:
        ValueError: If a folder holds no shards.
    """
    with _advice_of_options():
        manifests = [SpectrumShards.unchecked(folder).manifest for folder in data.shards]
    checksums = [crc32_of(Path(folder, MANIFEST)) for folder in data.shards]
    return [[manifest.get("spectra", 0), checksum] for manifest, checksum in zip(manifests, checksums, strict=True)]


def global_batch(args: TrainingArguments) -> int:
    """Spectra per optimizer step, over all processes.

    Args:
        args: Of the Trainer.
    """
    return args.train_batch_size * args.world_size * args.gradient_accumulation_steps


def _survey_weights(data: DataArguments, surveys: Sequence[str]) -> list[float] | None:
    weights = _by_survey("survey_weights", data.survey_weights)
    weights = {name: weight for name, weight in weights.items() if name.removesuffix("-simulated") not in data.without}
    if weights and set(weights) != set(surveys):
        raise ValueError(f"--survey_weights must name {', '.join(surveys)}, found {', '.join(weights)}")
    return [float(weights[survey]) for survey in surveys] if weights else None


# Shards -------------------------------------------------------------------------------------------


@contextmanager
def _advice_of_options() -> Iterator[None]:
    """What is wrong with shards, with the option of the command line as advice."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace('on_damage="skip"', "--on_damage skip")) from error


def _check_prepared(shards: SpectrumShards, processor: SpectrumProcessor) -> None:
    """Refuse shards whose spectra were kept or dropped by another processor's settings."""
    for folder in shards.folders:
        prepared = json.loads((folder / MANIFEST).read_text()).get("validity", {})
        if differing := [name for name, value in prepared.items() if getattr(processor, name) != value]:
            alone = differing == ["patch_size"]
            how = f"--patch-size {processor.patch_size}" if alone else "--family FAMILY, that of the model"
            raise ValueError(
                f"the shards were prepared for {json.dumps(prepared)}, and the model's processor has another "
                f"{', '.join(differing)}: spectra without a valid patch may be among them; prepare them again "
                f"(spectok prepare {how})"
            )


class _Identities(Sequence):
    """What tells the objects of shards apart, without their pixels; nothing is held per spectrum but the columns."""

    def __init__(self, shards: SpectrumShards):
        self.shards = shards
        self.survey, self.object_id, self.ra, self.dec = map(shards.column, ("survey", "object_id", "ra", "dec"))

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: Any) -> SimpleNamespace:
        ra, dec, name = self.ra[index], self.dec[index], self.object_id[index]
        flux = self.shards[index].flux if not (name or np.isfinite([ra, dec]).all()) else None
        return SimpleNamespace(survey=self.survey[index], object_id=name, labels={"ra": ra, "dec": dec}, flux=flux)


def _surveys(shards: SpectrumShards, without: Sequence[str]) -> dict[str, np.ndarray]:
    """Indices of the spectra of each survey but some; simulated ones are a survey of their own."""
    codes, names = shards.survey_codes
    if unknown := sorted(set(without) - set(names)):
        known = ", ".join(map(str, names))
        raise ValueError(f"--without must name surveys of the shards, {known}, found {', '.join(unknown)}")
    simulated = shards.column("simulated")
    found = {}
    for code, name in enumerate(names):
        for drawn in (False, True) if name not in without else ():
            indices = np.flatnonzero((codes == code) & (simulated == drawn))
            if len(indices):
                found[group_name(name, drawn)] = indices
    return found


def _spread(indices: np.ndarray, most: int) -> list[int]:
    """At most so many of the indices, from the first to the last."""
    places = np.linspace(0, len(indices) - 1, min(most, len(indices))) if len(indices) else []
    return [int(indices[round(place)]) for place in places]


# Streams ------------------------------------------------------------------------------------------


def _stream(source: str | Mapping[str, Any]) -> Any:
    """A streamed dataset: Parquet files of a folder or pattern, what `load_dataset` takes, or its arguments."""
    from datasets import load_dataset

    if isinstance(source, Mapping):
        return load_dataset(**source, split="train", streaming=True)
    path = Path(source).expanduser()
    if path.exists() or glob.has_magic(source):
        pattern = f"{path}/**/{PARQUET}" if path.is_dir() else str(path)
        files = sorted(glob.glob(pattern, recursive=True))
        if not files:
            raise FileNotFoundError(f"no Parquet file in {source} (from {Path.cwd()}): check the path")
        return load_dataset("parquet", data_files=files, split="train", streaming=True)
    return load_dataset(source, split="train", streaming=True)


def _first_valid(stream: SpectrumStream, most: int, processor: SpectrumProcessor) -> list[Spectrum]:
    valid = (spectrum for spectrum in stream if processor.patch(spectrum)["attention_mask"].any())
    return list(itertools.islice(valid, most))
