"""Checkpoints as the public code of AstroCLIP saves them, with random weights, and plain forward passes of them.

Written from the equations, on the public keys alone: what a converted checkpoint is compared with.
"""

import math

import torch
from torch.nn import functional

GRID = 3600 + 0.8 * torch.arange(7781, dtype=torch.float64)  # Å, of DESI
SPECTRUM, IMAGE = "spectrum_encoder.", "image_encoder."


class Weights(dict):
    """Random weights by their public keys; those of one seed are the same."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, key, *shape, spread=1.0, mean=0.0):
        self[key] = mean + spread * torch.randn(shape, generator=self.generator)

    def linear(self, key, rows, *columns):
        self.draw(f"{key}.weight", rows, *columns, spread=math.prod(columns) ** -0.5)
        self.draw(f"{key}.bias", rows, spread=0.2)

    def norm(self, key, size):
        self.draw(f"{key}.weight", size, mean=1.0, spread=0.2)
        self.draw(f"{key}.bias", size, spread=0.2)


def specformer_weights(width=64, layers=2, wide=96, length=800, inputs=22, prefix="", weights=None, seed=0):
    weights = Weights(seed) if weights is None else weights
    weights.linear(f"{prefix}data_embed", width, inputs)
    weights.draw(f"{prefix}position_embed.weight", length, width)
    for layer in range(layers):
        block = f"{prefix}blocks.{layer}."
        weights.norm(f"{block}layernorm1", width)
        weights.linear(f"{block}attention.attention", 3 * width, width)
        weights.linear(f"{block}attention.projection", width, width)
        weights.norm(f"{block}layernorm2", width)
        weights.linear(f"{block}mlp.encoder", wide, width)
        weights.linear(f"{block}mlp.decoder", width, wide)
    weights.norm(f"{prefix}final_layernorm", width)
    weights.linear(f"{prefix}head", inputs, width)
    return weights


def astroclip_weights(width=256, vision_width=128, size=192, layers=2, vision_layers=2, chunks=None, seed=0):
    """Of AstroCLIP; with `chunks`, DINOv2's blocks lie in so many, as the public training has them."""
    weights = specformer_weights(width, layers, prefix=f"{SPECTRUM}backbone.", seed=seed)
    _head_weights(weights, SPECTRUM, width, size)
    prefix = f"{IMAGE}backbone."
    weights.draw(f"{prefix}cls_token", 1, 1, vision_width)
    weights.draw(f"{prefix}pos_embed", 1, 1 + 3 * 3, vision_width)
    weights.draw(f"{prefix}mask_token", 1, vision_width)
    weights.linear(f"{prefix}patch_embed.proj", vision_width, 3, 12, 12)
    for layer in range(vision_layers):
        chunk = "" if chunks is None else f"{layer // (vision_layers // chunks)}."
        block = f"{prefix}blocks.{chunk}{layer}."
        weights.norm(f"{block}norm1", vision_width)
        weights.linear(f"{block}attn.qkv", 3 * vision_width, vision_width)
        weights.linear(f"{block}attn.proj", vision_width, vision_width)
        weights.draw(f"{block}ls1.gamma", vision_width)
        weights.norm(f"{block}norm2", vision_width)
        weights.linear(f"{block}mlp.fc1", 4 * vision_width, vision_width)
        weights.linear(f"{block}mlp.fc2", vision_width, 4 * vision_width)
        weights.draw(f"{block}ls2.gamma", vision_width)
    weights.norm(f"{prefix}norm", vision_width)
    _head_weights(weights, IMAGE, vision_width, size)
    return weights


def _head_weights(weights, prefix, width, size):
    attention = f"{prefix}cross_attention.multihead_attn."
    weights.draw(f"{prefix}cross_attention.query", 1, 1, size)
    if width == size:
        weights.draw(f"{attention}in_proj_weight", 3 * size, size, spread=size**-0.5)
    else:
        for part, columns in zip("qkv", (size, width, width), strict=True):
            weights.draw(f"{attention}{part}_proj_weight", size, columns, spread=columns**-0.5)
    weights.draw(f"{attention}in_proj_bias", 3 * size, spread=0.2)
    weights.linear(f"{attention}out_proj", size, size)
    weights.norm(f"{prefix}cross_attention.layernorm", size)
    weights.linear(f"{prefix}mlp.encoder", 4 * size, size)
    weights.linear(f"{prefix}mlp.decoder", size, 4 * size)


def save_checkpoint(path, weights, **settings):
    """As Lightning does, with what lies beside the weights in its checkpoints."""
    content = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.3.3",
        "state_dict": dict(weights),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "best_model_path": "last.ckpt"}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1000.0)}}, "param_groups": [{"lr": 1e-4}]}],
        "lr_schedulers": [],
    }
    torch.save(content | ({"hyper_parameters": settings} if settings else {}), path)
    return path


# Forward passes -------------------------------------------------------------------------------------


def linear(weights, key, values):
    return values @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]


