"""Limits the size of requests before anything in them is parsed.

Parsing JSON of 120 MB blocks the server for half a minute, and Gradio 6.31 limits only the files of an upload.
Pure ASGI, because Starlette's BaseHTTPMiddleware breaks streams.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep.core.files import existing_parent

MAX_UPLOAD_BYTES = 500 * 2**20  # of one request
_MAX_FORM_OVERHEAD_BYTES = 2**20  # boundaries and headers of a multipart form
_MAX_LOGIN_BYTES = 16 * 2**10
_MAX_BODY_BYTES = 2 * 2**20
_RESERVED_DISK_BYTES = 2**30  # stays free after an upload
_UPLOAD_PATHS = ("/gradio_api/upload", "/gradio_api/upload/")
_LOGIN_PATHS = ("/login", "/login/")


class RequestLimits:
    """Rejects a request whose body is too long with 413, and an upload that does not fit on the disk with 507.

    Bodies of known length are passed on unread. A chunked body, whose length is unknown, is collected up to the limit
    first; a chunked upload is rejected with 411, because browsers and ``gradio_client`` send the length.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path, headers = str(scope["path"]), dict(scope["headers"])
        limit, length = _limit(path), _length(headers)
        if length is not None and not 0 <= length <= limit:
            return await respond(send, 413, f"The request is longer than {limit:,} bytes.")
        if path in _UPLOAD_PATHS:
            if length is None:
                return await respond(send, 411, "An upload needs a Content-Length.")
            if length and _free_bytes() < length + _RESERVED_DISK_BYTES:
                return await respond(send, 507, "The disk of the upload folder is almost full.")
        elif b"transfer-encoding" in headers:
            body = await _collect(receive, limit)
            if body is None:
                return await respond(send, 413, f"The request is longer than {limit:,} bytes.")
            receive = _replay(body, receive)
        return await self._app(scope, receive, send)


def _limit(path: str) -> int:
    if path in _UPLOAD_PATHS:
        return MAX_UPLOAD_BYTES + _MAX_FORM_OVERHEAD_BYTES
    return _MAX_LOGIN_BYTES if path in _LOGIN_PATHS else _MAX_BODY_BYTES


def _length(headers: dict[bytes, bytes]) -> int | None:
    """The announced length of the body, -1 if it is not a number; None if there is none."""
    text = headers.get(b"content-length")
    if text is None:
        return None
    return int(text) if text.isdigit() and len(text) < 20 else -1


def _free_bytes() -> int:
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    return shutil.disk_usage(existing_parent(folder)).free


async def _collect(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None if it is longer than ``limit``, or if the client is gone."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns ``body`` first, then what the server reports, such as a disconnect."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


async def respond(send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Answer with a plain text and close the connection, because the body was not read."""
    common = ((b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*common, *headers]})
    await send({"type": "http.response.body", "body": text.encode()})
