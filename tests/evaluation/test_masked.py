"""What masked models put into holes: the same holes every time, and plain guesses beside the model."""

import numpy as np
import pytest
import torch

from spectok_hf import (
    DataCollatorForSpectra,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.evaluation.masked import (
    MaskedScore,
    chunk_options,
    evaluation_chunks,
    masked_error,
    predict_tokens,
    summarize_masked,
)
from spectok_hf.models.configuration_omnispectra import OmniSpectraConfig
from spectok_hf.models.modeling_omnispectra import OmniSpectraForPreTraining
from spectok_hf.models.processing_omnispectra import OmniSpectraProcessor

CONFIG = OmniSpectraConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    chunk_factor=0.25,  # chunks of five tokens
)
PROCESSOR = OmniSpectraProcessor()


def make_model(seed=0, **changes):
    torch.manual_seed(seed)
    return OmniSpectraForPreTraining(OmniSpectraConfig.from_dict({**CONFIG.to_dict(), **changes})).eval()


def make_spectrum(length=400, seed=0, bad=(), slope=0.01, **fields):
    rng = np.random.default_rng(seed)
    flux = 5 + slope * np.arange(length) + rng.normal(0, 0.1, length)
    mask = np.isin(np.arange(length), bad)
    return Spectrum(flux, 5000 + 2.0 * np.arange(length), np.full(length, 100.0), mask=mask, **fields)


@pytest.fixture(scope="module")
def surveys():
    return [s for name in ("sdss", "apogee") for s in simulate_survey(name, 3, seed=1001)]


class Oracle(OmniSpectraForPreTraining):
    """Knows what it was not shown, and adds a constant to it."""

    offset = 0.0

    def forward(self, flux, bool_masked_pos, pixel_mask, **inputs):
        from spectok_hf.models.modeling_omnispectra import patch_values

        assert not self.training
        values = patch_values(flux, pixel_mask > 0) + self.offset
        outputs = super().forward(flux, bool_masked_pos=bool_masked_pos, pixel_mask=pixel_mask, **inputs)
        # Of what was shown it says nothing: scores must not read it.
        outputs.token_predictions = torch.where(bool_masked_pos[..., None], values, torch.nan)
        return outputs


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_an_oracle_has_no_error_and_one_that_errs_its_square(surveys, offset):
    oracle = Oracle(CONFIG)
    oracle.offset = offset
    for score in masked_error(oracle, PROCESSOR, surveys):
        assert score.flux["model"] == pytest.approx(offset**2, abs=1e-6)
        assert score.token["model"] == pytest.approx(offset**2, abs=1e-6)
        assert score.tokens > 0 and score.flux["mean"] > 0.05


def test_the_figure_of_all_numbers_is_the_loss_of_training(surveys):
    model = make_model()
    scores = masked_error(model, PROCESSOR, surveys, batch_size=2)
    for spectrum, score in zip(surveys, scores, strict=True):
        hidden = evaluation_chunks(spectrum, PROCESSOR.patch(spectrum), model.config)
        inputs = PROCESSOR(spectrum, return_tensors="pt")
        with torch.no_grad():
            loss = model(**inputs, bool_masked_pos=torch.from_numpy(hidden)[None]).loss
        assert score.token["model"] == pytest.approx(float(loss), rel=1e-5)


