"""A page with a login: nothing is open before it, guessing is slow, and long requests are rejected unread."""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import httpx2
import pytest
from gradio_client import Client

import launch
from acestep.core.errors import ConfigError
from acestep.ui import login
from acestep.ui.login import LoginThrottle
from acestep.ui.request_limits import MAX_UPLOAD_BYTES, RequestLimits
from acestep.ui.serve import Address, Page, open_page, prepare_environment

LOGIN = ("me", "secret-word")
LIMIT = 2 * 2**20

# What a visitor may request without a login: the login form, its files, and what launchers poll.
OPEN = {
    "/",
    "/assets/{path:path}",
    "/favicon.ico",
    "/gradio_api/startup-events",
    "/gradio_api/theme.css",
    "/health",
    "/login",
    "/login/",
    "/logout",
    "/manifest.json",
    "/robots.txt",
    "/static/{path:path}",
    "/svelte/{path:path}",
    "/theme.css",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """The address and the Gradio app of a page with a login."""
    with pytest.MonkeyPatch.context() as patch, gr.Blocks() as blocks:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FORWARDED_ALLOW_IPS", "")
        name, shout = gr.Textbox(), gr.Textbox()
        name.submit(lambda text: text.upper(), name, shout, api_name="shout")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = Address(port=port, auth=LOGIN)
        with open_page(Page(blocks), address):
            yield address.url, blocks.app


@contextmanager
def log_in(url: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=url, trust_env=False) as client:
        assert client.post("/login", data={"username": LOGIN[0], "password": LOGIN[1]}).status_code == 200
        yield client


def every_route(app: Any) -> list[tuple[str, str]]:
    """Method and path of all routes, with names of parameters in braces."""
    routes = [each for route in app.routes for each in (getattr(route, "original_router", None) or app).routes]
    return sorted({(method, route.path) for route in routes if hasattr(route, "path") for method in route.methods})


def test_every_route_needs_the_login_except_a_short_list(page: tuple[str, Any]) -> None:
    url, app = page
    routes = every_route(app)
    assert len(routes) > 60
    assert {path for _, path in routes} >= {"/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/upload", "/config"}
    assert {path for _, path in routes} >= OPEN - {"/health"}
    with httpx2.Client(base_url=url, trust_env=False, timeout=10) as visitor:
        for method, path in routes:
            answer = visitor.request(method, path.replace("{", "").replace("}", ""))
            assert (answer.status_code in (401, 403)) is (path not in OPEN), f"{method} {path}: {answer.status_code}"
        for path in ("/", "/health", "/login_check", "/no-such-page"):
            assert visitor.get(path).status_code == (200 if path in OPEN else 401)
        assert visitor.get("/gradio_api/cancel", headers={"Cookie": "access-token-x=1; ;=;"}).status_code == 401


def test_the_page_works_after_the_login(page: tuple[str, Any]) -> None:
    client = Client(page[0], auth=LOGIN, verbose=False)
    assert client.predict("hello", api_name="/shout") == "HELLO"
    job = client.submit("hello", api_name="/shout")
    assert job.result(10) == "HELLO"
    client.close()
    with log_in(page[0]) as visitor:
        assert visitor.get("/config").status_code == 200
        assert visitor.post("/gradio_api/reset", json={"event_id": "x"}).status_code == 200
        assert len(visitor.post("/gradio_api/upload", files={"files": b"music"}).json()) == 1


def raw(url: str, head: str, body: bytes = b"") -> tuple[int, float]:
    """Status of a request that is written by hand, and seconds until it arrived."""
    host, _, port = url.removeprefix("http://").partition(":")
    start_s = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"{head}\r\nHost: {host}:{port}\r\n\r\n".encode() + body)
        status = int(connection.recv(1000).split()[1])
    return status, time.monotonic() - start_s


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/run/shout", "/login", "/gradio_api/cancel"])
def test_a_long_body_is_rejected_before_it_is_sent(page: tuple[str, Any], path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n"
    assert raw(page[0], f"{head}Content-Length: 120000000")[0] == 413
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [b"[]," * 20_000] * 40)
    assert raw(page[0], f"{head}Transfer-Encoding: chunked", chunks)[0] == 413


@pytest.mark.parametrize("length", [0, 5, 10**6])
def test_a_short_body_arrives_complete_with_or_without_its_length(page: tuple[str, Any], length: int) -> None:
    text = "a" * length
    with log_in(page[0]) as visitor:
        data = f'{{"data": ["{text}"]}}'.encode()
        sent = {"headers": {"Content-Type": "application/json"}}
        plain = visitor.post("/gradio_api/run/shout", content=data, **sent)
        chunked = visitor.post("/gradio_api/run/shout", content=iter([data[:3], data[3:]]), **sent)
    assert plain.json()["data"] == chunked.json()["data"] == [text.upper()]


