"""What the Hub on loopback stores and answers, route by route; loopback_hub.py serves it."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml
from loopback_cards import NAME, card_messages, metadata

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

PREFIXES = {"models": "", "spaces": "spaces/", "datasets": "datasets/"}  # of their pages' addresses
LFS_SUFFIXES = (
    ".7z .arrow .bin .bz2 .ckpt .fits .gz .h5 .joblib .model .msgpack .npy .npz .onnx .parquet .pb .pickle .pkl .pt "
    ".pth .safetensors .tar .tflite .tgz .wasm .xz .zip .zst"
)
MAX_REGULAR_SIZE = 10 * 2**20  # bytes; the Hub sends larger files to the store whatever they are called


# What a repository holds


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return text.encode()

    @cached_property
    def oid(self) -> str:
        data = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    name: str
    kind: str
    private: bool
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, commit: Commit) -> list[Commit]:
        """The commit and its ancestors, newest first."""
        found = [commit]
        while found[-1].parent:
            found.append(self.commits[found[-1].parent])
        return found

    def add(self, branch: str, files: dict[str, Blob], title: str, message: str = "") -> Commit:
        parent = self.branches.get(branch)
        contents = sorted((path, blob.oid) for path, blob in files.items())
        named = json.dumps([self.kind, self.name, branch, parent, title, message, contents, len(self.commits)])
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(hashlib.sha1(named.encode()).hexdigest(), parent, title, message, date, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


# One request and its answer


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.reply = as_json({"error": message}, status)
        self.reply.headers.update({"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | headers)


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body)


def as_json(value: Any, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value, default=str).encode(), {"Content-Type": "application/json"})


def _bytes(call: Call, content: bytes, headers: dict[str, str]) -> Reply:
    """The content, or the one range of it that the request names."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"} | headers
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if not asked or not any(asked.groups()):
        return Reply(200, content, headers)
    first, last, size = asked[1], asked[2], len(content)
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= stop:
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{size}"})
    return Reply(206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})


# The routes: each takes the Hub, the request, the repository where the address names one, and the address's parts


def whoami(hub: "LoopbackHub", call: Call) -> Reply:
    auth = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
    return as_json({"type": "user", "id": "0" * 24, "name": hub.user, "fullname": hub.user, "orgs": [], "auth": auth})


def validate_yaml(hub: "LoopbackHub", call: Call) -> Reply:
    wanted = call.json()
    errors, warned = card_messages(wanted["content"], wanted["repoType"] + "s")
    answer = {"errors": [{"message": m} for m in errors], "warnings": [{"message": m} for m in warned]}
    return as_json(answer | ({"error": "Invalid metadata"} if errors else {}), 400 if errors else 200)


def _named(hub: "LoopbackHub", call: Call) -> tuple[dict, tuple[str, str]]:
    wanted = call.json()
    return wanted, (
        (wanted.get("type") or "model") + "s",
        f"{wanted.get('organization') or hub.user}/{wanted['name']}",
    )


def create_repo(hub: "LoopbackHub", call: Call) -> Reply:
    wanted, (kind, name) = _named(hub, call)
    url = f"{hub.endpoint}/{PREFIXES[kind]}{name}"
    if not re.fullmatch(f"{NAME}/{NAME}", name):
        raise Refusal(400, f"Invalid repository name: {name}")
    if (kind, name) in hub.repos:
        return as_json({"error": f"You already created this {kind[:-1]} repo", "url": url}, 409)
    private = wanted.get("private") or wanted.get("visibility") == "private"
    repo = hub.repos[kind, name] = Repo(name, kind, bool(private), wanted.get("sdk"))
    rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES.split())
    repo.add("main", {".gitattributes": Blob(rules.encode())}, "initial commit")
    return as_json({"url": url, "name": name, "id": name})


def delete_repo(hub: "LoopbackHub", call: Call) -> Reply:
    if hub.repos.pop(_named(hub, call)[1], None) is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    return Reply()


