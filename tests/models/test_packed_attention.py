"""Attention of packed rows: the operator, the flash kernel's calling convention, and the way of every other name."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from spectok_hf.models import packed_attention as module
from spectok_hf.models.packed_attention import Packing, Segments, packed_attention, packed_attention_forward

QUERIES, KEYS = [3, 0, 5, 5, 2, 4], [2, 0, 4, 4, 2, 0]  # the last spectrum asks, and nobody answers
SCALING = 0.3


def boundaries(lengths):
    return torch.tensor([0, *lengths]).cumsum(0).int()


def make_states(dtype=torch.float64, tail=0, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    sizes = [sum(QUERIES) + tail, sum(KEYS) + tail, sum(KEYS) + tail]
    states = [torch.randn(size, 2, 8, dtype=dtype, generator=generator).to(device) for size in sizes]
    return [rows.requires_grad_() for rows in states]


def attend_plainly(query, key, value, scaling=SCALING):
    """Spectrum by spectrum, in the plainest way; rows behind the last spectrum give 0."""
    output = torch.zeros_like(query)
    starts = zip(boundaries(QUERIES)[:-1].tolist(), boundaries(KEYS)[:-1].tolist(), strict=True)
    for (asked, answered), rows, keys in zip(starts, QUERIES, KEYS, strict=True):
        if keys:
            q = query[asked : asked + rows].transpose(0, 1)
            k, v = (states[answered : answered + keys].transpose(0, 1) for states in (key, value))
            attended = (q @ k.transpose(1, 2) * scaling).softmax(-1) @ v
            output = output.index_copy(0, torch.arange(asked, asked + rows), attended.transpose(0, 1))
    return output


def make_packing(traced=False):
    longest = max(QUERIES)
    return Packing(*(Segments(boundaries(n), longest, None if traced else n) for n in (QUERIES, KEYS)))


def make_module(name):
    attention = nn.Module()
    attention.config = SimpleNamespace(_attn_implementation=name)
    attention.is_causal = False
    return attention


def gradients(output, states):
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((output * weights).sum(), states)


@pytest.fixture(params=["kernel", "plain operations"])
def any_device(request, monkeypatch):
    """The operator with torch's kernel for CPUs, and with what other devices get."""
    if request.param == "plain operations":
        monkeypatch.setattr(module, "KERNELS", {})


@pytest.mark.usefixtures("any_device")
def test_the_operator_is_attention_within_each_spectrum():
    states = make_states(tail=3)
    output = packed_attention(*states, boundaries(QUERIES), boundaries(KEYS), SCALING)[0]
    expected = attend_plainly(*states)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for found, reference in zip(gradients(output, states), gradients(expected, states), strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12)


