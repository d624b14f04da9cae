"""The endpoint handler beside an AstroCLIP: it answers about spectra with images as the pipeline does."""

import base64
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectok_hf import AstroClipConfig, AstroClipModel, AstroClipProcessor, SpectrumProcessor, simulate_survey

SPECTRUM_CONFIG = {
    "model_type": "spectok",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 16,
}
VISION_CONFIG = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 24,
    "patch_size": 8,
}
EMBED = {"task": "spectrum-embedding"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = AstroClipConfig(spectrum_config=SPECTRUM_CONFIG, vision_config=VISION_CONFIG, projection_dim=16)
    model = AstroClipModel(config)
    model.remember_processor(AstroClipProcessor(SpectrumProcessor(patch_size=16), image_size=24))
    model.save_pretrained(folder := tmp_path_factory.mktemp("astroclip"))
    return folder


def load_handler(folder):
    """As an endpoint does: from the file in the folder, by its path."""
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def handler(folder):
    return load_handler(folder)


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("spectrum-image-similarity", model=str(folder))


def make_spectrum(seed, pixels):
    rng = np.random.default_rng(seed)
    flux = 5 + 3 * np.sin(np.arange(pixels) / (5 + 3 * seed)) + rng.normal(0, 0.3, pixels)
    axis = 4000 + 1.5 * np.arange(pixels)
    return {"flux": flux.tolist(), "wavelength": axis.tolist(), "ivar": [10.0] * pixels, "object_id": f"s{seed}"}


def make_image(seed):
    flux = np.random.default_rng(seed).normal(0.1 * (1 + seed), 0.05, (3, 30, 28))
    return {"flux": flux.tolist(), "bands": ["g", "r", "z"], "pixel_scale": 0.262, "object_id": f"i{seed}"}


SPECTRA = [make_spectrum(seed, 300 - 70 * seed) for seed in range(3)]
IMAGES = [make_image(seed) for seed in range(4)]
FLUX = np.array(IMAGES[0]["flux"])
QUESTIONS = {
    "a pair": {"spectrum": SPECTRA[0], "image": IMAGES[1]},
    "images for a spectrum": {"spectrum": SPECTRA[1], "images": IMAGES},
    "spectra for an image": {"image": IMAGES[2], "spectra": SPECTRA},
    "a spectrum": {"spectrum": SPECTRA[2]},
    "an image": {"image": IMAGES[3]},
}


def ask(handler, inputs, parameters=None):
    """The answer to a request that came as JSON, and goes as JSON."""
    request = json.loads(json.dumps({"inputs": inputs, "parameters": parameters}))
    return json.loads(json.dumps(handler(request), allow_nan=False))


def numbers(answer):
    """All numbers of an answer, in order."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in numbers(value)]
    if isinstance(answer, list):
        return [number for value in answer for number in numbers(value)]
    return [answer] if isinstance(answer, (int, float)) else []


def check_alike(answer, expected):
    assert numbers(expected), "an answer without numbers proves nothing"
    assert numbers(answer) == pytest.approx(numbers(expected), rel=1e-4, abs=1e-5)
    # What is no number is equal.
    assert re.sub(r"[\d.e-]+", "", json.dumps(answer)) == re.sub(r"[\d.e-]+", "", json.dumps(expected))


@pytest.mark.parametrize("kind", QUESTIONS)
def test_it_answers_as_the_pipeline(handler, pipe, kind):
    assert ask(handler, QUESTIONS[kind]) == pipe(QUESTIONS[kind])


def test_a_list_of_questions_gets_as_many_answers(handler, pipe):
    answers = ask(handler, list(QUESTIONS.values()))
    assert len(answers) == len(QUESTIONS)
    for answer, question in zip(answers, QUESTIONS.values(), strict=True):
        check_alike(answer, pipe(question))
    assert len(ask(handler, [QUESTIONS["a pair"]])) == 1


def test_candidates_are_told_by_their_number_and_name(handler):
    best = ask(handler, QUESTIONS["images for a spectrum"], {"top_k": 2})
    everything = ask(handler, QUESTIONS["images for a spectrum"])
    assert best == everything[:2] and len(everything) == 4
    assert {(one["index"], one["object_id"]) for one in everything} == {(i, f"i{i}") for i in range(4)}


FORMS = {
    "bands last": {"flux": np.moveaxis(FLUX, 0, -1).tolist()},
    "bands in another order": {"flux": FLUX[::-1].tolist(), "bands": ["z", "R", "des-g"]},
    "one mask for all": {"mask": np.zeros(FLUX.shape[1:], int).tolist()},
    "ivar": {"ivar": np.ones(FLUX.shape).tolist()},
    "nothing for what is absent": {"mask": None, "ivar": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_image(handler, form):
    check_alike(ask(handler, {"image": IMAGES[0] | FORMS[form]}), ask(handler, {"image": IMAGES[0]}))


def test_a_pixel_without_data_is_one_under_a_mask(handler):
    holes = np.random.default_rng(0).random(FLUX.shape) < 0.2
    with_null = np.where(holes, None, FLUX).tolist()
    masked = ask(handler, {"image": IMAGES[0] | {"mask": holes.tolist()}})
    assert ask(handler, {"image": IMAGES[0] | {"flux": with_null}}) == masked
    assert masked != ask(handler, {"image": IMAGES[0]})


def test_spectra_may_be_rows_and_files(handler, write_sdss_file, tmp_path):
    with open(write_sdss_file(simulate_survey("sdss", 1, seed=0)[0], tmp_path), "rb") as file:
        content = base64.b64encode(file.read()).decode()
    columns = {("lambda" if name == "wavelength" else name): value for name, value in SPECTRA[0].items()}
    row = {"spectrum": {name: columns[name] for name in ("flux", "lambda", "ivar")}, "object_id": "s0"}
    one, other = ask(handler, [{"spectrum": row}, {"spectrum": {"fits": content}}])
    check_alike(one, ask(handler, {"spectrum": SPECTRA[0]}))
    check_alike(other, ask(handler, {"fits": content}, EMBED) | {"modality": "spectrum"})


def test_it_embeds_spectra_alone(handler, folder):
    embed = pipeline("spectrum-embedding", model=str(folder))
    plain = [{name: np.array(v) if name != "object_id" else v for name, v in one.items()} for one in SPECTRA]
    assert ask(handler, SPECTRA[0], EMBED) == embed(plain[0])
    check_alike(ask(handler, SPECTRA, EMBED), embed(plain))
    assert len(ask(handler, SPECTRA[0], EMBED | {"return_tokens": True})["tokens"]) == 19  # of 300 pixels
    both = {"spectrum": SPECTRA[0], "image": IMAGES[0]}
    assert ask(handler, both, EMBED) == ask(handler, SPECTRA[0], EMBED), "of a row with an image, the spectrum"


def test_what_was_not_observed(handler):
    dark = IMAGES[0] | {"flux": np.full(FLUX.shape, None).tolist()}
    assert "has no good pixel of z, r, g" in handler({"inputs": {"image": dark}})["error"]
    answer = ask(handler, {"spectrum": SPECTRA[0], "images": [dark, IMAGES[1]]}, {"on_invalid": "mask"})
    assert answer[1] == {"index": 0, "object_id": "i0", "similarity": None, "score": None}


# Malformed requests -------------------------------------------------------------------------------


class Untouchable(list):
    """A list that says to be very long, and must not be looked into."""

    def __len__(self):
        return 10**8

    def __iter__(self):
        raise AssertionError("was read")

    __getitem__ = __iter__


def deep(levels=100_000):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


def endless():
    rows = []
    rows.append(rows)
    return rows


MAPPING = "inputs must be a mapping of spectrum, spectra, image, images, as .*, found "
NEITHER = 'expected a mapping with "spectrum" and "image", .*, found '
INPUTS = {
    "a spectrum alone": (SPECTRA[0], MAPPING + 'flux, .* pass the parameters {"task": "spectrum-embedding"}'),
    "an image alone": (IMAGES[0], MAPPING + "bands, flux"),
    "a file": (b"SIMPLE  =", MAPPING + "a bytes of 9"),
    "a file in base64": ({"fits": "U0lNUExF"}, MAPPING + "fits"),
    "a path": ("/etc/passwd", MAPPING + "the text '/etc/passwd'; paths and addresses are not read"),
    "nothing": (None, MAPPING + "None"),
    "many keys": ({f"x{i}": 0 for i in range(10**5)}, MAPPING + "x0, x1"),
    "no mapping in a list": ([QUESTIONS["a pair"], 3], "input 1: " + MAPPING + "3"),
    "no question": ([], "inputs must be 1 to 64 mappings, found 0"),
    "65 questions": ([{}] * 65, "inputs must be 1 to 64 mappings, found 65: send several requests"),
    "an empty mapping": ({}, NEITHER),
    "candidates alone": ({"images": IMAGES}, NEITHER),
    "two spectra sides": ({"spectrum": SPECTRA[0], "spectra": SPECTRA}, NEITHER),
    "no candidates": ({"spectrum": SPECTRA[0], "images": []}, "images must be 1 to 64 images, found 0"),
    "65 images": ({"spectrum": SPECTRA[0], "images": [{}] * 65}, "images must be 1 to 64 images, found 65"),
    "65 spectra": ({"image": IMAGES[0], "spectra": [{}] * 65}, "spectra must be 1 to 64 spectra, found 65"),
    "one as images": ({"spectrum": SPECTRA[0], "images": IMAGES[0]}, "images must be a list of images, found a dict"),
    "several as image": ({"image": IMAGES}, "image: an image must be a mapping, as .*, found a list of 4"),
    "several as spectrum": ({"spectrum": SPECTRA}, "spectrum: a spectrum must be a mapping, .* found a list of 3"),
    "a path as spectrum": ({"spectrum": "/etc/passwd"}, "spectrum: a spectrum must .*; paths and addresses are not"),
    "a wrong spectrum": (
        {"image": IMAGES[0], "spectra": [SPECTRA[0], {"flux": "1"}]},
        "spectrum 1: flux must be a list of numbers, one per pixel, found the text '1'",
    ),
    "a wrong candidate": ({"spectrum": SPECTRA[0], "images": [IMAGES[0], {}]}, "image 1: an image needs .* no flux"),
}  # fmt: skip
FIELDS = {
    "a field of others": ({"path": "/etc/passwd"}, "an image may hold flux, bands, pixel_scale, .*, found path as"),
    "a file": ({"fits": "U0lNUExF"}, "an image may hold .*, found fits as well"),
    "no bands": ({"bands": None}, "an image needs flux, bands, pixel_scale, found no bands"),
    "no pixel_scale": ({"pixel_scale": None}, "found no pixel_scale"),
    "a text as flux": ({"flux": "/etc/passwd"}, "flux of an image must be lists by band, row and .* the text"),
    "a number as flux": ({"flux": 1.0}, "flux of an image must be lists by band, row and column, found 1.0"),
    "a row as flux": ({"flux": [1.0, 2.0]}, "flux of an image must be lists .*, found lists nested 1 deep"),
    "four axes": ({"flux": [[[[1.0]]]]}, "flux of an image must be lists by .*, found lists nested 4 deep, or more"),
    "deep flux": ({"flux": deep()}, "lists nested 4 deep, or more"),
    "endless flux": ({"flux": endless()}, "lists nested 4 deep, or more"),
    "no pixel": ({"flux": [[], [], []]}, "flux of an image must have 1 to 500000 pixels, found 0"),
    "10^8 bands": ({"flux": Untouchable()}, "flux of an image must have 1 to 500000 pixels, found 100000000"),
    "10^8 columns": ({"flux": [[Untouchable()]]}, "flux of an image must have 1 to 500000 pixels, found 100000000"),
    "10^6 pixels": ({"flux": [[[0.0] * 1000] * 1000]}, "must have 1 to 500000 pixels, found 1000000"),
    "a hidden long row": ({"flux": [[[1.0] * 2, Untouchable()]]}, "flux of an image must be 2 long in all rows"),
    "ragged rows": ({"flux": [[[1.0] * 3, [1.0] * 2]] * 3}, "must be 3 long in all rows, found a list of 2"),
    "ragged bands": ({"flux": [[[1.0]] * 2, [[1.0]]]}, "must be 2 long in all rows, found a list of 1"),
    "a number for a row": ({"flux": [[[1.0]], [1.0]]}, "must be 1 long in all rows, found 1.0"),
    "text in flux": ({"flux": [[["1"]]]}, "flux must hold numbers only, found the text '1' at pixel 0"),
    "lists in flux": ({"flux": [[[1.0, [1.0]]]]}, "flux must hold numbers only, found a list of 1 at pixel 1"),
    "huge flux": ({"flux": [[[10**400]]]}, "flux holds a number that is no pixel's: int too large"),
    "fractions as mask": ({"mask": [[[0.5]]]}, "mask must hold true .bad. and false only, found 0.5 at pixel 0"),
    "bits as mask": ({"mask": [[[8]]]}, "mask must hold true .bad. and false only, found 8: what the bits"),
    "another mask": ({"mask": [[True]]}, "mask must have the shape of flux"),
    "another ivar": ({"ivar": [[[1.0]]]}, "ivar must have the shape of flux"),
    "two bands": ({"bands": ["g", "r"]}, "flux must have the shape .bands, height, width., found .3, 30, 28. for 2|"
                                         "neither end could be the 2 bands"),
    "unknown band": ({"bands": ["g", "r", "x"]}, "a band must be one of u, g, r, i, z, y.*found 'x'"),
    "one band twice": ({"bands": ["g", "g", "z"]}, "bands must be named once each, found g, g, z"),
    "bands the model does not know": ({"bands": ["g", "r", "i"]}, "an image must have the bands g, r, z, found no z"),
    "text as bands": ({"bands": "grz"}, "bands must be a list of 1 to 16, .* found the text 'grz'"),
    "no band": ({"bands": []}, "bands must be a list of 1 to 16, .* found a list of 0"),
    "10^8 names": ({"bands": Untouchable()}, "bands must be a list of 1 to 16, .* found a Untouchable"),
    "number as band": ({"bands": ["g", "r", 3]}, "a band must be a text of at most 200 characters, found 3"),
    "text as pixel_scale": ({"pixel_scale": "0.262"}, "pixel_scale must be .* in arcsec, found the text '0.262'"),
    "true as pixel_scale": ({"pixel_scale": True}, "pixel_scale must be the size of a pixel in arcsec, found True"),
    "huge pixel_scale": ({"pixel_scale": 10**400}, "pixel_scale must be .* found a whole number of 1329 bits"),
    "NaN as pixel_scale": ({"pixel_scale": float("nan")}, "pixel_scale must be .* in arcsec, found nan"),
    "degrees": ({"pixel_scale": 0.262 / 3600}, "pixel_scale must be in arcsec, 0.005 to 10, .* multiply degrees"),
    "other pixels": ({"pixel_scale": 0.4}, "pixels must be 0.262 arcsec wide, found 0.4"),
    "a small image": ({"flux": FLUX[:, :20].tolist()}, "an image must have 24 x 24 pixels or more"),
    "a long identifier": ({"object_id": "a" * 201}, "object_id must be a text of at most 200"),
}  # fmt: skip
PARAMETERS = {
    "text as top_k": ({"top_k": "2"}, "top_k must be a whole number, found the text '2'"),
    "top_k of nothing": ({"top_k": 0}, "top_k must be 1 or more, found 0"),
    "top_k of a pair": ({"top_k": 1}, "top_k=1 needs candidates, found none"),
    "another task's": ({"return_tokens": True}, "of spectrum-image-similarity are task, on_invalid, top_k, found"),
    "another head's": ({"task": "spectrum-redshift"}, "task must be one of spectrum-image-similarity, spectrum-embed"),
}  # fmt: skip


def check_refused(handler, inputs, words, parameters=None):
    """A short error that says what is wrong, and nothing of the server."""
    answer = handler({"inputs": inputs, "parameters": parameters})
    assert set(answer) == {"error", "error_type"} and answer["error_type"] in ("RequestError", "ValueError")
    assert re.search(words, answer["error"]), answer["error"]
    assert len(json.dumps(answer)) < 1000
    for path in (handler.folder, "/tmp/", "site-packages", "/home/"):
        assert path not in answer["error"], answer["error"]


@pytest.mark.parametrize("kind", INPUTS)
def test_what_is_no_question(handler, kind):
    check_refused(handler, *INPUTS[kind])


@pytest.mark.parametrize("kind", FIELDS)
def test_what_is_no_image(handler, kind):
    fields, words = FIELDS[kind]
    check_refused(handler, {"spectrum": SPECTRA[0], "image": IMAGES[0] | fields}, words)
    check_refused(handler, [{"spectrum": SPECTRA[0], "images": [IMAGES[1], IMAGES[0] | fields]}], words)


@pytest.mark.parametrize("kind", PARAMETERS)
def test_parameters_that_are_wrong(handler, kind):
    parameters, words = PARAMETERS[kind]
    check_refused(handler, QUESTIONS["a pair"], words, parameters)


def test_a_pickle_is_not_executed(handler):
    content = pickle.dumps(np.ones(3))
    text = base64.b64encode(content).decode()
    for image in (content, text, {"flux": content}, {"flux": text}):
        image = image | {"bands": ["g"], "pixel_scale": 0.262} if isinstance(image, dict) else image
        check_refused(handler, {"image": image}, "image: .* must be (a mapping|lists)")


def test_limits_hold_for_all_questions_of_a_request(folder, monkeypatch):
    pixels = FLUX.size
    limits = {"MAX_SPECTRA": 3, "MAX_TOTAL_PIXELS": 700, "MAX_IMAGES": 5}
    limits |= {"MAX_IMAGE_PIXELS": pixels, "MAX_TOTAL_IMAGE_PIXELS": 4 * pixels}
    for name, value in limits.items():
        monkeypatch.setenv(f"SPECTOK_{name}", str(value))
    handler = load_handler(folder)
    assert len(ask(handler, {"image": IMAGES[0], "spectra": SPECTRA})) == 3
    short, image = SPECTRA[2], IMAGES[0]
    tiny = {"flux": [[1.0] * 24] * 24, "bands": ["g"], "pixel_scale": 0.262}
    refused = [
        ([{}] * 4, "inputs must be 1 to 3 mappings, found 4"),
        ([{"image": image, "spectra": [short] * 2}] * 2, "a request may have 3 spectra in all, found 4 or more: send"),
        ({"image": image, "spectra": [SPECTRA[0]] * 3}, "may have 700 pixels in all, found more after spectrum 2"),
        ([{"spectrum": SPECTRA[0]}] * 3, "a request may have 700 pixels of spectra in all, found 900 or more"),
        ([{"spectrum": short, "images": [tiny] * 3}] * 2, "a request may have 5 images in all, found 6 or more"),
        ({"spectrum": short, "images": IMAGES + IMAGES[:1]}, f"may have {4 * pixels} pixels in all, found more after"),
        ([{"spectrum": short, "images": IMAGES}, {"image": image}], "pixels of images in all, found 12600 or more"),
        ({"image": image | {"flux": [*IMAGES[0]["flux"], [[0.0]]]}}, f"1 to {pixels} pixels, found {pixels // 3 * 4}"),
    ]
    for inputs, words in refused:
        check_refused(handler, inputs, words)


# An endpoint that has transformers and the folder, and never saw this package.
ENDPOINT = """
import importlib.util, json, sys
sys.modules["spectok_hf"] = None  # an import of it fails
spec = importlib.util.spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(sys.argv[1])
with open(sys.argv[2]) as file:
    print(json.dumps([handler(request) for request in json.load(file)], allow_nan=False))
"""


def test_it_answers_where_the_package_is_not_installed(handler, folder, tmp_path):
    requests = [{"inputs": question} for question in QUESTIONS.values()]
    requests += [{"inputs": SPECTRA, "parameters": EMBED}, {"inputs": {"spectrum": SPECTRA[0], "image": {}}}]
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    done = subprocess.run(
        [sys.executable, "-c", ENDPOINT, str(folder), str(tmp_path / "requests.json")],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    *answers, refused = json.loads(done.stdout.splitlines()[-1])
    for answer, request in zip(answers, requests, strict=False):
        check_alike(answer, handler(request))
    assert refused["error"] == "image: an image needs flux, bands, pixel_scale, found no flux"
