"""Spectra as pictures: beside plain references, read back, and what becomes of spectra that are hard to draw."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
)

from spectok_hf import Spectrum, SpectrumImageProcessor, read_spectra, simulate_survey
from spectok_hf.data.collators import DataCollatorForSpectrumImages
from spectok_hf.models.drawing import BLANK, ORDERS
from spectok_hf.models.spectrum import CGS_UNIT
from spectok_hf.models.wavelength import vacuum_to_air

PLOTS = {
    "simple": {"plot_type": "simple"},
    "overlap": {"plot_type": "overlap"},
    "viridis": {"map_colors": "viridis"},
    "gray": {"map_colors": "gray"},
    "derivatives": {"map_colors": "derivatives"},
    "boustrophedon": {"map_order": "boustrophedon"},
}
MAPS = {name: fields for name, fields in PLOTS.items() if "plot_type" not in fields}
# Levels of 256 that a flux read back may be off: half by rounding, and one more where two levels have one colour
# (viridis), or black is taken (derivatives).
LEVELS_OFF = {"gray": 0.501}
every_plot = pytest.mark.parametrize("plot", PLOTS)
every_map = pytest.mark.parametrize("plot", MAPS)


def make_processor(plot="viridis", **fields):
    return SpectrumImageProcessor(**PLOTS[plot] | fields)


def make_spectrum(length=400, seed=0, *, bad=0.0, level=5.0, gap=False, **fields):
    """A wave in noise on a grid of 1.5 Å; a gap is one of 300 Å in the middle."""
    rng = np.random.default_rng(seed)
    wavelength = 4000 + 1.5 * np.arange(length)
    if gap:
        wavelength[length // 2 :] += 300
    flux = level + np.sin(np.arange(length) / 9 + seed) + 0.2 * rng.normal(size=length)
    mask = fields.pop("mask", rng.random(length) < bad)
    return Spectrum(flux, wavelength, np.full(length, 25.0), mask=mask, **fields)


def changed(spectrum, **fields):
    """The same spectrum with other fields."""
    names = ("flux", "wavelength", "ivar", "mask", "medium", "flux_unit", "object_id")
    return Spectrum(**{name: getattr(spectrum, name) for name in names} | fields)


def distance(first, second):
    """Levels by which two pictures differ at most."""
    return int(np.abs(first.astype(int) - second.astype(int)).max())


# The batch ----------------------------------------------------------------------------------------


@every_plot
def test_a_batch_is_pixel_values_alone(plot):
    processor = make_processor(plot, image_mean=0.4, image_std=0.25)
    spectra = [make_spectrum(seed=seed, length=300 + 10 * seed) for seed in range(3)]
    batch = processor(spectra, return_tensors="pt")
    assert list(batch) == processor.model_input_names == ["pixel_values"]
    assert batch["pixel_values"].shape == (3, 3, 224, 224) and batch["pixel_values"].dtype == torch.float32
    for row, spectrum in zip(batch["pixel_values"].numpy(), spectra, strict=True):
        picture = processor.draw(spectrum)
        assert picture.shape == (224, 224, 3) and picture.dtype == np.uint8
        np.testing.assert_allclose(row, (picture.transpose(2, 0, 1) / 255 - 0.4) / 0.25, atol=1e-6)


@every_plot
def test_every_path_gives_the_same_and_keeps_spectra_apart(plot):
    processor = make_processor(plot, image_size=64, block_size=2)
    spectra = [make_spectrum(seed=seed) for seed in range(4)]
    features = [processor.patch(spectrum) for spectrum in spectra]
    assert {name: (value.shape, value.dtype) for name, value in features[0].items()} == {
        "pixel_values": ((3, 64, 64), np.uint8),
        "attention_mask": ((1,), np.int64),
        "num_patches": ((), np.int64),
        "scale": ((), np.float32),
    }
    assert features[0]["scale"] == pytest.approx(np.median(spectra[0].flux)) and features[0]["num_patches"] == 1
    expected = processor(spectra, return_tensors="pt")["pixel_values"]
    collator = DataCollatorForSpectrumImages(processor)
    paths = {
        "again": processor(spectra, return_tensors="pt"),
        "one by one": {
            "pixel_values": torch.cat([processor(one, return_tensors="pt")["pixel_values"] for one in spectra])
        },
        "padded": processor.pad(features, return_tensors="pt"),
        "collated spectra": collator(spectra),
        "collated features": collator(features),
    }
    for name, batch in paths.items():
        assert list(batch) == ["pixel_values"] and torch.equal(batch["pixel_values"], expected), name
    assert len({picture.numpy().tobytes() for picture in expected}) == 4


def test_what_stands_beside_a_picture_is_stacked():
    processor = make_processor(image_size=32)
    features = [processor.patch(make_spectrum(seed=seed)) for seed in range(2)]
    labels = {"labels": [np.array([0.1, np.nan]), np.array([2.0, 3.0])], "number": [7, 8]}
    rows = [feature | {name: values[row] for name, values in labels.items()} for row, feature in enumerate(features)]
    batch = processor.pad(rows, return_tensors="pt")
    assert batch["labels"].dtype == torch.float32 and batch["number"].tolist() == [7, 8]
    np.testing.assert_allclose(batch["labels"], np.stack(labels["labels"]), rtol=1e-6)
    for order in (rows[0], features[1]), (features[1], rows[0]):
        with pytest.raises(ValueError, match="must carry the same entries, found labels, number in some"):
            processor.pad(order)


def test_features_without_what_trainer_takes_away_are_padded():
    processor = make_processor(image_size=32)
    pictures = [{"pixel_values": processor.patch(make_spectrum(seed=seed))["pixel_values"]} for seed in range(2)]
    expected = processor([make_spectrum(seed=seed) for seed in range(2)])["pixel_values"]
    np.testing.assert_array_equal(processor.pad(pictures)["pixel_values"], expected)
    with pytest.raises(ValueError, match="found no pixel_values of uint8 in pixel_values: use SpectrumDataset"):
        processor.pad([{"pixel_values": expected[0]}])


def test_mappings_are_spectra():
    spectrum = make_spectrum(bad=0.1)
    mapping = {name: getattr(spectrum, name) for name in ("flux", "wavelength", "ivar", "mask")}
    processor = make_processor("simple")
    np.testing.assert_array_equal(processor(mapping)["pixel_values"], processor(spectrum)["pixel_values"])
    with pytest.raises(ValueError, match="expected a Spectrum, a mapping"):
        processor(7)
    with pytest.raises(ValueError, match="no spectrum left"):
        processor([])


def test_a_picture_is_one_patch():
    processor = make_processor()
    assert processor.count_patches(np.arange(4000.0, 9000.0)) == processor.count_patches(np.array([5e3])) == 1
    assert processor.num_cells == 5476


# What is drawn ------------------------------------------------------------------------------------


def test_a_rising_line_goes_up_and_a_map_begins_at_the_top_left():
    spectrum = Spectrum(np.arange(100.0), 4000 + np.arange(100.0), np.ones(100))
    simple = make_processor("simple", image_size=50).draw(spectrum)[..., 0]
    assert simple[-1, 0] < 200 and simple[0, -1] < 200 and simple[0, 0] == simple[-1, -1] == 255
    overlap = make_processor("overlap", image_size=50).draw(spectrum)
    assert [int(overlap[:, 25, channel].argmax()) // 10 for channel in range(3)] == [4, 2, 0]
    levels = make_processor("gray", image_size=30).draw(spectrum)[::3, ::3, 0]
    np.testing.assert_array_equal(levels, np.rint(np.arange(100) / 99 * 255).reshape(10, 10))
    turned = make_processor("gray", image_size=30, map_order="boustrophedon").draw(spectrum)[::3, ::3, 0]
    assert turned[0, -1] < turned[1, -1] < turned[1, 0] < turned[2, 0]


# Reading maps back --------------------------------------------------------------------------------


def assert_read_back(processor, spectrum, expected, plot):
    """`expected` is NaN where nothing is to be read."""
    low, high = limits = processor.flux_limits(spectrum)
    found = processor.read_map(processor.draw(spectrum), limits)
    assert len(found) == processor.num_cells and np.isnan(found[len(expected) :]).all()
    np.testing.assert_array_equal(np.isnan(found[: len(expected)]), np.isnan(expected))
    off = np.nanmax(np.abs(found[: len(expected)] - np.clip(expected, low, high)))
    assert off <= LEVELS_OFF.get(plot, 1.501) * (high - low) / 255


@every_map
@pytest.mark.parametrize("order", ORDERS)
def test_a_map_is_read_back_within_its_levels(plot, order):
    processor = make_processor(plot, map_order=order)
    for spectrum in simulate_survey("sdss", 3, seed=1201):
        assert 0 < spectrum.good.mean() < 1 and len(spectrum) < processor.num_cells
        assert_read_back(processor, spectrum, np.where(spectrum.good, spectrum.flux, np.nan), plot)


@every_map
def test_real_spectra_are_read_back(plot, spectra_dir):
    pytest.importorskip("astropy")
    processor = make_processor(plot)
    for path in sorted((spectra_dir / "sdss" / "boss_qso").glob("*.fits"))[:3]:
        (spectrum,) = read_spectra(path)
        good = processor.good_pixels(spectrum)
        assert_read_back(processor, spectrum, np.where(good, spectrum.flux, np.nan), plot)


@every_map
@pytest.mark.parametrize(("survey", "factor"), [("desi", 2), ("galah", 3)])
def test_of_long_spectra_averages_are_read_back(plot, survey, factor):
    processor = make_processor(plot)
    (spectrum,) = simulate_survey(survey, 1, seed=1202)
    spectrum.flag(np.isin(np.arange(len(spectrum)), np.r_[100:110, 777, 5001:5003]), "a test")
    flux = np.where(spectrum.good, spectrum.flux, np.nan).astype(np.float64)
    blocks = np.pad(flux, (0, -len(flux) % factor), constant_values=np.nan).reshape(-1, factor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of none is NaN, as it should be
        expected = np.nanmean(blocks, axis=1)
    assert np.isnan(expected).any()
    assert_read_back(processor, spectrum, expected, plot)
    assert f"{np.isfinite(expected).sum()} show the mean of {factor} pixels each" in processor.report(spectrum)


@every_map
def test_with_fixed_limits_flux_is_absolute(plot):
    processor = make_processor(plot, vmin=0.0, vmax=20.0)
    faint, bright = make_spectrum(level=4.0), make_spectrum(level=14.0)
    assert processor.flux_limits(faint) == processor.flux_limits(bright) == (0, 20)
    for spectrum in faint, bright:
        assert_read_back(processor, spectrum, spectrum.flux, plot)
    assert distance(processor.draw(faint), processor.draw(bright)) > 100
    free = make_processor("gray")
    assert distance(free.draw(faint), free.draw(bright)) <= 1


@pytest.mark.parametrize(
    ("fields", "limits", "level"),
    [({"vmin": 100.0}, (100, 100), 0), ({"vmax": -3.0}, (-3, -3), 255), ({"vmin": 50, "vmax": 60}, (50, 60), 0)],
)
def test_flux_beyond_fixed_limits_lies_at_the_edge(fields, limits, level):
    spectrum, processor = make_spectrum(), make_processor("gray", **fields)
    assert processor.flux_limits(spectrum) == limits
    assert (processor.draw(spectrum)[:15, :222, 0] == level).all()
    assert "400 values beyond are drawn at the edge" in processor.report(spectrum)
    ink = make_processor("simple", **fields).draw(spectrum)[..., 0] < 255
    assert ink.any(1).tolist() == [row == (223 if level == 0 else 0) for row in range(224)]


def test_no_good_cell_looks_blank():
    """Lowest flux, steepest descent and sharpest bend at once: black, were it not for a level of red."""
    flux = make_spectrum().flux.copy()
    flux[200:205] = -10, -50, -200, -600, -2000
    spectrum = changed(make_spectrum(), flux=flux)
    processor = make_processor("derivatives")
    picture = processor.draw(spectrum)
    assert ((picture == (1, 0, 0)).all(-1)).any()
    assert_read_back(processor, spectrum, flux, "derivatives")


def test_lines_are_not_read_back():
    for plot in ("simple", "overlap"):
        with pytest.raises(ValueError, match=f'inverts a map, found plot_type="{plot}"'):
            make_processor(plot).read_map(np.zeros((224, 224, 3), dtype=np.uint8))


# Hard spectra -------------------------------------------------------------------------------------


def lone_pixel(place, length=50):
    return make_spectrum(length, mask=np.arange(length) != place)


def with_flux(values, places=(3, 100, 399)):
    flux = make_spectrum().flux.copy()
    flux[list(places)] = values
    return changed(make_spectrum(), flux=flux)


def of_survey(survey):
    return simulate_survey(survey, 1, seed=1203)[0]


HARD = {
    "Gaia XP": (lambda: of_survey("gaia_xp"), 343),
    "DESI": (lambda: of_survey("desi"), 7781),
    "GALAH": (lambda: of_survey("galah"), 16384),
    "one pixel": (lambda: make_spectrum(1), 1),
    "two pixels": (lambda: make_spectrum(2), 2),
    "a lone good pixel": (lambda: lone_pixel(20), 50),
    "a lone first pixel": (lambda: lone_pixel(0), 50),
    "a lone last pixel": (lambda: lone_pixel(49), 50),
    "bad ends": (lambda: make_spectrum(mask=abs(np.arange(400) - 200) > 150), 400),
    "every second": (lambda: make_spectrum(mask=np.arange(400) % 2 > 0), 400),
    "negative": (lambda: make_spectrum(level=-50.0), 400),
    "NaN": (lambda: with_flux(np.nan), 400),
    "infinite": (lambda: with_flux([np.inf, -np.inf, np.nan]), 400),
    "constant": (lambda: changed(make_spectrum(), flux=np.full(400, 3.0)), 400),
    "zero": (lambda: changed(make_spectrum(), flux=np.zeros(400)), 400),
    "tiny": (lambda: changed(make_spectrum(), flux=1e-30 * make_spectrum().flux), 400),
    "huge": (lambda: changed(make_spectrum(), flux=1e30 * make_spectrum().flux, ivar=np.full(400, 1e-36)), 400),
}


@every_plot
@pytest.mark.parametrize("name", HARD)
def test_hard_spectra_are_drawn(plot, name):
    make, length = HARD[name]
    spectrum, processor = make(), make_processor(plot)
    assert len(spectrum) == length and processor.good_pixels(spectrum).any()
    pixels = processor(spectrum, return_tensors="pt")["pixel_values"]
    assert torch.isfinite(pixels).all() and pixels.min() >= -1 and pixels.max() <= 1
    picture = processor.draw(spectrum)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1  # not blank
    if processor.plot_type == "map" and length <= processor.num_cells:
        good = processor.good_pixels(spectrum)
        assert_read_back(processor, spectrum, np.where(good, spectrum.flux, np.nan), plot)


@pytest.mark.parametrize("name", ["constant", "zero", "one pixel", "a lone good pixel"])
def test_constant_spectra_are_drawn_half_way_up(name):
    spectrum = HARD[name][0]()
    rows = (make_processor("simple").draw(spectrum)[..., 0] < 255).any(1)
    assert np.flatnonzero(rows).tolist() == [111, 112]
    levels = make_processor("gray").draw(spectrum)
    assert sorted(map(tuple, np.unique(levels.reshape(-1, 3), axis=0).tolist())) == [(128,) * 3, (255, 0, 0)]


def test_no_line_is_drawn_over_gaps_and_bad_pixels():
    processor = make_processor("simple")
    ink = (processor.draw(make_spectrum(gap=True))[..., 0] < 255).any(0)  # 898.5 Å, of which 301.5 are the gap
    assert not ink[76:148].any() and ink[:74].all() and ink[150:].all()
    joined = make_processor("simple", gap_factor=None).draw(make_spectrum(gap=True))
    assert (joined[..., 0] < 255).any(0).all()
    bad = make_processor("simple").draw(make_spectrum(mask=abs(np.arange(400) - 200) < 30))
    assert np.flatnonzero(~(bad[..., 0] < 255).any(0)).tolist() == list(range(96, 128))


def test_the_arms_of_galah_are_apart():
    (spectrum,) = simulate_survey("galah", 1, seed=1204)
    empty = ~(make_processor("simple").draw(spectrum)[..., 0] < 255).any(0)
    assert np.diff(empty.astype(int)).tolist().count(1) == 3
    assert spectrum.medium == "air" and empty.mean() > 0.5


def test_the_line_that_is_blank_in_a_map_is_not_in_the_line():
    """A bad pixel is a blank cell, and what lies around it stays where it was."""
    spectrum = make_spectrum()
    hole = changed(spectrum, mask=np.isin(np.arange(400), [0, 77, 399]))
    for order in ORDERS:
        processor = make_processor("gray", map_order=order, vmin=0, vmax=10)
        found, expected = (processor.read_map(processor.draw(one)) for one in (hole, spectrum))
        assert np.flatnonzero(np.isnan(found[:400])).tolist() == [0, 77, 399]
        np.testing.assert_array_equal(np.delete(found, [0, 77, 399]), np.delete(expected, [0, 77, 399]))


@every_plot
@pytest.mark.parametrize(("length", "fields"), [(400, {}), (3000, {"image_size": 96}), (400, {"vmin": 2.0})])
def test_what_lies_under_bad_pixels_changes_nothing(plot, length, fields):
    processor = make_processor(plot, **fields)
    spectrum = make_spectrum(length, bad=0.2)
    expected = processor.patch(spectrum)
    for garbage in (np.nan, -np.inf, 1e30, 0.0):
        dirty = changed(spectrum, flux=np.where(spectrum.mask, garbage, spectrum.flux))
        for name, value in processor.patch(dirty).items():
            np.testing.assert_array_equal(value, expected[name])


@every_plot
def test_without_limits_of_its_own_flux_a_picture_knows_no_unit(plot):
    processor = make_processor(plot)
    spectrum = of_survey("sdss")
    expected = processor.draw(spectrum)
    for factor, levels in ((1024.0, 0), (2.0**-40, 0), (1e3, 1), (1e-17, 1)):
        scaled = changed(spectrum, flux=spectrum.flux * factor, ivar=spectrum.ivar.astype(np.float64) / factor**2)
        assert (scaled.good == spectrum.good).all()
        found = processor.draw(scaled)
        # Rounding of the flux moves one in many thousands to the next level, which is up to three of a channel.
        assert distance(found, expected) <= 3 * levels and (found != expected).mean() <= 1e-3 * levels


@every_plot
def test_an_outlier_leaves_the_rest_as_it_is(plot):
    processor = make_processor(plot)
    flux = make_spectrum().flux.copy()
    low, high = processor.flux_limits(make_spectrum())
    pictures = []
    for spike in (60.0, 600.0):
        flux[200] = spike
        spectrum = changed(make_spectrum(), flux=flux)
        assert processor.flux_limits(spectrum)[0] == low and high < processor.flux_limits(spectrum)[1] < 20
        assert "1 values beyond are drawn at the edge" in processor.report(spectrum)
        pictures.append(processor.draw(spectrum))
    np.testing.assert_array_equal(*pictures)
    flux[200] = 1e5  # beyond 1000 times the scale: a bad pixel
    assert processor.flux_limits(changed(make_spectrum(), flux=flux))[1] < 7
    assert make_processor(plot, outlier_factor=None).flux_limits(spectrum)[1] == 600


def test_emission_on_a_constant_continuum_is_drawn():
    flux = np.ones(400)
    flux[[50, 51, 52, 300]] = 2, 5, 2, 3
    flux[200:250] += 1e-6 * np.arange(50)  # constant but for rounding
    processor = make_processor("gray")
    assert_read_back(processor, changed(make_spectrum(), flux=flux), flux, "gray")


# Spectra of none ----------------------------------------------------------------------------------

BAD = {"mask": np.ones(400, dtype=bool), "object_id": "b1"}


@every_plot
def test_a_spectrum_without_a_good_pixel_is_refused_skipped_or_nan(plot):
    processor = make_processor(plot)
    spectra = [make_spectrum(), make_spectrum(**BAD), make_spectrum(seed=1)]
    with pytest.raises(ValueError, match=r"all 400 pixels of spectrum 1 \(object_id=b1\) are bad: drop it or pass"):
        processor(spectra)
    with pytest.warns(UserWarning, match=r"skipped: .*spectrum 1 \(object_id=b1\)") as seen:
        kept = processor(spectra, on_invalid="skip", return_tensors="pt")["pixel_values"]
    assert seen[0].filename == __file__
    assert torch.equal(kept, processor([spectra[0], spectra[2]], return_tensors="pt")["pixel_values"])
    batch = processor(spectra, on_invalid="mask", return_tensors="pt")
    assert torch.isnan(batch["pixel_values"][1]).all() and torch.equal(batch["pixel_values"][::2], kept)
    assert processor.observed(batch).tolist() == [True, False, True]
    assert not processor.patch(spectra[1])["attention_mask"].any()
    assert len(np.unique(processor.draw(spectra[1]).reshape(-1, 3), axis=0)) == 1
    assert processor.flux_limits(spectra[1]) == (0, 0) and "0 values beyond" in processor.report(spectra[1])


def test_on_invalid_of_the_processor_holds_where_the_call_says_nothing():
    masking, skipping = (make_processor(on_invalid=choice) for choice in ("mask", "skip"))
    assert np.isnan(masking(make_spectrum(**BAD))["pixel_values"]).all()
    with pytest.raises(ValueError, match="are bad"):
        masking(make_spectrum(**BAD), on_invalid="raise")
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError, match="no spectrum left"):
        skipping(make_spectrum(**BAD))
    with pytest.raises(ValueError, match="on_invalid must be one of raise, skip, mask, found 'drop'"):
        masking(make_spectrum(), on_invalid="drop")


# Ranges, units, length ----------------------------------------------------------------------------


@every_plot
def test_a_range_draws_what_lies_in_it(plot):
    spectrum = make_spectrum(bad=0.05)
    inside = slice(100, 301)  # 4150 to 4450 Å, both included
    part = Spectrum(*(getattr(spectrum, name)[inside] for name in ("flux", "wavelength", "ivar", "mask")))
    processor = make_processor(plot, wavelength_range=(4150, 4450), max_normalized_flux=1e6)
    np.testing.assert_array_equal(processor.draw(spectrum), make_processor(plot).draw(part))
    outside = int(spectrum.good.sum() - part.good.sum())
    assert f"{outside} pixels: outside of 4150-4450 Å" in processor.report(spectrum)
    others = changed(spectrum, flux=np.where(np.isin(np.arange(400), np.r_[inside]), spectrum.flux, 7.0))
    np.testing.assert_array_equal(processor.draw(others), processor.draw(spectrum))


def test_in_a_range_lines_lie_at_their_wavelength():
    spectrum = make_spectrum(300)  # 4000 to 4448.5 Å
    ink = (make_processor("simple", wavelength_range=(3500, 5000)).draw(spectrum)[..., 0] < 255).any(0)
    assert np.flatnonzero(ink)[[0, -1]] == pytest.approx([224 / 3, 224 * 948.5 / 1500], abs=1.5)


@every_plot
@pytest.mark.parametrize("extent", [(3000, 3900), (5000, 6000), (4000.2, 4001.2)])
def test_a_spectrum_outside_of_the_range_is_one_of_none(plot, extent):
    processor = make_processor(plot, wavelength_range=extent)
    spectrum = make_spectrum(object_id="s1")
    with pytest.raises(ValueError, match=rf"spectrum 0 \(object_id=s1\) has no good pixel from {extent[0]:g} to"):
        processor(spectrum)
    assert np.isnan(processor(spectrum, on_invalid="mask")["pixel_values"]).all()
    assert "400 pixels: outside of" in processor.report(spectrum)
    with pytest.raises(ValueError, match="all 400 pixels of spectrum 0"):
        processor(make_spectrum(**BAD))


@every_plot
def test_the_range_is_in_the_medium_of_the_processor(plot):
    vacuum = make_spectrum()
    air = changed(vacuum, wavelength=vacuum_to_air(vacuum.wavelength), medium="air")
    for medium in ("vacuum", "air"):
        processor = make_processor(plot, wavelength_range=(4100.4, 4400.4), medium=medium)
        found, expected = processor.draw(air), processor.draw(vacuum)
        assert distance(found, expected) <= (2 if "plot_type" in PLOTS[plot] else 0)
    wrong = changed(air, medium="vacuum")
    assert distance(processor.draw(wrong), processor.draw(air)) > 20


def test_fixed_limits_are_in_a_unit():
    processor = make_processor(vmin=0.0, vmax=10.0)
    assert processor.flux_unit == CGS_UNIT and make_processor().flux_unit is None
    counts, unknown = make_spectrum(flux_unit="counts", object_id="s0"), make_spectrum()
    with pytest.raises(ValueError, match=r"how bright a spectrum is.* found a flux in counts \(object_id=s0\)"):
        processor(counts)
    expected = processor.draw(unknown)
    written = changed(unknown, flux_unit="1E-17 erg/cm^2/s/Ang")
    np.testing.assert_array_equal(processor.draw(written), expected)
    np.testing.assert_array_equal(make_processor(vmin=0, vmax=10, flux_unit="counts").draw(counts), expected)
    make_processor()(counts)


def test_a_spectrum_longer_than_a_map_is_refused_on_demand():
    processor = make_processor(on_long="raise")
    (desi,) = simulate_survey("desi", 1, seed=1205)
    for action in (processor, processor.draw, processor.patch):
        with pytest.raises(
            ValueError, match=r'5476 cells must have one for each pixel, found 7781 pixels in .*"average"'
        ):
            action(desi)
    assert "no picture: a map of 5476 cells must" in processor.report(desi)
    assert make_processor(on_long="raise", wavelength_range=(4000, 6000)).draw(desi).any()
    assert make_processor(on_long="raise", block_size=2).draw(desi).any()
    for plot in ("simple", "overlap"):
        assert make_processor(plot, on_long="raise").draw(desi).any()


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plot_type": "line"}, "plot_type must be one of simple, overlap, map, found 'line'"),
        ({"map_order": "column"}, "map_order must be one of row, boustrophedon"),
        ({"map_colors": "jet"}, "map_colors must be one of viridis, gray, derivatives"),
        ({"on_long": "cut"}, "on_long must be one of average, raise"),
        ({"on_invalid": "drop"}, "on_invalid must be one of"),
        ({"medium": "water"}, "medium must be one of"),
        *(
            ({"wavelength_range": extent}, "two wavelengths in Å, the first below the second")
            for extent in [(5000, 4000), (4000, 4000), (4000,), (1, 2, 3), (-1, 4000), (4000, math.inf), (0, 1)]
        ),
        *(
            (fields, "image_size must be a whole number of pixels")
            for fields in [
                {"image_size": 224.0},
                {"image_size": "224"},
                {"image_size": 0},
                {"block_size": 0},
                {"block_size": 225},
                {"block_size": 2.5},
                {"line_width": 0},
                {"line_width": 224},
                {"line_width": math.nan},
            ]
        ),
        *(({"outlier_factor": factor}, "outlier_factor must be 0 or more") for factor in (-1, math.nan, math.inf)),
        *(
            (dict(zip(("vmin", "vmax"), limits, strict=True)), "vmin must be below vmax, and both be finite")
            for limits in [(1, 1), (2, 1), (math.nan, None), (None, math.inf), (-math.inf, 0)]
        ),
        *(
            (fields, "image_std must be positive")
            for fields in [{"image_std": 0}, {"image_std": -1.0}, {"image_std": math.inf}, {"image_mean": math.nan}]
        ),
    ],
)
def test_settings_that_make_no_picture_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SpectrumImageProcessor(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_mean": [0.485, 0.456, 0.406]}, r"image_mean must be one number, found \[0.485"),
        ({"vmin": "0"}, "vmin must be one number, found '0'"),
    ],
)
def test_what_is_no_number_is_said_to_be_none(fields, message):
    with pytest.raises(ValueError, match=message):
        SpectrumImageProcessor(**fields)


def test_settings_that_are_changed_later_are_looked_at_again():
    processor = make_processor()
    processor.plot_type = "Map"
    with pytest.raises(ValueError, match="plot_type must be one of simple, overlap, map, found 'Map'"):
        processor(make_spectrum())
    processor.plot_type, processor.vmin, processor.vmax = "map", 0.0, 10.0
    with pytest.raises(ValueError, match="found a flux in counts"):
        processor(make_spectrum(flux_unit="counts"))
    assert np.array_equal(processor.draw(make_spectrum()), make_processor(vmin=0.0, vmax=10.0).draw(make_spectrum()))


def test_unknown_settings_are_warned_about():
    with pytest.warns(
        UserWarning, match=r"SpectrumImageProcessor does not know colours, plottype: check the spelling"
    ):
        SpectrumImageProcessor(plottype="map", colours="gray")


SETTINGS = {
    "plot_type": "overlap",
    "image_size": 64,
    "line_width": 1.3,
    "wavelength_range": (3800.5, 9000.0),
    "block_size": 4,
    "map_order": "boustrophedon",
    "map_colors": "derivatives",
    "on_long": "raise",
    "vmin": -1.13,
    "vmax": 144.97,
    "outlier_factor": None,
    "image_mean": 0.4,
    "image_std": 0.3,
    "medium": "air",
    "gap_factor": None,
    "max_normalized_flux": 50.0,
    "on_invalid": "mask",
    "flux_unit": "Jy",
}


@pytest.mark.parametrize("fields", [{}, SETTINGS])
def test_settings_come_back_as_they_were(fields, tmp_path):
    processor = SpectrumImageProcessor(**fields)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["feature_extractor_type"] == "SpectrumImageProcessor" and set(SETTINGS) < set(saved)
    for auto in (SpectrumImageProcessor, AutoFeatureExtractor):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is SpectrumImageProcessor and loaded.to_dict() == processor.to_dict()
        assert {name: getattr(loaded, name) for name in SETTINGS} == {
            name: getattr(processor, name) for name in SETTINGS
        }
    assert loaded.wavelength_range == fields.get("wavelength_range")
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert again == saved


@pytest.mark.parametrize("auto", [AutoProcessor, AutoFeatureExtractor])
def test_the_code_beside_the_settings_draws_the_same(auto, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    processor = make_processor("derivatives", image_size=48, wavelength_range=(4000, 4500))
    processor.save_pretrained(tmp_path / "saved")
    loaded = auto.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert loaded.to_dict() == processor.to_dict()
    spectrum = make_spectrum(bad=0.1)
    np.testing.assert_array_equal(loaded(spectrum)["pixel_values"], processor(spectrum)["pixel_values"])


# Anything -----------------------------------------------------------------------------------------


@every_plot
@pytest.mark.parametrize("kind", [">f8", ">f4", "f8", "f4", ">i2"])
def test_numbers_of_any_type_give_one_picture(plot, kind):
    flux = np.rint(100 * make_spectrum().flux)
    expected = make_processor(plot).draw(changed(make_spectrum(), flux=flux))
    wavelength = make_spectrum().wavelength.astype(">f8" if kind[0] == ">" else "f8")
    given = Spectrum.from_arrays(flux.astype(kind), wavelength, ivar=np.full(400, 25, dtype=kind))
    np.testing.assert_array_equal(make_processor(plot).draw(given), expected)


@settings(max_examples=100, deadline=None)
@given(
    data=st.data(),
    plot=st.sampled_from(list(PLOTS)),
    size=st.sampled_from([1, 2, 5, 7, 32, 50]),
    width=st.floats(0.1, 10),
    factor=st.none() | st.sampled_from([0.0, 0.5, 3.0, 1e6]),
    exponent=st.sampled_from([-30, -3, 0, 3, 15]),
)
def test_nothing_breaks_a_picture(data, plot, size, width, factor, exponent):
    block = data.draw(st.integers(1, size))
    length = data.draw(st.integers(1, 40))
    numbers = st.floats(-1e3, 1e3, width=32) | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf])
    flux = np.array(data.draw(st.lists(numbers, min_size=length, max_size=length))) * 10.0**exponent
    steps = data.draw(st.lists(st.sampled_from([0.01, 1.0, 1.0, 1.0, 200.0]), min_size=length, max_size=length))
    mask = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
    spectrum = Spectrum(flux, 4000 + np.cumsum(steps), np.full(length, 10.0 ** min(-2 * exponent, 12)), mask=mask)
    extent = data.draw(st.none() | st.just((4100.0, 4300.0)))
    processor = make_processor(
        plot,
        image_size=size,
        block_size=block,
        line_width=min(width, 0.9 * size),
        outlier_factor=factor,
        wavelength_range=extent,
        on_invalid="mask",
    )
    picture = processor.draw(spectrum)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    batch = processor(spectrum)
    observed = bool(processor.observed(batch)[0])
    assert (
        observed == bool(processor.patch(spectrum)["attention_mask"].any()) == np.isfinite(batch["pixel_values"]).all()
    )
    blank = {"simple": (255,) * 3, "overlap": (0,) * 3}.get(plot, BLANK[processor.map_colors])
    assert (picture != blank).any() == observed
    processor.report(spectrum)
    if processor.plot_type == "map":
        found = processor.read_map(picture, processor.flux_limits(spectrum))
        assert np.isfinite(found).any() == observed
