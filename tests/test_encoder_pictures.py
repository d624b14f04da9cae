"""`SpectrumEncoder`, what is built upon it, and runs over files, on a model that reads spectra as pictures."""

import json
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from spectok_hf import (
    OutOfDomainWarning,
    Spectrum,
    SpectrumEncoder,
    SpectrumImageProcessor,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
    embed_spectra,
    simulate_survey,
)
from spectok_hf.analysis.attribution import attribute
from spectok_hf.analysis.outliers import OutlierDetector
from spectok_hf.analysis.search import SpectrumIndex
from spectok_hf.analysis.spectrum_card import spectrum_card
from spectok_hf.data.domain import TrainingDomain
from spectok_hf.data.prepare import prepare_shards
from spectok_hf.data.spectrum_files import write_spectra
from spectok_hf.inference.answers import load_processor

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION = {"model_type": "vit", "image_size": 48, "patch_size": 16, "initializer_range": 0.3, **SIZE}
SPECTRA = [*simulate_survey("desi", 2, seed=1203), *simulate_survey("apogee", 1, seed=1203)]
CLASSES = {0: "GALAXY", 1: "QSO", 2: "STAR"}
TARGETS = {"target_names": ["teff", "logg"], "target_units": ["K", ""], "predict_uncertainty": True}
HEADS = {
    "classification": (SpectrumVitForSpectrumClassification, {"id2label": CLASSES}),
    "stellar-parameters": (SpectrumVitForStellarRegression, TARGETS),
    "redshift": (SpectrumVitForRedshift, {"redshift_bins": 32}),
}
PICTURES = "reads a spectrum as one picture"
NOTHING = "no good pixel can be drawn"


def blind(spectrum=SPECTRA[0]):
    """A spectrum without a good pixel."""
    none = np.zeros(len(spectrum))
    told = {"object_id": "blind", "survey": spectrum.survey, "truth": spectrum.truth}
    return Spectrum(spectrum.flux, spectrum.wavelength, none, **told)


def new_processor(**changes):
    return SpectrumImageProcessor(image_size=48, **changes)


