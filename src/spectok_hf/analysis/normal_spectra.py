"""What normal spectra of a survey look like to an encoder, and by how much another spectrum is unlike them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum
from .anomaly_scores import (
    COMPONENTS,
    SCAN_WIDTHS,
    STEP_WIDTHS,
    Calibration,
    Components,
    Kinds,
    Neighbourhood,
    Parts,
    box_scan,
    clipped_chi2,
    conformal_p,
    error_floor,
    smooth_p,
    step_scan,
)

FOLDS = 5  # parts of the references, each scored by what was fitted to the others
LINE_WIDTH = 4  # pixels, of the scan for lines that no mixture of components has
PARTS = 8  # of a spectrum, whose embeddings are predicted from each other
PATCHES_OF_PART = 2  # at least
GRID_TOLERANCE = 0.75  # pixels between a pixel of a spectrum and that of the grid that it is taken for
INGREDIENTS: dict[str, tuple[str, ...]] = {  # each with its statistics, the most telling of which counts
    "reconstruction": ("chi2",),
    "pixels": tuple(f"scan_{width}" for width in SCAN_WIDTHS),
    "components": ("components_chi2", *(f"step_{width}" for width in STEP_WIDTHS), f"line_{LINE_WIDTH}"),
    "parts": ("parts",),
    "distance": ("nearest", "mahalanobis"),
}
COMBINED = ("pixels", "components", "parts")  # what the score is made of; the others were measured to dilute it
STATISTICS = tuple(name for names in INGREDIENTS.values() for name in names)


@dataclass(frozen=True)
class Seen:
    """A spectrum as the encoder sees it, on its own pixels, in units of its scale.

    Args:
        flux: Shape (L,).
        error: Shape (L,), infinite at bad pixels and where the reconstruction does not reach.
        reconstruction: Shape (L,).
        wavelength: Å, shape (L,).
        snr: Median of flux over error, at least 0.01.
        states: Hidden states of the valid patches, shape (patches, d).
        places: Their wavelengths in Å, shape (patches,).
    """

    flux: np.ndarray
    error: np.ndarray
    reconstruction: np.ndarray
    wavelength: np.ndarray
    snr: float
    states: np.ndarray
    places: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Pixels that count, shape (L,)."""
        return np.isfinite(self.error)

    def onto(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reconstruction and error on the pixels of a grid, the error infinite where the spectrum has none.

        Args:
            grid: Å, shape (G,).
        """
        pixel = np.clip(np.searchsorted(self.wavelength, grid), 1, len(self.wavelength) - 1)
        left, right = self.wavelength[pixel - 1], self.wavelength[pixel]
        pixel = np.where(grid - left < right - grid, pixel - 1, pixel)
        near = np.abs(self.wavelength[pixel] - grid) <= GRID_TOLERANCE * np.gradient(grid)
        error = np.where(near, self.error[pixel], np.inf)
        return np.where(np.isfinite(error), self.reconstruction[pixel], 0), error

    def residual(self, grid: np.ndarray, floor: np.ndarray) -> np.ndarray:
        """Flux less reconstruction over its error with a floor that is known on a grid, shape (L,)."""
        error = np.hypot(self.error, np.interp(self.wavelength, grid, floor))
        return np.where(self.good, (self.flux - self.reconstruction) / np.where(self.good, error, 1), 0)

    def parts(self, edges: np.ndarray) -> np.ndarray:
        """Mean state between wavelengths, shape (parts, d), NaN where there is no valid patch."""
        part = np.searchsorted(edges, self.places)
        means = np.full((len(edges) + 1, self.states.shape[1]), np.nan)
        for number in np.unique(part):
            means[number] = self.states[part == number].mean(0)
        return means


@dataclass(frozen=True)
class Norm:
    """What is normal in a survey, fitted to references.

    Args:
        grid: Å, shape (G,).
        floor: Of the error of the reconstruction, see `error_floor`, shape (G,).
        edges: Wavelengths between the parts in Å, shape (parts - 1,).
        components: Of the reconstructions.
        parts: Of the embeddings of parts.
        neighbourhood: Of the embeddings.
    """

    grid: np.ndarray
    floor: np.ndarray
    edges: np.ndarray
    components: Components
    parts: Parts
    neighbourhood: Neighbourhood

    @classmethod
    def fit(cls, seen: Sequence[Seen]) -> "Norm":
        """The norm of references of one survey.

        Args:
            seen: The references.
        """
        grid = max((one.wavelength for one in seen), key=len)
        on_grid = [one.onto(grid) for one in seen]
        flux, errors = (np.stack(arrays) for arrays in zip(*on_grid, strict=True))
        residuals = np.stack([np.interp(grid, one.wavelength, one.flux - one.reconstruction) for one in seen])
        edges = _edges(seen)
        vectors, snr = np.stack([one.parts(edges) for one in seen]), np.array([one.snr for one in seen])
        return cls(
            grid,
            error_floor(np.where(np.isfinite(errors), residuals, 0), errors),
            edges,
            Components.fit(flux, errors, max(min(COMPONENTS, len(seen) // 10), 2)),
            Parts.fit(vectors, snr),
            Neighbourhood.fit(_embeddings(seen)),
        )

    def statistics(self, seen: Sequence[Seen]) -> np.ndarray:
        """The statistics of spectra, in the order of `STATISTICS`, shape (n, statistics).

        Args:
            seen: The spectra.
        """
        pixels = np.array([self._of_pixels(one) for one in seen])
        snr = np.array([one.snr for one in seen])
        parts = self.parts.distances(np.stack([one.parts(self.edges) for one in seen]), snr)
        known = np.isfinite(parts)
        mean = np.where(known, parts, 0).sum(1) / np.maximum(known.sum(1), 1)
        distances = self.neighbourhood.distances(_embeddings(seen))
        return np.column_stack([pixels, np.where(known.any(1), mean, np.nan), distances])

    def _of_pixels(self, seen: Seen) -> list[float]:
        residual = seen.residual(self.grid, self.floor)
        beyond, good = self.beyond_components(seen)
        scans = [_largest(box_scan(residual, seen.good, width)) for width in SCAN_WIDTHS]
        steps = [_largest(step_scan(beyond, good, width)) for width in STEP_WIDTHS]
        line = _largest(box_scan(beyond, good, LINE_WIDTH))
        return [clipped_chi2(residual, seen.good), *scans, clipped_chi2(beyond, good), *steps, line]

    def beyond_components(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        """Residual of the components over its error, and which pixels count, each on the grid.

        Args:
            seen: A spectrum.
        """
        flux, error = seen.onto(self.grid)
        good = np.isfinite(error)
        residual = self.components.residual(flux, error) / np.hypot(np.where(good, error, 1), self.components.floor)
        return residual, good

    def features(self, seen: Seen) -> dict[str, str]:
        """What is most conspicuous to each ingredient, in words, and where.

        Args:
            seen: A spectrum.
        """
        residual = seen.residual(self.grid, self.floor)
        scans = {width: box_scan(residual, seen.good, width) for width in SCAN_WIDTHS}
        width = max(scans, key=lambda one: float(np.abs(scans[one]).max()))
        pixel = int(np.abs(scans[width]).argmax())
        beyond, good = self.beyond_components(seen)
        shape = step_scan(beyond, good, STEP_WIDTHS[-1])
        shape = shape if shape.any() else box_scan(beyond, good, LINE_WIDTH)  # of spectra that are too short for it
        parts = self.parts.distances(seen.parts(self.edges)[None], np.array([seen.snr]))[0]
        odd = int(np.nan_to_num(parts, nan=-1).argmax())
        low, high = np.concatenate([seen.wavelength[:1], self.edges, seen.wavelength[-1:]])[odd : odd + 2]
        chi2 = clipped_chi2(residual, seen.good)
        return {
            "reconstruction": f"the model cannot reconstruct it: clipped chi2/pixel {chi2:.2f}",
            "pixels": f"narrow feature at {seen.wavelength[pixel]:.1f} Å: {scans[width][pixel]:+.1f} sigma over "
            f"{width} pixel{'s' if width > 1 else ''}",
            "components": "its shape is no mixture of the references', most of all around "
            f"{self.grid[int(np.abs(shape).argmax())]:.0f} Å",
            "parts": f"its parts do not belong together, least of all {low:.0f}-{high:.0f} Å",
            "distance": "its embedding is far from those of the references",
        }

    def most_significant(self, seen: Seen) -> float:
        """Wavelength of the most significant residual in Å.

        Args:
            seen: A spectrum.
        """
        residual = seen.residual(self.grid, self.floor)
        scans = np.abs([box_scan(residual, seen.good, width) for width in SCAN_WIDTHS])
        return float(seen.wavelength[int(scans.max(0).argmax())])


@dataclass(frozen=True)
class Reference:
    """The norm of a survey, and the references that its statistics are compared with.

    Args:
        norm: Fitted to four fifths of the references, as those were by which the references were scored: one that is
            fitted to more is a little less surprised by a new spectrum, whose p-value would be too high.
        kinds: Clusters of their embeddings.
        calibration: Their statistics, each by a norm that was fitted without it.
        oddness: Standardised, one column per ingredient, shape (n, ingredients).
        scores: Their scores, shape (n,).
    """

    norm: Norm
    kinds: Kinds
    calibration: Calibration
    oddness: np.ndarray
    scores: np.ndarray

    @classmethod
    def fit(cls, seen: Sequence[Seen]) -> "Reference":
        """The reference of a survey.

        Args:
            seen: The spectra.
        """
        snr = np.array([one.snr for one in seen])
        statistics = np.empty((len(seen), len(STATISTICS)))
        fold = np.arange(len(seen)) % FOLDS
        norms = [Norm.fit([one for one, own in zip(seen, fold, strict=True) if own != left]) for left in range(FOLDS)]
        for left, norm in enumerate(norms):
            statistics[fold == left] = norm.statistics(
                [one for one, own in zip(seen, fold, strict=True) if own == left]
            )
        vectors = _embeddings(seen)
        kinds = Kinds.fit(vectors, snr)
        calibration = Calibration(statistics, snr, kinds.of(vectors, snr))
        oddness = _by_ingredient(calibration.standardise(statistics, snr, calibration.kinds, own=True))
        return cls(norms[0], kinds, calibration, oddness, _combined(oddness, oddness))

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was fitted, by name, for `from_arrays`."""
        return dict(_flat(asdict(self)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Reference":
        """A reference that was saved.

        Args:
            arrays: What `arrays` gave.
        """

        def fields(prefix: str) -> dict[str, Any]:
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            return {name: array for name, array in own.items() if "." not in name}

        models = {"components": Components, "parts": Parts, "neighbourhood": Neighbourhood}
        fitted: dict[str, Any] = {name: kind(**fields(f"norm.{name}.")) for name, kind in models.items()}
        return cls(
            norm=Norm(**fields("norm."), **fitted),
            kinds=Kinds(**fields("kinds.")),
            calibration=Calibration(**fields("calibration.")),
            **fields(""),
        )

    def own_figures(self) -> dict[str, np.ndarray]:
        """Scores and p-values of the references themselves, each left out of what it is compared with."""
        return self._figures(self.oddness, self.scores, own=True)

    def figures(self, seen: Sequence[Seen]) -> dict[str, np.ndarray]:
        """Scores and p-values of other spectra.

        Args:
            seen: The spectra.
        """
        snr = np.array([one.snr for one in seen])
        kinds = self.kinds.of(_embeddings(seen), snr)
        oddness = _by_ingredient(self.calibration.standardise(self.norm.statistics(seen), snr, kinds))
        return self._figures(oddness, _combined(oddness, self.oddness), own=False)

    def _figures(self, oddness: np.ndarray, scores: np.ndarray, *, own: bool) -> dict[str, np.ndarray]:
        figures = {"score": scores, "p": conformal_p(scores, self.scores, own=own)}
        for column, name in enumerate(INGREDIENTS):
            figures[f"p_{name}"] = conformal_p(oddness[:, column], self.oddness[:, column], own=own)
            figures[name] = oddness[:, column]
        return figures


def see(spectrum: Spectrum, tokens: Any, reconstruction: Spectrum) -> Seen | None:
    """A spectrum as an encoder sees it; None where it has no valid patch.

    Args:
        spectrum: The spectrum.
        tokens: Its hidden states: anything with `values`, shape (patches, d), and `wavelength`, shape (patches,).
        reconstruction: On the grid and in the unit of the spectrum, with `mask` True where it does not reach.
    """
    good = spectrum.good & ~reconstruction.mask
    if not len(tokens.values) or not good.any():
        return None
    error = np.where(good, spectrum.error, np.inf)
    scale = max(float(np.median(spectrum.flux[good])), float(np.median(error[good])))
    flux = np.where(good, spectrum.flux, 0) / scale
    return Seen(
        flux=flux,
        error=error / scale,
        reconstruction=np.where(good, reconstruction.flux, 0) / scale,
        wavelength=spectrum.wavelength,
        snr=max(float(np.median(flux[good] * scale / error[good])), 0.01),
        states=np.asarray(tokens.values, dtype=np.float64),
        places=np.asarray(tokens.wavelength, dtype=np.float64),
    )


def _embeddings(seen: Sequence[Seen]) -> np.ndarray:
    return np.stack([one.states.mean(0) for one in seen])


def _largest(scan: np.ndarray) -> float:
    """The most significant of a scan; NaN where no pixel has enough of them around it, which is not "normal"."""
    return float(np.abs(scan).max()) if scan.any() else np.nan


def _edges(seen: Sequence[Seen]) -> np.ndarray:
    """Wavelengths that cut the patches of the references into parts of equal number."""
    places = np.concatenate([one.places for one in seen])
    count = max(min(PARTS, int(np.median([len(one.places) for one in seen])) // PATCHES_OF_PART), 2)
    return np.quantile(places, np.arange(1, count) / count)


def _by_ingredient(standardised: np.ndarray) -> np.ndarray:
    """The most telling statistic of each ingredient, shape (n, ingredients); NaN where none is known."""
    columns = []
    for names in INGREDIENTS.values():
        values = standardised[:, [STATISTICS.index(name) for name in names]]
        most = np.where(np.isfinite(values), values, -np.inf).max(1)
        columns.append(np.where(np.isfinite(most), most, np.nan))
    return np.stack(columns, 1)


def _combined(oddness: np.ndarray, references: np.ndarray) -> np.ndarray:
    """-log10 of the smallest p-value of the ingredients that count, shape (n,)."""
    columns = [list(INGREDIENTS).index(name) for name in COMBINED]
    p = np.stack([smooth_p(oddness[:, column], references[:, column]) for column in columns], 1)
    return -np.log10(np.where(np.isfinite(oddness[:, columns]), p, 1).min(1))


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


__all__ = ["COMBINED", "INGREDIENTS", "STATISTICS", "Norm", "Reference", "Seen", "see"]
