"""Pooled features, raw flux, and the plain methods."""

import sys
from functools import partial

import numpy as np
import pytest

from spectok_hf import Spectrum
from spectok_hf.evaluation.probes import (
    constant,
    flux_mlp,
    knn,
    linear_probe,
    mlp_probe,
    pca_ridge,
    pool_features,
    random_forest,
    raw_flux,
    standardised_flux,
    support_vectors,
)
from spectok_hf.evaluation.tasks import NotApplicable, Split, Task, evaluate_tasks, r_squared, split_objects
from spectok_hf.models.wavelength import vacuum_to_air

WAVELENGTH = np.geomspace(4000.0, 5000.0, 120)
STATES = np.array([[1.0, 10.0], [3.0, 20.0], [100.0, 100.0], [5.0, 60.0]])
VALID = np.array([1, 1, 0, 1])
PATCHES = np.array([4000.0, 4400.0, 4800.0, 5000.0])


def make_spectrum(flux, wavelength=WAVELENGTH, bad=None, ivar=400.0, **fields):
    return Spectrum(flux, wavelength, np.full(len(flux), ivar), mask=bad, **fields)


def make_stars(n=160, seed=0):
    """Spectra with two lines: the depth of the first is linear in the label, the second is there in half of them."""
    rng = np.random.default_rng(seed)
    depth, second = rng.uniform(0.1, 0.9, n), rng.integers(0, 2, n)
    first = depth[:, None] * np.exp(-0.5 * ((WAVELENGTH - 4300) / 15) ** 2)
    other = 0.5 * second[:, None] * np.exp(-0.5 * ((WAVELENGTH - 4700) / 15) ** 2)
    flux = 50 * (1 - first - other) + rng.normal(0, 1.5, (n, 120))
    spectra = [make_spectrum(row, ivar=1 / 1.5**2, object_id=str(index)) for index, row in enumerate(flux)]
    return spectra, depth, second


SPECTRA, DEPTH, SECOND = make_stars()
SPLITS = [split_objects(SPECTRA, seed=0)]
METHODS = {
    "pca_ridge": lambda vectors: pca_ridge(components=(2, 5, 20)),
    "flux_mlp": lambda vectors: flux_mlp(hidden=(32,), components=(5,), epochs=150),
    "linear_probe": linear_probe,
    "mlp_probe": lambda vectors: mlp_probe(vectors, hidden=(64, 64), dropout=0.1, epochs=80),
    "knn": knn,
    "support_vectors": lambda vectors: support_vectors(),
    "random_forest": lambda vectors: random_forest(trees=40, settings=((1, 0.1), (4, 0.1))),
}


def make_task(kind):
    labels = {
        "regression": np.stack([1000 * DEPTH, np.where(SECOND == 1, np.nan, 5 - DEPTH)], -1),
        "classification": np.where(SECOND == 1, "double", "single"),
        "redshift": 3 * DEPTH,
    }[kind]
    names = {"target_names": ["teff", "logg"], "target_units": ["K", ""]} if kind == "regression" else {}
    return Task(name=kind, kind=kind, spectra=SPECTRA, labels=labels, splits=SPLITS, **names)


def make_method(name):
    vectors = raw_flux(SPECTRA)
    return METHODS[name]({kind: vectors for kind in ("regression", "classification", "redshift")})


def test_pooling_by_hand():
    np.testing.assert_allclose(pool_features(STATES, VALID), [3, 30])
    spread = np.std([[1, 10], [3, 20], [5, 60]], axis=0)
    np.testing.assert_allclose(pool_features(STATES, VALID, how="mean_std"), [3, 30, *spread], rtol=1e-6)
    # Thirds end at 4333 and 4667 Å; the third patch is not valid, but reaches the range that it is part of.
    segments = pool_features(STATES, VALID, PATCHES, how="segments", count=3)
    np.testing.assert_allclose(segments, [1, 10, 3, 20, 5, 60])
    empty = pool_features(STATES[:3], VALID[:3], PATCHES[:3], how="segments", count=2, span=(4000, 6000))
    np.testing.assert_allclose(empty, [2, 15, np.nan, np.nan])


