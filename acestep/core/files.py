"""Atomic writes of files and folders, and versioned JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from acestep.core import renames
from acestep.core.errors import AceStepError, DiskFull, NotWritable, StorageError
from acestep.core.paths import WINDOWS, invalid_on_windows
from acestep.core.untrusted import MAX_JSON_BYTES, exists, is_file, is_folder, parse_json, read_file, shorten

# Windows error codes (learn.microsoft.com/windows/win32/debug/system-error-codes--0-499-).
_NOT_FOUND, _DISK_FULL, _TOO_LONG = (2, 3), (39, 112), 206
_MAX_PATH = 248  # characters of a folder without support for long paths; a file may have 260
_OTHER_DISK = "Free some space, or choose a folder on another disk."
_HELD = (
    "Another program may hold it open, such as an antivirus program, Explorer or a sync service: close it, or exclude "
    "this folder there. Otherwise choose a folder that you may write to."
)
_SHORTER = "Use shorter names, or a folder nearer to the root of the disk. On Windows, long paths can be enabled."
_TEMPORARY = ".tmp"
_PREVIOUS = ".old"
_LEFTOVER = re.compile(rf"\..+\.(\d+)\{_TEMPORARY}")  # the temporary files of ``write_bytes``


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``path`` atomically: readers see the old content or the new one, also after a crash, never a part.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    short = path.name.encode(errors="ignore")[:100].decode(errors="ignore")  # file names are limited to 255 bytes
    temporary = path.with_name(f".{short}.{os.getpid()}{_TEMPORARY}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            renames.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files directly in ``folder`` that killed processes did not remove. Raises OSError."""
    for path in folder.iterdir() if is_folder(folder) else ():
        if (found := _LEFTOVER.fullmatch(path.name)) and is_file(path) and not _is_other_process(int(found[1])):
            path.unlink(missing_ok=True)


def _is_other_process(pid: int) -> bool:
    """Whether another process with this id is running. Assumed on Windows, where ``os.kill(pid, 0)`` would end it."""
    if os.name == "nt":
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` in UTF-8."""
    with storage_errors(path):
        data = text.encode("utf-8")
    write_bytes(path, data)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON in UTF-8, without escaping non-ASCII characters."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *, error: type[AceStepError], hint: str = "", max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file (a byte order mark is ignored). Raises ``error`` naming the file."""
    try:
        data = renames.retry_while_held(read_file, path, max_bytes=max_bytes)  # another process may replace it
        return parse_json(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise error(f"{path} does not exist", hint=hint) from None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}", hint=hint) from None
    except ValueError as problem:
        raise error(f"{path} is not valid JSON: {problem}", hint=hint) from None


def write_versioned(path: Path, kind: str, version: int, data: dict[str, Any]) -> None:
    """Write a JSON file with its ``kind`` and format ``version`` in it."""
    write_json(path, {"kind": kind, "version": version, **data})


def read_versioned(path: Path, kind: str, version: int, *, error: type[AceStepError]) -> dict[str, Any]:
    """The content of a file of ``write_versioned``. Raises ``error`` for another kind or a newer version."""
    data = read_json(path, error=error)
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise error(f"{path} is not a {kind} file")
    if not isinstance(data.get("version"), int) or data["version"] > version:
        raise error(
            f"{path} has version {shorten(data.get('version'))}, this program reads up to {version}",
            hint="Update this program.",
        )
    return data


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Replace the folder ``target`` atomically.

    Yields an empty folder to fill. When the block ends without an error, that folder becomes ``target``. After a crash
    between the two renames, ``recover_folder`` restores the previous content.
    """
    fresh = target.with_name(f".{target.name}{_TEMPORARY}")
    previous = target.with_name(f".{target.name}{_PREVIOUS}")
    recover_folder(target)
    with storage_errors(target):
        try:
            renames.discard_folder(fresh)
            fresh.mkdir(parents=True)
            yield fresh
            for file in fresh.rglob("*"):
                _sync(file)
            if exists(target):
                renames.replace(target, previous)
            renames.replace(fresh, target)
            _sync(target.parent)
        finally:
            renames.discard_folder(fresh)
        renames.discard_folder(previous)


def recover_folder(target: Path) -> None:
    """Finish or undo a ``replace_folder`` that was killed between its two renames. Otherwise does nothing."""
    previous = target.with_name(f".{target.name}{_PREVIOUS}")
    if exists(previous):
        if exists(target):
            renames.discard_folder(previous)
        else:
            renames.replace(previous, target)


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise DiskFull unless ``num_bytes`` fit on the disk of ``folder``, which may not exist yet."""
    free = shutil.disk_usage(existing_parent(folder)).free
    if free < num_bytes:
        raise DiskFull(
            f"{folder} needs {num_bytes / 2**20:,.0f} MiB, the disk has {free / 2**20:,.0f} MiB left",
            hint=_OTHER_DISK,
        )


def existing_parent(folder: Path) -> Path:
    """``folder`` or the nearest folder above it that exists. Raises StorageError if its drive does not exist."""
    for parent in (folder, *folder.parents):
        if exists(parent):
            return parent
    raise StorageError(f"{folder} cannot be written: there is no drive {folder.anchor}", hint="Choose another folder.")


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Convert an OSError or invalid Unicode to StorageError, DiskFull or NotWritable with ``path`` in the message.

    On Windows a name that is invalid there raises StorageError before the block runs.
    """
    if WINDOWS and (name := invalid_on_windows(path)):
        raise StorageError(
            f"{path} cannot be written: Windows does not allow the name {name!r}",
            hint='Choose a name without <>:"|?* and without a dot or blank at its end. CON, AUX and NUL are reserved.',
        )
    try:
        yield
    except OSError as problem:
        raise _storage_error(path, problem) from problem
    except UnicodeEncodeError as problem:  # of the path or of the text
        raise StorageError(f"{ascii(str(path))} cannot be written: {problem.reason} in its name or text") from problem


def _storage_error(path: Path, problem: OSError) -> StorageError:
    code = getattr(problem, "winerror", None)  # only on Windows, where errno does not tell these apart
    failed = f"{path} cannot be written"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT) or code in _DISK_FULL:
        return DiskFull(f"the disk is full, {path} was not written", hint=_OTHER_DISK)
    if renames.is_held(problem):
        return NotWritable(f"{failed}: {problem.strerror}", hint=_HELD)
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return NotWritable(f"{failed}: {problem.strerror}", hint="Choose a folder that you may write to.")
    failing = problem.filename if isinstance(problem.filename, str) else path  # the temporary file has a longer name
    length = max(len(os.path.abspath(name)) for name in (path, failing))
    if problem.errno == errno.ENAMETOOLONG or code == _TOO_LONG or (code in _NOT_FOUND and length >= _MAX_PATH):
        return StorageError(f"{failed}: its name or path is too long, {length} characters", hint=_SHORTER)
    return StorageError(f"{failed}: {problem.strerror or problem}")


def _sync(path: Path) -> None:
    """Flush a file or, where the system supports it, the entries of a folder to the disk."""
    if is_folder(path) and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDWR if is_file(path) else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