def saved(kind, folder, processor, **fields):
    torch.manual_seed(0)
    model = kind(SpectrumVitConfig(vision_config=VISION, **fields))
    model.remember_processor(processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_all(folder, **changes):
    """An encoder and its heads, as folders."""
    saved(SpectrumVitModel, folder, new_processor(**changes))
    for name, (kind, fields) in HEADS.items():
        saved(kind, folder / name, new_processor(**changes), **fields)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_all(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return SpectrumEncoder.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of four spectra, the third without a good pixel."""
    path = tmp_path_factory.mktemp("spectra") / "four.parquet"
    write_spectra([*SPECTRA[:2], blind(), SPECTRA[2]], path)
    return path


# The encoder --------------------------------------------------------------------------------------


def test_embeddings_are_those_of_the_model_however_spectra_are_batched(encoder):
    inputs = encoder.processor(SPECTRA, return_tensors="pt")
    with torch.no_grad():
        expected = encoder.model(**inputs).pooler_output.numpy()
    for size in (1, 2, 32):
        np.testing.assert_allclose(encoder.encode(SPECTRA, batch_size=size), expected, atol=1e-5)
    alone = encoder.encode(SPECTRA[1])
    assert alone.shape == (16,)
    np.testing.assert_allclose(alone, expected[1], atol=1e-5)
    assert min(np.abs(expected[i] - expected[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-2
    np.testing.assert_allclose(np.diag(encoder.similarity(expected, expected)), 1)


def test_a_spectrum_of_nothing_is_an_error_or_no_answer(encoder):
    given = [SPECTRA[0], blind(), SPECTRA[1]]
    with pytest.raises(ValueError, match=rf"{NOTHING} in spectrum 1 \(object_id=blind\): drop it, or pass on_inv"):
        encoder.encode(given)
    vectors = encoder.encode(given, on_invalid="mask")
    assert np.isnan(vectors[1]).all()
    np.testing.assert_allclose(vectors[[0, 2]], encoder.encode(SPECTRA[:2]), atol=1e-5)
    rows = encoder.classify(given, on_invalid="mask")
    assert rows[1]["object_id"] == "blind" and rows[1]["class"] is None and rows[0]["class"] in CLASSES.values()


def test_good_pixels_that_are_not_drawn_are_no_answer_either(tmp_path):
    folder = saved(SpectrumVitModel, tmp_path, new_processor(wavelength_range=(15_000, 17_000)))
    encoder = SpectrumEncoder.from_pretrained(folder, device="cpu")
    vectors = encoder.encode(SPECTRA, on_invalid="mask")
    assert np.isnan(vectors).all(1).tolist() == [True, True, False]
    with pytest.raises(ValueError, match=NOTHING):
        encoder.encode(SPECTRA)


def test_answers_are_those_of_the_heads(encoder, checkpoint):
    assert encoder.heads == list(HEADS)
    inputs = encoder.processor(SPECTRA, return_tensors="pt")

    def ask(name):
        with torch.no_grad():
            return HEADS[name][0].from_pretrained(checkpoint / name).eval()(**inputs)

    logits = ask("classification").logits.double()
    found = [[row[f"p_{name}"] for name in CLASSES.values()] for row in encoder.classify(SPECTRA)]
    np.testing.assert_allclose(found, logits.softmax(-1), atol=1e-6)
    numbers = ask("stellar-parameters")
    rows = encoder.predict(SPECTRA)
    np.testing.assert_allclose([[row["teff"], row["logg"]] for row in rows], numbers.predictions, rtol=1e-4)
    np.testing.assert_allclose([row["teff_error"] for row in rows], numbers.uncertainties[:, 0], rtol=1e-4)
    rows = encoder.redshift(SPECTRA)
    np.testing.assert_allclose([row["redshift"] for row in rows], ask("redshift").redshift, rtol=1e-4)


def test_a_head_alone_answers_and_embeds_with_the_encoder_under_it(encoder, checkpoint):
    head = SpectrumEncoder.from_pretrained(checkpoint / "classification", device="cpu")
    assert head.heads == ["classification"]
    assert head.classify(SPECTRA) == encoder.classify(SPECTRA)
    np.testing.assert_allclose(head.encode(SPECTRA[0]), encoder.encode(SPECTRA[0]), atol=1e-6)  # of the same seed


def test_a_table_keeps_its_rows_with_a_reason_for_each_that_has_no_picture(tmp_path):
    folder = saved(SpectrumVitModel, tmp_path, new_processor(on_long="raise"))
    encoder = SpectrumEncoder.from_pretrained(folder, device="cpu")
    short = Spectrum(*(getattr(SPECTRA[0], name)[:200] for name in ("flux", "wavelength", "ivar", "mask")))
    pixels = [
        {name: getattr(one, name) for name in ("flux", "wavelength", "ivar", "mask")} for one in (short, blind())
    ]
    dark = {name: values[:200] for name, values in pixels[1].items()}
    import pandas as pd

    table = pd.DataFrame([pixels[0], pixels[1], dark])
    with pytest.warns(UserWarning):
        found = encoder.encode_table(table, medium="vacuum")
    assert np.isfinite(found["embedding"][0]).all() and np.isnan(found["embedding"][1]).all()
    assert found["reason"][0] == "" and found["reason"][2] == NOTHING
    assert "7781 pixels" in found["reason"][1] and "256 cells" in found["reason"][1]


def test_a_linear_head_is_fitted_to_embeddings(encoder):
    pytest.importorskip("sklearn")
    spectra = simulate_survey("desi", 40, seed=1204)
    known = np.sign(encoder.encode(spectra)[:, 0] - np.median(encoder.encode(spectra)[:, 0]))
    kinds = np.where(known > 0, "upper", "lower")
    head = encoder.fit_head(spectra, kinds)
    assert (head.predict(encoder.encode(spectra)) == kinds).mean() > 0.9


def test_spectra_unlike_those_of_the_training_are_named(tmp_path):
    saved(SpectrumVitModel, tmp_path, new_processor(), training_domain=TrainingDomain.of(SPECTRA[:2]).as_json())
    encoder = SpectrumEncoder.from_pretrained(tmp_path, device="cpu")
    with pytest.warns(OutOfDomainWarning, match="lie beyond 3600-9824"):
        encoder.encode(SPECTRA[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(SPECTRA[0])
    assert "desi" in repr(encoder) and encoder.facts()["surveys"]["desi"]["tokens"] is None


def test_it_says_that_it_reads_pictures(encoder):
    facts = encoder.facts()
    assert (facts["embedding"], facts["plot_type"], facts["image_size"]) == (16, "map", 48)
    assert facts["numbers_per_token"] is facts["pixels_per_token"] is None
    json.dumps(facts)
    assert 'embeddings of 16, a picture "map" of 48 x 48 pixels' in repr(encoder)
    assert not encoder.has_decoder and not encoder.has_images


# What needs tokens --------------------------------------------------------------------------------

REFUSALS = {
    "tokens": (lambda e: e.encode(SPECTRA, output="tokens"), "ask for embeddings alone"),
    "states": (lambda e: e.encode(SPECTRA, output="last_hidden_state"), "ask for embeddings alone"),
    "reconstruction": (lambda e: e.reconstruct(SPECTRA), "such as spectok-tiny"),
    "outliers": (OutlierDetector, "nearest_others"),
    "attribution": (lambda e: attribute(e.model, e.processor, SPECTRA[0]), r"processor\.draw\(spectrum\)"),
    "card": (lambda e: spectrum_card(SPECTRA[0], e), "plot_picture"),
    "noise": (lambda e: SpectrumIndex.build(e, SPECTRA, metric="noise"), 'metric="embedding" or "cosine"'),
    "profile": (lambda e: SpectrumIndex.build(e, SPECTRA, metric="profile"), 'metric="embedding" or "cosine"'),
    "window": (lambda e: SpectrumIndex.build(e, SPECTRA, tokens=True), "leave tokens=True out"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_needs_tokens_says_that_a_picture_has_none_and_what_to_do(what, encoder):
    ask, advice = REFUSALS[what]
    with pytest.raises(ValueError, match=f"{PICTURES}: .*{advice}"):
        ask(encoder)


@pytest.mark.parametrize(("metric", "name"), [("auto", "embedding"), ("cosine", "cosine")])
def test_spectra_are_found_by_their_embeddings(metric, name, encoder, tmp_path):
    given = [*SPECTRA, blind()]
    with pytest.raises(ValueError, match=NOTHING):
        SpectrumIndex.build(encoder, given, metric=metric)
    index = SpectrumIndex.build(encoder, given, metric=metric, on_invalid="skip")
    assert index.metric.name == name and len(index) == 3 and "tokens" not in index.rows.column_names
    found = index.search(SPECTRA[1], k=3)
    assert found.ids[0] == SPECTRA[1].object_id and found.distances[0] < 1e-3 < found.distances[1]
    index.save(tmp_path / "index")
    again = SpectrumIndex.load(tmp_path / "index", encoder=encoder)
    assert again.search(id=SPECTRA[0].object_id, k=2).ids == index.search(id=SPECTRA[0].object_id, k=2).ids
    with pytest.raises(ValueError, match="none of the 1 spectra"):
        SpectrumIndex.build(encoder, [blind()], on_invalid="skip")


# Runs over files ----------------------------------------------------------------------------------


def rows_of(folder):
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("options", [{}, {"token_budget": 1}, {"num_workers": 1}])
def test_files_get_a_row_per_spectrum_and_a_picture_counts_as_a_patch(options, encoder, checkpoint, source, tmp_path):
    outcome = embed_spectra(source, checkpoint, tmp_path / "out", device="cpu", **options)
    assert outcome.manifest["spectra"] == 3 and outcome.manifest["options"]["drawing"]["plot_type"] == "map"
    rows = rows_of(tmp_path / "out")
    assert [row["num_patches"] for row in rows] == [1] * 4
    assert [row["valid_patches"] for row in rows] == [1, 1, 0, 1]
    assert [row["reason"] for row in rows] == [None, None, NOTHING, None]
    assert rows[2]["embedding"] is None and rows[2]["good_share"] == 0
    found = np.array([rows[place]["embedding"] for place in (0, 1, 3)])
    np.testing.assert_allclose(found, encoder.encode(SPECTRA), atol=1e-5)


def test_a_budget_of_tokens_holds_fewer_pictures_than_it_has_tokens(checkpoint, source, tmp_path, monkeypatch):
    sizes = []
    forward = SpectrumVitModel.forward
    record = lambda model, pixel_values, **rest: sizes.append(len(pixel_values)) or forward(model, pixel_values)  # noqa: E731
    monkeypatch.setattr(SpectrumVitModel, "forward", record)
    embed_spectra(source, checkpoint, tmp_path / "two", device="cpu", token_budget=18)  # 9 a picture of 48 pixels
    assert sorted(sizes) == [1, 2]


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(checkpoint, source, tmp_path):
    run = {"spectra_per_part": 2, "device": "cpu"}
    embed_spectra(source, checkpoint, tmp_path / "whole", **run)
    embed_spectra(source, checkpoint, tmp_path / "torn", **run)
    (tmp_path / "torn" / "part-000001.parquet").unlink()
    assert embed_spectra(source, checkpoint, tmp_path / "torn", **run).spectra == 2  # of the second part
    for path in (tmp_path / "whole").glob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "torn" / path.name).read_bytes()


def test_a_run_does_not_go_on_with_pictures_that_are_drawn_otherwise(checkpoint, source, tmp_path):
    model, options = SpectrumVitModel.from_pretrained(checkpoint), {"device": "cpu"}
    embed_spectra(source, (model, new_processor()), tmp_path, **options)
    embed_spectra(source, (model, new_processor()), tmp_path, **options)
    with pytest.raises(ValueError, match="begun with other settings"):
        embed_spectra(source, (model, new_processor(map_order="boustrophedon")), tmp_path, **options)


def test_tokens_of_files_are_refused_before_they_are_read(checkpoint, source, tmp_path):
    with pytest.raises(ValueError, match=PICTURES):
        embed_spectra(source, checkpoint, tmp_path / "out", tokens=True, device="cpu")


def test_shards_are_prepared_of_what_can_be_drawn(checkpoint, source, tmp_path):
    processor = load_processor(checkpoint)
    assert isinstance(processor, SpectrumImageProcessor)
    outcome = prepare_shards(source, tmp_path / "shards", processor=processor, num_workers=1)
    assert outcome.manifest["spectra"] == 3 and outcome.manifest["validity"]["wavelength_range"] is None
    assert NOTHING in json.dumps(outcome.manifest["dropped"])
