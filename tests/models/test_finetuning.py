"""Heads under Trainer, as a user has them: default arguments, no collator, labels in physical units."""

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Trainer, TrainingArguments

from spectok_hf import (
    AutoModelForRedshift,
    AutoModelForSpectrumClassification,
    AutoModelForStellarRegression,
    DataCollatorForPackedSpectra,
    DataCollatorForSpectra,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.labels import class_fields, class_labels, target_fields, target_labels

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "wavelength_dim": 4,
    "initializer_range": 0.2,
}
OF_SPECTOK = {"decoder_num_hidden_layers": 1, "wavelength_pooling": "mean"}
TARGETS = ["teff", "logg", "feh"]
MODELS = {
    "classification": (SpecTokForSpectrumClassification, AutoModelForSpectrumClassification),
    "regression": (SpecTokForStellarRegression, AutoModelForStellarRegression),
    "redshift": (SpecTokForRedshift, AutoModelForRedshift),
}
OMNISPECTRA = {
    "classification": OmniSpectraForSpectrumClassification,
    "regression": OmniSpectraForStellarRegression,
    "redshift": OmniSpectraForRedshift,
}
SPECFORMER = {
    "classification": SpecformerForSpectrumClassification,
    "regression": SpecformerForStellarRegression,
    "redshift": SpecformerForRedshift,
}
COARSE_GRID = {"grid_start": 3700.0, "grid_step": 16.0, "grid_size": 380}  # of 37 patches
every_task = pytest.mark.parametrize("task", MODELS)


class Task:
    """Eight labelled spectra, and a model for them."""

    def __init__(self, name, folder, family="spectok"):
        self.name, self.folder, self.family = name, folder, family
        self.processor = {
            "spectok": SpectrumProcessor(),
            "omnispectra": OmniSpectraProcessor(),
            "specformer": SpecformerProcessor(**COARSE_GRID, resample=True),
        }[family]
        survey = "desi" if family == "specformer" else "lamost"  # whose unit it reads
        kinds = ["STAR"] * 8 if name == "regression" else ["STAR", "STAR", "GALAXY", "QSO"] * 2
        self.spectra = [simulate_survey(survey, 1, seed=seed, kind=kind, snr=50)[0] for seed, kind in enumerate(kinds)]
        if name == "classification":
            self.fields = class_fields(self.spectra, balance="inverse-sqrt")
            self.labels = class_labels(self.spectra, self.fields["label2id"])
        elif name == "regression":
            self.fields = target_fields(self.spectra, TARGETS)
            self.labels = target_labels(self.spectra, TARGETS)
        else:
            self.fields = {"redshift_bins": 32}
            self.labels = np.array([spectrum.labels["redshift"] for spectrum in self.spectra])
        self.own_class, self.auto_class = MODELS[name]

    def model(self, **fields):
        torch.manual_seed(0)
        if self.family == "omnispectra":
            return OMNISPECTRA[self.name](OmniSpectraConfig(**SIZES | self.fields | fields))
        if self.family == "specformer":
            return SPECFORMER[self.name](SpecformerConfig(**SIZES | COARSE_GRID | self.fields | fields))
        return self.own_class(SpecTokConfig(**SIZES | OF_SPECTOK | self.fields | fields))

    def dataset(self, labels=None):
        return SpectrumDataset(self.spectra, self.processor, labels=self.labels if labels is None else labels)

    def trainer(self, model=None, dataset=None, **arguments):
        arguments, options = split_options(arguments)
        defaults = {
            "output_dir": str(self.folder),
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        dataset = dataset or self.dataset()
        return Trainer(
            model=model or self.model(),
            args=TrainingArguments(**defaults | arguments),
            train_dataset=dataset,
            eval_dataset=dataset,
            processing_class=self.processor,
            **options,
        )


def split_options(arguments):
    """Those of TrainingArguments, and those of Trainer."""
    options = {name: arguments.pop(name) for name in ("compute_metrics", "data_collator") if name in arguments}
    return arguments, options


@pytest.fixture
def task(request, tmp_path):
    name, _, family = request.param.partition(" of ")
    return Task(name, tmp_path, family or "spectok")


OTHERS = [f"{name} of {family}" for family in ("omnispectra", "specformer") for name in MODELS]
every = pytest.mark.parametrize("task", [*MODELS, *OTHERS], indirect=True)
regression = pytest.mark.parametrize("task", ["regression"], indirect=True)
classification = pytest.mark.parametrize("task", ["classification"], indirect=True)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


OVERFIT = {"per_device_train_batch_size": 8, "learning_rate": 3e-3, "lr_scheduler_type": "constant"}


@every
def test_the_loss_falls_on_a_batch_that_is_shown_again(task):
    trainer = task.trainer(task.model(head_input="last_hidden_state"), max_steps=30, **OVERFIT)
    trainer.train()
    found = losses(trainer)
    assert len(found) == 30 and np.isfinite(found).all() and found[-1] < 0.6 * found[0]


@every
@pytest.mark.parametrize("head_input", ["tokens", "last_hidden_state"])
def test_a_frozen_encoder_stays_bit_for_bit(task, head_input):
    model = task.model(freeze_backbone=True, head_input=head_input, hidden_dropout_prob=0.5)
    before = weights(model)
    task.trainer(model).train()
    for name, value in model.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == name.startswith("head.") or name.endswith("k_proj.bias"), name


@every
def test_without_freezing_everything_learns(task):
    model = task.model()
    before = weights(model)
    task.trainer(model).train()
    still = [name for name, value in model.state_dict().items() if torch.equal(value, before[name])]
    assert all(name.endswith("k_proj.bias") for name in still), still


@every
def test_low_rank_adapters_train_and_reload_bit_for_bit(task):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=["head"], r=2)
    model = peft.get_peft_model(task.model(head_type="attention"), config)
    before = weights(model)
    trainer = task.trainer(model)
    trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    assert sum("lora_B" in name and f".{task.family}." in name for name in moved) == 4
    assert any("modules_to_save" in name and "fc1" in name for name in moved)
    expected = trainer.predict(task.dataset()).predictions
    model.save_pretrained(task.folder / "adapters")
    loaded = peft.PeftModel.from_pretrained(task.model(head_type="attention"), task.folder / "adapters")
    assert_equal_predictions(task.trainer(loaded).predict(task.dataset()).predictions, expected)


