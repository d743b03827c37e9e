"""What the tabs of the captioner are built with."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html
from acestep.ui.captioner.app_state import AppState
from acestep.ui.page_context import PageContext

TABS = {"songs": "1. Songs", "engine": "2. Engine", "run": "3. Run", "review": "4. Review", "system": "System"}


class CaptionerContext(PageContext):
    """One page of the captioner. ``captions`` is the desk it works on."""

    def __init__(self, app: AppState, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
        super().__init__(app.settings, blocks, tabs, TABS)
        self.app = app


def actions() -> gr.Row:
    """A row of buttons."""
    return gr.Row(elem_classes="ac-actions")


def phrase(words: str) -> str:
    """A line of plain words."""
    return f'<p class="ac-summary">{html.text(words)}</p>' if words else ""
