"""Round the maps at the ends of a model to bfloat16 so that what they give stays.

Rounded one by one, the weights of the input map of `spectok-tiny` are wrong by 0.2 % each; with flux near 1 everywhere
these errors add up, and χ² of bright spectra grew by a third to two thirds. The blocks do not mind. Here the error of
each column is made up for by those that are not rounded yet, as GPTQ does (Frantar et al. 2023, arXiv 2210.17323).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from spectok_hf import DataCollatorForPackedSpectra, SpecTokForPreTraining, Spectrum, SpectrumProcessor

BATCH_SIZE = 16
DAMPING = 1e-6  # of the mean of the diagonal


@torch.no_grad()
def round_ends(model: Any, processor: SpectrumProcessor, spectra: Sequence[Spectrum]) -> None:
    """Round input, bottleneck and output maps of a model, in place, one after the other.

    Args:
        model: A `SpecTokForPreTraining`, or a model with a head.
        processor: Its processor.
        spectra: What the maps shall be true for.
    """
    maps = [model.spectok.embeddings.projection, model.spectok.bottleneck]
    if isinstance(model, SpecTokForPreTraining):
        maps += [model.decoder.latent_projection, model.decoder.head]
    for linear in maps:
        round_linear(linear, _products(model, linear, processor, spectra))


def _products(
    model: Any, linear: nn.Linear, processor: SpectrumProcessor, spectra: Sequence[Spectrum]
) -> torch.Tensor:
    """Mean outer product of what a map gets, with 1 for its bias in front, shape (inputs + 1, inputs + 1), float64.

    Each input counts alike, whatever its size: a few patches of wild flux would rule all others.
    """
    found: list[torch.Tensor] = []

    def take(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        states = nn.functional.pad(inputs[0].reshape(-1, linear.in_features).double(), (1, 0), value=1.0)
        states /= states.norm(dim=-1, keepdim=True)
        found.append(states.T @ states)

    collator, forward = DataCollatorForPackedSpectra(processor), partial(model.eval(), return_loss=False)
    if not isinstance(model, SpecTokForPreTraining):
        forward = model.eval().spectok
    handle = linear.register_forward_pre_hook(take)
    for first in range(0, len(spectra), BATCH_SIZE):
        forward(**collator(spectra[first : first + BATCH_SIZE]))
    handle.remove()
    return torch.stack(found).mean(0)


@torch.no_grad()
def round_linear(linear: nn.Linear, products: torch.Tensor) -> None:
    """Round weights and bias to bfloat16, in place, so that outputs change little.

    Args:
        linear: The map, with a bias.
        products: Mean outer product of its inputs, with 1 for the bias in front, shape (inputs + 1, inputs + 1).
    """
    damped = products + DAMPING * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left = torch.cat([linear.bias[:, None], linear.weight], dim=1).double()
    for column in range(left.shape[1]):
        rounded = left[:, column].bfloat16().double()
        error = (left[:, column] - rounded) / factor[column, column]
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
        left[:, column] = rounded
    linear.bias.copy_(left[:, 0])
    linear.weight.copy_(left[:, 1:])


__all__ = ["round_ends", "round_linear"]
