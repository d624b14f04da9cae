"""Public Lightning checkpoints: what is converted gives what plain forward passes of the public keys give."""

import os
import warnings

import numpy as np
import pytest
import torch
from lightning_checkpoints import (
    GRID,
    astroclip_forward,
    astroclip_weights,
    save_checkpoint,
    specformer_forward,
    specformer_weights,
)
from safetensors.torch import load_file, save_file

from spectok_hf import AstroClipModel, AstroClipProcessor, SpecformerForPreTraining, SpecformerProcessor, Spectrum
from spectok_hf.hub.convert_astroclip import convert_astroclip

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SETTINGS = {
    "input_dim": 22,
    "embed_dim": 64,
    "num_layers": 2,
    "num_heads": 4,
    "max_len": 800,
    "mask_num_chunks": 5,
    "mask_chunk_width": 40,
    "slice_section_length": 20,
    "slice_overlap": 10,
    "dropout": 0.1,
    "_instantiator": "lightning.pytorch.cli.instantiate_module",
}


def raw_spectra(count=3, seed=0):
    """Raw flux on DESI's grid, shape (count, 7781), as float32: lines over a slope; the last hardly varies."""
    random = np.random.default_rng(seed)
    x = np.linspace(-1, 1, len(GRID))
    flux = [
        random.uniform(1, 8)
        * (1 + random.uniform(-0.5, 0.5) * x + np.exp(-(((x - random.uniform(-1, 1)) / 0.01) ** 2)))
        + random.normal(0, 0.5, len(x))
        for _ in range(count - 1)
    ]
    flux.append(0.4 + random.normal(0, 0.05, len(x)))
    return torch.tensor(np.array(flux), dtype=torch.float32)


def as_spectra(flux):
    return [
        Spectrum(flux=row, wavelength=GRID.numpy(), ivar=np.ones(len(row)), object_id=str(number), survey="desi")
        for number, row in enumerate(flux.numpy())
    ]


@pytest.fixture
def specformer(tmp_path):
    weights = specformer_weights()
    return weights, save_checkpoint(tmp_path / "specformer.ckpt", weights, **SETTINGS)


def test_specformer_gives_what_the_public_equations_give(specformer, tmp_path):
    weights, file = specformer
    model = convert_astroclip(file, tmp_path / "model")
    loaded = SpecformerForPreTraining.from_pretrained(tmp_path / "model")
    processor = SpecformerProcessor.from_pretrained(tmp_path / "model")
    flux = raw_spectra()
    states, reconstruction = specformer_forward(weights, flux, heads=4)
    assert states.shape == (3, 778, 64)
    inputs = processor(as_spectra(flux), return_tensors="pt")
    with torch.no_grad():
        found = loaded(**inputs)
        encoded = loaded.encode(**inputs)
        again = model(**inputs).tokens
    torch.testing.assert_close(encoded.tokens, states[:, 1:], **CLOSE)
    torch.testing.assert_close(encoded.statistics_token, states[:, 0], **CLOSE)
    torch.testing.assert_close(found.token_predictions, reconstruction[:, 1:], **CLOSE)
    torch.testing.assert_close(found.reconstruction, reconstruction[:, 1:, 2:], **CLOSE)
    assert torch.equal(again, found.tokens) and not model.training
    # The comparison can fail: what the weights mean shows in it.
    wrong = specformer_forward(weights, flux, heads=2)[0]
    assert not torch.allclose(wrong[:, 1:], encoded.tokens, **CLOSE)


def test_a_converted_config_is_that_of_the_file(specformer, tmp_path):
    config = convert_astroclip(specformer[1], tmp_path / "model").config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 4)
    assert (config.intermediate_size, config.max_position_embeddings) == (96, 800)
    assert (config.num_chunks, config.chunk_length, config.hidden_dropout_prob) == (5, 40, 0.1)
    assert (config.patch_size, config.patch_overlap) == (20, 10)


