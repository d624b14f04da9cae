"""Fixtures that all tests may use."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spectok_hf import Spectrum


@pytest.fixture(scope="session")
def spectra_dir() -> Path:
    """The folder of real spectra; tests that need it skip where it is absent."""
    given = os.environ.get("SPECTOK_SPECTRA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "spectra"
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real spectra at {folder}: set SPECTOK_SPECTRA to their folder")
    return folder


@pytest.fixture(scope="session")
def write_sdss_file() -> Callable[[Spectrum, Path], str]:
    """Writes a spectrum as an SDSS spec-lite file into a folder and gives its path; the test needs astropy."""
    fits = pytest.importorskip("astropy.io.fits")

    def write(spectrum: Spectrum, folder: Path) -> str:
        table = fits.BinTableHDU.from_columns(
            [
                fits.Column("flux", "E", array=spectrum.flux),
                fits.Column("loglam", "E", array=np.log10(spectrum.wavelength)),
                fits.Column("ivar", "E", array=spectrum.ivar),
                fits.Column("and_mask", "J", array=spectrum.mask.astype(np.int32) << 23),  # BRIGHTSKY
            ]
        )
        primary = fits.PrimaryHDU()
        primary.header["PLATEID"], primary.header["MJD"] = 266, 51602
        primary.header["FIBERID"] = int(spectrum.object_id.rsplit("-")[-1])
        path = folder / f"{spectrum.object_id}.fits"
        fits.HDUList([primary, table]).writeto(path)
        return str(path)

    return write
