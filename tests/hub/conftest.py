"""A Hub on loopback, an environment without this package, and small trained-like models of every class."""

import pytest
import torch
from bare_environment import BareEnvironment
from loopback_hub import LoopbackHub

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
)

FIELDS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "wavelength_dim": 4,
    "initializer_range": 0.2,
    "id2label": {0: "GALAXY", 1: "QSO", 2: "STAR"},
    "target_names": ["teff", "logg"],
    "target_units": ["K", "dex(cm/s2)"],
    "target_mean": [5000.0, 4.0],
    "target_std": [500.0, 0.5],
    "predict_uncertainty": True,
    "redshift_bins": 64,
}
CLASSES = {
    "base": SpecTokModel,
    "pretraining": SpecTokForPreTraining,
    "classification": SpecTokForSpectrumClassification,
    "stellar": SpecTokForStellarRegression,
    "redshift": SpecTokForRedshift,
    "omnispectra base": OmniSpectraModel,
    "omnispectra pretraining": OmniSpectraForPreTraining,
    "omnispectra classification": OmniSpectraForSpectrumClassification,
    "omnispectra stellar": OmniSpectraForStellarRegression,
    "omnispectra redshift": OmniSpectraForRedshift,
}


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory):
    """Processes that see torch, transformers and numpy only."""
    return BareEnvironment(tmp_path_factory.mktemp("bare"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on loopback, which the client in this process uses."""
    with LoopbackHub() as hub:
        hub.attach(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture(scope="session")
def make_model():
    """A small model of a kind (see `CLASSES`), with weights that make spectra differ."""

    def make(kind, seed=0, **fields):
        torch.manual_seed(seed)
        own = {"decoder_num_hidden_layers": 1, "wavelength_pooling": "mean"}
        if kind.startswith("omnispectra"):
            config = OmniSpectraConfig(**FIELDS | fields)
        else:
            config = SpecTokConfig(**FIELDS | own | fields)
        return CLASSES[kind](config).eval()

    return make
