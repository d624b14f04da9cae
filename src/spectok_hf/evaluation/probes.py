"""Plain methods for tasks: what the features of a frozen model hold, and what raw flux tells without one.

Each function here returns a method for `tasks.evaluate_tasks`. All learn in the same way: on the training part alone,
their settings chosen by the validation part, each number by itself on the spectra whose label is known, a redshift as
ln(1 + z). What is predicted may lie beyond the training labels by half their range and no more.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from ..models.wavelength import to_medium
from .perceptron import mlp_classes, mlp_values
from .scores import class_scores
from .tasks import Method, NotApplicable, Prediction, Split, Task

POOLINGS = ("mean", "mean_std", "segments")
NEIGHBOURS = (50, 20, 10, 5, 3, 1)
COMPONENTS = (5, 10, 20, 50, 100, 200)
ALPHAS = (1e5, 1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01)  # of ridge regression, on standardised inputs
INVERSE_PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)  # of logistic regression
PENALTIES = (1.0, 10.0, 100.0)  # of support vectors
GAMMAS = (0.1, 0.3, 1.0)  # of their kernel, over the mean squared distance of two inputs from their mean
TUBE = 0.02  # of support vector regression: errors below, in standard deviations of the labels, cost nothing
FORESTS = ((1, 0.02), (4, 0.02), (1, 0.05))  # least spectra of a leaf, share of the pixels that a split looks at
MOST_WIDTHS = 10.0  # standardised inputs are clipped to +-: a cosmic ray shall not be a feature
FLUX_RANGE = (-5.0, 20.0)  # of flux over its median; the lines of quasars reach 10
MOST_PIXELS = 4000  # of a common grid
LEAST_SHARE = 0.95  # of the spectra that reach each end of it

# Fits inputs and targets, shapes (n, d) and (n,), of the training and the validation part with a setting and a seed,
# to something with `predict`. Most have no use for the validation part: settings are compared on it afterwards.
Part = tuple[np.ndarray, np.ndarray]
Fit = Callable[[Part, Part, Any, int], Any]
Setting = tuple[int | None, Any]  # how many columns of the inputs are used (None = all), and a setting of the fit


def pool_features(
    states: np.ndarray,
    attention_mask: np.ndarray,
    token_wavelength: np.ndarray | None = None,
    *,
    how: str = "mean",
    count: int = 4,
    span: tuple[float, float] | None = None,
) -> np.ndarray:
    """One vector of the patches of one spectrum.

    Args:
        states: A vector per patch, such as `last_hidden_state` or `tokens` of the model, shape (num_patches, d).
        attention_mask: Patches that count, 1 = valid, shape (num_patches,).
        token_wavelength: Wavelength of each patch in Å, 0 at padding, the same shape; for segments.
        how: "mean" and "mean_std" (mean and standard deviation) are over all valid patches; "segments" are the means
            over those of each of `count` equal parts of the wavelength range, NaN in a part without any.
        count: Number of segments.
        span: First and last wavelength in Å of the segments, for spectra of several surveys; patches beyond do not
            count. None = the range of this spectrum's patches.

    Returns:
        Shape (d,), (2 d,) or (count x d,), float32. The methods here put NaN at the mean of the training spectra.

    Raises:
        ValueError: If shapes disagree, no patch is valid, or an argument is missing or makes no sense.
    """
    check_choice("how", how, POOLINGS)
    states, valid = np.asarray(states, dtype=np.float32), np.asarray(attention_mask) > 0
    if states.ndim != 2 or valid.shape != states.shape[:1] or not valid.any():
        raise ValueError(
            "states must have shape (num_patches, d) and attention_mask (num_patches,) with a valid patch, found "
            f"{states.shape}, {valid.shape} with {valid.sum()}: pool one spectrum at a time"
        )
    if how == "segments":
        return _segments(states, valid, token_wavelength, count, span)
    parts = [states[valid].mean(0)] + ([states[valid].std(0)] if how == "mean_std" else [])
    return np.concatenate(parts)


def raw_flux(spectra: Sequence[Spectrum]) -> np.ndarray:
    """Flux over its median on one grid: the input of a baseline without any model.

    Where all spectra share their grid (in vacuum), nothing is resampled. Otherwise each is averaged in bins of equal
    width in ln(wavelength), over the range that 95 % of the spectra reach at either end, as fine as the coarsest
    spectrum there but at most 4000. Bad pixels are interpolated; beyond its ends a spectrum goes on as it ends.

    Args:
        spectra: Spectra, at least one.

    Returns:
        Shape (n, pixels), float32, between -5 and 20.

    Raises:
        ValueError: If there are no spectra, or one has no good pixel.
        NotApplicable: If the spectra have no common range.
    """
    if not len(spectra):
        raise ValueError("raw_flux needs spectra, found none")
    if empty := [spectrum.name for spectrum in spectra if not spectrum.good.any()]:
        raise ValueError(f"{len(empty)} spectra have no good pixel: drop them, found {', '.join(empty[:3])}")
    axes = [_vacuum(spectrum) for spectrum in spectra]
    shared = all(np.array_equal(axis, axes[0]) for axis in axes[1:])
    edges = np.empty(0) if shared else _common_edges(axes)
    rows = np.empty((len(spectra), len(axes[0]) if shared else len(edges) - 1), dtype=np.float32)
    for row, spectrum, axis in zip(rows, spectra, axes, strict=True):
        good = spectrum.good
        flux = spectrum.flux[good].astype(np.float64)
        flux = np.interp(axis, axis[good], flux) if shared else _binned(axis[good], flux, edges)
        # The median of a faint spectrum may be 0; its noise is not.
        row[:] = flux / max(np.median(spectrum.flux[good]), np.median(spectrum.error[good]))
    return rows.clip(*FLUX_RANGE)


def constant() -> Method:
    """The most frequent class of the training spectra, or their mean: what a method must beat to have learned."""

    def method(task: Task, split: Split, seed: int) -> Prediction:
        columns = []
        for target in _targets(task):
            known = target[split.train][np.isfinite(target[split.train])]
            value = np.bincount(known.astype(int)).argmax() if task.kind == "classification" else known.mean()
            columns.append(np.full(len(split.test), value))
        return _prediction(task, columns)

    return method


def knn(embeddings: Mapping[str, np.ndarray], *, neighbours: Sequence[int] = NEIGHBOURS) -> Method:
    """The nearest training spectra by the angle between standardised embeddings, weighted by 1 / distance.

    Args:
        embeddings: One vector per spectrum of a task, shape (n, d), by the name of the task. A task without any is
            not applicable.
        neighbours: How many neighbours to choose from; of equally good numbers the first.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    inputs = _standardised_embeddings(embeddings, unit_length=True)
    settings: list[Setting] = [(None, count) for count in neighbours]
    return _learned(inputs, settings, settings, _neighbour_values, _neighbour_classes)


