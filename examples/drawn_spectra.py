"""Draw labelled spectra from models that others fitted to real spectra, on the grids of BOSS and APOGEE.

    python examples/drawn_spectra.py ../shared/spectra outputs/drawn_spectra

Between simulation and observation: light comes from real objects, labels are true by construction, and there are as
many spectra as one likes. The folder is the one of `real_spectra.py`; its models lie in `sim`. One recipe, so that
figures can be compared:

- BOSS, a third each of GALAXY, QSO, STAR. Galaxies and quasars are sums of the principal components of Bolton et al.
  2012, AJ 144, 144 (spEigenGal) and Brodzeller et al. 2023, AJ 166, 66 (LOZ and HIZ), whose coefficients lie on the
  line through those of two real objects of `sdss`, fitted here. Stars are single stars of the library of Bolton et
  al. The forest of a far quasar is the package's own simulation: the HIZ components were made without the mean
  absorption by Lyman alpha (but with that of the other lines: shortward of Lyman beta it stays the mean one).
- APOGEE: a network that gives normalised flux for parameters, trained on real spectra (see CATALOGUE.md).

Noise, bad pixels, level and foreground dust are drawn alike for all classes, and errors are honest: only the light
tells a class. Every spectrum has its noise-free flux (`truth`). The label `parent` names the object that most of a
BOSS spectrum comes from (of two, in a mixture): spectra of one parent are similar, and none is independent of the real
spectra that the mixture was fitted to.
"""

import argparse
import csv
import operator
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from real_spectra import KEPT_LABELS

from spectok_hf import SURVEYS, Spectrum, read_spectra
from spectok_hf.data.simulation.instrument import Instrument, make_instrument, observe, typical_flux, visit
from spectok_hf.data.simulation.profiles import LIGHT_SPEED, log_uniform
from spectok_hf.data.simulation.quasars import lyman_transmission
from spectok_hf.data.simulation.recipes import HONEST, RECIPES
from spectok_hf.data.spectrum_files import write_spectra

BOSS_SNR = (3.0, 50.0)
APOGEE_SNR = (100.0, 200.0)
GALAXY_REDSHIFT = (0.02, 0.8)  # components from 1183 to 10500 Å: the grid is covered at any redshift below 2
QUASAR_REDSHIFT = (0.3, 3.5)
FAR_QUASAR = 1.6  # LOZ covers the grid for 0.07 < z < 1.68, HIZ for z > 1.29
VELOCITY_SCATTER = 150.0  # km/s
FOREGROUND_REDDENING = 0.05  # mean E(B-V)
# Share of the second object in a mixture. Below 0, it goes away from that one: with a mixture between the two alone,
# the sample would be more uniform than the real one by a third (in variance).
SECOND_SHARE = (-0.35, 0.5)
MOST_DRAWS = 1000  # one mixture in ten has negative flux, and is drawn again
LEAST_SNR = 2.0  # of a real spectrum that coefficients are taken from
LYMAN_FOREST = (1025.72, 1215.67)  # Å at rest: where the HIZ components lack the mean absorption
# Shares of spectral types, chosen so that most are F to M, as in surveys; of the library, four in ten are O, B or A.
# "" = all the others: white dwarfs, a carbon star, an L dwarf, subdwarfs. It has M giants, but hardly an M dwarf.
STAR_TYPES = {"O": 0.01, "B": 0.04, "A": 0.12, "F": 0.25, "G": 0.2, "K": 0.2, "M": 0.12, "": 0.06}
# Whatever is not honest, and whatever calibration and air do to light, is left out.
CLEAN: dict[str, Any] = {
    **HONEST,
    "trim": (0, 0, 0, 0),
    "tilt": 0.0,
    "ripple": 0.0,
    "join_offset": 0.0,
    "telluric": (0.0, 0.0),
    "persistence": (0.0, 1, 1.0),
}
# Where stars are, as surface gravity over effective temperature in K, and how far from there they may lie, in dex.
# Beyond 7000 K, and for giants with broad lines, the network gives noise and emission; few such stars taught it,
# presumably.
TRACKS = {
    "giant": (((3850, 0.9), (4400, 2.0), (4850, 3.0), (5000, 3.5), (5300, 3.8)), 0.5),
    "dwarf": (((3850, 4.65), (5000, 4.55), (5800, 4.4), (6500, 4.2), (7000, 4.15)), 0.3),
}
EMISSION = slice(770, 784)  # pixels of the network, near 15332 Å, where it gives metal-rich giants a flux of up to 2
NETWORK_LABELS = ("teff", "logg", "feh", "alpha_fe", "vmacro")
WRITTEN_LABELS = KEPT_LABELS | {"snr", "parent", *NETWORK_LABELS}


