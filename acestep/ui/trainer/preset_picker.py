"""Presets: the suggested one for the GPU with the reason, and the values that differ from the selected one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import fields
from acestep.core.errors import AceStepError
from acestep.training.presets import SelectedPreset, gpu_presets, list_presets, preset_for_memory, read_preset
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.recommended_epochs import RecommendedEpochs

CUSTOM = "custom"
_KEY = "train.preset"


class PresetPicker:
    """Components and listeners."""

    def __init__(self, page: TrainerContext, forms: Mapping[str, Form[Any]], recommended: RecommendedEpochs) -> None:
        """The recommended epochs override those of a preset, unless the epochs are the purpose of the preset."""
        self._app, self._changes, self._fields = page.app, page.changes, page.saved_fields
        self._forms, self._recommended = forms, recommended
        choices = [("Custom", CUSTOM), *gpu_presets().items(), *((name, name) for name in list_presets())]
        preset = gr.Dropdown(
            choices,
            value=CUSTOM,
            label="GPU Preset",
            info="Sets the values below for the adapter type. You can change them afterwards.",
            elem_id="tr-train-preset",
        )
        with gr.Column(min_width=200):
            why = gr.HTML(elem_id="tr-train-suggestion")
            use = gr.Button("Use the suggested preset", size="sm", elem_id="tr-train-suggest")
        names = [name for _, name in choices]
        page.saved_fields.add(_KEY, preset, lambda value: value in names, saves=False)
        page.on(preset.input, self.apply, [preset])
        page.on(use.click, lambda: self.apply(str(self._suggestion())))
        page.live.add([why], self._version, lambda: [self._words()])

    def apply_again(self) -> None:
        """Apply the preset to another kind of adapter, except to fields in which a person has entered a value."""
        if self._chosen != CUSTOM:
            values = self._expected(self._chosen)
            kept = [key for key in values if self._app.settings.is_entered(key)]
            values = {key: value for key, value in values.items() if key not in kept}
            label = ADAPTERS[self._app.adapter_kind].label
            self._changes.apply("preset", f"Preset {self._chosen} applied to {label}", values)
            names = ", ".join(self._fields.label(key) for key in kept)
            notify(f"Preset {self._chosen} for {label}. {f'Kept what you entered: {names}.' if kept else ''}".strip())

    @property
    def _chosen(self) -> str:
        return self._app.settings.text(_KEY, CUSTOM)

    def apply(self, name: str) -> None:
        """Apply a preset to the selected kind of adapter, which stays selected."""
        if name == CUSTOM:
            return self._app.settings.put({_KEY: name})
        preset = read_preset(name, self._app.adapter_kind)
        entered = self._recommended.keys if preset.keeps_epochs else ()
        values = {_KEY: name, **self._expected(name)}
        if self._changes.apply("preset", f"Applied the preset {name}", values, entered=entered):
            notify(preset.description)
        return None

    def _suggestion(self) -> SelectedPreset:
        gpu = self._app.gpu
        return preset_for_memory(gpu.total_gb if gpu else 0)

    def _expected(self, name: str) -> dict[str, Any]:
        """The values of the fields after that preset was applied, the adapter type excepted. Raises ConfigError."""
        preset = read_preset(name, self._app.adapter_kind)
        settings = {key: value for key, value in preset.settings.items() if key != "training.adapter_type"}
        split = {key: key.partition(".") for key in settings}
        shown = {key: self._forms[split[key][0]].displayed(split[key][2], value) for key, value in settings.items()}
        if preset.keeps_epochs or not self._recommended.automatic:
            return shown
        return shown | self._recommended.values

    def _version(self) -> object:
        keys = [form.key(name) for form in self._forms.values() for name in form.names]
        songs = self._recommended.songs, self._recommended.automatic
        return self._app.gpu is None, self._chosen, songs, tuple(str(self._app.settings.get(key)) for key in keys)

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
