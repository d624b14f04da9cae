"""How alike spectra and images are, by AstroCLIP."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AstroClipProcessor,
    SkyImage,
    SpecTokConfig,
    SpecTokModel,
    Spectrum,
    SpectrumProcessor,
)
from spectok_hf.models.pipeline_astroclip import SpectrumEmbeddingPipeline, SpectrumImageSimilarityPipeline

SPECTRUM = {
    "model_type": "spectok",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 16,
}
VISION = {
    "model_type": "vit",
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 24,
    "patch_size": 8,
}
CONFIG = AstroClipConfig(spectrum_config=SPECTRUM, vision_config=VISION, projection_dim=16)
PROCESSOR = AstroClipProcessor(SpectrumProcessor(patch_size=16), image_size=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    model = AstroClipModel(CONFIG)
    model.remember_processor(PROCESSOR)
    model.save_pretrained(folder := str(tmp_path_factory.mktemp("astroclip")))
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return SpectrumImageSimilarityPipeline(AstroClipModel.from_pretrained(folder))


def make_spectrum(seed, length=300, **fields):
    rng = np.random.default_rng(seed)
    flux = 5 + 3 * np.sin(np.arange(length) / (5 + 3 * seed)) + rng.normal(0, 0.3, length)
    return Spectrum(flux, 4000 + 1.5 * np.arange(length), np.full(length, 10.0), object_id=f"s{seed}", **fields)


def make_image(seed, **fields):
    rng = np.random.default_rng(seed)
    flux = rng.normal(0.1 * (1 + seed), 0.05, (3, 30, 30)) * rng.uniform(0.2, 2, (3, 1, 1))
    return SkyImage(flux, "grz", 0.262, object_id=f"i{seed}", **fields)


SPECTRA = [make_spectrum(seed, 300 - 70 * seed) for seed in range(3)]
IMAGES = [make_image(seed) for seed in range(5)]
INPUTS = [
    {"spectrum": SPECTRA[0], "image": IMAGES[1]},
    {"spectrum": SPECTRA[1], "images": IMAGES},
    {"image": IMAGES[2], "spectra": SPECTRA},
    {"image": IMAGES[3]},
    {"spectrum": SPECTRA[2]},
]


def numbers(answer):
    """All numbers of an answer, in order."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in numbers(value)]
    if isinstance(answer, list):
        return [number for value in answer for number in numbers(value)]
    return [answer] if isinstance(answer, (int, float)) else []


def assert_alike(first, second):
    np.testing.assert_allclose(numbers(first), numbers(second), rtol=1e-4, atol=1e-5)
    assert json.dumps(first).count('"') == json.dumps(second).count('"')


def logits(model):
    with torch.no_grad():
        return model(**PROCESSOR(SPECTRA, IMAGES[:3], return_tensors="pt")).logits_per_spectrum.double()


def test_a_pair_gives_the_cosine_and_the_models_logit(pipe):
    answer = pipe(INPUTS[0])
    expected = float(logits(pipe.model)[0, 1])
    assert list(answer) == ["similarity", "logit"]
    assert answer["logit"] == pytest.approx(expected, abs=1e-4)
    assert answer["similarity"] == pytest.approx(expected / 15.5, abs=1e-5)


@pytest.mark.parametrize("side", ["images", "spectra"])
def test_candidates_come_best_first(pipe, side):
    expected = logits(pipe.model)[0] if side == "images" else logits(pipe.model)[:, 0]
    candidates = {"images": IMAGES[:3], "spectra": SPECTRA}[side]
    query = {"spectrum": SPECTRA[0]} if side == "images" else {"image": IMAGES[0]}
    found = pipe(query | {side: candidates})
    order = expected.argsort(descending=True).tolist()
    assert [one["index"] for one in found] == order
    assert [one["object_id"] for one in found] == [candidates[index].object_id for index in order]
    np.testing.assert_allclose([one["score"] for one in found], expected.softmax(0)[order], atol=1e-4)
    np.testing.assert_allclose([one["similarity"] for one in found], expected[order] / 15.5, atol=1e-5)
    assert pipe(query | {side: candidates}, top_k=2) == found[:2]