class Model(NamedTuple):
    """Spectra at rest, and the sums of them that real objects are."""

    log_wavelength: np.ndarray  # (K,), ln of Å, vacuum
    components: np.ndarray  # (n, K)
    coefficients: np.ndarray  # (objects, n), for a median flux of 1; for stars a row per star
    parents: list[str]  # (objects,)


class Network(NamedTuple):
    """A perceptron with one hidden layer per pixel; columns of its input are NETWORK_LABELS."""

    weights: np.ndarray  # (P, hidden, labels)
    biases: np.ndarray  # (P, hidden)
    output_weights: np.ndarray  # (P, hidden)
    output_bias: np.ndarray  # (P,)
    low: np.ndarray  # (labels,), the range it was trained on
    high: np.ndarray  # (labels,)
    covered: np.ndarray  # (L,), the pixels of the survey's grid that it knows, P in number


# BOSS: galaxies, quasars and stars

# Name to path, and the header cards with log10 of the first wavelength and its step.
COMPONENTS = {
    "galaxy": ("idlspec2d/spEigenGal-56436.fits", "COEFF0", "COEFF1"),
    "near quasar": ("redrock/rrtemplate-QSO-LOZ-v1.1.fits", "CRVAL1", "CDELT1"),
    "far quasar": ("redrock/rrtemplate-QSO-HIZ-v1.1.fits", "CRVAL1", "CDELT1"),
    "star": ("idlspec2d/spEigenStar-55734.fits", "COEFF0", "COEFF1"),
}
QUASARS = ("near quasar", "far quasar")  # below FAR_QUASAR, and from it on


def draw_boss(folder: Path, count: int, *, seed: int = 0, without: frozenset[str] = frozenset()) -> list[Spectrum]:
    """Galaxies, quasars and stars in turn, on the grid of BOSS.

    Spectrum number i depends on the seed and i alone. S/N is uniform in its logarithm between 3 and 50. Labels are
    `class`, `redshift`, `snr` and `parent`, and for stars `subclass` (the spectral type) and `rv` (km/s).

    Args:
        folder: Catalogue folder with MANIFEST.csv, `sdss` and `sim`.
        count: Number of spectra.
        seed: Non-negative integer.
        without: Identifiers of real objects that nothing is drawn from, such as those held out from a training.

    Returns:
        The spectra, with the noise-free flux in `truth`.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ImportError: If astropy is not installed.
        ValueError: If `count` or `seed` is not a non-negative integer, or the folder has too few real spectra.
    """
    count, seed = _as_count("count", count), _as_count("seed", seed)
    models = load_models(folder, without)
    return [_draw_boss(models, seed, index) for index in range(count)]


def _draw_boss(models: dict[str, Model], seed: int, index: int) -> Spectrum:
    source, sky, noise = _generators("boss", seed, index)
    instrument, recipe = _instrument("boss"), replace(RECIPES["boss"], **CLEAN)
    kind = tuple(CLASSES)[index % len(CLASSES)]
    light, labels = CLASSES[kind](source, models)
    light = light * _foreground(sky, instrument.axis)
    snr = log_uniform(sky, *BOSS_SNR)
    light *= typical_flux(sky, recipe, snr) / np.median(light)
    facts = SURVEYS["boss"]
    return Spectrum(
        **observe(noise, light, visit(noise, instrument, recipe), recipe, snr),
        wavelength=instrument.wavelength,
        survey="boss",
        object_id=f"drawn-boss-{seed}-{index:05d}",
        medium=facts.medium,
        frame=facts.frame,
        flux_unit=facts.flux_unit,
        labels={"class": kind} | labels | {"snr": snr},
    )


