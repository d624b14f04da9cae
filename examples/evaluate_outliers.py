"""How well odd spectra are found: five kinds of anomalies in simulated spectra, beside the residual of a PCA.

    python examples/evaluate_outliers.py spectok-tiny --output outputs/outliers
    python examples/evaluate_outliers.py spectok-tiny --smoke

Of each survey there are references and normal spectra, as `simulate_survey` makes them (with the survey's own faults,
some spikes that nobody flagged and steps of the calibration among them), and further ones that an anomaly was put
into (`spectok_hf.data.anomalies`), all at signal-to-noise ratios from 3 to 50 per pixel. Stitched spectra are galaxies
and quasars, and so are the normal ones that they are told from. A method gives each a score; the table has the area
under the ROC curve, AUC: how often a spectrum with an anomaly is odder than a normal one; 0.5 is chance.

The methods: the detector's score, and each of its ingredients alone; the baseline, reduced chi² of what principal
components of the survey's flux leave, weighted by the errors; the same after a comparison with references of like
signal-to-noise ratio; and all statistics of the detector that need no model, of the residual of that PCA, calibrated
and combined as the detector does. References, number of components and strengths are the same for all. `--tune` shows
the baseline alone, with several numbers of components.

`<output>.md` and `.csv`; errors are bootstrap standard errors over spectra.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from judged_checkpoint import write_report

from spectok_hf import Spectrum, SpectrumEncoder, simulate_survey
from spectok_hf.analysis.anomaly_scores import (
    SCAN_WIDTHS,
    STEP_WIDTHS,
    Calibration,
    Components,
    box_scan,
    clipped_chi2,
    smooth_p,
    step_scan,
)
from spectok_hf.analysis.outliers import INGREDIENTS, OutlierDetector
from spectok_hf.data.anomalies import ANOMALIES, inject_anomaly
from spectok_hf.evaluation.reconstruction import format_table

SEED = 903  # of the simulation; choices were made on 901
SNR = (3.0, 50.0)
STRENGTHS = ANOMALIES | {
    "stitched": 0.5,
    "cosmic_rays": 15.0,
    "fake_lines": 30.0,
    "flux_step": 0.4,
    "swapped_arms": 0.5,
}
LEAST_DIFFERENCE = 0.1  # in ln(1 + redshift), between the two objects of a stitched spectrum
FOLDS, BOOTSTRAPS = 5, 200
OURS, BASELINE = "detector", "PCA residual"

Row = dict[str, Any]


class Sample(NamedTuple):
    """Spectra of one survey.

    Args:
        references: Normal ones, to fit to.
        normal: Normal ones, to be judged.
        odd: Ones with an anomaly, by its kind.
    """

    references: list[Spectrum]
    normal: list[Spectrum]
    odd: dict[str, list[Spectrum]]


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="name, folder or Hub id of a pretrained autoencoder")
    parser.add_argument("--surveys", nargs="+", default=["sdss", "boss", "desi"], help="whose spectra are simulated")
    parser.add_argument("--references", type=int, default=1000, help="references of each survey")
    parser.add_argument("--normal", type=int, default=400, help="normal spectra of each survey")
    parser.add_argument("--odd", type=int, default=250, help="spectra of each survey that get anomalies")
    parser.add_argument("--components", type=int, default=20, help="principal components of the baseline")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the simulation and of the anomalies")
    parser.add_argument("--tune", action="store_true", help="the baseline alone, with several numbers of components")
    parser.add_argument("--output", type=Path, default=Path("outputs/outliers"), help="stem of the files")
    parser.add_argument("--smoke", action="store_true", help="few spectra of one survey, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.surveys, args.references, args.normal, args.odd, args.components = args.surveys[:1], 80, 24, 16, 5
    return args


def simulate(survey: str, args: argparse.Namespace) -> Sample:
    """Normal spectra and odd ones.

    Args:
        survey: Name of the survey.
        args: Options.
    """
    total = args.references + args.normal + args.odd
    spectra = simulate_survey(survey, total, args.seed, snr=SNR)
    pool = [
        spectrum
        for kind in ("GALAXY", "QSO")
        for spectrum in simulate_survey(survey, max(args.odd // 2, 8), args.seed + 1000, snr=SNR, kind=kind)
    ]
    sources = spectra[args.references + args.normal :]
    odd = {
        kind: [inject_anomaly(one, kind, strength=STRENGTHS[kind], seed=args.seed) for one in sources]
        for kind in ANOMALIES
        if kind != "stitched"
    }
    odd["stitched"] = [_stitched(one, pool, args.seed) for one in sources if _is_extragalactic(one)]
    return Sample(spectra[: args.references], spectra[args.references : args.references + args.normal], odd)


def _is_extragalactic(spectrum: Spectrum) -> bool:
    return spectrum.labels["class"] in ("GALAXY", "QSO")


def _stitched(spectrum: Spectrum, pool: Sequence[Spectrum], seed: int) -> Spectrum:
    """With the first object of the pool, from a place on that the seed decides, that is of its kind and fits."""
    own = np.log1p(spectrum.labels["redshift"])
    for number in np.random.default_rng([seed, len(spectrum), int(own * 1e6)]).permutation(len(pool)):
        partner = pool[number]
        apart = abs(np.log1p(partner.labels["redshift"]) - own) > LEAST_DIFFERENCE
        if apart and partner.labels["class"] == spectrum.labels["class"]:
            return inject_anomaly(spectrum, "stitched", strength=STRENGTHS["stitched"], seed=seed, partner=partner)
    raise ValueError(f"no other object of its class and another redshift for {spectrum!r}: raise --odd")


def detector_scores(encoder: SpectrumEncoder, references: Sequence[Spectrum], judged: Sequence[Spectrum]) -> Any:
    """Scores of the detector and of its ingredients, by name of the method.

    Args:
        encoder: The encoder.
        references: Normal spectra.
        judged: Spectra to be judged.
    """
    rows = sorted(OutlierDetector(encoder).fit(references).rank(judged), key=lambda row: row["index"])
    names = {OURS: "score"} | {f"{name} alone": name for name in INGREDIENTS}
    return {method: np.array([row[name] for row in rows]) for method, name in names.items()}


class FluxPCA:
    """The baseline: principal components of the flux of one survey.

    Args:
        references: Normal spectra of the survey.
        count: How many components.
    """

    def __init__(self, references: Sequence[Spectrum], count: int):
        self.grid = max((one.wavelength for one in references), key=len)
        self.components = Components.fit(*self._arrays(references), count)
        self.plain = Components(self.components.mean, self.components.axes, np.full(len(self.grid), 1e-12))

    def _arrays(self, spectra: Sequence[Spectrum]) -> tuple[np.ndarray, np.ndarray]:
        """Flux over its median and errors, on the grid."""
        rows = []
        for one in spectra:
            pixel = np.clip(np.searchsorted(one.wavelength, self.grid - 1e-3), 0, len(one) - 1)
            near = np.abs(one.wavelength[pixel] - self.grid) < 0.75 * np.gradient(self.grid)
            error = np.where(near & one.good[pixel], one.error[pixel], np.inf)
            scale = max(np.median(one.flux[one.good]), np.median(one.error[one.good]))
            rows.append((np.where(np.isfinite(error), one.flux[pixel], 0) / scale, error / scale))
        flux, errors = zip(*rows, strict=True)
        return np.stack(flux), np.stack(errors)

    def statistics(self, spectra: Sequence[Spectrum]) -> np.ndarray:
        """Reduced chi², and the statistics that the detector takes of residuals, one row per spectrum.

        Args:
            spectra: The spectra.
        """
        rows = []
        for flux, error in zip(*self._arrays(spectra), strict=True):
            good = np.isfinite(error)
            plain = self.plain.residual(flux, error)[good] / error[good]
            z = self.components.residual(flux, error) / np.hypot(np.where(good, error, 1), self.components.floor)
            scans = [np.abs(box_scan(z, good, width)).max() for width in SCAN_WIDTHS]
            steps = [np.abs(step_scan(z, good, width)).max() for width in STEP_WIDTHS]
            rows.append([(plain**2).mean(), clipped_chi2(z, good), *scans, *steps])
        return np.array(rows)


def pca_scores(references: Sequence[Spectrum], judged: Sequence[Spectrum], count: int) -> dict[str, np.ndarray]:
    """Scores of the baseline, plain and made as strong as its residual allows, by name of the method.

    Args:
        references: Normal spectra.
        judged: Spectra to be judged.
        count: How many components.
    """
    statistics = FluxPCA(references, count).statistics(judged)
    fold = np.arange(len(references)) % FOLDS
    own = np.empty((len(references), statistics.shape[1]))
    for number in range(FOLDS):
        kept = [one for one, part in zip(references, fold, strict=True) if part != number]
        left = [one for one, part in zip(references, fold, strict=True) if part == number]
        own[fold == number] = FluxPCA(kept, count).statistics(left)
    snr, own_snr = (np.array([max(_snr(one), 0.01) for one in part]) for part in (judged, references))
    kinds, own_kinds = (np.zeros(len(part), dtype=int) for part in (judged, references))  # no model tells them apart
    calibration = Calibration(own, own_snr, own_kinds)
    oddness = calibration.standardise(statistics, snr, kinds)
    own_oddness = calibration.standardise(own, own_snr, own_kinds, own=True)
    columns = [slice(1, 2), slice(2, 2 + len(SCAN_WIDTHS)), slice(2 + len(SCAN_WIDTHS), None)]
    p = [smooth_p(oddness[:, part].max(1), own_oddness[:, part].max(1)) for part in columns]
    return {
        BASELINE: statistics[:, 0],
        f"{BASELINE}, calibrated": oddness[:, 0],
        f"{BASELINE}, all statistics": -np.log10(np.min(p, 0)),
    }


def _snr(spectrum: Spectrum) -> float:
    return float(np.median(spectrum.flux[spectrum.good] / spectrum.error[spectrum.good]))


def area(normal: np.ndarray, odd: np.ndarray) -> float:
    """Area under the ROC curve: how often an odd spectrum has the higher score, a draw counting half.

    Args:
        normal: Scores, shape (n,).
        odd: Scores, shape (m,).
    """
    ordered = np.sort(normal)
    below, upto = (np.searchsorted(ordered, odd, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(ordered))


def area_error(normal: np.ndarray, odd: np.ndarray, seed: int = 0) -> float:
    """Bootstrap standard error of `area`.

    Args:
        normal: Scores, shape (n,).
        odd: Scores, shape (m,).
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    return float(np.std([area(rng.choice(normal, len(normal)), rng.choice(odd, len(odd))) for _ in range(BOOTSTRAPS)]))


