"""CPU time of `SpectrumImageProcessor` per picture of a DESI spectrum, beside matplotlib's, as a Markdown table.

    python examples/benchmark_pictures.py

Two ways of matplotlib: a new figure for every spectrum, saved as PNG and read back, as the public code of
arXiv 2506.00294 makes its pictures; and one figure whose data are replaced, read from its canvas. All are run in turn
in one process, and the best of the rounds counts. Spectra have all 7,781 pixels of DESI, so that a map averages two.
"""

import argparse
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from benchmark_runs import Setting, judge, time_in_turn

from spectok_hf import Spectrum, SpectrumImageProcessor, simulate_survey
from spectok_hf.evaluation.reconstruction import format_table

SIDE, DPI, LINE_WIDTH, ALPHA = 224, 100, 0.5, 0.5
BLOCK = 3
COLOURS = ("red", "green", "blue")
# Of each picture: the settings, what matplotlib draws beside it, and how many times as fast it must be.
PICTURES: dict[str, tuple[dict[str, Any], str, float]] = {
    "simple": ({"plot_type": "simple"}, "simple", 2.0),
    "overlap": ({"plot_type": "overlap"}, "overlap", 2.0),
    "map, viridis": ({"map_colors": "viridis"}, "map", 5.0),
    "map, gray": ({"map_colors": "gray"}, "map", 5.0),
    "map, derivatives": ({"map_colors": "derivatives"}, "map", 5.0),
    "map, boustrophedon": ({"map_order": "boustrophedon"}, "map", 5.0),
}
Drawing = Callable[[Any, Spectrum], list[Any]]


# matplotlib


def draw_simple(axes: Any, spectrum: Spectrum) -> list[Any]:
    return axes.plot(spectrum.wavelength, spectrum.flux, color="black", linewidth=LINE_WIDTH)


def draw_overlap(axes: Any, spectrum: Spectrum) -> list[Any]:
    lines = []
    for colour, (x, y) in zip(COLOURS, split(spectrum), strict=True):
        lines += axes.plot(x, y, color=colour, linewidth=LINE_WIDTH, alpha=ALPHA)
    return lines


def draw_map(axes: Any, spectrum: Spectrum) -> list[Any]:
    return [axes.imshow(cells(spectrum), cmap="viridis", interpolation="nearest", aspect="auto")]


def split(spectrum: Spectrum) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three parts of equally many pixels, each from 0 to 1."""
    parts = zip(*(np.array_split(values, 3) for values in (spectrum.wavelength, spectrum.flux)), strict=True)
    return [((x - x[0]) / (x[-1] - x[0]), y) for x, y in parts]


def cells(spectrum: Spectrum) -> np.ndarray:
    """Means of as many pixels as it takes for a map to hold them all."""
    side = SIDE // BLOCK
    factor = -(-len(spectrum) // side**2)
    padded = np.full(side**2 * factor, np.nan, dtype=np.float32)
    padded[: len(spectrum)] = spectrum.flux
    return padded.reshape(side, side, factor).mean(-1)


def replace(artists: list[Any], spectrum: Spectrum) -> None:
    """Put another spectrum in place of what was drawn."""
    if hasattr(artists[0], "set_clim"):
        values = cells(spectrum)
        artists[0].set_data(values)
        artists[0].set_clim(np.nanmin(values), np.nanmax(values))
        return
    whole = [(spectrum.wavelength, spectrum.flux)]
    for line, points in zip(artists, whole if len(artists) == 1 else split(spectrum), strict=True):
        line.set_data(*points)
    artists[0].axes.relim()
    artists[0].axes.autoscale_view()


DRAWINGS: dict[str, Drawing] = {"simple": draw_simple, "overlap": draw_overlap, "map": draw_map}


def new_figures(draw: Drawing, spectra: list[Spectrum]) -> np.ndarray:
    """The last of the pictures, each of a figure of its own, by way of a PNG."""
    import matplotlib.pyplot as plt
    from PIL import Image

    for spectrum in spectra:
        figure = plt.figure(figsize=(SIDE / DPI, SIDE / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        draw(axes, spectrum)
        axes.axis("off")
        file = io.BytesIO()
        figure.savefig(file, dpi=DPI, format="png")
        plt.close(figure)
        file.seek(0)
        picture = np.asarray(Image.open(file).convert("RGB"))
    return picture


class ReusedFigure:
    """One figure in which spectrum after spectrum is drawn.

    Args:
        draw: What draws the first one.
        first: The first one.
    """

    def __init__(self, draw: Drawing, first: Spectrum):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(SIDE / DPI, SIDE / DPI), dpi=DPI)
        self.canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        self.artists = draw(axes, first)
        axes.axis("off")

    def __call__(self, spectra: list[Spectrum]) -> np.ndarray:
        """The last of the pictures."""
        for spectrum in spectra:
            replace(self.artists, spectrum)
            self.canvas.draw()
            picture = np.asarray(self.canvas.buffer_rgba())[..., :3].copy()
        return picture


# the table


def own_pictures(processor: SpectrumImageProcessor, spectra: list[Spectrum]) -> np.ndarray:
    for spectrum in spectra:
        picture = processor.draw(spectrum)
    return picture


def actions_for(spectra: list[Spectrum]) -> dict[str, Callable[[], np.ndarray]]:
    """What is timed, by name: our pictures, and matplotlib's of each kind in both ways."""
    actions = {
        name: partial(own_pictures, SpectrumImageProcessor(image_size=SIDE, block_size=BLOCK, **settings), spectra)
        for name, (settings, _, _) in PICTURES.items()
    }
    for kind, draw in DRAWINGS.items():
        actions[f"new {kind}"] = partial(new_figures, draw, spectra)
        actions[f"reused {kind}"] = partial(ReusedFigure(draw, spectra[0]), spectra)
    return actions


def picture_rows(spectra: list[Spectrum], setting: Setting) -> list[dict[str, object]]:
    """One row per picture.

    Args:
        spectra: What is drawn.
        setting: Says how many rounds.
    """
    times = time_in_turn(actions_for(spectra), setting)
    milliseconds = {name: 1e3 * took / len(spectra) for name, took in times.items()}
    rows = []
    for name, (_, kind, goal) in PICTURES.items():
        own, new, reused = (milliseconds[key] for key in (name, f"new {kind}", f"reused {kind}"))
        figures = {"ms": own, "new figure [ms]": new, "reused figure [ms]": reused}
        ratios = {"new / own": new / own, "reused / own": reused / own}
        rows.append({"picture": name} | figures | ratios | judge(new / own, goal, "new / own"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spectra", type=int, default=20, help="spectra per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, in each of which all take their turn")
    parser.add_argument("--smoke", action="store_true", help="two spectra, one round: does it run?")
    args = parser.parse_args()
    spectra, rounds = (2, 1) if args.smoke else (args.spectra, args.rounds)
    print(format_table(picture_rows(simulate_survey("desi", spectra, seed=1206), Setting(rounds=rounds))))


if __name__ == "__main__":
    main()
