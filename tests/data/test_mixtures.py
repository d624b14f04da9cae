"""Mixtures: who comes when, and that nobody is lost, whoever shares the order out."""

from collections import Counter

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

from spectok_hf.data.mixtures import MixtureSampler, Visit, blocks, mixture_shares, without_visits


def numbers_of(sampler, iterations):
    """What the sampler gives in its first iterations, one after another."""
    found = []
    for epoch in range(iterations):
        sampler.set_epoch(epoch)
        found += list(sampler)
    return found


sources = st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 10)), min_size=1, max_size=5)


@given(sources, st.integers(0, 3), st.integers(1, 20), st.booleans())
def test_shares_follow_the_weights_in_every_epoch(sources, seed, multiple_of, even):
    sizes, weights = zip(*sources, strict=True)
    lengths = np.arange(sum(sizes)) % 7 if even else None
    sampler = MixtureSampler(blocks(sizes), weights, lengths=lengths, multiple_of=multiple_of, seed=seed)
    counts = [max(round(sum(sizes) * weight / sum(weights)), 1) for weight in weights]
    assert sampler.epoch_size == sum(counts) and len(sampler) % multiple_of == 0
    order = np.array(numbers_of(sampler, 3))
    for first in range(0, len(order) - sampler.epoch_size + 1, sampler.epoch_size):
        epoch = order[first : first + sampler.epoch_size]
        for block, count in zip(blocks(sizes), counts, strict=True):
            assert np.isin(epoch, block).sum() == count


@given(sources, st.integers(0, 3))
def test_no_spectrum_comes_again_before_all_of_its_source_have_come(sources, seed):
    sizes, weights = zip(*sources, strict=True)
    order = numbers_of(MixtureSampler(blocks(sizes), weights, seed=seed), 3)
    whole = len(order) - len(order) % MixtureSampler(blocks(sizes), weights).epoch_size
    for block in blocks(sizes):
        times = Counter(index for index in order[:whole] if index in block)
        assert max(times.values()) - min(times.get(index, 0) for index in block) <= 1


@given(st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 64))
def test_without_weights_every_epoch_holds_every_spectrum_once(sizes, multiple_of):
    order = numbers_of(MixtureSampler(blocks(sizes), multiple_of=multiple_of), 4)
    total = sum(sizes)
    for first in range(0, len(order) - total + 1, total):
        assert sorted(order[first : first + total]) == list(range(total))


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_global_batches_are_the_same_on_any_number_of_processes(processes, accumulation):
    """Through accelerate's own sharding of a batch sampler, as the Trainer has it."""
    batch = 24 // processes // accumulation
    sampler = MixtureSampler(blocks([53, 20]), lengths=np.arange(73), multiple_of=24, visits=True, seed=3)
    expected = np.array(numbers_of(sampler, 1)).reshape(-1, 24, 2)
    sampler.set_epoch(0)
    shards = [
        list(BatchSamplerShard(BatchSampler(sampler, batch, False), processes, rank)) for rank in range(processes)
    ]
    steps = len(expected)
    assert [len(shard) for shard in shards] == [steps * accumulation] * processes
    for step in range(steps):
        parts = [shard[step * accumulation : (step + 1) * accumulation] for shard in shards]
        seen = sorted(visit for shard in parts for one in shard for visit in one)
        assert seen == sorted(map(tuple, expected[step].tolist()))


def test_an_epoch_is_gone_on_with_where_it_was_left():
    sampler = MixtureSampler(blocks([30, 11]), multiple_of=4, visits=True)
    loader = DataLoader(list(range(41)), batch_sampler=BatchSampler(sampler, 4, False), collate_fn=list)
    whole = [list(batch) for batch in BatchSampler(sampler, 4, False)]
    rest = list(skip_first_batches(loader, 7).batch_sampler)
    assert rest == whole[7:]


