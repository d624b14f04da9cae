"""Muon for the matrices of the blocks and AdamW for everything else, as one optimizer of a `Trainer`."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers that step together: schedules, checkpoints and accelerate see one.

    Muon (K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) brings the singular values of each update
    to one, so that directions in which a gradient is small are learned too. Its rate is scaled to AdamW's size of
    steps (arXiv 2502.16982, section 2.2). Its group is the last.

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
        rates = {"lr": learning_rate, "weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        muon = torch.optim.Muon(chosen.values(), **rates)
        self.adamw, self.muon = adamw, muon
        super().__init__([*adamw.param_groups, *muon.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the two step on the groups, and with the states, that are here."""
        self.adamw.param_groups, self.muon.param_groups = self.param_groups[:-1], self.param_groups[-1:]
        self.adamw.state = self.muon.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each.

        Args:
            closure: Not taken: it would be called twice.
        """
        if closure is not None:
            raise ValueError("MuonAndAdamW takes no closure")
        self.adamw.step()
        self.muon.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As of any optimizer."""
        super().load_state_dict(state_dict)
        self._share()


__all__ = ["MuonAndAdamW"]
