"""The index: what is found, by what metric, and that it comes back as it was kept."""

import dataclasses
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from loopback_hub import CLIENT_WARNINGS, LoopbackHub

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AstroClipProcessor,
    Spectrum,
    SpectrumEncoder,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.analysis.search import SpectrumIndex, exact_nearest
from spectok_hf.analysis.search_metric import MOST_CHANNELS, ReducedTokens, profile_metric
from spectok_hf.data.degradations import keep_range
from spectok_hf.data.simulation.pairs import simulate_galaxy_pairs
from spectok_hf.data.spectrum_side import reading_of
from spectok_hf.embedding import embed_spectra
from spectok_hf.models.wavelength import vacuum_to_air

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

HONEST = {"snr": (8, 40), "honest": True}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def encoder():
    return SpectrumEncoder.from_pretrained("spectok-tiny")


@pytest.fixture(scope="module")
def spectra():
    return simulate_survey("sdss", 30, seed=2512, **HONEST)


@pytest.fixture(scope="module")
def index(encoder, spectra):
    return SpectrumIndex.build(encoder, spectra, tokens=True)


def observed_again(spectrum, seed):
    noise = np.where(spectrum.good, spectrum.error, 0) * np.random.default_rng(seed).normal(size=len(spectrum))
    fields = {name: getattr(spectrum, name) for name in ("wavelength", "ivar", "mask", "survey", "medium")}
    return Spectrum(spectrum.truth + noise, object_id=f"{spectrum.object_id}-again", **fields)


def plain(count=6, **options):
    embeddings = np.random.default_rng(0).normal(size=(count, 4))
    return SpectrumIndex.from_embeddings(embeddings, [f"s{row}" for row in range(count)], **options), embeddings


@pytest.fixture(scope="module")
def astroclip(tmp_path_factory):
    """An encoder of a space that images share."""
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = AstroClipConfig(
        spectrum_config={"model_type": "spectok", "hidden_size": 32, "decoder_num_hidden_layers": 1, **small},
        vision_config={"model_type": "vit", "hidden_size": 16, "image_size": 24, "patch_size": 8, **small},
        projection_dim=16,
    )
    model = AstroClipModel(config)
    model.remember_processor(AstroClipProcessor(config.spectrum_config.new_processor(), image_size=24))
    model.save_pretrained(folder := tmp_path_factory.mktemp("astroclip"))
    return SpectrumEncoder.from_pretrained(folder)


# Finding


@pytest.mark.parametrize("metric", ["auto", "profile"])
def test_images_find_spectra_of_an_astroclip_by_the_plain_angle(astroclip, metric, tmp_path):
    spectra, images = zip(*simulate_galaxy_pairs(8, 2512, image_size=24), strict=True)
    index = SpectrumIndex.build(astroclip, list(spectra), metric=metric)
    assert index.metric.name == ("cosine" if metric == "auto" else metric)
    of_images, of_spectra = astroclip.encode_images(list(images)), astroclip.encode(list(spectra))
    expected = np.argsort(-of_images @ of_spectra.T, axis=-1)
    kept = SpectrumIndex.load(index.save(tmp_path / "index"), encoder=astroclip)
    for one in (index, kept):
        found = one.search(embedding=of_images, k=8)
        assert [answer.ids for answer in found] == [[index.ids[row] for row in rows] for rows in expected]
    if metric == "auto":
        assert kept.search(list(spectra), k=1)[3].ids == [index.ids[3]]


def tokens_of(channels, seed=0, noise=0.0, count=12):
    """Tokens of spectra that differ in ten directions of their channels, and in noise."""
    rng = np.random.default_rng(seed)
    spread = np.random.default_rng(1).normal(size=(10, channels))
    shapes = np.random.default_rng(2).normal(size=(count, 100, 10)).cumsum(1)
    wavelength = np.linspace(4000, 9000, 100)
    return [ReducedTokens(one @ spread + noise * rng.normal(size=(100, channels)), wavelength) for one in shapes]


