"""Configuration of Specformer."""

from typing import Any

from huggingface_hub.dataclasses import strict

from .configuration_heads import SpectrumHeadConfig

# Sizes: tiny for tests and laptops, base as in the paper (arXiv 2310.03024).
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512},
    "small": {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1024},
    "base": {},
}


@strict
class SpecformerConfig(SpectrumHeadConfig):
    r"""
    Configuration of Specformer, the spectrum encoder of AstroCLIP (arXiv 2310.03024). The defaults are the paper's,
    which the public code shares but for the length of hidden chunks. `SpecformerConfig.from_preset` gives smaller
    models. The fields of the task heads are those of `SpectrumHeadConfig`, and ours.

    Args:
        hidden_size: Width of the blocks.
        num_hidden_layers: Blocks.
        num_attention_heads: Attention heads per block.
        intermediate_size: Width of the MLP.
        hidden_act: Activation of the MLP.
        hidden_dropout_prob: Dropout of the embeddings, and after attention and MLP.
        attention_probs_dropout_prob: Dropout of the attention weights.
        layer_norm_eps: Epsilon of the layer norms.
        initializer_range: Standard deviation of new weights of the task heads (ours); all others' depends on their
            size, and on the number of blocks.
        patch_size: Pixels per patch.
        patch_overlap: Pixels that a patch shares with the next one.
        grid_start: First wavelength of the spectra in Å, which all are on one grid: the model takes the place of a
            patch for its wavelength.
        grid_step: Å per pixel.
        grid_size: Pixels.
        max_position_embeddings: Learned positions: most patches of a spectrum, and one for the token of its mean and
            standard deviation.
        num_chunks: Equal parts of a spectrum; pretraining hides a chunk of patches in each.
        chunk_length: Patches of a chunk (paper: 30; public code: 50).

    Raises:
        ValueError: If sizes do not fit each other.
    """

    model_type = "specformer"
    presets = PRESETS
    processor_fields = ("patch_size", "patch_overlap", "grid_start", "grid_step", "grid_size")
    auto_classes = {
        "AutoConfig": "configuration_specformer.SpecformerConfig",
        "AutoModel": "modeling_specformer.SpecformerModel",
        "AutoModelForPreTraining": "modeling_specformer.SpecformerForPreTraining",
        "AutoModelForSequenceClassification": "modeling_specformer.SpecformerForSequenceClassification",
        "AutoFeatureExtractor": "processing_specformer.SpecformerProcessor",
        "AutoProcessor": "processing_specformer.SpecformerProcessor",
    }
    base_model_tp_plan = {
        "layers.*.attention.q_proj": "colwise",
        "layers.*.attention.k_proj": "colwise",
        "layers.*.attention.v_proj": "colwise",
        "layers.*.attention.o_proj": "rowwise",
        "layers.*.mlp.fc1": "colwise",
        "layers.*.mlp.fc2": "rowwise",
    }
    base_model_fsdp_plan = {"embeddings": "free_full_weight", "layers.*": "free_full_weight"}

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 6
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    patch_size: int = 20
    patch_overlap: int = 10
    grid_start: float | int = 3600.0
    grid_step: float | int = 0.8
    grid_size: int = 7781
    max_position_embeddings: int = 800
    num_chunks: int = 6
    chunk_length: int = 30

    @property
    def latent_size(self) -> int:
        """Channels of a token: there is no bottleneck."""
        return self.hidden_size

    @property
    def masking(self) -> dict[str, Any]:
        """What collators of `hide="chunks"` must be told to hide what the model is trained on."""
        return {"num_chunks": self.num_chunks, "chunk_length": self.chunk_length}

    def validate_architecture(self) -> None:
        """Check the fields against each other; called after construction and before saving."""
        super().validate_architecture()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "hidden_size must be a multiple of num_attention_heads, found "
                f"{self.hidden_size} and {self.num_attention_heads}"
            )
        if self.patch_size < 2 or not 0 <= self.patch_overlap <= self.patch_size // 2:
            raise ValueError(
                "patch_size must be at least 2, and patch_overlap between 0 and half of it, found "
                f"{self.patch_size} and {self.patch_overlap}"
            )
        if min(self.num_chunks, self.chunk_length) < 1 or self.max_position_embeddings < 2:
            raise ValueError(
                "num_chunks and chunk_length must be at least 1, and max_position_embeddings 2, found "
                f"{self.num_chunks}, {self.chunk_length} and {self.max_position_embeddings}"
            )


__all__ = ["SpecformerConfig"]
