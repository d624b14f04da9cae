"""AstroCLIP: its heads and its loss against plain references, over every family of spectra and three of images."""

import math

import numpy as np
import pytest
import test_modeling_omnispectra as omnispectra
import test_modeling_specformer as specformer
import test_modeling_spectok as spectok
import torch
from test_packing import in_float64, pack, with_tail
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import (
    Dinov2Config,
    ResNetConfig,
    ViTConfig,
)

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AstroClipProcessor,
    SkyImage,
    SpecformerConfig,
    Spectrum,
    simulate_galaxy_pairs,
)
from spectok_hf.models.modeling_astroclip import ProjectionHead

FAMILIES = {"specformer": specformer, "spectok": spectok, "omnispectra": omnispectra}
TRANSFORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
VISION = {
    "vit": lambda: ViTConfig(**TRANSFORMER, intermediate_size=48, image_size=24, patch_size=8),
    "dinov2": lambda: Dinov2Config(**TRANSFORMER, mlp_ratio=2, image_size=24, patch_size=8, layerscale_value=0.5),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[12, 24], depths=[1, 1], layer_type="basic"),
}
STATES = {"vit": 10, "dinov2": 10, "resnet": 9}  # of an image of 24 pixels: class token and 3 x 3 patches, or 3 x 3
every_family = pytest.mark.parametrize("family", FAMILIES)
every_vision = pytest.mark.parametrize("vision", VISION)
SPECTRUM_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
UNFROZEN = {"freeze_spectrum_model": False, "freeze_vision_model": False}
EMBEDDINGS = ("spectrum_embeds", "image_embeds")


def make_config(family="specformer", vision="vit", **fields):
    spread = {} if family == "specformer" else {"initializer_range": 0.2}
    spectrum_config = FAMILIES[family].small_config(**spread)
    vision_config = VISION[vision]() if isinstance(vision, str) else vision
    sizes = {"projection_dim": 16, "pooling_num_attention_heads": 4}
    return AstroClipConfig(spectrum_config=spectrum_config, vision_config=vision_config, **sizes | fields)


def make_clip(family="specformer", vision="vit", **fields):
    torch.manual_seed(0)
    model = AstroClipModel(make_config(family, vision, **fields)).eval()
    for head in (model.spectrum_head, model.image_head):
        specformer.randomised(head)  # whose norm and biases are then no trivial factors
    return model


def make_images(batch=3, seed=0, size=24):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def make_pairs(family="specformer", batch=3, patches=6, seed=0):
    spectra = specformer.described(FAMILIES[family].make_batch(batch, patches, seed), seed)
    if family != "specformer":
        del spectra["loc"]
    return spectra | {"pixel_values": make_images(batch, seed)}


def spectra_of(batch):
    return {name: values for name, values in batch.items() if name not in ("pixel_values", "object_codes")}


def unseen(batch, *rows):
    pixel_mask = batch["pixel_mask"].clone()
    pixel_mask[list(rows)] = 0
    return batch | {"pixel_mask": pixel_mask}


def loss_and_gradients(model, batch):
    model.zero_grad()
    out = model(**batch, return_loss=True)
    out.loss.backward()
    return out, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


# The heads and the loss against plain references


def torchs_head(head, residual=True):
    """The same head of torch's own modules: what the public code is made of."""
    size, channels = head.k_proj.weight.shape
    attention = nn.MultiheadAttention(size, 4, kdim=channels, vdim=channels, batch_first=True, dtype=torch.float64)
    if attention.in_proj_weight is None:
        for name in "qkv":
            getattr(attention, f"{name}_proj_weight").data.copy_(getattr(head, f"{name}_proj").weight)
    else:
        attention.in_proj_weight.data.copy_(torch.cat([getattr(head, f"{name}_proj").weight for name in "qkv"]))
    attention.in_proj_bias.data.copy_(torch.cat([getattr(head, f"{name}_proj").bias for name in "qkv"]))
    attention.out_proj.load_state_dict(head.o_proj.state_dict())
    norm = nn.LayerNorm(size, eps=1e-5, dtype=torch.float64)
    norm.load_state_dict(head.norm.state_dict())
    first, second = (nn.Linear(*each.weight.T.shape, dtype=torch.float64) for each in (head.fc1, head.fc2))
    first.load_state_dict(head.fc1.state_dict())
    second.load_state_dict(head.fc2.state_dict())

    def forward(states, valid=None):
        query = head.query.expand(len(states), 1, -1)
        padding = None if valid is None else ~valid
        answer, weights = attention(query, states, states, key_padding_mask=padding, average_attn_weights=False)
        pooled = norm(answer[:, 0])
        changed = second(nn.functional.gelu(first(pooled)))
        return pooled + changed if residual else changed, weights[:, :, 0]

    return forward


