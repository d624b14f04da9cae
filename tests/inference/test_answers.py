"""What models say of packed batches, and where checkpoints lie."""

import numpy as np
import pytest
import torch

from spectok_hf import (
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpectrumEncoder,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.inference.answers import (
    HEAD_ANSWERS,
    EmbeddingAnswers,
    config_digest,
    has_head,
    head_place,
    load_answers,
    load_head,
    place_of,
    weights_digest,
)
from spectok_hf.shipped import checkpoint_path

SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "decoder_num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
CLASSES = {0: "blue", 1: "red"}
MODELS = {
    "classification": (SpecTokForSpectrumClassification, {"id2label": CLASSES, "label2id": {"blue": 0, "red": 1}}),
    "stellar-parameters": (
        SpecTokForStellarRegression,
        {"target_names": ["teff", "mine"], "target_units": ["K", ""]},
    ),
    "redshift": (SpecTokForRedshift, {}),
}
SPECTRA = simulate_survey("gaia_xp", 3, seed=921) + simulate_survey("sdss", 1, seed=921)


def make(head, seed=0):
    torch.manual_seed(seed)
    kind, settings = MODELS[head]
    return kind(SpecTokConfig(**SIZE, **settings)).eval()


@pytest.mark.parametrize("head", list(MODELS))
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_row_is_what_the_model_says_of_a_spectrum_alone(batch_size, head):
    model, processor = make(head), SpectrumProcessor()
    encoder = SpectrumEncoder(model, processor, device="cpu")
    method = {"classification": encoder.classify, "stellar-parameters": encoder.predict, "redshift": encoder.redshift}
    for row, spectrum in zip(method[head](SPECTRA, batch_size=batch_size), SPECTRA, strict=True):
        with torch.no_grad():
            outputs = model(**processor(spectrum, return_tensors="pt"))
        if head == "classification":
            chances = outputs.logits[0].double().softmax(-1).tolist()
            expected = {"p_blue": chances[0], "p_red": chances[1], "confidence": max(chances)}
            assert row["class"] == CLASSES[int(np.argmax(chances))]
        elif head == "stellar-parameters":
            expected = dict(zip(("teff", "mine"), outputs.predictions[0].tolist(), strict=True))
            if outputs.get("uncertainties") is not None:
                expected |= dict(zip(("teff_error", "mine_error"), outputs.uncertainties[0].tolist(), strict=True))
        else:
            expected = {"redshift": float(outputs.redshift), "redshift_error": float(outputs.uncertainty)}
            assert row["zwarn"] == int(outputs.zwarn)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert set(row) == {"object_id", "outside", *HEAD_ANSWERS[head](model, processor).columns()}


def test_columns_know_their_units():
    answers = HEAD_ANSWERS["stellar-parameters"](make("stellar-parameters"), SpectrumProcessor())
    assert answers.units == {"teff": "K", "teff_error": "K", "mine": "", "mine_error": ""}


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"RedshiftAnswers needs a model .*ForRedshift, found SpecTokForSpectrum"):
        HEAD_ANSWERS["redshift"](make("classification"), SpectrumProcessor())


@pytest.mark.parametrize("head", [*MODELS, ""])
def test_answers_that_are_no_numbers_raise(head):
    """NaN stands for spectra that were not read, and the largest of NaNs is the first class."""
    model = make(head) if head else SpecTokForPreTraining(SpecTokConfig(**SIZE))
    with torch.no_grad():
        next(iter(model.base_model.layers)).mlp.fc1.weight.fill_(torch.nan)
    encoder = SpectrumEncoder(model, SpectrumProcessor(), device="cpu")
    ask = {"classification": encoder.classify, "stellar-parameters": encoder.predict, "redshift": encoder.redshift}
    for call in (encoder.encode, ask.get(head, encoder.reconstruct)):
        with pytest.raises(ValueError, match=r"must be finite, found .* that are not, in float32"):
            call(simulate_survey("gaia_xp", 2, seed=905))


