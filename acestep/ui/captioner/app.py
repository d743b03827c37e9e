"""The captioner's page: all tabs."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html
from acestep.ui.blocks import PageBlocks
from acestep.ui.captioner.api import Api
from acestep.ui.captioner.app_state import AppState
from acestep.ui.captioner.engine_tab import EngineTab
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.captioner.review_tab import ReviewTab
from acestep.ui.captioner.run_tab import RunTab
from acestep.ui.captioner.songs_tab import SongsTab
from acestep.ui.captioner.system_tab import SystemTab
from acestep.ui.progress import STATE_LABELS, STATE_TONES
from acestep.ui.serve import Page
from acestep.ui.watch import ACTIVE
from acestep.ui.workspace import Workspace

TITLE = "ACE-Step captioner"
_PREVIEW_LIFETIME_S = 86_400
_SAVE_KEY = """() => document.addEventListener("keydown", event => {
  if (event.key === "Enter" && event.ctrlKey) document.querySelector("#cp-song-next")?.click();
})"""


def build(app: AppState) -> gr.Blocks:
    """The page, not yet served."""
    blocks: PageBlocks
    with PageBlocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, _PREVIEW_LIFETIME_S)) as blocks:
        head = gr.HTML(elem_id="cp-head")
        tabs = gr.Tabs(elem_id="cp-tabs")
        page = CaptionerContext(app, blocks, tabs)
        with tabs:
            with page.begin_tab("songs"):
                SongsTab(page)
            with page.begin_tab("engine"):
                form = EngineTab(page).form
            with page.begin_tab("run"):
                RunTab(page, form)
            with page.begin_tab("review"):
                ReviewTab(page, form)
            with page.begin_tab("system"):
                SystemTab(page)
        page.live.add([head], app.watch.version, lambda: [_head(app)])
        page.saved_fields.wire(page.live)
        page.live.wire(blocks)
        Api(app).publish()
        blocks.load(None, js=_SAVE_KEY, api_visibility="private")
    return blocks


def _head(app: AppState) -> str:
    state, view = app.watch.read()
    active = state in ACTIVE
    pill = html.badge(
        STATE_LABELS[state] if active else "idle", STATE_TONES.get(state, "plain") if active else "plain", state=state
    )
    words = f"{view.done} of {view.total}" if active and view.total else ""
    return f'<div class="ac-line ac-head"><h1>{TITLE}</h1>{pill}<span class="ac-phase">{html.text(words)}</span></div>'


def build_page() -> Page:
    """The page with its health report and its shutdown."""
    app = AppState(Workspace.of_program())
    return Page(build(app), health=lambda: {"captioning": app.active}, close=app.close)
