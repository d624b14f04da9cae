"""The encoder under a head: the same answers in every layout, and nothing from what is not data."""

import pytest
import test_modeling_omnispectra as omnispectra
import test_modeling_specformer as specformer
import test_modeling_spectok as spectok
import torch
from test_heads import TARGETS
from test_modeling_spectok import P, make_batch
from test_packing import all_bad, in_float64, loss_and_gradients, pack, told, with_tail
from torch.utils.flop_counter import FlopCounterMode

from spectok_hf import (
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
)
from spectok_hf.models import modeling_spectok, packing
from spectok_hf.models.heads import ZWARN_BITS

TASKS = {
    "classification": (
        SpecTokForSpectrumClassification,
        OmniSpectraForSpectrumClassification,
        SpecformerForSpectrumClassification,
    ),
    "regression": (SpecTokForStellarRegression, OmniSpectraForStellarRegression, SpecformerForStellarRegression),
    "redshift": (SpecTokForRedshift, OmniSpectraForRedshift, SpecformerForRedshift),
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
HEADS = [
    ("spectok", "tokens", "attention"),
    ("spectok", "last_hidden_state", "attention"),
    ("spectok", "tokens", "linear"),
    ("spectok", "last_hidden_state", "linear"),
    ("omnispectra", "tokens", "linear"),
    ("omnispectra", "tokens", "attention"),
    ("omnispectra", "last_hidden_state", "attention"),
    ("specformer", "tokens", "attention"),
    ("specformer", "last_hidden_state", "linear"),
]
FAMILIES = {"spectok": spectok, "omnispectra": omnispectra, "specformer": specformer}
FAMILY_OF = {module: family for family, module in FAMILIES.items()}
every_task = pytest.mark.parametrize("task", TASKS)
every_family = pytest.mark.parametrize("family", FAMILIES)
every_head = pytest.mark.parametrize(("family", "head_input", "head_type"), HEADS)


def make_task_model(task, family="spectok", **fields):
    torch.manual_seed(0)
    # a layer norm of two numbers leaves their signs
    of_family = {"latent_size": 4} if family == "spectok" else {"head_type": "attention"}
    defaults = {
        "initializer_range": 0.2,
        "num_labels": 3,
        "class_weights": [0.5, 1.0, 2.0],
        "label_smoothing": 0.1,
        "predict_uncertainty": True,
        "redshift_bins": 24,
        "redshift_velocity": 30000.0,
        "head_num_queries": 2,
    }
    model_class = TASKS[task][list(FAMILIES).index(family)]
    return model_class(FAMILIES[family].small_config(**defaults | of_family | TARGETS | fields)).eval()


def labelled(task, batch):
    return in_float64(batch) | {"labels": LABELS[task]}


def select(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def assert_same_answers(task, expected, found):
    for name in ANSWERS[task]:
        torch.testing.assert_close(found[name], expected[name], atol=1e-12, rtol=1e-12, equal_nan=True)


def assert_same_gradients(expected, found):
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        # the keys' bias has no gradient but what rounding leaves
        scale = largest if name.endswith("k_proj.bias") else gradient.abs().max()
        assert (gradient - found[name]).abs().max() <= 1e-12 * scale, name


# Layouts


@every_head
@every_task
@pytest.mark.parametrize("bad", ["patches", "spectrum"])
def test_packed_padded_and_alone_are_one(bad, task, family, head_input, head_type, monkeypatch):
    model = make_task_model(task, family, head_input=head_input, head_type=head_type).double().train()
    batch = labelled(task, told(family, make_batch() if bad == "patches" else all_bad(make_batch())))
    with monkeypatch.context() as patch:  # as where a graph is traced
        for module in (packing, modeling_spectok):
            patch.setattr(module, "keeps_padding", lambda flux: True)
        expected, of_expected = loss_and_gradients(model, batch)
    packed, _ = pack({name: value for name, value in batch.items() if name != "labels"})
    packed["labels"] = batch["labels"]
    for inputs in (batch, packed, with_tail(packed, 3) | {"labels": batch["labels"]}):
        found, of_found = loss_and_gradients(model, inputs)
        assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
        assert_same_answers(task, expected, found)
        assert_same_gradients(of_expected, of_found)
    alone = [loss_and_gradients(model, select(batch, slice(row, row + 1))) for row in range(3)]
    assert sum(found.loss for found, _ in alone).item() / 3 == pytest.approx(expected.loss.item(), rel=1e-12)
    together = {name: torch.cat([found[name] for found, _ in alone]) for name in ANSWERS[task]}
    assert_same_answers(task, expected, together)
    assert_same_gradients(of_expected, {name: sum(of.get(name, 0) for _, of in alone) / 3 for name in of_expected})


@every_family
@every_task
def test_eager_and_packed_attention_are_the_same(task, family):
    batch = labelled(task, told(family, all_bad(make_batch())))
    models = [make_task_model(task, family, attn_implementation=name).double() for name in ("sdpa", "eager")]
    (expected, of_expected), (found, of_found) = (loss_and_gradients(model, batch) for model in models)
    assert_same_answers(task, expected, found)
    assert_same_gradients(of_expected, of_found)


@every_family
@every_task
@pytest.mark.parametrize("head_type", ["attention", "linear"])
def test_a_packed_spectrum_of_no_patches_changes_nothing(task, head_type, family):
    model = make_task_model(task, family, head_type=head_type).double()
    packed, _ = pack(told(family, in_float64(make_batch())))
    labels, spectra = LABELS[task], [0, 0, 1, 2, 2]
    expected, of_expected = loss_and_gradients(model, packed | {"labels": labels})
    statistics = {name: packed[name][spectra] for name in ("scale", "loc") if name in packed}
    with_nothing = packed | statistics | {"num_patches": [6, 0, 4, 6, 0], "labels": labels[[0, 1, 1, 2, 2]]}
    found, of_found = loss_and_gradients(model, with_nothing)
    assert_same_answers(task, expected, {name: found[name][[0, 2, 3]] for name in ANSWERS[task]})
    assert_no_answer(task, {name: value[[1, 4]] for name, value in found.items() if name != "loss"})
    assert_same_gradients(of_expected, {name: gradient * 5 / 3 for name, gradient in of_found.items()})


@every_family
@every_task
def test_a_batch_of_nothing_is_finite(task, family):
    model = make_task_model(task, family)
    for inputs in (
        {"flux": torch.zeros(2, 3, P), "wavelength": torch.zeros(2, 3, P)},
        {"flux": torch.zeros(0, P), "wavelength": torch.zeros(0, P), "num_patches": [0, 0]},
    ):
        inputs |= {name: torch.ones(2) for name in model.reads_statistics}
        found, gradients = loss_and_gradients(model, inputs | {"labels": LABELS[task][:2]})
        assert_no_answer(task, found)
        assert found.loss.isfinite() and not any(gradient.any() for gradient in gradients.values())


# What is no data


@every_head
@every_task
@pytest.mark.parametrize("garbage", [float("nan"), 1e30])
def test_values_under_bad_pixels_and_in_padding_change_nothing(garbage, task, family, head_input, head_type):
    model = make_task_model(task, family, head_input=head_input, head_type=head_type)
    batch = told(family, all_bad(make_batch()))
    (expected, of_expected), (found, of_found) = (
        loss_and_gradients(model, inputs | {"labels": LABELS[task]})
        for inputs in (batch, FAMILIES[family].spoil(batch, garbage))
    )
    assert torch.equal(found.loss, expected.loss)
    for name in ANSWERS[task]:
        assert torch.equal(found[name].nan_to_num(-1), expected[name].nan_to_num(-1))
    assert all(torch.equal(gradient, of_expected[name]) for name, gradient in of_found.items())


def assert_no_answer(task, found):
    if task == "classification":
        assert not found["logits"].any()
    elif task == "regression":
        assert found["predictions"].isnan().all() and found["uncertainties"].isnan().all()
    else:
        assert found["redshift"].isnan().all() and found["uncertainty"].isnan().all()
        assert (found["zwarn"] == ZWARN_BITS["no valid patch"] | ZWARN_BITS["low confidence"]).all()
        assert found["posterior"].isfinite().all() and (found["confidence"] < 0.9).all()


@every_head
@every_task
def test_a_spectrum_without_a_valid_patch_gets_no_answer_and_gives_no_gradient(task, family, head_input, head_type):
    model = make_task_model(task, family, head_input=head_input, head_type=head_type).double()
    batch = labelled(task, told(family, all_bad(make_batch())))
    found, of_found = loss_and_gradients(model, batch)
    assert_no_answer(task, {name: value[:1] for name, value in found.items() if name != "loss"})
    others, of_others = loss_and_gradients(model, select(batch, slice(1, 3)))
    assert_same_answers(task, others, {name: found[name][1:] for name in ANSWERS[task]})
    assert_same_gradients(of_others, {name: gradient * 3 / 2 for name, gradient in of_found.items()})


# What is data


@every_head
@every_task
def test_every_spectrum_has_its_own_answer(task, family, head_input, head_type):
    model = make_task_model(task, family, head_input=head_input, head_type=head_type)
    batch = told(family, make_batch())
    name = "posterior" if task == "redshift" else ANSWERS[task][0]
    shifted = batch | {"wavelength": batch["wavelength"] + 300.3}  # no multiple of a period of the embedding
    with torch.no_grad():
        answers, of_shifted = (model(**inputs)[name] for inputs in (batch, shifted))
    size = answers.abs().amax(0)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert ((answers[first] - answers[second]).abs() / size).max() > 3e-4
    # Specformer's states do not know the wavelength, and the linear head asks for none.
    knows = family != "specformer" or head_type == "attention"
    assert (((answers - of_shifted).abs() / size).amax(-1) > 3e-4).all() == knows


def test_the_attention_head_knows_the_wavelengths_of_tokens_and_the_linear_one_does_not():
    generator = torch.Generator().manual_seed(0)
    tokens, wavelength = torch.randn(1, 5, 4, generator=generator), 5000 + 16 * torch.arange(5.0)[None]
    valid = torch.ones(1, 5).long()
    for head_type, changes in (("attention", True), ("linear", False)):
        model = make_task_model("classification", head_type=head_type)
        first, second = (model.adapt(tokens, w, valid).logits for w in (wavelength, wavelength.flip(1)))
        assert torch.allclose(first, second, atol=1e-5) != changes


@every_head
@every_task
def test_every_parameter_learns_but_an_unread_bottleneck(task, family, head_input, head_type):
    model = make_task_model(task, family, head_input=head_input, head_type=head_type).train()
    _, gradients = loss_and_gradients(model, told(family, make_batch()) | {"labels": LABELS[task]})
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    bottleneck = {"spectok.bottleneck.weight", "spectok.bottleneck.bias"}  # the other family has none
    unread = bottleneck if family == "spectok" and head_input == "last_hidden_state" else set()
    assert gradients.keys() == trained == {name for name, _ in model.named_parameters()} - unread
    assert all(gradient.any() for name, gradient in gradients.items() if not name.endswith("k_proj.bias"))


# Other ways in


@every_head
@every_task
def test_encoded_spectra_are_adapted_alike(task, family, head_input, head_type):
    model = make_task_model(task, family, head_input=head_input, head_type=head_type).double()
    batch = labelled(task, told(family, all_bad(make_batch())))
    expected = model(**batch)
    encoded = model.base_model(**{name: value for name, value in batch.items() if name != "labels"})
    found = model.adapt(encoded[head_input], encoded.token_wavelength, encoded.attention_mask, batch["labels"])
    assert_same_answers(task, expected, found)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-12, rtol=1e-12)
    spoiled = torch.where(encoded.attention_mask[..., None] > 0, encoded[head_input], 1e3)  # what is not valid
    found = model.adapt(spoiled, encoded.token_wavelength, encoded.attention_mask, batch["labels"])
    assert_same_answers(task, expected, found)


def test_states_that_do_not_fit_are_refused():
    model = make_task_model("redshift")
    with pytest.raises(ValueError, match=r"states must have shape.*found \(4, 2\), \(1, 4\) and \(1, 4\)"):
        model.adapt(torch.ones(4, 2), torch.ones(1, 4), torch.ones(1, 4))
    with pytest.raises(ValueError, match=r"found \(1, 4, 2\), \(1, 5\) and \(1, 4\)"):
        model.adapt(torch.ones(1, 4, 2), torch.ones(1, 5), torch.ones(1, 4))


@every_family
@every_task
def test_recorded_states_have_the_shapes_of_transformers(task, family):
    model, batch = make_task_model(task, family, attn_implementation="eager").double(), in_float64(make_batch())
    batch, length = told(family, batch), 7 if family == "specformer" else 6  # with the token of its statistics
    expected, (packed, _) = model(**batch), pack(batch)
    for inputs in (batch, packed):
        found = model(**inputs, output_hidden_states=True, output_attentions=True)
        assert [state.shape for state in found.hidden_states] == [(3, length, 32)] * 3
        assert [weights.shape for weights in found.attentions] == [(3, 4, length, length)] * 2
        assert_same_answers(task, expected, found)
    assert set(expected) == {"zwarn", *ANSWERS[task]} - ({"zwarn"} if task != "redshift" else set())
    as_tuple = model(**batch, return_dict=False)
    assert torch.equal(as_tuple[0], expected[ANSWERS[task][0]])


@pytest.mark.parametrize("module", FAMILIES.values(), ids=FAMILIES)
def test_a_config_may_ask_for_tuples(module):
    batch = module.make_batch()
    for model in (
        module.make_model(return_dict=False),
        make_task_model("redshift", FAMILY_OF[module], return_dict=False),
    ):
        found, expected = model(**batch), model(**batch, return_dict=True)
        assert isinstance(found, tuple) and len(found) == len(expected.to_tuple())
        assert all(torch.equal(value, other) for value, other in zip(found, expected.to_tuple(), strict=True))


@pytest.mark.parametrize(
    ("task", "layout", "head_type"),
    [
        ("classification", "packed", "linear"),
        ("regression", "padded", "attention"),
        ("redshift", "packed", "attention"),
    ],
)
def test_one_traced_graph_answers_as_the_model_does(task, layout, head_type):
    model = make_task_model(task, head_type=head_type).train()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for inputs in (make_batch(), all_bad(make_batch(patches=7, seed=1))):
        if layout == "packed":
            inputs = pack(inputs)[0] | {"max_num_patches": 8}
        inputs["labels"] = LABELS[task]
        expected, found = model(**inputs), compiled(**inputs)
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=1e-5)
        for name in ANSWERS[task]:
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_a_traced_graph_refuses_labels_when_it_runs():
    torch._dynamo.reset()
    model = make_task_model("classification")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="labels must be among the classes of id2label"):
        compiled(**make_batch(), labels=torch.tensor([0, 1, 3]))


