from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectok_hf import Spectrum

LENGTH = 64
WAVELENGTH = np.linspace(4000.0, 5000.0, LENGTH)
FLUX = 5 + np.sin(np.arange(LENGTH))


def make(**changes):
    return Spectrum.from_arrays(**{"flux": FLUX, "wavelength": WAVELENGTH, "error": np.ones(LENGTH)} | changes)


def with_value(values, value, pixel=7):
    changed = np.array(values, dtype=np.float64)
    changed[pixel] = value
    return changed


def test_arrays_have_the_types_of_the_contract():
    spectrum = make()
    assert spectrum.flux.dtype == spectrum.ivar.dtype == np.float32
    assert spectrum.wavelength.dtype == np.float64
    assert spectrum.mask.dtype == bool
    assert spectrum.good.all()


def test_the_constructor_copies():
    flux = FLUX.astype(np.float32)
    spectrum = Spectrum(flux, WAVELENGTH, np.ones(LENGTH))
    spectrum.flux[0] = 99
    assert flux[0] != 99


@pytest.mark.parametrize("unit, factor", [("angstrom", 1.0), ("Å", 1.0), ("nm", 10.0), ("um", 1e4), ("µm", 1e4)])
def test_wavelength_units(unit, factor):
    np.testing.assert_allclose(make(wavelength=WAVELENGTH / factor, wavelength_unit=unit).wavelength, WAVELENGTH)


def test_log_wavelength_unit():
    spectrum = make(wavelength=np.log10(WAVELENGTH), wavelength_unit="log10_angstrom")
    np.testing.assert_allclose(spectrum.wavelength, WAVELENGTH, rtol=1e-12)


@pytest.mark.parametrize(
    "wavelength, likely",
    [(WAVELENGTH / 10, '"nm"'), (WAVELENGTH / 1e4, '"um"'), (np.log10(WAVELENGTH), '"log10_angstrom"')],
)
def test_an_implausible_axis_names_the_likely_unit(wavelength, likely):
    with pytest.raises(ValueError, match=f"expected Angstrom.*wavelength_unit={likely}"):
        make(wavelength=wavelength)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match=r"wavelength_unit must be one of.*found 'furlong'"):
        make(wavelength_unit="furlong")


def test_a_descending_axis_is_reversed_by_from_arrays_and_refused_by_the_constructor():
    assert np.array_equal(make(wavelength=WAVELENGTH[::-1], flux=FLUX[::-1]).flux, make().flux)
    with pytest.raises(ValueError, match="descending axis"):
        Spectrum(FLUX, WAVELENGTH[::-1], np.ones(LENGTH))


@pytest.mark.parametrize("value, what", [(WAVELENGTH[6], "a repeat at pixel 7"), (4200.0, "a decrease at pixel 8")])
def test_an_axis_that_does_not_increase_is_refused(value, what):
    with pytest.raises(ValueError, match=f"strictly increasing, found {what}.*merge_arms=True"):
        make(wavelength=with_value(WAVELENGTH, value))


@pytest.mark.parametrize("padding", [-1.0, 0.0, 99999.0, np.nan, np.inf])
def test_wavelength_padding_is_removed_and_reported(padding):
    spectrum = make(wavelength=np.r_[WAVELENGTH[:-3], [padding] * 3])
    assert len(spectrum) == LENGTH - 3
    assert "3 pixels: wavelength is padding" in spectrum.report()


@pytest.mark.parametrize("dtype", [np.float16, torch.float16, torch.bfloat16])
def test_half_precision_wavelengths_are_refused(dtype):
    wavelength = WAVELENGTH.astype(dtype) if dtype is np.float16 else torch.tensor(WAVELENGTH).to(dtype)
    with pytest.raises(ValueError, match="half precision"):
        make(wavelength=wavelength)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_flux_that_is_not_finite_is_masked(value):
    spectrum = make(flux=with_value(FLUX, value))
    assert spectrum.mask[7] and spectrum.good.sum() == LENGTH - 1
    assert spectrum.dropped == {"flux is not finite": 1}


