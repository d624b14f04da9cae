"""Plots: functions that take and return matplotlib axes."""

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ..models.patches import find_segments
from ..models.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLUX_COLOR, MODEL_COLOR, BAD_COLOR = "0.45", "C3", "C1"
RAW_COLOR, SMOOTH_COLOR = "0.75", "k"
SMOOTH_BELOW = 8.0  # signal-to-noise ratio of a spectrum that is drawn smoothed over its own pixels
SMOOTH_PIXELS = 11


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


def plot_contact_sheet(
    real: Sequence[Spectrum],
    simulated: Sequence[Spectrum],
    *,
    window: tuple[float, float] | None = None,
    axes: np.ndarray | None = None,
) -> np.ndarray:
    """Real spectra, left, each beside a simulated one, right, on the same axes.

    Flux is in units of its median over what is shown: a survey's own unit says how bright an object is, not what it
    looks like. Spectra of a low signal-to-noise ratio are smoothed over their own pixels, which stay visible in grey.

    Args:
        real: Real spectra, at least one.
        simulated: As many simulated ones, in the order in which they belong to the real ones.
        window: Wavelengths shown, from and to, in Å; None = where the real spectrum has good pixels.
        axes: Where to draw, shape (n, 2); None makes a new figure.

    Returns:
        The axes, shape (n, 2).

    Raises:
        ValueError: If there are no spectra, not as many of one kind as of the other, or too few axes.
        ImportError: If matplotlib is not installed.
    """
    if not real or len(real) != len(simulated):
        raise ValueError(
            f"a contact sheet needs as many simulated as real spectra, at least one, found {len(real)} real and "
            f"{len(simulated)} simulated"
        )
    if axes is None:
        axes = _new_sheet(len(real))
    elif np.shape(axes) != (len(real), 2):
        raise ValueError(f"axes must have the shape ({len(real)}, 2), found {np.shape(axes)}")
    for row, pair in zip(axes, zip(real, simulated, strict=True), strict=True):
        _draw_pair(row, pair, window or _extent(pair[0]))
    axes[0, 0].figure.supylabel("flux / median", fontsize="small")
    for axis, spectrum in zip(axes[-1], (real[0], simulated[0]), strict=True):
        axis.set_xlabel(f"wavelength [Å, {spectrum.medium}, {spectrum.frame} frame]", fontsize="small")
    return axes


def _draw_pair(row: np.ndarray, pair: tuple[Spectrum, Spectrum], window: tuple[float, float]) -> None:
    limits = []
    for axis, spectrum, where in zip(row, pair, ("real", "simulated"), strict=True):
        shown = spectrum.good & (spectrum.wavelength >= window[0]) & (spectrum.wavelength <= window[1])
        scale = float(np.median(spectrum.flux[shown])) if shown.any() else 1.0
        limits.append(_draw_spectrum(axis, spectrum, shown, abs(scale) or 1.0))
        unit = f", median {scale:.3g} {spectrum.flux_unit}" if where == "real" and spectrum.flux_unit else ""
        axis.set_title(f"{where}: {_description(spectrum)}{unit}", loc="left", fontsize="x-small", pad=2)
        axis.tick_params(labelsize="x-small", pad=1)
    for axis in row:
        axis.set_xlim(*window)
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _draw_spectrum(axis: "Axes", spectrum: Spectrum, shown: np.ndarray, scale: float) -> tuple[float, float]:
    """Draws the pixels shown, shape (L,), and gives the limits that they ask for."""
    flux = np.where(shown, spectrum.flux, np.nan) / scale
    smooth = np.where(shown, _smoothed(spectrum, shown), np.nan) / scale
    noisy = signal_to_noise(spectrum) < SMOOTH_BELOW
    for segment in find_segments(spectrum.wavelength):
        wavelength = spectrum.wavelength[segment]
        axis.plot(wavelength, flux[segment], color=RAW_COLOR if noisy else SMOOTH_COLOR, lw=0.4)
        if noisy:
            axis.plot(wavelength, smooth[segment], color=SMOOTH_COLOR, lw=0.5)
    if not shown.any():
        return 0.0, 1.0
    low, high = np.nanpercentile(smooth if noisy else flux, [0.3, 99.7])
    margin = (0.5 if noisy else 0.12) * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _smoothed(spectrum: Spectrum, shown: np.ndarray) -> np.ndarray:
    """Mean of the shown pixels around each pixel, weighted by their inverse variance, shape (L,)."""
    weight = np.where(shown, spectrum.ivar, 0.0).astype(np.float64)
    flux = np.where(shown, spectrum.flux, 0.0)
    kernel = np.ones(SMOOTH_PIXELS)
    total = np.convolve(weight, kernel)[SMOOTH_PIXELS // 2 :][: len(spectrum)]
    light = np.convolve(weight * flux, kernel)[SMOOTH_PIXELS // 2 :][: len(spectrum)]
    return np.divide(light, total, out=np.full(len(spectrum), np.nan), where=total > 0)


def signal_to_noise(spectrum: Spectrum) -> float:
    """Median of flux over error of the good pixels; 0 where there are none.

    Args:
        spectrum: The spectrum.
    """
    good = spectrum.good
    return float(np.median(spectrum.flux[good] / spectrum.error[good])) if good.any() else 0.0


def _extent(spectrum: Spectrum) -> tuple[float, float]:
    wavelength = spectrum.wavelength[spectrum.good] if spectrum.good.any() else spectrum.wavelength
    margin = 0.005 * (wavelength[-1] - wavelength[0]) or 1.0
    return float(wavelength[0] - margin), float(wavelength[-1] + margin)


LABEL_TEXTS = {"teff": "{:.0f} K", "logg": "log g {:.1f}", "feh": "[Fe/H] {:+.1f}"}


def _description(spectrum: Spectrum) -> str:
    """Name, class, S/N and the labels of the spectrum that say how it should look."""
    labels = spectrum.labels
    texts = [text.format(labels[name]) for name, text in LABEL_TEXTS.items() if name in labels]
    if "redshift" in labels and labels.get("class") != "STAR":
        texts.append(f"z {labels['redshift']:.3f}")
    texts.append(f"S/N {signal_to_noise(spectrum):.0f}")
    return f"{spectrum.name} {labels.get('class', '')}".strip() + ", " + ", ".join(texts)


def _new_sheet(rows: int) -> np.ndarray:
    axes: np.ndarray = import_pyplot().subplots(
        rows, 2, squeeze=False, figsize=(13, 0.6 + 1.45 * rows), layout="constrained", gridspec_kw={"hspace": 0.02}
    )[1]
    return axes


def import_pyplot() -> ModuleType:
    """matplotlib.pyplot, imported where it is needed.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "spectok-hf[plot]".') from error
    return plt


def _new_axes() -> "tuple[Axes, Axes]":
    _, axes = import_pyplot().subplots(
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


__all__ = ["import_pyplot", "plot_contact_sheet", "plot_reconstruction", "signal_to_noise"]
