"""4. Train: the settings above, which collapse while training runs, and the run below."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError, TrainingError
from acestep.core.events import Failed
from acestep.core.jobs import read_job
from acestep.training.configs import TrainJob
from acestep.training.gpu_monitor import VRAMStatus
from acestep.training.state.run_folder import RunFolder
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Data
from acestep.ui.page_context import Prerequisite
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.memory_panel import MemoryPanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.recovery import Recovery, recovery_for, recovery_of_rejected
from acestep.ui.trainer.resume_panel import FOLLOW_NEWEST, ResumePanel, resume_run
from acestep.ui.trainer.samples_panel import SamplesPanel
from acestep.ui.trainer.sensitivity_panel import SensitivityPanel
from acestep.ui.trainer.train_settings import TrainSettings
from acestep.ui.trainer.training_charts import TrainingCharts
from acestep.ui.watch import ACTIVE

_METRICS = {
    "fit_loss_before": "Fit loss before",
    "fit_loss": "Fit loss",
    "validation_loss_before": "Validation loss before",
    "validation_loss": "Validation loss",
    "zero_loss": "Zero-prediction loss",
}


class TrainTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._app, self._watch = page.app, page.app.watches["train"]
        with gr.Accordion("Settings", open=True, elem_classes="ac-fold", elem_id="tr-train-settings") as settings:
            self.settings = TrainSettings(page)
            ResumePanel(page)
            SensitivityPanel(page, self.settings.forms)
            separate = gr.Checkbox(
                False,
                label="Run in a separate process",
                info="A crash does not affect this page, and all memory is freed at the end. Starts more slowly.",
                elem_id="tr-train-own-process",
            )
            page.saved_fields.add("train.own-process", separate)
        page.require("tr-train", self._missing)
        MemoryPanel(page, self.settings)
        controls = page.job_controls("train", "Start Training", "Stop Training", pause=True)
        gpu = gr.HTML(visible=False, elem_id="tr-train-gpu")
        page.live.add([gpu], lambda: str(self._app.gpu), lambda: [_gpu_memory(self._app.gpu)])
        rejected = gr.HTML(visible=False, elem_id="tr-train-rejected")
        self._recover = gr.Button("", visible=False, elem_id="tr-train-recover")
        JobPanel(page.live, self._watch, "tr-train", nothing_yet="No training run yet.", result=_result)
        TrainingCharts(page)
        SamplesPanel(page)
        page.on(controls.start.click, self._start, self.settings.inputs, check=self.settings.check)
        page.on(self._recover.click, self._on_recover, [], [page.tabs, settings])
        page.live.add([self._recover], lambda: self._recovery(), self._render_recovery)
        page.live.add([rejected], lambda: self._app.rejected, lambda: [_rejected(self._app.rejected)])
        page.live.add([settings], self._is_active, lambda: [gr.update(open=not self._is_active())])

    def _missing(self) -> Prerequisite | None:
        if not self._app.settings.text("service.checkpoint"):
            return Prerequisite("No model is selected yet.", "service")
        try:
            self._app.tensors()
        except AceStepError:
            return Prerequisite("There are no preprocessed songs yet.", "preprocess")
        return None

    def _start(self, data: Data) -> None:
        self._app.require_idle()
        job = self.settings.read(data)
        self._app.start("train", job, job.out)
        self._app.settings.put(FOLLOW_NEWEST)
        notify(f"Training {job.out.name}.")

    def _is_active(self) -> bool:
        return self._watch.active

    def _recovery(self) -> Recovery | None:
        """For the run that was not started, or else for the latest one."""
        state, view = self._watch.read()
        if state not in ACTIVE and self._app.rejected is not None:
            return recovery_of_rejected(self._app.rejected)
        if state in ACTIVE or state == "idle" or self._watch.folder is None:
            return None
        return recovery_for(state, view.last, saved=RunFolder(self._watch.folder).occupied)

    def _render_recovery(self) -> list[Any]:
        found = self._recovery()
        return [gr.update(visible=found is not None, value=found.label if found else "")]

    def _on_recover(self) -> tuple[Any, Any]:
        """Open the tab that helps, with the settings unfolded, or resume the run."""
        found, folder = self._recovery(), self._watch.folder
        if found is not None and found.tab:
            return gr.Tabs(selected=found.tab), gr.update(open=True)
        if found is None or folder is None:
            raise TrainingError("there is no run to resume")
        _, job = read_job(folder)
        assert isinstance(job, TrainJob)
        resume_run(self._app, folder, "auto", found.change(job.training))
        return gr.skip(), gr.skip()


def _rejected(rejected: Failed | None) -> Any:
    """Why the run was not started."""
    if rejected is None:
        return gr.update(value="", visible=False)
    lines = [f"{rejected.message[:1].upper()}{rejected.message[1:]}", rejected.hint]
    return gr.update(value=html.notice("Training was not started", lines, "bad"), visible=True)


def _gpu_memory(gpu: VRAMStatus | None) -> Any:
    """How much memory of the GPU is in use, and by whom."""
    if gpu is None:
        return gr.update(visible=False)
    tones: dict[str, html.Tone] = {"ample": "good", "enough": "warn", "low": "bad"}
    bar = html.progress_bar(gpu.used_gb, gpu.total_gb, "GPU memory")
    badge = html.badge(f"{gpu.free_gb:.1f} GB free", tones[gpu.level])
    content = f'{bar}<div class="ac-line">{badge}<span class="ac-numbers">{html.text(gpu)}</span></div>'
    return gr.update(value=content, visible=True)


def _result(result: dict[str, Any]) -> str:
    early = "Stopped early because the loss no longer improved. " if result.get("stopped_early") else ""
    best = result.get("best") or {}
    lines = [
        f"{result.get('steps')} steps, {result.get('epochs')} epochs. {early}".strip(),
        f"Best epoch: {best['epoch']}, with a loss of {best['loss']:.4f}." if best else "",
        f"The adapter is in {result.get('adapter')}. Listen to it in 5. Listen.",
    ]
    metrics = {label: f"{result[key]:.4f}" for key, label in _METRICS.items() if result.get(key) is not None}
    return html.notice("Finished", lines, "good") + html.facts(metrics)
