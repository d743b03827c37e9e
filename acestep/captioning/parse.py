"""Parse the free text of a model: caption, key, time signature, genre and tempo. Nothing is guessed.

A single letter is not a key: "FM synth", "I am", "in a major way" and "24/7" contain neither a key nor a meter. Outside
a line with the label "key", a note must be a capital letter followed by a mode.
"""

from __future__ import annotations

import re

from acestep.captioning.schema import Description
from acestep.dataset.labels import UNKNOWN_LANGUAGE

_LABEL = r"^[^\w\n]*(?:{})[ \t]*[*_`]*[ \t]*[:=][ \t]*[*_`]*[ \t]*"
_KEY_LABEL = re.compile(_LABEL.format(r"(?:musical )?key(?:[ _]?scale)?|scale|tonality"), re.IGNORECASE | re.MULTILINE)
_METER_LABEL = re.compile(_LABEL.format(r"time[ _-]?signature|meter|metre"), re.IGNORECASE | re.MULTILINE)
_GENRE_LABEL = re.compile(_LABEL.format(r"genres?"), re.IGNORECASE | re.MULTILINE)
_TEMPO_LABEL = re.compile(_LABEL.format(r"bpm|tempo"), re.IGNORECASE | re.MULTILINE)
_LABELS = (_KEY_LABEL, _METER_LABEL, _GENRE_LABEL, _TEMPO_LABEL)

_ACCIDENTAL = r"(?:[#b]|[ -]?(?:sharp|flat)\b)?"
_MODE = r"[ -]*(?:natural |harmonic |melodic )?(?i:(?P<mode>major|minor|maj|min|dur|moll))\b"
_LABELED = re.compile(rf"(?:in )?(?P<note>[A-Ga-g])(?P<sign>{_ACCIDENTAL})(?:{_MODE}|(?P<short>m|M)\b|(?![A-Za-z]))")
_MODE_AHEAD = re.compile(r"[^\n]{0,40}?\b(?i:(?P<mode>major|minor|maj|min))\b")
_IN_TEXT = re.compile(rf"(?<![A-Za-z#])(?P<note>[A-G])(?P<sign>{_ACCIDENTAL}){_MODE}(?![ -](?:chord|triad)s?\b)")
_SHORT = re.compile(
    rf"\b(?i:in|key|key of|key is|tonality|scale) (?P<note>[A-G])(?P<sign>{_ACCIDENTAL})(?P<short>m|min|maj)\b"
)
_SENTENCE_START = re.compile(r"(?:^|[.!?:\n])[\s\"'(*\[\u2018\u201c\u00ab-]*$")
_LIST_END = re.compile(r"[ ]*(?:[.,;:)\n]|$)|[ ]+at[ ]+\d")

_FRACTION = re.compile(r"(?<![\d/.])(\d{1,2})/(2|4|8|16)(?![\d/]|[ ](?:of|th)\b)")
_METER = re.compile(r"(?i:time[ _-]?signature(?: is| of)?)[ ]*(\d{1,2})\b")

_GENRE_WORDS = (
    "electronic pop, synth-pop, synthpop, hip-hop, trip-hop, lo-fi, lo fi, r&b, drum and bass, drum & bass, pop, rock, "
    "jazz, classical, electronic, edm, hip hop, rap, rnb, folk, country, blues, metal, punk, indie, soul, reggaeton, "
    "reggae, latin, ballad, acoustic, ambient, house, techno, disco, funk, gospel, alternative, grunge"
)
GENRES = tuple(word.strip() for word in _GENRE_WORDS.split(","))


def strip_role(answer: str) -> str:
    """Remove the role "assistant", which some chat templates leave before the answer."""
    return re.sub(r"\A\s*assistant\s*(?:\n|:)\s*", "", answer.strip(), flags=re.IGNORECASE).strip()


