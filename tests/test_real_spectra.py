"""From real files to embeddings, at real size: what no simulated spectrum can show."""

import pytest
import torch

from spectok_hf import SpecTokConfig, SpecTokModel, SpectrumProcessor, read_spectra

PROCESSOR = SpectrumProcessor()
SOURCES = ("sdss", "desi/picca_tile80693", "desi/quasarnp_tile80605", "lamost/dr1")


@pytest.fixture(scope="module")
def spectra(spectra_dir):
    found = [s for source in SOURCES for s in read_spectra(spectra_dir / source, progress=False)]
    return [spectrum for spectrum in found if PROCESSOR.patch(spectrum)["attention_mask"].any()]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SpecTokModel(SpecTokConfig.from_preset("tiny", initializer_range=0.1)).eval()


def embed(model, spectra, batch_size):
    embeddings = []
    for start in range(0, len(spectra), batch_size):
        with torch.no_grad():
            inputs = PROCESSOR(spectra[start : start + batch_size], return_tensors="pt")
            embeddings.append(model(**inputs).pooler_output)
    return torch.cat(embeddings)


def test_every_real_spectrum_has_an_embedding_of_its_own(spectra, model):
    embeddings = embed(model, spectra, 16)
    assert len(spectra) > 200 and torch.isfinite(embeddings).all()
    distances = torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf)
    assert distances.min() > 1e-2


def test_a_real_spectrum_alone_equals_itself_in_a_batch(spectra, model):
    some = spectra[::23]
    torch.testing.assert_close(embed(model, some, len(some)), embed(model, some, 1), atol=1e-4, rtol=1e-4)
