"""One of several processes of `test_distributed.py`: python -m torch.distributed.run ... MODEL MODE OUTPUT."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForPreTraining, PreTrainedConfig
from transformers.distributed import DistributedConfig

from spectok_hf import (
    AstroClipModel,
    DataCollatorForSpectra,
    OmniSpectraProcessor,
    SpecformerProcessor,
    SpecTokForPreTraining,
    SpectrumProcessor,
    simulate_survey,
)

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from resumable_trainer import keep_inputs

# Weights that every plan shards.
SHARDED = {
    "spectok": ("spectok.layers.0.attention.q_proj.weight", "decoder.layers.0.mlp.fc2.weight"),
    "omnispectra": ("omnispectra.layers.0.mlp.fc1.weight", "omnispectra.layers.0.mlp.fc2.weight"),
    "specformer": ("specformer.layers.0.attention.q_proj.weight", "specformer.layers.1.mlp.fc2.weight"),
}


def training_batch(config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """Two spectra as a model of this config is trained on them."""
    if config.model_type == "specformer":
        collator = DataCollatorForSpectra(SpecformerProcessor(), hide="chunks", **config.masking)
        return collator(simulate_survey("desi", 2))
    spectra = simulate_survey("sdss", 2)
    if config.model_type == "omnispectra":
        return DataCollatorForSpectra(OmniSpectraProcessor(), hide="chunks")(spectra)
    return dict(SpectrumProcessor()(spectra, return_tensors="pt"))


def main(path: str, mode: str, output: str) -> None:
    """What a mode gives, written by the first process."""
    dist.init_process_group("gloo")
    modes = {"mixed precision": mixed_precision, "pairs": pairs}
    results = modes[mode](path) if mode in modes else sharded(path, mode)
    if dist.get_rank() == 0:
        torch.save(results, output)
    dist.barrier()  # one that is gone while the other works may take it along
    dist.destroy_process_group()


def mixed_precision(path: str) -> dict[str, object]:
    """What the wavelength embedding is given under FSDP2 in bfloat16, by accelerate's policy and by our trainer's."""
    inputs = SpectrumProcessor()(simulate_survey("apogee", 2), return_tensors="pt")
    plugin = SimpleNamespace(fsdp_version=2, mixed_precision_policy=MixedPrecisionPolicy(torch.bfloat16))
    try:
        fully_sharded(path, plugin.mixed_precision_policy)(**inputs)
        refused = ""
    except ValueError as error:
        refused = str(error)
    keep_inputs(plugin)
    model = fully_sharded(path, plugin.mixed_precision_policy)
    found: dict[str, object] = {"refused": refused}
    embeddings = model.spectok.embeddings

    def note_embedding(module, args, output):
        found.update(wavelength=args[0].detach().clone(), embedding=output.detach().clone())

    embeddings.wavelength_embedding.register_forward_hook(note_embedding)
    embeddings.projection.register_forward_hook(lambda module, *_: found.update(weights=str(module.weight.dtype)))
    outputs = model(**inputs)
    outputs.loss.backward()
    gradient = next(weight.grad for name, weight in model.named_parameters() if name.endswith("q_proj.weight"))
    return found | {"loss": outputs.loss.detach(), "gradient": str(gradient.dtype)}


def fully_sharded(path: str, policy: MixedPrecisionPolicy) -> SpecTokForPreTraining:
    """The model, its blocks and the rest of it sharded."""
    model = SpecTokForPreTraining.from_pretrained(path)
    for block in [*model.spectok.layers, *model.decoder.layers, model]:
        fully_shard(block, mp_policy=policy)
    return model


def sharded(path: str, mode: str) -> dict[str, torch.Tensor]:
    """Loss, tokens and the gradient of two sharded weights."""
    sizes = {"tensor": {"tp_size": 2, "tp_plan": "auto"}, "fsdp": {"fsdp_size": 2}}[mode]
    model = AutoModelForPreTraining.from_pretrained(path, distributed_config=DistributedConfig(**sizes))
    outputs = model.train()(**training_batch(model.config))
    outputs.loss.backward()
    weights = dict(model.named_parameters())
    results = {"loss": outputs.loss.detach(), "tokens": outputs.tokens.detach()}
    sharded = [name for name, weight in weights.items() if isinstance(weight, DTensor)]
    for name in SHARDED[model.config.model_type]:
        assert name in sharded, f"{name} is not sharded"
        results[name] = weights[name].grad.full_tensor()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in results.items()}


def pairs(path: str) -> dict[str, object]:
    """Losses and gradients of AstroCLIP, each process with pairs of its own, and what is said of uneven batches."""
    model = AstroClipModel.from_pretrained(path).double()
    rank, batch = dist.get_rank(), torch.load(Path(path) / "batch.pt")
    size = len(batch["flux"]) // dist.get_world_size()
    own = {name: values[rank * size : (rank + 1) * size] for name, values in batch.items()}
    without = {name: values for name, values in own.items() if name != "object_codes"}
    alone = model.eval()(**without, return_loss=True).loss if rank == 0 else None  # the other process takes no part
    parallel = DistributedDataParallel(model.train())
    steps = [pair_step(each, model, inputs) for inputs in (own, without) for each in (parallel, model)]
    try:
        model(**own if rank else {name: values[:1] for name, values in own.items()}, return_loss=True)
        uneven = "nothing"
    except ValueError as error:
        uneven = str(error)
    del parallel  # which uses the group to its own end: afterwards it might wait for ever
    return {"steps": steps, "uneven": uneven, "alone": None if alone is None else alone.detach()}


def pair_step(called: torch.nn.Module, model: AstroClipModel, inputs: dict[str, torch.Tensor]) -> dict[str, object]:
    """The loss of every process, and the mean of their gradients: DistributedDataParallel's, or taken here."""
    model.zero_grad()
    loss = called(**inputs, return_loss=True).loss
    loss.backward()
    losses = [torch.zeros_like(loss) for _ in range(dist.get_world_size())]
    dist.all_gather(losses, loss.detach())
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    if called is model:
        for gradient in gradients.values():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return {"losses": torch.stack(losses), "gradients": gradients}


if __name__ == "__main__":
    main(*sys.argv[1:])
