"""`EmbeddingHead`: a linear model on embeddings, with the manners of scikit-learn, that is saved without a pickle."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from safetensors.numpy import load_file, save_file

from ..data.whole_files import write_json, written_whole
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
            y: Names of classes, shape (n,), or numbers, shape (n,) or (n, targets). Rows with a missing one ("", None,
                NaN) are left out.
            groups: Key of the object of each; None = all are different objects.

        Raises:
            ValueError: If shapes disagree, or labels are too few or all the same.
            ImportError: If scikit-learn is not installed.
        """
        vectors, labels = self._check(X), np.asarray(y)
        if len(labels) != len(vectors):
            raise ValueError(f"X and y must have one row each, found {len(vectors)} and {len(labels)}")
        of_classes = labels.dtype.kind not in "iuf"
        if of_classes:
            known = np.array([bool(label) for label in labels], dtype=bool)
        else:
            known = np.isfinite(labels).reshape(len(labels), -1).all(1)
        keys = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        vectors, labels, keys = vectors[known], labels[known], keys[known]
        if len(np.unique(keys)) < 2 * FOLDS:
            raise ValueError(
                f"a head needs labels of at least {2 * FOLDS} objects, found {len(np.unique(keys))}: label more"
            )
        mean, width = vectors.mean(0), vectors.std(0)
        self._arrays = {"mean": mean, "width": np.where(width > 1e-9 * np.abs(vectors).max(), width, np.inf)}
        (self._fit_classes if of_classes else self._fit_numbers)(self._scaled(vectors), labels, keys)
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
        return self._linear(X)[:, 0] if self._arrays["weight"].ndim == 1 else self._linear(X)

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
        """Accuracy of classes; R² of numbers, the mean over targets.

        Args:
            X: Embeddings, shape (n, d).
            y: What is true.

        Raises:
            ValueError: As `predict`.
        """
        predicted, truth = self.predict(X), np.asarray(y)
        if self.classes_ is not None:
            return float(np.mean(predicted == truth))
        pairs = zip(np.atleast_2d(truth.T), np.atleast_2d(predicted.T), strict=True)
        return float(np.mean([r_squared(one.astype(np.float64), two) for one, two in pairs]))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it to a folder, as numbers and their description.

        Args:
            folder: Made where it is absent.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with written_whole(path / WEIGHTS) as temporary:
            save_file({name: np.ascontiguousarray(values) for name, values in self._arrays.items()}, temporary)
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
        if not self._arrays:
            return "EmbeddingHead(not fitted)"
        what = ", ".join(map(str, self.classes_ if self.classes_ is not None else self.names or ["numbers"]))
        return f"EmbeddingHead({what}; on {len(self._arrays['mean'])} numbers of {self.checkpoint or 'any encoder'})"

    # Inside ---------------------------------------------------------------------------------------

    def _fit_classes(self, scaled: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        self.classes_ = np.unique(labels.astype(str))
        if len(self.classes_) < 2:
            raise ValueError(f"a head needs at least two classes, found {', '.join(self.classes_) or 'none'}")
        search = from_sklearn("model_selection", "GridSearchCV")(
            from_sklearn("linear_model", "LogisticRegression")(class_weight="balanced", max_iter=3000),
            {"C": PENALTIES},
            scoring="neg_log_loss" if _all_in_folds(labels, groups) else "accuracy",
            cv=from_sklearn("model_selection", "GroupKFold")(FOLDS),
        )
        best = search.fit(scaled, labels.astype(str), groups=groups).best_estimator_
        weight, bias = best.coef_, best.intercept_
        if len(weight) == 1:  # two classes have one row
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        self._arrays |= {"weight": weight, "bias": bias}

    def _fit_numbers(self, scaled: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        self.classes_ = None
        targets = labels.astype(np.float64).reshape(len(labels), -1)
        if not (targets.std(0) > 0).all():
            raise ValueError("a head needs labels that differ, found a target with one value only")
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
        if not self._arrays:
            raise ValueError("the head must be fitted first: call fit(X, y)")
        return self._scaled(self._check(X)) @ np.atleast_2d(self._arrays["weight"]).T + self._arrays["bias"]

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        return ((vectors - self._arrays["mean"]) / self._arrays["width"]).clip(-MOST_WIDTHS, MOST_WIDTHS)

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


def _all_in_folds(labels: np.ndarray, groups: np.ndarray) -> bool:
    """Whether every class has objects for all folds, so that its probability can be judged in each."""
    return all(len(np.unique(groups[labels == name])) >= 2 * FOLDS for name in np.unique(labels.astype(str)))


__all__ = ["EmbeddingHead"]
