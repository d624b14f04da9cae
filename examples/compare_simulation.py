"""How real do simulated spectra look? A classifier tells real from simulated, survey by survey and class by class.

    python examples/compare_simulation.py --spectra ../shared/spectra --output outputs/compare_simulation

Each real spectrum stands beside simulated ones of its survey, class and signal-to-noise ratio, with the nearest labels
of many. Randomised trees see one kind of features at a time, cross-validated so that a real spectrum and those that
stand beside it are never in both parts:

- pixels: noise over stated error, its correlation, outliers, bad pixels, the error curve, residuals of the sky;
- patches: scatter of the principal components of 32 pixels in units of the error, what a tokenizer sees;
- lines: continuum-normalised flux in bins;
- continuum: broad flux, relative to its median.

A table gives the area under the ROC curve with its error (bootstrap over objects), the same for two halves of the real
spectra ("null"), and the features that differ most, each with its own area (0.5 = alike, 0 or 1 = never alike) and the
medians of real and simulated spectra. A figure per group shows three pairs and those features. Spectra drawn from
models of real ones (`drawn_spectra.py`) stand in the same table. Without real spectra (`--smoke`) two simulated halves
are compared, of which nobody should be able to tell which is which.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from contact_sheets import SIMULATED_AS, label_distance
from drawn_spectra import BOSS_SNR, draw_boss
from real_spectra import add_spectra_option, load_real_spectra
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.analysis.plots import signal_to_noise, true_runs
from spectok_hf.data.simulation.instrument import make_instrument
from spectok_hf.evaluation.classification import binned_flux, plain_classifier, running_median
from spectok_hf.evaluation.reconstruction import format_table
from spectok_hf.models.wavelength import air_to_vacuum

SURVEYS_COMPARED = ("sdss", "boss", "desi", "lamost", "galah", "apogee", "apogee-giants")
PATCH, COMPONENTS = 32, 8
BINS, BROAD_BINS, PARTS = 400, 16, 6
SPACINGS = (1, 2, 4)  # pixels, of second differences
BRIGHT_SKY = 0.05  # share of the pixels that count as lines of the sky
LEAST_SNR, LEAST_SPECTRA, LEAST_GOOD = 1.0, 10, 0.3
CONTINUUM = 90  # percentile of the flux of a small window
FOLDS, RESAMPLINGS, NULL_SPLITS = 5, 200, 4
DRAWN_PER_REAL = 12
PAIRS_SHOWN, FEATURES_SHOWN = 3, 3


class Features(NamedTuple):
    """One kind of features of some spectra."""

    names: list[str]
    values: np.ndarray  # (n, features), NaN where a spectrum has none


class Group(NamedTuple):
    """Real spectra, and those that shall look like them."""

    name: str
    kind: str
    source: str  # of the others: "simulated" or "drawn"
    real: list[Spectrum]
    others: list[Spectrum]
    partners: np.ndarray  # (others,), number of the real spectrum that each stands beside


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("outputs/compare_simulation"), help="where all goes")
    parser.add_argument("--surveys", nargs="+", choices=SURVEYS_COMPARED, default=list(SURVEYS_COMPARED))
    parser.add_argument("--most", type=int, default=120, help="most real spectra of a group")
    parser.add_argument("--per_real", type=int, default=2, help="simulated spectra beside each real one")
    parser.add_argument("--candidates", type=int, default=5, help="times as many the nearest labels are taken from")
    parser.add_argument("--trees", type=int, default=60, help="size of the classifier")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    parser.add_argument("--smoke", action="store_true", help="few simulated spectra on both sides")
    return parser.parse_args(argv)


# Who stands beside whom


def real_groups(spectra: list[Spectrum], most: int) -> dict[tuple[str, str], list[Spectrum]]:
    """The groups of real spectra that are large enough: one spectrum per object, with light and pixels to look at.

    DESI, where hardly a spectrum has a class, is one group.

    Args:
        spectra: Real spectra of any surveys.
        most: Largest number of a group; of more, an even sample is taken.
    """
    groups: dict[tuple[str, str], dict[str | None, Spectrum]] = defaultdict(dict)
    for spectrum in spectra:
        survey = str(spectrum.survey)
        usable = survey in SURVEYS_COMPARED and spectrum.good.mean() >= LEAST_GOOD
        if usable and signal_to_noise(spectrum) >= LEAST_SNR:
            kind = "any" if survey == "desi" else str(spectrum.labels.get("class"))
            groups[survey, kind].setdefault(spectrum.object_id, spectrum)
    large = {key: list(members.values()) for key, members in groups.items() if len(members) >= LEAST_SPECTRA}
    return {key: [own[i] for i in _evenly(len(own), most)] for key, own in large.items()}


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def simulated_beside(
    real: list[Spectrum], survey: str, kind: str, *, per_real: int, candidates: int, seed: int
) -> tuple[list[Spectrum], np.ndarray]:
    """Simulated spectra of the S/N of real ones, with the nearest labels of those not yet taken.

    Args:
        real: Real spectra of one survey.
        survey: Survey that is simulated.
        kind: Class, "any" = whatever the survey observes.
        per_real: How many beside each.
        candidates: How many times as many are drawn to choose from.
        seed: Seed of the simulation.

    Returns:
        The spectra, and the number of the real spectrum that each stands beside.
    """
    forced = None if kind == "any" else kind
    pool = simulate_survey(survey, len(real) * per_real * candidates, seed, kind=forced)
    free, found, partners = list(range(len(pool))), [], []
    for place in list(range(len(real))) * per_real:
        spectrum = real[place]
        distances = [label_distance(spectrum.labels, pool[number].labels) for number in free]
        start = free.pop(int(np.argmin(distances)))
        snr = signal_to_noise(spectrum)
        found += simulate_survey(survey, 1, seed, start=start, kind=forced, snr=snr)
        partners.append(place)
    return [_as_product(one, real[0]) for one in found], np.array(partners)


def _as_product(simulated: Spectrum, real: Spectrum) -> Spectrum:
    """The window of a survey's product that has a part of the grid only, over its own continuum."""
    if len(real) > len(simulated) / 2:
        return simulated
    first = int(np.argmin(np.abs(simulated.wavelength - real.wavelength[0])))
    part = slice(first, first + len(real))
    good = simulated.flux[part][simulated.good[part]]
    level = np.percentile(good, CONTINUUM) if len(good) else 1.0
    return Spectrum(
        simulated.flux[part] / level,
        simulated.wavelength[part],
        simulated.ivar[part] * level**2,
        simulated.mask[part],
        survey=real.survey,
        object_id=simulated.object_id,
        medium=simulated.medium,
        frame=simulated.frame,
        labels=simulated.labels,
    )


