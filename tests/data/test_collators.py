"""Padded and packed batches, what they hide, and batches by a budget of patches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from spectok_hf import (
    DataCollatorForSpectra,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    Spectrum,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.collators import (
    DataCollatorForPackedSpectra,
    TokenBudgetBatchSampler,
    hidden_chunks,
    hidden_patches,
    hidden_runs,
    one_chunk_each,
)
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.mixtures import Visit

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


@pytest.mark.parametrize("hide", ["nothing", "runs", "patches", "chunks"])
def test_inputs_are_those_of_the_processor(hide):
    expected = PROCESSOR(SPECTRA, return_tensors="pt")
    batch = DataCollatorForSpectra(PROCESSOR, hide=hide)(SPECTRA)
    assert ("bool_masked_pos" in batch) == (hide != "nothing")
    assert set(batch) - {"bool_masked_pos"} == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, rtol=0, atol=0)
        assert batch[name].dtype == value.dtype


@pytest.mark.parametrize("hide", ["nothing", "runs", "patches", "chunks"])
def test_spectra_and_patched_spectra_are_the_same(hide):
    collator = DataCollatorForSpectra(PROCESSOR, hide=hide)
    whole, patched = collator(SPECTRA), collator([PROCESSOR.patch(spectrum) for spectrum in SPECTRA])
    assert set(whole) == set(patched)
    for name in whole:
        torch.testing.assert_close(whole[name], patched[name], rtol=0, atol=0)


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, DataCollatorForPackedSpectra])
@pytest.mark.parametrize("hide", ["runs", "patches", "chunks"])
def test_what_is_hidden_from_a_visit_depends_on_its_number_alone(hide, collator):
    """So a training hides the same on any number of processes, and something else at every visit."""
    collate = collator(PROCESSOR, hide=hide)

    def hidden(*visits):
        batch = collate([Visit(SPECTRA[index], number) for index, number in visits])
        rows = batch["bool_masked_pos"].reshape(len(batch["bool_masked_pos"]), -1).numpy()
        lengths = [int(length) for length in batch["num_patches"]]
        if collator is DataCollatorForSpectra:
            return [row[: length * (32 if hide == "runs" else 1)] for row, length in zip(rows, lengths, strict=True)]
        return np.split(rows, np.cumsum(lengths)[:-1])

    whole = hidden((0, 10), (1, 11), (2, 12))
    for one, expected in zip([hidden((0, 10)), hidden((1, 11)), hidden((2, 12))], whole, strict=True):
        np.testing.assert_array_equal(one[0].ravel(), expected.ravel())
    np.testing.assert_array_equal(hidden((2, 12), (0, 10))[1].ravel(), whole[0].ravel())
    assert (hidden((0, 11))[0] != hidden((0, 10))[0]).any()


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, DataCollatorForPackedSpectra])
def test_what_is_skipped_takes_its_number_with_it(collator):
    bad = Spectrum(np.ones(64), 4000 + np.arange(64), np.zeros(64))
    collate = collator(SpectrumProcessor(on_invalid="skip"), hide="runs")
    with pytest.warns(UserWarning, match="skipped 1 spectra of a batch: no valid patch"):
        batch = collate([Visit(SPECTRA[0], 7), Visit(bad, 8), Visit(SPECTRA[2], 9)])
    expected = collate([Visit(SPECTRA[0], 7), Visit(SPECTRA[2], 9)])
    assert torch.equal(batch["bool_masked_pos"], expected["bool_masked_pos"])


@pytest.mark.parametrize("hide", ["runs", "patches", "chunks"])
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


# chunks


def intervals_of(count, width):
    """First and last token (exclusive) of each interval, and the width of the chunks in them."""
    if count < 2 * width:
        return [(0, count)], count // 2
    number = count // (2 * width)
    return [(k * count // number, (k + 1) * count // number) for k in range(number)], width


def starts_of(count, width, ratio):
    """How many intervals get a chunk, and where a chunk may start in each, by the plainest means."""
    intervals, width = intervals_of(count, width)
    starts = [[first for first in range(start, stop) if first + width + 1 <= stop] for start, stop in intervals]
    return max(math.floor(ratio * len(intervals) + 0.5), 1), starts, width


def draw_chunks(count, width, ratio, draws=10_000, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([hidden_chunks(count, width, ratio, rng) for _ in range(draws)])


def chunks_in(hidden):
    """Draw, start and width of each run of hidden tokens."""
    edges = np.diff(np.pad(hidden, [(0, 0), (1, 1)]).astype(int), axis=1)
    draw, start = np.nonzero(edges == 1)
    return draw, start, np.nonzero(edges == -1)[1] - start


def assert_frequent(found, expected):
    """Chi-square of counts, within five standard deviations of its mean."""
    chi2 = ((np.asarray(found) - expected) ** 2 / expected).sum()
    freedom = max(np.size(found) - 1, 1)
    assert abs(chi2 - freedom) <= 5 * np.sqrt(2 * freedom) or np.size(found) == 1


def test_chunks_are_hidden_in_three_quarters_of_the_intervals_unless_told_otherwise():
    spectra = simulate_survey("desi", 1, seed=1006)  # 778 tokens, 7 intervals
    for options, count in (({}, 5), ({"hide_ratio": 0.3}, 2)):
        batch = DataCollatorForSpectra(OmniSpectraProcessor(), hide="chunks", **options)(spectra)
        assert batch["bool_masked_pos"].sum() == count * 50


@pytest.mark.parametrize("count", [2, 3, 50, 99, 100, 101, 199, 200, 778])
def test_chunks_are_those_of_the_paper(count):
    """Over 10,000 draws: how many, how wide, where, and never beside each other."""
    number, starts, width = starts_of(count, 50, 0.75)
    hidden = draw_chunks(count, 50, 0.75)
    assert hidden.shape == (10_000, count) and hidden.dtype == bool
    draw, start, found = chunks_in(hidden)  # two that touch would be one of twice the width
    assert (found == width).all()
    assert (np.bincount(draw, minlength=10_000) == number).all()
    firsts = [interval[0] for interval in starts]
    interval = np.searchsorted(firsts, start, side="right") - 1
    assert len(set(zip(draw.tolist(), interval.tolist(), strict=True))) == len(draw)  # one per interval
    for which, allowed in enumerate(starts):
        counts = np.bincount(start[interval == which] - allowed[0], minlength=len(allowed))
        assert len(counts) == len(allowed)  # none starts too late
        assert counts.sum() == pytest.approx(10_000 * number / len(starts), abs=5 * 50)
        assert_frequent(counts, counts.sum() / len(allowed))


def test_each_token_is_hidden_as_often_as_it_should_be():
    number, starts, width = starts_of(778, 50, 0.75)
    expected = np.zeros(778)
    for allowed in starts:
        for first in allowed:
            expected[first : first + width] += number / len(starts) / len(allowed)
    sigma = np.sqrt(expected * (1 - expected) / 10_000)
    assert (np.abs(draw_chunks(778, 50, 0.75).mean(0) - expected) <= 5 * sigma + 1e-12).all()


def test_the_intervals_part_the_tokens():
    for count in (100, 101, 199, 200, 399, 778, 1000):
        intervals, width = intervals_of(count, 50)
        assert [start for start, _ in intervals] == [0, *(stop for _, stop in intervals[:-1])]
        assert intervals[-1][1] == count and min(stop - start for start, stop in intervals) >= 2 * width


@given(st.integers(0, 400), st.integers(1, 60), st.floats(0.001, 0.999), st.integers(0, 5))
def test_chunks_leave_a_token_between_them(count, width, ratio, seed):
    number, starts, width = starts_of(count, width, ratio)
    hidden = hidden_chunks(count, width, ratio, np.random.default_rng(seed)) if width else np.zeros(count, dtype=bool)
    _, start, found = chunks_in(hidden[None])
    assert (found == width).all() and len(found) == (number if width else 0)
    assert set(start.tolist()) <= {first for allowed in starts for first in allowed}


@pytest.mark.parametrize("count", [0, 1])
def test_a_lone_token_is_never_hidden(count):
    assert hidden_chunks(count, 50, 0.75, np.random.default_rng(0)).tolist() == [False] * count


def test_chunks_are_drawn_over_all_patches_valid_or_not():
    spectrum, wider = (make_spectrum(320, 0, bad=bad) for bad in (0, 0.9))
    processor = SpectrumProcessor(8, on_invalid="mask")
    collate = DataCollatorForSpectra(processor, hide="chunks", hide_ratio=0.1, chunk_length=5)
    whole, holey = (collate([Visit(one, 3)]) for one in (spectrum, wider))
    assert holey["attention_mask"].sum() < whole["attention_mask"].sum()
    assert torch.equal(whole["bool_masked_pos"], holey["bool_masked_pos"])
    assert whole["bool_masked_pos"].sum() == 5


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, DataCollatorForPackedSpectra])
@pytest.mark.parametrize("visits", [False, True])
def test_chunks_of_one_batch_are_independent(visits, collator):
    features = [PROCESSOR.patch(make_spectrum(20 * 32, bad=0))] * 2  # 20 tokens: 2 intervals of 5 starts each
    joint = np.zeros((20, 20))
    for seed in range(4000):
        collate = collator(PROCESSOR, hide="chunks", hide_ratio=0.5, chunk_length=5, seed=0 if visits else seed)
        batch = [Visit(item, 2 * seed + row) for row, item in enumerate(features)] if visits else features
        joint[tuple(collate(batch)["bool_masked_pos"].reshape(2, 20).int().argmax(1).tolist())] += 1
    possible = [*range(5), *range(10, 15)]
    assert joint[np.ix_(possible, possible)].sum() == 4000
    assert_frequent(joint[np.ix_(possible, possible)], 40)


def one_per_part(count, width, parts, draws=10_000):
    rng = np.random.default_rng(0)
    return np.stack([one_chunk_each(count, width, parts, rng) for _ in range(draws)])


@pytest.mark.parametrize(("count", "width", "parts"), [(777, 30, 6), (777, 50, 6), (778, 30, 6), (100, 7, 7)])
def test_each_part_of_a_spectrum_gets_a_chunk_whose_start_is_uniform(count, width, parts):
    """The rule of Specformer's public code, over 10,000 draws."""
    hidden = one_per_part(count, width, parts)
    draw, start, found = chunks_in(hidden)  # two that touch would be one of twice the width
    assert (found == width).all() and (np.bincount(draw, minlength=10_000) == parts).all()
    places = start.reshape(10_000, parts)  # in the order of the parts, since parts do not overlap
    allowed = count // parts - width
    for part, offset in enumerate(places.T):
        counts = np.bincount(offset - part * count // parts)
        assert len(counts) == allowed  # all that may be, and none beyond
        assert_frequent(counts, 10_000 / allowed)
    correlation = np.corrcoef(places.T)[np.triu_indices(parts, 1)]
    assert np.abs(correlation).max() < 0.05  # parts are drawn on their own


@given(st.integers(0, 300), st.integers(1, 60), st.integers(1, 12), st.integers(0, 5))
def test_short_spectra_get_fewer_or_narrower_chunks_and_none_is_hidden_whole(count, width, parts, seed):
    hidden = one_chunk_each(count, width, parts, np.random.default_rng(seed))
    _, _, found = chunks_in(hidden[None])
    assert hidden.shape == (count,) and len(found) == min(parts, count // 2)
    assert (found <= width).all() and (count < 2 or not hidden.all())
    if count >= 2 * width * parts:
        assert (found == width).all()


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, DataCollatorForPackedSpectra])
def test_the_config_says_what_is_hidden_of_a_desi_spectrum(collator):
    spectra = simulate_survey("desi", 3, seed=1104)
    batch = collator(SpecformerProcessor(), hide="chunks", **SpecformerConfig().masking)(spectra)
    hidden = batch["bool_masked_pos"].reshape(3, 777)
    assert hidden.sum(1).tolist() == [6 * 30] * 3 and len({tuple(row) for row in hidden.tolist()}) == 3
    for row in hidden.int():
        assert [part.sum().item() for part in row.tensor_split([k * 777 // 6 for k in range(1, 6)])] == [30] * 6


@pytest.mark.parametrize(
    "options",
    [
        {"hide": "chunks", "num_chunks": 0},
        {"hide": "patches", "num_chunks": 6},
        {"hide": "chunks", "num_chunks": 6, "hide_ratio": 0.5},
    ],
)
def test_a_number_of_chunks_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match=r"num_chunks .* at least 1, in place of a hide_ratio, found"):
        DataCollatorForSpectra(PROCESSOR, **options)


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, DataCollatorForPackedSpectra])
@pytest.mark.parametrize("prepared", [False, True])
def test_batches_carry_the_mean_of_each_spectrum_beside_its_scale(prepared, collator):
    processor, spectra = SpecformerProcessor(), simulate_survey("desi", 3, seed=1104)
    patches = [processor.patch(spectrum) for spectrum in spectra]
    batch = collator(processor)(patches if prepared else spectra)
    for name in ("loc", "scale"):
        assert batch[name].dtype == torch.float32 and batch[name].tolist() == [each[name] for each in patches]
    assert len(batch["loc"].unique()) == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("hide", ["runs", "patches", "chunks"])
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
        ({"hide": "pixels"}, "hide must be one of nothing, runs, patches, chunks, found 'pixels'"),
        ({"hide_ratio": 0}, "hide_ratio must lie between 0 and 1, found 0"),
        ({"hide_ratio": 1.0}, "hide_ratio must lie between 0 and 1, found 1.0"),
        ({"hide_ratio": float("nan")}, "hide_ratio must lie between 0 and 1, found nan"),
        ({"run_length": 0}, "run_length must be at least 1, found 0"),
        ({"chunk_length": 0}, "chunk_length must be at least 1, found 0"),
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


