"""The header above the tabs: the loaded model, the status of each step, and the next step."""

from __future__ import annotations

import gradio as gr

from acestep.ui import html
from acestep.ui.progress import STATE_LABELS, STATE_TONES
from acestep.ui.trainer import workflow
from acestep.ui.trainer.app_state import JOB_NAMES, AppState
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.workflow import TABS, WorkflowStep
from acestep.ui.watch import ACTIVE


def build_header() -> tuple[gr.HTML, gr.HTML, gr.Button]:
    """The components, to be placed above the tabs; ``wire_header`` renders them."""
    head = gr.HTML(elem_id="tr-head")
    with gr.Row(elem_classes="ac-next"):
        text = gr.HTML(elem_id="tr-next-step")
        button = gr.Button("", elem_id="tr-next", scale=0, size="sm")
    return head, text, button


def wire_header(page: TrainerContext, widgets: tuple[gr.HTML, gr.HTML, gr.Button]) -> None:
    """Keep the header up to date."""
    app = page.app
    _, _, button = widgets

    def render() -> tuple[str, str, object]:
        step = workflow.next_step(app)
        words = f"<strong>Next:</strong> {html.text(step.action)}"
        return _head(app), words, gr.update(value=f"Go to {TABS[step.tab]}")

    page.live.add(list(widgets), lambda: (workflow.version(app), _gpu(app)), render)
    page.go_to(button, lambda: workflow.next_step(app).tab)


def _head(app: AppState) -> str:
    stages = "".join(
        f'<li class="{_class(step)}"><b>{html.text(TABS[step.tab])}</b> {html.text(step.status)}</li>'
        for step in workflow.steps(app)
    )
    return (
        f'<div class="ac-line ac-head"><h1>ACE-Step LoRA trainer</h1>{_state(app)}'
        f'<span class="ac-phase">{html.text(_model(app))}</span></div><ol class="ac-steps">{stages}</ol>'
    )


def _class(step: WorkflowStep) -> str:
    return "ac-done" if step.done else "ac-decide" if step.decide else ""


def _state(app: AppState) -> str:
    for name in (name for name in app.watches if name != "download"):
        state, _ = app.watches[name].read()
        if state in ACTIVE:
            label = f"{JOB_NAMES[name]}: {STATE_LABELS[state]}"
            return html.badge(label, STATE_TONES.get(state, "plain"), state=state)
    return html.badge("idle", state="idle")


def _model(app: AppState) -> str:
    loaded = app.service.loaded
    if app.service.loading:
        words = f"loading {app.service.loading}"
    elif loaded is not None:
        words = f"{loaded.name} loaded, {loaded.device}, {loaded.precision}"
    else:
        words = "Model not loaded"
    return f"{words}; {_gpu(app)}" if _gpu(app) else words


def _gpu(app: AppState) -> str:
    gpu = app.gpu
    return f"{gpu.name}: {gpu.free_gb:.1f} of {gpu.total_gb:.0f} GB free" if gpu else ""
