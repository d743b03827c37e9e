"""The state of a job, computed from the events in its run folder, wherever the job runs."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from acestep.core.errors import StorageError
from acestep.core.events import (
    FINAL_EVENTS,
    EpochLogged,
    Event,
    Failed,
    ItemFailed,
    LogMessage,
    Paused,
    PhaseStarted,
    Progressed,
    Resumed,
    Saved,
    Started,
    StepLogged,
    Waiting,
    describe_position,
)
from acestep.core.job_folder import JobFolder
from acestep.core.job_runner import JobRunner
from acestep.core.untrusted import is_folder

State = Literal["idle", "running", "paused", "stopping", "done", "stopped", "failed", "interrupted"]
ACTIVE: tuple[State, ...] = ("running", "paused", "stopping")

_LOG_LINES = 400
_SPEED_WINDOW = 60  # progress events that the speed is averaged over
_MAX_STEP_S = 86_400  # a longer time between two of them is a change of the clock


@dataclass(slots=True)
class JobView:
    """What the pages show of a job. Built by adding its events in order."""

    lines: list[str] = field(default_factory=list)
    phase: str = ""  # what the job is doing
    position: str = ""  # of a run: "epoch 3 of 40 (step 120/1600)"
    phase_began_s: float = 0.0
    phase_progress: Progressed | None = None  # the latest progress within the phase
    waiting: bool = False  # for a device that another job uses
    warnings: list[str] = field(default_factory=list)
    skipped: list[ItemFailed] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    steps: list[StepLogged] = field(default_factory=list)
    epochs: list[EpochLogged] = field(default_factory=list)
    unit: str = ""
    total: int = 0
    done: int = 0
    began_s: float = 0.0
    last: Event | None = None  # the final event; None while the job runs
    reported_seconds_left: float | None = None
    _marks: list[tuple[float, int]] = field(default_factory=list)  # (time, done) since the job started or resumed
    _has_phases: bool = False  # whether the log contains PhaseStarted; logs of earlier versions do not

    def add(self, event: Event) -> None:
        """Update the view with the next event."""
        if self.last is not None:  # the job has ended and is now run again or resumed
            self._set_phase("")
            self.position = ""
            self.total, self.skipped, self.warnings, self._marks = 0, [], [], []
            self._has_phases = False
        self.last = event if isinstance(event, FINAL_EVENTS) else None
        if not isinstance(event, Progressed | Saved):
            self.lines = [
                *self.lines[-_LOG_LINES:],
                f"{time.strftime('%H:%M:%S', time.localtime(event.time_s))}  {event}",
            ]
        if isinstance(event, Started):
            self._begin(event)
        elif isinstance(event, LogMessage):
            self._log(event)
        elif isinstance(event, PhaseStarted):
            self._has_phases = True
            self._set_phase(event.phase, event.time_s)
        elif isinstance(event, Waiting):
            self.phase, self.waiting = event.message, True
        elif isinstance(event, Paused | Resumed):
            self._set_phase(str(event))
            self._marks = []  # the pause does not count for the speed
        elif isinstance(event, Progressed) and event.phase:
            self.phase, self.phase_progress = event.phase, event
        elif isinstance(event, Progressed):
            self._progress(event.done, event.total, event)
            self._set_phase(event.note)
        elif isinstance(event, ItemFailed):
            self.skipped = [*(item for item in self.skipped if item.item != event.item), event]
        elif isinstance(event, StepLogged):
            self._step(event)
        elif isinstance(event, EpochLogged):
            self.epochs = [*(e for e in self.epochs if e.epoch < event.epoch), event]
            self.position = describe_position(event.epoch, event.epochs, event.step, self.total)
            self._set_phase("")
            self._progress(event.step, self.total, event)
        elif isinstance(event, Saved):
            self.saved.append(event)
            if event.role in ("checkpoint", "best", "sample"):
                self._set_phase("")

    @property
    def units_per_second(self) -> float | None:
        """The recent speed; None if there is too little progress to compute it."""
        if len(self._marks) < 2:
            return None
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_s - first_s) if last > first and last_s > first_s else None

    @property
    def seconds_left(self) -> float | None:
        """The estimate of the job itself, or one from the recent speed; None if neither is available."""
        if self.reported_seconds_left is not None:
            return self.reported_seconds_left
        speed = self.units_per_second
        return (self.total - self.done) / speed if speed and self.total else None

    def _begin(self, event: Started) -> None:
        self.unit, self.total, self.began_s, self._marks = event.unit, event.total, event.time_s, []
        self.reported_seconds_left = None
        self.done = 0 if event.unit != "steps" else self.done
        self._set_phase("")

    def _set_phase(self, phase: str, began_s: float = 0.0) -> None:
        self.phase, self.waiting = phase, False
        self.phase_began_s, self.phase_progress = began_s, None

    def _log(self, event: LogMessage) -> None:
        if event.warning:
            self.warnings.append(event.message)
        elif self.waiting or not self._has_phases:  # earlier versions wrote phases as messages
            self._set_phase(event.message)

    def _step(self, event: StepLogged) -> None:
        while self.steps and self.steps[-1].step >= event.step:  # resumed from an earlier checkpoint
            self.steps.pop()
        self.steps.append(event)
        self.position = event.position
        self._set_phase("")
        self._progress(event.step, self.total, event)

    def _progress(self, done: int, total: int, event: Event) -> None:
        if self._marks and not (done >= self._marks[-1][1] and 0 <= event.time_s - self._marks[-1][0] <= _MAX_STEP_S):
            self._marks = []  # resumed from an earlier checkpoint, or the clock of the computer was changed
        self.done, self.total = done, total
        self.reported_seconds_left = event.seconds_left if isinstance(event, Progressed) else None
        self._marks = [*self._marks[-_SPEED_WINDOW:], (event.time_s, done)]


class Watch:
    """Reads the events of one job folder at a time. Thread-safe."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner, self._lock = runner, threading.Lock()
        self._folder: Path | None = None
        self._view, self._offset, self._generation = JobView(), 0, 0

    @property
    def folder(self) -> Path | None:
        return self._folder

    def follow(self, folder: Path | None) -> None:
        """Switch to another job folder."""
        with self._lock:
            self._folder, self._view, self._offset = folder, JobView(), 0
            self._generation += 1

    def read(self) -> tuple[State, JobView]:
        """The current state of the job."""
        with self._lock:
            if self._folder is None:
                return "idle", self._view
            if not is_folder(self._folder):
                return self._without_folder(self._folder), self._view
            active = self._is_active(self._folder)  # before the events: a job that has ended has written all of them
            if self._is_local:
                events, self._offset = self._runner.poll(self._offset)
            else:
                events, self._offset = JobFolder(self._folder).events.read(self._offset)
            for event in events:
                self._view.add(event)
            return JobFolder(self._folder).state_after(self._view.last, active=active), self._view

    def _without_folder(self, folder: Path) -> State:
        """The state of a job whose folder is gone: failed if it ran in this program."""
        if not self._is_local:
            return "idle"
        if self._runner.busy:
            return "running"
        if not isinstance(self._view.last, FINAL_EVENTS):
            missing = Failed(error=StorageError.code, message=f"the folder {folder} no longer exists")
            self._view.add(self._runner.last or missing)
        return "failed" if isinstance(self._view.last, Failed) else "idle"

    def version(self) -> tuple[object, ...]:
        """A value that changes with the state, and every few seconds within a phase to update the elapsed time."""
        state, view = self.read()
        clock = int(time.time() / 2) if state == "running" and (view.phase_began_s or not view.steps) else 0
        return self._generation, self._offset, state, clock

    @property
    def active(self) -> bool:
        """Whether the job is running, in this program or in another one."""
        return self.read()[0] in ACTIVE

    @property
    def _is_local(self) -> bool:
        """Whether this program started the job."""
        return self._runner.folder == self._folder

    def _is_active(self, folder: Path) -> bool:
        if self._is_local:
            return self._runner.busy
        return self._view.last is None and JobFolder(folder).locked
