"""Transformers' common feature-extraction tests for AstroClipProcessor. Started by run.py, as its neighbours are."""

import unittest

from tests.test_feature_extraction_common import FeatureExtractionSavingTestMixin

from spectok_hf.models.processing_astroclip import AstroClipProcessor


class AstroClipProcessorTest(FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = AstroClipProcessor

    def setUp(self):
        self.feat_extract_dict = {
            "bands": ["r", "z"],
            "image_size": 32,
            "pixel_scale": 0.4,
            "stretch": "none",
            "band_scales": [3.4, 2.2],
            "stretch_offset": 0.1,
            "stretch_softening": 10.0,
            "on_invalid": "mask",
            "flux_unit": None,
            "resample_images": True,
        }
