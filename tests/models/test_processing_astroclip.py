"""Spectra and images as AstroCLIP reads them."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoFeatureExtractor, AutoProcessor

from spectok_hf import (
    AstroClipConfig,
    AstroClipProcessor,
    OmniSpectraProcessor,
    SkyImage,
    SpecformerProcessor,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.models.processing_astroclip import fill_bad
from spectok_hf.models.spectrum import CGS_UNIT

PROCESSOR = AstroClipProcessor()
ANY_GRID = AstroClipProcessor(SpectrumProcessor(patch_size=20))
SCALE = 0.262


def make_image(height=120, width=110, *, bands="grz", seed=0, pixel_scale=SCALE, **fields):
    """A galaxy of its own colour in noise; every pixel differs from its mirror image."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] - np.array([height / 2, width / 2])[:, None, None]
    profile = np.exp(-np.hypot(rows / 14, columns / 8))
    flux = [(0.3 + 0.4 * level) * profile + rng.normal(0, 0.02, profile.shape) for level in range(len(bands))]
    return SkyImage(np.array(flux), bands, pixel_scale, **fields)


def make_spectrum(length=400, seed=0, **fields):
    rng = np.random.default_rng(seed)
    return Spectrum(rng.normal(5, 1, length), 4000 + 1.5 * np.arange(length), np.ones(length), **fields)


def bad_spectrum(**fields):
    return make_spectrum(mask=np.ones(400, bool), **fields)


def bad_image(seed=0, **fields):
    """Bad in the middle of its r band."""
    mask = np.zeros((3, 120, 110), bool)
    mask[1, 10:110, 5:105] = True
    return make_image(seed=seed, mask=mask, **fields)


def slow_stretch(pixel, scales, offset, softening):
    """The stretch of one pixel of all bands, by its formula."""
    scaled = [value * scale + offset for value, scale in zip(pixel, scales, strict=True)]
    intensity = sum(max(value, 0.0) for value in scaled) / len(scaled)
    compressed = math.asinh(softening * intensity) / math.sqrt(softening)
    factor = compressed / (intensity or 1e-6)
    return [min(max(value * factor, 0.0), 1.0) for value in scaled]


@pytest.mark.parametrize("bands", ["grz", "rzg", "gz", "griz"])
def test_the_stretch_is_that_of_its_formula_from_red_to_blue(bands):
    scales = {"g": 6.0, "r": 3.4, "i": 3.0, "z": 2.2}
    processor = AstroClipProcessor(
        image_size=6, bands=bands, band_scales=[scales[band] for band in bands], stretch_offset=0.05
    )
    flux = np.random.default_rng(1).normal(0.02, 0.2, (4, 6, 6))
    flux[:, 0, 0], flux[:, 1, 1], flux[:, 2, 2] = -5, 40, 0
    image = SkyImage(flux, "zigr", SCALE)
    order = sorted(bands, key="griz".index, reverse=True)
    found = processor.prepare_image(image)
    assert found.shape == (len(bands), 6, 6) and found.dtype == np.float32
    for row in range(6):
        for column in range(6):
            pixel = [float(image.flux[image.bands.index(band), row, column]) for band in order]
            expected = slow_stretch(pixel, [scales[band] for band in order], 0.05, 20.0)
            np.testing.assert_allclose(found[:, row, column], expected, atol=1e-7)
    assert found.min() == 0 and found.max() == 1 and not found[:, 0, 0].any()


def test_without_a_stretch_nanomaggies_stay():
    image = make_image()
    found = AstroClipProcessor(stretch="none").prepare_image(image)
    np.testing.assert_array_equal(found, image.flux[::-1, 12:108, 7:103])  # z, r, g; the middle 96


def test_a_batch_has_what_both_sides_give():
    spectra = simulate_survey("desi", 2, seed=1101)
    images = [make_image(seed=seed) for seed in range(2)]
    batch = PROCESSOR(spectra, images, return_tensors="pt")
    expected = SpecformerProcessor()(spectra, return_tensors="pt")
    assert list(batch) == PROCESSOR.model_input_names == [*SpecformerProcessor.model_input_names, "pixel_values"]
    for name, values in expected.items():
        torch.testing.assert_close(batch[name], values)
    assert batch["pixel_values"].shape == (2, 3, 96, 96) and batch["pixel_values"].dtype == torch.float32
    for row, image in zip(batch["pixel_values"], images, strict=True):
        np.testing.assert_array_equal(row, PROCESSOR.prepare_image(image))
    assert set(PROCESSOR(spectra)) == set(expected)
    only = PROCESSOR(images=images[0], return_tensors="np")
    assert set(only) == {"pixel_values"} and only["pixel_values"].shape == (1, 3, 96, 96)


