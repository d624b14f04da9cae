"""The Hub on loopback, asked by the real client: what it takes, keeps, gives back and refuses."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    create_repo,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_cards import card_messages
from loopback_hub import CLIENT_WARNINGS, LoopbackHub

pytestmark = CLIENT_WARNINGS

REPO = "org/spectok-test"
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: feature-extraction
tags: [astronomy, spectra]
base_model: org/spectok
model-index:
- name: spectok-test
  results:
  - task: {type: spectrum-classification}
    dataset: {type: sdss, name: SDSS DR17}
    metrics: [{type: accuracy, value: 0.93}]
---
# A card
"""
SPACE_CARD = "---\ntitle: Spectra\nsdk: gradio\nsdk_version: 6.0.0\napp_file: app.py\n---\n"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub(token="hf_right") as hub:
        hub.attach(monkeypatch, tmp_path / "home")
        yield hub


@pytest.fixture
def api(hub):
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo(REPO)
    return api


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint's files: text, code in a folder, weights, a plot."""
    root = tmp_path / "checkpoint"
    (root / "code").mkdir(parents=True)
    (root / "README.md").write_text(CARD)
    (root / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "code.M"}}))
    (root / "code" / "model.py").write_text("hello\n")
    (root / "model.safetensors").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    (root / "plot.png").write_bytes(b"\x89PNG\0\0")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ask(
    address: str, method: str = "GET", body: bytes | Iterator[bytes] | None = None, **headers: str
) -> tuple[int, bytes]:
    request = urllib.request.Request(
        address, body, {k.replace("_", "-"): v for k, v in headers.items()}, method=method
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def commit(api: HfApi, *, title: str = "change", revision: str = "main", delete: tuple = (), **files: str) -> str:
    added = [CommitOperationAdd(name.replace("__", "."), text.encode()) for name, text in files.items()]
    gone = [CommitOperationDelete(path) for path in delete]
    return api.create_commit(REPO, added + gone, commit_message=title, revision=revision).oid


def test_a_folder_goes_up_in_one_commit_and_comes_back(hub, api, folder):
    info = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="first")
    assert hub.files(REPO, info.oid) == contents(folder) | {".gitattributes": hub.files(REPO)[".gitattributes"]}
    assert [entry.title for entry in api.list_repo_commits(REPO)] == ["first", "initial commit"]
    downloaded = contents(Path(snapshot_download(REPO)))
    assert downloaded == hub.files(REPO)


def test_an_unchanged_folder_makes_no_commit(hub, api, folder):
    first = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == first
    assert len(api.list_repo_commits(REPO)) == 2


def test_large_and_binary_files_go_to_the_store(hub, api, folder):
    api.upload_folder(repo_id=REPO, folder_path=folder)
    entries = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True)}
    assert {path for path, entry in entries.items() if getattr(entry, "lfs", None)} == {
        "model.safetensors",
        "plot.png",
    }
    content = (folder / "model.safetensors").read_bytes()
    assert entries["model.safetensors"].lfs.sha256 == hashlib.sha256(content).hexdigest()
    assert entries["model.safetensors"].size == len(content) == 3_000_000
    assert entries["code/model.py"].blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert sum(method == "PUT" for method, _ in hub.requests) == 2
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == content


def test_the_store_takes_only_what_its_sha_announces(hub, api):
    right = hashlib.sha256(b"right").hexdigest()
    status, message = ask(hub.stored_at(right), "PUT", b"wrong")
    assert status == 400 and right in message.decode()
    assert ask(hub.stored_at(right)[:-66] + "x/" + right, "PUT", b"right")[0] == 403
    assert ask(hub.stored_at(right), "PUT", iter([b"ri", b"ght"]))[0] == 200  # an iterator goes in chunks
    assert ask(hub.stored_at(right)) == (200, b"right")


def test_every_commit_stays_readable(hub, api):
    first = commit(api, a__txt="one")
    api.create_tag(REPO, tag="v1", revision=first)
    api.create_branch(REPO, branch="trial")
    second = commit(api, a__txt="two")
    on_branch = commit(api, a__txt="three", revision="trial")
    found = {
        at: Path(hf_hub_download(REPO, "a.txt", revision=at)).read_text() for at in (first, second, "v1", "trial")
    }
    assert found == {first: "one", second: "two", "v1": "one", "trial": "three"}
    assert Path(hf_hub_download(REPO, "a.txt")).read_text() == "two"
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches + refs.tags} == {
        "main": second,
        "trial": on_branch,
        "v1": first,
    }
    assert api.model_info(REPO, revision="v1").sha == first


