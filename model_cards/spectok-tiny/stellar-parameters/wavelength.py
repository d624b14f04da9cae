"""Wavelengths: air and vacuum, and their sinusoidal embedding."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

LIGHT_SPEED = 299_792.458  # km/s
AIR_LIMIT = 2000.0  # Å; below it air is opaque and tables give vacuum wavelengths only


# Refractive index of air: 1 + A + B / (C - s²) + D / (E - s²), s = 1e4 / wavelength in µm⁻¹, of the wavelength in
# vacuum (Morton 2000, ApJS 130, 403, eq. 8) and in air (N. Piskunov's fit to its inverse, VALD; right to 6e-9 Å).
_OF_VACUUM = (8.34254e-5, 2.406147e-2, 130.0, 1.5998e-4, 38.9)
_OF_AIR = (8.336624212083e-5, 2.408926869968e-2, 130.1065924522, 1.599740894897e-4, 38.92568793293)


def vacuum_to_air(wavelength: np.ndarray) -> np.ndarray:
    """Wavelengths in air of wavelengths in vacuum (Morton 2000, ApJS 130, 403, eq. 8), in Å.

    Args:
        wavelength: Vacuum wavelength in Å, any shape; values below 2000 Å are returned as they are.
    """
    return _convert(wavelength, lambda vacuum: vacuum / _refractive_index(vacuum, _OF_VACUUM))


def air_to_vacuum(wavelength: np.ndarray) -> np.ndarray:
    """Wavelengths in vacuum of wavelengths in air: the inverse of `vacuum_to_air`, in Å.

    Args:
        wavelength: Air wavelength in Å, any shape; values below 2000 Å are returned as they are.
    """
    # The index changes by 1e-7 per Å or less: after a start that is right to 6e-9 Å the result is to float64's last
    # places.
    return _convert(wavelength, lambda air: air * _refractive_index(air * _refractive_index(air, _OF_AIR), _OF_VACUUM))


def to_medium(wavelength: np.ndarray, medium: str, wanted: str) -> np.ndarray:
    """Wavelengths in another medium, in Å; those that are in it are given back as they are.

    Args:
        wavelength: Wavelength in Å, any shape.
        medium: Their medium, "vacuum" or "air".
        wanted: The other one, alike.
    """
    if medium == wanted:
        return wavelength
    return air_to_vacuum(wavelength) if wanted == "vacuum" else vacuum_to_air(wavelength)


def _convert(wavelength: np.ndarray, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    wavelength = np.asarray(wavelength, dtype=np.float64)
    if wavelength.size and wavelength.min() >= AIR_LIMIT:
        return convert(wavelength)
    return np.where(wavelength >= AIR_LIMIT, convert(np.maximum(wavelength, AIR_LIMIT)), wavelength)


def _refractive_index(wavelength: np.ndarray, constants: tuple[float, ...]) -> np.ndarray:
    first, strength, pole, other_strength, other_pole = constants
    # In place: this is a good part of the loader's work on spectra in air.
    wavenumber2, index = np.empty_like(wavelength), np.empty_like(wavelength)
    np.divide(1e4, wavelength, wavenumber2)
    np.multiply(wavenumber2, wavenumber2, wavenumber2)
    np.divide(strength, np.subtract(pole, wavenumber2, index), index)
    index += 1 + first
    index += np.divide(other_strength, np.subtract(other_pole, wavenumber2, wavenumber2), wavenumber2)
    return index


def sinusoids(wavelength: torch.Tensor, dim: int, min_period: float, max_period: float) -> torch.Tensor:
    """Sines and cosines of 2 pi wavelength / period, for `dim` / 2 periods spaced evenly in their logarithm.

    The phase is a product of numbers near 1e4 that is needed to 1e-6: it is taken, and reduced to one turn, in
    float64 (on the CPU where the device has none); only then is it safe in float32 (arXiv 2510.17959, eq. 1).

    Args:
        wavelength: Wavelength in Å, any shape.
        dim: Length of the embedding, even: first the sines, then the cosines.
        min_period: Shortest period in Å.
        max_period: Longest period in Å.

    Returns:
        Embedding, shape (*wavelength.shape, dim), float32.
    """
    count = dim // 2
    growth = (max_period / min_period) ** (1 / max(count - 1, 1))
    frequencies = [1 / (max_period / growth**k) for k in range(count)]  # turns per Å
    device = torch.device("cpu") if wavelength.device.type == "mps" else wavelength.device
    turns = wavelength.to(device, torch.float64)[..., None] * torch.tensor(
        frequencies, dtype=torch.float64, device=device
    )
    phase = (2 * math.pi * (turns - turns.round())).float().to(wavelength.device)
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def position_encoding(wavelength: torch.Tensor, dim: int) -> torch.Tensor:
    """The encoding of positions of the first Transformer (arXiv 1706.03762), with Å for positions (arXiv 2601.15351).

    Entries 2i and 2i + 1 are sine and cosine of wavelength / 10000^(2i / dim): periods from 6.3 Å to 6.3e4 Å.

    Args:
        wavelength: Wavelength in Å, any shape.
        dim: Length of the encoding, even.

    Returns:
        Encoding, shape (*wavelength.shape, dim), float32.
    """
    shortest = 2 * math.pi
    halves = sinusoids(wavelength, dim, shortest, shortest * 10_000 ** (1 - 2 / dim)).chunk(2, -1)
    sines, cosines = (half.flip(-1) for half in halves)  # the shortest period first
    return torch.stack([sines, cosines], dim=-1).flatten(-2)


class WavelengthEmbedding(nn.Module):
    """Embeds the wavelengths of patches: sinusoids per pixel, patched, projected where their number does not fit.

    Args:
        hidden_size: Length of the embedding of a patch.
        patch_size: Pixels per patch.
        wavelength_dim: Sinusoids per pixel.
        pooling: "flatten" keeps every pixel, "mean" averages the sinusoids, "center" embeds the mean wavelength.
        min_period: Shortest period in Å.
        max_period: Longest period in Å.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        patch_size: int,
        wavelength_dim: int,
        pooling: str,
        min_period: float,
        max_period: float,
    ):
        super().__init__()
        self.pooling = pooling
        self.wavelength_dim = wavelength_dim
        self.periods = (min_period, max_period)
        size = wavelength_dim * (patch_size if pooling == "flatten" else 1)
        self.projection = nn.Identity() if size == hidden_size else nn.Linear(size, hidden_size)

    def forward(self, wavelength: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Embedding of patches, shape (batch, num_patches, hidden_size).

        Args:
            wavelength: Wavelength in Å, shape (batch, num_patches, patch_size), float32 or float64, finite.
            dtype: Type of the model's weights, which the finished sinusoids are cast to.
        """
        if self.pooling == "center":
            wavelength = wavelength.double().mean(-1, keepdim=True)
        embedding = sinusoids(wavelength, self.wavelength_dim, *self.periods)  # (batch, num_patches, pixels, dim)
        embedding = embedding.mean(-2) if self.pooling == "mean" else embedding.flatten(-2)
        return self.projection(embedding.to(dtype))


def check_wavelength(wavelength: torch.Tensor) -> None:
    """Refuse wavelengths whose type cannot hold them.

    Args:
        wavelength: Wavelength in Å, any shape.

    Raises:
        ValueError: If it is no tensor, or its type a half-precision or an integer one.
    """
    if not isinstance(wavelength, torch.Tensor):
        raise ValueError(
            f'inputs must be tensors, found {type(wavelength).__name__}: processor(..., return_tensors="pt")'
        )
    if wavelength.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"wavelength must be float32 or float64, found {wavelength.dtype}: half precision is wrong by 4-128 Å. "
            "Cast the model, not its inputs (FSDP: cast_forward_inputs=False)"
        )


__all__ = [
    "LIGHT_SPEED",
    "WavelengthEmbedding",
    "air_to_vacuum",
    "check_wavelength",
    "position_encoding",
    "sinusoids",
    "to_medium",
    "vacuum_to_air",
]
# From spectok-hf; save_pretrained writes this file.
