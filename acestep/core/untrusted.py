"""Reading files that anyone may have written: only regular files, and JSON within limits."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 2**20
MAX_DEPTH = 64  # levels of lists and objects
_MAX_DIGITS = 300  # a float holds numbers up to 1.8e308
_SHOWN = 80  # characters of a name in a message


def require_regular_file(path: Path) -> int:
    """The size of a file in bytes. Raises OSError as ``stat_file``."""
    return stat_file(path).st_size


def stat_file(path: Path) -> os.stat_result:
    """The status of a file. Opening a FIFO, a socket or a device would block, so it is refused before that.

    Raises:
        OSError: ``path`` does not exist, cannot be accessed or is not a regular file.
    """
    try:
        found = path.stat()
    except ValueError as problem:  # a NUL character or an unpaired surrogate in the path
        raise OSError(None, f"invalid path: {problem}") from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(None, "it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(None, "it is not a regular file")
    return found


def read_file(path: Path, *, max_bytes: int | None = None) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as ``require_regular_file``, or the file is larger than ``max_bytes``.
    """
    size = require_regular_file(path)
    if max_bytes is not None and size > max_bytes:
        raise OSError(None, f"it has {size / 2**20:,.0f} MiB, the limit is {max_bytes / 2**20:,.0f} MiB")
    return path.read_bytes()


def parse_json(text: str | bytes) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: invalid JSON or UTF-8, a key that appears twice in an object, more than ``MAX_DEPTH`` levels, a
            number beyond the range of a float, or an unpaired surrogate.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"it has more than {MAX_DEPTH} levels") from None
    _require_depth(value)
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]  # both of one type
        _require_unicode(value)
    return value


def shorten(text: object, length: int = _SHOWN) -> str:
    """``text`` for a message, at most ``length`` characters."""
    whole = str(text)
    return whole if len(whole) <= length else f"{whole[: length - 1]}…"


def is_file(path: Path) -> bool:
    """``Path.is_file``, but False for a path that is invalid here, such as a name of more than 255 bytes."""
    return os.path.isfile(path)


def is_folder(path: Path) -> bool:
    """``Path.is_dir``, but False for a path that is invalid here, such as a name of more than 255 bytes."""
    return os.path.isdir(path)


def exists(path: Path) -> bool:
    """``Path.exists``, but False for a path that is invalid here, such as a name of more than 255 bytes."""
    return os.path.exists(path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {shorten(twice)!r} appears twice in an object")
    return found


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _require_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it has more than {MAX_DEPTH} levels")


def _require_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it contains an unpaired surrogate") from None
