"""A plain Transformer on raw flux, trained from nothing: the one-dimensional baseline of arXiv:2506.00294.

The paper says of it that it has 6 layers, 8 heads and a width of 512. All else is ours: the flux of `probes.raw_flux`,
cut into patches; learned positions; norms before attention and MLP; the mean over patches; and the training.
"""

import math
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from ..data.labels import class_weights
from .probes import standardised_flux
from .tasks import Method, Prediction, Split, Task
from .training import LEAST_VALIDATION, Steps, random_batches

BALANCE = "inverse-sqrt"  # of classes in the loss, as of the heads in adaptation
PREDICTED_AT_ONCE = 256  # spectra


class FluxTransformer(nn.Module):
    """Numbers from flux on one grid.

    Args:
        bins: Numbers of a spectrum.
        outputs: Numbers that are predicted.
        patch_size: Bins of a patch; the last one is filled up with zeros.
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each.

    Raises:
        ValueError: If a size is not positive, or the width is no multiple of the heads.
    """

    def __init__(
        self,
        bins: int,
        outputs: int,
        *,
        patch_size: int = 32,
        hidden_size: int = 512,
        num_hidden_layers: int = 6,
        num_attention_heads: int = 8,
    ):
        super().__init__()
        _check_sizes(patch_size, hidden_size, num_hidden_layers, num_attention_heads)
        self.patch_size, self.num_patches = patch_size, math.ceil(bins / patch_size)
        self.projection = nn.Linear(patch_size, hidden_size)
        self.position = nn.Parameter(0.02 * torch.randn(self.num_patches, hidden_size))
        layer = nn.TransformerEncoderLayer(
            hidden_size,
            num_attention_heads,
            4 * hidden_size,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, num_hidden_layers, norm=nn.LayerNorm(hidden_size), enable_nested_tensor=False
        )
        self.head = nn.Linear(hidden_size, outputs)

    def forward(self, flux: torch.Tensor) -> torch.Tensor:
        """Predict from standardised flux.

        Args:
            flux: Shape (batch, bins).

        Returns:
            Shape (batch, outputs): logits of classes, or standardised numbers.
        """
        filled = nn.functional.pad(flux, (0, self.num_patches * self.patch_size - flux.shape[1]))
        patches = filled.unflatten(1, (self.num_patches, self.patch_size))
        return self.head(self.encoder(self.projection(patches) + self.position).mean(1))


def transformer_1d(
    *,
    steps: int | Steps = 3000,
    batch_size: int = 16,
    learning_rate: float = 3e-4,
    weight_decay: float = 0.01,
    checks: int = 20,
    patch_size: int = 32,
    hidden_size: int = 512,
    num_hidden_layers: int = 6,
    num_attention_heads: int = 8,
) -> Method:
    """The method of a Transformer on the standardised raw flux, all of it trained on the training spectra.

    It has one output per class, target, or ln(1 + z). Classes are weighted by the inverse root of their numbers;
    numbers are standardised, and a missing one has no loss. AdamW, warm-up over a twentieth of the steps, then a
    cosine to 0, as for the models that `training` trains; gradients clipped at norm 1.

    Args:
        steps: Steps of training; or what tells them from the new `FluxTransformer` and one batch of its inputs, such
            as `training.steps_within`.
        batch_size: Spectra per step.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay.
        checks: How often the loss on validation is taken. The best weights are kept where validation has 100 spectra
            or more, else the last; 0 = the last.
        patch_size: As for `FluxTransformer`.
        hidden_size: As for `FluxTransformer`.
        num_hidden_layers: As for `FluxTransformer`.
        num_attention_heads: As for `FluxTransformer`.

    Raises:
        ValueError: As `FluxTransformer`, or if there is no step.
    """
    _check_sizes(patch_size, hidden_size, num_hidden_layers, num_attention_heads)
    sizes = {
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
    }
    options = _Options(steps, batch_size, learning_rate, weight_decay, checks)

    def method(task: Task, split: Split, seed: int) -> Prediction:
        goal = _GOALS[task.kind](task, split)
        flux = torch.from_numpy(np.ascontiguousarray(standardised_flux(task, split)))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            network = FluxTransformer(flux.shape[1], goal.outputs, **sizes)
            _train(network, flux, goal, split, options)
        return goal.prediction(_outputs(network, flux[torch.as_tensor(split.test)]))

    return method


def _check_sizes(patch_size: int, hidden_size: int, layers: int, heads: int) -> None:
    if min(patch_size, hidden_size, layers, heads) < 1 or hidden_size % heads:
        raise ValueError(
            "sizes must be positive and hidden_size a multiple of num_attention_heads, found "
            f"patch_size={patch_size}, hidden_size={hidden_size}, {layers} layers, {heads} heads"
        )