def level_of(model, scale):
    return scale.log10()[:, None] * model.level_projection.weight[:, 0] + model.level_projection.bias


@every_family
def test_the_head_of_spectra_is_torchs_attention_of_one_query_and_an_mlp(family):
    model, batch = make_clip(family).double(), in_float64(make_pairs(family))
    out, encoded = model(**batch), model.spectrum_model(**spectra_of(batch))
    states, valid = encoded.last_hidden_state, encoded.attention_mask > 0
    # One more state answers: Specformer's token of mean and standard deviation, or how bright a spectrum is.
    first = encoded.statistics_token if family == "specformer" else level_of(model, batch["scale"])
    states, valid = torch.cat([first[:, None], states], 1), nn.functional.pad(valid, (1, 0), value=True)
    features, weights = torchs_head(model.spectrum_head)(states, valid)
    torch.testing.assert_close(model.get_spectrum_features(**spectra_of(batch), normalize=False), features)
    torch.testing.assert_close(out.spectrum_embeds, features / features.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(out.spectrum_attentions.double(), weights[..., 1:], atol=1e-6, rtol=1e-6)
    assert model.spectrum_head.k_proj.weight.shape == (16, 32) and model.spectrum_head.query.shape == (1, 16)


@every_vision
@pytest.mark.parametrize("residual", [True, False])
def test_the_head_of_images_is_the_same_with_or_without_its_residual(residual, vision):
    model = make_clip(vision=vision, image_residual=residual).double()
    images = make_images().double()
    states = model.vision_model(images).last_hidden_state
    states = states.flatten(2).transpose(1, 2) if vision == "resnet" else states
    features, weights = torchs_head(model.image_head, residual)(states)
    torch.testing.assert_close(model.get_image_features(images, normalize=False), features)
    torch.testing.assert_close(model.get_image_features(images), nn.functional.normalize(features, dim=-1))
    found = model(pixel_values=images).image_attentions
    assert found.shape == (3, 4, STATES[vision])
    torch.testing.assert_close(found.double(), weights, atol=1e-6, rtol=1e-6)


@every_vision
def test_linear_pooling_is_a_linear_map_of_what_the_encoder_pools(vision):
    model, images = make_clip(vision=vision, image_pooling="linear"), make_images()
    pooled = model.vision_model(images).pooler_output.flatten(1)
    expected = pooled @ model.image_head.weight.T + model.image_head.bias
    torch.testing.assert_close(model.get_image_features(images, normalize=False), expected)
    assert isinstance(model.image_head, nn.Linear) and model(pixel_values=images).image_attentions is None


def shuffled(images, size=8, seed=0):
    """Images whose patches stand elsewhere."""
    patches = images.unfold(2, size, size).unfold(3, size, size).flatten(2, 3)
    order = torch.randperm(patches.shape[2], generator=torch.Generator().manual_seed(seed))
    side = images.shape[-1] // size
    return patches[:, :, order].unflatten(2, (side, side)).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def test_without_a_class_token_an_image_is_a_bag_of_patches():
    """As the public code runs its DINOv2: patches through the blocks, without positions."""
    images = make_images()
    for class_token in (True, False):
        model = make_clip(vision="dinov2", vision_class_token=class_token).double()
        reference, other = (model(pixel_values=each.double()) for each in (images, shuffled(images)))
        difference = (reference.image_embeds - other.image_embeds).abs().max()
        assert difference > 1e-3 if class_token else difference < 1e-12
        assert reference.image_attentions.shape == (3, 4, 10 if class_token else 9)
    encoder = model.vision_model
    states = encoder.embeddings.patch_embeddings.projection(images.double()).flatten(2).transpose(1, 2)
    for layer in encoder.encoder.layer:
        found = layer(states)
        states = found[0] if isinstance(found, tuple) else found
    features, _ = torchs_head(model.image_head)(encoder.layernorm(states))
    torch.testing.assert_close(model.get_image_features(images.double(), normalize=False), features)


def plain_loss(spectra, images, codes, scale):
    """Pair by pair, in both directions."""
    losses = []
    seen = [bool(spectra[row].any() and images[row].any()) for row in range(len(spectra))]
    for row in range(len(spectra)):
        if not seen[row]:
            losses.append(torch.zeros((), dtype=spectra.dtype))
            continue
        others = [other for other in range(len(spectra)) if codes[other] != codes[row] and seen[other]]
        for anchor, partners in ((spectra[row], images), (images[row], spectra)):
            scores = torch.stack([scale * (anchor @ partners[other]) for other in [row, *others]])
            losses.append((torch.logsumexp(scores, 0) - scores[0]) / 2)
    return sum(losses) / len(spectra)


@every_family
@pytest.mark.parametrize("codes", [None, [0, 1, 2, 3, 4], [7, 1, 7, 1, 2], [3] * 5])
def test_the_loss_is_that_of_a_plain_loop(codes, family):
    model, batch = make_clip(family).double(), unseen(in_float64(make_pairs(family, batch=5)), 3)
    batch |= {} if codes is None else {"object_codes": torch.tensor(codes)}
    out = model(**batch, return_loss=True)
    assert not out.spectrum_embeds[3].any() and out.image_embeds[3].any()
    expected = plain_loss(out.spectrum_embeds, out.image_embeds, codes or range(5), 15.5)
    torch.testing.assert_close(out.loss, expected)
    torch.testing.assert_close(out.logits_per_spectrum, 15.5 * out.spectrum_embeds @ out.image_embeds.T)
    assert torch.equal(out.logits_per_image, out.logits_per_spectrum.T)
    assert (expected == 0) == (codes == [3] * 5)  # there is nothing to tell apart


def test_a_new_loss_is_near_that_of_guessing():
    torch.manual_seed(0)
    model = AstroClipModel(make_config(logit_scale_init_value=1.0)).eval()
    out = model(**make_pairs(batch=8), return_loss=True)
    assert out.loss.item() == pytest.approx(math.log(8), abs=0.5)


# One side, or both


@every_family
def test_either_side_may_be_left_out(family):
    model, batch = make_clip(family), make_pairs(family)
    both, spectra = model(**batch), model(**spectra_of(batch))
    images = model(pixel_values=batch["pixel_values"])
    assert torch.equal(spectra.spectrum_embeds, both.spectrum_embeds)
    assert torch.equal(images.image_embeds, both.image_embeds)
    assert both.logits_per_spectrum.shape == (3, 3) and both.loss is None
    assert set(both) == {*spectra, *images, "logits_per_spectrum", "logits_per_image"}
    for one, absent in ((spectra, "image"), (images, "spectrum")):
        assert not {f"{absent}_embeds", f"{absent}_attentions", "logits_per_spectrum", "logits_per_image"} & set(one)
    assert torch.equal(model.get_spectrum_features(**spectra_of(batch)), both.spectrum_embeds)
    assert torch.equal(model.get_image_features(batch["pixel_values"]), both.image_embeds)
    assert torch.equal(both.pooler_output, both.spectrum_embeds)


def test_what_cannot_be_compared_is_refused():
    model, batch = make_clip(), make_pairs()
    with pytest.raises(ValueError, match="needs flux, pixel_values, or both"):
        model()
    for one in (spectra_of(batch), {"pixel_values": batch["pixel_values"]}):
        with pytest.raises(ValueError, match="a loss needs pairs"):
            model(**one, return_loss=True)
    with pytest.raises(ValueError, match="one partner for each"):
        model(**batch | {"pixel_values": make_images(4)}, return_loss=True)
    assert model(**batch | {"pixel_values": make_images(4)}).logits_per_spectrum.shape == (3, 4)
    with pytest.raises(ValueError, match="found no wavelength"):
        model(flux=batch["flux"])
    for wrong in (torch.rand(3, 2, 24, 24), torch.rand(3, 24, 24)):
        with pytest.raises(ValueError, match=r"pixel_values must have shape \(batch, 3, height, width\), found"):
            model(pixel_values=wrong)
    for codes, message in ((torch.zeros(3), "int64"), (torch.zeros(2).long(), r"shape \(3,\)")):
        with pytest.raises(ValueError, match=message):
            model(**batch, object_codes=codes, return_loss=True)


@pytest.mark.parametrize("name", ["pixel_value", "flx", "misspelt"])
def test_misspelt_inputs_raise(name):
    model, batch = make_clip(), make_pairs()
    for one in (batch, spectra_of(batch), {"pixel_values": batch["pixel_values"]}):
        with pytest.raises(TypeError, match=f"unknown inputs: {name}"):
            model(**one, **{name: torch.ones(3)})


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_image_that_is_not_finite_is_refused(bad):
    images = make_images()
    images[1, 2, 3, 4] = bad
    for forward in (
        make_clip().get_image_features,
        lambda images: make_clip()(**make_pairs() | {"pixel_values": images}),
    ):
        with pytest.raises(ValueError, match="pixel_values must be finite"):
            forward(images)


def test_outputs_stand_in_the_order_that_transformers_expects():
    model, batch = make_clip(), make_pairs()
    out = model(**batch, return_loss=True)
    assert list(out)[:3] == ["loss", "logits_per_spectrum", "logits_per_image"]
    as_tuple = model(**batch, return_loss=True, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(out.to_tuple())
    assert all(torch.equal(one, other) for one, other in zip(as_tuple, out.to_tuple(), strict=True))
    assert torch.equal(as_tuple[0], out.loss)


# What must not change an answer, and what must


@every_family
@pytest.mark.parametrize("bad", [(), (0,)])
def test_packed_padded_and_alone_are_one(bad, family):
    model = make_clip(family, **UNFROZEN, pooling_dropout=0.0).double().train()
    batch = unseen(in_float64(make_pairs(family)), *bad)
    expected, of_expected = loss_and_gradients(model, batch)
    largest = max(gradient.abs().max() for gradient in of_expected.values())
    packed, _ = pack(spectra_of(batch))
    images = {"pixel_values": batch["pixel_values"]}
    for inputs in (packed | images, with_tail(packed, 3) | images):
        found, of_found = loss_and_gradients(model, inputs)
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(found.spectrum_embeds, expected.spectrum_embeds, atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(found.spectrum_attentions, expected.spectrum_attentions, atol=1e-6, rtol=1e-6)
        assert of_found.keys() == of_expected.keys()
        for name, gradient in of_expected.items():
            torch.testing.assert_close(of_found[name], gradient, atol=1e-9 * largest.item(), rtol=0)
    model.eval()
    for row in range(3):
        one = {name: values[row : row + 1] for name, values in batch.items()}
        length = int(one["num_patches"])
        one |= {name: values[:, :length] for name, values in spectra_of(one).items() if values.ndim > 1}
        found = model(**one)
        for name in EMBEDDINGS:
            torch.testing.assert_close(found[name][0], expected[name][row], atol=1e-10, rtol=1e-10)


@every_family
@pytest.mark.parametrize("garbage", [0.0, float("nan"), 1e30])
def test_values_under_bad_pixels_change_nothing(garbage, family):
    model, batch = make_clip(family, **UNFROZEN), make_pairs(family)
    (first, before), (second, after) = (
        loss_and_gradients(model, each) for each in (batch, FAMILIES[family].spoil(batch, garbage))
    )
    assert torch.equal(first.loss, second.loss) and torch.equal(first.spectrum_embeds, second.spectrum_embeds)
    assert torch.equal(first.spectrum_attentions, second.spectrum_attentions)
    assert all(torch.equal(gradient, after[name]) for name, gradient in before.items())


@every_family
@every_vision
def test_distinct_spectra_and_images_have_distinct_embeddings_on_every_path(vision, family):
    model, batch = make_clip(family, vision), make_pairs(family, batch=5)
    packed, _ = pack(spectra_of(batch))
    found = {
        "pairs": model(**batch),
        "packed": model(**packed, pixel_values=batch["pixel_values"]),
        "spectra": model(**spectra_of(batch)),
        "images": model(pixel_values=batch["pixel_values"]),
    }
    for path, out in found.items():
        for name in EMBEDDINGS:
            if name in out:
                torch.testing.assert_close(out[name].norm(dim=-1), torch.ones(5))
                assert torch.pdist(out[name]).min() > 1e-3, (path, name)
                torch.testing.assert_close(out[name], found["pairs"][name], atol=1e-5, rtol=1e-5)


@every_family
def test_nothing_of_one_pair_reaches_the_embedding_of_another(family):
    model, batch = make_clip(family), make_pairs(family)
    changed = {name: batch[name].clone() for name in ("flux", "pixel_values")}
    changed["flux"][1] += 1
    changed["pixel_values"][1] *= 0.5
    first, second = model(**batch), model(**batch | changed)
    for name in EMBEDDINGS:
        same = (first[name] == second[name]).all(-1)
        torch.testing.assert_close(first[name][[0, 2]], second[name][[0, 2]], atol=1e-6, rtol=1e-6)
        assert not same[1] and (first[name][1] - second[name][1]).abs().max() > 1e-4


@every_family
@every_vision
def test_inputs_have_gradients_though_encoders_are_frozen(vision, family):
    """What an attribution of an embedding is made of."""
    model, batch = make_clip(family, vision), make_pairs(family)
    flux, scale, images = (batch[name].requires_grad_() for name in ("flux", "scale", "pixel_values"))
    out = model(**batch)
    out.logits_per_spectrum[0, 1].backward()
    good = batch["pixel_mask"][0] > 0
    valid = out.attention_mask[0] > 0
    assert flux.grad[0][valid][good[valid]].all() and not flux.grad[1:].any()
    assert images.grad[1].any() and not images.grad[[0, 2]].any()
    assert scale.grad[0] != 0 and not scale.grad[1:].any()
    assert all(
        weight.grad is None
        for encoder in (model.spectrum_model, model.vision_model)
        for weight in encoder.parameters()
    )


@every_family
def test_attention_is_given_for_patches(family):
    model, batch = make_clip(family), make_pairs(family)
    out = model(**batch)
    assert out.spectrum_attentions.shape == (3, 4, 6) and (out.spectrum_attentions >= 0).all()
    assert not out.spectrum_attentions.transpose(1, 2)[out.attention_mask == 0].any()
    total = out.spectrum_attentions.sum(-1)
    assert (total < 1).all() and (total > 0).all()  # the rest is that of the state which tells the level
    if family != "specformer":
        alone = make_clip(family, read_level=False)(**batch).spectrum_attentions
        assert alone.shape == (3, 4, 6)
        torch.testing.assert_close(alone.sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(out.image_attentions.sum(-1), torch.ones(3, 4))
    encoded = model.spectrum_model(**spectra_of(batch))
    for name in ("last_hidden_state", "tokens", "token_wavelength", "token_width", "attention_mask"):
        assert torch.equal(out[name], encoded[name]), name


@every_family
def test_a_spectrum_without_a_valid_patch_is_zero_and_counts_for_nobody(family):
    model = make_clip(family, **UNFROZEN, pooling_dropout=0.0).double()
    batch = unseen(in_float64(make_pairs(family, batch=4)), 2)
    out, gradients = loss_and_gradients(model, batch)
    assert not out.spectrum_embeds[2].any() and not out.logits_per_spectrum[2].any()
    rest = {name: values[[0, 1, 3]] for name, values in batch.items()}
    others, of_others = loss_and_gradients(model, rest)
    torch.testing.assert_close(out.loss, others.loss * 3 / 4)
    largest = max(gradient.abs().max() for gradient in of_others.values()).item()
    for name, gradient in of_others.items():
        torch.testing.assert_close(gradients[name], gradient * 3 / 4, atol=1e-10 * largest, rtol=0)
    nothing, gradients = loss_and_gradients(model, unseen(batch, 0, 1, 2, 3))
    assert nothing.loss == 0 and all(gradient.isfinite().all() for gradient in gradients.values())
    lone, gradients = loss_and_gradients(model, {name: values[:1] for name, values in batch.items()})
    assert lone.loss == 0 and all(gradient.isfinite().all() for gradient in gradients.values())


def test_what_lies_under_masks_changes_nothing_from_files_to_embeddings():
    """The whole way of a pair: whatever is stored where its mask says bad."""
    pairs = simulate_galaxy_pairs(3, seed=1105, image_size=40)
    config = make_config(vision=ViTConfig(**TRANSFORMER, intermediate_size=48, image_size=24, patch_size=8))
    config.spectrum_config = SpecformerConfig(**SPECTRUM_SIZES)
    torch.manual_seed(0)
    model, processor = AstroClipModel(config).eval(), AstroClipProcessor(image_size=24)
    found = []
    for garbage in (0.0, 1e9, np.nan):
        spectra, images = [], []
        for spectrum, image in pairs:
            bad_pixels, mask = spectrum.mask | (spectrum.ivar == 0), image.mask.copy()
            bad_pixels[500:520] = True
            mask[1, 18:22, 20] = mask[2, 15, 15] = True
            flux = np.where(bad_pixels, garbage, spectrum.flux)
            spectra.append(
                Spectrum(flux, spectrum.wavelength, spectrum.ivar, bad_pixels, flux_unit=spectrum.flux_unit)
            )
            images.append(SkyImage(np.where(mask, garbage, image.flux), image.bands, image.pixel_scale, mask))
        found.append(model(**processor(spectra, images, return_tensors="pt"), return_loss=True))
    for other in found[1:]:
        assert all(torch.equal(other[name], found[0][name]) for name in (*EMBEDDINGS, "loss"))
    clean = model(**processor(*zip(*pairs, strict=True), return_tensors="pt"))
    for name in EMBEDDINGS:
        assert torch.pdist(clean[name]).min() > 1e-4 and not torch.equal(clean[name], found[0][name])


# How bright a spectrum is

any_grid = pytest.mark.parametrize("family", ["spectok", "omnispectra"])


def of_brightness(*factors, unit="1e-17 erg/s/cm2/Angstrom"):
    """One spectrum, so many times as bright."""
    rng = np.random.default_rng(1106)
    flux, error = 5 + np.sin(np.arange(160) / 9) + rng.normal(0, 0.3, 160), rng.uniform(0.2, 0.4, 160)
    axis = 4000 + 1.5 * np.arange(160)
    return [Spectrum(by * flux, axis, 1 / (by * error) ** 2, flux_unit=unit) for by in factors]


@any_grid
@pytest.mark.parametrize("read_level", [True, False])
def test_brightness_tells_spectra_apart_where_it_is_read(read_level, family):
    model = make_clip(family, read_level=read_level)
    processor, spectra = model.config.new_processor(), of_brightness(1, 3, 9)
    batch = processor(spectra, return_tensors="pt")
    torch.testing.assert_close(batch["scale"] / batch["scale"][0], torch.tensor([1.0, 3.0, 9.0]))
    torch.testing.assert_close(batch["flux"], batch["flux"][:1].expand(3, -1, -1), atol=1e-5, rtol=1e-5)
    packed = {name: torch.from_numpy(values) for name, values in processor.spectrum_processor.pack(spectra).items()}
    for inputs in (batch, packed):
        for vectors in (model(**inputs).spectrum_embeds, model.get_spectrum_features(**inputs)):
            distances = torch.pdist(vectors)
            assert distances.min() > 1e-3 if read_level else distances.max() < 1e-4
    tokens = model(**batch).tokens  # which know nothing of it either way
    torch.testing.assert_close(tokens, tokens[:1].expand_as(tokens), atol=1e-4, rtol=1e-4)


@any_grid
def test_the_level_is_asked_for_where_it_is_read(family):
    model, batch = make_clip(family), make_pairs(family)
    packed, _ = pack(spectra_of(batch))
    for scale in (None, torch.ones(()), torch.ones(1), torch.ones(2), torch.ones(3, 1), torch.ones(3, 6)):
        for inputs in (batch, packed):
            for forward in (model, model.get_spectrum_features):
                with pytest.raises(ValueError, match="scale"):
                    forward(**spectra_of(inputs) | {"scale": scale})
    with pytest.raises(ValueError, match=r"scale must have shape \(3,\), found None: .*read_level=False"):
        model(**batch | {"scale": None})
    blind = make_clip(family, read_level=False)
    without = blind(**{name: values for name, values in batch.items() if name != "scale"})
    assert torch.equal(without.spectrum_embeds, blind(**batch).spectrum_embeds)
    assert model(pixel_values=batch["pixel_values"]).image_embeds.shape == (3, 16)


@any_grid
@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-10, 1e30])
def test_any_level_is_finite_forward_and_backward(scale, family):
    """Whatever a processor of other fluxes divides by."""
    model, batch = make_clip(family, **UNFROZEN), make_pairs(family)
    out, gradients = loss_and_gradients(model, batch | {"scale": torch.tensor([scale, 1.0, 2.0])})
    assert out.spectrum_embeds.isfinite().all() and all(each.isfinite().all() for each in gradients.values())
    assert torch.equal(
        out.spectrum_embeds[1:], model(**batch | {"scale": torch.tensor([5.0, 1, 2])}).spectrum_embeds[1:]
    )


@pytest.mark.parametrize("read_level", [True, False])
def test_specformer_has_a_token_of_its_own_for_the_level(read_level):
    model = make_clip(read_level=read_level)
    assert model.level_projection is None and not model.config.adds_level
    assert model.state_dict().keys() == make_clip().state_dict().keys()


# Types, and graphs


@every_family
@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.1), (torch.float64, 1e-4)])
def test_models_of_other_precision_keep_to_their_type(dtype, limit, family):
    batch = make_pairs(family)
    out, reference = (
        make_clip(family).to(dtype)(**batch, return_loss=True),
        make_clip(family)(**batch, return_loss=True),
    )
    for name in EMBEDDINGS:
        assert out[name].dtype == dtype
        torch.testing.assert_close(out[name].float(), reference[name], atol=limit, rtol=limit)
    assert out.loss.dtype == torch.promote_types(dtype, torch.float32)
    assert out.loss.item() == pytest.approx(reference.loss.item(), rel=5 * limit)


