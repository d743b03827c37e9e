"""Parsing free text of models: stated values are found, nothing is invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.audio.analysis import key_number
from acestep.captioning.parse import (
    GENRES,
    parse_answer,
    parse_bpm,
    parse_genre,
    parse_key,
    parse_timesignature,
    strip_role,
)

VOCABULARY = [f"{note}{sign} {mode}" for note in "ABCDEFG" for sign in ("", "#", "b") for mode in ("Major", "Minor")]

# Templates of captions with a key.
WITH_KEY = [
    "A calm piece.\nkey: {note} {mode}\ntime_signature: 4\ngenre: jazz",
    "Text.\n**Key:** {note} {mode}",
    "- key: **{note} {mode}**",
    "Key = {note} {mode}, slow",
    "The song is in the key of {note} {mode} and moves slowly.",
    "Set in {note} {mode} at 120 BPM.",
    "A piano ballad, {note} {mode}, with strings.",
    "The tonality is {note}-{mode}, I am sure.",
    "in {note} natural {mode}",
    "key: the whole song stays in {note} {mode}",
]
WITHOUT_KEY = [
    "FM synth pads and AM radio voices.",
    "I am in a major way moved by this minor miracle.",
    "A major step forward for the band.",
    "It ends. A minor detail is the tambourine.",
    "\u201cA major label debut\u201d\nA minor hit in 1984",
    "The chords are Am, F, C and G.",
    "It opens on a C minor chord and an E major triad.",
    "key: <note> <major or minor>",
    "key: beautiful minor thirds",
    "key: unknown",
    "Key: H minor",
    "a b-side, a D-beat and a G-funk lead",
    "The key of the song is hope. Dim lights, big drums, 24/7.",
    "em dashes, do re mi, e minor",
    "",
]
FILLER = st.sampled_from([sentence for sentence in WITHOUT_KEY if not sentence.lower().startswith("key")])


def spellings(key):
    note, mode = key.split()
    signs = {"#": ["#", "\u266f", " sharp", "-sharp"], "b": ["b", "\u266d", " flat", "-flat"]}.get(note[1:], [""])
    return [(note[0] + sign, word) for sign in signs for word in (mode, mode.lower(), mode.lower()[:3])]


@given(st.sampled_from(VOCABULARY), st.sampled_from(WITH_KEY), FILLER, st.data())
def test_every_key_is_found_in_every_spelling(key, sentence, filler, data):
    note, mode = data.draw(st.sampled_from(spellings(key)))
    assert parse_key(f"{filler}\n{sentence.format(note=note, mode=mode)}") == key


@pytest.mark.parametrize("text", WITHOUT_KEY)
def test_text_without_a_key_gives_no_key(text):
    assert parse_key(text) == ""


@given(st.text(max_size=200), st.sampled_from(WITHOUT_KEY + WITH_KEY))
def test_the_result_is_a_valid_key_or_empty(noise, sentence):
    for text in (noise, f"{noise}\n{sentence}", f"key: {noise}"):
        found = parse_key(text)
        assert found == "" or key_number(found) is not None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("key: Dm\ntime_signature: 4/4", "D Minor"),
        ("key: F#m", "F# Minor"),
        ("key: d minor", "D Minor"),
        ("key: CM", "C Major"),
        ("key: D (sounds minor)", "D Minor"),
        ("a groove in F#m", "F# Minor"),
        ("A minor, 96 BPM", "A Minor"),
        ("The song is A minor.", "A Minor"),
        ("key: Ais moll", ""),
    ],
)
def test_abbreviated_keys_are_found_after_a_label_or_preposition(text, key):
    assert parse_key(text) == key


@pytest.mark.parametrize(
    ("text", "beats"),
    [
        ("time_signature: 4", "4"),
        ("**Time Signature:** 6/8", "6"),
        ("time signature: 3/4", "3"),
        ("a waltz in 3/4 time", "3"),
        ("its time signature is 7", "7"),
        ("time_signature: <beats in a bar>", ""),
        ("open 24/7, 3/4 of the songs, 10/10, 1/2, 2024/04/08", ""),
        ("", ""),
    ],
)
def test_fractions_and_dates_are_not_time_signatures(text, beats):
    assert parse_timesignature(text) == beats


@pytest.mark.parametrize(
    ("text", "bpm"),
    [("tempo: 120 BPM", 120), ("bpm: ~95", 95), ("at 128 bpm", 128), ("808 bass at 44.1 kHz", None), ("9 BPM", None)],
)
def test_a_tempo_requires_a_label_or_unit(text, bpm):
    assert parse_bpm(text) == bpm


@pytest.mark.parametrize(
    ("text", "genre"),
    [
        ("genre: Electronic Pop music", "Electronic Pop"),
        ("Genres: [rock, pop, folk and a little bit of jazz]", "rock"),
        ("genre: <genre>\nA smooth jazz trio", "jazz"),
        ("genre: N/A", ""),
        ("popular, rocking reggaeton", "reggaeton"),
        ("drum and bass", "drum and bass"),
        ("housekeeping rapidly", ""),
    ],
)
def test_a_genre_is_a_labeled_value_or_a_separate_word(text, genre):
    assert parse_genre(text) == genre


@given(st.sampled_from(GENRES))
def test_every_known_genre_is_found(genre):
    assert parse_genre(f"A slow {genre} tune.") in (genre, *(part for part in GENRES if part in genre))


def test_an_answer_is_split_into_caption_and_metadata():
    answer = parse_answer(
        "assistant\nA calm piece.\n\n\n\nIt grows.\n\nkey: C\u266f minor\ntime_signature: 3/4\ngenre: folk"
    )
    assert answer.caption == "A calm piece.\n\nIt grows."
    assert (answer.keyscale, answer.timesignature, answer.genre) == ("C# Minor", "3", "folk")


def test_metadata_lines_before_the_caption_are_removed_from_it():
    answer = parse_answer("key: C major\ntime_signature: 4\ngenre: pop\nA bright tune with whistling.")
    assert answer.caption == "A bright tune with whistling."
    assert answer.keyscale == "C Major"


def test_metadata_is_searched_in_an_answer_without_metadata_lines():
    answer = parse_answer("An electronic pop track in D minor, 6/8, at 96 BPM.")
    assert answer.caption == "An electronic pop track in D minor, 6/8, at 96 BPM."
    assert (answer.keyscale, answer.timesignature, answer.genre, answer.bpm) == ("D Minor", "6", "electronic pop", 96)


def test_an_answer_that_repeats_the_placeholders_has_no_values():
    answer = parse_answer("key: <note> <major or minor>\ntime_signature: <beats in a bar>\ngenre: <genre>")
    assert (answer.caption, answer.keyscale, answer.timesignature, answer.genre) == ("", "", "", "")


@given(st.text(max_size=300))
def test_any_text_is_parsed(text):
    answer = parse_answer(text)
    assert answer.keyscale in ("", *VOCABULARY)
    assert answer.timesignature in ("", *map(str, range(2, 13)))
    assert strip_role(strip_role(text)) == strip_role(text) or "assistant" in text.lower()