def _galaxy(rng: np.random.Generator, models: dict[str, Model]) -> tuple[np.ndarray, dict[str, Any]]:
    redshift = rng.uniform(*GALAXY_REDSHIFT)
    light, parent = _mixture(rng, models["galaxy"], redshift)
    return light, {"redshift": redshift, "parent": parent}


def _quasar(rng: np.random.Generator, models: dict[str, Model]) -> tuple[np.ndarray, dict[str, Any]]:
    instrument, redshift = _instrument("boss"), float(np.expm1(rng.uniform(*np.log1p(QUASAR_REDSHIFT))))
    light, parent = _mixture(rng, models[QUASARS[redshift >= FAR_QUASAR]], redshift)
    forest = lyman_transmission(rng, instrument.axis, instrument.velocity_sigma, redshift)
    return light * np.where(_in_forest(instrument.axis, redshift), forest, 1.0), {
        "redshift": redshift,
        "parent": parent,
    }


def _star(rng: np.random.Generator, models: dict[str, Model]) -> tuple[np.ndarray, dict[str, Any]]:
    model = models["star"]
    letter = rng.choice(list(STAR_TYPES), p=list(STAR_TYPES.values()))
    number = rng.choice([i for i, name in enumerate(model.parents) if _spectral_type(name) == letter])
    velocity = rng.normal(0, VELOCITY_SCATTER)
    # Faint ends of three cool or odd stars fall below 0 in the library: those pixels hold no light.
    light = np.maximum(_seen(model, model.coefficients[number], velocity / LIGHT_SPEED), 0.0)
    name = model.parents[number]
    labels = {"redshift": velocity / LIGHT_SPEED, "rv": velocity, "subclass": name.split(" (")[0], "parent": name}
    return light, labels


CLASSES: dict[str, Callable[..., tuple[np.ndarray, dict[str, Any]]]] = {
    "GALAXY": _galaxy,
    "QSO": _quasar,
    "STAR": _star,
}


def _spectral_type(name: str) -> str:
    """The letter of a star of the library; "" for those that are no plain O to M stars ("Carbon", "sd:F0")."""
    return name[0] if name[0] in STAR_TYPES and (name[1].isdigit() or name.startswith("Am")) else ""


def _mixture(rng: np.random.Generator, model: Model, redshift: float) -> tuple[np.ndarray, str]:
    """Light of a mixture of two objects of a model, shape (L,), nowhere negative, and the name of the first."""
    for _ in range(MOST_DRAWS):
        first, second = rng.choice(len(model.parents), 2, replace=False)
        share = rng.uniform(*SECOND_SHARE)
        light = _seen(model, (1 - share) * model.coefficients[first] + share * model.coefficients[second], redshift)
        if light.min() >= 0:
            return light, model.parents[first]
    raise RuntimeError(f"{MOST_DRAWS} mixtures at redshift {redshift:.3f} were negative somewhere: fit other spectra")


def _seen(model: Model, coefficients: np.ndarray, redshift: float) -> np.ndarray:
    """A sum of components at a redshift, on the grid of BOSS, shape (L,)."""
    at_rest = np.log(_instrument("boss").axis) - np.log1p(redshift)
    return np.interp(at_rest, model.log_wavelength, coefficients @ model.components)


def _in_forest(wavelength: np.ndarray, redshift: float) -> np.ndarray:
    low, high = LYMAN_FOREST
    return (wavelength > low * (1 + redshift)) & (wavelength < high * (1 + redshift))


def _foreground(rng: np.random.Generator, wavelength: np.ndarray) -> np.ndarray:
    """What dust of the Milky Way lets through, shape (L,): a power law through R_V = 3.1."""
    magnitudes = 3.1 * rng.exponential(FOREGROUND_REDDENING) * (wavelength / 5500) ** -1.3
    return 10 ** (-0.4 * magnitudes)


