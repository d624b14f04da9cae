"""`convert_astroclip`: public Lightning checkpoints of Specformer and AstroCLIP as folders that Transformers loads.

Their keys are those of the public code (PolymathicAI/AstroCLIP at 97cd3e9, and DINOv2's behind its image encoder).
Each must be there once, in the shape that the others imply, and nothing else: a checkpoint that is half understood
would load, and give embeddings that mean nothing.
"""

import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, TypeAlias

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import Dinov2Config, PreTrainedModel
from transformers.utils import FEATURE_EXTRACTOR_NAME

from ..models.configuration_astroclip import AstroClipConfig
from ..models.configuration_specformer import SpecformerConfig
from ..models.modeling_astroclip import AstroClipModel
from ..models.modeling_specformer import SpecformerForPreTraining
from ..models.processing_astroclip import AstroClipProcessor
from ..models.processing_specformer import SpecformerProcessor

SPECTRUM, IMAGE = "spectrum_encoder.", "image_encoder."
# What the shapes do not show, and a file may not say (public configs of both).
SPECFORMER_HEAD_SIZE = 128
DINOV2_HEAD_SIZE = 64
POOLING_HEADS = 4
LOGIT_SCALE = 15.5
NUM_CHUNKS, CHUNK_LENGTH = 6, 50
BANDS = ("g", "r", "z")
DINOV2_EPS = 1e-6
MOST_NAMED = 4  # of the keys that are wrong
# Where nothing but plain numbers is left of a checkpoint, in which objects of its code were pickled.
STRIP = (
    'found = torch.load("FILE", map_location="cpu", weights_only=False); '
    'torch.save({"state_dict": found["state_dict"], "hyper_parameters": {name: value for name, value in '
    'found["hyper_parameters"].items() if isinstance(value, (int, float))}}, "stripped.ckpt")'
)

Weights: TypeAlias = Mapping[str, torch.Tensor]


class Target(NamedTuple):
    """What becomes of a public tensor: the shape that it must have, and which of ours lie in it one below the other.

    Without a name it is checked, and left behind.
    """

    shape: tuple[int, ...]
    names: Sequence[str]


Table: TypeAlias = dict[str, Target]


def convert_astroclip(
    file: str | Path, folder: str | Path, *, image_residual: bool = False
) -> SpecformerForPreTraining | AstroClipModel:
    """Turn a public checkpoint of Specformer or AstroCLIP into a folder with model, processor and code.

    Which of the two it is, and all sizes, are read from its weights. Of AstroCLIP the map from tokens to patches stays
    behind, with which its Specformer was pretrained and which embeds nothing. Numbers of attention heads are no part
    of weights: where the file does not say them, they are those of the public models (128 channels per head in
    Specformer, 64 in DINOv2, 4 heads in the poolings), and a warning says so.

    Args:
        file: The Lightning checkpoint (.ckpt). Only numbers are read from it, and no code is run.
        folder: Where to write; absent or empty.
        image_residual: Whether the image's MLP is added to what it is given, as on the spectrum's side. The last
            public code does not, versions before it did; weights do not show with which they were trained.

    Returns:
        The model, as `from_pretrained(folder)` loads it.

    Raises:
        FileExistsError: If the folder is a file, or holds anything.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is something else, is damaged, holds more than numbers, or has other keys, shapes or
            types than the models. Nothing is written then.
    """
    target = Path(folder)
    _check_folder(target)
    weights, settings = _read(Path(file))
    model: SpecformerForPreTraining | AstroClipModel
    if any(key.startswith((SPECTRUM, IMAGE)) for key in weights):
        model, processor = _astroclip(weights, settings, image_residual)
    elif any(key.startswith("data_embed.") for key in weights):
        model, processor = _specformer(weights, settings)
    else:
        raise ValueError(
            f"{file} must hold Specformer (data_embed.weight, ...) or AstroCLIP ({SPECTRUM}..., {IMAGE}...), found "
            f"{_named(weights)}: pass a checkpoint of their public code"
        )
    model.remember_processor(processor)
    _write(model.eval(), processor, target)
    return model