def test_padding_does_not_move_segments():
    padded = np.concatenate([STATES, np.full((2, 2), 9e9)]), np.append(VALID, [0, 0]), np.append(PATCHES, [0.0, 0.0])
    plain = pool_features(STATES, VALID, PATCHES, how="segments")
    np.testing.assert_array_equal(pool_features(*padded, how="segments"), plain)
    assert plain.shape == (8,) and plain.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((STATES, 0 * VALID), {}, "with a valid patch"),
        ((STATES[None], VALID), {}, "pool one spectrum at a time"),
        ((STATES, VALID), {"how": "median"}, "how must be one of"),
        ((STATES, VALID), {"how": "segments"}, "segments need token_wavelength"),
        ((STATES, VALID, PATCHES), {"how": "segments", "count": 0}, "a count of at least 1"),
    ],
)
def test_pooling_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pool_features(*arguments, **options)


def test_raw_flux_on_a_shared_grid_is_not_resampled():
    slope = np.linspace(1.0, 3.0, 120)
    bad = np.arange(120) == 60
    spectra = [make_spectrum(slope), make_spectrum(np.where(bad, np.nan, 1e3 * slope), bad=bad, ivar=1e-4)]
    flux = raw_flux(spectra)
    assert flux.shape == (2, 120) and flux.dtype == np.float32
    np.testing.assert_allclose(flux[0], slope / np.median(slope), rtol=1e-6)
    np.testing.assert_allclose(flux[1], flux[0], rtol=5e-3)  # the scale is gone, the bad pixel interpolated
    spectra = [make_spectrum(slope), make_spectrum(slope, vacuum_to_air(WAVELENGTH), medium="air")]
    np.testing.assert_allclose(*raw_flux(spectra), atol=1e-3)


def test_raw_flux_on_different_grids_keeps_lines_in_place():
    def spectrum(count, low, high):
        axis = np.geomspace(low, high, count)
        return make_spectrum(1 + 5 * np.exp(-0.5 * ((axis - 4500) / 20) ** 2), axis)

    spectra = [spectrum(400, 4000, 5000), spectrum(300, 4050, 5000), spectrum(900, 4000, 5100)]
    flux = raw_flux(spectra)
    coarsest = np.log(5000 / 4050) / 299
    assert flux.shape[1] == round(np.log(5000 / 4050) / coarsest)
    centres = np.geomspace(4050, 5000, 2 * flux.shape[1] + 1)[1::2]
    np.testing.assert_allclose(centres[flux.argmax(1)], 4500, atol=2)
    np.testing.assert_allclose(flux * flux.shape[1] / flux.sum(1, keepdims=True), flux / flux.mean(), atol=0.06)
    line = 1 + 5 * np.exp(-0.5 * ((centres - 4500) / 20) ** 2)
    np.testing.assert_allclose(flux[0] / flux[0, -1], line, atol=0.02)


def test_binning_averages_fine_pixels():
    fine = np.geomspace(4000, 5000, 40_001)
    noise = np.random.default_rng(0).normal(1, 0.5, 40_001)
    flux = raw_flux([make_spectrum(noise, fine), make_spectrum(np.ones(401), np.geomspace(4000, 5000, 401))])
    assert flux.shape == (2, 400) and flux[0].std() == pytest.approx(0.5 / np.sqrt(100), rel=0.15)


def test_raw_flux_refuses_what_it_cannot_do():
    apart = [make_spectrum(np.ones(120)), make_spectrum(np.ones(120), WAVELENGTH + 2000)]
    with pytest.raises(NotApplicable, match="no range of wavelength is common"):
        raw_flux(apart)
    with pytest.raises(ValueError, match="1 spectra have no good pixel"):
        raw_flux([make_spectrum(np.ones(120), bad=np.ones(120, dtype=bool))])
    with pytest.raises(ValueError, match="found none"):
        raw_flux([])


def test_faint_spectra_stay_in_range():
    rng = np.random.default_rng(0)
    flux = raw_flux([make_spectrum(rng.normal(0, 1, 120), ivar=1.0) for _ in range(5)])
    assert np.abs(flux).max() < 6


