"""Vision encoders on pictures of spectra: what is read of each, the heads over it, and pictures that show nothing."""

import math

import pytest
import torch
from test_heads import TARGETS
from test_packing import loss_and_gradients
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Aimv2VisionConfig,
    AutoModel,
    BeitConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    DINOv3ViTConfig,
    ResNetConfig,
    SiglipVisionConfig,
    SwinConfig,
    ViTConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from spectok_hf import (
    SpectrumVitConfig,
    SpectrumVitForRedshift,
    SpectrumVitForSpectrumClassification,
    SpectrumVitForStellarRegression,
    SpectrumVitModel,
)
from spectok_hf.models.heads import ZWARN_BITS

SIZE = 24  # pixels of a side
TRANSFORMER = {
    **{"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2},
    **{"image_size": SIZE, "patch_size": 8},
}
VISION = {
    "vit": lambda: ViTConfig(**TRANSFORMER, intermediate_size=48),
    "deit": lambda: DeiTConfig(**TRANSFORMER, intermediate_size=48),
    "beit": lambda: BeitConfig(**TRANSFORMER, intermediate_size=48, use_mask_token=True),
    "dinov2": lambda: Dinov2Config(**TRANSFORMER, mlp_ratio=2, layerscale_value=0.5),
    "registers": lambda: Dinov2WithRegistersConfig(**TRANSFORMER, mlp_ratio=2, layerscale_value=0.5),
    "dinov3": lambda: DINOv3ViTConfig(
        **TRANSFORMER | {"num_attention_heads": 2, "num_register_tokens": 2},
        intermediate_size=48,
        layerscale_value=0.5,
    ),
    "aimv2": lambda: Aimv2VisionConfig(**TRANSFORMER, intermediate_size=48),
    "clip": lambda: CLIPVisionConfig(**TRANSFORMER, intermediate_size=48, initializer_factor=5.0),
    "siglip": lambda: SiglipVisionConfig(**TRANSFORMER, intermediate_size=48),
    "swin": lambda: SwinConfig(
        **{"image_size": SIZE, "patch_size": 4, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]},
        **{"window_size": 3, "initializer_range": 0.2, "drop_path_rate": 0.0},
    ),
    "convnext": lambda: ConvNextConfig(
        hidden_sizes=[12, 24], depths=[1, 1], num_stages=2, image_size=SIZE, initializer_range=0.2
    ),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[12, 24], depths=[1, 1], layer_type="basic"),
}
CLASS_TOKEN = {"vit", "deit", "beit", "dinov2", "registers", "dinov3", "clip"}
CONVOLUTIONS = {"convnext", "resnet"}
TASKS = {
    "classification": SpectrumVitForSpectrumClassification,
    "regression": SpectrumVitForStellarRegression,
    "redshift": SpectrumVitForRedshift,
}
LABELS = {
    "classification": torch.tensor([2, 0, -100]),
    "regression": torch.tensor([[5500.0, torch.nan], [4500.0, 4.1], [6000.0, 2.0]]),
    "redshift": torch.tensor([0.3, 1.234, 5.0]),
}
ANSWERS = {
    "classification": ("logits",),
    "regression": ("predictions", "uncertainties"),
    "redshift": ("redshift", "uncertainty", "confidence", "posterior"),
}
every_vision = pytest.mark.parametrize("vision", VISION)
every_task = pytest.mark.parametrize("task", TASKS)


def make_config(vision="vit", **fields):
    return SpectrumVitConfig(vision_config=VISION[vision](), **fields)


def make_model(vision="vit", **fields):
    torch.manual_seed(0)
    return SpectrumVitModel(make_config(vision, **fields)).eval()


def make_task_model(task, vision="vit", **fields):
    torch.manual_seed(0)
    defaults = {
        **{"num_labels": 3, "class_weights": [0.5, 1.0, 2.0], "label_smoothing": 0.1},
        **{"predict_uncertainty": True, "redshift_bins": 24, "redshift_velocity": 30000.0, "initializer_range": 0.2},
    }
    return TASKS[task](make_config(vision, **defaults | TARGETS | fields)).eval()


def make_pictures(batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(256, (batch, 3, SIZE, SIZE), generator=generator) / 255 - 0.5) / 0.5


def unseen(pictures, *rows):
    pictures = pictures.clone()
    pictures[list(rows), :, 3, 4] = torch.nan  # one pixel of them
    return pictures


def labelled(task, pictures):
    return {"pixel_values": pictures, "labels": LABELS[task]}


# What is read of a vision encoder


