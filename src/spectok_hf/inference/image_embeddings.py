"""Embeddings of images, by a model of spectra and images."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ..models.checkpoints import check_processor
from ..models.sky_image import SkyImage, is_image, read_image
from ..models.spectrum import check_choice


@torch.inference_mode()
def embed_images(
    model: Any, processor: Any, images: Any, *, batch_size: int, progress: bool = False, on_invalid: str = "raise"
) -> np.ndarray:
    """Unit vectors of images, float32, shape (n, projection_dim), (projection_dim,) of a single image.

    Args:
        model: An `AstroClipModel`.
        processor: Its processor; what it says of invalid images does not count here.
        images: A `SkyImage`, or what `read_image` takes for one; or a list of such.
        batch_size: Images per call of the model.
        progress: Whether to show a bar.
        on_invalid: What to do about an image of which a band has no good pixel where it is cut: "raise", or "mask",
            which gives NaN.

    Raises:
        ValueError: If there is no image, or one that cannot be read, or the processor is that of another model.
    """
    from tqdm.auto import tqdm

    check_choice("on_invalid", on_invalid, ("raise", "mask"))
    check_processor(model.config, processor)
    single = _is_single(images)
    rows = [images] if single else list(images)
    if not rows:
        raise ValueError("there must be at least one image, found none: check what was passed")
    vectors = np.full((len(rows), model.config.projection_dim), np.nan, dtype=np.float32)
    for first in tqdm(range(0, len(rows), batch_size), desc="encoding", disable=not progress):
        found = {place: read_image(row) for place, row in enumerate(rows[first : first + batch_size], first)}
        seen = {place: image for place, image in found.items() if _is_seen(processor, image, place, on_invalid)}
        if seen:
            inputs = processor(images=list(seen.values()), on_invalid="mask", return_tensors="pt").to(model.device)
            vectors[list(seen)] = model.get_image_features(inputs["pixel_values"]).float().cpu().numpy()
    return vectors[0] if single else vectors


def _is_single(source: Any) -> bool:
    """Whether a source is one image, also as a list with a mapping for each of its bands."""
    if is_image(source) or isinstance(source, (Mapping, str, bytes)) or not isinstance(source, Iterable):
        return True
    if not isinstance(source, (list, tuple, np.ndarray)) or not len(source):
        return False
    return isinstance(source[0], Mapping) and isinstance(source[0].get("band"), (str, bytes))


def _is_seen(processor: Any, image: SkyImage, place: int, on_invalid: str) -> bool:
    """Whether an image has good pixels in all bands."""
    blind = processor.blind_bands(image)
    if blind and on_invalid == "raise":
        raise ValueError(
            f"image {place} (object_id={image.object_id}) has no good pixel of {', '.join(blind)} where it is cut: "
            'drop it, or pass on_invalid="mask"'
        )
    return not blind


__all__ = ["embed_images"]
