"""`push` and `export`: one commit, the right card, nothing stale, and nothing sent where something is wrong."""

import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from loopback_hub import CLIENT_WARNINGS
from safetensors.torch import load
from transformers import (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    BertConfig,
    BertModel,
)

from spectok_hf import SpectrumProcessor
from spectok_hf.hub import CardFacts, TrainingSurvey, check_card, export, load_facts, model_card, push, save_facts
from spectok_hf.hub.space import load_models, write_space

pytestmark = CLIENT_WARNINGS
REPO = "org/spectok-test"


@pytest.fixture
def facts():
    surveys = {"sdss": TrainingSurvey(spectra=100, simulated=100)}
    return CardFacts(license="mit", training=surveys, steps=10, batch_size=8, hardware="two CPU cores", results=[])


def test_everything_is_one_commit(hub, make_model, facts):
    commit = push(make_model("stellar"), SpectrumProcessor(), REPO, card=facts, private=True, commit_message="First")
    repo = hub.repos["models", REPO]
    assert repo.private and repo.at(commit.oid).title == "First"
    assert len([1 for method, path in hub.requests if method == "POST" and "/commit/" in path]) == 1
    files = hub.files(REPO)
    assert {"README.md", "config.json", "preprocessor_config.json", "model.safetensors", "handler.py"} <= files.keys()
    assert not [name for name in files if name.endswith((".bin", ".pkl", ".pt"))]
    card = ModelCard(files["README.md"].decode())
    check_card(card)
    assert card.data.pipeline_tag == "tabular-regression" and REPO in card.text


def test_the_card_may_be_facts_a_file_or_a_card(hub, make_model, facts, tmp_path):
    model, processor = make_model("base"), SpectrumProcessor()
    save_facts(facts, tmp_path / "facts.yaml")
    finished = model_card(model, processor, facts, f"{REPO}-3")
    for number, card in enumerate((facts, tmp_path / "facts.yaml", str(tmp_path / "facts.yaml"), finished)):
        push(model, processor, f"{REPO}-{number}", card=card)
    texts = [hub.files(f"{REPO}-{number}")["README.md"].decode() for number in range(4)]
    assert {text.replace(f"spectok-test-{number}", "spectok-test-3") for number, text in enumerate(texts)} == {
        texts[3]
    }


