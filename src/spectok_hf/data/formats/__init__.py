"""The FITS layouts that `read_spectra` knows: how each is recognised, and how it becomes `Spectrum` objects.

Layouts are recognised by their content (HDU names, columns, header cards), never by the file name. astropy is imported
only when a file is opened.
"""

from pathlib import Path
from typing import Any

from ...models.spectrum import Spectrum
from . import apogee, desi, gaia, galah, lamost, sdss
from .files import open_fits
from .layout import Layout, ReadOptions, column_names

LAYOUTS: dict[str, Layout] = {
    **sdss.LAYOUTS,
    **desi.LAYOUTS,
    **lamost.LAYOUTS,
    **apogee.LAYOUTS,
    **gaia.LAYOUTS,
    **galah.LAYOUTS,
}


class UnknownLayoutError(ValueError):
    """A sound FITS file that no layout, or not the one asked for, recognises."""


def read_fits(
    path: Path, *, format: str | None = None, merge_arms: bool = True, keep_gaps: bool = False
) -> tuple[list[Spectrum], list[Path]]:
    """The spectra of one FITS file, and the files they were read from: the file, and those that belong to it.

    Args:
        path: The file, possibly compressed.
        format: A key of `LAYOUTS`; absent = recognised from the content.
        merge_arms: Whether the arms of a spectrum become one spectrum.
        keep_gaps: Whether APOGEE spectra keep the pixels between and beside the chips.

    Raises:
        FileNotFoundError: If there is no such file.
        UnknownLayoutError: If the layout is unknown, or not that of `format`.
        ValueError: If the file is empty, truncated, not FITS, or holds an impossible spectrum.
        ImportError: If astropy is absent.
    """
    with open_fits(path) as hdus:
        layout = _find_layout(hdus, format, path)
        try:
            spectra = layout.read(hdus, ReadOptions(path, merge_arms=merge_arms, keep_gaps=keep_gaps))
            return spectra, layout.companions(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def has_layout(path: Path) -> bool:
    """Whether a layout of ours recognises a file, which then says its survey.

    Args:
        path: Any file; of a damaged one it is not known, which is said where it is read.

    Raises:
        ImportError: If astropy is absent.
    """
    try:
        with open_fits(path) as hdus:
            return _recognised(hdus) is not None
    except ImportError:
        raise
    except Exception:  # of a damaged header, whatever astropy raises
        return False


def _find_layout(hdus: Any, format: str | None, path: Path) -> Layout:
    if format is not None:
        if LAYOUTS[format].fits(hdus):
            return LAYOUTS[format]
        known = f"format={format!r} needs {LAYOUTS[format].description}"
    else:
        if layout := _recognised(hdus):
            return layout
        known = "known layouts: " + "; ".join(f"{name}: {layout.description}" for name, layout in LAYOUTS.items())
    raise UnknownLayoutError(f"{path} has an unknown layout: found {describe(hdus)}; {known}")


def _recognised(hdus: Any) -> Layout | None:
    return next((layout for layout in LAYOUTS.values() if layout.fits(hdus) and layout.identified(hdus)), None)


def describe(hdus: Any) -> str:
    """What the HDUs of a file hold, for messages.

    Args:
        hdus: The open file.
    """
    parts = []
    for index, hdu in enumerate(hdus[:8]):
        names = [name.upper() for name in sorted(column_names(hdu))]
        columns = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        content = f"table of {columns}" if names else f"image {hdu.shape}" if hdu.shape else "no data"
        parts.append(f"{hdu.name or index} ({content})")
    return ", ".join(parts) + (f", and {len(hdus) - 8} more" if len(hdus) > 8 else "")


__all__ = ["LAYOUTS", "UnknownLayoutError", "has_layout", "read_fits"]