# packed


LENGTHS = [47, 22, 35]  # patches of SPECTRA
ORDER = ["scale", "flux", "wavelength", "error", "pixel_mask", "attention_mask", "num_patches", "max_num_patches"]


def unpack(batch, name):
    stops = np.cumsum(batch["num_patches"])
    return [batch[name][start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


@pytest.mark.parametrize("pad_to", [None, 104, 128])
@pytest.mark.parametrize("hide", ["nothing", "runs", "patches", "chunks"])
def test_packed_batches_hold_what_padded_ones_do(hide, pad_to):
    padded = DataCollatorForSpectra(PROCESSOR, hide=hide)(SPECTRA)
    packed = DataCollatorForPackedSpectra(PROCESSOR, hide=hide, pad_to=pad_to)(SPECTRA)
    assert list(packed) == ORDER + ["bool_masked_pos"] * (hide != "nothing")
    assert packed["num_patches"].tolist() == padded["num_patches"].tolist() == LENGTHS
    assert torch.equal(packed["scale"], padded["scale"])
    for name in [*ORDER[1:6], *packed.keys() & {"bool_masked_pos"}]:
        assert len(packed[name]) == (pad_to or 104)
        assert not packed[name][sum(LENGTHS) :].any()
        for part, row, length in zip(unpack(packed, name), padded[name], LENGTHS, strict=True):
            torch.testing.assert_close(part, row[:length].to(part.dtype), rtol=0, atol=0)
            assert not row[length:].any()


@pytest.mark.parametrize("hide", ["nothing", "runs", "patches", "chunks"])
def test_packed_types_are_those_of_the_contract(hide):
    batch = DataCollatorForPackedSpectra(PROCESSOR, hide=hide)(SPECTRA)
    for name in ("scale", "flux", "wavelength", "error"):
        assert batch[name].dtype == torch.float32
    for name in ("pixel_mask", "attention_mask", *batch.keys() & {"bool_masked_pos"}):
        assert batch[name].dtype == torch.bool
    assert type(batch["num_patches"]) is np.ndarray and batch["num_patches"].dtype == np.int64
    assert type(batch["max_num_patches"]) is int and batch["max_num_patches"] == 64


@pytest.mark.parametrize(("patches", "bound"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_the_bound_of_the_length_is_a_power_of_two(patches, bound):
    spectrum = make_spectrum(32 * patches, bad=0)
    spectrum.mask[:] = False
    assert DataCollatorForPackedSpectra(PROCESSOR)([spectrum])["max_num_patches"] == bound


@pytest.mark.parametrize("hide", ["nothing", "runs"])
def test_packed_spectra_and_patched_spectra_are_the_same(hide):
    collator = DataCollatorForPackedSpectra(PROCESSOR, hide=hide, pad_to=110)
    whole, patched = collator(SPECTRA), collator([PROCESSOR.patch(spectrum) for spectrum in SPECTRA])
    assert list(whole) == list(patched)
    for name in whole:
        assert type(whole[name]) is type(patched[name])
        torch.testing.assert_close(torch.as_tensor(whole[name]), torch.as_tensor(patched[name]), rtol=0, atol=0)


@pytest.mark.parametrize("labels", [np.array(3), np.arange(2.0), [0.5, np.nan], 7])
def test_both_collators_pass_labels_on(labels):
    features = [PROCESSOR.patch(spectrum) | {"labels": labels} for spectrum in SPECTRA]
    padded, packed = (kind(PROCESSOR)(features)["labels"] for kind in COLLATORS)
    torch.testing.assert_close(packed, padded, rtol=0, atol=0, equal_nan=True)
    assert len(packed) == 3


COLLATORS = (DataCollatorForSpectra, DataCollatorForPackedSpectra)


def test_a_batch_that_does_not_fit_is_refused():
    collator = DataCollatorForPackedSpectra(PROCESSOR, pad_to=103)
    for features in (SPECTRA, [PROCESSOR.patch(spectrum) for spectrum in SPECTRA]):
        with pytest.raises(ValueError, match=r"at most pad_to=103 patches, found 104 in 3 spectra: batch by Token"):
            collator(features)
    with pytest.raises(ValueError, match="pad_to must be at least 1 patch, found 0"):
        DataCollatorForPackedSpectra(PROCESSOR, pad_to=0)
    with pytest.raises(ValueError, match="hide_ratio must lie between 0 and 1"):
        DataCollatorForPackedSpectra(PROCESSOR, hide_ratio=2)
    with pytest.raises(ValueError, match=r"found a mapping of flux: use SpectrumDataset"):
        DataCollatorForPackedSpectra(PROCESSOR)([{"flux": np.ones(64)}])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("lazy", [False, True])
def test_lengths_stay_on_the_host_through_a_loader(lazy, workers):
    dataset = SpectrumDataset(SPECTRA, PROCESSOR, lazy=lazy)
    collator = DataCollatorForPackedSpectra(PROCESSOR, hide="runs")
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=collator, num_workers=workers)
    assert type(batch["num_patches"]) is np.ndarray and type(batch["max_num_patches"]) is int
    for name, value in collator(SPECTRA).items():
        assert torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(value))


# batches by a budget


def paper_lengths(count, shares, seed=0):
    """Patches of SDSS, DESI, GALAH and APOGEE spectra."""
    rng = np.random.default_rng(seed)
    survey = rng.choice(4, count, p=np.array(shares) / sum(shares))
    return np.choose(survey, [-(-rng.integers(3900, 4701, count) // 32), 244, 512, 235])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("shares", [(1, 1, 1, 1), (4000, 20_000, 325, 716)])
def test_the_budget_is_used(shares, shuffle):
    lengths = paper_lengths(80_000, shares)
    sampler = TokenBudgetBatchSampler(lengths, shuffle=shuffle)
    batches = list(sampler)
    assert len(batches) == len(sampler) >= 1000
    assert max(lengths[batch].sum() for batch in batches) <= 16_384
    assert sampler.waste == pytest.approx(1 - lengths.sum() / (len(batches) * 16_384))
    assert sampler.waste <= 0.02


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(30, 90), st.none() | st.integers(1, 4), st.booleans())
def test_each_spectrum_is_in_one_batch_that_fits(lengths, budget, max_spectra, shuffle):
    sampler = TokenBudgetBatchSampler(lengths, budget, max_spectra=max_spectra, shuffle=shuffle)
    batches = list(sampler)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in batch) <= budget for batch in batches)
    assert all(len(batch) <= (max_spectra or 60) for batch in batches)
    assert list(sampler) == batches


def test_batches_follow_seed_and_epoch_alone():
    lengths = paper_lengths(300, (1, 1, 1, 1))

    def batches(epoch=0, **options):
        sampler = TokenBudgetBatchSampler(lengths, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches() == batches(epoch=1) == batches(seed=1)
    assert batches(shuffle=True) == batches(shuffle=True)
    assert len({str(batches(epoch, shuffle=True, seed=seed)) for epoch in (0, 1) for seed in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5, 200, 300], 100), "must fit into token_budget=100, found 200 patches at index 1: raise the budget"),
        (([5], 100, 0), "max_spectra must be at least 1, found 0"),
    ],
)
def test_what_fits_into_no_batch_is_refused(arguments, message):
    lengths, budget, *rest = arguments
    with pytest.raises(ValueError, match=message):
        TokenBudgetBatchSampler(lengths, budget, max_spectra=rest[0] if rest else None)


