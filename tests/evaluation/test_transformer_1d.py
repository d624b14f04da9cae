"""The plain Transformer on raw flux: what it learns, what it counts, and what it leaves alone."""

import numpy as np
import pytest
import torch

from spectok_hf import Spectrum
from spectok_hf.evaluation.tasks import Split, Task, r_squared
from spectok_hf.evaluation.training import forward_flop, steps_within
from spectok_hf.evaluation.transformer_1d import FluxTransformer, transformer_1d

N, TEST = 300, range(240, 300)
WAVELENGTH = np.geomspace(4000.0, 5000.0, 60)
SIZES = {"patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FIT = SIZES | {"steps": 250, "learning_rate": 3e-3}


def make_spectra():
    """Two lines, the second somewhere else in each spectrum: how far apart they are is the label."""
    rng = np.random.default_rng(0)
    place, second = rng.uniform(0.2, 0.8, N), rng.integers(0, 2, N)
    grid = np.linspace(0, 1, 60)
    line = np.exp(-0.5 * ((grid - place[:, None]) / 0.05) ** 2)
    other = second[:, None] * np.exp(-0.5 * ((grid - 0.05) / 0.03) ** 2)
    flux = 20 * (1 + line - 0.8 * other) + rng.normal(0, 0.6, (N, 60))
    spectra = [
        Spectrum(row, WAVELENGTH, np.full(60, 1 / 0.36), object_id=str(number)) for number, row in enumerate(flux)
    ]
    return spectra, place, second


SPECTRA, PLACE, SECOND = make_spectra()
MANY = Split(range(120), range(120, 240), TEST)  # enough validation spectra to choose weights by
FEW = Split(range(190), range(190, 240), TEST)


def make_task(kind, split=FEW):
    labels = {
        "regression": np.stack([5000 + 1000 * PLACE, np.where(SECOND == 1, np.nan, 5 - PLACE)], -1),
        "classification": np.where(SECOND == 1, "double", "single"),
        "redshift": 3 * PLACE,
    }[kind]
    names = {"target_names": ["teff", "logg"], "target_units": ["K", ""]} if kind == "regression" else {}
    return Task(name=kind, kind=kind, spectra=SPECTRA, labels=labels, splits=[split], **names)


def predict(task, seed=1, **options):
    return transformer_1d(**FIT | options)(task, task.splits[0], seed).values


@pytest.mark.parametrize("split", [FEW, MANY], ids=["last weights", "best weights"])
def test_it_learns_numbers_and_lets_missing_ones_be(split):
    task = make_task("regression", split)
    found, truth = predict(task), task.labels[split.test]
    known = np.isfinite(truth[:, 1])
    assert r_squared(truth[:, 0], found[:, 0]) > 0.9
    assert r_squared(truth[known, 1], found[known, 1]) > 0.8  # from half of the spectra
    # To the other half nothing was said of it, not even that it were the mean.
    assert np.corrcoef(found[~known, 1], 5 - PLACE[split.test][~known])[0, 1] > 0.8


def test_it_learns_classes_and_redshifts():
    task = make_task("classification")
    assert np.mean(predict(task) == task.labels[TEST]) > 0.95
    task = make_task("redshift")
    assert r_squared(task.labels[TEST], predict(task)) > 0.9


def test_a_rare_class_weighs_more():
    """Of spectra that hold nothing of the class, all are of the more frequent one; weights move the chances."""
    labels = np.where(np.arange(N) % 5 == 0, "rare", "common")
    flat = [Spectrum(np.ones(60), WAVELENGTH, np.ones(60), object_id=str(number)) for number in range(N)]
    task = Task(name="flat", kind="classification", spectra=flat, labels=labels, splits=[FEW])
    chances = []

    def keep(network, flux):
        chances.append(network)
        return 60

    predict(task, steps=keep)
    logits = chances[0](torch.zeros(1, 60)).softmax(-1)[0]
    # 4 to 1 in number, with weights 1 / sqrt(number): 2 to 1.
    assert logits.tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.08)


def test_the_seed_says_it_all_and_nothing_else_is_touched():
    task = make_task("redshift")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = predict(task, steps=5)
    assert torch.equal(torch.rand(2), expected)
    np.testing.assert_array_equal(predict(task, steps=5), first)
    assert not np.allclose(predict(task, steps=5, seed=2), first)


def test_labels_of_the_test_part_do_not_matter():
    task, other = make_task("regression"), make_task("regression")
    other.labels[TEST] = 1e6
    np.testing.assert_array_equal(predict(task, steps=5), predict(other, steps=5))


def test_validation_chooses_the_weights():
    """Validation labels that contradict training: what comes first is best, and more steps do not help."""
    task = make_task("redshift", MANY)
    task.labels[120:240] = 3 * (1 - PLACE[120:240])
    chosen, last = predict(task, checks=25), predict(task, checks=0)
    assert last.std() > 0.4 and chosen.std() < 0.5 * last.std()  # the mean, before any line was learned


def test_the_cost_is_that_of_its_products():
    bins, width, patches, batch = 60, 32, 8, 3
    network = FluxTransformer(bins, 5, **SIZES)
    per_layer = 4 * width**2 + 8 * width**2 + 2 * patches * width  # projections, MLP, and the products of attention
    expected = patches * (8 * width + 2 * per_layer) + 5 * width
    assert forward_flop(network, torch.zeros(batch, bins)) == 2 * batch * expected
    assert network.training and network(torch.zeros(batch, bins)).shape == (batch, 5)


def test_steps_are_asked_of_the_new_network_and_a_batch():
    task, asked = make_task("redshift"), []

    def steps(network, flux):
        asked.append((network.training, tuple(flux.shape), forward_flop(network, flux)))
        return 4

    predict(task, steps=steps, batch_size=24)
    ((training, shape, flop),) = asked
    assert training and shape == (24, 60)
    four = predict(task, steps=steps_within(3 * 4 * flop), batch_size=24)
    np.testing.assert_array_equal(four, predict(task, steps=4, batch_size=24))
    with pytest.raises(ValueError, match="one step of training at least, found 0"):
        predict(task, steps=lambda network, flux: 0)


def test_where_a_line_is_matters():
    """Patches in another order are another spectrum: positions are part of the input."""
    torch.manual_seed(0)
    network, flux = FluxTransformer(64, 1, **SIZES).eval(), torch.randn(1, 64)
    moved = flux.unflatten(1, (8, 8)).flip(1).flatten(1)
    assert not torch.allclose(network(flux), network(moved), atol=1e-4)
    padded = FluxTransformer(60, 1, **SIZES).eval()
    padded.load_state_dict(network.state_dict())
    filled = torch.cat([flux[:, :60], torch.zeros(1, 4)], 1)
    torch.testing.assert_close(padded(flux[:, :60]), network(filled))


@pytest.mark.parametrize("wrong", [{"hidden_size": 30}, {"patch_size": 0}, {"num_hidden_layers": 0}])
def test_sizes_are_checked_before_anything_is_trained(wrong):
    with pytest.raises(ValueError, match="sizes must be positive and hidden_size a multiple of num_attention_heads"):
        transformer_1d(**SIZES | wrong)