def test_tokens_of_many_channels_are_reduced_and_still_known():
    metric = profile_metric(tokens_of(200))
    assert metric.arrays["channels"].shape == (200, 10)  # in no other direction do they differ
    assert metric.arrays["mean"].shape == (32 * 10,)
    noisy = profile_metric(tokens_of(200, noise=0.3))
    assert noisy.arrays["channels"].shape == (200, MOST_CHANNELS)
    vectors, again = metric.vectors(tokens_of(200)), metric.vectors(tokens_of(200, seed=3, noise=0.3))
    np.testing.assert_array_equal((again @ vectors.T).argmax(-1), np.arange(12))
    assert "channels" not in profile_metric(tokens_of(MOST_CHANNELS)).arrays
    with pytest.raises(ValueError, match="takes 200 numbers a token, found 48"):
        metric.vectors(tokens_of(48))


def test_other_noise_does_not_hide_an_object_from_the_noise_metric(encoder, index, spectra):
    again = [observed_again(one, seed) for seed, one in enumerate(spectra)]
    found = [one.ids[0] for one in index.search(again, k=1)]
    ids = [one.object_id for one in spectra]
    right = np.mean([name == own for name, own in zip(found, ids, strict=True)])
    angles = SpectrumIndex.build(encoder, spectra, metric="embedding")
    by_angle = [one.ids[0] for one in angles.search(again, k=1)]
    assert index.metric.name == "noise" and right >= 0.95
    assert right > np.mean([name == own for name, own in zip(by_angle, ids, strict=True)])


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")
def test_an_infrared_spectrum_does_not_decide_what_counts_in_an_optical_one(encoder, spectra):
    infrared = simulate_survey("apogee", 12, seed=2512, snr=(60, 90), honest=True)
    mixed = SpectrumIndex.build(encoder, [*spectra, *infrared], keep_flux=False)
    again = [observed_again(one, seed) for seed, one in enumerate([*spectra, *infrared])]
    right = [one.ids[0] == own for one, own in zip(mixed.search(again, k=1), mixed.ids, strict=True)]
    assert np.mean(right[:30]) >= 0.95 and np.mean(right[30:]) >= 0.9


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")
def test_copies_of_which_nothing_is_read_do_not_set_the_scale(encoder, index, spectra):
    few = []
    for row, one in enumerate(spectra[:3]):  # a third of the pixels each, and of a noisy copy, bad as another is, none
        short = keep_range(one, 6500, 6600)
        bad = np.arange(len(short)) % 3 == row
        few.append(dataclasses.replace(short, mask=short.mask | bad, survey="mine", object_id=f"few-{row}"))
    mixed = SpectrumIndex.build(encoder, [*spectra, *few], on_invalid="skip", keep_flux=False)
    assert len(mixed) == 33
    own, among = (one.nearest_others(1)[1][:30, 0] for one in (index, mixed))
    assert np.median(among / own) == pytest.approx(1, abs=0.5)


def test_noise_that_is_drawn_again_moves_distances_little(encoder, index, spectra):
    other = SpectrumIndex.build(encoder, spectra, seed=1)
    pairs = [one.nearest_others(1)[1][:, 0] for one in (index, other)]
    assert np.corrcoef(*pairs)[0, 1] > 0.9
    same = SpectrumIndex.build(encoder, spectra)
    np.testing.assert_array_equal(same.nearest_others(1)[1][:, 0], pairs[0])


def test_a_spectrum_finds_itself_and_its_id_finds_others(index, spectra):
    query = spectra[3]
    found = index.search(query, k=4)
    assert found.ids[0] == query.object_id and found.distances[0] == pytest.approx(0, abs=1e-3)
    by_id = index.search(id=query.object_id, k=3)
    assert by_id.ids == found.ids[1:]
    np.testing.assert_allclose(by_id.distances, found.distances[1:], rtol=1e-4)
    assert (np.diff(by_id.scores) <= 0).all()
    rows, distances = index.nearest_others(3)
    assert [index.ids[row] for row in rows[3]] == by_id.ids and distances.shape == (30, 3)


