"""Whole models trained for tasks: pictures as well as patches, by equal compute, with the best weights kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectok_hf import (
    DataCollatorForPackedSpectra,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumImageProcessor,
    SpectrumProcessor,
    SpectrumVitConfig,
    SpectrumVitModel,
    simulate_survey,
)
from spectok_hf.evaluation.adaptation import (
    Backbone,
    FitOptions,
    encode,
    fitted_head,
    from_checkpoint,
    from_config,
    head_outputs,
    trained,
)
from spectok_hf.evaluation.tasks import Split, Task, evaluate_tasks
from spectok_hf.evaluation.training import TrainOptions, answers, forward_flop, steps_within, train_model

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
VISION = {"model_type": "vit", **SMALL, "image_size": 64, "patch_size": 16}
SPLIT = Split(np.arange(14), np.arange(14, 18), np.arange(18, 24))
FEW = TrainOptions(steps=3, batch_size=4, learning_rate=1e-3)


@pytest.fixture(scope="module")
def spectra():
    return simulate_survey("sdss", 24, seed=3)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pictures")
    SpectrumVitModel(SpectrumVitConfig(vision_config=VISION)).save_pretrained(folder)
    SpectrumImageProcessor(image_size=64).save_pretrained(folder)
    return Backbone(str(folder))


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("patches")
    SpecTokForPreTraining(SpecTokConfig(**SMALL, decoder_num_hidden_layers=1)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return Backbone(str(folder))


def new_pictures():
    return from_config(SpectrumVitConfig(vision_config=VISION), SpectrumImageProcessor(image_size=64))


def make_task(kind, spectra, split=SPLIT):
    count = len(spectra)
    if kind == "classification":
        labels, names = np.where(np.arange(count) % 2, "QSO", "STAR"), {}
    elif kind == "redshift":
        labels, names = 0.1 + 0.02 * np.arange(count), {}
    else:
        labels = np.stack([5000.0 + 10 * np.arange(count), np.where(np.arange(count) % 3, 2.0, np.nan)], -1)
        labels[::2, 1] += 1
        names = {"target_names": ["teff", "logg"], "target_units": ["K", "dex(cm/s2)"]}
    return Task(name=kind, kind=kind, spectra=spectra, labels=labels, splits=[split], **names)


@pytest.mark.parametrize("kind", ["classification", "regression", "redshift"])
def test_new_weights_are_trained_on_pictures_and_the_seed_repeats_them(spectra, kind):
    seen = []
    method = trained(new_pictures(), FEW, record=lambda *what: seen.append(what))
    task = make_task(kind, spectra)
    prediction = method(task, SPLIT, 1)
    (_, split, model, outputs) = seen[0]
    assert split is SPLIT and not model.training
    direct = model(**SpectrumImageProcessor(image_size=64)([spectra[row] for row in SPLIT.test], return_tensors="pt"))
    for name, values in outputs.items():
        torch.testing.assert_close(values, direct[name], rtol=1e-4, atol=1e-4)
    assert np.array_equal(method(task, SPLIT, 1).values, prediction.values)
    others = [trained(new_pictures(), FEW)(task, SPLIT, seed) for seed in (2, 3)]
    if kind != "classification":
        assert np.isfinite(prediction.uncertainty).all()
        assert not np.array_equal(others[0].values, prediction.values)


def test_classes_that_can_be_seen_are_learned():
    rng = np.random.default_rng(0)
    wavelength = np.linspace(4000, 8000, 400)
    spectra = []
    for number in range(60):
        line = 40 * np.exp(-0.5 * ((wavelength - (5000 if number % 2 else 7000)) / 60) ** 2)
        flux = 10 + line + rng.normal(size=400)
        spectra.append(Spectrum(flux, wavelength, np.ones(400), survey="sdss", object_id=str(number)))
    split = Split(np.arange(40), np.arange(40, 46), np.arange(46, 60))
    task = make_task("classification", spectra, split)
    method = trained(new_pictures(), TrainOptions(steps=60, batch_size=8, learning_rate=1e-3))
    assert evaluate_tasks([task], {"ViT": method}, bootstrap=2, progress=False)[0]["accuracy"] == 1


def test_what_is_frozen_stays_and_all_else_moves(pictures, patches, spectra):
    for backbone in (pictures, patches):
        for frozen in (True, False):
            seen = []
            start = from_checkpoint(backbone, freeze_backbone=frozen)
            trained(start, FEW, record=lambda *what, kept=seen: kept.append(what[2]))(
                make_task("regression", spectra), SPLIT, 0
            )
            before = backbone.encoder.state_dict()
            same = [torch.equal(value, before[name]) for name, value in seen[0].base_model.state_dict().items()]
            assert all(same) if frozen else sum(same) < len(same) / 4


def test_answers_are_those_of_the_model_spectrum_by_spectrum(patches, spectra):
    model = fitted_head(patches, make_task("redshift", spectra), SPLIT, 0, FitOptions(most_steps=2))
    found = answers(model, patches.processor, spectra[:5], batch_size=2)
    batch = DataCollatorForPackedSpectra(patches.processor)(spectra[:5])
    with torch.no_grad():
        direct = model(**batch)
    assert set(found) == {"redshift", "uncertainty", "confidence", "zwarn", "posterior"}
    for name, values in found.items():
        torch.testing.assert_close(values, direct[name], rtol=1e-4, atol=1e-4)


def test_no_answer_moves_up_to_a_spectrum_that_was_skipped(pictures, spectra):
    model = from_checkpoint(pictures)(make_task("redshift", spectra), SPLIT, 0)[0]
    processor = SpectrumImageProcessor(image_size=64, on_invalid="skip")
    bad = replace(spectra[1], mask=np.ones(len(spectra[1]), dtype=bool))
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError, match="each of 3 spectra must have an"):
        answers(model, processor, [spectra[0], bad, spectra[2]])


def test_a_loss_of_nan_is_not_the_best(patches, monkeypatch):
    spectra, labels = simulate_survey("sdss", 110, seed=6), torch.ones(110)
    model = fitted_head(patches, make_task("redshift", spectra), SPLIT, 0, FitOptions(most_steps=2))
    losses, seen = iter([np.nan, 0.5, 0.7]), []

    def loss(model, batches):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(losses)

    monkeypatch.setattr("spectok_hf.evaluation.training.mean_loss", loss)
    options = TrainOptions(steps=3, batch_size=4, learning_rate=1e-2, checks=3)
    train_model(model, patches.processor, (spectra, labels), (spectra, labels), options, seed=0)
    assert all(torch.equal(value, seen[1][name]) for name, value in model.state_dict().items())
    assert not all(torch.equal(value, seen[0][name]) for name, value in model.state_dict().items())


def test_counting_operations_teaches_a_network_nothing():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    forward_flop(network, torch.randn(2, 3, 8, 8))
    assert network[1].running_mean.eq(0).all() and network[1].num_batches_tracked == 0


def test_a_frozen_picture_is_one_state_and_a_head_is_fitted_to_it(pictures, spectra):
    encoded = encode(pictures.encoder, pictures.processor, spectra[:3], batch_size=2)
    with torch.no_grad():
        pooled = pictures.encoder(**pictures.processor(spectra[:3], return_tensors="pt")).pooler_output
    torch.testing.assert_close(torch.cat([one.tokens for one in encoded]), pooled, rtol=1e-5, atol=1e-5)
    task = make_task("regression", spectra)
    model = fitted_head(pictures, task, SPLIT, 0, FitOptions(most_steps=5))
    cached = head_outputs(model, pictures.encode(task))["predictions"]
    torch.testing.assert_close(
        answers(model, pictures.processor, spectra)["predictions"], cached, rtol=1e-4, atol=1e-3
    )
    assert pictures.embeddings([task], "mean")[task.name].shape == (24, 32)


def fit_noise(patches, validation, checks):
    """Mean squared error on validation spectra of what learned ten numbers of no meaning by heart."""
    spectra, labels = validation
    numbers = np.arange(10.0)[:, None] - 4.5
    rows = len(spectra)
    task = Task(
        name="noise",
        kind="regression",
        spectra=[*simulate_survey("sdss", 10, seed=5), *spectra],
        labels=np.concatenate([numbers, labels]),
        target_names=["teff"],
        target_units=["K"],
        splits=[Split(np.arange(10), np.arange(10, 9 + rows), np.arange(9 + rows, 10 + rows))],
    )
    torch.manual_seed(0)
    model, processor = from_config(SpecTokConfig(**SMALL), patches.processor)(task, task.splits[0], 0)
    train = task.spectra[:10], torch.tensor(numbers, dtype=torch.float32)
    options = TrainOptions(steps=40, batch_size=10, learning_rate=3e-3, checks=checks)
    train_model(model, processor, train, (spectra, torch.tensor(labels, dtype=torch.float32)), options, seed=0)
    return float((answers(model, processor, spectra)["predictions"].numpy() - labels)[np.isfinite(labels)].var())


def test_the_best_weights_are_kept_where_validation_can_tell(patches):
    spectra, labels = simulate_survey("sdss", 110, seed=6), np.random.default_rng(0).normal(size=(110, 1))
    labels[:5] = np.nan
    last, best = (fit_noise(patches, (spectra, labels), checks) for checks in (0, 10))
    assert best < 0.7 * last
    labels[:15] = np.nan  # 95 are known: too few
    assert fit_noise(patches, (spectra, labels), 10) == fit_noise(patches, (spectra, labels), 0)


def test_operations_are_counted_with_those_of_attention():
    assert forward_flop(torch.nn.Linear(10, 20), torch.zeros(3, 10)) == 2 * 3 * 10 * 20
    vision = SpectrumVitModel(SpectrumVitConfig(vision_config=VISION)).vision_model
    width, tokens = 32, 17
    by_hand = 2 * 768 * width * 16 + 2 * tokens * width * (4 * width + 2 * 64) + 4 * tokens**2 * width
    for kind in ("sdpa", "eager"):
        vision.set_attn_implementation(kind)
        assert forward_flop(vision, {"pixel_values": torch.zeros(2, 3, 64, 64)}) == 2 * by_hand
    layer = torch.nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True).eval()
    encoder = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    expected = 2 * tokens * width * (4 * width + 2 * 64) + 4 * tokens**2 * width
    assert forward_flop(encoder, (torch.zeros(1, tokens, width),)) == expected
    assert not encoder.training


def test_the_operations_of_spectok_are_those_that_it_says(patches, spectra):
    batch = DataCollatorForPackedSpectra(patches.processor)(spectra[:3])
    assert forward_flop(patches.encoder, batch) == pytest.approx(patches.encoder.flops(batch["num_patches"]), rel=0.05)


def test_steps_follow_from_a_budget(spectra):
    network, batch = torch.nn.Linear(10, 20), torch.zeros(4, 10)
    assert steps_within(3 * 1600 * 7)(network, batch) == 7
    assert steps_within(1.0)(network, batch) == 1
    asked = []

    def steps(model, batch):
        asked.append((batch["pixel_values"].shape[0], batch["labels"].shape[0]))
        return 2

    trained(new_pictures(), TrainOptions(steps=steps, batch_size=5))(make_task("redshift", spectra), SPLIT, 0)
    assert asked == [(5, 5)]
