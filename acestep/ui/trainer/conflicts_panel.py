"""Labels with two versions, one typed on this page and one from a file: a person chooses."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.ui import html, layout
from acestep.ui.trainer.editable_dataset import Conflict
from acestep.ui.trainer.page_context import TrainerContext

_NAMES = {"bpm": "BPM", "keyscale": "Key", "timesignature": "Time Signature", "is_instrumental": "Instrumental"}


class ConflictsPanel:
    """Components and listeners. Shows one conflict at a time."""

    def __init__(self, page: TrainerContext) -> None:
        self._dataset = page.app.dataset
        with gr.Column(visible=False, elem_id="tr-conflicts") as box:
            text = gr.HTML(elem_id="tr-conflicts-text")
            shown = gr.Textbox("", visible="hidden")  # which conflict the page shows
            with layout.actions():
                mine = gr.Button("Keep mine", elem_id="tr-conflicts-mine")
                file = gr.Button("Use the file", elem_id="tr-conflicts-file")
        page.on(mine.click, lambda key: self._resolve(key, keep_typed=True), [shown])
        page.on(file.click, lambda key: self._resolve(key, keep_typed=False), [shown])
        page.live.add([text, box, shown], lambda: tuple(_key(each) for each in self._dataset.conflicts), self._render)

    def _render(self) -> list[Any]:
        conflicts = self._dataset.conflicts
        if not conflicts:
            return ["", gr.update(visible=False), ""]
        first = conflicts[0]
        label = _NAMES.get(first.label, first.label.replace("_", " ").capitalize())
        title = f"Two versions of {label} of {first.song} ({html.count(len(conflicts), 'conflict')})"
        rows = [("Yours", _text(first.typed)), (f"From {first.source}", _text(first.found))]
        lines = ["It was changed outside of this page after you edited it. Your version is used until you decide."]
        content = html.notice(title, lines, "warn") + html.table(["Version", label], rows, "Versions")
        return [content, gr.update(visible=True), _key(first)]

    def _resolve(self, key: str, *, keep_typed: bool) -> None:
        for conflict in self._dataset.conflicts:
            if _key(conflict) == key:
                self._dataset.resolve(conflict, keep_typed=keep_typed)


def _key(conflict: Conflict) -> str:
    return f"{conflict.label}|{conflict.audio}|{conflict.typed}|{conflict.found}"


def _text(value: Any) -> str:
    return "" if value is None else str(value)
