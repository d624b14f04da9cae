"""The endpoint handler of a saved folder: it answers documented requests as the pipeline does, and refuses others."""

import base64
import builtins
import gzip
import importlib.util
import io
import json
import pickle
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    SpectrumProcessor,
    simulate_survey,
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "wavelength_dim": 4,
    "wavelength_pooling": "mean",
    "target_names": ["teff", "logg"],
    "target_units": ["K", "dex"],
    "id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"},
}
MODELS = {
    "spectrum-classification": SpecTokForSpectrumClassification,
    "stellar-parameters": SpecTokForStellarRegression,
    "spectrum-redshift": SpecTokForRedshift,
    "spectrum-reconstruction": SpecTokForPreTraining,
    "spectrum-embedding": SpecTokModel,
}
AXIS = 4000.0 + 2.0 * np.arange(160)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint for each task."""
    folders = {}
    for task, model_class in MODELS.items():
        torch.manual_seed(0)
        model = model_class(SpecTokConfig(**SIZES))
        model.remember_processor(SpectrumProcessor())
        folders[task] = tmp_path_factory.mktemp(task)
        model.save_pretrained(folders[task])
    return folders


def load_handler(folder):
    """As an endpoint does: from the file in the folder, by its path."""
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


@pytest.fixture(scope="module")
def handlers(folders):
    return {task: load_handler(folder) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def pipelines(folders):
    return {task: pipeline(task, model=str(folder)) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def handler(handlers):
    return handlers["spectrum-classification"]


@pytest.fixture(scope="module")
def spectra():
    """Three of different lengths, as lists, as JSON has them."""
    rng = np.random.default_rng(3)
    return [
        {
            "flux": (2 + np.sin(AXIS[:pixels] / 50) + rng.normal(0, 0.1, pixels)).tolist(),
            "wavelength": AXIS[:pixels].tolist(),
            "ivar": rng.uniform(50, 150, pixels).tolist(),
        }
        for pixels in (160, 96, 130)
    ]


@pytest.fixture(scope="module")
def fits_content(write_sdss_file, tmp_path_factory):
    spectrum = simulate_survey("sdss", 1, seed=0)[0]
    return Path(write_sdss_file(spectrum, tmp_path_factory.mktemp("sent"))).read_bytes()


def ask(handler, request):
    """The answer to a request that came as JSON, and goes as JSON."""
    return json.loads(json.dumps(handler(json.loads(json.dumps(request))), allow_nan=False))


def flat(answer):
    """Numbers of an answer, in order, and all else that it says."""
    if isinstance(answer, dict):
        answer = [part for item in sorted(answer.items()) for part in item]
    if isinstance(answer, list):
        parts = [flat(part) for part in answer]
        return [n for numbers, _ in parts for n in numbers], [word for _, words in parts for word in words]
    is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
    return ([answer], []) if is_number else ([], [answer])


def check_close(answer, expected):
    numbers, words = flat(answer)
    expected_numbers, expected_words = flat(expected)
    assert words == expected_words and numbers == pytest.approx(expected_numbers, rel=1e-5, abs=1e-5)
    assert numbers


def change(spectrum, **fields):
    return spectrum | fields


# Documented requests ------------------------------------------------------------------------------

FORMS = {
    "ivar": lambda s: s,
    "error": lambda s: {"flux": s["flux"], "wavelength": s["wavelength"], "error": [0.1] * len(s["flux"])},
    "one error": lambda s: {"flux": s["flux"], "wavelength": s["wavelength"], "error": 0.1},
    "mask": lambda s: change(s, mask=[pixel % 7 == 0 for pixel in range(len(s["flux"]))]),
    "mask of 0 and 1": lambda s: change(s, mask=[int(pixel % 7 == 0) for pixel in range(len(s["flux"]))]),
    "no mask": lambda s: change(s, mask=None, medium=None),
    "null pixels": lambda s: change(s, flux=[None, *s["flux"][1:]], ivar=[*s["ivar"][:-1], None]),
    "nm, in air": lambda s: change(
        s, wavelength=[w / 10 for w in s["wavelength"]], wavelength_unit="nm", medium="air"
    ),
    "texts": lambda s: change(s, object_id="a", flux_unit="W/m2/um", frame="rest"),
    "number as object_id": lambda s: change(s, object_id=2**53 + 1),
}
PARAMETERS = {
    "spectrum-classification": [{}, {"top_k": 2}],
    "stellar-parameters": [{}, {"on_invalid": "mask"}],
    "spectrum-redshift": [{}, {"return_posterior": True}],
    "spectrum-reconstruction": [{}, {"grid": np.arange(4100.0, 4200.0).tolist(), "grid_medium": "air"}],
    "spectrum-embedding": [{}, {"return_tokens": True}],
}


def for_pipeline(spectrum):
    """What the same spectrum is in Python."""
    plain = {name: value for name, value in spectrum.items() if value is not None}
    for name in ("flux", "wavelength", "ivar"):
        if name in plain:
            plain[name] = np.array(plain[name], dtype=float)
    return plain


@pytest.mark.parametrize("task", MODELS)
def test_each_task_answers_as_its_pipeline(handlers, pipelines, spectra, task):
    for parameters in PARAMETERS[task]:
        one = ask(handlers[task], {"inputs": spectra[0], "parameters": parameters})
        assert one == pipelines[task](for_pipeline(spectra[0]), **parameters)
        several = ask(handlers[task], {"inputs": spectra, "parameters": parameters})
        assert len(several) == 3
        for answer, spectrum in zip(several, spectra, strict=True):
            check_close(answer, pipelines[task](for_pipeline(spectrum), **parameters))
    assert flat(several[0]) != flat(several[2])
    assert len(ask(handlers[task], {"inputs": [spectra[0]]})) == 1


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_spectrum(handlers, pipelines, spectra, form):
    sent = FORMS[form](spectra[0])
    for task in ("spectrum-classification", "spectrum-reconstruction"):
        expected = pipelines[task](for_pipeline(sent))
        assert ask(handlers[task], {"inputs": sent}) == expected
        check_close(ask(handlers[task], {"inputs": [spectra[1], sent], "parameters": None})[1], expected)


@pytest.mark.parametrize("axis", ["lambda", "wavelength", "loglam"])
def test_a_dataset_row(handlers, spectra, axis):
    one = spectra[0]
    values = np.log10(one["wavelength"]).tolist() if axis == "loglam" else one["wavelength"]
    row = {"flux": one["flux"], axis: values, "ivar": one["ivar"], "mask": [False] * 160, "lsf_sigma": [1.0] * 160}
    sent = {"spectrum": row, "object_id": "b'17'", "Z": 0.1, "image": {"path": "/etc/passwd"}}
    answer = ask(handlers["spectrum-reconstruction"], {"inputs": sent})
    check_close(answer, ask(handlers["spectrum-reconstruction"], {"inputs": one | {"object_id": "17"}}))
    assert answer["object_id"] == "17"


def test_a_row_says_its_fields_beside_or_inside_the_spectrum(handlers, spectra):
    one, handler = spectra[0], handlers["spectrum-reconstruction"]
    row = {"flux": one["flux"], "lambda": one["wavelength"], "ivar": one["ivar"]}
    for sent in ({"spectrum": row, "medium": "air"}, {"spectrum": row | {"medium": "air"}}):
        assert ask(handler, {"inputs": sent})["medium"] == "air"
    mask = [False] * 100 + [True] * 60
    answers = [
        ask(handler, {"inputs": sent})
        for sent in ({"spectrum": row, "mask": mask}, {"spectrum": row | {"mask": mask}}, {"spectrum": row})
    ]
    assert answers[0] == answers[1] != answers[2]


def test_a_row_that_names_its_survey_is_read_by_the_package_or_refused(handlers, spectra, monkeypatch):
    """GALAH's wavelengths are in air; these pixels are far from its grid, and stay where they are."""
    one, handler = spectra[0], handlers["spectrum-reconstruction"]
    row = {"flux": one["flux"], "lambda": one["wavelength"], "ivar": one["ivar"]}
    answer = ask(handler, {"inputs": {"spectrum": row, "survey": "galah"}})
    assert answer["medium"] == "air"
    assert ask(handler, {"inputs": {"spectrum": row}})["medium"] == "vacuum"
    bits = {"spectrum": row | {"pix_bitmask": [0] * 150 + [2**23] * 10}, "survey": "sdss"}
    flagged = ask(handlers["spectrum-embedding"], {"inputs": bits})
    assert flagged != ask(handlers["spectrum-embedding"], {"inputs": {"spectrum": row, "survey": "sdss"}})
    assert "survey=" in handler({"inputs": bits | {"survey": None}})["error"]
    monkeypatch.setitem(sys.modules, "spectok_hf.data.readers", None)
    for sent in ({"spectrum": row, "survey": "galah"}, bits):
        assert handler({"inputs": sent})["error_type"] == "ImportError"


