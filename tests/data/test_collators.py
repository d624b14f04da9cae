"""`DataCollatorForSpectra`: what it pads, and what it hides."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from spectok_hf import DataCollatorForSpectra, Spectrum, SpectrumProcessor
from spectok_hf.data.collators import hidden_patches, hidden_runs
from spectok_hf.data.dataset import SpectrumDataset

PROCESSOR = SpectrumProcessor()


def make_spectrum(length=1000, seed=0, bad=0.05):
    """Noise around 5, with bad pixels, and a first patch that is bad altogether."""
    rng = np.random.default_rng(seed)
    mask = rng.random(length) < bad
    mask[:20] = True
    wavelength = 4000 + 1.5 * np.arange(length)
    return Spectrum(5 + rng.normal(size=length), wavelength, np.ones(length), mask=mask, object_id=str(seed))


SPECTRA = [make_spectrum(1500, 0), make_spectrum(700, 1), make_spectrum(1100, 2)]


def shown_and_hidden(batch):
    """Good pixels of valid patches, and the hidden ones, of each spectrum in turn."""
    good = (batch["pixel_mask"] > 0) & (batch["attention_mask"] > 0)[..., None]
    return zip(good.numpy(), batch["bool_masked_pos"].numpy(), strict=True)


@pytest.mark.parametrize("hide", ["nothing", "runs", "patches"])
def test_inputs_are_those_of_the_processor(hide):
    expected = PROCESSOR(SPECTRA, return_tensors="pt")
    batch = DataCollatorForSpectra(PROCESSOR, hide=hide)(SPECTRA)
    assert ("bool_masked_pos" in batch) == (hide != "nothing")
    assert set(batch) - {"bool_masked_pos"} == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)
        assert batch[name].dtype == value.dtype


@pytest.mark.parametrize("hide", ["nothing", "runs", "patches"])
def test_spectra_and_patched_spectra_are_the_same(hide):
    collator = DataCollatorForSpectra(PROCESSOR, hide=hide)
    whole, patched = collator(SPECTRA), collator([PROCESSOR.patch(spectrum) for spectrum in SPECTRA])
    assert set(whole) == set(patched)
    for name in whole:
        torch.testing.assert_close(whole[name], patched[name], rtol=0, atol=0)


@pytest.mark.parametrize("hide", ["runs", "patches"])
def test_the_draw_depends_on_seed_and_batch_alone(hide):
    def draw(spectra=SPECTRA, seed=0):
        np.random.seed(len(spectra))  # the global state must not matter
        return DataCollatorForSpectra(PROCESSOR, hide=hide, seed=seed)(spectra)["bool_masked_pos"]

    collator = DataCollatorForSpectra(PROCESSOR, hide=hide)
    first = collator(SPECTRA)["bool_masked_pos"]
    collator(SPECTRA[:2])
    assert torch.equal(first, collator(SPECTRA)["bool_masked_pos"])
    assert torch.equal(first, draw())
    assert not torch.equal(first, draw(seed=1))
    assert not torch.equal(first[:1], draw([SPECTRA[0], SPECTRA[2]])[:1])


def test_spectra_normalised_beforehand_are_hidden_differently():
    spectra = [make_spectrum(1500, seed, bad=0) for seed in range(2)]
    for spectrum in spectra:
        spectrum.flux = spectrum.flux / np.median(spectrum.flux[spectrum.good])
    batches = [DataCollatorForSpectra(PROCESSOR, hide="runs")([spectrum]) for spectrum in spectra]
    assert batches[0]["scale"] == batches[1]["scale"] == 1
    assert not torch.equal(batches[0]["bool_masked_pos"], batches[1]["bool_masked_pos"])


@pytest.mark.parametrize("run_length", [1, 8, 20])
@pytest.mark.parametrize("ratio", [0.1, 0.2])
def test_runs_are_consecutive_good_pixels(run_length, ratio):
    collator = DataCollatorForSpectra(PROCESSOR, hide="runs", hide_ratio=ratio, run_length=run_length)
    batch = collator(SPECTRA)
    assert batch["bool_masked_pos"].dtype == torch.bool
    for good, hidden in shown_and_hidden(batch):
        assert not (hidden & ~good).any()  # neither bad pixels, nor bad patches, nor padding
        assert abs(hidden.sum() - ratio * good.sum()) <= run_length / 2
        of_good = hidden[good]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], of_good, [0]])))
        assert ((edges[1::2] - edges[::2]) % run_length == 0).all()  # neighbouring runs touch


def test_runs_keep_to_no_raster():
    good = np.ones(400, dtype=bool)
    starts = {int(np.argmax(hidden_runs(good, 0.02, np.random.default_rng(seed)))) % 8 for seed in range(100)}
    assert starts == set(range(8))


@pytest.mark.parametrize("ratio", [0.001, 0.5, 0.999])
def test_patches_are_valid_ones_and_some_are_shown(ratio):
    batch = DataCollatorForSpectra(PROCESSOR, hide="patches", hide_ratio=ratio)(SPECTRA)
    assert batch["bool_masked_pos"].shape == batch["attention_mask"].shape
    for valid, hidden in zip(batch["attention_mask"].numpy() > 0, batch["bool_masked_pos"].numpy(), strict=True):
        assert not valid[0] and not (hidden & ~valid).any()
        expected = np.clip(round(ratio * valid.sum()), 1, valid.sum() - 1)
        assert hidden.sum() == expected


@given(st.lists(st.booleans(), max_size=60), st.floats(0.001, 0.999), st.integers(0, 5))
def test_hidden_patches_leave_something_to_see(valid, ratio, seed):
    valid = np.array(valid, dtype=bool)
    hidden = hidden_patches(valid, ratio, np.random.default_rng(seed))
    assert not (hidden & ~valid).any()
    if valid.sum() > 1:
        assert 1 <= hidden.sum() <= valid.sum() - 1
        assert abs(hidden.sum() - ratio * valid.sum()) <= 1
    else:
        assert not hidden.any()


@given(st.lists(st.booleans(), max_size=300), st.floats(0.001, 0.999), st.integers(1, 12), st.integers(0, 5))
def test_hidden_runs_are_whole_and_good(good, ratio, run_length, seed):
    good = np.array(good, dtype=bool)
    hidden = hidden_runs(good, ratio, np.random.default_rng(seed), run_length=run_length)
    assert not (hidden & ~good).any()
    assert hidden.sum() % run_length == 0
    assert hidden.sum() <= ratio * good.sum() + run_length / 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("hide", ["runs", "patches"])
def test_loader_workers_hide_the_same(hide, workers):
    spectra = [make_spectrum(300, seed) for seed in range(6)]
    collator = DataCollatorForSpectra(PROCESSOR, hide=hide)
    loader = DataLoader(SpectrumDataset(spectra, PROCESSOR), batch_size=2, collate_fn=collator, num_workers=workers)
    for number, batch in enumerate(loader):
        expected = collator(spectra[2 * number : 2 * number + 2])
        for name, value in expected.items():
            assert torch.equal(batch[name], value)
    assert number == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hide": "runs", "hide_ratio": 0.3}, "must be at most 0.25, found 0.3"),
        ({"hide": "pixels"}, "hide must be one of nothing, runs, patches, found 'pixels'"),
        ({"hide_ratio": 0}, "hide_ratio must lie between 0 and 1, found 0"),
        ({"hide_ratio": 1.0}, "hide_ratio must lie between 0 and 1, found 1.0"),
        ({"hide_ratio": float("nan")}, "hide_ratio must lie between 0 and 1, found nan"),
        ({"run_length": 0}, "run_length must be at least 1, found 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DataCollatorForSpectra(PROCESSOR, **arguments)


def test_a_spectrum_without_a_valid_patch_is_refused():
    with pytest.raises(ValueError, match=r"all 100 pixels of spectrum 1 \(object_id=9\) are bad"):
        DataCollatorForSpectra(PROCESSOR, hide="runs")([SPECTRA[0], make_spectrum(100, 9, bad=1.0)])


def test_bare_mappings_are_refused():
    row = {"flux": np.ones(64), "wavelength": 5000 + np.arange(64.0), "error": np.ones(64)}
    with pytest.raises(ValueError, match=r"found a mapping of flux, wavelength, error: use SpectrumDataset"):
        DataCollatorForSpectra(PROCESSOR)([row])
