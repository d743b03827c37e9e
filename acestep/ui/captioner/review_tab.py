"""4. Review: hear each song and correct its labels, and see what is doubtful before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gradio as gr

from acestep.captioning.quality import KINDS, check_captions
from acestep.core.config import option
from acestep.dataset.sample import Dataset
from acestep.ui import html
from acestep.ui.bulk_edit import BulkEdit, BulkPanel
from acestep.ui.captioner.audio_folder import Entry
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.captioner.run_tab import status_of
from acestep.ui.captioner.song_editor import Editor
from acestep.ui.form import Form
from acestep.ui.page_context import Prerequisite

_FILTERS = ["all songs", "to check"]
_FILTER = "review.filter"
_HEADERS = ["Song", "Status", "BPM", "Key", "Caption", "To check"]
_NO_SONGS = "There are no songs yet. Choose the folder that holds yours and scan it."
_WIDTHS: list[str | int] = [170, 100, 70, 100, 260, 220]


class CaptionEdit(BulkEdit):
    """A change to what the label files say."""

    field: Literal[
        "caption", "genre", "lyrics", "bpm", "keyscale", "timesignature", "language", "is_instrumental", "custom_tag"
    ] = option("caption", "Field", "Which label is changed; custom_tag is the trigger word, noted in the label files.")


class ReviewTab:
    """Widgets and what they do."""

    def __init__(self, page: CaptionerContext, form: Form[Any]) -> None:
        self._app = app = page.app
        page.require("cp-review", lambda: None if app.songs.entries else Prerequisite(_NO_SONGS, "songs"))
        choose = gr.Radio(_FILTERS, value=_FILTERS[0], label="Show", container=False, elem_id="cp-review-filter")
        page.saved_fields.add(_FILTER, choose, lambda value: value in _FILTERS)
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
                Editor(page, table, form)
        BulkPanel(page, app.songs, CaptionEdit, "cp-bulk")
        with gr.Accordion("Quality report", open=False, elem_classes="ac-fold", elem_id="cp-quality"):
            report = gr.HTML(elem_id="cp-quality-report")
        page.on(choose.input, lambda value: app.settings.put({_FILTER: value}), [choose], quiet=True)
        page.live.show([choose, body, table, report], lambda: (app.version(), app.settings.get(_FILTER)), self._render)

    def _render(self) -> Sequence[Any]:
        entries = self._app.songs.entries
        _, account = self._app.watch.look()
        failed = {item.item for item in account.left_out}
        checked = self._app.settings.get(_FILTER) == _FILTERS[1]
        rows = [_row(entry, entry.name in failed) for entry in entries if entry.doubts or not checked]
        there = gr.update(visible=bool(entries))
        return there, there, gr.update(value=rows), quality_report(entries)


def quality_report(entries: list[Entry]) -> str:
    """What the captions' check finds, without any model."""
    if not entries:
        return html.notice("No songs yet.")
    findings = check_captions(Dataset(samples=[entry.sample for entry in entries]))
    differ = [(entry.name, "measurement and model differ", line) for entry in entries for line in entry.doubts]
    told = {finding.message for finding in findings}
    rows = [(finding.song, KINDS[finding.kind], finding.message) for finding in findings]
    rows += [row for row in differ if row[2] not in told]
    if not rows:
        return html.notice(f"{html.count(len(entries), 'song')}, nothing to complain about.", tone="good")
    songs = len({row[0] for row in rows})
    title = f"{songs} of {html.count(len(entries), 'song')} to look at before training"
    return html.notice(title, tone="warn") + html.table(["Song", "What", "Details"], rows, "Quality report")


def _row(entry: Entry, failed: bool) -> list[Any]:
    song = entry.sample
    return [
        entry.name,
        status_of(entry, failed),
        song.bpm,
        song.keyscale,
        " ".join(song.caption.split())[:90],
        "; ".join(entry.doubts),
    ]
