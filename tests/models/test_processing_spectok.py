import re
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoFeatureExtractor, AutoProcessor

from spectok_hf import (
    OmniSpectraProcessor,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumProcessor,
    read_spectra,
    simulate_survey,
)
from spectok_hf.data.simulation.recipes import RECIPES
from spectok_hf.models.spectrum import is_cgs_unit
from spectok_hf.models.wavelength import air_to_vacuum, vacuum_to_air

PROCESSOR = SpectrumProcessor()
JANSKYS = [
    *("1e-17 erg/s/cm2/Hz", "Jy", "mJy", "millijansky", "erg / (Hz s cm2)", "W m^-2 GHz^-1", "ERG/CM**2/S/HZ"),
    *("erg s⁻¹ cm⁻² Hz⁻¹", "mag(AB)", "ABmag", "nmgy"),
]
ON_ANY_GRID = {SpecformerProcessor: {"grid_start": 4000.0, "grid_step": 1.5, "grid_size": 400}}


def make_spectrum(length=400, level=5.0, error=0.5, seed=0, start=4000.0, **fields):
    rng = np.random.default_rng(seed)
    wavelength = start + 1.5 * np.arange(length)
    flux = level * (1 + 0.2 * np.sin(np.arange(length) / 20)) + error * rng.normal(size=length)
    return Spectrum.from_arrays(flux, wavelength, error=np.full(length, error), **fields)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", num_hidden_layers=1, decoder_num_hidden_layers=1))


def embed(model, inputs):
    with torch.no_grad():
        return model.eval().spectok(**inputs).pooler_output


def test_names_types_and_shapes_are_those_of_the_contract():
    batch = PROCESSOR([make_spectrum(400), make_spectrum(300)], return_tensors="pt")
    assert set(batch) == set(SpectrumProcessor.model_input_names)
    assert batch["flux"].shape == batch["error"].shape == batch["wavelength"].shape == (2, 13, 32)
    assert batch["wavelength"].dtype == batch["flux"].dtype == torch.float32
    assert batch["num_patches"].tolist() == [13, 10]
    assert batch["attention_mask"].sum(1).tolist() == [12, 9]  # 400 and 300 leave 16 and 12 pixels: not enough
    assert all(torch.isfinite(value).all() for value in batch.values())


def test_flux_is_divided_by_its_median_over_good_pixels():
    spectrum = make_spectrum()
    spectrum.flux[:50] = 1e6
    spectrum.mask[:50] = True
    batch = PROCESSOR(spectrum, return_tensors="np")
    scale = np.median(spectrum.flux[50:])
    assert batch["scale"][0] == pytest.approx(scale)
    np.testing.assert_allclose(batch["flux"][0].ravel()[50:400], spectrum.flux[50:] / scale, rtol=1e-6)
    np.testing.assert_allclose(batch["error"][0].ravel()[50:400], 0.5 / scale, rtol=1e-6)
    assert not batch["pixel_mask"][0].ravel()[:50].any()


@pytest.mark.parametrize("level", [-3.0, 0.0, 0.01])
def test_the_scale_of_a_faint_spectrum_is_its_noise(level):
    batch = PROCESSOR(make_spectrum(level=level, error=2.0), return_tensors="np")
    assert batch["scale"][0] == pytest.approx(2.0)
    assert np.abs(batch["flux"]).max() < 10


def test_a_spike_beyond_a_thousand_times_the_scale_is_bad_and_reported():
    spectrum = make_spectrum()
    spectrum.flux[100] = 8e7
    assert PROCESSOR(spectrum)["pixel_mask"][0].sum() == 399
    assert "1 pixels: |flux| > 1000 x scale" in PROCESSOR.report(spectrum)
    assert "12 of 13 patches are valid" in PROCESSOR.report(spectrum)


@given(st.integers(-30, 30), st.sampled_from([3.0, -1.0]))
@settings(deadline=None)
def test_scaling_the_flux_changes_only_the_scale(power, level):
    factor = 2.0**power
    spectrum = make_spectrum(level=level)
    scaled = Spectrum(spectrum.flux * np.float32(factor), spectrum.wavelength, spectrum.ivar / factor**2)
    before, after = (PROCESSOR(item, return_tensors="np") for item in (spectrum, scaled))
    assert after["scale"][0] == pytest.approx(before["scale"][0] * factor, rel=1e-6)
    for name in set(before) - {"scale"}:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-5, err_msg=name)


