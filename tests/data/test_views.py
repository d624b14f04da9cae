"""Views of a spectrum as other observations might have made them, real pairs, and the batches of both."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, Spectrum, SpectrumProcessor, simulate_survey
from spectok_hf.data.collators import DataCollatorForPackedSpectra
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.mixtures import Visit
from spectok_hf.data.shards import SpectrumShards, write_shards
from spectok_hf.data.views import (
    DataCollatorForContrastiveSpectra,
    ObservationPairs,
    Observations,
    add_noise,
    broaden,
    crop_range,
    mask_runs,
    object_code,
)

PROCESSOR = SpectrumProcessor()
OFF = {"broadening": 0.0, "crop": 0.0, "noise": 0.0, "hide_ratio": 0.0}


def make_spectrum(length=1000, seed=0, bad=0.05, **fields):
    rng = np.random.default_rng(seed)
    wavelength = 4000 + 1.5 * np.arange(length)
    fields = {"object_id": str(seed), "survey": "sdss"} | fields
    ivar = rng.uniform(0.5, 2, length)
    return Spectrum(5 + rng.normal(size=length), wavelength, ivar, mask=rng.random(length) < bad, **fields)


SPECTRA = [make_spectrum(1500, 0), make_spectrum(700, 1), make_spectrum(1100, 2)]


def garble(spectrum, garbage):
    """The same with `garbage` under bad pixels."""
    changed = pickle.loads(pickle.dumps(spectrum))
    changed.flux[~changed.good] = garbage
    return changed


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.array_equal(np.asarray(value), np.asarray(second[name])), name


# Physics


def test_noise_is_as_large_as_its_ivar_says():
    spectrum = make_spectrum(12_000)
    noisy = add_noise(spectrum, 1.5, np.random.default_rng(0))
    good = spectrum.good
    added = (noisy.flux - spectrum.flux) / spectrum.error
    assert np.std(added[good]) == pytest.approx(1.5, rel=0.03) and abs(np.mean(added[good])) < 0.05
    assert abs(np.corrcoef(added[good][1:], added[good][:-1])[0, 1]) < 0.03
    assert not added[~good].any()
    np.testing.assert_allclose(noisy.ivar, spectrum.ivar / (1 + 1.5**2), rtol=1e-6)
    residual = (noisy.flux - 5)[good] * np.sqrt(noisy.ivar[good])  # the flux had noise of 1, the ivar says about 1
    assert np.std(residual) == pytest.approx(1, rel=0.15)


def test_a_line_gets_as_wide_as_the_two_widths_in_quadrature():
    pixels = np.arange(401.0)
    line = np.exp(-0.5 * ((pixels - 200) / 3) ** 2)
    spectrum = Spectrum(1 + line, 5000 + 2 * pixels, np.ones(401))
    wide = broaden(spectrum, 4.0).flux.astype(float) - 1
    width = np.sqrt(np.sum(wide * (pixels - 200) ** 2) / wide.sum())
    assert width == pytest.approx(5, rel=0.01)  # 3 and 4
    assert wide.sum() == pytest.approx(line.sum(), rel=1e-4)  # nothing gained or lost


def test_errors_of_a_broadened_spectrum_are_propagated():
    rng = np.random.default_rng(0)
    noise = [Spectrum(rng.normal(size=300), 5000 + 2 * np.arange(300), np.ones(300)) for _ in range(300)]
    found = [broaden(spectrum, 1.5) for spectrum in noise]
    scatter = np.std([spectrum.flux for spectrum in found], axis=0)
    np.testing.assert_allclose(scatter, found[0].error, rtol=0.25)
    assert np.mean(scatter / found[0].error) == pytest.approx(1, rel=0.01)
    assert found[0].error[0] > found[0].error[150]  # at the end there are fewer pixels to average


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan, np.inf])
def test_bad_pixels_leak_into_nothing(garbage):
    spectrum = make_spectrum()
    spectrum.ivar[100:110] = 0
    spoiled = garble(spectrum, garbage)
    changes = (
        lambda given: broaden(given, 3.0),
        lambda given: add_noise(given, 1.0, np.random.default_rng(0)),
        lambda given: mask_runs(given, 0.2, np.random.default_rng(0)),
        lambda given: crop_range(given, 0.3, np.random.default_rng(0)),
    )
    for change in changes:
        expected, found = change(spectrum), change(spoiled)
        good = expected.good
        assert np.array_equal(good, found.good) and good.any()
        for name in ("flux", "ivar"):
            assert np.array_equal(getattr(expected, name)[good], getattr(found, name)[good])
    assert np.array_equal(broaden(spoiled, 3.0).flux[~spectrum.good], spoiled.flux[~spectrum.good], equal_nan=True)
    assert_same(*(DataCollatorForContrastiveSpectra(PROCESSOR)([Visit(given, 3)]) for given in (spectrum, spoiled)))


def test_a_constant_stays_one_around_bad_pixels_and_gaps():
    wavelength = np.concatenate([4000 + np.arange(200.0), 6000 + np.arange(200.0)])
    flux = np.repeat([2.0, 7.0], 200)
    mask = np.random.default_rng(0).random(400) < 0.3
    found = broaden(Spectrum(np.where(mask, 1e6, flux), wavelength, np.ones(400), mask=mask), 5.0)
    np.testing.assert_allclose(found.flux[~mask], flux[~mask], rtol=1e-5)
    across = broaden(Spectrum(flux, wavelength, np.ones(400)), 5.0, gap_factor=None).flux
    assert 3 < across[199] < 6  # without gaps they are one


def test_a_crop_is_contiguous_and_as_long_as_asked():
    spectrum = make_spectrum()
    starts = set()
    for seed in range(20):
        part = crop_range(spectrum, 0.3, np.random.default_rng(seed))
        start = int(np.searchsorted(spectrum.wavelength, part.wavelength[0]))
        starts.add(start)
        for name in ("flux", "wavelength", "ivar", "mask"):
            assert np.array_equal(getattr(part, name), getattr(spectrum, name)[start : start + 700])
    assert len(starts) > 10 and len(crop_range(spectrum, 0.9999, np.random.default_rng(0))) == 1


def test_masked_runs_take_good_pixels_away():
    spectrum = make_spectrum(4000)
    found = mask_runs(spectrum, 0.1, np.random.default_rng(0), run_length=16)
    assert (spectrum.good.sum() - found.good.sum()) / spectrum.good.sum() == pytest.approx(0.1, abs=0.01)
    assert not found.good[~spectrum.good].any() and np.array_equal(found.flux, spectrum.flux)


def test_zero_changes_nothing_and_no_change_touches_its_spectrum():
    spectrum, before = make_spectrum(), make_spectrum()
    for array in (spectrum.flux, spectrum.ivar, spectrum.mask, spectrum.wavelength):
        array.flags.writeable = False  # as those of shards
    rng = np.random.default_rng(0)
    for change in (add_noise, crop_range, mask_runs):
        assert change(spectrum, 0.0, rng) is spectrum
        change(spectrum, 0.5, rng)
    assert broaden(spectrum, 0.0) is spectrum and len(broaden(spectrum, 2.0)) == 1000
    assert all(np.array_equal(getattr(spectrum, name), getattr(before, name)) for name in ("flux", "ivar", "mask"))
    plain = DataCollatorForContrastiveSpectra(PROCESSOR, **OFF)(SPECTRA)
    codes = plain.pop("object_codes")
    assert codes.dtype == torch.int64 and codes[0::2].equal(codes[1::2]) and len(set(codes.tolist())) == 3
    twice = [spectrum for spectrum in SPECTRA for _ in range(2)]
    assert_same(plain, DataCollatorForPackedSpectra(PROCESSOR)(twice))


# Batches


def test_a_batch_trains_the_model():
    batch = DataCollatorForContrastiveSpectra(PROCESSOR, pad_to=500)(SPECTRA)
    assert batch["flux"].shape == (500, 32) and len(batch["num_patches"]) == 6
    config = SpecTokConfig.from_preset("tiny", num_hidden_layers=1, objective="contrastive")
    assert SpecTokForPreTraining(config)(**batch).loss.isfinite()


def test_two_views_differ_and_stay_near_the_spectrum():
    spectra = simulate_survey("sdss", 6, seed=0)
    batch = DataCollatorForContrastiveSpectra(PROCESSOR, crop=0.0)(spectra)
    rows = np.split(batch["flux"].numpy(), np.cumsum(batch["num_patches"])[:-1])
    for first, second in zip(rows[0::2], rows[1::2], strict=True):
        assert first.shape == second.shape and not np.array_equal(first, second)


def test_visits_draw_by_their_number_however_a_batch_is_cut():
    collator = DataCollatorForContrastiveSpectra(PROCESSOR)
    visits = [Visit(spectrum, number) for spectrum, number in zip(SPECTRA, (5, 6, 9), strict=True)]
    whole, parts = collator(visits), [collator(visits[:1]), collator(visits[1:])]
    for name in ("flux", "error", "wavelength", "pixel_mask", "object_codes", "num_patches", "scale"):
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts])), name
    again = collator([Visit(SPECTRA[0], 6)])
    assert not np.array_equal(again["flux"], parts[0]["flux"])
    assert again["object_codes"].equal(parts[0]["object_codes"])
    assert not np.array_equal(DataCollatorForContrastiveSpectra(PROCESSOR, seed=1)(visits)["flux"], whole["flux"])


def test_without_visits_the_content_is_drawn_from():
    collator = DataCollatorForContrastiveSpectra(PROCESSOR)
    assert_same(collator(SPECTRA), DataCollatorForContrastiveSpectra(PROCESSOR)(SPECTRA))
    others = [SPECTRA[0], SPECTRA[2]]
    assert not np.array_equal(collator(SPECTRA)["error"][:9], collator(others)["error"][:9])
    assert not np.array_equal(*(part.numpy() for part in collator([SPECTRA[0]])["pixel_mask"].chunk(2)[:2]))


def test_a_view_without_a_valid_patch_is_the_spectrum_as_it_came():
    flux = np.ones(640)
    mask = np.ones(640, dtype=bool)
    mask[:40] = False  # nearly every crop has none of it
    batch = DataCollatorForContrastiveSpectra(PROCESSOR, crop=0.99)(
        [Spectrum(flux, 4000 + np.arange(640), flux, mask)]
    )
    assert np.add.reduceat(batch["attention_mask"].numpy(), np.cumsum([0, batch["num_patches"][0]])).min() >= 1


def test_spectra_without_a_valid_patch_are_treated_as_the_processor_says():
    bad = Spectrum(np.ones(64), 4000 + np.arange(64), np.zeros(64), object_id="broken")
    with pytest.raises(ValueError, match="object_id=broken has no valid patch: drop it"):
        DataCollatorForContrastiveSpectra(PROCESSOR)([SPECTRA[0], bad])
    masking = DataCollatorForContrastiveSpectra(SpectrumProcessor(on_invalid="mask"))
    assert len(masking([SPECTRA[0], bad])["num_patches"]) == 4
    skipping = DataCollatorForContrastiveSpectra(SpectrumProcessor(on_invalid="skip"))
    with pytest.warns(UserWarning, match="skipped: .*broken"):
        batch = skipping([Visit(bad, 1), Visit(SPECTRA[0], 0)])
    assert_same(batch, skipping([Visit(SPECTRA[0], 0)]))
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match="no pair left to process"),
    ):
        skipping([bad])


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (PROCESSOR.patch(SPECTRA[0]), "found a mapping of flux, .*lazy=True"),
        (tuple(SPECTRA), "found a tuple"),
        ("spectrum.fits", "found a str"),
    ],
)
def test_what_is_no_spectrum_is_refused(item, found):
    with pytest.raises(ValueError, match=found):
        DataCollatorForContrastiveSpectra(PROCESSOR)([item])


@pytest.mark.parametrize(
    "options",
    [{"noise": -1.0}, {"crop": 1.0}, {"broadening": np.nan}, {"hide_ratio": 1.0}, {"probability": 2.0}],
)
def test_strengths_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=rf"found .*{next(iter(options))}={next(iter(options.values()))}"):
        DataCollatorForContrastiveSpectra(PROCESSOR, **options)


# Real pairs

HERE = {"ra": 10.0, "dec": 20.0}
REPEATS = [
    make_spectrum(900, 0, survey="sdss", labels=HERE),
    make_spectrum(800, 1),
    make_spectrum(700, 2, survey="desi", labels={"ra": 10.0001, "dec": 20.0}),
    make_spectrum(600, 3, survey="lamost", labels=HERE),
]


def test_observations_of_one_object_are_paired_by_the_number_of_the_visit():
    pairs = ObservationPairs(REPEATS)
    assert len(pairs) == 4 and pairs.num_pairs == 3
    assert pairs[1].spectra == (REPEATS[1],) and pairs[-1].spectra[0] is REPEATS[3]
    assert pairs.codes[0] == pairs.codes[2] == pairs.codes[3] != pairs.codes[1]
    drawn = [pairs[Visit(2, number)] for number in range(20)]
    assert all(visit.what.spectra[0] is REPEATS[2] and visit.number == n for n, visit in enumerate(drawn))
    partners = [visit.what.spectra[1].survey for visit in drawn]
    assert set(partners) == {"sdss", "lamost"}
    assert partners == [ObservationPairs(REPEATS)[Visit(2, number)].what.spectra[1].survey for number in range(20)]
    with pytest.raises(IndexError):
        pairs[4]


def test_a_pair_gives_a_view_of_each_observation():
    batch = DataCollatorForContrastiveSpectra(PROCESSOR, **OFF)([ObservationPairs(REPEATS)[0], REPEATS[1]])
    lengths = [PROCESSOR.count_patches(spectrum.wavelength) for spectrum in (*REPEATS, REPEATS[1])]
    assert batch["num_patches"][0] == lengths[0] and batch["num_patches"][1] in (lengths[2], lengths[3])
    assert batch["num_patches"][2:].tolist() == [lengths[1]] * 2


def test_codes_know_an_object_again():
    collator = DataCollatorForContrastiveSpectra(PROCESSOR)
    first, second = REPEATS[0], REPEATS[2]
    items = [(first, second), [second, first], Observations((first,), object_code("a")), REPEATS[1], REPEATS[1]]
    codes = collator(items)["object_codes"].tolist()
    assert codes[0] == codes[2] and codes[4] == object_code("a") and codes[6] == codes[8]
    assert len(set(codes)) == 3 and min(codes) >= 0
    assert object_code("a") == 7299139317422481125  # the same in every process


def test_keys_may_be_given_and_must_fit():
    pairs = ObservationPairs(REPEATS, ["a", "b", "b", "c"])
    assert pairs[1].spectra[1] is REPEATS[2] and pairs.num_pairs == 2
    with pytest.raises(ValueError, match="keys must be one per spectrum, found 1 for 4"):
        ObservationPairs(REPEATS, ["a"])


@pytest.mark.parametrize("source", ["shards", "lazy"])
def test_pairs_of_shards_come_through_the_workers_of_a_loader(source, tmp_path):
    if source == "shards":
        pytest.importorskip("pyarrow")
        write_shards(REPEATS, tmp_path)
        spectra = SpectrumShards(tmp_path)
    else:
        spectra = SpectrumDataset(REPEATS, PROCESSOR, lazy=True)
    collator = DataCollatorForContrastiveSpectra(PROCESSOR)
    order = [Visit(index, number) for number, index in enumerate((2, 0, 3, 1))]
    loader = DataLoader(ObservationPairs(spectra), sampler=order, batch_size=2, collate_fn=collator, num_workers=1)
    expected = ObservationPairs(REPEATS)
    for start, batch in zip((0, 2), loader, strict=True):
        assert_same(batch, collator([expected[visit] for visit in order[start : start + 2]]))
