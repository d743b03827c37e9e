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
from acestep.ui.errors import say
from acestep.ui.form import Form
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobButtons
from acestep.ui.trainer.page_context import Shell
from acestep.ui.trainer.preset_picker import CUSTOM

_HEADERS = ["Rank", "Module", "Score", "Raw norm"]
_NOTHING = "Shows at which parts of the model your songs pull most. It takes as long as a few steps of training."


class SensitivityPanel:
    """Widgets and what they do."""

    def __init__(self, shell: Shell, forms: dict[str, Form[Any]]) -> None:
        self._desk, self._forms = shell.desk, forms
        self._watch = shell.desk.watches["estimate"]
        with gr.Accordion("Gradient Sensitivity", open=False, elem_classes="ac-fold", elem_id="tr-sensitivity"):
            self._form = Form(EstimateJob, "estimate", shell.kept, leave_out=("tensor_dir", "checkpoint", "out"))
            self._form.rest()
            buttons = JobButtons(shell, "estimate", "Run Estimation", "Stop Estimation")
            JobPanel(shell.live, self._watch, "tr-estimate", nothing_yet=_NOTHING, result=_table)
            with gr.Row(elem_classes="ac-actions"):
                use = gr.Button("Use these ranks", visible=False, elem_id="tr-estimate-use")
        shell.on(buttons.start.click, self._start, self._form.widgets, check=self._form.check)
        shell.on(use.click, self._use, quiet=True)
        shell.live.show([use], self._done, lambda: [gr.update(visible=self._done())])

    def _done(self) -> bool:
        return self._watch.look()[0] == "done"

    def _start(self, *values: Any) -> None:
        self._desk.require_idle()
        folder = self._desk.tensors().folder
        checkpoint = str(self._desk.checkpoint().folder.resolve())
        config = self._form.read(values, tensor_dir=folder, checkpoint=checkpoint, out=None)
        self._desk.start("estimate", config, config.folder)

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
        self._desk.settings.push(values)
        modules, label = html.count(len(content[kind]["ranks"]), "module"), ADAPTERS[kind].label
        say(f"{modules} of a {label} have ranks of their own now.")


def _table(result: dict[str, Any]) -> str:
    """The ranked places of a finished estimation."""
    top = result.get("top") or []
    rows = [(n, each["module"], f"{each['score']:.3f}", f"{each['raw_norm']:.3g}") for n, each in enumerate(top, 1)]
    words = html.card(f"{result.get('modules')} modules were looked at", [f"Saved in {result.get('results')}."], "good")
    return words + html.table(_HEADERS, rows, "Most sensitive first")
