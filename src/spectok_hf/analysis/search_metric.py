"""What "alike" means in a `SpectrumIndex`: metrics in which noise makes no strangers of two spectra of one object.

Embeddings are means over all patches, and most of what differs between two of them is noise: in their own space, the
nearest neighbour of a spectrum is another spectrum of its object one time in ten. The tokens hold far more. The
"noise" metric takes their means in segments of wavelength, measures what noise does to them by adding noise to spectra
within their own errors, and keeps the directions in which objects differ most in units of that (linear discriminants
whose classes are spectra and their noisier copies; no label is used).

Tokens of many channels (SpecTok has 8, OmniSpectra hundreds) are first reduced to the principal ones, or the matrices
would have billions of numbers.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..data.domain import OutOfDomainWarning
from ..models.spectrum import Spectrum, check_choice

OF_TOKENS = ("noise", "profile")
METRICS = (*OF_TOKENS, "embedding", "cosine")
MOST_CHANNELS = 32  # of a token
LEAST_VARIANCE = 1e-8  # of a channel, over the largest: what is below is rounding, and would be scaled up
SEGMENTS = 32  # of a range of wavelength
GAP = 0.25  # in ln(wavelength), between ranges: optical and infrared, but not the arms of a spectrograph
NODES = 8  # per segment: patches that are missing are interpolated, so that a segment is always of the same place
DIMENSIONS = 14  # of a range
TYLER_STEPS = 3
MOST_SPECTRA, LEAST_COPIES, MOST_COPIES = 3000, 3, 12
ENOUGH_COPIES = 1500  # of all spectra together, where that takes no more than MOST_COPIES of each
ADDED_NOISE = (0.3, 2.0)  # in units of a spectrum's own errors
ENCODED_AT_A_TIME = 256  # spectra, of whose tokens most channels are thrown away
MOST_BAD = 0.9  # share of pixels of a copy
SHRINKAGE = 1e-2  # of the covariance of embeddings
LEAST_COVERAGE = 0.02  # share of the spectra that reach a segment, for it to count
LEAST_SHARE = 0.5  # of a window that a spectrum says something of; what is missing is interpolated
NEAR = 1.5  # patches between a wavelength and the nearest token that says something of it


class Tokens(Protocol):
    """The tokens of a spectrum, as `SpectrumEncoder.encode(..., output="tokens")` gives them."""

    @property
    def values(self) -> np.ndarray:
        """Shape (valid patches, channels)."""

    @property
    def wavelength(self) -> np.ndarray:
        """Å, shape (valid patches,)."""


class ReducedTokens(NamedTuple):
    """Tokens of a spectrum with fewer channels.

    Args:
        values: Shape (valid patches, channels).
        wavelength: Å, shape (valid patches,).
    """

    values: np.ndarray
    wavelength: np.ndarray


@dataclass(frozen=True, eq=False)
class Metric:
    """A map from embeddings, or tokens, to vectors whose Euclidean distance says how much unlike spectra are.

    Args:
        name: One of `METRICS`.
        arrays: What it is made of: `mean` and `width` of the inputs, the `projection`, the `edges` of the segments in
            Å where it reads tokens, and the `token_noise`, which makes noise of a token's channels equal; and the
            `channels` to which tokens are reduced, where they have many.
        fingerprint: Of the encoder of the spectra that it was fitted to; None = not known.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    fingerprint: str | None = None

    @property
    def reads_tokens(self) -> bool:
        """Whether it takes tokens, or else embeddings."""
        return self.name in OF_TOKENS

    def vectors(self, inputs: Any) -> np.ndarray:
        """Vectors of spectra, shape (n, dimensions), float32.

        Args:
            inputs: Embeddings, shape (n, d), or tokens of n spectra.

        Raises:
            ValueError: If embeddings or tokens have another width than those of the index.
        """
        if self.reads_tokens:
            values = profile(reduce_tokens(inputs, self.arrays.get("channels")), self.arrays["edges"])
        else:
            values = np.asarray(inputs, dtype=np.float64)
        width = self.arrays["mean"].shape[-1]
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(f"the metric of the index takes {width} numbers a spectrum, found shape {values.shape}")
        vectors = _scaled(values, self.arrays["mean"], self.arrays["width"]) @ self.arrays["projection"]
        if self.name != "noise":  # the angle counts
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return vectors.astype(np.float32)


