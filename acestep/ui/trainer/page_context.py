"""What the tabs of the trainer are built with."""

from __future__ import annotations

import gradio as gr

from acestep.ui.page_context import BaseShell, Cure, heading
from acestep.ui.trainer.app_state import Desk
from acestep.ui.trainer.workflow import TABS

__all__ = ["Cure", "Shell", "heading"]


class Shell(BaseShell):
    """One page of the trainer, over the desk it works on."""

    def __init__(self, desk: Desk, page: gr.Blocks, tabs: gr.Tabs) -> None:
        super().__init__(desk.settings, page, tabs, TABS)
        self.desk = desk
