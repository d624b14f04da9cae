"""The map of a latent space, and what its neighbours tell."""

import importlib.util
import sys

import numpy as np
import pytest

from spectok_hf.analysis.latent_space import (
    directions,
    make_map,
    neighbour_score,
    plot_map,
    principal_components,
    standardise,
    umap_map,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def names(count):
    return [f"object {number}" for number in range(count)]


def test_neighbours_on_a_line_tell_where_they_are():
    place = np.random.default_rng(0).uniform(size=400)
    vectors = np.stack([place, place**2], -1)
    assert neighbour_score(vectors, place, names(400)) > 0.99
    classes = np.where(place > 0.5, "far", "near")
    assert neighbour_score(vectors, classes, names(400)) > 0.95
    assert neighbour_score(np.random.default_rng(1).normal(size=(400, 5)), place, names(400)) < 0.1


def test_what_other_spectra_of_an_object_say_does_not_count():
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(50, 8)), 12, axis=0)
    label = np.repeat(rng.normal(size=50), 12)
    objects = np.repeat(names(50), 12).tolist()
    assert neighbour_score(vectors, label, names(600)) > 0.99
    assert neighbour_score(vectors, label, objects) < 0.1


def test_it_is_the_mean_of_the_nearest():
    vectors, labels = np.array([[0.0], [1.0], [3.0], [7.0]]), np.array([0.0, 1.0, 2.0, 3.0])
    predicted = np.array([1.5, 1.0, 0.5, 1.5])  # of two neighbours each
    expected = 1 - np.sum((labels - predicted) ** 2) / np.sum((labels - 1.5) ** 2)
    assert neighbour_score(vectors, labels, names(4), neighbours=2) == pytest.approx(expected)
    assert neighbour_score(vectors, ["a", "a", "b", "b"], names(4), neighbours=1) == 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((4, 2)), [1.0, 2.0, 3.0], names(4)), r"found shape \(4, 2\), 3 and 4"),
        ((np.ones((4, 2)), [1.0, 2.0, 3.0, np.nan], names(4)), "labels must be finite"),
        ((np.ones((4, 2)), [1.0, 2.0, 3.0, 4.0], ["a", "a", "a", "b"]), "10 neighbours need .*, found 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        neighbour_score(*arguments)


def test_dimensions_count_alike_and_empty_ones_not_at_all():
    vectors = np.random.default_rng(0).normal(size=(100, 3)) * [1, 1e6, 0] + [0, 5, 7]
    scaled = standardise(vectors)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0])
    lengths = np.linalg.norm(directions(vectors), axis=1)
    np.testing.assert_allclose(lengths, 1)
    np.testing.assert_array_equal(directions(np.ones((3, 2))), 0)
    components = principal_components(vectors, 2)
    assert components.shape == (100, 2)
    np.testing.assert_allclose((components**2).sum(), (scaled**2).sum())
    with pytest.raises(ValueError, match="finite"):
        standardise([[np.nan, 1.0]])


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_the_map_keeps_clusters_apart_and_repeats():
    rng = np.random.default_rng(0)
    cluster = np.repeat(["a", "b"], 20)
    vectors = rng.normal(size=(40, 6)) + 20 * (cluster == "b")[:, None]
    places = umap_map(vectors, neighbours=5)
    assert places.shape == (40, 2) and np.isfinite(places).all()
    assert neighbour_score(places, cluster, names(40), neighbours=3) == 1
    np.testing.assert_array_equal(places, umap_map(vectors, neighbours=5))
    with pytest.raises(ValueError, match=r"n of at least 3, found \(2, 6\)"):
        umap_map(vectors[:2])


def test_without_umap_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r'pip install "spectok-hf\[plot\]"'):
        umap_map(np.eye(4))


PLACES = np.random.default_rng(0).normal(size=(30, 2))


def test_numbers_have_a_colour_bar_with_the_unit():
    values = np.where(np.arange(30) < 5, np.nan, np.arange(30.0))
    axis = plot_map(PLACES, values, name="Teff", unit="K", title="stars")
    assert axis.get_title(loc="left") == "stars (25 of 30)"
    assert [other.get_ylabel() for other in axis.figure.axes if other is not axis] == ["Teff [K]"]
    missing, drawn = axis.collections
    assert len(missing.get_offsets()) == 5 and len(drawn.get_offsets()) == 25
    axis.figure.canvas.draw()


def test_classes_have_a_legend_with_their_numbers():
    axis = plot_map(PLACES, ["STAR"] * 10 + ["QSO"] * 15 + [None] * 5, name="class")
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert texts == ["QSO (15)", "STAR (10)"] and axis.get_legend().get_title().get_text() == "class"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("UMAP 1", "UMAP 2")


def test_missing_names_are_grey_however_they_are_written():
    names = np.array(["a", "b", "", None, float("nan")], dtype=object)
    ax = plot_map(np.arange(10.0).reshape(5, 2), names)
    assert ax.get_title(loc="left").endswith("(2 of 5)")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a (1)", "b (1)"]


def test_vectors_without_numbers_have_no_score():
    vectors = np.arange(40.0).reshape(20, 2)
    vectors[3] = np.nan
    with pytest.raises(ValueError, match="vectors must be finite"):
        neighbour_score(vectors, np.arange(20.0), [str(number) for number in range(20)])


def test_given_axes_are_used_and_wrong_input_is_refused():
    axis = plt.subplots()[1]
    assert plot_map(PLACES, np.arange(30), ax=axis) is axis
    with pytest.raises(ValueError, match="all 30 labels 'redshift' are missing"):
        plot_map(PLACES, np.full(30, np.nan), name="redshift")
    with pytest.raises(ValueError, match=r"found \(30, 2\) and 29"):
        plot_map(PLACES, np.arange(29))


def test_principal_components_are_a_map_too_and_say_so():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5)) * 0.3
    vectors[:, :3] += np.linspace(-2, 2, 60)[:, None]
    made = make_map(vectors, method="pca")
    np.testing.assert_allclose(np.abs(made.places), np.abs(principal_components(vectors, 2)))
    assert made.method == "pca" and 1 > made.shares[0] > 0.5 > made.shares[1] > 0
    axis = plot_map(made, np.arange(60))
    assert axis.get_xlabel() == f"principal component 1 ({made.shares[0]:.0%})"
    assert axis.get_ylabel().startswith("principal component 2 (")


def test_without_umap_the_map_is_of_principal_components(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert make_map(np.eye(4)).method == "pca"
    with pytest.raises(ImportError, match=r'make_map\(..., method="pca"\)'):
        make_map(np.eye(4), method="umap")


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_with_umap_the_map_is_a_umap():
    vectors = np.random.default_rng(0).normal(size=(20, 4))
    made = make_map(vectors, neighbours=5, seed=3)
    np.testing.assert_array_equal(made.places, umap_map(vectors, neighbours=5, seed=3))
    assert made.axis_names() == ("UMAP 1", "UMAP 2")


def test_one_dimension_is_enough_and_two_vectors_are_not():
    assert make_map([[0.0], [1.0], [2.0]], method="pca").places.shape == (3, 2)
    with pytest.raises(ValueError, match=r"n of at least 3, found \(2, 2\)"):
        make_map(np.eye(2), method="pca")
    with pytest.raises(ValueError, match="method must be one of umap, pca, found 'tsne'"):
        make_map(np.eye(4), method="tsne")
