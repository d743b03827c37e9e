"""A look at captions before they are trained on, without any model: what is missing, doubled, or contradicts itself."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from acestep.audio.analysis import same_key
from acestep.captioning.parse import parse_bpm, parse_key, parse_timesignature
from acestep.dataset.labels import UNKNOWN_LANGUAGE, is_failure, is_sung
from acestep.dataset.sample import Dataset, Sample

MAX_WORDS, MAX_LETTERS = 150, 1000  # the text encoder reads 256 tokens; the rest of a longer caption is cut off
MIN_WORDS = 3
_MIN_SIMILARITY = 0.85  # share of words that two captions have in common
_TOLERANCE = 0.04

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
    """Something about a song's labels that its owner should look at. ``kind`` is one of ``KINDS``."""

    kind: str
    song: str
    message: str


KINDS = {
    "empty": "no caption",
    "error": "an error message in place of a caption",
    "short": "hardly a caption",
    "long": "longer than the model reads",
    "duplicate": "the caption of another song",
    "leftover": "parts of the captioner's form",
    "bpm": "another tempo than the label",
    "key": "another key than the label",
    "meter": "another time signature than the label",
    "voice": "caption and lyrics disagree on whether someone sings",
    "language": "lyrics in another script than the language has",
}


def check_captions(dataset: Dataset) -> list[Finding]:
    """Everything doubtful, song by song, duplicates last."""
    findings = [Finding(kind, song.name, text) for song in dataset.samples for kind, text in _check_song(song)]
    return findings + _duplicates(dataset.samples)


def format_report(findings: list[Finding], num_songs: int) -> str:
    """The findings for people: a count of each kind, then each song."""
    if not findings:
        return f"{num_songs} songs, nothing to complain about"
    counts = Counter(finding.kind for finding in findings)
    songs = len({finding.song for finding in findings})
    lines = [f"{songs} of {num_songs} songs are worth a look:"]
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
        yield "long", f"the caption has {words} words; after about {MAX_WORDS} they are cut off"
    if found := _ANSWER_FORMAT.search(caption):
        yield "leftover", f"the caption holds {found[0].strip()!r} from the captioner's form"


def _compare_with_labels(caption: str, song: Sample) -> Iterator[tuple[str, str]]:
    tempo = parse_bpm(caption)
    if tempo and song.bpm and min(abs(song.bpm * factor / tempo - 1) for factor in (0.5, 1, 2)) > _TOLERANCE:
        yield "bpm", f"the caption says {tempo} BPM, the label {song.bpm}"
    key = parse_key(caption)
    if key and song.keyscale and not same_key(key, song.keyscale):
        yield "key", f"the caption says {key}, the label {song.keyscale}"
    meter = parse_timesignature(caption)
    if meter and song.timesignature and meter != song.timesignature:
        yield "meter", f"the caption says {meter} beats in a bar, the label {song.timesignature}"
    if _INSTRUMENTAL.search(caption) and is_sung(song.lyrics):
        yield "voice", "the caption says that nobody sings, but there are lyrics"


def _wrong_script(lyrics: str, language: str) -> str:
    """A sentence if most letters are not of the script that ``language`` is written in."""
    text = re.sub(r"\[[^\]\n]*\]", "", lyrics)
    letters = len(_LETTER.findall(text))
    if not letters or language in ("", UNKNOWN_LANGUAGE, "instrumental"):
        return ""
    own = len(re.findall(_SCRIPTS.get(language, _LATIN), text))
    known = language in _SCRIPTS or len(re.findall("|".join(_SCRIPTS.values()), text)) > letters / 2
    return f"the language is {language}, but the lyrics are written otherwise" if known and own < letters / 2 else ""


def _duplicates(songs: list[Sample]) -> list[Finding]:
    """Songs whose caption is word for word, or nearly, that of an earlier one."""
    findings: list[Finding] = []
    by_word: dict[str, list[int]] = defaultdict(list)
    kept: list[tuple[Sample, set[str]]] = []
    for song in songs:
        words = set(re.findall(r"\w+", song.caption.lower()))
        if not words:
            continue
        near = Counter(index for word in words for index in by_word[word])
        twin = next(
            (i for i, common in near.most_common() if common / len(words | kept[i][1]) >= _MIN_SIMILARITY), None
        )
        if twin is not None:
            findings.append(Finding("duplicate", song.name, f"nearly the same caption as {kept[twin][0].name}"))
        for word in words:
            by_word[word].append(len(kept))
        kept.append((song, words))
    return findings