def test_constant_is_the_majority_or_the_mean():
    task = make_task("regression")
    split = task.splits[0]
    values = constant()(task, split, 0).values
    np.testing.assert_allclose(values, np.tile(np.nanmean(task.labels[split.train], 0), (len(split.test), 1)))
    task = make_task("classification")
    names, counts = np.unique(task.labels[split.train], return_counts=True)
    assert set(constant()(task, split, 0).values) == {names[counts.argmax()]}
    task = make_task("redshift")
    expected = np.expm1(np.log1p(task.labels[split.train]).mean())
    np.testing.assert_allclose(constant()(task, split, 0).values, expected)


@pytest.mark.parametrize("name", METHODS)
def test_methods_find_what_is_there(name):
    least = {"knn": 0.6, "flux_mlp": 0.8, "mlp_probe": 0.8, "random_forest": 0.8}.get(name, 0.9)
    methods = {name: make_method(name), "constant": constant()}
    tasks = [make_task(kind) for kind in ("regression", "classification", "redshift")]
    rows = evaluate_tasks(tasks, methods, bootstrap=2, progress=False)
    scores = {(row["method"], row["target"]): row.get("r_squared", row.get("accuracy")) for row in rows}
    assert scores[name, "teff"] > least and scores[name, "redshift"] > least
    assert scores[name, "class"] > least
    assert scores[name, "logg"] > least - 0.15  # from half of the spectra
    assert scores["constant", "teff"] < 0.05


@pytest.mark.parametrize("name", [*METHODS, "constant"])
def test_labels_of_the_test_part_do_not_matter(name):
    method = constant() if name == "constant" else make_method(name)
    task, other = make_task("regression"), make_task("regression")
    test = task.splits[0].test
    other.labels[test] = 1e6
    first, second = (method(given, task.splits[0], 7).values for given in (task, other))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (len(test), 2)


def test_settings_are_chosen_on_validation():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([DEPTH[:, None], rng.normal(size=(160, 100)) * 1e-3], -1)
    task = make_task("redshift")
    task.labels = np.where(np.isin(np.arange(160), task.splits[0].train), task.labels, 1.0)
    # On validation all redshifts are 1: many neighbours, the mean, are nearer to that than the one nearest.
    chosen, one, many = (
        knn({"redshift": vectors}, neighbours=counts)(task, task.splits[0], 0).values
        for counts in ((1, 100), (1,), (100,))
    )
    assert np.array_equal(chosen, many) and not np.array_equal(chosen, one)


def test_ridge_is_that_of_the_normal_equations():
    vectors = np.random.default_rng(0).normal(size=(160, 3)) @ np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 0, 50]])
    vectors[:, 0] += DEPTH
    task = make_task("redshift")
    split = task.splits[0]
    found = np.log1p(linear_probe({"redshift": vectors})(task, split, 0).values)
    x = (vectors - vectors[split.train].mean(0)) / vectors[split.train].std(0)
    y = np.log1p(task.labels)
    centre = y[split.train].mean()
    fits = []
    for alpha in (1e5, 1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01):
        gram = x[split.train].T @ x[split.train] + alpha * np.eye(3)
        fits.append(centre + x @ np.linalg.solve(gram, x[split.train].T @ (y[split.train] - centre)))
    best = min(fits, key=lambda fit: np.mean((fit - y)[split.validation] ** 2))
    np.testing.assert_allclose(found, best[split.test], rtol=1e-6)


def test_missing_and_constant_features_do_no_harm():
    vectors = np.stack([DEPTH, np.full(160, 3.0), np.full(160, np.nan), np.where(SECOND == 1, np.nan, DEPTH)], -1)
    task = make_task("redshift")
    split = task.splits[0]
    for probe in (linear_probe, mlp_probe):
        predicted = probe({"redshift": vectors})(task, split, 0).values
        assert r_squared(task.labels[split.test], predicted) > 0.95


