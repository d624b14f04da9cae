"""What models share that look at pictures through a vision encoder of Transformers, whichever it is."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

# What nobody reads who reads states: it would have no gradient, and hold up DistributedDataParallel.
UNREAD = ("pooler", "embeddings.mask_token")
CLASS_TOKENS = {"cls_token", "class_embedding"}  # how the weight of it is called
POOLER = "head."  # of AIMv2, whose pooler asks with a weight that is called cls_token, too


def as_vision_config(config: PreTrainedConfig | dict[str, Any]) -> PreTrainedConfig:
    """The config of a vision encoder, a copy: what Transformers sets in it would reach the model that it belongs to.

    Args:
        config: Of any vision encoder of Transformers, as an object or a dict with its `model_type`.

    Raises:
        ValueError: If it is of no such encoder.
    """
    if not isinstance(config, dict):
        found = deepcopy(config)
    elif (kind := config.get("model_type")) in CONFIG_MAPPING:
        found = CONFIG_MAPPING[kind](**config)
    else:
        raise ValueError(f"the vision_config must name its model_type, one of Transformers, found {kind!r}")
    if not hasattr(found, "num_channels") or not (hasattr(found, "hidden_size") or hasattr(found, "hidden_sizes")):
        raise ValueError(
            "the vision_config must be of an encoder of images, with num_channels and hidden_size or hidden_sizes, "
            f"found {type(found).__name__}"
            + (": pass its vision_config" if hasattr(found, "vision_config") else ": take another encoder")
        )
    return found


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The vision encoder of a model of Transformers: the model itself, or what lies under its head.

    Args:
        model: The model. (The `base_model` of some encoders, DINOv3 among them, is a part of them.)
    """
    whole = MODEL_MAPPING.get(type(model.config), ())
    return model if isinstance(model, whole) else model.base_model


def state_size(config: PreTrainedConfig) -> int:
    """Channels of the states of a vision encoder.

    Args:
        config: The encoder's.
    """
    return getattr(config, "hidden_size", None) or config.hidden_sizes[-1]


def image_side(config: PreTrainedConfig) -> int | None:
    """Pixels of a side of an image; None where a vision encoder takes any.

    Args:
        config: The encoder's.
    """
    size = getattr(config, "image_size", None)
    return size[0] if isinstance(size, (list, tuple)) else size


def has_class_token(encoder: nn.Module) -> bool:
    """Whether the first state of a vision encoder is that of a class token.

    Args:
        encoder: The encoder.
    """
    names = (name for name, _ in encoder.named_parameters() if not name.startswith(POOLER))
    return any(name.rpartition(".")[2] in CLASS_TOKENS for name in names)


def states_and_pooled(encoded: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a vision encoder, (batch, states, channels), and what it pools from them, else their mean.

    Args:
        encoded: What the encoder gave.
    """
    states = encoded["last_hidden_state"]
    states = states.flatten(2).mT if states.ndim == 4 else states  # of a convolutional network
    pooled = encoded.get("pooler_output")
    return states, states.mean(1) if pooled is None else pooled.flatten(1)


def copy_weights(source: nn.Module, target: nn.Module, unread: Sequence[str], *, about_pooler: str = "") -> None:
    """Copy the weights of an encoder; what the target has beside them and nothing reads stays new.

    Args:
        source: The encoder that has them.
        target: The one to fill.
        unread: What either may have alone, by the beginnings of the names.
        about_pooler: What to do where the pooler is what is lost.

    Raises:
        ValueError: If others do not fit.
    """
    missing, unexpected = target.load_state_dict(source.state_dict(), strict=False)
    if lost := [name for name in [*missing, *unexpected] if not name.startswith(tuple(unread))]:
        raise ValueError(
            f"encoders must have all weights that are read, found that {', '.join(lost[:3])} of "
            f"{type(source).__name__} do not fit" + (about_pooler if lost[0].startswith("pooler") else "")
        )


def part_named(model: nn.Module, name: str) -> Any:
    """A module or a weight of a model, or None.

    Args:
        model: The model.
        name: Its name, with dots.
    """
    part: Any = model
    for attribute in name.split("."):
        part = getattr(part, attribute, None)
    return part


def freeze_part(model: nn.Module, name: str, frozen: bool = True) -> None:
    """Freeze a module or a weight, where the model has one of that name.

    Args:
        model: The model.
        name: Its name, with dots.
        frozen: Whether it shall not be trained.
    """
    part = part_named(model, name)
    if part is not None:
        part.requires_grad_(not frozen)


__all__ = [
    "UNREAD",
    "as_vision_config",
    "copy_weights",
    "encoder_of",
    "freeze_part",
    "has_class_token",
    "image_side",
    "part_named",
    "state_size",
    "states_and_pooled",
]
