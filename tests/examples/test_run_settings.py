"""What the training scripts share: which options they take, and which run they go on with."""

import json
import shutil

import pretrain
import pytest
from resumable_trainer import check_readable
from run_settings import check_fields, read_fields
from test_pretrain_distributed import MODEL

from spectok_hf import SpecTokConfig

OPTIONS = [
    *("--config_overrides", json.dumps(MODEL), "--simulate", "sdss", "--num_simulated", "11", "--max_steps", "2"),
    *("--per_device_train_batch_size", "2", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none"),
    *("--disable_tqdm", "true", "--use_cpu", "true"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run of two steps that was cut off before its report."""
    output = tmp_path_factory.mktemp("begun") / "run"
    pretrain.main([*OPTIONS, "--output_dir", str(output)])
    (output / "report.md").unlink()
    return output


@pytest.fixture
def run(begun, tmp_path):
    """A copy of it, and how it goes on."""
    output = tmp_path / "run"
    shutil.copytree(begun, output)
    return output, [*OPTIONS, "--output_dir", str(output)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--max_eval", "3"], "data.max_eval: None -> 3"),
        (["--learning_rate", "1e-3"], "optimizer.learning_rate: 5e-05 -> 0.001"),
        (["--lr_scheduler_type", "cosine"], "optimizer.lr_scheduler_type: 'linear' -> 'cosine'"),
        (["--warmup_steps", "1"], "optimizer.warmup_steps: 0 -> 1"),
        (["--weight_decay", "0.1"], "optimizer.weight_decay: 0.0 -> 0.1"),
        (["--preset", "small", "--seed", "7"], "model.preset: 'tiny' -> 'small'; seed: 42 -> 7"),
    ],
)
def test_what_differs_from_the_run_that_is_there_is_named(options, found, run):
    _, again = run
    with pytest.raises(FileExistsError) as caught:
        pretrain.main([*again, *options])
    assert f"holds a run with other settings (see run.json: {found}" in str(caught.value)


def test_a_run_described_before_more_was_compared_goes_on(run):
    output, again = run
    described = json.loads((output / "run.json").read_text())
    del described["optimizer"], described["data"]["verify_shards"]
    (output / "run.json").write_text(json.dumps(described))
    trainer, _ = pretrain.main([*again, "--verify_shards", "true"])
    assert trainer.state.global_step == 2 and (output / "report.md").exists()
    assert json.loads((output / "run.json").read_text())["optimizer"]["learning_rate"] == 5e-5


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_file_of_a_checkpoint_that_was_cut_short_is_named_and_the_one_before_counts(name, run):
    output, again = run
    path = output / "checkpoint-2" / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"{path} is damaged \(.*\): delete {path.parent}, and the"):
        pretrain.main(again)
    check_readable(output / "checkpoint-1")
    shutil.rmtree(path.parent)
    trainer, _ = pretrain.main(again)
    assert trainer.state.global_step == 2


@pytest.mark.parametrize("value", ['{"teff": "TEFF"}', "{teff: TEFF}", "teff: TEFF", {"teff": "TEFF"}])
def test_fields_may_be_json_or_yaml(value):
    assert read_fields("label_columns", value) == {"teff": "TEFF"}


def test_numbers_of_json_are_numbers():
    assert read_fields("config_overrides", '{"layer_norm_eps": 1e-6}') == {"layer_norm_eps": 1e-6}


@pytest.mark.parametrize("value", ["teff", "[teff]", "{teff: ", "", ["teff"]])
def test_an_option_that_holds_no_fields_is_named(value):
    with pytest.raises(ValueError, match=r"--label_columns must be fields and their values as JSON or YAML, .* found"):
        read_fields("label_columns", value)


def test_a_field_that_the_config_does_not_have_is_refused_before_anything_is_trained(tmp_path):
    overrides = json.dumps(MODEL | {"hiden_size": 3, "qqqq": 1})
    message = r"--config_overrides must hold fields of SpecTokConfig, found hiden_size \(hidden_size\?\), qqqq"
    with pytest.raises(ValueError, match=message):
        pretrain.main([*OPTIONS, "--config_overrides", overrides, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run/model.safetensors").exists()
    check_fields("config_overrides", {"hidden_size": 32, "attn_implementation": "eager"}, SpecTokConfig)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- seed\n- 1\n", r"run.yaml must hold options and their values, as `seed: 1`, found a list: \['seed', 1\]"),
        ("seed: [1\n", "run.yaml must be YAML, and is not: "),
    ],
)
def test_a_file_without_options_is_named(text, message, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        pretrain.parse_arguments([str(tmp_path / "run.yaml")])
