"""3. Preprocess: songs become tensors, once; every training on them starts from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.preprocessing.configs import PreprocessJob
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.page_context import Prerequisite
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobControls
from acestep.ui.trainer.page_context import TrainerContext

_SET_ELSEWHERE = ("source", "checkpoint", "tag", "tag_position", "genre_ratio")
_JOB = "_job"  # the job's folder in the folder of the tensors, as on the command line


class PreprocessTab:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        source = gr.Textbox(
            label="Another dataset (optional)",
            info="A dataset file or a folder of songs. Empty: the songs of 2. Dataset.",
            elem_id="tr-preprocess-source",
        )
        page.saved_fields.add("preprocess.source", source)
        self.form = Form(PreprocessJob, "preprocess", page.saved_fields, leave_out=_SET_ELSEWHERE)
        self.form.rest()
        page.require("tr-preprocess", self._missing)
        buttons = JobControls(page, "preprocess", "Preprocess Tensors", "Stop Preprocessing")
        JobPanel(
            page.live,
            self._app.watches["preprocess"],
            "tr-preprocess",
            nothing_yet="Songs are encoded once; trainings with other settings use the same tensors.",
            result=_result,
        )
        inputs = [*self.form.widgets, source]
        page.on(buttons.start.click, self._start, inputs, check=self.form.check)

    def _missing(self) -> Prerequisite | None:
        settings = self._app.settings
        if not settings.text("service.checkpoint"):
            return Prerequisite("No model is chosen yet. Tensors are made for one model.", "service")
        if not self._app.songs.samples and not settings.text("preprocess.source").strip():
            return Prerequisite("There are no songs yet.", "dataset")
        return None

    def _start(self, *values: Any) -> None:
        *told, source = values
        checkpoint = self._app.checkpoint()
        self._app.require_idle()
        out = self._app.workspace.path(str(told[self.form.names.index("out")]), "Output Directory")
        config = self.form.read(
            told, source=self._source(source, out), checkpoint=str(checkpoint.folder.resolve()), out=out
        )
        self._app.start("preprocess", config, out / _JOB)
        self._app.settings.push({"train.tensors": str(out)})

    def _source(self, typed: str, out: Path) -> Path:
        """What was typed, or the songs at hand, written beside the tensors that are made of them."""
        if typed.strip():
            return self._app.workspace.path(typed, "Another dataset")
        path = out / _JOB / "dataset.json"
        self._app.songs.save(path)
        return path


def _result(result: dict[str, Any]) -> str:
    ready, songs = result.get("ready", 0), result.get("songs", 0)
    made, before, out = result.get("made", 0), result.get("up_to_date", 0), result.get("out")
    tone: html.Tone = "warn" if result.get("failed") else "good"
    return html.notice(
        f"{ready} of {html.count(songs, 'song')} ready",
        [f"{made} encoded now, {before} were up to date. They are in {out}."],
        tone,
    )