def test_one_query_gives_one_answer_and_a_list_a_list(index, spectra):
    assert index.search(spectra[0], k=2).ids == index.search([spectra[0]], k=2)[0].ids
    assert len(index.search(spectra[:3], k=100)[2]) == 30


def test_embeddings_are_compared_by_their_angle(encoder, index, spectra):
    vectors = encoder.encode(spectra[:2])
    assert [one.ids[0] for one in index.search(embedding=vectors)] == index.ids[:2]
    assert index.search(embedding=vectors[1], k=1).ids == index.ids[1:2]


def test_a_window_compares_nothing_outside_of_it(encoder, index, spectra):
    query, low, high = spectra[5], 6400.0, 6900.0
    found = index.search(query, k=30, window=(low, high))
    assert found.ids[0] == query.object_id and found.window == (low, high)
    # Other tokens outside of the window, and the same inside: the same answer.
    tokens = encoder.encode(query, output="tokens")
    outside = (tokens.wavelength < low - 100) | (tokens.wavelength > high + 100)
    tokens.values[outside] += 5

    class Other:
        name, fingerprint = encoder.name, encoder.fingerprint

        def encode(self, spectra, output):
            return [tokens]

    other = SpectrumIndex(index.rows, index.metric, index.about, encoder=Other())
    changed = other.search(query, k=30, window=(low, high))
    assert changed.ids == found.ids
    np.testing.assert_allclose(changed.distances, found.distances, atol=1e-6)
    assert index.search(id=query.object_id, k=5, window=(low, high)).ids == found.ids[1:6]


def test_blocks_give_what_all_distances_give(monkeypatch):
    monkeypatch.setattr("spectok_hf.analysis.search_rows.BLOCK", 7)
    monkeypatch.setattr("spectok_hf.analysis.search_rows.MOST_PAIRS", 90)  # two queries at a time
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(60, 3)), rng.normal(size=(5, 3))
    all_distances = np.linalg.norm(vectors[None] - queries[:, None], axis=2)
    found, distances = exact_nearest(vectors, queries, 9)
    np.testing.assert_array_equal(found, np.argsort(all_distances, axis=1)[:, :9])
    np.testing.assert_allclose(distances, np.sort(all_distances, axis=1)[:, :9])


def test_faiss_agrees_with_the_exact_search(index, spectra):
    pytest.importorskip("faiss")
    fast = SpectrumIndex(index.rows, index.metric, index.about, encoder=index.encoder, backend="faiss")
    for one, other in zip(fast.search(spectra[:4], k=7), index.search(spectra[:4], k=7), strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.distances, other.distances, atol=1e-3)


def test_faiss_agrees_where_copies_tie():
    pytest.importorskip("faiss")
    embeddings = np.repeat(np.random.default_rng(0).normal(size=(20, 4)), 6, axis=0)
    ids = [f"s{row}" for row in range(120)]
    exact, fast = (SpectrumIndex.from_embeddings(embeddings, ids, backend=name) for name in ("exact", "faiss"))
    assert exact.search(id="s30", k=3).ids == fast.search(id="s30", k=3).ids == ["s31", "s32", "s33"]


def test_without_faiss_the_extra_is_named(monkeypatch):
    index, _ = plain(backend="faiss")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"spectok-hf\[search\]"):
        index.search(id="s1")


# Answers


