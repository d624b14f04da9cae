"""Draw the figures of docs/pictures.md: cards, reconstructions, attributions, a latent space, the surveys' coverage.

    python examples/pictures.py --spectra ../shared/spectra
    python examples/pictures.py --smoke --output outputs/pictures

With a folder of real spectra they are of a galaxy of SDSS, a quasar of DESI, a giant of APOGEE and a star of GALAH;
without one, of simulated spectra in their place. Figures go to docs/figures.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from judged_checkpoint import save_picture
from real_spectra import add_spectra_option, load_real_spectra
from run_settings import drop_invalid

from spectok_hf import Spectrum, plot_reconstruction, simulate_survey
from spectok_hf.analysis.attribution import Attribution, attribute, plot_attribution
from spectok_hf.analysis.latent_space import directions, make_map, plot_map
from spectok_hf.analysis.plots import import_pyplot, mark_lines, plot_coverage_chart
from spectok_hf.analysis.search import SpectrumIndex
from spectok_hf.analysis.spectrum_card import spectrum_card
from spectok_hf.encoder import SpectrumEncoder

SEED = 2512  # of simulated spectra; not one that training has
NEIGHBOURS = 4
METRIC_SPECTRA = 300  # simulated, by which "alike" is measured
ON_MAP = ("sdss", "boss", "desi", "lamost")  # whose ranges are nearly the same


@dataclass(frozen=True)
class Subject:
    """A spectrum that is shown, and the head whose answer is explained.

    Args:
        survey: Its survey.
        object_id: Of the real spectrum.
        kind: Class that is simulated in its place.
        head: Task head.
    """

    survey: str
    object_id: str
    kind: str
    head: str


SUBJECTS = {
    "sdss": Subject("sdss", "1045-52725-0628", "GALAXY", "classification"),
    "desi": Subject("desi", "39633559467591522", "QSO", "redshift"),
    "apogee": Subject("apogee", "2M17334253-1654573", "STAR", "stellar-parameters"),
    "galah": Subject("galah", "210115000101001", "STAR", "stellar-parameters"),
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="spectok-tiny", help="a folder, ORG/NAME on the Hub, or what is shipped")
    add_spectra_option(parser)
    parser.add_argument("--output", type=Path, default=Path("docs/figures"), help="folder of the figures")
    parser.add_argument("--dpi", type=int, default=115, help="resolution")
    parser.add_argument("--smoke", action="store_true", help="one simulated spectrum and a small map")
    return parser.parse_args(argv)


def choose(real: Sequence[Spectrum], subject: Subject) -> Spectrum:
    """The spectrum of a subject: the real one, or a simulated one where there are no real ones.

    Args:
        real: Real spectra, or none.
        subject: The subject.
    """
    if not real:
        return simulate_survey(subject.survey, 1, seed=SEED, kind=subject.kind, snr=30)[0]
    return next(one for one in real if (one.survey, one.object_id) == (subject.survey, subject.object_id))


def find_neighbours(
    spectrum: Spectrum, real: Sequence[Spectrum], encoder: SpectrumEncoder
) -> list[tuple[str, Spectrum, float]]:
    """The real spectra of other objects of a survey that are most alike, with the distance of each.

    The metric is measured on simulated spectra of the survey: real ones are too few.

    Args:
        spectrum: The spectrum.
        real: Real spectra.
        encoder: The encoder.
    """
    others = [one for one in real if one.survey == spectrum.survey and one.object_id != spectrum.object_id]
    others = drop_invalid(others, encoder.processor)
    if len(others) < NEIGHBOURS:
        return []
    simulated = simulate_survey(str(spectrum.survey), METRIC_SPECTRA, seed=SEED)
    metric = SpectrumIndex.build(encoder, simulated, keep_flux=False).metric
    places = [str(place) for place in range(len(others))]
    found = SpectrumIndex.build(encoder, others, ids=places, metric=metric).search(spectrum, k=NEIGHBOURS)
    chosen = [others[int(place)] for place in found.ids]
    return [(one.name, one, float(distance)) for one, distance in zip(chosen, found.distances, strict=True)]


def explain(spectrum: Spectrum, subject: Subject, encoder: SpectrumEncoder) -> Attribution | None:
    """What a head's answer rests on; None where the checkpoint has no such head.

    Args:
        spectrum: The spectrum.
        subject: Names the head.
        encoder: The encoder.
    """
    if subject.head not in encoder.heads:
        return None
    head = encoder.head(subject.head)
    return attribute(head.model, head.processor, spectrum)


def draw_subject(name: str, spectrum: Spectrum, real: Sequence[Spectrum], args: argparse.Namespace) -> None:
    """Reconstruction, attribution and card of one spectrum.

    Args:
        name: Of the files.
        spectrum: The spectrum.
        real: Where neighbours are looked for.
        args: Options.
    """
    encoder = SpectrumEncoder.from_pretrained(args.model)
    axes = plot_reconstruction(spectrum, encoder.reconstruct(spectrum))
    mark_lines(axes[0], spectrum=spectrum)
    save_picture(axes[0].figure, args.output / f"reconstruction_{name}.png", dpi=args.dpi)
    attribution = explain(spectrum, SUBJECTS[name], encoder)
    if attribution is not None:
        ax = plot_attribution(spectrum, attribution)
        save_picture(ax.figure, args.output / f"attribution_{name}.png", dpi=args.dpi)
    neighbours = find_neighbours(spectrum, real, encoder)
    page = spectrum_card(spectrum, encoder, attribution=attribution, neighbours=neighbours)
    save_picture(page["flux"].figure, args.output / f"card_{name}.png", dpi=args.dpi)


def draw_map(spectra: Sequence[Spectrum], args: argparse.Namespace) -> None:
    """The embeddings of spectra by their class: principal components, and a UMAP where it is installed.

    Args:
        spectra: The spectra.
        args: Options.
    """
    encoder = SpectrumEncoder.from_pretrained(args.model)
    shown = drop_invalid(list(spectra), encoder.processor)
    vectors = directions(encoder.encode(shown))
    classes = [one.labels.get("class") for one in shown]
    maps = [make_map(vectors, method="pca")]
    best = make_map(vectors)
    maps += [best] if best.method != "pca" else []
    title = f"{len({one.survey for one in shown})} surveys"
    figure, axes = import_pyplot().subplots(1, len(maps), figsize=(4.6 * len(maps), 4), squeeze=False)
    figure.set_layout_engine("constrained")
    for places, ax in zip(maps, axes[0], strict=True):
        plot_map(places, np.array(classes, dtype=object), name="class", title=title, ax=ax)
    save_picture(figure, args.output / "latent.png", dpi=args.dpi)


def run(args: argparse.Namespace) -> None:
    """Draw all figures.

    Args:
        args: Options.
    """
    real = [] if args.smoke or args.spectra is None else load_real_spectra(args.spectra)
    domain = SpectrumEncoder.from_pretrained(args.model).domain
    save_picture(plot_coverage_chart(domain=domain).figure, args.output / "coverage.png", dpi=args.dpi)
    for name in ["sdss"] if args.smoke else SUBJECTS:
        draw_subject(name, choose(real, SUBJECTS[name]), real, args)
    shown = [one for one in real if one.survey in ON_MAP]
    draw_map(shown or simulate_survey("sdss", 16 if args.smoke else 300, seed=SEED), args)


if __name__ == "__main__":
    run(parse_arguments())
