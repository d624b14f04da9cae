"""Align images and spectra of the same galaxies (AstroCLIP, arXiv 2310.03024), and see what finds what.

    python examples/align_images_and_spectra.py examples/configs/align-tiny.yaml
    python examples/align_images_and_spectra.py examples/configs/align-tiny.yaml --spectrum_family spectok \\
        --output_dir outputs/align-spectok
    python examples/align_images_and_spectra.py --compare outputs/align-tiny outputs/align-spectok
    python examples/align_images_and_spectra.py examples/configs/align-tiny.yaml --spectrum_model outputs/pretrain
    python examples/align_images_and_spectra.py --judge outputs/align-tiny --output_dir outputs/judged
    python examples/align_images_and_spectra.py --smoke

Pairs are simulated, in as many processes as there are cores. The spectrum encoder is a pretrained checkpoint of any
family, or a new one that first learns its own objective on the training spectra, without images; it stays frozen, and
a learned query pools its tokens. The image encoder is any vision model of Transformers: a checkpoint, which stays
frozen too, or a new one, which is trained along. The loss tells which image of a batch belongs to which spectrum, over
all processes together.

Judged on held-out galaxies: retrieval in four directions, redshift and stellar mass from either embedding, beside
photometry, the raw flux, and embeddings of other galaxies; labels are read from galaxies of a third seed, on which
nothing else is trained. `output_dir` then holds model and processor, report.md, scores.json with all figures and
seconds, and pictures; `--compare` sets several such folders side by side, and `--judge` judges a model anew, wherever
it comes from. An interrupted run goes on from its last whole checkpoint with the same command.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pretrain
import torch
from accelerate.utils import broadcast_object_list
from judged_pairs import Protocol, compare, write_report
from resumable_trainer import ResumableTrainer
from run_settings import check_fields, describe_optimizer, parse_options, prepared_output, read_fields
from training_data import DataArguments as PretrainingDataArguments
from training_data import TrainingData, global_batch
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel, TrainingArguments, set_seed
from transformers.utils import ModelOutput

from spectok_hf import AstroClipModel, AstroClipProcessor
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.domain import TrainingDomain
from spectok_hf.data.pairs import DataCollatorForPairs, PairDataset, room_to_turn
from spectok_hf.data.resumable import run_parallel, usable_cores
from spectok_hf.data.simulation.pairs import GalaxyPair, simulate_galaxy_pairs
from spectok_hf.models.spectrum import check_choice

PER_TASK = 100  # pairs that a process simulates at a time
SAMPLE = 1000  # spectra that say what was trained on, and of the patch-PCA start of a SpecTok
SMALL_VISION = {
    "model_type": "vit",
    "image_size": 96,
    "patch_size": 12,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
SMOKE = {
    "num_pairs": 16,
    "num_held_out": 12,
    "reference": 16,
    "neighbours": 3,
    "num_workers": 1,
    "spectrum_family": "spectok",
    "spectrum_overrides": {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1},
    "pretrain_steps": 2,
    "pretrain_batch_size": 4,
    "vision_config": SMALL_VISION | {"patch_size": 16, "hidden_size": 32, "num_hidden_layers": 1},
    "config_overrides": {"projection_dim": 32},
    "per_device_train_batch_size": 8,
    "max_steps": 2,
    "bootstrap": 5,
    "save_strategy": "no",
    "output_dir": "outputs/align-smoke",
}
DEFAULTS = {
    "output_dir": "outputs/align",
    "per_device_train_batch_size": 128,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,  # of all steps
    "weight_decay": 0.05,
    "num_train_epochs": 20,
    "dataloader_drop_last": True,  # the loss needs batches of one size
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
    "logging_steps": 10,
    "save_total_limit": 1,
}


@dataclass
class ModelArguments:
    """What to align."""

    spectrum_model: str | None = field(
        default=None, metadata={"help": "Pretrained spectrum encoder, of any family: a folder or Hub id."}
    )
    spectrum_family: str = field(
        default="specformer",
        metadata={"help": "Else of a new one, pretrained first: specformer, spectok or omnispectra."},
    )
    spectrum_preset: str = field(default="tiny", metadata={"help": "Its size: tiny, small or base."})
    spectrum_overrides: str = field(
        default="{}", metadata={"help": "Fields of its config that differ from the preset, as JSON (or YAML)."}
    )
    pretrain_steps: int = field(default=1000, metadata={"help": "Steps of its own objective; 0 = none."})
    pretrain_batch_size: int = field(default=32, metadata={"help": "Spectra per step and process."})
    pretrain_learning_rate: float = field(default=1e-3, metadata={"help": "Peak of a cosine, after 5 % of warm-up."})
    vision_model: str | None = field(
        default=None, metadata={"help": "Pretrained vision model of Transformers, kept frozen: a folder or Hub id."}
    )
    vision_config: str = field(
        default=json.dumps(SMALL_VISION),
        metadata={"help": "Else config of a new one with its model_type, as JSON (or YAML)."},
    )
    config_overrides: str = field(
        default="{}", metadata={"help": "Fields of AstroClipConfig, such as projection_dim, as JSON (or YAML)."}
    )


@dataclass
class DataArguments:
    """What to align them on."""

    survey: str = field(default="desi", metadata={"help": "Survey of the spectra; Specformer takes desi alone."})
    num_pairs: int = field(default=4000, metadata={"help": "Simulated pairs to train on."})
    simulation_seed: int = field(default=1, metadata={"help": "Seed of these pairs."})
    num_held_out: int = field(default=1000, metadata={"help": "Pairs that the report is about."})
    held_out_seed: int = field(default=2510, metadata={"help": "Seed of those, which must be another one."})
    reference: int = field(
        default=4000,
        metadata={"help": "Pairs whose labels properties are read from; nothing else is trained on them."},
    )
    reference_seed: int = field(default=2511, metadata={"help": "Seed of those, which must be a third one."})
    num_workers: int = field(default=0, metadata={"help": "Processes that simulate; 0 = one per core."})
    remember_states: bool = field(
        default=False,
        metadata={
            "help": "Run the frozen encoder once for each spectrum and keep its states in memory, 4 bytes x patches x "
            "hidden size each: for training on a CPU."
        },
    )
    augment: bool = field(
        default=True,
        metadata={"help": "Turn training images by any angle, and mirror them: they are simulated wider."},
    )
    neighbours: int = field(default=16, metadata={"help": "Nearest neighbours that properties are read from."})
    bootstrap: int = field(default=200, metadata={"help": "Bootstrap samples of the errors."})
    compare: list[str] = field(
        default_factory=list, metadata={"help": "Print figures of these output folders side by side, and no more."}
    )
    judge: str | None = field(
        default=None,
        metadata={
            "help": "Train nothing, and judge this AstroCLIP, a folder or Hub id; what is found goes to the folder "
            "`judged` in it, unless --output_dir says otherwise."
        },
    )
    overwrite_output: bool = field(default=False, metadata={"help": "Delete output_dir and start anew."})
    smoke: bool = field(default=False, metadata={"help": "A run of seconds that touches everything."})


class Stages:
    """Says how long each stage took, when it ends."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A block that is one stage.

        Args:
            name: Its name.
        """
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Options from a YAML file, if the first argument is one, and from the command line, which goes before it.

    Args:
        argv: Arguments without the program's name.

    Raises:
        ValueError: If the file sets an option that does not exist, there is no such family, or pairs of two purposes
            have one seed.
    """
    parsed = parse_options(
        argv,
        (ModelArguments, DataArguments, TrainingArguments),
        defaults=DEFAULTS,
        smoke=SMOKE,
        lists=("compare",),
        description=__doc__,
    )
    model, data, args = parsed
    check_choice("--spectrum_family", model.spectrum_family, tuple(pretrain.FAMILIES))
    seeds = data.simulation_seed, data.held_out_seed, data.reference_seed
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            "--simulation_seed, --held_out_seed and --reference_seed must differ, found "
            f"{', '.join(map(str, seeds))}: galaxies that were trained on would be judged, or read from"
        )
    if data.judge and args.output_dir == DEFAULTS["output_dir"]:
        args.output_dir = str(Path(data.judge, "judged"))
    return parsed


