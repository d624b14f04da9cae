"""Outliers: p-values that are uniform, injected oddities that are found and named, and what cannot be judged said."""

import dataclasses
import json

import numpy as np
import pytest

from spectok_hf import Spectrum, SpectrumEncoder, SpectrumProcessor, simulate_survey
from spectok_hf.analysis.anomaly_scores import box_scan, conformal_p, smooth_p, step_scan
from spectok_hf.analysis.outliers import INGREDIENTS, OutlierDetector
from spectok_hf.data.anomalies import inject_anomaly
from spectok_hf.data.spectrum_side import reading_of

SNR = (5, 30)
P_VALUES = ["p", *(f"p_{name}" for name in INGREDIENTS)]


@pytest.fixture(scope="module")
def encoder():
    return SpectrumEncoder.from_pretrained("spectok-tiny", device="cpu")


@pytest.fixture(scope="module")
def spectra():
    return simulate_survey("sdss", 230, seed=911, snr=SNR)


@pytest.fixture(scope="module")
def detector(encoder, spectra):
    return OutlierDetector(encoder).fit(spectra[:120])


def all_bad(spectrum):
    return Spectrum(
        spectrum.flux, spectrum.wavelength, np.zeros(len(spectrum)), survey=spectrum.survey, object_id="bad"
    )


def test_scans_give_the_significance_of_what_is_put_in():
    z, good = np.zeros(200), np.ones(200, dtype=bool)
    z[100:104] = 3
    assert box_scan(z, good, 4).max() == pytest.approx(6) and box_scan(z, good, 4).argmax() == 102
    assert box_scan(z, good, 1).max() == 3
    z = np.repeat([0.0, 1.0], 100)
    assert step_scan(z, good, 32).max() == pytest.approx(4) and step_scan(z, good, 32).argmax() == 100
    good[90:110] = False
    assert step_scan(np.where(good, z, 1e9), good, 32).max() < 4.1


def test_scans_of_noise_have_unit_width_at_every_width():
    z, good = np.random.default_rng(0).normal(size=20_000), np.random.default_rng(1).random(20_000) > 0.1
    for width in (1, 2, 4, 8, 32):
        scan = box_scan(z, good, width)
        assert scan[scan != 0].std() == pytest.approx(1, abs=0.06)
    scan = step_scan(z, good, 32)
    assert scan[scan != 0].std() == pytest.approx(1, abs=0.1)


def test_a_conformal_p_value_counts_the_references_that_are_as_odd():
    references = np.arange(9.0)
    assert conformal_p(np.array([100.0, 8.0, 4.0, -1.0]), references).tolist() == [0.1, 0.2, 0.6, 1.0]
    assert np.isnan(conformal_p(np.array([np.nan]), references)).all()
    # One more reference does not know itself: the oddest of nine has p = 1/9.
    assert conformal_p(references, references, own=True).min() == pytest.approx(1 / 9)


def test_a_smooth_p_value_tells_the_odd_from_the_odder():
    references = np.random.default_rng(0).exponential(size=2000)
    p = smooth_p(np.array([1.0, 5.0, 10.0]), references)
    assert np.allclose(np.log(p), [-1, -5, -10], rtol=0.2)


def test_p_values_of_normal_spectra_are_uniform(detector, spectra):
    rows = detector.rank(spectra[120:])
    bound = 1.63 * np.sqrt(1 / len(rows) + 1 / 120)  # Kolmogorov-Smirnov, two samples, 1 %
    for name in P_VALUES:
        p = np.sort([row[name] for row in rows])
        assert np.abs(p - np.arange(1, len(p) + 1) / len(p)).max() < bound, name
    low, high = (
        np.mean([row["p"] < 0.5 for row in rows if (row["index"] % 2 == 0) == even]) for even in (True, False)
    )
    assert abs(low - 0.5) < 0.25 and abs(high - 0.5) < 0.25


def test_p_values_do_not_depend_on_the_signal_to_noise_ratio(encoder):
    faint = simulate_survey("sdss", 60, seed=912, snr=5)
    bright = simulate_survey("sdss", 60, seed=913, snr=30)
    rows = OutlierDetector(encoder).rank(faint + bright)
    medians = [np.median([row["p"] for row in rows if (row["index"] < 60) == low]) for low in (True, False)]
    assert np.abs(np.array(medians) - 0.5).max() < 0.2


