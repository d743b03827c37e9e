"""5. Listen: compare checkpoints, and generate audio with an adapter at any strength or without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.core.errors import AceStepError, AdapterError
from acestep.core.untrusted import exists
from acestep.models.configs import GenerationConfig
from acestep.ui import html, layout
from acestep.ui.errors import notify
from acestep.ui.form import Data, Form
from acestep.ui.jobs import CompareJob, GenerateJob
from acestep.ui.page_context import Prerequisite
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.audio_clips import BASE_MODEL, source_of
from acestep.ui.trainer.compare_panel import ComparePanel
from acestep.ui.trainer.generations import generation_row, list_generations, new_generation_folder, trigger_word
from acestep.ui.trainer.page_context import TrainerContext

_NO_ADAPTER = ("no adapter: the base model", "")
_NONE = "none"  # stands for no adapter in a multi-select dropdown, which cannot hold an empty value
_EMPTY = "Generated audio appears here, the newest first."
_NUM_PRESELECTED = 4  # checkpoints
_SEVERAL = "compare.several"  # the run, then what the user selected for it


class ListenTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._page, self._app = page, page.app
        layout.heading("Compare checkpoints")
        self._compare = ComparePanel(page)
        layout.heading("Generate")
        self._create_form(page)
        page.require("tr-listen", self._missing)
        controls = page.job_controls("generate", "Generate", "Stop")
        JobPanel(
            page.live,
            self._app.watches["generate"],
            "tr-generate",
            nothing_yet="Use the same seed with and without an adapter to hear its effect.",
            result=lambda result: html.notice(f"Generated {result.get('seconds', 0):.0f} s, see below.", tone="good"),
        )
        inputs = {*self._form.inputs, *self._strength.inputs}
        self._create_several(page, inputs)
        layout.heading("Your generations")
        self._generations = gr.HTML(elem_id="tr-listen-generations")
        page.on(controls.start.click, self._start, {self._adapter, *inputs}, check=self._check)
        page.on(self._adapter.input, self._select, [self._adapter])
        page.on(self._several.input, self._select_several, [self._several])
        page.unconfirmed_text.add("listen.adapter", self._adapter, lambda: [_NO_ADAPTER, *self._app.adapters()])
        page.live.add([self._adapter], lambda: tuple(self._app.adapters()), self._render_adapters)
        page.live.add([self._trigger_word], lambda: self._selected, self._render_trigger_word)
        page.live.add([self._generations], self._generations_version, self._render_generations)

    def _create_form(self, page: TrainerContext) -> None:
        with layout.grid():
            self._adapter = gr.Dropdown(
                [_NO_ADAPTER],
                label="Adapter",
                info="An adapter from your runs, or the path of one.",
                value="",
                allow_custom_value=True,
                elem_id="tr-listen-adapter",
            )
            skipped = ("checkpoint", "adapter")
            self._strength = Form(GenerateJob, "listen", page.saved_fields, leave_out=skipped)
            self._strength.place("strength", "audio_format")
        self._trigger_word = gr.HTML(elem_id="tr-listen-tag")
        self._form = Form(GenerationConfig, "piece", page.saved_fields, lines={"prompt": 4, "lyrics": 4})
        self._form.place("prompt", "lyrics", wide=True)
        self._form.place_rest()

    def _create_several(self, page: TrainerContext, inputs: set[Component]) -> None:
        """The same request with several checkpoints of the run that is compared above."""
        with layout.section("Generate with several checkpoints", "tr-several"):
            self._several = gr.Dropdown(
                [],
                label="Checkpoints",
                info="Of the run above. Prompt, lyrics, seed and strength are those above.",
                multiselect=True,
                elem_id="tr-compare-several",
            )
            controls = page.job_controls("compare", "Generate all", "Stop")
            JobPanel(
                page.live,
                self._app.watches["compare"],
                "tr-compare",
                nothing_yet="The results appear in the comparison table at the top.",
                result=lambda result: html.notice(f"Generated {len(result['audio'])} audio files.", tone="good"),
            )
        page.on(controls.start.click, self._start_several, {self._several, *inputs}, check=self._check)
        page.live.add([self._several], lambda: (self._compare.run, tuple(self._checkpoints())), self._render_several)

    def _check(self, data: Data) -> dict[Component, str]:
        return {**self._form.check(data), **self._strength.check(data)}

    @property
    def _selected(self) -> str:
        """The adapter that the user selected or typed, unless it was deleted, or else the newest one."""
        selected = self._app.settings.get("listen.adapter")
        if isinstance(selected, str) and not self._app.was_deleted(selected):
            return selected
        return next((value for _, value in self._app.adapters()), "")

    def _missing(self) -> Prerequisite | None:
        if not self._app.settings.text("service.checkpoint"):
            return Prerequisite("No model is selected yet.", "service")
        return None

    def _checkpoints(self) -> list[tuple[str, str]]:
        """The base model and the adapters of the run that is compared, as (label, folder), the newest first."""
        run = self._compare.run
        named = [(source_of(run, Path(path)), path) for _, path in self._app.adapters()] if run else []
        return [(BASE_MODEL, _NONE), *((source, path) for source, path in named if source)]

    def _render_several(self) -> list[Any]:
        choices = self._checkpoints()
        known = [value for _, value in choices]
        run, *selected = self._app.settings.get(_SEVERAL) or [""]
        selected = [each for each in selected if each in known] if run == str(self._compare.run) else []
        return [gr.update(choices=choices, value=selected or known[:_NUM_PRESELECTED])]

    def _select_several(self, selected: list[str] | None) -> None:
        self._app.settings.put({_SEVERAL: [str(self._compare.run), *(selected or [])]})

    def _select(self, adapter: str | None) -> None:
        self._app.settings.put({"listen.adapter": adapter or ""})

    def _render_adapters(self) -> list[Any]:
        return [gr.update(choices=[_NO_ADAPTER, *self._app.adapters()], value=self._selected)]

    def _render_trigger_word(self) -> list[str]:
        selected = self._selected
        word = html.text(trigger_word(selected) if exists(Path(selected)) else "")
        return [f'<p class="ac-phase">Trigger word: <b>{word}</b>. Begin the prompt with it.</p>' if word else ""]

    def _generations_version(self) -> object:
        watches = self._app.watches
        return watches["generate"].folder, watches["generate"].read()[0], watches["compare"].read()[1].done

    def _render_generations(self) -> list[str]:
        rows = []
        for generation in list_generations(self._app.generations_folder):
            try:
                rows.append(generation_row(generation))
            except AceStepError:
                continue  # removed or damaged since it was listed
        if not rows:
            return [html.notice("Nothing generated yet", [_EMPTY])]
        return [f'<ul class="ac-generations">{"".join(rows)}</ul>']

    def _start(self, data: Data) -> None:
        adapter = data[self._adapter]
        job = GenerateJob(
            checkpoint=str(self._app.checkpoint().folder.resolve()),
            adapter=self._app.workspace.path(adapter, "Adapter") if adapter else None,
            request=self._form.read(data),
            **self._strength.values(data),
        )
        self._app.start("generate", job, new_generation_folder(self._app.generations_folder))
        notify("Generating.")

    def _start_several(self, data: Data) -> None:
        several: list[str] = data[self._several] or []
        if not several:
            raise AdapterError("no checkpoint is selected", hint="Select at least one under Checkpoints.")
        workspace = self._app.workspace
        job = CompareJob(
            checkpoint=str(self._app.checkpoint().folder.resolve()),
            adapters=["" if each == _NONE else str(workspace.path(each, "Checkpoints")) for each in several],
            request=self._form.read(data),
            **self._strength.values(data),
        )
        self._app.start("compare", job, new_generation_folder(self._app.generations_folder))
        notify(f"Generating {html.count(len(several), 'audio file')}.")