def linear_probe(embeddings: Mapping[str, np.ndarray]) -> Method:
    """Ridge regression of numbers, logistic regression of classes, on standardised embeddings clipped to +-10.

    Args:
        embeddings: As for `knn`.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    inputs = _standardised_embeddings(embeddings)
    alphas: list[Setting] = [(None, alpha) for alpha in ALPHAS]
    return _learned(inputs, alphas, [(None, penalty) for penalty in INVERSE_PENALTIES], _ridge, _logistic)


def mlp_probe(
    embeddings: Mapping[str, np.ndarray],
    *,
    hidden: tuple[int, ...] = (32,),
    dropout: float = 0.0,
    epochs: int = 200,
    patience: int = 20,
) -> Method:
    """A multilayer perceptron on standardised embeddings, with the weights of its best epoch.

    OmniSpectra's paper (arXiv 2601.15351) reads properties of galaxies from one hidden layer of 32, and redshifts from
    `hidden=(64, 64), dropout=0.1`; how it trains them it does not say.

    Args:
        embeddings: As for `knn`.
        hidden: Sizes of its hidden layers, at least one.
        dropout: Share of the hidden units that a step of training leaves out; none are left out in predicting.
        epochs: Most epochs of training.
        patience: It stops when the loss on the validation part has not fallen for so many epochs.

    Raises:
        ValueError: If there is no hidden layer, or the dropout is not from 0 to below 1.
        ImportError: If scikit-learn is not installed.
    """
    if not hidden or min(hidden) < 1 or not 0 <= dropout < 1:
        raise ValueError(
            f"hidden must be sizes of layers and dropout lie from 0 to below 1, found {hidden} and {dropout}: "
            "linear_probe has no hidden layer"
        )
    settings: list[Setting] = [(None, (tuple(hidden), float(dropout), epochs, patience))]
    return _learned(_standardised_embeddings(embeddings), settings, settings, mlp_values, mlp_classes)


def pca_ridge(*, components: Sequence[int] = COMPONENTS, beside: np.ndarray | None = None) -> Method:
    """Ridge or logistic regression on principal components of the raw flux: the linear model of the spectra.

    Args:
        components: Numbers of components to choose from, up to half of the training spectra.
        beside: What is known of each spectrum of a task besides, standardised, shape (n, d). None = nothing.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    counts = _columns(components, beside)
    alphas: list[Setting] = [(count, alpha) for count in counts for alpha in ALPHAS]
    penalties: list[Setting] = [(count, penalty) for count in counts for penalty in INVERSE_PENALTIES]
    return _learned(_flux_components(max(components), beside), alphas, penalties, _ridge, _logistic)