@cache
def load_models(folder: Path, without: frozenset[str] = frozenset()) -> dict[str, Model]:
    """The models of galaxies, quasars and stars, with coefficients fitted to the real spectra of a folder.

    Args:
        folder: Catalogue folder with MANIFEST.csv, `sdss` and `sim`.
        without: Identifiers of objects to leave out.

    Raises:
        FileNotFoundError: If the folder lacks a file.
        ImportError: If astropy is not installed.
        ValueError: If a model has fewer than two real objects.
    """
    models = {name: _load_components(folder, name) for name in COMPONENTS}
    members: dict[str, list[Spectrum]] = {name: [] for name in COMPONENTS if name != "star"}
    for spectrum in _real_objects(folder):
        if str(spectrum.object_id) in without:
            continue
        far = spectrum.labels["redshift"] >= FAR_QUASAR
        members["galaxy" if spectrum.labels["class"] == "GALAXY" else QUASARS[far]].append(spectrum)
    for name, real in members.items():
        if len(real) < 2:
            raise ValueError(
                f"a mixture needs two real objects, found {len(real)} for the model {name!r} among those of "
                f"{folder / 'MANIFEST.csv'} under sdss/ with S/N above {LEAST_SNR:g}: add spectra"
            )
        coefficients = np.array([fit_coefficients(models[name], spectrum) for spectrum in real])
        models[name] = models[name]._replace(coefficients=coefficients, parents=[str(s.object_id) for s in real])
    return models


def _real_objects(folder: Path) -> list[Spectrum]:
    """The best SDSS or BOSS spectrum of each galaxy and quasar: an object with many would count as many."""
    best: dict[str, dict[str, str]] = {}
    with _existing(folder / "MANIFEST.csv").open() as file:
        for row in csv.DictReader(file):
            usable = row["path"].startswith("sdss/") and row["cls"] in ("GALAXY", "QSO")
            key = row["object_id"]
            if usable and float(row["snr"]) >= max(LEAST_SNR, float(best[key]["snr"]) if key in best else 0.0):
                best[key] = row
    spectra = []
    for row in best.values():
        spectrum = read_spectra(str(folder / row["path"]), progress=False)[0]
        if spectrum.labels["zwarn"] == 0:
            spectrum.labels |= {"class": row["cls"], "redshift": float(row["z"])}
            spectra.append(spectrum)
    return spectra


def fit_coefficients(model: Model, spectrum: Spectrum) -> np.ndarray:
    """Coefficients of the components in a spectrum at its labelled redshift, shape (n,), for a median flux of 1.

    Least squares weighted by inverse variance; the forest is fitted with its mean absorption.

    Args:
        model: The components.
        spectrum: In vacuum, as observed, with the label `redshift`.
    """
    redshift, good = spectrum.labels["redshift"], spectrum.good
    at_rest = np.log(spectrum.wavelength) - np.log1p(redshift)
    design = np.stack([np.interp(at_rest, model.log_wavelength, component) for component in model.components])
    # The correction that HIZ was made with: Kamble et al. 2020, ApJ 892, 70.
    mean = np.exp(-5.54e-3 * (spectrum.wavelength / LYMAN_FOREST[1]) ** 3.182)
    design *= np.where(_in_forest(spectrum.wavelength, redshift), mean, 1.0)
    weight = np.sqrt(spectrum.ivar[good], dtype=np.float64)
    coefficients = np.linalg.lstsq((design[:, good] * weight).T, spectrum.flux[good] * weight, rcond=None)[0]
    return coefficients / np.median(coefficients @ design[:, good])


def _load_components(folder: Path, name: str) -> Model:
    """The components of a model; each is an object of its own until others are fitted."""
    try:
        from astropy.io import fits
    except ImportError as error:
        raise ImportError('the models are FITS files, which need astropy: pip install "spectok-hf[astro]".') from error
    path, start, step = COMPONENTS[name]
    with fits.open(_existing(folder / "sim" / path)) as hdus:
        header, components = hdus[0].header, np.array(hdus[0].data, dtype=np.float64)
    log_wavelength = np.log(10) * (header[start] + header[step] * np.arange(components.shape[1]))
    names = [str(header.get(f"NAME{number}", number)) for number in range(len(components))]
    return Model(log_wavelength, components, np.eye(len(components)), names)


# APOGEE: stars with parameters


