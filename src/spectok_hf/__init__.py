"""Universal spectral tokenization for Hugging Face Transformers.

Importing this package makes `AutoModel`, `AutoProcessor` and the other Auto classes know its models.
"""

from .analysis.plots import plot_reconstruction
from .auto import (
    AutoModelForRedshift,
    AutoModelForSpectrumClassification,
    AutoModelForStellarRegression,
    register,
)
from .data.collators import DataCollatorForPackedSpectra, DataCollatorForSpectra, TokenBudgetBatchSampler
from .data.readers import read_spectra
from .data.simulation import simulate_survey
from .data.surveys import SURVEYS
from .encoder import SpectrumEncoder
from .models.configuration_spectok import SpecTokConfig
from .models.modeling_spectok import (
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
)
from .models.processing_spectok import SpectrumProcessor
from .models.spectrum import Spectrum

__version__ = "0.1.0"

register()

__all__ = [
    "SURVEYS",
    "AutoModelForRedshift",
    "AutoModelForSpectrumClassification",
    "AutoModelForStellarRegression",
    "DataCollatorForPackedSpectra",
    "DataCollatorForSpectra",
    "SpecTokConfig",
    "SpecTokForPreTraining",
    "SpecTokForRedshift",
    "SpecTokForSpectrumClassification",
    "SpecTokForStellarRegression",
    "SpecTokModel",
    "Spectrum",
    "SpectrumEncoder",
    "SpectrumProcessor",
    "TokenBudgetBatchSampler",
    "plot_reconstruction",
    "read_spectra",
    "register",
    "simulate_survey",
]
