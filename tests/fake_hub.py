"""A local server with the APIs of the Hugging Face Hub and ModelScope, which can simulate failures."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from safetensors.numpy import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def weights(num_values: int = 50_000) -> bytes:
    """A safetensors file with about 4 bytes per value."""
    return save({"weight": np.arange(num_values, dtype=np.float32)})


@dataclass
class FakeHub:
    """``repos``: name -> path -> content. The other fields simulate failures."""

    repos: dict[str, dict[str, bytes]]
    status: int = 0  # HTTP status of every response; 0 for normal operation
    disconnects: dict[str, list[int]] = field(default_factory=dict)  # file name -> bytes sent before each disconnect
    corrupt: dict[str, int] = field(default_factory=dict)  # file name -> number of corrupted responses
    longer: dict[str, int] = field(default_factory=dict)  # file name -> bytes sent beyond the listed size
    ignore_range: bool = False
    url: str = ""
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def requests_for(self, part: str) -> list[tuple[str, str, dict[str, str]]]:
        return [request for request in self.requests if part in request[1]]


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve ``hub`` on a free port while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.hub.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.hub.status:
            return self._json({"error": "no"}, self.hub.status)
        if path == "/":
            return self._json({})
        if path.startswith("/api/v1/models/"):
            return self._modelscope(path.removeprefix("/api/v1/models/"), query)
        if path.startswith("/api/models/"):
            return self._huggingface_api(path.removeprefix("/api/models/"))
        if path.startswith("/cdn/"):
            return self._content(*self._split(path.removeprefix("/cdn/"), "/-/"))
        return self._resolve(*self._split(path.removeprefix("/"), f"/resolve/{COMMIT}/"))

    @staticmethod
    def _split(path: str, mark: str) -> tuple[str, str]:
        repo, _, file = path.partition(mark)
        return repo, file

    def _huggingface_api(self, path: str) -> None:
        repo, _, route = path.replace("/revision/", "|revision/").replace("/tree/", "|tree/").partition("|")
        if repo not in self.hub.repos:
            return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        if route == "revision/main":
            return self._json({"id": repo, "sha": COMMIT, "siblings": [], "tags": [], "private": False})
        assert route == f"tree/{COMMIT}", route
        return self._json([_tree_entry(name, content) for name, content in self.hub.repos[repo].items()])

    def _resolve(self, repo: str, file: str) -> None:
        if file not in self.hub.repos.get(repo, {}):
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        if not _is_large(file):
            return self._content(repo, file)
        port = urlsplit(self.hub.url).port  # another origin, like a CDN
        return self._json(
            {}, 302, {"Location": f"http://localhost:{port}/cdn/{repo}/-/{file}", "X-Repo-Commit": COMMIT}
        )

    def _modelscope(self, path: str, query: dict[str, list[str]]) -> None:
        repo, _, route = path.partition("/repo")
        files = self.hub.repos.get(repo)
        if files is None:
            return self._json({"Code": 10010205001, "Message": "not found"}, 404)
        assert query["Revision"] == ["master"]
        if route == "/files":
            entries = [_modelscope_entry(name, content) for name, content in files.items()]
            folder = {"Path": "folder", "Size": 0, "Sha256": "", "Type": "tree"}
            return self._json({"Code": 200, "Data": {"Files": [folder, *entries]}})
        return self._content(repo, query["FilePath"][0])

    def _content(self, repo: str, file: str) -> None:
        data, name = self.hub.repos[repo][file], file.rpartition("/")[2]
        if self.hub.corrupt.get(name, 0) > 0 and self.command == "GET":
            self.hub.corrupt[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        data += bytes(self.hub.longer.get(name, 0))
        start = 0 if self.hub.ignore_range else int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        disconnects = self.hub.disconnects.get(name)
        end = start + disconnects.pop(0) if disconnects else len(data)
        self.wfile.write(data[start:end])
        self.close_connection = end < len(data)

    def _json(self, data: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _is_large(file: str) -> bool:
    return file.endswith((".safetensors", ".pt"))


def _tree_entry(name: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": blob}
    if _is_large(name):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _modelscope_entry(name: str, content: bytes) -> dict[str, object]:
    return {"Path": name, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest(), "Type": "blob"}
