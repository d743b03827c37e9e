"""Checks of captions before training."""

from __future__ import annotations

import pytest

from acestep.captioning.quality import KINDS, check_captions, format_report
from acestep.dataset.sample import Dataset, Sample

GOOD = "Driving synthwave with gated drums, a warm bass and a soaring lead over wide pads."


def found(*songs):
    samples = [Sample(filename=f"{number}.wav", **song) for number, song in enumerate(songs)]
    return [(finding.kind, finding.song) for finding in check_captions(Dataset(samples=samples))]


def test_good_captions_give_no_finding():
    assert found({"caption": GOOD, "bpm": 118, "keyscale": "F# Minor", "timesignature": "4"}) == []
    assert format_report([], 1) == "1 songs checked, no problems found"


@pytest.mark.parametrize(
    ("song", "kind"),
    [
        ({"caption": "  "}, "empty"),
        ({"caption": "Error: CUDA out of memory"}, "error"),
        ({"caption": "music"}, "short"),
        ({"caption": "word " * 200}, "long"),
        ({"caption": f"{GOOD}\nkey: D Minor"}, "leftover"),
        ({"caption": f"{GOOD} <genre>"}, "leftover"),
        ({"caption": f"{GOOD} at 120 BPM", "bpm": 92}, "bpm"),
        ({"caption": f"{GOOD} in D minor", "keyscale": "F Major"}, "key"),
        ({"caption": f"{GOOD} in 3/4", "timesignature": "4"}, "meter"),
        ({"caption": f"An instrumental. {GOOD}", "lyrics": "[Verse]\nla la"}, "voice"),
        ({"caption": GOOD, "lyrics": "[Verse]\n\u4f60\u597d\u4f60\u597d", "language": "en"}, "language"),
        ({"caption": GOOD, "lyrics": "[Verse]\nhello my friend", "language": "zh"}, "language"),
        ({"caption": GOOD, "lyrics": "[Verse]\n\uc0ac\ub791\ud574", "language": "ja"}, "language"),
    ],
)
def test_every_kind_of_problem_is_found(song, kind):
    assert found(song) == [(kind, "0.wav")]
    assert kind in KINDS


@pytest.mark.parametrize(
    "song",
    [
        {"caption": f"{GOOD} at 120 BPM", "bpm": 60},
        {"caption": f"{GOOD} in C# major", "keyscale": "Db Major"},
        {"caption": GOOD, "lyrics": "[Verse]\nBonjour, \u00e7a va ?", "language": "fr"},
        {"caption": GOOD, "lyrics": "[Verse]\n\u541b\u304c\u597d\u304d baby", "language": "ja"},
        {"caption": GOOD, "lyrics": "[Verse]\n\u0110ura\u0111 \u0458\u0435 \u043e\u0432\u0434\u0435", "language": "sr"},
        {"caption": GOOD, "lyrics": "[Verse]\nla la", "language": "unknown"},
    ],
)
def test_valid_captions_that_look_suspicious_give_no_finding(song):
    assert found(song) == []


def test_similar_captions_are_reported_once_each():
    similar = GOOD.replace("warm", "soft").upper()
    other = "A slow piano piece with brushed drums."
    assert found({"caption": GOOD}, {"caption": other}, {"caption": similar}, {"caption": GOOD}) == [
        ("duplicate", "2.wav"),
        ("duplicate", "3.wav"),
    ]


def test_the_report_counts_kinds_and_lists_songs():
    samples = [Sample(filename="a.wav"), Sample(filename="b.wav", caption="hm"), Sample(filename="c.wav", caption=GOOD)]
    text = format_report(check_captions(Dataset(samples=samples)), 3)
    assert text.startswith("2 of 3 songs have problems:\n  1 x no caption\n  1 x caption too short")
    assert "a.wav: has no caption" in text
