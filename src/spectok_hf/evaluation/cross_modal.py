"""How spectra and images of the same galaxies find each other, and what the embeddings of each say of a galaxy.

Retrieval goes in four directions: of spectra or images the query, of spectra or images the answers. Across kinds the
right answer is the other half of the pair; within a kind it is a second observation of the galaxy, where there is one.
Whether there is or not, neighbours should be alike: how far their labels are from those of the query stands beside
how far those of random galaxies are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..data.dataset import object_groups
from ..data.lines import label_number
from ..data.pairs import DataCollatorForPairs
from ..data.simulation.pairs import GalaxyPair
from ..models.sky_image import SkyImage
from ..models.spectrum import Spectrum
from .probes import constant, flux_mlp, knn, mlp_probe, pca_ridge
from .tasks import Method, Split, Task

KINDS = ("spectrum", "image")
DIRECTIONS = (("spectrum", "image"), ("image", "spectrum"), ("spectrum", "spectrum"), ("image", "image"))
PROPERTIES = {"redshift": "", "log_stellar_mass": "dex"}  # labels, and their units
NEIGHBOURS, FEW_NEIGHBOURS = 16, 4
HIDDEN, DROPOUT = (64, 64), 0.1  # of the perceptrons
BATCH_SIZE = 64  # pairs per forward pass
CHUNK = 1024  # queries whose similarities to all answers are held at a time
APERTURES = (1.5, 8.0)  # arcsec, radii: of the middle of a galaxy, and of nearly all of it
SOFTENING = 0.5  # nanomaggies, below which magnitudes are linear in the flux

Row = dict[str, object]


class PairEmbeddings(NamedTuple):
    """Unit vectors of spectra and images; row i is of the same galaxy.

    Args:
        spectrum: Shape (n, projection_dim), float32.
        image: The same shape.
        encoder: What the encoder of spectra says itself, the mean of its states over valid patches, shape
            (n, hidden_size); None = not known.
    """

    spectrum: np.ndarray
    image: np.ndarray
    encoder: np.ndarray | None = None


def embed_pairs(
    model: PreTrainedModel,
    processor: Any,
    pairs: Sequence[GalaxyPair],
    *,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    bf16: bool = False,
) -> PairEmbeddings:
    """Embeddings of both halves of pairs, in the space that a model has for both.

    Args:
        model: An `AstroClipModel`; it is put into evaluation mode and back.
        processor: Its processor.
        pairs: The pairs, at least one; each spectrum with a valid patch.
        batch_size: Pairs per forward pass.
        num_workers: Processes that prepare batches; 0 = this one does.
        bf16: Whether the model computes in bfloat16 where that is safe.

    Raises:
        ValueError: If there are no pairs, or the processor skips one: rows would no longer be those of the pairs.
    """
    if not len(pairs):
        raise ValueError("embed_pairs needs pairs, found none")
    loader: DataLoader = DataLoader(
        pairs,  # type: ignore[arg-type]  # a sequence will do
        batch_size=batch_size,
        collate_fn=DataCollatorForPairs(processor),
        num_workers=num_workers,
    )
    training = model.training
    model.eval()
    parts = []
    for batch in loader:
        inputs = {name: values.to(model.device) for name, values in batch.items() if torch.is_tensor(values)}
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            outputs = model(**inputs)
            valid = outputs["attention_mask"][..., None]
            mean = (outputs["last_hidden_state"] * valid).sum(1) / valid.sum(1).clamp(min=1)
        found = outputs["spectrum_embeds"], outputs["image_embeds"], mean
        parts.append([values.float().cpu().numpy() for values in found])
    model.train(training)
    embeddings = PairEmbeddings(*map(np.concatenate, zip(*parts, strict=True)))
    if (rows := len(embeddings.spectrum)) != len(pairs):
        raise ValueError(
            f"each of {len(pairs)} pairs needs a row, found {rows}: the processor skipped the others; drop them, or "
            'use one with on_invalid="raise", which names them'
        )
    return embeddings


def alignment_loss(embeddings: PairEmbeddings, scale: float, batch: int) -> float:
    """InfoNCE of pairs in batches, the mean of both directions; chance is ln(batch).

    Args:
        embeddings: Of the pairs, whose order is that of the batches.
        scale: What cosines are multiplied with.
        batch: Pairs that are told apart; those of a last, smaller batch do not count.

    Raises:
        ValueError: If there are fewer pairs.
    """
    _check_count(batch, len(embeddings.spectrum))
    losses = []
    for first in range(0, len(embeddings.spectrum) - batch + 1, batch):
        both = embeddings.spectrum, embeddings.image
        spectra, images = (torch.from_numpy(values[first : first + batch]) for values in both)
        scores, right = scale * spectra @ images.T, torch.arange(batch)
        losses += [float(torch.nn.functional.cross_entropy(one, right)) for one in (scores, scores.T)]
    return float(np.mean(losses))


# Retrieval ----------------------------------------------------------------------------------------


def answer_ranks(queries: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """How many other answers are at least as near to each query as its own one, by the angle, shape (n,).

    Args:
        queries: Embeddings, shape (n, d).
        answers: Embeddings, shape (n, d); row i is the right answer to query i.

    Raises:
        ValueError: If shapes differ, there is no query, or a number is not finite.
    """
    queries, answers = _directions(queries, answers)
    ranks = np.empty(len(queries), dtype=np.int64)
    for rows in _chunks(len(queries), CHUNK):
        cosine = queries[rows] @ answers.T
        ranks[rows] = (cosine >= cosine[np.arange(len(rows)), rows, None]).sum(-1) - 1
    return ranks


def nearest_others(queries: np.ndarray, answers: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k answers nearest to each query, the nearest first, without its own one; shape (n, k).

    Args:
        queries: As for `answer_ranks`.
        answers: As for `answer_ranks`.
        k: How many.

    Raises:
        ValueError: As for `answer_ranks`, or if k is not from 1 to n - 1.
    """
    _check_count(k, len(answers) - 1)
    queries, answers = _directions(queries, answers)
    found = np.empty((len(queries), k), dtype=np.int64)
    for rows in _chunks(len(queries), CHUNK):
        cosine = queries[rows] @ answers.T
        cosine[np.arange(len(rows)), rows] = -np.inf
        found[rows] = np.argsort(-cosine, axis=-1, kind="stable")[:, :k]
    return found


