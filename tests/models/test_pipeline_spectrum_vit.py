"""The pipelines on pictures of spectra."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_pipeline_spectok import FIELDS, as_mapping, assert_alike, numbers
from transformers import AutoProcessor, ViTConfig, ViTForImageClassification, pipeline

from spectok_hf import (
    Spectrum,
    SpectrumImageProcessor,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
    simulate_survey,
)

OF_HEADS = ("id2label", "predict_uncertainty", "redshift_bins", "target_names", "target_units")
FIELDS = {name: FIELDS[name] for name in (*OF_HEADS, "target_mean", "target_std", "initializer_range")}
VISION = {
    **{"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 64, "image_size": 96, "patch_size": 16, "initializer_range": 0.2},
}
MODELS = {
    "spectrum-classification": SpectrumVitForSpectrumClassification,
    "stellar-parameters": SpectrumVitForStellarRegression,
    "spectrum-redshift": SpectrumVitForRedshift,
    "spectrum-embedding": SpectrumVitModel,
}
PLOT_TYPES = dict(zip(MODELS, ("map", "simple", "overlap", "map"), strict=True))
every_task = pytest.mark.parametrize("task", MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint for every task, by task; each is shown other pictures."""
    found = {}
    for task, model_class in MODELS.items():
        torch.manual_seed(0)
        model = model_class(SpectrumVitConfig(vision_config=VISION, **FIELDS)).eval()
        model.remember_processor(SpectrumImageProcessor(PLOT_TYPES[task], image_size=96, medium="air"))
        found[task] = str(tmp_path_factory.mktemp(task))
        model.save_pretrained(found[task])
    return found