def draw_apogee(folder: Path, count: int, *, seed: int = 0) -> list[Spectrum]:
    """Stars with parameters, on the grid of APOGEE; the pixels that the network does not know have no data.

    Spectrum number i depends on the seed and i alone. S/N is uniform between 100 and 200. Labels are `teff` (K),
    `logg`, `feh`, `alpha_fe` (dex), `vmacro` (km/s), `class` and `snr`.

    Parameters are uniform within the range of the network where stars are: half of them within 0.5 dex in `logg` of
    a giant branch, half within 0.3 dex of a main sequence (TRACKS, up to 7000 K); all within 0.15 dex of [alpha/Fe] =
    max(0, -0.3 [Fe/H]) and, where `logg` is below 3.5, with less than 10 km/s of `vmacro`.

    Args:
        folder: Catalogue folder with `sim`.
        count: Number of spectra.
        seed: Non-negative integer.

    Returns:
        The spectra, with the noise-free flux in `truth`.

    Raises:
        FileNotFoundError: If the folder lacks a file of the network.
        ValueError: If `count` or `seed` is not a non-negative integer, or the network's pixels are not those of
            APOGEE.
    """
    count, seed = _as_count("count", count), _as_count("seed", seed)
    network = load_network(folder)
    return [_draw_apogee(network, seed, index) for index in range(count)]


def _draw_apogee(network: Network, seed: int, index: int) -> Spectrum:
    source, sky, noise = _generators("apogee", seed, index)
    instrument, recipe = _instrument("apogee"), replace(RECIPES["apogee"], **CLEAN)
    parameters = _parameters(source, network)
    snr = sky.uniform(*APOGEE_SNR)
    seen = visit(noise, instrument.at(network.covered), recipe)
    columns = observe(noise, normalised_flux(network, parameters), seen, recipe, snr)
    unknown = {"flux": 1.0, "ivar": 0.0, "mask": True, "truth": 1.0}
    return Spectrum(
        **{name: _embedded(column, network.covered, unknown[name]) for name, column in columns.items()},
        wavelength=instrument.wavelength,
        survey="apogee-normalised",
        object_id=f"drawn-apogee-{seed}-{index:05d}",
        medium=SURVEYS["apogee"].medium,
        frame="rest",
        flux_unit="normalised",
        labels={"class": "STAR"} | dict(zip(NETWORK_LABELS, parameters.tolist(), strict=True)) | {"snr": snr},
    )


def _parameters(rng: np.random.Generator, network: Network) -> np.ndarray:
    """Values of NETWORK_LABELS, shape (labels,)."""
    branch = rng.choice(tuple(TRACKS))  # the main sequence has three times the area
    while not is_populated(*(values := rng.uniform(network.low, network.high)), branches=(branch,)):
        pass
    return values


def is_populated(
    teff: float, logg: float, feh: float, alpha_fe: float, vmacro: float, *, branches: Iterable[str] = TRACKS
) -> bool:
    """Whether there are such stars, by the rules of `draw_apogee`.

    Args:
        teff: Effective temperature in K.
        logg: Surface gravity in dex.
        feh: [Fe/H] in dex.
        alpha_fe: [alpha/Fe] in dex.
        vmacro: Macroturbulent velocity in km/s.
        branches: Keys of TRACKS.
    """
    tracks = [TRACKS[branch] for branch in branches]
    on_track = any(
        abs(logg - np.interp(teff, *np.transpose(track), left=np.nan, right=np.nan)) < width for track, width in tracks
    )
    return on_track and abs(alpha_fe - max(0.0, -0.3 * feh)) < 0.15 and (logg > 3.5 or vmacro < 10)


def normalised_flux(network: Network, parameters: np.ndarray) -> np.ndarray:
    """Flux over continuum that a network gives, shape (P,).

    Args:
        network: The network.
        parameters: Values of NETWORK_LABELS, shape (labels,).
    """
    scaled = (parameters - network.low) / (network.high - network.low) - 0.5
    hidden = 1 / (1 + np.exp(-(network.weights @ scaled + network.biases)))
    return (network.output_weights * hidden).sum(axis=1) + network.output_bias


def _embedded(column: np.ndarray, covered: np.ndarray, fill: float) -> np.ndarray:
    whole = np.full(len(covered), fill, dtype=column.dtype)
    whole[covered] = column
    return whole


