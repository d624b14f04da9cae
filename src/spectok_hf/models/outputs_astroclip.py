"""What AstroCLIP returns."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class AstroClipOutput(ModelOutput):
    """
    Output of AstroCLIP; of a side that was not given, and of what needs both, there is nothing.

    Args:
        loss: Mean over pairs, and both directions, of the cross entropy of finding the partner.
        logits_per_spectrum: Scaled cosines, shape (spectra, images).
        logits_per_image: Scaled cosines, shape (images, spectra).
        spectrum_embeds: Unit vectors of the spectra, shape (batch, projection_dim); 0 without a valid patch.
        image_embeds: Unit vectors of the images, shape (batch, projection_dim).
        pooler_output: The same as `spectrum_embeds`, under the name that encoders of spectra have for it.
        last_hidden_state: Of the encoder of spectra, as all that follow up to `attention_mask`: encoded patches, shape
            (batch, num_patches, hidden_size).
        tokens: Shape (batch, num_patches, channels).
        token_wavelength: Mean wavelength of each patch in Å, shape (batch, num_patches), float32; 0 at padding.
        token_width: Width of each patch in Å, the same shape.
        attention_mask: Patches that were encoded, shape (batch, num_patches), 1 = valid.
        spectrum_attentions: How much each head of the learned query looks at each patch, shape (batch, heads,
            num_patches); what is missing to 1 goes to the state that says how bright a spectrum is, which of
            Specformer is its token of mean and standard deviation.
        image_attentions: The same of the states of the vision encoder, shape (batch, heads, states); none with
            `image_pooling="linear"`.
    """

    loss: torch.Tensor | None = None
    logits_per_spectrum: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    spectrum_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    token_wavelength: torch.Tensor | None = None
    token_width: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    spectrum_attentions: torch.Tensor | None = None
    image_attentions: torch.Tensor | None = None


__all__ = ["AstroClipOutput"]
