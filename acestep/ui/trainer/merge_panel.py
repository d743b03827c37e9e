"""Merge an adapter into its base model: the result is a checkpoint that needs no adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AdapterError, CheckpointError
from acestep.exporting.configs import MergeJob
from acestep.ui import html, layout
from acestep.ui.form import Form
from acestep.ui.page_context import Data
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.page_context import TrainerContext

_BASE = "merge.base"
_DEFAULT_NAME = "acestep-v15-merged"
_NOTHING_YET = "Writes a complete model as large as its base model. Takes a few minutes and a few hundred MB of RAM."


class MergePanel:
    """Components and listeners."""

    def __init__(self, page: TrainerContext, adapter: gr.Dropdown) -> None:
        self._app, self._adapter = page.app, adapter
        layout.heading("Merge into the base model")
        self._base = gr.Dropdown(
            [],
            label="Base model",
            info="The model that the adapter was trained on.",
            allow_custom_value=True,
            elem_id="tr-merge-base",
        )
        self._out = gr.Textbox(
            label="Merged model",
            info="A folder inside the program's folder. Empty: beside the base model, or in checkpoints if that is "
            "outside; 1. Service lists both.",
            placeholder=f"checkpoints/{_DEFAULT_NAME}",
            elem_id="tr-merge-out",
        )
        skipped = ("checkpoint", "adapter", "out", "root")
        self._form = Form(MergeJob, "merge", page.saved_fields, leave_out=skipped)
        self._form.place_rest()
        controls = page.job_controls("merge", "Merge", "Stop Merging")
        JobPanel(page.live, self._app.watches["merge"], "tr-merge", nothing_yet=_NOTHING_YET, result=_result)
        page.saved_fields.add("merge.out", self._out)
        inputs = {self._base, self._adapter, self._out, *self._form.inputs}
        page.on(controls.start.click, self._start, inputs, check=self._form.check)
        page.on(self._base.input, self._select, [self._base])
        page.unconfirmed_text.add(_BASE, self._base, self._choices)
        page.live.add([self._base], lambda: (tuple(self._choices()), self._selected), self._render)

    def _choices(self) -> list[tuple[str, str]]:
        return [(model.name, str(model.folder)) for model in self._app.checkpoints()]

    def _select(self, base: str | None) -> None:
        self._app.settings.put({_BASE: base or ""})

    @property
    def _selected(self) -> str:
        """The model that the user selected or typed, or else the one of 1. Service."""
        return self._app.settings.text(_BASE) or self._app.settings.text("service.checkpoint")

    def _render(self) -> list[Any]:
        return [gr.update(choices=self._choices(), value=self._selected or None)]

    def _start(self, data: Data) -> None:
        base, adapter, out = data[self._base], data[self._adapter], data[self._out].strip()
        if not adapter:
            raise AdapterError("no adapter is selected", hint="Train one in 4. Train, or enter the path of one.")
        if not base:
            raise CheckpointError("no base model is selected", hint="Select the one that the adapter was trained on.")
        out = out or self._default_out(Path(base))
        start_merging(self._app, self._form.read(data, checkpoint=base, adapter=adapter, out=out))

    def _default_out(self, base: Path) -> Path:
        """Beside the base model if that is inside the workspace, else in ``checkpoints``."""
        root = self._app.workspace.root
        parent = base.parent if root.resolve() in base.resolve().parents else root / "checkpoints"
        return parent / _DEFAULT_NAME


def start_merging(app: AppState, config: MergeJob) -> Path:
    """Start merging into a folder inside the workspace; returns the job folder. Raises StorageError, JobBusy."""
    job = config.model_copy()
    job.adapter = app.workspace.path(str(config.adapter), "Adapter")
    job.out = app.workspace.inside(str(config.out), "Merged model")
    job.root = config.root or app.checkpoints_folder
    return app.start("merge", job, app.workspace.state_folder / "merge" / job.out.name)


def _result(result: dict[str, Any]) -> str:
    lost = f"Rounding to the dtype of the base model lost {result.get('rounding', 0):.1%} of the adapter."
    size = f"{html.size(result.get('bytes', 0))}, {html.count(result.get('merged', 0), 'weight')} changed."
    where = f"The model is in {result.get('checkpoint')}. To use it, select it in 1. Service."
    return html.notice("Merged", [where, size, lost], "good")
