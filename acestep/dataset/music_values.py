"""Keys and time signatures in the forms that the model knows, from the ways in which people and programs write them."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_BEATS = ("2", "3", "4", "6")  # the time signatures of the 5Hz language model
_BEATS_BY_NAME = {
    "two": "2", "three": "3", "four": "4", "six": "6", "waltz": "3", "common time": "4", "common": "4", "c": "4",
    "cut time": "2", "alla breve": "2",
}  # fmt: skip
_METER = re.compile(r"(?:in )?(\d{1,2})(?:\.0)?(?:\s*[/:,\s\u2044-]\s*(?:1|2|4|8|16))?(?: time)?")

# Notes of English, German (H; its B is B flat), Romance languages, Russian, Chinese, Japanese and Korean.
_NOTES = {
    **{note: note.upper() for note in "abcdefg"}, "h": "B",
    "do": "C", "ut": "C", "re": "D", "mi": "E", "fa": "F", "sol": "G", "la": "A", "si": "B",
    "до": "C", "ре": "D", "ми": "E", "фа": "F", "соль": "G", "ля": "A", "си": "B",
    "ハ": "C", "ニ": "D", "ホ": "E", "ヘ": "F", "ト": "G", "イ": "A", "ロ": "B",
    "다": "C", "라": "D", "마": "E", "바": "F", "사": "G", "가": "A", "나": "B",
}  # fmt: skip
_SHARPS = ("#", "sharp", "sharps", "diese", "diesis", "sostenido", "sustenido", "диез", "is", "升", "嬰", "올림")
_FLATS = ("b", "flat", "flats", "bemol", "bemolle", "bemoll", "бемоль", "es", "s", "降", "変", "내림")
_MAJOR = (
    "major", "maj", "ma", "dur", "majeur", "mayor", "maior", "maggiore", "ionian", "мажор", "大调", "大調", "長調",
    "장조",
)  # fmt: skip
_MINOR = (
    "minor", "min", "mi", "m", "moll", "mol", "mineur", "menor", "minore", "aeolian", "минор", "小调", "小調", "短調",
    "단조",
)  # fmt: skip


def _any(*groups: tuple[str, ...]) -> str:
    words = sorted((word for group in groups for word in group), key=len, reverse=True)
    return "|".join(map(re.escape, words))


_KEY = re.compile(
    rf"(?:(?:the )?key(?: of| is)?[ :=]*|tonart[ :]*|in )?(?P<before>{_any(('升', '嬰', '올림', '降', '変', '내림'))})?"
    rf"(?P<note>{_any(tuple(_NOTES))})[ -]?(?P<sign>{_any(_SHARPS, _FLATS)})?[ -]*(?P<mode>{_any(_MAJOR, _MINOR)})?"
)
_MODEL_KEY = re.compile(r"[A-G][#b]? (?:[Mm]ajor|[Mm]inor)")
_CAMELOT = re.compile(r"(1[0-2]|0?[1-9])\s*([abdm])")

# Major keys along the circle of fifths from C, in the usual spelling, and their relative minors.
_FIFTHS_MAJOR = ("C", "G", "D", "A", "E", "B", "F#", "Db", "Ab", "Eb", "Bb", "F")
_FIFTHS_MINOR = ("A", "E", "B", "F#", "C#", "G#", "Eb", "Bb", "F", "C", "G", "D")
_CAMELOT_OF_C = 8  # C major is 8B there and 1d in Open Key notation


def parse_key(value: Any) -> str:
    """A key such as "C# Minor" or "Bb Major"; "" for an empty value.

    Reads names in several languages, "Am", "key of D", and the Camelot ("8A") and Open Key ("1m") notations. A note
    without a mode is major.

    Raises:
        ValueError: not a major or minor key.
    """
    text = unicodedata.normalize("NFKC", str(value)).strip()
    if not text or _MODEL_KEY.fullmatch(text):
        return text
    plain = _plain(text)
    wheel = _CAMELOT.fullmatch(plain)
    if wheel:
        return _key_on_wheel(int(wheel[1]), wheel[2])
    found = _KEY.fullmatch(plain)
    if found is None:
        raise ValueError("must be a major or minor key such as A Minor")
    mode = found["mode"] or ""
    minor = mode in _MINOR and not text.endswith("M")  # "CM" is a major chord, "Cm" a minor one
    note, sign = _NOTES[found["note"]], ""
    word = found["before"] or found["sign"] or ""
    if word:
        sign = "#" if word in _SHARPS else "b"
    elif found["note"] == "b" and mode in ("dur", "moll"):
        sign = "b"
    return f"{note}{sign} {'Minor' if minor else 'Major'}"


def parse_time_signature(value: Any) -> str:
    """The beats per bar, one of "2", "3", "4", "6": "4" for "4/4", [4, 4] and "common time"; "" for an empty value.

    Raises:
        ValueError: another time signature, or none.
    """
    if isinstance(value, list | tuple) and value:
        value = value[0]
    text = unicodedata.normalize("NFKC", str(value)).strip().casefold()
    if not text:
        return ""
    found = _METER.fullmatch(text)
    beats = found[1] if found else _BEATS_BY_NAME.get(text, "")
    if beats not in _BEATS:
        raise ValueError(f"must be one of {', '.join(_BEATS)} beats per bar")
    return beats


def _plain(text: str) -> str:
    """In lowercase, without accents and with plain signs; "b" and "#" for flat and sharp."""
    text = text.replace("\u266f", "#").replace("\u266d", "b").replace("\u2013", "-").replace("\u2011", "-")
    decomposed = unicodedata.normalize("NFD", text.casefold())
    kept = "".join(letter for letter in decomposed if not "\u0300" <= letter <= "\u036f")
    return re.sub(r"[\s._]+", " ", unicodedata.normalize("NFC", kept)).strip()


def _key_on_wheel(number: int, letter: str) -> str:
    first = _CAMELOT_OF_C if letter in "ab" else 1
    minor = letter in "am"
    return f"{(_FIFTHS_MINOR if minor else _FIFTHS_MAJOR)[(number - first) % 12]} {'Minor' if minor else 'Major'}"
