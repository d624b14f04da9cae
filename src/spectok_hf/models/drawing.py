"""How a spectrum becomes a picture: lines and maps of cells, in numpy alone.

Lines are drawn by a square pen, whose edges may lie anywhere between the pixels. Of every column of the picture a few
thin slices are looked at; in each, what the pen touched is one interval, whose share of every pixel is exact.
"""

import functools
from itertools import pairwise

import numpy as np

SLICES = 4  # of a column: how finely edges are told along the axis; down the column they are exact
LEVELS = 256  # of a colour
ROUNDING = 1e-5  # of a number: quartiles that differ by less are one
WHITE, RED, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 0)
# Colour of a cell in which nothing was observed; gray and viridis have no such colour.
BLANK = {"viridis": WHITE, "gray": RED, "derivatives": BLACK}
ORDERS = ("row", "boustrophedon")
# Matplotlib's viridis to within two of 256 levels: our fit of Chebyshev polynomials to red, green and blue.
_VIRIDIS = (
    (0.407, 0.298, 0.2553, 0.0799, -0.0328, -0.0201, -0.0014, 0.0061, 0.0027, -0.0043),
    (0.5167, 0.4547, -0.0572, -0.0049, -0.0083, 0.0009, 0.0022, 0.0009, -0.0003, 0.0002),
    (0.3742, -0.1466, -0.1705, 0.0211, 0.0152, 0.0288, 0.015, 0.0051, 0.0046, 0.0014),
)


# Scaling ------------------------------------------------------------------------------------------


def fenced_limits(values: np.ndarray, factor: float | None) -> tuple[float, float]:
    """Least and largest of some numbers, but not beyond their quartiles by more than `factor` times the distance of
    these, unless they are one; (0, 0) of none.

    Args:
        values: The numbers, shape (n,).
        factor: See above; None = however far.
    """
    if not len(values):
        return 0.0, 0.0
    low, high = float(values.min()), float(values.max())
    if factor is None:
        return low, high
    first, third = map(float, np.percentile(values, (25, 75)))
    if third - first <= ROUNDING * max(abs(first), abs(third)):  # lines on a constant continuum, which alone is within
        return low, high
    reach = factor * (third - first)
    return max(low, first - reach), min(high, third + reach)


def between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where numbers lie between two limits, from 0 to 1, float64: 0.5 at limits that are one, 0 of what is NaN.

    Args:
        values: The numbers.
        low: What becomes 0, with all below.
        high: What becomes 1, with all above.
    """
    values = values.astype(np.float64)
    if not high > low:
        return np.select([values > high, values == low], [1.0, 0.5])
    return np.nan_to_num((values - low) / (high - low), nan=0.0).clip(0, 1)


# Lines --------------------------------------------------------------------------------------------


def draw_line(x: np.ndarray, y: np.ndarray, joined: np.ndarray, *, size: int, width: float) -> np.ndarray:
    """Ink of a line in each pixel of a picture, shape (size, size), float32, between 0 and 1; the top row is first.

    A gap in the line that is narrower than the pen is closed. Along the picture, the pen is at least a slice wide.

    Args:
        x: Where its points lie along the picture, between 0 and 1, ascending, shape (n,).
        y: How high they are, between 0 and 1, shape (n,).
        joined: Whether the pen draws from a point to the next one, or is lifted, shape (n - 1,), bool. A point by
            itself is a dot.
        size: Pixels of a side.
        width: Side of the pen, in pixels.
    """
    if not len(x):
        return np.zeros((size, size), dtype=np.float32)
    across, down = (width / 2 + part * (size - width) for part in (np.asarray(x), 1 - np.asarray(y)))
    low, high = _touched(across, down, joined, size, width)
    top = np.arange(size, dtype=np.float32)
    covered = np.minimum(high[:, None], top + 1) - np.maximum(low[:, None], top)
    slices = np.clip(covered, 0, 1, out=covered).reshape(size, SLICES, size)
    return np.ascontiguousarray(slices.mean(1).T)


def thirds(x: np.ndarray, y: np.ndarray, joined: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A line cut into three of equal length along the picture, each drawn out to all of it: arguments of `draw_line`.

    A point on a border belongs to the part behind it, and a stroke that crosses one is lost.

    Args:
        x: As for `draw_line`.
        y: As there.
        joined: As there.
    """
    bounds = np.searchsorted(x, (0, 1 / 3, 2 / 3, np.inf))
    return [
        (3 * x[first:last] - part, y[first:last], joined[first : max(last - 1, first)])
        for part, (first, last) in enumerate(pairwise(bounds))
    ]


