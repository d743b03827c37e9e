"""The panel about songs without a caption: describe them here, open the captioner, or train with the tag alone."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.ui import html
from acestep.ui.progress import JobPanel
from acestep.ui.trainer import captions
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.watch import ACTIVE

_DECIDED: dict[captions.Choice | None, str] = {
    None: "Decide how to train them.",
    "describe": "You chose to describe them here.",
    "captioner": "You chose to describe them in the captioner. Scan the folder again when it has finished.",
    "tag": "They are trained with the activation tag alone.",
}


class CaptionsPanel:
    """Components and listeners. Visible while songs have no caption."""

    def __init__(self, page: TrainerContext) -> None:
        self._app, self._watch = page.app, page.app.watches["caption"]
        self._read = self._job()  # the state of the job whose labels were read
        with gr.Column(visible=False, elem_id="tr-captions") as self._box:
            self._text = gr.HTML(elem_id="tr-captions-text")
            controls = page.job_controls("caption", "Describe them here", "Stop describing")
            with gr.Row(elem_classes="ac-actions"):
                opened = gr.Button("Open the captioner", elem_id="tr-captions-open")
                tag = gr.Button("Train with the tag alone", elem_id="tr-captions-tag")
            link = gr.HTML(elem_id="tr-captions-link")
            with gr.Column(visible=False) as self._progress:
                JobPanel(page.live, self._watch, "tr-caption", nothing_yet="", result=_result)
        page.on(controls.start.click, self._describe)
        page.on(opened.click, self._open, [], [link])
        page.on(tag.click, self._use_tag)
        page.live.add([self._box, self._text, self._progress], self._version, self._render)

    def _version(self) -> tuple[object, ...]:
        job = self._job()
        if job != self._read:
            self._read = job
            self._app.dataset.read_label_files()
        app = self._app
        return app.dataset.version, captions.decision(app), job, captions.captioner_name(app)

    def _job(self) -> tuple[object, ...]:
        state, view = self._watch.read()
        return self._watch.folder, state, len(view.saved)

    def _render(self) -> list[Any]:
        songs, missing = len(self._app.dataset.samples), len(captions.without_caption(self._app))
        verb = "has" if missing == 1 else "have"
        title = f"{missing} of {html.count(songs, 'song')} {verb} no caption"
        chosen = captions.decision(self._app)
        lines = [_DECIDED[chosen]]
        if not captions.captioner_name(self._app):
            lines.append(captions.captioner_needs())
        state, _ = self._watch.read()
        return [
            gr.update(visible=bool(missing) or state in ACTIVE),
            html.notice(title, lines, "plain" if chosen else "warn"),
            gr.update(visible=self._watch.folder is not None),
        ]

    def _describe(self) -> None:
        captions.describe_songs(self._app)

    def _open(self) -> str:
        captions.decide(self._app, "captioner")
        if captions.captioner_runs():
            link = f'<a href="{captions.CAPTIONER_URL}" target="_blank" rel="noopener">{captions.CAPTIONER_URL}</a>'
            return f'<p class="ac-summary">The captioner is open at {link}.</p>'
        steps = f"Start it in a terminal with {captions.START_CAPTIONER}, then open {captions.CAPTIONER_URL}."
        return html.notice("The captioner is not running", [steps])

    def _use_tag(self) -> None:
        captions.decide(self._app, "tag")


def _result(result: dict[str, Any]) -> str:
    failed = [f"{name}: {reason}" for name, reason in dict(result.get("failed") or {}).items()]
    title = f"{html.count(int(result.get('described', 0)), 'song')} described"
    return html.notice(title, failed, "warn" if failed else "good")