def with_gaps(task):
    """The labels, some of them not known."""
    labels = task.labels.copy()
    if task.name == "classification":
        labels[[1, 4]] = -100
    elif task.name == "regression":
        labels[1], labels[3, 0], labels[6, 1:] = np.nan, np.nan, np.nan
    else:
        labels[[0, 5]] = np.nan
    return labels


@every
def test_accumulated_gradients_are_those_of_the_whole_batch(task):
    trained = []
    for batch_size, steps in ((4, 1), (2, 2)):
        fields = {"label_smoothing": 0.1} if task.name == "classification" else {"predict_uncertainty": True}
        trainer = task.trainer(
            task.model(**fields),
            task.dataset(with_gaps(task)),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            optim="sgd",
            learning_rate=1e-2,
            max_steps=4,
        )
        trainer.train()
        trained.append(trainer)
    whole, parts = trained
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    norms = [[entry["grad_norm"] for entry in t.state.log_history if "grad_norm" in entry] for t in trained]
    assert len(norms[0]) == 4 and norms[1] == pytest.approx(norms[0], rel=1e-3)
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, atol=1e-5, rtol=1e-4, msg=name)


@every
def test_unknown_labels_train_without_a_nan(task):
    trainer = task.trainer(dataset=task.dataset(with_gaps(task)), per_device_train_batch_size=2, max_steps=5)
    trainer.train()
    assert np.isfinite(losses(trainer)).all()
    assert all(value.isfinite().all() for value in trainer.model.state_dict().values())
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_a_batch_of_which_nothing_is_known_changes_nothing(tmp_path):
    task = Task("redshift", tmp_path)
    dataset = task.dataset()
    for feature in dataset.features:  # which a whole training set must not be, but a batch may
        feature["labels"] = np.float32(np.nan)
    trainer = task.trainer(dataset=dataset, weight_decay=0.0)
    before = weights(trainer.model)
    trainer.train()
    assert losses(trainer) == [0, 0, 0]
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def as_tuple(predictions):
    return predictions if isinstance(predictions, tuple) else (predictions,)