def change_settings(hub: "LoopbackHub", call: Call, repo: Repo) -> Reply:
    wanted = call.json()
    repo.private = bool(wanted.get("private") or wanted.get("visibility") == "private")
    return as_json({"private": repo.private})


def _readable(commit: Commit, path: str, read: Callable) -> dict:
    """A committed file's mapping, empty where there is none or it cannot be read."""
    try:
        found = read(commit.files[path].content.decode())
    except (KeyError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def repo_info(hub: "LoopbackHub", call: Call, repo: Repo, revision: str = "main") -> Reply:
    commit = repo.at(revision)
    card, config = _readable(commit, "README.md", metadata), _readable(commit, "config.json", json.loads)
    derived = [card.get("library_name"), card.get("pipeline_tag"), "auto_map" in config and "custom_code"]
    blobs = "blobs" in call.query
    info = {
        "_id": hashlib.sha1(repo.name.encode()).hexdigest()[:24],
        "id": repo.name,
        "author": repo.name.split("/")[0],
        "sha": commit.oid,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [tag for tag in [*derived, *(card.get("tags") or [])] if tag],
        "createdAt": repo.history(commit)[-1].date,
        "lastModified": commit.date,
        "cardData": card,
        "siblings": [_sibling(path, blob, blobs) for path, blob in sorted(commit.files.items())],
    }
    extra = {"sdk": card.get("sdk", repo.sdk)} if repo.kind == "spaces" else {"config": config}
    return as_json(info | extra | {key: card[key] for key in ("library_name", "pipeline_tag") if key in card})


def _lfs(blob: Blob, key: str) -> dict:
    return {"lfs": {key: blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}} if blob.lfs else {}


def _sibling(path: str, blob: Blob, blobs: bool) -> dict:
    details = {"size": len(blob.content), "blobId": blob.oid} | _lfs(blob, "sha256")
    return {"rfilename": path} | (details if blobs else {})


def list_refs(hub: "LoopbackHub", call: Call, repo: Repo) -> Reply:
    found = {
        plural: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in refs.items()]
        for plural, folder, refs in [("branches", "heads", repo.branches), ("tags", "tags", repo.tags)]
    }
    return as_json(found | {"converts": [], "pullRequests": []})


