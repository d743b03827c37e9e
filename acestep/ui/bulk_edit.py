"""One change to the labels of many songs, with a preview and an undo; shared by both pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gradio as gr
from gradio.components import Component

from acestep.core.config import Config, option
from acestep.core.errors import DatasetError
from acestep.dataset.labels import FIELDS
from acestep.dataset.sample import Sample
from acestep.ui import html, layout
from acestep.ui.autosave import invalid_reason
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.page_context import Data, PageContext

_SHOWN = 12


class BulkEdit(Config):
    """What to change. A page narrows the type of ``field`` to its labels."""

    field: str = option("caption", "Field", "Which label is changed.")
    action: Literal["set", "replace", "before", "after"] = option(
        "set",
        "Action",
        "set: the whole label; replace: a part of it; before and after: extend labels that exist.",
    )
    find: str = option("", "Find", "For replace: the text to find; upper and lower case count.")
    text: str = option("", "Text", "The new text, number, or yes / no.")
    only_empty: bool = option(False, "Only where it is empty", "Skips songs that already have this label.")


class LabelEdit(BulkEdit):
    """A change to the labels of a dataset."""

    field: Literal["caption", "genre", "lyrics", "bpm", "keyscale", "timesignature", "language", "is_instrumental"] = (
        option("caption", "Field", "Which label is changed.")
    )


class EditableSamples(Protocol):
    """The samples of a page, with undo."""

    @property
    def samples(self) -> list[Sample]:
        """The current samples."""

    def relabel(self, changes: Mapping[int, Mapping[str, Any]]) -> int:
        """Set labels by the index of the sample; returns how many samples changed. Raises DatasetError."""

    def undo(self) -> None:
        """Undo the last change. Raises DatasetError when there is none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One label of one sample, by its index."""

    index: int
    song: str
    before: str
    after: str


def changes_of(edit: BulkEdit, songs: Sequence[Sample]) -> list[Change]:
    """What ``edit`` would change. Raises DatasetError when the text to find is empty."""
    if edit.action == "replace" and not edit.find:
        raise DatasetError("the text to find is empty", hint="Fill in Find.")
    found = []
    for index, song in enumerate(songs):
        before = str(value) if (value := getattr(song, edit.field)) is not None else ""
        empty = before in ("", "unknown")
        if edit.only_empty and not empty or edit.action in ("before", "after") and empty:
            continue
        after = _edited(edit, before)
        if after != before:
            found.append(Change(index, song.name, before, after))
    return found


def _edited(edit: BulkEdit, before: str) -> str:
    if edit.action == "replace":
        return before.replace(edit.find, edit.text)
    if edit.action == "before":
        return f"{edit.text}{before}"
    return f"{before}{edit.text}" if edit.action == "after" else edit.text


class BulkPanel:
    """Components and listeners."""

    def __init__(self, page: PageContext, songs: EditableSamples, edits: type[BulkEdit], elem_id: str) -> None:
        """
        Args:
            edits: which labels may be changed.
            elem_id: begins the element ids.
        """
        self._songs = songs
        with layout.section("Edit many songs", elem_id):
            form = Form(edits, "bulk", page.saved_fields)
            form.place_rest()
            with layout.actions():
                preview = gr.Button("Preview", elem_id=f"{elem_id}-preview")
                apply = gr.Button("Apply", elem_id=f"{elem_id}-apply")
                undo = gr.Button("Undo", elem_id=f"{elem_id}-undo")
            shown = gr.HTML(elem_id=f"{elem_id}-shown")
        self._form = form
        page.on(preview.click, self._preview, form.inputs, [shown], check=self._check)
        page.on(apply.click, self._apply, form.inputs, [shown], check=self._check)
        page.on(undo.click, self._undo, [], [shown])

    def _check(self, data: Data) -> dict[Component, str]:
        """The invalid fields; also a new value that is invalid for its label."""
        problems = self._form.check(data)
        field, text = (self._form.component(name) for name in ("field", "text"))
        is_value = data[self._form.component("action")] == "set" and data[field] in list(FIELDS)  # it may be a list
        if not problems and is_value and (reason := invalid_reason(data[field], data[text])):
            problems[text] = reason.capitalize()
        return problems

    def _preview(self, data: Data) -> str:
        found = changes_of(self._form.read(data), self._songs.samples)
        if not found:
            return html.notice("No song would change.")
        rows = [(change.song, change.before, change.after) for change in found[:_SHOWN]]
        more = f" The first {_SHOWN} are shown." if len(found) > _SHOWN else ""
        title = f"{html.count(len(found), 'song')} would change.{more}"
        return html.notice(title) + html.table(["Song", "Before", "After"], rows, "Changes")

    def _apply(self, data: Data) -> str:
        edit = self._form.read(data)
        found = changes_of(edit, self._songs.samples)
        changed = self._songs.relabel({change.index: {edit.field: change.after} for change in found})
        return html.notice(f"{html.count(changed, 'song')} changed.", tone="good" if changed else "plain")

    def _undo(self) -> str:
        self._songs.undo()
        notify("The last change is undone.")
        return ""
