"""Opening FITS files: compressed or not, checked for truncation; astropy is imported only here."""

import bz2
import gzip
import io
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

COMPRESSIONS = {b"\x1f\x8b": gzip, b"BZh": bz2}  # by the first bytes


@contextmanager
def open_fits(path: Path) -> Iterator[Any]:
    """The HDUs of a FITS file, open within the context.

    Args:
        path: The file, possibly compressed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, truncated or not FITS.
        ImportError: If astropy is absent.
    """
    _check_file(path)
    fits = _import_fits()
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # survey files carry non-standard cards and units that astropy reads anyway
        try:
            source, size = _uncompressed(path)
            hdus = stack.enter_context(fits.open(source))
            _check_size(hdus, source, size)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is truncated or damaged ({error}): download it again") from error
        yield hdus


def _import_fits() -> Any:
    try:
        from astropy.io import fits
    except ImportError as error:
        raise ImportError('read_spectra needs astropy for FITS files: pip install "spectok-hf[astro]".') from error
    return fits


def compression_of(path: Path) -> Any:
    """The module whose `open` unpacks a file, by its first bytes: its name may say anything; `io` of a plain one.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        head = file.read(3)
    return next((module for magic, module in COMPRESSIONS.items() if head.startswith(magic)), io)


def _uncompressed(path: Path) -> tuple[Path | io.BytesIO, int]:
    """What astropy shall open, and its size in bytes; a compressed file is unpacked whole, which checks it."""
    module = compression_of(path)
    if module is io:
        return path, path.stat().st_size
    with module.open(path) as file:
        content = file.read()
    return io.BytesIO(content), len(content)


def _check_size(hdus: Any, source: Path | io.BytesIO, size: int) -> None:
    """astropy only warns where data are cut short, and drops an HDU silently where its header is."""
    ends = [hdu.fileinfo()["datLoc"] + hdu.fileinfo()["datSpan"] for hdu in hdus]
    if max(ends) > size:
        raise OSError(f"expected {max(ends)} bytes, found {size}")
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(ends[-1])
        if file.read(8) == b"XTENSION":
            raise OSError(f"the header of HDU {len(ends)} ends at byte {size}")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path} (looked in {path.absolute().parent}): check the path")
    with path.open("rb") as file:
        head = file.read(80)
    if not head:
        raise ValueError(f"{path} is empty (0 bytes), expected a FITS file: download it again")
    if not head.startswith((b"SIMPLE", *COMPRESSIONS)):
        found = head.decode("ascii", errors="replace").split("\n")[0].strip()[:40]
        what = "a web page" if found.lower().startswith(("<!doctype", "<html", "<?xml")) else "something else"
        raise ValueError(
            f"{path} is not a FITS file but {what}: expected it to start with SIMPLE, found {found!r}; "
            "download it again, and check the address and the login"
        )


__all__ = ["COMPRESSIONS", "compression_of", "open_fits"]
