"""2. Dataset: find songs, play them, edit their labels, save the dataset."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.core.config import Config, option
from acestep.core.paths import safe_name
from acestep.dataset.sample import TagPosition
from acestep.demo.songs import TAG, write_songs
from acestep.ui import html, layout
from acestep.ui.bulk_edit import BulkPanel, LabelEdit
from acestep.ui.errors import notify
from acestep.ui.form import Data, Form
from acestep.ui.split_panel import SplitPanel
from acestep.ui.trainer.captions_panel import CaptionsPanel
from acestep.ui.trainer.conflicts_panel import ConflictsPanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.song_editor import DatasetSongEditor
from acestep.ui.trainer.song_table import SongTable

_TAG_FROM_FILES = "dataset.tag_from_files"
_USED_BY_SCAN = ("all_instrumental",)  # the other fields apply whenever they change


class ScanSettings(Config):
    """Settings of a whole dataset."""

    name: str = option("my_lora_dataset", "Dataset Name", "Names the dataset file and the runs that train on it.")
    custom_tag: str = option(
        "", "Activation Tag", "A word that no caption uses otherwise, such as ZX_MyArtist. It triggers your style."
    )
    tag_position: TagPosition = option(
        "prepend", "Tag Position", "Before the caption, after it, or instead of it (captions are not learned then)."
    )
    genre_ratio: int = option(
        0, "Genre Ratio", "Share of songs described by their genre instead of their caption.", unit="%", ge=0, le=100
    )
    all_instrumental: bool = option(
        True, "All Instrumental", "When scanning, songs without lyrics are labeled as instrumental."
    )


class DatasetTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._page, self._app = page, page.app
        self._folder, scan, demo = self._create_source()
        self._form = Form(ScanSettings, "dataset", page.saved_fields)
        self._form.place_rest()
        path, load = self._create_loader()
        SplitPanel(page, self._app.workspace)
        ConflictsPanel(page)
        CaptionsPanel(page)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                table = SongTable(page).table
            with gr.Column(scale=2, min_width=320):
                editor = DatasetSongEditor(page, table)
        BulkPanel(page, page.app.dataset, LabelEdit, "tr-bulk")
        self._editor = editor
        self._create_saver()
        inputs = {self._folder, *self._form.inputs}
        for trigger in (scan.click, self._folder.submit):
            page.on(trigger, self._scan, inputs, editor.outputs, check=self._check, busy_on=table)
        page.on(demo.click, self._scan_demo, [], editor.outputs, busy_on=table)
        page.on(load.click, self._load, [path], editor.outputs)
        page.live.add(editor.outputs, lambda: None, editor.show_first)  # once per page
        for name in (name for name in self._form.names if name not in _USED_BY_SCAN):
            field: Any = self._form.component(name)
            page.on(field.change, self._setter(name), [field])

    def _create_source(self) -> tuple[gr.Textbox, gr.Button, gr.Button]:
        with layout.field_row():
            folder = gr.Textbox(
                label="Audio Directory",
                info="The folder with your songs and their labels, on the computer that runs this program.",
                placeholder="/home/me/Music/my-band",
                elem_id="tr-dataset-folder",
                scale=5,
            )
            scan = gr.Button("Scan Audio Directory", variant="primary", elem_id="tr-dataset-scan", scale=0)
            demo = gr.Button("Use the demo songs", elem_id="tr-dataset-demo", scale=0)
        self._page.saved_fields.add("dataset.folder", folder)
        return folder, scan, demo

    def _create_loader(self) -> tuple[gr.Textbox, gr.Button]:
        with layout.section("Load Existing Dataset", "tr-load"), layout.field_row():
            path = gr.Textbox(
                label="Dataset JSON",
                info="A dataset file of this program, of ace-lora-trainer or of Side-Step.",
                placeholder="datasets/my_lora_dataset.json",
                elem_id="tr-load-path",
                scale=5,
            )
            load = gr.Button("Load", elem_id="tr-load-start", scale=0)
        self._page.saved_fields.add("dataset.load", path)
        return path, load

    def _create_saver(self) -> None:
        with layout.field_row():
            path = gr.Textbox(
                label="Save Path",
                info="Where the dataset is saved. Edits that are not saved to a file yet survive a restart.",
                placeholder="datasets/my_lora_dataset.json",
                elem_id="tr-save-path",
                scale=5,
            )
            save = gr.Button("Save Dataset", elem_id="tr-save", scale=0)
        self._page.saved_fields.add("dataset.save", path)
        self._page.on(save.click, self._save, [path, self._form.component("name")])

    def _check(self, data: Data) -> dict[Component, str]:
        missing: dict[Component, str] = {}
        if not data[self._folder].strip():
            missing[self._folder] = "Enter the folder of your songs"
        return {**missing, **self._form.check(data)}

    def _scan(self, data: Data) -> list[Any]:
        path = self._app.workspace.folder(data[self._folder], "Audio Directory")
        found = self._app.dataset.scan(path, **self._form.values(data))
        tag = self._take_tag(str(data[self._form.component("custom_tag")]).strip(), found.custom_tag)
        labeled = self._app.dataset.statistics().labeled
        notify(f"Found {html.count(found.counts['songs'], 'song')}, {labeled} labeled.{tag}")
        return self._editor.show_first()

    def _take_tag(self, typed: str, found: str) -> str:
        """Use the activation tag of the label files, unless the user typed one. Returns a message."""
        settings = self._app.settings
        if not found or found == typed or (typed and typed != settings.get(_TAG_FROM_FILES)):
            return ""
        self._app.dataset.set_metadata(custom_tag=found)
        settings.put({_TAG_FROM_FILES: found})
        settings.push({self._form.key("custom_tag"): found})
        return f" The activation tag {found} is from the label files."

    def _scan_demo(self) -> list[Any]:
        folder = self._app.workspace.root / "datasets" / "demo_songs"
        write_songs(folder)
        settings = ScanSettings(name="demo", custom_tag=TAG)
        self._app.dataset.scan(folder, **settings.model_dump())
        self._app.settings.push({"dataset.folder": str(folder), **self._form.to_saved(settings)})
        notify("The demo songs are ready: six short synthesized songs with labels.")
        return self._editor.show_first()

    def _load(self, text: str) -> list[Any]:
        dataset = self._app.dataset.load(self._app.workspace.file(text, "Dataset JSON"))
        settings = ScanSettings(**dataset.metadata.model_dump(include=set(self._form.names)))
        self._app.settings.push(self._form.to_saved(settings))
        notify(f"Loaded {html.count(len(dataset.samples), 'song')}.")
        return self._editor.show_first()

    def _save(self, text: str, name: str) -> None:
        text = text if text.strip() else f"datasets/{safe_name(name)}.json"
        path = self._app.workspace.path(text, "Save Path")
        self._app.dataset.save(path)
        notify(f"Saved to {path}.")

    def _setter(self, name: str) -> Any:
        def set_metadata(value: Any) -> None:
            if not self._form.problem(name, value):
                self._app.dataset.set_metadata(**{name: value})

        return set_metadata
