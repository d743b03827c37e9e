"""Gradient sensitivity: which modules of the model react most to the songs, and adapter ranks from that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.adapters.configs import ADAPTERS
from acestep.core.errors import TrainingError
from acestep.core.files import read_json
from acestep.training.configs import TrainJob
from acestep.training.evaluation.configs import EstimateJob
from acestep.training.parsing import set_value
from acestep.ui import html, layout
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.page_context import Data
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.preset_picker import CUSTOM

_HEADERS = ["Rank", "Module", "Score", "Gradient norm"]
_NOTHING_YET = "Shows which modules have the largest gradients on your songs. Takes as long as a few training steps."


class SensitivityPanel:
    """Components and listeners."""

    def __init__(self, page: TrainerContext, forms: dict[str, Form[Any]]) -> None:
        self._app, self._forms, self._changes = page.app, forms, page.changes
        self._watch = page.app.watches["estimate"]
        with layout.section("Gradient Sensitivity", "tr-sensitivity"):
            self._form = Form(EstimateJob, "estimate", page.saved_fields, leave_out=("tensor_dir", "checkpoint", "out"))
            self._form.place_rest()
            controls = page.job_controls("estimate", "Run Estimation", "Stop Estimation")
            JobPanel(page.live, self._watch, "tr-estimate", nothing_yet=_NOTHING_YET, result=_table)
            with layout.actions():
                use = gr.Button("Use these ranks", visible=False, elem_id="tr-estimate-use")
            page.changes.place(page, ("sensitivity",), "tr-sensitivity")
        page.on(controls.start.click, self._start, self._form.inputs, check=self._form.check)
        page.on(use.click, self._use)
        page.live.add([use], self._is_done, lambda: [gr.update(visible=self._is_done())])

    def _is_done(self) -> bool:
        return self._watch.read()[0] == "done"

    def _start(self, data: Data) -> None:
        self._app.require_idle()
        folder = self._app.tensors().folder
        checkpoint = str(self._app.checkpoint().folder.resolve())
        config = self._form.read(data, tensor_dir=folder, checkpoint=checkpoint, out=None)
        self._app.start("estimate", config, config.folder)

    def _use(self) -> None:
        """Set the suggested ranks, and the adapter that they were computed for, in the training settings."""
        _, view = self._watch.read()
        result = getattr(view.last, "result", {})
        content = read_json(Path(str(result.get("ranks", ""))), error=TrainingError, hint="Run the estimation again.")
        job, kind = TrainJob.model_construct(), content["training"]["adapter_type"]
        values = {"train.preset": CUSTOM}
        for group in ("training", kind):
            for name, value in content[group].items():
                set_value(job, f"{group}.{name}", value)
                form = self._forms[group]
                values[form.key(name)] = form.displayed(name, getattr(getattr(job, group), name))
        self._changes.apply("sensitivity", "Set the suggested ranks", values)
        notify(f"Set the rank of {html.count(len(content[kind]['ranks']), 'module')} of the {ADAPTERS[kind].label}.")


def _table(result: dict[str, Any]) -> str:
    """The most sensitive modules of a finished analysis."""
    top = result.get("top") or []
    rows = [(n, each["module"], f"{each['score']:.3f}", f"{each['raw_norm']:.3g}") for n, each in enumerate(top, 1)]
    title = f"{result.get('modules')} modules analyzed"
    notice = html.notice(title, [f"Saved in {result.get('results')}."], "good")
    return notice + html.table(_HEADERS, rows, "Most sensitive modules")
