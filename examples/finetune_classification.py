"""Star, galaxy or quasar: train a head on a pretrained model.

    python examples/finetune_classification.py --simulate sdss desi
    python examples/finetune_classification.py examples/configs/finetune_classification.yaml
    python examples/finetune_classification.py --data my_spectra --catalogue specObj-dr17.fits --cuts sdss-dr17

The label is `class` of the spectra. --freeze_backbone false --learning_rate 1e-4 trains everything, --lora_rank 8
little more than the head; examples/configs/spectrum-vit-tiny.yaml draws spectra as pictures for a vision transformer.
See `finetune.py` for what comes out.
"""

from pathlib import Path

import numpy as np
from finetune import BALANCES, DataArguments, Script, run, save

from spectok_hf import AutoModelForSpectrumClassification, Spectrum
from spectok_hf.analysis.task_plots import plot_confusion
from spectok_hf.data.labels import class_fields, class_labels
from spectok_hf.evaluation.metrics import load_metric


def labelled(spectrum: Spectrum, data: DataArguments) -> bool:
    """Whether a spectrum has a class."""
    return bool(spectrum.labels.get("class"))


def fields(spectra: list[Spectrum], data: DataArguments) -> dict:
    """Classes and their weights."""
    return class_fields(spectra, balance=BALANCES[data.balance][0])


def metrics(predicted) -> dict[str, float]:
    """Accuracy and macro F1 of the validation spectra."""
    numbers = {"predictions": predicted.predictions.argmax(-1), "references": predicted.label_ids}
    figures = load_metric("class_accuracy").compute(**numbers)
    return {"accuracy": figures["accuracy"], "macro_f1": load_metric("macro_f1").compute(**numbers)["macro_f1"]}


def plot(folder: Path, spectra: list[Spectrum], outputs, model) -> None:
    """Confusion matrix."""
    names = list(model.config.id2label.values())
    predicted = [names[number] for number in outputs["logits"].argmax(-1)]
    save(plot_confusion(outputs["truth"], predicted, names), folder / "confusion.png")


SCRIPT = Script(
    name="finetune-classification",
    kind="classification",
    auto_class=AutoModelForSpectrumClassification,
    labelled=labelled,
    fields=fields,
    labels=lambda spectra, config: class_labels(spectra, config.label2id),
    task=lambda spectra, config: {"labels": np.array([str(s.labels["class"]) for s in spectra])},
    outputs=("logits",),
    metrics=metrics,
    plot=plot,
    smoke={"simulate": ["sdss"]},
)


def main(argv: list[str] | None = None) -> list[dict[str, object]]:
    """Train, calibrate, judge, save; arguments are those of the command line."""
    return run(SCRIPT, argv, __doc__)


if __name__ == "__main__":
    main()