def test_one_side_alone_gives_its_embedding(pipe):
    for source, kind in ((INPUTS[3], "image"), (INPUTS[4], "spectrum")):
        answer = pipe(source)
        assert answer["modality"] == kind and len(answer["embedding"]) == 16
        assert np.linalg.norm(answer["embedding"]) == pytest.approx(1, abs=1e-5)
    image, spectrum = (np.array(pipe(source)["embedding"]) for source in INPUTS[3:])
    pair = pipe({"image": IMAGES[3], "spectrum": SPECTRA[2]})
    assert image @ spectrum == pytest.approx(pair["similarity"], abs=1e-6)


def test_lists_and_streams_answer_as_one_by_one(pipe, monkeypatch):
    expected = [pipe(source) for source in INPUTS]
    assert len({json.dumps(answer) for answer in expected}) == len(INPUTS)
    monkeypatch.setattr("spectok_hf.models.pipeline_astroclip.EMBEDDED_AT_ONCE", 4)
    for options in ({}, {"batch_size": 2}, {"batch_size": 5}):
        for answers in (pipe(INPUTS, **options), list(pipe(iter(INPUTS), **options))):
            for answer, wanted in zip(answers, expected, strict=True):
                assert_alike(answer, wanted)
    assert pipe([]) == []


def test_whatever_holds_a_spectrum_or_an_image_will_do(pipe):
    spectrum = {name: getattr(SPECTRA[0], name).tolist() for name in ("flux", "wavelength", "ivar")}
    bands = [
        {"band": f"des-{band}", "flux": flux.tolist(), "mask": np.ones((30, 30), bool), "scale": 0.262}
        for band, flux in zip("grz", IMAGES[1].flux, strict=True)
    ]
    assert_alike(pipe({"spectrum": spectrum, "image": bands}), pipe(INPUTS[0]))
    found = pipe({"spectrum": spectrum, "images": [bands, IMAGES[0]]})
    expected = pipe({"spectrum": SPECTRA[0], "images": [IMAGES[1], IMAGES[0]]})
    np.testing.assert_allclose(numbers(found), numbers(expected), atol=1e-5)
    assert {one["object_id"] for one in found} == {None, "i0"}


def test_what_was_not_observed_is_refused_or_answered_with_none(pipe):
    blind = make_spectrum(7, mask=np.ones(300, bool))
    dark = make_image(7, mask=np.ones((3, 30, 30), bool))
    with pytest.raises(ValueError, match=r"no patch of which more than half .*on_invalid=\"mask\""):
        pipe({"spectrum": blind})
    with pytest.raises(ValueError, match=r"has no good pixel of z, r, g in its middle"):
        pipe({"image": dark})
    assert pipe({"spectrum": blind}, on_invalid="mask") == {"embedding": None, "modality": "spectrum"}
    assert pipe({"image": dark}, on_invalid="mask") == {"embedding": None, "modality": "image"}
    assert pipe({"image": dark, "spectrum": SPECTRA[0]}, on_invalid="mask") == {"similarity": None, "logit": None}
    found = pipe({"spectrum": SPECTRA[0], "images": [dark, *IMAGES]}, on_invalid="mask")
    assert found[-1] == {"index": 0, "object_id": "i7", "similarity": None, "score": None}
    for one, other in zip(found, pipe({"spectrum": SPECTRA[0], "images": IMAGES}), strict=False):
        assert_alike(one, other | {"index": other["index"] + 1})
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SPECTRA[0], r"expected a mapping with \"spectrum\" and \"image\".* found a Spectrum"),
        ([SPECTRA[0]], "found a Spectrum"),
        (np.ones((3, 30, 30)), "found a ndarray"),
        ("galaxy.fits", "found 'galaxy.fits'"),
        ([1.0, 2.0], "found a list"),
        ({"spectra": SPECTRA}, r'found \["spectra"\]'),
        ({"spectra": SPECTRA, "images": IMAGES}, r'found \["images", "spectra"\]'),
        ({"spectrum": SPECTRA[0], "spectra": SPECTRA}, r'found \["spectra", "spectrum"\]'),
        ({"spectrum": SPECTRA[0], "picture": 1}, r'found \["picture", "spectrum"\]'),
        ({"spectrum": SPECTRA[0], "images": []}, "images must hold one or more, found 0"),
        ({"spectrum": SPECTRA[:2], "image": IMAGES[0]}, "spectrum must hold one, found 2"),
    ],
)
def test_other_inputs_are_refused(pipe, source, message):
    with pytest.raises(ValueError, match=message):
        pipe(source)


