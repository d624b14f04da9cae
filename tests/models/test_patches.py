from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectok_hf.models.patches import (
    extend_wavelength,
    fill_gaps,
    find_segments,
    nearest_token,
    patch_index,
    patch_pca,
    patchify,
    token_coverage,
    unpatchify,
    valid_patches,
)

ARMS = np.concatenate([np.arange(4713, 4903, 0.046), np.arange(5648, 5873, 0.055), np.arange(6478, 6737, 0.063)])


def test_segments_end_at_detector_gaps_only():
    segments = find_segments(ARMS, 5.0)
    assert [round(ARMS[s.start]) for s in segments] == [4713, 5648, 6478]
    assert sum(s.stop - s.start for s in segments) == len(ARMS)
    assert find_segments(ARMS, None) == [slice(0, len(ARMS))]
    assert len(find_segments(10 ** (3.58 + 1e-4 * np.arange(4600)), 5.0)) == 1  # a log grid has no gap


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(1, 40))
def test_patches_join_to_what_was_cut(lengths, patch_size):
    edges = np.cumsum([0, *lengths])
    segments = [slice(a, b) for a, b in pairwise(edges)]
    index = patch_index(segments, patch_size)
    values = np.random.default_rng(0).normal(size=edges[-1])
    np.testing.assert_array_equal(unpatchify(patchify(values, index, np.nan), index), values)
    assert (index >= 0).sum() == edges[-1]
    for row in index:  # no patch holds pixels of two segments
        assert len({int(np.searchsorted(edges, pixel, side="right")) for pixel in row[row >= 0]}) == 1


def test_wavelengths_go_on_into_the_padding():
    index = patch_index(find_segments(ARMS, 5.0), 32)
    extended = extend_wavelength(patchify(ARMS, index, 0), index)
    assert (np.diff(extended, axis=1) > 0).all()
    np.testing.assert_array_equal(unpatchify(extended, index), ARMS)


def test_a_patch_is_valid_with_more_than_half_of_its_pixels():
    good = torch.zeros(1, 3, 8, dtype=torch.bool)
    good[0, 0, :5], good[0, 1, :4] = True, True
    assert valid_patches(good).tolist() == [[True, False, False]]


def test_gaps_are_bridged_by_straight_lines_and_edges_held():
    values = torch.tensor([[[9.0, 1, 9, 9, 4, 9]]])
    known = torch.tensor([[[False, True, False, False, True, False]]])
    assert fill_gaps(values, known).tolist() == [[[1, 1, 2, 3, 4, 4]]]
    assert fill_gaps(values, known, extrapolate=True).tolist() == [[[0, 1, 2, 3, 4, 5]]]


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_unknown_values_never_matter_and_known_ones_stay(known, extrapolate):
    known = torch.tensor(known).view(1, 1, 8)
    line = torch.arange(8.0).view(1, 1, 8) * 0.5 + 3
    results = [
        fill_gaps(line.masked_fill(~known, garbage), known, extrapolate=extrapolate)
        for garbage in (0.0, float("nan"), 1e30)
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert torch.equal(results[0][known], line[known])
    assert results[0].isfinite().all()
    if extrapolate and known.sum() > 1:
        torch.testing.assert_close(results[0], line)
    if not known.any():
        assert not results[0].any()


def test_the_nearest_token_is_never_padding():
    tokens = torch.tensor([[5000.0, 5010, 6000, 0, 0]])
    wavelength = torch.tensor([[100.0, 5004, 5006, 5600, 1e4]])
    assert nearest_token(wavelength, tokens).tolist() == [[0, 0, 1, 2, 2]]


def test_gaps_between_arms_are_not_covered():
    tokens = torch.tensor([[5000.0, 5010, 5020, 6000, 6010, 0]])
    wavelength = torch.tensor([[[4994.0, 4996, 5024, 5026, 5500, 5994, 5996, 6016]]])
    covered = token_coverage(wavelength, tokens, torch.ones(1, 6, dtype=torch.bool))
    assert covered.tolist() == [[[False, True, True, False, False, False, True, False]]]


def test_tokens_between_which_pixels_are_bad_still_meet():
    tokens = torch.tensor([[5000.0, 5012, 5020, 5030]])  # the second patch lost its first pixels
    wavelength = torch.arange(4994.0, 5036).view(1, 1, -1)
    covered = token_coverage(wavelength, tokens, torch.ones(1, 4, dtype=torch.bool))
    assert torch.equal(covered, (wavelength >= 4993) & (wavelength <= 5035))


def test_a_lone_token_reaches_nowhere():
    wavelength = torch.tensor([[[4990.0, 5000, 5010]]])
    covered = token_coverage(wavelength, torch.tensor([[5000.0]]), torch.ones(1, 1, dtype=torch.bool))
    assert covered.tolist() == [[[False, True, False]]]


def test_weights_of_the_patch_pca_count_patches():
    rng = np.random.default_rng(0)
    patches, weights = rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)), rng.integers(1, 5, 200)
    mean, components = patch_pca(patches, 3, weights)
    repeated_mean, repeated = patch_pca(np.repeat(patches, weights, axis=0), 3)
    np.testing.assert_allclose(mean, repeated_mean)
    np.testing.assert_allclose(np.abs(components @ repeated.T), np.eye(3), atol=1e-9)
