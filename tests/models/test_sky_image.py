"""Images of the sky at the door: layouts, bands, masks, and the columns of the Multimodal Universe."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from spectok_hf import SkyImage
from spectok_hf.models.sky_image import band_letter, is_image, read_image, read_images

SCALE = 0.262


def make_flux(bands=3, height=12, width=10, seed=0):
    return np.random.default_rng(seed).normal(0.1, 0.05, (bands, height, width)).astype(np.float32)


def make_image(**fields):
    return SkyImage(**({"flux": make_flux(), "bands": "grz", "pixel_scale": SCALE} | fields))


def universe_column(flux, clean, camera="des"):
    """An image column as a row of the Multimodal Universe has it, one mapping per band."""
    names = [f"{camera}-{letter}" for letter in "grz"]
    return [
        {"band": name, "flux": band.tolist(), "mask": mask.tolist(), "psf_fwhm": 1.2, "scale": np.float32(SCALE)}
        for name, band, mask in zip(names, flux, clean, strict=True)
    ]


def test_an_image_says_what_it_is_and_keeps_its_own_arrays():
    flux = make_flux()
    image = make_image(flux=flux, object_id=39628473198710603, labels={"redshift": 0.1})
    assert repr(image) == "SkyImage(39628473198710603: g, r, z, 12 x 10 pixels of 0.262 arcsec, 100.0% good)"
    assert image.bands == ("g", "r", "z") and image.shape == (12, 10) and image.flux.dtype == np.float32
    flux[:] = 9
    assert image.flux.max() < 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        image.pixel_scale = 1.0


def test_bad_is_what_is_masked_not_finite_or_without_weight():
    flux, mask, ivar = make_flux(), np.zeros((3, 12, 10), bool), np.ones((3, 12, 10))
    flux[0, 0, 0], flux[1, 2, 3] = np.nan, np.inf
    mask[2, 4, 5] = True
    ivar[0, 1, 1], ivar[0, 1, 2], ivar[0, 1, 3] = 0, -1, np.nan
    image = make_image(flux=flux, mask=mask, ivar=ivar)
    expected = np.zeros((3, 12, 10), bool)
    for pixel in ((0, 0, 0), (1, 2, 3), (2, 4, 5), (0, 1, 1), (0, 1, 2), (0, 1, 3)):
        expected[pixel] = True
    np.testing.assert_array_equal(image.bad, expected)
    np.testing.assert_array_equal(image.good, ~expected)
    assert np.isnan(image.flux[0, 0, 0]) and (image.ivar >= 0).all()


def test_the_truth_has_the_shape_and_the_unit_of_the_flux():
    flux = make_flux()
    assert make_image().truth is None
    turned = np.moveaxis(flux, 0, -1)
    image = SkyImage.from_arrays(turned, bands="grz", pixel_scale=SCALE, zero_point=25.0, truth=turned)
    np.testing.assert_allclose(image.truth, image.flux)
    np.testing.assert_allclose(image.truth, flux / 10, rtol=1e-5)
    with pytest.raises(ValueError, match=r"truth must have the shape of flux, found \(3, 2, 10\)"):
        make_image(truth=flux[:, :2])


def test_a_mask_of_height_and_width_is_of_all_bands():
    mask = np.zeros((12, 10), bool)
    mask[3, 4] = True
    assert make_image(mask=mask).bad.sum() == 3
    assert SkyImage.from_arrays(np.moveaxis(make_flux(), 0, -1), bands="grz", pixel_scale=1, mask=mask).bad.sum() == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flux": make_flux(2)}, r"shape \(bands, height, width\), found \(2, 12, 10\) for 3 bands \(g, r, z\)"),
        ({"flux": make_flux()[0]}, r"found \(12, 10\) for 3 bands"),
        ({"bands": ("g", "r", "r")}, "named once each, found g, r, r"),
        ({"bands": ("g", "r", "k")}, "one of u, g, r, i, z, y, .* found 'k'"),
        ({"bands": ("g", "r", "euclid-y")}, "found 'euclid-y'"),
        ({"pixel_scale": SCALE / 3600}, "arcsec, 0.005 to 10, found 7.27.*multiply degrees by 3600"),
        ({"pixel_scale": -1}, "found -1: pass the size of one pixel"),
        ({"pixel_scale": np.nan}, "found nan"),
        ({"mask": np.zeros((3, 10, 12), bool)}, r"mask must have the shape of flux, found \(3, 10, 12\)"),
        ({"ivar": np.ones((12, 10))}, r"ivar must have the shape of flux"),
        ({"flux": [["a"]]}, "flux must be an array of numbers"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_image(**fields)


def test_bands_may_be_last_where_that_is_unambiguous():
    flux = make_flux()
    first = SkyImage.from_arrays(flux, bands="grz", pixel_scale=SCALE)
    last = SkyImage.from_arrays(np.moveaxis(flux, 0, -1), bands="grz", pixel_scale=SCALE, ivar=np.ones((12, 10, 3)))
    np.testing.assert_array_equal(first.flux, last.flux)
    tensor = SkyImage.from_arrays(torch.tensor(flux), bands=("DES-G", "des_r", b"z"), pixel_scale=SCALE)
    np.testing.assert_array_equal(first.flux, tensor.flux)
    assert tensor.bands == first.bands
    single = SkyImage.from_arrays(flux[0], bands="r", pixel_scale=SCALE, mask=flux[0] > 0.2)
    assert single.flux.shape == (1, 12, 10)
    with pytest.raises(ValueError, match=r"found \(3, 12, 3\), of which both ends could be the 3 bands g, r, z"):
        SkyImage.from_arrays(flux[..., :3], bands="grz", pixel_scale=SCALE)
    with pytest.raises(ValueError, match="neither end could be the 4 bands"):
        SkyImage.from_arrays(flux, bands="griz", pixel_scale=SCALE)


def test_masked_arrays_and_units_are_not_dropped_silently():
    masked = np.ma.masked_greater(make_flux(), 0.15)
    image = SkyImage.from_arrays(masked, bands="grz", pixel_scale=SCALE)
    np.testing.assert_array_equal(image.bad, masked.mask)
    units = pytest.importorskip("astropy.units")
    with pytest.raises(ValueError, match="flux has the unit nJy: pass plain numbers"):
        SkyImage.from_arrays(make_flux() * units.nJy, bands="grz", pixel_scale=SCALE)


def test_other_zero_points_become_nanomaggies():
    image = SkyImage.from_arrays(
        make_flux(), bands="grz", pixel_scale=SCALE, ivar=np.ones((3, 12, 10)), zero_point=27.5
    )
    np.testing.assert_allclose(image.flux, make_flux() / 100, rtol=1e-6)  # 5 mag are a factor of 100
    np.testing.assert_allclose(image.ivar, 1e4, rtol=1e-6)


def test_the_universes_masks_are_true_where_clean():
    flux, clean = make_flux(), np.ones((3, 12, 10), bool)
    clean[1, 5:7, 5] = False
    image = read_image(universe_column(flux, clean))
    np.testing.assert_array_equal(image.bad, ~clean)
    np.testing.assert_array_equal(image.flux, flux)
    assert image.bands == ("g", "r", "z") and image.pixel_scale == pytest.approx(SCALE)
    with pytest.warns(UserWarning, match=r"calls 99% of its finite pixels bad.*True is clean.*taken for bad"):
        assert read_image(universe_column(flux, clean), mask_is_clean=False).bad.mean() > 0.9
    with pytest.warns(UserWarning, match=r"True is clean, here it is bad; pass mask=~mask"):
        SkyImage.from_arrays(flux, bands="grz", pixel_scale=SCALE, mask=clean)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapping = {"flux": flux, "bands": "grz", "pixel_scale": SCALE, "mask": ~clean, "object_id": "a"}
        np.testing.assert_array_equal(read_image(mapping).bad, ~clean)  # ours: True = bad


def test_all_layouts_of_the_universe_are_one_image():
    flux, clean = make_flux(), np.ones((3, 12, 10), bool)
    clean[:, 2, 2] = False
    bands = universe_column(flux, clean)
    lists = {name: [band[name] for band in bands] for name in bands[0]}  # v1, where datasets turns it around
    arrays = {("array" if name == "flux" else name): values for name, values in lists.items()}
    nested = np.array(bands, dtype=object)  # as pandas has it
    flat = {f"image_{name}": values for name, values in arrays.items() if name != "mask"} | {"bit_mask": clean[0]}
    row = {"image": bands, "object_id": b"12", "ra": 3.0, "Z": 9.0, "spectrum": {"flux": [1.0]}}
    expected = read_image(bands)
    for source in (lists, arrays, nested, flat, row, {"image": lists}, {"image": expected}):
        image = read_image(source)
        np.testing.assert_array_equal(image.flux, expected.flux)
        np.testing.assert_array_equal(image.bad, ~clean)
    assert read_image(row).object_id == "12" and read_image(row).labels == {"ra": 3.0}
    assert read_image(row, object_id="x").object_id == "x"
    assert read_image({"image": expected, "object_id": 12}).object_id == "12"
    assert len(read_images(bands)) == len(read_images(expected)) == 1 and len(read_images([bands, row])) == 2


def test_images_of_hsc_become_nanomaggies():
    clean = np.ones((3, 12, 10), bool)
    legacy, hsc = (read_image(universe_column(make_flux(), clean, camera)) for camera in ("DES", "HSC"))
    np.testing.assert_allclose(hsc.flux, legacy.flux * 10**-1.8, rtol=1e-5)  # 27 mag against 22.5
    same = read_image(universe_column(make_flux(), clean, "hsc"), zero_point=22.5)
    np.testing.assert_array_equal(same.flux, legacy.flux)


def test_what_is_no_image_is_refused():
    clean = np.ones((3, 12, 10), bool)
    column = universe_column(make_flux(), clean)
    column[1]["scale"] = 0.168
    with pytest.raises(ValueError, match=r"one pixel scale, found \[0\.168.*, 0\.26.*\] arcsec"):
        read_image(column)
    with pytest.raises(ValueError, match="needs flux, bands and pixel_scale, found no bands in flux, wavelength"):
        read_image({"flux": np.ones(10), "wavelength": np.ones(10)})
    with pytest.raises(ValueError, match=r"expected a SkyImage, .* found ndarray"):
        read_image(make_flux())
    with pytest.raises(ValueError, match="was given band_names, which it does not know"):
        read_image({"flux": make_flux(), "bands": "grz", "pixel_scale": 1, "band_names": "x"})
    with pytest.raises(ValueError, match="an image that is one already has all fields"):
        read_image(make_image(), object_id="x")
    with pytest.raises(ValueError, match="must hold 0 and 1, found up to 16384"):
        bits = np.zeros((12, 10), int)
        bits[0, 0] = 1 << 14
        read_image({"image_array": make_flux(), "image_band": list("grz"), "image_scale": [1] * 3, "bit_mask": bits})
    column = universe_column(make_flux(), clean)
    column[2]["mask"] = None
    with pytest.raises(ValueError, match="all bands must have mask or none, found none for 1 of 3"):
        read_image(column)
    assert read_image([band | {"mask": None} for band in column]).good.all()
    column = universe_column(make_flux(), clean)
    column[0]["band"] = "hsc-g"
    with pytest.raises(ValueError, match="all bands must have one unit, found those of des, hsc"):
        read_image(column)


def test_letters_of_bands():
    assert [band_letter(name) for name in ("DES-G", "hsc_r", b"z", " Y ")] == ["g", "r", "z", "y"]
    assert is_image(make_image()) and not is_image({"flux": 1})
