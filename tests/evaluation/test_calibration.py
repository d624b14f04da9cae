"""Calibration: factors and curves against their definitions, on errors whose law is known."""

import numpy as np
import pytest

from spectok_hf.evaluation.calibration import (
    conformal_factor,
    coverage_curve,
    pit_histogram,
    uncertainty_scale,
    uniformity,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gaussian(rng, scales, n=4000, missing=0.2):
    """Residuals whose scatter is `scales` times their uncertainties, some of them missing; (n, num_targets) each."""
    uncertainties = rng.uniform(0.5, 2, (n, len(scales)))
    residuals = rng.normal(size=uncertainties.shape) * uncertainties * scales
    residuals[rng.random(residuals.shape) < missing] = np.nan
    return residuals, uncertainties


def test_uncertainty_scale_finds_the_factor_of_each_target(rng):
    residuals, uncertainties = gaussian(rng, (0.5, 1.0, 3.0))
    factor = uncertainty_scale(residuals, uncertainties)
    np.testing.assert_allclose(factor, (0.5, 1.0, 3.0), rtol=0.05)
    ratio = np.abs(residuals) / (factor * uncertainties)
    known = np.isfinite(residuals).sum(0)
    inside = (ratio <= 1).sum(0)
    np.testing.assert_array_equal(inside, np.ceil((known + 1) * 0.6826894921))


def test_factor_is_the_order_statistic_by_hand():
    residuals = np.array([-9.0, 1, -2, 3, 8, -5, 4, 7, 6])
    ones = np.ones(9)
    assert conformal_factor(residuals, ones).tolist() == [9]  # rank ceil(10 * 0.9) = 9 of 9
    assert conformal_factor(residuals, ones, level=0.8).tolist() == [8]
    assert conformal_factor(residuals, 2 * ones, level=0.75).tolist() == [4]  # rank ceil(7.5) = 8, 8 / 2
    assert conformal_factor(residuals, ones, level=1e-12).tolist() == [1]
    assert uncertainty_scale(residuals, ones).tolist() == [7]  # rank ceil(6.83)


@pytest.mark.parametrize(("level", "least"), [(0.9, 9), (0.95, 19), (0.5, 1), (0.99, 99), (0.68, 3)])
def test_too_few_labels_for_a_level_name_the_least_number(level, least):
    residuals = np.arange(1.0, least + 1)
    assert conformal_factor(residuals, np.ones(least), level) == [least]
    short = np.append(residuals[1:], np.nan)
    with pytest.raises(
        ValueError, match=f"target 0 has {least - 1} labels, and level {level} needs at least {least}:"
    ):
        conformal_factor(short, np.ones(least), level)


def test_a_target_without_labels_is_named():
    residuals = np.stack([np.ones(20), np.full(20, np.nan)], axis=1)
    with pytest.raises(ValueError, match="target 1 has 0 labels"):
        conformal_factor(residuals, np.ones((20, 2)))
    with pytest.raises(ValueError, match="found none for target 1"):
        coverage_curve(residuals, np.ones((20, 2)), [0.5])
    with pytest.raises(ValueError, match="target 0 has 0 labels"):
        uncertainty_scale(np.zeros(0), np.zeros(0))


def test_conformal_intervals_hold_their_share_whatever_the_errors_look_like(rng):
    """Mean over draws of the calibration set: ceil((n + 1) level) / (n + 1), by exchangeability."""
    n, draws, level = 30, 1000, 0.9
    held = []
    for _ in range(draws):
        errors = rng.standard_t(2, n + 1) ** 3
        held.append(abs(errors[0]) <= conformal_factor(errors[1:], np.ones(n), level)[0])
    expected = 28 / 31
    assert np.mean(held) == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / draws))


def test_coverage_curve_by_hand():
    residuals = np.array([[0.5, 1.5], [-1.5, np.nan], [2.5, 0.1], [0.1, np.nan]])
    observed, error = coverage_curve(residuals, np.ones((4, 2)), [0.6827, 0.9545])  # within 1 and 2
    np.testing.assert_array_equal(observed, [[0.5, 0.5], [0.75, 1.0]])
    np.testing.assert_allclose(error[0], np.sqrt(0.6827 * 0.3173 / np.array([4, 2])))
    assert error.shape == (2, 2)


def test_coverage_curve_lies_on_the_diagonal_for_honest_uncertainties_only(rng):
    levels = np.linspace(0.05, 0.95, 10)
    residuals, uncertainties = gaussian(rng, (1.0, 2.0))
    observed, error = coverage_curve(residuals, uncertainties, levels)
    deviation = (observed - levels[:, None]) / error
    assert np.abs(deviation[:, 0]).max() < 4
    assert (deviation[:, 1] < -4).all()
    scaled, _ = coverage_curve(residuals, uncertainties * uncertainty_scale(residuals, uncertainties), levels)
    assert np.abs((scaled - levels[:, None]) / error).max() < 4


