"""What is known of a job, read from its run folder: the same for every page, whoever does the job."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from acestep.core.events import (
    FINAL_EVENTS,
    EpochLogged,
    Event,
    ItemFailed,
    LogMessage,
    Paused,
    Progressed,
    Resumed,
    Saved,
    Started,
    StepLogged,
    Waiting,
)
from acestep.core.job_folder import JobFolder
from acestep.core.job_runner import JobRunner

State = Literal["idle", "running", "paused", "stopping", "done", "stopped", "failed", "interrupted"]
ACTIVE: tuple[State, ...] = ("running", "paused", "stopping")

_LOG_LINES = 400
_RATE_OVER = 60  # reports of progress that the speed is taken from


@dataclass(slots=True)
class Account:
    """Everything the events of a run folder say. It grows with them and is never written back."""

    lines: list[str] = field(default_factory=list)
    phase: str = ""  # what the job does now
    waiting: bool = False  # for a device that another job uses
    warnings: list[str] = field(default_factory=list)
    left_out: list[ItemFailed] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    steps: list[StepLogged] = field(default_factory=list)
    epochs: list[EpochLogged] = field(default_factory=list)
    unit: str = ""
    total: int = 0
    done: int = 0
    began_s: float = 0.0
    last: Event | None = None
    told_left_s: float | None = None
    _marks: list[tuple[float, int]] = field(default_factory=list)  # (time, done) since the job began or went on

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        if self.last is not None:  # the job was ended, and is now done again or gone on with
            self._set_phase("")
            self.total, self.left_out, self.warnings, self._marks = 0, [], [], []
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
        elif isinstance(event, Waiting):
            self.phase, self.waiting = event.message, True
        elif isinstance(event, Paused | Resumed):
            self._set_phase(str(event))
            self._marks = []  # the pause does not count for the speed
        elif isinstance(event, Progressed):
            self._progress(event.done, event.total, event)
            self._set_phase(event.note)
        elif isinstance(event, ItemFailed):
            self.left_out = [*(item for item in self.left_out if item.item != event.item), event]
        elif isinstance(event, StepLogged):
            self._step(event)
        elif isinstance(event, EpochLogged):
            self.epochs = [*(e for e in self.epochs if e.epoch < event.epoch), event]
            self._progress(event.step, self.total, event)
        elif isinstance(event, Saved):
            self.saved.append(event)

    @property
    def per_second(self) -> float | None:
        """Units of work in a second, of late; None while there is nothing to tell it by."""
        if len(self._marks) < 2:
            return None
        (first_s, first), (last_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (last_s - first_s) if last > first and last_s > first_s else None

    @property
    def seconds_left(self) -> float | None:
        """As the job tells it, or from the speed of late; None without either."""
        if self.told_left_s is not None:
            return self.told_left_s
        speed = self.per_second
        return (self.total - self.done) / speed if speed and self.total else None

    def _begin(self, event: Started) -> None:
        self.unit, self.total, self.began_s, self._marks = event.unit, event.total, event.time_s, []
        self.told_left_s = None
        self.done = 0 if event.unit != "steps" else self.done
        self._set_phase("")

    def _set_phase(self, phase: str) -> None:
        self.phase, self.waiting = phase, False

    def _log(self, event: LogMessage) -> None:
        if event.warning:
            self.warnings.append(event.message)
        else:
            self._set_phase(event.message)

    def _step(self, event: StepLogged) -> None:
        while self.steps and self.steps[-1].step >= event.step:  # gone back to an earlier checkpoint
            self.steps.pop()
        self.steps.append(event)
        self._set_phase("")
        self._progress(event.step, self.total, event)

    def _progress(self, done: int, total: int, event: Event) -> None:
        if self._marks and done < self._marks[-1][1]:
            self._marks = []
        self.done, self.total = done, total
        self.told_left_s = event.seconds_left if isinstance(event, Progressed) else None
        self._marks = [*self._marks[-_RATE_OVER:], (event.time_s, done)]


class Watch:
    """Follows the job of one folder at a time. Safe to use from several threads."""

    def __init__(self, runner: JobRunner) -> None:
        self._runner, self._lock = runner, threading.Lock()
        self._folder: Path | None = None
        self._account, self._offset, self._round = Account(), 0, 0

    @property
    def folder(self) -> Path | None:
        return self._folder

    def follow(self, folder: Path | None) -> None:
        """From now on look at this folder."""
        with self._lock:
            self._folder, self._account, self._offset = folder, Account(), 0
            self._round += 1

    def look(self) -> tuple[State, Account]:
        """How the job stands now."""
        with self._lock:
            if self._folder is None or not self._folder.is_dir():
                return "idle", self._account
            at_work = self._at_work(self._folder)  # asked first: what ends in between has written all its events
            if self._ours:
                events, self._offset = self._runner.poll(self._offset)
            else:
                events, self._offset = JobFolder(self._folder).events.read(self._offset)
            for event in events:
                self._account.add(event)
            return self._state(self._folder, at_work), self._account

    def version(self) -> tuple[object, ...]:
        """Changes whenever there is something new to see."""
        state, account = self.look()
        clock = int(time.time() / 5) if state == "running" and not account.steps else 0
        return self._round, self._offset, state, clock

    @property
    def active(self) -> bool:
        """Whether the job is at work, here or in another program."""
        return self.look()[0] in ACTIVE

    @property
    def _ours(self) -> bool:
        return self._runner.folder == self._folder

    def _state(self, folder: Path, at_work: bool) -> State:
        return JobFolder(folder).state_after(self._account.last, active=at_work)

    def _at_work(self, folder: Path) -> bool:
        if self._ours:
            return self._runner.busy
        return self._account.last is None and JobFolder(folder).locked
