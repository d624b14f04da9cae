"""`examples/drawn_spectra.py`: labels that hold, honest noise, and nothing but the light to tell a class."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from spectok_hf import SURVEYS, Spectrum, read_spectra

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = {  # enough to mix; all of them would take long to read
    "sdss/boss_qso/spec-3655-55240-0138.fits",  # QSO, 0.65
    "sdss/boss_qso/spec-3655-55240-0332.fits",  # QSO, 0.53
    "sdss/boss_qso/spec-3655-55240-0714.fits",  # QSO, 2.22
    "sdss/boss_qso/spec-3655-55240-0114.fits",  # QSO, 2.68
    "sdss/boss_qso/spec-9367-57758-0345.fits",  # QSO, S/N below 1
    "sdss/firefly/spec-0266-51602-0166.fits",  # GALAXY
    "sdss/firefly/spec-0266-51630-0174.fits",  # the same, better
    "sdss/firefly/spec-0266-51602-0001.fits",  # GALAXY
    "sdss/stars/spec-0266-51602-0031.fits",
}
GRIDS = {
    "boss": 10 ** (3.5517 + 1e-4 * np.arange(4620)),
    "apogee": 10 ** (4.179 + 6e-6 * np.r_[246:3274, 3585:6080, 6344:8335]),
}


@pytest.fixture(scope="module")
def script():
    pytest.importorskip("astropy")
    sys.path.insert(0, str(EXAMPLES))
    import drawn_spectra

    yield drawn_spectra
    sys.path.remove(str(EXAMPLES))
    for name in ("drawn_spectra", "real_spectra"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(spectra_dir, tmp_path_factory):
    """A catalogue folder with a part of the manifest."""
    if not (spectra_dir / "sim").is_dir():
        pytest.skip(f"no models at {spectra_dir / 'sim'}")
    folder = tmp_path_factory.mktemp("catalogue")
    with (spectra_dir / "MANIFEST.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["path"] in FILES]
    with (folder / "MANIFEST.csv").open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name in ("sdss", "sim"):
        (folder / name).symlink_to(spectra_dir / name)
    return folder


@pytest.fixture(scope="module")
def boss(script, folder):
    return script.draw_boss(folder, 60)


@pytest.fixture(scope="module")
def apogee(script, folder):
    return script.draw_apogee(folder, 40)


def of_class(spectra, name):
    return [spectrum for spectrum in spectra if spectrum.labels["class"] == name]


@pytest.mark.parametrize("survey", ["boss", "apogee"])
def test_grid_noise_and_snr_are_those_promised(survey, request):
    spectra = request.getfixturevalue(survey)
    low, high = {"boss": (3, 50), "apogee": (100, 200)}[survey]
    residuals = []
    for spectrum in spectra:
        np.testing.assert_allclose(spectrum.wavelength, GRIDS[survey], rtol=1e-9)
        ratio = spectrum.truth * np.sqrt(spectrum.ivar)
        assert np.median(ratio[spectrum.good]) == pytest.approx(spectrum.labels["snr"], rel=1e-4)
        assert low <= spectrum.labels["snr"] <= high and spectrum.good.mean() > 0.8
        residuals.append(((spectrum.flux - spectrum.truth) * np.sqrt(spectrum.ivar))[spectrum.good])
    stacked = np.concatenate(residuals)
    assert abs(stacked.mean()) < 0.01 and stacked.std() == pytest.approx(1, abs=0.01)
    assert np.abs(stacked).max() < 6  # 280,000 Gaussian numbers
    assert abs(np.mean([np.mean(r[1:] * r[:-1]) for r in residuals])) < 0.02  # uncorrelated
    assert max(abs(r.std() - 1) for r in residuals) < 0.06  # in each, not only together
    assert len({spectrum.object_id for spectrum in spectra}) == len(spectra)


def test_classes_are_equal_parts(boss):
    assert [s.labels["class"] for s in boss] == ["GALAXY", "QSO", "STAR"] * 20
    assert {(s.survey, s.flux_unit, s.medium, s.frame) for s in boss} == {
        ("boss", SURVEYS["boss"].flux_unit, "vacuum", "observed")
    }
    assert all(s.truth.min() >= 0 for s in boss)


@pytest.mark.parametrize("draw", ["draw_boss", "draw_apogee"])
def test_fewer_are_the_beginning_of_more(script, folder, boss, apogee, draw):
    many = boss if draw == "draw_boss" else apogee
    few, other = getattr(script, draw)(folder, 5), getattr(script, draw)(folder, 5, seed=1)
    for before, after, unlike in zip(few, many, other, strict=False):
        np.testing.assert_array_equal(before.flux, after.flux)
        np.testing.assert_array_equal(before.mask, after.mask)
        assert before.labels == after.labels != unlike.labels
        assert before.object_id == after.object_id != unlike.object_id


def test_only_the_light_tells_the_class(script, folder, boss, monkeypatch):
    monkeypatch.setattr(script, "CLASSES", dict(reversed(script.CLASSES.items())))
    for spectrum, other in zip(boss, script.draw_boss(folder, 9), strict=False):
        same = spectrum.labels["class"] == other.labels["class"] == "QSO"
        assert same == (spectrum.labels["class"] == "QSO")
        assert spectrum.labels["snr"] == other.labels["snr"]
        np.testing.assert_array_equal(spectrum.mask, other.mask)
        np.testing.assert_array_equal(spectrum.ivar == 0, other.ivar == 0)
        # The same level: its scatter is the dust's, which acts before it is set, and the noise of the sky.
        assert np.median(spectrum.truth) == pytest.approx(np.median(other.truth), rel=1e-5)


def test_redshifts_hold(script, folder, monkeypatch):
    monkeypatch.setattr(script, "FOREGROUND_REDDENING", 0.0)
    models = script.load_models(folder)
    for spectrum in script.draw_boss(folder, 18):
        kind, redshift = spectrum.labels["class"], spectrum.labels["redshift"]
        if kind == "STAR":
            model = models["star"]
            assert spectrum.labels["rv"] == pytest.approx(redshift * 299_792.458)
            assert spectrum.labels["parent"].startswith(spectrum.labels["subclass"])
            basis = model.components[[model.parents.index(spectrum.labels["parent"])]]
        else:
            model = models["galaxy" if kind == "GALAXY" else "near quasar" if redshift < 1.6 else "far quasar"]
            basis = model.components
        # Without the forest, and without those pixels of the library that are below 0.
        unabsorbed = (spectrum.wavelength > 1230 * (1 + redshift)) & (spectrum.truth > 0)
        misfits = [_misfit(spectrum, model.log_wavelength, basis, z, unabsorbed) for z in (redshift, redshift + 0.002)]
        assert misfits[0] < 1e-5 and misfits[1] > 50 * misfits[0]


def _misfit(spectrum, log_wavelength, basis, redshift, use):
    """Scatter of the truth around a sum of components at a redshift, relative to it."""
    at_rest = np.log(spectrum.wavelength[use] / (1 + redshift))
    design = np.stack([np.interp(at_rest, log_wavelength, component) for component in basis], axis=1)
    truth = spectrum.truth[use].astype(np.float64)
    return np.std(design @ np.linalg.lstsq(design, truth, rcond=None)[0] - truth) / truth.mean()


def test_hydrogen_absorbs_in_the_forest_of_a_far_quasar_alone(script, folder, boss, monkeypatch):
    monkeypatch.setattr(script, "lyman_transmission", lambda rng, observed, *_: np.ones(len(observed)))
    absorbed = 0
    for spectrum, clear in zip(boss, script.draw_boss(folder, len(boss)), strict=True):
        at_rest = spectrum.wavelength / (1 + spectrum.labels["redshift"])
        forest = (at_rest > 1026) & (at_rest < 1210) & (spectrum.labels["class"] == "QSO")
        lit = clear.truth > 0
        ratio = np.divide(spectrum.truth, clear.truth, out=np.ones(len(lit)), where=lit)
        np.testing.assert_allclose(ratio[lit & (at_rest > 1216)] / ratio[-1], 1, rtol=1e-3)
        if forest.sum() > 300:
            transmission = np.mean(ratio[forest]) / ratio[-1]
            assert 0.3 < transmission < 0.95
            absorbed += 1
    assert absorbed >= 3


def test_coefficients_are_recovered_for_a_median_of_one(script, folder):
    model, rng = script.load_models(folder)["near quasar"], np.random.default_rng(0)
    redshift, coefficients = 0.7, np.array([2.0, 150.0, -30.0, 40.0])
    flux = script._seen(model, coefficients, redshift)
    error = 0.05 * np.median(flux)
    spectrum = Spectrum(
        flux + error * rng.normal(size=len(flux)),
        GRIDS["boss"],
        np.full(len(flux), error**-2),
        labels={"redshift": redshift},
    )
    found = script.fit_coefficients(model, spectrum)
    np.testing.assert_allclose(found * np.median(flux), coefficients, rtol=0.05)
    assert np.median(script._seen(model, found, redshift)) == pytest.approx(1, rel=0.01)


def test_real_objects_count_once_and_only_the_good_ones(script, folder):
    models = script.load_models(folder)
    assert models["galaxy"].parents == ["0266-51602-0001", "0266-51630-0174"]
    assert sorted(models["near quasar"].parents) == ["3655-55240-0138", "3655-55240-0332"]
    assert sorted(models["far quasar"].parents) == ["3655-55240-0114", "3655-55240-0714"]
    assert len(models["star"].parents) == 123


def test_spectral_types(script, folder):
    names = script.load_models(folder)["star"].parents
    odd = [name for name in names if not script._spectral_type(name)]
    assert odd == ["sd:F0 (G_84-29)", "sdF3 (140283)", "CalciumWD", "Carbon", "Ldwarf", *names[-3:]]
    assert {script._spectral_type(name) for name in names} == set(script.STAR_TYPES)
    assert sum(script.STAR_TYPES.values()) == pytest.approx(1)


def test_apogee_labels_and_pixels(script, apogee, spectra_dir):
    with np.load(spectra_dir / "sim/apogee_nn/apogee_wavelength.npz") as archive:
        known = archive["wavelength"]
    for spectrum in apogee:
        assert spectrum.frame == "rest" and spectrum.flux_unit == "normalised"
        assert script.is_populated(*(spectrum.labels[name] for name in script.NETWORK_LABELS))
        informed = spectrum.wavelength[spectrum.ivar > 0]
        assert np.abs(informed[:, None] - known[np.searchsorted(known, informed - 0.01)][:, None]).max() < 1e-3
        assert spectrum.mask[spectrum.ivar == 0].all() and 7000 < len(informed) <= 7200
    giants = np.array([spectrum.labels["logg"] < 3.5 for spectrum in apogee])
    assert 0.2 < giants.mean() < 0.6


def test_populated_labels(script):
    assert script.is_populated(4500, 2.2, 0.0, 0.0, 4.0)  # a red giant
    assert script.is_populated(5772, 4.44, 0.0, 0.0, 4.0)  # the Sun
    assert not script.is_populated(5772, 4.44, 0.0, 0.3, 4.0)  # alpha-rich at the Sun's [Fe/H]
    assert script.is_populated(5772, 4.44, -0.8, 0.3, 4.0)
    assert not script.is_populated(4500, 3.6, 0.0, 0.0, 4.0)  # between the branches
    assert not script.is_populated(6500, 2.0, 0.0, 0.0, 4.0)
    assert not script.is_populated(4500, 2.2, 0.0, 0.0, 15.0)  # a giant that turns fast


def test_the_network_gives_a_real_star_its_spectrum(script, folder):
    network = script.load_network(folder)
    with np.load(folder / "sim/apogee_nn/real_spectrum_2M13012770+5754582.npz") as archive:
        keep = np.ones(7214, dtype=bool)
        keep[script.EMISSION] = False
        flux, error = archive["spectrum"][keep], archive["spec_err"][keep]
    chi2 = []
    for teff in (5002.0, 5400.0):
        model = script.normalised_flux(network, np.array([teff, 4.49, -0.204, 0.069, 15.5]))
        chi2.append(np.mean(((flux - model) / np.hypot(error, 0.01))[error < 0.1] ** 2))
    assert chi2[0] < 1.2 and chi2[1] > 1.3 * chi2[0]


def test_one_pixel_of_the_network_by_hand(script, folder):
    network, parameters = script.load_network(folder), np.array([4800.0, 2.5, 0.1, 0.05, 4.0])
    pixel, total = 4000, 0.0
    for unit in range(network.biases.shape[1]):
        argument = network.biases[pixel, unit]
        for label, value in enumerate(parameters):
            scaled = (value - network.low[label]) / (network.high[label] - network.low[label]) - 0.5
            argument += network.weights[pixel, unit, label] * scaled
        total += network.output_weights[pixel, unit] / (1 + np.exp(-argument))
    expected = total + network.output_bias[pixel]
    assert script.normalised_flux(network, parameters)[pixel] == pytest.approx(expected, rel=1e-10)


def test_smoke_writes_what_read_spectra_reads(script, folder, boss, apogee, tmp_path, capsys):
    script.run(script.parse_arguments([str(folder), str(tmp_path), "--smoke"]))
    assert "wrote 6 spectra to" in (out := capsys.readouterr().out) and "2 GALAXY, 2 QSO, 2 STAR" in out
    for name, drawn, count in (("boss", boss, 6), ("apogee", apogee, 4)):
        read = read_spectra(tmp_path / f"{name}-drawn.parquet", progress=False)
        assert len(read) == count
        for before, after in zip(drawn, read, strict=False):
            assert before.labels == after.labels and before.object_id == after.object_id
            assert (before.survey, before.frame, before.flux_unit) == (after.survey, after.frame, after.flux_unit)
            for column in ("flux", "wavelength", "ivar", "mask", "truth"):
                np.testing.assert_array_equal(getattr(before, column), getattr(after, column))


def test_errors_say_what_to_do(script, folder, tmp_path):
    with pytest.raises(ValueError, match="count must be a non-negative integer, found -1"):
        script.draw_boss(folder, -1)
    with pytest.raises(ValueError, match=r"seed must be a non-negative integer, found 0\.5"):
        script.draw_apogee(folder, 1, seed=0.5)
    for draw in (script.draw_boss, script.draw_apogee):
        with pytest.raises(FileNotFoundError, match="pass the catalogue folder"):
            draw(tmp_path, 1)
    assert script.draw_boss(folder, 0) == []


def test_too_few_real_objects(script, folder, tmp_path):
    (tmp_path / "sim").symlink_to(folder / "sim")
    (tmp_path / "MANIFEST.csv").write_text("path,cls,object_id,snr,z\n")
    with pytest.raises(ValueError, match="needs two real objects, found 0 for the model 'galaxy'"):
        script.draw_boss(tmp_path, 1)


def test_a_foreign_wavelength_axis_is_refused(script, folder, tmp_path):
    (tmp_path / "sim" / "apogee_nn").mkdir(parents=True)
    name = "NN_norm_giant_dwarf_10neuron.npz"
    (tmp_path / "sim/apogee_nn" / name).symlink_to(folder / "sim/apogee_nn" / name)
    with np.load(folder / "sim/apogee_nn/apogee_wavelength.npz") as archive:
        np.savez(tmp_path / "sim/apogee_nn/apogee_wavelength.npz", wavelength=archive["wavelength"] + 0.05)
    with pytest.raises(ValueError, match="must be pixels of APOGEE's grid"):
        script.load_network(tmp_path)
