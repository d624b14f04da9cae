"""Model cards: numbers are those of model and surveys, words are true, and those in `model_cards` are not stale."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from spectok_hf import (
    SURVEYS,
    AstroClipConfig,
    AstroClipModel,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecformerModel,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    SpectrumImageProcessor,
    SpectrumProcessor,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
    simulate_survey,
)
from spectok_hf.hub import cards
from spectok_hf.hub.cards import TASK_CARDS, CardFacts, Result, TrainingSurvey, check_card, model_card

ROOT = Path(__file__).resolve().parents[2]
REGRESSION = {"target_names": ["teff", "feh"], "target_units": ["K", "dex"]}
KINDS = {
    SpecTokModel: ({}, "feature-extraction"),
    SpecTokForPreTraining: ({}, "feature-extraction"),
    SpecTokForSpectrumClassification: ({"id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"}}, "tabular-classification"),
    SpecTokForStellarRegression: (REGRESSION, "tabular-regression"),
    SpecTokForRedshift: ({}, "tabular-regression"),
}
KINDS |= {
    kind: KINDS[of]
    for kind, of in {
        OmniSpectraModel: SpecTokModel,
        OmniSpectraForPreTraining: SpecTokForPreTraining,
        OmniSpectraForSpectrumClassification: SpecTokForSpectrumClassification,
        OmniSpectraForStellarRegression: SpecTokForStellarRegression,
        OmniSpectraForRedshift: SpecTokForRedshift,
        SpecformerModel: SpecTokModel,
        SpecformerForPreTraining: SpecTokForPreTraining,
        SpecformerForSpectrumClassification: SpecTokForSpectrumClassification,
        SpecformerForStellarRegression: SpecTokForStellarRegression,
        SpecformerForRedshift: SpecTokForRedshift,
        AstroClipModel: SpecTokModel,
        SpectrumVitForStellarRegression: SpecTokForStellarRegression,
        SpectrumVitForRedshift: SpecTokForRedshift,
    }.items()
}
KINDS |= {
    SpectrumVitModel: ({}, "image-feature-extraction"),
    SpectrumVitForSpectrumClassification: (KINDS[SpecTokForSpectrumClassification][0], "image-classification"),
}
LOSS = Result(
    "stellar parameters", "teff", "r_squared", 0.7, "higher", "APOGEE giants", "by object, 65/15/20 %", 93,
    error=0.03, baseline="PCA + ridge", baseline_value=0.9, baseline_error=0.04,
)  # fmt: skip
FACTS = {
    "license": "mit",
    "training": {"sdss": TrainingSurvey(1000, 900, note="north | south"), "galah": TrainingSurvey(234, 0)},
    "steps": 1200,
    "batch_size": 8,
    "hardware": "two CPU cores",
    "results": [LOSS],
}
ON_DESI = {"desi": TrainingSurvey(1234, 900)}  # of what reads that grid alone
OPTIONAL = {
    "summary": "A summary sentence.",
    "notice": "A notice sentence.",
    "training_time": "one hour",
    "training_notes": "A training sentence.",
    "results_notes": "A results sentence.",
    "limits": ["A limit sentence."],
    "base_model": "org/base",
    "datasets": ["org/spectra"],
    "tags": ["redshifts"],
    "space": "org/space",
    "repository": "https://example.org/code",
    "authors": ["Ada Lovelace"],
    "contact": "A contact sentence.",
}


def config_of(kind: type) -> type:
    """The class of config that belongs to a class of models."""
    configs = (OmniSpectraConfig, SpecformerConfig, AstroClipConfig, SpectrumVitConfig)
    found = (config for config in configs if kind.__name__.startswith(config.__name__.removesuffix("Config")))
    return next(found, SpecTokConfig)


def survey_of(kind: type) -> str:
    """The survey of the examples in the card of a class of models."""
    return "desi" if config_of(kind) in (SpecformerConfig, AstroClipConfig) else "sdss"


def make(kind: type, of: type | None = None, **fields):
    with torch.device("meta"):
        return kind(config_of(of or kind).from_preset("tiny", **KINDS[of or kind][0] | fields))


def render(kind: type = SpecTokModel, *, fields=None, processor=None, **changes) -> ModelCard:
    model = make(kind, **fields or {})
    facts = CardFacts(**FACTS | ({"training": ON_DESI} if survey_of(kind) == "desi" else {}) | changes)
    return model_card(model, processor or model.config.new_processor(), facts, "org/tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_has_a_card(kind, tmp_path):
    card = render(kind)
    task = next(task for ending, task in TASK_CARDS.items() if kind.__name__.endswith(ending)).pipeline
    task = "spectrum-image-similarity" if kind is AstroClipModel else task
    assert card.data.pipeline_tag == KINDS[kind][1] and task in card.data.tags
    assert f"`{kind.__name__}`" in card.text
    assert f'pipeline("{task}", model="org/tiny", trust_remote_code=True)' in card.text
    counted = sum(parameter.numel() for parameter in make(kind).parameters())
    assert f"| parameters | {counted:,}" in card.text
    card.save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    check_card(again)
    assert str(again) == str(card) == (tmp_path / "README.md").read_text(encoding="utf-8")
    assert again.data.eval_results == card.data.eval_results
    assert str(render(kind)) == str(card)


# Part of what the pipeline of each class answers.
OF_PICTURES = ("teff", "zwarn", "embedding", "label")
ANSWERS = dict(
    zip(KINDS, [*("embedding", "flux", "label", "teff", "zwarn") * 3, "similarity", *OF_PICTURES], strict=True)
)


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_a_card_runs(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)  # where org/tiny is a folder
    depth = {} if config_of(kind) in (AstroClipConfig, SpectrumVitConfig) else {"num_hidden_layers": 1}
    model = kind(config_of(kind).from_preset("tiny", **depth, **KINDS[kind][0]))
    processor = model.config.new_processor()
    model.save_pretrained("org/tiny")
    processor.save_pretrained("org/tiny")
    blocks = re.findall(r"```python\n(.*?)```", render(kind).text, re.DOTALL)
    installed, remote, piped = names = [{}, {}, {}]
    for block, own in zip(blocks, names, strict=True):
        exec(block, own)
    assert type(installed["model"]) is kind
    assert installed["spectra"][0].survey == survey_of(kind)  # that with most spectra
    assert type(remote["model"]).__name__ == kind.__name__
    assert type(remote["processor"]).__name__ == type(processor).__name__
    answer = piped["answer"]
    assert ANSWERS[kind] in (answer[0] if isinstance(answer, list) else answer)


HEADS = [kind for kind in KINDS if ANSWERS[kind] in ("label", "teff", "zwarn") and config_of(kind) is SpecTokConfig]


@pytest.mark.parametrize("kind", HEADS)
def test_the_code_of_a_head_in_a_subfolder_runs(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.chdir(tmp_path)
    fields = KINDS[kind][0]
    for folder, saved in (("org/tiny", SpecTokForPreTraining), ("org/tiny/head", kind)):
        model = saved(SpecTokConfig.from_preset("tiny", **fields))
        model.remember_processor(SpectrumProcessor(medium="air"))
        model.save_pretrained(folder)
    card = model_card(make(kind), SpectrumProcessor(), CardFacts(**FACTS), "org/tiny", "head")
    assert card.text.count('"org/tiny", subfolder="head"') == 4 and "# tiny/head\n" in card.text
    assert "--head org/tiny/head`" in card.text and "`handler.py`" not in card.text
    installed, remote, piped = names = [{}, {}, {}]
    for block, own in zip(re.findall(r"```python\n(.*?)```", card.text, re.DOTALL), names, strict=True):
        exec(block, own)
    assert type(installed["model"]) is kind and type(remote["model"]).__name__ == kind.__name__
    assert same_weights(installed["model"], model) and same_weights(remote["model"], model)
    assert installed["processor"].medium == remote["processor"].medium == "air"
    assert piped["answer_for"].feature_extractor.medium == "air"
    assert ANSWERS[kind] in (piped["answer"][0] if isinstance(piped["answer"], list) else piped["answer"])


def same_weights(found, expected):
    expected = dict(expected.named_parameters())
    return all(torch.equal(value, expected[name]) for name, value in found.named_parameters())


def test_metadata():
    data = render(SpecTokForStellarRegression, base_model="org/base", datasets=["org/spectra"], tags=["giants"]).data
    assert (data.library_name, data.license, data.base_model) == ("transformers", "mit", "org/base")
    assert {"astronomy", "spectok", "custom_code", "stellar-parameters", "giants"} <= set(data.tags)
    assert data.to_dict()["inference"] is False
    name, [result] = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == "tiny"
    assert (result.dataset_name, result.dataset_type, result.metric_type) == (
        "APOGEE giants",
        "APOGEE-giants",
        "r_squared",
    )
    assert (result.metric_value, result.task_type) == (0.7, "tabular-regression")
    assert result.metric_name == "stellar parameters, teff: R²"


def test_numbers_of_a_survey_are_those_of_its_spectra():
    text, processor = render().text, SpectrumProcessor()
    for name in ("sdss", "galah"):
        # The columns: wavelengths, medium, frame, pixels, width, tokens, compression.
        cells = next(line for line in text.splitlines() if line.startswith(f"| {name} | ") and "Å" not in line)
        cells = [cell.strip() for cell in cells.strip("| ").split("|")]
        arms = SURVEYS[name].arms
        pixels = sum(arm.pixels for arm in arms)
        assert cells[2:4] == [SURVEYS[name].medium, SURVEYS[name].frame]
        assert cells[4] == f"{pixels:,}"
        spectrum = simulate_survey(name, 1, seed=0)[0]
        tokens = int(processor(spectrum, return_tensors="np")["num_patches"][0])
        assert abs(int(cells[6]) - tokens) <= 1  # SDSS trims each spectrum a little differently
        assert float(cells[7]) == pytest.approx(pixels / (int(cells[6]) * 8), abs=0.005)
    # By hand: 3802 Å (10^0.0032 - 1), 9202 Å (1 - 10^-0.0032); 32 times 0.0460 and 0.0736 Å.
    assert "| 28.1–67.6 | 120 | 4.00 |" in text
    assert "| 1.47–2.35 | 512 | 4.00 |" in text


def test_coverage_is_joined_in_the_medium_of_the_checkpoint():
    training = {"sdss": TrainingSurvey(9, 0), "boss": TrainingSurvey(9, 0), "apogee": TrainingSurvey(9, 0)}
    assert "3562–10318, 15152–15799, 15868–16424, 16484–16944 Å, vacuum |" in render(training=training).text
    text = render(training={"sdss": TrainingSurvey(9, 0)}, processor=SpectrumProcessor(medium="air")).text
    assert "| 3801–9200 Å, air |" in text  # a refractive index of 1.00028: 3801.9 and 9202.4 Å less 1.1 and 2.5 Å
    assert "Å in air; spectra in vacuum are converted" in text


def test_a_window_is_all_that_is_covered():
    text = render(training={"apogee": TrainingSurvey(9, 0, window=[15168.3, 15189.1])}).text
    assert "15168–15189 Å, vacuum |" in text
    assert "| apogee | 15168–15189 | vacuum | rest | 100 | 6.71 | 4 | 3.12 |" in text
    with pytest.raises(ValueError, match="the window of apogee must hold some of its pixels, found 4000-5000 Å"):
        render(training={"apogee": TrainingSurvey(9, 0, window=[4000, 5000])})


def test_counts_of_spectra_are_summed():
    text = render().text
    assert "| trained on | 1,234 spectra, 900 of them simulated |" in text
    assert "| sdss | 1,000 | 900 | 100 | north \\| south |" in text
    assert "* 73 % of the spectra it was trained on are simulated" in text
    assert "1,200 steps of 8 spectra on two CPU cores." in text
    assert "are simulated: what" not in render(training={"sdss": TrainingSurvey(5, 0)}).text


def test_a_baseline_that_wins_is_said_to_win():
    text = render().text
    assert "| 0.7 ± 0.03 | **0.9 ± 0.04** | PCA + ridge | worse | 93 |" in text
    assert "* It loses to **PCA + ridge** on teff: R² (APOGEE giants)." in text
    assert "loses to none" not in text
    assert "* **APOGEE giants**: by object, 65/15/20 %" in text


def test_a_win_a_tie_and_a_figure_alone_are_told_apart():
    rest = (0.7, "higher", "SDSS", "by object", 14)
    results = [
        Result("a", "won", "r_squared", *rest, error=0.01, baseline="ridge", baseline_value=0.5),
        Result("a", "tied", "r_squared", *rest, error=0.3, baseline="ridge", baseline_value=0.9),
        Result("a", "alone", "my_metric", *rest, unit="K", method="k-NN"),
    ]
    text = render(results=results).text
    assert "* It is better than **ridge** on won: R² (SDSS)." in text
    assert "* It cannot be told apart, within the errors, from **ridge** on tied: R² (SDSS)." in text
    assert "* It loses to none of the baselines above." in text
    assert "* There is no baseline for alone, k-NN: my_metric (SDSS)." in text
    assert "| alone, k-NN | my_metric (K) ↑ | 0.7 | - | - | - | 14 |" in text


def test_nothing_measured_is_said():
    card = render(results=[])
    assert "Nothing has been measured with this checkpoint." in card.text
    assert card.data.eval_results is None


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_optional_appears_only_where_it_is_given(name):
    value = OPTIONAL[name]
    shown = value[0] if isinstance(value, list) else value
    assert shown in str(render(**{name: value}))
    assert shown not in str(render())


def test_heads_say_what_they_predict():
    classes = render(SpecTokForSpectrumClassification, calibration="Calibrated by hand.").text
    assert "One of 3 classes: GALAXY, QSO, STAR." in classes
    assert "Calibrated by hand." in classes
    assert "| teff | K |\n| feh | dex |\n\nIt gives no uncertainties." in render(SpecTokForStellarRegression).text
    fields = {"target_mean": [5000.0, -0.5], "target_std": [300.0, 0.25], "predict_uncertainty": True}
    text = render(SpecTokForStellarRegression, fields=fields).text
    assert "| feh | dex | -0.5 | 0.25 |" in text
    assert "it was not calibrated" in text
    text = render(SpecTokForStellarRegression, fields=fields | {"uncertainty_scale": [1.5, 0.8]}).text
    assert "| teff | K | 5000 | 300 | 1.5 |" in text
    assert "found on validation spectra" in text
    assert "Its uncertainties know nothing of\n  errors of the labels" in text
    assert "uncertainties know" not in render(SpecTokForStellarRegression).text


def test_a_card_says_which_problem_a_classifier_was_trained_for():
    classes = {"id2label": {0: "BAL", 1: "radio"}}
    card = render(SpecTokForSpectrumClassification, fields=classes | {"problem_type": "multi_label_classification"})
    text = " ".join(card.text.split())
    assert "A probability for each of 2 classes: BAL, radio. Any number of them may apply, none included" in text
    assert "a sigmoid of its own, and they do not add up to 1. Nothing has calibrated them." in text
    assert card.data.pipeline_tag == "tabular-classification"
    assert "softmax" not in text and "One of" not in text and "none of these" not in text
    card = render(SpecTokForSpectrumClassification, fields=classes | {"problem_type": "regression"})
    assert "A regression model for astronomical spectra" in card.text
    assert "A number for each of 2 outputs: BAL, radio. It gives no uncertainties" in card.text
    assert card.data.pipeline_tag == "tabular-regression"
    for word in ("softmax", "sigmoid", "One of", "probabilit", "belongs to", "likeliest", "none of these"):
        assert word not in card.text
    card = render(SpecTokForSpectrumClassification, fields=classes | {"problem_type": "single_label_classification"})
    assert card.text == render(SpecTokForSpectrumClassification, fields=classes).text
    assert "Its scores are those of a softmax, which nothing has calibrated." in card.text
    assert "nothing has" not in render(SpecTokForSpectrumClassification, calibration="Calibrated by hand.").text


def test_names_and_sentences_stay_where_they_belong():
    names = {"target_names": ["a|b", "c\nd"], "target_units": ["K|*", "<x>\n# y"]}
    lines = render(SpecTokForStellarRegression, fields=names).text.splitlines()
    assert {r"| a\|b | K\|\* |", r"| c d | \<x\> # y |"} <= set(lines)
    classes = {"id2label": {0: 1, 1: "two\n# three", 2: "_x_"}}
    text = render(SpecTokForSpectrumClassification, fields=classes).text
    assert r"One of 3 classes: 1, two # three, \_x\_. It always" in text
    card = render(
        license="other",
        license_name="a|b",
        license_link="LICENSE",
        notice="first\n\nsecond",
        summary="one\n# two",
        limits=["three\n\n# four", "five"],
        contact="six\n---\nseven",
        results=[Result("t", "x\ny", "r_squared", 1, "higher", "u\nv|w", "by\nobject", 5)],
    )
    lines = card.text.splitlines()
    assert {r"| licence | a\|b |", "> first", ">", "> second", "* three # four", "six --- seven"} <= set(lines)
    assert r"| u v\|w | t | x y | R² ↑ | 1 | - | - | - | 5 |" in lines
    assert {"* **u v|w**: by object", "* There is no baseline for x y: R² (u v|w)."} <= set(lines)
    assert "It turns a spectrum into tokens that know their wavelength, and into one embedding. one # two" in card.text


def test_figures_of_numpy_are_plain_in_the_metadata():
    figure = Result("t", "teff", "r_squared", np.float64(0.25), "higher", "SDSS", "by object", np.int64(5))
    metadata = yaml.safe_load(str(render(results=[figure])).split("---")[1])
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.25


def test_redshifts_come_with_their_flags_and_calibration():
    text = render(SpecTokForRedshift, fields={"redshift_range": [0.0, 2.5], "redshift_bins": 64}).text
    assert "Redshifts between 0 and 2.5: a posterior at 64 nodes" in text
    assert "1 (low confidence), 2 (at the edge of redshift_range), 4 (no valid patch)" in text
    assert "The posterior was not calibrated." in text
    calibrated = render(SpecTokForRedshift, fields={"redshift_temperature": 1.5}).text
    assert "(temperature 1.5, exponents 1 and 1)" in calibrated


def test_training_of_the_encoder_is_said():
    assert "The encoder was frozen" in render(SpecTokForRedshift, fields={"freeze_backbone": True}).text
    assert "The encoder was trained along with the head." in render(SpecTokForRedshift).text
    assert "the mean over spectra of log(1 + mean)" in render(fields={"spectrum_loss": "log"}).text


def test_the_objective_is_said_in_full():
    def objective(**fields):
        text = " ".join(render(SpecTokForPreTraining, fields=fields).text.split())
        return re.search(r"The objective is (.*?)\. #", text)[1]

    assert objective(relative_error_floor=0.02, huber_delta=7.5) == (
        "reconstruction: squared residuals over the catalogue's variance (2 % of the flux added to the error in "
        "quadrature), linear beyond 7.5 σ (Huber), over the good pixels of each spectrum, the mean over spectra"
    )
    assert objective(relative_error_floor=0.0, huber_delta=None, objective="masked", spectrum_loss="log") == (
        "masked: squared residuals over the catalogue's variance, over the good pixels of hidden patches only, the "
        "mean over spectra of log(1 + mean)"
    )


def test_a_card_of_a_masked_model_says_how_it_cuts_and_what_it_predicts():
    card = render(OmniSpectraForPreTraining)
    text = " ".join(card.text.split())
    assert "omnispectra" in card.data.tags and "spectok" not in card.data.tags
    assert "| tokens | one every 10 pixels, 128 numbers each, made of 20 pixels, their mean" in text
    assert "(flux - mean) / standard deviation of its good pixels; pixels beyond 1000 times" in text
    assert "outputs = model.reconstruct(**processor(" in card.text
    assert "6 in the encoder and a linear map to the patches; width 128" in text
    # 3840 pixels, a patch every 10 until all are in one.
    assert "| 17.5–42.3 | 383 | 0.08 |" in text and "about 10 / 128 (the tokens are larger than the spectrum)" in text
    assert (
        "chunks of 50 neighbouring patches in 75 % of the intervals" in text
        and "without" not in text.split("75 %")[1][:150]
    )
    assert "[OmniSpectra](https://arxiv.org/abs/2601.15351) is the paper" in text
    assert "doi = {10.48550/arXiv.2601.15351}" in text
    for word in ("2510.17959", "Universal Spectral Tokenization", "decoder", "autoencoder"):
        assert word not in text
    without = " ".join(render(OmniSpectraForPreTraining, fields={"local_position": False}).text.split())
    assert "Other than the paper's, it is without local positions." in without
    assert "outputs = model(**processor(" in render(OmniSpectraModel).text


def test_a_card_of_a_model_of_one_grid_says_so():
    text = " ".join(render(SpecformerForPreTraining).text.split())
    assert "all on one wavelength grid, 7,781 pixels of 0.8 Å from 3600 Å: the model is told no wavelengths" in text
    assert "| other grids | refused, unless the processor is loaded with `resample=True`" in text
    assert "6 chunks of 30 neighbouring patches, one in each of as many equal parts of a spectrum" in text
    assert "| desi | 3600–9824 | vacuum | observed | 7,781 | 16 | 777 | 0.08 |" in text
    assert "AstroCLIP](https://arxiv.org/abs/2310.03024) is the paper" in text and "which is public" in text
    for word in ("no resampling", "Neither code nor weights", "2510.17959", "decoder", "autoencoder"):
        assert word not in text
    lenient = SpecformerProcessor(resample=True)
    text = " ".join(render(SpecformerModel, processor=lenient).text.split())
    assert "| other grids | interpolated linearly onto this one |" in text
    with pytest.raises(ValueError, match="Specformer reads spectra on one grid, 7781 pixels from 3600 to 9824"):
        render(SpecformerModel, training=FACTS["training"])


def test_a_card_of_spectra_and_images_says_what_both_sides_are():
    model = make(AstroClipModel)
    text = " ".join(render(AstroClipModel).text.split())
    assert "A contrastive model for images of galaxies and their spectra, all on one wavelength grid" in text
    sizes = [part.num_parameters() for part in (model.spectrum_model, model.vision_model)]
    assert f"{sizes[0]:,} parameters in the spectrum encoder (`specformer`, 6 blocks of width 128)" in text
    assert f"{sizes[1]:,} in the image encoder (`vit`), the rest in the heads" in text
    assert "| images | bands g, r, z in nanomaggies, 96 x 96 pixels of 0.262 arcsec; arcsinh stretch |" in text
    assert "| shared space | 128 numbers for a spectrum as for an image, of length 1 |" in text
    assert "| desi | 3600–9824 | vacuum | observed | 7,781 | 16 | 777 | 0.08 |" in text  # of the spectrum encoder
    assert "InfoNCE in both directions, with a scale of 15.5. Encoders that were frozen: spectra, images." in text
    assert "`spectok space" not in text and "hidden patches" not in text
    trained = render(AstroClipModel, fields={"freeze_vision_model": False, "learn_logit_scale": True}).text
    assert "which was learned. Encoders that were frozen: spectra." in trained


def test_the_spectrum_side_of_a_card_is_that_of_its_encoder():
    spectrum_config = SpecTokConfig.from_preset("tiny").to_dict()
    card = render(AstroClipModel, fields={"spectrum_config": spectrum_config}, training=FACTS["training"])
    text = " ".join(card.text.split())
    assert "images of galaxies and their spectra, each on the wavelength grid of its own survey: no resampling" in text
    assert "| tokens | one per 32 pixels, 8 numbers each |" in text and "other grids" not in text
    assert "2510.17959" not in text and 'survey="sdss"' in text
    assert "| 28.1–67.6 | 120 | 4.00 |" in text


MAP = SpectrumImageProcessor()


def test_a_card_of_pictures_says_how_they_are_drawn_and_what_they_lose():
    text = " ".join(render(SpectrumVitModel, processor=MAP).text.split())
    assert "each drawn as a picture of 224 x 224 pixels, from the wavelength grid of its own survey" in text
    assert "| layers | a vision encoder of Transformers (`vit`, 6 blocks, embeddings of 128) |" in text
    cells = (
        "| picture | `map`, 224 x 224 pixels: 5,476 cells of 3 x 3 pixels, in rows from the left; flux in the colours"
    )
    assert f"{cells} of viridis |" in text
    assert (
        "| normalisation | flux from its least good value to its largest, no further from the quartiles than 3" in text
    )
    assert "| sdss | 3802–9202 | vacuum | observed | 3,840 | 3,840 | 1 |" in text
    assert "no errors: noise is known by its looks. It does not say at which wavelength it begins and ends." in text
    assert "Gaps between detectors are not seen in a map." in text and "would have to write" in text
    assert "Several pixels of a spectrum that has more than 5,476 are averaged in each cell." in text
    assert "spectromer>, MIT)" in text and "The weights of the paper are not public" in text
    assert "analysis of astronomical objects](https://arxiv.org/abs/2506.00294) is the paper" in text
    for word in ("tokens", "patch", "interpolation", "compression", "decoder", "2510.17959", "no resampling"):
        assert word not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"map_colors": "derivatives", "map_order": "boustrophedon", "on_long": "raise"},
            (
                "in rows by turns from the left and the right; flux, its first and its second difference in",
                "Spectra of more than 5,476 pixels are refused.",
            ),
        ),
        (
            {"plot_type": "overlap", "wavelength_range": (4000.0, 8000.0)},
            (
                "`overlap`, 224 x 224 pixels: three equal ranges of wavelength over each other, a line each in red,",
                "| wavelengths drawn | 4000 to 8000 Å |",
                "of a spectrum with more pixels than 672, narrow lines are strokes.",
                "(flux in order of wavelength, from 4000 to 8000 Å):",
                "| sdss | 3802–9202 | vacuum | observed | 3,840 | 3,010 | 4.48 |",
            ),
        ),
        (
            {"plot_type": "simple", "vmin": -1.0, "vmax": 20.0},
            (
                "| picture | `simple`, 224 x 224 pixels: one black line, 0.7 pixels wide |",
                "flux from -1 to 20, in 1e-17 erg/s/cm2/Angstrom; what lies beyond is drawn at the edge",
            ),
        ),
    ],
)
def test_a_card_of_pictures_follows_its_processor(changes, said):
    text = " ".join(render(SpectrumVitForRedshift, processor=SpectrumImageProcessor(**changes)).text.split())
    for sentence in said:
        assert sentence in text
    assert ("does not say at which wavelength" in text) == ("wavelength_range" not in changes)
    assert ("How bright a spectrum is" in text) == ("vmin" not in changes)
    assert "`spectok space AUTOENCODER my-space --head org/tiny`" in text


def test_a_card_of_pictures_does_not_call_its_vision_encoder_an_autoencoder():
    text = render(SpectrumVitForSpectrumClassification, base_model="facebook/dino-vitb16").text
    assert "`spectok space AUTOENCODER my-space --head org/tiny`" in text
    assert "huggingface.co/facebook/dino-vitb16)" in text


def test_a_card_needs_the_processor_of_the_family():
    facts = CardFacts(**FACTS)
    with pytest.raises(ValueError, match="OmniSpectraConfig needs the processor OmniSpectraProcessor, found Spectrum"):
        model_card(make(OmniSpectraModel), SpectrumProcessor(patch_size=20), facts, "org/tiny")
    with pytest.raises(ValueError, match="patch_size=20, patch_overlap=10, found patch_size=20, patch_overlap=5"):
        model_card(make(OmniSpectraModel), OmniSpectraProcessor(patch_overlap=5), facts, "org/tiny")


def test_what_does_not_belong_together_is_refused():
    facts = CardFacts(**FACTS)
    with pytest.raises(ValueError, match="patch_size=32, found patch_size=16"):
        model_card(make(SpecTokModel), SpectrumProcessor(patch_size=16), facts, "org/tiny")
    with pytest.raises(ValueError, match="repo_id must be an id on the Hub, \"organisation/name\", found 'tiny'"):
        model_card(make(SpecTokModel), SpectrumProcessor(), facts, "tiny")
    with pytest.raises(ValueError, match=r"must be one of spectok_hf, found torch\.nn.*Linear"):
        model_card(torch.nn.Linear(1, 1), SpectrumProcessor(), facts, "org/tiny")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must end with one of ForPreTraining"):
        model_card(make(type("Renamed", (SpecTokModel,), {}), of=SpecTokModel), SpectrumProcessor(), facts, "org/tiny")
    with pytest.raises(ValueError, match="space must be an id on the Hub, \"organisation/name\", found 'space'"):
        render(space="space")
    with pytest.raises(ValueError, match="the classes must have names, found LABEL_0, LABEL_1"):
        render(SpecTokForSpectrumClassification, fields={"id2label": {0: "LABEL_0", 1: "LABEL_1"}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "MIT"}, "license must be"),
        ({"base_model": "base"}, "base_model must be an id"),
        ({"summary": "TODO"}, "no placeholder, found 'TODO'"),
        ({"training_notes": "Trained in /home/ada/run."}, "no path of a machine, found '/home/ada/run.'"),
    ],
)
def test_a_card_that_the_hub_would_not_take_is_not_made(changes, message):
    with pytest.raises(ValueError, match=message):
        render(**changes)


def test_papers_are_those_of_the_table_of_surveys():
    assert set(cards.CITATIONS) == set(SURVEYS)
    for name, papers in cards.CITATIONS.items():
        for text, bibcode in papers:
            assert text in SURVEYS[name].reference
            assert len(bibcode) == 19
            year, volume_and_page = bibcode[:4], re.findall(r"\d+", bibcode[9:])
            assert f" {year}" in text
            assert bibcode[-1] == text.removeprefix("De ")[0] or text.startswith("De Angeli")
            if "arXiv" not in text:
                assert re.findall(r"\d+", text.split(year)[1].split(")")[-1])[-2:] == volume_and_page
    assert "A%26A...674A...2D" in render(training={"gaia_xp": TrainingSurvey(9, 0)}).text


def test_a_survey_of_ones_own_is_cited_by_its_reference(monkeypatch):
    monkeypatch.setitem(SURVEYS, "mine", SURVEYS["desi"])
    assert f"| mine | {SURVEYS['desi'].reference} |" in render(training={"mine": TrainingSurvey(9, 0)}).text


def test_the_paper_is_cited_as_in_citation_cff():
    [paper] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    text = " ".join(render().text.split())
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert f"author = {{{' and '.join(names)}}}" in text
    assert f"title = {{{paper['title']}}}" in text
    assert paper["doi"] in text


def test_the_cards_of_the_repository_are_not_stale(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "model_cards", tmp_path / "model_cards")
    folders = sorted(path.parent for path in (tmp_path / "model_cards").rglob("facts.yaml"))
    assert len(folders) >= 2
    for folder in folders:
        (folder / "README.md").unlink()
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "model_cards" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "model_cards")
    exec(block, {})
    for folder in folders:
        committed = ROOT / folder.relative_to(tmp_path) / "README.md"
        assert (folder / "README.md").read_bytes() == committed.read_bytes(), f"{committed} is stale: render it again"
        assert "This checkpoint is not published." in committed.read_text(encoding="utf-8")
