"""Retrieval of the partner among the views of others."""

import math

import numpy as np
import pytest
import torch

from spectok_hf import (
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.views import DataCollatorForContrastiveSpectra
from spectok_hf.evaluation import contrastive
from spectok_hf.evaluation.contrastive import project_views, retrieval_accuracy


def unit_vectors(count, size=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_partners_that_are_nearest_are_found():
    projection = np.repeat(np.eye(4), 2, axis=0)
    assert retrieval_accuracy(projection) == 1
    projection[0] = projection[7]
    assert retrieval_accuracy(projection) == pytest.approx(4 / 8)  # rows 0, 1, and the ties of 6 and 7


def test_random_projections_are_at_chance(monkeypatch):
    monkeypatch.setattr(contrastive, "CHUNK", 100)
    assert retrieval_accuracy(unit_vectors(1002)) < 10 / 1001


def test_further_views_of_an_object_do_not_compete():
    projection = np.repeat(np.eye(3), 2, axis=0)
    projection[4:] = projection[:2]
    assert retrieval_accuracy(projection) == pytest.approx(2 / 6)
    assert retrieval_accuracy(projection, np.array([0, 0, 1, 1, 0, 0])) == 1


def test_what_was_not_seen_does_not_count():
    projection = np.repeat(np.eye(3), 2, axis=0)
    projection[1] = 0
    assert retrieval_accuracy(projection) == 1
    assert math.isnan(retrieval_accuracy(np.zeros((4, 3))))


def test_rows_must_come_in_pairs():
    with pytest.raises(ValueError, match=r"rows 2i and 2i [+] 1"):
        retrieval_accuracy(unit_vectors(3))
    with pytest.raises(ValueError, match=r"found shapes \(4, 8\) and \(3,\)"):
        retrieval_accuracy(unit_vectors(4), np.zeros(3))


def test_views_are_projected_alike_at_every_call():
    spectra = simulate_survey("sdss", 5, seed=0)
    collator = DataCollatorForContrastiveSpectra(SpectrumProcessor())
    torch.manual_seed(0)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", num_hidden_layers=1, objective="contrastive"))
    first, codes = project_views(model.train(), collator, spectra, batch_size=2)
    assert first.shape == (10, 128) and first.dtype == np.float32 and model.training
    assert codes.dtype == np.int64 and len(set(codes.tolist())) == 5
    again, _ = project_views(model, collator, spectra, batch_size=2)
    assert np.array_equal(first, again)


def test_a_model_without_a_contrastive_head_is_refused():
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = OmniSpectraForPreTraining(OmniSpectraConfig(**size))
    with pytest.raises(
        ValueError, match='objective="contrastive", found OmniSpectraForPreTraining without such a head'
    ):
        project_views(
            model, DataCollatorForContrastiveSpectra(SpectrumProcessor()), simulate_survey("sdss", 2, seed=1)
        )