@pytest.mark.parametrize("levels", [[0.0], [0.5, 1.0], [90], [np.nan]])
def test_levels_are_shares(levels):
    with pytest.raises(ValueError, match="a level must be a share between 0 and 1"):
        coverage_curve(np.ones(9), np.ones(9), levels)
    with pytest.raises(ValueError, match="a level must be a share between 0 and 1"):
        conformal_factor(np.ones(9), np.ones(9), levels[-1])


def test_no_levels_are_refused():
    with pytest.raises(ValueError, match="at least one level"):
        coverage_curve(np.ones(9), np.ones(9), [])


@pytest.mark.parametrize(
    ("residuals", "uncertainties", "message"),
    [
        (np.ones(9), np.ones((9, 1)), r"the same shape, found \(9,\) and \(9, 1\)"),
        (
            np.ones(9),
            np.zeros(9),
            "positive and finite wherever residuals are not NaN, found 9 that are not, such as 0",
        ),
        (np.ones(9), np.full(9, np.nan), "found 9 that are not, such as nan"),
        (np.full(9, np.inf), np.ones(9), "no infinite values, found shape .* 9 infinite values"),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), r"must have shape \(n,\) or \(n, num_targets\)"),
    ],
)
def test_inputs_are_checked(residuals, uncertainties, message):
    with pytest.raises(ValueError, match=message):
        uncertainty_scale(residuals, uncertainties)


def test_uncertainties_of_missing_labels_may_hold_anything():
    residuals = np.array([1.0, np.nan, 2.0, np.nan, 3.0, np.nan])
    garbage = np.array([1.0, 0.0, 1.0, np.nan, 1.0, np.inf])
    assert uncertainty_scale(residuals, garbage) == uncertainty_scale(residuals[[0, 2, 4]], np.ones(3)) == [3]


def test_uniformity_by_hand():
    pit = np.concatenate([np.full(12, 0.25), np.full(8, 0.75), [np.nan]])
    counts, error, p_value = uniformity(pit, bins=2)
    assert counts.tolist() == [[12], [8]]
    assert error[0] == pytest.approx(np.sqrt(20 * 0.5 * 0.5))
    # chi-square 4 / 10 + 4 / 10 = 0.8 with one degree of freedom: erfc(sqrt(0.8 / 2))
    assert p_value[0] == pytest.approx(0.37109337, abs=1e-7)


def test_pit_histogram_by_hand_and_with_few_values():
    pit = np.stack([[0.1, 0.2, 0.9, np.nan], [0.5, 1.0, 1.0, 0.5]], axis=1)
    counts, error, chi_square = pit_histogram(pit, bins=2)
    assert counts.tolist() == [[2, 0], [1, 4]]  # a value at an inner edge belongs to the bin above
    np.testing.assert_allclose(error, np.sqrt([3 / 4, 4 / 4]))
    np.testing.assert_allclose(chi_square, [0.25 / 1.5 * 2, 4 / 2 * 2])
    with pytest.raises(ValueError, match="each bin needs 5 values or more on average, found 2 bins for 3 values"):
        uniformity(pit, bins=2)
    with pytest.raises(ValueError, match="found 10 bins for 0 values: every target needs a value"):
        pit_histogram(pit * [1, np.nan])


def test_uniformity_agrees_with_scipy_per_target(rng):
    stats = pytest.importorskip("scipy.stats")
    pit = np.stack([rng.random(500), rng.random(500) ** 1.5, rng.beta(1.2, 1.2, 500)], axis=1)
    counts, _, p_value = uniformity(pit, bins=8)
    np.testing.assert_allclose(p_value, stats.chisquare(counts).pvalue, rtol=1e-6)


def test_p_value_of_flat_transforms_is_itself_flat(rng):
    _, _, p_value = uniformity(rng.random((1000, 400)))
    assert np.mean(p_value < 0.1) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 400))
    assert np.mean(p_value < 0.5) == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 400))


def test_uniformity_counts_the_ends_and_refuses_what_is_no_probability():
    counts, _, _ = uniformity(np.array([0.0] * 5 + [1.0] * 5), bins=2)
    assert counts.ravel().tolist() == [5, 5]
    with pytest.raises(ValueError, match=r"pit must be between 0 and 1, found 0.5 to 1.5"):
        uniformity(np.array([0.5, 1.5, np.nan]))
    for bins, count in ((10, 49), (1, 100)):
        with pytest.raises(ValueError, match=f"found {bins} bins for {count} values"):
            uniformity(np.append(np.full(count, 0.5), np.nan), bins=bins)
