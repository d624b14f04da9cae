"""Stellar atmospheres in one layer: ionisation, electron pressure, molecules and opacity; vectorised over stars.

A grey atmosphere in hydrostatic and local thermodynamic equilibrium, read at two optical depths. Formulae and fits:
Gray 2005, "The Observation and Analysis of Stellar Photospheres", 3rd edition (G), chapters 1, 8, 9 and 13.
Temperatures are in K, pressures in dyn/cm², opacities in cm² per hydrogen nucleus, energies in eV.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

SOLAR_TEFF, SOLAR_LOGG = 5772.0, 4.44  # K, dex: IAU 2015 resolution B3
THETA = 5039.8  # K: log10(e) / k in eV, so that 10^(-THETA/T E) is a Boltzmann factor; CODATA 2018
SECOND_RADIATION = 1.438777e8  # Å K: h c / k, CODATA 2018
HYDROGEN_MASS = 1.6735e-24  # g
LINE_DEPTH = 0.35  # optical depth at 5500 Å where most lines are formed
LAST_MERGED = 12  # upper level of the first line of a hydrogen series that stands free of the others
CONTINUUM_DEPTH = 1.0  # where the wings of hydrogen lines and the continuum's opacity are

# log10 abundance on the scale H = 12 (Asplund et al. 2009, ARA&A 47, 481); first and second ionisation energy (NIST
# ASD); partition functions of three stages near 5500 K (G, appendix D.2, and ground terms), held constant.
ELEMENTS = {
    "H": (12.00, 13.598, 99.0, 2.0, 1.0, 1.0),
    "He": (10.93, 24.587, 54.418, 1.0, 2.0, 1.0),
    "C": (8.43, 11.260, 24.383, 9.3, 6.0, 1.0),
    "N": (7.83, 14.534, 29.601, 4.5, 9.0, 6.0),
    "O": (8.69, 13.618, 35.121, 8.9, 4.0, 9.0),
    "Na": (6.24, 5.139, 47.286, 2.1, 1.0, 6.0),
    "Mg": (7.60, 7.646, 15.035, 1.03, 2.0, 1.0),
    "Al": (6.45, 5.986, 18.829, 5.9, 1.0, 2.0),
    "Si": (7.51, 8.152, 16.346, 9.5, 5.7, 1.0),
    "K": (5.03, 4.341, 31.625, 2.2, 1.0, 6.0),
    "Ca": (6.34, 6.113, 11.872, 1.3, 2.3, 1.0),
    "Sc": (3.15, 6.561, 12.800, 12.0, 23.0, 10.0),
    "Ti": (4.95, 6.828, 13.576, 30.0, 56.0, 21.0),
    "V": (3.93, 6.746, 14.618, 45.0, 45.0, 29.0),
    "Cr": (5.64, 6.767, 16.486, 10.5, 7.3, 22.0),
    "Mn": (5.43, 7.434, 15.640, 6.4, 7.7, 6.0),
    "Fe": (7.50, 7.902, 16.199, 27.0, 43.0, 25.0),
    "Ni": (6.22, 7.640, 18.169, 30.0, 11.0, 22.0),
    "Sr": (2.87, 5.695, 11.030, 1.3, 2.2, 1.0),
    "Y": (2.21, 6.217, 12.224, 11.0, 16.0, 10.0),
    "Ba": (2.18, 5.212, 10.004, 2.3, 4.2, 1.0),
}  # fmt: skip
ALPHA_ELEMENTS = frozenset({"O", "Mg", "Si", "Ca", "Ti"})

# Two atoms, dissociation energy in eV, rotational and vibrational constant in 1/cm, electronic statistical weight
# times symmetry number, reduced mass in atomic units: Huber & Herzberg 1979, "Constants of Diatomic Molecules".
MOLECULES = {
    "H2": ("H", "H", 4.478, 60.85, 4401.0, 0.5, 0.504),
    "N2": ("N", "N", 9.759, 1.998, 2358.6, 0.5, 7.00),
    "CO": ("C", "O", 11.09, 1.931, 2169.8, 1.0, 6.857),
    "CH": ("C", "H", 3.465, 14.457, 2858.0, 4.0, 0.930),
    "CN": ("C", "N", 7.74, 1.900, 2068.6, 2.0, 6.462),
    "OH": ("O", "H", 4.392, 18.91, 3737.8, 4.0, 0.948),
    "MgH": ("Mg", "H", 1.34, 5.826, 1495.0, 2.0, 0.967),
    "CaH": ("Ca", "H", 1.70, 4.276, 1298.0, 2.0, 0.983),
    "TiO": ("Ti", "O", 6.87, 0.535, 1009.0, 6.0, 11.99),
    "VO": ("V", "O", 6.50, 0.548, 1011.0, 4.0, 12.17),
}


class Layer(NamedTuple):
    """What the gas is like at one optical depth, for any number of stars: all arrays have their shape."""

    temperature: np.ndarray
    electron_pressure: np.ndarray
    gas_pressure: np.ndarray
    hydrogen_pressure: np.ndarray  # of all hydrogen nuclei, were they single atoms


def stage_fractions(element: str, temperature: np.ndarray, electron_pressure: np.ndarray) -> np.ndarray:
    """Share of an element's atoms that are neutral, once and twice ionised, shape (3, ...): Saha's equation, G 1.20.

    Args:
        element: A key of `ELEMENTS`.
        temperature: Temperature in K.
        electron_pressure: Electron pressure in dyn/cm².
    """
    _, first, second, *weights = ELEMENTS[element]
    ratios = [
        2.5 * np.log10(temperature) - 0.4772 + np.log10(2 * upper / lower) - THETA / temperature * energy
        for energy, lower, upper in ((first, weights[0], weights[1]), (second, weights[1], weights[2]))
    ]
    single = 10 ** np.clip(ratios[0] - np.log10(electron_pressure), -60, 60)
    double = single * 10 ** np.clip(ratios[1] - np.log10(electron_pressure), -60, 60)
    return np.stack([np.ones_like(single), single, double]) / (1 + single + double)


def abundance(element: str, feh: np.ndarray | float) -> np.ndarray:
    """Atoms of an element per hydrogen atom.

    Args:
        element: A key of `ELEMENTS`.
        feh: Metallicity in dex; the alpha elements exceed it by up to 0.3 dex where it is low.
    """
    scaled = 0.0 if element in ("H", "He") else np.asarray(feh) + alpha_excess(element, feh)
    return np.asarray(10 ** (ELEMENTS[element][0] - 12 + scaled))


def alpha_excess(element: str, feh: np.ndarray | float) -> np.ndarray:
    """[X/Fe] in dex of the mean star of the Milky Way: Bensby et al. 2014, A&A 562, A71.

    Args:
        element: A key of `ELEMENTS`.
        feh: Metallicity in dex.
    """
    return np.clip(-0.25 * np.asarray(feh), 0.0, 0.3) * (element in ALPHA_ELEMENTS)


def electrons_per_hydrogen(temperature: np.ndarray, electron_pressure: np.ndarray, feh: np.ndarray) -> np.ndarray:
    """Free electrons per hydrogen nucleus.

    Args:
        temperature: Temperature in K.
        electron_pressure: Electron pressure in dyn/cm².
        feh: Metallicity in dex.
    """
    donors = ("H", "He", "C", "Na", "Mg", "Al", "Si", "K", "Ca", "Fe", "Ni")
    total = np.zeros(np.broadcast(temperature, electron_pressure, feh).shape)
    for element in donors:
        _, single, double = stage_fractions(element, temperature, electron_pressure)
        total = total + abundance(element, feh) * (single + 2 * double)
    return total


def opacity(
    wavelength: np.ndarray | float, temperature: np.ndarray, electron_pressure: np.ndarray, electrons: np.ndarray
) -> np.ndarray:
    """Continuous opacity in cm² per hydrogen nucleus: H, H- and electrons, and Rayleigh scattering by H; G 8.

    Args:
        wavelength: Wavelength in Å.
        temperature: Temperature in K.
        electron_pressure: Electron pressure in dyn/cm².
        electrons: Free electrons per hydrogen nucleus.
    """
    wavelength = np.asarray(wavelength)
    neutral = stage_fractions("H", temperature, electron_pressure)[0]
    stimulated = -np.expm1(-SECOND_RADIATION / (wavelength * temperature))
    absorption = _hydrogen(wavelength, temperature) + _negative_bound(wavelength, temperature) * electron_pressure
    absorption = absorption * stimulated + _negative_free(wavelength, temperature) * electron_pressure
    rayleigh = 5.799e-13 * wavelength**-4 + 1.422e-6 * wavelength**-6 + 2.784 * wavelength**-8
    return neutral * (absorption + rayleigh) + 6.652e-25 * electrons


def _hydrogen(wavelength: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """Bound-free from n = 1 to 7, all else with free-free in one term: G 8.8 to 8.10, Gaunt factors 1."""
    theta = THETA / temperature
    total = np.zeros(np.broadcast(wavelength, temperature).shape)
    for level in range(1, 8):
        share = _below_edge(wavelength, level)
        total = total + share * level**-3.0 * 10 ** (-theta * 13.598 * (1 - level**-2.0))
    unresolved = 10 ** (-theta * 13.598 * (1 - 1 / 64)) / (2 * np.log(10) * theta * 13.598)
    return 1.0449e-26 * wavelength**3 * (total + unresolved)


def _below_edge(wavelength: np.ndarray, level: int) -> np.ndarray:
    """1 below the edge of a level, and on to where its lines stop to overlap, the 12th of the series, ever less."""
    beyond = (1 - 911.75 * level**2 / wavelength) / (level / LAST_MERGED) ** 2
    return np.clip(1 - beyond, 0.0, 1.0) ** 2


def _negative_bound(wavelength: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """H- bound-free per neutral atom and unit electron pressure: G 8.11 and 8.12."""
    theta = THETA / temperature
    short = np.clip(wavelength, 2250, 16_419)  # the range of the fit; 0.754 eV is 16,419 Å
    fit = (1.99654, -1.18267e-5, 2.64243e-6, -4.40524e-10, 3.23992e-14, -1.39568e-18, 2.78701e-23)
    cross_section = np.maximum(np.polynomial.polynomial.polyval(short, fit), 0) * (wavelength < 16_419)
    return 4.158e-10 * 1e-18 * cross_section * theta**2.5 * 10 ** (0.754 * theta)


def _negative_free(wavelength: np.ndarray, temperature: np.ndarray) -> np.ndarray:
    """H- free-free per neutral atom and unit electron pressure: G 8.13; the fit holds from 2500 to 10,000 K."""
    lam = np.log10(np.maximum(wavelength, 2600.0))
    theta = np.log10(np.clip(THETA / temperature, 0.5, 2.0))
    zero = -2.2763 + lam * (-1.6850 + lam * (0.76661 - 0.053346 * lam))
    one = 15.2827 + lam * (-9.2846 + lam * (1.99381 - 0.142631 * lam))
    two = -197.789 + lam * (190.266 + lam * (-67.9775 + lam * (10.6913 - 0.625151 * lam)))
    return 1e-26 * 10 ** (zero + theta * (one + theta * two))


def solve_layer(teff: np.ndarray, logg: np.ndarray, feh: np.ndarray, depth: float) -> Layer:
    """The gas of stars at one optical depth: pressure weighs what is above, opacity and electrons follow from it.

    Args:
        teff: Effective temperature in K.
        logg: Surface gravity, log10 of cm/s².
        feh: Metallicity in dex.
        depth: Optical depth at 5500 Å.
    """
    temperature = teff * (0.75 * (depth + 2 / 3)) ** 0.25 + 0 * (logg + feh)
    nuclei = 1 + abundance("He", feh)
    mass = 1.4 * HYDROGEN_MASS  # per hydrogen nucleus, with helium
    pressure = np.full(temperature.shape, 10.0)
    for _ in range(60):  # the fixed point attracts: damped by half, it is reached to 1e-6 everywhere on the grid
        electrons = electrons_per_hydrogen(temperature, pressure, feh)
        gas = 10.0**logg * depth * mass / opacity(5500.0, temperature, pressure, electrons)
        pressure = np.sqrt(pressure * gas * electrons / (nuclei + electrons))
    return Layer(temperature, pressure, gas, gas / (nuclei + electrons))


def molecule_shares(layer: Layer, feh: np.ndarray) -> dict[str, np.ndarray]:
    """Molecules per hydrogen nucleus, the strongest bound first, each taking from what the others left.

    Args:
        layer: The gas.
        feh: Metallicity in dex.
    """
    free = {
        element: layer.hydrogen_pressure
        * abundance(element, feh)
        * stage_fractions(element, layer.temperature, layer.electron_pressure)[0]
        for element in ("H", "C", "N", "O", "Mg", "Ca", "Ti", "V")
    }
    shares = {}
    for name, (first, second, *_) in MOLECULES.items():
        constant = _dissociation(name, layer.temperature)
        bound = _bound_pressure(free[first], free[second], constant, same=first == second)
        free[first] = free[first] - bound
        free[second] = free[second] - bound
        shares[name] = bound / layer.hydrogen_pressure
    return shares


def _dissociation(name: str, temperature: np.ndarray) -> np.ndarray:
    """p(A) p(B) / p(AB) of a rigid rotator and harmonic oscillator, in dyn/cm²."""
    first, second, energy, rotation, vibration, weight, mass = MOLECULES[name]
    quantum = 0.695035 * temperature  # k T in 1/cm
    inner = weight * quantum / rotation / -np.expm1(-vibration / quantum)
    atoms = ELEMENTS[first][3] * ELEMENTS[second][3]
    translation = 4.414 + 1.5 * np.log10(mass) + 2.5 * np.log10(temperature)
    return 10 ** (translation + np.log10(atoms / inner) - THETA / temperature * energy)


def _bound_pressure(first: np.ndarray, second: np.ndarray, constant: np.ndarray, same: bool) -> np.ndarray:
    """Partial pressure of AB, x, where (A - x)(B - x) = K x; of A2 where (A - 2x)² = K x."""
    if same:
        total = 2 * first + constant / 2
        return first**2 / (total + np.sqrt(np.maximum(total**2 - 4 * first**2, 0.0))) * (1 - 1e-9)
    total = first + second + constant
    return 2 * first * second / (total + np.sqrt(np.maximum(total**2 - 4 * first * second, 0.0))) * (1 - 1e-9)


GRID_TEFF = np.geomspace(3000.0, 30_000.0, 56)
GRID_LOGG = np.linspace(0.0, 5.0, 6)
GRID_FEH = np.linspace(-3.0, 0.5, 8)
EDGES = 911.75 * np.array([1.0, 4.0, 9.0, 16.0, 25.0])  # Å: Lyman, Balmer, Paschen, Brackett, Pfund
NODES = np.unique(
    np.concatenate(
        [np.geomspace(900.0, 40_000.0, 76)]
        + [EDGES[1:4] / (1 - share * (np.array([2, 3, 4]) / LAST_MERGED) ** 2) for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    )
)  # Å, where the continuum is computed: closer together where a jump is


class Star(NamedTuple):
    """What the lines and the continuum of one star need, or, with leading axes, of the stars of a grid."""

    species: np.ndarray  # (..., 3 x elements), log10 of atoms in a stage, per hydrogen nucleus and statistical weight
    molecules: np.ndarray  # (..., molecules), log10 of molecules per hydrogen nucleus
    pressures: np.ndarray  # (..., 4), log10 of gas and electron pressure of the line layer, then of the continuum's
    line_opacity: np.ndarray  # (..., nodes), log10 of cm² per hydrogen nucleus in the line layer
    opacity: np.ndarray  # (..., nodes), the same in the continuum's layer
    continuum: np.ndarray  # (..., nodes), natural logarithm of the flux


def solve_star(teff: np.ndarray, logg: np.ndarray, feh: np.ndarray) -> Star:
    """The layers of stars, and all that follows; slow, made for grids.

    Args:
        teff: Effective temperature in K.
        logg: Surface gravity, log10 of cm/s².
        feh: Metallicity in dex.
    """
    layers = [solve_layer(teff, logg, feh, depth) for depth in (LINE_DEPTH, CONTINUUM_DEPTH)]
    gas = layers[0]
    species = [
        np.log10(stage_fractions(element, gas.temperature, gas.electron_pressure).T / ELEMENTS[element][3:]).T
        + np.log10(abundance(element, feh))
        for element in ELEMENTS
    ]
    molecules = [np.log10(np.maximum(share, 1e-40)) for share in molecule_shares(gas, feh).values()]
    pressures = [p for layer in layers for p in (np.log10(layer.gas_pressure), np.log10(layer.electron_pressure))]
    line_opacity, opacity_below = (_node_opacity(layer, feh) for layer in layers)
    return Star(
        species=np.moveaxis(np.concatenate(species), 0, -1),
        molecules=np.stack(molecules, axis=-1),
        pressures=np.stack(pressures, axis=-1),
        line_opacity=np.log10(line_opacity),
        opacity=np.log10(opacity_below),
        continuum=_continuum(np.asarray(teff), opacity_below),
    )


def _node_opacity(layer: Layer, feh: np.ndarray) -> np.ndarray:
    electrons = electrons_per_hydrogen(layer.temperature, layer.electron_pressure, feh)
    columns = (values[..., None] for values in (layer.temperature, layer.electron_pressure, electrons))
    return opacity(NODES, *columns)


def _continuum(teff: np.ndarray, opacities: np.ndarray) -> np.ndarray:
    """Natural logarithm of the flux: a Planck function at the temperature where the optical depth is 2/3."""
    reference = opacities[..., np.argmin(np.abs(NODES - 5500))][..., None]
    depth = 2 / 3 * reference / opacities
    temperature = teff[..., None] * (0.75 * (np.minimum(depth, 3.0) + 2 / 3)) ** 0.25
    exponent = SECOND_RADIATION / (NODES * temperature)
    return -5 * np.log(NODES) - exponent - np.log(-np.expm1(-exponent))


@cache
def _star_grid() -> tuple[np.ndarray, list[int]]:
    """`solve_star` over the grid as one array (teff, logg, feh, values), and where to cut the values."""
    teff, logg, feh = np.meshgrid(GRID_TEFF, GRID_LOGG, GRID_FEH, indexing="ij")
    star = solve_star(teff, logg, feh)
    return np.concatenate(star, axis=-1), list(np.cumsum([part.shape[-1] for part in star])[:-1])


def interpolate_star(teff: float, logg: float, feh: float) -> Star:
    """`solve_star` of one star, interpolated between those of a grid that is computed once; clipped to the grid.

    Args:
        teff: Effective temperature in K, 3000 to 30,000.
        logg: Surface gravity, log10 of cm/s², 0 to 5.
        feh: Metallicity in dex, -3 to 0.5.
    """
    values, cuts = _star_grid()
    values = _between(values, np.log(teff / GRID_TEFF[0]) / np.log(GRID_TEFF[1] / GRID_TEFF[0]))
    values = _between(values, (logg - GRID_LOGG[0]) / (GRID_LOGG[1] - GRID_LOGG[0]))
    values = _between(values, (feh - GRID_FEH[0]) / (GRID_FEH[1] - GRID_FEH[0]))
    return Star(*np.split(values, cuts, axis=-1))


def _between(values: np.ndarray, position: float) -> np.ndarray:
    """Linear interpolation along the first axis, at a position in steps of the grid."""
    position = min(max(position, 0.0), len(values) - 1.0)
    low = min(int(position), len(values) - 2)
    return values[low] + (position - low) * (values[low + 1] - values[low])
