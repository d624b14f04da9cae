"""Configuration of AstroCLIP."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .checkpoints import check_processor, class_named
from .configuration_heads import SpectrumConfig
from .configuration_omnispectra import OmniSpectraConfig
from .configuration_specformer import SpecformerConfig
from .configuration_spectok import SpecTokConfig
from .spectrum import CGS_UNIT
from .vision import as_vision_config, image_side, state_size

# What may encode spectra.
SPECTRUM_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    kind.model_type: kind for kind in (SpecformerConfig, SpecTokConfig, OmniSpectraConfig)
}
# The ViT-L of DINOv2 with patches of 12 pixels, of the public code.
VISION = {
    "model_type": "dinov2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 144,
    "patch_size": 12,
    "layerscale_value": 1e-5,
}
# Sizes: tiny for tests and laptops, base as in the public code.
PRESETS: dict[str, dict[str, Any]] = {
    name: {
        "spectrum_config": {"model_type": "specformer", **SpecformerConfig.presets[name]},
        "vision_config": {
            "model_type": "vit",
            "image_size": 96,
            "patch_size": 12,
            "num_hidden_layers": depth,
            **width,
        },
        "projection_dim": width["hidden_size"],
    }
    for name, depth, width in (
        ("tiny", 4, {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512}),
        ("small", 8, {"hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 1024}),
    )
} | {"base": {}}


@strict
class AstroClipConfig(SpectrumConfig):
    r"""
    Configuration of AstroCLIP (arXiv 2310.03024): an encoder of spectra and one of images, each under a head that
    brings it to a common space. The defaults are those of the public code, which came after the paper's first version
    (there 128 dimensions, `image_pooling="linear"`, images of 96 pixels); what neither has is marked "ours".
    `AstroClipConfig.from_preset` gives smaller models.

    Args:
        spectrum_config: Config of the encoder of spectra, as an object or a dict with its `model_type`: Specformer, or
            (ours) SpecTok or OmniSpectra, which read spectra on any grid. None = Specformer as in the paper.
        vision_config: Config of any vision encoder of Transformers, alike. None = the ViT-L of DINOv2 with patches of
            12 pixels, for images of 144.
        read_level: Whether the head of spectra sees, as one more state, the logarithm of what a spectrum was divided
            by (ours): how bright a galaxy is, which its image shows, and SpecTok and OmniSpectra do not know; fluxes
            must then be in 1e-17 erg/s/cm²/Å. Specformer has a token of its own for that.
        projection_dim: Dimensions of the common space.
        pooling_num_attention_heads: Attention heads of the learned query that pools the states of an encoder.
        pooling_dropout: Dropout behind it, and of the MLP.
        image_pooling: "attention": as for spectra; or "linear": a linear map of what the vision encoder pools itself.
        image_residual: Whether the MLP of the image head is added to what it reads. Not so in the last version of the
            public code, while that of spectra is.
        vision_class_token: Whether the vision encoder runs as it is; else patches alone go through its blocks, without
            a class token and without positions, as in the public code (DINOv2 only).
        logit_scale_init_value: Factor of the cosines in the loss.
        learn_logit_scale: Whether this factor is learned.
        freeze_spectrum_model: Whether the encoder of spectra stays as it is.
        freeze_vision_model: Whether the encoder of images stays as it is.
        initializer_range: Standard deviation of new weights; those of the heads depend on their size (ours).
        layer_norm_eps: Epsilon of the layer norms of the heads.

    Raises:
        ValueError: If sizes do not fit each other, or an encoder is none that can be used.
    """

    model_type = "astroclip"
    presets = PRESETS
    sub_configs = {"spectrum_config": AutoConfig, "vision_config": AutoConfig}
    own_pipelines = (("spectrum-image-similarity", "SpectrumImageSimilarityPipeline"),)
    auto_classes = {
        "AutoConfig": "configuration_astroclip.AstroClipConfig",
        "AutoModel": "modeling_astroclip.AstroClipModel",
        "AutoFeatureExtractor": "processing_astroclip.AstroClipProcessor",
        "AutoProcessor": "processing_astroclip.AstroClipProcessor",
    }

    spectrum_config: Any = None
    vision_config: Any = None
    read_level: bool = True
    projection_dim: int = 1024
    pooling_num_attention_heads: int = 4
    pooling_dropout: float | int = 0.1
    image_pooling: Literal["attention", "linear"] = "attention"
    image_residual: bool = True
    vision_class_token: bool = True
    logit_scale_init_value: float | int = 15.5
    learn_logit_scale: bool = False
    freeze_spectrum_model: bool = True
    freeze_vision_model: bool = True
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs: Any) -> None:
        self.spectrum_config = _as_spectrum_config(self.spectrum_config)
        self.vision_config = as_vision_config(VISION if self.vision_config is None else self.vision_config)
        for config in (self.spectrum_config, self.vision_config):
            config.name_or_path = ""  # where the encoders came from is nobody's, once they are saved together
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Length of an embedding."""
        return self.projection_dim

    @property
    def latent_size(self) -> int:
        """Channels of a token of the encoder of spectra."""
        return self.spectrum_config.latent_size

    @property
    def patch_size(self) -> int:
        """Pixels per patch of a spectrum."""
        return self.spectrum_config.patch_size

    @property
    def adds_level(self) -> bool:
        """Whether a state is added that says how bright a spectrum is."""
        return self.read_level and self.spectrum_config.model_type != "specformer"

    @property
    def knows_level(self) -> bool:
        """Whether it matters how bright a spectrum is, and so in which unit."""
        return self.adds_level or self.spectrum_config.model_type == "specformer"

    @property
    def vision_hidden_size(self) -> int:
        """Channels of the states of the vision encoder."""
        return state_size(self.vision_config)

    @property
    def num_channels(self) -> int:
        """Bands of an image."""
        return self.vision_config.num_channels

    @property
    def image_size(self) -> int | None:
        """Pixels of a side of an image; None where the vision encoder takes any."""
        return image_side(self.vision_config)

    @property
    def processor_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """What config and processor must agree in."""
        return ("spectra", "num_channels", *(("image_size",) if self.image_size else ()))

    @property
    def spectra(self) -> dict[str, Any]:
        """What the encoder of spectra needs of their processor: its class, and how patches are cut."""
        config = self.spectrum_config
        values = {name: getattr(config, name) for name in config.processor_fields}
        unit = {"flux_unit": CGS_UNIT} if self.knows_level else {}
        return {"processor": config.auto_classes["AutoProcessor"].partition(".")[2], **values, **unit}

    def processor_values(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the saved settings of a processor say of `processor_fields`.

        Args:
            settings: The settings.
        """
        nested = settings.get("spectrum_processor") or {}
        kind = nested.get("feature_extractor_type")
        spectra = {"processor": kind, **self.spectrum_config.processor_values(nested)}
        if self.knows_level:
            spectra["flux_unit"] = nested.get("flux_unit")
        found = {"spectra": spectra, "num_channels": len(settings.get("bands") or ())}
        return found | ({"image_size": settings.get("image_size")} if self.image_size else {})

    def new_processor(self, spectrum_processor: Any = None) -> Any:
        """A processor that gives what models of this config read, else with its defaults.

        Args:
            spectrum_processor: That of the encoder of spectra; None = a new one.

        Raises:
            ValueError: If images have other than the three bands of its defaults.
        """
        settings: dict[str, Any] = {"flux_unit": CGS_UNIT if self.knows_level else None}
        if self.image_size:
            settings["image_size"] = self.image_size
        of_spectra = spectrum_processor or self.spectrum_config.new_processor()
        processor = class_named(self.auto_classes["AutoProcessor"])(of_spectra, **settings)
        check_processor(self, processor)
        return processor

    def validate_architecture(self) -> None:
        """Check the fields against each other; called after construction and before saving."""
        super().validate_architecture()
        heads = self.pooling_num_attention_heads
        if heads < 1 or self.projection_dim % heads:
            raise ValueError(
                f"projection_dim must be a multiple of pooling_num_attention_heads, found {self.projection_dim} and "
                f"{heads}"
            )
        if not 0 <= self.pooling_dropout < 1 or not self.logit_scale_init_value > 0:
            raise ValueError(
                "pooling_dropout must lie between 0 and 1, and logit_scale_init_value be positive, found "
                f"{self.pooling_dropout} and {self.logit_scale_init_value}"
            )
        if not self.vision_class_token and (
            self.vision_config.model_type != "dinov2" or self.image_pooling != "attention"
        ):
            raise ValueError(
                'vision_class_token=False needs DINOv2 and image_pooling="attention", found '
                f"{self.vision_config.model_type} and {self.image_pooling!r}"
            )


def _as_spectrum_config(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    """Also where the package is not installed, and the Auto classes do not know these configs."""
    if config is None:
        return SpecformerConfig()
    kind = config.get("model_type") if isinstance(config, dict) else getattr(config, "model_type", None)
    if kind not in SPECTRUM_CONFIGS:
        raise ValueError(f"the spectrum_config must be of {', '.join(SPECTRUM_CONFIGS)}, found {kind!r}")
    # A copy: what Transformers sets in it would reach the model that it belongs to.
    return SPECTRUM_CONFIGS[kind](**config) if isinstance(config, dict) else deepcopy(config)


__all__ = ["AstroClipConfig"]
