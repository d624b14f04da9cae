"""`LINES`: spectral lines worth a label in a picture, by kind of object, at the wavelengths that are simulated.

Names are as astronomers write them. Each line is looked up by its rounded wavelength in the tables that spectra are
simulated from, so that no wavelength is written down twice.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from ..models.wavelength import LIGHT_SPEED, vacuum_to_air
from .simulation.nebular_lines import BALMER_LINES, NEBULAR_LINES, QUASAR_LINES, QUASAR_NARROW_LINES
from .simulation.stellar_lines import BANDS, METAL_LINES, RYDBERG

TOLERANCE = 1.5  # Å, between a rounded wavelength here and its line in a table
INFRARED = 14_500.0  # Å; a star that is observed beyond it has the labels of the H band
KIND_OF_CLASS = {"GALAXY": "galaxy", "QSO": "quasar", "STAR": "star"}
FASTEST = 1000.0  # km/s, of a star: a redshift beyond is that of something else
STELLAR_SURVEYS = ("apogee", "galah", "lamost_mrs")


class Line(NamedTuple):
    """A line and its label.

    Args:
        label: Name of the ion or the feature.
        wavelength: In vacuum, at rest, Å.
    """

    label: str
    wavelength: float


def _first_words(texts: Iterable[str]) -> np.ndarray:
    return np.array([float(entry.split()[0]) for text in texts for entry in text.split(",")])


_TABLES = {
    "balmer": BALMER_LINES[:, 0],
    "nebular": np.array([line[0] for lines in NEBULAR_LINES.values() for line in lines]),
    "quasar": QUASAR_LINES[:, 0],
    "narrow": QUASAR_NARROW_LINES[:, 0],
    "star": _first_words(text for levels in METAL_LINES.values() for text in levels.values()),
    "band": _first_words(BANDS.values()),
    "brackett": np.array([1e8 / (RYDBERG[4] * (1 / 16 - 1 / upper**2)) for upper in range(11, 21)]),
}


def _parse(table: str) -> tuple[Line, ...]:
    """Lines of "label @ source rounded wavelength" rows, in their order."""
    lines = []
    for row in table.strip().splitlines():
        label, _, place = row.partition("@")
        source, rounded = place.split()
        known = _TABLES[source]
        nearest = float(known[np.argmin(np.abs(known - float(rounded)))])
        if abs(nearest - float(rounded)) > TOLERANCE:
            raise ValueError(f"no line of {source!r} lies near {rounded} Å, found {nearest}: mend the table")
        lines.append(Line(label.strip(), nearest))
    return tuple(lines)


# In the order of importance: where labels would not fit beside each other, the last ones go.
_GALAXY = """
    Hα @ balmer 6564.6
    [O III] @ nebular 5008.2
    Hβ @ balmer 4862.7
    [O II] @ nebular 3727.1
    [O II] @ nebular 3729.9
    Ca K @ star 3934.8
    Ca H @ star 3969.6
    Mg b @ star 5174.1
    Na D @ star 5891.6
    [S II] @ nebular 6718.3
    [N II] @ nebular 6585.3
    Hγ @ balmer 4341.7
    G @ band 4316
    [S II] @ nebular 6732.7
    [O III] @ nebular 4960.3
    [S III] @ nebular 9533.2
    Ca II @ star 8544.4
    Hδ @ balmer 4102.9
    [Ne III] @ nebular 3869.9
    [O I] @ nebular 6302.1
    He I @ nebular 5877.3
    [S III] @ nebular 9071.1
    Ca II @ star 8664.5
    Ca II @ star 8500.4
    [Ar III] @ nebular 7137.8
    He II @ nebular 4687
    [N II] @ nebular 6549.9
    Mg II @ star 2796.4
    Fe II @ star 2600.2
    Fe II @ star 2382.8
"""
_QUASAR = """
    Lyα @ quasar 1215.7
    C IV @ quasar 1549.1
    C III] @ quasar 1908.7
    Mg II @ quasar 2798.8
    Hβ @ quasar 4862.7
    Hα @ quasar 6564.6
    [O III] @ narrow 5008.2
    Si IV @ quasar 1396.8
    N V @ quasar 1240.8
    Hγ @ quasar 4341.7
    Lyβ @ quasar 1033.8
    He II @ quasar 1640.4
    [O II] @ narrow 3728.5
    [Ne V] @ narrow 3426.9
    C II] @ quasar 2326.4
    [Ne III] @ narrow 3869.9
    Hδ @ quasar 4102.9
    [O III] @ narrow 4960.3
    He I @ quasar 5877.2
    O I @ quasar 1304.4
    C II @ quasar 1335.3
