"""How often the nearest spectrum is another one of the same object: the index beside principal components of the flux.

    python examples/evaluate_search.py spectok-tiny --spectra ../shared/spectra --output outputs/search
    python examples/evaluate_search.py spectok-tiny --smoke

Simulated: objects observed twice, S/N 5 to 50 per pixel each time, with other noise and the bad pixels of another
spectrum. The share of first observations whose nearest neighbour among all other observations, first and second ones,
is the second one of the same object; by survey, and by the lower of the two S/N. Both observations have the same
calibration: a second night would have another, and is harder. "With faults": the first has all that the simulation
knows of a survey's faults (correlated noise, errors that are wrong, what is left of the sky, cosmics).

Real: spectra of objects that a survey observed twice or more, among all real spectra: how many have a nearest
neighbour of the same object. Copies of a spectrum count once. Principal components need a common range of wavelength,
and search among the spectra that share it, which is easier.

The metrics know no label and no pair of spectra: "noise" is fitted to the spectra of the index, and noise that is
added to them. It was chosen on seed 901; `--seed` is another. How segments are cut where an index holds several ranges
of wavelength was chosen on the real repeats, which are too few to hold some back.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judged_checkpoint import write_report
from real_spectra import add_spectra_option, load_real_spectra
from run_settings import drop_invalid

from spectok_hf import Spectrum, SpectrumEncoder, simulate_survey
from spectok_hf.analysis.latent_space import principal_components
from spectok_hf.analysis.search import SpectrumIndex, exact_nearest
from spectok_hf.data.dataset import object_groups
from spectok_hf.evaluation.probes import raw_flux
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.evaluation.tasks import NotApplicable

SEED = 904
SNR = (5.0, 50.0)
BINS = ((5.0, 10.0), (10.0, 20.0), (20.0, 50.0))
OPTICAL = ("sdss", "boss", "desi", "lamost")
SAMPLES = (("optical", OPTICAL, True), ("apogee", ("apogee",), True), ("galah", ("galah",), True))
SAMPLES += (("optical, with faults", OPTICAL, False),)
COMPONENTS = 50  # the best of 20, 50 and 100 for the baseline, on seed 901, but for APOGEE, where 20 are

Row = dict[str, Any]
Nearest = np.ndarray


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder, Hub id, or name of one that comes with the package")
    add_spectra_option(parser)
    parser.add_argument("--objects", type=int, default=1000, help="simulated objects of a sample")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the simulation")
    parser.add_argument("--output", type=Path, default=Path("outputs/search"), help="stem of the files")
    parser.add_argument("--smoke", action="store_true", help="few simulated spectra, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.objects = 12
    return args


def observe_twice(survey: str, count: int, seed: int, *, honest: bool) -> tuple[list[Spectrum], list[Spectrum]]:
    """Two observations each of simulated objects.

    Args:
        survey: The survey.
        count: Number of objects.
        seed: Seed of the simulation.
        honest: Whether the first ones have Gaussian noise of the stated errors, and no more.
    """
    first = simulate_survey(survey, count, seed, snr=SNR, honest=honest)
    rng = np.random.default_rng([seed, count])
    snrs = np.exp(rng.uniform(*np.log(SNR), size=count))
    others = np.roll(np.arange(count), 1)
    return first, [_observe_again(one, first[k], snr, rng) for one, k, snr in zip(first, others, snrs, strict=True)]


def _observe_again(spectrum: Spectrum, other: Spectrum, snr: float, rng: np.random.Generator) -> Spectrum:
    """The truth with other noise, from its errors scaled to a S/N, and the bad pixels of another spectrum."""
    good = spectrum.good
    error = np.interp(spectrum.wavelength, spectrum.wavelength[good], spectrum.error[good])
    error *= np.median(spectrum.truth[good] / error[good]) / snr
    nearest = np.searchsorted(other.wavelength, spectrum.wavelength).clip(0, len(other) - 1)
    return Spectrum(
        spectrum.truth + error * rng.normal(size=len(error)),
        spectrum.wavelength,
        error**-2.0,
        ~other.good[nearest],
        survey=spectrum.survey,
        object_id=spectrum.object_id,
        medium=spectrum.medium,
        frame=spectrum.frame,
        labels=spectrum.labels | {"snr": snr},
    )


def nearest_by_method(encoder: SpectrumEncoder, spectra: Sequence[Spectrum]) -> dict[str, Nearest]:
    """The row of the nearest other spectrum of each, shape (n,), by method; without a common range no components.

    Args:
        encoder: The encoder.
        spectra: The spectra.
    """
    index = SpectrumIndex.build(encoder, list(spectra), ids=_numbers(spectra), keep_flux=False, tokens=True)
    embeddings, ids = np.asarray(index.rows["embedding"]), index.ids
    columns = {name: index.rows[name] for name in ("tokens", "token_wavelength")}
    # Those that know no noise are made as from the files of `spectok embed`.
    others = {
        "angle of token profiles": SpectrumIndex.from_embeddings(embeddings, ids, columns, metric="profile"),
        "angle of embeddings, whitened": SpectrumIndex.from_embeddings(embeddings, ids, metric="embedding"),
    }
    found = {name: one.nearest_others()[0][:, 0] for name, one in ({"noise metric": index} | others).items()}
    return found | {"cosine of embeddings": _nearest_angle(embeddings)} | _nearest_components(spectra)


def _numbers(spectra: Sequence[Spectrum]) -> list[str]:
    return [f"{row}" for row in range(len(spectra))]


def _nearest_components(spectra: Sequence[Spectrum]) -> dict[str, Nearest]:
    try:
        return {"PCA of flux, cosine": _nearest_angle(principal_components(raw_flux(spectra), COMPONENTS))}
    except NotApplicable:
        return {}


def _nearest_angle(vectors: np.ndarray) -> Nearest:
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.arange(len(directions))[:, None]
    found = exact_nearest(directions, directions, 2)[0]
    return np.where(found[:, :1] == rows, found[:, 1:], found[:, :1])[:, 0]


def judge_simulated(encoder: SpectrumEncoder, args: argparse.Namespace) -> list[Row]:
    """Shares of found second observations: a row per sample, survey and S/N.

    Args:
        encoder: The encoder.
        args: Options.
    """
    rows = []
    for name, surveys, honest in SAMPLES:
        pairs = [observe_twice(one, args.objects // len(surveys), args.seed, honest=honest) for one in surveys]
        first, second = ([one for pair in pairs for one in pair[part]] for part in (0, 1))
        found = nearest_by_method(encoder, first + second)
        count = len(first)
        right = {method: nearest[:count] == np.arange(count) + count for method, nearest in found.items()}
        measured = [_row(name, *part, right) for part in _parts(first, second, surveys)]
        print(format_table(measured), flush=True)  # a sample takes minutes
        rows += measured
    return rows


def _parts(
    first: Sequence[Spectrum], second: Sequence[Spectrum], surveys: Sequence[str]
) -> list[tuple[str, np.ndarray]]:
    """Names of parts of a sample, and who is in them."""
    own = np.array([one.survey for one in first])
    lower = np.array([min(a.labels["snr"], b.labels["snr"]) for a, b in zip(first, second, strict=True)])
    parts = [("all", np.ones(len(first), dtype=bool))]
    parts += [(survey, own == survey) for survey in surveys if len(surveys) > 1]
    return parts + [(f"S/N {low:.0f}-{high:.0f}", (lower >= low) & (lower < high)) for low, high in BINS]


def _row(sample: str, part: str, chosen: np.ndarray, right: dict[str, np.ndarray]) -> Row:
    figures = {method: float(hits[chosen].mean()) if chosen.any() else None for method, hits in right.items()}
    return {"sample": sample, "part": part, "queries": int(chosen.sum())} | figures


def judge_real(encoder: SpectrumEncoder, folder: Path) -> list[Row]:
    """Numbers of repeated observations that found another one of their object: a row per survey, and all.

    Args:
        encoder: The encoder.
        folder: Catalogue folder with MANIFEST.csv.
    """
    spectra = without_copies(drop_invalid(load_real_spectra(folder), encoder.processor))
    keys = np.array([f"{one.survey} {key}" for one, key in zip(spectra, object_groups(spectra), strict=True)])
    names, counts = np.unique(keys, return_counts=True)
    repeated = np.isin(keys, names[counts > 1])
    surveys = np.array([one.survey for one in spectra])
    right = {name: keys[near] == keys for name, near in nearest_by_method(encoder, spectra).items()}
    if "PCA of flux, cosine" not in right:
        right["PCA of flux, cosine"] = _components_by_range(spectra, surveys, keys)
    parts = [(survey, repeated & (surveys == survey)) for survey in np.unique(surveys[repeated])]
    rows = []
    for part, chosen in [("all", repeated), *parts]:
        hits = {name: int(found[chosen].sum()) for name, found in right.items()}
        rows.append({"sample": f"{len(spectra)} real", "part": part, "queries": int(chosen.sum())} | hits)
    print(format_table(rows), flush=True)
    return rows


def _components_by_range(spectra: list[Spectrum], surveys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Whether the nearest by components is of the same object, among the spectra that share a range."""
    right = np.zeros(len(spectra), dtype=bool)
    for members in (OPTICAL, *((one,) for one in sorted(set(surveys) - set(OPTICAL)))):
        rows = np.flatnonzero(np.isin(surveys, members))
        if len(rows) > 2:
            near = _nearest_components([spectra[row] for row in rows])
            for nearest in near.values():
                right[rows] = keys[rows][nearest] == keys[rows]
    return right


