"""Transformers' common model and config tests for pictures of spectra. Started by run.py, as its neighbours are."""

import unittest

import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from torch import nn
from transformers import Dinov2Config, SiglipVisionConfig, ViTConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)
from transformers.testing_utils import torch_device

from spectok_hf import (
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
)

MODEL_MAPPING_NAMES["spectrum_vit"] = "SpectrumVitModel"
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES["spectrum_vit"] = "SpectrumVitForSpectrumClassification"

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
HEADS = (SpectrumVitForSpectrumClassification, SpectrumVitForStellarRegression, SpectrumVitForRedshift)


class SpectrumVitModelTester:
    """A small model and its inputs, under the names that the common tests ask for."""

    batch_size = 13
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    image_size = 24

    def __init__(self, vision_config, seq_length, **fields):
        self.vision_config, self.seq_length, self.fields = vision_config, seq_length, fields

    def get_config(self):
        return SpectrumVitConfig(
            vision_config=type(self.vision_config)(**self.vision_config.to_dict()),
            initializer_range=0.2,
            num_labels=3,
            target_names=["teff", "logg"],
            target_mean=[0.1, 0.2],
            target_std=[1.0, 2.0],
            redshift_bins=16,
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": torch.rand(shape, device=torch_device)}

    def labels(self, model_class, batch_size):
        counted = torch.arange(batch_size, device=torch_device)
        known = {
            SpectrumVitForSpectrumClassification: 0 * counted,  # they are shown to models of one class, too
            SpectrumVitForStellarRegression: torch.stack([0.1 * counted, 1.0 - counted], -1),
            SpectrumVitForRedshift: 0.2 * counted,
        }
        return known.get(model_class)


class SpectrumVitModelTest(ModelTesterMixin, unittest.TestCase):
    """A ViT, whose class token is read."""

    all_model_classes = (SpectrumVitModel, *HEADS)
    vision_config = ViTConfig(**SIZES, intermediate_size=37, image_size=24, patch_size=8)
    seq_length = 10  # of the vision encoder: a class token and 3 x 3 patches
    fields = {}
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True  # asked of config files without a copyright year

    def setUp(self):
        self.model_tester = SpectrumVitModelTester(self.vision_config, self.seq_length, **self.fields)
        self.config_tester = ConfigTester(
            self,
            config_class=SpectrumVitConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "image_size", "num_channels"],
            **self.fields,
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=False)
        labels = self.model_tester.labels(model_class, len(inputs["pixel_values"])) if return_labels else None
        return inputs if labels is None else inputs | {"labels": labels}

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """Overridden: pixels enter as the vision encoder lets them in, not through an `nn.Embedding`."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), nn.Module)
            self.assertIs(model.get_input_embeddings(), model.base_model.vision_model.get_input_embeddings())
            self.assertIsNone(model.get_output_embeddings())

    @unittest.skip(reason="These models read pictures, not token ids: they have no inputs_embeds")
    def test_inputs_embeds(self):
        pass


class SpectrumVitDinov2Test(SpectrumVitModelTest):
    """A DINOv2, and heads that say how sure they are."""

    vision_config = Dinov2Config(**SIZES, mlp_ratio=1, image_size=24, patch_size=8)
    fields = {"predict_uncertainty": True}


class SpectrumVitSiglipTest(SpectrumVitModelTest):
    """A SigLIP, which has no class token and pools by attention."""

    vision_config = SiglipVisionConfig(**SIZES, intermediate_size=37, image_size=24, patch_size=8)
    seq_length = 9
    test_can_init_all_missing_weights_before_2023 = False  # its own pooling head does not