def test_patches_never_straddle_a_gap_unless_told_to():
    arms = np.concatenate([np.arange(4713, 4760, 0.046), np.arange(5648, 5700, 0.055)])
    spectrum = Spectrum(np.ones(arms.size), arms, np.ones(arms.size), medium="air")
    for processor, expected in ((PROCESSOR, True), (SpectrumProcessor(gap_factor=None), False)):
        wavelength = processor(spectrum, return_tensors="np")["wavelength"][0]
        assert (np.ptp(wavelength, axis=1) < 10).all() == expected


def test_air_wavelengths_become_vacuum_ones_and_back():
    spectrum = make_spectrum(medium="air")
    vacuum = PROCESSOR(spectrum, return_tensors="np")["wavelength"].ravel()[:400]
    np.testing.assert_allclose(vacuum, air_to_vacuum(spectrum.wavelength), atol=5e-4)
    air = SpectrumProcessor(medium="air")(make_spectrum(), return_tensors="np")["wavelength"].ravel()[:400]
    np.testing.assert_allclose(air, vacuum_to_air(spectrum.wavelength), atol=5e-4)


def bad_spectra():
    ones, axis = np.ones(64), 5000 + np.arange(64.0)
    return {
        "all 64 pixels of spectrum 1 .object_id=bad. are bad": Spectrum(ones, axis, 0 * ones, object_id="bad"),
        "no patch of spectrum 1 .* found at most 16": Spectrum(ones, axis, ones, mask=np.arange(64) % 2 == 0),
        "no patch of spectrum 1 .* found at most 1": Spectrum([1.0], [5000.0], [1.0]),
    }


@pytest.mark.parametrize("message", bad_spectra())
def test_a_spectrum_without_a_valid_patch_raises_is_skipped_or_is_kept(message, model):
    spectra = [make_spectrum(), bad_spectra()[message], make_spectrum(seed=2)]
    with pytest.raises(ValueError, match=message):
        PROCESSOR(spectra)
    with pytest.warns(UserWarning, match="skipped: " + message):
        assert len(PROCESSOR(spectra, on_invalid="skip")["flux"]) == 2
    kept = PROCESSOR(spectra, on_invalid="mask", return_tensors="pt")
    embeddings = embed(model, kept)
    assert not embeddings[1].any() and embeddings[0].any() and torch.isfinite(embeddings).all()


@pytest.mark.filterwarnings("ignore:skipped")
def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="no spectrum left"):
        PROCESSOR(list(bad_spectra().values()), on_invalid="skip")


@pytest.mark.parametrize(
    "item, message",
    [
        (3, "expected a Spectrum, a mapping"),
        ({"fluxes": [1]}, "needs the keys flux, wavelength and ivar or error, found fluxes"),
        ({"flux": [1.0], "wavelength": [5000.0]}, "exactly one of ivar= and error="),
        ({"flux": [1.0], "wavelength": [5000.0], "error": 1, "colour": 2}, "a key that it does not know.*colour"),
    ],
)
def test_what_is_no_spectrum_is_refused(item, message):
    with pytest.raises(ValueError, match=message):
        PROCESSOR(item)


def test_the_medium_of_a_named_survey_is_not_guessed():
    mapping = as_mapping(make_spectrum()) | {"survey": "galah"}
    with pytest.raises(ValueError, match=r"survey='galah' must say medium="):
        PROCESSOR(mapping)
    assert len(PROCESSOR(mapping | {"medium": "air"})["flux"]) == 1


def test_values_are_normalised_as_the_flux_is():
    spectrum = make_spectrum()
    inputs = PROCESSOR.patch(spectrum)
    np.testing.assert_allclose(PROCESSOR.normalize(spectrum, spectrum.flux), inputs["flux"].ravel()[:400], rtol=1e-6)
    np.testing.assert_allclose(PROCESSOR.normalize(spectrum, [0.0, inputs["scale"]]), [0, 1], rtol=1e-6)


