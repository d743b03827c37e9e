"""Marker files: they list the files that this program wrote to a folder, so that it never replaces others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acestep.core.errors import StorageError
from acestep.core.files import read_versioned, write_versioned
from acestep.core.untrusted import exists, is_file, is_folder

_VERSION = 1


def write_marker(folder: Path, name: str, kind: str, facts: dict[str, Any]) -> None:
    """Write the marker file ``name`` with ``facts`` and the list of the files in ``folder``."""
    write_versioned(folder / name, kind, _VERSION, {**facts, "files": _files(folder)})


def require_replaceable(folder: Path, name: str, kind: str) -> None:
    """Raise StorageError unless ``folder`` is new, empty, or contains only files that its marker file lists."""
    if not exists(folder) or (is_folder(folder) and not any(folder.iterdir())):
        return
    foreign = StorageError(f"{folder} contains files that this program did not write", hint="Choose a new folder.")
    if not is_file(folder / name):
        raise foreign
    known = read_versioned(folder / name, kind, _VERSION, error=StorageError).get("files")
    if not isinstance(known, list) or not {*_files(folder)} <= {name, *known}:
        raise foreign


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_file(path))
