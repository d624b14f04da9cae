"""The heads on given states: what their numbers mean, their losses against plain numpy, their errors."""

import re

import numpy as np
import pytest
import torch
from test_modeling_spectok import small_config
from torch.nn import functional

from spectok_hf import SpectrumProcessor, simulate_survey
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.models.heads import (
    ZWARN_BITS,
    ClassificationHead,
    RedshiftHead,
    RegressionHead,
    classification_loss,
    regression_loss,
)
from spectok_hf.models.packing import PackedLayout, PaddedLayout
from spectok_hf.models.redshift_posterior import (
    node_grid,
    position_redshift,
    redshift_loss,
    redshift_nodes,
    redshift_position,
)

SIZE = 8  # of a state
TARGETS = {"target_names": ["teff", "logg"], "target_mean": [5000.0, 4.0], "target_std": [800.0, 0.5]}
HEADS = {"classification": ClassificationHead, "regression": RegressionHead, "redshift": RedshiftHead}


def make_head(task, size=SIZE, **fields):
    torch.manual_seed(0)
    defaults = {"num_labels": 3, "redshift_bins": 16, "attn_implementation": "sdpa"}
    config = small_config(**defaults | TARGETS | fields)
    head = HEADS[task](config, size).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return head


def constant_head(task, outputs, **fields):
    """A head whose last map gives `outputs` for every spectrum."""
    head = make_head(task, head_type="linear", **fields)
    last = list(head.children())[-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.as_tensor(outputs, dtype=torch.float64)
    return head


def make_states(lengths=(4, 0, 1, 6), seed=0):
    """Packed states, and the layout in which some patches of each spectrum are bad."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(sum(lengths), SIZE, generator=generator, dtype=torch.float64)
    valid = torch.rand(len(states), generator=generator) > 0.3
    valid[[0, 4]] = True
    states[~valid] = 0  # as the encoder leaves them
    wavelength = 4000 + 100 * torch.arange(len(states), dtype=torch.float64)
    return states, wavelength, PackedLayout(list(lengths), valid)


def ask(head, count=1, labels=None):
    """The head's answers for `count` spectra of one patch."""
    ones = torch.ones(count, 1, dtype=torch.bool)
    states = torch.zeros(count, 1, SIZE, dtype=torch.float64)
    return head(states, 5000.0 * ones, PaddedLayout(head.config, ones, ones), labels)


# The adaptation module


@pytest.mark.parametrize("queries", [1, 3])
def test_queries_attend_to_the_valid_patches_of_their_spectrum(queries):
    """Spectrum by spectrum, head by head, in plain operations."""
    adapter = make_head("classification", head_num_queries=queries, head_hidden_size=12).adapter
    states, wavelength, layout = make_states()
    found = adapter(states, wavelength, layout)
    assert found.shape == (4, adapter.output_size) == (4, 24)
    embedded = adapter.projection(states) + adapter.wavelength_embedding(wavelength[:, None], torch.float64)
    embedded = adapter.norm_before(embedded)
    pooling = adapter.pooling
    for index, rows in ((0, range(0, 4)), (2, range(4, 5)), (3, range(5, 11))):
        rows = [row for row in rows if layout.valid[row]]
        key, value = (project(embedded[rows]).view(len(rows), 4, 3) for project in (pooling.k_proj, pooling.v_proj))
        scores = torch.einsum("qhd,khd->hqk", pooling.queries.view(queries, 4, 3), key) / 3**0.5
        answers = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(queries, 12)
        pooled = adapter.norm_after(pooling.o_proj(answers).flatten())
        torch.testing.assert_close(found[index], functional.gelu(adapter.fc1(pooled)), atol=1e-12, rtol=1e-12)


def test_the_linear_adapter_is_a_layer_norm_of_the_mean_over_valid_patches():
    adapter = make_head("classification", head_type="linear").adapter
    states, wavelength, layout = make_states()
    found = adapter(states, wavelength, layout)
    for index, rows in ((0, slice(0, 4)), (2, slice(4, 5)), (3, slice(5, 11))):
        mean = states[rows][layout.valid[rows]].mean(0)
        expected = (mean - mean.mean()) / (mean.var(correction=0) + 1e-6).sqrt() * adapter.norm.weight
        torch.testing.assert_close(found[index], expected + adapter.norm.bias)


@pytest.mark.parametrize("head_type", ["attention", "linear"])
@pytest.mark.parametrize("task", HEADS)
def test_a_packed_spectrum_of_no_patches_gets_no_answer_and_no_gradient(task, head_type):
    head = make_head(task, head_type=head_type, head_num_queries=2)
    states, wavelength, layout = make_states()
    labels = {
        "classification": torch.tensor([0, 1, 2, 0]),
        "regression": torch.rand(4, 2, dtype=torch.float64),
        "redshift": torch.rand(4, dtype=torch.float64),
    }[task]
    known = torch.tensor([0, 2, 3])
    others = PackedLayout([4, 1, 6], layout.valid)
    expected, found = (head(states, wavelength, way, y) for way, y in ((others, labels[known]), (layout, labels)))
    answer = {"classification": "logits", "regression": "predictions", "redshift": "redshift"}[task]
    torch.testing.assert_close(found[answer][known], expected[answer], atol=1e-12, rtol=1e-12)
    nothing = found[answer][1]
    assert not nothing.any() if task == "classification" else nothing.isnan().all()
    head.zero_grad()
    (4 * found.loss).backward()
    gradients = [parameter.grad.clone() for parameter in head.parameters()]
    head.zero_grad()
    (3 * expected.loss).backward()
    for gradient, parameter in zip(gradients, head.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-12, rtol=1e-12)


# Classes


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


LOGITS = np.random.default_rng(0).normal(0, 2, (5, 3))
SINGLE = {"problem_type": "single_label_classification"}
MULTI = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.5]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", [{}, SINGLE])
def test_the_loss_of_one_class_each(kind, smoothing, weights):
    labels = np.array([0, 2, -100, 1, 2])
    config = small_config(num_labels=3, class_weights=weights, label_smoothing=smoothing, **kind)
    found = classification_loss(config, torch.from_numpy(LOGITS), torch.from_numpy(labels))
    w, costs = np.ones(3) if weights is None else np.array(weights), -log_softmax(LOGITS)
    expected = 0.0
    for row, label in enumerate(labels):
        if label != -100:
            expected += (1 - smoothing) * w[label] * costs[row, label] + smoothing * np.mean(w * costs[row])
    assert found.item() == pytest.approx(expected / 5, rel=1e-12)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.5]])
