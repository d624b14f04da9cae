"""Saved folders: complete whatever is saved, by whom, and how often; and nobody else's file is overwritten."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, Trainer, TrainingArguments, pipeline

from spectok_hf import (
    AutoModelForStellarRegression,
    OmniSpectraConfig,
    OmniSpectraForPreTraining,
    OmniSpectraForRedshift,
    OmniSpectraForSpectrumClassification,
    OmniSpectraForStellarRegression,
    OmniSpectraModel,
    OmniSpectraProcessor,
    SpecformerConfig,
    SpecformerForPreTraining,
    SpecformerForRedshift,
    SpecformerForSpectrumClassification,
    SpecformerForStellarRegression,
    SpecformerModel,
    SpecformerProcessor,
    SpecTokConfig,
    SpecTokForPreTraining,
    SpecTokForRedshift,
    SpecTokForSpectrumClassification,
    SpecTokForStellarRegression,
    SpecTokModel,
    SpectrumProcessor,
    simulate_survey,
)
from spectok_hf.data.dataset import SpectrumDataset
from spectok_hf.models.checkpoints import code_files, logger
from spectok_hf.models.modeling_omnispectra import OmniSpectraForSequenceClassification
from spectok_hf.models.modeling_specformer import SpecformerForSequenceClassification
from spectok_hf.models.modeling_spectok import SpecTokForSequenceClassification

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "wavelength_dim": 4,
    "target_names": ["teff"],
    "target_units": ["K"],
}
OF_SPECTOK = {"decoder_num_hidden_layers": 1, "wavelength_pooling": "mean"}
MODELS = {
    SpecTokModel: ["spectrum-embedding"],
    SpecTokForPreTraining: ["spectrum-embedding", "spectrum-reconstruction"],
    SpecTokForSpectrumClassification: ["spectrum-classification", "spectrum-embedding"],
    SpecTokForStellarRegression: ["spectrum-embedding", "stellar-parameters"],
    SpecTokForRedshift: ["spectrum-embedding", "spectrum-redshift"],
    OmniSpectraModel: ["spectrum-embedding"],
    OmniSpectraForPreTraining: ["spectrum-embedding", "spectrum-reconstruction"],
    OmniSpectraForSpectrumClassification: ["spectrum-classification", "spectrum-embedding"],
    OmniSpectraForStellarRegression: ["spectrum-embedding", "stellar-parameters"],
    OmniSpectraForRedshift: ["spectrum-embedding", "spectrum-redshift"],
    SpecformerModel: ["spectrum-embedding"],
    SpecformerForPreTraining: ["spectrum-embedding", "spectrum-reconstruction"],
    SpecformerForSpectrumClassification: ["spectrum-classification", "spectrum-embedding"],
    SpecformerForStellarRegression: ["spectrum-embedding", "stellar-parameters"],
    SpecformerForRedshift: ["spectrum-embedding", "spectrum-redshift"],
}
every_model = pytest.mark.parametrize("model_class", MODELS, ids=lambda model_class: model_class.__name__)
HEADS = {
    "SpecTok": SpecTokForStellarRegression,
    "OmniSpectra": OmniSpectraForStellarRegression,
    "Specformer": SpecformerForStellarRegression,
}
PROCESSORS = {"SpecTok": SpectrumProcessor, "OmniSpectra": OmniSpectraProcessor, "Specformer": SpecformerProcessor}
CONFIGS = {"SpecTok": SpecTokConfig, "OmniSpectra": OmniSpectraConfig, "Specformer": SpecformerConfig}
every_family = pytest.mark.parametrize("family", HEADS)
CODE = {family: {path.name for path in code_files(family.lower())} | {"requirements.txt"} for family in HEADS}


def family_of(model_class):
    return next((family for family in HEADS if model_class.__name__.startswith(family)), "SpecTok")


def make_config(family="SpecTok", **fields):
    return CONFIGS[family](**SIZES | (OF_SPECTOK if family == "SpecTok" else {}) | fields)


def make_model(model_class=SpecTokForPreTraining, **fields):
    torch.manual_seed(0)
    return model_class(make_config(family_of(model_class), **fields)).eval()


def check_complete(folder, model_class):
    """The files are there, parse, and name each other."""
    family = family_of(model_class)
    end, processor_class = family.lower(), PROCESSORS[family].__name__
    names = {path.name for path in folder.iterdir()}
    assert CODE[family] | {"config.json", "preprocessor_config.json", "model.safetensors"} <= names
    config = json.loads((folder / "config.json").read_text())
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": f"configuration_{end}.{family}Config",
        "AutoModel": f"modeling_{end}.{family}Model",
        "AutoModelForPreTraining": f"modeling_{end}.{family}ForPreTraining",
        "AutoModelForSequenceClassification": f"modeling_{end}.{family}ForSequenceClassification",
        "AutoFeatureExtractor": f"processing_{end}.{processor_class}",
        "AutoProcessor": f"processing_{end}.{processor_class}",
    }
    assert processor["auto_map"].items() <= config["auto_map"].items() and len(processor["auto_map"]) == 2
    assert sorted(config["custom_pipelines"]) == MODELS[model_class]
    for reference in [*config["auto_map"].values(), *(one["impl"] for one in config["custom_pipelines"].values())]:
        file, name = reference.split(".")
        assert re.search(rf"^(class {name}\(|    {name},$)", (folder / f"{file}.py").read_text(), re.MULTILINE)
    for path in folder.glob("*.py"):
        compile(path.read_text(), path, "exec")
    assert not list(folder.glob("pytorch_model*.bin")) and not list(folder.glob("*.pkl"))


@every_family
def test_misspelt_settings_of_a_loaded_processor_are_warned_about(family, tmp_path):
    for saved in (make_config(family), PROCESSORS[family]()):
        saved.save_pretrained(tmp_path)
    for kind in (AutoProcessor, PROCESSORS[family]):
        with pytest.warns(UserWarning, match=f"{PROCESSORS[family].__name__} does not know on_invald: check") as found:
            loaded = kind.from_pretrained(tmp_path, on_invald="skip", on_invalid="mask", local_files_only=True)
        assert loaded.on_invalid == "mask" and not hasattr(loaded, "on_invald")
        assert [warning.filename for warning in found] == [__file__]
    unused = PROCESSORS[family].from_pretrained(tmp_path, on_invald="skip", return_unused_kwargs=True)[1]
    assert unused == {"on_invald": "skip"}, "who asks for them is not warned"


def test_a_setting_that_an_older_file_does_not_hold_may_be_given(tmp_path):
    for saved in (make_config(), SpectrumProcessor()):
        saved.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    del settings["flux_unit"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert AutoProcessor.from_pretrained(tmp_path).flux_unit is None
    assert AutoProcessor.from_pretrained(tmp_path, flux_unit="counts").flux_unit == "counts"


def test_what_a_pipeline_gives_its_model_is_no_misspelt_setting(tmp_path):
    make_model(SpecTokModel).save_pretrained(tmp_path)
    pipeline("spectrum-embedding", model=str(tmp_path), model_kwargs={"attn_implementation": "eager"})


@every_model
def test_a_model_alone_saves_a_complete_folder(model_class, tmp_path):
    make_model(model_class).save_pretrained(tmp_path)
    check_complete(tmp_path, model_class)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_weights_may_be_read_by_whom_the_umask_lets(umask, mode, tmp_path):
    model = make_model()
    model.remember_processor(SpectrumProcessor())
    before = os.umask(umask)
    try:
        model.save_pretrained(tmp_path, max_shard_size="20KB")
    finally:
        os.umask(before)
    weights = sorted(tmp_path.glob("*.safetensors"))
    assert len(weights) > 1
    assert {path.stat().st_mode & 0o777 for path in (*weights, tmp_path / "config.json")} == {mode}


@every_model
def test_a_loaded_model_saves_a_complete_folder_again(model_class, tmp_path):
    model = make_model(model_class)
    model.remember_processor(PROCESSORS[family_of(model_class)](medium="air", gap_factor=None))
    model.save_pretrained(tmp_path / "first")
    loaded = model_class.from_pretrained(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    check_complete(tmp_path / "second", model_class)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("pretrained", "head", "encoder"),
    [
        (SpecTokForPreTraining, SpecTokForStellarRegression, SpecTokModel),
        (OmniSpectraForPreTraining, OmniSpectraForStellarRegression, OmniSpectraModel),
        (SpecformerForPreTraining, SpecformerForStellarRegression, SpecformerModel),
    ],
)
def test_a_head_on_a_pretrained_encoder_takes_its_processor_along(pretrained, head, encoder, tmp_path):
    model = make_model(pretrained)
    model.remember_processor(PROCESSORS[family_of(pretrained)](medium="air"))
    model.save_pretrained(tmp_path / "pretrained")
    AutoModelForStellarRegression.from_pretrained(tmp_path / "pretrained").save_pretrained(tmp_path / "head")
    check_complete(tmp_path / "head", head)
    assert AutoProcessor.from_pretrained(tmp_path / "head").medium == "air"
    AutoModel.from_pretrained(tmp_path / "head").save_pretrained(tmp_path / "encoder")
    check_complete(tmp_path / "encoder", encoder)
    assert AutoProcessor.from_pretrained(tmp_path / "encoder").medium == "air"


@every_family
def test_trainer_checkpoints_and_the_final_folder_are_complete(family, tmp_path):
    own_grid = {"resample": True} if family == "Specformer" else {}
    processor = PROCESSORS[family](medium="air", **own_grid)
    spectra = simulate_survey("desi" if own_grid else "lamost", 4, seed=0, kind="STAR")
    trainer = Trainer(
        make_model(HEADS[family], target_mean=5000.0, target_std=500.0),
        TrainingArguments(tmp_path, max_steps=2, save_steps=1, per_device_train_batch_size=2, disable_tqdm=True),
        train_dataset=SpectrumDataset(spectra, processor, labels=torch.full((4, 1), 5000.0)),
        processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path / "checkpoint-1", tmp_path / "checkpoint-2", tmp_path):
        check_complete(folder, HEADS[family])
        assert AutoProcessor.from_pretrained(folder).medium == "air"


@every_family
def test_config_and_processor_alone_bring_the_code(family, tmp_path):
    make_config(family).save_pretrained(tmp_path / "config")
    PROCESSORS[family]().save_pretrained(tmp_path / "processor")
    for folder, name in (("config", "config.json"), ("processor", "preprocessor_config.json")):
        assert {path.name for path in (tmp_path / folder).iterdir()} == CODE[family] | {name}


def test_a_pipeline_saves_a_complete_folder(tmp_path):
    model = make_model(SpecTokForRedshift)
    model.remember_processor(SpectrumProcessor())
    model.save_pretrained(tmp_path / "first")
    pipeline("spectrum-redshift", model=str(tmp_path / "first")).save_pretrained(tmp_path / "second")
    check_complete(tmp_path / "second", SpecTokForRedshift)


def test_a_new_model_says_that_it_does_not_know_its_processor(tmp_path, caplog):
    logger.warning_once.cache_clear()
    make_model().save_pretrained(tmp_path / "unknown")
    (said,) = caplog.messages
    assert "medium='vacuum'" in said and "remember_processor" in said
    known = make_model()
    known.remember_processor(SpectrumProcessor())
    known.save_pretrained(tmp_path / "known")
    AutoModelForPreTraining.from_pretrained(tmp_path / "known").save_pretrained(tmp_path / "again")
    assert len(caplog.messages) == 1


def test_a_processor_that_lies_there_is_kept_where_none_is_known(tmp_path):
    SpectrumProcessor(medium="air").save_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).medium == "air"


def test_the_processor_of_another_model_is_not_left_beside_the_weights(tmp_path):
    known = make_model()
    known.remember_processor(SpectrumProcessor(medium="air"))
    SpectrumProcessor(on_invalid="skip").save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"found medium='vacuum' \(of this model: 'air'\): save to another folder"):
        known.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    known.remember_processor(SpectrumProcessor())  # what drops a spectrum or raises is no property of the model
    known.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).on_invalid == "skip"


def test_a_folder_of_the_other_family_is_not_read_as_ones_own(tmp_path):
    make_model(OmniSpectraForPreTraining).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="needs the processor SpectrumProcessor, found OmniSpectraProcessor in"):
        make_model().save_pretrained(tmp_path)
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is OmniSpectraForPreTraining


def test_the_processor_of_another_family_is_refused_though_its_patches_fit():
    other = OmniSpectraProcessor(patch_size=make_model().config.patch_size, patch_overlap=0)
    with pytest.raises(ValueError, match="needs the processor SpectrumProcessor, found OmniSpectraProcessor"):
        make_model().remember_processor(other)


def test_a_processor_of_ones_own_is_taken_for_what_it_comes_from():
    mine = type("Mine", (OmniSpectraProcessor,), {"__module__": "processing_mine"})
    model = make_model(OmniSpectraForPreTraining)
    model.remember_processor(mine(medium="air"))
    assert model.own_processor().medium == "air"
    with pytest.raises(ValueError, match="needs the processor SpectrumProcessor, found OmniSpectraProcessor in Mine"):
        make_model().remember_processor(mine())


def test_the_encoder_inside_knows_the_processor_too(tmp_path):
    model = make_model(SpecTokForStellarRegression)
    model.remember_processor(SpectrumProcessor(medium="air"))
    model.save_pretrained(tmp_path / "head")
    model.spectok.save_pretrained(tmp_path / "new")
    SpecTokForStellarRegression.from_pretrained(tmp_path / "head").spectok.save_pretrained(tmp_path / "loaded")
    assert [AutoProcessor.from_pretrained(tmp_path / name).medium for name in ("new", "loaded")] == ["air", "air"]
    pipe = pipeline("spectrum-embedding", model=SpecTokForStellarRegression.from_pretrained(tmp_path / "head"))
    assert pipe.feature_extractor.medium == "air"


def test_without_a_processor_beside_the_weights_none_is_made_up(tmp_path, caplog):
    make_model().save_pretrained(tmp_path / "first")
    (tmp_path / "first" / "preprocessor_config.json").unlink()
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "first")
    caplog.clear()
    model.save_pretrained(tmp_path / "second")
    assert "no processor lay beside the loaded weights" in caplog.text
    assert not (tmp_path / "second" / "preprocessor_config.json").exists()
    with pytest.raises(ValueError, match="needs the processor of its model, found none"):
        pipeline("spectrum-reconstruction", model=model)
    (tmp_path / "first" / "preprocessor_config.json").write_text('{"medium": "a')
    with pytest.raises(ValueError, match="must hold the settings of a processor in JSON"):
        AutoModelForPreTraining.from_pretrained(tmp_path / "first")


def test_a_processor_of_another_patch_size_is_refused(tmp_path):
    SpectrumProcessor(patch_size=16).save_pretrained(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"patch_size=32, found patch_size=16 in .*preprocessor_config"):
        make_model().save_pretrained(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(
        ValueError, match="prepare spectra as the model reads them, patch_size=32, found patch_size=16"
    ):
        make_model().remember_processor(SpectrumProcessor(patch_size=16))


@pytest.mark.parametrize("save", ["model", "config", "processor"])
def test_somebody_elses_file_is_not_overwritten(save, tmp_path):
    (tmp_path / "heads.py").write_text("mine = True\n")
    (tmp_path / "requirements.txt").write_text("mine\n")
    owner = {"model": make_model, "config": make_config, "processor": SpectrumProcessor}[save]()
    with pytest.raises(FileExistsError, match=r"heads\.py would be overwritten .*save to another folder"):
        owner.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.py", "requirements.txt"]
    (tmp_path / "heads.py").unlink()
    owner.save_pretrained(tmp_path)
    owner.save_pretrained(tmp_path)  # over its own
    assert (tmp_path / "requirements.txt").read_text() == "mine\n"


@pytest.mark.parametrize("given", [((False,), {}), ((), {"is_main_process": False})])
def test_a_process_beside_the_main_one_writes_nothing(given, tmp_path):
    make_model().save_pretrained(tmp_path / "second", *given[0], **given[1])
    assert not list((tmp_path / "second").glob("*"))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for owner in (make_model(), make_config(), SpectrumProcessor()):
        with pytest.raises(NotADirectoryError, match=r"writes a folder, found the file .*file"):
            owner.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path):
    model = make_model()
    model.remember_processor(SpectrumProcessor())
    with ThreadPoolExecutor(4) as pool:
        for saved in [pool.submit(model.config.save_pretrained, tmp_path) for _ in range(40)]:
            saved.result()
    model.save_pretrained(tmp_path)
    check_complete(tmp_path, SpecTokForPreTraining)


class OwnHead(SpecTokForStellarRegression):
    """What a user derives from ours."""


class OwnProcessor(SpectrumProcessor):
    """What a user derives from ours."""


def test_classes_of_a_users_own_are_saved_with_the_code_of_ours(tmp_path, caplog):
    logger.warning_once.cache_clear()
    model = make_model(OwnHead)
    model.remember_processor(OwnProcessor())
    model.save_pretrained(tmp_path)
    assert "the code of OwnHead is not saved, only that of SpecTokForStellarRegression" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} >= CODE["SpecTok"]
    with pytest.raises(ValueError, match=r"must be of SpecTok.*found OwnHead, whose code is not here"):
        SpecTokForSequenceClassification.from_pretrained(tmp_path)
    OwnProcessor(medium="air").save_pretrained(tmp_path / "processor")
    assert json.loads((tmp_path / "processor" / "preprocessor_config.json").read_text())["auto_map"] == {
        "AutoFeatureExtractor": "processing_spectok.SpectrumProcessor",
        "AutoProcessor": "processing_spectok.SpectrumProcessor",
    }


ANY_HEAD = {
    "SpecTok": SpecTokForSequenceClassification,
    "OmniSpectra": OmniSpectraForSequenceClassification,
    "Specformer": SpecformerForSequenceClassification,
}
NO_HEAD = {
    SpecTokModel: SpecTokForSpectrumClassification,
    SpecTokForPreTraining: SpecTokForSpectrumClassification,
    OmniSpectraModel: OmniSpectraForSpectrumClassification,
    OmniSpectraForPreTraining: OmniSpectraForSpectrumClassification,
    SpecformerModel: SpecformerForSpectrumClassification,
    SpecformerForPreTraining: SpecformerForSpectrumClassification,
}


@every_model
def test_one_class_of_auto_map_becomes_whichever_head_was_saved(model_class, tmp_path):
    make_model(model_class).save_pretrained(tmp_path)
    any_head = ANY_HEAD[family_of(model_class)]
    found = any_head.from_pretrained(tmp_path)
    assert type(found) is type(any_head._from_config(found.config)) is NO_HEAD.get(model_class, model_class)


@every_family
def test_installed_pipelines_ask_for_no_trust(family, tmp_path):
    model = make_model(HEADS[family])
    model.remember_processor(PROCESSORS[family]())
    model.save_pretrained(tmp_path)
    for trust in ({}, {"trust_remote_code": True}):
        pipe = pipeline("stellar-parameters", model=str(tmp_path), **trust)
        assert type(pipe).__module__ == "spectok_hf.models.pipeline_spectok"
        assert type(pipe.model) is HEADS[family]


@pytest.mark.parametrize(
    ("saved", "task", "part"),
    [
        (SpecTokForPreTraining, "stellar-parameters", "head."),
        (SpecTokForPreTraining, "spectrum-redshift", "head."),
        (SpecTokForStellarRegression, "spectrum-classification", "head.classifier"),
        (SpecTokForStellarRegression, "spectrum-reconstruction", "decoder."),
        (SpecTokModel, "spectrum-reconstruction", "decoder."),
        (OmniSpectraForPreTraining, "stellar-parameters", "head."),
        (OmniSpectraForStellarRegression, "spectrum-reconstruction", "decoder."),
        (SpecformerForPreTraining, "spectrum-redshift", "head."),
        (SpecformerForStellarRegression, "spectrum-reconstruction", "decoder."),
    ],
)
def test_a_pipeline_refuses_a_model_of_which_a_part_is_new(saved, task, part, tmp_path):
    make_model(saved).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"the pipeline '{task}' needs a trained \w+, found .* without \d+ .*{part}"):
        pipeline(task, model=str(tmp_path))
