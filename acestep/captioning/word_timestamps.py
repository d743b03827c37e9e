"""Convert word timestamps to lines of lyrics.

The script of the words decides whether they are joined without spaces, not the language that the service reports.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from acestep.dataset.labels import INSTRUMENTAL

# Scripts without spaces between words: kana, Han, Thai, Lao, Burmese, Khmer, and their punctuation.
_UNSPACED = re.compile(
    r"[\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff]"
)
_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]")

_PAUSE_S, _DENSE_PAUSE_S = 0.8, 0.5  # a line ends; the shorter one for Chinese, Japanese and Korean
_SECTION_PAUSE_S = 4.0
_MAX_WIDTH = 60  # Latin letters in a line; a Chinese character counts as two


@dataclass(frozen=True, slots=True)
class Word:
    """A word with start and end time in seconds."""

    text: str
    start_s: float
    end_s: float


def read_words(items: Iterable[Any]) -> list[Word]:
    """Parse words from a service: dictionaries or objects with the text in ``word`` or ``text``.

    Pauses and audio events, which ElevenLabs lists too, are skipped. A word without times gets the end time of the
    previous word.
    """
    words: list[Word] = []
    for item in items:
        get = item.get if isinstance(item, Mapping) else lambda name, item=item: getattr(item, name, None)
        text = str(get("word") or get("text") or "").strip()
        if not text or (get("type") or "word") != "word":
            continue
        before = words[-1].end_s if words else 0.0
        start, end = get("start"), get("end")
        start_s = float(start) if isinstance(start, int | float) else before
        words.append(Word(text, start_s, max(start_s, float(end) if isinstance(end, int | float) else start_s)))
    return words


def lines_from_words(words: list[Word], text: str = "") -> str:
    """Build lyrics: a line ends at a pause or at the maximum width, a section at a long pause.

    Args:
        text: used if there are no words. Without both, the result is ``[Instrumental]``.
    """
    if not words:
        return f"[Verse]\n{text.strip()}" if text.strip() else INSTRUMENTAL
    pause = _DENSE_PAUSE_S if _is_dense(words) else _PAUSE_S
    parts, line, end_s = ["[Verse]"], words[0].text, words[0].end_s
    for word in words[1:]:
        gap = word.start_s - end_s
        if gap > pause or _width(line) + _width(word.text) >= _MAX_WIDTH:
            parts.append(line)
            line = ""
        if gap > _SECTION_PAUSE_S:
            parts.append("\n[Verse]")
        line += f"{_separator(line, word.text)}{word.text}"
        end_s = max(end_s, word.end_s)
    return "\n".join([*parts, line])


def _separator(line: str, word: str) -> str:
    """The separator before the next word."""
    if not line or _UNSPACED.match(line[-1]) or _UNSPACED.match(word[0]):
        return ""
    return "" if word[0] in ",.!?;:)\u2026" else " "


def _is_dense(words: list[Word]) -> bool:
    letters = "".join(word.text for word in words)
    return len(_UNSPACED.findall(letters)) + len(_HANGUL.findall(letters)) > len(letters) / 2


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