@pytest.mark.parametrize("kind", [{}, MULTI])
def test_the_loss_of_several_classes_each(kind, weights):
    labels = np.array([[1, 0, 1], [0, 0, np.nan], [np.nan] * 3, [1, np.nan, np.nan], [0, 1, 0]])
    config = small_config(num_labels=3, class_weights=weights, **kind)
    found = classification_loss(config, torch.from_numpy(LOGITS), torch.from_numpy(labels))
    w = np.ones(3) if weights is None else np.array(weights)
    probability = 1 / (1 + np.exp(-LOGITS))
    costs = -w * np.log(np.where(labels == 1, probability, 1 - probability))
    expected = [
        costs[row][~np.isnan(labels[row])].mean() if not np.isnan(labels[row]).all() else 0 for row in range(5)
    ]
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("labels", [[0.5, -1.0, np.nan, 2.0, 0.0], [[0.5], [-1.0], [np.nan], [2.0], [0.0]]])
def test_the_loss_of_a_classifier_that_regresses(labels):
    logits = LOGITS[:, :1]
    found = classification_loss(small_config(num_labels=1), torch.from_numpy(logits), torch.tensor(labels))
    squares = (logits[:, 0] - np.ravel(labels)) ** 2
    assert found.item() == pytest.approx(np.nansum(squares) / 5, rel=1e-6)


def test_three_regressed_logits_are_averaged_per_spectrum():
    labels = torch.tensor([[1.0, torch.nan, torch.nan], [0.0, 0.0, 0.0]], dtype=torch.float64)
    config = small_config(num_labels=3, problem_type="regression")
    found = classification_loss(config, torch.from_numpy(LOGITS[:2]), labels)
    assert found.item() == pytest.approx(((LOGITS[0, 0] - 1) ** 2 + (LOGITS[1] ** 2).mean()) / 2)


