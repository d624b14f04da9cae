"""The packed layout through the models' public calls: the same answers as the padded one, whatever is chosen."""

import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_modeling_omnispectra import hide
from test_modeling_omnispectra import make_model as make_omnispectra
from test_modeling_specformer import described
from test_modeling_specformer import make_model as make_specformer
from test_modeling_spectok import P, make_batch, make_model, small_config
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoModelForPreTraining

import spectok_hf
from spectok_hf import SpecTokConfig, SpecTokForPreTraining
from spectok_hf.models import modeling_spectok, packed_attention, packing
from spectok_hf.models.packing import Padding, padding_of

EXACT = ("sdpa", "spectok_packed", "eager")
SLOW_FLEX = pytest.param(  # it compiles its kernel for every shape
    "flex_attention",
    marks=[
        pytest.mark.slow,
        # torch's own, from its compiler and from the mask that Transformers makes of padded spectra by it.
        pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    ],
)
PER_PATCH = ("tokens", "reconstruction", "token_wavelength", "token_width", "attention_mask", "coverage")
PER_SPECTRUM = ("num_patches", "scale", "loc")
KINDS = ("mirror", "query", "omnispectra", "specformer")  # of models: the decoders of SpecTok, and the other families
every_model = pytest.mark.parametrize("model_kind", KINDS)


def make_any(model_kind, **fields):
    if model_kind == "omnispectra":
        return make_omnispectra(**fields)
    if model_kind == "specformer":
        return make_specformer(**fields)
    return make_model(decoder_type=model_kind, **fields)


def told(model_kind, batch):
    """A padded batch with all that a model reads."""
    return described(batch) if model_kind == "specformer" else batch


def asked(model_kind, batch):
    """A padded batch that has a loss."""
    batch = told(model_kind, batch)
    return hide(batch, 1, 2) if model_kind in ("omnispectra", "specformer") else batch


def pack(batch):
    """The packed form of a padded batch, and the padding that was taken away."""
    length = batch["flux"].shape[1]
    padding = Padding(torch.arange(length) < batch["num_patches"][:, None])
    packed = {name: v if name in PER_SPECTRUM else padding.remove(v) for name, v in batch.items()}
    return packed | {"num_patches": batch["num_patches"].numpy()}, padding


def in_float64(batch):
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def all_bad(batch):
    pixel_mask = batch["pixel_mask"].clone()
    pixel_mask[0] = 0
    return batch | {"pixel_mask": pixel_mask}


def ragged(batch=64, patches=9):
    made = make_batch(batch=batch, patches=patches)
    made["num_patches"] = torch.randint(1, patches + 1, (batch,), generator=torch.Generator().manual_seed(2))
    real = torch.arange(patches) < made["num_patches"][:, None]
    return made | {"pixel_mask": made["pixel_mask"] * real[..., None]}


BATCHES = {
    "bad patches": make_batch(),
    "all bad": all_bad(make_batch()),
    "one spectrum": make_batch(batch=2) | {},
    "64 spectra": all_bad(ragged()),
}
BATCHES["one spectrum"] = {name: value[:1] for name, value in BATCHES["one spectrum"].items()}


@pytest.fixture
def padded_inside(monkeypatch):
    """Makes the models run their blocks over the padded layout, as they do where a graph is traced."""

    def switch(on):
        for module in (packing, modeling_spectok):
            monkeypatch.setattr(module, "keeps_padding", lambda flux: on)

    return switch


