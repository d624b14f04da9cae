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

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.readers import read_spectra
from ..data.spectrum_side import check_tokens, other_reading, reading_of
from ..data.whole_files import write_arrays, written_whole
from ..models.spectrum import Spectrum
from .anomaly_scores import box_scan
from .normal_spectra import COMBINED, INGREDIENTS, STATISTICS, Norm, Reference, Seen, see
from .plots import FLUX_COLOR, MODEL_COLOR, import_pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_REFERENCES = 60  # of a survey: with fewer, no p-value gets below 0.02, and nothing can be fitted
MAP_WIDTHS = (1, 2, 4, 8, 16, 32)  # pixels, of the significance map
MAP_LIMIT = 8.0  # standard deviations where its colours end
ODD_REACH = 2  # pixels on either side of the most significant residual that a picture shows uncut
FORMAT = 1
ARRAYS, FACTS = "outliers.safetensors", "outliers.json"

Row = dict[str, Any]


class OutlierDetector:
    """Ranks spectra by how odd they are among references of their survey, kind and signal-to-noise ratio.

    Args:
        encoder: A `SpectrumEncoder` of an autoencoder.

    Raises:
        ValueError: If it reads pictures.
    """

    def __init__(self, encoder: Any):
        instead = "take an autoencoder such as spectok-tiny, or compare embeddings, SpectrumIndex(...).nearest_others"
        check_tokens(getattr(encoder, "processor", None), getattr(encoder, "name", ""), "OutlierDetector", instead)
        self.encoder = encoder
        self.references: dict[str, Reference] = {}
        self.axes: dict[str, tuple[str, str]] = {}  # medium and frame of the references

    def fit(self, spectra: Any) -> "OutlierDetector":
        """Learn what is normal, survey by survey. A few odd spectra among the references do little harm.

        Args:
            spectra: References, at least 60 valid ones of each survey: whatever `read_spectra` takes.

        Returns:
            The detector.

        Raises:
            ValueError: If a survey has too few, or those of one are in different media or frames.
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
        axes = _axes(spectra, groups)
        self.references = {
            survey: Reference.fit([_valid(seen[row]) for row in rows]) for survey, rows in groups.items()
        }
        self.axes = axes
        return self

    def rank(self, spectra: Any) -> list[Row]:
        """A row per spectrum, the oddest first; those that cannot be judged come last, with the reason.

        Without `fit`, the spectra are their own references: each is left out of what it is compared with. After `fit`,
        none should be one of the references, whose p-values would be a little too high.

        Args:
            spectra: Whatever `read_spectra` takes.

        Returns:
            Rows with `object_id`, `survey`, `index` (place in the input), `score` (higher = odder: -log10 of the
            smallest of `p_pixels`, `p_components` and `p_parts`, smoothly beyond the oddest reference), `p` (of the
            score; that of normal spectra is uniform), `p_reconstruction`, `p_pixels`, `p_components`, `p_parts` and
            `p_distance`, under the bare names of these their statistics in robust standard deviations, `wavelength`
            (Å, of the most significant residual), and `reason`. What is not known is NaN.

        Raises:
            ValueError: If there is no spectrum, or without `fit` no survey has 60 valid ones, or those of one are in
                different media or frames.
        """
        spectra = read_spectra(spectra)
        if not spectra:
            raise ValueError("there must be at least one spectrum, found none: check what was passed")
        seen = self._see(spectra)
        groups = _groups(spectra, seen, self.axes)
        references = self.references or self._own_references(spectra, groups, seen)
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
            ValueError: If the detector does not know the survey, its references are in another medium or frame, or the
                spectrum has no valid patch.
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
        if np.isnan(row["score"]):
            raise ValueError(f"{spectrum!r} is {row['reason']}")
        if axes is None:
            axes = import_pyplot().subplots(
                2, 1, sharex=True, figsize=(10, 5), height_ratios=(3, 2), layout="constrained"
            )[1]
        _draw(axes, spectrum, seen, self.references[survey].norm, row)
        return axes[0], axes[1]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write what was fitted: `outliers.safetensors` and `outliers.json`.

        Args:
            folder: Made where there is none.
            overwrite: Whether to replace a detector that is there.

        Raises:
            ValueError: If nothing was fitted, or a detector is there and not `overwrite`.
        """
        if not self.references:
            raise ValueError("there is nothing to save: call fit with references first")
        folder = Path(folder).expanduser()
        if not overwrite and any((folder / name).exists() for name in (ARRAYS, FACTS)):
            raise ValueError(f"{folder} holds a detector already: pass another folder, or overwrite=True")
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {
            f"{survey}/{name}": array
            for survey, reference in self.references.items()
            for name, array in reference.arrays().items()
        }
        facts = {"format": FORMAT, "surveys": list(self.references), "statistics": STATISTICS}
        facts["encoder"] = getattr(self.encoder, "fingerprint", None)
        if hasattr(self.encoder, "processor"):
            facts["processor"] = reading_of(self.encoder.processor)
        facts["axes"] = self.axes
        with written_whole(folder / FACTS) as about, written_whole(folder / ARRAYS) as fitted:
            write_arrays(arrays, fitted)
            # A run that is killed between the two files must not leave arrays under the facts of other ones.
            facts["sha256"] = _sha256(fitted)
            about.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, encoder: Any) -> "OutlierDetector":
        """A detector that was saved.

        Args:
            folder: Where it was saved.
            encoder: The encoder that it was fitted with.

        Raises:
            FileNotFoundError: If none was saved there.
            ValueError: If it was fitted with another encoder, or with other settings of its processor, or by another
                version of this module, or is damaged.
        """
        from safetensors.numpy import load_file

        folder = Path(folder).expanduser()
        facts = _read_facts(folder)
        if facts["encoder"] != getattr(encoder, "fingerprint", None):
            raise ValueError(f"{folder} was fitted with another encoder: load that one, or fit the detector again")
        if other := other_reading(facts.get("processor"), getattr(encoder, "processor", None)):
            raise ValueError(
                f"{folder} was fitted with a processor that reads spectra otherwise, and this one has {other}: set it "
                "alike, or fit the detector again"
            )
        arrays = load_file(folder / ARRAYS)
        detector = cls(encoder)
        for survey in facts["surveys"]:
            own = {name.removeprefix(f"{survey}/"): array for name, array in arrays.items() if _is_of(name, survey)}
            detector.references[survey] = Reference.from_arrays(own)
        detector.axes = {survey: (medium, frame) for survey, (medium, frame) in facts.get("axes", {}).items()}
        return detector

    def _see(self, spectra: Sequence[Spectrum]) -> list[Seen | None]:
        """The spectra as the encoder sees them, None without a valid patch."""
        if not spectra:
            return []
        tokens = self.encoder.encode(spectra, output="last_hidden_state", on_invalid="mask")
        reconstructions = self.encoder.reconstruct(spectra, on_invalid="mask")
        return [see(*parts) for parts in zip(spectra, tokens, reconstructions, strict=True)]

    def _own_references(
        self, spectra: Sequence[Spectrum], groups: Mapping[str, list[int]], seen: Sequence[Seen | None]
    ) -> dict[str, Reference]:
        enough = {survey: rows for survey, rows in groups.items() if len(rows) >= LEAST_REFERENCES}
        if not enough:
            found = ", ".join(f"{len(rows)} of {survey}" for survey, rows in groups.items()) or "none"
            raise ValueError(
                f"spectra that are their own references must be {LEAST_REFERENCES} valid ones of a survey, found "
                f"{found}: pass more, or call fit with references first"
            )
        _axes(spectra, enough)
        return {survey: Reference.fit([_valid(seen[row]) for row in rows]) for survey, rows in enough.items()}

    def _unjudged(self, spectrum: Spectrum, index: int, seen: Seen | None, references: Mapping[str, Any]) -> Row:
        """A row without a figure, and why, where there will be none."""
        survey = _survey(spectrum)
        reason = ""
        if seen is None:
            reason = "not judged: no valid patch" if spectrum.good.any() else "not judged: all pixels are bad"
        elif survey not in references:
            reason = f"not judged: too few references of survey {survey!r}"
        elif not _fits(spectrum, self.axes):
            reason = (
                f"not judged: in {_axis(spectrum)}, and the references of {survey!r} in {_axis(self.axes[survey])}"
            )
        numbers = dict.fromkeys(
            ["score", "p", *(f"p_{name}" for name in INGREDIENTS), *INGREDIENTS, "wavelength"], np.nan
        )
        return {"object_id": spectrum.object_id, "survey": survey, "index": index} | numbers | {"reason": reason}