def test_a_loss_in_half_precision_is_taken_in_float32():
    logits = torch.from_numpy(LOGITS)
    found = classification_loss(small_config(num_labels=3), logits.bfloat16(), torch.tensor([0, 1, 2, 0, 1]))
    expected = classification_loss(
        small_config(num_labels=3), logits.bfloat16().double(), torch.tensor([0, 1, 2, 0, 1])
    )
    assert found.dtype == torch.float32 and found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_class_numbers_may_be_any_integers(dtype):
    labels = torch.tensor([0, 2, 1, 1, 0])
    losses = [
        classification_loss(small_config(num_labels=3), torch.from_numpy(LOGITS), given)
        for given in (labels, labels.to(dtype), labels[:, None])
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        (SINGLE, torch.rand(5), "labels must be class numbers, int64, shape (5,), found torch.float32 of shape (5,)"),
        ({}, torch.ones(5, dtype=torch.bool), "found torch.bool of shape (5,)"),
        ({}, torch.zeros(4, dtype=torch.int64), "found torch.int64 of shape (4,)"),
        ({}, torch.zeros(5, 3, dtype=torch.int64), "found torch.int64 of shape (5, 3)"),
        ({}, torch.tensor([0, 1, 2, 3, 0]), "labels must be among the classes of id2label={0: 'LABEL_0'"),
        ({}, torch.tensor([0, 1, 2, -1, 0]), "or -100 = not known"),
        (MULTI, torch.rand(5, 2), "labels of problem_type='multi_label_classification' must have shape (5, 3), found"),
        ({"num_labels": 1}, torch.rand(4), "labels of problem_type='regression' must have shape (5, 1), found (4, 1)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(fields, labels, message):
    config = small_config(**{"num_labels": 3} | fields)
    with pytest.raises(ValueError, match=re.escape(message)):
        classification_loss(config, torch.from_numpy(LOGITS[:, : config.num_labels]), labels)


# Targets


def test_predictions_are_in_the_units_of_the_targets():
    found = ask(constant_head("regression", [1.0, -2.0]), 2)
    assert found.predictions.tolist() == [[5800.0, 3.0]] * 2
    assert found.uncertainties is None and found.loss is None


@pytest.mark.parametrize("scale", [None, [2.0, 0.5]])
def test_uncertainties_are_in_the_units_of_the_targets(scale):
    head = constant_head("regression", [1.0, -2.0, 0.7, -1.0], predict_uncertainty=True, uncertainty_scale=scale)
    found = ask(head)
    spreads = np.log1p(np.exp(np.array([0.7, -1.0]) + np.log(np.e - 1))) + 1e-3
    expected = spreads * [800.0, 0.5] * np.array(scale or [1, 1])
    assert found.predictions.tolist() == [[5800.0, 3.0]]
    np.testing.assert_allclose(found.uncertainties[0].detach(), expected, rtol=1e-9)


def test_a_new_head_claims_the_spread_of_the_training_set():
    found = ask(constant_head("regression", [0.0] * 4, predict_uncertainty=True))
    np.testing.assert_allclose(found.uncertainties.detach(), [[800.8, 0.5005]], rtol=1e-9)


def test_the_loss_of_targets_is_that_of_standardised_ones_that_are_known():
    head = constant_head("regression", [1.0, -2.0])
    labels = torch.tensor([[5000.0, 4.5], [torch.nan, 4.0], [torch.nan, torch.nan]], dtype=torch.float64)
    expected = ((1 - 0) ** 2 + (-2 - 1) ** 2) / 2, (-2 - 0) ** 2, 0
    assert ask(head, 3, labels).loss.item() == pytest.approx(sum(expected) / 3, rel=1e-12)


def test_calibration_does_not_change_the_loss():
    labels = torch.tensor([[5000.0, 4.5]], dtype=torch.float64)
    losses = [
        ask(constant_head("regression", [1.0, 0, 1, 0], predict_uncertainty=True, uncertainty_scale=scale), 1, labels)
        for scale in (None, [3.0, 4.0])
    ]
    assert losses[0].loss == losses[1].loss


def test_the_loss_with_uncertainties_is_the_beta_nll():
    rng = np.random.default_rng(1)
    values, spreads, labels = rng.normal(size=(4, 2)), rng.uniform(0.2, 2, (4, 2)), rng.normal(size=(4, 2))
    labels[0, 1] = labels[3] = np.nan
    tensors = [torch.from_numpy(array).requires_grad_() for array in (values, spreads)]
    loss = regression_loss(*tensors, torch.from_numpy(labels))
    residual = (values - labels) / spreads
    each = spreads * (residual**2 / 2 + np.log(spreads))  # variance ** 0.5 times the Gaussian's, but for a constant
    assert loss.item() == pytest.approx((each[0, 0] + each[1].mean() + each[2].mean()) / 4, rel=1e-12)
    loss.backward()
    shares = np.array([[1, 0], [0.5, 0.5], [0.5, 0.5], [0, 0]]) / 4
    # The weight is no part of the gradient.
    np.testing.assert_allclose(tensors[0].grad, shares * np.nan_to_num(residual), atol=1e-12)
    np.testing.assert_allclose(tensors[1].grad, shares * np.nan_to_num(1 - residual**2), atol=1e-12)


def test_a_single_target_takes_one_number_per_spectrum():
    fields = {"target_names": ["age"], "target_mean": 3.0, "target_std": 2.0}
    head = constant_head("regression", [0.5], **fields)
    for labels in (torch.tensor([5.0, torch.nan]), torch.tensor([[5.0], [torch.nan]]), torch.tensor([5, 4])):
        found = ask(head, 2, labels)
        # 5 is half a deviation from 0.5 deviations, and 4 none.
        assert found.loss.item() == pytest.approx(0.25 / 2)
    assert found.predictions.tolist() == [[4.0], [4.0]]


def test_a_regression_head_needs_names():
    with pytest.raises(
        ValueError, match=r"needs target_names, found none: pass target_names.*target_fields makes them"
    ):
        RegressionHead(small_config(), SIZE)


@pytest.mark.parametrize("missing", ["target_mean", "target_std"])
def test_training_needs_moments_and_predicting_does_not(missing):
    head = constant_head("regression", [1.0, -2.0], **{missing: None})
    assert ask(head).predictions.isfinite().all()
    with pytest.raises(ValueError, match=r"training on \['teff', 'logg'\] needs target_mean and target_std"):
        ask(head, 1, torch.ones(1, 2))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (torch.ones(3), "torch.float32 of shape (3,)"),
        (torch.ones(3, 1), "torch.float32 of shape (3, 1)"),
        (torch.ones(2, 2), "torch.float32 of shape (2, 2)"),
        (torch.ones(3, 2, dtype=torch.bool), "torch.bool of shape (3, 2)"),
    ],
)
def test_labels_that_are_no_targets_are_refused(labels, found):
    where = "in their units and NaN where they are not known"
    expected = f"labels must be numbers, shape (3, 2) for ['teff', 'logg'], {where}, found {found}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        ask(constant_head("regression", [0.0, 0.0]), 3, labels)