def test_an_answer_is_a_table_and_a_picture(index, spectra):
    found = index.search(id=spectra[0].object_id, k=3)
    table = found.to_pandas()
    assert table["id"].tolist() == found.ids and table["survey"].tolist() == ["sdss"] * 3
    labels = {one.object_id: one.labels["redshift"] for one in spectra}
    assert table["redshift"].tolist() == [labels[name] for name in found.ids]
    ax = found.plot(most=2)
    texts = [text.get_text() for text in ax.texts]
    assert len(ax.lines) == 3 and spectra[0].object_id in texts[0] and found.ids[0] in texts[1]
    assert found.plot(ax=ax, window=(5000, 6000)) is ax and ax.get_xlim() == (5000, 6000)


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")
def test_all_of_a_picture_is_in_the_medium_of_the_checkpoint_and_another_frame_is_named(encoder, index, spectra):
    first = spectra[0]
    air = dataclasses.replace(first, wavelength=vacuum_to_air(first.wavelength), medium="air", object_id="aired")
    rest = dataclasses.replace(observed_again(first, 1), frame="rest", object_id="rest")
    mixed = SpectrumIndex.build(encoder, [first, air, rest], metric=index.metric)
    for found, there in ((mixed.search(air), 0), (mixed.search(id="aired"), 0), (mixed.search(id=first.object_id), 1)):
        assert found.ids[0] == mixed.ids[there] and found.rows[0]["medium"] == ("vacuum", "air")[there]
        for wavelength, _ in (found.spectrum, *found.spectra):
            np.testing.assert_allclose(wavelength, first.wavelength, atol=1e-3)  # as float32
        ax = found.plot()
        assert ax.get_xlabel() == "wavelength [Å, vacuum, observed frame]"
        assert [text.get_text() for text in ax.texts if text.get_text().endswith(", rest frame")] != []
    before = SpectrumIndex(mixed.rows.remove_columns(["medium", "frame"]), index.metric, {"checkpoint": "old"})
    found = before.search(id="aired")
    assert found.plot().get_xlabel() == "wavelength [Å, each as it was read]"
    np.testing.assert_allclose(found.spectrum[0], air.wavelength, atol=1e-3)


def test_emission_lines_of_a_picture_are_not_cut(encoder, index, spectra):
    line = 20 * np.exp(-0.5 * ((np.arange(len(spectra[0])) - 2000) / 3) ** 2)
    lined = dataclasses.replace(
        spectra[0], flux=spectra[0].flux + line * np.median(spectra[0].flux), object_id="lined"
    )
    ax = SpectrumIndex.build(encoder, [lined, spectra[1]], metric=index.metric).search(id="lined").plot()
    drawn = ax.lines[0].get_ydata()
    assert np.nanargmax(drawn) in range(1998, 2003) and np.sum(drawn == np.nanmax(drawn)) == 1


def test_a_picture_needs_flux():
    index, _ = plain()
    with pytest.raises(ValueError, match="keep_flux=True"):
        index.search(id="s0").plot()


def test_of_one_spectrum_nothing_is_found_and_the_table_is_empty():
    index = SpectrumIndex.from_embeddings(np.eye(3)[:1], ["a"])
    table = index.search(id="a").to_pandas()
    assert len(table) == 0 and list(table.columns) == ["id", "distance"]


def test_an_index_of_one_spectrum_tells_another_from_it(encoder, spectra):
    one = SpectrumIndex.build(encoder, spectra[:1])
    assert one.search(spectra[0]).distances[0] == pytest.approx(0, abs=1e-5)
    assert one.search(spectra[1]).distances[0] > 0.1


def test_labels_keep_their_digits_and_their_place(encoder, spectra, index):
    labels = {"targetid": 39628473198710603, "distance": 7.0, "teff": float("nan")}
    labelled = [dataclasses.replace(one, labels=labels) for one in spectra[:3]]
    made = SpectrumIndex.build(encoder, labelled, ids=["a$b$", "$\\frac", "ñ/☃"], metric=index.metric)
    found = made.search(id="ñ/☃")
    table = found.to_pandas()
    assert table["targetid"].tolist() == [39628473198710603] * 2
    assert table["distance"].tolist() == found.distances.tolist() and table["distance_label"].tolist() == [7.0, 7.0]
    ax = found.plot()
    ax.figure.canvas.draw()  # which reads no formula in a name
    assert not any("nan" in text.get_text() for text in ax.texts)
    with pytest.raises(ValueError, match="from a shorter to a longer wavelength in Å, found 6000 to 5000"):
        found.plot(window=(6000, 5000))


# What cannot be compared


def test_a_spectrum_of_another_range_is_no_query(index, encoder):
    (infrared,) = simulate_survey("apogee", 1, seed=2512, snr=80)
    with pytest.raises(ValueError, match="no wavelength in common with enough spectra"):
        index.search(infrared)
    with pytest.raises(ValueError, match="tells none of these spectra from another"):
        SpectrumIndex.build(encoder, [infrared], metric=index.metric)


