"""Pipelines: the same answers whatever holds a spectrum, alone or in batches; JSON; what is refused."""

import json
from itertools import pairwise

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
    SpectrumProcessor,
    read_spectra,
    simulate_survey,
)
from spectok_hf.models.pipeline_spectok import SpectrumClassificationPipeline

FIELDS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "wavelength_dim": 4,
    "wavelength_pooling": "mean",
    "initializer_range": 0.2,
    "id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"},
    "target_names": ["teff", "logg"],
    "target_units": ["K", "dex(cm/s2)"],
    "target_mean": [5000.0, 4.0],
    "target_std": [500.0, 0.5],
    "predict_uncertainty": True,
    "redshift_bins": 64,
}
MODELS = {
    "spectrum-classification": SpecTokForSpectrumClassification,
    "stellar-parameters": SpecTokForStellarRegression,
    "spectrum-redshift": SpecTokForRedshift,
    "spectrum-reconstruction": SpecTokForPreTraining,
    "spectrum-embedding": SpecTokForRedshift,
}
every_task = pytest.mark.parametrize("task", MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint for every task, by task."""
    found = {}
    for task, model_class in MODELS.items():
        torch.manual_seed(0)
        model = model_class(SpecTokConfig(**FIELDS)).eval()
        model.remember_processor(SpectrumProcessor())
        found[task] = str(tmp_path_factory.mktemp(task))
        model.save_pretrained(found[task])
    return found


@pytest.fixture(scope="module")
def pipes(folders):
    return {task: pipeline(task, model=folder) for task, folder in folders.items()}


@pytest.fixture(scope="module")
def spectra():
    """Of three surveys, and three lengths."""
    return [simulate_survey(survey, 1, seed=1)[0] for survey in ("sdss", "galah", "apogee", "desi")]


def numbers(answer):
    """All numbers of an answer, in order; None as NaN."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in numbers(value)]
    if isinstance(answer, list):
        return [number for value in answer for number in numbers(value)]
    return [] if isinstance(answer, str) else [np.nan if answer is None else float(answer)]


def assert_alike(found, expected):
    assert json.dumps(found, allow_nan=False)
    np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-4, atol=1e-5)


def as_mapping(spectrum):
    columns = {name: getattr(spectrum, name) for name in ("flux", "wavelength", "ivar", "mask")}
    texts = ("medium", "frame", "flux_unit", "object_id")
    return columns | {name: getattr(spectrum, name) for name in texts}


# What they answer ---------------------------------------------------------------------------------


def test_classes_come_with_their_probabilities_most_probable_first(pipes, spectra):
    pipe = pipes["spectrum-classification"]
    answer = pipe(spectra[0])
    logits = pipe.model(**pipe.feature_extractor(spectra[0], return_tensors="pt")).logits[0]
    expected = dict(zip(["GALAXY", "QSO", "STAR"], logits.double().softmax(-1).tolist(), strict=True))
    assert {one["label"]: one["score"] for one in answer} == pytest.approx(expected)
    assert [one["score"] for one in answer] == sorted(expected.values(), reverse=True)
    assert pipe(spectra[0], top_k=2) == answer[:2]


@pytest.mark.parametrize("top_k", [0, -1, True, "2", 1.5])
def test_an_impossible_top_k_is_refused(top_k, pipes, spectra):
    with pytest.raises(ValueError, match="top_k must be 1 or more, found"):
        pipes["spectrum-classification"](spectra[0], top_k=top_k)


def test_several_labels_per_spectrum_have_a_probability_each(spectra):
    model = SpecTokForSpectrumClassification(SpecTokConfig(**FIELDS, problem_type="multi_label_classification"))
    answer = SpectrumClassificationPipeline(model, feature_extractor=SpectrumProcessor())(spectra[0])
    logits = model(**SpectrumProcessor()(spectra[0], return_tensors="pt")).logits[0].double()
    scores = {one["label"]: one["score"] for one in answer}
    assert list(scores[name] for name in ("GALAXY", "QSO", "STAR")) == pytest.approx(logits.sigmoid().tolist())


def test_stellar_parameters_come_in_units(pipes, spectra):
    pipe = pipes["stellar-parameters"]
    answer = pipe(spectra[0])
    outputs = pipe.model(**pipe.feature_extractor(spectra[0], return_tensors="pt"))
    assert {name: value["unit"] for name, value in answer.items()} == {"teff": "K", "logg": "dex(cm/s2)"}
    assert [one["value"] for one in answer.values()] == pytest.approx(outputs.predictions[0].tolist())
    assert [one["uncertainty"] for one in answer.values()] == pytest.approx(outputs.uncertainties[0].tolist())