# Pairs --------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)  # several runs of one process share their pairs
def simulate_pairs(survey: str, count: int, seed: int, size: int, workers: int) -> list[GalaxyPair]:
    """Pairs by several processes, with a progress bar; the same ones by any number of processes.

    Args:
        survey: Survey of the spectra.
        count: Number of pairs.
        seed: Seed of the simulation.
        size: Pixels of a side of the images.
        workers: Number of processes; 0 = one per core.
    """
    from tqdm.auto import tqdm

    tasks = [(survey, seed, size, first, min(PER_TASK, count - first)) for first in range(0, count, PER_TASK)]
    parts: dict[int, list[GalaxyPair]] = {}
    with tqdm(desc=f"{survey} pairs, seed {seed}", total=count, unit="pair") as bar:
        for first, pairs in run_parallel(_simulate_part, tasks, workers or usable_cores()):
            parts[first] = pairs
            bar.update(len(pairs))
    return [pair for first in sorted(parts) for pair in parts[first]]


def _simulate_part(task: tuple[str, int, int, int, int]) -> tuple[int, list[GalaxyPair]]:
    survey, seed, size, first, count = task
    return first, simulate_galaxy_pairs(count, seed, start=first, survey=survey, image_size=size)


# Models -------------------------------------------------------------------------------------------


