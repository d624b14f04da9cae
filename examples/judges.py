"""How `pretrain.py` judges what it trains: by reconstruction, by what it puts into holes, or by retrieval of views."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from spectok_hf import SpecTokForPreTraining, Spectrum, SpectrumProcessor, plot_reconstruction
from spectok_hf.analysis.plots import true_runs
from spectok_hf.data.dataset import by_survey
from spectok_hf.data.spectrum_side import as_read
from spectok_hf.data.views import DataCollatorForContrastiveSpectra, ObservationPairs
from spectok_hf.evaluation.contrastive import project_views, retrieval_accuracy
from spectok_hf.evaluation.masked import evaluation_chunks, masked_error, predict_tokens, summarize_masked
from spectok_hf.evaluation.reconstruction import (
    fit_baselines,
    format_table,
    judge_by_truth,
    score_spectra,
    summarize,
)

HOLE_COLOR = "#009E73"


class ReconstructionJudge:
    """Judges reconstructions as `spectok_hf.evaluation.reconstruction` does, beside linear baselines.

    Args:
        processor: The processor of the model.
        sample: Training spectra, to which the baselines are fitted.
        latent_size: Channels of a token, which the baselines have as well.
        simulated: Surveys to judge by the noise-free truth in the end.
    """

    def __init__(
        self, processor: SpectrumProcessor, sample: Sequence[Spectrum], latent_size: int, simulated: Sequence[str]
    ):
        self.processor, self.simulated = processor, simulated
        self.baselines = fit_baselines(sample, processor, latent_size)
        self.truth_rows: list[dict[str, object]] = []  # of `judge_by_truth`, once there is a report

    def figures(self, model: SpecTokForPreTraining, spectra: Sequence[Spectrum]) -> dict[str, float]:
        """Figures of the held-out spectra of a survey, by name.

        Args:
            model: The model.
            spectra: The spectra.
        """
        row = summarize(score_spectra(model, self.processor, spectra, self.baselines), model.config.latent_size)[0]
        return {name.replace(" ", "_"): value for name, value in row.items() if isinstance(value, float)}

    def draw(self, model: SpecTokForPreTraining, spectrum: Spectrum, path: Path) -> None:
        """Draw one of them.

        Args:
            model: The model.
            spectrum: The spectrum.
            path: PNG file to write.
        """
        save_plot(model, self.processor, spectrum, path)

    def report(self, model: SpecTokForPreTraining, held_out: Sequence[Spectrum]) -> str:
        """The tables of a finished model.

        Args:
            model: The model.
            held_out: Held-out spectra.
        """
        rows = summarize(score_spectra(model, self.processor, held_out, self.baselines), model.config.latent_size)
        text = f"Held-out spectra, medians of chi2 per pixel:\n\n{format_table(rows)}"
        self.truth_rows = judge_by_truth(model, self.processor, self.simulated, self.baselines)
        if self.truth_rows:
            text += f"\n\nChi2 per pixel against the noise-free truth, medians:\n\n{format_table(self.truth_rows)}"
        return text


class MaskedJudge:
    """Judges a masked model by what it puts into holes, as `spectok_hf.evaluation.masked` does, beside plain guesses.

    Args:
        processor: The processor of the model.
        seed: Seed of what is hidden; the same every time.
    """

    truth_rows: Sequence[dict[str, object]] = ()

    def __init__(self, processor: SpectrumProcessor, seed: int = 0):
        self.processor, self.seed = processor, seed

    def figures(self, model: PreTrainedModel, spectra: Sequence[Spectrum]) -> dict[str, float]:
        """As `ReconstructionJudge.figures`."""
        row = summarize_masked(masked_error(model, self.processor, spectra, seed=self.seed))[0]
        return {f"masked_{name.replace(', ', '_')}": value for name, value in row.items() if isinstance(value, float)}

    def draw(self, model: PreTrainedModel, spectrum: Spectrum, path: Path) -> None:
        """Draw what was hidden of one of them, and what the model put there.

        Args:
            model: The model.
            spectrum: The spectrum.
            path: PNG file to write.
        """
        spectrum = as_read(self.processor, spectrum)
        feature = self.processor.patch(spectrum)
        hidden = evaluation_chunks(spectrum, feature, model.config, seed=self.seed)
        predicted = predict_tokens(model, self.processor, [feature], [hidden])[0][:, 2:]
        covered = np.repeat((hidden & (feature["attention_mask"] > 0))[:, None], predicted.shape[1], axis=1)
        outputs = {"reconstruction": predicted[None], "coverage": covered[None]}
        put_there = self.processor.post_process_reconstruction(outputs, spectrum)[0]
        wavelength = self.processor.patch_pixels(spectrum, spectrum.wavelength)  # in its own medium
        holes = [wavelength[first:stop] for first, stop in true_runs(hidden)]
        draw_reconstruction(spectrum, put_there, path, holes=holes)

    def report(self, model: PreTrainedModel, held_out: Sequence[Spectrum]) -> str:
        """As `ReconstructionJudge.report`."""
        rows = summarize_masked(masked_error(model, self.processor, held_out, seed=self.seed))
        return f"Held-out spectra, mean squared errors of what was hidden:\n\n{format_table(rows)}"


class RetrievalJudge:
    """Judges a contrastive model by how often the nearest of all views is the other one of the same object.

    Args:
        collator: Makes the views; those of evaluation are the same every time.
    """

    truth_rows: Sequence[dict[str, object]] = ()

    def __init__(self, collator: DataCollatorForContrastiveSpectra):
        self.collator = collator

    def figures(self, model: SpecTokForPreTraining, spectra: Sequence[Spectrum]) -> dict[str, float]:
        """As `ReconstructionJudge.figures`."""
        found = retrieval_accuracy(*project_views(model, self.collator, ObservationPairs(spectra)))
        return {"retrieval_accuracy": found, "retrieval_chance": 1 / (2 * len(spectra) - 1)}

    def draw(self, model: SpecTokForPreTraining, spectrum: Spectrum, path: Path) -> None:
        """There is nothing to draw of one spectrum."""

    def report(self, model: SpecTokForPreTraining, held_out: Sequence[Spectrum]) -> str:
        """As `ReconstructionJudge.report`."""
        rows = [
            {"survey": survey, "spectra": len(group)} | self.figures(model, group)
            for survey, group in by_survey(held_out).items()
        ]
        rows.append({"survey": "all", "spectra": len(held_out)} | self.figures(model, held_out))
        return f"Held-out spectra, share whose other view is the nearest of all:\n\n{format_table(rows)}"


Judge = ReconstructionJudge | MaskedJudge | RetrievalJudge


def save_plot(model: PreTrainedModel, processor: SpectrumProcessor, spectrum: Spectrum, path: Path) -> None:
    """Write the reconstruction of one spectrum, where matplotlib is installed.

    Args:
        model: The model.
        processor: Its processor.
        spectrum: The spectrum to reconstruct.
        path: PNG file to write.
    """
    inputs = processor(spectrum, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        outputs = model.reconstruct(**inputs)
    draw_reconstruction(spectrum, processor.post_process_reconstruction(outputs, spectrum)[0], path)


def draw_reconstruction(
    spectrum: Spectrum, reconstruction: Spectrum, path: Path, *, holes: Sequence[np.ndarray] = ()
) -> None:
    """Write a spectrum with its reconstruction, where matplotlib is installed.

    Args:
        spectrum: The spectrum.
        reconstruction: Its reconstruction.
        path: PNG file to write.
        holes: Wavelengths in Å of what was hidden, 0 in the padding; their ranges are shaded.
    """
    try:
        import matplotlib
    except ImportError:
        warnings.warn('no plots: pip install "spectok-hf[plot]" for them', stacklevel=2)
        return
    matplotlib.use("agg")
    axes = plot_reconstruction(spectrum, reconstruction)
    if holes:
        axes[0].set_title("shaded green: hidden from the model", fontsize="small", loc="right")
    for wavelength in holes:
        real = wavelength[wavelength > 0]
        axes[0].axvspan(real.min(), real.max(), color=HOLE_COLOR, alpha=0.12, lw=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    axes[0].figure.savefig(path, dpi=100)
    matplotlib.pyplot.close(axes[0].figure)