def norm(weights, key, values, eps):
    centred = values - values.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / spread * weights[f"{key}.weight"] + weights[f"{key}.bias"]


def attend(queries, keys, values, heads):
    split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (queries, keys, values)]
    scores = split[0] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(-2)


def specformer_forward(weights, flux, heads, prefix=""):
    """States (batch, 778, width) and reconstruction (batch, 778, 22) of raw flux, shape (batch, 7781)."""
    mean = flux.mean(1, keepdim=True)
    scale = ((flux - mean).square().sum(1, keepdim=True) / (flux.shape[1] - 1)).sqrt().clamp(min=0.2)
    pieces = [((flux - mean) / scale)[:, start : start + 20] for start in range(0, flux.shape[1] - 10, 10)][:-1]
    sequence = torch.zeros(len(flux), 1 + len(pieces), 22)
    sequence[:, 1:, 2:] = torch.stack(pieces, 1)
    sequence[:, 0, 0], sequence[:, 0, 1] = (mean[:, 0] - 2) / 2, (scale[:, 0] - 2) / 8
    states = linear(weights, f"{prefix}data_embed", sequence)
    states = states + weights[f"{prefix}position_embed.weight"][: states.shape[1]]
    layer = 0
    while f"{prefix}blocks.{layer}.layernorm1.weight" in weights:
        block = f"{prefix}blocks.{layer}."
        parts = linear(weights, f"{block}attention.attention", norm(weights, f"{block}layernorm1", states, 1e-5))
        attended = attend(*parts.chunk(3, -1), heads)
        states = states + linear(weights, f"{block}attention.projection", attended)
        inner = linear(weights, f"{block}mlp.encoder", norm(weights, f"{block}layernorm2", states, 1e-5))
        states = states + linear(weights, f"{block}mlp.decoder", functional.gelu(inner))
        layer += 1
    states = norm(weights, f"{prefix}final_layernorm", states, 1e-5)
    return states, linear(weights, f"{prefix}head", states)


def dinov2_forward(weights, images, heads):
    """States of the patches alone, shape (batch, patches, width): no class token and no positions are added."""
    prefix = f"{IMAGE}backbone."
    kernel, bias = weights[f"{prefix}patch_embed.proj.weight"], weights[f"{prefix}patch_embed.proj.bias"]
    states = functional.conv2d(images, kernel, bias, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    blocks = {key.removesuffix("ls1.gamma") for key in weights if key.endswith("ls1.gamma")}
    for block in sorted(blocks, key=lambda block: int(block.split(".")[-2])):
        parts = linear(weights, f"{block}attn.qkv", norm(weights, f"{block}norm1", states, 1e-6))
        attended = linear(weights, f"{block}attn.proj", attend(*parts.chunk(3, -1), heads))
        states = states + weights[f"{block}ls1.gamma"] * attended
        inner = functional.gelu(linear(weights, f"{block}mlp.fc1", norm(weights, f"{block}norm2", states, 1e-6)))
        states = states + weights[f"{block}ls2.gamma"] * linear(weights, f"{block}mlp.fc2", inner)
    return norm(weights, f"{prefix}norm", states, 1e-6)


def head_forward(weights, prefix, states, residual, heads=4):
    """Features, shape (batch, size), of what a learned query finds among states."""
    attention = f"{prefix}cross_attention.multihead_attn."
    if f"{attention}in_proj_weight" in weights:
        matrices = weights[f"{attention}in_proj_weight"].chunk(3)
    else:
        matrices = [weights[f"{attention}{part}_proj_weight"] for part in "qkv"]
    query = weights[f"{prefix}cross_attention.query"].expand(len(states), 1, -1)
    parts = [
        values @ matrix.T + bias
        for values, matrix, bias in zip(
            (query, states, states), matrices, weights[f"{attention}in_proj_bias"].chunk(3), strict=True
        )
    ]
    found = linear(weights, f"{attention}out_proj", attend(*parts, heads))
    found = norm(weights, f"{prefix}cross_attention.layernorm", found, 1e-5)[:, 0]
    inner = functional.gelu(linear(weights, f"{prefix}mlp.encoder", found))
    return residual * found + linear(weights, f"{prefix}mlp.decoder", inner)


def astroclip_forward(weights, flux, images, scale=15.5, image_residual=False):
    """Unit vectors of spectra and images, shape (batch, size), and the loss, with heads as in the public models."""
    width = weights[f"{SPECTRUM}backbone.data_embed.bias"].shape[0]
    vision_width = weights[f"{IMAGE}backbone.norm.bias"].shape[0]
    states, _ = specformer_forward(weights, flux, width // 128, f"{SPECTRUM}backbone.")
    spectra = head_forward(weights, SPECTRUM, states, True)
    images = head_forward(weights, IMAGE, dinov2_forward(weights, images, vision_width // 64), image_residual)
    spectra, images = (each / each.norm(dim=-1, keepdim=True).clamp(min=1e-3) for each in (spectra, images))
    logits, labels = scale * images @ spectra.T, torch.arange(len(flux))
    loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
    return spectra, images, loss
