"""Universal spectral tokenization for Hugging Face Transformers.

Importing this package makes `AutoModel`, `AutoProcessor` and the other Auto classes know its models.
"""

from .auto import register
from .models.configuration_spectok import SpecTokConfig
from .models.modeling_spectok import SpecTokForPreTraining, SpecTokModel
from .models.processing_spectok import SpectrumProcessor
from .models.spectrum import Spectrum

__version__ = "0.1.0"

register()

__all__ = [
    "SpecTokConfig",
    "SpecTokForPreTraining",
    "SpecTokModel",
    "Spectrum",
    "SpectrumProcessor",
]
