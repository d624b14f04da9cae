"""Registration with the Auto classes and pipelines of Transformers, and Auto classes of our own tasks."""

from collections import OrderedDict
from typing import Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .models.configuration_spectok import SpecTokConfig
from .models.modeling_spectok import (
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
)
from .models.pipeline_spectok import (
    SpectrumClassificationPipeline,
    SpectrumEmbeddingPipeline,
    SpectrumReconstructionPipeline,
    SpectrumRedshiftPipeline,
    StellarParametersPipeline,
)
from .models.processing_spectok import SpectrumProcessor


class AutoModelForSpectrumClassification(_BaseAutoModelClass):
    """The model with a head for classes, such as star, galaxy, quasar, that belongs to a checkpoint's config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForStellarRegression(_BaseAutoModelClass):
    """The model with a head for named quantities, such as Teff or [Fe/H], that belongs to a checkpoint's config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForRedshift(_BaseAutoModelClass):
    """The model with a head for redshifts that belongs to a checkpoint's config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


# Each Auto class with the models of one family. Under AutoModelForSequenceClassification stand all heads: it takes the
# one that a checkpoint names in `architectures`, else the first.
SPECTOK = {
    AutoModel: SpecTokModel,
    AutoModelForPreTraining: SpecTokForPreTraining,
    AutoModelForSpectrumClassification: SpecTokForSpectrumClassification,
    AutoModelForStellarRegression: SpecTokForStellarRegression,
    AutoModelForRedshift: SpecTokForRedshift,
    AutoModelForSequenceClassification: (
        SpecTokForSpectrumClassification,
        SpecTokForStellarRegression,
        SpecTokForRedshift,
    ),
    AutoFeatureExtractor: SpectrumProcessor,
    AutoProcessor: SpectrumProcessor,
}


# Each pipeline with the Auto class of its models; the same for all families.
PIPELINES = {
    "spectrum-classification": (SpectrumClassificationPipeline, AutoModelForSpectrumClassification),
    "stellar-parameters": (StellarParametersPipeline, AutoModelForStellarRegression),
    "spectrum-redshift": (SpectrumRedshiftPipeline, AutoModelForRedshift),
    "spectrum-embedding": (SpectrumEmbeddingPipeline, AutoModel),
    "spectrum-reconstruction": (SpectrumReconstructionPipeline, AutoModelForPreTraining),
}


def register() -> None:
    """Make all families known to `AutoConfig`, `AutoModel...`, `AutoProcessor` and `pipeline`; may be called again."""
    AutoConfig.register(SpecTokConfig.model_type, SpecTokConfig, exist_ok=True)
    for auto_class, classes in SPECTOK.items():
        auto_class.register(SpecTokConfig, classes, exist_ok=True)
    for task, (pipeline_class, auto_class) in PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:  # a second registration is warned about
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=trained_only(auto_class, task))
    SpecTokConfig.pipelines_are_registered = True


def trained_only(auto_class: type[_BaseAutoModelClass], task: str) -> type[_BaseAutoModelClass]:
    """An Auto class that refuses what it would have to make up: a pipeline's answers from new weights are noise.

    Args:
        auto_class: The Auto class.
        task: The pipeline, for the message.
    """

    class Trained(auto_class):
        @classmethod
        def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:
            model, report = super().from_pretrained(name, *args, **kwargs, output_loading_info=True)
            if missing := sorted(report["missing_keys"]):
                saved_as = ", ".join(model.config.architectures or ["another class"])
                raise ValueError(
                    f"the pipeline {task!r} needs a trained {type(model).__name__}, found {name}, saved as "
                    f"{saved_as}, without {len(missing)} of its weights ({missing[0]}, ...): fine-tune it first"
                )
            return model

    Trained.__name__ = auto_class.__name__
    return Trained


__all__ = [
    "AutoModelForRedshift",
    "AutoModelForSpectrumClassification",
    "AutoModelForStellarRegression",
    "register",
]
