"""6. Export & Merge: convert an adapter for another program, with a check of the result, or merge it into its model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.config import Config, option
from acestep.core.errors import AdapterError
from acestep.core.files import storage_errors
from acestep.core.untrusted import is_file
from acestep.exporting.targets import ALL, TARGETS
from acestep.ui import html, layout
from acestep.ui.errors import notify
from acestep.ui.form import Data, Form
from acestep.ui.page_context import Prerequisite
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.merge_panel import MergePanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.workspace import cache_folder

EXPORTS = "exports"
_FACTS = {"kind": "Kind", "form": "Format", "modules": "Modules", "residual": "Error"}


class ExportOptions(Config):
    """Options of an export."""

    strength: float = option(1.0, "Strength", "Scales the exported weights permanently; 1 keeps them.", ge=-4, le=4)
    rank: int | None = option(
        None, "Rank", "Converts to a LoRA of this rank. Empty: only if the program requires it.", ge=1, le=4096
    )
    thorough: bool = option(
        False,
        "Compare with the model",
        "Also compares the outputs of the whole model of 1. Service. Takes longer; adapters with "
        "trained magnitudes (DoRA) require it for ComfyUI.",
    )


def export(app: AppState, adapter: str, target: str, out: str, options: ExportOptions | None = None) -> dict[str, Any]:
    """Export an adapter into a folder inside the workspace. Raises AdapterError, StorageError, UnknownName."""
    options = options or ExportOptions()
    source = app.workspace.path(adapter, "Adapter")
    folder = app.workspace.inside(out.strip() or f"{EXPORTS}/{default_name(source)}-{target}", "Export Path")
    model = app.checkpoint().folder if options.thorough else None
    from acestep.exporting.package import export_adapter  # imports torch: after the checks that need no torch

    return export_adapter(source, target, out=folder, rank=options.rank, strength=options.strength, checkpoint=model)


def default_name(adapter: Path) -> str:
    """The name of the run, with the checkpoint if it is not the final one."""
    parts = [part for part in adapter.parts if part not in ("adapter", "checkpoints", "final")]
    return "-".join(parts[-2:]) if parts[-1].startswith(("epoch_", "best")) else parts[-1]


class ExportTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        page.require("tr-export", self._missing)
        self._adapter = gr.Dropdown(
            [],
            label="Adapter",
            info="An adapter from your runs, or the path of one. Final holds the best weights of a run.",
            allow_custom_value=True,
            elem_id="tr-export-adapter",
        )
        with gr.Row(equal_height=False, elem_classes="ac-halves"):
            with gr.Column(scale=1, min_width=320):
                self._create_export(page)
            with gr.Column(scale=1, min_width=320):
                MergePanel(page, self._adapter)
        page.on(self._adapter.input, self._select, [self._adapter])
        page.unconfirmed_text.add("export.adapter", self._adapter, self._app.adapters)
        page.live.add([self._adapter], self._adapters_version, self._render_adapters)

    def _create_export(self, page: TrainerContext) -> None:
        layout.heading("Export for another program")
        programs = [*((entry.label, entry.name) for entry in TARGETS), ("All of them", ALL)]
        self._target = gr.Radio(programs, value=TARGETS.names[0], label="Program", elem_id="tr-export-target")
        gr.HTML(html.facts({entry.label: entry.help for entry in TARGETS}), elem_id="tr-export-about")
        self._path = gr.Textbox(
            label="Export Path",
            info=f"A folder inside the program's folder. Empty: {EXPORTS}, and the name of the run.",
            placeholder=f"{EXPORTS}/my_style",
            elem_id="tr-export-path",
        )
        self._options = Form(ExportOptions, "export", page.saved_fields)
        self._options.place_rest(collapsed=True)
        with layout.actions():
            button = gr.Button("Export", variant="primary", elem_id="tr-export-start")
        result = gr.HTML(elem_id="tr-export-result")
        files = gr.HTML(elem_id="tr-export-files")
        page.saved_fields.add("export.target", self._target, lambda value: value in [name for _, name in programs])
        page.saved_fields.add("export.path", self._path)
        inputs = {self._adapter, self._target, self._path, *self._options.inputs}
        page.on(button.click, self._export, inputs, [result, files], check=self._options.check, busy_on=result)

    def _missing(self) -> Prerequisite | None:
        return None if self._app.adapters() else Prerequisite("There is no adapter yet.", "train")

    def _select(self, adapter: str | None) -> None:
        self._app.settings.put({"export.adapter": adapter or ""})

    @property
    def _selected(self) -> str | None:
        """The adapter that the user selected or typed, unless it was deleted, or else the newest one."""
        selected = self._app.settings.text("export.adapter")
        if selected and not self._app.was_deleted(selected):
            return selected
        return next((value for _, value in self._app.adapters()), None)

    def _adapters_version(self) -> object:
        return tuple(self._app.adapters()), self._selected

    def _render_adapters(self) -> list[Any]:
        return [gr.update(choices=self._app.adapters(), value=self._selected)]

    def _export(self, data: Data) -> tuple[str, str]:
        adapter, target = data[self._adapter], data[self._target]
        if not adapter:
            raise AdapterError("no adapter is selected", hint="Train one in 4. Train, or enter the path of one.")
        result = export(self._app, adapter, target, data[self._path], self._options.read(data))
        notify("Exported.")
        written = result.get("targets") or {target: result}
        rejected = result.get("refused") or {}
        content = "".join(_describe(name, each) for name, each in written.items())
        content += "".join(
            html.notice(f"Not possible for {TARGETS[name].label}", [reason], "warn")
            for name, reason in rejected.items()
        )
        return content, _downloads([Path(each["adapter"]) for each in written.values()])


def _describe(target: str, written: dict[str, Any]) -> str:
    notes = [str(note) for note in written.get("notes", [])]
    facts: dict[str, Any] = {"File for the program": written["adapter"], "Source": written["source"]}
    facts |= {
        label: _value(name, written[name]) for name, label in _FACTS.items() if written.get(name) not in (None, "")
    }
    facts |= {"Trigger word": written["trigger_word"]} if written.get("trigger_word") else {}
    title = f"Exported and verified: {TARGETS[target].label}"
    return html.notice(title, notes, "good") + html.facts(facts)


def _value(name: str, value: Any) -> str:
    return f"{value:.3%}" if name == "residual" else str(value)


def _downloads(exported: list[Path]) -> str:
    """Links to copies of the files in the cache, from which the browser may download."""
    links = []
    for number, path in enumerate(exported):
        files = [path] if is_file(path) else [file for file in sorted(path.iterdir()) if is_file(file)]
        folder = cache_folder(f"export/{number}-{path.stem}")
        with storage_errors(folder):
            links += [html.download(Path(shutil.copyfile(file, folder / file.name))) for file in files]
    return f'<h4 class="ac-title">Download</h4><ul class="ac-files">{"".join(links)}</ul>'
