"""Vision transformers on spectra that are drawn as pictures (arXiv 2506.00294)."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_spectrum_vit import SpectrumVitConfig
from .heads import ClassificationHead, RedshiftHead, RegressionHead, require
from .inputs import check_keywords
from .outputs_spectrum_vit import SpectrumVitModelOutput
from .packing import Lengths
from .spectrum_models import SpectrumModelForAnyTask, SpectrumPreTrainedModel, TaskModel
from .vision import UNREAD, copy_weights, encoder_of, has_class_token, part_named, states_and_pooled

BEHIND_CLASS_TOKEN = ("post_layernorm",)  # of CLIP, which has it for what it pools
RECORDED = ("output_hidden_states", "output_attentions")
ANY_SIZE = 224  # pixels of a side, to count operations by where an encoder takes any


class SpectrumVitPreTrainedModel(SpectrumPreTrainedModel):
    """What all models of pictures share."""

    config: SpectrumVitConfig
    base_model_prefix = "spectrum_vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _can_record_outputs = {}  # the vision encoder records them

    @classmethod
    def from_vision_model(cls, vision_model: PreTrainedModel, processor: Any = None, **fields: Any) -> Any:
        """A new model over a vision encoder, whose weights are copied; a head over it starts new.

        Args:
            vision_model: Any vision encoder of Transformers, also under a classifier or what it was pretrained with.
            processor: What draws spectra for it, to be saved along. None = that of `own_processor`.
            **fields: Fields of `SpectrumVitConfig`.

        Raises:
            ValueError: If the encoder is none that can be used, or the processor draws pictures of another size.
        """
        encoder = encoder_of(vision_model)
        model = cls(SpectrumVitConfig(vision_config=encoder.config.to_dict(), **fields))
        copy_weights(encoder, model.base_model.vision_model, model.base_model.unread)
        if processor is not None:
            model.remember_processor(processor)
        return model

    def load_state_dict(self, state_dict: Any, strict: bool = True, **kwargs: Any) -> Any:
        """As in torch, also of weights under the names by which they are saved.

        Transformers saves some vision encoders under the names of older versions, which `from_pretrained` knows. A
        Trainer that resumes, or takes its best checkpoint, passes them to here, and would go on from a new encoder.

        Args:
            state_dict: The weights.
            strict: Whether all must fit.
            **kwargs: As in torch.
        """
        own = self.state_dict().keys()
        if any("vision_model." in name and name not in own for name in state_dict):
            state_dict = self._rename(dict(state_dict))
        return super().load_state_dict(state_dict, strict, **kwargs)

    def _rename(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """The weights under the names that they have here; what remains unknown keeps its name."""
        loaded, report = type(self).from_pretrained(
            None, config=self.config, state_dict=state_dict, dtype=self.dtype, output_loading_info=True
        )
        known = {name: value for name, value in loaded.state_dict().items() if name not in report["missing_keys"]}
        others = {name: value for name, value in state_dict.items() if "vision_model." not in name}
        return known | others | dict.fromkeys(report["unexpected_keys"], torch.empty(0))


class SpectrumVitModel(SpectrumVitPreTrainedModel):
    """The encoder: pictures of spectra in, a vector per picture out. It is any vision encoder of Transformers."""

    # Of the models whose encoder this is.
    _keys_to_ignore_on_load_unexpected = [r"^head\."]

    def __init__(self, config: SpectrumVitConfig):
        super().__init__(config)
        self.vision_model = _new_encoder(config.vision_config)
        self.reads_class_token = has_class_token(self.vision_model)
        self.post_init()
        self._freeze_again()

    @property
    def unread(self) -> tuple[str, ...]:
        """What the vision encoder may have that is not read, by name."""
        if self.reads_class_token:
            return (*UNREAD, *BEHIND_CLASS_TOKEN)
        return tuple(name for name in UNREAD if name != "pooler")

    def unread_parts(self) -> list[nn.Module | nn.Parameter]:
        """What the vision encoder has that is not read."""
        parts = (part_named(self.vision_model, name) for name in self.unread)
        return [part for part in parts if part is not None]

    def _freeze_again(self) -> None:
        for part in self.unread_parts():
            part.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vision_model.set_input_embeddings(value)

    def flops(self, num_patches: Lengths) -> int:
        """Floating-point operations of one forward pass, as `torch.utils.flop_counter.FlopCounterMode` counts them.

        Args:
            num_patches: One number per picture, whatever it is: all pictures cost the same.
        """
        size = self.config.image_size or ANY_SIZE
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder = _new_encoder(self.config.vision_config).eval()
            encoder(torch.empty(1, self.config.num_channels, size, size))
        return len(num_patches) * counter.get_total_flops()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> SpectrumVitModelOutput:
        r"""
        Encode a batch of pictures of spectra.

        Args:
            pixel_values: What `SpectrumImageProcessor` makes, shape (batch, 3, image_size, image_size). A picture with
                NaN anywhere shows nothing.

        Raises:
            ValueError: If the shape is another, pictures hold whole numbers or infinite ones, or the encoder gives
                other channels than its config says.
        """
        check_keywords(kwargs)
        self._check_pictures(pixel_values)
        seen = ~pixel_values.isnan().flatten(1).any(-1)
        shown = _where(seen, pixel_values).to(self.vision_model.dtype)
        asked = {name: kwargs.get(name, getattr(self.config, name, False)) for name in RECORDED}
        recorded = {name: value for name, value in asked.items() if value}  # not all encoders take both
        encoded = self.vision_model(shown, return_dict=True, **recorded)
        states, (flat, pooled) = encoded.last_hidden_state, states_and_pooled(encoded)
        if self.reads_class_token and states.ndim == 3:
            pooled = flat[:, 0]
        if pooled.shape[-1] != self.config.hidden_size:
            raise ValueError(
                f"the vision encoder must give as many channels as its config says, {self.config.hidden_size}, found "
                f"{pooled.shape[-1]} of {type(self.vision_model).__name__}: take another encoder"
            )
        return SpectrumVitModelOutput(
            last_hidden_state=_where(seen, states),
            pooler_output=_where(seen, pooled),
            attention_mask=seen[:, None].long(),
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )

    def _check_pictures(self, pixel_values: torch.Tensor) -> None:
        channels, size = self.config.num_channels, self.config.image_size
        fits = pixel_values.ndim == 4 and pixel_values.shape[1] == channels
        if fits and size is not None:
            fits = pixel_values.shape[2] == size and pixel_values.shape[3] == size
        if not fits or not pixel_values.is_floating_point():
            sides = (size or "height", size or "width")
            raise ValueError(
                f"pixel_values must be floating-point, shape (batch, {channels}, {sides[0]}, {sides[1]}), found "
                f"{pixel_values.dtype} of shape {tuple(pixel_values.shape)}: draw spectra with SpectrumImageProcessor"
            )
        require(
            ~pixel_values.isinf().any(),
            "pixel_values must be finite, or NaN where a picture shows nothing: draw spectra with "
            "SpectrumImageProcessor",
        )


def _new_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A vision encoder; without a pooler where a class token is read and the pooler can be left out.

    It is made in the precision of the model around it, whatever that of the one was whose config it is.
    """
    encoder = AutoModel.from_config(config, dtype=torch.get_default_dtype())
    if has_class_token(encoder) and "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
        encoder.pooler = None
    return encoder


