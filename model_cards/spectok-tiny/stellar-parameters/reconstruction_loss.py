"""What a reconstruction is trained on: its distance from the observed flux, in units of the error."""

from collections.abc import Callable
from functools import partial

import torch
from transformers import PreTrainedConfig


def reconstruction_loss(
    config: PreTrainedConfig,
    reconstruction: torch.Tensor,
    flux: torch.Tensor,
    error: torch.Tensor | None,
    counted: torch.Tensor,
    sum_patches: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Mean over spectra of the mean of ((flux - reconstruction) / error)² over the counted pixels of each, or its log.

    A floor relative to the flux and a linear tail (Huber) keep a few pixels with minute errors from ruling the
    gradient. Spectra without a counted pixel count as 0, so that the divisor is the batch size whatever is in it.
    `sum_patches` adds up the patches of each spectrum; None = those of a padded batch.
    """
    dtype = torch.promote_types(reconstruction.dtype, torch.float32)
    flux = torch.where(counted, flux.to(dtype), 0)
    error = torch.ones_like(flux) if error is None else torch.where(counted, error.to(dtype), 1)
    variance = error**2 + (config.relative_error_floor * flux) ** 2
    residual = torch.where(counted, flux - reconstruction.to(dtype), 0) / variance.clamp(min=1e-12).sqrt()
    loss = residual**2
    if config.huber_delta is not None:
        linear = config.huber_delta * (2 * residual.abs() - config.huber_delta)
        loss = torch.where(residual.abs() <= config.huber_delta, loss, linear)
    sum_patches = sum_patches or partial(torch.sum, dim=1)
    of_spectra = sum_patches(loss.sum(-1)) / sum_patches(counted.sum(-1)).clamp(min=1)
    return (of_spectra.log1p() if config.spectrum_loss == "log" else of_spectra).mean()


__all__ = ["reconstruction_loss"]
# From spectok-hf; save_pretrained writes this file.
