"""A multilayer perceptron with dropout, which scikit-learn's has not, for `probes.mlp_probe`."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import nn

Part = tuple[np.ndarray, np.ndarray]  # inputs (n, d) and targets (n,)
Setting = tuple[tuple[int, ...], float, int, int]  # hidden sizes, dropout, most epochs, patience
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

BATCH_SIZE = 64
LEARNING_RATE = 1e-3  # of Adam, as in scikit-learn


class Perceptron:
    """A trained network, with scikit-learn's `predict`.

    Args:
        network: The network, (n, d) to (n, outputs).
        classes: Numbers of the classes that its outputs stand for; None = it has one output, a number.
    """

    def __init__(self, network: nn.Module, classes: np.ndarray | None = None):
        self.network, self.classes = network.eval(), classes

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Numbers, or numbers of classes, shape (n,).

        Args:
            inputs: Shape (n, d).
        """
        with torch.inference_mode():
            outputs = self.network(_tensor(inputs)).double().numpy()
        return outputs[:, 0] if self.classes is None else self.classes[outputs.argmax(-1)]


def mlp_values(train: Part, validation: Part, setting: Setting, seed: int) -> Perceptron:
    """Fit standardised numbers, by their squared error.

    Args:
        train: Inputs and targets to learn from.
        validation: Those that say when to stop.
        setting: Hidden sizes, dropout, most epochs, patience.
        seed: Of weights, order and dropout.
    """

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(outputs[:, 0], targets)

    parts = [(_tensor(inputs), _tensor(targets)) for inputs, targets in (train, validation)]
    return Perceptron(_fitted(parts[0], parts[1], 1, loss, setting, seed))


def mlp_classes(train: Part, validation: Part, setting: Setting, seed: int) -> Perceptron:
    """Fit classes, by the cross-entropy; all of them weigh the same, as for `probes.linear_probe`.

    Args:
        train: Inputs and numbers of classes to learn from.
        validation: Those that say when to stop; classes that `train` has not do not count.
        setting: As for `mlp_values`.
        seed: As for `mlp_values`.
    """
    classes, codes, counts = np.unique(train[1], return_inverse=True, return_counts=True)
    weight = _tensor(len(codes) / (len(classes) * counts))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs, targets, weight=weight)

    known = np.isin(validation[1], classes)
    places = torch.from_numpy(np.searchsorted(classes, validation[1][known]))
    held = (_tensor(validation[0][known]), places)
    network = _fitted((_tensor(train[0]), torch.from_numpy(codes)), held, len(classes), loss, setting, seed)
    return Perceptron(network, classes)


def _fitted(train: Any, validation: Any, outputs: int, loss: Loss, setting: Setting, seed: int) -> nn.Module:
    """The network with its weights after the epoch of least validation loss."""
    hidden, dropout, epochs, patience = setting
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = _network(train[0].shape[1], hidden, outputs, dropout)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        least, since, best = math.inf, 0, network.state_dict()
        for _ in range(epochs):
            _train_epoch(network, optimizer, train, loss)
            now = _validate(network, validation, loss)
            since += 1
            if now < least:
                least, since, best = now, 0, deepcopy(network.state_dict())
            if since >= patience:
                break
    network.load_state_dict(best)
    return network


def _network(inputs: int, hidden: tuple[int, ...], outputs: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(inputs, size), nn.ReLU(), nn.Dropout(dropout)]
        inputs = size
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def _train_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, train: Any, loss: Loss) -> None:
    network.train()
    for rows in torch.randperm(len(train[0])).split(BATCH_SIZE):
        optimizer.zero_grad()
        loss(network(train[0][rows]), train[1][rows]).backward()
        optimizer.step()


def _validate(network: nn.Module, validation: Any, loss: Loss) -> float:
    """The loss of the validation part; 0 where there is none, so that the first epoch counts."""
    network.eval()
    with torch.inference_mode():
        return float(loss(network(validation[0]), validation[1])) if len(validation[0]) else 0.0


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


__all__ = ["Perceptron", "mlp_classes", "mlp_values"]