@every_vision
def test_the_embedding_is_the_class_token_or_what_the_encoder_pools(vision):
    model, pictures = make_model(vision), make_pictures()
    encoded, out = model.vision_model(pictures), model(pictures)
    states = encoded.last_hidden_state
    assert torch.equal(out.last_hidden_state, states)
    pooled = states[:, 0] if vision in CLASS_TOKEN else encoded.pooler_output.flatten(1)
    assert torch.equal(out.pooler_output, pooled) and out.pooler_output.shape == (3, model.config.hidden_size)
    assert out.attention_mask.tolist() == [[1], [1], [1]]
    assert model.reads_class_token == (vision in CLASS_TOKEN)
    assert (states.ndim == 4) == (vision in CONVOLUTIONS)


def test_an_encoder_whose_config_says_other_channels_is_refused():
    model = make_model()
    model.config.vision_config.hidden_size = 32
    with pytest.raises(ValueError, match="as many channels as its config says, 32, found 24 of ViTModel"):
        model(make_pictures())


@pytest.mark.parametrize("vision", ["swin", "convnext"])
def test_without_a_pooler_the_mean_is_read(vision):
    model, pictures = make_model(vision), make_pictures()
    plain = model.vision_model.forward

    def without_pooler(*args, **kwargs):
        return BaseModelOutput(last_hidden_state=plain(*args, **kwargs).last_hidden_state)

    model.vision_model.forward = without_pooler
    states = plain(pictures).last_hidden_state
    mean = states.mean((2, 3)) if states.ndim == 4 else states.mean(1)
    torch.testing.assert_close(model(pictures).pooler_output, mean)


@every_vision
def test_there_is_no_pooler_beside_a_class_token(vision):
    model = make_model(vision)
    has = any(name.startswith("pooler.") for name, _ in model.vision_model.named_parameters())
    assert not has
    if vision in ("vit", "deit", "beit"):  # which bring one unless they are told
        whole = AutoModel.from_config(VISION[vision]())
        assert any(name.startswith("pooler.") for name, _ in whole.named_parameters())


def test_the_encoder_starts_as_it_does_alone():
    torch.manual_seed(0)
    alone = AutoModel.from_config(VISION["vit"]()).state_dict()
    found = make_model().vision_model.state_dict()
    assert alone.keys() - found.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(alone[name], weight) for name, weight in found.items())


@every_vision
def test_every_picture_has_its_own_embedding(vision):
    model, pictures = make_model(vision), make_pictures()
    changed = pictures.clone()
    changed[:, :, 5:9, 5:9] *= -1  # a few pixels of each
    with torch.no_grad():
        embeddings = model(torch.cat([pictures, changed])).pooler_output
    size = embeddings.abs().amax(0).clamp(min=1e-6)
    for first in range(6):
        for second in range(first):
            assert ((embeddings[first] - embeddings[second]).abs() / size).max() > 1e-3, (first, second)
    with torch.no_grad():
        alone = torch.cat([model(picture[None]).pooler_output for picture in pictures])
    torch.testing.assert_close(embeddings[:3], alone, atol=1e-5, rtol=1e-4)


@every_vision
@every_task
def test_every_spectrum_has_its_own_answer(task, vision):
    model, name = make_task_model(task, vision), "posterior" if task == "redshift" else ANSWERS[task][0]
    with torch.no_grad():
        answers = model(make_pictures())[name]
    size = answers.abs().amax(0)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert ((answers[first] - answers[second]).abs() / size).max() > 1e-4


# The heads against plain references


def test_a_classifier_is_a_layer_norm_and_a_linear_map_of_the_class_token():
    model, pictures = make_task_model("classification").double(), make_pictures().double()
    head = model.head
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.4)
    token = model.spectrum_vit.vision_model(pictures).last_hidden_state[:, 0]
    centred = token - token.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    normed = normed * head.adapter.norm.weight + head.adapter.norm.bias
    expected = normed @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(model(pictures).logits, expected)
    assert {name.rpartition(".")[0] for name, _ in head.named_parameters()} == {"adapter.norm", "classifier"}


def test_the_loss_of_classes_has_their_weights_and_leaves_unknown_ones_out():
    model, pictures = make_task_model("classification"), make_pictures()
    out = model(pictures, labels=LABELS["classification"])
    weights = torch.tensor([0.5, 1.0, 2.0])
    losses = nn.functional.cross_entropy(
        out.logits[:2], LABELS["classification"][:2], weights, reduction="none", label_smoothing=0.1
    )
    torch.testing.assert_close(out.loss, losses.sum() / 3)


