"""Registration with the Auto classes of Transformers, and Auto classes of our own tasks."""

from collections import OrderedDict

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

from .models.configuration_spectok import SpecTokConfig
from .models.modeling_spectok import (
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
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


def register() -> None:
    """Make every model family known to `AutoConfig`, `AutoModel...` and `AutoProcessor`; may be called again."""
    AutoConfig.register(SpecTokConfig.model_type, SpecTokConfig, exist_ok=True)
    for auto_class, classes in SPECTOK.items():
        auto_class.register(SpecTokConfig, classes, exist_ok=True)


__all__ = [
    "AutoModelForRedshift",
    "AutoModelForSpectrumClassification",
    "AutoModelForStellarRegression",
    "register",
]