def retrieval_rows(
    first: PairEmbeddings,
    properties: Mapping[str, np.ndarray],
    *,
    again: PairEmbeddings | None = None,
    k: int = 10,
    seed: int = 0,
) -> list[Row]:
    """How well retrieval does in each of the four directions, beside chance.

    Args:
        first: Embeddings of pairs.
        properties: Labels of the galaxies by name, shape (n,), NaN = not known; a `redshift` is compared over 1 + z.
        again: Embeddings of a second observation of the same galaxies, which answer queries of their own kind; None =
            within a kind there is no right answer, and no recall.
        k: How many answers are looked at.
        seed: Seed of the random galaxies.

    Returns:
        One row per direction: `query`, `answers`, `recall@1`, `recall@k`, its `chance`, `median rank` of the right
        answer (0 is the best), and of each property the median distance of the k nearest other galaxies from the
        query (`redshift apart / (1 + z)`, `log_stellar_mass apart`), and of k random ones (`..., random`).

    Raises:
        ValueError: As for `nearest_others`, or if properties are not one number per pair.
    """
    rng = np.random.default_rng(seed)
    count = len(first.spectrum)
    if wrong := {name: np.shape(values) for name, values in properties.items() if np.shape(values) != (count,)}:
        raise ValueError(f"properties must be one number for each of {count} pairs, found shapes {wrong}")
    random = (np.arange(count)[:, None] + rng.integers(1, count, (count, k))) % count
    rows = []
    for query, kind in DIRECTIONS:
        source = again if query == kind else first
        row: Row = {"query": query, "answers": kind}
        if source is not None:
            row |= _recalls(getattr(first, query), getattr(source, kind), k)
        near = nearest_others(getattr(first, query), getattr(first, kind), k)
        for name, values in properties.items():
            said = f"{name} apart" + (" / (1 + z)" if name == "redshift" else "")
            row |= {said: _distance(name, values, near), f"{said}, random": _distance(name, values, random)}
        rows.append(row)
    return rows


def observe_again(pairs: Sequence[GalaxyPair], seed: int = 0) -> list[GalaxyPair]:
    """Second observations of galaxies: spectra and images with noise of their own, images turned or mirrored as well.

    Where the noise-free flux is known, as `truth` of what is simulated, noise is drawn anew, as large as the errors
    say, and the two observations share none. Where it is not, noise is added to that which is there: the second
    observation is the noisier one, and holds all noise of the first, by which it may be found again. An image of no
    `ivar` then stays as it was but for the turn. Bad pixels and an image's neighbours are those of the first.

    Args:
        pairs: First observations.
        seed: Seed of noise and turns.
    """
    rng = np.random.default_rng(seed)
    return [GalaxyPair(_observed_again(spectrum, rng), _turned(image, rng)) for spectrum, image in pairs]


def _observed_again(spectrum: Spectrum, rng: np.random.Generator) -> Spectrum:
    good = spectrum.good
    flux = np.array(spectrum.flux)
    known = spectrum.flux if spectrum.truth is None else spectrum.truth
    flux[good] = known[good] + spectrum.error[good] * rng.standard_normal(good.sum())
    return replace(spectrum, flux=flux)


