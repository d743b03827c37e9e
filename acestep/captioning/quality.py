"""Check captions before training, without a model: missing, duplicate and contradictory captions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from acestep.audio.analysis import same_key
from acestep.captioning.parse import parse_bpm, parse_key, parse_timesignature
from acestep.dataset.labels import UNKNOWN_LANGUAGE, is_failure, is_sung
from acestep.dataset.sample import Dataset, Sample

MAX_WORDS, MAX_LETTERS = 150, 1000  # the text encoder truncates a caption to 256 tokens
MIN_WORDS = 3
_MIN_SIMILARITY = 0.85  # Jaccard index of the words of two captions
_BPM_TOLERANCE = 0.04  # relative

_ANSWER_FORMAT = re.compile(r"<[a-z ]{2,30}>|^\s*(?:key|time_signature|genre)\s*:", re.IGNORECASE | re.MULTILINE)
_INSTRUMENTAL = re.compile(r"\b(?:instrumental|no (?:vocals?|singing|voices?)|without (?:vocals?|singing))\b", re.I)
_SCRIPTS = {
    "zh": r"[\u4e00-\u9fff]",
    "yue": r"[\u4e00-\u9fff]",
    "ja": r"[\u3040-\u30ff\u4e00-\u9fff]",
    "ko": r"[\uac00-\ud7af]",
    "ru": r"[\u0400-\u04ff]",
    "uk": r"[\u0400-\u04ff]",
    "bg": r"[\u0400-\u04ff]",
    "sr": r"[A-Za-z\u0100-\u024f\u0400-\u04ff]",
    "el": r"[\u0370-\u03ff]",
    "ar": r"[\u0600-\u06ff]",
    "fa": r"[\u0600-\u06ff]",
    "ur": r"[\u0600-\u06ff]",
    "he": r"[\u0590-\u05ff]",
    "hi": r"[\u0900-\u097f]",
    "th": r"[\u0e00-\u0e7f]",
}
_LATIN = r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]"
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem in the labels of a song. ``kind`` is a key of ``KINDS``."""

    kind: str
    song: str
    message: str


KINDS = {
    "empty": "no caption",
    "error": "an error message in place of a caption",
    "short": "caption too short",
    "long": "caption too long",
    "duplicate": "duplicate caption",
    "leftover": "leftover metadata lines of the captioner",
    "bpm": "tempo differs from the label",
    "key": "key differs from the label",
    "meter": "time signature differs from the label",
    "voice": "instrumental caption, but lyrics present",
    "language": "script of the lyrics does not match the language",
}


def check_captions(dataset: Dataset) -> list[Finding]:
    """All findings in the order of the songs, duplicates last."""
    findings = [Finding(kind, song.name, text) for song in dataset.samples for kind, text in _check_song(song)]
    return findings + _duplicates(dataset.samples)


def format_report(findings: list[Finding], num_songs: int) -> str:
    """The findings as text: the count of each kind, then one line per finding."""
    if not findings:
        return f"{num_songs} songs checked, no problems found"
    counts = Counter(finding.kind for finding in findings)
    songs = len({finding.song for finding in findings})
    lines = [f"{songs} of {num_songs} songs have problems:"]
    lines += [f"  {counts[kind]} x {meaning}" for kind, meaning in KINDS.items() if counts[kind]]
    return "\n".join([*lines, "", *(f"{finding.song}: {finding.message}" for finding in findings)])


def _check_song(song: Sample) -> Iterator[tuple[str, str]]:
    caption = song.caption.strip()
    if not caption:
        yield "empty", "has no caption"
    elif is_failure(caption):
        yield "error", f"the caption is an error message: {caption[:60]}"
    else:
        yield from _check_caption(caption)
        yield from _compare_with_labels(caption, song)
    if is_sung(song.lyrics) and (wrong := _wrong_script(song.lyrics, song.language)):
        yield "language", wrong


def _check_caption(caption: str) -> Iterator[tuple[str, str]]:
    words = len(caption.split())
    if words < MIN_WORDS and len(caption) < 12:
        yield "short", f"the caption is only {caption!r}"
    if words > MAX_WORDS or len(caption) > MAX_LETTERS:
        yield "long", f"the caption has {words} words; the text encoder truncates it after about {MAX_WORDS}"
    if found := _ANSWER_FORMAT.search(caption):
        yield "leftover", f"the caption contains {found[0].strip()!r} from the captioner's answer format"


def _compare_with_labels(caption: str, song: Sample) -> Iterator[tuple[str, str]]:
    tempo = parse_bpm(caption)
    if tempo and song.bpm and min(abs(song.bpm * factor / tempo - 1) for factor in (0.5, 1, 2)) > _BPM_TOLERANCE:
        yield "bpm", f"the caption says {tempo} BPM, the label {song.bpm}"
    key = parse_key(caption)
    if key and song.keyscale and not same_key(key, song.keyscale):
        yield "key", f"the caption says {key}, the label {song.keyscale}"
    meter = parse_timesignature(caption)
    if meter and song.timesignature and meter != song.timesignature:
        yield "meter", f"the caption says {meter} beats in a bar, the label {song.timesignature}"
    if _INSTRUMENTAL.search(caption) and is_sung(song.lyrics):
        yield "voice", "the caption says instrumental, but there are lyrics"


def _wrong_script(lyrics: str, language: str) -> str:
    """A message if most letters are not in the script of ``language``, else an empty string."""
    text = re.sub(r"\[[^\]\n]*\]", "", lyrics)
    letters = len(_LETTER.findall(text))
    if not letters or language in ("", UNKNOWN_LANGUAGE, "instrumental"):
        return ""
    matching = len(re.findall(_SCRIPTS.get(language, _LATIN), text))
    known = language in _SCRIPTS or len(re.findall("|".join(_SCRIPTS.values()), text)) > letters / 2
    return f"the language is {language}, but the lyrics use another script" if known and matching < letters / 2 else ""


def _duplicates(songs: list[Sample]) -> list[Finding]:
    """Songs with the same or nearly the same caption as an earlier song."""
    findings: list[Finding] = []
    by_word: dict[str, list[int]] = defaultdict(list)
    kept: list[tuple[Sample, set[str]]] = []
    for song in songs:
        words = set(re.findall(r"\w+", song.caption.lower()))
        if not words:
            continue
        shared = Counter(index for word in words for index in by_word[word])
        original = next(
            (i for i, common in shared.most_common() if common / len(words | kept[i][1]) >= _MIN_SIMILARITY), None
        )
        if original is not None:
            findings.append(Finding("duplicate", song.name, f"nearly the same caption as {kept[original][0].name}"))
        for word in words:
            by_word[word].append(len(kept))
        kept.append((song, words))
    return findings
