"""`push`: a model with its processor, code and card, on the Hub in one commit."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from transformers import PreTrainedModel

from ..models.checkpoints import check_processor, code_files
from ..models.processing_spectok import SpectrumProcessor
from .card_checks import check_card
from .card_facts import FACTS_FILE, CardFacts, load_facts, save_facts
from .cards import check_model, model_card

# The weights that `save_pretrained` writes, in one piece or in several. Those of an earlier commit in other pieces
# must go: Transformers would read model.safetensors where both are there. Variants and folders are none of ours.
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
# What a folder may hold of its owner's; of code, `save_pretrained` knows its own.
KEPT = ("requirements.txt", "config.json", "README.md")
# Stands in every card that the template makes.
RENDERED = "With the package `spectok-hf` installed"
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

    Files of yours in its root are treated as `export` treats those in a folder. Weights there that an earlier commit
    left in other pieces are deleted, and nothing else is.

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
        ValueError, FileExistsError: As `export`, also of what the repository holds. Nothing has been sent by then.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    api = HfApi(token=token)
    text, facts = _checked_card(model, processor, repo_id, card)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _fetch_kept(api, repo_id, revision, folder, model.config.model_type)
        try:
            _write(model, processor, folder, text, facts, weights_dtype)
        except (ValueError, FileExistsError) as error:
            raise type(error)(str(error).replace(name, repo_id)) from error
        if facts is not None:
            save_facts(facts, folder / FACTS_FILE)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message or f"Upload {type(model).__name__}",
            delete_patterns=_stale_weights(api, repo_id, revision, folder) or None,
        )


def _fetch_kept(api: HfApi, repo_id: str, revision: str | None, folder: Path, family: str) -> None:
    """Bring what may be its owner's from the branch, or from that which it would begin at."""
    try:
        there = api.list_repo_files(repo_id, revision=revision)
    except RevisionNotFoundError:
        revision = None
        there = [name for name in api.list_repo_files(repo_id) if name != "config.json"]  # main keeps its checkpoint
    except RepositoryNotFoundError:
        return
    for name in sorted({*KEPT, *(path.name for path in code_files(family))}.intersection(there)):
        api.hf_hub_download(repo_id, name, revision=revision, local_dir=folder)


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
        ValueError: If the model is none of this package or holds adapters of peft, the processor is not the one that
            it was trained with, or the card breaks a rule of the Hub or is that of another repository; or if the
            folder holds the checkpoint of another class. Nothing is written then.
        FileExistsError: If the folder holds another file of the name of one of ours. A requirements.txt is kept, and a
            finished card takes the place of any.
    """
    text, facts = _checked_card(model, processor, repo_id, card, subfolder)
    _write(model, processor, Path(folder), text, facts, weights_dtype)
    target = Path(folder, FACTS_FILE)
    own = isinstance(card, (str, Path)) and Path(card).resolve() == target.resolve()  # may hold comments
    if facts is not None and not own:
        save_facts(facts, target)
    return Path(folder)


def _checked_card(
    model: Any, processor: Any, repo_id: str, card: CardFacts | ModelCard | str | Path, subfolder: str | None = None
) -> tuple[ModelCard, CardFacts | None]:
    """The card and its facts, where they are known, once all is found to fit together."""
    check_model(model)
    check_processor(model.config, processor)
    model.check_own_processor(json.loads(processor.to_json_string()), type(processor).__name__)
    facts = _given_facts(card)
    text = model_card(model, processor, facts, repo_id, subfolder) if isinstance(facts, CardFacts) else facts
    check_card(text)
    _check_name(text, repo_id)
    return text, facts if isinstance(facts, CardFacts) else None


def _given_facts(card: Any) -> CardFacts | ModelCard:
    if isinstance(card, (CardFacts, ModelCard)):
        return card
    if not isinstance(card, (str, Path)) or Path(card).suffix.lower() == ".md":
        found = card if isinstance(card, (str, Path)) else f"a {type(card).__name__}"
        raise ValueError(
            f"card must be CardFacts, the path of their YAML file or a finished ModelCard, found {found}: make them "
            "by CardFacts(...), or pass ModelCard.load(path)"
        )
    return load_facts(card)


def _write(
    model: Any,
    processor: Any,
    folder: Path,
    card: ModelCard,
    facts: CardFacts | None,
    weights_dtype: torch.dtype | None,
) -> None:
    _check_class(folder / "config.json", type(model).__name__)
    if facts is not None:
        _check_readme(folder / "README.md")
    model.remember_processor(processor)
    model.save_pretrained(folder, state_dict=None if weights_dtype is None else _rounded(model, weights_dtype))
    names = ("model.safetensors", "model.safetensors.index.json")
    weights = [path for name in names if (path := folder / name).exists()]
    if len(weights) > 1:  # the older is of an earlier save, in other pieces
        min(weights, key=lambda path: path.stat().st_mtime_ns).unlink()
    processor.save_pretrained(folder)
    card.save(folder / "README.md")


def _check_class(config: Path, name: str) -> None:
    """Refuse to replace the checkpoint of another class: that of an autoencoder, say, by a head on it."""
    found = json.loads(config.read_text(encoding="utf-8")).get("architectures") if config.is_file() else None
    if found and found != [name]:
        raise ValueError(
            f"{config} must be that of a {name}, found {', '.join(found)}, whose weights and card would be lost: pass "
            "another folder or repository (a head may lie in a folder of its checkpoint), or remove that file first"
        )


def _check_readme(path: Path) -> None:
    """Refuse to replace a README.md that says something and that the template did not make."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if RENDERED not in text and re.sub(r"\A---\n.*?\n---\s*", "", text, flags=re.DOTALL).strip():
        raise FileExistsError(
            f"{path} would be overwritten by the card, and is not from an earlier one: move it away, or make it the "
            'card, card=ModelCard.load("README.md")'
        )


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