@dataclass(frozen=True)
class _Options:
    steps: int | Steps
    batch_size: int
    learning_rate: float
    weight_decay: float
    checks: int


class _Classes:
    """What a network learns of classes, and what its outputs say."""

    def __init__(self, task: Task, split: Split):
        code = {name: number for number, name in enumerate(task.classes)}
        self.names, self.outputs = np.asarray(task.classes), len(task.classes)
        self.labels = torch.tensor([code[name] for name in task.labels.tolist()])
        counts = [max(int((task.labels[split.train] == name).sum()), 1) for name in task.classes]
        self.weight = torch.tensor(class_weights(counts, BALANCE))

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, labels, weight=self.weight.to(outputs.device))

    def prediction(self, outputs: torch.Tensor) -> Prediction:
        return Prediction(self.names[outputs.argmax(-1).numpy()])


class _Numbers:
    """What a network learns of numbers, and what its outputs say."""

    def __init__(self, task: Task, split: Split):
        values = self.of_labels(task.labels)
        self.outputs = values.shape[1]
        self.mean = np.nanmean(values[split.train], 0)
        width = np.nanstd(values[split.train], 0)
        self.width = np.where(width > 0, width, 1)
        self.labels = torch.from_numpy((values - self.mean) / self.width).float()

    def of_labels(self, labels: np.ndarray) -> np.ndarray:
        """What is learned, shape (n, outputs)."""
        return labels

    def loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known = labels.isfinite()
        # Not the mean of those selected: of none that would be NaN.
        return ((outputs - labels.nan_to_num()) ** 2 * known).sum() / known.sum().clamp(min=1)

    def numbers(self, outputs: torch.Tensor) -> np.ndarray:
        return outputs.double().numpy() * self.width + self.mean

    def prediction(self, outputs: torch.Tensor) -> Prediction:
        return Prediction(self.numbers(outputs))


class _Redshift(_Numbers):
    def of_labels(self, labels: np.ndarray) -> np.ndarray:
        return np.log1p(labels)[:, None]

    def prediction(self, outputs: torch.Tensor) -> Prediction:
        return Prediction(np.expm1(self.numbers(outputs)[:, 0]))


_Goal = _Classes | _Numbers
_GOALS: dict[str, type[_Classes] | type[_Numbers]] = {
    "classification": _Classes,
    "regression": _Numbers,
    "redshift": _Redshift,
}


def _train(network: FluxTransformer, flux: torch.Tensor, goal: _Goal, split: Split, options: _Options) -> None:
    """Train a network in place, on the accelerator where there is one; it comes back to the CPU in evaluation mode."""
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    train, validation = torch.as_tensor(split.train), torch.as_tensor(split.validation)
    steps = _count_steps(network, flux[train[: options.batch_size]], options.steps)
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    every = max(steps // options.checks, 1) if options.checks and len(validation) >= LEAST_VALIDATION else 0
    least, best = math.inf, None
    for step, places in enumerate(random_batches(len(train), options.batch_size, steps), 1):
        rows = train[places]
        network.train()
        optimizer.zero_grad()
        _loss(network, flux[rows], goal, rows).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if every and step % every == 0:
            loss = float(goal.loss(_outputs(network, flux[validation]), goal.labels[validation]))
            if loss < least:
                least, best = loss, deepcopy(network.state_dict())
    if best is not None:
        network.load_state_dict(best)
    network.cpu().eval()


def _count_steps(network: FluxTransformer, flux: torch.Tensor, steps: int | Steps) -> int:
    count = steps if isinstance(steps, int) else steps(network, flux.to(network.head.weight.device))
    if count < 1:
        raise ValueError(f"a network needs one step of training at least, found {count}")
    return count


def _loss(network: FluxTransformer, flux: torch.Tensor, goal: _Goal, rows: torch.Tensor) -> torch.Tensor:
    device = network.head.weight.device
    return goal.loss(network(flux.to(device)), goal.labels[rows].to(device))


def _outputs(network: FluxTransformer, flux: torch.Tensor) -> torch.Tensor:
    """What a network says of spectra, on the CPU, shape (n, outputs)."""
    network.eval()
    device = network.head.weight.device
    with torch.inference_mode():
        return torch.cat([network(part.to(device)).cpu() for part in flux.split(PREDICTED_AT_ONCE)])


__all__ = ["FluxTransformer", "transformer_1d"]
