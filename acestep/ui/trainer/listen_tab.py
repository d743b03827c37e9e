"""5. Listen: checkpoints side by side, and music from a text, with an adapter at any strength or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError, AdapterError
from acestep.models.configs import GenerationConfig
from acestep.ui import html
from acestep.ui.errors import say
from acestep.ui.form import Form
from acestep.ui.jobs import CompareJob, GenerateJob
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.audio_clips import ALONE, source_of
from acestep.ui.trainer.compare_panel import ComparePanel
from acestep.ui.trainer.generations import list_pieces, new_folder, piece_row, trigger_word
from acestep.ui.trainer.job_buttons import JobButtons
from acestep.ui.trainer.page_context import Cure, Shell, heading

_ALONE = ("no adapter: the model alone", "")
_NONE = "none"  # stands for the model alone where several are chosen: a menu does not hold an empty text
_EMPTY = "What you make appears here, the newest first."
_SUGGESTED = 4  # checkpoints that are chosen to begin with


class ListenTab:
    """Widgets and what they do."""

    def __init__(self, shell: Shell) -> None:
        self._shell, self._desk = shell, shell.desk
        heading("Compare checkpoints")
        self._compare = ComparePanel(shell)
        heading("Make music")
        self._make_form(shell)
        shell.cure("tr-listen", self._missing)
        buttons = JobButtons(shell, "generate", "Make music", "Stop")
        JobPanel(
            shell.live,
            self._desk.watches["generate"],
            "tr-generate",
            nothing_yet="Take the same seed with and without an adapter to hear what it does.",
            result=lambda result: html.card(f"{result.get('seconds', 0):.0f} s of music, below.", tone="good"),
        )
        inputs = [*self._form.widgets, self._strength.widget("strength")]
        self._make_several(shell, inputs)
        heading("Your pieces")
        self._pieces = gr.HTML(elem_id="tr-listen-pieces")
        shell.on(buttons.start.click, self._start, [*inputs, self._adapter], check=self._form.check)
        shell.on(self._adapter.input, self._choose, [self._adapter], quiet=True)
        shell.live.show([self._adapter], lambda: tuple(self._desk.adapters()), self._paint_adapters)
        shell.live.show([self._tag], lambda: self._chosen, self._paint_tag)
        shell.live.show([self._pieces], self._pieces_version, self._paint_pieces)

    def _make_form(self, shell: Shell) -> None:
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

    def _make_several(self, shell: Shell, inputs: list[Any]) -> None:
        """The same piece with several checkpoints of the run that is compared above."""
        fold = gr.Accordion(
            "Make it with several checkpoints, to compare", open=False, elem_classes="ac-fold", elem_id="tr-several"
        )
        with fold:
            several = gr.Dropdown(
                [],
                label="Made by",
                info="Checkpoints of the run above. The words, the seed and the strength are those above.",
                multiselect=True,
                elem_id="tr-compare-several",
            )
            buttons = JobButtons(shell, "compare", "Make them all", "Stop")
            JobPanel(
                shell.live,
                self._desk.watches["compare"],
                "tr-compare",
                nothing_yet="They appear in the table at the top, one after the other.",
                result=lambda result: html.card(f"{html.count(len(result['audio']), 'piece')}, above.", tone="good"),
            )
        shell.on(buttons.start.click, self._start_several, [*inputs, several], check=self._form.check)
        shell.live.show([several], lambda: (self._compare.run, tuple(self._sources())), self._paint_several(several))

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

    def _sources(self) -> list[tuple[str, str]]:
        """The adapters of the run that is compared, as (words, folder): the model alone, then the newest first."""
        run = self._compare.run
        named = [(source_of(run, Path(path)), path) for _, path in self._desk.adapters()] if run else []
        return [(ALONE, _NONE), *((source, path) for source, path in named if source)]

    def _paint_several(self, several: gr.Dropdown) -> Any:
        def paint() -> list[Any]:
            choices = self._sources()
            return [gr.update(choices=choices, value=[value for _, value in choices[:_SUGGESTED]])]

        return paint

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

    def _pieces_version(self) -> object:
        watches = self._desk.watches
        return watches["generate"].folder, watches["generate"].look()[0], watches["compare"].look()[1].done

    def _paint_pieces(self) -> list[str]:
        rows = []
        for piece in list_pieces(self._desk.pieces_folder):
            try:
                rows.append(piece_row(piece))
            except AceStepError:
                continue  # removed or damaged by hand since
        return [f'<ul class="ac-pieces">{"".join(rows)}</ul>' if rows else html.card("No piece yet", [_EMPTY])]

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

    def _start_several(self, *values: Any) -> None:
        *told, strength, several = values
        if not several:
            raise AdapterError("nothing is chosen to compare", hint="Choose checkpoints under Made by.")
        job = CompareJob(
            checkpoint=str(self._desk.checkpoint().folder.resolve()),
            adapters=["" if each == _NONE else str(self._desk.places.path(each, "Made by")) for each in several],
            strength=strength,
            request=self._form.read(told),
        )
        self._desk.start("compare", job, new_folder(self._desk.pieces_folder))
        say(f"Making {html.count(len(several), 'piece')}.")
