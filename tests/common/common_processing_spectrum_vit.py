"""Transformers' common feature-extraction tests for SpectrumImageProcessor. Started by run.py, as its neighbours."""

import unittest

from tests.test_feature_extraction_common import FeatureExtractionSavingTestMixin

from spectok_hf.models.processing_spectrum_vit import SpectrumImageProcessor


class SpectrumImageProcessorTest(FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = SpectrumImageProcessor

    def setUp(self):
        self.feat_extract_dict = {
            "plot_type": "overlap",
            "image_size": 64,
            "line_width": 1.3,
            "wavelength_range": [3800.5, 9000.0],
            "block_size": 4,
            "map_order": "boustrophedon",
            "map_colors": "derivatives",
            "on_long": "raise",
            "vmin": -1.13,
            "vmax": 144.97,
            "outlier_factor": None,
            "image_mean": 0.4,
            "image_std": 0.3,
            "medium": "air",
            "gap_factor": None,
            "max_normalized_flux": 50.0,
            "on_invalid": "mask",
            "flux_unit": "Jy",
        }
