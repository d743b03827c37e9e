"""The editor of one song, shared by both pages: play it and edit its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.labels import INSTRUMENTAL, is_sung
from acestep.dataset.sample import Sample
from acestep.ui import html, layout
from acestep.ui.errors import describe_error, notify
from acestep.ui.page_context import Data, PageContext
from acestep.ui.workspace import playable

_BEATS = [("unknown", ""), ("2", "2"), ("3", "3"), ("4", "4"), ("6", "6")]
_LANGUAGES = ["unknown", "en", "zh", "ja", "ko", "es", "fr", "de", "it", "pt", "ru"]
_NOTHING_SELECTED = "Select a song in the table to play it and to edit its labels."


class SongEditor(ABC):
    """Components and listeners. A song is identified by a key; a page says how it finds and saves songs."""

    def __init__(self, page: PageContext, table: gr.Dataframe, prefix: str, *, save: str) -> None:
        """
        Args:
            prefix: begins the element ids.
            save: label of the button that saves.
        """
        self._page, self._prefix = page, prefix
        self._key = gr.State("")
        self._shown = gr.State({})  # the values that the fields were filled with; a job may have changed labels since
        self._title = gr.HTML(html.notice(_NOTHING_SELECTED), elem_id=f"{prefix}-song-title")
        with gr.Column(visible=False, elem_id=f"{prefix}-song") as self._body:
            self._player = gr.Audio(
                label="Song", interactive=False, buttons=["download"], type="filepath", elem_id=f"{prefix}-song-player"
            )
            self._details = gr.HTML(elem_id=f"{prefix}-song-details")
            self._fields = self._create_fields()
            with layout.actions():
                self._create_buttons(save)
        page.on(table.select, self._on_select, [], self.outputs, quiet=True)

    @property
    def outputs(self) -> list[Any]:
        """The outputs of an event that shows a song."""
        fields = self._fields.values()
        return [self._key, self._title, self._body, self._player, self._details, self._shown, *fields]

    def show_first(self) -> list[Any]:
        """The values of ``outputs`` for the first song, or for no song."""
        keys = self._keys()
        return self._show(keys[0]) if keys else self._show_nothing()

    @abstractmethod
    def _keys(self) -> Sequence[str]:
        """The keys of all songs, in the order of the table."""

    @abstractmethod
    def _key_of_row(self, row: Sequence[Any]) -> str:
        """The key of the song in a row of the table."""

    @abstractmethod
    def _sample(self, key: str) -> Sample:
        """Raises DatasetError: the song is no longer in the list."""

    @abstractmethod
    def _origin(self, key: str, label: str) -> str:
        """Where a label is from, in a few words."""

    @abstractmethod
    def _save_labels(self, key: str, labels: Mapping[str, Any]) -> None:
        """Save labels that the user changed. Raises DatasetError, StorageError."""

    def _name(self, key: str) -> str:
        return self._sample(key).name

    def _details_of(self, key: str) -> str:
        """More about a song, as HTML."""
        return ""

    def _add_below_tempo(self, fields: dict[str, Component]) -> None:  # noqa: B027
        """Add components below tempo and key."""

    def _add_below_lyrics(self, fields: dict[str, Component]) -> None:  # noqa: B027
        """Add components below the lyrics."""

    def _more_fields(self) -> dict[str, Component]:
        """Further fields, by label."""
        return {}

    def _create_fields(self) -> dict[str, Component]:
        fields: dict[str, Component] = {}
        fields["caption"] = gr.Textbox(label="Caption", lines=4, max_lines=12, elem_id=self._id("caption"))
        with layout.grid(compact=True):
            fields["bpm"] = gr.Textbox(label="BPM", elem_id=self._id("bpm"))
            fields["keyscale"] = gr.Textbox(label="Key", elem_id=self._id("key"))
            fields["timesignature"] = gr.Dropdown(
                _BEATS, label="Time Signature", allow_custom_value=True, elem_id=self._id("beats")
            )
            fields["genre"] = gr.Textbox(label="Genre", elem_id=self._id("genre"))
        self._add_below_tempo(fields)
        fields["lyrics"] = gr.Textbox(label="Lyrics", lines=7, max_lines=24, elem_id=self._id("lyrics"))
        self._add_below_lyrics(fields)
        with layout.grid(compact=True):
            fields["language"] = gr.Dropdown(
                _LANGUAGES, label="Language", allow_custom_value=True, elem_id=self._id("language")
            )
            fields |= self._more_fields()
            fields["is_instrumental"] = gr.Checkbox(label="Instrumental", elem_id=self._id("instrumental"))
        return fields

    def _create_buttons(self, save: str) -> None:
        inputs = {self._key, self._shown, *self._fields.values()}
        buttons = (
            ("Previous", "previous", self._on_previous, "secondary"),
            (save, "save", self._on_save, "primary"),
            ("Save and next", "next", self._on_save_and_next, "secondary"),
        )
        for label, name, listener, variant in buttons:
            button = gr.Button(label, variant=variant, min_width=80, elem_id=self._id(name))  # type: ignore[arg-type]
            self._page.on(button.click, listener, inputs, self.outputs, quiet=True)

    def _id(self, name: str) -> str:
        return f"{self._prefix}-song-{name}"

    def _on_select(self, event: gr.SelectData) -> list[Any]:
        return self._show(self._key_of_row(event.row_value or [""]))

    def _on_save(self, data: Data) -> list[Any]:
        self._save(data)
        return self._show(data[self._key])

    def _on_save_and_next(self, data: Data) -> list[Any]:
        self._save(data)
        return self._show(self._neighbor(data[self._key], 1))

    def _on_previous(self, data: Data) -> list[Any]:
        return self._show(self._neighbor(data[self._key], -1))

    def _neighbor(self, key: str, step: int) -> str:
        keys = self._keys()
        if key not in keys:
            raise DatasetError("this song is no longer in the list", hint="Select another one in the table.")
        return keys[(keys.index(key) + step) % len(keys)]

    def _save(self, data: Data) -> None:
        """Save the labels that differ from what was shown, so that labels written by a running job stay."""
        key, shown = data[self._key], data[self._shown]
        changed = {name: data[field] for name, field in self._fields.items() if shown.get(name) != data[field]}
        if is_sung(str(changed.get("lyrics", ""))) and "is_instrumental" not in changed:
            changed["is_instrumental"] = False
        elif changed.get("is_instrumental"):
            changed["lyrics"] = INSTRUMENTAL
        name = self._name(key)
        if changed:
            self._save_labels(key, changed)
        notify(f"Saved {name}." if changed else "Nothing was changed.")

    def _show(self, key: str) -> list[Any]:
        """The values of ``outputs``."""
        sample, keys = self._sample(key), self._keys()
        position = f"{keys.index(key) + 1} of {len(keys)}"
        title = f"<h3>{html.text(self._name(key))}</h3>"
        title = f'<div class="ac-line">{title}<span class="ac-phase">{position}</span></div>'
        audio: str | None = None
        try:
            audio = str(playable(Path(sample.audio_path)))
        except AceStepError as error:
            title += html.notice("This file cannot be played", [describe_error(error)], "warn")
        shown = {name: _displayed(sample, name) for name in self._fields}
        fields = [gr.update(value=value, info=self._origin(key, name)) for name, value in shown.items()]
        player = gr.update(value=audio)
        return [key, title, gr.update(visible=True), player, self._details_of(key), shown, *fields]

    def _show_nothing(self) -> list[Any]:
        nothing = html.notice(_NOTHING_SELECTED)
        return ["", nothing, gr.update(visible=False), None, "", {}, *(gr.skip() for _ in self._fields)]


def _displayed(sample: Sample, name: str) -> Any:
    value = getattr(sample, name)
    if isinstance(value, bool):
        return value
    return "" if value is None else str(value)
