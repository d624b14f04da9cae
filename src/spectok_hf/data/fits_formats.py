"""The FITS layouts of SDSS, DESI and LAMOST: how each is recognised, and how it becomes `Spectrum` objects.

Layouts are recognised by their content (HDU names, columns, header cards), never by the file name. astropy is imported
only when a file is opened.
"""

import bz2
import gzip
import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum
from .surveys import SURVEYS

MISSING_TEXT = ("", "UNKNOWN", "NULL")  # a label with such a value is left out
MISSING_NUMBER = -9999.0
COMPRESSIONS = {b"\x1f\x8b": gzip, b"BZh": bz2}  # by the first bytes

# Labels of the design, and the columns or header cards that may hold them.
SDSS_LABELS = {
    "class": ("class",),
    "subclass": ("subclass",),
    "redshift": ("z",),
    "zwarn": ("zwarning",),
    "ra": ("plug_ra",),
    "dec": ("plug_dec",),
    "snr": ("sn_median_all",),
}
DESI_LABELS = {"ra": ("TARGET_RA",), "dec": ("TARGET_DEC",)}
# HELIO_RV is not among them: it is the correction for the Earth's motion, already applied, not the star's velocity.
LAMOST_LABELS = {
    "class": ("CLASS",),
    "subclass": ("SUBCLASS",),
    "redshift": ("Z",),
    "rv": ("RV",),
    "ra": ("RA",),
    "dec": ("DEC",),
    "snr_g": ("SN_G", "SNRG"),
    "snr_r": ("SN_R", "SNRR"),
}


def read_fits(path: Path, *, format: str | None = None, merge_arms: bool = True) -> list[Spectrum]:
    """The spectra of one FITS file.

    Args:
        path: The file, possibly compressed.
        format: A key of `LAYOUTS`; absent = recognised from the content.
        merge_arms: Whether the arms of a DESI spectrum become one spectrum.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is empty, truncated, not FITS, of an unknown layout, or holds an impossible spectrum.
        ImportError: If astropy is absent.
    """
    with _open_fits(path) as hdus:
        layout = _find_layout(hdus, format, path)
        try:
            return layout.read(hdus, merge_arms)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


@contextmanager
def _open_fits(path: Path) -> Iterator[Any]:
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


def _uncompressed(path: Path) -> tuple[Path | io.BytesIO, int]:
    """What astropy shall open, and its size in bytes; a compressed file is unpacked whole, which checks it."""
    with path.open("rb") as file:
        head = file.read(3)
    for magic, module in COMPRESSIONS.items():
        if head.startswith(magic):
            with module.open(path) as file:
                content = file.read()
            return io.BytesIO(content), len(content)
    return path, path.stat().st_size


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


# Layouts ------------------------------------------------------------------------------------------


def _find_table(hdus: Any, *columns: str) -> Any | None:
    """The first table that has these columns, in whatever case; the per-exposure tables of SDSS come later."""
    for hdu in hdus:
        if set(columns) <= _column_names(hdu):
            return hdu
    return None


def _column_names(hdu: Any) -> set[str]:
    """Column names in lower case, from the header cards: `hdu.columns` takes 25 ms for the 180 of SPALL."""
    return {str(hdu.header[f"TTYPE{number + 1}"]).lower() for number in range(hdu.header.get("TFIELDS", 0))}


def _find_layout(hdus: Any, format: str | None, path: Path) -> "Layout":
    if format is not None:
        if LAYOUTS[format].fits(hdus):
            return LAYOUTS[format]
        known = f"format={format!r} needs {LAYOUTS[format].description}"
    else:
        for layout in LAYOUTS.values():
            if layout.fits(hdus) and layout.identified(hdus):
                return layout
        known = "known layouts: " + "; ".join(f"{name}: {layout.description}" for name, layout in LAYOUTS.items())
    raise ValueError(
        f"{path} has an unknown layout: found {_describe(hdus)}; {known}. "
        "Read it yourself and pass arrays: read_spectra(flux, wavelength=..., ivar=...)"
    )