def fit_metric(
    name: str,
    encoder: Any,
    spectra: Sequence[Spectrum],
    tokens: Sequence[Tokens] | None,
    embeddings: np.ndarray,
    *,
    seed: int = 0,
) -> Metric:
    """The metric of a name, fitted to spectra.

    Args:
        name: One of `METRICS`, or "auto": "cosine" for an encoder of a space that images share, "embedding" for one
            of pictures, else "noise" from 3 spectra on.
        encoder: A `SpectrumEncoder`.
        spectra: The spectra.
        tokens: Their tokens; None = there are none, of pictures.
        embeddings: Their embeddings, shape (n, d).
        seed: Seed of the noise.

    Raises:
        ValueError: If there is no such metric, or spectra are too few for it.
    """
    check_choice("metric", name, ("auto", *METRICS))
    if name == "auto" and made_for_angles(encoder):
        name = "cosine"
    if tokens is not None and (name == "noise" or (name == "auto" and len(spectra) >= 3)):
        return noise_metric(encoder, spectra, tokens, seed=seed)
    return fit_embedded(name, embeddings, tokens)


def fit_embedded(name: str, embeddings: np.ndarray, tokens: Sequence[Tokens] | None) -> Metric:
    """The metric of a name, fitted without spectra.

    Args:
        name: "profile", "embedding", "cosine", or "auto": "profile" where there are tokens, else "embedding".
        embeddings: Shape (n, d).
        tokens: Tokens of each spectrum; None = there are none.

    Raises:
        ValueError: If there is no such metric, or it needs what is not there.
    """
    check_choice("metric", name, ("auto", *METRICS))
    if name == "noise":
        raise ValueError(
            'metric "noise" is measured on spectra: pass the metric of an index that was built from some '
            f"(metric=other.metric), or one of {', '.join(METRICS[1:])}"
        )
    if name == "profile" or (name == "auto" and tokens is not None):
        if tokens is None:
            raise ValueError('metric "profile" compares tokens, and there are none: embed with tokens=True')
        return profile_metric(tokens)
    return cosine_metric(embeddings.shape[1]) if name == "cosine" else embedding_metric(embeddings)


def made_for_angles(encoder: Any) -> bool:
    """Whether an encoder's embeddings are of a space that a contrastive loss made, which spectra and images share.

    Args:
        encoder: A `SpectrumEncoder`, or None.
    """
    config = getattr(getattr(encoder, "model", None), "config", None)
    return getattr(config, "model_type", None) == "astroclip"


def of_encoder(metric: Metric, about: Mapping[str, Any]) -> Metric:
    """A metric with the fingerprint of its encoder.

    Args:
        metric: The metric.
        about: `checkpoint` and `fingerprint` of the encoder of an index.

    Raises:
        ValueError: If the metric is of another encoder.
    """
    known = about.get("fingerprint")
    if metric.fingerprint and known and metric.fingerprint != known:
        raise ValueError(
            f"the metric was fitted with other weights ({metric.fingerprint[:12]}) than those of "
            f"{about.get('checkpoint')} ({known[:12]}): pass that of an index of the same checkpoint"
        )
    return replace(metric, fingerprint=metric.fingerprint or known)


def vectors_of(
    metric: Metric, tokens: Sequence[Tokens] | None, embeddings: np.ndarray, ids: Sequence[str]
) -> np.ndarray:
    """Vectors of spectra, shape (n, dimensions), with a warning where the metric says nothing of some of them.

    Args:
        metric: The metric.
        tokens: Their tokens, if the metric reads them.
        embeddings: Their embeddings, shape (n, d).
        ids: Their names.

    Raises:
        ValueError: If it says nothing of any of them, or needs tokens, and there are none.
    """
    if not metric.reads_tokens:
        return metric.vectors(embeddings)
    if tokens is None:
        raise ValueError(f'metric "{metric.name}" compares tokens, and there are none: embed with tokens=True')
    vectors = metric.vectors(tokens)
    lost = np.flatnonzero(~vectors.any(1))
    if len(lost) == len(ids):
        raise ValueError(
            "the metric tells none of these spectra from another: they are all the same, or it was fitted to spectra "
            'of other wavelengths: pass metric="auto", or that of a larger index'
        )
    if len(lost):
        named = ", ".join(ids[row] for row in lost[:3])
        warnings.warn(
            f"{len(lost)} of {len(ids)} spectra have no wavelength in common with enough others, and cannot be "
            f"compared with them: {named}",
            stacklevel=3,
        )
    return vectors


