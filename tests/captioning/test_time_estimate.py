"""The remaining time of a captioning job."""

from __future__ import annotations

import time

import pytest

from acestep.captioning.configs import CaptionJob
from acestep.captioning.labeling_plan import make_plan
from acestep.captioning.time_estimate import TimeEstimate, list_steps
from acestep.core.events import Progressed, Started
from acestep.ui.watch import JobView


@pytest.fixture
def remaining(songs):
    def steps(**settings):
        config = CaptionJob(audio_dir=songs, **settings)
        return list_steps(make_plan(config), config)

    return steps


def test_the_steps_include_both_passes(remaining):
    steps = remaining(captioner="local", transcriber="whisper")
    assert [step.worker for step in steps] == ["local"] * 3 + ["whisper"] * 3
    assert [step.worker for step in remaining(captioner="none", transcriber="local")] == ["measure"] * 3 + ["local"] * 3
    assert [step.worker for step in remaining(captioner="gemini", transcriber="gemini")] == ["gemini"] * 3


def test_fast_measurements_do_not_shorten_the_estimate_for_lyrics(remaining):
    """Scaling by the speed of the first pass would underestimate the second pass."""
    estimate = TimeEstimate(remaining(captioner="none", transcriber="local"))
    lyrics_s = sum(step.expected_s for step in estimate.remaining if step.worker == "local")
    for step in estimate.remaining[:3]:
        estimate.finish(step, 2 * step.expected_s)
    assert estimate.remaining_s == pytest.approx(lyrics_s)
    assert lyrics_s > 15


def test_the_measured_speed_of_a_backend_applies_to_both_passes(remaining):
    estimate = TimeEstimate(remaining(captioner="local", transcriber="local", measure=False))
    expected = estimate.remaining_s
    for step in estimate.remaining[:3]:
        estimate.finish(step, 5 * step.expected_s)
    assert estimate.remaining_s == pytest.approx(2.5 * expected)
    for step in list(estimate.remaining):
        estimate.finish(step, 1.0)
    assert estimate.remaining_s == 0


def test_the_reported_remaining_time_overrides_the_recent_speed():
    view, now = JobView(), time.time()
    view.add(Started(job="caption", total=6, unit="captions and lyrics", time_s=now))
    view.add(Progressed(done=1, total=6, time_s=now + 1))
    view.add(Progressed(done=2, total=6, time_s=now + 2))
    assert view.seconds_left == pytest.approx(4)
    view.add(Progressed(done=3, total=6, seconds_left=90.0, time_s=now + 3))
    assert view.seconds_left == 90
    view.add(Started(job="caption", total=6, unit="songs", time_s=now + 9))
    assert view.seconds_left is None
