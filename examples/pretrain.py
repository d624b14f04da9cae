"""Pretrain SpecTok on simulated spectra, FITS folders, prepared shards or streams, on one process or many nodes.

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
`spectok_hf.evaluation.contrastive`; batches then hold two views of each spectrum.

Batches are packed: a fixed number of spectra, whatever their lengths, and no padding. On a GPU, --bf16 --torch_compile
--pad_to with room for the longest batch give one graph of one shape.
"""

import gc
import re
import sys
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from judges import ReconstructionJudge, RetrievalJudge
from muon import MuonAndAdamW
from resumable_trainer import ResumableTrainer
from run_settings import parse_options, prepared_output, read_json
from training_data import DataArguments, TrainingData, describe_shards, global_batch, load_data
from transformers import AutoModelForPreTraining, AutoProcessor, TrainingArguments, set_seed

from spectok_hf import DataCollatorForPackedSpectra, SpecTokConfig, SpecTokForPreTraining, Spectrum, SpectrumProcessor
from spectok_hf.data.dataset import SpectrumDataset, by_survey, survey_name
from spectok_hf.data.domain import TrainingDomain
from spectok_hf.data.views import DataCollatorForContrastiveSpectra
from spectok_hf.data.whole_files import written_whole
from spectok_hf.evaluation.reconstruction import clean_patches
from spectok_hf.evaluation.throughput import Throughput, matmul_rate

BLOCK_MATRICES = re.compile(r"layers\.\d+\..*\.weight$")
LINEAR_MAPS = re.compile(r"(embeddings\.projection|bottleneck|latent_projection|head)\.(weight|bias)$")
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

    preset: str = field(default="tiny", metadata={"help": "Size of a new model: tiny, small or base."})
    config_overrides: str = field(
        default="{}", metadata={"help": "Fields of SpecTokConfig that differ from the preset, as JSON (or YAML)."}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "Continue from this checkpoint instead."})
    patch_pca_start: bool = field(default=True, metadata={"help": "Start a new model from a PCA of patches."})
    linear_lr_factor: float = field(
        default=0.05, metadata={"help": "Learning rate of the maps that this start already solves, times the others'."}
    )
    muon_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Train the matrices of the blocks by Muon, with this learning rate, and the rest by AdamW; None = "
            "AdamW trains all (the paper)."
        },
    )
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
        linear_lr_factor: Learning rate of the linear maps that the patch-PCA start solves, relative to the others'.
            Adam moves every weight by about the learning rate, and in these maps 32 nearly equal pixels add up: at
            full rate the start is lost first, and most of a short training goes into finding it again.
        muon_learning_rate: Learning rate of the matrices of the blocks, by Muon; None = AdamW trains them too.
        **kwargs: Arguments of `ResumableTrainer`.
    """

    def __init__(
        self,
        *,
        judge: ReconstructionJudge | RetrievalJudge,
        linear_lr_factor: float = 1.0,
        muon_learning_rate: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.judge = judge
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
        ValueError: If the file sets an option that does not exist.
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
    _, data, training = parsed
    if data.pad_to is not None:  # which has room for a training batch
        training.per_device_eval_batch_size = min(
            training.per_device_eval_batch_size, training.per_device_train_batch_size
        )
    return parsed


def make_model(args: ModelArguments) -> tuple[SpecTokForPreTraining, SpectrumProcessor]:
    """The model to train, from a checkpoint or new, and its processor.

    Args:
        args: What to make.
    """
    if args.model_name_or_path:
        path = args.model_name_or_path
        return AutoModelForPreTraining.from_pretrained(path), AutoProcessor.from_pretrained(path)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset(args.preset, **read_json(args.config_overrides)))
    return model, SpectrumProcessor(patch_size=model.config.patch_size)


def start_from_patch_pca(
    model: SpecTokForPreTraining, processor: SpectrumProcessor, args: ModelArguments, sample: TrainingData
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
    linear = config.decoder_type == "mirror" and config.norm_placement == "pre"
    wanted = new and linear and config.objective != "contrastive"
    if wanted:
        features = [processor.patch(spectrum) for spectrum in sample.sample]
        model.initialize_from_patch_pca(*map(torch.from_numpy, clean_patches(features)))
    return wanted


def shard_model(
    model: SpecTokForPreTraining, fsdp_size: int, args: TrainingArguments, checkpoint: str | None
) -> SpecTokForPreTraining:
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


def make_collator(model: SpecTokForPreTraining, processor: SpectrumProcessor, data: DataArguments, seed: int) -> Any:
    """Packed batches as the objective asks for them: runs of pixels hidden, or patches, or two views of each spectrum.

    Args:
        model: The model.
        processor: Its processor.
        data: Says how much to hide, and to pad.
        seed: Seed of the draw.
    """
    if read_json(data.stream):
        processor = copy(processor)
        processor.on_invalid = "mask"  # what a stream has of no use is not known before
    if model.config.objective == "contrastive":
        options = {} if data.hide_ratio is None else {"hide_ratio": data.hide_ratio}
        return DataCollatorForContrastiveSpectra(processor, seed=seed, pad_to=data.pad_to, **options)
    hide, ratio = ("patches", model.config.mask_ratio) if model.config.objective == "masked" else ("runs", 0.1)
    ratio = ratio if data.hide_ratio is None else data.hide_ratio
    return DataCollatorForPackedSpectra(processor, hide=hide, hide_ratio=ratio, seed=seed, pad_to=data.pad_to)


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
    contrastive = model.config.objective == "contrastive"
    data = load_data(data_args, processor, args, pairs=contrastive)
    model.remember_processor(processor)
    before = TrainingDomain.from_config(model.config, processor.medium)
    model.config.training_domain = TrainingDomain.of(data.sample, processor.medium).joined(before).as_json()
    from_pca = start_from_patch_pca(model, processor, model_args, data)
    if model_args.fsdp_size:
        if model_args.muon_learning_rate is not None:
            raise ValueError("--muon_learning_rate needs whole matrices: leave it out, or --fsdp_size")
        model = shard_model(model, model_args.fsdp_size, args, checkpoint)
        model.remember_processor(processor)
    collator = make_collator(model, processor, data_args, args.seed)
    held_out = by_survey(data.held_out)
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        processing_class=processor,
        data_collator=collator,
        train_dataset=data.train,
        eval_dataset={name: SpectrumDataset(part, processor, lazy=contrastive) for name, part in held_out.items()},
        judge=RetrievalJudge(DataCollatorForContrastiveSpectra(processor, seed=args.seed))
        if contrastive
        else ReconstructionJudge(processor, data.sample, model.config.latent_size, data_args.simulate),
        sampler=data.sampler,
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
        ValueError: If a contrastive batch would hold a single object.
    """
    described = {
        "model": asdict(model_args) | {"fsdp_size": bool(model_args.fsdp_size)},
        "data": asdict(data_args) | {"overwrite_output": False},
        "shards": describe_shards(data_args),
        "seed": args.seed,
        "global_batch": global_batch(args),
    }
    if read_json(model_args.config_overrides).get("objective") == "contrastive":
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
