"""What finds what among spectra and images of the same galaxies, and what their embeddings say of them."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spectok_hf.analysis.search import SpectrumIndex
from spectok_hf.data.simulation.pairs import simulate_galaxy_pairs
from spectok_hf.evaluation import cross_modal
from spectok_hf.evaluation.cross_modal import (
    DIRECTIONS,
    PairEmbeddings,
    alignment_loss,
    answer_ranks,
    band_magnitudes,
    embed_pairs,
    flux_level,
    nearest_others,
    observe_again,
    pair_properties,
    property_methods,
    property_tasks,
    retrieval_rows,
)
from spectok_hf.evaluation.tasks import Split, evaluate_tasks
from spectok_hf.models.processing_astroclip import AstroClipProcessor
from spectok_hf.models.processing_spectok import SpectrumProcessor
from spectok_hf.models.sky_image import SkyImage
from spectok_hf.models.spectrum import Spectrum


def unit_vectors(count, size=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def reference_ranks(queries, answers):
    cosine = np.array([[q @ a / np.linalg.norm(q) / np.linalg.norm(a) for a in answers] for q in queries])
    return [sum(row[other] >= row[own] for other in range(len(row)) if other != own) for own, row in enumerate(cosine)]


@pytest.fixture(scope="module")
def pairs():
    return simulate_galaxy_pairs(12, 2512, image_size=48)


@pytest.mark.parametrize("chunk", [7, 1024])
def test_ranks_are_those_of_a_loop_over_all_answers(monkeypatch, chunk):
    monkeypatch.setattr(cross_modal, "CHUNK", chunk)
    queries, answers = 3 * unit_vectors(20), unit_vectors(20) + 0.5 * unit_vectors(20, seed=1)
    assert answer_ranks(queries, answers).tolist() == reference_ranks(queries, answers)


def test_ranks_of_random_embeddings_are_chance():
    ranks = answer_ranks(unit_vectors(2000), unit_vectors(2000, seed=1))
    assert (ranks < 100).mean() == pytest.approx(0.05, abs=0.015)


def test_equal_answers_and_those_without_a_direction_count_against_the_query():
    same = np.ones((5, 3))
    assert answer_ranks(same, same).tolist() == [4] * 5
    queries = np.eye(3)
    queries[0] = 0
    assert answer_ranks(queries, np.eye(3)).tolist() == [2, 0, 0]


def test_embeddings_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=r"one shape .* found shapes \(4, 8\) and \(5, 8\)"):
        answer_ranks(unit_vectors(4), unit_vectors(5))
    with pytest.raises(ValueError, match="with NaN or infinite numbers"):
        answer_ranks(np.full((3, 2), np.nan), np.ones((3, 2)))
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"from 1 to 3, as many as there are, found {wrong}"):
            nearest_others(unit_vectors(4), unit_vectors(4), wrong)


def test_nearest_others_leave_the_own_answer_out(monkeypatch):
    monkeypatch.setattr(cross_modal, "CHUNK", 3)
    vectors = unit_vectors(8)
    found = nearest_others(vectors, vectors, 7)
    for row, near in enumerate(found):
        assert sorted([row, *near]) == list(range(8))
        assert (np.diff(vectors[near] @ vectors[row]) <= 0).all()


def test_retrieval_rows_stand_beside_chance():
    vectors, redshift = unit_vectors(40), np.linspace(0.1, 0.5, 40)
    circle = np.stack([np.cos(4 * redshift), np.sin(4 * redshift)], -1).astype(np.float32)
    rows = retrieval_rows(
        PairEmbeddings(circle, circle), {"redshift": redshift}, k=3, again=PairEmbeddings(circle, vectors[:, :2])
    )
    assert [(row["query"], row["answers"]) for row in rows] == list(DIRECTIONS)
    assert [row["recall@3"] for row in rows[:3]] == [1, 1, 1] and rows[3]["recall@3"] < 0.5
    assert {row["chance"] for row in rows} == {3 / 40} and rows[0]["median rank"] == 0
    for row in rows:
        assert row["redshift apart / (1 + z)"] == pytest.approx(0.008, abs=0.004)
        assert row["redshift apart / (1 + z), random"] > 0.05


def test_without_second_observations_there_is_no_recall_within_a_kind():
    first = PairEmbeddings(unit_vectors(9), unit_vectors(9, seed=1))
    mass = np.full(9, 10.0)
    mass[0] = np.nan
    rows = retrieval_rows(first, {"log_stellar_mass": mass}, k=2)
    assert ["recall@2" in row for row in rows] == [True, True, False, False]
    assert rows[3]["log_stellar_mass apart"] == 0  # what is not known does not count
    with pytest.raises(ValueError, match=r"one number for each of 9 pairs, found shapes .*\(3,\)"):
        retrieval_rows(first, {"redshift": np.zeros(3)})


@pytest.mark.parametrize(("query", "kind"), DIRECTIONS)
def test_the_similarity_search_finds_the_same_in_all_directions(query, kind):
    shared = np.ones(8)  # what all embeddings have in common, and what the kinds have not
    halves = {"spectrum": unit_vectors(30) + shared, "image": unit_vectors(30) + unit_vectors(30, seed=1) - shared}
    halves = {name: values.astype(np.float32) for name, values in halves.items()}
    ids = [f"galaxy-{row}" for row in range(30)]
    index = SpectrumIndex.from_embeddings(halves[kind], ids, {"redshift": np.linspace(0, 1, 30)}, metric="cosine")
    found = index.search(embedding=halves[query], k=5)
    cosine = np.array([[q @ a / np.linalg.norm(q) / np.linalg.norm(a) for a in halves[kind]] for q in halves[query]])
    for row, neighbours in enumerate(found):
        expected = np.argsort(-cosine[row], kind="stable")[:5]
        assert neighbours.ids == [ids[place] for place in expected]
        np.testing.assert_allclose(neighbours.distances, np.sqrt((2 - 2 * cosine[row, expected]).clip(0)), atol=2e-3)
        assert neighbours.rows[0]["redshift"] == pytest.approx(expected[0] / 29)


def test_the_loss_is_that_of_telling_apart():
    vectors = unit_vectors(24)
    pairs = PairEmbeddings(vectors, vectors[::-1].copy())
    scores = 15.5 * vectors[:8].astype(np.float64) @ pairs.image[:8].T.astype(np.float64)
    expected = [np.mean(np.log(np.exp(one).sum(-1)) - np.diag(one)) for one in (scores, scores.T)]
    first = PairEmbeddings(vectors[:8], pairs.image[:8])
    assert alignment_loss(first, 15.5, 8) == pytest.approx(np.mean(expected), rel=1e-5)
    assert alignment_loss(PairEmbeddings(np.ones((9, 2), np.float32), np.ones((9, 2), np.float32)), 15.5, 4) == (
        pytest.approx(math.log(4))
    )
    with pytest.raises(ValueError, match="from 1 to 24"):
        alignment_loss(pairs, 1.0, 25)


# Observations -------------------------------------------------------------------------------------


def test_a_second_observation_has_other_noise_and_the_same_galaxy(pairs):
    again = observe_again(pairs, seed=3)
    for first, second in zip(pairs, again, strict=True):
        assert second.spectrum.object_id == second.image.object_id == first.spectrum.object_id
        good = first.spectrum.good
        pull = (second.spectrum.flux - first.spectrum.truth)[good] / first.spectrum.error[good]
        assert abs(pull.std() - 1) < 0.05 and abs(pull.mean()) < 0.1
        assert np.array_equal(second.spectrum.good, good)
    images = [(first.image, second.image) for first, second in zip(pairs, again, strict=True)]
    assert all(not np.array_equal(one.flux, other.flux) for one, other in images)
    for one, other in images:  # masks and errors turn as the flux does
        assert sorted(one.ivar[0].ravel()) == sorted(other.ivar[0].ravel())
        assert np.array_equal(other.ivar > 0, other.good)
        assert other.flux[other.good].sum() == pytest.approx(one.flux[one.good].sum(), rel=0.3)
    repeated = observe_again(pairs, seed=3)
    assert all(np.array_equal(one.image.flux, two.image.flux) for one, two in zip(again, repeated, strict=True))


def test_two_observations_share_no_noise(pairs):
    def noise(image):
        return np.where(image.good, (image.flux - image.truth) * np.sqrt(image.ivar), 0.0)

    for first, second in zip(pairs, observe_again(pairs, seed=3), strict=True):
        good = first.spectrum.good
        both = first.spectrum, second.spectrum
        drawn = [((one.flux - one.truth) / one.error)[good].clip(-5, 5) for one in both]
        assert abs(np.corrcoef(*drawn)[0, 1]) < 0.06
        assert noise(second.image).std() == pytest.approx(1, abs=0.05)
        turned = [np.rot90(noise(second.image), turns, axes=(1, 2)) for turns in range(4)]
        for back in (*turned, *(values[:, :, ::-1] for values in turned)):  # one of them undoes the turn
            assert abs(np.corrcoef(noise(first.image).ravel(), back.ravel())[0, 1]) < 0.06


def test_without_the_truth_noise_is_added_to_what_is_there(pairs):
    blind = [(spectrum, replace(image, truth=None)) for spectrum, image in pairs[:2]]
    for (_, first), (_, second) in zip(blind, observe_again(blind), strict=True):
        assert second.truth is None
        faint = np.sort(np.abs(second.flux[second.good])), np.sort(np.abs(first.flux[first.good]))
        assert np.median(faint[0]) > 1.2 * np.median(faint[1])  # noise of both


def test_magnitudes_are_of_the_flux_in_the_aperture_whatever_lies_under_the_mask():
    flux = np.zeros((2, 41, 41), dtype=np.float32)
    y, x = np.ogrid[:41, :41]
    inside = np.hypot(y - 20, x - 20) <= 10
    flux[0][inside], flux[1][inside] = 100 / inside.sum(), 10 / inside.sum()
    clean = SkyImage(flux=flux, bands=("g", "r"), pixel_scale=0.5)
    found = band_magnitudes([clean], radius=5.0)[0]
    np.testing.assert_allclose(found, [17.5, 20.0], atol=0.01)  # 22.5 - 2.5 log10(flux)
    spoilt, mask = flux.copy(), np.zeros(flux.shape, dtype=bool)
    spoilt[:, 18:22, 18:22], mask[:, 18:22, 18:22] = 1e6, True
    masked = SkyImage(flux=spoilt, bands=("g", "r"), pixel_scale=0.5, mask=mask)
    np.testing.assert_allclose(band_magnitudes([masked], radius=5.0)[0], found, atol=1e-5)
    with pytest.raises(ValueError, match="the same bands"):
        band_magnitudes([clean, SkyImage(flux=flux, bands=("r", "z"), pixel_scale=0.5)])


# Embeddings and properties ------------------------------------------------------------------------


class MeanModel(torch.nn.Module):
    """Embeds a spectrum by its scale, an image by the means of its channels."""

    device = torch.device("cpu")

    def forward(self, pixel_values, scale, **inputs):
        assert not self.training
        sides = torch.stack([scale, torch.ones_like(scale)], -1), pixel_values.mean((2, 3))[:, :2]
        states = inputs["wavelength"].where(inputs["attention_mask"][..., None] > 0, 1e9)
        embeds = dict(zip(("spectrum_embeds", "image_embeds"), map(torch.nn.functional.normalize, sides), strict=True))
        return embeds | {"last_hidden_state": states, "attention_mask": inputs["attention_mask"]}


def test_a_pair_that_the_processor_skips_is_not_lost_in_silence(pairs):
    blind = replace(pairs[1].image, mask=np.ones_like(pairs[1].image.mask))
    processor = AstroClipProcessor(SpectrumProcessor(), image_size=32, on_invalid="skip")
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError, match=r"each of 3 pairs .* found 2"):
        embed_pairs(MeanModel(), processor, [pairs[0], (pairs[1].spectrum, blind), pairs[2]])


def test_plain_tuples_are_pairs(pairs):
    plain = [tuple(pair) for pair in pairs]
    for name, values in pair_properties(plain).items():
        assert np.array_equal(values, pair_properties(pairs)[name])
    assert [again.image.object_id for again in observe_again(plain)] == [pair.image.object_id for pair in pairs]
    assert [task.name for task in property_tasks(plain, Split(np.arange(8), np.arange(8, 10), np.arange(10, 12)))]


def test_pairs_are_embedded_alike_in_batches_of_any_size(pairs):
    processor, model = AstroClipProcessor(SpectrumProcessor(), image_size=32), MeanModel()
    whole = embed_pairs(model, processor, pairs)
    assert model.training
    parts = embed_pairs(model.eval(), processor, pairs, batch_size=5)
    assert not model.training
    for kind in ("spectrum", "image"):
        values = getattr(whole, kind)
        assert values.shape == (12, 2) and values.dtype == np.float32
        np.testing.assert_allclose(getattr(parts, kind), values, rtol=1e-5)
    scale = processor.spectrum_processor([pair.spectrum for pair in pairs])["scale"]
    np.testing.assert_allclose(whole.spectrum[:, 0] / whole.spectrum[:, 1], scale, rtol=1e-4)
    assert whole.encoder.shape == (12, 32)  # of patches that count alone
    assert (np.abs(whole.encoder - 6700) < 600).all()
    with pytest.raises(ValueError, match="needs pairs, found none"):
        embed_pairs(model, processor, [])


@pytest.fixture(scope="module")
def told():
    """Rows of all methods on galaxies whose redshift is in the embedding of the spectrum, and not in the image's."""
    pytest.importorskip("sklearn")
    many = simulate_galaxy_pairs(60, 2511, image_size=16)
    redshift = pair_properties(many)["redshift"]
    spectrum = np.stack([np.cos(5 * redshift), np.sin(5 * redshift)], -1)
    embeddings = PairEmbeddings(spectrum, unit_vectors(60, 2))
    split = Split(np.arange(36), np.arange(36, 44), np.arange(44, 60))
    methods = property_methods(embeddings, many, neighbours=3)
    rows = evaluate_tasks(property_tasks(many, split), methods, bootstrap=2, progress=False)
    return {(row["task"], row["method"]): row["r_squared"] for row in rows}


