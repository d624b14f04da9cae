"""Layouts of a batch: spectra padded to one length, or packed one after the other.

Models compute in the packed layout, rows (T, ...), so that no linear map touches padding; the padded one,
(batch, num_patches, ...), is what Transformers' interface speaks. It runs inside only where a graph is traced from
padded inputs (how many rows are real must not matter then), and where hidden states or attentions are recorded (their
shapes are Transformers').
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput
from transformers.utils.import_utils import is_tracing

from .packed_attention import Packing, Segments

Lengths = Sequence[int] | np.ndarray | torch.Tensor
Within = tuple[Any, Packing | None]  # who attends to whom: an implementation's mask (padded), or a Packing (packed)
# Outputs with one entry per patch; all others are of whole spectra.
PER_PATCH = {
    *("last_hidden_state", "tokens", "token_wavelength", "token_width", "attention_mask"),
    *("reconstruction", "coverage", "token_predictions"),
}


class Padding:
    """Where the rows of a packed batch stand in a padded one.

    Args:
        real: Rows that are not padding, shape (batch, num_patches) or (rows,), bool.

    Attributes:
        rows: Their index in the flattened batch, shape (T,).
        num_patches: How many each spectrum has.
    """

    def __init__(self, real: torch.Tensor):
        on_host = real.cpu()  # one wait for the device
        self.shape = real.shape
        self.rows = on_host.flatten().nonzero().squeeze(-1).to(real.device)
        self.num_patches = on_host.sum(-1).tolist()

    def remove(self, values: torch.Tensor) -> torch.Tensor:
        """Values of shape (batch, num_patches, ...) as rows, shape (T, ...)."""
        return values.flatten(0, len(self.shape) - 1).index_select(0, self.rows)

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of shape (T, ...) as (batch, num_patches, ...), 0 in the padding."""
        padded = values.new_zeros(self.shape.numel(), *values.shape[1:]).index_copy(0, self.rows, values)
        return padded.unflatten(0, self.shape)


def padding_of(num_patches: list[int], device: torch.device) -> Padding:
    """The padding that a packed batch would have if it were padded to its longest spectrum.

    Args:
        num_patches: Patches of each spectrum.
        device: Where the batch is.
    """
    lengths = torch.tensor(num_patches, device=device)
    return Padding(torch.arange(max(num_patches, default=0), device=device) < lengths[:, None])


