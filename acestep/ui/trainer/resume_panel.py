"""Resume a training run from its latest state or from any of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.config import assign
from acestep.core.errors import StorageError, TrainingError
from acestep.core.jobs import read_job
from acestep.training.configs import TrainJob
from acestep.ui import html, layout
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.resumable import RunToResume, newest_to_resume, resume_choices, run_to_resume, runs_to_resume

_EPOCHS = "resume.epochs"
_RUN, _SOURCE = "resume.run", "resume.source"  # what the user selected; empty: the newest, the latest
FOLLOW_NEWEST = {_RUN: "", _SOURCE: ""}


def resume_run(app: AppState, folder: Path, source: str = "auto", changes: dict[str, Any] | None = None) -> None:
    """Resume the run in ``folder`` with its own settings and ``changes``. Raises TrainingError, JobBusy."""
    app.require_idle()
    _, config = read_job(folder)
    if not isinstance(config, TrainJob):
        raise TrainingError(f"{folder} is not a training run")
    job = config.model_copy(deep=True)
    job.out, job.resume = folder, source
    for name, value in (changes or {}).items():
        assign(job.training, name, value)
    app.start("train", job, folder)
    app.settings.put(FOLLOW_NEWEST)
    app.settings.push({_EPOCHS: ""})


class ResumePanel:
    """Components and listeners. The selection belongs to the user until the next run starts."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with layout.section("Resume from Checkpoint", "tr-resume"):
            with layout.grid():
                self._run = gr.Dropdown(
                    [],
                    label="Run",
                    info="The newest is first. A run that cannot be resumed is listed with the reason.",
                    elem_id="tr-resume-run",
                    allow_custom_value=True,
                )
                self._source = gr.Dropdown(
                    [],
                    label="Checkpoint",
                    info="Where training resumes.",
                    elem_id="tr-resume-from",
                    allow_custom_value=True,
                )
                self._epochs = gr.Textbox(
                    label="Max Epochs",
                    info="Empty: as in the settings of the run.",
                    placeholder="unchanged",
                    elem_id="tr-resume-epochs",
                )
            self._reason = gr.HTML(visible=False, elem_id="tr-resume-reason")
            self._start = gr.Button("Resume Training", elem_id="tr-resume-start")
        page.saved_fields.add(_EPOCHS, self._epochs)
        page.unconfirmed_text.add(_RUN, self._run, lambda: self._runs)
        page.unconfirmed_text.add(_SOURCE, self._source, lambda: self._sources(self._selected())[0])
        page.on(self._run.input, self._select_run, [self._run])
        page.on(self._source.input, self._select_source, [self._source])
        page.on(self._start.click, self._resume, [self._run, self._source, self._epochs])
        outputs = [self._run, self._source, self._start, self._reason]
        page.live.add(outputs, self._version, self._render)

    def _select_run(self, run: str | None) -> None:
        self._app.settings.put({_RUN: run or "", _SOURCE: ""})

    def _select_source(self, source: str | None) -> None:
        self._app.settings.put({_SOURCE: source or ""})

    @property
    def _runs(self) -> list[tuple[str, str]]:
        return [(each.label, str(each.folder)) for each in runs_to_resume(self._app)]

    def _selected(self) -> RunToResume | None:
        """The run that the user selected, as long as it exists, or else the newest that can be resumed."""
        runs = runs_to_resume(self._app)
        chosen = self._app.settings.text(_RUN)
        if listed := next((run for run in runs if str(run.folder) == chosen), None):
            return listed
        if chosen:
            try:
                return run_to_resume(self._app, self._app.workspace.folder(chosen, "Run"))
            except StorageError:  # it was deleted
                pass
        return newest_to_resume(runs)

    def _sources(self, run: RunToResume | None) -> tuple[list[tuple[str, str]], str | None]:
        """What the run can resume from, and the selected one."""
        choices = resume_choices(run.folder) if run is not None and not run.problem else []
        chosen = self._app.settings.text(_SOURCE)
        known = {value for _, value in choices}
        return choices, chosen if chosen in known else choices[0][1] if choices else None

    def _version(self) -> object:
        run = self._selected()
        choices, source = self._sources(run)
        return tuple(runs_to_resume(self._app)), run, tuple(choices), source

    def _render(self) -> list[Any]:
        run = self._selected()
        choices, source = self._sources(run)
        problem = run.problem if run is not None else ""
        reason = f"{run.folder.name} cannot be resumed: {problem}." if run is not None and problem else ""
        return [
            gr.update(
                choices=self._runs,
                value=str(run.folder) if run is not None else None,
            ),
            gr.update(choices=choices, value=source),
            gr.update(interactive=run is not None and not problem),
            gr.update(value=html.notice(reason, tone="warn") if reason else "", visible=bool(reason)),
        ]

    def _resume(self, run: str | None, source: str | None, epochs: str) -> None:
        if not run or not source:
            raise TrainingError("nothing to resume", hint="Start a run first.")
        folder = self._app.workspace.folder(run, "Run")
        resume_run(self._app, folder, source, {"max_epochs": epochs} if str(epochs or "").strip() else {})