def test_saved_settings_are_those_of_earlier_versions():
    """A checkpoint must not become another one: what is new may be absent from its file, and means what it did."""
    settings = PROCESSOR.to_dict()
    assert settings.pop("flux_unit") is None
    assert set(settings) == {
        *("feature_extractor_type", "feature_size", "gap_factor", "max_normalized_flux", "medium", "on_invalid"),
        *("padding_side", "padding_value", "patch_size", "return_attention_mask", "sampling_rate"),
    }
    assert SpectrumProcessor.from_dict(settings).to_dict() == PROCESSOR.to_dict()


UNIT = "1e-17 erg/s/cm2/Angstrom"


@pytest.mark.parametrize("kind", [SpectrumProcessor, OmniSpectraProcessor])
def test_flux_of_another_unit_is_refused_where_one_is_asked_for(kind, tmp_path):
    kind(flux_unit=UNIT).save_pretrained(tmp_path)
    asking, counts = kind.from_pretrained(tmp_path), make_spectrum(flux_unit="counts", object_id="a star")
    for read in (asking, asking.pack, asking.patch, asking.good_pixels, asking.report):
        with pytest.raises(ValueError, match=rf"how bright a spectrum is, in {UNIT}, found a flux in counts .*a star"):
            read(counts)
    for on_invalid in ("skip", "mask"):  # which are for spectra without data
        with pytest.raises(ValueError, match="convert it"):
            asking([make_spectrum(), counts], on_invalid=on_invalid)
    plain = kind()
    assert plain.flux_unit is None
    for name, values in plain.patch(counts).items():  # any unit is taken, and an unknown one for the one asked for
        np.testing.assert_array_equal(asking.patch(make_spectrum())[name], values)


@pytest.mark.parametrize(
    ("unit", "same"),
    [
        (UNIT, True),
        ("1E-17 erg/cm^2/s/Ang", True),
        ("1e-17 erg s-1 cm-2 Angstrom-1", True),
        ("10**-17 erg/(s cm**2 Angstrom)", True),
        ("10^(-17) erg / (Å s cm2)", True),
        (" 1.0e-17 Erg/s/cm2/A ", True),
        ("1e-16 erg/s/cm2/A", False),
        ("1e-170 erg/s/cm2/A", False),
        ("1.5e-17 erg/s/cm2/A", False),
        ("11e-17 erg/s/cm2/A", False),
        ("erg/s/cm2/A", False),
        (JANSKYS[0], False),
        ("1e-17 erg/s/cm2/nm", False),
        ("1e-17 W/m2/um", False),
        ("1e-17", False),
        ("counts", False),
    ],
)
def test_a_unit_may_be_written_in_many_ways(unit, same):
    assert is_cgs_unit(unit) == same
    asking, other = SpectrumProcessor(flux_unit=UNIT), SpectrumProcessor(flux_unit=unit)
    assert (other.flux_unit == UNIT) == same  # of two processors, too
    for processor, spectrum in ((asking, make_spectrum(flux_unit=unit)), (other, make_spectrum(flux_unit=UNIT))):
        if same:
            assert processor.patch(spectrum)["num_patches"] == 13
        else:
            message = "per frequency" if spectrum.flux_unit in JANSKYS else "found a flux in"
            with pytest.raises(ValueError, match=message):
                processor.patch(spectrum)
    assert other.patch(make_spectrum(flux_unit=unit))["num_patches"] == 13  # what it asks for, it takes


@pytest.mark.parametrize("kind", [SpectrumProcessor, OmniSpectraProcessor, SpecformerProcessor])
@pytest.mark.parametrize("unit", JANSKYS)
def test_flux_per_frequency_is_refused_by_all(kind, unit):
    """It has another shape, by the square of the wavelength."""
    spectrum = make_spectrum(flux_unit=unit, object_id="a star")
    for on_invalid in ("raise", "skip"):
        with pytest.raises(ValueError, match=rf"per wavelength, found {re.escape(unit)}, per frequency .*a star"):
            kind(**ON_ANY_GRID.get(kind, {}))(spectrum, on_invalid=on_invalid)
    trained_on_it = SpectrumProcessor(flux_unit=unit)
    assert trained_on_it.patch(spectrum)["num_patches"] == 13
    with pytest.raises(ValueError, match=r"how bright a spectrum is, in .*found a flux in MJy"):
        trained_on_it(make_spectrum(flux_unit="MJy"))


