"""Heads on frozen states, fitted and judged as methods: through the public functions, on simulated spectra."""

import numpy as np
import pytest
import torch

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    DataCollatorForPackedSpectra,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForStellarRegression,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.evaluation.adaptation import (
    Backbone,
    FitOptions,
    calibrate,
    encode,
    finetuned,
    fitted_head,
    frozen_head,
    head_outputs,
    redshift_pit,
    task_labels,
    trained_head,
)
from spectok_hf.evaluation.calibration import uniformity
from spectok_hf.evaluation.tasks import Split, Task, evaluate_tasks
from spectok_hf.models.redshift_posterior import recalibrate

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
QUICK = FitOptions(epochs=40, most_steps=60, learning_rate=3e-3, batch_size=8)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone")
    SpecTokForPreTraining(SpecTokConfig(**TINY)).save_pretrained(folder)
    SpectrumProcessor().save_pretrained(folder)
    return Backbone(str(folder))


@pytest.fixture(scope="module")
def omnispectra(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("omnispectra")
    size = {name: value for name, value in TINY.items() if name != "decoder_num_hidden_layers"}
    OmniSpectraForPreTraining(OmniSpectraConfig(**size)).save_pretrained(folder)
    OmniSpectraProcessor().save_pretrained(folder)
    return Backbone(str(folder))


@pytest.fixture(scope="module")
def spectra():
    return simulate_survey("sdss", 24, seed=3)


SPLIT = Split(np.arange(14), np.arange(14, 18), np.arange(18, 24))


def make_task(kind, spectra):
    level = np.array([np.median(s.flux[s.good]) for s in spectra])
    if kind == "classification":
        labels = np.where(np.arange(len(spectra)) % 2, "QSO", "STAR")
        return Task(name=kind, kind=kind, spectra=spectra, labels=labels, splits=[SPLIT])
    if kind == "redshift":
        return Task(name=kind, kind=kind, spectra=spectra, labels=0.1 + 0.02 * np.arange(24), splits=[SPLIT])
    labels = np.stack([5000 + 300 * np.log(level), np.where(np.arange(24) % 3, 2.0 + 0.1 * np.arange(24), np.nan)], -1)
    options = {"target_names": ["teff", "logg"], "target_units": ["K", "dex(cm/s2)"]}
    return Task(name=kind, kind=kind, spectra=spectra, labels=labels, splits=[SPLIT], **options)


def test_encoding_keeps_what_the_model_gives_for_valid_patches(backbone, spectra):
    encoded = encode(backbone.encoder, backbone.processor, spectra[:3], batch_size=2)
    batch = DataCollatorForPackedSpectra(backbone.processor)(spectra[:3])
    with torch.no_grad():
        outputs = backbone.encoder(**batch)
    valid = outputs.attention_mask > 0
    for name in ("tokens", "last_hidden_state", "token_wavelength"):
        joined = torch.cat([getattr(one, name) for one in encoded])
        torch.testing.assert_close(joined, outputs[name][valid], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head_input", ["tokens", "last_hidden_state"])
@pytest.mark.parametrize("kind", ["classification", "regression", "redshift"])
def test_a_head_fitted_to_encoded_spectra_answers_alike_from_spectra(backbone, spectra, kind, head_input):
    task = make_task(kind, spectra)
    model = fitted_head(backbone, task, SPLIT, 0, QUICK, head_input=head_input)
    cached = head_outputs(model, backbone.encode(task))
    with torch.no_grad():
        direct = model(**backbone.processor(spectra, return_tensors="pt"))
    for name, values in cached.items():
        torch.testing.assert_close(values, direct[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["classification", "regression", "redshift"])
def test_a_head_of_the_other_family_is_fitted_and_loaded_alike(omnispectra, spectra, kind, tmp_path):
    task = make_task(kind, spectra)
    model = fitted_head(omnispectra, task, SPLIT, 0, QUICK)
    assert type(model).__name__.startswith("OmniSpectraFor") and model.config.head_type == "linear"
    cached = head_outputs(model, omnispectra.encode(task))
    with torch.no_grad():
        direct = model(**omnispectra.processor(spectra, return_tensors="pt"))
    for name, values in cached.items():
        torch.testing.assert_close(values, direct[name], rtol=1e-4, atol=1e-4)
    for name, value in model.base_model.state_dict().items():
        assert torch.equal(value, omnispectra.encoder.state_dict()[name]), name
    model.save_pretrained(tmp_path)
    found = trained_head({kind: str(tmp_path)})(task, SPLIT, 0)
    assert np.array_equal(found.values, frozen_head(omnispectra, QUICK)(task, SPLIT, 0).values)


def test_the_other_family_is_fine_tuned(omnispectra, spectra):
    seen = []
    method = finetuned(omnispectra, options=QUICK, most_steps=2, record=lambda *what: seen.append(what))
    method(make_task("regression", spectra), SPLIT, 0)
    after, before = seen[0][2].base_model.state_dict(), omnispectra.encoder.state_dict()
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_a_specformer_has_heads_and_a_model_with_images_only_under_its_spectrum_encoder(tmp_path):
    torch.manual_seed(0)
    size = {name: value for name, value in TINY.items() if name != "decoder_num_hidden_layers"}
    config = SpecformerConfig(**size)
    SpecformerForPreTraining(config).save_pretrained(tmp_path / "specformer")
    vision = {"model_type": "vit", "image_size": 24, "patch_size": 12, **size}
    model = AstroClipModel(AstroClipConfig(spectrum_config=config.to_dict(), vision_config=vision, projection_dim=8))
    model.save_pretrained(tmp_path / "astroclip")
    model.spectrum_model.save_pretrained(tmp_path / "encoder")
    task = make_task("redshift", simulate_survey("desi", 24, seed=3))
    for name in ("specformer", "encoder"):
        backbone = Backbone(str(tmp_path / name))
        head = fitted_head(backbone, task, SPLIT, 0, QUICK)
        with torch.no_grad():
            direct = head(**backbone.processor(task.spectra, return_tensors="pt")).redshift
        torch.testing.assert_close(head_outputs(head, backbone.encode(task))["redshift"], direct, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"found AstroClipModel in .*: save its encoder, model.spectrum_model"):
        fitted_head(Backbone(str(tmp_path / "astroclip")), task, SPLIT, 0, QUICK)


def test_fitting_learns_and_leaves_the_encoder_alone(backbone, spectra):
    task = make_task("classification", spectra)
    before = {name: value.clone() for name, value in backbone.encoder.state_dict().items()}
    model = fitted_head(backbone, task, SPLIT, 0, FitOptions(epochs=200, most_steps=300, learning_rate=3e-3))
    logits = head_outputs(model, [backbone.encode(task)[row] for row in SPLIT.train])["logits"]
    assert (logits.argmax(-1) == task_labels(task)[SPLIT.train]).float().mean() > 0.9  # labels of no meaning, by heart
    for name, value in model.base_model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_methods_stand_in_the_table_and_the_seed_repeats_them(backbone, spectra):
    tasks = [make_task(kind, spectra) for kind in ("classification", "regression", "redshift")]
    methods = {"frozen": frozen_head(backbone, QUICK), "fine-tuned": finetuned(backbone, options=QUICK, most_steps=2)}
    rows = evaluate_tasks(tasks, methods, bootstrap=10, progress=False)
    again = evaluate_tasks(tasks, methods, bootstrap=10, progress=False)
    assert [row["method"] for row in rows[:2]] == ["frozen", "fine-tuned"]
    assert len(rows) == 2 * (1 + 2 + 1)  # a class, two targets, a redshift
    for row, same in zip(rows, again, strict=True):
        assert row["reason"] == ""
        for name in ("accuracy", "r_squared", "nmad"):
            if name in row:
                assert row[name] == same[name]


def test_fine_tuning_moves_the_encoder_and_records_what_it_says(backbone, spectra):
    seen = []
    method = finetuned(backbone, options=QUICK, most_steps=3, record=lambda *what: seen.append(what))
    task = make_task("regression", spectra)
    prediction = method(task, SPLIT, 0)
    (_, split, model, outputs) = seen[0]
    assert split is SPLIT
    np.testing.assert_array_equal(prediction.values, outputs["predictions"].double().numpy())
    moved = [
        name
        for name, value in model.base_model.state_dict().items()
        if not torch.equal(value, backbone.encoder.state_dict()[name])
    ]
    assert len(moved) > 10


def test_trained_heads_answer_in_the_order_of_the_task_and_not_for_real_spectra(backbone, spectra, tmp_path):
    task = make_task("regression", spectra)
    fields = {
        "target_names": ["logg", "feh", "teff"],
        "target_mean": [2.0, 0.0, 5000.0],
        "target_std": [1.0, 1.0, 9.0],
    }
    torch.manual_seed(3)
    model = SpecTokForStellarRegression.from_pretrained(backbone.path, predict_uncertainty=True, **fields)
    model.save_pretrained(tmp_path)
    backbone.processor.save_pretrained(tmp_path)
    found = trained_head({"regression": str(tmp_path)})(task, SPLIT, 0)
    with torch.no_grad():
        expected = model.eval()(**backbone.processor([spectra[row] for row in SPLIT.test], return_tensors="pt"))
    np.testing.assert_allclose(found.values, expected.predictions[:, [2, 0]], rtol=1e-5)
    np.testing.assert_allclose(found.uncertainty, expected.uncertainties[:, [2, 0]], rtol=1e-5)

    real = [Spectrum(s.flux, s.wavelength, s.ivar, survey="sdss", object_id=s.object_id) for s in spectra]
    tasks = [make_task("classification", spectra), make_task("regression", real)]
    rows = evaluate_tasks(tasks, {"trained": trained_head({"regression": str(tmp_path)})}, bootstrap=2, progress=False)
    reasons = {row["task"]: row["reason"] for row in rows}
    assert reasons["classification"] == "there is no trained head for classification"
    assert reasons["regression"] == "it was trained on some of these objects"


def test_calibration_makes_68_percent_of_68_percent(backbone, spectra):
    task = make_task("regression", spectra)
    model = backbone.new_model(task, SPLIT)
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 2, generator=generator)
    claimed = torch.tensor([0.5, 3.0]).expand(4000, 2)
    outputs = {"predictions": truth + torch.randn(4000, 2, generator=generator), "uncertainties": claimed}
    truth[::3, 1] = torch.nan  # not known
    calibrate(model, outputs, truth)
    np.testing.assert_allclose(model.config.uncertainty_scale, [2.0, 1 / 3], rtol=0.05)


def test_calibration_flattens_the_pit_of_overconfident_posteriors(backbone, spectra):
    model = backbone.new_model(make_task("redshift", spectra), SPLIT, redshift_bins=128, redshift_range=[0.0, 1.0])
    generator = torch.Generator().manual_seed(1)
    nodes = torch.arange(128.0)
    centre = 20 + 88 * torch.rand(3000, generator=generator)
    position = centre + 4 * torch.randn(3000, generator=generator)
    redshift = torch.exp(position / 127 * np.log(2)) - 1
    overconfident = (-0.5 * ((nodes - centre[:, None]) / 2) ** 2).softmax(-1)
    assert uniformity(redshift_pit(model, overconfident, redshift))[2][0] < 1e-6
    calibrate(model, {"posterior": overconfident}, redshift)
    assert 2 < model.config.redshift_temperature < 6  # 4, and the map of its distribution near none
    softened = (overconfident.log() / model.config.redshift_temperature).softmax(-1)
    softened = recalibrate(softened, *model.config.redshift_recalibration)
    assert uniformity(redshift_pit(model, softened, redshift))[2][0] > 0.01
    with pytest.raises(ValueError, match=r"calibrated already .*call uncalibrate\(model\)"):
        calibrate(model, {"posterior": overconfident}, redshift)


def test_calibration_bends_posteriors_whose_shape_is_wrong(backbone, spectra):
    """Truths that follow Kumaraswamy's distribution where the posteriors say uniform."""
    model = backbone.new_model(make_task("redshift", spectra), SPLIT, redshift_bins=128, redshift_range=[0.0, 1.0])
    chance = 1 - torch.rand(4000, generator=torch.Generator().manual_seed(2))
    position = (1 - chance ** (1 / 3)) ** (1 / 2)
    redshift = torch.exp(position * np.log(2)) - 1
    flat = torch.full((4000, 128), 1 / 128)
    assert uniformity(redshift_pit(model, flat, redshift))[2][0] < 1e-6
    calibrate(model, {"posterior": flat}, redshift)
    np.testing.assert_allclose(model.config.redshift_recalibration, [2, 3], rtol=0.1)
    bent = recalibrate(flat, *model.config.redshift_recalibration)
    assert uniformity(redshift_pit(model, bent, redshift))[2][0] > 0.01


def test_the_best_weights_are_kept_where_validation_can_tell(backbone):
    many = simulate_survey("sdss", 130, seed=5)
    split = Split(np.arange(10), np.arange(10, 120), np.arange(120, 130))
    labels = np.random.default_rng(0).normal(size=(130, 1))
    names = {"target_names": ["teff"], "target_units": ["K"]}
    task = Task(name="noise", kind="regression", spectra=many, labels=labels, splits=[split], **names)
    options = FitOptions(epochs=150, most_steps=150, learning_rate=1e-2, batch_size=10, checks=30)
    model = fitted_head(backbone, task, split, 0, options)
    encoded = backbone.encode(task)
    predictions = head_outputs(model, [encoded[row] for row in split.validation])["predictions"]
    error = (predictions.numpy() - labels[split.validation]).var()
    # By heart, ten random numbers cost much on others; at the best epoch next to nothing.
    assert error < 1.3 * labels[split.validation].var()
