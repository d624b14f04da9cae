"""Plots: functions that take and return matplotlib axes."""

from typing import TYPE_CHECKING

import numpy as np

from ..models.patches import find_segments
from ..models.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLUX_COLOR, MODEL_COLOR, BAD_COLOR = "0.45", "C3", "C1"


def plot_reconstruction(
    spectrum: Spectrum, reconstruction: Spectrum, *, axes: "tuple[Axes, Axes] | None" = None
) -> "tuple[Axes, Axes]":
    """A spectrum with its reconstruction: flux with ±1 sigma, bad pixels shaded, and the residual in sigma below.

    Args:
        spectrum: The observed spectrum.
        reconstruction: Its reconstruction on the same grid, from `SpectrumProcessor.post_process_reconstruction`.
        axes: Where to draw flux and residual; None makes a new figure.

    Returns:
        The two axes.

    Raises:
        ValueError: If the two do not share a wavelength grid.
        ImportError: If matplotlib is not installed.
    """
    if len(spectrum) != len(reconstruction) or np.abs(spectrum.wavelength - reconstruction.wavelength).max() > 1e-3:
        raise ValueError(
            f"spectrum and reconstruction must share a wavelength grid, found {spectrum!r} and {reconstruction!r}"
        )
    flux_axis, residual_axis = axes or _new_axes()
    lines = [
        np.where(spectrum.good, spectrum.flux, np.nan),
        np.where(reconstruction.mask, np.nan, reconstruction.flux),
    ]
    residual = np.where(spectrum.good, (lines[0] - lines[1]) / spectrum.error, np.nan)
    for segment in find_segments(spectrum.wavelength):
        wavelength = spectrum.wavelength[segment]
        flux, error = lines[0][segment], np.where(spectrum.good, spectrum.error, np.nan)[segment]
        flux_axis.fill_between(wavelength, flux - error, flux + error, color=FLUX_COLOR, alpha=0.3, lw=0)
        flux_axis.plot(wavelength, flux, color=FLUX_COLOR, lw=0.5)
        flux_axis.plot(wavelength, lines[1][segment], color=MODEL_COLOR, lw=0.8)
        residual_axis.plot(wavelength, residual[segment], color=FLUX_COLOR, lw=0.4)
    _shade_bad(spectrum, (flux_axis, residual_axis))
    _decorate(spectrum, flux_axis, residual_axis, lines, residual)
    return flux_axis, residual_axis


def _new_axes() -> "tuple[Axes, Axes]":
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "spectok-hf[plot]".') from error
    _, axes = plt.subplots(
        2, 1, sharex=True, figsize=(10, 5), height_ratios=(3, 1), gridspec_kw={"hspace": 0.05}, layout="constrained"
    )
    return axes[0], axes[1]


def _shade_bad(spectrum: Spectrum, axes: "tuple[Axes, Axes]") -> None:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ~spectrum.good, [0]])))
    step = np.pad(np.diff(spectrum.wavelength), 1, constant_values=np.inf)
    half = np.minimum(step[:-1], step[1:]) / 2  # the smaller side: a detector gap is not the width of a pixel
    half = np.where(np.isfinite(half), half, 1.0)
    for first, last in zip(edges[::2], edges[1::2] - 1, strict=True):
        for axis in axes:
            axis.axvspan(
                spectrum.wavelength[first] - half[first],
                spectrum.wavelength[last] + half[last],
                color=BAD_COLOR,
                alpha=0.2,
                lw=0,
            )


def _decorate(
    spectrum: Spectrum, flux_axis: "Axes", residual_axis: "Axes", lines: list[np.ndarray], residual: np.ndarray
) -> None:
    shown = np.concatenate([line[np.isfinite(line)] for line in lines])
    if len(shown):
        low, high = np.percentile(shown, [0.2, 99.8])
        margin = 0.1 * (high - low) or 1.0
        flux_axis.set_ylim(low - margin, high + margin)
    scatter = residual[np.isfinite(residual)]
    chi2 = f", $\\chi^2$/pixel = {np.mean(scatter**2):.2f}" if len(scatter) else ""
    flux_axis.set_title(f"{spectrum.name}{chi2}", loc="left", fontsize="medium")
    flux_axis.set_ylabel(f"flux [{spectrum.flux_unit}]" if spectrum.flux_unit else "flux", fontsize="small")
    for color, label in ((FLUX_COLOR, r"observed $\pm 1\sigma$"), (MODEL_COLOR, "reconstruction")):
        flux_axis.plot([], [], color=color, label=label)
    flux_axis.fill_between([], [], color=BAD_COLOR, alpha=0.2, label="bad pixels")
    flux_axis.legend(loc="upper right", fontsize="small", ncols=3, frameon=False)
    residual_axis.axhline(0, color="k", lw=0.5)
    residual_axis.set_ylim(-5, 5)
    residual_axis.set_ylabel(r"residual [$\sigma$]", fontsize="small")
    residual_axis.set_xlabel(f"wavelength [Å, {spectrum.medium}, {spectrum.frame} frame]")


__all__ = ["plot_reconstruction"]
