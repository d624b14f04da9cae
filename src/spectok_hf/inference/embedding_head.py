"""`EmbeddingHead`: a linear model on embeddings, with the manners of scikit-learn, that is saved without a pickle."""

import json
from collections.abc import Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from safetensors.numpy import load_file

from ..data.whole_files import write_arrays, write_json, written_whole
from ..evaluation.probes import from_sklearn
from ..evaluation.scores import r_squared

SETTINGS, WEIGHTS = "head.json", "head.safetensors"
PENALTIES = np.logspace(-4, 2, 7)  # inverse, of the logistic regression
ALPHAS = np.logspace(-2, 5, 15)
MOST_WIDTHS = 10.0  # standardised embeddings are clipped to +-, as one odd spectrum shall not decide
FOLDS = 5


class EmbeddingHead:
    """Logistic regression of classes, ridge regression of numbers, on standardised embeddings.

    The strength of the penalty is chosen by cross-validation of what it is fitted to. Objects that occur twice there
    must be given by `groups`, or the choice is made on spectra that were seen.

    Args:
        names: What each predicted number is.
        checkpoint: Which checkpoint made the embeddings.
        fingerprint: Of its weights, see `SpectrumEncoder`.

    Attributes:
        classes_: The classes, sorted; None of numbers.
    """

    def __init__(self, names: Sequence[str] | None = None, *, checkpoint: str = "", fingerprint: str = ""):
        self.names = None if names is None else list(names)
        self.checkpoint, self.fingerprint = checkpoint, fingerprint
        self.classes_: np.ndarray | None = None
        self._arrays: dict[str, np.ndarray] = {}

    def fit(self, X: ArrayLike, y: ArrayLike, *, groups: ArrayLike | None = None) -> "EmbeddingHead":
        """Learn from labelled embeddings.

        Args:
            X: Embeddings, shape (n, d).
            y: Names of classes or booleans, shape (n,), or numbers, shape (n,) or (n, targets). Rows with a missing
                one ("", None, NaN, masked) are left out. Numbers that stand for classes must be given as text.
            groups: Key of the object of each; None = all are different objects.

        Raises:
            ValueError: If shapes disagree, a key is missing, or labels are too few or all the same.
            ImportError: If scikit-learn is not installed.
        """
        self._arrays = {}  # of a fit before, whose embeddings may have been longer
        vectors, (labels, known) = self._check(X), _read_labels(y)
        keys = np.arange(len(labels)) if groups is None else _read_groups(groups)
        if not len(labels) == len(vectors) == len(keys):
            raise ValueError(
                f"X, y and groups must have one row each, found {len(vectors)}, {len(labels)} and {len(keys)}"
            )
        vectors, labels, keys = vectors[known], labels[known], keys[known]
        if len(np.unique(keys)) < 2 * FOLDS:
            raise ValueError(
                f"a head needs labels of at least {2 * FOLDS} objects, found {len(np.unique(keys))}: label more"
            )
        mean, width = vectors.mean(0), vectors.std(0)
        self._arrays = {"mean": mean, "width": np.where(width > 1e-9 * np.abs(vectors).max(), width, np.inf)}
        (self._fit_classes if labels.dtype.kind == "U" else self._fit_numbers)(self._scaled(vectors), labels, keys)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Classes, shape (n,), or numbers, of the shape that `y` had.

        Args:
            X: Embeddings, shape (n, d).

        Raises:
            ValueError: If it was not fitted, or to embeddings of another length.
        """
        if self.classes_ is not None:
            return self.classes_[self.predict_proba(X).argmax(1)]
        values = self._linear(X)
        return values[:, 0] if self._arrays["weight"].ndim == 1 else values

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probability of each of `classes_`, shape (n, classes).

        Args:
            X: Embeddings, shape (n, d).

        Raises:
            ValueError: As `predict`, or if it predicts numbers.
        """
        if self.classes_ is None:
            raise ValueError("probabilities are of classes, found a head of numbers: use predict")
        scores = self._linear(X)
        odds = np.exp(scores - scores.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Accuracy of classes; R² of numbers, the mean over targets; rows with a missing label do not count.

        Args:
            X: Embeddings, shape (n, d).
            y: What is true.

        Raises:
            ValueError: As `predict`, or if y is not of the kind and shape that was learnt.
        """
        predicted, (truth, known) = self.predict(X), _read_labels(y)
        if len(truth) != len(predicted) or not known.any():
            raise ValueError(f"X and y must have one row each, and labels, found {len(predicted)} and {known.sum()}")
        if truth.shape != predicted.shape or (truth.dtype.kind == "U") != (self.classes_ is not None):
            wanted = "names of classes" if self.classes_ is not None else "numbers"
            found = "names" if truth.dtype.kind == "U" else "numbers"
            raise ValueError(f"y must be {wanted} of shape {predicted.shape}, as learnt, found {found}, {truth.shape}")
        predicted, truth = predicted[known], truth[known]
        if self.classes_ is not None:
            return float(np.mean(predicted == truth))
        pairs = zip(np.atleast_2d(truth.T), np.atleast_2d(predicted.T), strict=True)
        return float(np.mean([r_squared(one, two) for one, two in pairs]))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it to a folder, as numbers and their description.

        Args:
            folder: Made where it is absent.

        Raises:
            ValueError: If it was not fitted.
        """
        self._check_fitted()
        path = Path(folder).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        with written_whole(path / WEIGHTS) as temporary:
            write_arrays(self._arrays, temporary)
        classes = None if self.classes_ is None else self.classes_.tolist()
        write_json(
            {
                "names": self.names,
                "classes": classes,
                "checkpoint": self.checkpoint,
                "fingerprint": self.fingerprint,
            },
            path / SETTINGS,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EmbeddingHead":
        """Read one that was saved.

        Args:
            folder: The folder.

        Raises:
            FileNotFoundError: If there is none.
        """
        path = Path(folder).expanduser()
        if not (path / SETTINGS).is_file():
            raise FileNotFoundError(f"{path} must hold {SETTINGS}, found none: pass what save_pretrained wrote")
        settings = json.loads((path / SETTINGS).read_text())
        head = cls(settings["names"], checkpoint=settings["checkpoint"], fingerprint=settings["fingerprint"])
        head.classes_ = None if settings["classes"] is None else np.array(settings["classes"])
        head._arrays = load_file(path / WEIGHTS)
        return head

    def __repr__(self) -> str:
        if "weight" not in self._arrays:
            return "EmbeddingHead(not fitted)"
        what = ", ".join(map(str, self.classes_ if self.classes_ is not None else self.names or ["numbers"]))
        return f"EmbeddingHead({what}; on {len(self._arrays['mean'])} numbers of {self.checkpoint or 'any encoder'})"

    # Inside ---------------------------------------------------------------------------------------

    def _fit_classes(self, scaled: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(f"a head needs at least two classes, found {', '.join(classes) or 'none'}")
        objects = {str(name): len(np.unique(groups[labels == name])) for name in classes}
        if rare := [f"{count} of {name}" for name, count in objects.items() if count < FOLDS]:
            raise ValueError(
                f"a head needs labels of at least {FOLDS} objects of each class, found {', '.join(rare)}: label more, "
                "or leave the class out"
            )
        self.classes_ = classes
        search = from_sklearn("model_selection", "GridSearchCV")(
            from_sklearn("linear_model", "LogisticRegression")(class_weight="balanced", max_iter=3000),
            {"C": PENALTIES},
            scoring="neg_log_loss" if min(objects.values()) >= 2 * FOLDS else "accuracy",
            # Stratified, or a fold may have a class of its own where labels come in turns.
            cv=from_sklearn("model_selection", "StratifiedGroupKFold")(FOLDS, shuffle=True, random_state=0),
        )
        best = search.fit(scaled, labels, groups=groups).best_estimator_
        weight, bias = best.coef_, best.intercept_
        if len(weight) == 1:  # two classes have one row
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self._arrays |= {"weight": weight, "bias": bias}

    def _fit_numbers(self, scaled: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        self.classes_ = None
        targets = labels.reshape(len(labels), -1)
        if not (targets.std(0) > 0).all():
            raise ValueError("a head needs labels that differ, found a target with one value only: leave it out")
        if self.names is not None and len(self.names) != targets.shape[1]:
            raise ValueError(f"names must be one per target, found {len(self.names)} for {targets.shape[1]} targets")
        centre, spread = targets.mean(0), targets.std(0)
        search = from_sklearn("model_selection", "GridSearchCV")(
            from_sklearn("linear_model", "Ridge")(),
            {"alpha": ALPHAS},
            scoring="neg_mean_squared_error",
            cv=from_sklearn("model_selection", "GroupKFold")(FOLDS),
        )
        best = search.fit(scaled, (targets - centre) / spread, groups=groups).best_estimator_
        weight = np.atleast_2d(best.coef_) * spread[:, None]
        bias = np.atleast_1d(best.intercept_) * spread + centre
        self._arrays |= {"weight": weight[0] if labels.ndim == 1 else weight, "bias": bias}

    def _linear(self, X: ArrayLike) -> np.ndarray:
        self._check_fitted()
        return self._scaled(self._check(X)) @ np.atleast_2d(self._arrays["weight"]).T + self._arrays["bias"]

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        return ((vectors - self._arrays["mean"]) / self._arrays["width"]).clip(-MOST_WIDTHS, MOST_WIDTHS)

    def _check_fitted(self) -> None:
        if "weight" not in self._arrays:
            raise ValueError("the head must be fitted first: call fit(X, y)")

    def _check(self, X: ArrayLike) -> np.ndarray:
        vectors = np.asarray(X, dtype=np.float64)
        wanted = f"(n, {len(self._arrays['mean'])})" if self._arrays else "(n, d)"
        if vectors.ndim != 2 or (self._arrays and vectors.shape[1] != len(self._arrays["mean"])):
            raise ValueError(f"embeddings must have shape {wanted}, found {vectors.shape}: pass what encode returned")
        if not np.isfinite(vectors).all():
            bad = np.flatnonzero(~np.isfinite(vectors).all(1))
            raise ValueError(
                f"embeddings must be finite, found {len(bad)} that are not, the first in row {bad[0]}: leave out "
                "spectra without a valid patch"
            )
        return vectors


def as_embeddings(values: Any, size: int) -> np.ndarray | None:
    """Embeddings as an array, also of a column or list of vectors; None of what must be spectra.

    Args:
        values: Embeddings, or something else.
        size: Length of an embedding.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return values
    rows = list(values) if isinstance(values, list) or type(values).__name__ in ("Series", "Column") else []
    return (
        np.stack([np.asarray(row) for row in rows]) if rows and all(np.shape(row) == (size,) for row in rows) else None
    )


def _read_labels(y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as texts, shape (n,), or float64, shape (n,) or (n, targets), and which rows have them, shape (n,)."""
    if isinstance(y, np.ma.MaskedArray):
        values = np.ma.getdata(y).astype(object)
        values[np.ma.getmaskarray(y)] = None
    else:
        # Of texts and a NaN numpy alone would make the text "nan".
        values = np.asarray(y, dtype=object if isinstance(y, (list, tuple)) else None)
    if values.dtype.kind == "O":  # of pandas; also numbers, of which some are missing
        missing = np.array([_is_missing(value) for value in values.reshape(-1)], dtype=bool).reshape(values.shape)
        present = values[~missing]
        if all(isinstance(value, Number) and not isinstance(value, bool) for value in present):
            values = np.where(missing, np.nan, values).astype(np.float64)
        else:
            values = np.array(
                [_as_text(value) if known else "" for value, known in zip(values, ~missing, strict=True)]
            )
    if values.dtype.kind in "iuf":
        return values.astype(np.float64), np.isfinite(values.reshape(len(values), -1)).all(1)
    if values.ndim != 1:
        raise ValueError(f"classes must have shape (n,), found {values.shape}")
    texts = np.char.decode(values) if values.dtype.kind == "S" else values.astype(str)
    return texts, texts != ""


def _read_groups(groups: ArrayLike) -> np.ndarray:
    """Keys of objects as numbers, shape (n,)."""
    keys = np.asarray(groups)
    if lost := [row for row, key in enumerate(keys.reshape(-1).tolist()) if _is_missing(key)]:
        raise ValueError(
            f"groups must say the object of each row, found {len(lost)} missing, the first in row {lost[0]}: leave "
            "these rows out, or give each a key of its own"
        )
    return np.unique(keys, return_inverse=True)[1]


def _is_missing(value: Any) -> bool:
    # pandas' NA is neither equal to itself nor not
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _as_text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


__all__ = ["EmbeddingHead", "as_embeddings"]
