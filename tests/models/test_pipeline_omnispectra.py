"""The pipelines on OmniSpectra, and its folders where the package is absent."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_pipeline_spectok import FIELDS, as_mapping, assert_alike, numbers
from transformers import AutoProcessor, pipeline

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
    OmniSpectraProcessor,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.models.wavelength import air_to_vacuum

FIELDS = {
    name: value for name, value in FIELDS.items() if name not in ("decoder_num_hidden_layers", "wavelength_pooling")
}
MODELS = {
    "spectrum-classification": OmniSpectraForSpectrumClassification,
    "stellar-parameters": OmniSpectraForStellarRegression,
    "spectrum-redshift": OmniSpectraForRedshift,
    "spectrum-reconstruction": OmniSpectraForPreTraining,
    "spectrum-embedding": OmniSpectraModel,
}
every_task = pytest.mark.parametrize("task", MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint for every task, by task; each was trained on air wavelengths."""
    found = {}
    for task, model_class in MODELS.items():
        torch.manual_seed(0)
        model = model_class(OmniSpectraConfig(**FIELDS)).eval()
        model.remember_processor(OmniSpectraProcessor(medium="air"))
        found[task] = str(tmp_path_factory.mktemp(task))
        model.save_pretrained(found[task])
    return found


@pytest.fixture(scope="module")
def pipes(folders):
    return {task: pipeline(task, model=folder) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def spectra():
    """Of three surveys, and three lengths."""
    return [simulate_survey(survey, 1, seed=1004)[0] for survey in ("sdss", "galah", "lamost")]


@every_task
def test_a_folder_becomes_the_familys_pipeline(task, pipes):
    assert type(pipes[task].model) is MODELS[task]
    assert type(pipes[task].feature_extractor) is OmniSpectraProcessor
    assert pipes[task].feature_extractor.medium == "air"


@every_task
def test_answers_are_the_models(task, pipes, spectra):
    pipe, spectrum = pipes[task], spectra[0]
    with torch.no_grad():
        outputs = pipe.model(**pipe.feature_extractor(spectrum, return_tensors="pt"))
    answer = pipe(spectrum)
    if task == "spectrum-classification":
        scores = {one["label"]: one["score"] for one in answer}
        found, expected = [scores[name] for name in ("GALAXY", "QSO", "STAR")], outputs.logits[0].softmax(-1)
    elif task == "stellar-parameters":
        found, expected = [one["value"] for one in answer.values()], outputs.predictions[0]
    elif task == "spectrum-redshift":
        found, expected = [answer["redshift"]], outputs.redshift
    elif task == "spectrum-embedding":
        found, expected = answer["embedding"], outputs.pooler_output[0]
    else:  # not what comes of patches that are seen
        processor = pipe.feature_extractor
        with torch.no_grad():
            outputs = pipe.model.reconstruct(**processor(spectrum, return_tensors="pt"))
        whole = processor.post_process_reconstruction(outputs, spectrum)[0]
        found, expected = answer["flux"], torch.tensor(whole.flux)
        assert answer["coverage"] == (~whole.mask).astype(int).tolist() and answer["medium"] == spectrum.medium
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@every_task
def test_batches_of_any_lengths_answer_as_one_by_one_and_every_spectrum_has_its_own(task, pipes, spectra):
    pipe = pipes[task]
    alone = [pipe(spectrum) for spectrum in spectra]
    flat = [np.array(numbers(answer)) for answer in alone]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert len(flat[first]) != len(flat[second]) or not np.allclose(flat[first], flat[second], rtol=1e-4)
    for batch_size in (2, 3):
        for answer, expected in zip(pipe(spectra, batch_size=batch_size), alone, strict=True):
            assert_alike(answer, expected)
    assert_alike(pipe(as_mapping(spectra[1])), alone[1])


def test_tokens_are_those_of_real_patches(pipes, spectra):
    pipe = pipes["spectrum-embedding"]
    answers = pipe(spectra, batch_size=3, return_tokens=True)
    counts = [pipe.feature_extractor.count_patches(s.wavelength, medium=s.medium) for s in spectra]
    assert [len(answer["tokens"]) for answer in answers] == [len(a["token_wavelength"]) for a in answers] == counts
    assert {answer["medium"] for answer in answers} == {"air"}
    assert {len(token) for answer in answers for token in answer["tokens"] if token} == {32}


def test_reconstructions_come_on_a_grid_of_ones_own(pipes, spectra):
    pipe, spectrum = pipes["spectrum-reconstruction"], spectra[1]  # GALAH, in air, as the checkpoint
    grid = np.arange(4600, 8000, 0.77)
    native, answer = pipe(spectrum), pipe(spectrum, grid=grid, grid_medium="air")
    assert answer["wavelength"] == grid.tolist() and answer["medium"] == "air" and len(answer["flux"]) == len(grid)
    wavelength, covered = np.array(native["wavelength"]), np.array(native["coverage"]) > 0
    nearest = np.abs(grid[:, None] - wavelength[covered]).min(1)
    found = np.array(answer["coverage"]) > 0
    assert found[nearest < 0.02].all() and not found[nearest > 2].any()  # between the arms, and beyond them
    expected = np.interp(grid, wavelength, native["flux"])
    steps = np.abs(np.diff(native["flux"])).max()
    assert np.abs(np.array(answer["flux"]) - expected)[found & (nearest < 0.02)].max() < 0.6 * steps
    own = pipe(spectrum, grid=wavelength, grid_medium="air")
    assert own["coverage"] == native["coverage"]
    np.testing.assert_allclose(np.array(own["flux"])[covered], np.array(native["flux"])[covered], atol=0.03 * steps)
    in_vacuum = pipe(spectrum, grid=air_to_vacuum(grid))
    assert in_vacuum["medium"] == "vacuum" and in_vacuum["coverage"] == answer["coverage"]
    np.testing.assert_allclose(in_vacuum["flux"], answer["flux"], atol=0.03 * steps)


@every_task
def test_a_spectrum_without_data_is_refused_or_answered_with_none(task, pipes, spectra):
    bad = as_mapping(spectra[0]) | {"mask": np.ones(len(spectra[0]), dtype=bool)}
    with pytest.raises(ValueError, match=r"has no patch of which more than half .*on_invalid=\"mask\""):
        pipes[task](bad)
    answer = pipes[task](bad, on_invalid="mask")
    json.dumps(answer, allow_nan=False)
    if task == "spectrum-reconstruction":
        assert not any(answer["coverage"]) and set(answer["flux"]) == {None}
    if task == "spectrum-embedding":
        assert answer["embedding"] is None
    mixed = pipes[task]([bad, spectra[0]], on_invalid="mask", batch_size=2)
    assert_alike(mixed[1], pipes[task](spectra[0]))


def test_a_model_in_training_reconstructs_as_in_evaluation(folders, pipes, spectra):
    model = OmniSpectraForPreTraining.from_pretrained(folders["spectrum-reconstruction"]).train()
    assert_alike(
        pipeline("spectrum-reconstruction", model=model)(spectra[0]), pipes["spectrum-reconstruction"](spectra[0])
    )


def test_a_processor_that_cuts_otherwise_is_refused(tmp_path):
    model = OmniSpectraModel(OmniSpectraConfig(**FIELDS))
    for processor, found in (
        (OmniSpectraProcessor(patch_overlap=5), "patch_size=20, patch_overlap=5"),
        (OmniSpectraProcessor(patch_size=32, patch_overlap=10), "patch_size=32, patch_overlap=10"),
    ):
        with pytest.raises(
            ValueError, match=f"as the model reads them, patch_size=20, patch_overlap=10, found {found}"
        ):
            model.remember_processor(processor)
    with pytest.raises(ValueError, match="needs the processor OmniSpectraProcessor, found SpectrumProcessor"):
        model.remember_processor(SpectrumProcessor(patch_size=20))
    OmniSpectraProcessor(patch_overlap=5).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"found patch_size=20, patch_overlap=5 in .*preprocessor_config\.json"):
        model.save_pretrained(tmp_path)


