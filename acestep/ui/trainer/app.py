"""The trainer's page: the tabs put together."""

from __future__ import annotations

import gradio as gr

from acestep.ui.serve import Page
from acestep.ui.trainer.api import Api
from acestep.ui.trainer.app_state import Desk
from acestep.ui.trainer.dataset_tab import DatasetTab
from acestep.ui.trainer.export_tab import ExportTab
from acestep.ui.trainer.header import build_header, wire_header
from acestep.ui.trainer.listen_tab import ListenTab
from acestep.ui.trainer.page_context import Shell
from acestep.ui.trainer.preprocess_tab import PreprocessTab
from acestep.ui.trainer.profiles_panel import ProfilesPanel
from acestep.ui.trainer.runs_tab import RunsTab
from acestep.ui.trainer.service_tab import ServiceTab
from acestep.ui.trainer.system_tab import SystemTab
from acestep.ui.trainer.train_tab import TrainTab
from acestep.ui.trainer.workflow import TABS
from acestep.ui.workspace import Workspace

TITLE = "ACE-Step trainer"
_PREVIEWS_STAY_S = 86_400


def build(desk: Desk) -> gr.Blocks:
    """The page over ``desk``, not yet served."""
    stay = (3600, _PREVIEWS_STAY_S)
    page: gr.Blocks
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=stay, fill_width=True) as page:
        header = build_header()
        profiles = ProfilesPanel()
        tabs = gr.Tabs(elem_id="tr-tabs")
        shell = Shell(desk, page, tabs)
        with tabs:
            train, preprocess = _fill_tabs(shell)
        profiles.wire(shell, train.settings, preprocess.form)
        wire_header(shell, header)
        shell.kept.wire(shell.live)
        shell.live.wire(page)
        Api(desk).publish()
    return page


def _fill_tabs(shell: Shell) -> tuple[TrainTab, PreprocessTab]:
    with _tab(shell, "service"):
        ServiceTab(shell)
    with _tab(shell, "dataset"):
        DatasetTab(shell)
    with _tab(shell, "preprocess"):
        preprocess = PreprocessTab(shell)
    with _tab(shell, "train"):
        train = TrainTab(shell)
    with _tab(shell, "listen"):
        ListenTab(shell)
    with _tab(shell, "export"):
        ExportTab(shell)
    with _tab(shell, "runs"):
        RunsTab(shell, train.settings)
    with _tab(shell, "system"):
        SystemTab(shell)
    return train, preprocess


def _tab(shell: Shell, name: str) -> gr.Tab:
    shell.tab = gr.Tab(TABS[name], id=name, elem_id=f"tr-tab-{name}")
    return shell.tab


def build_page() -> Page:
    """The page of this program, with what it needs to end in order."""
    desk = Desk(Workspace.of_program())
    service = desk.service
    return Page(
        build(desk),
        health=lambda: {"models_loaded": service.models_loaded, "llm_loaded": service.llm_loaded},
        close=desk.close,
    )