def test_other_spectrum_processors_pad_spectra_of_any_grid():
    spectra = [make_spectrum(), make_spectrum(250)]
    batch = ANY_GRID(spectra, [make_image(), make_image(seed=1)], return_tensors="pt")
    assert batch["num_patches"].tolist() == [20, 13] and batch["flux"].shape == (2, 20, 20)
    assert "loc" not in batch and (ANY_GRID.medium, ANY_GRID.patch_size) == ("vacuum", 20)
    with pytest.raises(ValueError, match="reads spectra on one grid"):
        PROCESSOR(spectra)


@pytest.mark.parametrize("kind", [SpectrumProcessor, OmniSpectraProcessor, SpecformerProcessor])
def test_the_unit_is_imposed_on_a_copy_of_the_spectrum_processor(kind):
    given = kind(medium="air", flux_unit=None)
    for processor in (AstroClipProcessor(given), AstroClipProcessor(given.to_dict())):
        assert processor.flux_unit == processor.spectrum_processor.flux_unit == CGS_UNIT
        assert type(processor.spectrum_processor) is kind and processor.spectrum_processor.medium == "air"
    assert given.flux_unit is None
    other = kind(flux_unit="Jy")
    anyone = AstroClipProcessor(other, flux_unit=None)
    assert anyone.flux_unit is None and anyone.spectrum_processor.flux_unit == "Jy"
    with pytest.raises(ValueError, match=f"must be that of the spectrum_processor, Jy, or None, found {CGS_UNIT}"):
        AstroClipProcessor(other)


def test_spectra_in_counts_are_refused_unless_any_unit_will_do():
    counts = make_spectrum(flux_unit="counts", object_id="s0")
    with pytest.raises(ValueError, match=r"reads how bright a spectrum is.* found a flux in counts \(object_id=s0\)"):
        ANY_GRID(counts, make_image())
    with pytest.raises(ValueError, match="found a flux in counts"):
        ANY_GRID.prepare(counts, None)
    with pytest.raises(ValueError, match="found a flux in counts"):
        ANY_GRID([make_spectrum(), counts], on_invalid="skip")
    anyone = AstroClipProcessor(SpectrumProcessor(patch_size=20), flux_unit=None)
    expected = ANY_GRID(make_spectrum(flux_unit="1e-17 erg/s/cm2/A"), make_image(), return_tensors="np")
    for name, values in anyone(counts, make_image(), return_tensors="np").items():
        np.testing.assert_array_equal(values, expected[name])


def test_what_lies_under_the_mask_changes_nothing():
    mask = np.random.default_rng(0).random((3, 120, 110)) < 0.2
    mask[0, 40:70, 40:60] = True
    clean = make_image(mask=mask)
    for garbage in (np.nan, 1e30, -7.0, np.inf):
        dirty = SkyImage(np.where(mask, garbage, clean.flux), "grz", SCALE, mask)
        np.testing.assert_array_equal(PROCESSOR.prepare_image(dirty), PROCESSOR.prepare_image(clean))
    whole = make_image()
    difference = np.abs(PROCESSOR.prepare_image(clean) - PROCESSOR.prepare_image(whole))
    assert 0 < difference.mean() < 0.05  # filled with what lies around