# Where checkpoints lie ----------------------------------------------------------------------------


def test_names_of_checkpoints(tmp_path, monkeypatch):
    shipped = checkpoint_path("spectok-tiny")
    assert place_of("spectok-tiny") == (str(shipped), {})
    assert place_of("spectok-tiny/redshift") == (str(shipped / "redshift"), {})
    assert place_of("org/name") == ("org/name", {})
    assert place_of("org/name@v2") == ("org/name", {"revision": "v2"})
    assert place_of("org/name/redshift") == ("org/name", {"subfolder": "redshift"})
    assert place_of(tmp_path) == (str(tmp_path), {})
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert place_of("~/mine") == (str(tmp_path / "mine"), {})
    assert head_place("org/name@v2", "redshift") == ("org/name", {"revision": "v2", "subfolder": "redshift"})
    assert head_place("spectok-tiny", "redshift") == (str(shipped / "redshift"), {})


def test_a_folder_goes_before_what_is_shipped_only_where_it_holds_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spectok-tiny").mkdir()
    (tmp_path / "spectok-tiny" / "table.parquet").write_text("")
    assert place_of("spectok-tiny") == (str(checkpoint_path("spectok-tiny")), {})
    SpecTokForPreTraining(SpecTokConfig(**SIZE)).save_pretrained(tmp_path / "spectok-tiny")
    assert place_of("spectok-tiny") == ("spectok-tiny", {})


def test_heads_in_the_folder_of_a_checkpoint(tmp_path):
    SpecTokForPreTraining(SpecTokConfig(**SIZE)).save_pretrained(tmp_path)
    make("classification").save_pretrained(tmp_path / "classification")
    for folder in (tmp_path, tmp_path / "classification"):
        SpectrumProcessor().save_pretrained(folder)
        assert [head for head in MODELS if has_head(folder, head)] == ["classification"]
        assert type(load_head(folder, "classification")[0]) is SpecTokForSpectrumClassification
        with pytest.raises(
            ValueError, match=r"has no head for redshift in its folder redshift/.*finetune_redshift\.py"
        ):
            load_head(folder, "redshift")
    assert SpectrumEncoder.from_pretrained(tmp_path).heads == ["classification"]
    assert not has_head("nobody/nothing", "redshift")
    with pytest.raises(OSError, match="no checkpoint nobody/nothing can be loaded: pass a folder"):
        load_head("nobody/nothing", "redshift")


def test_tasks_load_what_answers_them():
    assert type(load_answers("encode", "spectok-tiny/redshift")) is EmbeddingAnswers
    for task, ending in (
        ("reconstruct", "ForPreTraining"),
        ("redshift", "ForRedshift"),
        ("classify", "Classification"),
    ):
        assert type(load_answers(task, "spectok-tiny").model).__name__.endswith(ending)
    with pytest.raises(
        ValueError, match=r"ReconstructionAnswers needs a model \.\.\.ForPreTraining.*: load the autoencoder"
    ):
        load_answers("reconstruct", "spectok-tiny/redshift")


def test_digests_tell_weights_and_settings_apart():
    models = [make("redshift", seed) for seed in (0, 0, 1)]
    digests = [weights_digest(model) for model in models]
    assert digests[0] == digests[1] != digests[2]
    config, other = SpecTokConfig(**SIZE), SpecTokConfig(**SIZE | {"num_attention_heads": 4})
    told = SpecTokConfig(**SIZE, training_domain={"sdss": {}})
    assert config_digest(config) == config_digest(told) != config_digest(other)


def test_mixed_precision_is_near():
    pytest.importorskip("pyarrow")
    encoder = SpectrumEncoder.from_pretrained("spectok-tiny", device="cpu")
    answers = load_answers("encode", "spectok-tiny", dtype="bfloat16")
    exact = encoder.encode(SPECTRA)
    found = np.stack([row["embedding"] for row in encoder._ask(answers, SPECTRA)])
    assert found.dtype == np.float32 and 0 < np.abs(found - exact).max() < 0.2