def _turned(image: SkyImage, rng: np.random.Generator) -> SkyImage:
    turns, mirrored = int(rng.integers(1, 4)), bool(rng.integers(2))

    def turn(values: np.ndarray) -> np.ndarray:
        values = np.rot90(values, turns, axes=(1, 2))
        return np.ascontiguousarray(values[:, :, ::-1] if mirrored else values)

    flux = image.flux if image.truth is None else image.truth
    if image.ivar is not None:
        known = np.isfinite(image.ivar) & (image.ivar > 0)
        noise = np.divide(1, np.sqrt(np.where(known, image.ivar, 1)), out=np.zeros(flux.shape), where=known)
        flux = (flux + noise * rng.standard_normal(flux.shape)).astype(np.float32)
    ivar, truth = (None if values is None else turn(values) for values in (image.ivar, image.truth))
    return replace(image, flux=turn(flux), mask=turn(image.mask), ivar=ivar, truth=truth)


def _recalls(queries: np.ndarray, answers: np.ndarray, k: int) -> Row:
    ranks = answer_ranks(queries, answers)
    shares: Row = {f"recall@{count}": float((ranks < count).mean()) for count in sorted({1, k})}
    return shares | {"chance": k / len(ranks), "median rank": float(np.median(ranks))}


def _distance(name: str, values: np.ndarray, found: np.ndarray) -> float:
    """Median distance between the label of each query, shape (n,), and those of what it found, rows (n, k)."""
    apart = np.abs(values[found] - values[:, None])
    apart = apart / (1 + values[:, None]) if name == "redshift" else apart
    known = apart[np.isfinite(apart)]
    return float(np.median(known)) if len(known) else float("nan")


def _directions(queries: np.ndarray, answers: np.ndarray) -> list[np.ndarray]:
    """Unit vectors, float32; what has no direction stays 0, and is as near to one answer as to all."""
    found = [np.asarray(values, dtype=np.float32) for values in (queries, answers)]
    finite = all(np.isfinite(values).all() for values in found)
    if found[0].ndim != 2 or found[0].shape != found[1].shape or not len(found[0]) or not finite:
        raise ValueError(
            "queries and answers must be finite, of one shape (n, d), a query and its right answer per row, found "
            f"shapes {found[0].shape} and {found[1].shape}" + ("" if finite else ", with NaN or infinite numbers")
        )
    lengths = [np.linalg.norm(values, axis=-1, keepdims=True) for values in found]
    return [values / np.where(length > 0, length, 1) for values, length in zip(found, lengths, strict=True)]


def _check_count(k: int, most: int) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"a count must be from 1 to {most}, as many as there are, found {k}")


def _chunks(count: int, size: int) -> Iterator[np.ndarray]:
    yield from np.split(np.arange(count), range(size, count, size))


# Properties ---------------------------------------------------------------------------------------


def pair_properties(pairs: Sequence[GalaxyPair]) -> dict[str, np.ndarray]:
    """The labels that are judged, by name, shape (n,); NaN where a spectrum has none.

    Args:
        pairs: The pairs.
    """
    found = {name: [label_number(spectrum, name) for spectrum, _ in pairs] for name in PROPERTIES}
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}  # None becomes NaN


def property_tasks(pairs: Sequence[GalaxyPair], split: Split) -> list[Task]:
    """What is to be told of galaxies: their redshift, and the logarithm of their stellar mass.

    Args:
        pairs: All pairs.
        split: Which of them methods learn from, choose by and are judged on. No galaxy may be in two parts.

    Raises:
        ValueError: If a label is missing, or a galaxy is in two parts.
    """
    spectra, properties = [spectrum for spectrum, _ in pairs], pair_properties(pairs)
    if missing := {name: count for name, values in properties.items() if (count := int(np.isnan(values).sum()))}:
        raise ValueError(f"each of {len(pairs)} pairs needs all labels, found some without: {missing}; drop them")
    shared: dict[str, Any] = {"spectra": spectra, "splits": [split], "groups": object_groups(spectra)}
    tasks = [Task(name="redshift", kind="redshift", labels=properties["redshift"], **shared)]
    for name in list(PROPERTIES)[1:]:
        named = {"name": name, "target_names": (name,), "target_units": (PROPERTIES[name],)}
        tasks.append(Task(kind="regression", labels=properties[name][:, None], **(shared | named)))
    return tasks


