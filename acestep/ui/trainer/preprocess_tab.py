"""3. Preprocess: encode the songs as tensors, once for all training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.preprocessing.configs import PreprocessJob
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.page_context import Data, Prerequisite
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.page_context import TrainerContext

_SET_ELSEWHERE = ("source", "checkpoint", "tag", "tag_position", "genre_ratio")
_JOB = "_job"  # the job folder in the folder of the tensors, as on the command line


class PreprocessTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        self._source = gr.Textbox(
            label="Another dataset (optional)",
            info="A dataset file or a folder of songs. Empty: the songs of 2. Dataset.",
            elem_id="tr-preprocess-source",
        )
        page.saved_fields.add("preprocess.source", self._source)
        self.form = Form(PreprocessJob, "preprocess", page.saved_fields, leave_out=_SET_ELSEWHERE)
        self.form.place_rest()
        page.require("tr-preprocess", self._missing)
        controls = page.job_controls("preprocess", "Preprocess Tensors", "Stop Preprocessing")
        JobPanel(
            page.live,
            self._app.watches["preprocess"],
            "tr-preprocess",
            nothing_yet="Songs are encoded once; all training runs can use the same tensors.",
            result=_result,
        )
        inputs = {self._source, *self.form.inputs}
        page.on(controls.start.click, self._start, inputs, check=self.form.check)

    def _missing(self) -> Prerequisite | None:
        settings = self._app.settings
        if not settings.text("service.checkpoint"):
            return Prerequisite("No model is selected yet. Tensors belong to one model.", "service")
        if not self._app.dataset.samples and not settings.text("preprocess.source").strip():
            return Prerequisite("There are no songs yet.", "dataset")
        return None

    def _start(self, data: Data) -> None:
        checkpoint = self._app.checkpoint()
        self._app.require_idle()
        out = self._app.workspace.path(str(data[self.form.component("out")]), "Output Directory")
        source = self._source_path(data[self._source], out)
        config = self.form.read(data, source=source, checkpoint=str(checkpoint.folder.resolve()), out=out)
        self._app.start("preprocess", config, out / _JOB)
        self._app.settings.push({"train.tensors": str(out)})

    def _source_path(self, text: str, out: Path) -> Path:
        """The path in the field, or a copy of the dataset beside its tensors."""
        if text.strip():
            return self._app.workspace.path(text, "Another dataset")
        path = out / _JOB / "dataset.json"
        self._app.dataset.write(path)
        return path


def _result(result: dict[str, Any]) -> str:
    ready, songs = result.get("ready", 0), result.get("songs", 0)
    encoded, up_to_date, out = result.get("made", 0), result.get("up_to_date", 0), result.get("out")
    tone: html.Tone = "warn" if result.get("failed") else "good"
    return html.notice(
        f"{ready} of {html.count(songs, 'song')} ready",
        [f"{encoded} encoded now, {up_to_date} already up to date. Saved in {out}."],
        tone,
    )
