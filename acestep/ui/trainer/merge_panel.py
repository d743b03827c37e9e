"""An adapter made part of its model: a checkpoint of its own, which needs no adapter any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AdapterError, CheckpointError
from acestep.exporting.configs import MergeJob
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.page_context import heading
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.job_buttons import JobControls
from acestep.ui.trainer.page_context import TrainerContext

_DEFAULT = "acestep-v15-merged"
_NOTHING = "Writes a whole model, as large as its base. It takes some minutes and a few hundred MB of memory."


class MergePanel:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext, adapter: gr.Dropdown) -> None:
        self._app = page.app
        heading("Merge into the base model")
        base = gr.Dropdown(
            [],
            label="Base model",
            info="The one that the adapter was trained on.",
            allow_custom_value=True,
            elem_id="tr-merge-base",
        )
        out = gr.Textbox(
            label="Merged model",
            info="A folder inside the program's own. Empty: beside the base model, so that 1. Service lists it.",
            placeholder=f"checkpoints/{_DEFAULT}",
            elem_id="tr-merge-out",
        )
        self._form = Form(MergeJob, "merge", page.saved_fields, leave_out=("checkpoint", "adapter", "out", "root"))
        self._form.rest()
        buttons = JobControls(page, "merge", "Merge", "Stop Merging")
        JobPanel(page.live, self._app.watches["merge"], "tr-merge", nothing_yet=_NOTHING, result=_result)
        page.saved_fields.add("merge.out", out)
        page.on(buttons.start.click, self._start, [*self._form.widgets, base, adapter, out], check=self._form.check)
        page.live.show([base], self._version, self._render)

    def _version(self) -> object:
        known = tuple((model.name, str(model.folder)) for model in self._app.checkpoints())
        return known, self._app.settings.text("service.checkpoint")

    def _render(self) -> list[Any]:
        choices = [(model.name, str(model.folder)) for model in self._app.checkpoints()]
        return [gr.update(choices=choices, value=self._app.settings.text("service.checkpoint") or None)]

    def _start(self, *values: Any) -> None:
        *told, base, adapter, out = values
        if not adapter:
            raise AdapterError("no adapter is chosen", hint="Train one in 4. Train, or enter the path of one.")
        if not base:
            raise CheckpointError("no base model is chosen", hint="Choose the one that the adapter was trained on.")
        config = self._form.read(told, checkpoint=base, adapter=adapter, out=out.strip() or self._beside(Path(base)))
        start_merging(self._app, config)

    def _beside(self, base: Path) -> Path:
        """Where a merged model finds what its base needs too; the usual place if that is not ours to write to."""
        root = self._app.workspace.root
        parent = base.parent if root.resolve() in base.resolve().parents else root / "checkpoints"
        return parent / _DEFAULT


def start_merging(app: AppState, config: MergeJob) -> Path:
    """Begin to merge into a folder of this program; gives that of the job. Raises StorageError, JobBusy."""
    job = config.model_copy()
    job.adapter = app.workspace.path(str(config.adapter), "Adapter")
    job.out = app.workspace.inside(str(config.out), "Merged model")
    job.root = config.root or app.checkpoints_folder
    return app.start("merge", job, job.out.with_name(f".{job.out.name}.job"))


def _result(result: dict[str, Any]) -> str:
    lost = f"Rounding to the number type of the base lost {result.get('rounding', 0):.1%} of the adapter."
    size = f"{html.size(result.get('bytes', 0))}, {html.count(result.get('merged', 0), 'weight')} changed."
    return html.notice("Merged", [f"The model is in {result.get('checkpoint')}.", size, lost], "good")
