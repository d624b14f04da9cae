"""What is known of the Hub's rules for model cards, checked without asking it.

Sources: https://github.com/huggingface/hub-docs (modelcard.md, docs/hub/repositories-licenses.md) and
https://github.com/huggingface/huggingface.js (packages/tasks/src/pipelines.ts). The Hub itself verifies `license`,
`datasets` and `model-index` when a card is pushed.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.utils import HFValidationError, validate_repo_id

# Without those of single companies' language models.
_LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib
    pddl lgpl-lr unknown other
"""
LICENSES = frozenset(_LICENSES.split())
_PIPELINE_TAGS = """
    text-classification token-classification table-question-answering question-answering zero-shot-classification
    translation summarization feature-extraction text-generation fill-mask sentence-similarity text-to-speech
    text-to-audio automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text
    voice-activity-detection depth-estimation image-classification object-detection image-segmentation text-to-image
    image-to-text image-to-image image-to-video unconditional-image-generation video-classification
    reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text table-to-text
    multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video image-text-to-text
    visual-question-answering document-question-answering zero-shot-image-classification graph-ml mask-generation
    zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction video-text-to-text keypoint-detection
    visual-document-retrieval any-to-any other
"""
PIPELINE_TAGS = frozenset(_PIPELINE_TAGS.split())
_PLACEHOLDER = re.compile(
    r"\b(?:TODO|TBD|FIXME|XXX+)\b|more information needed|lorem ipsum|\[(?:\.\.\.|…|optional)\]|\{\{|\}\}|\{%|%\}"
    r"|<(?:your|my|insert|fill)[^>\n]*>|\byour-(?:org|organisation|organization|name|username|model)\b",
    re.IGNORECASE,
)
# An absolute path of a machine, not a part of a URL or of a relative path.
_MACHINE_PATH = re.compile(
    r"(?<![\w.~/:-])/(?:home|Users|root|tmp|work|workspace|mnt|media|data|scratch|var|opt|private|Volumes|content|srv)/"
    r"[^\s)`\"']*|\b[A-Za-z]:\\[^\s)`\"']+|(?<!\w)~/[^\s)`\"']+|\bfile://[^\s)`\"']+"
)


def check_card(card: ModelCard | str) -> None:
    """Check a card against what is known of the Hub's rules, without asking the Hub.

    Args:
        card: The card, or the text of a README.md.

    Raises:
        ValueError: If anything is wrong; the message lists all of it.
    """
    if isinstance(card, str):
        try:
            card = ModelCard(card)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ValueError(f"the card's metadata cannot be read: {error}") from error
    problems = [problem for check in _CHECKS for problem in check(card)]
    if problems:
        raise ValueError("the card is not fit for the Hub:\n" + "\n".join(f"- {problem}" for problem in problems))


def _check_license(card: ModelCard) -> Iterator[str]:
    name, *named = (card.data.get(key) for key in ("license", "license_name", "license_link"))
    if not _is_text(name) or name not in LICENSES:
        yield (
            f"license must be an identifier of the Hub such as mit or cc-by-4.0, found {name!r}: use "
            '"other" with license_name and license_link for one that it does not know'
        )
    if name == "other" and not all(map(_is_text, named)):
        yield 'license "other" needs license_name and license_link'


def _check_kind(card: ModelCard) -> Iterator[str]:
    tag, library, inference = (card.data.get(key) for key in ("pipeline_tag", "library_name", "inference"))
    if not _is_text(tag) or tag not in PIPELINE_TAGS:
        yield f"pipeline_tag must be a task of the Hub, found {tag!r}"
    if library != "transformers":
        yield f'library_name must be "transformers", found {library!r}'
    if inference is not False:
        yield f"inference must be false (widgets run no code of a repository), found {inference!r}"


def _check_lists(card: ModelCard) -> Iterator[str]:
    for name in ("tags", "datasets", "base_model"):
        values = card.data.get(name)
        values = values if isinstance(values, list) else [] if values is None else [values]
        for value in values:
            if not _is_text(value):
                yield f"{name} must be text, found {value!r} (quote it in YAML)"
            elif name != "tags" and (problem := bad_id(value)):
                yield f"{name} {problem}"


def bad_id(value: Any) -> str:
    """What is wrong with an id on the Hub.

    Args:
        value: Should be "organisation/name".

    Returns:
        The complaint; nothing wrong is an empty text.
    """
    try:
        validate_repo_id(value)
    except HFValidationError as error:
        return f"must be an id on the Hub, found {value!r}: {error}"
    return "" if value.count("/") == 1 else f'must be an id on the Hub, "organisation/name", found {value!r}'


def _check_results(card: ModelCard) -> Iterator[str]:
    results = card.data.get("eval_results") or []
    if results and not _is_text(card.data.get("model_name")):
        yield f"model_name must be text where there are eval_results, found {card.data.get('model_name')!r}"
    names: dict[Any, str] = {}
    for result in results:
        yield from _check_result(result)
        if names.setdefault(result.unique_identifier, result.dataset_name) != result.dataset_name:
            yield f"one dataset_type must have one dataset_name, found {result.dataset_name!r} as a second one"


def _check_result(result: EvalResult) -> Iterator[str]:
    for name in ("task_type", "dataset_type", "dataset_name", "metric_type"):
        if not _is_text(getattr(result, name)):
            yield f"{name} of an eval result must be text, found {getattr(result, name)!r}"
    name, value = result.metric_name or result.metric_type, result.metric_value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        yield f"metric_value of {name} must be a finite number, found {value!r}"
    if result.verified is not None or result.verify_token is not None:
        yield f"only the Hub may verify a result, found {name} verified"


def _check_round_trip(card: ModelCard) -> Iterator[str]:
    """What is written must be what is read: a text `no` becomes False, one name of a data set is lost, ..."""
    if not _is_text(card.data.get("model_name")) and card.data.get("eval_results"):
        return  # said before, and cannot be written
    again = ModelCard(str(card))
    if _comparable(again) != _comparable(card):
        yield "the metadata must survive being written and read, and do not: look for odd values and names"
    if again.text != card.text:
        yield "the text must survive being written and read, and does not: look at its first lines"


def _comparable(card: ModelCard) -> tuple[dict[str, Any], list[str]]:
    data = {name: value for name, value in card.data.to_dict().items() if name != "model-index"}
    return data, sorted(map(repr, card.data.get("eval_results") or []))


def _check_text(card: ModelCard) -> Iterator[str]:
    text = str(card)
    for what, pattern in (("placeholder", _PLACEHOLDER), ("path of a machine", _MACHINE_PATH)):
        for found in dict.fromkeys(match.group() for match in pattern.finditer(text)):
            yield f"a card must hold no {what}, found {found!r}"
    if not card.text.strip():
        yield "the card has no text"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_CHECKS = (_check_license, _check_kind, _check_lists, _check_results, _check_round_trip, _check_text)

__all__ = ["LICENSES", "PIPELINE_TAGS", "bad_id", "check_card"]
