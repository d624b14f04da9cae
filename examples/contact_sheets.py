"""Contact sheets: real spectra beside simulated ones, survey by survey and class by class.

    python examples/contact_sheets.py --spectra ../shared/spectra --output_dir outputs/contact_sheets
    python examples/contact_sheets.py --spectra ../shared/spectra --output_dir docs/figures --pictures

Each real spectrum stands beside a simulated one of its survey and class, of the same signal-to-noise ratio: of some
hundred the one with the nearest labels, and of those that are near enough, or all where there are no labels, the one
that looks most alike. So a sheet shows whether the simulation can make such a spectrum, not how often it does. Without
real spectra (`--smoke`) simulated ones stand in their place, which only shows that the script runs.
docs/simulation.md shows the sheets. With --pictures there is one sheet instead, that of docs/spectra_as_pictures.md:
spectra of each survey as vision models see them, in every encoding.
"""

import argparse
import io
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from real_spectra import add_spectra_option, load_real_spectra

from spectok_hf import Spectrum, SpectrumImageProcessor, simulate_survey
from spectok_hf.analysis.contact_sheet import plot_contact_sheet
from spectok_hf.analysis.picture_plots import plot_picture_sheet
from spectok_hf.analysis.plots import signal_to_noise
from spectok_hf.evaluation.classification import running_median