def test_regression_speaks_in_units_and_leaves_unknown_targets_out():
    model = make_task_model("regression", predict_uncertainty=False)
    pictures, labels = make_pictures(), LABELS["regression"]
    out = model(pictures, labels=labels)
    mean, std = (torch.tensor(TARGETS[f"target_{name}"]) for name in ("mean", "std"))
    assert ((out.predictions - mean).abs() < 20 * std).all() and out.uncertainties is None
    errors = ((out.predictions - labels) / std) ** 2
    expected = (errors[0, 0] + errors[1].mean() + errors[2].mean()) / 3
    torch.testing.assert_close(out.loss, expected)


def test_plain_transformers_problem_types_work():
    """As of any classifier: `problem_type="regression"` is a number in the labels' own unit."""
    model = make_task_model("classification", num_labels=1, class_weights=None, problem_type="regression")
    out = model(make_pictures(), labels=torch.tensor([0.1, torch.nan, 0.3]))
    expected = ((out.logits[[0, 2], 0] - torch.tensor([0.1, 0.3])) ** 2).sum() / 3
    torch.testing.assert_close(out.loss, expected)


@every_task
def test_encoded_pictures_are_adapted_alike(task):
    model, batch = make_task_model(task), labelled(task, unseen(make_pictures(), 1))
    expected, encoded = model(**batch), model.base_model(batch["pixel_values"])
    mask = encoded.attention_mask
    found = model.adapt(encoded.pooler_output[:, None], mask, mask, batch["labels"])
    for name in ("loss", *ANSWERS[task]):
        assert torch.equal(found[name].nan_to_num(-1), expected[name].nan_to_num(-1))


# Pictures that show nothing


@every_vision
def test_a_picture_of_nan_is_not_seen_and_the_others_are_as_they_were(vision):
    model, pictures = make_model(vision), make_pictures()
    whole, found = model(pictures), model(unseen(pictures, 1))
    assert found.attention_mask.tolist() == [[1], [0], [1]]
    for name in ("pooler_output", "last_hidden_state"):
        assert not found[name][1].any()
        torch.testing.assert_close(found[name][[0, 2]], whole[name][[0, 2]], atol=1e-6, rtol=1e-5)


@every_task
def test_no_answer_is_given_where_nothing_is_seen(task):
    model, pictures = make_task_model(task), make_pictures()
    whole, found = model(pictures), model(unseen(pictures, 1))
    for name in ANSWERS[task]:
        torch.testing.assert_close(found[name][[0, 2]], whole[name][[0, 2]], atol=1e-5, rtol=1e-5)
    if task == "classification":
        assert found.logits[1].tolist() == [0, 0, 0]
    elif task == "regression":
        assert found.predictions[1].isnan().all() and found.uncertainties[1].isnan().all()
    else:
        assert found.redshift[1].isnan() and found.zwarn[1] & ZWARN_BITS["no valid patch"]
        assert not (found.zwarn[[0, 2]] & ZWARN_BITS["no valid patch"]).any()


@every_task
def test_nothing_is_learned_from_what_is_not_seen(task):
    model, pictures = make_task_model(task), make_pictures()
    out, gradients = loss_and_gradients(model, labelled(task, unseen(pictures, 0)))
    others, of_others = loss_and_gradients(model, {"pixel_values": pictures[1:], "labels": LABELS[task][1:]})
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    for name, gradient in of_others.items():
        torch.testing.assert_close(gradients[name] * 3 / 2, gradient, atol=1e-5, rtol=1e-4)
    if task != "classification":  # even logits cost log(3), from which nothing follows
        torch.testing.assert_close(out.loss * 3 / 2, others.loss)


def test_a_batch_of_nothing_is_answered_and_learned_from_in_silence():
    model = make_task_model("regression")
    out, gradients = loss_and_gradients(model, labelled("regression", unseen(make_pictures(), 0, 1, 2)))
    assert out.loss == 0 and out.predictions.isnan().all()
    assert not any(gradient.any() for gradient in gradients.values())


# Inputs that are refused


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        (torch.rand(2, 3, 24, 25), r"float32 of shape \(2, 3, 24, 25\)"),
        (torch.rand(2, 1, 24, 24), r"shape \(2, 1, 24, 24\)"),
        (torch.rand(2, 24, 24, 3), r"shape \(2, 24, 24, 3\)"),
        (torch.rand(3, 24, 24), r"shape \(3, 24, 24\)"),
        (torch.zeros(2, 3, 24, 24, dtype=torch.uint8), "uint8"),
    ],
)
def test_other_pictures_are_refused(pictures, found):
    for model in (make_model(), make_task_model("redshift")):
        with pytest.raises(ValueError, match=rf"shape \(batch, 3, 24, 24\), found .*{found}.*SpectrumImageProcessor"):
            model(pictures)