@pytest.mark.parametrize(
    "value, reason",
    [
        (0, "ivar = 0 (no information)"),
        (-1, "ivar < 0"),
        (np.inf, "ivar is not finite"),
        (np.nan, "ivar is not finite"),
        (1e-20, "error > 1000 x median (no information)"),
    ],
)
def test_ivar_without_information_becomes_zero(value, reason):
    spectrum = make(error=None, ivar=with_value(np.ones(LENGTH), value))
    assert spectrum.ivar[7] == 0 and not spectrum.good[7] and not spectrum.mask[7]
    assert spectrum.dropped == {reason: 1}


@pytest.mark.parametrize("value", [0, -2, 1e10, np.inf, np.nan])
def test_error_without_information_is_not_squared_into_confidence(value):
    spectrum = make(error=with_value(np.ones(LENGTH), value))
    assert spectrum.ivar[7] == 0 and spectrum.good.sum() == LENGTH - 1


def test_error_and_ivar_agree_and_only_one_is_taken():
    np.testing.assert_allclose(make(error=2.0).ivar, make(error=None, ivar=np.full(LENGTH, 0.25)).ivar)
    for wrong in ({"ivar": np.ones(LENGTH)}, {"error": None}):
        with pytest.raises(ValueError, match="exactly one of ivar= and error="):
            make(**wrong)


def test_an_estimated_error_is_the_scatter_of_the_flux():
    noise = np.random.default_rng(0).normal(scale=0.3, size=20_000)
    wavelength = np.linspace(4000, 9000, noise.size)
    spectrum = Spectrum.from_arrays(5 + np.sin(wavelength / 500) + noise, wavelength, error="estimate")
    assert spectrum.error[0] == pytest.approx(0.3, rel=0.03)
    with pytest.raises(ValueError, match="at least 5 finite pixels"):
        make(flux=np.ones(LENGTH), error="estimate")


def test_cgs_errors_that_overflow_float32_are_an_error_not_infinity():
    assert make(flux=FLUX * 1e-17, error=np.full(LENGTH, 1e-18)).good.all()
    with pytest.raises(ValueError, match=r"does not fit float32.*1e17"):
        make(flux=FLUX * 1e25, error=None, ivar=np.full(LENGTH, 1e-50))
    with pytest.raises(ValueError, match=r"does not fit float32.*1e17"):
        make(flux=FLUX * 1e-20, error=np.full(LENGTH, 1e-21))


@pytest.mark.parametrize("name", ["flux", "error", "mask"])
def test_lengths_must_agree(name):
    with pytest.raises(ValueError, match=r"same length, found 63 and 64"):
        make(**{name: np.ones(LENGTH - 1)})


def test_shapes_and_types_that_are_no_spectrum():
    with pytest.raises(ValueError, match="at least one pixel"):
        Spectrum.from_arrays([], [], error=[])
    with pytest.raises(ValueError, match="one dimension, found shape"):
        make(flux=np.ones((2, LENGTH)))
    with pytest.raises(ValueError, match="vector of numbers"):
        make(flux=["a"] * LENGTH)
    with pytest.raises(ValueError, match="medium must be one of vacuum, air, found 'water'"):
        make(medium="water")
    with pytest.raises(ValueError, match="frame must be one of"):
        make(frame="galactic")


def test_one_pixel_is_a_spectrum():
    assert len(Spectrum([1.0], [5000.0], [1.0])) == 1


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(">f4"),
        lambda x: x.astype(np.float64),
        lambda x: torch.tensor(x),
        lambda x: x.tolist(),
        lambda x: np.ma.array(x),
        lambda x: np.frombuffer(x.astype(np.float32).tobytes(), np.float32),  # read-only
    ],
)
def test_any_kind_of_array_gives_native_writable_arrays(convert):
    spectrum = make(flux=convert(FLUX.astype(np.float32)))
    assert spectrum.flux.dtype.isnative and spectrum.flux.flags.writeable
    np.testing.assert_array_equal(spectrum.flux, FLUX.astype(np.float32))
    torch.from_numpy(spectrum.flux)