def test_bad_pixels_are_means_of_the_smallest_square_with_a_good_one():
    rng = np.random.default_rng(3)
    flux, good = rng.normal(size=(1, 13, 11)), rng.random((1, 13, 11)) < 0.3
    good[0, 2:10, 2:9] = False
    found = fill_bad(flux, good)[0]
    for row in range(13):
        for column in range(11):
            expected = flux[0, row, column]
            for radius in (1, 2, 4, 8) if not good[0, row, column] else ():
                box = np.s_[0, max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
                if good[box].any():
                    expected = flux[box][good[box]].mean()
                    break
            assert found[row, column] == pytest.approx(expected, abs=1e-12)
    assert not fill_bad(flux, np.zeros_like(good)).any()


def test_pixels_of_another_size_are_refused_or_resampled():
    coarse = make_image(150, 150, pixel_scale=0.168)
    with pytest.raises(ValueError, match=r"must be 0\.262 arcsec wide, found 0\.168 .*resample_images=True"):
        PROCESSOR.prepare_image(coarse)
    PROCESSOR.prepare_image(make_image(pixel_scale=0.2638))  # within 1 %
    processor = AstroClipProcessor(stretch="none", resample_images=True)
    for scale, size in ((0.131, 192), (0.393, 64), (0.524, 48)):  # the same part of the sky
        rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
        profile = np.exp(-((rows * scale - 3) ** 2 + (columns * scale) ** 2) / 10)
        image = SkyImage(np.array([1, 2, 3])[:, None, None] * profile, "grz", scale)
        assert processor.has_room(image, 96) and not processor.has_room(image, 97)
        found = processor.prepare_image(image)[::-1]
        np.testing.assert_allclose(found.sum((1, 2)), image.flux.sum((1, 2)), rtol=1e-3)
        peak = np.array(np.unravel_index(found[0].argmax(), found[0].shape)) - 47.5
        assert np.abs(peak * SCALE - (3, 0)).max() < (scale + SCALE) / 2 + 1e-6
    star = np.zeros((3, 384, 384))
    star[:, 200, 203] = 1  # of which sampling every fourth pixel sees nothing
    found = processor.prepare_image(SkyImage(star, "grz", SCALE / 4))
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"must have 150 x 150 pixels or more, found .*149 x 149"):
        processor.prepare_image(make_image(149, 149, pixel_scale=0.168))
    assert processor.prepare_image(make_image(150, 150, pixel_scale=0.168)).shape == (3, 96, 96)


@pytest.mark.parametrize(("scale", "needed"), [(0.168, 150), (0.0655, 384), (0.4, 63)])
def test_only_what_is_near_the_middle_reaches_a_resampled_image(scale, needed):
    processor = AstroClipProcessor(stretch="none", resample_images=True)
    size = needed + 60 + needed % 2
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    bump = np.exp(-np.hypot(rows, columns - 4) * scale / 3)
    flux = bump + np.random.default_rng(0).normal(0, 0.1, (3, size, size))
    expected = processor.prepare_image(SkyImage(flux, "grz", scale))
    far = np.hypot(rows, columns) > 0.75 * needed + 12  # beyond the corners, and what antialiasing reaches
    changed = np.where(far, 1e3, flux)
    np.testing.assert_array_equal(processor.prepare_image(SkyImage(changed, "grz", scale)), expected)
    trimmed = SkyImage(flux[:, 20:-20, 20:-20], "grz", scale)
    np.testing.assert_array_equal(processor.prepare_image(trimmed), expected)
    flat = processor.prepare_image(SkyImage(np.full((3, size, size), 0.2), "grz", scale))
    np.testing.assert_allclose(flat, 0.2 * (SCALE / scale) ** 2, rtol=0.02)


def test_a_resampled_image_is_the_middle_of_all_of_it_resampled():
    """Also at its edges, though most of it is cut away before."""
    image = SkyImage(np.random.default_rng(1).normal(0, 1, (3, 80, 80)), "grz", 2 * SCALE)
    flux = torch.tensor(image.flux[::-1].copy(), dtype=torch.float64)
    whole = functional.interpolate(flux[None], scale_factor=2, mode="bilinear", antialias=True)
    found = AstroClipProcessor(stretch="none", resample_images=True).prepare_image(image)
    np.testing.assert_allclose(found, whole[0, :, 32:-32, 32:-32].numpy() / 4, atol=1e-6)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"must have 96 x 96 pixels or more, found SkyImage\(unnamed: g, r, z, 120 x 95"
    ):
        PROCESSOR(images=make_image(120, 95))
    with pytest.raises(ValueError, match="must have the bands g, r, z, found no r in"):
        PROCESSOR(images=make_image(bands="giz"))
    with pytest.raises(ValueError, match="must match one to one, found 2 and 1"):
        ANY_GRID([make_spectrum()] * 2, [make_image()])
    with pytest.raises(ValueError, match="pass spectra, images, or both, found neither"):
        PROCESSOR()
    with pytest.raises(ValueError, match="nothing left to process"):
        PROCESSOR(images=[])


