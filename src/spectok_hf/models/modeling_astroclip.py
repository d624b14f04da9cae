"""AstroCLIP: spectra and images of the same galaxies in one space (arXiv 2310.03024)."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import can_return_tuple

from .blocks import in_own_precision, init_sized_weights
from .checkpoints import class_named
from .configuration_astroclip import AstroClipConfig
from .contrastive import pair_loss
from .heads import at_least_float32, require
from .inputs import check_keywords
from .modeling_omnispectra import OmniSpectraModel
from .modeling_specformer import SpecformerModel
from .modeling_spectok import SpecTokModel
from .outputs_astroclip import AstroClipOutput
from .packing import Lengths, padding_of, read_lengths
from .spectrum_models import SpectrumPreTrainedModel
from .vision import UNREAD as UNREAD_OF_VISION
from .vision import copy_weights, encoder_of, freeze_part, states_and_pooled

SPECTRUM_MODELS: tuple[type[SpectrumPreTrainedModel], ...] = (SpecformerModel, SpecTokModel, OmniSpectraModel)
MOST_SCALE = 100.0  # of a learned scale, as in CLIP
# Of encoders, what nothing here reads: it would have no gradient, and hold up DistributedDataParallel.
UNREAD = ("bottleneck", *UNREAD_OF_VISION)
WITHOUT_CLASS_TOKEN = ("embeddings.cls_token", "embeddings.position_embeddings")  # alike, where patches go alone


class ProjectionHead(nn.Module):
    """A learned query that attends to the states of an encoder, and an MLP behind it: one vector.

    Args:
        config: The model's.
        input_size: Channels of the states.
        residual: Whether the MLP is added to what it reads.
    """

    def __init__(self, config: AstroClipConfig, input_size: int, *, residual: bool = True):
        super().__init__()
        size = config.projection_dim
        self.residual = residual
        self.head_dim = size // config.pooling_num_attention_heads
        self.query = nn.Parameter(torch.zeros(1, size))
        self.q_proj = nn.Linear(size, size)
        self.k_proj, self.v_proj = nn.Linear(input_size, size), nn.Linear(input_size, size)
        self.o_proj = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.fc1, self.fc2 = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(config.pooling_dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.initial_std = module.in_features**-0.5

    def forward(self, states: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A vector, shape (batch, projection_dim), and the attention of each head, shape (batch, heads, states).

        Args:
            states: Shape (batch, states, channels).
            valid: Which may be attended to, shape (batch, states), bool; where none is, all are.
        """
        states = states.to(self.q_proj.weight.dtype)
        query = self._split_heads(self.q_proj(self.query)[None])  # (1, heads, 1, head_dim)
        key, value = self._split_heads(self.k_proj(states)), self._split_heads(self.v_proj(states))
        scores = at_least_float32(query @ key.mT * self.head_dim**-0.5)
        left_out = ~valid & valid.any(-1, keepdim=True)
        weights = scores.masked_fill(left_out[:, None, None], -torch.inf).softmax(-1)  # (batch, heads, 1, states)
        answer = self.o_proj((weights.to(value.dtype) @ value).transpose(1, 2).flatten(1))
        pooled = self.norm(self.dropout(answer))
        changed = self.dropout(self.fc2(functional.gelu(self.fc1(pooled))))
        return pooled + changed if self.residual else changed, weights.squeeze(2)

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class AstroClipPreTrainedModel(SpectrumPreTrainedModel):
    """What models of AstroCLIP share."""

    config: AstroClipConfig
    base_model_prefix = "astroclip"
    input_modalities = ("time", "image")  # type: ignore[assignment]
    _no_split_modules = ["ProjectionHead"]
    _can_record_outputs = {}  # the encoders record theirs

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_sized_weights(module)
        if isinstance(module, ProjectionHead):
            init.normal_(module.query)
        elif isinstance(module, AstroClipModel) and module.logit_scale is not None:
            init.constant_(module.logit_scale, math.log(self.config.logit_scale_init_value))