def loss_and_gradients(model, inputs):
    model.zero_grad()
    outputs = model(**inputs)
    outputs.loss.backward()
    return outputs, {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_equal_to(reference, found, limit):
    scale = reference.abs().max().clamp(min=1e-300)
    assert ((found - reference).abs().max() / scale).item() <= limit


@every_model
@pytest.mark.parametrize("attention", EXACT)
@pytest.mark.parametrize("kind", BATCHES)
def test_packed_padded_and_the_padded_layout_are_one(kind, attention, model_kind, padded_inside):
    model = make_any(model_kind, attn_implementation=attention).double().train()
    batch = asked(model_kind, in_float64(BATCHES[kind]))
    packed, padding = pack(batch)
    padded_inside(True)
    expected, of_expected = loss_and_gradients(model, batch)
    padded_inside(False)
    largest = max(gradient.abs().max() for gradient in of_expected.values())
    for inputs, restore in ((batch, lambda values: values), (packed, padding.restore)):
        outputs, of_outputs = loss_and_gradients(model, inputs)
        assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
        assert_equal_to(expected.pooler_output, outputs.pooler_output, 1e-12)
        real = batch["num_patches"][:, None] > torch.arange(batch["flux"].shape[1])
        for name in PER_PATCH:
            assert_equal_to(expected[name][real], restore(outputs[name])[real], 1e-12)
        assert of_outputs.keys() == of_expected.keys()
        for name, gradient in of_expected.items():
            # the keys' bias has no gradient but what rounding leaves
            scale = largest if name.endswith("k_proj.bias") else gradient.abs().max()
            assert (gradient - of_outputs[name]).abs().max() <= 1e-12 * scale, name


@every_model
@pytest.mark.parametrize("attention", [*EXACT, "somebody_elses", SLOW_FLEX])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_spectra_never_see_each_other(layout, attention, model_kind):
    if attention == "somebody_elses":
        AttentionInterface.register(attention, packed_attention.eager_attention_forward)
    batch = told(model_kind, make_batch(batch=4))
    changed = batch["flux"].clone()
    changed[2] += 5
    model = make_any(model_kind, attn_implementation=attention)
    outputs = []
    for inputs in (batch, batch | {"flux": changed}):
        inputs, padding = pack(inputs) if layout == "packed" else (inputs, None)
        with torch.no_grad():
            found = model(**inputs)
        if padding:
            found |= {name: padding.restore(found[name]) for name in ("tokens", "reconstruction")}
        outputs.append(found)
    others = torch.arange(4) != 2
    for name in ("tokens", "reconstruction", "pooler_output"):
        before, after = (found[name] for found in outputs)
        assert torch.equal(before[others], after[others]) and not torch.equal(before[2], after[2])


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "paged|eager", "no_such_attention"])
def test_attention_that_does_not_work_here_is_refused(name):
    packed, _ = pack(make_batch())
    with pytest.raises((ValueError, ImportError), match=r"[Ff]lash|cache to page|is not supported"):
        make_model(attn_implementation=name)(**packed)


@every_model
@pytest.mark.parametrize("attention", [SLOW_FLEX])
def test_flex_attention_is_the_same(attention, model_kind):
    packed, _ = pack(told(model_kind, make_batch()))
    with torch.no_grad():
        flex, sdpa = (make_any(model_kind, attn_implementation=name)(**packed) for name in (attention, "sdpa"))
    torch.testing.assert_close(flex.reconstruction, sdpa.reconstruction, atol=1e-5, rtol=1e-5)


def test_attention_can_be_changed_and_the_default_is_the_fast_one(tmp_path):
    make_model().save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert model.config._attn_implementation == "sdpa"
    packed, _ = pack(make_batch())

    def operators(model):
        with torch.profiler.profile() as profile, torch.no_grad():
            model(**packed)
        return sum(event.count for event in profile.key_averages() if event.key == "spectok::packed_attention_1")

    assert operators(model) == 4
    model.set_attn_implementation("eager")
    assert operators(model) == 0
    model.set_attn_implementation("spectok_packed")
    assert operators(model) == 4


@every_model
def test_dropout_of_attention_weights_works_packed(model_kind):
    packed, _ = pack(asked(model_kind, make_batch()))
    model = make_any(model_kind, attention_probs_dropout_prob=0.5)
    still = model(**packed).tokens
    assert torch.equal(still, make_any(model_kind)(**packed).tokens)
    assert not torch.allclose(model.train()(**packed).tokens, still)