def embedding_metric(embeddings: np.ndarray) -> Metric:
    """The angle between embeddings in the space where theirs are of equal variance in all directions.

    Args:
        embeddings: Shape (n, d).
    """
    values = np.asarray(embeddings, dtype=np.float64)
    mean = values.mean(0)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov((values - mean).T, bias=True)))
    projection = axes / np.sqrt(variance.clip(0) + SHRINKAGE * (variance.mean() or 1.0))
    return Metric("embedding", {"mean": mean, "width": np.ones_like(mean), "projection": projection})


def cosine_metric(width: int) -> Metric:
    """The angle between embeddings as they are: for a space that was made for angles, as by a contrastive loss.

    Across kinds, as from spectra to images, it is what that loss compared. `embedding_metric` would measure one kind's
    vectors in a space that was whitened for the other's, and find the right image of a spectrum as often as chance
    does (2.8 % among the first 10 of 500, for 17 % by this one). To take each kind's own mean away changes nothing.

    Args:
        width: Numbers of an embedding.
    """
    plain = {"mean": np.zeros(width), "width": np.ones(width), "projection": np.eye(width)}
    return Metric("cosine", plain)


def profile_metric(tokens: Sequence[Tokens], *, segments: int = SEGMENTS) -> Metric:
    """The angle between means of tokens in segments of wavelength, standardised: for tokens without their spectra.

    Args:
        tokens: Tokens of each spectrum.
        segments: Number of segments of a range of wavelength.
    """
    edges = segment_edges(tokens, segments)
    axes = principal_channels(tokens)
    reduced = reduce_tokens(tokens, axes)
    profiles = profile(reduced, edges)
    if len(tokens) > 1:
        mean, width = _statistics(profiles)
    else:  # one spectrum differs in nothing: its own direction is what others are compared with
        mean, width = np.zeros(profiles.shape[1]), np.where(np.isfinite(profiles[0]), 1, np.inf)
    channels = np.concatenate([np.asarray(one.values, dtype=np.float64) for one in reduced])
    arrays = {"edges": edges, "mean": mean, "width": width, "projection": np.eye(len(mean))}
    whitening = np.diag(1 / np.where(spread := channels.std(0), spread, 1))
    return Metric("profile", arrays | _of_channels(whitening, axes))