def without_copies(spectra: Sequence[Spectrum]) -> list[Spectrum]:
    """Spectra less those with the flux of an earlier one of their survey.

    Args:
        spectra: The spectra.
    """
    kept: list[Spectrum] = []
    seen: dict[tuple, list[Spectrum]] = {}
    for one in spectra:
        earlier = seen.setdefault((one.survey, len(one)), [])
        if not any(_is_copy(one, other) for other in earlier):
            kept.append(one)
            earlier.append(one)
    return kept


def _is_copy(one: Spectrum, other: Spectrum) -> bool:
    both = one.good & other.good
    return bool(both.any()) and np.allclose(one.flux[both], other.flux[both], rtol=1e-3)


def run(args: argparse.Namespace) -> list[Row]:
    """Judge, and write the tables.

    Args:
        args: Options.

    Returns:
        Rows of both tables.
    """
    encoder = SpectrumEncoder.from_pretrained(args.checkpoint)
    real = []
    if args.spectra is not None and not args.smoke:
        real = judge_real(encoder, Path(args.spectra))
    elif not args.smoke:
        print("no real spectra (--spectra, SPECTOK_SPECTRA): simulated ones alone")
    simulated = judge_simulated(encoder, args)
    text = f"Share of {args.objects} objects whose second observation is the nearest:\n\n{format_table(simulated)}"
    if real:
        text += f"\n\nReal repeats with a nearest neighbour of the same object:\n\n{format_table(real)}"
    write_report(args.output, text, simulated + real)
    return simulated + real


if __name__ == "__main__":
    run(parse_arguments())
