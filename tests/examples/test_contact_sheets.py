"""`examples/contact_sheets.py`: what is paired with what, and a sheet of each way to call it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from spectok_hf import simulate_survey

pytest.importorskip("matplotlib").use("agg")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def sheets(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import contact_sheets

    yield contact_sheets
    for name in ("contact_sheets", "real_spectra"):
        sys.modules.pop(name, None)


def test_smoke(sheets, tmp_path, capsys):
    sheets.run(sheets.parse_arguments(["--smoke", "--output_dir", str(tmp_path)]))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["contact_lamost_star.png", "contact_lamost_star_blue.png"]
    assert capsys.readouterr().out.count("wrote") == 2


def test_real_spectra(sheets, spectra_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sheets, "load_real_spectra", lambda folder: _two_galaxies(folder))
    options = ["--spectra", str(spectra_dir), "--output_dir", str(tmp_path), "--rows", "1", "--candidates", "2"]
    sheets.run(sheets.parse_arguments(options))
    assert [path.name for path in tmp_path.iterdir()] == ["contact_sdss_galaxy.png"]


def _two_galaxies(folder):
    """A part of the folder: all of it takes long to read."""
    pytest.importorskip("astropy")
    from spectok_hf import read_spectra

    paths = sorted((folder / "sdss" / "firefly").glob("*.fits*"))[:2]
    return [spectrum for path in paths for spectrum in read_spectra(str(path), progress=False)]


def test_labels_decide_who_is_compared_with_whom(sheets):
    real = simulate_survey("sdss", 1, seed=3, kind="GALAXY", snr=20)
    pair = sheets.simulate_pairs(real, "GALAXY", 8, 0)[0]
    redshifts = [simulate_survey("sdss", 1, seed=seed, kind="GALAXY")[0].labels["redshift"] for seed in range(8)]
    assert pair.labels["redshift"] == real[0].labels["redshift"] == redshifts[3]
    assert pair.labels["snr"] == pytest.approx(sheets.signal_to_noise(real[0]))


def test_nobody_is_used_twice(sheets):
    real = simulate_survey("lamost", 3, seed=5, kind="STAR", snr=30)
    pairs = sheets.simulate_pairs(real, "STAR", 3, 0)
    assert len({spectrum.object_id for spectrum in pairs}) == 3


def test_alike_shapes_are_near(sheets):
    stars = [simulate_survey("galah", 1, seed=seed, snr=200)[0] for seed in range(4)]
    for spectrum in stars:
        distances = sheets.shape_distances(spectrum, stars)
        assert np.argmin(distances) == stars.index(spectrum) and (distances <= 1).all()


def test_label_distance(sheets):
    assert sheets.label_distance({"class": "STAR"}, {"teff": 5000.0}) == 0
    assert sheets.label_distance({"teff": 5150.0}, {"teff": 5000.0}) == pytest.approx(1)
    far = sheets.label_distance({"class": "QSO", "redshift": 2.0}, {"redshift": 1.0})
    assert far == pytest.approx(np.log(1.5) / sheets.REDSHIFT_UNIT)


def test_a_group_is_shown_over_its_range_without_repeats(sheets):
    spectra = simulate_survey("boss", 9, kind="QSO", snr=10)
    chosen = sheets.choose(spectra + spectra, 3)
    redshifts = sorted(spectrum.labels["redshift"] for spectrum in spectra)
    assert [spectrum.labels["redshift"] for spectrum in chosen] == [redshifts[0], redshifts[4], redshifts[8]]


def test_without_spectra_it_says_what_to_pass(sheets, monkeypatch):
    args = sheets.parse_arguments([])
    args.spectra = None
    with pytest.raises(SystemExit, match="pass --spectra FOLDER"):
        sheets.run(args)


def test_pictures_of_all_surveys_are_one_sheet(sheets, tmp_path, monkeypatch):
    Image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(sheets, "DRAWN", sheets.DRAWN[-1:])
    sheets.run(sheets.parse_arguments(["--smoke", "--pictures", "--output_dir", str(tmp_path)]))
    assert [path.name for path in tmp_path.iterdir()] == ["picture_encodings.png"]
    spectrum = simulate_survey("gaia_xp", 1, seed=1000, snr=30)[0]
    drawn = sheets.ENCODINGS["overlap"].draw(spectrum)
    with Image.open(tmp_path / "picture_encodings.png") as image:
        pixels = np.asarray(image)
    corners = np.argwhere((pixels[: -224 + 1, : -224 + 1] == drawn[0, 0]).all(-1))
    assert any(np.array_equal(pixels[row : row + 224, column : column + 224], drawn) for row, column in corners)
