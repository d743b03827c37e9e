"""Remaining time of a captioning job: typical times before it starts, scaled by measured times while it runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS, Backend
from acestep.captioning.configs import NONE, CaptionJob
from acestep.captioning.labeling_plan import LabelingPlan, SongPlan

MEASURE = "measure"

_MEASURE_S = 1.0  # analysis of a three-minute song
_ASSUMED_S = 15.0  # for a backend without a typical time, until its first song is finished
_REFERENCE_DURATION_S = 180.0
_MIN_SHARE = 0.2  # of the reference time, for the overhead of very short songs


@dataclass(frozen=True, slots=True)
class LabelingStep:
    """One song in one pass.

    Attributes:
        worker: name of the backend, or ``measure``.
        expected_s: expected time in seconds.
    """

    worker: str
    expected_s: float


def describe_step(song: SongPlan, config: CaptionJob) -> LabelingStep:
    """A song in the first pass."""
    share = _share_of_reference(song)
    if not song.describe:
        return LabelingStep(MEASURE, share * _MEASURE_S)
    seconds = _seconds_per_song(CAPTIONERS[config.captioner]) + (_MEASURE_S if song.measure else 0.0)
    return LabelingStep(config.captioner, share * seconds)


def transcribe_step(song: SongPlan, config: CaptionJob) -> LabelingStep:
    """A song in the second pass."""
    seconds = _seconds_per_song(TRANSCRIBERS[config.transcriber])
    return LabelingStep(config.transcriber, _share_of_reference(song) * seconds)


def list_steps(plan: LabelingPlan, config: CaptionJob) -> list[LabelingStep]:
    """All steps of a job."""
    first = [describe_step(song, config) for song in plan.to_describe]
    return first + [transcribe_step(song, config) for song in plan.to_transcribe]


def backends_without_typical_time(config: CaptionJob) -> list[Backend]:
    """The selected backends without a typical time. ``list_steps`` assumes a default for them."""
    chosen = [] if config.captioner == NONE else [CAPTIONERS[config.captioner]]
    chosen += [] if config.transcriber in (NONE, config.captioner) else [TRANSCRIBERS[config.transcriber]]
    return [backend for backend in chosen if backend.seconds_per_song is None]


def _seconds_per_song(backend: Backend) -> float:
    return _ASSUMED_S if backend.seconds_per_song is None else backend.seconds_per_song


def _share_of_reference(song: SongPlan) -> float:
    return max(_MIN_SHARE, song.sample.duration / _REFERENCE_DURATION_S)


@dataclass
class TimeEstimate:
    """Estimates the remaining time from expected and measured times, separately for each worker."""

    remaining: list[LabelingStep]
    _expected_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _measured_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def finish(self, step: LabelingStep, elapsed_s: float) -> None:
        """Record that a step finished after ``elapsed_s`` seconds."""
        self.remaining.remove(step)
        self._expected_s[step.worker] += step.expected_s
        self._measured_s[step.worker] += elapsed_s

    @property
    def remaining_s(self) -> float:
        """Expected time of the remaining steps, scaled by the measured time of finished steps of the same worker."""
        return sum(step.expected_s * self._ratio(step.worker) for step in self.remaining)

    def _ratio(self, worker: str) -> float:
        expected_s = self._expected_s[worker]
        return self._measured_s[worker] / expected_s if expected_s else 1.0
