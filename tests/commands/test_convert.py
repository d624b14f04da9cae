"""spectok convert; what it makes of checkpoints is tested in tests/hub/test_convert_astroclip.py."""

import pytest
from lightning_checkpoints import save_checkpoint, specformer_weights
from typer.testing import CliRunner

from spectok_hf import SpecformerForPreTraining
from spectok_hf.cli import app


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(map(str, arguments)))


def test_a_public_checkpoint_becomes_a_folder(tmp_path):
    weights = specformer_weights(width=128)
    file, folder = save_checkpoint(tmp_path / "public.ckpt", weights, num_heads=4), tmp_path / "below" / "model"
    result = run("convert", "astroclip", file, folder)
    assert result.exit_code == 0 and result.stderr == "", result.output
    millions = sum(value.numel() for value in weights.values()) / 1e6
    assert result.stdout == (
        f"wrote {folder}: SpecformerForPreTraining, {millions:.1f} M parameters\n"
        f'load it: SpecformerForPreTraining.from_pretrained("{folder}")\n'
    )
    model = SpecformerForPreTraining.from_pretrained(folder)
    assert model.config.num_attention_heads == 4
    assert (model.decoder.weight == weights["head.weight"]).all()
    again = run("convert", "astroclip", file, folder)
    assert again.exit_code == 1 and "must be empty or absent" in again.stderr and again.stderr.count("\n") == 1


@pytest.mark.filterwarnings("always:the file does not say")
def test_what_is_assumed_is_said_in_one_line(tmp_path):
    file = save_checkpoint(tmp_path / "public.ckpt", specformer_weights(width=128))
    result = run("convert", "astroclip", file, tmp_path / "model")
    assert result.exit_code == 0 and result.stdout.startswith("wrote ")
    assert result.stderr.startswith("warning: the file does not say how many attention heads there are")
    assert result.stderr.count("\n") == 1


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "page.ckpt").write_text("<html>not here</html>")
    result = run("convert", "astroclip", tmp_path / "page.ckpt", tmp_path / "model")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.startswith("spectok: ") and "a web page: fetch the file itself" in result.stderr
    result = run("convert", "astroclip", tmp_path / "none.ckpt", tmp_path / "model")
    assert result.exit_code == 1 and "none.ckpt" in result.stderr and result.stderr.count("\n") == 1
    result = run("convert", "spender", tmp_path / "page.ckpt", tmp_path / "model")
    assert result.exit_code == 2 and "astroclip" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["page.ckpt"]
