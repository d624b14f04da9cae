"""The checkpoints that come with this package: which there are, and in which folders they lie.

Their names are short, "spectok-tiny", and stand for the folder wherever a checkpoint is loaded (`auto.register`): no
network is needed. A checkpoint's trained heads are complete checkpoints in its sub-folders, "spectok-tiny/redshift".
"""

from pathlib import Path
from typing import Any

# A wheel has them within the package; a checkout, and so an editable installation, in model_cards.
PLACES = (Path(__file__).parent / "checkpoints", Path(__file__).parent.parent.parent / "model_cards")
NAMES = ("spectok-tiny", "spectok-small", "spectok-base")  # one per preset, with or without weights here
HEADS = ("classification", "stellar-parameters", "redshift")
DEFAULT = "spectok-tiny"
WEIGHTS = "model.safetensors"


def shipped_checkpoints() -> list[str]:
    """Names of the checkpoints that come with the package, each followed by those of its heads."""
    names = [f"{name}{head}" for name in NAMES for head in ("", *(f"/{head}" for head in HEADS))]
    return [name for name in names if _folder(name) is not None]


def checkpoint_path(name: str) -> Path:
    """The folder of a checkpoint that comes with the package.

    Args:
        name: One of `shipped_checkpoints()`.

    Raises:
        FileNotFoundError: If there is none of that name.
    """
    folder = _folder(name.rstrip("/"))
    if folder is None:
        there = ", ".join(shipped_checkpoints()) or "none"
        raise FileNotFoundError(
            f"{name} does not come with this package, which has {there}: pass one of these, a folder, or ORG/NAME on "
            "the Hub"
        )
    return folder


def is_ours(name: Any) -> bool:
    """Whether a name is that of a checkpoint of this package, be it shipped or not.

    A checkpoint in a folder of that name in the working directory goes first, as in Transformers.

    Args:
        name: What was given as the name or path of a checkpoint.
    """
    root, _, head = str(name).rstrip("/").partition("/")
    local = any(Path(root, part, "config.json").is_file() for part in ("", head))
    return root in NAMES and head in ("", *HEADS) and not local


def find_shipped(name: Any) -> Path | None:
    """The folder that a name stands for; None where it stands for something else.

    Args:
        name: What was given as the name or path of a checkpoint.
    """
    return _folder(str(name).rstrip("/")) if is_ours(name) else None


def find_head(name: Any, head: str | None) -> str | None:
    """The name of the trained head that comes with a shipped checkpoint; None where there is none.

    Args:
        name: What was given as the name or path of a checkpoint.
        head: One of `HEADS`; None = none.
    """
    found = f"{str(name).rstrip('/')}/{head}"
    return found if head and find_shipped(name) and find_shipped(found) else None


def shipped_heads(name: str) -> list[str]:
    """Names of the trained heads that come with a checkpoint.

    Args:
        name: Of the checkpoint.
    """
    return [found for head in HEADS if (found := find_head(name, head))]


def _folder(name: str) -> Path | None:
    root, _, head = name.partition("/")
    if root in NAMES and head in ("", *HEADS):
        for place in PLACES:
            if (place / root / head / WEIGHTS).is_file():
                return place / root / head
    return None


__all__ = [
    "DEFAULT",
    "HEADS",
    "checkpoint_path",
    "find_head",
    "find_shipped",
    "is_ours",
    "shipped_checkpoints",
    "shipped_heads",
]
