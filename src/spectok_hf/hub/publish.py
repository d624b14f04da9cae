"""`push`: a model with its processor, code and card, on the Hub in one commit."""

import re
import tempfile
from pathlib import Path

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers import PreTrainedModel

from ..models.processing_spectok import SpectrumProcessor
from .card_checks import check_card
from .card_facts import FACTS_FILE, CardFacts, load_facts, save_facts
from .cards import check_model, model_card

# The weights that `save_pretrained` writes, in one piece or in several. Those of an earlier commit in other pieces
# must go: Transformers would read model.safetensors where both are there. Variants and folders are none of ours.
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
# Which repository the code of a card loads from.
_LOADED = re.compile(r"""(?:from_pretrained\(|\bmodel=)\s*["']([\w.-]+/[\w.-]+)["']""")


def push(
    model: PreTrainedModel,
    processor: SpectrumProcessor,
    repo_id: str,
    *,
    card: CardFacts | ModelCard | str | Path,
    weights_dtype: torch.dtype | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> CommitInfo:
    """Publish a checkpoint: everything that `export` writes, in one commit. The repository is made where it is absent.

    Weights in the repository's root that an earlier commit left in other pieces are deleted, and nothing else is.

    Args:
        model: The trained model, with adapters of peft merged into it.
        processor: The processor that it was trained with.
        repo_id: Name on the Hub, "organisation/name".
        card: What the card says, see `export`.
        weights_dtype: How the weights are stored, see `export`.
        private: Whether a new repository is private; None = the organisation's default.
        revision: Branch to commit to, made where it is absent; None = "main".
        commit_message: Of the commit.
        token: Access token that may write; None = the one of `hf auth login`, or of HF_TOKEN.

    Returns:
        The commit; its `oid` pins this very state: `from_pretrained(repo_id, revision=commit.oid)`.

    Raises:
        ValueError: As `export`. Nothing has been sent by then.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        export(model, processor, folder, repo_id, card=card, weights_dtype=weights_dtype)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message or f"Upload {type(model).__name__}",
            delete_patterns=_stale_weights(api, repo_id, revision, Path(folder)) or None,
        )


def _stale_weights(api: HfApi, repo_id: str, revision: str | None, folder: Path) -> list[str]:
    """Weights on the branch that the folder does not replace."""
    there = api.list_repo_files(repo_id, revision=revision)
    return [name for name in there if WEIGHTS.fullmatch(name) and not (folder / name).exists()]


def export(
    model: PreTrainedModel,
    processor: SpectrumProcessor,
    folder: str | Path,
    repo_id: str,
    *,
    card: CardFacts | ModelCard | str | Path,
    subfolder: str | None = None,
    weights_dtype: torch.dtype | None = None,
) -> Path:
    """Write the folder that `push` uploads: weights, settings, code, endpoint handler, model card and its facts.

    A checkpoint with task heads is written by a call for itself, and one per head into a sub-folder of its folder.

    Args:
        model: The trained model, with adapters of peft merged into it.
        processor: The processor that it was trained with.
        folder: Where to write.
        repo_id: Name that the card's examples use.
        card: The facts that only the publisher knows, as `CardFacts` or the path of their YAML file, from which the
            card is made; or a finished card.
        subfolder: Where in the repository this folder is to be found, for the card's examples; None = it is the root.
        weights_dtype: How the weights are stored: torch.bfloat16 halves the file, and rounds them to 8 bits. They load
            as the model has them, in float32, as the config says so. None = as they are.

    Returns:
        The folder.

    Raises:
        ValueError: If the model is none of this package or holds adapters of peft, processor and model do not fit, or
            the card breaks a rule of the Hub or is that of another repository. Nothing is written then.
    """
    check_model(model)
    model.remember_processor(processor)
    facts = load_facts(card) if isinstance(card, (str, Path)) else card
    text = model_card(model, processor, facts, repo_id, subfolder) if isinstance(facts, CardFacts) else facts
    check_card(text)
    _check_name(text, repo_id)
    folder = Path(folder)
    model.save_pretrained(folder, state_dict=None if weights_dtype is None else _rounded(model, weights_dtype))
    processor.save_pretrained(folder)
    text.save(folder / "README.md")
    if isinstance(facts, CardFacts):
        save_facts(facts, folder / FACTS_FILE)
    return folder


def _rounded(model: PreTrainedModel, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights as they are stored; Transformers takes what the config says of them from the model itself."""
    weights = model.state_dict()
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}


def _check_name(card: ModelCard, repo_id: str) -> None:
    """Refuse a card whose code loads from other repositories only, and that does not name this one anywhere."""
    loaded = sorted(set(_LOADED.findall(card.text)))
    if loaded and not re.search(rf"(?<![\w.-]){re.escape(repo_id)}(?![\w-]|\.\w)", card.text):
        raise ValueError(
            f"the card must say how to load {repo_id}, found code that loads {', '.join(loaded)}: make it with "
            f'model_card(..., repo_id="{repo_id}"), or pass its facts'
        )


__all__ = ["export", "push"]
