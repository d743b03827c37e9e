"""The captioner's page: the tabs put together."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html
from acestep.ui.captioner.api import Api
from acestep.ui.captioner.app_state import Desk
from acestep.ui.captioner.engine_tab import EngineTab
from acestep.ui.captioner.page_context import TABS, Shell
from acestep.ui.captioner.review_tab import ReviewTab
from acestep.ui.captioner.run_tab import RunTab
from acestep.ui.captioner.songs_tab import SongsTab
from acestep.ui.captioner.system_tab import SystemTab
from acestep.ui.progress import TONES, WORDS
from acestep.ui.serve import Page
from acestep.ui.watch import ACTIVE
from acestep.ui.workspace import Workspace

TITLE = "ACE-Step captioner"
_PREVIEWS_STAY_S = 86_400
_SAVE_KEY = """() => document.addEventListener("keydown", event => {
  if (event.key === "Enter" && event.ctrlKey) document.querySelector("#cp-song-next")?.click();
})"""


def build(desk: Desk) -> gr.Blocks:
    """The page over ``desk``, not yet served."""
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, _PREVIEWS_STAY_S)) as page:
        head = gr.HTML(elem_id="cp-head")
        tabs = gr.Tabs(elem_id="cp-tabs")
        shell = Shell(desk, page, tabs)
        with tabs:
            with _tab(shell, "songs"):
                SongsTab(shell)
            with _tab(shell, "engine"):
                form = EngineTab(shell).form
            with _tab(shell, "run"):
                RunTab(shell, form)
            with _tab(shell, "review"):
                ReviewTab(shell, form)
            with _tab(shell, "system"):
                SystemTab(shell)
        shell.live.show([head], desk.watch.version, lambda: [_head(desk)])
        shell.kept.wire(shell.live)
        shell.live.wire(page)
        Api(desk).publish()
        page.load(None, js=_SAVE_KEY, api_visibility="private")
    return page


def _tab(shell: Shell, name: str) -> gr.Tab:
    shell.tab = gr.Tab(TABS[name], id=name, elem_id=f"cp-tab-{name}")
    return shell.tab


def _head(desk: Desk) -> str:
    state, account = desk.watch.look()
    active = state in ACTIVE
    pill = html.pill(WORDS[state] if active else "idle", TONES.get(state, "plain") if active else "plain", state=state)
    words = f"{account.done} of {account.total}" if active and account.total else ""
    return f'<div class="ac-line ac-head"><h1>{TITLE}</h1>{pill}<span class="ac-phase">{html.text(words)}</span></div>'


def build_page() -> Page:
    """The page of this program, with what it needs to end in order."""
    desk = Desk(Workspace.of_program())
    return Page(build(desk), health=lambda: {"captioning": desk.active}, close=desk.close)
