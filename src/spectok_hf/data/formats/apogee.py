"""APOGEE: apStar (asStar), aspcapStar and apVisit files; mwmStar and mwmVisit of SDSS-V, which hold BOSS as well.

Of an apStar file the first row is read: the combination of all visits in which each pixel has its own weight (a star
with one visit has no other row). Its mask says what was wrong in any visit. Stars are at rest, visits are not: the
wavelengths of apVisit are those at the telescope, without barycentric correction. All are in vacuum.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS
from .layout import Layout, ReadOptions, column_names, find_labels, log_grid, plain_label, survey_facts

GRID_START, GRID_STEP, GRID_PIXELS = 4.179, 6e-6, 8575  # log10 Å, dex: every combined spectrum since the first release
MISSING_VELOCITY = 999999.0  # where no velocity could be measured
CHIP_NAMES = ("blue", "green", "red")  # in order of wavelength; in the file they come the other way round
MWM_COLUMNS = {"flux", "ivar", "pixel_flags"}

# Cards and columns of the star's APOGEE id.
STAR_NAMES = ("OBJID", "OBJ", "SDSS4_APOGEE_ID", "APOGEEID")
# What tells a visit from the star's others, each the first card or column that is there: plate or field, day, fibre.
VISIT_NAMES = (("PLATE", "FIELDID", "PLATEID", "FIELD"), ("MJD5", "MJD"), ("FIBERID", "FIBER", "CATALOGID"))


@dataclass
class Chip:
    """One detector's part of a visit, in ascending order of wavelength.

    Args:
        name: One of `CHIP_NAMES`.
        wavelength: Å, shape (L,).
        flux: Flux density, shape (L,).
        error: Standard deviation of the flux, shape (L,).
        bits: Pixel mask, shape (L,).
    """

    name: str
    wavelength: np.ndarray
    flux: np.ndarray
    error: np.ndarray
    bits: np.ndarray

    def cut(self, keep: np.ndarray) -> "Chip":
        """The chip with some of its pixels.

        Args:
            keep: Indices, or True = keep.
        """
        return Chip(self.name, self.wavelength[keep], self.flux[keep], self.error[keep], self.bits[keep])


# Combined spectra ---------------------------------------------------------------------------------


def _fits_apstar(hdus: Any) -> bool:
    return _has_log_images(hdus) and hdus[3].header["BITPIX"] > 0  # the mask; in aspcapStar it is the model


def _fits_aspcapstar(hdus: Any) -> bool:
    return _has_log_images(hdus) and hdus[3].header["BITPIX"] < 0


def _has_log_images(hdus: Any) -> bool:
    """Whether HDUs 1-3 are images of one shape, one or more spectra each, with the cards of a wavelength axis."""
    shapes = _image_shapes(hdus, 3)
    return len(set(shapes)) == 1 and len(shapes[0]) in (1, 2) and {"CRVAL1", "CDELT1"} <= set(hdus[1].header)


def _image_shapes(hdus: Any, last: int) -> list[tuple[int, ...]]:
    return [() if column_names(hdu) else getattr(hdu, "shape", ()) for hdu in hdus[1 : last + 1]]


def _has_apogee_grid(hdus: Any) -> bool:
    """Tells APOGEE's images from other log-linear ones; one sign is enough, the reader then asks for both."""
    return hdus[1].shape[-1] == GRID_PIXELS or abs(hdus[1].header["CRVAL1"] - GRID_START) < 1e-6