def property_methods(
    embeddings: PairEmbeddings,
    pairs: Sequence[GalaxyPair],
    *,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> dict[str, Method]:
    """Ways to tell properties of galaxies by their names in tables; aligned embeddings, then what they should beat.

    Nearest neighbours train nothing ("zero-shot" in the paper), the perceptron is small ("few-shot"). "shuffled" has
    embeddings of other galaxies: what a method says that knows the distribution of labels and nothing else. "alone" is
    the encoder of spectra before its alignment. What it divides away, and raw flux as well, stands beside it in
    "and level", the logarithm of the median flux: aligned embeddings hold it. Photometry is that of the images' labels
    `measured_mag_g`, ..., where all have them, else that of a wide aperture; "two apertures" has a narrow one besides.

    Args:
        embeddings: Of all pairs of the tasks.
        pairs: These pairs.
        neighbours: How many neighbours say it, neither more nor fewer; 4 of them do as well.
        seed: Seed of the shuffle.

    Raises:
        ValueError: If there is not at least one neighbour.
        ImportError: If scikit-learn is not installed.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, found {neighbours}")
    order = np.random.default_rng(seed).permutation(len(pairs))
    inputs = {kind: getattr(embeddings, kind) for kind in KINDS}
    inputs |= {f"{kind}, shuffled": rows[order] for kind, rows in inputs.items()}
    level = flux_level([spectrum for spectrum, _ in pairs])
    if (encoder := embeddings.encoder) is not None:
        inputs |= {"spectrum encoder alone": encoder, "spectrum encoder alone, and level": np.hstack([encoder, level])}
    images = [image for _, image in pairs]
    inner, whole = band_magnitudes(images, radius=APERTURES[0]), _photometry(images)
    inputs |= {f"photometry ({', '.join(images[0].bands)})": whole}
    inputs |= {"photometry, two apertures": np.hstack([inner, whole])}
    ways: dict[str, Callable[[Mapping[str, np.ndarray]], Method]] = {
        f"{count}-NN": partial(knn, neighbours=(count,)) for count in dict.fromkeys((neighbours, FEW_NEIGHBOURS))
    }
    ways["MLP"] = partial(mlp_probe, hidden=HIDDEN, dropout=DROPOUT)
    methods = {f"{said}: {way}": make(_for_all(rows)) for said, rows in inputs.items() for way, make in ways.items()}
    for said, beside in (("raw flux", None), ("raw flux and level", level)):
        methods |= {f"{said}: PCA + ridge": pca_ridge(beside=beside), f"{said}: PCA + MLP": flux_mlp(beside=beside)}
    return methods | {"constant": constant()}


def flux_level(spectra: Sequence[Spectrum]) -> np.ndarray:
    """Logarithm (to base 10) of the median flux of spectra, shape (n, 1); NaN where that is not positive.

    Args:
        spectra: Spectra of one unit of flux, each with a good pixel.
    """
    medians = np.array([np.median(spectrum.flux[spectrum.good]) for spectrum in spectra], dtype=np.float64)
    return np.log10(np.where(medians > 0, medians, np.nan))[:, None]


def band_magnitudes(images: Sequence[SkyImage], *, radius: float = APERTURES[-1]) -> np.ndarray:
    """Magnitudes (asinh, of a flux in nanomaggies) of what lies at the centre of images, shape (n, bands).

    Bad pixels count as the mean of the good ones of the aperture; a band without any is NaN.

    Args:
        images: Images of the same bands.
        radius: Of the aperture, arcsec.

    Raises:
        ValueError: If bands differ.
    """
    if len(found := {image.bands for image in images}) > 1:
        raise ValueError(f"images must have the same bands, found {sorted(found)}: take the common ones")
    flux = np.array([_aperture_flux(image, radius) for image in images])
    return 22.5 - 2.5 / np.log(10) * (np.arcsinh(flux / (2 * SOFTENING)) + np.log(SOFTENING))


def _photometry(images: Sequence[SkyImage]) -> np.ndarray:
    """Magnitudes of whole galaxies, shape (n, bands): those measured without neighbours, if all are known."""
    names = [f"measured_mag_{band}" for band in images[0].bands]
    if all(name in image.labels for image in images for name in names):
        known = np.array([[image.labels[name] for name in names] for image in images], dtype=np.float64)
        return np.where(np.isfinite(known), known, np.nan)
    return band_magnitudes(images, radius=APERTURES[-1])


def _aperture_flux(image: SkyImage, radius: float) -> np.ndarray:
    """Nanomaggies of each band, shape (bands,)."""
    _, height, width = image.flux.shape
    y, x = np.ogrid[:height, :width]
    inside = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2) * image.pixel_scale <= radius
    good = inside & image.good
    count = good.sum((1, 2))
    total = np.where(good, image.flux, 0).sum((1, 2), dtype=np.float64)
    return np.divide(total * inside.sum(), count, out=np.full(len(count), np.nan), where=count > 0)


def _for_all(rows: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(PROPERTIES, rows)


__all__ = [
    "DIRECTIONS",
    "PairEmbeddings",
    "alignment_loss",
    "answer_ranks",
    "band_magnitudes",
    "embed_pairs",
    "flux_level",
    "nearest_others",
    "observe_again",
    "pair_properties",
    "property_methods",
    "property_tasks",
    "retrieval_rows",
]
