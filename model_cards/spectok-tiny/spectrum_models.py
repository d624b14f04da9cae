"""What the models of all families share: how a batch is laid out, what is frozen, and the task heads over an encoder.

A family brings its config, its encoder and what it is pretrained with; its heads are three lines each.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .blocks import SpectrumAttention, SpectrumLayer
from .checkpoints import SelfContainedModel, class_named
from .heads import ClassificationHead, RedshiftHead, RegressionHead, init_head_weights
from .inputs import check_inputs
from .packing import Lengths, PackedLayout, PaddedLayout, choose_layout, run_in_layout
from .patches import real_patches

TASKS = ("ForSpectrumClassification", "ForStellarRegression", "ForRedshift")


class SpectrumPreTrainedModel(SelfContainedModel, PreTrainedModel):
    """What the models of all families share."""

    _run: Callable[..., ModelOutput]  # on checked inputs, in whichever layout they come
    main_input_name = "flux"
    input_modalities = ("time",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # else Trainer leaves the division by the accumulation steps to us
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SpectrumLayer, "attentions": SpectrumAttention}
    _input_embed_layer = "projection"
    # What an encoder reads of what its processor normalised by, one number per spectrum: "scale", "loc".
    reads_statistics: ClassVar[tuple[str, ...]] = ()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_head_weights(module, self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in Transformers, which makes every parameter anew: what is frozen is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze_again()
        return loaded

    def _freeze_again(self) -> None:
        """Freeze what the config says, and what has no gradient and would hold up DistributedDataParallel."""

    def flops(self, num_patches: Lengths) -> int:
        """Floating-point operations of one forward pass: what has to be done, whatever a layout adds to it.

        Those of linear maps and attention, 2 per multiplication and addition, as
        `torch.utils.flop_counter.FlopCounterMode` counts them. Training needs three times as many.

        Args:
            num_patches: Patches of each spectrum, all of them valid.
        """
        lengths = [int(length) for length in num_patches]
        linear = sum(module.weight.numel() for module in self.modules() if isinstance(module, nn.Linear))
        blocks = sum(isinstance(module, SpectrumAttention) for module in self.modules())
        scores = sum(length**2 for length in lengths)
        return 2 * linear * sum(lengths) + 4 * self.config.hidden_size * blocks * scores

    def _run_in_layout(
        self,
        inputs: dict[str, Any],
        num_patches: Lengths | None,
        max_num_patches: int | None,
        keywords: dict[str, Any],
    ) -> ModelOutput:
        """What `_run` makes of checked inputs and keywords, in the layout that suits."""
        # Asked for by the call, or by the config.
        names = ("output_hidden_states", "output_attentions")
        recording = any(keywords.get(name, getattr(self.config, name, False)) for name in names)
        return run_in_layout(
            partial(self._run, **keywords),
            inputs,
            num_patches,
            max_num_patches,
            find_real=partial(self._find_real, inputs),
            recording=recording,
            padded=self._needs_padding(),
        )

    def _read_statistics(
        self, scale: torch.Tensor | None, loc: torch.Tensor | None, flux: torch.Tensor, num_patches: Lengths | None
    ) -> dict[str, torch.Tensor]:
        """Those of the two that the encoder reads, by name."""
        given = {"scale": scale, "loc": loc}
        processor = self.config.auto_classes["AutoProcessor"].partition(".")[2]
        if loc is not None and "loc" not in self.reads_statistics:
            raise TypeError(f"{type(self).__name__} does not take loc: prepare its inputs with {processor}")
        read: dict[str, Any] = {name: given[name] for name in self.reads_statistics}
        if missing := [name for name, value in read.items() if value is None]:
            raise ValueError(
                f"{type(self).__name__} reads what spectra were normalised by, {' and '.join(self.reads_statistics)}, "
                f"found no {' and no '.join(missing)}: prepare its inputs with {processor}"
            )
        lengths = None if num_patches is None else len(num_patches)
        count = len(flux) if flux.ndim == 3 else lengths
        if count is None or lengths not in (None, count):  # which is said later
            return read
        if wrong := [f"{name} {tuple(value.shape)}" for name, value in read.items() if value.shape != (count,)]:
            raise ValueError(f"there must be one number per spectrum, shape ({count},), found {', '.join(wrong)}")
        return read

    def _find_real(self, inputs: dict[str, Any], num_patches: torch.Tensor | None) -> torch.Tensor:
        """Patches of padded inputs that are not padding, shape (batch, num_patches), bool."""
        return real_patches(inputs["wavelength"], inputs["good"], num_patches)

    def _needs_padding(self) -> bool:
        """Whether the model computes with padded spectra only."""
        return False


class TaskModel(SpectrumPreTrainedModel):
    """An encoder under a task head, whatever it reads: a family names the encoder, its subclasses the head."""

    backbone_class: ClassVar[type[SpectrumPreTrainedModel]]
    head_class: ClassVar[type[ClassificationHead] | type[RegressionHead] | type[RedshiftHead]]

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        config.validate_heads()
        setattr(self, self.base_model_prefix, self.backbone_class(config))
        self.head = self.head_class(config, config.head_input_size)
        self.post_init()
        self._freeze_again()

    def _freeze_again(self) -> None:
        self.freeze_backbone(self.config.freeze_backbone)

    def freeze_backbone(self, freeze: bool = True) -> None:
        """Train the head only, or everything again; the config remembers.

        What the head does not read has no gradient either, and would hold up DistributedDataParallel.

        Args:
            freeze: Whether the encoder's weights stay as they are.
        """
        self.config.freeze_backbone = freeze
        self.base_model.requires_grad_(not freeze)
        for part in self._unread():
            part.requires_grad_(False)
        self.train(self.training)

    def _unread(self) -> Sequence[nn.Module | nn.Parameter]:
        """Parts of the encoder that the head does not read."""
        return []

    def train(self, mode: bool = True) -> Any:
        """As in torch; a frozen encoder has no dropout.

        Args:
            mode: Training, or evaluation.
        """
        super().train(mode)
        if self.config.freeze_backbone:
            self.base_model.eval()
        return self

    def adapt(
        self,
        states: torch.Tensor,
        token_wavelength: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> ModelOutput:
        """What `forward` answers, from spectra that were encoded before: frozen tokens need to be made once only.

        Args:
            states: What the encoder gave under the name of `head_input`, shape (batch, num_patches, channels).
            token_wavelength: Wavelength of each patch in Å, shape (batch, num_patches), 0 at padding.
            attention_mask: Patches that were encoded, the same shape, 1 = valid.
            labels: As in `forward`.

        Raises:
            ValueError: If shapes disagree, or labels do not fit the task.
        """
        if states.ndim != 3 or token_wavelength.shape != states.shape[:2] or attention_mask.shape != states.shape[:2]:
            raise ValueError(
                "states must have shape (batch, num_patches, channels), and token_wavelength and attention_mask "
                f"(batch, num_patches), found {tuple(states.shape)}, {tuple(token_wavelength.shape)} and "
                f"{tuple(attention_mask.shape)}"
            )
        layout = PaddedLayout(self.config, token_wavelength > 0, attention_mask > 0)
        return self.head(states, token_wavelength, layout, labels)


class SpectrumModelForTask(TaskModel):
    """An encoder of patches under a task head."""

    def flops(self, num_patches: Lengths) -> int:
        """As of the other models, but for the last linear map of the head."""
        return self.base_model.flops(num_patches) + self.head.adapter.flops(num_patches)

    @can_return_tuple
    def forward(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_patches: Lengths | None = None,
        scale: torch.Tensor | None = None,
        loc: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        max_num_patches: int | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        r"""
        Encode a batch of spectra, padded or packed, and answer for each of them.

        Args:
            flux: See the encoder's `forward`, as all that is not named here.
            labels: What is known, per spectrum: see the head's output.

        Raises:
            ValueError: As the encoder's `forward`, or if labels do not fit the task.
        """
        inputs = check_inputs(
            self.config.patch_size, flux, wavelength, error, pixel_mask, attention_mask, num_patches, scale, kwargs
        )
        kwargs |= self._read_statistics(scale, loc, flux, num_patches)
        return self._run_in_layout(inputs, num_patches, max_num_patches, {"labels": labels, **kwargs})

    def _run(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None,
        good: torch.Tensor,
        valid: torch.Tensor,
        num_patches: Any,
        max_num_patches: int | None,
        labels: torch.Tensor | None,
        **kwargs: Any,
    ) -> ModelOutput:
        kwargs |= {"max_num_patches": max_num_patches, "return_dict": True}
        encoded = self.base_model(flux, wavelength, error, good, valid, num_patches, **kwargs)
        layout = encoded_layout(self.config, encoded, num_patches, max_num_patches)
        outputs = self.head(encoded[self.config.head_input], encoded.token_wavelength, layout, labels)
        for name in ("hidden_states", "attentions"):
            if name in encoded:  # where they are recorded
                outputs[name] = encoded[name]
        return outputs


class SpectrumModelForAnyTask(TaskModel):
    """Whichever head a checkpoint was saved with; the classifier for one without a head.

    What `auto_map` names: Transformers keeps one class per config class, and would load the first head that it met for
    every other one whose code is the same.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """The head that the config names.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            *args: As in Transformers.
            **kwargs: As in Transformers.

        Raises:
            ValueError: If it was saved from a class that is not ours.
        """
        options = {name: kwargs[name] for name in ("cache_dir", "revision", "subfolder", "token") if name in kwargs}
        config = kwargs.get("config") or cls.config_class.from_pretrained(pretrained_model_name_or_path, **options)
        return head_of(config).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> Any:
        return head_of(config)._from_config(config, **kwargs)


