"""Transformer blocks that the model families share: attention within spectra, padded or packed, and an MLP."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .packed_attention import Packing, eager_attention_forward, packed_attention_forward
from .packing import Neighbours


def in_own_precision(linear: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """A linear map in the type of its weights, also under autocast.

    Flux and tokens pass through the maps at the ends of a model: bfloat16 would round each of them by up to 0.4 %,
    which is as much as the error of a pixel of S/N 250.
    """
    device = states.device.type
    known = torch.amp.is_autocast_available(device)  # not of "meta"
    with torch.autocast(device, enabled=False) if known else nullcontext():
        return linear(states.to(linear.weight.dtype))


def init_sized_weights(module: nn.Module) -> None:
    """Initialise a module of which a family says how large its weights are (`initial_std`): normal, cut at 3 std.

    Args:
        module: Any module of a model. (Transformers asks for those that have weights of their own, and no others.)
    """
    std = getattr(module, "initial_std", None)
    if std is not None:
        init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)


class LocalPosition(nn.Module):
    """A depthwise convolution of kernel 3 over the values of neighbouring patches (arXiv 2601.15351).

    A patch that is not valid, or of another spectrum, counts as 0, as what lies beyond the ends does.

    Args:
        size: Channels, each with a kernel of its own.
    """

    def __init__(self, size: int):
        super().__init__()
        self.convolution = nn.Conv1d(size, size, kernel_size=3, padding=1, groups=size)

    def forward(self, values: torch.Tensor, neighbours: Neighbours) -> torch.Tensor:
        """Shape of `values`, (..., size).

        Args:
            values: What the attention adds up, one row per patch.
            neighbours: Which rows lie beside which.
        """
        before, here, after = self.convolution.weight.squeeze(1).unbind(-1)  # each of shape (size,)
        left, middle, right = neighbours.beside(values)
        return before * left + here * middle + after * right + self.convolution.bias  # type: ignore[operator]


class SpectrumAttention(nn.Module):
    """Attention of patches to each other, or to a memory.

    Args:
        config: The model's.
        local_position: Whether a `LocalPosition` of the values is added to what comes out.
    """

    def __init__(self, config: PreTrainedConfig, *, local_position: bool = False):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.local_position = LocalPosition(config.hidden_size) if local_position else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,
        packing: Packing | None = None,
        neighbours: Neighbours | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        source = hidden_states if memory is None else memory
        source = source if packing is None else packing.select_keys(source)
        values = self.v_proj(source)
        query = self.split_heads(self.q_proj(hidden_states))
        key, value = self.split_heads(self.k_proj(source)), self.split_heads(values)
        dropout = self.attention_dropout if self.training else 0.0
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if packing is not None:  # a stock function would let the spectra of a packed batch attend to each other
            attend = partial(packed_attention_forward, packing=packing, interface=attend)
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        output = output.flatten(-2) if packing is None else output.flatten(-2).squeeze(0)
        if self.local_position is not None and neighbours is not None:
            output = output + self.local_position(values, neighbours)
        return self.o_proj(output), weights

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Shape (batch, heads, patches, head_dim); the batch of packed states is 1."""
        states = states.unflatten(-1, (-1, self.head_dim)).transpose(-3, -2)
        return states[None] if states.ndim == 3 else states


class SpectrumMLP(nn.Module):
    """Two linear maps and an activation between them."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class SpectrumLayer(GradientCheckpointingLayer):
    """Transformer block: pre-norm, or post-norm as the first Transformer had it.

    Args:
        config: The model's.
        post_norm: Whether norms stand behind the sums.
        local_position: As for `SpectrumAttention`.
    """

    def __init__(self, config: PreTrainedConfig, *, post_norm: bool = False, local_position: bool = False):
        super().__init__()
        self.post_norm = post_norm
        self.norm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SpectrumAttention(config, local_position=local_position)
        self.norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SpectrumMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        memory: torch.Tensor | None = None,
        packing: Packing | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attend = partial(self.attention, attention_mask=attention_mask, memory=memory, packing=packing, **kwargs)
        if self.post_norm:
            hidden_states = self.norm_before(hidden_states + self.dropout(attend(hidden_states)[0]))
            return self.norm_after(hidden_states + self.dropout(self.mlp(hidden_states)))
        hidden_states = hidden_states + self.dropout(attend(self.norm_before(hidden_states))[0])
        return hidden_states + self.dropout(self.mlp(self.norm_after(hidden_states)))


__all__ = [
    "LocalPosition",
    "SpectrumAttention",
    "SpectrumLayer",
    "SpectrumMLP",
    "in_own_precision",
    "init_sized_weights",
]
# From spectok-hf; save_pretrained writes this file.