def test_the_least_facts_of_the_documentation_make_a_card(make_model, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "publishing.md"
    (block,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    (tmp_path / "facts.yaml").write_text(block)
    facts = load_facts(tmp_path / "facts.yaml")
    assert [name for name, survey in facts.training.items() if survey.simulated] == ["desi"]
    assert (
        "20,000 spectra, 2,000 of them simulated"
        in model_card(make_model("base"), SpectrumProcessor(), facts, REPO).text
    )
    for line in block.splitlines():
        if not line.startswith((" ", "training")):
            (tmp_path / "facts.yaml").write_text(block.replace(line, ""))
            with pytest.raises(ValueError, match=f"the file lacks {line.partition(':')[0]}"):  # none is too many
                load_facts(tmp_path / "facts.yaml")


def test_a_finished_card_is_that_of_its_repository(hub, make_model, facts, tmp_path):
    model, processor = make_model("base"), SpectrumProcessor()
    card = model_card(model, processor, facts, REPO)
    for name in (f"{REPO}-small", "org/spectok", "other/spectok-test"):  # names that are parts of each other
        with pytest.raises(ValueError, match=f"must say how to load {name}, found code that loads {REPO}: make it"):
            push(model, processor, name, card=card)
    assert not hub.requests
    named = ModelCard(str(card) + "\nA copy of it is org/spectok.\n")
    export(model, processor, tmp_path / "named", "org/spectok", card=named)
    silent = ModelCard(str(card).partition("## Use")[0])  # no code, no wrong name
    export(model, processor, tmp_path / "silent", "org/spectok", card=silent)


def test_a_branch_is_made_where_asked(hub, make_model, facts):
    push(make_model("base"), SpectrumProcessor(), REPO, card=facts)
    push(make_model("base", seed=1), SpectrumProcessor(), REPO, card=facts, revision="next")
    weights = [hub.files(REPO, revision)["model.safetensors"] for revision in ("main", "next")]
    assert weights[0] != weights[1]


def test_weights_in_other_pieces_do_not_stay_behind(hub, make_model, facts, tmp_path, monkeypatch):
    model, processor = make_model("pretraining"), SpectrumProcessor()
    monkeypatch.setattr(type(model), "save_pretrained", _in_pieces(type(model).save_pretrained))
    push(model, processor, REPO, card=facts)
    pieces = [name for name in hub.files(REPO) if name.endswith(".safetensors")]
    assert len(pieces) > 1
    monkeypatch.undo()
    hub.attach(monkeypatch, tmp_path / "home")
    push(model, processor, REPO, card=facts)
    assert [name for name in hub.files(REPO) if "safetensors" in name] == ["model.safetensors"]


def test_other_weights_of_the_repository_stay(hub, make_model, facts):
    model, processor = make_model("base"), SpectrumProcessor()
    push(model, processor, REPO, card=facts)
    push(model, processor, REPO, card=facts, revision="next")
    others = ["adapters/lora/adapter_model.safetensors", "adapters/model.safetensors", "model.fp16.safetensors"]
    stale = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    for name in others + stale:
        for revision in ("main", "next"):
            HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo=name, repo_id=REPO, revision=revision)
    push(model, processor, REPO, card=facts, revision="next")
    assert {name for name in hub.files(REPO, "next") if "safetensors" in name} == {*others, "model.safetensors"}
    assert set(stale) < hub.files(REPO, "main").keys()  # another branch


def _in_pieces(save_pretrained):
    return lambda self, folder, **kwargs: save_pretrained(self, folder, max_shard_size="20KB", **kwargs)


def test_nothing_is_sent_or_written_where_something_is_wrong(hub, make_model, facts, tmp_path):
    model = make_model("base")
    wrong = ModelCard("---\nlicense: my-own\n---\n# TODO\n")
    with pytest.raises(ValueError, match="my-own"):
        push(model, SpectrumProcessor(), REPO, card=wrong)
    with pytest.raises(ValueError, match="as the model reads them, patch_size=32, found patch_size=16"):
        push(model, SpectrumProcessor(patch_size=16), REPO, card=facts)
    with pytest.raises(ValueError, match="my-own"):
        export(model, SpectrumProcessor(), tmp_path / "export", REPO, card=wrong)
    assert not hub.repos and not hub.requests and not (tmp_path / "export").exists()
    with pytest.raises(HfHubHTTPError, match="401"):
        push(model, SpectrumProcessor(), REPO, card=facts, token="hf_wrong")
    assert not hub.repos


def test_the_processor_is_the_one_that_the_model_was_trained_with(hub, make_model, facts, tmp_path):
    export(make_model("base"), SpectrumProcessor(), tmp_path / "vacuum", REPO, card=facts)
    model = AutoModel.from_pretrained(tmp_path / "vacuum")
    known = dict(model.processor_settings)
    for write in (
        lambda processor: push(model, processor, REPO, card=facts),
        lambda processor: export(model, processor, tmp_path / "air", REPO, card=facts),
    ):
        with pytest.raises(
            ValueError, match=r"not the processor that this .*medium='air' \(of this model: 'vacuum'\)"
        ):
            write(SpectrumProcessor(medium="air"))
    assert model.processor_settings == known and not hub.requests and not (tmp_path / "air").exists()
    push(model, SpectrumProcessor(on_invalid="raise"), REPO, card=facts)  # which changes no number
    with pytest.raises(ValueError, match="my-own"):
        export(model, SpectrumProcessor(), tmp_path, REPO, card=ModelCard("---\nlicense: my-own\n---\n# Mine\n"))
    assert model.processor_settings["on_invalid"] == "raise"
    model.remember_processor(SpectrumProcessor(medium="air"))
    export(model, SpectrumProcessor(medium="air"), tmp_path / "air", REPO, card=facts)


def test_files_of_the_publisher_s_own_are_not_overwritten(hub, make_model, facts, tmp_path):
    model, processor, api = make_model("base"), SpectrumProcessor(), HfApi()

    def upload(name, content, revision=None):
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id=REPO, revision=revision)

    push(model, processor, REPO, card=facts)
    upload("requirements.txt", b"spectok-hf[astro]\n")
    for revision in (None, "next"):  # a branch begins where main is
        push(model, processor, REPO, card=facts, revision=revision)
        assert hub.files(REPO, revision or "main")["requirements.txt"] == b"spectok-hf[astro]\n"
    for name, content in (("handler.py", b"# mine\n"), ("README.md", b"---\nlicense: mit\n---\nMine.\n")):
        upload(name, content)
        before = hub.files(REPO)
        for revision in (None, f"without-{name}"):
            with pytest.raises(FileExistsError, match=f"^{REPO}/{name} would be overwritten"):
                push(model, processor, REPO, card=facts, revision=revision)
        assert hub.files(REPO) == before
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(FileExistsError, match=f"{name} would be overwritten"):
            export(model, processor, tmp_path / name, REPO, card=facts)
        assert [path.name for path in (tmp_path / name).iterdir()] == [name]
        push(model, processor, REPO, card=facts, revision="next")  # which has none
        api.delete_file(name, REPO)
    upload("README.md", b"---\nlicense: mit\n---\n")  # as the Hub makes it
    push(model, processor, REPO, card=facts)
    upload("README.md", b"---\nlicense: mit\n---\nMine.\n")
    push(model, processor, REPO, card=model_card(model, processor, facts, REPO))
    assert b"Mine." not in hub.files(REPO)["README.md"]


