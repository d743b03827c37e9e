"""The page context of the captioner's tabs."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html
from acestep.ui.captioner.app_state import AppState
from acestep.ui.page_context import PageContext

TABS = {"songs": "1. Songs", "engine": "2. Engine", "run": "3. Run", "review": "4. Review", "system": "System"}


class CaptionerContext(PageContext):
    """The captioner's page and the state that it shows."""

    def __init__(self, app: AppState, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
        super().__init__(app.settings, blocks, tabs, TABS, "cp")
        self.app = app


def paragraph(text: str) -> str:
    """A line of text as HTML."""
    return f'<p class="ac-summary">{html.text(text)}</p>' if text else ""
