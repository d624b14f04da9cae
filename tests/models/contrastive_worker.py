"""One of several processes of `test_contrastive.py`: python -m torch.distributed.run ... FOLDER BACKEND."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from spectok_hf import SpecTokForPreTraining

NAMES = ("flux", "wavelength", "error", "pixel_mask", "object_codes")


def share(batch, rank, size):
    """What a process gets of a padded batch."""
    return {name: values[rank * size : (rank + 1) * size] for name, values in batch.items() if name in NAMES}


def refusal(model, batch):
    """What the model says of it."""
    try:
        model(**batch)
    except ValueError as error:
        return str(error)
    return "nothing"


def main(folder: str, compiled: str) -> None:
    """Losses and gradients of two training steps, one of them without codes, and what is said of uneven batches."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = SpecTokForPreTraining.from_pretrained(folder).double()
    batch = torch.load(Path(folder) / "batch.pt")
    own = share(batch, rank, len(batch["flux"]) // dist.get_world_size())
    without = {name: values for name, values in own.items() if name != "object_codes"}
    alone = model.eval()(**without).loss if rank == 0 else None  # the other process takes no part
    parallel = DistributedDataParallel(model.train())
    parallel = torch.compile(parallel, backend=compiled) if compiled else parallel
    results = []
    for inputs in (own, without):
        model.zero_grad()
        loss = parallel(**inputs).loss
        loss.backward()
        losses = [torch.zeros_like(loss) for _ in range(dist.get_world_size())]
        dist.all_gather(losses, loss.detach())
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
        results.append({"losses": torch.stack(losses), "gradients": gradients})
    uneven = refusal(model, own if rank else {name: values[:2] for name, values in own.items()})
    if rank == 0:
        torch.save({"steps": results, "uneven": uneven, "alone": alone.detach()}, Path(folder) / "results.pt")
    dist.barrier()
    del parallel  # which uses the group to its own end: afterwards it might wait for ever
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