def parse_answer(answer: str) -> Description:
    """Caption and metadata of a captioner's answer. Values without a labeled line are searched in the caption."""
    answer = strip_role(answer)
    starts = [match.start() for label in _LABELS if (match := label.search(answer))]
    caption = answer[: min(starts, default=len(answer))].strip()
    if not caption:  # the metadata lines come first
        caption = "\n".join(line for line in answer.split("\n") if not any(label.match(line) for label in _LABELS))
    return Description(
        caption=re.sub(r"\n{3,}", "\n\n", caption).strip(),
        genre=parse_genre(answer),
        keyscale=parse_key(answer),
        timesignature=parse_timesignature(answer),
        bpm=parse_bpm(answer),
    )


def parse_key(text: str) -> str:
    """A key such as ``C# Minor``, or "": one of 7 notes, plain, sharp or flat, in major or minor."""
    text = text.replace("\u266f", "#").replace("\u266d", "b").replace("\u2011", "-").replace("\u2013", "-")
    for label in _KEY_LABEL.finditer(text):
        found = _LABELED.match(text, label.end())
        if found and (found["mode"] or found["short"]):
            return _key(found)
        ahead = _MODE_AHEAD.match(text, found.end()) if found else None
        if found and ahead:
            return _key(found, ahead["mode"])
    for found in _IN_TEXT.finditer(text):
        if not _is_article(text, found):
            return _key(found)
    short = _SHORT.search(text)
    return _key(short) if short else ""


def _is_article(text: str, found: re.Match[str]) -> bool:
    """Whether the A of "A major step forward" is an article instead of a note."""
    if found["note"] != "A" or found["sign"]:
        return False
    return bool(_SENTENCE_START.search(text[: found.start()])) and not _LIST_END.match(text, found.end())


def _key(found: re.Match[str], mode: str = "") -> str:
    groups = found.groupdict()
    mode = mode or groups.get("mode") or {"M": "major", "m": "minor"}.get(groups["short"], groups["short"])
    sign = {"sharp": "#", "flat": "b"}.get(found["sign"].strip(" -").lower(), found["sign"].strip(" -"))
    return f"{found['note'].upper()}{sign} {'Minor' if mode.lower() in ('minor', 'min', 'moll') else 'Major'}"


def parse_timesignature(text: str) -> str:
    """Beats per bar, from "2" to "12", or "" if there are none."""
    for label in _METER_LABEL.finditer(text):
        value = re.match(r"(\d{1,2})\b", text[label.end() :])
        if value and 2 <= int(value[1]) <= 12:
            return value[1]
    found = [match[1] for pattern in (_METER, _FRACTION) for match in pattern.finditer(text)]
    return next((str(int(beats)) for beats in found if 2 <= int(beats) <= 12), "")


def parse_bpm(text: str) -> int | None:
    """Tempo in beats per minute, from 30 to 300, if the text labels a number as tempo."""
    candidates = [re.match(r"(?:about |around |~ ?)?(\d{2,3})\b", text[m.end() :]) for m in _TEMPO_LABEL.finditer(text)]
    candidates += re.finditer(r"(?<![\d.-])(\d{2,3})[ -]?(?i:bpm|beats per minute)\b", text)
    values = [int(match[1]) for match in candidates if match]
    return next((value for value in values if 30 <= value <= 300), None)


def parse_genre(text: str) -> str:
    """The value after ``genre:``, else the first known genre that the text contains as a separate word."""
    for label in _GENRE_LABEL.finditer(text):
        value = text[label.end() :].split("\n")[0].strip(" *_`\"'.;[]")
        value = value.split(",")[0].strip() if len(value) > 30 else value
        value = re.sub(r"\s+(?:music|style|song|track)$", "", value, flags=re.IGNORECASE)
        if value and not re.search(r"[<>]", value) and value.lower() not in ("n/a", "none", UNKNOWN_LANGUAGE, "genre"):
            return value
    lower = text.lower()
    return next((genre for genre in GENRES if re.search(rf"(?<![\w-]){re.escape(genre)}(?![\w-])", lower)), "")
