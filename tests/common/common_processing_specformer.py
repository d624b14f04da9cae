"""Transformers' common feature-extraction tests for SpecformerProcessor. Started by run.py, as its neighbours are."""

import unittest

import common_processing_omnispectra as shared  # a module: its test class would run again under a name of ours
from tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from spectok_hf import SpecformerProcessor


class SpecformerProcessorTester(shared.OmniSpectraProcessorTester):
    """Arguments and inputs of a processor; a sequence is one of patches, and its features are the pixels."""

    def prepare_feat_extract_dict(self):
        return {
            "patch_size": self.feature_size,
            "patch_overlap": 3,
            "medium": "air",
            "grid_start": 4000.0,
            "grid_step": 1.5,
            "grid_size": 300,
            "resample": True,
            "max_normalized_flux": 100.0,
            "on_invalid": "mask",
            "flux_unit": "Jy",
            "padding_value": self.padding_value,
        }


class SpecformerProcessorTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = SpecformerProcessor

    def setUp(self):
        self.feat_extract_tester = SpecformerProcessorTester()
