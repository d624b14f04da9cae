"""The patch-PCA start of SpecTok (ours): encoder and decoder as the best linear autoencoder of single patches."""

from typing import Any

import torch
from torch import nn

from .patches import patch_pca

MAX_GAIN = 50.0  # of weak components


@torch.no_grad()
def start_linear(encoder: Any, decoder: Any, patches: torch.Tensor, weights: torch.Tensor | None = None) -> None:
    """Set the weights as `SpecTokForPreTraining.initialize_from_patch_pca` says.

    Args:
        encoder: A `SpecTokModel`.
        decoder: The "mirror" decoder that goes with it.
        patches: Shape (n, patch_size).
        weights: Weight of each patch, shape (n,).

    Raises:
        ValueError: As there.
    """
    config, embeddings = encoder.config, encoder.embeddings
    check_start(config, patches)
    size, latent_size = config.patch_size, config.latent_size
    mean, components, gain = whitened_pca(patches, weights, config.hidden_size - latent_size)
    basis = torch.linalg.qr(torch.randn(config.hidden_size, latent_size + len(gain), dtype=torch.float64))[0]
    linear, spare = basis[:, :latent_size], basis[:, latent_size:]  # orthonormal columns
    into_basis = linear @ components[:latent_size] + spare @ (gain[:, None] * components[: len(gain)])
    of_error = embeddings.projection.weight[:, size:].double().cpu()
    weight = torch.cat([into_basis, of_error - linear @ (linear.T @ of_error)], dim=-1)
    set_linear(embeddings.projection, weight, -into_basis @ mean)
    set_linear(encoder.bottleneck, linear.T, torch.zeros(latent_size))
    shown = min(latent_size, len(gain))
    into_memory = -linear
    into_memory[:, :shown] += spare[:, :shown] * gain[:shown]
    set_linear(decoder.latent_projection, into_memory, torch.zeros(config.hidden_size))
    set_linear(decoder.head, -components[:latent_size].T @ linear.T, mean)
    decoder.mask_token.zero_()
    decoder.wavelength_embedding.load_state_dict(embeddings.wavelength_embedding.state_dict())
    for layer in [*encoder.layers, *decoder.layers]:
        for branch in (layer.attention.o_proj, layer.mlp.fc2):
            branch.weight.zero_()
            branch.bias.zero_()


def check_start(config: Any, patches: torch.Tensor) -> None:
    """Refuse what there is no linear start from."""
    size, count = config.patch_size, config.latent_size
    if config.decoder_type != "mirror":
        raise ValueError('initialize_from_patch_pca needs decoder_type="mirror": "query" has no linear path')
    if config.norm_placement != "pre":
        raise ValueError('initialize_from_patch_pca needs norm_placement="pre": "post" has no linear path')
    if patches.ndim != 2 or patches.shape[1] != size or len(patches) <= count or not patches.isfinite().all():
        raise ValueError(
            f"patches must be finite, shape (n > {count}, {size}), found shape {tuple(patches.shape)}: "
            "pass the good patches of the training spectra"
        )


def whitened_pca(
    patches: torch.Tensor, weights: torch.Tensor | None, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and all components of patches, and what brings up to `most` of them to about unit size."""
    arrays = patches.cpu().numpy(), None if weights is None else weights.cpu().double().numpy()
    mean, components = map(torch.from_numpy, patch_pca(arrays[0], patches.shape[1], arrays[1]))
    sample = patches.cpu().double()[:: max(len(patches) // 50_000, 1)]
    typical = 1.4826 * ((sample - mean) @ components[:most].T).abs().median(0).values  # robust: lines are rare
    return mean, components, 1 / typical.clamp(min=1 / MAX_GAIN)


def set_linear(linear: nn.Linear, weight: torch.Tensor, bias: torch.Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)


__all__ = ["start_linear"]
# From spectok-hf; save_pretrained writes this file.