# The file -----------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights in float32, and what else was set."""
    found = _load(path)
    weights = found.get("state_dict") if isinstance(found, dict) else None
    if not isinstance(weights, dict) or not weights:
        kind = f"a mapping of {_named(found)}" if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"{path} must be a Lightning checkpoint, with its weights under state_dict, found {kind}")
    wrong = [
        f"{key} ({value.dtype if isinstance(value, torch.Tensor) else type(value).__name__})"
        for key, value in weights.items()
        if not (isinstance(key, str) and isinstance(value, torch.Tensor) and value.is_floating_point())
    ]
    if wrong:
        raise ValueError(
            f"{path} must hold named floating-point tensors only, found {_named(wrong)}: pass the original"
        )
    if any(value.dtype == torch.float64 for value in weights.values()):
        warnings.warn("weights in float64 are rounded to float32, in which the model computes", stacklevel=3)
    settings = found.get("hyper_parameters")
    return {key: value.float() for key, value in weights.items()}, settings if isinstance(settings, dict) else {}


def _load(path: Path) -> Any:
    """What a file of `torch.save` holds; anything but plain containers and numbers is refused unread."""
    with path.open("rb") as opened:
        start = opened.read(200)
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} must be a Lightning checkpoint, a zip file of torch.save, found {_kind(start)}")
    try:
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        if not foreign:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, ValueError, EOFError, KeyError, IndexError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a Lightning checkpoint ({reason}): fetch it again") from error
    raise ValueError(
        f"{path} must hold numbers in plain containers, found objects that only code can make ({_named(foreign)}), "
        "which would run when it is read: where you trust the file and its code is installed, strip it by python -c "
        f"'import torch; {STRIP}', and convert stripped.ckpt"
    )


def _kind(start: bytes) -> str:
    """What a file seems to be that is no zip file, and what to do."""
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: fetch the file itself, not the page that shows it"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: fetch the file that it stands for (git lfs pull)"
    if start[8:10] == b'{"':
        return "a safetensors file: pass the .ckpt, or load it by from_pretrained if its folder has a config.json"
    if start.startswith(b"PK"):
        return "the beginning of one only: fetch it again, as a whole"
    return f"a file that begins with {start[:12]!r}: pass the .ckpt"


# Models -------------------------------------------------------------------------------------------


def _specformer(weights: Weights, settings: Mapping[str, Any]) -> tuple[SpecformerForPreTraining, SpecformerProcessor]:
    config = _specformer_config(weights, "", settings)
    model = SpecformerForPreTraining(config)
    _fill(model, weights, _specformer_table(weights, "", "specformer.", decoder="decoder"))
    if "num_heads" not in settings:
        _warn_of_heads(f"{config.num_attention_heads}, of {SPECFORMER_HEAD_SIZE} channels each,")
    return model, _specformer_processor(config)


def _astroclip(
    weights: Weights, settings: Mapping[str, Any], image_residual: bool
) -> tuple[AstroClipModel, AstroClipProcessor]:
    weights = _unchunked(weights)
    learned = "logit_scale" in weights
    # Where it is not learned, the public code trains with the temperature; its logit_scale is of a figure in the log.
    scale = settings.get("temperature", LOGIT_SCALE)
    config = AstroClipConfig(
        spectrum_config=_specformer_config(weights, f"{SPECTRUM}backbone.", {}),
        vision_config=_dinov2_config(weights, f"{IMAGE}backbone."),
        projection_dim=_size(weights, f"{SPECTRUM}cross_attention.query", 3)[2],
        pooling_num_attention_heads=POOLING_HEADS,
        image_pooling="attention",
        image_residual=image_residual,
        vision_class_token=False,
        logit_scale_init_value=float(weights["logit_scale"].exp()) if learned else float(scale),
        learn_logit_scale=learned,
    )
    model = AstroClipModel(config)
    _fill(model, weights, _astroclip_table(weights, config, model))
    _warn_of_heads(
        f"{SPECFORMER_HEAD_SIZE} channels each in Specformer, {DINOV2_HEAD_SIZE} in DINOv2, and {POOLING_HEADS} heads "
        "in the poolings,"
    )
    processor = AstroClipProcessor(
        spectrum_processor=_specformer_processor(config.spectrum_config),
        bands=BANDS,
        image_size=config.vision_config.image_size,
    )
    return model, processor


def _warn_of_heads(taken: str) -> None:
    warnings.warn(
        f"the file does not say how many attention heads there are: taken as {taken} as in the public model",
        stacklevel=4,
    )


