"""The contrastive objectives: what belongs to one object shall be alike, and unlike what belongs to all others.

`contrastive_loss` (ours) takes two views of one spectrum, rows 2i and 2i + 1 of a batch. It is the NT-Xent of SimCLR
(Chen et al. 2020, arXiv 2002.05709, equation 1), an InfoNCE (arXiv 1807.03748) in which every view is an anchor, and
all other views of the batch, of both sides, are what its partner has to stand out from. `pair_loss`, of AstroCLIP
(arXiv 2310.03024), takes pairs of two kinds, such as spectra and images, and a partner has to stand out from the
others of its own kind.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers import initialization as init

from .heads import AttentionPooling, Layout, at_least_float32, has_patches, make_adapter, require


class ContrastiveHead(nn.Module):
    """A unit vector per spectrum: a norm, the adaptation module of the task heads, and the last layer of its MLP.

    A new encoder's states hold little but their wavelengths, and so would the head's answers: all spectra alike, and a
    loss that stays at that for hundreds of steps. Hence the norm, and new weights that keep the size of what they get.

    Args:
        config: The model's.
        input_size: Length of the states.
    """

    def __init__(self, config: PreTrainedConfig, input_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(input_size, eps=config.layer_norm_eps)
        self.adapter = make_adapter(config, input_size)
        self.projector = nn.Linear(self.adapter.output_size, config.projection_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.initial_std = module.in_features**-0.5
            elif isinstance(module, AttentionPooling):
                # Of the queries, as of what they are compared with.
                module.initial_std = 1.0  # type: ignore[assignment]

    def forward(self, states: torch.Tensor, token_wavelength: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Shape (batch, projection_dim), of length 1, at least float32; 0 for a spectrum without a valid patch.

        Args:
            states: Shape (..., input_size), where ... is (batch, num_patches) or, packed, (T,).
            token_wavelength: Wavelength of each in Å, shape (...).
            layout: Says which patches are valid, and which are of one spectrum.
        """
        states = self.norm(states.to(self.norm.weight.dtype))
        projection = at_least_float32(self.projector(self.adapter(states, token_wavelength, layout)))
        return torch.where(has_patches(layout)[:, None], functional.normalize(projection, dim=-1), 0)


def init_contrastive_weights(module: nn.Module) -> None:
    """Initialise what is special of a `ContrastiveHead`: its linear maps and its queries.

    Args:
        module: Any module of a model. (Transformers asks for those that have weights of their own, and no others.)
    """
    std = getattr(module, "initial_std", None)
    if std is not None:
        init.normal_(module.weight if isinstance(module, nn.Linear) else module.queries, std=std)


def contrastive_loss(
    projection: torch.Tensor, object_codes: torch.Tensor | None, temperature: float, *, gather: bool = False
) -> torch.Tensor:
    """Mean over all views of the cross entropy of finding the partner among the views of other objects.

    Views of one object that are not partners are left out for each other. A view that was not seen (projection 0), or
    whose partner was not, counts as 0, and for nobody else. Scores take (views of all processes)² numbers on each.

    Args:
        projection: Unit vectors, shape (batch, projection_dim); rows 2i and 2i + 1 are partners.
        object_codes: Number of each view's object, >= 0, shape (batch,), int64; None = every pair has its own.
        temperature: Divisor of the cosines.
        gather: Whether the views of all processes are one batch, see `gather_rows`.

    Raises:
        ValueError: If the batch is odd, codes do not fit it, or processes have batches of different size.
    """
    codes = _check_pairs(projection, object_codes)
    if gather and _processes() > 1:
        projection, codes = gather_rows(projection, codes)
    with torch.autocast(projection.device.type, enabled=False):
        seen = (projection != 0).any(-1)
        scores = projection @ projection.T / temperature
        rows = torch.arange(len(scores), device=scores.device)
        partner = rows ^ 1
        left_out = ((codes[:, None] == codes) | ~seen) & (rows != partner[:, None])
        scores = scores.masked_fill(left_out, torch.finfo(scores.dtype).min)  # not -inf: a row may have no other
        losses = functional.cross_entropy(scores, partner, reduction="none")
        return torch.where(seen & seen[partner], losses, 0).mean()


