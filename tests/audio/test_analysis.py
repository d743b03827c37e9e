"""Tempo, meter and key of synthesized songs; ``python -m dev.analysis_accuracy`` measures many more."""

from __future__ import annotations

import numpy as np
import pytest

from acestep.audio.analysis import MAJOR_KEYS, MINOR_KEYS, analyse, key_number, same_key
from dev.analysis_accuracy import compare_key, compare_tempo, evaluate
from tests.synth_songs import KEYS, RATE_HZ, Song, play

SONGS = [
    Song("rock", 118, "E Minor", 11),
    Song("house", 124, "A Minor", 12),
    Song("ballad", 66, "A# Major", 13),
    Song("drum and bass", 172, "F Minor", 14),
    Song("piano", 96, "G Major", 15),
    Song("waltz", 150, "D Major", 16),
    Song("folk in three", 90, "C Minor", 17),
    Song("slow six eight", 70, "F# Minor", 18),
    Song("jig", 112, "D# Major", 19),
]


def test_tempo_meter_and_key_are_correct_for_several_styles():
    results = evaluate(SONGS)
    assert [(r.song.style, r.tempo, r.meter) for r in results] == [(s.style, "exact", True) for s in SONGS]
    assert sum(r.key == "exact" for r in results) >= 8


def test_the_half_or_double_tempo_is_an_alternative():
    found = analyse(play(Song("rock", 100, "C Major", 3)), RATE_HZ)
    assert found.bpm == pytest.approx(100, rel=0.01)
    assert any(
        other == pytest.approx(200, rel=0.01) or other == pytest.approx(50, rel=0.01)
        for other in found.bpm_alternatives
    )


@pytest.mark.parametrize(
    "song",
    [Song("bossa nova", 115.2, "C# Minor", 40), Song("metal", 180.4, "C Minor", 29)],
    ids=lambda song: song.style,
)
def test_a_tempo_with_about_two_notes_per_beat_is_not_halved_or_doubled(song):
    assert analyse(play(song), RATE_HZ).bpm == pytest.approx(song.bpm, rel=0.01)


@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_the_result_is_the_same_at_other_sample_rates_and_in_stereo(rate):
    song = Song("ballad", 72, "A Minor", 5)
    wave = play(song)
    time = np.arange(int(len(wave) * rate / RATE_HZ)) / rate
    resampled = np.interp(time, np.arange(len(wave)) / RATE_HZ, wave).astype(np.float32)
    found = analyse(np.stack([resampled, resampled * 0.5]), rate)
    assert found.bpm == pytest.approx(72, rel=0.01)
    assert same_key(found.keyscale, "A Minor")
    assert found.duration_s == pytest.approx(30, abs=0.01)


@pytest.mark.parametrize(
    "audio", [np.zeros(RATE_HZ * 30), np.ones(RATE_HZ * 30), np.zeros(0), np.zeros((2, 100))], ids=str
)
def test_silence_has_no_tempo_key_or_meter(audio):
    found = analyse(audio.astype(np.float32), RATE_HZ)
    assert (found.bpm, found.keyscale, found.timesignature) == (None, "", "")


def test_noise_has_a_low_confidence_and_a_constant_tone_has_no_tempo():
    noise = analyse(np.random.default_rng(0).standard_normal(RATE_HZ * 30).astype(np.float32), RATE_HZ)
    tone = analyse(np.sin(np.arange(RATE_HZ * 30) * 2 * np.pi * 440 / RATE_HZ).astype(np.float32), RATE_HZ)
    assert noise.bpm_confidence < 0.1
    assert noise.key_confidence < 0.3
    assert tone.bpm is None


def test_audio_that_is_too_short_has_only_a_duration():
    found = analyse(play(Song("rock", 120, "C Major", 1, seconds=5)), RATE_HZ)
    assert found.duration_s == 5
    assert found.bpm is None


def test_enharmonically_equal_keys_are_the_same():
    assert same_key("Db Major", "C# Major")
    assert same_key("Cb Major", "B Major")
    assert not same_key("C Major", "A Minor")
    assert not same_key("H Major", "C Major")
    assert key_number("") is None
    assert {key_number(f"{note} Major") for note in MAJOR_KEYS} == set(range(12))
    assert {key_number(f"{note} Minor") for note in MINOR_KEYS} == set(range(12, 24))
    assert len({key_number(key) for key in KEYS}) == 24


@pytest.mark.parametrize(
    ("truth", "measured", "relation"),
    [
        ("C Major", "A Minor", "relative"),
        ("A Minor", "C Major", "relative"),
        ("C Major", "C Minor", "parallel"),
        ("C Major", "G Major", "fifth"),
        ("C Major", "D Major", "other"),
        ("C Major", "", "other"),
    ],
)
def test_the_evaluation_reports_how_two_keys_are_related(truth, measured, relation):
    assert compare_key(truth, measured) == relation


def test_the_evaluation_counts_octave_errors_separately():
    assert [compare_tempo(120, bpm) for bpm in (122, 60, 240, 90, None)] == [
        "exact",
        "half",
        "double",
        "other",
        "other",
    ]
