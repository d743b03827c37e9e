"""Writes and reads ``events.jsonl``: one JSON object per line, ``{"type": ..., "time_s": ..., ...}``.

Readers poll the file. The job does not call them, so an error of a reader cannot make the job fail.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

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
from acestep.core.renames import retry_while_held
from acestep.core.untrusted import is_file, parse_json, shorten

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
_PYTHON_TYPES: dict[str, Any] = {"str": str, "int": int, "float": int | float, "bool": bool, "dict[str, Any]": dict}
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
        with retry_while_held(self.path.open, "ab+") as file:
            if file.tell() and not _ends_with_newline(file):
                line = b"\n" + line  # the previous writer was killed while it wrote a line
            file.write(line + b"\n")

    def read(self, offset: int = 0) -> tuple[list[Event], int]:
        """The events written since byte ``offset``, and the offset for the next call.

        An incomplete last line is left for the next call; an incomplete line before others is dropped.
        """
        if not is_file(self.path):
            return [], offset
        with retry_while_held(self.path.open, "rb") as file:
            file.seek(offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        return [event for line in complete.splitlines() if (event := _decode_line(line))], offset + len(complete)


def encode(event: Event) -> dict[str, Any]:
    """The JSON object of an event."""
    values = {
        event.keys.get(field.name, field.name): value
        for field in fields(event)
        if (value := getattr(event, field.name)) != field.default or field.name not in event.optional
    }
    return {"type": event.type_name, **values}


def decode(data: Mapping[str, Any]) -> Event:
    """The event of a JSON object; UnknownEvent if its type is unknown, or a field is missing or has another type."""
    name = str(data.get("type"))
    kind = TYPES.get(_ALIASES.get(name, name))
    if kind is not None:
        known = {kind.keys.get(field.name, field.name): field.name for field in fields(kind)}
        values = {known[key]: value for key, value in data.items() if key in known}
        types = {field.name: str(field.type) for field in fields(kind)}
        if all(_has_type(value, types[name]) for name, value in values.items()) and _is_time(data.get("time_s", 0.0)):
            try:
                return _upgrade(kind(**values))
            except TypeError:  # a required field is missing
                pass
    time_s = data.get("time_s")
    rest = {key: value for key, value in data.items() if key not in ("type", "time_s")}
    return UnknownEvent(time_s=time_s if _is_time(time_s) else 0.0, raw_type=shorten(name), data=rest)


def _has_type(value: object, annotation: str) -> bool:
    """Whether ``value`` fits the annotation of a field of an event."""
    if value is None:
        return annotation.endswith("| None")
    kind = annotation.removesuffix(" | None")
    return isinstance(value, _PYTHON_TYPES.get(kind, object)) and (kind == "bool" or not isinstance(value, bool))


def _is_time(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a number of seconds since 1970 that can be shown as a date."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**33


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
    """None for an incomplete or malformed line."""
    try:
        data = parse_json(line)
    except ValueError:
        return None
    return decode(data) if isinstance(data, dict) else None