def test_a_row_of_an_unknown_survey_must_say_its_medium(handlers, spectra):
    one, handler = spectra[0], handlers["spectrum-reconstruction"]
    row = {"flux": one["flux"], "lambda": one["wavelength"], "ivar": one["ivar"]}
    for sent in ({"spectrum": row, "survey": "galahh"}, {"spectrum": row | {"survey": "mine"}, "medium": None}):
        check_refused(handler, {"inputs": sent}, "survey must be one of sdss, .*, or stand beside a medium, found the")
    for sent in ({"spectrum": row, "survey": "mine", "medium": "air"}, {"spectrum": row, "survey": "GALAH"}):
        assert ask(handler, {"inputs": sent})["medium"] == "air"


@pytest.mark.parametrize("task", MODELS)
def test_every_checkpoint_embeds(folders, handlers, spectra, task):
    expected = pipeline("spectrum-embedding", model=str(folders[task]))(for_pipeline(spectra[0]), return_tokens=True)
    parameters = {"task": "spectrum-embedding", "return_tokens": True}
    assert ask(handlers[task], {"inputs": spectra[0], "parameters": parameters}) == expected
    assert "embedding" not in json.dumps(ask(handlers[task], {"inputs": spectra[0]})) or task == "spectrum-embedding"


def test_fits_files(handlers, pipelines, spectra, fits_content):
    handler, pipe = handlers["spectrum-redshift"], pipelines["spectrum-redshift"]
    expected = pipe(fits_content)
    in_text = {"fits": base64.b64encode(fits_content).decode()}
    assert ask(handler, {"inputs": in_text}) == expected
    for content in (fits_content, bytearray(fits_content)):
        assert handler({"inputs": content}) == expected
    answers = ask(handler, {"inputs": [spectra[0], in_text]})
    check_close(answers, [pipe(for_pipeline(spectra[0])), expected])


