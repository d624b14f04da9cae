"""Batches of spectra and images of the same galaxies, and how images are turned for training."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from ..models.processing_astroclip import AstroClipProcessor, middle
from .mixtures import Visit, without_visits

MASKS = ("pixel_mask", "attention_mask")


class PairDataset(Dataset):
    """Pairs of a spectrum and an image as model inputs, for a map-style loader: each is prepared once, and kept.

    A pair of DESI takes 0.3 MB with an image of 96 pixels, and 0.4 MB where it is to be turned.

    Args:
        pairs: Tuples of a `Spectrum` and a `SkyImage`.
        processor: The processor of the model.
        augment: Whether images are kept with the rim that turning them by any angle needs, where they have one.

    Raises:
        ValueError: If a spectrum has no valid patch, or an image does not fit the processor.
    """

    def __init__(self, pairs: Sequence[Any], processor: AstroClipProcessor, *, augment: bool = False):
        self.features = [_prepare(pair, processor, augment, position, "raise") for position, pair in enumerate(pairs)]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int | Visit) -> Any:
        if isinstance(index, Visit):
            return Visit(self.features[index.what], index.number)
        return self.features[index]


class DataCollatorForPairs:
    """Batches of pairs, which `AstroClipModel` takes as they are: its inputs, the codes of the objects, and
    `return_loss`.

    With `augment` an image is mirrored or not, and turned about its middle: by any angle where it was given with room
    for it, sqrt(2) times `image_size`, else by a multiple of 90 degrees. What is drawn is a function of the seed and,
    for each `Visit`, of its number, else of the batch's content, as in `DataCollatorForSpectra`.

    Args:
        processor: The processor of the model.
        augment: Whether images are mirrored and turned.
        seed: Seed of the draw.
    """

    def __init__(self, processor: AstroClipProcessor, *, augment: bool = False, seed: int = 0):
        self.processor = processor
        self.augment = augment
        self.seed = seed

    def __call__(self, features: Sequence[Any]) -> dict[str, Any]:
        """A batch of tensors.

        Args:
            features: Tuples of a `Spectrum` and a `SkyImage`, or what `PairDataset` made of them, also with further
                entries per pair; or the visits of either.

        Raises:
            ValueError: If a spectrum or an image does not fit the processor, or features are something else.
        """
        items, numbers = without_visits(features)
        if not isinstance(items[0], Mapping):
            items, numbers = self._prepare(items, numbers)
        elif missing := {"flux", "pixel_values"} - set(items[0]):
            raise ValueError(
                f"a prepared pair must hold what AstroClipProcessor gives, found no {', '.join(sorted(missing))} in "
                f"{', '.join(map(str, items[0]))}: use PairDataset(pairs, processor)"
            )
        size = self.processor.image_size
        images = [torch.as_tensor(item["pixel_values"]) for item in items]
        if self.augment:
            rngs = self._random_streams(items, numbers)
            images = [turn_image(image, size, rng) for image, rng in zip(images, rngs, strict=True)]
        spectra = [{name: value for name, value in item.items() if name != "pixel_values"} for item in items]
        batch = dict(self.processor.pad(spectra, return_tensors="pt"))
        batch |= {name: batch[name].long() for name in MASKS}
        return batch | {"pixel_values": torch.stack([middle(image, size) for image in images]), "return_loss": True}

    def _prepare(self, pairs: list[Any], numbers: list[int] | None) -> tuple[list[Any], list[int] | None]:
        """What pairs become, and the numbers, without those that the processor skips."""
        rows = [_prepare(pair, self.processor, self.augment, position) for position, pair in enumerate(pairs)]
        kept = [position for position, row in enumerate(rows) if row is not None]
        if not kept:
            raise ValueError("no pair of the batch is valid: pass at least one whose spectrum and image are")
        return [rows[row] for row in kept], None if numbers is None else [numbers[row] for row in kept]

    def _random_streams(self, items: Sequence[Any], numbers: Sequence[int] | None) -> list[np.random.Generator]:
        if numbers is not None:
            return [np.random.default_rng([self.seed, number]) for number in numbers]
        content = 0
        for item in items:
            content = zlib.crc32(np.ascontiguousarray(item["flux"]).data, content)
        return [np.random.default_rng([self.seed, content])] * len(items)


def turn_image(image: torch.Tensor, size: int, rng: np.random.Generator) -> torch.Tensor:
    """The middle of an image, mirrored or not and turned at random, shape (bands, size, size).

    Args:
        image: Shape (bands, height, width), at least `size`. With sqrt(2) times that it is turned by any angle, its
            pixels interpolated bilinearly; else by a multiple of 90 degrees.
        size: Pixels of a side.
        rng: Source of randomness.
    """
    mirrored, angle = bool(rng.integers(2)), float(rng.uniform(0, 2 * np.pi))
    image = image.flip(-1) if mirrored else image
    if min(image.shape[1:]) < room_to_turn(size):
        return torch.rot90(middle(image, size), int(angle / (np.pi / 2)), (1, 2))
    height, width = image.shape[1:]
    cosine, sine = np.cos(angle), np.sin(angle)
    # From pixels of the result to those of the image, both in units of half of it, about the middle.
    turn = [[cosine * size / width, -sine * size / width, 0], [sine * size / height, cosine * size / height, 0]]
    grid = functional.affine_grid(torch.tensor([turn], dtype=image.dtype), [1, 1, size, size], align_corners=False)
    return functional.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0]


def room_to_turn(size: int) -> int:
    """Pixels that the side of an image needs to be turned by any angle without an empty corner.

    Args:
        size: Pixels of a side of the result.
    """
    return int(np.ceil(size * np.sqrt(2) / 2)) * 2 + size % 2


def object_code(object_id: str | None, content: np.ndarray) -> int:
    """A number of an object that is the same in every process and every run, at least 0.

    Args:
        object_id: Its identifier.
        content: What stands for it where it has none, such as the flux of its spectrum.
    """
    told = content.tobytes() if object_id is None else object_id.encode()
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 1


def _prepare(
    pair: Any, processor: AstroClipProcessor, augment: bool, position: int, on_invalid: str | None = None
) -> dict[str, np.ndarray] | None:
    spectrum, image = _check_pair(pair)
    room = room_to_turn(processor.image_size)
    size = room if augment and processor.has_room(image, room) else processor.image_size
    row = processor.prepare(spectrum, image, position=position, on_invalid=on_invalid, size=size)
    code = object_code(spectrum.object_id or image.object_id, spectrum.flux)
    if row is None:
        return None
    masks = {name: row[name].astype(bool) for name in MASKS}  # an eighth of what they take as they come
    return row | masks | {"object_codes": np.array(code)}


def _check_pair(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not hasattr(pair[1], "bands"):
        raise ValueError(
            f"a pair must be a Spectrum and a SkyImage, found {type(pair).__name__}: pass tuples, or what "
            "PairDataset made of them"
        )
    return pair[0], pair[1]


__all__ = ["DataCollatorForPairs", "PairDataset", "object_code", "room_to_turn", "turn_image"]
