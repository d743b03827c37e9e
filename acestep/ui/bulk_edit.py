"""One change to many songs: looked at before it is made, and taken back if it was wrong. The same on both pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import gradio as gr

from acestep.core.config import Config, option
from acestep.core.errors import DatasetError
from acestep.dataset.sample import Sample
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.form import Form
from acestep.ui.page_context import PageContext

_SHOWN = 12


class BulkEdit(Config):
    """What to change in which songs. A page narrows ``field`` to the labels that it has."""

    field: str = option("caption", "Field", "Which label is changed.")
    action: Literal["set", "replace", "before", "after"] = option(
        "set", "Action", "Set it, replace a part of it, or put something before or after it where there is something."
    )
    find: str = option("", "Find", "For replace: the part to look for, exactly as it is written.")
    text: str = option("", "Text", "The new text, number, or yes / no.")
    only_empty: bool = option(False, "Only where it is empty", "Leaves every label alone that has been given.")


class LabelEdit(BulkEdit):
    """A change to what a dataset says of its songs."""

    field: Literal["caption", "genre", "lyrics", "bpm", "keyscale", "timesignature", "language", "is_instrumental"] = (
        option("caption", "Field", "Which label is changed.")
    )


class EditableSamples(Protocol):
    """The songs of a page."""

    @property
    def samples(self) -> list[Sample]:
        """As they are now."""

    def relabel(self, changes: Mapping[int, Mapping[str, Any]]) -> int:
        """Set labels, by the place of the song in the list; gives how many songs changed. Raises DatasetError."""

    def undo(self) -> None:
        """Take the last change back. Raises DatasetError when there is none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One label of one song, by its place in the list."""

    index: int
    song: str
    before: str
    after: str


def changes_of(edit: BulkEdit, songs: Sequence[Sample]) -> list[Change]:
    """What ``edit`` would change. Raises DatasetError when it says nothing."""
    if edit.action == "replace" and not edit.find:
        raise DatasetError("there is nothing to look for", hint="Fill in Find.")
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
    """Widgets and what they do."""

    def __init__(self, page: PageContext, songs: EditableSamples, edits: type[BulkEdit], name: str) -> None:
        """
        Args:
            edits: which labels may be changed.
            name: begins the ids of the widgets.
        """
        self._songs = songs
        with gr.Accordion("Change many songs at once", open=False, elem_classes="ac-fold", elem_id=name):
            form = Form(edits, "bulk", page.saved_fields)
            form.rest()
            with gr.Row(elem_classes="ac-actions"):
                look = gr.Button("Preview", elem_id=f"{name}-preview")
                apply = gr.Button("Apply", elem_id=f"{name}-apply")
                undo = gr.Button("Undo the last change", elem_id=f"{name}-undo")
            shown = gr.HTML(elem_id=f"{name}-shown")
        self._form = form
        page.on(look.click, self._preview, form.widgets, [shown], check=form.check)
        page.on(apply.click, self._apply, form.widgets, [shown], check=form.check)
        page.on(undo.click, self._undo, [], [shown])

    def _preview(self, *values: Any) -> str:
        found = changes_of(self._form.read(values), self._songs.samples)
        if not found:
            return html.notice("Nothing would change.")
        rows = [(change.song, change.before, change.after) for change in found[:_SHOWN]]
        more = f" The first {_SHOWN} are shown." if len(found) > _SHOWN else ""
        title = f"{html.count(len(found), 'song')} would change.{more}"
        return html.notice(title) + html.table(["Song", "Before", "After"], rows, "What would change")

    def _apply(self, *values: Any) -> str:
        edit = self._form.read(values)
        found = changes_of(edit, self._songs.samples)
        changed = self._songs.relabel({change.index: {edit.field: change.after} for change in found})
        return html.notice(f"{html.count(changed, 'song')} changed.", tone="good" if changed else "plain")

    def _undo(self) -> str:
        self._songs.undo()
        notify("The last change is taken back.")
        return ""