def flux_mlp(
    *,
    hidden: tuple[int, ...] = (256, 64),
    components: Sequence[int] = (20, 100),
    epochs: int = 200,
    patience: int = 20,
    beside: np.ndarray | None = None,
) -> Method:
    """A multilayer perceptron on principal components of the raw flux, with the weights of its best epoch.

    Args:
        hidden: Sizes of its hidden layers.
        components: Numbers of components to choose from, up to half of the training spectra.
        epochs: Most epochs of training.
        patience: It stops when the loss on the validation part has not fallen for so many epochs.
        beside: As for `pca_ridge`.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    settings: list[Setting] = [(count, (hidden, epochs, patience)) for count in _columns(components, beside)]
    return _learned(_flux_components(max(components), beside), settings, settings, _mlp_values, _mlp_classes)


def support_vectors(*, penalties: Sequence[float] = PENALTIES, gammas: Sequence[float] = GAMMAS) -> Method:
    """Support vectors with a Gaussian kernel on the standardised raw flux.

    All classes weigh the same, as for `linear_probe`; each number has a regression of its own.

    Args:
        penalties: Penalties of an error to choose from.
        gammas: What to choose from for the kernel exp(-gamma d²), where d² is the squared distance of two spectra in
            units of the number of pixels times the variance of the inputs.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    settings: list[Setting] = [(None, (penalty, gamma)) for gamma in gammas for penalty in penalties]
    return _learned(_whole_flux, settings, settings, _support_values, _support_classes)