def test_few_spectra_are_enough():
    split = Split(range(6), range(6, 8), range(8, 12))
    for kind in ("classification", "redshift"):
        labels = {"classification": np.where(SECOND == 1, "a", "b"), "redshift": DEPTH}[kind][:12]
        labels[:2] = ["a", "b"] if kind == "classification" else labels[:2]
        task = Task(name="few", kind=kind, spectra=SPECTRA[:12], labels=labels, splits=[split])
        vectors = {"few": raw_flux(SPECTRA[:12])}
        plain = (support_vectors(), random_forest(trees=3))
        for method in (pca_ridge(), knn(vectors), flux_mlp(epochs=3), mlp_probe(vectors, epochs=3), *plain):
            assert len(method(task, split, 0).values) == 4


@pytest.mark.parametrize("method", [pca_ridge, partial(flux_mlp, components=(5,))])
def test_what_is_known_besides_the_flux_is_used(method):
    known = np.random.default_rng(1301).normal(3, 0.1, (160, 1))
    task = Task(name="known", kind="regression", spectra=SPECTRA, labels=1e4 * known, splits=SPLITS,
                target_names=["known"], target_units=[""])  # fmt: skip
    split = SPLITS[0]

    def explained(**options):
        return r_squared(task.labels[split.test, 0], method(**options)(task, split, 0).values[:, 0])

    assert explained() < 0.2 and explained(beside=known) > 0.9
    none = np.full((160, 1), np.nan)  # what is not known of any stands at its mean
    assert explained(beside=none) < 0.2
    with pytest.raises(ValueError, match=r"a row for each of 160 spectra, found shape \(159, 1\)"):
        method(beside=known[1:])(task, split, 0)


def test_a_task_without_embeddings_is_not_applicable():
    with pytest.raises(NotApplicable, match="no embeddings of redshift"):
        mlp_probe({})(make_task("redshift"), SPLITS[0], 0)
    with pytest.raises(ValueError, match=r"must have shape \(160, d\), found \(3, 4\)"):
        knn({"redshift": np.ones((3, 4))})(make_task("redshift"), SPLITS[0], 0)


def test_scikit_learn_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    for plain in (pca_ridge, support_vectors, random_forest):
        with pytest.raises(ImportError, match=r"spectok-hf\[train\]"):
            plain()


def test_flux_is_standardised_by_the_training_spectra():
    task, split = make_task("redshift"), SPLITS[0]
    flux, found = raw_flux(SPECTRA), standardised_flux(task, split)
    expected = (flux - flux[split.train].mean(0)) / flux[split.train].std(0)
    np.testing.assert_allclose(found, expected.clip(-10, 10), atol=1e-4)


