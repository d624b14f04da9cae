"""The pipelines of pictures of spectra: those of all families, in the file where Transformers looks for them."""

from .pipeline_spectok import (
    SpectrumClassificationPipeline,
    SpectrumEmbeddingPipeline,
    SpectrumRedshiftPipeline,
    StellarParametersPipeline,
)

__all__ = [
    "SpectrumClassificationPipeline",
    "SpectrumEmbeddingPipeline",
    "SpectrumRedshiftPipeline",
    "StellarParametersPipeline",
]
