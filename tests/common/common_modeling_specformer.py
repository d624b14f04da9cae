"""Transformers' common model and config tests for Specformer. Started by run.py, as its neighbours are."""

import unittest

import common_modeling_spectok as shared  # a module: its test classes would run again under names of ours
import torch
from tests.test_configuration_common import ConfigTester
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device

from spectok_hf import (
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecformerModel,
)

MODEL_MAPPING_NAMES["specformer"] = "SpecformerModel"
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES["specformer"] = "SpecformerForSpectrumClassification"

HEADS = (SpecformerForSpectrumClassification, SpecformerForStellarRegression, SpecformerForRedshift)


class SpecformerModelTester(shared.SpecTokModelTester):
    """A small model and its inputs, under the names that the common tests ask for."""

    # Of the sequence that states and attention weights are of: the token of mean and standard deviation comes first.
    encoder_seq_length = shared.SpecTokModelTester.seq_length + 1

    def get_config(self):
        return SpecformerConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            patch_size=self.patch_size,
            patch_overlap=3,
            max_position_embeddings=16,
            wavelength_dim=4,
            initializer_range=0.2,
            num_labels=3,
            target_names=["teff", "logg"],
            target_mean=[0.1, 0.2],
            target_std=[1.0, 2.0],
            redshift_bins=16,
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        config, inputs = super().prepare_config_and_inputs_for_common()
        return config, inputs | self.statistics(self.batch_size)

    def statistics(self, batch_size):
        counted = torch.arange(batch_size, device=torch_device, dtype=torch.float32)
        return {"scale": 1 + counted, "loc": 3 - counted}

    def labels(self, model_class, batch_size):
        counted = torch.arange(batch_size, device=torch_device)
        known = {
            SpecformerForSpectrumClassification: 0 * counted,  # they are shown to models of one class, too
            SpecformerForStellarRegression: torch.stack([0.1 * counted, 1.0 - counted], -1),
            SpecformerForRedshift: 0.2 * counted,
        }
        return known.get(model_class)


class SpecformerModelTest(shared.SpecTokModelTest):
    all_model_classes = (SpecformerModel, SpecformerForPreTraining, *HEADS)
    additional_model_inputs = ["wavelength", "scale", "loc"]
    fields = {}

    def setUp(self):
        self.model_tester = SpecformerModelTester(**self.fields)
        self.config_tester = ConfigTester(
            self,
            config_class=SpecformerConfig,
            has_text_modality=False,
            hidden_size=32,
            num_attention_heads=4,
            **self.fields,
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        inputs |= self.model_tester.statistics(len(inputs["flux"]))  # as many as spectra, where a test took some away
        if model_class is SpecformerForPreTraining:
            inputs.setdefault("bool_masked_pos", self.model_tester.hidden_patches(len(inputs["flux"])))
        return inputs

    def test_model_get_set_embeddings(self):
        """Overridden: pixels enter through a linear map, not through an `nn.Embedding`."""
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIsInstance(model.get_input_embeddings(), nn.Linear)
            new = nn.Linear(config.patch_size + 2, config.hidden_size)
            model.set_input_embeddings(new)
            self.assertIs(model.get_input_embeddings(), new)
            self.assertIsNone(model.get_output_embeddings())

    @unittest.skip(reason="Specformer reads spectra, not token ids: it has no inputs_embeds")
    def test_inputs_embeds(self):
        pass


class SpecformerHiddenStateHeadsTest(SpecformerModelTest):
    """The heads on hidden states, with several queries and with uncertainties."""

    all_model_classes = HEADS
    fields = {"head_input": "last_hidden_state", "head_num_queries": 2, "predict_uncertainty": True}


class SpecformerLinearHeadsTest(SpecformerModelTest):
    """The heads of one linear map on the mean token."""

    all_model_classes = HEADS
    fields = {"head_type": "linear"}
