"""SDSS, BOSS and eBOSS: spec and spec-lite files."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...models.spectrum import Spectrum
from ..surveys import SURVEYS
from .layout import Layout, ReadOptions, column_names, find_labels, find_table, log_grid, survey_facts


def _sdss_coadd(hdus: Any) -> Any:
    return find_table(hdus, "flux", "loglam", "ivar", "and_mask")


def _read_sdss(hdus: Any, options: ReadOptions) -> list[Spectrum]:
    coadd = _sdss_coadd(hdus).data
    if not len(coadd):
        raise ValueError("the file holds no spectrum: its table has no rows")
    record = _sdss_record(hdus)
    wavelength = log_grid(coadd["loglam"])
    survey = _sdss_survey(record, wavelength)
    spectrum = Spectrum(
        coadd["flux"],
        wavelength,
        coadd["ivar"],
        object_id=_sdss_object_id(record),
        labels=find_labels(record, SURVEYS["sdss"].label_columns),
        **survey_facts(survey),
    )
    # The pipeline has set ivar = 0 for its very bad conditions. Of the bits, only bright sky is obeyed: those of the
    # fibre (0-15) flag half or all of a good spectrum (46-99.7 % in 5 of 71 files).
    for name, bit in SURVEYS[survey].bad_bits.items():
        spectrum.flag((np.asarray(coadd["and_mask"], dtype=np.int64) >> bit & 1).astype(bool), name)
    return [spectrum]


def _sdss_record(hdus: Any) -> dict[str, Any]:
    """The row of SPECOBJ or SPALL, by lower-case column; without it what the primary header says."""
    names = (
        "plate",
        "mjd",
        "fiberid",
        "run2d",
        "instrument",
        *(name for (name,) in SURVEYS["sdss"].label_columns.values()),
    )
    header = hdus[0].header
    record = {"plate": header.get("PLATEID"), "mjd": header.get("MJD"), "fiberid": header.get("FIBERID")}
    record["run2d"] = header.get("RUN2D", "")
    table = find_table(hdus, "class", "z")
    if table is not None and len(table.data):
        record |= {name: table.data[name][0] for name in names if name in column_names(table)}
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


LAYOUTS = {
    "sdss": Layout(
        "spec and spec-lite, a table of flux, loglam, ivar, and_mask",
        lambda hdus: _sdss_coadd(hdus) is not None,
        _read_sdss,
    ),
}

__all__ = ["LAYOUTS"]