@pytest.fixture
def file_of_four():
    """Four spectra on one axis, as DESI's coadds; the second is twice as bright."""
    fits = pytest.importorskip("astropy.io.fits")
    flux = np.tile(2 + np.sin(AXIS / 50), (4, 1)) * [[1], [2], [1], [1]]
    columns = {"flux": flux, "wavelength": np.tile(AXIS, (4, 1)), "ivar": np.full((4, 160), 100.0)}
    table = fits.BinTableHDU.from_columns([fits.Column(name, "160D", array=v) for name, v in columns.items()])
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(file)
    return file.getvalue()


def test_a_file_of_several_spectra(handler, pipelines, spectra, file_of_four, monkeypatch):
    answers = handler({"inputs": file_of_four})
    assert len(answers) == 4 and answers[0] == answers[2]
    check_close(answers, pipelines["spectrum-classification"](file_of_four))
    check_refused(handler, {"inputs": [spectra[0], file_of_four]}, "spectrum 1: a file must hold one .* here, found 4")
    for limit, value in (("max_spectra", 3), ("max_total_pixels", 639), ("max_pixels", 159)):
        monkeypatch.setitem(handler.limits, limit, value)
        check_refused(handler, {"inputs": file_of_four}, rf"may (hold 1 to|have) {value}|of {value} pixels in all")
        monkeypatch.undo()


def test_two_threads_at_once(folders, spectra):
    handler = load_handler(folders["stellar-parameters"])  # a new one: the second pipeline is loaded meanwhile
    alone = [ask(handler, {"inputs": one}) for one in spectra]
    barrier = threading.Barrier(2)

    def work(first):
        barrier.wait()
        answers = []
        for step in range(6):
            spectrum = spectra[(first + step) % 3]
            answers.append((ask(handler, {"inputs": spectrum}), alone[(first + step) % 3]))
            embedding = ask(handler, {"inputs": spectrum, "parameters": {"task": "spectrum-embedding"}})["embedding"]
            assert len(embedding) == SIZES["hidden_size"]
        return answers

    with ThreadPoolExecutor(2) as pool:
        for answers in pool.map(work, (0, 1)):
            for answer, expected in answers:
                assert answer == expected


def test_errors_of_a_list_say_which_spectrum(handler, spectra):
    """Also those that only the pipeline finds, and a name in the answer it is not."""
    in_nm = spectra[1] | {"wavelength": (AXIS[:96] / 10).tolist()}
    blind = spectra[1] | {"ivar": [0.0] * 96}
    for wrong, words in ((in_nm, "wavelength spans 400"), (blind, "Spectrum.unnamed: .* has no patch")):
        check_refused(handler, {"inputs": [spectra[0], spectra[2], wrong]}, f"^spectrum 2: {words}")
        check_refused(handler, {"inputs": wrong}, f"^{words}")


def test_the_noise_may_be_estimated(handler, spectra):
    one = spectra[0] | {"ivar": None, "error": "estimate"}
    row = {"spectrum": {"flux": one["flux"], "lambda": one["wavelength"]}, "error": "estimate"}
    answers = ask(handler, {"inputs": [one, row]})
    assert answers[0] == answers[1] != ask(handler, {"inputs": one | {"error": 100.0}})


# Malformed requests -------------------------------------------------------------------------------


