"""Run an online service over the songs in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.core.errors import AceStepError, DatasetError, ServiceRefused
from acestep.core.untrusted import is_file, is_folder


def songs_in(directory: str | Path) -> list[Path]:
    """The audio files in a folder, without sub-folders, sorted by name. Raises DatasetError."""
    folder = Path(directory).expanduser()
    if not is_folder(folder):
        raise DatasetError(f"{folder} is not a folder", hint="Choose the folder with the songs.")
    found = [path for path in folder.iterdir() if path.suffix.lower() in AUDIO_EXTENSIONS]
    return sorted(path for path in found if is_file(path) and not path.name.startswith("."))


def for_each(directory: str | Path, label_song: Callable[[Path], dict[str, Any]]) -> list[dict[str, Any]]:
    """Call ``label_song`` for each song in a folder. Returns its results, or ``error`` and ``hint`` where it failed.

    Raises:
        ServiceRefused: the service accepts no requests.
        DatasetError: no such folder.
    """
    results = []
    for path in songs_in(directory):
        result: dict[str, Any] = {"filename": path.name, "path": str(path)}
        try:
            result |= label_song(path)
        except ServiceRefused:
            raise
        except AceStepError as error:
            result |= {"error": str(error), "hint": error.hint}
        results.append(result)
    return results
