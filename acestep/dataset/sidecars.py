"""Sidecars: label files next to an audio file.

Files of ``song.mp3`` in order of increasing precedence: ``song.txt``, those of ``TEXT_FILES`` in their order, and
``song.json`` or ``song.mp3.json``. The latter applies to one format only, if ``song.wav`` exists too.

``song.txt`` holds ``key: value`` lines (Side-Step), ``<CAPTION>`` tags (ai-toolkit), a description, or plain lyrics.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from acestep.core.errors import DatasetError
from acestep.core.files import read_json, write_json
from acestep.dataset.identity import filename_key
from acestep.dataset.labels import FIELDS, UNUSED, Labels, Problem, field_name, normalize_name, read_labels
from acestep.dataset.text_files import read_text

# Endings of files that hold one label. ``_prompt.txt`` and ``_lyrics.txt`` are those of ACE-Step v1.
TEXT_FILES = {
    "_prompt.txt": "caption",
    ".caption.txt": "caption",
    ".vtt": "lyrics",
    ".srt": "lyrics",
    ".lrc": "lyrics",
    "_lyrics.txt": "lyrics",
    ".lyrics.txt": "lyrics",
}

# Key order of a JSON sidecar; other keys follow.
_KEY_ORDER = (
    "filename",
    "path",
    "caption",
    "bpm",
    "duration",
    "keyscale",
    "timesignature",
    "genre",
    "lyrics",
    "language",
    "is_instrumental",
    "custom_tag",
)
_MAX_LISTED = 80  # characters of unknown keys in a message
_KEY_LINE = re.compile(r"\s*([A-Za-z][\w -]{0,30}?)\s*:(.*)", re.DOTALL)
_TAGGED = re.compile(r"<([A-Z_]{3,20})>(.*?)</\1>", re.DOTALL)
_LYRICS = "lyrics"

# A line of text is a description if it lists several things, or contains one of these words.
_MIN_COMMAS = 2
_STYLE_WORD = re.compile(
    r"\b(?:bpm|genre|instrumental|vocals?|guitars?|piano|drums?|bass|synth\w*|beats?|melod\w+|tempo|chords?|ballad|acoustic"
    r"|electronic|orchestral|hip[ -]?hop|techno|house|trance|metal|punk|jazz|blues|reggae|ambient|lo-?fi|soundtrack)\b",
    re.IGNORECASE,
)


class FolderListing:
    """The files of one folder, for lookup by name regardless of case and Unicode normalization."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._exact = {path.name: path for path in paths}
        self._by_key = {filename_key(name): path for name, path in self._exact.items()}

    def find(self, name: str) -> Path | None:
        """The file called ``name``; an exact match comes first."""
        return self._exact.get(name) or self._by_key.get(filename_key(name))


def read_sidecars(audio: Path, folder: FolderListing, problems: list[Problem]) -> list[Labels]:
    """Labels from the sidecars of ``audio``, in order of increasing precedence. Failures are added to ``problems``."""
    labels = [_read_text(path, problems) for path in [folder.find(f"{audio.stem}.txt")] if path]
    for ending, name in TEXT_FILES.items():
        path = folder.find(f"{audio.stem}{ending}")
        content = read_text(path, problems) if path else None
        if path and content is not None:
            labels.append(read_labels({name: content.strip()}, path, problems))
    path = folder.find(f"{audio.name}.json") or folder.find(f"{audio.stem}.json")
    if path:
        labels.append(_read_json(path, problems))
    return labels


def sidecar_path(audio: Path) -> Path:
    """The JSON sidecar of ``audio``, whether or not it exists."""
    specific = audio.with_name(f"{audio.name}.json")
    return specific if os.path.exists(specific) else audio.with_suffix(".json")


