"""The login of the pages: every route needs it, and wrong passwords slow down further attempts.

Gradio 6.31 checks the login in most routes, but not in ``/cancel``, ``/reset`` and some others, and does not limit
attempts.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from acestep.ui.request_limits import respond

# What the login form consists of, and what launchers poll. The server itself requests startup-events when it starts.
PUBLIC_PATHS = (
    "/",
    "/favicon.ico",
    "/gradio_api/startup-events",
    "/gradio_api/startup-events/",
    "/gradio_api/theme.css",
    "/health",
    "/login",
    "/login/",
    "/logout",
    "/manifest.json",
    "/robots.txt",
    "/theme.css",
)
PUBLIC_FOLDERS = ("/assets/", "/static/", "/svelte/")

_FIRST_DELAY_S, _MAX_DELAY_S = 0.5, 30.0
_FORGET_S = 900.0
_MAX_ADDRESSES = 1000
_MAX_WAITING = 8  # attempts of one address at the same time
_WRONG_PASSWORD = 400  # status of Gradio's /login


class RequireLogin:
    """Rejects a request of somebody who is not logged in with 401, except for the login form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _is_public(str(scope["path"])) or _is_logged_in(scope):
            return await self._app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 4401})
        return await respond(send, 401, "Not authenticated: log in first.")


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


def _is_logged_in(scope: Scope) -> bool:
    """Whether the request has the cookie of a login, by the rule of ``get_current_user`` in gradio/routes.py."""
    gradio_app: Any = scope["app"]
    header = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    cookies = cookie_parser(header.decode("latin-1"))
    names = (f"access-token-{gradio_app.cookie_id}", f"access-token-unsecure-{gradio_app.cookie_id}")
    return any(cookies.get(name) in gradio_app.tokens for name in names)


@dataclass
class _Attempts:
    """The failed logins of one address."""

    failures: int = 0
    failed_at_s: float = 0.0
    waiting: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def wait_s(self) -> float:
        """How long the next attempt has to wait."""
        if self.failures == 0:
            return 0.0
        delay: float = min(_FIRST_DELAY_S * 2.0 ** min(self.failures - 1, 16), _MAX_DELAY_S)
        return max(0.0, self.failed_at_s + delay - time.monotonic())


class LoginThrottle:
    """Delays logins of an address after wrong passwords: 0.5 s, doubled each time, up to 30 s.

    Attempts of one address are processed one after the other; more than a few at once are rejected with 429. The
    address is that of the connection, of which IPv6 counts the /64 network. Behind a proxy it is the address that the
    proxy reports, if FORWARDED_ALLOW_IPS names the proxy (uvicorn).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._addresses: OrderedDict[str, _Attempts] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in ("/login", "/login/"):
            return await self._app(scope, receive, send)
        attempts = self._attempts(_address(scope))
        if attempts.waiting >= _MAX_WAITING:
            retry_after = (b"retry-after", str(int(_MAX_DELAY_S)).encode())
            return await respond(send, 429, "Too many login attempts. Try again later.", (retry_after,))
        attempts.waiting += 1
        try:
            async with attempts.lock:
                await asyncio.sleep(attempts.wait_s)
                await self._app(scope, receive, _counting(send, attempts))
        finally:
            attempts.waiting -= 1

    def _attempts(self, address: str) -> _Attempts:
        """The record of an address. The longest unused records are dropped first."""
        attempts = self._addresses.pop(address, None) or _Attempts()
        if attempts.failures and time.monotonic() - attempts.failed_at_s > _FORGET_S:
            attempts.failures = 0
        self._addresses[address] = attempts
        while len(self._addresses) > _MAX_ADDRESSES:
            self._addresses.popitem(last=False)
        return attempts


def _counting(send: Send, attempts: _Attempts) -> Send:
    """A ``send`` that counts a wrong password, and forgets the failures after the right one."""

    async def counted(message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == _WRONG_PASSWORD:
                attempts.failures, attempts.failed_at_s = attempts.failures + 1, time.monotonic()
            elif message["status"] == 200:
                attempts.failures = 0
        await send(message)

    return counted


def _address(scope: Scope) -> str:
    """The address of the client, or its /64 network for IPv6: one computer can use all of its addresses."""
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 6:
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
