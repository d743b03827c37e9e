"""Layout that both pages use: headings, rows of buttons, collapsed sections, a text field beside its button."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html


def heading(title: str) -> None:
    """A heading above the components that follow."""
    gr.HTML(f'<h3 class="ac-title">{html.text(title)}</h3>')


def actions() -> gr.Row:
    """A row of buttons."""
    return gr.Row(elem_classes="ac-actions")


def field_row() -> gr.Row:
    """A row with a text field and the buttons that use it."""
    return gr.Row(elem_classes="ac-with-button")


def grid(*, compact: bool = False) -> gr.Row:
    """Fields side by side, as many as fit; ``compact`` is for short fields."""
    return gr.Row(elem_classes=["ac-grid", "ac-compact"] if compact else "ac-grid")


def section(title: str, elem_id: str) -> gr.Accordion:
    """A collapsed section."""
    return gr.Accordion(title, open=False, elem_classes="ac-fold", elem_id=elem_id)
