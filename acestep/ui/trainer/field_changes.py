"""Changes that the program makes to several fields at once, each with a message that names them and an Undo button."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from acestep.core.errors import ConfigError
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.page_context import PageContext
from acestep.ui.settings import SavedFields, Settings

_SHOWN = 8  # fields that the message names
_LENGTH = 32  # characters of a value in the message


@dataclass(frozen=True, slots=True)
class FieldChange:
    """The values of the changed fields before and after, by key, and those that a person had entered."""

    source: str
    title: str
    before: dict[str, Any]
    after: dict[str, Any]
    entered: frozenset[str]


class FieldChanges:
    """The latest change to the fields of a page. All open pages show it, and any of them can undo it."""

    def __init__(self, settings: Settings, saved_fields: SavedFields) -> None:
        self._settings, self._fields = settings, saved_fields
        self._last: FieldChange | None = None
        self._count = 0

    def apply(
        self,
        source: str,
        title: str,
        values: Mapping[str, Any],
        *,
        entered: Collection[str] = (),
        final: bool = False,
    ) -> bool:
        """Set ``values`` in the fields. Returns whether any of them changed.

        Args:
            source: the part of the page that shows the message (``place``).
            title: what was done, the title of the message.
            entered: keys that count as entered by a person from now on, such as those of a profile.
            final: also replace a value that somebody enters at the same time, as loading a profile does.
        """
        old = {key: self._fields.value(key) for key in values}
        changed = [key for key, value in values.items() if old[key] != value]
        typed = frozenset(key for key in changed if self._settings.is_entered(key))
        kept = {key: value for key, value in values.items() if key in entered}
        others = {key: value for key, value in values.items() if key not in kept}
        shown = None if final else old
        self._settings.push(others, entered=False, shown=shown)
        self._settings.push(kept, entered=True, shown=shown)
        after = {key: values[key] for key in changed}
        if changed:  # a list box can report the same choice twice
            self._set(FieldChange(source, title, {key: old[key] for key in changed}, after, typed))
        return bool(changed)

    def undo(self) -> None:
        """Restore the fields that still hold the value of the latest change. Raises ConfigError without a change."""
        if (change := self._last) is None:
            raise ConfigError(["there is no change to undo"])
        back = {key: old for key, old in change.before.items() if self._fields.value(key) == change.after[key]}
        self._settings.push({key: old for key, old in back.items() if key not in change.entered}, entered=False)
        self._settings.push({key: old for key, old in back.items() if key in change.entered}, entered=True)
        self._set(None)
        notify(f"Restored {html.count(len(back), 'value')}.")

    def place(self, page: PageContext, sources: Collection[str], elem_id: str) -> None:
        """Create the message with its button here, for the changes of these sources."""
        with gr.Row(elem_classes="ac-prerequisite", visible=False) as row:
            message = gr.HTML(elem_id=f"{elem_id}-changes")
            undo = gr.Button("Undo", elem_id=f"{elem_id}-undo", scale=0)
        page.on(undo.click, self.undo)

        def render() -> list[Any]:
            if (change := self._last) is None or change.source not in sources:
                return [gr.update(visible=False), gr.skip()]
            return [gr.update(visible=True), html.notice(change.title, self._lines(change), "warn")]

        page.live.add([row, message], lambda: self._count, render)

    def _set(self, change: FieldChange | None) -> None:
        self._last = change
        self._count += 1

    def _lines(self, change: FieldChange) -> list[str]:
        typed = [key for key in change.before if key in change.entered]
        others = [key for key in change.before if key not in change.entered]
        lines = [f"Replaced what you entered: {self._names(typed, change)}."] if typed else []
        return [*lines, f"Changed: {self._names(others, change)}."] if others else lines

    def _names(self, keys: list[str], change: FieldChange) -> str:
        names = [
            f"{self._fields.label(key)} ({self._value(key, change.before)} → {self._value(key, change.after)})"
            for key in keys[:_SHOWN]
        ]
        return ", ".join([*names, f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else names)

    def _value(self, key: str, values: Mapping[str, Any]) -> str:
        return _short(self._fields.choice_label(key, values[key]))


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = "empty" if value in ("", None) else str(value)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"