def test_options_that_cannot_be_are_refused(pipe):
    with pytest.raises(ValueError, match="top_k must be 1 or more, found 0"):
        pipe(INPUTS[1], top_k=0)
    with pytest.raises(ValueError, match="top_k=2 needs candidates"):
        pipe(INPUTS[0], top_k=2)
    with pytest.raises(ValueError, match="wavelength belong to one spectrum"):
        pipe({"spectrum": np.ones(300)}, wavelength=np.arange(4000, 4300))
    with pytest.raises(ValueError, match="does not know candidates: it takes on_invalid, top_k"):
        pipe(INPUTS[0], candidates=2)
    encoder = SpecTokModel(SpecTokConfig(**SPECTRUM))
    with pytest.raises(ValueError, match=r"needs a model \.\.\.AstroClipModel, found SpecTokModel"):
        SpectrumImageSimilarityPipeline(encoder, processor=PROCESSOR)


def test_the_embedding_pipeline_takes_its_spectra(pipe):
    answers = SpectrumEmbeddingPipeline(pipe.model)(SPECTRA, batch_size=3)
    for answer, spectrum in zip(answers, SPECTRA, strict=True):
        assert_alike(answer["embedding"], pipe({"spectrum": spectrum})["embedding"])


def test_a_folder_becomes_the_pipeline_and_is_saved_by_it(pipe, folder, tmp_path):
    loaded = pipeline("spectrum-image-similarity", model=folder)
    assert type(loaded) is SpectrumImageSimilarityPipeline and type(loaded.feature_extractor) is AstroClipProcessor
    loaded.save_pretrained(tmp_path)
    for answer in (loaded(INPUTS[1]), pipeline("spectrum-image-similarity", model=str(tmp_path))(INPUTS[1])):
        assert_alike(answer, pipe(INPUTS[1]))


# What someone does who has a folder, and never saw this package.
LOAD = """
import json, sys
sys.modules["spectok_hf"] = None  # an import of it fails
import numpy as np, transformers

columns = dict(np.load(sys.argv[1]))
spectrum = {name: columns[name] for name in ("flux", "wavelength", "ivar")}
images = [{"flux": flux, "bands": "grz", "pixel_scale": 0.262} for flux in columns["images"]]
processor = transformers.AutoProcessor.from_pretrained(sys.argv[2], trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor).__module__
pipe = transformers.pipeline("spectrum-image-similarity", model=sys.argv[2], trust_remote_code=True)
print(json.dumps(pipe({"spectrum": spectrum, "images": images})))
"""


def test_a_folder_alone_gives_the_same_answers(pipe, folder, tmp_path):
    columns = {name: getattr(SPECTRA[0], name) for name in ("flux", "wavelength", "ivar")}
    np.savez(tmp_path / "pair.npz", images=[image.flux for image in IMAGES], **columns)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "pair.npz"), folder],
        env=os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = pipe({"spectrum": SPECTRA[0], "images": IMAGES})
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-4, atol=1e-5)