def test_the_public_sizes_are_those_of_the_paper(tmp_path):
    """All 79 keys, of which shapes alone tell the sizes, and the heads that only the file can tell are assumed."""
    weights = specformer_weights(width=128, layers=6, wide=512)
    assert len(weights) == 79
    with pytest.warns(UserWarning, match="does not say how many attention heads there are: taken as 1, of 128"):
        model = convert_astroclip(save_checkpoint(tmp_path / "plain.ckpt", weights), tmp_path / "model")
    assert model.num_parameters() == sum(value.numel() for value in weights.values())
    assert (model.config.num_chunks, model.config.chunk_length) == (6, 50)
    flux = raw_spectra(2)
    with torch.no_grad():
        tokens = model(**SpecformerProcessor()(as_spectra(flux), return_tensors="pt")).tokens
    torch.testing.assert_close(tokens, specformer_forward(weights, flux, heads=1)[0][:, 1:], **CLOSE)


def test_heads_that_neither_file_nor_width_tell_are_not_guessed(tmp_path):
    file = save_checkpoint(tmp_path / "narrow.ckpt", specformer_weights())
    refused(file, tmp_path, r"Specformer of 64 channels must have num_heads in the file's hyper_parameters")


@pytest.mark.parametrize("image_residual", [False, True])
def test_astroclip_gives_what_the_public_equations_give(image_residual, tmp_path):
    weights = astroclip_weights()
    file = save_checkpoint(tmp_path / "astroclip.ckpt", weights, temperature=12.0, lr=1e-4)
    with pytest.warns(UserWarning, match="128 channels each in Specformer, 64 in DINOv2, and 4 heads in the poolings"):
        convert_astroclip(file, tmp_path / "model", image_residual=image_residual)
    model = AstroClipModel.from_pretrained(tmp_path / "model").eval()
    processor = AstroClipProcessor.from_pretrained(tmp_path / "model")
    assert processor.image_size == model.config.vision_config.image_size == 36
    flux, images = raw_spectra(4), torch.rand(4, 3, 36, 36, generator=torch.Generator().manual_seed(1))
    inputs = processor(as_spectra(flux), return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs, pixel_values=images, return_loss=True)
    spectra, pictures, loss = astroclip_forward(weights, flux, images, 12.0, image_residual)
    torch.testing.assert_close(found.spectrum_embeds, spectra, **CLOSE)
    torch.testing.assert_close(found.image_embeds, pictures, **CLOSE)
    torch.testing.assert_close(found.loss, loss, **CLOSE)
    torch.testing.assert_close(found.logits_per_image, 12.0 * pictures @ spectra.T, rtol=1e-4, atol=1e-4)
    other = astroclip_forward(weights, flux, images, 12.0, not image_residual)[1]
    assert not torch.allclose(other, found.image_embeds, **CLOSE)


