"""Attention within the spectra of a packed batch, and never between them.

One function, `packed_attention_forward`, registered with Transformers as "spectok_packed". Whatever
`attn_implementation` is chosen, a packed batch comes here, and no T x T mask is ever made:

    sdpa (the default), spectok_packed   CUDA in half precision: `torch.nn.attention.varlen`; CPU, and any graph that
                                         is being compiled: the operator `spectok::packed_attention` below
    flash_attention_*                    Transformers' own variable-length call
    every other name, and dropout        one call per spectrum (neighbours of equal length: one for all of them)

A kernel from the Hub counts as flash attention only where Transformers calls it as such: what is merely named so may
not know where a spectrum ends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import register_flop_formula
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch < 2.10
    varlen_attn = None  # type: ignore[assignment]

NAME = "spectok_packed"
FAST = (NAME, "sdpa")


@dataclass(frozen=True)
class Segments:
    """Runs of rows of a packed tensor, one per spectrum.

    Args:
        boundaries: First row of each run, and the end of the last, shape (batch + 1,), int32, on the tensor's device.
        longest: Length of the longest run, or more.
        lengths: Length of each run; None while a graph is traced, which must hold for any lengths.
    """

    boundaries: torch.Tensor
    longest: int
    lengths: list[int] | None = None


@dataclass(frozen=True)
class Packing:
    """Which rows ask and which answer: the rows of a spectrum ask those of the same spectrum.

    Args:
        queries: The runs that ask.
        keys: The runs that answer.
        key_rows: Rows of the source that answer, shape (keys,); None = all of them, in their order.
    """

    queries: Segments
    keys: Segments
    key_rows: torch.Tensor | None = None

    def select_keys(self, source: torch.Tensor) -> torch.Tensor:
        """The rows that answer, shape (keys, ...), of a source of shape (rows, ...)."""
        return source if self.key_rows is None else source.index_select(0, self.key_rows)


def packed_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing: Packing | None = None,
    interface: Callable = sdpa_attention_forward,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of a packed batch; in Transformers' padded layout (`packing=None`) that of `sdpa`.

    Args:
        module: The attention module; its config names the implementation.
        query: Shape (1, heads, queries, head_dim), as in Transformers' interface.
        key: Shape (1, heads, keys, head_dim).
        value: The same shape.
        attention_mask: Of the padded layout; None in the packed one.
        packing: Which rows belong to which spectrum.
        interface: What Transformers' attention interface holds under the name of the implementation.
        scaling: Factor of the scores; None = head_dim ** -0.5.
        dropout: Of the attention weights.
        **kwargs: Passed on to other implementations.

    Returns:
        Shape (1, queries, heads, head_dim), and no weights: they are recorded in the padded layout.

    Raises:
        ValueError: If the implementation cannot keep spectra apart.
    """
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    name: str = module.config._attn_implementation  # type: ignore[union-attr, assignment]
    if name.startswith("paged|"):
        raise ValueError(f"attn_implementation={name!r} has no cache to page here: use sdpa, eager or flex_attention")
    if not query.shape[2]:  # a batch without a valid patch: kernels need not know how to do nothing
        return query.transpose(1, 2), None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if name in FAST and not dropout:
        rows = tuple(states.squeeze(0).transpose(0, 1) for states in (query, key, value))  # (rows, heads, head_dim)
        if fits_varlen(query):
            return _varlen_attention(rows, packing, scaling).unsqueeze(0), None
        if query.device.type == "cpu" or packing.queries.lengths is None:
            boundaries = packing.queries.boundaries, packing.keys.boundaries
            return packed_attention(*rows, *boundaries, scaling)[0].unsqueeze(0), None
    kwargs |= {"scaling": scaling, "dropout": dropout}
    if interface is flash_attention_forward:
        kwargs |= {
            "cu_seq_lens_q": packing.queries.boundaries,
            "cu_seq_lens_k": packing.keys.boundaries,
            "max_length_q": packing.queries.longest,
            "max_length_k": packing.keys.longest,
        }
        return interface(module, query, key, value, None, **kwargs)[0], None
    return _attend_by_segment(interface, module, query, key, value, packing, kwargs), None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention in plain operations, which gives its weights, shape (batch, heads, queries, keys), too."""
    scaling = query.size(-1) ** -0.5 if scaling is None else scaling
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling  # (batch, heads, queries, keys)
    if attention_mask is not None:
        weights = weights + attention_mask
    dtype = torch.promote_types(weights.dtype, torch.float32)
    weights = nn.functional.softmax(weights, dim=-1, dtype=dtype).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def _attend_by_segment(
    interface: Callable,
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    kwargs: dict[str, Any],
) -> torch.Tensor:
    """The interface's answer, shape (1, queries, heads, head_dim), one call for each run of equal lengths.

    `split` and not slices: the gradient of every slice would be a tensor as large as the whole.
    """
    if packing.queries.lengths is None or packing.keys.lengths is None:
        raise ValueError(
            "this attn_implementation cannot be compiled for packed spectra, nor can dropout of attention weights: "
            'use "sdpa" without it, or pass padded spectra'
        )
    groups = group_equal(packing.queries.lengths, packing.keys.lengths)
    parts = [
        states.split([count * lengths[side] for count, *lengths in groups], dim=2)
        for side, states in ((0, query), (1, key), (1, value))
    ]
    outputs = []
    for (count, _, keys), q, k, v in zip(groups, *parts, strict=True):
        if not keys or not q.shape[2]:  # nobody answers
            outputs.append(torch.zeros_like(q).transpose(1, 2))
            continue
        q, k, v = (states.squeeze(0).unflatten(1, (count, -1)).transpose(0, 1) for states in (q, k, v))
        outputs.append(interface(module, q, k, v, None, **kwargs)[0].flatten(0, 1).unsqueeze(0))
    return torch.cat(outputs, dim=1) if outputs else query.transpose(1, 2)


def group_equal(query_lengths: list[int], key_lengths: list[int]) -> list[tuple[int, int, int]]:
    """Neighbours of equal lengths as one: (how many, their queries, their keys)."""
    groups: list[tuple[int, int, int]] = []
    for lengths in zip(query_lengths, key_lengths, strict=True):
        if groups and groups[-1][1:] == lengths:
            groups[-1] = (groups[-1][0] + 1, *lengths)
        else:
            groups.append((1, *lengths))
    return groups


# CUDA in half precision


def fits_varlen(states: torch.Tensor) -> bool:
    """Whether `torch.nn.attention.varlen` takes these states; "meta" counts, so that shapes are checked without a GPU.

    Args:
        states: Shape (..., head_dim).
    """
    half = states.dtype in (torch.float16, torch.bfloat16)
    if varlen_attn is None or not half or states.device.type not in ("cuda", "meta"):
        return False
    modern = not torch.cuda.is_available() or torch.cuda.get_device_properties(states.device).major >= 8
    return modern and states.shape[-1] % 8 == 0 and states.shape[-1] <= 256


def _varlen_attention(states: tuple[torch.Tensor, ...], packing: Packing, scaling: float) -> torch.Tensor:
    """As `packed_attention`, by the flash kernel: query, key and value of shape (rows, heads, head_dim)."""
    query, key, value = states
    # The kernel's own factor is head_dim ** -0.5; how another is passed differs between releases of torch.
    query = query * (scaling * query.shape[-1] ** 0.5) if scaling != query.shape[-1] ** -0.5 else query
    queries, keys = packing.queries, packing.keys
    traced = queries.lengths is None
    if traced:  # rows beyond the last run are padding, which the kernel leaves unwritten, in gradients too
        query = _zero_beyond(query, queries.boundaries)
        key, value = (_zero_beyond(states, keys.boundaries) for states in (key, value))
    output: Any = varlen_attn(
        query, key, value, queries.boundaries, keys.boundaries, queries.longest, max(keys.longest, 1)
    )
    return _zero_beyond(output, queries.boundaries) if traced else output


def _zero_beyond(states: torch.Tensor, boundaries: torch.Tensor) -> torch.Tensor:
    """Rows beyond the last run set to 0, and so is their gradient."""
    inside = torch.arange(len(states), device=states.device) < boundaries[-1]
    return torch.where(inside[:, None, None], states, 0)


# the operator: one node in a compiled graph, whatever the lengths are


def _run_lengths(boundaries: torch.Tensor, rows: int) -> list[int]:
    starts = boundaries.tolist()
    lengths = [stop - start for start, stop in pairwise(starts)]
    if starts[0] != 0 or min(lengths, default=0) < 0 or starts[-1] > rows:
        raise ValueError(f"runs must begin at 0, not overlap and fit into {rows} rows, found boundaries {starts}")
    return lengths


def _segments(
    query: torch.Tensor, key: torch.Tensor, boundaries_q: torch.Tensor, boundaries_k: torch.Tensor
) -> list[tuple[int, slice, slice]]:
    """(how many spectra, their queries, their keys) for each run of equal lengths where somebody asks and answers."""
    lengths = [_run_lengths(boundaries_q, len(query)), _run_lengths(boundaries_k, len(key))]
    found, first_q, first_k = [], 0, 0
    for count, queries, keys in group_equal(*lengths):
        last_q, last_k = first_q + count * queries, first_k + count * keys
        if queries and keys:  # torch's kernel for CPUs kills the process where either is 0
            found.append((count, slice(first_q, last_q), slice(first_k, last_k)))
        first_q, first_k = last_q, last_k
    return found


def _by_spectrum(states: torch.Tensor, rows: slice, count: int) -> torch.Tensor:
    """(rows, heads, ...) as (count, heads, rows of one, ...)."""
    return states[rows].unflatten(0, (count, -1)).transpose(1, 2)


def _attend_on_cpu(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and the logarithm of the softmax's denominator. Shapes (count, heads, rows, head_dim)."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, scale=scaling)


def _differentiate_on_cpu(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    denominator: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value. Shapes (count, heads, rows, head_dim)."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, output, denominator.contiguous(), 0.0, False, scale=scaling
    )


def _attend_anywhere(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_attend_on_cpu`, in plain operations."""
    scores = query @ key.transpose(-1, -2) * scaling
    scores = scores.to(_denominator_type(query))
    return scores.softmax(-1).to(value.dtype) @ value, scores.logsumexp(-1)