@pytest.mark.parametrize("kind", ["classification", "redshift"])
def test_support_vectors_are_those_of_scikit_learn(kind):
    """The kernel as a function of ours is the one by name of theirs."""
    svm = pytest.importorskip("sklearn.svm")
    task, split = make_task(kind), SPLITS[0]
    found = support_vectors(penalties=[10.0], gammas=[0.3])(task, split, 0).values
    flux = standardised_flux(task, split)
    gamma = 0.3 / (flux.shape[1] * flux[split.train].var())
    if kind == "classification":
        model = svm.SVC(C=10.0, gamma=gamma, class_weight="balanced")
        expected = model.fit(flux[split.train], task.labels[split.train]).predict(flux[split.test])
        np.testing.assert_array_equal(found, expected)
        return
    target = np.log1p(task.labels[split.train])
    model = svm.SVR(C=10.0, gamma=gamma, epsilon=0.02).fit(flux[split.train], (target - target.mean()) / target.std())
    expected = np.expm1(model.predict(flux[split.test]) * target.std() + target.mean())
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_seed_of_a_forest_is_that_of_the_method():
    task, split = make_task("redshift"), SPLITS[0]
    first, again, other = (random_forest(trees=5)(task, split, seed).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_rare_class_is_found_by_support_vectors_and_forests():
    """One in ten, and told apart by a line whose depth scatters: by plain counts nearly all were the frequent one."""
    rng = np.random.default_rng(4)
    rare = np.arange(400) % 10 == 0
    depth = rng.normal(0.2 + 0.15 * rare, 0.1)[:, None] * np.exp(-0.5 * ((WAVELENGTH - 4300) / 15) ** 2)
    spectra = [make_spectrum(50 * (1 - row), ivar=1.0, object_id=str(number)) for number, row in enumerate(depth)]
    split = Split(range(200), range(200, 300), range(300, 400))
    labels = np.where(rare, "rare", "common")
    task = Task(name="rare", kind="classification", spectra=spectra, labels=labels, splits=[split])
    for method in (support_vectors(), random_forest(trees=40, settings=((10, 1.0),))):
        assert np.mean(method(task, split, 0).values[rare[300:]] == "rare") >= 0.7


def curved_task(kind="regression", n=240):
    """A target, or a class, that depends on two of three numbers through a product: no line finds it."""
    vectors = np.random.default_rng(5).uniform(-1, 1, (n, 3))
    value = vectors[:, 0] * vectors[:, 1]
    spectra = [make_spectrum(np.ones(120), object_id=str(number)) for number in range(n)]
    names = {"target_names": ["value"], "target_units": [""]} if kind == "regression" else {}
    labels = 1e4 + 300 * value[:, None] if kind == "regression" else np.where(value > 0, "same", "other")
    split = Split(range(160), range(160, 200), range(200, n))
    return Task(name="curved", kind=kind, spectra=spectra, labels=labels, splits=[split], **names), vectors


@pytest.mark.parametrize(("hidden", "dropout"), [((32,), 0.0), ((64, 64), 0.1)])
def test_a_perceptron_learns_what_a_line_cannot(hidden, dropout):
    task, vectors = curved_task()
    split = task.splits[0]
    methods = [mlp_probe({"curved": vectors}, hidden=hidden, dropout=dropout), linear_probe({"curved": vectors})]
    curved, line = (r_squared(task.labels[split.test], method(task, split, 0).values) for method in methods)
    assert curved > 0.8 and line < 0.2
    task, vectors = curved_task("classification")
    methods = [mlp_probe({"curved": vectors}, hidden=hidden, dropout=dropout), linear_probe({"curved": vectors})]
    curved, line = (np.mean(method(task, split, 0).values == task.labels[split.test]) for method in methods)
    assert curved > 0.85 and line < 0.7


def test_dropout_is_of_training_alone():
    task, vectors = curved_task()
    split = task.splits[0]
    vectors[220:] = vectors[200:220]  # the second half of the test part is the first once more
    without, with_dropout, again = (
        mlp_probe({"curved": vectors}, dropout=dropout, epochs=10)(task, split, 0).values
        for dropout in (0.0, 0.5, 0.5)
    )
    np.testing.assert_array_equal(with_dropout[:20], with_dropout[20:])
    np.testing.assert_array_equal(with_dropout, again)
    assert not np.allclose(with_dropout, without)
    other = mlp_probe({"curved": vectors}, dropout=0.5, epochs=10)(task, split, 1).values
    assert not np.allclose(other, again)  # the seed says what is left out


def test_a_perceptron_keeps_its_best_epoch():
    """Noise alone: what it learns by heart is no good on other spectra, and the first epochs are kept."""
    task, _ = curved_task()
    split = task.splits[0]
    vectors = {"curved": np.random.default_rng(1).normal(size=(240, 60))}
    stopped, long = (
        mlp_probe(vectors, epochs=100, patience=patience)(task, split, 0).values[:, 0] for patience in (10, 100)
    )
    truth = task.labels[split.test, 0]
    assert r_squared(truth, stopped) > -0.3
    np.testing.assert_array_equal(stopped, long)  # the best was among the first


def test_a_perceptron_leaves_the_random_state_of_torch_alone():
    import torch

    task, vectors = curved_task()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    mlp_probe({"curved": vectors}, epochs=2)(task, task.splits[0], 0)
    assert torch.equal(torch.rand(2), expected)


def test_a_perceptron_needs_a_hidden_layer():
    for wrong in ({"hidden": ()}, {"hidden": (0,)}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(
            ValueError, match="hidden must be sizes of layers and dropout lie from 0 to below 1, found"
        ):
            mlp_probe({}, **wrong)
