"""The folder of a job: this module is the only one that knows the names of its files.

job.json       the job's name and its configuration
events.jsonl   what the job reports (core.event_log)
cancel         exists once the user asked the job to stop
pause          exists while the user wants the job to wait
share          exists once the user wants the job to run although another one uses its device
lock           held by the one program that works in this folder
log.txt        the job's log
output.txt     what a separate process of the job wrote to stdout and stderr
workers/       the folders of the processes that do the job together, if there are several (core.workers)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from acestep.core.errors import JobBusy, JobError
from acestep.core.event_log import EventLog
from acestep.core.events import FINAL_EVENTS, Cancelled, Event, Failed, Finished
from acestep.core.files import read_versioned, write_versioned

State = Literal["running", "paused", "stopping", "done", "stopped", "failed", "interrupted"]
ACTIVE_STATES: tuple[State, ...] = ("running", "paused", "stopping")
Request = Literal["stop", "pause", "sharing"]
WORKERS = "workers"

_JOB, _EVENTS, _LOG, _OUTPUT, _LOCK = "job.json", "events.jsonl", "log.txt", "output.txt", "lock"
_STOP, _PAUSE, _SHARE = "cancel", "pause", "share"
NAMES = frozenset({_JOB, _EVENTS, _LOG, _OUTPUT, _LOCK, _STOP, _PAUSE, _SHARE, WORKERS})


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Reads and writes the files of the job in ``path``."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether a job was written here."""
        return (self.path / _JOB).is_file()

    @property
    def events(self) -> EventLog:
        return EventLog(self.path / _EVENTS)

    @property
    def log_path(self) -> Path:
        return self.path / _LOG

    @property
    def output_path(self) -> Path:
        return self.path / _OUTPUT

    @property
    def share_path(self) -> Path:
        return self.path / _SHARE

    def worker(self, number: int) -> JobFolder:
        """The folder of one of the processes that do this job together."""
        return JobFolder(self.path / WORKERS / str(number))

    def write_job(self, job: str, config: dict[str, Any]) -> None:
        """Describe the job. Raises StorageError."""
        write_versioned(self.path / _JOB, "job", 1, {"job": job, "config": config})

    def read_job(self) -> tuple[str, dict[str, Any]]:
        """The name and the unchecked configuration of the job. Raises JobError if there is none."""
        data = read_versioned(self.path / _JOB, "job", 1, error=JobError)
        config = data.get("config", {})
        return str(data.get("job")), config if isinstance(config, dict) else {}

    def request_stop(self) -> None:
        """Ask the job to stop after its present unit of work; it saves first."""
        (self.path / _STOP).touch()

    def request_pause(self) -> None:
        """Ask the job to wait before its next unit of work. A stop ends a pause."""
        (self.path / _PAUSE).touch()

    def request_resume(self) -> None:
        """End a pause."""
        (self.path / _PAUSE).unlink(missing_ok=True)

    def request_sharing(self) -> None:
        """Let the job, which waits for a device, run at the same time as the job that uses it."""
        self.share_path.touch()

    def clear_sharing(self) -> None:
        self.share_path.unlink(missing_ok=True)

    def clear_requests(self) -> None:
        """Drop the requests to stop or pause that were made for an earlier job here."""
        (self.path / _STOP).unlink(missing_ok=True)
        self.request_resume()

    @property
    def stop_requested(self) -> bool:
        return (self.path / _STOP).exists()

    @property
    def pause_requested(self) -> bool:
        return (self.path / _PAUSE).exists()

    @property
    def sharing_requested(self) -> bool:
        return self.share_path.exists()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other programs from working in this folder while the block runs. Raises JobBusy."""
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise JobBusy(
                f"another program is at work in {self.path}", hint="Wait until it is done, or stop it."
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def locked(self) -> bool:
        """Whether a program works in this folder now."""
        if not (self.path / _LOCK).exists():
            return False
        try:
            with FileLock(self.path / _LOCK).acquire(timeout=0):
                return False
        except Timeout:
            return True

    @property
    def state(self) -> State:
        """The state of the job, from its events and its lock."""
        events, _ = self.events.read()
        last = events[-1] if events else None
        return self.state_after(last, active=not isinstance(last, FINAL_EVENTS) and self.locked)

    def state_after(self, last: Event | None, *, active: bool) -> State:
        """The state of a job whose newest event is ``last``; ``active`` if its process still runs."""
        if active:
            if self.stop_requested:
                return "stopping"
            return "paused" if self.pause_requested else "running"
        if isinstance(last, Finished):
            return "done"
        if isinstance(last, Cancelled):
            return "stopped"
        return "failed" if isinstance(last, Failed) else "interrupted"


def job_folders(root: Path) -> list[Path]:
    """Every job folder at or below ``root``, without those of workers."""
    found = root.rglob(_JOB) if root.is_dir() else []
    return sorted({file.parent for file in found if file.parts[-3] != WORKERS})