@every_model
@pytest.mark.parametrize("as_what", [list, np.asarray, torch.as_tensor])
def test_lengths_may_be_ints_an_array_or_a_tensor(as_what, model_kind):
    packed, _ = pack(told(model_kind, make_batch()))
    model = make_any(model_kind)
    for forward in (model, model.reconstruct):
        found = forward(**packed | {"num_patches": as_what(packed["num_patches"])})
        assert torch.equal(found.tokens, forward(**packed).tokens)
        assert torch.equal(found.reconstruction, forward(**packed).reconstruction)


@every_model
@pytest.mark.parametrize("attention", EXACT)
@pytest.mark.parametrize("kind", BATCHES)
def test_reconstructions_of_packed_padded_and_lone_spectra_are_one(kind, attention, model_kind):
    model = make_any(model_kind, attn_implementation=attention).double()
    batch = told(model_kind, in_float64(BATCHES[kind]))
    packed, padding = pack(batch)
    with torch.no_grad():
        expected, found = model.reconstruct(**batch), model.reconstruct(**with_tail(packed, 3))
        real = batch["num_patches"][:, None] > torch.arange(batch["flux"].shape[1])
        for name in PER_PATCH:
            assert_equal_to(expected[name][real], padding.restore(found[name][:-3])[real], 1e-12)
            assert not found[name][-3:].any()
        for row in range(min(len(real), 5)):
            length = batch["num_patches"][row]
            alone = {name: v[row : row + 1] if v.ndim == 1 else v[row : row + 1, :length] for name, v in batch.items()}
            assert_equal_to(expected.reconstruction[row, :length], model.reconstruct(**alone).reconstruction[0], 1e-11)


def test_patches_and_pixels_can_be_hidden_in_a_packed_batch():
    batch, model = make_batch(), make_model(objective="masked").train()
    packed, padding = pack(batch)
    for hidden in (torch.zeros(3, 6, dtype=torch.bool), torch.zeros(3, 6, P, dtype=torch.bool)):
        hidden[:, 2] = True
        expected = model(**batch, bool_masked_pos=hidden)
        found = model(**packed, bool_masked_pos=padding.remove(hidden))
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(padding.restore(found.tokens), expected.tokens)


# rows behind the last spectrum, and lengths that do not fit


def with_tail(packed, rows):
    tail = {
        name: torch.nn.functional.pad(v, (0, 0) * (v.ndim - 1) + (0, rows))
        for name, v in packed.items()
        if isinstance(v, torch.Tensor) and name not in PER_SPECTRUM
    }
    return packed | tail


@every_model
def test_rows_behind_the_last_spectrum_are_padding(model_kind):
    packed, _ = pack(asked(model_kind, make_batch()))
    model = make_any(model_kind)
    expected, found = model(**packed), model(**with_tail(packed, 5))
    assert torch.equal(found.loss, expected.loss) and torch.equal(found.pooler_output, expected.pooler_output)
    for name in PER_PATCH:
        assert torch.equal(found[name][:-5], expected[name]) and not found[name][-5:].any(), name


@pytest.mark.parametrize(
    "lengths, message",
    [
        (None, "need num_patches"),
        ([6, 4, 7], "sum to the 16 rows of flux, found the sum 17"),
        ([17, -1], "must be >= 0"),
        ([6, 4], "found the sum 10, and good pixels in the 6 rows behind it"),
    ],
)
@every_model
def test_lengths_that_do_not_fit_are_refused(lengths, message, model_kind):
    packed, _ = pack(told(model_kind, make_batch()))
    count = None if lengths is None else len(lengths)
    packed |= {name: packed[name][:count] for name in ("scale", "loc") if name in packed}
    for model in (make_any(model_kind), make_any(model_kind).base_model):
        with pytest.raises(ValueError, match=message):
            model(**packed | {"num_patches": lengths})


