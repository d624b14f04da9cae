"""The posterior's arithmetic, against a density that is drawn pixel by pixel and integrated numerically."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectok_hf import SpecTokConfig
from spectok_hf.models.redshift_posterior import (
    LIGHT_SPEED,
    node_grid,
    position_redshift,
    posterior_cdf,
    quantile,
    redshift_loss,
    redshift_nodes,
    redshift_position,
    window_sums,
)

BINS = 12
FINE = np.linspace(0, BINS - 1, 1000 * (BINS - 1) + 1)  # all nodes are among them, so that trapezoids are exact
CONFIG = SpecTokConfig(redshift_range=(-0.01, 1.0), redshift_bins=BINS)


def drawn_logits(count=5, seed=0, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return sharpness * torch.randn(count, BINS, generator=generator, dtype=torch.float64)


def density(logits, positions):
    """Of one spectrum, per bin, at any positions: linear between the nodes, of integral 1."""
    nodes = np.exp(np.asarray(logits) - np.max(np.asarray(logits)))
    drawn = np.interp(FINE, np.arange(BINS), nodes)
    return np.interp(positions, np.arange(BINS), nodes) / np.trapezoid(drawn, FINE)


def probability_below(logits, position):
    below = np.append(FINE[position > FINE], position)
    return np.trapezoid(density(logits, below), below)


# The grid


def test_nodes_run_from_the_least_to_the_largest_redshift_evenly_in_velocity():
    nodes = redshift_nodes(CONFIG)
    assert nodes.dtype == torch.float64 and nodes.shape == (BINS,)
    assert nodes[[0, -1]].tolist() == pytest.approx([-0.01, 1.0])
    ratios = (1 + nodes[1:]) / (1 + nodes[:-1])
    assert ratios.tolist() == pytest.approx([(2.0 / 0.99) ** (1 / (BINS - 1))] * (BINS - 1))
    first, step = node_grid(CONFIG)
    assert (first, step) == pytest.approx((np.log(0.99), np.log(2 / 0.99) / (BINS - 1)))
    assert pytest.approx(299792.458) == LIGHT_SPEED


@given(st.floats(-0.01, 1.0))
def test_position_and_redshift_are_inverse(redshift):
    position = redshift_position(CONFIG, torch.tensor(redshift, dtype=torch.float64))
    assert 0 <= position <= BINS - 1
    assert position_redshift(CONFIG, position).item() == pytest.approx(redshift, abs=1e-14)
    expected = (BINS - 1) * (np.log1p(redshift) - np.log(0.99)) / np.log(2 / 0.99)
    assert position.item() == pytest.approx(expected, abs=1e-12)


def test_positions_stay_among_the_nodes_and_nan_stays_nan():
    found = redshift_position(CONFIG, torch.tensor([-0.5, 9.0, torch.nan]))
    assert found[:2].tolist() == [0, BINS - 1] and found[2].isnan()


# Probabilities


def test_the_cdf_is_the_integral_of_the_density():
    logits = drawn_logits()
    posterior = logits.softmax(-1)
    for position in (0.0, 0.3, 1.0, 4.999, 5.0, 7.25, BINS - 1.001, BINS - 1.0):
        found = posterior_cdf(posterior, torch.full((5,), position, dtype=torch.float64))
        expected = [probability_below(row, position) for row in logits]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_cdf_rises_from_0_to_1():
    positions = torch.from_numpy(FINE[::50])
    posterior = drawn_logits(1, sharpness=6.0).softmax(-1).expand(len(positions), -1)
    found = posterior_cdf(posterior, positions)
    assert found[0] == 0 and found[-1].item() == pytest.approx(1, abs=1e-15)
    assert (found.diff() >= 0).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_a_quantile_leaves_its_share_below_it(seed, share):
    posterior = drawn_logits(4, seed).softmax(-1)
    position = quantile(posterior, share)
    assert ((position >= 0) & (position <= BINS - 1)).all()
    # Within a bin the cdf is quadratic, and the quantile takes the chord.
    total = posterior.sum(-1) - (posterior[:, 0] + posterior[:, -1]) / 2
    bound = posterior.diff(dim=-1).abs().amax(-1) / 8 / total
    assert ((posterior_cdf(posterior, position) - share).abs() <= bound + 1e-12).all()


def test_quantiles_of_an_even_posterior_are_exact():
    even = torch.full((1, BINS), 1 / BINS, dtype=torch.float64)
    for share in (0.0, 0.1587, 0.5, 0.95, 1.0):
        assert quantile(even, share).item() == pytest.approx(share * (BINS - 1), abs=1e-12)


def test_quantiles_at_nodes_are_exact():
    posterior = drawn_logits(3).softmax(-1)
    at_node = posterior_cdf(posterior, torch.full((3,), 6.0, dtype=torch.float64))
    for row, share in enumerate(at_node.tolist()):
        assert quantile(posterior[row : row + 1], share).item() == pytest.approx(6, abs=1e-9)


def test_a_posterior_of_one_node_is_finite():
    sure = torch.eye(BINS)[[0, 5, BINS - 1]]
    assert quantile(sure, 0.5).tolist() == [0.5, 5.0, BINS - 1.5]
    assert posterior_cdf(sure, torch.tensor([0.0, 5.0, BINS - 1.0])).tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("reach", [1, 3, BINS])
def test_window_sums_are_sums_over_windows(reach):
    posterior = drawn_logits(2).softmax(-1)
    expected = [
        [row[max(node - reach, 0) : node + reach + 1].sum().item() for node in range(BINS)] for row in posterior
    ]
    np.testing.assert_allclose(window_sums(posterior, reach), expected, atol=1e-15)


# The loss


def test_the_loss_is_that_of_the_integrated_density():
    logits = drawn_logits(6)
    position = torch.tensor([0.0, 0.25, 4.0, 6.9, BINS - 1.25, BINS - 1.0], dtype=torch.float64)
    nodes = logits.exp() / logits.exp().sum(-1, keepdim=True)
    expected = [
        -np.interp(at, np.arange(BINS), np.log(row)) for row, at in zip(nodes.numpy(), position.numpy(), strict=True)
    ]
    assert redshift_loss(logits, position).item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_a_sharp_posterior_tells_a_redshift_between_two_nodes():
    """Trained on one redshift it shares itself between the nodes about it, and its mean is the truth."""
    logits = torch.zeros(1, BINS, dtype=torch.float64, requires_grad=True)
    position = torch.tensor([4.3], dtype=torch.float64)
    optimizer = torch.optim.LBFGS([logits], max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = redshift_loss(logits, position)
        loss.backward()
        return loss

    optimizer.step(closure)
    posterior = logits.detach().softmax(-1)[0]
    np.testing.assert_allclose(posterior[4:6], [0.7, 0.3], atol=1e-3)
    assert (posterior * torch.arange(BINS)).sum().item() == pytest.approx(4.3, abs=1e-2)


def test_with_a_width_the_truth_is_a_gaussian():
    logits, position = drawn_logits(2), torch.tensor([3.2, 7.5], dtype=torch.float64)
    shares = np.exp(-0.5 * ((np.arange(BINS) - position.numpy()[:, None]) / 1.5) ** 2)
    shares /= shares.sum(-1, keepdims=True)
    expected = -(shares * logits.log_softmax(-1).numpy()).sum(-1).mean()
    assert redshift_loss(logits, position, 1.5).item() == pytest.approx(expected, rel=1e-12)


def test_unknown_positions_count_as_0_and_give_no_gradient():
    logits = drawn_logits(3).requires_grad_()
    position = torch.tensor([torch.nan, 4.5, torch.nan], dtype=torch.float64)
    loss = redshift_loss(logits, position)
    expected = -logits[1].detach().log_softmax(-1)[4:6].mean() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    assert not logits.grad[[0, 2]].any() and logits.grad[1].any() and logits.grad.isfinite().all()


def test_the_loss_does_not_depend_on_a_constant_and_holds_at_the_extremes():
    logits = drawn_logits(3)
    position = torch.tensor([0.0, 4.5, BINS - 1.0], dtype=torch.float64)
    loss = redshift_loss(logits, position)
    assert redshift_loss(logits + 50, position).item() == pytest.approx(loss.item(), rel=1e-12)
    far = torch.zeros(1, BINS).index_fill(1, torch.tensor([0]), 500.0).requires_grad_()  # sure, and wrong
    wrong = redshift_loss(far, torch.tensor([BINS - 1.0]))
    wrong.backward()
    assert wrong.item() == pytest.approx(500, rel=1e-6) and far.grad.isfinite().all()


def test_the_loss_is_least_where_the_posterior_is_the_truth_at_the_nodes():
    """A proper score: trained on draws from a density, the nodes get what of it is nearest to each."""
    share = torch.from_numpy(density(drawn_logits(1, sharpness=1.0)[0], FINE[::100]))
    positions = torch.from_numpy(FINE[::100])
    weights = share / share.sum()
    nearness = (1 - (positions[:, None] - torch.arange(BINS)).abs()).clamp(min=0)
    best = (weights @ nearness).log()[None].requires_grad_()
    losses = torch.stack([redshift_loss(best, at[None]) for at in positions])
    (weights @ losses).backward()
    assert best.grad.abs().max() < 1e-12
