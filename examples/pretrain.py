"""Pretrain a model on simulated spectra, FITS folders, prepared shards or streams, on one process or many nodes.

    python examples/pretrain.py examples/configs/tiny.yaml
    accelerate launch examples/pretrain.py examples/configs/tiny.yaml --max_steps 2000
    spectok prepare my_spectra simulate:sdss:100000 -o shards
    torchrun --nproc_per_node 8 examples/pretrain.py examples/configs/paper.yaml --shards shards
    python examples/pretrain.py --smoke

A YAML file sets any option of `--help`; options on the command line go before it. A run that was interrupted, at any
moment, goes on from its last whole checkpoint with the same command, also on another number of processes as long as
the global batch (spectra per process, times processes, times accumulation steps) is the same; `--overwrite_output`
starts anew. After each evaluation the log holds, for every survey, the loss and the figures of
`spectok_hf.evaluation.reconstruction`, and `output_dir/plots` the reconstruction of one held-out spectrum; beside each
training loss it holds the speed of all processes; `--report_to tensorboard` or `trackio` draws it all. Model and
processor are saved to `output_dir`. docs/training.md says more.

`--config_overrides '{"objective": "contrastive"}'` compares views instead, and the figures are those of
`spectok_hf.evaluation.contrastive`; batches then hold two views of each spectrum. `--family omnispectra` and `--family
specformer` train those families, by what they put into hidden chunks, with the figures of
`spectok_hf.evaluation.masked`; Specformer reads spectra on DESI's grid alone (`--simulate desi`).

Batches are packed: a fixed number of spectra, whatever their lengths, and no padding. On a GPU, --bf16 --torch_compile
--pad_to with room for the longest batch give one graph of one shape.
"""