@pytest.mark.parametrize("unit", ["counts", "relative", "W / (m2 um)", "ph / (Angstrom s cm2)", "normalised", UNIT])
def test_other_fluxes_are_taken(unit):
    assert PROCESSOR.patch(make_spectrum(flux_unit=unit))["num_patches"] == 13


def test_the_advice_on_flux_per_frequency_works():
    astropy, units = pytest.importorskip("astropy"), pytest.importorskip("astropy.units")
    own = make_spectrum(survey="desi", flux_unit=UNIT)
    wavelength, unit = own.wavelength * units.AA, units.Unit("1e-17 erg/(s cm2 Angstrom)")
    flux, error = (
        (values * unit).to("mJy", equivalencies=units.spectral_density(wavelength))
        for values in (own.flux.astype(float), np.where(own.good, own.error, 1))
    )
    (found,) = read_spectra(flux, wavelength=wavelength, error=error)
    with pytest.raises(ValueError, match="convert it") as caught:
        PROCESSOR(found)
    advice = re.search(r"flux\.to\(.*\)\)", str(caught.value)).group()
    scope = {"astropy": astropy, "wavelength": wavelength}
    converted = {name: eval(advice, scope | {"flux": values}) for name, values in (("flux", flux), ("error", error))}
    (back,) = read_spectra(converted["flux"], wavelength=wavelength, error=converted["error"])
    np.testing.assert_allclose(back.flux, own.flux, rtol=1e-6)
    np.testing.assert_allclose(back.error[own.good], own.error[own.good], rtol=1e-6)
    assert SpectrumProcessor(flux_unit=UNIT).patch(back)["num_patches"] == 13


def test_misspelt_settings_are_warned_about():
    with pytest.warns(UserWarning, match="does not know patch_sise"):
        SpectrumProcessor(patch_sise=3)


@pytest.mark.parametrize(
    "argument", [{"medium": "water"}, {"on_invalid": "ignore"}, {"patch_size": 0}, {"padding_side": "left"}]
)
def test_settings_that_do_not_exist_are_refused(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        SpectrumProcessor(**argument)


def as_mapping(spectrum):
    return {"flux": spectrum.flux, "wavelength": spectrum.wavelength, "ivar": spectrum.ivar, "mask": spectrum.mask}


def as_row(spectrum):
    """A row of the Multimodal Universe."""
    pixels = as_mapping(spectrum)
    return {"spectrum": pixels | {"lambda": pixels.pop("wavelength")}, "object_id": spectrum.object_id, "Z": 0.1}


def as_arrays(spectra):
    columns = [as_mapping(spectrum) for spectrum in spectra]
    return {name: np.stack([column[name] for column in columns]) for name in columns[0]}


@pytest.mark.parametrize("path", ["spectrum", "mapping", "lists", "torch", "row", "arrays", "file", "patched"])
def test_different_spectra_give_different_embeddings_by_every_path(path, model, tmp_path, write_sdss_file):
    spectra = simulate_survey("desi", 6, seed=3, snr=20)  # on one grid, so that they make an array
    inputs = {
        "spectrum": lambda: spectra,
        "mapping": lambda: [as_mapping(s) for s in spectra],
        "lists": lambda: [{name: value.tolist() for name, value in as_mapping(s).items()} for s in spectra],
        "torch": lambda: [{name: torch.from_numpy(value) for name, value in as_mapping(s).items()} for s in spectra],
        "row": lambda: read_spectra([as_row(s) for s in spectra]),
        "arrays": lambda: read_spectra(as_arrays(spectra)),
        "file": lambda: [write_sdss_file(s, tmp_path) for s in spectra],
    }
    if path == "patched":
        batch = PROCESSOR.pad([PROCESSOR.patch(s) for s in spectra], return_tensors="pt")
    else:
        batch = PROCESSOR(inputs[path](), return_tensors="pt")
    embeddings = embed(model, batch)
    distances = torch.cdist(embeddings, embeddings) + torch.eye(6) * 1e9
    assert distances.min() > 1e-3 * embeddings.norm(dim=-1).mean()
    reference = embed(model, PROCESSOR(spectra, return_tensors="pt"))
    torch.testing.assert_close(embeddings, reference, atol=1e-3, rtol=1e-3)


def test_a_file_needs_the_installed_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "spectok_hf.data.readers", None)
    with pytest.raises(ImportError, match=r'pip install "spectok-hf\[astro\]"'):
        PROCESSOR("spectrum.fits")


