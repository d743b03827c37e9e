"""5. Listen: music from a text, with an adapter at any strength or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError
from acestep.models.configs import GenerationConfig
from acestep.ui import html
from acestep.ui.errors import say
from acestep.ui.form import Form
from acestep.ui.jobs import GenerateJob
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobButtons
from acestep.ui.trainer.pieces import list_pieces, new_folder, piece_row, trigger_word
from acestep.ui.trainer.shell import Cure, Shell

_ALONE = ("no adapter: the model alone", "")
_EMPTY = "What you make appears here, to be compared: the newest first."


class ListenTab:
    """Widgets and what they do."""

    def __init__(self, shell: Shell) -> None:
        self._shell, self._desk = shell, shell.desk
        with gr.Row(elem_classes="ac-grid"):
            self._adapter = gr.Dropdown(
                [_ALONE],
                label="Adapter",
                info="What training has left, or the path of an adapter.",
                value="",
                allow_custom_value=True,
                elem_id="tr-listen-adapter",
            )
            self._strength = Form(GenerateJob, "listen", shell.kept, leave_out=("checkpoint", "adapter"))
            self._strength.place("strength")
        self._tag = gr.HTML(elem_id="tr-listen-tag")
        self._form = Form(GenerationConfig, "piece", shell.kept, lines={"prompt": 4, "lyrics": 4})
        self._form.place("prompt", "lyrics", wide=True)
        self._form.rest()
        shell.cure("tr-listen", self._missing)
        buttons = JobButtons(shell, "generate", "Make music", "Stop")
        JobPanel(
            shell.live,
            self._desk.watches["generate"],
            "tr-generate",
            nothing_yet="Take the same seed with and without an adapter to hear what it does.",
            result=lambda result: html.card(f"{result.get('seconds', 0):.0f} s of music, below.", tone="good"),
        )
        self._pieces = gr.HTML(elem_id="tr-listen-pieces")
        inputs = [*self._form.widgets, self._strength.widget("strength"), self._adapter]
        shell.on(buttons.start.click, self._start, inputs, check=self._form.check)
        shell.on(self._adapter.input, self._choose, [self._adapter], quiet=True)
        shell.live.show([self._adapter], lambda: tuple(self._desk.adapters()), self._paint_adapters)
        shell.live.show([self._tag], lambda: self._chosen, self._paint_tag)
        state = self._desk.watches["generate"]
        shell.live.show([self._pieces], lambda: (state.folder, state.look()[0]), self._paint_pieces)

    @property
    def _chosen(self) -> str:
        """What the user chose, as long as it is there; before that the newest adapter."""
        chosen = self._desk.settings.get("listen.adapter")
        if isinstance(chosen, str) and (not chosen or Path(chosen).exists()):
            return chosen
        return next((value for _, value in self._desk.adapters()), "")

    def _missing(self) -> Cure | None:
        if not self._desk.settings.text("service.checkpoint"):
            return Cure("No model is chosen yet.", "service")
        return None

    def _choose(self, adapter: str | None) -> None:
        self._desk.settings.put({"listen.adapter": adapter or ""})

    def _paint_adapters(self) -> list[Any]:
        return [gr.update(choices=[_ALONE, *self._desk.adapters()], value=self._chosen)]

    def _paint_tag(self) -> list[str]:
        word = trigger_word(self._chosen)
        return [
            f'<p class="ac-phase">Its trigger word is <b>{html.text(word)}</b>: begin the style with it.</p>'
            if word
            else ""
        ]

    def _paint_pieces(self) -> list[str]:
        rows = []
        for piece in list_pieces(self._desk.pieces_folder):
            try:
                rows.append(piece_row(piece))
            except AceStepError:
                continue  # removed or damaged by hand since
        return [f'<ul class="ac-pieces">{"".join(rows)}</ul>' if rows else html.card(_EMPTY)]

    def _start(self, *values: Any) -> None:
        *told, strength, adapter = values
        job = GenerateJob(
            checkpoint=str(self._desk.checkpoint().folder.resolve()),
            adapter=self._desk.places.path(adapter, "Adapter") if adapter else None,
            strength=strength,
            request=self._form.read(told),
        )
        self._desk.start("generate", job, new_folder(self._desk.pieces_folder))
        say("Making music.")