@pytest.mark.parametrize("dtype", [np.float16, np.int16, np.uint8, np.int64])
def test_flux_of_small_or_integer_type(dtype):
    assert np.array_equal(make(flux=np.arange(LENGTH).astype(dtype)).flux, np.arange(LENGTH))


def test_pixels_hidden_by_a_masked_array_are_masked():
    flux = np.ma.array(FLUX, mask=np.arange(LENGTH) < 5)
    assert make(flux=flux).mask.sum() == 5
    assert Spectrum(flux, WAVELENGTH, np.ones(LENGTH)).mask.sum() == 5
    wavelength = np.ma.array(WAVELENGTH, mask=np.arange(LENGTH) < 5)
    assert len(make(wavelength=wavelength)) == LENGTH - 5


@pytest.mark.parametrize(
    "identifier, text",
    [
        (2**53 + 1, "9007199254740993"),
        (np.int64(39633559463397282), "39633559463397282"),
        (b"  2M0000 ", "2M0000"),
        ("b'   2575025233207519232'", "2575025233207519232"),
    ],
)
def test_identifiers_are_text(identifier, text):
    assert make(object_id=identifier).object_id == text


def test_flag_counts_each_pixel_once():
    spectrum = make(error=None, ivar=with_value(np.ones(LENGTH), 0))
    bad = np.zeros(LENGTH, dtype=bool)
    bad[5:10] = True
    spectrum.flag(bad, "BRIGHTSKY")
    spectrum.flag(bad, "again")
    assert spectrum.dropped == {"ivar = 0 (no information)": 1, "BRIGHTSKY": 4}
    assert spectrum.mask.sum() == 5 and spectrum.good.sum() == LENGTH - 5


def test_flag_takes_bits_and_refuses_another_length():
    spectrum = make()
    bits = np.arange(LENGTH) % 2 * 4
    spectrum.flag(bits, "CR")
    assert spectrum.mask.dtype == bool and spectrum.good.sum() == LENGTH // 2
    with pytest.raises(ValueError, match="bad and wavelength must have the same length, found 3 and 64"):
        spectrum.flag(np.ones(3), "short")


def test_quantities_are_refused():
    units = pytest.importorskip("astropy.units")
    with pytest.raises(ValueError, match=r"wavelength has the unit nm: pass plain numbers"):
        make(wavelength=WAVELENGTH / 10 * units.nm)
    with pytest.raises(ValueError, match=r"flux has the unit Jy: pass plain numbers"):
        make(flux=FLUX * units.Jy)


@pytest.mark.parametrize("identifier", [3.96284731987106e16, 1.5])
def test_rounded_identifiers_are_refused(identifier):
    assert make(object_id=np.float64(12)).object_id == "12"
    with pytest.raises(ValueError, match="is a rounded number: read it as integer or text"):
        make(object_id=identifier)


def test_repr_and_report_say_what_it_is():
    spectrum = make(survey="sdss", object_id="1-2-3", mask=np.arange(LENGTH) < 16)
    assert repr(spectrum) == "Spectrum(sdss 1-2-3: 64 pixels, 4000.0-5000.0 Å vacuum, observed frame, 75.0% good)"
    assert "16 pixels: marked in the mask that came with the spectrum" in spectrum.report()
    assert "nothing dropped" in make().report()


@given(st.lists(st.floats(width=32), min_size=LENGTH, max_size=LENGTH), st.integers(0, 3))
def test_no_input_makes_a_good_pixel_that_is_not_finite(values, column):
    columns = {"flux": FLUX, "error": np.ones(LENGTH), "mask": None}
    name = ("flux", "error", "flux", "error")[column]
    try:
        spectrum = make(**columns | {name: np.array(values)})
    except ValueError as error:
        assert "float32" in str(error)  # the only refusal of pixel values
        return
    assert np.isfinite(spectrum.flux[spectrum.good]).all()
    assert np.isfinite(spectrum.ivar).all() and (spectrum.ivar >= 0).all()
    assert sum(spectrum.dropped.values()) == (~spectrum.good).sum()


