"""How well spectra are reconstructed, beside the linear baselines (design, section 4).

Chi2 per pixel against the noisy input does not measure learning: the mean of every four pixels already gives 0.7-1.0
on real spectra, whose errors are partly overstated or correlated. So simulated spectra are judged against their
noise-free truth; real ones on pixels that the model was not shown, beside interpolation across the hole; and chi2 per
pixel stands beside that of a linear PCA of single patches with as many components as the tokens have channels.

All this is for autoencoders of patches side by side. A masked model of patches that overlap, OmniSpectra, says nothing
of what it was shown, and a pixel that one patch hides the next one shows: `masked` judges it.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..data.collators import DataCollatorForSpectra, hidden_runs
from ..data.dataset import by_survey, survey_name
from ..data.simulation import simulate_survey
from ..models.modeling_spectok import SpecTokForPreTraining
from ..models.patches import fill_gaps, patch_pca
from ..models.processing_spectok import SpectrumProcessor
from ..models.spectrum import Spectrum

TRUTH_SNR = (10, 30, 100)  # per pixel
HELD_OUT_SHARE = 0.1
BATCH_SIZE = 8  # spectra per forward pass
RELATIVE_ERROR_FLOOR = 0.005


class PatchPCA:
    """The linear autoencoder of single patches: what a token of `components` numbers can hold without context.

    Args:
        patches: Normalised flux of training patches without bad pixels, shape (n, patch_size), n >= 1.
        components: Number of components.
        weights: Weight of each patch, shape (n,); None = all alike, which gives the components to the strongest lines.
    """

    def __init__(self, patches: np.ndarray, components: int, weights: np.ndarray | None = None):
        self.mean, self.components = patch_pca(patches, components, weights)

    def reconstruct(self, patches: np.ndarray) -> np.ndarray:
        """Patches through the bottleneck, shape (n, patch_size)."""
        return (patches - self.mean) @ self.components.T @ self.components + self.mean


@dataclass
class SpectrumScore:
    """Figures of one spectrum; chi2 are means over the valid pixels of (difference / error)².

    Args:
        survey: Survey of the spectrum.
        snr: Median of flux / error over good pixels.
        pixels: Valid pixels.
        tokens: Valid patches.
        chi2: Chi2 of named reconstructions against the observed flux.
        truth: The same against the noise-free flux, of simulated spectra.
        held_out: Chi2 on pixels hidden from the model: "model" and "interpolation".
        noise: Squared scatter of second differences in units of the error: what chi2 per pixel a perfect model of
            the noise-free spectrum would reach, if the noise is white.
    """

    survey: str
    snr: float
    pixels: int
    tokens: int
    chi2: dict[str, float]
    truth: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    noise: float = np.nan


def clean_patches(features: Sequence[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Valid patches of many spectra, as a patch PCA wants them.

    Args:
        features: What `SpectrumProcessor.patch` returns, one per spectrum.

    Returns:
        Patches with their bad pixels filled as the model fills them, shape (n, patch_size), and their weights, shape
        (n,): the inverse of the mean variance, which includes 0.5 % of the flux, cut at its 98th percentile.
    """
    patches = np.concatenate([_filled(feature)[feature["attention_mask"] > 0] for feature in features])
    variances = np.concatenate([_patch_variance(feature)[feature["attention_mask"] > 0] for feature in features])
    weights = 1 / (variances + (RELATIVE_ERROR_FLOOR * np.abs(patches).mean(-1)) ** 2)
    return patches, np.minimum(weights, np.percentile(weights, 98))


def fit_baselines(
    spectra: Sequence[Spectrum], processor: SpectrumProcessor, components: int, *, max_patches: int = 200_000
) -> dict[str, PatchPCA]:
    """Patch PCAs of the training spectra: one per survey, under its name, and one of all surveys.

    The latter is fitted to the real spectra (under "real") and to the simulated ones ("simulated") apart, so that a
    mixture of both does not make it weaker on either.

    Args:
        spectra: Training spectra.
        processor: The processor of the model.
        components: Channels of a token.
        max_patches: Patches used for each fit, drawn at random beyond that.
    """
    groups = {survey: [processor.patch(s) for s in group] for survey, group in by_survey(spectra).items()}
    for origin in dict.fromkeys(map(_origin, spectra)):
        groups[origin] = [processor.patch(spectrum) for spectrum in spectra if _origin(spectrum) == origin]
    baselines = {}
    for survey, features in groups.items():
        patches, weights = _sample(*clean_patches(features), max_patches)
        baselines[survey] = PatchPCA(patches, components, weights)
    return baselines