"""
_STAR = """
    Hα @ balmer 6564.6
    Hβ @ balmer 4862.7
    Ca K @ star 3934.8
    Ca H @ star 3969.6
    Mg b @ star 5185
    Na D @ star 5891.6
    Ca II @ star 8544.4
    Ca II @ star 8664.5
    Ca II @ star 8500.4
    Hγ @ balmer 4341.7
    Hδ @ balmer 4102.9
    G @ band 4316
    O I @ star 7774.1
    K I @ star 7701.1
    Na I @ star 5689.8
    Ba II @ star 6498.7
    Al I @ star 6697.9
    Ca I @ star 6464.4
    Mg I @ star 5712.7
    Ba II @ star 5855.3
    Ca I @ star 4227.9
    Mg b @ star 5174.1
    Mg b @ star 5168.8
    Fe I @ star 5271
    TiO @ band 7055.5
    Na I @ star 8197.1
    Ca I @ star 6163.9
    Fe I @ star 4384.8
    Na I @ star 5684.2
    O I @ star 7777.5
    Al I @ star 6700.6
    Ca I @ star 6719.5
    Mg I @ star 4731.4
    Mn I @ star 4784.8
    Y II @ star 4885
    Fe I @ star 4873.5
    Al I @ star 7837.5
    Ni I @ star 7716.4
    Fe I @ star 7834.4
    Si I @ star 5709.9
    Fe I @ star 6595
    Ni I @ star 7729.7
"""
_H_BAND = """
    Mg I @ star 15753.2
    Al I @ star 16755.1
    Si I @ star 15964.4
    Br 11 @ brackett 16811
    K I @ star 15172.5
    Fe I @ star 15298.7
    Ca I @ star 16201.5
    Al I @ star 16723.5
    Si I @ star 16685.3
    Mn I @ star 15221.9
    Br 13 @ brackett 16114
    Fe I @ star 15626
    Mg I @ star 15770.2
    Al I @ star 16767.9
    Si I @ star 16099.2
    Ni I @ star 16367.6
    C I @ star 16895
    Ca I @ star 16161.8
    Mg I @ star 15745
    Fe I @ star 16521.7
    Si I @ star 15892.8
    Ni I @ star 15559.5
    Fe I @ star 15399.9
    Br 12 @ brackett 16412
    Mn I @ star 15266.7
    Fe I @ star 16169.5
    Br 14 @ brackett 15885
"""

LINES: dict[str, tuple[Line, ...]] = {
    "galaxy": _parse(_GALAXY),
    "quasar": _parse(_QUASAR),
    "star": _parse(_STAR),
    "apogee": _parse(_H_BAND),
}


def find_lines(kind: str, window: tuple[float, float], *, redshift: float = 0.0, medium: str = "vacuum") -> list[Line]:
    """The lines that fall into a window, at the wavelengths where they are observed, the most telling ones first.

    Args:
        kind: A key of `LINES`.
        window: Wavelengths from and to, in Å, in `medium`.
        redshift: Of the object, 0 in its rest frame.
        medium: "vacuum" or "air": that of the window, and of what is returned.

    Raises:
        ValueError: If the kind or the medium is unknown, or the redshift impossible.
    """
    check_choice("medium", medium, ("vacuum", "air"))
    if kind not in LINES:
        raise ValueError(f"kind must be one of {', '.join(LINES)}, found {kind!r}")
    if not -1 < redshift < np.inf:
        raise ValueError(f"redshift must be above -1 and finite, found {redshift}: leave it out where it is not known")
    wavelengths = (1 + redshift) * np.array([line.wavelength for line in LINES[kind]])
    wavelengths = vacuum_to_air(wavelengths) if medium == "air" else wavelengths
    pairs = zip(LINES[kind], wavelengths.tolist(), strict=True)
    return [Line(line.label, found) for line, found in pairs if window[0] <= found <= window[1]]


def line_kind(spectrum: Spectrum, named: str | None = None) -> str | None:
    """The key of `LINES` that suits a spectrum; None where nobody knows what it is of.

    Args:
        spectrum: The spectrum. Its label `class`, its survey and its wavelengths tell.
        named: Class that was found otherwise, "GALAXY", "QSO" or "STAR"; it goes before the label.
    """
    kind = KIND_OF_CLASS.get(str(named or spectrum.labels.get("class")))
    if kind is None and (spectrum.survey or "").startswith(STELLAR_SURVEYS):
        kind = "star"
    return "apogee" if kind == "star" and spectrum.wavelength[0] > INFRARED else kind


def line_redshift(spectrum: Spectrum) -> float | None:
    """Where the labels of a spectrum say that its lines are, as a redshift; None where they do not.

    A spectrum in the rest frame has 0. Of a star, the radial velocity counts where it is known, else the redshift
    where it is below 1000 km/s and without a warning, else 0.

    Args:
        spectrum: The spectrum, with `class`, `redshift`, `zwarn` or `rv` among its labels.
    """
    if spectrum.frame == "rest":
        return 0.0
    if line_kind(spectrum) in ("star", "apogee"):
        return _star_redshift(spectrum)
    return label_number(spectrum, "redshift")


def _star_redshift(spectrum: Spectrum) -> float:
    velocity, redshift = label_number(spectrum, "rv"), label_number(spectrum, "redshift") or 0.0
    if velocity is not None:
        return velocity / LIGHT_SPEED
    sure = not label_number(spectrum, "zwarn") and abs(redshift) * LIGHT_SPEED < FASTEST
    return redshift if sure else 0.0


def label_number(spectrum: Spectrum, label: str) -> float | None:
    """A label as a finite number; None where it is missing, which tables write in several ways, or no number.

    Args:
        spectrum: The spectrum.
        label: Name of the label.
    """
    try:
        value = float(spectrum.labels[label])
    except (KeyError, TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


__all__ = ["LINES", "Line", "find_lines", "label_number", "line_kind", "line_redshift"]