import gc
import re
import sys
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from judges import Judge, MaskedJudge, ReconstructionJudge, RetrievalJudge
from muon import MuonAndAdamW
from resumable_trainer import ResumableTrainer
from run_settings import check_fields, describe_optimizer, parse_options, prepared_output, read_fields
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from training_data import DataArguments, TrainingData, describe_shards, global_batch, load_data
from transformers import (
    AutoModelForPreTraining,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from spectok_hf import (
    DataCollatorForPackedSpectra,
    OmniSpectraConfig,
    SpecformerConfig,
    SpecTokConfig,
    Spectrum,
    SpectrumProcessor,
)
from spectok_hf.data.dataset import SpectrumDataset, by_survey, survey_name
from spectok_hf.data.domain import TrainingDomain
from spectok_hf.data.views import DataCollatorForContrastiveSpectra
from spectok_hf.data.whole_files import written_whole
from spectok_hf.evaluation.masked import chunk_options
from spectok_hf.evaluation.reconstruction import clean_patches
from spectok_hf.evaluation.throughput import Throughput, matmul_rate
from spectok_hf.models.spectrum import check_choice

BLOCK_MATRICES = re.compile(r"layers\.\d+\..*\.weight$")
LINEAR_MAPS = re.compile(r"(embeddings\.projection|bottleneck|latent_projection|head)\.(weight|bias)$")
FAMILIES: dict[str, Any] = {
    config.model_type: config for config in (SpecTokConfig, OmniSpectraConfig, SpecformerConfig)
}
# By objective: what the collator hides.
HIDDEN: dict[str, Callable[[PreTrainedConfig], dict[str, Any]]] = {
    "reconstruction": lambda config: {"hide": "runs", "hide_ratio": 0.1},
    "masked": lambda config: {"hide": "patches", "hide_ratio": config.mask_ratio},
    "chunks": chunk_options,
}
DEFAULT_SCHEDULE = "linear"  # of TrainingArguments
SMOKE = {
    "simulate": ["sdss", "apogee"],
    "num_simulated": 12,
    "max_steps": 4,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "per_device_train_batch_size": 4,
    "output_dir": "outputs/pretrain-smoke",
}


@dataclass
class ModelArguments:
    """What to train."""

    family: str = field(
        default="spectok", metadata={"help": "Of a new model: spectok, omnispectra or specformer (DESI's grid alone)."}
    )
    preset: str = field(default="tiny", metadata={"help": "Size of a new model: tiny, small or base."})
    config_overrides: str = field(
        default="{}",
        metadata={"help": "Fields of the family's config that differ from the preset, as JSON (or YAML)."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Continue from this checkpoint instead, which knows its family and size."}
    )
    patch_pca_start: bool = field(
        default=True, metadata={"help": "Start a new SpecTok from a PCA of patches; others have no such start."}
    )
    linear_lr_factor: float = field(
        default=0.05, metadata={"help": "Learning rate of the maps that this start already solves, times the others'."}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Train the matrices of SpecTok's blocks by Muon, with this learning rate, and the rest by AdamW; "
            "None = AdamW trains all (the paper)."
        },
    )
    restart_every: int | None = field(
        default=None,
        metadata={
            "help": "Let the learning rate fall along a cosine from --learning_rate to --min_learning_rate in so many "
            "steps, again and again (OmniSpectra's paper), instead of by --lr_scheduler_type."
        },
    )
    min_learning_rate: float = field(default=0.0, metadata={"help": "Where it falls to before each restart."})
    fsdp_size: int = field(
        default=0,
        metadata={
            "help": "Shard the model over so many processes (FSDP2 of Transformers, 5.16 or newer); where there are "
            "more processes, over each so many. 0 = every process has all of it (DistributedDataParallel)."
        },
    )


class PretrainingTrainer(ResumableTrainer):
    """Adds the speed to its log, and the reconstruction figures and plots of each survey to its evaluation.

    Args:
        judge: Says how well the model does, by its objective.
        restart_every: Steps from one restart of the learning rate to the next; None = `args.lr_scheduler_type`.
        min_learning_rate: Learning rate before each restart.
        linear_lr_factor: Learning rate of the linear maps that the patch-PCA start solves, relative to the others'.
            Adam moves every weight by about the learning rate, and in these maps 32 nearly equal pixels add up: at
            full rate the start is lost first, and most of a short training goes into finding it again.
        muon_learning_rate: Learning rate of the matrices of the blocks, by Muon; None = AdamW trains them too.
        **kwargs: Arguments of `ResumableTrainer`.
    """

    def __init__(
        self,
        *,
        judge: Judge,
        restart_every: int | None = None,
        min_learning_rate: float = 0.0,
        linear_lr_factor: float = 1.0,
        muon_learning_rate: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.judge = judge
        self.restart_every, self.min_learning_rate = restart_every, min_learning_rate
        self.linear_lr_factor, self.muon_learning_rate = linear_lr_factor, muon_learning_rate
        dtype = torch.bfloat16 if self.args.bf16 else torch.float32
        self.throughput = Throughput(self.model, matmul_rate(self.args.device, dtype))

    def training_step(self, model, inputs, *args, **kwargs) -> torch.Tensor:
        """As in `Trainer`, and counts the batch."""
        self.throughput.count(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As in `Trainer`, with the speed of all processes since the last log beside a training loss."""
        super().log(logs | self.throughput.report(self._add_up) if "loss" in logs else logs, *args, **kwargs)

    def _add_up(self, counts: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(counts.to(self.args.device), reduction="sum")

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As in `Trainer`; its time does not count as training."""
        metrics = super().evaluate(*args, **kwargs)
        self.throughput.restart()
        return metrics

    def create_optimizer(self, *args, **kwargs):
        """As in `Trainer`, with the linear maps in parameter groups of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        linear = {id(weight) for name, weight in self.model.named_parameters() if LINEAR_MAPS.search(name)}
        for group in list(optimizer.param_groups):
            slow = [weight for weight in group["params"] if id(weight) in linear]
            group["params"] = [weight for weight in group["params"] if id(weight) not in linear]
            if slow:
                optimizer.add_param_group(group | {"params": slow, "lr": group["lr"] * self.linear_lr_factor})
        if self.muon_learning_rate is not None:
            named = self.model.named_parameters()
            matrices = [weight for name, weight in named if weight.ndim == 2 and BLOCK_MATRICES.search(name)]
            rates = {"learning_rate": self.muon_learning_rate, "weight_decay": self.args.weight_decay}
            self.optimizer = optimizer = MuonAndAdamW(optimizer, matrices, **rates)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As in `Trainer`, or cosine restarts (SGDR, arXiv 1608.03983), which need not know the number of steps."""
        if self.restart_every is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = CosineAnnealingWarmRestarts(
                optimizer or self.optimizer, self.restart_every, eta_min=self.min_learning_rate
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        """As in `Trainer`, with figures of the whole data set added to the metrics."""
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        spectra = dataloader.dataset.spectra
        figures = self.judge.figures(self.model, spectra)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in figures.items()})
        if self.is_world_process_zero():
            name = f"step-{self.state.global_step:07d}/{survey_name(spectra[0])}.png"
            self.judge.draw(self.model, spectra[0], Path(self.args.output_dir, "plots", name))
        return output


def parse_arguments(argv: list[str]) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """Options from a YAML file, if the first argument is one, and from the command line, which goes before it.

    Args:
        argv: Arguments without the program's name.

    Raises:
        ValueError: If the file sets an option that does not exist, there is no such family, or options of the
            learning rate do not go together.
    """
    parsed = parse_options(
        argv,
        (ModelArguments, DataArguments, TrainingArguments),
        # Every parameter is used in every step.
        defaults={"output_dir": "outputs/pretrain", "ddp_find_unused_parameters": False, "log_on_each_node": False},
        smoke=SMOKE,
        lists=("simulate", "data", "weights", "shards", "without"),
        description=__doc__,
    )
    model, data, training = parsed
    check_choice("--family", model.family, tuple(FAMILIES))
    check_restarts(model, training)
    if data.pad_to is not None:  # which has room for a training batch
        training.per_device_eval_batch_size = min(
            training.per_device_eval_batch_size, training.per_device_train_batch_size
        )
    return parsed


def check_restarts(model: ModelArguments, training: TrainingArguments) -> None:
    """Refuse options of the learning rate of which one would do nothing.

    Args:
        model: Says how it restarts.
        training: Says what it would do else.

    Raises:
        ValueError: If so.
    """
    every, least = model.restart_every, model.min_learning_rate
    if every is None:
        if least:
            raise ValueError(f"--min_learning_rate={least:g} does nothing without --restart_every: pass both, or none")
        return
    if every < 1 or not 0 <= least <= training.learning_rate:
        raise ValueError(
            "--restart_every must be at least 1 step, and --min_learning_rate between 0 and --learning_rate="
            f"{training.learning_rate:g}, found {every} and {least:g}"
        )
    if training.lr_scheduler_type != DEFAULT_SCHEDULE or training.warmup_steps:
        raise ValueError(
            "--restart_every is a schedule of its own, without warm-up: leave out --lr_scheduler_type and "
            f"--warmup_steps, found {training.lr_scheduler_type} and {training.warmup_steps:g}"
        )


def objective_of(config: PreTrainedConfig) -> str:
    """What a model is trained for: the objective of a SpecTok, or "chunks", what was hidden from another family.

    Args:
        config: Its config.
    """
    return getattr(config, "objective", "chunks")


def make_model(args: ModelArguments) -> tuple[PreTrainedModel, SpectrumProcessor]:
    """The model to train, from a checkpoint or new, and its processor.

    Args:
        args: What to make.

    Raises:
        ValueError: If a field is given that the config does not have, or that a checkpoint has otherwise.
    """
    overrides = read_fields("config_overrides", args.config_overrides)
    if args.model_name_or_path:
        path = args.model_name_or_path
        model = AutoModelForPreTraining.from_pretrained(path)
        own = model.config.to_dict()
        if differing := [f"{name}={own.get(name)!r}" for name in overrides if own.get(name) != overrides[name]]:
            raise ValueError(
                f"--config_overrides must be what {path} was made with, found that it has {', '.join(differing)}: "
                "leave them out, or begin a new model"
            )
        return model, AutoProcessor.from_pretrained(path)
    check_fields("config_overrides", overrides, FAMILIES[args.family])
    config = FAMILIES[args.family].from_preset(args.preset, **overrides)
    return AutoModelForPreTraining.from_config(config), config.new_processor()


def start_from_patch_pca(
    model: PreTrainedModel, processor: SpectrumProcessor, args: ModelArguments, sample: TrainingData
) -> bool:
    """Start a new model from a PCA of training patches, where it can; says whether it did.

    Args:
        model: The model.
        processor: Its processor.
        args: Whether it is wanted, and whether the model is new.
        sample: Holds training spectra.
    """
    config = model.config
    new = args.patch_pca_start and not args.model_name_or_path
    decodes = objective_of(config) in ("reconstruction", "masked")
    wanted = new and decodes and config.decoder_type == "mirror" and config.norm_placement == "pre"
    if wanted:
        features = [processor.patch(spectrum) for spectrum in sample.sample]
        model.initialize_from_patch_pca(*map(torch.from_numpy, clean_patches(features)))
    return wanted


def shard_model(
    model: PreTrainedModel, fsdp_size: int, args: TrainingArguments, checkpoint: str | None
) -> PreTrainedModel:
    """The model, or that of the checkpoint, sharded by Transformers' FSDP2.

    Args:
        model: The model as it starts; it is written to `output_dir/start`, from where every process loads its part.
        fsdp_size: Processes that share one copy.
        args: Of the Trainer.
        checkpoint: The checkpoint that the training goes on from, if any.

    Raises:
        ValueError: If the processes cannot be divided so.
        ImportError: If Transformers is too old for it.
    """
    try:
        from transformers.distributed import DistributedConfig
        from transformers.distributed.checkpoint import save_optimizer_distributed  # noqa: F401  # for checkpoints
    except ImportError as error:
        raise ImportError('--fsdp_size needs a newer Transformers: pip install "transformers>=5.16"') from error
    if args.world_size % fsdp_size:
        raise ValueError(
            f"--fsdp_size must divide the number of processes, found {fsdp_size} and {args.world_size}: start them "
            "with torchrun or accelerate launch"
        )
    start = Path(args.output_dir, "start")
    with args.main_process_first(local=False, desc="the model to shard"):
        if checkpoint is None and args.process_index == 0:
            model.save_pretrained(start)
    replicas = args.world_size // fsdp_size
    config = DistributedConfig(fsdp_size=fsdp_size, **({"dp_replicate_size": replicas} if replicas > 1 else {}))
    return AutoModelForPreTraining.from_pretrained(checkpoint or start, distributed_config=config)


def make_collator(model: PreTrainedModel, processor: SpectrumProcessor, data: DataArguments, seed: int) -> Any:
    """Packed batches as the objective asks for them: runs, patches or chunks hidden, or two views of each spectrum.

    Args:
        model: The model.
        processor: Its processor.
        data: Says how much to hide, and to pad.
        seed: Seed of the draw.

    Raises:
        ValueError: If it says how much of a model whose config says how many chunks.
    """
    if read_fields("stream", data.stream):
        processor = copy(processor)
        processor.on_invalid = "mask"  # what a stream has of no use is not known before
    objective = objective_of(model.config)
    asked = {} if data.hide_ratio is None else {"hide_ratio": data.hide_ratio}
    if objective == "contrastive":
        return DataCollatorForContrastiveSpectra(processor, seed=seed, pad_to=data.pad_to, **asked)
    hidden = HIDDEN[objective](model.config) | asked
    return DataCollatorForPackedSpectra(processor, seed=seed, pad_to=data.pad_to, **hidden)


def make_judge(
    model: PreTrainedModel, processor: SpectrumProcessor, data: TrainingData, simulated: list[str], seed: int
) -> Judge:
    """What says how well a model of this objective does.

    Args:
        model: The model.
        processor: Its processor.
        data: Holds training spectra.
        simulated: Surveys that are simulated.
        seed: Seed of what is drawn.
    """
    objective = objective_of(model.config)
    if objective == "contrastive":
        return RetrievalJudge(DataCollatorForContrastiveSpectra(processor, seed=seed))
    if objective == "chunks":
        return MaskedJudge(processor, seed)
    return ReconstructionJudge(processor, data.sample, model.config.latent_size, simulated)


def check_optimizer(model: PreTrainedModel, args: ModelArguments) -> None:
    """Refuse Muon where it does not go.

    Args:
        model: The model.
        args: Says whether it is wanted.

    Raises:
        ValueError: If the model is sharded, or no SpecTok.
    """
    if args.muon_learning_rate is None:
        return
    if args.fsdp_size:
        raise ValueError("--muon_learning_rate needs whole matrices: leave it out, or --fsdp_size")
    if model.config.model_type != "spectok":
        raise ValueError(f"--muon_learning_rate is for SpecTok, found {model.config.model_type}: leave it out")


def main(argv: list[str] | None = None) -> tuple[PretrainingTrainer, list[Spectrum]]:
    """Train, evaluate, save.

    Args:
        argv: Arguments; None = those of the command line.

    Returns:
        The trainer and the held-out spectra.
    """
    model_args, data_args, args = parse_arguments(sys.argv[1:] if argv is None else argv)
    described = describe_run(model_args, data_args, args)
    with prepared_output(args, described, overwrite=data_args.overwrite_output) as checkpoint:
        return train(model_args, data_args, args, checkpoint)


def train(
    model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments, checkpoint: str | None
) -> tuple[PretrainingTrainer, list[Spectrum]]:
    """What `main` does, in a folder that is ready for it.

    Args:
        model_args: What to train.
        data_args: On what.
        args: Of the Trainer.
        checkpoint: The checkpoint to resume from, if any.

    Returns:
        The trainer and the held-out spectra.
    """
    set_seed(args.seed)
    model, processor = make_model(model_args)
    check_optimizer(model, model_args)
    contrastive = objective_of(model.config) == "contrastive"
    collator = make_collator(model, processor, data_args, args.seed)
    data = load_data(data_args, processor, args, pairs=contrastive)
    for spectra in by_survey(data.sample).values():
        processor.patch(spectra[0])  # a grid that the model cannot read is an error now, not when a batch needs it
    model.remember_processor(processor)
    before = TrainingDomain.from_config(model.config, processor.medium)
    model.config.training_domain = TrainingDomain.of(data.sample, processor.medium).joined(before).as_json()
    from_pca = start_from_patch_pca(model, processor, model_args, data)
    if model_args.fsdp_size:
        model = shard_model(model, model_args.fsdp_size, args, checkpoint)
        model.remember_processor(processor)
    held_out = by_survey(data.held_out)
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        processing_class=processor,
        data_collator=collator,
        train_dataset=data.train,
        eval_dataset={name: SpectrumDataset(part, processor, lazy=contrastive) for name, part in held_out.items()},
        judge=make_judge(model, processor, data, data_args.simulate, args.seed),
        sampler=data.sampler,
        restart_every=model_args.restart_every,
        min_learning_rate=model_args.min_learning_rate,
        linear_lr_factor=model_args.linear_lr_factor if from_pca else 1.0,
        muon_learning_rate=model_args.muon_learning_rate,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    report(trainer, data.held_out)
    return trainer, data.held_out


def describe_run(model_args: ModelArguments, data_args: DataArguments, args: TrainingArguments) -> dict[str, Any]:
    """What must be the same for a run to be gone on with.

    Args:
        model_args: What is trained; over how many processes a sharded model is spread does not matter.
        data_args: On what.
        args: Of the Trainer.

    Raises:
        ValueError: If a folder holds no shards, or a contrastive batch would hold a single object.
    """
    described = {
        "model": asdict(model_args) | {"fsdp_size": bool(model_args.fsdp_size)},
        "data": asdict(data_args) | {"overwrite_output": False, "verify_shards": None},
        "shards": describe_shards(data_args),
        "seed": args.seed,
        "global_batch": global_batch(args),
        "optimizer": describe_optimizer(args),
    }
    if read_fields("config_overrides", model_args.config_overrides).get("objective") == "contrastive":
        compared = args.train_batch_size * args.world_size
        if compared < 2:
            raise ValueError(
                "the contrastive objective needs two objects to compare, found one per step: raise "
                "--per_device_train_batch_size"
            )
        described["compared"] = compared  # with accumulation fewer than the global batch
    return described


def report(trainer: PretrainingTrainer, held_out: list[Spectrum]) -> None:
    """Print the tables of the finished model and write them to `output_dir/report.md`.

    Args:
        trainer: The trainer.
        held_out: Held-out spectra.
    """
    if not (trainer.sharded or trainer.is_world_process_zero()):  # a sharded model needs all processes
        return
    text = trainer.judge.report(trainer.model, held_out)
    if trainer.is_world_process_zero():
        print(f"\n{text}")
        with written_whole(Path(trainer.args.output_dir, "report.md")) as path:
            path.write_text(text + "\n")


def launch() -> None:
    """Run `main`, and end the process group when all processes are done."""
    main()
    gc.collect()  # what uses the group goes before it: a model that is freed later might wait for ever
    state = PartialState()
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    launch()