def test_a_lone_spectrum_of_another_range_is_named(index, encoder, spectra):
    (infrared,) = simulate_survey("apogee", 1, seed=2512, snr=80)
    with pytest.warns(UserWarning, match=f"1 of 4 spectra .* cannot be compared with them: {infrared.object_id}"):
        mixed = SpectrumIndex.build(encoder, [*spectra[:3], infrared], metric=index.metric)
    with pytest.raises(ValueError, match="cannot be compared"):
        mixed.search(id=infrared.object_id)


def test_a_metric_of_another_encoder_is_refused(index, encoder, spectra):
    other = dataclasses.replace(index.metric, fingerprint="f" * 64)
    with pytest.raises(ValueError, match="fitted with other weights"):
        SpectrumIndex.build(encoder, spectra[:3], metric=other)


def test_a_window_is_not_compared_across_a_gap(encoder, index, spectra):
    first = spectra[0]
    gap = first.mask | ((first.wavelength > 5000) & (first.wavelength < 6500))
    holed = dataclasses.replace(first, mask=gap, object_id="holed")
    made = SpectrumIndex.build(encoder, [holed, *spectra[1:6]], tokens=True, metric=index.metric)
    assert "holed" not in made.search(first, window=(5500, 6000)).ids
    assert "holed" in made.search(first, window=(7000, 8000)).ids
    with pytest.raises(ValueError, match=r"most of 4900 to 6400 Å is a gap of the query"):
        made.search(id="holed", window=(4900, 6400))


# What is made before


@pytest.mark.parametrize("tokens", [False, True])
def test_the_files_of_embed_become_an_index(encoder, index, spectra, tmp_path, tokens):
    embed_spectra("simulate:sdss:12:2512", "spectok-tiny", tmp_path / "out", tokens=tokens)
    made = SpectrumIndex.from_embeddings(tmp_path / "out")
    assert len(made) == 12 and made.metric.name == ("profile" if tokens else "embedding")
    assert made.about == {"checkpoint": "spectok-tiny", "fingerprint": encoder.fingerprint}
    assert made.rows["survey"] == ["sdss"] * 12 if isinstance(made.rows["survey"], list) else True
    made.encoder = encoder
    query = simulate_survey("sdss", 3, seed=2512)[2]
    assert made.search(query, k=1).ids == [query.object_id]
    if tokens:
        borrowed = SpectrumIndex.from_embeddings(tmp_path / "out", metric=index.metric)
        borrowed.encoder = encoder
        assert borrowed.metric.name == "noise" and borrowed.search(query, k=1).ids == [query.object_id]
    else:
        with pytest.raises(ValueError, match="tokens=True"):
            SpectrumIndex.from_embeddings(tmp_path / "out", metric=index.metric)


def test_metadata_come_back_with_the_rows():
    index, _ = plain(metadata={"teff": [1000.0 * row for row in range(6)]})
    found = index.search(id="s2", k=5)
    assert found.to_pandas()["teff"].tolist() == [1000.0 * int(name[1:]) for name in found.ids]


def test_metadata_do_not_replace_what_an_index_has(tmp_path):
    for name in ("id", "embedding", "vector"):
        with pytest.raises(ValueError, match=f"must not hold {name}"):
            plain(metadata={name: list(range(6))})
    index, _ = plain(metadata=pd.DataFrame({"teff": range(6)}))
    assert sorted(index.search(id="s2").to_pandas()["teff"]) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("source", ["array", "file"])
def test_embeddings_without_numbers_are_refused(tmp_path, source):
    embeddings = np.eye(4)
    embeddings[2, 1] = np.nan
    if source == "file":
        pd.DataFrame({"object_id": list("abcd"), "embedding": list(embeddings)}).to_parquet(tmp_path / "a.parquet")
        embeddings = tmp_path / "a.parquet"
    with pytest.raises(ValueError, match="finite numbers, found others in 1 of 4 rows, first in row 2"):
        SpectrumIndex.from_embeddings(embeddings, list("abcd"))