@dataclass(frozen=True)
class Neighbours:
    """Which rows of what the encoder's blocks run over lie beside each other in a spectrum, both of them valid.

    Args:
        valid: Valid patches of a padded batch, shape (batch, num_patches), bool; None in the packed layout.
        before: Row of the patch before each, shape (rows,), int64; rows = there is none, or it is not valid.
        after: Row of the patch behind each, alike.
    """

    valid: torch.Tensor | None = None
    before: torch.Tensor | None = None
    after: torch.Tensor | None = None

    def beside(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values of the patch before each, of its own, and of the one behind; 0 where there is none.

        Args:
            values: Shape (batch, num_patches, channels) or, packed, (rows, channels).
        """
        if self.valid is not None:
            values = torch.where(self.valid[..., None], values, 0)
            padded = torch.nn.functional.pad(values, (0, 0, 1, 1))
            return padded[:, :-2], values, padded[:, 2:]
        assert self.before is not None and self.after is not None  # for the type checker
        padded = torch.nn.functional.pad(values, (0, 0, 0, 1))
        return padded.index_select(0, self.before), values, padded.index_select(0, self.after)


class PaddedLayout:
    """Spectra in rows of a matrix, shape (batch, num_patches, ...).

    Args:
        config: Names the attention implementation, which has its own form of a mask.
        real: Patches that are not padding, shape (batch, num_patches), bool.
        valid: Patches with data enough, the same shape.
    """

    def __init__(self, config: PreTrainedConfig, real: torch.Tensor, valid: torch.Tensor):
        self.config, self.real, self.valid = config, real, valid

    @property
    def batch(self) -> int:
        """Number of spectra."""
        return len(self.valid)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """What the encoder's blocks run over: here all patches."""
        return values

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `gather`, 0 at patches that are not valid."""
        return torch.where(self.valid[..., None], values, 0)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the patches of each spectrum, shape (batch, ...)."""
        return values.sum(1)

    def among_valid(self, hidden_states: torch.Tensor) -> Within:
        """Lets valid patches attend to each other."""
        return self.to_valid(hidden_states)

    def to_valid(self, hidden_states: torch.Tensor, memory: torch.Tensor | None = None) -> Within:
        """Lets all patches attend to the valid ones.

        A spectrum without any attends to all it has: what comes out is marked as not covered, but a softmax over
        nothing is NaN.
        """
        return create_bidirectional_mask(self.config, hidden_states, self._keys(), encoder_hidden_states=memory), None

    def asked_by(self, count: int) -> Within:
        """Lets `count` queries per spectrum attend to its valid patches, or to all if there are none.

        The mask is that of plain scaled_dot_product_attention, shape (batch, 1, 1, num_patches), bool.
        """
        return self._keys()[:, None, None], None

    def neighbours(self) -> Neighbours:
        """Which patches lie beside each other."""
        return Neighbours(valid=self.valid)

    def _keys(self) -> torch.Tensor:
        """Patches that answer, shape (batch, num_patches), bool; at least one in each spectrum."""
        keys = self.valid
        for more in (self.real, torch.ones_like(keys)):
            keys = torch.where(keys.any(-1, keepdim=True), keys, more)
        return keys


class PackedLayout:
    """Spectra one after the other, shape (T, ...).

    Rows are counted on the host, after one wait for the device. While a graph is traced nobody may look at values, so
    that no shape can depend on what is valid: valid patches are sorted to the front, and what comes behind them is
    carried along and ignored.

    Args:
        num_patches: Patches of each spectrum: ints, or a tensor, shape (batch,), while a graph is traced.
        valid: Patches with data enough, shape (T,), bool; False behind the last spectrum.
        max_num_patches: Upper bound of `num_patches`, for traced graphs; None = T.
    """

    def __init__(self, num_patches: list[int] | torch.Tensor, valid: torch.Tensor, max_num_patches: int | None = None):
        self.valid = valid
        self.traced = isinstance(num_patches, torch.Tensor)
        self.longest = max_num_patches or len(valid)
        counted_on = valid.device if self.traced else torch.device("cpu")
        lengths = torch.as_tensor(num_patches, dtype=torch.int64, device=counted_on)
        rows = torch.arange(len(valid), device=counted_on)
        # Rows behind the last spectrum get the number after the last, and are left out of every sum.
        self._spectrum = torch.searchsorted(lengths.cumsum(0), rows, right=True)
        self._valid = valid.to(counted_on)
        self.spectrum = self._spectrum.to(valid.device)
        self.segments = self._segments(lengths)
        self.rows, self.valid_segments = self._select(self._valid)

    @property
    def batch(self) -> int:
        """Number of spectra."""
        return len(self.segments.boundaries) - 1

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """What the encoder's blocks run over: the valid patches."""
        return values if self.rows is None else values.index_select(0, self.rows)

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        """The inverse of `gather`, 0 at patches that are not valid."""
        if self.rows is None:
            return values
        scattered = values.new_zeros(len(self.valid), *values.shape[1:]).index_copy(0, self.rows, values)
        return torch.where(self.valid[..., None], scattered, 0) if self.traced else scattered

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the patches of each spectrum, shape (batch, ...), at least in float32."""
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return self._sum(values, self.spectrum)

    def among_valid(self, hidden_states: torch.Tensor) -> Within:
        """Lets valid patches attend to each other."""
        return None, Packing(self.valid_segments, self.valid_segments)

    def to_valid(self, hidden_states: torch.Tensor, memory: torch.Tensor | None = None) -> Within:
        """Lets all patches attend to the valid ones of their spectrum.

        A spectrum without any attends to all it has, as in `PaddedLayout`.
        """
        rows, keys = self._keys()
        return None, Packing(self.segments, keys, rows)

    def asked_by(self, count: int) -> Within:
        """Lets `count` queries per spectrum, rows (batch x count), attend to its valid patches.

        A spectrum without any is asked for all it has, as in `to_valid`.
        """
        rows, keys = self._keys()
        boundaries = torch.arange(0, self.batch * count + 1, count, dtype=torch.int32, device=self.valid.device)
        return None, Packing(Segments(boundaries, count, None if self.traced else [count] * self.batch), keys, rows)

    def neighbours(self) -> Neighbours:
        """Which of the rows that `gather` gives lie beside each other."""
        before, after = self._beside(-1), self._beside(1)
        return Neighbours(before=self.gather(before), after=self.gather(after))

    def _beside(self, step: int) -> torch.Tensor:
        """Place among the gathered rows of the patch a step further, shape (T,); their number where there is none."""
        rows = len(self.valid)
        row = torch.arange(rows, device=self.valid.device)
        other = (row + step).clamp(0, max(rows - 1, 0))
        exists = (other != row) & self.valid[other] & (self.spectrum[other] == self.spectrum)
        place = self.valid.cumsum(0) - 1  # valid patches keep their order, traced or not
        return torch.where(exists, place[other], rows if self.rows is None else len(self.rows))

    def _keys(self) -> tuple[torch.Tensor | None, Segments]:
        nobody = torch.nn.functional.pad(self._sum(self._valid.long(), self._spectrum) == 0, (0, 1))
        return self._select(self._valid | nobody[self._spectrum])

    def _sum(self, values: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(self.batch + 1, *values.shape[1:]).index_add(0, spectrum, values)[: self.batch]

    def _select(self, chosen: torch.Tensor) -> tuple[torch.Tensor | None, Segments]:
        """Index of the chosen rows, None where it is all of them, and the runs that they form."""
        segments = self._segments(self._sum(chosen.long(), self._spectrum))
        if self.traced:
            return chosen.logical_not().argsort(stable=True), segments
        rows = chosen.nonzero().squeeze(-1)
        return None if len(rows) == len(chosen) else rows.to(self.valid.device), segments

    def _segments(self, lengths: torch.Tensor) -> Segments:
        boundaries = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(self.valid.device, torch.int32)
        if self.traced:
            return Segments(boundaries, self.longest)
        on_host = lengths.tolist()
        return Segments(boundaries, max(on_host, default=0), on_host)


def choose_layout(
    config: PreTrainedConfig,
    real: torch.Tensor,
    valid: torch.Tensor,
    num_patches: Any,
    max_num_patches: int | None = None,
) -> PaddedLayout | PackedLayout:
    """The layout that tensors of these shapes are in.

    Args:
        config: The model's.
        real: Patches that are not padding, shape (batch, num_patches) or (T,), bool.
        valid: Patches with data enough, the same shape.
        num_patches: Patches of each spectrum; needed in the packed layout.
        max_num_patches: Upper bound of them.
    """
    if valid.ndim == 2:
        return PaddedLayout(config, real, valid)
    return PackedLayout(num_patches, valid, max_num_patches)


def keeps_padding(flux: torch.Tensor) -> bool:
    """Whether shapes must not depend on values: a graph is being traced, or there are no values ("meta")."""
    return is_tracing(flux) or flux.device.type == "meta"


def run_in_layout(
    run: Callable[..., ModelOutput],
    inputs: dict[str, torch.Tensor | None],
    num_patches: Lengths | None,
    max_num_patches: int | None = None,
    *,
    find_real: Callable[[torch.Tensor | None], torch.Tensor],
    recording: bool,
    padded: bool = False,
) -> ModelOutput:
    """What `run` returns, computed in the layout that suits, with outputs in the layout of the inputs.

    Args:
        run: Takes the inputs and `num_patches`; works in both layouts.
        inputs: One entry per patch each: "flux" and "good" (pixels, bool) among them.
        num_patches: Patches of each spectrum.
        max_num_patches: Upper bound of them, for packed inputs of a traced graph.
        find_real: Which patches of padded inputs are real, given `num_patches` as a tensor.
        recording: Whether hidden states or attentions are recorded. Then all outputs are padded.
        padded: Whether `run` works in the padded layout only.

    Raises:
        ValueError: If `num_patches` does not fit, or packed spectra must be padded in a traced graph.
    """
    flux, good = inputs["flux"], inputs["good"]
    assert flux is not None and good is not None  # for the type checker
    fixed = keeps_padding(flux)
    if flux.ndim == 3:
        lengths = _as_column(num_patches, flux)
        if recording or padded or fixed:
            return run(**inputs, num_patches=lengths, max_num_patches=None)
        padding = Padding(find_real(lengths))
        return _run_unpadded(run, inputs, padding, padding.num_patches)
    packed = read_lengths(num_patches, flux)
    if isinstance(packed, torch.Tensor):
        check_on_device(packed, good, max_num_patches)
        if recording or padded:
            raise ValueError(
                "packed spectra stay packed in a traced graph, found a model or a recording of states that needs "
                "padded ones: pass those"
            )
        return run(**inputs, num_patches=packed, max_num_patches=max_num_patches)
    total = sum(packed)
    if total < len(flux) and good[total:].any():
        raise ValueError(
            f"num_patches must sum to the rows of flux that hold data, found the sum {total}, and good pixels in the "
            f"{len(flux) - total} rows behind it"
        )
    if recording or padded:
        padding = padding_of(packed, flux.device)
        restored = _each(lambda values: padding.restore(values[:total]), inputs)
        outputs = run(**restored, num_patches=torch.tensor(packed, device=flux.device), max_num_patches=None)
        return outputs if recording else _packed_again(outputs, padding, len(flux))
    if total == len(flux):
        return run(**inputs, num_patches=packed, max_num_patches=None)
    return _run_unpadded(run, inputs, Padding(torch.arange(len(flux), device=flux.device) < total), packed)


def _run_unpadded(
    run: Callable[..., ModelOutput], inputs: dict[str, torch.Tensor | None], padding: Padding, num_patches: list[int]
) -> ModelOutput:
    outputs = run(**_each(padding.remove, inputs), num_patches=num_patches, max_num_patches=None)
    for name in PER_PATCH & set(outputs):
        outputs[name] = padding.restore(outputs[name])
    return outputs


def _packed_again(outputs: ModelOutput, padding: Padding, rows: int) -> ModelOutput:
    for name in PER_PATCH & set(outputs):
        packed = padding.remove(outputs[name])
        outputs[name] = torch.cat([packed, packed.new_zeros(rows - len(packed), *packed.shape[1:])])
    return outputs


def _each(
    change: Callable[[torch.Tensor], torch.Tensor], inputs: dict[str, torch.Tensor | None]
) -> dict[str, torch.Tensor | None]:
    return {name: None if values is None else change(values) for name, values in inputs.items()}


def _as_column(num_patches: Lengths | None, flux: torch.Tensor) -> torch.Tensor | None:
    """Patches of each padded spectrum, shape (batch,)."""
    if num_patches is None:
        return None
    lengths = torch.as_tensor(num_patches, device=flux.device)
    if lengths.shape != flux.shape[:1]:
        raise ValueError(
            f"num_patches must have shape ({len(flux)},), one number per spectrum, found {tuple(lengths.shape)}: "
            "packed spectra are passed as flux of shape (rows, patch_size)"
        )
    return lengths


def check_on_device(num_patches: torch.Tensor, good: torch.Tensor, max_num_patches: int | None) -> None:
    """What `run_in_layout` checks, for a traced graph: a failure shows when the graph runs.

    Args:
        num_patches: Patches of each spectrum, shape (batch,).
        good: Good pixels, shape (T, patch_size), bool.
        max_num_patches: Upper bound of `num_patches`.
    """
    if good.device.type == "meta":
        return
    total, rows = num_patches.sum(), torch.arange(len(good), device=good.device)
    fits = (num_patches >= 0).all() & (total <= len(good)) & (num_patches <= (max_num_patches or len(good))).all()
    torch._assert_async(fits, "num_patches must be >= 0, sum to at most the rows of flux, and obey max_num_patches")
    unused = (rows >= total) & good.any(-1)
    torch._assert_async(unused.logical_not().all(), "num_patches must cover all rows of flux that hold good pixels")


def read_lengths(num_patches: Lengths | None, flux: torch.Tensor) -> list[int] | torch.Tensor:
    """Patches of each spectrum of a packed batch: ints, or a tensor while a graph is traced.

    Args:
        num_patches: What the caller gave.
        flux: The batch, shape (T, patch_size).

    Raises:
        ValueError: If there is none, or it does not fit the batch.
    """
    if num_patches is None:
        raise ValueError(
            f"packed spectra, flux of shape {tuple(flux.shape)}, need num_patches, the patches of each spectrum: "
            "use DataCollatorForPackedSpectra, or pass flux of shape (batch, num_patches, patch_size)"
        )
    if keeps_padding(flux):
        return torch.as_tensor(num_patches, device=flux.device)
    lengths = torch.as_tensor(num_patches, dtype=torch.int64).tolist()
    if min(lengths, default=0) < 0 or sum(lengths) > len(flux):
        raise ValueError(
            f"num_patches must be >= 0 and sum to the {len(flux)} rows of flux, found the sum {sum(lengths)} over "
            f"{len(lengths)} spectra: a packed batch cannot be cut by rows (by DataParallel, or by a Trainer with an "
            'iterable dataset, which needs accelerator_config={"dispatch_batches": False})'
        )
    return lengths


__all__ = [
    "Lengths",
    "Neighbours",
    "PackedLayout",
    "PaddedLayout",
    "Padding",
    "choose_layout",
    "keeps_padding",
    "padding_of",
    "read_lengths",
    "run_in_layout",
]
# From spectok-hf; save_pretrained writes this file.