@cache
def load_network(folder: Path) -> Network:
    """The network for normalised APOGEE spectra of giants and dwarfs.

    Args:
        folder: Catalogue folder with `sim`.

    Raises:
        FileNotFoundError: If the folder lacks a file of the network.
        ValueError: If its pixels are not those of APOGEE.
    """
    names = ("w_array_0", "b_array_0", "w_array_1", "b_array_1", "x_min", "x_max")
    with np.load(_existing(folder / "sim/apogee_nn/NN_norm_giant_dwarf_10neuron.npz")) as archive:
        arrays = [archive[name].astype(np.float64) for name in names]  # float32 overflows in the exponential
    with np.load(_existing(folder / "sim/apogee_nn/apogee_wavelength.npz")) as archive:
        wavelength = archive["wavelength"]
    grid, known = (_pixel_numbers(axis) for axis in (_instrument("apogee").wavelength, wavelength))
    covered = np.isin(grid.round(), known.round())
    if covered.sum() != len(known) or np.abs(grid[covered] - known).max() > 0.01:
        raise ValueError(
            f"the {len(known)} pixels of the network must be pixels of APOGEE's grid, found {covered.sum()} near any: "
            "use the apogee_wavelength.npz that belongs to it"
        )
    keep = np.ones(len(known), dtype=bool)
    keep[EMISSION] = False
    covered[covered] = keep
    return Network(*(array[keep] for array in arrays[:4]), *arrays[4:], covered=covered)


def _pixel_numbers(wavelength: np.ndarray) -> np.ndarray:
    """Places on the one grid that all chips of APOGEE share, in pixels, shape (L,)."""
    arm = SURVEYS["apogee"].arms[0]
    return (np.log10(wavelength) - arm.start) / arm.step


# What both share


@cache
def _instrument(survey: str) -> Instrument:
    """The simulation's instrument on exactly the grid of `SURVEYS`; its own is longer where a survey trims."""
    arms, longest = SURVEYS[survey].arms, make_instrument(survey)
    # Rounded as `read_spectra` rounds it: the last digit, too, is the one that comes back.
    grid = np.concatenate([10.0 ** np.round(arm.start + arm.step * np.arange(arm.pixels), 9) for arm in arms])
    first = int(np.searchsorted(longest.wavelength, grid[0] * (1 - 1e-6)))
    return longest.at(slice(first, first + len(grid)))._replace(wavelength=grid, axis=grid)


def _generators(name: str, seed: int, index: int) -> tuple[np.random.Generator, ...]:
    """Of object, level and noise apart: how much a class draws of the first leaves the others as they are."""
    sequence = np.random.SeedSequence([zlib.crc32(f"drawn-{name}".encode()), seed], spawn_key=(index,))
    return tuple(np.random.default_rng(child) for child in sequence.spawn(3))


def _as_count(name: str, value: Any) -> int:
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise ValueError(f"{name} must be a non-negative integer, found {value!r}")
    return count


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: pass the catalogue folder that has MANIFEST.csv, `sdss` and `sim`")
    return path


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line.

    Args:
        argv: Arguments; None = those of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the catalogue folder, with `sdss` and `sim`")
    parser.add_argument("output", type=Path, help="folder to write, one Parquet file per survey")
    parser.add_argument("--boss", type=int, default=3000, help="number of BOSS spectra")
    parser.add_argument("--apogee", type=int, default=2000, help="number of APOGEE spectra")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn")
    parser.add_argument("--smoke", action="store_true", help="few spectra, to see that it runs")
    args = parser.parse_args(argv)
    if args.smoke:
        args.boss, args.apogee = 6, 4
    return args


def run(args: argparse.Namespace) -> None:
    """Draw, and write a Parquet file per survey.

    Args:
        args: What `parse_arguments` returned.
    """
    for name, draw in {"boss": draw_boss, "apogee": draw_apogee}.items():
        spectra = draw(args.folder, getattr(args, name), seed=args.seed)
        if not spectra:
            continue
        path = args.output / f"{name}-drawn.parquet"
        write_spectra(spectra, path, labels=WRITTEN_LABELS)
        counts = Counter(str(spectrum.labels["class"]) for spectrum in spectra)
        print(f"wrote {len(spectra)} spectra to {path} ({', '.join(f'{n} {kind}' for kind, n in counts.items())})")


__all__ = [
    "draw_apogee",
    "draw_boss",
    "fit_coefficients",
    "is_populated",
    "load_models",
    "load_network",
    "normalised_flux",
    "parse_arguments",
    "run",
]

if __name__ == "__main__":
    run(parse_arguments())
