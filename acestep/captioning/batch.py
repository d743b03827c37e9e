"""The state of a captioning job, and what it tells before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.pace import Pace, Step
from acestep.captioning.plan import Plan, cost_notes, place
from acestep.core.events import ItemFailed, LogMessage, Progressed
from acestep.core.jobs import Context


@dataclass
class Batch:
    """The state of a job: what it was told, how far it is, what went wrong."""

    config: CaptionJob
    context: Context
    total: int
    pace: Pace
    done: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"described": 0, "measured": 0, "transcribed": 0})
    failed: dict[str, str] = field(default_factory=dict)
    disagreements: dict[str, list[str]] = field(default_factory=dict)

    def fail(self, name: str, message: str, hint: str) -> None:
        self.failed[name] = message
        self.context.emit(ItemFailed(item=name, message=message, hint=hint))

    def did(self, step: Step, spent_s: float, note: str) -> None:
        self.done += 1
        self.pace.did(step, spent_s)
        left_s = self.pace.left_s
        self.context.emit(Progressed(done=self.done, total=self.total, note=note, seconds_left=left_s))


def unit_of(plan: Plan) -> str:
    """What is counted: each song once for each pass that it takes part in."""
    if not (plan.first and plan.second):
        return "songs"
    return "captions and lyrics" if any(task.describe for task in plan.first) else "measurements and lyrics"


def tell(batch: Batch, plan: Plan) -> None:
    """What is left out, what is left as it is, what it will cost."""
    for problem in plan.problems:
        if problem.path.suffix.lower() in AUDIO_EXTENSIONS:
            batch.fail(place(problem.path, plan.root), problem.message, problem.hint)
        else:
            batch.context.emit(LogMessage(message=f"{place(problem.path, plan.root)} {problem.message}", warning=True))
    finished = sum(not task.open for task in plan.tasks)
    if finished:
        batch.context.emit(LogMessage(message=f"{finished} songs have all that is asked for and are left as they are"))
    for note in cost_notes(plan, batch.config):
        batch.context.emit(LogMessage(message=note))