def test_uploads_are_limited_by_size_and_by_free_space(page: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    head = "POST /gradio_api/upload HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert raw(page[0], f"{head}Content-Length: {MAX_UPLOAD_BYTES * 2}")[0] == 413
    assert raw(page[0], f"{head}Content-Length: -1")[0] in (400, 413)
    assert raw(page[0], f"{head}Transfer-Encoding: chunked")[0] == 411
    usage = namedtuple("usage", "total used free")
    with log_in(page[0]) as visitor:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 2**30))
        assert visitor.post("/gradio_api/upload", files={"files": b"music"}).status_code == 507


def test_a_wrong_password_slows_down_the_next_attempts(page: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login, "_FIRST_DELAY_S", 0.1)
    with httpx2.Client(base_url=page[0], trust_env=False) as guesser:
        took_s = []
        for number in range(4):
            start_s = time.monotonic()
            headers = {"X-Forwarded-For": f"10.0.0.{number}"}  # not believed: the address is that of the connection
            sent = guesser.post("/login", data={"username": "me", "password": str(number)}, headers=headers)
            assert sent.status_code == 400
            took_s.append(time.monotonic() - start_s)
        assert took_s[1] > 0.09
        assert took_s[2] > 0.19
        assert took_s[3] > 0.39
        assert guesser.post("/login", data={"username": LOGIN[0], "password": LOGIN[1]}).status_code == 200
        start_s = time.monotonic()
        assert guesser.post("/login", data={"username": LOGIN[0], "password": LOGIN[1]}).status_code == 200
        assert time.monotonic() - start_s < 0.4  # the right password ends the delays


class FakeLogin:
    """The throttle in front of a login that always fails, with the times that attempts would wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []
        self.now_s, self.sleep = 1000.0, asyncio.sleep
        monkeypatch.setattr(login.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(login.asyncio, "sleep", self._sleep)

        async def fail(scope: Any, receive: Any, send: Any) -> None:
            await self.sleep(0)
            await send({"type": "http.response.start", "status": 400})

        self.throttle = LoginThrottle(fail)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds
        await self.sleep(0)

    async def attempt(self, address: str = "10.0.0.1") -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/login", "client": (address, 1)}
        await self.throttle(scope, None, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])


def test_the_delay_doubles_up_to_a_limit_and_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLogin(monkeypatch)
    for _ in range(100):
        asyncio.run(fake.attempt())
    assert fake.waits[:5] == [0, 0.5, 1, 2, 4]
    assert max(fake.waits) == fake.waits[-1] == 30
    asyncio.run(fake.attempt("10.0.0.2"))
    assert fake.waits[-1] == 0
    fake.now_s += 1000
    asyncio.run(fake.attempt())
    assert fake.waits[-1] == 0


def test_attempts_at_the_same_time_wait_for_each_other_and_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLogin(monkeypatch)

    async def many() -> list[int]:
        return await asyncio.gather(*(fake.attempt() for _ in range(20)))

    statuses = asyncio.run(many())
    assert statuses.count(429) == 12
    assert fake.waits == [0, 0.5, 1, 2, 4, 8, 16, 30]


def test_many_addresses_need_little_memory_and_ipv6_networks_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeLogin(monkeypatch)

    async def many() -> None:
        for number in range(1500):
            await fake.attempt(f"10.0.{number // 250}.{number % 250}")
        for number in range(3):
            await fake.attempt(f"2001:db8::{number}")

    asyncio.run(many())
    assert len(fake.throttle._addresses) == 1000
    assert fake.waits[-3:] == [0, 0.5, 1]


def test_streams_and_web_sockets_are_not_read_ahead() -> None:
    received: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        received.append(receive)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    for kind, headers in (("http", []), ("websocket", []), ("http", [(b"content-length", b"7")])):
        scope = {"type": kind, "path": "/gradio_api/queue/data", "method": "GET", "headers": headers}
        asyncio.run(RequestLimits(page)(scope, receive, None))  # type: ignore[arg-type]
    assert received == [receive] * 3


def test_the_password_is_asked_for_or_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: "typed: word" if prompt == "Password for me: " else "")
    assert launch._login("me") == ("me", "typed: word")
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    with pytest.raises(ConfigError, match="NAME to be asked"):
        launch._login("me")
    monkeypatch.setenv("ACESTEP_AUTH", "me:from: environment")
    assert launch._login(None) == ("me", "from: environment")
    assert launch._login(None) is None  # removed, so that no process inherits it


def test_only_a_configured_proxy_is_believed() -> None:
    environment = {"FORWARDED_ALLOW_IPS": "10.0.0.1"}
    prepare_environment(environment)
    assert environment["FORWARDED_ALLOW_IPS"] == "10.0.0.1"
    environment = {}
    prepare_environment(environment)
    assert environment["FORWARDED_ALLOW_IPS"] == ""


def test_a_folder_of_uploads_that_does_not_exist_yet_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from acestep.ui import request_limits

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "not" / "yet"))
    assert request_limits._free_bytes() > 0
