"""A local server with the APIs of OpenAI, ElevenLabs and Gemini, including their errors."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "test-key-0123456789"

WORDS = [("Hold", 0.0, 0.4), ("me", 0.5, 0.7), ("now", 0.8, 1.2), ("again", 3.0, 3.5)]
CAPTION = "Driving synthwave with gated drums and a soaring lead."
ANSWER = {
    "caption": CAPTION,
    "genre": "synthwave",
    "bpm": 118,
    "keyscale": "F# minor",
    "timesignature": "4/4",
    "language": "English",
    "lyrics": "[Verse]\nHold me now",
}


@dataclass
class Request:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    fields: dict[str, bytes] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeCloud:
    """The state of the server.

    Attributes:
        script: behavior for each of the next transcription or caption requests: "ok", "401", "429", "429:SECONDS",
            "500", "timeout", "malformed", "empty", "quota", "redirect", "hold" (waits until ``release`` is set), or a
            dictionary to return. Later requests succeed.
    """

    url: str = ""
    script: list[Any] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    language: str = "english"
    words: list[tuple[str, float, float]] = field(default_factory=lambda: list(WORDS))
    answer: dict[str, Any] = field(default_factory=lambda: dict(ANSWER))
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def fake_cloud(*script: Any) -> Iterator[FakeCloud]:
    """Run a server. Its ``url`` replaces the address of each service."""
    cloud = FakeCloud(script=list(script))
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cloud": cloud}))
    server.daemon_threads = True
    cloud.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield cloud
    finally:
        cloud.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    cloud: FakeCloud
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, body, _fields(headers, body))
        self.cloud.requests.append(request)
        if self.path == "/v1/audio/transcriptions":
            self._respond(request, headers.get("authorization") == f"Bearer {KEY}", self._whisper)
        elif self.path == "/v1/speech-to-text":
            self._respond(request, headers.get("xi-api-key") == KEY, self._elevenlabs)
        elif self.path.endswith(":generateContent"):
            self._respond(request, headers.get("x-goog-api-key") == KEY, self._gemini)
        elif self.path.startswith("/upload/"):
            self._upload(request)
        elif self.path.startswith("/v1beta/files/"):
            self._file(request)
        else:
            self._send(404, {"error": {"message": f"no such path {self.path}"}})

    def _respond(self, request: Request, authorized: bool, answer: Any) -> None:
        behavior = self.cloud.script.pop(0) if self.cloud.script else "ok"
        if not authorized or behavior == "401":
            self._send(401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}})
        elif isinstance(behavior, dict):
            self._send(200, behavior)
        elif behavior.startswith("429"):
            wait = behavior.partition(":")[2] or "0"
            self._send(429, {"error": {"message": "Rate limit reached"}}, {"Retry-After": wait})
        elif behavior == "quota":
            self._send(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
        elif behavior == "500":
            self._send(500, b"<html>Internal Server Error</html>")
        elif behavior == "redirect":
            self._send(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
        elif behavior == "timeout":
            time.sleep(1.0)
            self._send(200, {})
        elif behavior == "malformed":
            self._send(200, b'{"text": "Hold me')
        else:
            if behavior == "hold":
                self.cloud.release.wait(60)
            answer(request, empty=behavior == "empty")

    def _whisper(self, request: Request, *, empty: bool) -> None:
        expected = {b"verbose_json": "response_format", b"word": "timestamp_granularities[]"}
        if not request.fields.get("file") or any(request.fields.get(name) != value for value, name in expected.items()):
            return self._send(400, {"error": {"message": "a field is missing"}})
        words = [] if empty else self.cloud.words
        text = " ".join(word for word, _, _ in words)
        timed = [{"word": word, "start": start, "end": end} for word, start, end in words]
        return self._send(200, {"language": self.cloud.language, "duration": 9.0, "text": text, "words": timed})

    def _elevenlabs(self, request: Request, *, empty: bool) -> None:
        if not request.fields.get("file") or not request.fields.get("model_id"):
            return self._send(422, {"detail": [{"msg": "Field required"}]})
        timed: list[dict[str, Any]] = []
        for word, start, end in [] if empty else self.cloud.words:
            timed.append({"text": word, "start": start, "end": end, "type": "word"})
            timed.append({"text": " ", "start": end, "end": end, "type": "spacing"})
        if timed:
            timed.append({"text": "(applause)", "start": 8.0, "end": 9.0, "type": "audio_event"})
        text = "" if empty else " ".join(word for word, _, _ in self.cloud.words)
        return self._send(200, {"language_code": self.cloud.language[:3], "text": text, "words": timed})

    def _gemini(self, request: Request, *, empty: bool) -> None:
        audio, prompt = request.json["contents"][0]["parts"]
        config = request.json["generationConfig"]
        if config["responseMimeType"] != "application/json" or "caption" not in config["responseSchema"]["properties"]:
            return self._send(400, {"error": {"message": "no schema"}})
        if "inlineData" in audio:
            if len(request.body) > 20 * 1024 * 1024:
                return self._send(400, {"error": {"message": "Request payload size exceeds the limit"}})
            assert base64.b64decode(audio["inlineData"]["data"])
        else:
            name = audio["fileData"]["fileUri"].rpartition("/")[2]
            if self.cloud.files.get(name, {}).get("state") != "ACTIVE":
                return self._send(400, {"error": {"message": "The file is not in an ACTIVE state"}})
        assert prompt["text"]
        text = "" if empty else json.dumps(self.cloud.answer)
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}
        return self._send(200, {"candidates": [candidate], "usageMetadata": {"totalTokenCount": 99}})

    def _upload(self, request: Request) -> None:
        command = request.headers.get("x-goog-upload-command")
        if request.path == "/upload/v1beta/files" and command == "start":
            assert request.headers["x-goog-upload-protocol"] == "resumable"
            self.cloud.files["abc"] = {"size": int(request.headers["x-goog-upload-header-content-length"])}
            return self._send(200, b"", {"X-Goog-Upload-URL": f"{self.cloud.url}/upload/session/abc"})
        file = self.cloud.files["abc"]
        if command != "upload, finalize" or len(request.body) != file["size"]:
            return self._send(400, {"error": {"message": "bad upload"}})
        file |= {"name": "files/abc", "uri": f"{self.cloud.url}/v1beta/files/abc", "state": "PROCESSING"}
        return self._send(200, {"file": file})

    def _file(self, request: Request) -> None:
        name = request.path.rpartition("/")[2]
        if request.method == "DELETE":
            self.cloud.deleted.append(name)
            self.cloud.files.pop(name, None)
            return self._send(200, {})
        self.cloud.files[name]["state"] = "ACTIVE"
        return self._send(200, self.cloud.files[name])

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # the client timed out


def _fields(headers: dict[str, str], body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    kind = headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return {}
    message = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    return {
        str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[misc]
        for part in parts
    }
