"""Task heads that every model family shares: one adaptation module, and what its numbers mean for each task.

A head reads the states of a spectrum's valid patches, in the padded or the packed layout, and answers per spectrum. A
spectrum without a valid patch gets no answer that could pass for one: even class logits, NaN, a flag.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .packed_attention import eager_attention_forward, packed_attention_forward
from .packing import Lengths, PackedLayout, PaddedLayout
from .redshift_posterior import (
    LIGHT_SPEED,
    node_grid,
    position_redshift,
    quantile,
    recalibrate,
    redshift_loss,
    redshift_position,
    window_sums,
)
from .wavelength import WavelengthEmbedding

NO_CLASS = -100  # the label of a spectrum whose class is not known, as everywhere in torch
NLL_BETA = 0.5
LEAST_SPREAD = 1e-3  # of a predicted uncertainty, in standard deviations of the target
MOST_SPREADS = 100.0  # of a label from the mean of its target: beyond it columns are swapped, or a unit is wrong
# Bits of `zwarn`; 0 = nothing to warn of.
ZWARN_BITS = {"low confidence": 1, "at the edge of redshift_range": 2, "no valid patch": 4}

Layout = PaddedLayout | PackedLayout


@dataclass
class SpectrumRegressionOutput(ModelOutput):
    """
    Output of a regression head.

    Args:
        loss: Mean over spectra of the mean loss over a spectrum's known targets.
        predictions: The targets in their units, shape (batch, targets); NaN for a spectrum without a valid patch.
        uncertainties: Standard deviation of each, in the same units, with `predict_uncertainty`.
        hidden_states: Of the encoder, see `SpecTokModelOutput`.
        attentions: Of the encoder.
    """

    loss: torch.Tensor | None = None
    predictions: torch.Tensor | None = None
    uncertainties: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class SpectrumRedshiftOutput(ModelOutput):
    """
    Output of a redshift head.

    Args:
        loss: Mean over spectra of the cross-entropy with the true redshift, see `redshift_loss`.
        redshift: Centroid of the posterior in the window that holds most of it, shape (batch,); NaN for a spectrum
            without a valid patch.
        uncertainty: Half of the interval from the 16th to the 84th percentile, in redshift, shape (batch,).
        confidence: Probability of the window, redshift +- `redshift_velocity`, shape (batch,).
        zwarn: 0 = good, else a sum of `ZWARN_BITS`, shape (batch,), int64.
        posterior: Probability of each node of `redshift_nodes`, shape (batch, redshift_bins).
        hidden_states: Of the encoder, see `SpecTokModelOutput`.
        attentions: Of the encoder.
    """

    loss: torch.Tensor | None = None
    redshift: torch.Tensor | None = None
    uncertainty: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    zwarn: torch.Tensor | None = None
    posterior: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class AttentionPooling(nn.Module):
    """Learned queries that attend to the valid patches of each spectrum.

    Args:
        config: The model's.
        size: Length of the states.
    """

    def __init__(self, config: PreTrainedConfig, size: int):
        super().__init__()
        self.config = config
        self.head_dim = size // config.head_num_attention_heads
        self.is_causal = False
        self.queries = nn.Parameter(torch.zeros(config.head_num_queries, size))
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)

    def forward(self, states: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The answers of the queries end to end, shape (batch, queries x size).

        Args:
            states: Shape (batch, num_patches, size) or, packed, (T, size).
            layout: Says which patches are valid, and which are of one spectrum.
        """
        mask, packing = layout.asked_by(len(self.queries))
        states = states if packing is None else packing.select_keys(states)
        key, value = (self.split_heads(project(states)) for project in (self.k_proj, self.v_proj))
        queries = self.queries.to(key.dtype).expand(layout.batch, -1, -1)  # autocast does not reach them
        if packing is None:
            query = self.split_heads(queries)
            answers = functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
        else:
            name = self.config._attn_implementation
            attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
            query = self.split_heads(queries.flatten(0, 1))
            answers, _ = packed_attention_forward(self, query, key, value, None, packing, attend)
        return self.o_proj(answers.reshape(*queries.shape)).flatten(1)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Shape (batch, heads, rows, head_dim); the batch of packed states is 1."""
        states = states.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)
        return states[None] if states.ndim == 3 else states


class AttentionAdapter(nn.Module):
    """States with the embedding of their wavelengths, pooled by learned queries; then the first layer of an MLP, whose
    last one is the head's.

    Args:
        config: The model's.
        input_size: Length of the states.
    """

    def __init__(self, config: PreTrainedConfig, input_size: int):
        super().__init__()
        size = config.head_hidden_size or config.hidden_size
        pooled, self.output_size = size * config.head_num_queries, 2 * size
        self.projection = nn.Linear(input_size, size)
        self.wavelength_embedding = WavelengthEmbedding(
            size,
            patch_size=1,
            wavelength_dim=config.wavelength_dim,
            pooling="center",
            min_period=config.wavelength_min_period,
            max_period=config.wavelength_max_period,
        )
        self.norm_before = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.pooling = AttentionPooling(config, size)
        self.norm_after = nn.LayerNorm(pooled, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(pooled, self.output_size)
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(self, states: torch.Tensor, token_wavelength: torch.Tensor, layout: Layout) -> torch.Tensor:
        """One vector per spectrum, shape (batch, output_size).

        Args:
            states: Shape (..., input_size), where ... is (batch, num_patches) or, packed, (T,).
            token_wavelength: Wavelength of each in Å, shape (...).
            layout: Says which patches are valid, and which are of one spectrum.
        """
        dtype = self.projection.weight.dtype
        states = self.projection(states.to(dtype)) + self.wavelength_embedding(token_wavelength[..., None], dtype)
        pooled = self.pooling(self.norm_before(states), layout)
        return self.dropout(functional.gelu(self.fc1(self.norm_after(pooled))))

    def flops(self, num_patches: Lengths) -> int:
        """Floating-point operations for spectra of so many patches, counted as the models' `flops` counts them."""
        rows, spectra = sum(map(int, num_patches)), len(num_patches)
        per_patch = [self.projection, self.wavelength_embedding.projection, self.pooling.k_proj, self.pooling.v_proj]
        of_patches = sum(module.weight.numel() for module in per_patch if isinstance(module, nn.Linear))
        of_queries = self.pooling.queries.numel()
        of_spectra = len(self.pooling.queries) * self.pooling.o_proj.weight.numel() + self.fc1.weight.numel()
        return 2 * rows * of_patches + 4 * rows * of_queries + 2 * spectra * of_spectra


