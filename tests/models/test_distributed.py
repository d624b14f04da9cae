"""The tensor-parallel and FSDP plans: two processes give what one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spectok_hf import (
    AstroClipModel,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpectrumProcessor,
    simulate_survey,
)

pytest.importorskip("transformers.distributed", reason="distributed_config came with Transformers 5.16")
from distributed_worker import training_batch
from test_modeling_astroclip import UNFROZEN, loss_and_gradients, make_clip, make_pairs, unseen
from test_packing import in_float64

FAMILIES = ("spectok", "omnispectra", "specformer")
WORKER = Path(__file__).with_name("distributed_worker.py")


def make_model(folder):
    torch.manual_seed(0)
    # Sinusoids of 32 pixels x 4 = the hidden size: added as they are, so that they can be compared.
    sizes = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1, "wavelength_dim": 4}
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", **sizes))
    model.save_pretrained(folder)
    return model


def make_omnispectra(folder):
    torch.manual_seed(0)
    model = OmniSpectraForPreTraining(OmniSpectraConfig.from_preset("tiny", num_hidden_layers=2))
    model.remember_processor(OmniSpectraProcessor())
    model.save_pretrained(folder)
    return model


def make_specformer(folder):
    torch.manual_seed(0)
    model = SpecformerForPreTraining(SpecformerConfig.from_preset("tiny", num_hidden_layers=2))
    model.save_pretrained(folder)
    return model


def run_two(folder, mode):
    """What two processes make of the model in a folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WORKER)]
    command += [str(folder), mode, str(folder / "results.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "results.pt")


@pytest.mark.slow
def test_wavelengths_stay_float32_under_mixed_precision(tmp_path):
    model = make_model(tmp_path)
    found = run_two(tmp_path, "mixed precision")
    inputs = SpectrumProcessor()(simulate_survey("apogee", 2), return_tensors="pt")
    assert (found["weights"], found["gradient"]) == ("torch.bfloat16", "torch.float32")
    # To the last bit: bfloat16 would be off by up to 64 Å.
    assert found["wavelength"].dtype == torch.float32
    real = torch.unique(inputs["wavelength"][inputs["pixel_mask"] > 0])
    assert torch.isin(real, found["wavelength"]).all()
    expected = model.spectok.embeddings.wavelength_embedding(found["wavelength"], torch.float64)
    assert found["embedding"].dtype == torch.bfloat16
    assert (found["embedding"].double() - expected).abs().max() < 4e-3  # half a step of bfloat16 at 1 is 3.9e-3
    assert found["loss"].item() == pytest.approx(model(**inputs).loss.item(), rel=0.02)
    # As accelerate would have it, the model refuses.
    assert "wavelength must be float32 or float64, found torch.bfloat16" in found["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_model, make_omnispectra, make_specformer], ids=FAMILIES)
@pytest.mark.parametrize("mode", ["tensor", "fsdp"])
def test_two_processes_equal_one(mode, make, tmp_path):
    model = make(tmp_path)
    found = run_two(tmp_path, mode)
    outputs = model.train()(**training_batch(model.config))
    outputs.loss.backward()
    torch.testing.assert_close(found.pop("loss"), outputs.loss.detach())
    torch.testing.assert_close(found.pop("tokens"), outputs.tokens.detach(), atol=1e-5, rtol=1e-4)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, gradients[name], atol=1e-3 * gradients[name].abs().max().item(), rtol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "vision", "fields"),
    [
        ("specformer", "vit", UNFROZEN | {"learn_logit_scale": True}),
        ("spectok", "resnet", {"freeze_spectrum_model": False}),  # whose batch statistics would be those of a process
        ("omnispectra", "dinov2", {"image_pooling": "linear"}),
    ],
)
def test_pairs_of_two_processes_have_the_loss_and_the_gradients_of_one(family, vision, fields, tmp_path):
    make_clip(family, vision, pooling_dropout=0.0, **fields).save_pretrained(tmp_path)
    batch = unseen(in_float64(make_pairs(family, batch=8)), 5)
    batch["object_codes"] = torch.tensor([3, 4, 1, 0, 3, 5, 2, 4])  # two objects have pairs on both processes
    torch.save(batch, tmp_path / "batch.pt")
    found = run_two(tmp_path, "pairs")
    model = AstroClipModel.from_pretrained(tmp_path).double().train()
    without = {name: values for name, values in batch.items() if name != "object_codes"}
    for steps, inputs in ((found["steps"][:2], batch), (found["steps"][2:], without)):
        expected, gradients = loss_and_gradients(model, inputs)
        largest = max(gradient.abs().max() for gradient in gradients.values()).item()
        for step in steps:  # with DistributedDataParallel, and without
            torch.testing.assert_close(step["losses"], expected.loss.detach().expand(2), atol=1e-10, rtol=1e-10)
            assert step["gradients"].keys() == gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(step["gradients"][name], gradient, atol=1e-9 * largest, rtol=0, msg=name)
    half = {name: values[:4] for name, values in without.items()}
    torch.testing.assert_close(found["alone"], model.eval()(**half, return_loss=True).loss.detach())
    assert "batches of one size on all processes, found [1, 4]" in found["uneven"]