class Executed:
    """Unpickling this would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return builtins.open, (str(self.path), "w")


class Untouchable(list):
    """A list that says to be very long, and must not be looked into."""

    def __len__(self):
        return 10**8

    def __iter__(self):
        raise AssertionError("was read")

    __getitem__ = __iter__


def recursive():
    """A mapping that holds itself wherever it is looked into."""
    spectrum = {}
    spectrum |= {"flux": spectrum, "wavelength": spectrum, "ivar": spectrum}
    return spectrum


def row_of_itself():
    row = {}
    row["spectrum"] = row
    return row


def deep(levels=100_000):
    nested = []
    for _ in range(levels):
        nested = [nested]
    return nested


NOT_FITS = "a file must be uncompressed FITS, which starts with 'SIMPLE  =', found "
# What replaces a part of a valid spectrum, or all of it, and words of the answer.
SPECTRA = {
    "nothing": (None, "a spectrum must be a mapping, as in .*, found None"),
    "a number": (3, "a spectrum must be a mapping, as in .*, found 3"),
    "a path": ("/etc/passwd", "found the text '/etc/passwd'; paths and addresses are not read"),
    "an address": ("https://example.org/a.fits", "paths and addresses are not read"),
    "a path in a list": (["/etc/passwd"], "spectrum 0: .*paths and addresses are not read"),
    "an empty mapping": ({}, "a spectrum needs flux, wavelength and ivar or error, found none"),
    "flux alone": ({"flux": [1.0] * 64}, "found only flux: pass wavelength="),
    "no errors": ({"flux": [1.0] * 160, "wavelength": AXIS.tolist()}, "ivar= and error=, found neither"),
    "an empty list": ([], "inputs must be 1 to 64 spectra, found 0"),
    "65 spectra": ([{}] * 65, "inputs must be 1 to 64 spectra, found 65: send several requests"),
    "a list of numbers": ([1.0, 2.0], "spectrum 0: a spectrum must be a mapping"),
    "nested lists": (deep(), "spectrum 0: a spectrum must be a mapping, .* found a list of 1"),
    "lists of lists": ([[{}]], "spectrum 0: a spectrum must be a mapping, .* found a list of 1"),
    "itself": (recursive(), "flux must be a list of numbers, one per pixel, found a dict of 3"),
    "a row of itself": (row_of_itself(), "a spectrum needs flux"),
    "a row of numbers": ({"spectrum": [1.0, 2.0]}, "spectrum must be a mapping of pixel columns by name"),
    "a row of a path": ({"spectrum": "/etc/passwd"}, "spectrum must be a mapping .* found the text"),
    "a path as fits": ({"fits": "/etc/passwd"}, "base64|" + NOT_FITS),
    "an address as fits": ({"fits": "https://example.org/a.fits"}, "fits must be the content of a file in base64"),
    "fits beside flux": ({"fits": "", "flux": [1.0]}, "a FITS file must be sent alone"),
    "a number as fits": ({"fits": 3}, "a FITS file must be sent alone"),
    "letters as fits": ({"fits": "Ångström"}, "fits must be the content of a file in base64"),
    "no bytes": (b"", NOT_FITS + "b''"),
    "a bomb": (gzip.compress(bytes(10**7)), NOT_FITS),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), NOT_FITS),
    "a web page": (b"<!doctype html>", NOT_FITS),
    "a card alone": (b"SIMPLE  =" + b" " * 71, "the FITS file cannot be read"),
    "an unknown object": (object(), "found a object"),
}  # fmt: skip
FIELDS = {
    "text as flux": ({"flux": "/etc/passwd"}, "flux must be a list of numbers, one per pixel, found the text"),
    "number as flux": ({"flux": 1.0}, "flux must be a list of numbers, one per pixel, found 1.0"),
    "mapping as flux": ({"flux": {"0": 1.0}}, "flux must be a list of numbers, one per pixel, found a dict of 1"),
    "NaN as text": ({"flux": ["NaN"] * 160}, "flux must hold numbers only, found the text 'NaN' at pixel 0"),
    "number as text": ({"ivar": [1.0] * 159 + ["1"]}, "ivar must hold numbers only, found the text '1' at pixel 159"),
    "boolean flux": ({"flux": [True] * 160}, "flux must hold numbers only, found True at pixel 0"),
    "nested flux": ({"flux": [[1.0] * 160]}, "flux must hold numbers only, found a list of 160 at pixel 0"),
    "deep flux": ({"flux": deep()}, "flux must hold numbers only, found a list of 1 at pixel 0"),
    "no pixel": ({"flux": [], "wavelength": [], "ivar": []}, "flux must have 1 to 100000 pixels, found 0"),
    "10^8 pixels": ({"flux": Untouchable()}, "flux must have 1 to 100000 pixels, found 100000000"),
    "10^7 pixels": ({"wavelength": [0] * 10**7}, "wavelength must have 1 to 100000 pixels, found 10000000"),
    "huge flux": ({"flux": [10**400] * 160}, "flux holds a number that is no pixel's: int too large"),
    "huge digits": ({"flux": [10**5000] * 160}, "flux holds a number that is no pixel's: int too large"),
    "huge error": ({"ivar": None, "error": 10**400}, "error holds a number that is no pixel's"),
    "huge mask": ({"mask": [10**5000] * 160}, "mask must hold true .bad. and false only, found a whole number"),
    "boolean error": ({"ivar": None, "error": True}, "error must be a list of numbers, one per pixel, found True"),
    "text as error": ({"ivar": None, "error": "guess"}, "error must be a list of numbers, .* found the text 'guess'"),
    "text as ivar": ({"ivar": "estimate"}, "ivar must be a list of numbers, .* found the text 'estimate'"),
    "ivar and error": ({"error": 0.1}, "exactly one of ivar= and error=, found both"),
    "bits as mask": ({"mask": [8] * 160}, "mask must hold true .bad. and false only, found 8: what the bits"),
    "fractions as mask": ({"mask": [0.5] * 160}, "mask must hold true .bad. and false only, found 0.5 at pixel 0"),
    "text as mask": ({"mask": ["False"] * 160}, "mask must hold true .bad. and false only, found the text 'False'"),
    "other lengths": ({"ivar": [1.0] * 159}, "ivar and wavelength must have the same length, found 159 and 160"),
    "wavelengths fall back": ({"wavelength": [*AXIS.tolist()[:-1], 4000.0]}, "found a decrease at pixel 159"),
    "wavelength repeated": ({"wavelength": [5000.0] * 160}, "strictly increasing, found a repeat at pixel 1"),
    "wavelengths in m": ({"wavelength": (AXIS * 1e-10).tolist()}, "expected Angstrom .about 900-25000."),
    "infinite wavelengths": ({"wavelength": [float("inf")] * 160}, "a spectrum needs at least one pixel"),
    "no good pixel": ({"ivar": [0.0] * 160}, "160 pixels, .* has no patch of which more than half"),
    "nothing but null": ({"flux": [None] * 160}, "160 pixels, .* has no patch of which more than half"),
    "few pixels": ({"flux": [1.0], "wavelength": [5000.0], "ivar": [1.0]}, "1 pixels, .* has no patch of which more"),
    "unknown unit": ({"wavelength_unit": "furlong"}, "wavelength_unit must be one of angstrom, nm, um"),
    "unknown medium": ({"medium": "water"}, "medium must be one of vacuum, air, found 'water'"),
    "list as medium": ({"medium": ["air"]}, "medium must be a text of at most 200 characters, found a list of 1"),
    "mapping as identifier": ({"object_id": {"$ref": "/etc/passwd"}}, "object_id must be a text of at most 200"),
    "long identifier": ({"object_id": "a" * 201}, "object_id must be a text of at most 200 .* found the text 'aa"),
    "huge identifier": ({"object_id": 10**5000}, "object_id must be a text of .* found a whole number of 16610 bits"),
    "unknown field": ({"path": "/etc/passwd"}, "a spectrum may hold flux, .*, found path as well"),
    "a class": ({"__class__": "os.system"}, "a spectrum may hold flux, .*, found __class__ as well"),
    "many unknown fields": ({f"x{i}": 0 for i in range(10**5)}, "a spectrum may hold flux, .*, found x0, x1, "),
    "survey": ({"survey": "desi"}, "a spectrum may hold flux, .*, found survey as well"),
}  # fmt: skip
REQUESTS = {
    "a request of nothing": (None, "a request must be a mapping with inputs, as .*, found None"),
    "a request of a list": ([], "a request must be a mapping with inputs, as .*, found a list of 0"),
    "a request of text": ("{}", "a request must be a mapping with inputs, as .*, found the text '{}'"),
    "a request of bytes": (b"SIMPLE  =", "a request must be a mapping with inputs, as .*, found a bytes of 9"),
    "no inputs": ({"flux": [1.0]}, "a request must be a mapping with inputs, as .*, found a dict of 1"),
    "more than inputs": ({"inputs": {}, "code": "1"}, "a request holds inputs and parameters, found code as well"),
    "keys of numbers": ({"inputs": {}, 1: 2, None: 3}, "a request holds inputs and parameters, found 1, None as well"),
}
PARAMETERS_REFUSED = {
    "a list as parameters": ([], "parameters must be a mapping of names to values, found a list of 0"),
    "unknown task": ({"task": "text-generation"}, "task must be one of .* found the text"),
    "another head's task": ({"task": "stellar-parameters"}, "task must be one of spectrum-classification"),
    "no task": ({"task": ""}, "task must be one of .*, found the text ''"),
    "list as task": ({"task": ["spectrum-embedding"]}, "task must be one of .*, found a list of 1"),
    "text as top_k": ({"top_k": "2"}, "top_k must be a whole number, found the text '2'"),
    "boolean top_k": ({"top_k": True}, "top_k must be a whole number, found True"),
    "list as top_k": ({"top_k": Untouchable()}, "top_k must be a whole number, found "),
    "negative top_k": ({"top_k": -1}, "top_k must be 1 or more, found -1"),
    "top_k of nothing": ({"top_k": 0}, "top_k must be 1 or more, found 0"),
    "text for a boolean": ({"task": "spectrum-embedding", "return_tokens": "yes"}, "return_tokens must be true or"),
    "1 for a boolean": ({"task": "spectrum-embedding", "return_tokens": 1}, "return_tokens must be true or false"),
    "on_invalid": ({"on_invalid": "skip"}, 'on_invalid must be "raise" or "mask" here, found \'skip\''),
    "list as on_invalid": ({"on_invalid": []}, "on_invalid must be a text, found a list of 0"),
    "another task's": ({"return_tokens": True}, "the parameters of spectrum-classification are task"),
    "device": ({"device": "cuda:0"}, "the parameters of .* are task, on_invalid, top_k, found device as well"),
    "trust": ({"trust_remote_code": True}, "found trust_remote_code as well"),
    "batch_size": ({"batch_size": 10**9}, "found batch_size as well"),
    "num_workers": ({"num_workers": 100}, "found num_workers as well"),
    "wavelength": ({"wavelength": [5000.0]}, "found wavelength as well"),
}  # fmt: skip
GRIDS = {
    "text as grid": ("4000-5000", "grid must be a list of numbers, found the text '4000-5000'"),
    "texts as grid": (["4000", "5000"], "grid must hold numbers only, found the text '4000' at pixel 0"),
    "null in grid": ([4000.0, None], "wavelength must be finite, found nan at pixel 1"),
    "grid falls": ([5000.0, 4000.0], "strictly increasing, found a descending axis"),
    "empty grid": ([], "grid must have 1 to 100000 pixels, found 0"),
    "long grid": ([0.0] * 100_001, "grid must have 1 to 100000 pixels, found 100001"),
    "grid in m": ([4e-7, 5e-7], "expected Angstrom"),
}


@pytest.fixture(autouse=True)
def nothing_happened(request, folders, tmp_path, monkeypatch):
    """After a test: the folders and the working folder are as they were."""
    monkeypatch.chdir(tmp_path)
    before = {path: listing(path) for path in (*folders.values(), tmp_path)}
    yield
    assert {path: listing(path) for path in before} == before


def listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if "__pycache__" not in str(path))


@pytest.fixture
def no_file_is_opened(monkeypatch):
    """Opening what a request names fails the test; so does any unpickling."""
    real = builtins.open

    def guarded(file, *args, **kwargs):
        assert "passwd" not in str(file) and "example.org" not in str(file), f"{file} was opened"
        return real(file, *args, **kwargs)

    def unpickled(*args, **kwargs):
        raise AssertionError("was unpickled")

    monkeypatch.setattr(builtins, "open", guarded)
    monkeypatch.setattr(io, "open", guarded)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, unpickled)


def check_refused(handler, request, words):
    """A short error that says what is wrong, soon, and nothing of the server."""
    start = time.perf_counter()
    answer = handler(request)
    assert time.perf_counter() - start < 5
    assert set(answer) == {"error", "error_type"} and answer["error_type"] in ("RequestError", "ValueError")
    assert re.search(words, answer["error"]), answer["error"]
    assert len(json.dumps(answer)) < 1000
    for path in (handler.folder, str(Path.cwd()), "/tmp/", "site-packages", "/home/"):
        assert path not in answer["error"], answer["error"]


@pytest.fixture(scope="module")
def known_answer(handler, spectra):
    return handler({"inputs": spectra[0]})


@pytest.mark.usefixtures("no_file_is_opened")
@pytest.mark.parametrize("kind", SPECTRA)
def test_what_is_no_spectrum(handler, spectra, known_answer, kind):
    inputs, words = SPECTRA[kind]
    check_refused(handler, {"inputs": inputs}, words)
    assert handler({"inputs": spectra[0]}) == known_answer


@pytest.mark.usefixtures("no_file_is_opened")
@pytest.mark.parametrize("kind", FIELDS)
def test_fields_that_are_wrong(handler, spectra, known_answer, kind):
    fields, words = FIELDS[kind]
    check_refused(handler, {"inputs": spectra[0] | fields}, words)
    if kind not in ("no good pixel", "nothing but null", "few pixels"):  # which are named by their number
        check_refused(handler, {"inputs": [spectra[1], spectra[0] | fields]}, words)
    assert handler({"inputs": spectra[0]}) == known_answer


@pytest.mark.usefixtures("no_file_is_opened")
@pytest.mark.parametrize("kind", REQUESTS)
def test_what_is_no_request(handler, kind):
    check_refused(handler, *REQUESTS[kind])


@pytest.mark.usefixtures("no_file_is_opened")
@pytest.mark.parametrize("kind", PARAMETERS_REFUSED)
def test_parameters_that_are_wrong(handler, spectra, known_answer, kind):
    parameters, words = PARAMETERS_REFUSED[kind]
    check_refused(handler, {"inputs": spectra[0], "parameters": parameters}, words)
    assert handler({"inputs": spectra[0]}) == known_answer


@pytest.mark.parametrize("kind", GRIDS)
def test_grids_that_are_wrong(handlers, spectra, kind):
    grid, words = GRIDS[kind]
    check_refused(handlers["spectrum-reconstruction"], {"inputs": spectra[0], "parameters": {"grid": grid}}, words)


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_is_not_executed(handler, tmp_path, protocol):
    target = tmp_path / "executed"
    content = pickle.dumps(Executed(target), protocol)
    text = base64.b64encode(content).decode()
    for inputs in (content, {"fits": text}, [{"fits": text}], [content]):
        check_refused(handler, {"inputs": inputs}, NOT_FITS)
    for inputs in (text, {"flux": text, "wavelength": text}, {"flux": content}, {"spectrum": content}):
        check_refused(handler, {"inputs": inputs}, "must be a (list|mapping)")
    check_refused(handler, {"inputs": Executed(target)}, "a spectrum must be a mapping")
    assert not target.exists()
    pickle.loads(content).close()  # it would have
    assert target.exists()
    target.unlink()


def test_a_path_as_identifier_is_text(handlers, spectra, no_file_is_opened):
    sent = spectra[0] | {"object_id": "/etc/passwd", "flux_unit": "https://example.org"}
    answer = ask(handlers["spectrum-reconstruction"], {"inputs": sent})
    assert (answer["object_id"], answer["flux_unit"]) == ("/etc/passwd", "https://example.org")


def test_limits_come_from_the_environment(folders, spectra, fits_content, monkeypatch):
    monkeypatch.setenv("SPECTOK_MAX_PIXELS", "159")
    monkeypatch.setenv("SPECTOK_MAX_TOTAL_PIXELS", "200")
    monkeypatch.setenv("SPECTOK_MAX_SPECTRA", "3")
    monkeypatch.setenv("SPECTOK_MAX_FILE_BYTES", str(len(fits_content) - 1))
    handler = load_handler(folders["spectrum-embedding"])
    check_refused(handler, {"inputs": spectra[0]}, "flux must have 1 to 159 pixels, found 160")
    check_refused(handler, {"inputs": spectra[1:]}, "may have 200 pixels in all, found more after spectrum 1")
    check_refused(handler, {"inputs": [{}] * 4}, "inputs must be 1 to 3 spectra, found 4")
    axis = {"spectrum": {"lambda": spectra[0]["wavelength"][:150]}}
    apart = [
        axis | {"flux": [1.0] * 150, "ivar": [1.0] * 150},
        {"spectrum": {"flux": [1.0], "pix_bitmask": [0] * 150}},
    ]
    for row in apart:  # its pixels are where the longest array is
        check_refused(handler, {"inputs": [row] * 2}, "may have 200 pixels in all, found more after spectrum 1")
    for sent in (fits_content, {"fits": base64.b64encode(fits_content).decode()}):
        check_refused(
            handler, {"inputs": sent}, f"a file may have {len(fits_content) - 1} bytes, found {len(fits_content)}"
        )
    assert len(handler({"inputs": spectra[1]})["embedding"]) == SIZES["hidden_size"]


def test_a_grid_counts_once_for_each_spectrum(handlers, spectra, monkeypatch):
    handler = handlers["spectrum-reconstruction"]
    monkeypatch.setitem(handler.limits, "max_total_pixels", 599)
    for grid, sent, allowed in ((300, spectra[1:], False), (299, spectra[1:], True), (300, spectra[1], True)):
        request = {"inputs": sent, "parameters": {"grid": np.linspace(4000, 4100, grid).tolist()}}
        if allowed:
            assert "error" not in ask(handler, request)
        else:
            check_refused(handler, request, "onto 599 pixels in all, found 300 of grid for 2: send several requests")


@pytest.mark.parametrize("text", ["32MiB", "0", "-1", ""])
def test_a_limit_that_is_no_number_is_named(folders, monkeypatch, text):
    monkeypatch.setenv("SPECTOK_MAX_FILE_BYTES", text)
    with pytest.raises(ValueError, match=f"SPECTOK_MAX_FILE_BYTES must be a whole number above 0, found '{text}'"):
        load_handler(folders["spectrum-embedding"])


# FITS files that were made to be wrong -------------------------------------------------------------


def edit(content, old, new):
    assert old in content and len(old) == len(new)
    return content.replace(old, new, 1)


def card(name, value):
    return f"{name:<8}= {value:>20}".encode()


def with_cards(*more, **cards):
    """A file of a header alone, with these cards."""
    lines = [card("SIMPLE", "T"), *(card(name, value) for name, value in cards.items()), *more, b"END"]
    return b"".join(line.ljust(80) for line in lines).ljust(2880)


def packed_image(values, claimed=None):
    """An image in compressed tiles, as DESI's masks are; its header may claim more pixels."""
    fits = pytest.importorskip("astropy.io.fits")
    image = fits.CompImageHDU(values[None], compression_type="GZIP_1", tile_shape=(1, len(values)))
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(file)
    axis = b"ZNAXIS1 = %20d"
    return edit(file.getvalue(), axis % len(values), axis % (claimed or len(values)))


