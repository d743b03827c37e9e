"""Every event listener shows its messages, refreshes the panels when it has finished, and waits for no other one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path

import gradio as gr
import httpx2
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from acestep.core.errors import DatasetError
from acestep.ui import live as live_module
from acestep.ui.errors import notify, warn
from acestep.ui.listeners import add_listener
from acestep.ui.live import LiveUpdates
from acestep.ui.serve import Address, open_page
from acestep.ui.serve import Page as ServedPage
from tests.ui.drive import box, fill, free_port, press

LISTENERS = ("fail", "crash", "succeed", "wait")  # in the order of their numbers


class State:
    """What the listeners of the test page do and did."""

    def __init__(self) -> None:
        self.count = self.waiting = 0
        self.release = threading.Event()

    def fail(self, text: str) -> str:
        self.count += 1
        raise DatasetError(f"cannot use {text}", hint="Type something else.")

    def crash(self) -> None:
        raise KeyError("internal")

    def succeed(self, text: str) -> str:
        self.count += 1
        notify(f"Used {text}.")
        warn("A warning.")
        return ""

    def wait(self) -> None:
        self.waiting += 1
        self.release.wait(60)


def build(state: State) -> gr.Blocks:
    blocks: gr.Blocks
    with gr.Blocks() as blocks:
        live = LiveUpdates()
        text = gr.Textbox(label="Text", elem_id="text")
        shown = gr.HTML(elem_id="count")
        for name in LISTENERS:
            button = gr.Button(name, elem_id=name)
            listener, takes_text = getattr(state, name), name in ("fail", "succeed")
            add_listener(live, button.click, listener, [text] if takes_text else [], [text] if takes_text else [])
        live.add([shown], lambda: state.count, lambda: [f"count {state.count}"])
        live.wire(blocks)
    return blocks


def test_a_second_click_is_ignored_the_last_value_counts_and_each_selected_row_is_handled() -> None:
    with gr.Blocks() as blocks:
        live = LiveUpdates()
        for component, event in ((gr.Button(), "click"), (gr.Dropdown(), "input"), (gr.Dataframe(), "select")):
            add_listener(live, getattr(component, event), lambda: None)
        add_listener(live, gr.Tab().select, lambda: None)
    listeners = [(listener.trigger_mode, listener.concurrency_limit) for listener in blocks.fns.values()]
    assert listeners == [("once", None), ("always_last", None), ("multiple", 1), ("once", None)]


@pytest.fixture
def state() -> Iterator[State]:
    state = State()
    yield state
    state.release.set()


@pytest.fixture
def address() -> Address:
    return Address(port=free_port())


@pytest.fixture
def server(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[State], AbstractContextManager[str]]:
    """Serves a page that does not poll, always at the same address; gives the address."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(live_module, "POLL_INTERVAL_S", 1000)

    @contextmanager
    def serve(state: State) -> Iterator[str]:
        with open_page(ServedPage(build(state)), address):
            yield address.url

    return serve


@pytest.fixture
def page(browser: Browser, state: State, server: Callable[[State], AbstractContextManager[str]]) -> Iterator[Page]:
    with server(state) as url:
        page = browser.new_page()
        page.clock.install()
        page.goto(url, wait_until="domcontentloaded")
        expect(page.locator("#count")).to_contain_text("count 0")
        yield page
        page.close()


def toast(page: Page, kind: str) -> Locator:
    return page.locator(f".toast-body.{kind}")


@pytest.mark.browser
def test_an_error_is_shown_refreshes_the_panels_and_leaves_the_text(page: Page) -> None:
    fill(page, "text", "typed <b>text</b>")
    press(page, "fail")
    expect(toast(page, "error")).to_contain_text("Cannot use typed <b>text</b>. Type something else.")
    expect(page.locator("#count")).to_contain_text("count 1", timeout=3000)
    expect(box(page, "text")).to_have_value("typed <b>text</b>")
    press(page, "crash")
    expect(toast(page, "error")).to_contain_text("This is a bug")


@pytest.mark.browser
def test_a_message_stays_long_enough_to_be_read_and_an_error_until_it_is_closed(page: Page, state: State) -> None:
    press(page, "fail")
    press(page, "succeed")
    expect(toast(page, "info")).to_contain_text("Used .")
    page.clock.fast_forward(3000)
    fill(page, "text", "more")
    press(page, "succeed")
    expect(toast(page, "info")).to_contain_text("Used more.")
    page.clock.fast_forward(3000)  # the first message is 6 s old, the second one 3 s
    expect(toast(page, "info")).to_contain_text("Used more.")
    page.clock.fast_forward(3000)
    expect(toast(page, "info")).to_have_count(0)
    expect(toast(page, "warning")).to_contain_text("A warning.")
    page.clock.fast_forward(60_000)
    expect(toast(page, "warning")).to_have_count(0)
    expect(toast(page, "error")).to_contain_text("Cannot use")
    page.get_by_test_id("toast-close").click()
    expect(toast(page, "error")).to_have_count(0)


@pytest.mark.browser
def test_a_listener_waits_for_no_other_one(page: Page, state: State) -> None:
    """Not even for itself on other pages."""
    number = next(number for number, name in enumerate(LISTENERS) if name == "wait")
    for session in range(6):
        body = {"fn_index": number, "session_hash": f"page {session}", "data": []}
        assert httpx2.post(f"{page.url}gradio_api/queue/join", json=body, trust_env=False).status_code == 200
    until(lambda: state.waiting == 6)
    press(page, "wait")
    until(lambda: state.waiting == 7)
    press(page, "succeed")
    expect(page.locator("#count")).to_contain_text("count 1", timeout=3000)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class CrashingState(State):
    """The program ends without a farewell when its page waits for it."""

    def wait(self) -> None:
        os._exit(1)


def serve_until_the_crash(address: Address, ready: Event) -> None:
    live_module.POLL_INTERVAL_S = 1000
    with open_page(ServedPage(build(CrashingState())), address):
        ready.set()
        time.sleep(120)


@pytest.mark.browser
def test_messages_arrive_after_a_restart_of_the_program_and_after_a_lost_connection(
    browser: Browser, server: Callable[[State], AbstractContextManager[str]], address: Address
) -> None:
    page = browser.new_page()
    with server(State()) as url:
        page.goto(url, wait_until="domcontentloaded")
        expect(page.locator("#count")).to_contain_text("count 0")
    processes = get_context("spawn")
    ready = processes.Event()
    program = processes.Process(target=serve_until_the_crash, args=(address, ready), daemon=True)
    program.start()
    assert ready.wait(60)
    fill(page, "text", "the same text")
    press(page, "fail")  # the page has not noticed the restart
    expect(toast(page, "error")).to_contain_text("Cannot use the same text")
    expect(page.locator("#count")).to_contain_text("count 1")
    press(page, "wait")
    program.join(20)
    expect(toast(page, "error")).to_contain_text("Connection to the server was lost")
    with server(State()):
        expect(toast(page, "error")).to_have_count(0)  # the page has reloaded by itself
        expect(page.locator("#count")).to_contain_text("count 0")
        press(page, "fail")
        expect(toast(page, "error")).to_contain_text("Cannot use")
        page.close()
