"""Lines, maps and whole pictures beside plain references: loops, one pixel at a time."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectok_hf import Spectrum, SpectrumImageProcessor
from spectok_hf.models.drawing import (
    BLANK,
    ORDERS,
    SLICES,
    as_levels,
    between,
    block_average,
    colour_table,
    draw_line,
    fenced_limits,
    lay_out,
    read_cells,
    read_levels,
    thirds,
)
from spectok_hf.models.patches import find_segments
from spectok_hf.models.wavelength import air_to_vacuum, vacuum_to_air


def slow_line(x, y, joined, size, width):
    """What `draw_line` says it does: of every slice of a column, all between the ends of what a square pen touched."""
    points = [
        (width / 2 + a * (size - width), width / 2 + (1 - b) * (size - width)) for a, b in zip(x, y, strict=True)
    ]
    ink = np.zeros((size, size))
    for column in range(size):
        for part in range(SLICES):
            centre = column + (part + 0.5) / SLICES
            reach = max(width, 1 / SLICES) / 2
            left, right = centre - reach, centre + reach
            heights = [down for across, down in points if left <= across <= right]
            for (before, after), drawn in zip(pairwise(points), joined, strict=True):
                for side in (left, right):
                    if drawn and before[0] < side < after[0]:
                        share = (side - before[0]) / (after[0] - before[0])
                        heights.append(before[1] + share * (after[1] - before[1]))
            for row in range(size):
                if heights:
                    covered = min(max(heights) + width / 2, row + 1) - max(min(heights) - width / 2, row)
                    ink[row, column] += min(max(covered, 0), 1) / SLICES
    return ink


def random_line(count, rng, lifted=0.2):
    return np.sort(rng.random(count)), rng.random(count), rng.random(max(count - 1, 0)) > lifted


def horizontal(height, size=40, width=0.7):
    """A line all across, `height` pixels above the bottom."""
    up = (height - width / 2) / (size - width)
    return draw_line(np.array([0.0, 1.0]), np.full(2, up), np.array([True]), size=size, width=width)


# Lines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "width"), [(1, 0.1), (1, 0.7), (5, 0.1), (5, 3.0), (24, 0.1), (24, 0.7), (24, 3.0), (24, 10.0)]
)
@pytest.mark.parametrize("count", [1, 2, 7, 60])
def test_ink_is_that_of_the_plain_reference(size, width, count):
    line = random_line(count, np.random.default_rng(count))
    found = draw_line(*line, size=size, width=width)
    assert found.shape == (size, size) and found.dtype == np.float32
    np.testing.assert_allclose(found, slow_line(*line, size, width), atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.integers(2, 12), share=st.floats(0.02, 0.95), count=st.integers(1, 8))
def test_any_line_is_that_of_the_plain_reference(data, size, share, count):
    grid = st.integers(0, 24).map(lambda step: step / 24)  # points on edges of pixels and slices, and on each other
    x = sorted(data.draw(st.lists(grid, min_size=count, max_size=count, unique=data.draw(st.booleans()))))
    y = data.draw(st.lists(grid, min_size=count, max_size=count))
    joined = data.draw(st.lists(st.booleans(), min_size=count - 1, max_size=count - 1))
    width = size * share
    found = draw_line(np.array(x), np.array(y), np.array(joined, dtype=bool), size=size, width=width)
    # A side that meets a point to the last bit may count it or not, and touches the line a hair beside it then.
    shaken = [slow_line(np.array(x) + shift, y, joined, size, width) for shift in (-1e-12, 0, 1e-12)]
    assert np.min([np.abs(found - one).max(0) for one in shaken], axis=0).max() < 1e-5


def test_no_point_leaves_no_ink():
    empty = np.zeros(0)
    assert not draw_line(empty, empty, np.zeros(0, dtype=bool), size=8, width=0.7).any()


@pytest.mark.parametrize("width", [0.3, 0.7, 2.5])
def test_a_horizontal_line_has_the_ink_of_its_length_and_width(width):
    for height in (0.5 * width, 7.0, 7.3, 39.4 - 0.5 * width):
        assert horizontal(height, width=width).sum() == pytest.approx(40 * width, rel=5e-5)


def test_a_line_on_an_edge_between_pixels_is_shared_by_both():
    ink = horizontal(7.0)
    np.testing.assert_allclose(ink[[32, 33]], 0.35, atol=1e-5)  # rows from the top
    assert not np.delete(ink, [32, 33], axis=0).any()
    np.testing.assert_allclose(horizontal(7.5)[32], 0.7, atol=1e-5)


def test_ink_moves_smoothly_with_the_line():
    before = horizontal(7.0)
    for step in (0.01, 0.1, 0.3):
        moved = horizontal(7.0 + step)
        np.testing.assert_allclose(moved[32] - before[32], step, atol=1e-5)
        np.testing.assert_allclose(moved[33] - before[33], -step, atol=1e-5)
    line = random_line(9, np.random.default_rng(0), lifted=0)
    for name, shift in (("up", (0, 1e-3)), ("along", (1e-3, 0))):
        x, y = line[0] * 0.9 + shift[0], line[1] * 0.9 + shift[1]
        moved = draw_line(x, y, line[2], size=40, width=0.7)
        change = np.abs(moved - draw_line(line[0] * 0.9, line[1] * 0.9, line[2], size=40, width=0.7))
        # 0.04 pixels: up, no pixel can change by more; along, a slice that the pen no longer touches goes as a whole.
        assert change.max() <= (0.0401 if name == "up" else 1 / SLICES + 0.2) and change.mean() < 0.01


def test_a_spike_of_one_point_among_thousands_keeps_its_height():
    y = np.full(8000, 0.1)
    y[4321] = 1.0
    ink = draw_line(np.linspace(0, 1, 8000), y, np.ones(7999, dtype=bool), size=100, width=0.75)
    np.testing.assert_allclose(ink[5:75].sum(1), 0.75, atol=1e-5)  # quarters of a pixel
    assert not np.delete(ink[:85], [53, 54], axis=1).any() and ink[0].sum() > 0.3


def test_the_pen_is_lifted_over_gaps_wider_than_itself():
    x, y = np.array([0.1, 0.4, 0.6, 0.9]), np.full(4, 0.5)
    joined = np.array([True, False, True])
    assert not draw_line(x, y, joined, size=50, width=1.0)[:, 22:28].any()
    assert draw_line(x, y, joined, size=50, width=12.0)[:, 22:28].all(1).any()  # the gap is 7.6 pixels


def test_matplotlib_draws_the_same_lines(read_agg):
    rng = np.random.default_rng(5)
    smooth, rough = np.linspace(0, 1, 12), np.linspace(0, 1, 4000)
    walk = np.cumsum(rng.normal(size=4000))
    lines = {
        "twelve points": (smooth, rng.random(12)),
        "a spectrum": (rough, between(walk + rng.normal(size=4000), *fenced_limits(walk, None))),
    }
    for name, (x, y) in lines.items():
        own = draw_line(x, y, np.ones(len(x) - 1, dtype=bool), size=224, width=0.5 * 100 / 72)
        inset = 0.5 * 100 / 72 / 2 / 224  # where the middle of our pen stops, so that its side stays in the picture
        drawn = read_agg(inset + x * (1 - 2 * inset), inset + y * (1 - 2 * inset))
        agreement = np.corrcoef(own.ravel(), drawn.ravel())[0, 1]
        # 0.996 and 0.97: Agg adds up what strokes cover alone, so that many within a pixel are darker, and its ends of
        # strokes are cut at right angles.
        assert agreement > 0.95, f"{name}: {agreement:.3f}"


@pytest.fixture
def read_agg():
    """Ink of a line of 0.5 points at 100 dots per inch, without axes, as matplotlib's Agg draws it."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def draw(x, y):
        figure = Figure(figsize=(2.24, 2.24), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.plot(x, y, color="black", linewidth=0.5)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axis("off")
        canvas.draw()
        return 1 - np.asarray(canvas.buffer_rgba())[..., 0] / 255

    return draw


def test_thirds_are_cut_at_their_borders():
    rng = np.random.default_rng(0)
    x, y, joined = random_line(50, rng)
    x[[10, 30]] = 1 / 3, 2 / 3
    x.sort()
    expected = [[], [], []]
    for number, place in enumerate(x):
        expected[0 if place < 1 / 3 else 1 if place < 2 / 3 else 2].append(number)
    parts = thirds(x, y, joined)
    for part, (numbers, (across, up, drawn)) in enumerate(zip(expected, parts, strict=True)):
        np.testing.assert_allclose(across, [3 * x[number] - part for number in numbers], atol=1e-15)
        assert up.tolist() == [y[number] for number in numbers]
        assert drawn.tolist() == [joined[number] for number, after in pairwise(numbers)]
        assert across.min() >= 0 and across.max() <= 1


@pytest.mark.parametrize("x", [[], [0.5], [0.1, 0.9], [0.0, 1 / 3, 2 / 3, 1.0]])
def test_thirds_without_points_are_empty(x):
    parts = thirds(np.array(x), np.array(x), np.ones(max(len(x) - 1, 0), dtype=bool))
    assert [len(across) for across, *_ in parts] == [
        sum(int(min(3 * place, 2.5)) == part for place in x) for part in range(3)
    ]
    assert all(len(drawn) == max(len(across) - 1, 0) for across, _, drawn in parts)
    for part in parts:
        assert draw_line(*part, size=8, width=0.7).any() == (len(part[0]) > 0)


# Scaling ------------------------------------------------------------------------------------------


def slow_quartile(values, share):
    """The value at a share of the way through the sorted ones, between two of them in proportion."""
    ordered, place = sorted(values), share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("factor", [None, 0, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("count", [1, 2, 5, 300])
def test_limits_are_least_and_largest_within_the_fences(factor, count):
    values = np.random.default_rng(count).standard_cauchy(count)
    low, high = min(values), max(values)
    first, third = slow_quartile(values, 0.25), slow_quartile(values, 0.75)
    if factor is not None and first < third:
        low, high = max(low, first - factor * (third - first)), min(high, third + factor * (third - first))
    assert fenced_limits(values, factor) == pytest.approx((low, high), rel=1e-12)
    assert fenced_limits(np.zeros(0), factor) == (0, 0)


def test_a_line_on_a_constant_continuum_is_no_outlier():
    values = np.ones(100)
    values[40:43] = 2, 5, 2
    assert fenced_limits(values, 3.0) == (1, 5)


def test_numbers_between_limits():
    values = np.array([-np.inf, 0, 2, 3, 6, np.inf, np.nan], dtype=np.float32)
    assert between(values, 2, 6).tolist() == [0, 0, 0, 0.25, 1, 1, 0]
    assert between(values, 2, 2).tolist() == [0, 0, 0.5, 1, 1, 1, 0]
    assert between(np.full(3, 7.0), 7, 7).tolist() == [0.5] * 3


# Maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 6, 7, 20])
@pytest.mark.parametrize("factor", [1, 2, 3, 50])
@pytest.mark.parametrize("bad", [0, 0.3, 1])
def test_averages_are_those_of_good_neighbours(length, factor, bad):
    rng = np.random.default_rng(0)
    values, good = rng.normal(size=length).astype(np.float32), rng.random(length) >= bad
    means, known = block_average(np.where(good, values, np.nan), good, factor)
    for number in range(math.ceil(length / factor)):
        kept = [values[place] for place in range(factor * number, min(factor * (number + 1), length)) if good[place]]
        assert known[number] == bool(kept)
        if kept:
            assert means[number] == pytest.approx(math.fsum(kept) / len(kept), rel=1e-6)
    assert len(means) == len(known) == number + 1


def test_averages_of_the_largest_numbers_are_finite():
    values = np.array([3e38, 3e38, -3e38, 3e38], dtype=np.float32)
    assert block_average(values, np.ones(4, dtype=bool), 2)[0] == pytest.approx([3e38, 0], rel=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("size", "block"), [(12, 3), (14, 3), (7, 1), (9, 5), (4, 4)])
def test_cells_lie_in_rows(order, size, block):
    side = size // block
    for count in {0, 1, side, side * side // 2, side * side}:
        colours = np.random.default_rng(count).integers(0, 255, (count, 3)).astype(np.uint8)
        picture = lay_out(colours, (255, 7, 9), size=size, block=block, order=order)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        for row in range(size):
            for column in range(size):
                down, along = row // block, column // block
                if order == "boustrophedon" and down % 2:
                    along = side - 1 - along
                inside = max(down, column // block) < side and down * side + along < count
                expected = colours[down * side + along] if inside else (255, 7, 9)
                assert tuple(picture[row, column]) == tuple(expected), (row, column)
        cells = read_cells(picture, block=block, order=order)
        np.testing.assert_array_equal(cells[:count], colours)
        assert len(cells) == side * side and (cells[count:] == (255, 7, 9)).all()


# Colours ------------------------------------------------------------------------------------------


def test_viridis_is_that_of_matplotlib_within_two_levels():
    colormaps = pytest.importorskip("matplotlib").colormaps
    expected = np.rint(255 * colormaps["viridis"](np.arange(256))[:, :3])
    assert np.abs(colour_table("viridis") - expected).max() <= 2


def test_gray_goes_from_black_to_white():
    assert colour_table("gray").tolist() == [[level] * 3 for level in range(256)]


@pytest.mark.parametrize("name", ["viridis", "gray"])
def test_colours_are_read_back_within_a_level(name):
    levels = np.arange(256) / 255
    assert np.abs(read_levels(colour_table(name)[as_levels(levels)], name) - levels).max() <= 1 / 255
    others = np.array([[255, 255, 254], [255, 0, 0], [0, 0, 1], [255, 255, 255]], dtype=np.uint8)
    assert np.isnan(read_levels(others, name)).tolist() == [True, True, True, name == "viridis"]
    assert not (colour_table(name) == {"viridis": (255, 255, 255), "gray": (255, 0, 0)}[name]).all(-1).any()


# Whole pictures -----------------------------------------------------------------------------------


def make_spectrum(length=400, seed=0, *, bad=0.0, level=5.0, gap=False, **fields):
    """A wave in noise on a grid of 1.5 Å; a gap is one of 300 Å in the middle."""
    rng = np.random.default_rng(seed)
    wavelength = 4000 + 1.5 * np.arange(length)
    if gap:
        wavelength[length // 2 :] += 300
    flux = level + np.sin(np.arange(length) / 9 + seed) + 0.2 * rng.normal(size=length)
    return Spectrum(flux, wavelength, np.full(length, 25.0), mask=rng.random(length) < bad, **fields)


def slow_level(value, low, high):
    if not high > low:
        return 0.5 + 0.5 * (value > high) - 0.5 * (value < low)
    return min(max((float(value) - low) / (high - low), 0.0), 1.0)


def slow_levels(values, known, limits):
    return [slow_level(value, *limits) if good else 0.0 for value, good in zip(values, known, strict=True)]


def slow_limits(values, processor):
    low, high = fenced_limits(np.array(values), processor.outlier_factor)
    low = low if processor.vmin is None else processor.vmin
    return low, high if processor.vmax is None else processor.vmax


def slow_picture(spectrum, processor):
    """The picture as `SpectrumImageProcessor` says it draws it, pixel by pixel."""
    wavelength = spectrum.wavelength
    if spectrum.medium != processor.medium:
        wavelength = {"air": air_to_vacuum, "vacuum": vacuum_to_air}[spectrum.medium](wavelength)
    first, last = processor.wavelength_range or (wavelength[0], wavelength[-1])
    pixels = [number for number, place in enumerate(wavelength) if first <= place <= last]
    draw = slow_map if processor.plot_type == "map" else slow_lines
    return draw(spectrum, wavelength, pixels, processor)


def slow_lines(spectrum, wavelength, pixels, processor):
    first, last = processor.wavelength_range or (wavelength[0], wavelength[-1])
    starts = {segment.start for segment in find_segments(wavelength, processor.gap_factor)}
    kept = [number for number in pixels if spectrum.good[number]]
    limits = slow_limits([float(spectrum.flux[number]) for number in kept], processor)
    pictures = []
    for part in range(3) if processor.plot_type == "overlap" else [None]:
        points = []
        for number in kept:
            x = (wavelength[number] - first) / (last - first)
            if part is None or part == (0 if x < 1 / 3 else 1 if x < 2 / 3 else 2):
                across = x if part is None else 3 * x - part
                points.append((number, across, slow_level(spectrum.flux[number], *limits)))
        joined = [after[0] == before[0] + 1 and after[0] not in starts for before, after in pairwise(points)]
        x, y = (np.array([point[axis] for point in points]) for axis in (1, 2))
        pen = {"size": processor.image_size, "width": processor.line_width}
        pictures.append(draw_line(x, y, np.array(joined, dtype=bool), **pen))
    if processor.plot_type == "overlap":
        return np.rint(255 * np.stack(pictures, -1)).astype(np.uint8)
    return np.rint(255 * (1 - np.stack(pictures * 3, -1))).astype(np.uint8)


def slow_map(spectrum, _, pixels, processor):
    side = processor.image_size // processor.block_size
    factor = max(math.ceil(len(pixels) / side**2), 1)
    cells = []
    for start in range(0, len(pixels), factor):
        kept = [float(spectrum.flux[number]) for number in pixels[start : start + factor] if spectrum.good[number]]
        cells.append(math.fsum(kept) / len(kept) if kept else None)
    known = [cell is not None for cell in cells]
    levels = slow_levels(cells, known, slow_limits([cell for cell in cells if cell is not None], processor))
    if processor.map_colors == "derivatives":
        colours = np.stack([levels, *slow_differences(cells, processor.outlier_factor)], -1)
        colours = np.rint(255 * colours).astype(int).tolist()
        colours = [colour if any(colour) else [1, 0, 0] for colour in colours]
    else:
        colours = [colour_table(processor.map_colors)[round(255 * level)] for level in levels]
    picture = np.empty((processor.image_size, processor.image_size, 3), dtype=np.uint8)
    picture[:] = blank = BLANK[processor.map_colors]
    for number, colour in enumerate(colours):
        row, column = divmod(number, side)
        if processor.map_order == "boustrophedon" and row % 2:
            column = side - 1 - column
        top, left, block = row * processor.block_size, column * processor.block_size, processor.block_size
        picture[top : top + block, left : left + block] = colour if known[number] else blank
    return picture


def slow_differences(cells, factor):
    known = [number for number, cell in enumerate(cells) if cell is not None]
    values, drawn = np.interp(range(len(cells)), known, [cells[number] for number in known]).tolist(), []
    for _ in range(2):
        inner = [(after - before) / 2 for before, after in zip(values[:-2], values[2:], strict=True)]
        values = [values[1] - values[0], *inner, values[-1] - values[-2]]
        limits = fenced_limits(np.array([values[number] for number in known]), factor)
        drawn.append([slow_level(value, *limits) for value in values])
    return drawn


PLOTS = {
    "simple": {"plot_type": "simple"},
    "overlap": {"plot_type": "overlap"},
    "viridis": {"map_colors": "viridis"},
    "gray": {"map_colors": "gray"},
    "derivatives": {"map_colors": "derivatives"},
    "boustrophedon": {"map_order": "boustrophedon"},
}
FIELDS = {
    "plain": ({}, {}),
    "bad pixels": ({"bad": 0.3}, {}),
    "a gap": ({"gap": True, "bad": 0.02}, {}),
    "a gap drawn over": ({"gap": True}, {"gap_factor": None}),
    "a range": ({"bad": 0.1}, {"wavelength_range": (4102.0, 4497.3)}),
    "a range beyond the grid": ({"gap": True}, {"wavelength_range": (3900, 5200)}),
    "air": ({"medium": "air"}, {"wavelength_range": (4000.0, 4400.0)}),
    "into air": ({}, {"wavelength_range": (4000.0, 4400.0), "medium": "air"}),
    "averages": ({"length": 3000, "bad": 0.4}, {}),
    "limits": ({}, {"vmin": 4.5, "vmax": 5.2}),
    "no fence": ({"level": 0.1}, {"outlier_factor": None}),
    "a narrow fence": ({"bad": 0.1}, {"outlier_factor": 0.0}),
    "other sizes": ({}, {"image_size": 45, "block_size": 2, "line_width": 2.3}),
}


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("name", FIELDS)
def test_pictures_are_those_of_the_plain_reference(plot, name):
    of_spectrum, of_processor = FIELDS[name]
    processor = SpectrumImageProcessor(**{"image_size": 64} | PLOTS[plot] | of_processor)
    for seed in range(2):
        spectrum = make_spectrum(seed=seed, **of_spectrum)
        found, expected = processor.draw(spectrum), slow_picture(spectrum, processor)
        # Lines: a side of the pen that meets a point to the last bit counts it or not.
        assert np.abs(found.astype(int) - expected).max() <= (0 if processor.plot_type == "map" else 1)
        assert len(np.unique(found)) > 1
