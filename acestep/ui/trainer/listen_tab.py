"""5. Listen: checkpoints side by side, and music from a text, with an adapter at any strength or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError, AdapterError
from acestep.models.configs import GenerationConfig
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.jobs import CompareJob, GenerateJob
from acestep.ui.page_context import Prerequisite, heading
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.audio_clips import BASE_MODEL, source_of
from acestep.ui.trainer.compare_panel import ComparePanel
from acestep.ui.trainer.generations import generation_row, list_generations, new_generation_folder, trigger_word
from acestep.ui.trainer.job_buttons import JobControls
from acestep.ui.trainer.page_context import TrainerContext

_ALONE = ("no adapter: the model alone", "")
_NONE = "none"  # stands for the model alone where several are chosen: a menu does not hold an empty text
_EMPTY = "What you make appears here, the newest first."
_SUGGESTED = 4  # checkpoints that are chosen to begin with


class ListenTab:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._shell, self._app = page, page.app
        heading("Compare checkpoints")
        self._compare = ComparePanel(page)
        heading("Make music")
        self._make_form(page)
        page.require("tr-listen", self._missing)
        buttons = JobControls(page, "generate", "Make music", "Stop")
        JobPanel(
            page.live,
            self._app.watches["generate"],
            "tr-generate",
            nothing_yet="Take the same seed with and without an adapter to hear what it does.",
            result=lambda result: html.notice(f"{result.get('seconds', 0):.0f} s of music, below.", tone="good"),
        )
        inputs = [*self._form.widgets, self._strength.widget("strength")]
        self._make_several(page, inputs)
        heading("Your pieces")
        self._generations = gr.HTML(elem_id="tr-listen-pieces")
        page.on(buttons.start.click, self._start, [*inputs, self._adapter], check=self._form.check)
        page.on(self._adapter.input, self._choose, [self._adapter], quiet=True)
        page.live.show([self._adapter], lambda: tuple(self._app.adapters()), self._render_adapters)
        page.live.show([self._tag], lambda: self._chosen, self._render_trigger_word)
        page.live.show([self._generations], self._generations_version, self._render_generations)

    def _make_form(self, page: TrainerContext) -> None:
        with gr.Row(elem_classes="ac-grid"):
            self._adapter = gr.Dropdown(
                [_ALONE],
                label="Adapter",
                info="What training has left, or the path of an adapter.",
                value="",
                allow_custom_value=True,
                elem_id="tr-listen-adapter",
            )
            self._strength = Form(GenerateJob, "listen", page.saved_fields, leave_out=("checkpoint", "adapter"))
            self._strength.place("strength")
        self._tag = gr.HTML(elem_id="tr-listen-tag")
        self._form = Form(GenerationConfig, "piece", page.saved_fields, lines={"prompt": 4, "lyrics": 4})
        self._form.place("prompt", "lyrics", wide=True)
        self._form.rest()

    def _make_several(self, page: TrainerContext, inputs: list[Any]) -> None:
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
            buttons = JobControls(page, "compare", "Make them all", "Stop")
            JobPanel(
                page.live,
                self._app.watches["compare"],
                "tr-compare",
                nothing_yet="They appear in the table at the top, one after the other.",
                result=lambda result: html.notice(f"{html.count(len(result['audio']), 'piece')}, above.", tone="good"),
            )
        page.on(buttons.start.click, self._start_several, [*inputs, several], check=self._form.check)
        page.live.show([several], lambda: (self._compare.run, tuple(self._sources())), self._render_several(several))

    @property
    def _chosen(self) -> str:
        """What the user chose, as long as it is there; before that the newest adapter."""
        chosen = self._app.settings.get("listen.adapter")
        if isinstance(chosen, str) and (not chosen or Path(chosen).exists()):
            return chosen
        return next((value for _, value in self._app.adapters()), "")

    def _missing(self) -> Prerequisite | None:
        if not self._app.settings.text("service.checkpoint"):
            return Prerequisite("No model is chosen yet.", "service")
        return None

    def _sources(self) -> list[tuple[str, str]]:
        """The adapters of the run that is compared, as (words, folder): the model alone, then the newest first."""
        run = self._compare.run
        named = [(source_of(run, Path(path)), path) for _, path in self._app.adapters()] if run else []
        return [(BASE_MODEL, _NONE), *((source, path) for source, path in named if source)]

    def _render_several(self, several: gr.Dropdown) -> Any:
        def render() -> list[Any]:
            choices = self._sources()
            return [gr.update(choices=choices, value=[value for _, value in choices[:_SUGGESTED]])]

        return render

    def _choose(self, adapter: str | None) -> None:
        self._app.settings.put({"listen.adapter": adapter or ""})

    def _render_adapters(self) -> list[Any]:
        return [gr.update(choices=[_ALONE, *self._app.adapters()], value=self._chosen)]

    def _render_trigger_word(self) -> list[str]:
        word = trigger_word(self._chosen)
        return [
            f'<p class="ac-phase">Its trigger word is <b>{html.text(word)}</b>: begin the style with it.</p>'
            if word
            else ""
        ]

    def _generations_version(self) -> object:
        watches = self._app.watches
        return watches["generate"].folder, watches["generate"].look()[0], watches["compare"].look()[1].done

    def _render_generations(self) -> list[str]:
        rows = []
        for piece in list_generations(self._app.generations_folder):
            try:
                rows.append(generation_row(piece))
            except AceStepError:
                continue  # removed or damaged by hand since
        return [f'<ul class="ac-pieces">{"".join(rows)}</ul>' if rows else html.notice("No piece yet", [_EMPTY])]

    def _start(self, *values: Any) -> None:
        *told, strength, adapter = values
        job = GenerateJob(
            checkpoint=str(self._app.checkpoint().folder.resolve()),
            adapter=self._app.workspace.path(adapter, "Adapter") if adapter else None,
            strength=strength,
            request=self._form.read(told),
        )
        self._app.start("generate", job, new_generation_folder(self._app.generations_folder))
        notify("Making music.")

    def _start_several(self, *values: Any) -> None:
        *told, strength, several = values
        if not several:
            raise AdapterError("nothing is chosen to compare", hint="Choose checkpoints under Made by.")
        job = CompareJob(
            checkpoint=str(self._app.checkpoint().folder.resolve()),
            adapters=["" if each == _NONE else str(self._app.workspace.path(each, "Made by")) for each in several],
            strength=strength,
            request=self._form.read(told),
        )
        self._app.start("compare", job, new_generation_folder(self._app.generations_folder))
        notify(f"Making {html.count(len(several), 'piece')}.")
