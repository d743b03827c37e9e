"""The trainer's page: all tabs."""

from __future__ import annotations

import gradio as gr

from acestep.ui.blocks import PageBlocks
from acestep.ui.serve import Page
from acestep.ui.trainer.api import Api
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.dataset_tab import DatasetTab
from acestep.ui.trainer.export_tab import ExportTab
from acestep.ui.trainer.header import build_header, wire_header
from acestep.ui.trainer.listen_tab import ListenTab
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.preprocess_tab import PreprocessTab
from acestep.ui.trainer.profiles_panel import ProfilesPanel
from acestep.ui.trainer.runs_tab import RunsTab
from acestep.ui.trainer.service_tab import ServiceTab
from acestep.ui.trainer.system_tab import SystemTab
from acestep.ui.trainer.train_tab import TrainTab
from acestep.ui.workspace import Workspace

TITLE = "ACE-Step trainer"
_PREVIEW_LIFETIME_S = 86_400


def build(app: AppState) -> gr.Blocks:
    """The page, not yet served."""
    stay = (3600, _PREVIEW_LIFETIME_S)
    blocks: PageBlocks
    with PageBlocks(title=TITLE, analytics_enabled=False, delete_cache=stay, fill_width=True) as blocks:
        header = build_header()
        profiles = ProfilesPanel()
        tabs = gr.Tabs(elem_id="tr-tabs")
        page = TrainerContext(app, blocks, tabs)
        with tabs:
            train, preprocess = _create_tabs(page)
        profiles.wire(page, train.settings, preprocess.form)
        wire_header(page, header)
        page.saved_fields.wire(page.live)
        page.live.wire(blocks)
        page.unconfirmed_text.wire(blocks)
        Api(app).publish()
    return blocks


def _create_tabs(page: TrainerContext) -> tuple[TrainTab, PreprocessTab]:
    with page.begin_tab("service"):
        ServiceTab(page)
    with page.begin_tab("dataset"):
        DatasetTab(page)
    with page.begin_tab("preprocess"):
        preprocess = PreprocessTab(page)
    with page.begin_tab("train"):
        train = TrainTab(page)
    with page.begin_tab("listen"):
        ListenTab(page)
    with page.begin_tab("export"):
        ExportTab(page)
    with page.begin_tab("runs"):
        RunsTab(page, train.settings)
    with page.begin_tab("system"):
        SystemTab(page)
    return train, preprocess


def build_page() -> Page:
    """The page with its health report and its shutdown."""
    app = AppState(Workspace.of_program())
    service = app.service
    return Page(
        build(app),
        health=lambda: {"models_loaded": service.models_loaded, "llm_loaded": service.llm_loaded},
        close=app.close,
    )
