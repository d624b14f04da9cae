"""Transformers' common model and config tests for SpecTok. Started by run.py: `tests` is not our folder here."""

import unittest

import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from torch import nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
)

# The tests look up in these tables, which the Auto classes' `register` does not extend, that a base model has no loss,
# and who classifies.
MODEL_MAPPING_NAMES["spectok"] = "SpecTokModel"
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES["spectok"] = "SpecTokForSpectrumClassification"


class SpecTokModelTester:
    """A small model and its inputs, under the names that the common tests ask for."""

    batch_size = 14  # even: the contrastive objective takes pairs
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    patch_size = 8
    # The tests shape an attention_mask like the last dimension of the main input, which is patch_size.
    seq_length = mask_length = patch_size
    num_masks = 2

    def __init__(self, **fields):
        self.fields = fields

    def get_config(self):
        return SpecTokConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            decoder_num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            patch_size=self.patch_size,
            latent_size=2,
            wavelength_dim=4,
            # At the default 0.02 attention is uniform, and the tests that compare implementations see nothing.
            initializer_range=0.2,
            num_labels=3,
            target_names=["teff", "logg"],
            target_mean=[0.1, 0.2],
            target_std=[1.0, 2.0],
            redshift_bins=16,
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        flux = torch.rand(self.batch_size, self.seq_length, self.patch_size, device=torch_device)
        return self.get_config(), {"flux": flux, "wavelength": self.wavelength(self.batch_size)}

    def wavelength(self, batch_size):
        # float64: some tests cast what is float32 to half precision, which the model refuses for wavelengths.
        pixels = torch.arange(self.seq_length * self.patch_size, device=torch_device, dtype=torch.float64)
        start = 4000 + 100 * torch.arange(batch_size, device=torch_device)
        return (start[:, None] + pixels).view(batch_size, self.seq_length, self.patch_size)

    def labels(self, model_class, batch_size):
        counted = torch.arange(batch_size, device=torch_device)
        known = {
            SpecTokForSpectrumClassification: 0 * counted,  # they are shown to models of one class, too
            SpecTokForStellarRegression: torch.stack([0.1 * counted, 1.0 - counted], -1),
            SpecTokForRedshift: 0.2 * counted,
        }
        return known.get(model_class)

    def hidden_patches(self, batch_size):
        hidden = torch.arange(self.seq_length, device=torch_device) < self.num_masks
        return hidden.expand(batch_size, -1)


class SpecTokModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (
        SpecTokModel,
        SpecTokForPreTraining,
        SpecTokForSpectrumClassification,
        SpecTokForStellarRegression,
        SpecTokForRedshift,
    )
    additional_model_inputs = ["wavelength"]
    fields = {"decoder_type": "mirror"}
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True  # asked of config files without a copyright year

    def setUp(self):
        self.model_tester = SpecTokModelTester(**self.fields)
        self.config_tester = ConfigTester(
            self, config_class=SpecTokConfig, has_text_modality=False, hidden_size=32, **self.fields
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        batch_size = len(inputs["flux"])
        inputs["wavelength"] = self.model_tester.wavelength(batch_size)  # anew: it may have been cast
        labels = self.model_tester.labels(model_class, batch_size)
        if return_labels and labels is not None:
            inputs["labels"] = labels
        if model_class is SpecTokForPreTraining:
            inputs.setdefault("bool_masked_pos", self.model_tester.hidden_patches(batch_size))
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """Overridden: pixels enter through a linear map, not through an `nn.Embedding`."""
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIsInstance(model.get_input_embeddings(), nn.Linear)
            new = nn.Linear(2 * config.patch_size, config.hidden_size)
            model.set_input_embeddings(new)
            self.assertIs(model.get_input_embeddings(), new)
            self.assertIsNone(model.get_output_embeddings())

    @unittest.skip(reason="SpecTok reads spectra, not token ids: it has no inputs_embeds")
    def test_inputs_embeds(self):
        pass


class SpecTokHiddenStateHeadsTest(SpecTokModelTest):
    """The heads on hidden states, with several queries and with uncertainties."""

    all_model_classes = (SpecTokForSpectrumClassification, SpecTokForStellarRegression, SpecTokForRedshift)
    fields = {"head_input": "last_hidden_state", "head_num_queries": 2, "predict_uncertainty": True}


class SpecTokLinearHeadsTest(SpecTokModelTest):
    """The heads of one linear map on the mean token."""

    all_model_classes = (SpecTokForSpectrumClassification, SpecTokForStellarRegression, SpecTokForRedshift)
    fields = {"head_type": "linear"}


class SpecTokQueryDecoderTest(SpecTokModelTest):
    all_model_classes = (SpecTokForPreTraining,)
    fields = {"decoder_type": "query", "objective": "masked", "wavelength_pooling": "mean"}


class SpecTokContrastiveTest(SpecTokModelTest):
    all_model_classes = (SpecTokForPreTraining,)
    fields = {"objective": "contrastive", "projection_dim": 16}

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        return inputs | {"return_loss": return_labels}  # some tests pass one spectrum