def test_a_model_without_uncertainties_answers_none(spectra):
    model = SpecTokForStellarRegression(SpecTokConfig(**FIELDS | {"predict_uncertainty": False}))
    pipe = pipeline("stellar-parameters", model=model, feature_extractor=SpectrumProcessor())
    assert [one["uncertainty"] for one in pipe(spectra[0]).values()] == [None, None]


def test_redshifts_come_with_flags_and_posterior(pipes, spectra):
    pipe = pipes["spectrum-redshift"]
    outputs = pipe.model(**pipe.feature_extractor(spectra[0], return_tensors="pt"))
    answer = pipe(spectra[0], return_posterior=True)
    for name in ("redshift", "uncertainty", "confidence"):
        assert answer[name] == pytest.approx(outputs[name].item())
    assert answer["zwarn"] == outputs.zwarn.item() and answer["warnings"] == ["low confidence"]
    assert len(answer["posterior"]["redshift"]) == 64 and sum(answer["posterior"]["probability"]) == pytest.approx(1)
    assert "posterior" not in pipe(spectra[0])


def test_embeddings_come_with_tokens_where_asked(pipes, spectra):
    pipe = pipes["spectrum-embedding"]
    inputs = pipe.feature_extractor(spectra[0], return_tensors="pt")
    outputs = pipe.model(**inputs)
    answer = pipe(spectra[0], return_tokens=True)
    assert answer["embedding"] == pytest.approx(outputs.pooler_output[0].tolist())
    assert answer["token_wavelength"] == pytest.approx(outputs.token_wavelength[0].tolist())
    assert (answer["wavelength_unit"], answer["medium"]) == ("Angstrom", "vacuum")
    valid = outputs.attention_mask[0].bool().tolist()
    for token, expected, good in zip(answer["tokens"], outputs.tokens[0].tolist(), valid, strict=True):
        assert token == (pytest.approx(expected) if good else None)
    assert pipe(spectra[0]) == {"embedding": answer["embedding"]}


def test_tokens_of_a_batch_have_no_padding(pipes, spectra):
    answers = pipes["spectrum-embedding"](spectra, batch_size=4, return_tokens=True)
    counts = [pipes["spectrum-embedding"].feature_extractor.count_patches(s.wavelength) for s in spectra]
    assert [len(answer["tokens"]) for answer in answers] == [len(a["token_wavelength"]) for a in answers] == counts


def test_reconstructions_come_in_the_unit_and_on_the_grid_of_the_input(pipes, spectra):
    pipe, spectrum = pipes["spectrum-reconstruction"], spectra[1]  # GALAH, in air
    outputs = pipe.model(**pipe.feature_extractor(spectrum, return_tensors="pt"))
    expected = pipe.feature_extractor.post_process_reconstruction(outputs, spectrum)[0]
    answer = pipe(spectrum)
    np.testing.assert_array_equal(answer["wavelength"], spectrum.wavelength)
    np.testing.assert_allclose(answer["flux"], expected.flux, rtol=1e-5)
    assert answer["coverage"] == (~expected.mask).astype(int).tolist()
    assert (answer["medium"], answer["flux_unit"], answer["object_id"]) == (
        "air",
        spectrum.flux_unit,
        spectrum.object_id,
    )


def test_reconstructions_come_on_a_grid_of_ones_own(pipes, spectra):
    grid = np.arange(5000, 5100, 0.5)
    answers = pipes["spectrum-reconstruction"](spectra[:2], grid=grid, batch_size=2)
    for answer in answers:
        assert answer["wavelength"] == grid.tolist() and answer["medium"] == "vacuum" and len(answer["flux"]) == 200
    in_air = pipes["spectrum-reconstruction"](spectra[0], grid=grid, grid_medium="air")
    assert in_air["medium"] == "air"
    shifted = np.interp(grid + 1.4, grid, answers[0]["flux"])[20:-20]  # air is 1.4 Å shorter here
    assert np.abs(in_air["flux"][20:-20] - shifted).max() < np.abs(in_air["flux"] - np.array(answers[0]["flux"])).max()


