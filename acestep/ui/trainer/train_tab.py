"""4. Train: settings above, the run below; the settings fold away while it goes."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError, TrainingError
from acestep.core.jobs import read_job
from acestep.training.configs import TrainJob
from acestep.training.gpu_monitor import VRAMStatus
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.page_context import Prerequisite
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobControls
from acestep.ui.trainer.memory_panel import MemoryPanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.remedies import Remedy, remedy_for
from acestep.ui.trainer.resume_panel import ResumePanel, resume_run
from acestep.ui.trainer.samples_panel import SamplesPanel
from acestep.ui.trainer.sensitivity_panel import SensitivityPanel
from acestep.ui.trainer.train_settings import TrainSettings
from acestep.ui.trainer.training_charts import TrainingCharts
from acestep.ui.watch import ACTIVE

_FIGURES = {
    "fit_loss_before": "Fit loss before",
    "fit_loss": "Fit loss now",
    "validation_loss_before": "Validation loss before",
    "validation_loss": "Validation loss now",
    "zero_loss": "Loss of answering nothing",
}


class TrainTab:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._shell, self._app = page, page.app
        with gr.Accordion("Settings", open=True, elem_classes="ac-fold", elem_id="tr-train-settings") as fold:
            settings = TrainSettings(page)
            ResumePanel(page)
            SensitivityPanel(page, settings.forms)
            own = gr.Checkbox(
                False,
                label="In a process of its own",
                info="A crash then leaves this page alone, and all memory is given back at the end. It starts slower.",
                elem_id="tr-train-own-process",
            )
            page.saved_fields.add("train.own-process", own)
        self.settings = settings
        page.require("tr-train", self._missing)
        MemoryPanel(page, settings)
        buttons = JobControls(page, "train", "Start Training", "Stop Training", pause=True)
        card = gr.HTML(visible=False, elem_id="tr-train-card")
        page.live.show([card], lambda: str(self._app.card), lambda: [_card(self._app.card)])
        self._remedy = gr.Button("", visible=False, elem_id="tr-train-remedy")
        JobPanel(
            page.live,
            self._app.watches["train"],
            "tr-train",
            nothing_yet="Nothing has been trained from this page yet.",
            result=_result,
        )
        TrainingCharts(page)
        SamplesPanel(page)
        page.on(buttons.start.click, self._start, settings.inputs, check=settings.check)
        page.on(self._remedy.click, self._help, [], [page.tabs])
        page.live.show([self._remedy], self._state, self._render_recovery)
        page.live.show([fold], lambda: self._state() in ACTIVE, lambda: [gr.update(open=self._state() not in ACTIVE)])

    def _missing(self) -> Prerequisite | None:
        if not self._app.settings.text("service.checkpoint"):
            return Prerequisite("No model is chosen yet.", "service")
        try:
            self._app.tensors()
        except AceStepError:
            return Prerequisite("There are no preprocessed songs yet.", "preprocess")
        return None

    def _start(self, *values: Any) -> None:
        self._app.require_idle()
        job = self.settings.read(values)
        self._app.start("train", job, job.out)
        notify(f"Training {job.out.name}.")

    def _state(self) -> Any:
        return self._app.watches["train"].look()[0]

    def _found(self) -> Remedy | None:
        state, account = self._app.watches["train"].look()
        return None if state in ACTIVE or state == "idle" else remedy_for(state, account.last)

    def _render_recovery(self) -> list[Any]:
        remedy = self._found()
        return [gr.update(visible=remedy is not None, value=remedy.label if remedy else "")]

    def _help(self) -> Any:
        remedy, folder = self._found(), self._app.watches["train"].folder
        if remedy is None or folder is None:
            raise TrainingError("there is nothing to go on with")
        if remedy.tab:
            return gr.Tabs(selected=remedy.tab)
        _, job = read_job(folder)
        assert isinstance(job, TrainJob)
        resume_run(self._app, folder, "auto", remedy.change(job.training))
        return gr.skip()


def _card(card: VRAMStatus | None) -> Any:
    """How full the graphics card is, and with what else."""
    if card is None:
        return gr.update(visible=False)
    tones: dict[str, html.Tone] = {"ample": "good", "enough": "warn", "low": "bad"}
    bar = html.progress_bar(card.used_gb, card.total_gb, "Memory of the graphics card")
    pill = html.badge(f"{card.free_gb:.1f} GB free", tones[card.level])
    words = f'{bar}<div class="ac-line">{pill}<span class="ac-numbers">{html.text(card)}</span></div>'
    return gr.update(value=words, visible=True)


def _result(result: dict[str, Any]) -> str:
    early = "It stopped early: no better epoch came. " if result.get("stopped_early") else ""
    best = result.get("best") or {}
    words = [
        f"{result.get('steps')} steps, {result.get('epochs')} epochs. {early}".strip(),
        f"The best epoch is {best['epoch']}, with a loss of {best['loss']:.4f}." if best else "",
        f"The adapter is in {result.get('adapter')}. Listen to it in 5. Listen.",
    ]
    figures = {label: f"{result[key]:.4f}" for key, label in _FIGURES.items() if result.get(key) is not None}
    return html.notice("Finished", words, "good") + html.facts(figures)