def test_the_operator_is_well_made():
    arguments = (*make_states(tail=1), boundaries(QUERIES), boundaries(KEYS), SCALING)
    assert torch.autograd.gradcheck(lambda *states: packed_attention(*states, *arguments[3:])[0], arguments[:3])
    assert set(torch.library.opcheck(packed_attention, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("any_device")
def test_the_operator_in_other_types(dtype):
    states = [rows.detach().to(dtype) for rows in make_states()]
    output = packed_attention(*states, boundaries(QUERIES), boundaries(KEYS), SCALING)[0]
    assert output.dtype == dtype
    expected = attend_plainly(*(rows.double() for rows in states))
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=3 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(
    "dtype, most, plain", [("bfloat16", 9999, True), ("bfloat16", 2, False), ("float32", 9999, False)]
)
def test_plain_operations_are_for_few_scores_in_bfloat16(dtype, most, plain, monkeypatch):
    asked = []

    def attend(*states):
        asked.append(states[0].shape)
        return module._attend_on_cpu(*states)

    monkeypatch.setattr(module, "KERNELS", {"cpu": (attend, None)})
    monkeypatch.setattr(module, "PLAIN_SCORES", most)
    states = [rows.detach().to(getattr(torch, dtype)) for rows in make_states()]
    packed_attention(*states, boundaries(QUERIES), boundaries(KEYS), SCALING)
    assert plain != bool(asked)


@pytest.mark.parametrize("name", ["sdpa", "spectok_packed", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_every_implementation_is_attention_within_each_spectrum(name, dropout):
    states, attention = make_states(), make_module(name).eval()
    in_interface = [rows.transpose(0, 1)[None] for rows in states]
    interface = module.eager_attention_forward if name == "eager" else module.sdpa_attention_forward
    torch.manual_seed(0)
    output, weights = packed_attention_forward(
        attention, *in_interface, None, make_packing(), interface, scaling=SCALING, dropout=dropout
    )
    assert weights is None
    expected = attend_plainly(*states)[None]
    if dropout and name != "eager":  # sdpa drops what it is told to; eager asks the module, which is not in training
        assert not torch.allclose(output, expected)
    else:
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_flash_attention_is_told_where_spectra_begin(monkeypatch):
    told = {}

    def flash(attention, query, key, value, attention_mask, **keywords):
        told.update(keywords)
        return query.transpose(1, 2), None

    monkeypatch.setattr(module, "flash_attention_forward", flash)
    states = [rows.transpose(0, 1)[None] for rows in make_states()]
    packed_attention_forward(make_module("flash_attention_2"), *states, None, make_packing(), flash)
    assert told["cu_seq_lens_q"].tolist() == boundaries(QUERIES).tolist()
    assert told["cu_seq_lens_k"].tolist() == boundaries(KEYS).tolist()
    assert told["cu_seq_lens_q"].dtype == torch.int32 and told["max_length_q"] == told["max_length_k"] == 5


def test_what_is_named_flash_and_is_not_goes_by_spectrum():
    states = make_states()
    in_interface = [rows.transpose(0, 1)[None] for rows in states]
    attention = make_module("somebody/flash-kernel:attend").eval()
    output, _ = packed_attention_forward(
        attention, *in_interface, None, make_packing(), module.eager_attention_forward, scaling=SCALING
    )
    torch.testing.assert_close(output, attend_plainly(*states)[None], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("starts", [[0, 4, 99], [0, 5, 3], [1, 2, 3]])
def test_runs_that_do_not_fit_are_refused(starts):
    rows = torch.randn(6, 2, 8)
    for runs in ((starts, [0, 3, 6]), ([0, 3, 6], starts)):
        with pytest.raises(ValueError, match="runs must begin at 0, not overlap and fit into 6 rows"):
            packed_attention(rows, rows, rows, *(torch.tensor(run, dtype=torch.int32) for run in runs), SCALING)


def test_paged_attention_is_refused():
    states = [rows.transpose(0, 1)[None] for rows in make_states()]
    with pytest.raises(ValueError, match="has no cache to page"):
        packed_attention_forward(make_module("paged|eager"), *states, None, make_packing())


# CUDA in half precision, without a GPU


class FlashKernel(torch.autograd.Function):
    """What `varlen_attn` does, with garbage where the kernel writes nothing: rows behind the last run."""

    @staticmethod
    def forward(ctx, query, key, value, queries, keys, max_q, max_k):
        assert queries.dtype == keys.dtype == torch.int32 and max_q >= max(QUERIES) and max_k >= max(KEYS)
        assert queries.tolist() == boundaries(QUERIES).tolist() and keys.tolist() == boundaries(KEYS).tolist()
        ctx.save_for_backward(query, key, value)
        return FlashKernel.spoil(attend_plainly(query, key, value, query.shape[-1] ** -0.5), sum(QUERIES))

    @staticmethod
    def backward(ctx, gradient):
        states = [rows.detach().requires_grad_() for rows in ctx.saved_tensors]
        with torch.enable_grad():
            output = attend_plainly(*states, states[0].shape[-1] ** -0.5)
        found = torch.autograd.grad(output, states, gradient)
        sizes = sum(QUERIES), sum(KEYS), sum(KEYS)
        return *map(FlashKernel.spoil, found, sizes), None, None, None, None

    @staticmethod
    def spoil(rows, used):
        return torch.where(torch.arange(len(rows))[:, None, None] < used, rows, torch.nan)


@pytest.mark.parametrize("traced", [False, True])
def test_the_flash_kernel_gets_what_it_needs(traced, monkeypatch):
    monkeypatch.setattr(module, "fits_varlen", lambda states: True)
    monkeypatch.setattr(module, "varlen_attn", FlashKernel.apply)
    states = make_states(tail=4 if traced else 0)
    in_interface = [rows.transpose(0, 1)[None] for rows in states]
    output = packed_attention_forward(make_module("sdpa"), *in_interface, None, make_packing(traced), scaling=SCALING)[
        0
    ]
    expected = attend_plainly(*states)[None]
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    for found, reference in zip(gradients(output, states), gradients(expected, states), strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-12, atol=1e-12)


needs_varlen = pytest.mark.skipif(module.varlen_attn is None, reason="torch.nn.attention.varlen came with torch 2.10")


@needs_varlen
@pytest.mark.parametrize(
    "device, dtype, calls",
    [("cuda", torch.bfloat16, 1), ("cuda", torch.float16, 1), ("meta", torch.bfloat16, 1), ("meta", torch.float32, 0)],
)
def test_half_precision_on_a_gpu_is_flash_attention_and_float32_goes_by_spectrum(device, dtype, calls, monkeypatch):
    seen = []
    kernel = module.varlen_attn
    monkeypatch.setattr(module, "varlen_attn", lambda *states: seen.append(1) or kernel(*states))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), torch.device(device):
        query = torch.empty(1, 2, sum(QUERIES), 8, dtype=dtype)
        key = torch.empty(1, 2, sum(KEYS), 8, dtype=dtype)
        runs = (Segments(torch.empty(7, dtype=torch.int32), max(lengths), lengths) for lengths in (QUERIES, KEYS))
        output = packed_attention_forward(make_module("sdpa"), query, key, key, None, Packing(*runs))[0]
    assert output.shape == (1, sum(QUERIES), 2, 8) and output.device.type == device and output.dtype == dtype
    assert len(seen) == calls


@pytest.mark.parametrize(
    "device, dtype, head_dim, fits",
    [
        ("meta", torch.bfloat16, 64, True),
        ("meta", torch.float32, 64, False),
        ("meta", torch.bfloat16, 12, False),
        ("meta", torch.bfloat16, 512, False),
        ("cpu", torch.bfloat16, 64, False),
    ],
)
@needs_varlen
def test_what_the_flash_kernel_takes(device, dtype, head_dim, fits):
    assert module.fits_varlen(torch.empty(3, head_dim, device=device, dtype=dtype)) == fits
