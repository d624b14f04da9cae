"""Which parts of a spectrum an answer rests on: a number per patch, and a picture of them along wavelength.

Occlusion is the measure to trust: what it says is what happens. Gradients hold for small changes only, and attention
tells where a model looked, not what it made of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.spectrum_side import check_tokens
from ..models.patches import find_segments
from ..models.redshift_posterior import redshift_position
from ..models.spectrum import Spectrum, check_choice
from ..models.wavelength import LIGHT_SPEED
from .plots import (
    LINE_COLOR,
    SMALL,
    TINY,
    flux_limits,
    import_pyplot,
    mark_lines,
    set_wavelength_axis,
    shade_bad,
    unit_text,
    wavelength_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS = ("occlusion", "gradient", "attention", "rollout")
FOR_COLOR, AGAINST_COLOR = "#0072B2", "#E69F00"
STRIP = 0.26  # share of the axes, at their foot, that the bars of `plot_attribution` have
EMBEDDING = "embedding"
LEAST_ODDS = 1e-12  # probability that is told from 0

Measure = Callable[[Any], torch.Tensor]


@dataclass(frozen=True)
class Attribution:
    """How much each patch of one spectrum matters.

    Args:
        edges: First and last wavelength of each patch in Å, in the spectrum's medium, shape (num_patches, 2).
        values: Shape (num_patches,), NaN for a patch that was not read. See `attribute` for their meaning by method.
        method: One of `METHODS`.
        answer: What they explain, as text with its unit.
    """

    edges: np.ndarray
    values: np.ndarray
    method: str
    answer: str

    @property
    def wavelength(self) -> np.ndarray:
        """Middle of each patch in Å, shape (num_patches,)."""
        return self.edges.mean(-1)

    def strongest(self, count: int = 3) -> np.ndarray:
        """Middles in Å of the patches that matter most, whatever their sign, shape (count,) or fewer.

        Args:
            count: How many.
        """
        order = np.argsort(-np.nan_to_num(np.abs(self.values), nan=-1.0), kind="stable")
        return self.wavelength[order[: min(count, int(np.isfinite(self.values).sum()))]]


def attribute(
    model: Any,
    processor: Any,
    spectra: Any,
    *,
    method: str = "occlusion",
    target: str | None = None,
    batch_size: int = 32,
) -> Any:
    """How much each patch of a spectrum matters for what a model says of it.

    | method | value of a patch | costs |
    |---|---|---|
    | "occlusion" | answer less the answer without the patch; positive: it speaks for the answer | a pass per patch |
    | "gradient" | gradient of the answer by the flux, times the flux, summed over good pixels | two passes |
    | "attention" | share of a head's attention over an even share; the mean of its queries | a pass |
    | "rollout" | the same of an encoder's layers (Abnar & Zuidema 2020, arXiv 2005.00928) | a pass |

    The answer that is explained is the log-odds of a class, a quantity in its unit, or the log-odds that the redshift
    is the predicted one; of an encoder its embedding, whose value is how far it moves over its length.

    Where patches overlap, occlusion takes a patch away together with those that share pixels with it, or they would
    go on saying what it said; the gradient of a pixel is split between the patches that it lies in.

    Args:
        model: A task head, an encoder or an autoencoder. It is run as in evaluation.
        processor: Its processor.
        spectra: A `Spectrum`, or a list of them; each needs a valid patch.
        method: See above; "gradient" and "attention" need a head.
        target: Class or quantity; None = the class that is predicted, the first quantity.
        batch_size: Copies of a spectrum, each without one patch, that go through the model at a time.

    Returns:
        An `Attribution`, or a list of them.

    Raises:
        ValueError: If the method is unknown or needs a head that is not there, the target is none of the model's, a
            spectrum has no valid patch or is none, or the model reads pictures.
    """
    check_choice("method", method, METHODS)
    instead = "ask a model of spectra, or a method for image classifiers on processor.draw(spectrum)"
    check_tokens(processor, type(model).__name__, "an attribution", instead)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    values_of = {"occlusion": _occlusion, "gradient": _gradient, "attention": _attention, "rollout": _rollout}[method]
    single = isinstance(spectra, Spectrum)
    if not hasattr(model, "head"):
        model = getattr(model, "base_model", model)  # it is the encoder that answers
    found = []
    with _evaluating(model):
        for spectrum in [spectra] if single else spectra:
            if not isinstance(spectrum, Spectrum):
                raise ValueError(f"spectra must be Spectrum objects, found {spectrum!r:.60}: pass read_spectra(...)")
            inputs = processor(spectrum, on_invalid="raise", return_tensors="pt").to(model.device)
            edges = _patch_edges(spectrum, processor)
            values, answer = values_of(model, inputs, target, batch_size, _sharing(edges))
            values = np.where(inputs["attention_mask"][0].cpu().numpy() > 0, values, np.nan)
            found.append(Attribution(edges, values, method, answer))
    return found[0] if single else found


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def pixels_of_patches(spectrum: Spectrum, processor: Any) -> np.ndarray:
    """Which pixel of a spectrum stands where, shape (num_patches, patch_size), -1 = padding.

    Args:
        spectrum: The spectrum.
        processor: Cuts it.
    """
    return processor.patch_pixels(spectrum, np.arange(1, len(spectrum) + 1)) - 1


def _patch_edges(spectrum: Spectrum, processor: Any) -> np.ndarray:
    index = pixels_of_patches(spectrum, processor)
    return spectrum.wavelength[np.stack([index[:, 0], index.max(-1)], axis=-1)]


def _sharing(edges: np.ndarray) -> np.ndarray:
    """Which patches have pixels in common, shape (num_patches, num_patches), bool; each has with itself."""
    first, last = edges.T
    return (first[:, None] <= last) & (first <= last[:, None])


# The measures -------------------------------------------------------------------------------------


def _occlusion(
    model: Any, inputs: Any, target: str | None, batch_size: int, sharing: np.ndarray
) -> tuple[np.ndarray, str]:
    with torch.no_grad():
        outputs = model(**inputs)
        measure, answer = _measure(model, outputs, target)
        full = measure(outputs)[0]
        valid = inputs["attention_mask"][0] > 0
        values = torch.full(valid.shape, torch.nan)
        hidden = torch.from_numpy(sharing).to(valid.device)
        for patches in valid.nonzero()[:, 0].split(batch_size):
            batch = {name: value.expand(len(patches), *value.shape[1:]) for name, value in inputs.items()}
            shown = batch["attention_mask"].masked_fill(hidden[patches], 0)
            without = measure(model(**batch | {"attention_mask": shown}))
            values[patches.cpu()] = (full - without).float().cpu()
    return values.numpy(), answer


def _gradient(
    model: Any, inputs: Any, target: str | None, batch_size: int, sharing: np.ndarray
) -> tuple[np.ndarray, str]:
    flux = inputs["flux"].clone().requires_grad_()
    with torch.enable_grad():
        outputs = model(**inputs | {"flux": flux})
        measure, answer = _measure(model, outputs, target)
        if answer == EMBEDDING:
            raise ValueError('method="gradient" needs a task head, found an encoder: use "occlusion" or "rollout"')
        (slope,) = torch.autograd.grad(measure(outputs).sum(), flux)
    product = torch.where(inputs["pixel_mask"] > 0, slope * flux, 0).sum(-1)
    return product[0].detach().float().cpu().numpy(), answer


def _attention(
    model: Any, inputs: Any, target: str | None, batch_size: int, sharing: np.ndarray
) -> tuple[np.ndarray, str]:
    pooling = getattr(getattr(getattr(model, "head", None), "adapter", None), "pooling", None)
    if pooling is None:
        raise ValueError(
            f'method="attention" needs a task head of head_type="attention", found {type(model).__name__}: use '
            '"occlusion" or "rollout"'
        )
    kept: list[torch.Tensor] = []
    hook = pooling.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    try:
        with torch.no_grad():
            encoded = model.base_model(**inputs)
            states = encoded[model.config.head_input]
            outputs = model.adapt(states, encoded.token_wavelength, encoded.attention_mask)
    finally:
        hook.remove()
    valid = encoded.attention_mask[0] > 0
    with torch.no_grad():
        keys = pooling.split_heads(pooling.k_proj(kept[0]))[0]  # (heads, num_patches, head_dim)
        queries = pooling.split_heads(pooling.queries[None])[0]
        scores = queries @ keys.transpose(-1, -2) / pooling.head_dim**0.5
        weights = scores.masked_fill(~valid, -torch.inf).softmax(-1).mean((0, 1))
    return (weights * valid.sum()).float().cpu().numpy(), _measure(model, outputs, target)[1]


def _rollout(
    model: Any, inputs: Any, target: str | None, batch_size: int, sharing: np.ndarray
) -> tuple[np.ndarray, str]:
    encoder = getattr(model.base_model, "spectrum_model", model.base_model)  # of a model of spectra and images
    usual = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")  # the others keep no weights
    try:
        with torch.no_grad():
            outputs = encoder(**inputs, output_attentions=True)
    finally:
        encoder.set_attn_implementation(usual)
    valid = outputs.attention_mask[0] > 0
    further = outputs.attentions[0].shape[-1] - len(valid)  # tokens before the patches, which are no patch's
    read = torch.nn.functional.pad(valid, (further, 0), value=True)
    rolled = torch.eye(int(read.sum()), device=valid.device)
    for weights in outputs.attentions:
        layer = weights[0].float().mean(0)[read][:, read]
        rolled = (layer + torch.eye(len(layer), device=valid.device)) / 2 @ rolled
    values = torch.full(valid.shape, torch.nan)
    values[valid.cpu()] = (rolled[further:].mean(0) * len(rolled))[further:].cpu()
    return values.numpy(), EMBEDDING


def _measure(model: Any, outputs: Any, target: str | None) -> tuple[Measure, str]:
    """What is explained: a function from outputs to a number per spectrum, and its name."""
    if target is not None and ("posterior" in outputs or not {"predictions", "logits"} & set(outputs)):
        raise ValueError(f"target must be None for {type(model).__name__}, which has but one, found {target!r}")
    if "posterior" in outputs:
        return _redshift_measure(model.config, outputs)
    if "predictions" in outputs:
        return _quantity_measure(model.config, target)
    if "logits" in outputs:
        return _class_measure(model.config, outputs, target)
    whole = outputs.pooler_output
    return lambda made: -(made.pooler_output - whole).norm(dim=-1) / whole.norm(), EMBEDDING


def _class_measure(config: Any, outputs: Any, target: str | None) -> tuple[Measure, str]:
    names = [config.id2label[number] for number in range(len(config.id2label))]
    if target is None:
        target = names[int(outputs.logits[0].argmax())]
    check_choice("target", target, tuple(names))
    own = torch.tensor([name == target for name in names], device=outputs.logits.device)

    def log_odds(made: Any) -> torch.Tensor:
        return made.logits[:, own][:, 0] - made.logits[:, ~own].logsumexp(-1)

    return log_odds, f"log-odds of {target}"


def _quantity_measure(config: Any, target: str | None) -> tuple[Measure, str]:
    names = list(config.target_names)
    target = names[0] if target is None else target
    check_choice("target", target, tuple(names))
    place = names.index(target)
    unit = config.target_units[place] if config.target_units else ""
    return lambda made: made.predictions[:, place], f"{target} [{unit}]" if unit else target


def _redshift_measure(config: Any, outputs: Any) -> tuple[Measure, str]:
    redshift = outputs.redshift[:1].detach()
    nodes = torch.arange(outputs.posterior.shape[-1], device=redshift.device)
    span = np.log1p(config.redshift_range[1]) - np.log1p(config.redshift_range[0])
    reach = max(config.redshift_velocity / LIGHT_SPEED / span * len(nodes), 1.0)
    near = (nodes - redshift_position(config, redshift)).abs() <= reach

    def log_odds(made: Any) -> torch.Tensor:
        inside = torch.where(near, made.posterior, 0).sum(-1)
        outside = torch.where(near, 0, made.posterior).sum(-1)
        return inside.clamp(min=LEAST_ODDS).log() - outside.clamp(min=LEAST_ODDS).log()

    return log_odds, f"log-odds of z = {float(redshift[0]):.4f}"


# The picture --------------------------------------------------------------------------------------


def plot_attribution(
    spectrum: Spectrum,
    attribution: Attribution,
    *,
    redshift: float | None = None,
    kind: str | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """A spectrum, and at the foot of its axes a bar for how much each patch matters; with the names of lines.

    Bars above their base line are blue and speak for the answer, those below it are orange and hatched, and speak
    against it. Where there is no bar, nothing was read. The scale stands at the right.

    Args:
        spectrum: The spectrum.
        attribution: Its attribution.
        redshift: See `mark_lines`.
        kind: See `mark_lines`.
        ax: Where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: If the attribution is of another grid, or the kind is unknown.
        ImportError: If matplotlib is not installed.
    """
    _check_grid(spectrum, attribution)
    ax = import_pyplot().subplots(figsize=(10, 3.8), layout="constrained")[1] if ax is None else ax
    flux = np.where(spectrum.good, spectrum.flux, np.nan)
    for segment in find_segments(spectrum.wavelength):
        ax.plot(spectrum.wavelength[segment], flux[segment], color="k", lw=0.6)
    shade_bad(spectrum, (ax,))
    set_wavelength_axis(ax, spectrum)
    low, high = flux_limits(spectrum) or (0.0, 1.0)
    height = high - low or abs(high) or 1.0
    ax.set_ylim(low - (STRIP + 0.04) / (0.88 - STRIP) * height, high + 0.12 * height)
    ax.set_yticks([tick for tick in ax.get_yticks() if low - 0.06 * height <= tick <= high + 0.12 * height])
    ax.fill_between([0, 1], 0, STRIP, transform=ax.transAxes, color="w", lw=0, zorder=2.2)
    draw_bars(ax, attribution, foot=0.0, height=STRIP)
    ax.set_ylabel(f"flux{unit_text(spectrum.flux_unit)}", fontsize=SMALL)
    ax.set_xlabel(wavelength_text(spectrum), fontsize=SMALL)
    ax.tick_params(labelsize=SMALL)
    title = f"{spectrum.name}: {attribution.method}, {attribution.answer}"
    ax.set_title(title, loc="left", fontsize="medium")
    return mark_lines(ax, spectrum=spectrum, redshift=redshift, kind=kind)


def draw_bars(ax: "Axes", attribution: Attribution, *, foot: float = 0.0, height: float = 1.0) -> None:
    """Bars of an attribution in a part of axes, with the value of the longest one beside it.

    Their heights grow as the square root of the values, or one patch would often be all that is seen. Where patches
    overlap, their bars meet in the middle.

    Args:
        ax: Axes whose x axis is wavelength in Å, with its limits set.
        attribution: The attribution.
        foot: Where the part begins, as a share of the axes' height.
        height: Its height, likewise.
    """
    known = np.isfinite(attribution.values)
    values = np.where(known, attribution.values, 0.0)
    best = float(values[np.argmax(np.abs(values))])
    heights = np.sign(values) * np.sqrt(np.abs(values / (best or 1.0)))
    up, down = (float(np.clip(sign * heights, 0, None).max()) for sign in (1, -1))
    scale = 0.9 * height / ((up + down) or 1.0)
    base = foot + 0.05 * height + down * scale
    transform = ax.get_xaxis_transform()
    edges = _bar_edges(attribution.edges)
    widths = np.diff(edges)[:, 0]
    for sign, color, hatch in ((1, FOR_COLOR, ""), (-1, AGAINST_COLOR, "////")):
        chosen = sign * heights > 0
        ax.bar(
            edges[chosen, 0],
            heights[chosen] * scale,
            widths[chosen],
            bottom=base,
            align="edge",
            color=color,
            hatch=hatch,
            edgecolor="w" if hatch else color,
            lw=0.2,
            zorder=2.5,
            transform=transform,
            gid="attribution",
        )
    ax.plot([0, 1], [base, base], color=LINE_COLOR, lw=0.5, transform=ax.transAxes, zorder=2.6)
    ax.annotate(
        f"{best:+,.0f}" if abs(best) >= 100 else f"{best:+.2g}",
        (1, base + np.sign(best) * scale),
        (3, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        va="center",
        fontsize=TINY,
        annotation_clip=False,
    )


def _bar_edges(edges: np.ndarray) -> np.ndarray:
    """First and last wavelength of bars that do not cover each other, shape (num_patches, 2)."""
    first, last = edges.T.copy()
    middle = (last[:-1] + first[1:]) / 2
    shared = last[:-1] >= first[1:]
    last[:-1] = np.where(shared, middle, last[:-1])
    first[1:] = np.where(shared, middle, first[1:])
    return np.stack([first, last], axis=-1)


def _check_grid(spectrum: Spectrum, attribution: Attribution) -> None:
    first, last = attribution.edges[0, 0], attribution.edges[-1, 1]
    if not (first == spectrum.wavelength[0] and last == spectrum.wavelength[-1]):
        raise ValueError(
            f"the attribution must be of the spectrum's own grid, found {first:.1f}-{last:.1f} Å and {spectrum!r}: "
            "pass the spectrum that was attributed"
        )


__all__ = ["METHODS", "Attribution", "attribute", "draw_bars", "pixels_of_patches", "plot_attribution"]