def test_a_processor_that_nobody_named_cuts_as_the_model_reads(tmp_path):
    OmniSpectraModel(OmniSpectraConfig(**FIELDS, patch_size=16, patch_overlap=3)).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is OmniSpectraProcessor and (processor.patch_size, processor.patch_overlap) == (16, 3)


# What someone does who has a folder, and never saw this package.
LOAD = """
import json, sys
sys.modules["spectok_hf"] = None  # an import of it fails
import numpy as np, torch, transformers

columns = dict(np.load(sys.argv[1]))
spectrum = {name: columns[name] for name in ("flux", "wavelength", "ivar", "mask")}
answers = {}
for task, folder, auto_class in json.loads(sys.argv[2]):
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
    assert processor.patch_overlap == model.config.patch_overlap == 10 and processor.medium == "air"
    with torch.no_grad():
        model(**processor(spectrum, return_tensors="pt"))
    answers[task] = transformers.pipeline(task, model=folder, trust_remote_code=True)(spectrum)
print(json.dumps(answers))
"""


def test_a_folder_alone_gives_the_same_answers(folders, pipes, spectra, tmp_path):
    columns = {name: getattr(spectra[0], name) for name in ("flux", "wavelength", "ivar", "mask")}
    np.savez(tmp_path / "spectrum.npz", **columns)
    autos = {"spectrum-embedding": "AutoModel", "spectrum-reconstruction": "AutoModelForPreTraining"}
    wanted = [(task, folders[task], autos.get(task, "AutoModelForSequenceClassification")) for task in MODELS]
    arguments = [str(tmp_path / "spectrum.npz"), json.dumps(wanted)]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *arguments],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    for task in MODELS:
        assert_alike(answers[task], pipes[task](columns))