def task_class(config: PreTrainedConfig, task: str) -> type[TaskModel]:
    """The class of a task's models in the family that a config belongs to.

    Args:
        config: The config.
        task: How its name ends: one of `TASKS`.
    """
    return class_named(config.auto_classes["AutoModel"].removesuffix("Model") + task)


def head_of(config: PreTrainedConfig) -> type[TaskModel]:
    """The class of the head that a checkpoint was saved with.

    Args:
        config: Its config.

    Raises:
        ValueError: If it was saved from a class that is not ours.
    """
    heads = [task_class(config, task) for task in TASKS]
    known = {head.__name__: head for head in heads}
    names = config.architectures or []
    if found := [known[name] for name in names if name in known]:
        return found[0]
    without_head = {config.auto_classes[name].partition(".")[2] for name in ("AutoModel", "AutoModelForPreTraining")}
    if names and not set(names) <= without_head:
        raise ValueError(
            f"a checkpoint must be of {', '.join(known)}, found {', '.join(names)}, whose code is not here"
        )
    return heads[0]


def encoded_layout(
    config: PreTrainedConfig, encoded: ModelOutput, num_patches: Any, max_num_patches: int | None
) -> PaddedLayout | PackedLayout:
    """The layout of an encoded batch, for a head."""
    real, valid = encoded["token_wavelength"] > 0, encoded["attention_mask"] > 0
    return choose_layout(config, real, valid, num_patches, max_num_patches)


__all__ = [
    "TASKS",
    "SpectrumModelForAnyTask",
    "SpectrumModelForTask",
    "SpectrumPreTrainedModel",
    "TaskModel",
    "encoded_layout",
    "head_of",
    "task_class",
]
# From spectok-hf; save_pretrained writes this file.
