"""Lyrics as they are sung: without the times of LRC, SRT and VTT files, which are kept apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pysubs2

# What people and programs write in place of lyrics, in lowercase without brackets and punctuation.
_NO_LYRICS = (
    "", "instrumental", "inst", "instrumental only", "instrumental track", "no lyrics", "no lyric", "no vocals",
    "no vocal", "none", "纯音乐", "純音樂", "无歌词", "無歌詞", "没有歌词", "インスト", "インストゥルメンタル",
    "歌詞なし", "instrumentál", "instrumentale", "sans paroles", "ohne text", "без слов", "инструментал", "연주곡",
    "가사 없음",
)  # fmt: skip

_SUBTITLE_TIME = re.compile(r"^(?:\d+:)?\d{1,2}:\d{2}[.,]\d{3}[ \t]*-->", re.MULTILINE)
_LRC_TIME = re.compile(r"\[(\d{1,3}):(\d{1,2}(?:[.:]\d{1,3})?)\]")
_LRC_WORD_TIME = re.compile(r"<\d{1,3}:\d{1,2}(?:[.:]\d{1,3})?>[ \t]?")
_LRC_TAG = re.compile(r"\[(?:ti|ar|al|au|by|re|ve|la|id|lr|tool|offset|length|encoding|#):[^\]]*\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Lyrics:
    """Lyrics without times, and the start of each line in seconds; no times if there were none."""

    text: str
    line_times_s: list[float] = field(default_factory=list)


def is_empty(lyrics: str) -> bool:
    """Whether ``lyrics`` are empty, or only state that there are none, such as "(instrumental)" and "no lyrics"."""
    return re.sub(r"[\W_]+", " ", lyrics).strip().casefold() in _NO_LYRICS


def read_lyrics(content: str) -> Lyrics:
    """The lyrics of a text in any of the formats: plain, LRC, SRT or VTT."""
    if _SUBTITLE_TIME.search(content):
        return _read_subtitles(content)
    if _LRC_TIME.search(content):
        return _read_lrc(content)
    return Lyrics(content)


def _read_subtitles(content: str) -> Lyrics:
    try:
        events = list(pysubs2.SSAFile.from_string(content, format_="vtt" if "WEBVTT" in content[:64] else "srt"))
    except pysubs2.Pysubs2Error:
        return Lyrics(content)
    lines, times_s = [], []
    for event in events:
        for line in filter(None, map(str.strip, event.plaintext.splitlines())):
            lines.append(line)
            times_s.append(event.start / 1000)
    return Lyrics("\n".join(lines), times_s)


def _read_lrc(content: str) -> Lyrics:
    """A line without a time, such as a section tag, gets that of the next line."""
    timed: list[tuple[float | None, str]] = []
    for line in content.strip().split("\n"):
        times = [60 * int(minutes) + float(seconds.replace(":", ".")) for minutes, seconds in _LRC_TIME.findall(line)]
        text = _LRC_WORD_TIME.sub("", _LRC_TIME.sub("", line)).strip()
        if not times and _LRC_TAG.fullmatch(text):
            continue
        timed += [(time_s, text) for time_s in (times or (None,))]  # a repeated line has several times
    following = 0.0
    starts = []
    for time_s, _ in reversed(timed):
        following = time_s if time_s is not None else following
        starts.append(following)
    pairs = [(start, text) for start, (_, text) in zip(reversed(starts), timed, strict=True)]
    if any(len(_LRC_TIME.findall(line)) > 1 for line in content.split("\n")):
        pairs.sort(key=lambda pair: pair[0])
    while pairs and not pairs[-1][1]:
        pairs.pop()
    return Lyrics("\n".join(text for _, text in pairs), [start for start, _ in pairs])
