"""What vision transformers on pictures of spectra return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class SpectrumVitModelOutput(ModelOutput):
    """
    Output of the encoder.

    Args:
        last_hidden_state: States of the vision encoder as it gives them, shape (batch, states, hidden_size) or, of a
            convolutional network, (batch, hidden_size, height, width); 0 for a picture that shows nothing.
        pooler_output: The state of the class token, where the encoder has one, else what it pools, else the mean of
            the states, shape (batch, hidden_size); 0 for a picture that shows nothing.
        attention_mask: Which pictures show anything, shape (batch, 1), 1 = it does: a picture counts as one patch.
        hidden_states: Of the vision encoder, in its own shapes.
        attentions: Of the vision encoder, alike.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["SpectrumVitModelOutput"]
