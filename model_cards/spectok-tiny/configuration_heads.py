"""What the configs of model families share: named sizes, what a checkpoint was trained on, and the task heads."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .checkpoints import SelfContainedConfig

# What saved configs hold beside the fields, and what Transformers itself passes.
_KNOWN_KEYWORDS = {
    *("auto_map", "custom_pipelines", "model_type", "name_or_path", "num_labels", "torch_dtype"),
    *("output_attentions", "attn_implementation", "experts_implementation", "tie_last_hidden_states"),
    *("per_layer_config", "transformers_weights", "quantization_config", "is_decoder"),
    "use_cache",  # Trainer sets it
}


@strict
class SpectrumConfig(SelfContainedConfig, PreTrainedConfig):
    r"""
    What the configs of all families share.

    Args:
        training_domain: What the training spectra were like, survey by survey (`spectok_hf.data.domain`); None = not
            said. Nothing in the model reads it: it is what inputs are compared with before an answer is believed.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # What has a row per patch: `Trainer.predict` would join batches of different length, and cut packed ones.
    keys_to_ignore_at_inference = [
        *("last_hidden_state", "tokens", "token_wavelength", "token_width", "attention_mask"),
        *("reconstruction", "coverage", "token_predictions", "hidden_states", "attentions"),
    ]

    training_domain: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(name for name in kwargs if name not in _KNOWN_KEYWORDS and not name.startswith("_"))
        if unknown:
            warnings.warn(
                f"{type(self).__name__} does not know {', '.join(unknown)}: kept as attributes, but nothing reads "
                "them. Check the spelling.",
                stacklevel=4,
            )
        if self.pipelines_are_registered:
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> Any:
        """A named size: "tiny" (about 1 M parameters per encoder), "small" (about 7 M) or "base" (the paper's).

        Args:
            name: Name of the preset.
            **overrides: Fields that differ from it.

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in cls.presets:
            raise ValueError(f"preset must be one of {', '.join(cls.presets)}, found {name!r}")
        return cls(**{**cls.presets[name], **overrides})


@strict
class SpectrumHeadConfig(SpectrumConfig):
    r"""
    Fields of the adaptation module and of its three tasks; the config of a model family adds its own.

    The paper (arXiv 2510.17959, section 3) puts one light module, the same for every task, on frozen tokens, and does
    not say what it is made of: all of this is ours.

    Args:
        head_input: What the heads read: "tokens" (the paper) or "last_hidden_state".
        head_type: "attention": learned queries that attend to the tokens, then an MLP; or "linear": a layer norm of
            the mean, then a linear map (the probe of OmniSpectra, arXiv 2601.15351).
        head_hidden_size: Width of the attention and of the MLP; None = hidden_size.
        head_num_queries: Learned queries; their answers are laid end to end.
        head_num_attention_heads: Attention heads of the queries.
        head_dropout: Dropout before the last linear map.
        wavelength_dim: Sinusoids that tell the attention head the wavelength of a token.
        wavelength_min_period: Shortest period of them in Å.
        wavelength_max_period: Longest period of them in Å.
        freeze_backbone: Train the head only.
        class_weights: Weight of each class in the loss, in the order of `id2label`; None = all alike. The loss is
            divided by the number of spectra whatever they weigh, so weights of mean 1 over the training set keep its
            size (`spectok_hf.data.labels.class_fields`). The Trainer's own `label_smoothing_factor` replaces our loss
            and knows no weights: use `label_smoothing`.
        label_smoothing: Share of a class label that is spread over all classes.
        target_names: Quantities that the regression head predicts ("teff", "logg", ...).
        target_units: Their units, for display.
        target_mean: Mean of each over the training set, in its unit; one number stands for all targets.
        target_std: Standard deviation of each, alike. Models predict (target - mean) / std inside, and speak in units
            outside.
        predict_uncertainty: Whether the regression head predicts a standard deviation beside each value.
        uncertainty_scale: Factor of each predicted standard deviation, from calibration on validation spectra
            (`spectok_hf.evaluation.calibration`); None = 1.
        redshift_range: Least and largest redshift of the posterior.
        redshift_bins: Nodes of the posterior, evenly spaced in ln(1 + z).
        redshift_smoothing: Width in km/s of the Gaussian that a true redshift is in training; 0 = as sharp as the
            nodes. With few thousands of training spectra some bins' width is better (`redshift_loss`).
        redshift_temperature: Divisor of its logits, from calibration on validation spectra.
        redshift_recalibration: Exponents (a, b) of the map 1 - (1 - F^a)^b of its cumulative distribution F, from the
            same calibration; (1, 1) leaves it as it is.
        redshift_velocity: Half-width in km/s of the window around the redshift whose probability is its confidence.
        redshift_confidence: Confidence below which a redshift is flagged (`zwarn`).

    Raises:
        ValueError: If a number is out of range, or lists that belong together differ in length.
    """

    head_input: Literal["tokens", "last_hidden_state"] = "tokens"
    head_type: Literal["attention", "linear"] = "attention"
    head_hidden_size: int | None = None
    head_num_queries: int = 4
    head_num_attention_heads: int = 4
    head_dropout: float | int = 0.0
    wavelength_dim: int = 16
    wavelength_min_period: float | int = 1.0
    wavelength_max_period: float | int = 4e4
    freeze_backbone: bool = False
    class_weights: list[float | int] | None = None
    label_smoothing: float | int = 0.0
    target_names: list[str] | None = None
    target_units: list[str] | None = None
    target_mean: list[float | int] | float | int | None = None
    target_std: list[float | int] | float | int | None = None
    predict_uncertainty: bool = False
    uncertainty_scale: list[float | int] | None = None
    redshift_range: list[float | int] | tuple[float | int, float | int] = (-0.01, 6.0)
    redshift_bins: int = 512
    redshift_smoothing: float | int = 0.0
    redshift_temperature: float | int = 1.0
    redshift_recalibration: list[float | int] | tuple[float | int, float | int] = (1.0, 1.0)
    redshift_velocity: float | int = 3000.0
    redshift_confidence: float | int = 0.9

    def __post_init__(self, **kwargs: Any) -> None:
        self.redshift_range = list(self.redshift_range)  # JSON knows no tuples
        self.redshift_recalibration = list(self.redshift_recalibration)
        super().__post_init__(**kwargs)

    @property
    def head_input_size(self) -> int:
        """Length of the states that the heads read."""
        return getattr(self, "latent_size" if self.head_input == "tokens" else "hidden_size")

    def validate_heads(self) -> None:
        """Check the fields of the heads against each other; called after construction and before saving.

        Models call it, too: `from_pretrained` sets fields one by one, and checks none of them.
        """
        for field in ("target_mean", "target_std"):
            if self.target_names and isinstance(getattr(self, field), (int, float)):
                setattr(self, field, [getattr(self, field)] * len(self.target_names))
        self._validate_adaptation()
        self._validate_classes()
        self._validate_targets()
        self._validate_redshift()

    def _validate_adaptation(self) -> None:
        size = self.head_hidden_size or int(getattr(self, "hidden_size", self.head_num_attention_heads))
        if min(self.head_num_queries, self.head_num_attention_heads, size) < 1 or size % self.head_num_attention_heads:
            raise ValueError(
                "head_hidden_size must be a multiple of head_num_attention_heads, and there must be a query, found "
                f"{size}, {self.head_num_attention_heads} and head_num_queries={self.head_num_queries}"
            )
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must lie between 0 and 1, found {self.head_dropout}")

    def validate_wavelengths(self) -> None:
        """Check the fields of wavelength embeddings against each other; called as `validate_heads` is."""
        if self.wavelength_dim < 2 or self.wavelength_dim % 2:
            raise ValueError(f"wavelength_dim must be even (sine and cosine), found {self.wavelength_dim}")
        if not 0 < self.wavelength_min_period < self.wavelength_max_period:
            raise ValueError(
                "wavelength periods must satisfy 0 < wavelength_min_period < wavelength_max_period (Å), found "
                f"{self.wavelength_min_period} and {self.wavelength_max_period}"
            )

    def _validate_classes(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie between 0 and 1, found {self.label_smoothing}")
        self._match_names()
        weights = self.class_weights
        if weights is None:
            return
        if len(weights) != self.num_labels or not all(weight > 0 for weight in weights):
            raise ValueError(
                f"class_weights must be one positive number for each of the {self.num_labels} classes of id2label, "
                f"found {weights}"
            )
        if self.problem_type == "regression":
            raise ValueError('class_weights need classes, found problem_type="regression": pass class_weights=None')

    def _match_names(self) -> None:
        """Make `label2id` the inverse of `id2label`, unless it gives the same names other numbers."""
        if self.id2label is None:
            return
        names = {int(number): name for number, name in self.id2label.items()}
        if sorted(names) != list(range(len(names))) or len(set(names.values())) != len(names):
            raise ValueError(f"id2label must name the classes 0, 1, 2, ..., each differently, found {names}")
        inverse = {name: number for number, name in names.items()}
        given = {name: int(number) for name, number in (self.label2id or {}).items()}
        if given.keys() == inverse.keys() and given != inverse:
            raise ValueError(f"label2id must be the inverse of id2label={names}, found {given}")
        if self.id2label != names:
            self.id2label: dict[int, str] | None = names
        if given != inverse:
            self.label2id: dict[str, int] | None = inverse

    def _validate_targets(self) -> None:
        names = self.target_names
        if names is not None and (not names or len(set(names)) != len(names)):
            raise ValueError(f"target_names must be different names, at least one, found {names}")
        for field in ("target_units", "target_mean", "target_std", "uncertainty_scale"):
            values = getattr(self, field)
            if values is not None and (names is None or len(values) != len(names)):
                raise ValueError(f"{field} must have one value for each of target_names={names}, found {values}")
        for field in ("target_std", "uncertainty_scale"):
            if any(not value > 0 for value in getattr(self, field) or []):
                raise ValueError(f"{field} must be positive, found {getattr(self, field)}")

    def _validate_redshift(self) -> None:
        low, high = self.redshift_range if len(self.redshift_range) == 2 else (0, 0)
        if not -1 < low < high < math.inf:
            raise ValueError(f"redshift_range must be two numbers, -1 < least < largest, found {self.redshift_range}")
        if not self.redshift_smoothing >= 0:
            raise ValueError(f"redshift_smoothing must be 0 or more, in km/s, found {self.redshift_smoothing}")
        if self.redshift_bins < 2:
            raise ValueError(f"redshift_bins must be at least 2, found {self.redshift_bins}")
        exponents = self.redshift_recalibration
        if len(exponents) != 2:
            raise ValueError(f"redshift_recalibration must be two numbers, found {exponents}")
        positive = [self.redshift_temperature, self.redshift_velocity, *exponents]
        if not all(number > 0 for number in positive) or not 0 < self.redshift_confidence < 1:
            raise ValueError(
                "redshift_temperature, redshift_velocity and redshift_recalibration must be positive, and "
                f"redshift_confidence between 0 and 1, found {self.redshift_temperature}, {self.redshift_velocity}, "
                f"{exponents} and {self.redshift_confidence}"
            )


__all__ = ["SpectrumConfig", "SpectrumHeadConfig"]
# From spectok-hf; save_pretrained writes this file.
if False:  # Transformers looks here for what must lie beside this file
    from .blocks import __name__
    from .checkpoints import __name__
    from .configuration_heads import __name__
    from .configuration_spectok import __name__
    from .contrastive import __name__
    from .handler import __name__
    from .heads import __name__
    from .inputs import __name__
    from .modeling_spectok import __name__
    from .outputs_spectok import __name__
    from .packed_attention import __name__
    from .packing import __name__
    from .patch_pca_start import __name__
    from .patches import __name__
    from .pipeline_spectok import __name__
    from .processing_spectok import __name__
    from .reconstruction_loss import __name__
    from .redshift_posterior import __name__
    from .sources import __name__
    from .spectrum import __name__
    from .spectrum_inputs import __name__
    from .spectrum_models import __name__
    from .wavelength import __name__
