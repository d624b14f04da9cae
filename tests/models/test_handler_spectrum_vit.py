"""The endpoint handler beside a model of pictures: it answers about spectra as the pipeline does."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectok_hf import SpectrumImageProcessor, SpectrumVitConfig, SpectrumVitForSpectrumClassification

VISION_CONFIG = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
CLASSES = {0: "GALAXY", 1: "QSO", 2: "STAR"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = SpectrumVitConfig(vision_config=VISION_CONFIG, id2label=CLASSES, initializer_range=0.5)
    model = SpectrumVitForSpectrumClassification(config)
    model.remember_processor(SpectrumImageProcessor(image_size=32))
    model.save_pretrained(folder := tmp_path_factory.mktemp("pictures"))
    return folder


@pytest.fixture(scope="module")
def handler(folder):
    """As an endpoint has it: from the file in the folder, by its path."""
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def make_spectrum(seed, pixels=300):
    rng = np.random.default_rng(seed)
    flux = 5 + 3 * np.sin(np.arange(pixels) / (5 + 3 * seed)) + rng.normal(0, 0.3, pixels)
    axis = 4000 + 1.5 * np.arange(pixels)
    return {"flux": flux.tolist(), "wavelength": axis.tolist(), "ivar": [10.0] * pixels, "object_id": f"s{seed}"}


SPECTRA = [make_spectrum(seed, 300 - 70 * seed) for seed in range(3)]


def as_arrays(spectrum):
    return {name: np.array(value) if isinstance(value, list) else value for name, value in spectrum.items()}


@pytest.mark.parametrize("task", ["spectrum-classification", "spectrum-embedding"])
def test_answers_are_those_of_the_pipeline_as_json(task, handler, folder):
    pipe = pipeline(task, model=str(folder))
    wanted = [pipe(as_arrays(one)) for one in SPECTRA]
    parameters = {"task": task}
    assert handler({"inputs": SPECTRA[0], "parameters": parameters}) == json.loads(json.dumps(wanted[0]))
    several = handler({"inputs": SPECTRA, "parameters": parameters})
    if task == "spectrum-embedding":
        found, expected = ([one["embedding"] for one in answers] for answers in (several, wanted))
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(np.subtract(*np.array(found)[:2])).max() > 1e-2
        return
    for one, other in zip(several, wanted, strict=True):
        assert [row["label"] for row in one] == [row["label"] for row in other]
        assert [row["score"] for row in one] == pytest.approx([row["score"] for row in other], abs=1e-6)
    assert several[0] != several[1] and len(several[0]) == 3


def test_its_own_task_is_asked_unless_another_one_is(handler):
    assert handler.tasks == ("spectrum-classification", "spectrum-embedding")
    (best,) = handler({"inputs": SPECTRA[0], "parameters": {"top_k": 1}})
    assert best["label"] in CLASSES.values() and 1 / 3 < best["score"] <= 1


def test_nothing_to_draw_is_an_error_or_no_answer(handler):
    bad = SPECTRA[1] | {"ivar": [0.0] * len(SPECTRA[1]["flux"])}
    refused = handler({"inputs": bad})
    assert refused["error_type"] == "ValueError" and "no good pixel" in refused["error"]
    several = handler({"inputs": [SPECTRA[0], bad], "parameters": {"on_invalid": "mask"}})
    assert {row["label"] for row in several[1]} == set(CLASSES.values())
    assert {row["score"] for row in several[1]} == {None} and None not in {row["score"] for row in several[0]}


def test_pictures_have_no_tokens_to_return(handler):
    answer = handler({"inputs": SPECTRA[0], "parameters": {"task": "spectrum-embedding", "return_tokens": True}})
    assert answer["error_type"] == "ValueError" and "tokens" in answer["error"]
