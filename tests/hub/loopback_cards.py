"""What the Hub asks of a card's metadata: the Hub on loopback holds cards to it.

A check takes a field's name and value and gives the errors. What the Hub's documentation leaves open is not checked.
"""

import re
from collections.abc import Callable
from typing import Any

import yaml


def _string(name: str, value: Any) -> list[str]:
    return [] if isinstance(value, str) and value else [f'"{name}" must be a string']


def _present(name: str, value: Any) -> list[str]:
    return [f'"{name}" is required'] if value is None else []


def _in(*options: Any) -> Callable:
    return lambda name, value: (
        [] if value in options else [f'"{name}" must be one of [{", ".join(map(str, options))}]']
    )


def _like(pattern: str, advice: str) -> Callable:
    return lambda name, value: (
        []
        if isinstance(value, str) and re.fullmatch(pattern, value)
        else [f'"{name}" with value "{value}" is not valid. {advice}']
    )


def _each(check: Callable, or_one: bool = False) -> Callable:
    def errors(name: str, value: Any) -> list[str]:
        if not isinstance(value, list):
            return check(name, value) if or_one else [f'"{name}" must be an array']
        return [error for i, item in enumerate(value) for error in check(f"{name}[{i}]", item)]

    return errors


def _record(**fields: Callable) -> Callable:
    def errors(name: str, value: Any) -> list[str]:
        if not isinstance(value, dict):
            return [f'"{name}" must be of type object']
        missing = [f'"{name}.{key}" is required' for key in fields if key not in value]
        return missing + [e for key in fields if key in value for e in fields[key](f"{name}.{key}", value[key])]

    return errors


LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m "
    "afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 "
    "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 "
    "cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl "
    "gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openmdw-1.0 openrail++ "
    "osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other"
)
PIPELINE_TAGS = (  # others are accepted with a warning
    "text-classification token-classification table-question-answering question-answering zero-shot-classification "
    "translation summarization feature-extraction text-generation fill-mask sentence-similarity text-to-speech "
    "text-to-audio automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text "
    "voice-activity-detection depth-estimation image-classification object-detection image-segmentation text-to-image "
    "image-to-text image-to-image image-to-video unconditional-image-generation video-classification "
    "reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text table-to-text "
    "multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video image-text-to-text "
    "visual-question-answering document-question-answering zero-shot-image-classification graph-ml mask-generation "
    "zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction video-text-to-text keypoint-detection "
    "visual-document-retrieval any-to-any video-to-video other"
)
COLORS = "red yellow green blue indigo purple pink gray"
NAME = r"(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?"
MODEL_ID = _like(rf"({NAME}/)?{NAME}", "Use a model id from https://hf.co/models.")
DATASET_ID = _like(rf"({NAME}/)?{NAME}", "If possible, use a dataset id from https://hf.co/datasets.")
EVALUATION = _record(
    task=_record(type=_string),
    dataset=_record(type=_string, name=_string),
    metrics=_each(_record(type=_string, value=_present)),
)
COMMON_RULES = {
    "license": _each(_in(*LICENSES.split()), or_one=True),
    "license_name": _like(r"[a-z0-9-.]+", "Use lowercase letters, digits, dots and hyphens."),
    "license_link": _string,
    "language": _each(_like(r"[a-z]{2,3}|code|multilingual", "Use an ISO 639 code."), or_one=True),
    "tags": _each(_string),
    "datasets": _each(DATASET_ID, or_one=True),
}
CARD_RULES: dict[str, dict[str, Callable]] = {
    "models": COMMON_RULES
    | {
        "pipeline_tag": _string,
        "library_name": _string,
        "metrics": _each(_string),
        "base_model": _each(MODEL_ID, or_one=True),
        "base_model_relation": _in("adapter", "finetune", "merge", "quantized"),
        "new_version": MODEL_ID,
        "model-index": _each(_record(name=_string, results=_each(EVALUATION))),
    },
    "datasets": COMMON_RULES | {"pretty_name": _string, "task_categories": _each(_string)},
    "spaces": COMMON_RULES
    | {
        "sdk": _in("gradio", "docker", "static"),
        "sdk_version": _string,
        "python_version": _string,
        "app_file": _string,
        "title": _string,
        "emoji": _string,
        "colorFrom": _in(*COLORS.split()),
        "colorTo": _in(*COLORS.split()),
        "pinned": _in(True, False),
        "models": _each(MODEL_ID),
        "short_description": _like(r".{1,60}", "It must have at most 60 characters."),
    },
}


def metadata(card: str) -> Any:
    """The block between the lines of three hyphens, or None; raises yaml.YAMLError."""
    block = re.match(r"\s*---\r?\n(.*?)(?:^|\n)---\s*(?:\n|$)", card, re.DOTALL)
    return yaml.safe_load(block[1]) if block else None


def card_messages(card: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings on a README's metadata, in the Hub's manner; kind is models, spaces or datasets."""
    try:
        data = metadata(card)
    except yaml.YAMLError as error:
        return [f"the YAML metadata cannot be read: {error}"], []
    if not data:
        empty = "empty or missing yaml metadata in repo card"
        return ([empty + ": a Space needs its sdk"], []) if kind == "spaces" else ([], [empty])
    if not isinstance(data, dict):
        return ["the YAML metadata must be a mapping"], []
    errors = ['"sdk" is required'] if kind == "spaces" and "sdk" not in data else []
    errors += [e for name, check in CARD_RULES[kind].items() if name in data for e in check(name, data[name])]
    tag = data.get("pipeline_tag")
    unknown = isinstance(tag, str) and tag not in PIPELINE_TAGS.split()
    return errors, [
        f'The pipeline tag "{tag}" is not in the official list: {", ".join(PIPELINE_TAGS.split())}'
    ] * unknown


__all__ = ["NAME", "card_messages", "metadata"]
