"""The page context of the trainer's tabs."""

from __future__ import annotations

import gradio as gr

from acestep.ui.page_context import PageContext
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.workflow import TABS


class TrainerContext(PageContext):
    """The trainer's page and the state that it shows."""

    def __init__(self, app: AppState, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
        super().__init__(app.settings, blocks, tabs, TABS)
        self.app = app
