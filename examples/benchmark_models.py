"""Tables of `benchmark.py` about the model alone: layouts, other encoders, embedding, memory, scaling."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from benchmark_runs import (
    PATCH_SIZE,
    PIXELS,
    Action,
    Batch,
    Setting,
    encode,
    judge,
    layouts,
    make_batch,
    pad,
    rates,
    saved_bytes,
    time_in_turn,
    train,
)
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, PreTrainedModel

from spectok_hf import SpecTokForPreTraining, SpecTokModel
from spectok_hf.evaluation.throughput import TRAINING_FACTOR

UNIFORM = dict.fromkeys(PIXELS, 4)
MIXES = {
    "uniform": UNIFORM,
    "DESI-heavy": {"desi": 13, "sdss": 2, "galah": 1},
    **{f"{survey} alone": {survey: 16} for survey in PIXELS},
}
# Goals of the speed-up of packed over padded, whatever the FLOP ratio is; beside them 0.85 of it where it is not 1.
SPEED_UPS = {"uniform": 1.55, "DESI-heavy": 1.9}
ALONE = 0.93
SPECFORMER_STRIDE = 10  # pixels, of patches of 20: about one token per stride
LONGEST = 300_000 // PATCH_SIZE  # patches of the longest spectrum that anyone has


# C1, C2: layouts


def layout_rows(setting: Setting, *, encoder_only: bool = False) -> list[dict]:
    """Speed-ups of each layout over the padded one, for each mix of surveys."""
    config = setting.config(full=False)
    model = (SpecTokModel(config) if encoder_only else SpecTokForPreTraining(config)).to(setting.device)
    scale = 4 if setting.on_gpu and not setting.smoke else 1
    rows = []
    for mix, spectra in MIXES.items():
        lengths = setting.lengths(**{survey: scale * count for survey, count in spectra.items()})
        rows.append(layout_row(model, mix, lengths, setting, encoder_only))
    return rows


def layout_row(
    model: SpecTokModel | SpecTokForPreTraining, mix: str, lengths: list[int], setting: Setting, encoder_only: bool
) -> dict[str, object]:
    """One row of the table of layouts."""
    run, factor = (encode, 1) if encoder_only else (train, TRAINING_FACTOR)
    took = time_in_turn(layouts(model, make_batch(lengths, setting.device), setting, run), setting)
    padded = took.pop("padded")
    flops = model.flops(lengths)
    flop_ratio = model.flops([max(lengths)] * len(lengths)) / flops
    speed_ups = {name: padded / own for name, own in took.items()}
    row = {"batch": mix, "spectra": len(lengths), "patches": sum(lengths), "FLOP ratio": flop_ratio, **speed_ups}
    row["packed / FLOP ratio"] = speed_ups["packed"] / flop_ratio
    if setting.on_gpu:
        return row | rates(len(lengths), sum(lengths), flops, took["packed"], setting, factor=factor)
    alone = mix not in SPEED_UPS
    goal = ALONE if alone else max(SPEED_UPS[mix], 0.85 * flop_ratio)
    return row | judge(speed_ups["packed"], goal, "C2" if alone else "C1")


# C3: other encoders


def peer_rows(setting: Setting) -> list[dict]:
    """Time of a training step in other encoders of the same size, as multiples of ours."""
    model = SpecTokForPreTraining(setting.config()).to(setting.device)
    count = 16 if setting.on_gpu and not setting.smoke else 2
    lengths = setting.lengths(**dict.fromkeys(PIXELS, count))
    pixels = [length * PATCH_SIZE for length in lengths]
    overlapping = [count // SPECFORMER_STRIDE for count in pixels]
    batch = make_batch(lengths, setting.device)
    actions: dict[str, Action] = {"SpecTok, packed": step(model, batch, setting)}
    flops = {"SpecTok, packed": model.flops(lengths)}
    name = "Specformer's tokens (20 px every 10) in our blocks, packed"
    actions[name] = step(model, make_batch(overlapping, setting.device), setting)
    flops[name] = model.flops(overlapping)
    for name, peer in peers(setting).items():
        actions[f"{name}, padded"] = peer_step(peer, pad(batch), setting)
        flops[f"{name}, padded"] = encoder_flops(peer, [max(lengths)] * len(lengths))
    took = time_in_turn(actions, setting)
    rows = [peer_row(name, took, flops) for name in actions]
    for row, name in zip(rows, actions, strict=True):
        if setting.on_gpu:
            row |= rates(len(lengths), sum(lengths), flops[name], took[name], setting)
        elif name.startswith("BertModel"):
            row |= judge(row["time"], 1.6, "C3")
    return rows


def peer_row(name: str, took: dict[str, float], flops: dict[str, int]) -> dict[str, object]:
    """Time and operations of one model, as multiples of the first one's."""
    first = next(iter(took))
    return {"model": name, "FLOP ratio": flops[name] / flops[first], "time": took[name] / took[first]}


