"""Reconstruction figures: the baselines are what they claim, and the model is judged as they are."""

import numpy as np
import pytest
import torch

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.evaluation.reconstruction import (
    PatchPCA,
    SpectrumScore,
    clean_patches,
    fit_baselines,
    format_table,
    judge_by_truth,
    noise_floor,
    score_spectra,
    summarize,
)

PROCESSOR = SpectrumProcessor()
CONFIG = SpecTokConfig(
    hidden_size=32,
    num_hidden_layers=1,
    decoder_num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    latent_size=8,
)


def make_spectrum(flux, error=0.5, bad=(), **fields):
    flux = np.asarray(flux, dtype=float)
    mask = np.isin(np.arange(len(flux)), bad)
    wavelength = 5000 + 2.0 * np.arange(len(flux))
    return Spectrum(flux, wavelength, np.full(len(flux), error**-2), mask=mask, **fields)


def low_rank(count, rank, seed=0):
    """Patches of a given rank around a mean, shape (count, 32)."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(rank, 32))
    return rng.normal(size=(count, rank)) @ basis + np.linspace(1, 2, 32)


def make_model(spectra=None, seed=0):
    torch.manual_seed(seed)
    model = SpecTokForPreTraining(CONFIG)
    if spectra is not None:
        patches = clean_patches([PROCESSOR.patch(spectrum) for spectrum in spectra])
        model.initialize_from_patch_pca(*map(torch.from_numpy, patches))
    return model


@pytest.fixture(scope="module")
def surveys():
    """Training and other spectra of two simulated surveys."""
    spectra = [simulate_survey(survey, 8, seed=1) for survey in ("sdss", "apogee")]
    return [s for group in spectra for s in group[:6]], [s for group in spectra for s in group[6:]]


def test_patch_pca_is_exact_for_data_of_its_rank():
    pca = PatchPCA(low_rank(200, 4), 4)
    for patches in (low_rank(200, 4), low_rank(50, 4, seed=1)):
        np.testing.assert_allclose(pca.reconstruct(patches), patches, atol=1e-10)
    assert np.abs(PatchPCA(low_rank(200, 4), 3).reconstruct(patches) - patches).max() > 0.1


def test_patch_pca_is_that_of_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    train, test = (low_rank(400, 6, seed) + 0.3 * rng.normal(size=(400, 32)) for seed in (1, 2))
    mean = train.mean(0)
    basis = np.linalg.svd(train - mean, full_matrices=False)[2][:6].T
    pca = PatchPCA(train, 6)
    np.testing.assert_allclose(pca.reconstruct(test), (test - mean) @ basis @ basis.T + mean, atol=1e-8)


def test_no_other_projection_is_better():
    rng = np.random.default_rng(3)
    train, test = (low_rank(4000, 10, seed) + 0.3 * rng.normal(size=(4000, 32)) for seed in (1, 2))
    pca = PatchPCA(train, 6)
    best = np.square(pca.reconstruct(test) - test).mean()
    means_of_fours = np.kron(np.eye(8), np.full((4, 1), 0.5))[:, :6]
    others = [means_of_fours, *(rng.normal(size=(32, 6)) for _ in range(20))]
    others += [pca.components.T + 0.1 * rng.normal(size=(32, 6)) for _ in range(20)]
    for other in others:
        basis = np.linalg.qr(other)[0]
        assert best < np.square((test - pca.mean) @ basis @ basis.T + pca.mean - test).mean()


def test_weights_count_as_copies():
    patches = low_rank(60, 8)
    weights = np.random.default_rng(0).integers(1, 5, 60)
    weighted, repeated = PatchPCA(patches, 3, weights), PatchPCA(np.repeat(patches, weights, axis=0), 3)
    np.testing.assert_allclose(weighted.reconstruct(patches), repeated.reconstruct(patches), atol=1e-8)
    assert np.abs(weighted.reconstruct(patches) - PatchPCA(patches, 3).reconstruct(patches)).max() > 1e-3


def test_clean_patches_are_valid_and_filled_and_faint_ones_count_less():
    flux = np.linspace(1, 3, 128)
    flux[[5, 40]] = 1e2
    bright = make_spectrum(flux, error=0.1, bad=[5, 40, *range(96, 120)])  # the last patch is bad
    faint = make_spectrum(flux, error=0.4, bad=[5, 40])
    patches, weights = clean_patches([PROCESSOR.patch(spectrum) for spectrum in (bright, faint)])
    assert patches.shape == (7, 32) and weights.shape == (7,)
    np.testing.assert_allclose(np.diff(patches[0]), np.diff(patches[0]).mean(), rtol=1e-3)
    assert weights[:3].min() > 10 * weights[3:].max()


def test_baselines_are_one_of_all_and_one_per_survey(surveys):
    train, _ = surveys
    baselines = fit_baselines(train, PROCESSOR, 8)
    assert set(baselines) == {"simulated", "sdss-simulated", "apogee-simulated"}
    alone = fit_baselines([s for s in train if s.survey == "sdss"], PROCESSOR, 8)
    patches = clean_patches([PROCESSOR.patch(train[0])])[0]
    np.testing.assert_allclose(
        baselines["sdss-simulated"].reconstruct(patches), alone["simulated"].reconstruct(patches), atol=1e-9
    )
    few = fit_baselines(train, PROCESSOR, 8, max_patches=20)
    assert np.abs(few["simulated"].reconstruct(patches) - baselines["simulated"].reconstruct(patches)).max() > 1e-6


def test_real_spectra_have_a_baseline_of_their_own(surveys):
    simulated, _ = surveys
    real = [Spectrum(s.flux, s.wavelength, s.ivar, s.mask, survey=s.survey) for s in simulated if s.survey == "sdss"]
    baselines = fit_baselines([*simulated, *real], PROCESSOR, 8)
    assert set(baselines) == {"simulated", "sdss-simulated", "apogee-simulated", "real", "sdss"}
    patches = clean_patches([PROCESSOR.patch(real[0])])[0]
    alone = fit_baselines(real, PROCESSOR, 8)["real"]
    np.testing.assert_allclose(baselines["real"].reconstruct(patches), alone.reconstruct(patches), atol=1e-9)


@pytest.mark.parametrize(("overstated", "expected"), [(1.0, 1.0), (0.5, 4.0), (2.0, 0.25)])
def test_noise_floor_of_white_noise(overstated, expected):
    rng = np.random.default_rng(5)
    error = rng.uniform(0.5, 2, 20_000)
    floor = noise_floor(3 + error * rng.normal(size=20_000), overstated * error)
    # The median of |x| has a relative error of 1.17 / sqrt(n), the square twice that; second differences that share
    # pixels are worth about half as many.
    assert floor == pytest.approx(expected, rel=4 * 2 * 1.17 * np.sqrt(2 / 20_000))


def test_noise_floor_sees_no_continuum_and_no_line():
    rng = np.random.default_rng(5)
    pixel = np.arange(5000)
    flux = 50 + 0.01 * pixel + 200 * np.exp(-(((pixel - 900) / 4) ** 2)) + rng.normal(size=5000)
    assert noise_floor(flux, np.ones(5000)) == pytest.approx(1, rel=0.15)
    assert np.isnan(noise_floor(flux[:2], np.ones(2)))


def test_a_model_at_its_linear_start_scores_as_the_patch_pca(surveys):
    train, others = surveys
    model = make_model(train)
    scores = score_spectra(model, PROCESSOR, others, fit_baselines(train, PROCESSOR, CONFIG.latent_size))
    assert [score.survey for score in scores] == ["sdss-simulated"] * 2 + ["apogee-simulated"] * 2
    for score in scores:
        for figures in (score.chi2, score.truth):
            assert set(figures) == {"model", "patch PCA", "patch PCA of the survey"}
            assert figures["model"] == pytest.approx(figures["patch PCA"], rel=1e-3)


def test_chi2_is_that_of_the_decoded_spectrum(surveys):
    train, others = surveys
    model = make_model(train, seed=1).eval()
    for layer in [*model.spectok.layers, *model.decoder.layers]:
        torch.nn.init.normal_(layer.mlp.fc2.weight, std=0.1)  # away from the linear start
    for spectrum, score in zip(others, score_spectra(model, PROCESSOR, others, {}), strict=True):
        inputs = PROCESSOR(spectrum, return_tensors="pt")
        with torch.no_grad():
            decoded = PROCESSOR.post_process_reconstruction(model(**inputs), spectrum)[0]
        # Pixels of valid patches count.
        counted = spectrum.good & np.repeat(inputs["attention_mask"][0].numpy(), 32)[: len(spectrum)].astype(bool)
        residual = ((spectrum.flux - decoded.flux) / spectrum.error)[counted]
        if spectrum.survey == "sdss":  # without a gap, so that patches are runs of 32 pixels
            assert score.pixels == counted.sum()
            assert score.chi2["model"] == pytest.approx(np.mean(residual**2), rel=1e-3)
            truth = ((spectrum.truth - decoded.flux) / spectrum.error)[counted]
            assert score.truth["model"] == pytest.approx(np.mean(truth**2), rel=1e-3)
            assert score.snr == pytest.approx(np.median((spectrum.flux / spectrum.error)[counted]), rel=1e-3)
        assert score.tokens == inputs["attention_mask"].sum()
        assert set(score.chi2) == {"model"}


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_interpolation_of_a_linear_spectrum_is_exact(slope):
    spectrum = make_spectrum(3 + slope * np.arange(640), bad=[100, 101, 300])
    score = score_spectra(make_model(), PROCESSOR, [spectrum], {})[0]
    assert score.held_out["interpolation"] == pytest.approx(0, abs=1e-6)
    assert score.held_out["model"] > 0.01


class Recorder(SpecTokForPreTraining):
    """Notes what the encoder is shown, and what is guessed."""

    def forward(self, flux, wavelength, **inputs):
        outputs = super().forward(flux, wavelength, **inputs)
        self.calls = [*getattr(self, "calls", []), (inputs.get("bool_masked_pos"), outputs.reconstruction)]
        return outputs


def test_hidden_pixels_are_hidden():
    torch.manual_seed(0)
    model = Recorder(CONFIG)
    rng = np.random.default_rng(0)
    flux = 10 + rng.normal(size=640)
    score_spectra(model, PROCESSOR, [make_spectrum(flux)], {})
    (nothing, _), (hole, guess) = model.calls
    assert nothing is None and hole.sum() == 64  # 10 % in runs of 8
    hidden = hole.numpy().ravel()

    # Other values under the hole, symmetric about the median, so that the scale stays as it is.
    median = np.median(flux)
    changed = np.where(hidden & (np.abs(flux - median) > 0.1), median + 3 * (flux - median), flux)
    assert np.median(changed) == median and (changed != flux).sum() > 40
    model.calls = []
    score = score_spectra(model, PROCESSOR, [make_spectrum(changed)], {})[0]
    torch.testing.assert_close(model.calls[1][0], hole)
    torch.testing.assert_close(model.calls[1][1], guess, rtol=0, atol=0)
    assert not torch.allclose(model.calls[0][1], guess)

    residual = (changed - guess.numpy().ravel() * median)[hidden] / 0.5
    assert score.held_out["model"] == pytest.approx(np.mean(residual**2), rel=1e-3)


def test_batch_size_and_training_mode_do_not_matter(surveys):
    train, others = surveys
    baselines = fit_baselines(train, PROCESSOR, CONFIG.latent_size)
    model = make_model()
    spectra = [others[2], others[0], train[0], others[3], others[1]]  # lengths mixed
    expected = score_spectra(model.eval(), PROCESSOR, spectra, baselines, batch_size=8)
    for batch_size in (1, 2, 3):
        scores = score_spectra(model.train(), PROCESSOR, spectra, baselines, batch_size=batch_size)
        assert model.training
        for score, other in zip(scores, expected, strict=True):
            assert (score.survey, score.pixels, score.tokens) == (other.survey, other.pixels, other.tokens)
            for figures in ("chi2", "truth", "held_out"):
                assert getattr(score, figures) == pytest.approx(getattr(other, figures), rel=1e-4)


def test_a_spectrum_too_short_for_a_run_has_no_held_out_figure():
    score = score_spectra(make_model(), PROCESSOR, [make_spectrum(np.linspace(1, 2, 32))], {})[0]
    assert np.isnan(score.held_out["model"]) and np.isnan(score.held_out["interpolation"])
    assert np.isfinite(score.chi2["model"])
    assert "held out model" in summarize([score], 8)[0]
    assert score.truth == {}


def make_score(survey, model, truth=None, held_out=np.nan, snr=20.0, noise=1.0):
    return SpectrumScore(
        survey=survey,
        snr=snr,
        pixels=320,
        tokens=10,
        chi2={"model": model, "patch PCA": 2 * model},
        truth={} if truth is None else {"model": truth},
        held_out={"model": held_out},
        noise=noise,
    )


def test_summary_has_medians_and_names_its_mean():
    scores = [make_score("b", chi2, noise=noise) for chi2, noise in ((1.0, 0.7), (2.0, 0.9), (9.0, np.nan))]
    scores[1].held_out["model"] = 3.0
    scores.append(make_score("a", 5.0, truth=0.5))
    first, second = summarize(scores, latent_size=8)
    assert (first["survey"], second["survey"]) == ("b", "a")
    assert (first["spectra"], first["pixels"], first["tokens"], first["compression"]) == (3, 960, 30, 4.0)
    assert (first["chi2 model"], first["chi2 patch PCA"], first["chi2 model (mean)"]) == (2.0, 4.0, 4.0)
    assert first["noise floor"] == pytest.approx(0.8)
    assert first["held out model"] == 3.0
    assert "truth model" not in first and second["truth model"] == 0.5


def test_the_judgement_by_truth_is_at_fixed_signal_to_noise(surveys):
    train, _ = surveys
    baselines = fit_baselines(train, PROCESSOR, 8)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", num_hidden_layers=1, decoder_num_hidden_layers=1))
    model.initialize_from_patch_pca(*map(torch.from_numpy, clean_patches([PROCESSOR.patch(s) for s in train])))
    (row,) = judge_by_truth(model, PROCESSOR, ["sdss"], baselines, spectra=4)
    assert (row["survey"], row["spectra"]) == ("sdss", 4)
    for snr in (10, 30, 100):  # the start is the patch PCA of all training spectra
        assert row[f"S/N {snr}, model"] == pytest.approx(row[f"S/N {snr}, patch PCA"], rel=1e-2)
    assert 0.2 < row["S/N 10, model"] < row["S/N 30, model"] < row["S/N 100, model"]  # 8/32 is what noise alone gives


@pytest.mark.parametrize("overlap", [0, 10])
def test_a_masked_model_is_not_judged_as_an_autoencoder(surveys, overlap):
    config = OmniSpectraConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_overlap=overlap
    )
    model, processor = OmniSpectraForPreTraining(config), OmniSpectraProcessor(patch_overlap=overlap)
    for judge in (
        lambda: score_spectra(model, processor, surveys[1], {}),
        lambda: judge_by_truth(model, processor, ["sdss"], {}, spectra=1),
    ):
        with pytest.raises(ValueError, match=r"need an autoencoder .*found OmniSpectraForPreTraining .*masked_error"):
            judge()


def test_table():
    rows = [{"survey": "a", "n": 3, "x": 0.123456}, {"survey": "b", "x": float("nan"), "y": 12345.6}]
    assert format_table(rows) == (
        "| survey | n | x | y |\n| --- | --- | --- | --- |\n| a | 3 | 0.123 | - |\n| b | - | - | 12346 |"
    )