# What they take -----------------------------------------------------------------------------------


@every_task
def test_whatever_holds_a_spectrum_gives_its_answer(task, pipes, spectra, tmp_path, write_sdss_file):
    pipe = pipes[task]
    path = write_sdss_file(spectra[0], tmp_path)
    (spectrum,) = read_spectra(path)
    expected, mapping = pipe(spectrum), as_mapping(spectrum)
    assert pipe(mapping) == expected
    flux = mapping.pop("flux")
    assert pipe(flux, **mapping) == expected
    assert (
        pipe(flux.tolist(), **{name: getattr(v, "tolist", lambda v=v: v)() for name, v in mapping.items()}) == expected
    )
    assert pipe(torch.tensor(flux), **mapping) == expected
    row = {"spectrum": {"flux": flux, "lambda": spectrum.wavelength, "ivar": spectrum.ivar, "mask": spectrum.mask}}
    row |= {"object_id": spectrum.object_id, "flux_unit": spectrum.flux_unit, "Z": 0.1}
    assert_alike(pipe(row), expected)
    assert pipe(path) == expected
    with open(path, "rb") as file:
        assert pipe(file.read()) == expected


def test_specutils_objects_are_taken(pipes, spectra):
    specutils = pytest.importorskip("specutils")
    from astropy import units as u
    from astropy.nddata import InverseVariance

    spectrum = spectra[0]
    unit = u.Unit("1e-17 erg / (s cm2 Angstrom)")
    found = specutils.Spectrum(
        flux=spectrum.flux * unit,
        spectral_axis=spectrum.wavelength * u.AA,
        uncertainty=InverseVariance(spectrum.ivar / unit**2),
        mask=spectrum.mask,
    )
    for task in ("spectrum-redshift", "stellar-parameters"):
        assert_alike(pipes[task](found), pipes[task](spectrum))


def test_the_class_of_a_checkpoint_is_taken_as_a_spectrum(pipes, spectra):
    class Foreign:
        """What `Spectrum` of remote code is to the installed one."""

    foreign = Foreign()
    for name in (*spectra[0].__dict__, "good", "error"):
        setattr(foreign, name, getattr(spectra[0], name))
    type(foreign).__len__ = lambda self: len(self.flux)
    assert pipes["spectrum-redshift"](foreign) == pipes["spectrum-redshift"](spectra[0])


@every_task
def test_batches_of_any_lengths_answer_as_one_by_one(task, pipes, spectra):
    pipe = pipes[task]
    alone = [pipe(spectrum) for spectrum in spectra]
    flat = [np.array(numbers(answer)) for answer in alone]
    assert all(len(a) != len(b) or not np.allclose(a, b, rtol=1e-3) for a, b in pairwise(flat))
    for batch_size in (1, 2, 3, 4):
        for answers in (pipe(spectra, batch_size=batch_size), list(pipe(iter(spectra), batch_size=batch_size))):
            assert len(answers) == 4
            for answer, expected in zip(answers, alone, strict=True):
                assert_alike(answer, expected)
    assert pipe([as_mapping(spectrum) for spectrum in spectra], batch_size=4)[3] == pipe(spectra, batch_size=4)[3]


def test_a_stack_and_a_table_give_a_list(pipes):
    pipe, stack = pipes["spectrum-redshift"], simulate_survey("apogee", 3, seed=2)
    expected = pipe(stack)
    flux, ivar = (np.stack([getattr(spectrum, name) for spectrum in stack]) for name in ("flux", "ivar"))
    found = pipe(flux, wavelength=stack[0].wavelength, ivar=ivar, mask=np.stack([s.mask for s in stack]))
    assert found == expected
    masked = {"flux": flux, "wavelength": stack[0].wavelength, "ivar": np.where([s.mask for s in stack], 0, ivar)}
    assert_alike(pipe(masked), expected)


def test_streams_are_lazy_and_workers_answer_alike(pipes, spectra):
    pipe, drawn = pipes["spectrum-redshift"], []

    def stream():
        for spectrum in spectra:
            drawn.append(spectrum)
            yield spectrum

    answers = pipe(stream())
    assert next(iter(answers)) == pipe(spectra[0]) and len(drawn) < 4
    with_workers = list(pipe(spectra, num_workers=1, batch_size=2))
    for answer, expected in zip(with_workers, [pipe(spectrum) for spectrum in spectra], strict=True):
        assert_alike(answer, expected)