@every_model
def test_a_packed_batch_in_the_shape_of_one_padded_spectrum_is_refused(model_kind):
    packed, _ = pack(told(model_kind, make_batch()))
    inputs = {name: values for name, values in packed.items() if isinstance(values, torch.Tensor)}
    inputs |= {name: values[None] for name, values in inputs.items() if name not in PER_SPECTRUM}
    with pytest.raises(ValueError, match=r"num_patches must have shape \(1,\).*flux of shape \(rows, patch_size\)"):
        make_any(model_kind)(**inputs, num_patches=torch.tensor([6, 4, 6]))


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "max_length_k", "position_ids", "seq_idx", "is_causal"])
def test_other_marks_of_packed_or_directed_sequences_are_refused(name):
    for model in (make_model(), make_model().spectok, make_omnispectra(), make_omnispectra().omnispectra):
        with pytest.raises(TypeError, match=f"forward does not take {name}"):
            model(**make_batch(), **{name: torch.tensor([0, 6, 12, 18])})


@every_model
def test_a_packed_batch_that_was_split_between_devices_is_refused(model_kind):
    packed, _ = pack(told(model_kind, make_batch()))
    half = {
        name: value[:40] if isinstance(value, torch.Tensor) else value for name, value in with_tail(packed, 64).items()
    }
    with pytest.raises(ValueError, match="was a packed batch split between devices"):
        make_any(model_kind)(**half | {"scale": torch.ones(2)})


def test_a_packed_batch_that_was_cut_by_rows_is_refused():
    packed, _ = pack(make_batch())
    half = {name: value[:8] if isinstance(value, torch.Tensor) else value for name, value in packed.items()}
    with pytest.raises(ValueError, match="cannot be cut by rows"):
        make_model()(**half)


def test_packed_tokens_are_decoded_once_padded():
    model = make_model()
    packed, _ = pack(make_batch())
    out = model(**packed)
    with pytest.raises(ValueError, match="pad packed tokens"):
        model.decode(
            out.tokens,
            make_batch()["wavelength"],
            token_wavelength=out.token_wavelength,
            attention_mask=out.attention_mask,
        )
    restore = padding_of(packed["num_patches"].tolist(), torch.device("cpu")).restore
    tokens, centre, valid, width = (
        restore(out[name]) for name in ("tokens", "token_wavelength", "attention_mask", "token_width")
    )
    decoded = model.decode(
        tokens, make_batch()["wavelength"], token_wavelength=centre, attention_mask=valid, token_width=width
    )
    torch.testing.assert_close(decoded.reconstruction[2], restore(out.reconstruction)[2], atol=1e-3, rtol=1e-3)


@every_model
def test_an_empty_batch_and_spectra_without_patches_are_finite(model_kind):
    model, packed = make_any(model_kind), pack(asked(model_kind, make_batch()))[0]
    lengths, spectra = [0, 6, 0, 4, 6, 0], [0, 0, 1, 1, 2, 2]
    statistics = {name: packed[name][spectra] for name in ("scale", "loc") if name in packed}
    out = model(**packed | statistics | {"num_patches": lengths})
    assert out.pooler_output.shape == (6, 32) and torch.isfinite(out.loss)
    assert not out.pooler_output[[0, 2, 5]].any() and torch.equal(out.tokens, model(**packed).tokens)
    nothing = told(model_kind, {"flux": torch.zeros(2, 3, P), "wavelength": torch.zeros(2, 3, P)})
    assert not model(**nothing).reconstruction.any() and not model.reconstruct(**nothing).reconstruction.any()


# recorded, counted, compiled, loaded twice


