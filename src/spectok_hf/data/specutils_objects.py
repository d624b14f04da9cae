"""specutils: its objects, told by their attributes, and its loaders for files that no layout of ours recognises."""

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .rows import column_kind, stated_medium
from .units import flux_factor, plain_numbers, spectral_to_angstrom, unit_text

FORMAT = "specutils"  # format="specutils", or "specutils:DESI coadd" with the name of a loader
# Loaders whose result would be wrong in silence. Our own layouts read these files.
WRONG_LOADERS = {
    "GALAH": "it takes relative errors for absolute ones",
    "APOGEE": "it leaves out the bit mask",
    "apStar": "it takes every bit of the mask for bad",
    "apVisit": "it takes every bit of the mask for bad",
}
POWERS = {"std": 1, "var": 2, "ivar": -2}  # of the flux unit
INSTALL = 'specutils, which knows more layouts, is not installed: pip install "spectok-hf[astro]"'


def is_specutils_object(source: Any) -> bool:
    """Whether something is like a specutils `Spectrum` or `SpectrumCollection`.

    Args:
        source: Anything.
    """
    return all(hasattr(source, name) for name in ("flux", "spectral_axis", "uncertainty", "mask"))


def as_mapping(source: Any) -> dict[str, Any]:
    """A specutils object as a mapping of plain numbers: wavelengths in Å, flux in its own unit.

    Args:
        source: A `Spectrum` of any number of dimensions, or a `SpectrumCollection`.

    Raises:
        ValueError: If the axis is in velocity, or the uncertainty is of an unknown type or unit.
    """
    columns = _meta_columns(getattr(source, "meta", None) or {})
    columns |= {"flux": _in_rows(source, plain_numbers(source.flux)), "flux_unit": unit_text(source.flux.unit)}
    axis = spectral_to_angstrom(plain_numbers(source.spectral_axis), source.spectral_axis.unit)
    columns["wavelength"] = axis.reshape(-1, axis.shape[-1]) if axis.ndim > 1 else axis
    if source.uncertainty is not None:
        columns |= {name: _in_rows(source, values) for name, values in _uncertainty(source).items()}
    if source.mask is not None:
        columns["mask"] = _in_rows(source, np.broadcast_to(source.mask, source.flux.shape))
    return columns


def load(path: Path, label: str | None) -> tuple[list[Any], str]:
    """The objects that specutils makes of a file, and the `format` that they were read by.

    Args:
        path: The file.
        label: The name of a loader; absent = the only one that recognises the file.

    Raises:
        ValueError: If specutils is absent, does not know the file, or fails on it; the message is the end of one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from specutils import SpectrumList
            from specutils.io.registers import identify_spectrum_format
        except ImportError as error:
            raise ValueError(INSTALL) from error
        label = label or _only(identify_spectrum_format(str(path), SpectrumList))
        _check_loaders([label])
        try:
            objects = list(SpectrumList.read(str(path), format=label))
        except Exception as error:  # loaders of many authors, which raise whatever they meet
            raise ValueError(f"the loader {label!r} of specutils failed on it: {str(error)[:300]}") from error
    if not objects:
        raise ValueError(f"the loader {label!r} of specutils finds no spectrum in it")
    return objects, f"{FORMAT}:{label}"


def _only(labels: str | list[str]) -> str:
    labels = [labels] if isinstance(labels, str) else list(labels)
    if not labels:
        raise ValueError("specutils has no loader that knows it either")
    _check_loaders(labels)  # all: a GALAH file is also a plain image with a wavelength in its header
    if len(labels) > 1:
        choices = ", ".join(f'format="{FORMAT}:{label}"' for label in labels)
        raise ValueError(f"several loaders of specutils claim it: pass one of {choices}")
    return labels[0]


def _check_loaders(labels: list[str]) -> None:
    for label, (name, fault) in itertools.product(labels, WRONG_LOADERS.items()):
        if name in label:
            raise ValueError(f"the loader {label!r} of specutils is not used: {fault}")


def _in_rows(source: Any, values: Any) -> Any:
    """One spectrum per row: the spectral axis last, all other axes in one."""
    if values.ndim > 1 and getattr(source, "spectral_axis_index", None) is not None:
        values = np.moveaxis(values, source.spectral_axis_index, -1)
    return values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values


def _uncertainty(source: Any) -> dict[str, np.ndarray]:
    uncertainty = source.uncertainty
    kind = uncertainty.uncertainty_type
    if kind not in POWERS:
        raise ValueError(f"uncertainty must be one of {', '.join(POWERS)}, found {kind!r}: pass error= or ivar=")
    power = POWERS[kind]
    values = np.asarray(uncertainty.array, dtype=np.float64)
    if uncertainty.unit is not None:
        values = values * flux_factor("uncertainty", uncertainty.unit, source.flux.unit, power)
    if kind == "var":
        known = np.isfinite(values) & (values > 0)
        return {"ivar": np.where(known, 1 / np.where(known, values, 1.0), 0.0)}
    return {"error" if kind == "std" else "ivar": values}


def _meta_columns(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Labels and identifier; of a FITS header only position, name and medium: other cards mean many things."""
    header = meta.get("header")
    header = header if header is not None and hasattr(header, "keys") else {}
    cards = {name: header[name] for name in ("RA", "DEC") if name in header}
    known = {str(name): value for name, value in meta.items() if column_kind(str(name)) in ("label", "object_id")}
    scalars = {name: value for name, value in (cards | known).items() if np.ndim(value) == 0}
    columns = {name.lower(): getattr(value, "value", value) for name, value in scalars.items()}
    if not any(column_kind(name) == "object_id" for name in columns) and header.get("OBJECT"):
        columns["object_id"] = header["OBJECT"]
    if medium := stated_medium(header):
        columns["medium"] = medium
    return columns


__all__ = ["FORMAT", "as_mapping", "is_specutils_object", "load"]