def _describe(hdus: Any) -> str:
    parts = []
    for index, hdu in enumerate(hdus[:8]):
        names = [name.upper() for name in sorted(_column_names(hdu))]
        columns = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        content = f"table of {columns}" if names else f"image {hdu.shape}" if hdu.shape else "no data"
        parts.append(f"{hdu.name or index} ({content})")
    return ", ".join(parts) + (f", and {len(hdus) - 8} more" if len(hdus) > 8 else "")


def _labels(values: Mapping[str, Any], names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The labels that are there, as plain values; `values` maps column names or header cards to values."""
    found = {
        label: plain_label(next((values[name] for name in candidates if name in values), None))
        for label, candidates in names.items()
    }
    return {label: value for label, value in found.items() if value is not None}


def plain_label(value: Any) -> Any:
    """A label as a plain Python value; None where it is missing (empty, unknown, NaN, -9999).

    Args:
        value: Number, text or bytes, also as a numpy scalar.
    """
    value = value.item() if hasattr(value, "item") else value
    value = value.decode() if isinstance(value, bytes) else value
    if isinstance(value, str):
        value = value.strip()
        return None if value.upper() in MISSING_TEXT else value
    return None if value is None or value != value or value == MISSING_NUMBER else value


def _facts(survey: str) -> dict[str, Any]:
    facts = SURVEYS[survey]
    return {"survey": survey, "medium": facts.medium, "frame": facts.frame, "flux_unit": facts.flux_unit}


def _log_grid(loglam: np.ndarray) -> np.ndarray:
    """Wavelengths in Å, float64, of an axis in log10 Å.

    loglam is float32 on disk, up to 2.4e-7 dex (0.17 km/s, 0.2 % of a pixel) from the grid of 1e-4 dex that it is
    meant to be; rounding to that grid gives it back exactly (all 71 real SDSS files: 3809-4625 pixels). An axis on
    another grid is left as it is. The header's COEFF0 is not used: in SDSS-I/II spec files it is the whole plate's,
    while the spectrum was trimmed, so that it would be wrong by up to 33 pixels (2300 km/s).
    """
    loglam = np.asarray(loglam, dtype=np.float64)
    grid = np.round(loglam, 4)
    return 10.0 ** (grid if np.allclose(grid, loglam, rtol=0, atol=5e-7) else loglam)


# SDSS, BOSS, eBOSS --------------------------------------------------------------------------------


def _sdss_coadd(hdus: Any) -> Any:
    return _find_table(hdus, "flux", "loglam", "ivar", "and_mask")


def _read_sdss(hdus: Any, merge_arms: bool) -> list[Spectrum]:
    coadd = _sdss_coadd(hdus).data
    record = _sdss_record(hdus)
    wavelength = _log_grid(coadd["loglam"])
    survey = _sdss_survey(record, wavelength)
    spectrum = Spectrum(
        coadd["flux"],
        wavelength,
        coadd["ivar"],
        object_id=_sdss_object_id(record),
        labels=_labels(record, SDSS_LABELS),
        **_facts(survey),
    )
    # The pipeline has set ivar = 0 for its very bad conditions. Of the bits, only bright sky is obeyed: those of the
    # fibre (0-15) flag half or all of a good spectrum (46-99.7 % in 5 of 71 files).
    for name, bit in SURVEYS[survey].bad_bits.items():
        spectrum.flag((np.asarray(coadd["and_mask"], dtype=np.int64) >> bit & 1).astype(bool), name)
    return [spectrum]


def _sdss_record(hdus: Any) -> dict[str, Any]:
    """The row of SPECOBJ or SPALL, by lower-case column; without it what the primary header says."""
    names = ("plate", "mjd", "fiberid", "run2d", "instrument", *(name for (name,) in SDSS_LABELS.values()))
    header = hdus[0].header
    record = {"plate": header.get("PLATEID"), "mjd": header.get("MJD"), "fiberid": header.get("FIBERID")}
    record["run2d"] = header.get("RUN2D", "")
    table = _find_table(hdus, "class", "z")
    if table is not None and len(table.data):
        record |= {name: table.data[name][0] for name in names if name in _column_names(table)}
    return record


def _sdss_survey(record: Mapping[str, Any], wavelength: np.ndarray) -> str:
    """Which spectrograph: SDSS-I/II (to 9200 Å, RUN2D 26, 103, 104) or BOSS (to 10400 Å, RUN2D v5_*, v6_*)."""
    instrument = str(record.get("instrument", "")).strip().lower()
    if instrument in ("sdss", "boss"):
        return instrument
    run2d = str(record["run2d"]).strip().lower()
    if run2d:
        return "sdss" if run2d.isdigit() else "boss"
    return "boss" if wavelength[-1] > 9500 else "sdss"


def _sdss_object_id(record: Mapping[str, Any]) -> str | None:
    """plate-mjd-fibre, padded with zeros as in the names of the files: 0266-51602-0107."""
    if record["plate"] is None or record["mjd"] is None or record["fiberid"] is None:
        return None
    return f"{int(record['plate']):04d}-{int(record['mjd']):05d}-{int(record['fiberid']):04d}"


# DESI ---------------------------------------------------------------------------------------------


@dataclass
class DesiArm:
    """One arm of all the spectra of a DESI file.

    Args:
        name: "b", "r" or "z"; of merged arms the names together.
        wavelength: Å, shape (L,).
        flux: Flux density, shape (n, L), float64.
        ivar: Inverse variance, shape (n, L), float64.
        mask: Bad pixels, shape (n, L), True = bad.
    """

    name: str
    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray


GRID_TOLERANCE = 1e-4  # Å; arms are on one grid within it (as in desispec), and in the real files within 1e-9


def _fits_desi(hdus: Any) -> bool:
    names = {hdu.name for hdu in hdus}
    return any({f"{band}_FLUX", f"{band}_IVAR", f"{band}_WAVELENGTH"} <= names for band in _desi_bands(hdus))


def _desi_bands(hdus: Any) -> list[str]:
    return list(dict.fromkeys(hdu.name.removesuffix("_FLUX") for hdu in hdus if hdu.name.endswith("_FLUX")))


def _read_desi(hdus: Any, merge_arms: bool) -> list[Spectrum]:
    arms = sorted((_desi_arm(hdus, band) for band in _desi_bands(hdus)), key=lambda arm: arm.wavelength[0])
    rows = _desi_rows(hdus, len(arms[0].flux))
    if merge_arms:
        merged = merge_desi_arms(arms)
        return [_desi_spectrum(merged, index, row) for index, row in enumerate(rows)]
    return [_desi_spectrum(arm, index, row, arm.name) for index, row in enumerate(rows) for arm in arms]


def _desi_arm(hdus: Any, band: str) -> DesiArm:
    names = {hdu.name for hdu in hdus}
    missing = [f"{band}_{kind}" for kind in ("WAVELENGTH", "IVAR") if f"{band}_{kind}" not in names]
    if missing:
        raise ValueError(f"{band}_FLUX needs {' and '.join(missing)}, found no such HDU: the file is incomplete")
    flux, ivar = (np.atleast_2d(hdus[f"{band}_{kind}"].data).astype(np.float64) for kind in ("FLUX", "IVAR"))
    mask = np.atleast_2d(hdus[f"{band}_MASK"].data) != 0 if f"{band}_MASK" in names else np.zeros(flux.shape, bool)
    wavelength = np.array(hdus[f"{band}_WAVELENGTH"].data, dtype=np.float64)
    if not flux.shape == ivar.shape == mask.shape == (len(flux), len(wavelength)):
        raise ValueError(
            f"flux, ivar and mask of arm {band} must have one row per spectrum and {len(wavelength)} pixels, "
            f"found shapes {flux.shape}, {ivar.shape}, {mask.shape}: the file is damaged"
        )
    return DesiArm(band.lower(), wavelength, flux, ivar, mask)


def _desi_rows(hdus: Any, count: int) -> list[dict[str, Any]]:
    """Identifier and position of each row; without a FIBERMAP the identifier is the row's number."""
    names = {hdu.name for hdu in hdus}
    rows: list[dict[str, Any]] = [{"TARGETID": index} for index in range(count)]
    if "FIBERMAP" not in names:
        return rows
    table = hdus["FIBERMAP"]
    if len(table.data) != count:
        raise ValueError(f"FIBERMAP must have one row per spectrum, found {len(table.data)} rows and {count} spectra")
    for name in ("TARGETID", "TARGET_RA", "TARGET_DEC"):
        if name in table.columns.names:
            for row, value in zip(rows, table.data[name].tolist(), strict=True):  # int64 to int: exact above 2**53
                row[name] = value
    return rows


def _desi_spectrum(arm: DesiArm, index: int, row: Mapping[str, Any], name: str | None = None) -> Spectrum:
    labels = _labels(row, DESI_LABELS) | ({"arm": name} if name else {})
    object_id = str(row["TARGETID"])
    spectrum = Spectrum(
        arm.flux[index], arm.wavelength, arm.ivar[index], object_id=object_id, labels=labels, **_facts("desi")
    )
    spectrum.flag(arm.mask[index], "DESI mask")
    return spectrum


def merge_desi_arms(arms: list[DesiArm]) -> DesiArm:
    """One arm on the union of the grids: the mean in the overlaps, weighted by the inverse variance.

    As `coadd_cameras` of desispec: a pixel that is bad in one arm takes the other's value, and a merged pixel is bad
    only where all are (its flux is then the last arm's, its inverse variance 0).

    Args:
        arms: Arms of the same spectra, in order of wavelength.

    Raises:
        ValueError: If the arms hold different numbers of spectra, or are not on one grid where they overlap.
    """
    wavelength = arms[0].wavelength
    for arm in arms[1:]:
        wavelength = np.append(wavelength, arm.wavelength[arm.wavelength > wavelength[-1] + GRID_TOLERANCE])
    flux, weighted, ivar = np.zeros((3, len(arms[0].flux), len(wavelength)))
    for arm in arms:
        pixels = _pixels_of(arm, wavelength, count=len(flux))
        good = ~arm.mask & np.isfinite(arm.flux) & np.isfinite(arm.ivar) & (arm.ivar > 0)
        flux[:, pixels] = arm.flux
        ivar[:, pixels] += np.where(good, arm.ivar, 0)
        weighted[:, pixels] += np.where(good, arm.ivar * np.where(good, arm.flux, 0), 0)
    np.divide(weighted, ivar, out=flux, where=ivar > 0)
    return DesiArm("".join(arm.name for arm in arms), wavelength, flux, ivar, np.zeros(ivar.shape, bool))


def _pixels_of(arm: DesiArm, wavelength: np.ndarray, count: int) -> slice:
    """Where an arm lies on the merged grid."""
    start = int(np.argmin(np.abs(wavelength - arm.wavelength[0])))
    pixels = slice(start, start + len(arm.wavelength))
    grid = wavelength[pixels]
    if len(arm.flux) != count or len(grid) != len(arm.wavelength):
        aligned = False
    else:
        aligned = bool((np.abs(grid - arm.wavelength) <= GRID_TOLERANCE).all())
    if not aligned:
        raise ValueError(
            f"arm {arm.name} cannot be merged: its {len(arm.flux)} spectra of {arm.wavelength[0]:.2f}-"
            f"{arm.wavelength[-1]:.2f} Å do not lie on the grid of the {count} of the arms before it: "
            "pass merge_arms=False"
        )
    return pixels


# LAMOST -------------------------------------------------------------------------------------------


def _fits_lamost(hdus: Any) -> bool:
    return _lamost_table(hdus) is not None or _has_lamost_image(hdus[0])


def _has_lamost_image(hdu: Any) -> bool:
    return len(hdu.shape) == 2 and hdu.shape[0] == 5 and {"COEFF0", "COEFF1"} <= set(hdu.header)


def _is_lamost(hdus: Any) -> bool:
    """Tells LAMOST's image from the spSpec files of SDSS-I, which look alike but hold the error in another row."""
    header = hdus[0].header
    makers = " ".join(str(header.get(card, "")) for card in ("TELESCOP", "ORIGIN", "AUTHOR"))
    return _lamost_table(hdus) is not None or "LAMOST" in makers.upper()


def _lamost_table(hdus: Any) -> Any | None:
    """The table of the newer layout; the medium-resolution survey has several (COADD_B, COADD_R), and is not read."""
    columns = {"flux", "ivar", "andmask"}
    tables = [hdu for hdu in hdus if columns <= _column_names(hdu) and {"wavelength", "loglam"} & _column_names(hdu)]
    return tables[0] if len(tables) == 1 else None


def _read_lamost(hdus: Any, merge_arms: bool) -> list[Spectrum]:
    header = hdus[0].header
    table = _lamost_table(hdus)
    flux, ivar, wavelength, bits = _lamost_image(hdus[0]) if table is None else _lamost_columns(table)
    object_id, labels = _lamost_object_id(header), _labels(header, LAMOST_LABELS)
    spectrum = Spectrum(flux, wavelength, ivar, object_id=object_id, labels=labels, **_facts("lamost"))
    # The and-mask holds what was wrong in every exposure, so each of its bits is obeyed. In the 125 real DR1 files
    # only bit 0 occurs, on 0.24 % of the pixels, and all of those have ivar = 0 anyway (as 7.6 % of a typical
    # spectrum have). The or-mask (wrong in one exposure at least) is not obeyed.
    spectrum.flag(np.asarray(bits, dtype=np.int64) != 0, "LAMOST and-mask")
    return [spectrum]


def _lamost_image(hdu: Any) -> tuple[np.ndarray, ...]:
    """Flux, inverse variance, wavelength and and-mask, shape (L,) each, of the layout up to about DR7.

    Row 2 is skipped: it is the continuum-subtracted spectrum, in later releases the wavelength. COEFF0 and COEFF1
    hold for files of 3904, 3908 and 3909 pixels alike: the calcium triplet falls at the catalogue velocity.
    """
    flux, ivar, _, bits, _ = hdu.data
    loglam = hdu.header["COEFF0"] + hdu.header["COEFF1"] * np.arange(hdu.shape[1])
    return flux, ivar, _log_grid(loglam), bits


def _lamost_columns(hdu: Any) -> tuple[np.ndarray, ...]:
    """Flux, inverse variance, wavelength and and-mask, shape (L,) each, of the newer layout: one row of vectors."""
    columns = {name: np.ravel(hdu.data[name]) for name in ("flux", "ivar", "andmask")}
    if "loglam" in _column_names(hdu):
        wavelength = _log_grid(np.ravel(hdu.data["loglam"]))
    else:  # float32: 4e-4 Å from the logarithmic grid it is meant to be
        wavelength = _log_grid(np.log10(np.ravel(hdu.data["wavelength"]).astype(np.float64)))
    return columns["flux"], columns["ivar"], wavelength, columns["andmask"]


def _lamost_object_id(header: Mapping[str, Any]) -> str | None:
    """OBSID; before it existed, the day, plan, spectrograph and fibre: 55862-B6212_sp06-005."""
    if header.get("OBSID") not in (None, ""):
        return str(header["OBSID"])
    cards = ("LMJD", "PLANID", "SPID", "FIBERID")
    if any(header.get(card) is None for card in cards):
        return None
    day, plan, spectrograph, fibre = (header[card] for card in cards)
    return f"{day}-{str(plan).strip()}_sp{int(spectrograph):02d}-{int(fibre):03d}"


@dataclass(frozen=True)
class Layout:
    """One FITS layout.

    Args:
        description: What such a file holds, for messages.
        fits: Whether a file has the HDUs, columns and cards that reading it needs.
        read: From the open file and `merge_arms` to spectra.
        identified: Whether a file that fits is also known to come from the survey; asked unless `format` is given.
    """

    description: str
    fits: Callable[[Any], bool]
    read: Callable[[Any, bool], list[Spectrum]]
    identified: Callable[[Any], bool] = lambda hdus: True


LAYOUTS = {
    "sdss": Layout(
        "spec and spec-lite, a table of flux, loglam, ivar, and_mask",
        lambda hdus: _sdss_coadd(hdus) is not None,
        _read_sdss,
    ),
    "desi": Layout("coadd and spectra, images B_FLUX, B_IVAR, B_WAVELENGTH, R_FLUX, ...", _fits_desi, _read_desi),
    "lamost": Layout(
        "LRS, a primary image of 5 rows with COEFF0 and COEFF1, or a table of FLUX, IVAR, WAVELENGTH, ANDMASK",
        _fits_lamost,
        _read_lamost,
        _is_lamost,
    ),
}

__all__ = ["LAYOUTS", "DesiArm", "merge_desi_arms", "plain_label", "read_fits"]