def test_guesses_are_those_of_a_plain_reference():
    """Pixel by pixel: the mean of the spectrum, and a line through the means of the patches that are shown."""
    bad = [17, 18, 140, *range(200, 215)]
    spectrum = make_spectrum(400, bad=bad)
    feature = PROCESSOR.patch(spectrum)
    hidden = evaluation_chunks(spectrum, feature, CONFIG)
    good = ~np.isin(np.arange(400), bad)
    flux = (spectrum.flux - spectrum.flux[good].mean()) / spectrum.flux[good].std()
    patches = [np.arange(start, min(start + 20, 400)) for start in range(0, 381, 10)]
    kept = [patch[good[patch]] for patch in patches]
    valid = [len(pixels) > 10 for pixels in kept]
    shown = [pixels for pixels, hole, use in zip(kept, hidden, valid, strict=True) if use and not hole]
    line = np.interp(
        spectrum.wavelength, [spectrum.wavelength[p].mean() for p in shown], [flux[p].mean() for p in shown]
    )
    inside = [pixels for pixels, hole, use in zip(kept, hidden, valid, strict=True) if use and hole]
    score = masked_error(make_model(), PROCESSOR, [spectrum])[0]
    assert (score.tokens, score.pixels) == (len(inside), sum(map(len, inside)))
    pixels = np.concatenate(inside)
    assert score.flux["mean"] == pytest.approx(np.mean(flux[pixels] ** 2), rel=1e-4)
    assert score.flux["interpolation"] == pytest.approx(np.mean((flux - line)[pixels] ** 2), rel=1e-4)
    assert score.noise == pytest.approx(0.01 / spectrum.flux[good].std() ** 2, rel=1e-4)
    tokens = np.concatenate([[flux[p].mean(), flux[p].std(), *flux[p]] for p in inside])
    assert score.token["mean"] == pytest.approx(np.mean(tokens**2), rel=1e-4)
    guess = np.concatenate([[line[p].mean(), line[p].std(), *line[p]] for p in inside])
    assert score.token["interpolation"] == pytest.approx(np.mean((tokens - guess) ** 2), rel=1e-4)


def test_interpolation_is_best_on_a_straight_line():
    spectrum = make_spectrum(2000, slope=1.0)
    score = masked_error(make_model(), PROCESSOR, [spectrum])[0]
    assert score.flux["interpolation"] < 0.02 < 0.5 < score.flux["mean"]