def test_invalid_spectra_and_images_go_together():
    spectra = [make_spectrum(seed=0), bad_spectrum(object_id="s1"), make_spectrum(seed=2), make_spectrum(seed=3)]
    images = [make_image(seed=0), make_image(seed=1), bad_image(seed=2, object_id="i2"), make_image(seed=3)]
    with pytest.warns(UserWarning) as caught:
        batch = ANY_GRID(spectra, images, on_invalid="skip", return_tensors="pt")
    assert [str(warning.message).partition(":")[0] for warning in caught] == ["skipped"] * 2
    assert "spectrum 1 (object_id=s1) are bad" in str(caught[0].message)
    assert "all pixels of r in the middle of image 2 (object_id=i2) are bad" in str(caught[1].message)
    expected = ANY_GRID([spectra[0], spectra[3]], [images[0], images[3]], return_tensors="pt")
    for name, values in expected.items():
        torch.testing.assert_close(batch[name], values)
    with pytest.raises(ValueError, match=r'spectrum 1 .* are bad: drop it or pass on_invalid="skip"'):
        ANY_GRID(spectra, images)
    with pytest.raises(ValueError, match=r"all pixels of r in the middle of image 0 "):
        ANY_GRID(images=images[2])
    masked = ANY_GRID(spectra, images, on_invalid="mask", return_tensors="pt")
    assert masked["attention_mask"].any(-1).tolist() == [True, False, True, True]
    flat = AstroClipProcessor(stretch="none").prepare_image(images[2])
    outside = np.abs(images[2].flux[1]).max()
    assert masked["pixel_values"].shape[0] == 4 and np.isfinite(flat).all() and np.abs(flat[1]).max() <= outside


def test_pictures_are_for_the_eye():
    picture = PROCESSOR.display(make_image())
    assert picture.shape == (96, 96, 3) and picture.min() >= 0 and picture.max() <= 1
    np.testing.assert_allclose(np.moveaxis(picture, -1, 0), PROCESSOR.prepare_image(make_image()), atol=1e-6)
    raw = AstroClipProcessor(stretch="none", bands="r", band_scales=[3.4])
    grey = raw.display(make_image())
    assert (grey[..., 0] == grey[..., 2]).all() and grey.max() > 0.2


@pytest.mark.parametrize(
    "spectrum_processor",
    [
        SpecformerProcessor(resample=True),
        SpectrumProcessor(patch_size=16, medium="air"),
        OmniSpectraProcessor(patch_overlap=4, gap_factor=None),
    ],
)
def test_saved_settings_come_back(tmp_path, spectrum_processor):
    processor = AstroClipProcessor(
        spectrum_processor, ("z", "g"), 64, 0.4, "none", (2, 6), 0.1, 10.0, on_invalid="skip", resample_images=True
    )
    spectrum_processor.save_pretrained(tmp_path / "spectra")  # it names its own file from now on
    processor.save_pretrained(tmp_path)
    AstroClipConfig.from_preset("tiny").save_pretrained(tmp_path)  # by which the Auto classes know the family
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"]["AutoProcessor"] == "processing_astroclip.AstroClipProcessor"
    assert saved["spectrum_processor"]["feature_extractor_type"] == type(spectrum_processor).__name__
    assert "auto_map" not in saved["spectrum_processor"]
    for loader in (AstroClipProcessor, AutoProcessor, AutoFeatureExtractor):
        loaded = loader.from_pretrained(tmp_path)
        assert type(loaded) is AstroClipProcessor and type(loaded.spectrum_processor) is type(spectrum_processor)
        assert loaded.to_dict() == processor.to_dict()
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "preprocessor_config.json").read_text()) == saved


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stretch": "log"}, "stretch must be one of arcsinh, none"),
        ({"on_invalid": "drop"}, "on_invalid must be one of"),
        ({"bands": "gr"}, "band_scales must be one for each of bands, found 3 for g, r"),
        ({"image_size": 0}, "must be positive, found 0"),
        ({"spectrum_processor": "specformer"}, "must be one of SpecformerProcessor, .* found str"),
        ({"spectrum_processor": {"feature_extractor_type": "X"}}, "found settings of X"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AstroClipProcessor(**settings)


def test_unknown_settings_are_warned_about():
    with pytest.warns(UserWarning, match="does not know image_scale: check the spelling"):
        AstroClipProcessor(image_scale=0.2)