@every_model
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_recorded_states_have_the_shapes_of_transformers(attention, model_kind):
    batch, length = told(model_kind, make_batch()), 7 if model_kind == "specformer" else 6  # a token of its statistics
    packed, _ = pack(batch)
    model = make_any(model_kind, attn_implementation=attention)
    flags = {"output_hidden_states": True, "output_attentions": attention == "eager"}
    plain = model(**batch)
    for inputs in (batch, packed):
        for forward in (model, model.base_model):
            out = forward(**inputs, **flags)
            assert [state.shape for state in out.hidden_states] == [(3, length, 32)] * 3
            weights = [(3, 4, length, length)] * 2
            assert not flags["output_attentions"] or [w.shape for w in out.attentions] == weights
            torch.testing.assert_close(out.tokens, plain.tokens)
            torch.testing.assert_close(out.pooler_output, plain.pooler_output)


@pytest.mark.parametrize("decoder_type", ["mirror", "query"])
@pytest.mark.parametrize("pooling", ["flatten", "mean"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [[10, 30, 20], [7], [5] * 6])
def test_flops_are_those_that_torch_counts(lengths, attention, pooling, decoder_type):
    config = small_config(decoder_type=decoder_type, wavelength_pooling=pooling, attn_implementation=attention)
    model = SpecTokForPreTraining(config)
    total = sum(lengths)
    inputs = {"flux": torch.rand(total, P), "wavelength": 5000 + torch.arange(total * P * 1.0).view(total, P)}
    for part in (model, model.spectok):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part(**inputs, num_patches=lengths)
        assert part.flops(lengths) == counter.get_total_flops()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [[10, 30, 20], [7], [5] * 6])
def test_flops_of_the_other_family_are_those_that_torch_counts(lengths, attention):
    model, total = make_omnispectra(attn_implementation=attention), sum(lengths)
    inputs = {"flux": torch.rand(total, P), "wavelength": 5000 + torch.arange(total * P * 1.0).view(total, P)}
    for part in (model, model.omnispectra):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part(**inputs, num_patches=lengths)
        assert part.flops(lengths) == counter.get_total_flops()  # the depthwise term is none of those that are counted


@pytest.mark.parametrize("lengths", [[7], [5] * 6])
def test_flops_of_specformer_are_those_that_torch_counts(lengths):
    """Of spectra of one length: it computes with padded ones."""
    model, shape = make_specformer(attn_implementation="eager"), (len(lengths), lengths[0], P)
    inputs = described({"flux": torch.rand(shape), "wavelength": 5000 + torch.rand(shape).cumsum(-1)})
    for part in (model, model.specformer):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part(**inputs, num_patches=lengths)
        assert part.flops(lengths) == pytest.approx(
            counter.get_total_flops(), rel=0.02
        )  # the statistics are not decoded


def test_flops_of_training_are_three_times_as_many():
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", attn_implementation="eager"))
    inputs = {"flux": torch.rand(60, 32), "wavelength": 5000 + torch.arange(60 * 32.0).view(60, 32)}
    with FlopCounterMode(display=False) as counter:
        model(**inputs, num_patches=[20, 40]).loss.backward()
    assert counter.get_total_flops() == pytest.approx(3 * model.flops([20, 40]), rel=0.04)  # spectra need no gradient


@pytest.mark.parametrize("model_kind", ["mirror", pytest.param("query", marks=pytest.mark.slow), "omnispectra"])
def test_one_compiled_graph_takes_every_packed_batch(model_kind):
    model, counter = make_any(model_kind).train(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    totals = set()
    for seed, size in enumerate((2, 3, 5, 4, 7, 6, 3, 8, 9)):
        packed, _ = pack(asked(model_kind, all_bad(make_batch(batch=size, patches=4 + seed, seed=seed))))
        packed = with_tail(packed, seed)
        totals.add(len(packed["flux"]))
        found, expected = compiled(**packed, max_num_patches=16), model(**packed)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.reconstruction, expected.reconstruction, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output)
    assert counter.frame_count == 1 and len(totals) >= 8


