"""The editor of one song, shared by both pages: play it and edit its labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.languages import MODEL_LANGUAGES, UNKNOWN_LANGUAGE
from acestep.dataset.sample import Sample
from acestep.ui import html, layout
from acestep.ui.autosave import Autosave
from acestep.ui.errors import describe_error, notify, warn
from acestep.ui.page_context import INVALID_CLASS, Data, PageContext
from acestep.ui.unconfirmed_text import read_text
from acestep.ui.workspace import playable

_BEATS = [("unknown", ""), ("2", "2"), ("3", "3"), ("4", "4"), ("6", "6")]
_LANGUAGES = [UNKNOWN_LANGUAGE, *MODEL_LANGUAGES]
_KEY = "key of the song"  # in the values that the fields were filled with
_NOTHING = object()
_NOTHING_SELECTED = "Select a song in the table to play it and to edit its labels."


class SongEditor(ABC):
    """Components and listeners. A song is identified by a key; a page says how it finds and saves songs.

    Every input is sent to ``autosave`` at once, which saves it after a short pause. Leaving a field, another song and
    the buttons save immediately. An invalid value stays in its field, marked, and the other values are saved.
    """

    def __init__(self, page: PageContext, table: gr.Dataframe, prefix: str, *, save: str, autosave: Autosave) -> None:
        """
        Args:
            prefix: begins the element ids.
            save: label of the button that saves.
        """
        self._page, self._prefix, self._autosave = page, prefix, autosave
        self._key = gr.Textbox("", visible="hidden")  # not a gr.State: an event must send the key that its page shows
        self._text = gr.Textbox("", visible="hidden")  # takes the text of a dropdown from the browser
        self._shown = gr.State({})  # the values that the fields were filled with; a job may have changed labels since
        self._title = gr.HTML(html.notice(_NOTHING_SELECTED), elem_id=f"{prefix}-song-title")
        with gr.Column(visible=False, elem_id=f"{prefix}-song") as self._body:
            self._player = gr.Audio(
                label="Song", interactive=False, buttons=["download"], type="filepath", elem_id=f"{prefix}-song-player"
            )
            self._details = gr.HTML(elem_id=f"{prefix}-song-details")
            self._fields = self._create_fields()
            self._state = gr.HTML(elem_id=f"{prefix}-song-state")
            with layout.actions():
                self._create_buttons(save)
        page.on(table.select, self._on_select, self.inputs, self.outputs)
        page.live.add([self._state], self._state_version, lambda: [self._state_html()])
        self._add_autosave()
        self._add_refresh()

    @property
    def inputs(self) -> set[Component]:
        """The inputs of an event that saves what the page shows."""
        return {self._key, self._shown, *self._fields.values()}

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
    def _undo(self) -> None:
        """Undo the last change, also in the files. Raises DatasetError, StorageError."""

    @abstractmethod
    def _refreshed(self) -> int:
        """Changes when labels were changed by something else than this editor."""

    def _not_written(self) -> str:
        """Why typed labels are in no label file; "" if they are."""
        return ""

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
        buttons = (
            ("Previous", "previous", self._on_previous, "secondary"),
            (save, "save", self._on_save, "primary"),
            ("Save and next", "next", self._on_save_and_next, "secondary"),
            ("Undo", "undo", self._on_undo, "secondary"),
        )
        for label, name, listener, variant in buttons:
            button = gr.Button(label, variant=variant, min_width=80, elem_id=self._id(name))  # type: ignore[arg-type]
            self._page.on(button.click, listener, self.inputs, self.outputs)

    def _add_autosave(self) -> None:
        """Hold every input in the program, and save when a field is left or a choice is made."""
        outputs = [self._state, self._shown, *self._fields.values()]
        for name, field in self._fields.items():
            events: Any = field
            if isinstance(field, gr.Textbox):
                inputs = [self._key, field]
                options = {"trigger_mode": "always_last", **self._page.live.silent}
                events.input(self._typist(name), inputs, [self._state, field], **options)
            else:
                self._page.on(events.input, self._leaver(name), self.inputs, outputs)
            if isinstance(field, gr.Dropdown) and field.allow_custom_value:  # has no input event until it is left
                options = {"trigger_mode": "always_last", **self._page.live.silent}
                inputs = [self._key, self._text]
                events.key_up(self._dropdown_typist(name, field), inputs, [self._state], js=read_text(field), **options)
            if hasattr(field, "blur"):
                self._page.on(events.blur, self._leaver(name), self.inputs, outputs)

    def _add_refresh(self) -> None:
        """Show the song again when its labels were changed elsewhere."""
        refreshed = gr.Textbox("", visible="hidden")
        self._page.live.add([refreshed], self._refreshed, lambda: [str(self._refreshed())])
        inputs: Any = self.inputs
        refreshed.change(self._on_refresh, inputs, self.outputs, **self._page.live.silent)

    def _id(self, name: str) -> str:
        return f"{self._prefix}-song-{name}"

    def _typist(self, name: str) -> Callable[[str, str], list[Any]]:
        def hold(key: str, text: str) -> list[Any]:
            if not key:
                return [gr.skip(), gr.skip()]
            before = self._autosave.reason(key, name)
            self._autosave.put(key, name, text)
            after = self._autosave.reason(key, name)
            return [self._state_html(), gr.skip() if before == after else self._mark(key, name)]

        return hold

    def _dropdown_typist(self, name: str, field: gr.Dropdown) -> Callable[..., Any]:
        values: dict[Any, Any] = {choice[0]: choice[1] for choice in field.choices}

        def hold_choice(key: str, text: str) -> Any:
            value = values.get(text, text)
            if not key or key not in self._keys() or value == self._values(key)[name]:
                return gr.skip()
            self._autosave.put(key, name, value)
            return self._state_html()

        return hold_choice

    def _leaver(self, name: str) -> Callable[[Data], list[Any]]:
        return lambda data: self._on_leave(data, name)

    def _on_leave(self, data: Data, left: str) -> list[Any]:
        """Save one field and show it as it is saved.

        The others stay as they are: their own events may not have been handled yet, and their values may be older than
        an undo that was clicked at the same time.
        """
        self._save(data, [left])
        key = data[self._key]
        if self._has_moved_on(data) or key not in self._keys():
            return [gr.skip() for _ in range(2 + len(self._fields))]
        linked = ("lyrics", "is_instrumental", "language")
        names = linked if left in linked[:2] else (left,)
        values, shown = self._values(key), dict(data[self._shown])
        updates = {name: gr.skip() for name in self._fields} | {name: self._mark(key, name) for name in names}
        for name in names:
            shown[name] = data[self._fields[name]]
            if values[name] != shown[name]:
                updates[name]["value"] = shown[name] = values[name]
        return [self._state_html(), _remember(data[self._shown], key, shown), *updates.values()]

    def _on_select(self, data: Data, event: gr.SelectData) -> list[Any]:
        self._save(data)
        row = event.row_value if isinstance(event.row_value, list) else []
        key = self._key_of_row(row or [""])
        if key == data[self._shown].get(_KEY):
            return [gr.skip() for _ in self.outputs]  # keeps what is being typed
        return self._show(key, data[self._shown])

    def _on_save(self, data: Data) -> list[Any]:
        self._save_and_notify(data)
        return self._show(data[self._key], data[self._shown])

    def _on_save_and_next(self, data: Data) -> list[Any]:
        self._save_and_notify(data)
        return self._show(self._neighbor(data[self._key], 1), data[self._shown])

    def _on_previous(self, data: Data) -> list[Any]:
        self._save(data)
        return self._show(self._neighbor(data[self._key], -1), data[self._shown])

    def _on_undo(self, data: Data) -> list[Any]:
        self._save(data)
        self._undo()
        notify("The last change is undone.")
        return self._show_again(data, {name: data[field] for name, field in self._fields.items()})

    def _on_refresh(self, data: Data) -> list[Any]:
        self._autosave.flush()
        return self._show_again(data, dict(data[self._shown]))

    def _show_again(self, data: Data, known: Mapping[str, Any]) -> list[Any]:
        """The values of ``outputs``; fields whose value is ``known`` to the page keep what is being typed."""
        if self._has_moved_on(data):
            return [gr.skip() for _ in self.outputs]
        key = data[self._key]
        if key not in self._keys():
            return self.show_first()
        outputs = self._show(key, data[self._shown])
        for update, name in zip(outputs[-len(self._fields) :], self._fields, strict=True):
            if update["value"] == known.get(name, _NOTHING):
                del update["value"]
        return outputs

    def _has_moved_on(self, data: Data) -> bool:
        """Whether the page shows another song by now: an event may be handled after a later one."""
        return bool(data[self._shown].get(_KEY) != data[self._key])

    def _neighbor(self, key: str, step: int) -> str:
        keys = self._keys()
        if key not in keys:
            raise DatasetError("this song is no longer in the list", hint="Select another one in the table.")
        return keys[(keys.index(key) + step) % len(keys)]

    def _save(self, data: Data, names: Collection[str] | None = None) -> None:
        """Save what the user changed on the page, so that labels written by a running job stay."""
        key = data[self._key]
        if key and data[self._shown].get(_KEY) == key:
            held = self._autosave.typed(key)
            values = self._values(key) if key in self._keys() else {}
            for name in self._fields if names is None else names:
                value = data[self._fields[name]]
                known = held.get(name, values.get(name, _NOTHING))
                if value not in (data[self._shown].get(name), known):
                    self._autosave.put(key, name, value)
        self._autosave.flush()

    def _save_and_notify(self, data: Data) -> None:
        self._save(data)
        key = data[self._key]
        name = self._name(key)
        if self._autosave.problem:
            raise DatasetError(f"{name} is not saved: {self._autosave.problem}")
        if invalid := self._invalid(key):
            warn(f"The other fields of {name} are saved. {invalid}")
        else:
            notify(f"Saved {name}.")

    def _invalid(self, key: str) -> str:
        """The invalid fields of a song, with the reasons."""
        reasons = {
            str(getattr(field, "label", name)): self._autosave.reason(key, name) for name, field in self._fields.items()
        }
        return " ".join(f"{label}: {reason}." for label, reason in reasons.items() if reason)

    def _mark(self, key: str, name: str) -> dict[str, Any]:
        """What is wrong with a field in place of where its label is from."""
        reason = self._autosave.reason(key, name)
        classes = [INVALID_CLASS] if reason else []
        update: dict[str, Any] = gr.update(info=reason or self._origin(key, name), elem_classes=classes)
        return update

    def _values(self, key: str) -> dict[str, Any]:
        """The values of the fields: the labels, and what is typed but not saved."""
        sample, typed = self._sample(key), self._autosave.typed(key)
        return {name: typed[name] if name in typed else _displayed(sample, name) for name in self._fields}

    def _state_version(self) -> tuple[object, ...]:
        return self._autosave.version, self._refreshed()

    def _state_html(self) -> str:
        if self._autosave.problem:
            return html.notice("Not saved", [self._autosave.problem], "bad")
        if self._autosave.waiting:
            return '<p class="ac-phase" data-saved="saving">Saving…</p>'
        if not_written := self._not_written():
            return html.notice("Saved in this program only", [not_written], "warn")
        invalid = self._autosave.num_invalid
        words = f"Saved, except {html.count(invalid, 'invalid value')}" if invalid else "Saved"
        return f'<p class="ac-phase" data-saved="saved">{words}</p>'

    def _show(self, key: str, shown: dict[str, Any] | None = None) -> list[Any]:
        """The values of ``outputs``; ``shown`` is what the page shows so far."""
        sample, keys = self._sample(key), self._keys()
        position = f"{keys.index(key) + 1} of {len(keys)}"
        title = f"<h3>{html.text(self._name(key))}</h3>"
        title = f'<div class="ac-line">{title}<span class="ac-phase">{position}</span></div>'
        audio: str | None = None
        try:
            audio = str(playable(Path(sample.audio_path)))
        except AceStepError as error:
            title += html.notice("This file cannot be played", [describe_error(error)], "warn")
        values = self._values(key)
        fields = [{**self._mark(key, name), "value": value} for name, value in values.items()]
        shown = _remember({} if shown is None else shown, key, values)
        player = gr.update(value=audio)
        return [key, title, gr.update(visible=True), player, self._details_of(key), shown, *fields]

    def _show_nothing(self) -> list[Any]:
        nothing = html.notice(_NOTHING_SELECTED)
        return ["", nothing, gr.update(visible=False), None, "", {}, *(gr.skip() for _ in self._fields)]


def _remember(shown: dict[str, Any], key: str, values: dict[str, Any]) -> dict[str, Any]:
    """Update ``shown`` in place, because events that are being handled see it too."""
    shown.clear()
    shown.update({**values, _KEY: key})
    return shown


def _displayed(sample: Sample, name: str) -> Any:
    value = getattr(sample, name)
    if isinstance(value, bool):
        return value
    return "" if value is None else str(value)