def test_ids_of_any_kind_are_text():
    large = 10**20
    ids = pd.Series([large, 39628473198710603, b"bytes", np.int64(7)], dtype=object)
    index = SpectrumIndex.from_embeddings(np.eye(4), ids)
    assert index.ids == [str(large), "39628473198710603", "bytes", "7"]
    found = index.search(id=large)
    assert [row["id"] for row in found.rows] == found.ids
    for missing in (float("nan"), pd.NA, pd.NaT, ""):
        with pytest.raises(ValueError, match="needs an id, found 1 of 2"):
            SpectrumIndex.from_embeddings(np.eye(2), ["a", missing])


# Keeping


def test_what_is_loaded_answers_as_before(encoder, index, spectra, tmp_path):
    folder = index.save(tmp_path / "index")
    loaded = SpectrumIndex.load(folder, encoder=encoder)
    query = observed_again(spectra[7], 0)
    one, other = index.search(query), loaded.search(query)
    assert one.ids == other.ids and one.rows == other.rows
    np.testing.assert_array_equal(one.distances, other.distances)
    window = {"id": spectra[7].object_id, "window": (5000, 5500)}
    assert loaded.search(**window).ids == index.search(**window).ids
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pkl", ".pt", ".bin")]
    assert len({path.stat().st_mode for path in files}) == 1  # who may read one may read all


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    index, _ = plain()
    folder = index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="overwrite=True"):
        index.save(folder)
    larger, _ = plain(9)

    def fail(*arguments, **options):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr("spectok_hf.analysis.search.write_arrays", fail)
        larger.save(folder, overwrite=True)
    assert len(SpectrumIndex.load(folder)) == 6 and [path.name for path in tmp_path.iterdir()] == ["index"]
    assert len(SpectrumIndex.load(larger.save(folder, overwrite=True))) == 9


