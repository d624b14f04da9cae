"""OmniSpectra: masked modelling of spectra at their native resolution (arXiv 2601.15351)."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .blocks import SpectrumLayer, in_own_precision
from .configuration_omnispectra import OmniSpectraConfig
from .heads import ClassificationHead, RedshiftHead, RegressionHead
from .inputs import check_hidden_patches, check_inputs
from .masked_pretraining import SpectrumModelForMaskedPreTraining
from .outputs_omnispectra import OmniSpectraModelOutput
from .packing import Lengths, PaddedLayout, choose_layout
from .patches import fill_gaps, fill_wavelength, patch_geometry, real_patches
from .spectrum_models import SpectrumModelForAnyTask, SpectrumModelForTask, SpectrumPreTrainedModel
from .wavelength import position_encoding

LEAST_VARIANCE = 1e-12  # of a patch's flux, in units of the spectrum's variance: the slope of a root is infinite at 0


def patch_values(flux: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
    """What a token is made of: mean and standard deviation of the good pixels of a patch, then its flux.

    Args:
        flux: Normalised flux, shape (..., patch_size); what stands under bad pixels does not matter.
        good: The same shape, True = good.

    Returns:
        Shape (..., patch_size + 2); bad pixels are interpolated, and a patch without a good one is 0.
    """
    flux = fill_gaps(flux.float(), good)
    count = good.sum(-1, keepdim=True).clamp(min=1)
    mean = torch.where(good, flux, 0).sum(-1, keepdim=True) / count
    variance = torch.where(good, (flux - mean) ** 2, 0).sum(-1, keepdim=True) / count
    spread = torch.where(good.any(-1, keepdim=True), variance.clamp(min=LEAST_VARIANCE).sqrt(), 0)
    return torch.cat([mean, spread, flux], dim=-1)


class PatchProjection(nn.Linear):
    """The linear map of what a token is made of; it starts from a truncated normal of variance 1 / hidden_size."""


class OmniSpectraEmbeddings(nn.Module):
    """Patches, projected, plus the encoding of their mean wavelengths; of a hidden one the encoding alone."""

    def __init__(self, config: OmniSpectraConfig):
        super().__init__()
        self.wavelength_encoding = config.wavelength_encoding
        self.projection: nn.Linear = PatchProjection(config.patch_size + 2, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, values: torch.Tensor, wavelength: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """Shape (..., hidden_size).

        Args:
            values: What `patch_values` made, shape (..., patch_size + 2).
            wavelength: Wavelengths of the pixels in Å, finite, shape (..., patch_size).
            hidden: Hidden patches, shape (...), bool; None = there are none.
        """
        values = values if hidden is None else values.masked_fill(hidden[..., None], 0)
        embeddings = in_own_precision(self.projection, values)
        if self.wavelength_encoding:
            encoding = position_encoding(wavelength.double().mean(-1), self.projection.out_features)
            embeddings = embeddings + encoding.to(embeddings.dtype)
        return self.dropout(embeddings)


class OmniSpectraPreTrainedModel(SpectrumPreTrainedModel):
    """What all OmniSpectra models share."""

    config: OmniSpectraConfig
    base_model_prefix = "omnispectra"
    _no_split_modules = ["OmniSpectraEmbeddings", "SpectrumLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Not of the embeddings: Transformers passes over modules without weights of their own.
        if isinstance(module, PatchProjection):
            std = self.config.hidden_size**-0.5
            init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)

    def _find_real(self, inputs: dict[str, Any], num_patches: torch.Tensor | None) -> torch.Tensor:
        """All that is not behind the last patch, whatever it holds: what is left out would make others neighbours."""
        if num_patches is not None:
            return torch.arange(inputs["flux"].shape[1], device=num_patches.device) < num_patches[:, None]
        real = real_patches(inputs["wavelength"], inputs["good"], None)
        return real.flip(-1).long().cummax(-1).values.flip(-1) > 0

    def _needs_padding(self) -> bool:
        return not self.config.validity_mask


class OmniSpectraModel(OmniSpectraPreTrainedModel):
    """The encoder: spectra on their own grids in, wavelength-aware tokens out."""

    # Of the models whose encoder this is.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^head\."]

    def __init__(self, config: OmniSpectraConfig):
        super().__init__(config)
        self.embeddings = OmniSpectraEmbeddings(config)
        self.layers = nn.ModuleList(
            [SpectrumLayer(config, local_position=config.local_position) for _ in range(config.num_hidden_layers)]
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
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
        bool_masked_pos: torch.Tensor | None = None,
        max_num_patches: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> OmniSpectraModelOutput:
        r"""
        Encode a batch of spectra, padded to one length or packed one after the other (`DataCollatorForPackedSpectra`).

        Packed inputs have rows (T, ...) in place of (batch, num_patches, ...), T = the sum of `num_patches`, and so
        have outputs, but for those of whole spectra. Rows behind the last spectrum are padding.

        Args:
            flux: Normalised flux, shape (batch, num_patches, patch_size) or, packed, (T, patch_size).
            wavelength: Wavelength in Å, the same shape, float32 or float64.
            error: Accepted, so that all a processor returns can be passed on; not used, as in the paper.
            pixel_mask: The same shape, 1 = good; None = all good. What stands under bad pixels does not matter.
            attention_mask: Patches to read, shape (batch, num_patches) or (T,), 1 = valid; None = all. A patch of
                which half or more pixels are bad is never read.
            num_patches: Patches of each spectrum, without padding, shape (batch,). Packed inputs need it, best on the
                host (ints or an array): lengths on a GPU have to be waited for.
            scale: Accepted and not used, as `error`.
            bool_masked_pos: Patches to hide, shape (batch, num_patches) or (T,), True = hidden: their place is known,
                and nothing else. None = no patch is hidden.
            max_num_patches: Upper bound of `num_patches`, for packed inputs of a compiled model, which cannot look.

        Raises:
            ValueError: If shapes disagree, or the wavelength is not float32 or float64.
        """
        inputs = check_inputs(
            self.config.patch_size, flux, wavelength, error, pixel_mask, attention_mask, num_patches, scale, kwargs
        )
        inputs["hidden"] = check_hidden_patches(bool_masked_pos, inputs["valid"])
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> OmniSpectraModelOutput:
        wavelength, known = fill_wavelength(wavelength, good, num_patches if flux.ndim == 3 else None)
        real = known.any(-1)
        layout = choose_layout(self.config, real, valid & real, num_patches, max_num_patches)
        read = layout if self.config.validity_mask else self._everything(real)
        hidden_states = read.gather(self.embeddings(patch_values(flux, good), wavelength, hidden))
        mask, packing = read.among_valid(hidden_states)
        neighbours = read.neighbours() if self.config.local_position else None
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, None, packing, neighbours=neighbours, **kwargs)
        hidden_states = layout.scatter(self.norm(hidden_states))
        token_wavelength, token_width = patch_geometry(wavelength, known)
        mean = layout.sum(hidden_states) / layout.sum(layout.valid)[:, None].clamp(min=1)
        return OmniSpectraModelOutput(
            last_hidden_state=hidden_states,
            tokens=hidden_states,
            token_wavelength=token_wavelength,
            token_width=token_width,
            pooler_output=mean.to(hidden_states.dtype),
            attention_mask=layout.valid.long(),
        )

    def _everything(self, real: torch.Tensor) -> PaddedLayout:
        """The layout in which bad patches and padding count as valid, (batch, num_patches)."""
        return PaddedLayout(self.config, torch.ones_like(real), torch.ones_like(real))


class OmniSpectraForPreTraining(SpectrumModelForMaskedPreTraining, OmniSpectraPreTrainedModel):
    """The encoder, and a linear map from its states to the patches that were hidden from it."""

    config: OmniSpectraConfig
    backbone_class = OmniSpectraModel

    def _targets(self, flux: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        of_patch = good.any(-1, keepdim=True)
        return patch_values(flux, good), torch.cat([of_patch, of_patch, good], dim=-1)


class OmniSpectraForTask(SpectrumModelForTask, OmniSpectraPreTrainedModel):
    """The encoder under a task head; its subclasses name the head."""

    config: OmniSpectraConfig
    # Of the pretrained model, which a head may start from.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]
    backbone_class = OmniSpectraModel


class OmniSpectraForSpectrumClassification(OmniSpectraForTask):
    """The encoder and a head for classes, such as star, galaxy, quasar: `logits`."""

    head_class = ClassificationHead


class OmniSpectraForStellarRegression(OmniSpectraForTask):
    """The encoder and a head for named quantities, such as Teff, log g, [Fe/H]: `predictions` in their units."""

    head_class = RegressionHead


class OmniSpectraForRedshift(OmniSpectraForTask):
    """The encoder and a head for redshifts: `redshift`, its `uncertainty`, `zwarn`, and the whole `posterior`."""

    head_class = RedshiftHead


class OmniSpectraForSequenceClassification(SpectrumModelForAnyTask, OmniSpectraForTask):
    """Whichever head a checkpoint was saved with; the classifier for one without a head."""

    config: OmniSpectraConfig


__all__ = [
    "OmniSpectraForPreTraining",
    "OmniSpectraForRedshift",
    "OmniSpectraForSequenceClassification",
    "OmniSpectraForSpectrumClassification",
    "OmniSpectraForStellarRegression",
    "OmniSpectraModel",
    "OmniSpectraPreTrainedModel",
]
