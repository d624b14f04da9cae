"""Fields of the heads: what they become, and what is refused."""

import re

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from spectok_hf import SpecTokConfig
from spectok_hf.models.configuration_heads import SpectrumHeadConfig

TWO = ["teff", "logg"]


def test_the_defaults_are_those_of_the_contract():
    config = SpecTokConfig()
    assert (config.head_input, config.head_type, config.freeze_backbone) == ("tokens", "attention", False)
    assert (config.redshift_range, config.redshift_bins) == ([-0.01, 6.0], 512)
    assert config.class_weights is config.target_names is config.uncertainty_scale is None


def test_the_fields_do_not_need_a_model_family():
    assert SpectrumHeadConfig(target_names=TWO).head_num_attention_heads == 4


def test_one_number_stands_for_all_targets():
    config = SpecTokConfig(target_names=TWO, target_mean=5, target_std=2.5)
    assert config.target_mean == [5, 5] and config.target_std == [2.5, 2.5]


def test_fields_come_back_from_disk(tmp_path):
    fields = {
        "id2label": {0: "GALAXY", 1: "QSO"},
        "class_weights": [0.5, 1.5],
        "target_names": TWO,
        "target_units": ["K", "dex(cm/s2)"],
        "target_mean": [5000.0, 4.4],
        "target_std": [800.0, 0.3],
        "uncertainty_scale": [1.1, 0.9],
        "redshift_range": (0.0, 1.5),
        "head_input": "last_hidden_state",
        "freeze_backbone": True,
    }
    SpecTokConfig(**fields).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields | {"redshift_range": [0.0, 1.5]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"head_num_attention_heads": 3},
            "multiple of head_num_attention_heads, and there must be a query, found 512, 3",
        ),
        ({"head_hidden_size": 30}, "found 30, 4 and head_num_queries=4"),
        ({"head_num_queries": 0}, "found 512, 4 and head_num_queries=0"),
        ({"head_num_attention_heads": 0}, "found 512, 0"),
        ({"head_dropout": 1.0}, "head_dropout must lie between 0 and 1, found 1.0"),
        ({"head_dropout": -0.1}, "head_dropout must lie between 0 and 1, found -0.1"),
        ({"label_smoothing": 1}, "label_smoothing must lie between 0 and 1, found 1"),
        (
            {"num_labels": 3, "class_weights": [1.0]},
            "one positive number for each of the 3 classes of id2label, found [1.0]",
        ),
        ({"num_labels": 2, "class_weights": [1.0, 0.0]}, "found [1.0, 0.0]"),
        ({"target_names": []}, "target_names must be different names, at least one, found []"),
        ({"target_names": ["teff", "teff"]}, "found ['teff', 'teff']"),
        ({"target_names": TWO, "target_units": ["K"]}, "target_units must have one value for each of target_names"),
        ({"target_names": TWO, "target_mean": [1.0]}, "target_mean must have one value for each"),
        ({"target_std": [1.0]}, "target_std must have one value for each of target_names=None, found [1.0]"),
        ({"target_mean": 5.0}, "target_mean must have one value for each of target_names=None, found 5.0"),
        ({"target_names": TWO, "uncertainty_scale": [1.0] * 3}, "uncertainty_scale must have one value for each"),
        ({"target_names": TWO, "target_std": [1.0, 0.0]}, "target_std must be positive, found [1.0, 0.0]"),
        ({"target_names": TWO, "target_std": float("nan")}, "target_std must be positive, found [nan, nan]"),
        ({"target_names": TWO, "uncertainty_scale": [1, -1]}, "uncertainty_scale must be positive, found [1, -1]"),
        ({"redshift_range": (1.0, 0.5)}, "two numbers, -1 < least < largest, found [1.0, 0.5]"),
        ({"redshift_range": (-1.0, 0.5)}, "found [-1.0, 0.5]"),
        ({"redshift_range": [0.0, 1.0, 2.0]}, "found [0.0, 1.0, 2.0]"),
        ({"redshift_range": (0.0, float("inf"))}, "found [0.0, inf]"),
        ({"redshift_smoothing": -1.0}, "redshift_smoothing must be 0 or more, in km/s, found -1.0"),
        ({"redshift_bins": 1}, "redshift_bins must be at least 2, found 1"),
        (
            {"redshift_temperature": 0},
            "redshift_velocity and redshift_recalibration must be positive",
        ),
        ({"redshift_velocity": -1.0}, "found 1.0, -1.0, [1.0, 1.0] and 0.9"),
        (
            {"redshift_confidence": 1.0},
            "between 0 and 1, found 1.0, 3000.0, [1.0, 1.0] and 1.0",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match=re.escape(message)):
        SpecTokConfig(**fields)


@pytest.mark.parametrize(
    "fields", [{"head_input": "pooler_output"}, {"head_type": "mlp"}, {"target_names": "teff"}, {"redshift_bins": 2.5}]
)
def test_choices_and_types_are_checked(fields):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(fields))):
        SpecTokConfig(**fields)


def test_what_was_changed_is_checked_before_saving(tmp_path):
    config = SpecTokConfig(target_names=TWO)
    config.uncertainty_scale = [1.0]
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match="uncertainty_scale must have one"):
        config.save_pretrained(tmp_path)
