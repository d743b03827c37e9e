"""Presets: the suggested one for the GPU with the reason, and the values that differ from the selected one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from acestep.core.config import fields
from acestep.core.errors import AceStepError
from acestep.training.presets import SelectedPreset, gpu_presets, list_presets, preset_for_memory, read_preset
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.trainer.page_context import TrainerContext

CUSTOM = "custom"


class PresetPicker:
    """Components and listeners."""

    def __init__(
        self, page: TrainerContext, forms: Mapping[str, Form[Any]], recommended: Callable[[], dict[str, int]]
    ) -> None:
        """``recommended`` returns the epochs for the number of songs, which override those of a preset."""
        self._app, self._forms, self._recommended = page.app, forms, recommended
        choices = [("Custom", CUSTOM), *gpu_presets().items(), *((name, name) for name in list_presets())]
        preset = gr.Dropdown(
            choices,
            value=CUSTOM,
            label="GPU Preset",
            info="Sets the values below. You can change them afterwards.",
            elem_id="tr-train-preset",
        )
        with gr.Column(min_width=200):
            why = gr.HTML(elem_id="tr-train-suggestion")
            use = gr.Button("Use the suggested preset", size="sm", elem_id="tr-train-suggest")
        names = [name for _, name in choices]
        page.saved_fields.add("train.preset", preset, lambda value: value in names)
        page.on(preset.input, self._apply, [preset], quiet=True)
        page.on(use.click, self._apply_suggested, quiet=True)
        page.live.add([why], self._version, lambda: [self._words()])

    def apply_again(self) -> None:
        """Apply the preset to another kind of adapter."""
        self._apply(self._chosen)

    @property
    def _chosen(self) -> str:
        return self._app.settings.text("train.preset", CUSTOM)

    def _apply(self, name: str) -> None:
        self._app.settings.put({"train.preset": name})
        if name != CUSTOM:
            self._app.settings.push(self._expected(name))
            notify(read_preset(name, self._app.adapter_kind).description)

    def _apply_suggested(self) -> None:
        name = str(self._suggestion())
        self._app.settings.push({"train.preset": name})
        self._apply(name)

    def _suggestion(self) -> SelectedPreset:
        gpu = self._app.gpu
        return preset_for_memory(gpu.total_gb if gpu else 0)

    def _expected(self, name: str) -> dict[str, Any]:
        """The values of the fields after that preset was applied. Raises ConfigError."""
        settings = read_preset(name, self._app.adapter_kind).settings
        split = {key: key.partition(".") for key in settings}
        shown = {key: self._forms[split[key][0]].displayed(split[key][2], value) for key, value in settings.items()}
        return shown | self._recommended()

    def _version(self) -> object:
        keys = [form.key(name) for form in self._forms.values() for name in form.names]
        return self._app.gpu is None, self._chosen, tuple(str(self._app.settings.get(key)) for key in keys)

    def _words(self) -> str:
        gpu, suggestion = self._app.gpu, self._suggestion()
        reason = f"{gpu.name}: {suggestion.reason}" if gpu else "no NVIDIA GPU was found; it needs the least memory"
        words = f"<b>Suggested: {html.text(suggestion)}</b>, {html.text(reason)}."
        if changed := self._changed():
            words += f" {html.count(len(changed), 'value')} changed: {html.text(', '.join(changed))}."
        return f'<p class="ac-phase">{words}</p>'

    def _changed(self) -> list[str]:
        """Labels of the fields that differ from the selected preset."""
        if self._chosen == CUSTOM:
            return []
        try:
            expected = self._expected(self._chosen)
        except AceStepError:
            return []
        keys = [key for key, value in expected.items() if self._app.settings.get(key, value) != value]
        return [str(fields(self._forms[key.split(".")[0]].config_type)[key.split(".")[1]].title) for key in keys]
