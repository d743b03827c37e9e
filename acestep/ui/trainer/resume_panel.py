"""Go on with a run: where it was stopped, or from any of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.config import assign
from acestep.core.errors import TrainingError
from acestep.core.jobs import read_job
from acestep.training.configs import TrainJob
from acestep.training.state.run_folder import ADAPTER, RunFolder, has_state
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.page_context import TrainerContext


def resume_run(app: AppState, folder: Path, source: str = "auto", changes: dict[str, Any] | None = None) -> None:
    """Start the run of ``folder`` again with its own settings, ``changes`` apart. Raises TrainingError, JobBusy."""
    app.require_idle()
    _, config = read_job(folder)
    if not isinstance(config, TrainJob):
        raise TrainingError(f"{folder} is not a training run")
    job = config.model_copy(deep=True)
    job.out, job.resume = folder, source
    for name, value in (changes or {}).items():
        assign(job.training, name, value)
    app.start("train", job, folder)


def sources_of(folder: Path) -> list[tuple[str, str]]:
    """What a run can go on from, as (words, value): the newest state first, then by step, best and final last."""
    run = RunFolder(folder)
    found = []
    latest_checkpoint = run.latest_checkpoint()
    if latest_checkpoint is not None:
        found.append((f"newest ({latest_checkpoint.name})", "auto"))
    for saved in reversed(run.saved()):
        found.append((_words(saved), str(saved)))
    for place in (run.best, run.final):
        if (place / ADAPTER).is_dir():
            found.append((_words(place), str(place)))
    return found


def _words(place: Path) -> str:
    return place.name if has_state(place) else f"{place.name} (weights alone: the optimizer starts afresh)"


class ResumePanel:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with gr.Accordion("Resume from Checkpoint", open=False, elem_classes="ac-fold", elem_id="tr-resume"):
            with gr.Row(elem_classes="ac-grid"):
                self._run = gr.Dropdown(
                    [], label="Run", info="The newest is first.", elem_id="tr-resume-run", allow_custom_value=True
                )
                self._source = gr.Dropdown(
                    [],
                    label="Checkpoint",
                    info="What it goes on from.",
                    elem_id="tr-resume-from",
                    allow_custom_value=True,
                )
                self._epochs = gr.Textbox(
                    label="Up to epoch", info="Empty: as planned.", placeholder="as planned", elem_id="tr-resume-epochs"
                )
            resume = gr.Button("Resume Training", elem_id="tr-resume-start")
        page.on(self._run.change, self._sources, [self._run], [self._source], quiet=True)
        page.on(resume.click, self._resume, [self._run, self._source, self._epochs])
        page.live.show([self._run, self._source], self._version, self._render)

    def _runs(self) -> list[tuple[str, str]]:
        return [(folder.name, str(folder)) for folder in self._app.run_folders()]

    def _version(self) -> object:
        return tuple(self._runs()), self._app.watches["train"].look()[0]

    def _render(self) -> list[Any]:
        runs = self._runs()
        if not runs:
            return [gr.update(choices=[], value=None), gr.update(choices=[], value=None)]
        sources = sources_of(Path(runs[0][1]))
        first = sources[0][1] if sources else None
        return [gr.update(choices=runs, value=runs[0][1]), gr.update(choices=sources, value=first)]

    def _sources(self, run: str | None) -> Any:
        sources = sources_of(Path(run)) if run else []
        return gr.update(choices=sources, value=sources[0][1] if sources else None)

    def _resume(self, run: str | None, source: str | None, epochs: str) -> None:
        if not run or not source:
            raise TrainingError("there is no run to go on with", hint="Start one first.")
        folder = self._app.workspace.folder(run, "Run")
        resume_run(self._app, folder, source, {"max_epochs": epochs} if epochs.strip() else {})
