"""Mappings and dataset rows as `Spectrum` objects: names of columns, bit masks, and the survey's exact grid."""

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import numpy as np

from ..models.sources import (
    BITMASK_NAMES,
    LIKENESS,
    PIXEL_COLUMNS,
    WAVELENGTH_NAMES,
    entry,
    is_stack,
    nested_columns,
    plain_name,
)
from ..models.spectrum import PLAUSIBLE_WAVELENGTH, Spectrum, to_angstrom, usable_pixels
from .formats.gaia import check_no_coefficients, complete_sampled_row
from .formats.layout import plain_label
from .surveys import SURVEYS, Arm
from .units import strip_units

ID_NAMES = {"targetid", "source_id", "sobject_id", "apogee_id", "specobjid", "obsid"}  # where object_id is absent
SPECTRUM_FIELDS = {field.name for field in dataclass_fields(Spectrum)} - {"dropped"} | {"error", "wavelength_unit"}

# Scalar columns of dataset rows that are labels, in lower case. Neither ZWARN nor ZWARNING as a boolean: True means
# "good" in one generation of the Multimodal Universe's DESI and "warning" in the other (multimodal_universe.py
# turns them into numbers).
LABEL_COLUMNS = {
    "class": "class",
    "spectype": "class",
    "subclass": "subclass",
    "redshift": "redshift",
    "z": "redshift",
    "zwarn": "zwarn",
    "zwarning": "zwarn",
    "teff": "teff",
    "logg": "logg",
    "feh": "feh",
    "fe_h": "feh",
    "m_h": "m_h",
    "rv": "rv",
    "radial_velocity": "rv",
    "rv_galah": "rv",
    "ra": "ra",
    "dec": "dec",
    "snr": "snr",
    "sn_median_all": "snr",
    "age": "age",
    "log_stellar_mass": "log_stellar_mass",
    "log_ssfr": "log_ssfr",
    "metallicity": "metallicity",
}
KEYWORDS = SPECTRUM_FIELDS | WAVELENGTH_NAMES | BITMASK_NAMES | set(LABEL_COLUMNS)

ANY_BIT_SURVEYS = ("lamost", "lamost_mrs")  # a bit of their and-mask means that the pixel was bad in all exposures
# dex, 0.2 km/s: float32 wavelengths of float32 logarithms are off by up to 2.7e-7 dex. Not a share of the pixel, by
# which a spectrum of SDSS that was shifted by 3 km/s would be shifted back.
SNAP = 3e-7
SNAP_SHARE = SNAP * math.log(10)  # of the wavelength
MASK_WARNING = (
    "the mask of {} drops more than half of the pixels whose ivar is fine; it is obeyed. Masks made of every bit of a "
    "survey's bit mask do so (Multimodal Universe, APOGEE: 27-78 %): pass mask=None to go by ivar alone, or the bits "
    "themselves as pix_bitmask= with survey="
)


def read_mapping(mapping: Mapping[str, Any], fields: Mapping[str, Any]) -> list[Spectrum]:
    """The spectra of a mapping: one, or one per row of a two-dimensional flux.

    Args:
        mapping: Pixel columns, fields of `Spectrum` and labels, also nested under `spectrum`.
        fields: The same from the caller, which count instead of the mapping's; None takes a column away.

    Raises:
        ValueError: If flux, wavelength or errors are absent, bits have no names, or a spectrum is impossible.
    """
    row = strip_units(_flatten(mapping, fields))
    if "flux" not in row:
        check_no_coefficients(mapping)
    row = complete_sampled_row(row, mapping)
    for name in ("flux", "wavelength"):
        if name not in row:
            found = ", ".join(map(repr, (*mapping, *fields)))
            raise ValueError(f"a spectrum needs {name}, found only {found}: pass {name}=...")
    doubt_mask = "mask" not in fields  # a mask that the caller passed by hand is meant
    if not is_stack(row["flux"]):
        return [_build(row, doubt_mask)]
    return [_build_numbered(one, doubt_mask, index) for index, one in enumerate(_split(row))]


def stated_medium(cards: Mapping[str, Any]) -> str | None:
    """ "air" or "vacuum" where a FITS header says so; None where it does not.

    Args:
        cards: The header. AIRORVAC counts, and an axis CTYPEn of AWAV, which is air by the FITS standard (Greisen et
            al. 2006). Its WAVE, which should be vacuum, does not: wavelengths in air often have it too.
    """
    said = str(cards.get("AIRORVAC", "")).strip().lower()
    if said in ("air", "vac", "vacuum"):
        return "air" if said == "air" else "vacuum"
    axes = (str(cards.get(f"CTYPE{axis}", "")).strip().upper() for axis in range(1, 10))
    return "air" if any(axis.startswith("AWAV") for axis in axes) else None


