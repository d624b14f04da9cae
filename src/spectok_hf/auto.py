"""Registration with the Auto classes and pipelines of Transformers, and Auto classes of our own tasks."""

import functools
from collections import OrderedDict
from collections.abc import Callable
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
from transformers.utils import hub

from .models.configuration_astroclip import AstroClipConfig
from .models.configuration_heads import SpectrumConfig
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
from .models.pipeline_astroclip import SpectrumImageSimilarityPipeline
from .models.pipeline_spectok import (
    SpectrumClassificationPipeline,
    SpectrumEmbeddingPipeline,
    SpectrumReconstructionPipeline,
    SpectrumRedshiftPipeline,
    StellarParametersPipeline,
)
from .models.processing_astroclip import AstroClipProcessor
from .models.processing_omnispectra import OmniSpectraProcessor
from .models.processing_specformer import SpecformerProcessor
from .models.processing_spectok import SpectrumProcessor
from .models.processing_spectrum_vit import SpectrumImageProcessor
from .shipped import DEFAULT, checkpoint_path, find_head, is_ours


class AutoModelForSpectrumClassification(_BaseAutoModelClass):
    """The model with a head for classes, such as star, galaxy, quasar, that belongs to a checkpoint's config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForStellarRegression(_BaseAutoModelClass):
    """The model with a head for named quantities, such as Teff or [Fe/H], that belongs to a checkpoint's config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForRedshift(_BaseAutoModelClass):
    """The model with a head for redshifts that belongs to a checkpoint's config."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


# Of each family: the encoder, what is pretrained, the heads (classes, numbers, redshifts), and the processor.
FAMILIES: dict[type[SpectrumConfig], tuple[type, type | None, tuple[type, type, type] | None, type]] = {
    SpecTokConfig: (
        SpecTokModel,
        SpecTokForPreTraining,
        (SpecTokForSpectrumClassification, SpecTokForStellarRegression, SpecTokForRedshift),
        SpectrumProcessor,
    ),
    OmniSpectraConfig: (
        OmniSpectraModel,
        OmniSpectraForPreTraining,
        (OmniSpectraForSpectrumClassification, OmniSpectraForStellarRegression, OmniSpectraForRedshift),
        OmniSpectraProcessor,
    ),
    SpecformerConfig: (
        SpecformerModel,
        SpecformerForPreTraining,
        (SpecformerForSpectrumClassification, SpecformerForStellarRegression, SpecformerForRedshift),
        SpecformerProcessor,
    ),
    AstroClipConfig: (AstroClipModel, None, None, AstroClipProcessor),
    SpectrumVitConfig: (
        SpectrumVitModel,
        None,
        (SpectrumVitForSpectrumClassification, SpectrumVitForStellarRegression, SpectrumVitForRedshift),
        SpectrumImageProcessor,
    ),
}


# The trained head that a class means by the name of a shipped checkpoint, at whose root there is none.
HEADS: dict[type, str] = {
    AutoModelForSpectrumClassification: "classification",
    AutoModelForStellarRegression: "stellar-parameters",
    AutoModelForRedshift: "redshift",
    AutoModelForSequenceClassification: "classification",
    SpecTokForSpectrumClassification: "classification",
    SpecTokForStellarRegression: "stellar-parameters",
    SpecTokForRedshift: "redshift",
}


# Arguments that say where the head is, or that another one is wanted, which begins untrained.
ANOTHER_HEAD = {"subfolder", "config", "num_labels", "id2label", "label2id", "target_names", "head_input", "head_type"}


# Each pipeline with the Auto class of its models; the same for all families.
PIPELINES = {
    "spectrum-classification": (SpectrumClassificationPipeline, AutoModelForSpectrumClassification),
    "stellar-parameters": (StellarParametersPipeline, AutoModelForStellarRegression),
    "spectrum-redshift": (SpectrumRedshiftPipeline, AutoModelForRedshift),
    "spectrum-embedding": (SpectrumEmbeddingPipeline, AutoModel),
    "spectrum-reconstruction": (SpectrumReconstructionPipeline, AutoModelForPreTraining),
    "spectrum-image-similarity": (SpectrumImageSimilarityPipeline, AutoModel),
}


def register() -> None:
    """Make all families known to `AutoConfig`, `AutoModel...`, `AutoProcessor` and `pipeline`; may be called again.

    So are the names of the checkpoints that come with the package.
    """
    for config_class in FAMILIES:
        _register_family(config_class)
    for task, (pipeline_class, auto_class) in PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:  # a second registration is warned about
            head = HEADS.get(auto_class)
            PIPELINE_REGISTRY.register_pipeline(
                task,
                pipeline_class,
                pt_model=trained_only(auto_class, task),
                default={"model": (f"{DEFAULT}/{head}" if head else DEFAULT, None)},  # no revision
            )
    SpectrumConfig.pipelines_are_registered = True
    register_names()


def _register_family(config_class: type[SpectrumConfig]) -> None:
    """Make one family known to the Auto classes.

    Under AutoModelForSequenceClassification stand all its heads: it takes the one that a checkpoint names in
    `architectures`, else the first.
    """
    encoder, whole, heads, processor = FAMILIES[config_class]
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModel.register(config_class, encoder, exist_ok=True)
    if whole is not None:
        AutoModelForPreTraining.register(config_class, whole, exist_ok=True)
    if heads is not None:
        AutoModelForSpectrumClassification.register(config_class, heads[0], exist_ok=True)
        AutoModelForStellarRegression.register(config_class, heads[1], exist_ok=True)
        AutoModelForRedshift.register(config_class, heads[2], exist_ok=True)
        AutoModelForSequenceClassification.register(config_class, heads, exist_ok=True)
    AutoFeatureExtractor.register(config_class, processor, exist_ok=True)
    AutoProcessor.register(config_class, processor, exist_ok=True)


# Names --------------------------------------------------------------------------------------------


def register_names() -> None:
    """Let Transformers find the checkpoints that come with the package by their names; may be called again.

    It has no hook for names. Whatever loads by name, `from_pretrained` of any class or `pipeline`, asks two functions,
    for the files and for the commit; wrapping these is less than wrapping all those, and does not depend on what was
    imported first. All other names pass through unchanged.
    """
    _wrap(hub, "cached_files", _shipped_files)
    if hasattr(hub, "resolve_revision"):  # not yet in 5.6; all go through one client
        _wrap(hub.hf_api(), "resolve_revision", _no_commit)
    for head_class, head in HEADS.items():
        _wrap(head_class, "from_pretrained", functools.partial(_own_head, head=head))


def _wrap(owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> None:
    """Put what `wrap` makes of a function, or of a class method, in its place, once."""
    function = getattr(owner, name)
    if not getattr(function, "knows_shipped", False):
        of_class = isinstance(owner, type)
        wrapped: Any = functools.wraps(function)(wrap(function.__func__ if of_class else function))
        wrapped.knows_shipped = True
        setattr(owner, name, classmethod(wrapped) if of_class else wrapped)


def _shipped_files(cached_files: Callable) -> Callable:
    """`cached_files` that looks into the folder of a shipped checkpoint."""

    def found(path_or_repo_id: Any, *args: Any, **kwargs: Any) -> Any:
        if is_ours(path_or_repo_id):
            if (revision := kwargs.get("revision")) not in (None, "main"):
                raise ValueError(f"{path_or_repo_id} comes with the package and has no revisions, found {revision!r}")
            path_or_repo_id = checkpoint_path(str(path_or_repo_id))
        return cached_files(path_or_repo_id, *args, **kwargs)

    return found


def _no_commit(resolve_revision: Callable) -> Callable:
    """`resolve_revision` that does not ask the Hub for the commit of a shipped checkpoint."""

    def resolved(repo_id: Any, **kwargs: Any) -> Any:
        return kwargs.get("revision") if is_ours(repo_id) else resolve_revision(repo_id, **kwargs)

    return resolved


def _own_head(from_pretrained: Callable, head: str) -> Callable:
    """`from_pretrained` that takes a shipped checkpoint's trained head, unless something else is asked for."""

    def loaded(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        own = None if ANOTHER_HEAD & set(kwargs) else find_head(pretrained_model_name_or_path, head)
        return from_pretrained(cls, own or pretrained_model_name_or_path, *args, **kwargs)

    return loaded


# Pipelines ----------------------------------------------------------------------------------------


def trained_only(auto_class: type[_BaseAutoModelClass], task: str) -> type[_BaseAutoModelClass]:
    """An Auto class that refuses what it would have to make up: a pipeline's answers from new weights are noise.

    Args:
        auto_class: The Auto class.
        task: The pipeline, for the message.
    """

    class Trained(auto_class):
        @classmethod
        def from_pretrained(cls, name: Any, *args: Any, **kwargs: Any) -> Any:
            own = None if kwargs.get("subfolder") else find_head(name, HEADS.get(auto_class))
            if own:  # `pipeline` has read the config of the root
                name = own
                kwargs.pop("config", None)
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