# Not of Specformer, which computes with padded spectra: its own are in test_packing.
@pytest.mark.parametrize(("family", "head_input", "head_type"), [head for head in HEADS if head[0] != "specformer"])
@pytest.mark.parametrize("lengths", [[10, 30, 20], [7]])
def test_flops_are_those_that_torch_counts(lengths, family, head_input, head_type):
    model = make_task_model("regression", family, head_input=head_input, head_type=head_type, head_hidden_size=16)
    total, last = sum(lengths), model.head.regressor
    inputs = {"flux": torch.rand(total, P), "wavelength": 5000 + torch.arange(total * P * 1.0).view(total, P)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, num_patches=lengths)
    assert model.flops(lengths) == counter.get_total_flops() - 2 * len(lengths) * last.weight.numel()


# Freezing


@every_family
@every_task
def test_a_frozen_encoder_has_no_gradient_and_no_dropout(task, family):
    fields = {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "head_dropout": 0.5}
    model = make_task_model(task, family, freeze_backbone=True, **fields).train()
    batch = told(family, make_batch())
    assert not model.base_model.training and model.head.training
    assert torch.equal(model.base_model(**batch).tokens, model.base_model(**batch).tokens)
    assert not torch.equal(model(**batch)[ANSWERS[task][0]], model(**batch)[ANSWERS[task][0]])  # the head's dropout
    _, gradients = loss_and_gradients(model, batch | {"labels": LABELS[task]})
    assert gradients.keys() == {name for name, _ in model.named_parameters() if name.startswith("head.")}