def noise_metric(
    encoder: Any,
    spectra: Sequence[Spectrum],
    tokens: Sequence[Tokens],
    *,
    segments: int = SEGMENTS,
    dimensions: int = DIMENSIONS,
    seed: int = 0,
) -> Metric:
    """The distance between spectra in units of what noise does to them, where objects differ most from each other.

    Each of at most 3000 spectra is encoded 3 times more, and up to 12 times where there are few, with noise added: 0.3
    to 2 times its own errors, and the bad pixels of another spectrum of its survey.

    Args:
        encoder: A `SpectrumEncoder`.
        spectra: The spectra, with errors that can be trusted.
        tokens: Their tokens.
        segments: Number of segments of a range of wavelength.
        dimensions: How many directions of a range count, at most.
        seed: Seed of the noise.

    Raises:
        ValueError: If there are fewer than 3 spectra: nothing tells then in what objects differ.
    """
    if len(spectra) < 3:
        raise ValueError(
            f'metric "noise" needs at least 3 spectra, found {len(spectra)}: pass the metric of a larger index, or '
            'metric="embedding"'
        )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(spectra))[:MOST_SPECTRA])
    sample, known = [spectra[row] for row in chosen], [tokens[row] for row in chosen]
    reduction = principal_channels(known)
    known = list(reduce_tokens(known, reduction))
    copies = int(np.clip(math.ceil(ENOUGH_COPIES / len(sample)), LEAST_COPIES, MOST_COPIES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutOfDomainWarning)  # copies are noisier on purpose
        noisy = [_encode(encoder, _noisy_copies(sample, rng), reduction) for _ in range(copies)]
    edges = segment_edges(known, segments)
    profiles = profile(known, edges)
    mean, width = _statistics(profiles)
    scaled = _scaled(profiles, mean, width)
    changed, token_changes = np.tile(scaled, (copies, 1)), []
    for first, copy in zip(range(0, len(changed), len(scaled)), noisy, strict=True):
        if not (kept := [row for row, one in enumerate(copy) if len(one.values)]):
            continue
        again = _scaled(profile([copy[row] for row in kept], edges), mean, width)
        changed[first + np.array(kept)] = again
        token_changes += [_common_change(known[row], copy[row]) for row in kept]
    channels = scaled.shape[1] // (len(edges) - 1)
    reaches = np.isfinite(profiles)
    blocks = []
    for columns in _ranges(edges, channels):
        rows = np.flatnonzero(reaches[:, columns].any(1))
        block, copied = scaled[rows][:, columns], changed.reshape(copies, *scaled.shape)[:, rows][:, :, columns]
        blocks.append((columns, _discriminants(block, (copied - block).reshape(-1, block.shape[1]), dimensions)))
    projection = np.zeros((scaled.shape[1], sum(axes.shape[1] for _, axes in blocks)))
    start = 0
    for columns, axes in blocks:
        projection[columns, start : start + axes.shape[1]] = axes
        start += axes.shape[1]
    arrays = {"edges": edges, "mean": mean, "width": width, "projection": projection}
    whitening = _whitening(_shape_of(np.concatenate(token_changes or [np.empty((0, channels))])))
    return Metric("noise", arrays | _of_channels(whitening, reduction))


def _encode(encoder: Any, spectra: Sequence[Spectrum], axes: np.ndarray | None) -> Sequence[Tokens]:
    """Tokens of spectra, reduced; no more than is held of few channels is held of many at a time."""
    size = len(spectra) if axes is None else ENCODED_AT_A_TIME
    parts = [
        reduce_tokens(encoder.encode(spectra[first : first + size], output="tokens", on_invalid="mask"), axes)
        for first in range(0, len(spectra), size)
    ]
    return [one for part in parts for one in part]


def principal_channels(tokens: Sequence[Tokens]) -> np.ndarray | None:
    """What tokens are multiplied with to have at most 32 channels, shape (channels, 32 or fewer): their principal
    components.

    Args:
        tokens: Tokens of each spectrum.

    Returns:
        None where they have no more than that.
    """
    channels = next((one.values.shape[-1] for one in tokens if len(one.values)), 0)
    if channels <= MOST_CHANNELS:
        return None
    total, products, count = np.zeros(channels), np.zeros((channels, channels)), 0
    for one in tokens:
        values = np.asarray(one.values, dtype=np.float64).reshape(-1, channels)
        total, products, count = total + values.sum(0), products + values.T @ values, count + len(values)
    variance, axes = np.linalg.eigh(products / count - np.outer(total, total) / count**2)
    kept = np.flatnonzero(variance > LEAST_VARIANCE * variance[-1])[::-1][:MOST_CHANNELS]
    return np.ascontiguousarray(axes[:, kept])


def reduce_tokens(tokens: Sequence[Tokens], axes: np.ndarray | None) -> Sequence[Tokens]:
    """Tokens with fewer channels.

    Args:
        tokens: Tokens of each spectrum.
        axes: What `principal_channels` gave of those that the metric was fitted to; None = tokens stay as they are.

    Raises:
        ValueError: If tokens have another number of channels.
    """
    if axes is None:
        return tokens
    if other := {np.shape(one.values)[-1] for one in tokens if len(one.values)} - {len(axes)}:
        raise ValueError(f"the metric of the index takes {len(axes)} numbers a token, found {other.pop()}")
    return [
        ReducedTokens(np.asarray(one.values, dtype=np.float64).reshape(-1, len(axes)) @ axes, one.wavelength)
        for one in tokens
    ]


def _of_channels(whitening: np.ndarray, axes: np.ndarray | None) -> dict[str, np.ndarray]:
    """What a metric keeps of channels: their noise, as of tokens not reduced yet, and how they are reduced."""
    return {"token_noise": whitening} if axes is None else {"token_noise": axes @ whitening, "channels": axes}


def _ranges(edges: np.ndarray, channels: int) -> list[np.ndarray]:
    """Columns of a profile, range by range: an infrared spectrum shall not say what counts in an optical one."""
    middle = np.log((edges[1:] + edges[:-1]) / 2)
    # A segment that spans a gap belongs to neither side, and holds no token.
    parts = np.split(np.arange(len(middle)), np.flatnonzero(np.diff(np.log(edges)) > GAP))
    columns = np.arange(len(middle) * channels).reshape(len(middle), channels)
    return [columns[part].reshape(-1) for part in parts if len(part)]


def _discriminants(values: np.ndarray, changes: np.ndarray, count: int) -> np.ndarray:
    """Directions, shape (columns, count or fewer), in which values differ most in units of the changes."""
    whitening = _whitening(_shape_of(changes))
    spread, axes = np.linalg.eigh(np.atleast_2d(np.cov((values @ whitening).T)))
    order = np.argsort(-spread)[: min(count, len(values) - 1)]
    directions: np.ndarray = whitening @ axes[:, order]
    return directions


def segment_edges(tokens: Sequence[Tokens], segments: int = SEGMENTS) -> np.ndarray:
    """Edges of segments in Å: in each range of wavelength as many, and as wide in ln(wavelength) as data are there.

    Args:
        tokens: Tokens of each spectrum.
        segments: Number of segments of a range; ranges are parted by gaps of more than 0.25 in ln(wavelength).
    """
    places = np.concatenate([np.log(np.asarray(one.wavelength, dtype=np.float64)) for one in tokens])
    # A patch of high resolution is narrow: GALAH's would take nearly all segments from a spectrum of the same range.
    widths = np.concatenate([np.full(len(one.wavelength), _patch_width(one)) for one in tokens])
    order = np.argsort(places, kind="stable")
    places, widths = places[order], widths[order]
    edges = []
    for part in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) > GAP) + 1):
        covered = np.concatenate([[0.0], np.cumsum(widths[part])])
        known = np.concatenate([[places[part[0]]], places[part]])
        cuts = np.interp(np.linspace(0, covered[-1], segments + 1), covered, known)
        edges.append(np.exp(cuts + np.where(np.arange(segments + 1) == segments, 1e-4, 0)))
    edges[0][0] *= 1 - 1e-4
    return np.unique(np.concatenate(edges))


