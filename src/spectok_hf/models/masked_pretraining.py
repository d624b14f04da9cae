"""Masked pretraining, which families share: chunks of patches are hidden from the encoder, and predicted."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .blocks import in_own_precision
from .inputs import check_hidden_patches, check_inputs, check_regrid
from .packing import Lengths, PackedLayout, PaddedLayout, read_lengths
from .patches import fill_wavelength, patch_means, real_patches
from .spectrum_models import SpectrumPreTrainedModel, encoded_layout


@dataclass
class MaskedPreTrainingOutput(ModelOutput):
    """
    Output of masked pretraining.

    Args:
        loss: Mean over spectra of the mean squared error of a spectrum's hidden tokens.
        reconstruction: Normalised flux on the input grid, shape (batch, num_patches, patch_size). Of patches that were
            hidden it is a prediction; of others nothing was ever asked in training.
        token_predictions: What the tokens of the patches are made of, shape (batch, num_patches, patch_size + 2): two
            numbers, then the flux. The two are mean and standard deviation of a patch in OmniSpectra, and mean nothing
            in Specformer.
        coverage: The shape of `reconstruction`, 1 = inside what was observed.
        tokens: See the encoder's output, as all that follow.
        token_wavelength: See there.
        token_width: See there.
        pooler_output: See there.
        attention_mask: See there.
        hidden_states: See there.
        attentions: See there.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    token_predictions: torch.Tensor | None = None
    coverage: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    token_wavelength: torch.Tensor | None = None
    token_width: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class SpectrumModelForMaskedPreTraining(SpectrumPreTrainedModel):
    """An encoder, and a linear map from its states to what was hidden from it; a family says what that is.

    Its config has `chunk_length`, the patches of a hidden chunk.
    """

    backbone_class: ClassVar[type[SpectrumPreTrainedModel]]
    # What a token is made of, and which of these numbers count, both (..., patch_size + 2), from flux and good pixels.
    _targets: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.backbone_class(config))
        self.decoder = self._new_decoder(config)
        self.post_init()

    def _new_decoder(self, config: PreTrainedConfig) -> nn.Linear:
        return nn.Linear(config.hidden_size, config.patch_size + 2)

    def encode(self, flux: torch.Tensor, wavelength: torch.Tensor, **inputs: torch.Tensor) -> ModelOutput:
        """Tokens of a batch of spectra.

        Args:
            flux: Normalised flux, shape (batch, num_patches, patch_size).
            wavelength: Wavelength in Å, the same shape.
            **inputs: The other inputs of the encoder's `forward`.
        """
        return self.base_model(flux, wavelength, **inputs)

    @can_return_tuple
    def forward(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_patches: Lengths | None = None,
        scale: torch.Tensor | None = None,
        loc: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        return_loss: bool = True,
        max_num_patches: int | None = None,
        **kwargs: Any,
    ) -> MaskedPreTrainingOutput:
        r"""
        Encode a batch of spectra, padded or packed, and predict its patches.

        Args:
            flux: See the encoder's `forward`, as all that is not named here.
            bool_masked_pos: Patches to hide, see there (`DataCollatorForSpectra(hide="chunks")`). The loss covers the
                hidden patches that are valid, and of them the good pixels.
            return_loss: Compute the loss. There is none without `bool_masked_pos`.

        Raises:
            ValueError: As the encoder's `forward`, or if a model in training gets no `bool_masked_pos`.
        """
        inputs = check_inputs(
            self.config.patch_size, flux, wavelength, error, pixel_mask, attention_mask, num_patches, scale, kwargs
        )
        inputs["hidden"] = check_hidden_patches(bool_masked_pos, inputs["valid"])
        if self.training and bool_masked_pos is None:
            raise ValueError('masked modelling needs bool_masked_pos: use DataCollatorForSpectra(hide="chunks", ...)')
        kwargs |= self._read_statistics(scale, loc, flux, num_patches)
        return self._run_in_layout(inputs, num_patches, max_num_patches, {"return_loss": return_loss, **kwargs})

    def _run(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None,
        good: torch.Tensor,
        valid: torch.Tensor,
        hidden: torch.Tensor | None,
        num_patches: Any,
        max_num_patches: int | None,
        return_loss: bool,
        **kwargs: Any,
    ) -> MaskedPreTrainingOutput:
        kwargs |= {"bool_masked_pos": hidden, "max_num_patches": max_num_patches, "return_dict": True}
        encoded = self.base_model(flux, wavelength, error, good, valid, num_patches, **kwargs)
        layout = encoded_layout(self.config, encoded, num_patches, max_num_patches)
        predicted = torch.where(layout.valid[..., None], in_own_precision(self.decoder, encoded.tokens), 0)
        loss = None
        if return_loss and hidden is not None:
            targets, counted = self._targets(flux, good)
            loss = hidden_error(predicted, targets, counted & (hidden & layout.valid)[..., None], layout)
        reconstruction = predicted[..., 2:]
        return MaskedPreTrainingOutput(
            loss=loss,
            reconstruction=reconstruction,
            token_predictions=predicted,
            coverage=encoded.attention_mask[..., None].expand_as(reconstruction).clone(),
            tokens=encoded.tokens,
            token_wavelength=encoded.token_wavelength,
            token_width=encoded.token_width,
            pooler_output=encoded.pooler_output,
            attention_mask=encoded.attention_mask,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def reconstruct(
        self, flux: torch.Tensor, wavelength: torch.Tensor, num_patches: Lengths | None = None, **inputs: Any
    ) -> MaskedPreTrainingOutput:
        """The spectra, each patch predicted from others (ours: training asks nothing of patches that are seen).

        Every other chunk of a spectrum is hidden, then the chunks between; a chunk of what has fewer patches than two
        chunks is half of it. Tokens are those of the whole spectrum.

        Args:
            flux: See the encoder's `forward`.
            wavelength: See there.
            num_patches: See there.
            **inputs: The other inputs, see there, but for `bool_masked_pos`.

        Returns:
            As `forward`, without a loss, and without hidden states or attentions.

        Raises:
            ValueError: As `forward`, or if something is to be hidden.
        """
        if inputs.pop("bool_masked_pos", None) is not None:
            raise ValueError(
                "reconstruct hides every patch once, found bool_masked_pos: leave it out, or call forward"
            )
        inputs |= {"flux": flux, "wavelength": wavelength, "num_patches": num_patches, "return_loss": False}
        inputs |= {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
        even = self._even_chunks(wavelength, num_patches)
        outputs, first, second = (
            self(**inputs, bool_masked_pos=hidden) for hidden in (torch.zeros_like(even), even, ~even)
        )
        predicted = torch.where(even[..., None], first.token_predictions, second.token_predictions)
        outputs.token_predictions, outputs.reconstruction = predicted, predicted[..., 2:]
        return outputs

    def _even_chunks(self, wavelength: torch.Tensor, num_patches: Lengths | None) -> torch.Tensor:
        """Patches of every other chunk, shape (batch, num_patches) or, packed, (T,), bool."""
        rows = wavelength.shape[-2]
        place = torch.arange(rows, device=wavelength.device)
        if wavelength.ndim == 3:
            lengths = None if num_patches is None else torch.as_tensor(num_patches, device=wavelength.device)
            real = self._find_real({"flux": wavelength, "wavelength": wavelength, "good": None}, lengths)
            count = real.sum(-1, keepdim=True)
        else:
            lengths = torch.as_tensor(read_lengths(num_patches, wavelength), device=wavelength.device)
            stops = lengths.cumsum(0)
            spectrum = torch.searchsorted(stops, place, right=True).clamp(max=len(lengths) - 1)
            count, place = lengths[spectrum], place - (stops - lengths)[spectrum]
        length = (count // 2).clamp(1, self.config.chunk_length)
        return place // length % 2 == 0

    def regrid(self, outputs: MaskedPreTrainingOutput, wavelength: torch.Tensor) -> MaskedPreTrainingOutput:
        """What `reconstruct` found, interpolated linearly onto any requested grid.

        Args:
            outputs: What `reconstruct` returned of padded spectra.
            wavelength: Requested wavelengths in Å, in the checkpoint's medium and the frame of the observation, shape
                (batch, requested patches, patch_size); values that are no wavelength (0, NaN) request nothing.

        Returns:
            `reconstruction` and its `coverage`, of the shape of `wavelength`.

        Raises:
            ValueError: If shapes disagree, or a wavelength is not float32 or float64.
        """
        check_regrid(self.config.patch_size, outputs, wavelength)
        requested = real_patches(wavelength, None, None)[..., None]
        wavelength, _ = fill_wavelength(wavelength, None, None)
        described = (outputs[name] for name in ("reconstruction", "token_wavelength", "token_width", "attention_mask"))
        flux, covered = patch_means(wavelength.flatten(1), *described)
        flux, covered = flux.view_as(wavelength), covered.view_as(wavelength)
        return MaskedPreTrainingOutput(
            reconstruction=torch.where(requested, flux, 0), coverage=(covered & requested).long()
        )


def hidden_error(
    predicted: torch.Tensor, targets: torch.Tensor, counted: torch.Tensor, layout: PaddedLayout | PackedLayout
) -> torch.Tensor:
    """Mean over spectra of the mean squared error of what counts of a spectrum.

    A spectrum of which nothing counts is 0, so that the divisor is the batch size whatever is in it.

    Args:
        predicted: Shape (..., patch_size + 2).
        targets: What it should be, the same shape.
        counted: Numbers of hidden patches that count, the same shape, bool.
        layout: Says which patches are of one spectrum.
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    squares = torch.where(counted, (predicted.to(dtype) - targets) ** 2, 0)
    return (layout.sum(squares.sum(-1)) / layout.sum(counted.sum(-1)).clamp(min=1)).mean()


__all__ = ["MaskedPreTrainingOutput", "SpectrumModelForMaskedPreTraining", "hidden_error"]