@pytest.mark.parametrize("head_input", ["tokens", "last_hidden_state"])
def test_freezing_can_be_undone_and_the_config_remembers(head_input):
    model = make_task_model("redshift", head_input=head_input).train()
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.freeze_backbone()
    assert model.config.freeze_backbone and not model.base_model.training
    assert all(parameter.requires_grad == name.startswith("head.") for name, parameter in model.named_parameters())
    model.freeze_backbone(False)
    assert not model.config.freeze_backbone and model.base_model.training
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == before


# Errors


def test_fields_that_from_pretrained_sets_are_checked(tmp_path):
    make_task_model("redshift").spectok.save_pretrained(tmp_path)
    for fields, message in (
        ({"redshift_bins": 1}, "redshift_bins must be at least 2, found 1"),
        ({"redshift_range": (2.0, 1.0)}, "redshift_range must be two numbers"),
        ({"head_num_attention_heads": 3}, "multiple of head_num_attention_heads"),
    ):
        with pytest.raises(ValueError, match=message):
            SpecTokForRedshift.from_pretrained(tmp_path, **fields)
    names = {"target_names": ["teff", "logg", "feh"], "target_units": None}
    with pytest.raises(ValueError, match="target_mean must have one value for each"):
        SpecTokForStellarRegression.from_pretrained(tmp_path, **names)
    model = SpecTokForStellarRegression.from_pretrained(tmp_path, **names, target_mean=0.0, target_std=2.0)
    assert model.config.target_std == [2.0] * 3
    model.save_pretrained(tmp_path / "again")


@every_family
@every_task
def test_misspelt_inputs_raise(task, family):
    with pytest.raises(TypeError, match="forward got unknown inputs: label"):
        make_task_model(task, family)(**told(family, make_batch()), label=LABELS[task])
