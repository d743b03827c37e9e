"""1. Songs: the folder, the labels that its songs have, the config file, and splitting long recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError
from acestep.dataset.labels import is_sung
from acestep.ui import html, layout
from acestep.ui.captioner import config_file
from acestep.ui.captioner.app_state import FOLDER
from acestep.ui.captioner.audio_folder import SongEntry
from acestep.ui.captioner.page_context import CaptionerContext, paragraph
from acestep.ui.errors import describe_error, notify, warn
from acestep.ui.split_panel import SplitPanel

_FILTERS = ["all songs", "with missing labels"]
_FILTER = "songs.filter"
_HEADERS = ["Song", "Length", "Caption", "Lyrics", "BPM", "Key", "Time"]
_EMPTY = "No songs yet. Enter the folder of your songs and scan it."
_COMMANDS = """The same from the command line:
```bash
env/bin/python -m acestep caption MUSIC_FOLDER --backend local
env/bin/python -m acestep scan MUSIC_FOLDER --tag my_style --out dataset.json
```"""


class SongsTab:
    """Components and listeners."""

    def __init__(self, page: CaptionerContext) -> None:
        self._app = app = page.app
        with layout.field_row():
            folder = gr.Textbox(
                label="Audio Folder",
                info="On the computer that runs this program. Subfolders are included.",
                placeholder="/home/me/Music/my_style",
                elem_id="cp-folder",
                scale=1,
            )
            scan = gr.Button("Scan", variant="primary", elem_id="cp-scan", scale=0)
        page.saved_fields.add(FOLDER, folder)
        notes = gr.HTML(elem_id="cp-notes")
        page.live.add([notes], lambda: tuple(app.notes), lambda: ["".join(html.notice(note) for note in app.notes)])
        summary = gr.HTML(elem_id="cp-summary")
        choose = page.filter(_FILTER, _FILTERS, "cp-filter")
        table = gr.HTML(elem_id="cp-songs")
        self._config(page)
        SplitPanel(page, app.workspace)
        with layout.section("From the command line", "cp-commands"):
            gr.Markdown(_COMMANDS)
        for trigger in (scan.click, folder.submit):
            page.on(trigger, self._scan, [folder], busy_on=summary)
        page.live.add([summary, choose, table], lambda: (app.version(), app.settings.get(_FILTER)), self._render)

    def _config(self, page: CaptionerContext) -> None:
        with layout.section("Config", "cp-config"):
            with layout.field_row():
                path = gr.Textbox(
                    value=config_file.NAME,
                    label="Config File",
                    info="All settings of this page, without API keys. "
                    f"{config_file.NAME} in the program's folder is loaded when the program starts.",
                    elem_id="cp-config-file",
                    scale=1,
                )
                save = gr.Button("Save", elem_id="cp-config-save", scale=0)
                load = gr.Button("Load", elem_id="cp-config-load", scale=0)
            status = gr.HTML(elem_id="cp-config-status")
        page.saved_fields.add("config.path", path)
        page.on(save.click, self._save, [path], [status])
        page.on(load.click, self._load, [path], [status])

    def _scan(self, folder: str) -> None:
        self._app.open(folder)
        self._app.notes.clear()
        notify(f"Found {html.count(len(self._app.folder.entries), 'song')}.")

    def _save(self, path: str) -> str:
        saved = self._app.save_config(path)
        notify(f"Saved in {saved}.")
        return html.notice("Saved", [str(saved)], "good")

    def _load(self, path: str) -> str:
        ignored = self._app.load_config(path)
        self._app.notes.clear()
        try:
            self._app.ready()
        except AceStepError as error:
            ignored.append(describe_error(error))
        if ignored:
            warn("Some settings of the file were ignored.")
        return html.notice("Loaded", ignored, "warn" if ignored else "good")

    def _render(self) -> Sequence[Any]:
        songs = self._app.folder
        if not songs.entries:
            return html.notice(_EMPTY), gr.update(visible=False), ""
        shown = songs.entries
        if self._app.settings.get(_FILTER) == _FILTERS[1]:
            shown = [entry for entry in shown if lacks(entry)]
        body = html.table(_HEADERS, [_row(entry) for entry in shown], "Songs")
        if songs.problems:
            rows = [(problem.path.name, problem.message, problem.hint) for problem in songs.problems]
            body += html.notice(f"{html.count(len(rows), 'file')} skipped or used only in part", tone="warn")
            body += html.table(["File", "Problem", "What to do"], rows, "Skipped files")
        return self._summary(songs.entries), gr.update(visible=True), body

    def _summary(self, entries: list[SongEntry]) -> str:
        words = [
            html.count(len(entries), "song"),
            html.duration(sum(entry.sample.duration for entry in entries)),
            f"{sum(entry.sample.has_caption for entry in entries)} with a caption",
            f"{sum(is_sung(entry.sample.lyrics) for entry in entries)} with lyrics",
            f"{sum(bool(entry.sample.bpm) for entry in entries)} with a tempo",
        ]
        return paragraph(", ".join(words))


def lacks(entry: SongEntry) -> list[str]:
    """The labels that a song does not have."""
    song = entry.sample
    there = {"caption": song.has_caption, "lyrics": entry.has_lyrics, "BPM": bool(song.bpm), "key": bool(song.keyscale)}
    return [label for label, found in there.items() if not found]


def _row(entry: SongEntry) -> list[object]:
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
