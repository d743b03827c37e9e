"""3. Preprocess: songs become tensors, once; every training on them starts from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.preprocessing.configs import PreprocessJob
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobButtons
from acestep.ui.trainer.page_context import Cure, Shell

_SET_ELSEWHERE = ("source", "checkpoint", "tag", "tag_position", "genre_ratio")
_JOB = "_job"  # the job's folder in the folder of the tensors, as on the command line


class PreprocessTab:
    """Widgets and what they do."""

    def __init__(self, shell: Shell) -> None:
        self._desk = shell.desk
        source = gr.Textbox(
            label="Another dataset (optional)",
            info="A dataset file or a folder of songs. Empty: the songs of 2. Dataset.",
            elem_id="tr-preprocess-source",
        )
        shell.kept.add("preprocess.source", source)
        self.form = Form(PreprocessJob, "preprocess", shell.kept, leave_out=_SET_ELSEWHERE)
        self.form.rest()
        shell.cure("tr-preprocess", self._missing)
        buttons = JobButtons(shell, "preprocess", "Preprocess Tensors", "Stop Preprocessing")
        JobPanel(
            shell.live,
            self._desk.watches["preprocess"],
            "tr-preprocess",
            nothing_yet="Songs are encoded once; trainings with other settings use the same tensors.",
            result=_result,
        )
        inputs = [*self.form.widgets, source]
        shell.on(buttons.start.click, self._start, inputs, check=self.form.check)

    def _missing(self) -> Cure | None:
        settings = self._desk.settings
        if not settings.text("service.checkpoint"):
            return Cure("No model is chosen yet. Tensors are made for one model.", "service")
        if not self._desk.songs.samples and not settings.text("preprocess.source").strip():
            return Cure("There are no songs yet.", "dataset")
        return None

    def _start(self, *values: Any) -> None:
        *told, source = values
        checkpoint = self._desk.checkpoint()
        self._desk.require_idle()
        out = self._desk.places.path(str(told[self.form.names.index("out")]), "Output Directory")
        config = self.form.read(
            told, source=self._source(source, out), checkpoint=str(checkpoint.folder.resolve()), out=out
        )
        self._desk.start("preprocess", config, out / _JOB)
        self._desk.settings.push({"train.tensors": str(out)})

    def _source(self, typed: str, out: Path) -> Path:
        """What was typed, or the songs at hand, written beside the tensors that are made of them."""
        if typed.strip():
            return self._desk.places.path(typed, "Another dataset")
        path = out / _JOB / "dataset.json"
        self._desk.songs.save(path)
        return path


def _result(result: dict[str, Any]) -> str:
    ready, songs = result.get("ready", 0), result.get("songs", 0)
    made, before, out = result.get("made", 0), result.get("up_to_date", 0), result.get("out")
    tone: html.Tone = "warn" if result.get("failed") else "good"
    return html.card(
        f"{ready} of {html.count(songs, 'song')} ready",
        [f"{made} encoded now, {before} were up to date. They are in {out}."],
        tone,
    )