def judge(survey: str, encoder: SpectrumEncoder | None, args: argparse.Namespace) -> list[Row]:
    """Rows of one survey: a method and a kind of anomaly each.

    Args:
        survey: Name of the survey.
        encoder: The encoder; None = the baseline alone, with several numbers of components.
        args: Options.
    """
    sample = simulate(survey, args)
    judged = [*sample.normal, *(one for spectra in sample.odd.values() for one in spectra)]
    if encoder is None:
        counts = sorted({count for count in (2, 5, 10, 20, 40, 80) if count <= len(sample.references) // 4})
        scores = {
            f"{name}, {count} components": values
            for count in counts
            for name, values in pca_scores(sample.references, judged, count).items()
        }
    else:
        scores = detector_scores(encoder, sample.references, judged)
        scores |= pca_scores(sample.references, judged, args.components)
    kinds = np.repeat(["normal", *sample.odd], [len(sample.normal), *map(len, sample.odd.values())])
    outside = np.array([_is_extragalactic(one) for one in judged])
    rows = []
    for method, values in scores.items():
        for kind in ANOMALIES:
            normal = values[(kinds == "normal") & (outside if kind == "stitched" else True)]
            auc, error = area(normal, values[kinds == kind]), area_error(normal, values[kinds == kind])
            rows.append({"survey": survey, "method": method, "kind": kind, "auc": auc, "error": error})
    return rows


def summarise(rows: Sequence[Row]) -> list[Row]:
    """The table: a line per method, a column per kind; means over the surveys.

    Args:
        rows: What `judge` returned, of all surveys.
    """
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        line: Row = {"method": method}
        for kind in ANOMALIES:
            own = [row for row in rows if (row["method"], row["kind"]) == (method, kind)]
            error = np.sqrt(np.sum([row["error"] ** 2 for row in own])) / len(own)
            line[kind] = f"{np.mean([row['auc'] for row in own]):.3f} ± {error:.3f}"
        table.append(line)
    return table


def run(args: argparse.Namespace) -> list[Row]:
    """Judge, and write the table.

    Args:
        args: Options.

    Returns:
        A row per survey, method and kind.
    """
    encoder = None if args.tune else SpectrumEncoder.from_pretrained(args.checkpoint)
    rows = [row for survey in args.surveys for row in judge(survey, encoder, args)]
    strengths = ", ".join(f"{kind} {STRENGTHS[kind]:g}" for kind in ANOMALIES)
    text = [f"AUC, mean of {', '.join(args.surveys)}; strengths: {strengths}", format_table(summarise(rows))]
    for survey in args.surveys if len(args.surveys) > 1 else []:
        text += [f"{survey}:", format_table(summarise([row for row in rows if row["survey"] == survey]))]
    write_report(args.output, "\n\n".join(text), rows)
    return rows


if __name__ == "__main__":
    run(parse_arguments())
