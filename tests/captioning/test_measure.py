"""Measurement and model kept apart, and which of them counts."""

from __future__ import annotations

from acestep.audio.analysis import Analysis
from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.measure import answered_as_json, measured_as_json, weigh
from acestep.captioning.schema import Description
from acestep.core.config import choices, fields

SURE = measured_as_json(Analysis(180, 120.4, 0.8, (60.2,), "A Minor", 0.5, "4", 0.9))
DOUBTFUL = measured_as_json(Analysis(180, 120.4, 0.03, (60.2,), "A Minor", 0.02, "3", 0.05))
SAID = answered_as_json(Description("words", "pop", "C Major", "3", 100), "model")


def test_the_preferred_side_counts_and_the_difference_is_told():
    verdict = weigh(SURE, SAID, prefer="measured")
    assert verdict.labels == {
        "bpm": (120, "measured"),
        "keyscale": ("A Minor", "measured"),
        "timesignature": ("4", "measured"),
    }
    assert verdict.disagreements == [
        "tempo: measured 120, model says 100",
        "key: measured A Minor, model says C Major",
        "beats: measured 4, model says 3",
    ]
    assert weigh(SURE, SAID, prefer="model").labels["keyscale"] == ("C Major", "model")


def test_a_measurement_that_is_a_guess_gives_way_and_is_no_disagreement():
    verdict = weigh(DOUBTFUL, SAID, prefer="measured")
    assert verdict.labels["bpm"] == (100, "model")
    assert verdict.disagreements == []


def test_one_side_alone_and_none():
    assert weigh(SURE, {}, prefer="model").labels["bpm"] == (120, "measured")
    assert weigh({}, SAID, prefer="measured").labels["timesignature"] == ("3", "model")
    assert weigh({}, {}, prefer="measured").labels == {}


def test_two_spellings_of_one_key_agree():
    sharp = {**SURE, "keyscale": "C# Minor"}
    assert weigh(sharp, {"by": "model", "keyscale": "Db Minor"}, prefer="measured").disagreements == []


def test_every_back_end_can_be_chosen_and_says_what_it_needs():
    for registry, name in ((CAPTIONERS, "captioner"), (TRANSCRIBERS, "transcriber")):
        chosen = set(choices(fields(CaptionJob)[name]))
        assert chosen == {*registry.names, "none"}
        assert all(entry.label and entry.help for entry in registry)
