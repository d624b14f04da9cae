"""Configuration of OmniSpectra."""

import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .configuration_heads import SpectrumHeadConfig

# Sizes: tiny for tests and laptops, base as in the paper (arXiv 2601.15351).
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
    "small": {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1024},
    "base": {},
}


@strict
class OmniSpectraConfig(SpectrumHeadConfig):
    r"""
    Configuration of OmniSpectra (arXiv 2601.15351), masked modelling of spectra at their native resolution. The
    defaults are the paper's where it gives a value; what it leaves open is marked "ours".
    `OmniSpectraConfig.from_preset` gives smaller models. The fields of the task heads are those of
    `SpectrumHeadConfig`; the paper's probe, a layer norm of the mean and a linear map, is the default here.

    Args:
        hidden_size: Width of the blocks.
        num_hidden_layers: Blocks.
        num_attention_heads: Attention heads per block.
        intermediate_size: Width of the MLP (ours: 4 x hidden_size, which gives the paper's 42.6 M parameters).
        hidden_act: Activation of the MLP (ours).
        hidden_dropout_prob: Dropout of the embeddings, and after attention and MLP (ours).
        attention_probs_dropout_prob: Dropout of the attention weights (ours).
        layer_norm_eps: Epsilon of the layer norms (ours).
        initializer_range: Standard deviation of new weights (ours), but for the projection of patches, whose is that
            of a truncated normal of variance 1 / hidden_size.
        patch_size: Pixels per patch; its token holds them, their mean and their standard deviation.
        patch_overlap: Pixels that a patch shares with the next one.
        mask_ratio: Share of the intervals of a spectrum in which pretraining hides a chunk of patches.
        chunk_factor: Patches of a chunk per pixel of a patch; rounded down, so that 20 pixels give chunks of 50.
        wavelength_encoding: Whether sinusoids of the mean wavelength are added to a patch (Table 7: without them the
            error of hidden patches nearly doubles).
        local_position: Whether a depthwise convolution over neighbouring patches is added to what attention gives.
        validity_mask: Whether patches attend to valid ones alone; without it bad patches are read as they are, and
            padding as zeros, so that an answer depends on what else is in the batch. For comparison only.

    Raises:
        ValueError: If sizes do not fit each other, or a ratio is out of range.
    """

    model_type = "omnispectra"
    presets = PRESETS
    processor_fields = ("patch_size", "patch_overlap")
    auto_classes = {
        "AutoConfig": "configuration_omnispectra.OmniSpectraConfig",
        "AutoModel": "modeling_omnispectra.OmniSpectraModel",
        "AutoModelForPreTraining": "modeling_omnispectra.OmniSpectraForPreTraining",
        "AutoModelForSequenceClassification": "modeling_omnispectra.OmniSpectraForSequenceClassification",
        "AutoFeatureExtractor": "processing_omnispectra.OmniSpectraProcessor",
        "AutoProcessor": "processing_omnispectra.OmniSpectraProcessor",
    }
    # Attention is not split: the convolution runs over all channels of its values.
    base_model_tp_plan = {"layers.*.mlp.fc1": "colwise", "layers.*.mlp.fc2": "rowwise"}
    base_model_fsdp_plan = {"embeddings": "free_full_weight", "layers.*": "free_full_weight"}

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    patch_size: int = 20
    patch_overlap: int = 10
    mask_ratio: float | int = 0.75
    chunk_factor: float | int = 2.5
    wavelength_encoding: bool = True
    local_position: bool = True
    validity_mask: bool = True
    head_type: Literal["attention", "linear"] = "linear"

    @property
    def latent_size(self) -> int:
        """Channels of a token: there is no bottleneck."""
        return self.hidden_size

    @property
    def chunk_length(self) -> int:
        """Patches of a hidden chunk."""
        return math.floor(self.chunk_factor * self.patch_size)

    @property
    def masking(self) -> dict[str, Any]:
        """What collators of `hide="chunks"` must be told to hide what the model is trained on."""
        return {"hide_ratio": self.mask_ratio, "chunk_length": self.chunk_length}

    def validate_architecture(self) -> None:
        """Check the fields against each other; called after construction and before saving."""
        super().validate_architecture()
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                "hidden_size must be even (sines and cosines) and a multiple of num_attention_heads, found "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )
        if self.patch_size < 2 or not 0 <= self.patch_overlap <= self.patch_size // 2:
            raise ValueError(
                "patch_size must be at least 2, and patch_overlap between 0 and half of it, found "
                f"{self.patch_size} and {self.patch_overlap}"
            )
        if not 0 < self.mask_ratio < 1 or self.chunk_length < 1:
            raise ValueError(
                "mask_ratio must lie between 0 and 1, and chunk_factor x patch_size be at least 1, found "
                f"{self.mask_ratio} and {self.chunk_factor}"
            )


__all__ = ["OmniSpectraConfig"]