def test_files_and_folders_can_be_deleted(hub, api, folder):
    api.upload_folder(repo_id=REPO, folder_path=folder)
    commit(api, delete=("plot.png", "code/"))
    assert set(hub.files(REPO)) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    with pytest.raises(EntryNotFoundError, match=r"doesn't exist: plot\.png"):
        commit(api, delete=("plot.png",))


def test_the_tree_says_which_commit_changed_a_path(hub, api):
    first = commit(api, title="one", a__txt="one", **{"code/b__py": "b"})
    second = commit(api, title="two", a__txt="two")
    tree = list(api.list_repo_tree(REPO, expand=True))
    assert {entry.path: entry.last_commit.oid for entry in tree[1:]} == {"a.txt": second, "code": first}
    below = list(api.list_repo_tree(REPO, "code"))
    assert below == api.get_paths_info(REPO, ["code/b.py", "absent"]) and below[0].path == "code/b.py"
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "absent"))


def test_a_models_page_shows_its_card(hub, api, folder):
    api.upload_folder(repo_id=REPO, folder_path=folder)
    info = api.model_info(REPO, files_metadata=True)
    assert (info.library_name, info.pipeline_tag) == ("transformers", "feature-extraction")
    assert {"astronomy", "custom_code"} <= set(info.tags)
    assert info.card_data.eval_results[0].metric_value == 0.93
    assert {s.rfilename: s.size for s in info.siblings}["model.safetensors"] == 3_000_000


def test_an_invalid_card_is_refused_with_the_reasons(hub, api, folder):
    (folder / "README.md").write_text(CARD.replace("apache-2.0", "apache").replace("[astronomy, spectra]", "[1]"))
    with pytest.raises(ValueError, match=r'"license" must be one of.*\n- "tags\[0\]" must be a string'):
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert list(hub.files(REPO)) == [".gitattributes"]


def test_an_invalid_card_is_refused_also_at_the_commit(hub, api, monkeypatch):
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *args, **kwargs: None)
    with pytest.raises(BadRequestError, match='"license" must be one of'):
        commit(api, README__md="---\nlicense: mine\n---\n")
    assert list(hub.files(REPO)) == [".gitattributes"]


@pytest.mark.parametrize(("card", "message"), [("# No metadata", "empty or missing"), (CARD, "not in the official")])
def test_the_card_warns_as_the_hub_does(api, card, message):
    with pytest.warns(UserWarning, match=message):
        commit(api, README__md=card.replace("feature-extraction", "spectrum-embedding"))


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("base_model: /home/me/model", '"base_model" with value "/home/me/model" is not valid'),
        ("tags: astronomy", '"tags" must be an array'),
        ("language: [en, English]", '"language[1]" with value "English" is not valid'),
        ("model-index: [{name: a, results: [{task: {type: b}}]}]", '"model-index[0].results[0].dataset" is required'),
        ("a: [", "the YAML metadata cannot be read"),
    ],
)
def test_rules_of_the_card(line, error):
    errors, _ = card_messages(f"---\n{line}\n---\n", "models")
    assert errors and errors[0].startswith(error)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("app_file: app.py", '"sdk" is required'),
        ("sdk: flask", '"sdk" must be one of [gradio, docker, static]'),
        ("sdk: gradio\ncolorTo: black", '"colorTo" must be one of'),
        ("sdk: gradio\nshort_description: " + 61 * "a", "It must have at most 60 characters."),
        ("sdk: gradio\npython_version: 3.10", '"python_version" must be a string'),
    ],
)
def test_rules_of_a_space(line, error):
    errors, _ = card_messages(f"---\n{line}\n---\n", "spaces")
    assert len(errors) == 1 and error in errors[0]


def test_a_space_beside_a_model_of_the_same_name(hub, api):
    api.create_repo(REPO, repo_type="space", space_sdk="gradio")
    for name, content in {"README.md": SPACE_CARD, "app.py": "print(1)\n", "star.fits": "SIMPLE"}.items():
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=name, repo_id=REPO, repo_type="space")
    assert set(hub.files(REPO, kind="spaces")) == {".gitattributes", "README.md", "app.py", "star.fits"}
    assert api.space_info(REPO).sdk == "gradio"
    assert contents(Path(snapshot_download(REPO, repo_type="space")))["star.fits"] == b"SIMPLE"
    assert list(hub.files(REPO)) == [".gitattributes"]


