"""Writes and reads ``events.jsonl``: one JSON object per line, ``{"type": ..., "time_s": ..., ...}``.

Readers poll the file. The job does not call them, so an error of a reader cannot make the job fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO

from acestep.core.errors import OutOfMemory, current_code
from acestep.core.events import (
    Cancelled,
    EpochLogged,
    Event,
    Failed,
    Finished,
    ItemFailed,
    LogMessage,
    Paused,
    PhaseStarted,
    Progressed,
    Resumed,
    Saved,
    Started,
    StepLogged,
    UnknownEvent,
    Waiting,
)

TYPES: dict[str, type[Event]] = {
    kind.type_name: kind
    for kind in (
        Started,
        LogMessage,
        PhaseStarted,
        Waiting,
        Paused,
        Resumed,
        Progressed,
        ItemFailed,
        StepLogged,
        EpochLogged,
        Saved,
        Finished,
        Cancelled,
        Failed,
    )
}
_ALIASES: dict[str, str] = {}  # type name of an earlier version -> current type name

# Earlier versions wrote these as plain messages; now they are typed events.
_OLD_PAUSED = "paused"
_OLD_RESUMED = "goes on after a pause"
_OLD_WAITING = "waiting for the graphics card: "
_OLD_OUT_OF_MEMORY = "the device ran out of memory"


class EventLog:
    """An append-only file of events with one writer and any number of readers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def emit(self, event: Event) -> None:
        """Append an event. Raises OSError."""
        line = json.dumps(encode(event)).encode()
        with self.path.open("ab+") as file:
            if file.tell() and not _ends_with_newline(file):
                line = b"\n" + line  # the previous writer was killed while it wrote a line
            file.write(line + b"\n")

    def read(self, offset: int = 0) -> tuple[list[Event], int]:
        """The events written since byte ``offset``, and the offset for the next call.

        An incomplete last line is left for the next call; an incomplete line before others is dropped.
        """
        if not self.path.exists():
            return [], offset
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        return [event for line in complete.splitlines() if (event := _decode_line(line))], offset + len(complete)


def encode(event: Event) -> dict[str, Any]:
    """The JSON object of an event."""
    values = {event.keys.get(field.name, field.name): getattr(event, field.name) for field in fields(event)}
    return {"type": event.type_name, **values}


def decode(data: Mapping[str, Any]) -> Event:
    """The event of a JSON object; UnknownEvent if its type is unknown or a required field is missing."""
    name = str(data.get("type"))
    kind = TYPES.get(_ALIASES.get(name, name))
    if kind is not None:
        known = {kind.keys.get(field.name, field.name): field.name for field in fields(kind)}
        try:
            return _upgrade(kind(**{known[key]: value for key, value in data.items() if key in known}))
        except TypeError:  # a required field is missing
            pass
    time_s = data.get("time_s")
    rest = {key: value for key, value in data.items() if key not in ("type", "time_s")}
    return UnknownEvent(time_s=time_s if isinstance(time_s, int | float) else 0.0, raw_type=name, data=rest)


def _upgrade(event: Event) -> Event:
    """The current form of an event of an earlier version."""
    if isinstance(event, LogMessage) and not event.warning:
        if event.message == _OLD_PAUSED:
            return Paused(time_s=event.time_s)
        if event.message == _OLD_RESUMED:
            return Resumed(time_s=event.time_s)
        if event.message.startswith(_OLD_WAITING):
            return Waiting(time_s=event.time_s, message=event.message)
    if isinstance(event, Failed):
        full = event.message.startswith(_OLD_OUT_OF_MEMORY)
        return replace(event, error=OutOfMemory.code if full else current_code(event.error))
    return event


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _decode_line(line: bytes) -> Event | None:
    """None for an incomplete line."""
    try:
        data = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return decode(data) if isinstance(data, dict) else None