def list_commits(hub: "LoopbackHub", call: Call, repo: Repo, revision: str) -> Reply:
    return as_json(
        [
            {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": hub.user}]}
            for c in repo.history(repo.at(revision))
        ]
    )


def create_branch(hub: "LoopbackHub", call: Call, repo: Repo, branch: str) -> Reply:
    start = repo.at((call.json() if call.body else {}).get("startingPoint", "main"))
    return _new_ref(repo.branches, branch, start)


def create_tag(hub: "LoopbackHub", call: Call, repo: Repo, revision: str) -> Reply:
    return _new_ref(repo.tags, call.json()["tag"], repo.at(revision))


def _new_ref(refs: dict[str, str], name: str, commit: Commit) -> Reply:
    if name in refs:
        raise Refusal(409, f"Reference already exists: {name}")
    refs[name] = commit.oid
    return as_json({"success": True})


def _entry(repo: Repo, commit: Commit, path: str, expand: bool) -> dict | None:
    """What the tree says of a file or a folder, None where there is neither."""

    def holds(files: dict[str, Blob]) -> list[tuple[str, str]]:
        return sorted((p, blob.oid) for p, blob in files.items() if p == path or p.startswith(f"{path}/"))

    held = holds(commit.files)
    if not held:
        return None
    if path in commit.files:
        blob = commit.files[path]
        entry = {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid} | _lfs(blob, "oid")
    else:
        entry = {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(repr(held).encode()).hexdigest()}
    if expand:
        same = [c for c in repo.history(commit) if holds(c.files) == held]
        entry["lastCommit"] = {"id": same[-1].oid, "title": same[-1].title, "date": same[-1].date}
    return entry


def list_tree(hub: "LoopbackHub", call: Call, repo: Repo, revision: str, path: str = "") -> Reply:
    commit, start = repo.at(revision), path.strip("/") + "/" if path.strip("/") else ""
    below = [file[len(start) :].split("/") for file in commit.files if file.startswith(start)]
    if start and not below:
        raise Refusal(404, f'{path} does not exist on "{revision}"', "EntryNotFound")
    depth = max(map(len, below), default=0) if "true" in call.query.get("recursive", []) else 1
    paths = {start + "/".join(parts[:n]) for parts in below for n in range(1, min(depth, len(parts)) + 1)}
    expand = "true" in call.query.get("expand", [])
    return as_json([_entry(repo, commit, path, expand) for path in sorted(paths)])


def paths_info(hub: "LoopbackHub", call: Call, repo: Repo, revision: str) -> Reply:
    form = parse_qs(call.body.decode())
    expand = form.get("expand", [""])[0].lower() == "true"
    entries = [_entry(repo, repo.at(revision), path, expand) for path in form.get("paths", [])]
    return as_json([entry for entry in entries if entry])


def preupload(hub: "LoopbackHub", call: Call, repo: Repo, revision: str) -> Reply:
    files = repo.at(revision).files
    return as_json({"files": [_upload_mode(wanted, files.get(wanted["path"])) for wanted in call.json()["files"]]})


def _upload_mode(wanted: dict, present: Blob | None) -> dict:
    binary = b"\0" in base64.b64decode(wanted["sample"])
    lfs = wanted["path"].endswith(tuple(LFS_SUFFIXES.split())) or wanted["size"] > MAX_REGULAR_SIZE or binary
    answer = {"path": wanted["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
    return answer | ({"oid": present.sha256 if present.lfs else present.oid} if present else {})


def lfs_batch(hub: "LoopbackHub", call: Call, repo: Repo) -> Reply:
    verify = {"href": f"{hub.endpoint}/{PREFIXES[repo.kind]}{repo.name}.git/info/lfs/verify"}
    objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in call.json()["objects"]]
    for item in objects:
        if item["oid"] not in hub.store:
            item |= {"actions": {"upload": {"href": hub.stored_at(item["oid"])}, "verify": verify}}
    return as_json({"transfer": "basic", "objects": objects})


def lfs_verify(hub: "LoopbackHub", call: Call, repo: Repo) -> Reply:
    wanted = call.json()
    found = len(hub.store.get(wanted["oid"], b""))
    if found != wanted["size"]:
        raise Refusal(400, f"object {wanted['oid']} has {found} bytes, {wanted['size']} were announced")
    return Reply()


def put_object(hub: "LoopbackHub", call: Call, oid: str) -> Reply:
    if (found := hashlib.sha256(call.body).hexdigest()) != oid:
        raise Refusal(400, f"the content's sha256 is {found}, not {oid}")
    hub.store[oid] = call.body
    return Reply()


def get_object(hub: "LoopbackHub", call: Call, oid: str) -> Reply:
    return _bytes(call, hub.store[oid], {"ETag": f'"{oid}"'})


def commit(hub: "LoopbackHub", call: Call, repo: Repo, revision: str) -> Reply:
    header, *operations = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    if "create_pr" in call.query:
        raise Refusal(400, "the Hub on loopback has no pull requests: commit to a branch")
    if revision not in repo.branches:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    if header["value"].get("parentCommit", repo.branches[revision]) != repo.branches[revision]:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.at(revision).files)
    for operation in operations:
        OPERATIONS[operation["key"]](hub, files, _checked(operation["value"]))
    _refuse_bad_card(files, repo.kind)
    made = repo.add(revision, files, header["value"]["summary"], header["value"].get("description", ""))
    url = f"{hub.endpoint}/{PREFIXES[repo.kind]}{repo.name}/commit/{made.oid}"
    return as_json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def _checked(value: dict) -> dict:
    if any(part in ("", ".", "..", ".git") for part in value["path"].rstrip("/").split("/")):
        raise Refusal(400, f"Invalid path in commit: {value['path']}")
    return value


def _refuse_bad_card(files: dict[str, Blob], kind: str) -> None:
    errors = card_messages(files["README.md"].content.decode(), kind)[0] if "README.md" in files else []
    if errors:
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors))