def test_a_loader_takes_the_batches():
    spectra = [make_spectrum(300 + 100 * seed, seed) for seed in range(6)]
    dataset = SpectrumDataset(spectra, PROCESSOR)
    sampler = TokenBudgetBatchSampler([len(features["flux"]) for features in dataset.features], 60)
    collator = DataCollatorForPackedSpectra(PROCESSOR, pad_to=60)
    batches = list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collator))
    assert [len(batch["scale"]) for batch in batches] == [len(indices) for indices in sampler]
    assert all(batch["flux"].shape == (60, 32) for batch in batches)


def test_rows_of_a_padded_batch_are_packed_without_their_padding():
    processor = SpectrumProcessor()
    spectra = simulate_survey("sdss", 1) + simulate_survey("desi", 1)
    padded = processor(spectra, return_tensors="np")
    rows = [{name: values[number] for name, values in padded.items()} for number in range(2)]
    expected = DataCollatorForPackedSpectra(processor, hide="runs")(spectra)
    found = DataCollatorForPackedSpectra(processor, hide="runs")(rows)
    assert found["num_patches"].tolist() == expected["num_patches"].tolist()
    for name in ("flux", "wavelength", "pixel_mask", "bool_masked_pos"):
        assert torch.equal(found[name], expected[name]), name


