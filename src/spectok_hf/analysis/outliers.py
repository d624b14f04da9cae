"""`OutlierDetector`: which spectra are odd, how sure that is, and where in them it shows.

An encoder learns what spectra look like; a detector learns what those of one survey look like to it. Five ingredients,
each with a p-value that is uniform for normal spectra, and each blind to what another one sees; the score is the
smallest p-value of `pixels`, `components` and `parts`, and has a p-value of its own:

* `reconstruction`: chi² of what the autoencoder could not say of the spectrum;
* `pixels`: the most significant narrow feature of that residual, in scans of 1 to 8 pixels;
* `components`: what the reconstruction has beyond the principal components of its survey: chi², and scans for steps;
* `parts`: whether the embedding of each eighth of the spectrum follows from those of the others;
* `distance`: how far the embedding lies from those of the references.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.readers import read_spectra
from ..models.spectrum import Spectrum
from .anomaly_scores import box_scan
from .normal_spectra import COMBINED, INGREDIENTS, STATISTICS, Norm, Reference, Seen, see
from .plots import FLUX_COLOR, MODEL_COLOR, import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_REFERENCES = 60  # of a survey: with fewer, no p-value gets below 0.02, and nothing can be fitted
MAP_WIDTHS = (1, 2, 4, 8, 16, 32)  # pixels, of the significance map
MAP_LIMIT = 8.0  # standard deviations where its colours end
FORMAT = 1

Row = dict[str, Any]


class OutlierDetector:
    """Ranks spectra by how odd they are among references of their survey, kind and signal-to-noise ratio.

    Args:
        encoder: A `SpectrumEncoder` of an autoencoder.
    """

    def __init__(self, encoder: Any):
        self.encoder = encoder
        self.references: dict[str, Reference] = {}

    def fit(self, spectra: Any) -> "OutlierDetector":
        """Learn what is normal, survey by survey. A few odd spectra among the references do little harm.

        Args:
            spectra: References, at least 60 valid ones of each survey: whatever `read_spectra` takes.

        Returns:
            The detector.

        Raises:
            ValueError: If a survey has too few.
        """
        spectra = read_spectra(spectra)
        seen = self._see(spectra)
        groups = _groups(spectra, seen)
        few = {survey: len(rows) for survey, rows in groups.items() if len(rows) < LEAST_REFERENCES}
        if few or not groups:
            found = ", ".join(f"{count} of {survey}" for survey, count in few.items()) or "none"
            raise ValueError(
                f"each survey needs {LEAST_REFERENCES} references with a valid patch, found {found}: pass more, or "
                "leave the survey out"
            )
        self.references = {
            survey: Reference.fit([_valid(seen[row]) for row in rows]) for survey, rows in groups.items()
        }
        return self

    def rank(self, spectra: Any) -> list[Row]:
        """A row per spectrum, the oddest first; those that cannot be judged come last, with the reason.

        Without `fit`, the spectra are their own references: each is left out of what it is compared with.

        Args:
            spectra: Whatever `read_spectra` takes.

        Returns:
            Rows with `object_id`, `survey`, `index` (place in the input), `score` (higher = odder: -log10 of the
            smallest of `p_pixels`, `p_components` and `p_parts`, smoothly beyond the oddest reference), `p` (of the
            score; that of normal spectra is uniform), `p_reconstruction`, `p_pixels`, `p_components`, `p_parts` and
            `p_distance`, under the bare names of these their statistics in robust standard deviations, `wavelength`
            (Å, of the most significant residual), and `reason`. What is not known is NaN.

        Raises:
            ValueError: If there is no spectrum, or without `fit` no survey has 60 valid ones.
        """
        spectra = read_spectra(spectra)
        if not spectra:
            raise ValueError("there must be at least one spectrum, found none: check what was passed")
        seen = self._see(spectra)
        groups = _groups(spectra, seen)
        references = self.references or self._own_references(groups, seen)
        rows = [
            self._unjudged(spectrum, index, one, references)
            for index, (spectrum, one) in enumerate(zip(spectra, seen, strict=True))
        ]
        for survey, members in groups.items():
            if survey in references:
                part = [_valid(seen[member]) for member in members]
                reference = references[survey]
                figures = reference.figures(part) if self.references else reference.own_figures()
                for place, (member, one) in enumerate(zip(members, part, strict=True)):
                    numbers = {name: float(values[place]) for name, values in figures.items()}
                    rows[member] |= numbers | _explanation(reference.norm, one, numbers)
        return sorted(rows, key=lambda row: -np.nan_to_num(row["score"], nan=-np.inf))

    def plot(self, spectrum: Spectrum, *, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """A spectrum with its reconstruction, and below the significance of their difference at several widths.

        Args:
            spectrum: A spectrum of a survey that the detector was fitted to.
            axes: Where to draw the two; None makes a new figure.

        Returns:
            The two axes.

        Raises:
            ValueError: If the detector does not know the survey, or the spectrum has no valid patch.
            ImportError: If matplotlib is not installed.
        """
        survey = _survey(spectrum)
        if survey not in self.references:
            raise ValueError(
                f"a plot needs references of survey {survey!r}, found {', '.join(self.references) or 'none'}: call fit"
            )
        (seen,) = self._see([spectrum])
        if seen is None:
            raise ValueError(f"{spectrum!r} has no valid patch: there is nothing to plot")
        (row,) = self.rank([spectrum])
        if axes is None:
            axes = import_pyplot().subplots(
                2, 1, sharex=True, figsize=(10, 5), height_ratios=(3, 2), layout="constrained"
            )[1]
        _draw(axes, spectrum, seen, self.references[survey].norm, row)
        return axes[0], axes[1]

    def save(self, folder: str | Path) -> None:
        """Write what was fitted: `outliers.safetensors` and `outliers.json`.

        Args:
            folder: Made where there is none.

        Raises:
            ValueError: If nothing was fitted.
        """
        from safetensors.numpy import save_file

        if not self.references:
            raise ValueError("there is nothing to save: call fit with references first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{survey}/{name}": np.ascontiguousarray(array)
            for survey, reference in self.references.items()
            for name, array in reference.arrays().items()
        }
        facts = {"format": FORMAT, "surveys": list(self.references), "statistics": STATISTICS}
        facts["encoder"] = getattr(self.encoder, "fingerprint", None)
        save_file(arrays, folder / "outliers.safetensors")
        (folder / "outliers.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, encoder: Any) -> "OutlierDetector":
        """A detector that was saved.

        Args:
            folder: Where it was saved.
            encoder: The encoder that it was fitted with.

        Raises:
            ValueError: If it was fitted with another encoder, or by another version of this module.
        """
        from safetensors.numpy import load_file

        facts = json.loads((Path(folder) / "outliers.json").read_text(encoding="utf-8"))
        if facts["format"] != FORMAT or tuple(facts["statistics"]) != STATISTICS:
            raise ValueError(f"{folder} must be of format {FORMAT}, found {facts['format']}: fit the detector again")
        if facts["encoder"] != getattr(encoder, "fingerprint", None):
            raise ValueError(f"{folder} was fitted with another encoder: load that one, or fit the detector again")
        arrays = load_file(Path(folder) / "outliers.safetensors")
        detector = cls(encoder)
        for survey in facts["surveys"]:
            own = {
                name.removeprefix(f"{survey}/"): array
                for name, array in arrays.items()
                if name.startswith(f"{survey}/")
            }
            detector.references[survey] = Reference.from_arrays(own)
        return detector

    def _see(self, spectra: Sequence[Spectrum]) -> list[Seen | None]:
        """The spectra as the encoder sees them, None without a valid patch."""
        if not spectra:
            return []
        tokens = self.encoder.encode(spectra, output="last_hidden_state", on_invalid="mask")
        reconstructions = self.encoder.reconstruct(spectra, on_invalid="mask")
        return [see(*parts) for parts in zip(spectra, tokens, reconstructions, strict=True)]

    def _own_references(self, groups: Mapping[str, list[int]], seen: Sequence[Seen | None]) -> dict[str, Reference]:
        enough = {survey: rows for survey, rows in groups.items() if len(rows) >= LEAST_REFERENCES}
        if not enough:
            found = ", ".join(f"{len(rows)} of {survey}" for survey, rows in groups.items()) or "none"
            raise ValueError(
                f"spectra that are their own references must be {LEAST_REFERENCES} valid ones of a survey, found "
                f"{found}: pass more, or call fit with references first"
            )
        return {survey: Reference.fit([_valid(seen[row]) for row in rows]) for survey, rows in enough.items()}

    def _unjudged(self, spectrum: Spectrum, index: int, seen: Seen | None, references: Mapping[str, Any]) -> Row:
        """A row without a figure, and why, where there will be none."""
        survey = _survey(spectrum)
        reason = ""
        if seen is None:
            reason = "not judged: no valid patch" if spectrum.good.any() else "not judged: all pixels are bad"
        elif survey not in references:
            reason = f"not judged: too few references of survey {survey!r}"
        numbers = dict.fromkeys(
            ["score", "p", *(f"p_{name}" for name in INGREDIENTS), *INGREDIENTS, "wavelength"], np.nan
        )
        return {"object_id": spectrum.object_id, "survey": survey, "index": index} | numbers | {"reason": reason}


def _survey(spectrum: Spectrum) -> str:
    return spectrum.survey or "unnamed"


def _groups(spectra: Sequence[Spectrum], seen: Sequence[Seen | None]) -> dict[str, list[int]]:
    """Places of the valid spectra of each survey."""
    groups: dict[str, list[int]] = {}
    for row, (spectrum, one) in enumerate(zip(spectra, seen, strict=True)):
        if one is not None:
            groups.setdefault(_survey(spectrum), []).append(row)
    return groups


def _valid(seen: Seen | None) -> Seen:
    if seen is None:
        raise ValueError("a spectrum must have a valid patch, found none")
    return seen


def _explanation(norm: Norm, seen: Seen, numbers: Mapping[str, float]) -> Row:
    """Where, and in words why: by the ingredient of the smallest p-value, of equals the most odd."""
    order = sorted(COMBINED, key=lambda name: (np.nan_to_num(numbers[f"p_{name}"], nan=2), -numbers[name]))
    return {"wavelength": norm.most_significant(seen), "reason": norm.features(seen)[order[0]]}


def _draw(axes: "tuple[Axes, Axes]", spectrum: Spectrum, seen: Seen, norm: Norm, row: Row) -> None:
    above, below = axes
    flux = np.where(seen.good, seen.flux, np.nan)
    above.plot(seen.wavelength, flux, color=FLUX_COLOR, lw=0.5, label="observed")
    above.plot(
        seen.wavelength,
        np.where(seen.good, seen.reconstruction, np.nan),
        color=MODEL_COLOR,
        lw=0.8,
        label="reconstruction",
    )
    low, high = np.nanpercentile(flux, [0.2, 99.8])
    above.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
    above.legend(loc="upper right", fontsize="small", ncols=2, frameon=False)
    above.set_ylabel("flux / median", fontsize="small")
    above.set_title(f"{spectrum.name}, p = {row['p']:.2g}: {row['reason']}", loc="left", fontsize="medium")
    residual = seen.residual(norm.grid, norm.floor)
    scans = np.stack([box_scan(residual, seen.good, width) for width in MAP_WIDTHS])
    drawn = below.pcolormesh(
        seen.wavelength,
        np.arange(len(MAP_WIDTHS)),
        scans,
        cmap="RdBu_r",
        vmin=-MAP_LIMIT,
        vmax=MAP_LIMIT,
        shading="nearest",
        rasterized=True,
    )
    below.figure.colorbar(drawn, ax=below, label="significance [$\\sigma$]", extend="both", pad=0.01)
    below.set_yticks(np.arange(len(MAP_WIDTHS)), [str(width) for width in MAP_WIDTHS])
    below.set_ylabel("width [pixels]", fontsize="small")
    below.set_xlabel(f"wavelength [Å, {spectrum.medium}, {spectrum.frame} frame]")
    below.axvline(row["wavelength"], color="k", lw=0.6, ls=":")


__all__ = ["INGREDIENTS", "OutlierDetector"]