def test_a_compiled_graph_of_specformer_takes_padded_spectra_alone():
    packed, _ = pack(asked("specformer", make_batch()))
    torch._dynamo.reset()
    compiled = torch.compile(make_specformer(), backend="eager", fullgraph=True, dynamic=True)
    with pytest.raises(Exception, match=r"packed spectra stay packed in a traced graph, .* pass those"):
        compiled(**packed, max_num_patches=8)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_patches": np.array([6, 4, 3])},  # rows with data are left over
        {"num_patches": np.array([6, 4, 7])},
        {"num_patches": np.array([-1, 11, 6])},
        {"max_num_patches": 5},
    ],
)
def test_lengths_that_do_not_fit_are_refused_by_a_compiled_graph(changes):
    packed, _ = pack(make_batch())
    torch._dynamo.reset()
    compiled = torch.compile(make_model(), backend="eager", fullgraph=True, dynamic=True)
    with pytest.raises(RuntimeError, match="num_patches must"):
        compiled(**packed | {"max_num_patches": 8} | changes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("model_kind", ["mirror", "omnispectra"])
def test_the_compiled_graph_trains(model_kind):
    torch._dynamo.reset()
    model = make_any(model_kind).train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for seed in range(8):
        packed, _ = pack(asked(model_kind, make_batch(batch=2 + seed, patches=4 + seed, seed=seed)))
        _, expected = loss_and_gradients(model, packed)
        model.zero_grad()
        compiled(**packed, max_num_patches=16).loss.backward()
        largest = max(gradient.abs().max().item() for gradient in expected.values())
        for name, weight in model.named_parameters():
            if weight.grad is not None:  # the keys' bias has none but what rounding leaves: hence the limit
                limit = 1e-4 * max(expected[name].abs().max().item(), 1e-3 * largest)
                torch.testing.assert_close(weight.grad, expected[name], atol=limit, rtol=1e-4)


def test_shapes_on_a_gpu_follow_from_meta_tensors():
    for model_kind in KINDS[:-1]:  # masks of padded spectra, Transformers' own, look at values
        packed, _ = pack(asked(model_kind, make_batch()))
        model = make_any(model_kind).to("meta").to(torch.bfloat16).train()
        inputs = {name: v.to("meta") if isinstance(v, torch.Tensor) else v for name, v in packed.items()}
        out = model(**inputs, max_num_patches=8)
        out.loss.backward()
        assert out.reconstruction.shape == (16, P) and out.pooler_output.shape == (3, 32)
        assert all(weight.grad is not None for weight in model.parameters())


def test_the_modeling_file_can_be_loaded_twice(tmp_path):
    source = Path(spectok_hf.__file__).parent / "models"
    shutil.copytree(source, tmp_path / "copy_of_models", ignore=shutil.ignore_patterns("__pycache__"))
    spec = importlib.util.spec_from_file_location(
        "copy_of_models",
        tmp_path / "copy_of_models/__init__.py",
        submodule_search_locations=[str(tmp_path / "copy_of_models")],
    )
    sys.modules["copy_of_models"] = importlib.util.module_from_spec(spec)
    try:
        modeling = importlib.import_module("copy_of_models.modeling_spectok")
        configuration = importlib.import_module("copy_of_models.configuration_spectok")
        assert modeling.SpecTokForPreTraining is not SpecTokForPreTraining
        first = make_model().train()
        second = modeling.SpecTokForPreTraining(configuration.SpecTokConfig(**small_config().to_diff_dict())).train()
        second.load_state_dict(first.state_dict())
        packed, _ = pack(make_batch())
        for model in (first, second):
            model(**packed).loss.backward()
        assert torch.equal(first(**packed).tokens, second(**packed).tokens)
        for weight, other in zip(first.parameters(), second.parameters(), strict=True):
            assert weight.grad is None or torch.equal(weight.grad, other.grad)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "copy_of_models"]:
            del sys.modules[name]
