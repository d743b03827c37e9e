"""6. Export & Merge: an adapter for another program, read back and compared before it counts; or part of its model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.config import Config, option
from acestep.core.errors import AdapterError
from acestep.core.files import storage_errors
from acestep.exporting.targets import ALL, TARGETS
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.page_context import Prerequisite, heading
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.merge_panel import MergePanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.workspace import cache_folder

EXPORTS = "exports"
_SHOWN = {"kind": "Kind", "form": "Written as", "modules": "Modules", "residual": "Lost"}


class ExportOptions(Config):
    """What may be changed on the way out."""

    strength: float = option(1.0, "Strength", "Baked in: below 1 weakens the adapter for good.", ge=-4, le=4)
    rank: int | None = option(
        None, "Rank", "Makes it a LoRA of this rank. Empty: changed only where the program demands it.", ge=1, le=4096
    )
    thorough: bool = option(
        False,
        "Compare with the model",
        "Also compares the answers of the whole model of 1. Service. Takes longer; DoRA for ComfyUI needs it.",
    )


def export(app: AppState, adapter: str, target: str, out: str, options: ExportOptions | None = None) -> dict[str, Any]:
    """Write an adapter into a folder of this program. Raises AdapterError, StorageError, UnknownName."""
    options = options or ExportOptions()
    source = app.workspace.path(adapter, "Adapter")
    folder = app.workspace.inside(out.strip() or f"{EXPORTS}/{default_name(source)}-{target}", "Export Path")
    model = app.checkpoint().folder if options.thorough else None
    from acestep.exporting.package import export_adapter  # brings torch: after what can be refused without

    return export_adapter(source, target, out=folder, rank=options.rank, strength=options.strength, checkpoint=model)


def default_name(adapter: Path) -> str:
    """The run, and the checkpoint if it is neither best nor final."""
    parts = [part for part in adapter.parts if part not in ("adapter", "checkpoints", "final")]
    return "-".join(parts[-2:]) if parts[-1].startswith(("epoch_", "best")) else parts[-1]


class ExportTab:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        page.require("tr-export", self._missing)
        self._adapter = gr.Dropdown(
            [],
            label="Adapter",
            info="What training has left, or the path of an adapter. Final is the best that the run has.",
            allow_custom_value=True,
            elem_id="tr-export-adapter",
        )
        with gr.Row(equal_height=False, elem_classes="ac-halves"):
            with gr.Column(scale=1, min_width=320):
                self._make_export(page)
            with gr.Column(scale=1, min_width=320):
                MergePanel(page, self._adapter)
        page.on(self._adapter.input, self._choose, [self._adapter], quiet=True)
        page.live.show([self._adapter], self._adapters_version, self._render_adapters)

    def _make_export(self, page: TrainerContext) -> None:
        heading("Export for another program")
        programs = [*((entry.label, entry.name) for entry in TARGETS), ("All of them", ALL)]
        target = gr.Radio(programs, value=TARGETS.names[0], label="Program", elem_id="tr-export-target")
        gr.HTML(html.facts({entry.label: entry.help for entry in TARGETS}), elem_id="tr-export-about")
        path = gr.Textbox(
            label="Export Path",
            info="A folder inside the program's own. Empty: exports, and the name of the run.",
            placeholder=f"{EXPORTS}/my_style",
            elem_id="tr-export-path",
        )
        self._options = Form(ExportOptions, "export", page.saved_fields)
        self._options.rest(folded=True)
        with gr.Row(elem_classes="ac-actions"):
            button = gr.Button("Export", variant="primary", elem_id="tr-export-start")
        result = gr.HTML(elem_id="tr-export-result")
        files = gr.HTML(elem_id="tr-export-files")
        page.saved_fields.add("export.target", target, lambda value: value in [name for _, name in programs])
        page.saved_fields.add("export.path", path)
        inputs = [*self._options.widgets, self._adapter, target, path]
        page.on(button.click, self._export, inputs, [result, files], check=self._options.check, busy_on=result)

    def _missing(self) -> Prerequisite | None:
        return None if self._app.adapters() else Prerequisite("There is no adapter yet.", "train")

    def _choose(self, adapter: str | None) -> None:
        self._app.settings.put({"export.adapter": adapter or ""})

    @property
    def _chosen(self) -> str | None:
        """What the user chose, as long as it is there; before that the newest."""
        chosen = self._app.settings.text("export.adapter")
        if chosen and Path(chosen).exists():
            return chosen
        return next((value for _, value in self._app.adapters()), None)

    def _adapters_version(self) -> object:
        return tuple(self._app.adapters()), self._chosen

    def _render_adapters(self) -> list[Any]:
        return [gr.update(choices=self._app.adapters(), value=self._chosen)]

    def _export(self, *values: Any) -> tuple[str, str]:
        *told, adapter, target, out = values
        if not adapter:
            raise AdapterError("no adapter is chosen", hint="Train one in 4. Train, or enter the path of one.")
        made = export(self._app, adapter, target, out, self._options.read(told))
        notify("Exported.")
        written = made.get("targets") or {target: made}
        words = "".join(_told(name, each) for name, each in written.items())
        refused = made.get("refused") or {}
        words += "".join(html.notice(f"Not for {TARGETS[name].label}", [why], "warn") for name, why in refused.items())
        return words, _downloads([Path(each["adapter"]) for each in written.values()])


def _told(target: str, made: dict[str, Any]) -> str:
    notes = [str(note) for note in made.get("notes", [])]
    facts: dict[str, Any] = {"Give to the program": made["adapter"], "Made from": made["source"]}
    facts |= {label: _figure(name, made[name]) for name, label in _SHOWN.items() if made.get(name) not in (None, "")}
    facts |= {"Trigger word": made["trigger_word"]} if made.get("trigger_word") else {}
    title = f"Exported, read back and compared: {TARGETS[target].label}"
    return html.notice(title, notes, "good") + html.facts(facts)


def _figure(name: str, value: Any) -> str:
    return f"{value:.3%}" if name == "residual" else str(value)


def _downloads(workspace: list[Path]) -> str:
    """Links to the files: to copies in the cache, where the browser may fetch them."""
    links = []
    for number, place in enumerate(workspace):
        files = [place] if place.is_file() else [path for path in sorted(place.iterdir()) if path.is_file()]
        folder = cache_folder(f"export/{number}-{place.stem}")
        with storage_errors(folder):
            links += [html.download(Path(shutil.copyfile(path, folder / path.name))) for path in files]
    return f'<h4 class="ac-title">Files to take along</h4><ul class="ac-files">{"".join(links)}</ul>'