def slow_ivar(ivar, mask):
    """What is left of `ivar`, and what was counted, by the plainest means."""
    good, kept, dropped = ~mask, ivar.astype(np.float64), {}
    reasons = [
        ("ivar is not finite", ~np.isfinite(ivar)),
        ("ivar < 0", ivar < 0),
        ("ivar = 0 (no information)", ivar == 0),
    ]
    for reason, bad in reasons:
        dropped[reason] = int((good & bad).sum())
        good, kept = good & ~bad, np.where(bad, 0, kept)
    if good.any():
        bad = (kept > 0) & (kept < np.median(kept[good]) / 1e6)
        dropped["error > 1000 x median (no information)"] = int((good & bad).sum())
        kept = np.where(bad, 0, kept)
    return kept.astype(np.float32), {reason: count for reason, count in dropped.items() if count}


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ivar_that_says_nothing_is_dropped_and_counted_once(seed, dtype):
    rng = np.random.default_rng(seed)
    ivar = (10.0 ** rng.uniform(0, rng.choice([1, 8]), LENGTH)).astype(dtype)
    for value in (0, -1, np.nan, np.inf, -np.inf):
        ivar[rng.random(LENGTH) < 0.08] = value
    mask = rng.random(LENGTH) < 0.2
    before = ivar.copy()
    expected, dropped = slow_ivar(ivar, mask)
    spectrum = Spectrum(FLUX, WAVELENGTH, ivar, mask=mask)
    np.testing.assert_array_equal(spectrum.ivar, expected)
    np.testing.assert_array_equal(ivar, before)
    assert spectrum.dropped == dropped


@pytest.mark.parametrize("kind", [np.array, list, torch.tensor, lambda values: np.array(values, dtype=np.float32)])
def test_masks_of_fractions_are_bad_where_they_are_not_0(kind):
    values = [0.7, 0.0, 1.0, 1e-30, -0.2, float("nan")] + [0.0] * (LENGTH - 6)
    expected = np.flatnonzero(np.array(values) != 0)
    for spectrum in (make(mask=kind(values)), Spectrum.from_arrays(FLUX, WAVELENGTH, error=1, mask=kind(values))):
        np.testing.assert_array_equal(np.flatnonzero(spectrum.mask), expected)
    bits = np.where(np.array(values) != 0, np.uint64(2**63 + 1), 0).astype(np.uint64)
    np.testing.assert_array_equal(np.flatnonzero(make(mask=bits).mask), expected)


def test_a_spectrum_that_is_changed_by_replace_is_looked_at_again():
    spectrum = make()
    assert replace(spectrum, flux=np.full(LENGTH, np.nan)).dropped == {"flux is not finite": LENGTH}
    with pytest.raises(ValueError, match="strictly increasing"):
        replace(spectrum, wavelength=spectrum.wavelength[::-1])


@pytest.mark.parametrize("make_one", [Spectrum, Spectrum.from_arrays])
def test_no_array_of_the_caller_is_kept(make_one):
    arrays = {"flux": np.float32, "wavelength": np.float64, "ivar": np.float32, "mask": bool, "truth": np.float32}
    given_ = {name: np.arange(4000, 4000 + LENGTH).astype(dtype) for name, dtype in arrays.items()}
    spectrum = make_one(**given_)
    for name, values in given_.items():
        assert not np.shares_memory(getattr(spectrum, name), values), name
        assert getattr(spectrum, name).flags.writeable


def test_unchecked_fields_are_taken_as_they_are():
    spectrum = make(survey="sdss", labels={"redshift": 0.1})
    again = Spectrum.unchecked(**vars(spectrum))
    assert again.flux is spectrum.flux and repr(again) == repr(spectrum) and again.report() == spectrum.report()
