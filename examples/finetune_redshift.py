"""Redshifts of galaxies and quasars, with a posterior each: train a head on a pretrained model.

    python examples/finetune_redshift.py --simulate boss desi
    python examples/finetune_redshift.py examples/configs/finetune_redshift.yaml
    python examples/finetune_redshift.py --data my_spectra --catalogue zall-pix-iron.fits --cuts desi-dr1

The label is `redshift` of the spectra; stars are left out, unless their class is not known. The posterior spans
-0.01 < z < 6 (--config_overrides '{"redshift_range": [0, 1]}'). See `finetune.py` for what comes out.
"""

from pathlib import Path

import numpy as np
import torch
from finetune import DataArguments, Script, run, save

from spectok_hf import AutoModelForRedshift, Spectrum
from spectok_hf.analysis.plots import signal_to_noise
from spectok_hf.analysis.task_plots import (
    plot_error_by_snr,
    plot_flag_reliability,
    plot_pit,
    plot_predicted_true,
    plot_residual_boxes,
)
from spectok_hf.evaluation.adaptation import SMOOTHING, redshift_pit
from spectok_hf.evaluation.metrics import load_metric
from spectok_hf.evaluation.scores import velocity_limits
from spectok_hf.models.redshift_posterior import LIGHT_SPEED


def labelled(spectrum: Spectrum, data: DataArguments) -> bool:
    """Whether a spectrum has a redshift, and is no star."""
    return np.isfinite(float(spectrum.labels.get("redshift", np.nan))) and spectrum.labels.get("class") != "STAR"


def redshifts(spectra: list[Spectrum]) -> np.ndarray:
    """Redshift of each, shape (n,), float32."""
    return np.array([float(spectrum.labels["redshift"]) for spectrum in spectra], dtype=np.float32)


def classes(spectra: list[Spectrum]) -> np.ndarray:
    """Class of each; one without a class is judged as a galaxy."""
    return np.array([str(spectrum.labels.get("class") or "GALAXY") for spectrum in spectra])


def metrics(predicted) -> dict[str, float]:
    """NMAD and outlier fraction of the validation spectra, and the share that is not flagged."""
    pair = {"predictions": predicted.predictions[0], "references": predicted.label_ids}
    figures = {name: load_metric(name).compute(**pair)[name] for name in ("nmad", "outlier_fraction")}
    return figures | {"unflagged": float((predicted.predictions[3] == 0).mean())}


def plot(folder: Path, spectra: list[Spectrum], outputs, model) -> None:
    """Predicted against true, error against S/N, residuals against redshift, PIT, and what the flag is worth."""
    truth, predicted = outputs["truth"], outputs["redshift"]
    error = (predicted - truth) / (1 + truth)
    limits = velocity_limits(len(spectra), classes(spectra))
    snr = np.array([signal_to_noise(spectrum) for spectrum in spectra])
    pit = redshift_pit(model, torch.from_numpy(outputs["posterior"]), torch.from_numpy(truth))
    save(plot_predicted_true(truth, predicted, name="redshift"), folder / "redshift.png")
    save(plot_error_by_snr(error, snr, name="redshift error / (1 + z)"), folder / "redshift_by_snr.png")
    boxes = plot_residual_boxes(error, truth, name="redshift error / (1 + z)", against_name="true redshift")
    save(boxes, folder / "redshift_residuals.png")
    save(plot_pit(pit), folder / "pit.png")
    correct = np.abs(error) * LIGHT_SPEED < limits
    save(plot_flag_reliability(correct, outputs["confidence"], outputs["zwarn"]), folder / "flag.png")


SCRIPT = Script(
    name="finetune-redshift",
    kind="redshift",
    auto_class=AutoModelForRedshift,
    labelled=labelled,
    # With a million spectra there is no need of it: --config_overrides '{"redshift_smoothing": 0}'.
    fields=lambda spectra, data: {"redshift_smoothing": SMOOTHING},
    labels=lambda spectra, config: redshifts(spectra),
    task=lambda spectra, config: {"labels": redshifts(spectra), "object_classes": classes(spectra)},
    outputs=("redshift", "uncertainty", "confidence", "zwarn", "posterior"),
    metrics=metrics,
    plot=plot,
    smoke={"simulate": ["boss"]},
)


def main(argv: list[str] | None = None) -> list[dict[str, object]]:
    """Train, calibrate, judge, save; arguments are those of the command line."""
    return run(SCRIPT, argv, __doc__)


if __name__ == "__main__":
    main()
