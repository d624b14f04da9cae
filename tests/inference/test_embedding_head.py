"""`EmbeddingHead`: linear heads with the manners of scikit-learn."""

import json

import numpy as np
import pytest

from spectok_hf.inference.embedding_head import EmbeddingHead

pytest.importorskip("sklearn")

COUNT, SIZE = 60, 6
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(COUNT, SIZE)).astype(np.float32) * 10.0 ** np.arange(SIZE) + 5
SCALED = (VECTORS - VECTORS.mean(0)) / VECTORS.std(0)
NUMBERS = SCALED @ np.arange(1.0, SIZE + 1) + 4800
CLASSES = np.where(SCALED[:, 0] > 0.5, "STAR", np.where(SCALED[:, 1] > 0, "QSO", "GALAXY"))


def test_numbers_are_learnt_in_their_unit():
    head = EmbeddingHead(["teff"]).fit(VECTORS[::2], NUMBERS[::2])
    assert head.predict(VECTORS[1::2]).shape == (COUNT // 2,)
    np.testing.assert_allclose(head.predict(VECTORS[1::2]), NUMBERS[1::2], atol=0.5)
    assert head.score(VECTORS[1::2], NUMBERS[1::2]) > 0.99 and head.classes_ is None
    with pytest.raises(ValueError, match="found a head of numbers: use predict"):
        head.predict_proba(VECTORS)
    assert repr(head) == "EmbeddingHead(teff; on 6 numbers of any encoder)"


def test_several_targets_keep_their_shape():
    both = np.stack([NUMBERS, SCALED[:, 0]], 1)
    head = EmbeddingHead(["teff", "feh"]).fit(VECTORS, both)
    np.testing.assert_allclose(head.predict(VECTORS), both, atol=0.3)
    assert EmbeddingHead().fit(VECTORS, both[:, :1]).predict(VECTORS[:3]).shape == (3, 1)
    with pytest.raises(ValueError, match="names must be one per target, found 1 for 2 targets"):
        EmbeddingHead(["teff"]).fit(VECTORS, both)


@pytest.mark.parametrize("number", [2, 3])
def test_classes_have_probabilities_that_add_up(number):
    classes = CLASSES if number == 3 else np.where(CLASSES == "STAR", "STAR", "OTHER")
    head = EmbeddingHead().fit(VECTORS, classes)
    chances = head.predict_proba(VECTORS)
    assert head.classes_.tolist() == sorted(set(classes)) and chances.shape == (COUNT, number)
    np.testing.assert_allclose(chances.sum(1), 1)
    assert (head.predict(VECTORS) == head.classes_[chances.argmax(1)]).all()
    assert head.score(VECTORS, classes) > 0.8


def test_two_classes_have_the_probabilities_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    classes = np.where(SCALED[:, 0] + RNG.normal(size=COUNT) > 0, "A", "B")
    head = EmbeddingHead().fit(SCALED, classes)
    clipped = SCALED.clip(-10, 10)
    best = min(
        np.abs(
            LogisticRegression(C=c, class_weight="balanced", max_iter=3000)
            .fit(clipped, classes)
            .predict_proba(clipped)
            - head.predict_proba(SCALED)
        ).max()
        for c in np.logspace(-4, 2, 7)
    )
    assert best < 1e-3


@pytest.mark.parametrize(
    "missing", [None, np.nan, "", "masked", "pandas"], ids=["None", "NaN", "empty", "masked", "pandas"]
)
def test_rows_without_a_label_are_left_out(missing):
    lost = np.arange(COUNT) % 10 == 3
    expected = EmbeddingHead().fit(VECTORS[~lost], CLASSES[~lost])
    if missing == "masked":
        labels = np.ma.array(CLASSES, mask=lost)
    elif missing == "pandas":
        pandas = pytest.importorskip("pandas")
        labels = pandas.Series(CLASSES).mask(lost, pandas.NA)
    else:
        labels = [missing if gone else str(name) for name, gone in zip(CLASSES, lost, strict=True)]
    head = EmbeddingHead().fit(VECTORS, labels)
    assert head.classes_.tolist() == ["GALAXY", "QSO", "STAR"]
    np.testing.assert_allclose(head.predict_proba(VECTORS), expected.predict_proba(VECTORS))
    assert head.score(VECTORS, labels) == head.score(VECTORS[~lost], CLASSES[~lost])


@pytest.mark.parametrize("kind", ["NaN", "None", "masked"])
def test_numbers_of_which_some_are_missing_stay_numbers(kind):
    lost = np.arange(COUNT) % 10 == 3
    labels = {
        "NaN": np.where(lost, np.nan, NUMBERS),
        "None": [None if gone else value for value, gone in zip(NUMBERS.tolist(), lost, strict=True)],
        "masked": np.ma.array(NUMBERS, mask=lost),
    }[kind]
    head = EmbeddingHead().fit(VECTORS, labels)
    assert head.classes_ is None and head.score(VECTORS, labels) > 0.99
    np.testing.assert_allclose(
        head.predict(VECTORS), EmbeddingHead().fit(VECTORS[~lost], NUMBERS[~lost]).predict(VECTORS)
    )


def test_bytes_and_booleans_are_classes():
    head = EmbeddingHead().fit(VECTORS, CLASSES.astype("S"))
    assert head.classes_.tolist() == ["GALAXY", "QSO", "STAR"]
    flags = CLASSES == "STAR"
    assert EmbeddingHead().fit(VECTORS, flags).classes_.tolist() == ["False", "True"]
    assert EmbeddingHead().fit(VECTORS, flags.tolist()).score(VECTORS, flags) > 0.8


def test_classes_in_turns_are_learnt():
    """Five classes one after the other: plain folds would have one class each."""
    labels = np.tile(list("ABCDE"), 12)
    vectors = np.eye(5)[np.arange(60) % 5] + 0.05 * RNG.normal(size=(60, 5))
    head = EmbeddingHead().fit(vectors, labels)
    assert head.score(vectors, labels) == 1 and head.predict_proba(vectors).max(1).min() > 0.9


def test_groups_keep_copies_of_an_object_together():
    """Labels of noise: where copies are told apart, the strongest penalty is the best."""
    vectors = RNG.normal(size=(30, 20)).repeat(4, 0)
    values = RNG.normal(size=30).repeat(4)
    alone = EmbeddingHead().fit(vectors, values)
    together = EmbeddingHead().fit(vectors, values, groups=np.arange(30).repeat(4).astype(str))
    assert together.predict(vectors).std() < 0.7 * alone.predict(vectors).std()


@pytest.mark.parametrize("labels", [CLASSES, NUMBERS, np.stack([NUMBERS, SCALED[:, 0]], 1)])
def test_what_is_saved_answers_the_same(labels, tmp_path):
    head = EmbeddingHead(checkpoint="spectok-tiny", fingerprint="abc").fit(VECTORS, labels)
    head.save_pretrained(tmp_path / "head")
    again = EmbeddingHead.from_pretrained(tmp_path / "head")
    np.testing.assert_array_equal(again.predict(VECTORS), head.predict(VECTORS))
    assert (again.checkpoint, again.fingerprint, repr(again)) == ("spectok-tiny", "abc", repr(head))
    files = sorted((tmp_path / "head").iterdir())
    assert [path.name for path in files] == ["head.json", "head.safetensors"]
    assert len({path.stat().st_mode for path in files}) == 1  # who may read one may read both
    assert json.loads((tmp_path / "head" / "head.json").read_text())["checkpoint"] == "spectok-tiny"
    with pytest.raises(FileNotFoundError, match=r"must hold head\.json"):
        EmbeddingHead.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("vectors", "labels", "groups", "text"),
    [
        (VECTORS, CLASSES[:5], None, "must have one row each, found 60, 5 and 5"),
        (VECTORS, CLASSES, [1, 2], "must have one row each, found 60, 60 and 2"),
        (VECTORS[:9], NUMBERS[:9], None, "at least 10 objects, found 9"),
        (VECTORS, NUMBERS, np.arange(COUNT) % 9, "at least 10 objects, found 9"),
        (VECTORS, np.full(COUNT, np.nan), None, "at least 10 objects, found 0"),
        (VECTORS, [None] * COUNT, None, "at least 10 objects, found 0"),
        (VECTORS, ["STAR"] * COUNT, None, "at least two classes, found STAR"),
        (VECTORS, np.where(np.arange(COUNT) < 3, "QSO", "STAR"), None, "5 objects of each class, found 3 of QSO"),
        (VECTORS, np.ones(COUNT), None, "labels that differ"),
        (VECTORS[0], NUMBERS, None, r"must have shape \(n, d\), found \(6,\)"),
        (
            VECTORS,
            NUMBERS,
            ["a", None, *"b" * (COUNT - 2)],
            "the object of each row, found 1 missing, the first in row 1",
        ),
        (VECTORS, NUMBERS, np.where(np.arange(COUNT) < 9, np.nan, 1), "found 9 missing"),
        (np.where(np.arange(COUNT)[:, None] == 7, np.nan, VECTORS), NUMBERS, None, "the first in row 7"),
    ],
)
def test_what_cannot_be_learnt_is_said(vectors, labels, groups, text):
    with pytest.raises(ValueError, match=text):
        EmbeddingHead().fit(vectors, labels, groups=groups)


