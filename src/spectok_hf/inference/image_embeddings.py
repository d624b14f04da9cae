"""Embeddings of images, by a model of spectra and images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..models.checkpoints import check_processor
from ..models.sky_image import is_image


@torch.inference_mode()
def embed_images(model: Any, processor: Any, images: Any, *, batch_size: int, progress: bool = False) -> np.ndarray:
    """Unit vectors of images, float32, shape (n, projection_dim), (projection_dim,) of a single image.

    Args:
        model: An `AstroClipModel`.
        processor: Its processor.
        images: A `SkyImage`, or what `read_image` takes for one; or a list of such.
        batch_size: Images per call of the model.
        progress: Whether to show a bar.

    Raises:
        ValueError: If there is no image, or one that cannot be read, or the processor is that of another model.
    """
    from tqdm.auto import tqdm

    check_processor(model.config, processor)
    single = is_image(images) or isinstance(images, Mapping)
    rows = [images] if single else list(images)
    if not rows:
        raise ValueError("there must be at least one image, found none: check what was passed")
    found = []
    for first in tqdm(range(0, len(rows), batch_size), desc="encoding", disable=not progress):
        inputs = processor(images=rows[first : first + batch_size], return_tensors="pt").to(model.device)
        found.append(model.get_image_features(inputs["pixel_values"]).float().cpu().numpy())
    vectors = np.concatenate(found)
    return vectors[0] if single else vectors


__all__ = ["embed_images"]
