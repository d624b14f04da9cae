"""Pictures of spectra in the image classifiers that Transformers has: no model of ours."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoProcessor, Trainer, TrainingArguments, ViTConfig

from spectok_hf import Spectrum, SpectrumImageProcessor
from spectok_hf.data.collators import DataCollatorForSpectrumImages


def make_spectrum(seed=0, **fields):
    rng = np.random.default_rng(seed)
    flux = 5 + np.sin(np.arange(400) / 9 + seed) + 0.2 * rng.normal(size=400)
    return Spectrum(flux, 4000 + 1.5 * np.arange(400), np.full(400, 25.0), **fields)


def make_vit(**fields):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return AutoModelForImageClassification.from_config(ViTConfig(image_size=48, patch_size=8, **sizes | fields))


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 3}, [0, 1, 2, 0]),
        ({"num_labels": 1, "problem_type": "regression"}, [0.1, 0.2, -1.0, 2.0]),
        ({"num_labels": 2, "problem_type": "regression"}, [[0.1, 1], [0.2, 2], [-1.0, 3], [2.0, 4]]),
    ],
)
@pytest.mark.parametrize("plot_type", ["simple", "overlap", "map"])
def test_any_image_classifier_of_transformers_learns_from_pictures(plot_type, fields, labels, tmp_path):
    processor, model = SpectrumImageProcessor(plot_type, image_size=48), make_vit(**fields)
    spectra = [make_spectrum(seed=seed) for seed in range(4)]
    outputs = model(**processor(spectra, return_tensors="pt"))
    assert outputs.logits.shape == (4, fields["num_labels"]) and len(outputs.logits.unique(dim=0)) == 4
    dataset = [
        processor.patch(one) | {"labels": np.asarray(label)} for one, label in zip(spectra, labels, strict=True)
    ]
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    before = model.classifier.weight.detach().clone()
    trainer = Trainer(model, arguments, train_dataset=dataset, data_collator=DataCollatorForSpectrumImages(processor))
    assert math.isfinite(trainer.train().training_loss)
    assert not torch.equal(model.classifier.weight, before)
    assert trainer.predict(dataset).predictions.shape == outputs.logits.shape


def test_a_spectrum_of_none_is_nan_in_a_model_that_does_not_look():
    processor, model = SpectrumImageProcessor(image_size=48, on_invalid="mask"), make_vit(num_labels=2).eval()
    spectra = [make_spectrum(), make_spectrum(mask=np.ones(400, dtype=bool))]
    logits = model(**processor(spectra, return_tensors="pt")).logits
    assert torch.isfinite(logits[0]).all() and torch.isnan(logits[1]).all()


def test_beside_a_model_of_transformers_the_processor_is_loaded_by_its_class(tmp_path):
    processor = SpectrumImageProcessor("simple", image_size=48)
    make_vit(num_labels=2).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    expected = processor.draw(make_spectrum())
    assert np.array_equal(SpectrumImageProcessor.from_pretrained(tmp_path).draw(make_spectrum()), expected)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.num_labels == 2
