from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectok_hf.models.patches import (
    count_patches,
    cut_patches,
    cut_wavelength,
    estimate_width,
    fill_gaps,
    find_segments,
    interpolate,
    patch_geometry,
    patch_grid,
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


def slow_patches(segments, patch_size, overlap):
    """The pixels of each patch."""
    for segment in segments:
        first = segment.start
        while True:
            yield list(range(first, min(first + patch_size, segment.stop)))
            if first + patch_size >= segment.stop:
                break
            first += patch_size - overlap


def padded(row, patch_size, fill):
    return row + [fill] * (patch_size - len(row))


@st.composite
def overlapping(draw):
    """Segments, a patch size and an overlap."""
    edges = np.cumsum([0, *draw(st.lists(st.integers(1, 100), min_size=1, max_size=5))]).tolist()
    patch_size = draw(st.integers(2, 40))
    return [slice(a, b) for a, b in pairwise(edges)], patch_size, draw(st.integers(0, patch_size // 2))


@given(overlapping())
def test_overlapping_patches_are_those_of_the_plain_way(case):
    segments, patch_size, overlap = case
    expected = list(slow_patches(segments, patch_size, overlap))
    assert count_patches(segments, patch_size, overlap) == len(expected)
    index = patch_index(segments, patch_size, overlap)
    assert index.tolist() == [padded(row, patch_size, -1) for row in expected]
    values = np.random.default_rng(0).normal(size=segments[-1].stop)
    cut = cut_patches(values, segments, np.full(index.shape, np.nan), overlap)
    assert cut.tolist() == [padded([values[pixel] for pixel in row], patch_size, 0) for row in expected]
    np.testing.assert_array_equal(patchify(values, index, 0), cut)
    assert np.bincount(index[index >= 0]).max() <= 2


@given(overlapping(), st.integers(0, 9))
@settings(deadline=None, max_examples=50)
def test_overlapping_patches_join_to_means(case, seed):
    segments, patch_size, overlap = case
    index = patch_index(segments, patch_size, overlap)
    rng = np.random.default_rng(seed)
    beyond = rng.normal(size=(2, patch_size))  # padding of a batch
    patches = np.concatenate([rng.normal(size=index.shape), beyond])
    counted = rng.random(patches.shape) < 0.5
    places = [np.argwhere(index == pixel) for pixel in range(segments[-1].stop)]
    means = np.array([np.mean([patches[row, column] for row, column in where]) for where in places])
    np.testing.assert_allclose(unpatchify(patches, index), means)
    of_counted = []
    for where, mean in zip(places, means, strict=True):
        some = [patches[row, column] for row, column in where if counted[row, column]]
        of_counted.append(np.mean(some) if some else mean)
    np.testing.assert_allclose(unpatchify(patches, index, counted), of_counted)
    anywhere = [any(counted[row, column] for row, column in where) for where in places]
    assert unpatchify(counted, index).tolist() == anywhere
    np.testing.assert_array_equal(unpatchify(patchify(means, index, np.nan), index), means)


@pytest.mark.parametrize(("dtype", "joined"), [("f4", "f4"), ("f8", "f8"), ("i8", "f8"), ("?", "?")])
def test_joined_values_keep_their_type_unless_a_mean_needs_another(dtype, joined):
    patches = np.zeros((2, 4), dtype)
    patches[0] = 1
    assert unpatchify(patches, patch_index([slice(0, 8)], 4)).dtype == np.dtype(dtype)
    mean = unpatchify(patches, patch_index([slice(0, 6)], 4, 2))
    assert mean.dtype == np.dtype(joined)
    assert mean.tolist() == [1, 1, *[0.5 if joined != "?" else 1] * 2, 0, 0]


@given(overlapping())
def test_wavelengths_go_on_into_the_padding_of_overlapping_patches(case):
    segments, patch_size, overlap = case
    wavelength = 4000 + np.cumsum(np.random.default_rng(0).uniform(1, 2, segments[-1].stop))
    shape = (count_patches(segments, patch_size, overlap), patch_size)
    extended = cut_wavelength(wavelength, segments, np.empty(shape), overlap)
    for row, found in zip(slow_patches(segments, patch_size, overlap), extended, strict=True):
        step = wavelength[row[-1]] - wavelength[row[-2]] if len(row) > 1 else 1
        missing = wavelength[row[-1]] + step * np.arange(1, patch_size - len(row) + 1)
        np.testing.assert_allclose(found, [*wavelength[row], *missing], rtol=1e-12)


@given(st.lists(st.integers(0, 600), max_size=4), st.integers(3, 700), st.floats(1.1, 8), st.integers(0, 9))
def test_gaps_are_found_as_by_a_median_of_every_block(places, length, gap_factor, seed):
    rng = np.random.default_rng(seed)
    step = rng.uniform(1, 2, length - 1) * (1 + np.arange(length - 1) / 100)
    for place in places:
        step[place % len(step)] *= rng.uniform(1, 20)
    wavelength = 4000 + np.cumsum([0, *step])
    step = np.diff(wavelength)
    blocks = np.array_split(step, max(len(step) // 64, 1))
    typical = np.concatenate([np.full(len(block), np.median(block)) for block in blocks])
    expected = [0, *(np.flatnonzero(step > gap_factor * typical) + 1).tolist()]
    assert [segment.start for segment in find_segments(wavelength, gap_factor)] == expected


def test_wavelengths_go_on_into_the_padding():
    segments = find_segments(ARMS, 5.0)
    index = patch_index(segments, 32)
    extended = cut_wavelength(ARMS, segments, np.empty((count_patches(segments, 32), 32)))
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


def geometry(*arms, patch_size=10):
    """Centre and width of patches of 1 Å pixels that begin at each of `arms`, and a padding patch."""
    centre = torch.tensor([[*(start + patch_size / 2 - 0.5 for start in arms), 0.0]])
    return centre, torch.where(centre > 0, patch_size, 0.0)


def test_a_patch_does_not_move_when_pixels_go_bad():
    wavelength = (5000 + 2 * torch.arange(64.0)).view(1, 2, 32)
    known = torch.ones(1, 2, 32, dtype=torch.bool)
    known[0, 0, :15] = False
    for some in (known, torch.ones_like(known)):
        centre, width = patch_geometry(fill_gaps(wavelength, some, extrapolate=True), some)
        torch.testing.assert_close(centre, torch.tensor([[5031.0, 5095.0]]))
        torch.testing.assert_close(width, torch.tensor([[64.0, 64.0]]))
    torch.testing.assert_close(patch_grid(centre, width, 32), wavelength.double())


def test_widths_are_told_from_neighbours_but_not_across_gaps():
    centre, width = geometry(5000, 5010, 5020, 6000, 6010)
    torch.testing.assert_close(estimate_width(centre), width)
    torch.testing.assert_close(estimate_width(centre.flip(1)), width.flip(1))
    with pytest.raises(ValueError, match=r"lone token.*pass token_width="):
        estimate_width(torch.tensor([[5000.0, 0.0]]))


def test_gaps_between_arms_are_not_covered():
    centre, width = geometry(5000, 5010, 6000)
    wavelength = torch.tensor([[[4999.0, 5000, 5019, 5020, 5500, 5999, 6000, 6010]]])
    covered = token_coverage(wavelength, centre, width, centre > 0)
    assert covered.tolist() == [[[False, True, True, False, False, False, True, False]]]
    bad = torch.tensor([[True, False, True, False]])
    assert not token_coverage(wavelength, centre, width, bad)[0, 0, 2]


@given(st.permutations(range(6)))
def test_neighbouring_patches_cover_all_between_them_in_any_order(order):
    wavelength = torch.from_numpy(10 ** (3.6 + 1e-4 * np.arange(192.0))).float().view(1, 6, 32)[:, order]
    centre, width = patch_geometry(wavelength, torch.ones_like(wavelength, dtype=torch.bool))
    request = torch.linspace(wavelength.min(), wavelength.max(), 5000).view(1, 1, -1)
    assert token_coverage(request, centre, width, centre > 0).all()


def test_interpolation_is_linear_and_held_beyond_the_ends():
    grid = torch.tensor([[3.0, 1.0, 2.0, torch.inf]], dtype=torch.float64)
    values = torch.tensor([[30.0, 10.0, 20.0, 99.0]])
    wavelength = torch.tensor([[0.0, 1.0, 1.5, 2.9, 3.0, 8.0]])
    torch.testing.assert_close(interpolate(wavelength, grid, values), torch.tensor([[10.0, 10, 15, 29, 30, 30]]))


def test_weights_of_the_patch_pca_count_patches():
    rng = np.random.default_rng(0)
    patches, weights = rng.normal(size=(200, 8)) @ rng.normal(size=(8, 8)), rng.integers(1, 5, 200)
    mean, components = patch_pca(patches, 3, weights)
    repeated_mean, repeated = patch_pca(np.repeat(patches, weights, axis=0), 3)
    np.testing.assert_allclose(mean, repeated_mean)
    np.testing.assert_allclose(np.abs(components @ repeated.T), np.eye(3), atol=1e-9)