def score_spectra(
    model: SpecTokForPreTraining,
    processor: SpectrumProcessor,
    spectra: Sequence[Spectrum],
    baselines: dict[str, PatchPCA],
    *,
    batch_size: int = BATCH_SIZE,
) -> list[SpectrumScore]:
    """Scores of spectra that the model was not trained on.

    Args:
        model: The model; it is put into evaluation mode and back.
        processor: Its processor.
        spectra: Spectra with a valid patch each.
        baselines: What `fit_baselines` returned.
        batch_size: Spectra per forward pass.

    Returns:
        One score per spectrum, in order.

    Raises:
        ValueError: If patches overlap, or the model has no decoder.
    """
    _check_autoencoder(model, processor)
    features = [processor.patch(spectrum) for spectrum in spectra]
    hidden = [_held_out(spectrum, feature) for spectrum, feature in zip(spectra, features, strict=True)]
    seen = _reconstruct(model, processor, features, None, batch_size)
    unseen = _reconstruct(model, processor, features, hidden, batch_size)
    return [
        _score(spectrum, processor, feature, baselines, flux, hole, guess)
        for spectrum, feature, flux, hole, guess in zip(spectra, features, seen, hidden, unseen, strict=True)
    ]


def summarize(scores: Sequence[SpectrumScore], latent_size: int) -> list[dict[str, object]]:
    """One row per survey: medians over its spectra, means in columns that say so.

    Args:
        scores: Scores of spectra of any surveys.
        latent_size: Channels of a token, for the compression.
    """
    rows = []
    for survey in dict.fromkeys(score.survey for score in scores):
        group = [score for score in scores if score.survey == survey]
        tokens = sum(score.tokens for score in group)
        row: dict[str, object] = {
            "survey": survey,
            "spectra": len(group),
            "pixels": sum(score.pixels for score in group),
            "tokens": tokens,
            "compression": sum(score.pixels for score in group) / (tokens * latent_size),
        }
        row |= _medians("chi2", [score.chi2 for score in group])
        row["chi2 model (mean)"] = float(np.mean([score.chi2["model"] for score in group]))
        row["noise floor"] = _median([score.noise for score in group])
        row |= _medians("held out", [score.held_out for score in group])
        row |= _medians("truth", [score.truth for score in group])
        rows.append(row)
    return rows


def judge_by_truth(
    model: SpecTokForPreTraining,
    processor: SpectrumProcessor,
    surveys: Sequence[str],
    baselines: dict[str, PatchPCA],
    *,
    spectra: int = 20,
    seed: int = 2510,
) -> list[dict[str, object]]:
    """Chi2 against the noise-free truth at fixed S/N per pixel: medians over new simulated spectra with honest errors.

    Args:
        model: The model.
        processor: Its processor.
        surveys: Surveys to simulate.
        baselines: What `fit_baselines` returned for a training set with simulated spectra.
        spectra: Spectra of each survey and S/N; the same objects at each.
        seed: Seed of the simulation; not the one of the training set.

    Raises:
        ValueError: As `score_spectra`.
    """
    _check_autoencoder(model, processor)
    rows = []
    for survey in surveys:
        row: dict[str, object] = {"survey": survey, "spectra": spectra}
        for snr in TRUTH_SNR:
            batch = simulate_survey(survey, spectra, seed, snr=snr, honest=True)
            truths = _truths(model, processor, batch, baselines)
            row |= {f"S/N {snr}, {name}": _median([truth[name] for truth in truths]) for name in truths[0]}
        rows.append(row)
    return rows