def rows_that_share(rows):
    """A table whose rows all point to the same pixels."""
    fits = pytest.importorskip("astropy.io.fits")
    columns = {"flux": np.ones(9000), "wavelength": np.arange(9000.0) + 1000, "ivar": np.ones(9000)}
    first = [fits.Column(name, "PD()", array=[values] * 2) for name, values in columns.items()]
    table = fits.BinTableHDU.from_columns(first)
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(file)
    content = file.getvalue()
    with fits.open(io.BytesIO(content)) as hdus:
        start, size = hdus[1].fileinfo()["datLoc"], hdus[1].header["PCOUNT"]
    header, row, heap = content[:start], content[start : start + 24], content[start + 48 : start + 48 + size]
    content = edit(header, card("NAXIS2", 2), card("NAXIS2", rows)) + row * rows + heap
    return content.ljust(-(-len(content) // 2880) * 2880, b"\0")


def noise(count):
    return np.random.default_rng(0).bytes(count)


CUT = "the FITS file cannot be read: it is truncated: its headers say .* bytes, found "
AXES = "the FITS file cannot be read: NAXIS must be 0 to 999, and NAXIS1, ... as many numbers, found "
ONCE = "the FITS file cannot be read: a header must give {} once, as a whole number, found "
LARGE = "the FITS file cannot be read: it may become .* bytes when it is unpacked, more than 1073741824"
WRONG_FILES = {
    "10^8 pixels": (lambda c: edit(c, rows_card(c), card("NAXIS2", 10**8)), CUT),
    "10^8 pixels in an image": (lambda c: with_cards(BITPIX=-32, NAXIS=1, NAXIS1=10**8), CUT),
    "10^18 pixels in an image": (lambda c: with_cards(BITPIX=-32, NAXIS=1, NAXIS1=10**18), CUT),
    "10^19 pixels in an image": (lambda c: with_cards(BITPIX=-32, NAXIS=1, NAXIS1=10**19), ONCE.format("NAXIS1")),
    "10^12 images of nothing": (lambda c: with_cards(BITPIX=-32, NAXIS=2, NAXIS1=0, NAXIS2=10**12), AXES),
    "10^12 rows of nothing": (
        lambda c: edit(edit(c[:5760], card("NAXIS1", 16), card("NAXIS1", 0)), rows_card(c), card("NAXIS2", 10**12)),
        AXES,
    ),
    "10^9 axes": (lambda c: with_cards(BITPIX=-32, NAXIS=10**9), AXES),  # astropy would look for each of them
    "10^9 columns": (
        lambda c: edit(c, card("TFIELDS", 4), card("TFIELDS", 10**9)),
        "TFIELDS must be 0 to 999, found 10",
    ),
    "less than nothing": (lambda c: with_cards(BITPIX=-32, NAXIS=1, NAXIS1=-2880), AXES),  # the same HDU for ever
    "a negative heap": (lambda c: edit(c, card("PCOUNT", 0), card("PCOUNT", -61520)), "PCOUNT must be 0 to the size"),
    "two sizes": (lambda c: with_cards(b"naxis   = 1", BITPIX=8, NAXIS=0), ONCE.format("NAXIS")),
    "another spelling": (lambda c: with_cards(b"HIERARCH NAXIS=1", BITPIX=8, NAXIS=0), ONCE.format("NAXIS")),
    "no number": (lambda c: with_cards(BITPIX="'x'", NAXIS="'/etc/passwd'"), ONCE.format("BITPIX")),
    "no size": (lambda c: with_cards(), "BITPIX must be 8, 16, 32 or 64, found None"),
    "truncated": (lambda c: c[: len(c) // 2], CUT),
    "truncated header": (lambda c: c[:4000], "cannot be read: the header at byte 2880 has no END"),
    "no table": (lambda c: c[:2880], "unknown layout|no data"),
    "zeros": (lambda c: c[:5760] + bytes(len(c) - 5760), "cannot be read"),
    "zeros behind": (lambda c: c + bytes(2880), "a header must begin with SIMPLE or XTENSION, found .* at byte"),
    "noise": (lambda c: c[:2880] + noise(len(c) - 2880), "a header must begin with SIMPLE or XTENSION"),
    "noise as header": (lambda c: b"SIMPLE  =" + noise(5751), "the header at byte 0 has no END"),
    "a bomb of tiles": (lambda c: packed_image(np.zeros(1000, np.int32), claimed=10**12), LARGE),
    "tiles that may hold a bomb": (lambda c: packed_image(np.frombuffer(noise(2**21), np.int32)), LARGE),
    "shared pixels": (lambda c: rows_that_share(10_000), LARGE),
}


def rows_card(content):
    return re.search(rb"NAXIS2  = +\d+", content)[0]


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_files_that_are_wrong(handler, spectra, fits_content, known_answer, kind):
    make, words = WRONG_FILES[kind]
    content = make(fits_content)
    check_refused(handler, {"inputs": content}, words)
    check_refused(handler, {"inputs": [{"fits": base64.b64encode(content).decode()}]}, f"spectrum 0: .*({words})")
    assert handler({"inputs": spectra[0]}) == known_answer


def test_a_sound_file_in_compressed_tiles_is_looked_into(handler):
    content = packed_image(np.zeros(100_000, np.int32))
    check_refused(handler, {"inputs": content}, "unknown layout: found PRIMARY .no data., COMPRESSED_IMAGE")


@pytest.mark.parametrize("missing", ["spectok_hf", "astropy"])
def test_fits_files_need_the_package_at_the_endpoint(
    handler, fits_content, known_answer, spectra, missing, monkeypatch
):
    monkeypatch.setitem(sys.modules, missing, None)
    answer = handler({"inputs": fits_content})
    assert answer["error_type"] == "ImportError"
    assert answer["error"].startswith("a FITS file needs the package spectok-hf[astro] where the endpoint runs: send")
    assert handler({"inputs": spectra[0]}) == known_answer


def test_a_folder_without_pipelines_is_no_endpoint(folders, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    module = load_handler(folders["spectrum-embedding"]).__class__
    with pytest.raises(ValueError, match=r"config\.json names no pipelines: save the model with spectok_hf once more"):
        module(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"the folder of a checkpoint, found no config\.json in .*: pass one"):
        module(str(tmp_path))