def random_forest(*, trees: int = 200, settings: Sequence[tuple[int, float]] = FORESTS) -> Method:
    """A random forest on the standardised raw flux; all classes weigh the same, as for `linear_probe`.

    Args:
        trees: Number of trees.
        settings: What to choose from: the least number of training spectra in a leaf, and the share of the pixels
            that each split of a tree may look at.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    forests: list[Setting] = [(None, (trees, *setting)) for setting in settings]
    return _learned(_whole_flux, forests, forests, _forest_values, _forest_classes)


def standardised_flux(task: Task, split: Split) -> np.ndarray:
    """The raw flux of all spectra of a task, each pixel by its mean and deviation over the training spectra.

    Args:
        task: The task.
        split: Says which spectra train.

    Returns:
        Shape (n, pixels), float32, between -10 and 10; 0 where a pixel does not vary.

    Raises:
        NotApplicable: If the spectra have no common range.
    """
    return _standardise(raw_flux(task.spectra), split.train)


def _learned(
    inputs_of: Callable[[Task, Split, int], np.ndarray],
    number_settings: Sequence[Setting],
    class_settings: Sequence[Setting],
    fit_numbers: Fit,
    fit_classes: Fit,
) -> Method:
    """The method that all others are: inputs, shape (n, d), and for each target the best of the settings."""
    from_sklearn("base", "clone")  # what is missing is said before hours are spent

    def method(task: Task, split: Split, seed: int) -> Prediction:
        inputs = inputs_of(task, split, seed)
        if task.kind == "classification":
            columns = [_best_classes(inputs, t, split, fit_classes, class_settings, seed) for t in _targets(task)]
        else:
            columns = [_best_numbers(inputs, t, split, fit_numbers, number_settings, seed) for t in _targets(task)]
        return _prediction(task, columns)

    return method


def _targets(task: Task) -> list[np.ndarray]:
    """What is learned, one array (n,) per target: numbers of classes, numbers, or ln(1 + z)."""
    if task.kind == "classification":
        code = {name: number for number, name in enumerate(task.classes)}
        return [np.array([code[name] for name in task.labels.tolist()])]
    return list(task.labels.T) if task.kind == "regression" else [np.log1p(task.labels)]


def _prediction(task: Task, columns: Sequence[np.ndarray]) -> Prediction:
    if task.kind == "classification":
        return Prediction(np.asarray(task.classes)[columns[0].astype(int)])
    return Prediction(np.stack(columns, -1) if task.kind == "regression" else np.expm1(columns[0]))


def _best_numbers(
    inputs: np.ndarray, target: np.ndarray, split: Split, fit: Fit, settings: Sequence[Setting], seed: int
) -> np.ndarray:
    """Numbers of the test spectra, shape (n_test,), by the fit with the least squared error on validation."""
    train, validation = (part[np.isfinite(target[part])] for part in (split.train, split.validation))
    centre, width = target[train].mean(), target[train].std() or 1.0

    def loss(predicted: np.ndarray) -> float:
        return float(np.mean((predicted * width + centre - target[validation]) ** 2))

    scaled = (target - centre) / width
    predicted = _best(inputs, scaled, (train, validation, split.test), fit, settings, seed, loss)
    # A straight line knows no end: far beyond what it has learned from, it is held there.
    low, high = target[train].min(), target[train].max()
    return (predicted * width + centre).clip(low - (high - low) / 2, high + (high - low) / 2)


def _best_classes(
    inputs: np.ndarray, target: np.ndarray, split: Split, fit: Fit, settings: Sequence[Setting], seed: int
) -> np.ndarray:
    """Numbers of the classes of the test spectra, by the fit with the highest macro F1 on validation."""
    names = [str(number) for number in range(target.max() + 1)]

    def loss(predicted: np.ndarray) -> float:
        return -class_scores(target[split.validation], predicted, names)["macro_f1"]

    return _best(inputs, target, (split.train, split.validation, split.test), fit, settings, seed, loss)


def _best(
    inputs: np.ndarray,
    target: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    fit: Fit,
    settings: Sequence[Setting],
    seed: int,
    loss: Callable[[np.ndarray], float],
) -> np.ndarray:
    """Predictions for the test part by the setting with the least loss on validation; of equals, the first."""
    train, validation, test = parts
    least, best = np.inf, np.empty(0)
    for columns, setting in _allowed(settings, len(train), inputs.shape[1]):
        used = inputs[:, :columns]
        model = fit((used[train], target[train]), (used[validation], target[validation]), setting, seed)
        error = loss(model.predict(used[validation]))
        if error < least:
            least, best = error, model.predict(used[test])
    return best


def _allowed(settings: Sequence[Setting], n_train: int, width: int) -> list[Setting]:
    """Settings with at most half as many columns as training spectra; those that remain the same occur once."""
    most = max(min(n_train // 2, width), 1)
    return list(dict.fromkeys((columns and min(columns, most), setting) for columns, setting in settings))


def _ridge(train: Part, validation: Part, alpha: float, seed: int) -> Any:
    return from_sklearn("linear_model", "Ridge")(alpha=alpha).fit(*train)


def _logistic(train: Part, validation: Part, penalty: float, seed: int) -> Any:
    return from_sklearn("linear_model", "LogisticRegression")(C=penalty, class_weight="balanced", max_iter=2000).fit(
        *train
    )


def _neighbour_values(train: Part, validation: Part, count: int, seed: int) -> Any:
    return _neighbours("KNeighborsRegressor", train, count)


def _neighbour_classes(train: Part, validation: Part, count: int, seed: int) -> Any:
    return _neighbours("KNeighborsClassifier", train, count)


def _neighbours(name: str, train: Part, count: int) -> Any:
    model = from_sklearn("neighbors", name)(
        n_neighbors=min(count, len(train[1])), weights="distance", algorithm="brute"
    )
    return model.fit(*train)


def _support_values(train: Part, validation: Part, setting: tuple[float, float], seed: int) -> Any:
    return from_sklearn("svm", "SVR")(C=setting[0], kernel=_kernel(train[0], setting[1]), epsilon=TUBE).fit(*train)


def _support_classes(train: Part, validation: Part, setting: tuple[float, float], seed: int) -> Any:
    model = from_sklearn("svm", "SVC")(C=setting[0], kernel=_kernel(train[0], setting[1]), class_weight="balanced")
    return model.fit(*train)


def _kernel(inputs: np.ndarray, gamma: float) -> Callable[..., np.ndarray]:
    """The kernel as a function: scikit-learn then multiplies matrices, several times faster on whole spectra."""
    spread = inputs.shape[1] * float(inputs.var()) or 1.0
    return partial(from_sklearn("metrics.pairwise", "rbf_kernel"), gamma=gamma / spread)


def _forest_values(train: Part, validation: Part, setting: tuple[int, int, float], seed: int) -> Any:
    return _forest("RandomForestRegressor", setting, seed).fit(*train)


def _forest_classes(train: Part, validation: Part, setting: tuple[int, int, float], seed: int) -> Any:
    return _forest("RandomForestClassifier", setting, seed, class_weight="balanced").fit(*train)


def _forest(name: str, setting: tuple[int, int, float], seed: int, **options: Any) -> Any:
    trees, leaf, share = setting
    return from_sklearn("ensemble", name)(
        trees, min_samples_leaf=leaf, max_features=share, random_state=seed, **options
    )


def _mlp_values(train: Part, validation: Part, setting: tuple, seed: int) -> Any:
    model = from_sklearn("neural_network", "MLPRegressor")(hidden_layer_sizes=setting[0], random_state=seed)
    return _stopped_early(model, train, lambda: np.mean((model.predict(validation[0]) - validation[1]) ** 2), setting)


def _mlp_classes(train: Part, validation: Part, setting: tuple, seed: int) -> Any:
    model = from_sklearn("neural_network", "MLPClassifier")(hidden_layer_sizes=setting[0], random_state=seed)
    classes = np.unique(train[1])
    known = np.isin(validation[1], classes)  # a class without a training spectrum has no probability
    places = np.searchsorted(classes, validation[1][known])

    def loss() -> float:
        chances = model.predict_proba(validation[0][known])[np.arange(len(places)), places]
        return -float(np.log(chances.clip(1e-9)).mean()) if len(places) else 0.0

    return _stopped_early(model, train, loss, setting)


def _stopped_early(model: Any, train: Part, loss: Callable[[], Any], setting: tuple) -> Any:
    """The model with its weights after the epoch of least loss; scikit-learn's own way draws spectra, not objects."""
    _, epochs, patience = setting
    classes = {"classes": np.unique(train[1])} if hasattr(model, "predict_proba") else {}
    least, since, weights = np.inf, 0, None
    for _ in range(epochs):
        model.partial_fit(*train, **classes)
        now = float(loss())
        since += 1
        if now < least:
            least, since = now, 0
            weights = [[array.copy() for array in arrays] for arrays in (model.coefs_, model.intercepts_)]
        if since >= patience:
            break
    if weights is not None:
        model.coefs_, model.intercepts_ = weights
    return model