def assert_equal_predictions(found, expected):
    assert len(as_tuple(found)) == len(as_tuple(expected))
    for one, other in zip(as_tuple(found), as_tuple(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@every
def test_predictions_are_those_of_the_model_and_survive_saving(task):
    uncertain = (
        {"predict_uncertainty": True, "uncertainty_scale": [1.1, 0.9, 1.2]} if task.name == "regression" else {}
    )
    trainer = task.trainer(task.model(**uncertain))
    trainer.train()
    found = trainer.predict(task.dataset())
    np.testing.assert_array_equal(
        found.label_ids, np.float32(task.labels) if task.name != "classification" else task.labels
    )
    with torch.no_grad():
        outputs = trainer.model.eval()(**task.processor(task.spectra, return_tensors="pt"))
    names = {
        "classification": ["logits"],
        "regression": ["predictions", "uncertainties"],
        "redshift": ["redshift", "uncertainty", "confidence", "zwarn", "posterior"],
    }[task.name]
    assert list(outputs) == names
    for name, values in zip(names, as_tuple(found.predictions), strict=True):
        assert len(values) == 8
        np.testing.assert_allclose(values, outputs[name], rtol=1e-4, atol=1e-5)
    if task.name == "regression":  # Kelvins and dex, not standard deviations
        means, stds = (np.array(task.fields[name]) for name in ("target_mean", "target_std"))
        assert (abs(as_tuple(found.predictions)[0] - means) < 5 * stds).all() and means[0] > 3000
    trainer.save_model()
    loaded = task.auto_class.from_pretrained(task.folder)
    assert type(AutoProcessor.from_pretrained(task.folder)) is type(task.processor)
    assert loaded.config.id2label == trainer.model.config.id2label
    assert_equal_predictions(task.trainer(loaded).predict(task.dataset()).predictions, found.predictions)


@every
def test_metrics_get_the_predictions(task):
    seen = {}

    def compute_metrics(evaluation):
        seen["predictions"], seen["labels"] = evaluation.predictions, evaluation.label_ids
        return {"count": len(evaluation.label_ids)}

    trainer = task.trainer(compute_metrics=compute_metrics, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    assert metrics["eval_count"] == 8 and np.isfinite(metrics["eval_loss"])
    np.testing.assert_allclose(seen["labels"], task.labels, rtol=1e-6)
    assert {len(values) for values in as_tuple(seen["predictions"])} == {8}
    shapes = {"classification": (8, len(task.fields.get("id2label", ()))), "regression": (8, 3), "redshift": (8,)}
    assert as_tuple(seen["predictions"])[0].shape == shapes[task.name]


@every
def test_packed_batches_train_alike(task):
    found = []
    for options in ({}, {"data_collator": DataCollatorForPackedSpectra(task.processor)}):
        trainer = task.trainer(**options)
        trainer.train()
        found.append((losses(trainer), trainer.predict(task.dataset())))
    (expected, padded), (packed_losses, packed) = found
    assert packed_losses == pytest.approx(expected, rel=1e-4)
    assert {len(values) for values in as_tuple(packed.predictions)} == {8}
    np.testing.assert_array_equal(packed.label_ids, padded.label_ids)
    np.testing.assert_allclose(as_tuple(packed.predictions)[0], as_tuple(padded.predictions)[0], rtol=1e-2, atol=1e-3)


@classification
def test_trainers_own_label_smoothing_works(task):
    smoothed = task.trainer(label_smoothing_factor=0.2, per_device_train_batch_size=8, max_steps=1)
    plain = task.trainer(
        task.model(class_weights=None, label_smoothing=0.2), per_device_train_batch_size=8, max_steps=1
    )
    for trainer in (smoothed, plain):
        trainer.train()
    assert losses(smoothed) == pytest.approx(losses(plain), rel=1e-5)  # Trainer's does without class weights


@regression
def test_a_target_that_is_learnt_is_learnt_in_its_unit(task):
    """Eight stars are overfitted: the error in Kelvin falls far below the spread of the sample."""
    trainer = task.trainer(task.model(head_input="last_hidden_state"), max_steps=60, **OVERFIT)
    trainer.train()
    error = abs(trainer.predict(task.dataset()).predictions - task.labels)[:, 0]
    assert error.mean() < 0.5 * task.fields["target_std"][0] < 1000


def test_nothing_warns_on_the_way(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true")
        Task("redshift", tmp_path).trainer(max_steps=1).train()


@every_task
@pytest.mark.parametrize(
    ("family", "head_input"),
    [("spectok", "tokens"), ("spectok", "last_hidden_state"), ("omnispectra", "tokens"), ("specformer", "tokens")],
)
def test_what_is_frozen_is_frozen_after_loading(task, family, head_input, tmp_path):
    """Transformers makes every parameter anew while it loads, with a gradient."""
    case = Task(task, tmp_path / "trained", family)
    case.model().save_pretrained(tmp_path / "saved")
    model = case.auto_class.from_pretrained(tmp_path / "saved", freeze_backbone=True, head_input="tokens")
    assert not any(weight.requires_grad for weight in model.base_model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    case.trainer(model).train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("head.") for name in moved)
    model.save_pretrained(tmp_path / "again")
    again = case.auto_class.from_pretrained(tmp_path / "again")
    assert again.config.freeze_backbone and not any(weight.requires_grad for weight in again.base_model.parameters())


def test_a_bottleneck_that_is_not_read_has_no_gradient_after_loading(tmp_path):
    case = Task("redshift", tmp_path)
    case.model(head_input="last_hidden_state").save_pretrained(tmp_path / "saved")
    model = AutoModelForRedshift.from_pretrained(tmp_path / "saved")
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert still == {"spectok.bottleneck.weight", "spectok.bottleneck.bias"}


@every_task
@pytest.mark.parametrize("family", ["spectok", "omnispectra", "specformer"])
@pytest.mark.parametrize("packed", [False, True])
def test_mixed_precision_trains(task, family, packed, tmp_path):
    case = Task(task, tmp_path, family)
    collator = {"data_collator": DataCollatorForPackedSpectra(case.processor)} if packed else {}
    log = case.trainer(case.model(), bf16=True, use_cpu=True, **collator).train()
    assert np.isfinite(log.training_loss)


def test_swapped_targets_are_found(tmp_path):
    case = Task("regression", tmp_path)
    with pytest.raises(ValueError, match=r"within 100 standard deviations .* order of the targets"):
        case.trainer(case.model(), dataset=case.dataset(labels=case.labels[:, ::-1])).train()


# Pretraining of the family whose patches are hidden by the collator


class Alike:
    """A data set that gives the spectra themselves: the collator prepares and hides."""

    def __init__(self, spectra):
        self.spectra = spectra

    def __len__(self):
        return len(self.spectra)

    def __getitem__(self, index):
        return self.spectra[index]


def pretrainer(folder, collator, spectra, **arguments):
    torch.manual_seed(0)
    defaults = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 3e-3}
    defaults |= {"max_steps": 20, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return Trainer(
        model=OmniSpectraForPreTraining(OmniSpectraConfig(**SIZES | {"initializer_range": 0.02})),
        args=TrainingArguments(str(folder), remove_unused_columns=False, **defaults | arguments),
        data_collator=collator,
        train_dataset=Alike(spectra),
        eval_dataset=Alike(spectra),
    )


def test_hidden_patches_are_learnt_alike_in_both_layouts(tmp_path):
    spectra = [simulate_survey(survey, 2, seed=1005, snr=50)[i] for i in range(2) for survey in ("sdss", "lamost")]
    found = []
    for collate in (DataCollatorForSpectra, DataCollatorForPackedSpectra):
        collator = collate(OmniSpectraProcessor(), hide="chunks", hide_ratio=0.75, seed=1)
        trainer = pretrainer(tmp_path, collator, spectra)
        trainer.train()
        found.append(losses(trainer))
    assert found[1] == pytest.approx(found[0], rel=1e-3) and len(set(found[0])) == 20  # each time others are hidden


def test_a_batch_whose_patches_stay_hidden_is_learnt(tmp_path):
    spectra = simulate_survey("sdss", 4, seed=1005, snr=50)
    batch = DataCollatorForPackedSpectra(OmniSpectraProcessor(), hide="chunks", hide_ratio=0.75, seed=1)(spectra)
    model = pretrainer(tmp_path, None, spectra).model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.6 * found[0]


def test_predictions_of_pretraining_hold_whole_spectra_alone(tmp_path):
    """What has a row per patch cannot be joined over batches of different lengths."""
    spectra = [simulate_survey(survey, 1, seed=1005)[0] for survey in ("sdss", "galah", "lamost")]
    collator = DataCollatorForPackedSpectra(OmniSpectraProcessor(), hide="chunks", hide_ratio=0.75, seed=1)
    trainer = pretrainer(tmp_path, collator, spectra, per_device_eval_batch_size=2)
    (found,) = as_tuple(trainer.predict(Alike(spectra)).predictions)
    assert found.shape == (3, 32)
