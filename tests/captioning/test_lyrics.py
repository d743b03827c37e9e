"""Lyrics: parsing answers, word timestamps, and joining windows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.captioning.lyrics import format_lyrics, join_lyrics, parse_lyrics
from acestep.captioning.schema import Lyrics
from acestep.captioning.word_timestamps import Word, lines_from_words, read_words
from acestep.dataset.languages import language_code

LINES = [
    "the lamps are lit along the bay",
    "and every boat has gone away",
    "I count the windows one by one",
    "till nothing moves beneath the sun",
    "oh bring them home",
    "a letter waits upon the stair",
    "with salt and tobacco in the air",
    "who wrote it I will never know",
    "it only says the winds will blow",
    "sleep now",
]


def sung(text, language="en"):
    return Lyrics(text, language)


@pytest.mark.parametrize(
    ("answer", "text", "language"),
    [
        ("# Languages\nen\n\n# Lyrics\n[Verse 1]\nHi\n\n\n\n[Chorus]\nYou", "[Verse 1]\nHi\n\n[Chorus]\nYou", "en"),
        ("# Languages\nEnglish, zh\n# Lyrics\nHi", "[Verse]\nHi", "en"),
        ("Languages: Deutsch\nLyrics:\nHallo", "[Verse]\nHallo", "de"),
        ("# Languages\nzh\n# Lyrics\n[Intro]\n[Verse]\n\u4f60\u597d", "[Intro]\n[Verse]\n\u4f60\u597d", "zh"),
        ("I hear a song:\n[Pre-Chorus]\nla", "[Pre-Chorus]\nla", "unknown"),
        ("just a line", "[Verse]\njust a line", "unknown"),
        ("# Languages\nunknown\n# Lyrics\n[Instrumental]", "[Instrumental]", "unknown"),
        ("instrumental", "[Instrumental]", "unknown"),
        ("[Intro]\n[Guitar Solo]\n[Outro]", "[Instrumental]", "unknown"),
        ("", "[Instrumental]", "unknown"),
    ],
)
def test_a_transcribers_answer_is_parsed_with_and_without_headings(answer, text, language):
    found = parse_lyrics(answer)
    assert (found.text, found.language) == (text, language)


def test_repeated_lines_are_limited_to_eight():
    text = format_lyrics("[Verse]\n" + "la la\n" * 400 + "the end")
    assert text.count("la la") == 8
    assert text.endswith("the end")


@given(st.text(max_size=200))
def test_any_text_is_parsed_and_the_lyrics_have_a_section_tag(answer):
    assert parse_lyrics(answer).text.lstrip().startswith("[") or "[" in parse_lyrics(answer).text


@given(st.integers(1, 9), st.integers(0, 4))
def test_lines_in_the_overlap_of_two_windows_are_kept_once(cut, overlap):
    first = "[Verse]\n" + "\n".join(LINES[:cut])
    second = "[Verse]\n" + "\n".join(LINES[max(0, cut - overlap) :])
    assert join_lyrics([sung(first), sung(second)]).text == "[Verse]\n" + "\n".join(LINES)


def test_similar_lines_in_the_overlap_are_kept_once():
    first = sung("[Verse]\nThe lamps are lit along the bay\nAnd every boat has gone")
    second = sung("[Verse]\nand every boat's gone,\nOh bring them home")
    assert join_lyrics([first, second]).text.split("\n") == [
        "[Verse]",
        "The lamps are lit along the bay",
        "And every boat has gone",
        "Oh bring them home",
    ]


def test_a_truncated_line_is_replaced_by_the_complete_line():
    first = sung("[Verse]\nThe lamps are lit along the bay\nAnd every boat")
    second = sung("[Verse]\nAnd every boat has gone away\n\n[Chorus]\nHome")
    joined = join_lyrics([first, second]).text
    assert joined == "[Verse]\nThe lamps are lit along the bay\nAnd every boat has gone away\n\n[Chorus]\nHome"


def test_a_repeated_chorus_is_not_an_overlap():
    first = sung("[Chorus]\nHome\n\n[Verse]\nSecond words")
    second = sung("[Verse]\nThird words\n\n[Chorus]\nHome")
    assert join_lyrics([first, second]).text.count("Home") == 2


def test_instrumental_windows_are_skipped_and_the_language_is_the_most_frequent_one():
    instrumental = Lyrics("[Instrumental]")
    joined = join_lyrics(
        [instrumental, sung("[Verse]\nhi", "fr"), instrumental, sung("[Verse]\na good deal more text here", "en")]
    )
    assert joined.language == "en"
    assert "Instrumental" not in joined.text
    assert join_lyrics([instrumental, instrumental]).is_instrumental
    assert not join_lyrics([sung("[Verse]\nhi"), Lyrics("[Verse]\nyou", complete=False)]).complete


def words(text, gap=0.1, long=0.3):
    """Words of ``long`` seconds, ``gap`` seconds apart. ``|`` is a pause of 1 s, ``/`` a pause of 6 s."""
    found, now = [], 0.0
    for token in text.split():
        if token in "|/":
            now += 1.0 if token == "|" else 6.0
            continue
        found.append(Word(token, now, now + long))
        now += long + gap
    return found


def test_a_pause_ends_a_line_and_a_long_pause_ends_a_section():
    assert lines_from_words(words("Hold me now | again / tomorrow then")) == (
        "[Verse]\nHold me now\nagain\n\n[Verse]\ntomorrow then"
    )


def test_long_lines_are_wrapped():
    lines = lines_from_words(words("singing " * 60)).split("\n")
    assert len(lines) > 6
    assert max(map(len, lines)) <= 60


def test_chinese_and_japanese_words_are_joined_without_spaces_unlike_korean():
    assert (
        lines_from_words(words("\u6211 \u7231 \u4f60 | \u4f60 \u597d")) == "[Verse]\n\u6211\u7231\u4f60\n\u4f60\u597d"
    )
    assert lines_from_words(words("\u541b \u304c \u597d\u304d \u3060")) == "[Verse]\n\u541b\u304c\u597d\u304d\u3060"
    assert lines_from_words(words("\uc0ac\ub791\ud574 \ub108\ub97c")) == "[Verse]\n\uc0ac\ub791\ud574 \ub108\ub97c"
    assert lines_from_words(words("\u6211 love you \u4f60")) == "[Verse]\n\u6211love you\u4f60"


def test_a_shorter_pause_ends_a_line_in_chinese_and_korean():
    assert lines_from_words(words("\u6211 \u7231", gap=0.6)) == "[Verse]\n\u6211\n\u7231"
    assert lines_from_words(words("\uc0ac\ub791 \ub108", gap=0.6)) == "[Verse]\n\uc0ac\ub791\n\ub108"
    assert lines_from_words(words("hold me", gap=0.6)) == "[Verse]\nhold me"


def test_punctuation_follows_its_word_without_a_space():
    assert lines_from_words(words("Hold me , now !")) == "[Verse]\nHold me, now!"


def test_words_are_read_from_dictionaries_and_objects_without_audio_events():
    items = [
        {"word": " Hold", "start": 0, "end": 0.5},
        SimpleNamespace(word="me", start=0.5, end=0.9),
        {"text": " ", "type": "spacing", "start": 0.9, "end": 0.9},
        {"text": "(laughs)", "type": "audio_event", "start": 1, "end": 2},
        {"text": "now", "type": "word", "start": None, "end": None},
        {"word": "", "start": 3, "end": 4},
    ]
    assert read_words(items) == [Word("Hold", 0, 0.5), Word("me", 0.5, 0.9), Word("now", 0.9, 0.9)]


def test_text_without_timestamps_is_used_and_an_empty_result_is_instrumental():
    assert lines_from_words([], " la la ") == "[Verse]\nla la"
    assert lines_from_words([]) == "[Instrumental]"


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.floats(0, 100), st.floats(0, 5)), max_size=30))
def test_no_character_is_lost(timed):
    found = read_words({"word": text, "start": start, "end": start + length} for text, start, length in timed)
    lyrics = lines_from_words(found)
    kept = "".join(lyrics.replace("[Verse]", "").split())
    expected = "".join("".join(word.text.split()) for word in found).replace("[Verse]", "")
    assert kept == expected or not found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("english", "en"), ("English", "en"), ("eng", "en"), ("en-US", "en"), ("zh_Hant", "zh"), ("Mandarin", "zh"),
        ("cantonese", "yue"), ("jpn", "ja"), ("korean", "ko"), ("", "unknown"), ("Klingon", "unknown"),
    ],
)  # fmt: skip
def test_language_names_are_converted_to_codes(name, code):
    assert language_code(name) == code
