"""The page context of the trainer's tabs."""

from __future__ import annotations

import gradio as gr

from acestep.ui.job_controls import JobControls
from acestep.ui.page_context import PageContext
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.field_changes import FieldChanges
from acestep.ui.trainer.workflow import TABS


class TrainerContext(PageContext):
    """The trainer's page and the state that it shows."""

    def __init__(self, app: AppState, blocks: gr.Blocks, tabs: gr.Tabs) -> None:
        super().__init__(app.settings, blocks, tabs, TABS, "tr")
        self.app = app
        self.changes = FieldChanges(app.settings, self.saved_fields)

    def job_controls(self, job: str, start: str, stop: str, *, pause: bool = False) -> JobControls:
        """The buttons of a kind of job; ``start`` and ``stop`` are their labels."""
        watch = self.app.watches[job]
        return JobControls(
            self, watch, f"tr-{job}", start, stop, pause=pause, blocked_by=lambda: self.app.blocked_by(job)
        )
