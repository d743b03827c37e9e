"""1. Songs: which folder, what its songs have already, the settings as a file, long recordings cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError
from acestep.dataset.labels import is_sung
from acestep.ui import html
from acestep.ui.captioner import config_file
from acestep.ui.captioner.app_state import FOLDER
from acestep.ui.captioner.audio_folder import Entry
from acestep.ui.captioner.page_context import Shell, phrase
from acestep.ui.errors import say, sentence, warn
from acestep.ui.split_panel import SplitPanel

_FILTERS = ["all songs", "with something missing"]
_FILTER = "songs.filter"
_HEADERS = ["Song", "Length", "Caption", "Lyrics", "BPM", "Key", "Time"]
_EMPTY = "No songs yet. Enter the folder that holds your songs and scan it."
_COMMANDS = """The same without this page, for a folder of songs:
```bash
env/bin/python -m acestep caption MUSIC_FOLDER --backend local
env/bin/python -m acestep scan MUSIC_FOLDER --tag my_style --out dataset.json
```"""


class SongsTab:
    """Widgets and what they do."""

    def __init__(self, shell: Shell) -> None:
        self._desk = desk = shell.captions
        with gr.Row(elem_classes="ac-with-button"):
            folder = gr.Textbox(
                label="Audio Folder",
                info="On the computer that runs this program. Sub-folders count too.",
                placeholder="/home/me/Music/my_style",
                elem_id="cp-folder",
                scale=1,
            )
            scan = gr.Button("Scan", variant="primary", elem_id="cp-scan", scale=0)
        shell.kept.add(FOLDER, folder)
        summary = gr.HTML(elem_id="cp-summary")
        choose = gr.Radio(_FILTERS, value=_FILTERS[0], label="Show", container=False, elem_id="cp-filter")
        shell.kept.add(_FILTER, choose, lambda value: value in _FILTERS)
        table = gr.HTML(elem_id="cp-songs")
        self._config(shell)
        SplitPanel(shell, desk.places)
        with gr.Accordion("From the command line", open=False, elem_classes="ac-fold", elem_id="cp-commands"):
            gr.Markdown(_COMMANDS)
        for trigger in (scan.click, folder.submit):
            shell.on(trigger, self._scan, [folder], busy_on=summary)
        shell.on(choose.input, lambda value: desk.settings.put({_FILTER: value}), [choose], quiet=True)
        shell.live.show([summary, choose, table], lambda: (desk.version(), desk.settings.get(_FILTER)), self._paint)

    def _config(self, shell: Shell) -> None:
        with gr.Accordion("Config", open=False, elem_classes="ac-fold", elem_id="cp-config"):
            with gr.Row(elem_classes="ac-with-button"):
                path = gr.Textbox(
                    value=config_file.NAME,
                    label="Config File",
                    info="Holds all settings of this page, keys of services never. "
                    f"{config_file.NAME} in the program's folder is loaded by itself when the program starts.",
                    elem_id="cp-config-file",
                    scale=1,
                )
                save = gr.Button("Save", elem_id="cp-config-save", scale=0)
                load = gr.Button("Load", elem_id="cp-config-load", scale=0)
            status = gr.HTML("".join(phrase(note) for note in self._desk.notes), elem_id="cp-config-status")
        shell.kept.add("config.path", path)
        shell.on(save.click, self._save, [path], [status], quiet=True)
        shell.on(load.click, self._load, [path], [status], quiet=True)

    def _scan(self, folder: str) -> None:
        self._desk.open(folder)
        say(f"{html.count(len(self._desk.songs.entries), 'song')} found.")

    def _save(self, path: str) -> str:
        return html.card("Saved", [str(self._desk.save_config(path))], "good")

    def _load(self, path: str) -> str:
        ignored = self._desk.load_config(path)
        try:
            self._desk.ready()
        except AceStepError as error:
            ignored.append(sentence(error))
        if ignored:
            warn("Some of the file was not used.")
        return html.card("Loaded", ignored, "warn" if ignored else "good")

    def _paint(self) -> Sequence[Any]:
        songs = self._desk.songs
        if not songs.entries:
            return html.card(_EMPTY), gr.update(visible=False), ""
        shown = songs.entries
        if self._desk.settings.get(_FILTER) == _FILTERS[1]:
            shown = [entry for entry in shown if lacks(entry)]
        body = html.table(_HEADERS, [_row(entry) for entry in shown], "Songs")
        if songs.problems:
            rows = [(problem.path.name, problem.message, problem.hint) for problem in songs.problems]
            body += html.card(f"{html.count(len(rows), 'file')} left out or not used as expected", tone="warn")
            body += html.table(["File", "What", "What to do"], rows, "Files that were left out")
        return self._summary(songs.entries), gr.update(visible=True), body

    def _summary(self, entries: list[Entry]) -> str:
        words = [
            html.count(len(entries), "song"),
            html.duration(sum(entry.sample.duration for entry in entries)),
            f"{sum(entry.sample.has_caption for entry in entries)} with a caption",
            f"{sum(is_sung(entry.sample.lyrics) for entry in entries)} with lyrics",
            f"{sum(bool(entry.sample.bpm) for entry in entries)} with a tempo",
        ]
        return phrase(", ".join(words))


def lacks(entry: Entry) -> list[str]:
    """The labels that a song has not."""
    song = entry.sample
    there = {"caption": song.has_caption, "lyrics": entry.has_lyrics, "BPM": bool(song.bpm), "key": bool(song.keyscale)}
    return [label for label, found in there.items() if not found]


def _row(entry: Entry) -> list[object]:
    song = entry.sample
    return [
        entry.name,
        html.duration(song.duration),
        "yes" if song.has_caption else "no",
        entry.lyrics,
        song.bpm or "",
        song.keyscale,
        song.timesignature,
    ]