@pytest.mark.filterwarnings("ignore:the file does not say how many attention heads")
def test_chunks_of_blocks_and_one_matrix_of_queries_are_the_public_ones(tmp_path):
    """All 446 keys; the image's width is that of the embeddings, so that torch keeps one matrix."""
    weights = astroclip_weights(width=128, vision_width=64, size=64, layers=6, vision_layers=24, chunks=4)
    assert len(weights) == 446
    assert "image_encoder.backbone.blocks.1.6.norm1.weight" in weights
    model = convert_astroclip(save_checkpoint(tmp_path / "astroclip.ckpt", weights), tmp_path / "model")
    decoder = weights["spectrum_encoder.backbone.head.weight"].numel() + 22
    assert model.num_parameters() == sum(value.numel() for value in weights.values()) - decoder
    flux, images = raw_spectra(2), torch.rand(2, 3, 36, 36, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(**SpecformerProcessor()(as_spectra(flux), return_tensors="pt"), pixel_values=images)
    spectra, pictures, _ = astroclip_forward(weights, flux, images)
    torch.testing.assert_close(found.spectrum_embeds, spectra, **CLOSE)
    torch.testing.assert_close(found.image_embeds, pictures, **CLOSE)


@pytest.mark.filterwarnings("ignore:the file does not say how many attention heads")
def test_a_learned_logit_scale_is_kept(tmp_path):
    weights = astroclip_weights()
    weights["logit_scale"] = torch.tensor(9.0).log()
    convert_astroclip(save_checkpoint(tmp_path / "astroclip.ckpt", weights), tmp_path / "model")
    model = AstroClipModel.from_pretrained(tmp_path / "model").eval()
    assert model.config.learn_logit_scale
    flux, images = raw_spectra(2), torch.rand(2, 3, 36, 36, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model(
            **SpecformerProcessor()(as_spectra(flux), return_tensors="pt"), pixel_values=images, return_loss=True
        )
    torch.testing.assert_close(found.loss, astroclip_forward(weights, flux, images, 9.0)[2], **CLOSE)


@pytest.mark.filterwarnings("ignore:the file does not say how many attention heads")
def test_saved_names_are_those_that_every_version_of_transformers_reads(tmp_path):
    convert_astroclip(save_checkpoint(tmp_path / "a.ckpt", astroclip_weights()), tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert "vision_model.encoder.layer.0.attention.attention.query.weight" in names
    assert not [name for name in names if "vision_model" in name and "q_proj" in name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_become_float32(dtype, specformer, tmp_path):
    weights = {key: value.to(dtype) for key, value in specformer[0].items()}
    file = save_checkpoint(tmp_path / "other.ckpt", weights, **SETTINGS)
    if dtype == torch.float64:
        with pytest.warns(UserWarning, match="float64 are rounded to float32"):
            model = convert_astroclip(file, tmp_path / "model")
    else:
        model = convert_astroclip(file, tmp_path / "model")
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(model.decoder.weight.data, weights["head.weight"].float(), rtol=0, atol=0)


# What is not converted ------------------------------------------------------------------------------


def refused(file, tmp_path, message):
    """The error says so, and nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        warnings.simplefilter("ignore")
        convert_astroclip(file, tmp_path / "below" / "model")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "found a web page: fetch the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "found a pointer of Git LFS"),
        (b"SIMPLE  =                    T", r"found a file that begins with b'SIMPLE  =   ': pass the \.ckpt"),
        (b"", r"found a file that begins with b''"),
    ],
)
def test_other_files_are_named_for_what_they_are(content, message, tmp_path):
    (tmp_path / "file.ckpt").write_bytes(content)
    refused(tmp_path / "file.ckpt", tmp_path, message)


def test_a_safetensors_file_is_no_lightning_checkpoint(tmp_path):
    save_file(dict(specformer_weights()), tmp_path / "model.safetensors")
    refused(tmp_path / "model.safetensors", tmp_path, "found a safetensors file: .* from_pretrained")


def test_a_part_of_a_file_is_not_read(specformer, tmp_path):
    content = specformer[1].read_bytes()
    specformer[1].write_bytes(content[: len(content) // 2])
    refused(specformer[1], tmp_path, "found the beginning of one only: fetch it again")


def test_a_damaged_file_is_not_read(specformer, tmp_path):
    content = bytearray(specformer[1].read_bytes())
    start = content.index(b"data.pkl")
    content[start + 100 : start + 400] = bytes(300)
    specformer[1].write_bytes(content)
    refused(specformer[1], tmp_path, "cannot be read as a Lightning checkpoint .*: fetch it again")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Encoder(torch.nn.Module):
    """Of the code behind a checkpoint: Lightning saved such objects with AstroCLIP."""


def test_code_in_a_file_is_not_run(tmp_path):
    weights, mark = specformer_weights(), tmp_path / "mark"
    file = save_checkpoint(tmp_path / "evil.ckpt", weights, num_heads=4, more=Payload(mark))
    refused(file, tmp_path, r"found objects that only code can make \(posix\.system\), which would run")
    torch.save(Payload(mark), file, _use_new_zipfile_serialization=False)
    refused(file, tmp_path, "must be a Lightning checkpoint, a zip file of torch.save, found a file that begins with")
    assert not mark.exists()
    torch.load(save_checkpoint(file, weights, more=Payload(mark)), weights_only=False)
    assert mark.exists()  # it would have


def test_objects_of_the_public_code_are_refused_with_a_way_out(tmp_path):
    weights = specformer_weights()
    file = save_checkpoint(tmp_path / "full.ckpt", weights, spectrum_encoder=Encoder(), **SETTINGS)
    with pytest.raises(ValueError, match=r"objects that only code can make \(.*Encoder.*") as error:
        convert_astroclip(file, tmp_path / "model")
    command = str(error.value).split("python -c '")[1].split("',")[0].replace("FILE", str(file))
    command = command.replace('"stripped.ckpt"', f'"{tmp_path / "stripped.ckpt"}"')
    exec(command)  # which its user runs where the code is installed, as it is here
    model = convert_astroclip(tmp_path / "stripped.ckpt", tmp_path / "model")
    assert model.config.num_attention_heads == 4 and model.config.chunk_length == 40


@pytest.mark.parametrize("make", [specformer_weights, astroclip_weights])
def test_every_key_must_be_there_once_and_fit(make, tmp_path):
    settings = SETTINGS if make is specformer_weights else {}
    key = next(key for key in make() if key.endswith("blocks.0.mlp.decoder.weight"))
    name = key.replace(".", r"\.")

    def check(weights, message):
        refused(save_checkpoint(tmp_path / "file.ckpt", weights, **settings), tmp_path, message)

    weights = make()
    shape = tuple(weights.pop(key).shape)
    check(weights, rf"found that 1 are missing: {name}: pass one")
    check(make() | {"more.weight": torch.zeros(2)}, r"found that 1 belong to nothing: more\.weight: pass one")
    check(make() | {key: torch.zeros(shape[1], shape[0])}, rf"1 have another shape: {name} \(\d+, \d+\), which must")
    check(make() | {key: torch.zeros(shape, dtype=torch.long)}, rf"tensors only, found {name} \(torch\.int64\)")
    # A block that is not there cannot pass for a shallower model, nor one that is more for nothing.
    check({name: value for name, value in make().items() if "blocks.0." not in name}, "must hold .*blocks.0.mlp")
    more = {name.replace("blocks.1.", "blocks.3."): value for name, value in make().items()}
    check(make() | more, r"are missing: .*blocks\.2\.|num_layers=2 \(4\)")


@pytest.mark.parametrize("end", ["backbone.pos_embed", "backbone.norm.weight", "mlp.decoder.bias"])
def test_half_of_astroclip_is_refused(end, tmp_path):
    weights = astroclip_weights()
    for key in [key for key in weights if key.endswith(end)]:
        del weights[key]
    refused(save_checkpoint(tmp_path / "file.ckpt", weights), tmp_path, end.replace(".", r"\."))
    only = {key: value for key, value in astroclip_weights().items() if key.startswith("spectrum_encoder.")}
    refused(save_checkpoint(tmp_path / "file.ckpt", only), tmp_path, r"must hold image_encoder\.backbone\.")


def test_the_same_block_in_two_chunks_is_refused(tmp_path):
    weights = astroclip_weights(vision_layers=4, chunks=2)
    prefix = "image_encoder.backbone.blocks."
    twice = {key.replace(f"{prefix}0.", f"{prefix}1."): value for key, value in weights.items()}
    file = save_checkpoint(tmp_path / "file.ckpt", weights | twice)
    refused(file, tmp_path, r"each block must be in one chunk, found in several: image_encoder\.backbone\.blocks\.0\.")


def test_settings_must_be_those_of_the_weights(tmp_path):
    file = save_checkpoint(tmp_path / "file.ckpt", specformer_weights(), **SETTINGS | {"embed_dim": 768})
    refused(file, tmp_path, r"must be those of the weights \(in brackets\), found embed_dim=768 \(64\)")
    file = save_checkpoint(file, specformer_weights(), **SETTINGS | {"num_heads": 5})
    refused(file, tmp_path, "must fit each other: .* multiple of num_attention_heads, found 64 and 5$")


def test_checkpoints_of_something_else_are_refused(tmp_path):
    file = save_checkpoint(tmp_path / "file.ckpt", {"encoder.conv.weight": torch.zeros(2, 2)})
    refused(file, tmp_path, r"must hold Specformer \(data_embed\.weight, .*found encoder\.conv\.weight")
    torch.save({"model": {"a": torch.zeros(2)}}, file)
    refused(file, tmp_path, "with its weights under state_dict, found a mapping of model")
    torch.save([torch.zeros(2)], file)
    refused(file, tmp_path, "with its weights under state_dict, found list")


def test_a_folder_that_holds_anything_is_left_alone(specformer, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"must be empty or absent, found notes\.txt in it"):
        convert_astroclip(specformer[1], folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    with pytest.raises(FileExistsError, match="must be a folder, found a file"):
        convert_astroclip(specformer[1], folder / "notes.txt")
    with pytest.raises(FileNotFoundError):
        convert_astroclip(tmp_path / "none.ckpt", tmp_path / "new")
    (folder / "notes.txt").unlink()
    convert_astroclip(specformer[1], folder)
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_specformer.py"} <= {
        path.name for path in folder.iterdir()
    }
    assert not [path for path in folder.iterdir() if path.is_dir()]


def test_what_cannot_be_saved_leaves_nothing(specformer, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(SpecformerForPreTraining, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        convert_astroclip(specformer[1], tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["specformer.ckpt"]
