"""A `Trainer` for long runs on many processes.

Its order of training is given, its checkpoints are whole or they do not count, and a model that Transformers sharded
by FSDP2 can be resumed, also on another number of processes.
"""

import json
import math
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import DataLoader, Sampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from spectok_hf.data.streaming import SpectrumStream
from spectok_hf.data.whole_files import write_json

COMPLETE = "complete.json"  # written last: what has none was interrupted while it was saved


class ResumableTrainer(Trainer):
    """A `Trainer` whose order of training is given, and whose checkpoints survive being killed at any moment.

    Args:
        sampler: The order; None = the Trainer's own, or that of a `SpectrumStream`.
        **kwargs: Arguments of `Trainer`, by name.
    """

    def __init__(self, *, sampler: Sampler | None = None, **kwargs: Any):
        args: TrainingArguments = kwargs["args"]
        self.sharded = getattr(kwargs["model"], "is_distributed_loading_by_transformers", False)
        if args.n_gpu > 1:
            raise ValueError(
                f"one process must have one GPU, found {args.n_gpu}: start as many processes, with torchrun "
                "--nproc_per_node or accelerate launch, or choose one by CUDA_VISIBLE_DEVICES"
            )
        # Transformers' Trainer saves no optimizer of a model sharded at load time, and refuses to; this one does.
        only_model = args.save_only_model
        args.save_only_model = only_model or self.sharded
        super().__init__(**kwargs)
        args.save_only_model = only_model
        self.sampler = sampler
        self.add_callback(_Epochs(sampler))
        keep_inputs(getattr(self.accelerator.state, "fsdp_plugin", None))

    def get_train_dataloader(self) -> DataLoader:
        """As in `Trainer`; a stream takes its process's share itself, and needs nothing from accelerate."""
        stream = self.train_dataset
        if not isinstance(stream, SpectrumStream):
            return super().get_train_dataloader()
        stream.distribute(self.args.process_index, self.args.world_size, self._train_batch_size)
        return DataLoader(
            stream,
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
        )

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """As in `Trainer`, which would train a finished checkpoint for a step more; this one takes it as it is.

        Of what a stream gave before, the rows are read and left out, where `Trainer` would collate them again.
        """
        state = TrainerState()
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint, "trainer_state.json")))
            if self._is_finished(state):
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return None
        if isinstance(self.train_dataset, SpectrumStream):
            self.train_dataset.skip_batches(state.global_step * self.args.gradient_accumulation_steps)
            self.args.ignore_data_skip = True
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _is_finished(self, state: TrainerState) -> bool:
        if self.args.max_steps > 0:
            return state.global_step >= self.args.max_steps
        return math.ceil(self.args.num_train_epochs) <= state.num_train_epochs and state.global_step >= state.max_steps

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        return super()._get_train_sampler(*args, **kwargs) if self.sampler is None else self.sampler

    # Checkpoints ----------------------------------------------------------------------------------

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As in `Trainer`; a checkpoint counts when all processes have written theirs, and only then older ones go."""
        checkpoint = Path(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        if self.is_world_process_zero():
            (checkpoint / COMPLETE).unlink(missing_ok=True)  # of a run that went on from an earlier one
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            facts = {"step": self.state.global_step, "processes": self.args.world_size, "saved": time.time()}
            write_json(facts, checkpoint / COMPLETE)
            self._remove_old(limit)
        self.accelerator.wait_for_everyone()

    def _remove_old(self, limit: int | None) -> None:
        whole = whole_checkpoints(Path(self.args.output_dir))
        best = self.state.best_model_checkpoint
        for checkpoint in whole[: max(len(whole) - limit, 0)] if limit else ():
            if best is None or checkpoint.resolve() != Path(best).resolve():
                remove_checkpoint(checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            return super()._save_optimizer_and_scheduler(output_dir)
        from transformers.distributed.checkpoint import save_optimizer_distributed

        save_optimizer_distributed(self.model, self.optimizer, str(Path(output_dir, "optimizer")))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            name = "optimizer" if self.sharded else "optimizer.pt"
            if not Path(checkpoint, name).exists():  # where `Trainer` would silently begin with a new one
                raise ValueError(
                    f"{checkpoint} must hold {name}, the optimizer of a model that is {'' if self.sharded else 'not '}"
                    "sharded by FSDP2: go on as the run was begun"
                )
        if not self.sharded or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        from transformers.distributed.checkpoint import load_optimizer_distributed

        load_optimizer_distributed(self.model, self.optimizer, str(Path(checkpoint, "optimizer")))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, "scheduler.pt"), weights_only=True))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self.sharded:  # else it was loaded from there, which is how it comes to be sharded
            super()._load_from_checkpoint(resume_from_checkpoint, model)


class _Epochs(TrainerCallback):
    """Tells the sampler the epoch: accelerate's loader does not reach it where a resumed epoch is cut short."""

    def __init__(self, sampler: Sampler | None):
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(int(state.epoch))


def keep_inputs(plugin: Any) -> None:
    """Keep accelerate's FSDP2 from casting inputs: wavelengths in bfloat16 are wrong by 32-128 Å.

    Nor are outputs cast, and gradients are added up in float32.

    Args:
        plugin: Of the accelerator's state; changed in place. None, or one without mixed precision, stays as it is.
    """
    policy = getattr(plugin, "mixed_precision_policy", None)
    if policy is not None and plugin.fsdp_version == 2:
        plugin.mixed_precision_policy = type(policy)(
            param_dtype=policy.param_dtype, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False
        )


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run that were written to the end, in the order in which they were.

    Args:
        folder: The output folder.
    """
    marks = [(json.loads(path.read_text())["saved"], path.parent) for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return [checkpoint for _, checkpoint in sorted(marks)]


def check_readable(checkpoint: Path) -> None:
    """Refuse a checkpoint that was whole, and of which a file was cut short since.

    Args:
        checkpoint: Its folder.

    Raises:
        ValueError: If so.
    """
    for path in sorted(checkpoint.iterdir()):
        if found := _damage_of(path):
            raise ValueError(f"{path} is damaged ({found}): delete {checkpoint}, and the checkpoint before it counts")


def _damage_of(path: Path) -> str:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):  # it compares the header with the size
                pass
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):  # whose table comes last
            return "no end"
    except (SafetensorError, ValueError) as error:
        return str(error)
    return ""


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint, so that it does not count from the first moment on.

    Args:
        checkpoint: Its folder.
    """
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)
