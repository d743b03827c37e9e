"""Which places of the model the songs pull at most, measured before a training, and ranks made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.adapters.configs import ADAPTERS
from acestep.core.errors import TrainingError
from acestep.core.files import read_json
from acestep.training.configs import TrainJob, set_value
from acestep.training.evaluation.configs import EstimateJob
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobControls
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.preset_picker import CUSTOM

_HEADERS = ["Rank", "Module", "Score", "Raw norm"]
_NOTHING = "Shows at which parts of the model your songs pull most. It takes as long as a few steps of training."


class SensitivityPanel:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext, forms: dict[str, Form[Any]]) -> None:
        self._app, self._forms = page.app, forms
        self._watch = page.app.watches["estimate"]
        with gr.Accordion("Gradient Sensitivity", open=False, elem_classes="ac-fold", elem_id="tr-sensitivity"):
            self._form = Form(EstimateJob, "estimate", page.saved_fields, leave_out=("tensor_dir", "checkpoint", "out"))
            self._form.rest()
            buttons = JobControls(page, "estimate", "Run Estimation", "Stop Estimation")
            JobPanel(page.live, self._watch, "tr-estimate", nothing_yet=_NOTHING, result=_table)
            with gr.Row(elem_classes="ac-actions"):
                use = gr.Button("Use these ranks", visible=False, elem_id="tr-estimate-use")
        page.on(buttons.start.click, self._start, self._form.widgets, check=self._form.check)
        page.on(use.click, self._use, quiet=True)
        page.live.show([use], self._done, lambda: [gr.update(visible=self._done())])

    def _done(self) -> bool:
        return self._watch.look()[0] == "done"

    def _start(self, *values: Any) -> None:
        self._app.require_idle()
        folder = self._app.tensors().folder
        checkpoint = str(self._app.checkpoint().folder.resolve())
        config = self._form.read(values, tensor_dir=folder, checkpoint=checkpoint, out=None)
        self._app.start("estimate", config, config.folder)

    def _use(self) -> None:
        """The proposed ranks, and what they were measured for, become the settings of the next training."""
        _, account = self._watch.look()
        result = getattr(account.last, "result", {})
        content = read_json(Path(str(result.get("ranks", ""))), error=TrainingError, hint="Run the estimation again.")
        job, kind = TrainJob.model_construct(), content["training"]["adapter_type"]
        for owner in ("training", kind):
            for name, value in content[owner].items():
                set_value(job, f"{owner}.{name}", value)
        values = {"train.preset": CUSTOM}
        for owner in ("training", kind):
            for name in content[owner]:
                form = self._forms[owner]
                values[form.key(name)] = form.displayed(name, getattr(getattr(job, owner), name))
        self._app.settings.push(values)
        modules, label = html.count(len(content[kind]["ranks"]), "module"), ADAPTERS[kind].label
        notify(f"{modules} of a {label} have ranks of their own now.")


def _table(result: dict[str, Any]) -> str:
    """The ranked places of a finished estimation."""
    top = result.get("top") or []
    rows = [(n, each["module"], f"{each['score']:.3f}", f"{each['raw_norm']:.3g}") for n, each in enumerate(top, 1)]
    words = html.notice(
        f"{result.get('modules')} modules were looked at", [f"Saved in {result.get('results')}."], "good"
    )
    return words + html.table(_HEADERS, rows, "Most sensitive first")