def test_the_numbers_of_visits_go_on_from_epoch_to_epoch():
    visits = numbers_of(MixtureSampler(blocks([5, 4]), multiple_of=4, visits=True), 3)
    assert [visit.number for visit in visits] == list(range(36))
    assert all(isinstance(visit, Visit) and isinstance(visit.what, int) for visit in visits)


def test_the_order_follows_the_seed_alone():
    orders = [tuple(numbers_of(MixtureSampler(blocks([30, 9]), seed=seed), 2)) for seed in (5, 5, 6)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:39] != orders[0][39:]  # another order in another epoch


def test_sources_are_mixed_and_not_one_after_the_other():
    order = np.array(list(MixtureSampler(blocks([60, 60]), [1, 3], seed=5)))
    assert (order < 60).sum() == 30
    assert (order[:40] < 60).any() and (order[-40:] < 60).any()


def test_an_even_mixture_gives_every_batch_its_share_of_sources_and_lengths():
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(100, 150, 400), rng.integers(200, 600, 300), np.full(300, 512)])
    spread = {}
    for even in (True, False):
        sampler = MixtureSampler(blocks([400, 300, 300]), lengths=lengths if even else None, seed=1)
        batches = lengths[np.array(list(sampler))].reshape(-1, 50)
        spread[even] = batches.sum(1).std()
        shares = (np.array(list(sampler)).reshape(-1, 50) < 400).sum(1)
        if even:
            assert shares.min() >= 17 and shares.max() <= 23
    assert spread[True] < 0.4 * spread[False]


def test_a_source_of_one_spectrum_among_many_costs_no_time():
    sampler = MixtureSampler(blocks([1, 3, 200_000]), [1, 1, 1], lengths=np.ones(200_004))
    order = np.array(list(sampler))
    times = np.bincount(order[order < 4], minlength=4)
    assert times[0] == 66_668 and (times[1:] >= 22_222).all() and times[1:].sum() == 66_668


def test_indices_may_lie_anywhere():
    order = list(MixtureSampler([np.array([7, 3]), np.array([100])], multiple_of=3))
    assert sorted(order) == [3, 7, 100]


@pytest.mark.parametrize(
    ("sizes", "temperature", "expected"),
    [([100, 1], 1, [100 / 101, 1 / 101]), ([100, 1], 2, [10 / 11, 1 / 11]), ([100, 1], float("inf"), [0.5, 0.5])],
)
def test_temperature(sizes, temperature, expected):
    np.testing.assert_allclose(mixture_shares(sizes, temperature=temperature), expected, rtol=1e-12)


def test_millions_of_spectra_do_not_leave_the_range_of_numbers():
    shares = mixture_shares([4_000_000, 20_000_000, 325_000], temperature=1e-3)
    assert np.isfinite(shares).all() and shares.argmax() == 1


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [([3], [1, 1]), ([3, 0], [1, 1]), ([3, 2], [1, 0]), ([3, 2], [1, -1]), ([], []), ([3, 2], [1, float("inf")])],
)
def test_sources_that_cannot_be_mixed_are_refused(sizes, weights):
    with pytest.raises(ValueError, match="every source needs spectra and one positive weight, found sizes"):
        MixtureSampler(blocks(sizes), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be positive, found 0"),
        ({"temperature": 2, "weights": [1, 1]}, "pass weights or a temperature"),
        ({"multiple_of": 0}, "multiple_of must be a whole number from 1 on, found 0: pass the global batch size"),
        ({"multiple_of": 2.5}, "found 2.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixtureSampler(blocks([3, 4]), **options)


def test_a_batch_is_of_visits_or_not():
    assert without_visits(["a", "b"]) == (["a", "b"], None)
    assert without_visits([Visit("a", 3), Visit("b", 4)]) == (["a", "b"], [3, 4])
    with pytest.raises(ValueError, match="all or none of a batch must be visits, found 1 of 2"):
        without_visits([Visit("a", 3), "b"])
