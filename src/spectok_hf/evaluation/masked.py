"""How well a masked model puts back what was hidden from it, beside guesses that need no model.

What is hidden are chunks of neighbouring tokens, as in training, but the same ones of a spectrum every time. Figures
are in the unit of the model: a spectrum's fluxes have variance 1, so that its mean, 0, has a squared error of about 1.
Errors of the observed flux count as the model's: `noise` says what they make of it.

It judges OmniSpectra and Specformer. A token of the first holds mean and standard deviation beside its fluxes, and has
figures of all of these; of the second there are fluxes alone.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig

from ..data.collators import draw_chunks
from ..data.dataset import survey_name
from ..models.checkpoints import check_processor
from ..models.masked_pretraining import SpectrumModelForMaskedPreTraining
from ..models.modeling_omnispectra import OmniSpectraForPreTraining, patch_values
from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum

SEED = 0  # of what is hidden
BATCH_SIZE = 8  # spectra per forward pass
GUESSES = ("model", "interpolation", "mean")
PIXELS = ("wavelength", "flux")


@dataclass
class MaskedScore:
    """Mean squared errors over what was hidden of one spectrum, NaN where nothing was.

    Args:
        survey: Survey of the spectrum.
        tokens: Valid tokens that were hidden.
        pixels: Good pixels of these tokens; where tokens overlap, most count twice, as they do in the loss.
        flux: By what was put there, the error of these pixels' fluxes: "model"; "interpolation", a straight line
            across the hole between the means of the tokens beside it; "mean", the mean of the spectrum.
        token: The same of all numbers of these tokens, mean and standard deviation first: the loss of training, and
            the figure of the paper (arXiv 2601.15351, Table 7). Empty of a model that predicts fluxes alone, whose
            loss is the error of these.
        noise: Mean squared error that the observed fluxes have themselves, by their stated errors.
    """

    survey: str
    tokens: int
    pixels: int
    flux: dict[str, float] = field(default_factory=dict)
    token: dict[str, float] = field(default_factory=dict)
    noise: float = np.nan


def chunk_options(config: PreTrainedConfig) -> dict[str, object]:
    """What collators must be told to hide what a model is trained on.

    Args:
        config: Of a masked model.
    """
    return {"hide": "chunks", **config.masking}


def evaluation_chunks(
    spectrum: Spectrum, feature: Mapping[str, np.ndarray], config: PreTrainedConfig, *, seed: int = SEED
) -> np.ndarray:
    """The tokens that are hidden from the model, shape (num_patches,): of a spectrum the same, wherever it stands.

    Args:
        spectrum: The spectrum.
        feature: What `SpectrumProcessor.patch` made of it.
        config: The model's.
        seed: Seed of the draw.
    """
    identity = zlib.crc32(str(spectrum.object_id).encode() + feature["pixel_mask"].tobytes())
    rng = np.random.default_rng([seed, identity])
    return draw_chunks(len(feature["flux"]), rng, **config.masking)


def masked_error(
    model: SpectrumModelForMaskedPreTraining,
    processor: SpectrumProcessor,
    spectra: Sequence[Spectrum],
    *,
    seed: int = SEED,
    batch_size: int = BATCH_SIZE,
    by_length: bool = True,
) -> list[MaskedScore]:
    """Scores of spectra that the model was not trained on.

    Args:
        model: The model; it is put into evaluation mode and back.
        processor: Its processor.
        spectra: Spectra with a valid patch each.
        seed: Seed of what is hidden.
        batch_size: Spectra per forward pass.
        by_length: Whether spectra of like length share a batch: faster, and all the same to a model that heeds what is
            valid; else the spectra are taken in their order.

    Returns:
        One score per spectrum, in order.

    Raises:
        ValueError: If the model is none that is trained so, or the processor is not its own.
    """
    if not isinstance(model, SpectrumModelForMaskedPreTraining):
        raise ValueError(
            "masked_error needs a model that is trained to fill hidden chunks, OmniSpectraForPreTraining or "
            f"SpecformerForPreTraining, found {type(model).__name__}: evaluation.reconstruction judges autoencoders"
        )
    check_processor(model.config, processor)
    features = [processor.patch(spectrum) for spectrum in spectra]
    pairs = zip(spectra, features, strict=True)
    hidden = [evaluation_chunks(spectrum, feature, model.config, seed=seed) for spectrum, feature in pairs]
    predicted = predict_tokens(model, processor, features, hidden, batch_size=batch_size, by_length=by_length)
    whole = isinstance(model, OmniSpectraForPreTraining)
    return [
        _score(spectrum, feature, hole, tokens, whole=whole)
        for spectrum, feature, hole, tokens in zip(spectra, features, hidden, predicted, strict=True)
    ]


def predict_tokens(
    model: SpectrumModelForMaskedPreTraining,
    processor: SpectrumProcessor,
    features: Sequence[Mapping[str, np.ndarray]],
    hidden: Sequence[np.ndarray],
    *,
    batch_size: int = BATCH_SIZE,
    by_length: bool = True,
) -> list[np.ndarray]:
    """What the model says of every token, each (num_patches, patch_size + 2).

    Args:
        model: The model; it is put into evaluation mode and back.
        processor: Its processor.
        features: What `SpectrumProcessor.patch` made of the spectra.
        hidden: Tokens of each that the model is not shown, shape (num_patches,), True = hidden.
        batch_size: Spectra per forward pass.
        by_length: As for `masked_error`.
    """
    results: list[np.ndarray] = [np.empty(0)] * len(features)
    training = model.training
    model.eval()
    for rows in _batches(features, batch_size, by_length):
        batch = processor.pad([dict(features[row]) for row in rows], return_tensors="pt").to(model.device)
        hole = pad_sequence([torch.from_numpy(hidden[row]) for row in rows], batch_first=True).to(model.device)
        with torch.inference_mode():
            outputs = model(**batch, bool_masked_pos=hole, return_loss=False)
        for row, tokens in zip(rows, outputs.token_predictions.float().cpu().numpy(), strict=True):
            results[row] = tokens[: len(hidden[row])]
    model.train(training)
    return results


def summarize_masked(scores: Sequence[MaskedScore]) -> list[dict[str, object]]:
    """One row per survey, and one of all where there are several: means over spectra, as the loss is one.

    Args:
        scores: Scores of spectra of any surveys.
    """
    surveys = list(dict.fromkeys(score.survey for score in scores))
    groups = [(survey, [score for score in scores if score.survey == survey]) for survey in surveys]
    return [_row(survey, group) for survey, group in [*groups, *([("all", scores)] if len(groups) > 1 else [])]]


def _row(survey: str, scores: Sequence[MaskedScore]) -> dict[str, object]:
    row: dict[str, object] = {
        "survey": survey,
        "spectra": len(scores),
        "hidden tokens": sum(score.tokens for score in scores),
    }
    row |= {f"flux, {name}": _mean([score.flux[name] for score in scores]) for name in GUESSES}
    row["flux, noise"] = _mean([score.noise for score in scores])
    if not all(score.token for score in scores):
        return row
    return row | {f"token, {name}": _mean([score.token[name] for score in scores]) for name in GUESSES}


def _batches(features: Sequence[Mapping[str, np.ndarray]], batch_size: int, by_length: bool) -> Iterator[np.ndarray]:
    lengths = [len(feature["flux"]) for feature in features]
    order = np.argsort(lengths, kind="stable") if by_length else np.arange(len(lengths))
    if lengths:
        yield from np.split(order, range(batch_size, len(order), batch_size))


def _score(
    spectrum: Spectrum,
    feature: Mapping[str, np.ndarray],
    hidden: np.ndarray,
    predicted: np.ndarray,
    *,
    whole: bool,
) -> MaskedScore:
    """The score of one spectrum; `whole` says whether all numbers of its tokens are predicted, or fluxes alone."""
    chosen = hidden & (feature["attention_mask"] > 0)
    good = feature["pixel_mask"][chosen] > 0
    flux, error = feature["flux"][chosen], feature["error"][chosen]
    counted = np.pad(good, [(0, 0), (2, 0)], constant_values=True)  # mean and standard deviation always
    truth = _token_values(flux, good)
    guesses = {
        "model": predicted[chosen],
        "interpolation": _token_values(_interpolate(feature, hidden)[chosen], good),
        "mean": np.zeros_like(truth),
    }
    return MaskedScore(
        survey=survey_name(spectrum),
        tokens=int(chosen.sum()),
        pixels=int(good.sum()),
        flux={name: _mean((values[:, 2:] - flux)[good] ** 2) for name, values in guesses.items()},
        token={name: _mean((values - truth)[counted] ** 2) for name, values in guesses.items()} if whole else {},
        noise=_mean(error[good] ** 2),
    )


def _token_values(flux: np.ndarray, good: np.ndarray) -> np.ndarray:
    """What tokens hold, as the model reads them, shape (n, patch_size + 2)."""
    return patch_values(torch.from_numpy(flux.astype(np.float32)), torch.from_numpy(good)).numpy()


def _interpolate(feature: Mapping[str, np.ndarray], hidden: np.ndarray) -> np.ndarray:
    """A line through the means of the tokens that are shown, shape (num_patches, patch_size), level beyond its ends.

    From single pixels on either side of a hole their noise makes it two to three times worse on simulated APOGEE and
    GALAH stars.
    """
    good = feature["pixel_mask"] > 0
    shown = (feature["attention_mask"] > 0) & ~hidden
    if not shown.any():
        return np.zeros_like(feature["flux"])  # the mean of the spectrum
    wavelength, flux = (feature[name][shown].mean(-1, where=good[shown], dtype=np.float64) for name in PIXELS)
    return np.interp(feature["wavelength"], wavelength, flux)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else float("nan")


__all__ = [
    "MaskedScore",
    "chunk_options",
    "evaluation_chunks",
    "masked_error",
    "predict_tokens",
    "summarize_masked",
]
