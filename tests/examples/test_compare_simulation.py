"""`examples/compare_simulation.py`: who stands beside whom, what features measure, and what the judge says."""

import sys
from pathlib import Path

import numpy as np
import pytest

from spectok_hf import Spectrum, simulate_survey

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib").use("agg")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.delenv("SPECTOK_SPECTRA", raising=False)
    import compare_simulation

    yield compare_simulation
    for name in ("compare_simulation", "contact_sheets", "drawn_spectra", "real_spectra"):
        sys.modules.pop(name, None)


def test_smoke(script, tmp_path, capsys):
    script.run(script.parse_arguments(["--smoke", "--output", str(tmp_path)]))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["lamost_star_simulated.png", "table.csv", "table.md"]
    printed = capsys.readouterr().out
    assert all(f"| lamost | STAR | simulated | 20 | {level} |" in printed for level in script.LEVELS)


def test_without_spectra_it_says_what_to_pass(script):
    args = script.parse_arguments([])
    args.spectra = None
    with pytest.raises(SystemExit, match="pass --spectra FOLDER"):
        script.run(args)


def test_partners_have_the_signal_to_noise_and_the_nearest_labels(script):
    real = simulate_survey("boss", 4, seed=9, kind="QSO", snr=12)
    others, partners = script.simulated_beside(real, "boss", "QSO", per_real=2, candidates=10, seed=0)
    assert len({spectrum.object_id for spectrum in others}) == 8 and list(partners) == [0, 1, 2, 3] * 2
    for spectrum, place in zip(others, partners, strict=True):
        assert spectrum.labels["snr"] == script.signal_to_noise(real[place])
        assert script.label_distance(real[place].labels, spectrum.labels) < 60


def test_a_product_with_a_part_of_the_grid_is_compared_with_that_part(script):
    whole = simulate_survey("apogee", 1, seed=1)[0]
    part = Spectrum(np.ones(100), whole.wavelength[50:150], np.full(100, 1e4), survey="apogee-giants")
    others, _ = script.simulated_beside([part], "apogee", "STAR", per_real=1, candidates=1, seed=0)
    np.testing.assert_array_equal(others[0].wavelength, part.wavelength)
    assert np.median(others[0].flux) == pytest.approx(1, abs=0.2)


def test_noise_is_measured_as_it_was_made(script):
    rng, size = np.random.default_rng(0), 4000
    wavelength = 10 ** (3.6 + 1e-4 * np.arange(size))
    white = Spectrum(100 + 2 * rng.normal(size=size), wavelength, np.full(size, 0.25), survey="sdss")
    features = script.pixel_features([white])
    row = dict(zip(features.names, features.values[0], strict=True))
    assert row["noise over error"] == pytest.approx(1, abs=0.06)
    assert row["noise at 1 px over 2 px"] == pytest.approx(1, abs=0.1)
    assert row["share without data"] == row["bad runs"] == 0
    white.ivar[100:110] = 0
    row = dict(zip(features.names, script.pixel_features([white]).values[0], strict=True))
    assert (row["bad runs"], row["longest bad run"]) == (1, 10)


def test_halves_are_alike_and_what_differs_is_told_apart(script):
    spectra = simulate_survey("boss", 30, seed=2, kind="QSO", snr=5)
    alike = script.Group("boss", "QSO", "simulated", spectra[:15], spectra[15:], np.arange(15))
    other = simulate_survey("boss", 15, seed=3, kind="QSO", snr=5, honest=True)
    unlike = script.Group("boss", "QSO", "simulated", spectra[:15], other, np.arange(15))
    areas = [script.judge(group, 20)[0][0]["AUC"] for group in (alike, unlike)]
    assert 0.15 < areas[0] < 0.85 and areas[1] > 0.95


def test_groups_are_one_spectrum_per_object_and_large_enough(script):
    spectra = simulate_survey("lamost", 12, seed=1, kind="STAR", snr=20)
    groups = script.real_groups([*spectra, *spectra, *simulate_survey("sdss", 3)], 11)
    assert {key: len(members) for key, members in groups.items()} == {("lamost", "STAR"): 11}
