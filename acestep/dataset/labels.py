"""Label fields: their names in all supported programs, and parsing and validation of their values.

Sidecars, tables and dataset files are all parsed here. Invalid values are reported, never guessed.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acestep.dataset.languages import UNKNOWN_LANGUAGE as UNKNOWN_LANGUAGE
from acestep.dataset.languages import model_language
from acestep.dataset.lyrics import is_empty, read_lyrics
from acestep.dataset.music_values import parse_key, parse_time_signature

INSTRUMENTAL = "[Instrumental]"
MAX_BPM = 999
LINE_TIMES = "line_times_s"  # key of the start of each line of the lyrics, in seconds

_EMPTY = ("", "n/a", "na", "none", "null", "-", "?", UNKNOWN_LANGUAGE)
_TRUE, _FALSE = ("true", "yes", "y", "1", "1.0", "on"), ("false", "no", "n", "0", "0.0", "off")

# Control tokens of language models; in a label they would end the prompt.
_SPECIAL_TOKEN = re.compile(r"<\|[\w ]{1,40}\|>")

# What stands before a tempo: "~120", "ca. 120", a note with an equals sign.
_TEMPO_PREFIX = re.compile(r"^(?:[~\u2248\u2669\u266a= ]|about|approx\.?|circa|ca?\.)+")

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
        line_times_s: the start of each line of the lyrics in seconds; empty if unknown.
        custom_tag: the activation tag in the file, "" if there is none.
    """

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    line_times_s: list[float] = field(default_factory=list)
    custom_tag: str = ""


def parse_text(value: Any) -> str:
    """Text without special tokens; a list is joined with commas. Raises ValueError for a mapping."""
    return _text(value, ", ")


def parse_lyrics(value: Any) -> str:
    """Lyrics without times and special tokens; a list is joined by line breaks. Raises ValueError for a mapping."""
    return read_lyrics(_text(value, "\n")).text


def _text(value: Any, separator: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return separator.join(_text(item, separator) for item in value)
    if isinstance(value, dict):
        raise ValueError("must be text")
    return _SPECIAL_TOKEN.sub("", str(value))


def parse_whole_number(value: Any) -> int | None:
    """A rounded number of at least 1. None for empty values and 0. Accepts "120 BPM" and "120,5".

    Raises:
        ValueError: not a number from 0 to 1e9.
    """
    if isinstance(value, str):
        value = _TEMPO_PREFIX.sub("", unicodedata.normalize("NFKC", value).strip().lower())
        value = value.removesuffix("bpm").removesuffix("s").strip().replace(",", ".")
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


def parse_language(value: Any) -> str:
    """The code of a language of the model, such as "en" for "English". Raises ValueError for other languages."""
    text = parse_text(value).strip()
    code = model_language(text)
    if code == UNKNOWN_LANGUAGE and text.lower() not in (*_EMPTY, "instrumental"):
        raise ValueError("must be a language that the model knows, such as en or English")
    return code


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
    "lyrics": parse_lyrics,
    "bpm": parse_bpm,
    "keyscale": parse_key,
    "timesignature": parse_time_signature,
    "language": parse_language,
    "is_instrumental": parse_flag,
    "prompt_override": parse_prompt_choice,
}

# Known keys without a label field: the duration is measured, the tag belongs to the dataset, repeats are not supported.
UNUSED = frozenset({"duration", "customtag", "trigger", "repeat", "repeats"})

_TAGS = ("customtag", "trigger")

# Alternative field names in tables and sidecars, normalized by ``normalize_name``. The first that is present is used.
_ALIASES = {
    "description": "caption",
    "prompt": "caption",
    "text": "caption",
    "tags": "caption",
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
    times_s: list[float] = []
    for name in sorted(raw, key=_precedence):
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
            if key == "lyrics":
                times_s = _line_times_s(raw, raw[name], value)
    tags = [raw[name] for name in raw if normalize_name(str(name)) in _TAGS and isinstance(raw[name], str)]
    tag = next((tag.strip() for tag in tags if tag.strip()), "")
    return Labels(path, values, {key: str(stated.get(key) or path.name) for key in values}, times_s, tag)


def _precedence(name: str) -> int:
    """Canonical names come first, then the aliases in their order."""
    names = [*FIELDS, *_ALIASES]
    normalized = normalize_name(name)
    return names.index(normalized) if normalized in names else len(names)


def _line_times_s(raw: Mapping[str, Any], written: Any, lyrics: str) -> list[float]:
    """The start of each line in seconds, from the lyrics as they are written or from the file's list."""
    stored = raw.get(LINE_TIMES)
    numbers = stored if isinstance(stored, list) and all(isinstance(time, int | float) for time in stored) else []
    times_s = read_lyrics(_text(written, "\n")).line_times_s or [float(time) for time in numbers]
    return times_s if len(times_s) == len(lyrics.split("\n")) else []


def is_failure(caption: str) -> bool:
    """Whether ``caption`` is an error message of a captioner."""
    return _ERROR_MESSAGE.match(caption) is not None


def is_sung(lyrics: str) -> bool:
    """Whether ``lyrics`` contain text other than a note that there are none, such as "[Instrumental]"."""
    return not is_empty(lyrics)