# Where the catalogue keeps a survey's products apart, the survey that simulates them.
SIMULATED_AS = {"apogee-giants": "apogee", "apogee-normalised": "apogee"}
SURVEYS_SHOWN = ("sdss", "boss", "desi", "lamost", "galah", "apogee", "apogee-giants", "gaia_xp")
# Name of a close-up, and its window in Å in the survey's medium.
ZOOMS = {
    "galah": {"halpha": (6530.0, 6600.0), "hbeta": (4800.0, 4903.0)},
    "apogee": {"zoom": (15_700.0, 15_780.0)},
    "lamost": {"blue": (3850.0, 4500.0)},
}
# What one label may be off for the same cost, as natural to how a spectrum looks.
LABEL_UNITS = {"teff": 150.0, "logg": 0.4, "feh": 0.3}
REDSHIFT_UNIT = 0.01
NEAR_ENOUGH = 1.0  # in those units: nearer ones count alike
LEAST_SNR, CLEAN_SNR = 2.0, 1e4
SHAPE_BINS, LINE_REACH = 800, 15
# Spectra that are shown as pictures: survey and id of the real one, and the class that is simulated in its place.
DRAWN = (
    ("sdss", "0266-51602-0166", "GALAXY"),
    ("boss", "3655-55240-0030", "QSO"),
    ("desi", "39633559467591522", "QSO"),
    ("lamost", "55862-B6212_sp06-008", "STAR"),
    ("apogee", "2M17334253-1654573", "STAR"),
    ("galah", "210115000101001", "STAR"),
    ("gaia_xp", "6", None),
)
ENCODINGS = {
    "simple": SpectrumImageProcessor("simple"),
    "overlap": SpectrumImageProcessor("overlap"),
    "map, viridis": SpectrumImageProcessor("map"),
    "map, gray, boustrophedon": SpectrumImageProcessor("map", map_colors="gray", map_order="boustrophedon"),
    "map, derivatives": SpectrumImageProcessor("map", map_colors="derivatives"),
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_spectra_option(parser)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/contact_sheets"), help="where the images go")
    parser.add_argument("--surveys", nargs="+", choices=SURVEYS_SHOWN, default=list(SURVEYS_SHOWN))
    parser.add_argument("--rows", type=int, default=6, help="pairs on a sheet")
    parser.add_argument("--candidates", type=int, default=300, help="simulated spectra the nearest is taken from")
    parser.add_argument("--seed", type=int, default=0, help="first seed of the simulation")
    parser.add_argument("--dpi", type=int, default=75, help="resolution of the images")
    parser.add_argument("--pictures", action="store_true", help="the sheet of spectra as pictures instead")
    parser.add_argument("--smoke", action="store_true", help="two pairs of one survey, simulated on both sides")
    return parser.parse_args(argv)


def choose(spectra: list[Spectrum], rows: int) -> list[Spectrum]:
    """Spectra that show the range of a group: in the order of temperature, redshift or S/N, evenly spread.

    Args:
        spectra: Spectra of one survey and class; objects may repeat.
        rows: How many to take, at most.
    """
    objects = {spectrum.object_id: spectrum for spectrum in spectra if signal_to_noise(spectrum) >= LEAST_SNR}
    ranked = sorted(objects.values(), key=_rank)
    places = np.unique(np.linspace(0, len(ranked) - 1, min(rows, len(ranked))).round().astype(int))
    return [ranked[place] for place in places]


def _rank(spectrum: Spectrum) -> tuple[float, float]:
    name = "teff" if spectrum.labels.get("class") == "STAR" else "redshift"
    return float(spectrum.labels.get(name, np.inf)), signal_to_noise(spectrum)


def simulate_pairs(real: list[Spectrum], kind: str | None, candidates: int, seed: int) -> list[Spectrum]:
    """For each real spectrum the simulated one that is nearest to it, at the same S/N; none is used twice.

    Args:
        real: Real spectra of one survey.
        kind: Their class; None = whatever the survey observes.
        candidates: Simulated spectra to choose from; at least as many as real ones are drawn.
        seed: First seed: every candidate has its own, so that the chosen one can be drawn again.
    """
    survey = SIMULATED_AS.get(str(real[0].survey), str(real[0].survey))
    seeds = range(seed, seed + max(candidates, len(real)))
    drawn = [simulate_survey(survey, 1, number, kind=kind, snr=CLEAN_SNR)[0] for number in seeds]
    free, pairs = list(range(len(drawn))), []
    for spectrum in real:
        shapes = shape_distances(spectrum, [drawn[place] for place in free])
        labels = np.array([label_distance(spectrum.labels, drawn[place].labels) for place in free])
        best = free.pop(int(np.argmin(np.maximum(labels, NEAR_ENOUGH) + shapes)))
        snr = max(signal_to_noise(spectrum), LEAST_SNR)
        pairs += simulate_survey(survey, 1, seeds[best], kind=kind, snr=snr)
    return pairs


def shape_distances(real: Spectrum, simulated: list[Spectrum]) -> np.ndarray:
    """How unlike noise-free simulated spectra are to a real one, shape (n,): 0 = alike, 1 = not at all.

    Stars are compared by their lines, after division by a running median: their calibration is not their own.

    Args:
        real: The real spectrum.
        simulated: Simulated spectra.
    """
    edges = np.geomspace(real.wavelength[0], real.wavelength[-1], SHAPE_BINS + 1)
    lines_only = real.labels.get("class") == "STAR"
    own = _coarse(real, real.flux, edges, lines_only)
    others = [_coarse(spectrum, spectrum.truth, edges, lines_only) for spectrum in simulated]
    differences = np.minimum(np.abs(np.stack(others) - own), 1)[:, np.isfinite(own)]
    differences = np.nan_to_num(differences, nan=1.0)  # where an arm is missing
    return np.tanh(differences.mean(1) / (np.nanstd(own) + 0.01))


def _coarse(spectrum: Spectrum, flux: np.ndarray, edges: np.ndarray, lines_only: bool) -> np.ndarray:
    """Mean of the good pixels of each bin over the median of all, or of its neighbours; NaN without, shape (bins,)."""
    good = spectrum.good & (spectrum.wavelength >= edges[0]) & (spectrum.wavelength < edges[-1])
    place = np.searchsorted(edges, spectrum.wavelength[good], side="right") - 1
    count = np.bincount(place, minlength=len(edges) - 1)
    light = np.bincount(place, flux[good].clip(*np.percentile(flux[good], (1, 99))), len(edges) - 1)
    mean = np.divide(light, count, out=np.full(len(count), np.nan), where=count > 0)
    return mean / (running_median(mean, LINE_REACH) if lines_only else np.nanmedian(mean))


def label_distance(real: dict, simulated: dict) -> float:
    """How far apart labels are; 0 where there is none to compare.

    Args:
        real: Labels of the real spectrum.
        simulated: Labels of the simulated one.
    """
    if real.get("class") in ("GALAXY", "QSO") and "redshift" in real:
        return abs(np.log1p(real["redshift"]) - np.log1p(simulated["redshift"])) / REDSHIFT_UNIT
    steps = [
        (real[name] - simulated[name]) / unit
        for name, unit in LABEL_UNITS.items()
        if name in real and name in simulated
    ]
    return float(np.linalg.norm(steps))


def save_sheet(axes: np.ndarray, path: Path, dpi: int) -> None:
    """The figure as an image of few colours: a third of the size.

    Args:
        axes: What `plot_contact_sheet` returned.
        path: PNG file to write.
        dpi: Resolution.
    """
    figure, buffer = axes[0, 0].figure, io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(buffer) as image:
        image.convert("L").quantize(12).save(path, optimize=True)
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


def draw_group(real: list[Spectrum], args: argparse.Namespace) -> None:
    """The sheets of one survey and class.

    Args:
        real: Their real spectra.
        args: Options.
    """
    survey, kind = str(real[0].survey), real[0].labels.get("class")
    real = choose(real, args.rows)
    if not real:
        return
    simulated = simulate_pairs(real, kind, args.candidates, args.seed)
    name = f"contact_{survey}_{str(kind or 'unclassified').lower()}"
    windows: dict[str, tuple[float, float] | None] = {name: None}
    windows |= {f"{name}_{part}": window for part, window in ZOOMS.get(survey, {}).items()}
    for name, window in windows.items():
        save_sheet(plot_contact_sheet(real, simulated, window=window), args.output_dir / f"{name}.png", args.dpi)


def draw_pictures(real: list[Spectrum], path: Path) -> None:
    """The sheet of spectra as pictures.

    Args:
        real: Real spectra, the chosen ones among them; none = simulated ones in their place.
        path: PNG file to write.
    """
    known = {(spectrum.survey, spectrum.object_id): spectrum for spectrum in real}
    spectra = [
        known[survey, name] if real else simulate_survey(survey, 1, seed=1000, kind=kind, snr=30)[0]
        for survey, name, kind in DRAWN
    ]
    figure, buffer = plot_picture_sheet(spectra, ENCODINGS)[0, 0].figure, io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(buffer) as image:
        image.convert("RGB").save(path, optimize=True)  # all colours: fewer would be others
    print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")


def run(args: argparse.Namespace) -> None:
    """Draw all sheets.

    Args:
        args: Options.
    """
    if args.smoke:
        args.rows, args.candidates = 2, 4
        spectra = simulate_survey("lamost", 4, seed=1000, kind="STAR")
    elif args.spectra is None:
        raise SystemExit("no real spectra: pass --spectra FOLDER, set SPECTOK_SPECTRA, or try --smoke")
    else:
        spectra = load_real_spectra(args.spectra)
    if args.pictures:
        return draw_pictures([] if args.smoke else spectra, args.output_dir / "picture_encodings.png")
    groups = defaultdict(list)
    for spectrum in spectra:
        if spectrum.survey in args.surveys:
            groups[spectrum.survey, spectrum.labels.get("class")].append(spectrum)
    for group in groups.values():
        draw_group(group, args)


if __name__ == "__main__":
    run(parse_arguments())
