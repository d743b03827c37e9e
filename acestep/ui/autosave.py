"""Saves what a person types in an editor, after a short pause and when the field is left.

Typed values are sent to the program with every input and held here, so a page that is closed or reloaded loses nothing.
Values that are invalid for their label stay as typed text until they are corrected; the others are saved.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from loguru import logger

from acestep.core.errors import AceStepError
from acestep.dataset.labels import FIELDS, INSTRUMENTAL, is_failure, is_sung
from acestep.ui.errors import INTERNAL_ERROR, describe_error

DELAY_S = 0.8
Typed = dict[str, dict[str, Any]]  # song -> label -> value

# Arguments: song, valid values by label, all invalid texts of the song by label.
Save = Callable[[str, Mapping[str, Any], Mapping[str, str]], None]


def invalid_reason(label: str, value: Any) -> str:
    """What is wrong with a value, "" if nothing."""
    try:
        FIELDS[label](value)
    except ValueError as problem:
        return f"{problem}, not {value!r:.40}"
    if label == "caption" and is_failure(str(value or "")):
        return "must not be an error message of a captioner"
    return ""


class Autosave:
    """The values that are not saved yet. Thread-safe.

    Attributes:
        problem: why the last attempt to save failed; "" if it did not.
        version: changes with everything that a page shows of it.
    """

    def __init__(self, save: Save, *, invalid: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self._save, self._timer = save, threading.Timer(0, self.flush)
        self._lock, self._saving = threading.Lock(), threading.Lock()  # of the values, and of ``save``
        self._pending: Typed = {}
        self._invalid: Typed = {song: dict(texts) for song, texts in (invalid or {}).items()}
        self._to_save: set[str] = set()
        self.problem, self.version = "", 0

    def put(self, song: str, label: str, value: Any) -> None:
        """Save a value soon."""
        with self._lock:
            is_invalid = bool(invalid_reason(label, value))
            into, other = (self._invalid, self._pending) if is_invalid else (self._pending, self._invalid)
            into.setdefault(song, {})[label] = value
            other.get(song, {}).pop(label, None)
            self._to_save.add(song)
            self.version += 1
            self._timer.cancel()
            self._timer = threading.Timer(DELAY_S, self.flush)
            self._timer.daemon = True
            self._timer.start()

    def typed(self, song: str) -> dict[str, Any]:
        """What a person typed for a song that is not saved, valid or not."""
        with self._lock:
            return {**self._pending.get(song, {}), **self._invalid.get(song, {})}

    def reason(self, song: str, label: str) -> str:
        """Why the typed text of a field cannot be saved; "" if it can."""
        with self._lock:
            texts = self._invalid.get(song, {})
            return invalid_reason(label, texts[label]).capitalize() if label in texts else ""

    @property
    def waiting(self) -> bool:
        """Whether values still have to be saved."""
        return bool(self._to_save)

    @property
    def num_invalid(self) -> int:
        """How many typed values are invalid for their label."""
        with self._lock:
            return sum(map(len, self._invalid.values()))

    def flush(self) -> None:
        """Save everything now. A failure is stored in ``problem``, and the values stay for the next attempt."""
        with self._saving:
            with self._lock:
                self._timer.cancel()
                todo = {song: dict(self._pending.get(song, {})) for song in sorted(self._to_save)}
            for song, labels in todo.items():
                if self._save_song(song, labels):
                    with self._lock:
                        self._forget(song, labels)
            self.version += bool(todo)

    def _save_song(self, song: str, labels: Mapping[str, Any]) -> bool:
        """Save one song; returns whether it worked."""
        try:
            self._save(song, _with_instrumental(labels), dict(self._invalid.get(song, {})))
        except AceStepError as error:
            self.problem = describe_error(error)
            return False
        except Exception:  # noqa: BLE001 - the border of a timer: what was typed stays
            logger.exception("an edit could not be saved")
            self.problem = INTERNAL_ERROR
            return False
        self.problem = ""
        return True

    def _forget(self, song: str, saved: Mapping[str, Any]) -> None:
        """Remove saved values, unless something else was typed meanwhile."""
        left = {name: value for name, value in self._pending.get(song, {}).items() if saved.get(name) != value}
        self._pending[song] = left
        if not left:
            self._to_save.discard(song)
            del self._pending[song]


def _with_instrumental(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Typed lyrics mean that the song is not instrumental, and the other way round."""
    if is_sung(str(labels.get("lyrics", ""))) and "is_instrumental" not in labels:
        return {**labels, "is_instrumental": False}
    if labels.get("is_instrumental") and not is_sung(str(labels.get("lyrics", ""))):
        return {**labels, "lyrics": INSTRUMENTAL}
    return dict(labels)
