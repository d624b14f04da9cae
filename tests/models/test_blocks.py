"""The blocks that both families are made of, against plain references: loops, and torch's own convolution."""

import math

import pytest
import torch
from test_modeling_omnispectra import make_model
from torch.nn import functional

from spectok_hf.models.blocks import LocalPosition, in_own_precision
from spectok_hf.models.packing import PackedLayout, PaddedLayout

SIZE = 32


def make_local_position(size=SIZE):
    torch.manual_seed(0)
    return LocalPosition(size).double()


def make_states(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(module, values):
    """Torch's own depthwise convolution of one spectrum, shape (patches, channels)."""
    weight, bias = module.convolution.weight, module.convolution.bias
    return functional.conv1d(values.T[None], weight, bias, padding=1, groups=len(weight))[0].T


def in_layouts(values, valid, lengths):
    """Values and neighbours of packed spectra in every layout, with what takes results back to rows."""
    packed = PackedLayout(lengths, valid)
    yield "packed", packed.gather(values), packed.neighbours(), packed.scatter
    traced = PackedLayout(torch.tensor(lengths), valid)
    yield "traced", traced.gather(values), traced.neighbours(), traced.scatter
    rows = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = torch.full((*rows.shape, values.shape[-1]), 1e3, dtype=values.dtype)  # padding must not matter
    padded[rows] = values
    of_valid = torch.zeros_like(rows)
    of_valid[rows] = valid
    layout = PaddedLayout(None, rows, of_valid)
    yield "padded", layout.gather(padded), layout.neighbours(), lambda found: layout.scatter(found)[rows]


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_the_depthwise_term_is_a_convolution_of_kernel_three(length):
    module, values = make_local_position(), make_states(length, SIZE)
    expected = convolved(module, values)
    for name, gathered, neighbours, back in in_layouts(values, torch.ones(length, dtype=torch.bool), [length]):
        torch.testing.assert_close(back(module(gathered, neighbours)), expected, msg=name, atol=1e-12, rtol=1e-12)
    by_hand = module.convolution.bias.clone()
    for step in (-1, 0, 1):  # of the first patch
        if 0 <= step < length:
            by_hand += module.convolution.weight[:, 0, 1 + step] * values[step]
    torch.testing.assert_close(expected[0], by_hand, atol=1e-12, rtol=1e-12)


def test_a_patch_that_is_not_valid_counts_as_zero_and_its_neighbours_stay_apart():
    module, values = make_local_position(), make_states(6, SIZE)
    valid = torch.tensor([True, True, False, True, True, False])
    expected = convolved(module, torch.where(valid[:, None], values, 0))
    for name, gathered, neighbours, back in in_layouts(values, valid, [6]):
        found = back(module(gathered, neighbours))
        torch.testing.assert_close(found[valid], expected[valid], msg=name, atol=1e-12, rtol=1e-12)
        assert not found[~valid].any(), name


@pytest.mark.parametrize("lengths", [[4, 1, 5, 2], [1, 1, 1], [3, 0, 4], [12]])
def test_spectra_are_not_neighbours(lengths):
    module, total = make_local_position(), sum(lengths)
    values = make_states(total, SIZE)
    valid = torch.rand(total, generator=torch.Generator().manual_seed(3)) > 0.3
    zeroed = torch.where(valid[:, None], values, 0)
    expected = torch.cat([convolved(module, one) for one in zeroed.split(lengths) if len(one)])
    for name, gathered, neighbours, back in in_layouts(values, valid, lengths):
        found = back(module(gathered, neighbours))
        torch.testing.assert_close(found[valid], expected[valid], msg=name, atol=1e-12, rtol=1e-12)


def test_rows_behind_the_last_spectrum_are_nobodys_neighbours():
    module, values = make_local_position(), make_states(5, SIZE)
    valid = torch.tensor([True] * 3 + [False] * 2)
    for lengths in ([3], torch.tensor([3])):
        layout = PackedLayout(lengths, valid)
        found = layout.scatter(module(layout.gather(values), layout.neighbours()))
        torch.testing.assert_close(found[:3], convolved(module, values[:3]), atol=1e-12, rtol=1e-12)
        assert not found[3:].any()


def norm(layer, states):
    centred = states - states.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def plain_block(layer, states, valid, local_position):
    """One spectrum, patch by patch and head by head; rows that are not valid are left out of everything."""
    attention, heads = layer.attention, layer.attention.config.num_attention_heads
    normed = norm(layer.norm_before, states)
    query, key, value = (
        normed @ one.weight.T + one.bias for one in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    width = SIZE // heads
    attended = torch.zeros_like(states)
    for patch in range(len(states)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            seen = [other for other in range(len(states)) if valid[other]]
            scores = torch.stack([query[patch, part] @ key[other, part] / math.sqrt(width) for other in seen])
            weights = scores.exp() / scores.exp().sum()
            attended[patch, part] = sum(w * value[other, part] for w, other in zip(weights, seen, strict=True))
        if local_position:
            kernel = attention.local_position.convolution
            attended[patch] += kernel.bias
            for step in (-1, 0, 1):
                if 0 <= patch + step < len(states) and valid[patch + step]:
                    attended[patch] += kernel.weight[:, 0, 1 + step] * value[patch + step]
    states = states + attended @ attention.o_proj.weight.T + attention.o_proj.bias
    between = norm(layer.norm_after, states) @ layer.mlp.fc1.weight.T + layer.mlp.fc1.bias
    between = between * (1 + torch.erf(between / math.sqrt(2))) / 2
    return states + between @ layer.mlp.fc2.weight.T + layer.mlp.fc2.bias


@pytest.mark.parametrize("local_position", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa", "spectok_packed"])
def test_a_block_is_attention_local_position_and_mlp_behind_norms(attention, local_position):
    model = make_model(attn_implementation=attention, local_position=local_position).double()
    layer, config = model.omnispectra.layers[0], model.config
    for parameter in layer.parameters():  # norms too, which begin as ones and zeros
        torch.nn.init.normal_(parameter, std=0.3)
    lengths, states = [5, 3], make_states(8, SIZE)
    valid = torch.tensor([True, True, False, True, True, True, True, True])
    expected = torch.cat(
        [
            plain_block(layer, states[:5], valid[:5], local_position),
            plain_block(layer, states[5:], valid[5:], local_position),
        ]
    )
    rows = torch.arange(5) < torch.tensor(lengths)[:, None]
    padded, of_valid = make_states(2, 5, SIZE, seed=1), torch.zeros_like(rows)
    padded[rows], of_valid[rows] = states, valid
    layouts = [(PackedLayout(lengths, valid), states), (PaddedLayout(config, rows, of_valid), padded)]
    if attention != "eager":  # which cannot be traced
        layouts.append((PackedLayout(torch.tensor(lengths), valid), states))
    for layout, values in layouts:
        gathered = layout.gather(values)
        mask, packing = layout.among_valid(gathered)
        neighbours = layout.neighbours() if local_position else None
        found = layout.scatter(layer(gathered, mask, None, packing, neighbours=neighbours))
        found = found if isinstance(layout, PackedLayout) else found[rows]
        torch.testing.assert_close(found[valid], expected[valid], atol=1e-10, rtol=1e-10)


def test_the_whole_encoder_is_its_blocks_and_a_norm():
    model = make_model().double()
    encoder = model.omnispectra
    flux, wavelength = make_states(1, 7, 8), 4000 + 3 * torch.arange(56.0, dtype=torch.float64).view(1, 7, 8)
    everything = torch.ones(7, dtype=torch.bool)
    values = torch.cat([flux.mean(-1, keepdim=True), flux.std(-1, unbiased=False, keepdim=True), flux], -1)[0]
    phase = wavelength.mean(-1)[0, :, None] / 10_000 ** (torch.arange(0, SIZE, 2, dtype=torch.float64) / SIZE)
    states = values @ encoder.embeddings.projection.weight.T + encoder.embeddings.projection.bias
    states = states + torch.stack([phase.sin(), phase.cos()], -1).flatten(1)
    for layer in encoder.layers:
        states = plain_block(layer, states, everything, True)
    expected = norm(encoder.norm, states)
    found = encoder(flux, wavelength)
    torch.testing.assert_close(found.tokens[0], expected, atol=1e-5, rtol=1e-5)  # flux and encoding are float32
    torch.testing.assert_close(found.pooler_output[0], expected.mean(0), atol=1e-5, rtol=1e-5)


def test_maps_at_the_ends_keep_their_type_under_autocast():
    linear, values = torch.nn.Linear(4, 3), torch.rand(2, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(values).dtype == torch.bfloat16
        found = in_own_precision(linear, values)
    assert found.dtype == torch.float32 and torch.equal(found, linear(values))
    assert in_own_precision(linear.to("meta"), values.to("meta")).shape == (2, 3)