def peers(setting: Setting) -> dict[str, PreTrainedModel]:
    """Encoders of Transformers as wide and deep as ours, encoder and decoder together, on embedded patches."""
    ours = setting.config()
    size = {
        "vocab_size": 8,
        "hidden_size": ours.hidden_size,
        "num_attention_heads": ours.num_attention_heads,
        "num_hidden_layers": ours.num_hidden_layers + ours.decoder_num_hidden_layers,
        "max_position_embeddings": 512,
        "attn_implementation": "sdpa",
        "pad_token_id": 0,
    }
    bert = BertConfig(**size, intermediate_size=ours.intermediate_size)
    # Its MLP has a gate, and three matrices in place of two.
    special = {"bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    modern = ModernBertConfig(**size | special, intermediate_size=2 * ours.intermediate_size // 3)
    models = {"BertModel": BertModel(bert, add_pooling_layer=False), "ModernBERT": ModernBertModel(modern)}
    return {name: model.to(setting.device) for name, model in models.items()}


def encoder_flops(model: PreTrainedModel, lengths: Sequence[int]) -> int:
    """As `SpecTokModel.flops`, of a stock encoder."""
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))
    scores = sum(length**2 for length in lengths)
    return 2 * linear * sum(lengths) + 4 * model.config.hidden_size * model.config.num_hidden_layers * scores


def step(model: SpecTokForPreTraining, batch: Batch, setting: Setting) -> Action:
    """Forward and backward of one batch."""
    return partial(train, model, [batch], setting, list(model.parameters()))


def peer_step(model: PreTrainedModel, padded: Batch, setting: Setting) -> Action:
    """Forward and backward of a stock encoder, of embedded patches of the same lengths, with a key mask."""
    embedded = torch.randn(*padded["flux"].shape[:2], model.config.hidden_size, device=setting.device)
    mask = padded["pixel_mask"].any(-1)

    def action() -> None:
        with setting.autocast():
            hidden = model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        hidden.float().square().mean().backward()
        model.zero_grad(set_to_none=True)

    return action


# C6: the wavelength embedding


@torch.no_grad()
def embedding_rows(setting: Setting) -> list[dict]:
    """Share of a forward pass that goes into embedding wavelengths, once in the encoder and once in the decoder."""
    model = SpecTokForPreTraining(setting.config()).to(setting.device)
    batch = make_batch(setting.lengths(**dict.fromkeys(PIXELS, 2)), setting.device)
    embeddings = model.spectok.embeddings.wavelength_embedding, model.decoder.wavelength_embedding
    rows = []
    for name, part, used in (("encoder", model.spectok, 1), ("encoder and decoder", model, 2)):
        actions = {
            "forward": partial(encode, part, [batch], setting, []),
            "embedding": lambda used=used: [one(batch["wavelength"], torch.float32) for one in embeddings[:used]],
        }
        took = time_in_turn(actions, setting)
        share = took["embedding"] / took["forward"]
        rows.append({"of a forward pass of": name, "share": share} | judge(share, 0.01, "C6", most=True))
    return rows


