"""Resume a training run from its latest state or from any of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.config import assign
from acestep.core.errors import TrainingError
from acestep.core.jobs import read_job
from acestep.core.untrusted import is_folder
from acestep.training.configs import TrainJob
from acestep.training.state.run_folder import ADAPTER, RunFolder, has_state
from acestep.ui import layout
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.page_context import TrainerContext


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


def resume_choices(folder: Path) -> list[tuple[str, str]]:
    """What a run can resume from, as (label, value): the latest state, then by step, best and final last."""
    run = RunFolder(folder)
    found = []
    latest = run.latest_checkpoint()
    if latest is not None:
        found.append((f"latest ({latest.name})", "auto"))
    for saved in reversed(run.saved()):
        found.append((_label(saved), str(saved)))
    for checkpoint in (run.best, run.final):
        if is_folder(checkpoint / ADAPTER):
            found.append((_label(checkpoint), str(checkpoint)))
    return found


def _label(checkpoint: Path) -> str:
    return checkpoint.name if has_state(checkpoint) else f"{checkpoint.name} (weights only, new optimizer state)"


class ResumePanel:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with layout.section("Resume from Checkpoint", "tr-resume"):
            with layout.grid():
                self._run = gr.Dropdown(
                    [], label="Run", info="The newest is first.", elem_id="tr-resume-run", allow_custom_value=True
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
            resume = gr.Button("Resume Training", elem_id="tr-resume-start")
        page.on(self._run.input, self._choices_of, [self._run], [self._source])
        page.on(resume.click, self._resume, [self._run, self._source, self._epochs])
        page.live.add([self._run, self._source], self._version, self._render)

    def _runs(self) -> list[tuple[str, str]]:
        return [(folder.name, str(folder)) for folder in self._app.run_folders()]

    def _version(self) -> object:
        return tuple(self._runs()), self._app.watches["train"].read()[0]

    def _render(self) -> list[Any]:
        runs = self._runs()
        first = runs[0][1] if runs else None
        return [gr.update(choices=runs, value=first), self._choices_of(first)]

    def _choices_of(self, run: str | None) -> Any:
        choices = resume_choices(Path(run)) if run else []
        return gr.update(choices=choices, value=choices[0][1] if choices else None)

    def _resume(self, run: str | None, source: str | None, epochs: str) -> None:
        if not run or not source:
            raise TrainingError("nothing to resume", hint="Start a run first.")
        folder = self._app.workspace.folder(run, "Run")
        resume_run(self._app, folder, source, {"max_epochs": epochs} if epochs.strip() else {})
