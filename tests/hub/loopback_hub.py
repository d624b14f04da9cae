"""A Hub on loopback: the part of the Hub's HTTP API that `huggingface_hub` uses, for tests that publish and load.

    with LoopbackHub(token="hf_test") as hub:
        subprocess.run([...], env=os.environ | hub.environment(folder))  # a fresh process that sees only this Hub
        hub.attach(monkeypatch, folder)  # or this process, also where it is offline
        HfApi(endpoint=hub.endpoint, token=hub.token).upload_folder(...)

As on the real one, large and binary files live in a store of another name, behind signed links that need no token;
every commit stays readable; a wrong token is refused also for what is public. Transfers are "basic" (no xet). There
are no pull requests, discussions, quotas, gates, renames or pages of answers, there is one user, who may write
everywhere, and cards are held to those of the Hub's rules that its documentation states.
"""

import contextlib
import re
import secrets
import socket
import sys
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from loopback_routes import ROUTES, Call, Refusal, Reply, Repo, as_json

# For `pytestmark` where large files go up from this process: the client calls httpx in a way that is being retired.
CLIENT_WARNINGS = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for the head and a short body
    disable_nagle_algorithm = True
    server: "_Server"

    def _answer(self) -> None:
        address, method = urlsplit(self.path), "GET" if self.command == "HEAD" else self.command
        call = Call(method, address.path, parse_qs(address.query), self.headers, self._body())
        self.server.hub.requests.append((self.command, self.path))
        try:
            reply = self.server.hub.answer(call)
        except Refusal as refusal:
            reply = refusal.reply
        except Exception:  # a fault of this file: said at once, with a status that the client does not try again
            reply = as_json({"error": traceback.format_exc()}, 501)
        self.send_response(reply.status)
        for name, value in (reply.headers | {"Content-Length": str(len(reply.body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *args: Any) -> None:
        """The tests read `hub.requests` instead."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def __init__(self, hub: "LoopbackHub"):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.open = hub, set()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self.open):
            with contextlib.suppress(OSError):  # closed meanwhile
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self.thread.join()


class LoopbackHub:
    """A Hub that lives as long as its `with` block; `requests` lists what it was asked, as (method, address)."""

    def __init__(self, token: str = "hf_loopback", user: str = "tester"):
        self.token, self.user = token, user
        self.repos: dict[tuple[str, str], Repo] = {}
        self.store: dict[str, bytes] = {}  # large files by their sha256
        self.requests: list[tuple[str, str]] = []
        self._signature, self._lock = secrets.token_hex(8), threading.Lock()

    def __enter__(self) -> "LoopbackHub":
        self._server = _Server(self)
        port = self._server.server_port
        # Two names of one server: the client takes a link to another host for one to the store, and sends it no token.
        self.endpoint, self._store_address = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.stop()

    def stored_at(self, oid: str) -> str:
        return f"{self._store_address}/store/{self._signature}/{oid}"

    def files(self, repo: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The whole content of a repository at a branch, tag or commit, by path."""
        return {path: blob.content for path, blob in self.repos[kind, repo].at(revision).files.items()}

    def environment(self, home: Path, token: bool = True) -> dict[str, str]:
        """Variables for a process that sees this Hub only and caches below `home`; without token: as anyone."""
        folders = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_MODULES_CACHE": "modules", "HF_ASSETS_CACHE": "assets"}
        return {
            **{name: str(Path(home) / folder) for name, folder in folders.items()},
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": self.token if token else "",
            "HF_TOKEN_PATH": str(Path(home) / "token"),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def attach(self, monkeypatch: pytest.MonkeyPatch, home: Path, token: bool = True) -> None:
        """Turns this process's `huggingface_hub` to this Hub; what others read from it at import stays as it was."""
        import huggingface_hub
        from huggingface_hub import constants, hf_api

        for name, value in self.environment(home, token).items():
            monkeypatch.setenv(name, value)
        patched = {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(Path(home) / "hub"),
            "HF_TOKEN_PATH": str(Path(home) / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in patched.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", self.endpoint)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # a client that it made before
        huggingface_hub.close_session()  # whose proxies are those of the old environment

    def answer(self, call: Call) -> Reply:
        for method, who, address, function in ROUTES:
            if method == call.method and (found := re.fullmatch(address, call.path)):
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part}
                with self._lock:
                    return function(self, call, **self._allow(who, call, parts))
        raise Refusal(404, f"the Hub on loopback has no {call.method} {call.path}")

    def _allow(self, who: str, call: Call, parts: dict[str, Any]) -> dict[str, Any]:
        """The route's arguments, with the repository found, if this request may have them."""
        if who == "signed":
            if parts.pop("signature") != self._signature or (call.method == "GET" and parts["oid"] not in self.store):
                raise Refusal(403, "there is nothing behind this link")
            return parts
        known = self._known(call)
        if who in ("user", "writer") and not known:
            raise Refusal(401, "Invalid username or password.")
        if "name" in parts:
            repo = self.repos.get((parts.pop("kind", "models"), parts.pop("name")))
            if repo is None or (repo.private and not known):
                message = "Repository not found" if known else "Invalid username or password."
                raise Refusal(404 if known else 401, message, "RepoNotFound")
            parts["repo"] = repo
        return parts

    def _known(self, call: Call) -> bool:
        given = call.headers.get("Authorization")
        if given not in (None, f"Bearer {self.token}"):
            raise Refusal(401, "Invalid credentials in Authorization header")
        return given is not None


__all__ = ["CLIENT_WARNINGS", "LoopbackHub"]
