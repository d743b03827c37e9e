"""The top of every tab: which model is at hand, how far the work is, and what comes next."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html
from acestep.ui.progress import TONES, WORDS
from acestep.ui.trainer import workflow
from acestep.ui.trainer.app_state import Desk
from acestep.ui.trainer.page_context import Shell
from acestep.ui.trainer.workflow import TABS
from acestep.ui.watch import ACTIVE


def build_header() -> tuple[gr.HTML, gr.HTML, gr.Button]:
    """The widgets, to be placed above the tabs and painted by ``wire_header``."""
    head = gr.HTML(elem_id="tr-head")
    with gr.Row(elem_classes="ac-next"):
        words = gr.HTML(elem_id="tr-next-words")
        button = gr.Button("", elem_id="tr-next", scale=0, size="sm")
    return head, words, button


def wire_header(shell: Shell, widgets: tuple[gr.HTML, gr.HTML, gr.Button]) -> None:
    """Keep the header up to date."""
    desk = shell.desk
    _, _, button = widgets

    def paint() -> tuple[str, str, object]:
        step = workflow.next_step(desk)
        words = f"<strong>Next:</strong> {html.text(step.todo)}"
        return _head(desk), words, gr.update(value=f"Go to {TABS[step.tab]}")

    shell.live.show(list(widgets), lambda: (workflow.version(desk), _card(desk)), paint)
    shell.go(button, lambda: workflow.next_step(desk).tab)


def _head(desk: Desk) -> str:
    stages = "".join(
        f'<li class="{"ac-done" if step.done else ""}"><b>{html.text(TABS[step.tab])}</b> {html.text(step.words)}</li>'
        for step in workflow.steps(desk)
    )
    return (
        f'<div class="ac-line ac-head"><h1>ACE-Step LoRA trainer</h1>{_state(desk)}'
        f'<span class="ac-phase">{html.text(_model(desk))}</span></div><ol class="ac-steps">{stages}</ol>'
    )


def _state(desk: Desk) -> str:
    for name in (name for name in desk.watches if name != "download"):
        state, _ = desk.watches[name].look()
        if state in ACTIVE:
            return html.pill(f"{name} {WORDS[state]}", TONES.get(state, "plain"), state=state)
    return html.pill("idle", state="idle")


def _model(desk: Desk) -> str:
    loaded = desk.service.loaded
    if desk.service.loading:
        words = f"loading {desk.service.loading}"
    elif loaded is not None:
        words = f"{loaded.name} in memory, {loaded.device}, {loaded.precision}"
    else:
        words = "no model in memory"
    return f"{words}; {_card(desk)}" if _card(desk) else words


def _card(desk: Desk) -> str:
    card = desk.card
    return f"{card.name}: {card.free_gb:.1f} of {card.total_gb:.0f} GB free" if card else ""
