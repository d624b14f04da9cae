"""Batches of pictures: from spectra, features and visits, with their labels, in loaders and in Trainer."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spectok_hf import DataCollatorForSpectra, Spectrum, SpectrumImageProcessor, SpectrumProcessor
from spectok_hf.data.collators import DataCollatorForPackedSpectra, DataCollatorForSpectrumImages, collator_for
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.data.mixtures import Visit

PROCESSORS = {
    plot_type: SpectrumImageProcessor(plot_type, image_size=32, block_size=2)
    for plot_type in ("simple", "overlap", "map")
}
every_plot = pytest.mark.parametrize("plot_type", PROCESSORS)


def make_spectrum(seed=0, length=300, **fields):
    rng = np.random.default_rng(seed)
    wavelength = 4000 + 1.5 * np.arange(length)
    return Spectrum(5 + rng.normal(size=length), wavelength, np.ones(length), object_id=str(seed), **fields)


SPECTRA = [make_spectrum(seed, 200 + 50 * seed) for seed in range(5)]


@every_plot
def test_a_batch_is_that_of_the_processor_however_it_comes(plot_type):
    processor = PROCESSORS[plot_type]
    collator, features = DataCollatorForSpectrumImages(processor), [processor.patch(one) for one in SPECTRA]
    expected = processor(SPECTRA, return_tensors="pt")["pixel_values"]
    assert expected.dtype == torch.float32 and len(expected.unique(dim=0)) == len(SPECTRA)
    for items in (SPECTRA, features):
        for batch in (items, [Visit(item, 10 * number) for number, item in enumerate(items)]):
            found = collator(batch)
            assert type(found) is dict and list(found) == ["pixel_values"]
            assert torch.equal(found["pixel_values"], expected)
    with pytest.raises(ValueError, match="all or none of a batch must be visits"):
        collator([SPECTRA[0], Visit(SPECTRA[1], 0)])


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        ([0, 2, 1, -100, 0], torch.int64),
        ([0.5, np.nan, 1.0, 2.0, 0.1], torch.float32),
        (np.arange(10.0).reshape(5, 2), torch.float32),
    ],
)
def test_labels_stay_with_their_spectra(labels, kind):
    processor = PROCESSORS["map"]
    dataset = SpectrumDataset(SPECTRA, processor, labels=labels)
    order = [3, 0, 4]
    batch = DataCollatorForSpectrumImages(processor)([dataset[row] for row in order])
    assert list(batch) == ["pixel_values", "labels"] and batch["labels"].dtype == kind
    np.testing.assert_allclose(batch["labels"], np.asarray(labels)[order], rtol=1e-6)
    expected = processor([SPECTRA[row] for row in order], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected)


@pytest.mark.parametrize("labelled", [0, 1])
def test_a_label_that_only_some_pictures_have_is_refused(labelled):
    processor = PROCESSORS["simple"]
    features = [processor.patch(one) for one in SPECTRA[:2]]
    features[labelled]["labels"] = np.array(1.0)
    with pytest.raises(ValueError, match="same entries, found labels in some"):
        DataCollatorForSpectrumImages(processor)(features)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_loader_takes_the_batches(lazy):
    processor = PROCESSORS["overlap"]
    dataset = SpectrumDataset(SPECTRA, processor, lazy=lazy)
    loader = DataLoader(dataset, batch_size=2, collate_fn=DataCollatorForSpectrumImages(processor))
    found = torch.cat([batch["pixel_values"] for batch in loader])
    assert torch.equal(found, processor(SPECTRA, return_tensors="pt")["pixel_values"])


def test_spectra_of_none_are_what_the_processor_says():
    bad = make_spectrum(9, mask=np.ones(300, dtype=bool))
    spectra = [SPECTRA[0], bad, SPECTRA[1]]
    collators = {
        choice: DataCollatorForSpectrumImages(SpectrumImageProcessor(image_size=32, block_size=2, on_invalid=choice))
        for choice in ("raise", "skip", "mask")
    }
    with pytest.raises(ValueError, match=r"all 300 pixels of spectrum 1 \(object_id=9\) are bad"):
        collators["raise"](spectra)
    with pytest.warns(UserWarning, match="skipped"):
        kept = collators["skip"](spectra)["pixel_values"]
    masked = collators["mask"](spectra)["pixel_values"]
    assert torch.isnan(masked[1]).all() and torch.equal(masked[::2], kept) and len(kept) == 2
    features = [collators["mask"].processor.patch(spectrum) for spectrum in spectra]
    torch.testing.assert_close(collators["mask"](features)["pixel_values"], masked, equal_nan=True, rtol=0, atol=0)
    with pytest.raises(ValueError, match="has no good pixel: drop it before training"):
        SpectrumDataset(spectra, PROCESSORS["map"])


def test_other_mappings_are_refused():
    collator = DataCollatorForSpectrumImages(PROCESSORS["map"])
    drawn = {"pixel_values": np.zeros((3, 8, 8), np.float32)}
    for items in ([{"flux": 1, "labels": 2}], [SpectrumProcessor().patch(SPECTRA[0])], [drawn]):
        with pytest.raises(ValueError, match=r"found no .* in .*use SpectrumDataset\(spectra, processor\)"):
            collator(items)
    for kind in (DataCollatorForSpectra, DataCollatorForPackedSpectra):
        with pytest.raises(ValueError, match=r"expected Spectrum objects or what SpectrumProcessor\.patch returns"):
            kind(SpectrumProcessor())([PROCESSORS["map"].patch(SPECTRA[0])])


def test_pictures_are_not_packed():
    for kind in (DataCollatorForSpectra, DataCollatorForPackedSpectra):
        with pytest.raises(
            ValueError, match=r"makes batches of patches, found SpectrumImageProcessor.*use collator_for"
        ):
            kind(PROCESSORS["map"])


def test_the_processor_decides_which_collator_it_is():
    pictures, patches = collator_for(PROCESSORS["map"]), collator_for(SpectrumProcessor(), hide="runs", pad_to=40)
    assert type(pictures) is DataCollatorForSpectrumImages and pictures.processor is PROCESSORS["map"]
    assert type(patches) is DataCollatorForPackedSpectra and (patches.hide, patches.pad_to) == ("runs", 40)
    with pytest.raises(TypeError, match="hide"):
        collator_for(PROCESSORS["map"], hide="runs")