def pretrain_encoder(
    model_args: ModelArguments, pairs: Sequence[GalaxyPair], args: TrainingArguments, folder: Path
) -> None:
    """Train a new spectrum model for its own objective, on the spectra alone, and save it, whole or not at all.

    Args:
        model_args: What to train.
        pairs: Training pairs.
        args: Of the alignment; device, precision, seed and workers are the same.
        folder: Where it goes.
    """
    asked = pretrain.ModelArguments(
        family=model_args.spectrum_family,
        preset=model_args.spectrum_preset,
        config_overrides=model_args.spectrum_overrides,
    )
    model, processor = pretrain.make_model(asked)
    model.remember_processor(processor)
    spectra = [pair.spectrum for pair in pairs]
    from_pca = pretrain.start_from_patch_pca(
        model, processor, asked, TrainingData(spectra, None, spectra[:SAMPLE], [])
    )
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    trainer = pretrain.PretrainingTrainer(
        model=model,
        args=_pretraining_arguments(model_args, args, unfinished),
        processing_class=processor,
        data_collator=pretrain.make_collator(model, processor, PretrainingDataArguments(), args.seed),
        train_dataset=SpectrumDataset(spectra, processor, lazy=True),
        judge=None,  # what it is good for shows in the alignment
        linear_lr_factor=asked.linear_lr_factor if from_pca else 1.0,
    )
    if model_args.pretrain_steps:
        trainer.train()
    trainer.save_model(str(unfinished))
    trainer.accelerator.wait_for_everyone()
    if args.process_index == 0:
        os.replace(unfinished, folder)
    trainer.accelerator.wait_for_everyone()


def _pretraining_arguments(model_args: ModelArguments, args: TrainingArguments, folder: Path) -> TrainingArguments:
    shared = ("bf16", "use_cpu", "seed", "disable_tqdm", "dataloader_num_workers", "dataloader_pin_memory")
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=max(model_args.pretrain_steps, 1),
        per_device_train_batch_size=model_args.pretrain_batch_size,
        learning_rate=model_args.pretrain_learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.01,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        logging_steps=max(model_args.pretrain_steps // 20, 1),
        ddp_find_unused_parameters=False,
        **{name: getattr(args, name) for name in shared},
    )