def format_table(rows: Sequence[dict[str, object]]) -> str:
    """Rows as a Markdown table; columns in the order in which they first occur.

    Args:
        rows: Dictionaries of column name to text or number.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)] + [[_cell(row.get(name)) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _check_autoencoder(model: SpecTokForPreTraining, processor: SpectrumProcessor) -> None:
    """Refuse what would get figures that mean something else."""
    if processor.patch_overlap or getattr(model.config, "objective", None) not in ("reconstruction", "masked"):
        raise ValueError(
            "these figures need an autoencoder of patches that do not overlap, such as SpecTokForPreTraining, found "
            f"{type(model).__name__} and patch_overlap={processor.patch_overlap}: judge a masked model with "
            "spectok_hf.evaluation.masked.masked_error"
        )


def _reconstruct(
    model: SpecTokForPreTraining,
    processor: SpectrumProcessor,
    features: Sequence[dict[str, np.ndarray]],
    hidden: Sequence[np.ndarray] | None,
    batch_size: int,
) -> list[np.ndarray]:
    """Normalised reconstructions, each (num_patches, patch_size); similar lengths share a batch."""
    collator = DataCollatorForSpectra(processor)
    results: list[np.ndarray] = [np.empty(0)] * len(features)
    training = model.training
    model.eval()
    for rows in _batches(features, batch_size):
        batch = collator([features[row] for row in rows])
        if hidden is not None:
            batch["bool_masked_pos"] = _pad_rows([hidden[row] for row in rows])
        batch = {name: value.to(model.device) for name, value in batch.items()}
        with torch.inference_mode():
            outputs = model(**batch, return_loss=False)
        for row, flux in zip(rows, outputs.reconstruction.float().cpu().numpy(), strict=True):
            results[row] = flux[: len(features[row]["flux"])]
    model.train(training)
    return results


def _batches(features: Sequence[dict[str, np.ndarray]], batch_size: int) -> Iterator[np.ndarray]:
    order = np.argsort([len(feature["flux"]) for feature in features], kind="stable")
    yield from np.split(order, range(batch_size, len(order), batch_size))


def _pad_rows(rows: list[np.ndarray]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.from_numpy(np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows]))


def _score(
    spectrum: Spectrum,
    processor: SpectrumProcessor,
    feature: dict[str, np.ndarray],
    baselines: dict[str, PatchPCA],
    reconstruction: np.ndarray,
    hole: np.ndarray,
    guess: np.ndarray,
) -> SpectrumScore:
    flux, error, valid = feature["flux"], feature["error"], _valid_pixels(feature)
    fluxes = _reconstructions(spectrum, feature, baselines, reconstruction)
    score = SpectrumScore(
        survey=survey_name(spectrum),
        snr=float(np.median(flux[valid] / error[valid])),
        pixels=int(valid.sum()),
        tokens=int(feature["attention_mask"].sum()),
        chi2={name: _chi2(flux, values, error, valid) for name, values in fluxes.items()},
        held_out={
            "model": _chi2(flux, guess, error, hole),
            "interpolation": _chi2(flux, _interpolate(feature, hole), error, hole),
        },
        noise=noise_floor(flux[valid], error[valid]),
    )
    if spectrum.truth is not None:
        score.truth = _chi2_of_truth(spectrum, processor, feature, fluxes)
    return score


def _truths(
    model: SpecTokForPreTraining,
    processor: SpectrumProcessor,
    spectra: Sequence[Spectrum],
    baselines: dict[str, PatchPCA],
) -> list[dict[str, float]]:
    """Chi2 against the truth of each spectrum; unlike its full score it needs no second pass with hidden pixels."""
    features = [processor.patch(spectrum) for spectrum in spectra]
    seen = _reconstruct(model, processor, features, None, BATCH_SIZE)
    return [
        _chi2_of_truth(spectrum, processor, feature, _reconstructions(spectrum, feature, baselines, flux))
        for spectrum, feature, flux in zip(spectra, features, seen, strict=True)
    ]


def _reconstructions(
    spectrum: Spectrum, feature: dict[str, np.ndarray], baselines: dict[str, PatchPCA], reconstruction: np.ndarray
) -> dict[str, np.ndarray]:
    """The model's reconstruction and those of the baselines that there are."""
    fluxes = {"model": reconstruction}
    for name, key in (("patch PCA", _origin(spectrum)), ("patch PCA of the survey", survey_name(spectrum))):
        if key in baselines:
            fluxes[name] = baselines[key].reconstruct(_filled(feature))
    return fluxes


