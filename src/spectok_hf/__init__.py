"""Universal spectral tokenization for Hugging Face Transformers.

Importing this package makes `AutoModel`, `AutoProcessor` and the other Auto classes know its models.
"""

from typing import TYPE_CHECKING, Any

from .analysis.outliers import OutlierDetector
from .analysis.plots import plot_reconstruction
from .auto import (
    AutoModelForRedshift,
    AutoModelForSpectrumClassification,
    AutoModelForStellarRegression,
    register,
)
from .data.collators import (
    DataCollatorForPackedSpectra,
    DataCollatorForSpectra,
    DataCollatorForSpectrumImages,
    TokenBudgetBatchSampler,
)
from .data.domain import OutOfDomainWarning
from .data.readers import read_spectra
from .data.simulation import GalaxyPair, simulate_galaxy_pairs, simulate_survey
from .data.spectrum_files import write_spectra
from .data.surveys import SURVEYS
from .embedding import embed_spectra
from .encoder import SpectrumEncoder
from .inference.embedding_head import EmbeddingHead
from .models.configuration_astroclip import AstroClipConfig
from .models.configuration_omnispectra import OmniSpectraConfig
from .models.configuration_specformer import SpecformerConfig
from .models.configuration_spectok import SpecTokConfig
from .models.configuration_spectrum_vit import SpectrumVitConfig
from .models.modeling_astroclip import AstroClipModel
from .models.modeling_omnispectra import (
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
)
from .models.modeling_specformer import (
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecformerModel,
)
from .models.modeling_spectok import (
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
)
from .models.modeling_spectrum_vit import (
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
)
from .models.processing_astroclip import AstroClipProcessor
from .models.processing_omnispectra import OmniSpectraProcessor
from .models.processing_specformer import SpecformerProcessor
from .models.processing_spectok import SpectrumProcessor
from .models.processing_spectrum_vit import SpectrumImageProcessor
from .models.sky_image import SkyImage, read_image
from .models.spectrum import Spectrum

if TYPE_CHECKING:
    from .analysis.search import SpectrumIndex

__version__ = "0.1.0"

register()


def __getattr__(name: str) -> Any:
    """`SpectrumIndex`, which needs datasets: importing it takes as long as a quarter of the package."""
    if name == "SpectrumIndex":
        from .analysis.search import SpectrumIndex

        return SpectrumIndex
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SURVEYS",
    "AstroClipConfig",
    "AstroClipModel",
    "AstroClipProcessor",
    "AutoModelForRedshift",
    "AutoModelForSpectrumClassification",
    "AutoModelForStellarRegression",
    "DataCollatorForPackedSpectra",
    "DataCollatorForSpectra",
    "DataCollatorForSpectrumImages",
    "EmbeddingHead",
    "GalaxyPair",
    "OmniSpectraConfig",
    "OmniSpectraForPreTraining",
    "OmniSpectraForRedshift",
    "OmniSpectraForSpectrumClassification",
    "OmniSpectraForStellarRegression",
    "OmniSpectraModel",
    "OmniSpectraProcessor",
    "OutOfDomainWarning",
    "OutlierDetector",
    "SkyImage",
    "SpecTokConfig",
    "SpecTokForPreTraining",
    "SpecTokForRedshift",
    "SpecTokForSpectrumClassification",
    "SpecTokForStellarRegression",
    "SpecTokModel",
    "SpecformerConfig",
    "SpecformerForPreTraining",
    "SpecformerForRedshift",
    "SpecformerForSpectrumClassification",
    "SpecformerForStellarRegression",
    "SpecformerModel",
    "SpecformerProcessor",
    "Spectrum",
    "SpectrumEncoder",
    "SpectrumImageProcessor",
    "SpectrumIndex",
    "SpectrumProcessor",
    "SpectrumVitConfig",
    "SpectrumVitForRedshift",
    "SpectrumVitForSpectrumClassification",
    "SpectrumVitForStellarRegression",
    "SpectrumVitModel",
    "TokenBudgetBatchSampler",
    "embed_spectra",
    "plot_reconstruction",
    "read_image",
    "read_spectra",
    "register",
    "simulate_galaxy_pairs",
    "simulate_survey",
    "write_spectra",
]
