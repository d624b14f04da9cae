"""What Specformer models return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class SpecformerModelOutput(ModelOutput):
    """
    Output of the encoder.

    Args:
        last_hidden_state: Encoded patches, shape (batch, num_patches, hidden_size); 0 at bad patches and padding.
        tokens: The same: there is no bottleneck.
        statistics_token: The encoded token of a spectrum's mean and standard deviation, shape (batch, hidden_size).
        token_wavelength: Mean wavelength of each patch in Å, shape (batch, num_patches), float32; 0 at padding.
        token_width: Width of each patch in Å, the same shape; neighbours overlap.
        pooler_output: Mean of `last_hidden_state` over valid patches, shape (batch, hidden_size).
        attention_mask: Patches that were encoded, shape (batch, num_patches), 1 = valid.
        hidden_states: Input and output of every block, each shape (batch, 1 + num_patches, hidden_size): the token of
            mean and standard deviation first.
        attentions: Attention weights of every block, each shape (batch, heads, 1 + num_patches, 1 + num_patches).
    """

    last_hidden_state: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    statistics_token: torch.Tensor | None = None
    token_wavelength: torch.Tensor | None = None
    token_width: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["SpecformerModelOutput"]
