"""Keys, time signatures, tempi and languages in the spellings of people and programs."""

from __future__ import annotations

from typing import Any

import pytest

from acestep.dataset.labels import parse_bpm, parse_language
from acestep.dataset.music_values import parse_key, parse_time_signature

KEYS = {
    "C Major": "C Major", "C major": "C major", "a minor": "A Minor", "Am": "A Minor", "AM": "A Major",
    "Emin": "E Minor", "C": "C Major",
    "Key of D": "D Major", "key: A minor": "A Minor", "C_major": "C Major", "D aeolian": "D Minor",
    "Bb": "Bb Major", "B♭ major": "Bb Major", "C♯ Minor": "C# Minor", "F#m": "F# Minor", "C sharp minor": "C# Minor",
    "8A": "A Minor", "8B": "C Major", "5A": "C Minor", "12B": "E Major", "1m": "A Minor", "2d": "G Major",
    "h-moll": "B Minor", "B-Dur": "Bb Major", "b-moll": "Bb Minor", "Cis-Dur": "C# Major", "Es-Dur": "Eb Major",
    "Ré bémol majeur": "Db Major", "la mineur": "A Minor", "Fa diesis minore": "F# Minor", "sol menor": "G Minor",
    "до-диез минор": "C# Minor", "си-бемоль мажор": "Bb Major", "升F小调": "F# Minor", "降E大调": "Eb Major",
    "a小调": "A Minor", "嬰ハ短調": "C# Minor", "変ロ長調": "Bb Major", "올림바단조": "F# Minor", "": "",
}  # fmt: skip
METERS = {
    "4/4": "4", "4, 4": "4", "4 4": "4", "4:4": "4", "waltz": "3", "four": "4", "6/8": "6", "\u00be": "3", "in 3": "3",
    "common time": "4", "cut time": "2", "3/4 time": "3", 3: "3", 4.0: "4", (4, 4): "4", "": "",
}  # fmt: skip
LANGUAGES = {
    "English": "en", "EN": "en", "en-US": "en", "zh-CN": "zh", "zh_TW": "zh", "中文": "zh", "粤语": "yue",
    "Deutsch": "de", "Français": "fr", "日本語": "ja", "한국어": "ko",
    "Portuguese (Brazil)": "pt", "русский": "ru", "nb": "no",
    "unknown": "unknown", "instrumental": "unknown", "": "unknown",
}  # fmt: skip
TEMPI = {
    "128.5 BPM": 129,
    "120,4": 120,
    "~120": 120,
    "ca. 90 bpm": 90,
    "♩ = 60": 60,
    "１２０": 120,
    99.6: 100,
    "": None,
}


@pytest.mark.parametrize("text", KEYS)
def test_a_key_is_converted(text: str) -> None:
    assert parse_key(text) == KEYS[text]


@pytest.mark.parametrize("value", ["5", 5, "0A", "13A", "D dorian", "atonal", "C major then A minor", "Am7", "x"])
def test_another_text_is_not_a_key(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a major or minor key"):
        parse_key(value)


@pytest.mark.parametrize("value", METERS)
def test_a_time_signature_is_converted(value: Any) -> None:
    assert parse_time_signature(value) == METERS[value]


@pytest.mark.parametrize("value", ["0", "5/4", "12/8", "4/5", "free", 7])
def test_a_time_signature_that_the_model_does_not_know_is_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match="must be one of 2, 3, 4, 6"):
        parse_time_signature(value)


@pytest.mark.parametrize("text", LANGUAGES)
def test_a_language_is_converted(text: str) -> None:
    assert parse_language(text) == LANGUAGES[text]


@pytest.mark.parametrize("text", ["Klingon", "et", "xx"])
def test_a_language_that_the_model_does_not_know_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="must be a language that the model knows"):
        parse_language(text)


@pytest.mark.parametrize("value", TEMPI)
def test_a_tempo_is_converted(value: Any) -> None:
    assert parse_bpm(value) == TEMPI[value]