def _touched(
    across: np.ndarray, down: np.ndarray, joined: np.ndarray, size: int, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """The interval that the pen touched in every slice, its upper and its lower end, shape (size x SLICES,), float32.

    Infinite the wrong way round where it touched nothing.
    """
    centres = (np.arange(size * SLICES) + 0.5) / SLICES
    reach = max(width, 1 / SLICES) / 2  # what a thinner pen draws would be lost between two slices
    sides = centres - reach, centres + reach
    first, last = np.searchsorted(across, sides[0], "left"), np.searchsorted(across, sides[1], "right")
    ends = [_height_at(side, place, across, down, joined) for side, place in zip(sides, (first, last), strict=True)]
    low = np.fmin.reduce([_within(down, first, last, np.minimum, np.inf), *ends])
    high = np.fmax.reduce([_within(down, first, last, np.maximum, -np.inf), *ends])
    return (low - width / 2).astype(np.float32), (high + width / 2).astype(np.float32)


def _within(values: np.ndarray, first: np.ndarray, last: np.ndarray, function: np.ufunc, empty: float) -> np.ndarray:
    """The least or largest of `values[first:last]` for each pair, `empty` where there is none."""
    bounds = np.stack([first, last], -1).reshape(-1)
    found = function.reduceat(np.append(values, empty), bounds)[::2]
    return np.where(first < last, found, empty)


def _height_at(
    side: np.ndarray, place: np.ndarray, across: np.ndarray, down: np.ndarray, joined: np.ndarray
) -> np.ndarray:
    """Where the line crosses each side, between the points `place - 1` and `place`; NaN where it does not."""
    height = np.full(len(side), np.nan)
    crossing = np.flatnonzero((place > 0) & (place < len(across)))
    crossing = crossing[joined[place[crossing] - 1]]
    after = place[crossing]
    before = after - 1
    share = (side[crossing] - across[before]) / (across[after] - across[before])
    height[crossing] = down[before] + share * (down[after] - down[before])
    return height


# Maps ---------------------------------------------------------------------------------------------


def block_average(values: np.ndarray, good: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of every `factor` neighbours, and which of them have one, shapes (ceil(n / factor),).

    Args:
        values: Shape (n,).
        good: Which of them count, shape (n,), bool.
        factor: How many become one.
    """
    if factor == 1:
        return values, good
    missing = -len(values) % factor
    kept = np.pad(np.where(good, values, 0), (0, missing)).reshape(-1, factor)
    counts = np.pad(good, (0, missing)).reshape(-1, factor).sum(-1)
    return kept.sum(-1, dtype=np.float64) / np.maximum(counts, 1), counts > 0


def lay_out(colours: np.ndarray, blank: tuple[int, int, int], *, size: int, block: int, order: str) -> np.ndarray:
    """Cells as a picture, shape (size, size, 3), uint8: row after row from the top, the rest blank.

    Args:
        colours: Colour of each cell, shape (n, 3), uint8; no more cells than there is room for.
        blank: Colour of the rest.
        size: Pixels of a side.
        block: Pixels of a side of a cell.
        order: "row": each row from the left; "boustrophedon": every second one from the right.
    """
    side = size // block
    cells = np.empty((side * side, 3), dtype=np.uint8)
    cells[:], cells[: len(colours)] = blank, colours
    grid = cells.reshape(side, side, 3)
    if order == "boustrophedon":
        grid[1::2] = grid[1::2, ::-1]
    picture = np.empty((size, size, 3), dtype=np.uint8)
    filled = side * block
    picture[filled:], picture[:, filled:] = blank, blank
    picture[:filled, :filled] = grid.repeat(block, 0).repeat(block, 1)
    return picture


def read_cells(picture: np.ndarray, *, block: int, order: str) -> np.ndarray:
    """Colours of all cells of a picture, in the order in which they were laid out, shape (cells, 3), uint8.

    Args:
        picture: What `lay_out` made.
        block: As there.
        order: As there.
    """
    side = len(picture) // block
    grid = picture[: side * block : block, : side * block : block].copy()
    if order == "boustrophedon":
        grid[1::2] = grid[1::2, ::-1]
    return grid.reshape(-1, 3)


# Colours ------------------------------------------------------------------------------------------


def as_levels(values: np.ndarray) -> np.ndarray:
    """Numbers between 0 and 1 as levels of a colour, uint8.

    Args:
        values: The numbers.
    """
    return np.rint(values * (LEVELS - 1)).astype(np.uint8)


@functools.cache
def colour_table(name: str) -> np.ndarray:
    """The colour of each level, shape (256, 3), uint8.

    Args:
        name: "viridis" or "gray".
    """
    if name == "gray":
        return np.arange(LEVELS, dtype=np.uint8)[:, None].repeat(3, 1)
    levels = np.linspace(-1, 1, LEVELS)
    channels = [np.polynomial.chebyshev.chebval(levels, fit) for fit in _VIRIDIS]
    return as_levels(np.stack(channels, -1).clip(0, 1))


def read_levels(colours: np.ndarray, name: str) -> np.ndarray:
    """The inverse of `colour_table`, between 0 and 1, NaN for any other colour; shape (n,).

    Args:
        colours: Shape (n, 3), uint8.
        name: As there.
    """
    weights = 256 ** np.arange(3)
    codes = (colour_table(name) * weights).sum(-1)
    order = np.argsort(codes)
    wanted = (colours * weights).sum(-1)
    place = order[np.searchsorted(codes[order], wanted).clip(max=LEVELS - 1)]
    return np.where(codes[place] == wanted, place / (LEVELS - 1), np.nan)


__all__ = [
    "BLANK",
    "ORDERS",
    "as_levels",
    "between",
    "block_average",
    "colour_table",
    "draw_line",
    "fenced_limits",
    "lay_out",
    "read_cells",
    "read_levels",
    "thirds",
]
