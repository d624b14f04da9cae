"""Specformer: masked modelling of spectra on one grid, the spectrum encoder of AstroCLIP (arXiv 2310.03024)."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .blocks import SpectrumLayer, in_own_precision, init_sized_weights
from .configuration_specformer import SpecformerConfig
from .heads import ClassificationHead, RedshiftHead, RegressionHead, require
from .inputs import check_hidden_patches, check_inputs
from .masked_pretraining import SpectrumModelForMaskedPreTraining
from .outputs_specformer import SpecformerModelOutput
from .packing import Lengths, PaddedLayout
from .patches import fill_gaps, fill_wavelength, patch_geometry
from .spectrum_models import SpectrumModelForAnyTask, SpectrumModelForTask, SpectrumPreTrainedModel

# Typical values of mean and standard deviation of DESI's galaxies, and their spread, in 1e-17 erg/s/cm²/Å: the first
# token holds (value - typical) / spread. Of the public code; the paper does not give them.
TYPICAL_LOC, LOC_SPREAD = 2.0, 2.0
TYPICAL_SCALE, SCALE_SPREAD = 2.0, 8.0


class SpecformerEmbeddings(nn.Module):
    """The token of mean and standard deviation, then the patches, projected, each with its learned position.

    Positions stand for wavelengths: the model knows no other.
    """

    def __init__(self, config: SpecformerConfig):
        super().__init__()
        self.projection = nn.Linear(config.patch_size + 2, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        for module in (self.projection, self.position_embedding):
            module.initial_std = config.hidden_size**-0.5

    def forward(
        self, flux: torch.Tensor, scale: torch.Tensor, loc: torch.Tensor, hidden: torch.Tensor | None
    ) -> torch.Tensor:
        """Shape (batch, 1 + num_patches, hidden_size).

        Args:
            flux: Normalised flux without gaps, shape (batch, num_patches, patch_size).
            scale: Standard deviation that it was divided by, shape (batch,).
            loc: Mean that was subtracted before, shape (batch,).
            hidden: Hidden patches, shape (batch, num_patches), bool; None = there are none. Of one its place is seen.
        """
        patches = flux if hidden is None else flux.masked_fill(hidden[..., None], 0)
        statistics = torch.stack([(loc - TYPICAL_LOC) / LOC_SPREAD, (scale - TYPICAL_SCALE) / SCALE_SPREAD], dim=-1)
        first = functional.pad(statistics, (0, flux.shape[-1]))[:, None]
        values = torch.cat([first.to(flux.dtype), functional.pad(patches, (2, 0))], dim=1)
        place = torch.arange(values.shape[1], device=flux.device).clamp(max=self.last_position)  # beyond is padding
        return self.dropout(in_own_precision(self.projection, values) + self.position_embedding(place))

    @property
    def last_position(self) -> int:
        """Place of the last patch that a spectrum may have, counted from 1."""
        return self.position_embedding.num_embeddings - 1


class SpecformerPreTrainedModel(SpectrumPreTrainedModel):
    """What all Specformer models share. They compute with padded spectra: on one grid there is nothing to pad."""

    config: SpecformerConfig
    base_model_prefix = "specformer"
    reads_statistics = ("scale", "loc")
    _no_split_modules = ["SpecformerEmbeddings", "SpectrumLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_sized_weights(module)

    def _needs_padding(self) -> bool:
        return True

    def flops(self, num_patches: Lengths) -> int:
        """As of the other models, with the token of mean and standard deviation."""
        return super().flops([int(length) + 1 for length in num_patches])


class SpecformerModel(SpecformerPreTrainedModel):
    """The encoder: spectra on the grid of DESI in, a token per patch out."""

    # Of the models whose encoder this is.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^head\."]

    def __init__(self, config: SpecformerConfig):
        super().__init__(config)
        self.embeddings = SpecformerEmbeddings(config)
        self.layers = nn.ModuleList([SpectrumLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                module.initial_std = (2 * module.in_features * config.num_hidden_layers) ** -0.5
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    def set_input_embeddings(self, value: nn.Linear) -> None:
        self.embeddings.projection = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
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
        max_num_patches: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpecformerModelOutput:
        r"""
        Encode a batch of spectra, padded to one length or packed one after the other (`DataCollatorForPackedSpectra`).

        Packed inputs have rows (T, ...) in place of (batch, num_patches, ...), T = the sum of `num_patches`, and so
        have outputs, but for those of whole spectra. Rows behind the last spectrum are padding.

        Args:
            flux: Normalised flux, shape (batch, num_patches, patch_size) or, packed, (T, patch_size): all patches of
                a spectrum from its first on, since their places stand for wavelengths.
            wavelength: Wavelength in Å, the same shape, float32 or float64. It tells where tokens lie; the encoding
                does not depend on it.
            error: Accepted, so that all a processor returns can be passed on; not used, as in the paper.
            pixel_mask: The same shape, 1 = good; None = all good. What stands under bad pixels does not matter (ours:
                the public code reads them as they are).
            attention_mask: Patches to read, shape (batch, num_patches) or (T,), 1 = valid; None = all. A patch of
                which half or more pixels are bad is never read (ours).
            num_patches: Patches of each spectrum, without padding, shape (batch,). Packed inputs need it.
            scale: Standard deviation of each spectrum, shape (batch,), in 1e-17 erg/s/cm²/Å.
            loc: Mean of each spectrum, alike.
            bool_masked_pos: Patches to hide, shape (batch, num_patches) or (T,), True = hidden: they are 0 but for
                their position. None = no patch is hidden.
            max_num_patches: Accepted, as `error`.

        Raises:
            ValueError: If shapes disagree, `scale` or `loc` is missing, the wavelength is not float32 or float64, or
                there are more patches than positions.
        """
        inputs = check_inputs(
            self.config.patch_size, flux, wavelength, error, pixel_mask, attention_mask, num_patches, scale, kwargs
        )
        inputs["hidden"] = check_hidden_patches(bool_masked_pos, inputs["valid"])
        kwargs |= self._read_statistics(scale, loc, flux, num_patches)
        return self._run_in_layout(inputs, num_patches, max_num_patches, kwargs)

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
        scale: torch.Tensor,
        loc: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpecformerModelOutput:
        wavelength, known = fill_wavelength(wavelength, good, num_patches)
        real = known.any(-1)
        most = self.embeddings.last_position
        require(
            ~real[:, most:].any(),
            f"a spectrum must have at most {most} patches, one less than max_position_embeddings, found more: is it "
            "on the grid of the training spectra?",
        )
        layout = PaddedLayout(self.config, real, valid & real)
        hidden_states = self.embeddings(fill_gaps(flux.float(), good), scale, loc, hidden)
        mask, _ = self._with_first(layout).among_valid(hidden_states)
        for layer in self.layers if len(flux) else ():  # attention does not take an empty batch
            hidden_states = layer(hidden_states, mask, **kwargs)
        hidden_states = self.norm(hidden_states)
        first, patches = hidden_states[:, 0], layout.scatter(hidden_states[:, 1:])
        token_wavelength, token_width = patch_geometry(wavelength, known)
        mean = layout.sum(patches) / layout.sum(layout.valid)[:, None].clamp(min=1)
        return SpecformerModelOutput(
            last_hidden_state=patches,
            tokens=patches,
            statistics_token=first,
            token_wavelength=token_wavelength,
            token_width=token_width,
            pooler_output=mean.to(patches.dtype),
            attention_mask=layout.valid.long(),
        )

    def _with_first(self, layout: PaddedLayout) -> PaddedLayout:
        """The layout of the patches and of the token before them, which is always valid."""
        real, valid = (functional.pad(rows, (1, 0), value=True) for rows in (layout.real, layout.valid))
        return PaddedLayout(self.config, real, valid)


class SpecformerForPreTraining(SpectrumModelForMaskedPreTraining, SpecformerPreTrainedModel):
    """The encoder, and a linear map from its states to the patches that were hidden from it."""

    config: SpecformerConfig
    backbone_class = SpecformerModel

    def _new_decoder(self, config: SpecformerConfig) -> nn.Linear:
        decoder = super()._new_decoder(config)
        decoder.initial_std = config.hidden_size**-0.5
        return decoder

    def _targets(self, flux: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return functional.pad(fill_gaps(flux.float(), good), (2, 0)), functional.pad(good, (2, 0), value=False)


class SpecformerForTask(SpectrumModelForTask, SpecformerPreTrainedModel):
    """The encoder under a task head; its subclasses name the head."""

    config: SpecformerConfig
    # Of the pretrained model, which a head may start from.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]
    backbone_class = SpecformerModel


class SpecformerForSpectrumClassification(SpecformerForTask):
    """The encoder and a head for classes, such as star, galaxy, quasar: `logits`."""

    head_class = ClassificationHead


class SpecformerForStellarRegression(SpecformerForTask):
    """The encoder and a head for named quantities, such as mass and age: `predictions` in their units."""

    head_class = RegressionHead


class SpecformerForRedshift(SpecformerForTask):
    """The encoder and a head for redshifts: `redshift`, its `uncertainty`, `zwarn`, and the whole `posterior`."""

    head_class = RedshiftHead


class SpecformerForSequenceClassification(SpectrumModelForAnyTask, SpecformerForTask):
    """Whichever head a checkpoint was saved with; the classifier for one without a head."""

    config: SpecformerConfig


__all__ = [
    "SpecformerForPreTraining",
    "SpecformerForRedshift",
    "SpecformerForSequenceClassification",
    "SpecformerForSpectrumClassification",
    "SpecformerForStellarRegression",
    "SpecformerModel",
    "SpecformerPreTrainedModel",
]
