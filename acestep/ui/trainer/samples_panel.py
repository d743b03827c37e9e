"""The latest audio previews of the current run, to play during training."""

from __future__ import annotations

import gradio as gr

from acestep.core.errors import AceStepError
from acestep.ui import html, layout
from acestep.ui.trainer.audio_clips import Clip, latest_previews
from acestep.ui.trainer.generations import player
from acestep.ui.trainer.page_context import TrainerContext


class SamplesPanel:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._watch = page.app.watches["train"]
        with gr.Column(visible=False, elem_id="tr-train-samples") as block:
            list_ = gr.HTML()
            with layout.actions():
                compare = gr.Button("Compare in 5. Listen", size="sm", elem_id="tr-train-compare")
        page.go_to(compare, "listen")
        page.live.add([block, list_], self._version, self._render)

    def _version(self) -> object:
        state, view = self._watch.read()
        made = sum(saved.role == "sample" for saved in view.saved)
        return self._watch.folder, made, state

    def _render(self) -> tuple[object, str]:
        folder = self._watch.folder
        found = latest_previews(folder) if folder else []
        words = [item for sound in found if (item := _item(sound))]
        title = f"Latest samples: {found[0].source}" if found else ""
        prompt = str(found[0].request.get("prompt") or "no prompt") if found else ""
        listed = (
            f'<h3 class="ac-title">{html.text(title)}</h3><p class="ac-phase">{html.text(prompt)}</p>'
            f'<ul class="ac-samples">{"".join(words)}</ul>'
        )
        return gr.update(visible=bool(words)), listed if words else ""


def _item(sound: Clip) -> str:
    """A player with its strength; "" if the file is missing or cannot be played."""
    words = f"strength {sound.strength:g}" if sound.strength else "without the adapter"
    try:
        return f"<li><span>{html.text(words)}</span>{player(sound.path, f'{sound.source}, {words}')}</li>"
    except (AceStepError, OSError):
        return ""