def _patch_width(tokens: Tokens) -> float:
    """Of a spectrum, in ln(wavelength)."""
    return float(np.median(np.diff(np.log(np.sort(tokens.wavelength))))) if len(tokens.wavelength) > 1 else 1e-3


def profile(tokens: Sequence[Tokens], edges: np.ndarray) -> np.ndarray:
    """Means of tokens in segments, shape (n, segments * channels); NaN where a spectrum does not reach.

    Args:
        tokens: Tokens of each spectrum.
        edges: Edges of the segments in Å.
    """
    shares = (np.arange(NODES) + 0.5) / NODES
    nodes = (edges[:-1, None] + np.diff(edges)[:, None] * shares).reshape(-1)
    rows = []
    for one in tokens:
        values = at_wavelengths(one, nodes).reshape(len(edges) - 1, NODES, -1)
        known = np.isfinite(values)
        count = known.sum(1)
        total = np.where(known, values, 0).sum(1)
        rows.append(np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).reshape(-1))
    return np.stack(rows)


def at_wavelengths(tokens: Tokens, wavelength: np.ndarray) -> np.ndarray:
    """Tokens interpolated between patches, shape (wavelengths, channels); NaN beyond the outermost patches.

    Args:
        tokens: Tokens of a spectrum.
        wavelength: Where, in Å.
    """
    order = np.argsort(tokens.wavelength)
    places = np.asarray(tokens.wavelength, dtype=np.float64)[order]
    values = np.asarray(tokens.values, dtype=np.float64)[order]
    if not len(places):
        return np.full((len(wavelength), values.shape[1]), np.nan)
    step = float(np.median(np.diff(places))) if len(places) > 1 else np.inf
    line = np.stack([np.interp(wavelength, places, channel) for channel in values.T], -1)
    line[(wavelength < places[0] - step) | (wavelength > places[-1] + step)] = np.nan
    return line


def covered_share(tokens: Tokens, wavelength: np.ndarray) -> float:
    """Share of wavelengths of which a spectrum says something, and not only the patches on either side of a gap.

    Args:
        tokens: Tokens of the spectrum.
        wavelength: In Å.
    """
    places = np.sort(np.asarray(tokens.wavelength, dtype=np.float64))
    if not len(places):
        return 0.0
    step = float(np.median(np.diff(places))) if len(places) > 1 else np.inf
    right = np.searchsorted(places, wavelength).clip(0, len(places) - 1)
    nearest = np.minimum(np.abs(places[right] - wavelength), np.abs(places[(right - 1).clip(0)] - wavelength))
    return float((nearest <= NEAR * step).mean())