def write_sidecar(audio_path: Path, labels: Mapping[str, Any]) -> Path:
    """Update the JSON sidecar of an audio file. Returns its path.

    Args:
        labels: values by field name. Other keys of an existing file are kept.

    Raises:
        DatasetError: the existing file is not a JSON object. It is not overwritten.
        DiskFull, NotWritable, StorageError: the file cannot be written.
    """
    path = sidecar_path(audio_path)
    hint = "Correct the file, or move it elsewhere."
    existing = read_json(path, error=DatasetError, hint=hint) if os.path.exists(path) else {}
    if not isinstance(existing, dict):
        raise DatasetError(f"{path} is not a label file: it contains no JSON object", hint=hint)
    data = {**existing, "filename": audio_path.name, "path": str(audio_path.absolute()), **labels}
    order = [key for key in _KEY_ORDER if key in data] + [key for key in data if key not in _KEY_ORDER]
    write_json(path, {key: data[key] for key in order})
    return path


def _read_json(path: Path, problems: list[Problem]) -> Labels:
    content = read_text(path, problems)
    if content is None:
        return Labels(path)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:  # ValueError also for a number with thousands of digits
        problems.append(Problem(path, f"is not valid JSON; ignored: {error}", "Correct or delete the file."))
        return Labels(path)
    if not isinstance(data, dict):
        problems.append(Problem(path, "is not a label file: it contains no JSON object; ignored"))
        return Labels(path)
    known = _with_known_keys(data)
    if known is None:
        listed = ", ".join(map(str, data))[:_MAX_LISTED]
        hint = f"Known keys: {', '.join(FIELDS)}."
        problems.append(Problem(path, f"is not used: none of its keys is known: {listed}", hint))
    return read_labels(known or {}, path, problems)


def _with_known_keys(data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """``data``, or the object in it, that has label fields; None if there is neither. An empty file has no labels."""
    own = {normalize_name(str(key)) for key in data} & (UNUSED | {"filename", "path"})
    if not data or own or any(field_name(str(key)) for key in data):
        return data
    nested = [value for value in data.values() if isinstance(value, dict)]
    return next((value for value in nested if any(field_name(str(key)) for key in value)), None)


def _read_text(path: Path, problems: list[Problem]) -> Labels:
    """Labels of ``song.txt``: tags or ``key: value`` lines if it begins with one, a description, or lyrics."""
    content = (read_text(path, problems) or "").strip()
    raw = _tagged_values(content) or _key_values(content)
    if raw is None and _is_description(content):
        raw = {"caption": content}
        hint = f"Rename it to {path.stem}.lyrics.txt if these are lyrics."
        problems.append(Problem(path, "reads like a description and is used as the caption", hint))
    return read_labels(raw or {_LYRICS: content}, path, problems)


def _is_description(content: str) -> bool:
    if "\n" in content or content.startswith("["):
        return False
    return content.count(",") >= _MIN_COMMAS or _STYLE_WORD.search(content) is not None


def _tagged_values(content: str) -> dict[str, str] | None:
    """The values of ``<CAPTION>...</CAPTION>`` and the like by field name; None without known tags."""
    return {name: value.strip() for tag, value in _TAGGED.findall(content) if (name := field_name(tag))} or None


def _key_values(content: str) -> dict[str, str] | None:
    """Parse ``key: value`` lines. Everything after ``lyrics:`` is lyrics, other lines without a key continue the value.

    Returns:
        Values by field name. None for other text: the first line has no known key, or there is neither a caption nor
        a second key.
    """
    raw: dict[str, str] = {}
    key = ""
    lines = content.strip().split("\n")
    for number, line in enumerate(lines):
        match = _KEY_LINE.match(line)
        name = match[1] if match else ""
        if match and (field_name(name) or normalize_name(name) in UNUSED):
            key = field_name(name) or normalize_name(name)
            if key == _LYRICS:
                raw[key] = "\n".join([match[2], *lines[number + 1 :]]).strip()
                break
            raw[key] = match[2].strip()
        elif not key:
            return None
        else:
            raw[key] = f"{raw[key]}\n{line}".strip()
    return raw if "caption" in raw or len(raw) > 1 else None