def test_facts_in_the_folder_keep_their_comments(make_model, facts, tmp_path):
    save_facts(facts, tmp_path / "facts.yaml")
    text = "# asked Ada for the hardware\n" + (tmp_path / "facts.yaml").read_text()
    (tmp_path / "facts.yaml").write_text(text)
    for card in (tmp_path / "facts.yaml", str(tmp_path / "facts.yaml")):
        export(make_model("base"), SpectrumProcessor(), tmp_path, REPO, card=card)
    assert (tmp_path / "facts.yaml").read_text() == text


def test_a_checkpoint_takes_the_place_of_its_own_class_only(hub, make_model, facts, tmp_path, monkeypatch):
    processor, model = SpectrumProcessor(), make_model("pretraining")
    monkeypatch.setattr(type(model), "save_pretrained", _in_pieces(type(model).save_pretrained))
    export(model, processor, tmp_path, REPO, card=facts)
    assert (tmp_path / "model.safetensors.index.json").exists()
    monkeypatch.undo()
    hub.attach(monkeypatch, tmp_path / "home")
    export(model, processor, tmp_path, REPO, card=facts)
    assert [path.name for path in tmp_path.glob("model*safetensors*")] == ["model.safetensors"]
    push(model, processor, REPO, card=facts)
    before = hub.files(REPO)
    head = make_model("redshift")
    for write, place in (
        (lambda: export(head, processor, tmp_path, REPO, card=facts), tmp_path),
        (lambda: push(head, processor, REPO, card=facts), REPO),
    ):
        with pytest.raises(ValueError, match=f"^{place}/config.json must be that of .*, found SpecTokForPreTraining,"):
            write()
    push(head, processor, REPO, card=facts, revision="head")  # a new branch is nobody's yet
    with pytest.raises(ValueError, match=r"must be that of .*, found SpecTokForRedshift,"):
        push(model, processor, REPO, card=facts, revision="head")
    assert hub.files(REPO) == before and type(AutoModelForPreTraining.from_pretrained(tmp_path)) is type(model)


@pytest.mark.parametrize(
    ("card", "found"),
    [({"license": "mit"}, "found a dict"), ("README.md", r"found README\.md"), (None, "found a NoneType")],
)
def test_a_card_is_facts_or_a_card(make_model, tmp_path, card, found):
    with pytest.raises(ValueError, match=f"^card must be CardFacts, the path .*{found}: make them by"):
        export(make_model("base"), SpectrumProcessor(), tmp_path, REPO, card=card)


def test_adapters_are_merged_before_and_other_models_are_refused(hub, make_model, facts, tmp_path):
    peft = pytest.importorskip("peft")
    model, processor = make_model("pretraining"), SpectrumProcessor()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    calls = {
        "push": lambda given: push(given, processor, REPO, card=facts),
        "export": lambda given: export(given, processor, tmp_path / "export", REPO, card=facts),
        "card": lambda given: model_card(given, processor, facts, REPO),
    }
    # peft puts its layers into the model that it is given, whose weights then have other names.
    for given, message in (
        (adapted, r"adapters of peft, found some in this PeftModel: .*merge_and_unload\(\)"),
        (model, r"found some in this SpecTokForPreTraining: .*merge_and_unload\(\)"),
        (bert, r"must be one of spectok_hf, found transformers.*\.BertModel"),
        (None, r"must be one of spectok_hf, found builtins\.NoneType"),
    ):
        for call in calls.values():
            with pytest.raises(ValueError, match=message):
                call(given)
    assert not hub.requests and not (tmp_path / "export").exists()
    before = make_model("pretraining").state_dict()
    calls["push"](adapted.merge_and_unload())
    after = load(hub.files(REPO)["model.safetensors"])
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert after.keys() == before.keys() and changed and all("q_proj" in name for name in changed)