@every_family
@every_vision
def test_autocast_trains_with_a_loss_in_float32(vision, family):
    model, batch = make_clip(family, vision, **UNFROZEN, pooling_dropout=0.0).train(), make_pairs(family)
    expected, _ = loss_and_gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch, return_loss=True)
    out.loss.backward()
    assert out.loss.dtype == torch.float32 and out.loss.item() == pytest.approx(expected.loss.item(), rel=0.2)
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@every_family
def test_eager_equals_sdpa(family):
    batch, outputs = make_pairs(family), []
    for attention in ("eager", "sdpa"):
        model = make_clip(family)
        model.set_attn_implementation(attention)
        assert model.spectrum_model.config._attn_implementation == attention
        assert model.vision_model.config._attn_implementation == attention
        outputs.append(model(**batch, return_loss=True))
    for name in (*EMBEDDINGS, "loss"):
        torch.testing.assert_close(outputs[0][name], outputs[1][name], atol=1e-5, rtol=1e-5)


def test_attention_is_chosen_for_both_encoders_when_loading(tmp_path):
    make_clip().save_pretrained(tmp_path)
    model = AstroClipModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert (
        model.spectrum_model.config._attn_implementation == model.vision_model.config._attn_implementation == "eager"
    )
    one = {"spectrum_config": "eager", "vision_config": "sdpa"}
    model = AstroClipModel.from_pretrained(tmp_path, attn_implementation=one)
    assert model.vision_model.config._attn_implementation == "sdpa"


@pytest.mark.slow
@every_family
def test_one_compiled_graph_takes_every_padded_batch(family):
    model, counter = make_clip(family, **UNFROZEN, pooling_dropout=0.0).train(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for seed, (size, patches) in enumerate(((5, 6), (4, 9), (7, 10))):  # 3 would be taken for the bands
        batch = make_pairs(family, batch=size, patches=patches, seed=seed)
        expected, found = model(**batch, return_loss=True), compiled(**batch, return_loss=True)
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.spectrum_embeds, expected.spectrum_embeds, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == 1


def test_flops_are_not_made_up():
    """Those of the encoder of spectra: patches say nothing of images."""
    model = make_clip()
    assert model.flops([6, 6]) == model.spectrum_model.flops([6, 6])


def test_the_head_stands_alone():
    head = ProjectionHead(make_config(), 32).eval()
    states, valid = torch.randn(2, 5, 32), torch.tensor([[True] * 5, [True, True, False, False, False]])
    whole, weights = head(states, valid)
    alone, _ = head(states[1:, :2], valid[1:, :2])
    torch.testing.assert_close(whole[1:], alone, atol=1e-6, rtol=1e-5)
    assert not weights[1, :, 2:].any() and weights.shape == (2, 4, 5)