def test_a_folder_that_is_no_index_is_not_touched(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years")
    with pytest.raises(ValueError, match="where it is an index"):
        plain()[0].save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years"
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        SpectrumIndex.load(tmp_path / "thesis")


def test_an_index_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    index, _ = plain()
    folder = index.save(tmp_path / "index")
    rename = os.replace

    def fail(old, new):
        if str(old).endswith("new"):
            raise OSError("no such luck")
        rename(old, new)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no such luck"):
        patch.setattr("os.replace", fail)
        plain(9)[0].save(folder, overwrite=True)
    assert len(SpectrumIndex.load(folder)) == 6 and [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_some_rows_of_an_index_are_an_index(tmp_path, backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    index, _ = plain()
    some = SpectrumIndex(index.rows.select([4, 0, 2]), index.metric, index.about, backend=backend)
    before = some.search(id="s2").ids
    loaded = SpectrumIndex.load(some.save(tmp_path / "index"))
    assert loaded.ids == ["s4", "s0", "s2"] and loaded.search(id="s2").ids == before


@pytest.mark.parametrize("name", ["index.json", "metric.safetensors", "data/train-00000-of-00001.parquet"])
@pytest.mark.parametrize("damage", ["cut", "absent"])
def test_a_damaged_index_says_so(tmp_path, name, damage):
    folder = plain()[0].save(tmp_path / "index")
    file = folder / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=r"damaged|index\.json is not there") as caught:
        SpectrumIndex.load(folder)
    assert str(folder) in str(caught.value)


def test_an_index_that_lacks_a_part_says_which(tmp_path):
    folder = plain()[0].save(tmp_path / "index")
    about = json.loads((folder / "index.json").read_text())
    del about["metric"]
    (folder / "index.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="lacks metric: copy it again"):
        SpectrumIndex.load(folder)


@CLIENT_WARNINGS
def test_the_hub_keeps_an_index_as_a_dataset(tmp_path, monkeypatch):
    index, _ = plain()
    with LoopbackHub() as hub:
        hub.attach(monkeypatch, tmp_path)
        index.push_to_hub("org/index-test", token=hub.token)
        files = hub.files("org/index-test", kind="datasets")
        assert {"README.md", "index.json", "metric.safetensors"} < files.keys()
        loaded = SpectrumIndex.load("org/index-test")
    assert loaded.search(id="s3").ids == index.search(id="s3").ids


# Errors


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({}, "one of query, id and embedding"),
        ({"id": "s0", "embedding": [1.0] * 4}, "one of query, id and embedding"),
        ({"id": "s0", "k": 0}, "k of at least 1"),
        ({"id": "nobody"}, r"no id 'nobody'; its 6 ids begin s0, s1, s2"),
        ({"id": "s0", "window": (5000, 6000)}, "build it with tokens=True"),
        ({"embedding": [1.0] * 4, "window": (5000, 6000)}, "a window compares tokens"),
        ({"id": "s0", "k": 2.5}, "k of at least 1"),
        ({"id": "s0", "window": (6000, 5000)}, r"from a shorter to a longer wavelength in Å, found \(6000, 5000\)"),
        ({"embedding": [1.0, 2.0, np.nan, 4.0]}, "must be finite numbers"),
        ({"embedding": [1.0] * 3}, r"takes 4 numbers a spectrum, found shape \(1, 3\)"),
    ],
)
def test_what_cannot_be_asked(ask, message):
    with pytest.raises(ValueError, match=message):
        plain()[0].search(**ask)


def test_a_spectrum_needs_the_encoder(spectra):
    index, _ = plain(checkpoint="org/model")
    with pytest.raises(ValueError, match=r"SpectrumEncoder\.from_pretrained\('org/model'\)"):
        index.search(spectra[0])


def test_another_encoder_is_refused(encoder, index):
    class Other:
        name, fingerprint = "other", "f" * 64

    with pytest.raises(ValueError, match="has other weights"):
        SpectrumIndex(index.rows, index.metric, index.about, encoder=Other())


def test_a_processor_that_reads_otherwise_is_refused(encoder, index, tmp_path):
    other = SpectrumEncoder(encoder.model, SpectrumProcessor(**reading_of(encoder.processor) | {"medium": "air"}))
    folder = index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="reads spectra otherwise, with medium='air' instead of 'vacuum'"):
        SpectrumIndex.load(folder, encoder=other)
    about = json.loads((folder / "index.json").read_text())
    del about["processor"]  # as an index that was made before it was kept
    (folder / "index.json").write_text(json.dumps(about))
    assert SpectrumIndex.load(folder, encoder=other).ids == index.ids


def test_a_window_without_tokens_says_where_they_are(index, spectra):
    with pytest.raises(ValueError, match="no token of the query lies between 15000 and 16000 Å"):
        index.search(spectra[0], window=(15000, 16000))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "a", "b"], r"ids must be unique, found a \(2 times\)"),
        (["a", None, "b"], "each spectrum needs an id, found 1 of 3"),
        (["a", "b"], "3 embeddings need as many"),
    ],
)
def test_ids_are_names(ids, message):
    with pytest.raises(ValueError, match=message):
        SpectrumIndex.from_embeddings(np.eye(3), ids)


def test_ids_of_spectra_too(encoder, spectra):
    with pytest.raises(ValueError, match="ids must be unique"):
        SpectrumIndex.build(encoder, [spectra[0], spectra[0]])


def test_the_noise_metric_needs_spectra(encoder, spectra):
    with pytest.raises(ValueError, match=r"metric=other\.metric"):
        plain(metric="noise")
    with pytest.raises(ValueError, match="at least 3 spectra"):
        SpectrumIndex.build(encoder, spectra[:2], metric="noise")
    assert SpectrumIndex.build(encoder, spectra[:2]).metric.name == "profile"


def test_spectra_without_a_valid_patch_are_skipped_where_that_is_asked(encoder, spectra):
    dead = Spectrum(np.ones(64), 4000 + np.arange(64.0), np.zeros(64), object_id="dead", survey="sdss")
    index = SpectrumIndex.build(encoder, [*spectra[:4], dead], on_invalid="skip")
    assert index.ids == [one.object_id for one in spectra[:4]]
    with pytest.raises(ValueError, match="dead"):
        SpectrumIndex.build(encoder, [*spectra[:4], dead])