def check_keywords(reader: str, fields: Mapping[str, Any]) -> None:
    """Refuse keywords that no spectrum has.

    Args:
        reader: Name of the function that got them.
        fields: The keywords.

    Raises:
        TypeError: If one is unknown.
    """
    if unknown := [name for name in fields if name.lower() not in KEYWORDS]:
        raise TypeError(f"{reader} got unknown keywords {unknown}; known: {', '.join(sorted(KEYWORDS))}")


@functools.lru_cache(maxsize=4096)
def column_kind(name: str) -> str | None:
    """What a column holds: a pixel column, a field of `Spectrum`, "label", "object_id", "spectrum"; None = unknown.

    Args:
        name: Name of the column.
    """
    plain = plain_name(name)
    if plain in PIXEL_COLUMNS or plain == "spectrum":
        return plain
    if name in SPECTRUM_FIELDS:  # as spelled: DESI's catalogue has a column SURVEY with other values
        return name
    if plain in ("object_id", *ID_NAMES):
        return "object_id"
    return "label" if plain in LABEL_COLUMNS else None


# Names --------------------------------------------------------------------------------------------


def _flatten(mapping: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Pixel columns, fields of `Spectrum` and labels of a row; other columns of a dataset row are left out."""
    row = _gather({**nested_columns(mapping.get("spectrum")), **mapping})
    own = _gather(fields)
    replaced = {column_kind(name) for name in fields} - {"label"}
    replaced |= {"bitmask"} if "mask" in replaced else set()
    replaced |= {"wavelength_unit"} if "wavelength" in replaced else set()
    replaced |= {"ivar", "error"} if replaced & {"ivar", "error"} else set()
    labels = _merge_labels(row.get("labels", {}), own.get("labels", {}))
    return {name: value for name, value in row.items() if name not in replaced} | own | {"labels": labels}


def _gather(columns: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    identifiers = []
    for key, value in columns.items():
        kind = column_kind(key)
        if value is None or value is np.ma.masked or kind in (None, "spectrum"):
            continue
        if kind == "label":
            label = LABEL_COLUMNS[key.lower()]
            missing = np.ndim(value) == 0 and plain_label(value) is None
            if not missing and (key.lower() == label or label not in labels):  # a column z may be a magnitude
                labels[label] = value
        elif kind == "object_id" and key.lower() in ID_NAMES:
            identifiers.append(value)
        elif kind in row:
            raise ValueError(f"{key!r} gives {kind} a second time: keep one of them, or pass {kind}=")
        else:
            row[str(kind)] = value
    if identifiers:
        row.setdefault("object_id", identifiers[0])
    if any(key.lower().endswith("loglam") for key in columns):
        row.setdefault("wavelength_unit", "log10_angstrom")
    return row | {"labels": _merge_labels(labels, row.get("labels", {}))}


def _merge_labels(labels: Any, given: Any) -> Any:
    for candidate in (labels, given):
        if not isinstance(candidate, Mapping):
            raise ValueError(f"labels must map names to values, found {type(candidate).__name__}: pass a dict")
    return {**labels, **given}


# Stacks -------------------------------------------------------------------------------------------


def _split(row: dict[str, Any]) -> list[dict[str, Any]]:
    count = len(row["flux"])
    return [{name: entry(name, value, index, count) for name, value in row.items()} for index in range(count)]


def _build_numbered(row: dict[str, Any], doubt_mask: bool, index: int) -> Spectrum:
    try:
        return _build(row, doubt_mask)
    except ValueError as error:
        raise ValueError(f"spectrum {index}: {error}") from error


# One spectrum -------------------------------------------------------------------------------------


def _build(row: dict[str, Any], doubt_mask: bool) -> Spectrum:
    survey = _survey_key(row.get("survey"))
    columns = _separate_bits(row) | {"survey": survey, "labels": _plain_labels(row["labels"])}
    bits = columns.pop("bitmask", None)
    facts = SURVEYS.get(survey or "")
    if survey and facts is None and "medium" not in columns:
        _check_not_misspelt(survey)
    defaults = {"medium": facts.medium, "frame": facts.frame} if facts else {}
    spectrum = Spectrum.from_arrays(**(defaults | columns))
    if doubt_mask and "mask" in columns:
        _warn_of_a_greedy_mask(spectrum)
    if bits is not None:
        if bits.shape != np.shape(columns["flux"]):
            raise ValueError(
                f"the bit mask and flux must have the same length, found shapes {bits.shape} and "
                f"{np.shape(columns['flux'])}: pass one value per pixel"
            )
        bits = bits[_pixel_order(columns["wavelength"], columns.get("wavelength_unit", "angstrom"))]
        for name, bad in _decode(bits, survey).items():
            spectrum.flag(bad, name)
    if facts:
        spectrum.wavelength = _snap(spectrum.wavelength, facts.arms)
    return spectrum


def _survey_key(value: Any) -> str | None:
    """The name of a survey as `SURVEYS` spells it: another spelling must not make GALAH's wavelengths vacuum ones."""
    name = plain_label(value)
    if name is None:
        return None
    return str(name).lower() if str(name).lower() in SURVEYS else str(name)


def _check_not_misspelt(survey: str) -> None:
    """Refuse what is nearly the name of a survey, or that of one of its releases: its medium would be lost."""
    if meant := _meant_survey(survey.lower()):
        raise ValueError(
            f"survey must be one of {', '.join(SURVEYS)}, or have its medium said, found {survey!r}: pass "
            f"survey={meant!r}, or medium="
        )


@functools.lru_cache(maxsize=4096)
def _meant_survey(name: str) -> str:
    near = get_close_matches(name, SURVEYS, 1, LIKENESS) or [known for known in SURVEYS if name.startswith(known)]
    return next(iter(near), "")


def _plain_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    plain = {label: plain_label(value) for label, value in labels.items() if np.ndim(value) == 0}
    if isinstance(plain.get("zwarn"), bool):
        del plain["zwarn"]
    return {label: value for label, value in plain.items() if value is not None}


def _separate_bits(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose bit mask, if there is one, is integers under `bitmask`, also where it came as `mask`.

    Of either, what is missing (masked, NaN) is bad.
    """
    masks: dict[str, np.ndarray] = {}
    unknown: Any = False
    for name in {"mask", "bitmask"} & row.keys():
        if isinstance(row[name], np.ndarray) and row[name].dtype == bool and not np.ma.isMaskedArray(row[name]):
            masks[name] = row[name]
            continue
        values = np.ma.asarray(row[name])
        missing = np.ma.getmaskarray(values) | (np.isnan(values.data) if values.dtype.kind == "f" else False)
        masks[name] = np.where(missing, 0, values.data) if missing.any() else values.data
        unknown = unknown | missing
    mask = masks.get("mask")
    if "bitmask" not in masks and mask is not None and mask.dtype.kind in "iu" and (mask | 1 != 1).any():
        masks["bitmask"] = masks.pop("mask")
    if "bitmask" in masks:
        masks["bitmask"] = masks["bitmask"].astype(np.int64)
    if unknown is not False and unknown.any():
        masks["mask"] = unknown | (masks["mask"] != 0) if "mask" in masks else unknown
    return {name: value for name, value in row.items() if name not in ("mask", "bitmask")} | masks


def _decode(bits: np.ndarray, survey: str | None) -> dict[str, np.ndarray]:
    """The pixels that each bad bit takes, by its name."""
    if survey in ANY_BIT_SURVEYS:
        return {"a bit of the bit mask": bits != 0}
    names = SURVEYS[survey].bad_bits if survey in SURVEYS else {}
    if not names and bits.any():
        known = ", ".join([*(name for name, facts in SURVEYS.items() if facts.bad_bits), *ANY_BIT_SURVEYS])
        raise ValueError(
            f"the bit mask holds values up to {bits.max()}, and survey={survey!r} does not say which bits are bad: "
            f"pass survey= ({known}), or mask= with True = bad, or mask=None to go by ivar alone"
        )
    return {name: (bits >> bit & 1).astype(bool) for name, bit in names.items()}


def _pixel_order(wavelength: Any, unit: str) -> np.ndarray | slice:
    """Which pixels `Spectrum.from_arrays` keeps, in its order: without padding, ascending."""
    return usable_pixels(to_angstrom(np.ma.filled(np.ma.asarray(wavelength).astype(np.float64), np.nan), unit))


def _warn_of_a_greedy_mask(spectrum: Spectrum) -> None:
    # At most half of the fine pixels are masked where as many others are good: those neither masked nor dropped.
    if 2 * np.count_nonzero(spectrum.mask) + sum(spectrum.dropped.values()) <= len(spectrum):
        return
    fine = (spectrum.ivar > 0) & np.isfinite(spectrum.flux)
    if 2 * (spectrum.mask & fine).sum() > fine.sum():
        # The text names no spectrum: so that Python shows it once for all rows of a dataset.
        whose = f"{spectrum.survey} spectra" if spectrum.survey else "a spectrum"
        warnings.warn(MASK_WARNING.format(whose), stacklevel=2)


def _snap(wavelength: np.ndarray, arms: tuple[Arm, ...]) -> np.ndarray:
    """The wavelengths on the survey's grid, exactly, where all of them are meant to lie on it.

    The Multimodal Universe's are float32, APOGEE's even of a float32 logarithm: off by up to 0.01 Å. The grid goes on
    beyond the typical spectrum, since SDSS and LAMOST trim every spectrum differently.
    """
    stops = [0, *np.searchsorted(wavelength, _borders(arms)).tolist(), len(wavelength)]
    parts = []
    for arm, start, stop in zip(arms, stops, stops[1:], strict=False):
        if start < stop:
            part = _snap_arm(wavelength[start:stop], arm)
            if part is None:
                return wavelength
            parts.append(part)
    return np.concatenate(parts)


@functools.lru_cache(maxsize=64)
def _borders(arms: tuple[Arm, ...]) -> tuple[float, ...]:
    """Between the arms, in Å."""
    return tuple(
        float(pixel_wavelength(left, left.pixels) + pixel_wavelength(right, 0)) / 2 for left, right in pairwise(arms)
    )


def _snap_arm(wavelength: np.ndarray, arm: Arm) -> np.ndarray | None:
    """The pixels of an arm's grid that the wavelengths are meant to be; None where one of them is none."""
    start = float(wavelength[0])
    first = round(((math.log10(start) if arm.log else start) - arm.start) / arm.step)
    if abs(start - _pixel(arm, first)) > SNAP_SHARE * start:  # soon told: GALAH's grids differ from star to star
        return None
    grid = _grid(arm, first, len(wavelength))  # without holes, and without a logarithm per pixel
    if _is_close(wavelength, grid):
        return grid
    axis = np.log10(wavelength) if arm.log else wavelength
    grid = pixel_wavelength(arm, np.round((axis - arm.start) / arm.step))
    return grid if _is_close(wavelength, grid) and (np.diff(grid) > 0).all() else None


def _is_close(wavelength: np.ndarray, grid: np.ndarray) -> bool:
    if len(grid) != len(wavelength):
        return False
    off = np.subtract(wavelength, grid)
    np.abs(off, out=off)
    # The first pixel has the least leeway: only what exceeds it needs the others'.
    return bool(off.max() <= SNAP_SHARE * wavelength[0] / 2 or (off <= SNAP_SHARE * grid).all())


@functools.lru_cache(maxsize=4096)
def _pixel(arm: Arm, pixel: int) -> float:
    return float(pixel_wavelength(arm, pixel))


def pixel_wavelength(arm: Arm, pixel: Any) -> Any:
    """Wavelength in Å of pixels of an arm's grid.

    Args:
        arm: The arm.
        pixel: Number of a pixel from its first one, or an array of them.
    """
    grid = np.round(arm.start + arm.step * pixel, 9)
    return 10.0**grid if arm.log else grid


def _grid(arm: Arm, first: int, count: int) -> np.ndarray:
    """Wavelengths in Å of `count` pixels of an arm's grid; fewer, where it leaves what is plausible."""
    if not arm.log:
        return _linear_grid(arm, first, count)
    lowest, table = _log_table(arm)
    return table[first - lowest : first - lowest + count]


@functools.lru_cache(maxsize=16)
def _linear_grid(arm: Arm, first: int, count: int) -> np.ndarray:
    return pixel_wavelength(arm, np.arange(first, first + count))


@functools.lru_cache(maxsize=16)
def _log_table(arm: Arm) -> tuple[int, np.ndarray]:
    """A logarithmic grid over all plausible wavelengths, and the number of its first pixel."""
    low, high = (round((math.log10(limit) - arm.start) / arm.step) for limit in PLAUSIBLE_WAVELENGTH)
    return low, pixel_wavelength(arm, np.arange(low, high + 1))


__all__ = [
    "KEYWORDS",
    "SPECTRUM_FIELDS",
    "check_keywords",
    "column_kind",
    "pixel_wavelength",
    "read_mapping",
    "stated_medium",
]
