"""SpecTok: a Transformer that reads spectra on their native grids (arXiv 2510.17959)."""

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .blocks import SpectrumLayer, in_own_precision
from .configuration_spectok import SpecTokConfig
from .contrastive import ContrastiveHead, contrastive_loss, init_contrastive_weights
from .heads import ClassificationHead, RedshiftHead, RegressionHead
from .inputs import check_inputs, check_request
from .outputs_spectok import SpecTokDecoderOutput, SpecTokForPreTrainingOutput, SpecTokModelOutput
from .packing import Lengths, PackedLayout, PaddedLayout, Padding, choose_layout, keeps_padding
from .patch_pca_start import start_linear
from .patches import (
    estimate_width,
    expand_hidden,
    fill_gaps,
    fill_wavelength,
    interpolate,
    patch_geometry,
    patch_grid,
    token_coverage,
)
from .reconstruction_loss import reconstruction_loss
from .spectrum_models import (
    SpectrumModelForAnyTask,
    SpectrumModelForTask,
    SpectrumPreTrainedModel,
    encoded_layout,
)
from .wavelength import WavelengthEmbedding

ERROR_RANGE = (1e-3, 10.0)  # of the spectrum's scale; beyond it an error tells the network nothing new


class SpecTokEmbeddings(nn.Module):
    """Patches of flux and error, projected, plus the embedding of their wavelengths."""

    def __init__(self, config: SpecTokConfig):
        super().__init__()
        self.error_encoding = config.error_encoding
        self.projection = nn.Linear(2 * config.patch_size, config.hidden_size)
        self.wavelength_embedding = make_wavelength_embedding(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, flux: torch.Tensor, error: torch.Tensor | None, wavelength: torch.Tensor, pixel_mask: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.projection.weight.dtype
        flux = fill_gaps(flux.float(), pixel_mask)
        patches = torch.cat([flux, self.encode_error(error, pixel_mask)], dim=-1)  # (batch, num_patches, 2 patch_size)
        embeddings = in_own_precision(self.projection, patches) + self.wavelength_embedding(wavelength, dtype)
        return self.dropout(embeddings)

    def encode_error(self, error: torch.Tensor | None, pixel_mask: torch.Tensor) -> torch.Tensor:
        """The error channel, shape (batch, num_patches, patch_size); an unknown error counts as the largest."""
        low, high = ERROR_RANGE
        if error is None:
            error = torch.full(pixel_mask.shape, high, device=pixel_mask.device)
        error = torch.where(pixel_mask, error.float(), high).clamp(low, high)
        if self.error_encoding == "log":
            return error.log10()
        return error if self.error_encoding == "raw" else 1 / error


class SpecTokDecoder(nn.Module):
    """From tokens to the flux on the patches that they came from."""

    def __init__(self, config: SpecTokConfig):
        super().__init__()
        self.config = config
        self.latent_projection = nn.Linear(config.latent_size, config.hidden_size)
        # "mirror": stands in for the token of a bad patch; "query": what every patch starts from.
        self.mask_token = nn.Parameter(torch.zeros(config.hidden_size))
        self.wavelength_embedding = make_wavelength_embedding(config)
        if config.decoder_type == "query":
            self.token_wavelength_embedding = make_wavelength_embedding(config, pooling="center")
            self.memory_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = make_layers(config, config.decoder_num_hidden_layers)
        self.head = nn.Linear(config.hidden_size, config.patch_size)

    def forward(
        self,
        tokens: torch.Tensor,
        wavelength: torch.Tensor,
        token_wavelength: torch.Tensor,
        layout: PaddedLayout | PackedLayout,
        real: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """Normalised flux, shape (..., patch_size); 0 at padding.

        Args:
            tokens: Shape (..., latent_size), where ... is (batch, num_patches) or, packed, (T,).
            wavelength: Wavelengths of the same patches in Å, finite, shape (..., patch_size).
            token_wavelength: Shape (...), Å.
            layout: Says which tokens exist, and which patches are of one spectrum.
            real: Patches that are not padding, shape (...), bool.
        """
        dtype = self.head.weight.dtype
        embedding = self.wavelength_embedding(wavelength, dtype)
        projected = in_own_precision(self.latent_projection, tokens)
        memory = None
        if self.config.decoder_type == "query":
            memory = projected + self.token_wavelength_embedding(token_wavelength[..., None], dtype)
            memory = self.memory_norm(memory)
            hidden_states = self.mask_token + embedding
        else:
            hidden_states = torch.where(layout.valid[..., None], projected, self.mask_token) + embedding
        mask, packing = layout.to_valid(hidden_states, memory)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, memory, packing, **kwargs)
        return torch.where(real[..., None], in_own_precision(self.head, hidden_states), 0)


class SpecTokPreTrainedModel(SpectrumPreTrainedModel):
    """What all SpecTok models share."""

    config: SpecTokConfig
    base_model_prefix = "spectok"
    _no_split_modules = ["SpecTokEmbeddings", "SpectrumLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SpecTokDecoder):
            init.normal_(module.mask_token, std=self.config.initializer_range)
        init_contrastive_weights(module)


class SpecTokModel(SpecTokPreTrainedModel):
    """The encoder: spectra on their own grids in, wavelength-aware tokens out."""

    # Of the models whose encoder this is.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^contrastive_head\.", r"^head\."]

    def __init__(self, config: SpecTokConfig):
        super().__init__(config)
        self.embeddings = SpecTokEmbeddings(config)
        self.layers = make_layers(config, config.num_hidden_layers)
        self.bottleneck = nn.Linear(config.hidden_size, config.latent_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.projection

    def set_input_embeddings(self, value: nn.Linear) -> None:
        self.embeddings.projection = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        num_patches: Lengths | None = None,
        scale: torch.Tensor | None = None,
        max_num_patches: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpecTokModelOutput:
        r"""
        Encode a batch of spectra, padded to one length or packed one after the other (`DataCollatorForPackedSpectra`).

        Packed inputs have rows (T, ...) in place of (batch, num_patches, ...), T = the sum of `num_patches`, and so
        have outputs, but for those of whole spectra. Rows behind the last spectrum are padding.

        Args:
            flux: Normalised flux, shape (batch, num_patches, patch_size) or, packed, (T, patch_size).
            wavelength: Wavelength in Å, the same shape, float32 or float64.
            error: Standard deviation of the normalised flux, the same shape; None = not known.
            pixel_mask: The same shape, 1 = good; None = all good. What stands under bad pixels does not matter.
            attention_mask: Patches to read, shape (batch, num_patches) or (T,), 1 = valid; None = all. A patch of
                which half or more pixels are bad is never read.
            num_patches: Patches of each spectrum, without padding, shape (batch,). Packed inputs need it, best on the
                host (ints or an array): lengths on a GPU have to be waited for.
            scale: Accepted, so that all a processor returns can be passed on; not used.
            max_num_patches: Upper bound of `num_patches`, for packed inputs of a compiled model, which cannot look.

        Raises:
            ValueError: If shapes disagree, or the wavelength is not float32 or float64.
        """
        inputs = check_inputs(
            self.config.patch_size, flux, wavelength, error, pixel_mask, attention_mask, num_patches, scale, kwargs
        )
        return self._run_in_layout(inputs, num_patches, max_num_patches, kwargs)

    def _run(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None,
        good: torch.Tensor,
        valid: torch.Tensor,
        num_patches: Any,
        max_num_patches: int | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpecTokModelOutput:
        wavelength, known = fill_wavelength(wavelength, good, num_patches if flux.ndim == 3 else None)
        real = known.any(-1)
        layout = choose_layout(self.config, real, valid & real, num_patches, max_num_patches)
        hidden_states = layout.gather(self.embeddings(flux, error, wavelength, good))
        mask, packing = layout.among_valid(hidden_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, None, packing, **kwargs)
        tokens = layout.scatter(in_own_precision(self.bottleneck, hidden_states))
        hidden_states = layout.scatter(hidden_states)
        token_wavelength, token_width = patch_geometry(wavelength, known)
        mean = layout.sum(hidden_states) / layout.sum(layout.valid)[:, None].clamp(min=1)
        return SpecTokModelOutput(
            last_hidden_state=hidden_states,
            tokens=tokens,
            token_wavelength=token_wavelength,
            token_width=token_width,
            pooler_output=mean.to(hidden_states.dtype),
            attention_mask=layout.valid.long(),
        )


class SpecTokForPreTraining(SpecTokPreTrainedModel):
    """The autoencoder: the encoder, and a decoder back to the flux on any requested grid.

    With `objective="contrastive"` there is no decoder, but a head that gives each spectrum a `projection`.
    """

    _tp_plan = {f"decoder.{name}": style for name, style in SpecTokConfig.base_model_tp_plan.items()}
    _fsdp_plan = {"decoder.layers.*": "free_full_weight"}

    def __init__(self, config: SpecTokConfig):
        super().__init__(config)
        self.spectok = SpecTokModel(config)
        if config.objective == "contrastive":
            config.validate_heads()
            self.contrastive_head = ContrastiveHead(config, config.head_input_size)
        else:
            self.decoder = SpecTokDecoder(config)
        self.post_init()
        if config.objective == "contrastive":  # the plans of the class name the decoder
            self._tp_plan, self._fsdp_plan = (_without_decoder(plan) for plan in (self._tp_plan, self._fsdp_plan))
        self._freeze_again()

    def _freeze_again(self) -> None:
        if self.config.objective == "contrastive" and self.config.head_input != "tokens":
            self.spectok.bottleneck.requires_grad_(False)

    def flops(self, num_patches: Lengths) -> int:
        """As of the other models, but for the last linear map of a contrastive head."""
        if self.config.objective == "contrastive":
            return self.spectok.flops(num_patches) + self.contrastive_head.adapter.flops(num_patches)
        return super().flops(num_patches)

    def _check_decoder(self) -> None:
        if self.config.objective == "contrastive":
            raise ValueError(
                'a model of objective="contrastive" has no decoder: load a checkpoint of objective="reconstruction" '
                'or "masked" to reconstruct spectra'
            )

    def encode(self, flux: torch.Tensor, wavelength: torch.Tensor, **inputs: torch.Tensor) -> SpecTokModelOutput:
        """Tokens of a batch of spectra.

        Args:
            flux: Normalised flux, shape (batch, num_patches, patch_size).
            wavelength: Wavelength in Å, the same shape.
            **inputs: The other inputs of `SpecTokModel.forward`.
        """
        return self.spectok(flux, wavelength, **inputs)

    def decode(
        self,
        tokens: torch.Tensor,
        wavelength: torch.Tensor,
        *,
        token_wavelength: torch.Tensor,
        attention_mask: torch.Tensor,
        token_width: torch.Tensor | None = None,
    ) -> SpecTokDecoderOutput:
        """The spectrum behind the tokens, on any requested grid.

        Tokens are decoded on the patches that they came from, and the result is interpolated linearly. (The paper does
        not say what happens where the grids differ; this is ours. To ask the decoder itself for patches of another
        phase or pixel width than it was trained on gave ten times the error, and no sign of it.)

        Args:
            tokens: Shape (batch, num_patches, latent_size).
            wavelength: Requested wavelengths in Å, in the checkpoint's medium and the frame of the observation, shape
                (batch, requested patches, patch_size); values that are no wavelength (0, NaN) request nothing.
            token_wavelength: Wavelength of each token in Å, shape (batch, num_patches), 0 at padding.
            attention_mask: Tokens that exist, the same shape, 1 = valid.
            token_width: Width of each token's patch in Å, the same shape; None = estimated from the distances.

        Returns:
            Reconstruction and its coverage: a pixel is covered where it lies in the patch of a valid token, so that
            gaps between arms are not.

        Raises:
            ValueError: If shapes disagree, a wavelength is not float32 or float64, a lone token has no width, or the
                model has no decoder.
        """
        self._check_decoder()
        check_request(self.config.patch_size, tokens, wavelength, token_wavelength)
        wavelength, known = fill_wavelength(wavelength, None, None)
        requested = known.any(-1, keepdim=True)
        real = token_wavelength > 0
        token_mask = (attention_mask > 0) & real
        token_width = estimate_width(token_wavelength) if token_width is None else token_width
        grid = patch_grid(token_wavelength, token_width, self.config.patch_size)
        flux = self._decode_patches(tokens, grid, token_wavelength, token_mask)
        grid = grid.masked_fill(~real[..., None], torch.inf)
        flux = interpolate(wavelength.flatten(1), grid.flatten(1), flux.flatten(1)).view_as(wavelength)
        coverage = token_coverage(wavelength, token_wavelength, token_width, token_mask) & requested
        return SpecTokDecoderOutput(reconstruction=torch.where(requested, flux, 0), coverage=coverage.long())

    def reconstruct(self, flux: torch.Tensor, wavelength: torch.Tensor, **inputs: Any) -> SpecTokForPreTrainingOutput:
        """The spectra, encoded and decoded again on their own patches.

        Args:
            flux: See `SpecTokModel.forward`.
            wavelength: See there.
            **inputs: The other inputs, see there.

        Returns:
            As `forward`, without a loss.

        Raises:
            ValueError: As there, or if the model has no decoder.
        """
        self._check_decoder()
        return self(flux, wavelength, return_loss=False, **inputs)

    def regrid(self, outputs: SpecTokForPreTrainingOutput, wavelength: torch.Tensor) -> SpecTokDecoderOutput:
        """What `reconstruct` found, decoded onto any requested grid.

        Args:
            outputs: What it returned of padded spectra.
            wavelength: See `decode`.

        Raises:
            ValueError: As `decode`.
        """
        described = {name: outputs[name] for name in ("token_wavelength", "token_width", "attention_mask")}
        return self.decode(outputs["tokens"], wavelength, **described)

    def _decode_patches(
        self, tokens: torch.Tensor, grid: torch.Tensor, token_wavelength: torch.Tensor, valid: torch.Tensor
    ) -> torch.Tensor:
        """Flux on the patches of padded tokens, shape (batch, num_patches, patch_size)."""
        real = token_wavelength > 0
        if keeps_padding(tokens):
            return self.decoder(tokens, grid, token_wavelength, PaddedLayout(self.config, real, valid), real)
        padding = Padding(real)
        tokens, grid, token_wavelength, valid, real = map(
            padding.remove, (tokens, grid, token_wavelength, valid, real)
        )
        layout = PackedLayout(padding.num_patches, valid)
        return padding.restore(self.decoder(tokens, grid, token_wavelength, layout, real))

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
        bool_masked_pos: torch.Tensor | None = None,
        object_codes: torch.Tensor | None = None,
        return_loss: bool = True,
        max_num_patches: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpecTokForPreTrainingOutput:
        r"""
        Encode a batch of spectra, padded or packed, and reconstruct it on its own grid, or project it.

        Args:
            flux: See `SpecTokModel.forward`, as all that is not named here.
            bool_masked_pos: What to hide from the encoder, True = hidden: patches, shape (batch, num_patches) or,
                packed, (T,), or pixels, the shape of `flux`. The loss of `objective="masked"` covers the hidden pixels
                only, that of "reconstruction" all valid ones.
            object_codes: With `objective="contrastive"`, whose loss takes rows 2i and 2i + 1 as two views of one
                object: number of the object, >= 0, shape (batch,), int64. Views of equal number are never told to be
                unlike; None = every pair has its own.
            return_loss: Compute the loss. With `objective="masked"` there is none where nothing is hidden. In training
                with `objective="contrastive"` it is that of the spectra of all processes, which all must have as many;
                in evaluation, which processes may do alone, that of their own.

        Raises:
            ValueError: As `SpecTokModel.forward`; if a model in training with `objective="masked"` gets no
                `bool_masked_pos`; or as `contrastive_loss`.
        """
        inputs = check_inputs(
            self.config.patch_size, flux, wavelength, error, pixel_mask, attention_mask, num_patches, scale, kwargs
        )
        inputs["hidden"] = expand_hidden(bool_masked_pos, inputs["good"])
        if self.config.objective == "masked":
            if self.training and bool_masked_pos is None:
                raise ValueError(
                    'objective="masked" needs bool_masked_pos: use DataCollatorForSpectra(hide="patches", ...)'
                )
            return_loss = return_loss and bool_masked_pos is not None
        keywords = {"object_codes": object_codes, "return_loss": return_loss, **kwargs}
        return self._run_in_layout(inputs, num_patches, max_num_patches, keywords)

    def _run(
        self,
        flux: torch.Tensor,
        wavelength: torch.Tensor,
        error: torch.Tensor | None,
        good: torch.Tensor,
        valid: torch.Tensor,
        hidden: torch.Tensor,
        num_patches: Any,
        max_num_patches: int | None,
        object_codes: torch.Tensor | None,
        return_loss: bool,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SpecTokForPreTrainingOutput:
        kwargs |= {"max_num_patches": max_num_patches, "return_dict": True}
        encoded = self.spectok(flux, wavelength, error, good & ~hidden, valid, num_patches, **kwargs)
        if self.config.objective == "contrastive":
            answers = self._project(encoded, num_patches, max_num_patches, object_codes, return_loss)
        else:
            requested, known = fill_wavelength(wavelength, good, num_patches if flux.ndim == 3 else None)
            real = known.any(-1)
            layout = choose_layout(self.config, real, encoded.attention_mask > 0, num_patches, max_num_patches)
            reconstruction = self.decoder(encoded.tokens, requested, encoded.token_wavelength, layout, real)
            counted = good & valid[..., None] & known
            counted = counted & hidden if self.config.objective == "masked" else counted
            loss = None
            if return_loss:
                loss = reconstruction_loss(self.config, reconstruction, flux, error, counted, sum_patches=layout.sum)
            coverage = encoded.attention_mask[..., None].expand_as(reconstruction).clone()
            answers = {"loss": loss, "reconstruction": reconstruction, "coverage": coverage}
        return SpecTokForPreTrainingOutput(
            **answers,
            tokens=encoded.tokens,
            token_wavelength=encoded.token_wavelength,
            token_width=encoded.token_width,
            pooler_output=encoded.pooler_output,
            attention_mask=encoded.attention_mask,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _project(
        self,
        encoded: SpecTokModelOutput,
        num_patches: Any,
        max_num_patches: int | None,
        object_codes: torch.Tensor | None,
        return_loss: bool,
    ) -> dict[str, torch.Tensor | None]:
        """The projections of a batch, and how well those of partners are told from others."""
        layout = encoded_layout(self.config, encoded, num_patches, max_num_patches)
        projection = self.contrastive_head(encoded[self.config.head_input], encoded.token_wavelength, layout)
        loss = None
        if return_loss:
            if self.training and (self._tp_size or 1) > 1:
                raise ValueError(
                    'objective="contrastive" takes every process to have spectra of its own, found tensor parallelism '
                    f"over {self._tp_size} that share theirs: train with DistributedDataParallel or FSDP"
                )
            temperature = self.config.contrastive_temperature
            loss = contrastive_loss(projection, object_codes, temperature, gather=self.training)
        return {"loss": loss, "projection": projection}

    def initialize_from_patch_pca(self, patches: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Start from the best linear autoencoder of single patches (ours; optional).

        Residual branches start at 0, and input, bottleneck and output maps at the principal components of the given
        patches, so that training starts at the linear optimum. Wavelength embeddings cancel on the way: the decoder
        reads the components with the opposite sign of the encoder, and starts with the encoder's embedding. Beside the
        linear path, hidden dimensions that it does not use hold all components, amplified to about unit size: what is
        left to learn sits in the weak ones, and a LayerNorm would bury it.

        Args:
            patches: Normalised flux of training patches without bad pixels, shape (n, patch_size).
            weights: Weight of each patch, shape (n,); inverse variances make it the optimum of the loss.

        Raises:
            ValueError: If there is no decoder, or not a "mirror", blocks are post-norm, there are fewer patches than
                components, or a value is not finite.
        """
        self._check_decoder()
        start_linear(self.spectok, self.decoder, patches, weights)


class SpecTokForTask(SpectrumModelForTask, SpecTokPreTrainedModel):
    """The encoder under a task head; its subclasses name the head."""

    # Of the pretrained model, which a head may start from.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^contrastive_head\."]
    config: SpecTokConfig
    backbone_class = SpecTokModel

    def _unread(self) -> list[nn.Module]:
        return [] if self.config.head_input == "tokens" else [self.spectok.bottleneck]


class SpecTokForSpectrumClassification(SpecTokForTask):
    """The encoder and a head for classes, such as star, galaxy, quasar: `logits`."""

    head_class = ClassificationHead


class SpecTokForStellarRegression(SpecTokForTask):
    """The encoder and a head for named quantities, such as Teff, log g, [Fe/H]: `predictions` in their units."""

    head_class = RegressionHead


class SpecTokForRedshift(SpecTokForTask):
    """The encoder and a head for redshifts: `redshift`, its `uncertainty`, `zwarn`, and the whole `posterior`."""

    head_class = RedshiftHead


class SpecTokForSequenceClassification(SpectrumModelForAnyTask, SpecTokForTask):
    """Whichever head a checkpoint was saved with; the classifier for one without a head."""

    config: SpecTokConfig


def _without_decoder(plan: dict[str, str]) -> dict[str, str]:
    return {name: style for name, style in plan.items() if not name.startswith("decoder.")}


def make_layers(config: SpecTokConfig, count: int) -> nn.ModuleList:
    post_norm = config.norm_placement == "post"
    return nn.ModuleList([SpectrumLayer(config, post_norm=post_norm) for _ in range(count)])


def make_wavelength_embedding(config: SpecTokConfig, pooling: str | None = None) -> WavelengthEmbedding:
    return WavelengthEmbedding(
        config.hidden_size,
        patch_size=config.patch_size,
        wavelength_dim=config.wavelength_dim,
        pooling=pooling or config.wavelength_pooling,
        min_period=config.wavelength_min_period,
        max_period=config.wavelength_max_period,
    )


__all__ = [
    "SpecTokForPreTraining",
    "SpecTokForRedshift",
    "SpecTokForSequenceClassification",
    "SpecTokForSpectrumClassification",
    "SpecTokForStellarRegression",
    "SpecTokModel",
    "SpecTokPreTrainedModel",
]
# From spectok-hf; save_pretrained writes this file.
if False:  # Transformers looks here for what must lie beside this file
    from .blocks import __name__
    from .checkpoints import __name__
    from .configuration_heads import __name__
    from .configuration_spectok import __name__
    from .contrastive import __name__
    from .handler import __name__
    from .heads import __name__
    from .inputs import __name__
    from .modeling_spectok import __name__
    from .outputs_spectok import __name__
    from .packed_attention import __name__
    from .packing import __name__
    from .patch_pca_start import __name__
    from .patches import __name__
    from .pipeline_spectok import __name__
    from .processing_spectok import __name__
    from .reconstruction_loss import __name__
    from .redshift_posterior import __name__
    from .sources import __name__
    from .spectrum import __name__
    from .spectrum_inputs import __name__
    from .spectrum_models import __name__
    from .wavelength import __name__
