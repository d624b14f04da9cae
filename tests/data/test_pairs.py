"""Batches of pairs, and images that are turned."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from spectok_hf import AstroClipConfig, AstroClipModel, AstroClipProcessor, SkyImage, Spectrum, SpectrumProcessor
from spectok_hf.data.mixtures import Visit
from spectok_hf.data.pairs import DataCollatorForPairs, PairDataset, object_code, room_to_turn, turn_image

PROCESSOR = AstroClipProcessor(SpectrumProcessor(patch_size=20), image_size=24)


def make_pair(seed=0, *, size=40, length=400, mask=None, object_id=None):
    rng = np.random.default_rng(seed)
    flux, wavelength = rng.normal(5, 1, length), 4000 + 1.5 * np.arange(length)
    spectrum = Spectrum(flux, wavelength, np.ones(length), mask=mask, object_id=object_id or f"object {seed}")
    image = SkyImage(rng.normal(0.1, 0.05, (3, size, size)), "grz", 0.262, object_id=f"object {seed}")
    return spectrum, image


def same(first, second):
    return all(
        torch.equal(values, second[name]) if torch.is_tensor(values) else values == second[name]
        for name, values in first.items()
    )


PAIRS = [make_pair(seed, length=400 - 40 * seed) for seed in range(4)]


def test_a_batch_is_what_the_processor_gives_with_codes():
    batch = DataCollatorForPairs(PROCESSOR)(PAIRS)
    expected = PROCESSOR(*map(list, zip(*PAIRS, strict=True)), return_tensors="pt")
    assert set(batch) == {*expected, "object_codes", "return_loss"} and batch["return_loss"] is True
    for name, values in expected.items():
        torch.testing.assert_close(batch[name], values)
    assert batch["object_codes"].dtype == torch.int64 and len(set(batch["object_codes"].tolist())) == 4


def test_prepared_pairs_give_the_same_batch():
    for augment in (False, True):
        dataset = PairDataset(PAIRS, PROCESSOR, augment=augment)
        assert len(dataset) == 4 and dataset[0]["pixel_values"].shape[-1] == (room_to_turn(24) if augment else 24)
        for turned in (False, True) if augment else (False,):
            collator = DataCollatorForPairs(PROCESSOR, augment=turned, seed=7)
            assert same(collator([dataset[index] for index in range(4)]), collator(PAIRS))


def test_codes_are_of_the_object():
    first, other = make_pair(0), make_pair(1, object_id="object 0")
    codes = DataCollatorForPairs(PROCESSOR)([first, other, make_pair(2)])["object_codes"].tolist()
    assert codes[0] == codes[1] != codes[2] and min(codes) >= 0
    assert object_code("39628473198710603", np.ones(1)) == 2_464_226_765_879_142_010  # in every process
    assert object_code(None, np.ones(2)) != object_code(None, np.zeros(2))


def test_the_model_learns_from_a_batch_as_it_is():
    spectra = {"model_type": "spectok", "hidden_size": 16, "num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    vision = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "image_size": 24, "patch_size": 8}
    heads = {"num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = AstroClipModel(
        AstroClipConfig(
            spectrum_config=spectra | heads | {"patch_size": 20},
            vision_config=vision | heads,
            projection_dim=8,
            pooling_dropout=0.0,
        )
    )
    model.remember_processor(PROCESSOR)
    pairs = [*PAIRS[:3], (PAIRS[0][0], make_pair(9)[1])]  # one object twice
    batch = DataCollatorForPairs(PROCESSOR)(pairs)
    outputs = model(**batch)
    outputs.loss.backward()
    assert model.spectrum_head.query.grad.abs().sum() > 0
    same = batch["object_codes"][:, None] == batch["object_codes"]
    scores = outputs.logits_per_spectrum.detach()
    known = scores.masked_fill(same & ~torch.eye(4, dtype=torch.bool), -torch.inf)
    rows = torch.arange(4)
    expected = (functional.cross_entropy(known, rows) + functional.cross_entropy(known.T, rows)) / 2
    torch.testing.assert_close(outputs.loss.detach(), expected)


def test_labels_go_along():
    dataset = PairDataset(PAIRS, PROCESSOR)
    rows = [dataset[index] | {"labels": np.float32(index)} for index in range(4)]
    assert DataCollatorForPairs(PROCESSOR)(rows)["labels"].tolist() == [0, 1, 2, 3]


def test_the_same_seed_and_content_give_the_same_images():
    collate = DataCollatorForPairs(PROCESSOR, augment=True, seed=1)
    batch = collate(PAIRS)
    assert same(collate(PAIRS), batch) and same(DataCollatorForPairs(PROCESSOR, augment=True, seed=1)(PAIRS), batch)
    plain = DataCollatorForPairs(PROCESSOR)(PAIRS)
    others = (
        DataCollatorForPairs(PROCESSOR, augment=True, seed=2)(PAIRS)["pixel_values"],
        plain["pixel_values"],
        collate(PAIRS[::-1])["pixel_values"].flip(0),
    )
    for other in others:
        assert all(not torch.equal(*images) for images in zip(batch["pixel_values"], other, strict=True))
    assert torch.equal(batch["flux"], plain["flux"])
    alone, beside = collate(PAIRS[:1]), collate([(PAIRS[1][0], PAIRS[0][1])])  # the image of another spectrum
    assert not torch.equal(alone["pixel_values"], beside["pixel_values"])


def test_a_visits_number_fixes_what_is_drawn():
    dataset = PairDataset(PAIRS, PROCESSOR, augment=True)
    collate = DataCollatorForPairs(PROCESSOR, augment=True)
    first = collate([dataset[Visit(0, 5)], dataset[Visit(1, 6)]])["pixel_values"]
    again = collate([dataset[Visit(2, 9)], dataset[Visit(0, 5)]])["pixel_values"]
    later = collate([dataset[Visit(0, 7)]])["pixel_values"]
    assert torch.equal(first[0], again[1]) and not torch.equal(first[0], later[0])


class Turn:
    """What `turn_image` draws from, with a given mirror and angle."""

    def __init__(self, mirrored, degrees):
        self.mirrored, self.degrees = mirrored, degrees

    def integers(self, high):
        return self.mirrored

    def uniform(self, low, high):
        return np.radians(self.degrees)


@pytest.mark.parametrize("size", [24, 25])
@pytest.mark.parametrize("mirrored", [0, 1])
def test_turns_by_right_angles_are_exact_however_they_are_made(mirrored, size):
    room = room_to_turn(size)
    whole = torch.tensor(np.random.default_rng(0).normal(size=(3, room + 2, room + 4)))
    middle = whole[:, (room + 2 - size) // 2 :, (room + 4 - size) // 2 :][:, :size, :size]
    mirror = middle.flip(-1) if mirrored else middle
    for quarters in range(4):
        found = turn_image(whole, size, Turn(mirrored, 90 * quarters))
        torch.testing.assert_close(found, torch.rot90(mirror, quarters, (1, 2)), atol=1e-9, rtol=0)
        small = turn_image(middle, size, Turn(mirrored, 90 * quarters + 1))  # without room for one degree
        assert torch.equal(small, torch.rot90(mirror, quarters, (1, 2)))


def test_turns_leave_no_corner_empty_and_keep_what_is_round():
    for size in (24, 25, 96):
        room = room_to_turn(size)
        assert np.sqrt(2) * size <= room < np.sqrt(2) * size + 2 and (room - size) % 2 == 0
        offsets = np.arange(room) - (room - 1) / 2
        rings = torch.tensor(np.exp(-np.hypot(*np.meshgrid(offsets, offsets)) / size))[None]
        expected = turn_image(rings, size, Turn(0, 0))
        for degrees in (10, 45, 133, 300.5):
            flat = turn_image(torch.full((1, room, room), 3.0, dtype=torch.float64), size, Turn(1, degrees))
            torch.testing.assert_close(flat, torch.full((1, size, size), 3.0, dtype=torch.float64))
            assert (turn_image(rings, size, Turn(0, degrees)) - expected).abs().max() < 0.02


def test_angles_and_mirrors_are_drawn_evenly():
    image = torch.zeros(1, 40, 40)
    image[0, 14, 26] = 1  # up and right of the middle
    rng = np.random.default_rng(0)
    found = torch.stack([turn_image(image, 24, rng)[0] for _ in range(400)])
    quadrants = found.unflatten(1, (2, 12)).unflatten(3, (2, 12)).sum((2, 4)).mean(0)
    assert (quadrants / quadrants.sum() - 0.25).abs().max() < 0.06


def test_invalid_pairs_are_refused_or_left_out():
    bad = make_pair(5, mask=np.ones(400, bool))
    with pytest.raises(ValueError, match=r"all 400 pixels of spectrum 1 \(object_id=object 5\) are bad"):
        PairDataset([PAIRS[0], bad], AstroClipProcessor(SpectrumProcessor(), image_size=24, on_invalid="mask"))
    with pytest.raises(ValueError, match="are bad"):
        DataCollatorForPairs(PROCESSOR)([bad])
    skipping = AstroClipProcessor(SpectrumProcessor(patch_size=20), image_size=24, on_invalid="skip")
    collate = DataCollatorForPairs(skipping, augment=True)
    with pytest.warns(UserWarning, match="skipped: all 400 pixels of spectrum 0"):
        batch = collate([Visit(bad, 3), Visit(PAIRS[0], 4)])
    assert same(batch, collate([Visit(PAIRS[0], 4)]))
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(ValueError, match="no pair of the batch is valid"):
        collate([bad])
    with pytest.raises(ValueError, match="must have 24 x 24 pixels or more"):
        PairDataset([make_pair(size=20)], PROCESSOR)
    with pytest.raises(ValueError, match="a pair must be a Spectrum and a SkyImage, found Spectrum"):
        DataCollatorForPairs(PROCESSOR)([PAIRS[0][0]])
    with pytest.raises(ValueError, match="found no pixel_values in flux"):
        DataCollatorForPairs(PROCESSOR)([{"flux": np.ones((2, 20))}])