def test_without_references_the_spectra_are_their_own_and_the_odd_one_comes_first(encoder):
    mixed = simulate_survey("sdss", 100, seed=911, snr=SNR, kind="STAR")
    mixed[33] = inject_anomaly(mixed[33], "cosmic_rays", strength=100, seed=2)
    rows = OutlierDetector(encoder).rank(mixed)
    assert len(rows) == 100 and sorted(row["index"] for row in rows) == list(range(100))
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    first = rows[0]
    assert first["index"] == 33 and first["object_id"] == mixed[33].object_id and first["p"] == pytest.approx(0.01)
    places = np.array(mixed[33].labels["anomaly_wavelength"])
    assert np.abs(places - first["wavelength"]).min() < 3
    assert first["reason"].startswith("narrow feature at") and "sigma over" in first["reason"]


@pytest.mark.parametrize(
    ("kind", "strength", "ingredient"),
    [("cosmic_rays", 40, "pixels"), ("flux_step", 1.5, "parts"), ("swapped_arms", 1.0, "parts")],
)
def test_each_kind_is_odd_to_the_ingredient_that_is_made_for_it(detector, spectra, kind, strength, ingredient):
    normal = detector.rank(spectra[120:160])
    odd = detector.rank([inject_anomaly(one, kind, strength=strength, seed=1) for one in spectra[120:160]])
    medians = [np.median([row[f"p_{ingredient}"] for row in rows]) for rows in (normal, odd)]
    assert medians[1] < 0.5 * medians[0]
    assert np.mean([row["score"] for row in odd]) > np.mean([row["score"] for row in normal])


def test_what_cannot_be_judged_comes_last_with_its_reason(detector, spectra):
    (stranger,) = simulate_survey("boss", 1, seed=911)
    rows = detector.rank([all_bad(spectra[0]), stranger, spectra[200]])
    assert rows[0]["index"] == 2
    reasons = {row["object_id"]: row["reason"] for row in rows[1:]}
    assert reasons["bad"] == "not judged: all pixels are bad"
    assert reasons[stranger.object_id] == "not judged: too few references of survey 'boss'"
    assert all(np.isnan(row[name]) for row in rows[1:] for name in ("score", *P_VALUES))


def test_too_few_references_are_said(encoder, spectra):
    with pytest.raises(ValueError, match="each survey needs 60 references with a valid patch, found 20 of sdss"):
        OutlierDetector(encoder).fit(spectra[:20])
    with pytest.raises(ValueError, match="must be 60 valid ones of a survey, found 3 of sdss"):
        OutlierDetector(encoder).rank(spectra[:3])
    with pytest.raises(ValueError, match="at least one spectrum"):
        OutlierDetector(encoder).rank([])


def test_the_values_of_bad_pixels_do_not_matter(detector, spectra):
    spoilt = Spectrum.unchecked(**vars(spectra[200]) | {"flux": spectra[200].flux.copy()})
    spoilt.flux[~spoilt.good] = 1e6
    one, other = (detector.rank([spectrum])[0] for spectrum in (spectra[200], spoilt))
    assert one["score"] == pytest.approx(other["score"], rel=1e-6) and one["reason"] == other["reason"]


def test_saved_and_loaded_it_says_the_same(detector, encoder, spectra, tmp_path):
    detector.save(tmp_path / "detector")
    files = sorted((tmp_path / "detector").iterdir())
    assert [path.name for path in files] == ["outliers.json", "outliers.safetensors"]
    assert len({path.stat().st_mode for path in files}) == 1  # who may read one may read both
    loaded = OutlierDetector.load(tmp_path / "detector", encoder)
    assert loaded.rank(spectra[200:206]) == detector.rank(spectra[200:206])
    facts = tmp_path / "detector" / "outliers.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"encoder": "another"}))
    with pytest.raises(ValueError, match="fitted with another encoder"):
        OutlierDetector.load(tmp_path / "detector", encoder)
    with pytest.raises(ValueError, match="nothing to save"):
        OutlierDetector(encoder).save(tmp_path)


