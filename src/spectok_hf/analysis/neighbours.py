"""`Neighbours`: what a `SpectrumIndex` found, as ids, as a table, as a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import feature_limits, import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The rows of an index that are nearest to a query, nearest first.

    Args:
        query: How the query is called.
        ids: Their ids.
        distances: Distance of each: with the "noise" metric in standard deviations of typical noise, else between unit
            vectors, from 0 to 2.
        rows: What the index knows of each: id, object_id, survey, medium, frame, labels.
        spectrum: Wavelength in `medium` and flux of the query, for the picture; None = unknown.
        spectra: The same of each neighbour.
        window: The wavelengths that were compared, in Å; None = all.
        medium: That of the checkpoint, in which all wavelengths are; None = not known, and each is as it was read.
        frame: That of the query; None = unknown.
    """

    query: str
    ids: list[str]
    distances: np.ndarray
    rows: list[dict[str, Any]]
    spectrum: tuple[np.ndarray, np.ndarray] | None
    spectra: list[tuple[np.ndarray, np.ndarray] | None]
    window: tuple[float, float] | None = None
    medium: str | None = None
    frame: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def scores(self) -> np.ndarray:
        """Distances with the sign turned: what is more alike has the higher score."""
        return -self.distances

    def to_pandas(self) -> Any:
        """A table: a row per neighbour with its distance and all that the index knows of it.

        A label `distance` of the spectra becomes the column `distance_label`.
        """
        import pandas as pd

        table = pd.DataFrame(self.rows).rename(columns={"distance": "distance_label"})
        if table.empty:
            return pd.DataFrame({"id": [], "distance": []})
        table.insert(1, "distance", self.distances)
        return table

    def plot(self, *, most: int = 5, window: tuple[float, float] | None = None, ax: "Axes | None" = None) -> "Axes":
        """The query above its neighbours, each over the range of its flux without spikes, one below the other.

        Wavelengths are those of the checkpoint's medium, where it is known. A neighbour in another frame than the
        query's says so.

        Args:
            most: How many neighbours are drawn.
            window: Wavelengths shown, in Å of that medium; None = what was compared, or the range of the query.
            ax: Where to draw; None makes a new figure.

        Returns:
            The axes.

        Raises:
            ValueError: If the index holds no flux, or the query is an embedding, or a window is no interval.
            ImportError: If matplotlib is not installed.
        """
        if self.spectrum is None or any(one is None for one in self.spectra):
            raise ValueError(
                "a picture needs the flux of query and neighbours: build the index with keep_flux=True, and ask by "
                "spectrum or id"
            )
        count = min(most, len(self))
        if ax is None:
            ax = import_pyplot().subplots(figsize=(9, 1.6 + 0.9 * count), layout="constrained")[1]
        low, high = window or self.window or (self.spectrum[0][0], self.spectrum[0][-1])
        if not low < high:
            raise ValueError(f"a window goes from a shorter to a longer wavelength in Å, found {low:g} to {high:g}")
        names = [f"query: {self.query}"]
        names += [
            f"{row['id']}  {_label_text(row)}, distance {distance:.2f}{self._frame_text(row)}"
            for row, distance in zip(self.rows, self.distances, strict=True)
        ]
        for place, (name, drawn) in enumerate(zip(names, [self.spectrum, *self.spectra], strict=True)):
            if place <= count:
                _draw_row(ax, drawn, (low, high), count - place, name, color="C3" if place == 0 else "0.25")
        ax.set(xlim=(low, high), ylim=(-0.1, count + 1), yticks=[], ylabel="flux / its range, shifted")
        known = [self.medium or "each as it was read", *([f"{self.frame} frame"] if self.frame else [])]
        ax.set_xlabel(f"wavelength [Å, {', '.join(known)}]")
        return ax

    def _frame_text(self, row: Mapping[str, Any]) -> str:
        frame = row.get("frame")
        return f", {frame} frame" if frame and self.frame and frame != self.frame else ""


def _label_text(row: Mapping[str, Any]) -> str:
    texts = [str(row[name]) for name in ("survey", "class") if row.get(name)]
    if _is_known(row.get("redshift")) and row.get("class") != "STAR":
        texts.append(f"z {row['redshift']:.3f}")
    if _is_known(row.get("teff")):
        texts.append(f"{row['teff']:.0f} K")
    return " ".join(texts)


def _is_known(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _draw_row(ax: "Axes", drawn: Any, window: tuple[float, float], level: int, name: str, *, color: str) -> None:
    wavelength, flux = drawn
    shown = (wavelength >= window[0]) & (wavelength <= window[1]) & np.isfinite(flux)
    if shown.any():
        low, high = feature_limits(flux[shown]) or (0.0, 1.0)
        line = np.where(shown, (flux - low) / ((high - low) or 1.0), np.nan).clip(-0.15, 1.15)
        ax.plot(wavelength, level + 0.1 + 0.58 * line, color=color, lw=0.6)
    ax.text(
        0.005,
        level + 0.93,
        name,
        transform=ax.get_yaxis_transform(),
        fontsize="small",
        va="top",
        color=color,
        parse_math=False,
    )


__all__ = ["Neighbours"]
