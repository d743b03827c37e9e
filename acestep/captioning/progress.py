"""Progress and results of a captioning job, and the messages at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.costs import cost_notes
from acestep.captioning.labeling_plan import LabelingPlan, song_name
from acestep.captioning.time_estimate import LabelingStep, TimeEstimate
from acestep.core.events import ItemFailed, LogMessage, Progressed
from acestep.core.jobs import Context


@dataclass
class CaptionProgress:
    """The state of a running job."""

    config: CaptionJob
    context: Context
    total: int
    time_estimate: TimeEstimate
    done: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"described": 0, "measured": 0, "transcribed": 0})
    failed: dict[str, str] = field(default_factory=dict)
    disagreements: dict[str, list[str]] = field(default_factory=dict)

    def fail(self, name: str, message: str, hint: str) -> None:
        """Record and report that a song failed."""
        self.failed[name] = message
        self.context.emit(ItemFailed(item=name, message=message, hint=hint))

    def finish(self, step: LabelingStep, elapsed_s: float, note: str) -> None:
        """Record and report that a step finished."""
        self.done += 1
        self.time_estimate.finish(step, elapsed_s)
        remaining_s = self.time_estimate.remaining_s
        self.context.emit(Progressed(done=self.done, total=self.total, note=note, seconds_left=remaining_s))


@dataclass(frozen=True, slots=True)
class LabeledShare:
    """The results of one process of a launcher, as in ``CaptionProgress``."""

    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    disagreements: dict[str, list[str]] = field(default_factory=dict)


def progress_unit(plan: LabelingPlan) -> str:
    """Unit of the progress, which counts each song once per pass."""
    if not (plan.to_describe and plan.to_transcribe):
        return "songs"
    return "captions and lyrics" if any(song.describe for song in plan.to_describe) else "measurements and lyrics"


def report_plan(progress: CaptionProgress, plan: LabelingPlan) -> None:
    """Report skipped files, finished songs and expected costs."""
    for problem in plan.problems:
        name = song_name(problem.path, plan.root)
        if problem.path.suffix.lower() in AUDIO_EXTENSIONS:
            progress.fail(name, problem.message, problem.hint)
        else:
            progress.context.emit(LogMessage(message=f"{name} {problem.message}", warning=True))
    finished = sum(not song.is_open for song in plan.songs)
    if finished:
        progress.context.emit(LogMessage(message=f"Skipping {finished} songs that have all requested labels"))
    for note in cost_notes(plan, progress.config):
        progress.context.emit(LogMessage(message=note))