def _where(seen: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The values of what was seen, else 0.

    Args:
        seen: Shape (batch,), bool.
        values: Shape (batch, ...).
    """
    return torch.where(seen.view(-1, *[1] * (values.ndim - 1)), values, 0)


class SpectrumVitForTask(TaskModel, SpectrumVitPreTrainedModel):
    """The encoder under a task head, which reads one vector per picture; its subclasses name the head."""

    config: SpectrumVitConfig
    backbone_class = SpectrumVitModel

    def _unread(self) -> list[nn.Module | nn.Parameter]:
        return self.base_model.unread_parts()

    def flops(self, num_patches: Lengths) -> int:
        """As of the encoder: the head is a linear map.

        Args:
            num_patches: See there.
        """
        return self.base_model.flops(num_patches)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any) -> ModelOutput:
        r"""
        Look at a batch of pictures of spectra, and answer for each of them.

        Args:
            pixel_values: See the encoder's `forward`.
            labels: What is known, per spectrum: see the head's output.

        Raises:
            ValueError: As the encoder's `forward`, or if labels do not fit the task.
        """
        encoded = self.base_model(pixel_values, **kwargs | {"return_dict": True})
        states, mask = encoded.pooler_output[:, None], encoded.attention_mask
        # A picture is one patch, and of no wavelength: the linear head reads none.
        outputs = self.adapt(states, mask, mask, labels)
        for name in ("hidden_states", "attentions"):
            if name in encoded:  # where they are recorded
                outputs[name] = encoded[name]
        return outputs


class SpectrumVitForSpectrumClassification(SpectrumVitForTask):
    """The encoder and a head for classes, such as star, galaxy, quasar: `logits`."""

    head_class = ClassificationHead


class SpectrumVitForStellarRegression(SpectrumVitForTask):
    """The encoder and a head for named quantities, such as Teff and [Fe/H]: `predictions` in their units."""

    head_class = RegressionHead


class SpectrumVitForRedshift(SpectrumVitForTask):
    """The encoder and a head for redshifts: `redshift`, its `uncertainty`, `zwarn`, and the whole `posterior`."""

    head_class = RedshiftHead


class SpectrumVitForSequenceClassification(SpectrumModelForAnyTask, SpectrumVitForTask):
    """Whichever head a checkpoint was saved with; the classifier for one without a head."""

    config: SpectrumVitConfig


__all__ = [
    "SpectrumVitForRedshift",
    "SpectrumVitForSequenceClassification",
    "SpectrumVitForSpectrumClassification",
    "SpectrumVitForStellarRegression",
    "SpectrumVitModel",
    "SpectrumVitPreTrainedModel",
]
