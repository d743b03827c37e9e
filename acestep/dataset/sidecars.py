"""Labels in files beside the song: the captioner's JSON, Side-Step's ``key: value`` text, plain lyrics and captions.

For ``song.mp3``, weakest first: ``song.txt``, ``song.caption.txt``, ``song.lyrics.txt``, ``song.json`` (or
``song.mp3.json``, which is its alone where ``song.wav`` exists too).
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
from acestep.dataset.identity import same_name
from acestep.dataset.labels import UNUSED, Labels, Problem, field_name, plain_name, read_labels
from acestep.dataset.text_files import read_text

TEXT_ENDINGS = (".caption.txt", ".lyrics.txt")

# The order of the captioner's file (SPEC 1.3); other keys follow.
_ORDER = (
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
_KEY_LINE = re.compile(r"\s*([A-Za-z][\w -]{0,30}?)\s*:(.*)", re.DOTALL)
_LYRICS = "lyrics"


class Folder:
    """The files of one folder, found by name whatever its case and the encoding of its accents."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._exact = {path.name: path for path in paths}
        self._alike = {same_name(name): path for name, path in self._exact.items()}

    def find(self, name: str) -> Path | None:
        return self._exact.get(name) or self._alike.get(same_name(name))


def read_sidecars(audio: Path, folder: Folder, problems: list[Problem]) -> list[Labels]:
    """What the files beside ``audio`` say of it, weakest first. What cannot be read is told in ``problems``."""
    found = [_read_plain(path, problems) for path in [folder.find(f"{audio.stem}.txt")] if path]
    for ending, name in zip(TEXT_ENDINGS, ("caption", _LYRICS), strict=True):
        path = folder.find(f"{audio.stem}{ending}")
        content = read_text(path, problems) if path else None
        if path and content is not None:
            found.append(read_labels({name: content.strip()}, path, problems))
    path = folder.find(f"{audio.name}.json") or folder.find(f"{audio.stem}.json")
    if path:
        found.append(_read_json(path, problems))
    return found


def sidecar_path(audio: Path) -> Path:
    """The JSON file that holds the labels of ``audio``, or will."""
    own = audio.with_name(f"{audio.name}.json")
    return own if os.path.exists(own) else audio.with_suffix(".json")


def write_sidecar(audio_path: Path, labels: Mapping[str, Any]) -> Path:
    """Write ``labels`` (SPEC 1.3 names) into the JSON beside the song; returns its path.

    Keys that are there and not in ``labels`` stay, those of other programs too.

    Raises:
        DatasetError: the file that is there is not the JSON of a song: it is not overwritten.
        DiskFull, NotWritable, StorageError.
    """
    path = sidecar_path(audio_path)
    hint = "Correct it, or move it out of the way."
    before = read_json(path, error=DatasetError, hint=hint) if os.path.exists(path) else {}
    if not isinstance(before, dict):
        raise DatasetError(f"{path} does not hold the labels of a song", hint=hint)
    data = {**before, "filename": audio_path.name, "path": str(audio_path.absolute()), **labels}
    order = [key for key in _ORDER if key in data] + [key for key in data if key not in _ORDER]
    write_json(path, {key: data[key] for key in order})
    return path


def _read_json(path: Path, problems: list[Problem]) -> Labels:
    content = read_text(path, problems)
    if content is None:
        return Labels(path)
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as problem:  # ValueError: a number of thousands of digits, too
        problems.append(Problem(path, f"is not valid JSON and was ignored: {problem}", "Correct it, or delete it."))
        return Labels(path)
    if not isinstance(data, dict):
        problems.append(Problem(path, "does not hold the labels of a song and was ignored"))
        return Labels(path)
    return read_labels(data, path, problems)


def _read_plain(path: Path, problems: list[Problem]) -> Labels:
    """``song.txt``: ``key: value`` lines if it begins with one, else lyrics."""
    content = read_text(path, problems)
    raw = _key_values(content or "") or {_LYRICS: (content or "").strip()}
    return read_labels(raw, path, problems)


def _key_values(content: str) -> dict[str, str] | None:
    """Side-Step's text: known keys at the start of lines, everything behind ``lyrics:`` is lyrics.

    A line without a known key goes on with the value before it. None if this is some other text: the first line has
    no known key, or there is neither a caption nor a second key.
    """
    raw: dict[str, str] = {}
    key = ""
    lines = content.strip().split("\n")
    for number, line in enumerate(lines):
        match = _KEY_LINE.match(line)
        name = match[1] if match else ""
        if match and (field_name(name) or plain_name(name) in UNUSED):
            key = field_name(name) or plain_name(name)
            if key == _LYRICS:
                raw[key] = "\n".join([match[2], *lines[number + 1 :]]).strip()
                break
            raw[key] = match[2].strip()
        elif not key:
            return None
        else:
            raw[key] = f"{raw[key]}\n{line}".strip()
    return raw if "caption" in raw or len(raw) > 1 else None
