"""Parse the lyrics in a transcriber's answer, and join the lyrics of the windows of a song."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

from acestep.captioning.parse import strip_role
from acestep.captioning.schema import Lyrics
from acestep.dataset.labels import INSTRUMENTAL, UNKNOWN_LANGUAGE
from acestep.dataset.languages import language_code

_SECTIONS = (
    "verse|chorus|bridge|intro|outro|pre-?chorus|post-?chorus|hook|refrain|instrumental|spoken|guitar|piano|"
    "interlude|break|drop|solo|rap|coda"
)
_SECTION = re.compile(rf"^\[(?:{_SECTIONS})[^\]\n]*\]", re.IGNORECASE | re.MULTILINE)
_LANGUAGES_HEAD = re.compile(r"^#*[ \t]*languages?[ \t]*:?[ \t]*$\n?|^#*[ \t]*languages?[ \t]*:", re.I | re.M)
_LYRICS_HEAD = re.compile(r"^#*[ \t]*lyrics?[ \t]*:?[ \t]*$", re.IGNORECASE | re.MULTILINE)
_MAX_REPEATS = 8
_MAX_OVERLAP = 6  # lines that two windows can have in common
_MIN_SIMILARITY = 0.8


def parse_lyrics(answer: str) -> Lyrics:
    """Lyrics and language of a transcriber's answer, also if the headings are missing."""
    answer = strip_role(answer)
    language, text = UNKNOWN_LANGUAGE, answer
    if head := _LANGUAGES_HEAD.search(answer):
        word = re.match(r"\s*([^\W\d_][\w-]*)", answer[head.end() :])
        language = language_code(word[1]) if word else UNKNOWN_LANGUAGE
        text = answer[head.end() + (word.end() if word else 0) :]
        if "\n" in text and not _SECTION.match(text.lstrip()):
            text = text.split("\n", 1)[1]  # the rest of the line names more languages
    if head := _LYRICS_HEAD.search(text):
        text = text[head.end() :]
    elif section := _SECTION.search(text):
        text = text[section.start() :]
    return Lyrics(format_lyrics(text), language)


def format_lyrics(text: str) -> str:
    """Lyrics with at least one section tag and single blank lines, or ``[Instrumental]`` if there are none."""
    text = _limit_repeats(re.sub(r"\n{3,}", "\n\n", text.replace("\r\n", "\n")).strip())
    words = re.sub(r"\[[^\]\n]*\]", "", text).strip()
    if not words or words.lower().strip(" .()[]") in ("instrumental", "no lyrics", "none", "n/a"):
        return INSTRUMENTAL
    return text if _SECTION.search(text) else f"[Verse]\n{text}"


def _limit_repeats(text: str) -> str:
    """Limit consecutive repeats of a line to eight, for models that get stuck in a loop."""
    kept: list[str] = []
    for line in text.split("\n"):
        if not line.strip() or kept[-_MAX_REPEATS:] != [line] * _MAX_REPEATS:
            kept.append(line)
    return "\n".join(kept)


def join_lyrics(parts: Sequence[Lyrics]) -> Lyrics:
    """Join the lyrics of overlapping windows, in order.

    Similar lines in the overlap are kept once. A line that the first window truncates is replaced by the complete line
    of the second window. Instrumental windows are skipped.
    """
    sung = [part for part in parts if not part.is_instrumental]
    if not sung:
        return Lyrics(INSTRUMENTAL, complete=all(part.complete for part in parts))
    text = sung[0].text
    for part in sung[1:]:
        text = _join_pair(text, part.text)
    languages = Counter[str]()
    for part in sung:
        languages[part.language] += len(part.text) * (part.language != UNKNOWN_LANGUAGE)
    language = languages.most_common(1)[0][0]
    return Lyrics(format_lyrics(text), language, all(part.complete for part in parts))


def _join_pair(first: str, second: str) -> str:
    before, after = first.split("\n"), second.split("\n")
    ends = [number for number, line in enumerate(before) if _is_sung(line)][-_MAX_OVERLAP:]
    starts = [number for number, line in enumerate(after) if _is_sung(line)][:_MAX_OVERLAP]
    for count in range(min(len(ends), len(starts)), 0, -1):
        if all(_is_similar(before[a], after[b]) for a, b in zip(ends[-count:], starts[:count], strict=True)):
            return _concatenate(before, after[starts[count - 1] + 1 :])
    if ends and starts and _is_part(before[ends[-1]], after[starts[0]]):
        return _concatenate([*before[: ends[-1]], after[starts[0]]], after[starts[0] + 1 :])
    return _concatenate(before, after)


def _concatenate(before: list[str], after: list[str]) -> str:
    """Concatenate lines. The section tag of the second window is dropped if its section continues."""
    tags = [line for line in before if _SECTION.match(line)]
    start = next((number for number, line in enumerate(after) if line.strip()), len(after))
    if tags and after[start : start + 1] == tags[-1:]:
        after = after[start + 1 :]
    return "\n".join([*before, *after])


def _is_sung(line: str) -> bool:
    return bool(line.strip()) and not re.fullmatch(r"\[[^\]]*\]", line.strip())


def _normalize(line: str) -> str:
    """Letters and digits only, without case and accents."""
    return "".join(mark for mark in unicodedata.normalize("NFKD", line.casefold()) if mark.isalnum())


def _is_similar(first: str, second: str) -> bool:
    first, second = _normalize(first), _normalize(second)
    return first == second or SequenceMatcher(None, first, second, autojunk=False).ratio() >= _MIN_SIMILARITY


def _is_part(first: str, second: str) -> bool:
    """Whether ``first`` is a truncated prefix of ``second``."""
    first, second = _normalize(first), _normalize(second)
    return 3 <= len(first) < len(second) and second.startswith(first)
