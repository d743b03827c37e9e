"""What the classes of the online services do with a whole folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.core.errors import AceStepError, DatasetError, ServiceRefused


def songs_in(directory: str | Path) -> list[Path]:
    """The sound files of a folder, without its sub-folders, by name. Raises DatasetError."""
    folder = Path(directory).expanduser()
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder", hint="Choose the folder that holds the songs.")
    found = [path for path in folder.iterdir() if path.suffix.lower() in AUDIO_EXTENSIONS]
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def for_each(directory: str | Path, work: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``work`` gives for each song of a folder; ``error`` and ``hint`` in place of it where it failed.

    Raises:
        ServiceRefused: the service will not do any of them.
        DatasetError: no such folder.
    """
    results = []
    for path in songs_in(directory):
        result: dict[str, Any] = {"filename": path.name, "path": str(path)}
        try:
            result |= work(path)
        except ServiceRefused:
            raise
        except AceStepError as error:
            result |= {"error": str(error), "hint": error.hint}
        results.append(result)
    return results
