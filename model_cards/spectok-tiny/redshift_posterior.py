"""Posteriors over redshift: probabilities of nodes that are evenly spaced in ln(1 + z), a density linear between them.

A position counts nodes: 0 is the first one, bins - 1 the last, and the truth may lie anywhere between two of them.
"""

import math

import torch
from torch.nn import functional
from transformers import PreTrainedConfig

from .wavelength import LIGHT_SPEED


def node_grid(config: PreTrainedConfig) -> tuple[float, float]:
    """First node and distance of the nodes, in ln(1 + z)."""
    low, high = map(math.log1p, config.redshift_range)
    return low, (high - low) / (config.redshift_bins - 1)


def redshift_nodes(config: PreTrainedConfig) -> torch.Tensor:
    """Redshift of each node of the posterior, shape (redshift_bins,), float64.

    Args:
        config: Holds `redshift_range` and `redshift_bins`.
    """
    return position_redshift(config, torch.arange(config.redshift_bins, dtype=torch.float64))


def position_redshift(config: PreTrainedConfig, position: torch.Tensor) -> torch.Tensor:
    """Redshift at a position among the nodes, the shape of `position`.

    Args:
        config: Holds `redshift_range` and `redshift_bins`.
        position: In bins from the first node, fractions allowed.
    """
    first, step = node_grid(config)
    return (first + step * position).expm1()


def redshift_position(config: PreTrainedConfig, redshift: torch.Tensor) -> torch.Tensor:
    """The inverse of `position_redshift`, within the nodes; NaN stays NaN.

    Args:
        config: Holds `redshift_range` and `redshift_bins`.
        redshift: Any shape.
    """
    first, step = node_grid(config)
    return ((redshift.log1p() - first) / step).clamp(0, config.redshift_bins - 1)


def posterior_cdf(posterior: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Probability of redshifts below a position, shape (batch,): at the truth, the probability integral transform.

    Args:
        posterior: Probability of each node, shape (batch, bins).
        position: In bins from the first node, shape (batch,); see `redshift_position`.
    """
    left = position.floor().long().clamp(0, posterior.shape[-1] - 2)
    weight = position - left
    first, second = posterior.gather(-1, torch.stack([left, left + 1], -1)).unbind(-1)
    up_to_nodes = cumulative(posterior)
    total = up_to_nodes[:, -1]
    inside = weight * first + weight**2 * (second - first) / 2  # the density is linear between two nodes
    return (up_to_nodes.gather(-1, left[:, None]).squeeze(-1) + inside) / total


def posterior_density(posterior: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Probability per bin at a position, shape (batch,), linear between nodes.

    Args:
        posterior: Probability of each node, shape (batch, bins).
        position: In bins from the first node, shape (batch,).
    """
    left = position.floor().long().clamp(0, posterior.shape[-1] - 2)
    first, second = posterior.gather(-1, torch.stack([left, left + 1], -1)).unbind(-1)
    return torch.lerp(first, second, position - left) / cumulative(posterior)[:, -1]


def quantile(posterior: torch.Tensor, share: float) -> torch.Tensor:
    """Position below which lies a share of the probability, linear between nodes, shape (batch,).

    Args:
        posterior: Probability of each node, shape (batch, bins).
        share: Between 0 and 1.
    """
    up_to_nodes = cumulative(posterior)
    wanted = share * up_to_nodes[:, -1:]
    right = torch.searchsorted(up_to_nodes, wanted).clamp(1, posterior.shape[-1] - 1)
    low, high = up_to_nodes.gather(-1, right - 1), up_to_nodes.gather(-1, right)
    return (right - 1 + ((wanted - low) / (high - low).clamp(min=1e-30)).clamp(0, 1)).squeeze(-1)


def cumulative(posterior: torch.Tensor) -> torch.Tensor:
    """Probability between the first node and each, shape (batch, bins): trapezoids, from 0."""
    return functional.pad(((posterior[:, 1:] + posterior[:, :-1]) / 2).cumsum(-1), (1, 0))


def recalibrate(posterior: torch.Tensor, first: float, second: float) -> torch.Tensor:
    """The posterior whose cumulative distribution is 1 - (1 - F^a)^b of that of the given one, F.

    If the truths' cumulative probabilities follow Kumaraswamy's distribution with these exponents, where an honest
    posterior would make them uniform, they are uniform after it (Kuleshov et al. 2018, arXiv 1807.00263, with a map of
    two numbers, since validation sets are small).

    Args:
        posterior: Probability of each node, shape (batch, bins).
        first: a.
        second: b.
    """
    tiny = torch.finfo(posterior.dtype).eps  # powers have no gradient at 0
    below = functional.pad(posterior.cumsum(-1) / posterior.sum(-1, keepdim=True), (1, 0)).clamp(tiny, 1 - tiny)
    mapped = (1 - (1 - below**first) ** second).diff(dim=-1)
    return mapped / mapped.sum(-1, keepdim=True)


def window_sums(posterior: torch.Tensor, reach: int) -> torch.Tensor:
    """Probability within `reach` nodes of each, shape (batch, bins)."""
    kernel = posterior.new_ones(1, 1, 2 * reach + 1)
    return functional.conv1d(posterior[:, None], kernel, padding=reach).squeeze(1).clamp(max=1)


def redshift_loss(logits: torch.Tensor, position: torch.Tensor, width: float = 0.0) -> torch.Tensor:
    """Cross-entropy with a truth that is shared between the two nodes about it, so that their mean is where it is.

    Of a sharp posterior the centroid then tells a redshift to a fraction of a bin. (The likelihood of the linear
    density is no such loss: it is highest with all on the nearer node.) With a width the truth is a Gaussian: a node
    learns from what its neighbours are shown, which is worth much where training spectra are fewer than nodes.

    Args:
        logits: Of the nodes, shape (batch, bins).
        position: Where the truth lies among the nodes, shape (batch,), from 0 to bins - 1; NaN = not known.
        width: Standard deviation of the Gaussian, in bins; 0 = the two nodes.
    """
    known = position.isfinite()
    position = torch.where(known, position, 0)
    distance = torch.arange(logits.shape[-1], device=logits.device) - position[:, None]
    truth = (-0.5 * (distance / width) ** 2).softmax(-1) if width else (1 - distance.abs()).clamp(min=0)
    losses = (truth * logits.log_softmax(-1)).sum(-1)
    return -torch.where(known, losses, 0).mean()


__all__ = [
    "LIGHT_SPEED",
    "node_grid",
    "position_redshift",
    "posterior_cdf",
    "posterior_density",
    "quantile",
    "recalibrate",
    "redshift_loss",
    "redshift_nodes",
    "redshift_position",
    "window_sums",
]
# From spectok-hf; save_pretrained writes this file.