def test_properties_are_told_from_embeddings_that_hold_them(told):
    assert told["redshift", "spectrum: 3-NN"] > 0.8
    for method in ("image: 3-NN", "spectrum, shuffled: 3-NN", "spectrum, shuffled: MLP", "constant"):
        assert told["redshift", method] < 0.5
    names = {"photometry (g, r, z): MLP", "image: MLP", "spectrum: 3-NN", "spectrum: 4-NN"}
    names |= {f"raw flux{level}: PCA + {way}" for level in ("", " and level") for way in ("ridge", "MLP")}
    assert {method for _, method in told} >= names
    assert {task for task, _ in told} == {"redshift", "log_stellar_mass"}


def test_baselines_know_the_level_that_flux_over_its_median_has_lost():
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    level, shape = rng.uniform(-1, 1, 90), 1 + 0.1 * np.sin(np.arange(200) / 9)
    wavelength = 4000 + np.arange(200.0)
    spectra = [
        Spectrum(10**one * (shape + rng.normal(0, 0.1, 200)), wavelength, np.full(200, 100 / 100**one), survey="desi")
        for one in level
    ]
    np.testing.assert_allclose(flux_level(spectra)[:, 0], level, atol=0.05)
    image = SkyImage(np.ones((3, 32, 32)), "grz", 0.262)
    pairs = [
        (replace(one, labels={"redshift": 0.1 + row / 1e3, "log_stellar_mass": level[row]}, object_id=str(row)), image)
        for row, one in enumerate(spectra)
    ]
    nothing = rng.normal(size=(90, 3))
    methods = property_methods(PairEmbeddings(nothing, nothing, nothing), pairs)
    split = Split(np.arange(60), np.arange(60, 70), np.arange(70, 90))
    task = property_tasks(pairs, split)[1]

    def explained(name):
        return 1 - np.mean((methods[name](task, split, 0).values[:, 0] - level[70:]) ** 2) / level[70:].var()

    for name in ("raw flux{}: PCA + ridge", "spectrum encoder alone{}: MLP"):
        with_level = name.format(" and level" if name.startswith("raw") else ", and level")
        assert explained(name.format("")) < 0.3 and explained(with_level) > 0.7

    low, high = np.split(np.argsort(level), [70])  # all methods may go beyond what they learned from, by as much
    far = Split(np.delete(low, np.s_[::7]), low[::7], high)
    told = methods["raw flux and level: PCA + ridge"](task, far, 0).values[:, 0]
    assert level[far.train].max() + 0.05 < np.median(told) and np.abs(told - level[high]).max() < 0.2