def test_a_saved_detector_is_not_replaced_unasked_and_says_where_it_is_damaged(detector, encoder, tmp_path):
    folder = tmp_path / "detector"
    detector.save(folder)
    with pytest.raises(ValueError, match="holds a detector already"):
        detector.save(folder)
    detector.save(folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["outliers.json", "outliers.safetensors"]
    arrays, facts = folder / "outliers.safetensors", folder / "outliers.json"
    whole, said = arrays.read_bytes(), facts.read_text()
    for file, content in ((arrays, whole[:-8]), (facts, b"{"), (facts, b"{}")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            OutlierDetector.load(folder, encoder)
        arrays.write_bytes(whole)
        facts.write_text(said)
    arrays.unlink()
    with pytest.raises(FileNotFoundError, match=r"outliers\.safetensors is not there"):
        OutlierDetector.load(folder, encoder)


def test_spectra_in_another_medium_are_not_compared_pixel_by_pixel(detector, encoder, spectra, tmp_path):
    aired = Spectrum.unchecked(**vars(spectra[200]) | {"medium": "air", "object_id": "aired"})
    with pytest.raises(ValueError, match="one medium and frame, found air, observed frame and vacuum, observed frame"):
        OutlierDetector(encoder).fit([*spectra[:80], aired])
    detector.save(tmp_path / "detector")
    for one in (detector, OutlierDetector.load(tmp_path / "detector", encoder)):
        (row,) = one.rank([aired])
        assert np.isnan(row["score"]) and row["reason"].startswith("not judged: in air, observed frame, and the ref")
    with pytest.raises(ValueError, match="not judged: in air"):
        detector.plot(aired)


def test_a_processor_that_reads_otherwise_is_refused(detector, encoder, tmp_path):
    other = SpectrumEncoder(encoder.model, SpectrumProcessor(**reading_of(encoder.processor) | {"medium": "air"}))
    detector.save(tmp_path)
    with pytest.raises(ValueError, match="this one has medium='air' instead of 'vacuum': set it alike"):
        OutlierDetector.load(tmp_path, other)
    facts = json.loads((tmp_path / "outliers.json").read_text())
    del facts["processor"]  # as one that was saved before it was kept
    (tmp_path / "outliers.json").write_text(json.dumps(facts))
    assert OutlierDetector.load(tmp_path, other).axes == detector.axes


@pytest.mark.filterwarnings("ignore::spectok_hf.data.domain.OutOfDomainWarning")
def test_what_is_not_covered_is_not_called_normal(detector, spectra):
    few = spectra[200].wavelength < 4600
    part = Spectrum(
        *(getattr(spectra[200], name)[few] for name in ("flux", "wavelength", "ivar", "mask")), survey="sdss"
    )
    shifted = Spectrum.unchecked(**vars(part) | {"wavelength": part.wavelength + 6000})
    (row,) = detector.rank([shifted])
    assert np.isnan(row["p_components"]) and np.isfinite(row["p_pixels"])


def test_the_picture_shows_the_spectrum_and_where_it_is_odd(detector, encoder, spectra):
    plt = pytest.importorskip("matplotlib.pyplot")
    odd = inject_anomaly(spectra[200], "cosmic_rays", strength=100, seed=1)
    above, below = detector.plot(odd)
    assert above.get_title(loc="left").startswith(f"{odd.name}, p = ") and "narrow feature" in above.get_title(
        loc="left"
    )
    assert [text.get_text() for text in below.get_yticklabels()] == ["1", "2", "4", "8", "16", "32"]
    (map_,) = below.collections
    assert map_.get_array().max() > 50
    given = plt.subplots(2, 1)[1]
    assert detector.plot(odd, axes=tuple(given)) == tuple(given)
    plt.close("all")
    with pytest.raises(ValueError, match="references of survey 'sdss', found none: call fit"):
        OutlierDetector(encoder).plot(odd)
    with pytest.raises(ValueError, match="no valid patch"):
        detector.plot(all_bad(odd))


def test_the_picture_does_not_cut_off_what_it_is_drawn_for(detector, spectra):
    plt = pytest.importorskip("matplotlib.pyplot")
    flux = spectra[200].flux.copy()
    flux[1800] += 500 * spectra[200].error[1800]
    odd = dataclasses.replace(spectra[200], flux=flux)
    (row,) = detector.rank([odd])
    assert abs(row["wavelength"] - odd.wavelength[1800]) < 3
    above, _ = detector.plot(odd)
    drawn = above.lines[0].get_ydata()
    assert np.nanargmax(drawn) == 1800 and drawn[1800] < above.get_ylim()[1]
    plt.close("all")
