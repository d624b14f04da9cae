"""What a user passes to be answered: the spectra of any source, and whether it is a single one."""

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.readers import read_spectra
from ..data.specutils_objects import is_specutils_object
from ..data.tables import TableRows, as_table
from ..models.sources import is_flux, is_spectrum, is_stack
from ..models.spectrum import Spectrum


def read_given(source: Any, fields: Mapping[str, Any]) -> tuple[list[Spectrum], bool]:
    """The spectra of a source, and whether it is a single one.

    Args:
        source: What `read_spectra` takes.
        fields: `wavelength`, `ivar` or `error`, and other fields of `Spectrum`, where it is flux.

    Raises:
        ValueError: If it holds no spectrum, or an impossible one.
    """
    options = {"progress": False} | dict(fields)  # a bar of its own would come and go before that of the model
    spectra = [source] if is_spectrum(source) and not fields else read_spectra(source, **options)
    if not spectra:
        raise ValueError("there must be at least one spectrum, found none: check what was passed")
    return spectra, len(spectra) == 1 and _is_single(source)


def _is_single(source: Any) -> bool:
    """Whether a source of one spectrum is that spectrum, and not a list, table, folder or pattern that has but one."""
    if is_spectrum(source) or isinstance(source, (bytes, bytearray)):
        return True
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        return path.is_file() or not (path.is_dir() or glob.has_magic(str(path)))
    if isinstance(source, Mapping):
        return not is_stack(source.get("flux"))
    if is_flux(source):
        return not is_stack(source)
    if is_specutils_object(source):
        return not is_stack(source.flux)
    table = as_table(source)  # a row, or pixels as rows, are a mapping
    return table is not None and not isinstance(table, TableRows)


__all__ = ["read_given"]
