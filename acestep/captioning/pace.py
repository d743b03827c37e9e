"""How long the songs of a job will take: by experience before it begins, by its own clock once it goes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from acestep.captioning.configs import CaptionJob
from acestep.captioning.plan import Plan, Task

MEASURE = "measure"

# Seconds for a song of three minutes. The local models by the speed of a 24 GB graphics card; roughly, all of them.
_SECONDS = {"local": 30.0, "whisper": 15.0, "elevenlabs": 15.0, "gemini": 15.0, MEASURE: 1.0}
_USUAL_S = 180.0
_LEAST = 0.2  # of that time: even a very short song takes some


@dataclass(frozen=True, slots=True)
class Step:
    """What one song takes in one pass: who works, and for how long as far as one can say beforehand."""

    worker: str
    expected_s: float


def describing(task: Task, config: CaptionJob) -> Step:
    """A song in the first pass."""
    worker = config.captioner if task.describe else MEASURE
    extra = _SECONDS[MEASURE] if task.describe and task.measure else 0.0
    return Step(worker, _length(task) * (_SECONDS[worker] + extra))


def transcribing(task: Task, config: CaptionJob) -> Step:
    """A song in the second pass."""
    return Step(config.transcriber, _length(task) * _SECONDS[config.transcriber])


def steps_of(plan: Plan, config: CaptionJob) -> list[Step]:
    """Everything that is ahead."""
    first = [describing(task, config) for task in plan.first]
    return first + [transcribing(task, config) for task in plan.second]


def _length(task: Task) -> float:
    return max(_LEAST, task.sample.duration / _USUAL_S)


@dataclass
class Pace:
    """Compares what was expected with what it took, for each kind of work by itself."""

    ahead: list[Step]
    _expected: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def did(self, step: Step, spent_s: float) -> None:
        """A step is done, and took so long."""
        self.ahead.remove(step)
        self._expected[step.worker] += step.expected_s
        self._spent[step.worker] += spent_s

    @property
    def left_s(self) -> float:
        """How long the rest will take. Work of which nothing was done yet is taken as expected."""
        return sum(step.expected_s * self._ratio(step.worker) for step in self.ahead)

    def _ratio(self, worker: str) -> float:
        expected = self._expected[worker]
        return self._spent[worker] / expected if expected else 1.0
