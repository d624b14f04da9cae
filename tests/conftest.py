"""Fixtures that all tests may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def spectra_dir() -> Path:
    """The folder of real spectra; tests that need it skip where it is absent."""
    given = os.environ.get("SPECTOK_SPECTRA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "spectra"
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real spectra at {folder}: set SPECTOK_SPECTRA to their folder")
    return folder
