"""Whole models trained for a task by `Trainer`, whichever inputs they take, and what such a training costs."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ..data.collators import collator_for
from ..data.dataset import SpectrumDataset
from ..models.heads import NO_CLASS
from ..models.spectrum import Spectrum

TRAINING_FLOP = 3  # of one forward pass: the backward pass has two products for each of its products
LEAST_VALIDATION = 100  # spectra: with fewer, the weights of least validation loss are chosen by chance
MOST_VALIDATION = 200  # spectra that they are chosen by, evenly taken from all: it shall cost less than training

# Of a network and one batch of its inputs, arguments by name or in order: the steps to train for.
Steps = Callable[[torch.nn.Module, Any], int]


@dataclass(frozen=True)
class TrainOptions:
    """How a whole model is trained: AdamW, warm-up over a twentieth of the steps, then a cosine to 0.

    Args:
        steps: Steps, or what tells them from the model and a batch of its inputs, such as `steps_within`.
        batch_size: Spectra per step.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay.
        checks: How often the loss on validation is taken. The best weights are kept where validation has 100 labelled
            spectra or more; 0 = the last ones.
    """

    steps: int | Steps = 1500
    batch_size: int = 16
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    checks: int = 0


def forward_flop(model: torch.nn.Module, batch: Any) -> int:
    """Floating-point operations of one forward pass, 2 per multiplication and addition of matrix products.

    Counted by `torch.utils.flop_counter.FlopCounterMode` in one pass, with attention as plain products: the fused
    kernel of CPUs is not among those that it knows.

    Args:
        model: Any network.
        batch: Its inputs: arguments by name, several in order, or the only one.
    """
    training = model.training
    buffers = {name: value.clone() for name, value in model.named_buffers()}  # batch norms learn from any batch
    model.train()  # torch's own encoder has a fused path in evaluation, which is not counted either
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            _call(model, batch)
    finally:
        model.train(training)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    return counter.get_total_flops()


def steps_within(flop: float) -> Steps:
    """Steps whose forward and backward passes cost so much, at least one.

    Args:
        flop: Floating-point operations of the whole training.
    """

    def steps(model: torch.nn.Module, batch: Any) -> int:
        return max(round(flop / (TRAINING_FLOP * forward_flop(model, batch))), 1)

    return steps


def _call(model: torch.nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)


def train_model(
    model: Any,
    processor: Any,
    train: tuple[Sequence[Spectrum], torch.Tensor],
    validation: tuple[Sequence[Spectrum], torch.Tensor],
    options: TrainOptions,
    *,
    seed: int,
) -> None:
    """Train all that is not frozen of a model, in place, on whatever device `Trainer` takes; it comes back to the CPU.

    Args:
        model: A model with a task head.
        processor: Its processor.
        train: Spectra, and what the model takes as their labels.
        validation: The same of spectra that the best weights are chosen by.
        options: How.
        seed: Seed of the order of training.
    """
    dataset = SpectrumDataset(train[0], processor, labels=train[1].numpy())
    collator = collator_for(processor)
    steps = options.steps
    if not isinstance(steps, int):
        steps = steps(model, collator([dataset[row] for row in range(min(options.batch_size, len(dataset)))]))
    best = _BestWeights(model, processor, validation, steps, options)
    with tempfile.TemporaryDirectory() as folder:
        arguments = _training_arguments(folder, steps, options, seed)
        # What was counted is whole batches.
        arguments.dataloader_drop_last = steps is not options.steps and len(dataset) >= options.batch_size
        trainer = Trainer(model, arguments, data_collator=collator, train_dataset=dataset, callbacks=[best])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    best.load()
    model.cpu().eval()


def _training_arguments(folder: str, steps: int, options: TrainOptions, seed: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 20,
        weight_decay=options.weight_decay,
        per_device_train_batch_size=options.batch_size,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=seed,
    )


class _BestWeights(TrainerCallback):
    """Keeps the weights of least validation loss in memory, where validation can tell."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        validation: tuple[Sequence[Spectrum], torch.Tensor],
        steps: int,
        options: TrainOptions,
    ):
        self.model, self.loss = model, math.inf
        self.weights: dict[str, torch.Tensor] | None = None
        spectra, labels = validation
        known = [row for row, label in enumerate(labels) if _is_known(label)]
        self.every = max(steps // options.checks, 1) if options.checks and len(known) >= LEAST_VALIDATION else 0
        if self.every:
            rows = known[:: math.ceil(len(known) / MOST_VALIDATION)]
            chosen = SpectrumDataset([spectra[row] for row in rows], processor, labels=labels[rows].numpy())
            size, collator = max(options.batch_size, 32), collator_for(processor)
            self.batches = [collator(chosen.features[first : first + size]) for first in range(0, len(chosen), size)]

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.every or state.global_step % self.every:
            return
        loss = mean_loss(self.model, self.batches)
        if loss < self.loss:
            self.loss = loss
            self.weights = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}

    def load(self) -> None:
        """Put the best weights back."""
        if self.weights is not None:
            self.model.load_state_dict(self.weights)


def random_batches(count: int, batch_size: int, steps: int) -> Iterator[torch.Tensor]:
    """Places of `steps` batches of equal size (all, if there are fewer), epoch after epoch in random order.

    Args:
        count: Spectra to draw from.
        batch_size: Spectra per batch.
        steps: Batches.
    """
    size, order = min(batch_size, count), torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(count)
        yield order[:size]
        order = order[size:]


def _is_known(label: torch.Tensor) -> bool:
    return bool(label.isfinite().any()) if label.is_floating_point() else int(label) != NO_CLASS


def mean_loss(model: Any, batches: Sequence[Mapping[str, torch.Tensor]]) -> float:
    """Mean loss over labelled batches, weighted by their numbers of spectra, without a gradient.

    Args:
        model: The model; left in the mode that it was in.
        batches: What a collator made, with labels.
    """
    training, total, count = model.training, 0.0, 0
    model.eval()
    for batch in batches:
        with torch.inference_mode():
            loss = model(**_moved(batch, model.device)).loss.item()
        total, count = total + loss * len(batch["labels"]), count + len(batch["labels"])
    model.train(training)
    return total / count


def answers(
    model: Any, processor: Any, spectra: Sequence[Spectrum], *, batch_size: int = 32
) -> dict[str, torch.Tensor]:
    """What a model with a task head says of spectra: all its outputs that have one row per spectrum.

    Args:
        model: The model.
        processor: Its processor.
        spectra: The spectra.
        batch_size: Spectra per call.

    Raises:
        ValueError: If the processor leaves one out that holds nothing.
    """
    model.eval()
    collator, parts = collator_for(processor), []
    for first in range(0, len(spectra), batch_size):
        batch = collator(list(spectra[first : first + batch_size]))
        with torch.inference_mode():
            parts.append(model(**_moved(batch, model.device)))
    unread = {"loss", *model.config.keys_to_ignore_at_inference}
    found = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0] if name not in unread}
    if any(len(values) != len(spectra) for values in found.values()):
        raise ValueError(
            f"each of {len(spectra)} spectra must have an answer, found fewer: the processor skipped what has no good "
            'pixel, leave it out or set processor.on_invalid = "mask"'
        )
    return found


def _moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


__all__ = [
    "Steps",
    "TrainOptions",
    "answers",
    "forward_flop",
    "mean_loss",
    "random_batches",
    "steps_within",
    "train_model",
]