# Redshifts


def gaussian_head(position, sigma, **fields):
    """A head whose posterior is a Gaussian around a position, sampled at the nodes."""
    bins = small_config(**fields).redshift_bins
    return constant_head("redshift", -0.5 * ((torch.arange(bins) - position) / sigma) ** 2, **fields)


DEFAULTS = {"redshift_bins": 512, "redshift_range": (-0.01, 6.0)}


@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("redshift", [0.0, 0.0123, 0.5, 1.7001, 3.14159, 5.9])
def test_redshifts_between_nodes_are_found(redshift, sigma):
    config = small_config(**DEFAULTS)
    position = redshift_position(config, torch.tensor(redshift, dtype=torch.float64)).item()
    found = ask(gaussian_head(position, sigma, **DEFAULTS))
    assert redshift_position(config, found.redshift).item() == pytest.approx(position, abs=0.01)  # of a bin
    assert found.zwarn.item() == 0 and found.confidence.item() > 0.99
    assert found.posterior.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(("sigma", "limit"), [(3.0, 0.03), (8.0, 0.01)])
def test_the_uncertainty_of_a_gaussian_is_its_standard_deviation(sigma, limit):
    found = ask(gaussian_head(250.3, sigma, **DEFAULTS))
    _, step = node_grid(small_config(**DEFAULTS))
    expected = (1 + found.redshift.item()) * np.sinh(sigma * step)  # in redshift
    assert found.uncertainty.item() == pytest.approx(expected, rel=limit)


def test_the_posterior_and_its_loss_are_those_of_the_logits():
    logits = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = constant_head("redshift", logits, redshift_temperature=2.0)
    nodes = redshift_nodes(head.config)
    found = ask(head, 3, torch.stack([nodes[4], torch.tensor(torch.nan).double(), nodes[9]]))
    weights = (logits / 2).exp()
    torch.testing.assert_close(found.posterior[0], weights / weights.sum())
    assert found.loss.item() == pytest.approx(-(weights[[4, 9]] / weights.sum()).log().sum().item() / 3, rel=1e-6)


