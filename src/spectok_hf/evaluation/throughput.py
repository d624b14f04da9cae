"""How fast a model runs: spectra and tokens per second, and the share of what the machine can do."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..models.spectrum_models import SpectrumPreTrainedModel

GPU_SIZE, CPU_SIZE = 8192, 1024  # of the matrices that are multiplied
TRAINING_FACTOR = 3  # the backward pass needs twice the operations of the forward pass


class Throughput:
    """Counts the batches that a model is given, and says how fast they went. Counting never waits for a GPU.

    With the `Trainer`: `count` in `training_step`, `report` in `log`, `restart` after an evaluation.

    Args:
        model: The model, not wrapped (by DistributedDataParallel, torch.compile).
        peak: What `matmul_rate` gives, in FLOP/s; None = no `mfu` in the report.
        training: Whether each batch is run forward and backward, or forward only.
        clock: Time in seconds.
    """

    def __init__(
        self,
        model: SpectrumPreTrainedModel,
        peak: float | None = None,
        *,
        training: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.model, self.peak, self.training, self.clock = model, peak, training, clock
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, and start the clock."""
        self._rows = 0
        self._lengths: list[torch.Tensor] = []
        self._start = self.clock()

    def count(self, inputs: Mapping[str, Any]) -> None:
        """Count one batch.

        Args:
            inputs: Inputs of the model, padded or packed, with `num_patches`.

        Raises:
            ValueError: If they have no `num_patches`.
        """
        if inputs.get("num_patches") is None:
            raise ValueError(
                f"a batch must say its num_patches to be counted, found only {', '.join(inputs)}: make it with "
                "SpectrumProcessor, DataCollatorForSpectra or DataCollatorForPackedSpectra"
            )
        # A copy, on the device where the lengths are: static buffers hold other ones at the time of the report.
        self._lengths.append(torch.as_tensor(inputs["num_patches"]).clone())
        self._rows += inputs["flux"].shape[:-1].numel()

    def report(self, add_up: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, float]:
        """Figures since the last report, which starts the next count. Waits for the GPU to finish, if there is one.

        Args:
            add_up: Gives the sum of a tensor over all processes (all of them must report then); None = the figures of
                this process.

        Returns:
            spectra_per_second; tokens_per_second, of real patches; padding_share, the share of the batches' rows that
            are padding (the model removes it, so that it costs memory and transfer, but next to no arithmetic; of a
            compiled model it costs all); mfu, the operations that the spectra need over those that the machine could
            have done, where a peak was given. Empty if nothing was counted.
        """
        if not self._lengths:
            self.restart()
            return {}
        synchronize(self.model.device)
        seconds = self.clock() - self._start
        lengths = [length for batch in self._lengths for length in batch.tolist()]
        flops = self.model.flops(lengths) * (TRAINING_FACTOR if self.training else 1)
        counts = torch.tensor([len(lengths), sum(lengths), self._rows, flops, self.peak or 0], dtype=torch.float64)
        spectra, tokens, rows, flops, peak = (counts if add_up is None else add_up(counts)).tolist()
        figures = {
            "spectra_per_second": spectra / seconds,
            "tokens_per_second": tokens / seconds,
            "padding_share": 1 - tokens / max(rows, 1),
        }
        if self.peak is not None:
            figures["mfu"] = flops / seconds / peak
        self.restart()
        return figures


def matmul_rate(device: torch.device | str, dtype: torch.dtype, size: int | None = None, *, rounds: int = 5) -> float:
    """The rate of matrix products on this machine, in FLOP/s: what an MFU is measured against.

    Args:
        device: Where to multiply.
        dtype: Type of the matrices.
        size: Rows and columns of the matrices; None = 8192 on an accelerator, 1024 on the CPU.
        rounds: The best of so many counts.
    """
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    size = size or (CPU_SIZE if on_cpu else GPU_SIZE)
    repeats = 1 if on_cpu else 10  # so that the wait for the GPU does not count
    own = torch.Generator(device).manual_seed(0)  # a training that asks for the rate draws what it drew before
    first, second = torch.randn(2, size, size, device=device, dtype=dtype, generator=own)
    best = float("inf")
    for _ in range(rounds + 1):  # the first one may choose a kernel
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            torch.mm(first, second)
        synchronize(device)
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * size**3 / best


def synchronize(device: torch.device | str) -> None:
    """Wait until a device has finished what it was given.

    Args:
        device: The device; a CPU is always finished.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


__all__ = ["Throughput", "matmul_rate", "synchronize"]