def test_a_repository_is_created_once(hub, api):
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == create_repo(REPO, exist_ok=True).repo_id == REPO
    assert api.create_repo("mine").repo_id == f"{api.whoami()['name']}/mine"
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)


def test_what_is_missing_has_the_clients_own_errors(hub, api):
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "absent.json")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, ".gitattributes", revision="0" * 40)
    with pytest.raises(RevisionNotFoundError):
        commit(api, revision="absent", a__txt="a")
    for token in (hub.token, False):
        with pytest.raises(RepositoryNotFoundError):
            snapshot_download("org/absent", token=token)
    assert not api.file_exists(REPO, "absent.json") and api.file_exists(REPO, ".gitattributes")


def test_only_the_right_token_writes(hub, api):
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header"):
        HfApi(endpoint=hub.endpoint, token="hf_wrong").create_repo("org/other")
    with pytest.raises(HfHubHTTPError, match="Invalid username or password"):
        HfApi(endpoint=hub.endpoint, token=False).upload_file(path_or_fileobj=b"a", path_in_repo="a.txt", repo_id=REPO)
    assert list(hub.repos) == [("models", REPO)] and list(hub.files(REPO)) == [".gitattributes"]
    assert HfApi(endpoint=hub.endpoint, token=False).model_info(REPO).id == REPO


def test_a_private_repository_is_hidden_without_the_token(hub, api, monkeypatch, tmp_path):
    api.update_repo_settings(REPO, private=True)
    assert api.model_info(REPO).private and hf_hub_download(REPO, ".gitattributes")
    hub.attach(monkeypatch, tmp_path / "stranger", token=False)
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(REPO, ".gitattributes")


def test_a_commit_on_an_old_parent_is_refused(hub, api):
    first = commit(api, a__txt="one")
    commit(api, a__txt="two")
    add = [CommitOperationAdd("b.txt", b"b")]
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit(REPO, add, commit_message="late", parent_commit=first)
    with pytest.raises(BadRequestError, match="no pull requests"):
        api.create_commit(REPO, add, commit_message="asked", create_pr=True)
    assert "b.txt" not in hub.files(REPO)


@pytest.mark.parametrize(
    ("asked", "status", "answer"),
    [
        ("bytes=2-4", 206, b"cde"),
        ("bytes=7-", 206, b"hij"),
        ("bytes=-3", 206, b"hij"),
        ("bytes=8-99", 206, b"ij"),
        ("bytes=10-", 416, None),
        ("lines=1-2", 200, b"abcdefghij"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.bin"])
def test_ranges(hub, api, name, asked, status, answer):
    api.upload_file(path_or_fileobj=b"abcdefghij", path_in_repo=name, repo_id=REPO)
    found = ask(f"{hub.endpoint}/{REPO}/resolve/main/{name}", Range=asked)
    assert found[0] == status and answer in (None, found[1])


def test_downloads_at_the_same_time(hub, api, folder, tmp_path):
    api.upload_folder(repo_id=REPO, folder_path=folder)
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda i: contents(Path(snapshot_download(REPO, cache_dir=tmp_path / f"{i}"))), range(8))
        )
    assert all(one == hub.files(REPO) for one in found)


def test_a_fresh_process_loads_a_pinned_revision(hub, api, folder, tmp_path):
    revision = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    commit(api, config__json="{}")
    code = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], revision=sys.argv[2]))"
    environment = os.environ | hub.environment(tmp_path / "fresh")
    run = subprocess.run([sys.executable, "-c", code, REPO, revision], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    path = Path(run.stdout.strip())
    assert path.is_relative_to(tmp_path / "fresh") and contents(path) == hub.files(REPO, revision)
    assert hub.files(REPO)["config.json"] == b"{}"


def test_what_it_does_not_know_is_said(hub):
    status, message = ask(f"{hub.endpoint}/api/collections/org")
    assert status == 404 and "no GET /api/collections/org" in message.decode()


def test_it_leaves_nothing_behind():
    threads = set(threading.enumerate())
    with LoopbackHub() as hub:
        port = int(hub.endpoint.rsplit(":")[-1])
        idle = socket.create_connection(("127.0.0.1", port))  # a client that keeps its connection
        assert ask(f"{hub.endpoint}/api/models/a/b")[0] == 401
    assert set(threading.enumerate()) == threads
    assert idle.recv(1) == b""
    idle.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
