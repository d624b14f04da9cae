"""How far does simulation go? A plain classifier, trained on simulated spectra alone, labels real ones.

    python examples/classify_simulated.py --spectra ../shared/spectra

Its features are continuum-normalised flux in 600 bins (`spectok_hf.evaluation.classification`). Prints first how well
it separates GALAXY, QSO and STAR among simulated spectra that it has not seen, then its labels for the real spectra of
the same surveys, and lists every wrong one. All classes are equally frequent within each simulated survey: nearly
every real star here is LAMOST's and every quasar BOSS's, so the instrument must tell nothing.
Without real spectra it prints the first table only.
"""

import argparse

import numpy as np
from real_spectra import add_spectra_option, load_real_spectra

from spectok_hf import Spectrum, simulate_survey
from spectok_hf.analysis.plots import signal_to_noise
from spectok_hf.evaluation.classification import CLASSES, binned_flux, confusion_rows, plain_classifier
from spectok_hf.evaluation.reconstruction import format_table

SURVEYS = ("sdss", "boss", "lamost")
TEST_SHARE = 0.25


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spectra_option(parser)
    parser.add_argument("--per_class", type=int, default=600, help="simulated spectra of each class and survey")
    parser.add_argument("--least_snr", type=float, default=10.0, help="least S/N of the simulated spectra judged")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    parser.add_argument("--trees", type=int, default=300, help="size of the classifier")
    parser.add_argument("--smoke", action="store_true", help="few spectra and trees, to see that it runs")
    return parser.parse_args(argv)


def simulate(per_class: int, seed: int) -> list[Spectrum]:
    """Simulated spectra, all classes equally frequent in every survey; those that cannot be judged are left out.

    Args:
        per_class: Spectra of each class and survey.
        seed: Seed of the simulation.
    """
    spectra = [
        spectrum
        for survey in SURVEYS
        for number, kind in enumerate(CLASSES)
        for spectrum in simulate_survey(survey, per_class, seed + number, kind=kind)
    ]
    return [spectrum for spectrum in spectra if spectrum.good.mean() > 0.5]


def classes(spectra: list[Spectrum]) -> list[str]:
    """The true class of each.

    Args:
        spectra: Labelled spectra.
    """
    return [str(spectrum.labels["class"]) for spectrum in spectra]


def is_test(count: int) -> np.ndarray:
    """Which of the simulated spectra are kept from training; each is an object of its own. Shape (count,).

    Args:
        count: Number of spectra.
    """
    return np.random.default_rng(0).random(count) < TEST_SHARE


def print_confusion(title: str, spectra: list[Spectrum], predicted: np.ndarray) -> None:
    """The confusion table of spectra, survey by survey.

    Args:
        title: What the table shows.
        spectra: Labelled spectra.
        predicted: Their predicted classes.
    """
    rows = confusion_rows(classes(spectra), list(predicted), [str(spectrum.survey) for spectrum in spectra])
    print(f"\n{title}\n\n{format_table(rows)}")


def print_failures(spectra: list[Spectrum], predicted: np.ndarray, probabilities: np.ndarray) -> None:
    """Every wrong spectrum, with the probabilities of the classes.

    Args:
        spectra: Labelled spectra.
        predicted: Their predicted classes.
        probabilities: Shape (n, classes), in the order of `CLASSES`.
    """
    rows = []
    for spectrum, guess, shares in zip(spectra, predicted, probabilities, strict=True):
        if guess != spectrum.labels["class"]:
            row = {"survey": spectrum.survey, "object": spectrum.object_id, "class": spectrum.labels["class"]}
            row |= {"z": f"{spectrum.labels.get('redshift', np.nan):.4f}", "S/N": signal_to_noise(spectrum)}
            rows.append(row | {f"p({name})": float(share) for name, share in zip(CLASSES, shares, strict=True)})
    print("\nWrong:\n\n" + (format_table(rows) if rows else "none"))


def run(args: argparse.Namespace) -> None:
    """Train, and print the tables.

    Args:
        args: Options.
    """
    if args.smoke:
        args.per_class, args.trees, args.least_snr = 12, 10, 0.0
    simulated = simulate(args.per_class, args.seed)
    features, held_out = binned_flux(simulated), is_test(len(simulated))
    classifier = plain_classifier(trees=args.trees).fit(features[~held_out], np.array(classes(simulated))[~held_out])
    judged = held_out & (np.array([signal_to_noise(spectrum) for spectrum in simulated]) > args.least_snr)
    chosen = [simulated[place] for place in np.flatnonzero(judged)]
    title = f"Simulated spectra at S/N > {args.least_snr:g} that it has not seen:"
    print_confusion(title, chosen, classifier.predict(features[judged]))
    if args.spectra is None:
        print("\nno real spectra: pass --spectra FOLDER or set SPECTOK_SPECTRA")
        return
    real = [s for s in load_real_spectra(args.spectra) if s.survey in SURVEYS and s.labels.get("class") in CLASSES]
    probabilities = classifier.predict_proba(binned_flux(real))
    predicted = classifier.classes_[probabilities.argmax(1)]
    print_confusion("Real spectra, trained on simulated ones alone:", real, predicted)
    print_failures(real, predicted, probabilities)


if __name__ == "__main__":
    run(parse_arguments())
