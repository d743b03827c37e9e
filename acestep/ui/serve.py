"""Serves a page on this computer until it is stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acestep.core.console_follow import STOP_SIGNALS
from acestep.core.errors import ConfigError
from acestep.system.doctor import port_problem, socks_proxies
from acestep.ui.guard import LOOPBACK, LocalGuard
from acestep.ui.import_ahead import ImportAhead, import_torch
from acestep.ui.login import LoginThrottle, RequireLogin
from acestep.ui.request_limits import MAX_UPLOAD_BYTES, RequestLimits

if TYPE_CHECKING:
    import gradio as gr
    from starlette.requests import Request
    from starlette.responses import Response

_TOASTS = Path(__file__).with_name("toasts.js")


def _nothing() -> None:
    """For a page that has nothing to save or to prepare."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page to serve. ``health`` returns the content of ``/health``; ``close`` is called before the program exits.

    ``prepare`` is called in another thread a few seconds after the page was opened first.
    """

    blocks: gr.Blocks
    health: Callable[[], dict[str, Any]] = dict
    close: Callable[[], None] = _nothing
    prepare: Callable[[], None] = import_torch


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a page and its login: ``auth`` is a name and a password."""

    host: str = "127.0.0.1"
    port: int = 7861
    auth: tuple[str, str] | None = None
    share: bool = False
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.auth is None and (self.share or self.host not in LOOPBACK):
            what = "--share" if self.share else f"--host {self.host}"
            raise ConfigError(
                [f"{what} lets others in, so it needs a login"],
                hint="Add --auth NAME:PASSWORD, or --auth NAME to be asked for the password.",
            )
        if not 0 < self.port < 65536:
            raise ConfigError([f"--port must be from 1 to 65535, got {self.port}"])

    def check_free(self) -> None:
        """Raises ConfigError when no server can be opened there."""
        if problem := port_problem(self.host, self.port):
            raise ConfigError(
                [f"port {self.port} of {self.host} cannot be opened: {problem}"],
                hint="Choose another one with --port; this program may be running already.",
            )

    @property
    def url(self) -> str:
        """The address for a browser on this computer."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def prepare_environment(environment: MutableMapping[str, str]) -> list[str]:
    """Set the environment variables that Gradio reads when it is imported. Returns notes for the user.

    Telemetry is off. Requests to this computer bypass a proxy, because Gradio does not start otherwise. SOCKS proxies
    are removed, because Gradio cannot be imported with one. The address that a proxy reports for a client is believed
    only if FORWARDED_ALLOW_IPS names the proxy; uvicorn would believe every program on this computer.
    """
    from platformdirs import user_cache_path

    environment["GRADIO_ANALYTICS_ENABLED"] = "False"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment.pop("GRADIO_ALLOWED_PATHS", None)  # would expose folders to all visitors of the page
    environment.setdefault("FORWARDED_ALLOW_IPS", "")
    environment.setdefault("GRADIO_TEMP_DIR", str(user_cache_path("acestep-trainer") / "gradio"))
    given = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    environment["NO_PROXY"] = environment["no_proxy"] = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    dropped = socks_proxies(environment)
    for name in dropped:
        del environment[name]
    return [f"{name} is not used: SOCKS proxies are not supported" for name in dropped]


@contextmanager
def open_page(page: Page, address: Address, *, browser: bool = False) -> Iterator[str]:
    """Serve ``page`` inside the block; yields the public address of ``--share``, else "".

    Raises ConfigError when the port is in use.
    """
    from starlette.middleware import Middleware
    from starlette.routing import Route

    from acestep.ui.theme import STYLES, make_theme

    names = (*address.names, *(() if address.host in ("0.0.0.0", "::") else (address.host,)))
    names += ("*.gradio.live",) if address.share else ()
    guards = [
        Middleware(LocalGuard, names=names, any_address=address.host not in LOOPBACK),
        Middleware(RequestLimits),
        *([Middleware(LoginThrottle), Middleware(RequireLogin)] if address.auth else []),
        Middleware(ImportAhead, start=page.prepare),
    ]
    Path(os.environ["GRADIO_TEMP_DIR"]).mkdir(parents=True, exist_ok=True)
    address.check_free()
    try:
        page.blocks.queue(default_concurrency_limit=4, max_size=64).launch(
            server_name=f"[{address.host}]" if ":" in address.host else address.host,
            server_port=address.port,
            auth=address.auth,
            share=address.share,
            inbrowser=browser,
            quiet=True,
            show_error=True,
            theme=make_theme(),
            css_paths=[STYLES],
            js=_TOASTS.read_text(encoding="utf-8"),
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,  # it would store entered values, including passwords, in the browser
            footer_links=["api", "settings"],
            allowed_paths=[],
            max_file_size=MAX_UPLOAD_BYTES,
            strict_cors=True,
            app_kwargs={"middleware": guards, "routes": [Route("/health", _health_route(page))]},
            prevent_thread_lock=True,
        )
    except OSError as problem:
        raise ConfigError([f"{address.url} cannot be opened"], hint="Choose another port with --port.") from problem
    try:
        yield page.blocks.share_url or ""
    finally:
        page.close()
        page.blocks.close(verbose=False)


def _health_route(page: Page) -> Callable[[Request], Response]:
    """Needs no login, because launchers poll it; reports only that the server runs and what is loaded."""
    from starlette.responses import JSONResponse

    def answer(request: Request) -> Response:
        return JSONResponse({"status": "ok", **page.health()})

    return answer


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """Inside the block, Ctrl-C and SIGTERM set the yielded event instead of ending the program."""
    asked = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: asked.set()) for kind in STOP_SIGNALS}
    try:
        yield asked
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
