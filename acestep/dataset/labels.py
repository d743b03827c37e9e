"""What can be said of a song, under all the names that people and programs use for it, in one form.

A sidecar, a row of a table and a dataset file all go through here; what means nothing here is told, not guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INSTRUMENTAL = "[Instrumental]"
UNKNOWN_LANGUAGE = "unknown"
MAX_BPM = 999

_NOTHING = ("", "n/a", "na", "none", "null", "-", "?", UNKNOWN_LANGUAGE)
_YES, _NO = ("true", "yes", "y", "1", "1.0", "on"), ("false", "no", "n", "0", "0.0", "off")

# What captioners write where a caption should be.
_FAILURE = re.compile(r"\s*(error\s*:|\u274c)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a folder that was not used as its owner may expect."""

    path: Path
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the file ``path`` says of one song: values by field name, none of them empty.

    ``origins`` tells for each field who wrote it: the file's name, or what the file itself says of it.
    """

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def text(value: Any) -> str:
    """Text as it stands; a list becomes a line with commas. Raises ValueError for what is no text."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(text(item) for item in value)
    if isinstance(value, dict):
        raise ValueError("must be text")
    return str(value)


def whole_number(value: Any) -> int | None:
    """A number of at least 1, rounded; None for nothing and for 0. Reads "120 BPM" and "120,5"."""
    if isinstance(value, str):
        value = value.strip().lower().removesuffix("bpm").removesuffix("s").strip().replace(",", ".")
        if value in _NOTHING:
            return None
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError, OverflowError):
        number = math.nan
    if not 0 <= number < 1e9:
        raise ValueError("must be a number")
    return math.floor(number + 0.5) or None


def tempo(value: Any) -> int | None:
    """Beats a minute, from 1 to 999, or None."""
    number = whole_number(value)
    if number is not None and number > MAX_BPM:
        raise ValueError(f"must be at most {MAX_BPM}")
    return number


def beats(value: Any) -> str:
    """The upper number of a time signature: "4" of "4/4"."""
    if isinstance(value, float):
        value = whole_number(value)
    return text(value).split("/")[0].strip().removesuffix(".0")


def language(value: Any) -> str:
    """A code such as "en", in lower case."""
    return text(value).strip().lower() or UNKNOWN_LANGUAGE


def flag(value: Any) -> bool:
    """True or false, from what people write for it."""
    word = str(value).strip().lower()
    if word not in _YES + _NO:
        raise ValueError("must be true or false")
    return word in _YES


def prompt_choice(value: Any) -> str | None:
    """Which text to train on: "caption", "genre", or None for the dataset's rule."""
    word = text(value).strip().lower() or None
    if word not in ("caption", "genre", None):
        raise ValueError("must be caption or genre")
    return word


FIELDS: dict[str, Callable[[Any], Any]] = {
    "caption": text,
    "genre": text,
    "lyrics": text,
    "bpm": tempo,
    "keyscale": text,
    "timesignature": beats,
    "language": language,
    "is_instrumental": flag,
    "prompt_override": prompt_choice,
}

# Known words that say nothing to us: the length is measured, the tag is the dataset's, songs are not repeated.
UNUSED = frozenset({"duration", "customtag", "trigger", "tags", "repeat", "repeats"})

# Names in tables and sidecars, without case, spaces and signs.
_ALIASES = {
    "description": "caption",
    "prompt": "caption",
    "genres": "genre",
    "tempo": "bpm",
    "key": "keyscale",
    "scale": "keyscale",
    "timesig": "timesignature",
    "signature": "timesignature",
    "sig": "timesignature",
    "lang": "language",
    "vocallanguage": "language",
    "isinstrumental": "is_instrumental",
    "instrumental": "is_instrumental",
    "promptoverride": "prompt_override",
}


def plain_name(name: str) -> str:
    """``name`` without case, spaces and signs: "Time_Sig" is "timesig"."""
    return re.sub(r"[\W_]+", "", name).lower()


def field_name(name: str) -> str | None:
    """The field that ``name`` means; None if it means none."""
    plain = plain_name(name)
    return plain if plain in FIELDS else _ALIASES.get(plain)


def read_labels(raw: Mapping[str, Any], path: Path, problems: list[Problem]) -> Labels:
    """The labels in ``raw``, as found in ``path``. What is empty is left out; what makes no sense is a problem."""
    values: dict[str, Any] = {}
    sources = raw.get("sources")
    told = sources if isinstance(sources, dict) else {}
    for name in sorted(raw, key=lambda name: name not in FIELDS):  # a field's own name before its other names
        key = field_name(str(name))
        if key is None or key in values:
            continue
        try:
            value = FIELDS[key](raw[name]) if raw[name] not in (None, "") else None
        except ValueError as problem:
            problems.append(Problem(path, f"{name} {problem}, not {raw[name]!r:.50}; it is ignored"))
            continue
        if key == "caption" and value and is_failure(value):
            problems.append(Problem(path, "the caption is an error message and does not count", "Caption it again."))
        elif value is not None and (not isinstance(value, str) or value.strip().lower() not in _NOTHING):
            values[key] = value
    return Labels(path, values, {key: str(told.get(key) or path.name) for key in values})


def is_failure(caption: str) -> bool:
    """Whether a caption is what a captioner wrote when it failed."""
    return _FAILURE.match(caption) is not None


def is_sung(lyrics: str) -> bool:
    """Whether ``lyrics`` are words, not the mark of an instrumental piece."""
    return lyrics.strip().lower() not in ("", INSTRUMENTAL.lower(), "instrumental", "[inst]")
