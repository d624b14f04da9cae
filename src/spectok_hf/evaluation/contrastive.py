"""How well a contrastive model knows the views of an object among those of others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data.views import DataCollatorForContrastiveSpectra
from ..models.modeling_spectok import SpecTokForPreTraining

BATCH_SIZE = 32  # pairs per forward pass
CHUNK = 1024  # views whose similarities to all others are held at a time


def project_views(
    model: SpecTokForPreTraining,
    collator: DataCollatorForContrastiveSpectra,
    items: Sequence[Any],
    *,
    batch_size: int = BATCH_SIZE,
) -> tuple[np.ndarray, np.ndarray]:
    """Projections of two views of each item, the same ones at every call, and the numbers of their objects.

    Args:
        model: A model of `objective="contrastive"`; it is put into evaluation mode and back.
        collator: Makes the views.
        items: What the collator takes.
        batch_size: Items per forward pass.

    Returns:
        Shape (2 x items, projection_dim), float32, and (2 x items,), int64.

    Raises:
        ValueError: If the model has no contrastive head.
    """
    if not hasattr(model, "contrastive_head"):
        raise ValueError(
            f'model must have been made with objective="contrastive", found {type(model).__name__} without such a '
            'head: SpecTokForPreTraining(SpecTokConfig(objective="contrastive"))'
        )
    training = model.training
    model.eval()
    projections, codes = [], []
    with torch.inference_mode():
        for first in range(0, len(items), batch_size):
            batch = collator([items[index] for index in range(first, min(first + batch_size, len(items)))])
            codes.append(batch["object_codes"].numpy())
            on_device = {
                name: values.to(model.device) if isinstance(values, torch.Tensor) else values
                for name, values in batch.items()
            }
            projections.append(model(**on_device, return_loss=False).projection.float().cpu().numpy())
    model.train(training)
    return np.concatenate(projections), np.concatenate(codes)


def retrieval_accuracy(projection: np.ndarray, object_codes: np.ndarray | None = None) -> float:
    """Share of the views whose nearest neighbour, of all other views, is their partner; chance is 1 / (views - 1).

    Views that were not seen, or whose partner was not, do not count; NaN where none is left.

    Args:
        projection: Unit vectors, shape (views, projection_dim), rows 2i and 2i + 1 being partners; 0 = not seen.
        object_codes: Number of each view's object, shape (views,): further views of the same object are left out;
            None = every pair has its own.

    Raises:
        ValueError: If views do not come in pairs, or codes do not fit them.
    """
    views = len(projection)
    codes = np.arange(views) // 2 if object_codes is None else np.asarray(object_codes)
    if views % 2 or codes.shape != (views,):
        raise ValueError(
            "projection must have rows 2i and 2i + 1 for two views of one object, and object_codes one number per "
            f"row, found shapes {projection.shape} and {codes.shape}"
        )
    partner = np.arange(views) ^ 1
    seen = (projection != 0).any(axis=-1)
    counted = np.flatnonzero(seen & seen[partner])
    hits = 0
    for rows in np.split(counted, range(CHUNK, len(counted), CHUNK)):
        similarity = projection[rows] @ projection.T
        similarity[(codes[rows, None] == codes) | ~seen] = -np.inf
        best = similarity.max(-1)
        hits += int((np.einsum("ij,ij->i", projection[rows], projection[partner[rows]]) > best).sum())
    return hits / len(counted) if len(counted) else float("nan")


__all__ = ["project_views", "retrieval_accuracy"]