def _read_apstar(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    flux, error, bits = (np.atleast_2d(hdus[number].data)[0] for number in (1, 2, 3))
    spectrum = _grid_spectrum(hdus, options, flux, error, _cards(hdus[0].header))
    _flag_bits(spectrum, bits[_grid_pixels(options)])
    return [spectrum]


def _read_aspcapstar(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    flux, error = (np.atleast_2d(hdus[number].data)[0] for number in (1, 2))
    spectrum = _grid_spectrum(hdus, options, flux, error, _aspcap_record(hdus))
    spectrum.flux_unit = "normalised"
    # The file has no mask: ASPCAP multiplies the errors of the pixels that it does not fit by about 100, and writes
    # flux 0 with error 10 where there is nothing. All pixels with a bad bit in apStar (37-195 in 3 real stars) have
    # errors above the continuum here, and sky lines too: 7-37 % of the chip pixels of 18 real files.
    spectrum.flag(error[_grid_pixels(options)] > 1, "error > continuum (not used by ASPCAP)")
    return [spectrum]


def _grid_spectrum(
    hdus: Any, options: ReadOptions, flux: np.ndarray, error: np.ndarray, record: Mapping[str, Any]
) -> Spectrum:
    header, pixels = hdus[1].header, _grid_pixels(options)
    start = header["CRVAL1"] + (1 - header.get("CRPIX1", 1)) * header["CDELT1"]
    wavelength = _check_grid(start, header["CDELT1"], len(flux))
    return Spectrum.from_arrays(
        flux[pixels],
        wavelength[pixels],
        error=error[pixels],
        object_id=_star_id(record),
        labels=_labels(record),
        **survey_facts("apogee"),
    )


def _check_grid(start: float, step: float, pixels: int) -> np.ndarray:
    """Wavelengths in Å of the one grid of all combined spectra, shape (8575,), if that is what the header describes.

    Args:
        start: First wavelength, log10 Å; it and `step` may be off by 1-2 % of a pixel, as float32 wavelengths are.
        step: Pixel width, dex.
        pixels: Number of pixels.

    Raises:
        ValueError: If it is another grid; chip pixels are known by their number, so that it could not be cropped.
    """
    if pixels != GRID_PIXELS or abs(start - GRID_START) > 1e-7 or abs(step - GRID_STEP) > 1e-11:
        raise ValueError(
            f"a combined APOGEE spectrum must have {GRID_PIXELS} pixels from {GRID_START} by {GRID_STEP} (log10 Å), "
            f"found {pixels} from {start:.6f} by {step:.3g}: the file is damaged or was resampled; "
            "pass its arrays, read_spectra(flux, wavelength=..., error=...)"
        )
    # Rounded as the grid of rows is: file and row give the same numbers to the last bit.
    return 10.0 ** np.round(GRID_START + GRID_STEP * np.arange(GRID_PIXELS), 9)


def _grid_pixels(options: ReadOptions) -> np.ndarray:
    """Which pixels of the grid are read: the 7514 on the chips, or all."""
    if options.keep_gaps:
        return np.arange(GRID_PIXELS)
    arms = SURVEYS["apogee"].arms
    firsts = [round((arm.start - GRID_START) / GRID_STEP) for arm in arms]
    return np.concatenate([first + np.arange(arm.pixels) for first, arm in zip(firsts, arms, strict=True)])


def _aspcap_record(hdus: Any) -> dict[str, Any]:
    """The header and ASPCAP's calibrated parameters; where it gives none, neither do the labels."""
    record = _cards(hdus[0].header)
    table = next((hdu for hdu in hdus[4:] if "param" in column_names(hdu) and len(hdu.data)), None)
    if table is not None:
        record |= zip(("TEFF", "LOGG", "VMICRO", "M_H"), table.data["PARAM"][0], strict=False)
    return record


# Visits -------------------------------------------------------------------------------------------


def _fits_apvisit(hdus: Any) -> bool:
    shapes = _image_shapes(hdus, 4)
    same = len(shapes) == 4 and len(set(shapes)) == 1 and len(shapes[0]) == 2
    return same and shapes[0][0] == len(CHIP_NAMES) and hdus[3].header["BITPIX"] > 0 > hdus[4].header["BITPIX"]


def _is_apvisit(hdus: Any) -> bool:
    return str(hdus[4].header.get("BUNIT", "")).lower().startswith("wave")


def _read_apvisit(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    record, chips = _cards(hdus[0].header), _visit_chips(hdus)
    labels = _labels(record)
    # The first guess of the pipeline, which the header keeps: off by 230-590 km/s in 3 of 4 real visits, against
    # the velocities that the star's apStar file gives for the same visits.
    labels.pop("rv", None)
    facts = survey_facts("apogee") | {"frame": "observed", "object_id": _visit_id(record)}
    if options.merge_arms:
        return [_chip_spectrum(_merge_chips(chips), labels, facts)]
    return [_chip_spectrum(chip, labels | {"arm": chip.name}, facts) for chip in chips]


def _visit_chips(hdus: Any) -> list[Chip]:
    flux, error, bits, wavelength = (np.asarray(hdus[number].data) for number in (1, 2, 3, 4))
    order = np.argsort(np.median(wavelength, axis=1))
    return [
        _ascending(Chip(name, wavelength[row], flux[row], error[row], bits[row]))
        for name, row in zip(CHIP_NAMES, order, strict=True)
    ]


def _ascending(chip: Chip) -> Chip:
    chip = chip.cut(chip.wavelength > 0)  # neither 0 nor NaN
    if not len(chip.wavelength):
        raise ValueError(f"the {chip.name} chip must have wavelengths above 0, found none: the file is damaged")
    return chip.cut(np.arange(len(chip.wavelength))[::-1]) if chip.wavelength[0] > chip.wavelength[-1] else chip


def _merge_chips(chips: list[Chip]) -> Chip:
    """The chips one after the other; where two overlap, each keeps its half of the overlap.

    Nothing is averaged, as the chips' pixels have no common grid. In the 4 real files there are gaps of 37-47 Å
    between them, and nothing is cut.
    """
    edges = [(low.wavelength[-1] + high.wavelength[0]) / 2 for low, high in pairwise(chips)]
    bounds = pairwise([0.0, *edges, np.inf])
    parts = [
        chip.cut((chip.wavelength >= low) & (chip.wavelength < high))
        for chip, (low, high) in zip(chips, bounds, strict=True)
    ]
    columns = ("wavelength", "flux", "error", "bits")
    return Chip("", *(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def _chip_spectrum(chip: Chip, labels: Mapping[str, Any], facts: Mapping[str, Any]) -> Spectrum:
    spectrum = Spectrum.from_arrays(chip.flux, chip.wavelength, error=chip.error, labels=labels, **facts)
    _flag_bits(spectrum, chip.bits)
    return spectrum


# SDSS-V -------------------------------------------------------------------------------------------


def _fits_mwm(hdus: Any) -> bool:
    """Not the astraStar files, which hold a model beside the flux."""
    return bool(_mwm_tables(hdus)) and not any("model_flux" in column_names(hdu) for hdu in hdus)


def _is_mwm(hdus: Any) -> bool:
    return "V_ASTRA" in hdus[0].header or any("INSTRMNT" in hdu.header for hdu in _mwm_tables(hdus))


def _mwm_tables(hdus: Any) -> list[Any]:
    return [hdu for hdu in hdus if column_names(hdu) >= MWM_COLUMNS]


def _read_mwm(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    filled = [hdu for hdu in _mwm_tables(hdus) if hdu.header["NAXIS2"]]
    if not filled:
        raise ValueError("expected a spectrum in at least one of the tables, found none: all of them have 0 rows")
    records = [_mwm_record(hdus[0].header, hdu, row) for hdu in filled for row in range(hdu.header["NAXIS2"])]
    # BOSS rows do not name the star, but those of APOGEE in the same file do: one star, one identifier.
    star = next((star for star in map(_star_id, records) if star), None) or _text(records[0].get("SDSS_ID"))
    spectra = [_mwm_spectrum(hdu, row, options) for hdu in filled for row in range(hdu.header["NAXIS2"])]
    for spectrum, record in zip(spectra, records, strict=True):
        spectrum.labels |= _labels(record)
        spectrum.object_id = _visit_id(record, star) if "MJD" in record else star
    return spectra


def _mwm_record(header: Mapping[str, Any], hdu: Any, row: int) -> dict[str, Any]:
    """What is known of a row, in upper case: its columns, and of the header the star's names and position.

    The header's V_RAD is Gaia's, and no label of this spectrum.
    """
    about_star = {
        name: value for name, value in _cards(header).items() if name in {*STAR_NAMES, "SDSS_ID", "RA", "DEC"}
    }
    columns = column_names(hdu)
    return about_star | {name: hdu.data[name][row] for name in _known_names() if name.lower() in columns}


def _mwm_spectrum(hdu: Any, row: int, options: ReadOptions) -> Spectrum:
    survey = _mwm_survey(hdu)
    flux, ivar, bits = (np.asarray(hdu.data[name][row], dtype=np.float64) for name in ("flux", "ivar", "pixel_flags"))
    wavelength, pixels = log_grid(_mwm_loglam(hdu, row)), np.arange(len(flux))
    if survey == "apogee":
        step = np.log10(wavelength[-1] / wavelength[0]) / (len(wavelength) - 1)
        wavelength, pixels = _check_grid(np.log10(wavelength[0]), step, len(flux)), _grid_pixels(options)
    facts = survey_facts(survey) | {"frame": "rest"}
    spectrum = Spectrum(flux[pixels], wavelength[pixels], ivar[pixels], **facts)
    _flag_bits(spectrum, np.nan_to_num(bits[pixels]))  # pixel_flags are a column of float32
    return spectrum


def _mwm_survey(hdu: Any) -> str:
    instrument = str(hdu.header.get("INSTRMNT", hdu.name)).strip().lower()
    for survey in ("boss", "apogee"):
        if instrument.startswith(survey):
            return survey
    raise ValueError(f"INSTRMNT or EXTNAME must name BOSS or APOGEE, found {instrument!r}: the file is damaged")


def _mwm_loglam(hdu: Any, row: int) -> np.ndarray:
    """Wavelengths in log10 Å, shape (L,): of the header, or (older files) of a column of float32."""
    header = hdu.header
    if {"CRVAL", "CDELT", "NPIXELS"} <= set(header):
        return header["CRVAL"] + header["CDELT"] * np.arange(header["NPIXELS"])
    if "wavelength" in column_names(hdu):
        return np.log10(np.asarray(hdu.data["wavelength"][row], dtype=np.float64))
    raise ValueError(f"{hdu.name} needs CRVAL, CDELT and NPIXELS, or a column wavelength, found neither")


# Shared -------------------------------------------------------------------------------------------


def _flag_bits(spectrum: Spectrum, bits: np.ndarray) -> None:
    """Mark the pixels with a bit that makes them bad, and no others.

    The pipeline's own choice (badval 16639): the other bits are warnings. Any bit would throw away 27-63 % of the
    chip pixels of 3 real apStar files, these take 0.5-2.6 %.
    """
    bits = bits.astype(np.int64)
    for name, bit in SURVEYS[str(spectrum.survey)].bad_bits.items():
        spectrum.flag(bits >> bit & 1, name)


def _labels(record: Mapping[str, Any]) -> dict[str, Any]:
    labels = find_labels(record, SURVEYS["apogee"].label_columns)
    return {label: value for label, value in labels.items() if value != MISSING_VELOCITY}


def _cards(header: Any) -> dict[str, Any]:
    """The cards that identifiers and labels are taken from; other ones are not touched.

    Some are not FITS: "AKWISE = NAN" stands in the real aspcapStar files. They count as missing.
    """
    from astropy.io.fits import VerifyError

    cards = {}
    for name in _known_names() & set(header):
        with suppress(VerifyError):
            cards[name] = header[name]
    return cards


def _known_names() -> set[str]:
    groups = (*SURVEYS["apogee"].label_columns.values(), *VISIT_NAMES)
    return {*STAR_NAMES, "SDSS_ID", *(name for names in groups for name in names)}


def _star_id(record: Mapping[str, Any]) -> str | None:
    """The star's APOGEE id, as 2M00452143+1634446."""
    return next((found for name in STAR_NAMES if (found := _text(record.get(name)))), None)


def _visit_id(record: Mapping[str, Any], star: str | None = None) -> str | None:
    """The star's id, plate or field, day and fibre: 2M00452143+1634446-6561-56587-131."""
    parts = [star or _star_id(record)]
    for names in VISIT_NAMES:
        parts.append(next((found for name in names if (found := _text(record.get(name)))), None))
    return "-".join(part for part in parts if part) or None


def _text(value: Any) -> str | None:
    value = plain_label(value)
    return None if value is None else str(value).strip()


LAYOUTS = {
    "apstar": Layout(
        "apStar or asStar, images of flux, error, mask, ... of 8575 pixels, CRVAL1 4.179; the combined row is read",
        _fits_apstar,
        _read_apstar,
        _has_apogee_grid,
    ),
    "aspcapstar": Layout(
        "aspcapStar, images of normalised flux, error, model of 8575 pixels, CRVAL1 4.179",
        _fits_aspcapstar,
        _read_aspcapstar,
        _has_apogee_grid,
    ),
    "apvisit": Layout(
        "apVisit or asVisit, images of flux, error, mask, wavelength, ... with a row for each of 3 chips",
        _fits_apvisit,
        _read_apvisit,
        _is_apvisit,
    ),
    "mwmstar": Layout(
        "mwmStar or mwmVisit, tables BOSS/APO, BOSS/LCO, APOGEE/APO, APOGEE/LCO of flux, ivar, pixel_flags",
        _fits_mwm,
        _read_mwm,
        _is_mwm,
    ),
}

__all__ = ["LAYOUTS"]
