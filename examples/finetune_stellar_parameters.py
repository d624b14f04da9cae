"""Teff, log g, [Fe/H], or any labels of stars: train a head on a pretrained model.

    python examples/finetune_stellar_parameters.py --simulate apogee
    python examples/finetune_stellar_parameters.py examples/configs/finetune_stellar_parameters.yaml
    python examples/finetune_stellar_parameters.py --data lamost --catalogue labels.csv --on obsid --targets teff

Every star with at least one of the --targets counts; what is missing is ignored. Each prediction comes with a standard
deviation, which is calibrated on validation stars. See `finetune.py` for what comes out.
"""

from pathlib import Path

import numpy as np
from finetune import DataArguments, Script, run, save

from spectok_hf import AutoModelForStellarRegression, Spectrum
from spectok_hf.analysis.plots import signal_to_noise
from spectok_hf.analysis.task_plots import plot_coverage, plot_error_by_snr, plot_predicted_true, plot_residual_boxes
from spectok_hf.data.labels import target_fields, target_labels
from spectok_hf.evaluation.metrics import load_metric


def labelled(spectrum: Spectrum, data: DataArguments) -> bool:
    """Whether a spectrum has a number for one of the targets."""
    return any(np.isfinite(float(spectrum.labels.get(name, np.nan))) for name in data.targets)


def fields(spectra: list[Spectrum], data: DataArguments) -> dict:
    """Names, units, means and spreads of the targets."""
    return target_fields(spectra, data.targets) | {"predict_uncertainty": True}


def metrics(predicted) -> dict[str, float]:
    """R² and scaled MAD of each target, by its number."""
    figures = {}
    values = predicted.predictions[0] if isinstance(predicted.predictions, tuple) else predicted.predictions
    for column in range(predicted.label_ids.shape[-1]):
        pair = {"predictions": values[:, column], "references": predicted.label_ids[:, column]}
        for name in ("r_squared", "scaled_mad"):
            figures[f"{name}_{column}"] = load_metric(name).compute(**pair)[name]
    return figures


def plot(folder: Path, spectra: list[Spectrum], outputs, model) -> None:
    """For each target predicted against true, error against S/N and against the truth, and the calibration curve."""
    snr = np.array([signal_to_noise(spectrum) for spectrum in spectra])
    for column, (name, unit) in enumerate(zip(model.config.target_names, model.config.target_units, strict=True)):
        truth, predicted = outputs["truth"][:, column], outputs["predictions"][:, column]
        claimed = outputs["uncertainties"][:, column] if "uncertainties" in outputs else None
        shown = {"name": name, "unit": unit}
        save(plot_predicted_true(truth, predicted, uncertainty=claimed, **shown), folder / f"{name}.png")
        save(plot_error_by_snr(predicted - truth, snr, **shown), folder / f"{name}_by_snr.png")
        against = {"against_name": f"true {name}", "against_unit": unit}
        save(plot_residual_boxes(predicted - truth, truth, **shown, **against), folder / f"{name}_residuals.png")
        if claimed is not None:
            save(plot_coverage(predicted - truth, claimed, label=name), folder / f"{name}_calibration.png")


SCRIPT = Script(
    name="finetune-stellar-parameters",
    kind="regression",
    auto_class=AutoModelForStellarRegression,
    labelled=labelled,
    fields=fields,
    labels=lambda spectra, config: target_labels(spectra, config.target_names),
    task=lambda spectra, config: {
        "labels": target_labels(spectra, config.target_names),
        "target_names": config.target_names,
        "target_units": config.target_units,
    },
    outputs=("predictions", "uncertainties"),
    metrics=metrics,
    plot=plot,
    smoke={"simulate": ["apogee"]},
)


def main(argv: list[str] | None = None) -> list[dict[str, object]]:
    """Train, calibrate, judge, save; arguments are those of the command line."""
    return run(SCRIPT, argv, __doc__)


if __name__ == "__main__":
    main()