class MeanAdapter(nn.Module):
    """A layer norm of the mean state: with the linear map behind it, the probe of OmniSpectra (arXiv 2601.15351).

    Args:
        config: The model's.
        input_size: Length of the states.
    """

    def __init__(self, config: PreTrainedConfig, input_size: int):
        super().__init__()
        self.output_size = input_size
        self.norm = nn.LayerNorm(input_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.head_dropout)

    def forward(self, states: torch.Tensor, token_wavelength: torch.Tensor, layout: Layout) -> torch.Tensor:
        """One vector per spectrum, shape (batch, input_size); arguments as `AttentionAdapter.forward`."""
        states = torch.where(layout.valid[..., None], states, 0)
        mean = layout.sum(states) / layout.sum(layout.valid)[:, None].clamp(min=1)
        return self.dropout(self.norm(mean.to(self.norm.weight.dtype)))

    def flops(self, num_patches: Lengths) -> int:
        """No linear map, no operation that counts."""
        return 0


def make_adapter(config: PreTrainedConfig, input_size: int) -> AttentionAdapter | MeanAdapter:
    """The adaptation module that `head_type` names."""
    return AttentionAdapter(config, input_size) if config.head_type == "attention" else MeanAdapter(config, input_size)


class ClassificationHead(nn.Module):
    """Classes, or what Transformers' other two problem types make of the logits.

    Args:
        config: The model's.
        input_size: Length of the states.
    """

    def __init__(self, config: PreTrainedConfig, input_size: int):
        super().__init__()
        self.config = config
        self.adapter = make_adapter(config, input_size)
        self.classifier = nn.Linear(self.adapter.output_size, config.num_labels)

    def forward(
        self,
        states: torch.Tensor,
        token_wavelength: torch.Tensor,
        layout: Layout,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits, shape (batch, num_labels), 0 for a spectrum without a valid patch; the loss where there are labels.

        Args:
            states: See `AttentionAdapter.forward`, as the two that follow.
            token_wavelength: As there.
            layout: As there.
            labels: See `classification_loss`.
        """
        logits = self.classifier(self.adapter(states, token_wavelength, layout))
        logits = torch.where(has_patches(layout)[:, None], logits, 0)
        loss = None if labels is None else classification_loss(self.config, logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class RegressionHead(nn.Module):
    """Named quantities in their units, each with a standard deviation if wanted.

    Args:
        config: The model's; it names the targets.
        input_size: Length of the states.

    Raises:
        ValueError: If it does not.
    """

    def __init__(self, config: PreTrainedConfig, input_size: int):
        super().__init__()
        if not config.target_names:
            raise ValueError(
                "a regression head needs target_names, found none: pass target_names, target_units, target_mean and "
                "target_std to from_pretrained (spectok_hf.data.labels.target_fields makes them from labelled spectra)"
            )
        self.config = config
        self.beyond_spreads = (  # here: a graph that is being traced writes no texts
            f"labels must lie within {MOST_SPREADS:g} standard deviations (target_std) of target_mean: check the "
            f"order of the targets, {config.target_names}, and their units"
        )
        self.adapter = make_adapter(config, input_size)
        count = len(config.target_names)
        self.regressor = nn.Linear(self.adapter.output_size, 2 * count if config.predict_uncertainty else count)

    def forward(
        self,
        states: torch.Tensor,
        token_wavelength: torch.Tensor,
        layout: Layout,
        labels: torch.Tensor | None = None,
    ) -> SpectrumRegressionOutput:
        """Predictions and uncertainties in the units of the targets; the loss where there are labels.

        Args:
            states: See `AttentionAdapter.forward`, as the two that follow.
            token_wavelength: As there.
            layout: As there.
            labels: Shape (batch, targets), or (batch,) of a single target, in units; NaN = not known.
        """
        outputs = at_least_float32(self.regressor(self.adapter(states, token_wavelength, layout)))
        values, spreads = outputs.chunk(2, -1) if self.config.predict_uncertainty else (outputs, None)
        mean, std = self._standardisation(values)
        seen = has_patches(layout)[:, None]
        predictions = torch.where(seen, mean + std * values, torch.nan)
        uncertainties = None
        if spreads is not None:
            spreads = functional.softplus(spreads + SPREAD_OF_ONE) + LEAST_SPREAD
            scale = 1.0 if self.config.uncertainty_scale is None else self.config.uncertainty_scale
            uncertainties = torch.where(seen, spreads * std * values.new_tensor(scale), torch.nan)
        loss = None
        if labels is not None:
            standardised = (self._check_labels(labels, values) - mean) / std
            require(~(standardised.abs() > MOST_SPREADS).any(), self.beyond_spreads)
            loss = regression_loss(values, spreads, torch.where(seen, standardised, torch.nan))
        return SpectrumRegressionOutput(loss=loss, predictions=predictions, uncertainties=uncertainties)

    def _standardisation(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the targets, shape (targets,) or ()."""
        mean, std = self.config.target_mean, self.config.target_std
        return values.new_tensor(0.0 if mean is None else mean), values.new_tensor(1.0 if std is None else std)

    def _check_labels(self, labels: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        names = self.config.target_names
        if self.config.target_mean is None or self.config.target_std is None:
            raise ValueError(
                f"training on {names} needs target_mean and target_std in the config, found none: pass what "
                "spectok_hf.data.labels.target_fields makes of the training spectra to from_pretrained"
            )
        labels = labels[:, None] if labels.ndim == 1 and len(names) == 1 else labels
        if labels.shape != values.shape or labels.dtype == torch.bool:
            raise ValueError(
                f"labels must be numbers, shape ({len(values)}, {len(names)}) for {names}, in their units and NaN "
                f"where they are not known, found {labels.dtype} of shape {tuple(labels.shape)}"
            )
        require(~labels.isinf().any(), "labels must be finite, NaN where they are not known, found infinite ones")
        return labels.to(values.dtype)


class RedshiftHead(nn.Module):
    """A posterior over ln(1 + z), and the redshift, its uncertainty and its quality that follow.

    The density is linear between nodes that are evenly spaced in ln(1 + z), so that the truth may lie anywhere between
    two of them.

    Args:
        config: The model's.
        input_size: Length of the states.
    """

    def __init__(self, config: PreTrainedConfig, input_size: int):
        super().__init__()
        self.config = config
        self.adapter = make_adapter(config, input_size)
        self.redshift_logits = nn.Linear(self.adapter.output_size, config.redshift_bins)
        # Written here, since a graph that is being traced cannot format numbers.
        self.outside_range = (
            f"redshifts must lie within redshift_range={list(config.redshift_range)}: widen it, or drop the others"
        )

    def forward(
        self,
        states: torch.Tensor,
        token_wavelength: torch.Tensor,
        layout: Layout,
        labels: torch.Tensor | None = None,
    ) -> SpectrumRedshiftOutput:
        """The posterior and what follows from it; the loss where there are labels.

        Args:
            states: See `AttentionAdapter.forward`, as the two that follow.
            token_wavelength: As there.
            layout: As there.
            labels: True redshifts, shape (batch,); NaN = not known.
        """
        logits = at_least_float32(self.redshift_logits(self.adapter(states, token_wavelength, layout)))
        seen = has_patches(layout)
        logits = torch.where(seen[:, None], logits / self.config.redshift_temperature, 0)
        loss = None
        if labels is not None:
            position = redshift_position(self.config, self._check_labels(labels, logits))
            width = self.config.redshift_smoothing / LIGHT_SPEED / node_grid(self.config)[1]
            loss = redshift_loss(logits, torch.where(seen, position, torch.nan), width)
        posterior = logits.softmax(-1)
        if list(self.config.redshift_recalibration) != [1.0, 1.0]:
            recalibrated = recalibrate(posterior, *self.config.redshift_recalibration)
            posterior = torch.where(seen[:, None], recalibrated, posterior)
        return self._read(posterior, seen, loss)

    def _read(self, posterior: torch.Tensor, seen: torch.Tensor, loss: torch.Tensor | None) -> SpectrumRedshiftOutput:
        """What a posterior says of the spectra that have been seen."""
        _, step = node_grid(self.config)
        reach = max(round(self.config.redshift_velocity / LIGHT_SPEED / step), 1)
        confidence, centre = window_sums(posterior, reach).max(-1)
        nodes = torch.arange(posterior.shape[-1], device=posterior.device)
        inside = posterior * ((nodes - centre[:, None]).abs() <= reach)
        position = (inside * nodes).sum(-1) / inside.sum(-1)
        low, high = (position_redshift(self.config, quantile(posterior, share)) for share in (0.1587, 0.8413))
        # Not its centre: of the windows that hold a narrow peak whole, rounding picks one.
        peak = inside.argmax(-1)
        at_edge = seen & ((peak == 0) | (peak == len(nodes) - 1))
        flags = (confidence < self.config.redshift_confidence, at_edge, ~seen)
        bits = torch.tensor(list(ZWARN_BITS.values()), device=posterior.device)
        return SpectrumRedshiftOutput(
            loss=loss,
            redshift=torch.where(seen, position_redshift(self.config, position), torch.nan),
            uncertainty=torch.where(seen, (high - low) / 2, torch.nan),
            confidence=confidence,
            zwarn=(torch.stack(flags, -1) * bits).sum(-1),
            posterior=posterior,
        )

    def _check_labels(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        labels = labels.squeeze(-1) if labels.ndim == 2 else labels
        if labels.shape != logits.shape[:1] or not labels.is_floating_point():
            raise ValueError(
                f"labels must be redshifts, float, shape ({len(logits)},), NaN where they are not known, found "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )
        low, high = self.config.redshift_range
        outside = (labels < low) | (labels > high)
        require(~outside.any(), self.outside_range)
        return labels.to(logits.dtype)


SPREAD_OF_ONE = 0.5413248546  # softplus of it is 1: an untrained head claims the spread of the training set


# Losses: each a mean over the spectra of the batch, so that equal batches may be accumulated


def classification_loss(config: PreTrainedConfig, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss of Transformers' three problem types, over the labels that are known.

    Which one it is says `config.problem_type` or, as in Transformers, the type of the labels.

    Args:
        config: Names the problem type, the weights of the classes and the label smoothing.
        logits: Shape (batch, num_labels).
        labels: Classes, int64, shape (batch,), -100 = not known; or float, shape (batch, num_labels), NaN = not known:
            1 = the class applies ("multi_label_classification"), or any numbers ("regression").

    Raises:
        ValueError: If labels have another shape or type, or name a class that there is none of.
    """
    logits = at_least_float32(logits)
    kind = config.problem_type or _problem_type(config.num_labels, labels)
    if not torch.compiler.is_compiling():
        config.problem_type = kind  # by which a pipeline turns logits into answers
    weights = None if config.class_weights is None else logits.new_tensor(config.class_weights)
    if kind == "single_label_classification":
        labels = labels.squeeze(-1) if labels.ndim == 2 and labels.shape[-1] == 1 else labels
        _check_classes(config, labels, logits)
        losses = functional.cross_entropy(
            logits,
            labels.long(),
            weights,
            reduction="none",
            ignore_index=NO_CLASS,
            label_smoothing=config.label_smoothing,
        )
        return losses.mean()
    labels = labels[:, None] if labels.ndim == 1 and config.num_labels == 1 else labels
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels of problem_type={kind!r} must have shape {tuple(logits.shape)}, found {tuple(labels.shape)}"
        )
    labels = labels.to(logits.dtype)
    if kind == "regression":
        return known_mean(lambda target: (logits - target) ** 2, labels)
    return known_mean(
        lambda target: functional.binary_cross_entropy_with_logits(logits, target, weights, reduction="none"), labels
    )


def _problem_type(num_labels: int, labels: torch.Tensor) -> str:
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def _check_classes(config: PreTrainedConfig, labels: torch.Tensor, logits: torch.Tensor) -> None:
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be class numbers, int64, shape ({len(logits)},), found {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    known = (labels == NO_CLASS) | ((labels >= 0) & (labels < config.num_labels))
    require(known.all(), f"labels must be among the classes of id2label={config.id2label}, or {NO_CLASS} = not known")


def regression_loss(values: torch.Tensor, spreads: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """Squared error or, with spreads, the beta-NLL of a Gaussian (Seitzer et al. 2022, arXiv 2203.09168).

    The plain negative log-likelihood gives up on what is hard to fit, by a large spread; weighting each term by its
    spread (variance to the power of beta = 1/2) keeps the mean in training.

    Args:
        values: Predicted, in standard deviations of the target from its mean, shape (batch, targets).
        spreads: Their standard deviations, in the same unit; None = not predicted.
        labels: True, in the same unit; NaN = not known.
    """
    if spreads is None:
        return known_mean(lambda target: (values - target) ** 2, labels)
    return known_mean(
        lambda target: (0.5 * ((values - target) / spreads) ** 2 + spreads.log()) * spreads.detach() ** (2 * NLL_BETA),
        labels,
    )


def known_mean(losses: Callable[[torch.Tensor], torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Mean over spectra of the mean over a spectrum's known labels; one without any counts as 0.

    Args:
        losses: Gives the loss of each label, given labels without NaN.
        labels: Shape (batch, targets), NaN = not known.
    """
    known = ~labels.isnan()
    each = torch.where(known, losses(torch.where(known, labels, 0)), 0)
    return (each.sum(-1) / known.sum(-1).clamp(min=1)).mean()


# What all heads share


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """The values in float32, or in float64 if they are: losses and units need more than half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def has_patches(layout: Layout) -> torch.Tensor:
    """Whether a spectrum has a valid patch, shape (batch,), bool."""
    return layout.sum(layout.valid) > 0


def require(holds: torch.Tensor, message: str) -> None:
    """Raise a ValueError unless a condition on values holds; on a GPU, without waiting for it, a device-side error.

    Args:
        holds: Shape (), bool.
        message: What must hold.
    """
    if holds.device.type != "cpu" or torch.compiler.is_compiling():
        if holds.device.type != "meta":
            torch._assert_async(holds, message)
    elif not holds:
        raise ValueError(message)


def init_head_weights(module: nn.Module, std: float) -> None:
    """Initialise what `PreTrainedModel._init_weights` does not know of the heads.

    Args:
        module: Any module of a model.
        std: Standard deviation of new weights.
    """
    if isinstance(module, AttentionPooling):
        init.normal_(module.queries, std=std)


__all__ = [
    "ZWARN_BITS",
    "ClassificationHead",
    "RedshiftHead",
    "RegressionHead",
    "SpectrumRedshiftOutput",
    "SpectrumRegressionOutput",
    "init_head_weights",
]
# From spectok-hf; save_pretrained writes this file.