def test_the_window_holds_what_lies_within_the_velocity():
    config = small_config(**DEFAULTS)
    reach = round(3000 / 299792.458 / node_grid(config)[1])
    assert reach == 3
    probabilities = torch.zeros(512).double()
    probabilities[[97, 100, 103, 300]] = torch.tensor([0.2, 0.3, 0.3, 0.2]).double()
    found = ask(constant_head("redshift", (probabilities + 1e-300).log(), **DEFAULTS))
    assert found.confidence.item() == pytest.approx(0.8)
    centroid = (97 * 0.2 + 100 * 0.3 + 103 * 0.3) / 0.8
    expected = position_redshift(config, torch.tensor(centroid, dtype=torch.float64)).item()
    assert found.redshift.item() == pytest.approx(expected, abs=1e-9)
    assert found.zwarn.item() == ZWARN_BITS["low confidence"]


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(
    ("position", "edge"), [(0, True), (511, True), (3, False), (2.63, False), (508, False), (256, False)]
)
def test_redshifts_at_the_edge_are_flagged(position, edge, sigma):
    flag = ask(gaussian_head(position, sigma, **DEFAULTS)).zwarn.item()
    assert bool(flag & ZWARN_BITS["at the edge of redshift_range"]) == edge
    assert not flag & ZWARN_BITS["no valid patch"]


@pytest.mark.parametrize(("confidence", "flag"), [(0.7, 0), (0.9, 1)])
def test_low_confidence_is_flagged(confidence, flag):
    found = ask(gaussian_head(200, 2.5, redshift_confidence=confidence, **DEFAULTS))
    assert 0.8 < found.confidence.item() < 0.9 and found.zwarn.item() == flag


def test_zwarn_bits_are_the_contract():
    assert ZWARN_BITS == {"low confidence": 1, "at the edge of redshift_range": 2, "no valid patch": 4}


def test_both_ends_of_the_range_are_redshifts():
    head = make_head("redshift")
    for dtype in (torch.float32, torch.float64):
        assert ask(head, 2, torch.tensor([-0.01, 6.0], dtype=dtype)).loss.isfinite()
    assert ask(head, 2, torch.tensor([[1.0], [torch.nan]])).loss.isfinite()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.1, 6.01]), "redshifts must lie within redshift_range=[-0.01, 6.0]: widen it"),
        (torch.tensor([0.1, -0.011]), "redshifts must lie within redshift_range=[-0.01, 6.0]: widen it"),
        (torch.tensor([0.1, torch.inf]), "redshifts must lie within"),
        (torch.tensor([0, 1]), "labels must be redshifts, float, shape (2,), NaN where they are not known, found"),
        (torch.tensor([True, False]), "found torch.bool of shape (2,)"),
        (torch.rand(3), "found torch.float32 of shape (3,)"),
        (torch.rand(2, 2), "found torch.float32 of shape (2, 2)"),
    ],
)
def test_labels_that_are_no_redshifts_are_refused(labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ask(make_head("redshift"), 2, labels)


# Labels of a data set


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["STAR", "QSO"], "found <U4 of shape (2,)"),
        ([True, False], "found bool of shape (2,)"),
        ([None, 1.0], "found object of shape (2,)"),
        ([0, 1, 2], "found int64 of shape (3,)"),
        (5, "found int64 of shape ()"),
    ],
)
def test_labels_of_a_data_set_are_numbers_one_entry_each(labels, found):
    spectra = simulate_survey("lamost", 2)
    with pytest.raises(
        ValueError, match=r"labels must be numbers, one entry for each of 2 spectra, " + re.escape(found)
    ):
        SpectrumDataset(spectra, SpectrumProcessor(), labels=labels)
    with pytest.raises(ValueError, match="found lazy=True: pass lazy=False"):
        SpectrumDataset(spectra, SpectrumProcessor(), labels=[0, 1], lazy=True)


def test_smoothing_is_a_velocity():
    """Two bins in km/s: the loss of the head is that of the function."""
    head, position = constant_head("redshift", torch.linspace(0, 1, 16), redshift_bins=16), torch.tensor([4.5])
    redshift = position_redshift(head.config, position.double())
    first, second = (position_redshift(head.config, torch.tensor([at])).log1p() for at in (0.0, 1.0))
    head.config.redshift_smoothing = float(2 * (second - first)) * 299_792.458  # two bins
    found = ask(head, 1, redshift).loss
    logits = torch.linspace(0, 1, 16)[None].double()
    assert found.item() == pytest.approx(redshift_loss(logits, position.double(), 2.0).item(), rel=1e-5)
