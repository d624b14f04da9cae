"""Small copies of the Multimodal Universe's layouts, from spectra of ours, with all that is odd about the real ones.

As there, the other generations are made from the columns of v1. What nobody knows of a spectrum (photometry, errors
of labels) is NaN, an unknown ZWARN -9999, or null where the column is a boolean. DESI's `spectrum_lsf` (ten times the
size of the rest) and most columns of the catalogues that no loader gives are left out.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..models.spectrum import Spectrum, check_choice
from ..models.wavelength import LIGHT_SPEED
from .multimodal_universe_facts import (
    FINE_ORDER,
    GALAH_SHIFT,
    GENERATIONS,
    HEALPIX_ORDER,
    UNIVERSE_SURVEYS,
    VIPERS_UNIT,
    arm_slices,
    nested_pixel,
    shift_arms,
)
from .surveys import SURVEYS

Columns = dict[str, Any]
SUBSETS = {
    "sdss": "sdss",
    "boss": "boss",
    "desi": "dr1_main",
    "galah": "dr3",
    "apogee": "apogee",
    "vipers": "vipers_w1",
}
LEAST_IVAR = 1e-6  # below it (in the survey's unit) the builders mask a pixel, however bright the star
UNKNOWN = -9999  # of an integer column
VIPERS_BAD = 2  # one of the codes of its mask
SIGMA = 2.3548  # full width at half maximum of a Gaussian over its standard deviation
BANDS = ("U", "G", "R", "I", "Z")
DESI_PHOTOMETRY = [f"{flux}_{band}" for flux in ("FLUX", "FLUX_IVAR", "FIBERFLUX", "FIBERTOTFLUX") for band in "GRZ"]
SDSS_PHOTOMETRY = ("SPECTROFLUX", "SPECTROFLUX_IVAR", "SPECTROSYNFLUX", "SPECTROSYNFLUX_IVAR")

# Catalogue columns of v1: the label they hold ("" = nothing that we know), and their type.
_SDSS = {
    "Z": ("redshift", ">f4"),
    "ZWARNING": ("zwarn", ">i4"),
    "CLASS": ("class", "S6"),
    "SUBCLASS": ("subclass", "S21"),
}
_SDSS |= {"SN_MEDIAN_ALL": ("snr", ">f4"), "PLUG_RA": ("ra", ">f8"), "PLUG_DEC": ("dec", ">f8")}
_SDSS |= dict.fromkeys(("Z_ERR", "VDISP", "VDISP_ERR"), ("", ">f4"))
CATALOGUES: dict[str, dict[str, tuple[str, str]]] = {
    "sdss": _SDSS,
    "boss": _SDSS,
    "desi": {"Z": ("redshift", ">f8"), "ZERR": ("", ">f8"), "ZWARN": ("zwarn", ">i8"), "SPECTYPE": ("class", "S6")}
    | dict.fromkeys(("EBV", *DESI_PHOTOMETRY), ("", ">f4")),
    "galah": {"teff": ("teff", ">f4"), "logg": ("logg", ">f4"), "fe_h": ("feh", ">f4"), "rv": ("rv", ">f4")},
    "apogee": {name: (name, ">f4") for name in ("teff", "logg", "m_h", "snr")}
    | {"fe_h": ("feh", ">f4"), "radial_velocity": ("rv", ">f4")}
    | dict.fromkeys(("alpha_m", "teff_err", "logg_err", "m_h_err", "alpha_m_err"), ("", ">f4")),
    # REDFLAG of the files is not the flag of the redshift, but the redshift once more.
    "vipers": dict.fromkeys(("redshift", "z", "redflag"), ("redshift", "f8"))
    | dict.fromkeys(("exptime", "norm", "mag"), ("", "f8")),
}
# Columns that the loaders give beside the spectrum: of v1, and as they are called in HATS.
_SDSS_LOADED = ("VDISP", "VDISP_ERR", "Z", "Z_ERR", *(f"{name}_{band}" for name in SDSS_PHOTOMETRY for band in BANDS))
LOADED = {
    "sdss": _SDSS_LOADED,
    "boss": _SDSS_LOADED,
    "desi": ("Z", "ZERR", "EBV", *DESI_PHOTOMETRY),
    "galah": ("ra", "dec", "teff", "logg", "fe_h", "rv"),
    "apogee": ("teff", "logg", "m_h", "alpha_m", "teff_err", "logg_err", "m_h_err", "alpha_m_err", "radial_velocity"),
    "vipers": ("ra", "dec", "redshift", "redflag", "exptime", "norm", "mag"),
}
QUALITY = {"sdss": "ZWARNING", "boss": "ZWARNING", "desi": "ZWARN"}


def write_universe(
    spectra: Iterable[Spectrum],
    folder: str | Path,
    *,
    generation: str,
    survey: str | None = None,
    rows_per_file: int = 1000,
) -> list[Path]:
    """Write spectra as a small copy of a generation of the Multimodal Universe, with its errors.

    | generation | files below `folder` |
    |---|---|
    | "v1" | SUBSET/healpix=N/001-of-001.hdf5 (VIPERS .h5), more where a pixel has more than `rows_per_file` rows |
    | "preview" | data/train-00000-of-00002.parquet, ... |
    | "hats" | mmu_SURVEY_SUBSET/dataset/Norder=K/Dir=D/Npix=N.parquet, with hats.properties and partition_info.csv |

    HEALPix pixels (nside 16, and finer ones where HATS would have more than `rows_per_file` rows) are those of the
    labels `ra` and `dec`. A spectrum without them has NaN there, and stands in pixel -1, which no real file has. The
    layouts lose some of a spectrum: good pixels with ivar up to 1e-6 are masked (SDSS, DESI, APOGEE), GALAH has no
    mask and no information where flux <= 0, preview and hats have fewer labels, and texts are cut (class after 6,
    SDSS's subclass after 21 characters). All spectra are held in memory.

    Args:
        spectra: The spectra, of one survey; their order is kept within a file.
        folder: Where to write; made where it is absent.
        generation: "v1", "preview" or "hats"; GALAH was never published as "hats".
        survey: Whose layout, a name of `UNIVERSE_SURVEYS`; absent = that of the spectra.
        rows_per_file: Greatest number of rows in a file.

    Returns:
        The files with spectra, in order of their names. A file takes its name when it is complete.

    Raises:
        ValueError: If there is no spectrum, they are of several surveys or of one that has no such layout, medium,
            frame or flux_unit are not the survey's, which no layout states, or a file is there already.
    """
    spectra = list(spectra)
    check_choice("generation", generation, GENERATIONS)
    survey = _check_survey(spectra, survey, generation)
    if rows_per_file < 1:
        raise ValueError(f"rows_per_file must be at least 1, found {rows_per_file}")
    folder = Path(folder).expanduser()
    parts = _PARTITIONS[generation](spectra, folder, survey, rows_per_file)
    texts = _catalogue_texts(folder, survey, parts, len(spectra)) if generation == "hats" else {}
    if there := [path for path in (*parts, *texts) if path.exists()]:
        raise ValueError(f"{there[0]} is there already, and is not overwritten: choose another folder")
    for path, rows in parts.items():
        columns = _v1_columns([spectra[row] for row in rows], survey)
        if generation == "v1":
            _write(path, _write_hdf5, columns)
        else:
            _write(path, _write_parquet, _arrow_table(columns, survey, generation))
    for path, text in texts.items():
        _write(path, Path.write_text, text)
    return sorted(parts)


def _check_survey(spectra: list[Spectrum], survey: str | None, generation: str) -> str:
    if not spectra:
        raise ValueError("write_universe needs at least one spectrum, found none")
    found = sorted({str(spectrum.survey) for spectrum in spectra})
    if survey is None and len(found) > 1:
        raise ValueError(
            f"the spectra must be of one survey, found {', '.join(found)}: write each into its own folder"
        )
    survey = survey or found[0]
    check_choice("survey", survey, UNIVERSE_SURVEYS)
    if survey == "galah" and generation == "hats":
        raise ValueError('GALAH must be written as "v1" or "preview": it was never published as "hats"')
    for number, spectrum in enumerate(spectra):
        _check_facts(number, spectrum, survey)
    return survey


def _check_facts(number: int, spectrum: Spectrum, survey: str) -> None:
    """Refuse what would read back as another thing: the layouts do not state it, the survey does."""
    facts = SURVEYS[survey]
    expected = {"survey": survey, "medium": facts.medium, "frame": facts.frame, "flux_unit": facts.flux_unit}
    for name, value in expected.items():
        found = getattr(spectrum, name)
        if found is not None and found != value:
            raise ValueError(
                f"{name} of {survey} must be {value!r}, found {found!r} in spectrum {number} ({spectrum.name}), which "
                "would be lost: convert it, or set it where it is wrong"
            )


# Where rows stand ------------------------------------------------------------------------------------


def _positions(spectra: list[Spectrum]) -> tuple[np.ndarray, np.ndarray]:
    ra, dec = ([float(spectrum.labels.get(name, np.nan)) for spectrum in spectra] for name in ("ra", "dec"))
    return np.array(ra), np.array(dec)


def _v1_parts(spectra: list[Spectrum], folder: Path, survey: str, size: int) -> dict[Path, list[int]]:
    pixels = nested_pixel(*_positions(spectra), HEALPIX_ORDER)
    suffix = ".h5" if survey == "vipers" else ".hdf5"
    parts = {}
    for pixel in np.unique(pixels):
        chunks = _chunks(np.flatnonzero(pixels == pixel), size)
        for number, rows in enumerate(chunks, start=1):
            name = f"{number:03d}-of-{len(chunks):03d}{suffix}"
            parts[folder / SUBSETS[survey] / f"healpix={pixel}" / name] = rows
    return parts


def _preview_parts(spectra: list[Spectrum], folder: Path, survey: str, size: int) -> dict[Path, list[int]]:
    chunks = _chunks(np.arange(len(spectra)), size)
    return {
        folder / "data" / f"train-{number:05d}-of-{len(chunks):05d}.parquet": rows
        for number, rows in enumerate(chunks)
    }


def _chunks(rows: np.ndarray, size: int) -> list[list[int]]:
    return [rows[start : start + size].tolist() for start in range(0, len(rows), size)]


def _hats_parts(spectra: list[Spectrum], folder: Path, survey: str, size: int) -> dict[Path, list[int]]:
    fine = nested_pixel(*_positions(spectra), FINE_ORDER)
    dataset = folder / _catalogue_name(survey) / "dataset"
    return {
        dataset / f"Norder={order}" / f"Dir={max(pixel, 0) // 10_000 * 10_000}" / f"Npix={pixel}.parquet": rows
        for order, pixel, rows in _split_sky(fine, np.arange(len(fine)), HEALPIX_ORDER, size)
    }


def _split_sky(fine: np.ndarray, rows: np.ndarray, order: int, size: int) -> Iterator[tuple[int, int, list[int]]]:
    """Pixels with at most `size` rows each, as coarse as can be, in order of position; at worst the finest."""
    pixels = fine[rows] >> 2 * (FINE_ORDER - order)
    for pixel in np.unique(pixels):
        own = rows[pixels == pixel]
        if len(own) <= size or order == FINE_ORDER or pixel < 0:
            yield order, int(pixel), own.tolist()
        else:
            yield from _split_sky(fine, own, order + 1, size)


_PARTITIONS: dict[str, Callable[[list[Spectrum], Path, str, int], dict[Path, list[int]]]] = {
    "v1": _v1_parts,
    "preview": _preview_parts,
    "hats": _hats_parts,
}


def _catalogue_name(survey: str) -> str:
    return f"mmu_{'sdss' if survey == 'boss' else survey}_{SUBSETS[survey].removeprefix('vipers_')}"


def _catalogue_texts(folder: Path, survey: str, parts: Mapping[Path, list[int]], count: int) -> dict[Path, str]:
    root = folder / _catalogue_name(survey)
    pixels = [(int(path.parent.parent.name[7:]), int(path.stem[5:]), len(rows)) for path, rows in parts.items()]
    properties = {
        "obs_collection": root.name,
        "dataproduct_type": "object",
        "hats_nrows": count,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_order": max(order for order, _, _ in pixels),
        "hats_npix_suffix": ".parquet",
    }
    table = ["Norder,Npix,num_rows", *(",".join(map(str, pixel)) for pixel in pixels)]
    return {
        root / "hats.properties": "".join(f"{name}={value}\n" for name, value in properties.items()),
        root / "partition_info.csv": "\n".join(table) + "\n",
    }


# Columns of v1 ---------------------------------------------------------------------------------------


def _v1_columns(spectra: list[Spectrum], survey: str) -> Columns:
    ra, dec = _positions(spectra)
    columns = {"object_id": _identifiers(spectra, survey), "ra": ra, "dec": dec}
    columns["healpix"] = nested_pixel(ra, dec, HEALPIX_ORDER)
    columns |= {
        name: _catalogue_column([spectrum.labels.get(label) for spectrum in spectra], np.dtype(kind))
        for name, (label, kind) in CATALOGUES[survey].items()
    }
    if survey in ("sdss", "boss"):
        columns["SURVEY"] = np.full(len(spectra), f"{survey:6}".encode())
        columns |= {name: np.full((len(spectra), len(BANDS)), np.nan, ">f4") for name in SDSS_PHOTOMETRY}
    return columns | _PIXELS[survey](spectra)


def _catalogue_column(values: list[Any], kind: np.dtype) -> np.ndarray:
    missing: Any = {"f": np.nan, "i": UNKNOWN, "S": b""}[kind.kind]
    known = [missing if value is None or value != value else value for value in values]
    if kind.kind == "S":  # padded with spaces, as in FITS tables
        known = [str(value).ljust(kind.itemsize).encode() if value else value for value in known]
    return np.array(known, dtype=kind)


def _identifiers(spectra: list[Spectrum], survey: str) -> np.ndarray:
    texts = [spectrum.object_id or "" for spectrum in spectra]
    if all(text.isdecimal() and text == str(int(text)) and int(text) < 2**63 for text in texts):
        if survey in ("desi", "galah"):
            return np.array([int(text) for text in texts], dtype=">i8")
        if survey == "vipers" and all(int(text) < 2**53 for text in texts):
            return np.array([float(text) for text in texts])
    width = 22 if survey in ("sdss", "boss") else 0
    return np.array([text.rjust(width).encode() for text in texts])


def _pad(rows: Iterable[Any], fill: float | bool | None = None, dtype: Any = np.float32) -> np.ndarray:
    """Rows as long as the longest, shape (n, L), the end filled with a value, or (None) with the last pixel's."""
    arrays = [np.asarray(row, dtype=dtype) for row in rows]
    longest = max(map(len, arrays))
    how: dict[str, Any] = {"mode": "edge"} if fill is None else {"constant_values": fill}
    return np.stack([np.pad(array, (0, longest - len(array)), **how) for array in arrays])


def _plain_pixels(spectra: list[Spectrum]) -> Columns:
    """What SDSS, DESI and APOGEE share."""
    return {
        "spectrum_lambda": _pad((s.wavelength for s in spectra), -1),
        "spectrum_flux": _pad(s.flux for s in spectra),
        "spectrum_ivar": _pad((s.ivar for s in spectra), 0),
        "spectrum_mask": _pad((s.mask | (s.ivar <= LEAST_IVAR) for s in spectra), True, bool),
    }


def _sdss_pixels(spectra: list[Spectrum]) -> Columns:
    sigma = 1 / (SURVEYS["sdss"].resolving_power * SIGMA * np.log(10) * 1e-4)  # in pixels of 1e-4 dex
    return _plain_pixels(spectra) | {"spectrum_lsf_sigma": _pad(np.full(len(s), sigma) for s in spectra)}


def _desi_pixels(spectra: list[Spectrum]) -> Columns:
    return _plain_pixels(spectra) | {"spectrum_lsf_sigma": _pad(np.full(len(s), 0.87) for s in spectra)}


def _apogee_pixels(spectra: list[Spectrum]) -> Columns:
    """Wavelengths of a float32 logarithm, in steps of 0.198 to 0.244 Å; a line spread in Å, constant per chip."""
    logarithms = (np.log10(s.wavelength).astype(np.float32) for s in spectra)
    chips = [np.digitize(s.wavelength, (15_830.0, 16_450.0)) for s in spectra]
    levels = [float(np.median(np.abs(s.flux))) or 1.0 for s in spectra]
    return _plain_pixels(spectra) | {
        "spectrum_lambda": _pad((10.0**logarithm for logarithm in logarithms), -1),
        "spectrum_lsf_sigma": _pad((np.array([0.326, 0.283, 0.236])[chip] for chip in chips), 0),
        "spectrum_pseudo_continuum_flux": _pad((s.flux / n for s, n in zip(spectra, levels, strict=True)), 0),
        "spectrum_pseudo_continuum_ivar": _pad((s.ivar * n**2 for s, n in zip(spectra, levels, strict=True)), 0),
        "restframe": np.ones(len(spectra), dtype=bool),
    }


def _galah_pixels(spectra: list[Spectrum]) -> Columns:
    """Relative errors, 0 where there is no information, made inverse variances as the builder does: infinite there."""
    rows = [_galah_row(spectrum) for spectrum in spectra]
    fills = dict.fromkeys(rows[0], 0.0) | {"spectrum_lambda": -1.0, "spectrum_norm_lambda": -1.0}
    columns: Columns = {name: _pad((row[name] for row in rows), fill) for name, fill in fills.items()}
    arms = [_galah_arms(spectrum.wavelength) for spectrum in spectra]
    for number, band in enumerate("BGRI"):
        columns[f"spectrum_{band}_ind_start"] = np.array([arm[number].start for arm in arms])
        columns[f"spectrum_{band}_ind_end"] = np.array([arm[number].stop - 1 for arm in arms])
    return columns


def _galah_row(spectrum: Spectrum) -> Columns:
    flux, wavelength = spectrum.flux, shift_arms(spectrum.wavelength, GALAH_SHIFT)
    known = spectrum.good & (flux > 0)
    relative = np.zeros(len(flux), dtype=np.float32)
    relative[known] = 1 / (flux[known] * np.sqrt(spectrum.ivar[known], dtype=np.float64))
    level = np.ones(len(flux), dtype=np.float32)
    for arm in arm_slices(spectrum.wavelength):
        level[arm] = abs(float(np.median(flux[arm]))) or 1.0
    rest = 1 + float(spectrum.labels.get("rv") or 0.0) / LIGHT_SPEED
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return {
            "spectrum_lambda": wavelength,
            "spectrum_flux": flux,
            "spectrum_ivar": 1 / np.power(flux * relative, 2),
            "spectrum_lsf_sigma": np.full(len(flux), 1.6),
            "spectrum_norm_lambda": wavelength / rest,
            "spectrum_norm_flux": flux / level,
            "spectrum_norm_ivar": 1 / np.power(flux / level * relative, 2),
        }


def _galah_arms(wavelength: np.ndarray) -> list[slice]:
    """Pixels of each of the four detectors, empty where it is missing."""
    arms, first = SURVEYS["galah"].arms, 0
    slices = []
    for low, high in zip(arms, [*arms[1:], None], strict=True):
        border = np.inf if high is None else (low.start + low.step * low.pixels + high.start) / 2
        stop = int(np.searchsorted(wavelength, border))
        slices.append(slice(first, stop))
        first = stop
    return slices


def _vipers_pixels(spectra: list[Spectrum]) -> Columns:
    known = [np.where(s.ivar > 0, s.ivar, np.inf).astype(np.float64) for s in spectra]
    return {
        "spectrum_wave": _pad((s.wavelength for s in spectra), -1),
        "spectrum_flux": _pad((np.float64(s.flux) / VIPERS_UNIT for s in spectra), 0),
        "spectrum_noise": _pad((ivar**-0.5 / VIPERS_UNIT for ivar in known), 0),
        "spectrum_mask": _pad((s.mask * VIPERS_BAD for s in spectra), VIPERS_BAD),
    }


_PIXELS: dict[str, Callable[[list[Spectrum]], Columns]] = {
    "sdss": _sdss_pixels,
    "boss": _sdss_pixels,
    "desi": _desi_pixels,
    "galah": _galah_pixels,
    "apogee": _apogee_pixels,
    "vipers": _vipers_pixels,
}


# Parquet ---------------------------------------------------------------------------------------------


def _arrow_table(v1: Columns, survey: str, generation: str) -> Any:
    """The table that the v1 loader, or the transformer to HATS, makes of the columns of v1."""
    import pyarrow as pa

    hats = generation == "hats"
    columns: Columns = {}
    if hats:
        columns["_healpix_29"] = pa.array(nested_pixel(v1["ra"], v1["dec"], FINE_ORDER))
    columns["spectrum"] = _struct(_loaded_pixels(v1, survey), fixed=survey == "desi" and not hats)
    for name in LOADED[survey]:
        shown = name.upper() if hats and survey == "vipers" and name not in ("ra", "dec") else name
        kind = np.float64 if survey == "vipers" and (not hats or name in ("ra", "dec")) else np.float32
        columns[shown] = pa.array(_loaded_column(v1, name).astype(kind))
    if hats:
        columns |= {name: pa.array(v1[name]) for name in ("ra", "dec", "healpix")}
    if survey in QUALITY:
        inverted = survey == "desi" and not hats
        flags = [None if flag == UNKNOWN else bool(flag) != inverted for flag in v1[QUALITY[survey]].tolist()]
        columns[QUALITY[survey]] = pa.array(flags, pa.bool_())
    if survey == "galah":
        columns |= {"filter_indices": _galah_indices(v1), "healpix": pa.array(v1["healpix"].astype(np.int32))}
        columns["flux_unit"] = pa.array(["erg/cm^2/A/s"] * len(v1["ra"]))  # they are counts
    if survey == "apogee":
        columns["restframe"] = pa.array([None] * len(v1["ra"]), pa.bool_())  # never yielded
    columns["object_id"] = pa.array([str(value) for value in v1["object_id"]])
    return pa.table(columns)


def _loaded_column(v1: Columns, name: str) -> np.ndarray:
    if name in v1:
        return v1[name]
    photometry, _, band = name.rpartition("_")
    return v1[photometry][:, BANDS.index(band)]


def _loaded_pixels(v1: Columns, survey: str) -> Columns:
    pixels = {name.removeprefix("spectrum_"): values for name, values in v1.items() if _is_pixels(name, values)}
    if survey != "vipers":
        return pixels
    with np.errstate(divide="ignore", over="ignore"):
        ivar = 1 / (pixels["noise"] * VIPERS_UNIT**2)  # should be squared
    flux = (pixels["flux"] * VIPERS_UNIT).astype(np.float32)
    return {"flux": flux, "ivar": ivar.astype(np.float32), "lambda": pixels["wave"], "mask": pixels["mask"]}


def _is_pixels(name: str, values: np.ndarray) -> bool:
    return name.startswith("spectrum_") and values.ndim == 2


def _struct(pixels: Columns, fixed: bool) -> Any:
    import pyarrow as pa

    arrays = []
    for values in pixels.values():
        count, length = values.shape
        flat = pa.array(values.reshape(-1))
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * length)
        arrays.append(
            pa.FixedSizeListArray.from_arrays(flat, length) if fixed else pa.ListArray.from_arrays(offsets, flat)
        )
    return pa.StructArray.from_arrays(arrays, names=list(pixels))


def _galah_indices(v1: Columns) -> Any:
    import pyarrow as pa

    names = [f"{band}_{end}" for band, end in itertools.product("BGRI", ("start", "end"))]
    values = [v1[f"spectrum_{name.replace('_', '_ind_')}"].astype(np.int32) for name in names]
    return pa.StructArray.from_arrays([pa.array(column) for column in values], names=names)


# Files -----------------------------------------------------------------------------------------------


def _write(path: Path, write: Callable[[Path, Any], Any], content: Any) -> None:
    """Write a file below another name, which it loses when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary, content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_hdf5(path: Path, columns: Columns) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values)


def _write_parquet(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path)


__all__ = ["write_universe"]
