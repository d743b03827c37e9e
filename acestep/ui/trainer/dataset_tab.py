"""2. Dataset: find songs, hear them, describe them, save the list."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.core.config import Config, option
from acestep.core.paths import safe_name
from acestep.dataset.sample import TagPosition
from acestep.demo_songs import TAG, write_songs
from acestep.ui import html
from acestep.ui.bulk_edit import BulkPanel, LabelEdit
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.split_panel import SplitPanel
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.song_editor import SongEditor
from acestep.ui.trainer.song_table import SongTable

_OF_SCAN = ("all_instrumental",)  # counts when a folder is scanned; the others whenever they change


class ScanSettings(Config):
    """What holds for all songs of a dataset."""

    name: str = option("my_lora_dataset", "Dataset Name", "Names the file, and the run that is trained on it.")
    custom_tag: str = option(
        "", "Activation Tag", "A word that no song uses otherwise, such as ZX_MyArtist. It will call your style."
    )
    tag_position: TagPosition = option(
        "prepend", "Tag Position", "Before the caption, after it, or instead of it (then captions are not learned)."
    )
    genre_ratio: int = option(
        0, "Genre Ratio", "Share of songs described by their genre instead of their caption.", unit="%", ge=0, le=100
    )
    all_instrumental: bool = option(
        True, "All Instrumental", "When scanning: songs without any lyrics are instrumental."
    )


class DatasetTab:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._shell, self._app = page, page.app
        folder, scan, demo = self._source()
        self._form = Form(ScanSettings, "dataset", page.saved_fields)
        self._form.rest()
        path, load = self._loader()
        SplitPanel(page, self._app.workspace)
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                table = SongTable(page).table
            with gr.Column(scale=2, min_width=320):
                editor = SongEditor(page, table)
        BulkPanel(page, page.app.songs, LabelEdit, "tr-bulk")
        self._editor = editor
        self._saver()
        inputs = [folder, *self._form.widgets]
        for trigger in (scan.click, folder.submit):
            page.on(trigger, self._scan, inputs, editor.outputs, check=self._check, busy_on=table)
        page.on(demo.click, self._demo, [], editor.outputs, busy_on=table)
        page.on(load.click, self._load, [path], editor.outputs)
        page.on(page.blocks.load, editor.first, [], editor.outputs, quiet=True)
        for name, widget in zip(self._form.names, self._form.widgets, strict=True):
            if name not in _OF_SCAN:
                page.on(widget.change, self._describer(name), [widget], quiet=True)  # type: ignore[attr-defined]

    def _source(self) -> tuple[gr.Textbox, gr.Button, gr.Button]:
        with gr.Row(elem_classes="ac-with-button"):
            folder = gr.Textbox(
                label="Audio Directory",
                info="The folder with your songs and their labels, on the computer that runs this program.",
                placeholder="/home/me/Music/my-band",
                elem_id="tr-dataset-folder",
                scale=5,
            )
            scan = gr.Button("Scan Audio Directory", variant="primary", elem_id="tr-dataset-scan", scale=0)
            demo = gr.Button("Use the demo songs", elem_id="tr-dataset-demo", scale=0)
        self._shell.saved_fields.add("dataset.folder", folder)
        return folder, scan, demo

    def _loader(self) -> tuple[gr.Textbox, gr.Button]:
        with (
            gr.Accordion("Load Existing Dataset", open=False, elem_classes="ac-fold", elem_id="tr-load"),
            gr.Row(elem_classes="ac-with-button"),
        ):
            path = gr.Textbox(
                label="Dataset JSON",
                info="Of this program, of the trainer before it, or of Side-Step.",
                placeholder="datasets/my_lora_dataset.json",
                elem_id="tr-load-path",
                scale=5,
            )
            load = gr.Button("Load", elem_id="tr-load-start", scale=0)
        self._shell.saved_fields.add("dataset.load", path)
        return path, load

    def _saver(self) -> None:
        with gr.Row(elem_classes="ac-with-button"):
            path = gr.Textbox(
                label="Save Path",
                info="A file to keep and to load again. What you change is not lost before it is saved.",
                placeholder="datasets/my_lora_dataset.json",
                elem_id="tr-save-path",
                scale=5,
            )
            save = gr.Button("Save Dataset", elem_id="tr-save", scale=0)
        self._shell.saved_fields.add("dataset.save", path)
        self._shell.on(save.click, self._save, [path, self._form.widget("name")])

    def _check(self, folder: str, *values: Any) -> list[str]:
        return ["" if folder.strip() else "Enter the folder of your songs first.", *self._form.check(*values)]

    def _scan(self, folder: str, *values: Any) -> list[Any]:
        path = self._app.workspace.folder(folder, "Audio Directory")
        found = self._app.songs.scan(path, **self._form.plain(values))
        notify(f"{html.count(found.counts['songs'], 'song')}, {found.counts['labelled']} labelled.")
        return self._editor.first()

    def _demo(self) -> list[Any]:
        folder = self._app.workspace.root / "datasets" / "demo_songs"
        write_songs(folder)
        settings = ScanSettings(name="demo", custom_tag=TAG)
        self._app.songs.scan(folder, **settings.model_dump())
        self._app.settings.push({"dataset.folder": str(folder), **self._form.to_saved(settings)})
        notify("The demo songs are ready: six short pieces, made of arithmetic, with labels.")
        return self._editor.first()

    def _load(self, text: str) -> list[Any]:
        dataset = self._app.songs.load(self._app.workspace.file(text, "Dataset JSON"))
        known = dataset.metadata.model_dump(include=set(self._form.names))
        settings = ScanSettings(**known)
        self._app.settings.push(self._form.to_saved(settings))
        notify(f"{html.count(len(dataset.samples), 'song')} loaded.")
        return self._editor.first()

    def _save(self, text: str, name: str) -> None:
        text = text if text.strip() else f"datasets/{safe_name(name)}.json"
        path = self._app.workspace.path(text, "Save Path")
        self._app.songs.save(path)
        notify(f"Saved in {path}.")

    def _describer(self, name: str) -> Any:
        def describe(value: Any) -> None:
            if not self._form.problem(name, value):
                self._app.songs.describe(**{name: value})

        return describe
