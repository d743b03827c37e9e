"""Tempo, key and meter: choice between measurement and model."""

from __future__ import annotations

from acestep.audio.analysis import Analysis
from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.measure import answered_as_json, measured_as_json, weigh
from acestep.captioning.schema import Description
from acestep.core.config import choices, fields

CONFIDENT = measured_as_json(Analysis(180, 120.4, 0.8, (60.2,), "A Minor", 0.5, "4", 0.9))
UNCERTAIN = measured_as_json(Analysis(180, 120.4, 0.03, (60.2,), "A Minor", 0.02, "3", 0.05))
ANSWERED = answered_as_json(Description("words", "pop", "C Major", "3", 100), "model")


def test_the_preferred_source_is_used_and_differences_are_reported():
    verdict = weigh(CONFIDENT, ANSWERED, prefer="measured")
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
    assert weigh(CONFIDENT, ANSWERED, prefer="model").labels["keyscale"] == ("C Major", "model")


def test_an_uncertain_measurement_is_replaced_without_a_disagreement():
    verdict = weigh(UNCERTAIN, ANSWERED, prefer="measured")
    assert verdict.labels["bpm"] == (100, "model")
    assert verdict.disagreements == []


def test_a_single_source_is_used():
    assert weigh(CONFIDENT, {}, prefer="model").labels["bpm"] == (120, "measured")
    assert weigh({}, ANSWERED, prefer="measured").labels["timesignature"] == ("3", "model")
    assert weigh({}, {}, prefer="measured").labels == {}


def test_enharmonic_keys_are_equal():
    sharp = {**CONFIDENT, "keyscale": "C# Minor"}
    assert weigh(sharp, {"by": "model", "keyscale": "Db Minor"}, prefer="measured").disagreements == []


def test_every_backend_can_be_selected_and_has_a_label_and_help():
    for registry, name in ((CAPTIONERS, "captioner"), (TRANSCRIBERS, "transcriber")):
        chosen = set(choices(fields(CaptionJob)[name]))
        assert chosen == {*registry.names, "none"}
        assert all(entry.label and entry.help for entry in registry)
