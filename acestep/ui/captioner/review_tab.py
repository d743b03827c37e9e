"""4. Review: play each song, correct its labels, and see what to check before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gradio as gr

from acestep.captioning.quality import KINDS, check_captions
from acestep.core.config import option
from acestep.dataset.sample import Dataset
from acestep.ui import html, layout
from acestep.ui.bulk_edit import BulkEdit, BulkPanel
from acestep.ui.captioner.audio_folder import SongEntry
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.captioner.run_tab import status_of
from acestep.ui.captioner.song_editor import FolderSongEditor
from acestep.ui.form import Form
from acestep.ui.page_context import Prerequisite

_FILTERS = ["all songs", "to check"]
_FILTER = "review.filter"
_HEADERS = ["Song", "Status", "BPM", "Key", "Caption", "To check"]
_NO_SONGS = "There are no songs yet. Enter the folder of your songs and scan it."
_WIDTHS: list[str | int] = [170, 100, 70, 100, 260, 220]


class CaptionEdit(BulkEdit):
    """A change to the labels in the label files."""

    field: Literal[
        "caption", "genre", "lyrics", "bpm", "keyscale", "timesignature", "language", "is_instrumental", "custom_tag"
    ] = option("caption", "Field", "Which label is changed; custom_tag is the trigger word, saved in the label files.")


class ReviewTab:
    """Components and listeners."""

    def __init__(self, page: CaptionerContext, form: Form[Any]) -> None:
        self._app = app = page.app
        page.require("cp-review", lambda: None if app.folder.entries else Prerequisite(_NO_SONGS, "songs"))
        choose = page.filter(_FILTER, _FILTERS, "cp-review-filter")
        with gr.Row(equal_height=False) as body:
            with gr.Column(scale=2, min_width=320):
                table = gr.Dataframe(
                    headers=_HEADERS,
                    datatype=["str", "str", "number", "str", "str", "str"],
                    column_widths=_WIDTHS,
                    interactive=False,
                    show_search="search",
                    max_height=520,
                    buttons=["fullscreen"],
                    label="Songs",
                    elem_id="cp-review-table",
                )
            with gr.Column(scale=3, min_width=320):
                FolderSongEditor(page, table, form)
        BulkPanel(page, app.folder, CaptionEdit, "cp-bulk")
        with layout.section("Quality report", "cp-quality"):
            report = gr.HTML(elem_id="cp-quality-report")
        page.live.add([choose, body, table, report], lambda: (app.version(), app.settings.get(_FILTER)), self._render)

    def _render(self) -> Sequence[Any]:
        entries = self._app.folder.entries
        _, view = self._app.watch.read()
        failed = {item.item for item in view.skipped}
        checked = self._app.settings.get(_FILTER) == _FILTERS[1]
        rows = [_row(entry, entry.name in failed) for entry in entries if entry.doubts or not checked]
        there = gr.update(visible=bool(entries))
        return there, there, gr.update(value=rows), quality_report(entries)


def quality_report(entries: list[SongEntry]) -> str:
    """The findings of the caption checks."""
    if not entries:
        return html.notice("No songs yet.")
    findings = check_captions(Dataset(samples=[entry.sample for entry in entries]))
    differ = [(entry.name, "measurement and model disagree", line) for entry in entries for line in entry.doubts]
    messages = {finding.message for finding in findings}
    rows = [(finding.song, KINDS[finding.kind], finding.message) for finding in findings]
    rows += [row for row in differ if row[2] not in messages]
    if not rows:
        return html.notice(f"{html.count(len(entries), 'song')}, no problems found.", tone="good")
    songs = len({row[0] for row in rows})
    title = f"{songs} of {html.count(len(entries), 'song')} to check before training"
    return html.notice(title, tone="warn") + html.table(["Song", "What", "Details"], rows, "Quality report")


def _row(entry: SongEntry, failed: bool) -> list[Any]:
    song = entry.sample
    return [
        entry.name,
        status_of(entry, failed),
        song.bpm,
        song.keyscale,
        " ".join(song.caption.split())[:90],
        "; ".join(entry.doubts),
    ]
