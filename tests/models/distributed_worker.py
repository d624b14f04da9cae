"""One of several processes of `test_distributed.py`: python -m torch.distributed.run ... MODEL MODE OUTPUT."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from spectok_hf import SpecTokForPreTraining, SpectrumProcessor, simulate_survey


def main(path: str, mode: str, output: str) -> None:
    """Loss, tokens and the gradient of one sharded weight, written by the first process."""
    dist.init_process_group("gloo")
    sizes = {"tensor": {"tp_size": 2, "tp_plan": "auto"}, "fsdp": {"fsdp_size": 2}}[mode]
    model = SpecTokForPreTraining.from_pretrained(path, distributed_config=DistributedConfig(**sizes))
    outputs = model.train()(**SpectrumProcessor()(simulate_survey("sdss", 2), return_tensors="pt"))
    outputs.loss.backward()
    weights = dict(model.named_parameters())
    results = {"loss": outputs.loss.detach(), "tokens": outputs.tokens.detach()}
    sharded = [name for name, weight in weights.items() if isinstance(weight, DTensor)]
    for name in ("spectok.layers.0.attention.q_proj.weight", "decoder.layers.0.mlp.fc2.weight"):
        assert name in sharded, f"{name} is not sharded"
        results[name] = weights[name].grad.full_tensor()
    results = {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in results.items()}
    if dist.get_rank() == 0:
        torch.save(results, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
