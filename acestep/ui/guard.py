"""Protects the local server from requests of other web pages.

Gradio 6.31 checks neither the Host of a request (DNS rebinding: a foreign name
may point to this computer) nor the origin of requests from pages on other local ports. Pure ASGI, because Starlette's
BaseHTTPMiddleware breaks streams.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# The browser may only contact this server. Gradio needs inline scripts and styles, and eval for ``js_on_load``;
# launchers such as Pinokio show the page in a frame.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
)
_HEADERS = [
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]


class LocalGuard:
    """Accepts a request if its Host is one of ``names`` and it was not sent by a page of another origin.

    ``names`` may hold ``*.domain``. Names below ``.localhost`` never leave the computer (RFC 6761). With
    ``any_address`` every plain IP address is accepted as well: rebinding needs a name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] = (), any_address: bool = False) -> None:
        self._app = app
        self._names = {name.lower() for name in (*LOOPBACK, "*.localhost", *names)}
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        if not self._is_allowed(scope):
            return await _reject(scope, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        return await self._app(scope, receive, send_with_headers)

    def _is_allowed(self, scope: Scope) -> bool:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        is_cross_origin = headers.get(b"sec-fetch-site") in ("cross-site", "same-site")
        path = str(scope.get("path", ""))
        return (
            self._is_known(host)
            and (origin is None or origin.partition("://")[2] == host)
            and (not is_cross_origin or headers.get(b"sec-fetch-mode") == "navigate")
            and not path.startswith(("/gradio_api/file=http", "/gradio_api/proxy="))
        )

    def _is_known(self, host: str) -> bool:
        name = _without_port(host).lower()
        if name in self._names or f"*.{name.partition('.')[2]}" in self._names:
            return True
        return self._any_address and _is_address(name)


def _without_port(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _reject(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 4403})
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    return await send({"type": "http.response.body", "body": b"This address is not open to other pages."})
