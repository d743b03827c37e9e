"""6. Export & Merge: an adapter for another program, read back and compared before it counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AdapterError
from acestep.core.files import storage_errors
from acestep.exporting.configs import TARGETS
from acestep.ui import html
from acestep.ui.errors import say
from acestep.ui.places import cache_folder
from acestep.ui.trainer.desk import Desk
from acestep.ui.trainer.shell import Cure, Shell

EXPORTS = "exports"


def export(desk: Desk, adapter: str, target: str, out: str) -> dict[str, Any]:
    """Write an adapter into a folder of this program. Raises AdapterError, StorageError, UnknownName."""
    from acestep.exporting.package import export_adapter

    source = desk.places.path(adapter, "Adapter")
    folder = desk.places.own(out.strip() or f"{EXPORTS}/{default_name(source)}-{target}", "Export Path")
    return export_adapter(source, target, out=folder)


def default_name(adapter: Path) -> str:
    """The run, and the checkpoint if it is neither best nor final."""
    parts = [part for part in adapter.parts if part not in ("adapter", "checkpoints", "final")]
    return "-".join(parts[-2:]) if parts[-1].startswith(("epoch_", "best")) else parts[-1]


class ExportTab:
    """Widgets and what they do."""

    def __init__(self, shell: Shell) -> None:
        self._desk = shell.desk
        shell.cure("tr-export", self._missing)
        with gr.Row(elem_classes="ac-grid"):
            self._adapter = gr.Dropdown(
                [],
                label="Adapter",
                info="Final is the best that the run has.",
                allow_custom_value=True,
                elem_id="tr-export-adapter",
            )
            target = gr.Dropdown(
                [(entry.label, entry.name) for entry in TARGETS],
                value=TARGETS.names[0],
                label="Program",
                info="Which program will read it.",
                elem_id="tr-export-target",
            )
            path = gr.Textbox(
                label="Export Path",
                info="A folder inside the program's own. Empty: exports, and the name of the run.",
                placeholder=f"{EXPORTS}/my_style",
                elem_id="tr-export-path",
            )
        self._about = gr.HTML(elem_id="tr-export-about")
        with gr.Row(elem_classes="ac-actions"):
            button = gr.Button("Export", variant="primary", elem_id="tr-export-start")
        self._result = gr.HTML(elem_id="tr-export-result")
        self._files = gr.File(label="Files to take along", interactive=False, visible=False, elem_id="tr-export-files")
        shell.kept.add("export.target", target, lambda value: value in TARGETS.names)
        shell.kept.add("export.path", path)
        shell.on(
            button.click, self._export, [self._adapter, target, path], [self._result, self._files], busy_on=self._result
        )
        shell.on(target.input, self._choose, [target], quiet=True)
        shell.live.show([self._adapter], lambda: tuple(self._desk.adapters()), self._paint_adapters)
        shell.live.show([self._about], lambda: self._target, self._paint_about)

    @property
    def _target(self) -> str:
        return self._desk.settings.text("export.target", TARGETS.names[0])

    def _missing(self) -> Cure | None:
        return None if self._desk.adapters() else Cure("There is no adapter yet.", "train")

    def _choose(self, target: str) -> None:
        self._desk.settings.put({"export.target": target})

    def _paint_adapters(self) -> list[Any]:
        choices = self._desk.adapters()
        return [gr.update(choices=choices, value=choices[0][1] if choices else None)]

    def _paint_about(self) -> list[str]:
        return [f'<p class="ac-phase">{html.text(TARGETS[self._target].help)}</p>']

    def _export(self, adapter: str | None, target: str, out: str) -> tuple[str, Any]:
        if not adapter:
            raise AdapterError("no adapter is chosen", hint="Train one in 4. Train, or enter the path of one.")
        made = export(self._desk, adapter, target, out)
        place = Path(made["adapter"])
        word = made.get("trigger_word")
        facts = {"Give to the program": place, "Made from": made["source"], "Modules": made.get("modules", "")}
        facts |= {"Trigger word": word} if word else {}
        notes = [str(note) for note in made.get("notes", [])]
        say("Exported.")
        words = html.card("Exported, read back and compared", notes, "good") + html.facts(facts)
        return words, gr.update(value=_copies(place), visible=True)


def _copies(place: Path) -> list[str]:
    """The files, in the cache, where the browser may fetch them."""
    files = [place] if place.is_file() else [path for path in sorted(place.iterdir()) if path.is_file()]
    folder = cache_folder(f"export/{place.name}")
    with storage_errors(folder):
        return [str(shutil.copyfile(path, folder / path.name)) for path in files]