def test_a_dataset_of_rows_gives_an_answer_per_row(pipes, spectra):
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "spectrum": {"flux": s.flux, "lambda": s.wavelength, "ivar": s.ivar, "mask": s.mask},
            "object_id": s.object_id,
        }
        for s in (spectra[0], spectra[2])
    ]
    dataset = datasets.Dataset.from_list(rows)
    answers = list(pipes["spectrum-redshift"](dataset, batch_size=2))
    for answer, expected in zip(answers, pipes["spectrum-redshift"]([spectra[0], spectra[2]]), strict=True):
        assert_alike(answer, expected)
    streamed = list(pipes["spectrum-redshift"](dataset.to_iterable_dataset()))
    assert len(streamed) == 2


def test_nothing_gives_nothing(pipes):
    assert pipes["spectrum-redshift"]([]) == []


# What they refuse ---------------------------------------------------------------------------------


@every_task
def test_a_spectrum_without_data_is_refused_or_answered_with_none(task, pipes, spectra):
    bad = as_mapping(spectra[0]) | {"mask": np.ones(len(spectra[0]), dtype=bool)}
    with pytest.raises(
        ValueError, match=r"Spectrum\(sim-sdss.* has no patch of which more than half .*on_invalid=\"mask\""
    ):
        pipes[task](bad)
    answer = pipes[task](bad, on_invalid="mask")
    json.dumps(answer, allow_nan=False)
    if task == "spectrum-classification":
        assert [one["score"] for one in answer] == [None, None, None]
    elif task == "stellar-parameters":
        assert [one["value"] for one in answer.values()] == [None, None]
    elif task == "spectrum-redshift":
        assert answer["redshift"] is answer["confidence"] is None and "no valid patch" in answer["warnings"]
        posterior = pipes[task](bad, on_invalid="mask", return_posterior=True)["posterior"]
        assert set(posterior["probability"]) == {None} and None not in posterior["redshift"]
    elif task == "spectrum-embedding":
        assert answer["embedding"] is None
    else:
        assert not any(answer["coverage"]) and set(answer["flux"]) == {None}
    mixed = pipes[task]([bad, spectra[0]], on_invalid="mask", batch_size=2)
    assert_alike(mixed[1], pipes[task](spectra[0]))
    with pytest.raises(ValueError, match='on_invalid must be "raise" or "mask" here'):
        pipes[task](bad, on_invalid="skip")


def test_words_that_mean_nothing_are_refused(pipes, spectra):
    with pytest.raises(
        ValueError, match="SpectrumRedshiftPipeline does not know top_k: it takes on_invalid, return_p"
    ):
        pipes["spectrum-redshift"](spectra[0], top_k=2)
    with pytest.raises(ValueError, match="ivar belong to arrays, found Spectrum"):
        pipes["spectrum-redshift"](spectra[0], ivar=spectra[0].ivar)
    with pytest.raises(ValueError, match="wavelength belong to one array of flux, found a list of inputs"):
        pipes["spectrum-redshift"](spectra, wavelength=spectra[0].wavelength)
    with pytest.raises(ValueError, match=r"found only flux: pass wavelength="):
        pipes["spectrum-redshift"](spectra[0].flux)


def test_numbers_of_a_regressing_classifier_are_none_without_data(spectra):
    model = SpecTokForSpectrumClassification(SpecTokConfig(**FIELDS, problem_type="regression"))
    pipe = pipeline("spectrum-classification", model=model, feature_extractor=SpectrumProcessor())
    logits = model(**SpectrumProcessor()(spectra[0], return_tensors="pt")).logits[0]
    assert [one["score"] for one in pipe(spectra[0], top_k=2)] == pytest.approx(
        sorted(logits.tolist())[:0:-1], rel=1e-5
    )
    bad = as_mapping(spectra[0]) | {"mask": np.ones(len(spectra[0]), dtype=bool)}
    assert [one["score"] for one in pipe(bad, on_invalid="mask")] == [None, None, None]


def test_the_labels_of_training_say_what_the_scores_are(spectra):
    model = SpecTokForSpectrumClassification(SpecTokConfig(**FIELDS))
    inputs = SpectrumProcessor()(spectra[0], return_tensors="pt")
    logits = model(**inputs, labels=torch.tensor([[1.0, 0.0, 1.0]])).logits[0]
    scores = pipeline("spectrum-classification", model=model, feature_extractor=SpectrumProcessor())(spectra[0])
    assert [one["score"] for one in scores] == pytest.approx(sorted(logits.sigmoid().tolist(), reverse=True), rel=1e-4)