def _check_pairs(projection: torch.Tensor, object_codes: torch.Tensor | None) -> torch.Tensor:
    """The codes, shape (batch,); where there are none, negative ones that no other pair of any process has."""
    batch = len(projection)
    if batch % 2:
        raise ValueError(
            'objective="contrastive" needs pairs, rows 2i and 2i + 1 being two views of one object, found '
            f"{batch} spectra: use DataCollatorForContrastiveSpectra, or pass return_loss=False"
        )
    if object_codes is None:
        return _own_codes(batch // 2, projection.device).repeat_interleave(2)
    _check_codes(object_codes, batch)
    same = object_codes[0::2] == object_codes[1::2]
    require(same.all(), "rows 2i and 2i + 1 must be views of one object: their object_codes differ")
    return object_codes


def _own_codes(count: int, device: torch.device) -> torch.Tensor:
    """Codes of objects that are all different, shape (count,): negative ones that no other process has."""
    first = dist.get_rank() * count if _processes() > 1 else 0
    return -1 - first - torch.arange(count, device=device)


def _check_codes(object_codes: torch.Tensor, batch: int) -> torch.Tensor:
    if object_codes.shape != (batch,) or object_codes.is_floating_point():
        raise ValueError(
            f"object_codes must be int64, shape ({batch},), one number per spectrum, found {object_codes.dtype} of "
            f"shape {tuple(object_codes.shape)}"
        )
    return object_codes


def pair_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    object_codes: torch.Tensor | None,
    scale: torch.Tensor | float,
    *,
    gather: bool = False,
) -> torch.Tensor:
    """Mean over pairs, and over both directions, of the cross entropy of finding the partner among those of others.

    The InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020). Pairs of one object are left out for each other. A
    pair of which one side was not seen (0) counts as 0, and for nobody else. Scores take (pairs of all processes)²
    numbers on each.

    Args:
        first: Unit vectors of one kind, shape (batch, size).
        second: Those of their partners, of the other kind, the same shape.
        object_codes: Number of each pair's object, >= 0, shape (batch,), int64; None = every pair has its own.
        scale: Factor of the cosines.
        gather: Whether the pairs of all processes are one batch, see `gather_rows`.

    Raises:
        ValueError: If shapes disagree, or processes have batches of different size.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"a batch must have one partner for each, found shapes {tuple(first.shape)} and {tuple(second.shape)}"
        )
    codes = _own_codes(len(first), first.device) if object_codes is None else _check_codes(object_codes, len(first))
    if gather and _processes() > 1:
        first, second, codes = gather_rows(first, second, codes)
    with torch.autocast(first.device.type, enabled=False):
        seen = (first != 0).any(-1) & (second != 0).any(-1)
        scores = scale * at_least_float32(first) @ at_least_float32(second).T
        rows = torch.arange(len(scores), device=scores.device)
        unseen = ~(seen[:, None] & seen)
        left_out = ((codes[:, None] == codes) | unseen) & (rows[:, None] != rows)
        scores = scores.masked_fill(left_out, torch.finfo(scores.dtype).min)  # not -inf: a row may have no other
        losses = sum(functional.cross_entropy(one, rows, reduction="none") for one in (scores, scores.T))
        return torch.where(seen, losses / 2, 0).mean()


def gather_rows(*rows: torch.Tensor) -> list[torch.Tensor]:
    """Rows of all processes, in the order of their ranks.

    What is made of them is the same on every process, that of one process with the whole batch; and so are gradients,
    once averaged as DistributedDataParallel and FSDP do.

    Args:
        *rows: Of this process, all of one length; those of floating-point numbers carry gradients.

    Raises:
        ValueError: If processes have batches of different size.
    """
    sizes = _all_gather(torch.tensor([len(rows[0])], device=rows[0].device)).tolist()
    if len(set(sizes)) > 1:
        raise ValueError(
            f"a contrastive objective needs batches of one size on all processes, found {sizes} spectra: fill or drop "
            'the last batch (dataloader_drop_last=True), and drop spectra beforehand in place of on_invalid="skip"'
        )
    return [_GatherRows.apply(one) if one.is_floating_point() else _all_gather(one) for one in rows]


class _GatherRows(torch.autograd.Function):
    """Rows of all processes. What is made of them must be the same on every one.

    The gradient of a row is then the same, too, and its sum over the processes, of which they will take the mean, is
    so many times that of one: it needs no exchange.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        return _all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return _processes() * gradients[0].chunk(_processes())[dist.get_rank()]


def _all_gather(rows: torch.Tensor) -> torch.Tensor:
    gathered = [torch.empty_like(rows) for _ in range(_processes())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


__all__ = ["ContrastiveHead", "contrastive_loss", "gather_rows", "init_contrastive_weights", "pair_loss"]
# From spectok-hf; save_pretrained writes this file.
