"""The latent space of a checkpoint: maps of its embeddings, and what neighbours in it tell of an object.

    python examples/latent_space.py outputs/first-training --spectra ../shared/spectra --output outputs/latent_space
    python examples/latent_space.py outputs/demo/model --smoke

Embeddings are the mean of the hidden states over the patches (`pooler_output`), standardised and compared by their
angle. Maps are UMAPs of them. `real.png` shows the real spectra by class, redshift, Teff, and by survey, which is a
warning: nearly every star here is LAMOST's or APOGEE's and nearly every quasar BOSS's, so that an instrument looks
like a class; `optical.png` those of SDSS, BOSS, DESI and LAMOST, whose ranges are nearly the same; `galaxies.png`
simulated galaxies of one survey by stellar mass, redshift, age and star formation, as the paper's figure does.

`neighbours.md` and `.csv` say how far the gradients are real: the mean label of the 10 nearest spectra of other
objects (leaving one object out at a time) against the true one, R² or accuracy; by neighbours among the embeddings,
on the map, among the means of the tokens, and among 20 principal components of the flux on one grid, which know no
model. Redshifts are compared as ln(1 + z). Scores within a survey are to be trusted; those of all surveys together
hold the instrument.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from judged_checkpoint import Checkpoint, add_options, load_checkpoint, save_picture, write_report
from real_spectra import load_real_spectra
from run_settings import drop_invalid

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.analysis.latent_space import (
    COMPONENTS,
    NEIGHBOURS,
    directions,
    neighbour_score,
    plot_map,
    principal_components,
    umap_map,
)
from spectok_hf.analysis.plots import import_pyplot
from spectok_hf.data.dataset import by_survey, object_groups
from spectok_hf.data.labels import TARGET_UNITS
from spectok_hf.evaluation.adaptation import encode
from spectok_hf.evaluation.probes import raw_flux
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.tasks import NotApplicable
from spectok_hf.hub import Result

SEED = 2511  # of the simulated galaxies; not one that training has
LEAST_SPECTRA, LEAST_OF_CLASS = 30, 5  # for a row of the table
STELLAR = ("teff", "logg", "feh")
GALACTIC = ("log_stellar_mass", "redshift", "age", "log_ssfr")
NAMES = {
    "teff": "Teff",
    "logg": "log g",
    "feh": "[Fe/H]",
    "log_stellar_mass": "log stellar mass",
    "log_ssfr": "log sSFR",
}
TOGETHER = "all, surveys mixed"
OPTICAL = ("sdss", "boss", "desi", "lamost")
REAL = ("class", "redshift", "teff", "survey")  # labels of a map

Row = dict[str, Any]


@dataclass(frozen=True)
class Embedded:
    """Spectra, their embeddings and mean tokens, shapes (n, d), at unit length, and places on a map, shape (n, 2)."""

    spectra: list[Spectrum]
    vectors: np.ndarray
    tokens: np.ndarray
    places: np.ndarray

    def part(self, chosen: np.ndarray) -> "Embedded":
        """Some of them.

        Args:
            chosen: Which, shape (n,), bool.
        """
        kept = [spectrum for spectrum, keep in zip(self.spectra, chosen, strict=True) if keep]
        return Embedded(kept, self.vectors[chosen], self.tokens[chosen], self.places[chosen])


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "outputs/latent_space")
    parser.add_argument("--survey", default="desi", help="whose galaxies are simulated")
    parser.add_argument("--galaxies", type=int, default=800, help="simulated galaxies")
    parser.add_argument(
        "--snr", type=float, nargs=2, default=(10.0, 50.0), help="lowest and highest S/N per pixel of these"
    )
    args = parser.parse_args(argv)
    if args.smoke:
        args.galaxies = 16
    return args


def embed(checkpoint: Checkpoint, spectra: list[Spectrum]) -> Embedded:
    """Embeddings of spectra and their map.

    Args:
        checkpoint: The checkpoint.
        spectra: Spectra with a valid patch each.
    """
    encoded = encode(checkpoint.model.base_model, checkpoint.processor, spectra)
    vectors, tokens = (
        directions(np.stack([getattr(one, name).mean(0).numpy() for one in encoded]))
        for name in ("last_hidden_state", "tokens")
    )
    return Embedded(spectra, vectors, tokens, umap_map(vectors))


def label(spectrum: Spectrum, name: str) -> Any:
    """A label, of redshifts those of galaxies and quasars alone; NaN, or None for a class, where it is missing.

    Args:
        spectrum: The spectrum.
        name: Name of the label, or "survey".
    """
    if name == "survey":
        return spectrum.survey
    if name == "class":
        return spectrum.labels.get(name)
    if name == "redshift" and spectrum.labels.get("class") not in ("GALAXY", "QSO"):
        return np.nan
    return float(spectrum.labels.get(name, np.nan))


def score(name: str, embedded: Embedded, target: str) -> Row:
    """What neighbours tell of a label.

    Args:
        name: What the spectra are called in the table.
        embedded: Spectra that all have the label.
        target: The label.
    """
    labels = np.array([label(spectrum, target) for spectrum in embedded.spectra])
    labels = np.log1p(labels) if target == "redshift" else labels
    groups = object_groups(embedded.spectra)
    known = {"spectra": len(labels), "objects": len(set(groups)), "score": "accuracy" if _is_class(target) else "R²"}
    spaces = {
        "embedding": embedded.vectors,
        "UMAP": embedded.places,
        "mean token": embedded.tokens,
        "PCA of flux": _flux_components(embedded.spectra),
    }
    figures: Row = {
        space: None if vectors is None else neighbour_score(vectors, labels, groups)
        for space, vectors in spaces.items()
    }
    if _is_class(target):
        figures["most frequent"] = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return {"sample": name, "label": NAMES.get(target, target)} | known | figures


def _is_class(target: str) -> bool:
    return target in ("class", "survey")


def _flux_components(spectra: Sequence[Spectrum]) -> np.ndarray | None:
    """Of flux over its median on the grid that the spectra share; None where they share none."""
    try:
        return principal_components(raw_flux(spectra))
    except NotApplicable:
        return None


def judge_real(embedded: Embedded) -> list[Row]:
    """Rows of real spectra: each label within each survey, and class and survey of all together.

    Args:
        embedded: All real spectra.
    """
    rows = []
    surveys = np.array([spectrum.survey for spectrum in embedded.spectra])
    samples = {survey: embedded.part(surveys == survey) for survey in by_survey(embedded.spectra)}
    samples["sdss and boss"] = embedded.part(np.isin(surveys, ("sdss", "boss")))
    for name, sample in samples.items():
        targets = ("class", "redshift", *STELLAR) if " and " not in name else ("class",)
        rows += [score(name, part, target) for target, part in _usable(sample, targets)]
    return rows + [score(TOGETHER, part, target) for target, part in _usable(embedded, ("class", "survey"))]


def _usable(sample: Embedded, targets: Sequence[str]) -> Iterator[tuple[str, Embedded]]:
    """Labels that enough of the spectra have, with those spectra; rare classes are left out."""
    for target in targets:
        labels = [label(spectrum, target) for spectrum in sample.spectra]
        if _is_class(target):
            names, counts = np.unique([str(name) for name in labels], return_counts=True)
            kept = set(names[(counts >= LEAST_OF_CLASS) & (names != "None")])
            chosen = np.array([str(name) in kept for name in labels], dtype=bool)
            enough = len(kept) > 1
        else:
            chosen = np.isfinite(np.array(labels, dtype=float))
            enough = True
        part = sample.part(chosen)
        if enough and len(set(object_groups(part.spectra))) >= LEAST_SPECTRA:
            yield target, part


def judge_galaxies(name: str, embedded: Embedded) -> list[Row]:
    """Rows of simulated galaxies, one per label.

    Args:
        name: What they are called in the table.
        embedded: The galaxies.
    """
    return [score(name, embedded, target) for target in GALACTIC if target in embedded.spectra[0].labels]


def card_results(rows: Sequence[Row]) -> list[Result]:
    """The figures as a model card has them, beside those of the flux; without labels that instruments give away.

    Args:
        rows: What `judge` returned.
    """
    return [
        Result(
            task="latent space",
            target=str(row["label"]),
            metric=f"{row['score']} of the {NEIGHBOURS} nearest",
            value=float(f"{row['embedding']:.3g}"),
            better_is="higher",
            dataset=f"{row['sample']} spectra",
            split="neighbours among other objects; the pretraining had seen three quarters of the real spectra",
            test_objects=row["objects"],
            method="k-NN of embeddings",
            baseline=f"k-NN of {COMPONENTS} principal components of the flux",
            baseline_value=float(f"{row['PCA of flux']:.3g}"),
        )
        for row in rows
        if row["PCA of flux"] is not None
    ]


def draw(embedded: Embedded, targets: Sequence[str], title: str) -> Any:
    """A figure with the map in the colours of four labels.

    Args:
        embedded: What is on the map.
        targets: The labels; one that no spectrum has is left out.
        title: Title of each map, before the label.
    """
    columns = {target: np.array([label(spectrum, target) for spectrum in embedded.spectra]) for target in targets}
    columns = {target: values for target, values in columns.items() if _is_known(values)}
    rows = -(-len(columns) // 2)
    figure, axes = import_pyplot().subplots(rows, 2, figsize=(10, 4 * rows), layout="constrained", squeeze=False)
    for ax, (target, values) in zip(axes.flat, columns.items(), strict=False):
        name = NAMES.get(target, target)
        plot_map(
            embedded.places, values, name=name, unit=TARGET_UNITS.get(target, ""), title=f"{title}: {name}", ax=ax
        )
    for ax in axes.flat[len(columns) :]:
        ax.set_axis_off()
    return figure


def _is_known(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).any() if values.dtype.kind == "f" else any(values.tolist()))


def judge(checkpoint: Checkpoint, args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Rows of the table, and figures by the name of their file.

    Args:
        checkpoint: The checkpoint.
        args: Options.
    """
    rows, figures = [], {}
    if args.spectra is not None and not args.smoke:
        real = embed(checkpoint, drop_invalid(load_real_spectra(args.spectra), checkpoint.processor))
        rows += judge_real(real)
        figures["real"] = draw(real, REAL, "real spectra")
        optical = embed(checkpoint, [spectrum for spectrum in real.spectra if spectrum.survey in OPTICAL])
        figures["optical"] = draw(optical, REAL, "real optical spectra")
    elif not args.smoke:
        print("no real spectra (--spectra, SPECTOK_SPECTRA): simulated galaxies alone")
    galaxies = embed(checkpoint, simulate_survey(args.survey, args.galaxies, seed=SEED, snr=args.snr, kind="GALAXY"))
    rows += judge_galaxies(f"simulated galaxies, {args.survey}", galaxies)
    figures["galaxies"] = draw(galaxies, GALACTIC, f"simulated {args.survey} galaxies")
    return rows, figures


def run(args: argparse.Namespace) -> list[Row]:
    """Judge, and write the table and the pictures.

    Args:
        args: Options.

    Returns:
        Rows of the table.
    """
    rows, figures = judge(load_checkpoint(args.checkpoint), args)
    for name, figure in figures.items():
        save_picture(figure, args.output / f"{name}.png")
    title = f"R² or accuracy of the {NEIGHBOURS} nearest spectra of other objects:"
    write_report(args.output / "neighbours", f"{title}\n\n{format_table(rows)}", rows)
    return rows


if __name__ == "__main__":
    run(parse_arguments())