def drawn_beside(real: list[Spectrum], folder: Path, kind: str, per_real: int) -> Group | None:
    """Drawn BOSS spectra of the nearest S/N beside real ones; None where too few are as good as drawn ones.

    Args:
        real: Real spectra of BOSS.
        folder: Catalogue folder.
        kind: Their class.
        per_real: How many beside each.
    """
    chosen = [spectrum for spectrum in real if signal_to_noise(spectrum) > BOSS_SNR[0]]
    if len(chosen) < LEAST_SPECTRA:
        return None
    drawn = [s for s in draw_boss(folder, DRAWN_PER_REAL * len(chosen)) if s.labels["class"] == kind]
    heights = np.log([spectrum.labels["snr"] for spectrum in drawn])
    free, found, partners = list(range(len(drawn))), [], []
    for place in list(range(len(chosen))) * per_real:
        distances = np.abs(heights[free] - np.log(signal_to_noise(chosen[place])))
        found.append(drawn[free.pop(int(np.argmin(distances)))])
        partners.append(place)
    return Group("boss", kind, "drawn", chosen, found, np.array(partners))


# Features


def pixel_features(spectra: list[Spectrum]) -> Features:
    """Noise, errors and bad pixels.

    Args:
        spectra: Spectra of one survey.
    """
    rows = [_noise(s) | _errors(s) | _bad_pixels(s) | _profiles(s) | _sky(s) for s in spectra]
    return Features(list(rows[0]), np.array([list(row.values()) for row in rows]))