def test_what_is_hidden_is_that_of_training_and_the_same_everywhere(surveys):
    model = make_model()
    alone = [masked_error(model, PROCESSOR, [spectrum])[0] for spectrum in surveys]
    for by_length in (True, False):
        together = masked_error(model, PROCESSOR, surveys[::-1], batch_size=4, by_length=by_length)[::-1]
        for one, other in zip(alone, together, strict=True):
            assert (one.survey, one.tokens, one.pixels) == (other.survey, other.tokens, other.pixels)
            assert one.flux["model"] == pytest.approx(other.flux["model"], rel=1e-4)
            assert one.flux["interpolation"] == other.flux["interpolation"]
    feature = PROCESSOR.patch(surveys[0])
    first, again, other = (evaluation_chunks(surveys[0], feature, CONFIG, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    collator = DataCollatorForSpectra(PROCESSOR, **chunk_options(CONFIG))
    assert (collator.hide, collator.hide_ratio, collator.chunk_length) == ("chunks", 0.75, 5)
    drawn = collator([surveys[0]])["bool_masked_pos"][0].numpy()
    assert drawn.sum() == first.sum()  # as many chunks, elsewhere


def test_objects_have_holes_of_their_own():
    holes = [
        evaluation_chunks(spectrum, PROCESSOR.patch(spectrum), CONFIG)
        for spectrum in (make_spectrum(object_id=str(number)) for number in range(5))
    ]
    assert len({hole.tobytes() for hole in holes}) == 5


def test_values_under_bad_pixels_do_not_matter():
    spectrum = make_spectrum(bad=range(100, 108))
    other = make_spectrum(bad=range(100, 108))
    other.flux[100:108] = 1e5
    scores = [masked_error(make_model(), PROCESSOR, [given])[0] for given in (spectrum, other)]
    assert scores[0] == scores[1]


def test_a_spectrum_in_which_nothing_is_hidden_has_no_figures():
    spectra = [make_spectrum(20), make_spectrum(400)]
    scores = masked_error(make_model(), PROCESSOR, spectra)
    assert scores[0].tokens == 0 and np.isnan([*scores[0].flux.values(), scores[0].noise]).all()
    row = summarize_masked(scores)[0]
    assert row["spectra"] == 2 and row["flux, model"] == scores[1].flux["model"]


def test_the_model_stays_in_the_mode_it_was_in():
    for training in (True, False):
        model = make_model().train(training)
        masked_error(model, PROCESSOR, [make_spectrum()])
        assert model.training == training


def test_predictions_come_in_the_order_of_the_spectra():
    spectra = [make_spectrum(length, seed) for seed, length in enumerate((400, 100, 230))]
    features = [PROCESSOR.patch(spectrum) for spectrum in spectra]
    hidden = [evaluation_chunks(s, f, CONFIG) for s, f in zip(spectra, features, strict=True)]
    model = make_model()
    together = predict_tokens(model, PROCESSOR, features, hidden, batch_size=2)
    for feature, hole, tokens in zip(features, hidden, together, strict=True):
        assert tokens.shape == (len(feature["flux"]), 22)
        alone = predict_tokens(model, PROCESSOR, [feature], [hole])[0]
        np.testing.assert_allclose(tokens, alone, atol=1e-5)


def test_rows_are_means_over_spectra_of_each_survey_and_of_all():
    scores = [
        MaskedScore(survey, 3, 60, dict.fromkeys(("model", "interpolation", "mean"), value), noise=value / 2)
        for survey, value in (("sdss", 1.0), ("sdss", 3.0), ("apogee", 8.0))
    ]
    for score in scores:
        score.token = {name: 10 * value for name, value in score.flux.items()}
    rows = summarize_masked(scores)
    assert [row["survey"] for row in rows] == ["sdss", "apogee", "all"]
    assert [row["flux, model"] for row in rows] == [2.0, 8.0, 4.0]
    assert [row["token, mean"] for row in rows] == [20.0, 80.0, 40.0]
    assert [row["flux, noise"] for row in rows] == [1.0, 4.0, 2.0]
    assert len(summarize_masked(scores[:2])) == 1


def test_other_models_and_processors_are_refused(surveys):
    with pytest.raises(ValueError, match="needs the processor OmniSpectraProcessor, found SpectrumProcessor"):
        masked_error(make_model(), SpectrumProcessor(patch_size=20), surveys)
    autoencoder = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny"))
    with pytest.raises(ValueError, match=r"trained to fill hidden chunks.*, found SpecTokForPreTraining"):
        masked_error(autoencoder, SpectrumProcessor(), surveys)  # type: ignore[arg-type]
    assert masked_error(make_model(), OmniSpectraProcessor(), []) == []


def test_of_specformer_the_errors_of_fluxes_are_the_loss_and_there_are_no_others():
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = SpecformerConfig(**size, num_chunks=3, chunk_length=4)
    model, processor = SpecformerForPreTraining(config).eval(), SpecformerProcessor()
    spectra = simulate_survey("desi", 2, seed=1003)
    hidden = [evaluation_chunks(spectrum, processor.patch(spectrum), config) for spectrum in spectra]
    assert not np.array_equal(*hidden)
    for hole in hidden:
        places = np.flatnonzero(hole)
        assert len(places) == 12 and (places[::4] // 259 == [0, 1, 2]).all()  # a chunk in each third of 777
    options = chunk_options(config)
    assert options == {"hide": "chunks", "num_chunks": 3, "chunk_length": 4}
    drawn = DataCollatorForSpectra(processor, **options)(spectra)["bool_masked_pos"]
    assert drawn.sum(1).tolist() == [12, 12]
    scores = masked_error(model, processor, spectra)
    for spectrum, hole, score in zip(spectra, hidden, scores, strict=True):
        inputs = processor(spectrum, return_tensors="pt")
        with torch.no_grad():
            loss = model(**inputs, bool_masked_pos=torch.from_numpy(hole)[None]).loss
        assert score.flux["model"] == pytest.approx(float(loss), rel=1e-5)
        assert score.token == {}
    (row,) = summarize_masked(scores)
    assert not any(name.startswith("token,") for name in row) and "flux, interpolation" in row