def test_fields_that_are_none_are_not_given(pipes, spectra):
    pipe, one = pipes["spectrum-redshift"], as_mapping(spectra[0])
    expected = pipe({name: one[name] for name in ("flux", "wavelength", "ivar")})
    assert pipe(one["flux"], wavelength=one["wavelength"], ivar=one["ivar"], mask=None, error=None) == expected


@pytest.mark.parametrize("name", ["medum", "MEDIUM", "wavelength_units", "masks", "ivars"])
def test_a_field_that_is_misspelt_is_not_left_out_in_silence(name, pipes, spectra):
    with pytest.raises(ValueError, match=rf"a spectrum has no '{name}', found beside flux: spell it '"):
        pipes["spectrum-redshift"](as_mapping(spectra[0]) | {name: "air"})


def test_columns_of_a_catalogue_are_left_out(pipes, spectra):
    row = as_mapping(spectra[0]) | {"Z": 0.1, "flux_g": 3.0, "SURVEY": "main", "ebv": 0.02}
    assert_alike(pipes["spectrum-redshift"](row), pipes["spectrum-redshift"](spectra[0]))


def test_a_medium_without_its_grid_is_refused(pipes, spectra):
    with pytest.raises(ValueError, match="grid_medium='air' needs the grid"):
        pipes["spectrum-reconstruction"](spectra[0], grid_medium="air")


def test_an_item_of_several_spectra_is_refused_in_a_list(pipes):
    stack = simulate_survey("apogee", 2, seed=2)
    several = {"flux": np.stack([s.flux for s in stack]), "wavelength": stack[0].wavelength, "error": 0.1}
    with pytest.raises(ValueError, match="each item of a list must hold one spectrum, found 2 in a dict"):
        pipes["spectrum-redshift"]([several])


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_a_list_say_which_item(workers, pipes, spectra):
    wrong = {"flux": np.ones(50), "wavelength": np.linspace(400, 500, 50), "error": 0.1}
    with pytest.raises(ValueError, match="spectrum 2: wavelength spans"):
        pipes["spectrum-redshift"]([*spectra[:2], wrong, *spectra[:1]], batch_size=2, num_workers=workers)


def test_a_model_of_another_task_is_refused(pipes):
    with pytest.raises(
        ValueError, match=r"needs a model \.\.\.ForSpectrumClassification, found SpecTokForRedshift: that "
    ):
        SpectrumClassificationPipeline(pipes["spectrum-redshift"].model, feature_extractor=SpectrumProcessor())
    with pytest.raises(ValueError, match="needs the processor of its model, found none"):
        pipeline("spectrum-classification", model=SpecTokForSpectrumClassification(SpecTokConfig(**FIELDS)))


def test_a_loaded_model_knows_its_processor(folders, pipes, spectra):
    model = SpecTokForRedshift.from_pretrained(folders["spectrum-redshift"])
    assert pipeline("spectrum-redshift", model=model)(spectra[0]) == pipes["spectrum-redshift"](spectra[0])


def test_a_model_in_training_answers_as_in_evaluation(spectra):
    model = SpecTokForRedshift(SpecTokConfig(**FIELDS | {"hidden_dropout_prob": 0.5})).train()
    pipe = pipeline("spectrum-redshift", model=model, processor=SpectrumProcessor())
    assert pipe(spectra[0]) == pipe(spectra[0])


def test_half_precision_answers_within_its_rounding(folders, spectra):
    exact = pipeline("stellar-parameters", model=folders["stellar-parameters"])(spectra[0])
    half = pipeline("stellar-parameters", model=folders["stellar-parameters"], dtype=torch.bfloat16)(spectra[0])
    assert half["teff"]["value"] == pytest.approx(exact["teff"]["value"], abs=0.05 * 500)


def test_a_model_without_a_decoder_reconstructs_nothing():
    config = SpecTokConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, objective="contrastive")
    model = SpecTokForPreTraining(config)
    with pytest.raises(ValueError, match='needs a decoder, which a model of objective="contrastive" has not'):
        pipeline("spectrum-reconstruction", model=model, feature_extractor=SpectrumProcessor())