def _chi2_of_truth(
    spectrum: Spectrum, processor: SpectrumProcessor, feature: dict[str, np.ndarray], fluxes: dict[str, np.ndarray]
) -> dict[str, float]:
    truth = processor.patch_pixels(spectrum, processor.normalize(spectrum, spectrum.truth))
    valid = _valid_pixels(feature)
    return {name: _chi2(truth, values, feature["error"], valid) for name, values in fluxes.items()}


def noise_floor(flux: np.ndarray, error: np.ndarray) -> float:
    """Squared robust scatter of second differences over what the errors predict for white noise.

    Args:
        flux: Flux of good pixels in the order of wavelength, shape (n,).
        error: Their errors, in the same unit.
    """
    if len(flux) < 3:
        return float("nan")
    difference = flux[:-2] - 2 * flux[1:-1] + flux[2:]
    expected = np.sqrt(error[:-2] ** 2 + 4 * error[1:-1] ** 2 + error[2:] ** 2)
    return float((1.4826 * np.median(np.abs(difference / expected))) ** 2)


def _valid_pixels(feature: dict[str, np.ndarray]) -> np.ndarray:
    return (feature["pixel_mask"] > 0) & (feature["attention_mask"] > 0)[:, None]


def _held_out(spectrum: Spectrum, feature: dict[str, np.ndarray]) -> np.ndarray:
    """The pixels hidden from the model: the same ones of a spectrum, wherever it stands in a list."""
    identity = str(spectrum.object_id).encode() + feature["pixel_mask"].tobytes()
    return hidden_runs(_valid_pixels(feature), HELD_OUT_SHARE, np.random.default_rng(zlib.crc32(identity)))


def _interpolate(feature: dict[str, np.ndarray], hole: np.ndarray) -> np.ndarray:
    """Linear interpolation across the hole, over the whole spectrum, shape of the flux."""
    shown = _valid_pixels(feature) & ~hole
    if not shown.any():
        return np.zeros_like(feature["flux"])
    return np.interp(feature["wavelength"], feature["wavelength"][shown], feature["flux"][shown])


def _filled(feature: dict[str, np.ndarray]) -> np.ndarray:
    known = torch.from_numpy(feature["pixel_mask"] > 0)
    return fill_gaps(torch.from_numpy(feature["flux"]), known).numpy()


def _origin(spectrum: Spectrum) -> str:
    return "real" if spectrum.truth is None else "simulated"


def _patch_variance(feature: dict[str, np.ndarray]) -> np.ndarray:
    """Mean squared error of the good pixels of each patch, shape (num_patches,)."""
    good = feature["pixel_mask"] > 0
    return np.where(good, feature["error"].astype(np.float64) ** 2, 0).sum(-1) / np.maximum(good.sum(-1), 1)


def _sample(patches: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    if len(patches) <= count:
        return patches, weights
    rows = np.random.default_rng(0).choice(len(patches), count, replace=False)
    return patches[rows], weights[rows]


def _chi2(flux: np.ndarray, model: np.ndarray, error: np.ndarray, pixels: np.ndarray) -> float:
    if not pixels.any():
        return float("nan")
    return float(np.mean(((flux[pixels] - model[pixels]) / error[pixels]) ** 2, dtype=np.float64))


def _medians(prefix: str, figures: list[dict[str, float]]) -> dict[str, object]:
    names = dict.fromkeys(name for figure in figures for name in figure)
    return {f"{prefix} {name}": _median([figure.get(name, np.nan) for figure in figures]) for name in names}


def _median(values: Sequence[float]) -> float:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)


__all__ = [
    "PatchPCA",
    "SpectrumScore",
    "clean_patches",
    "fit_baselines",
    "format_table",
    "judge_by_truth",
    "noise_floor",
    "score_spectra",
    "summarize",
]