def _specformer_config(weights: Weights, prefix: str, settings: Mapping[str, Any]) -> SpecformerConfig:
    """Sizes by the weights, and what they do not show by the settings."""
    width, inputs = _size(weights, f"{prefix}data_embed.weight", 2)
    length = _size(weights, f"{prefix}position_embed.weight", 2)[0]
    layers = _count(weights, rf"{re.escape(prefix)}blocks\.(\d+)\.")
    read = {"input_dim": inputs, "embed_dim": width, "num_layers": layers, "max_len": length}
    read["slice_section_length"] = inputs - 2
    if differ := [
        f"{name}={settings[name]} ({size})" for name, size in read.items() if settings.get(name, size) != size
    ]:
        raise ValueError(f"hyper_parameters must be those of the weights (in brackets), found {_named(differ)}")
    dropout = float(settings.get("dropout", 0.0))
    try:
        return SpecformerConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=settings.get("num_heads") or _heads(width, SPECFORMER_HEAD_SIZE, "Specformer"),
            intermediate_size=_size(weights, f"{prefix}blocks.0.mlp.encoder.weight", 2)[0],
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            patch_size=inputs - 2,
            patch_overlap=settings.get("slice_overlap", (inputs - 2) // 2),
            max_position_embeddings=length,
            num_chunks=settings.get("mask_num_chunks", NUM_CHUNKS),
            chunk_length=settings.get("mask_chunk_width", CHUNK_LENGTH),
        )
    except StrictDataclassError as error:
        reason = str(error).strip().rpartition("\n")[2].strip()
        raise ValueError(f"sizes and settings of Specformer must fit each other: {reason}") from error


def _dinov2_config(weights: Weights, prefix: str) -> Dinov2Config:
    width, _, height, side = _size(weights, f"{prefix}patch_embed.proj.weight", 4)
    positions = _size(weights, f"{prefix}pos_embed", 3)[1]
    across = round((positions - 1) ** 0.5)
    if height != side or across**2 + 1 != positions:
        raise ValueError(
            f"{prefix}pos_embed must have a position for a class token and for each square patch of a square image, "
            f"found {positions} for patches of {height} x {side} pixels"
        )
    hidden = _size(weights, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0]
    if hidden % width:
        raise ValueError(f"the MLP of {prefix} must be a whole number times as wide as {width}, found {hidden}")
    return Dinov2Config(
        hidden_size=width,
        num_hidden_layers=_count(weights, rf"{re.escape(prefix)}blocks\.(\d+)\."),
        num_attention_heads=_heads(width, DINOV2_HEAD_SIZE, "DINOv2"),
        mlp_ratio=hidden // width,
        layer_norm_eps=DINOV2_EPS,
        image_size=across * side,
        patch_size=side,
        num_channels=len(BANDS),
    )


def _specformer_processor(config: SpecformerConfig) -> SpecformerProcessor:
    return SpecformerProcessor(patch_size=config.patch_size, patch_overlap=config.patch_overlap)


def _heads(width: int, size: int, model: str) -> int:
    if width % size:
        raise ValueError(
            f"{model} of {width} channels must have num_heads in the file's hyper_parameters, or heads of {size} "
            "channels each: pass a checkpoint that says it"
        )
    return width // size


