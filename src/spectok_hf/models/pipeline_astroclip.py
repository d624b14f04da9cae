"""The pipelines of AstroCLIP: how alike spectra and images are, and the embeddings of all families' spectra."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from transformers import Pipeline

from .pipeline_spectok import SpectrumEmbeddingPipeline, SpectrumPipeline
from .sky_image import read_images
from .sources import ARRAY_FIELDS, is_flux, is_spectrum, read_source, shown
from .spectrum import Spectrum

KEYS = {"spectrum": "spectra", "spectra": "spectra", "image": "images", "images": "images"}
EMBEDDED_AT_ONCE = 32  # however many candidates there are


class SpectrumImageSimilarityPipeline(SpectrumPipeline):
    """
    How alike a spectrum and an image are, by what AstroCLIP makes of them.

    It takes mappings. `{"spectrum": s, "image": i}` gives `{"similarity": 0.83, "logit": 12.9}`, the cosine and what
    the model makes of it. A spectrum with candidates, `{"spectrum": s, "images": [...]}`, or an image with such,
    `{"image": i, "spectra": [...]}`, gives these, the most similar first: `[{"index": 4, "object_id": "396...",
    "similarity": 0.83, "score": 0.61}, ...]`, where scores are the softmax of the logits and add up to 1. One of them
    alone gives `{"embedding": [...], "modality": "spectrum"}`.

    A spectrum is whatever `SpectrumPipeline` takes, an image whatever `read_image` takes. A list of mappings gives a
    list, a generator or a dataset of such a generator; with `batch_size=`, answers are those of one at a time.

    Args:
        top_k: How many candidates; absent = all.
        on_invalid: What to do with a spectrum without a valid patch, or an image of which a band has no good pixel:
            "raise", or "mask", which answers None in place of numbers.

    Raises:
        ValueError: If the model is another than `AstroClipModel`.
    """

    architecture = "AstroClipModel"
    advice = (
        ": none comes with the package; pass model=, aligned by examples/align_images_and_spectra.py or converted by "
        "`spectok convert astroclip`"
    )
    options = ("top_k",)
    item = "input"

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Answers for one mapping or many.

        Args:
            inputs: See the class.
            **kwargs: `batch_size`, `num_workers`, `on_invalid` and `top_k`.

        Raises:
            ImportError: If a spectrum needs the installed package.
            ValueError: If an input is no such mapping, or what it holds is impossible.
        """
        if fields := [name for name in ARRAY_FIELDS if name in kwargs]:
            raise ValueError(
                f'{", ".join(fields)} belong to one spectrum: pass {{"spectrum": {{"flux": ..., {fields[0]!r}: ...}}}}'
            )
        if isinstance(inputs, Mapping):
            return Pipeline.__call__(self, inputs, **kwargs)
        if is_spectrum(inputs) or is_flux(inputs) or isinstance(inputs, (str, bytes, Path)):
            raise ValueError(f"{_expected()}, found {shown(inputs)}")
        return super().__call__(inputs, **kwargs)

    def _prepare(self, source: Any, on_invalid: str) -> dict[str, Any]:
        _check_keys(source)
        item: dict[str, Any] = {"ranked": next((name for name in ("spectra", "images") if name in source), None)}
        for name, kind in KEYS.items():
            if name not in source:
                continue
            found: list[Any] = _spectra(source[name]) if kind == "spectra" else read_images(source[name])
            if not found or (name != kind and len(found) > 1):
                wanted = "one or more" if name == kind else "one"
                raise ValueError(f"{name} must hold {wanted}, found {len(found)}: see {type(self).__name__}")
            prepare = self._spectrum_rows if kind == "spectra" else self._image_rows
            item[kind] = prepare(found, on_invalid)
            item[f"{kind}_ids"] = [one.object_id for one in found]
        return {"items": [item]}

    def _spectrum_rows(self, spectra: Sequence[Spectrum], on_invalid: str) -> list[dict[str, Any]]:
        rows = [self.feature_extractor.prepare(spectrum, None, on_invalid="mask") for spectrum in spectra]
        for spectrum, row in zip(spectra, rows, strict=True):
            if on_invalid == "raise" and not row["attention_mask"].any():
                raise ValueError(
                    f"{spectrum!r} has no patch of which more than half of the pixels are good: drop it, or pass "
                    'on_invalid="mask", which answers None'
                )
        return rows

    def _image_rows(self, images: Sequence[Any], on_invalid: str) -> list[dict[str, Any]]:
        for image in images:
            if on_invalid == "raise" and (blind := self.feature_extractor.blind_bands(image)):
                raise ValueError(
                    f"{image!r} has no good pixel of {', '.join(blind)} in its middle: drop it, or pass "
                    'on_invalid="mask", which answers None'
                )
        rows = [self.feature_extractor.prepare(None, image, on_invalid="mask") for image in images]
        return [
            row | {"observed": not self.feature_extractor.blind_bands(image)}
            for row, image in zip(rows, images, strict=True)
        ]

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        batched = isinstance(model_inputs["items"][0], list)
        items = [part for parts in model_inputs["items"] for part in parts] if batched else model_inputs["items"]
        answers: list[dict[str, Any]] = [dict(item) for item in items]
        for kind, embed in (("spectra", self._embed_spectra), ("images", self._embed_images)):
            rows = [row for item in items for row in item.get(kind, ())]
            embeddings = iter(_in_parts(embed, rows))
            for answer in answers:
                if kind in answer:
                    answer[kind] = torch.stack([next(embeddings) for _ in answer[kind]])
        return {"items": [[answer] for answer in answers] if batched else answers}

    def _embed_spectra(self, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
        inputs = self.feature_extractor.pad(rows, return_tensors="pt").to(self.device)
        embeddings = self.model.get_spectrum_features(**inputs)
        return _blanked(embeddings, inputs["attention_mask"].any(-1))

    def _embed_images(self, rows: Sequence[dict[str, Any]]) -> torch.Tensor:
        inputs = self.feature_extractor.pad(rows, return_tensors="pt").to(self.device)
        embeddings = self.model.get_image_features(inputs["pixel_values"])
        return _blanked(embeddings, inputs["observed"])

    def postprocess(self, outputs: Mapping[str, Any], top_k: Any = None) -> Any:
        """The answer to one mapping.

        Args:
            outputs: Of the model.
            top_k: How many candidates.

        Raises:
            ValueError: If `top_k` is not positive, or there are no candidates.
        """
        item = outputs["items"][0]
        ranked = item["ranked"]
        if top_k is not None:
            _check_top_k(top_k, ranked)
        sides = {kind: item[kind].double() for kind in ("spectra", "images") if kind in item}
        if len(sides) == 1:
            kind, embedding = next(iter(sides.items()))
            values = _numbers(embedding[0])
            known = None if None in values else values
            return {"embedding": known, "modality": "spectrum" if kind == "spectra" else "image"}
        similarity = (sides["spectra"] @ sides["images"].T).flatten()
        logits = similarity * self._logit_scale()
        if ranked is None:
            return {"similarity": _numbers(similarity)[0], "logit": _numbers(logits)[0]}
        return _ranked(similarity, logits, item[f"{ranked}_ids"])[:top_k]

    def _logit_scale(self) -> float:
        return float(self.model.scale())


def _ranked(similarity: torch.Tensor, logits: torch.Tensor, object_ids: Sequence[Any]) -> list[dict[str, Any]]:
    """Candidates, the most similar first; those that were not observed last, and without numbers."""
    known = similarity.isfinite()
    scores = torch.full_like(logits, torch.nan)
    scores[known] = logits[known].softmax(0)
    order = similarity.nan_to_num(-torch.inf).argsort(descending=True, stable=True).tolist()
    values, shares = _numbers(similarity), _numbers(scores)
    return [{"index": i, "object_id": object_ids[i], "similarity": values[i], "score": shares[i]} for i in order]


def _in_parts(embed: Callable[[list], torch.Tensor], rows: list[Any]) -> list[torch.Tensor]:
    parts = [embed(rows[first : first + EMBEDDED_AT_ONCE]) for first in range(0, len(rows), EMBEDDED_AT_ONCE)]
    return [embedding for part in parts for embedding in part]


def _blanked(embeddings: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """Embeddings, NaN where nothing was observed."""
    return embeddings.float().masked_fill(~observed.bool()[:, None], torch.nan)


def _numbers(values: torch.Tensor) -> list[float | None]:
    """Numbers that JSON can hold; None for what is not finite."""
    return [number if math.isfinite(number) else None for number in values.tolist()]


def _spectra(source: Any) -> list[Spectrum]:
    sources = source if isinstance(source, (list, tuple)) and not is_flux(source) else [source]
    return [spectrum for one in sources for spectrum in read_source(one, {})]


def _check_keys(source: Any) -> None:
    if not isinstance(source, Mapping):
        raise ValueError(f"{_expected()}, found {shown(source)}")
    given = set(source)
    kinds = [KEYS[name] for name in given & set(KEYS)]
    # Both sides at most once, and not only candidates.
    if given - set(KEYS) or len(set(kinds)) < len(kinds) or not given & {"spectrum", "image"}:
        raise ValueError(f"{_expected()}, found {json.dumps(sorted(map(str, given)))}")


def _expected() -> str:
    return (
        'expected a mapping with "spectrum" and "image", one of these with the candidates "images" or "spectra", or '
        "one of these alone"
    )


def _check_top_k(top_k: Any, ranked: str | None) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1:
        raise ValueError(f"top_k must be 1 or more, found {top_k!r}")
    if ranked is None:
        raise ValueError(f'top_k={top_k} needs candidates, found none: pass "images" or "spectra"')


__all__ = ["SpectrumEmbeddingPipeline", "SpectrumImageSimilarityPipeline"]