# memory and scaling


def memory_rows(setting: Setting) -> list[dict]:
    """What the backward pass of the full model needs kept, per patch of the batch, by what autograd saves.

    The slope between two batches: the weights that autocast copies are no part of it.
    """
    model = SpecTokForPreTraining(setting.config()).to(setting.device)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        kept, patches = [], []
        for count in (1, 2):
            lengths = setting.lengths(**dict.fromkeys(PIXELS, count))
            kept.append(saved_bytes(loss_of(model, make_batch(lengths, setting.device), setting, dtype), model))
            patches.append(sum(lengths))
        per_patch = (kept[1] - kept[0]) / (patches[1] - patches[0])
        rows.append({"computed in": str(dtype).removeprefix("torch."), "KB saved per patch": per_patch / 1e3})
    return rows


def loss_of(
    model: SpecTokForPreTraining, batch: Batch, setting: Setting, dtype: torch.dtype
) -> Callable[[], torch.Tensor]:
    """A call that gives the loss of a batch, computed in `dtype` over float32 weights."""

    def action() -> torch.Tensor:
        with torch.autocast(setting.device, dtype, enabled=dtype != torch.float32):
            return model(**batch).loss

    return action


def scaling_rows(setting: Setting) -> list[dict]:
    """Time and memory against the size of the batch, the length of a spectrum, and the depth of the model."""
    shrinkage = 16 if setting.smoke else 1
    batches = {f"{4 * n} spectra": setting.lengths(**dict.fromkeys(PIXELS, n)) for n in (1, 2, 4, 8, 16)}
    lengths = {f"{n * PATCH_SIZE} pixels": [max(n // shrinkage, 2)] for n in (250, 1000, 4000, LONGEST)}
    depths = {f"{n} + {n} blocks": n for n in (1, 2, 4, 8)}
    model = SpecTokForPreTraining(setting.config(full=False)).to(setting.device)
    rows = scaling_of({name: (model, sizes) for name, sizes in batches.items()}, setting)
    # 300,000 pixels forward and backward take a CPU too long.
    rows += scaling_of({name: (model, sizes) for name, sizes in lengths.items()}, setting, forward=not setting.on_gpu)
    config = partial(setting.config, full=False)
    models = {
        name: SpecTokForPreTraining(config(num_hidden_layers=n, decoder_num_hidden_layers=n)).to(setting.device)
        for name, n in depths.items()
    }
    return rows + scaling_of({name: (deep, batches["8 spectra"]) for name, deep in models.items()}, setting)


def scaling_of(
    cases: dict[str, tuple[SpecTokForPreTraining, list[int]]], setting: Setting, *, forward: bool = False
) -> list[dict]:
    """Rows along one axis: time, operations and saved memory, as multiples of the first row's.

    Args:
        cases: Model and patches of each spectrum, by name.
        setting: How to measure.
        forward: Time the forward pass alone.
    """
    batches = {name: make_batch(lengths, setting.device) for name, (_, lengths) in cases.items()}
    run = encode if forward else train
    actions: dict[str, Action] = {
        name: partial(run, model, [batches[name]], setting, list(model.parameters()))
        for name, (model, _) in cases.items()
    }
    took = time_in_turn(actions, setting)
    flops = {name: model.flops(lengths) for name, (model, lengths) in cases.items()}
    kept = {
        name: saved_bytes(loss_of(model, batches[name], setting, setting.dtype), model)
        for name, (model, _) in cases.items()
    }
    first, rows = next(iter(cases)), []
    for name, (_, lengths) in cases.items():
        row = {"size": name, "pass": "forward" if forward else "forward and backward", "patches": sum(lengths)}
        for column, values in (("FLOPs", flops), ("time", took), ("saved memory", kept)):
            row[column] = values[name] / values[first]
        if setting.on_gpu:
            row |= rates(len(lengths), sum(lengths), flops[name], took[name], setting)
        rows.append(row)
    return rows
