"""Transformers' common feature-extraction tests for OmniSpectraProcessor. Started by run.py, as its neighbours are."""

import unittest

import numpy as np
from tests.test_sequence_feature_extraction_common import SequenceFeatureExtractionTestMixin

from spectok_hf.models.processing_omnispectra import OmniSpectraProcessor


class OmniSpectraProcessorTester:
    """Arguments and inputs of a processor; a sequence is one of patches, and its features are the pixels."""

    batch_size = 7
    min_seq_length = 20
    max_seq_length = 62
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)
    feature_size = 8
    padding_value = 0.0

    def prepare_feat_extract_dict(self):
        return {
            "patch_size": self.feature_size,
            "patch_overlap": 3,
            "medium": "air",
            "gap_factor": None,
            "max_normalized_flux": 100.0,
            "on_invalid": "mask",
            "flux_unit": "Jy",
            "padding_value": self.padding_value,
        }

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        rng = np.random.default_rng(0)
        lengths = self.min_seq_length + self.seq_length_diff * np.arange(self.batch_size)
        if equal_length:
            lengths[:] = self.max_seq_length
        patches = [rng.normal(size=(length, self.feature_size)) for length in lengths]
        return patches if numpify else [spectrum.tolist() for spectrum in patches]


class OmniSpectraProcessorTest(SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = OmniSpectraProcessor

    def setUp(self):
        self.feat_extract_tester = OmniSpectraProcessorTester()
