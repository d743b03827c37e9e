"""Label fields: their names in all supported programs, and parsing and validation of their values.

Sidecars, tables and dataset files are all parsed here. Invalid values are reported, never guessed.
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

_EMPTY = ("", "n/a", "na", "none", "null", "-", "?", UNKNOWN_LANGUAGE)
_TRUE, _FALSE = ("true", "yes", "y", "1", "1.0", "on"), ("false", "no", "n", "0", "0.0", "off")

# Error messages that captioners write in place of a caption.
_ERROR_MESSAGE = re.compile(r"\s*(error\s*:|\u274c)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was skipped or only partly used, and why."""

    path: Path
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of one sample from one file.

    Attributes:
        path: the file.
        values: non-empty values by field name.
        origins: the source of each value: the file name, or the source that the file itself states.
    """

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def parse_text(value: Any) -> str:
    """Text unchanged; a list is joined with commas. Raises ValueError for a mapping."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(parse_text(item) for item in value)
    if isinstance(value, dict):
        raise ValueError("must be text")
    return str(value)


def parse_whole_number(value: Any) -> int | None:
    """A rounded number of at least 1. None for empty values and 0. Accepts "120 BPM" and "120,5".

    Raises:
        ValueError: not a number from 0 to 1e9.
    """
    if isinstance(value, str):
        value = value.strip().lower().removesuffix("bpm").removesuffix("s").strip().replace(",", ".")
        if value in _EMPTY:
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


def parse_bpm(value: Any) -> int | None:
    """Tempo in beats per minute, 1 to 999, or None. Raises ValueError."""
    number = parse_whole_number(value)
    if number is not None and number > MAX_BPM:
        raise ValueError(f"must be at most {MAX_BPM}")
    return number


def parse_time_signature(value: Any) -> str:
    """The numerator of a time signature: "4" for "4/4"."""
    if isinstance(value, float):
        value = parse_whole_number(value)
    return parse_text(value).split("/")[0].strip().removesuffix(".0")


def parse_language(value: Any) -> str:
    """A lowercase language code such as "en"."""
    return parse_text(value).strip().lower() or UNKNOWN_LANGUAGE


def parse_flag(value: Any) -> bool:
    """A boolean from its usual spellings, such as "yes" and "0". Raises ValueError."""
    word = str(value).strip().lower()
    if word not in _TRUE + _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def parse_prompt_choice(value: Any) -> str | None:
    """The text to train on: "caption", "genre", or None for the dataset setting. Raises ValueError."""
    word = parse_text(value).strip().lower() or None
    if word not in ("caption", "genre", None):
        raise ValueError("must be caption or genre")
    return word


FIELDS: dict[str, Callable[[Any], Any]] = {
    "caption": parse_text,
    "genre": parse_text,
    "lyrics": parse_text,
    "bpm": parse_bpm,
    "keyscale": parse_text,
    "timesignature": parse_time_signature,
    "language": parse_language,
    "is_instrumental": parse_flag,
    "prompt_override": parse_prompt_choice,
}

# Known keys without a label field: the duration is measured, the tag belongs to the dataset, repeats are not supported.
UNUSED = frozenset({"duration", "customtag", "trigger", "tags", "repeat", "repeats"})

# Alternative field names in tables and sidecars, normalized by ``normalize_name``.
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


def normalize_name(name: str) -> str:
    """``name`` in lowercase without spaces and punctuation: "timesig" for "Time_Sig"."""
    return re.sub(r"[\W_]+", "", name).lower()


def field_name(name: str) -> str | None:
    """The label field that ``name`` refers to, or None."""
    normalized = normalize_name(name)
    return normalized if normalized in FIELDS else _ALIASES.get(normalized)


def read_labels(raw: Mapping[str, Any], path: Path, problems: list[Problem]) -> Labels:
    """Parse the labels ``raw`` of the file ``path``. Empty values are omitted, invalid ones added to ``problems``."""
    values: dict[str, Any] = {}
    sources = raw.get("sources")
    stated = sources if isinstance(sources, dict) else {}
    for name in sorted(raw, key=lambda name: name not in FIELDS):  # canonical names before aliases
        key = field_name(str(name))
        if key is None or key in values:
            continue
        try:
            value = FIELDS[key](raw[name]) if raw[name] not in (None, "") else None
        except ValueError as error:
            problems.append(Problem(path, f"{name} {error}, not {raw[name]!r:.50}; ignored"))
            continue
        if key == "caption" and value and is_failure(value):
            problems.append(Problem(path, "the caption is an error message; ignored", "Run the captioner again."))
        elif value is not None and (not isinstance(value, str) or value.strip().lower() not in _EMPTY):
            values[key] = value
    return Labels(path, values, {key: str(stated.get(key) or path.name) for key in values})


def is_failure(caption: str) -> bool:
    """Whether ``caption`` is an error message of a captioner."""
    return _ERROR_MESSAGE.match(caption) is not None


def is_sung(lyrics: str) -> bool:
    """Whether ``lyrics`` contain text other than the instrumental marker."""
    return lyrics.strip().lower() not in ("", INSTRUMENTAL.lower(), "instrumental", "[inst]")