class AstroClipModel(AstroClipPreTrainedModel):
    """An encoder of spectra and one of images, each under a head that brings it to a common space."""

    def __init__(self, config: AstroClipConfig):
        super().__init__(config)
        self.spectrum_model = class_named(config.spectrum_config.auto_classes["AutoModel"])(config.spectrum_config)
        self.vision_model = AutoModel.from_config(config.vision_config)
        width = config.spectrum_config.hidden_size
        self.level_projection = nn.Linear(1, width) if config.adds_level else None
        self.spectrum_head = ProjectionHead(config, width)
        self.image_head: nn.Module = nn.Linear(config.vision_hidden_size, config.projection_dim)
        if config.image_pooling == "attention":
            self.image_head = ProjectionHead(config, config.vision_hidden_size, residual=config.image_residual)
        else:
            self.image_head.initial_std = config.vision_hidden_size**-0.5
        if self.level_projection is not None:
            self.level_projection.initial_std = 1.0  # type: ignore[assignment]
        self.logit_scale = nn.Parameter(torch.zeros(())) if config.learn_logit_scale else None
        self.post_init()
        self._freeze_again()

    @classmethod
    def from_encoders(
        cls, spectrum_model: SpectrumPreTrainedModel, vision_model: PreTrainedModel, **fields: Any
    ) -> "AstroClipModel":
        """A new model over two encoders, whose weights are copied.

        Args:
            spectrum_model: Encoder of spectra, also under what it was pretrained with or a task head.
            vision_model: Encoder of images, alike.
            **fields: Fields of `AstroClipConfig`.

        Raises:
            ValueError: If one of them is none that can be used.
        """
        encoders = {"spectrum_model": spectrum_model.base_model, "vision_model": encoder_of(vision_model)}
        if not isinstance(encoders["spectrum_model"], SPECTRUM_MODELS):
            names = ", ".join(kind.__name__ for kind in SPECTRUM_MODELS)
            raise ValueError(f"spectrum_model must be one of {names}, found {type(spectrum_model).__name__}")
        configs = {"spectrum_config": spectrum_model.config.to_dict(), "vision_config": vision_model.config.to_dict()}
        model = cls(AstroClipConfig(**configs, **fields))
        read = ("pooler",) if model.config.image_pooling == "linear" else ()
        unread = [name for name in UNREAD if name not in read]
        about_pooler = ': pass image_pooling="attention", which needs no pooler'
        for name, encoder in encoders.items():
            copy_weights(encoder, getattr(model, name), unread, about_pooler=about_pooler)
        if spectrum_model.processor_settings and model.config.num_channels == 3:
            model.remember_processor(model.config.new_processor(spectrum_model.own_processor()))
        return model

    def load_state_dict(self, state_dict: Any, strict: bool = True, **kwargs: Any) -> Any:
        """As in torch, but it refuses what would leave the encoder of images as it is.

        Transformers saves some vision models under the names of older versions, which `from_pretrained` knows; a
        Trainer that resumes passes them to here, and would go on from a new encoder in silence.

        Args:
            state_dict: The weights.
            strict: Whether all must fit.
            **kwargs: As in torch.

        Raises:
            RuntimeError: If weights of the encoder of images have other names.
        """
        found = super().load_state_dict(state_dict, strict, **kwargs)
        if foreign := [name for name in found.unexpected_keys if name.startswith("vision_model.")]:
            raise RuntimeError(
                f"weights of the encoder of images have names of another version, such as {foreign[0]}: load them by "
                "AstroClipModel.from_pretrained (to resume, in Trainer._load_from_checkpoint, as AlignmentTrainer of "
                "examples/align_images_and_spectra.py does)"
            )
        return found

    def flops(self, num_patches: Lengths) -> int:
        """Of the encoder of spectra.

        Args:
            num_patches: Patches of each spectrum.
        """
        return self.spectrum_model.flops(num_patches)

    def get_input_embeddings(self) -> nn.Module:
        return self.spectrum_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Linear) -> None:
        self.spectrum_model.set_input_embeddings(value)

    def _freeze_again(self) -> None:
        for encoder, frozen in self._encoders():
            encoder.requires_grad_(not frozen)
            for name in UNREAD if not frozen else ():
                freeze_part(encoder, name)
        if self.config.image_pooling == "linear" and not self.config.freeze_vision_model:
            freeze_part(self.vision_model, "pooler", False)
        for name in () if self.config.vision_class_token else WITHOUT_CLASS_TOKEN:
            freeze_part(self.vision_model, name)
        self.train(self.training)

    def _encoders(self) -> tuple[tuple[nn.Module, bool], tuple[nn.Module, bool]]:
        """The encoders, each with whether it is frozen."""
        return (
            (self.spectrum_model, self.config.freeze_spectrum_model),
            (self.vision_model, self.config.freeze_vision_model),
        )

    def train(self, mode: bool = True) -> Any:
        """As in torch; a frozen encoder has no dropout.

        Args:
            mode: Training, or evaluation.
        """
        super().train(mode)
        for encoder, frozen in self._encoders():
            if frozen:
                encoder.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        flux: torch.Tensor | None = None,
        wavelength: torch.Tensor | None = None,
        error: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_patches: Lengths | None = None,
        scale: torch.Tensor | None = None,
        loc: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        object_codes: torch.Tensor | None = None,
        return_loss: bool = False,
        max_num_patches: int | None = None,
        **kwargs: Any,
    ) -> AstroClipOutput:
        r"""
        Embed spectra, images, or pairs of both, and compare them.

        Args:
            flux: Normalised flux, shape (batch, num_patches, patch_size) or, packed, (T, patch_size): see the encoder
                of spectra, as all up to `loc`. None = no spectra.
            pixel_values: Images, shape (batch, bands, height, width). None = no images.
            object_codes: Number of each pair's object, >= 0, shape (batch,), int64: pairs of one object are not held
                against each other. None = every pair has its own.
            return_loss: Compute the loss; in training over the pairs of all processes. It needs pairs.
            max_num_patches: See the encoder of spectra.

        Raises:
            ValueError: If there are neither spectra nor images, a loss is asked for and they do not make pairs, or
                inputs do not fit an encoder.
        """
        if flux is None and pixel_values is None:
            raise ValueError("forward needs flux, pixel_values, or both, found neither: use AstroClipProcessor")
        check_keywords(kwargs)
        spectra, of_patches = None, None
        encoded: Any = {}
        if flux is not None:
            inputs = {"error": error, "pixel_mask": pixel_mask, "attention_mask": attention_mask, "scale": scale}
            lengths = {"num_patches": num_patches, "max_num_patches": max_num_patches}
            features, encoded, of_patches = self._embed_spectra(
                flux, wavelength, inputs | {"loc": loc} | lengths | kwargs
            )
            spectra = functional.normalize(features, dim=-1)
        images, of_states = None, None
        if pixel_values is not None:
            features, of_states = self._embed_images(pixel_values)
            images = functional.normalize(features, dim=-1)
        loss, logits = self._compare(spectra, images, object_codes, return_loss)
        return AstroClipOutput(
            loss=loss,
            logits_per_spectrum=logits,
            logits_per_image=None if logits is None else logits.mT,
            spectrum_embeds=spectra,
            image_embeds=images,
            pooler_output=spectra,
            last_hidden_state=encoded.get("last_hidden_state"),
            tokens=encoded.get("tokens"),
            token_wavelength=encoded.get("token_wavelength"),
            token_width=encoded.get("token_width"),
            attention_mask=encoded.get("attention_mask"),
            spectrum_attentions=of_patches,
            image_attentions=of_states,
        )

    def _compare(
        self,
        spectra: torch.Tensor | None,
        images: torch.Tensor | None,
        object_codes: torch.Tensor | None,
        return_loss: bool,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The loss, where it is asked for, and the scaled cosines, shape (spectra, images)."""
        if spectra is None or images is None:
            if return_loss:
                raise ValueError("a loss needs pairs of spectra and images: pass both, or return_loss=False")
            return None, None
        logits = self.scale() * (spectra @ images.mT)
        if not return_loss:
            return None, logits
        return pair_loss(spectra, images, object_codes, self.scale(), gather=self.training), logits

    def get_spectrum_features(
        self, flux: torch.Tensor, wavelength: torch.Tensor, *, normalize: bool = True, **inputs: Any
    ) -> torch.Tensor:
        """Embeddings of spectra, shape (batch, projection_dim); 0 for a spectrum without a valid patch.

        Args:
            flux: See `forward`.
            wavelength: See there.
            normalize: Whether they have length 1.
            **inputs: The other inputs of spectra, see there.
        """
        features = self._embed_spectra(flux, wavelength, inputs)[0]
        return functional.normalize(features, dim=-1) if normalize else features

    def get_image_features(self, pixel_values: torch.Tensor, *, normalize: bool = True) -> torch.Tensor:
        """Embeddings of images, shape (batch, projection_dim).

        Args:
            pixel_values: See `forward`.
            normalize: Whether they have length 1.
        """
        features = self._embed_images(pixel_values)[0]
        return functional.normalize(features, dim=-1) if normalize else features

    def scale(self) -> torch.Tensor | float:
        """Factor of the cosines."""
        if self.logit_scale is None:
            return self.config.logit_scale_init_value
        scale = self.logit_scale.exp()
        return scale.clamp(max=MOST_SCALE) if self.training else scale  # else what a checkpoint says

    def _embed_spectra(
        self, flux: torch.Tensor, wavelength: torch.Tensor | None, inputs: dict[str, Any]
    ) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Vectors of any length, what the encoder gave, and the attention of the query to the patches."""
        if wavelength is None:
            raise ValueError("spectra need flux and wavelength, found no wavelength: use AstroClipProcessor")
        given = {name: value for name, value in inputs.items() if value is not None}
        encoded = self.spectrum_model(flux, wavelength, **given | {"return_dict": True})
        states, valid = encoded.last_hidden_state, encoded.attention_mask > 0
        if states.ndim == 2:  # packed
            lengths = read_lengths(given.get("num_patches"), flux)
            padding = padding_of(list(lengths), flux.device)
            states, valid = (padding.restore(values[: sum(lengths)]) for values in (states, valid))
        observed = valid.any(-1, keepdim=True)
        first = encoded.get("statistics_token")
        if self.level_projection is not None:
            first = self._level(given.get("scale"), len(states))
        if first is not None:
            states = torch.cat([first[:, None], states], dim=1)
            valid = functional.pad(valid, (1, 0), value=True)
        features, weights = self.spectrum_head(states, valid)
        return torch.where(observed, features, 0), encoded, weights if first is None else weights[..., 1:]

    def _level(self, scale: torch.Tensor | None, count: int) -> torch.Tensor:
        """The state that says how bright each spectrum is, shape (batch, channels)."""
        if scale is None or scale.shape != (count,):
            raise ValueError(
                f"AstroClipModel reads how bright spectra are: scale must have shape ({count},), found "
                f"{None if scale is None else tuple(scale.shape)}: prepare spectra with AstroClipProcessor, or make "
                "the model with read_level=False"
            )
        level = scale.clamp(min=torch.finfo(torch.float32).tiny).log10()
        return in_own_precision(self.level_projection, level[:, None])  # type: ignore[arg-type]

    def _embed_images(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Vectors of any length, and the attention of the query to the states of the vision encoder."""
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must have shape (batch, {self.config.num_channels}, height, width), found "
                f"{tuple(pixel_values.shape)}: prepare images with AstroClipProcessor"
            )
        require(pixel_values.isfinite().all(), "pixel_values must be finite: prepare images with AstroClipProcessor")
        states, pooled = self._see(pixel_values.to(self.vision_model.dtype))
        if self.config.image_pooling == "linear":
            return self.image_head(pooled), None
        return self.image_head(states, states.new_ones(states.shape[:2], dtype=torch.bool))

    def _see(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States of the vision encoder, (batch, states, channels), and what it pools from them, (batch, channels)."""
        if not self.config.vision_class_token:
            states = self.vision_model.embeddings.patch_embeddings(pixel_values)
            states = self.vision_model.layernorm(self.vision_model.encoder(states).last_hidden_state)
            return states, states.mean(1)
        return states_and_pooled(self.vision_model(pixel_values, return_dict=True))


__all__ = ["AstroClipModel", "AstroClipPreTrainedModel", "ProjectionHead"]
