"""Configuration of SpecTok."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .configuration_heads import SpectrumHeadConfig

# Sizes: tiny for tests, demos and laptops, base as in the paper (arXiv 2510.17959, section 3).
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "decoder_num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 512,
    },
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "decoder_num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 1024,
    },
    "base": {},
}


@strict
class SpecTokConfig(SpectrumHeadConfig):
    r"""
    Configuration of the universal spectrum tokenizer (arXiv 2510.17959). The defaults are the paper's where it gives
    a value; what it leaves open is marked "ours". `SpecTokConfig.from_preset` gives smaller models. The fields of the
    task heads are those of `SpectrumHeadConfig`.

    Args:
        hidden_size: Width of the encoder and the decoder.
        num_hidden_layers: Blocks of the encoder.
        decoder_num_hidden_layers: Blocks of the decoder.
        num_attention_heads: Attention heads per block.
        intermediate_size: Width of the MLP (ours: 4 x hidden_size).
        hidden_act: Activation of the MLP (ours).
        hidden_dropout_prob: Dropout after attention and MLP.
        attention_probs_dropout_prob: Dropout of the attention weights.
        norm_placement: Where a block has its layer norms: "pre" (ours), before attention and MLP and without a final
            norm, so that the patch-PCA start is exact; or "post", behind their sums with what went in.
        layer_norm_eps: Epsilon of the layer norms.
        initializer_range: Standard deviation of new weights.
        patch_size: Pixels per patch.
        latent_size: Channels of a token (ours). Compression is patch_size / latent_size.
        wavelength_pooling: How the embeddings of a patch's pixels become one: "flatten" (ours), "mean" or "center".
        wavelength_dim: Sinusoids per pixel; patch_size x wavelength_dim is added directly where it equals
            hidden_size, else projected linearly. The heads', of one wavelength per token, are as many.
        wavelength_min_period: Shortest period in Å (ours).
        wavelength_max_period: Longest period in Å (ours).
        error_encoding: What the network sees of the error: "log" (log10 of the error clipped to [1e-3, 10] of the
            spectrum's scale, ours), "raw" or "inverse" (clipped alike). Unknown errors count as 10.
        relative_error_floor: Share of the flux added to the error in quadrature, in the training loss only (ours).
        huber_delta: Residual in sigma beyond which the training loss grows linearly (ours); None = never.
        spectrum_loss: What the training loss averages over spectra: "mean" (the paper), a spectrum's mean over its
            pixels, or "log" (ours), log(1 + mean). With "mean" a few spectra of high signal-to-noise ratio, at tens of
            times the loss of the others, give nearly all of the gradient; with "log" every spectrum counts by what
            share of its loss can be gained.
        decoder_type: "mirror" (the paper: patches start from their tokens and attend to each other) or "query" (ours:
            patches know their wavelengths only, and attend to the tokens).
        objective: "reconstruction" (the paper), "masked" (the loss covers hidden patches only), or "contrastive"
            (ours: two views of an object are told from those of others; there is no decoder, but a head that is made
            as the task heads are, from `head_input` on).
        mask_ratio: Share of the valid patches hidden by the "masked" objective.
        projection_dim: Length of the vectors that the "contrastive" objective compares (ours).
        contrastive_temperature: Divisor of their cosines (ours); it is not trained.

    Raises:
        ValueError: If sizes do not fit each other or a period, ratio or floor is out of range.
    """

    model_type = "spectok"
    presets = PRESETS
    auto_classes = {
        "AutoConfig": "configuration_spectok.SpecTokConfig",
        "AutoModel": "modeling_spectok.SpecTokModel",
        "AutoModelForPreTraining": "modeling_spectok.SpecTokForPreTraining",
        "AutoModelForSequenceClassification": "modeling_spectok.SpecTokForSequenceClassification",
        "AutoFeatureExtractor": "processing_spectok.SpectrumProcessor",
        "AutoProcessor": "processing_spectok.SpectrumProcessor",
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

    hidden_size: int = 512
    num_hidden_layers: int = 6
    decoder_num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    norm_placement: Literal["pre", "post"] = "pre"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    patch_size: int = 32
    latent_size: int = 8
    wavelength_pooling: Literal["flatten", "mean", "center"] = "flatten"
    wavelength_dim: int = 16
    wavelength_min_period: float | int = 1.0
    wavelength_max_period: float | int = 4e4
    error_encoding: Literal["log", "raw", "inverse"] = "log"
    relative_error_floor: float | int = 0.005
    huber_delta: float | int | None = 10.0
    spectrum_loss: Literal["mean", "log"] = "mean"
    decoder_type: Literal["mirror", "query"] = "mirror"
    objective: Literal["reconstruction", "masked", "contrastive"] = "reconstruction"
    mask_ratio: float = 0.5
    projection_dim: int = 128
    contrastive_temperature: float | int = 0.1

    def validate_architecture(self) -> None:
        """Check the fields against each other; called after construction and before saving."""
        super().validate_architecture()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, found {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        if not 1 <= self.latent_size <= self.patch_size:
            raise ValueError(
                f"latent_size must lie between 1 and patch_size, found {self.latent_size} and {self.patch_size}: "
                "tokens compress"
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1, found {self.mask_ratio}")
        if self.projection_dim < 2 or not self.contrastive_temperature > 0:
            raise ValueError(
                "projection_dim must be at least 2 and contrastive_temperature positive, found "
                f"{self.projection_dim} and {self.contrastive_temperature}"
            )
        if self.relative_error_floor < 0 or (self.huber_delta is not None and self.huber_delta <= 0):
            raise ValueError(
                "relative_error_floor must be >= 0 and huber_delta > 0 (None turns it off), found "
                f"{self.relative_error_floor} and {self.huber_delta}"
            )


__all__ = ["SpecTokConfig"]
# From spectok-hf; save_pretrained writes this file.
if False:  # Transformers looks here for what must lie beside this file
    from .blocks import __name__
    from .checkpoints import __name__
    from .configuration_heads import __name__
    from .configuration_spectok import __name__
    from .contrastive import __name__
    from .handler import __name__
    from .heads import __name__
    from .inputs import __name__
    from .modeling_spectok import __name__
    from .outputs_spectok import __name__
    from .packed_attention import __name__
    from .packing import __name__
    from .patch_pca_start import __name__
    from .patches import __name__
    from .pipeline_spectok import __name__
    from .processing_spectok import __name__
    from .reconstruction_loss import __name__
    from .redshift_posterior import __name__
    from .sources import __name__
    from .spectrum import __name__
    from .spectrum_inputs import __name__
    from .spectrum_models import __name__
    from .wavelength import __name__