def _add_file(hub: "LoopbackHub", files: dict[str, Blob], value: dict) -> None:
    files[value["path"]] = Blob(base64.b64decode(value["content"]))


def _add_lfs_file(hub: "LoopbackHub", files: dict[str, Blob], value: dict) -> None:
    content = hub.store.get(value["oid"])
    if content is None or value.get("size", len(content)) != len(content):
        raise Refusal(400, f"{value['path']} points to object {value['oid']}, which was not uploaded whole")
    files[value["path"]] = Blob(content, lfs=True)


def _delete(hub: "LoopbackHub", files: dict[str, Blob], value: dict, folder: bool = False) -> None:
    path = value["path"].rstrip("/")
    gone = [file for file in files if (file.startswith(f"{path}/") if folder else file == path)]
    if not gone:
        raise Refusal(404, f"A {'folder' if folder else 'file'} with this name doesn't exist: {path}", "EntryNotFound")
    for file in gone:
        del files[file]


OPERATIONS: dict[str, Callable] = {
    "file": _add_file,
    "lfsFile": _add_lfs_file,
    "deletedFile": _delete,
    "deletedFolder": partial(_delete, folder=True),
}


def resolve(hub: "LoopbackHub", call: Call, repo: Repo, revision: str, path: str) -> Reply:
    commit = repo.at(revision)
    blob = commit.files.get(path)
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.oid}"'}
    if not blob.lfs:
        return _bytes(call, blob.content, headers)
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    return Reply(302, b"", headers | linked | {"Location": hub.stored_at(blob.sha256)})


API = r"/api/(?P<kind>models|spaces|datasets)/(?P<name>[^/]+/[^/]+)"
PAGE = r"/(?:(?P<kind>spaces|datasets)/)?(?P<name>[^/]+/[^/]+?)"
REVISION = r"/(?P<revision>[^/]+)"
# What may be asked, who may ask it (see LoopbackHub._allow), how the address reads, and what answers.
ROUTES = [
    ("GET", "user", "/api/whoami-v2", whoami),
    ("POST", "anyone", "/api/validate-yaml", validate_yaml),
    ("POST", "user", "/api/repos/create", create_repo),
    ("DELETE", "user", "/api/repos/delete", delete_repo),
    ("GET", "reader", API, repo_info),
    ("GET", "reader", f"{API}/revision{REVISION}", repo_info),
    ("GET", "reader", f"{API}/refs", list_refs),
    ("GET", "reader", f"{API}/commits{REVISION}", list_commits),
    ("GET", "reader", f"{API}/tree{REVISION}(?:/(?P<path>.+))?", list_tree),
    ("POST", "reader", f"{API}/paths-info{REVISION}", paths_info),
    ("PUT", "writer", f"{API}/settings", change_settings),
    ("POST", "writer", f"{API}/branch/(?P<branch>[^/]+)", create_branch),
    ("POST", "writer", f"{API}/tag{REVISION}", create_tag),
    ("POST", "writer", f"{API}/preupload{REVISION}", preupload),
    ("POST", "writer", f"{API}/commit{REVISION}", commit),
    ("POST", "writer", rf"{PAGE}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", "writer", rf"{PAGE}\.git/info/lfs/verify", lfs_verify),
    ("GET", "reader", f"{PAGE}/resolve{REVISION}/(?P<path>.+)", resolve),
    ("PUT", "signed", "/store/(?P<signature>[^/]+)/(?P<oid>[0-9a-f]{64})", put_object),
    ("GET", "signed", "/store/(?P<signature>[^/]+)/(?P<oid>[0-9a-f]{64})", get_object),
]


__all__ = ["ROUTES", "Call", "Refusal", "Reply", "Repo", "as_json"]