def unless_gap(tokens: Tokens, wavelength: np.ndarray) -> np.ndarray:
    """As `at_wavelengths`, and NaN of a spectrum that says nothing of most of the wavelengths.

    Args:
        tokens: Tokens of a spectrum.
        wavelength: Where, in Å.
    """
    values = at_wavelengths(tokens, wavelength)
    return values if covered_share(tokens, wavelength) >= LEAST_SHARE else np.full_like(values, np.nan)


def _noisy_copies(spectra: Sequence[Spectrum], rng: np.random.Generator) -> list[Spectrum]:
    surveys: dict[str | None, list[Spectrum]] = {}
    for spectrum in spectra:
        surveys.setdefault(spectrum.survey, []).append(spectrum)
    return [_noisy_copy(one, surveys[one.survey][rng.integers(len(surveys[one.survey]))], rng) for one in spectra]


def _noisy_copy(spectrum: Spectrum, other: Spectrum, rng: np.random.Generator) -> Spectrum:
    """The spectrum with more noise, and bad where it or the other one is."""
    good, added = spectrum.good, rng.uniform(*ADDED_NOISE)
    error = np.where(good, spectrum.error, 0.0)
    nearest = np.searchsorted(other.wavelength, spectrum.wavelength).clip(0, len(other) - 1)
    both = good & other.good[nearest]
    mask = ~(both if both.mean() > 1 - MOST_BAD else good)
    flux = np.where(good, spectrum.flux + added * error * rng.normal(size=len(spectrum)), spectrum.flux)
    fields = {name: getattr(spectrum, name) for name in ("wavelength", "survey", "object_id", "medium", "frame")}
    return Spectrum(flux, ivar=spectrum.ivar / (1 + added**2), mask=mask, **fields)


def _common_change(first: Tokens, second: Tokens) -> np.ndarray:
    """What changed in the tokens of the patches that both have, shape (patches, channels)."""
    _, one, two = np.intersect1d(first.wavelength, second.wavelength, return_indices=True)
    return np.asarray(second.values, dtype=np.float64)[two] - np.asarray(first.values, dtype=np.float64)[one]


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column where it is known; width infinite, which drops it, where it says
    nothing.
    """
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values, 0).sum(0) / count
    width = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / count)
    usable = (known.mean(0) >= LEAST_COVERAGE) & (width > 1e-9 * np.maximum(np.abs(mean), 1e-9))
    return mean, np.where(usable, width, np.inf)


def _scaled(values: np.ndarray, mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Standardised values; 0, the mean, where missing."""
    scaled: np.ndarray = np.where(np.isfinite(values), values - mean, 0) / width
    return scaled


def _shape_of(changes: np.ndarray) -> np.ndarray:
    """Covariance in which each change weighs alike, however large it is, scaled to the typical one.

    Tyler's estimator (1987, Ann. Statist. 15, 234): noise of faint spectra is a hundred times that of bright ones, and
    theirs alone would count; also some copies lose an arm, which is no noise.
    """
    changes = changes[changes.any(1)]  # a copy that nothing was read of would weigh more than all others together
    covariance: np.ndarray = changes.T @ changes / max(len(changes), 1)
    for _ in range(TYLER_STEPS if len(changes) else 0):
        size = np.einsum("ij,jk,ik->i", changes, np.linalg.inv(_regular(covariance)), changes)
        weight = np.median(size) / np.maximum(size, 1e-9 * size.max() + np.finfo(np.float64).tiny)
        covariance = (changes * weight[:, None]).T @ changes / weight.sum()
    return covariance


def _regular(covariance: np.ndarray) -> np.ndarray:
    diagonal = np.diag(covariance)
    regular: np.ndarray = covariance + np.diag(1e-3 * diagonal + 1e-6 * (diagonal.max() or 1.0))
    return regular


def _whitening(covariance: np.ndarray) -> np.ndarray:
    variance, axes = np.linalg.eigh(_regular(covariance))
    whitening: np.ndarray = axes / np.sqrt(variance)
    return whitening


__all__ = [
    "METRICS",
    "Metric",
    "at_wavelengths",
    "cosine_metric",
    "covered_share",
    "embedding_metric",
    "fit_embedded",
    "fit_metric",
    "made_for_angles",
    "noise_metric",
    "of_encoder",
    "principal_channels",
    "profile",
    "profile_metric",
    "reduce_tokens",
    "segment_edges",
    "unless_gap",
    "vectors_of",
]