def _survey(spectrum: Spectrum) -> str:
    return spectrum.survey or "unnamed"


def _groups(
    spectra: Sequence[Spectrum],
    seen: Sequence[Seen | None],
    axes: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> dict[str, list[int]]:
    """Places of the valid spectra of each survey, in the medium and frame of the references where those are known."""
    groups: dict[str, list[int]] = {}
    for row, (spectrum, one) in enumerate(zip(spectra, seen, strict=True)):
        if one is not None and _fits(spectrum, axes):
            groups.setdefault(_survey(spectrum), []).append(row)
    return groups


def _fits(spectrum: Spectrum, axes: Mapping[str, tuple[str, str]]) -> bool:
    own = (spectrum.medium, spectrum.frame)
    return axes.get(_survey(spectrum), own) == own


def _axis(axis: Spectrum | tuple[str, str]) -> str:
    medium, frame = (axis.medium, axis.frame) if isinstance(axis, Spectrum) else axis
    return f"{medium}, {frame} frame"


def _axes(spectra: Sequence[Spectrum], groups: Mapping[str, list[int]]) -> dict[str, tuple[str, str]]:
    """Medium and frame of each survey: pixels are compared by their wavelengths, which mean the same in one alone."""
    axes = {}
    for survey, rows in groups.items():
        found = sorted({(spectra[row].medium, spectra[row].frame) for row in rows})
        if len(found) > 1:
            named = " and ".join(map(_axis, found))
            raise ValueError(f"the references of {survey!r} must be in one medium and frame, found {named}: pass one")
        axes[survey] = found[0]
    return axes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_of(name: str, survey: str) -> bool:
    return name.rpartition("/")[0] == survey  # a survey may have a slash in its name


def _read_facts(folder: Path) -> dict[str, Any]:
    """What is known of a saved detector, whose arrays are those that were saved with it."""
    lost = [name for name in (FACTS, ARRAYS) if not (folder / name).is_file()]
    if lost:
        raise FileNotFoundError(f"no detector at {folder}: {', '.join(lost)} is not there")
    damaged = f"the detector at {folder} is damaged: copy it again, or fit and save it again"
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        found, statistics = facts["format"], tuple(facts["statistics"])
        facts["encoder"], facts["surveys"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(damaged) from error
    if found != FORMAT or statistics != STATISTICS:
        raise ValueError(f"{folder} must be of format {FORMAT}, found {found}: fit the detector again")
    if facts.get("sha256") not in (None, _sha256(folder / ARRAYS)):
        raise ValueError(damaged)
    return dict(facts)


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
    shown = [*np.nanpercentile(flux, [0.2, 99.8]), *_odd_fluxes(seen, row["wavelength"])]
    low, high = np.min(shown), np.max(shown)
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


def _odd_fluxes(seen: Seen, wavelength: float) -> np.ndarray:
    """Good fluxes around what a picture is drawn for, whatever the scale of the rest."""
    near = np.argsort(np.abs(seen.wavelength - wavelength))[: 2 * ODD_REACH + 1]
    found: np.ndarray = seen.flux[near][seen.good[near]]
    return found


__all__ = ["INGREDIENTS", "OutlierDetector"]