def make_model(model_args: ModelArguments, spectrum_folder: str) -> tuple[AstroClipModel, AstroClipProcessor]:
    """The model to align, and its processor.

    Args:
        model_args: What to align.
        spectrum_folder: The pretrained spectrum model.
    """
    spectrum_model = AutoModel.from_pretrained(spectrum_folder)
    if model_args.vision_model:
        vision_model = AutoModel.from_pretrained(model_args.vision_model)
    else:
        config = read_fields("vision_config", model_args.vision_config)
        vision_model = AutoModel.from_config(AutoConfig.for_model(**config))
    overrides = read_fields("config_overrides", model_args.config_overrides)
    check_fields("config_overrides", overrides, AstroClipModel.config_class)
    fields = {"freeze_vision_model": bool(model_args.vision_model)} | overrides
    model = AstroClipModel.from_encoders(spectrum_model, vision_model, **fields)
    return model, model.config.new_processor(AutoProcessor.from_pretrained(spectrum_folder))


def image_size(model_args: ModelArguments) -> int:
    """Pixels of a side of the images that the vision model takes.

    Args:
        model_args: What to align.
    """
    if model_args.vision_model:
        config = AutoConfig.from_pretrained(model_args.vision_model).to_dict()
    else:
        config = read_fields("vision_config", model_args.vision_config)
    return int(config.get("image_size") or SMALL_VISION["image_size"])


# Training -----------------------------------------------------------------------------------------