def _size(weights: Weights, key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that tells sizes."""
    if key not in weights:
        raise ValueError(f"the checkpoint must hold {key}, found {_named(weights)}: pass one of the public code")
    shape = tuple(weights[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{key} must have {dimensions} dimensions and numbers in it, found the shape {shape}")
    return shape


def _count(weights: Weights, pattern: str) -> int:
    """Blocks, by the highest number: one that is not there is missed later."""
    return 1 + max((int(found[1]) for key in weights if (found := re.match(pattern, key))), default=-1)


# Keys ---------------------------------------------------------------------------------------------


def _linear(key: str, names: str | Sequence[str], rows: int, columns: int) -> Table:
    names = [names] if isinstance(names, str) else names
    return {
        f"{key}.weight": Target((rows, columns), [f"{name}.weight" for name in names]),
        f"{key}.bias": Target((rows,), [f"{name}.bias" for name in names]),
    }


def _norm(key: str, name: str, size: int) -> Table:
    return {f"{key}.{part}": Target((size,), [f"{name}.{part}"]) for part in ("weight", "bias")}


def _specformer_table(weights: Weights, key: str, name: str, *, decoder: str | None) -> Table:
    """Of the prefixes of theirs and ours; `decoder` is the name of our map from tokens to patches, None = none."""
    width, inputs = weights[f"{key}data_embed.weight"].shape
    wide = weights[f"{key}blocks.0.mlp.encoder.weight"].shape[0]
    length = weights[f"{key}position_embed.weight"].shape[0]
    table = _linear(f"{key}data_embed", f"{name}embeddings.projection", width, inputs)
    table[f"{key}position_embed.weight"] = Target((length, width), [f"{name}embeddings.position_embedding.weight"])
    for layer in range(_count(weights, rf"{re.escape(key)}blocks\.(\d+)\.")):
        theirs, ours = f"{key}blocks.{layer}.", f"{name}layers.{layer}."
        table |= _norm(f"{theirs}layernorm1", f"{ours}norm_before", width)
        queries = [f"{ours}attention.{part}_proj" for part in "qkv"]
        table |= _linear(f"{theirs}attention.attention", queries, 3 * width, width)
        table |= _linear(f"{theirs}attention.projection", f"{ours}attention.o_proj", width, width)
        table |= _norm(f"{theirs}layernorm2", f"{ours}norm_after", width)
        table |= _linear(f"{theirs}mlp.encoder", f"{ours}mlp.fc1", wide, width)
        table |= _linear(f"{theirs}mlp.decoder", f"{ours}mlp.fc2", width, wide)
    table |= _norm(f"{key}final_layernorm", f"{name}norm", width)
    return table | _linear(f"{key}head", [] if decoder is None else decoder, inputs, width)


def _astroclip_table(weights: Weights, config: AstroClipConfig, model: PreTrainedModel) -> Table:
    size = config.projection_dim
    table = _specformer_table(weights, f"{SPECTRUM}backbone.", "spectrum_model.", decoder=None)
    table |= _head_table(weights, SPECTRUM, "spectrum_head.", size, config.spectrum_config.hidden_size)
    table |= _dinov2_table(f"{IMAGE}backbone.", config.vision_config, model)
    table |= _head_table(weights, IMAGE, "image_head.", size, config.vision_config.hidden_size)
    if "logit_scale" in weights:
        table["logit_scale"] = Target((), ["logit_scale"])
    return table


def _head_table(weights: Weights, key: str, name: str, size: int, width: int) -> Table:
    """Of a learned query over tokens of some width, and the MLP behind it."""
    attention, parts = f"{key}cross_attention.multihead_attn.", "qkv"
    wide = _size(weights, f"{key}mlp.encoder.weight", 2)[0]
    table = {f"{key}cross_attention.query": Target((1, 1, size), [f"{name}query"])}
    if size == width:  # torch keeps one matrix then
        names = [f"{name}{part}_proj.weight" for part in parts]
        table[f"{attention}in_proj_weight"] = Target((3 * size, size), names)
    else:
        for part in parts:
            columns = size if part == "q" else width
            table[f"{attention}{part}_proj_weight"] = Target((size, columns), [f"{name}{part}_proj.weight"])
    table[f"{attention}in_proj_bias"] = Target((3 * size,), [f"{name}{part}_proj.bias" for part in parts])
    table |= _linear(f"{attention}out_proj", f"{name}o_proj", size, size)
    table |= _norm(f"{key}cross_attention.layernorm", f"{name}norm", size)
    table |= _linear(f"{key}mlp.encoder", f"{name}fc1", wide, size)
    return table | _linear(f"{key}mlp.decoder", f"{name}fc2", size, wide)


def _dinov2_table(key: str, config: Dinov2Config, model: PreTrainedModel) -> Table:
    width, side, name = config.hidden_size, config.patch_size, "vision_model."
    wide, positions = width * config.mlp_ratio, (config.image_size // side) ** 2 + 1
    patches = f"{name}embeddings.patch_embeddings.projection"
    table = {
        f"{key}cls_token": Target((1, 1, width), [f"{name}embeddings.cls_token"]),
        f"{key}pos_embed": Target((1, positions, width), [f"{name}embeddings.position_embeddings"]),
        f"{key}mask_token": Target((1, width), [f"{name}embeddings.mask_token"]),
        f"{key}patch_embed.proj.weight": Target((width, config.num_channels, side, side), [f"{patches}.weight"]),
        f"{key}patch_embed.proj.bias": Target((width,), [f"{patches}.bias"]),
    }
    *queries, output = _dinov2_attention(model)
    for layer in range(config.num_hidden_layers):
        theirs, ours = f"{key}blocks.{layer}.", f"{name}encoder.layer.{layer}."
        table |= _norm(f"{theirs}norm1", f"{ours}norm1", width)
        table |= _linear(f"{theirs}attn.qkv", [ours + query for query in queries], 3 * width, width)
        table |= _linear(f"{theirs}attn.proj", ours + output, width, width)
        table |= _norm(f"{theirs}norm2", f"{ours}norm2", width)
        table |= _linear(f"{theirs}mlp.fc1", f"{ours}mlp.fc1", wide, width)
        table |= _linear(f"{theirs}mlp.fc2", f"{ours}mlp.fc2", width, wide)
        for number in (1, 2):
            table[f"{theirs}ls{number}.gamma"] = Target((width,), [f"{ours}layer_scale{number}.lambda1"])
    return table | _norm(f"{key}norm", f"{name}layernorm", width)


def _dinov2_attention(model: PreTrainedModel) -> tuple[str, str, str, str]:
    """Names of queries, keys, values and output in a block, which Transformers 5.24 and 5.6 call differently."""
    if "vision_model.encoder.layer.0.attention.q_proj.weight" in model.state_dict():
        return "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"
    inner = "attention.attention."
    return f"{inner}query", f"{inner}key", f"{inner}value", "attention.output.dense"


def _unchunked(weights: Weights) -> dict[str, torch.Tensor]:
    """Blocks of DINOv2 under their own numbers, whether or not they were saved in chunks."""
    chunk = re.compile(rf"({re.escape(IMAGE)}backbone\.blocks\.)\d+\.(\d+\.)")
    found = {chunk.sub(r"\1\2", key): value for key, value in weights.items()}
    if len(found) != len(weights):
        names = [chunk.sub(r"\1\2", key) for key in weights]
        twice = sorted(name for name in found if names.count(name) > 1)
        raise ValueError(f"each block must be in one chunk, found in several: {_named(twice)}")
    return found


def _fill(model: PreTrainedModel, weights: Weights, table: Table) -> None:
    """Put every tensor into its place, after a check that all fit."""
    problems = {
        "are missing": sorted(table.keys() - weights.keys()),
        "belong to nothing": sorted(weights.keys() - table.keys()),
        "have another shape": [
            f"{key} {tuple(weights[key].shape)}, which must be {target.shape}"
            for key, target in sorted(table.items())
            if key in weights and tuple(weights[key].shape) != target.shape
        ],
    }
    if wrong := [f"{len(keys)} {what}: {_named(keys)}" for what, keys in problems.items() if keys]:
        raise ValueError(
            f"the checkpoint must have the {len(table)} tensors of {type(model).__name__}, found that "
            f"{'; '.join(wrong)}: pass one of the public code"
        )
    own = model.state_dict()
    filled = {}
    for key, target in table.items():
        for name, part in zip(target.names, _parts(weights[key], len(target.names)), strict=True):
            filled[name] = part.reshape(own[name].shape)
    model.load_state_dict(filled)


def _parts(value: torch.Tensor, count: int) -> Sequence[torch.Tensor]:
    """Equal ones, one below the other."""
    return value.chunk(count) if count > 1 else [value][:count]


def _named(keys: Iterable[Any]) -> str:
    """The first of them, and how many more there are."""
    names = [str(key) for key in keys]
    more = f", and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more if names else "nothing"


# The folder ---------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.is_symlink() and not folder.exists():
        raise FileExistsError(f"{folder} must be a folder, found a link to nothing: pass another one")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} must be a folder, found a file: pass another one")
    if folder.is_dir() and (names := sorted(path.name for path in folder.iterdir())):
        raise FileExistsError(f"{folder} must be empty or absent, found {_named(names)} in it: pass another folder")


def _write(model: PreTrainedModel, processor: Any, folder: Path) -> None:
    """Write all, then move it to its place: the folder is never half of a checkpoint."""
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Within a folder that is there: it may be a file system of its own, between which nothing can be renamed.
    place = target if target.exists() else target.parent
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=place) as aside:
        written = Path(aside) / target.name
        model.save_pretrained(written)
        if not (written / FEATURE_EXTRACTOR_NAME).is_file():
            processor.save_pretrained(written)
        target.mkdir(exist_ok=True)
        for path in written.iterdir():
            path.rename(target / path.name)


__all__ = ["convert_astroclip"]