@pytest.mark.parametrize("collator", [DataCollatorForSpectra, DataCollatorForPackedSpectra])
@pytest.mark.parametrize("labelled", [0, 1])
def test_a_label_that_only_some_spectra_have_is_refused(collator, labelled):
    processor = SpectrumProcessor()
    features = [processor.patch(spectrum) for spectrum in simulate_survey("sdss", 2)]
    features[labelled]["labels"] = np.array(1.0)
    with pytest.raises(ValueError, match="same entries, found labels in some"):
        collator(processor)(features)


@pytest.mark.parametrize("lengths", [[-5, 3], [1.7, 2.2]])
def test_lengths_that_are_no_numbers_of_patches_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths must be whole numbers of patches"):
        TokenBudgetBatchSampler(lengths, 4)


def test_changing_a_batch_does_not_change_the_sampler():
    sampler = TokenBudgetBatchSampler([1, 2, 3], 4)
    next(iter(sampler)).append(99)
    assert sorted(index for batch in sampler for index in batch) == [0, 1, 2]


def test_trainer_predicts_one_row_per_spectrum_from_packed_batches(tmp_path):
    processor = SpectrumProcessor()
    spectra = simulate_survey("sdss", 2) + simulate_survey("desi", 1)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", num_hidden_layers=1, decoder_num_hidden_layers=1))
    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=2, use_cpu=True, dataloader_pin_memory=False
    )
    dataset = SpectrumDataset(spectra, processor)
    losses = []
    for collator in (DataCollatorForPackedSpectra(processor), DataCollatorForSpectra(processor)):
        found = Trainer(model, arguments, data_collator=collator).predict(dataset)
        losses.append(found.metrics["test_loss"])
        with torch.no_grad():
            expected = model.eval()(**processor(spectra, return_tensors="pt")).pooler_output
        np.testing.assert_allclose(found.predictions, expected, atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
