"""`examples/real_spectra.py`: the catalogue of real spectra as Parquet files, with its labels."""

import csv
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spectok_hf import read_spectra
from spectok_hf.data.dataset import object_groups
from spectok_hf.data.spectrum_files import write_spectra

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
pytest.importorskip("astropy")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(EXAMPLES))
    import real_spectra

    yield real_spectra
    sys.path.remove(str(EXAMPLES))
    del sys.modules["real_spectra"]


@pytest.fixture(scope="module")
def spectra(script, spectra_dir):
    return script.load_real_spectra(spectra_dir)


def test_every_spectrum_of_the_manifest_is_there(spectra, spectra_dir):
    with (spectra_dir / "MANIFEST.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = Counter(spectrum.survey for spectrum in spectra)
    expected = {"boss": 57, "sdss": 14, "lamost": 125, "galah": 39, "apogee-normalised": 18, "apogee-visit": 4}
    assert found.items() >= (expected | {"apogee": 19, "apogee-giants": 463}).items()
    assert len(spectra) >= len([row for row in rows if "CONTINUOUS" not in row["path"]]) - 1  # the sampled csv = fits


def test_labels_are_the_manifest_s(spectra):
    giant = next(spectrum for spectrum in spectra if spectrum.survey == "apogee-giants")
    assert giant.labels["teff"] == 5017.9 and giant.labels["class"] == "STAR"
    quasars = [s for s in spectra if s.survey == "desi" and s.labels.get("class") == "QSO"]
    assert sorted(round(s.labels["redshift"], 3) for s in quasars) == [2.117, 2.225, 2.229, 2.999, 3.036]


def test_the_order_of_the_manifest_does_not_matter(script, tmp_path, spectra_dir):
    name = "apogee/annieslasso_671giants_100px.npz"
    with (spectra_dir / "MANIFEST.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["path"] == name]
    (tmp_path / "apogee").mkdir()
    (tmp_path / name).symlink_to(spectra_dir / name)
    with (tmp_path / "MANIFEST.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows[1:], rows[0]])
    loaded = script.load_real_spectra(tmp_path)
    assert [s.labels["teff"] for s in loaded] == [float(row["teff"]) for row in rows]


def test_a_star_s_products_are_one_object(spectra):
    stars = [s for s in spectra if s.survey.startswith("apogee") and s.survey != "apogee-giants"]
    groups = object_groups(stars)
    of_star = {group for star, group in zip(stars, groups, strict=True) if "00452143+1634446" in star.object_id}
    assert len(of_star) == 1
    assert len(set(groups)) < len(stars)


def test_parquet_gives_them_back(script, spectra, tmp_path):
    chosen = [next(s for s in spectra if s.survey == name) for name in ("boss", "galah", "apogee-giants")]
    write_spectra(chosen, tmp_path / "some.parquet", labels=script.KEPT_LABELS)
    for before, after in zip(chosen, read_spectra(tmp_path / "some.parquet"), strict=True):
        assert (before.survey, before.medium, before.frame) == (after.survey, after.medium, after.frame)
        assert after.labels.items() <= before.labels.items()
        for name in ("flux", "wavelength", "ivar", "mask"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
