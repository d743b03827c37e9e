"""Folders that this program made: only those are ever replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acestep.core.errors import StorageError
from acestep.core.files import read_versioned, write_versioned

_VERSION = 1


def write_marker(folder: Path, name: str, kind: str, facts: dict[str, Any]) -> None:
    """``name`` in ``folder``: ``facts``, and which files stand there now."""
    write_versioned(folder / name, kind, _VERSION, {**facts, "files": _files(folder)})


def require_replaceable(folder: Path, name: str, kind: str) -> None:
    """Raises StorageError unless ``folder`` is new, empty, or bears our mark and has got no further files since."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    refusal = StorageError(f"{folder} exists and is no {kind} made by this program", hint="Choose a new folder.")
    if not (folder / name).is_file():
        raise refusal
    known = read_versioned(folder / name, kind, _VERSION, error=StorageError).get("files")
    if not isinstance(known, list) or not {*_files(folder)} <= {name, *known}:
        raise refusal


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
