"""What SpecTok models return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class SpecTokModelOutput(ModelOutput):
    """
    Output of the encoder.

    Args:
        last_hidden_state: Encoded patches, shape (batch, num_patches, hidden_size); 0 at bad patches and padding.
        tokens: The compressed tokens, shape (batch, num_patches, latent_size); 0 at bad patches and padding.
        token_wavelength: Mean wavelength of each patch in Å, shape (batch, num_patches), float32; 0 at padding.
        token_width: Width of each patch in Å, the same shape.
        pooler_output: Mean of `last_hidden_state` over valid patches, shape (batch, hidden_size).
        attention_mask: Patches that were encoded, shape (batch, num_patches), 1 = valid.
        hidden_states: Input and output of every block, each shape (batch, num_patches, hidden_size).
        attentions: Attention weights of every block, each shape (batch, heads, num_patches, num_patches).
    """

    last_hidden_state: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    token_wavelength: torch.Tensor | None = None
    token_width: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class SpecTokDecoderOutput(ModelOutput):
    """
    Output of the decoder.

    Args:
        reconstruction: Normalised flux, shape (batch, requested patches, patch_size); 0 at padding.
        coverage: The same shape, 1 = inside what was observed, 0 = the model's invention.
    """

    reconstruction: torch.Tensor | None = None
    coverage: torch.Tensor | None = None


@dataclass
class SpecTokForPreTrainingOutput(ModelOutput):
    """
    Output of pretraining.

    Args:
        loss: Mean over spectra of the mean training loss over a spectrum's pixels, or of the contrastive loss.
        reconstruction: Normalised flux on the input grid, shape (batch, num_patches, patch_size); None with
            `objective="contrastive"`.
        coverage: The same shape, 1 = inside what was observed; None alike.
        projection: With `objective="contrastive"` only: a unit vector per spectrum, shape (batch, projection_dim),
            float32; 0 for one without a valid patch.
        tokens: See `SpecTokModelOutput`, as all that follow.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    coverage: torch.Tensor | None = None
    projection: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    token_wavelength: torch.Tensor | None = None
    token_width: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


__all__ = ["SpecTokDecoderOutput", "SpecTokForPreTrainingOutput", "SpecTokModelOutput"]
# From spectok-hf; save_pretrained writes this file.