def test_an_encoder_of_any_size_takes_any_and_three_channels():
    model = make_model("resnet")
    assert model(torch.rand(2, 3, 40, 32)).pooler_output.shape == (2, 24)
    with pytest.raises(ValueError, match=r"shape \(batch, 3, height, width\), found .* \(2, 1, 24, 24\)"):
        model(torch.rand(2, 1, 24, 24))


def test_infinite_pictures_are_refused():
    pictures = make_pictures()
    pictures[0, 1, 2, 3] = -math.inf
    with pytest.raises(ValueError, match="pixel_values must be finite, or NaN"):
        make_model()(pictures)


@every_task
def test_misspelt_inputs_raise(task):
    for model in (make_task_model(task), make_model()):
        with pytest.raises(TypeError, match="forward got unknown inputs: label"):
            model(make_pictures(), label=LABELS[task])


# Every way to compute


@pytest.mark.parametrize("vision", sorted(set(VISION) - CONVOLUTIONS - {"swin"}))
def test_attention_implementations_agree(vision):
    pictures, found = make_pictures(), {}
    for name in ("eager", "sdpa"):
        model = make_model(vision, attn_implementation=name)
        assert model.vision_model.config._attn_implementation == name
        found[name] = model(pictures).pooler_output
    torch.testing.assert_close(found["eager"], found["sdpa"], atol=1e-5, rtol=1e-4)


@every_task
def test_half_precision_gives_answers_close_to_the_others_and_distinct(task):
    model, pictures, name = make_task_model(task), make_pictures(), ANSWERS[task][-1]
    whole = model(pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**labelled(task, unseen(pictures, 2)))
    assert out.loss.isfinite()
    spread = (whole[name][0] - whole[name][1]).abs().max()
    assert (out[name][:2] - whole[name][:2]).abs().max() < spread
    assert (out[name][0] - out[name][1]).abs().max() > 0.2 * spread
    half = make_task_model(task).bfloat16()(pictures.bfloat16())
    assert half[name].isfinite().all() and (half[name][:2] - whole[name][:2]).abs().max() < spread


def test_checkpointed_gradients_are_the_same():
    model, batch = make_task_model("redshift").train(), labelled("redshift", make_pictures())
    _, expected = loss_and_gradients(model, batch)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    _, found = loss_and_gradients(model, batch)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


@every_task
def test_one_traced_graph_answers_as_the_model_does(task):
    model = make_task_model(task).train()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for pictures in (make_pictures(), unseen(make_pictures(seed=1), 1)):
        expected, found = model(**labelled(task, pictures)), compiled(**labelled(task, pictures))
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
        for name in ANSWERS[task]:
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_states_are_recorded_where_they_are_asked_for():
    pictures = make_pictures()
    for asked, options in (
        ({}, {"output_hidden_states": True, "output_attentions": True}),
        ({"output_hidden_states": True, "output_attentions": True}, {}),
    ):
        for model in (
            make_model(attn_implementation="eager", **asked),
            make_task_model("redshift", attn_implementation="eager", **asked),
        ):
            out = model(pictures, **options)
            assert [state.shape for state in out.hidden_states] == [(3, 10, 24)] * 3
            assert [weights.shape for weights in out.attentions] == [(3, 4, 10, 10)] * 2
            torch.testing.assert_close(out.attentions[0].sum(-1), torch.ones(3, 4, 10))
    assert "hidden_states" not in make_model()(pictures) and "attentions" not in make_task_model("redshift")(pictures)
    assert len(make_model("resnet")(pictures, output_hidden_states=True).hidden_states) == 3


def test_a_config_may_ask_for_tuples():
    pictures = make_pictures()
    for model in (make_model(return_dict=False), make_task_model("redshift", return_dict=False)):
        found, expected = model(pictures), model(pictures, return_dict=True)
        assert isinstance(found, tuple) and len(found) == len(expected.to_tuple())
        assert all(torch.equal(value, other) for value, other in zip(found, expected.to_tuple(), strict=True))


@every_vision
def test_flops_are_those_that_torch_counts(vision):
    fields = {} if vision in CONVOLUTIONS else {"attn_implementation": "eager"}
    model = make_task_model("regression", vision, **fields)
    model.config.vision_config.image_size = SIZE if model.config.image_size is None else model.config.image_size
    # AIMv2 pools by the fused kernel, whatever it is told; on CPUs that is not counted.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(make_pictures(5))
    last = model.head.regressor
    assert model.flops([1] * 5) == counter.get_total_flops() - 2 * 5 * last.weight.numel()
    assert model.flops([1] * 5) == 5 * model.base_model.flops([7])
