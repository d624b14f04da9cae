"""Counting of batches, and the arithmetic of the figures; a fake clock tells the time."""

import numpy as np
import pytest
import torch

from spectok_hf import OmniSpectraConfig, OmniSpectraModel, SpecTokConfig, SpecTokForPreTraining
from spectok_hf.evaluation.throughput import Throughput, matmul_rate

LENGTHS = [3, 5, 2]


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def model():
    return SpecTokForPreTraining(
        SpecTokConfig(
            hidden_size=16,
            num_hidden_layers=1,
            decoder_num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            patch_size=4,
            latent_size=2,
            wavelength_dim=4,
        )
    )


def packed(lengths=LENGTHS, rows=None):
    return {"flux": torch.zeros(rows or sum(lengths), 4), "num_patches": np.array(lengths)}


def padded(lengths=LENGTHS):
    return {"flux": torch.zeros(len(lengths), max(lengths), 4), "num_patches": torch.tensor(lengths)}


def test_rates_are_per_second_of_the_clock(model, clock):
    throughput = Throughput(model, clock=clock)
    throughput.count(packed())
    throughput.count(padded())
    clock.now += 4
    figures = throughput.report()
    assert figures["spectra_per_second"] == 6 / 4
    assert figures["tokens_per_second"] == 20 / 4
    assert "mfu" not in figures


@pytest.mark.parametrize(("training", "factor"), [(True, 3), (False, 1)])
@pytest.mark.parametrize("make", [packed, padded])
def test_mfu_counts_what_the_spectra_need(model, clock, training, factor, make):
    throughput = Throughput(model, peak=1e9, training=training, clock=clock)
    throughput.count(make())
    clock.now += 2
    assert throughput.report()["mfu"] == pytest.approx(factor * model.flops(LENGTHS) / 2 / 1e9)


def test_padding_share_is_that_of_the_batch(model, clock):
    throughput = Throughput(model, clock=clock)
    shares = []
    for batch in (packed(), packed(rows=16), padded()):
        throughput.count(batch)
        clock.now += 1
        shares.append(throughput.report()["padding_share"])
    assert shares == [0, 1 - 10 / 16, 1 - 10 / 15]


def test_a_report_starts_the_next_count(model, clock):
    throughput = Throughput(model, clock=clock)
    throughput.count(packed())
    clock.now += 1
    throughput.report()
    throughput.count(packed([7]))
    clock.now += 2
    assert throughput.report()["tokens_per_second"] == 7 / 2


def test_restart_leaves_an_evaluation_out(model, clock):
    throughput = Throughput(model, clock=clock)
    throughput.count(packed())
    clock.now += 50
    throughput.restart()
    throughput.count(packed())
    clock.now += 1
    assert throughput.report()["tokens_per_second"] == 10


def test_nothing_counted_gives_no_figures(model, clock):
    assert Throughput(model, clock=clock).report() == {}


def test_static_buffers_may_be_overwritten(model, clock):
    throughput = Throughput(model, clock=clock)
    batch = padded()
    throughput.count(batch)
    batch["num_patches"].fill_(1)
    throughput.count(batch)
    clock.now += 1
    assert throughput.report()["tokens_per_second"] == 13


def test_counting_does_not_read_the_lengths(model, clock):
    """On a meta tensor, as on a GPU, values cannot be had without waiting; here the attempt raises."""
    throughput = Throughput(model, clock=clock)
    throughput.count({"flux": torch.zeros(2, 5, 4), "num_patches": torch.tensor([5, 3], device="meta")})


def test_lengths_are_needed(model):
    with pytest.raises(ValueError, match="num_patches to be counted, found only flux"):
        Throughput(model).count({"flux": torch.zeros(2, 5, 4)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrix_products_have_a_rate_and_draw_nothing(dtype):
    state = torch.get_rng_state()
    assert matmul_rate("cpu", dtype, size=16, rounds=1) > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_any_family_is_counted(clock):
    model = OmniSpectraModel(
        OmniSpectraConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    counter = Throughput(model, 1e6, training=False, clock=clock)
    counter.count({"num_patches": torch.tensor(LENGTHS), "flux": torch.zeros(3, 5, 20)})
    clock.now += 2.0
    figures = counter.report()
    assert figures["tokens_per_second"] == 5 and figures["padding_share"] == pytest.approx(1 / 3)
    assert figures["mfu"] == pytest.approx(model.flops(LENGTHS) / 2e6)
