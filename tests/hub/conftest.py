"""A Hub on loopback, an environment without this package, and small trained-like models of every class."""

import pytest
import torch
from bare_environment import BareEnvironment
from loopback_hub import LoopbackHub

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
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
    "specformer pretraining": SpecformerForPreTraining,
    "specformer redshift": SpecformerForRedshift,
    "astroclip base": AstroClipModel,
    "spectrum_vit classification": SpectrumVitForSpectrumClassification,
    "spectrum_vit redshift": SpectrumVitForRedshift,
}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VISION |= {"model_type": "vit", "image_size": 24, "patch_size": 12}


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


def make_config(kind, fields):
    """The config of a kind of models."""
    own = {"decoder_num_hidden_layers": 1, "wavelength_pooling": "mean"}
    if kind.startswith("omnispectra"):
        return OmniSpectraConfig(**FIELDS | fields)
    if kind.startswith("specformer"):
        return SpecformerConfig(**FIELDS | fields)
    if kind.startswith("astroclip"):
        encoder = SpecTokConfig(**FIELDS | own).to_dict()
        return AstroClipConfig(spectrum_config=encoder, vision_config=VISION, projection_dim=8, **fields)
    if kind.startswith("spectrum_vit"):
        known = ("id2label", "redshift_bins", "initializer_range")
        return SpectrumVitConfig(
            vision_config=VISION | {"initializer_range": 0.3}, **{name: FIELDS[name] for name in known} | fields
        )
    return SpecTokConfig(**FIELDS | own | fields)


@pytest.fixture(scope="session")
def make_model():
    """A small model of a kind (see `CLASSES`), with weights that make spectra differ."""

    def make(kind, seed=0, **fields):
        torch.manual_seed(seed)
        return CLASSES[kind](make_config(kind, fields)).eval()

    return make
