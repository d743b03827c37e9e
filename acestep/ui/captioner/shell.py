"""What the tabs of the captioner are built with: as in the trainer, over another desk."""

from __future__ import annotations

from typing import Any, cast

import gradio as gr

from acestep.ui import html
from acestep.ui.captioner.desk import Desk
from acestep.ui.trainer.shell import Shell as TrainerShell


class Shell(TrainerShell):
    """One page of the captioner. ``captions`` is the desk it works on."""

    def __init__(self, desk: Desk, page: gr.Blocks, tabs: gr.Tabs) -> None:
        super().__init__(cast(Any, desk), page, tabs)
        self.captions = desk


def actions() -> gr.Row:
    """A row of buttons."""
    return gr.Row(elem_classes="ac-actions")


def phrase(words: str) -> str:
    """A line of plain words."""
    return f'<p class="ac-summary">{html.text(words)}</p>' if words else ""
