"""Contact sheets: real spectra, each beside a simulated one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..data.lines import label_number
from ..models.patches import find_segments
from ..models.spectrum import Spectrum
from .plots import import_pyplot, signal_to_noise

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RAW_COLOR, SMOOTH_COLOR = "0.75", "k"
SMOOTH_BELOW = 8.0  # signal-to-noise ratio of a spectrum that is drawn smoothed over its own pixels
SMOOTH_PIXELS = 11


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


def _extent(spectrum: Spectrum) -> tuple[float, float]:
    wavelength = spectrum.wavelength[spectrum.good] if spectrum.good.any() else spectrum.wavelength
    margin = 0.005 * (wavelength[-1] - wavelength[0]) or 1.0
    return float(wavelength[0] - margin), float(wavelength[-1] + margin)


LABEL_TEXTS = {"teff": "{:.0f} K", "logg": "log g {:.1f}", "feh": "[Fe/H] {:+.1f}"}


def _description(spectrum: Spectrum) -> str:
    """Name, class, S/N and the labels of the spectrum that say how it should look."""
    labels = spectrum.labels
    known = {name: value for name in LABEL_TEXTS if (value := label_number(spectrum, name)) is not None}
    texts = [LABEL_TEXTS[name].format(value) for name, value in known.items()]
    if (redshift := label_number(spectrum, "redshift")) is not None and labels.get("class") != "STAR":
        texts.append(f"z {redshift:.3f}")
    texts.append(f"S/N {signal_to_noise(spectrum):.0f}")
    return f"{spectrum.name} {labels.get('class') or ''}".strip() + ", " + ", ".join(texts)


def _new_sheet(rows: int) -> np.ndarray:
    axes: np.ndarray = import_pyplot().subplots(
        rows, 2, squeeze=False, figsize=(13, 0.6 + 1.45 * rows), layout="constrained", gridspec_kw={"hspace": 0.02}
    )[1]
    return axes


__all__ = ["plot_contact_sheet"]