def _standardised_embeddings(
    embeddings: Mapping[str, np.ndarray], *, unit_length: bool = False
) -> Callable[[Task, Split, int], np.ndarray]:
    def inputs_of(task: Task, split: Split, seed: int) -> np.ndarray:
        if task.name not in embeddings:
            raise NotApplicable(f"there are no embeddings of {task.name}")
        vectors = np.asarray(embeddings[task.name], dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(task.spectra):
            raise ValueError(
                f"embeddings of {task.name} must have shape ({len(task.spectra)}, d), found {vectors.shape}"
            )
        vectors = _standardise(vectors, split.train)
        if not unit_length:
            return vectors
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(length > 0, length, 1)

    return inputs_of


def _whole_flux(task: Task, split: Split, seed: int) -> np.ndarray:
    return standardised_flux(task, split)


def _columns(components: Sequence[int], beside: np.ndarray | None) -> list[int]:
    """How many columns of what `_flux_components` returns hold so many components."""
    return [count + (0 if beside is None else beside.shape[-1]) for count in components]


def _flux_components(count: int, beside: np.ndarray | None) -> Callable[[Task, Split, int], np.ndarray]:
    """Principal components of the standardised raw flux, the first of unit variance, in falling order.

    What is known besides stands before them.

    They are not whitened: with all of unit variance the perceptron was worse on real stars (R² of Teff 0.87 for 0.93).
    """

    def inputs_of(task: Task, split: Split, seed: int) -> np.ndarray:
        flux = standardised_flux(task, split)
        if beside is not None and beside.shape[:-1] != flux.shape[:1]:
            raise ValueError(f"beside must have a row for each of {len(flux)} spectra, found shape {beside.shape}")
        most = max(min(count, len(split.train) // 2, flux.shape[1]), 1)
        pca = from_sklearn("decomposition", "PCA")(n_components=most, svd_solver="randomized", random_state=seed)
        scores = pca.fit(flux[split.train]).transform(flux).astype(np.float64)
        scores = scores / np.sqrt(pca.explained_variance_[0] or 1.0)
        return scores if beside is None else np.hstack([_standardise(beside, split.train), scores])

    return inputs_of


def _standardise(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Values less the mean of the training rows over their deviation, clipped; 0 where missing or without any."""
    known = np.isfinite(values[train])
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, values[train], 0).sum(0, dtype=np.float64) / count
    squares = np.where(known, values[train] - mean.astype(values.dtype), 0) ** 2
    width = np.sqrt(squares.sum(0, dtype=np.float64) / count)
    scale = np.divide(
        1, width, out=np.zeros_like(width), where=width > 1e-6 * np.abs(mean) + np.finfo(np.float32).tiny
    )
    scaled = (values - mean.astype(values.dtype)) * scale.astype(values.dtype)
    return np.where(np.isfinite(values), scaled, 0).clip(-MOST_WIDTHS, MOST_WIDTHS)


def _segments(
    states: np.ndarray,
    valid: np.ndarray,
    token_wavelength: np.ndarray | None,
    count: int,
    span: tuple[float, float] | None,
) -> np.ndarray:
    wavelength = np.array(np.nan if token_wavelength is None else token_wavelength, dtype=np.float64)
    if wavelength.shape != valid.shape or count < 1:
        raise ValueError(
            f"segments need token_wavelength of shape {valid.shape} and a count of at least 1, found shape "
            f"{wavelength.shape} and {count}"
        )
    # Patches that are not valid count for the range: where a spectrum has lost some must not move the segments.
    real = wavelength[wavelength > 0]
    low, high = span or (real.min(), real.max())
    place = ((wavelength - low) / max(high - low, np.finfo(np.float64).tiny) * count).astype(int)
    place[wavelength == high] = count - 1
    valid = valid & (wavelength >= low) & (wavelength <= high)
    parts = [states[valid & (place == segment)] for segment in range(count)]
    return np.concatenate(
        [part.mean(0) if len(part) else np.full(states.shape[1], np.nan, np.float32) for part in parts]
    )


def _vacuum(spectrum: Spectrum) -> np.ndarray:
    return to_medium(spectrum.wavelength, spectrum.medium, "vacuum")


def _common_edges(axes: Sequence[np.ndarray]) -> np.ndarray:
    """Edges of bins of equal width in ln(wavelength), as fine as the coarsest axis in the common range."""
    low = np.quantile([axis[0] for axis in axes], LEAST_SHARE, method="higher")
    high = np.quantile([axis[-1] for axis in axes], 1 - LEAST_SHARE, method="lower")
    if not low < high:
        raise NotApplicable(
            f"no range of wavelength is common to {LEAST_SHARE:.0%} of the spectra: they begin below {low:.0f} Å and "
            f"end above {high:.0f} Å"
        )
    inside = [np.log(axis[(axis >= low) & (axis <= high)]) for axis in axes]
    steps = [np.median(np.diff(axis)) for axis in inside if len(axis) > 1]
    bins = round(np.log(high / low) / max(steps)) if steps else 1
    return np.geomspace(low, high, min(max(bins, 1), MOST_PIXELS) + 1)


def _binned(wavelength: np.ndarray, flux: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean over each bin of the flux drawn as a line through its pixels, shape (bins,); held beyond the ends."""
    nodes = np.concatenate([[min(edges[0], wavelength[0]) - 1], wavelength, [max(edges[-1], wavelength[-1]) + 1]])
    nodes = np.union1d(nodes, edges)
    line = np.interp(nodes, wavelength, flux)
    area = np.concatenate([[0], np.cumsum((line[1:] + line[:-1]) / 2 * np.diff(nodes))])
    return np.diff(np.interp(edges, nodes, area)) / np.diff(edges)


def from_sklearn(module: str, name: str) -> Any:
    """A class or function of scikit-learn.

    Args:
        module: Its module there.
        name: Its name.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        return getattr(import_module(f"sklearn.{module}"), name)
    except ImportError as error:
        raise ImportError('the plain methods need scikit-learn: pip install "spectok-hf[train]".') from error


__all__ = [
    "constant",
    "flux_mlp",
    "from_sklearn",
    "knn",
    "linear_probe",
    "mlp_probe",
    "pca_ridge",
    "pool_features",
    "random_forest",
    "raw_flux",
    "standardised_flux",
    "support_vectors",
]
