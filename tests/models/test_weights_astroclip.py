"""AstroCLIP's weights: new, frozen, trained, taken from encoders, saved and loaded."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
import test_modeling_specformer as specformer
import test_modeling_spectok as spectok
import torch
from safetensors.torch import load_file, save_file
from test_modeling_astroclip import (
    EMBEDDINGS,
    FAMILIES,
    UNFROZEN,
    VISION,
    any_grid,
    every_family,
    every_vision,
    loss_and_gradients,
    make_clip,
    make_config,
    make_images,
    make_pairs,
    spectra_of,
)
from test_weights_specformer import SIZES, assert_new
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Model,
    ViTModel,
)

from spectok_hf import (
    AstroClipConfig,
    AstroClipModel,
    AstroClipProcessor,
    SpecformerProcessor,
    SpecTokForRedshift,
    SpectrumProcessor,
)
from spectok_hf.models.spectrum import CGS_UNIT

# New weights


def test_new_heads_keep_the_size_of_what_they_get():
    torch.manual_seed(0)
    model = AstroClipModel(make_config(projection_dim=256))
    for head in (model.spectrum_head, model.image_head):
        assert head.query.std().item() == pytest.approx(1, rel=0.2)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"):
            linear = getattr(head, name)
            assert linear.weight.std().item() == pytest.approx(linear.in_features**-0.5, rel=0.1), name
            assert not linear.bias.any(), name


@every_family
def test_encoders_of_a_new_model_start_as_they_do_alone(family):
    torch.manual_seed(0)
    model = AstroClipModel(make_config(family))
    torch.manual_seed(0)
    alone = type(model.spectrum_model)(model.config.spectrum_config)
    for name, weight in alone.state_dict().items():
        assert torch.equal(model.spectrum_model.state_dict()[name], weight), name


def test_what_a_checkpoint_lacks_is_made_as_new_and_what_it_has_is_not(tmp_path):
    config = make_config(projection_dim=64, learn_logit_scale=True, logit_scale_init_value=7.0)
    config.spectrum_config = specformer.small_config(**SIZES)
    model = AstroClipModel(config)
    specformer.randomised(model).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    lost = {
        "logit_scale",
        "image_head.query",
        "image_head.k_proj.weight",
        "spectrum_head.fc2.weight",
        "spectrum_head.norm.weight",
        "spectrum_model.embeddings.position_embedding.weight",
        "spectrum_model.layers.1.mlp.fc1.weight",
        "vision_model.layernorm.weight",
    }
    kept = {name: value for name, value in saved.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    torch.manual_seed(1)
    loaded, info = AstroClipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == lost
    found = loaded.state_dict()
    ours = [name for name in kept if not name.startswith("vision_model.")]  # Transformers renames parts of its own
    assert all(torch.equal(found[name], kept[name]) for name in ours)
    assert found["logit_scale"].exp().item() == pytest.approx(7)
    for name, std in (
        ("image_head.query", 1),
        ("image_head.k_proj.weight", 24**-0.5),
        ("spectrum_head.fc2.weight", 1 / 16),
    ):
        assert found[name].std().item() == pytest.approx(std, rel=0.3 if "query" in name else 0.1), name
    assert (found["spectrum_head.norm.weight"] == 1).all() and (found["vision_model.layernorm.weight"] == 1).all()
    for name in ("embeddings.position_embedding.weight", "layers.1.mlp.fc1.weight"):
        assert_new(name, found[f"spectrum_model.{name}"], config.spectrum_config)
    assert not any(weight.requires_grad for weight in loaded.spectrum_model.parameters())


def test_a_level_that_a_checkpoint_lacks_is_new(tmp_path):
    """As where one that did not read it is loaded to do so."""
    make_clip("spectok", read_level=False).save_pretrained(tmp_path)
    model, info = AstroClipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert model.level_projection is None and not info["missing_keys"]
    model, info = AstroClipModel.from_pretrained(tmp_path, read_level=True, output_loading_info=True)
    assert set(info["missing_keys"]) == {"level_projection.weight", "level_projection.bias"}
    weight = model.level_projection.weight
    assert 0.5 < weight.std() < 1.5 and weight.abs().max() <= 3 and not model.level_projection.bias.any()


# Frozen, and trained


@every_family
@every_vision
@pytest.mark.parametrize("pooling", ["attention", "linear"])
def test_every_parameter_that_is_trained_has_a_gradient(pooling, vision, family, tmp_path):
    """Else DistributedDataParallel would wait for it."""
    make_clip(family, vision, image_pooling=pooling, learn_logit_scale=True, **UNFROZEN).save_pretrained(tmp_path)
    for frozen in ((False, False), (True, False), (False, True), (True, True)):
        fields = dict(zip(UNFROZEN, frozen, strict=True))
        model = AstroClipModel.from_pretrained(tmp_path, **fields).train()
        _, gradients = loss_and_gradients(model, make_pairs(family))
        trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
        assert gradients.keys() == trained and "logit_scale" in trained
        assert ({"level_projection.weight", "level_projection.bias"} <= trained) == (family != "specformer")
        for name, is_frozen in zip(("spectrum_model", "vision_model"), frozen, strict=True):
            assert is_frozen != any(each.startswith(f"{name}.") for each in trained)
        assert all(
            gradient.any() for name, gradient in gradients.items() if not name.endswith(("k_proj.bias", "key.bias"))
        )


@pytest.mark.parametrize("class_token", [True, False])
def test_what_dinov2_does_not_read_is_not_trained(class_token):
    model = make_clip(vision="dinov2", vision_class_token=class_token, **UNFROZEN).train()
    _, gradients = loss_and_gradients(model, make_pairs())
    still = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    unread = {"mask_token"} | (set() if class_token else {"cls_token", "position_embeddings"})
    assert still == {f"vision_model.embeddings.{name}" for name in unread}
    assert gradients.keys() == {name for name, _ in model.named_parameters()} - still


DROPOUT = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}


@every_family
def test_frozen_encoders_have_no_dropout_and_do_not_move(family, tmp_path):
    config = make_config(family, freeze_vision_model=True)
    for part in (config.spectrum_config, config.vision_config):
        for name, value in DROPOUT.items():
            setattr(part, name, value)
    AstroClipModel(config).save_pretrained(tmp_path)
    model, batch = AstroClipModel.from_pretrained(tmp_path).train(), make_pairs(family)
    assert model.spectrum_head.training and not model.spectrum_model.training and not model.vision_model.training
    first, second = model(**batch), model(**batch)
    assert torch.equal(first.tokens, second.tokens) and not torch.equal(first.image_embeds, second.image_embeds)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        loss_and_gradients(model, batch)
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.partition(".")[0] for name in moved} == {
        *("spectrum_head", "image_head"),
        *(() if family == "specformer" else ("level_projection",)),
    }
    thawed = AstroClipModel.from_pretrained(tmp_path, **UNFROZEN).train()
    assert thawed.spectrum_model.training and thawed.vision_model.training
    assert not torch.equal(thawed(**batch).tokens, thawed(**batch).tokens)


def test_batch_statistics_of_a_frozen_encoder_stay():
    model = make_clip(vision="resnet").train()
    before = {name: value.clone() for name, value in model.vision_model.named_buffers()}
    model(pixel_values=make_images())
    assert before and all(torch.equal(value, before[name]) for name, value in model.vision_model.named_buffers())


def test_the_scale_is_fixed_or_learned(tmp_path):
    fixed = make_clip().train()
    assert fixed.logit_scale is None and not any("logit_scale" in name for name, _ in fixed.named_parameters())
    assert fixed(**make_pairs()).logits_per_spectrum.abs().max() <= 15.5
    learned = make_clip(learn_logit_scale=True, logit_scale_init_value=4.0).eval()
    assert learned.logit_scale.exp().item() == pytest.approx(4)
    _, gradients = loss_and_gradients(learned, make_pairs())
    step = 1e-3
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            learned.logit_scale.add_(sign * step if sign == 1 else -2 * step)
            losses.append(learned(**make_pairs(), return_loss=True).loss.item())
    assert gradients["logit_scale"].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=0.02)
    learned.save_pretrained(tmp_path)
    loaded = AstroClipModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.logit_scale, learned.logit_scale)  # and not made anew


def test_training_finds_partners():
    """Pairs that share one number, the brightness of the image and the slope of the spectrum."""
    model = make_clip(**UNFROZEN, pooling_dropout=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(60):
        level = torch.rand(12, generator=generator)
        batch = specformer.make_batch(12)
        slope = torch.linspace(-1, 1, 48).view(6, 8) * (4 * level - 2)[:, None, None]
        pairs = specformer.all_good(batch) | {"flux": slope + 0.1 * batch["flux"]}
        images = level[:, None, None, None] + 0.05 * torch.rand(12, 3, 24, 24, generator=generator)
        loss = model(**pairs, pixel_values=images, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.7 * math.log(12)


@any_grid
def test_the_level_alone_is_learned_from(family):
    """Spectra of one shape, whose images say how bright they are: without the level nobody can tell them apart."""
    losses = {}
    for read_level in (True, False):
        model = make_clip(family, read_level=read_level, pooling_dropout=0.0, projection_dim=32).train()
        optimizer, generator = torch.optim.AdamW(model.parameters(), lr=2e-3), torch.Generator().manual_seed(0)
        spectra = {name: values[2:].repeat_interleave(12, 0) for name, values in make_pairs(family).items()}
        for _ in range(60):
            level = torch.rand(12, generator=generator)
            images = level[:, None, None, None].expand(-1, 3, 24, 24)
            loss = model(**spectra | {"scale": 10 ** (3 * level), "pixel_values": images}, return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[read_level] = loss.item()
    assert losses[True] < 0.8 * math.log(12) <= 0.81 * losses[False]


# What travels


@every_family
@every_vision
def test_saved_and_loaded_it_is_the_same(vision, family, tmp_path):
    model, batch = make_clip(family, vision, learn_logit_scale=True), make_pairs(family)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is AstroClipConfig
    assert type(config.spectrum_config) is type(model.config.spectrum_config)
    assert type(config.vision_config) is type(model.config.vision_config)
    expected = model(**batch, return_loss=True)
    for auto in (AutoModel, AstroClipModel):
        loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is AstroClipModel and not loaded.training
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
        found = loaded(**batch, return_loss=True)
        for name in (*EMBEDDINGS, "loss", "spectrum_attentions"):
            # One row times a matrix is rounded as the matrix lies in memory, and in a file it may lie anywhere.
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-6)
    loaded.save_pretrained(tmp_path / "again")
    AutoModel.from_pretrained(tmp_path / "again").save_pretrained(tmp_path / "third")
    for name in ("model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    for path in (tmp_path / "again").iterdir():  # loading tells the configs of the encoders their dtype, once
        assert path.read_bytes() == (tmp_path / "third" / path.name).read_bytes(), path.name


PAIRS = [("specformer", "vit"), ("spectok", "dinov2"), ("omnispectra", "resnet")]


def test_its_code_runs_without_this_package(tmp_path):
    for family, vision in PAIRS:
        make_clip(family, vision).save_pretrained(tmp_path / family)
        model, batch = AutoModel.from_pretrained(tmp_path / family), make_pairs(family)
        expected = {name: value.detach() for name, value in model(**batch).items()}
        torch.save((batch, expected), tmp_path / f"{family}.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['spectok_hf'] = None\n"  # as if it were not installed
        "from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor\n"
        "for family in sys.argv[1:]:\n"
        "    model = AutoModel.from_pretrained(family, trust_remote_code=True)\n"
        "    batch, expected = torch.load(f'{family}.pt')\n"
        "    found = model(**batch)\n"
        "    assert found.keys() == expected.keys(), found.keys()\n"
        "    assert all(torch.equal(found[name], value) for name, value in expected.items()), family\n"
        "    assert AutoConfig.from_pretrained(family, trust_remote_code=True).spectrum_config.model_type == family\n"
        "    processors = [auto.from_pretrained(family, trust_remote_code=True)\n"
        "                  for auto in (AutoProcessor, AutoFeatureExtractor)]\n"
        "    assert {type(each).__name__ for each in processors} == {'AstroClipProcessor'}\n"
        "    for unit in (None, 'counts'):\n"
        "        spectrum = {'flux': [1.0] * 16, 'wavelength': list(range(4000, 4016)), 'error': 1.0}\n"
        "        try:\n"
        "            assert processors[0](spectrum | {'flux_unit': unit}) and unit is None\n"
        "        except ValueError as error:\n"
        "            grid, level = 'on one grid' in str(error), 'how bright' in str(error)\n"
        "            assert grid if family == 'specformer' else level and unit, error\n"
        "    model.save_pretrained(f'{family}-again')\n"
        "    again = AutoModel.from_pretrained(f'{family}-again', trust_remote_code=True)\n"
        "    assert torch.equal(again(**batch).spectrum_embeds, expected['spectrum_embeds'])\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *(family for family, _ in PAIRS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


# From encoders


@every_family
def test_encoders_bring_their_weights(family, tmp_path):
    pretrained = FAMILIES[family].make_model()
    vision = ViTModel(VISION["vit"]()).eval()
    model = AstroClipModel.from_encoders(pretrained, vision, projection_dim=16, pooling_num_attention_heads=2).eval()
    assert type(model.config.spectrum_config) is type(pretrained.config) and model.config.projection_dim == 16
    batch = make_pairs(family)
    spectra = spectra_of(batch)
    assert torch.equal(model(**spectra).tokens, pretrained.base_model(**spectra).tokens)
    for name, weight in vision.state_dict().items():
        assert torch.equal(model.vision_model.state_dict()[name], weight), name
    assert not any(weight.requires_grad for weight in model.spectrum_model.parameters())
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).spectrum_embeds, model(**batch).spectrum_embeds, atol=1e-6, rtol=1e-6)


def test_encoders_keep_what_they_are_copied_from():
    pretrained, vision = specformer.make_model(), ViTModel(VISION["vit"]())
    before = pretrained.specformer.norm.weight.clone()
    model = AstroClipModel.from_encoders(pretrained, vision, projection_dim=16)
    with torch.no_grad():
        model.spectrum_model.norm.weight.add_(1)
    assert torch.equal(pretrained.specformer.norm.weight, before)
    assert pretrained.specformer.norm.weight.requires_grad  # and are not frozen


def test_encoders_may_stand_under_heads_and_lack_a_pooler():
    head = SpecTokForRedshift(spectok.small_config())
    vision = ViTModel(VISION["vit"](), add_pooling_layer=False)
    model = AstroClipModel.from_encoders(head, vision, projection_dim=16)
    for name, weight in head.spectok.state_dict().items():
        assert torch.equal(model.spectrum_model.state_dict()[name], weight), name
    with pytest.raises(ValueError, match=r"spectrum_model must be one of .*, found ViTModel"):
        AstroClipModel.from_encoders(vision, vision)


def test_the_processor_of_the_encoder_of_spectra_is_kept(tmp_path):
    pretrained = specformer.make_model(grid_start=4000.0, grid_size=3000)
    pretrained.remember_processor(SpecformerProcessor(8, 4, grid_start=4000.0, grid_size=3000))
    model = AstroClipModel.from_encoders(pretrained, Dinov2Model(VISION["dinov2"]()), projection_dim=16)
    processor = model.own_processor()
    assert processor.spectrum_processor.grid_start == 4000.0 and processor.spectrum_processor.grid_size == 3000
    assert processor.image_size == 24
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).own_processor().spectrum_processor.grid_size == 3000


@every_family
@pytest.mark.parametrize("read_level", [True, False])
def test_what_reads_the_level_sets_the_unit_and_keeps_the_rest(read_level, family, tmp_path):
    pretrained = FAMILIES[family].make_model()
    pretrained.remember_processor(before := trained_processor(pretrained))
    vision = ViTModel(VISION["vit"]())
    model = AstroClipModel.from_encoders(pretrained, vision, projection_dim=16, read_level=read_level)
    reads = read_level or family == "specformer"
    for one in (model, AutoModel.from_pretrained(saved(model, tmp_path))):
        processor = one.own_processor().spectrum_processor
        assert processor.flux_unit == (CGS_UNIT if reads else None)
        assert (processor.medium, processor.max_normalized_flux) == ("air", 77.0)
        assert (one.level_projection is not None) == (read_level and family != "specformer")
    assert pretrained.own_processor().to_dict() == before.to_dict()  # and its own is what it was


def trained_processor(model):
    """The processor of a model, with settings that are not the defaults."""
    processor = model.config.new_processor()
    processor.medium, processor.max_normalized_flux = "air", 77.0
    return processor


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def test_the_processor_is_remembered_as_its_file_has_it(tmp_path):
    model = make_clip("spectok")
    model.remember_processor(AstroClipProcessor(SpectrumProcessor(8), ("z", "g", "r"), 24))
    assert model.processor_settings == json.loads(json.dumps(model.processor_settings))  # lists, where files have them
    settings = AutoModel.from_pretrained(saved(model, tmp_path)).processor_settings
    assert settings["bands"] == ["z", "g", "r"]
    assert {name: settings[name] for name in model.processor_settings} == model.processor_settings


@any_grid
def test_a_processor_of_any_unit_is_refused_where_the_level_is_read(family, tmp_path):
    model, blind = make_clip(family), make_clip(family, read_level=False)
    of_spectra = model.config.spectrum_config.new_processor
    processor = AstroClipProcessor(of_spectra(), image_size=24, flux_unit=None)
    with pytest.raises(ValueError, match="'flux_unit': None"):
        model.remember_processor(processor)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'flux_unit': None"):
        model.save_pretrained(tmp_path)
    blind.remember_processor(processor)
    blind.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path).own_processor().flux_unit is None
    blind.remember_processor(AstroClipProcessor(of_spectra(), image_size=24))
    for unit in (CGS_UNIT, "1e-17 erg/s/cm2/A"):
        model.remember_processor(AstroClipProcessor(of_spectra(), image_size=24, flux_unit=unit))


@pytest.mark.parametrize(
    ("processor", "found"),
    [
        (lambda: AstroClipProcessor(SpecformerProcessor(8, 4), image_size=96), "image_size=96"),
        (lambda: AstroClipProcessor(SpecformerProcessor(8, 3), image_size=24), "'patch_overlap': 3"),
        (lambda: AstroClipProcessor(SpectrumProcessor(8), image_size=24), "'processor': 'SpectrumProcessor'"),
        (
            lambda: AstroClipProcessor(SpecformerProcessor(8, 4), ("g", "r"), 24, band_scales=(6.0, 3.4)),
            "num_channels=2",
        ),
        (lambda: SpecformerProcessor(8, 4), "found SpecformerProcessor"),
    ],
)
def test_a_processor_that_gives_something_else_is_refused(processor, found, tmp_path):
    model = make_clip()
    with pytest.raises(ValueError, match=re.escape(found)):
        model.remember_processor(processor())
    processor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape(found)):
        model.save_pretrained(tmp_path)
    right = AstroClipProcessor(SpecformerProcessor(8, 4), image_size=24, stretch="none")
    model.remember_processor(right)
    assert model.own_processor().to_dict() == right.to_dict()


def test_a_vision_tower_of_an_image_and_text_model_works():
    config = CLIPVisionConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=24, patch_size=8
    )
    model = make_clip(vision=config)
    assert model(**make_pairs()).image_attentions.shape == (3, 4, 10)
    other = AstroClipModel.from_encoders(specformer.make_model(), CLIPVisionModel(config), projection_dim=16)
    assert other(**make_pairs()).logits_per_image.shape == (3, 3)


def test_a_pooler_that_is_read_must_be_there():
    torch.manual_seed(0)
    encoders = specformer.make_model(), ViTModel(VISION["vit"](), add_pooling_layer=False)
    with pytest.raises(
        ValueError, match=r'found that pooler\..* of ViTModel do not fit: pass image_pooling="attention"'
    ):
        AstroClipModel.from_encoders(*encoders, projection_dim=16, image_pooling="linear")
    AstroClipModel.from_encoders(*encoders, projection_dim=16, image_pooling="attention")


def test_weights_under_names_of_another_version_are_refused():
    model = make_clip()
    state = model.state_dict()
    model.load_state_dict(state)
    name = next(name for name in state if name.startswith("vision_model."))
    renamed = {("vision_model.encoder.layer.0.weight" if key == name else key): value for key, value in state.items()}
    with pytest.raises(
        RuntimeError, match=r"names of another version, such as vision_model\.encoder\.layer\.0\.weight"
    ):
        model.load_state_dict(renamed, strict=False)


def test_configs_that_are_given_stay_as_they_are():
    model = specformer.make_model()
    before = model.config.to_dict()
    config = AstroClipConfig(spectrum_config=model.config, vision_config=VISION["vit"](), projection_dim=16)
    AstroClipModel(config)
    assert config.spectrum_config is not model.config and model.config.to_dict() == before


def test_a_saved_folder_does_not_say_where_its_encoders_lay(tmp_path):
    specformer.make_model().save_pretrained(tmp_path / "secret-place")
    encoder = AutoModel.from_pretrained(tmp_path / "secret-place")
    assert "secret-place" in encoder.config.name_or_path
    model = AstroClipModel.from_encoders(
        encoder, ViTModel(VISION["vit"](), add_pooling_layer=False), projection_dim=16
    )
    model.save_pretrained(tmp_path / "whole")
    assert "secret-place" not in (tmp_path / "whole" / "config.json").read_text()


def test_the_unit_of_the_spectra_is_one():
    with pytest.raises(ValueError, match="flux_unit must be that of the spectrum_processor"):
        AstroClipProcessor(SpecformerProcessor(), flux_unit="Jy")
