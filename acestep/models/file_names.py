"""Check the file names that a hub lists before anything is written: a mirror may return any names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from acestep.core.errors import DownloadError
from acestep.core.paths import is_reserved

_MAX_NAME_BYTES = 240  # file systems allow 255; a partial download appends ".part"
_MAX_PATH_BYTES = 1000
# Not allowed in file names on Windows (learn.microsoft.com/windows/win32/fileio/naming-a-file), and control characters.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')


def is_safe(path: str) -> bool:
    """Whether a relative path from a hub stays inside its folder, and is valid, on every operating system."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return size <= _MAX_PATH_BYTES and all(map(_is_safe_name, path.split("/")))


def _is_safe_name(name: str) -> bool:
    return (
        0 < len(name.encode()) <= _MAX_NAME_BYTES
        and not name.endswith((".", " "))  # covers "." and "..": Windows ignores trailing dots and spaces
        and not _FORBIDDEN.search(name)
        and not is_reserved(name)
    )


def require_distinct(paths: Iterable[str]) -> None:
    """Raise DownloadError if two paths are the same file on a file system that ignores case, or one is a folder."""
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        key = _folded(path)
        parents = {str(parent): path for parent in PurePosixPath(key).parents}
        other = files.get(key) or folders.get(key) or next((files[parent] for parent in parents if parent in files), "")
        if other:
            raise DownloadError(f"the file list contains both {other} and {path}", hint="Use the other source.")
        files[key] = path
        folders |= parents


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def require_inside(folder: Path, path: Path) -> None:
    """Raise DownloadError if ``path`` leaves ``folder`` through a symbolic link. ``folder`` itself may be one."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(
            f"{path} is a link to {path.resolve()}, outside {folder}", hint="Remove the link, then download again."
        )
