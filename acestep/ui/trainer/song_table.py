"""The songs at hand as a table: search, sort, what is missing where, and what could not be used at all."""

from __future__ import annotations

import os.path
from typing import Any

import gradio as gr

from acestep.dataset.labels import is_failure, is_sung
from acestep.dataset.sample import Sample
from acestep.ui import html
from acestep.ui.trainer.page_context import TrainerContext

HEADERS = ["#", "File", "Length", "Labelled", "Lyrics", "BPM", "Key", "Problems", "Caption"]
_TYPES: list[Any] = ["number", "str", "str", "str", "str", "number", "str", "str", "str"]
_WIDTHS: list[str | int] = [45, 170, 70, 85, 115, 60, 90, 130, 320]
_FILTERS = ["all songs", "with problems", "without a caption"]
_CAPTION_CHARS = 90
_EMPTY = "Put 5 to 50 songs into a folder, enter its path above and scan it. Or try the demo songs."


def problems_of(song: Sample) -> list[str]:
    """What keeps a song from being used as it could."""
    found = []
    if is_failure(song.caption):
        found.append("caption is an error message")
    elif not song.labeled:
        found.append("no caption")
    if not song.is_instrumental and not is_sung(song.lyrics):
        found.append("no lyrics")
    if not os.path.isfile(song.audio_path):
        found.append("file is gone")
    return found


class SongTable:
    """Widgets and what they do. ``table`` tells which song is chosen: the first cell is its number."""

    def __init__(self, page: TrainerContext) -> None:
        self._shell, self._app = page, page.app
        self._words = gr.HTML(elem_id="tr-songs-summary")
        self._filter = gr.Radio(
            _FILTERS, value=_FILTERS[0], label="Show", elem_id="tr-songs-filter", container=False, visible=False
        )
        page.saved_fields.add("dataset.filter", self._filter, lambda value: value in _FILTERS)
        self.table = gr.Dataframe(
            headers=HEADERS,
            datatype=_TYPES,
            column_widths=_WIDTHS,
            interactive=False,
            show_search="search",
            max_height=520,
            buttons=["fullscreen"],
            label="Songs",
            elem_id="tr-songs-table",
            visible=False,
        )
        with gr.Accordion(
            "Left out", open=False, visible=False, elem_classes="ac-fold", elem_id="tr-songs-problems"
        ) as self._fold:
            self._problems = gr.HTML()
        page.on(self._filter.input, self._choose, [self._filter], quiet=True)
        outputs = [self._words, self._filter, self.table, self._fold, self._problems]
        page.live.show(outputs, self._version, self._render)

    def _choose(self, value: str) -> None:
        self._app.settings.put({"dataset.filter": value})

    def _version(self) -> object:
        return self._app.songs.version, self._app.settings.get("dataset.filter")

    def _render(self) -> list[Any]:
        songs, problems = self._app.songs.samples, self._app.songs.problems
        rows = [(_row(number, song), song) for number, song in enumerate(songs, 1)]
        chosen = self._app.settings.get("dataset.filter")
        if chosen == _FILTERS[1]:
            rows = [(row, song) for row, song in rows if row[-2]]
        elif chosen == _FILTERS[2]:
            rows = [(row, song) for row, song in rows if not song.labeled]
        listed = [(problem.path.name, problem.message, problem.hint) for problem in problems]
        there = bool(songs)
        return [
            self._summary() if there else html.notice("No songs yet", [_EMPTY]),
            gr.update(visible=there),
            gr.update(visible=there, value=[row for row, _ in rows]),
            gr.update(
                visible=bool(listed), label=f"{html.count(len(listed), 'file')} left out or not used as expected"
            ),
            html.table(["File", "What", "What to do"], listed, "Files that were left out"),
        ]

    def _summary(self) -> str:
        about = self._app.songs.overview()
        words = [
            html.count(about.songs, "song"),
            html.duration(about.seconds),
            f"{about.labelled} labelled",
            f"{about.sung} with lyrics",
        ]
        if missing := about.songs - about.labelled:
            words.append(f"{missing} without a caption")
        return f'<p class="ac-summary">{" &middot; ".join(html.text(word) for word in words)}</p>'


def _row(number: int, song: Sample) -> list[Any]:
    lyrics = "words" if is_sung(song.lyrics) else "instrumental" if song.is_instrumental else "missing"
    caption = song.caption if len(song.caption) <= _CAPTION_CHARS else f"{song.caption[:_CAPTION_CHARS]}..."
    return [
        number,
        song.filename,
        html.duration(song.duration),
        "yes" if song.labeled else "no",
        lyrics,
        song.bpm,
        song.keyscale,
        ", ".join(problems_of(song)),
        caption,
    ]
