"""What every model that reads patches checks at its door."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers.utils import TransformersKwargs

from .packing import Lengths
from .patches import valid_patches
from .wavelength import check_wavelength

# What Transformers, data sets for the heads and the collators pass to any model.
PASSED_THROUGH = {"labels", "object_codes", "return_dict", "use_cache"}
# Transformers' own marks of packed or directed sequences: attention would take them, and what they say, unasked.
REFUSED = {"cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids", "seq_idx", "is_causal"}


def check_inputs(
    patch_size: int,
    flux: torch.Tensor,
    wavelength: torch.Tensor,
    error: torch.Tensor | None,
    pixel_mask: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    num_patches: Lengths | None,
    scale: torch.Tensor | None,
    keywords: dict[str, Any],
) -> dict[str, Any]:
    """Inputs with one entry per patch: flux, wavelength, error, good pixels and valid patches, the last two bool.

    Args:
        patch_size: Pixels per patch.
        flux: See `SpecTokModel.forward`, as all that follow.
        wavelength: As there.
        error: As there.
        pixel_mask: As there.
        attention_mask: As there.
        num_patches: As there.
        scale: As there.
        keywords: What else the model was called with.

    Raises:
        TypeError: If a keyword is unknown or refused.
        ValueError: If inputs are no tensors, their shapes disagree, or the wavelength is not float32 or float64.
    """
    check_keywords(keywords)
    check_wavelength(wavelength)
    _check_flux(patch_size, flux)
    _check_lengths(scale, num_patches, flux)
    for name, value in {"wavelength": wavelength, "error": error, "pixel_mask": pixel_mask}.items():
        if value is not None and value.shape != flux.shape:
            raise ValueError(
                f"{name} must have the shape of flux, found {tuple(value.shape)} beside {tuple(flux.shape)}: prepare "
                "inputs with the model's processor"
            )
    if attention_mask is not None and attention_mask.shape != flux.shape[:-1]:
        raise ValueError(
            f"attention_mask must have shape {tuple(flux.shape[:-1])}, one value per patch, found "
            f"{tuple(attention_mask.shape)}"
        )
    good = torch.ones_like(flux, dtype=torch.bool) if pixel_mask is None else pixel_mask > 0
    valid = valid_patches(good)
    valid = valid if attention_mask is None else valid & (attention_mask > 0)
    return {"flux": flux, "wavelength": wavelength, "error": error, "good": good, "valid": valid}


def check_request(
    patch_size: int, tokens: torch.Tensor, wavelength: torch.Tensor, token_wavelength: torch.Tensor
) -> None:
    """Refuse to decode what does not fit together.

    Args:
        patch_size: Pixels per patch.
        tokens: See `SpecTokForPreTraining.decode`, as all that follow.
        wavelength: As there.
        token_wavelength: As there.

    Raises:
        ValueError: If shapes disagree, or a wavelength is not float32 or float64.
    """
    check_wavelength(wavelength)
    check_wavelength(token_wavelength)
    if tokens.ndim != 3:
        raise ValueError(
            f"tokens must have shape (batch, num_patches, latent_size), found {tuple(tokens.shape)}: encode "
            "padded spectra, or pad packed tokens with padding_of(num_patches, device).restore"
        )
    if wavelength.ndim != 3 or wavelength.shape[-1] != patch_size:
        raise ValueError(
            f"wavelength must have shape (batch, patches, {patch_size}), found "
            f"{tuple(wavelength.shape)}: cut the grid with SpectrumProcessor.patch_wavelength"
        )
    if tokens.shape[:2] != token_wavelength.shape or len(tokens) != len(wavelength):
        raise ValueError(
            "tokens, token_wavelength and wavelength must agree in batch, tokens and token_wavelength in patches, "
            f"found {tuple(tokens.shape)}, {tuple(token_wavelength.shape)} and {tuple(wavelength.shape)}"
        )


def check_regrid(patch_size: int, outputs: Mapping[str, Any], wavelength: torch.Tensor) -> None:
    """Refuse to interpolate a reconstruction onto what does not fit it.

    Args:
        patch_size: Pixels per patch.
        outputs: Of a model, with `reconstruction`.
        wavelength: Requested wavelengths in Å.

    Raises:
        ValueError: If shapes disagree, or the wavelength is not float32 or float64.
    """
    check_wavelength(wavelength)
    found = outputs["reconstruction"].shape
    if len(found) != 3 or wavelength.ndim != 3 or wavelength.shape[-1] != patch_size or len(wavelength) != found[0]:
        raise ValueError(
            f"wavelength must have shape (batch, patches, {patch_size}), as many spectra as the reconstruction, which "
            f"must be padded, found {tuple(wavelength.shape)} and {tuple(found)}: cut the grid with the processor's "
            "patch_wavelength"
        )


def check_hidden_patches(bool_masked_pos: torch.Tensor | None, valid: torch.Tensor) -> torch.Tensor | None:
    """Patches to hide, the shape of `valid`, bool; None = there are none.

    Args:
        bool_masked_pos: What the caller gave.
        valid: Valid patches, shape (batch, num_patches) or, packed, (T,).

    Raises:
        ValueError: If shapes disagree.
    """
    if bool_masked_pos is not None and bool_masked_pos.shape != valid.shape:
        raise ValueError(
            f"bool_masked_pos must have shape {tuple(valid.shape)}, one value per patch, found "
            f'{tuple(bool_masked_pos.shape)}: use DataCollatorForSpectra(hide="chunks", ...)'
        )
    return None if bool_masked_pos is None else bool_masked_pos > 0


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Refuse misspelt inputs: `errors=` in place of `error=` would be as if there were none, in silence.

    Args:
        keywords: What a model was called with beside its inputs.

    Raises:
        TypeError: If a keyword is unknown or refused.
    """
    refused = sorted(name for name in REFUSED & set(keywords) if not _is_off(keywords[name]))
    if refused:
        raise TypeError(
            f"forward does not take {', '.join(refused)}: patches attend to all of their spectrum, and packed spectra "
            "are told apart by num_patches"
        )
    unknown = sorted(set(keywords) - set(TransformersKwargs.__annotations__) - PASSED_THROUGH)
    if unknown:
        raise TypeError(f"forward got unknown inputs: {', '.join(unknown)}; see the model's forward")


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _check_flux(patch_size: int, flux: torch.Tensor) -> None:
    if flux.ndim not in (2, 3):
        raise ValueError(
            f"flux must have shape (batch, num_patches, {patch_size}) or, packed, (rows, {patch_size}), found "
            f"{tuple(flux.shape)}: prepare inputs with the model's processor"
        )
    if flux.shape[-1] != patch_size:
        raise ValueError(
            f"flux must be in patches of {patch_size} pixels, as this model reads them, found patches of "
            f"{flux.shape[-1]}: take the processor that was saved with the model"
        )


def _check_lengths(scale: torch.Tensor | None, num_patches: Lengths | None, flux: torch.Tensor) -> None:
    """Refuse, of packed batches, a single spectrum without its batch, and one that was cut by rows: its scales no
    longer match its lengths.
    """
    if flux.ndim != 2 or num_patches is None:
        return
    shape = getattr(num_patches, "shape", None)  # which a list has not
    if shape is not None and len(shape) != 1:
        raise ValueError(
            f"num_patches must have shape (batch,), one value per spectrum, found {tuple(shape)}: pass a single "
            "spectrum as a batch of one"
        )
    if scale is not None and scale.shape != (len(num_patches),):
        raise ValueError(
            f"scale and num_patches must have one value per spectrum, found {tuple(scale.shape)} and "
            f"({len(num_patches)},): was "
            "a packed batch split between devices? Use DistributedDataParallel (torchrun, accelerate launch)"
        )


__all__ = ["check_hidden_patches", "check_inputs", "check_keywords", "check_regrid", "check_request"]
# From spectok-hf; save_pretrained writes this file.
