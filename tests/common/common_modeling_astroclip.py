"""Transformers' common model and config tests for AstroCLIP. Started by run.py, as its neighbours are."""

import unittest

import torch
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from torch import nn
from transformers import Dinov2Config, ResNetConfig, ViTConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.testing_utils import torch_device

from spectok_hf import AstroClipConfig, AstroClipModel, OmniSpectraConfig, SpecformerConfig, SpecTokConfig

MODEL_MAPPING_NAMES["astroclip"] = "AstroClipModel"
# Transformers 5 returns the encoder's whole output from methods of this name; ours gives the vectors, as its 4 did.
OF_IMAGE_FEATURES = [name for name in dir(ModelTesterMixin) if name.startswith("test_get_image_features")]

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
SPECTRUM = {"intermediate_size": 37, "patch_size": 8, "wavelength_dim": 4}


class AstroClipModelTester:
    """A small model and its inputs, under the names that the common tests ask for."""

    batch_size = 13
    is_training = True  # by return_loss: it has no labels
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    patch_size = 8
    # The tests shape an attention_mask like the last dimension of the main input, which is patch_size.
    seq_length = patch_size
    image_size = 24

    def __init__(self, spectrum_config, vision_config, **fields):
        self.configs = {"spectrum_config": spectrum_config, "vision_config": vision_config}
        self.fields = fields

    def get_config(self):
        configs = {name: type(config)(**config.to_dict()) for name, config in self.configs.items()}
        return AstroClipConfig(**configs, projection_dim=32, **self.fields)

    def prepare_config_and_inputs_for_common(self):
        flux = torch.rand(self.batch_size, self.seq_length, self.patch_size, device=torch_device)
        return self.get_config(), {"flux": flux, **self.others(self.batch_size)}

    def others(self, batch_size):
        # float64: some tests cast what is float32 to half precision, which the model refuses for wavelengths.
        pixels = torch.arange(self.seq_length * self.patch_size, device=torch_device, dtype=torch.float64)
        counted = torch.arange(batch_size, device=torch_device)
        wavelength = (4000 + 100 * counted[:, None] + pixels).view(batch_size, self.seq_length, self.patch_size)
        images = torch.rand(
            batch_size, 3, self.image_size, self.image_size, generator=torch.Generator().manual_seed(0)
        )
        inputs = {"wavelength": wavelength, "pixel_values": images.to(torch_device)}  # the same at every call
        inputs |= {"scale": 1.0 + counted.float()}
        if isinstance(self.configs["spectrum_config"], SpecformerConfig):
            inputs |= {"loc": 3.0 - counted.float()}
        return inputs


class AstroClipModelTest(ModelTesterMixin, unittest.TestCase):
    """Specformer and a ViT, both trained."""

    all_model_classes = (AstroClipModel,)
    additional_model_inputs = ["wavelength", "pixel_values", "scale", "loc"]
    spectrum_config = SpecformerConfig(**SIZES, **SPECTRUM, patch_overlap=3, max_position_embeddings=16)
    vision_config = ViTConfig(**SIZES, intermediate_size=37, image_size=24, patch_size=8)
    fields = {"learn_logit_scale": True, "freeze_spectrum_model": False, "freeze_vision_model": False}
    test_resize_embeddings = False
    has_attentions = False  # those of the heads are outputs, those of the encoders are theirs
    test_can_init_all_missing_weights_before_2023 = True  # asked of config files without a copyright year

    def setUp(self):
        self.model_tester = AstroClipModelTester(self.spectrum_config, self.vision_config, **self.fields)
        self.config_tester = ConfigTester(
            self,
            config_class=AstroClipConfig,
            has_text_modality=False,
            common_properties=["hidden_size", "projection_dim", "logit_scale_init_value"],
            projection_dim=32,
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        inputs |= self.model_tester.others(len(inputs["flux"]))  # as many as spectra, where a test took some away
        return inputs | {"return_loss": return_labels}

    def test_model_get_set_embeddings(self):
        """Overridden: pixels of spectra enter through a linear map, not through an `nn.Embedding`."""
        model = AstroClipModel(self.model_tester.get_config())
        old = model.get_input_embeddings()
        self.assertIsInstance(old, nn.Linear)
        new = nn.Linear(old.in_features, old.out_features)
        model.set_input_embeddings(new)
        self.assertIs(model.get_input_embeddings(), new)
        self.assertIsNone(model.get_output_embeddings())

    @unittest.skip(reason="AstroCLIP reads spectra and images, not token ids: it has no inputs_embeds")
    def test_inputs_embeds(self):
        pass

    @unittest.skip(reason="The states of the encoders are theirs: AstroCLIP gives what it made of them")
    def test_hidden_states_output(self):
        pass

    @unittest.skip(reason="The states of the encoders are theirs: AstroCLIP gives what it made of them")
    def test_retain_grad_hidden_states_attentions(self):
        pass


for name in OF_IMAGE_FEATURES:
    skipped = unittest.skip(reason="get_image_features gives vectors, not the output of an encoder")
    setattr(AstroClipModelTest, name, skipped(getattr(ModelTesterMixin, name)))


class AstroClipFrozenTest(AstroClipModelTest):
    """SpecTok and a DINOv2 whose patches alone are read, both frozen, as the public code has its encoders."""

    spectrum_config = SpecTokConfig(**SIZES, **SPECTRUM, decoder_num_hidden_layers=1, latent_size=2)
    vision_config = Dinov2Config(**SIZES, mlp_ratio=1, image_size=24, patch_size=8)
    fields = {"vision_class_token": False, "image_residual": False}


class AstroClipLinearTest(AstroClipModelTest):
    """OmniSpectra and a ResNet under a linear map, as in the paper's first version."""

    spectrum_config = OmniSpectraConfig(**SIZES, **SPECTRUM, patch_overlap=3)
    vision_config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    fields = {"image_pooling": "linear", "freeze_vision_model": False}
