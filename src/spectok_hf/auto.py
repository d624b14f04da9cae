"""Registration with the Auto classes of Transformers."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
)

from .models.configuration_spectok import SpecTokConfig
from .models.modeling_spectok import SpecTokForPreTraining, SpecTokModel
from .models.processing_spectok import SpectrumProcessor


def register() -> None:
    """Make every model family known to `AutoConfig`, `AutoModel...` and `AutoProcessor`; may be called again."""
    AutoConfig.register(SpecTokConfig.model_type, SpecTokConfig, exist_ok=True)
    AutoModel.register(SpecTokConfig, SpecTokModel, exist_ok=True)
    AutoModelForPreTraining.register(SpecTokConfig, SpecTokForPreTraining, exist_ok=True)
    AutoFeatureExtractor.register(SpecTokConfig, SpectrumProcessor, exist_ok=True)
    AutoProcessor.register(SpecTokConfig, SpectrumProcessor, exist_ok=True)


__all__ = ["register"]
