"""A panel that cannot render shows its error in its own place; the other panels keep updating."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import expect

from acestep.core.errors import DatasetError
from acestep.ui.live import LiveUpdates
from acestep.ui.serve import Address, Page, open_page
from tests.ui.drive import chromium, free_port


class Clock:
    """A value that a panel shows, and an error that it raises instead while one is set."""

    def __init__(self) -> None:
        self.value = 0
        self.error: Exception | None = None

    def version(self) -> Hashable:
        return self.value

    def render(self) -> list[Any]:
        if self.error is not None:
            raise self.error
        return [f"value {self.value}"]


def build(first: Clock, second: Clock) -> tuple[gr.Blocks, LiveUpdates]:
    blocks: gr.Blocks
    with gr.Blocks() as blocks:
        live = LiveUpdates()
        live.add([gr.HTML(elem_id="first")], first.version, first.render)
        live.add([gr.HTML(elem_id="second")], second.version, second.render)
        live.wire(blocks)
    return blocks, live


def shown(update: Any) -> str:
    return str(update.get("value", "")) if isinstance(update, dict) else str(update)


@pytest.mark.parametrize(
    ("error", "message"),
    [(DatasetError("songs are gone", hint="Scan again."), "Songs are gone. Scan again."), (KeyError("x"), "a bug")],
)
def test_a_failing_panel_shows_its_error_and_recovers(error: Exception, message: str) -> None:
    first, second = Clock(), Clock()
    _, live = build(first, second)
    first.error = error
    seen, *values = live.refresh({})
    assert message in shown(values[0])
    assert shown(values[1]) == "value 0"
    second.value = 1
    seen, *values = live.refresh(seen)
    assert shown(values[0]) == ""  # the same error is not sent again
    assert shown(values[1]) == "value 1"
    first.error = None
    _, *values = live.refresh(seen)
    assert shown(values[0]) == "value 0"


def test_a_failing_panel_without_html_shows_its_error_below() -> None:
    def fail() -> list[Any]:
        raise DatasetError("songs are gone")

    with gr.Blocks():
        live = LiveUpdates()
        live.add([gr.Button("Start")], lambda: 0, fail)
    _, button, error = live.refresh({})
    assert shown(button) == ""
    assert "Songs are gone" in shown(error)
    assert error["visible"] is True


def test_an_error_in_the_version_of_a_panel_is_shown_too() -> None:
    first, second = Clock(), Clock()
    with gr.Blocks():
        live = LiveUpdates()
        live.add([gr.HTML()], lambda: {}["missing"], first.render)
        live.add([gr.HTML()], second.version, second.render)
    _, *values = live.refresh({})
    assert "could not be updated" in shown(values[0])
    assert shown(values[1]) == "value 0"


@pytest.mark.browser
def test_the_other_panels_of_an_open_page_keep_updating(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    first, second = Clock(), Clock()
    blocks, _ = build(first, second)
    address = Address(port=free_port())
    with open_page(Page(blocks), address), chromium() as browser:
        page = browser.new_page()
        page.goto(address.url, wait_until="domcontentloaded")
        expect(page.locator("#first")).to_contain_text("value 0")
        first.error, first.value, second.value = KeyError("x"), 1, 1
        expect(page.locator("#first")).to_contain_text("could not be updated")
        expect(page.locator("#second")).to_contain_text("value 1")
        first.error, second.value = None, 2
        expect(page.locator("#first")).to_contain_text("value 1")
        expect(page.locator("#second")).to_contain_text("value 2")
