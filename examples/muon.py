"""Muon for the matrices of the blocks and AdamW for everything else, as one optimizer of a `Trainer`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers that step together: schedules, checkpoints and accelerate see one.

    Muon (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) brings the singular values of each update
    to one, so that directions in which a gradient is small are learned too. Its rate is scaled to AdamW's size of
    steps (arXiv 2502.16982, section 2.2).

    Args:
        adamw: An `AdamW` with the groups of all parameters; the matrices are taken out of them.
        matrices: Those that Muon trains, two-dimensional.
        learning_rate: Of Muon.
        weight_decay: Of Muon.

    Raises:
        ImportError: If torch is too old for it.
    """

    def __init__(
        self,
        adamw: torch.optim.Optimizer,
        matrices: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float,
    ):
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"Muon needs torch 2.9 or newer, found {torch.__version__}: pip install -U torch")
        chosen = {id(matrix): matrix for matrix in matrices}
        for group in adamw.param_groups:
            group["params"] = [weight for weight in group["params"] if id(weight) not in chosen]
        muon = torch.optim.Muon(
            chosen.values(), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self.parts = {"muon": muon, "adamw": adamw}
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of both, which a schedule changes in place."""
        return [group for part in self.parts.values() for group in part.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """That of both."""
        return {weight: state for part in self.parts.values() for weight, state in part.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each.

        Args:
            closure: Not taken: it would be called twice.
        """
        if closure is not None:
            raise ValueError("MuonAndAdamW takes no closure")
        for part in self.parts.values():
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of the two."""
        for part in self.parts.values():
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """That of each under its name."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])


__all__ = ["MuonAndAdamW"]