def test_a_head_must_be_fitted_and_to_embeddings_of_that_length():
    for call in (lambda head: head.predict(VECTORS), lambda head: head.score(VECTORS, NUMBERS)):
        with pytest.raises(ValueError, match=r"call fit\(X, y\)"):
            call(EmbeddingHead())
    assert repr(EmbeddingHead()) == "EmbeddingHead(not fitted)"
    head = EmbeddingHead().fit(VECTORS, NUMBERS)
    with pytest.raises(ValueError, match=r"must have shape \(n, 6\), found \(60, 4\)"):
        head.predict(VECTORS[:, :4])
    assert head.fit(VECTORS[:, :4], NUMBERS).predict(VECTORS[:, :4]).shape == (COUNT,)


def test_what_is_not_of_the_kind_that_was_learnt_is_not_scored():
    numbers = EmbeddingHead().fit(VECTORS, NUMBERS)
    classes = EmbeddingHead().fit(VECTORS, np.where(CLASSES == "STAR", "1", "0"))
    with pytest.raises(ValueError, match=r"y must be names of classes of shape \(60,\), as learnt, found numbers"):
        classes.score(VECTORS, np.arange(COUNT) % 2)
    with pytest.raises(ValueError, match="y must be numbers of shape"):
        numbers.score(VECTORS, CLASSES)
    with pytest.raises(ValueError, match=r"found numbers, \(60, 2\)"):
        numbers.score(VECTORS, np.stack([NUMBERS, NUMBERS], 1))


def test_only_a_fitted_head_is_saved_and_where_the_path_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="must be fitted first"):
        EmbeddingHead().save_pretrained("~/head")
    assert list(tmp_path.iterdir()) == []
    EmbeddingHead().fit(VECTORS, NUMBERS).save_pretrained("~/head")
    assert EmbeddingHead.from_pretrained(tmp_path / "head").predict(VECTORS).shape == (COUNT,)


def test_a_constant_number_of_the_embedding_is_of_no_use_and_no_harm():
    vectors = np.concatenate([VECTORS, np.full((COUNT, 1), 3.0)], 1)
    head = EmbeddingHead().fit(vectors, NUMBERS)
    vectors[:, -1] = 4
    assert head.score(vectors, NUMBERS) > 0.99