def _differentiate_anywhere(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    denominator: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `_differentiate_on_cpu`, in plain operations."""
    scores = (query @ key.transpose(-1, -2) * scaling).to(denominator.dtype)
    weights = (scores - denominator[..., None]).exp().to(value.dtype)
    inner = gradient @ value.transpose(-1, -2) - (gradient * output).sum(-1, keepdim=True)
    of_scores = weights * inner * scaling
    return of_scores @ key, of_scores.transpose(-1, -2) @ query, weights.transpose(-1, -2) @ gradient


KERNELS = {"cpu": (_attend_on_cpu, _differentiate_on_cpu)}
ANYWHERE = (_attend_anywhere, _differentiate_anywhere)
# Up to so many scores, plain operations in bfloat16 are two to three times as fast on a CPU as torch's kernel. They
# round scores to bfloat16, as the kernel does not: where logits scatter by 9, outputs are wrong by up to 0.2.
PLAIN_SCORES = 2**24  # 64 MB


def _kernels(query: torch.Tensor, keys: int) -> tuple[Callable, Callable]:
    """What attends, and what differentiates it, for a query of shape (count, heads, rows, head_dim)."""
    plain = query.dtype == torch.bfloat16 and query.shape[:-1].numel() * keys <= PLAIN_SCORES
    return ANYWHERE if plain else KERNELS.get(query.device.type, ANYWHERE)


def _forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries_q: torch.Tensor,
    boundaries_k: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    output = query.new_zeros(query.shape)
    denominator = query.new_zeros(query.shape[:2], dtype=_denominator_type(query))
    for count, asked, answered in _segments(query, key, boundaries_q, boundaries_k):
        q = _by_spectrum(query, asked, count)
        k, v = (_by_spectrum(states, answered, count) for states in (key, value))
        attend, _ = _kernels(q, k.shape[-2])
        result, of_result = attend(q, k, v, scaling)
        _by_spectrum(output, asked, count).copy_(result)
        _by_spectrum(denominator, asked, count).copy_(of_result)
    return output, denominator


def _backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    denominator: torch.Tensor,
    boundaries_q: torch.Tensor,
    boundaries_k: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gradients = query.new_zeros(query.shape), key.new_zeros(key.shape), value.new_zeros(value.shape)
    for count, asked, answered in _segments(query, key, boundaries_q, boundaries_k):
        g, q, out, below = (_by_spectrum(states, asked, count) for states in (gradient, query, output, denominator))
        k, v = (_by_spectrum(states, answered, count) for states in (key, value))
        _, differentiate = _kernels(q, k.shape[-2])
        found = differentiate(g, q, k, v, out, below, scaling)
        for target, rows, values in zip(gradients, (asked, answered, answered), found, strict=True):
            _by_spectrum(target, rows, count).copy_(values)
    return gradients


def _denominator_type(query: torch.Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _score_size(boundaries_q: torch.Tensor, boundaries_k: torch.Tensor) -> int:
    """Scores of one head over all spectra."""
    return int((boundaries_q.long().diff() * boundaries_k.long().diff()).sum())


def _forward_flops(query: torch.Tensor, *inputs: Any, **out: Any) -> int:
    _, _, *boundaries, _ = inputs
    return 4 * query.shape[1] * query.shape[2] * _score_size(*boundaries)


def _backward_flops(gradient: torch.Tensor, *inputs: Any, **out: Any) -> int:
    *_, boundaries_q, boundaries_k, _ = inputs
    return 10 * gradient.shape[1] * gradient.shape[2] * _score_size(boundaries_q, boundaries_k)  # scores made anew


def _define_operators() -> Any:
    """`spectok::packed_attention`, which has its gradient beside it.

    Defined once per process: this file is loaded again with every checkpoint that brings its own code. The number at
    the end of the names goes up when what the operators do, or take, changes.
    """
    try:
        return torch.ops.spectok.packed_attention_1
    except AttributeError:
        pass
    forward = torch.library.custom_op("spectok::packed_attention_1", _forward, mutates_args=())
    backward = torch.library.custom_op("spectok::packed_attention_backward_1", _backward, mutates_args=())

    @forward.register_fake
    def _(query, key, value, boundaries_q, boundaries_k, scaling):
        return query.new_empty(query.shape), query.new_empty(query.shape[:2], dtype=_denominator_type(query))

    @backward.register_fake
    def _(gradient, query, key, value, output, denominator, boundaries_q, boundaries_k, scaling):
        return tuple(states.new_empty(states.shape) for states in (query, key, value))

    def remember(ctx, inputs, output):
        *tensors, ctx.scaling = inputs
        ctx.save_for_backward(*tensors, *output)

    def differentiate(ctx, gradient, _):
        query, key, value, boundaries_q, boundaries_k, output, denominator = ctx.saved_tensors
        found = torch.ops.spectok.packed_attention_backward_1(
            gradient, query, key, value, output, denominator, boundaries_q, boundaries_k, ctx.scaling
        )
        return *found, None, None, None

    forward.register_autograd(differentiate, setup_context=remember)
    register_flop_formula(torch.ops.spectok.packed_attention_1, get_raw=True)(_forward_flops)
    register_flop_formula(torch.ops.spectok.packed_attention_backward_1, get_raw=True)(_backward_flops)
    return torch.ops.spectok.packed_attention_1


# (query, key, value, boundaries of both, scaling) -> output and log denominators; see `packed_attention_forward`.
# Shapes (rows, heads, head_dim) and (rows, heads); rows beyond the last run give 0.
packed_attention = _define_operators()

AttentionInterface.register(NAME, packed_attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)

__all__ = [
    "Packing",
    "Segments",
    "eager_attention_forward",
    "packed_attention",
    "packed_attention_forward",
]
# From spectok-hf; save_pretrained writes this file.
