"""The contrastive objective: its loss, alone and over processes, and what of it travels."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from test_modeling_spectok import make_batch, small_config, spoil
from test_packing import in_float64, loss_and_gradients, pack, with_tail
from torch._dynamo.testing import CompileCounter
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForPreTraining

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForSpectrumClassification,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.views import DataCollatorForContrastiveSpectra
from spectok_hf.evaluation.contrastive import project_views, retrieval_accuracy
from spectok_hf.models import modeling_spectok, packing
from spectok_hf.models.contrastive import contrastive_loss, pair_loss

WORKER = Path(__file__).with_name("contrastive_worker.py")
HEADS = [("tokens", "attention"), ("last_hidden_state", "attention"), ("tokens", "linear")]
every_head = pytest.mark.parametrize(("head_input", "head_type"), HEADS)


def make_contrastive(**fields):
    torch.manual_seed(0)
    defaults = {"objective": "contrastive", "projection_dim": 6, "initializer_range": 0.2, "latent_size": 4}
    return SpecTokForPreTraining(small_config(**defaults | fields)).eval()


def unseen(batch, *rows):
    pixel_mask = batch["pixel_mask"].clone()
    pixel_mask[list(rows)] = 0
    return batch | {"pixel_mask": pixel_mask}


def unit_vectors(count, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, size, generator=generator, dtype=torch.float64), dim=-1)


def plain_loss(projection, codes, temperature):
    """NT-Xent, view by view."""
    losses = []
    for anchor, vector in enumerate(projection):
        partner = anchor + 1 if anchor % 2 == 0 else anchor - 1
        if not (vector.any() and projection[partner].any()):
            losses.append(torch.tensor(0.0).double())
            continue
        others = [row for row in range(len(codes)) if codes[row] != codes[anchor] and projection[row].any()]
        scores = torch.stack([vector @ projection[row] / temperature for row in [partner, *others]])
        losses.append(scores.exp().sum().log() - scores[0])
    return torch.stack(losses).mean()


# The loss


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("codes", [[0, 0, 1, 1, 2, 2, 3, 3], [7, 7, 1, 1, 7, 7, 7, 7], [0] * 8])
def test_the_loss_is_that_of_a_plain_reference(codes, temperature):
    projection = unit_vectors(8)
    projection[5] = 0
    found = contrastive_loss(projection, torch.tensor(codes), temperature)
    torch.testing.assert_close(found, plain_loss(projection, codes, temperature), atol=1e-12, rtol=1e-12)
    if codes == [0, 0, 1, 1, 2, 2, 3, 3]:
        assert torch.equal(found, contrastive_loss(projection, None, temperature))


def test_views_of_one_object_are_no_negatives():
    projection = unit_vectors(6)
    projection[4:] = projection[:2]  # the same object, seen twice
    codes = torch.tensor([4, 4, 9, 9, 4, 4])
    told, untold = (contrastive_loss(projection, given, 0.5) for given in (codes, None))
    assert told < untold
    torch.testing.assert_close(told, plain_loss(projection, codes.tolist(), 0.5))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.tensor([0, 0, 1, 2]), "rows 2i and 2i [+] 1 must be views of one object"),
        (torch.tensor([0, 0, 1]), r"must be int64, shape \(4,\), .* of shape \(3,\)"),
        (torch.zeros(4), "found torch.float32"),
    ],
)
def test_codes_that_do_not_fit_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(unit_vectors(4), codes, 0.1)


def plain_pair_loss(first, second, codes, scale):
    """InfoNCE in both directions, pair by pair."""
    seen = [bool(one.any() and other.any()) for one, other in zip(first, second, strict=True)]
    losses = []
    for row in range(len(first)):
        others = [other for other in range(len(first)) if codes[other] != codes[row] and seen[other]]
        for anchor, partners in ((first[row], second), (second[row], first)):
            scores = torch.stack([scale * (anchor @ partners[other]) for other in [row, *others]])
            losses.append((scores.exp().sum().log() - scores[0]) * seen[row])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("scale", [1.0, 15.5])
@pytest.mark.parametrize("codes", [[0, 1, 2, 3, 4, 5], [7, 1, 7, 7, 2, 1], [0] * 6])
@pytest.mark.parametrize("unseen_side", [None, 0, 1])
def test_the_loss_of_pairs_is_that_of_a_plain_reference(unseen_side, codes, scale):
    sides = [unit_vectors(6), unit_vectors(6, seed=1)]
    if unseen_side is not None:
        sides[unseen_side][2] = 0
    found = pair_loss(*sides, torch.tensor(codes), scale)
    torch.testing.assert_close(found, plain_pair_loss(*sides, codes, scale), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found, pair_loss(*sides[::-1], torch.tensor(codes), scale), atol=1e-12, rtol=1e-12)
    if codes == list(range(6)):
        assert torch.equal(found, pair_loss(*sides, None, scale))


def test_without_codes_the_loss_of_pairs_is_that_of_clip():
    first, second, rows = unit_vectors(5), unit_vectors(5, seed=1), torch.arange(5)
    logits = 15.5 * first @ second.T
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, rows) + cross_entropy(logits.T, rows)) / 2
    torch.testing.assert_close(pair_loss(first, second, None, 15.5), expected, atol=1e-12, rtol=1e-12)
    assert pair_loss(first, first, None, 200.0) < 1e-6 < expected  # partners that are alike, and others that are not


def test_pairs_of_one_object_are_no_negatives_and_get_no_gradient_from_each_other():
    first, second = unit_vectors(4).requires_grad_(), unit_vectors(4, seed=1).requires_grad_()
    codes = torch.tensor([5, 5, 8, 9])
    pair_loss(first, second, codes, 3.0).backward()
    logits = 3.0 * first.detach() @ second.detach().T
    logits[0, 1] = logits[1, 0] = -torch.inf
    logits.requires_grad_()
    rows, cross_entropy = torch.arange(4), torch.nn.functional.cross_entropy
    ((cross_entropy(logits, rows) + cross_entropy(logits.T, rows)) / 2).backward()
    torch.testing.assert_close(first.grad, 3.0 * logits.grad @ second.detach(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "codes", "message"),
    [
        ((4, 5), (3, 5), None, r"one partner for each, found shapes \(4, 5\) and \(3, 5\)"),
        ((4, 5), (4, 6), None, "one partner for each"),
        ((4, 5), (4, 5), torch.zeros(4), "int64"),
        ((4, 5), (4, 5), torch.zeros(3).long(), r"shape \(4,\)"),
    ],
)
def test_pairs_that_are_none_are_refused(first, second, codes, message):
    with pytest.raises(ValueError, match=message):
        pair_loss(torch.rand(first), torch.rand(second), codes, 1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_pairs_is_at_least_float32(dtype):
    first, second = unit_vectors(6).to(dtype), unit_vectors(6, seed=1).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = pair_loss(first, second, None, 15.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, pair_loss(first.float(), second.float(), None, 15.5))


def test_pairs_are_needed_for_a_loss_only():
    model = make_contrastive()
    with pytest.raises(ValueError, match=r"needs pairs, .* found 3 spectra: use DataCollatorForContrastiveSpectra"):
        model(**make_batch(batch=3))
    out = model(**make_batch(batch=3), return_loss=False)
    assert out.loss is None and out.projection.shape == (3, 6)


@pytest.mark.parametrize("fields", [{"contrastive_temperature": 0.0}, {"projection_dim": 1}])
def test_fields_out_of_range_are_refused(fields):
    with pytest.raises(
        StrictDataclassClassValidationError,
        match="projection_dim must be at least 2 and contrastive_temperature positive",
    ):
        small_config(objective="contrastive", **fields)


# The model


def test_there_is_a_projection_and_no_decoder():
    model, batch = make_contrastive(), make_batch(batch=4)
    out = model(**batch)
    assert out.reconstruction is None and out.coverage is None and out.loss.ndim == 0
    torch.testing.assert_close(out.projection.norm(dim=-1), torch.ones(4))
    assert torch.pdist(out.projection).min() > 1e-3  # distinct spectra, distinct projections
    with pytest.raises(ValueError, match='objective="contrastive" has no decoder: load'):
        model.decode(
            out.tokens, batch["wavelength"], token_wavelength=out.token_wavelength, attention_mask=out.attention_mask
        )
    with pytest.raises(ValueError, match="has no decoder"):
        model.initialize_from_patch_pca(torch.randn(20, 8))


@every_head
@pytest.mark.parametrize("bad", [(), (2,)])
def test_packed_and_padded_are_one(bad, head_input, head_type, monkeypatch):
    model = make_contrastive(head_input=head_input, head_type=head_type).double().train()
    batch = in_float64(unseen(make_batch(batch=6), *bad))
    codes = torch.tensor([0, 0, 5, 5, 0, 0])
    with monkeypatch.context() as patch:  # as where a graph is traced
        for module in (packing, modeling_spectok):
            patch.setattr(module, "keeps_padding", lambda flux: True)
        expected, of_expected = loss_and_gradients(model, batch | {"object_codes": codes})
    packed, _ = pack(batch)
    for inputs in (batch, packed, with_tail(packed, 3)):
        found, of_found = loss_and_gradients(model, inputs | {"object_codes": codes})
        torch.testing.assert_close(found.loss, expected.loss, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(found.projection, expected.projection, atol=1e-12, rtol=1e-12)
        assert of_found.keys() == of_expected.keys()
        largest = max(gradient.abs().max() for gradient in of_expected.values())
        for name, gradient in of_expected.items():
            torch.testing.assert_close(of_found[name], gradient, atol=1e-11 * largest, rtol=0)


def test_eager_and_packed_attention_are_the_same():
    batch = in_float64(make_batch(batch=4))
    eager, sdpa = (make_contrastive(attn_implementation=name).double()(**batch) for name in ("eager", "sdpa"))
    torch.testing.assert_close(eager.projection, sdpa.projection, atol=1e-12, rtol=1e-12)


@every_head
def test_every_parameter_that_is_trained_has_a_gradient(head_input, head_type, tmp_path):
    make_contrastive(head_input=head_input, head_type=head_type).save_pretrained(tmp_path)
    model = SpecTokForPreTraining.from_pretrained(tmp_path).train()
    model(**make_batch(batch=4)).loss.backward()
    without = {name for name, weight in model.named_parameters() if weight.grad is None}
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    bottleneck = {"spectok.bottleneck.weight", "spectok.bottleneck.bias"}
    assert without == frozen == (bottleneck if head_input == "last_hidden_state" else set())


@pytest.mark.parametrize("garbage", [0.0, float("nan"), 1e30])
def test_values_under_bad_pixels_change_nothing(garbage):
    model, batch = make_contrastive(), make_batch(batch=4)
    assert torch.equal(model(**batch).projection, model(**spoil(batch, garbage)).projection)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_spectrum_without_a_valid_patch_is_zero_and_counts_for_nobody(layout):
    model, batch = make_contrastive(), make_batch(batch=6)
    inputs = unseen(batch, 3)
    inputs = inputs if layout == "padded" else pack(inputs)[0]
    model.train()
    out, gradients = loss_and_gradients(model, inputs)
    assert not out.projection[3].any() and out.projection[2].any()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    rest = model(**{name: values[[0, 1, 4, 5, 2, 2]] for name, values in batch.items()}, return_loss=False).projection
    anchors = contrastive_loss(torch.cat([rest[:5], torch.zeros(1, 6)]), None, model.config.contrastive_temperature)
    torch.testing.assert_close(out.loss, anchors)


def test_a_batch_without_anything_to_tell_apart_is_finite():
    model = make_contrastive().train()
    lone, gradients = loss_and_gradients(model, make_batch(batch=2))
    assert lone.loss == 0 and all(gradient.isfinite().all() for gradient in gradients.values())
    assert model(**pack(make_batch(batch=2))[0] | {"num_patches": [0, 10]}).loss == 0
    nothing, gradients = loss_and_gradients(model, unseen(make_batch(batch=4), 0, 1, 2, 3))
    assert nothing.loss == 0 and not nothing.projection.any()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_patches_can_be_hidden():
    model, batch = make_contrastive(), make_batch(batch=4)
    hidden = torch.zeros(4, 6, dtype=torch.bool)
    hidden[:, 2] = True
    hole = batch["pixel_mask"].clone()
    hole[:, 2] = 0
    expected = model(**batch | {"pixel_mask": hole}).projection
    torch.testing.assert_close(model(**batch, bool_masked_pos=hidden).projection, expected)


def test_other_models_take_a_batch_with_codes():
    model, batch = make_contrastive(objective="reconstruction"), make_batch(batch=4)
    codes = torch.tensor([0, 0, 1, 1])
    assert torch.equal(model(**batch, object_codes=codes).loss, model(**batch).loss)
    model.spectok(**batch, object_codes=codes)


def test_flops_are_those_that_torch_counts():
    model = make_contrastive(attn_implementation="eager")
    inputs = {"flux": torch.rand(60, 8), "wavelength": 5000 + torch.arange(60 * 8.0).view(60, 8)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs, num_patches=[20, 40], return_loss=False)
    of_projector = 2 * 2 * model.contrastive_head.projector.weight.numel()  # as the heads' last map, not counted
    assert model.flops([20, 40]) == counter.get_total_flops() - of_projector


def test_autocast_keeps_the_loss_in_float32():
    model, batch = make_contrastive().train(), make_batch(batch=4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(**batch)
    assert out.loss.dtype == out.projection.dtype == torch.float32
    torch.testing.assert_close(out.loss, contrastive_loss(out.projection, None, 0.1))


def test_one_compiled_graph_takes_every_packed_batch():
    model, counter = make_contrastive().train(), CompileCounter()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for seed, size in enumerate((4, 6, 10, 8)):
        packed, _ = pack(unseen(make_batch(batch=size, patches=4 + seed, seed=seed), 3))
        codes = torch.arange(size) // 2 % 3
        found = compiled(**packed, object_codes=codes, max_num_patches=16)
        torch.testing.assert_close(found.loss, model(**packed, object_codes=codes).loss)
    assert counter.frame_count == 1


# What travels


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model, batch = make_contrastive(), make_batch(batch=4)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(loaded) is SpecTokForPreTraining and loaded.config.objective == "contrastive"
    assert torch.equal(loaded(**batch).projection, model(**batch).projection)
    encoder, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(encoder(**batch).tokens, model(**batch).tokens)
    head, of_head = SpecTokForSpectrumClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert torch.equal(head.spectok(**batch).tokens, model(**batch).tokens)
    assert not info["unexpected_keys"] and not of_head["unexpected_keys"]
    assert all(name.startswith("head.") for name in of_head["missing_keys"])


def test_its_code_runs_without_this_package(tmp_path):
    model = make_contrastive(head_input="last_hidden_state")
    model.save_pretrained(tmp_path / "model")
    torch.save(make_batch(batch=4), tmp_path / "batch.pt")
    torch.save(model(**make_batch(batch=4)).projection, tmp_path / "expected.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['spectok_hf'] = None\n"  # as if it were not installed
        "from transformers import AutoModel, AutoModelForPreTraining\n"
        "model = AutoModelForPreTraining.from_pretrained('model', trust_remote_code=True)\n"
        "AutoModel.from_pretrained('model', trust_remote_code=True)\n"
        "found = model(**torch.load('batch.pt')).projection\n"
        "assert torch.equal(found, torch.load('expected.pt'))\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


# Training


def test_training_tells_objects_apart():
    spectra = simulate_survey("sdss", 24, seed=1)
    collator = DataCollatorForContrastiveSpectra(SpectrumProcessor())
    sizes = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128, "projection_dim": 32}
    torch.manual_seed(0)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", objective="contrastive", **sizes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.05, total_iters=20)
    losses, rng = [], np.random.default_rng(0)
    for _ in range(60):
        loss = model(**collator([spectra[row] for row in rng.permutation(24)[:12]])).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])
    projection, codes = project_views(model, collator, spectra)
    assert len(np.unique(codes)) == 24
    assert retrieval_accuracy(projection, codes) > 5 / 47  # five times chance


@pytest.mark.parametrize("head_type", ["attention", "linear"])
def test_a_new_model_tells_spectra_apart_and_a_loaded_one_is_not_made_anew(head_type, tmp_path):
    torch.manual_seed(0)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", objective="contrastive", head_type=head_type))
    for name, weight in model.contrastive_head.named_parameters():
        if name.endswith("weight") and "norm" not in name:
            assert weight.std().item() == pytest.approx(weight.shape[1] ** -0.5, rel=0.1), name
    model.save_pretrained(tmp_path)
    loaded = SpecTokForPreTraining.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())


def run_processes(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WORKER)]
    done = subprocess.run(
        [*command, str(folder), *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("compiled", ["", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_two_processes_have_the_loss_and_the_gradients_of_one(compiled, tmp_path):
    make_contrastive().save_pretrained(tmp_path)
    batch = in_float64(unseen(make_batch(batch=8), 5))
    batch |= {"object_codes": torch.tensor([3, 3, 1, 1, 3, 3, 2, 2])}
    torch.save(batch, tmp_path / "batch.pt")
    found = run_processes(tmp_path, compiled)
    model = SpecTokForPreTraining.from_pretrained(tmp_path).double().train()
    del batch["num_patches"]
    for step in found["steps"]:
        expected, gradients = loss_and_gradients(model, batch)
        torch.testing.assert_close(step["losses"], expected.loss.detach().expand(2), atol=1e-12, rtol=1e-12)
        assert step["gradients"].keys() == gradients.keys()
        largest = max(gradient.abs().max() for gradient in gradients.values())
        for name, gradient in gradients.items():
            torch.testing.assert_close(step["gradients"][name], gradient, atol=1e-10 * largest, rtol=0)
        batch.pop("object_codes", None)  # as the second step
    half = {name: values[:4] for name, values in batch.items()}
    torch.testing.assert_close(found["alone"], model.eval()(**half).loss.detach(), atol=1e-12, rtol=1e-12)
    assert "needs batches of one size on all processes, found [2, 4] spectra" in found["uneven"]


def test_tensor_parallel_training_is_refused():
    model = make_contrastive().train()
    model._tp_size = 2
    with pytest.raises(ValueError, match="found tensor parallelism over 2 that share theirs"):
        model(**make_batch(batch=4))
