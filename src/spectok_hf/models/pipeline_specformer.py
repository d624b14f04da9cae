"""The pipelines of Specformer: those of all families, in the file where Transformers looks for them."""

from .pipeline_spectok import (
    SpectrumClassificationPipeline,
    SpectrumEmbeddingPipeline,
    SpectrumReconstructionPipeline,
    SpectrumRedshiftPipeline,
    StellarParametersPipeline,
)

__all__ = [
    "SpectrumClassificationPipeline",
    "SpectrumEmbeddingPipeline",
    "SpectrumReconstructionPipeline",
    "SpectrumRedshiftPipeline",
    "StellarParametersPipeline",
]