@contextmanager
def remembered_states(encoder: PreTrainedModel) -> Iterator[None]:
    """A block in which an encoder runs once for each spectrum, and what it gave is kept.

    Args:
        encoder: A frozen encoder of spectra; it must see padded batches.
    """
    kept: dict[bytes, dict[str, torch.Tensor]] = {}
    run = encoder.forward

    def forward(flux: torch.Tensor, wavelength: torch.Tensor, **inputs: Any) -> ModelOutput:
        keys = [blake2b(row.tobytes(), digest_size=16).digest() for row in flux.float().cpu().numpy()]
        new = [place for place, key in enumerate(keys) if key not in kept]
        if new:
            chosen = {name: value[new] if torch.is_tensor(value) else value for name, value in inputs.items()}
            given = {
                name: value for name, value in run(flux[new], wavelength[new], **chosen).items() if value is not None
            }
            kept.update({keys[place]: {name: given[name][row] for name in given} for row, place in enumerate(new)})
        rows = [kept[key] for key in keys]
        return ModelOutput({name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward  # the class's own counts again


class AlignmentTrainer(ResumableTrainer):
    """Reads checkpoints as `from_pretrained` does.

    Transformers saves the weights of a ViT under the names of older releases. `Trainer` would not find them, warn, and
    go on with a new vision model.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        loaded = type(self.model).from_pretrained(resume_from_checkpoint)
        self.model.load_state_dict(loaded.state_dict())


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Align, judge, save; or compare what was judged.

    Args:
        argv: Arguments; None = those of the command line.

    Returns:
        What scores.json holds; of a comparison its rows by folder.
    """
    model_args, data, args = parse_arguments(sys.argv[1:] if argv is None else argv)
    if data.compare:
        return compare(data.compare)
    if data.judge:
        return judge(data, args)
    settings = {
        "model": asdict(model_args),
        "data": asdict(data) | {"overwrite_output": False, "num_workers": 0},
        "seed": args.seed,
        "global_batch": global_batch(args),
        "optimizer": describe_optimizer(args),
    }
    with prepared_output(args, settings, overwrite=data.overwrite_output) as checkpoint:
        return align(model_args, data, args, checkpoint)


def align(
    model_args: ModelArguments, data: DataArguments, args: TrainingArguments, checkpoint: str | None
) -> dict[str, Any]:
    """What `main` does, in a folder that is ready for it.

    Args:
        model_args: What to align.
        data: On what.
        args: Of the Trainer.
        checkpoint: The checkpoint to resume from, if any.

    Returns:
        What scores.json holds.
    """
    stages = Stages()
    set_seed(args.seed)
    with stages("simulation"):
        size = image_size(model_args)
        room = room_to_turn(size) if data.augment else size
        pairs = simulate_pairs(data.survey, data.num_pairs, data.simulation_seed, room, data.num_workers)
        judged = simulate_judged(data, size) if args.process_index == 0 else None
    encoder = model_args.spectrum_model
    if encoder is None:
        folder = Path(args.output_dir, "start", "spectrum_model")
        encoder = str(folder)
        if broadcast_object_list([not folder.is_dir()])[0]:  # else an interrupted run had it; as process 0 sees it
            with stages("pretraining"):
                pretrain_encoder(model_args, pairs, args, folder)
    model, processor = make_model(model_args, encoder)
    model.remember_processor(processor)
    seen = [pair.spectrum for pair in pairs[:SAMPLE]]
    model.config.training_domain = TrainingDomain.of(seen, processor.medium).as_json()
    trainer = AlignmentTrainer(
        model=model,
        args=args,
        processing_class=processor,
        data_collator=DataCollatorForPairs(processor, augment=data.augment, seed=args.seed),
        train_dataset=pairs if args.dataloader_num_workers else PairDataset(pairs, processor, augment=data.augment),
    )
    frozen = model.config.freeze_spectrum_model and data.remember_states
    with stages("alignment"), remembered_states(model.spectrum_model) if frozen else nullcontext():
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    if judged is None:
        return {}
    trained = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    facts = {"pairs": len(pairs), "epochs": trainer.state.epoch, "trained": trained}
    return finish(trainer.model, processor, judged, data, args, Path(args.output_dir), facts, stages)


def judge(data: DataArguments, args: TrainingArguments) -> dict[str, Any]:
    """Judge a model that was trained or converted before, and write what was found.

    Args:
        data: Says which, and on what.
        args: Of the Trainer: batch, precision, workers and output folder.

    Returns:
        What scores.json holds.

    Raises:
        FileExistsError: If the output folder holds a report.
        ValueError: If the model is no AstroCLIP.
    """
    model, processor = AutoModel.from_pretrained(data.judge), AutoProcessor.from_pretrained(data.judge)
    if model.config.model_type != "astroclip":
        raise ValueError(f"--judge takes a folder or Hub id of an AstroCLIP, found {model.config.model_type}")
    folder = Path(args.output_dir)
    if (folder / "report.md").exists() and not data.overwrite_output:
        raise FileExistsError(f"{folder} holds a report: give another --output_dir, or pass --overwrite_output true")
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages()
    with stages("simulation"):
        judged = simulate_judged(data, processor.image_size)
    return finish(model.to(args.device), processor, judged, data, args, folder, {"judged": data.judge}, stages)


def simulate_judged(data: DataArguments, size: int) -> tuple[list[GalaxyPair], list[GalaxyPair]]:
    """Pairs that nothing is trained on: those whose labels properties are read from, and those that are judged.

    Args:
        data: How many, and their seeds.
        size: Pixels of a side of the images.
    """
    asked = (data.reference, data.reference_seed), (data.num_held_out, data.held_out_seed)
    reference, held_out = (simulate_pairs(data.survey, *one, size, data.num_workers) for one in asked)
    return reference, held_out


def finish(
    model: AstroClipModel,
    processor: AstroClipProcessor,
    judged: tuple[list[GalaxyPair], list[GalaxyPair]],
    data: DataArguments,
    args: TrainingArguments,
    folder: Path,
    facts: dict[str, Any],
    stages: Stages,
) -> dict[str, Any]:
    """Judge a model on held-out pairs, and write what was found.

    Args:
        model: The model.
        processor: Its processor.
        judged: What `simulate_judged` gives.
        data: Says how to judge.
        args: Of the Trainer.
        folder: Where it goes.
        facts: What scores.json holds besides.
        stages: What was timed so far.

    Returns:
        What scores.json holds.
    """
    batch = args.train_batch_size * args.world_size
    workers = args.dataloader_num_workers
    protocol = Protocol(batch, data.neighbours, data.bootstrap, data.held_out_seed, workers, args.bf16)
    reference, held_out = judged
    settings = {
        "held_out": len(held_out),
        "held_out_seed": data.held_out_seed,
        "reference": len(reference),
        "reference_seed": data.reference_seed,
        "survey": data.survey,
        "bf16": args.bf16,
    }
    facts |= {"settings": settings, "seconds": stages.seconds}
    return write_report(model, processor, reference, held_out, protocol, facts, stages, folder)


if __name__ == "__main__":
    main()