def test_saved_settings_come_back(tmp_path):
    processor = SpectrumProcessor(patch_size=16, medium="air", gap_factor=None, on_invalid="mask")
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").exists()
    SpecTokConfig(patch_size=16).save_pretrained(tmp_path)
    for auto in (AutoProcessor, AutoFeatureExtractor):
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is SpectrumProcessor
        assert loaded.to_dict() == processor.to_dict()
    spectrum = make_spectrum()
    np.testing.assert_array_equal(loaded(spectrum)["flux"], processor(spectrum)["flux"])


def test_padding_and_truncation_are_those_of_transformers():
    spectra = [make_spectrum(400), make_spectrum(100)]
    assert PROCESSOR(spectra, padding="max_length", max_length=20, return_tensors="np")["flux"].shape[1] == 20
    cut = PROCESSOR(spectra, max_length=3, truncation=True, return_tensors="np")
    assert cut["flux"].shape[1] == 3 and cut["num_patches"].tolist() == [3, 3]
    assert [len(flux) for flux in PROCESSOR(spectra, padding=False)["flux"]] == [13, 4]
    with pytest.raises(ValueError, match="truncation needs max_length"):
        PROCESSOR(spectra, truncation=True)


# the fast path


def slow_patches(processor, spectrum):
    """What `patch` must return, to the last bit, by the plainest means."""
    good = ~spectrum.mask & (spectrum.ivar > 0)
    with np.errstate(divide="ignore"):
        error = 1 / np.sqrt(spectrum.ivar.astype(np.float64))
    scale = 1.0
    if good.any():
        scale = float(max(np.median(spectrum.flux[good].astype(np.float64)), np.median(error[good])))
    good &= np.abs(np.where(good, spectrum.flux, 0).astype(np.float64)) <= processor.max_normalized_flux * scale
    columns = {
        "flux": np.where(good, spectrum.flux / scale, 0),
        "wavelength": air_to_vacuum(spectrum.wavelength) if spectrum.medium == "air" else spectrum.wavelength,
        "error": np.where(good, error / scale, 0),
        "pixel_mask": good,
    }
    rows = {name: [] for name in columns}
    for pixels in slow_pixels(columns["wavelength"], processor):
        for name, values in columns.items():
            row = [values[pixel] for pixel in pixels]
            step = row[-1] - row[-2] if len(row) > 1 and name == "wavelength" else name == "wavelength"
            last = row[-1] if name == "wavelength" else 0
            missing = range(1, processor.patch_size - len(row) + 1)
            rows[name].append(row + [last + step * beyond for beyond in missing])
    types = {"pixel_mask": np.int64}
    patches = {name: np.array(values).astype(types.get(name, np.float32)) for name, values in rows.items()}
    valid = 2 * patches["pixel_mask"].sum(1) > processor.patch_size
    count, scale = np.array(len(valid)), np.array(scale, dtype=np.float32)
    return patches | {"attention_mask": valid.astype(np.int64), "num_patches": count, "scale": scale}


