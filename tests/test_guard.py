"""Who may talk to the pages: the rule itself, without a server (test_launch.py tries it on a real one)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from acestep.ui.guard import LocalGuard


def answer(headers: dict[str, str], path: str = "/", kind: str = "http", **guard: Any) -> list[dict[str, Any]]:
    """The messages that come back for a request; the page itself answers 200."""
    sent: list[dict[str, Any]] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(LocalGuard(page, **guard)(scope, None, send))  # type: ignore[arg-type]
    return sent


def passes(host: str, path: str = "/", *, headers: dict[str, str] | None = None, **guard: Any) -> bool:
    return bool(answer({"host": host, **(headers or {})}, path, **guard)[0]["status"] == 200)


@pytest.mark.parametrize("host", ["127.0.0.1:7861", "localhost:7861", "LOCALHOST", "[::1]:7861", "7861.localhost"])
def test_names_of_this_computer_are_known(host: str) -> None:
    assert passes(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:7861",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.0.7",
        "[::2]",
    ],
)
def test_other_names_are_not(host: str) -> None:
    assert not passes(host)


def test_names_can_be_added_and_addresses_allowed_where_a_login_is_asked() -> None:
    assert passes("studio.lan:7861", names=["studio.lan"])
    assert passes("abc.gradio.live", names=["*.gradio.live"])
    assert not passes("gradio.live.evil.example", names=["*.gradio.live"])
    assert passes("192.168.0.7:7861", any_address=True)
    assert not passes("evil.example", any_address=True)


def test_requests_of_the_page_itself_pass_and_of_other_pages_do_not() -> None:
    assert passes("localhost:7861", headers={"origin": "http://localhost:7861", "sec-fetch-site": "same-origin"})
    assert passes("localhost:7861", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"})
    assert not passes("localhost:7861", headers={"origin": "http://localhost:9999"})
    assert not passes("localhost:7861", headers={"origin": "http://localhost:7861.evil.example"})
    assert not passes("localhost:7861", headers={"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"})


@pytest.mark.parametrize("path", ["/gradio_api/file=http://evil.example/x", "/gradio_api/proxy=http://evil.example"])
def test_the_server_fetches_nothing_for_others(path: str) -> None:
    assert not passes("localhost", path)


def test_a_web_socket_of_another_page_is_closed() -> None:
    assert answer({"host": "evil.example"}, kind="websocket") == [{"type": "websocket.close", "code": 4403}]


def test_answers_carry_the_rules_for_the_browser() -> None:
    [message] = answer({"host": "localhost"})
    assert {name for name, _ in message["headers"]} == {
        b"content-security-policy",
        b"referrer-policy",
        b"x-content-type-options",
    }
