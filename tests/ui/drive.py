"""A trainer in a process of its own, and Chromium looking at it. Nothing but this computer is reached."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, Request, expect, sync_playwright

from acestep.core.paths import PROJECT

CHROMIUM = shutil.which("chromium")  # without one, Playwright uses its own
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
WAIT_S = 40  # for what takes a moment; two cores may be shared
LONG_S = 180  # for a job
# What Gradio reports when a reload or the end of a test cuts off a request.
CUT_OFF = ("AbortError: signal is aborted", "Unexpected error Connection errored out")

expect.set_options(timeout=WAIT_S * 1000)


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Site:
    """A running trainer, the folder it works in, and how long it took to say that it is ready."""

    url: str
    workspace: Path
    process: subprocess.Popen[str]
    ready_s: float


@contextmanager
def serve(workspace: Path, **variables: str) -> Iterator[Site]:
    """``python launch.py`` on a free port over ``workspace``; it is ended like a service, by SIGTERM.

    ``variables`` are added to its environment.
    """
    port = free_port()
    workspace.mkdir(parents=True, exist_ok=True)
    settings = {"ACESTEP_WORKSPACE": str(workspace), "GRADIO_TEMP_DIR": str(workspace / "cache")}
    begin = time.monotonic()
    with (workspace / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "launch.py"), "--port", str(port), "--skip-env-check"],
            stdin=subprocess.DEVNULL,
            env=os.environ | settings | variables,
            cwd=workspace,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, (workspace / "server.log").read_text()
            yield Site(url, workspace, process, time.monotonic() - begin)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LONG_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser; only one may be alive in a process."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Traffic:
    """What a page asked for elsewhere (it does not get it), and what it complained about.

    Requests are watched, not routed: a page whose requests are routed has no cache and loads slowly.
    """

    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("request", self._requested)
        page.on("console", lambda message: self._note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self._note(str(error)))

    def _note(self, error: str) -> None:
        if not error.startswith(CUT_OFF):
            self.errors.append(error)

    def _requested(self, request: Request) -> None:
        here = urlsplit(request.url).hostname in ("127.0.0.1", "localhost")
        if not here and not request.url.startswith(("data:", "blob:")):
            self.outside.append(request.url)


@contextmanager
def visit(browser: Browser, site: Site, **context: object) -> Iterator[Page]:
    """An open page, usable; afterwards it has asked for nothing outside and complained about nothing."""
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})  # type: ignore[arg-type]
    opened.set_default_timeout(WAIT_S * 1000)
    page, traffic = opened.new_page(), Traffic()
    traffic.watch(page)
    open_page(page, site)
    yield page
    opened.close()
    assert not traffic.outside, traffic.outside
    assert not traffic.errors, traffic.errors


def open_page(page: Page, site: Site) -> None:
    """Load the trainer and wait until its header has been painted."""
    page.goto(site.url, wait_until="domcontentloaded")
    expect(page.locator("#tr-head h1")).to_be_visible()


def tab(page: Page, name: str) -> None:
    """Open a tab; on a narrow screen it may be in the menu of those that have no room."""
    expect(page.get_by_role("tab").first).to_be_visible()
    button = page.get_by_role("tab", name=name)
    if not button.is_visible():
        page.locator(".overflow-menu > button").click()
        button = page.locator(".overflow-dropdown button", has_text=name)
    button.click()


def box(page: Page, elem_id: str) -> Locator:
    """The input of a field."""
    return page.locator(f"#{elem_id} textarea, #{elem_id} input").first


def fill(page: Page, elem_id: str, text: str) -> None:
    """Type into a field as a person does, so that the page notices."""
    box(page, elem_id).fill(text)
    box(page, elem_id).press("Tab")


def press(page: Page, elem_id: str) -> None:
    page.locator(f"#{elem_id}").click()


def wait_for_state(page: Page, name: str, state: str) -> str:
    """Wait until the job panel ``name`` shows ``state``; gives the id of its run."""
    pill = page.locator(f"#{name}-status [data-state]")
    expect(pill).to_have_attribute("data-state", re.compile(f"^({state})$"), timeout=LONG_S * 1000)
    return pill.get_attribute("data-run") or ""