@pytest.fixture(scope="module")
def pipes(folders):
    return {task: pipeline(task, model=folder) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def spectra():
    """Of three surveys, and three lengths."""
    return [simulate_survey(survey, 1, seed=1201)[0] for survey in ("sdss", "galah", "lamost")]


@pytest.fixture
def nothing(spectra):
    """A spectrum without a good pixel."""
    return Spectrum(spectra[0].flux, spectra[0].wavelength, ivar=np.zeros(len(spectra[0])), object_id="dark")


@every_task
def test_a_folder_becomes_the_familys_pipeline(task, pipes):
    assert type(pipes[task].model) is MODELS[task]
    processor = pipes[task].feature_extractor
    assert type(processor) is SpectrumImageProcessor
    assert (processor.plot_type, processor.image_size, processor.medium) == (PLOT_TYPES[task], 96, "air")


@every_task
def test_answers_are_the_models(task, pipes, spectra):
    pipe, spectrum = pipes[task], spectra[0]
    with torch.no_grad():
        outputs = pipe.model(pipe.feature_extractor(spectrum, return_tensors="pt")["pixel_values"])
    answer = pipe(spectrum)
    if task == "spectrum-classification":
        scores = {one["label"]: one["score"] for one in answer}
        found, expected = [scores[name] for name in ("GALAXY", "QSO", "STAR")], outputs.logits[0].softmax(-1)
    elif task == "stellar-parameters":
        found = [one[name] for name in ("value", "uncertainty") for one in answer.values()]
        expected = torch.cat([outputs.predictions[0], outputs.uncertainties[0]])
        assert {name: one["unit"] for name, one in answer.items()} == {"teff": "K", "logg": "dex(cm/s2)"}
    elif task == "spectrum-redshift":
        found = [answer[name] for name in ("redshift", "uncertainty", "confidence")]
        expected = torch.cat([outputs.redshift, outputs.uncertainty, outputs.confidence])
    else:
        found, expected = answer["embedding"], outputs.pooler_output[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@every_task
def test_batches_answer_as_one_by_one_and_every_spectrum_has_its_own(task, pipes, spectra):
    pipe = pipes[task]
    alone = [pipe(spectrum) for spectrum in spectra]
    flat = [np.array(numbers(answer)) for answer in alone]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(flat[first], flat[second], rtol=1e-4)
    for batch_size in (2, 3):
        for answer, expected in zip(pipe(spectra, batch_size=batch_size), alone, strict=True):
            assert_alike(answer, expected)
    assert_alike(pipe(as_mapping(spectra[1])), alone[1])
    arrays = spectra[2]
    given = pipe(arrays.flux, wavelength=arrays.wavelength, ivar=np.where(arrays.mask, 0, arrays.ivar))
    assert_alike(given, alone[2])


@every_task
def test_a_spectrum_that_shows_nothing_is_refused_or_answered_by_none(task, pipes, spectra, nothing):
    pipe = pipes[task]
    with pytest.raises(ValueError, match=r"dark.*has no good pixel: drop it, or pass on_invalid"):
        pipe(nothing)
    first, middle, last = pipe([spectra[0], nothing, spectra[1]], on_invalid="mask", batch_size=3)
    for answer, spectrum in ((first, spectra[0]), (last, spectra[1])):
        assert_alike(answer, pipe(spectrum))
    json.dumps(middle, allow_nan=False)
    if task == "spectrum-classification":
        assert [one["score"] for one in middle] == [None] * 3
    elif task == "stellar-parameters":
        assert all(one["value"] is None and one["uncertainty"] is None for one in middle.values())
    elif task == "spectrum-redshift":
        assert middle["redshift"] is None and middle["zwarn"] & 4 and "no valid patch" in middle["warnings"]
    else:
        assert middle == {"embedding": None}


def test_the_encoder_below_a_head_embeds(folders, spectra):
    with_head = pipeline("spectrum-embedding", model=folders["spectrum-redshift"])
    assert type(with_head.model) is SpectrumVitModel
    model = SpectrumVitForRedshift.from_pretrained(folders["spectrum-redshift"]).spectrum_vit
    inputs = AutoProcessor.from_pretrained(folders["spectrum-redshift"])(spectra, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).pooler_output
    found = [one["embedding"] for one in with_head(spectra)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_pictures_have_no_tokens_and_no_reconstruction(pipes, folders, spectra):
    with pytest.raises(ValueError, match="tokens"):
        pipes["spectrum-embedding"](spectra[0], return_tokens=True)
    with pytest.raises(ValueError, match=r"Unrecognized configuration class .*SpectrumVitConfig"):
        pipeline("spectrum-reconstruction", model=folders["spectrum-embedding"])


@pytest.mark.parametrize("wrong", ["stellar-parameters", "spectrum-redshift"])
def test_a_model_of_another_task_is_refused(wrong, folders):
    """By its missing weights, or by the name of its class."""
    with pytest.raises(ValueError, match=f"{wrong!r} needs a trained|needs target_names"):
        pipeline(wrong, model=folders["spectrum-classification"])
    model = SpectrumVitForSpectrumClassification.from_pretrained(folders["spectrum-classification"])
    with pytest.raises(ValueError, match="that is of the pipeline 'spectrum-classification'"):
        pipeline(wrong, model=model, feature_extractor=model.own_processor())


def test_a_saved_pipeline_is_the_same(pipes, spectra, tmp_path):
    pipe = pipes["spectrum-redshift"]
    pipe.save_pretrained(str(tmp_path))
    again = pipeline("spectrum-redshift", model=str(tmp_path))
    assert again.feature_extractor.to_dict() == pipe.feature_extractor.to_dict()
    assert_alike(again(spectra[0]), pipe(spectra[0]))


def test_a_plain_classifier_of_transformers_reads_the_same_pictures(spectra):
    """`pixel_values` fit any image model."""
    torch.manual_seed(0)
    plain = ViTForImageClassification(ViTConfig(**{name: VISION[name] for name in VISION if name != "model_type"}))
    inputs = SpectrumImageProcessor(image_size=96)(spectra, return_tensors="pt")
    with torch.no_grad():
        logits = plain.eval()(**inputs).logits
    assert logits.shape == (3, 2) and len(torch.unique(logits[:, 0])) == 3


def test_folders_run_where_this_package_is_absent(folders, pipes, spectra, tmp_path):
    expected = {task: pipe(spectra[0]) for task, pipe in pipes.items()}
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    columns = {name: getattr(spectra[0], name) for name in ("flux", "wavelength", "ivar", "mask")}
    np.savez(tmp_path / "spectrum.npz", **columns)
    code = (
        "import json, sys\n"
        "sys.modules['spectok_hf'] = None\n"  # as if it were not installed
        "import numpy as np\n"
        "from transformers import pipeline\n"
        "arrays = dict(np.load('spectrum.npz'))\n"
        "found = {}\n"
        "for task, folder in json.loads(sys.argv[1]).items():\n"
        "    pipe = pipeline(task, model=folder, trust_remote_code=True)\n"
        f"    found[task] = pipe({{**arrays, 'medium': {spectra[0].medium!r}}})\n"
        "json.dump(found, open('found.json', 'w'))\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, json.dumps(folders)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    for task, answer in expected.items():
        assert_alike(found[task], answer)