def test_photometry_is_what_was_measured_without_neighbours(pairs):
    pytest.importorskip("sklearn")
    split = Split(np.arange(8), np.arange(8, 10), np.arange(10, 12))

    def told(pairs):
        nothing = np.zeros((12, 2))
        method = property_methods(PairEmbeddings(nothing, nothing), pairs)["photometry (g, r, z): 4-NN"]
        return method(property_tasks(pairs, split)[1], split, 0).values

    bright = [(spectrum, replace(image, flux=100 * image.flux.max() - image.flux)) for spectrum, image in pairs]
    assert np.array_equal(told(pairs), told(bright))
    unmeasured = [(spectrum, replace(image, labels={})) for spectrum, image in pairs]
    assert not np.array_equal(told(pairs), told(unmeasured))


@pytest.mark.parametrize("count", [1, 4])
def test_the_number_of_neighbours_is_obeyed(count, pairs):
    pytest.importorskip("sklearn")
    angles = np.linspace(0, 3, 12)
    circle = np.stack([np.cos(angles), np.sin(angles)], -1)
    method = property_methods(PairEmbeddings(circle, circle), pairs, neighbours=count)
    split = Split(np.arange(8), np.arange(8, 10), np.arange(10, 12))
    task = property_tasks(pairs, split)[1]
    predicted = method[f"spectrum: {count}-NN"](task, split, 0).values[:, 0]
    known = task.labels[:8, 0]
    if count == 1:
        assert predicted == pytest.approx(known[7])  # the end of the arc
    else:
        assert known[4:8].min() < predicted.min() and predicted.max() < known[4:8].max()
        assert not np.isclose(predicted[:, None], known).any()
    with pytest.raises(ValueError, match="at least 1, found 0"):
        property_methods(PairEmbeddings(circle, circle), pairs, neighbours=0)


def test_a_missing_label_is_refused(pairs):
    spectrum = pairs[0].spectrum
    unlabelled = SimpleNamespace(**vars(spectrum) | {"labels": {"redshift": 0.1}})
    with pytest.raises(ValueError, match=r"found some without: \{'log_stellar_mass': 1\}"):
        property_tasks([pairs[0]._replace(spectrum=unlabelled), *pairs[1:]], None)
