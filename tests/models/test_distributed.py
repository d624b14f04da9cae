"""The tensor-parallel and FSDP plans: two processes give what one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spectok_hf import SpecTokConfig, SpecTokForPreTraining, SpectrumProcessor, simulate_survey

pytest.importorskip("transformers.distributed", reason="distributed_config came with Transformers 5.16")
WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["tensor", "fsdp"])
def test_two_processes_equal_one(mode, tmp_path):
    torch.manual_seed(0)
    model = SpecTokForPreTraining(SpecTokConfig.from_preset("tiny", num_hidden_layers=1, decoder_num_hidden_layers=1))
    model.save_pretrained(tmp_path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(WORKER)]
    command += [str(tmp_path), mode, str(tmp_path / "results.pt")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "results.pt")
    outputs = model.train()(**SpectrumProcessor()(simulate_survey("sdss", 2), return_tensors="pt"))
    outputs.loss.backward()
    torch.testing.assert_close(found.pop("loss"), outputs.loss.detach())
    torch.testing.assert_close(found.pop("tokens"), outputs.tokens.detach(), atol=1e-5, rtol=1e-4)
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, gradients[name], atol=1e-3 * gradients[name].abs().max().item(), rtol=1e-3
        )