def test_an_exported_folder_is_what_would_be_pushed(hub, make_model, facts, tmp_path):
    model, processor = make_model("redshift"), SpectrumProcessor(medium="air")
    folder = export(model, processor, tmp_path / "export", REPO, card=facts)
    push(model, processor, REPO, card=facts)
    pushed = hub.files(REPO)
    pushed.pop(".gitattributes", None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == pushed
    assert AutoProcessor.from_pretrained(folder).medium == "air"
    found = AutoModel.from_pretrained(folder)
    assert load_facts(folder / "facts.yaml") == facts
    assert all(torch.equal(value, model.spectok.state_dict()[name]) for name, value in found.state_dict().items())


def test_weights_of_half_the_size_load_as_they_were(hub, make_model, facts, tmp_path):
    model, processor = make_model("pretraining"), SpectrumProcessor()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    half = export(model, processor, tmp_path / "half", REPO, card=facts, weights_dtype=torch.bfloat16)
    whole = export(model, processor, tmp_path / "whole", REPO, card=facts)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.dtype in (None, torch.float32, "float32") and model.dtype == torch.float32
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in half.iterdir()} == names
    assert all((half / name).read_bytes() == (whole / name).read_bytes() for name in names - {"model.safetensors"})
    stored = load((half / "model.safetensors").read_bytes())
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (half, whole)]
    assert sizes[0] < 0.55 * sizes[1]
    assert json.loads((half / "config.json").read_text())["dtype"] == "float32"
    found = type(model).from_pretrained(half).state_dict()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], value.bfloat16().float()) for name, value in before.items())
    push(model, processor, REPO, card=facts, weights_dtype=torch.bfloat16)
    assert hub.files(REPO)["model.safetensors"] == (half / "model.safetensors").read_bytes()


def test_heads_are_exported_into_folders_of_their_checkpoint(make_model, facts, tmp_path):
    root, processor = make_model("pretraining"), SpectrumProcessor(medium="air")
    folder = export(root, processor, tmp_path / "tiny", REPO, card=facts)
    heads = {"classification": "classification", "stellar-parameters": "stellar", "redshift": "redshift"}
    for name, kind in heads.items():
        export(make_model(kind), processor, folder / name, REPO, card=facts, subfolder=name)
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is type(root)
    for name, kind in heads.items():
        assert f'from_pretrained("{REPO}", subfolder="{name}")' in (folder / name / "README.md").read_text()
        found = AutoModelForSequenceClassification.from_pretrained(folder, subfolder=name)
        assert type(found) is type(make_model(kind)) and found.own_processor().medium == "air"
        assert not [weight for weight in found.state_dict() if "decoder" in weight]


def test_a_space_finds_published_checkpoints_and_what_they_were_trained_on(hub, make_model, facts, tmp_path):
    processor = SpectrumProcessor()
    commit = push(make_model("pretraining"), processor, REPO, card=facts)
    push(make_model("pretraining", seed=1), processor, REPO, card=facts)
    head = export(make_model("stellar"), processor, tmp_path / "head", f"{REPO}-head", card=facts)
    written = write_space(f"{REPO}@{commit.oid}", tmp_path / "space", heads=[head])
    models = load_models(written)
    assert models.autoencoder.surveys == models.heads["stellar-parameters"].surveys == ("sdss",)
    weights = load(hub.files(REPO, commit.oid)["model.safetensors"])
    assert all(torch.equal(value, weights[name]) for name, value in models.autoencoder.model.state_dict().items())
    assert (written / "checkpoints" / "stellar-parameters" / "facts.yaml").is_file()


def test_a_space_finds_a_head_in_a_folder_of_a_repository(hub, make_model, facts, tmp_path):
    processor, model = SpectrumProcessor(), make_model("redshift")
    push(make_model("pretraining"), processor, REPO, card=facts)
    head = export(model, processor, tmp_path / "redshift", REPO, card=facts, subfolder="redshift")
    commit = HfApi().upload_folder(repo_id=REPO, folder_path=head, path_in_repo="redshift")
    written = write_space(REPO, tmp_path / "space", heads=[f"{REPO}/redshift@{commit.oid}"])
    found = load_models(written).heads["spectrum-redshift"]
    assert found.surveys == ("sdss",)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.model.state_dict().items())
    assert f"`{REPO}/redshift` | {commit.oid}" in (written / "README.md").read_text()


def test_transformers_own_push_to_hub_is_complete_too(hub, make_model, tmp_path):
    model = make_model("classification")
    model.remember_processor(SpectrumProcessor())
    model.push_to_hub(REPO)
    SpectrumProcessor().push_to_hub(f"{REPO}-processor")
    model.config.push_to_hub(f"{REPO}-config")
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=f"{REPO}-saved", private=True)
    for end in ("", "-saved"):
        assert {"handler.py", "model.safetensors", "preprocessor_config.json"} <= hub.files(REPO + end).keys()
        assert json.loads(hub.files(REPO + end)["config.json"])["auto_map"]["AutoModelForSequenceClassification"] == (
            "modeling_spectok.SpecTokForSequenceClassification"
        )
    assert hub.repos["models", f"{REPO}-saved"].private
    assert {"modeling_spectok.py", "preprocessor_config.json"} <= hub.files(f"{REPO}-processor").keys()
    assert {"modeling_spectok.py", "config.json"} <= hub.files(f"{REPO}-config").keys()