def second_differences(values: np.ndarray, good: np.ndarray, spacing: int) -> np.ndarray:
    """f[i - k] - 2 f[i] + f[i + k], shape (L - 2 k,), NaN where one of the three pixels is bad.

    Args:
        values: Values, shape (L,).
        good: Which are good, shape (L,).
        spacing: k.
    """
    known = np.where(good, values, np.nan)
    return known[: -2 * spacing] - 2 * known[spacing:-spacing] + known[2 * spacing :]


def _scatter(values: np.ndarray) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(1.4826 * np.median(known)) if len(known) else np.nan


def _standard_error(spectrum: Spectrum) -> np.ndarray:
    return np.where(spectrum.good, spectrum.ivar, np.nan).astype(np.float64) ** -0.5


def _chi(spectrum: Spectrum, spacing: int) -> np.ndarray:
    """Second differences over their stated error; 1 in the mean of squares where noise is as stated and white."""
    differences = second_differences(spectrum.flux.astype(np.float64), spectrum.good, spacing)
    return differences / (np.sqrt(6) * _standard_error(spectrum)[spacing:-spacing])


def _noise(spectrum: Spectrum) -> dict[str, float]:
    near, middle, far = (_chi(spectrum, spacing) for spacing in SPACINGS)
    floor = _scatter(near)
    thirds = [_scatter(part) / floor for part in np.array_split(near, 3)]
    finite = np.abs(near[np.isfinite(near)]) / floor
    return {
        "noise over error": floor,
        "noise at 1 px over 2 px": floor / _scatter(middle),
        "noise at 2 px over 4 px": _scatter(middle) / _scatter(far),
        "noise blue third": thirds[0],
        "noise middle third": thirds[1],
        "noise red third": thirds[2],
        "share beyond 4 sigma": float(np.mean(finite > 4)),
        "share beyond 8 sigma": float(np.mean(finite > 8)),
    }


def _errors(spectrum: Spectrum) -> dict[str, float]:
    error = _standard_error(spectrum)
    rough = second_differences(np.log(error), spectrum.good, 1)
    finite = np.abs(rough[np.isfinite(rough)])
    far = SPACINGS[-1]
    pairs = np.stack([second_differences(v, spectrum.good, far) for v in (np.log(error), spectrum.flux)])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    ranks = pairs.argsort(1).argsort(1)
    return {
        "log error": float(np.log10(np.nanmedian(error))),
        "roughness of the error": float(np.log10(_scatter(rough) + 1e-5)),
        "jumps of the error": float(np.mean(finite > 0.1)),
        "error repeats": float(np.mean(finite < 1e-6)),
        "error follows flux": float(np.corrcoef(ranks)[0, 1]),
    }


def _bad_pixels(spectrum: Spectrum) -> dict[str, float]:
    empty = spectrum.ivar == 0
    lengths = np.diff(true_runs(~spectrum.good))[:, 0]
    return {
        "share without data": float(empty.mean()),
        "share flagged": float((spectrum.mask & ~empty).mean()),
        "bad runs": float(len(lengths)),
        "median bad run": float(np.median(lengths)) if len(lengths) else 0.0,
        "longest bad run": float(lengths.max()) if len(lengths) else 0.0,
    }


def _profiles(spectrum: Spectrum) -> dict[str, float]:
    error = np.log(_standard_error(spectrum))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(np.maximum(spectrum.flux, 0) / np.exp(error))
    ratio[~np.isfinite(ratio)] = np.nan
    parts = np.array_split(np.arange(len(error)), PARTS)
    row = {}
    for name, values in {"log S/N": ratio, "log error": error}.items():
        medians = np.array([np.nanmedian(values[p]) if np.isfinite(values[p]).any() else np.nan for p in parts])
        row |= {f"{name}, part {i + 1}": float(v) for i, v in enumerate(medians - np.nanmedian(values))}
    return row


def _sky(spectrum: Spectrum) -> dict[str, float]:
    """Errors and noise in the lines of the sky, over those elsewhere."""
    instrument = make_instrument(SIMULATED_AS.get(str(spectrum.survey), str(spectrum.survey)))
    bright = np.interp(spectrum.wavelength, instrument.wavelength, instrument.sky_rank) < BRIGHT_SKY
    if not bright.any() or not (spectrum.good & bright).any():
        return {"error in sky lines": 0.0, "noise in sky lines": 0.0}
    chi, error = _chi(spectrum, 1), np.log(_standard_error(spectrum))
    excess = error - running_median(error, 50)
    there = bright[1:-1]
    return {
        "error in sky lines": float(np.nanmedian(excess[bright])),
        "noise in sky lines": _scatter(chi[there]) / _scatter(chi[~there]),
    }


