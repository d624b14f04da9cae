"""Configuration of vision transformers on spectra that are drawn as pictures."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_heads import SpectrumConfig, SpectrumHeadConfig
from .vision import as_vision_config, image_side, state_size

# The ViT-B/16 of the paper: the shape of facebook/dino-vitb16.
VISION = {
    "model_type": "vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}
# Sizes: tiny for tests and laptops, base as in the paper.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "vision_config": VISION
        | {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
    },
    "small": {
        "vision_config": VISION
        | {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1024}
    },
    "base": {},
}
_OF_VISION_CONFIG = ("hidden_size", "latent_size", "num_channels", "image_size")  # which is asked for them
# Of a classifier: what its encoder says of classes that are not ours.
_OF_ANOTHER_TASK = ("architectures", "id2label", "label2id", "num_labels", "problem_type")


@strict
class SpectrumVitConfig(SpectrumHeadConfig):
    r"""
    Configuration of a vision encoder of Transformers that looks at spectra drawn as pictures (arXiv 2506.00294), and
    of the heads over it, which are those of all families. The default is the encoder of the paper, with new weights;
    `SpectrumVitModel.from_vision_model` takes those of another. `SpectrumVitConfig.from_preset` gives smaller models.
    The fields of the task heads are those of `SpectrumHeadConfig`.

    Args:
        vision_config: Config of any vision encoder of Transformers for pictures of three channels, as an object or a
            dict with its `model_type`. None = ViT-B/16 for pictures of 224 pixels, the shape of facebook/dino-vitb16.
        head_type: There is one vector per picture, and nothing to attend to: a layer norm, then a linear map (the
            layer norm is ours).
        layer_norm_eps: Epsilon of the layer norm of the heads.
        initializer_range: Standard deviation of new weights of the heads; those of the encoder follow its own config.

    Raises:
        ValueError: If the encoder is none that can be used, or sizes do not fit each other.
    """

    model_type = "spectrum_vit"
    presets = PRESETS
    sub_configs = {"vision_config": AutoConfig}
    auto_classes = {
        "AutoConfig": "configuration_spectrum_vit.SpectrumVitConfig",
        "AutoModel": "modeling_spectrum_vit.SpectrumVitModel",
        "AutoModelForSequenceClassification": "modeling_spectrum_vit.SpectrumVitForSequenceClassification",
        "AutoFeatureExtractor": "processing_spectrum_vit.SpectrumImageProcessor",
        "AutoProcessor": "processing_spectrum_vit.SpectrumImageProcessor",
    }

    vision_config: Any = None
    head_type: Literal["linear"] = "linear"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if misplaced := [name for name in _OF_VISION_CONFIG if name in kwargs]:
            raise ValueError(
                f"{', '.join(misplaced)} must stand in the vision_config, found beside it: pass "
                "vision_config={...}, or load a vision model by its own class and pass it to from_vision_model"
            )
        self.vision_config = as_vision_config(
            _of_encoder(VISION if self.vision_config is None else self.vision_config)
        )
        _check_encoder(self.vision_config)
        self.vision_config.name_or_path = ""  # where it came from is nobody's, once it is saved with a head
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Length of an embedding: channels of the vision encoder."""
        return state_size(self.vision_config)

    @property
    def latent_size(self) -> int:
        """The same: there is no bottleneck."""
        return self.hidden_size

    @property
    def num_channels(self) -> int:
        """Channels of a picture."""
        return self.vision_config.num_channels

    @property
    def image_size(self) -> int | None:
        """Pixels of a side of a picture; None where the vision encoder takes any."""
        return image_side(self.vision_config)

    @property
    def processor_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """What config and processor must agree in."""
        return ("image_size",) if self.image_size else ()


def _check_encoder(config: PreTrainedConfig) -> None:
    """Refuse an encoder that cannot see a picture of three channels, or not all of it."""
    kind = config.model_type
    if isinstance(config, SpectrumConfig):
        raise ValueError(f"the vision_config must be of an encoder of images of Transformers, found {kind!r}")
    if config.num_channels != 3:
        raise ValueError(
            f"the vision_config must have num_channels=3, as pictures have, found {config.num_channels} of {kind!r}"
        )
    if kind == "vit_mae" and config.mask_ratio:
        raise ValueError(
            f"the vision encoder must see whole pictures, found mask_ratio={config.mask_ratio} of {kind!r}, which "
            "hides parts of each at random: load its weights as a ViTModel, or pass mask_ratio=0"
        )


def _of_encoder(config: Any) -> Any:
    """The config as it is, or of a dict what is not of another task."""
    if not isinstance(config, dict):
        return config
    return {name: value for name, value in config.items() if name not in _OF_ANOTHER_TASK}


__all__ = ["SpectrumVitConfig"]
