"""The songs of the dataset as a table, with their problems, and the files that could not be used."""

from __future__ import annotations

import os.path
from typing import Any

import gradio as gr

from acestep.dataset.labels import is_failure, is_sung
from acestep.dataset.sample import Sample
from acestep.ui import html
from acestep.ui.trainer.page_context import TrainerContext

HEADERS = ["#", "File", "Length", "Labeled", "Lyrics", "BPM", "Key", "Problems", "Caption"]
_TYPES: list[Any] = ["number", "str", "str", "str", "str", "number", "str", "str", "str"]
_WIDTHS: list[str | int] = [45, 170, 70, 85, 115, 60, 90, 130, 320]
_ALL, _WITH_PROBLEMS, _WITHOUT_CAPTION = "all songs", "with problems", "without a caption"
_FILTER = "dataset.filter"
_CAPTION_CHARS = 90
_EMPTY = "Put 5 to 50 songs into a folder, enter its path above and scan it, or use the demo songs."


def problems_of(song: Sample) -> list[str]:
    """What limits the use of a song for training."""
    found = []
    if is_failure(song.caption):
        found.append("caption is an error message")
    elif not song.labeled:
        found.append("no caption")
    if not song.is_instrumental and not is_sung(song.lyrics):
        found.append("no lyrics")
    if not os.path.isfile(song.audio_path):
        found.append("file not found")
    return found


class SongTable:
    """Components and listeners. The first column of ``table`` is the number of the song."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        self._summary_line = gr.HTML(elem_id="tr-songs-summary")
        choices = [_ALL, _WITH_PROBLEMS, _WITHOUT_CAPTION]
        self._filter = page.filter(_FILTER, choices, "tr-songs-filter", visible=False)
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
            "Skipped files", open=False, visible=False, elem_classes="ac-fold", elem_id="tr-songs-problems"
        ) as self._section:
            self._problems = gr.HTML()
        outputs = [self._summary_line, self._filter, self.table, self._section, self._problems]
        page.live.add(outputs, self._version, self._render)

    def _version(self) -> object:
        return self._app.dataset.version, self._app.settings.get(_FILTER)

    def _render(self) -> list[Any]:
        songs, problems = self._app.dataset.samples, self._app.dataset.problems
        rows = [_row(number, song) for number, song in enumerate(songs, 1) if self._is_shown(song)]
        listed = [(problem.path.name, problem.message, problem.hint) for problem in problems]
        title = f"{html.count(len(listed), 'file')} skipped or used only in part"
        visible = bool(songs)
        return [
            self._summary() if visible else html.notice("No songs yet", [_EMPTY]),
            gr.update(visible=visible),
            gr.update(visible=visible, value=rows),
            gr.update(visible=bool(listed), label=title),
            html.table(["File", "Problem", "What to do"], listed, "Skipped files"),
        ]

    def _is_shown(self, song: Sample) -> bool:
        selected = self._app.settings.get(_FILTER)
        if selected == _WITH_PROBLEMS:
            return bool(problems_of(song))
        return selected != _WITHOUT_CAPTION or not song.labeled

    def _summary(self) -> str:
        statistics = self._app.dataset.statistics()
        facts = [
            html.count(statistics.songs, "song"),
            html.duration(statistics.seconds),
            f"{statistics.labeled} labeled",
            f"{statistics.with_lyrics} with lyrics",
        ]
        if missing := statistics.songs - statistics.labeled:
            facts.append(f"{missing} without a caption")
        return f'<p class="ac-summary">{" &middot; ".join(html.text(fact) for fact in facts)}</p>'


def _row(number: int, song: Sample) -> list[Any]:
    lyrics = "yes" if is_sung(song.lyrics) else "instrumental" if song.is_instrumental else "missing"
    return [
        number,
        song.filename,
        html.duration(song.duration),
        "yes" if song.labeled else "no",
        lyrics,
        song.bpm,
        song.keyscale,
        ", ".join(problems_of(song)),
        html.shorten(song.caption, _CAPTION_CHARS),
    ]