def patch_features(spectra: list[Spectrum]) -> Features:
    """Scatter of the principal components of patches over their error; without the patch's mean.

    Args:
        spectra: Spectra of one survey; all kinds together give the components.
    """
    patches = [_patches(spectrum) for spectrum in spectra]
    sample = np.concatenate([own.clip(-20, 20) for own in patches])
    components = np.linalg.eigh(sample.T @ sample / max(len(sample), 1))[1][:, ::-1]
    rows = []
    for own in patches:
        scores = own @ components
        scatters = [_scatter(column) for column in scores[:, :COMPONENTS].T]
        rows.append([*np.log(scatters), np.log(_scatter(scores[:, COMPONENTS:].ravel()))])
    return Features([*(f"component {i + 1}" for i in range(COMPONENTS)), "the other components"], np.array(rows))


def _patches(spectrum: Spectrum) -> np.ndarray:
    chi = spectrum.flux / _standard_error(spectrum)
    whole = chi[: len(chi) // PATCH * PATCH].reshape(-1, PATCH)
    whole = whole[np.isfinite(whole).all(1)]
    return whole - whole.mean(1, keepdims=True)


def line_features(spectra: list[Spectrum]) -> Features:
    """Continuum-normalised flux in bins, arm by arm where arms lie apart.

    Args:
        spectra: Spectra of one survey.
    """
    names, columns = [], []
    windows = _windows(spectra)
    for low, high in windows:
        bins = max(20, min(BINS // len(windows), len(spectra[0]) // len(windows) // 2))
        values = np.full((len(spectra), bins), np.nan)
        for place, spectrum in enumerate(spectra):
            try:
                values[place] = binned_flux([spectrum], bins=bins, window=(low, high))[0]
            except ValueError:  # this arm is missing
                continue
        columns.append(values)
        names += [f"flux at {centre:.0f} Å" for centre in np.geomspace(low, high, 2 * bins + 1)[1::2]]
    return Features(names, np.concatenate(columns, axis=1))


def _windows(spectra: list[Spectrum]) -> list[tuple[float, float]]:
    """Vacuum wavelengths that most spectra have: one window, or one per arm where arms lie far apart."""
    longest = max(spectra, key=len)
    axis = longest.wavelength if longest.medium == "vacuum" else air_to_vacuum(longest.wavelength)
    apart = np.flatnonzero(np.diff(np.log(axis)) > 0.002)
    firsts, lasts = [0, *(apart + 1)], [*apart, len(axis) - 1]
    margin = 20 if len(axis) > 1000 else 0
    return [(float(axis[a + margin]), float(axis[b - margin])) for a, b in zip(firsts, lasts, strict=True)]


def continuum_features(spectra: list[Spectrum]) -> Features:
    """Flux in broad bins over the median of the whole.

    Args:
        spectra: Spectra of one survey.
    """
    longest = max(spectra, key=len)
    parts = np.array_split(longest.wavelength, BROAD_BINS)
    values = []
    for spectrum in spectra:
        known = np.where(spectrum.good, spectrum.flux, np.nan)
        slices = [slice(*np.searchsorted(spectrum.wavelength, (part[0], part[-1]))) for part in parts]
        medians = [np.nanmedian(known[s]) if np.isfinite(known[s]).any() else np.nan for s in slices]
        values.append(np.array(medians) / abs(np.nanmedian(known)))
    return Features([f"flux near {part.mean():.0f} Å" for part in parts], np.array(values))


LEVELS: dict[str, Callable[[list[Spectrum]], Features]] = {
    "pixels": pixel_features,
    "patches": patch_features,
    "lines": line_features,
    "continuum": continuum_features,
}


# The judge


def tell_apart(values: np.ndarray, is_real: np.ndarray, objects: np.ndarray, trees: int, seed: int = 0) -> np.ndarray:
    """Probability of being real for each spectrum, from trees that saw neither it nor its partners; shape (n,).

    Args:
        values: Features, shape (n, features), finite.
        is_real: Which are real, shape (n,).
        objects: Who belongs together, shape (n,).
        trees: Size of the classifier.
        seed: Seed of folds and trees.
    """
    probabilities = np.zeros(len(values))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(values, is_real, objects):
        classifier = plain_classifier(trees=trees, seed=seed).fit(values[train], is_real[train])
        probabilities[test] = classifier.predict_proba(values[test])[:, 1]
    return probabilities


def area_error(probabilities: np.ndarray, is_real: np.ndarray, objects: np.ndarray) -> float:
    """Scatter of the area under the ROC curve when objects are drawn again.

    Args:
        probabilities: Of being real, shape (n,).
        is_real: Which are, shape (n,).
        objects: Who belongs together, shape (n,).
    """
    rng, members = np.random.default_rng(0), [np.flatnonzero(objects == one) for one in np.unique(objects)]
    areas = []
    for _ in range(RESAMPLINGS):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        areas.append(roc_auc_score(is_real[chosen], probabilities[chosen]))
    return float(np.std(areas))


def null_areas(values: np.ndarray, trees: int) -> np.ndarray:
    """Areas for halves of the real spectra, shape (splits,): 0.5 but for chance.

    Args:
        values: Features of the real spectra, shape (n, features), finite.
        trees: Size of the classifier.
    """
    areas = []
    for split in range(NULL_SPLITS):
        half = np.random.default_rng(split).permutation(len(values)) % 2 == 0
        areas.append(roc_auc_score(half, tell_apart(values, half, np.arange(len(values)), trees, split)))
    return np.array(areas)


def single_areas(values: np.ndarray, is_real: np.ndarray) -> np.ndarray:
    """The area of each feature alone, shape (features,): above 0.5 where real spectra have more of it.

    Args:
        values: Features, shape (n, features), finite.
        is_real: Which are real, shape (n,).
    """
    return np.array([roc_auc_score(is_real, column) for column in values.T])


def judge(group: Group, trees: int) -> tuple[list[dict[str, object]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The rows of a group, and the values of its most telling features: of real spectra and of the others.

    Args:
        group: The group.
        trees: Size of the classifier.
    """
    spectra = [*group.real, *group.others]
    is_real = np.arange(len(spectra)) < len(group.real)
    objects = np.concatenate([np.arange(len(group.real)), group.partners])
    rows: list[dict[str, object]] = []
    telling: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for level, features_of in LEVELS.items():
        features = features_of(spectra)
        values = _filled(features.values)
        single = single_areas(values, is_real)
        top = np.argsort(-np.abs(single - 0.5))[:FEATURES_SHOWN]
        told = [f"{features.names[i]} {single[i]:.2f} ({_medians(features.values[:, i], is_real)})" for i in top]
        row = {"survey": group.name, "class": group.kind, "beside": group.source, "real": len(group.real)}
        row |= {"features": level} | _areas(values, is_real, objects, trees)
        rows.append(row | {"what tells: area (medians)": "; ".join(told)})
        shown = top if level == "pixels" else top[:1]
        telling |= {features.names[i]: (values[is_real, i], values[~is_real, i]) for i in shown}
    return rows, telling


def _areas(values: np.ndarray, is_real: np.ndarray, objects: np.ndarray, trees: int) -> dict[str, object]:
    probabilities, null = tell_apart(values, is_real, objects, trees), null_areas(values[is_real], trees)
    return {
        "AUC": float(roc_auc_score(is_real, probabilities)),
        "error": area_error(probabilities, is_real, objects),
        "null": float(null.mean()),
        "null scatter": float(null.std()),
    }


def _filled(values: np.ndarray) -> np.ndarray:
    """With the median of a feature where a spectrum has none."""
    finite = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(finite).any(0)
    medians = np.zeros(values.shape[1])
    medians[known] = np.nanmedian(finite[:, known], axis=0)
    return np.where(np.isfinite(finite), finite, medians)


def _medians(column: np.ndarray, is_real: np.ndarray) -> str:
    return " / ".join(f"{np.nanmedian(column[own]):.3g}" for own in (is_real, ~is_real))


# Figures and files


def draw_group(group: Group, telling: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Pairs of spectra, real and other, and below them how the most telling features are distributed.

    Args:
        group: The group.
        telling: Values of features, real and other.
        path: PNG file to write.
    """
    figure = plt.figure(figsize=(14, 2.2 * PAIRS_SHOWN + 2.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.2 * PAIRS_SHOWN, 2.6))
    snr = np.argsort([signal_to_noise(spectrum) for spectrum in group.real])
    shown = snr[((np.arange(PAIRS_SHOWN) + 0.5) * len(snr) / PAIRS_SHOWN).astype(int)]
    axes = upper.subplots(PAIRS_SHOWN, 2, sharex=True, sharey="row", squeeze=False)
    for row, place in zip(axes, shown, strict=True):
        other = group.others[int(np.flatnonzero(group.partners == place)[0])]
        for ax, name, spectrum in zip(row, ("real", group.source), (group.real[place], other), strict=True):
            _draw_spectrum(ax, spectrum, f"{name}, S/N {signal_to_noise(spectrum):.1f}")
    axes[-1, 0].set_xlabel("wavelength [Å]")
    for ax, (name, both) in zip(lower.subplots(1, len(telling), squeeze=False)[0], telling.items(), strict=True):
        edges = np.linspace(*np.percentile(np.concatenate(both), (1, 99)), 25)
        for values, label in zip(both, ("real", group.source), strict=True):
            ax.hist(values.clip(edges[0], edges[-1]), edges, density=True, histtype="step", label=label)
        ax.set_title(name, fontsize=8)
        ax.set_yticks([])
    ax.legend(fontsize=7)
    figure.suptitle(f"{group.name} {group.kind}: real and {group.source}")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_spectrum(ax: plt.Axes, spectrum: Spectrum, title: str) -> None:
    flux = np.where(spectrum.good, spectrum.flux, np.nan) / abs(np.nanmedian(spectrum.flux[spectrum.good]))
    ax.plot(spectrum.wavelength, flux, linewidth=0.5)
    ax.set_ylim(*np.nanpercentile(flux, (0.5, 99.5)) + np.array([-0.2, 0.2]))
    ax.set_title(title, fontsize=8)


def make_groups(args: argparse.Namespace, spectra: list[Spectrum]) -> list[Group]:
    """All that is compared.

    Args:
        args: Options.
        spectra: Real spectra.
    """
    groups = []
    options = {"per_real": args.per_real, "candidates": args.candidates, "seed": args.seed}
    for (survey, kind), real in real_groups(spectra, args.most).items():
        if survey not in args.surveys:
            continue
        beside = simulated_beside(real, SIMULATED_AS.get(survey, survey), kind, **options)
        groups.append(Group(survey, kind, "simulated", real, *beside))
        drawn = drawn_beside(real, args.spectra, kind, args.per_real) if survey == "boss" and args.spectra else None
        groups += [drawn] if drawn else []
    return groups


def run(args: argparse.Namespace) -> None:
    """Compare, and write the table and the figures.

    Args:
        args: Options.
    """
    if args.smoke:
        args.spectra, args.surveys, args.trees, args.per_real, args.candidates = None, ["lamost"], 10, 1, 2
        spectra = simulate_survey("lamost", 20, seed=1000, kind="STAR")
    elif args.spectra is None:
        raise SystemExit("no real spectra: pass --spectra FOLDER, set SPECTOK_SPECTRA, or try --smoke")
    else:
        spectra = load_real_spectra(args.spectra)
    args.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for group in make_groups(args, spectra):
        own, telling = judge(group, args.trees)
        rows += own
        name = f"{group.name}_{group.kind.lower()}_{group.source}.png"
        draw_group(group, telling, args.output / name)
        print(f"wrote {args.output / name}")
        save_table(rows, args.output)
    print(format_table(rows))


def save_table(rows: list[dict[str, object]], folder: Path) -> None:
    """The table as `table.md` and `table.csv`.

    Args:
        rows: Rows of the same columns.
        folder: Where to write.
    """
    (folder / "table.md").write_text(format_table(rows) + "\n")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    run(parse_arguments())