def slow_pixels(wavelength, processor):
    """The pixels of each patch."""
    if len(wavelength) < 3:
        yield range(len(wavelength))
        return
    step = np.diff(wavelength)
    blocks = np.array_split(step, max(len(step) // 64, 1))
    typical = np.concatenate([np.full(len(block), np.median(block)) for block in blocks])
    edges = [0, *(np.flatnonzero(step > processor.gap_factor * typical) + 1), len(wavelength)]
    for start, stop in pairwise(edges):
        for first in range(start, stop, processor.patch_size):
            yield range(first, min(first + processor.patch_size, stop))


def hard_cases():
    rng = np.random.default_rng(5)
    axis = np.concatenate([np.arange(4713, 4760, 0.046), np.arange(5648, 5700, 0.055), [5800.0, 6000.0, 6001.0]])
    flux, ivar = rng.normal(5, 1, axis.size), rng.uniform(0.5, 2, axis.size)
    spike = np.where(rng.random(axis.size) < 0.01, 10.0 ** rng.uniform(3, 5, axis.size), flux)
    mask = rng.random(axis.size) < 0.3
    yield "gaps, air", Spectrum(flux, axis, ivar, mask=mask, medium="air")
    yield "below the limit of air", Spectrum(flux, np.linspace(1900, 2100, axis.size), ivar, medium="air")
    yield "even and odd", Spectrum(flux[1:], axis[1:], ivar[1:])
    yield "spikes", Spectrum(spike, axis, ivar)
    yield "faint", Spectrum(flux - 5, axis, ivar)
    yield "as bright as its noise", Spectrum(flux / 5, axis, np.ones(axis.size))
    yield "negative", Spectrum(-flux, axis, ivar)
    yield "tiny", Spectrum(flux * 1e-17, axis, ivar * 1e34)
    yield "bad everywhere", Spectrum(flux, axis, 0 * ivar)
    yield "one good pixel", Spectrum(flux, axis, ivar, mask=np.arange(axis.size) != 7)
    yield "one pixel", Spectrum([3.0], [5000.0], [1.0])
    yield "two pixels", Spectrum([3.0, 4.0], [5000.0, 5001.0], [1.0, 0.0])
    yield "nothing below the mask", Spectrum(np.where(mask, np.nan, flux), axis, np.where(mask, np.inf, ivar))


HARD_CASES = dict(hard_cases())


@pytest.mark.parametrize("patch_size", [8, 32])
@pytest.mark.parametrize("name", [*HARD_CASES, *RECIPES])
def test_patches_are_those_of_the_plain_way_bit_by_bit(name, patch_size):
    processor = SpectrumProcessor(patch_size)
    spectrum = HARD_CASES[name] if name in HARD_CASES else simulate_survey(name, 1, seed=1)[0]
    expected, patches = slow_patches(processor, spectrum), processor.patch(spectrum)
    assert set(patches) == set(expected)
    for column, values in expected.items():
        assert patches[column].dtype == values.dtype and patches[column].shape == values.shape, column
        assert patches[column].tobytes() == values.tobytes(), column
    assert processor.count_patches(spectrum.wavelength, medium=spectrum.medium) == len(expected["flux"])
    np.testing.assert_array_equal(processor.patch_pixels(spectrum, spectrum.flux)[0][0], spectrum.flux[0])


def test_packed_batches_hold_the_patches_of_each_spectrum():
    spectra = [make_spectrum(400), make_spectrum(100, seed=1), make_spectrum(300, medium="air")]
    packed = PROCESSOR.pack(spectra, pad_to=40)
    stops = np.cumsum(packed["num_patches"])
    for spectrum, scale, start, stop in zip(spectra, packed["scale"], [0, *stops], stops, strict=False):
        patches = PROCESSOR.patch(spectrum)
        assert scale == patches["scale"]
        for name in ("flux", "wavelength", "error", "pixel_mask", "attention_mask"):
            np.testing.assert_array_equal(packed[name][start:stop], patches[name])
            assert len(packed[name]) == 40 and not packed[name][stops[-1] :].any()


def test_packing_treats_spectra_without_a_valid_patch_as_it_is_told_to():
    bad = Spectrum(np.ones(64), 5000 + np.arange(64.0), np.zeros(64), object_id="bad")
    spectra = [make_spectrum(), bad, make_spectrum(300)]
    with pytest.raises(ValueError, match=r"all 64 pixels of spectrum 1 .object_id=bad. are bad"):
        PROCESSOR.pack(spectra)
    with pytest.warns(UserWarning, match="skipped: all 64 pixels"):
        packed = PROCESSOR.pack(spectra, on_invalid="skip")
    for name, values in PROCESSOR.pack(spectra[::2]).items():
        np.testing.assert_array_equal(packed[name], values)
    assert PROCESSOR.pack(spectra, on_invalid="mask")["num_patches"].tolist() == [13, 2, 10]
    with pytest.raises(ValueError, match="no spectrum left"), pytest.warns(UserWarning, match="skipped"):
        PROCESSOR.pack([bad], on_invalid="skip")


def test_labels_are_not_padded():
    features = [PROCESSOR.patch(make_spectrum(length)) | {"labels": np.arange(3.0)} for length in (400, 100)]
    batch = PROCESSOR.pad(features, return_tensors="pt")
    assert batch["labels"].tolist() == [[0, 1, 2], [0, 1, 2]]


# back to spectra


def echo(batch):
    """What a perfect model returns."""
    return {"reconstruction": batch["flux"], "coverage": batch["pixel_mask"]}


def test_a_perfect_reconstruction_is_the_input_in_its_unit_and_on_its_grid():
    spectra = [
        make_spectrum(400, survey="sdss", object_id="a", flux_unit="1e-17 erg/s/cm2/Angstrom"),
        make_spectrum(300, medium="air", frame="rest", level=-2.0),
    ]
    back = PROCESSOR.post_process_reconstruction(echo(PROCESSOR(spectra, return_tensors="pt")), spectra)
    for before, after in zip(spectra, back, strict=True):
        np.testing.assert_allclose(after.flux, before.flux, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(after.wavelength, before.wavelength)
        for name in ("survey", "object_id", "medium", "frame", "flux_unit"):
            assert getattr(after, name) == getattr(before, name)
        assert not after.mask.any() and not after.ivar.any()


def test_pixels_that_were_not_observed_are_masked():
    spectrum = make_spectrum()
    batch = PROCESSOR(spectrum, return_tensors="np")
    batch["pixel_mask"][0, 3] = 0
    after = PROCESSOR.post_process_reconstruction(echo(batch), spectrum)[0]
    assert np.flatnonzero(after.mask).tolist() == list(range(96, 128))


def test_decoding_onto_a_grid_of_ones_own(model):
    spectrum = make_spectrum(medium="air")
    grid = np.arange(4100.0, 4300.0, 0.7)
    encoded = model.encode(**PROCESSOR(spectrum, return_tensors="pt"))
    decoded = model.decode(
        encoded.tokens,
        PROCESSOR.patch_wavelength(grid, medium="air")["wavelength"],
        token_wavelength=encoded.token_wavelength,
        attention_mask=encoded.attention_mask,
    )
    after = PROCESSOR.post_process_reconstruction(decoded, spectrum, wavelength=grid, medium="air")[0]
    np.testing.assert_array_equal(after.wavelength, grid)
    assert after.medium == "air" and not after.mask.any()


def test_outputs_of_other_spectra_are_refused():
    spectra = [make_spectrum(400), make_spectrum(300)]
    outputs = echo(PROCESSOR(spectra, return_tensors="pt"))
    with pytest.raises(ValueError, match="must match one to one, found 2 and 1"):
        PROCESSOR.post_process_reconstruction(outputs, spectra[:1])
    with pytest.raises(ValueError, match=r"has 10 patches, found more .*wavelength="):
        PROCESSOR.post_process_reconstruction(outputs, spectra[1:] * 2)
    with pytest.raises(ValueError, match=r"300 pixels.* has 10 patches, found more .*in the order of the batch"):
        PROCESSOR.post_process_reconstruction(outputs, spectra[::-1])
    with pytest.raises(ValueError, match="has 32 patches, found 13"):
        PROCESSOR.post_process_reconstruction(outputs, [spectra[0], make_spectrum(1000)])


def test_a_wavelength_axis_that_was_changed_in_place_is_cut_anew():
    processor, wavelength = SpectrumProcessor(patch_size=4), np.linspace(4000.0, 4011.0, 12)
    assert processor.count_patches(wavelength) == 3
    wavelength[5:-1] += 0.5  # the same length and the same ends
    np.testing.assert_array_equal(processor.patch_wavelength(wavelength)["wavelength"].flatten(), wavelength)
    wavelength[5:] += 500  # a gap
    assert processor.count_patches(wavelength) == 4
